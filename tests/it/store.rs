//! What an `ObjectStore` is: one suite, run on every implementation.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::{StreamExt, stream};

use ossvault::base::crc64;
use ossvault::oss::client::{self as oss_client, Client};
use ossvault::oss::credentials::AccessKey;
use ossvault::oss::endpoint::{Endpoint, Options};
use ossvault::oss::sign::Version;
use ossvault::server::endpoint::Server;
use ossvault::server::state::Config;
use ossvault::store::error::Error;
use ossvault::store::local::{LocalStore, Settings};
use ossvault::store::object_store::*;
use ossvault_testing::{InstrumentedStore, MemoryStore};

/// A store to test and what it stands on.
struct Home {
    store: Arc<dyn ObjectStore>,
    _server: Option<Server>,
    _folder: tempfile::TempDir,
}

fn open(folder: &tempfile::TempDir, sync: bool) -> LocalStore {
    LocalStore::open(&folder.path().join("bucket"), Settings { sync }).unwrap()
}

fn local() -> Home {
    let folder = tempfile::tempdir().unwrap();
    Home {
        store: Arc::new(open(&folder, false)),
        _server: None,
        _folder: folder,
    }
}

fn local_synced() -> Home {
    let folder = tempfile::tempdir().unwrap();
    Home {
        store: Arc::new(open(&folder, true)),
        _server: None,
        _folder: folder,
    }
}

/// What unit tests have in the place of a bucket.
fn memory() -> Home {
    Home {
        store: Arc::new(MemoryStore::default()),
        _server: None,
        _folder: tempfile::tempdir().unwrap(),
    }
}

/// Two instances on one folder that take turns: each call meets what the other one did.
fn two_instances() -> Home {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (open(&folder, false), open(&folder, false));
    Home {
        store: InstrumentedStore::in_turn(vec![Arc::new(one), Arc::new(two)]),
        _server: None,
        _folder: folder,
    }
}

/// The client, through the server. `version` is how requests are signed.
async fn oss(version: Version) -> Home {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(Config::new(folder.path())).await.unwrap();
    server.create_bucket("bucket").unwrap();
    let endpoint = Endpoint::new(&server.endpoint(), "bucket", Options::default()).unwrap();
    let key = AccessKey::new("test", "test", None);
    let client = Client::new(endpoint, key, version, oss_client::Settings::default()).unwrap();
    Home {
        store: Arc::new(client),
        _server: Some(server),
        _folder: folder,
    }
}

fn v4() -> Version {
    Version::V4 {
        region: "cn-hangzhou".into(),
    }
}

macro_rules! suite {
    ($($case:ident),* $(,)?) => {
        suite!(@run local, { local() }, $($case),*);
        suite!(@run local_synced, { local_synced() }, $($case),*);
        suite!(@run memory, { memory() }, $($case),*);
        suite!(@run two_instances, { two_instances() }, $($case),*);
        suite!(@run oss, { oss(v4()).await }, $($case),*);
        suite!(@run oss_v1, { oss(Version::V1).await }, $($case),*);
    };
    (@run $module:ident, $make:block, $($case:ident),*) => {
        mod $module {
            use super::*;
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    let home: Home = $make;
                    super::cases::$case(home.store.clone()).await;
                }
            )*
        }
    };
}

suite!(
    an_object_comes_back_as_it_was_put,
    what_does_not_exist_is_not_found,
    names_of_every_kind_are_kept_apart,
    a_range_is_cut_at_the_end,
    a_get_under_a_condition,
    a_replaced_object_is_read_on_as_it_was,
    a_forbidden_overwrite_changes_nothing,
    of_many_exclusive_writers_one_wins,
    a_body_that_fails_leaves_the_old_object,
    deleting_is_idempotent,
    a_copy_keeps_or_replaces_headers,
    a_copy_onto_itself_changes_headers_only,
    a_copy_under_a_condition,
    copies_live_on_without_their_source,
    racing_copies_never_bring_back_a_replaced_object,
    listings_are_in_byte_order_and_page,
    a_multipart_object_is_its_parts,
    a_multipart_upload_is_invisible_until_complete,
    a_part_sent_again_replaces_the_first,
    an_upload_with_wrong_parts_is_refused,
    aborted_uploads_leave_nothing,
    parts_are_copied_from_objects,
    small_parts_are_refused_except_the_last,
);

