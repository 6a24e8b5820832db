//! The names of objects.

use std::fmt;
use std::sync::Arc;

use super::error::{Error, Result};

/// The name of an object: 1 to 1023 bytes of UTF-8 that begin with neither `/` nor `\`
/// (error codes 0016-00000002 and 0016-00000005 of the service).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey(Arc<str>);

impl ObjectKey {
    /// The maximum length of a key, in bytes.
    pub const MAX_LEN: usize = 1023;

    /// # Errors
    /// [`Error::InvalidName`] if the service would refuse the name.
    pub fn new(key: impl Into<Arc<str>>) -> Result<ObjectKey> {
        let key = key.into();
        if key.is_empty() || key.len() > Self::MAX_LEN || key.starts_with(['/', '\\']) {
            return Err(Error::InvalidName(key.to_string()));
        }
        Ok(ObjectKey(key))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Escaped: a key may contain anything, and logs are read in terminals.
impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.escape_debug())
    }
}

impl fmt::Debug for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_what_the_service_accepts() {
        for (key, valid) in [
            ("a", true),
            ("a//b", true),
            (".", true),
            ("", false),
            ("/a", false),
            ("\\a", false),
            (&"x".repeat(1023), true),
            (&"x".repeat(1024), false),
        ] {
            assert_eq!(ObjectKey::new(key).is_ok(), valid, "{key:?}");
        }
    }
}
