//! Waiting for a condition on shared state that others change and announce.

use tokio::sync::Notify;

/// Calls `check` at once and after every [`Notify::notify_waiters`], until it returns something. `check` is called
/// once more after a change that comes between its call and the wait: none is missed.
pub async fn until<T>(notify: &Notify, mut check: impl FnMut() -> Option<T>) -> T {
    loop {
        let notified = notify.notified();
        tokio::pin!(notified);
        notified.as_mut().enable();
        if let Some(value) = check() {
            return value;
        }
        notified.await;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::pin::pin;
    use std::task::{Context, Waker};

    use super::*;

    #[tokio::test]
    async fn a_change_during_the_check_is_not_missed() {
        let (notify, state) = (Notify::new(), Cell::new(0));
        let seen = until(&notify, || {
            let seen = state.get();
            // As if another thread had changed the state right after it was read.
            state.set(seen + 1);
            notify.notify_waiters();
            (seen == 3).then_some(seen)
        });
        assert_eq!(seen.await, 3);
    }

    #[test]
    fn it_waits_for_as_long_as_nothing_is_announced() {
        let (notify, state) = (Notify::new(), Cell::new(false));
        let mut waiting = pin!(until(&notify, || state.get().then_some(())));
        let mut is_done = || {
            let mut context = Context::from_waker(Waker::noop());
            waiting.as_mut().poll(&mut context).is_ready()
        };
        assert!(!is_done());
        notify.notify_waiters();
        assert!(!is_done());
        state.set(true);
        assert!(!is_done());
        notify.notify_waiters();
        assert!(is_done());
    }
}
