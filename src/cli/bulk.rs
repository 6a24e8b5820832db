//! The common part of the commands over a whole prefix: their options, the report and the progress line.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

use super::error::{Error, Result};
use super::exit::Code;
use super::findings::FindingLines;
use super::keys::Files;
use super::options::{ReadingOptions, ServiceOptions};
use super::output::{print_json, print_line, tell};
use super::parts::{self, Missing, Place};
use super::progress::ProgressDisplay;
use super::secrets::Environment;
use super::source::Source;
use super::{logging, values};
use crate::base::error_chain::chain;
use crate::store;
use crate::store::object_store::{ObjectKey, ObjectStore};
use crate::tools::bulk::{Progress, Scope, Selection};
use crate::tools::finding::{Finding, Summary};
use crate::tools::inventory::{self, Inventory};
use crate::tools::local_file::LocalFileError;
use crate::tools::report::{self, Beginning, Report, Task};
use crate::tools::shard::Shard;

#[derive(Clone, Debug, clap::Args)]
pub(super) struct BulkOptions {
    /// oss://bucket[/prefix], or file:///folder
    pub source: String,
    /// Only the objects below this prefix
    #[arg(long)]
    pub prefix: Option<String>,
    /// Print one line of JSON per object, and one for the whole run, on stdout
    #[arg(long)]
    pub json: bool,
    /// List every object, not only those that need attention
    #[arg(long, short = 'v')]
    pub verbose: bool,
    /// Show no progress
    #[arg(long, short = 'q')]
    pub quiet: bool,
    /// Succeed even if there are no objects
    #[arg(long)]
    pub allow_empty: bool,
    /// Maximum number of objects in progress, and of requests in flight
    #[arg(long, default_value_t = PARALLEL, value_name = "N", value_parser = values::parallel)]
    pub parallel: u16,
    #[command(flatten)]
    pub service: ServiceOptions,
}

/// Connection options of a command over a whole prefix, for a service that other clients use too.
pub(super) const PARALLEL: u16 = 64;

#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Keys")]
pub(super) struct ReadingKeys {
    /// A private key (PEM) that opens the objects, or a folder of them (repeatable)
    #[arg(
        long,
        value_name = "FILE",
        env = "OSSVAULT_PRIVATE_KEY",
        hide_env_values = true
    )]
    pub private_key: Vec<PathBuf>,
    #[command(flatten)]
    pub reading: ReadingOptions,
}

/// For processes that share the work on one bucket.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Sharing the work")]
pub(super) struct SharingOptions {
    /// Take the objects from this inventory of the bucket instead of a listing: its manifest.json, as
    /// oss://bucket/key or a local path
    #[arg(long, value_name = "MANIFEST")]
    pub manifest: Option<String>,
    /// Process only part I of N, numbered from 0 [default: JOB_COMPLETION_INDEX/JOB_COMPLETIONS if both are set]
    #[arg(long, value_name = "I/N", value_parser = values::shard)]
    pub shard: Option<Shard>,
    /// Write a line of JSON for each object to this file. If the run is interrupted, the same command goes on from
    /// there
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
}

/// A running command: its runtime, its bucket and its report.
pub(super) struct Run<'a> {
    options: &'a BulkOptions,
    environment: &'a Environment,
    source: Source,
    runtime: tokio::runtime::Runtime,
    selection: Selection,
}

