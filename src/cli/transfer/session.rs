//! What all commands without a mount have in common: options, the connection to the bucket, and how they end.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};

use super::report::{self, Report};
use crate::cli::bulk::{PARALLEL, runtime};
use crate::cli::config;
use crate::cli::error::{Error, Result};
use crate::cli::exit::Code;
use crate::cli::findings::FindingLines;
use crate::cli::keys::{self, KeyFiles};
use crate::cli::logging;
use crate::cli::options::{KeyOptions, ServiceOptions};
use crate::cli::output::tell;
use crate::cli::parts::{self, Missing, Place};
use crate::cli::progress::ProgressDisplay;
use crate::cli::secrets::Environment;
use crate::cli::source::Source;
use crate::cli::transfer::location::shown;
use crate::cli::values;
use crate::crypto::key_ring::KeyRing;
use crate::encrypted::Settings;
use crate::store;
use crate::store::object_store::ObjectStore;
use crate::tools::bulk::{Progress, Sink};
use crate::tools::finding::{Finding, Summary};
use crate::tools::local_file::LocalFileError;
use crate::transfer::find_place::{Found, find};
use crate::transfer::options::Control;

#[derive(Clone, Debug, clap::Args)]
pub(super) struct CommonOptions {
    /// Print JSON on stdout, one object a line
    #[arg(long)]
    pub json: bool,
    /// Maximum number of files in progress, and of requests in flight
    #[arg(long, default_value_t = PARALLEL, value_name = "N", value_parser = values::parallel)]
    pub parallel: u16,
    #[command(flatten)]
    pub service: ServiceOptions,
}

/// Of commands that change something.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct ReportOptions {
    /// Say what would be done, and change nothing
    #[arg(long, short = 'n')]
    pub dry_run: bool,
    /// Name every file, not only those that need attention
    #[arg(long, short = 'v')]
    pub verbose: bool,
    /// No progress and no summary
    #[arg(long, short = 'q', conflicts_with = "verbose")]
    pub quiet: bool,
    /// Succeed even if there is nothing to do
    #[arg(long)]
    pub allow_empty: bool,
}

pub(super) struct Session<'a> {
    pub common: &'a CommonOptions,
    environment: &'a Environment,
    runtime: tokio::runtime::Runtime,
    /// Read once: a passphrase is asked for once.
    keys: OnceLock<Arc<KeyRing>>,
    pub control: Control,
}

