//! How long a request takes and how fast data moves, and what that suggests.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::TryStreamExt;

use super::check::Checks;
use super::scratch::Scratch;
use crate::base::error_chain::chain;
use crate::store::error::Result;
use crate::store::object_store::{Body, ListRequest, ObjectHeaders, ObjectStore, Overwrite};

/// Requests that are timed.
const ROUNDS: usize = 5;

/// Sent and received, in bytes.
const VOLUME: usize = 8 << 20;

/// Above this, many small requests make a mount feel slow.
const SLOW: Duration = Duration::from_millis(100);

/// The usual time of a small request.
pub(super) async fn latency(
    checks: &mut Checks<'_>,
    store: &dyn ObjectStore,
    prefix: &str,
) -> Option<Duration> {
    const NAME: &str = "latency";
    let request = ListRequest {
        prefix: prefix.to_owned(),
        max_keys: 1,
        ..ListRequest::default()
    };
    let mut times = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        let began = Instant::now();
        if let Err(error) = store.list(&request).await {
            checks.skip(NAME, format!("a request failed: {}", chain(&error)));
            return None;
        }
        times.push(began.elapsed());
    }
    times.sort_unstable();
    let usual = times[ROUNDS / 2];
    let found = format!("{:.1} ms per request", usual.as_secs_f64() * 1000.0);
    match usual < SLOW {
        true => checks.ok(NAME, found),
        false => checks.warn(
            NAME,
            found,
            "use an endpoint that is nearer; process several files at a time; if there are no other writers, raise --metadata-ttl and --dir-ttl",
        ),
    }
    Some(usual)
}

/// Sends an object, and reads it back.
pub(super) async fn throughput(
    checks: &mut Checks<'_>,
    store: &dyn ObjectStore,
    scratch: &Scratch,
) {
    const NAME: &str = "throughput";
    let measured = async {
        let key = scratch.key("volume")?;
        let content = Bytes::from(vec![0x5a; VOLUME]);
        let headers = ObjectHeaders::default();
        let began = Instant::now();
        let body = Body::from_bytes(content);
        store.put(&key, &headers, body, Overwrite::Allowed).await?;
        let sent = began.elapsed();
        let began = Instant::now();
        let mut answer = store.get(&key, None, None).await?;
        while answer.body.try_next().await?.is_some() {}
        Ok((sent, began.elapsed()))
    };
    let measured: Result<(Duration, Duration)> = measured.await;
    match measured {
        Ok((sent, received)) => checks.ok(
            NAME,
            format!(
                "one connection sends {} and receives {}; a mount uses several",
                rate(sent),
                rate(received)
            ),
        ),
        Err(error) => checks.warn(
            NAME,
            format!("8 MiB could not be sent and read back: {}", chain(&error)),
            "raise --timeout if the link is slow",
        ),
    }
}

fn rate(took: Duration) -> String {
    let megabytes = VOLUME as f64 / 1e6;
    format!("{:.1} MB/s", megabytes / took.as_secs_f64().max(1e-6))
}

/// Options that fit what was found.
pub(super) fn advice(checks: &mut Checks<'_>, latency: Option<Duration>) {
    const NAME: &str = "options";
    let mut advice = Vec::new();
    if latency.is_some_and(|latency| latency >= Duration::from_millis(20)) {
        advice.push(
            "--metadata-ttl 10 --dir-ttl 600 saves requests if nothing else writes to the bucket"
                .to_owned(),
        );
    }
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let available = memory
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))
        .and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok());
    // The default, and what the process may take besides.
    const DEFAULT_MIB: u64 = 512 + 64;
    if let Some(available) = available.map(|kilobytes| kilobytes >> 10)
        && available < 2 * DEFAULT_MIB
    {
        advice.push(format!(
            "--memory-limit {}M leaves room for other programs: {available} MiB are available",
            (available / 4).max(32)
        ));
    }
    match advice.is_empty() {
        true => checks.ok(NAME, "the defaults fit"),
        false => checks.ok(NAME, advice.join("; ")),
    }
}
