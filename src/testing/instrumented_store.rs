//! A store between a test and the bucket: it counts, delays, fails and holds back calls on demand. Behaviour
//! that only one test needs is a method of its [`Hooks`].

use std::collections::HashMap;
use std::future::Future;
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Semaphore;

use crate::base::sync::lock;
use crate::store::error::Error;
use crate::store::object_store::*;

/// An operation of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Call {
    Head,
    Get,
    Put,
    /// Of one object or of several.
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
pub enum Fate {
    CarriedOut,
    Fails(Error),
    /// It is carried out first.
    AnswerLost(Error),
}

/// A test's changes to single operations. `store` is the underlying store, which responds by default.
#[async_trait]
pub trait Hooks: Send + Sync + 'static {
    /// Decides about a call before it reaches the store.
    fn decide(&self, _: Call) -> Fate {
        Fate::CarriedOut
    }

    async fn head(&self, store: &dyn ObjectStore, key: &ObjectKey) -> Result<ObjectMeta> {
        store.head(key).await
    }

    async fn get(
        &self,
        store: &dyn ObjectStore,
        key: &ObjectKey,
        range: Option<ByteRange>,
        if_match: Option<&ETag>,
    ) -> Result<GetAnswer> {
        store.get(key, range, if_match).await
    }

    async fn list(&self, store: &dyn ObjectStore, request: &ListRequest) -> Result<ListPage> {
        store.list(request).await
    }

    /// The bytes of a body when they reach the store.
    async fn received(&self, body: Body) -> Result<Body> {
        Ok(body)
    }

    /// An object exists, or has new headers, through a call that was carried out.
    fn written(&self, _: &ObjectKey, _: &mut PutAnswer) {}

    /// A part of an upload exists.
    fn part_written(&self, _: &mut UploadedPart) {}

    /// An upload begins.
    fn upload_begins(&self, _: &ObjectHeaders) {}
}

/// No hooks.
impl Hooks for () {}

/// Dereferences to its hooks, which a test queries for what they have seen.
pub struct InstrumentedStore<H = ()> {
    /// They take turns.
    stores: Vec<Arc<dyn ObjectStore>>,
    turn: AtomicUsize,
    hooks: H,
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

impl<H> Deref for InstrumentedStore<H> {
    type Target = H;

    fn deref(&self) -> &H {
        &self.hooks
    }
}

impl InstrumentedStore {
    /// Several instances on one bucket: each call sees the changes of the others.
    pub fn in_turn(stores: Vec<Arc<dyn ObjectStore>>) -> Arc<InstrumentedStore> {
        InstrumentedStore::over(stores, ())
    }
}

impl<H: Hooks> InstrumentedStore<H> {
    pub fn new(store: Arc<dyn ObjectStore>, hooks: H) -> Arc<InstrumentedStore<H>> {
        InstrumentedStore::over(vec![store], hooks)
    }

