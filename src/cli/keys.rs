//! The keys a mount is given, read and proved.

use super::config::MountConfig;
use super::error::{Error, Result};
use super::exit::Code;
use crate::crypto::key_file::{self, KeyFileError, Permissions};
use crate::crypto::key_pair::{KeyError, PrivateKey};
use crate::crypto::key_ring::KeyRing;

/// Reads the key files, asking for passphrases where they are needed, and proves each pair by one wrap and
/// unwrap.
///
/// # Errors
/// A file that cannot be read or may not be used, keys that do not belong together.
pub fn open(config: &MountConfig) -> Result<KeyRing> {
    crate::crypto::ctr::self_test().map_err(|error| {
        Error::new(
            Code::Failure,
            format!("this machine's AES-CTR computes wrongly: {error}; nothing was mounted"),
        )
    })?;
    let permissions = if config.options.keys.insecure_key_permissions {
        Permissions::Ignored
    } else {
        Permissions::Enforced
    };
    let mut private = Vec::new();
    for path in &config.private_keys {
        let mut asking = Ok(());
        let key = key_file::read_private(path, permissions, &mut || match config
            .options
            .keys
            .passphrase
            .read(path)
        {
            Ok(passphrase) => passphrase,
            Err(error) => {
                asking = Err(error);
                None
            }
        });
        // Why there was no passphrase says more than that there was none.
        asking?;
        private.push(key?);
    }
    let public = config
        .public_key
        .as_deref()
        .map(|path| key_file::read_public(path, permissions))
        .transpose()?;
    let writing = config
        .writing_key
        .as_deref()
        .map(|path| key_file::read_public(path, permissions))
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
    let ring = KeyRing::new(private, writing);
    ring.prove().map_err(|error| {
        Error::new(
            Code::KeyMismatch,
            format!("a private key fails its proof: {error}; restore it from its backup"),
        )
    })?;
    log::info!("writing with the key {}", ring.writing().fingerprint());
    if !ring.can_read() {
        log::info!("no private key: the mount is write-only");
    } else if !ring.can_read_own_writing() {
        log::warn!("none of the private keys opens what this mount writes");
    }
    Ok(ring)
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
