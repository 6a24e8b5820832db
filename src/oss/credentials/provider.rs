//! The key that requests are signed with now, renewed while the mount runs.
//!
//! Three things make a key old: it is about to expire, the service refuses it, or its file was replaced. In each case
//! the source is asked once, by a task of its own, however many requests wait: a request that is interrupted must not
//! end what others wait for. As long as the present key is valid nobody waits. Without a valid one, requests wait until
//! their deadline while the source is asked again and again, with growing pauses; so a mount heals by itself. Only
//! before the first request has succeeded a failure is reported at once: then it is a mistake of the set-up, and a mount
//! that waits for it to go away would only hide it.
//!
//! [`State`] decides, with times as arguments; [`Provider`] waits, fetches and logs.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant, SystemTime};

use log::{error, info, warn};
use tokio::sync::watch;

use super::access_key::AccessKey;
use super::environment::Fixed;
use super::error::{Error, Fault, Kind};
use super::source::Source;
use crate::base::backoff;
use crate::base::log_limit::LogLimit;
use crate::base::sync::lock;

/// How long before its expiry a key is renewed: this, or a quarter of its life if that is shorter.
const EARLY: Duration = Duration::from_secs(15 * 60);
/// The first pause after a failure; doubled after each further one.
const BASE: Duration = Duration::from_millis(200);
/// The longest pause: a request with the usual timeout sees several tries.
const CAP: Duration = Duration::from_secs(10);
/// Until a source that still gives a key which is about to expire is asked again.
const SAME: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(60);
/// How often a source is asked whether it has changed.
const LOOK: Duration = Duration::from_secs(5);
/// The longest sleep of the task that renews: a machine that was suspended notices its expired key soon.
const NAP: Duration = Duration::from_secs(60);
/// Before the first success, a source that cannot be reached is asked this often.
const FIRST_TRIES: u32 = 3;
/// Between two messages about the same trouble.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// Cheap to clone; all clones share the key.
#[derive(Clone)]
pub struct Provider(Arc<Inner>);

struct Inner {
    source: Box<dyn Source>,
    /// A leaf: nothing is locked or awaited while it is held.
    state: Mutex<State>,
    /// How many fetches have ended.
    ended: watch::Sender<u64>,
    /// The present key has signed a request that the service accepted, and there is no trouble: the usual case, which
    /// costs no lock.
    settled: AtomicBool,
    /// Of messages about trouble.
    log: LogLimit,
}

#[derive(Default)]
struct State {
    held: Option<Held>,
    /// Of the last fetch, if it failed.
    failure: Option<Error>,
    /// Fetches since the last one that led to an accepted request.
    failures: u32,
    /// The source is not asked before.
    not_before: Option<Instant>,
    fetching: bool,
    /// The task that renews was started, if there is anything to renew.
    kept: bool,
    /// A request has been accepted since the start.
    proven: bool,
    /// Trouble was logged, and its end is worth a line.
    troubled: bool,
}

struct Held {
    key: Arc<AccessKey>,
    /// The service has refused it.
    refused: bool,
    renew_at: Option<SystemTime>,
}

/// What a fetch came to, for the log.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    /// The first key.
    First,
    Renewed,
    Same,
    /// There is a valid key nevertheless.
    Failed,
    /// There is none, and requests wait.
    Waiting,
    /// There is none, and has never been one: whoever waits reports it.
    Refused,
}

/// When a key that is known at `now` is renewed.
fn renew_at(expires: SystemTime, now: SystemTime) -> SystemTime {
    let left = expires.duration_since(now).unwrap_or_default();
    expires - EARLY.min(left / 4)
}

impl State {
    /// The key, if it is valid as far as is known.
    fn valid(&self, now: SystemTime) -> Option<&Held> {
        let held = self.held.as_ref()?;
        (!held.refused && !held.key.has_expired(now)).then_some(held)
    }

