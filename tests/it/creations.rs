//! New names: errors from close() of a new file, and which of two clients gets a name that both create.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use ossvault::server::instruments::{Action, Fault};
use ossvault::server::operation::Operation::{self, *};

use super::other_writers::{block, mounted_with};
use crate::fixture::{Rig, bash, can_mount, close, eventually, has_program, read, write_and_close};
use crate::fixture::{errno, mode, names, set_mode};

/// Long enough that nothing expires while a test runs.
const LASTING: &[&str] = &["--metadata-ttl", "60"];

fn refuse_puts(rig: &Rig) {
    let code = "AccessDenied".to_owned();
    let refusal = Action::Status { status: 403, code };
    rig.fault(Fault::once(PutObject, refusal).always());
}

// ---- empty files ----

/// "A file that is new or was truncated by `open()`, and is still empty, is uploaded when the last copy of
/// its descriptor is closed in the process that opened it."
///
/// "That close waits and reports errors like any other."
///
/// Regression: they were uploaded after the close had returned.
#[test]
fn the_close_of_an_empty_new_file_reports_that_its_upload_is_refused() {
    if !can_mount() {
        return;
    }
    let rig = Rig::new();
    let mount = rig.mount("mnt", &[]);
    write_and_close(&mount.path.join("old"), b"content").unwrap();
    refuse_puts(&rig);
    for name in ["new", "old"] {
        let file = File::create(mount.path.join(name)).unwrap();
        assert_eq!(errno(close(file)), libc::EACCES, "{name}");
    }
    for line in ["touch a", "cp /dev/null b", "touch a"] {
        let status = Command::new("sh")
            .args(["-c", line])
            .current_dir(&mount.path)
            .stderr(std::process::Stdio::null())
            .status()
            .unwrap();
        assert!(!status.success(), "{line}");
    }
    let keys = rig.keys();
    assert_eq!(keys, ["old"]);
    rig.instruments().clear_faults();
    // A refused upload is retried, like that of written data.
    eventually("they are up", || rig.keys() == ["a", "b", "new", "old"]);
    mount.end_well();
}

/// "`dup2()` over a descriptor closes it, and the kernel discards the error; the log records it."
#[test]
fn an_upload_error_that_a_shell_does_not_see_is_logged() {
    if !can_mount() {
        return;
    }
    let rig = Rig::new();
    let mount = rig.mount("mnt", &[]);
    refuse_puts(&rig);
    bash(&mount.path, ": > \"$MNT/f\"");
    let log = fs::read_to_string(&mount.log).unwrap();
    assert!(log.contains("uploading \"f\" failed"), "{log}");
    rig.instruments().clear_faults();
    eventually("it is up", || rig.keys() == ["f"]);
    mount.end_well();
}

#[test]
fn the_close_of_an_empty_new_file_waits_for_its_upload() {
    if !can_mount() {
        return;
    }
    let rig = Rig::new();
    let mount = rig.mount("mnt", LASTING);
    bash(&mount.path, "ls \"$MNT\"");
    rig.fault(Fault::once(PutObject, Action::Stall { ms: 700 }).always());
    for line in [
        "touch \"$MNT/a\"",
        ": > \"$MNT/b\"",
        "cp /dev/null \"$MNT/c\"",
    ] {
        let begun = Instant::now();
        bash(&mount.path, line);
        assert!(begun.elapsed() >= Duration::from_millis(700), "{line}");
    }
    assert_eq!(rig.keys(), ["a", "b", "c"]);
    rig.instruments().clear_faults();
    mount.end_well();
}

