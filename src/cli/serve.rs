//! `ossvault serve`: a local OSS server over folders.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::error::{Error, Result};
use super::exit::Code;
use super::{output, parts, source, values};
use crate::server::auth::Credentials;
use crate::server::endpoint::Server;
use crate::server::state::Config;
use crate::text;

/// How long connections may take to finish their request at shutdown.
const PATIENCE: Duration = Duration::from_secs(5);

/// Run a local OSS server over a folder: each folder in it is a bucket
#[derive(Args, Debug)]
pub struct ServeArgs {
    /// The folder of the buckets: each folder in it is one bucket
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,

    /// Loopback address to listen on; port 0 chooses any free port
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8090", value_parser = values::address)]
    pub listen: SocketAddr,

    /// Create these buckets if they do not exist
    #[arg(long, value_name = "NAME")]
    pub create: Vec<String>,

    /// Acknowledge writes before they are on disk
    #[arg(long)]
    pub no_sync: bool,

    /// The buckets' region, and the only one that requests may be signed for [default: cn-hangzhou is
    /// reported, and signatures for any region are accepted]
    #[arg(long, value_name = "REGION", value_parser = values::region)]
    pub region: Option<String>,
}

/// Serves until SIGTERM or SIGINT. Prints one line with the endpoint once it is ready.
///
/// `variable` looks up an environment variable: requests must be signed with `OSS_ACCESS_KEY_ID` and
/// `OSS_ACCESS_KEY_SECRET` (and carry `OSS_SESSION_TOKEN`, if set), or with the `OSS_TEST_*` pair.
///
/// # Errors
/// One line that says what was tried and what to do.
pub fn run(args: &ServeArgs, variable: impl Fn(&str) -> Option<String>) -> Result<()> {
    let mut credentials = credentials(variable)?;
    credentials.region.clone_from(&args.region);
    let config = Config {
        dir: args.dir.clone(),
        listen: args.listen,
        credentials,
        sync: !args.no_sync,
        ..Config::new(&args.dir)
    };
    let config = match &args.region {
        Some(region) => Config {
            region: region.clone(),
            ..config
        },
        None => config,
    };
    if !args.listen.ip().is_loopback() {
        return Err(Error::new(
            Code::Usage,
            "--listen: the server is only for this machine; expected a loopback address, like 127.0.0.1:8090",
        ));
    }
    for name in &args.create {
        source::check_bucket(name).map_err(|message| Error::new(Code::Usage, message))?;
    }
    make_folder(args)?;
    raise_descriptor_limit();
    let cannot_run = |error: std::io::Error| {
        Error::new(Code::Failure, format!("cannot start the server: {error}"))
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(cannot_run)?;
    runtime.block_on(async {
        let server = Server::start(config).await.map_err(|error| {
            Error::new(
                Code::Address,
                format!(
                    "cannot listen on {}: {error}; choose another address with --listen",
                    args.listen
                ),
            )
        })?;
        for name in &args.create {
            server.create_bucket(name).map_err(|error| {
                Error::new(
                    Code::Store,
                    format!(
                        "cannot create the bucket {name}: {}",
                        parts::cause_of(&error)
                    ),
                )
            })?;
        }
        let mut terminate = signal(SignalKind::terminate()).map_err(cannot_run)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(cannot_run)?;
        // The parent process waits for this line, and may not read any further.
        output::print_line(&format!(
            "serving {} at {}",
            text::path(&args.dir),
            server.endpoint()
        ));
        let _ = std::io::stdout().flush();
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        server.shutdown(PATIENCE).await;
        Ok(())
    })
}

/// The folder must exist, unless a bucket is to be created in it.
fn make_folder(args: &ServeArgs) -> Result<()> {
    let failed = |why: &str| {
        Error::new(
            Code::Store,
            format!("cannot serve {}: {why}", text::path(&args.dir)),
        )
    };
    if args.dir.is_dir() {
        return Ok(());
    }
    if args.dir.exists() {
        return Err(failed("it is a file, and --dir must be a folder"));
    }
    if args.create.is_empty() {
        return Err(failed(
            "there is no such folder; --create NAME creates it, and a bucket in it",
        ));
    }
    std::fs::create_dir_all(&args.dir).map_err(|error| failed(&error.to_string()))?;
    output::tell(&format!("created the folder {}", text::path(&args.dir)));
    Ok(())
}

fn credentials(variable: impl Fn(&str) -> Option<String>) -> Result<Credentials> {
    let get = |name: &str| variable(name).filter(|value| !value.is_empty());
    for prefix in ["OSS_", "OSS_TEST_"] {
        let id = get(&format!("{prefix}ACCESS_KEY_ID"));
        let secret = get(&format!("{prefix}ACCESS_KEY_SECRET"));
        if let (Some(id), Some(secret)) = (id, secret) {
            let token = get("OSS_SESSION_TOKEN").filter(|_| prefix == "OSS_");
            return Ok(Credentials::new(id, secret, token));
        }
    }
    Err(Error::new(
        Code::Credentials,
        "no credentials to check requests against: set OSS_ACCESS_KEY_ID and OSS_ACCESS_KEY_SECRET to any values, and use the same values for the clients",
    ))
}

/// Each connection and each open object takes one; the usual limit of 1024 exists for programs that use
/// `select`.
fn raise_descriptor_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard.min(65_536), hard);
    }
}
