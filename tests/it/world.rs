//! Shared by the tests of the file system: a bucket with its own clock and failures, file systems on it as a
//! kernel would use them, and a second client.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use bytes::Bytes;
use ossvault::crypto::key_pair::KeyPair;
use ossvault::crypto::key_ring::KeyRing;
use ossvault::encrypted::{self, EncryptedBucket, Plaintext};
use ossvault::envelope::Format;
use ossvault::files::attributes::{Defaults, Overrides};
use ossvault::fs::filesystem::Filesystem;
use ossvault::fs::namespace::Ino;
use ossvault::fs::namespace::stat::{Caller, Lookup, Stat};
use ossvault::fs::settings::{Settings, Spill, Uploads};
use ossvault::store::error::Error;
use ossvault::store::local::{self, LocalStore};
use ossvault::store::object_store::*;
pub(crate) use ossvault_testing::{Call, Failure, Hooks, InstrumentedStore, Mood, Refusal};
use tempfile::TempDir;

/// Parts as small as the store takes them: multiples of 128 KiB.
pub(crate) const PART: u64 = 128 << 10;

pub(crate) const CALLER: Caller = Caller {
    uid: 1000,
    gid: 1000,
};

/// A bucket's clock, which the test moves, so that whole seconds pass without waiting.
pub(crate) struct Clock {
    modified: Mutex<HashMap<String, u64>>,
    seconds: AtomicU64,
}

impl Clock {
    pub(crate) fn advance(&self, seconds: u64) {
        self.seconds.fetch_add(seconds, Ordering::Relaxed);
    }

    fn now(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(self.seconds.load(Ordering::Relaxed))
    }

    fn seen(&self, key: &str, last_modified: &mut SystemTime) {
        if let Some(seconds) = self.modified.lock().unwrap().get(key) {
            *last_modified = UNIX_EPOCH + Duration::from_secs(*seconds);
        }
    }
}

#[async_trait]
impl Hooks for Clock {
    async fn head(&self, store: &dyn ObjectStore, key: &ObjectKey) -> Result<ObjectMeta> {
        let mut meta = store.head(key).await?;
        self.seen(key.as_str(), &mut meta.last_modified);
        meta.date = self.now();
        Ok(meta)
    }

    async fn get(
        &self,
        store: &dyn ObjectStore,
        key: &ObjectKey,
        range: Option<ByteRange>,
        if_match: Option<&ETag>,
    ) -> Result<GetAnswer> {
        let mut answer = store.get(key, range, if_match).await?;
        self.seen(key.as_str(), &mut answer.meta.last_modified);
        answer.meta.date = self.now();
        Ok(answer)
    }

    async fn list(&self, store: &dyn ObjectStore, request: &ListRequest) -> Result<ListPage> {
        let mut page = store.list(request).await?;
        for object in &mut page.objects {
            self.seen(&object.key, &mut object.last_modified);
        }
        page.date = self.now();
        Ok(page)
    }

    fn written(&self, key: &ObjectKey, answer: &mut PutAnswer) {
        answer.date = self.now();
        let seconds = self.seconds.load(Ordering::Relaxed);
        let mut modified = self.modified.lock().unwrap();
        modified.insert(key.as_str().to_owned(), seconds);
    }
}

/// The bucket of a world: a folder, with a clock of its own, whose requests fare as the test says.
pub(crate) type Weather = InstrumentedStore<Clock>;

fn weather(folder: &Path) -> Arc<Weather> {
    let store = LocalStore::open(folder, local::Settings { sync: false }).unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let clock = Clock {
        modified: Mutex::default(),
        seconds: AtomicU64::new(now.as_secs()),
    };
    InstrumentedStore::new(Arc::new(store), clock)
}

pub(crate) fn keys() -> KeyRing {
    static PEM: OnceLock<Vec<u8>> = OnceLock::new();
    let der = PEM.get_or_init(|| {
        let pair = KeyPair::generate(2048).unwrap();
        let pem = pair.private_pem(None).unwrap();
        pem.as_bytes().to_vec()
    });
    let parsed = ossvault::crypto::key_parse::private_key(der, &mut || None);
    KeyRing::single(parsed.unwrap())
}

pub(crate) struct World {
    pub weather: Arc<Weather>,
    /// The second client.
    pub others: Others,
    pub settings: Settings,
    /// Removed last.
    _folder: TempDir,
}

