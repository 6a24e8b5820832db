//! The local folder: opened again, damaged, foreign, large.

use ossvault::store::error::Error;
use ossvault::store::local::{LocalStore, Settings};
use ossvault::store::object_store::*;

use super::{KIB, bytes, headers, key, multipart, names, open, put, read};

#[test]
fn a_folder_that_is_something_else_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let open = || LocalStore::open(folder.path(), Settings { sync: false });
    let file = folder.path().join("letter.txt");
    std::fs::write(&file, "dear").unwrap();
    assert!(matches!(open(), Err(Error::Misconfigured(_))));
    assert_eq!(
        std::fs::read_dir(folder.path()).unwrap().count(),
        1,
        "nothing was added"
    );
    std::fs::remove_file(&file).unwrap();
    open().unwrap();
    std::fs::write(&file, "beside a bucket it does no harm").unwrap();
    open().unwrap();
    std::fs::write(
        folder.path().join("ossvault-bucket"),
        "ossvault bucket folder, format 9\n",
    )
    .unwrap();
    assert!(matches!(open(), Err(Error::Misconfigured(_))));
}

#[tokio::test]
async fn objects_are_still_there_after_opening_again() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder, false);
    put(&store, "a", bytes(100_000, 1)).await;
    multipart(&store, "b", &[bytes(200 * KIB, 2), bytes(10, 3)]).await;
    put(&store, "gone", "x").await;
    store.delete(&key("gone")).await.unwrap();
    drop(store);
    let store = open(&folder, false);
    assert_eq!(names(&store, "").await, ["a", "b"]);
    assert!(read(&store, "a").await == bytes(100_000, 1));
    assert_eq!(read(&store, "b").await.len(), 200 * KIB + 10);
}

/// Every byte of the log is cut off or damaged in turn: what is left is served, nothing panics, and the bucket
/// can be written.
#[tokio::test]
async fn a_damaged_log_loses_no_more_than_what_was_damaged() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder, false);
    for name in ["a", "b", "c"] {
        put(&store, name, name).await;
    }
    drop(store);
    let log = folder.path().join("bucket/log");
    let whole = std::fs::read(&log).unwrap();
    for at in 0..whole.len() {
        std::fs::write(&log, &whole[..at]).unwrap();
        let store = open(&folder, false);
        let lines = whole[..at].iter().filter(|byte| **byte == b'\n').count();
        assert_eq!(
            names(&store, "").await,
            &["a", "b", "c"][..lines],
            "cut at {at}"
        );
        put(&store, "d", "new").await;
        assert_eq!(names(&open(&folder, false), "").await.last().unwrap(), "d");

        let mut damaged = whole.clone();
        damaged[at] ^= 0x40;
        std::fs::write(&log, &damaged).unwrap();
        let store = open(&folder, false);
        let left = names(&store, "").await;
        assert!(
            !left.is_empty()
                && left
                    .iter()
                    .all(|name| ["a", "b", "c"].contains(&name.as_str())),
            "{at}: {left:?}"
        );
        for name in left {
            assert_eq!(read(&store, &name).await, name.as_bytes());
        }
        store.delete(&key("d")).await.unwrap();
    }
}

#[tokio::test]
async fn lost_or_cut_content_is_an_error_of_that_object_alone() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder, false);
    for name in ["a", "b", "c"] {
        put(&store, name, bytes(1000, 1)).await;
    }
    for entry in std::fs::read_dir(folder.path().join("bucket/data"))
        .unwrap()
        .flatten()
    {
        for file in std::fs::read_dir(entry.path()).unwrap().flatten() {
            match file.file_name().to_str().unwrap().as_bytes()[0] {
                b'a' => std::fs::remove_file(file.path()).unwrap(),
                b'b' => std::fs::write(file.path(), "short").unwrap(),
                _ => {}
            }
        }
    }
    for name in ["a", "b"] {
        let answer = store.get(&key(name), None, None).await;
        assert!(matches!(answer, Err(Error::Corrupt(_))), "{name}");
    }
    assert!(read(&store, "c").await == bytes(1000, 1));
    put(&store, "a", "again").await;
    assert_eq!(read(&store, "a").await, b"again");
}

/// The log is rewritten while two instances write: both end with the same objects.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rewriting_the_log_disturbs_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let large = headers(&[("filler", &"x".repeat(4000))]);
    let stores = [open(&folder, false), open(&folder, false)];
    let writers = stores
        .clone()
        .into_iter()
        .enumerate()
        .map(|(writer, store)| {
            let large = large.clone();
            tokio::spawn(async move {
                for round in 0..1500 {
                    let name = key(&format!("{writer}/{}", round % 10));
                    let body = Body::from_bytes(format!("{round}"));
                    store
                        .put(&name, &large, body, Overwrite::Allowed)
                        .await
                        .unwrap();
                    assert_eq!(
                        read(&store, name.as_str()).await,
                        format!("{round}").as_bytes()
                    );
                }
            })
        });
    for writer in futures_util::future::join_all(writers).await {
        writer.unwrap();
    }
    let size = std::fs::metadata(folder.path().join("bucket/log"))
        .unwrap()
        .len();
    assert!(size < 6 << 20, "the log was never rewritten: {size}");
    let fresh = open(&folder, false);
    for store in [&stores[0], &stores[1], &fresh] {
        assert_eq!(names(store, "").await.len(), 20);
        assert_eq!(read(store, "1/9").await, b"1499");
    }
    let files: usize = std::fs::read_dir(folder.path().join("bucket/data"))
        .unwrap()
        .map(|entry| std::fs::read_dir(entry.unwrap().path()).unwrap().count())
        .sum();
    assert_eq!(files, 20, "replaced content was removed");
    assert_eq!(
        std::fs::read_dir(folder.path().join("bucket/tmp"))
            .unwrap()
            .count(),
        0
    );
}

/// How long listing a large bucket takes; run by hand: `cargo test --test it -- --ignored --nocapture large`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement, not a test"]
async fn a_large_bucket() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder, false);
    let begin = std::time::Instant::now();
    let filler = headers(&[
        ("x-oss-key", &"k".repeat(512)),
        ("x-oss-start", &"s".repeat(512)),
    ]);
    const COUNT: usize = 200_000;
    for n in 0..COUNT {
        let name = key(&format!("dir{:03}/file{n:06}", n % 1000));
        store
            .put(&name, &filler, Body::empty(), Overwrite::Allowed)
            .await
            .unwrap();
    }
    println!("put {COUNT}: {:?}", begin.elapsed());
    drop(store);
    let begin = std::time::Instant::now();
    let store = open(&folder, false);
    println!("open: {:?}", begin.elapsed());
    for delimited in [false, true] {
        let begin = std::time::Instant::now();
        let mut request = ListRequest {
            delimited,
            ..Default::default()
        };
        let (mut pages, mut names) = (0, 0);
        loop {
            let page = store.list(&request).await.unwrap();
            pages += 1;
            names += page.objects.len() + page.prefixes.len();
            request.token = page.next;
            if request.token.is_none() {
                break;
            }
        }
        println!(
            "list, delimited {delimited}: {names} names in {pages} pages: {:?}",
            begin.elapsed()
        );
    }
    let begin = std::time::Instant::now();
    for n in 0..10_000 {
        store
            .head(&key(&format!("dir{:03}/file{n:06}", n % 1000)))
            .await
            .unwrap();
    }
    println!("10000 heads: {:?}", begin.elapsed());
}
