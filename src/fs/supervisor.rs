//! Panics end one piece of work, not what goes on for as long as the mount does.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::runtime::Handle;

use crate::fs::error::{Error, Result};

/// Before a task that has panicked starts anew.
pub(super) const PAUSE: Duration = Duration::from_secs(1);

/// Runs a task until it ends by itself. `start` is called again `pause` after each panic.
pub(super) fn keep_running<F>(
    runtime: &Handle,
    name: &'static str,
    pause: Duration,
    start: impl Fn() -> F + Send + Sync + 'static,
) where
    F: Future<Output = ()> + Send + 'static,
{
    runtime.spawn(async move {
        while AssertUnwindSafe(start()).catch_unwind().await.is_err() {
            log::error!("{name} panicked and is restarted");
            tokio::time::sleep(pause).await;
        }
    });
}

/// The result of `work`; EIO if it panics, so that what follows it is done all the same.
pub(super) async fn contained<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let result = AssertUnwindSafe(work).catch_unwind().await;
    result.unwrap_or_else(|_| Err(Error::io("a panic broke the request off")))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test]
    async fn a_task_that_panics_starts_anew_until_it_ends() {
        let (starts, ended) = (
            Arc::new(AtomicU32::new(0)),
            Arc::new(tokio::sync::Notify::new()),
        );
        let (counted, end) = (starts.clone(), ended.clone());
        let pause = Duration::from_millis(1);
        keep_running(&Handle::current(), "a test", pause, move || {
            let (starts, ended) = (counted.clone(), end.clone());
            async move {
                if starts.fetch_add(1, Ordering::Relaxed) < 2 {
                    panic!("on purpose");
                }
                ended.notify_one();
            }
        });
        ended.notified().await;
        tokio::time::sleep(10 * pause).await;
        assert_eq!(starts.load(Ordering::Relaxed), 3);
    }

    #[tokio::test]
    async fn a_panic_is_an_error_of_the_request() {
        let panics = async { panic!("on purpose") };
        assert!(matches!(contained::<()>(panics).await, Err(Error::Io(_))));
        assert_eq!(contained(async { Ok(5) }).await.unwrap(), 5);
    }
}