impl World {
    pub(crate) fn new() -> World {
        let memory = Path::new("/dev/shm");
        let folder = match memory.is_dir() {
            true => TempDir::new_in(memory).unwrap(),
            false => TempDir::new().unwrap(),
        };
        let weather = weather(&folder.path().join("bucket"));
        let settings = Settings {
            prefix: String::new(),
            metadata_ttl: Duration::ZERO,
            dir_ttl: Duration::ZERO,
            memory_limit: 64 << 20,
            spill: Spill {
                dir: folder.path().join("cache"),
                limit: 1 << 30,
            },
            read_only: false,
            defaults: Defaults {
                uid: 1000,
                gid: 1000,
                file_mode: 0o644,
                dir_mode: 0o755,
            },
            overrides: Overrides::default(),
            trust_links: false,
            show_owner: true,
            capacity: None,
            rename_grace: Duration::from_millis(20),
            flush_after: None,
            timeout: Duration::from_secs(20),
            uploads: Uploads {
                part_size: PART,
                stream_after: 2 * PART,
                copy_limit: Uploads::COPY_LIMIT,
            },
        };
        World {
            others: Others {
                bucket: bucket(&weather),
                weather: weather.clone(),
            },
            weather,
            settings,
            _folder: folder,
        }
    }

    /// The bucket as seen by a client that writes `format`.
    pub(crate) fn bucket_in(&self, format: Format) -> Arc<EncryptedBucket> {
        let settings = encrypted::Settings {
            format,
            ..encrypted::Settings::default()
        };
        EncryptedBucket::new(self.weather.clone(), keys(), settings)
    }

    /// The state that mounts keep on this machine.
    pub(crate) fn state_folder(&self) -> std::path::PathBuf {
        self._folder.path().join("state")
    }

    /// The record of a directory rename by a mount of this machine that has been killed.
    pub(crate) async fn leave_intent(&self, from: &str, to: &str) -> String {
        let id = "0123456789abcdef";
        let secret = [7; 32];
        self.leave_secret(id, &secret);
        self.put_intent(id, &secret, from, to).await
    }

    /// What that mount had stored on this machine.
    pub(crate) fn leave_secret(&self, id: &str, secret: &[u8; 32]) {
        use std::io::Write;
        use std::os::unix::fs::OpenOptionsExt;
        std::fs::create_dir_all(self.state_folder()).unwrap();
        let mut options = std::fs::File::options();
        options.create(true).truncate(true).write(true).mode(0o600);
        let mut file = options.open(self.state_folder().join(id)).unwrap();
        file.write_all(secret).unwrap();
    }

    /// An intent under this secret, as specified in docs/format.md. Returns its key.
    pub(crate) async fn put_intent(
        &self,
        id: &str,
        secret: &[u8; 32],
        from: &str,
        to: &str,
    ) -> String {
        let prefix = &self.settings.prefix;
        let key = format!("{prefix}.ossvault/rename-{id}-0000000000000001");
        let mut message = Vec::new();
        for field in ["ossvault rename 1", &key, from, to] {
            message.extend((field.len() as u64).to_be_bytes());
            message.extend(field.as_bytes());
        }
        use hmac::{KeyInit, Mac};
        let mut mac = hmac::Hmac::<sha2::Sha256>::new_from_slice(secret).unwrap();
        mac.update(&message);
        let sum = mac.finalize().into_bytes();
        let mac = hex::encode(sum);
        let intent = format!(r#"{{"from":"{from}","to":"{to}","mac":"{mac}"}}"#);
        self.others.put_plain(&key, &intent).await;
        key
    }

    /// Mounts; must be called in a runtime.
    pub(crate) async fn mount(&self) -> Arc<Filesystem> {
        let runtime = tokio::runtime::Handle::current();
        let fs = Filesystem::new(bucket(&self.weather), self.settings.clone(), runtime).unwrap();
        fs.keep_state_in(self.state_folder());
        fs.start().await.unwrap();
        fs
    }
}

fn bucket(weather: &Arc<Weather>) -> Arc<EncryptedBucket> {
    EncryptedBucket::new(weather.clone(), keys(), encrypted::Settings::default())
}

/// Another client of the same bucket: it shares nothing with the mount but the key.
pub(crate) struct Others {
    bucket: Arc<EncryptedBucket>,
    weather: Arc<Weather>,
}

impl Others {
    /// Time passes before and after, so that whole seconds distinguish the versions.
    pub(crate) async fn put(&self, key: &str, content: &[u8]) {
        self.put_with(key, content, 0o100_640).await;
    }

