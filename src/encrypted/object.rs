//! One version of one encrypted object.

use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use tokio::sync::OnceCell;

use super::error::{Error, Result};
use crate::base::sync::lock;
use crate::crypto::ctr::ContentCipher;
use crate::crypto::data_key::ContentKind;
use crate::crypto::key_ring::KeyRing;
use crate::crypto::xattr::{self, Xattrs};
use crate::envelope::format::LONGEST_LINK;
use crate::envelope::open::Opened;
use crate::envelope::{self, Envelope, Format};
use crate::store::error::Error as StoreError;
use crate::store::object_store::{ETag, ObjectMeta};

/// An object's version as described by its headers, and its key once it has been unwrapped.
pub struct EncryptedObject {
    pub etag: ETag,
    /// Of the ciphertext and of the plaintext, in bytes.
    pub size: u64,
    /// Whole seconds. After an upload by this program, the time of the response: the object is not newer.
    pub last_modified: SystemTime,
    /// Of the ciphertext.
    pub crc64: Option<u64>,
    pub format: Format,
    locked: Arc<Locked>,
}

/// Shared with copies of the object that this program makes: envelope and key.
struct Locked {
    envelope: Envelope,
    unlocked: OnceCell<Unlocked>,
    /// The last opened encrypted value, and its plaintext. A leaf: held only for a lookup.
    xattrs: Mutex<Option<(String, Xattrs)>>,
}

impl Locked {
    fn new(envelope: Envelope, unlocked: Option<Unlocked>) -> Arc<Locked> {
        Arc::new(Locked {
            envelope,
            unlocked: OnceCell::new_with(unlocked),
            xattrs: Mutex::default(),
        })
    }
}

struct Unlocked {
    cipher: Arc<ContentCipher>,
    /// Fingerprint.
    by: Option<Arc<str>>,
}

impl From<Opened> for Unlocked {
    fn from(opened: Opened) -> Unlocked {
        Unlocked {
            cipher: Arc::new(opened.cipher),
            by: opened.by.map(Arc::from),
        }
    }
}

impl EncryptedObject {
    pub(super) fn new(meta: &ObjectMeta) -> Result<EncryptedObject> {
        let envelope = envelope::detect(&meta.headers.user)?.ok_or(Error::NotEncrypted)?;
        Ok(EncryptedObject {
            etag: meta.etag.clone(),
            size: meta.size,
            last_modified: meta.last_modified,
            crc64: meta.crc64,
            format: envelope.format,
            locked: Locked::new(envelope, None),
        })
    }

    /// An unencrypted object, if such objects may be read.
    pub(super) fn plain(meta: &ObjectMeta) -> EncryptedObject {
        EncryptedObject {
            etag: meta.etag.clone(),
            size: meta.size,
            last_modified: meta.last_modified,
            crc64: meta.crc64,
            format: Format::Plain,
            locked: Locked::new(Envelope::plain(), None),
        }
    }

    /// For an object that was just uploaded: the key is available and need not be unwrapped.
    pub(super) fn with_cipher(self, cipher: Arc<ContentCipher>, by: &str) -> EncryptedObject {
        let unlocked = Unlocked {
            cipher,
            by: Some(by.into()),
        };
        EncryptedObject {
            locked: Locked::new(self.locked.envelope.clone(), Some(unlocked)),
            ..self
        }
    }

    /// The same content after a copy by this program: same envelope, same unwrapped key, new ETag.
    pub fn with_etag(&self, etag: ETag) -> Arc<EncryptedObject> {
        Arc::new(EncryptedObject {
            etag,
            size: self.size,
            last_modified: self.last_modified,
            crc64: self.crc64,
            format: self.format,
            locked: self.locked.clone(),
        })
    }

    /// The key id left by the object's writer; only a hint. None in objects of other writers.
    pub fn key_id(&self) -> Option<&str> {
        self.locked.envelope.key_id()
    }

    pub fn envelope(&self) -> &Envelope {
        &self.locked.envelope
    }

    /// The type of content that the metadata claims: [`unlock`](Self::unlock) fails if the key contradicts
    /// it.
    pub fn claimed_kind(&self) -> ContentKind {
        self.locked.envelope.kind
    }

