//! One binary for all parsers, since each build of the dependencies takes minutes: `TARGET` names the parser.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;

static TARGET: LazyLock<String> =
    LazyLock::new(|| std::env::var("TARGET").expect("TARGET names a parser"));

fuzz_target!(|input: &[u8]| {
    assert!(ossvault::fuzzing::run(&TARGET, input), "no such parser");
});
