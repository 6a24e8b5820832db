//! The file system as a whole: what its parts share, how it starts and how it ends.
//!
//! The operations stand beside this file, by subject: [`lookup`](super::lookup), [`files`](super::files),
//! [`changes`](super::changes), [`directories`](super::directories). Each is an async function that
//! first tries what memory can answer; the caller polls it once on the session thread and hands it to the
//! runtime only if it has to wait.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, RwLock, Weak};
use std::time::{Instant, SystemTime};

use tokio::runtime::Handle;
use tokio::sync::{Notify, OnceCell, mpsc};
use tokio::task::JoinSet;

use super::budget::MemoryBudget;
use super::byte_lru::ByteLru;
use super::change_attributes::Deferred;
use super::content::{Content, ContentCache};
use super::delete_permission::DeletePermissions;
use super::directories::DirectoryHandle;
use super::error::{Error, Result};
use super::gate::Gate;
use super::instance::Instance;
use super::leftover::Leftovers;
use super::lister::Builds;
use super::listing::Ttl;
use super::names::Name;
use super::namespace::{Ino, Namespace};
use super::open_file::{FileHandle, OpenFile};
use super::probe::Questions;
use super::processes;
use super::settings::Settings;
use super::staging::{self, StagingArea};
use super::supervisor::{PAUSE, keep_running};
use crate::base::error_chain::chain;
use crate::base::sync::{lock, read_lock};
use crate::encrypted::{self, EncryptedBucket, EncryptedObject};
use crate::envelope::Format;
use crate::store::object_store::{ListRequest, ObjectKey, ObjectMeta};

/// So much of the memory budget, as a divisor, may go to objects' headers, of some 2 KB each.
const DESCRIBED_SHARE: u64 = 32;

/// And so much to contents that nobody has open, beside their bytes.
const CONTENTS_SHARE: u64 = 32;

/// Names that the kernel is yet to be asked to forget: when it does not keep up, it is asked again later.
const FORGETS_WAITING: usize = 1024;

/// What the kernel is still to be told, at most, of some 100 bytes each.
const NOTICES: usize = 4096;

/// An object's headers, and what they say about how to read it.
pub(super) struct Described {
    pub meta: ObjectMeta,
    pub object: std::result::Result<Arc<EncryptedObject>, encrypted::Error>,
    pub checked: Instant,
}

impl Described {
    /// What it takes in memory, in bytes: besides the headers, what was made of them.
    pub fn weight(&self) -> u64 {
        const BESIDES: usize = 1024;
        const EACH: usize = 64;
        let headers = &self.meta.headers;
        let entries = headers.user.iter().chain(&headers.standard);
        let entries = entries.map(|(name, value)| name.len() + value.len() + EACH);
        (2 * entries.sum::<usize>() + BESIDES) as u64
    }

    /// Served although it is not encrypted.
    pub fn is_plain(&self) -> bool {
        let object = self.object.as_ref();
        object.is_ok_and(|object| object.format == Format::Plain)
    }
}

/// What the kernel must be told: its caches are wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Forget an inode's attributes and pages.
    Content(Ino),
    /// Forget what a name stands for.
    Name(Ino, String),
}

/// The ways to what the kernel keeps of an inode, which have an effect before they return.
pub struct KernelCaches {
    /// Waits for nothing.
    pub expire_attributes: Box<dyn Fn(Ino) + Send + Sync>,
    /// Waits for reads and writes of pages in that range of bytes, which may be for answers of this mount: for
    /// a thread that may wait.
    pub drop_pages: Arc<dyn Fn(Ino, Range<u64>) + Send + Sync>,
}

/// A file whose bytes could not be uploaded.
#[derive(Clone, Debug)]
pub struct Unsaved {
    /// Below the mount point; empty for a file without a name.
    pub path: String,
    pub error: Error,
}

impl std::fmt::Display for Unsaved {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.path, chain(&self.error))
    }
}

