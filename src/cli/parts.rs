//! Builds the components of a mount from its configuration, and explains their errors to the user.

use std::fs::Metadata;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::config::MountConfig;
use super::error::{Error, Result};
use super::exit::Code;
use super::options::ServiceOptions;
use super::secrets::Environment;
use super::source::Source;
use crate::base::error_chain::{chain, find_cause};
use crate::crypto::key_ring::KeyRing;
use crate::crypto::trust;
use crate::doctor::advice::credentials;
use crate::encrypted::{self, EncryptedBucket};
use crate::oss;
use crate::oss::client::Client;
use crate::oss::credentials::chain;
use crate::oss::credentials::command::CommandLine;
use crate::oss::credentials::error::Kind;
use crate::oss::credentials::file::read::Trusted;
use crate::oss::credentials::{AccessKey, Provider};
use crate::oss::endpoint::{self, Endpoint};
use crate::oss::error::{VERSION_1_REFUSED, WRONG_REGION, refusal_of, without_key};
use crate::oss::sign::Version;
use crate::server;
use crate::server::endpoint::Server;
use crate::store;
use crate::store::local::{self, LocalStore};
use crate::store::object_store::{ObjectKey, ObjectStore};
use crate::text;

/// Any region works for servers that do not check it; signature version 4 requires one.
const LOOPBACK_REGION: &str = "cn-hangzhou";

/// Where a bucket is, and how to connect to it.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub source: &'a Source,
    pub service: &'a ServiceOptions,
    /// Maximum number of requests in flight.
    pub parallel: u16,
}

impl MountConfig {
    pub(super) fn place(&self) -> Place<'_> {
        Place {
            source: &self.source,
            service: &self.options.service,
            parallel: requests_within(self.options.tuning.memory_limit, self.options.parallel),
        }
    }
}

/// The number of requests that a mount keeps in flight if `parallel` are wanted. The headers of a response
/// may fill a connection's buffer of 400 KiB, so from 16 MiB of memory upwards, half of the limit is enough
/// for all of them.
fn requests_within(memory_limit: u64, parallel: u16) -> u16 {
    let most = u16::try_from(memory_limit >> 20).unwrap_or(u16::MAX);
    parallel.min(most.max(16))
}

impl Place<'_> {
    /// For messages.
    fn endpoint(&self) -> String {
        match self.source {
            Source::Oss { .. } => match endpoint_of(self.service) {
                Ok(Some(endpoint)) if check_endpoint(&endpoint).is_ok() => endpoint,
                _ => "the default endpoint".to_owned(),
            },
            Source::File { folder, .. } => text::path(folder),
        }
    }
}

/// What to do with a `file://` source that contains no bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Missing {
    /// Commands that only read must not change anything.
    Refused,
    Created,
}

/// The bucket as it is stored. Sends no request yet.
///
/// # Errors
/// Missing credentials, endpoint or region; a folder that is not a bucket.
pub(super) fn open_store(
    place: Place<'_>,
    environment: &Environment,
    server: Option<&EmbeddedServer>,
    missing: Missing,
) -> Result<Arc<dyn ObjectStore>> {
    match place.source {
        Source::Oss { bucket, .. } => {
            let client = open_client(place, bucket, environment, server)?;
            Ok(Arc::new(client))
        }
        Source::File { folder, .. } => {
            let sync = !place.service.no_sync;
            if missing == Missing::Refused && !LocalStore::is_there(folder) {
                return Err(Error::new(
                    Code::Store,
                    format!(
                        "there is no bucket in {}: check the path, or create one by mounting it",
                        text::path(folder)
                    ),
                ));
            }
            let store = LocalStore::open(folder, local::Settings { sync })
                .map_err(|error| explain(&error, place))?;
            Ok(Arc::new(store))
        }
    }
}

