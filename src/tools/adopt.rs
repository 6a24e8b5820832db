//! Encrypts the unencrypted objects of a bucket, in place or under another prefix.
//!
//! Each object is read with If-Match, encrypted under a fresh key while it is sent, and replaced as a whole:
//! it is never half done, and an interrupted run can be repeated. The provider saw the plaintext and keeps it
//! in old versions and backups; nothing here changes that.

use std::sync::Arc;

use super::bulk::{is_marker, keep_time};
use super::finding::{Finding, Grade};
use super::resend::Resend;
use crate::base::crc64::Crc64;
use crate::crypto::ctr::ContentCipher;
use crate::crypto::data_key::ContentKind;
use crate::encrypted::reserved::is_reserved;
use crate::encrypted::{EncryptedBucket, EncryptedObject, Error, Result};
use crate::envelope;
use crate::envelope::format::{LONGEST_LINK, claimed_kind};
use crate::files::attributes::Attributes;
use crate::store::error::Error as StoreError;
use crate::store::object_store::{
    CopyHeaders, CopyRequest, ETag, ListedObject, ObjectKey, ObjectMeta, Overwrite,
};

/// The number of bytes read from a body at a time.
const STEP: usize = 128 << 10;

/// How often an object is read again if other clients replace it in between.
const TRIES: usize = 4;

pub(crate) struct Adopt {
    pub bucket: Arc<EncryptedBucket>,
    /// The prefix to adopt: empty, or ends with `/`.
    pub from: String,
    /// The destination: the same prefix, or another one of the bucket; neither is inside the other.
    pub to: String,
    /// Delete the plaintext once the encrypted object is confirmed. Only for another prefix.
    pub remove: bool,
    pub dry_run: bool,
}

impl Adopt {
    /// # Errors
    /// Errors that do not concern a single object.
    pub(crate) async fn object(
        &self,
        listed: ListedObject,
    ) -> std::result::Result<Finding, StoreError> {
        match self.try_object(&listed).await {
            Ok(finding) => Ok(finding),
            Err(error) => Finding::failed(&listed, error),
        }
    }

    async fn try_object(&self, listed: &ListedObject) -> Result<Finding> {
        if is_reserved(&listed.key, &self.from) {
            return Ok(Finding::new(listed, Grade::Left, "internal"));
        }
        let source = ObjectKey::new(listed.key.as_str())?;
        let outside = || StoreError::InvalidName(listed.key.clone());
        let below = (listed.key.strip_prefix(self.from.as_str())).ok_or_else(outside)?;
        if below.is_empty() {
            return Ok(Finding::new(listed, Grade::Left, "directory"));
        }
        let destination = ObjectKey::new(format!("{}{below}", self.to))?;
        let mut tries = 0;
        loop {
            let meta = self.bucket.store().head(&source).await?;
            match self.version(listed, &source, &destination, meta).await {
                Err(Error::Store(StoreError::PreconditionFailed)) if tries < TRIES => tries += 1,
                result => return result,
            }
        }
    }

    async fn version(
        &self,
        listed: &ListedObject,
        source: &ObjectKey,
        destination: &ObjectKey,
        meta: ObjectMeta,
    ) -> Result<Finding> {
        let in_place = source == destination;
        if let Some(envelope) = envelope::detect(&meta.headers.user)? {
            if !self.bucket.can_read() {
                return Ok(Finding::new(listed, Grade::Bad, "not-confirmed")
                    .format(envelope.format)
                    .detail("it has an envelope, which cannot be checked without a private key"));
            }
            // An envelope is text that anyone with write access can attach to plaintext.
            let object = self.bucket.object(&meta)?;
            if !self.bucket.unlock(&object).await?.is_opened() {
                return Err(Error::WrongKey);
            }
            return Ok(match in_place {
                true => Finding::new(listed, Grade::Fine, "already"),
                false => Finding::new(listed, Grade::Left, "encrypted-already"),
            }
            .format(envelope.format));
        }
        if source.as_str().ends_with('/') {
            return self.directory(listed, source, destination, &meta).await;
        }
        if claimed_kind(&meta.headers.user) == ContentKind::Link
            && !(1..=LONGEST_LINK).contains(&meta.size)
        {
            return Ok(Finding::new(listed, Grade::Bad, "not-a-link")
                .detail("its metadata says that it is a symbolic link, but its length is not valid for a target: remove its x-oss-meta-mode"));
        }
        let mut headers = meta.headers.clone();
        keep_time(&mut headers, &meta);
        if !in_place
            && let Some(finding) = self.done_before(listed, source, destination, &meta).await?
        {
            if finding.grade == Grade::Fine {
                self.remove_source(source, &meta).await?;
            }
            return Ok(finding);
        }
        if self.dry_run {
            return Ok(Finding::new(listed, Grade::Fine, "to-adopt"));
        }
        let resend = Resend {
            bucket: &self.bucket,
            source,
            meta: &meta,
            cipher: Arc::new(ContentCipher::identity()),
            destination,
            headers,
            xattrs: None,
            overwrite: match in_place {
                true => Overwrite::Allowed,
                false => Overwrite::Forbidden,
            },
        };
        let uploaded = resend.run().await?;
        if !in_place && self.remove {
            let there = self.bucket.store().head(destination).await?;
            let object = self.bucket.object(&there)?;
            let same = there.etag == uploaded.object.etag
                && there.size == meta.size
                && object.same_envelope(&uploaded.object);
            if !same {
                return Err(Error::Damaged(
                    "the object at the destination is not the uploaded one: the plaintext was kept"
                        .into(),
                ));
            }
            self.remove_source(source, &meta).await?;
        }
        Ok(Finding::new(listed, Grade::Fine, "adopted").format(self.bucket.format()))
    }

