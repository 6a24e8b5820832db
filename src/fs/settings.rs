//! What a mount is told about how to behave.

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::error::{Error, Result};
use crate::base::deadline;
use crate::files::attributes::{Defaults, Overrides};

#[derive(Clone, Debug)]
pub struct Settings {
    /// Empty, or ends with `/`; every key of the mount begins with it.
    pub prefix: String,
    /// How long what is known of a file counts without asking again.
    pub metadata_ttl: Duration,
    /// How long a directory is taken to exist without asking again.
    pub dir_ttl: Duration,
    /// In bytes: read-ahead, cached and staged bytes, parts in flight, listings.
    pub memory_limit: u64,
    /// Where staged bytes go that memory cannot hold, encrypted.
    pub cache_dir: PathBuf,
    /// In bytes: the most the cache directory may take.
    pub cache_limit: u64,
    pub read_only: bool,
    /// For objects that do not say: the owner and the modes.
    pub defaults: Defaults,
    /// What is shown instead of what objects say.
    pub overrides: Overrides,
    /// Follow symbolic links whose writer has not bound that they are links.
    pub trust_links: bool,
    /// Stored owners count. Otherwise everything appears to belong to the user of `defaults`, and to its group
    /// unless the stored one is another of this process's.
    pub show_owner: bool,
    /// How long a closed file under a tool's temporary name waits for its rename.
    pub rename_grace: Duration,
    /// Upload files that stay open and changed for this long.
    pub flush_after: Option<Duration>,
    /// In bytes: what the mount is said to hold at most. None: as much as anything.
    pub capacity: Option<u64>,
    /// A call ends within this of the last progress.
    pub timeout: Duration,
    /// Sources above this many bytes are copied in parts: the service's limit for one copy is 1 GB.
    pub copy_limit: u64,
    /// The size of an upload's first parts, in bytes, a multiple of 128 KiB. Also the largest single PUT.
    pub part_size: u64,
    /// A file written in order begins to be uploaded at this many bytes.
    pub stream_after: u64,
}

impl Settings {
    /// 8 MiB.
    pub const PART_SIZE: u64 = 8 << 20;
    /// Just below the documented 1 GB.
    pub const COPY_LIMIT: u64 = 1_000_000_000;

    /// 64 MiB, or a quarter of the memory when that is less.
    pub fn stream_after(memory_limit: u64) -> u64 {
        (64 << 20).min(memory_limit / 4)
    }

    /// Waits no longer than a call may take that began at `start`, however many steps it has behind it: the
    /// deadline is the caller's.
    pub(crate) async fn in_time<T>(
        &self,
        start: Instant,
        work: impl Future<Output = T>,
    ) -> Result<T> {
        let deadline = start + self.timeout;
        let done = deadline::by(deadline, work).await;
        done.map_err(|elapsed| Error::TimedOut(Arc::new(elapsed)))
    }

    /// Whether what was asked at `asked` has had most of the time that it may take. Another call for the same then waits
    /// for that answer, though it be the failure to come, instead of as long again: the kernel looks a name up a
    /// second time when it could not be told whether it stands for what it did.
    pub(crate) fn is_overdue(&self, asked: Instant, now: Instant) -> bool {
        /// As a part of the time.
        const MOST: f64 = 0.75;
        now.saturating_duration_since(asked) >= self.timeout.mul_f64(MOST)
    }
}
