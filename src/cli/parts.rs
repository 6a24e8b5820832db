//! The parts of a mount, built from its configuration, and what their errors mean to the user.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use super::config::MountConfig;
use super::error::{Error, Result};
use super::exit::Code;
use super::options::ServiceOptions;
use super::source::Source;
use crate::crypto::key_ring::KeyRing;
use crate::encrypted::{self, EncryptedBucket};
use crate::oss;
use crate::oss::client::Client;
use crate::oss::credentials::AccessKey;
use crate::oss::endpoint::{self, Endpoint};
use crate::oss::error::chain;
use crate::oss::sign::Version;
use crate::server;
use crate::server::endpoint::Server;
use crate::store;
use crate::store::local::{self, LocalStore};
use crate::store::object_store::{ObjectKey, ObjectStore};
use crate::store::oss::OssStore;

/// Any region does for servers that check none; one has to be named to sign with version 4.
const LOOPBACK_REGION: &str = "cn-hangzhou";

/// Where a bucket is and how it is spoken to.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    pub source: &'a Source,
    pub service: &'a ServiceOptions,
    /// Requests in flight at most.
    pub parallel: u16,
}

impl MountConfig {
    pub fn place(&self) -> Place<'_> {
        Place {
            source: &self.source,
            service: &self.options.service,
            parallel: self.options.parallel,
        }
    }
}

impl Place<'_> {
    /// For messages.
    fn endpoint(&self) -> String {
        match self.source {
            Source::Oss { .. } => self
                .service
                .endpoint
                .clone()
                .unwrap_or_else(|| "the default endpoint".to_owned()),
            Source::File { folder, .. } => folder.display().to_string(),
        }
    }
}

/// The bucket as it is stored. Nothing is asked of the service yet.
///
/// # Errors
/// No credentials, no endpoint, no region; a folder that is no bucket.
pub fn open_store(
    place: Place<'_>,
    server: Option<&EmbeddedServer>,
) -> Result<Arc<dyn ObjectStore>> {
    match place.source {
        Source::Oss { bucket, .. } => {
            let client = open_client(place, bucket, server)?;
            Ok(Arc::new(OssStore::new(client)))
        }
        Source::File { folder, .. } => {
            let sync = !place.service.no_sync;
            let store = LocalStore::open(folder, local::Settings { sync })
                .map_err(|error| explain(&error, place))?;
            Ok(Arc::new(store))
        }
    }
}

fn open_client(place: Place<'_>, bucket: &str, server: Option<&EmbeddedServer>) -> Result<Client> {
    let options = place.service;
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let (text, key) = match server {
        Some(server) => (server.endpoint.clone(), server.access_key()),
        None => {
            let key = AccessKey::from_environment(variable)
                .map_err(|error| Error::new(Code::Credentials, error.to_string()))?;
            let text = match (&options.endpoint, &options.region) {
                (Some(endpoint), _) => endpoint.clone(),
                (None, Some(region)) => format!("oss-{region}.aliyuncs.com"),
                (None, None) => variable("OSS_TEST_ENDPOINT").ok_or_else(|| {
                    Error::new(
                        Code::Endpoint,
                        format!(
                            "where is the bucket {bucket}? name its endpoint with --endpoint (or OSS_ENDPOINT), like oss-cn-hangzhou.aliyuncs.com, or its region with --region"
                        ),
                    )
                })?,
            };
            (text, key)
        }
    };
    let misconfigured = |error: oss::error::Error| Error::new(Code::Endpoint, error.to_string());
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
        let region = options
            .region
            .as_deref()
            .or(endpoint.region())
            .or(endpoint.is_loopback().then_some(LOOPBACK_REGION))
            .ok_or_else(|| {
                Error::new(
                    Code::Endpoint,
                    format!(
                        "the endpoint {text} does not tell its region, and requests are signed for one: name it with --region, like cn-hangzhou"
                    ),
                )
            })?;
        Version::V4 {
            region: region.to_owned(),
        }
    };
    let settings = oss::client::Settings {
        timeout: options.timeout,
        parallel: place.parallel.into(),
    };
    Client::new(endpoint, key, version, settings).map_err(misconfigured)
}

