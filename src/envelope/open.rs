//! From an envelope to the cipher of its object.

use zeroize::Zeroizing;

use super::detect::{Envelope, Start};
use super::error::Error;
use super::format::Format;
use crate::crypto::ctr::ContentCipher;
use crate::crypto::data_key::{CounterStart, DataKey};
use crate::crypto::key_ring::KeyRing;

/// An envelope that was opened.
pub struct Opened {
    pub cipher: ContentCipher,
    /// The fingerprint of the key that opened it. None for an SDK envelope that no key opened: its cipher
    /// is [unopened](ContentCipher::unopened).
    pub by: Option<String>,
}

/// Unwraps key and start: one RSA operation for objects of ours, two for others. Blocks.
///
/// # Errors
/// [`Error::NoPrivateKey`], [`Error::ForeignKey`], [`Error::NotOpened`], [`Error::WrongContent`],
/// [`Error::Pkcs1Stopped`]. An SDK envelope that no key opens is not among them, see
/// [`key_ring`](crate::crypto::key_ring).
pub fn open(envelope: &Envelope, keys: &KeyRing) -> Result<Opened, Error> {
    if !keys.can_read() {
        return Err(Error::NoPrivateKey);
    }
    if envelope.format == Format::Sdk {
        let Start::Raw(start) = &envelope.start else {
            return Err(Error::WrongContent("counter start"));
        };
        let (cipher, by) = keys.open_pkcs1(&envelope.wrapped_key, start)?;
        return Ok(Opened {
            cipher,
            by: by.map(|key| key.fingerprint().to_owned()),
        });
    }
    let hint = envelope.hint.as_deref();
    let key = envelope.wrapped_key.as_slice();
    let (key, start, by) = match &envelope.start {
        Start::Derived => {
            let ([key], by) = keys
                .unwrap(hint, [key])
                .ok_or_else(|| not_opened(envelope, keys))?;
            (key, None, by)
        }
        Start::Decimal(start) | Start::Raw(start) => {
            let ([key, start], by) = keys
                .unwrap(hint, [key, start])
                .ok_or_else(|| not_opened(envelope, keys))?;
            (key, Some(start), by)
        }
    };
    let key = DataKey::from_slice(&key).ok_or(Error::WrongContent("data key of 32 bytes"))?;
    let start = match start {
        None => CounterStart::derive(&key),
        Some(start) => parse_start(&envelope.start, &start),
    }
    .ok_or(Error::WrongContent("counter start"))?;
    Ok(Opened {
        cipher: ContentCipher::new(key, start),
        by: Some(by.fingerprint().to_owned()),
    })
}

fn parse_start(kind: &Start, unwrapped: &Zeroizing<Vec<u8>>) -> Option<CounterStart> {
    match kind {
        Start::Raw(_) => <[u8; 16]>::try_from(unwrapped.as_slice())
            .ok()
            .map(CounterStart::from_be_bytes),
        Start::Decimal(_) | Start::Derived => CounterStart::from_decimal(unwrapped),
    }
}

fn not_opened(envelope: &Envelope, keys: &KeyRing) -> Error {
    match envelope.key_id() {
        Some(id) if !keys.has(id) => Error::ForeignKey(id.to_owned()),
        _ => Error::NotOpened,
    }
}
