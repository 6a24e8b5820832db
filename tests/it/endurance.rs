//! Many operations at once, for a long time, and interrupted: the result is what a local disk would hold,
//! complete.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::stream::{self, StreamExt};
use ossvault::server::operation::Operation::ListObjectsV2;
use ossvault::store::object_store::{Body, ObjectHeaders, ObjectKey, ObjectStore, Overwrite};

use crate::counts::{rsync, rsync_differences};
use crate::fixture::{
    Rig, assert_same_tree, can_mount, close, eventually, has_program, noise, read, write_and_close,
};

mod kills;
mod many_processes;
mod trees;

// ---- one large directory ----

#[test]
fn a_hundred_thousand_names_are_listed_as_they_come_and_in_little_memory() {
    if !can_mount() {
        return;
    }
    const NAMES: usize = 100_000;
    let rig = Rig::new();
    rig.block_on(async {
        let put = async |at: usize| {
            let key = ObjectKey::new(format!("{at:06} {}", "n".repeat(50))).unwrap();
            let headers = ObjectHeaders::default();
            let put = rig
                .store
                .put(&key, &headers, Body::empty(), Overwrite::Allowed);
            put.await.unwrap();
        };
        stream::iter(0..NAMES)
            .map(put)
            .buffer_unordered(8)
            .for_each(async |()| ())
            .await;
    });
    let mount = rig.mount("mnt", &["--memory-limit", "48M"]);
    rig.instruments().set_latency(Duration::from_millis(10));
    for round in 0..2 {
        let mut last = String::new();
        let mut count = 0;
        for entry in fs::read_dir(&mount.path).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            assert!(name > last, "{name} after {last}");
            last = name;
            count += 1;
            if count == 1 && round == 0 {
                let pages = rig.instruments().counts().of(ListObjectsV2);
                assert!(pages < 20, "{pages} of 100 pages before the first name");
            }
        }
        assert_eq!(count, NAMES);
    }
    let peak = mount.peak_memory() >> 20;
    println!("{NAMES} names listed twice: at most {peak} MiB resident");
    assert!(peak < 48 + 64, "{peak} MiB resident");
    mount.end_well();
}

// ---- one large file ----

struct LargeFile {
    size: u64,
    memory_limit: &'static str,
    /// In bytes.
    most_resident: u64,
    latency: Duration,
    /// MB/s in each direction, if measured.
    at_least: Option<f64>,
}

#[test]
fn a_file_larger_than_memory_goes_in_and_out_within_the_limit() {
    large_file(&LargeFile {
        size: 300 << 20,
        memory_limit: "32M",
        most_resident: 96 << 20,
        latency: Duration::from_millis(2),
        at_least: None,
    });
}

#[test]
#[ignore = "takes long: scripts/exercise large-file"]
fn three_gib_go_in_and_out_within_192_mib_at_300_mb_a_second() {
    large_file(&LargeFile {
        size: 3 << 30,
        memory_limit: "128M",
        most_resident: 192 << 20,
        latency: Duration::from_millis(20),
        at_least: Some(300.0),
    });
}

/// Content that contains its own position, generated as fast as it is compared.
struct Pattern(Vec<u8>);

impl Pattern {
    const BLOCK: usize = 1 << 20;

    fn new() -> Pattern {
        Pattern(noise(42, Pattern::BLOCK))
    }

    /// The block at `index`: every page of it differs from every other page of the file.
    fn block(&mut self, index: u64) -> &[u8] {
        for (i, page) in self.0.chunks_mut(4096).enumerate() {
            page[..8].copy_from_slice(&(index << 16 | i as u64).to_le_bytes());
        }
        &self.0
    }
}