    /// The key, if there is nothing else to do than to use it.
    fn usual(&self, now: SystemTime) -> Option<Arc<AccessKey>> {
        let held = self.valid(now)?;
        (self.kept && !self.is_due(now)).then(|| held.key.clone())
    }

    fn is_due(&self, now: SystemTime) -> bool {
        let held = self.held.as_ref();
        held.is_none_or(|held| held.renew_at.is_some_and(|at| at <= now))
    }

    /// Whether a fetch begins: one at a time, and not before the pause is over.
    fn begins(&mut self, at: Instant) -> bool {
        let begins = !self.fetching && self.not_before.is_none_or(|not_before| not_before <= at);
        self.fetching |= begins;
        begins
    }

    /// Whether whoever waits since `before` fetches had ended gives up early, now that `ended` have.
    fn reports(&self, before: u64, ended: u64) -> Option<&Error> {
        let failure = self
            .failure
            .as_ref()
            .filter(|_| !self.proven && ended > before)?;
        let transient = failure.kind == Kind::Unreachable;
        (!transient || self.failures >= FIRST_TRIES).then_some(failure)
    }

    fn pause(&mut self, at: Instant, random: f64) {
        self.failures = self.failures.saturating_add(1);
        let pause = backoff::jittered(backoff::exponential(BASE, self.failures, CAP), random);
        self.not_before = Some(at + pause);
    }

    /// A fetch has ended.
    fn fetched(
        &mut self,
        result: Result<Arc<AccessKey>, Error>,
        name: &str,
        (now, at): (SystemTime, Instant),
        random: f64,
    ) -> Outcome {
        self.fetching = false;
        let key = match result {
            Ok(key) => key,
            Err(error) => return self.failed(error, (now, at), random),
        };
        let same = match &self.held {
            Some(held) => held.key.is_same(&key),
            None => false,
        };
        let was_refused = self.held.as_ref().is_some_and(|held| held.refused);
        if same && was_refused {
            let why = "they are still those that the service refused";
            let fault = Fault {
                kind: Kind::Unchanged,
                why: why.to_owned(),
            };
            let outcome = self.failed(fault.of(name), (now, at), random);
            // The service may have been wrong: after a while the key is worth another request.
            if self.failures >= 2
                && let Some(held) = &mut self.held
            {
                held.refused = false;
            }
            return outcome;
        }
        let first = self.held.is_none();
        let renew_at = key.expires().map(|expires| renew_at(expires, now));
        self.failure = None;
        match (was_refused, same) {
            // A source whose new keys are refused one after the other is asked less and less often.
            (true, _) => self.pause(at, random),
            (false, true) => {
                let left = key
                    .expires()
                    .and_then(|expires| expires.duration_since(now).ok());
                let pause = left.unwrap_or(NAP) / 4;
                self.not_before = Some(at + pause.clamp(*SAME.start(), *SAME.end()));
            }
            (false, false) => self.not_before = None,
        }
        self.held = Some(Held {
            key,
            refused: false,
            renew_at,
        });
        match (first, same) {
            (true, _) => Outcome::First,
            (_, true) => Outcome::Same,
            _ => Outcome::Renewed,
        }
    }

    fn failed(&mut self, error: Error, (now, at): (SystemTime, Instant), random: f64) -> Outcome {
        self.failure = Some(error);
        self.pause(at, random);
        match (self.valid(now).is_some(), self.proven) {
            (true, _) => Outcome::Failed,
            (false, true) => Outcome::Waiting,
            (false, false) => Outcome::Refused,
        }
    }

    /// How long the task that renews may sleep.
    fn nap(&self, watched: bool, (now, at): (SystemTime, Instant)) -> Duration {
        let longest = if watched { LOOK } else { NAP };
        let due = self.held.as_ref().and_then(|held| held.renew_at);
        let due = due.map_or(longest, |due| due.duration_since(now).unwrap_or_default());
        let pause = self.not_before.map_or(Duration::ZERO, |not_before| {
            not_before.saturating_duration_since(at)
        });
        // A key that is due while its fetch runs must not make a busy loop.
        due.max(pause).clamp(Duration::from_millis(100), longest)
    }
}