/// Counts of what is held in memory: for tests that look for leaks, and for who wants to watch a mount.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// Known to the kernel, open, or above one that is; the root counts.
    pub inodes: usize,
    /// Open, or not uploaded yet.
    pub files: usize,
    /// Of these, closed or not, whose bytes are not in the bucket.
    pub unsaved: usize,
    /// Of files and directories.
    pub handles: usize,
    /// Listings under way.
    pub listings: usize,
    /// Other questions to the bucket under way.
    pub questions: usize,
    /// Renames whose old names are still to be deleted.
    pub leftovers: usize,
}

pub struct Filesystem {
    pub(super) bucket: Arc<EncryptedBucket>,
    pub(super) settings: Settings,
    pub(super) runtime: Handle,
    /// Where owners are not shown: groups that are, since the user of the mount is in them.
    pub(super) groups: Vec<u32>,
    pub(super) began: SystemTime,
    /// Memory only. Taken after an open file's state when both are needed, and before all the others.
    namespace: Mutex<Namespace>,
    pub(super) gate: Gate,
    /// A change of names has ended.
    pub(super) changed: Notify,
    pub(super) leftovers: Leftovers,
    /// Where a mount of this bucket finds what an earlier one has kept.
    pub(super) state_dir: OnceLock<PathBuf>,
    pub(super) instance: OnceCell<Instance>,
    /// Something of this mount stays in the bucket for a later one to clean up.
    pub(super) leaves_something: AtomicBool,
    pub(super) delete_permissions: Mutex<DeletePermissions>,
    pub(super) builds: Mutex<Builds>,
    pub(super) questions: Mutex<Questions>,
    /// Directories that were asked ahead, kept for a while for who may come for them.
    pub(super) asked_ahead: Mutex<HashSet<Ino>>,
    /// One version a key: objects whose bytes are equal have the same tag, whatever their headers say.
    pub(super) described: Mutex<ByteLru<ObjectKey, Arc<Described>>>,
    /// Contents that nobody has open: bodies that came with headers, what was just written, and what was read.
    pub(super) contents: Mutex<ByteLru<ObjectKey, Arc<Content>>>,
    /// Files that are open or not uploaded yet. Never locked while one of their states is.
    pub(super) files: Mutex<HashMap<Ino, Arc<OpenFile>>>,
    pub(super) handles: RwLock<HashMap<u64, Arc<FileHandle>>>,
    pub(super) directory_handles: Mutex<HashMap<u64, Arc<DirectoryHandle>>>,
    next_handle: AtomicU64,
    pub(super) cache: Arc<ContentCache>,
    pub(super) staging: Arc<StagingArea>,
    kernel: OnceLock<KernelCaches>,
    notices: mpsc::Sender<Notice>,
    notices_out: Mutex<Option<mpsc::Receiver<Notice>>>,
    forgets: mpsc::Sender<(Ino, Name)>,
    forgets_out: Mutex<Option<mpsc::Receiver<(Ino, Name)>>>,
    root_stored: AtomicBool,
    /// Inodes whose pending attributes are stored later, and when.
    pub(super) late: Mutex<HashMap<Ino, Deferred>>,
    /// Uploads that go on while their files are written, and those that are being given up.
    pub(super) uploads: Mutex<JoinSet<()>>,
}

