//! Errors of envelopes. Values from the bucket are escaped and truncated.

use crate::crypto::data_key::ContentKind;
use crate::crypto::key_ring::Pkcs1Stopped;

/// Why an envelope cannot be read or opened.
#[expect(missing_docs, reason = "the messages say what each is")]
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("the {family} envelope is incomplete: {missing} is missing")]
    Incomplete {
        family: &'static str,
        missing: &'static str,
    },
    #[error("the header {name} of the envelope is malformed: {reason}")]
    Malformed {
        name: &'static str,
        reason: &'static str,
    },
    /// Needs an online service, so no local key can open it.
    #[error("the key is wrapped by a key management service ({0}), which is not supported")]
    Kms(String),
    #[error("the key is wrapped by an unknown algorithm ({0})")]
    UnknownWrap(String),
    #[error("the content is encrypted with an unknown algorithm ({0})")]
    UnknownCipher(String),
    #[error("the envelope has version {0}, which needs a newer ossvault")]
    UnknownVersion(String),
    /// No key was tried, because there is none.
    #[error("there is no private key")]
    NoPrivateKey,
    /// The hint names a key that the ring does not have, and no other key opened it.
    #[error("the object is for the key {0}, which is not among the private keys")]
    ForeignKey(String),
    #[error("no private key opens the envelope: it is for another key, or damaged")]
    NotOpened,
    #[error("the unwrapped value is not a {0}")]
    WrongContent(&'static str),
    /// For an envelope whose version says that the start is derived.
    #[error("the counter start is not derived from the data key")]
    WrongStart,
    /// The metadata was changed: a file's content must not be used as a link's target, nor the reverse.
    #[error("its metadata says {}, but its key says {}: the metadata was changed", kind_name(*.claimed), kind_name(other(*.claimed)))]
    WrongKind { claimed: ContentKind },
    #[error("its key says that it has a seal, but it has none")]
    SealMissing,
    #[error(transparent)]
    Pkcs1Stopped(#[from] Pkcs1Stopped),
}

fn kind_name(kind: ContentKind) -> &'static str {
    match kind {
        ContentKind::File => "file",
        ContentKind::Link => "symbolic link",
    }
}

fn other(kind: ContentKind) -> ContentKind {
    match kind {
        ContentKind::File => ContentKind::Link,
        ContentKind::Link => ContentKind::File,
    }
}

/// For values that other parties wrote and that appear in logs.
pub(super) fn excerpt(value: &str) -> String {
    value
        .chars()
        .take(64)
        .flat_map(char::escape_debug)
        .collect()
}
