//! How full the bucket is, for statfs(2).
//!
//! The service counts a bucket's objects now and then, and its count may be hours old. It is requested in the background
//! when a program asks how full the file system is, and not again for a while: no operation waits for it, and a mount
//! that no program asks sends no request.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

use crate::base::error_chain::chain;
use crate::base::sync::lock;
use crate::store::error::Error as StoreError;
use crate::store::object_store::ObjectStore;

/// Between two requests.
const INTERVAL: Duration = Duration::from_secs(300);

/// Free without a capacity: a bucket has no fixed size.
const UNLIMITED: u64 = 1 << 50;

/// However full it is: programs refuse to write where nothing is free, and the bucket would take it.
const FREE_AT_LEAST: u64 = 1 << 30;

/// In bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    pub total: u64,
    pub free: u64,
}

impl Space {
    /// With so many bytes in the bucket.
    fn of(used: u64, capacity: Option<u64>) -> Space {
        let free = match capacity {
            Some(capacity) => capacity.saturating_sub(used).max(FREE_AT_LEAST),
            None => UNLIMITED,
        };
        Space {
            total: used.saturating_add(free),
            free,
        }
    }
}

pub(crate) struct Usage {
    store: Arc<dyn ObjectStore>,
    capacity: Option<u64>,
    runtime: Handle,
    /// A leaf: nothing is locked or awaited while it is held.
    sample: Mutex<Sample>,
}

#[derive(Default)]
struct Sample {
    used: u64,
    /// When the last request was sent.
    requested: Option<Instant>,
    /// The bucket does not say.
    over: bool,
}

impl Sample {
    /// Whether to send a request now.
    fn is_due(&mut self, now: Instant) -> bool {
        let recent =
            (self.requested).is_some_and(|at| now.saturating_duration_since(at) < INTERVAL);
        if self.over || recent {
            return false;
        }
        self.requested = Some(now);
        true
    }
}

impl Usage {
    pub(crate) fn new(
        store: Arc<dyn ObjectStore>,
        capacity: Option<u64>,
        runtime: Handle,
    ) -> Arc<Usage> {
        Arc::new(Usage {
            store,
            capacity,
            runtime,
            sample: Mutex::default(),
        })
    }

    /// As far as is known. Never waits.
    pub(crate) fn space(self: &Arc<Self>) -> Space {
        let mut sample = lock(&self.sample);
        if sample.is_due(Instant::now()) {
            let usage = self.clone();
            self.runtime.spawn(async move { usage.request().await });
        }
        Space::of(sample.used, self.capacity)
    }

    async fn request(&self) {
        let result = self.store.bucket_stat().await;
        let mut sample = lock(&self.sample);
        match result {
            Ok(Some(stat)) => sample.used = stat.bytes,
            Ok(None) => sample.over = true,
            Err(error @ StoreError::AccessDenied(_)) => {
                sample.over = true;
                log::warn!(
                    "df shows no use of the bucket, which only oss:GetBucketStat would tell: {}",
                    chain(&error)
                );
            }
            Err(error) => log::info!("the use of the bucket is not known: {}", chain(&error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn something_is_always_free() {
        const GIB: u64 = 1 << 30;
        for (used, capacity, total, free) in [
            (0, None, UNLIMITED, UNLIMITED),
            (5 * GIB, None, UNLIMITED + 5 * GIB, UNLIMITED),
            (0, Some(10 * GIB), 10 * GIB, 10 * GIB),
            (4 * GIB, Some(10 * GIB), 10 * GIB, 6 * GIB),
            (10 * GIB, Some(10 * GIB), 11 * GIB, GIB),
            (50 * GIB, Some(10 * GIB), 51 * GIB, GIB),
            (1 << 62, Some(1), (1 << 62) + GIB, GIB),
        ] {
            assert_eq!(Space::of(used, capacity), Space { total, free }, "{used}");
        }
    }

    #[test]
    fn it_is_requested_now_and_then_until_it_is_refused() {
        let mut sample = Sample::default();
        let now = Instant::now();
        assert!(sample.is_due(now));
        assert!(!sample.is_due(now + INTERVAL / 2));
        assert!(sample.is_due(now + INTERVAL));
        assert!(!sample.is_due(now + INTERVAL + INTERVAL / 2));
        sample.over = true;
        assert!(!sample.is_due(now + 10 * INTERVAL));
    }
}
