//! Writing past the page cache, as long as the disk is fast and the file system lets us.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// The same file as another, opened for that.
pub(super) struct Direct {
    file: File,
    /// Nanoseconds for a MiB, on average of late.
    pace: AtomicU64,
}

impl Direct {
    /// A disk that takes longer for a MiB, in nanoseconds, is better written by the kernel in its own time.
    const SLOW: u64 = 4_000_000;
    /// Less than this many bytes are not worth a disk's while.
    const LEAST: usize = 128 << 10;

    /// None where the file system cannot.
    pub fn open(file: &File) -> Option<Direct> {
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let mut options = OpenOptions::new();
        let opened = options
            .write(true)
            .custom_flags(libc::O_DIRECT)
            .open(path)
            .ok()?;
        Some(Direct {
            file: opened,
            pace: AtomicU64::new(0),
        })
    }

    /// Whether it was written: not if that is better done the other way.
    pub fn write(&self, pages: &[u8], offset: u64) -> io::Result<bool> {
        let pace = self.pace.load(Ordering::Relaxed);
        if pace > Direct::SLOW || pages.len() < Direct::LEAST {
            return Ok(false);
        }
        let began = Instant::now();
        match self.file.write_all_at(pages, offset) {
            Ok(()) => {
                let now = began.elapsed().as_nanos() as u64 * (1 << 20) / pages.len() as u64;
                let pace = (pace * 15 + now) / 16;
                if pace > Direct::SLOW {
                    log::debug!("cache directory: {pace} ns for a MiB, left to the page cache");
                }
                self.pace.store(pace, Ordering::Relaxed);
                Ok(true)
            }
            // Other alignments than ours are wanted.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                self.pace.store(u64::MAX, Ordering::Relaxed);
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    #[cfg(test)]
    pub fn turned_out_slow(&self) {
        self.pace.store(Direct::SLOW + 1, Ordering::Relaxed);
    }
}
