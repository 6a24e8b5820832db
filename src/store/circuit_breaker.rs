//! A circuit breaker for a bucket that does not respond: only one probe at a time is sent until it responds
//! again.
//!
//! Without it, each call waits its whole timeout for a dead network, and so does the next: a desktop that
//! looks for one file freezes again and again. After a HEAD or a LIST has timed out, and no response has
//! arrived since it began, all queries fail at once, including those in flight, while a probe is sent every
//! half second. The first response, to the probe or any other call, closes the circuit. A call that has
//! waited for most of its timeout triggers a first probe: if only that one call hangs, the others continue.
//! Calls that change something are never rejected, and their failures say nothing about the others.
//!
//! [`Circuit`] decides, with its clock as an argument; [`CircuitBreaker`] is the bucket.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::error::Error;
use super::object_store::{
    Body, BucketInfo, BucketStat, ByteRange, CopyPartRequest, CopyRequest, ETag, GetAnswer,
    ListPage, ListRequest, ObjectHeaders, ObjectKey, ObjectMeta, ObjectStore, Overwrite,
    PendingUpload, PutAnswer, Result, UploadId, UploadedPart,
};
use crate::base::sync::lock;

/// The interval between probes.
const PAUSE: Duration = Duration::from_millis(500);

/// The minimum and maximum time that a probe has for its response.
const PATIENCE: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(10);

/// A probe may take this many times the average response time.
const SLOWER: u32 = 8;

/// After this many unanswered probes, the timeout of a probe doubles: the network may have become slow.
const IN_VAIN: u32 = 20;

/// After this fraction of its timeout, an unanswered call triggers a probe.
const SUSPICIOUS: f64 = 0.75;

/// Whether the bucket responds.
#[derive(Debug, Default)]
struct Circuit {
    open: bool,
    /// A probe is in flight, or about to be sent.
    probing: bool,
    /// When the last answered call began.
    answered: Option<Instant>,
    /// The average response time.
    usual: Duration,
    /// Unanswered probes since the circuit opened.
    in_vain: u32,
}

impl Circuit {
    /// A call that began at `began` was answered at `now`. True if the circuit was open until now.
    fn answered(&mut self, began: Instant, now: Instant) -> bool {
        let took = now.saturating_duration_since(began);
        self.usual = match self.answered {
            None => took,
            Some(_) => (7 * self.usual + took) / 8,
        };
        self.answered = self.answered.max(Some(now));
        self.in_vain = 0;
        std::mem::replace(&mut self.open, false)
    }

    /// A call that began at `began` timed out. True if that opens the circuit: while other calls are
    /// answered, the fault is the call's own.
    fn timed_out(&mut self, began: Instant) -> bool {
        !self.was_answered_since(began) && !std::mem::replace(&mut self.open, true)
    }

    fn was_answered_since(&self, began: Instant) -> bool {
        self.answered.is_some_and(|answered| answered >= began)
    }

    /// Whether a probe should be sent now: one at a time. Followed by [`Circuit::probe_ended`].
    fn begins_probing(&mut self) -> bool {
        !std::mem::replace(&mut self.probing, true)
    }

    /// Whether another one should be sent.
    fn probe_ended(&mut self) -> bool {
        self.probing = self.open;
        self.probing
    }

    fn probed_in_vain(&mut self) {
        self.in_vain = self.in_vain.saturating_add(1);
    }

    /// How long the next probe may take.
    fn patience(&self) -> Duration {
        let usual = self.usual.saturating_mul(SLOWER).max(*PATIENCE.start());
        let doublings = (self.in_vain / IN_VAIN).min(4);
        (usual * (1 << doublings)).min(*PATIENCE.end())
    }
}

pub struct CircuitBreaker {
    store: Arc<dyn ObjectStore>,
    /// The prefix that probes list.
    prefix: String,
    /// The timeout of a call.
    timeout: Duration,
    runtime: Handle,
    circuit: Mutex<Circuit>,
    open: watch::Sender<bool>,
    /// For the probes, which end with this.
    own: Weak<CircuitBreaker>,
}

impl CircuitBreaker {
    /// Probes list `prefix`, on `runtime`; a call of `store` may take `timeout`.
    pub fn new(
        store: Arc<dyn ObjectStore>,
        prefix: String,
        timeout: Duration,
        runtime: Handle,
    ) -> Arc<CircuitBreaker> {
        Arc::new_cyclic(|own| CircuitBreaker {
            store,
            prefix,
            timeout,
            runtime,
            circuit: Mutex::default(),
            open: watch::Sender::new(false),
            own: own.clone(),
        })
    }

