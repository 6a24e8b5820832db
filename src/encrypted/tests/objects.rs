//! Reading what was written, and what cannot be opened.

use super::*;

#[tokio::test]
async fn objects_read_back_whole_and_by_range() {
    for format in [Format::Seed, Format::Sdk, Format::Dual] {
        let (memory, bucket) = setup(format, ring());
        for len in [0, 1, 15, 16, 17, 131_071, 131_072, 131_073, 400_000] {
            let bytes = content(len);
            let uploaded = put(&bucket, &chunked(bytes.clone())).await.unwrap();
            let stored = memory.stored("k");
            assert_eq!(stored.len(), len);
            assert!(len < 16 || stored != bytes);
            assert_eq!(uploaded.object.size, len as u64);
            assert_eq!(uploaded.object.crc64, Some(crc64::of(&stored)));
            assert_eq!(uploaded.headers, memory.head(&key()).await.unwrap().headers);
            // The key is available, and it is the right one.
            let mut plain = vec![0; len];
            let cipher = uploaded.object.cipher().expect("kept");
            cipher.apply(0, &stored, &mut plain).unwrap();
            assert_eq!(plain, bytes);

            assert_eq!(read_back(&bucket, None).await.unwrap(), bytes);
            for range in [0..1, 5..17, 131_000..131_100, 1..400_000] {
                if range.start < len as u64 {
                    let end = range.end.min(len as u64) as usize;
                    let expected = &bytes[range.start as usize..end];
                    assert_eq!(read_back(&bucket, Some(range)).await.unwrap(), expected);
                }
            }
        }
    }
}

#[tokio::test]
async fn every_upload_has_its_own_key_and_start() {
    let (memory, bucket) = setup(Format::Seed, ring());
    let plain = Plaintext::from_bytes(vec![0; 64]);
    let a = put(&bucket, &plain).await.unwrap();
    let first = memory.stored("k");
    let b = put(&bucket, &plain).await.unwrap();
    assert_ne!(first, memory.stored("k"));
    assert!(!a.object.same_envelope(&b.object));
}

#[tokio::test]
async fn a_retry_sends_the_same_bytes() {
    let (memory, bucket) = setup(Format::Seed, ring());
    memory.attempts.store(2, Ordering::Relaxed);
    let bytes = content(300_000);
    put(&bucket, &chunked(bytes.clone())).await.unwrap();
    let seen: Vec<u8> = memory.seen.lock().unwrap().concat();
    let stored = memory.stored("k");
    assert_eq!(seen, [&stored[..], &stored, &stored].concat());
    assert_eq!(read_back(&bucket, None).await.unwrap(), bytes);
}

/// The same length each time, with byte `at` different from the second reading on.
fn changing(len: usize, at: usize) -> Plaintext {
    let readings = AtomicUsize::new(0);
    Plaintext::new(len as u64, move |range| {
        let mut bytes = content(len).to_vec();
        if readings.fetch_add(1, Ordering::Relaxed) > 0 {
            bytes[at] ^= 1;
        }
        let piece = Bytes::from(bytes).slice(range.start as usize..range.end as usize);
        stream::once(async move { Ok(piece) }).boxed()
    })
}

#[tokio::test]
async fn a_retry_with_other_bytes_is_never_sent() {
    for at in [0, 200_000, 299_999] {
        let (memory, bucket) = setup(Format::Seed, ring());
        memory.attempts.store(1, Ordering::Relaxed);
        let error = put(&bucket, &changing(300_000, at)).await.err().unwrap();
        assert!(matches!(error, Error::Abandoned(_)), "{error}");
        // The differing strip was not sent.
        let seen = memory.seen.lock().unwrap();
        let whole = strips::STRIP;
        let strips_before = at / whole;
        assert_eq!(
            seen.len(),
            300_000usize.div_ceil(whole) + strips_before,
            "{at}"
        );
        assert!(memory.memory.is_empty());
    }
}

