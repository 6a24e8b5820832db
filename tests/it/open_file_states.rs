//! Every transition in the state table of an open file (fs/handles/open_file.rs), shown by the requests that
//! it makes.

use std::time::Duration;

use ossvault::fs::handles::open_file::OpenHow;

use super::other_writers::{READ, WRITE, block, long, mounted, mounted_with};
use super::world::{Call, Failure, Kernel, PART, World};

const ONCE: Failure = Failure {
    after: 0,
    lost: false,
    changes_only: true,
    times: 1,
};

/// The changing calls since the last time, in words.
fn changes(world: &World) -> String {
    let calls = world.weather.take_calls();
    let mut calls: Vec<_> = calls
        .into_iter()
        .filter(|(call, _)| call.changes())
        .map(|(call, count)| format!("{call:?} {count}"))
        .collect();
    calls.sort();
    calls.join(", ")
}

async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    for _ in 0..5000 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("never: {what}");
}

/// A new file with this many parts written sequentially; streaming has begun.
async fn streaming(world: &World, kernel: &Kernel, parts: u64) -> (u64, Vec<u8>) {
    let (_, handle) = kernel.make("a", WRITE).await;
    let content = long(parts * PART + 1000, 5);
    kernel.write(handle, 0, &content).await.unwrap();
    let frozen = parts as u32 - 1;
    until("the parts after the first are on their way", || {
        world.weather.count(Call::UploadPart) == frozen
    })
    .await;
    (handle, content)
}

#[test]
fn a_change_costs_one_put_and_a_clean_file_costs_nothing() {
    block(async {
        let (world, kernel) = mounted().await;
        kernel.save("a", b"x").await;
        assert_eq!(changes(&world), "Put 1");
        let handle = kernel.open("a", WRITE).await;
        kernel.fs.flush(handle, 0).await.unwrap();
        kernel.fs.fsync(handle).await.unwrap();
        assert_eq!(changes(&world), "");
        for at in 0..5 {
            kernel.write(handle, at, b"y").await.unwrap();
        }
        assert_eq!(changes(&world), "");
        kernel.fs.flush(handle, 0).await.unwrap();
        assert_eq!(changes(&world), "Put 1");
        kernel.fs.flush(handle, 0).await.unwrap();
        kernel.fs.fsync(handle).await.unwrap();
        kernel.close(handle).await.unwrap();
        assert_eq!(changes(&world), "");
        assert_eq!(world.others.get("a").await.unwrap(), b"yyyyy");
    });
}

#[test]
fn a_readers_flush_uploads_nothing() {
    block(async {
        let (world, kernel) = mounted().await;
        kernel.save("a", b"x").await;
        let writer = kernel.open("a", WRITE).await;
        let reader = kernel.open("a", READ).await;
        kernel.write(writer, 0, b"y").await.unwrap();
        changes(&world);
        kernel.close(reader).await.unwrap();
        assert_eq!(changes(&world), "");
        kernel.close(writer).await.unwrap();
        assert_eq!(changes(&world), "Put 1");
    });
}

#[test]
fn a_new_empty_file_is_published_at_its_last_close() {
    block(async {
        let (world, kernel) = mounted().await;
        let (_, handle) = kernel.make("a", WRITE).await;
        kernel.fs.flush(handle, 0).await.unwrap();
        assert_eq!(changes(&world), "Put 1");
        kernel.fs.release_now(handle);
        assert!(kernel.settle(0, Duration::from_secs(5)).await);
        assert_eq!(changes(&world), "");
    });
}

#[test]
fn streaming_in_order_sends_each_part_once_and_the_first_one_last() {
    block(async {
        let (world, kernel) = mounted().await;
        let (handle, mut content) = streaming(&world, &kernel, 4).await;
        assert_eq!(changes(&world), "CreateMultipart 1, UploadPart 3");
        // A header that is patched at the end abandons nothing.
        kernel.write(handle, 0, b"header").await.unwrap();
        content[..6].copy_from_slice(b"header");
        kernel.close(handle).await.unwrap();
        assert_eq!(changes(&world), "Complete 1, UploadPart 2");
        assert!(world.others.get("a").await.unwrap() == content);
    });
}

#[test]
fn a_write_over_frozen_bytes_abandons_the_stream_and_there_is_no_second_one() {
    block(async {
        let (world, kernel) = mounted().await;
        let (handle, mut content) = streaming(&world, &kernel, 4).await;
        kernel.write(handle, PART + 5, b"other").await.unwrap();
        content[PART as usize + 5..PART as usize + 10].copy_from_slice(b"other");
        until("the upload is aborted", || {
            world.weather.count(Call::Abort) == 1
        })
        .await;
        assert_eq!(changes(&world), "Abort 1, CreateMultipart 1, UploadPart 3");
        let more = long(3 * PART, 6);
        kernel
            .write(handle, content.len() as u64, &more)
            .await
            .unwrap();
        content.extend_from_slice(&more);
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(changes(&world), "");
        kernel.close(handle).await.unwrap();
        assert_eq!(
            changes(&world),
            "Complete 1, CreateMultipart 1, UploadPart 8"
        );
        assert!(world.others.get("a").await.unwrap() == content);
        assert_eq!(world.others.unfinished_uploads().await, 0);
    });
}

