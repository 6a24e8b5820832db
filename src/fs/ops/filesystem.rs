//! The file system as a whole: the components that its operations work over.

use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::Instant;

use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::rename::deferred_delete::DeferredDeletes;
use super::rename::intent::Intents;
use super::rename::memory::Renaming;
use super::rename::renames::Renames;
use crate::encrypted::EncryptedBucket;
use crate::fs::background::BackgroundTasks;
use crate::fs::data::budget::MemoryBudget;
use crate::fs::data::content::ContentCache;
use crate::fs::data::staging::{self, StagingArea};
use crate::fs::error::{Error, Result};
use crate::fs::handles::open_files::{self, OpenFiles};
use crate::fs::handles::writers;
use crate::fs::instance::ThisMount;
use crate::fs::namespace::freshness::Ttl;
use crate::fs::namespace::inode::Ino;
use crate::fs::namespace::kernel::{Invalidation, Kernel, KernelCaches};
use crate::fs::namespace::names::Names;
use crate::fs::namespace::object_name::Name;
use crate::fs::namespace::tree::Namespace;
use crate::fs::resolver::markers::Markers;
use crate::fs::resolver::object_cache::ObjectCache;
use crate::fs::resolver::objects::Objects;
use crate::fs::resolver::requests::{self, Resolver};
use crate::fs::settings::Settings;
use crate::fs::supervisor::{PAUSE, keep_running};
use crate::fs::usage::Usage;
use crate::fs::writeback::publish::{self, Writeback};

/// Counts of what is held in memory: for tests that look for leaks, and for watching a mount.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
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
    pub(super) settings: Arc<Settings>,
    pub(super) runtime: Handle,
    pub(super) names: Arc<Names>,
    pub(super) this_mount: Arc<ThisMount>,
    pub(super) tasks: Arc<BackgroundTasks>,
    pub(super) cache: Arc<ObjectCache>,
    pub(super) objects: Arc<Objects>,
    pub(super) markers: Arc<Markers>,
    pub(super) resolver: Arc<Resolver>,
    pub(super) open_files: Arc<OpenFiles>,
    pub(super) writeback: Arc<Writeback>,
    pub(super) renames: Arc<Renames>,
    pub(super) usage: Arc<Usage>,
}

