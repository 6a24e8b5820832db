//! Keeps what may happen any number of times from filling the log.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::sync::lock;

/// Admits one message per interval.
#[derive(Debug, Default)]
pub struct LogLimit {
    /// When the last message was admitted. A leaf: nothing is locked or awaited while it is held.
    last: Mutex<Option<Instant>>,
}

impl LogLimit {
    pub const fn new() -> LogLimit {
        LogLimit {
            last: Mutex::new(None),
        }
    }

    pub fn admits(&self, now: Instant, interval: Duration) -> bool {
        let mut last = lock(&self.last);
        let due = last.is_none_or(|last| now.saturating_duration_since(last) >= interval);
        if due {
            *last = Some(now);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_message_per_interval_is_admitted() {
        let limit = LogLimit::default();
        let start = Instant::now();
        let minute = Duration::from_secs(60);
        let admitted: Vec<u64> = (0..200)
            .filter(|n| limit.admits(start + Duration::from_secs(*n), minute))
            .collect();
        assert_eq!(admitted, [0, 60, 120, 180]);
    }
}
