//! How a mount sees other writers of the bucket, and what it does when their changes and its own files
//! conflict: rules 3 and 4 of docs/semantics.md, and inode numbers.

use std::time::Duration;

use ossvault::files::attributes::{Change, Kind};
use ossvault::fs::error::Error;
use ossvault::fs::handles::open_file::{OpenHow, Writer};
use ossvault::fs::namespace::Ino;
use ossvault::fs::namespace::kernel::Invalidation;
use ossvault::fs::namespace::object_name::Name;
use ossvault::fs::namespace::stat::Stat;
use ossvault::fs::ops::xattr::SetXattr;

use super::world::{CALLER, Failure, FsResult, Kernel, PART, World};

pub(crate) const READ: OpenHow = OpenHow {
    clear_set_id: false,
    read: true,
    write: false,
    truncate: false,
    exclusive: false,
    execute: false,
    thread: 0,
};

pub(crate) const WRITE: OpenHow = OpenHow {
    clear_set_id: false,
    read: true,
    write: true,
    truncate: false,
    exclusive: false,
    execute: false,
    thread: 0,
};

pub(crate) fn block<T>(work: impl Future<Output = T>) -> T {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(2).enable_all().build().unwrap();
    let limit = Duration::from_secs(60);
    let result = runtime.block_on(async { tokio::time::timeout(limit, work).await });
    runtime.shutdown_background();
    result.expect("it hangs")
}

pub(crate) async fn mounted() -> (World, Kernel) {
    mounted_with(|_| ()).await
}

pub(crate) async fn mounted_with(change: impl FnOnce(&mut World)) -> (World, Kernel) {
    let mut world = World::new();
    change(&mut world);
    let kernel = Kernel::new(world.mount().await);
    (world, kernel)
}

impl Kernel {
    pub(crate) async fn find(&self, path: &str) -> Option<Stat> {
        let (parent, name) = self.parent(path).await.unwrap();
        self.lookup(parent, name).await.unwrap()
    }

    pub(crate) async fn look(&self, path: &str) -> Stat {
        let found = self.find(path).await;
        found.unwrap_or_else(|| panic!("{path} is not there"))
    }

    pub(crate) async fn open(&self, path: &str, how: OpenHow) -> u64 {
        let ino = self.walk(path).await.unwrap();
        self.fs.open(ino, how).await.unwrap().handle
    }

    pub(crate) async fn make(&self, path: &str, how: OpenHow) -> (Ino, u64) {
        let (parent, name) = self.parent(path).await.unwrap();
        let name = Name::from(name);
        let made = self.fs.create(parent, &name, 0o644, CALLER, how).await;
        let (looks, opened) = made.unwrap();
        self.entered(&looks);
        (looks.ino, opened.handle)
    }

    pub(crate) async fn write(&self, handle: u64, offset: u64, data: &[u8]) -> FsResult<()> {
        let data = bytes::Bytes::copy_from_slice(data);
        self.fs.write(handle, offset, data, Writer::default()).await
    }

    pub(crate) async fn close(&self, handle: u64) -> FsResult<()> {
        let flushed = self.fs.flush(handle, 0).await;
        self.fs.release_now(handle);
        flushed
    }

    pub(crate) async fn save(&self, path: &str, content: &[u8]) {
        let (_, handle) = self.make(path, WRITE).await;
        self.write(handle, 0, content).await.unwrap();
        self.close(handle).await.unwrap();
    }

    pub(crate) async fn load(&self, path: &str) -> Vec<u8> {
        let handle = self.open(path, READ).await;
        let content = self.read_all(handle).await.unwrap();
        self.close(handle).await.unwrap();
        content
    }

    pub(crate) async fn rename(&self, from: &str, to: &str) -> FsResult<()> {
        let (old, old_name) = self.parent(from).await?;
        let (new, new_name) = self.parent(to).await?;
        self.lookup(old, old_name).await?;
        self.lookup(new, new_name).await?;
        let from = (old, Name::from(old_name));
        let to = (new, Name::from(new_name));
        self.fs.rename(from, to, true).await
    }

