//! `ossvault doctor`: looks step by step for what keeps a mount from working.

use std::path::PathBuf;
use std::sync::Arc;

use super::bulk;
use super::config::default_cache_dir;
use super::error::{Error, Result};
use super::exit::Code;
use super::keys;
use super::logging;
use super::options::{KeyOptions, ServiceOptions};
use super::output;
use super::parts::{self, Missing};
use super::secrets::Environment;
use super::source::Source;
use crate::doctor::check::{Check, Summary, Verdict};
use crate::doctor::patient::{GivenKeys, Patient, Place, ThisMachine, Unusable, Usage, examine};

/// Look step by step for what keeps a mount from working, and say what to do
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Scratch objects are written below .ossvault/doctor-… and removed. Without a source, only this machine and the keys are \
examined.")]
pub(super) struct Args {
    /// What is to be mounted: oss://bucket[/prefix], file:///folder, or a profile of the configuration file
    source: Option<String>,
    /// Only the objects below this prefix
    #[arg(long)]
    prefix: Option<String>,
    /// Print one line of JSON per check, and one for the whole run
    #[arg(long)]
    json: bool,
    /// Write nothing, as a mount with this option
    #[arg(long)]
    read_only: bool,
    /// Do not measure throughput, which sends and receives 8 MiB
    #[arg(long)]
    quick: bool,
    /// Where a mount would stage data [default: as for mounts]
    #[arg(long, value_name = "DIR")]
    cache_dir: Option<PathBuf>,
    #[command(flatten)]
    keys: KeyOptions,
    #[command(flatten)]
    service: ServiceOptions,
    /// In place of /dev/fuse, for tests.
    #[arg(long, hide = true, value_name = "FILE", default_value = "/dev/fuse")]
    fuse_device: PathBuf,
}

/// # Errors
/// [`Code::Unhealthy`] if a check failed; [`Code::Interrupted`].
pub(super) fn run(args: &Args, environment: &Environment) -> Result<()> {
    logging::start(0).to_terminal();
    let source = (args.source.as_deref())
        .map(|text| Source::parse(text, args.prefix.as_deref()))
        .transpose()
        .map_err(|message| Error::new(Code::Usage, message))?;
    let root = nix::unistd::geteuid().is_root();
    let cache_dir = match &args.cache_dir {
        Some(folder) => std::path::absolute(folder).ok(),
        None => default_cache_dir(root, |name| std::env::var_os(name).map(PathBuf::from)).ok(),
    };
    let given = given_keys(args, environment);
    let usage = match (&given, args.read_only) {
        (_, true) => Usage::ReadOnly,
        (GivenKeys::Ring(ring), false) if !ring.can_read() => Usage::WriteOnly,
        _ => Usage::ReadWrite,
    };
    let runtime = bulk::runtime()?;
    let place = {
        let _inside = runtime.enter();
        source.map(|source| place(args, source, environment))
    };
    let patient = Patient {
        machine: ThisMachine {
            fuse_device: args.fuse_device.clone(),
            cache_dir,
            root,
        },
        place,
        keys: given,
        usage,
        quick: args.quick,
    };
    let json = args.json;
    let mut sink = |check: &Check| print(check, json);
    let interrupted = async {
        let _ = tokio::signal::ctrl_c().await;
    };
    let examined = runtime.block_on(examine(patient, &mut sink, interrupted));
    let summary = Summary::of(&examined.checks);
    if args.json {
        output::print_json(&serde_json::json!({ "summary": summary }));
    } else {
        output::print_line(&format!(
            "{} ok, {} warnings, {} failed, {} skipped",
            summary.ok, summary.warnings, summary.failed, summary.skipped
        ));
    }
    if examined.interrupted {
        return Err(Error::new(
            Code::Interrupted,
            "interrupted: the other checks were not made",
        ));
    }
    match summary.failed {
        0 => Ok(()),
        1 => Err(Error::new(Code::Unhealthy, "one check failed: see above")),
        failed => Err(Error::new(
            Code::Unhealthy,
            format!("{failed} checks failed: see above"),
        )),
    }
}

fn given_keys(args: &Args, environment: &Environment) -> GivenKeys {
    let options = &args.keys;
    let none = options.private_key.is_empty()
        && options.public_key.is_none()
        && options.writing_key.is_none();
    if none {
        return GivenKeys::None;
    }
    let files = keys::KeyFiles {
        private: &options.private_key,
        public: options.public_key.as_deref(),
        writing: options.writing_key.as_deref(),
        options,
        read_only: args.read_only,
    };
    match keys::ring(&files, environment) {
        Ok(ring) => GivenKeys::Ring(ring),
        Err(error) => GivenKeys::Refused(error.to_string()),
    }
}

fn place(
    args: &Args,
    source: Source,
    environment: &Environment,
) -> std::result::Result<Place, Unusable> {
    let at = parts::Place {
        source: &source,
        service: &args.service,
        parallel: bulk::PARALLEL,
    };
    let unusable = |error: Error| Unusable {
        why: error.to_string(),
    };
    let prefix = source.prefix().to_owned();
    Ok(match &source {
        Source::Oss { bucket, .. } => {
            let client = parts::open_client(at, bucket, environment, None).map_err(unusable)?;
            Place {
                store: Arc::new(client.clone()),
                prefix,
                client: Some(client),
            }
        }
        Source::File { .. } => Place {
            store: parts::open_store(at, environment, None, Missing::Refused).map_err(unusable)?,
            prefix,
            client: None,
        },
    })
}

fn print(check: &Check, json: bool) {
    if json {
        return output::print_json(check);
    }
    let verdict = match check.verdict {
        Verdict::Ok => "ok",
        Verdict::Warning => "warning",
        Verdict::Failed => "FAILED",
        Verdict::Skipped => "skipped",
    };
    output::print_line(&format!("{verdict:<8} {:<16} {}", check.name, check.found));
    if let Some(remedy) = &check.remedy {
        output::print_line(&format!("{:25} -> {remedy}", ""));
    }
}