    fn over(stores: Vec<Arc<dyn ObjectStore>>, hooks: H) -> Arc<InstrumentedStore<H>> {
        Arc::new(InstrumentedStore {
            stores,
            turn: AtomicUsize::new(0),
            hooks,
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

    /// The underlying store, without delays and failures.
    pub fn store(&self) -> &Arc<dyn ObjectStore> {
        &self.stores[self.turn.fetch_add(1, Ordering::Relaxed) % self.stores.len()]
    }

    pub fn set_mood(&self, mood: Mood) {
        *lock(&self.mood) = mood;
    }

    pub fn fail(&self, failure: Option<Failure>) {
        *lock(&self.failure) = failure;
    }

    pub fn refuse(&self, refusal: Option<Refusal>) {
        *lock(&self.refusal) = refusal;
    }

    pub fn last_refused(&self) -> Option<Call> {
        *lock(&self.last_refused)
    }

    /// Refuses to delete keys that contain this.
    pub fn keep(&self, keys: Option<&str>) {
        *lock(&self.undeletable) = keys.map(str::to_owned);
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
    pub fn hold_answers(&self, call: Call) -> Held<'_, H> {
        *lock(&self.held) = Some((call, Arc::new(Semaphore::new(0))));
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
        lock(&self.calls).get(&call).copied().unwrap_or_default()
    }

    /// The calls since the last time this was called.
    pub fn take_calls(&self) -> HashMap<Call, u32> {
        std::mem::take(&mut lock(&self.calls))
    }

    fn check_deletable(&self, key: &ObjectKey) -> Result<()> {
        match &*lock(&self.undeletable) {
            Some(kept) if key.as_str().contains(kept) => Err(refused()),
            _ => Ok(()),
        }
    }

    /// Counts the call, and decides its outcome.
    fn begin(&self, call: Call) -> Fate {
        *lock(&self.calls).entry(call).or_default() += 1;
        if self.is_refused(call) {
            return Fate::Fails(refused());
        }
        let mut plan = lock(&self.failure);
        let Some(failure) = plan
            .as_mut()
            .filter(|failure| call.changes() || !failure.changes_only)
        else {
            return self.hooks.decide(call);
        };
        if failure.after > 0 {
            failure.after -= 1;
            return Fate::CarriedOut;
        }
        let lost = failure.lost;
        failure.times -= 1;
        if failure.times == 0 {
            *plan = None;
        }
        self.failed.fetch_add(1, Ordering::Relaxed);
        match lost {
            true => Fate::AnswerLost(unavailable()),
            false => Fate::Fails(unavailable()),
        }
    }

    fn is_refused(&self, call: Call) -> bool {
        let mut refusal = lock(&self.refusal);
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
        *lock(&self.last_refused) = Some(call);
        true
    }

    async fn call<T>(&self, call: Call, work: impl Future<Output = Result<T>>) -> Result<T> {
        let fate = self.begin(call);
        let mood = *lock(&self.mood);
        match mood {
            Mood::Well => {}
            Mood::Slow(delay) => tokio::time::sleep(delay).await,
            Mood::Refusing => {
                // Like a service: not at once.
                tokio::time::sleep(Duration::from_millis(1)).await;
                return Err(refused());
            }
            Mood::Hanging(timeout) => {
                tokio::time::sleep(timeout).await;
                let stalled = std::io::Error::other("hung by the test");
                return Err(Error::TimedOut(Arc::new(stalled)));
            }
        }
        match fate {
            Fate::CarriedOut => {
                let answer = work.await;
                let held = lock(&self.held).clone();
                if let Some((_, held)) = held.filter(|(held, _)| *held == call) {
                    self.holding.fetch_add(1, Ordering::Relaxed);
                    let _gone = held.acquire().await.expect("never closed");
                    self.holding.fetch_sub(1, Ordering::Relaxed);
                }
                answer
            }
            Fate::Fails(error) => Err(error),
            Fate::AnswerLost(error) => {
                let _ = work.await;
                Err(error)
            }
        }
    }
}

/// Responses that are held back until this is dropped.
pub struct Held<'a, H>(&'a InstrumentedStore<H>);

impl<H> Drop for Held<'_, H> {
    fn drop(&mut self) {
        if let Some((_, held)) = lock(&self.0.held).take() {
            held.add_permits(1000);
        }
    }
}

/// The error of a deliberate failure.
pub fn unavailable() -> Error {
    Error::Unavailable(Arc::new(std::io::Error::other("failed by the test")))
}

fn refused() -> Error {
    Error::AccessDenied(Arc::new(std::io::Error::other("refused by the test")))
}

#[async_trait]
impl<H: Hooks> ObjectStore for InstrumentedStore<H> {
    fn name(&self) -> String {
        self.store().name()
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectMeta> {
        self.call(Call::Head, self.hooks.head(&**self.store(), key))
            .await
    }

    async fn get(
        &self,
        key: &ObjectKey,
        range: Option<ByteRange>,
        if_match: Option<&ETag>,
    ) -> Result<GetAnswer> {
        let got = self.hooks.get(&**self.store(), key, range, if_match);
        self.call(Call::Get, got).await
    }

    async fn put(
        &self,
        key: &ObjectKey,
        headers: &ObjectHeaders,
        body: Body,
        overwrite: Overwrite,
    ) -> Result<PutAnswer> {
        self.call(Call::Put, async {
            let _going = self.puts.acquire().await.expect("never closed");
            let body = self.hooks.received(body).await?;
            let put = self.store().put(key, headers, body, overwrite);
            let mut answer = put.await?;
            self.hooks.written(key, &mut answer);
            Ok(answer)
        })
        .await
    }

    async fn delete(&self, key: &ObjectKey) -> Result<()> {
        self.call(Call::Delete, async {
            self.check_deletable(key)?;
            self.store().delete(key).await
        })
        .await
    }

    async fn delete_many(&self, keys: &[ObjectKey]) -> Result<Vec<(ObjectKey, Error)>> {
        self.call(Call::Delete, async {
            let (free, kept): (Vec<ObjectKey>, Vec<ObjectKey>) = keys
                .iter()
                .cloned()
                .partition(|key| self.check_deletable(key).is_ok());
            let mut failed = self.store().delete_many(&free).await?;
            failed.extend(kept.into_iter().map(|key| (key, refused())));
            Ok(failed)
        })
        .await
    }

    async fn copy(&self, request: &CopyRequest) -> Result<PutAnswer> {
        self.call(Call::Copy, async {
            let mut answer = self.store().copy(request).await?;
            self.hooks.written(&request.destination, &mut answer);
            Ok(answer)
        })
        .await
    }

    async fn list(&self, request: &ListRequest) -> Result<ListPage> {
        self.call(Call::List, self.hooks.list(&**self.store(), request))
            .await
    }

    async fn create_multipart(&self, key: &ObjectKey, headers: &ObjectHeaders) -> Result<UploadId> {
        self.hooks.upload_begins(headers);
        let begun = self.store().create_multipart(key, headers);
        self.call(Call::CreateMultipart, begun).await
    }

    async fn upload_part(
        &self,
        key: &ObjectKey,
        upload: &UploadId,
        number: u16,
        body: Body,
    ) -> Result<UploadedPart> {
        self.call(Call::UploadPart, async {
            let body = self.hooks.received(body).await?;
            let part = self.store().upload_part(key, upload, number, body);
            let mut part = part.await?;
            self.hooks.part_written(&mut part);
            Ok(part)
        })
        .await
    }

    async fn copy_part(&self, request: &CopyPartRequest) -> Result<UploadedPart> {
        self.call(Call::CopyPart, self.store().copy_part(request))
            .await
    }

    async fn complete_multipart(
        &self,
        key: &ObjectKey,
        upload: &UploadId,
        parts: &[UploadedPart],
        overwrite: Overwrite,
    ) -> Result<PutAnswer> {
        self.call(Call::Complete, async {
            let completed = self
                .store()
                .complete_multipart(key, upload, parts, overwrite);
            let mut answer = completed.await?;
            self.hooks.written(key, &mut answer);
            Ok(answer)
        })
        .await
    }

    async fn abort_multipart(&self, key: &ObjectKey, upload: &UploadId) -> Result<()> {
        self.call(Call::Abort, self.store().abort_multipart(key, upload))
            .await
    }

    async fn list_uploads(&self, prefix: &str) -> Result<Vec<PendingUpload>> {
        self.store().list_uploads(prefix).await
    }

    async fn bucket_info(&self) -> Result<BucketInfo> {
        self.store().bucket_info().await
    }

    async fn bucket_stat(&self) -> Result<Option<BucketStat>> {
        self.store().bucket_stat().await
    }
}