    pub(crate) async fn unlink(&self, path: &str) -> FsResult<()> {
        let (parent, name) = self.parent(path).await?;
        self.lookup(parent, name).await?;
        self.fs.unlink(parent, &Name::from(name)).await
    }

    pub(crate) async fn mkdir(&self, path: &str) {
        let (parent, name) = self.parent(path).await.unwrap();
        let name = Name::from(name);
        let made = self.fs.mkdir(parent, &name, 0o755, CALLER).await;
        self.entered(&made.unwrap());
    }
}

fn mode(mode: u32) -> Change {
    Change {
        mode: Some(mode),
        ..Change::default()
    }
}

pub(crate) fn long(len: u64, seed: u8) -> Vec<u8> {
    (0..len).map(|at| (at / 97) as u8 ^ seed).collect()
}

// ---- rule 4: what others wrote is seen ----

#[test]
fn creations_replacements_changes_and_deletions_by_others_are_seen() {
    block(async {
        let (world, kernel) = mounted().await;
        assert!(kernel.find("a").await.is_none());
        world.others.put("a", b"one").await;
        assert_eq!(kernel.load("a").await, b"one");
        let first = kernel.look("a").await;
        assert_eq!((first.size, first.mode), (3, 0o640));

        world.others.put("a", b"second").await;
        let ino = kernel.walk("a").await.unwrap();
        let opened = kernel.fs.open(ino, READ).await.unwrap();
        assert!(!opened.keep_pages, "the kernel's pages show what was there");
        assert_eq!(kernel.read_all(opened.handle).await.unwrap(), b"second");
        kernel.close(opened.handle).await.unwrap();
        let opened = kernel.fs.open(ino, READ).await.unwrap();
        assert!(opened.keep_pages);
        kernel.close(opened.handle).await.unwrap();

        world.others.chmod("a", 0o100_600).await;
        let changed = kernel.look("a").await;
        assert_eq!((changed.mode, changed.ino), (0o600, ino));
        let opened = kernel.fs.open(ino, READ).await.unwrap();
        assert!(opened.keep_pages, "only the mode has changed");
        kernel.close(opened.handle).await.unwrap();

        world.others.delete("a").await;
        assert!(kernel.find("a").await.is_none());
        let error = kernel.fs.open(ino, READ).await.unwrap_err();
        assert!(matches!(error, Error::Stale), "the kernel looks it up anew");
    });
}

#[test]
fn writes_by_others_are_seen_after_the_ttl_and_not_requested_before() {
    block(async {
        let ttl = Duration::from_millis(300);
        let (world, kernel) = mounted_with(|world| world.settings.metadata_ttl = ttl).await;
        world.others.put("a", b"one").await;
        assert_eq!(kernel.load("a").await, b"one");
        assert!(kernel.find("b").await.is_none());
        world.others.put("a", b"second").await;
        world.others.put("b", b"").await;
        world.weather.take_calls();
        assert_eq!(kernel.look("a").await.size, 3);
        assert!(kernel.find("b").await.is_none());
        assert_eq!(world.weather.take_calls().values().sum::<u32>(), 0);
        tokio::time::sleep(ttl).await;
        assert_eq!(kernel.load("a").await, b"second");
        assert!(kernel.find("b").await.is_some());
    });
}

#[test]
fn a_new_prefix_is_a_directory_and_a_vanished_one_is_gone() {
    block(async {
        let (world, kernel) = mounted().await;
        assert!(kernel.find("d").await.is_none());
        world.others.put("d/e/a", b"x").await;
        assert_eq!(kernel.look("d").await.kind, Kind::Directory);
        assert_eq!(kernel.load("d/e/a").await, b"x");
        world.others.delete("d/e/a").await;
        assert!(kernel.find("d").await.is_none());
    });
}

