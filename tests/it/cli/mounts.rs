//! Mounts that start, have the expected properties, and end.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use super::{Place, Run};
use crate::fixture::{can_mount, eventually, find};

#[test]
fn a_mount_starts_in_the_background_and_ends_with_umount() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    place.keygen("key");
    let source = format!("file://{}", place.path("store").display());
    let mount = ["mount", &source, "mnt", "--private-key", "key"];
    place.run(&mount).succeeds();
    assert!(place.is_mounted());
    assert_eq!(fs::read_dir(place.path("mnt")).unwrap().count(), 0);
    place
        .run(&mount)
        .fails(11, &["already mounted", "ossvault umount"]);

    let inside = fs::File::open(place.path("mnt")).unwrap();
    place.run(&["umount", "mnt"]).fails(15, &["in use"]);
    drop(inside);
    place.run(&["umount", "mnt"]).succeeds();
    assert!(!place.is_mounted());
    place.run(&["umount", "mnt"]).fails(14, &["not mounted"]);
    place
        .run(&["umount", "absent"])
        .fails(10, &["absent", "does not exist"]);
    place.run(&["umount", "/proc"]).fails(14, &["/proc"]);
}

/// "Metadata comes from the bucket and is not trusted: every mount is nosuid and nodev."
#[test]
fn the_options_of_the_mount_are_safe_ones() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    place.keygen("key");
    let source = format!("file://{}", place.path("store").display());
    place
        .run(&[
            "mount",
            &source,
            "mnt",
            "--private-key",
            "key",
            "--read-only",
        ])
        .succeeds();
    let path = format!(" {} ", place.path("mnt").display());
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let line = table.lines().find(|line| line.contains(&path)).unwrap();
    for word in [
        "ro,",
        "nosuid",
        "nodev",
        "default_permissions",
        " fuse.ossvault ",
        "ossvault",
        "file://",
    ] {
        assert!(line.contains(word), "no {word} in {line}");
    }
    if nix::unistd::geteuid().is_root() {
        let device = line.split(' ').nth(2).unwrap();
        let knob = format!("/sys/class/bdi/{device}/read_ahead_kb");
        assert_eq!(fs::read_to_string(knob).unwrap().trim(), "208");
    }
}

#[test]
fn a_stale_mount_is_cleaned_by_the_next_one() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    place.keygen("key");
    let source = format!("file://{}", place.path("store").display());
    let mount = [
        "mount",
        &source,
        "mnt",
        "--private-key",
        "key",
        "--foreground",
    ];
    let start = || {
        let child = place
            .command(&mount)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        eventually("mounted", || place.is_mounted());
        child
    };
    let mut child = start();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(place.is_mounted(), "the kernel keeps what nobody unmounts");
    assert!(fs::metadata(place.path("mnt")).is_err());

    let run = place.run(&["mount", &source, "mnt", "--private-key", "key"]);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    assert!(run.stderr.contains("stale mount"), "{}", run.stderr);
    assert!(fs::metadata(place.path("mnt")).is_ok());
    place.run(&["umount", "mnt"]).succeeds();

    let mut child = start();
    child.kill().unwrap();
    child.wait().unwrap();
    place
        .run(&["umount", "mnt"])
        .fails(41, &["died without a report"]);
    assert!(!place.is_mounted());
}

#[test]
fn signals_and_an_external_unmount_end_the_daemon() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    place.keygen("key");
    let source = format!("file://{}", place.path("store").display());
    let umount = |_: u32| {
        let program = find("fusermount3").map_or("umount".into(), |path| path);
        let mut command = Command::new(&program);
        if program.ends_with("fusermount3") {
            command.arg("-u");
        }
        assert!(command.arg(place.path("mnt")).status().unwrap().success());
    };
    let signal = |name: &'static str| {
        move |pid: u32| {
            let status = Command::new("kill")
                .args([name, &pid.to_string()])
                .status()
                .unwrap();
            assert!(status.success());
        }
    };
    let ends: [(&str, &dyn Fn(u32)); 3] = [
        ("SIGTERM", &signal("-TERM")),
        ("SIGINT", &signal("-INT")),
        ("umount", &umount),
    ];
    for (name, end) in ends {
        let mut child = place
            .command(&[
                "mount",
                &source,
                "mnt",
                "--private-key",
                "key",
                "--foreground",
            ])
            .spawn()
            .unwrap();
        eventually("mounted", || {
            place.is_mounted() && fs::read_dir(place.path("mnt")).is_ok()
        });
        end(child.id());
        let mut status = None;
        eventually(name, || {
            status = child.try_wait().unwrap();
            status.is_some()
        });
        assert_eq!(status.unwrap().code(), Some(0), "{name}");
        assert!(!place.is_mounted(), "{name}");
    }
}

