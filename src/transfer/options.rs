//! What a transfer is told, before it begins and while it runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::compare::Compare;
use crate::encrypted::EncryptedBucket;
use crate::encrypted::copy::CopyLimits;
use crate::encrypted::reserved::RESERVED;

/// The size from which files are uploaded in parts, and the size of the first parts, in bytes.
pub(crate) const PART: u64 = 8 << 20;

#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub compare: Compare,
    /// Remove from the destination what the source does not have.
    pub delete: bool,
    /// Say what would be done, and change nothing.
    pub dry_run: bool,
    /// Restore links that other programs have stored.
    pub trust_links: bool,
    /// Restore set-user-ID and set-group-ID bits and device nodes.
    pub trust_modes: bool,
    pub part_size: u64,
    pub limits: CopyLimits,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            compare: Compare::Quick,
            delete: false,
            dry_run: false,
            trust_links: false,
            trust_modes: false,
            part_size: PART,
            limits: CopyLimits::default(),
        }
    }
}

/// What a transfer and whoever started it share while it runs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Control(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    moved: AtomicU64,
}

impl Control {
    /// Ends the transfer: what has begun ends well, and nothing begins.
    pub(crate) fn stop(&self) {
        self.0.stop.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.0.stop.load(Ordering::Relaxed)
    }

    pub(crate) fn add_moved(&self, bytes: u64) {
        self.0.moved.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes of content that were read or written so far, for display: what is sent again counts again.
    pub(crate) fn moved(&self) -> u64 {
        self.0.moved.load(Ordering::Relaxed)
    }
}

/// A directory of a bucket.
#[derive(Clone)]
pub(crate) struct Place {
    pub bucket: Arc<EncryptedBucket>,
    /// Empty, or ends with `/`.
    pub prefix: String,
}

impl Place {
    /// The key of what has this path below the place; of the place itself, that of its marker.
    pub(crate) fn key(&self, path: &str, is_directory: bool) -> String {
        match (path, is_directory) {
            // Where a mount of the whole bucket stores its root's attributes.
            ("", _) if self.prefix.is_empty() => format!("{RESERVED}/root"),
            ("", _) => self.prefix.clone(),
            (path, true) => format!("{}{path}/", self.prefix),
            (path, false) => format!("{}{path}", self.prefix),
        }
    }
}
