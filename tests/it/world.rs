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
use ossvault::fs::attributes::{Defaults, Overrides};
use ossvault::fs::filesystem::Filesystem;
use ossvault::fs::namespace::Ino;
use ossvault::fs::namespace::stat::{Caller, Lookup, Stat};
use ossvault::fs::settings::Settings;
use ossvault::store::error::Error;
use ossvault::store::local::{self, LocalStore};
use ossvault::store::object_store::*;
use tempfile::TempDir;
use tokio::sync::Semaphore;

/// Parts as small as the store takes them: multiples of 128 KiB.
pub const PART: u64 = 128 << 10;

pub const CALLER: Caller = Caller {
    uid: 1000,
    gid: 1000,
};

/// A request, for tests that count them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Call {
    Head,
    Get,
    Put,
    Delete,
    Copy,
    List,
    CreateMultipart,
    UploadPart,
    CopyPart,
    Complete,
    Abort,
}

impl Call {
    pub fn changes(self) -> bool {
        !matches!(self, Call::Head | Call::Get | Call::List)
    }
}

/// A scheduled failure.
#[derive(Clone, Copy, Debug)]
pub struct Failure {
    /// This many calls still succeed.
    pub after: u32,
    /// The call is carried out, and its response is lost.
    pub lost: bool,
    /// Only calls that change something count.
    pub changes_only: bool,
    /// This many calls fail.
    pub times: u32,
}

/// The conditions that apply to every request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mood {
    #[default]
    Well,
    /// Responses are delayed by this time.
    Slow(Duration),
    /// The response is 403, as with an expired token.
    Refusing,
    /// It is not carried out, and times out after this time.
    Hanging(Duration),
}

/// A scheduled refusal, as by a policy: for calls that change something.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// Only this call; none means any.
    pub only: Option<Call>,
    /// This many of them still succeed.
    pub after: u32,
    /// This many are refused.
    pub times: u32,
}

/// The outcome of a call.
enum Spoilt {
    Failed,
    /// It is carried out first.
    Lost,
    Refused,
}

/// A bucket whose clock is moved by the test, so that whole seconds pass without waiting, and whose requests
/// fail on demand.
pub struct Weather {
    inner: LocalStore,
    modified: Mutex<HashMap<String, u64>>,
    seconds: AtomicU64,
    mood: Mutex<Mood>,
    failure: Mutex<Option<Failure>>,
    refusal: Mutex<Option<Refusal>>,
    last_refused: Mutex<Option<Call>>,
    /// Keys that contain this cannot be deleted.
    undeletable: Mutex<Option<String>>,
    failed: AtomicU64,
    calls: Mutex<HashMap<Call, u32>>,
    /// Permits for uploads of a whole object to continue.
    puts: Semaphore,
    /// Calls that are carried out, but whose responses are held back until they are released.
    held: Mutex<Option<(Call, Arc<Semaphore>)>>,
    /// The number of responses held back.
    holding: AtomicU64,
}

impl Weather {
    pub fn new(folder: &Path) -> Arc<Weather> {
        let inner = LocalStore::open(folder, local::Settings { sync: false }).unwrap();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        Arc::new(Weather {
            inner,
            modified: Mutex::default(),
            seconds: AtomicU64::new(now.as_secs()),
            mood: Mutex::default(),
            failure: Mutex::default(),
            refusal: Mutex::default(),
            last_refused: Mutex::default(),
            undeletable: Mutex::default(),
            failed: AtomicU64::new(0),
            calls: Mutex::default(),
            puts: Semaphore::new(1000),
            held: Mutex::default(),
            holding: AtomicU64::new(0),
        })
    }

    pub fn advance(&self, seconds: u64) {
        self.seconds.fetch_add(seconds, Ordering::Relaxed);
    }

    pub fn set_mood(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    pub fn fail(&self, failure: Option<Failure>) {
        *self.failure.lock().unwrap() = failure;
    }

    pub fn refuse(&self, refusal: Option<Refusal>) {
        *self.refusal.lock().unwrap() = refusal;
    }

    pub fn last_refused(&self) -> Option<Call> {
        *self.last_refused.lock().unwrap()
    }

    /// Refuses to delete keys that contain this.
    pub fn keep(&self, keys: Option<&str>) {
        *self.undeletable.lock().unwrap() = keys.map(str::to_owned);
    }

    fn check_deletable(&self, key: &ObjectKey) -> Result<()> {
        match &*self.undeletable.lock().unwrap() {
            Some(kept) if key.as_str().contains(kept) => Err(refused()),
            _ => Ok(()),
        }
    }

    /// The number of calls that have failed on purpose.
    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    /// From now on, uploads of whole objects block until they are released.
    pub fn hold_puts(&self) {
        self.puts.forget_permits(usize::MAX >> 4);
    }

    pub fn let_puts_go(&self) {
        self.puts.add_permits(1000);
    }

    /// From now on, these calls take effect and are not answered. Dropping the result releases the responses.
    pub fn hold_answers(&self, call: Call) -> Held<'_> {
        *self.held.lock().unwrap() = Some((call, Arc::new(Semaphore::new(0))));
        Held(self)
    }

