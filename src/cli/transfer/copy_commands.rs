//! `ossvault put`, `get`, `sync`, `cp` and `mv`: what each takes, and what it is for.

use super::copying::{Command, TransferOptions};
use super::location::{Bare, Location};
use crate::cli::error::{Error, Result};
use crate::cli::exit::Code;
use crate::cli::secrets::Environment;
use crate::text;
use crate::transfer::compare::Compare;

/// Copy files and directories into a bucket, as a mount would store them
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "ossvault put [OPTIONS] SOURCE... DESTINATION",
    after_help = "\
Examples:
  ossvault put photos oss://my-bucket/backup --private-key ~/vault.key
      copies the directory to backup/photos; photos/ with a slash copies what is in it to backup
  ossvault put report.pdf oss://my-bucket/2024/ --public-key ~/vault.key.pub
  ossvault put --exclude '*.o' --exclude .git/ src/ my-bucket:/src --private-key ~/vault.key

What has the same size and time of modification already is left alone, so that an interrupted command goes on where it
was when it is run again."
)]
pub(crate) struct PutArgs {
    #[command(flatten)]
    paths: Paths,
    #[command(flatten)]
    transfer: TransferOptions,
}

/// Copy files and directories out of a bucket
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "ossvault get [OPTIONS] SOURCE... DESTINATION",
    after_help = "\
Examples:
  ossvault get oss://my-bucket/backup/photos . --private-key ~/vault.key
      makes ./photos; with a slash behind the source, its files are put into the destination itself
  ossvault get oss://my-bucket/2024/report.pdf oss://my-bucket/2024/notes.txt . --private-key ~/vault.key

Files appear under their names when they are complete. Owners are restored by root only; set-user-ID bits and device
nodes are restored with --trust-modes only, because anyone who can write to the bucket can make them."
)]
pub(crate) struct GetArgs {
    #[command(flatten)]
    paths: Paths,
    #[command(flatten)]
    transfer: TransferOptions,
}

/// Make a directory, in a bucket or here, the same as another one
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ossvault sync --delete photos oss://my-bucket/photos --private-key ~/vault.key
  ossvault sync --dry-run --delete oss://my-bucket/photos photos --private-key ~/vault.key
  ossvault sync oss://my-bucket/photos oss://my-other-bucket/photos --private-key ~/vault.key

What is excluded is not deleted. Of a tree that has not changed, only listings are requested: one per thousand files.")]
pub(crate) struct SyncArgs {
    /// The directory to copy: a path, or oss://bucket[/path], bucket:/path, file:///folder[#path]
    source: String,
    /// The directory that becomes the same; one of both is in a bucket
    destination: String,
    /// Remove from the destination what the source does not have
    #[arg(long)]
    delete: bool,
    #[command(flatten)]
    transfer: TransferOptions,
}

/// Copy files in a bucket, between buckets, or between a bucket and this machine
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "ossvault cp [OPTIONS] SOURCE... DESTINATION",
    after_help = "\
Examples:
  ossvault cp oss://my-bucket/a.txt oss://my-bucket/b.txt
  ossvault cp -r oss://my-bucket/2024 oss://my-bucket/archive/

Inside a bucket the service copies, without a key and without the data passing through this machine."
)]
pub(crate) struct CpArgs {
    #[command(flatten)]
    paths: Paths,
    /// Copy directories with everything in them
    #[arg(long, short = 'r')]
    recursive: bool,
    #[command(flatten)]
    transfer: TransferOptions,
}

/// Rename files and directories in a bucket, or move them to another one
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "ossvault mv [OPTIONS] SOURCE... DESTINATION",
    after_help = "\
Examples:
  ossvault mv oss://my-bucket/draft.txt oss://my-bucket/final.txt
  ossvault mv oss://my-bucket/2024 oss://my-bucket/archive/

Each object is deleted once its copy is complete: interrupted, the command is run again."
)]
pub(crate) struct MvArgs {
    #[command(flatten)]
    paths: Paths,
    #[command(flatten)]
    transfer: TransferOptions,
}

