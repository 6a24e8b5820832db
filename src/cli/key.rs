//! `ossvault key`: describes a key file, changes its passphrase, and takes the public half out of it.

use std::path::PathBuf;

use super::error::{Error, Result};
use super::exit::Code;
use super::output;
use super::secrets::{Environment, PassphraseArgs};
use crate::crypto::key_error::{KeyError, Strength};
use crate::crypto::key_file::{self, Described, KeyFileError, Permissions};
use crate::crypto::key_passphrase;
use crate::crypto::rsa_key::PublicKey;
use crate::text;

/// Show a key file, change its passphrase, or write its public half
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Describe a private or public key file; changes nothing
    Show(ShowArgs),
    /// Change, set or remove the passphrase of a private key file
    Passwd(PasswdArgs),
    /// Print the public half of a key, or write it to a new file
    Public(PublicArgs),
}

/// Of every action.
#[derive(Debug, clap::Args)]
struct FileArgs {
    /// The key file
    file: PathBuf,
    #[command(flatten)]
    passphrase: PassphraseArgs,
}

#[derive(Debug, clap::Args)]
struct ShowArgs {
    #[command(flatten)]
    key: FileArgs,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct PasswdArgs {
    #[command(flatten)]
    key: FileArgs,
    /// Read the new passphrase from the first line of this file [default: ask at the terminal]
    #[arg(long, value_name = "FILE", conflicts_with = "new_passphrase_command")]
    new_passphrase_file: Option<PathBuf>,
    /// Run this with sh and use the first line of its output as the new passphrase
    #[arg(long, value_name = "COMMAND")]
    new_passphrase_command: Option<String>,
    /// Remove the passphrase: anyone who can read the file can then read the bucket
    #[arg(long, conflicts_with_all = ["new_passphrase_file", "new_passphrase_command"])]
    no_passphrase: bool,
    /// Accept a key file that other users can read or change
    #[arg(long)]
    insecure_key_permissions: bool,
    /// Accept a private key of 1024 to 2047 bits
    #[arg(long)]
    allow_weak_keys: bool,
}

#[derive(Debug, clap::Args)]
struct PublicArgs {
    #[command(flatten)]
    key: FileArgs,
    /// Write it to this new file instead of the terminal; never overwrites
    #[arg(long, short = 'o', value_name = "FILE")]
    output: Option<PathBuf>,
}

/// # Errors
/// The file is not a key or cannot be used, a passphrase is missing or wrong, or a file cannot be written.
pub(super) fn run(args: &Args, environment: &Environment) -> Result<()> {
    match &args.action {
        Action::Show(args) => show(args, environment),
        Action::Passwd(args) => passwd(args, environment),
        Action::Public(args) => public(args, environment),
    }
}

impl FileArgs {
    /// The public half of the key in the file. None: it is encrypted, and there is no passphrase. A weak key is
    /// described like any other, and so is one that others can access: this does nothing with it.
    fn public_half(&self, described: &Described, given: &Environment) -> Result<Option<PublicKey>> {
        if !described.description.private {
            return Ok(Some(key_file::read_public(
                &self.file,
                Permissions::Ignored,
            )?));
        }
        let mut asking = Ok(());
        let key = key_file::read_private(
            &self.file,
            Permissions::Ignored,
            Strength::WeakAllowed,
            &mut || {
                let read = self
                    .passphrase
                    .read(&self.file, given, Permissions::Enforced);
                read.unwrap_or_else(|error| {
                    asking = Err(error);
                    None
                })
            },
        );
        asking?;
        match key {
            Ok(key) => Ok(Some(key.public().clone())),
            Err(KeyFileError::Key {
                source: KeyError::PassphraseNeeded,
                ..
            }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// The names of the fields in JSON.
#[derive(serde::Serialize)]
struct Shown {
    file: String,
    kind: &'static str,
    bits: Option<usize>,
    fingerprint: Option<String>,
    format: String,
    encrypted: bool,
    mode: String,
    uid: u32,
    problem: Option<String>,
}

fn show(args: &ShowArgs, given: &Environment) -> Result<()> {
    let described = key_file::describe(&args.key.file)?;
    let public = args.key.public_half(&described, given)?;
    let found = &described.description;
    let shown = Shown {
        file: text::path(&args.key.file),
        kind: if found.private { "private" } else { "public" },
        bits: public.as_ref().map(PublicKey::bits),
        fingerprint: public.as_ref().map(|key| key.fingerprint().to_owned()),
        format: format!(
            "{}, {}",
            found.structure,
            if found.pem { "PEM" } else { "DER" }
        ),
        encrypted: found.encrypted,
        mode: format!("{:04o}", described.mode),
        uid: described.uid,
        problem: described.problem.as_ref().map(ToString::to_string),
    };
    if args.json {
        output::print_pretty_json(&shown);
        return Ok(());
    }
    let unknown = || "unknown without the passphrase".to_owned();
    let bits = shown.bits.map(|bits| bits.to_string());
    for (name, value) in [
        ("file", text::path(&args.key.file)),
        ("kind", format!("{} key", shown.kind)),
        ("bits", bits.unwrap_or_else(unknown)),
        (
            "fingerprint",
            shown.fingerprint.clone().unwrap_or_else(unknown),
        ),
        ("format", shown.format.clone()),
        (
            "encrypted",
            match (found.private, found.encrypted) {
                (true, true) => "yes",
                (true, false) => "no: anyone who can read the file can use the key",
                (false, _) => "no",
            }
            .to_owned(),
        ),
        (
            "permissions",
            format!("mode {}, uid {}", shown.mode, shown.uid),
        ),
    ] {
        output::print_line(&format!("{:<12} {value}", format!("{name}:")));
    }
    if let Some(problem) = &shown.problem {
        output::print_line(&format!("problem:     {problem}"));
    }
    Ok(())
}

fn passwd(args: &PasswdArgs, given: &Environment) -> Result<()> {
    let file = &args.key.file;
    let permissions = match args.insecure_key_permissions {
        true => Permissions::Ignored,
        false => Permissions::Enforced,
    };
    let strength = match args.allow_weak_keys {
        true => Strength::WeakAllowed,
        false => Strength::Enforced,
    };
    let described = key_file::describe(file)?;
    // With the old passphrase first: a person who has forgotten it is not asked for a new one.
    let mut old = None;
    let mut asking = Ok(());
    let opened = key_file::read_private(file, permissions, strength, &mut || {
        let read = args.key.passphrase.read(file, given, permissions);
        old = read.unwrap_or_else(|error| {
            asking = Err(error);
            None
        });
        old.clone()
    });
    asking?;
    opened?;
    let new = match args.no_passphrase {
        true => None,
        false => {
            let source = PassphraseArgs {
                passphrase_file: args.new_passphrase_file.clone(),
                passphrase_command: args.new_passphrase_command.clone(),
            };
            Some(source.choose_another(file)?.ok_or_else(|| {
                Error::new(
                    Code::Passphrase,
                    "no new passphrase, and no terminal to ask for one: use --new-passphrase-file or --new-passphrase-command, or give --no-passphrase",
                )
            })?)
        }
    };
    let public = key_passphrase::change(
        file,
        permissions,
        strength,
        &mut || old.clone(),
        new.as_ref().map(|passphrase| passphrase.as_str()),
    )?;
    let what = match (described.description.encrypted, new.is_some()) {
        (true, true) => "passphrase changed",
        (false, true) => "passphrase set",
        (true, false) => "passphrase removed",
        (false, false) => "written again without a passphrase",
    };
    output::print_line(&format!("{what}: {}", text::path(file)));
    output::print_line(&format!("fingerprint: {}", public.fingerprint()));
    output::print_line(
        "Copies and backups of the file still open with what opened them before: replace them.",
    );
    Ok(())
}

fn public(args: &PublicArgs, given: &Environment) -> Result<()> {
    let described = key_file::describe(&args.key.file)?;
    let public = args.key.public_half(&described, given)?.ok_or_else(|| {
        Error::from(KeyFileError::Key {
            path: args.key.file.clone(),
            source: KeyError::PassphraseNeeded,
        })
    })?;
    let Some(path) = &args.output else {
        output::print_public_key(&public.to_pem());
        return Ok(());
    };
    key_file::write_public(path, &public)?;
    output::print_line(&format!("public key:  {}", text::path(path)));
    output::print_line(&format!("fingerprint: {}", public.fingerprint()));
    Ok(())
}
