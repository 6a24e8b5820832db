//! The windows of read-ahead, by tables and by random reads.

use proptest::prelude::*;

use super::*;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

const LIMITS: Limits = Limits {
    window: 64 * MIB,
    part: 8 * MIB,
};

fn alone(limits: Limits) -> ReadAhead {
    ReadAhead::new(limits, &Arc::default())
}

#[test]
fn the_window_is_a_share_of_the_memory() {
    for (memory, window, part) in [
        (512 * MIB, 64 * MIB, 8 * MIB),
        (4 * GIB, 64 * MIB, 8 * MIB),
        (128 * MIB, 32 * MIB, 8 * MIB),
        (100 * MIB, 25 * MIB, 4 * MIB),
        (64 * MIB, 16 * MIB, 4 * MIB),
        (0, 512 * KIB, 128 * KIB),
    ] {
        let limits = Limits::for_memory(memory);
        assert_eq!(limits, Limits { window, part }, "{memory}");
        alone(limits);
    }
}

#[test]
fn each_read_is_planned_as_it_fits_what_came_before() {
    // (what it shows, object size, reads (offset, len) before, the read, demand, ahead)
    type Case = (
        &'static str,
        u64,
        &'static [(u64, u64)],
        (u64, u64),
        (u64, u64),
        (u64, u64),
    );
    const CASES: &[Case] = &[
        (
            "an empty object wants nothing",
            0,
            &[],
            (0, 4096),
            (0, 0),
            (0, 0),
        ),
        (
            "beyond the end wants nothing",
            10,
            &[],
            (10, 1),
            (0, 0),
            (0, 0),
        ),
        (
            "a small object is one request",
            300 * KIB,
            &[],
            (0, 4096),
            (0, 128 * KIB),
            (128 * KIB, 300 * KIB),
        ),
        (
            "the beginning is fetched a little ahead",
            GIB,
            &[],
            (0, 128 * KIB),
            (0, 128 * KIB),
            (128 * KIB, 640 * KIB),
        ),
        (
            "a tiny read at the beginning costs a block",
            GIB,
            &[],
            (0, 4096),
            (0, 128 * KIB),
            (128 * KIB, 128 * KIB),
        ),
        (
            "a random read costs its grain",
            GIB,
            &[],
            (777 * MIB + 5, 4096),
            (777 * MIB, 777 * MIB + 32 * KIB),
            (777 * MIB + 128 * KIB, 777 * MIB + 128 * KIB),
        ),
        (
            "across two grains costs two",
            GIB,
            &[],
            (777 * MIB - 5, 10),
            (777 * MIB - 32 * KIB, 777 * MIB + 32 * KIB),
            (777 * MIB + 128 * KIB, 777 * MIB + 128 * KIB),
        ),
        (
            "a read that follows a seek fetches nothing ahead at first",
            GIB,
            &[(100 * MIB, 128 * KIB), (100 * MIB + 128 * KIB, 256 * KIB)],
            (100 * MIB + 384 * KIB, 100 * KIB),
            (100 * MIB + 384 * KIB, 100 * MIB + 512 * KIB),
            (100 * MIB + 512 * KIB, 100 * MIB + 512 * KIB),
        ),
        (
            "the second read in order opens the window",
            GIB,
            &[(100 * MIB, MIB)],
            (101 * MIB, MIB),
            (101 * MIB, 102 * MIB),
            (102 * MIB, 103 * MIB),
        ),
        (
            "the window stays inside the object",
            102 * MIB + 512 * KIB,
            &[(100 * MIB, MIB)],
            (101 * MIB, MIB),
            (101 * MIB, 102 * MIB),
            (102 * MIB, 102 * MIB + 512 * KIB),
        ),
        (
            "what is planned is not planned again",
            GIB,
            &[(100 * MIB, MIB), (101 * MIB, MIB)],
            (101 * MIB, MIB),
            (101 * MIB, 102 * MIB),
            (103 * MIB, 104 * MIB),
        ),
        (
            "a seek away is random again",
            GIB,
            &[(0, MIB), (MIB, MIB), (2 * MIB, MIB)],
            (500 * MIB, MIB),
            (500 * MIB, 501 * MIB),
            (501 * MIB, 501 * MIB),
        ),
        (
            "the tail of an object costs its grains",
            100 * MIB + 7,
            &[],
            (100 * MIB - KIB, 64 * KIB),
            (100 * MIB - 32 * KIB, 100 * MIB + 7),
            (100 * MIB + 7, 100 * MIB + 7),
        ),
        (
            "offsets that overflow are outside",
            GIB,
            &[],
            (u64::MAX, u64::MAX),
            (0, 0),
            (0, 0),
        ),
    ];
    for (name, size, before, read, demand, ahead) in CASES {
        let mut policy = alone(LIMITS);
        for (offset, len) in *before {
            policy.plan(*offset, *len, *size);
        }
        let plan = policy.plan(read.0, read.1, *size);
        assert_eq!((plan.demand.start, plan.demand.end), *demand, "{name}");
        assert_eq!((plan.ahead.start, plan.ahead.end), *ahead, "{name}");
    }
}