#[test]
fn a_directory_replaced_by_a_file_and_back_gets_new_inodes() {
    block(async {
        let (world, kernel) = mounted().await;
        kernel.mkdir("d").await;
        kernel.save("d/a", b"x").await;
        let directory = kernel.look("d").await;
        world.others.delete("d/a").await;
        world.others.delete("d/").await;
        world.others.put("d", b"a file").await;
        let file = kernel.look("d").await;
        assert_eq!(file.kind, Kind::File);
        assert_ne!(file.ino, directory.ino);
        assert_eq!(kernel.load("d").await, b"a file");
        world.others.delete("d").await;
        world.others.put("d/a", b"again").await;
        let again = kernel.look("d").await;
        assert_eq!(again.kind, Kind::Directory);
        assert_ne!(again.ino, file.ino);
        assert_eq!(kernel.load("d/a").await, b"again");
    });
}

/// "If a name is both a file and a directory, the directory is shown."
#[test]
fn a_name_that_is_both_a_file_and_a_directory_is_a_directory_until_that_is_gone() {
    block(async {
        let (world, kernel) = mounted().await;
        world.others.put("both", b"file").await;
        world.others.put("both/below", b"below").await;
        kernel.save("file", b"another").await;
        kernel.mkdir("d").await;
        let before = world.others.keys().await;
        assert_eq!(kernel.look("both").await.kind, Kind::Directory);
        let refused = [
            kernel.unlink("both").await,
            kernel.rename("file", "both").await,
        ];
        for refused in refused {
            assert!(matches!(refused, Err(Error::IsDirectory)), "{refused:?}");
        }
        let rmdir = || async {
            kernel.look("both").await;
            kernel.fs.rmdir(Ino::ROOT, &Name::from("both")).await
        };
        for refused in [rmdir().await, kernel.rename("d", "both").await] {
            assert!(matches!(refused, Err(Error::NotEmpty)), "{refused:?}");
        }
        assert_eq!(world.others.keys().await, before);

        // The directory moves to its new name, and the file becomes visible.
        kernel.rename("both", "moved").await.unwrap();
        assert_eq!(kernel.load("moved/below").await, b"below");
        assert_eq!(kernel.load("both").await, b"file");
        // A file that is renamed onto such a name is the only thing that moves.
        kernel.rename("both", "moved/both").await.unwrap();
        assert!(kernel.find("both").await.is_none());

        // And when it is removed, after its contents.
        world.others.put("both", b"file again").await;
        kernel.rename("moved", "both").await.unwrap_err();
        world.others.put("both/below", b"below").await;
        assert_eq!(kernel.look("both").await.kind, Kind::Directory);
        kernel.unlink("both/below").await.unwrap();
        assert_eq!(kernel.look("both").await.kind, Kind::Directory);
        rmdir().await.unwrap();
        assert_eq!(kernel.load("both").await, b"file again");
        kernel.unlink("both").await.unwrap();
        assert!(kernel.find("both").await.is_none());
        let keys = world.others.keys().await;
        assert!(!keys.iter().any(|key| key.starts_with("both")), "{keys:?}");
    });
}

#[test]
fn markers_of_other_tools_are_directories_or_files_like_any() {
    block(async {
        let (world, kernel) = mounted().await;
        // Web consoles create folder objects with content, Hadoop creates files beside them.
        world.others.put_plain("d/", "content").await;
        world.others.put_plain("e_$folder$", "").await;
        let directory = kernel.look("d").await;
        assert_eq!(directory.kind, Kind::Directory);
        assert_eq!(kernel.look("e_$folder$").await.kind, Kind::File);
        assert!(kernel.find("e").await.is_none());
        let chmod = kernel.fs.setattr(directory.ino, None, mode(0o700));
        assert_eq!(chmod.await.unwrap().mode, 0o700);
        kernel.save("d/a", b"below").await;
        kernel.rename("d", "moved").await.unwrap();
        let keys = world.others.keys().await;
        assert_eq!(keys, ["e_$folder$", "moved/", "moved/a"]);
        assert_eq!(kernel.look("moved").await.mode, 0o700);
        assert_eq!(kernel.load("moved/a").await, b"below");
        kernel.unlink("moved/a").await.unwrap();
        let name = Name::from("moved");
        kernel.fs.rmdir(Ino::ROOT, &name).await.unwrap();
        kernel.unlink("e_$folder$").await.unwrap();
        assert!(world.others.keys().await.is_empty());
    });
}

