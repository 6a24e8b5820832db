//! The bucket as the file system sees it.

use std::sync::Arc;

use super::ciphertext::Ciphertext;
use super::error::{Error, Result};
use super::object::EncryptedObject;
use super::plaintext::Plaintext;
use super::strips::{self, Sent};
use super::upload::{self, EncryptedUpload, Uploaded};
use crate::crypto::ctr::ContentCipher;
use crate::crypto::data_key::ContentKind;
use crate::crypto::key_ring::KeyRing;
use crate::crypto::xattr::{self, Version, Xattrs};
use crate::envelope::format::{LONGEST_LINK, XATTR_NAME, claimed_kind, is_envelope_name};
use crate::envelope::write::{self, MultipartSizes};
use crate::envelope::{self, Format};
use crate::store::object_store::{
    ByteRange, ETag, ObjectHeaders, ObjectKey, ObjectMeta, ObjectStore, Overwrite,
};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The format to write: seed, sdk or dual. All formats can be read.
    pub format: Format,
    /// Unencrypted objects below these key prefixes can be read. Anywhere else they are an error.
    pub plaintext: Vec<String>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            format: Format::Seed,
            plaintext: Vec::new(),
        }
    }
}

/// Readers would refuse such an object.
const NO_LINK: Error = Error::Abandoned("a symbolic link's target has 1 to 4095 bytes");

pub struct EncryptedBucket {
    store: Arc<dyn ObjectStore>,
    keys: Arc<KeyRing>,
    settings: Settings,
}

impl EncryptedBucket {
    pub fn new(
        store: Arc<dyn ObjectStore>,
        keys: impl Into<Arc<KeyRing>>,
        settings: Settings,
    ) -> Arc<EncryptedBucket> {
        Arc::new(EncryptedBucket {
            store,
            keys: keys.into(),
            settings,
        })
    }

    /// For requests that need no key: HEAD, LIST, copies, deletes.
    pub fn store(&self) -> &Arc<dyn ObjectStore> {
        &self.store
    }

    pub fn keys(&self) -> &Arc<KeyRing> {
        &self.keys
    }

    /// The format that is written.
    pub fn format(&self) -> Format {
        self.settings.format
    }

    /// The same bucket with the same keys, writing another format.
    pub fn in_format(&self, format: Format) -> Arc<EncryptedBucket> {
        Arc::new(EncryptedBucket {
            store: self.store.clone(),
            keys: self.keys.clone(),
            settings: Settings {
                format,
                ..self.settings.clone()
            },
        })
    }

    /// False in a mount with only the public key.
    pub fn can_read(&self) -> bool {
        self.keys.can_read()
    }

    /// The object described by the headers. Sends no request.
    ///
    /// # Errors
    /// [`Error::NotEncrypted`], [`Error::Damaged`], [`Error::Unsupported`].
    pub fn object(&self, meta: &ObjectMeta) -> Result<Arc<EncryptedObject>> {
        EncryptedObject::new(meta).map(Arc::new)
    }

    /// As [`object`](Self::object), for reading: below the prefixes of [`Settings::plaintext`], an object
    /// without an envelope has [`Format::Plain`].
    ///
    /// # Errors
    /// As [`object`](Self::object).
    pub fn object_at(&self, key: &ObjectKey, meta: &ObjectMeta) -> Result<Arc<EncryptedObject>> {
        match self.object(meta) {
            Err(Error::NotEncrypted) if self.serves_plaintext(key.as_str()) => {
                Ok(Arc::new(EncryptedObject::plain(meta)))
            }
            object => object,
        }
    }

    /// Whether an object of this name may be read if it is not encrypted.
    pub fn serves_plaintext(&self, key: &str) -> bool {
        let mut prefixes = self.settings.plaintext.iter();
        prefixes.any(|prefix| key.starts_with(prefix.as_str()))
    }

    /// One GET of the whole object or of a range.
    ///
    /// # Errors
    /// The store's errors.
    pub async fn get(
        &self,
        key: &ObjectKey,
        range: Option<ByteRange>,
        if_match: Option<&ETag>,
    ) -> Result<Ciphertext> {
        Ok(Ciphertext::new(self.store.get(key, range, if_match).await?))
    }

