//! Reads and tests the keys that a mount is given.

use std::path::{Path, PathBuf};

use super::config::MountConfig;
use super::error::{Error, Result};
use super::exit::Code;
use super::options::{KeyOptions, ReadingOptions};
use super::output;
use super::secrets::{self, Environment, PassphraseArgs};
use crate::crypto::key_error::{KeyError, Strength};
use crate::crypto::key_file::{self, KeyFileError, Permissions};
use crate::crypto::key_pair::KeyPair;
use crate::crypto::key_ring::KeyRing;
use crate::crypto::rsa_key::{PrivateKey, PublicKey};
use crate::text;

/// The keys that a command is given.
pub(super) struct KeyFiles<'a> {
    pub options: &'a KeyOptions,
    pub private: &'a [PathBuf],
    pub public: Option<&'a Path>,
    pub writing: Option<&'a Path>,
    /// Nothing is encrypted.
    pub read_only: bool,
}

/// The keys of a mount.
///
/// # Errors
/// As [`ring`].
pub(super) fn open(config: &MountConfig, given: &Environment) -> Result<KeyRing> {
    let named = KeyFiles {
        options: &config.options.keys,
        private: &config.private_keys,
        public: config.public_key.as_deref(),
        writing: config.writing_key.as_deref(),
        read_only: config.options.read_only,
    };
    ring(&named, given)
}

/// Reads the key files, asking for passphrases where needed, and tests each pair with one wrap and unwrap.
///
/// # Errors
/// A file cannot be read or must not be used, or keys do not belong together.
pub(super) fn ring(named: &KeyFiles<'_>, given: &Environment) -> Result<KeyRing> {
    crate::crypto::ctr::self_test().map_err(|error| {
        Error::new(
            Code::Failure,
            format!("the AES-CTR self-test failed on this machine: {error}; nothing was done"),
        )
    })?;
    let reading = &named.options.reading;
    let files = Files::new(reading, given);
    let private = files.private(named.private)?;
    let public = named.public.map(|path| files.public(path)).transpose()?;
    let writing = named.writing.map(|path| files.public(path)).transpose()?;

    if let (Some(public), Some(path)) = (&public, named.public)
        && !private.is_empty()
        && !private.iter().any(|key| key.public() == public)
    {
        return Err(Error::new(
            Code::KeyMismatch,
            format!(
                "the public key {} (fingerprint {}) does not belong to the private key {} (fingerprint {}): this mount could not read what it writes; give the matching public key, or use --writing-key if this is intended",
                text::path(path),
                public.fingerprint(),
                text::path(&named.private[0]),
                private[0].public().fingerprint(),
            ),
        ));
    }
    let writing = writing
        .or(public)
        .or_else(|| private.first().map(|key: &PrivateKey| key.public().clone()))
        .ok_or_else(|| Error::new(Code::KeyMissing, "no key: give one with --private-key FILE"))?;
    if writing.is_weak() && !named.read_only {
        return Err(Error::new(Code::KeyInvalid, TOO_WEAK_TO_WRITE));
    }
    if let Some(pinned) = &named.options.key_fingerprint
        && pinned != writing.fingerprint()
    {
        return Err(Error::new(
            Code::KeyMismatch,
            format!(
                "the writing key has the fingerprint {}, but --key-fingerprint is {pinned}: the key file was changed, or the option is for another key",
                writing.fingerprint()
            ),
        ));
    }
    let ring = KeyRing::new(private, writing).with_process_pkcs1_limit(reading.pkcs1_limit);
    ring.prove().map_err(|error| {
        Error::new(
            Code::KeyMismatch,
            format!("a private key fails its test: {error}; restore it from its backup"),
        )
    })?;
    if ring.can_read() && !ring.can_read_own_writing() {
        log::warn!("none of the private keys can decrypt what is written");
    }
    Ok(ring)
}

/// What weak keys may not do.
pub(super) const TOO_WEAK_TO_WRITE: &str = "a key of less than 2048 bits is too weak to write with: give another key to write with (--writing-key FILE.pub), or mount with --read-only";

/// For a command that only reads.
///
/// # Errors
/// As [`placeholder`].
pub(super) fn reading_ring(private: Vec<PrivateKey>, options: &ReadingOptions) -> Result<KeyRing> {
    let Some(first) = private.first() else {
        return placeholder();
    };
    let writing = first.public().clone();
    Ok(KeyRing::new(private, writing).with_process_pkcs1_limit(options.pkcs1_limit))
}

/// A ring that opens nothing. Nothing is encrypted with it, but every ring has a writing key.
///
/// # Errors
/// The generator fails.
pub(super) fn placeholder() -> Result<KeyRing> {
    let pair =
        KeyPair::generate(2048).map_err(|error| Error::new(Code::Failure, error.to_string()))?;
    Ok(KeyRing::write_only(pair.public().clone()))
}

/// How to read key files.
pub(super) struct Files<'a> {
    permissions: Permissions,
    strength: Strength,
    passphrase: &'a PassphraseArgs,
    given: &'a Environment,
}