    /// Waits until this many responses are held back.
    pub async fn until_held(&self, answers: u64) {
        for _ in 0..5000 {
            if self.holding.load(Ordering::Relaxed) >= answers {
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        panic!("no such call came");
    }

    pub fn count(&self, call: Call) -> u32 {
        let calls = self.calls.lock().unwrap();
        calls.get(&call).copied().unwrap_or_default()
    }

    /// The calls since the last time this was called.
    pub fn take_calls(&self) -> HashMap<Call, u32> {
        std::mem::take(&mut self.calls.lock().unwrap())
    }

    fn now(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(self.seconds.load(Ordering::Relaxed))
    }

    /// Counts the call; Some if it is to fail.
    fn begin(&self, call: Call) -> Option<Spoilt> {
        *self.calls.lock().unwrap().entry(call).or_default() += 1;
        if self.is_refused(call) {
            return Some(Spoilt::Refused);
        }
        let mut plan = self.failure.lock().unwrap();
        let failure = plan.as_mut()?;
        if failure.changes_only && !call.changes() {
            return None;
        }
        if failure.after > 0 {
            failure.after -= 1;
            return None;
        }
        let lost = failure.lost;
        failure.times -= 1;
        if failure.times == 0 {
            *plan = None;
        }
        self.failed.fetch_add(1, Ordering::Relaxed);
        Some(match lost {
            true => Spoilt::Lost,
            false => Spoilt::Failed,
        })
    }

    fn is_refused(&self, call: Call) -> bool {
        let mut refusal = self.refusal.lock().unwrap();
        let Some(plan) = &mut *refusal else {
            return false;
        };
        if !call.changes() || plan.only.is_some_and(|only| only != call) {
            return false;
        }
        if plan.after > 0 {
            plan.after -= 1;
            return false;
        }
        plan.times -= 1;
        if plan.times == 0 {
            *refusal = None;
        }
        self.failed.fetch_add(1, Ordering::Relaxed);
        *self.last_refused.lock().unwrap() = Some(call);
        true
    }

    async fn call<T>(&self, call: Call, work: impl Future<Output = Result<T>>) -> Result<T> {
        let begun = self.begin(call);
        let mood = *self.mood.lock().unwrap();
        match mood {
            Mood::Well => {}
            Mood::Slow(delay) => tokio::time::sleep(delay).await,
            Mood::Refusing => {
                // Like a service: not at once.
                tokio::time::sleep(Duration::from_millis(1)).await;
                let refusal = std::io::Error::other("refused by the test");
                return Err(Error::AccessDenied(Arc::new(refusal)));
            }
            Mood::Hanging(timeout) => {
                tokio::time::sleep(timeout).await;
                let stalled = std::io::Error::other("hung by the test");
                return Err(Error::TimedOut(Arc::new(stalled)));
            }
        }
        match begun {
            None => {
                let answer = work.await;
                let held = self.held.lock().unwrap().clone();
                if let Some((_, held)) = held.filter(|(held, _)| *held == call) {
                    self.holding.fetch_add(1, Ordering::Relaxed);
                    let _gone = held.acquire().await.unwrap();
                    self.holding.fetch_sub(1, Ordering::Relaxed);
                }
                answer
            }
            Some(Spoilt::Refused) => Err(refused()),
            Some(spoilt) => {
                if matches!(spoilt, Spoilt::Lost) {
                    let _ = work.await;
                }
                Err(Error::Unavailable(Arc::new(std::io::Error::other(
                    "failed by the test",
                ))))
            }
        }
    }

    fn changed(&self, key: &str, answer: &mut PutAnswer) {
        answer.date = self.now();
        let seconds = self.seconds.load(Ordering::Relaxed);
        self.modified
            .lock()
            .unwrap()
            .insert(key.to_owned(), seconds);
    }

    fn seen(&self, key: &str, last_modified: &mut SystemTime) {
        if let Some(seconds) = self.modified.lock().unwrap().get(key) {
            *last_modified = UNIX_EPOCH + Duration::from_secs(*seconds);
        }
    }
}

/// Responses that are held back until this is dropped.
pub struct Held<'a>(&'a Weather);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if let Some((_, held)) = self.0.held.lock().unwrap().take() {
            held.add_permits(1000);
        }
    }
}

