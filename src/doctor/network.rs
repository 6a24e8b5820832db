//! The way to the service: its name, a connection, TLS, and its clock.

use std::time::{Duration, SystemTime};

use tokio::net::{TcpStream, lookup_host};

use super::check::Checks;
use crate::oss::client::Client;
use crate::oss::error::Error;

pub(super) const NAMES: [&str; 4] = ["name", "connection", "tls", "clock"];

/// To one address.
const CONNECT: Duration = Duration::from_secs(10);

/// The service refuses requests that are further off than this.
const SKEW: u64 = 15 * 60;

/// What is normal for a machine that sets its clock by others.
const NORMAL_SKEW: u64 = 60;

const CHECK_ENDPOINT: &str = "check --endpoint, and the network of this machine";

/// Returns whether requests can be sent.
pub(super) async fn check(checks: &mut Checks<'_>, client: &Client) -> bool {
    let base = client.endpoint().base().to_owned();
    let proxied = match client.is_proxied() {
        Ok(proxied) => proxied,
        Err(error) => {
            checks.fail("name", error.to_string(), "mend the variable, or unset it");
            checks.skip_all(&NAMES[1..], "the proxy is not known");
            return false;
        }
    };
    if proxied {
        checks.skip_all(
            &NAMES[..2],
            "requests go through a proxy, which finds the service itself",
        );
    } else if !reach(checks, client).await {
        return false;
    }
    match client.probe().await {
        Ok(answered) => {
            let https = client.endpoint().is_https();
            match (https, client.endpoint().is_loopback()) {
                (true, _) => checks.ok("tls", format!("{base} has a valid certificate")),
                (false, true) => checks.ok("tls", "not used: the service is on this machine"),
                (false, false) => checks.warn(
                    "tls",
                    "not used: names, sizes and the access key ID are readable on the way",
                    "use an endpoint with https",
                ),
            }
            clock(checks, answered.clocks);
            true
        }
        Err(error) => {
            let remedy = match &error {
                Error::Misconfigured(_) => {
                    "if the certificate is one of your own, name its authority's in SSL_CERT_FILE; otherwise something else answers under this name: check --endpoint"
                }
                _ if client.endpoint().is_https() => {
                    "something listens there that does not speak TLS: check --endpoint and its port; an endpoint without TLS begins with http:// and needs --allow-http"
                }
                _ => CHECK_ENDPOINT,
            };
            let name = if client.endpoint().is_https() {
                "tls"
            } else {
                "connection"
            };
            checks.fail(name, format!("{base}: {error}"), remedy);
            checks.skip("clock", format!("{name} failed"));
            false
        }
    }
}

/// Finds the service's address, and connects to it.
async fn reach(checks: &mut Checks<'_>, client: &Client) -> bool {
    let url = match client.endpoint().url(None, &[]) {
        Ok(url) => url,
        Err(error) => {
            checks.fail("name", error.to_string(), CHECK_ENDPOINT);
            checks.skip_all(&NAMES[1..], "name failed");
            return false;
        }
    };
    let host = url
        .host_str()
        .unwrap_or_default()
        .trim_matches(['[', ']'])
        .to_owned();
    let port = url.port_or_known_default().unwrap_or(443);
    let addresses = match lookup_host((host.as_str(), port)).await {
        Ok(addresses) => addresses.collect::<Vec<_>>(),
        Err(error) => {
            checks.fail(
                "name",
                format!("{host} cannot be resolved: {error}"),
                "check --endpoint for typing mistakes (it is like oss-cn-hangzhou.aliyuncs.com), the bucket's name, and this machine's DNS",
            );
            checks.skip_all(&NAMES[1..], "name failed");
            return false;
        }
    };
    let shown: Vec<String> = addresses.iter().map(|a| a.ip().to_string()).collect();
    checks.ok("name", format!("{host} is {}", shown.join(", ")));
    let mut last = None;
    for address in addresses {
        match tokio::time::timeout(CONNECT, TcpStream::connect(address)).await {
            Ok(Ok(_)) => {
                checks.ok("connection", format!("{address} accepts connections"));
                return true;
            }
            Ok(Err(error)) => last = Some(format!("{address}: {error}")),
            Err(_) => {
                last = Some(format!(
                    "{address}: no answer within {} s",
                    CONNECT.as_secs()
                ))
            }
        }
    }
    checks.fail(
        "connection",
        last.unwrap_or_else(|| "there is no address".to_owned()),
        "check the port in --endpoint, and whether a firewall or a network policy is in between; an -internal endpoint is reachable from inside Alibaba Cloud's network only",
    );
    checks.skip_all(&NAMES[2..], "connection failed");
    false
}

fn clock(checks: &mut Checks<'_>, clocks: Option<(SystemTime, SystemTime)>) {
    const REMEDY: &str = "set this machine's clock, and keep it set: timedatectl set-ntp true";
    let Some((theirs, ours)) = clocks else {
        return checks.warn(
            "clock",
            "the answer has no date",
            "something in between answers for the service: check --endpoint",
        );
    };
    let (off, which) = match theirs.duration_since(ours) {
        Ok(behind) => (behind, "behind"),
        Err(ahead) => (ahead.duration(), "ahead of"),
    };
    let off = off.as_secs();
    let found = match off {
        0..=1 => "as the service's".to_owned(),
        off => format!("{off} s {which} the service's"),
    };
    match off {
        0..=NORMAL_SKEW => checks.ok("clock", found),
        off if off < SKEW => checks.warn("clock", found, REMEDY),
        _ => checks.fail(
            "clock",
            format!("{found}: the service refuses requests that are {SKEW} s off"),
            REMEDY,
        ),
    }
}
