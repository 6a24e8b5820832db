//! What tests and benches need of a server: counts, latency, faults.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};

use super::operation::Operation;
use super::refusal::{Refusal, Result};
use crate::base::sync::lock;

/// Latency and faults can be changed, and counts read, while the server runs.
#[derive(Default)]
pub struct Instruments {
    latency_us: AtomicU64,
    /// What is added to this machine's clock, in seconds.
    clock_offset: AtomicI64,
    ignores_conditions: AtomicBool,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    /// Held for memory only.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    faults: Vec<Fault>,
    /// The actions that requests may need, by their names in policies; none is all.
    allowed: Option<BTreeSet<String>>,
    denied: BTreeMap<&'static str, u64>,
    requests: BTreeMap<Operation, u64>,
    in_flight: BTreeMap<Operation, u64>,
    most_in_flight: BTreeMap<Operation, u64>,
    last_write: Option<Instant>,
}

/// What has been asked of the server since the start or the last reset.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Counts {
    pub requests: BTreeMap<Operation, u64>,
    /// The most requests of an operation that were under way at one time.
    pub most_in_flight: BTreeMap<Operation, u64>,
    /// Of bodies.
    pub bytes_in: u64,
    /// Of bodies.
    pub bytes_out: u64,
    /// Requests under way.
    pub in_flight: u64,
    /// Milliseconds since the last request that may have changed something ended; none if there was none.
    pub since_write_ms: Option<u64>,
}

impl Counts {
    pub fn of(&self, operation: Operation) -> u64 {
        self.requests.get(&operation).copied().unwrap_or(0)
    }

    pub fn most_in_flight(&self, operation: Operation) -> u64 {
        self.most_in_flight.get(&operation).copied().unwrap_or(0)
    }

    pub fn total(&self) -> u64 {
        self.requests.values().sum()
    }

    /// Requests of all operations but these.
    pub fn others(&self, but: &[Operation]) -> u64 {
        self.total() - but.iter().map(|operation| self.of(*operation)).sum::<u64>()
    }
}

/// Spoils requests. Of those that match, `skip` pass first, then `times` are spoiled, then all pass.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Fault {
    /// Only this operation; none is any.
    #[serde(default)]
    pub operation: Option<Operation>,
    /// Only keys that contain this.
    #[serde(default)]
    pub key: String,
    #[serde(default)]
    pub skip: u64,
    #[serde(default = "once")]
    pub times: u64,
    pub action: Action,
}

fn once() -> u64 {
    1
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// An error answer, before any effect.
    Status { status: u16, code: String },
    /// The connection ends before any effect and without an answer.
    Reset,
    /// Everything is done, and then the connection ends without an answer.
    LoseAnswer,
    /// Nothing happens for so long; then all is as usual.
    Stall { ms: u64 },
    /// The answer's body ends after this many bytes, and with it the connection.
    TruncateBody { after: u64 },
    /// The answer's body pauses after this many bytes.
    StallBody { after: u64, ms: u64 },
    /// One bit of the answer's body is flipped at this offset.
    CorruptBody { at: u64 },
}

impl Fault {
    /// One request of this operation.
    pub fn once(operation: Operation, action: Action) -> Fault {
        Fault {
            operation: Some(operation),
            key: String::new(),
            skip: 0,
            times: 1,
            action,
        }
    }

    pub fn on_keys(mut self, key: impl Into<String>) -> Fault {
        self.key = key.into();
        self
    }

    pub fn after(mut self, skip: u64) -> Fault {
        self.skip = skip;
        self
    }

    pub fn times(mut self, times: u64) -> Fault {
        self.times = times;
        self
    }

    /// Until the faults are cleared.
    pub fn always(self) -> Fault {
        self.times(u64::MAX)
    }
}

impl Instruments {
    /// Every request waits this long before it is looked at.
    pub fn set_latency(&self, latency: Duration) {
        self.latency_us
            .store(latency.as_micros() as u64, Ordering::Relaxed);
    }

    pub fn latency(&self) -> Duration {
        Duration::from_micros(self.latency_us.load(Ordering::Relaxed))
    }

    /// The server's clock is so many seconds ahead of this machine's.
    pub fn set_clock(&self, ahead: i64) {
        self.clock_offset.store(ahead, Ordering::Relaxed);
    }

    /// The server's clock.
    pub(super) fn now(&self) -> SystemTime {
        let now = SystemTime::now();
        let ahead = self.clock_offset.load(Ordering::Relaxed);
        let by = Duration::from_secs(ahead.unsigned_abs());
        if ahead < 0 { now - by } else { now + by }
    }

    /// Whether requests are carried out whatever their conditions are, as services do that do not know them.
    pub fn ignore_conditions(&self, ignore: bool) {
        self.ignores_conditions.store(ignore, Ordering::Relaxed);
    }

    pub(super) fn ignores_conditions(&self) -> bool {
        self.ignores_conditions.load(Ordering::Relaxed)
    }

    /// The first fault that matches a request spoils it.
    pub fn add_fault(&self, fault: Fault) {
        self.state().faults.push(fault);
    }

