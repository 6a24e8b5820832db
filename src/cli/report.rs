//! `ossvault report`: puts the reports of a shared run together.

use std::path::PathBuf;

use serde::Serialize;
use tokio::sync::mpsc;

use super::bulk;
use super::error::{Error, Result};
use super::exit::Code;
use super::options::ServiceOptions;
use super::output::{print_json, print_line};
use super::parts::{self, Missing, Place};
use super::progress::ProgressDisplay;
use super::secrets::Environment;
use super::source::Source;
use super::{logging, values};
use crate::base::error_chain::chain;
use crate::store::error::Error as StoreError;
use crate::store::object_store::ListedObject;
use crate::text;
use crate::tools::bulk::{Progress, Scope, Selection};
use crate::tools::local_file::LocalFileError;
use crate::tools::merge::{self, Comparison, Difference, Key, Pass, Reports, Sorter};

/// Put the reports of a shared rewrap, verify or adopt together, and prove that they are complete
#[derive(Debug, clap::Args)]
#[command(after_help = "\
An inventory is older than the work: with --source, the bucket is listed as well, which shows what has come since. \
Objects that are missing are named; the same run without --report, or with a new one, processes them.")]
pub(super) struct Args {
    /// The reports of all parts
    #[arg(required = true, value_name = "REPORT")]
    files: Vec<PathBuf>,
    /// Compare with this inventory: its manifest.json, as oss://bucket/key or a local path
    #[arg(long, value_name = "MANIFEST")]
    manifest: Option<String>,
    /// Compare with a listing of this bucket: oss://bucket[/prefix], or file:///folder
    #[arg(long)]
    source: Option<String>,
    /// Only the objects below this prefix
    #[arg(long, requires = "source")]
    prefix: Option<String>,
    /// Print lines of JSON on stdout
    #[arg(long)]
    json: bool,
    /// Name the objects that are gone, too
    #[arg(long, short = 'v')]
    verbose: bool,
    /// Show no progress
    #[arg(long, short = 'q')]
    quiet: bool,
    /// Maximum number of requests in flight
    #[arg(long, default_value_t = bulk::PARALLEL, value_name = "N", value_parser = values::parallel)]
    parallel: u16,
    #[command(flatten)]
    service: ServiceOptions,
}

/// The last line of `--json`.
#[derive(Serialize)]
struct Total<'a> {
    command: &'a str,
    source: &'a str,
    /// Parts without a report.
    absent: &'a [u32],
    /// Reports that are not complete.
    unfinished: Vec<String>,
    passes: &'a [Pass],
    #[serde(flatten)]
    compared: &'a Comparison,
    complete: bool,
}

