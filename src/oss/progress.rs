//! Tracks when bytes last moved, and waits no longer than that allows.
//!
//! A single byte is not progress: a peer that sends one just before every deadline could make a call wait
//! forever. Only [`FLOOR`] bytes, or a message such as a response's head, renew an allowance.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::base::deadline;

/// How many bytes must move within one allowance to renew it. With the default timeout of one minute this is
/// 1 KiB/s: no usable link is slower.
pub const FLOOR: u64 = 64 * 1024;

/// The maximum wait, so that times computed from external numbers cannot overflow.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

/// `start` plus `by`, but at most a year.
pub fn later(start: Instant, by: Duration) -> Instant {
    start.checked_add(by.min(LONGEST)).unwrap_or(start)
}

/// The time spent waiting for a body since its last progress. Unlike [`Progress`], it does not run while the
/// reader is busy elsewhere.
#[derive(Debug, Default)]
pub struct Pace {
    waited: Duration,
    bytes: u64,
}

impl Pace {
    /// A wait of `waited` delivered `bytes`.
    pub fn add(&mut self, waited: Duration, bytes: u64) {
        self.waited = self.waited.saturating_add(waited);
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes >= FLOOR {
            *self = Pace::default();
        }
    }

    /// The rest of `allowance`.
    pub fn left(&self, allowance: Duration) -> Duration {
        allowance.saturating_sub(self.waited)
    }
}

/// When bytes last moved. Shared between the task that moves them and the task that waits.
pub struct Progress {
    start: Instant,
    /// Milliseconds after `start`, plus one; 0 as long as nothing has moved.
    moved: AtomicU64,
    /// Bytes since then.
    bytes: AtomicU64,
}

impl Progress {
    pub fn new(start: Instant) -> Progress {
        Progress {
            start,
            moved: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        }
    }

    /// `bytes` moved just now: progress once they reach [`FLOOR`].
    pub fn add(&self, bytes: usize) {
        let before = self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        if before.saturating_add(bytes as u64) >= FLOOR {
            self.mark();
        }
    }

    /// Progress was made just now.
    pub fn mark(&self) {
        self.bytes.store(0, Ordering::Relaxed);
        // u64 milliseconds last longer than any machine.
        let now = self.start.elapsed().as_millis() as u64 + 1;
        self.moved.store(now, Ordering::Relaxed);
    }

    /// When bytes last moved, if any did.
    pub fn moved(&self) -> Option<Instant> {
        match self.moved.load(Ordering::Relaxed) {
            0 => None,
            n => Some(later(self.start, Duration::from_millis(n - 1))),
        }
    }

    /// When bytes last moved, or when the wait began.
    pub fn last(&self) -> Instant {
        self.moved().unwrap_or(self.start)
    }

    /// Waits for `future` as long as no more than `limit` passes between two marks. Before the first mark it
    /// waits until `give_up_at` at most, and never beyond `cap`. None if the time is up; the future is then
    /// dropped.
    pub async fn watch<F: Future>(
        &self,
        limit: Duration,
        give_up_at: Instant,
        cap: Option<Instant>,
        future: F,
    ) -> Option<F::Output> {
        let mut future = std::pin::pin!(future);
        let capped = |deadline: Instant| cap.map_or(deadline, |cap| deadline.min(cap));
        loop {
            let deadline = capped(match self.moved() {
                Some(moved) => later(moved, limit),
                None => later(self.start, limit).min(give_up_at),
            });
            // The future is polled before the clock is checked: a response that has arrived counts.
            match deadline::by(deadline, &mut future).await {
                Ok(output) => return Some(output),
                Err(_)
                    if self
                        .moved()
                        .is_some_and(|moved| capped(later(moved, limit)) > deadline) => {}
                Err(_) => return None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn waits_while_bytes_move_and_not_longer() {
        let start = Instant::now();
        let progress = Progress::new(start);
        let limit = Duration::from_millis(100);
        let moving = async {
            for _ in 0..5 {
                tokio::time::sleep(Duration::from_millis(50)).await;
                progress.mark();
            }
            "done"
        };
        let far = start + Duration::from_secs(60);
        assert_eq!(progress.watch(limit, far, None, moving).await, Some("done"));
        assert!(start.elapsed() >= Duration::from_millis(250));

        let stuck = Progress::new(Instant::now());
        let never = std::future::pending::<()>();
        assert_eq!(stuck.watch(limit, far, None, never).await, None);
        assert!(stuck.last() + limit <= Instant::now());
    }

    #[tokio::test]
    async fn single_bytes_are_not_progress_and_a_cap_ends_endless_transfers() {
        let limit = Duration::from_millis(100);
        let far = later(Instant::now(), Duration::from_secs(60));
        let moving = async |progress: &Progress, bytes: usize| {
            loop {
                tokio::time::sleep(Duration::from_millis(10)).await;
                progress.add(bytes);
            }
        };
        for (bytes, cap) in [(1, None), (FLOOR as usize, Some(limit * 3))] {
            let progress = Progress::new(Instant::now());
            let cap = cap.map(|cap| later(Instant::now(), cap));
            let endless = moving(&progress, bytes);
            let began = Instant::now();
            assert_eq!(progress.watch(limit, far, cap, endless).await, None::<()>);
            assert!(began.elapsed() >= limit);
            assert_eq!(progress.moved().is_some(), cap.is_some());
        }
    }

    #[test]
    fn a_pace_counts_waiting_until_enough_has_arrived() {
        let second = Duration::from_secs(1);
        let mut pace = Pace::default();
        for _ in 0..3 {
            pace.add(second, 1);
        }
        assert_eq!(pace.left(5 * second), 2 * second);
        assert_eq!(pace.left(2 * second), Duration::ZERO);
        pace.add(second, FLOOR - 3);
        assert_eq!(pace.left(5 * second), 5 * second);
        pace.add(Duration::MAX, 0);
        pace.add(Duration::MAX, 0);
        assert_eq!(pace.left(Duration::MAX), Duration::ZERO);
    }

    #[test]
    fn no_time_overflows() {
        let now = Instant::now();
        assert!(later(now, Duration::MAX) > now);
        assert_eq!(later(now, LONGEST), later(now, Duration::MAX));
    }
}