/// Reads in order, each round trip as far as the round before has planned; returns where each
/// round ended.
fn rounds(policy: &mut ReadAhead, read: u64, size: u64, count: usize) -> Vec<u64> {
    let (mut at, mut planned) = (0, 0);
    let mut ends = Vec::new();
    for _ in 0..count {
        let plan = policy.plan(at, read, size);
        planned = planned.max(plan.ahead.end);
        let reachable = planned;
        while at + read <= reachable {
            at += read;
            planned = planned.max(policy.plan(at, read, size).ahead.end);
        }
        ends.push(at);
    }
    ends
}

#[test]
fn reading_in_order_is_at_full_speed_after_five_round_trips() {
    for read in [64 * KIB, 128 * KIB, 256 * KIB, MIB] {
        let mut policy = alone(LIMITS);
        let ends = rounds(&mut policy, read, 8 * GIB, 8);
        let step = ends[6] - ends[5];
        assert!(step >= 56 * MIB, "{read}: {ends:?}");
    }
}

#[test]
fn reads_reordered_by_threads_keep_the_window_open() {
    let mut policy = alone(LIMITS);
    let order = [1, 0, 3, 2, 2, 0, 1, 3, 3, 2, 1, 0];
    let (mut end, mut planned) = (0, 0);
    for group in 0..64 {
        for place in order.iter().skip(group % 3 * 4).take(4) {
            let offset = group as u64 * 4 * MIB + place * MIB;
            let plan = policy.plan(offset, MIB, 8 * GIB);
            end = end.max(offset + MIB);
            planned = planned.max(plan.ahead.end);
        }
    }
    assert!(planned >= end + 52 * MIB, "{}", planned - end);
}

#[test]
fn large_requests_are_large() {
    let mut policy = alone(LIMITS);
    let mut requests = Vec::new();
    for at in 0..1024 {
        let plan = policy.plan(at * MIB, MIB, GIB);
        let mut from = plan.ahead.start;
        while from < plan.ahead.end {
            let to = ((from / plan.split + 1) * plan.split).min(plan.ahead.end);
            requests.push(to - from);
            from = to;
        }
    }
    assert!(requests.len() < 150, "{requests:?}");
    assert_eq!(requests.iter().sum::<u64>(), GIB - MIB);
}

#[test]
fn scattered_reads_fetch_their_blocks_only() {
    let mut policy = alone(LIMITS);
    let mut fetched = 0;
    for index in 0..2000u64 {
        let offset = index.wrapping_mul(0x9e37_79b9_7f4a_7c15) % (GIB / 4096) * 4096;
        let plan = policy.plan(offset, 4096, GIB);
        fetched += plan.demand.end - plan.demand.start + plan.ahead.end - plan.ahead.start;
    }
    assert!(fetched <= 2000 * BLOCK + 8 * BLOCK, "{}", fetched / BLOCK);
}

/// What unzip asks for that reads one picture of an archive: its table of contents at the end, then the
/// picture, and what the kernel reads ahead of it.
#[test]
fn a_member_of_an_archive_costs_little_more_than_its_size() {
    const SIZE: u64 = 78_940_822;
    const MEMBER: u64 = 263_000;
    let kernels: [&[(u64, u64)]; 2] = [
        // (offset, length) in KiB
        &[
            (77_088, 4),
            (77_064, 8),
            (77_072, 16),
            (16_184, 8),
            (16_192, 16),
            (16_208, 32),
            (16_240, 64),
            (16_304, 128),
            (16_432, 128),
            (16_560, 128),
        ],
        &[
            (77_088, 4),
            (77_068, 20),
            (69_872, 128),
            (70_000, 128),
            (70_128, 128),
            (70_256, 128),
            (70_384, 128),
        ],
    ];
    for reads in kernels {
        let mut policy = alone(LIMITS);
        let mut blocks = std::collections::BTreeSet::new();
        for (offset, len) in reads {
            let plan = policy.plan(offset * KIB, len * KIB, SIZE);
            for range in [plan.demand, plan.ahead] {
                blocks.extend(range.start / GRAIN..range.end.div_ceil(GRAIN));
            }
        }
        let fetched = blocks.len() as u64 * GRAIN;
        assert!(fetched <= 2 * MEMBER + 256 * KIB, "{fetched}");
    }
}

#[test]
fn an_object_that_is_read_all_over_is_fetched_in_whole_blocks() {
    let mut policy = alone(LIMITS);
    const SIZE: u64 = 128 * MIB;
    let lengths: Vec<u64> = (1..=600u64)
        .map(|index| {
            let offset = index.wrapping_mul(0x9e37_79b9_7f4a_7c15) % (SIZE / 4096) * 4096;
            let plan = policy.plan(offset, 4096, SIZE);
            plan.demand.end - plan.demand.start
        })
        .collect();
    assert!(lengths[..100].iter().all(|len| *len == GRAIN));
    assert!(
        lengths[590..].iter().all(|len| *len == BLOCK),
        "{lengths:?}"
    );
}

