//! Objects that are uploaded again because their headers cannot be changed in place.

use super::*;

/// "The version is checked once more right before: a newer one that another client uploaded is kept."
///
/// A body on its way was all that stood between the version that was read and one that replaced it.
#[tokio::test]
async fn an_object_uploaded_again_never_replaces_a_newer_version() {
    // In one piece, and in parts.
    for len in [3000, 3 << 20] {
        let (memory, bucket) = setup(Format::Sdk, ring());
        let change = async |next: Option<&'static [u8]>| {
            put(&bucket, &chunked(content(len))).await.unwrap();
            let meta = memory.head(&key()).await.unwrap();
            let mut headers = meta.headers.clone();
            headers.content_type = Some("text/plain".into());
            *memory.next.lock().unwrap() = next.map(Bytes::from_static);
            let replace = CopyHeaders::Replace(headers);
            let limits = copy::CopyLimits::default();
            bucket
                .copy(&key(), &meta, &key(), replace, Overwrite::Allowed, limits)
                .await
        };
        let refused = change(Some(b"newer")).await.err().unwrap();
        assert!(
            matches!(refused, StoreError::PreconditionFailed),
            "{refused}"
        );
        assert_eq!(memory.stored("k"), b"newer"[..]);
        // An object that is not replaced is changed.
        change(None).await.unwrap();
        let now = memory.head(&key()).await.unwrap().headers;
        assert_eq!(now.content_type.as_deref(), Some("text/plain"));
        assert!(read_back(&bucket, None).await.unwrap() == content(len));
    }
}

/// Uploads an object with the SDK's names again, with another entry among its headers.
async fn send_again(bucket: &EncryptedBucket, meta: &ObjectMeta, held: u64) -> Result<PutAnswer> {
    let mut headers = meta.headers.clone();
    headers.user.insert("mode".into(), "33188".into());
    let limits = copy::CopyLimits {
        held,
        ..copy::CopyLimits::default()
    };
    let replace = CopyHeaders::Replace(headers);
    bucket
        .copy(&key(), meta, &key(), replace, Overwrite::Allowed, limits)
        .await
}

/// Regression: the list of the parts was created before the first was sent, and its length came from the
/// bucket: one entry for each byte of a large object.
#[tokio::test]
async fn the_part_size_that_an_object_announces_is_not_trusted() {
    let (memory, bucket) = setup(Format::Sdk, ring());
    let plain = content(300_000);
    put(&bucket, &Plaintext::from_bytes(plain.clone()))
        .await
        .unwrap();
    for announced in [
        "1",
        "16",
        "0",
        "-1",
        "7",
        "262144",
        "18446744073709551615",
        "x",
        "",
    ] {
        memory.memory.change("k", |_, headers| {
            let user = &mut headers.user;
            user.insert("client-side-encryption-part-size".into(), announced.into());
            user.insert("client-side-encryption-data-size".into(), announced.into());
        });
        memory.parts.lock().unwrap().clear();
        let meta = memory.head(&key()).await.unwrap();
        send_again(&bucket, &meta, 1000).await.unwrap();
        assert_eq!(memory.parts.lock().unwrap().len(), 1, "{announced:?}");
        let meta = memory.head(&key()).await.unwrap();
        let user = &meta.headers.user;
        let part = &user["client-side-encryption-part-size"];
        assert_eq!(part.parse::<u64>().unwrap() % 16, 0, "{announced:?}");
        assert_eq!(user["client-side-encryption-data-size"], "300000");
        assert_eq!(user["mode"], "33188");
        assert_eq!(read_back(&bucket, None).await.unwrap(), plain);
    }
}

/// Regression: it was completed and then compared: a good object was replaced by whatever the store had just
/// returned.
#[tokio::test]
async fn an_object_uploaded_again_is_compared_with_its_checksum_before_it_is_published() {
    let (memory, bucket) = setup(Format::Dual, ring());
    let plain = content(20_000);
    put(&bucket, &Plaintext::from_bytes(plain.clone()))
        .await
        .unwrap();
    let (before, mut puts) = (memory.stored("k"), memory.count(Call::Put));
    let meta = memory.head(&key()).await.unwrap();
    // Held in memory, and in parts.
    for held in [1 << 20, 1000] {
        memory.flips.store(true, Ordering::Relaxed);
        let error = send_again(&bucket, &meta, held).await.unwrap_err();
        assert!(matches!(error, StoreError::Corrupt(_)), "{held}: {error}");
        assert_eq!(memory.stored("k"), before, "{held}");
        assert_eq!(memory.count(Call::Put), puts, "{held}");
        memory.flips.store(false, Ordering::Relaxed);
        // A retry reads again, and the last reading counts.
        memory.attempts.store(2, Ordering::Relaxed);
        send_again(&bucket, &meta, held).await.unwrap();
        assert_eq!(read_back(&bucket, None).await.unwrap(), plain);
        memory.attempts.store(0, Ordering::Relaxed);
        puts = memory.count(Call::Put);
    }
}