impl Filesystem {
    /// Nothing is asked of the bucket yet.
    ///
    /// # Errors
    /// When the cache directory cannot be used.
    pub fn new(
        bucket: Arc<EncryptedBucket>,
        settings: Settings,
        runtime: Handle,
    ) -> Result<Arc<Filesystem>> {
        let budget = MemoryBudget::new(settings.memory_limit);
        let area = staging::Settings {
            wipes: !bucket.can_read(),
            ..staging::Settings::new(&settings.cache_dir, settings.cache_limit, settings.timeout)
        };
        let staging = StagingArea::open(area, budget.clone())?;
        let described = ByteLru::new(budget.limit() / DESCRIBED_SHARE, Some(budget.charge(0)));
        // Their bytes are counted as cached content is.
        let contents = ByteLru::new(budget.limit() / CONTENTS_SHARE, Some(budget.charge(0)));
        let cache = ContentCache::new(budget.clone(), runtime.clone(), settings.timeout);
        let ttl = Ttl {
            objects: settings.metadata_ttl,
            directories: settings.dir_ttl,
        };
        let mut namespace = Namespace::new(settings.prefix.clone(), ttl, settings.defaults);
        namespace.count_against(&budget);
        let (notices, notices_out) = mpsc::channel(NOTICES);
        let (forgets, forgets_out) = mpsc::channel(FORGETS_WAITING);
        let spilled = Arc::downgrade(&staging);
        keep_running(&runtime, "spilling", PAUSE, move || {
            let area = spilled.upgrade();
            async move {
                if let Some(area) = area {
                    staging::run_spiller(area).await;
                }
            }
        });
        let groups = match settings.show_owner {
            true => Vec::new(),
            false => processes::own_groups(),
        };
        let fs = Arc::new(Filesystem {
            bucket,
            groups,
            settings,
            runtime,
            began: SystemTime::now(),
            namespace: Mutex::new(namespace),
            gate: Gate::default(),
            changed: Notify::new(),
            leftovers: Leftovers::default(),
            state_dir: OnceLock::new(),
            instance: OnceCell::new(),
            leaves_something: AtomicBool::new(false),
            delete_permissions: Mutex::default(),
            builds: Mutex::default(),
            questions: Mutex::default(),
            asked_ahead: Mutex::default(),
            described: Mutex::new(described),
            contents: Mutex::new(contents),
            files: Mutex::default(),
            handles: RwLock::default(),
            directory_handles: Mutex::default(),
            next_handle: AtomicU64::new(1),
            cache,
            staging,
            kernel: OnceLock::new(),
            notices,
            notices_out: Mutex::new(Some(notices_out)),
            forgets,
            forgets_out: Mutex::new(Some(forgets_out)),
            root_stored: AtomicBool::new(false),
            late: Mutex::default(),
            uploads: Mutex::default(),
        });
        let (weak, budget) = (Arc::downgrade(&fs), fs.staging.budget().clone());
        keep_running(&fs.runtime, "dropping caches", PAUSE, move || {
            give_way(weak.clone(), budget.clone())
        });
        Ok(fs)
    }

    /// Where a later mount of this bucket, of this prefix and on this machine, finds what it needs to finish what this
    /// one leaves if it is killed: a folder for these mounts alone, made when it is needed. Without one, that is
    /// reported and left. To be called before [`Filesystem::start`].
    pub fn keep_state_in(&self, folder: PathBuf) {
        let _ = self.state_dir.set(folder);
    }

    /// Proves that the bucket is there, and finishes what an earlier mount left undone.
    ///
    /// # Errors
    /// What the bucket answers, in the store's words.
    pub async fn start(self: &Arc<Self>) -> std::result::Result<(), crate::store::error::Error> {
        let own = ListRequest {
            prefix: format!("{}{}/", self.settings.prefix, super::names::RESERVED),
            ..ListRequest::default()
        };
        let page = self.bucket.store().list(&own).await?;
        let root = format!("{}root", own.prefix);
        let stored = page.objects.iter().any(|object| object.key == root);
        self.set_root_stored(stored);
        self.finish_for_earlier_mounts(&page).await;
        Ok(())
    }

    /// Uploads what is pending. Afterwards nothing is left, but for what is returned.
    pub async fn shutdown(self: &Arc<Self>) -> std::result::Result<(), Vec<Unsaved>> {
        let mut unsaved = self.upload_everything().await.err().unwrap_or_default();
        let times = self.store_late(|_| true).await;
        unsaved.extend(self.clear_all().await);
        self.uploads_ended().await;
        self.forget_asked_ahead();
        unsaved.extend(times.into_iter().map(|(ino, error)| Unsaved {
            path: self.describe_place(ino),
            error,
        }));
        if unsaved.is_empty() {
            let files: Vec<_> = lock(&self.files).values().cloned().collect();
            if files.iter().all(|file| file.lock().aside.is_none()) {
                self.end_instance();
            }
            Ok(())
        } else {
            Err(unsaved)
        }
    }