fn key(name: &str) -> ObjectKey {
    ObjectKey::new(name).unwrap()
}

fn bytes(len: usize, seed: u8) -> Bytes {
    (0..len)
        .map(|n| (n as u32).wrapping_mul(2_654_435_761).to_be_bytes()[0] ^ seed)
        .collect::<Vec<u8>>()
        .into()
}

fn headers(user: &[(&str, &str)]) -> ObjectHeaders {
    ObjectHeaders {
        user: user
            .iter()
            .map(|(n, v)| (n.to_string(), v.to_string()))
            .collect(),
        content_type: Some("text/x-test".into()),
        standard: BTreeMap::from([("cache-control".to_string(), "no-cache".to_string())]),
        storage_class: None,
    }
}

async fn put(store: &dyn ObjectStore, name: &str, content: impl Into<Bytes>) -> PutAnswer {
    store
        .put(
            &key(name),
            &headers(&[]),
            Body::from_bytes(content.into()),
            Overwrite::Allowed,
        )
        .await
        .unwrap()
}

async fn collect(answer: GetAnswer) -> Vec<u8> {
    let mut body = answer.body;
    let mut content = Vec::new();
    while let Some(chunk) = body.next().await {
        content.extend_from_slice(&chunk.unwrap());
    }
    assert_eq!(content.len() as u64, answer.range.end - answer.range.start);
    content
}

async fn read(store: &dyn ObjectStore, name: &str) -> Vec<u8> {
    collect(store.get(&key(name), None, None).await.unwrap()).await
}

async fn names(store: &dyn ObjectStore, prefix: &str) -> Vec<String> {
    let request = ListRequest {
        prefix: prefix.to_string(),
        ..Default::default()
    };
    let page = store.list(&request).await.unwrap();
    page.objects.into_iter().map(|object| object.key).collect()
}

const KIB: usize = 1024;

/// Sends every part and completes the upload.
async fn multipart(store: &dyn ObjectStore, name: &str, contents: &[Bytes]) -> PutAnswer {
    let key = key(name);
    let upload = store
        .create_multipart(&key, &headers(&[("a", "b")]))
        .await
        .unwrap();
    let mut parts = Vec::new();
    for (index, content) in contents.iter().enumerate() {
        let body = Body::from_bytes(content.clone());
        parts.push(
            store
                .upload_part(&key, &upload, index as u16 + 1, body)
                .await
                .unwrap(),
        );
    }
    store
        .complete_multipart(&key, &upload, &parts, Overwrite::Allowed)
        .await
        .unwrap()
}

mod cases {
    use super::*;

    type Store = Arc<dyn ObjectStore>;

    pub async fn an_object_comes_back_as_it_was_put(store: Store) {
        for len in [0, 1, 15, 4096, 65536, 65537, (1 << 20) + 1, 3_000_001] {
            let content = bytes(len, 1);
            let headers = headers(&[("mode", "33188"), ("note", "a b=c;d\"e")]);
            let before = SystemTime::now() - Duration::from_secs(2);
            let put = store
                .put(
                    &key("dir/a"),
                    &headers,
                    Body::from_bytes(content.clone()),
                    Overwrite::Allowed,
                )
                .await
                .unwrap();
            assert_eq!(put.crc64, Some(crc64::of(&content)));
            let answer = store.get(&key("dir/a"), None, None).await.unwrap();
            let head = store.head(&key("dir/a")).await.unwrap();
            for meta in [&answer.meta, &head] {
                assert_eq!(meta.size, len as u64);
                assert_eq!(meta.etag, put.etag);
                assert_eq!(meta.headers.user, headers.user);
                assert_eq!(meta.headers.content_type, headers.content_type);
                assert_eq!(meta.headers.standard, headers.standard);
                assert_eq!(meta.crc64, Some(crc64::of(&content)));
                assert!(meta.last_modified > before && meta.last_modified <= SystemTime::now());
                assert!(meta.date >= meta.last_modified && put.date >= meta.last_modified);
            }
            assert_eq!(answer.range, 0..len as u64);
            assert!(collect(answer).await == content, "{len} bytes differ");
        }
    }