/// The source in the mount table, in the form of network file systems: `bucket.endpoint:/prefix`.
pub(super) fn shown_source(place: Place<'_>) -> String {
    match place.source {
        Source::Oss { bucket, prefix } => {
            let endpoint = endpoint_of(place.service).ok().flatten();
            let host = endpoint.as_deref().map(|text| {
                let host = text.split_once("://").map_or(text, |(_, host)| host);
                host.trim_end_matches('/')
            });
            let host = host.unwrap_or("localhost");
            format!("{bucket}.{host}:/{}", prefix.trim_end_matches('/'))
        }
        Source::File { .. } => place.source.to_string(),
    }
}

/// The given endpoint, or that of the given region.
fn endpoint_of(options: &ServiceOptions) -> std::result::Result<Option<String>, oss::error::Error> {
    let named = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    match (named(&options.endpoint), named(&options.region)) {
        (Some(endpoint), _) => Ok(Some(endpoint)),
        (None, Some(region)) => endpoint::of_region(&region).map(Some),
        (None, None) => Ok(std::env::var("OSS_TEST_ENDPOINT").ok()),
    }
}

/// The region that requests are signed for: the given one, or the one in the endpoint's name.
fn region_of(options: &ServiceOptions, text: &str, endpoint: &Endpoint) -> Result<String> {
    let named = options
        .region
        .as_deref()
        .filter(|region| !region.is_empty());
    let region = match (named, endpoint.region()) {
        (Some(named), Some(region)) => {
            let named = endpoint::checked_region(named).map_err(misconfigured)?;
            if named != region {
                return Err(Error::new(
                    Code::Endpoint,
                    format!(
                        "the endpoint {text} belongs to the region {region}, but --region is {named}: omit one of them"
                    ),
                ));
            }
            Some(region)
        }
        // Other providers' endpoints may use any names for their regions.
        (Some(named), None) => Some(named.strip_prefix("oss-").unwrap_or(named)),
        (None, region) => region.or(endpoint.is_loopback().then_some(LOOPBACK_REGION)),
    };
    region.map(str::to_owned).ok_or_else(|| {
        Error::new(
            Code::Endpoint,
            format!(
                "the region of the endpoint {text} is unknown, and requests are signed for a region: give it with --region, like cn-hangzhou"
            ),
        )
    })
}

fn misconfigured(error: oss::error::Error) -> Error {
    Error::new(Code::Endpoint, error.to_string())
}

/// The client of a service's bucket. Sends no request yet.
///
/// # Errors
/// As [`open_store`].
pub(super) fn open_client(
    place: Place<'_>,
    bucket: &str,
    environment: &Environment,
    server: Option<&EmbeddedServer>,
) -> Result<Client> {
    let options = place.service;
    let (text, keys) = match server {
        Some(server) => (server.endpoint.clone(), Provider::from(server.access_key())),
        None => {
            let keys = keys(options, bucket, environment)?;
            let text = endpoint_of(options).map_err(misconfigured)?.ok_or_else(|| {
                Error::new(
                    Code::Endpoint,
                    format!(
                        "oss://{bucket} needs an endpoint: give it with --endpoint (or OSS_ENDPOINT), like oss-cn-hangzhou.aliyuncs.com, or give the bucket's region with --region"
                    ),
                )
            })?;
            (text, keys)
        }
    };
    check_endpoint(&text)?;
    let endpoint = Endpoint::new(
        &text,
        bucket,
        endpoint::Options {
            cname: options.cname,
            path_style: options.path_style,
            allow_http: options.allow_http,
        },
    )
    .map_err(misconfigured)?;
    let version = if options.sign_v1 {
        Version::V1
    } else {
        Version::V4 {
            region: region_of(options, &text, &endpoint)?,
        }
    };
    let settings = oss::client::Settings {
        timeout: options.timeout,
        parallel: place.parallel.into(),
    };
    Client::new(endpoint, keys, version, settings).map_err(misconfigured)
}

