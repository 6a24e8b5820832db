//! Names that are accessed while they are being changed: the bucket has carried a change out, and its
//! response is still in flight.

use std::time::Duration;

use ossvault::files::attributes::Change;
use ossvault::fs::error::Error;
use ossvault::fs::handles::open_file::OpenHow;
use ossvault::fs::namespace::Ino;
use ossvault::fs::namespace::object_name::Name;
use ossvault::fs::ops::xattr::SetXattr;

use super::other_writers::{READ, WRITE, block, long, mounted, mounted_with};
use super::world::{CALLER, Call, Failure, FsResult, Kernel, PART, World};

pub(crate) const TRUNCATE: OpenHow = OpenHow {
    truncate: true,
    ..WRITE
};

const EXCLUSIVE: OpenHow = OpenHow {
    exclusive: true,
    ..WRITE
};

impl Kernel {
    /// renameat2 with RENAME_NOREPLACE.
    async fn rename_anew(&self, from: &str, to: &str) -> FsResult<()> {
        let (old, old_name) = self.parent(from).await?;
        let (new, new_name) = self.parent(to).await?;
        self.lookup(old, old_name).await?;
        let from = (old, Name::from(old_name));
        let to = (new, Name::from(new_name));
        self.fs.rename(from, to, false).await
    }

    async fn rmdir(&self, path: &str) -> FsResult<()> {
        let (parent, name) = self.parent(path).await?;
        self.fs.rmdir(parent, &Name::from(name)).await
    }

    async fn symlink(&self, path: &str) -> FsResult<()> {
        let (parent, name) = self.parent(path).await?;
        let name = Name::from(name);
        let made = self.fs.symlink(parent, &name, b"target", CALLER).await?;
        self.entered(&made);
        Ok(())
    }
}

/// Regression: the DELETE of a rename had taken effect when a stat requested the old name: the inode lost its
/// name, and kept the size it had then, so that later appends overwrote the file's content.
#[test]
fn a_stat_during_a_rename_does_not_freeze_the_file() {
    block(async {
        let (world, kernel) = mounted().await;
        kernel.save("a", b"0123456789").await;
        let ino = kernel.walk("a").await.unwrap();
        let deletes = world.weather.hold_answers(Call::Delete);
        let (renamed, looks) = tokio::join!(kernel.rename("a", "b"), async {
            world.weather.until_held(1).await;
            let looks = kernel.fs.getattr(ino).await;
            drop(deletes);
            looks
        });
        renamed.unwrap();
        assert_eq!(looks.unwrap().size, 10);
        assert_eq!(kernel.look("b").await.ino, ino);
        let handle = kernel.open("b", TRUNCATE).await;
        kernel.write(handle, 0, &long(1000, 1)).await.unwrap();
        kernel.close(handle).await.unwrap();
        assert_eq!(kernel.fs.getattr(ino).await.unwrap().size, 1000);
        assert!(kernel.load("b").await == long(1000, 1));
        assert_eq!(world.others.get("b").await.unwrap(), long(1000, 1));
    });
}

/// Regression: the listing's page was older than the upload. When the names that existed only in this mount
/// were added, the file had been uploaded and its inode evicted, so readdir omitted it.
#[test]
fn a_file_uploaded_while_its_directory_is_read_is_listed() {
    block(async {
        let (world, kernel) = mounted().await;
        let (_, file) = kernel.make("a", WRITE).await;
        kernel.write(file, 0, b"x").await.unwrap();
        let reading = kernel.fs.opendir(Ino::ROOT).await.unwrap();
        // The first read starts the listing.
        let dots = kernel.fs.readdir(reading, 0, 2, false).await.unwrap();
        while kernel.fs.census().listings > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(world.others.keys().await.len(), 0);
        kernel.close(file).await.unwrap();
        kernel.forget_all();
        let entries = kernel.fs.readdir(reading, 2, 10, false).await.unwrap();
        let names = dots.iter().chain(&entries).map(|entry| &*entry.name);
        assert_eq!(names.collect::<Vec<_>>(), [".", "..", "a"]);
        kernel.fs.releasedir(reading);
    });
}