/// The bucket as its files are read and written.
pub fn encrypted_bucket(
    store: Arc<dyn ObjectStore>,
    keys: KeyRing,
    settings: encrypted::Settings,
) -> Arc<EncryptedBucket> {
    EncryptedBucket::new(store, keys, settings)
}

/// What a failure below means to the user: the first of its causes that says so, in one sentence, with
/// what to do.
pub fn explain(error: &(dyn std::error::Error + 'static), place: Place<'_>) -> Error {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<store::error::Error>() {
            return explain_store(error, place);
        }
        cause = error.source();
    }
    Error::new(
        Code::Failure,
        format!("cannot use {}: {}", place.source, chain(error)),
    )
}

fn explain_store(error: &store::error::Error, place: Place<'_>) -> Error {
    use store::error::Error as Store;
    let source = place.source;
    let endpoint = place.endpoint();
    let detail = chain(error);
    let is_folder = matches!(source, Source::File { .. });
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
        Store::AccessDenied(_) => (
            Code::Credentials,
            format!(
                "the service refused {source}: {detail}; check OSS_ACCESS_KEY_ID and OSS_ACCESS_KEY_SECRET, and what this key may do"
            ),
        ),
        Store::Misconfigured(_) if is_clock_skew(error) => (
            Code::Clock,
            format!(
                "this machine's clock differs too much from the service's: {detail}; set it right"
            ),
        ),
        Store::Misconfigured(_) => (
            Code::Endpoint,
            format!(
                "{source} is not to be had at {endpoint}: {detail}; check --endpoint and --region"
            ),
        ),
        Store::TimedOut(_) | Store::Unavailable(_) => (
            Code::Unreachable,
            format!(
                "cannot reach {source} at {endpoint}: {detail}; check --endpoint and the network"
            ),
        ),
        // Something answers there, and it does not speak the protocol.
        Store::Other(_) => (
            Code::Endpoint,
            format!("no OSS service answers at {endpoint}: {detail}; check --endpoint"),
        ),
        _ => (Code::Failure, format!("cannot use {source}: {detail}")),
    };
    Error::new(code, message)
}

fn is_clock_skew(error: &store::error::Error) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(oss::error::Error::Refused(refusal)) = error.downcast_ref() {
            return refusal.code == "RequestTimeTooSkewed";
        }
        cause = error.source();
    }
    false
}

/// The demo's OSS endpoint, on loopback, in this process. Ends with it.
pub struct EmbeddedServer {
    /// Held for its tasks.
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

/// Serves the buckets in `folder` on a free port, for whoever knows a secret drawn just now.
///
/// # Errors
/// The folder cannot be served.
pub async fn start_server(folder: &Path) -> Result<EmbeddedServer> {
    let mut random = zeroize::Zeroizing::new([0u8; 16]);
    crate::crypto::random::fill(random.as_mut_slice());
    let secret: zeroize::Zeroizing<String> =
        zeroize::Zeroizing::new(random.iter().map(|byte| format!("{byte:02x}")).collect());
    let key_id = "demo".to_owned();
    let config = server::endpoint::Config {
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        credentials: server::auth::Credentials::new(key_id.clone(), secret.to_string(), None),
        sync: true,
        ..server::endpoint::Config::new(folder)
    };
    let server = Server::start(config).await.map_err(|error| {
        Error::new(
            Code::Store,
            format!("cannot serve the buckets in {}: {error}", folder.display()),
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
pub fn make_bucket(folder: &Path, name: &str) -> Result<()> {
    let folder = folder.join(name);
    LocalStore::open(&folder, local::Settings { sync: false })
        .map(|_| ())
        .map_err(|error| store_failed(&folder, &error))
}

/// An object as whoever keeps the bucket sees it.
pub struct StoredObject {
    pub first_bytes: Vec<u8>,
    /// User metadata, names without the prefix.
    pub headers: Vec<(String, String)>,
}

/// Looks past the encryption, into the folder that is the bucket.
///
/// # Errors
/// No such object.
pub fn look_into(folder: &Path, key: &str) -> Result<StoredObject> {
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
            folder.display(),
            chain(error)
        ),
    )
}
