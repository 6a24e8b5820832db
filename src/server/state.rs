//! What all connections share: the configuration, the buckets that are open, and the counters.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use tokio::sync::{Semaphore, SemaphorePermit};

use super::auth::Credentials;
#[cfg(feature = "instruments")]
use super::instruments::Instruments;
use super::pace::Patience;
use super::refusal::{Refusal, Result};
use crate::base::sync::lock;
use crate::store::error::Error;
use crate::store::local::class::Class;
use crate::store::local::directory::Directory;
use crate::store::local::folder::is_bucket;
use crate::store::local::{self, LocalStore};

/// The service takes sources of CopyObject below this size.
const COPY_LIMIT: u64 = 1 << 30;

/// Each has a descriptor, and one for what it reads or writes.
const MAX_CONNECTIONS: usize = 1024;

/// Documents of up to 4 MiB that are read into memory at one time; others wait.
const MAX_DOCUMENTS: usize = 16;

pub struct Config {
    /// A bucket is a folder in it.
    pub dir: PathBuf,
    /// Loopback only.
    pub listen: SocketAddr,
    pub credentials: Credentials,
    /// See [`local::Settings`].
    pub sync: bool,
    /// What buckets say of where they are. Which regions signatures may be for is in the credentials.
    pub region: String,
    /// Say that old versions are kept. None are: for what clients tell their users.
    pub versioned: bool,
    /// In bytes; larger objects are refused as source of CopyObject.
    pub copy_limit: u64,
    /// Further connections wait until one of these ends.
    pub max_connections: usize,
    pub patience: Patience,
    /// Serve counts and take faults under `/-/`, and serve clients that speak S3.
    #[cfg(feature = "instruments")]
    pub instrument: bool,
}

impl Config {
    /// For tests: any free port, credentials `test` and `test`, nothing synced.
    pub fn new(dir: impl Into<PathBuf>) -> Config {
        Config {
            dir: dir.into(),
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            credentials: Credentials::new("test", "test", None),
            sync: false,
            region: "cn-hangzhou".to_string(),
            versioned: false,
            copy_limit: COPY_LIMIT,
            max_connections: MAX_CONNECTIONS,
            patience: Patience::default(),
            #[cfg(feature = "instruments")]
            instrument: false,
        }
    }
}

/// What all connections share.
pub struct ServerState {
    pub config: Config,
    /// The folder of the buckets. One that is reached through a symbolic link is no bucket.
    served: Directory,
    started: SystemTime,
    next_request: AtomicU64,
    /// Held for memory, and while a bucket is opened.
    buckets: Mutex<HashMap<String, LocalStore>>,
    documents: Semaphore,
    #[cfg(feature = "instruments")]
    pub instruments: std::sync::Arc<Instruments>,
}

impl ServerState {
    /// # Errors
    /// A folder that cannot be made or opened.
    pub fn new(config: Config) -> io::Result<ServerState> {
        fs::create_dir_all(&config.dir)?;
        Ok(ServerState {
            served: Directory::open(&config.dir)?,
            config,
            started: SystemTime::now(),
            // Different in every run: ids are looked for in logs.
            next_request: AtomicU64::new(rand::random::<u64>() << 24 >> 8),
            buckets: Mutex::default(),
            documents: Semaphore::new(MAX_DOCUMENTS),
            #[cfg(feature = "instruments")]
            instruments: std::sync::Arc::default(),
        })
    }

    /// Of the next request.
    pub fn request_id(&self) -> String {
        format!("{:024X}", self.next_request.fetch_add(1, Ordering::Relaxed))
    }

    pub fn copy_limit(&self) -> u64 {
        self.config.copy_limit
    }

    pub fn region(&self) -> &str {
        &self.config.region
    }

    pub fn versioned(&self) -> bool {
        self.config.versioned
    }

    pub fn started(&self) -> SystemTime {
        self.started
    }

