//! `ossvault keygen`: generates a key pair in two files.

use std::path::{Path, PathBuf};

use super::error::{Error, Result};
use super::exit::Code;
use super::secrets::{Environment, PassphraseArgs};
use super::{output, values};
use crate::crypto::key_file;
use crate::crypto::key_pair::KeyPair;
use crate::text;

/// Generate a key pair: PATH is the private key, PATH.pub the public key
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Where to write the private key, readable only by you; the public key is written to PATH.pub
    pub path: PathBuf,
    /// The key size in bits
    #[arg(long, default_value_t = 3072, value_parser = values::key_bits)]
    pub bits: usize,
    /// Write the private key without a passphrase: anyone who can read the file can read the bucket
    #[arg(long, conflicts_with_all = ["passphrase_file", "passphrase_command"])]
    pub no_passphrase: bool,
    #[command(flatten)]
    pub passphrase: PassphraseArgs,
}

/// # Errors
/// A file of that name exists, there is no passphrase, or the files cannot be written.
pub(super) fn run(args: &Args, environment: &Environment) -> Result<()> {
    // Checked before the passphrase prompt; writing the files checks again, atomically.
    for path in [args.path.clone(), key_file::public_path(&args.path)] {
        if path.symlink_metadata().is_ok() {
            return Err(key_file::KeyFileError::Exists(path).into());
        }
    }
    let passphrase = if args.no_passphrase {
        None
    } else {
        let chosen = args.passphrase.choose(&args.path, environment)?;
        Some(chosen.ok_or_else(|| {
            Error::new(
                Code::Passphrase,
                "no passphrase, and no terminal to ask for one: use --passphrase-file, --passphrase-command or OSSVAULT_PASSPHRASE, or give --no-passphrase",
            )
        })?)
    };
    let fingerprint = generate(
        &args.path,
        args.bits,
        passphrase.as_ref().map(|passphrase| passphrase.as_str()),
    )?;
    let public = key_file::public_path(&args.path);
    output::print_line(&format!("private key: {}", text::path(&args.path)));
    output::print_line(&format!("public key:  {}", text::path(&public)));
    output::print_line(&format!("fingerprint: {fingerprint}"));
    output::print_line(
        "Back the private key up now: without it, nothing encrypted with this key can ever be read again.",
    );
    Ok(())
}

/// Generates a pair, tests it, writes it, and returns its fingerprint.
///
/// # Errors
/// As [`run`].
pub(super) fn generate(path: &Path, bits: usize, passphrase: Option<&str>) -> Result<String> {
    let failed = |error: &dyn std::fmt::Display| {
        Error::new(
            Code::KeyInvalid,
            format!("cannot generate a key of {bits} bits: {error}"),
        )
    };
    let pair = KeyPair::generate(bits).map_err(|error| failed(&error))?;
    pair.prove().map_err(|error| failed(&error))?;
    key_file::write_new(path, &pair, passphrase)?;
    Ok(pair.public().fingerprint().to_owned())
}