/// Where the keys come from that sign requests to a bucket.
fn keys(options: &ServiceOptions, bucket: &str, environment: &Environment) -> Result<Provider> {
    let given = &options.credentials;
    let absolute = |path: &PathBuf| std::path::absolute(path).unwrap_or_else(|_| path.clone());
    let given = chain::Given {
        file: given.credential_file.as_ref().map(absolute),
        command: given.credential_command.clone().map(CommandLine::anchored),
        named: given.credential_source.clone(),
        profile: given.credential_profile.as_deref(),
        role: given.role_arn.clone(),
        session: Some(&given.role_session_name),
        sts_endpoint: given.sts_endpoint.as_deref(),
        metadata: given.metadata_endpoint.as_deref(),
        timeout: options.timeout,
        bucket,
        trusted: (!given.insecure_credential_permissions).then_some(trusted as Trusted),
        shown: text::path,
        variable: &|name| environment.text(name),
        exists: &|path| path.symlink_metadata().is_ok(),
    };
    let source = chain::choose(&given);
    let source = source.map_err(|error| Error::new(Code::Credentials, error.to_string()))?;
    Ok(Provider::new(source))
}

/// The rule of key files: nobody else owns the file or can replace a folder above it.
fn trusted(path: &Path, found: &Metadata) -> std::result::Result<(), String> {
    let checked = trust::owner(found).and_then(|()| trust::way(path));
    checked.map_err(|untrusted| untrusted.to_string())
}

/// From here on the endpoint may be shown: it is a host name, without a user and a password before it.
fn check_endpoint(text: &str) -> Result<()> {
    let host = text.split_once("://").map_or(text, |(_, host)| host);
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:[]/".contains(&byte);
    if text.len() <= 300 && host.bytes().all(plain) {
        return Ok(());
    }
    let what = match host.contains('@') {
        true => {
            "the endpoint contains a user name or a password, which belong in OSS_ACCESS_KEY_ID and OSS_ACCESS_KEY_SECRET"
        }
        false => "the endpoint (not shown) is not a host name",
    };
    Err(Error::new(
        Code::Endpoint,
        format!("{what}; expected something like oss-cn-hangzhou.aliyuncs.com"),
    ))
}

/// The bucket, with files read and written as plaintext.
pub(super) fn encrypted_bucket(
    store: Arc<dyn ObjectStore>,
    keys: KeyRing,
    settings: encrypted::Settings,
) -> Arc<EncryptedBucket> {
    EncryptedBucket::new(store, keys, settings)
}