impl<'a> Files<'a> {
    pub(super) fn new(options: &'a ReadingOptions, given: &'a Environment) -> Files<'a> {
        Files {
            permissions: match options.insecure_key_permissions {
                true => Permissions::Ignored,
                false => Permissions::Enforced,
            },
            strength: match options.allow_weak_keys {
                true => Strength::WeakAllowed,
                false => Strength::Enforced,
            },
            passphrase: &options.passphrase,
            given,
        }
    }

    /// Private keys from files, or from folders in the order of their file names. Asks for passphrases where
    /// needed.
    ///
    /// # Errors
    /// A file cannot be read or must not be used, a passphrase is missing or wrong, or a folder contains no
    /// key.
    pub(super) fn private(&self, paths: &[PathBuf]) -> Result<Vec<PrivateKey>> {
        let mut keys = Vec::new();
        for path in paths {
            // A folder whose name is the text of a key is treated as a file, and refused.
            if !path.is_dir() {
                keys.push(self.one_private(path)??);
                continue;
            }
            let before = keys.len();
            for file in files_in(path)? {
                match self.one_private(&file)? {
                    Err(KeyFileError::Key {
                        source: KeyError::PublicOnly,
                        ..
                    }) => {}
                    Err(KeyFileError::Key { path, source })
                        if key_file::holds_no_private_key(&source) =>
                    {
                        output::tell(&format!("skipped: {}: {source}", text::path(&path)));
                    }
                    key => keys.push(key?),
                }
            }
            if keys.len() == before {
                return Err(Error::new(
                    Code::KeyMissing,
                    format!("there is no private key in the folder {}", text::path(path)),
                ));
            }
        }
        if !keys.is_empty() {
            secrets::lock_heap();
        }
        Ok(keys)
    }

    fn one_private(&self, path: &Path) -> Result<std::result::Result<PrivateKey, KeyFileError>> {
        let mut asking = Ok(());
        let key = key_file::read_private(path, self.permissions, self.strength, &mut || {
            self.passphrase
                .read(path, self.given, self.permissions)
                .unwrap_or_else(|error| {
                    asking = Err(error);
                    None
                })
        });
        // The reason why there was no passphrase says more than its absence.
        asking?;
        Ok(key)
    }

    /// # Errors
    /// As [`private`](Self::private).
    pub(super) fn public(&self, path: &Path) -> Result<PublicKey> {
        Ok(key_file::read_public(path, self.permissions)?)
    }
}

/// The files of a folder except hidden ones, in the order of their names.
fn files_in(folder: &Path) -> Result<Vec<PathBuf>> {
    let failed = |error: std::io::Error| {
        Error::new(
            Code::KeyMissing,
            format!("cannot read the folder {}: {error}", text::path(folder)),
        )
    };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        if !hidden && entry.path().is_file() {
            files.push(entry.path());
        }
    }
    files.sort_unstable();
    Ok(files)
}

impl From<KeyFileError> for Error {
    fn from(error: KeyFileError) -> Error {
        use std::io::ErrorKind;
        let advice = match &error {
            KeyFileError::Io { path, source } => return not_read(path, source),
            KeyFileError::Write { path, source } => return not_written(path, source),
            KeyFileError::Exists(path) if path.is_dir() => {
                return Error::new(
                    Code::Exists,
                    format!(
                        "{} is a folder: give a file in it, like {}",
                        text::path(path),
                        text::path(&path.join("vault.key"))
                    ),
                );
            }
            KeyFileError::Exists(_) => "; give another file name",
            KeyFileError::Key {
                source: KeyError::PassphraseNeeded,
                ..
            } => {
                "; use --passphrase-file, --passphrase-command or OSSVAULT_PASSPHRASE, or run the command in a terminal"
            }
            _ => "",
        };
        let code = match &error {
            KeyFileError::ReadableByOthers { .. }
            | KeyFileError::WritableByOthers { .. }
            | KeyFileError::Exchangeable { .. } => Code::KeyPermissions,
            KeyFileError::Exists(_) => Code::Exists,
            KeyFileError::Key {
                source:
                    KeyError::PassphraseNeeded | KeyError::WrongPassphrase | KeyError::EmptyPassphrase,
                ..
            } => Code::Passphrase,
            _ => Code::KeyInvalid,
        };
        return Error::new(code, format!("{error}{advice}"));

        fn not_read(path: &Path, source: &std::io::Error) -> Error {
            let shown = text::path(path);
            match source.kind() {
                ErrorKind::NotFound if !text::looks_like_a_path(&path.to_string_lossy()) => {
                    Error::new(
                        Code::KeyMissing,
                        format!(
                            "key file {shown}: this is not a file name; save the key in a file and give its name"
                        ),
                    )
                }
                ErrorKind::NotFound => Error::new(
                    Code::KeyMissing,
                    format!(
                        "key file {shown}: there is no such file; generate a key pair with: ossvault keygen FILE"
                    ),
                ),
                ErrorKind::PermissionDenied => Error::new(
                    Code::KeyPermissions,
                    format!(
                        "key file {shown}: you have no permission to read it{}",
                        owner_of(path)
                    ),
                ),
                _ => Error::new(Code::KeyMissing, format!("key file {shown}: {source}")),
            }
        }

        fn not_written(path: &Path, source: &std::io::Error) -> Error {
            let folder = match path.parent() {
                Some(folder) if !folder.as_os_str().is_empty() => folder,
                _ => Path::new("."),
            };
            let why = match source.kind() {
                ErrorKind::NotFound => {
                    format!("the folder {} does not exist", text::path(folder))
                }
                ErrorKind::PermissionDenied => {
                    format!(
                        "you have no permission to write to the folder {}",
                        text::path(folder)
                    )
                }
                _ => source.to_string(),
            };
            Error::new(
                Code::Local,
                format!("cannot write {}: {why}", text::path(path)),
            )
        }
    }
}

/// For a message, if the system knows them.
fn owner_of(path: &Path) -> String {
    use std::os::unix::fs::MetadataExt;
    match path.metadata() {
        Ok(found) => format!(
            " (owner: uid {}, mode {:04o})",
            found.uid(),
            found.mode() & 0o7777
        ),
        Err(_) => String::new(),
    }
}