    pub async fn what_does_not_exist_is_not_found(store: Store) {
        let nothing = key("nothing");
        assert!(matches!(store.head(&nothing).await, Err(Error::NotFound)));
        assert!(matches!(
            store.get(&nothing, None, None).await,
            Err(Error::NotFound)
        ));
        let copied = store
            .copy(&CopyRequest {
                source: nothing.clone(),
                source_etag: ETag::new("\"x\""),
                destination: key("b"),
                headers: CopyHeaders::Keep,
                overwrite: Overwrite::Allowed,
            })
            .await;
        assert!(matches!(copied, Err(Error::NotFound)));
        assert!(names(&*store, "").await.is_empty());
        store.bucket_info().await.unwrap();
    }

    pub async fn names_of_every_kind_are_kept_apart(store: Store) {
        let long = "x".repeat(1023);
        let long_other = format!("{}y", "x".repeat(1022));
        let wide = "ü".repeat(500);
        let mut all = vec![
            "a",
            "a/",
            "a//",
            "a/b",
            "A",
            "..a",
            "a...",
            "%2e",
            "a%2Fb",
            "a b",
            "a+b",
            "~",
            "ä",
            "a\u{308}",
            "文件/名",
            "a&b<c>",
            "quo'te\"",
            "a?b#c",
            "x\\y",
            &long,
            &long_other,
            &wide,
        ];
        for name in &all {
            put(&*store, name, name.to_string()).await;
        }
        // An HTTP library may take these for ways through folders: they work, or are refused.
        for name in [".", "..", "../a", "./a", "a/../b", "a/."] {
            let body = Body::from_bytes(name);
            match store
                .put(&key(name), &headers(&[]), body, Overwrite::Forbidden)
                .await
            {
                Ok(_) => all.push(name),
                Err(Error::InvalidName(_)) => {}
                Err(error) => panic!("{name}: {error:?}"),
            }
        }
        for name in &all {
            assert_eq!(read(&*store, name).await, name.as_bytes(), "{name}");
        }
        all.sort_unstable();
        assert_eq!(names(&*store, "").await, all);
    }

    pub async fn a_range_is_cut_at_the_end(store: Store) {
        let content = bytes(700_000, 2);
        put(&*store, "k", content.clone()).await;
        put(&*store, "empty", Bytes::new()).await;
        for (from, to) in [
            (0, 1),
            (0, 700_000),
            (5, 300_000),
            (262_143, 262_145),
            (699_999, 700_000),
            (699_999, 900_000),
            (0, u64::MAX),
        ] {
            let answer = store.get(&key("k"), Some(from..to), None).await.unwrap();
            let end = to.min(700_000);
            assert_eq!(answer.range, from..end);
            assert_eq!(answer.meta.size, 700_000);
            assert!(
                collect(answer).await == content[from as usize..end as usize],
                "{from}..{to}"
            );
        }
        for from in [700_000, 700_001, u64::MAX - 1] {
            let answer = store.get(&key("k"), Some(from..u64::MAX), None).await;
            assert!(matches!(answer, Err(Error::InvalidRange)), "{from}");
        }
        let answer = store.get(&key("empty"), Some(0..1), None).await;
        assert!(matches!(answer, Err(Error::InvalidRange)));
    }