/// # Errors
/// [`Code::Incomplete`] if an object is missing, reported twice or needs attention, or if a report is.
pub(super) fn run(args: &Args, environment: &Environment) -> Result<()> {
    logging::start(0).to_terminal();
    let runtime = bulk::runtime()?;
    let reports = Reports::read(&args.files).map_err(failed)?;
    // Of an inventory alone, the bucket's name is in the reports.
    let named = args.source.as_deref().unwrap_or(&reports.task.source);
    let (named, prefix) = match named.split_once('#') {
        Some((named, prefix)) => (named, Some(prefix)),
        None => (named, args.prefix.as_deref()),
    };
    let source =
        Source::parse(named, prefix).map_err(|message| Error::new(Code::Usage, message))?;
    let place = Place {
        source: &source,
        service: &args.service,
        parallel: args.parallel,
    };
    let inventory = match &args.manifest {
        None => None,
        Some(manifest) => {
            let inventory = bulk::open_inventory(manifest, place, environment, &runtime)?;
            if let Some(other) = &reports.task.inventory
                && other != inventory.identity()
            {
                return Err(Error::new(
                    Code::Usage,
                    "--manifest: the reports are of another inventory",
                ));
            }
            Some(std::sync::Arc::new(inventory))
        }
    };
    let display = ProgressDisplay::new("report", "objects", args.quiet);
    let progress = Progress::default();
    let (task, passes) = (reports.task.clone(), reports.passes.clone());
    let (absent, unfinished) = (reports.absent.clone(), reports.unfinished.clone());
    let mut each = |key: &str, difference: Difference| {
        display.suspend(|| print_difference(args, key, difference));
    };
    let compared = runtime.block_on(async {
        let listing = match &args.source {
            None => None,
            Some(_) => {
                let store = parts::open_store(place, environment, None, Missing::Refused)?;
                let scope = Scope {
                    store,
                    prefix: source.prefix().to_owned(),
                    parallel: args.parallel.into(),
                    selection: Selection::default(),
                };
                Some(scope.listing())
            }
        };
        let comparing = async {
            let keys = match inventory {
                None => None,
                Some(inventory) => {
                    let objects = inventory.objects(source.prefix().to_owned());
                    let keys = tokio::task::block_in_place(|| sorted(objects))?;
                    Some((keys, inventory.created()))
                }
            };
            tokio::task::block_in_place(|| reports.compare(keys, listing, &mut each))
        };
        let compared = display.during(&progress, || 0, std::future::ready(()), comparing);
        compared.await.map_err(|error| match error {
            merge::Error::Store(error) => match LocalFileError::in_chain(&error) {
                Some(local) => local.into(),
                None => parts::explain(&error, place),
            },
            error => failed(error),
        })
    })?;
    drop(display);
    let bad: u64 = passes.iter().map(|pass| pass.bad).sum();
    let left = compared.differences.iter();
    let left: u64 = left
        .filter(|(difference, _)| difference.needs_attention())
        .map(|(_, count)| count)
        .sum();
    let complete = bad + left == 0 && absent.is_empty() && unfinished.is_empty();
    let total = Total {
        command: &task.command,
        source: &task.source,
        absent: &absent,
        unfinished: unfinished.iter().map(|path| text::path(path)).collect(),
        passes: &passes,
        compared: &compared,
        complete,
    };
    match args.json {
        true => print_json(&total),
        false => print_total(&total),
    }
    match complete {
        true => Ok(()),
        false => Err(Error::new(
            Code::Incomplete,
            format!("the run is not complete: {}", reasons(&total, bad, left)),
        )),
    }
}

fn sorted(
    mut objects: mpsc::Receiver<std::result::Result<ListedObject, StoreError>>,
) -> std::result::Result<Sorter, merge::Error> {
    let mut keys = Sorter::of_inventory();
    while let Some(object) = objects.blocking_recv() {
        keys.push(Key {
            key: object?.key,
            pass: 0,
        })?;
    }
    Ok(keys)
}

fn failed(error: merge::Error) -> Error {
    match &error {
        merge::Error::Local(error) => error.into(),
        merge::Error::Temporary(_) => Error::new(Code::Local, chain(&error)),
        _ => Error::new(Code::Usage, chain(&error)),
    }
}

fn print_difference(args: &Args, key: &str, difference: Difference) {
    #[derive(Serialize)]
    struct Line<'a> {
        key: &'a str,
        difference: Difference,
    }
    if args.json {
        print_json(&Line { key, difference });
    } else if args.verbose || difference.needs_attention() {
        print_line(&format!("{}: {key}", difference.name()));
    }
}

fn print_total(total: &Total<'_>) {
    for pass in total.passes {
        let mut text = format!("{}: {} objects", pass.pass, pass.objects);
        for (outcome, count) in &pass.outcomes {
            text.push_str(&format!(", {count} {outcome}"));
        }
        print_line(&text);
    }
    let compared = total.compared;
    let mut text = format!("{} objects in the reports", compared.reported);
    if let Some(count) = compared.inventory {
        text.push_str(&format!(", {count} in the inventory"));
    }
    if let Some(count) = compared.listing {
        text.push_str(&format!(", {count} in the bucket"));
    }
    for (difference, count) in &compared.differences {
        text.push_str(&format!(", {count} {}", difference.name()));
    }
    print_line(&text);
    for path in &total.unfinished {
        print_line(&format!("not complete: {path}"));
    }
    if !total.absent.is_empty() {
        let absent: Vec<String> = total.absent.iter().map(u32::to_string).collect();
        print_line(&format!("no report of part {}", absent.join(", ")));
    }
}

fn reasons(total: &Total<'_>, bad: u64, left: u64) -> String {
    let reasons = [
        (bad, "objects need attention"),
        (left, "objects are missing or reported twice"),
        (total.unfinished.len() as u64, "reports are not complete"),
        (total.absent.len() as u64, "parts have no report"),
    ];
    let reasons = reasons.iter().filter(|(count, _)| *count > 0);
    let reasons: Vec<String> = reasons
        .map(|(count, what)| format!("{count} {what}"))
        .collect();
    reasons.join(", ")
}
