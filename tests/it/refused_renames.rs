//! Renames whose DELETE the bucket refuses: the old name keeps its key, and everything left behind is
//! visible.

use ossvault::fs::error::Error;
use ossvault::fs::handles::open_file::OpenHow;
use ossvault::fs::namespace::object_name::Name;
use ossvault::server::instruments::{Action, Fault};
use ossvault::server::operation::Operation::*;

use super::other_writers::{WRITE, block, mounted, mounted_with};
use super::world::{Call, Kernel, Refusal, World};
use crate::fixture::errno;
use crate::fixture::{Rig, can_mount, read, write_and_close};

/// All of them, until it is stopped.
fn refuse(world: &World, only: Call) {
    world.weather.refuse(Some(Refusal {
        only: Some(only),
        after: 0,
        times: u32::MAX,
    }));
}

async fn remounted(world: &World) -> Kernel {
    Kernel::new(world.mount().await)
}

/// "If the bucket refuses to delete the old name, the rename fails with that error and the old name stays:
/// the copies are removed again."
///
/// Regression: the inode had moved: every later write to the old name went to the new key, and the next mount
/// showed the old content.
#[test]
fn a_file_whose_old_name_cannot_be_deleted_keeps_it_and_is_written_there() {
    block(async {
        let (world, kernel) = mounted().await;
        kernel.save("a", b"one").await;
        world.weather.keep(Some("a"));
        let error = kernel.rename("a", "b").await.unwrap_err();
        assert!(matches!(error, Error::Refused(..)), "{error:?}");
        assert_eq!(world.others.keys().await, ["a"], "the copy is gone again");
        assert!(kernel.find("b").await.is_none());
        let handle = kernel.open("a", WRITE).await;
        kernel.write(handle, 0, b"two").await.unwrap();
        kernel.close(handle).await.unwrap();
        assert_eq!(world.others.get("a").await.unwrap(), b"two");
        let kernel = remounted(&world).await;
        assert_eq!(kernel.load("a").await, b"two");
        assert!(kernel.find("b").await.is_none());
    });
}

#[test]
fn an_open_file_whose_rename_is_refused_stays_usable_under_its_old_name() {
    block(async {
        let (world, kernel) = mounted().await;
        kernel.save("a", &[7; 3000]).await;
        let handle = kernel.open("a", WRITE).await;
        assert_eq!(kernel.fs.read(handle, 0, 10).await.unwrap(), [7; 10][..]);
        world.weather.keep(Some("a"));
        kernel.rename("a", "b").await.unwrap_err();
        assert_eq!(kernel.read_all(handle).await.unwrap(), [7; 3000]);
        kernel.write(handle, 3000, b"more").await.unwrap();
        kernel.close(handle).await.unwrap();
        assert_eq!(world.others.keys().await, ["a"]);
        assert_eq!(world.others.get("a").await.unwrap().len(), 3004);
    });
}

/// "Before a file replaces another one, the mount checks that it may delete objects in the old name's
/// directory."
///
/// Regression: the copy had replaced the target when the DELETE was refused.
#[test]
fn the_target_of_a_refused_rename_is_not_lost() {
    block(async {
        let (world, kernel) = mounted().await;
        kernel.save("a", b"source").await;
        kernel.save("b", b"target").await;
        refuse(&world, Call::Delete);
        for _ in 0..2 {
            let error = kernel.rename("a", "b").await.unwrap_err();
            assert!(matches!(error, Error::Refused(..)), "{error:?}");
            assert_eq!(kernel.load("a").await, b"source");
            assert_eq!(kernel.load("b").await, b"target");
        }
        assert_eq!(world.weather.count(Call::Copy), 0, "it was known before");
        world.weather.refuse(None);
        kernel.rename("a", "b").await.unwrap();
        assert_eq!(world.others.keys().await, ["b"]);
        assert_eq!(world.others.get("b").await.unwrap(), b"source");
    });
}

/// "If the copies cannot be removed either, they stay visible, and the log says so."
///
/// A rename that is known to be refused is not tried again at the cost of another copy.
#[test]
fn a_copy_that_cannot_be_undone_is_shown_and_not_repeated() {
    block(async {
        let (world, kernel) = mounted().await;
        kernel.save("a", b"one").await;
        refuse(&world, Call::Delete);
        kernel.rename("a", "b").await.unwrap_err();
        assert_eq!(world.others.keys().await, ["a", "b"]);
        assert_eq!(kernel.load("b").await, b"one");
        kernel.rename("a", "c").await.unwrap_err();
        assert!(kernel.find("c").await.is_none());
        assert_eq!(world.others.keys().await, ["a", "b"]);
    });
}

