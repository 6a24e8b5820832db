//! Key rotation: wraps each object's data key with a new key and leaves its content untouched.
//!
//! One HEAD and one CopyObject with REPLACE per object. The copy carries the ETag of the version whose
//! envelope was opened, so the envelope of one version never gets onto the bytes of another. An object that
//! the new key opens is skipped, which is how an interrupted run is resumed. Objects that the service does
//! not allow to be changed by a copy are uploaded again under a fresh data key, on request; and so is
//! everything, if data keys may have leaked. A mark in the metadata distinguishes objects whose data key is
//! older than their wrapping from those that were uploaded under the new key.

use std::sync::Arc;

use super::bulk::{is_marker, keep_time};
use super::finding::{Finding, Grade};
use super::resend::Resend;
use crate::crypto::ctr::ContentCipher;
use crate::crypto::data_key::ContentKind;
use crate::encrypted::copy::CopyLimits;
use crate::encrypted::reserved::is_reserved;
use crate::encrypted::{EncryptedBucket, EncryptedObject, Error, Result, Xattrs};
use crate::envelope::Format;
use crate::envelope::format::is_rewrapped;
use crate::envelope::write;
use crate::store::error::Error as StoreError;
use crate::store::object_store::{
    CopyHeaders, ListedObject, ObjectHeaders, ObjectKey, ObjectMeta, Overwrite,
};

/// How often an object is read again if other clients replace it in between.
const TRIES: usize = 4;

/// What to upload again instead of rewrapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReEncrypt {
    Nothing,
    /// Objects that cannot be rewrapped: those with the SDK's header names.
    Needed,
    /// Everything whose data key an old key has wrapped: the response to a leaked key, whose holder may have
    /// kept the data keys.
    All,
}

pub(crate) struct Rewrap {
    /// Decrypts with the old keys, and encrypts with the new one.
    pub old: Arc<EncryptedBucket>,
    /// Decrypts with the new key alone. None: only its public half is available, and an object counts as
    /// opened by it if it names the new key and no old key opens it.
    pub new: Option<Arc<EncryptedBucket>>,
    pub re_encrypt: ReEncrypt,
    /// The prefix to rewrap: empty, or ends with `/`.
    pub prefix: String,
    /// Open everything, and change nothing.
    pub dry_run: bool,
    pub limits: CopyLimits,
}

/// Which key opens an object.
enum Opens {
    /// With its cipher, unless the new private key is not available.
    New(Arc<EncryptedObject>, Option<Arc<ContentCipher>>),
    Old(Arc<EncryptedObject>, Arc<ContentCipher>),
}