fn times() -> (SystemTime, Instant) {
    (SystemTime::now(), Instant::now())
}

impl Provider {
    pub fn new(source: Box<dyn Source>) -> Provider {
        Provider(Arc::new(Inner {
            source,
            state: Mutex::default(),
            ended: watch::Sender::new(0),
            settled: AtomicBool::new(false),
            log: LogLimit::new(),
        }))
    }

    /// The source, for messages.
    pub fn source(&self) -> String {
        self.0.source.name()
    }

    /// A key to sign with. Waits for one until `deadline` at most.
    ///
    /// # Errors
    /// The source gives none.
    pub async fn key(&self, deadline: Instant) -> Result<Arc<AccessKey>, Error> {
        let inner = &self.0;
        if self.0.settled.load(Ordering::Relaxed)
            && let Some(key) = inner.state().usual(SystemTime::now())
        {
            return Ok(key);
        }
        let mut ended = inner.ended.subscribe();
        let before = *ended.borrow();
        loop {
            let so_far = *ended.borrow_and_update();
            let wake = {
                let mut state = inner.state();
                let (now, at) = times();
                let valid = state.valid(now).map(|held| held.key.clone());
                if let Some(key) = valid {
                    if state.is_due(now) && state.begins(at) {
                        inner.fetch();
                    }
                    inner.keep(&mut state);
                    return Ok(key);
                }
                if let Some(failure) = state.reports(before, so_far) {
                    return Err(failure.clone());
                }
                if state.begins(at) {
                    inner.fetch();
                }
                match state.not_before {
                    Some(not_before) if !state.fetching => not_before.min(deadline),
                    _ => deadline,
                }
            };
            let woken = tokio::time::timeout_at(wake.into(), ended.changed()).await;
            if woken.is_err() && Instant::now() >= deadline {
                let failure = inner.state().failure.clone();
                return Err(failure.unwrap_or_else(|| {
                    Fault::unreachable("there was no answer in time").of(self.source())
                }));
            }
        }
    }

    /// The service has refused a request that `key` signed, for the key's sake. Returns whether another key may be had
    /// with [`Provider::key`].
    pub fn refused(&self, key: &Arc<AccessKey>) -> bool {
        if !self.0.source.renews() {
            return false;
        }
        let mut state = self.0.state();
        if let Some(held) = &mut state.held
            && Arc::ptr_eq(&held.key, key)
        {
            held.refused = true;
            self.0.settled.store(false, Ordering::Relaxed);
        }
        true
    }

    /// The service has accepted a request that `key` signed.
    pub fn accepted(&self, key: &Arc<AccessKey>) {
        if self.0.settled.load(Ordering::Relaxed) {
            return;
        }
        let mut state = self.0.state();
        let current = state
            .held
            .as_ref()
            .is_some_and(|held| Arc::ptr_eq(&held.key, key));
        if !current {
            return;
        }
        state.proven = true;
        match &state.failure {
            // The key is valid, and its renewal has failed: that goes on.
            Some(failure) if failure.kind != Kind::Unchanged => return,
            _ => {}
        }
        if state.troubled {
            warn!("credentials from {}: accepted again", self.source());
        }
        state.troubled = false;
        state.failure = None;
        state.failures = 0;
        self.0.settled.store(true, Ordering::Relaxed);
    }
}

impl From<AccessKey> for Provider {
    fn from(key: AccessKey) -> Provider {
        Provider::new(Box::new(Fixed::new("the caller", key)))
    }
}

/// Ends a fetch whatever becomes of its task, so that the next one can begin.
struct Flight {
    inner: Arc<Inner>,
    over: bool,
}