    pub async fn a_get_under_a_condition(store: Store) {
        let first = put(&*store, "k", "one").await;
        let second = put(&*store, "k", "two").await;
        assert_ne!(first.etag, second.etag);
        let old = store.get(&key("k"), Some(0..1), Some(&first.etag)).await;
        assert!(matches!(old, Err(Error::PreconditionFailed)));
        let new = store
            .get(&key("k"), Some(0..1), Some(&second.etag))
            .await
            .unwrap();
        assert_eq!(collect(new).await, b"t");
    }

    pub async fn a_replaced_object_is_read_on_as_it_was(store: Store) {
        let content = bytes(8 << 20, 3);
        let parts: Vec<Bytes> = (0..8)
            .map(|n| content.slice(n << 20..(n + 1) << 20))
            .collect();
        put(&*store, "k", content.clone()).await;
        multipart(&*store, "m", &parts).await;
        for name in ["k", "m"] {
            let mut answer = store.get(&key(name), None, None).await.unwrap();
            let first = answer.body.next().await.unwrap().unwrap();
            put(&*store, name, "new").await;
            store.delete(&key(name)).await.unwrap();
            let rest = collect(GetAnswer {
                range: first.len() as u64..content.len() as u64,
                ..answer
            });
            assert!(rest.await == content[first.len()..], "{name}");
        }
    }

