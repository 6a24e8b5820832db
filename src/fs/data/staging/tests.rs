//! Staged files against a plain model, and what must not happen.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use proptest::prelude::*;

use super::area::blocking;
use super::*;
use crate::fs::data::budget::MemoryBudget;
use crate::store;

struct Setup {
    area: Arc<StagingArea>,
    budget: MemoryBudget,
    /// What is reserved when nothing is staged.
    idle: u64,
    _directory: tempfile::TempDir,
}

fn setup(memory: u64, block: usize, disk: u64) -> Setup {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let budget = MemoryBudget::new(memory);
    let area = StagingArea::open(
        Settings {
            block,
            free_reserve: 0,
            ..Settings::new(
                directory.path().join("cache"),
                disk,
                Duration::from_secs(20),
            )
        },
        budget.clone(),
    )
    .expect("the directory can be made");
    Setup {
        idle: budget.used(),
        area,
        budget,
        _directory: directory,
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime")
}

/// As an open file writes.
async fn write(file: &mut StagedFile, offset: u64, data: &[u8]) -> Result<(), Error> {
    if file.try_write(offset, data).is_ok() {
        return Ok(());
    }
    loop {
        let room = file.room_for(offset, data.len()).await?;
        if file.write_with(offset, data, room).is_ok() {
            return Ok(());
        }
    }
}

fn base_byte(at: u64) -> u8 {
    (at % 251) as u8 | 1
}

fn base_reader(asked: Arc<AtomicUsize>) -> BaseReader {
    Arc::new(move |range| {
        asked.fetch_add(1, Ordering::Relaxed);
        let chunks: Vec<_> = range
            .map(base_byte)
            .collect::<Vec<u8>>()
            .chunks(7)
            .map(|chunk| Ok(Bytes::copy_from_slice(chunk)))
            .collect();
        stream::iter(chunks).boxed()
    })
}

async fn read_pieces(pieces: Vec<Piece>) -> Result<Vec<u8>, Error> {
    let mut all = Vec::new();
    for piece in pieces {
        assert!(piece.len() > 0);
        match &piece {
            Piece::Staged(staged) => {
                let bytes = staged.read().await?;
                assert_eq!(bytes.len(), staged.len());
                all.extend_from_slice(&bytes);
            }
            Piece::Base(range) => all.extend(range.clone().map(base_byte)),
            Piece::Zero(len) => all.resize(all.len() + *len as usize, 0),
        }
    }
    Ok(all)
}

async fn read_snapshot(
    snapshot: &Snapshot,
    range: std::ops::Range<u64>,
) -> Result<Vec<u8>, store::error::Error> {
    let gaps = snapshot
        .pieces(range.clone())
        .iter()
        .filter(|piece| matches!(piece, Piece::Base(_)))
        .count();
    let asked = Arc::new(AtomicUsize::new(0));
    let mut all = Vec::new();
    let mut chunks = snapshot.stream(range, Some(base_reader(asked.clone())));
    // Copied, not collected: chunks read from disk hold memory that the next one may need.
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk?;
        assert!(!chunk.is_empty());
        all.extend_from_slice(&chunk);
    }
    assert_eq!(asked.load(Ordering::Relaxed), gaps, "each gap once");
    Ok(all)
}

#[derive(Clone, Debug)]
enum Step {
    Write(u64, usize, u8),
    /// Room is asked for, then other things happen, then it is used.
    WriteAfter(u64, usize, u8, Between),
    Truncate(u64),
    Snapshot,
    SnapshotOf(u64, u64),
    DropSnapshot(prop::sample::Index),
    Spill(u64),
    SpillFile,
    Read(u64, u64),
    ReadSnapshot(prop::sample::Index, u64, u64),
}

#[derive(Clone, Debug)]
enum Between {
    Nothing,
    Spill,
    Snapshot,
    Write(u64, usize, u8),
    Truncate(u64),
}

const FAR: u64 = 700;