/// The meaning of a failure to the user: the first of its causes that has one, in one sentence, with advice.
pub(super) fn explain(error: &(dyn std::error::Error + 'static), place: Place<'_>) -> Error {
    let store = |error: &store::error::Error| Some(error.clone());
    match find_cause(error, &store) {
        Some(error) => explain_store(&error, place),
        None => Error::new(
            Code::Failure,
            format!("cannot use {}: {}", place.source, chain(error)),
        ),
    }
}

fn explain_store(error: &store::error::Error, place: Place<'_>) -> Error {
    use store::error::Error as Store;
    let source = place.source;
    if let Some(failure) = without_key(error) {
        let code = match failure.kind {
            Kind::Unreachable => Code::Unreachable,
            Kind::Unusable | Kind::Expired | Kind::Unchanged => Code::Credentials,
        };
        let message = format!("there is no access key for {source}: {failure}");
        return Error::new(code, message);
    }
    let endpoint = place.endpoint();
    let detail = cause_of(error);
    let is_folder = matches!(source, Source::File { .. });
    let refusal = refusal_of(error);
    let (code, message) = match error {
        Store::NoSuchBucket(name) => (
            Code::NoSuchBucket,
            format!(
                "there is no bucket {name} at {endpoint}: check its name, or create it in the OSS console"
            ),
        ),
        _ if is_folder => (
            Code::Store,
            format!(
                "cannot use {endpoint} as a bucket: {detail}; it must be absent, empty, or a bucket made by ossvault"
            ),
        ),
        _ if refusal.is_some_and(|refusal| refusal.code == "RequestTimeTooSkewed") => (
            Code::Clock,
            format!(
                "this machine's clock differs too much from the service's: {detail}; set the clock"
            ),
        ),
        _ if refusal.is_some_and(|refusal| refusal.foreign) => (
            Code::Endpoint,
            format!(
                "{endpoint} does not respond like OSS: {detail}; {}",
                match refusal.map(|refusal| refusal.status) {
                    Some(407) =>
                        "the proxy requires a user name and a password: put them before the host in https_proxy, as USER:PASSWORD@HOST:PORT",
                    _ => "check --endpoint, and whether a proxy or a login page is in between",
                }
            ),
        ),
        Store::AccessDenied(_) => (
            Code::Credentials,
            format!(
                "the service refused {source}: {detail}; {}",
                credentials(refusal.map_or("", |refusal| &refusal.code))
            ),
        ),
        Store::Misconfigured(_) => (
            Code::Endpoint,
            match refusal {
                Some(refusal) if refusal.ec == WRONG_REGION => format!(
                    "requests for {source} are not signed for its region: {detail}; give the bucket's region with --region"
                ),
                Some(refusal) if refusal.ec == VERSION_1_REFUSED => format!(
                    "{source} does not accept version 1 signatures: {detail}; omit --sign-v1"
                ),
                Some(refusal) if refusal.endpoint.is_some() => format!(
                    "{source} is not at {endpoint}: {detail}; use --endpoint with the endpoint that the service names"
                ),
                Some(_) => format!(
                    "cannot find {source} at {endpoint}: {detail}; check --endpoint and --region"
                ),
                // The message contains its own advice.
                None => format!("cannot use {source} at {endpoint}: {detail}"),
            },
        ),
        Store::TimedOut(_) | Store::Unavailable(_) => (
            Code::Unreachable,
            format!(
                "cannot reach {source} at {endpoint}: {detail}; check --endpoint and the network"
            ),
        ),
        Store::Other(_) if refusal.is_some() => (
            Code::Failure,
            format!("the service at {endpoint} refused a request for {source}: {detail}"),
        ),
        // Something responds there, but does not speak the protocol.
        Store::Other(_) => (
            Code::Endpoint,
            format!("{endpoint} does not respond like OSS: {detail}; check --endpoint"),
        ),
        _ => (Code::Failure, format!("cannot use {source}: {detail}")),
    };
    Error::new(code, message)
}

/// The demo's OSS server, on loopback, in this process. Ends with it.
pub(super) struct EmbeddedServer {
    /// Kept alive for its tasks.
    _server: Server,
    endpoint: String,
    key_id: String,
    secret: zeroize::Zeroizing<String>,
}

impl EmbeddedServer {
    fn access_key(&self) -> AccessKey {
        AccessKey::new(self.key_id.clone(), self.secret.to_string(), None)
    }
}

/// Serves the buckets in `folder` on a free port, to clients that know the newly generated secret.
///
/// # Errors
/// The folder cannot be served.
pub(super) async fn start_server(folder: &Path) -> Result<EmbeddedServer> {
    let mut random = zeroize::Zeroizing::new([0u8; 16]);
    crate::crypto::random::fill(random.as_mut_slice());
    let secret: zeroize::Zeroizing<String> = zeroize::Zeroizing::new(hex::encode(*random));
    let key_id = "demo".to_owned();
    let config = server::state::Config {
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        credentials: server::auth::Credentials::new(key_id.clone(), secret.to_string(), None),
        sync: true,
        ..server::state::Config::new(folder)
    };
    let server = Server::start(config).await.map_err(|error| {
        Error::new(
            Code::Store,
            format!(
                "cannot serve the buckets in {}: {error}",
                text::path(folder)
            ),
        )
    })?;
    Ok(EmbeddedServer {
        endpoint: server.endpoint(),
        _server: server,
        key_id,
        secret,
    })
}

/// # Errors
/// The folder cannot hold a bucket.
pub(super) fn make_bucket(folder: &Path, name: &str) -> Result<()> {
    let folder = folder.join(name);
    LocalStore::open(&folder, local::Settings { sync: false })
        .map(|_| ())
        .map_err(|error| store_failed(&folder, &error))
}

/// An object as stored by the bucket.
pub(super) struct StoredObject {
    pub first_bytes: Vec<u8>,
    /// User metadata, with names without the prefix.
    pub headers: Vec<(String, String)>,
}

/// Reads the ciphertext directly from the bucket's folder.
///
/// # Errors
/// There is no such object.
pub(super) fn look_into(folder: &Path, key: &str) -> Result<StoredObject> {
    use futures_util::TryStreamExt;
    let failed = |error: store::error::Error| store_failed(folder, &error);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::new(Code::Failure, format!("cannot start the runtime: {error}")))?;
    runtime.block_on(async {
        let bucket = LocalStore::open(folder, local::Settings { sync: false }).map_err(failed)?;
        let key = ObjectKey::new(key).map_err(failed)?;
        let answer = bucket.get(&key, None, None).await.map_err(failed)?;
        let pieces: Vec<bytes::Bytes> = answer.body.try_collect().await.map_err(failed)?;
        Ok(StoredObject {
            first_bytes: pieces.concat().into_iter().take(64).collect(),
            headers: answer.meta.headers.user.into_iter().collect(),
        })
    })
}