#[test]
fn strides_do_not_fetch_what_lies_between() {
    let mut policy = alone(LIMITS);
    for index in 1..512u64 {
        let plan = policy.plan(index * 2 * MIB, 4096, GIB);
        assert!(plan.ahead.is_empty(), "{plan:?}");
    }
}

#[test]
fn two_runs_on_one_handle_both_have_a_window() {
    let mut policy = alone(LIMITS);
    let mut planned = [0, 0];
    for index in 0..64 {
        for (run, start) in [10 * MIB, 600 * MIB].into_iter().enumerate() {
            let plan = policy.plan(start + index * MIB, MIB, GIB);
            planned[run] = plan.ahead.end.max(planned[run]);
        }
    }
    assert!(
        planned[0] >= 122 * MIB && planned[1] >= 712 * MIB,
        "{planned:?}"
    );
}

#[test]
fn handles_that_are_read_at_once_share_the_window() {
    let sharers = Arc::default();
    // (how many, how far each is fetched ahead at least and at most)
    for (count, least, most) in [
        (1, 56 * MIB, 64 * MIB),
        (2, 24 * MIB, 32 * MIB),
        (4, 12 * MIB, 16 * MIB),
        (30, 6 * MIB, 8 * MIB),
    ] {
        let mut policies: Vec<_> = (0..count)
            .map(|_| (ReadAhead::new(LIMITS, &sharers), 0))
            .collect();
        for at in (0..256 * MIB).step_by(MIB as usize) {
            for (policy, planned) in &mut policies {
                let plan = policy.plan(at, MIB, 8 * GIB);
                *planned = plan.ahead.end.max(*planned);
            }
        }
        for (_, planned) in policies {
            let ahead = planned - 256 * MIB;
            assert!((least..=most).contains(&ahead), "{ahead} of {count}");
        }
    }
}

#[test]
fn the_last_one_that_is_read_has_the_window_again() {
    let sharers = Arc::default();
    let mut policies = [(); 4].map(|()| ReadAhead::new(LIMITS, &sharers));
    for at in (0..64 * MIB).step_by(MIB as usize) {
        for policy in &mut policies {
            policy.plan(at, MIB, 8 * GIB);
        }
    }
    let mut planned = 0;
    for at in (64 * MIB..96 * MIB).step_by(MIB as usize) {
        planned = policies[2].plan(at, MIB, 8 * GIB).ahead.end.max(planned);
    }
    assert!(planned >= 96 * MIB + 56 * MIB, "{planned}");
}

#[test]
fn refused_memory_halves_the_window_and_reading_opens_it_again() {
    let mut policy = alone(LIMITS);
    let mut planned = 0;
    for at in 0..32 {
        planned = policy.plan(at * MIB, MIB, 8 * GIB).ahead.end.max(planned);
    }
    assert!(planned >= 88 * MIB);
    policy.refused(40 * MIB);
    let plan = policy.plan(32 * MIB, MIB, 8 * GIB);
    assert_eq!(plan.ahead, 40 * MIB..64 * MIB, "planned again, and less");
    for at in 33..80 {
        planned = policy.plan(at * MIB, MIB, 8 * GIB).ahead.end;
    }
    assert!(planned >= 136 * MIB, "{planned}");
}

proptest! {
    #[test]
    fn a_plan_covers_the_read_and_stays_inside_the_object(
        size in 0..40 * MIB,
        memory in 0..1024 * MIB,
        reads in proptest::collection::vec((0..41 * MIB, 0..3 * MIB, any::<bool>()), 1..60),
    ) {
        let limits = Limits::for_memory(memory);
        let mut policy = alone(limits);
        let mut next = 0;
        for (offset, len, in_order) in reads {
            let offset = if in_order { next } else { offset };
            let plan = policy.plan(offset, len, size);
            let end = (offset + len).min(size);
            next = end;
            if offset < end {
                prop_assert!(plan.demand.start <= offset && end <= plan.demand.end);
            }
            for edge in [plan.demand.start, plan.demand.end] {
                prop_assert!(edge % GRAIN == 0 || edge == size, "{:?}", plan);
            }
            for edge in [plan.ahead.start, plan.ahead.end] {
                prop_assert!(edge % BLOCK == 0 || edge == size, "{:?}", plan);
            }
            prop_assert!(plan.demand.end <= plan.ahead.start);
            prop_assert!(plan.ahead.start <= plan.ahead.end && plan.ahead.end <= size);
            prop_assert!(plan.ahead.end - plan.ahead.start <= limits.window.max(WHOLE));
        }
    }
}
