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
use ossvault::store::local::record::{self, Content};
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
        for folder in ["", "tree", "tree/deep"] {
            fs::write(place.outside(folder).join(PART), "private").unwrap();
        }
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
        assert_eq!(names, [PART, "letter", "tree"]);
        let parts = ["", "tree/", "tree/deep/"].map(|folder| format!("{folder}{PART}"));
        let names = ["letter", "tree/deep/letter"];
        for name in names.into_iter().chain(parts.iter().map(String::as_str)) {
            assert_eq!(fs::read_to_string(self.outside(name)).unwrap(), "private");
        }
        assert_eq!(fs::read_dir(self.outside("tree")).unwrap().count(), 2);
        assert_eq!(fs::read_dir(self.outside("tree/deep")).unwrap().count(), 2);
    }

    /// Writes rows that say the key has this content, of parts with these names and sizes.
    fn forge(&self, key: &str, content: &Content, size: i64, parts: &[(&str, i64)]) {
        let database = self.database();
        let place = content.to_string();
        let forged = database.execute(
            "INSERT INTO contents (place, headers) VALUES (?1, '{}')",
            (place,),
        );
        forged.unwrap();
        let id = database.last_insert_rowid();
        database
            .execute(
                "INSERT OR REPLACE INTO objects VALUES (?1, 1700000000, ?2, 0, zeroblob(16), 1, 0, ?3)",
                (key.as_bytes(), size, id),
            )
            .unwrap();
        for (number, (file, size)) in (1..).zip(parts) {
            database
                .execute(
                    "INSERT INTO parts VALUES (?1, ?2, ?3, 0, zeroblob(16), 0, 0, ?4)",
                    (id, number, size, file),
                )
                .unwrap();
        }
    }

    /// The database, without the checks of the store.
    fn database(&self) -> rusqlite::Connection {
        rusqlite::Connection::open(self.bucket("bucket.db")).unwrap()
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

/// The name of a part, as the store makes them; outside of the bucket there is a file of that name, too.
const PART: &str = "00001~0123456789abcdef0123456789abcdef";

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
    for (content, size) in [
        (Content::File("letter".into()), 7),
        (Content::Parts("tree".into()), 7),
        (Content::Parts("deep".into()), 7),
        (Content::File("tree".into()), 7),
        (Content::File("tree".into()), 0),
    ] {
        for target in ["", "tree"] {
            let place = Place::new();
            let store = place.open().unwrap();
            let shard = place.shard(&store, "x").await;
            fs::remove_dir(&shard).unwrap();
            symlink(place.outside(target), &shard).unwrap();
            place.forge("x", &content, size, &[(PART, 7)]);
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
    place.forge("x", &Content::File("file".into()), 7, &[]);
    assert!(matches!(read(&store, "x").await, Err(Error::Corrupt(_))));
    store.delete(&key("x")).await.unwrap();
    assert!(fs::symlink_metadata(shard.join("file")).is_err());
    let content = Content::Parts("parts".into());
    for part in ["deep/letter", "letter", PART] {
        place.forge("x", &content, 7, &[(part, 7)]);
        assert!(
            matches!(read(&store, "x").await, Err(Error::Corrupt(_))),
            "{part}"
        );
    }
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
        place.forge("x", &content, 7, &[]);
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
    place
        .database()
        .execute_batch(&format!(
            "INSERT INTO contents VALUES (1000, 'm{name}', '{{}}');
             INSERT INTO uploads VALUES (X'78', '{id}', 1, 1000);"
        ))
        .unwrap();
    store
        .abort_multipart(&key("x"), &UploadId(id.into()))
        .await
        .unwrap();
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
        place.forge("x", &Content::File(name.into()), 0, &[]);
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
        ("bucket.db", "letter"),
        ("bucket.db", "new"),
        ("bucket.db", "bucket.db"),
        ("bucket.db-wal", "letter"),
        ("bucket.db-wal", "new"),
        ("bucket.db-shm", "letter"),
        ("bucket.db-shm", "new"),
        ("bucket.db-journal", "letter"),
        ("bucket.db-journal", "new"),
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
            match name {
                "data" => assert!(stored.is_err() && upload.is_err(), "{name}"),
                "tmp" => assert!(stored.is_err(), "{name}"),
                _ => panic!("opened through the link {name}"),
            }
        }
        place.assert_untouched();
    }
}

