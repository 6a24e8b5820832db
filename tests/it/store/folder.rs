//! The folder on disk: opened again, damaged, foreign, deleted, moved.

use ossvault::store::error::Error;
use ossvault::store::local::class::Class;
use ossvault::store::local::directory::Directory;
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
    let database = rusqlite::Connection::open(folder.path().join("bucket.db")).unwrap();
    database.pragma_update(None, "user_version", 9).unwrap();
    drop(database);
    let refused = open().err().unwrap();
    assert!(matches!(refused, Error::Misconfigured(_)));
    let cause = std::error::Error::source(&refused).unwrap().to_string();
    assert!(cause.contains("a newer version of ossvault"), "{cause}");
}

/// As several processes do: the first one decides, and the others leave its class unchanged.
#[test]
fn instances_that_create_a_bucket_at_once_agree_on_its_class() {
    let of = |n: usize| [Class::Standard, Class::Infrequent][n % 2];
    for round in 0..20 {
        let folder = tempfile::tempdir().unwrap();
        let make = |n| {
            let root = Directory::open(folder.path()).unwrap();
            let store = LocalStore::create_in(root, of(n), Settings { sync: false });
            store.unwrap().class()
        };
        let classes: Vec<Class> = std::thread::scope(|scope| {
            let made: Vec<_> = (round..round + 4)
                .map(|n| scope.spawn(move || make(n)))
                .collect();
            made.into_iter().map(|made| made.join().unwrap()).collect()
        });
        let now = make(round);
        assert!(classes.iter().all(|class| *class == now), "{classes:?}");
    }
}

/// Before the database, the index was a log of lines.
#[test]
fn a_folder_in_the_earlier_form_is_refused_with_advice() {
    let folder = tempfile::tempdir().unwrap();
    let marker = "ossvault bucket folder, format 1\n";
    std::fs::write(folder.path().join("ossvault-bucket"), marker).unwrap();
    std::fs::write(folder.path().join("log"), "").unwrap();
    std::fs::write(folder.path().join("lock"), "").unwrap();
    for name in ["data", "tmp", "uploads"] {
        std::fs::create_dir(folder.path().join(name)).unwrap();
    }
    assert!(LocalStore::is_there(folder.path()));
    let refused = LocalStore::open(folder.path(), Settings { sync: false }).err();
    let cause = std::error::Error::source(refused.as_ref().unwrap()).unwrap();
    let cause = cause.to_string();
    assert!(cause.contains("an earlier version of ossvault"), "{cause}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 6);
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

/// Runs a program that copies or links files: this process must not open those of a database that it has open.
fn run(program: &str, arguments: &[&std::path::Path]) {
    let done = std::process::Command::new(program).args(arguments).status();
    assert!(done.unwrap().success());
}

/// A crash leaves any beginning of what was written to the log, and a damaged disk anything in it: what was
/// committed before is there, nothing is half there, and the bucket can be written.
#[tokio::test]
async fn a_torn_log_loses_whole_changes_from_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder, false);
    let all = ["a", "b", "c", "d", "e"];
    for name in all {
        put(&store, name, name).await;
    }
    // As a crash leaves them: a store that ends empties the log.
    let copy = tempfile::tempdir().unwrap();
    let bucket = folder.path().join("bucket");
    run("cp", &["-a".as_ref(), &bucket, copy.path()]);
    let at = |name: &str| copy.path().join("bucket").join(name);
    let database = std::fs::read(at("bucket.db")).unwrap();
    let log = std::fs::read(at("bucket.db-wal")).unwrap();
    assert!(log.len() > 5 * 4096, "{}", log.len());
    let mut most = 0;
    for end in (0..log.len()).step_by(1031).chain([log.len()]) {
        for torn in [true, false] {
            let mut log = log.clone();
            match torn {
                true => log.truncate(end),
                false if end < log.len() => log[end] ^= 0x40,
                false => {}
            }
            std::fs::write(at("bucket.db"), &database).unwrap();
            std::fs::write(at("bucket.db-wal"), &log).unwrap();
            let store = open(&copy, false);
            let left = names(&store, "").await;
            assert_eq!(left, all[..left.len()], "{end}, torn: {torn}");
            for name in &left {
                assert_eq!(read(&store, name).await, name.as_bytes());
            }
            if torn {
                assert!(left.len() >= most, "{end}: a longer log has less");
                most = left.len();
            }
            put(&store, "new", "new").await;
            drop(store);
            assert_eq!(read(&open(&copy, false), "new").await, b"new");
        }
    }
    assert_eq!(most, all.len());
}

/// A bucket that another instance deletes is gone for every instance that has it open, even if there is a new one
/// in the folder.
#[tokio::test]
async fn a_deleted_bucket_takes_nothing_more() {
    let folder = tempfile::tempdir().unwrap();
    let (store, other) = (open(&folder, false), open(&folder, false));
    put(&store, "a", "a").await;
    assert!(matches!(other.destroy().await, Err(Error::AlreadyExists)));
    store.delete(&key("a")).await.unwrap();
    let upload = store
        .create_multipart(&key("b"), &headers(&[]))
        .await
        .unwrap();
    assert!(matches!(other.destroy().await, Err(Error::AlreadyExists)));
    store.abort_multipart(&key("b"), &upload).await.unwrap();
    other.destroy().await.unwrap();
    assert_eq!(
        std::fs::read_dir(folder.path().join("bucket"))
            .unwrap()
            .count(),
        0
    );
    for new in [false, true] {
        if new {
            put(&open(&folder, false), "new", "new").await;
        }
        let body = Body::from_bytes("lost");
        let written = store
            .put(&key("c"), &headers(&[]), body, Overwrite::Allowed)
            .await;
        assert!(written.is_err());
        for gone in [
            store.bucket_info().await.map(|_| ()),
            store.head(&key("a")).await.map(|_| ()),
            store.list(&ListRequest::default()).await.map(|_| ()),
            store.delete(&key("a")).await,
        ] {
            assert!(matches!(gone, Err(Error::NoSuchBucket(_))), "{gone:?}");
        }
    }
    drop((store, other));
    let new = open(&folder, false);
    assert_eq!(names(&new, "").await, ["new"]);
    assert_eq!(read(&new, "new").await, b"new");
}

/// A mount of a folder that is renamed goes on, as with any open file.
#[tokio::test]
async fn a_bucket_goes_on_when_its_folder_is_moved() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder, false);
    put(&store, "a", "a").await;
    std::fs::rename(folder.path().join("bucket"), folder.path().join("moved")).unwrap();
    put(&store, "b", "b").await;
    // Another bucket in its place stays as it is.
    let other = open(&folder, false);
    put(&other, "c", "c").await;
    assert_eq!(names(&store, "").await, ["a", "b"]);
    drop(store);
    assert_eq!(names(&other, "").await, ["c"]);
    let moved = LocalStore::open(&folder.path().join("moved"), Settings { sync: false }).unwrap();
    assert_eq!(read(&moved, "b").await, b"b");
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

/// The log is taken into the database many times while two instances write: both end with the same objects.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checkpoints_do_not_disturb_writers() {
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
    for (name, most) in [
        ("bucket/bucket.db-wal", 32 << 20),
        ("bucket/bucket.db", 1 << 20),
    ] {
        let size = std::fs::metadata(folder.path().join(name)).unwrap().len();
        assert!(size < most, "{name} grows: {size}");
    }
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