    /// A query: it fails at once while the circuit is open, and as soon as it opens.
    async fn ask<T>(&self, call: impl Future<Output = Result<T>>) -> Result<T> {
        let mut open = self.open.subscribe();
        let silent = || {
            let cause = "the bucket does not respond; it is retried in the background";
            Error::TimedOut(Arc::new(std::io::Error::new(
                std::io::ErrorKind::TimedOut,
                cause,
            )))
        };
        if *open.borrow_and_update() {
            return Err(silent());
        }
        let began = Instant::now();
        tokio::select! {
            answer = self.watch(call) => answer,
            // The sender lives as long as this.
            _ = open.wait_for(|open| *open) => Err(silent()),
            never = self.suspect(began) => match never {},
        }
    }

    /// Sends a probe when a call has waited for most of its timeout.
    async fn suspect(&self, began: Instant) -> Infallible {
        tokio::time::sleep(self.timeout.mul_f64(SUSPICIOUS)).await;
        if !self.circuit().was_answered_since(began) {
            self.begin_probing();
        }
        std::future::pending().await
    }

    /// A HEAD or a LIST: its timeout counts.
    async fn name<T>(&self, call: impl Future<Output = Result<T>>) -> Result<T> {
        let began = Instant::now();
        let result = self.ask(call).await;
        if let Err(Error::TimedOut(_) | Error::Unavailable(_)) = &result {
            self.timed_out(began);
        }
        result
    }

    /// Any call: its response counts.
    async fn watch<T>(&self, call: impl Future<Output = Result<T>>) -> Result<T> {
        let began = Instant::now();
        let result = call.await;
        if result.as_ref().err().is_none_or(is_answer) {
            self.answered(began);
        }
        result
    }

    fn answered(&self, began: Instant) {
        if self.circuit().answered(began, Instant::now()) {
            log::info!("{} responds again", self.store.name());
            self.open.send_replace(false);
        }
    }

    fn timed_out(&self, began: Instant) {
        if !self.circuit().timed_out(began) {
            return;
        }
        log::warn!(
            "{} does not respond: until it does, requests for uncached data fail at once",
            self.store.name()
        );
        self.open.send_replace(true);
        self.begin_probing();
    }

    fn begin_probing(&self) {
        if !self.circuit().begins_probing() {
            return;
        }
        let own = self.own.clone();
        self.runtime.spawn(async move {
            while let Some(breaker) = own.upgrade() {
                breaker.probe().await;
                if !breaker.circuit().probe_ended() {
                    return;
                }
                drop(breaker);
                tokio::time::sleep(PAUSE).await;
            }
        });
    }

    async fn probe(&self) {
        let request = ListRequest {
            prefix: self.prefix.clone(),
            max_keys: 1,
            ..ListRequest::default()
        };
        // The first probe must end before the call that triggered it.
        let rest = self.timeout.mul_f64(1.0 - SUSPICIOUS);
        let patience = {
            let circuit = self.circuit();
            match circuit.open {
                true => circuit.patience(),
                false => circuit.patience().min(rest),
            }
        };
        let began = Instant::now();
        match tokio::time::timeout(patience, self.store.list(&request)).await {
            Ok(Ok(_)) => self.answered(began),
            Ok(Err(error)) if is_answer(&error) => self.answered(began),
            _ => self.circuit().probed_in_vain(),
        }
    }

    fn circuit(&self) -> MutexGuard<'_, Circuit> {
        lock(&self.circuit)
    }
}

/// Whether the result came from the bucket itself.
fn is_answer(error: &Error) -> bool {
    match error {
        Error::NotFound
        | Error::NoSuchBucket(_)
        | Error::NoSuchUpload
        | Error::PreconditionFailed
        | Error::AlreadyExists
        | Error::InvalidRange
        | Error::AccessDenied(_)
        | Error::Archived(_)
        | Error::Immutable(_)
        | Error::TooLarge(_)
        | Error::EncryptionRule(_)
        | Error::Unsupported(_) => true,
        // Timed out, generated on this side, or not understood.
        _ => false,
    }
}

