//! Describes one object.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use crate::base::error_chain::chain;
use crate::encrypted::{EncryptedBucket, Error};
use crate::store::error::Error as StoreError;
use crate::store::object_store::ObjectKey;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Report {
    pub name: String,
    /// In bytes; the content and the object have the same length.
    pub size: u64,
    pub encrypted: bool,
    /// The format of its envelope.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<String>,
    /// The fingerprint of the key that opened it: SHA-256 of its SubjectPublicKeyInfo.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
    /// The key named by the object, which is only a hint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_hint: Option<String>,
    /// None if no private key was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub can_open: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub crc64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    /// The metadata outside the envelope: mode, owner, times, and headers of other programs.
    pub attributes: BTreeMap<String, String>,
    /// Names and lengths of the extended attributes, if they could be opened.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub xattrs: Option<BTreeMap<String, usize>>,
}

/// One HEAD, and an unwrap if there is a private key.
///
/// # Errors
/// The store's errors. Problems of the object are in the report.
pub(crate) async fn inspect(
    bucket: &Arc<EncryptedBucket>,
    name: String,
    key: &ObjectKey,
) -> Result<Report, StoreError> {
    let meta = bucket.store().head(key).await?;
    let mut report = Report {
        name,
        size: meta.size,
        etag: Some(meta.etag.as_str().to_owned()),
        crc64: meta.crc64.map(|crc| crc.to_string()),
        content_type: meta.headers.content_type.clone(),
        attributes: meta
            .headers
            .user
            .iter()
            .filter(|(name, _)| !crate::envelope::format::is_envelope_name(name))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect(),
        ..Report::default()
    };
    let object = match bucket.object(&meta) {
        Ok(object) => object,
        Err(Error::NotEncrypted) => return Ok(report),
        Err(error) => {
            report.encrypted = true;
            report.can_open = Some(false);
            report.problem = Some(chain(&error));
            return Ok(report);
        }
    };
    report.encrypted = true;
    report.format = Some(object.format.name().to_owned());
    report.key_hint = object.envelope().hint.clone();
    if !bucket.can_read() {
        return Ok(report);
    }
    let opened = match bucket.unlock(&object).await {
        Ok(cipher) if cipher.is_opened() => Ok(cipher),
        Ok(_) => Err(Error::WrongKey),
        Err(error) => Err(error),
    };
    report.can_open = Some(opened.is_ok());
    match opened {
        Ok(cipher) => {
            report.fingerprint = object.opened_by().map(str::to_owned);
            report.problem = object.check_link(&cipher).err().map(|error| chain(&error));
            match bucket.open_xattrs(&object, &meta.headers).await {
                Ok(xattrs) => {
                    let lengths = xattrs.iter();
                    report.xattrs = Some(
                        lengths
                            .map(|(name, value)| (name.to_owned(), value.len()))
                            .collect(),
                    );
                }
                Err(error) => report.problem = Some(chain(&error)),
            }
        }
        Err(error) => report.problem = Some(chain(&error)),
    }
    Ok(report)
}
