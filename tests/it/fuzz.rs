//! Every parser of external input, over the corpus in fuzz/corpus and random mutations of it.
//!
//! The short run of `cargo test`; scripts/exercise fuzz runs ten million cases of each. Coverage-guided runs of the
//! same entry points are in fuzz/.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use ossvault::fuzzing::{TARGETS, Target};
use rand::rngs::SmallRng;
use rand::{Rng, RngExt, SeedableRng};

/// The maximum length of an input: headers are at most 8 KB, and documents repeat their elements.
const LONGEST: usize = 16 << 10;

/// An input that takes longer is tried again.
const SLOW: Duration = Duration::from_millis(100);

/// Fragments that parsers tend to get wrong.
const TOKENS: &[&[u8]] = &[
    b"0",
    b"-1",
    b"1",
    b"255",
    b"65536",
    b"2147483648",
    b"4294967296",
    b"9223372036854775807",
    b"18446744073709551615",
    b"18446744073709551616",
    b"1e308",
    b"0x10",
    b"%00",
    b"%ff",
    b"\0",
    b"\n",
    b"\r",
    b": ",
    b"..",
    b"/",
    b"//",
    b"\x1b[31m",
    "\u{202e}".as_bytes(),
    "\u{2028}".as_bytes(),
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"&lt;",
    b"&#x0;",
    b"<a>",
    b"</a>",
    b"<![CDATA[",
    b"]]>",
    b"<!DOCTYPE a [<!ENTITY b \"c\">]>",
    b"{}",
    b"[]",
    b"null",
    b"\"",
    b"=",
    b"====",
    b"-----BEGIN PRIVATE KEY-----",
    b"-----END PRIVATE KEY-----",
    b"\x30\x80",
    b"\x30\x84\xff\xff\xff\xff",
];

/// The corpus of a target: the files of its folder, in order. Never empty.
fn corpus(target: &Target) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    let mut paths: Vec<_> = fs::read_dir(folder.join(target.name))
        .unwrap_or_else(|error| panic!("no corpus for {}: {error}", target.name))
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    assert!(!paths.is_empty(), "{}: an empty corpus", target.name);
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

/// One to eight random mutations.
fn mutate(random: &mut SmallRng, input: &mut Vec<u8>, corpus: &[Vec<u8>]) {
    for _ in 0..random.random_range(1..=8) {
        let at = random.random_range(0..=input.len());
        let end = random.random_range(at..=input.len().min(at + 64));
        match random.random_range(0..10) {
            0 | 1 if at < input.len() => input[at] ^= 1 << random.random_range(0..8),
            2 if at < input.len() => input[at] = random.random(),
            3 => drop(input.drain(at..end)),
            4 => input.truncate(at),
            5 => {
                let piece = input[at..end].to_vec();
                input.splice(at..at, piece);
            }
            6 | 7 => {
                let token = TOKENS[random.random_range(0..TOKENS.len())];
                input.splice(at..end, token.iter().copied());
            }
            8 => {
                let other = &corpus[random.random_range(0..corpus.len())];
                let from = random.random_range(0..=other.len());
                let to = random.random_range(from..=other.len());
                input.splice(at..end, other[from..to].iter().copied());
            }
            _ => {
                let mut noise = [0; 8];
                random.fill_bytes(&mut noise);
                input.splice(at..at, noise);
            }
        }
        input.truncate(LONGEST);
    }
}

/// Runs that many cases; prints failing inputs, to be added to the corpus.
fn run(target: &Target, cases: u64, seed: u64) {
    let corpus = corpus(target);
    for input in &corpus {
        (target.run)(input);
    }
    let mut random = SmallRng::seed_from_u64(seed);
    let mut input = Vec::new();
    let mut slowest = Duration::ZERO;
    let start = Instant::now();
    for _ in 0..cases {
        // Mutations accumulate on one input for a while: some parsers need several to be misled.
        if input.is_empty() || random.random_ratio(1, 4) {
            input.clone_from(&corpus[random.random_range(0..corpus.len())]);
        }
        mutate(&mut random, &mut input, &corpus);
        let began = Instant::now();
        let result = std::panic::catch_unwind(|| (target.run)(&input));
        let mut took = began.elapsed();
        // If the machine was busy with something else, the next run is faster.
        for _ in 0..3 {
            if took < SLOW || result.is_err() {
                break;
            }
            let again = Instant::now();
            (target.run)(&input);
            took = took.min(again.elapsed());
        }
        slowest = slowest.max(took);
        assert!(
            result.is_ok(),
            "{}: panics on {:?}",
            target.name,
            input.escape_ascii().to_string()
        );
    }
    println!(
        "{}: {cases} cases, {:.0} a second, the slowest took {slowest:?}",
        target.name,
        cases as f64 / start.elapsed().as_secs_f64()
    );
    assert!(
        slowest < Duration::from_secs(20),
        "{}: {slowest:?}",
        target.name
    );
}

#[test]
fn no_parser_of_outside_input_panics_or_hangs() {
    for target in TARGETS {
        run(target, 5_000, rand::random());
    }
}

/// `FUZZ_CASES` each, ten million by default; `FUZZ_TARGET` names one parser.
#[test]
#[ignore = "takes long: scripts/exercise fuzz"]
fn no_parser_of_outside_input_panics_or_hangs_in_ten_million_cases() {
    let cases = std::env::var("FUZZ_CASES").map_or(10_000_000, |text| text.parse().unwrap());
    let only = std::env::var("FUZZ_TARGET").ok();
    for target in TARGETS {
        if only.as_deref().is_none_or(|only| only == target.name) {
            run(target, cases, rand::random());
        }
    }
}