impl Drop for Flight {
    fn drop(&mut self) {
        if !self.over {
            self.inner.state().fetching = false;
        }
        self.inner.ended.send_modify(|ended| *ended += 1);
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Asks the source, in a task of its own. Only after [`State::begins`].
    fn fetch(self: &Arc<Inner>) {
        let flight = Flight {
            inner: self.clone(),
            over: false,
        };
        tokio::spawn(async move {
            // All of it, so that it is dropped here.
            let mut flight = flight;
            let inner = flight.inner.clone();
            let result = inner.source.fetch().await;
            let name = inner.source.name();
            inner.settled.store(false, Ordering::Relaxed);
            let mut state = inner.state();
            let outcome = state.fetched(result, &name, times(), rand::random());
            flight.over = true;
            inner.report(&mut state, &outcome, &name);
        });
    }

    /// One line for each change; the same trouble again only now and then.
    fn report(&self, state: &mut State, outcome: &Outcome, name: &str) {
        let key = state.held.as_ref().map(|held| &held.key);
        let (id, expiry) = key.map_or_else(Default::default, |key| (key.shown_id(), key.expiry()));
        let why = state
            .failure
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default();
        match outcome {
            Outcome::First => info!("credentials from {name}: the access key {id}{expiry}"),
            // The end of trouble is logged at the level of its beginning.
            Outcome::Renewed | Outcome::Same if state.troubled => {
                warn!("credentials from {name}: available again, the access key {id}{expiry}");
                state.troubled = false;
            }
            Outcome::Renewed => {
                info!("credentials from {name}: renewed, the access key {id}{expiry}");
            }
            Outcome::Same | Outcome::Refused => {}
            Outcome::Failed | Outcome::Waiting => {
                let admitted = self.log.admits(Instant::now(), LOG_INTERVAL);
                if !admitted && state.troubled {
                    return;
                }
                state.troubled = true;
                match outcome {
                    Outcome::Failed => {
                        warn!("{why}; the present access key {id} stays in use{expiry}")
                    }
                    _ => error!(
                        "{why}; the access key {id} is no longer valid, and requests wait for another"
                    ),
                }
            }
        }
    }

    /// Starts the task that renews the key while no request asks for it.
    fn keep(self: &Arc<Inner>, state: &mut State) {
        if !std::mem::replace(&mut state.kept, true) && self.source.renews() {
            tokio::spawn(keep(Arc::downgrade(self)));
        }
    }
}

/// Ends with the provider.
async fn keep(provider: Weak<Inner>) {
    loop {
        let Some(inner) = provider.upgrade() else {
            return;
        };
        let watched = inner.source.is_watched();
        let nap = inner.state().nap(watched, times());
        drop(inner);
        tokio::time::sleep(nap).await;
        let Some(inner) = provider.upgrade() else {
            return;
        };
        let changed = watched && inner.source.changed().await;
        let (now, at) = times();
        let mut state = inner.state();
        if (changed || state.is_due(now)) && state.begins(at) {
            inner.fetch();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use async_trait::async_trait;
    use zeroize::Zeroizing;

    use super::super::access_key::Names;
    use super::*;

    fn key(id: &str, life: Option<Duration>) -> Arc<AccessKey> {
        let names = Names {
            id: "id",
            secret: "secret",
            token: "token",
        };
        let now = SystemTime::now();
        let values = [Some(id), Some("s"), None].map(|v| Some(Zeroizing::new(v?.to_owned())));
        let expires = life.map(|life| now + life);
        Arc::new(
            AccessKey::checked(names, values, expires, now)
                .ok()
                .unwrap(),
        )
    }

    fn broken(kind: Kind) -> Error {
        let why = "broken".to_owned();
        Fault { kind, why }.of("a test")
    }

    /// Gives these one after the other, the last one for ever, each after a while.
    struct Script {
        left: Mutex<VecDeque<Result<Arc<AccessKey>, Kind>>>,
        asked: Arc<Mutex<u32>>,
        takes: Duration,
    }

    #[async_trait]
    impl Source for Script {
        fn name(&self) -> String {
            "a test".to_owned()
        }

        async fn fetch(&self) -> Result<Arc<AccessKey>, Error> {
            *lock(&self.asked) += 1;
            tokio::time::sleep(self.takes).await;
            let mut left = lock(&self.left);
            let next = match left.len() {
                1 => left.front().cloned(),
                _ => left.pop_front(),
            };
            next.unwrap().map_err(broken)
        }
    }

    fn script(
        results: impl IntoIterator<Item = Result<Arc<AccessKey>, Kind>>,
        takes: u64,
    ) -> (Provider, Arc<Mutex<u32>>) {
        let asked = Arc::new(Mutex::new(0));
        let source = Script {
            left: Mutex::new(results.into_iter().collect()),
            asked: asked.clone(),
            takes: Duration::from_millis(takes),
        };
        (Provider::new(Box::new(source)), asked)
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(5)
    }

    #[test]
    fn a_key_is_renewed_well_before_it_expires() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        for (life, early) in [(0, 0), (4, 1), (3600, 900), (900, 225), (6 * 3600, 900)] {
            let expires = now + Duration::from_secs(life);
            assert_eq!(renew_at(expires, now), expires - Duration::from_secs(early));
        }
    }

    #[tokio::test]
    async fn one_fetch_serves_all_who_wait() {
        let (provider, asked) = script([Ok(key("a", None)), Ok(key("b", None))], 50);
        let all = |count: usize| {
            let waiting = (0..count).map(|_| {
                let provider = provider.clone();
                tokio::spawn(async move { provider.key(soon()).await.unwrap() })
            });
            futures_util::future::join_all(waiting.collect::<Vec<_>>())
        };
        for key in all(100).await {
            assert_eq!(key.unwrap().id(), "a");
        }
        assert_eq!(*lock(&asked), 1);
        let first = provider.key(soon()).await.unwrap();
        provider.accepted(&first);
        // Refusals of the old key that arrive late renew nothing again.
        assert!(provider.refused(&first));
        for key in all(100).await {
            assert_eq!(key.unwrap().id(), "b");
        }
        assert!(provider.refused(&first));
        assert_eq!(provider.key(soon()).await.unwrap().id(), "b");
        assert_eq!(*lock(&asked), 2);
    }

    #[tokio::test]
    async fn a_key_is_renewed_before_it_expires_although_nothing_asks_for_one() {
        let life = Duration::from_secs(2);
        let (provider, asked) = script([Ok(key("a", Some(life))), Ok(key("b", None))], 200);
        assert_eq!(provider.key(soon()).await.unwrap().id(), "a");
        tokio::time::sleep(Duration::from_millis(2500)).await;
        assert_eq!(*lock(&asked), 2);
        let key = provider.key(Instant::now()).await;
        assert_eq!(key.unwrap().id(), "b");
    }

    #[tokio::test]
    async fn a_failure_before_the_first_success_is_reported_at_once() {
        for (kind, tries) in [
            (Kind::Unusable, 1),
            (Kind::Expired, 1),
            (Kind::Unreachable, FIRST_TRIES),
        ] {
            let (provider, asked) = script([Err(kind)], 1);
            let began = Instant::now();
            let error = provider.key(soon()).await.map(|_| ()).unwrap_err();
            assert_eq!(error.to_string(), "credentials from a test: broken");
            assert!(began.elapsed() < Duration::from_secs(2), "{kind:?}");
            assert_eq!(*lock(&asked), tries, "{kind:?}");
        }
        // The same key again, although nothing was ever accepted.
        let (provider, _) = script([Ok(key("a", None))], 1);
        let first = provider.key(soon()).await.unwrap();
        assert!(provider.refused(&first));
        let error = provider.key(soon()).await.map(|_| ()).unwrap_err();
        assert_eq!(error.kind, Kind::Unchanged);
    }

    #[tokio::test]
    async fn requests_wait_for_the_source_to_heal_until_their_deadline() {
        let failures = std::iter::repeat_n(Err(Kind::Unreachable), 3);
        let results = std::iter::once(Ok(key("a", None)));
        let results = results.chain(failures).chain([Ok(key("b", None))]);
        let (provider, _) = script(results, 1);
        let first = provider.key(soon()).await.unwrap();
        provider.accepted(&first);
        provider.refused(&first);
        let short = Instant::now() + Duration::from_millis(50);
        let error = provider.key(short).await.map(|_| ()).unwrap_err();
        assert_eq!(error.kind, Kind::Unreachable);
        assert_eq!(provider.key(soon()).await.unwrap().id(), "b");
    }

    #[tokio::test]
    async fn a_source_that_does_not_answer_costs_no_more_than_the_deadline() {
        let (provider, _) = script([Ok(key("a", None))], 60_000);
        let began = Instant::now();
        let deadline = began + Duration::from_millis(100);
        let error = provider.key(deadline).await.map(|_| ()).unwrap_err();
        assert_eq!(error.kind, Kind::Unreachable);
        assert!(began.elapsed() < Duration::from_secs(2));
    }

    /// A service that refuses a valid key for a while must not leave the mount without one.
    #[tokio::test]
    async fn a_refused_key_is_tried_again_if_the_source_has_no_other() {
        let (provider, asked) = script([Ok(key("a", None))], 1);
        let first = provider.key(soon()).await.unwrap();
        provider.accepted(&first);
        for _ in 0..2 {
            assert!(provider.refused(&first));
            assert_eq!(provider.key(soon()).await.unwrap().id(), "a");
        }
        assert!(*lock(&asked) >= 3);
        provider.accepted(&first);
        assert_eq!(provider.key(soon()).await.unwrap().id(), "a");
    }

    #[tokio::test]
    async fn whoever_stops_waiting_ends_nothing_for_the_others() {
        let (provider, asked) = script([Ok(key("a", None))], 200);
        let impatient = provider.key(soon());
        let short = Duration::from_millis(20);
        assert!(tokio::time::timeout(short, impatient).await.is_err());
        assert_eq!(provider.key(soon()).await.unwrap().id(), "a");
        assert_eq!(*lock(&asked), 1);
    }

    #[tokio::test]
    async fn a_key_that_never_changes_is_not_asked_for_again() {
        let provider = Provider::from(AccessKey::new("id", "s", None));
        let key = provider.key(soon()).await.unwrap();
        assert!(!provider.refused(&key));
        assert!(Arc::ptr_eq(&key, &provider.key(soon()).await.unwrap()));
    }

    #[test]
    fn new_keys_that_are_refused_too_slow_the_fetches_down() {
        let mut state = State::default();
        let (now, at) = times();
        let mut pauses = Vec::new();
        for n in 0..5 {
            assert!(state.begins(at + CAP * n));
            let fresh = key(&format!("key{n}"), None);
            state.fetched(Ok(fresh), "a test", (now, at + CAP * n), 1.0);
            let until = state
                .not_before
                .map(|not_before| not_before - (at + CAP * n));
            pauses.push(until.unwrap_or_default().as_millis());
            state.held.as_mut().unwrap().refused = true;
        }
        assert_eq!(pauses, [0, 200, 400, 800, 1600]);
    }

    #[test]
    fn a_source_that_gives_the_same_key_again_is_not_asked_without_a_pause() {
        let mut state = State::default();
        let (now, at) = times();
        let old = key("a", Some(Duration::from_secs(40)));
        for expected in [Outcome::First, Outcome::Same] {
            let outcome = state.fetched(Ok(old.clone()), "a test", (now, at), 0.5);
            assert_eq!(outcome, expected);
        }
        let later = now + Duration::from_secs(32);
        assert!(state.is_due(later) && !state.begins(at));
        assert!(state.begins(at + Duration::from_secs(11)));
        // And a failure leaves the valid key in use.
        let outcome = state.fetched(Err(broken(Kind::Unreachable)), "a test", (later, at), 0.5);
        assert_eq!(outcome, Outcome::Failed);
        assert!(state.valid(later).is_some());
        assert!(state.valid(now + Duration::from_secs(41)).is_none());
    }
}