fn store_failed(folder: &Path, error: &store::error::Error) -> Error {
    Error::new(
        Code::Store,
        format!(
            "cannot use the bucket in {}: {}",
            text::path(folder),
            cause_of(error)
        ),
    )
}

/// The error without its leading class name, which tells callers what to do, but users nothing.
pub(super) fn cause_of(error: &store::error::Error) -> String {
    use store::error::Error as Store;
    match error {
        Store::Misconfigured(cause) | Store::Unavailable(cause) | Store::Other(cause) => {
            chain(cause.as_ref())
        }
        _ => chain(error),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clap::Parser;

    use super::*;
    use crate::oss::error::Refusal;

    #[test]
    fn the_headers_of_all_answers_at_once_fit_in_half_of_the_memory() {
        for (memory_limit, parallel, expected) in [
            (16 << 20, 128, 16),
            (64 << 20, 128, 64),
            (64 << 20, 8, 8),
            (512 << 20, 128, 128),
            (u64::MAX, 1024, 1024),
        ] {
            let requests = requests_within(memory_limit, parallel);
            assert_eq!(requests, expected);
            assert!(u64::from(requests) * (408 << 10) <= memory_limit / 2);
        }
    }

    #[derive(Parser)]
    struct Options {
        #[command(flatten)]
        service: ServiceOptions,
    }

    fn options(args: &[&str]) -> ServiceOptions {
        Options::parse_from([&["ossvault"], args].concat()).service
    }

    fn explained(refusal: Refusal) -> (Code, String) {
        let gave_up = oss::error::Error::GaveUp {
            tries: 2,
            last: Box::new(oss::error::Error::Refused(Box::new(refusal.clone()))),
        };
        let error = store::error::Error::from(gave_up);
        let source = Source::parse("oss://bucket", None).unwrap();
        let service = options(&["--region", "cn-hangzhou"]);
        let place = Place {
            source: &source,
            service: &service,
            parallel: 1,
        };
        let error = explain(&error, place);
        (error.code(), error.to_string())
    }

    #[test]
    fn each_refusal_at_the_start_has_its_own_advice() {
        let refusal = |status: u16, code: &str, ec: &str| Refusal {
            operation: "ListObjectsV2",
            status,
            code: code.to_owned(),
            ec: ec.to_owned(),
            request_id: "R1".to_owned(),
            ..Refusal::default()
        };
        for (status, code, ec, exit, expected) in [
            (403, "InvalidAccessKeyId", "", Code::Credentials, "STS."),
            (
                403,
                "SignatureDoesNotMatch",
                "",
                Code::Credentials,
                "OSS_ACCESS_KEY_SECRET",
            ),
            (
                403,
                "SecurityTokenExpired",
                "",
                Code::Credentials,
                "have expired",
            ),
            (
                403,
                "InvalidSecurityToken",
                "",
                Code::Credentials,
                "issued with it",
            ),
            (403, "UserDisable", "", Code::Credentials, "unpaid bill"),
            (
                403,
                "AccessDenied",
                "0003-00000001",
                Code::Credentials,
                "policy",
            ),
            (403, "RequestTimeTooSkewed", "", Code::Clock, "clock"),
            (
                400,
                "InvalidArgument",
                WRONG_REGION,
                Code::Endpoint,
                "--region",
            ),
            (
                403,
                "AccessDenied",
                VERSION_1_REFUSED,
                Code::Endpoint,
                "--sign-v1",
            ),
            (
                400,
                "InvalidArgument",
                "",
                Code::Failure,
                "refused a request",
            ),
        ] {
            let (found, text) = explained(refusal(status, code, ec));
            assert_eq!(found, exit, "{text}");
            for part in [expected, code, ec, "R1", "status"] {
                assert!(text.contains(part), "{code}: {text}");
            }
            assert_eq!(text.matches("R1").count(), 1, "{text}");
        }
        for (status, expected) in [
            (302, "--endpoint"),
            (404, "login page"),
            (407, "USER:PASSWORD@"),
        ] {
            let (code, text) = explained(Refusal {
                operation: "ListObjectsV2",
                status,
                location: (status == 302).then(|| "https://login.example.com/".to_owned()),
                foreign: true,
                ..Refusal::default()
            });
            assert_eq!(code, Code::Endpoint, "{text}");
            assert!(text.contains("does not respond like OSS"), "{text}");
            assert!(text.contains(expected), "{text}");
            assert_eq!(text.contains("login.example.com"), status == 302, "{text}");
            assert!(text.contains("oss-cn-hangzhou.aliyuncs.com"), "{text}");
        }
    }

    #[test]
    fn endpoint_and_region_must_agree() {
        let client = |args: &[&str]| {
            let source = Source::parse("oss://bucket", None).unwrap();
            let service = options(args);
            let place = Place {
                source: &source,
                service: &service,
                parallel: 1,
            };
            let endpoint = endpoint_of(place.service).map_err(misconfigured)?.unwrap();
            let parsed = Endpoint::new(&endpoint, "bucket", endpoint::Options::default());
            region_of(place.service, &endpoint, &parsed.map_err(misconfigured)?)
        };
        assert_eq!(options(&[]).timeout, Duration::from_secs(60));
        let hangzhou = "oss-cn-hangzhou.aliyuncs.com";
        let internal = "oss-cn-hangzhou-internal.aliyuncs.com";
        for (args, expected) in [
            (&["--region", "cn-hangzhou"][..], Ok("cn-hangzhou")),
            (&["--region", "oss-cn-hangzhou"], Ok("cn-hangzhou")),
            (&["--endpoint", internal], Ok("cn-hangzhou")),
            (
                &["--endpoint", hangzhou, "--region", "oss-cn-hangzhou"],
                Ok("cn-hangzhou"),
            ),
            (
                &["--endpoint", "", "--region", "cn-hangzhou"],
                Ok("cn-hangzhou"),
            ),
            (
                &["--endpoint", "oss.example.com", "--region", "lab"],
                Ok("lab"),
            ),
            (&["--endpoint", "http://127.0.0.1:1"], Ok(LOOPBACK_REGION)),
            (
                &["--endpoint", hangzhou, "--region", "cn-beijing"],
                Err("cn-beijing"),
            ),
            (&["--endpoint", "oss.example.com"], Err("--region")),
            (&["--region", "hangzhou"], Err("cn-hangzhou")),
            (
                &["--region", "cn-hangzhou-internal"],
                Err("--endpoint oss-cn-hangzhou-internal"),
            ),
        ] {
            match (client(args), expected) {
                (Ok(region), Ok(expected)) => assert_eq!(region, expected),
                (Err(error), Err(expected)) => {
                    assert_eq!(error.code(), Code::Endpoint);
                    assert!(error.to_string().contains(expected), "{args:?}: {error}");
                }
                (found, _) => panic!("{args:?}: {found:?}"),
            }
        }
    }
}