#[test]
fn a_listing_during_a_rename_shows_one_of_the_names() {
    block(async {
        let (world, kernel) = mounted().await;
        kernel.save("a", b"x").await;
        kernel.save("c", b"x").await;
        let ino = kernel.walk("a").await.unwrap();
        let copies = world.weather.hold_answers(Call::Copy);
        let (renamed, ()) = tokio::join!(kernel.rename("a", "b"), async {
            world.weather.until_held(1).await;
            // The kernel does not read the directory in the meantime; what was started before may finish now.
            assert!(kernel.fs.getattr(ino).await.is_ok());
            drop(copies);
        });
        renamed.unwrap();
        assert!(kernel.find("a").await.is_none());
        assert_eq!(kernel.look("b").await.ino, ino);
    });
}

/// Regression: an upload that must not replace anything found its own predecessor, whose response was lost,
/// and failed forever.
#[test]
fn an_exclusive_file_whose_response_was_lost_is_uploaded_later() {
    for len in [10, 3 * PART] {
        block(async {
            let (world, kernel) = mounted().await;
            let (_, handle) = kernel.make("a", EXCLUSIVE).await;
            world.weather.fail(Some(Failure {
                after: if len > PART { 4 } else { 0 },
                lost: true,
                changes_only: true,
                times: 1,
            }));
            kernel.write(handle, 0, &long(len, 1)).await.unwrap();
            kernel.fs.flush(handle, 0).await.unwrap_err();
            assert!(world.others.get("a").await.is_some());
            kernel.write(handle, 5, b"more").await.unwrap();
            kernel.close(handle).await.unwrap();
            assert!(kernel.settle(0, Duration::from_secs(20)).await);
            let mut expected = long(len, 1);
            expected[5..9].copy_from_slice(b"more");
            assert!(world.others.get("a").await.unwrap() == expected);
            assert!(kernel.fs.shutdown().await.is_ok());
        });
    }
}

/// A rename's copy carries pending attribute changes. Regression: since it is then not an exact copy, a
/// rename whose response was lost failed and left the file under both names.
#[test]
fn a_rename_with_a_mode_takes_effect_although_its_response_was_lost() {
    block(async {
        let (world, kernel) = mounted().await;
        kernel.save("a", b"one").await;
        let handle = kernel.open("a", WRITE).await;
        let ino = kernel.look("a").await.ino;
        let change = Change {
            mode: Some(0o600),
            ..Change::default()
        };
        kernel.fs.setattr(ino, None, change).await.unwrap();
        world.weather.take_calls();
        world.weather.fail(Some(Failure {
            after: 0,
            lost: true,
            changes_only: true,
            times: 1,
        }));
        kernel.rename("a", "b").await.unwrap();
        assert_eq!(world.weather.count(Call::Copy), 1, "the one that was lost");
        assert_eq!(world.others.keys().await, ["b"]);
        assert_eq!(kernel.look("b").await.mode, 0o600);
        kernel.close(handle).await.unwrap();
        assert_eq!(world.others.get("b").await.unwrap(), b"one");
        let kernel = Kernel::new(world.mount().await);
        assert_eq!(kernel.look("b").await.mode, 0o600);
    });
}

#[test]
fn another_clients_file_is_kept_although_a_response_was_lost() {
    block(async {
        let (world, kernel) = mounted().await;
        let (_, handle) = kernel.make("a", EXCLUSIVE).await;
        kernel.write(handle, 0, b"ours").await.unwrap();
        world.weather.fail(Some(Failure {
            after: 0,
            lost: false,
            changes_only: true,
            times: 1,
        }));
        kernel.fs.flush(handle, 0).await.unwrap_err();
        world.others.put("a", b"theirs").await;
        let error = kernel.fs.flush(handle, 0).await.unwrap_err();
        assert!(matches!(error, Error::Exists), "{error:?}");
        kernel.fs.release_now(handle);
        assert_eq!(world.others.get("a").await.unwrap(), b"theirs");
    });
}