// ---- rule 3: one version per open file ----

#[test]
fn a_handle_that_has_returned_data_keeps_its_version_or_gets_estale() {
    block(async {
        let (world, kernel) = mounted_with(|world| world.settings.memory_limit = 6 << 20).await;
        let (old, new) = (long(5 << 20, 1), long(5 << 20, 2));
        world.others.put("a", &old).await;
        let handle = kernel.open("a", READ).await;
        let first = kernel.fs.read(handle, 0, 4096).await.unwrap();
        assert!(first == old[..4096]);
        world.others.put("a", &new).await;
        match kernel.fs.read(handle, 4_500_000, 4096).await {
            Err(Error::Stale) => {}
            other => panic!("{other:?}"),
        }
        let again = kernel.fs.read(handle, 0, 4096).await;
        assert!(matches!(again, Err(Error::Stale)) || again.unwrap() == old[..4096]);
        kernel.close(handle).await.unwrap();
        assert!(kernel.load("a").await == new);
    });
}

#[test]
fn a_handle_that_has_returned_nothing_switches_versions_and_invalidates_the_kernels_pages() {
    block(async {
        let (world, kernel) = mounted().await;
        let mut notices = kernel.fs.take_notices().unwrap();
        world.others.put("a", b"the old one").await;
        let ino = kernel.walk("a").await.unwrap();
        let handle = kernel.fs.open(ino, READ).await.unwrap().handle;
        world.others.put("a", b"a newer version").await;
        assert_eq!(kernel.read_all(handle).await.unwrap(), b"a newer version");
        assert_eq!(notices.try_recv(), Ok(Invalidation::Content(ino)));
        kernel.close(handle).await.unwrap();
        assert_eq!(kernel.look("a").await.ino, ino);
    });
}

#[test]
fn a_write_by_a_handle_that_has_returned_nothing_applies_to_the_new_version() {
    block(async {
        let (world, kernel) = mounted().await;
        world.others.put("a", b"the old one").await;
        let handle = kernel.open("a", WRITE).await;
        world.others.put("a", b"THE NEW VERSION").await;
        kernel.write(handle, 0, b"xx").await.unwrap();
        kernel.close(handle).await.unwrap();
        assert_eq!(world.others.get("a").await.unwrap(), b"xxE NEW VERSION");
    });
}

#[test]
fn a_name_that_shows_another_version_than_the_open_one_gets_a_new_inode() {
    block(async {
        let (world, kernel) = mounted().await;
        world.others.put("a", b"old").await;
        let ino = kernel.walk("a").await.unwrap();
        let handle = kernel.fs.open(ino, READ).await.unwrap().handle;
        assert_eq!(kernel.read_all(handle).await.unwrap(), b"old");
        world.others.put("a", b"a new one").await;
        let new = kernel.look("a").await;
        assert_ne!(new.ino, ino);
        let old = kernel.fs.getattr(ino).await.unwrap();
        assert_eq!((old.size, new.size), (3, 9));
        assert_eq!(kernel.read_all(handle).await.unwrap(), b"old");
        assert_eq!(kernel.load("a").await, b"a new one");
        kernel.close(handle).await.unwrap();
        kernel.forget_all();
        assert_eq!(kernel.fs.census().inodes, 1);
    });
}