    /// From now on, requests are refused that need another action than these (`oss:GetObject`).
    pub fn allow_only<'a>(&self, actions: impl IntoIterator<Item = &'a str>) {
        let mut state = self.state();
        state.allowed = Some(actions.into_iter().map(str::to_string).collect());
        state.denied.clear();
    }

    pub fn allow_all(&self) {
        self.state().allowed = None;
    }

    /// The actions that requests were refused for since [`Instruments::allow_only`], and how often.
    pub fn denied(&self) -> BTreeMap<&'static str, u64> {
        self.state().denied.clone()
    }

    /// # Errors
    /// 403 with the first action that the operation needs and is not allowed.
    pub(super) fn permit(&self, operation: Operation) -> Result<()> {
        let mut state = self.state();
        let Some(allowed) = &state.allowed else {
            return Ok(());
        };
        let mut needed = operation.actions().iter().copied();
        let Some(action) = needed.find(|action| !allowed.contains(*action)) else {
            return Ok(());
        };
        *state.denied.entry(action).or_default() += 1;
        Err(Refusal::new(
            403,
            "AccessDenied",
            "You have no right to access this object.",
        )
        .ec("0003-00000001")
        .with("AuthAction", action))
    }

    pub fn clear_faults(&self) {
        self.state().faults.clear();
    }

    pub fn counts(&self) -> Counts {
        let state = self.state();
        Counts {
            requests: state.requests.clone(),
            most_in_flight: state.most_in_flight.clone(),
            bytes_in: self.bytes_in.load(Ordering::Relaxed),
            bytes_out: self.bytes_out.load(Ordering::Relaxed),
            in_flight: state.in_flight.values().sum(),
            since_write_ms: state
                .last_write
                .map(|last| last.elapsed().as_millis() as u64),
        }
    }

    /// Sets the counts to zero; latency and faults stay.
    pub fn reset_counts(&self) {
        let mut state = self.state();
        state.requests.clear();
        state.most_in_flight = state.in_flight.clone();
        state.last_write = None;
        self.bytes_in.store(0, Ordering::Relaxed);
        self.bytes_out.store(0, Ordering::Relaxed);
    }

    pub(super) fn begin(&self, operation: Operation) {
        let mut state = self.state();
        *state.requests.entry(operation).or_default() += 1;
        let now = state.in_flight.entry(operation).or_default();
        *now += 1;
        let now = *now;
        let most = state.most_in_flight.entry(operation).or_default();
        *most = now.max(*most);
    }

    pub(super) fn end(&self, operation: Operation) {
        let mut state = self.state();
        if let Some(now) = state.in_flight.get_mut(&operation) {
            *now = now.saturating_sub(1);
        }
        if operation.writes() {
            state.last_write = Some(Instant::now());
        }
    }

    pub(super) fn received(&self, bytes: usize) {
        self.bytes_in.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn sent(&self, bytes: usize) {
        self.bytes_out.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// What shall happen to this request.
    pub(super) fn take_fault(&self, operation: Operation, key: &str) -> Option<Action> {
        let mut state = self.state();
        let matching = state.faults.iter_mut().filter(|fault| {
            fault.times > 0
                && fault.operation.is_none_or(|only| only == operation)
                && key.contains(&fault.key)
        });
        for fault in matching {
            if fault.skip > 0 {
                fault.skip -= 1;
                continue;
            }
            if fault.times != u64::MAX {
                fault.times -= 1;
            }
            return Some(fault.action.clone());
        }
        None
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        // Whoever panicked left numbers, and any numbers will do.
        lock(&self.state)
    }
}

/// Counts a request as under way until its answer has been sent.
pub struct InFlight {
    instruments: Arc<Instruments>,
    operation: Operation,
}

impl InFlight {
    pub fn begin(instruments: Arc<Instruments>, operation: Operation) -> InFlight {
        instruments.begin(operation);
        InFlight {
            instruments,
            operation,
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.instruments.end(self.operation);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_hits_the_requests_it_was_made_for() {
        let instruments = Instruments::default();
        instruments.add_fault(
            Fault::once(Operation::GetObject, Action::Reset)
                .on_keys("x")
                .after(1)
                .times(2),
        );
        let hits: Vec<bool> = [
            (Operation::GetObject, "ax"),
            (Operation::PutObject, "ax"),
            (Operation::GetObject, "a"),
            (Operation::GetObject, "x"),
            (Operation::GetObject, "x"),
            (Operation::GetObject, "x"),
        ]
        .map(|(operation, key)| instruments.take_fault(operation, key).is_some())
        .into();
        assert_eq!(hits, [false, false, false, true, true, false]);
    }

    #[test]
    fn a_fault_reads_as_json() {
        let fault: Fault = serde_json::from_str(
            r#"{"operation": "PutObject", "action": {"status": {"status": 503, "code": "ServiceUnavailable"}}}"#,
        )
        .unwrap();
        assert_eq!(
            (fault.operation, fault.times),
            (Some(Operation::PutObject), 1)
        );
        let fault: Fault =
            serde_json::from_str(r#"{"action": "lose-answer", "times": 3}"#).unwrap();
        assert_eq!((fault.action, fault.times), (Action::LoseAnswer, 3));
    }
}