/// "Open files below it can be read and written during the rename; creating and removing names below it
/// waits."
///
/// Regression: each of these looked its key up before the directory was renamed, and used it afterwards.
#[test]
fn changes_in_a_directory_that_is_being_renamed_apply_to_its_new_name() {
    block(async {
        let (world, kernel) = mounted_with(|world| {
            world.settings.metadata_ttl = Duration::from_secs(3600);
            world.settings.dir_ttl = Duration::from_secs(3600);
        })
        .await;
        for directory in ["d", "d/empty", "d/sub"] {
            kernel.mkdir(directory).await;
        }
        for file in ["d/gone", "d/old", "d/marked", "d/sub/a", "d/open"] {
            kernel.save(file, file.as_bytes()).await;
        }
        let d = kernel.walk("d").await.unwrap();
        let marked = kernel.walk("d/marked").await.unwrap();
        let open = kernel.open("d/open", READ).await;
        for name in [
            "gone", "old", "empty", "sub", "new-dir", "new", "link", "moved", "sub2",
        ] {
            kernel.lookup(d, name).await.unwrap();
        }
        let name = |text: &str| Name::from(text);
        let copies = world.weather.hold_answers(Call::Copy);
        let fs = &kernel.fs;
        let (renamed, ..) = tokio::join!(
            kernel.rename("d", "e"),
            async {
                world.weather.until_held(1).await;
                fs.unlink(d, &name("gone")).await.unwrap();
            },
            async {
                world.weather.until_held(1).await;
                fs.rmdir(d, &name("empty")).await.unwrap();
            },
            async {
                world.weather.until_held(1).await;
                let made = fs.mkdir(d, &name("new-dir"), 0o755, CALLER).await.unwrap();
                kernel.entered(&made);
            },
            async {
                world.weather.until_held(1).await;
                let made = fs.symlink(d, &name("link"), b"target", CALLER).await;
                kernel.entered(&made.unwrap());
            },
            async {
                world.weather.until_held(1).await;
                let moved = fs.rename((d, name("old")), (d, name("moved")), true).await;
                moved.unwrap();
            },
            async {
                world.weather.until_held(1).await;
                let moved = fs.rename((d, name("sub")), (d, name("sub2")), true).await;
                moved.unwrap();
            },
            async {
                world.weather.until_held(1).await;
                let set = fs.setxattr(marked, "user.a", b"x", SetXattr::Either).await;
                set.unwrap();
            },
            async {
                world.weather.until_held(1).await;
                let how = OpenHow { ..WRITE };
                let made = fs
                    .create(d, &name("new"), 0o644, CALLER, how)
                    .await
                    .unwrap();
                kernel.entered(&made.0);
                kernel.write(made.1.handle, 0, b"new").await.unwrap();
                kernel.close(made.1.handle).await.unwrap();
            },
            async {
                world.weather.until_held(1).await;
                // Cached metadata is returned, and open files can be read, at any time.
                assert_eq!(fs.getattr(marked).await.unwrap().size, 8);
                tokio::time::sleep(Duration::from_millis(50)).await;
                drop(copies);
            },
        );
        renamed.unwrap();
        let mut keys = world.others.keys().await;
        keys.sort();
        assert_eq!(
            keys,
            [
                "e/",
                "e/link",
                "e/marked",
                "e/moved",
                "e/new",
                "e/new-dir/",
                "e/open",
                "e/sub2/",
                "e/sub2/a",
            ]
        );
        assert_eq!(fs.getxattr(marked, "user.a").await.unwrap(), b"x");
        assert_eq!(kernel.load("e/moved").await, b"d/old");
        assert_eq!(kernel.load("e/sub2/a").await, b"d/sub/a");
        assert_eq!(kernel.read_all(open).await.unwrap(), b"d/open");
    });
}