fn between() -> impl Strategy<Value = Between> {
    prop_oneof![
        Just(Between::Nothing),
        Just(Between::Spill),
        Just(Between::Snapshot),
        (0..FAR, 1..150_usize, any::<u8>())
            .prop_map(|(at, len, byte)| Between::Write(at, len, byte)),
        (0..FAR).prop_map(Between::Truncate),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..FAR, 0..150_usize, any::<u8>()).prop_map(|(at, len, byte)| Step::Write(at, len, byte)),
        4 => (0..FAR, 1..150_usize, any::<u8>(), between())
            .prop_map(|(at, len, byte, between)| Step::WriteAfter(at, len, byte, between)),
        3 => (0..FAR + 100).prop_map(Step::Truncate),
        2 => Just(Step::Snapshot),
        2 => (0..FAR, 0..300_u64).prop_map(|(at, len)| Step::SnapshotOf(at, len)),
        2 => any::<prop::sample::Index>().prop_map(Step::DropSnapshot),
        3 => (1..600_u64).prop_map(Step::Spill),
        1 => Just(Step::SpillFile),
        5 => (0..FAR, 0..300_u64).prop_map(|(at, len)| Step::Read(at, len)),
        4 => (any::<prop::sample::Index>(), 0..FAR, 0..300_u64)
            .prop_map(|(which, at, len)| Step::ReadSnapshot(which, at, len)),
    ]
}

fn model_write(model: &mut Vec<u8>, at: u64, data: &[u8]) {
    if data.is_empty() {
        return;
    }
    let (at, end) = (at as usize, at as usize + data.len());
    if model.len() < end {
        model.resize(end, 0);
    }
    model[at..end].copy_from_slice(data);
}

/// Not constant, so that bytes that moved are seen.
fn data(len: usize, byte: u8) -> Vec<u8> {
    (0..len).map(|n| byte.wrapping_add(n as u8)).collect()
}

fn cut(all: &[u8], at: u64, len: u64) -> &[u8] {
    let start = (at as usize).min(all.len());
    &all[start..(start + len as usize).min(all.len()).max(start)]
}

async fn against_the_model(base: Option<u64>, memory: u64, steps: Vec<Step>) {
    let setup = setup(memory, 64, 1 << 20);
    let mut file = StagedFile::new(&setup.area, base);
    let mut model: Vec<u8> = (0..base.unwrap_or(0)).map(base_byte).collect();
    // With the window it was made of.
    let mut snapshots: Vec<(Snapshot, std::ops::Range<u64>, Vec<u8>)> = Vec::new();
    for step in steps {
        match step {
            Step::Write(at, len, byte) => {
                let data = data(len, byte);
                write(&mut file, at, &data).await.expect("there is room");
                model_write(&mut model, at, &data);
            }
            Step::WriteAfter(at, len, byte, between) => {
                let room = file.room_for(at, len).await.expect("there is room");
                match between {
                    Between::Nothing => {}
                    Between::Spill => drop(file.spill().await.expect("there is room")),
                    Between::Snapshot => {
                        let window = 0..file.len();
                        snapshots.push((file.snapshot(), window, model.clone()));
                    }
                    Between::Write(at, len, byte) => {
                        let data = data(len, byte);
                        // Nothing waits here while holding room.
                        if file.try_write(at, &data).is_ok() {
                            model_write(&mut model, at, &data);
                        }
                    }
                    Between::Truncate(len) => {
                        file.truncate(len);
                        model.resize(len as usize, 0);
                    }
                }
                let data = data(len, byte);
                if file.write_with(at, &data, room).is_err() {
                    write(&mut file, at, &data).await.expect("there is room");
                }
                model_write(&mut model, at, &data);
            }
            Step::Truncate(len) => {
                file.truncate(len);
                model.resize(len as usize, 0);
            }
            Step::Snapshot => snapshots.push((file.snapshot(), 0..file.len(), model.clone())),
            Step::SnapshotOf(at, len) => {
                let end = (at + len).min(file.len()).max(at);
                snapshots.push((file.snapshot_of(at..at + len), at..end, model.clone()));
            }
            Step::DropSnapshot(which) => {
                if !snapshots.is_empty() {
                    snapshots.swap_remove(which.index(snapshots.len()));
                }
            }
            Step::Spill(bytes) => {
                setup.area.spill(bytes).await.expect("there is room");
            }
            Step::SpillFile => {
                file.spill().await.expect("there is room");
            }
            Step::Read(at, len) => {
                let expected = cut(&model, at, len);
                if let Some(bytes) = file.read_now(at..at + len) {
                    assert_eq!(bytes, expected);
                }
                let bytes = read_pieces(file.pieces(at..at + len)).await.expect("whole");
                assert_eq!(bytes, expected);
            }
            Step::ReadSnapshot(which, at, len) => {
                if let Some((snapshot, window, frozen)) =
                    snapshots.get(which.index(snapshots.len().max(1)))
                {
                    let (start, end) = (at.max(window.start), (at + len).min(window.end));
                    let expected = cut(frozen, start, end.saturating_sub(start));
                    let bytes = read_snapshot(snapshot, at..at + len).await.expect("whole");
                    assert_eq!(bytes, expected);
                }
            }
        }
        assert_eq!(file.len(), model.len() as u64);
        assert!(setup.budget.used() <= setup.budget.limit());
    }
    let all = read_snapshot(&file.snapshot(), 0..u64::MAX)
        .await
        .expect("whole");
    assert_eq!(all, model);
    for gap in file.base_gaps(0..u64::MAX) {
        let expected: Vec<u8> = gap.clone().map(base_byte).collect();
        assert_eq!(model[gap.start as usize..gap.end as usize], expected);
    }
    for (snapshot, window, frozen) in &snapshots {
        let bytes = read_snapshot(snapshot, 0..u64::MAX).await.expect("whole");
        assert_eq!(bytes, cut(frozen, window.start, window.end - window.start));
    }
    drop(snapshots);
    drop(file);
    leaves_nothing(&setup);
}

