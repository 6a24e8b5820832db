//! Objects: put, read, replaced, deleted.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use ossvault::base::crc64;
use ossvault::store::error::Error;
use ossvault::store::object_store::*;

use super::super::{Store, bytes, collect, headers, key, multipart, names, put, read};

pub(crate) async fn an_object_comes_back_as_it_was_put(store: Store) {
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

pub(crate) async fn what_does_not_exist_is_not_found(store: Store) {
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

pub(crate) async fn names_of_every_kind_are_kept_apart(store: Store) {
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

pub(crate) async fn a_range_is_cut_at_the_end(store: Store) {
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

pub(crate) async fn a_get_under_a_condition(store: Store) {
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

pub(crate) async fn a_replaced_object_is_read_on_as_it_was(store: Store) {
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

pub(crate) async fn a_forbidden_overwrite_changes_nothing(store: Store) {
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

pub(crate) async fn of_many_exclusive_writers_one_wins(store: Store) {
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

pub(crate) async fn a_body_that_fails_leaves_the_old_object(store: Store) {
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

pub(crate) async fn deleting_is_idempotent(store: Store) {
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
