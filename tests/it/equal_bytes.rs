//! Objects with equal bytes have equal ETags: cached data of one of them must not be used for another.
//!
//! All empty objects have the ETag of no bytes: files, FIFOs, sockets, devices, and directory markers. So
//! does the object that a rename leaves under another name.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use super::other_writers::{block, mounted, mounted_with};
use crate::fixture::{Rig, bash, can_mount, eventually, has_program};

/// Sets an extended attribute, and lists them.
const XATTRS: &str = r#"
xset() { python3 -c 'import os, sys; os.setxattr(sys.argv[1], "user.a", b"old")' "$1"; }
xlist() { python3 -c 'import os, sys; print(*os.listxattr(sys.argv[1], follow_symlinks=False))' "$1"; }
"#;

/// What `stat` prints of a name, and its extended attributes.
fn shown(folder: &Path, name: &str) -> String {
    let line = format!("{XATTRS} cd \"$MNT\"; stat -c '%F %a %u:%g' {name}; xlist {name}");
    bash(folder, &line).trim().replace('\n', " ")
}

/// Regression: a FIFO became a regular file permanently, with the attributes of the file that had its name
/// before.
#[test]
fn a_recreated_name_shows_nothing_of_its_predecessor() {
    if !can_mount() || !has_program("python3") || !nix::unistd::geteuid().is_root() {
        return;
    }
    let cases = [
        (
            "touch n; sleep 1.2; chmod 111 n; xset n; rm n; mkfifo n; chmod 640 n",
            "n",
            "fifo 640 0:0",
        ),
        (
            "touch h; sleep 1.2; chown 5:6 h; rm h; mkfifo h; sleep 3; mv h h2; chmod 640 h2",
            "h2",
            "fifo 640 0:0",
        ),
        (
            "touch n; xset n; rm n; mknod n c 1 3; chmod 640 n",
            "n",
            "character special file 640 0:0",
        ),
        (
            "mkfifo n; chown 5:6 n; sleep 1.2; chmod 600 n; rm n; touch n; chmod 640 n",
            "n",
            "regular empty file 640 0:0",
        ),
        (
            "touch n; chmod 111 n; xset n; rm n; : > n; chmod g+w n",
            "n",
            "regular empty file 664 0:0",
        ),
        (
            "mkdir n; chmod 711 n; xset n; rmdir n; mkdir n; chown 3:4 n",
            "n",
            "directory 755 3:4",
        ),
        (
            "touch n; chmod 111 n; xset n; rm n; mkdir n; chown 3:4 n",
            "n",
            "directory 755 3:4",
        ),
        (
            "mkdir n; xset n; chown 3:4 n; rmdir n; mkfifo n; chmod 640 n",
            "n",
            "fifo 640 0:0",
        ),
        (
            "ln -s same n; chown -h 5:6 n; sleep 1.2; rm n; ln -s same n; chown -h :7 n",
            "n",
            "symbolic link 777 0:7",
        ),
        (
            "touch n; chown 5:6 n; xset n; mkfifo m; sleep 1.2; mv m n; chmod 640 n",
            "n",
            "fifo 640 0:0",
        ),
        (
            "touch n m; chown 5:6 n; xset n; sleep 1.2; mv m n; chmod 640 n",
            "n",
            "regular empty file 640 0:0",
        ),
        (
            "touch n m; chown 5:6 n; xset n; mv n old; mv m n; chmod 640 n; rm old",
            "n",
            "regular empty file 640 0:0",
        ),
        (
            "mkdir n m; chown 5:6 n; xset n; sleep 1.2; mv -T m n; chmod 700 n",
            "n",
            "directory 700 0:0",
        ),
        (
            "echo x > n; cp n m; chown 5:6 n; xset n; mv m n; chmod 640 n",
            "n",
            "regular file 640 0:0",
        ),
    ];
    let rig = Rig::new();
    let mount = rig.mount("mnt", &[]);
    std::thread::scope(|scope| {
        for (index, (script, name, expected)) in cases.iter().enumerate() {
            let path = mount.path.join(index.to_string());
            scope.spawn(move || {
                fs::create_dir(&path).unwrap();
                bash(&path, &format!("{XATTRS} umask 022; cd \"$MNT\"; {script}"));
                assert_eq!(shown(&path, name), *expected, "{script}");
            });
        }
    });
    mount.end_well();
    let mount = rig.mount("again", &[]);
    for (index, (script, name, expected)) in cases.iter().enumerate() {
        let path = mount.path.join(index.to_string());
        assert_eq!(shown(&path, name), *expected, "after a remount: {script}");
    }
    mount.end_well();
}