fn leaves_nothing(setup: &Setup) {
    // A spill or a punch whose waiter has gone may still be running.
    let until = std::time::Instant::now() + Duration::from_secs(5);
    loop {
        setup.area.spill_file().punch_dropped();
        let done = setup.budget.used() == setup.idle && setup.area.disk_used() == 0;
        if done || std::time::Instant::now() > until {
            break;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(setup.budget.used(), setup.idle, "memory came back");
    assert_eq!(setup.area.disk_used(), 0, "disk came back");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]
    #[test]
    fn a_staged_file_and_its_snapshots_read_as_a_plain_model(
        base in prop::option::of(0..FAR),
        memory in prop_oneof![Just(2400_u64), Just(1 << 20)],
        steps in prop::collection::vec(step(), 1..40),
    ) {
        runtime().block_on(against_the_model(base, memory, steps));
    }
}

#[test]
fn a_snapshot_keeps_its_bytes_while_the_file_is_written_on_and_spilled() {
    runtime().block_on(async {
        let setup = setup(64 << 20, BLOCK, 1 << 30);
        let mut file = StagedFile::new(&setup.area, None);
        file.try_write(0, &vec![1; 3 << 20]).expect("free");
        let snapshot = file.snapshot();
        // Held across everything that follows.
        let early = file.read_now(0..100).expect("in memory");
        file.try_write(10, &[2; 50]).expect("free");
        setup.area.spill(u64::MAX).await.expect("there is room");
        assert_eq!(file.read_now(0..100), None);
        write(&mut file, 1 << 20, &[3; 50])
            .await
            .expect("there is room");
        file.truncate(1);
        assert_eq!(early, vec![1; 100]);
        let bytes = read_snapshot(&snapshot, 0..u64::MAX).await.expect("whole");
        assert_eq!(bytes, vec![1; 3 << 20]);
    });
}

#[test]
fn spilling_gives_memory_back_for_all_who_share_a_block() {
    runtime().block_on(async {
        let setup = setup(64 << 20, BLOCK, 1 << 30);
        let mut file = StagedFile::new(&setup.area, None);
        file.try_write(0, &vec![1; 4 << 20]).expect("free");
        let _snapshots = [file.snapshot(), file.snapshot_of(0..1 << 20)];
        assert_eq!(setup.budget.used() - setup.idle, 4 << 20);
        assert_eq!(setup.area.spill(u64::MAX).await.expect("room"), 4 << 20);
        assert_eq!(setup.budget.used(), setup.idle);
        assert!(setup.area.disk_used() >= 4 << 20);
    });
}

#[test]
fn small_files_take_little_memory() {
    let setup = setup(64 << 20, BLOCK, 1 << 30);
    for (len, at_most) in [(1, 1 << 10), (5000, 8 << 10), (100_000, 128 << 10)] {
        let mut file = StagedFile::new(&setup.area, None);
        for at in (0..len).step_by(1000) {
            let chunk = vec![7; 1000.min(len - at)];
            file.try_write(at as u64, &chunk).expect("free");
        }
        let used = setup.budget.used() - setup.idle;
        assert!((len as u64..=at_most).contains(&used), "{len}: {used}");
    }
    leaves_nothing(&setup);
}

#[test]
fn a_refused_write_changes_nothing() {
    runtime().block_on(async {
        let setup = setup(4 << 10, 64, 1 << 20);
        let mut file = StagedFile::new(&setup.area, None);
        file.try_write(0, &[1; 200]).expect("free");
        file.spill().await.expect("there is room");
        file.try_write(256, &[2; 64]).expect("free");
        // Block 3 is partly on disk, block 4 is in memory.
        assert_eq!(file.try_write(195, &[9; 100]), Err(NeedsRoom));
        let _all = setup.budget.try_reserve(setup.budget.limit());
        let _rest: Vec<_> = std::iter::from_fn(|| setup.budget.try_reserve(8)).collect();
        assert_eq!(file.try_write(250, &[9; 200]), Err(NeedsRoom));
        assert_eq!(file.len(), 320);
        let bytes = read_pieces(file.pieces(0..400)).await.expect("whole");
        assert_eq!(bytes, [vec![1; 200], vec![0; 56], vec![2; 64]].concat());
        assert_eq!(file.try_write(256, &[3; 64]), Ok(()), "in place needs none");
    });
}

#[test]
fn a_write_fails_with_no_space_when_memory_and_disk_are_full() {
    runtime().block_on(async {
        // 1 MiB of memory, half of it for draining; 64 KiB of disk.
        let setup = setup(1 << 20, 4096, 64 << 10);
        let mut file = StagedFile::new(&setup.area, None);
        let mut written = 0_u64;
        let error = loop {
            match write(&mut file, written, &[5; 4096]).await {
                Ok(()) => written += 4096,
                Err(error) => break error,
            }
            assert!(written < 2 << 20, "it ends");
        };
        assert!(matches!(error, Error::NoSpace), "{error}");
        assert!(written >= (512 << 10) + (24 << 10), "{written}");
        assert!(setup.area.disk_used() <= 64 << 10);
        let bytes = read_snapshot(&file.snapshot(), 0..u64::MAX)
            .await
            .expect("whole");
        assert_eq!(bytes, vec![5; written as usize]);
        // What was staged goes, and there is room again.
        file.truncate(0);
        write(&mut file, 0, &[6; 100_000])
            .await
            .expect("there is room");
        drop(file);
        leaves_nothing(&setup);
    });
}

#[test]
fn slots_are_used_again_and_their_room_on_disk_comes_back() {
    use std::os::unix::fs::MetadataExt;
    runtime().block_on(async {
        let setup = setup(32 << 20, BLOCK, 8 << 20);
        let mut len = 0;
        for round in 0..5_u8 {
            let mut file = StagedFile::new(&setup.area, None);
            file.try_write(0, &vec![round; 6 << 20]).expect("free");
            file.spill().await.expect("there is room");
            assert_eq!(setup.area.disk_used(), 6 << 20);
            let now = setup.area.spill_file().metadata();
            assert!(len == 0 || now.len() == len, "the file does not grow");
            len = now.len();
            drop(file);
            setup.area.spill_file().punch_dropped();
            let blocks = setup.area.spill_file().metadata().blocks();
            assert!(blocks * 512 < 64 << 10, "{blocks} blocks are left");
        }
    });
}

#[test]
fn no_plaintext_is_on_disk() {
    runtime().block_on(async {
        let setup = setup(32 << 20, BLOCK, 64 << 20);
        let marker = b"a marker that nobody else would write";
        let mut file = StagedFile::new(&setup.area, None);
        let text = marker.repeat(100_000);
        file.try_write(0, &text).expect("free");
        file.spill().await.expect("there is room");
        let raw = setup.area.spill_file().raw();
        assert!(raw.len() >= text.len());
        assert!(!raw.windows(marker.len()).any(|window| window == marker));
        assert!(!raw.windows(12).any(|window| window == &marker[..12]));
        let bytes = read_snapshot(&file.snapshot(), 0..u64::MAX)
            .await
            .expect("whole");
        assert_eq!(bytes, text);
    });
}

#[test]
fn bytes_changed_or_swapped_on_disk_are_never_served() {
    runtime().block_on(async {
        let setup = setup(32 << 20, BLOCK, 64 << 20);
        let mut file = StagedFile::new(&setup.area, None);
        file.try_write(0, &vec![1; 2 << 20]).expect("free");
        file.spill().await.expect("there is room");
        let spill = setup.area.spill_file();
        let raw = spill.raw();
        let half = raw.len().next_multiple_of(8192) / 2;
        let mut flipped = raw.clone();
        flipped[1000] ^= 1;
        let mut swapped = raw.clone();
        swapped[..1 << 20].copy_from_slice(&raw[half..half + (1 << 20)]);
        for (what, changed) in [("flipped", flipped), ("swapped", swapped)] {
            spill.overwrite(0, &changed);
            let staged = file.pieces(0..1).remove(0);
            let Piece::Staged(staged) = staged else {
                panic!("it was written");
            };
            assert!(matches!(staged.read().await, Err(Error::Damaged)), "{what}");
            let error = read_snapshot(&file.snapshot(), 0..u64::MAX).await;
            assert!(
                matches!(error, Err(store::error::Error::Corrupt(_))),
                "{what}"
            );
            let error = file.room_for(5, 5).await;
            assert!(matches!(error, Err(Error::Damaged)), "{what}");
            spill.overwrite(0, &raw);
        }
        let bytes = read_snapshot(&file.snapshot(), 0..u64::MAX)
            .await
            .expect("whole");
        assert_eq!(bytes, vec![1; 2 << 20]);
    });
}

#[test]
fn a_base_that_yields_too_much_or_too_little_is_an_error() {
    runtime().block_on(async {
        let setup = setup(1 << 20, 4096, 1 << 20);
        let mut file = StagedFile::new(&setup.area, Some(1000));
        file.try_write(100, &[1; 100]).expect("free");
        let snapshot = file.snapshot();
        assert!(snapshot.needs_base());
        for wrong in [0_usize, 99, 101] {
            let reader: BaseReader =
                Arc::new(move |_| stream::iter([Ok(Bytes::from(vec![0; wrong]))]).boxed());
            let read: Result<Vec<Bytes>, _> =
                snapshot.stream(0..100, Some(reader)).try_collect().await;
            assert!(
                matches!(read, Err(store::error::Error::Corrupt(_))),
                "{wrong}"
            );
        }
        let read: Result<Vec<Bytes>, _> = snapshot.stream(0..1000, None).try_collect().await;
        assert!(read.is_err());
        let read: Result<Vec<Bytes>, _> = snapshot.stream(100..200, None).try_collect().await;
        assert_eq!(read.expect("all of it was written").concat(), [1; 100]);
    });
}

#[test]
fn the_cache_directory_is_private_and_its_file_has_no_name() {
    use std::os::unix::fs::PermissionsExt;
    let setup = setup(1 << 20, 4096, 1 << 20);
    let directory = setup._directory.path().join("cache");
    let mode = directory
        .metadata()
        .expect("it is there")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o700);
    assert_eq!(directory.read_dir().expect("readable").count(), 0);
    let file = setup.area.spill_file().metadata();
    assert_eq!(file.permissions().mode() & 0o777, 0o600);
}

