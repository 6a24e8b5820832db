//! When bytes last moved, and waiting no longer than that allows.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// When bytes last moved. Shared between the task that moves them and the one that waits.
pub struct Progress {
    start: Instant,
    /// Milliseconds after `start`, plus one; 0 as long as nothing moved.
    moved: AtomicU64,
}

impl Progress {
    pub fn new(start: Instant) -> Progress {
        Progress {
            start,
            moved: AtomicU64::new(0),
        }
    }

    /// Bytes moved just now.
    pub fn mark(&self) {
        // u64 milliseconds last longer than any machine.
        let now = self.start.elapsed().as_millis() as u64 + 1;
        self.moved.store(now, Ordering::Relaxed);
    }

    /// When bytes last moved, if any did.
    pub fn moved(&self) -> Option<Instant> {
        match self.moved.load(Ordering::Relaxed) {
            0 => None,
            n => Some(self.start + Duration::from_millis(n - 1)),
        }
    }

    /// When bytes last moved, or when the wait began.
    pub fn last(&self) -> Instant {
        self.moved().unwrap_or(self.start)
    }

    /// Waits for `future`, as long as no more than `limit` passes between two marks. Before the first
    /// mark it waits until `give_up_at` at most. None when the time was up; the future is dropped then.
    pub async fn watch<F: Future>(
        &self,
        limit: Duration,
        give_up_at: Instant,
        future: F,
    ) -> Option<F::Output> {
        let mut future = std::pin::pin!(future);
        loop {
            let deadline = match self.moved() {
                Some(moved) => moved + limit,
                None => (self.start + limit).min(give_up_at),
            };
            // The future is polled before the clock is looked at: an answer that is there counts.
            match tokio::time::timeout_at(deadline.into(), &mut future).await {
                Ok(output) => return Some(output),
                Err(_) if self.moved().is_some_and(|moved| moved + limit > deadline) => {}
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
        assert_eq!(progress.watch(limit, far, moving).await, Some("done"));
        assert!(start.elapsed() >= Duration::from_millis(250));

        let stuck = Progress::new(Instant::now());
        let never = std::future::pending::<()>();
        assert_eq!(stuck.watch(limit, far, never).await, None);
        assert!(stuck.last() + limit <= Instant::now());
    }
}
