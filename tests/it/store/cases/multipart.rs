//! Multipart uploads.

use bytes::Bytes;
use ossvault::base::crc64;
use ossvault::store::error::Error;
use ossvault::store::object_store::*;

use super::super::{KIB, Store, bytes, collect, headers, key, multipart, names, put, read};

pub(crate) async fn a_multipart_object_is_its_parts(store: Store) {
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

pub(crate) async fn a_multipart_upload_is_invisible_until_complete(store: Store) {
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

pub(crate) async fn a_part_sent_again_replaces_the_first(store: Store) {
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

pub(crate) async fn an_upload_with_wrong_parts_is_refused(store: Store) {
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

pub(crate) async fn aborted_uploads_leave_nothing(store: Store) {
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

pub(crate) async fn parts_are_copied_from_objects(store: Store) {
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

pub(crate) async fn small_parts_are_refused_except_the_last(store: Store) {
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