#[test]
fn truncation_abandons_a_stream_only_if_it_has_sent_the_cut_bytes() {
    block(async {
        for (size, abandoned) in [(2 * PART, true), (4 * PART + 10, false), (0, true)] {
            let (world, kernel) = mounted().await;
            let (handle, mut content) = streaming(&world, &kernel, 4).await;
            let ino = kernel.look("a").await.ino;
            kernel
                .fs
                .setattr(ino, Some(size), Default::default())
                .await
                .unwrap();
            content.truncate(size as usize);
            kernel.close(handle).await.unwrap();
            until("the end of the first upload", || {
                world.weather.count(Call::Abort) == u32::from(abandoned)
            })
            .await;
            assert!(world.others.get("a").await.unwrap() == content);
            assert_eq!(world.others.unfinished_uploads().await, 0);
        }
    });
}

#[test]
fn a_rename_while_streaming_starts_over_under_the_new_name() {
    block(async {
        let (world, kernel) = mounted().await;
        let (handle, content) = streaming(&world, &kernel, 4).await;
        kernel.rename("a", "b").await.unwrap();
        kernel.close(handle).await.unwrap();
        until("the upload is aborted", || {
            world.weather.count(Call::Abort) == 1
        })
        .await;
        assert_eq!(world.others.keys().await, ["b"]);
        assert!(world.others.get("b").await.unwrap() == content);
    });
}

#[test]
fn an_unlink_while_streaming_ends_it() {
    block(async {
        let (world, kernel) = mounted().await;
        let (handle, content) = streaming(&world, &kernel, 4).await;
        kernel.unlink("a").await.unwrap();
        until("the upload is aborted", || {
            world.weather.count(Call::Abort) == 1
        })
        .await;
        assert!(kernel.read_all(handle).await.unwrap() == content);
        kernel.close(handle).await.unwrap();
        assert!(world.others.keys().await.is_empty());
        assert_eq!(kernel.fs.census().files, 0);
    });
}

#[test]
fn data_written_during_an_upload_goes_with_the_next_upload() {
    block(async {
        let (world, kernel) = mounted().await;
        let (_, handle) = kernel.make("a", WRITE).await;
        kernel.write(handle, 0, b"first").await.unwrap();
        world.weather.hold_puts();
        let fs = kernel.fs.clone();
        let flush = tokio::spawn(async move { fs.flush(handle, 0).await });
        until("the upload is under way", || {
            world.weather.count(Call::Put) == 1
        })
        .await;
        kernel.write(handle, 0, b"FIRST and second").await.unwrap();
        let fs = kernel.fs.clone();
        let second = tokio::spawn(async move { fs.fsync(handle).await });
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(!flush.is_finished() && !second.is_finished());
        assert_eq!(changes(&world), "Put 1");
        world.weather.let_puts_go();
        flush.await.unwrap().unwrap();
        second.await.unwrap().unwrap();
        assert_eq!(changes(&world), "Put 1");
        assert_eq!(world.others.get("a").await.unwrap(), b"FIRST and second");
        kernel.close(handle).await.unwrap();
        assert_eq!(changes(&world), "");
    });
}

#[test]
fn an_unlink_while_uploading_leaves_nothing() {
    block(async {
        let (world, kernel) = mounted().await;
        let (_, handle) = kernel.make("a", WRITE).await;
        kernel.write(handle, 0, b"first").await.unwrap();
        world.weather.hold_puts();
        let fs = kernel.fs.clone();
        let flush = tokio::spawn(async move { fs.flush(handle, 0).await });
        until("the upload is under way", || {
            world.weather.count(Call::Put) == 1
        })
        .await;
        // The request has been sent: if the name were removed before it has ended, the request might restore
        // the object.
        let mut unlink = std::pin::pin!(kernel.unlink("a"));
        let early = tokio::time::timeout(Duration::from_millis(50), &mut unlink).await;
        assert!(early.is_err());
        world.weather.let_puts_go();
        unlink.await.unwrap();
        flush.await.unwrap().unwrap();
        kernel.close(handle).await.unwrap();
        assert!(kernel.settle(0, Duration::from_secs(5)).await);
        assert!(world.others.keys().await.is_empty());
    });
}

