//! What a program sees when the service fails, stalls, cuts its responses or loses them: nothing acknowledged
//! is lost, nothing partial is visible, errors come in time, and retries succeed when the fault ends.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use ossvault::server::instruments::{Action, Fault};
use ossvault::server::operation::Operation::{self, *};

use crate::fixture::{Rig, can_mount, close, eventually, noise, read, write_and_close};

/// Every call sends a request.
const NOTHING_REMEMBERED: &[&str] = &["--metadata-ttl", "0", "--dir-ttl", "0"];

fn status(status: u16, code: &str) -> Action {
    Action::Status {
        status,
        code: code.to_owned(),
    }
}

/// Faults that disappear when the request is retried.
fn passing() -> Vec<(&'static str, Action)> {
    vec![
        ("internal error", status(500, "InternalError")),
        ("service unavailable", status(503, "ServiceUnavailable")),
        ("connection reset", Action::Reset),
        ("answer lost after the effect", Action::LoseAnswer),
        ("stall", Action::Stall { ms: 300 }),
    ]
}

/// One change or read of a tree, whose calls use one operation of the service at least.
struct Scenario {
    what: &'static str,
    operation: Operation,
    /// There is a second request of the operation.
    repeats: bool,
    prepare: fn(&Path),
    act: fn(&Path) -> io::Result<()>,
    /// The expected state afterwards, in this mount and in another.
    check: fn(&Path),
}

const LARGE: usize = 20 << 20;

fn nothing(_: &Path) {}