/// "If the descriptor was duplicated, only the close of the last copy uploads: shells duplicate descriptors
/// before they write."
///
/// "A process that only inherited the descriptor does not have to wait."
#[test]
fn a_shell_s_redirections_cost_one_put_whether_bytes_follow_or_not() {
    if !can_mount() {
        return;
    }
    let rig = Rig::new();
    let mount = rig.mount("mnt", LASTING);
    bash(&mount.path, "ls \"$MNT\"");
    for (line, content) in [
        ("touch f", ""),
        (": > f", ""),
        ("echo x > f", "x\n"),
        ("cat /dev/null > f", ""),
        ("cp /dev/null f", ""),
        ("exec 3> f; exec 3>&-", ""),
        ("exec 3> f; echo x >&3; exec 3>&-", "x\n"),
        ("{ sleep 0.1; echo x; } > f", "x\n"),
        ("( /bin/true; cat /dev/null; echo x ) > f", "x\n"),
        ("{ /bin/true; /bin/true; } > f", ""),
        ("sh -c 'exec > f; sleep 0.1; echo x'", "x\n"),
    ] {
        for shell_name in ["bash", "dash"] {
            if !has_program(shell_name) {
                continue;
            }
            let _ = fs::remove_file(mount.path.join("f"));
            let counts = rig.requests(|| {
                let ran = Command::new(shell_name)
                    .args(["-euc", line])
                    .current_dir(&mount.path)
                    .status();
                assert!(ran.unwrap().success(), "{line}");
            });
            assert_eq!(counts.of(PutObject), 1, "{shell_name}: {line}");
            // cp checks whether it creates the file.
            assert_eq!(counts.others(&[PutObject, ListObjectsV2]), 0, "{line}");
            assert_eq!(read(&mount.path.join("f")).unwrap(), content.as_bytes());
        }
    }
    mount.end_well();
}

#[test]
fn a_program_whose_output_goes_to_a_new_file_makes_one_object_when_its_parent_has_closed_it() {
    if !can_mount() || !has_program("python3") {
        return;
    }
    let rig = Rig::new();
    let mount = rig.mount("mnt", LASTING);
    bash(&mount.path, "ls \"$MNT\"");
    let program = "import subprocess\nf = open('out', 'wb')\n\
                   p = subprocess.Popen(['sh', '-c', 'sleep 0.3; echo x'], stdout=f)\n\
                   f.close()\nassert p.wait() == 0\n";
    let counts = rig.requests(|| {
        let ran = Command::new("python3")
            .args(["-c", program])
            .current_dir(&mount.path)
            .status();
        assert!(ran.unwrap().success());
    });
    assert_eq!(counts.of(PutObject), 1, "{:?}", counts.requests);
    assert_eq!(read(&mount.path.join("out")).unwrap(), b"x\n");
    mount.end_well();
}

// ---- O_EXCL ----

fn create_new(path: &Path) -> std::io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o640).open(path)
}

/// Two mounts of one bucket that remember names for long.
fn two_mounts(rig: &Rig) -> [crate::fixture::rig::Mount; 2] {
    let one = rig.mount("one", LASTING);
    fs::create_dir(one.path.join("q")).unwrap();
    let two = rig.mount("two", LASTING);
    assert!(names(&two.path.join("q")).is_empty());
    [one, two]
}

/// "`open()` with O_EXCL checks in the bucket whether the name exists, whatever is cached."
#[test]
fn exclusive_creation_fails_for_a_file_that_another_mount_has_just_created() {
    if !can_mount() {
        return;
    }
    let rig = Rig::new();
    let [one, two] = two_mounts(&rig);
    for (name, content) in [("x", &b"theirs"[..]), ("empty", b""), ("x.lock", b"1")] {
        let name = format!("q/{name}");
        write_and_close(&one.path.join(&name), content).unwrap();
        let made = create_new(&two.path.join(&name));
        assert_eq!(errno(made), libc::EEXIST, "{name}");
        assert_eq!(read(&two.path.join(&name)).unwrap(), content);
    }
    fs::create_dir(one.path.join("q/d")).unwrap();
    assert_eq!(errno(create_new(&two.path.join("q/d"))), libc::EEXIST);
    assert!(two.path.join("q/d").is_dir());
    one.end_well();
    two.end_well();
}