impl Rewrap {
    /// # Errors
    /// Errors that do not concern a single object.
    pub(crate) async fn object(
        &self,
        listed: ListedObject,
    ) -> std::result::Result<Finding, StoreError> {
        match self.try_object(&listed).await {
            Ok(finding) => Ok(finding),
            Err(Error::NotEncrypted) => Ok(self.not_encrypted(&listed)),
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
        let leaked = self.re_encrypt == ReEncrypt::All && is_rewrapped(&meta.headers.user);
        let (object, cipher) = match self.who_opens(meta).await? {
            Opens::Old(object, cipher) => (object, cipher),
            Opens::New(object, Some(cipher)) if leaked => (object, cipher),
            Opens::New(object, None) if leaked => {
                return Ok(Finding::new(listed, Grade::Bad, "needs-new-key")
                    .format(object.format)
                    .detail("its data key is older than the new key, and only the new private key can open it to encrypt it again"));
            }
            Opens::New(object, _) => {
                return self.xattrs_of_rewrapped(listed, key, meta, &object).await;
            }
        };
        let writing = self.old.keys().writing();
        let headers = write::rewrap(&meta.headers.user, object.format, writing, &cipher);
        let anew = match (&headers, self.re_encrypt) {
            (Ok(_), ReEncrypt::Nothing | ReEncrypt::Needed) => None,
            (_, ReEncrypt::All) | (Err(_), ReEncrypt::Needed)
                if is_unbound_link(&object, &cipher) =>
            {
                return Ok(Finding::new(listed, Grade::Bad, "unbound-link")
                    .format(object.format)
                    .detail("it is a symbolic link according to its metadata, but not its key: encrypted again, a file whose metadata was changed would become a link permanently. Create the link again in a mount, or remove it"));
            }
            (_, ReEncrypt::All) | (Err(_), ReEncrypt::Needed) => Some(()),
            (Err(why), ReEncrypt::Nothing) => {
                return Ok(Finding::new(listed, Grade::Bad, "needs-re-encryption")
                    .format(object.format)
                    .detail(why.to_string()));
            }
        };
        let xattrs = match self.xattrs(&object, meta).await {
            Err(Error::KeyMissing(_) | Error::WrongKey) if self.new.is_none() => {
                return Ok(Finding::new(listed, Grade::Bad, "xattrs-need-new-key")
                    .format(object.format)
                    .detail("its extended attributes were set by a mount that writes for the new key, and only the new private key can open them to store them with the new envelope: give it with --new-private-key"));
            }
            xattrs => xattrs?,
        };
        let outcome = match (anew, self.dry_run) {
            (None, false) => "rewrapped",
            (None, true) => "to-rewrap",
            (Some(()), false) => "re-encrypted",
            (Some(()), true) => "to-re-encrypt",
        };
        let finding = Finding::new(listed, Grade::Fine, outcome).format(object.format);
        if self.dry_run {
            return Ok(finding);
        }
        match headers {
            Ok(user) if anew.is_none() => {
                let mut headers = ObjectHeaders {
                    user,
                    ..meta.headers.clone()
                };
                keep_time(&mut headers, meta);
                self.old.seal_xattrs(&xattrs, &mut headers)?;
                self.replace_headers(key, meta, headers).await?;
            }
            _ => {
                self.send_anew(key, meta, &object, cipher, &xattrs).await?;
            }
        }
        Ok(finding)
    }

    /// Objects that the new key opens are skipped, except for extended attributes that another host has since
    /// encrypted for an old key.
    async fn xattrs_of_rewrapped(
        &self,
        listed: &ListedObject,
        key: &ObjectKey,
        meta: &ObjectMeta,
        object: &EncryptedObject,
    ) -> Result<Finding> {
        let finding = |outcome| Finding::new(listed, Grade::Fine, outcome).format(object.format);
        if !self.old.opens_xattrs(object, &meta.headers).await {
            return Ok(finding("already"));
        }
        if !self.dry_run {
            let xattrs = self.old.open_xattrs(object, &meta.headers).await?;
            let mut headers = meta.headers.clone();
            keep_time(&mut headers, meta);
            self.old.seal_xattrs(&xattrs, &mut headers)?;
            self.replace_headers(key, meta, headers).await?;
        }
        Ok(finding(if self.dry_run {
            "to-rewrap"
        } else {
            "rewrapped"
        }))
    }

    /// The extended attributes of an object that was opened. Mounts that write for the new key encrypt them
    /// for that key, whichever key the content is for.
    async fn xattrs(&self, object: &EncryptedObject, meta: &ObjectMeta) -> Result<Xattrs> {
        match (self.old.open_xattrs(object, &meta.headers).await, &self.new) {
            (Err(Error::KeyMissing(_) | Error::WrongKey), Some(new)) => {
                new.open_xattrs(object, &meta.headers).await
            }
            (xattrs, _) => xattrs,
        }
    }

    async fn replace_headers(
        &self,
        key: &ObjectKey,
        meta: &ObjectMeta,
        headers: ObjectHeaders,
    ) -> Result<()> {
        let replace = CopyHeaders::Replace(headers);
        let copy = self
            .old
            .copy(key, meta, key, replace, Overwrite::Allowed, self.limits);
        copy.await?;
        Ok(())
    }

    async fn send_anew(
        &self,
        key: &ObjectKey,
        meta: &ObjectMeta,
        object: &EncryptedObject,
        cipher: Arc<ContentCipher>,
        xattrs: &Xattrs,
    ) -> Result<()> {
        let mut headers = meta.headers.clone();
        keep_time(&mut headers, meta);
        let format = match object.format {
            Format::Sdk | Format::Dual => object.format,
            // Nothing writes the other formats any more; the seed format is their successor.
            _ => Format::Seed,
        };
        let resend = Resend {
            bucket: &self.old.in_format(format),
            source: key,
            meta,
            cipher,
            destination: key,
            headers,
            xattrs: Some(xattrs),
            overwrite: Overwrite::Allowed,
        };
        resend.run().await.map(drop)
    }

    /// # Errors
    /// [`Error::WrongKey`] and [`Error::KeyMissing`] if no available key opens it.
    async fn who_opens(&self, meta: &ObjectMeta) -> Result<Opens> {
        let object = self.old.object(meta)?;
        let new_id = self.old.keys().writing().key_id();
        let says_new = object.key_id() == Some(new_id);
        if says_new && let Some((object, cipher)) = self.new_opens(meta).await? {
            return Ok(Opens::New(object, Some(cipher)));
        }
        match open(&self.old, &object).await {
            Ok(cipher) => Ok(Opens::Old(object, cipher)),
            Err(Error::KeyMissing(_) | Error::WrongKey) if says_new && self.new.is_none() => {
                Ok(Opens::New(object, None))
            }
            Err(error @ (Error::KeyMissing(_) | Error::WrongKey)) if !says_new => {
                match self.new_opens(meta).await? {
                    Some((object, cipher)) => Ok(Opens::New(object, Some(cipher))),
                    None => Err(error),
                }
            }
            Err(error) => Err(error),
        }
    }

    /// The object, if the new private key is available and opens it.
    async fn new_opens(
        &self,
        meta: &ObjectMeta,
    ) -> Result<Option<(Arc<EncryptedObject>, Arc<ContentCipher>)>> {
        let Some(new) = &self.new else {
            return Ok(None);
        };
        let object = new.object(meta)?;
        match open(new, &object).await {
            Ok(cipher) => Ok(Some((object, cipher))),
            Err(Error::KeyMissing(_) | Error::WrongKey) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The final pass: reads the headers again, and reports whether the new key opens the object and the old
    /// ones do not. Without the new private key, it relies on the key that the object names.
    ///
    /// # Errors
    /// Errors that do not concern a single object.
    pub(crate) async fn check(
        &self,
        listed: ListedObject,
    ) -> std::result::Result<Finding, StoreError> {
        match self.try_check(&listed).await {
            Ok(finding) => Ok(finding),
            Err(Error::NotEncrypted) => Ok(self.not_encrypted(&listed)),
            Err(error) => Finding::failed(&listed, error),
        }
    }

    async fn try_check(&self, listed: &ListedObject) -> Result<Finding> {
        let key = ObjectKey::new(listed.key.as_str())?;
        let meta = self.old.store().head(&key).await?;
        let object = self.old.object(&meta)?;
        let finding = |grade, outcome| Finding::new(listed, grade, outcome).format(object.format);
        // By trial, whichever key the object names. No request follows, so the service cannot observe what
        // opens here.
        let old_opens =
            self.old.opens(&object).await? || self.old.opens_xattrs(&object, &meta.headers).await;
        let (opened, fine, bad) = match &self.new {
            Some(new) => (new.opens(&object).await?, "proved", "new-key-does-not-open"),
            None => (
                object.key_id() == Some(self.old.keys().writing().key_id()),
                "names-new-key",
                "does-not-name-new-key",
            ),
        };
        Ok(match (old_opens, opened) {
            (true, _) => finding(Grade::Bad, "old-key-opens"),
            (false, true) => finding(Grade::Fine, fine),
            (false, false) => finding(Grade::Bad, bad),
        })
    }

    /// Directories are not encrypted; other unencrypted objects may be of interest.
    fn not_encrypted(&self, listed: &ListedObject) -> Finding {
        match is_marker(listed) || is_reserved(&listed.key, &self.prefix) {
            true => Finding::new(listed, Grade::Left, "directory"),
            false => Finding::new(listed, Grade::Left, "not-encrypted"),
        }
    }
}

/// The cipher, if a key of the bucket's ring actually opened the envelope.
async fn open(bucket: &EncryptedBucket, object: &EncryptedObject) -> Result<Arc<ContentCipher>> {
    let cipher = bucket.unlock(object).await?;
    if cipher.is_opened() {
        Ok(cipher)
    } else {
        Err(Error::WrongKey)
    }
}

/// A link according to its metadata, but not according to anything that only its writer could have produced.
fn is_unbound_link(object: &EncryptedObject, cipher: &ContentCipher) -> bool {
    object.claimed_kind() == ContentKind::Link && cipher.binding().is_none()
}
