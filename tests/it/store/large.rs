//! Folders with very many objects: the memory they take, and rates.

use ossvault::store::local::{LocalStore, Settings};
use ossvault::store::object_store::*;

use super::processes::another_process;
use super::{bytes, headers, key, open, read};

/// Gives the bucket in this folder so many objects of no bytes, `each` in a directory.
pub(crate) fn fill(bucket: &std::path::Path, count: usize, each: usize) {
    drop(LocalStore::open(bucket, Settings { sync: false }).unwrap());
    let database = rusqlite::Connection::open(bucket.join("bucket.db")).unwrap();
    let statements = format!(
        "BEGIN;
         INSERT INTO contents (place, headers) VALUES ('-', '{{}}');
         INSERT INTO objects
             WITH RECURSIVE n (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM n LIMIT {count})
             SELECT CAST(format('directory%05d/file%07d', n / {each}, n) AS BLOB),
                    0, 0, 0, zeroblob(16), 0, 0, 1 FROM n;
         COMMIT;"
    );
    database.execute_batch(&statements).unwrap();
}

/// The other process of the test below: lists a bucket, and says how much memory it took at most, in KiB.
#[tokio::test]
#[ignore = "a part of other tests"]
async fn another_process_lists() {
    let Some(folder) = std::env::var_os("OSSVAULT_TEST_BUCKET") else {
        return;
    };
    let store = LocalStore::open(folder.as_ref(), Settings { sync: false }).unwrap();
    let mut request = ListRequest::default();
    let mut listed = 0;
    loop {
        let page = store.list(&request).await.unwrap();
        listed += page.objects.len();
        request.token = page.next;
        if request.token.is_none() {
            break;
        }
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let most = status.lines().find(|line| line.starts_with("VmHWM:"));
    let most = most.unwrap().split_whitespace().nth(1).unwrap();
    println!("\n@{listed}/{most}");
}

/// There was an index in memory once, with all keys of the bucket.
#[tokio::test]
async fn memory_does_not_grow_with_the_number_of_objects() {
    let mut most = Vec::new();
    for count in [1000, 300_000] {
        let folder = tempfile::tempdir().unwrap();
        let bucket = folder.path().join("bucket");
        fill(&bucket, count, 1000);
        let (mut child, mut said) = another_process(&bucket, "large::another_process_lists");
        let said = said.next().unwrap();
        child.wait().unwrap();
        let (listed, memory) = said.split_once('/').unwrap();
        assert_eq!(listed.parse(), Ok(count));
        most.push(memory.parse::<u64>().unwrap());
    }
    println!("at most {most:?} KiB");
    assert!(most[1] < most[0] + (12 << 10), "{most:?} KiB");
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

/// Rates of small objects, in TMPDIR; run by hand:
/// `cargo test --release --test it -- --ignored --nocapture small_objects`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement, not a test"]
async fn small_objects() {
    let filler = headers(&[
        ("x-oss-key", &"k".repeat(344)),
        ("x-oss-start", &"s".repeat(344)),
    ]);
    for sync in [true, false] {
        for tasks in [1, 8] {
            let folder = tempfile::tempdir().unwrap();
            let store = open(&folder, sync);
            let each = if sync { 1600 } else { 8000 } / tasks;
            let mut figures = Vec::new();
            for writes in [true, false] {
                let begin = std::time::Instant::now();
                let work = (0..tasks).map(|task| {
                    let (store, filler) = (store.clone(), filler.clone());
                    tokio::spawn(async move {
                        for n in 0..each {
                            let name = key(&format!("directory{task}/file{n:06}"));
                            if writes {
                                let body = Body::from_bytes(bytes(4096, n as u8));
                                store
                                    .put(&name, &filler, body, Overwrite::Allowed)
                                    .await
                                    .unwrap();
                            } else {
                                assert_eq!(read(&store, name.as_str()).await.len(), 4096);
                            }
                        }
                    })
                });
                for done in futures_util::future::join_all(work).await {
                    done.unwrap();
                }
                figures.push((tasks * each) as f64 / begin.elapsed().as_secs_f64());
            }
            println!(
                "sync {sync}, {tasks} at once: {:.0} writes/s, {:.0} reads/s",
                figures[0], figures[1]
            );
        }
    }
}