fn large_file(case: &LargeFile) {
    if !can_mount() {
        return;
    }
    let rig = Rig::new();
    rig.instruments().set_latency(case.latency);
    let options = ["--memory-limit", case.memory_limit];
    let mount = rig.mount("mnt", &options);
    let path = mount.path.join("large");
    let blocks = case.size / Pattern::BLOCK as u64;
    let mut pattern = Pattern::new();
    let rate = |began: Instant| case.size as f64 / 1e6 / began.elapsed().as_secs_f64();

    let began = Instant::now();
    let mut file = File::create_new(&path).unwrap();
    for index in 0..blocks {
        file.write_all(pattern.block(index)).unwrap();
    }
    close(file).unwrap();
    let (into, resident_in) = (rate(began), mount.peak_memory());
    // It has its own attributes by now, through a copy in parts when it is large: it is still the same file.
    let mut first = vec![0; Pattern::BLOCK];
    File::open(&path).unwrap().read_exact(&mut first).unwrap();
    assert!(first == pattern.block(0));
    mount.end_well();
    rig.assert_no_unfinished_uploads();

    let mount = rig.mount("mnt", &options);
    let counts = rig.requests(|| {
        let mut byte = [0];
        let file = File::open(&path).unwrap();
        file.read_exact_at(&mut byte, case.size / 2).unwrap();
        assert_eq!(byte[0], pattern.block(blocks / 2)[0]);
    });
    println!("reading one byte fetched {} bytes", counts.bytes_out);
    assert!(counts.bytes_out <= (1 << 20) + 4096, "{}", counts.bytes_out);

    let began = Instant::now();
    let mut file = File::open(&path).unwrap();
    let mut buffer = vec![0; Pattern::BLOCK];
    for index in 0..blocks {
        file.read_exact(&mut buffer).unwrap();
        assert!(buffer == pattern.block(index), "block {index}");
    }
    assert_eq!(file.read(&mut buffer).unwrap(), 0);
    let (out, resident_out) = (rate(began), mount.peak_memory());
    drop(file);
    mount.end_well();

    println!(
        "{} MiB with --memory-limit {} and {:?} a request: in at {into:.0} MB/s with at most {} MiB resident, out at {out:.0} MB/s with {} MiB",
        case.size >> 20,
        case.memory_limit,
        case.latency,
        resident_in >> 20,
        resident_out >> 20,
    );
    assert!(
        resident_in <= case.most_resident,
        "{resident_in} bytes resident"
    );
    assert!(
        resident_out <= case.most_resident,
        "{resident_out} bytes resident"
    );
    if let Some(at_least) = case.at_least {
        assert!(
            into > at_least && out > at_least,
            "{into:.0} and {out:.0} MB/s"
        );
    }
}

// ---- two mounts ----

#[test]
fn a_chmod_that_races_a_replacement_on_another_mount_never_breaks_the_file() {
    race(100);
}

#[test]
#[ignore = "takes long: scripts/exercise races"]
fn a_thousand_chmods_that_race_replacements_on_another_mount_never_break_the_file() {
    race(1000);
}

fn race(rounds: u32) {
    if !can_mount() {
        return;
    }
    let rig = Rig::new();
    let one = rig.mount("one", &[]);
    let two = rig.mount("two", &[]);
    let watcher = rig.mount("watcher", &["--metadata-ttl", "0"]);
    let contents = [vec![b'a'; 30_000], vec![b'b'; 20_000]];
    write_and_close(&two.path.join("f"), &contents[0]).unwrap();
    let mut refused = 0;
    for round in 0..rounds {
        let new = &contents[(round as usize + 1) % 2];
        std::thread::scope(|scope| {
            let chmod = scope.spawn(|| {
                let mode = if round % 2 == 0 { 0o600 } else { 0o644 };
                fs::set_permissions(one.path.join("f"), fs::Permissions::from_mode(mode))
            });
            let replacing = scope.spawn(|| write_and_close(&two.path.join("f"), new).unwrap());
            while !(chmod.is_finished() && replacing.is_finished()) {
                // Opening always succeeds.
                let mut file = File::open(watcher.path.join("f")).unwrap();
                let mut found = Vec::new();
                match file.read_to_end(&mut found) {
                    Ok(_) => assert!(contents.contains(&found), "{} other bytes", found.len()),
                    // Replaced between its first and its last byte.
                    Err(error) => assert_eq!(error.raw_os_error(), Some(libc::ESTALE), "{error}"),
                }
            }
            refused += u32::from(chmod.join().unwrap().is_err());
        });
        let found = read(&watcher.path.join("f")).unwrap();
        assert!(found == *new, "round {round}: the replacement is lost");
    }
    println!("{rounds} races: the file was always whole; {refused} chmods were refused");
    for mount in [one, two, watcher] {
        mount.end_well();
    }
}