#[async_trait]
impl ObjectStore for Weather {
    fn name(&self) -> String {
        self.inner.name()
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectMeta> {
        self.call(Call::Head, async {
            let mut meta = self.inner.head(key).await?;
            self.seen(key.as_str(), &mut meta.last_modified);
            meta.date = self.now();
            Ok(meta)
        })
        .await
    }

    async fn get(
        &self,
        key: &ObjectKey,
        range: Option<ByteRange>,
        if_match: Option<&ETag>,
    ) -> Result<GetAnswer> {
        self.call(Call::Get, async {
            let mut answer = self.inner.get(key, range, if_match).await?;
            self.seen(key.as_str(), &mut answer.meta.last_modified);
            answer.meta.date = self.now();
            Ok(answer)
        })
        .await
    }

    async fn put(
        &self,
        key: &ObjectKey,
        headers: &ObjectHeaders,
        body: Body,
        overwrite: Overwrite,
    ) -> Result<PutAnswer> {
        self.call(Call::Put, async {
            let _going = self.puts.acquire().await.unwrap();
            let mut answer = self.inner.put(key, headers, body, overwrite).await?;
            self.changed(key.as_str(), &mut answer);
            Ok(answer)
        })
        .await
    }

    async fn delete(&self, key: &ObjectKey) -> Result<()> {
        self.call(Call::Delete, async {
            self.check_deletable(key)?;
            self.inner.delete(key).await
        })
        .await
    }

    async fn delete_many(&self, keys: &[ObjectKey]) -> Result<Vec<(ObjectKey, Error)>> {
        self.call(Call::Delete, async {
            let (free, kept): (Vec<ObjectKey>, Vec<ObjectKey>) = keys
                .iter()
                .cloned()
                .partition(|key| self.check_deletable(key).is_ok());
            let mut failed = self.inner.delete_many(&free).await?;
            failed.extend(kept.into_iter().map(|key| (key, refused())));
            Ok(failed)
        })
        .await
    }

    async fn copy(
        &self,
        source: &ObjectKey,
        source_etag: &ETag,
        destination: &ObjectKey,
        headers: CopyHeaders,
        overwrite: Overwrite,
    ) -> Result<PutAnswer> {
        self.call(Call::Copy, async {
            let mut answer = self
                .inner
                .copy(source, source_etag, destination, headers, overwrite)
                .await?;
            self.changed(destination.as_str(), &mut answer);
            Ok(answer)
        })
        .await
    }

    async fn list(&self, request: &ListRequest) -> Result<ListPage> {
        self.call(Call::List, async {
            let mut page = self.inner.list(request).await?;
            for object in &mut page.objects {
                self.seen(&object.key, &mut object.last_modified);
            }
            page.date = self.now();
            Ok(page)
        })
        .await
    }

    async fn create_multipart(&self, key: &ObjectKey, headers: &ObjectHeaders) -> Result<UploadId> {
        self.call(
            Call::CreateMultipart,
            self.inner.create_multipart(key, headers),
        )
        .await
    }

    async fn upload_part(
        &self,
        key: &ObjectKey,
        upload: &UploadId,
        number: u16,
        body: Body,
    ) -> Result<UploadedPart> {
        let work = self.inner.upload_part(key, upload, number, body);
        self.call(Call::UploadPart, work).await
    }

    async fn copy_part(
        &self,
        key: &ObjectKey,
        upload: &UploadId,
        number: u16,
        source: &ObjectKey,
        source_etag: &ETag,
        range: ByteRange,
    ) -> Result<UploadedPart> {
        let work = self
            .inner
            .copy_part(key, upload, number, source, source_etag, range);
        self.call(Call::CopyPart, work).await
    }

    async fn complete_multipart(
        &self,
        key: &ObjectKey,
        upload: &UploadId,
        parts: &[UploadedPart],
        overwrite: Overwrite,
    ) -> Result<PutAnswer> {
        self.call(Call::Complete, async {
            let mut answer = self
                .inner
                .complete_multipart(key, upload, parts, overwrite)
                .await?;
            self.changed(key.as_str(), &mut answer);
            Ok(answer)
        })
        .await
    }

    async fn abort_multipart(&self, key: &ObjectKey, upload: &UploadId) -> Result<()> {
        self.call(Call::Abort, self.inner.abort_multipart(key, upload))
            .await
    }

    async fn list_uploads(&self, prefix: &str) -> Result<Vec<PendingUpload>> {
        self.inner.list_uploads(prefix).await
    }

    async fn bucket_info(&self) -> Result<BucketInfo> {
        self.inner.bucket_info().await
    }
}

fn refused() -> Error {
    Error::AccessDenied(Arc::new(std::io::Error::other("refused by the test")))
}

pub fn keys() -> KeyRing {
    static PEM: OnceLock<Vec<u8>> = OnceLock::new();
    let der = PEM.get_or_init(|| {
        let pair = KeyPair::generate(2048).unwrap();
        let pem = pair.private_pem(None).unwrap();
        pem.as_bytes().to_vec()
    });
    let parsed = ossvault::crypto::key_parse::private_key(der, &mut || None);
    KeyRing::single(parsed.unwrap())
}

pub struct World {
    pub weather: Arc<Weather>,
    /// The second client.
    pub others: Others,
    pub settings: Settings,
    /// Removed last.
    _folder: TempDir,
}

impl World {
    pub fn new() -> World {
        let memory = Path::new("/dev/shm");
        let folder = match memory.is_dir() {
            true => TempDir::new_in(memory).unwrap(),
            false => TempDir::new().unwrap(),
        };
        let weather = Weather::new(&folder.path().join("bucket"));
        let settings = Settings {
            prefix: String::new(),
            metadata_ttl: Duration::ZERO,
            dir_ttl: Duration::ZERO,
            memory_limit: 64 << 20,
            cache_dir: folder.path().join("cache"),
            cache_limit: 1 << 30,
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
            rename_grace: Duration::from_millis(20),
            flush_after: None,
            timeout: Duration::from_secs(20),
            copy_limit: Settings::COPY_LIMIT,
            part_size: PART,
            stream_after: 2 * PART,
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
    pub fn bucket_in(&self, format: Format) -> Arc<EncryptedBucket> {
        let settings = encrypted::Settings {
            format,
            ..encrypted::Settings::default()
        };
        EncryptedBucket::new(self.weather.clone(), keys(), settings)
    }

    /// The state that mounts keep on this machine.
    pub fn state_folder(&self) -> std::path::PathBuf {
        self._folder.path().join("state")
    }

    /// The record of a directory rename by a mount of this machine that has been killed.
    pub async fn leave_intent(&self, from: &str, to: &str) -> String {
        let id = "0123456789abcdef";
        let secret = [7; 32];
        self.leave_secret(id, &secret);
        self.put_intent(id, &secret, from, to).await
    }

    /// What that mount had stored on this machine.
    pub fn leave_secret(&self, id: &str, secret: &[u8; 32]) {
        use std::io::Write;
        use std::os::unix::fs::OpenOptionsExt;
        std::fs::create_dir_all(self.state_folder()).unwrap();
        let mut options = std::fs::File::options();
        options.create(true).truncate(true).write(true).mode(0o600);
        let mut file = options.open(self.state_folder().join(id)).unwrap();
        file.write_all(secret).unwrap();
    }

    /// An intent under this secret, as specified in docs/format.md. Returns its key.
    pub async fn put_intent(&self, id: &str, secret: &[u8; 32], from: &str, to: &str) -> String {
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
    pub async fn mount(&self) -> Arc<Filesystem> {
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
pub struct Others {
    bucket: Arc<EncryptedBucket>,
    weather: Arc<Weather>,
}

impl Others {
    /// Time passes before and after, so that whole seconds distinguish the versions.
    pub async fn put(&self, key: &str, content: &[u8]) {
        self.put_with(key, content, 0o100_640).await;
    }

    pub async fn put_with(&self, key: &str, content: &[u8], mode: u32) {
        self.weather.advance(3);
        self.put_now(key, content, mode).await;
        self.weather.advance(3);
    }

    /// Within the same second.
    pub async fn put_now(&self, key: &str, content: &[u8], mode: u32) {
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
    pub async fn put_plain(&self, key: &str, text: &str) {
        let body = Body::from_bytes(Bytes::copy_from_slice(text.as_bytes()));
        let headers = ObjectHeaders::default();
        let (store, key) = (&self.weather.inner, object_key(key));
        let put = store.put(&key, &headers, body, Overwrite::Allowed);
        put.await.unwrap();
    }

    pub async fn copy(&self, from: &str, to: &str) {
        let (from, to) = (object_key(from), object_key(to));
        let store = &self.weather.inner;
        let meta = store.head(&from).await.unwrap();
        let copied = store.copy(
            &from,
            &meta.etag,
            &to,
            CopyHeaders::Keep,
            Overwrite::Allowed,
        );
        copied.await.unwrap();
    }

    pub async fn delete(&self, key: &str) {
        self.weather.inner.delete(&object_key(key)).await.unwrap();
        self.weather.advance(3);
    }

    pub async fn chmod(&self, key: &str, mode: u32) {
        self.weather.advance(3);
        self.chmod_now(key, mode).await;
        self.weather.advance(3);
    }

    /// Within the same second.
    pub async fn chmod_now(&self, key: &str, mode: u32) {
        let key = object_key(key);
        let meta = self.bucket.store().head(&key).await.unwrap();
        let mut headers = meta.headers.clone();
        headers.user.insert("mode".into(), mode.to_string());
        let headers = CopyHeaders::Replace(headers);
        self.bucket
            .store()
            .copy(&key, &meta.etag, &key, headers, Overwrite::Allowed)
            .await
            .unwrap();
    }

    /// None if there is no such object.
    pub async fn get(&self, key: &str) -> Option<Vec<u8>> {
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
        let meta = match self.weather.inner.head(&key).await {
            Ok(meta) => meta,
            Err(Error::NotFound) => return Ok(None),
            Err(error) => panic!("{error}"),
        };
        let mut content = vec![0; meta.size as usize];
        if content.is_empty() {
            return Ok(Some(content));
        }
        let store = self.weather.inner.clone();
        let direct = EncryptedBucket::new(Arc::new(store), keys(), encrypted::Settings::default());
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
    pub async fn keys(&self) -> Vec<String> {
        let mut request = ListRequest::default();
        let mut keys = Vec::new();
        loop {
            let page = self.weather.inner.list(&request).await.unwrap();
            keys.extend(page.objects.into_iter().map(|object| object.key));
            match page.next {
                None => return keys,
                token => request.token = token,
            }
        }
    }

    /// Including those that are not aborted within two seconds.
    pub async fn unfinished_uploads(&self) -> usize {
        let start = std::time::Instant::now();
        loop {
            let uploads = self.weather.inner.list_uploads("").await.unwrap().len();
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
pub struct Kernel {
    pub fs: Arc<Filesystem>,
    looked_up: Mutex<HashMap<Ino, u64>>,
}

pub type FsResult<T> = std::result::Result<T, ossvault::fs::error::Error>;

impl Kernel {
    pub fn new(fs: Arc<Filesystem>) -> Kernel {
        Kernel {
            fs,
            looked_up: Mutex::default(),
        }
    }

    /// The kernel received an entry.
    pub fn entered(&self, looks: &Stat) {
        *self.looked_up.lock().unwrap().entry(looks.ino).or_default() += 1;
    }

    pub async fn lookup(&self, parent: Ino, name: &str) -> FsResult<Option<Stat>> {
        Ok(match self.fs.lookup(parent, name).await? {
            Lookup::Present(looks) => {
                self.entered(&looks);
                Some(looks)
            }
            Lookup::Absent(_) => None,
        })
    }

    /// Path resolution: one component after the other; the empty path is the root.
    pub async fn walk(&self, path: &str) -> FsResult<Ino> {
        use ossvault::fs::attributes::Kind;
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
    pub async fn parent<'a>(&self, path: &'a str) -> FsResult<(Ino, &'a str)> {
        use ossvault::fs::attributes::Kind;
        use ossvault::fs::error::Error;
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        let ino = self.walk(parent).await?;
        if self.fs.getattr(ino).await?.kind != Kind::Directory {
            return Err(Error::NotDirectory);
        }
        Ok((ino, name))
    }

    /// Forgets all looked-up inodes except these.
    pub fn forget_except(&self, kept: &std::collections::BTreeSet<Ino>) {
        self.looked_up.lock().unwrap().retain(|ino, lookups| {
            if !kept.contains(ino) {
                self.fs.forget(*ino, *lookups);
            }
            kept.contains(ino)
        });
    }

    pub fn forget_all(&self) {
        for (ino, lookups) in self.looked_up.lock().unwrap().drain() {
            self.fs.forget(ino, lookups);
        }
    }

    pub async fn read_all(&self, handle: u64) -> FsResult<Vec<u8>> {
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
    pub async fn settle(&self, open: usize, limit: Duration) -> bool {
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