const SCENARIOS: &[Scenario] = &[
    Scenario {
        what: "a new file",
        operation: PutObject,
        repeats: false,
        prepare: nothing,
        act: |at| write_and_close(&at.join("f"), b"new"),
        check: |at| assert_eq!(read(&at.join("f")).unwrap(), b"new"),
    },
    Scenario {
        what: "a file that must be new",
        operation: PutObject,
        repeats: false,
        prepare: nothing,
        act: |at| {
            let mut file = File::create_new(at.join("f"))?;
            file.write_all(b"new")?;
            close(file)
        },
        check: |at| assert_eq!(read(&at.join("f")).unwrap(), b"new"),
    },
    Scenario {
        what: "a replaced file",
        operation: PutObject,
        repeats: false,
        prepare: |at| fs::write(at.join("f"), "old").unwrap(),
        act: |at| write_and_close(&at.join("f"), b"new"),
        check: |at| assert_eq!(read(&at.join("f")).unwrap(), b"new"),
    },
    Scenario {
        what: "the beginning of a large upload",
        operation: InitiateMultipartUpload,
        repeats: false,
        prepare: nothing,
        act: |at| write_and_close(&at.join("f"), &noise(7, LARGE)),
        check: |at| assert!(read(&at.join("f")).unwrap() == noise(7, LARGE)),
    },
    Scenario {
        what: "a part of a large upload",
        operation: UploadPart,
        repeats: true,
        prepare: nothing,
        act: |at| write_and_close(&at.join("f"), &noise(7, LARGE)),
        check: |at| assert!(read(&at.join("f")).unwrap() == noise(7, LARGE)),
    },
    Scenario {
        what: "the end of a large upload",
        operation: CompleteMultipartUpload,
        repeats: false,
        prepare: nothing,
        act: |at| write_and_close(&at.join("f"), &noise(7, LARGE)),
        check: |at| assert!(read(&at.join("f")).unwrap() == noise(7, LARGE)),
    },
    Scenario {
        what: "a chmod",
        operation: CopyObject,
        repeats: false,
        prepare: |at| fs::write(at.join("f"), "x").unwrap(),
        act: |at| fs::set_permissions(at.join("f"), fs::Permissions::from_mode(0o640)),
        check: |at| {
            let meta = fs::metadata(at.join("f")).unwrap();
            assert_eq!(meta.permissions().mode() & 0o777, 0o640);
            assert_eq!(read(&at.join("f")).unwrap(), b"x");
        },
    },
    Scenario {
        what: "the copy of a rename",
        operation: CopyObject,
        repeats: false,
        prepare: |at| fs::write(at.join("f"), "x").unwrap(),
        act: |at| fs::rename(at.join("f"), at.join("g")),
        check: moved,
    },
    Scenario {
        what: "the deletion of a rename",
        operation: DeleteObject,
        repeats: false,
        prepare: |at| fs::write(at.join("f"), "x").unwrap(),
        act: |at| fs::rename(at.join("f"), at.join("g")),
        check: moved,
    },
    Scenario {
        what: "a copy of a directory's rename",
        operation: CopyObject,
        repeats: true,
        prepare: directory,
        act: |at| fs::rename(at.join("d"), at.join("e")),
        check: directory_moved,
    },
    Scenario {
        what: "the deletions of a directory's rename",
        operation: DeleteMultipleObjects,
        repeats: false,
        prepare: directory,
        act: |at| fs::rename(at.join("d"), at.join("e")),
        check: directory_moved,
    },
    Scenario {
        what: "an unlink",
        operation: DeleteObject,
        repeats: false,
        prepare: |at| fs::write(at.join("f"), "x").unwrap(),
        act: |at| fs::remove_file(at.join("f")),
        check: |at| assert!(!at.join("f").exists()),
    },
    Scenario {
        what: "a mkdir",
        operation: PutObject,
        repeats: false,
        prepare: nothing,
        act: |at| fs::create_dir(at.join("d")),
        check: |at| assert!(at.join("d").is_dir()),
    },
    Scenario {
        what: "a read",
        operation: GetObject,
        repeats: false,
        prepare: |at| write_and_close(&at.join("f"), &noise(3, 3 << 20)).unwrap(),
        act: |at| match read(&at.join("f"))? == noise(3, 3 << 20) {
            true => Ok(()),
            false => Err(io::Error::other("other bytes")),
        },
        check: nothing,
    },
    Scenario {
        what: "a stat",
        operation: HeadObject,
        repeats: false,
        prepare: |at| fs::write(at.join("f"), "x").unwrap(),
        act: |at| {
            assert_eq!(fs::metadata(at.join("f"))?.len(), 1);
            Ok(())
        },
        check: nothing,
    },
    Scenario {
        what: "a listing",
        operation: ListObjectsV2,
        repeats: false,
        prepare: |at| fs::write(at.join("f"), "x").unwrap(),
        act: |at| {
            assert_eq!(fs::read_dir(at)?.count(), 1);
            Ok(())
        },
        check: nothing,
    },
];

fn moved(at: &Path) {
    assert!(!at.join("f").exists());
    assert_eq!(read(&at.join("g")).unwrap(), b"x");
}

fn directory(at: &Path) {
    fs::create_dir(at.join("d")).unwrap();
    for name in ["1", "2", "3"] {
        fs::write(at.join("d").join(name), name).unwrap();
    }
}

fn directory_moved(at: &Path) {
    assert!(!at.join("d").exists());
    for name in ["1", "2", "3"] {
        assert_eq!(read(&at.join("e").join(name)).unwrap(), name.as_bytes());
    }
    assert_eq!(fs::read_dir(at.join("e")).unwrap().count(), 3);
}