    /// The object's cipher; unwrapped once per object, on a blocking thread.
    ///
    /// The cipher of an SDK envelope that no key opens looks like any other, and refuses to decrypt.
    ///
    /// # Errors
    /// [`Error::KeyMissing`], [`Error::WrongKey`], [`Error::Damaged`].
    pub async fn unlock(&self, object: &EncryptedObject) -> Result<Arc<ContentCipher>> {
        object.unlock(&self.keys).await
    }

    /// As [`unlock`](Self::unlock), on this thread: one RSA operation unless it is already unlocked. Blocks.
    pub fn unlock_here(&self, object: &EncryptedObject) -> Result<Arc<ContentCipher>> {
        object.unlock_here(&self.keys)
    }

    /// Whether any key opens the object, whichever key it names. For callers whose requests to the store do
    /// not depend on the answer: unlike in [`unlock`](Self::unlock), failures are not counted.
    ///
    /// # Errors
    /// No error of the object.
    pub async fn opens(&self, object: &EncryptedObject) -> Result<bool> {
        object.opens(&self.keys).await
    }

    /// Uploads `plain` with one PUT under a fresh key. `headers` are stored with it, except for those of an
    /// older envelope and its encrypted attributes, which are replaced. If their mode is that of a symbolic
    /// link, the key is bound to that type.
    ///
    /// # Errors
    /// The store's errors, among them [`Corrupt`](crate::store::error::Error::Corrupt) if the store received
    /// different data; [`Error::Abandoned`] if `plain` had changed at a retry.
    pub async fn put(
        &self,
        key: &ObjectKey,
        plain: &Plaintext,
        headers: ObjectHeaders,
        xattrs: Option<&Xattrs>,
        overwrite: Overwrite,
    ) -> Result<Uploaded> {
        if claimed_kind(&headers.user) == ContentKind::Link
            && !(1..=LONGEST_LINK).contains(&plain.len())
        {
            return Err(NO_LINK);
        }
        let (cipher, headers) = self.fresh_envelope(headers, xattrs, None)?;
        let sent = Arc::new(Sent::default());
        let body = strips::body(cipher.clone(), plain.clone(), 0..plain.len(), sent.clone());
        let answer = self.store.put(key, &headers, body, overwrite).await;
        let answer = upload::explain(answer, &sent)?;
        let crc64 = upload::verify(answer.crc64, &sent)?;
        self.uploaded(answer, crc64, plain.len(), headers, cipher)
    }

    /// Begins a multipart upload under a fresh key; the size need not be known yet.
    ///
    /// # Errors
    /// The store's errors; [`Error::Unsupported`] in the formats sdk and dual, which need the size:
    /// [`begin_sized_upload`](Self::begin_sized_upload).
    pub async fn begin_upload(
        &self,
        key: &ObjectKey,
        headers: ObjectHeaders,
        xattrs: Option<&Xattrs>,
    ) -> Result<EncryptedUpload> {
        if self.format().has_sdk_names() {
            return Err(Error::Unsupported(
                format!(
                    "the format {} needs the size of a file before its upload begins",
                    self.format()
                )
                .into(),
            ));
        }
        self.begin(key, headers, xattrs, None).await
    }

    /// Begins a multipart upload of `sizes.total` bytes in parts of `sizes.part` bytes.
    ///
    /// # Errors
    /// The store's errors; [`Error::Abandoned`] for invalid sizes: a total of zero, or parts that are not a
    /// multiple of 16 bytes or more than 10,000.
    pub async fn begin_sized_upload(
        &self,
        key: &ObjectKey,
        headers: ObjectHeaders,
        xattrs: Option<&Xattrs>,
        sizes: MultipartSizes,
    ) -> Result<EncryptedUpload> {
        if sizes.total == 0
            || sizes.part == 0
            || !sizes.part.is_multiple_of(16)
            || sizes.total.div_ceil(sizes.part) > 10_000
        {
            return Err(Error::Abandoned(
                "these sizes are not valid for a multipart upload",
            ));
        }
        self.begin(key, headers, xattrs, Some(sizes)).await
    }

