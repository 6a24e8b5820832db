//! The cost of a request and a read before any data is transferred: signing, parsing a listing, planning.
//!
//!     cargo bench --bench policies

use std::borrow::Cow;
use std::fmt::Write;
use std::hint::black_box;
use std::sync::Arc;
use std::time::SystemTime;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ossvault::fs::data::read_ahead::{Limits, ReadAhead};
use ossvault::oss::credentials::AccessKey;
use ossvault::oss::sign::{Signer, Version};
use ossvault::oss::xml;

fn signing(c: &mut Criterion) {
    let now = SystemTime::now();
    let mut group = c.benchmark_group("sign");
    let region = "cn-hangzhou".to_owned();
    for (name, version) in [("V4", Version::V4 { region }), ("V1", Version::V1)] {
        let signer = Signer::new(AccessKey::new("an id", "a secret", None), version);
        group.bench_function(name, |b| {
            b.iter(|| {
                let mut headers: Vec<(Cow<'_, str>, Cow<'_, str>)> = vec![
                    (
                        "if-match".into(),
                        "\"5B3C1A2E053D763E1B002CC607C5A0FE\"".into(),
                    ),
                    ("range".into(), "bytes=0-8388607".into()),
                    ("x-oss-range-behavior".into(), "standard".into()),
                ];
                signer.sign(
                    now,
                    "GET",
                    "bucket",
                    Some("a/b/file"),
                    &[],
                    black_box(&mut headers),
                )
            });
        });
    }
    group.finish();
}

fn listing(c: &mut Criterion) {
    let mut page = String::from(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><ListBucketResult><Name>b</Name>\
         <EncodingType>url</EncodingType><IsTruncated>false</IsTruncated>",
    );
    for i in 0..1000 {
        write!(
            page,
            "<Contents><Key>photos/2026/IMG_{i:05}.jpg</Key>\
             <LastModified>2026-01-03T10:20:30.000Z</LastModified>\
             <ETag>\"5B3C1A2E053D763E1B002CC607C5{i:04}\"</ETag><Type>Normal</Type>\
             <Size>{i}</Size><StorageClass>Standard</StorageClass></Contents>"
        )
        .unwrap();
    }
    page.push_str("</ListBucketResult>");
    let now = SystemTime::now();
    let mut group = c.benchmark_group("listing");
    group.throughput(Throughput::Elements(1000));
    group.bench_function("page of 1000 keys", |b| {
        b.iter(|| xml::list(black_box(&page), now).unwrap());
    });
    group.finish();
}

fn read_ahead(c: &mut Criterion) {
    const SIZE: u64 = 1 << 30;
    const READ: u64 = 1 << 20;
    let limits = Limits::for_memory(512 << 20);
    let mut group = c.benchmark_group("read-ahead");
    group.throughput(Throughput::Elements(SIZE / READ));
    group.bench_function("1 GiB in order", |b| {
        b.iter(|| {
            let mut ahead = ReadAhead::new(limits, &Arc::default());
            for at in (0..SIZE).step_by(READ as usize) {
                black_box(ahead.plan(at, READ, SIZE));
            }
        });
    });
    group.bench_function("1024 reads here and there", |b| {
        b.iter(|| {
            let mut ahead = ReadAhead::new(limits, &Arc::default());
            let mut at = 1u64;
            for _ in 0..SIZE / READ {
                at = at
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                black_box(ahead.plan((at >> 34) % SIZE, 4096, SIZE));
            }
        });
    });
    group.finish();
}

criterion_group!(benches, signing, listing, read_ahead);
criterion_main!(benches);