#[test]
fn a_name_that_another_mount_gives_to_another_kind_of_file_is_of_that_kind() {
    if !can_mount() {
        return;
    }
    let rig = Rig::new();
    let (one, two) = (rig.mount("one", &[]), rig.mount("two", &[]));
    for (before, after, kind) in [
        ("touch n", "rm n; mkfifo n", "fifo 640"),
        ("mkfifo n", "rm n; touch n", "regular empty file 640"),
    ] {
        bash(&one.path, &format!("cd \"$MNT\"; rm -f n; {before}"));
        eventually("it is seen", || {
            two.path.join("n").symlink_metadata().is_ok()
        });
        bash(&one.path, &format!("cd \"$MNT\"; {after}"));
        std::thread::sleep(Duration::from_millis(1200));
        let seen = bash(
            &two.path,
            "chmod 640 \"$MNT/n\"; stat -c '%F %a' \"$MNT/n\"",
        );
        assert_eq!(seen.trim(), kind);
        std::thread::sleep(Duration::from_millis(1200));
        let seen = bash(&one.path, "stat -c '%F %a' \"$MNT/n\"");
        assert_eq!(seen.trim(), kind);
        bash(&one.path, "rm \"$MNT/n\"; touch \"$MNT/n\"");
    }
    one.end_well();
    two.end_well();
}

/// "On a directory that this mount created, such a change is noticed."
#[test]
fn a_directory_that_others_change_in_the_second_of_its_mkdir_shows_the_change() {
    block(async {
        for ttl in [Duration::ZERO, Duration::from_millis(1)] {
            let (world, kernel) = mounted_with(|world| world.settings.metadata_ttl = ttl).await;
            kernel.mkdir("d").await;
            world.others.chmod_now("d/", 0o40_700).await;
            let start = Instant::now();
            while kernel.look("d").await.mode != 0o700 {
                assert!(start.elapsed() < Duration::from_secs(10), "{ttl:?}");
                world.weather.advance(1);
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
    });
}

#[test]
fn a_rename_does_not_revert_earlier_changes_by_others() {
    block(async {
        let (world, kernel) = mounted().await;
        kernel.save("a", b"content").await;
        kernel.mkdir("d").await;
        kernel.save("d/a", b"content").await;
        world.others.chmod("a", 0o100_600).await;
        world.others.chmod("d/a", 0o100_600).await;
        kernel.rename("a", "b").await.unwrap();
        kernel.rename("d", "e").await.unwrap();
        for name in ["b", "e/a"] {
            assert_eq!(kernel.look(name).await.mode, 0o600, "{name}");
        }
    });
}

/// "A rename updates the change time (ctime) of the renamed file or directory. The change time is stored
/// with the copy, except in the formats `sdk` and `dual`, where a copy cannot change metadata."
#[test]
fn a_rename_updates_the_change_time_and_no_other() {
    if !can_mount() {
        return;
    }
    for format in ["seed", "sdk"] {
        let rig = Rig::new();
        let options = ["--format", format];
        let mount = rig.mount("mnt", &options);
        bash(
            &mount.path,
            "cd \"$MNT\"; echo x > file; mkdir folder; touch folder/inside folder; ln -s x link; mkfifo fifo",
        );
        // Times of a directory are stored within a second of being set.
        std::thread::sleep(Duration::from_millis(1500));
        let times = |path: &Path| {
            let meta = fs::symlink_metadata(path).unwrap();
            let changed = (meta.ctime(), meta.ctime_nsec());
            ((meta.mtime(), meta.mtime_nsec()), changed)
        };
        let mut after = Vec::new();
        for name in ["file", "folder", "link", "fifo", "young"] {
            let (old, new) = (
                mount.path.join(name),
                mount.path.join(format!("new-{name}")),
            );
            // A listing of the same second does not tell whether its headers are as they were.
            if name == "young" {
                fs::create_dir(&old).unwrap();
            }
            let before = times(&old);
            std::thread::sleep(Duration::from_millis(20));
            fs::rename(&old, &new).unwrap();
            let now = times(&new);
            assert_eq!(now.0, before.0, "{format}: {name}");
            assert!(now.1 > before.1, "{format}: {name}");
            after.push((new, before, now));
        }
        // This remains true after the cached data has been revalidated.
        std::thread::sleep(Duration::from_millis(1200));
        for (path, _, now) in &after {
            assert_eq!(times(path), *now, "{format}: {}", path.display());
        }
        mount.end_well();
        let mount = rig.mount("mnt", &options);
        for (path, before, now) in after {
            let stored = times(&path);
            // Markers are the same in all formats.
            let moves = format == "seed"
                || ["new-folder", "new-young"]
                    .iter()
                    .any(|name| path.ends_with(name));
            let expected = if moves { now } else { before };
            assert_eq!(stored, expected, "{format}: {}", path.display());
        }
        mount.end_well();
    }
}