    pub async fn a_forbidden_overwrite_changes_nothing(store: Store) {
        let put_new = |text: &'static str| {
            let store = store.clone();
            async move {
                let body = Body::from_bytes(text);
                store
                    .put(&key("k"), &headers(&[]), body, Overwrite::Forbidden)
                    .await
            }
        };
        put_new("first").await.unwrap();
        assert!(matches!(put_new("second").await, Err(Error::AlreadyExists)));
        let other = put(&*store, "other", "x").await;
        let copied = store
            .copy(&CopyRequest {
                source: key("other"),
                source_etag: other.etag.clone(),
                destination: key("k"),
                headers: CopyHeaders::Keep,
                overwrite: Overwrite::Forbidden,
            })
            .await;
        assert!(matches!(copied, Err(Error::AlreadyExists)));
        let upload = store
            .create_multipart(&key("k"), &headers(&[]))
            .await
            .unwrap();
        let part = store
            .upload_part(&key("k"), &upload, 1, Body::from_bytes("y"))
            .await
            .unwrap();
        let completed = store
            .complete_multipart(&key("k"), &upload, &[part], Overwrite::Forbidden)
            .await;
        assert!(matches!(completed, Err(Error::AlreadyExists)));
        assert_eq!(read(&*store, "k").await, b"first");
        store.delete(&key("k")).await.unwrap();
        put_new("third").await.unwrap();
    }

    pub async fn of_many_exclusive_writers_one_wins(store: Store) {
        for round in 0..20 {
            let name = format!("k{round}");
            let writers = (0..8).map(|writer| {
                let (store, name) = (store.clone(), name.clone());
                tokio::spawn(async move {
                    let body = Body::from_bytes(format!("{writer}"));
                    match store
                        .put(&key(&name), &headers(&[]), body, Overwrite::Forbidden)
                        .await
                    {
                        Ok(_) => Some(writer),
                        Err(Error::AlreadyExists) => None,
                        Err(error) => panic!("{error:?}"),
                    }
                })
            });
            let outcomes = futures_util::future::join_all(writers).await;
            let winners: Vec<i32> = outcomes.into_iter().filter_map(|o| o.unwrap()).collect();
            assert_eq!(winners.len(), 1, "{winners:?}");
            assert_eq!(
                read(&*store, &name).await,
                winners[0].to_string().as_bytes()
            );
        }
    }

    pub async fn a_body_that_fails_leaves_the_old_object(store: Store) {
        put(&*store, "k", "old").await;
        let broken = Body::new(10 << 20, || {
            let good = stream::iter((0..4).map(|n| Ok(bytes(1 << 20, n))));
            let bad = stream::iter([Err(Error::Other(Arc::new(std::io::Error::other("broken"))))]);
            good.chain(bad).boxed()
        });
        let failed = store
            .put(&key("k"), &headers(&[]), broken, Overwrite::Allowed)
            .await;
        assert!(failed.is_err());
        assert_eq!(read(&*store, "k").await, b"old");
        assert_eq!(names(&*store, "").await, ["k"]);
    }

    pub async fn deleting_is_idempotent(store: Store) {
        for name in ["a", "b", "c", "d/e"] {
            put(&*store, name, "x").await;
        }
        store.delete(&key("a")).await.unwrap();
        store.delete(&key("a")).await.unwrap();
        let failed = store
            .delete_many(&[key("b"), key("nothing"), key("d/e"), key("b")])
            .await
            .unwrap();
        assert!(failed.is_empty());
        assert_eq!(names(&*store, "").await, ["c"]);
        assert!(matches!(store.head(&key("b")).await, Err(Error::NotFound)));
    }

    pub async fn a_copy_keeps_or_replaces_headers(store: Store) {
        let content = bytes(300_000, 4);
        let old = headers(&[("mode", "1"), ("x", "y")]);
        let source = store
            .put(
                &key("a"),
                &old,
                Body::from_bytes(content.clone()),
                Overwrite::Allowed,
            )
            .await
            .unwrap();
        put(&*store, "c", "in the way").await;
        let new = ObjectHeaders {
            content_type: Some("image/png".into()),
            ..headers(&[("mode", "2")])
        };
        for (to, directive, wanted) in [
            ("b", CopyHeaders::Keep, &old),
            ("c", CopyHeaders::Replace(new.clone()), &new),
        ] {
            let copied = store
                .copy(&CopyRequest {
                    source: key("a"),
                    source_etag: source.etag.clone(),
                    destination: key(to),
                    headers: directive,
                    overwrite: Overwrite::Allowed,
                })
                .await
                .unwrap();
            let answer = store.get(&key(to), None, None).await.unwrap();
            assert_eq!(answer.meta.etag, copied.etag);
            assert_eq!(answer.meta.headers.user, wanted.user);
            assert_eq!(answer.meta.headers.content_type, wanted.content_type);
            assert!(collect(answer).await == content);
        }
    }

    pub async fn a_copy_onto_itself_changes_headers_only(store: Store) {
        let parts = [bytes(100 * KIB, 5), bytes(7, 6)];
        let content = parts.concat();
        multipart(&*store, "multi", &parts).await;
        put(&*store, "single", content.clone()).await;
        put(&*store, "empty", "").await;
        for (name, content) in [
            ("multi", content.clone()),
            ("single", content),
            ("empty", Vec::new()),
        ] {
            let before = store.head(&key(name)).await.unwrap();
            let new = CopyHeaders::Replace(headers(&[("mode", "7")]));
            let copied = store
                .copy(&CopyRequest {
                    source: key(name),
                    source_etag: before.etag.clone(),
                    destination: key(name),
                    headers: new,
                    overwrite: Overwrite::Allowed,
                })
                .await
                .unwrap();
            assert_eq!(copied.etag, before.etag);
            let after = store.head(&key(name)).await.unwrap();
            assert_eq!(after.etag, before.etag);
            assert_eq!(after.headers.user, headers(&[("mode", "7")]).user);
            assert!(after.last_modified >= before.last_modified);
            assert!(read(&*store, name).await == content, "{name}");
        }
    }

    pub async fn a_copy_under_a_condition(store: Store) {
        let old = put(&*store, "a", "one").await;
        put(&*store, "a", "two").await;
        for (to, directive) in [
            ("b", CopyHeaders::Keep),
            ("a", CopyHeaders::Replace(headers(&[("mode", "9")]))),
        ] {
            let copied = store
                .copy(&CopyRequest {
                    source: key("a"),
                    source_etag: old.etag.clone(),
                    destination: key(to),
                    headers: directive,
                    overwrite: Overwrite::Allowed,
                })
                .await;
            assert!(matches!(copied, Err(Error::PreconditionFailed)), "{to}");
        }
        assert!(matches!(store.head(&key("b")).await, Err(Error::NotFound)));
        assert!(store.head(&key("a")).await.unwrap().headers.user.is_empty());
    }

    pub async fn copies_live_on_without_their_source(store: Store) {
        let parts = [bytes(200 * KIB, 7), bytes(200 * KIB, 8)];
        let multi = multipart(&*store, "multi", &parts).await;
        let single = put(&*store, "single", bytes(300_000, 9)).await;
        for (name, etag, content) in [
            ("multi", multi.etag, parts.concat()),
            ("single", single.etag, bytes(300_000, 9).to_vec()),
        ] {
            for to in ["copy", "other copy"] {
                store
                    .copy(&CopyRequest {
                        source: key(name),
                        source_etag: etag.clone(),
                        destination: key(to),
                        headers: CopyHeaders::Keep,
                        overwrite: Overwrite::Allowed,
                    })
                    .await
                    .unwrap();
            }
            store.delete(&key(name)).await.unwrap();
            put(&*store, "copy", "replaced").await;
            assert!(read(&*store, "other copy").await == content, "{name}");
        }
    }

    /// The reason why every copy carries a precondition: else one client's chmod brings back what another
    /// has just replaced.
    pub async fn racing_copies_never_bring_back_a_replaced_object(store: Store) {
        for round in 0..50 {
            let first = put(&*store, "k", format!("first {round}")).await;
            let writer = {
                let store = store.clone();
                tokio::spawn(async move { put(&*store, "k", format!("second {round}")).await })
            };
            let copy = store
                .copy(&CopyRequest {
                    source: key("k"),
                    source_etag: first.etag.clone(),
                    destination: key("k"),
                    headers: CopyHeaders::Replace(headers(&[("mode", "1")])),
                    overwrite: Overwrite::Allowed,
                })
                .await;
            assert!(
                matches!(copy, Ok(_) | Err(Error::PreconditionFailed)),
                "{copy:?}"
            );
            writer.await.unwrap();
            let answer = store.get(&key("k"), None, None).await.unwrap();
            assert!(answer.meta.headers.user.is_empty());
            assert_eq!(collect(answer).await, format!("second {round}").as_bytes());
        }
    }

    pub async fn listings_are_in_byte_order_and_page(store: Store) {
        let all = [
            "a", "a!", "a/", "a/1", "a/2/3", "a/2/4", "a0", "b/1", "c", "ä/1", "文",
        ];
        for name in all {
            put(&*store, name, name.to_string()).await;
        }
        let list =
            async |prefix: &str, delimited: bool, start_after: Option<&str>, max_keys: u16| {
                let mut request = ListRequest {
                    prefix: prefix.to_string(),
                    delimited,
                    start_after: start_after.map(str::to_string),
                    token: None,
                    max_keys,
                };
                let (mut objects, mut prefixes) = (Vec::new(), Vec::new());
                loop {
                    let page = store.list(&request).await.unwrap();
                    let count = page.objects.len() + page.prefixes.len();
                    assert!(max_keys == 0 || count <= usize::from(max_keys));
                    for object in page.objects {
                        assert_eq!(object.size, object.key.len() as u64);
                        objects.push(object.key);
                    }
                    prefixes.extend(page.prefixes);
                    match page.next {
                        Some(token) => {
                            assert!(count > 0, "a page that leads on has something on it");
                            request.token = Some(token);
                        }
                        None => return (objects, prefixes),
                    }
                }
            };
        type Case<'a> = (&'a str, bool, Option<&'a str>, &'a [&'a str], &'a [&'a str]);
        let cases: &[Case] = &[
            ("", false, None, &all, &[]),
            (
                "",
                true,
                None,
                &["a", "a!", "a0", "c", "文"],
                &["a/", "b/", "ä/"],
            ),
            ("a/", true, None, &["a/", "a/1"], &["a/2/"]),
            ("a/", false, None, &["a/", "a/1", "a/2/3", "a/2/4"], &[]),
            ("a/", false, Some("a/1"), &["a/2/3", "a/2/4"], &[]),
            ("", false, Some("b/"), &["b/1", "c", "ä/1", "文"], &[]),
            ("a", true, None, &["a", "a!", "a0"], &["a/"]),
            ("zzz", true, None, &[], &[]),
        ];
        for (prefix, delimited, start_after, objects, prefixes) in cases {
            for max in [1, 2, 3, 1000, 0] {
                let listed = list(prefix, *delimited, *start_after, max).await;
                let case = format!("{prefix:?} {delimited} {start_after:?} {max}");
                assert_eq!(&listed.0, objects, "{case}");
                assert_eq!(&listed.1, prefixes, "{case}");
            }
        }
    }

    pub async fn a_multipart_object_is_its_parts(store: Store) {
        let parts: Vec<Bytes> = [300 * KIB, 100 * KIB, 700 * KIB, 1]
            .into_iter()
            .enumerate()
            .map(|(n, len)| bytes(len, n as u8))
            .collect();
        let content = parts.concat();
        put(&*store, "k", "old").await;
        let answer = multipart(&*store, "k", &parts).await;
        assert_eq!(answer.crc64, Some(crc64::of(&content)));
        let head = store.head(&key("k")).await.unwrap();
        assert_eq!(head.etag, answer.etag);
        assert_eq!(head.size, content.len() as u64);
        assert_eq!(head.crc64, Some(crc64::of(&content)));
        assert_eq!(head.headers.user, headers(&[("a", "b")]).user);
        assert_eq!(head.headers.content_type, headers(&[]).content_type);
        assert!(read(&*store, "k").await == content);
        for (from, to) in [
            (0, 1),
            (307_199, 307_201),
            (300_000, 1_000_000),
            (content.len() - 2, content.len()),
        ] {
            let range = Some(from as u64..to as u64);
            let part = collect(store.get(&key("k"), range, None).await.unwrap()).await;
            assert!(part == content[from..to], "{from}..{to}");
        }
        assert!(store.list_uploads("").await.unwrap().is_empty());
    }

    pub async fn a_multipart_upload_is_invisible_until_complete(store: Store) {
        let key = key("dir/k");
        let upload = store.create_multipart(&key, &headers(&[])).await.unwrap();
        let part = store
            .upload_part(&key, &upload, 7, Body::from_bytes("x"))
            .await
            .unwrap();
        assert!(names(&*store, "").await.is_empty());
        let pending = store.list_uploads("dir/").await.unwrap();
        assert_eq!(pending.len(), 1);
        assert_eq!(
            (pending[0].key.as_str(), &pending[0].upload),
            ("dir/k", &upload)
        );
        assert!(store.list_uploads("other").await.unwrap().is_empty());
        store
            .complete_multipart(&key, &upload, &[part], Overwrite::Allowed)
            .await
            .unwrap();
        assert_eq!(names(&*store, "").await, ["dir/k"]);
    }

    pub async fn a_part_sent_again_replaces_the_first(store: Store) {
        let key = key("k");
        let upload = store.create_multipart(&key, &headers(&[])).await.unwrap();
        let first = store
            .upload_part(&key, &upload, 1, Body::from_bytes("first"))
            .await
            .unwrap();
        let second = store
            .upload_part(&key, &upload, 1, Body::from_bytes("second"))
            .await
            .unwrap();
        let stale = store
            .complete_multipart(&key, &upload, &[first], Overwrite::Allowed)
            .await;
        assert!(stale.is_err());
        store
            .complete_multipart(&key, &upload, &[second], Overwrite::Allowed)
            .await
            .unwrap();
        assert_eq!(read(&*store, "k").await, b"second");
    }

    pub async fn an_upload_with_wrong_parts_is_refused(store: Store) {
        let name = key("k");
        let upload = store.create_multipart(&name, &headers(&[])).await.unwrap();
        let one = store
            .upload_part(&name, &upload, 1, Body::from_bytes(bytes(100 * KIB, 1)))
            .await
            .unwrap();
        let two = store
            .upload_part(&name, &upload, 2, Body::from_bytes("2"))
            .await
            .unwrap();
        let missing = UploadedPart {
            number: 3,
            ..two.clone()
        };
        let wrong = UploadedPart {
            etag: ETag::new("\"0123456789ABCDEF0123456789ABCDEF\""),
            ..two.clone()
        };
        for parts in [
            vec![],
            vec![two.clone(), one.clone()],
            vec![one.clone(), missing],
            vec![one.clone(), wrong],
        ] {
            let refused = store
                .complete_multipart(&name, &upload, &parts, Overwrite::Allowed)
                .await;
            assert!(refused.is_err(), "{parts:?}");
        }
        assert!(names(&*store, "").await.is_empty());
        let nobody = UploadId("0123456789abcdef0123456789abcdef".into());
        let sent = store
            .upload_part(&name, &nobody, 1, Body::from_bytes("x"))
            .await;
        assert!(matches!(sent, Err(Error::NoSuchUpload)));
        let other = store
            .upload_part(&key("other"), &upload, 1, Body::from_bytes("x"))
            .await;
        assert!(matches!(other, Err(Error::NoSuchUpload)));
        store
            .complete_multipart(&name, &upload, &[one, two], Overwrite::Allowed)
            .await
            .unwrap();
    }

    pub async fn aborted_uploads_leave_nothing(store: Store) {
        let key = key("k");
        let upload = store.create_multipart(&key, &headers(&[])).await.unwrap();
        let part = store
            .upload_part(&key, &upload, 1, Body::from_bytes("x"))
            .await
            .unwrap();
        store.abort_multipart(&key, &upload).await.unwrap();
        store.abort_multipart(&key, &upload).await.unwrap();
        assert!(store.list_uploads("").await.unwrap().is_empty());
        let completed = store
            .complete_multipart(&key, &upload, &[part], Overwrite::Allowed)
            .await;
        assert!(matches!(completed, Err(Error::NoSuchUpload)));
        assert!(names(&*store, "").await.is_empty());
    }

    pub async fn parts_are_copied_from_objects(store: Store) {
        let content = bytes(500 * KIB, 11);
        let source = put(&*store, "source", content.clone()).await;
        let name = key("k");
        let upload = store.create_multipart(&name, &headers(&[])).await.unwrap();
        let from = key("source");
        let one = store
            .copy_part(&CopyPartRequest {
                key: name.clone(),
                upload: upload.clone(),
                number: 1,
                source: from.clone(),
                source_etag: source.etag.clone(),
                range: 50..400 * KIB as u64,
            })
            .await
            .unwrap();
        let two = store
            .upload_part(&name, &upload, 2, Body::from_bytes("end"))
            .await
            .unwrap();
        let stale = store
            .copy_part(&CopyPartRequest {
                key: name.clone(),
                upload: upload.clone(),
                number: 3,
                source: from.clone(),
                source_etag: two.etag.clone(),
                range: 0..100,
            })
            .await;
        assert!(matches!(stale, Err(Error::PreconditionFailed)));
        store
            .complete_multipart(&name, &upload, &[one, two], Overwrite::Allowed)
            .await
            .unwrap();
        let wanted = [&content[50..400 * KIB], b"end"].concat();
        assert!(read(&*store, "k").await == wanted);
    }

    pub async fn small_parts_are_refused_except_the_last(store: Store) {
        let key = key("k");
        let upload = store.create_multipart(&key, &headers(&[])).await.unwrap();
        let mut parts = Vec::new();
        for number in [1, 2] {
            let body = Body::from_bytes(bytes(100 * KIB - 1, 1));
            parts.push(
                store
                    .upload_part(&key, &upload, number, body)
                    .await
                    .unwrap(),
            );
        }
        let refused = store
            .complete_multipart(&key, &upload, &parts, Overwrite::Allowed)
            .await;
        assert!(refused.is_err());
        store
            .complete_multipart(&key, &upload, &parts[..1], Overwrite::Allowed)
            .await
            .unwrap();
    }
}

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
