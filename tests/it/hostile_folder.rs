//! A bucket folder whose entries somebody else made: synchronised, shared, or restored from elsewhere.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use futures_util::StreamExt;
use ossvault::server::endpoint::Server;
use ossvault::server::state::Config;
use ossvault::store::error::Error;
use ossvault::store::local::record::{self, Content, Details, Facts, PartFile, Tag};
use ossvault::store::local::{LocalStore, Settings};
use ossvault::store::object_store::*;

struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    /// A bucket folder, and beside it one that is none of the bucket's business.
    fn new() -> Place {
        let folder = tempfile::tempdir().unwrap();
        let place = Place { folder };
        fs::create_dir_all(place.outside("tree/deep")).unwrap();
        fs::write(place.outside("tree/deep/letter"), "private").unwrap();
        fs::write(place.outside("letter"), "private").unwrap();
        place.open().unwrap();
        place
    }

    fn open(&self) -> Result<LocalStore> {
        LocalStore::open(&self.bucket(""), Settings { sync: false })
    }

    fn bucket(&self, name: &str) -> PathBuf {
        self.folder.path().join("bucket").join(name)
    }

    fn outside(&self, name: &str) -> PathBuf {
        self.folder.path().join("outside").join(name)
    }

    /// Replaces an entry of the bucket folder by a symbolic link.
    fn link(&self, name: &str, target: &Path) {
        let path = self.bucket(name);
        let _ = fs::remove_file(&path);
        let _ = fs::remove_dir_all(&path);
        symlink(target, path).unwrap();
    }

    /// Everything outside of the bucket is as it was made.
    fn assert_untouched(&self) {
        let mut names: Vec<String> = fs::read_dir(self.outside(""))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["letter", "tree"]);
        for name in ["letter", "tree/deep/letter"] {
            assert_eq!(fs::read_to_string(self.outside(name)).unwrap(), "private");
        }
        assert_eq!(fs::read_dir(self.outside("tree")).unwrap().count(), 1);
        assert_eq!(fs::read_dir(self.outside("tree/deep")).unwrap().count(), 1);
    }

    /// Appends a line that says the key has content of this name.
    fn forge(&self, key: &str, content: &Content, size: u64, parts: Vec<PartFile>) {
        let facts = Facts {
            modified: 1_700_000_000,
            size,
            crc64: 0,
            tag: Tag {
                digest: [1; 16],
                parts: 1,
            },
            multipart: matches!(content, Content::Parts(_)),
            infrequent: false,
        };
        let details = Details::new(&ObjectHeaders::default(), parts);
        self.append(record::put_line(key, &facts, content, &details).as_bytes());
    }

    fn append(&self, bytes: &[u8]) {
        use std::io::Write;
        let mut log = fs::OpenOptions::new()
            .append(true)
            .open(self.bucket("log"))
            .unwrap();
        log.write_all(bytes).unwrap();
    }

    /// The folder in `data/` that the store uses for this key.
    async fn shard(&self, store: &LocalStore, name: &str) -> PathBuf {
        put(store, name, "x").await.unwrap();
        let escaped = record::escape(name);
        let shard = fs::read_dir(self.bucket("data"))
            .unwrap()
            .map(|shard| shard.unwrap().path())
            .find(|shard| {
                fs::read_dir(shard).unwrap().any(|file| {
                    let file = file.unwrap().file_name();
                    file.to_str().unwrap().starts_with(&format!("{escaped}~"))
                })
            })
            .unwrap();
        store.delete(&key(name)).await.unwrap();
        shard
    }
}

fn key(name: &str) -> ObjectKey {
    ObjectKey::new(name).unwrap()
}

async fn put(store: &LocalStore, name: &str, content: impl Into<Bytes>) -> Result<PutAnswer> {
    let headers = ObjectHeaders::default();
    let body = Body::from_bytes(content.into());
    store
        .put(&key(name), &headers, body, Overwrite::Allowed)
        .await
}

