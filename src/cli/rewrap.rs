//! `ossvault rewrap`: wraps the objects of a prefix for another key.

use std::path::PathBuf;
use std::sync::Arc;

use super::bulk::{self, BulkOptions, ReadingKeys, Run, SharingOptions};
use super::error::{Error, Result};
use super::exit::Code;
use super::options::ReadingOptions;
use super::secrets::{Environment, PassphraseArgs};
use super::{output, parts, values};
use crate::crypto::key_ring::KeyRing;
use crate::crypto::rsa_key::{PrivateKey, PublicKey};
use crate::encrypted::copy::CopyLimits;
use crate::encrypted::key_check;
use crate::encrypted::{EncryptedBucket, Settings};
use crate::text;
use crate::tools::rewrap::{ReEncrypt, Rewrap};

/// Wrap the objects' data keys with another key pair; contents are not moved
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Interrupted, it is run again: what the new key opens already is left alone. Mounts must know the new private key \
first. Whoever had the old key and a copy of the bucket keeps the data keys: the answer to a leaked key is \
--re-encrypt.")]
pub(super) struct Args {
    #[command(flatten)]
    options: BulkOptions,
    #[command(flatten)]
    keys: ReadingKeys,
    /// The new public key to wrap with
    #[arg(long, value_name = "FILE", required = true)]
    public_key: PathBuf,
    /// The private half of the new key, to prove that the rewrapped objects can be opened
    #[arg(long, value_name = "FILE")]
    new_private_key: Option<PathBuf>,
    #[command(flatten)]
    new_passphrase: NewPassphraseArgs,
    /// The fingerprint of the new key, as printed by keygen, if its private half is not available here: if the
    /// private half is lost, all data is lost
    #[arg(long, value_name = "SHA256", value_parser = values::fingerprint)]
    new_fingerprint: Option<String>,
    /// Upload contents again under fresh data keys: `needed` for objects that cannot be rewrapped, `all` for
    /// every object whose data key is older than the new key pair
    #[arg(long, value_name = "WHICH", num_args = 0..=1, require_equals = true, default_missing_value = "all")]
    re_encrypt: Option<Which>,
    /// Open everything, and change nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    sharing: SharingOptions,
}

/// The source of the new private key's passphrase, if it differs from that of the old keys.
#[derive(Debug, clap::Args)]
struct NewPassphraseArgs {
    /// Read the new private key's passphrase from this file [default: as for the old key]
    #[arg(
        long,
        value_name = "FILE",
        requires = "new_private_key",
        conflicts_with = "new_passphrase_command"
    )]
    new_passphrase_file: Option<PathBuf>,
    /// Run this with sh to get the new private key's passphrase
    #[arg(long, value_name = "COMMAND", requires = "new_private_key")]
    new_passphrase_command: Option<String>,
}

