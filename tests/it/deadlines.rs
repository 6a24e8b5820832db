//! A deadline belongs to the call, not to each request or queue position.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use ossvault::files::attributes::Change;
use ossvault::fs::error::Error;
use ossvault::fs::namespace::Ino;
use ossvault::fs::namespace::object_name::Name;
use ossvault::server::instruments::{Action, Fault};
use ossvault::server::operation::Operation;
use ossvault::store::object_store::{Body, ObjectHeaders, ObjectKey, ObjectStore, Overwrite};

use super::other_writers::{block, mounted_with};
use super::world::{CALLER, Call, FsResult, Mood};
use crate::fixture::*;
use crate::fixture::{Rig, can_mount};

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
        // The kernel looks a name up twice, and the machine may be busy. In sequence they would take more
        // than a minute.
        assert!(slowest < Duration::from_secs(15), "{action:?}: {slowest:?}");
        mount.instruments().clear_faults();
        eventually("the mount recovers", || fs::read(mount.path("f0")).is_ok());
    }
}

#[test]
fn a_call_fails_if_the_service_reports_a_replacement_forever() {
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
        // A directory's first attribute may create its marker again instead.
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

/// "A change waits no longer than that for another change of the same name; an upload waits until it is its
/// turn."
///
/// Regression: a call waited for another call's change of the same names for as long as that took.
#[test]
fn a_change_waits_for_another_no_longer_than_its_own_time() {
    const TIMEOUT: Duration = Duration::from_secs(2);
    block(async {
        let (world, kernel) = mounted_with(|world| world.settings.timeout = TIMEOUT).await;
        kernel.mkdir("d").await;
        for name in ["d/a", "d/b"] {
            kernel.save(name, name.as_bytes()).await;
        }
        let d = kernel.look("d").await.ino;
        let (a, b) = (kernel.look("d/a").await.ino, kernel.look("d/b").await.ino);
        let name = |name: &str| (d, Name::from(name));
        let held = world.weather.hold_answers(Call::Copy);
        let fs = kernel.fs.clone();
        let hanging = tokio::spawn({
            let (fs, from, to) = (fs.clone(), name("a"), name("c"));
            async move { fs.rename(from, to, true).await }
        });
        world.weather.until_held(1).await;
        let mode = Change {
            mode: Some(0o600),
            ..Change::default()
        };
        let (to, a_name, c_name) = (name("a"), Name::from("a"), Name::from("c"));
        let (d_name, e_name) = (Name::from("d"), Name::from("e"));
        let whole = ((Ino::ROOT, d_name.clone()), (Ino::ROOT, e_name));
        let calls: Vec<(&str, BoxFuture<FsResult<()>>)> = vec![
            ("unlink", Box::pin(fs.unlink(d, &a_name))),
            ("rename", Box::pin(fs.rename(name("b"), to, true))),
            ("rename of all", Box::pin(fs.rename(whole.0, whole.1, true))),
            ("chmod", {
                let set = fs.setattr(a, None, mode);
                Box::pin(async { set.await.map(drop) })
            }),
            ("symlink", {
                let made = fs.symlink(d, &c_name, b"b", CALLER);
                Box::pin(async { made.await.map(drop) })
            }),
            ("rmdir", Box::pin(fs.rmdir(Ino::ROOT, &d_name))),
        ];
        let began = Instant::now();
        let calls = calls.into_iter().map(|(what, call)| async move {
            let result = call.await;
            (what, result, began.elapsed())
        });
        for (what, result, took) in futures_util::future::join_all(calls).await {
            println!("{what}: {result:?} after {took:?}");
            assert!(
                matches!(result, Err(Error::TimedOut(_))),
                "{what}: {result:?}"
            );
            assert!(took < TIMEOUT * 3 / 2, "{what}: {took:?}");
        }
        assert!(!hanging.is_finished());
        drop(held);
        hanging.await.unwrap().unwrap();
        // None of them took effect, except possibly the chmod.
        assert_eq!(world.others.keys().await, ["d/", "d/b", "d/c"]);
        assert_eq!(world.others.get("d/c").await.unwrap(), b"d/a");
        assert_eq!(kernel.look("d/b").await.ino, b);
        kernel.settle(0, TIMEOUT).await;
    });
}

/// The kernel looks a name up again when an invalidation fails. Regression: one object that could not be
/// checked, while all others could, cost the time of two calls.
#[test]
fn the_second_lookup_of_a_name_does_not_wait_as_long_again() {
    const TIMEOUT: Duration = Duration::from_secs(4);
    if !can_mount() {
        return;
    }
    let rig = Rig::new();
    let put = |key: &str| {
        rig.block_on(async {
            let key = ObjectKey::new(key).unwrap();
            let (headers, body) = (ObjectHeaders::default(), Body::from_bytes("content"));
            let put = rig.store.put(&key, &headers, body, Overwrite::Allowed);
            put.await.unwrap();
        });
    };
    put("d/hangs");
    let mount = rig.mount("mnt", &["--timeout", "4", "--metadata-ttl", "100ms"]);
    let (hangs, other) = (mount.path.join("d/hangs"), mount.path.join("other"));
    fs::metadata(&hangs).unwrap();
    // The TTL of the kernel's cache, too.
    thread::sleep(Duration::from_millis(300));
    put("d/hangs");
    let stall = Fault::once(Operation::HeadObject, Action::Stall { ms: 600_000 });
    rig.fault(stall.on_keys("d/hangs").always());
    let over = AtomicBool::new(false);
    let took = thread::scope(|scope| {
        // Other requests are answered: the bucket as a whole does not hang.
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                assert!(!other.exists());
                thread::sleep(Duration::from_millis(50));
            }
        });
        let began = Instant::now();
        let error = fs::metadata(&hangs).unwrap_err();
        let took = began.elapsed();
        over.store(true, Ordering::Relaxed);
        println!("{error} after {took:?}");
        assert_ne!(error.kind(), std::io::ErrorKind::NotFound);
        took
    });
    assert!(took > TIMEOUT / 2, "it was asked: {took:?}");
    assert!(took < TIMEOUT * 3 / 2, "{took:?}");
    rig.instruments().clear_faults();
    eventually("it is answered again", || fs::metadata(&hangs).is_ok());
    mount.end_well();
}