/// "Open files below it can be read and written during the rename; creating and removing names below it
/// waits."
///
/// Regression: the old keys were deleted before the holders of open files had switched to the new ones.
#[test]
fn open_files_can_be_read_and_written_while_they_move() {
    for directory in [false, true] {
        block(async {
            let (world, kernel) = mounted().await;
            let content = long(20 * PART, 3);
            kernel.mkdir("d").await;
            kernel.save("d/a", &content).await;
            kernel.save("d/b", b"b").await;
            let (reader, writer) = (
                kernel.open("d/a", READ).await,
                kernel.open("d/a", WRITE).await,
            );
            let deletes = world.weather.hold_answers(Call::Delete);
            let rename = async {
                match directory {
                    true => kernel.rename("d", "e").await,
                    false => kernel.rename("d/a", "d/c").await,
                }
            };
            let (renamed, ()) = tokio::join!(rename, async {
                world.weather.until_held(1).await;
                for at in [0, 7 * PART, 19 * PART] {
                    let bytes = kernel.fs.read(reader, at, 1000).await.unwrap();
                    assert!(bytes == content[at as usize..at as usize + 1000]);
                }
                kernel.write(writer, 100, b"written").await.unwrap();
                drop(deletes);
            });
            renamed.unwrap();
            kernel.close(writer).await.unwrap();
            kernel.close(reader).await.unwrap();
            let mut expected = content;
            expected[100..107].copy_from_slice(b"written");
            let key = if directory { "e/a" } else { "d/c" };
            assert!(world.others.get(key).await.unwrap() == expected);
        });
    }
}

/// "Files and whole directories can be renamed; RENAME_NOREPLACE also respects a name that another client
/// has just created."
#[test]
fn a_rename_that_must_not_replace_keeps_objects_of_others() {
    block(async {
        let hour = Duration::from_secs(3600);
        let (world, kernel) = mounted_with(|world| {
            (world.settings.metadata_ttl, world.settings.dir_ttl) = (hour, hour);
            world.settings.rename_grace = hour;
        })
        .await;
        kernel.save("stored", b"ours").await;
        let (_, pending) = kernel.make(".pending.Ab3dE6", EXCLUSIVE).await;
        kernel.write(pending, 0, b"ours").await.unwrap();
        kernel.close(pending).await.unwrap();
        kernel.mkdir("d").await;
        kernel.save("d/a", b"ours").await;
        for name in ["x", "y", "z"] {
            assert!(kernel.find(name).await.is_none());
        }
        world.others.put("x", b"theirs").await;
        world.others.put("y", b"theirs").await;
        world.others.put("z/a", b"theirs").await;
        for (from, to) in [("stored", "x"), (".pending.Ab3dE6", "y"), ("d", "z")] {
            let error = kernel.rename_anew(from, to).await.unwrap_err();
            assert!(matches!(error, Error::Exists), "{from}: {error:?}");
        }
        for key in ["x", "y", "z/a"] {
            assert_eq!(world.others.get(key).await.unwrap(), b"theirs", "{key}");
        }
        assert_eq!(kernel.load("stored").await, b"ours");
        assert_eq!(kernel.load(".pending.Ab3dE6").await, b"ours");
        assert_eq!(kernel.load("d/a").await, b"ours");
    });
}