#[test]
fn a_transient_fault_is_not_noticed() {
    if !can_mount() {
        return;
    }
    let rig = Rig::new();
    let mount = rig.mount("mnt", NOTHING_REMEMBERED);
    // The same bucket through another mount, so that no cache answers.
    let before = mount.descriptors().map(|open| open.len());
    let mut cases = Vec::new();
    for (i, scenario) in SCENARIOS.iter().enumerate() {
        for (j, (fault, action)) in passing().into_iter().enumerate() {
            for skip in [0, 1] {
                if skip > 0 && !scenario.repeats {
                    continue;
                }
                let name = format!("case-{i}-{j}-{skip}");
                let at = mount.path.join(&name);
                fs::create_dir(&at).unwrap();
                (scenario.prepare)(&at);
                rig.settle_short();
                rig.fault(Fault::once(scenario.operation, action.clone()).after(skip));
                let began = Instant::now();
                let result = (scenario.act)(&at);
                rig.instruments().clear_faults();
                let what = format!("{} at {}, request {}", fault, scenario.what, skip + 1);
                assert!(result.is_ok(), "{what}: {result:?}");
                assert!(
                    began.elapsed() < Duration::from_secs(20),
                    "{what}: {:?}",
                    began.elapsed()
                );
                println!("{what}: {:?}", began.elapsed());
                (scenario.check)(&at);
                cases.push((name, scenario.check, what));
            }
        }
    }
    // An upload that began, but whose ID was lost in transit, can be aborted by no one.
    eventually("no unfinished uploads but the one", || {
        rig.unfinished_uploads() <= 1
    });
    let other = rig.mount("other", NOTHING_REMEMBERED);
    for (name, check, what) in cases {
        println!("afterwards: {what}");
        check(&other.path.join(name));
    }
    other.end_well();
    if let Some(before) = before {
        // Connections are kept for a while; other resources must not grow with the work.
        eventually("descriptors are closed", || {
            let open = mount.descriptors().unwrap();
            let files = open
                .iter()
                .filter(|path| !path.to_string_lossy().starts_with("socket:"));
            files.count() <= before + 2
        });
    }
    mount.end_well();
}

#[test]
fn a_response_that_is_cut_or_changed_in_transit_is_never_served() {
    if !can_mount() {
        return;
    }
    let rig = Rig::new();
    let small = noise(11, 3000);
    let large = noise(12, 9 << 20);
    let mount = rig.mount("mnt", &[]);
    write_and_close(&mount.path.join("small"), &small).unwrap();
    write_and_close(&mount.path.join("large"), &large).unwrap();
    mount.end_well();
    for (name, content) in [("small", &small), ("large", &large)] {
        for (action, may_fail) in [
            (Action::TruncateBody { after: 1000 }, false),
            (
                Action::StallBody {
                    after: 1000,
                    ms: 300,
                },
                false,
            ),
            (Action::CorruptBody { at: 1000 }, true),
        ] {
            let mount = rig.mount("mnt", NOTHING_REMEMBERED);
            rig.fault(Fault::once(GetObject, action.clone()).on_keys(name));
            match read(&mount.path.join(name)) {
                Ok(found) => assert!(
                    found == *content,
                    "{action:?} of {name}: other bytes were served"
                ),
                Err(error) => {
                    assert!(may_fail, "{action:?} of {name}: {error}");
                    assert_eq!(
                        error.raw_os_error(),
                        Some(libc::EIO),
                        "{action:?} of {name}"
                    );
                }
            }
            rig.instruments().clear_faults();
            mount.end_well();
        }
    }
}

/// A mount with a short timeout.
const IMPATIENT: &[&str] = &["--timeout", "2", "--metadata-ttl", "0", "--dir-ttl", "0"];

/// The time that a call may take under [`IMPATIENT`] when nothing moves: the timeout, and time to notice.
const IN_TIME: Duration = Duration::from_secs(8);

/// Permanent faults.
fn lasting() -> Vec<(&'static str, Action)> {
    vec![
        ("internal errors", status(500, "InternalError")),
        ("resets", Action::Reset),
        ("stalls", Action::Stall { ms: 30_000 }),
    ]
}

#[track_caller]
fn assert_gives_up<T: std::fmt::Debug>(what: &str, call: impl FnOnce() -> io::Result<T>) {
    let began = Instant::now();
    let result = call();
    let took = began.elapsed();
    println!("{what}: {result:?} after {took:?}");
    let code = result.expect_err(what).raw_os_error();
    assert!(
        matches!(code, Some(libc::EIO | libc::ETIMEDOUT)),
        "{what}: {code:?}"
    );
    assert!(took < IN_TIME, "{what}: {took:?}");
}

