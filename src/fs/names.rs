//! Names and keys: which names a file may have, and the key an object has for them.
//!
//! A key is the mount's prefix and the path below it. Keys that are no valid path are hidden; everything
//! of ours that is no user's file lives below [`RESERVED`].

use std::ffi::OsStr;
use std::sync::Arc;

use super::error::{Error, Result};
use crate::store::object_store::ObjectKey;

/// The directory below the mount's prefix that is ours: hidden, and not to be created.
pub const RESERVED: &str = ".ossvault";

/// The longest name of one file, in bytes: NAME_MAX.
const MAX_COMPONENT: usize = 255;

/// One component of a path: 1 to 255 bytes of UTF-8 without `/` and NUL, neither `.` nor `..`.
pub type Name = Arc<str>;

/// Checks a name that the kernel passed.
///
/// # Errors
/// [`Error::NotUnicode`], [`Error::NameTooLong`], [`Error::Invalid`].
pub fn component(name: &OsStr) -> Result<&str> {
    let name = name.to_str().ok_or(Error::NotUnicode)?;
    if name.len() > MAX_COMPONENT {
        return Err(Error::NameTooLong);
    }
    if !is_component(name) {
        return Err(Error::Invalid);
    }
    Ok(name)
}

/// Whether a part of a key can be shown as a file's name.
pub fn is_component(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= MAX_COMPONENT
        && name != "."
        && name != ".."
        && !name.contains(['/', '\0'])
}

/// # Errors
/// [`Error::NameTooLong`] above 1023 bytes, [`Error::Invalid`] for what else the service refuses.
pub fn object_key(key: String) -> Result<ObjectKey> {
    if key.len() > ObjectKey::MAX_LEN {
        return Err(Error::NameTooLong);
    }
    ObjectKey::new(key).map_err(|_| Error::Invalid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt;

    #[test]
    fn components_are_what_a_path_can_hold() {
        for name in [
            "a",
            " ",
            "a\nb",
            "+%?#&",
            "dir.",
            "e\u{301}",
            &"x".repeat(255),
        ] {
            assert_eq!(component(OsStr::new(name)).unwrap(), name);
        }
        assert!(matches!(
            component(OsStr::from_bytes(b"\xff")),
            Err(Error::NotUnicode)
        ));
        assert!(matches!(
            component(OsStr::new(&"x".repeat(256))),
            Err(Error::NameTooLong)
        ));
        for name in ["", ".", "..", "a/b"] {
            assert!(component(OsStr::new(name)).is_err());
        }
    }
}