/// Regression: its changes had no destination: the upload of a file without a name was started again and
/// again, forever.
#[test]
fn writes_to_a_file_that_others_have_deleted_are_refused() {
    block(async {
        let (world, kernel) = mounted().await;
        for delete in [false, true] {
            world.others.put("a", b"old").await;
            let handle = kernel.open("a", WRITE).await;
            assert_eq!(kernel.read_all(handle).await.unwrap(), b"old");
            match delete {
                true => world.others.delete("a").await,
                false => world.others.put("a", b"new").await,
            }
            assert_eq!(kernel.find("a").await.is_some(), !delete);
            let error = kernel.write(handle, 0, b"x").await.unwrap_err();
            assert!(matches!(error, Error::Stale));
            kernel.close(handle).await.unwrap();
            let stored = world.others.get("a").await;
            assert_eq!(stored.is_some(), !delete);
        }
    });
}

/// Regression: the listing was trusted: the inode lost its name, and with it the changes.
#[test]
fn a_changed_file_whose_object_or_directory_others_delete_is_kept_and_uploaded() {
    block(async {
        let (world, kernel) = mounted().await;
        world.others.put("d/a", b"old").await;
        let handle = kernel.open("d/a", WRITE).await;
        kernel.write(handle, 3, b" and new").await.unwrap();
        world.others.delete("d/a").await;
        assert_eq!(kernel.look("d/a").await.size, 11);
        let root = kernel.fs.opendir(Ino::ROOT).await.unwrap();
        let mut names = Vec::new();
        let mut offset = 0;
        while let Some(last) = {
            let entries = kernel.fs.readdir(root, offset, 10, false).await.unwrap();
            names.extend(entries.iter().map(|entry| entry.name.to_string()));
            entries.last().map(|last| last.next)
        } {
            offset = last;
        }
        assert_eq!(names, [".", "..", "d"]);
        kernel.fs.releasedir(root);
        kernel.close(handle).await.unwrap();
        assert_eq!(world.others.get("d/a").await.unwrap(), b"old and new");
    });
}

/// Regression: a file that lost the race for its name was taken to shadow the winner's object.
#[test]
fn the_loser_of_an_exclusive_creation_gets_an_error_and_shows_the_winners_file() {
    block(async {
        let (world, kernel) = mounted().await;
        let how = OpenHow {
            exclusive: true,
            ..WRITE
        };
        let (_, handle) = kernel.make("a", how).await;
        world.others.put("a", b"the winner's").await;
        kernel.write(handle, 0, b"the loser's").await.unwrap();
        let error = kernel.fs.flush(handle, 0).await.unwrap_err();
        assert!(matches!(error, Error::Exists), "{error:?}");
        kernel.fs.release_now(handle);
        assert_eq!(world.others.get("a").await.unwrap(), b"the winner's");
        // From here on the name shows the winner's file: it can be read, and removed like any other.
        assert_eq!(kernel.load("a").await, b"the winner's");
    });
}

/// Regression: a listing dropped attributes that were read too soon after the change to be reliable, and the
/// first write then stored mode 0600 and root.
#[test]
fn a_write_keeps_the_mode_of_a_file_that_another_client_has_just_created() {
    block(async {
        let (world, kernel) = mounted().await;
        world.others.put_now("a", b"x", 0o100_664).await;
        let handle = kernel.open("a", WRITE).await;
        let root = kernel.fs.opendir(Ino::ROOT).await.unwrap();
        kernel.fs.readdir(root, 0, 10, false).await.unwrap();
        kernel.fs.releasedir(root);
        kernel.write(handle, 1, b"y").await.unwrap();
        kernel.close(handle).await.unwrap();
        assert_eq!(kernel.look("a").await.mode, 0o664);
    });
}

// ---- inode numbers ----

