use std::process::ExitCode;

fn main() -> ExitCode {
    give_large_blocks_back();
    match ossvault::cli::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if !error.is_silent() {
                eprintln!("ossvault: {error}");
            }
            ExitCode::from(error.code().number())
        }
    }
}

/// Makes the C library's allocator return every large block to the system when it is freed. By default it
/// raises the threshold to the size of the block that was freed last, and keeps blocks in its arenas:
/// transferring 1 GiB in and out with --memory-limit 128M had a maximum of 215 MiB resident, and 131 MiB this
/// way, in the same time. The buffers that connections read into, up to 400 KiB, are kept: mapping them again
/// for every piece would cost one page fault per 4 KiB read.
#[allow(unsafe_code, reason = "mallopt")]
fn give_large_blocks_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        const LARGE: libc::c_int = 768 << 10;
        // SAFETY: called before there is a second thread; the parameter is one that mallopt(3) knows.
        unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE) };
    }
}
