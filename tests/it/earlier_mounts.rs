//! What a killed mount has left in the bucket: a later mount on the same machine finishes it, and ignores
//! everything that others have left there.

use std::fs;
use std::os::unix::fs::MetadataExt;

use ossvault::server::instruments::{Action, Fault};
use ossvault::server::operation::Operation::*;

use super::other_writers::{block, mounted};
use super::world::{Kernel, World};
use crate::fixture::{Rig, can_mount, eventually, read, write_and_close};

const ID: &str = "0123456789abcdef";
const SECRET: [u8; 32] = [7; 32];

async fn with_directory() -> World {
    let (world, kernel) = mounted().await;
    kernel.mkdir("d").await;
    for name in ["d/1", "d/2"] {
        kernel.save(name, name.as_bytes()).await;
    }
    // So that there is something to resume.
    world.others.copy("d/1", "e/1").await;
    world
}

async fn remount(world: &World) -> Vec<String> {
    drop(Kernel::new(world.mount().await));
    world.others.keys().await
}

/// An attacker who can put an object could have any directory moved, and its contents deleted.
///
/// "Only the machine that began a rename resumes it; the record of another machine's rename is reported and
/// left alone."
#[test]
fn a_rename_recorded_by_another_machine_is_not_carried_out() {
    block(async {
        let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
        let named = format!(
            r#"{{"from":"d/","to":"e/","host":"{}","boot":"another","pid":1}}"#,
            host.trim()
        );
        for forgery in 0..8 {
            let world = with_directory().await;
            match forgery {
                0 => world.others.put_plain(".ossvault/rename-1", &named).await,
                1 => drop(world.put_intent(ID, &SECRET, "d/", "e/").await),
                2 => {
                    world.leave_secret(ID, &[8; 32]);
                    world.put_intent(ID, &SECRET, "d/", "e/").await;
                }
                3 => {
                    // Genuine, but from another machine: it names its key.
                    let key = world.leave_intent("d/", "e/").await;
                    let moved = format!(".ossvault/rename-{ID}-0000000000000002");
                    world.others.copy(&key, &moved).await;
                    world.others.delete(&key).await;
                }
                4 => {
                    world.leave_secret(ID, &SECRET);
                    let key = format!(".ossvault/rename-{ID}-0000000000000001");
                    world.others.put_plain(&key, &" ".repeat(1 << 20)).await;
                }
                5 => {
                    let key = world.leave_intent("d/", "e/").await;
                    let text = r#"{"from":"d/","to":"e/","mac":"","more":1}"#;
                    world.others.put_plain(&key, text).await;
                }
                6 => drop(world.leave_intent("d/", ".ossvault/x/").await),
                _ => drop(world.leave_intent("d/", "../e/").await),
            }
            let before = world.others.keys().await;
            assert_eq!(remount(&world).await, before, "forgery {forgery}");
        }
    });
}

#[test]
fn a_rename_begun_on_this_machine_is_finished_and_its_secret_deleted() {
    block(async {
        let world = with_directory().await;
        world.leave_intent("d/", "e/").await;
        assert_eq!(remount(&world).await, ["e/", "e/1", "e/2"]);
        assert!(!world.state_folder().join(ID).exists());
    });
}

#[test]
fn a_rename_that_copied_only_the_marker_is_abandoned() {
    block(async {
        let (world, kernel) = mounted().await;
        kernel.mkdir("d").await;
        kernel.save("d/1", b"x").await;
        drop(kernel);
        world.others.copy("d/", "e/").await;
        world.leave_intent("d/", "e/").await;
        assert_eq!(remount(&world).await, ["d/", "d/1"]);
    });
}

/// Regression: unlinked files that a killed mount had kept for their readers stayed forever.
#[test]
fn objects_put_aside_by_an_ended_mount_of_this_machine_are_deleted_later() {
    block(async {
        let (world, kernel) = mounted().await;
        drop(kernel);
        world.leave_secret(ID, &SECRET);
        let ours = format!(".ossvault/aside/{ID}-0000000000000001");
        let theirs = ".ossvault/aside/fedcba9876543210-0000000000000001";
        let other = ".ossvault/aside/something";
        for key in [&ours[..], theirs, other] {
            world.others.put_now(key, b"content", 0o100_600).await;
        }
        assert_eq!(
            remount(&world).await,
            [&ours[..], theirs, other],
            "it is new"
        );
        assert!(world.state_folder().join(ID).exists());
        world.weather.advance(3601);
        assert_eq!(remount(&world).await, [theirs, other]);
        assert!(!world.state_folder().join(ID).exists());
    });
}

#[test]
fn a_killed_mount_s_rename_is_finished_by_the_next_and_secrets_are_kept_no_longer_than_needed() {
    if !can_mount() {
        return;
    }
    let rig = Rig::new();
    let kept = || -> Vec<std::path::PathBuf> {
        let mut found = Vec::new();
        let mut folders = vec![rig.path("state")];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                match entry.path() {
                    path if path.is_dir() => folders.push(path),
                    path => found.push(path),
                }
            }
        }
        found
    };
    let mount = rig.mount("mnt", &[]);
    fs::create_dir(mount.path.join("d")).unwrap();
    for i in 0..6 {
        write_and_close(&mount.path.join(format!("d/{i}")), &[i; 100]).unwrap();
    }
    assert!(kept().is_empty(), "nothing is kept before it is needed");
    // Some are copied, and then the service hangs.
    let hang = Action::Stall { ms: 60_000 };
    rig.fault(Fault::once(CopyObject, hang).after(3).always());
    let (from, to) = (mount.path.join("d"), mount.path.join("e"));
    let renaming = std::thread::spawn(move || fs::rename(from, to));
    eventually("copies are made", || {
        rig.keys()
            .iter()
            .filter(|key| key.starts_with("e/"))
            .count()
            == 3
    });
    assert_eq!(kept().len(), 1);
    assert_eq!(fs::metadata(&kept()[0]).unwrap().mode() & 0o777, 0o600);
    let intent = rig.keys().remove(0);
    let text = String::from_utf8(rig.ciphertext(&intent)).unwrap();
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    assert!(!text.contains(host.trim()), "{text}");
    // Another mount leaves it alone in the meantime: its mount is alive.
    let other = rig.mount("other", &["--read-only"]);
    other.end_well();
    assert!(rig.keys().contains(&intent));
    mount.kill();
    let _ = renaming.join().unwrap();
    rig.instruments().clear_faults();
    let mount = rig.mount("mnt", &[]);
    let expected: Vec<String> = std::iter::once("e/".to_owned())
        .chain((0..6).map(|i| format!("e/{i}")))
        .collect();
    assert_eq!(rig.keys(), expected);
    for i in 0..6 {
        assert_eq!(read(&mount.path.join(format!("e/{i}"))).unwrap(), [i; 100]);
    }
    assert!(kept().is_empty());
    fs::rename(mount.path.join("e"), mount.path.join("f")).unwrap();
    assert_eq!(kept().len(), 1);
    mount.end_well();
    assert!(kept().is_empty());
}
