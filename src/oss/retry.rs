//! When to retry a failed request, and when to give up. Without a clock and randomness of its own: times and
//! the jitter are arguments.
//!
//! A call may continue as long as bytes move, and for [`Budget::timeout`] without. Failures renew that
//! allowance only once: a connection that transfers some bytes and breaks, over and over, also ends.

use std::time::{Duration, Instant};

use super::progress::later;
use crate::base::backoff;

/// What retrying the same request can achieve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The response would be the same.
    Never,
    /// Probably transient: transport errors, internal errors.
    Retry,
    /// The service throttles: use a longer backoff.
    Slow,
    /// The clock is wrong: retry once to confirm it, and once with the offset corrected.
    Clock,
}

/// The first delay after a failure of class [`Class::Retry`]; doubled after each further one.
const BASE: Duration = Duration::from_millis(100);
/// The same for [`Class::Slow`].
const SLOW_BASE: Duration = Duration::from_millis(600);
/// The maximum delay, unless the service asks for a longer one.
const CAP: Duration = Duration::from_secs(10);
/// Two responses that agree correct the clock; a third failure has another cause.
const MAX_CLOCK_FAILURES: u32 = 2;

/// The delay before try number `failures + 1`: exponential, minus a random half, so that many clients that
/// failed together do not retry together. `random` is in [0, 1).
pub fn delay(class: Class, failures: u32, retry_after: Option<Duration>, random: f64) -> Duration {
    let base = match class {
        Class::Never | Class::Clock => return Duration::ZERO,
        Class::Retry => BASE,
        Class::Slow => SLOW_BASE,
    };
    let wait = backoff::jittered(backoff::exponential(base, failures, CAP), random);
    wait.max(retry_after.unwrap_or_default())
}

/// The time that one call may still take.
#[derive(Debug)]
pub struct Budget {
    timeout: Duration,
    give_up_at: Instant,
    failures: u32,
    clock_failures: u32,
}

impl Budget {
    /// `last_progress`: when bytes last moved for this call, or when it began.
    pub fn new(last_progress: Instant, timeout: Duration) -> Budget {
        Budget {
            timeout,
            give_up_at: later(last_progress, timeout),
            failures: 0,
            clock_failures: 0,
        }
    }

    pub fn give_up_at(&self) -> Instant {
        self.give_up_at
    }

    /// Time spent waiting for other calls does not count against this one.
    pub fn extend(&mut self, by: Duration) {
        self.give_up_at = later(self.give_up_at, by);
    }

    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// The number of failed tries.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Records a failed try: returns the delay before the next one, or None to give up. `moved` is when the
    /// failed try last moved bytes, if it did.
    pub fn after_failure(
        &mut self,
        class: Class,
        retry_after: Option<Duration>,
        now: Instant,
        moved: Option<Instant>,
        random: f64,
    ) -> Option<Duration> {
        self.failures += 1;
        if let (1, Some(moved)) = (self.failures, moved) {
            self.give_up_at = self.give_up_at.max(later(moved, self.timeout));
        }
        match class {
            Class::Never => return None,
            Class::Clock if self.clock_failures == MAX_CLOCK_FAILURES => return None,
            Class::Clock => self.clock_failures += 1,
            Class::Retry | Class::Slow => {}
        }
        let left = self.give_up_at.saturating_duration_since(now);
        // If the service asks for more time than is left, wait for half of it and try again.
        let asked = retry_after.map(|after| if after < left { after } else { left / 2 });
        let delay = delay(class, self.failures, asked, random);
        (delay < left).then_some(delay)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn delays_double_up_to_a_cap_and_half_of_each_is_random() {
        for (class, failures, retry_after, random, expected) in [
            (Class::Retry, 1, None, 0.0, ms(50)),
            (Class::Retry, 1, None, 1.0, ms(100)),
            (Class::Retry, 3, None, 1.0, ms(400)),
            (Class::Retry, 60, None, 1.0, CAP),
            (Class::Slow, 1, None, 0.0, ms(300)),
            (Class::Slow, 2, None, 1.0, ms(1200)),
            (Class::Slow, 1, Some(ms(7000)), 0.0, ms(7000)),
            (Class::Clock, 1, Some(ms(7000)), 1.0, ms(0)),
        ] {
            assert_eq!(
                delay(class, failures, retry_after, random),
                expected,
                "{class:?} {failures}"
            );
        }
    }

    #[test]
    fn the_budget_ends_one_timeout_after_the_last_progress() {
        let start = Instant::now();
        let mut budget = Budget::new(start, ms(1000));
        let retry = |budget: &mut Budget, now, moved| {
            budget.after_failure(Class::Retry, None, now, moved, 1.0)
        };
        // Nothing moved: the call ends 1 s after it began.
        assert_eq!(retry(&mut budget, start + ms(100), None), Some(ms(100)));
        assert_eq!(retry(&mut budget, start + ms(900), None), None);
        // The first failed try moved bytes until 5 s; later ones renew nothing.
        let mut budget = Budget::new(start, ms(1000));
        let at = start + ms(5000);
        assert_eq!(retry(&mut budget, at, Some(at)), Some(ms(100)));
        let later = start + ms(5950);
        assert_eq!(retry(&mut budget, later, Some(later)), None);
    }

    #[test]
    fn a_retry_after_is_honoured_as_far_as_the_budget_goes() {
        let start = Instant::now();
        for (after, left, expected) in [
            (ms(700), ms(1000), Some(ms(700))),
            (ms(1000), ms(1000), Some(ms(500))),
            (ms(5000), ms(1000), Some(ms(500))),
            (Duration::MAX, ms(1000), Some(ms(500))),
            (Duration::from_secs(u64::MAX), ms(60_000), Some(ms(30_000))),
            (Duration::MAX, ms(250), None),
            (Duration::MAX, ms(0), None),
        ] {
            let mut budget = Budget::new(start, left);
            let delay = budget.after_failure(Class::Slow, Some(after), start, None, 0.0);
            assert_eq!(delay, expected, "{after:?} of {left:?}");
        }
    }

    #[test]
    fn no_budget_overflows() {
        let start = Instant::now();
        let mut budget = Budget::new(start, Duration::MAX);
        budget.extend(Duration::MAX);
        let moved = budget.give_up_at();
        let delay =
            budget.after_failure(Class::Retry, Some(Duration::MAX), start, Some(moved), 1.0);
        assert!(delay.is_some());
    }

    #[test]
    fn the_clock_is_asked_about_twice_in_a_call() {
        let start = Instant::now();
        let mut budget = Budget::new(start, ms(1000));
        let mut skewed = || budget.after_failure(Class::Clock, None, start, None, 0.0);
        assert_eq!(skewed(), Some(ms(0)));
        assert_eq!(skewed(), Some(ms(0)));
        assert_eq!(skewed(), None);
    }
}