async fn with_directory() -> (World, Kernel) {
    let (world, kernel) = mounted().await;
    kernel.mkdir("d").await;
    kernel.mkdir("d/sub").await;
    for name in ["d/a", "d/b", "d/sub/c"] {
        kernel.save(name, name.as_bytes()).await;
    }
    (world, kernel)
}

const TREE: [&str; 5] = ["d/", "d/a", "d/b", "d/sub/", "d/sub/c"];

/// Regression: the files had moved, and the next mount finished the refused rename.
#[test]
fn a_directory_with_an_undeletable_object_stays_in_place() {
    block(async {
        for kept in ["d/", "d/a", "d/sub/c"] {
            let (world, kernel) = with_directory().await;
            let handle = kernel.open("d/b", WRITE).await;
            world.weather.keep(Some(kept));
            let error = kernel.rename("d", "e").await.unwrap_err();
            assert!(matches!(error, Error::Refused(..)), "{error:?}");
            assert_eq!(world.others.keys().await, TREE, "{kept}");
            assert!(kernel.find("e").await.is_none());
            // Open files are written under their current name.
            kernel.write(handle, 0, b"D").await.unwrap();
            kernel.close(handle).await.unwrap();
            assert_eq!(world.others.get("d/b").await.unwrap(), b"D/b");
            world.weather.keep(None);
            let kernel = remounted(&world).await;
            assert_eq!(world.others.keys().await, TREE, "{kept}");
            for name in ["d/a", "d/sub/c"] {
                assert_eq!(kernel.load(name).await, name.as_bytes());
            }
            kernel.unlink("d/a").await.unwrap();
            assert_eq!(world.others.get("d/a").await, None);
        }
    });
}

#[test]
fn a_directory_rename_without_delete_permission_is_not_resumed_by_the_next_mount() {
    block(async {
        let (world, kernel) = with_directory().await;
        refuse(&world, Call::Delete);
        kernel.rename("d", "e").await.unwrap_err();
        let keys = world.others.keys().await;
        // The copies cannot be deleted, and are visible.
        let files: Vec<_> = keys.iter().filter(|key| !key.starts_with('.')).collect();
        assert_eq!(files.len(), 2 * TREE.len(), "{keys:?}");
        assert_eq!(kernel.load("d/a").await, b"d/a");
        assert_eq!(kernel.load("e/a").await, b"d/a");
        // The second time, the refusal is cached.
        kernel.rename("d", "f").await.unwrap_err();
        assert_eq!(world.others.keys().await, keys);
        world.weather.refuse(None);
        let kernel = remounted(&world).await;
        assert_eq!(kernel.load("d/sub/c").await, b"d/sub/c");
        let shown = world.others.keys().await;
        assert!(
            TREE.iter()
                .all(|key| shown.iter().any(|shown| shown == key))
        );
    });
}

#[test]
fn the_empty_target_directory_of_a_refused_rename_keeps_its_attributes() {
    block(async {
        let (world, kernel) = with_directory().await;
        let (parent, name) = (ossvault::fs::namespace::Ino::ROOT, Name::from("e"));
        let caller = super::world::CALLER;
        let made = kernel.fs.mkdir(parent, &name, 0o751, caller).await.unwrap();
        kernel.entered(&made);
        world.weather.keep(Some("d/sub/c"));
        kernel.rename("d", "e").await.unwrap_err();
        let kernel = remounted(&world).await;
        assert_eq!(kernel.look("e").await.mode, 0o751);
        assert_eq!(kernel.look("d").await.mode, 0o755);
        let keys = world.others.keys().await;
        assert_eq!(keys, ["d/", "d/a", "d/b", "d/sub/", "d/sub/c", "e/"]);
    });
}