/// A place where user 65534 can mount; None, with the reason printed, if that is not possible.
fn for_an_ordinary_user() -> Option<Place> {
    let lacking = ["fusermount3", "unshare", "setpriv"]
        .into_iter()
        .find(|program| find(program).is_none());
    if !nix::unistd::geteuid().is_root() || lacking.is_some() {
        // As an ordinary user, every other test here uses this path.
        eprintln!("skipped: needs root, fusermount3, unshare(1) and setpriv(1)");
        return None;
    }
    let place = Place::new();
    fs::set_permissions(place.path(""), fs::Permissions::from_mode(0o755)).unwrap();
    fs::copy(crate::fixture::PROGRAM, place.path("ossvault")).unwrap();
    place.keygen("key");
    fs::create_dir(place.path("home")).unwrap();
    for name in ["mnt", "key", "key.pub", "home"] {
        std::os::unix::fs::chown(place.path(name), Some(65534), Some(65534)).unwrap();
    }
    Some(place)
}

/// Runs a script as root that can use `as_user`.
fn as_an_ordinary_user(place: &Place, script: &str) -> Run {
    // In a separate mount namespace, with a device that every user can open, as udev creates it.
    const BEFORE: &str = r#"
        set -eu
        if ! su_can_open=$(setpriv --reuid=65534 --regid=65534 --clear-groups sh -c ': <>/dev/fuse' 2>&1); then
            mknod device c 10 229
            chmod 666 device
            mount --bind device /dev/fuse
        fi
        as_user() {
            setpriv --reuid=65534 --regid=65534 --clear-groups env -i PATH="$PATH" HOME="$PWD/home" "$@"
        }
    "#;
    Command::new("unshare")
        .args(["-m", "sh", "-c", &format!("{BEFORE}{script}")])
        .current_dir(place.path(""))
        .stdin(Stdio::null())
        .output()
        .map(Run::from)
        .unwrap()
}

#[test]
fn an_ordinary_user_mounts_through_fusermount3() {
    if !can_mount() {
        return;
    }
    let Some(place) = for_an_ordinary_user() else {
        return;
    };
    let script = r#"
        as_user ./ossvault mount "file://$PWD/home/store" mnt --private-key key
        as_user ls mnt
        if ls mnt 2>/dev/null; then echo "root got in"; exit 1; fi
        as_user ./ossvault umount mnt
        if grep -q " $PWD/mnt " /proc/self/mountinfo; then echo "still mounted"; exit 1; fi
    "#;
    as_an_ordinary_user(&place, script).succeeds();
}