async fn read(store: &LocalStore, name: &str) -> Result<Vec<u8>> {
    let mut body = store.get(&key(name), None, None).await?.body;
    let mut content = Vec::new();
    while let Some(chunk) = body.next().await {
        content.extend_from_slice(&chunk?);
    }
    Ok(content)
}

/// Neither a link in place of a folder nor one in place of a file leads a read, a write, a copy or a deletion
/// out of the bucket folder.
#[tokio::test]
async fn links_in_the_data_lead_nowhere() {
    for (content, size, parts) in [
        (Content::File("letter".into()), 7, Vec::new()),
        (
            Content::Parts("tree".into()),
            7,
            vec![PartFile {
                file: "letter".into(),
                size: 7,
            }],
        ),
        (
            Content::Parts("deep".into()),
            7,
            vec![PartFile {
                file: "letter".into(),
                size: 7,
            }],
        ),
        (Content::File("tree".into()), 7, Vec::new()),
        (Content::File("tree".into()), 0, Vec::new()),
    ] {
        for target in ["", "tree"] {
            let place = Place::new();
            let store = place.open().unwrap();
            let shard = place.shard(&store, "x").await;
            fs::remove_dir(&shard).unwrap();
            symlink(place.outside(target), &shard).unwrap();
            place.forge("x", &content, size, parts.clone());
            assert!(read(&store, "x").await.is_err(), "{content:?} {target}");
            let etag = store.head(&key("x")).await.unwrap().etag;
            let copied = store
                .copy(&CopyRequest {
                    source: key("x"),
                    source_etag: etag.clone(),
                    destination: key("y"),
                    headers: CopyHeaders::Keep,
                    overwrite: Overwrite::Allowed,
                })
                .await;
            assert!(copied.is_err(), "{content:?} {target}");
            assert!(put(&store, "x", "new").await.is_err());
            let upload = store
                .create_multipart(&key("x"), &ObjectHeaders::default())
                .await;
            assert!(upload.is_err());
            let _ = store.delete(&key("x")).await;
            drop(store);
            place.open().unwrap();
            place.assert_untouched();
        }
    }
}

#[tokio::test]
async fn a_link_in_place_of_content_is_not_followed_and_goes_itself() {
    let place = Place::new();
    let store = place.open().unwrap();
    let shard = place.shard(&store, "x").await;
    symlink(place.outside("letter"), shard.join("file")).unwrap();
    symlink(place.outside("tree"), shard.join("parts")).unwrap();
    place.forge("x", &Content::File("file".into()), 7, Vec::new());
    assert!(matches!(read(&store, "x").await, Err(Error::Corrupt(_))));
    store.delete(&key("x")).await.unwrap();
    assert!(fs::symlink_metadata(shard.join("file")).is_err());
    place.forge(
        "x",
        &Content::Parts("parts".into()),
        7,
        vec![PartFile {
            file: "deep/letter".into(),
            size: 7,
        }],
    );
    place.forge(
        "x",
        &Content::Parts("parts".into()),
        7,
        vec![PartFile {
            file: "letter".into(),
            size: 7,
        }],
    );
    assert!(matches!(read(&store, "x").await, Err(Error::Corrupt(_))));
    store.delete(&key("x")).await.unwrap();
    place.assert_untouched();
}

