//! What the kernel keeps of the inodes and names that it was given, and how it is made to drop it.
//!
//! Every invalidation may wait for the kernel, which may be waiting for this mount: it is made by a thread that may
//! wait, never by one of the runtime's. Names and pages are queued for such a thread, in bounded queues: what finds
//! no room is left to expire by itself.

use std::ops::Range;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::inode::Ino;
use super::object_name::Name;
use super::tree::Namespace;
use crate::base::deadline;
use crate::base::sync::lock;

/// Names that the kernel is yet to be asked to forget: when it does not keep up, it is asked again later.
const FORGETS_WAITING: usize = 1024;

/// What the kernel is still to be told, at most, of some 100 bytes each.
const NOTICES: usize = 4096;

/// How long an inode's attributes take to expire, at most, unless the kernel is evicting the inode.
const EXPIRY: Duration = Duration::from_secs(1);

/// What the kernel must be told: its caches are wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Invalidation {
    /// Forget an inode's attributes and pages.
    Content(Ino),
    /// Forget what a name stands for.
    Name(Ino, String),
}

/// The ways to what the kernel keeps of an inode, which have an effect before they return.
pub struct KernelCaches {
    /// Waits while the kernel evicts the inode, which waits for reads of its pages, which this mount may have to
    /// answer: for a thread that may wait.
    pub expire_attributes: Arc<dyn Fn(Ino) + Send + Sync>,
    /// Waits for reads and writes of pages in that range of bytes, which may be for answers of this mount: for
    /// a thread that may wait.
    pub drop_pages: Arc<dyn Fn(Ino, Range<u64>) + Send + Sync>,
}

pub(crate) struct Kernel {
    runtime: Handle,
    /// Unset without a kernel (tests): then nothing is remembered.
    caches: OnceLock<KernelCaches>,
    notices: mpsc::Sender<Invalidation>,
    notices_out: Mutex<Option<mpsc::Receiver<Invalidation>>>,
    forgets: mpsc::Sender<(Ino, Name)>,
    forgets_out: Mutex<Option<mpsc::Receiver<(Ino, Name)>>>,
}

impl Kernel {
    pub(crate) fn new(runtime: Handle) -> Kernel {
        let (notices, notices_out) = mpsc::channel(NOTICES);
        let (forgets, forgets_out) = mpsc::channel(FORGETS_WAITING);
        Kernel {
            runtime,
            caches: OnceLock::new(),
            notices,
            notices_out: Mutex::new(Some(notices_out)),
            forgets,
            forgets_out: Mutex::new(Some(forgets_out)),
        }
    }

    /// What the kernel must be told, as it comes up. To be taken once.
    pub(crate) fn take_notices(&self) -> Option<mpsc::Receiver<Invalidation>> {
        lock(&self.notices_out).take()
    }

    /// Names of files that the kernel should forget, because there are more inodes than there is memory for. To be
    /// taken once; without a taker nothing is forgotten.
    pub(crate) fn take_forgets(&self) -> Option<mpsc::Receiver<(Ino, Name)>> {
        lock(&self.forgets_out).take()
    }

    /// The kernel was given another inode: some that it was not given of late may be too many now.
    pub(crate) fn forget_surplus(&self, namespace: &mut Namespace) {
        for name in namespace.surplus() {
            // A full channel is one that is being worked off.
            let _ = self.forgets.try_send(name);
        }
    }

    /// The first time counts: before anything is served.
    pub(crate) fn set_caches(&self, kernel: KernelCaches) {
        let _ = self.caches.set(kernel);
    }

    /// Whether what the kernel was told of the inode's size and times counts no more. If not, the kernel is evicting
    /// the inode, and waits for the read that is being answered: no program has the file open.
    pub(crate) async fn expire_attributes(&self, ino: Ino) -> bool {
        // Without a kernel (tests) nothing is remembered.
        let Some(kernel) = self.caches.get() else {
            return true;
        };
        let expire_attributes = kernel.expire_attributes.clone();
        let expired = self.runtime.spawn_blocking(move || expire_attributes(ino));
        matches!(
            deadline::by(Instant::now() + EXPIRY, expired).await,
            Ok(Ok(()))
        )
    }

    /// The kernel has no pages of that range, in bytes, when this returns, but for those that it has read since.
    pub(crate) async fn drop_pages(&self, ino: Ino, range: Range<u64>) {
        if let Some(kernel) = self.caches.get() {
            let drop_pages = kernel.drop_pages.clone();
            // A panic there has nothing to say here.
            let _ = self
                .runtime
                .spawn_blocking(move || drop_pages(ino, range))
                .await;
        }
    }

    pub(crate) fn notify(&self, notice: Invalidation) {
        // Without a kernel (tests) there is nothing to notify. Where the kernel is so slow that there are too
        // many, it learns of the rest when what it was told expires.
        let _ = self.notices.try_send(notice);
    }
}