impl NewPassphraseArgs {
    fn or(&self, others: &PassphraseArgs) -> PassphraseArgs {
        if self.new_passphrase_file.is_none() && self.new_passphrase_command.is_none() {
            return others.clone();
        }
        PassphraseArgs {
            passphrase_file: self.new_passphrase_file.clone(),
            passphrase_command: self.new_passphrase_command.clone(),
        }
    }
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Which {
    Needed,
    All,
}

/// # Errors
/// [`Code::Incomplete`] unless every object is proved to be opened by the new key alone.
pub(super) fn run(args: &Args, environment: &Environment) -> Result<()> {
    let mut run = Run::new(&args.options, environment)?;
    let (old, new, public) = keys(&run, args)?;
    let store = run.store()?;
    run.share(&args.sharing, task(args, &public))?;
    run.warn_if_versioned(&store, "those stay wrapped for the old key");
    // The first pass needs all keys that open objects, the last pass one key alone.
    let bucket = |private: Vec<PrivateKey>| {
        let ring = KeyRing::new(private, public.clone());
        let ring = ring.with_process_pkcs1_limit(args.keys.reading.pkcs1_limit);
        EncryptedBucket::new(store.clone(), ring, Settings::default())
    };
    let replaced: Vec<String> = (old.iter())
        .map(|key| key.public().fingerprint().to_owned())
        .collect();
    let old = bucket(old);
    let rewrap = Arc::new(Rewrap {
        old: old.clone(),
        new: new.map(|key| bucket(vec![key])),
        re_encrypt: match args.re_encrypt {
            None => ReEncrypt::Nothing,
            Some(Which::Needed) => ReEncrypt::Needed,
            Some(Which::All) => ReEncrypt::All,
        },
        prefix: run.prefix().to_owned(),
        dry_run: args.dry_run,
        limits: CopyLimits::default(),
    });
    let scope = run.scope(&store);
    let work = rewrap.clone();
    let summary = run.pass(&scope, "rewrap", async move |scope, progress, sink| {
        let work = move |listed| {
            let rewrap = work.clone();
            async move { rewrap.object(listed).await }
        };
        scope.for_each(progress, sink, work).await
    })?;
    run.require_some(&summary, "rewrap: there are no objects under")?;
    // Objects that the service does not allow to be rewrapped have their own advice.
    let anew = match summary.of("needs-re-encryption") {
        0 => String::new(),
        count => format!(
            "; {count} cannot be rewrapped in place: --re-encrypt=needed uploads those again"
        ),
    };
    if args.dry_run {
        run.complete_report()?;
        let what = format!("could not be rewrapped; nothing was changed{anew}");
        return bulk::conclude(&summary, &what);
    }
    let proved = run.pass(&scope, "proof", async move |scope, progress, sink| {
        let work = move |listed| {
            let rewrap = rewrap.clone();
            async move { rewrap.check(listed).await }
        };
        scope.for_each(progress, sink, work).await
    })?;
    run.complete_report()?;
    // Objects that still need an old key keep it in the marker; so do those that this run does not know of.
    let done = proved.bad == 0 && summary.of("needs-new-key") == 0 && run.is_whole();
    let replaced = if done { &replaced[..] } else { &[] };
    let marked = run.block_on(key_check::after_rewrap(&old, run.prefix(), replaced));
    if let Err(error) = marked {
        output::tell(&format!(
            "warning: the key marker of {} does not name the new key: {}; a mount with that key alone may need --accept-key",
            run.source(),
            parts::cause_of(&error)
        ));
    }
    let what = format!(
        "are not proved to be opened by the new key alone: keep the old key, and run this command again{anew}"
    );
    bulk::conclude(&proved, &what)?;
    match summary.of("needs-new-key") {
        0 => Ok(()),
        count => Err(Error::new(
            Code::Incomplete,
            format!(
                "{count} objects keep data keys that an older key had wrapped: to encrypt them again, give the new private key with --new-private-key"
            ),
        )),
    }
}

/// The command with everything that determines what it does to an object.
fn task(args: &Args, public: &PublicKey) -> String {
    let re_encrypt = match args.re_encrypt {
        None => "",
        Some(Which::Needed) => " --re-encrypt=needed",
        Some(Which::All) => " --re-encrypt=all",
    };
    let dry_run = if args.dry_run { " --dry-run" } else { "" };
    format!("rewrap for {}{re_encrypt}{dry_run}", public.fingerprint())
}

/// The old private keys, the new one if it is available, and the new public key.
fn keys(run: &Run, args: &Args) -> Result<(Vec<PrivateKey>, Option<PrivateKey>, PublicKey)> {
    let files = run.files(&args.keys.reading);
    if args.keys.private_key.is_empty() {
        return Err(Error::new(
            Code::KeyMissing,
            "no key to open the objects: give the old key with --private-key",
        ));
    }
    let public = files.public(&args.public_key)?;
    let mismatch = |message: String| Err(Error::new(Code::KeyMismatch, message));
    if let Some(typed) = &args.new_fingerprint
        && typed != public.fingerprint()
    {
        return mismatch(format!(
            "the public key {} does not have the given fingerprint: it is another key, or the file was changed",
            text::path(&args.public_key)
        ));
    }
    let (mut new, old): (Vec<_>, Vec<_>) = files
        .private(&args.keys.private_key)?
        .into_iter()
        .partition(|key| *key.public() == public);
    if let Some(path) = &args.new_private_key {
        let options = ReadingOptions {
            passphrase: args.new_passphrase.or(&args.keys.reading.passphrase),
            ..args.keys.reading.clone()
        };
        let files = run.files(&options);
        let key = files.private(std::slice::from_ref(path))?.remove(0);
        if *key.public() != public {
            return mismatch(format!(
                "{} is not the private half of {}",
                text::path(path),
                text::path(&args.public_key)
            ));
        }
        new.push(key);
    }
    if old.is_empty() {
        return mismatch(format!(
            "the old key and the new one are the same ({})",
            public.fingerprint()
        ));
    }
    if new.is_empty() && args.new_fingerprint.is_none() {
        return Err(Error::new(
            Code::KeyMissing,
            format!(
                "refused: nothing proves that anyone holds the private half of {}; give it with --new-private-key, or give the fingerprint that keygen printed with --new-fingerprint",
                text::path(&args.public_key)
            ),
        ));
    }
    for key in new.iter().chain(&old) {
        key.prove().map_err(|error| {
            Error::new(
                Code::KeyMismatch,
                format!(
                    "the private key {} fails its test: {error}",
                    key.public().fingerprint()
                ),
            )
        })?;
    }
    Ok((old, new.pop(), public))
}