#[test]
fn a_failed_upload_is_an_error_at_close_stays_visible_and_is_retried() {
    if !can_mount() {
        return;
    }
    for (fault, action) in lasting() {
        let rig = Rig::new();
        let mount = rig.mount("mnt", IMPATIENT);
        let old = b"what was there before".to_vec();
        write_and_close(&mount.path.join("replaced"), &old).unwrap();
        let large = noise(5, LARGE);
        for (name, operation, content) in [
            ("new", PutObject, b"new content".to_vec()),
            ("replaced", PutObject, b"newer content".to_vec()),
            ("large", UploadPart, large.clone()),
            ("completed", CompleteMultipartUpload, large.clone()),
        ] {
            let what = format!("{fault} at {operation:?} of {name}");
            rig.fault(
                Fault::once(operation, action.clone())
                    .on_keys(name)
                    .always(),
            );
            let path = mount.path.join(name);
            assert_gives_up(&what, || write_and_close(&path, &content));
            // The data is there, as seen through this mount.
            assert!(read(&path).unwrap() == content, "{what}");
            // And absent or unchanged, as seen in the bucket.
            match name {
                "replaced" => assert_eq!(rig.ciphertext(name).len(), old.len(), "{what}"),
                _ => assert!(!rig.keys().contains(&name.to_owned()), "{what}"),
            }
            // Nothing else waits for it.
            let began = Instant::now();
            write_and_close(&mount.path.join("unrelated"), b"unrelated").unwrap();
            assert!(
                began.elapsed() < Duration::from_secs(1),
                "{what}: {:?}",
                began.elapsed()
            );
            rig.instruments().clear_faults();
            eventually(&what, || {
                rig.keys().contains(&name.to_owned()) && rig.ciphertext(name).len() == content.len()
            });
        }
        let other = rig.mount("other", IMPATIENT);
        assert_eq!(read(&other.path.join("new")).unwrap(), b"new content");
        assert_eq!(
            read(&other.path.join("replaced")).unwrap(),
            b"newer content"
        );
        assert!(read(&other.path.join("large")).unwrap() == large);
        assert!(read(&other.path.join("completed")).unwrap() == large);
        other.end_well();
        mount.end_well();
        if !matches!(action, Action::Stall { .. }) {
            rig.assert_no_unfinished_uploads();
        }
    }
}

#[test]
fn a_call_gives_up_in_time_if_the_service_does_not_respond() {
    if !can_mount() {
        return;
    }
    let rig = Rig::new();
    let mount = rig.mount("mnt", IMPATIENT);
    let at = |name: &str| mount.path.join(name);
    fs::create_dir(at("d")).unwrap();
    for name in ["f", "renamed", "d/f"] {
        write_and_close(&at(name), &noise(1, 3 << 20)).unwrap();
    }
    rig.settle();
    for (fault, action) in lasting() {
        let open = File::open(at("f")).unwrap();
        rig.fault(Fault {
            operation: None,
            key: String::new(),
            skip: 0,
            times: u64::MAX,
            action,
        });
        let what = |call: &str| format!("{call} during {fault}");
        assert_gives_up(&what("stat"), || fs::metadata(at("f")));
        assert_gives_up(&what("ls"), || {
            fs::read_dir(at("d"))?.collect::<io::Result<Vec<_>>>()
        });
        assert_gives_up(&what("mkdir"), || fs::create_dir(at("new")));
        assert_gives_up(&what("rename"), || fs::rename(at("renamed"), at("other")));
        assert_gives_up(&what("unlink"), || fs::remove_file(at("f")));
        let mut byte = [0];
        let began = Instant::now();
        // If it is cached, it is correct.
        if let Err(error) = open.read_exact_at(&mut byte, 2 << 20) {
            assert!(
                matches!(error.raw_os_error(), Some(libc::EIO | libc::ETIMEDOUT)),
                "{error}"
            );
        }
        assert!(began.elapsed() < IN_TIME, "{:?}", began.elapsed());
        rig.instruments().clear_faults();
        // Calls fail at once until the mount has noticed that the service responds again.
        eventually("the service answers", || read(&at("f")).is_ok());
        // Everything is unchanged.
        assert!(read(&at("f")).unwrap() == noise(1, 3 << 20));
        assert!(read(&at("renamed")).unwrap() == noise(1, 3 << 20));
        assert!(!at("other").exists());
        assert_eq!(fs::read_dir(at("d")).unwrap().count(), 1);
    }
    mount.end_well();
}