/// "If two clients check before either has uploaded, one of them gets EEXIST from `close()`: its data is
/// discarded, and the name shows the other's file."
///
/// Regression: the loser showed its own data forever, and uploaded it when the winner deleted its file.
#[test]
fn the_loser_of_two_exclusive_creations_gets_an_error_and_shows_the_winner_s_file() {
    if !can_mount() {
        return;
    }
    let rig = Rig::new();
    let [one, two] = two_mounts(&rig);
    // Not with empty files: one process that has both open looks as if it had one of them open twice.
    let content = &b"bytes"[..];
    let (ours, theirs) = (one.path.join("q/x"), two.path.join("q/x"));
    let write = |path: &Path, text: &[u8]| {
        use std::io::Write;
        let mut file = create_new(path).unwrap();
        file.write_all(text).unwrap();
        file
    };
    let winner = write(&ours, content);
    let loser = write(&theirs, &content.repeat(2));
    let again = loser.try_clone().unwrap();
    close(winner).unwrap();
    assert_eq!(errno(loser.sync_all()), libc::EEXIST);
    assert_eq!(errno(loser.sync_all()), libc::EEXIST, "it stays lost");
    use std::io::Write;
    assert_eq!(errno((&loser).write_all(b"more")), libc::ESTALE);
    assert_eq!(errno(close(loser)), libc::EEXIST);
    drop(again);
    eventually("the winner's file", || {
        read(&theirs).is_ok_and(|read| read == content)
    });
    assert_eq!(mode(&theirs), 0o640);
    fs::remove_file(&ours).unwrap();
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(rig.keys(), ["q/"], "nothing is uploaded later");
    // Both cache what they saw: the next round begins with that state.
    fs::remove_file(&theirs).ok();
    one.end_well();
    two.end_well();
}

#[test]
fn of_two_mounts_that_race_for_a_name_exactly_one_wins_and_both_show_its_file() {
    if !can_mount() {
        return;
    }
    const NAMES: usize = 20;
    let rig = Rig::new();
    let mounts = two_mounts(&rig);
    for i in 0..NAMES {
        let contents = match i % 2 {
            0 => [&b"one"[..], b"two and more"],
            _ => [&b""[..], b""],
        };
        let start = Barrier::new(2);
        let won: Vec<bool> = std::thread::scope(|scope| {
            let racers: Vec<_> = mounts
                .iter()
                .zip(contents)
                .map(|(mount, content)| {
                    let (path, start) = (mount.path.join(format!("q/{i}")), &start);
                    scope.spawn(move || {
                        use std::io::Write;
                        start.wait();
                        let won = create_new(&path).and_then(|mut file| {
                            file.write_all(content)?;
                            close(file)
                        });
                        match won {
                            Ok(()) => true,
                            Err(error) => {
                                assert_eq!(error.raw_os_error(), Some(libc::EEXIST));
                                false
                            }
                        }
                    })
                })
                .collect();
            racers
                .into_iter()
                .map(|racer| racer.join().unwrap())
                .collect()
        });
        assert_eq!(won.iter().filter(|won| **won).count(), 1, "{i}");
        let expected = contents[usize::from(won[1])];
        for mount in &mounts {
            eventually("the winner's file", || {
                read(&mount.path.join(format!("q/{i}"))).is_ok_and(|read| read == expected)
            });
        }
    }
    for mount in mounts {
        mount.end_well();
    }
}

/// "Temporary names with a random part are not checked."
#[test]
fn an_exclusive_creation_checks_once_and_not_at_all_under_a_random_name() {
    if !can_mount() {
        return;
    }
    let rig = Rig::new();
    let mount = rig.mount("mnt", LASTING);
    bash(&mount.path, "ls \"$MNT\"");
    let make = |name: &str, to: Option<&str>| {
        let counts = rig.requests(|| {
            use std::io::Write;
            let mut file = create_new(&mount.path.join(name)).unwrap();
            file.write_all(b"x").unwrap();
            close(file).unwrap();
            if let Some(to) = to {
                fs::rename(mount.path.join(name), mount.path.join(to)).unwrap();
            }
        });
        let mut counts: Vec<(Operation, u64)> = counts.requests.into_iter().collect();
        counts.retain(|(_, n)| *n > 0);
        counts.sort();
        counts
    };
    let mut asked = vec![(ListObjectsV2, 1), (PutObject, 1)];
    asked.sort();
    assert_eq!(make("file", None), asked);
    assert_eq!(make("index.lock", Some("index")), asked);
    assert_eq!(make(".file.Q1w2E3", Some("other")), [(PutObject, 1)]);
    assert_eq!(make("tmp_obj_Q1w2E3", Some("object")), [(PutObject, 1)]);
    mount.end_well();
}