#[test]
fn a_rename_and_a_creation_never_join_two_files() {
    block(async {
        let (_world, kernel) = mounted().await;
        kernel.save("a", b"first").await;
        let first = kernel.look("a").await.ino;
        kernel.rename("a", "b").await.unwrap();
        assert_eq!(kernel.look("b").await.ino, first);
        kernel.save("a", b"second").await;
        let second = kernel.look("a").await.ino;
        assert_ne!(first, second);
        // As vim saves: the new file gets the old name, and the backup is removed.
        kernel.unlink("b").await.unwrap();
        kernel.rename("a", "b").await.unwrap();
        assert_eq!(kernel.look("b").await.ino, second);
        assert_eq!(kernel.load("b").await, b"second");
    });
}

#[test]
fn inode_numbers_are_the_same_after_a_remount() {
    block(async {
        let (world, kernel) = mounted().await;
        kernel.mkdir("d").await;
        kernel.save("d/a", b"x").await;
        let before = (kernel.look("d").await.ino, kernel.look("d/a").await.ino);
        kernel.fs.shutdown().await.unwrap();
        let kernel = Kernel::new(world.mount().await);
        let after = (kernel.look("d").await.ino, kernel.look("d/a").await.ino);
        assert_eq!(before, after);
    });
}

// ---- regressions found by reading ----

/// Regression: every close of a last writer dropped the staged data, even if that was all that was left of
/// the file.
#[test]
fn a_reader_of_an_unlinked_file_goes_on_when_its_writer_closes() {
    block(async {
        let (world, kernel) = mounted().await;
        world.others.put("a", b"content").await;
        let reader = kernel.open("a", READ).await;
        let writer = kernel.open("a", WRITE).await;
        kernel.unlink("a").await.unwrap();
        kernel.close(writer).await.unwrap();
        assert_eq!(kernel.read_all(reader).await.unwrap(), b"content");
        kernel.close(reader).await.unwrap();
        assert_eq!(kernel.fs.census().files, 0);
    });
}

/// Regression: a later write stored the extended attributes that the file had when it was opened.
#[test]
fn an_attribute_that_is_set_while_a_file_is_open_for_writing_survives_the_write() {
    block(async {
        let (_world, kernel) = mounted().await;
        kernel.save("a", b"x").await;
        let ino = kernel.look("a").await.ino;
        let handle = kernel.open("a", WRITE).await;
        let set = kernel.fs.setxattr(ino, "user.k", b"v", SetXattr::Either);
        set.await.unwrap();
        kernel.write(handle, 1, b"y").await.unwrap();
        kernel.close(handle).await.unwrap();
        assert_eq!(kernel.fs.getxattr(ino, "user.k").await.unwrap(), b"v");
    });
}