#[test]
fn a_failed_upload_keeps_the_data_and_the_next_flush_retries() {
    block(async {
        let (world, kernel) = mounted().await;
        let (_, handle) = kernel.make("a", WRITE).await;
        kernel.write(handle, 0, b"one").await.unwrap();
        world.weather.fail(Some(ONCE));
        kernel.fs.flush(handle, 0).await.unwrap_err();
        assert_eq!(kernel.read_all(handle).await.unwrap(), b"one");
        assert_eq!(kernel.load("a").await, b"one");
        kernel.write(handle, 3, b" two").await.unwrap();
        kernel.fs.flush(handle, 0).await.unwrap();
        assert_eq!(world.others.get("a").await.unwrap(), b"one two");
        kernel.close(handle).await.unwrap();
    });
}

#[test]
fn a_failed_upload_is_retried_after_the_last_close() {
    block(async {
        let (world, kernel) = mounted().await;
        let (_, handle) = kernel.make("a", WRITE).await;
        kernel.write(handle, 0, b"one").await.unwrap();
        world.weather.fail(Some(Failure { times: 2, ..ONCE }));
        kernel.close(handle).await.unwrap_err();
        assert!(kernel.settle(0, Duration::from_secs(20)).await);
        assert_eq!(world.others.get("a").await.unwrap(), b"one");
        assert_eq!(world.weather.failed(), 2);
    });
}

#[test]
fn a_file_under_a_temporary_name_costs_one_put_at_its_rename() {
    block(async {
        let patient = |world: &mut World| world.settings.rename_grace = Duration::from_secs(30);
        let (world, kernel) = mounted_with(patient).await;
        let how = OpenHow {
            exclusive: true,
            ..WRITE
        };
        let (ino, handle) = kernel.make(".a.Q1W2E3", how).await;
        kernel.write(handle, 0, b"one").await.unwrap();
        kernel.close(handle).await.unwrap();
        let change = ossvault::files::attributes::Change {
            mode: Some(0o600),
            ..Default::default()
        };
        kernel.fs.setattr(ino, None, change).await.unwrap();
        assert_eq!(changes(&world), "");
        kernel.rename(".a.Q1W2E3", "a").await.unwrap();
        assert_eq!(changes(&world), "Put 1");
        assert_eq!(world.others.get("a").await.unwrap(), b"one");
        assert_eq!(kernel.look("a").await.mode, 0o600);
    });
}

#[test]
fn a_change_of_part_of_a_long_file_reads_the_rest_from_its_base() {
    block(async {
        let (world, kernel) = mounted().await;
        let mut content = long(5 * PART, 9);
        world.others.put("a", &content).await;
        let handle = kernel.open("a", WRITE).await;
        kernel.write(handle, 3 * PART, b"changed").await.unwrap();
        let at = 3 * PART as usize;
        content[at..at + 7].copy_from_slice(b"changed");
        assert!(kernel.read_all(handle).await.unwrap() == content);
        kernel.fs.flush(handle, 0).await.unwrap();
        assert!(world.others.get("a").await.unwrap() == content);
        // On top of the current version.
        kernel.write(handle, 0, b"again").await.unwrap();
        content[..5].copy_from_slice(b"again");
        kernel.close(handle).await.unwrap();
        assert!(world.others.get("a").await.unwrap() == content);
    });
}

#[test]
fn attributes_set_during_a_copy_share_the_next_one() {
    block(async {
        let (world, kernel) = mounted().await;
        kernel.save("a", b"x").await;
        let ino = kernel.look("a").await.ino;
        changes(&world);
        let set =
            |change: ossvault::files::attributes::Change| kernel.fs.setattr(ino, None, change);
        let nothing = ossvault::files::attributes::Change::default();
        let time = ossvault::files::attributes::Timestamp {
            seconds: 1000,
            nanos: 0,
        };
        let (mode, owner, times) = (nothing.clone(), nothing.clone(), nothing);
        // The first copy is not done before all are set, however fast it is.
        let held = world.weather.hold_answers(Call::Copy);
        let (first, second, third, fourth, ()) = tokio::join!(
            set(ossvault::files::attributes::Change {
                mode: Some(0o640),
                ..mode.clone()
            }),
            set(ossvault::files::attributes::Change {
                uid: Some(7),
                ..owner
            }),
            set(ossvault::files::attributes::Change {
                mtime: Some(time),
                ..times
            }),
            // The same as the first.
            set(ossvault::files::attributes::Change {
                mode: Some(0o640),
                ..mode
            }),
            async {
                world.weather.until_held(1).await;
                drop(held);
            },
        );
        for result in [first, second, third, fourth] {
            result.unwrap();
        }
        assert_eq!(changes(&world), "Copy 2");
        let stored = Kernel::new(world.mount().await).look("a").await;
        assert_eq!((stored.mode, stored.uid, stored.mtime), (0o640, 7, time));
    });
}
