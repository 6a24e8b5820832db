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

/// A disk that takes longer for a MiB, in nanoseconds, is better written by the kernel in its own time.
const SLOW: u64 = 4_000_000;

/// The pace after a write that took so long for a MiB.
fn after_write(pace: u64, took: u64) -> u64 {
    (pace * 15 + took) / 16
}

/// The pace of a slow disk after a write that was left to the kernel: what made it slow may be over, so that after some
/// hundreds it is tried again.
fn after_rest(pace: u64) -> u64 {
    pace - pace / 1024
}

impl Direct {
    /// Less than this many bytes are not worth a disk's while.
    const LEAST: usize = 128 << 10;

    /// None where the file system cannot.
    pub(super) fn open(file: &File) -> Option<Direct> {
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
    pub(super) fn write(&self, pages: &[u8], offset: u64) -> io::Result<bool> {
        if pages.len() < Direct::LEAST {
            return Ok(false);
        }
        let pace = self.pace.load(Ordering::Relaxed);
        if pace > SLOW {
            self.pace.store(after_rest(pace), Ordering::Relaxed);
            return Ok(false);
        }
        let began = Instant::now();
        match self.file.write_all_at(pages, offset) {
            Ok(()) => {
                let took = began.elapsed().as_nanos() as u64 * (1 << 20) / pages.len() as u64;
                let pace = after_write(pace, took);
                if pace > SLOW {
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
    pub(super) fn turned_out_slow(&self) {
        self.pace.store(2 * SLOW, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_was_slow_for_once_is_written_again_and_one_that_stays_slow_hardly_ever() {
        for (took, tried) in [(SLOW / 10, 900..1900), (3 * SLOW, 1..30)] {
            let (mut pace, mut writes) = (2 * SLOW, 0);
            for _ in 0..2000 {
                if pace > SLOW {
                    pace = after_rest(pace);
                } else {
                    pace = after_write(pace, took);
                    writes += 1;
                }
            }
            assert!(tried.contains(&writes), "{took} ns: {writes} of 2000");
        }
        // Other alignments than ours are wanted: asked again, it says so again.
        assert!(after_rest(u64::MAX) > SLOW);
    }
}
