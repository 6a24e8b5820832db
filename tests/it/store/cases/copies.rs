//! Copies of objects.

use ossvault::store::error::Error;
use ossvault::store::object_store::*;

use super::super::{KIB, Store, bytes, collect, headers, key, multipart, put, read};

pub(crate) async fn a_copy_keeps_or_replaces_headers(store: Store) {
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

pub(crate) async fn a_copy_onto_itself_changes_headers_only(store: Store) {
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

pub(crate) async fn a_copy_under_a_condition(store: Store) {
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

pub(crate) async fn copies_live_on_without_their_source(store: Store) {
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
pub(crate) async fn racing_copies_never_bring_back_a_replaced_object(store: Store) {
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
