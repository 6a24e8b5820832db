//! The definition of an `ObjectStore`: one suite, run on every implementation.

mod cases;
mod folder;
pub(crate) mod large;
mod processes;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use ossvault::oss::client as oss_client;
use ossvault::oss::client::Client;
use ossvault::oss::credentials::AccessKey;
use ossvault::oss::endpoint::{Endpoint, Options};
use ossvault::oss::sign::Version;
use ossvault::server::endpoint::Server;
use ossvault::server::state::Config;
use ossvault::store::local::{LocalStore, Settings};
use ossvault::store::object_store::*;
use ossvault_testing::{InstrumentedStore, MemoryStore};

/// A store to test, and its underlying resources.
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

/// The replacement of a bucket in unit tests.
fn memory() -> Home {
    Home {
        store: Arc::new(MemoryStore::with_minimum_parts()),
        _server: None,
        _folder: tempfile::tempdir().unwrap(),
    }
}

/// Two instances on one folder that take turns: each call sees the other one's changes.
fn two_instances() -> Home {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (open(&folder, false), open(&folder, false));
    Home {
        store: InstrumentedStore::in_turn(vec![Arc::new(one), Arc::new(two)]),
        _server: None,
        _folder: folder,
    }
}

/// The client, through the server. `version` is the signature version.
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

/// Any store.
type Store = Arc<dyn ObjectStore>;

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