    pub(crate) async fn put_with(&self, key: &str, content: &[u8], mode: u32) {
        self.weather.advance(3);
        self.put_now(key, content, mode).await;
        self.weather.advance(3);
    }

    /// Within the same second.
    pub(crate) async fn put_now(&self, key: &str, content: &[u8], mode: u32) {
        let mut headers = ObjectHeaders::default();
        headers.user.insert("mode".into(), mode.to_string());
        headers.user.insert("mtime".into(), "1700000000".into());
        let plain = Plaintext::from_bytes(content.to_vec());
        self.bucket
            .put(&object_key(key), &plain, headers, None, Overwrite::Allowed)
            .await
            .unwrap();
    }

    /// Without an envelope.
    pub(crate) async fn put_plain(&self, key: &str, text: &str) {
        let body = Body::from_bytes(Bytes::copy_from_slice(text.as_bytes()));
        let headers = ObjectHeaders::default();
        let (store, key) = (self.weather.store(), object_key(key));
        let put = store.put(&key, &headers, body, Overwrite::Allowed);
        put.await.unwrap();
    }

    pub(crate) async fn copy(&self, from: &str, to: &str) {
        let (from, to) = (object_key(from), object_key(to));
        let store = self.weather.store();
        let meta = store.head(&from).await.unwrap();
        let request = CopyRequest {
            source: from.clone(),
            source_etag: meta.etag.clone(),
            destination: to.clone(),
            headers: CopyHeaders::Keep,
            overwrite: Overwrite::Allowed,
        };
        let copied = store.copy(&request);
        copied.await.unwrap();
    }

    pub(crate) async fn delete(&self, key: &str) {
        self.weather.store().delete(&object_key(key)).await.unwrap();
        self.weather.advance(3);
    }

    pub(crate) async fn chmod(&self, key: &str, mode: u32) {
        self.weather.advance(3);
        self.chmod_now(key, mode).await;
        self.weather.advance(3);
    }

    /// Within the same second.
    pub(crate) async fn chmod_now(&self, key: &str, mode: u32) {
        let key = object_key(key);
        let meta = self.bucket.store().head(&key).await.unwrap();
        let mut headers = meta.headers.clone();
        headers.user.insert("mode".into(), mode.to_string());
        let headers = CopyHeaders::Replace(headers);
        self.bucket
            .store()
            .copy(&CopyRequest {
                source: key.clone(),
                source_etag: meta.etag.clone(),
                destination: key.clone(),
                headers,
                overwrite: Overwrite::Allowed,
            })
            .await
            .unwrap();
    }

    /// None if there is no such object.
    pub(crate) async fn get(&self, key: &str) -> Option<Vec<u8>> {
        loop {
            match self.get_version(key).await {
                // Replaced since it was requested.
                Err(encrypted::Error::Store(Error::PreconditionFailed)) => {}
                content => return content.unwrap(),
            }
        }
    }

    async fn get_version(&self, key: &str) -> encrypted::Result<Option<Vec<u8>>> {
        let key = object_key(key);
        let meta = match self.weather.store().head(&key).await {
            Ok(meta) => meta,
            Err(Error::NotFound) => return Ok(None),
            Err(error) => panic!("{error}"),
        };
        let mut content = vec![0; meta.size as usize];
        if content.is_empty() {
            return Ok(Some(content));
        }
        let store = self.weather.store().clone();
        let direct = EncryptedBucket::new(store, keys(), encrypted::Settings::default());
        let mut body = direct.get(&key, None, Some(&meta.etag)).await?;
        let object = direct.object(&body.meta)?;
        let cipher = direct.unlock(&object).await?;
        let mut at = 0;
        while at < content.len() {
            let count = body.read(&cipher, &mut content[at..]).await?;
            assert!(count > 0, "{key} ended early");
            at += count;
        }
        Ok(Some(content))
    }

