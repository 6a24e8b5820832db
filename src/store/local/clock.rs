//! The clock in whole seconds, as the service has it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The present time.
pub fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(unix(SystemTime::now()))
}

/// Unix seconds; 0 before 1970.
pub fn unix(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// Now, as a row of the database has it.
pub fn unix_now() -> i64 {
    unix(SystemTime::now()).cast_signed()
}