/// Stored owners would lock the user out of their own files.
#[test]
fn everything_in_an_ordinary_users_mount_belongs_to_that_user() {
    if !can_mount() {
        return;
    }
    let Some(place) = for_an_ordinary_user() else {
        return;
    };
    let script = r#"
        mkdir roots
        ./ossvault mount "file://$PWD/home/store" roots --private-key key --insecure-key-permissions --no-sync
        mkdir roots/d
        echo text > roots/d/file
        ln -s file roots/d/link
        chmod 600 roots/d/file
        chown -h 1234:5678 roots/d roots/d/file roots/d/link
        test "$(stat -c %u:%g:%a roots/d/file)" = 1234:5678:600
        ./ossvault umount roots
        chown -R 65534:65534 home
        as_user ./ossvault mount "file://$PWD/home/store" mnt --private-key key --no-sync
        as_user sh -euc '
            cd mnt
            test "$(stat -c %u:%g . d d/file d/link | sort -u)" = 65534:65534
            test "$(cat d/file)" = text
            echo more >> d/file
            chmod 640 d/file
            touch -d @1000 d/file
            chgrp 65534 d/file
            echo new > d/new
            mkdir d/sub
            mv d/new d/sub/new
            rm d/link
            test "$(stat -c %u:%g:%a:%Y d/file)" = 65534:65534:640:1000
            ! chown 1234 d/file 2> /dev/null
        '
        as_user ./ossvault umount mnt
        # What root had given away stays so in the bucket.
        ./ossvault mount "file://$PWD/home/store" roots --private-key key --insecure-key-permissions --no-sync
        test "$(stat -c %u:%g:%a roots/d/file)" = 1234:65534:640
        test "$(stat -c %u:%g roots/d/sub/new)" = 65534:65534
        ./ossvault umount roots
    "#;
    as_an_ordinary_user(&place, script).succeeds();
}

#[test]
fn a_daemon_that_dies_leaves_no_core_file() {
    if !can_mount() {
        return;
    }
    use std::os::unix::process::ExitStatusExt;
    let place = Place::new();
    place.keygen("key");
    let source = format!("file://{}", place.path("store").display());
    // As a user would start it who wants core files.
    let script = "ulimit -S -c $(ulimit -H -c); exec \"$0\" \"$@\"";
    let program = place.command(&[]);
    let mut command = Command::new("sh");
    command
        .args(["-c", script])
        .arg(program.get_program())
        .args(["mount", &source, "mnt", "--private-key", "key", "-f"])
        .args(["--cache-dir", "cache"])
        .current_dir(place.path(""));
    let mut child = command.spawn().unwrap();
    eventually("mounted", || place.is_mounted());
    let limits = fs::read_to_string(format!("/proc/{}/limits", child.id())).unwrap();
    let core = limits
        .lines()
        .find(|line| line.starts_with("Max core file size"))
        .unwrap();
    let numbers: Vec<&str> = core.split_whitespace().skip(4).collect();
    assert_eq!(numbers[..2], ["0", "0"], "{core}");
    // Nor one that a pipe handler receives from the kernel, to which the limit does not apply.
    let pid = nix::unistd::Pid::from_raw(child.id() as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGABRT).unwrap();
    let status = child.wait().unwrap();
    assert_eq!(status.signal(), Some(libc::SIGABRT));
    assert!(!status.core_dumped());
}

#[test]
fn a_write_only_mount_logs_the_key_that_it_writes_for() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    let made = place
        .run(&["keygen", "key", "--no-passphrase", "--bits", "2048"])
        .succeeds();
    let fingerprint = made
        .stdout
        .lines()
        .find_map(|line| line.strip_prefix("fingerprint: "))
        .unwrap();
    let source = format!("file://{}", place.path("store").display());
    place
        .run(&[
            "mount",
            &source,
            "mnt",
            "--public-key",
            "key.pub",
            "--log-file",
            "log",
        ])
        .succeeds();
    eventually("the log says so", || {
        let log = fs::read_to_string(place.path("log")).unwrap_or_default();
        log.lines()
            .any(|line| line.contains("WARN") && line.contains(fingerprint))
    });
    place.run(&["umount", "mnt"]).succeeds();
}

/// Regression: it said that nothing was mounted there.
#[test]
fn a_mount_is_unmounted_by_its_owner_or_by_root() {
    use std::os::unix::process::CommandExt;
    if !can_mount() {
        return;
    }
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only root can become another user");
        return;
    }
    let place = Place::new();
    place.keygen("key");
    let source = format!("file://{}", place.path("bucket").display());
    let mount = ["mount", &source, "mnt", "--private-key", "key"];
    place.run(&mount).succeeds();
    fs::set_permissions(place.path(""), fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = place.command(&["umount", "mnt"]);
    let other = command.uid(65534).gid(65534).output().unwrap();
    Run::from(other).fails(17, &["belongs to root", "can unmount it"]);
    assert!(place.is_mounted());
    place.run(&["umount", "mnt"]).succeeds();
}