    /// What the kernel must be told, as it comes up. To be taken once.
    pub fn take_notices(&self) -> Option<mpsc::Receiver<Notice>> {
        lock(&self.notices_out).take()
    }

    /// Names of files that the kernel should forget, because there are more inodes than there is memory for. To be
    /// taken once; without a taker nothing is forgotten.
    pub fn take_forgets(&self) -> Option<mpsc::Receiver<(Ino, Name)>> {
        lock(&self.forgets_out).take()
    }

    /// The kernel was given another inode: some that it was not given of late may be too many now.
    pub(super) fn forget_surplus(&self, namespace: &mut Namespace) {
        for name in namespace.surplus() {
            // A full channel is one that is being worked off.
            let _ = self.forgets.try_send(name);
        }
    }

    /// The first time counts: before anything is served.
    pub fn set_kernel_caches(&self, kernel: KernelCaches) {
        let _ = self.kernel.set(kernel);
    }

    /// What the kernel was told of the inode's size and times counts no more when this returns.
    pub(super) fn expire_attributes(&self, ino: Ino) {
        // Without a kernel (tests) nothing is remembered.
        if let Some(kernel) = self.kernel.get() {
            (kernel.expire_attributes)(ino);
        }
    }

    /// The kernel has no pages of that range, in bytes, when this returns, but for those that it has read since.
    pub(super) async fn drop_pages(&self, ino: Ino, range: Range<u64>) {
        if let Some(kernel) = self.kernel.get() {
            let drop_pages = kernel.drop_pages.clone();
            // A panic there has nothing to say here.
            let _ = self
                .runtime
                .spawn_blocking(move || drop_pages(ino, range))
                .await;
        }
    }

    /// What is held in memory now; see [`Census`].
    pub fn census(&self) -> Census {
        let files: Vec<_> = lock(&self.files).values().cloned().collect();
        Census {
            inodes: self.namespace().len(),
            files: files.len(),
            unsaved: files.iter().filter(|file| file.lock().is_unsaved()).count(),
            handles: read_lock(&self.handles).len() + lock(&self.directory_handles).len(),
            listings: lock(&self.builds).len(),
            questions: lock(&self.questions).len(),
            leftovers: self.leftovers.len(),
        }
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Whether there is a private key.
    pub fn can_read(&self) -> bool {
        self.bucket.can_read()
    }

    pub(super) fn namespace(&self) -> MutexGuard<'_, Namespace> {
        lock(&self.namespace)
    }

    pub(super) fn notify(&self, notice: Notice) {
        // Without a kernel (tests) there is nobody to tell. Where the kernel is so slow that there are too
        // many, it learns of the rest when what it was told expires.
        let _ = self.notices.try_send(notice);
    }

    pub(super) fn new_handle(&self) -> u64 {
        self.next_handle.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn root_is_stored(&self) -> bool {
        self.root_stored.load(Ordering::Relaxed)
    }

    pub(super) fn set_root_stored(&self, stored: bool) {
        self.root_stored.store(stored, Ordering::Relaxed);
    }

    /// # Errors
    /// [`Error::ReadOnly`].
    pub(super) fn writable(&self) -> Result<()> {
        if self.settings.read_only {
            return Err(Error::ReadOnly);
        }
        Ok(())
    }
}

/// Drops cached content, and listings that have expired, when somebody waits for memory.
async fn give_way(fs: Weak<Filesystem>, budget: MemoryBudget) {
    let mut pressure = budget.pressure();
    loop {
        pressure.wait().await;
        let Some(fs) = fs.upgrade() else { return };
        if fs.cache.evict(budget.wanted()) < budget.wanted() {
            fs.namespace().drop_expired(Instant::now());
        }
        if budget.wanted() > 0 {
            fs.namespace().release_memory(Instant::now());
            lock(&fs.described).clear();
            lock(&fs.contents).clear();
        }
    }
}
