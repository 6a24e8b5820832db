//! Why a source gives no key.
//!
//! Texts name the source, the field and the place in it. They never hold what the source said: not a file's content,
//! not a command's output, not a variable's value, not a service's message.

use std::time::SystemTime;

use crate::base::time;

/// What callers tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nothing changes until somebody does something about the source.
    Unusable,
    /// It gives a key that has expired.
    Expired,
    /// It still gives the key that the service refused.
    Unchanged,
    /// It did not answer, or not in time.
    Unreachable,
}

#[derive(Clone, Debug, thiserror::Error)]
#[error("credentials from {from}: {why}")]
pub struct Error {
    pub kind: Kind,
    /// The source, as [`Source::name`](super::source::Source::name) says it.
    pub from: String,
    pub why: String,
}

/// An error before it is said whose it is.
#[derive(Clone, Debug)]
pub struct Fault {
    pub kind: Kind,
    pub why: String,
}

impl Fault {
    pub(super) fn unusable(why: impl Into<String>) -> Fault {
        Fault {
            kind: Kind::Unusable,
            why: why.into(),
        }
    }

    pub(super) fn unreachable(why: impl Into<String>) -> Fault {
        Fault {
            kind: Kind::Unreachable,
            why: why.into(),
        }
    }

    pub(super) fn expired(at: SystemTime) -> Fault {
        Fault {
            kind: Kind::Expired,
            why: format!(
                "they expired at {}: new ones are needed, unless this machine's clock is wrong",
                time::plain(at)
            ),
        }
    }

    pub(super) fn of(self, from: impl Into<String>) -> Error {
        Error {
            kind: self.kind,
            from: from.into(),
            why: self.why,
        }
    }
}
