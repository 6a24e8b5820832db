//! A call's deadline is its caller's: not each request's, nor that of a place in a queue.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use ossvault::server::instruments::{Action, Fault};
use ossvault::server::operation::Operation;

use super::support::*;

#[test]
fn many_calls_at_once_end_within_their_own_time_when_the_service_fails() {
    const CALLS: usize = 24;
    let options = ["--timeout", "3s", "--metadata-ttl", "0", "--dir-ttl", "0"];
    let unavailable = || Action::Status {
        status: 503,
        code: "ServiceUnavailable".to_owned(),
    };
    for action in [unavailable(), Action::Stall { ms: 60_000 }] {
        let Some(mut mount) = Mount::served(&options) else {
            return;
        };
        for n in 0..CALLS {
            fs::write(mount.path(format!("f{n}")), "x").unwrap();
        }
        mount.remount(&options);
        for operation in [Operation::HeadObject, Operation::ListObjectsV2] {
            let fault = Fault::once(operation, action.clone()).always();
            mount.instruments().add_fault(fault);
        }
        let slowest = thread::scope(|scope| {
            let calls: Vec<_> = (0..CALLS)
                .map(|n| {
                    let path = mount.path(format!("f{n}"));
                    scope.spawn(move || {
                        let begun = Instant::now();
                        assert!(fs::metadata(path).is_err());
                        begun.elapsed()
                    })
                })
                .collect();
            calls
                .into_iter()
                .map(|call| call.join().unwrap())
                .max()
                .unwrap()
        });
        // The kernel looks a name up twice, and the machine may be busy. One behind the other they would take
        // more than a minute.
        assert!(slowest < Duration::from_secs(15), "{action:?}: {slowest:?}");
        mount.instruments().clear_faults();
        eventually("the mount recovers", || fs::read(mount.path("f0")).is_ok());
    }
}

#[test]
fn a_service_that_says_replaced_for_ever_is_given_up() {
    let Some(mount) = Mount::served(&[]) else {
        return;
    };
    fs::create_dir(mount.path("d")).unwrap();
    fs::write(mount.path("d/f"), "x").unwrap();
    let replaced = Action::Status {
        status: 412,
        code: "PreconditionFailed".to_owned(),
    };
    let fault = Fault::once(Operation::CopyObject, replaced).always();
    mount.instruments().add_fault(fault);
    let begun = Instant::now();
    for path in ["d/f", "d"] {
        let name = c_path(&mount.path(path));
        let set = unsafe {
            libc::setxattr(
                name.as_ptr(),
                c"user.a".as_ptr(),
                c"1".as_ptr().cast(),
                1,
                0,
            )
        };
        // A directory's first attribute may make its marker anew instead.
        assert!(checked(set).is_err() || path == "d");
    }
    assert!(fs::rename(mount.path("d"), mount.path("e")).is_err());
    assert!(
        begun.elapsed() < Duration::from_secs(30),
        "{:?}",
        begun.elapsed()
    );
    mount.instruments().clear_faults();
    assert_eq!(fs::read(mount.path("d/f")).unwrap(), b"x");
}