/// Regression: a reader that had the file open delayed the upload of what its writer had closed.
#[test]
fn a_file_closed_by_its_writer_is_uploaded_although_a_reader_remains() {
    block(async {
        let (world, kernel) = mounted().await;
        kernel.save("a", b"before").await;
        let reader = kernel.open("a", READ).await;
        let writer = kernel.open("a", TRUNCATE).await;
        kernel.close(writer).await.unwrap();
        for _ in 0..2000 {
            if world.others.get("a").await.unwrap().is_empty() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(world.others.get("a").await.unwrap(), b"");
        kernel.close(reader).await.unwrap();
    });
}

#[test]
fn a_changed_file_whose_base_others_have_replaced_can_be_unlinked() {
    block(async {
        let (world, kernel) = mounted().await;
        kernel.save("a", &long(5 * PART, 1)).await;
        let handle = kernel.open("a", WRITE).await;
        kernel.write(handle, 10, b"over the base").await.unwrap();
        world.others.put("a", b"another").await;
        let error = kernel.fs.fsync(handle).await.unwrap_err();
        assert!(matches!(error, Error::Stale), "{error:?}");
        kernel.unlink("a").await.unwrap();
        kernel.close(handle).await.unwrap();
        assert!(kernel.settle(0, Duration::from_secs(5)).await);
        assert!(world.others.get("a").await.is_none());
    });
}

/// Regression: the object was gone when the opened file was read.
#[test]
fn a_file_that_is_being_unlinked_cannot_be_opened() {
    block(async {
        let (world, kernel) = mounted().await;
        kernel.save("a", b"content").await;
        let ino = kernel.walk("a").await.unwrap();
        let deletes = world.weather.hold_answers(Call::Delete);
        let (unlinked, opened) = tokio::join!(kernel.unlink("a"), async {
            world.weather.until_held(1).await;
            let opening = kernel.fs.open(ino, READ);
            let late = async {
                tokio::time::sleep(Duration::from_millis(50)).await;
                drop(deletes);
            };
            tokio::join!(opening, late).0
        });
        unlinked.unwrap();
        assert!(matches!(opened, Err(Error::Stale)), "{opened:?}");
    });
}

#[test]
fn a_failed_directory_rename_keeps_the_target_directory() {
    block(async {
        let (world, kernel) = mounted().await;
        kernel.mkdir("d").await;
        kernel.save("d/a", b"a").await;
        kernel.save("d/b", b"b").await;
        kernel.mkdir("e").await;
        let before = world.others.keys().await;
        for after in 1..4 {
            world.weather.fail(Some(Failure {
                after,
                lost: false,
                changes_only: true,
                times: 1,
            }));
            kernel.rename("d", "e").await.unwrap_err();
            assert_eq!(world.others.keys().await, before, "{after} succeeded");
        }
        kernel.rename("d", "e").await.unwrap();
        assert_eq!(world.others.keys().await, ["e/", "e/a", "e/b"]);
    });
}

/// Regression: it was an error, and both directories existed: removing one of them lost files.
#[test]
fn a_directory_whose_old_name_cannot_be_deleted_at_once_is_still_renamed() {
    block(async {
        let (world, kernel) = mounted().await;
        kernel.mkdir("d").await;
        kernel.save("d/a", b"a").await;
        kernel.save("d/b", b"b").await;
        world.weather.fail(Some(Failure {
            after: 4,
            lost: false,
            changes_only: true,
            times: 1,
        }));
        kernel.rename("d", "e").await.unwrap();
        assert_eq!(kernel.load("e/a").await, b"a");
        assert!(kernel.settle(0, Duration::from_secs(5)).await);
        assert_eq!(world.others.keys().await, ["e/", "e/a", "e/b"]);
    });
}

#[test]
fn a_file_whose_old_name_cannot_be_deleted_at_once_is_still_renamed() {
    block(async {
        let (world, kernel) = mounted().await;
        kernel.save("a", b"content").await;
        world.weather.fail(Some(Failure {
            after: 1,
            lost: false,
            changes_only: true,
            times: 1,
        }));
        kernel.rename("a", "b").await.unwrap();
        assert_eq!(world.others.keys().await, ["a", "b"]);
        assert!(kernel.find("a").await.is_none());
        assert_eq!(kernel.load("b").await, b"content");
        // The old name is created again only after it is gone.
        kernel.save("a", b"another").await;
        assert_eq!(world.others.get("a").await.unwrap(), b"another");
        assert_eq!(world.others.get("b").await.unwrap(), b"content");
    });
}

/// "Files that other clients have created there without a marker are noticed where names collide."
#[test]
fn a_directory_is_not_renamed_onto_objects_of_others() {
    block(async {
        let hour = Duration::from_secs(3600);
        let (world, kernel) = mounted_with(|world| {
            (world.settings.metadata_ttl, world.settings.dir_ttl) = (hour, hour);
        })
        .await;
        kernel.mkdir("d").await;
        kernel.save("d/a", b"ours").await;
        kernel.save("d/b", b"ours").await;
        assert!(kernel.find("e").await.is_none());
        world.others.put("e/a", b"theirs").await;
        let error = kernel.rename("d", "e").await.unwrap_err();
        assert!(matches!(error, Error::NotEmpty), "{error:?}");
        assert_eq!(world.others.keys().await, ["d/", "d/a", "d/b", "e/a"]);
        assert_eq!(world.others.get("e/a").await.unwrap(), b"theirs");
    });
}

// ---- renames that were interrupted ----

/// What a daemon leaves behind that was killed while it was renaming d to e.
async fn interrupted(world: &World, kernel: Kernel) {
    kernel.mkdir("d").await;
    for name in ["d/1", "d/2", "d/3", "d/4"] {
        kernel.save(name, name.as_bytes()).await;
    }
    drop(kernel);
    world.leave_intent("d/", "e/").await;
    for name in ["1", "2"] {
        world
            .others
            .copy(&format!("d/{name}"), &format!("e/{name}"))
            .await;
    }
}

#[test]
fn an_interrupted_rename_is_finished_by_the_next_mount() {
    block(async {
        let (world, kernel) = mounted().await;
        interrupted(&world, kernel).await;
        let kernel = Kernel::new(world.mount().await);
        let keys = world.others.keys().await;
        assert_eq!(keys, ["e/", "e/1", "e/2", "e/3", "e/4"]);
        assert_eq!(kernel.load("e/4").await, b"d/4");
    });
}

/// "If the rename is interrupted, the next mount resumes it; anything that other clients have changed under
/// either name since then is left as it is, and reported."
///
/// Regression: the copies overwrote what others had written since.
#[test]
fn changes_by_others_since_a_rename_was_interrupted_are_kept() {
    block(async {
        let (world, kernel) = mounted().await;
        interrupted(&world, kernel).await;
        world.others.put("e/1", b"edited").await;
        world.others.put("d/2", b"edited too").await;
        let kernel = Kernel::new(world.mount().await);
        let mut keys = world.others.keys().await;
        keys.retain(|key| !key.starts_with(".ossvault/"));
        assert_eq!(keys, ["d/1", "d/2", "e/", "e/1", "e/2", "e/3", "e/4"]);
        for (name, content) in [
            ("d/1", &b"d/1"[..]),
            ("d/2", b"edited too"),
            ("e/1", b"edited"),
            ("e/2", b"d/2"),
            ("e/3", b"d/3"),
        ] {
            assert_eq!(kernel.load(name).await, content, "{name}");
        }
        let keys = world.others.keys().await;
        assert!(
            keys[0].starts_with(".ossvault/rename-"),
            "it is reported again"
        );
    });
}

#[test]
fn a_name_that_is_gone_is_gone_for_those_who_make_others() {
    block(async {
        let (world, kernel) = mounted().await;
        kernel.mkdir("d").await;
        kernel.save("d/a", b"x").await;
        let deletes = world.weather.hold_answers(Call::Delete);
        let (removed, made) = tokio::join!(
            async {
                kernel.unlink("d/a").await?;
                kernel.rmdir("d").await
            },
            async {
                world.weather.until_held(1).await;
                drop(deletes);
                kernel.symlink("link").await
            }
        );
        removed.unwrap();
        made.unwrap();
        assert_eq!(world.others.keys().await, ["link"]);
    });
}
