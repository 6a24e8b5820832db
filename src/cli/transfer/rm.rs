//! `ossvault rm`.

use std::sync::Arc;

use futures_util::stream;

use super::filters::FilterOptions;
use super::location::{Location, shown};
use super::session::{CommonOptions, ReportOptions, Session, add};
use crate::cli::error::{Error, Result};
use crate::cli::exit::Code;
use crate::cli::keys;
use crate::cli::parts::Missing;
use crate::cli::secrets::Environment;
use crate::encrypted::{EncryptedBucket, Settings};
use crate::tools::bulk;
use crate::tools::finding::{Finding, Grade, Summary};
use crate::transfer::find_place::Found;
use crate::transfer::options::Place;
use crate::transfer::plan::delete;
use crate::transfer::remove::{Remove, keep_directory_of};

/// Delete files and directories in a bucket
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ossvault rm oss://my-bucket/draft.txt
  ossvault rm -r --dry-run --exclude '*.jpg' oss://my-bucket/2019

With -r, every object below the name is deleted, those that a mount does not show included.")]
pub(crate) struct Args {
    /// oss://bucket/path, bucket:/path, or file:///folder#path (repeatable)
    #[arg(id = "source", value_name = "PLACE", required = true)]
    places: Vec<String>,
    /// Delete directories with everything in them
    #[arg(long, short = 'r')]
    recursive: bool,
    /// Allow a whole bucket to be emptied
    #[arg(long, requires = "recursive")]
    whole_bucket: bool,
    #[command(flatten)]
    report: ReportOptions,
    #[command(flatten)]
    filters: FilterOptions,
    #[command(flatten)]
    common: CommonOptions,
}

/// # Errors
/// [`Code::Incomplete`] if something could not be deleted, or is not there.
pub(crate) fn run(args: &Args, environment: &Environment) -> Result<()> {
    let session = Session::new(&args.common, environment)?;
    let report = session.report(&args.report, "rm");
    let filter = Arc::new(args.filters.filter()?);
    let mut places = Vec::new();
    for place in &args.places {
        let (source, key) = Location::in_bucket(place)?;
        if key.is_empty() && !args.whole_bucket {
            return Err(Error::new(
                Code::Usage,
                format!("{source} is a whole bucket: to empty it, give -r --whole-bucket"),
            ));
        }
        places.push((source, key));
    }
    let mut whole = Summary::default();
    let mut missing = None;
    for (source, key) in &places {
        let store = session.store(source, Missing::Refused)?;
        let bucket = EncryptedBucket::new(store.clone(), keys::placeholder()?, Settings::default());
        let place = Place {
            bucket,
            prefix: String::new(),
        };
        let found = match session.find(source, &store, key) {
            Err(error) if error.code() == Code::Incomplete && places.len() > 1 => {
                crate::cli::output::tell(&error.to_string());
                missing = Some(error.code());
                continue;
            }
            found => found?,
        };
        let dry_run = args.report.dry_run;
        let keeps = |key: &str| {
            if dry_run {
                return Ok(());
            }
            let kept = session.block_on(keep_directory_of(&place, key));
            kept.map_err(|error| session.explain(source, &error))
        };
        let summary = match found {
            Found::Nothing(_) => continue,
            Found::Directory(_) if !args.recursive => {
                return Err(Error::new(
                    Code::Usage,
                    format!(
                        "{} is a directory: give -r to delete it",
                        shown(source, key)
                    ),
                ));
            }
            Found::File(listed) => {
                keeps(&listed.key)?;
                session.run(&report, source, async |progress, sink| {
                    let lost = Finding::new(&listed, Grade::Bad, "failed");
                    let work = async move { delete(&store, vec![listed], dry_run).await };
                    bulk::each(stream::iter([Ok((lost, work))]), 0, progress, sink).await
                })?
            }
            Found::Directory(prefix) => {
                keeps(&prefix)?;
                let remove = Remove {
                    store,
                    prefix,
                    filter: filter.clone(),
                    dry_run,
                    control: session.control.clone(),
                };
                session.run(&report, source, async |progress, sink| {
                    remove
                        .run(args.common.parallel.into(), progress, sink)
                        .await
                })?
            }
        };
        add(&mut whole, summary);
    }
    session.conclude(&report, &args.report, &whole, "there was nothing to delete")?;
    missing.map_or(Ok(()), |code| Err(Error::silent(code)))
}