#[tokio::test]
async fn content_of_another_length_is_not_sent_as_if_it_were_whole() {
    for (said, is) in [
        (100u64, 99usize),
        (100, 101),
        (300_000, 131_072),
        (131_072, 131_073),
    ] {
        let (memory, bucket) = setup(Format::Seed, ring());
        let plain = Plaintext::new(said, move |_| {
            stream::once(async move { Ok(content(is)) }).boxed()
        });
        let error = put(&bucket, &plain).await.err().unwrap();
        assert!(matches!(error, Error::Abandoned(_)), "{said} {is}: {error}");
        assert!(memory.memory.is_empty());
    }
}

#[tokio::test]
async fn a_store_that_received_other_data_is_detected() {
    let (memory, bucket) = setup(Format::Seed, ring());
    memory.lies_about_crc.store(true, Ordering::Relaxed);
    let plain = Plaintext::from_bytes(content(100));
    let error = put(&bucket, &plain).await.err().unwrap();
    assert!(
        matches!(error, Error::Store(StoreError::Corrupt(_))),
        "{error}"
    );
    let upload = begin(&bucket).await;
    let error = upload.part(1, 0..100, &plain).await.err().unwrap();
    assert!(
        matches!(error, Error::Store(StoreError::Corrupt(_))),
        "{error}"
    );

    // If the store returns no checksum, the local one is still known.
    memory.gives_no_crc.store(true, Ordering::Relaxed);
    let uploaded = put(&bucket, &plain).await.unwrap();
    assert_eq!(uploaded.object.crc64, Some(crc64::of(&memory.stored("k"))));
}

#[tokio::test]
async fn damage_in_the_store_is_detected_when_the_whole_object_is_read() {
    let (memory, bucket) = setup(Format::Seed, ring());
    put(&bucket, &Plaintext::from_bytes(content(5000)))
        .await
        .unwrap();
    memory.lies_about_crc.store(true, Ordering::Relaxed);
    let error = read_back(&bucket, None).await.err().unwrap();
    assert!(matches!(error, Error::Damaged(_)), "{error}");
    // A range says nothing about the whole.
    assert_eq!(read_back(&bucket, Some(0..4999)).await.unwrap().len(), 4999);
}

/// The kernel reads a link's target and looks it up in the bucket: neither a file's content nor an invalid
/// target is ever written as one.
#[tokio::test]
async fn the_key_is_bound_to_the_type_in_the_mode_and_a_link_has_a_targets_length() {
    let link = || {
        let mut headers = ObjectHeaders::default();
        headers.user.insert("mode".into(), "41471".into());
        headers
    };
    for format in [Format::Seed, Format::Sdk, Format::Dual] {
        let (_, bucket) = setup(format, ring());
        for (headers, kind) in [
            (ObjectHeaders::default(), ContentKind::File),
            (link(), ContentKind::Link),
        ] {
            for length in [1, 4095] {
                let plain = Plaintext::from_bytes(content(length));
                let name = key();
                let put = bucket.put(&name, &plain, headers.clone(), None, Overwrite::Allowed);
                let object = put.await.unwrap().object;
                assert_eq!(object.claimed_kind(), kind);
                let cipher = bucket.unlock(&object).await.unwrap();
                assert_eq!(cipher.binding(), Some(StartBinding::of(kind)), "{format}");
                object.check_link(&cipher).unwrap();
            }
        }
        for length in [0, 4096] {
            let plain = Plaintext::from_bytes(content(length));
            let name = key();
            let put = bucket.put(&name, &plain, link(), None, Overwrite::Allowed);
            let error = put.await.err();
            assert!(matches!(error, Some(Error::Abandoned(_))), "{error:?}");
        }
        let sizes = MultipartSizes {
            total: 1 << 20,
            part: 128 << 10,
        };
        let error = bucket
            .begin_sized_upload(&key(), link(), None, sizes)
            .await
            .err();
        assert!(matches!(error, Some(Error::Abandoned(_))), "{error:?}");
    }
}