#[test]
fn an_unmount_reports_what_could_not_be_uploaded() {
    if !can_mount() {
        return;
    }
    let rig = Rig::new();
    let mount = rig.mount("mnt", IMPATIENT);
    write_and_close(&mount.path.join("saved"), b"saved").unwrap();
    rig.fault(
        Fault::once(PutObject, status(500, "InternalError"))
            .on_keys("lost")
            .always(),
    );
    assert_gives_up("close", || {
        write_and_close(&mount.path.join("lost"), b"lost")
    });
    let ended = mount.end();
    assert_eq!(ended.code, Some(40), "{}", ended.messages);
    let last = ended.messages.lines().last().unwrap_or_default();
    assert!(
        last.contains("\"lost\"") && !last.contains("saved"),
        "{last}"
    );
    assert_eq!(rig.keys(), ["saved"]);
}

#[test]
fn an_unmount_waits_for_slow_uploads() {
    if !can_mount() {
        return;
    }
    let rig = Rig::new();
    let mount = rig.mount("mnt", IMPATIENT);
    rig.fault(
        Fault::once(PutObject, Action::Reset)
            .on_keys("late")
            .always(),
    );
    assert_gives_up("close", || {
        write_and_close(&mount.path.join("late"), b"late")
    });
    rig.instruments().clear_faults();
    mount.end_well();
    assert_eq!(rig.keys(), ["late"]);
}

/// A reader of a file that is being replaced, by an upload that fails in between, sees one version or the
/// other.
#[test]
fn no_client_sees_a_partial_file_while_uploads_fail() {
    if !can_mount() {
        return;
    }
    let rig = Rig::new();
    let writer = rig.mount("mnt", &["--timeout", "5"]);
    let reader = rig.mount("other", NOTHING_REMEMBERED);
    let versions: Vec<Vec<u8>> = (0..4)
        .map(|seed| noise(seed, LARGE / 2 + seed as usize))
        .collect();
    write_and_close(&writer.path.join("f"), &versions[0]).unwrap();
    for (i, action) in [
        Action::Reset,
        Action::LoseAnswer,
        status(503, "ServiceUnavailable"),
    ]
    .into_iter()
    .enumerate()
    {
        rig.fault(Fault::once(UploadPart, action.clone()).times(2));
        rig.fault(Fault::once(CompleteMultipartUpload, action));
        let (old, new) = (&versions[i], &versions[i + 1]);
        std::thread::scope(|scope| {
            let writing = scope.spawn(|| write_and_close(&writer.path.join("f"), new).unwrap());
            let mut reads = 0;
            while !writing.is_finished() || reads == 0 {
                match read(&reader.path.join("f")) {
                    Ok(found) => assert!(
                        found == *old || found == *new,
                        "{} other bytes",
                        found.len()
                    ),
                    // It was replaced while it was being read.
                    Err(error) => assert_eq!(error.raw_os_error(), Some(libc::ESTALE), "{error}"),
                }
                reads += 1;
            }
        });
        rig.instruments().clear_faults();
        assert!(read(&reader.path.join("f")).unwrap() == *new);
    }
    reader.end_well();
    writer.end_well();
    rig.assert_no_unfinished_uploads();
}
