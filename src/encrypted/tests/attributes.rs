//! Attributes and extended attributes, which travel with the content.

use super::*;

#[tokio::test]
async fn a_write_only_bucket_keeps_no_key() {
    let (_, bucket) = setup(Format::Seed, KeyRing::write_only(PAIR.public().clone()));
    assert!(!bucket.can_read());
    let uploaded = put(&bucket, &Plaintext::from_bytes(content(10)))
        .await
        .unwrap();
    assert!(uploaded.object.cipher().is_none());
    let error = bucket.unlock(&uploaded.object).await.err().unwrap();
    assert!(matches!(error, Error::KeyMissing(_)), "{error}");
}

#[tokio::test]
async fn extended_attributes_go_with_the_content() {
    let (memory, bucket) = setup(Format::Seed, ring());
    let mut xattrs = Xattrs::new();
    xattrs.set("user.comment", b"hello").unwrap();
    let mut headers = ObjectHeaders::default();
    headers.user.insert("mode".into(), "33188".into());
    headers.user.insert("ossvault-rdev".into(), "5".into());
    let plain = Plaintext::empty();
    let uploaded = bucket
        .put(&key(), &plain, headers, Some(&xattrs), Overwrite::Allowed)
        .await
        .unwrap();
    let opened = bucket
        .open_xattrs(&uploaded.object, &uploaded.headers)
        .await;
    assert_eq!(opened.unwrap(), xattrs);

    // Changed with the same envelope, as a copy would carry it.
    let mut headers = uploaded.headers.clone();
    xattrs.set("user.b", b"c").unwrap();
    bucket.seal_xattrs(&xattrs, &mut headers).unwrap();
    let copy = uploaded.object.with_etag(ETag::new("\"2\""));
    assert_eq!(bucket.open_xattrs(&copy, &headers).await.unwrap(), xattrs);
    bucket.seal_xattrs(&Xattrs::new(), &mut headers).unwrap();
    assert!(!headers.user.contains_key("ossvault-xattr"));

    // New content keeps the attributes that are not encrypted, and nothing of the old envelope.
    let again = bucket
        .put(
            &key(),
            &plain,
            uploaded.headers.clone(),
            None,
            Overwrite::Allowed,
        )
        .await
        .unwrap();
    assert_eq!(again.headers.user["mode"], "33188");
    assert_eq!(again.headers.user["ossvault-rdev"], "5");
    assert!(!again.headers.user.contains_key("ossvault-xattr"));
    assert_ne!(
        again.headers.user["x-oss-key"],
        uploaded.headers.user["x-oss-key"]
    );

    memory.memory.change("k", |_, headers| {
        headers
            .user
            .insert("ossvault-xattr".into(), "1.AAAA".into());
    });
    let meta = memory.head(&key()).await.unwrap();
    let error = bucket
        .open_xattrs(&again.object, &meta.headers)
        .await
        .err()
        .unwrap();
    assert!(matches!(error, Error::Damaged(_)), "{error}");
}

/// An object whose data key is 00 01 .. 1f, with `user.comment` as earlier versions encrypted it.
fn with_version_1_xattrs() -> ObjectHeaders {
    const SEALED: &str = "1.AAECAwQFBgcICQoLnVwddbm1qfnTfnhCYrUrf6rxdw0gWd1zxOVU6PtIXiLzUa5SRIOoAcOTrg6ioB09Xx7jZjZ5VgdYJPx9i03eyvj6D40sQy0PkjT3Xz7ABsU";
    let cipher = ContentCipher::new(
        DataKey::from_slice(&std::array::from_fn::<u8, 32, _>(|i| i as u8)).unwrap(),
        CounterStart::from_be_bytes([0, 1, 2, 3, 4, 5, 6, 7, 0, 0, 0, 0, 8, 9, 10, 11]),
    );
    let mut user = write::write(Format::Seed, PAIR.public(), &cipher, None).unwrap();
    user.insert("ossvault-xattr".into(), SEALED.into());
    ObjectHeaders {
        user,
        ..ObjectHeaders::default()
    }
}