    /// Checks that the object is valid as a symbolic link, if its metadata claims that it is one. `cipher` is
    /// its own.
    ///
    /// # Errors
    /// [`Error::Damaged`].
    pub fn check_link(&self, cipher: &ContentCipher) -> Result<()> {
        match (self.claimed_kind(), cipher.binding()) {
            (ContentKind::File, _) => Ok(()),
            (ContentKind::Link, _) if !(1..=LONGEST_LINK).contains(&self.size) => {
                Err(Error::damaged(
                    "its metadata says that it is a symbolic link, but its length is not valid for a target",
                ))
            }
            // A start of another type could not be opened.
            (ContentKind::Link, Some(_)) => Ok(()),
            (ContentKind::Link, None) => Err(Error::damaged(
                "it is a symbolic link according to its metadata, but not its key: another program or an earlier version created it, or a file's metadata was changed; mounts follow it with --trust-links",
            )),
        }
    }

    /// Whether another version's envelope text is the same, and therefore key and counter too.
    pub fn same_envelope(&self, other: &EncryptedObject) -> bool {
        self.locked.envelope == other.locked.envelope
    }

    /// The fingerprint of the key that opened it; none until [`unlock`](Self::unlock) has succeeded.
    pub fn opened_by(&self) -> Option<&str> {
        self.locked.unlocked.get()?.by.as_deref()
    }

    /// The cipher if it is already available: no waiting, no key operation.
    pub fn cipher(&self) -> Option<&Arc<ContentCipher>> {
        Some(&self.locked.unlocked.get()?.cipher)
    }

    /// Unwraps on a blocking thread, once; concurrent callers share the result. A failure is not cached, and
    /// is found again each time.
    pub(super) async fn unlock(&self, keys: &Arc<KeyRing>) -> Result<Arc<ContentCipher>> {
        let unlocked = self
            .locked
            .unlocked
            .get_or_try_init(|| async {
                let keys = keys.clone();
                let envelope = self.locked.envelope.clone();
                let opened =
                    tokio::task::spawn_blocking(move || envelope::open::open(&envelope, &keys))
                        .await
                        .map_err(StoreError::other)??;
                Ok::<_, Error>(Unlocked::from(opened))
            })
            .await?;
        Ok(unlocked.cipher.clone())
    }

    /// As [`unlock`](Self::unlock), on this thread, without waiting for a concurrent caller.
    pub(super) fn unlock_here(&self, keys: &KeyRing) -> Result<Arc<ContentCipher>> {
        if let Some(cipher) = self.cipher() {
            return Ok(cipher.clone());
        }
        let unlocked = Unlocked::from(envelope::open::open(&self.locked.envelope, keys)?);
        let cipher = unlocked.cipher.clone();
        let _ = self.locked.unlocked.set(unlocked);
        Ok(cipher)
    }

    /// Opens an encrypted value of version 2 that belongs to the envelope; on a blocking thread, unless it
    /// was opened before.
    pub(super) async fn open_xattrs(&self, keys: &Arc<KeyRing>, sealed: &str) -> Result<Xattrs> {
        if !keys.can_read() {
            return Err(envelope::Error::NoPrivateKey.into());
        }
        let kept = || lock(&self.locked.xattrs);
        if let Some((before, xattrs)) = &*kept()
            && before == sealed
        {
            return Ok(xattrs.clone());
        }
        let (keys, locked, header) = (keys.clone(), self.locked.clone(), sealed.to_owned());
        let open = tokio::task::spawn_blocking(move || {
            let envelope = &locked.envelope;
            xattr::open(
                &keys,
                envelope.hint.as_deref(),
                &envelope.wrapped_key,
                &header,
            )
        });
        let xattrs = open.await.map_err(StoreError::other)??;
        *kept() = Some((sealed.to_owned(), xattrs.clone()));
        Ok(xattrs)
    }

    /// Tries on a blocking thread, and caches nothing.
    pub(super) async fn opens(&self, keys: &Arc<KeyRing>) -> Result<bool> {
        let keys = keys.clone();
        let envelope = self.locked.envelope.clone();
        let opens = tokio::task::spawn_blocking(move || envelope::open::opens(&envelope, &keys));
        Ok(opens.await.map_err(StoreError::other)?)
    }
}