/// Regression: the upload under the new name was refused when the old object had already been deleted.
#[test]
fn a_file_that_replaces_an_object_is_renamed_without_losing_it() {
    block(async {
        let (world, kernel) = mounted_with(|world| {
            world.settings.rename_grace = std::time::Duration::from_secs(30);
        })
        .await;
        let how = OpenHow {
            exclusive: true,
            ..WRITE
        };
        kernel.save("a", b"the old one").await;
        let (_, handle) = kernel.make(".a.Q1W2E3", how).await;
        kernel.write(handle, 0, b"new").await.unwrap();
        // Still open: it is uploaded later, and replaces the object there.
        kernel.rename(".a.Q1W2E3", "a").await.unwrap();
        for call in [Call::Put, Call::Copy, Call::Delete] {
            refuse(&world, call);
            kernel.rename("a", "b").await.unwrap_err();
            assert!(world.others.get("a").await.is_some(), "{call:?}");
            assert_eq!(kernel.load("a").await, b"new", "{call:?}");
            world.weather.refuse(None);
        }
        kernel.close(handle).await.unwrap();
        let kernel = remounted(&world).await;
        assert_eq!(kernel.load("a").await, b"new");
    });
}

/// With a mount and a server: the two responses that services give.
#[test]
fn a_refused_rename_fails_with_the_errno_of_the_refusal_and_changes_nothing() {
    if !can_mount() {
        return;
    }
    let rig = Rig::new();
    let mount = rig.mount("mnt", &[]);
    write_and_close(&mount.path.join("old"), b"content").unwrap();
    write_and_close(&mount.path.join("target"), b"precious").unwrap();
    std::fs::create_dir(mount.path.join("folder")).unwrap();
    write_and_close(&mount.path.join("folder/file"), b"inside").unwrap();
    let before = rig.keys();
    for (status, code, expected) in [
        (403, "AccessDenied", libc::EACCES),
        (409, "FileImmutable", libc::EPERM),
    ] {
        let code = code.to_owned();
        let refusal = Action::Status { status, code };
        for (from, to) in [("old", "new"), ("old", "target"), ("folder", "elsewhere")] {
            for operation in [DeleteObject, DeleteMultipleObjects] {
                let fault = Fault::once(operation, refusal.clone()).on_keys("old");
                rig.fault(fault.always());
                let fault = Fault::once(operation, refusal.clone()).on_keys("folder");
                rig.fault(fault.always());
            }
            // A batch delete names its keys in its body.
            rig.fault(Fault::once(DeleteMultipleObjects, refusal.clone()));
            let renamed = std::fs::rename(mount.path.join(from), mount.path.join(to));
            rig.instruments().clear_faults();
            assert_eq!(errno(renamed), expected, "{from} to {to}");
            assert_eq!(rig.keys(), before, "{from} to {to}");
            assert_eq!(read(&mount.path.join("old")).unwrap(), b"content");
            assert_eq!(read(&mount.path.join("target")).unwrap(), b"precious");
            assert_eq!(read(&mount.path.join("folder/file")).unwrap(), b"inside");
            assert!(!mount.path.join("new").exists() && !mount.path.join("elsewhere").exists());
        }
    }
    write_and_close(&mount.path.join("old"), b"written later").unwrap();
    mount.end_well();
    let mount = rig.mount("again", &[]);
    assert_eq!(rig.keys(), before);
    assert_eq!(read(&mount.path.join("old")).unwrap(), b"written later");
    mount.end_well();
}

/// "Renaming a directory that has more entries than fit in a quarter of the memory limit (some 20,000 files
/// for each 64 MiB) fails with EXDEV; `mv` then moves one file after another, through this machine."
///
/// Regression: all entries below it were held in memory, however many there were.
#[test]
fn a_directory_with_more_entries_than_fit_in_memory_is_not_renamed() {
    block(async {
        const LIMIT: u64 = 4 << 20;
        let (world, kernel) = mounted_with(|world| world.settings.memory_limit = LIMIT).await;
        kernel.mkdir("d").await;
        let fits = LIMIT as usize / 4 / 700;
        for n in 0..fits + 200 {
            world
                .others
                .put_plain(&format!("d/{n:05}"), "content")
                .await;
        }
        world.weather.take_calls();
        for _ in 0..2 {
            let error = kernel.rename("d", "e").await.unwrap_err();
            assert!(matches!(error, Error::TooMany), "{error:?}");
        }
        let calls = world.weather.take_calls();
        assert!(calls.keys().all(|call| !call.changes()), "{calls:?}");
        for n in 0..200 {
            world.others.delete(&format!("d/{n:05}")).await;
        }
        kernel.rename("d", "e").await.unwrap();
        let keys = world.others.keys().await;
        assert_eq!(keys.len(), fits + 1, "{:?}", keys.first());
        assert!(keys.iter().all(|key| key.starts_with("e/")));
    });
}
