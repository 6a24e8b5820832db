//! Waiting until a deadline, and a little longer where this process stood still meanwhile.
//!
//! A process that is stopped, starved of the processor, or whose machine is paused wakes up with its deadlines passed
//! and the answers waiting in its sockets. A deadline that is found to have passed long ago says nothing of whoever
//! was waited for: what has come since then is taken first, which takes the runtime some turns.

use std::future::Future;
use std::pin::pin;
use std::time::{Duration, Instant};

use tokio::time::error::Elapsed;
use tokio::time::{timeout, timeout_at};

/// A timer is never so late on a machine that is only busy.
const STOOD_STILL: Duration = Duration::from_secs(1);
/// The time to take what has come.
const GRACE: Duration = Duration::from_secs(2);

/// What `work` comes to by `deadline`.
///
/// # Errors
/// When it was not done by then.
pub async fn by<T>(deadline: Instant, work: impl Future<Output = T>) -> Result<T, Elapsed> {
    let due = deadline.max(Instant::now());
    let mut work = pin!(work);
    match timeout_at(deadline.into(), &mut work).await {
        Err(_) if due.elapsed() >= STOOD_STILL => timeout(GRACE, work).await,
        ended => ended,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_done_while_nothing_ran_counts() {
        let (soon, stop) = (Duration::from_millis(50), Duration::from_millis(1300));
        for (needs, done) in [(10, true), (600_000, false)] {
            // Two turns away from who waits for it.
            let answer = tokio::spawn(tokio::time::sleep(Duration::from_millis(needs)));
            let answer = tokio::spawn(answer);
            let waiting = tokio::spawn(by(Instant::now() + soon, answer));
            tokio::task::yield_now().await;
            std::thread::sleep(stop);
            let began = Instant::now();
            assert_eq!(waiting.await.unwrap().is_ok(), done);
            assert!(began.elapsed() < GRACE + stop);
        }
    }

    #[tokio::test]
    async fn a_deadline_that_passes_or_has_passed_is_one() {
        let now = Instant::now();
        let soon = now + Duration::from_millis(20);
        let long_ago = now.checked_sub(Duration::from_secs(60)).unwrap_or(now);
        for deadline in [soon, long_ago] {
            assert!(by(deadline, std::future::pending::<()>()).await.is_err());
            assert!(by(deadline, async {}).await.is_ok());
        }
        assert!(now.elapsed() < GRACE);
    }
}
