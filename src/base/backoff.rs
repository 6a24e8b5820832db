//! How long to wait before another try. No clock and no randomness of its own.

use std::time::Duration;

/// `base` doubled with each failure after the first, up to `cap`.
pub fn exponential(base: Duration, failures: u32, cap: Duration) -> Duration {
    // More doublings than this reach any cap.
    const MAX_DOUBLINGS: u32 = 30;
    let doublings = failures.saturating_sub(1).min(MAX_DOUBLINGS);
    base.saturating_mul(1 << doublings).min(cap)
}

/// `full` with a random half left out, so that what failed together does not return together. `random` is in
/// [0, 1).
pub fn jittered(full: Duration, random: f64) -> Duration {
    full.mul_f64(0.5 + 0.5 * random.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_cap() {
        let s = Duration::from_secs;
        for (failures, expected) in [
            (0, s(2)),
            (1, s(2)),
            (2, s(4)),
            (3, s(8)),
            (4, s(9)),
            (u32::MAX, s(9)),
        ] {
            assert_eq!(exponential(s(2), failures, s(9)), expected, "{failures}");
        }
        assert_eq!(exponential(Duration::MAX, 5, Duration::MAX), Duration::MAX);
    }

    #[test]
    fn half_of_a_wait_is_random() {
        for (random, expected) in [
            (0.0, 500),
            (0.5, 750),
            (1.0, 1000),
            (-1.0, 500),
            (7.0, 1000),
        ] {
            let wait = jittered(Duration::from_secs(1), random);
            assert_eq!(wait, Duration::from_millis(expected));
        }
    }
}
