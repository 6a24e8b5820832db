//! The keys a mount is given, read and proved.

use std::path::{Path, PathBuf};

use super::config::MountConfig;
use super::error::{Error, Result};
use super::exit::Code;
use super::options::ReadingOptions;
use super::secrets::{self, GivenPassphrase, PassphraseArgs};
use crate::crypto::key_file::{self, KeyFileError, Permissions};
use crate::crypto::key_pair::{KeyError, KeyPair, PrivateKey, PublicKey};
use crate::crypto::key_ring::KeyRing;

/// Reads the key files, asking for passphrases where they are needed, and proves each pair by one wrap and
/// unwrap.
///
/// # Errors
/// A file that cannot be read or may not be used, keys that do not belong together.
pub fn open(config: &MountConfig, given: &GivenPassphrase) -> Result<KeyRing> {
    crate::crypto::ctr::self_test().map_err(|error| {
        Error::new(
            Code::Failure,
            format!("this machine's AES-CTR computes wrongly: {error}; nothing was mounted"),
        )
    })?;
    let reading = &config.options.keys.reading;
    let files = Files::new(reading, given);
    let private = files.private(&config.private_keys)?;
    let public = config
        .public_key
        .as_deref()
        .map(|path| files.public(path))
        .transpose()?;
    let writing = config
        .writing_key
        .as_deref()
        .map(|path| files.public(path))
        .transpose()?;

    if let (Some(public), Some(path)) = (&public, &config.public_key)
        && !private.is_empty()
        && !private.iter().any(|key| key.public() == public)
    {
        return Err(Error::new(
            Code::KeyMismatch,
            format!(
                "the public key {} (fingerprint {}) does not belong to the private key {} (fingerprint {}): what is written could not be read here; name the right one, or use --writing-key if that is meant",
                path.display(),
                public.fingerprint(),
                config.private_keys[0].display(),
                private[0].public().fingerprint(),
            ),
        ));
    }
    let writing = writing
        .or(public)
        .or_else(|| private.first().map(|key: &PrivateKey| key.public().clone()))
        .ok_or_else(|| Error::new(Code::KeyMissing, "no key: name one with --private-key FILE"))?;
    if let Some(pinned) = &config.options.keys.key_fingerprint
        && pinned != writing.fingerprint()
    {
        return Err(Error::new(
            Code::KeyMismatch,
            format!(
                "the writing key has the fingerprint {}, and --key-fingerprint says {pinned}: somebody changed the key file, or the option is for another key",
                writing.fingerprint()
            ),
        ));
    }
    let ring = KeyRing::new(private, writing).with_process_pkcs1_limit(reading.pkcs1_limit);
    ring.prove().map_err(|error| {
        Error::new(
            Code::KeyMismatch,
            format!("a private key fails its proof: {error}; restore it from its backup"),
        )
    })?;
    if ring.can_read() && !ring.can_read_own_writing() {
        log::warn!("none of the private keys opens what this mount writes");
    }
    Ok(ring)
}

/// For a command that only reads.
///
/// # Errors
/// As [`placeholder`].
pub fn reading_ring(private: Vec<PrivateKey>, options: &ReadingOptions) -> Result<KeyRing> {
    let Some(first) = private.first() else {
        return placeholder();
    };
    let writing = first.public().clone();
    Ok(KeyRing::new(private, writing).with_process_pkcs1_limit(options.pkcs1_limit))
}

/// A ring that opens nothing. Nothing is written with it, but a ring has a writing key.
///
/// # Errors
/// The generator fails.
pub fn placeholder() -> Result<KeyRing> {
    let pair =
        KeyPair::generate(2048).map_err(|error| Error::new(Code::Failure, error.to_string()))?;
    Ok(KeyRing::write_only(pair.public().clone()))
}

/// How key files are read.
pub struct Files<'a> {
    permissions: Permissions,
    passphrase: &'a PassphraseArgs,
    given: &'a GivenPassphrase,
}

impl<'a> Files<'a> {
    pub fn new(options: &'a ReadingOptions, given: &'a GivenPassphrase) -> Files<'a> {
        Files {
            permissions: match options.insecure_key_permissions {
                true => Permissions::Ignored,
                false => Permissions::Enforced,
            },
            passphrase: &options.passphrase,
            given,
        }
    }

    /// Private keys: files, or folders that hold some, in the order of their names. Asks for passphrases
    /// where they are needed.
    ///
    /// # Errors
    /// A file that cannot be read or may not be used, no passphrase or a wrong one, a folder without any.
    pub fn private(&self, paths: &[PathBuf]) -> Result<Vec<PrivateKey>> {
        let mut keys = Vec::new();
        for path in paths {
            if !path.is_dir() {
                keys.push(self.one_private(path)??);
                continue;
            }
            let before = keys.len();
            for file in files_in(path)? {
                match self.one_private(&file)? {
                    // Public keys lie beside private ones, and so do notes.
                    Err(KeyFileError::Key {
                        source: KeyError::PublicOnly | KeyError::NotAKey,
                        ..
                    }) => {}
                    key => keys.push(key?),
                }
            }
            if keys.len() == before {
                return Err(Error::new(
                    Code::KeyMissing,
                    format!("there is no private key in the folder {}", path.display()),
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
        let key = key_file::read_private(path, self.permissions, &mut || {
            self.passphrase
                .read(path, self.given)
                .unwrap_or_else(|error| {
                    asking = Err(error);
                    None
                })
        });
        // Why there was no passphrase says more than that there was none.
        asking?;
        Ok(key)
    }

    /// # Errors
    /// As [`private`](Self::private).
    pub fn public(&self, path: &Path) -> Result<PublicKey> {
        Ok(key_file::read_public(path, self.permissions)?)
    }
}

/// The files of a folder, hidden ones left out, in the order of their names.
fn files_in(folder: &Path) -> Result<Vec<PathBuf>> {
    let failed = |error: std::io::Error| {
        Error::new(
            Code::KeyMissing,
            format!("cannot read the folder {}: {error}", folder.display()),
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
        let (code, advice) = match &error {
            KeyFileError::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => (
                Code::KeyMissing,
                "; make a key pair with: ossvault keygen FILE",
            ),
            KeyFileError::Io { .. } => (Code::KeyMissing, ""),
            KeyFileError::ReadableByOthers { .. } | KeyFileError::WritableByOthers { .. } => {
                (Code::KeyPermissions, "")
            }
            KeyFileError::Exists(_) => (Code::Exists, "; name another file"),
            KeyFileError::NotAFile(_) | KeyFileError::TooLong(_) => (Code::KeyInvalid, ""),
            KeyFileError::Key { source, .. } => match source {
                KeyError::PassphraseNeeded => (
                    Code::Passphrase,
                    "; use --passphrase-file, --passphrase-command or OSSVAULT_PASSPHRASE, or start it from a terminal",
                ),
                KeyError::WrongPassphrase | KeyError::EmptyPassphrase => (Code::Passphrase, ""),
                _ => (Code::KeyInvalid, ""),
            },
        };
        Error::new(code, format!("{error}{advice}"))
    }
}
