//! Rotation: each object's data key wrapped with a new key, its content untouched.
//!
//! One HEAD and one CopyObject REPLACE per object. The copy carries the tag of the version whose envelope
//! was opened, so the envelope of one version never gets onto the bytes of another. An object that the new
//! key opens is left alone: that is how an interrupted run is resumed. What the service does not let be
//! changed by a copy is uploaded anew under a fresh data key, if that is wanted.

use std::sync::Arc;

use super::bulk::{Finding, Grade, is_internal, is_marker};
use super::resend::Resend;
use crate::crypto::ctr::ContentCipher;
use crate::encrypted::copy::CopyLimits;
use crate::encrypted::{EncryptedBucket, EncryptedObject, Error, Result};
use crate::envelope::Format;
use crate::envelope::write;
use crate::store::error::Error as StoreError;
use crate::store::object_store::{
    CopyHeaders, ListedObject, ObjectHeaders, ObjectKey, ObjectMeta, Overwrite,
};

/// How often an object is looked at anew that other clients replace in between.
const TRIES: usize = 4;

/// What is uploaded anew instead of re-wrapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReEncrypt {
    Nothing,
    /// What cannot be re-wrapped: objects with the SDK's names.
    Needed,
    /// Everything: the answer to a leaked key, whose holder may have kept the data keys.
    All,
}

pub struct Rewrap {
    /// Reads with the old keys, and writes with the new one.
    pub old: Arc<EncryptedBucket>,
    /// Reads with the new key alone. None: only its public half is here, and an object counts as opened by
    /// it when it says so and no old key opens it.
    pub new: Option<Arc<EncryptedBucket>>,
    pub re_encrypt: ReEncrypt,
    /// Open everything and change nothing.
    pub dry_run: bool,
    pub limits: CopyLimits,
}

/// Who opens an object.
enum Opens {
    New,
    Old(Arc<EncryptedObject>, Arc<ContentCipher>),
}

impl Rewrap {
    /// # Errors
    /// Those that are not the object's own.
    pub async fn object(&self, listed: ListedObject) -> std::result::Result<Finding, StoreError> {
        match self.try_object(&listed).await {
            Ok(finding) => Ok(finding),
            Err(Error::NotEncrypted) => Ok(not_encrypted(&listed)),
            Err(error) => Finding::failed(&listed, error),
        }
    }

    async fn try_object(&self, listed: &ListedObject) -> Result<Finding> {
        let key = ObjectKey::new(listed.key.as_str())?;
        let mut tries = 0;
        loop {
            let meta = self.old.store().head(&key).await?;
            match self.version(listed, &key, &meta).await {
                Err(Error::Store(StoreError::PreconditionFailed)) if tries < TRIES => tries += 1,
                result => return result,
            }
        }
    }

    async fn version(
        &self,
        listed: &ListedObject,
        key: &ObjectKey,
        meta: &ObjectMeta,
    ) -> Result<Finding> {
        let (object, cipher) = match self.who_opens(meta).await? {
            Opens::New => {
                let format = self.old.object(meta)?.format;
                return Ok(Finding::new(listed, Grade::Fine, "already").format(format));
            }
            Opens::Old(object, cipher) => (object, cipher),
        };
        let writing = self.old.keys().writing();
        let headers = write::rewrap(&meta.headers.user, object.format, writing, &cipher);
        let anew = match (&headers, self.re_encrypt) {
            (Ok(_), ReEncrypt::Nothing | ReEncrypt::Needed) => None,
            (_, ReEncrypt::All) | (Err(_), ReEncrypt::Needed) => Some("re-encrypted"),
            (Err(why), ReEncrypt::Nothing) => {
                return Ok(Finding::new(listed, Grade::Bad, "needs-re-encryption")
                    .format(object.format)
                    .detail(why.to_string()));
            }
        };
        let outcome = anew.unwrap_or("rewrapped");
        let finding = Finding::new(listed, Grade::Fine, outcome).format(object.format);
        if self.dry_run {
            return Ok(finding);
        }
        match headers {
            Ok(user) if anew.is_none() => {
                let headers = ObjectHeaders {
                    user,
                    ..meta.headers.clone()
                };
                let replace = CopyHeaders::Replace(headers);
                self.old
                    .copy(key, meta, key, replace, Overwrite::Allowed, self.limits)
                    .await?;
            }
            _ => self.send_anew(key, meta, &object, cipher).await?,
        }
        Ok(finding)
    }