#[test]
fn writers_that_share_little_memory_all_finish() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_time()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let setup = setup(64 << 10, 1024, 64 << 20);
        let spiller = tokio::spawn(run_spiller(setup.area.clone()));
        let mut tasks = Vec::new();
        for n in 0..12_u8 {
            let area = setup.area.clone();
            tasks.push(tokio::spawn(async move {
                let mut file = StagedFile::new(&area, None);
                for at in 0..100_u64 {
                    write(&mut file, at * 700, &[n; 700]).await.expect("room");
                    if at % 10 == 0 {
                        write(&mut file, at * 300, &[n; 10]).await.expect("room");
                    }
                }
                let bytes = read_snapshot(&file.snapshot(), 0..u64::MAX)
                    .await
                    .expect("whole");
                assert_eq!(bytes, vec![n; 70_000]);
            }));
        }
        for task in tasks {
            tokio::time::timeout(Duration::from_secs(60), task)
                .await
                .expect("nobody starves")
                .expect("no panic");
        }
        leaves_nothing(&setup);
        drop(setup);
        tokio::time::timeout(Duration::from_secs(5), spiller)
            .await
            .expect("the spiller ends with its area")
            .expect("no panic");
    });
}

#[test]
fn a_copy_larger_than_memory_goes_through_with_a_spiller() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_time()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let setup = setup(24 << 20, BLOCK, 1 << 30);
        tokio::spawn(run_spiller(setup.area.clone()));
        let mut file = StagedFile::new(&setup.area, None);
        let total = 128_u64 << 20;
        for at in (0..total).step_by(128 << 10) {
            let data = vec![(at >> 17) as u8; 128 << 10];
            write(&mut file, at, &data).await.expect("there is room");
            assert!(setup.budget.used() <= setup.budget.limit());
        }
        assert!(setup.area.disk_used() > total - setup.budget.limit());
        let (mut at, mut chunks) = (0, file.snapshot().stream(0..total, None));
        while let Some(chunk) = chunks.next().await {
            for byte in chunk.expect("whole") {
                assert_eq!(byte, (at >> 17) as u8);
                at += 1;
            }
        }
        assert_eq!(at, total);
        // The spiller returns the disk's room by itself.
        drop((chunks, file));
        leaves_nothing(&setup);
    });
}