#[derive(Debug, clap::Args)]
struct Paths {
    /// Files or directories, and then where they go: paths, or oss://bucket[/path], bucket:/path, file:///folder[#path]
    #[arg(id = "source", value_name = "PATH", num_args = 2.., required = true)]
    paths: Vec<String>,
}

fn locations(paths: &Paths) -> Result<(Vec<Location>, Location)> {
    let mut locations = Vec::new();
    for path in &paths.paths {
        locations.push(Location::parse(path, Bare::Path)?);
    }
    let to = locations
        .pop()
        .ok_or_else(|| Error::new(Code::Usage, "a destination is missing".to_owned()))?;
    Ok((locations, to))
}

/// # Errors
/// [`Code::Incomplete`] if some files could not be stored.
pub(crate) fn put(args: &PutArgs, environment: &Environment) -> Result<()> {
    let (sources, to) = locations(&args.paths)?;
    if !sources
        .iter()
        .all(|from| matches!(from, Location::Local(_)))
    {
        return Err(Command::usage(
            "put copies from this machine into a bucket: use get or cp for sources in a bucket"
                .to_owned(),
        ));
    }
    if let Location::Local(path) = &to {
        return Err(Command::usage(format!(
            "put: {} is not in a bucket: the destination comes last, like oss://bucket/path",
            text::path(path)
        )));
    }
    let options = args.transfer.options(false, Compare::Quick);
    Command::new("put", &args.transfer, options, environment)?.run(&sources, &to)
}

/// # Errors
/// [`Code::Incomplete`] if some files could not be fetched.
pub(crate) fn get(args: &GetArgs, environment: &Environment) -> Result<()> {
    let (sources, to) = locations(&args.paths)?;
    if let Some(Location::Local(path)) = sources
        .iter()
        .find(|from| matches!(from, Location::Local(_)))
    {
        return Err(Command::usage(format!(
            "get: {} is not in a bucket: expected oss://bucket/path",
            text::path(path)
        )));
    }
    if !matches!(to, Location::Local(_)) {
        return Err(Command::usage(
            "get copies from a bucket to this machine: the destination comes last, and is a path"
                .to_owned(),
        ));
    }
    let options = args.transfer.options(false, Compare::Quick);
    Command::new("get", &args.transfer, options, environment)?.run(&sources, &to)
}

/// # Errors
/// [`Code::Incomplete`] if they are not the same now.
pub(crate) fn sync(args: &SyncArgs, environment: &Environment) -> Result<()> {
    let from = Location::parse(&args.source, Bare::Path)?;
    let to = Location::parse(&args.destination, Bare::Path)?;
    let options = args.transfer.options(args.delete, Compare::Quick);
    let mut command = Command::new("sync", &args.transfer, options, environment)?;
    command.contents = true;
    command.run(&[from], &to)
}

/// # Errors
/// [`Code::Incomplete`] if some files could not be copied.
pub(crate) fn cp(args: &CpArgs, environment: &Environment) -> Result<()> {
    let (sources, to) = locations(&args.paths)?;
    let options = args.transfer.options(false, Compare::Never);
    let mut command = Command::new("cp", &args.transfer, options, environment)?;
    command.recursive = args.recursive;
    command.run(&sources, &to)
}

/// # Errors
/// [`Code::Incomplete`] if some files could not be moved.
pub(crate) fn mv(args: &MvArgs, environment: &Environment) -> Result<()> {
    let (sources, to) = locations(&args.paths)?;
    let mut all = sources.iter().chain([&to]);
    if all.any(|location| matches!(location, Location::Local(_))) {
        return Err(Command::usage(
            "mv moves inside a bucket and between buckets: use put or get, and remove the source when that succeeded".to_owned(),
        ));
    }
    let options = args.transfer.options(false, Compare::Never);
    let mut command = Command::new("mv", &args.transfer, options, environment)?;
    command.moves = true;
    command.run(&sources, &to)
}
