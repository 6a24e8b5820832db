//! Uploads in parts.

use super::*;

#[tokio::test]
async fn parts_in_any_order_make_one_object() {
    let (memory, bucket) = setup(Format::Seed, ring());
    let bytes = content(700_001);
    let plain = chunked(bytes.clone());
    let upload = begin(&bucket).await;
    let (a, b, c) = tokio::join!(
        upload.part(3, 400_000..700_001, &plain),
        upload.part(1, 0..200_000, &plain),
        upload.part(2, 200_000..400_000, &plain),
    );
    a.and(b).and(c).unwrap();
    let uploaded = upload.complete(Overwrite::Allowed).await.unwrap();
    assert_eq!(uploaded.object.size, 700_001);
    assert_eq!(uploaded.object.crc64, Some(crc64::of(&memory.stored("k"))));
    assert_eq!(read_back(&bucket, None).await.unwrap(), bytes);
    // The upload is used up.
    let error = upload
        .part(4, 700_001..700_001, &plain)
        .await
        .err()
        .unwrap();
    assert!(matches!(error, Error::Abandoned(_)), "{error}");
    assert!(upload.complete(Overwrite::Allowed).await.is_err());
}

#[tokio::test]
async fn a_part_sent_again_is_the_same_or_an_error() {
    let (memory, bucket) = setup(Format::Seed, ring());
    let plain = chunked(content(300_000));
    let upload = begin(&bucket).await;
    upload.part(1, 0..160_000, &plain).await.unwrap();
    let before = memory.seen.lock().unwrap().len();
    upload.part(1, 0..160_000, &plain).await.unwrap();

    let mut other = content(300_000).to_vec();
    other[159_999] ^= 1;
    let other = chunked(other.into());
    for (number, range, plain) in [
        (1, 0..160_000, &other),
        (1, 0..159_984, &plain),
        (2, 0..160_000, &plain),
        (2, 159_984..300_000, &plain),
        (2, 32..64, &plain),
        (2, 160_001..300_000, &plain),
        (2, 160_000..300_001, &plain),
        (2, 160_000..160_000, &plain),
        (0, 160_000..300_000, &plain),
        (10_001, 160_000..300_000, &plain),
    ] {
        let error = upload.part(number, range.clone(), plain).await.err();
        assert!(
            matches!(error, Some(Error::Abandoned(_))),
            "{number} {range:?}"
        );
    }
    assert_eq!(
        memory.seen.lock().unwrap().len(),
        before,
        "something was sent"
    );
    // A gap does not make an object.
    upload.part(3, 200_000..300_000, &plain).await.unwrap();
    assert!(upload.complete(Overwrite::Allowed).await.is_err());
    upload.part(2, 160_000..200_000, &plain).await.unwrap();
    upload.complete(Overwrite::Allowed).await.unwrap();
}

#[tokio::test]
async fn an_upload_that_was_aborted_encrypts_nothing_more() {
    let (_, bucket) = setup(Format::Seed, ring());
    let upload = begin(&bucket).await;
    upload.abort().await.unwrap();
    let error = upload
        .part(1, 0..10, &Plaintext::from_bytes(content(10)))
        .await;
    assert!(matches!(error.err(), Some(Error::Abandoned(_))));
}

#[tokio::test]
async fn the_sdk_names_need_the_sizes_first() {
    for format in [Format::Sdk, Format::Dual] {
        let (memory, bucket) = setup(format, ring());
        let begun = bucket
            .begin_upload(&key(), ObjectHeaders::default(), None)
            .await;
        assert!(matches!(begun.err(), Some(Error::Unsupported(_))));
        let sizes = |total, part| MultipartSizes { total, part };
        for bad in [
            sizes(0, 16),
            sizes(10, 0),
            sizes(100, 24),
            sizes(160_001, 16),
        ] {
            let begun = bucket
                .begin_sized_upload(&key(), ObjectHeaders::default(), None, bad)
                .await;
            assert!(begun.is_err(), "{bad:?}");
        }
        let plain = chunked(content(250_000));
        let upload = bucket
            .begin_sized_upload(
                &key(),
                ObjectHeaders::default(),
                None,
                sizes(250_000, 102_400),
            )
            .await
            .unwrap();
        for (name, value) in [
            ("client-side-encryption-data-size", "250000"),
            ("client-side-encryption-part-size", "102400"),
        ] {
            assert_eq!(memory.headers.lock().unwrap().user[name], value);
        }
        assert!(upload.part(1, 0..200_000, &plain).await.is_err());
        for (number, range) in [
            (1, 0..102_400),
            (2, 102_400..204_800),
            (3, 204_800..250_000),
        ] {
            upload.part(number, range, &plain).await.unwrap();
        }
        upload.complete(Overwrite::Allowed).await.unwrap();
        assert_eq!(read_back(&bucket, None).await.unwrap(), content(250_000));
    }
}