    /// To be held while a document is in memory.
    ///
    /// # Errors
    /// 503 when none of those that are there ends in time.
    pub async fn document(&self) -> Result<SemaphorePermit<'_>> {
        let waiting = self.documents.acquire();
        match tokio::time::timeout(self.config.patience.body, waiting).await {
            Ok(Ok(permit)) => Ok(permit),
            _ => Err(Refusal::new(
                503,
                "ServiceUnavailable",
                "Please reduce your request rate.",
            )),
        }
    }

    /// Whether there may be such a bucket. Opens nothing.
    pub fn has_bucket(&self, name: &str) -> bool {
        check_name(name).is_ok() && self.served.directory(name).is_ok()
    }

    /// Counts a body's bytes.
    #[cfg(not(feature = "instruments"))]
    pub fn received(&self) -> impl Fn(usize) + Send + use<> {
        |_| ()
    }

    /// Counts a body's bytes.
    #[cfg(feature = "instruments")]
    pub fn received(&self) -> impl Fn(usize) + Send + use<> {
        let instruments = self.instruments.clone();
        move |bytes| instruments.received(bytes)
    }

    pub async fn bucket(&self, name: &str) -> Result<LocalStore> {
        let no_such_bucket = || Refusal::no_such_bucket(name);
        check_name(name)?;
        // At each request: the folder may have been removed or replaced by other means.
        let folder = match self.served.directory(name) {
            Ok(folder) => folder,
            Err(error) => {
                self.lock().remove(name);
                return Err(match error.kind() {
                    io::ErrorKind::NotFound | io::ErrorKind::InvalidData => no_such_bucket(),
                    _ => Error::other(error).into(),
                });
            }
        };
        if let Some(store) = self.lock().get(name)
            && store.root().is_same(&folder).unwrap_or(false)
        {
            return Ok(store.clone());
        }
        // Something else than a bucket is not served, and not touched.
        let foreign = !is_bucket(&folder).unwrap_or(false)
            && folder
                .names()
                .map_or(true, |mut entries| entries.next().is_some());
        if foreign {
            return Err(no_such_bucket());
        }
        Ok(self.create_bucket(name, None).await?)
    }

    /// Without a class, a new bucket is of the standard one.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`] where there is one of another class.
    pub async fn create_bucket(
        &self,
        name: &str,
        class: Option<Class>,
    ) -> std::result::Result<LocalStore, Error> {
        let folder = match self.bucket_folder(name, class)? {
            Known::Open(store) => return Ok(store),
            Known::Folder(folder) => folder,
        };
        let settings = local::Settings {
            sync: self.config.sync,
        };
        let open = move || LocalStore::create_in(folder, class.unwrap_or_default(), settings);
        let opened = tokio::task::spawn_blocking(open).await;
        self.remember(name, class, opened.map_err(Error::other)??)
    }

    /// As [`ServerState::create_bucket`], on this thread. Blocks.
    pub fn create_bucket_blocking(&self, name: &str) -> std::result::Result<LocalStore, Error> {
        let folder = match self.bucket_folder(name, None)? {
            Known::Open(store) => return Ok(store),
            Known::Folder(folder) => folder,
        };
        let settings = local::Settings {
            sync: self.config.sync,
        };
        self.remember(name, None, LocalStore::open_in(folder, settings)?)
    }

    /// The folder of a bucket, made if it is absent; or the bucket, if it is open already.
    fn bucket_folder(&self, name: &str, class: Option<Class>) -> std::result::Result<Known, Error> {
        check_name(name).map_err(|_| Error::NoSuchBucket(name.to_string()))?;
        match self.served.create_directory(name) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(Error::other(error));
            }
            _ => {}
        }
        let folder = self.served.directory(name).map_err(Error::other)?;
        match self.lock().get(name) {
            Some(store) if store.root().is_same(&folder).unwrap_or(false) => {
                Ok(Known::Open(of_class(store, class)?))
            }
            _ => Ok(Known::Folder(folder)),
        }
    }

    /// Of two calls that opened one bucket at once, both get the instance of the first.
    fn remember(
        &self,
        name: &str,
        class: Option<Class>,
        store: LocalStore,
    ) -> std::result::Result<LocalStore, Error> {
        let mut buckets = self.lock();
        match buckets.get(name) {
            Some(first) if first.root().is_same(store.root()).unwrap_or(false) => {
                of_class(first, class)
            }
            _ => {
                buckets.insert(name.to_string(), store.clone());
                of_class(&store, class)
            }
        }
    }

    /// By name, with their classes.
    pub async fn buckets(&self) -> Result<Vec<(String, Class)>> {
        let entries = self.served.names().map_err(Error::other)?;
        let mut names: Vec<(String, Class)> = entries
            .flatten()
            .filter_map(|name| name.into_string().ok())
            .filter(|name| check_name(name).is_ok())
            .filter_map(|name| {
                let folder = self.served.directory(&name).ok()?;
                let class = match is_bucket(&folder) {
                    Ok(true) => Class::of(&folder).ok()?,
                    _ => return None,
                };
                Some((name, class))
            })
            .collect();
        names.sort();
        Ok(names)
    }

    pub async fn delete_bucket(&self, name: &str, store: &LocalStore) -> Result<()> {
        match store.destroy().await {
            Err(Error::AlreadyExists) => {
                return Err(Refusal::new(
                    409,
                    "BucketNotEmpty",
                    "The bucket you tried to delete is not empty.",
                )
                .with("BucketName", name));
            }
            destroyed => destroyed?,
        }
        self.lock().remove(name);
        match self.served.remove_directory(name) {
            // Another process made a bucket of that name already.
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {}
            removed => removed.map_err(Error::other)?,
        }
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, LocalStore>> {
        // Whoever panicked left a map of stores that are each whole.
        lock(&self.buckets)
    }
}

/// What a bucket's name leads to.
enum Known {
    Open(LocalStore),
    Folder(Directory),
}

fn of_class(store: &LocalStore, class: Option<Class>) -> std::result::Result<LocalStore, Error> {
    match class {
        Some(class) if class != store.class() => Err(Error::AlreadyExists),
        _ => Ok(store.clone()),
    }
}

/// # Errors
/// For names no bucket can have: only others name a folder.
pub fn check_name(name: &str) -> Result<()> {
    let valid = (3..=63).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-');
    if valid {
        return Ok(());
    }
    Err(Refusal::new(
        400,
        "InvalidBucketName",
        "The specified bucket is not valid.",
    )
    .with("BucketName", name))
}
