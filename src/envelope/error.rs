//! What can be wrong with an envelope. Values that came from the bucket are escaped and cut.

use crate::crypto::data_key::ContentKind;
use crate::crypto::key_ring::Pkcs1Stopped;

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
    /// Needs an online service, so whatever was configured here cannot open it.
    #[error("the key is wrapped by a key management service ({0}), which is not supported")]
    Kms(String),
    #[error("the key is wrapped by an unknown algorithm ({0})")]
    UnknownWrap(String),
    #[error("the content is encrypted with an unknown algorithm ({0})")]
    UnknownCipher(String),
    #[error("the envelope has version {0}, which needs a newer ossvault")]
    UnknownVersion(String),
    /// No key was tried: there is none.
    #[error("there is no private key here")]
    NoPrivateKey,
    /// The hint names a key that the ring does not have, and none of those it has opened it.
    #[error("the object is for the key {0}, which is not among the private keys")]
    ForeignKey(String),
    #[error("no private key opens the envelope: a foreign key, or it is damaged")]
    NotOpened,
    #[error("what was wrapped is no {0}")]
    WrongContent(&'static str),
    /// Of an envelope whose version says that the start is derived.
    #[error("the counter start is not the one that is derived from the data key")]
    WrongStart,
    /// The metadata were changed: a file's content must not be taken for a link's target, nor the reverse.
    #[error("its metadata say {}, and its key says {}: the metadata were changed", kind_name(*.claimed), kind_name(other(*.claimed)))]
    WrongKind { claimed: ContentKind },
    #[error("its key says that it has a seal, and it has none")]
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

/// For values that strangers wrote and logs will show.
pub(super) fn excerpt(value: &str) -> String {
    value
        .chars()
        .take(64)
        .flat_map(char::escape_debug)
        .collect()
}