    /// Every key there is.
    pub(crate) async fn keys(&self) -> Vec<String> {
        let mut request = ListRequest::default();
        let mut keys = Vec::new();
        loop {
            let page = self.weather.store().list(&request).await.unwrap();
            keys.extend(page.objects.into_iter().map(|object| object.key));
            match page.next {
                None => return keys,
                token => request.token = token,
            }
        }
    }

    /// Including those that are not aborted within two seconds.
    pub(crate) async fn unfinished_uploads(&self) -> usize {
        let start = std::time::Instant::now();
        loop {
            let uploads = self.weather.store().list_uploads("").await.unwrap().len();
            if uploads == 0 || start.elapsed() > Duration::from_secs(2) {
                return uploads;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

fn object_key(key: &str) -> ObjectKey {
    ObjectKey::new(key).unwrap()
}

/// A file system as the kernel uses it: names are looked up, and forgotten in the end.
pub(crate) struct Kernel {
    pub fs: Arc<Filesystem>,
    looked_up: Mutex<HashMap<Ino, u64>>,
}

pub(crate) type FsResult<T> = std::result::Result<T, ossvault::fs::error::Error>;

impl Kernel {
    pub(crate) fn new(fs: Arc<Filesystem>) -> Kernel {
        Kernel {
            fs,
            looked_up: Mutex::default(),
        }
    }

    /// The kernel received an entry.
    pub(crate) fn entered(&self, looks: &Stat) {
        *self.looked_up.lock().unwrap().entry(looks.ino).or_default() += 1;
    }

    pub(crate) async fn lookup(&self, parent: Ino, name: &str) -> FsResult<Option<Stat>> {
        Ok(match self.fs.lookup(parent, name).await? {
            Lookup::Present(looks) => {
                self.entered(&looks);
                Some(looks)
            }
            Lookup::Absent(_) => None,
        })
    }

    /// Path resolution: one component after the other; the empty path is the root.
    pub(crate) async fn walk(&self, path: &str) -> FsResult<Ino> {
        use ossvault::files::attributes::Kind;
        use ossvault::fs::error::Error;
        let mut at = Ino::ROOT;
        let mut kind = Kind::Directory;
        for name in path.split('/').filter(|name| !name.is_empty()) {
            if kind != Kind::Directory {
                return Err(Error::NotDirectory);
            }
            let looks = self.lookup(at, name).await?.ok_or(Error::NotFound)?;
            (at, kind) = (looks.ino, looks.kind);
        }
        Ok(at)
    }

    /// The directory of a path, which must be one, and the last component.
    pub(crate) async fn parent<'a>(&self, path: &'a str) -> FsResult<(Ino, &'a str)> {
        use ossvault::files::attributes::Kind;
        use ossvault::fs::error::Error;
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        let ino = self.walk(parent).await?;
        if self.fs.getattr(ino).await?.kind != Kind::Directory {
            return Err(Error::NotDirectory);
        }
        Ok((ino, name))
    }

    /// Forgets all looked-up inodes except these.
    pub(crate) fn forget_except(&self, kept: &std::collections::BTreeSet<Ino>) {
        self.looked_up.lock().unwrap().retain(|ino, lookups| {
            if !kept.contains(ino) {
                self.fs.forget(*ino, *lookups);
            }
            kept.contains(ino)
        });
    }

    pub(crate) fn forget_all(&self) {
        for (ino, lookups) in self.looked_up.lock().unwrap().drain() {
            self.fs.forget(ino, lookups);
        }
    }

    pub(crate) async fn read_all(&self, handle: u64) -> FsResult<Vec<u8>> {
        const STEP: usize = 100_003;
        let mut content = Vec::new();
        loop {
            let bytes: Bytes = self.fs.read(handle, content.len() as u64, STEP).await?;
            if bytes.is_empty() {
                return Ok(content);
            }
            content.extend_from_slice(&bytes);
        }
    }

    /// Waits until everything that is closed is in the bucket, at most `limit`. Returns whether it is.
    pub(crate) async fn settle(&self, open: usize, limit: Duration) -> bool {
        let start = std::time::Instant::now();
        loop {
            let census = self.fs.census();
            let at_rest = census.questions + census.listings + census.leftovers == 0;
            if census.files <= open && at_rest {
                return true;
            }
            if start.elapsed() > limit {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}
