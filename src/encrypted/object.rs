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
    /// What a sealed value held that was opened before, and that value. Held for a look-up only.
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

    /// An object that is not encrypted, for where those are served.
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

    /// For what was just uploaded: the key is at hand and need not be unwrapped.
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

    /// What the metadata claim the content to be: [`unlock`](Self::unlock) fails where the key says otherwise.
    pub fn claimed_kind(&self) -> ContentKind {
        self.locked.envelope.kind
    }

    /// What is wrong with it as a symbolic link, where its metadata claim that it is one. `cipher` is its own.
    ///
    /// # Errors
    /// [`Error::Damaged`].
    pub fn check_link(&self, cipher: &ContentCipher) -> Result<()> {
        match (self.claimed_kind(), cipher.binding()) {
            (ContentKind::File, _) => Ok(()),
            (ContentKind::Link, _) if !(1..=LONGEST_LINK).contains(&self.size) => {
                Err(Error::damaged(
                    "its metadata say that it is a symbolic link, and no target has its length",
                ))
            }
            // A start that says something else has not opened.
            (ContentKind::Link, Some(_)) => Ok(()),
            (ContentKind::Link, None) => Err(Error::damaged(
                "its metadata say that it is a symbolic link, and its key does not: another program made it, or an earlier version of this one, or a file's metadata were changed; mounts follow it with --trust-links",
            )),
        }
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

    /// Opens a sealed value of version 2 that stands beside the envelope; on a blocking thread, unless it was
    /// opened before.
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

    /// Tries on a blocking thread, and keeps nothing.
    pub(super) async fn opens(&self, keys: &Arc<KeyRing>) -> Result<bool> {
        let keys = keys.clone();
        let envelope = self.locked.envelope.clone();
        let opens = tokio::task::spawn_blocking(move || envelope::open::opens(&envelope, &keys));
        Ok(opens.await.map_err(StoreError::other)?)
    }
}
