//! The settings of a mount.

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
    /// How long what is known of a file counts before it is revalidated.
    pub metadata_ttl: Duration,
    /// How long a directory counts as existing before that is revalidated.
    pub dir_ttl: Duration,
    /// In bytes: read-ahead, cached and staged bytes, parts in flight, listings.
    pub memory_limit: u64,
    pub spill: Spill,
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
    /// In bytes: the size that the mount reports. None: unlimited.
    pub capacity: Option<u64>,
    /// A call ends within this of the last progress.
    pub timeout: Duration,
    pub uploads: Uploads,
}

/// Where staged bytes go that memory cannot hold, encrypted.
#[derive(Clone, Debug)]
pub struct Spill {
    pub dir: PathBuf,
    /// The most that the files there may take together, in bytes.
    pub limit: u64,
}

/// How objects are uploaded and copied. Sizes are in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Uploads {
    /// The size of an upload's first parts, a multiple of 128 KiB. Also the largest single PUT.
    pub part_size: u64,
    /// The upload of a file that is written in order begins at this size.
    pub stream_after: u64,
    /// Larger sources are copied in parts: the service's limit for one copy is 1 GB.
    pub copy_limit: u64,
}

impl Uploads {
    /// 8 MiB.
    pub const PART_SIZE: u64 = 8 << 20;
    /// Just below the documented 1 GB.
    pub const COPY_LIMIT: u64 = 1_000_000_000;

    /// The defaults with this limit of memory, in bytes: streaming begins at 64 MiB, or at a quarter of the memory
    /// if that is less.
    pub fn within(memory_limit: u64) -> Uploads {
        Uploads {
            part_size: Self::PART_SIZE,
            stream_after: (64 << 20).min(memory_limit / 4),
            copy_limit: Self::COPY_LIMIT,
        }
    }
}

impl Settings {
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

    /// Whether a request that was sent at `sent` has used up most of its time. Another call that needs the same
    /// answer then waits for this one, even if it turns out to be a failure, instead of for as long again: the kernel
    /// repeats a lookup that failed.
    pub(crate) fn is_overdue(&self, sent: Instant, now: Instant) -> bool {
        /// As a fraction of the time-out.
        const MOST: f64 = 0.75;
        now.saturating_duration_since(sent) >= self.timeout.mul_f64(MOST)
    }
}