/// What is no regular file is not opened, and the open does not wait.
#[tokio::test]
async fn a_database_that_is_no_regular_file_is_refused_at_once() {
    let begin = Instant::now();
    for name in ["bucket.db", "bucket.db-wal", "bucket.db-shm"] {
        let place = Place::new();
        let path = place.bucket(name);
        fs::remove_file(&path).unwrap();
        let mode = nix::sys::stat::Mode::from_bits_truncate(0o600);
        nix::unistd::mkfifo(&path, mode).unwrap();
        assert!(
            matches!(place.open(), Err(Error::Misconfigured(_))),
            "{name}"
        );
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(
            matches!(place.open(), Err(Error::Misconfigured(_))),
            "{name}"
        );
    }
    assert!(begin.elapsed() < Duration::from_secs(10));
}

/// SQLite plays a rollback journal back before it looks at the database. The store leaves none.
#[tokio::test]
async fn a_forged_journal_is_not_played_back() {
    // That the database has one page, and nothing of what is in it.
    let mut journal = vec![0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7];
    for number in [0_u32, 0, 1, 512, 4096] {
        journal.extend(number.to_be_bytes());
    }
    journal.resize(512, 0);
    let folder = tempfile::tempdir().unwrap();
    let other = folder.path().join("other.db");
    let database = || rusqlite::Connection::open(&other).unwrap();
    database().execute_batch("CREATE TABLE t (a)").unwrap();
    let len = || fs::metadata(&other).unwrap().len();
    let before = len();
    fs::write(folder.path().join("other.db-journal"), &journal).unwrap();
    let _ = database().execute_batch("SELECT * FROM t");
    assert!(len() < before, "SQLite does not play it back");

    let place = Place::new();
    let before = fs::read(place.bucket("bucket.db")).unwrap();
    fs::write(place.bucket("bucket.db-journal"), &journal).unwrap();
    assert!(matches!(place.open(), Err(Error::Misconfigured(_))));
    assert!(fs::read(place.bucket("bucket.db")).unwrap() == before);
    place.assert_untouched();
}

