//! `ossvault rewrap`: the objects of a prefix, wrapped for another key.

use std::path::PathBuf;
use std::sync::Arc;

use super::bulk::{self, BulkOptions, ReadingKeys, Run};
use super::error::{Error, Result};
use super::exit::Code;
use super::options::ReadingOptions;
use super::secrets::{Environment, PassphraseArgs};
use super::values;
use crate::crypto::key_ring::KeyRing;
use crate::crypto::rsa_key::{PrivateKey, PublicKey};
use crate::encrypted::copy::CopyLimits;
use crate::encrypted::{EncryptedBucket, Settings};
use crate::text;
use crate::tools::rewrap::{ReEncrypt, Rewrap};

/// Wrap the objects' keys with another key pair; contents stay where they are
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Interrupted, it is run again: what the new key opens already is left alone. Mounts must know the new private key \
first. Whoever had the old key and a copy of the bucket keeps the data keys: the answer to a leaked key is \
--re-encrypt.")]
pub struct Args {
    #[command(flatten)]
    options: BulkOptions,
    #[command(flatten)]
    keys: ReadingKeys,
    /// The key to wrap with from now on
    #[arg(long, value_name = "FILE", required = true)]
    public_key: PathBuf,
    /// Its private half, to prove that somebody can open what will be written
    #[arg(long, value_name = "FILE")]
    new_private_key: Option<PathBuf>,
    #[command(flatten)]
    new_passphrase: NewPassphraseArgs,
    /// Or its fingerprint, typed: a public key that nobody holds the private half of loses everything
    #[arg(long, value_name = "SHA256", value_parser = values::fingerprint)]
    new_fingerprint: Option<String>,
    /// Upload contents anew, under fresh data keys: `needed` for what cannot be re-wrapped, else everything
    /// whose data key is older than the new key pair
    #[arg(long, value_name = "WHICH", num_args = 0..=1, require_equals = true, default_missing_value = "all")]
    re_encrypt: Option<Which>,
    /// Open everything and change nothing
    #[arg(long)]
    dry_run: bool,
}

/// Where the new private key's passphrase comes from, if not from where the old ones' do.
#[derive(Debug, clap::Args)]
struct NewPassphraseArgs {
    /// Read the new private key's passphrase from this file [default: as the old key's]
    #[arg(
        long,
        value_name = "FILE",
        requires = "new_private_key",
        conflicts_with = "new_passphrase_command"
    )]
    new_passphrase_file: Option<PathBuf>,
    /// Run this with sh for the new private key's passphrase
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
/// [`Code::Incomplete`] if an object is not proved to be opened by the new key alone.
pub fn run(args: &Args, environment: &Environment) -> Result<()> {
    let run = Run::new(&args.options, environment)?;
    let (old, new, public) = keys(&run, args)?;
    let store = run.store()?;
    run.warn_if_versioned(&store, "those stay wrapped to the old key");
    // The first pass needs what opens, the last one what opens with one key alone.
    let bucket = |private: Vec<PrivateKey>| {
        let ring = KeyRing::new(private, public.clone());
        let ring = ring.with_process_pkcs1_limit(args.keys.reading.pkcs1_limit);
        EncryptedBucket::new(store.clone(), ring, Settings::default())
    };
    let rewrap = Arc::new(Rewrap {
        old: bucket(old),
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
    run.require_some(&summary, "rewrap: there is no object under")?;
    // What the service does not let be re-wrapped has an answer of its own.
    let anew = match summary.of("needs-re-encryption") {
        0 => String::new(),
        count => format!(
            "; {count} cannot be re-wrapped where they are: --re-encrypt=needed uploads those anew"
        ),
    };
    if args.dry_run {
        let what = format!("could not be re-wrapped; nothing was changed{anew}");
        return bulk::conclude(&summary, &what);
    }
    let proved = run.pass(&scope, "proof", async move |scope, progress, sink| {
        let work = move |listed| {
            let rewrap = rewrap.clone();
            async move { rewrap.check(listed).await }
        };
        scope.for_each(progress, sink, work).await
    })?;
    let what = format!(
        "are not proved to be opened by the new key alone: keep the old key, and run this again{anew}"
    );
    bulk::conclude(&proved, &what)?;
    match summary.of("needs-new-key") {
        0 => Ok(()),
        count => Err(Error::new(
            Code::Incomplete,
            format!(
                "{count} objects keep data keys that an older key had wrapped: to encrypt those anew, name the new private key with --new-private-key"
            ),
        )),
    }
}

/// The old private keys, the new one if it is here, and the new public one.
fn keys(run: &Run, args: &Args) -> Result<(Vec<PrivateKey>, Option<PrivateKey>, PublicKey)> {
    let files = run.files(&args.keys.reading);
    if args.keys.private_key.is_empty() {
        return Err(Error::new(
            Code::KeyMissing,
            "which key opens the objects now? name it with --private-key",
        ));
    }
    let public = files.public(&args.public_key)?;
    let mismatch = |message: String| Err(Error::new(Code::KeyMismatch, message));
    if let Some(typed) = &args.new_fingerprint
        && typed != public.fingerprint()
    {
        return mismatch(format!(
            "the public key {} has not the fingerprint that was typed: it is another key, or somebody changed the file",
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
                "does anybody hold the private half of {}? prove it with --new-private-key, or type the key's fingerprint, as keygen printed it where the key was made: --new-fingerprint SHA256",
                text::path(&args.public_key)
            ),
        ));
    }
    for key in new.iter().chain(&old) {
        key.prove().map_err(|error| {
            Error::new(
                Code::KeyMismatch,
                format!(
                    "the private key {} fails its proof: {error}",
                    key.public().fingerprint()
                ),
            )
        })?;
    }
    Ok((old, new.pop(), public))
}
