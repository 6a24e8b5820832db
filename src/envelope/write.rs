//! Creates the envelope of an object from its cipher.

use std::collections::BTreeMap;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use super::format::{Format, names};
use crate::crypto::ctr::ContentCipher;
use crate::crypto::data_key::{ContentKind, CounterStart, DataKey, StartBinding};
use crate::crypto::rsa_key::PublicKey;

/// The sizes that the service requires before a multipart upload of an object with the SDK's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MultipartSizes {
    /// The size of the object, in bytes, above 0.
    pub total: u64,
    /// The size of every part but the last, in bytes: a multiple of 16.
    pub part: u64,
}

/// Why an envelope cannot be written.
#[expect(missing_docs, reason = "the messages say what each is")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotWritten {
    #[error("the format {0} can be read, but not written")]
    Format(Format),
    /// The documentation example interprets 0 as "not given", and could not read the object.
    #[error("a counter start of 0 can be read, but not written")]
    ZeroStart,
    #[error("no private key opened the envelope")]
    Unopened,
    #[error("the object is not encrypted")]
    Plain,
    /// The service does not allow changes to the metadata of such an object: it must be uploaded again.
    #[error("the service does not allow changes to the metadata of objects in the format {0}")]
    Forbidden(Format),
}

/// A fresh cipher for one upload of such content.
pub fn fresh_cipher(kind: ContentKind) -> ContentCipher {
    let key = DataKey::generate();
    let start = CounterStart::derive(&key, StartBinding::of(kind));
    ContentCipher::new(
        key,
        start.expect("generate only returns keys that have one"),
    )
}

/// The user metadata for `cipher`, without the `x-oss-meta-` prefix: its key and start wrapped with `public`.
///
/// A derived start is marked with the version that derives it, so the same call can rewrap any writer's
/// object for a new key.
///
/// # Errors
/// [`NotWritten`].
pub fn write(
    format: Format,
    public: &PublicKey,
    cipher: &ContentCipher,
    sizes: Option<MultipartSizes>,
) -> Result<BTreeMap<String, String>, NotWritten> {
    if !cipher.is_opened() {
        return Err(NotWritten::Unopened);
    }
    if cipher.is_identity() {
        return Err(NotWritten::Plain);
    }
    if cipher.start().is_zero() {
        return Err(NotWritten::ZeroStart);
    }
    let key = cipher.key().expose();
    let start = cipher.start();
    let mut entries = BTreeMap::new();
    let mut put = |name: &str, value: String| {
        entries.insert(name.to_owned(), value);
    };
    if matches!(format, Format::SdkOaep | Format::Legacy | Format::Plain) {
        return Err(NotWritten::Format(format));
    }
    if matches!(format, Format::Seed | Format::Dual) {
        put(names::SEED_KEY, BASE64_STANDARD.encode(public.wrap(key)));
        put(
            names::SEED_START,
            BASE64_STANDARD.encode(public.wrap(start.to_decimal().as_bytes())),
        );
        if CounterStart::derive_v1(cipher.key()) == Some(start) {
            put(names::VERSION, "1".into());
        }
    }
    if cipher.binding().is_some() {
        put(names::VERSION, "2".into());
    }
    if matches!(format, Format::Sdk | Format::Dual) {
        let wrap = |secret: &[u8]| BASE64_STANDARD.encode(public.wrap_pkcs1(secret));
        put(names::SDK_KEY, wrap(key));
        put(names::SDK_START, wrap(&start.to_be_bytes()));
        put(names::SDK_CEK_ALG, "AES/CTR/NoPadding".into());
        put(names::SDK_WRAP_ALG, "RSA/NONE/PKCS1Padding".into());
        if let Some(sizes) = sizes {
            put(names::SDK_DATA_SIZE, sizes.total.to_string());
            put(names::SDK_PART_SIZE, sizes.part.to_string());
        }
    }
    put(names::KEY_ID, public.key_id().to_owned());
    Ok(entries)
}

/// The user metadata of an object whose key, the key of `cipher`, is wrapped with `public` instead;
/// everything outside the envelope is kept. Encrypted attributes are kept as they are and must be encrypted
/// again, because they are bound to the wrapped key. An object of the legacy format becomes one of the seed
/// format, its successor. A mark records that the data key is older than its wrapping.
///
/// # Errors
/// [`NotWritten`]: [`NotWritten::Forbidden`] for objects with the SDK's names.
pub fn rewrap(
    user: &BTreeMap<String, String>,
    format: Format,
    public: &PublicKey,
    cipher: &ContentCipher,
) -> Result<BTreeMap<String, String>, NotWritten> {
    if format.has_sdk_names() {
        return Err(NotWritten::Forbidden(format));
    }
    let envelope = write(Format::Seed, public, cipher, None)?;
    let mut user = user.clone();
    for name in [
        names::VERSION,
        names::LEGACY_KEY,
        names::LEGACY_START,
        names::LEGACY_CEK_ALG,
        names::LEGACY_WRAP_ALG,
    ] {
        user.remove(name);
    }
    user.extend(envelope);
    user.insert(names::REWRAPPED.to_owned(), "1".to_owned());
    Ok(user)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fresh_cipher_says_its_kind_and_has_a_start_of_the_sdk_shape() {
        for kind in [ContentKind::File, ContentKind::Link] {
            let cipher = fresh_cipher(kind);
            assert_eq!(cipher.start().to_be_bytes()[8..12], [0; 4], "{kind:?}");
            assert!(!cipher.start().is_zero(), "{kind:?}");
            assert_eq!(cipher.binding(), Some(StartBinding::of(kind)));
        }
    }
}