/// Regression: they were encrypted under the object's data key, which is known to anyone who planted the
/// object.
#[tokio::test]
async fn extended_attributes_of_version_1_are_read_and_change_to_version_2() {
    let (memory, bucket) = setup(Format::Seed, ring());
    let mut headers = with_version_1_xattrs();
    memory
        .put(&key(), &headers, Body::empty(), Overwrite::Allowed)
        .await
        .unwrap();
    let object = bucket.object(&memory.head(&key()).await.unwrap()).unwrap();
    let mut xattrs = bucket.open_xattrs(&object, &headers).await.unwrap();
    assert_eq!(xattrs.get("user.comment"), Some(b"hello".as_slice()));
    assert!(!bucket.opens_xattrs(&object, &headers).await);
    xattrs.set("user.comment", b"later").unwrap();
    bucket.seal_xattrs(&xattrs, &mut headers).unwrap();
    assert!(headers.user["ossvault-xattr"].starts_with("2."));
    assert_eq!(bucket.open_xattrs(&object, &headers).await.unwrap(), xattrs);
    assert!(bucket.opens_xattrs(&object, &headers).await);
    // They cannot be opened with another envelope.
    let other = bucket
        .put(
            &key(),
            &Plaintext::empty(),
            ObjectHeaders::default(),
            None,
            Overwrite::Allowed,
        )
        .await
        .unwrap();
    let error = bucket.open_xattrs(&other.object, &headers).await.err();
    assert!(matches!(error, Some(Error::Damaged(_))), "{error:?}");
}

#[tokio::test]
async fn an_empty_object_gets_a_fresh_envelope_with_every_change_of_its_attributes() {
    let (_, bucket) = setup(Format::Seed, ring());
    let mut xattrs = Xattrs::new();
    xattrs.set("user.a", b"b").unwrap();
    let before = with_version_1_xattrs();
    let after = bucket.headers_with(before.clone(), &xattrs).unwrap();
    assert_ne!(after.user["x-oss-key"], before.user["x-oss-key"]);
    assert_eq!(after.user["ossvault-v"], "2");
    let none = bucket.headers_with(after, &Xattrs::new()).unwrap();
    assert!(none.user.is_empty(), "{none:?}");
}

/// The maximum metadata of one object: the largest key, both halves of an envelope, as many and as long
/// extended attributes as allowed, every attribute.
#[tokio::test]
async fn the_metadata_of_an_object_fits_into_the_services_limit() {
    const SERVICE: usize = 8 << 10;
    let pair = KeyPair::generate(4096).unwrap();
    let (_, bucket) = setup(Format::Dual, KeyRing::write_only(pair.public().clone()));
    let mut one = Xattrs::new();
    one.set("user.a", &[1; Xattrs::MAX_BYTES - 6]).unwrap();
    let mut many = Xattrs::new();
    for index in 0..Xattrs::MAX_COUNT {
        many.set(&format!("user.{index:03}"), b"").unwrap();
    }
    for xattrs in [one, many] {
        let mut headers = ObjectHeaders::default();
        let time = "-9223372036854775808.999999999";
        for (name, value) in [
            ("mode", "4294967295"),
            ("uid", "4294967295"),
            ("gid", "4294967295"),
            ("mtime", time),
            ("ctime", time),
            ("atime", time),
            ("ossvault-rdev", "4294967295"),
        ] {
            headers.user.insert(name.into(), value.into());
        }
        let sizes = MultipartSizes {
            total: 48 << 40,
            part: 5 << 30,
        };
        let upload = bucket
            .begin_sized_upload(&key(), headers, Some(&xattrs), sizes)
            .await
            .unwrap();
        let mut user = upload.headers().user.clone();
        user.insert("ossvault-rewrapped".into(), "1".into());
        let lengths = user
            .iter()
            .map(|(name, value)| "x-oss-meta-".len() + name.len() + value.len());
        let length: usize = lengths.sum();
        assert!(length < SERVICE, "{length}");
    }
}
