//! Random operations on a [`Filesystem`], with other writers, failures and remounts, against a plain model.
//!
//! The model is an in-memory tree of files that behaves according to POSIX. What cannot be known exactly is
//! compared as far as possible: an operation whose request was made to fail has either taken effect or not; a
//! file that another client replaced while it was open is the old version, the new one, or ESTALE, and never
//! a mixture.
//!
//! `OSSVAULT_MODEL_CASES` sets the number of cases; scripts/exercise runs many. Failed cases are recorded in
//! full in `regressions`; the seeds of others are in `model.regressions`.

mod bench;
mod ops;
mod regressions;
mod tree;

use std::time::Duration;

use bench::Bench;
use ops::{Op, Setting, op, setting};
use ossvault::files::attributes::Kind;
use proptest::prelude::*;
use proptest::test_runner::{Config, FileFailurePersistence, TestRunner};

const DIRECTORIES: [&str; 4] = ["", "d", "e", "d/g"];
const NAMES: [&str; 6] = ["a", "b", "d", "e", "g", ".a.Q1W2E3"];
const SLOTS: usize = 4;

const KINDS: [Kind; 3] = [Kind::File, Kind::Fifo, Kind::Socket];

/// A case takes less than a second.
const HANGS: Duration = Duration::from_secs(60);

fn run(setting: Setting, ops: &[Op]) {
    let mut runtime = match setting.threads {
        true => tokio::runtime::Builder::new_multi_thread(),
        false => tokio::runtime::Builder::new_current_thread(),
    };
    let runtime = runtime.worker_threads(2).enable_all().build().unwrap();
    let work = async {
        let mut bench = Bench::new(setting).await;
        for op in ops {
            if std::env::var_os("OSSVAULT_MODEL_TRACE").is_some() {
                eprintln!("{op:?}");
            }
            bench.step(op).await;
        }
        bench.end().await;
    };
    let in_time = runtime.block_on(async { tokio::time::timeout(HANGS, work).await });
    runtime.shutdown_background();
    // Printed at once: shrinking a case that hangs takes long, and prints nothing before its end.
    assert!(in_time.is_ok(), "it hangs: {setting:?}, {ops:?}");
}

#[test]
fn random_operations_agree_with_the_model() {
    let cases = std::env::var("OSSVAULT_MODEL_CASES")
        .ok()
        .and_then(|cases| cases.parse().ok())
        .unwrap_or(200);
    let kept = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/model.regressions");
    let mut runner = TestRunner::new(Config {
        cases,
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(kept))),
        max_shrink_iters: 400,
        // In milliseconds.
        max_shrink_time: 300_000,
        ..Config::default()
    });
    let cases = (setting(), prop::collection::vec(op(), 1..60));
    let result = runner.run(&cases, |(setting, ops)| {
        run(setting, &ops);
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}