impl<'a> Run<'a> {
    /// Called before any key is read.
    ///
    /// # Errors
    /// The source is invalid.
    pub(super) fn new(options: &'a BulkOptions, environment: &'a Environment) -> Result<Run<'a>> {
        logging::start(0).to_terminal();
        let source = Source::parse(&options.source, options.prefix.as_deref())
            .map_err(|message| Error::new(Code::Usage, message))?;
        crate::crypto::ctr::self_test().map_err(|error| {
            Error::new(
                Code::Failure,
                format!("the AES-CTR self-test failed on this machine: {error}; nothing was done"),
            )
        })?;
        Ok(Run {
            options,
            environment,
            source,
            runtime: runtime()?,
            selection: Selection::default(),
        })
    }

    /// Restricts the run to what the options say. `command` names it with everything that determines what it does to
    /// an object. Called when the bucket has been opened.
    ///
    /// # Errors
    /// The inventory or the report cannot be used.
    pub(super) fn share(&mut self, options: &SharingOptions, command: String) -> Result<()> {
        self.selection.shard = shard(options, self.environment)?;
        if let Some(manifest) = &options.manifest {
            let inventory = self.inventory(manifest)?;
            self.selection.inventory = Some(Arc::new(inventory));
        }
        if let Some(path) = &options.report {
            let task = Task {
                command,
                source: self.source.to_string(),
                shard: self.selection.shard,
                inventory: (self.selection.inventory.as_ref())
                    .map(|inventory| inventory.identity().clone()),
            };
            let report = Report::open(path, &task).map_err(|error| refused(&error))?;
            self.selection.report = Some(Arc::new(report));
        }
        if let Some(shard) = self.selection.shard
            && !self.options.json
        {
            tell(&format!(
                "part {} of {}, numbered from 0",
                shard.index, shard.count
            ));
        }
        Ok(())
    }

    /// Whether the run is about all objects below the prefix, as far as its listing shows them.
    pub(super) fn is_whole(&self) -> bool {
        self.selection.shard.is_none() && self.selection.inventory.is_none()
    }

    fn inventory(&self, manifest: &str) -> Result<Inventory> {
        let inventory = open_inventory(manifest, self.place(), self.environment, &self.runtime)?;
        if let Source::Oss { bucket, .. } = &self.source {
            let checked = inventory.check_bucket(bucket);
            checked.map_err(|error| Error::new(Code::Usage, chain(&error)))?;
        }
        Ok(inventory)
    }

    /// The run is complete: so is its report.
    ///
    /// # Errors
    /// The report cannot be written.
    pub(super) fn complete_report(&self) -> Result<()> {
        match &self.selection.report {
            Some(report) => Ok(report.complete().map_err(|error| Error::from(&error))?),
            None => Ok(()),
        }
    }

    pub(super) fn prefix(&self) -> &str {
        self.source.prefix()
    }

    /// For reading key files.
    pub(super) fn files<'k>(&'k self, options: &'k ReadingOptions) -> Files<'k> {
        Files::new(options, self.environment)
    }

    pub(super) fn source(&self) -> &Source {
        &self.source
    }

    pub(super) fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    /// # Errors
    /// As [`parts::open_store`].
    pub(super) fn store(&self) -> Result<Arc<dyn ObjectStore>> {
        let _inside = self.runtime.enter();
        parts::open_store(self.place(), self.environment, None, Missing::Refused)
    }

    fn place(&self) -> Place<'_> {
        Place {
            source: &self.source,
            service: &self.options.service,
            parallel: self.options.parallel,
        }
    }

    pub(super) fn explain(&self, error: &store::error::Error) -> Error {
        parts::explain(error, self.place())
    }

    pub(super) fn scope(&self, store: &Arc<dyn ObjectStore>) -> Scope {
        Scope {
            store: store.clone(),
            prefix: self.prefix().to_owned(),
            parallel: self.options.parallel.into(),
            selection: self.selection.clone(),
        }
    }

    /// Runs one pass, printing its findings as they arrive and its summary at the end. `pass` is its name.
    ///
    /// # Errors
    /// Those of the pass.
    pub(super) fn pass<W>(&self, scope: &Scope, pass: &'static str, work: W) -> Result<Summary>
    where
        W: AsyncFnOnce(
            &Scope,
            &Progress,
            &mut (dyn FnMut(&Finding) + Send),
        ) -> std::result::Result<Summary, store::error::Error>,
    {
        let progress = Progress::default();
        let json = self.options.json;
        let mut scope = scope.clone();
        let written = scope.selection.report.clone();
        match written.as_ref().map(|report| report.begin(pass)) {
            Some(Beginning::Finished(summary)) => {
                SummaryLine { json, pass }.summary(&summary, Duration::ZERO);
                return Ok(summary);
            }
            Some(Beginning::From(position)) => scope.selection.position = position,
            None => {}
        }
        let scope = &scope;
        let display = ProgressDisplay::new(pass, "objects", self.options.quiet);
        let lines = FindingLines {
            json,
            verbose: self.options.verbose,
            pass,
        };
        let report = SummaryLine { json, pass };
        let result = self.block_on(async {
            let mut sink = |finding: &Finding| {
                if let Some(report) = &written {
                    report.finding(finding);
                }
                display.suspend(|| lines.print(finding));
            };
            let working = display.during(
                &progress,
                || 0,
                scope.count(&progress),
                work(scope, &progress, &mut sink),
            );
            tokio::select! {
                result = working => Ok(result),
                signal = interrupt() => Err(signal),
            }
        });
        let took = display.took();
        drop(display);
        if let (Some(report), Err(_) | Ok(Err(_))) = (&written, &result) {
            report.interrupt().map_err(|error| Error::from(&error))?;
        }
        let result = result.map_err(|signal| interrupted(signal, pass, &progress))?;
        let summary = result.map_err(|error| match LocalFileError::in_chain(&error) {
            Some(local) => local.into(),
            None => self.explain(&error),
        })?;
        // What earlier runs have finished counts too.
        let summary = match &written {
            Some(report) => report.end().map_err(|error| Error::from(&error))?,
            None => summary,
        };
        report.summary(&summary, took);
        Ok(summary)
    }

    /// An empty result is an error unless it was expected, because the name of the source may be mistyped.
    ///
    /// # Errors
    /// [`Code::Incomplete`].
    pub(super) fn require_some(&self, summary: &Summary, nothing: &str) -> Result<()> {
        // A part may be empty.
        if summary.objects > 0 || self.options.allow_empty || self.selection.shard.is_some() {
            return Ok(());
        }
        Err(Error::new(
            Code::Incomplete,
            format!(
                "nothing to {nothing} {}; check the name, or give --allow-empty",
                self.source
            ),
        ))
    }

    /// Warns if the bucket keeps old versions, which the command does not change.
    pub(super) fn warn_if_versioned(&self, store: &Arc<dyn ObjectStore>, what_stays: &str) {
        match self.block_on(store.bucket_info()) {
            Ok(info) if info.versioned => tell(&format!(
                "warning: {} keeps old versions: {what_stays}",
                self.source
            )),
            Ok(_) => {}
            Err(_) => tell(&format!(
                "warning: could not determine whether {} keeps old versions; if it does, {what_stays}",
                self.source
            )),
        }
    }
}