#[tokio::test]
async fn an_object_is_unwrapped_once_and_keeps_its_key_through_copies() {
    let (memory, bucket) = setup(Format::Seed, ring());
    put(&bucket, &Plaintext::from_bytes(content(10)))
        .await
        .unwrap();
    let object = bucket.object(&memory.head(&key()).await.unwrap()).unwrap();
    assert!(object.cipher().is_none() && object.opened_by().is_none());
    assert_eq!(object.key_id(), Some(PAIR.public().key_id()));
    let (a, b) = tokio::join!(bucket.unlock(&object), bucket.unlock(&object));
    assert!(Arc::ptr_eq(&a.unwrap(), &b.unwrap()));
    assert_eq!(object.opened_by(), Some(PAIR.public().fingerprint()));
    let copy = object.with_etag(ETag::new("\"2\""));
    assert!(copy.cipher().is_some());
}

#[tokio::test]
async fn objects_that_cannot_be_opened_have_a_reason() {
    let (memory, bucket) = setup(Format::Seed, ring());
    put(&bucket, &Plaintext::from_bytes(content(10)))
        .await
        .unwrap();
    let good = memory.head(&key()).await.unwrap();
    let with = |change: &dyn Fn(&mut BTreeMap<String, String>)| {
        let mut meta = good.clone();
        change(&mut meta.headers.user);
        bucket.object(&meta)
    };
    assert!(matches!(
        with(&|user| user.clear()).err(),
        Some(Error::NotEncrypted)
    ));
    let without_start = with(&|user| drop(user.remove("x-oss-start")));
    assert!(matches!(without_start.err(), Some(Error::Damaged(_))));
    let newer = with(&|user| drop(user.insert("ossvault-v".into(), "3".into())));
    assert!(matches!(newer.err(), Some(Error::Unsupported(_))));
    let foreign = with(&|user| {
        user.insert("x-oss-key".into(), BASE64_STANDARD.encode([7; 256]));
    })
    .unwrap();
    assert!(matches!(
        bucket.unlock(&foreign).await.err(),
        Some(Error::WrongKey)
    ));
    let named = with(&|user| {
        user.insert("x-oss-key".into(), BASE64_STANDARD.encode([7; 256]));
        user.insert("ossvault-key".into(), "0123456789abcdef".into());
    })
    .unwrap();
    assert!(matches!(
        bucket.unlock(&named).await.err(),
        Some(Error::KeyMissing(_))
    ));
}

#[tokio::test]
async fn an_sdk_object_that_no_key_opens_is_fetched_whole_before_it_fails() {
    let (memory, bucket) = setup(Format::Sdk, ring());
    put(&bucket, &Plaintext::from_bytes(content(5000)))
        .await
        .unwrap();
    memory.memory.change("k", |_, headers| {
        let start = headers.user["client-side-encryption-start"].clone();
        headers
            .user
            .insert("client-side-encryption-key".into(), start);
    });
    let mut body = bucket.get(&key(), None, None).await.unwrap();
    let object = bucket.object(&body.meta).unwrap();
    let cipher = bucket.unlock(&object).await.unwrap();
    let error = body.read(&cipher, &mut [0; 10]).await.err().unwrap();
    assert!(matches!(error, Error::WrongKey), "{error}");
    assert_eq!(body.position(), 5000);
}

#[tokio::test]
async fn ciphertext_can_be_taken_ahead_of_its_key() {
    let (memory, bucket) = setup(Format::Seed, ring());
    put(&bucket, &Plaintext::from_bytes(content(5000)))
        .await
        .unwrap();
    let body = bucket.get(&key(), Some(1500..4000), None).await.unwrap();
    let raw = body.skip_to_bytes(1 << 20).await.unwrap();
    assert_eq!(raw, memory.stored("k").slice(1500..4000));
    let mut body = bucket.get(&key(), None, None).await.unwrap();
    let mut at = 0;
    while let Some((offset, chunk)) = body.chunk().await.unwrap() {
        assert_eq!(offset, at);
        at += chunk.len() as u64;
    }
    assert_eq!(body.crc64(), crc64::of(&memory.stored("k")));
}