/// A request that timed out is the answer to the same call for a moment, and no longer.
#[test]
fn a_listing_or_lookup_without_a_response_is_requested_once() {
    const TIMEOUT: Duration = Duration::from_secs(2);
    block(async {
        let (world, kernel) = mounted_with(|world| {
            world.settings.timeout = TIMEOUT;
            world.settings.metadata_ttl = Duration::from_millis(50);
        })
        .await;
        kernel.mkdir("d").await;
        kernel.save("d/a", b"content").await;
        let d = kernel.look("d").await.ino;
        tokio::time::sleep(Duration::from_millis(100)).await;
        world.weather.set_mood(Mood::Hanging(TIMEOUT));
        let began = Instant::now();
        for _ in 0..2 {
            for name in ["a", "absent"] {
                let found = kernel.fs.lookup(d, name).await;
                assert!(matches!(found, Err(Error::TimedOut(_))), "{found:?}");
            }
        }
        assert!(began.elapsed() < TIMEOUT * 3 / 2, "{:?}", began.elapsed());
        world.weather.set_mood(Mood::Well);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(kernel.find("d/a").await.is_some());
    });
}

/// Regression: the responses had arrived, but so had the deadline, and calls in progress failed.
#[test]
fn a_stopped_mount_processes_the_responses_that_arrived_in_the_meantime() {
    if !can_mount() {
        return;
    }
    let rig = Rig::new();
    let mount = rig.mount("mnt", &["--timeout", "3", "--metadata-ttl", "0"]);
    for n in 0..4 {
        fs::write(mount.path.join(format!("f{n}")), "content").unwrap();
    }
    rig.instruments().set_latency(Duration::from_secs(1));
    let pid = nix::unistd::Pid::from_raw(mount.pid() as i32);
    thread::scope(|scope| {
        let reads: Vec<_> = (0..4)
            .map(|n| {
                let path = mount.path.join(format!("f{n}"));
                scope.spawn(move || fs::read(path))
            })
            .collect();
        // While they are requested.
        thread::sleep(Duration::from_millis(500));
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP).unwrap();
        thread::sleep(Duration::from_secs(5));
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGCONT).unwrap();
        for read in reads {
            assert_eq!(read.join().unwrap().unwrap(), b"content");
        }
    });
    rig.instruments().set_latency(Duration::ZERO);
    mount.end_well();
}