impl Filesystem {
    /// Nothing is requested from the bucket yet.
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
            ..staging::Settings::new(&settings.spill.dir, settings.spill.limit, settings.timeout)
        };
        let staging = StagingArea::open(area, budget.clone())?;
        let contents = ContentCache::new(budget.clone(), runtime.clone(), settings.timeout);
        let settings = Arc::new(settings);
        let cache = ObjectCache::new(bucket.clone(), settings.clone(), contents, &budget);
        let objects = Objects::new(bucket.clone(), settings.clone(), cache.clone());
        let ttl = Ttl {
            objects: settings.metadata_ttl,
            directories: settings.dir_ttl,
        };
        let mut namespace = Namespace::new(settings.prefix.clone(), ttl, settings.defaults);
        namespace.count_against(&budget);
        let names = Names::new(namespace, Kernel::new(runtime.clone()), settings.clone());
        let markers = Markers::new(
            bucket.clone(),
            settings.clone(),
            names.clone(),
            cache.clone(),
            objects.clone(),
        );
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
            false => writers::own_groups(),
        };
        let resolver = Resolver::new(requests::Parts {
            bucket: bucket.clone(),
            settings: settings.clone(),
            runtime: runtime.clone(),
            names: names.clone(),
            cache: cache.clone(),
            objects: objects.clone(),
            markers: markers.clone(),
            budget: budget.clone(),
            groups,
        });
        let this_mount = ThisMount::new(settings.clone());
        let intents = Intents::new(bucket.clone(), settings.clone(), this_mount.clone());
        let deferred_deletes = DeferredDeletes::new(
            runtime.clone(),
            objects.clone(),
            markers.clone(),
            intents.clone(),
        );
        let tasks = BackgroundTasks::new(runtime.clone());
        let open_files = OpenFiles::new(open_files::Parts {
            bucket: bucket.clone(),
            settings: settings.clone(),
            names: names.clone(),
            cache: cache.clone(),
            objects: objects.clone(),
            markers: markers.clone(),
            resolver: resolver.clone(),
            this_mount: this_mount.clone(),
            staging,
            tasks: tasks.clone(),
        });
        let writeback = Writeback::new(publish::Parts {
            bucket: bucket.clone(),
            settings: settings.clone(),
            runtime: runtime.clone(),
            names: names.clone(),
            cache: cache.clone(),
            objects: objects.clone(),
            markers: markers.clone(),
            resolver: resolver.clone(),
            open_files: open_files.clone(),
            tasks: tasks.clone(),
        });
        let renames = Arc::new(Renames {
            bucket: bucket.clone(),
            settings: settings.clone(),
            names: names.clone(),
            cache: cache.clone(),
            objects: objects.clone(),
            markers: markers.clone(),
            this_mount: this_mount.clone(),
            open_files: open_files.clone(),
            writeback: writeback.clone(),
            intents,
            deferred_deletes,
            renaming: Renaming::default(),
        });
        let usage = Usage::new(bucket.store().clone(), settings.capacity, runtime.clone());
        let fs = Arc::new(Filesystem {
            bucket,
            settings,
            runtime,
            names,
            this_mount,
            tasks,
            cache,
            objects,
            markers,
            resolver,
            open_files,
            writeback,
            renames,
            usage,
        });
        let weak = Arc::downgrade(&fs);
        keep_running(&fs.runtime, "dropping caches", PAUSE, move || {
            reclaim(weak.clone(), budget.clone())
        });
        Ok(fs)
    }

    /// Where a later mount of this bucket, of this prefix and on this machine, finds what it needs to finish what this
    /// one leaves if it is killed: a folder for these mounts alone, made when it is needed. Without one, that is
    /// reported and left. To be called before [`Filesystem::start`].
    pub fn keep_state_in(&self, folder: PathBuf) {
        self.this_mount.keep_state_in(folder);
    }

    /// What the kernel must be told, as it comes up. To be taken once.
    pub fn take_notices(&self) -> Option<mpsc::Receiver<Invalidation>> {
        self.names.kernel().take_notices()
    }

    /// Names of files that the kernel should forget, because there are more inodes than there is memory for. To be
    /// taken once; without a taker nothing is forgotten.
    pub fn take_forgets(&self) -> Option<mpsc::Receiver<(Ino, Name)>> {
        self.names.kernel().take_forgets()
    }

    /// The first time counts: before anything is served.
    pub fn set_kernel_caches(&self, kernel: KernelCaches) {
        self.names.kernel().set_caches(kernel);
    }

    /// What is held in memory now; see [`Stats`].
    pub fn census(&self) -> Stats {
        let files = self.open_files.all();
        let unsaved = files.iter().filter(|file| file.lock().is_unsaved());
        // One lock at a time: an upload locks its file and then the names.
        let unsaved = unsaved.count();
        let inodes = self.names.lock().len();
        Stats {
            inodes,
            files: files.len(),
            unsaved,
            handles: self.open_files.handle_count(),
            listings: self.resolver.listings(),
            questions: self.resolver.questions(),
            leftovers: self.renames.deferred(),
        }
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Whether there is a private key.
    pub fn can_read(&self) -> bool {
        self.bucket.can_read()
    }

    /// # Errors
    /// [`Error::ReadOnly`].
    pub(crate) fn writable(&self) -> Result<()> {
        if self.settings.read_only {
            return Err(Error::ReadOnly);
        }
        Ok(())
    }
}

/// Drops cached content, and listings that have expired, when a request waits for memory.
async fn reclaim(fs: Weak<Filesystem>, budget: MemoryBudget) {
    let mut pressure = budget.pressure();
    loop {
        pressure.wait().await;
        let Some(fs) = fs.upgrade() else { return };
        if fs.cache.evict(budget.wanted()) < budget.wanted() {
            fs.names.lock().drop_expired(Instant::now());
        }
        if budget.wanted() > 0 {
            fs.names.lock().release_memory(Instant::now());
            fs.cache.clear();
        }
    }
}
