//! `ossvault verify` looks for damage and changes nothing. `ossvault restore-envelopes` repairs lost
//! envelopes.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::bulk::{self, BulkOptions, ReadingKeys, Run, SharingOptions};
use super::error::{Error, Result};
use super::exit::Code;
use super::keys;
use super::output;
use super::secrets::Environment;
use crate::encrypted::copy::CopyLimits;
use crate::encrypted::{EncryptedBucket, Settings};
use crate::envelope::Format;
use crate::text;
use crate::tools::envelopes::{Lines, Restore, Saving};
use crate::tools::local_file::LocalFileError;
use crate::tools::verify::{Against, Digests, Verify};

/// Open every envelope and read every object to find damage; changes nothing
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    options: BulkOptions,
    #[command(flatten)]
    keys: ReadingKeys,
    /// Check only envelopes and sizes: one request without a body per object
    #[arg(long)]
    quick: bool,
    /// Compare contents with the files in this folder
    #[arg(long, value_name = "DIR", conflicts_with_all = ["digests", "quick", "manifest", "shard", "report"])]
    compare: Option<PathBuf>,
    /// Compare contents with these digests, in the format of sha256sum
    #[arg(long, value_name = "FILE", conflicts_with_all = ["quick", "manifest", "shard", "report"])]
    digests: Option<PathBuf>,
    /// Save a copy of all envelopes to this new file, for restore-envelopes
    #[arg(long, value_name = "FILE", conflicts_with = "report")]
    save_envelopes: Option<PathBuf>,
    /// Accept unencrypted objects below this directory (repeatable)
    #[arg(long, value_name = "PREFIX")]
    allow_plaintext: Vec<String>,
    #[command(flatten)]
    sharing: SharingOptions,
}

/// # Errors
/// [`Code::Incomplete`] if something is damaged, differs or cannot be opened.
pub(super) fn run(args: &Args, environment: &Environment) -> Result<()> {
    let mut run = Run::new(&args.options, environment)?;
    let against = against(args)?;
    let reading = &args.keys.reading;
    let private = run.files(reading).private(&args.keys.private_key)?;
    let open = !private.is_empty();
    if !open && (args.save_envelopes.is_none() || !matches!(against, Against::Nothing)) {
        return Err(Error::new(
            Code::KeyMissing,
            "verify needs a private key to open the objects: give one with --private-key",
        ));
    }
    let ring = keys::reading_ring(private, reading)?;
    let saving = args.save_envelopes.as_ref().map(|path| {
        let saving = Saving::create(path);
        saving.map(Arc::new).map_err(|error| writing(path, error))
    });
    let saving = saving.transpose()?;
    let store = run.store()?;
    // Comparisons need every object.
    if matches!(against, Against::Nothing) {
        let quick = if args.quick { " --quick" } else { "" };
        run.share(&args.sharing, format!("verify{quick}"))?;
    }
    let prefix = run.prefix();
    let settings = Settings {
        format: Format::Seed,
        plaintext: args
            .allow_plaintext
            .iter()
            .map(|folder| match folder.trim_matches('/') {
                "" => prefix.to_owned(),
                folder => format!("{prefix}{folder}/"),
            })
            .collect(),
    };
    let verify = Arc::new(Verify {
        prefix: prefix.to_owned(),
        bucket: EncryptedBucket::new(store.clone(), ring, settings),
        quick: args.quick,
        open,
        against,
        saving: saving.clone(),
    });
    let summary = run.pass(
        &run.scope(&store),
        "verify",
        async move |scope, progress, sink| verify.run(scope, progress, sink).await,
    )?;
    if let (Some(saving), Some(path)) = (saving, &args.save_envelopes) {
        saving.finish().map_err(|error| writing(path, error))?;
    }
    run.complete_report()?;
    run.require_some(&summary, "verify: there are no objects under")?;
    bulk::conclude(&summary, "are damaged, differ or could not be opened")?;
    if !args.options.json {
        output::print_line(match (open, args.quick) {
            (false, _) => "envelopes saved; no object was opened",
            (true, true) => "no damage found in the envelopes; contents were not read",
            (true, false) => "no damage found",
        });
    }
    Ok(())
}

fn against(args: &Args) -> Result<Against> {
    if let Some(folder) = &args.compare {
        let found = std::fs::metadata(folder).map_err(|error| reading(folder, error))?;
        if !found.is_dir() {
            return Err(Error::new(
                Code::Usage,
                format!("--compare {}: not a folder", text::path(folder)),
            ));
        }
        return Ok(Against::Folder(folder.clone()));
    }
    let Some(path) = &args.digests else {
        return Ok(Against::Nothing);
    };
    let text = std::fs::read_to_string(path).map_err(|error| reading(path, error))?;
    let digests = Digests::parse(&text).map_err(|line| {
        Error::new(
            Code::Usage,
            format!(
                "{}, line {line}: not a line of sha256sum output (DIGEST  NAME)",
                text::path(path)
            ),
        )
    })?;
    Ok(Against::Digests(digests))
}

fn reading(path: &Path, error: std::io::Error) -> Error {
    (&LocalFileError::reading(path, error)).into()
}

fn writing(path: &Path, error: std::io::Error) -> Error {
    if error.kind() == std::io::ErrorKind::AlreadyExists {
        return Error::new(
            Code::Exists,
            format!(
                "{} exists; envelopes are never saved over an existing file: name another file",
                text::path(path)
            ),
        );
    }
    (&LocalFileError::writing(path, error)).into()
}

/// Restore envelopes that another tool's metadata edit has removed
#[derive(Debug, clap::Args)]
pub(super) struct RestoreArgs {
    /// The file written by `verify --save-envelopes`
    file: PathBuf,
    #[command(flatten)]
    options: BulkOptions,
    /// Report what would be restored, and change nothing
    #[arg(long)]
    dry_run: bool,
}

/// # Errors
/// [`Code::Incomplete`] if an object is gone.
pub(super) fn restore(args: &RestoreArgs, environment: &Environment) -> Result<()> {
    let run = Run::new(&args.options, environment)?;
    let lines = Lines::open(&args.file).map_err(|error| reading(&args.file, error))?;
    let store = run.store()?;
    let bucket = EncryptedBucket::new(store.clone(), keys::placeholder()?, Settings::default());
    let restore = Arc::new(Restore {
        bucket,
        dry_run: args.dry_run,
        limits: CopyLimits::default(),
    });
    let summary = run.pass(
        &run.scope(&store),
        "restore",
        async move |scope, progress, sink| restore.run(lines, scope, progress, sink).await,
    )?;
    run.require_some(
        &summary,
        "restore: the file has no line for any object under",
    )?;
    bulk::conclude(&summary, "could not be restored")
}