/// Two blocks reserved for sealing out of three left a write across two blocks none to wait for.
#[test]
fn writes_across_blocks_go_on_in_the_smallest_memory() {
    runtime().block_on(async {
        const BLOCK: u64 = 4096;
        let setup = setup(6 * BLOCK, BLOCK as usize, 1 << 20);
        let mut file = StagedFile::new(&setup.area, None);
        let mut expected = vec![0; 8 * BLOCK as usize];
        for (number, at) in (BLOCK / 2..7 * BLOCK)
            .step_by(BLOCK as usize / 2)
            .enumerate()
        {
            let data = [number as u8 + 1; BLOCK as usize];
            write(&mut file, at, &data).await.expect("there is room");
            expected[at as usize..][..data.len()].copy_from_slice(&data);
        }
        expected.truncate(file.len() as usize);
        let whole = file.pieces(0..file.len());
        assert!(read_pieces(whole).await.expect("whole") == expected);
        drop(file);
        leaves_nothing(&setup);
    });
}

#[test]
fn waiting_for_room_can_be_given_up() {
    runtime().block_on(async {
        let setup = setup(1 << 20, 4096, 64 << 10);
        let mut file = StagedFile::new(&setup.area, None);
        let all = setup.budget.try_reserve(u64::MAX).or_else(|| {
            let free = setup
                .budget
                .allowance(crate::fs::data::budget::Class::Normal);
            setup.budget.try_reserve(free - setup.budget.used())
        });
        let waiting = file.room_for(0, 4096);
        let given_up = tokio::time::timeout(Duration::from_millis(20), waiting).await;
        assert!(given_up.is_err());
        assert_eq!(setup.budget.wanted(), 0);
        drop(all);
        file.try_write(0, &[1; 4096]).expect("free again");
        drop(file);
        leaves_nothing(&setup);
    });
}

#[test]
fn a_write_that_gets_no_memory_fails_in_time() {
    runtime().block_on(async {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let budget = MemoryBudget::new(1 << 20);
        let settings = Settings::new(directory.path(), 1 << 20, Duration::from_millis(100));
        let area = StagingArea::open(settings, budget.clone()).expect("it can be made");
        // Another file has it and does not give it back.
        let free = budget.allowance(crate::fs::data::budget::Class::Normal) - budget.used();
        let _all = budget.try_reserve(free).expect("free");
        let file = StagedFile::new(&area, None);
        assert!(matches!(file.room_for(0, 10).await, Err(Error::TimedOut)));
    });
}

#[test]
fn a_panic_while_blocking_is_an_error() {
    runtime().block_on(async {
        let result: Result<(), Error> = blocking(|| panic!("on purpose")).await;
        assert!(matches!(result, Err(Error::Io(_))));
    });
}
