//! One version of one encrypted object.

use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::OnceCell;

use super::error::{Error, Result};
use crate::crypto::ctr::ContentCipher;
use crate::crypto::key_ring::KeyRing;
use crate::envelope::open::Opened;
use crate::envelope::{self, Envelope, Format};
use crate::store::error::Error as StoreError;
use crate::store::object_store::{ETag, ObjectMeta};

/// What is known of an object's version from its headers, and its key once somebody needed it.
pub struct EncryptedObject {
    pub etag: ETag,
    /// Of the ciphertext and of the plaintext, in bytes.
    pub size: u64,
    /// Whole seconds. After an upload of ours the time of its answer: the object is not younger.
    pub last_modified: SystemTime,
    /// Of the ciphertext.
    pub crc64: Option<u64>,
    pub format: Format,
    locked: Arc<Locked>,
}

/// What outlives our own copies of the object: envelope and key.
struct Locked {
    envelope: Envelope,
    unlocked: OnceCell<Unlocked>,
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
            locked: Arc::new(Locked {
                envelope,
                unlocked: OnceCell::new(),
            }),
        })
    }

    /// An object that is not encrypted, for where those are served.
    pub(super) fn plain(meta: &ObjectMeta) -> EncryptedObject {
        EncryptedObject {
            etag: meta.etag.clone(),
            size: meta.size,
            last_modified: meta.last_modified,
            crc64: meta.crc64,
            format: Format::Plain,
            locked: Arc::new(Locked {
                envelope: Envelope::plain(),
                unlocked: OnceCell::new(),
            }),
        }
    }

    /// For what was just uploaded: the key is at hand and need not be unwrapped.
    pub(super) fn with_cipher(self, cipher: Arc<ContentCipher>, by: &str) -> EncryptedObject {
        EncryptedObject {
            locked: Arc::new(Locked {
                envelope: self.locked.envelope.clone(),
                unlocked: OnceCell::new_with(Some(Unlocked {
                    cipher,
                    by: Some(by.into()),
                })),
            }),
            ..self
        }
    }

    /// The same content after a copy of ours: same envelope, same unwrapped key, new tag.
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

    /// The key id that the object's writer left, a hint only. None in objects of other writers.
    pub fn key_id(&self) -> Option<&str> {
        self.locked.envelope.key_id()
    }

    pub fn envelope(&self) -> &Envelope {
        &self.locked.envelope
    }

    /// Whether another version's envelope text is the same: then so are key and counter.
    pub fn same_envelope(&self, other: &EncryptedObject) -> bool {
        self.locked.envelope == other.locked.envelope
    }

    /// The fingerprint of the key that opened it; none until [`unlock`](Self::unlock) succeeded.
    pub fn opened_by(&self) -> Option<&str> {
        self.locked.unlocked.get()?.by.as_deref()
    }

    /// The cipher if it is there already: no waiting, no key operation.
    pub fn cipher(&self) -> Option<&Arc<ContentCipher>> {
        Some(&self.locked.unlocked.get()?.cipher)
    }

    /// Unwraps on a blocking thread, once; callers that come meanwhile share the answer. A failure is not
    /// kept, but it is found again each time.
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

    /// As [`unlock`](Self::unlock), on this thread; who unlocks it elsewhere meanwhile is not waited for.
    pub(super) fn unlock_here(&self, keys: &KeyRing) -> Result<Arc<ContentCipher>> {
        if let Some(cipher) = self.cipher() {
            return Ok(cipher.clone());
        }
        let unlocked = Unlocked::from(envelope::open::open(&self.locked.envelope, keys)?);
        let cipher = unlocked.cipher.clone();
        let _ = self.locked.unlocked.set(unlocked);
        Ok(cipher)
    }

    /// Tries on a blocking thread, and keeps nothing.
    pub(super) async fn opens(&self, keys: &Arc<KeyRing>) -> Result<bool> {
        let keys = keys.clone();
        let envelope = self.locked.envelope.clone();
        let opens = tokio::task::spawn_blocking(move || envelope::open::opens(&envelope, &keys));
        Ok(opens.await.map_err(StoreError::other)?)
    }
}
