//! Encrypting what is in a bucket unencrypted, in place or under another prefix.
//!
//! Each object is read with If-Match, encrypted under a fresh key while it is sent, and replaced whole: there
//! is no moment at which it is half done, and an interrupted run is run again. The provider saw the plaintext,
//! and keeps it in old versions and backups: nothing here changes that.

use std::sync::Arc;

use super::bulk::{Finding, Grade, is_internal, is_marker};
use super::resend::Resend;
use crate::crypto::ctr::ContentCipher;
use crate::encrypted::{EncryptedBucket, Error, Result};
use crate::envelope;
use crate::fs::attributes::Attributes;
use crate::store::error::Error as StoreError;
use crate::store::object_store::{CopyHeaders, ListedObject, ObjectKey, ObjectMeta, Overwrite};

/// How often an object is looked at anew that other clients replace in between.
const TRIES: usize = 4;

pub struct Adopt {
    pub bucket: Arc<EncryptedBucket>,
    /// The prefix that is adopted: empty, or ends with `/`.
    pub from: String,
    /// Where to: the same, or another prefix of the bucket, none within the other.
    pub to: String,
    /// Delete the plaintext once the encrypted object is confirmed. For another prefix only.
    pub remove: bool,
    pub dry_run: bool,
}

impl Adopt {
    /// # Errors
    /// Those that are not the object's own.
    pub async fn object(&self, listed: ListedObject) -> std::result::Result<Finding, StoreError> {
        match self.try_object(&listed).await {
            Ok(finding) => Ok(finding),
            Err(error) => Finding::failed(&listed, error),
        }
    }

    async fn try_object(&self, listed: &ListedObject) -> Result<Finding> {
        if is_internal(&listed.key) {
            return Ok(Finding::new(listed, Grade::Left, "internal"));
        }
        let source = ObjectKey::new(listed.key.as_str())?;
        let below = &listed.key[self.from.len()..];
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
            return Ok(match in_place {
                true => Finding::new(listed, Grade::Fine, "already"),
                false => Finding::new(listed, Grade::Left, "encrypted-already"),
            }
            .format(envelope.format));
        }
        if source.as_str().ends_with('/') {
            return self.directory(listed, source, destination, &meta).await;
        }
        let mut headers = meta.headers.clone();
        // The upload is younger than the file: a time that was only the object's becomes the file's.
        let mtime = Attributes::read(&meta, false).mtime;
        headers
            .user
            .entry("mtime".to_owned())
            .or_insert_with(|| mtime.to_text());
        if !in_place && let Some(finding) = self.done_before(listed, destination, &meta).await? {
            if finding.grade == Grade::Fine {
                self.remove_source(source, &meta).await?;
            }
            return Ok(finding);
        }
        if self.dry_run {
            return Ok(Finding::new(listed, Grade::Fine, "adopted"));
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
                    "it is not at its destination as it was uploaded: the plaintext stays".into(),
                ));
            }
            self.remove_source(source, &meta).await?;
        }
        Ok(Finding::new(listed, Grade::Fine, "adopted").format(self.bucket.format()))
    }

    /// A marker has no content: it needs no encryption, only its place.
    async fn directory(
        &self,
        listed: &ListedObject,
        source: &ObjectKey,
        destination: &ObjectKey,
        meta: &ObjectMeta,
    ) -> Result<Finding> {
        if !is_marker(listed) {
            return Ok(Finding::new(listed, Grade::Bad, "not-a-file")
                .detail("its name ends with / and it has content: no mount can show that"));
        }
        if source != destination && !self.dry_run {
            let copied = self.bucket.store().copy(
                source,
                &meta.etag,
                destination,
                CopyHeaders::Keep,
                Overwrite::Allowed,
            );
            copied.await?;
            self.remove_source(source, meta).await?;
        }
        Ok(Finding::new(listed, Grade::Left, "directory"))
    }

    /// What an interrupted run left at the destination: the same size and time say that it is this object.
    async fn done_before(
        &self,
        listed: &ListedObject,
        destination: &ObjectKey,
        meta: &ObjectMeta,
    ) -> Result<Option<Finding>> {
        let there = match self.bucket.store().head(destination).await {
            Err(StoreError::NotFound) => return Ok(None),
            there => there?,
        };
        let ours = self.bucket.object(&there);
        let time = Attributes::read(meta, false).mtime;
        let same = there.size == meta.size && Attributes::read(&there, false).mtime == time;
        match ours {
            Ok(object) if same => {
                // It must be readable before the plaintext may go.
                if self.bucket.can_read() && !self.bucket.unlock(&object).await?.is_opened() {
                    return Err(Error::WrongKey);
                }
                Ok(Some(
                    Finding::new(listed, Grade::Fine, "already").format(object.format),
                ))
            }
            _ => Ok(Some(
                Finding::new(listed, Grade::Bad, "destination-exists").detail(format!(
                    "{destination} is another object: nothing was changed"
                )),
            )),
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