    /// A marker has no content: it is only copied, not encrypted.
    async fn directory(
        &self,
        listed: &ListedObject,
        source: &ObjectKey,
        destination: &ObjectKey,
        meta: &ObjectMeta,
    ) -> Result<Finding> {
        if !is_marker(listed) {
            return Ok(Finding::new(listed, Grade::Bad, "not-a-file")
                .detail("its name ends with / and it has content, which a mount cannot show"));
        }
        if source != destination && !self.dry_run {
            let request = CopyRequest {
                source: source.clone(),
                source_etag: meta.etag.clone(),
                destination: destination.clone(),
                headers: CopyHeaders::Keep,
                overwrite: Overwrite::Forbidden,
            };
            let copied = self.bucket.store().copy(&request);
            match copied.await {
                // The directory exists and has its own attributes.
                Ok(_) | Err(StoreError::AlreadyExists) => {}
                Err(error) => return Err(error.into()),
            }
            self.remove_source(source, meta).await?;
        }
        Ok(Finding::new(listed, Grade::Left, "directory"))
    }

    /// The result of an interrupted run at the destination. Size and time identify the object, unless the
    /// plaintext is to be deleted; then the contents are compared.
    async fn done_before(
        &self,
        listed: &ListedObject,
        source: &ObjectKey,
        destination: &ObjectKey,
        meta: &ObjectMeta,
    ) -> Result<Option<Finding>> {
        let there = match self.bucket.store().head(destination).await {
            Err(StoreError::NotFound) => return Ok(None),
            there => there?,
        };
        let time = Attributes::read(meta, false).mtime;
        let alike = there.size == meta.size && Attributes::read(&there, false).mtime == time;
        let exists = Finding::new(listed, Grade::Bad, "destination-exists").detail(format!(
            "{destination} is another object: nothing was changed"
        ));
        let object = match self.bucket.object(&there) {
            Ok(object) if alike => object,
            _ => return Ok(Some(exists)),
        };
        if self.remove {
            if !self.bucket.can_read() {
                return Ok(Some(
                    Finding::new(listed, Grade::Bad, "not-confirmed").detail(format!(
                        "{destination} cannot be compared with this object without a private key: the plaintext was kept"
                    )),
                ));
            }
            if !self
                .same_content(source, meta, destination, &object)
                .await?
            {
                return Ok(Some(exists));
            }
        }
        let finding = Finding::new(listed, Grade::Fine, "already");
        Ok(Some(finding.format(object.format)))
    }

    /// Reads the encrypted object, and the plaintext if the store does not return its checksum.
    async fn same_content(
        &self,
        source: &ObjectKey,
        meta: &ObjectMeta,
        destination: &ObjectKey,
        object: &EncryptedObject,
    ) -> Result<bool> {
        let cipher = self.bucket.unlock(object).await?;
        let copy = self.checksum(destination, &object.etag, &cipher).await?;
        let plain = match meta.crc64 {
            Some(crc) => crc,
            None => {
                let as_it_is = ContentCipher::identity();
                self.checksum(source, &meta.etag, &as_it_is).await?
            }
        };
        Ok(copy == plain)
    }

    /// The CRC-64 of a version's plaintext.
    async fn checksum(&self, key: &ObjectKey, tag: &ETag, cipher: &ContentCipher) -> Result<u64> {
        let mut body = self.bucket.get(key, None, Some(tag)).await?;
        let mut crc = Crc64::new();
        let mut buffer = vec![0; STEP];
        loop {
            match body.read(cipher, &mut buffer).await? {
                0 => return Ok(crc.value()),
                count => crc.update(&buffer[..count]),
            }
        }
    }

    async fn remove_source(&self, source: &ObjectKey, meta: &ObjectMeta) -> Result<()> {
        if !self.remove || self.dry_run {
            return Ok(());
        }
        let now = self.bucket.store().head(source).await?;
        if now.etag != meta.etag {
            return Err(Error::Store(StoreError::PreconditionFailed));
        }
        Ok(self.bucket.store().delete(source).await?)
    }
}