#[async_trait]
impl ObjectStore for CircuitBreaker {
    fn name(&self) -> String {
        self.store.name()
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectMeta> {
        self.name(self.store.head(key)).await
    }

    async fn get(
        &self,
        key: &ObjectKey,
        range: Option<ByteRange>,
        if_match: Option<&ETag>,
    ) -> Result<GetAnswer> {
        self.ask(self.store.get(key, range, if_match)).await
    }

    async fn put(
        &self,
        key: &ObjectKey,
        headers: &ObjectHeaders,
        body: Body,
        overwrite: Overwrite,
    ) -> Result<PutAnswer> {
        self.watch(self.store.put(key, headers, body, overwrite))
            .await
    }

    async fn delete(&self, key: &ObjectKey) -> Result<()> {
        self.watch(self.store.delete(key)).await
    }

    async fn delete_many(&self, keys: &[ObjectKey]) -> Result<Vec<(ObjectKey, Error)>> {
        self.watch(self.store.delete_many(keys)).await
    }

    async fn copy(&self, request: &CopyRequest) -> Result<PutAnswer> {
        self.watch(self.store.copy(request)).await
    }

    async fn list(&self, request: &ListRequest) -> Result<ListPage> {
        self.name(self.store.list(request)).await
    }

    async fn create_multipart(&self, key: &ObjectKey, headers: &ObjectHeaders) -> Result<UploadId> {
        self.watch(self.store.create_multipart(key, headers)).await
    }

    async fn upload_part(
        &self,
        key: &ObjectKey,
        upload: &UploadId,
        number: u16,
        body: Body,
    ) -> Result<UploadedPart> {
        self.watch(self.store.upload_part(key, upload, number, body))
            .await
    }

    async fn copy_part(&self, request: &CopyPartRequest) -> Result<UploadedPart> {
        self.watch(self.store.copy_part(request)).await
    }

    async fn complete_multipart(
        &self,
        key: &ObjectKey,
        upload: &UploadId,
        parts: &[UploadedPart],
        overwrite: Overwrite,
    ) -> Result<PutAnswer> {
        let complete = self.store.complete_multipart(key, upload, parts, overwrite);
        self.watch(complete).await
    }

    async fn abort_multipart(&self, key: &ObjectKey, upload: &UploadId) -> Result<()> {
        self.watch(self.store.abort_multipart(key, upload)).await
    }

    async fn list_uploads(&self, prefix: &str) -> Result<Vec<PendingUpload>> {
        self.watch(self.store.list_uploads(prefix)).await
    }

    async fn bucket_info(&self) -> Result<BucketInfo> {
        self.watch(self.store.bucket_info()).await
    }

    async fn bucket_stat(&self) -> Result<Option<BucketStat>> {
        self.watch(self.store.bucket_stat()).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn a_call_that_times_out_opens_the_circuit_unless_others_are_answered() {
        let start = Instant::now();
        let mut circuit = Circuit::default();
        assert!(circuit.timed_out(start), "nothing ever answered");
        assert!(!circuit.timed_out(start), "it is open already");
        assert!(circuit.answered(start + S, start + 2 * S));
        assert!(!circuit.answered(start + S, start + 2 * S));
        assert!(!circuit.timed_out(start + S), "another was answered since");
        assert!(circuit.timed_out(start + 3 * S));
        // A response to an earlier call closes it too.
        assert!(circuit.answered(start, start + 4 * S));
    }

    #[test]
    fn probes_are_sent_one_at_a_time_while_the_circuit_is_open() {
        let start = Instant::now();
        let mut circuit = Circuit::default();
        assert!(circuit.begins_probing() && !circuit.begins_probing());
        assert!(!circuit.probe_ended(), "one was enough");
        assert!(circuit.begins_probing());
        circuit.timed_out(start);
        assert!(circuit.probe_ended() && !circuit.begins_probing());
        circuit.answered(start, start + S);
        assert!(!circuit.probe_ended());
    }

    #[test]
    fn the_timeout_of_probes_follows_the_response_times() {
        let start = Instant::now();
        for (took, in_vain, patience) in [
            (S / 100, 0, S),
            (S / 4, 0, 2 * S),
            (9 * S, 0, 10 * S),
            (S / 100, 20, 2 * S),
            (S / 100, 40, 4 * S),
            (S / 100, 10_000, 10 * S),
        ] {
            let mut circuit = Circuit::default();
            circuit.answered(start, start + took);
            circuit.timed_out(start + 20 * S);
            (0..in_vain).for_each(|_| circuit.probed_in_vain());
            assert_eq!(circuit.patience(), patience, "{took:?} {in_vain}");
        }
    }
}