/// Regression: a streamed upload began without them.
#[test]
fn a_file_that_is_rewritten_as_a_stream_keeps_its_extended_attributes() {
    block(async {
        let (world, kernel) = mounted().await;
        kernel.save("a", b"x").await;
        let ino = kernel.look("a").await.ino;
        let set = kernel.fs.setxattr(ino, "user.k", b"v", SetXattr::Either);
        set.await.unwrap();
        let how = OpenHow {
            truncate: true,
            ..WRITE
        };
        let handle = kernel.open("a", how).await;
        let content = long(5 * PART, 3);
        for (index, chunk) in content.chunks(PART as usize).enumerate() {
            kernel
                .write(handle, index as u64 * PART, chunk)
                .await
                .unwrap();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        kernel.close(handle).await.unwrap();
        assert_eq!(kernel.fs.getxattr(ino, "user.k").await.unwrap(), b"v");
        assert!(world.others.get("a").await.unwrap() == content);
    });
}

/// Regression: a caller that waited behind a failed copy was told that its own change was stored.
#[test]
fn a_failed_attribute_copy_is_not_reported_as_success_to_a_waiting_change() {
    block(async {
        let (world, kernel) = mounted().await;
        kernel.save("a", b"x").await;
        let ino = kernel.look("a").await.ino;
        world.weather.fail(Some(Failure {
            after: 0,
            lost: false,
            changes_only: true,
            times: 1,
        }));
        let second = Change {
            uid: Some(7),
            ..Change::default()
        };
        let (first, second) = tokio::join!(
            kernel.fs.setattr(ino, None, mode(0o600)),
            kernel.fs.setattr(ino, None, second)
        );
        assert_eq!(world.weather.failed(), 1);
        let stored = Kernel::new(world.mount().await).look("a").await;
        assert!(first.is_err() || stored.mode == 0o600);
        assert!(second.is_err() || stored.uid == 7);
        let here = kernel.fs.getattr(ino).await.unwrap();
        assert_eq!((here.mode, here.uid), (stored.mode, stored.uid));
    });
}

/// Regression: copies were left, and so was the intent: the next mount would have finished the refused
/// rename.
#[test]
fn a_directory_rename_that_fails_changes_nothing() {
    block(async {
        let (world, kernel) = mounted().await;
        kernel.mkdir("d").await;
        for name in ["d/a", "d/b", "d/c"] {
            kernel.save(name, name.as_bytes()).await;
        }
        let before = world.others.keys().await;
        // The intent is the first request that changes something, followed by the copies.
        for after in 1..5 {
            world.weather.fail(Some(Failure {
                after,
                lost: false,
                changes_only: true,
                times: 1,
            }));
            kernel.rename("d", "e").await.unwrap_err();
            assert_eq!(
                world.others.keys().await,
                before,
                "{after} requests succeeded"
            );
            assert!(kernel.find("e").await.is_none());
            assert_eq!(kernel.load("d/b").await, b"d/b");
        }
        kernel.rename("d", "e").await.unwrap();
        assert_eq!(kernel.load("e/b").await, b"d/b");
        assert_eq!(world.others.keys().await.len(), before.len());
    });
}

/// Regression: the name had moved although the rename had failed.
#[test]
fn a_rename_whose_upload_failed_leaves_the_name_in_place() {
    block(async {
        let (world, kernel) = mounted_with(|world| {
            world.settings.rename_grace = Duration::from_secs(30);
        })
        .await;
        kernel.save("a", b"the old one").await;
        let how = OpenHow {
            exclusive: true,
            ..WRITE
        };
        let (_, handle) = kernel.make(".a.Q1W2E3", how).await;
        kernel.write(handle, 0, b"the new one").await.unwrap();
        kernel.close(handle).await.unwrap();
        world.weather.fail(Some(Failure {
            after: 0,
            lost: false,
            changes_only: true,
            times: 1,
        }));
        kernel.rename(".a.Q1W2E3", "a").await.unwrap_err();
        assert_eq!(kernel.load("a").await, b"the old one");
        assert_eq!(kernel.load(".a.Q1W2E3").await, b"the new one");
        kernel.rename(".a.Q1W2E3", "a").await.unwrap();
        assert_eq!(kernel.load("a").await, b"the new one");
        assert!(kernel.find(".a.Q1W2E3").await.is_none());
        assert_eq!(world.others.keys().await, ["a"]);
    });
}

/// Regression: a failed part left its upload in the bucket.
#[test]
fn a_failed_stream_is_aborted_and_the_file_is_uploaded_whole() {
    block(async {
        let (world, kernel) = mounted().await;
        let (_, handle) = kernel.make("a", WRITE).await;
        // The beginning of the upload succeeds, a part does not.
        world.weather.fail(Some(Failure {
            after: 1,
            lost: false,
            changes_only: true,
            times: 1,
        }));
        let content = long(6 * PART, 3);
        for (index, chunk) in content.chunks(PART as usize).enumerate() {
            kernel
                .write(handle, index as u64 * PART, chunk)
                .await
                .unwrap();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(world.weather.failed(), 1);
        kernel.close(handle).await.unwrap();
        assert!(world.others.get("a").await.unwrap() == content);
        assert_eq!(world.others.unfinished_uploads().await, 0);
    });
}