    async fn begin(
        &self,
        key: &ObjectKey,
        headers: ObjectHeaders,
        xattrs: Option<&Xattrs>,
        sizes: Option<MultipartSizes>,
    ) -> Result<EncryptedUpload> {
        if claimed_kind(&headers.user) == ContentKind::Link {
            return Err(NO_LINK);
        }
        let (cipher, headers) = self.fresh_envelope(headers, xattrs, sizes)?;
        let id = self.store.create_multipart(key, &headers).await?;
        Ok(EncryptedUpload::new(
            self.store.clone(),
            key.clone(),
            id,
            cipher,
            headers,
            sizes,
            self.keys
                .can_read_own_writing()
                .then(|| self.keys.writing().fingerprint().to_owned()),
        ))
    }

    /// The extended attributes among an object's headers.
    ///
    /// # Errors
    /// [`Error::KeyMissing`] and [`Error::WrongKey`]; [`Error::Damaged`] and [`Error::Unsupported`] for the
    /// encrypted value.
    pub async fn open_xattrs(
        &self,
        object: &EncryptedObject,
        headers: &ObjectHeaders,
    ) -> Result<Xattrs> {
        let Some(sealed) = headers.user.get(XATTR_NAME) else {
            return Ok(Xattrs::new());
        };
        match Version::of(sealed) {
            None => Err(xattr::OpenError::UnknownVersion.into()),
            Some(Version::One) => {
                let cipher = self.unlock(object).await?;
                Ok(xattr::open_v1(&cipher, sealed)?)
            }
            Some(Version::Two) => object.open_xattrs(&self.keys, sealed).await,
        }
    }

    /// Whether a key opens the extended attributes on their own, whichever key opens the content.
    pub async fn opens_xattrs(&self, object: &EncryptedObject, headers: &ObjectHeaders) -> bool {
        let sealed = headers.user.get(XATTR_NAME);
        let own_key = sealed.is_some_and(|sealed| Version::of(sealed) == Some(Version::Two));
        own_key && self.open_xattrs(object, headers).await.is_ok()
    }

    /// Puts extended attributes into the headers for a copy, encrypted for the writing key and bound to the
    /// envelope among the headers; an empty set removes the entry.
    ///
    /// # Errors
    /// [`Error::NotEncrypted`] and other errors of the envelope.
    pub fn seal_xattrs(&self, xattrs: &Xattrs, headers: &mut ObjectHeaders) -> Result<()> {
        if xattrs.is_empty() {
            headers.user.remove(XATTR_NAME);
            return Ok(());
        }
        let envelope = envelope::detect(&headers.user)?.ok_or(Error::NotEncrypted)?;
        let sealed = xattr::seal(self.keys.writing(), &envelope.wrapped_key, xattrs);
        headers.user.insert(XATTR_NAME.to_owned(), sealed);
        Ok(())
    }

    /// The headers of an object without content that is to have these extended attributes: with an envelope
    /// under a fresh key if there are any, and without one otherwise.
    ///
    /// # Errors
    /// No error of the object.
    pub fn headers_with(
        &self,
        mut headers: ObjectHeaders,
        xattrs: &Xattrs,
    ) -> Result<ObjectHeaders> {
        if xattrs.is_empty() {
            headers.user.retain(|name, _| !is_envelope_name(name));
            return Ok(headers);
        }
        let (_, headers) = self.fresh_envelope(headers, Some(xattrs), None)?;
        Ok(headers)
    }

    /// An unused cipher, and the headers that contain it.
    fn fresh_envelope(
        &self,
        mut headers: ObjectHeaders,
        xattrs: Option<&Xattrs>,
        sizes: Option<MultipartSizes>,
    ) -> Result<(Arc<ContentCipher>, ObjectHeaders)> {
        let cipher = write::fresh_cipher(claimed_kind(&headers.user));
        headers.user.retain(|name, _| !is_envelope_name(name));
        headers.user.extend(write::write(
            self.format(),
            self.keys.writing(),
            &cipher,
            sizes,
        )?);
        if let Some(xattrs) = xattrs {
            self.seal_xattrs(xattrs, &mut headers)?;
        }
        Ok((Arc::new(cipher), headers))
    }

    fn uploaded(
        &self,
        answer: crate::store::object_store::PutAnswer,
        crc64: u64,
        size: u64,
        headers: ObjectHeaders,
        cipher: Arc<ContentCipher>,
    ) -> Result<Uploaded> {
        let by = self
            .keys
            .can_read_own_writing()
            .then(|| self.keys.writing().fingerprint());
        upload::uploaded(answer, crc64, size, headers, cipher, by)
    }
}