/// The given part, or that of a pod of an indexed Job.
fn shard(options: &SharingOptions, environment: &Environment) -> Result<Option<Shard>> {
    const INDEX: &str = "JOB_COMPLETION_INDEX";
    const COUNT: &str = "JOB_COMPLETIONS";
    if options.shard.is_some() {
        return Ok(options.shard);
    }
    let set = |name| {
        environment
            .text(name)
            .filter(|value| !value.trim().is_empty())
    };
    let (Some(index), Some(count)) = (set(INDEX), set(COUNT)) else {
        return Ok(None);
    };
    let shard = values::shard(&format!("{}/{}", index.trim(), count.trim()));
    shard.map(Some).map_err(|_| {
        Error::new(
            Code::Usage,
            format!("{INDEX} and {COUNT} are not a part and the number of parts: expected 0 to N - 1, and N"),
        )
    })
}

/// Opens an inventory by its manifest. `place` is that of the bucket that it lists: the inventory is in another bucket of
/// the same account and region.
pub(super) fn open_inventory(
    manifest: &str,
    place: Place<'_>,
    environment: &Environment,
    runtime: &tokio::runtime::Runtime,
) -> Result<Inventory> {
    let place_of_manifest = match manifest.strip_prefix("oss://") {
        None => inventory::Place::Folder(manifest.into()),
        Some(rest) => {
            let usage = |message| Error::new(Code::Usage, format!("--manifest: {message}"));
            let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
            let key = ObjectKey::new(key)
                .map_err(|_| usage("expected oss://bucket/path/manifest.json".to_owned()))?;
            let source = Source::parse(&format!("oss://{bucket}"), None).map_err(usage)?;
            let place = Place {
                source: &source,
                ..place
            };
            let _inside = runtime.enter();
            let store = parts::open_store(place, environment, None, Missing::Refused)?;
            inventory::Place::Bucket(store, key)
        }
    };
    let opened = runtime.block_on(Inventory::open(place_of_manifest));
    opened.map_err(|error| match &error {
        inventory::Error::Local(local) => local.into(),
        inventory::Error::Store(_, cause) => {
            let explained = parts::explain(cause, place);
            Error::new(explained.code(), chain(&error))
        }
        _ => Error::new(Code::Usage, chain(&error)),
    })
}

fn refused(error: &report::Error) -> Error {
    match error {
        report::Error::Local(error) => error.into(),
        report::Error::Foreign { .. } => Error::new(
            Code::Exists,
            format!("--report: {error}: name another file, or remove it with its .checkpoint"),
        ),
        report::Error::InUse(_) => Error::new(Code::Local, format!("--report: {error}")),
    }
}

impl From<&LocalFileError> for Error {
    fn from(error: &LocalFileError) -> Error {
        Error::new(Code::Local, chain(error))
    }
}

pub(super) fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::new(Code::Failure, format!("cannot start the runtime: {error}")))
}

/// # Errors
/// [`Code::Incomplete`] if objects need attention.
pub(super) fn conclude(summary: &Summary, what: &str) -> Result<()> {
    match summary.bad {
        0 => Ok(()),
        bad => Err(Error::new(
            Code::Incomplete,
            format!("{bad} of {} objects {what}", summary.objects),
        )),
    }
}

struct SummaryLine {
    json: bool,
    pass: &'static str,
}

impl SummaryLine {
    fn summary(&self, summary: &Summary, took: Duration) {
        if self.json {
            print_json(&serde_json::json!({
                "pass": self.pass,
                "summary": summary,
                "seconds": (took.as_secs_f64() * 1000.0).round() / 1000.0,
            }));
            return;
        }
        let mut text = format!("{}: {} objects", self.pass, summary.objects);
        for (outcome, count) in &summary.outcomes {
            text.push_str(&format!(", {count} {outcome}"));
        }
        text.push_str(&format!(" ({:.1} s)", took.as_secs_f64()));
        print_line(&text);
    }
}

/// Returns the name of the signal that asks the command to end.
async fn interrupt() -> &'static str {
    let (Ok(mut int), Ok(mut term)) = (
        signal(SignalKind::interrupt()),
        signal(SignalKind::terminate()),
    ) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = int.recv() => "interrupted",
        _ = term.recv() => "terminated",
    }
}

/// Each object is changed by one request, or by an upload that takes effect at its end: what has been done stays done.
fn interrupted(how: &str, pass: &str, progress: &Progress) -> Error {
    let done = progress.done.load(Ordering::Relaxed);
    Error::new(
        Code::Interrupted,
        format!(
            "{how}: {pass} had finished {done} objects, which stay as reported; the others are unchanged or in their \
             new state, never between: to go on, run the same command again"
        ),
    )
}