/// "If a tool will rename a lock file (`*.lock`), two mounts can each create it until one of them is
/// uploaded."
#[test]
fn two_mounts_can_each_create_a_lock_file_until_one_is_uploaded() {
    if !can_mount() {
        return;
    }
    let rig = Rig::new();
    let [one, two] = two_mounts(&rig);
    let locks = [&one, &two].map(|mount| create_new(&mount.path.join("q/x.lock")).unwrap());
    let [ours, theirs] = locks;
    ours.sync_all().unwrap();
    assert_eq!(errno(theirs.sync_all()), libc::EEXIST);
    drop((ours, theirs));
    fs::remove_file(one.path.join("q/x.lock")).unwrap();
    one.end_well();
    two.end_well();
}

// ---- directories ----

/// "`mkdir()` of a directory that another mount has just created fails with EEXIST."
#[test]
fn mkdir_fails_for_a_directory_that_another_mount_has_just_created() {
    if !can_mount() {
        return;
    }
    let rig = Rig::new();
    let [one, two] = two_mounts(&rig);
    fs::create_dir(one.path.join("q/d")).unwrap();
    set_mode(&one.path.join("q/d"), 0o711);
    write_and_close(&one.path.join("q/d/file"), b"x").unwrap();
    assert_eq!(errno(fs::create_dir(two.path.join("q/d"))), libc::EEXIST);
    assert_eq!(mode(&two.path.join("q/d")), 0o711);
    assert_eq!(names(&two.path.join("q/d")), ["file"]);
    for (name, theirs) in [("link", "a"), ("other", "b")] {
        std::os::unix::fs::symlink(theirs, one.path.join("q").join(name)).unwrap();
        let made = std::os::unix::fs::symlink("ours", two.path.join("q").join(name));
        assert_eq!(errno(made), libc::EEXIST);
        let shown = fs::read_link(two.path.join("q").join(name)).unwrap();
        assert_eq!(shown, Path::new(theirs));
    }
    one.end_well();
    two.end_well();
}

/// "A directory is not renamed onto one that another mount has just created."
#[test]
fn a_directory_is_not_renamed_onto_one_that_another_mount_has_just_created() {
    if !can_mount() {
        return;
    }
    let rig = Rig::new();
    let [one, two] = two_mounts(&rig);
    fs::create_dir(two.path.join("ours")).unwrap();
    for i in 0..3 {
        write_and_close(&two.path.join(format!("ours/{i}")), b"x").unwrap();
    }
    // Another client creates a directory with a file of another name: the two directories would have been
    // merged.
    fs::create_dir(one.path.join("q/d")).unwrap();
    write_and_close(&one.path.join("q/d/theirs"), b"x").unwrap();
    let before = rig.keys();
    let renamed = fs::rename(two.path.join("ours"), two.path.join("q/d"));
    assert_eq!(errno(renamed), libc::ENOTEMPTY);
    assert_eq!(rig.keys(), before);
    eventually("the kernel is told of what is there", || {
        two.path.join("q/d").exists()
    });
    assert_eq!(names(&two.path.join("q/d")), ["theirs"]);
    assert_eq!(names(&two.path.join("ours")), ["0", "1", "2"]);
    one.end_well();
    two.end_well();
}

/// "A file, or a directory without a marker, that another client has created there within `--metadata-ttl`
/// is not noticed."
#[test]
fn mkdir_does_not_notice_a_directory_of_others_without_a_marker() {
    block(async {
        let hour = Duration::from_secs(3600);
        let (world, kernel) = mounted_with(|world| {
            (world.settings.metadata_ttl, world.settings.dir_ttl) = (hour, hour);
        })
        .await;
        assert!(kernel.find("e").await.is_none() && kernel.find("f").await.is_none());
        world.others.put("e", b"theirs").await;
        world.others.put("f/x", b"theirs").await;
        kernel.mkdir("e").await;
        kernel.mkdir("f").await;
        assert_eq!(world.others.keys().await, ["e", "e/", "f/", "f/x"]);
    });
}
