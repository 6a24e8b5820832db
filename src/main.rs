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

/// Makes the C library's allocator return every large block to the system when it is freed. Left to itself
/// it raises that threshold to the size of what was freed last, and keeps blocks and strips in its arenas:
/// 1 GiB in and out with --memory-limit 128M had 215 MiB resident at most, and has 131 MiB this way, in the
/// same time. What the connections read into, up to 400 KiB, stays: mapping it anew for every piece would
/// cost a page fault for each 4 KiB read.
#[allow(unsafe_code, reason = "mallopt")]
fn give_large_blocks_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        const LARGE: libc::c_int = 768 << 10;
        // SAFETY: called before there is a second thread; the parameter is one that mallopt(3) knows.
        unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE) };
    }
}