    async fn send_anew(
        &self,
        key: &ObjectKey,
        meta: &ObjectMeta,
        object: &EncryptedObject,
        cipher: Arc<ContentCipher>,
    ) -> Result<()> {
        let xattrs = self.old.open_xattrs(object, &meta.headers).await?;
        let format = match object.format {
            Format::Sdk | Format::Dual => object.format,
            // Nobody writes the others any more; the seed format is what they were.
            _ => Format::Seed,
        };
        let resend = Resend {
            bucket: &self.old.in_format(format),
            source: key,
            meta,
            cipher,
            destination: key,
            headers: meta.headers.clone(),
            xattrs: Some(&xattrs),
            overwrite: Overwrite::Allowed,
        };
        resend.run().await.map(drop)
    }

    /// # Errors
    /// [`Error::WrongKey`] and [`Error::KeyMissing`] when no key here does.
    async fn who_opens(&self, meta: &ObjectMeta) -> Result<Opens> {
        let object = self.old.object(meta)?;
        let new_id = self.old.keys().writing().key_id();
        let says_new = object.key_id() == Some(new_id);
        if says_new && self.new_opens(meta).await? {
            return Ok(Opens::New);
        }
        match open(&self.old, &object).await {
            Ok(cipher) => Ok(Opens::Old(object, cipher)),
            Err(Error::KeyMissing(_) | Error::WrongKey) if says_new && self.new.is_none() => {
                Ok(Opens::New)
            }
            Err(error @ (Error::KeyMissing(_) | Error::WrongKey)) if !says_new => {
                match self.new_opens(meta).await? {
                    true => Ok(Opens::New),
                    false => Err(error),
                }
            }
            Err(error) => Err(error),
        }
    }

    /// Whether the new private key opens it; false also when it is not here.
    async fn new_opens(&self, meta: &ObjectMeta) -> Result<bool> {
        let Some(new) = &self.new else {
            return Ok(false);
        };
        match open(new, &*new.object(meta)?).await {
            Ok(_) => Ok(true),
            Err(Error::KeyMissing(_) | Error::WrongKey) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The final pass: reads the headers again, and says whether the new key opens the object and the old
    /// ones do not.
    ///
    /// # Errors
    /// Those that are not the object's own.
    pub async fn check(&self, listed: ListedObject) -> std::result::Result<Finding, StoreError> {
        match self.try_check(&listed).await {
            Ok(finding) => Ok(finding),
            Err(Error::NotEncrypted) => Ok(not_encrypted(&listed)),
            Err(error) => Finding::failed(&listed, error),
        }
    }

    async fn try_check(&self, listed: &ListedObject) -> Result<Finding> {
        let key = ObjectKey::new(listed.key.as_str())?;
        let meta = self.old.store().head(&key).await?;
        let object = self.old.object(&meta)?;
        let bad = |outcome| Finding::new(listed, Grade::Bad, outcome).format(object.format);
        let opened = match &self.new {
            Some(_) => self.new_opens(&meta).await?,
            None => object.key_id() == Some(self.old.keys().writing().key_id()),
        };
        // A PKCS#1 value that the new key opened is not tried with the old ones: its format forbids to try
        // many that do not open, and one value opens for one key.
        let tried = !(opened && object.format == Format::Sdk);
        let old_opens = tried && open(&self.old, &object).await.is_ok();
        Ok(match (opened, old_opens) {
            (true, false) => Finding::new(listed, Grade::Fine, "proved").format(object.format),
            (_, true) => bad("old-key-opens"),
            (false, false) => bad("new-key-does-not-open"),
        })
    }
}

/// The cipher, if a key of the bucket's ring really opened the envelope.
async fn open(bucket: &EncryptedBucket, object: &EncryptedObject) -> Result<Arc<ContentCipher>> {
    let cipher = bucket.unlock(object).await?;
    if cipher.is_opened() {
        Ok(cipher)
    } else {
        Err(Error::WrongKey)
    }
}

/// Directories are not encrypted; what else is not, somebody may want to know.
fn not_encrypted(listed: &ListedObject) -> Finding {
    match is_marker(listed) || is_internal(&listed.key) {
        true => Finding::new(listed, Grade::Left, "directory"),
        false => Finding::new(listed, Grade::Left, "not-encrypted"),
    }
}
