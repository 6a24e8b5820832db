//! The cost of cryptography per byte and per file: CTR, and the envelope.
//!
//!     cargo bench --bench crypto
//!
//! `OSSVAULT_CTR=portable` measures the kernel that any processor can run.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ossvault::crypto::ctr::{ContentCipher, Kernel};
use ossvault::crypto::data_key::{ContentKind, CounterStart, DataKey};
use ossvault::crypto::key_pair::KeyPair;
use ossvault::crypto::key_ring::KeyRing;
use ossvault::envelope::{self, Format, open, write};

fn ctr(c: &mut Criterion) {
    let cipher = ContentCipher::new(DataKey::generate(), CounterStart::generate());
    let mut group = c.benchmark_group(format!("ctr/{:?}", Kernel::chosen()));
    for size in [4 << 10, 64 << 10, 1 << 20] {
        let source = vec![7u8; size];
        let mut destination = vec![0u8; size];
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(format!("{} KiB", size >> 10), |b| {
            b.iter(|| {
                cipher
                    .apply(black_box(1 << 30), &source, &mut destination)
                    .unwrap()
            });
        });
    }
    // As for sending: from memory that is in no cache, strip by strip.
    let source = vec![7u8; 256 << 20];
    let mut strip = vec![0u8; 128 << 10];
    let mut strips = source.chunks_exact(strip.len()).cycle();
    group.throughput(Throughput::Bytes(strip.len() as u64));
    group.bench_function("128 KiB out of cold memory", |b| {
        b.iter(|| {
            let source = strips.next().expect("a cycle has no end");
            cipher
                .apply(black_box(1 << 30), source, &mut strip)
                .unwrap()
        });
    });
    // As for receiving: chunks do not begin at a block of the cipher.
    let source = vec![7u8; 64 << 10];
    let mut destination = vec![0u8; 64 << 10];
    group.throughput(Throughput::Bytes(source.len() as u64));
    group.bench_function("64 KiB at an odd offset", |b| {
        b.iter(|| {
            cipher
                .apply(black_box(12_345), &source, &mut destination)
                .unwrap()
        });
    });
    group.finish();
}

fn envelope(c: &mut Criterion) {
    let pair = KeyPair::generate(2048).unwrap();
    let public = pair.public().clone();
    let keys = KeyRing::new(vec![pair.into_private()], public.clone());
    let mut group = c.benchmark_group("envelope/RSA-2048");
    group.bench_function("write", |b| {
        b.iter(|| {
            let cipher = write::fresh_cipher(ContentKind::File);
            write::write(Format::Seed, &public, &cipher, None).unwrap()
        });
    });
    let cipher = write::fresh_cipher(ContentKind::File);
    let headers = write::write(Format::Seed, &public, &cipher, None).unwrap();
    group.bench_function("detect", |b| {
        b.iter(|| envelope::detect(black_box(&headers)).unwrap().unwrap());
    });
    let found = envelope::detect(&headers).unwrap().unwrap();
    group.bench_function("open", |b| {
        b.iter(|| open::open(black_box(&found), &keys).unwrap())
    });
    group.finish();
}

criterion_group!(benches, ctr, envelope);
criterion_main!(benches);
