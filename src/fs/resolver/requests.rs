//! The resolver, and its requests in flight: each at most once at a time.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use tokio::runtime::Handle;

use super::markers::Markers;
use super::object_cache::ObjectCache;
use super::objects::Objects;
use super::prefetched::Prefetched;
use crate::base::sync::lock;
use crate::encrypted::EncryptedBucket;
use crate::fs::data::budget::MemoryBudget;
use crate::fs::error::{Error, Result};
use crate::fs::namespace::freshness::fresh;
use crate::fs::namespace::inode::Ino;
use crate::fs::namespace::names::Names;
use crate::fs::namespace::object_name::Name;
use crate::fs::namespace::scan::DirectoryScan;
use crate::fs::settings::Settings;
use crate::fs::supervisor::contained;

/// The listings that are under way, and whether each is of the whole directory.
pub(crate) type Scans = HashMap<Ino, (Arc<DirectoryScan>, bool)>;

/// Requests in flight, so that none is sent twice at once.
pub(crate) type InFlight = HashMap<RequestKey, (Instant, Shared<BoxFuture<'static, Result<()>>>)>;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum RequestKey {
    Name(Ino, Name),
    Object(Ino, Name),
    Directory(Ino),
}

impl RequestKey {
    /// The inode that must stay for as long as the request is in flight.
    fn inode(&self) -> Ino {
        match self {
            RequestKey::Name(parent, _) | RequestKey::Object(parent, _) => *parent,
            RequestKey::Directory(ino) => *ino,
        }
    }
}

/// Finds out what names stand for, with requests to the bucket where the cache does not tell.
pub(crate) struct Resolver {
    pub(super) bucket: Arc<EncryptedBucket>,
    pub(super) settings: Arc<Settings>,
    pub(super) runtime: Handle,
    pub(super) names: Arc<Names>,
    pub(super) cache: Arc<ObjectCache>,
    pub(super) objects: Arc<Objects>,
    pub(super) markers: Arc<Markers>,
    pub(super) budget: MemoryBudget,
    /// Where owners are not shown: groups that are, since the user of the mount is in them.
    pub(super) groups: Vec<u32>,
    pub(super) began: SystemTime,
    pub(super) scans: Mutex<Scans>,
    pub(super) questions: Mutex<InFlight>,
    pub(super) prefetched: Prefetched,
}

/// What a resolver is made of.
pub(crate) struct Parts {
    pub bucket: Arc<EncryptedBucket>,
    pub settings: Arc<Settings>,
    pub runtime: Handle,
    pub names: Arc<Names>,
    pub cache: Arc<ObjectCache>,
    pub objects: Arc<Objects>,
    pub markers: Arc<Markers>,
    pub budget: MemoryBudget,
    pub groups: Vec<u32>,
}

impl Resolver {
    pub(crate) fn new(parts: Parts) -> Arc<Resolver> {
        let prefetched = Prefetched::new(&parts.budget);
        Arc::new(Resolver {
            bucket: parts.bucket,
            settings: parts.settings,
            runtime: parts.runtime,
            names: parts.names,
            cache: parts.cache,
            objects: parts.objects,
            markers: parts.markers,
            budget: parts.budget,
            groups: parts.groups,
            began: SystemTime::now(),
            scans: Mutex::default(),
            questions: Mutex::default(),
            prefetched,
        })
    }

    /// How many listings are under way.
    pub(crate) fn listings(&self) -> usize {
        lock(&self.scans).len()
    }

    /// How many other requests are in flight.
    pub(crate) fn questions(&self) -> usize {
        lock(&self.questions).len()
    }

    /// Does `work`, unless the same is in flight for another caller, whose result counts for both.
    pub(super) async fn single_flight(
        self: &Arc<Self>,
        question: RequestKey,
        start: Instant,
        work: impl Future<Output = Result<()>> + Send + 'static,
    ) -> Result<()> {
        // However many callers give up or forget it meanwhile.
        let held = self.names.hold_inode(question.inode())?;
        let answer = {
            let mut questions = lock(&self.questions);
            match questions.get(&question) {
                Some((asked, answer))
                    if fresh(*asked, self.settings.metadata_ttl, start)
                        || self.settings.is_overdue(*asked, start) =>
                {
                    answer.clone()
                }
                _ => {
                    let resolver = self.clone();
                    let asked = Instant::now();
                    let key = question.clone();
                    let task = self.runtime.spawn(async move {
                        let result = contained(work).await;
                        drop(held);
                        let was_late = resolver.settings.is_overdue(asked, Instant::now());
                        let end = move |resolver: &Resolver| {
                            let mut questions = lock(&resolver.questions);
                            if questions.get(&key).is_some_and(|(at, _)| *at == asked) {
                                questions.remove(&key);
                            }
                        };
                        match &result {
                            Err(Error::TimedOut(_)) if was_late => resolver.after_a_moment(end),
                            _ => end(&resolver),
                        }
                        result
                    });
                    let answer = async move {
                        task.await
                            .unwrap_or_else(|_| Err(Error::io("a request was broken off")))
                    };
                    let answer = answer.boxed().shared();
                    questions.insert(question, (asked, answer.clone()));
                    answer
                }
            }
        };
        self.settings.in_time(start, answer).await?
    }

    /// The failure of a request that had all its time is the answer to the same request for a moment: for the
    /// kernel's second look.
    pub(super) fn after_a_moment(self: &Arc<Self>, end: impl FnOnce(&Resolver) + Send + 'static) {
        const MOMENT: Duration = Duration::from_millis(500);
        let resolver = Arc::downgrade(self);
        self.runtime.spawn(async move {
            tokio::time::sleep(MOMENT).await;
            if let Some(resolver) = resolver.upgrade() {
                end(&resolver);
            }
        });
    }
}