/// Rows that this store would not write.
#[tokio::test]
async fn rows_of_any_content_are_survived() {
    let place = Place::new();
    let store = place.open().unwrap();
    put(&store, "before", "1").await.unwrap();
    let parts = Content::Parts("p".into());
    place.forge("sum", &parts, i64::MAX, &[(PART, i64::MAX), (PART, 8)]);
    place.forge("part", &parts, 7, &[(PART, -1)]);
    let many = vec![(PART, 1); 10_001];
    place.forge("many", &parts, 10_001, &many);
    place.forge("size", &Content::File("f".into()), -1, &[]);
    place.forge("/key", &Content::Empty, 0, &[]);
    let long = "k".repeat(100_000);
    place.forge(&long, &Content::Empty, 0, &[]);
    let broken = [
        (
            "headers",
            "UPDATE contents SET headers = '[]' WHERE id = ?1",
        ),
        (
            "place",
            "UPDATE contents SET place = 'f../../outside/letter' WHERE id = ?1",
        ),
        (
            "large",
            "UPDATE contents SET headers = json_object('t', hex(zeroblob(60000))) WHERE id = ?1",
        ),
        (
            "huge",
            "UPDATE contents SET headers = hex(zeroblob(9000000)) WHERE id = ?1",
        ),
        ("none", "DELETE FROM contents WHERE id = ?1"),
    ];
    for (name, statement) in broken {
        place.forge(name, &Content::Empty, 0, &[]);
        let database = place.database();
        let id: i64 = database
            .query_row(
                "SELECT content FROM objects WHERE key = ?1",
                (name.as_bytes(),),
                |row| row.get(0),
            )
            .unwrap();
        database.execute(statement, (id,)).unwrap();
    }
    drop(store);
    let store = place.open().unwrap();
    assert_eq!(read(&store, "before").await.unwrap(), b"1");
    let damaged = ["sum", "part", "many", "size"].into_iter();
    for name in damaged.chain(broken.map(|(name, _)| name)) {
        let answer = read(&store, name).await;
        assert!(
            matches!(answer, Err(Error::Corrupt(_))),
            "{name}: {answer:?}"
        );
        let etag = ETag::new("\"x\"");
        let copied = store
            .copy(&CopyRequest {
                source: key(name),
                source_etag: etag.clone(),
                destination: key("copy"),
                headers: CopyHeaders::Keep,
                overwrite: Overwrite::Allowed,
            })
            .await;
        assert!(copied.is_err(), "{name}");
    }
    let page = store.list(&ListRequest::default()).await.unwrap();
    let names: Vec<_> = page.objects.iter().map(|object| &object.key).collect();
    assert!(
        names.iter().all(|name| name.len() <= ObjectKey::MAX_LEN),
        "{names:?}"
    );
    assert!(names.contains(&&"before".to_string()) && !names.contains(&&"size".to_string()));
    // It can be replaced and deleted, whatever it was.
    put(&store, "sum", "2").await.unwrap();
    assert_eq!(read(&store, "sum").await.unwrap(), b"2");
    for (name, _) in broken {
        store.delete(&key(name)).await.unwrap();
        assert!(
            matches!(read(&store, name).await, Err(Error::NotFound)),
            "{name}"
        );
    }
    // More than any object can have is refused at the write, not found damaged afterwards.
    let headers = ObjectHeaders {
        user: [("filler".to_string(), "x".repeat(100_000))].into(),
        ..Default::default()
    };
    let body = Body::from_bytes("new");
    let refused = store
        .put(&key("before"), &headers, body, Overwrite::Allowed)
        .await;
    assert!(matches!(refused, Err(Error::TooLarge(_))));
    let upload = store.create_multipart(&key("before"), &headers).await;
    assert!(matches!(upload, Err(Error::TooLarge(_))));
    assert_eq!(read(&store, "before").await.unwrap(), b"1");
    place.assert_untouched();
}

#[tokio::test]
async fn uploads_that_this_store_would_not_write_are_not_listed() {
    let place = Place::new();
    let store = place.open().unwrap();
    let id = |n: u8| format!("{n:032x}");
    let forge = |key: &str, id: String, initiated: i64, place_of: &str| {
        let database = place.database();
        database
            .execute(
                "INSERT INTO contents (place, headers) VALUES (?1, '{}')",
                (place_of,),
            )
            .unwrap();
        let content = database.last_insert_rowid();
        database
            .execute(
                "INSERT INTO uploads VALUES (?1, ?2, ?3, ?4)",
                (key.as_bytes(), id, initiated, content),
            )
            .unwrap();
    };
    forge("x", id(0), 1, "mn");
    forge("/x", id(1), 1, "mn");
    forge("x", "../../outside/letter".into(), 1, "mn");
    forge("x", id(3), i64::MAX, "mn");
    forge("x", id(4), -1, "mn");
    let listed = store.list_uploads("").await.unwrap();
    assert_eq!(listed.len(), 1, "{listed:?}");
    assert_eq!(listed[0].upload.0, id(0));
    // Neither begun nor ended are those whose parts would be elsewhere.
    for (n, place_of) in [(5, "m../../outside"), (6, "fletter"), (7, "-"), (8, "m..")] {
        forge("x", id(n), 1, place_of);
        let upload = UploadId(id(n));
        let body = Body::from_bytes("part");
        assert!(
            store
                .upload_part(&key("x"), &upload, 1, body)
                .await
                .is_err()
        );
        assert!(store.abort_multipart(&key("x"), &upload).await.is_err());
    }
    place.assert_untouched();
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