impl<'a> Session<'a> {
    /// # Errors
    /// The machine cannot run it.
    pub(super) fn new(
        common: &'a CommonOptions,
        environment: &'a Environment,
    ) -> Result<Session<'a>> {
        logging::start(0).to_terminal();
        // Folders that files wait in are open.
        if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
            && soft < 65_536
        {
            let _ = setrlimit(Resource::RLIMIT_NOFILE, hard.min(65_536), hard);
        }
        Ok(Session {
            common,
            environment,
            runtime: runtime()?,
            keys: OnceLock::new(),
            control: Control::default(),
        })
    }

    pub(super) fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    fn place<'p>(&'p self, source: &'p Source) -> Place<'p> {
        Place {
            source,
            service: &self.common.service,
            parallel: self.common.parallel,
        }
    }

    /// # Errors
    /// As [`parts::open_store`].
    pub(super) fn store(&self, source: &Source, missing: Missing) -> Result<Arc<dyn ObjectStore>> {
        let _inside = self.runtime.enter();
        parts::open_store(self.place(source), self.environment, None, missing)
    }

    pub(super) fn explain(&self, source: &Source, error: &store::error::Error) -> Error {
        match LocalFileError::in_chain(error) {
            Some(local) => local.into(),
            None => parts::explain(error, self.place(source)),
        }
    }

    /// # Errors
    /// As [`keys::ring`].
    pub(super) fn keys(&self, options: &KeyOptions, read_only: bool) -> Result<Arc<KeyRing>> {
        if let Some(keys) = self.keys.get() {
            return Ok(keys.clone());
        }
        let named = KeyFiles {
            options,
            private: &options.private_key,
            public: options.public_key.as_deref(),
            writing: options.writing_key.as_deref(),
            read_only,
        };
        let ring = keys::ring(&named, self.environment)?;
        Ok(self.keys.get_or_init(|| Arc::new(ring)).clone())
    }

    pub(super) fn settings(&self, options: &KeyOptions) -> Settings {
        let below = |folder: &String| match folder.trim_matches('/') {
            "" => String::new(),
            folder => format!("{folder}/"),
        };
        Settings {
            format: options.format,
            plaintext: options.allow_plaintext.iter().map(below).collect(),
        }
    }

    /// What a name in a bucket stands for.
    ///
    /// # Errors
    /// [`Code::Incomplete`] if that is nothing.
    pub(super) fn find(
        &self,
        source: &Source,
        store: &Arc<dyn ObjectStore>,
        key: &str,
    ) -> Result<Found> {
        match self.block_on(find(store, key)) {
            Err(error) => Err(self.explain(source, &error)),
            Ok(Found::Nothing(nearest)) => {
                let mut message = format!("there is nothing at {}", shown(source, key));
                match nearest {
                    Some(nearest) => {
                        message.push_str(&format!("; did you mean {}?", shown(source, &nearest)));
                    }
                    None => message.push_str("; check the name"),
                }
                Err(Error::new(Code::Incomplete, message))
            }
            Ok(found) => Ok(found),
        }
    }

    /// Where the times of the objects below a prefix are kept from one run to the next.
    pub(super) fn times_of(&self, source: &Source, prefix: &str) -> Option<PathBuf> {
        let place = shown(source, prefix);
        config::state_of(&place, &self.common.service).map(|folder: PathBuf| folder.join("times"))
    }

    pub(super) fn report(&self, options: &ReportOptions, pass: &'static str) -> Report {
        Report {
            lines: FindingLines {
                json: self.common.json,
                verbose: options.verbose || options.dry_run,
                pass,
            },
            quiet: options.quiet,
            began: Instant::now(),
        }
    }

    /// Runs one transfer, with its progress. Interrupted, it ends what is under way.
    ///
    /// # Errors
    /// Those of the transfer.
    pub(super) fn run<W>(&self, report: &Report, source: &Source, work: W) -> Result<Summary>
    where
        W: AsyncFnOnce(&Progress, Sink<'_>) -> std::result::Result<Summary, store::error::Error>,
    {
        let progress = Progress::default();
        let lines = report.lines;
        let display = ProgressDisplay::new(lines.pass, "files", report.quiet);
        let result = self.block_on(async {
            let mut sink = |finding: &Finding| display.suspend(|| lines.print(finding));
            let mut working = std::pin::pin!(display.during(
                &progress,
                || self.control.moved(),
                // How much a tree holds that filters apply to takes the same walk again.
                std::future::pending(),
                work(&progress, &mut sink),
            ));
            let mut interrupt = signal(SignalKind::interrupt()).ok();
            let mut terminate = signal(SignalKind::terminate()).ok();
            loop {
                tokio::select! {
                    result = &mut working => break result,
                    () = received(&mut interrupt) => self.interrupted(&display, lines.pass),
                    () = received(&mut terminate) => self.interrupted(&display, lines.pass),
                }
            }
        });
        result.map_err(|error| self.explain(source, &error))
    }

    /// The first time, what is under way is ended well.
    fn interrupted(&self, display: &ProgressDisplay, pass: &str) {
        if self.control.is_stopped() {
            std::process::exit(Code::Interrupted.number().into());
        }
        self.control.stop();
        display.suspend(|| {
            tell(&format!(
                "{pass}: finishing what is under way; press Ctrl-C again to end at once"
            ));
        });
    }

    /// How a command ends.
    ///
    /// # Errors
    /// [`Code::Interrupted`]; [`Code::Incomplete`] if something needs attention, or there was nothing to do.
    pub(super) fn conclude(
        &self,
        report: &Report,
        options: &ReportOptions,
        summary: &Summary,
        nothing: &str,
    ) -> Result<()> {
        report.summary(summary, options.dry_run);
        if self.control.is_stopped() {
            return Err(Error::new(
                Code::Interrupted,
                format!(
                    "interrupted: {}; run the same command again to go on: what is done is not done again",
                    report::counted(report.lines.pass, summary)
                ),
            ));
        }
        match summary.bad {
            0 if summary.objects == 0 && !options.allow_empty => Err(Error::new(
                Code::Incomplete,
                format!("{nothing}; check the name and the filters, or give --allow-empty"),
            )),
            0 => Ok(()),
            bad => Err(Error::new(
                Code::Incomplete,
                format!(
                    "{bad} of {} files need attention: they are listed above; the others are done",
                    summary.objects
                ),
            )),
        }
    }
}

/// Waits for ever where signals cannot be received.
async fn received(signal: &mut Option<tokio::signal::unix::Signal>) {
    match signal {
        Some(signal) => {
            signal.recv().await;
        }
        None => std::future::pending().await,
    }
}

/// Adds what another transfer of the same command did.
pub(super) fn add(whole: &mut Summary, part: Summary) {
    whole.objects += part.objects;
    whole.bytes += part.bytes;
    whole.bad += part.bad;
    for (outcome, count) in part.outcomes {
        *whole.outcomes.entry(outcome).or_default() += count;
    }
}

/// The error of a local path.
pub(super) fn local(path: &Path, error: std::io::Error) -> Error {
    (&LocalFileError::reading(path, error)).into()
}
