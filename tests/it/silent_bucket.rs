//! A bucket that stops responding: calls end within their timeouts, the next ones fail at once, and
//! everything works when it responds again.

use std::fs;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

use ossvault::server::instruments::{Action, Fault};
use ossvault::store::object_store::{Body, ObjectHeaders, ObjectKey, ObjectStore, Overwrite};

use crate::fixture::{Rig, can_mount, eventually, rig::Mount};

/// Directories of one file each.
fn put_directories(rig: &Rig, n: u64) {
    rig.block_on(async {
        for i in 0..n {
            let key = ObjectKey::new(format!("d{i}/x")).unwrap();
            let (headers, body) = (ObjectHeaders::default(), Body::empty());
            let put = rig.store.put(&key, &headers, body, Overwrite::Allowed);
            put.await.unwrap();
        }
    });
}

/// Calls stat on the file in a directory, and returns how long that took.
fn stat(mount: &Mount, i: u64) -> (io::Result<()>, Duration) {
    let path = mount.path.join(format!("d{i}/x"));
    let began = Instant::now();
    let result = fs::symlink_metadata(path).map(drop);
    (result, began.elapsed())
}

fn always(action: Action) -> Fault {
    Fault {
        operation: None,
        key: String::new(),
        skip: 0,
        times: u64::MAX,
        action,
    }
}

/// After the first timeout, calls that need the bucket fail at once until it responds again, which is
/// checked every half second; calls that the cache can answer still succeed.
#[test]
fn after_a_first_timeout_calls_fail_at_once_until_the_bucket_responds_again() {
    if !can_mount() {
        return;
    }
    const TIMEOUT: Duration = Duration::from_secs(4);
    let rig = Rig::new();
    put_directories(&rig, 12);
    let mount = rig.mount("mnt", &["--timeout", "4", "--metadata-ttl", "120"]);
    stat(&mount, 0).0.unwrap();
    rig.fault(always(Action::Stall { ms: 600_000 }));
    let (result, took) = stat(&mount, 1);
    println!("the first call: {result:?} after {took:?}");
    let error = result.unwrap_err();
    assert_ne!(error.kind(), io::ErrorKind::NotFound, "{error}");
    // The kernel looks it up twice.
    assert!(took < TIMEOUT * 3 / 2, "{took:?}");
    for i in 2..8 {
        let (result, took) = stat(&mount, i);
        assert_ne!(result.unwrap_err().kind(), io::ErrorKind::NotFound);
        assert!(took < TIMEOUT / 2, "{took:?}");
        stat(&mount, 0).0.expect("it is known");
    }
    rig.instruments().clear_faults();
    let began = Instant::now();
    eventually("the bucket answers", || stat(&mount, 9).0.is_ok());
    println!("it answered after {:?}", began.elapsed());
    for i in 1..12 {
        stat(&mount, i).0.unwrap();
    }
    mount.end_well();
}

/// Regression: the slowest of many took several times as long as one: each had its own place in a queue.
#[test]
fn many_calls_at_once_end_in_time_while_the_service_is_overloaded() {
    if !can_mount() {
        return;
    }
    const CALLS: u64 = 24;
    const TIMEOUT: Duration = Duration::from_secs(6);
    let rig = Rig::new();
    put_directories(&rig, CALLS + 1);
    let mount = rig.mount("mnt", &["--timeout", "6", "--parallel", "4"]);
    rig.fault(always(Action::Status {
        status: 503,
        code: "ServiceUnavailable".into(),
    }));
    let slowest = thread::scope(|scope| {
        let mount = &mount;
        let calls: Vec<_> = (0..CALLS)
            .map(|i| scope.spawn(move || stat(mount, i)))
            .collect();
        let ended = calls.into_iter().map(|call| call.join().unwrap());
        ended
            .map(|(result, took)| {
                assert_ne!(result.unwrap_err().kind(), io::ErrorKind::NotFound);
                took
            })
            .max()
    });
    println!("{CALLS} calls: the slowest took {slowest:?}");
    assert!(slowest.unwrap() < TIMEOUT * 3 / 2, "{slowest:?}");
    rig.instruments().clear_faults();
    eventually("the bucket answers", || stat(&mount, CALLS).0.is_ok());
    mount.end_well();
}
