//! `ossvault adopt`: encrypts the unencrypted objects of a bucket.

use std::path::PathBuf;
use std::sync::Arc;

use super::bulk::{self, BulkOptions, ReadingKeys, Run, SharingOptions};
use super::error::{Error, Result};
use super::exit::Code;
use super::secrets::Environment;
use super::source::Source;
use super::values;
use crate::crypto::key_ring::KeyRing;
use crate::encrypted::{EncryptedBucket, Settings};
use crate::envelope::Format;
use crate::tools::adopt::Adopt;

/// Encrypt the unencrypted objects of a prefix, in place or into another prefix
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Interrupted, it is run again. The provider has seen the plaintext: old versions, backups and logs keep it. In the \
time between, `mount --allow-plaintext PREFIX` shows what is not encrypted yet.")]
pub(super) struct Args {
    #[command(flatten)]
    options: BulkOptions,
    #[command(flatten)]
    keys: ReadingKeys,
    /// The public key to encrypt with [default: the public half of the first private key]
    #[arg(
        long,
        value_name = "FILE",
        env = "OSSVAULT_PUBLIC_KEY",
        hide_env_values = true
    )]
    public_key: Option<PathBuf>,
    /// The format of the stored keys: seed, sdk or dual
    #[arg(long, default_value = "seed", value_parser = values::format)]
    format: Format,
    /// Write the encrypted objects below this prefix of the same bucket, under the same names; the
    /// unencrypted ones are kept, unless --remove is given
    #[arg(long, value_name = "PREFIX")]
    into: Option<String>,
    /// With --into: delete each plaintext object once the encrypted one is confirmed. Objects encrypted by an
    /// earlier run are compared first, which needs a private key
    #[arg(long, requires = "into")]
    remove: bool,
    /// Report what would be encrypted, and change nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    sharing: SharingOptions,
}

/// # Errors
/// [`Code::Incomplete`] if something could not be encrypted.
pub(super) fn run(args: &Args, environment: &Environment) -> Result<()> {
    let mut run = Run::new(&args.options, environment)?;
    let from = run.prefix().to_owned();
    let to = match &args.into {
        None => from.clone(),
        Some(into) => {
            let to = destination(into)?;
            if to.starts_with(&from) || from.starts_with(&to) {
                return Err(Error::new(
                    Code::Usage,
                    "--into: one of the two prefixes is inside the other".to_owned(),
                ));
            }
            to
        }
    };
    let files = run.files(&args.keys.reading);
    let private = files.private(&args.keys.private_key)?;
    let public = match &args.public_key {
        Some(path) => files.public(path)?,
        None => private
            .first()
            .map(|key| key.public().clone())
            .ok_or_else(|| {
                Error::new(
                    Code::KeyMissing,
                    "no key: give one with --private-key FILE or --public-key FILE",
                )
            })?,
    };
    if public.is_weak() {
        return Err(Error::new(
            Code::KeyInvalid,
            "a key of less than 2048 bits is too weak to encrypt with: give another one with --public-key FILE",
        ));
    }
    let fingerprint = public.fingerprint().to_owned();
    let ring =
        KeyRing::new(private, public).with_process_pkcs1_limit(args.keys.reading.pkcs1_limit);
    ring.prove().map_err(|error| {
        Error::new(
            Code::KeyMismatch,
            format!("a private key fails its test: {error}"),
        )
    })?;
    let store = run.store()?;
    run.warn_if_versioned(&store, "those stay unencrypted until they are deleted");
    let flag = |given: bool, name: &'static str| if given { name } else { "" };
    let task = format!(
        "adopt for {fingerprint} --format {} into {to:?}{}{}",
        args.format,
        flag(args.remove, " --remove"),
        flag(args.dry_run, " --dry-run"),
    );
    run.share(&args.sharing, task)?;
    let settings = Settings {
        format: args.format,
        ..Settings::default()
    };
    let adopt = Arc::new(Adopt {
        bucket: EncryptedBucket::new(store.clone(), ring, settings),
        from,
        to,
        remove: args.remove,
        dry_run: args.dry_run,
    });
    let summary = run.pass(
        &run.scope(&store),
        "adopt",
        async move |scope, progress, sink| {
            let work = move |listed| {
                let adopt = adopt.clone();
                async move { adopt.object(listed).await }
            };
            scope.for_each(progress, sink, work).await
        },
    )?;
    run.complete_report()?;
    run.require_some(&summary, "adopt: there are no objects under")?;
    bulk::conclude(
        &summary,
        match args.dry_run {
            true => "would not be encrypted",
            false => "were not encrypted",
        },
    )
}

/// A prefix, parsed like that of a source.
fn destination(into: &str) -> Result<String> {
    let source = Source::parse("oss://bucket", Some(into));
    source
        .map(|source| source.prefix().to_owned())
        .map_err(|message| Error::new(Code::Usage, message))
}