/// A deletion removes what the store makes: files, and folders of parts. A folder somebody put there stays.
#[tokio::test]
async fn a_deletion_is_never_recursive() {
    let place = Place::new();
    let store = place.open().unwrap();
    let shard = place.shard(&store, "x").await;
    let tree = shard.join("tree");
    for content in [Content::File("tree".into()), Content::Parts("tree".into())] {
        fs::create_dir_all(tree.join("deep")).unwrap();
        fs::write(tree.join("deep/letter"), "kept").unwrap();
        fs::write(tree.join("note"), "kept").unwrap();
        place.forge("x", &content, 7, Vec::new());
        store.delete(&key("x")).await.unwrap();
        assert!(tree.join("deep/letter").exists(), "{content:?}");
        assert!(tree.join("note").exists(), "{content:?}");
    }
    // An unfinished upload that claims another object's content as its parts.
    put(&store, "x", "content").await.unwrap();
    let name = fs::read_dir(&shard)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .find(|name| name.starts_with("x~"))
        .unwrap();
    let id = "0123456789abcdef0123456789abcdef";
    let upload = format!(r#"{{"key":"x","name":"{name}","initiated":1,"details":{{}}}}"#);
    fs::write(place.bucket("uploads").join(id), upload).unwrap();
    let _ = store.abort_multipart(&key("x"), &UploadId(id.into())).await;
    assert_eq!(read(&store, "x").await.unwrap(), b"content");
}

#[tokio::test]
async fn content_that_is_no_regular_file_is_refused_at_once() {
    let place = Place::new();
    let store = place.open().unwrap();
    let shard = place.shard(&store, "x").await;
    let mode = nix::sys::stat::Mode::from_bits_truncate(0o600);
    nix::unistd::mkfifo(&shard.join("pipe"), mode).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(shard.join("socket")).unwrap();
    fs::create_dir(shard.join("folder")).unwrap();
    let begin = Instant::now();
    for name in ["pipe", "socket", "folder"] {
        place.forge("x", &Content::File(name.into()), 0, Vec::new());
        let answer = read(&store, "x").await;
        assert!(matches!(answer, Err(Error::Corrupt(_))), "{name}");
    }
    assert!(begin.elapsed() < Duration::from_secs(10));
}

/// The folders and files at the top.
#[tokio::test]
async fn links_at_the_top_of_the_folder_lead_nowhere() {
    // Old enough to be swept, if it were a temporary file.
    let old = SystemTime::now() - Duration::from_secs(100_000);
    for (name, target) in [
        ("data", "tree"),
        ("tmp", ""),
        ("tmp", "tree/deep"),
        ("uploads", "tree"),
        ("log", "letter"),
        ("log", "new"),
        ("lock", "letter"),
        ("lock", "new"),
        ("log.new", "letter"),
        ("ossvault-bucket", "letter"),
    ] {
        let place = Place::new();
        fs::File::open(place.outside("letter"))
            .unwrap()
            .set_modified(old)
            .unwrap();
        place.link(name, &place.outside(target));
        if let Ok(store) = place.open() {
            let stored = put(&store, "x", "new").await;
            let headers = ObjectHeaders::default();
            let upload = store.create_multipart(&key("x"), &headers).await;
            let listed = store.list_uploads("").await;
            match name {
                "data" | "tmp" => assert!(stored.is_err() && upload.is_err(), "{name}"),
                "uploads" => assert!(upload.is_err() && listed.is_err(), "{name}"),
                "log.new" => stored.map(|_| ()).unwrap(),
                _ => panic!("opened through the link {name}"),
            }
        }
        place.assert_untouched();
    }
}

/// The new log replaces the old one, and a link in the way of it is not written through.
#[tokio::test]
async fn rewriting_the_log_follows_no_link() {
    let place = Place::new();
    let store = place.open().unwrap();
    place.link("log.new", &place.outside("letter"));
    let headers = ObjectHeaders {
        user: [("filler".to_string(), "x".repeat(60_000))].into(),
        ..Default::default()
    };
    for round in 0..150 {
        let body = Body::from_bytes(format!("{round}"));
        store
            .put(&key("x"), &headers, body, Overwrite::Allowed)
            .await
            .unwrap();
    }
    let log = fs::metadata(place.bucket("log")).unwrap().len();
    assert!(log < 5 << 20, "the log was never rewritten: {log}");
    assert_eq!(read(&store, "x").await.unwrap(), b"149");
    place.assert_untouched();
}

#[tokio::test]
async fn lines_of_any_length_and_content_are_survived() {
    let place = Place::new();
    let store = place.open().unwrap();
    put(&store, "before", "1").await.unwrap();
    // A line that never ends, and goes on while it is read.
    for _ in 0..3 {
        place.append(&vec![b'x'; 5 << 20]);
        assert_eq!(read(&store, "before").await.unwrap(), b"1");
    }
    put(&store, "after", "2").await.unwrap();
    let part = |size| PartFile {
        file: "1".into(),
        size,
    };
    place.forge(
        "sum",
        &Content::Parts("p".into()),
        7,
        vec![part(u64::MAX), part(8)],
    );
    place.forge("size", &Content::File("f".into()), u64::MAX, Vec::new());
    for store in [store, place.open().unwrap()] {
        assert_eq!(read(&store, "before").await.unwrap(), b"1");
        assert_eq!(read(&store, "after").await.unwrap(), b"2");
        assert!(read(&store, "sum").await.is_err());
        assert!(matches!(read(&store, "size").await, Err(Error::NotFound)));
    }
    // More than any object can have is refused at the write, not found damaged afterwards.
    let headers = ObjectHeaders {
        user: [("filler".to_string(), "x".repeat(100_000))].into(),
        ..Default::default()
    };
    let store = place.open().unwrap();
    let body = Body::from_bytes("new");
    let refused = store
        .put(&key("after"), &headers, body, Overwrite::Allowed)
        .await;
    assert!(matches!(refused, Err(Error::TooLarge(_))));
    let upload = store.create_multipart(&key("after"), &headers).await;
    assert!(matches!(upload, Err(Error::TooLarge(_))));
    assert_eq!(read(&store, "after").await.unwrap(), b"2");
}

#[tokio::test]
async fn uploads_that_this_store_would_not_write_are_not_listed() {
    let place = Place::new();
    let store = place.open().unwrap();
    let uploads = place.bucket("uploads");
    let id = |n: u8| format!("{n:032x}");
    let good = r#"{"key":"x","name":"n","initiated":1,"details":{}}"#;
    fs::write(uploads.join(id(0)), good).unwrap();
    fs::write(
        uploads.join(id(1)),
        r#"{"key":"/x","name":"n","initiated":1,"details":{}}"#,
    )
    .unwrap();
    fs::write(
        uploads.join(id(2)),
        r#"{"key":"x","name":"../n","initiated":1,"details":{}}"#,
    )
    .unwrap();
    fs::write(
        uploads.join(id(3)),
        r#"{"key":"x","name":"n","initiated":18446744073709551615,"details":{}}"#,
    )
    .unwrap();
    fs::write(uploads.join(id(4)), vec![b' '; 1 << 20]).unwrap();
    symlink(uploads.join(id(0)), uploads.join(id(5))).unwrap();
    let mode = nix::sys::stat::Mode::from_bits_truncate(0o600);
    nix::unistd::mkfifo(&uploads.join(id(6)), mode).unwrap();
    fs::create_dir(uploads.join(id(7))).unwrap();
    let listed = store.list_uploads("").await.unwrap();
    assert_eq!(listed.len(), 1, "{listed:?}");
    assert_eq!(listed[0].upload.0, id(0));
}

/// `serve` takes folders for buckets, and neither links to folders nor what is in them.
#[tokio::test]
async fn a_link_to_a_folder_is_no_bucket() {
    let folder = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir().unwrap();
    let elsewhere = outside.path().join("elsewhere");
    drop(LocalStore::open(&elsewhere, Settings { sync: false }).unwrap());
    let empty = outside.path().join("empty");
    fs::create_dir(&empty).unwrap();
    symlink(&elsewhere, folder.path().join("linked")).unwrap();
    symlink(&empty, folder.path().join("hollow")).unwrap();
    let server = Server::start(Config::new(folder.path())).await.unwrap();
    assert!(server.create_bucket("linked").is_err());
    assert!(server.create_bucket("hollow").is_err());
    assert_eq!(fs::read_dir(&empty).unwrap().count(), 0);
}
