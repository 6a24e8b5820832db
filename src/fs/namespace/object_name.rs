//! Names and keys: which names a file may have, and the key an object has for them.
//!
//! A key is the mount's prefix and the path below it. Keys that are no valid path are hidden; everything
//! of ours that is no user's file lives below [`RESERVED`](crate::encrypted::reserved::RESERVED).

use std::ffi::OsStr;
use std::sync::Arc;

pub use crate::files::name::is_component;

use crate::files::name::MAX_COMPONENT;
use crate::fs::error::{Error, Result};
use crate::store::object_store::ObjectKey;

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

/// A text that sorts before this name, with next to no other name between them: for listings, which begin after
/// a key.
pub fn just_before(name: &str) -> String {
    /// Sorts after nearly everything that names are made of.
    const HIGH: char = '\u{fffd}';
    let mut characters = name.chars();
    let last = characters.next_back();
    let start = characters.as_str();
    let before = last.and_then(|last| char::from_u32((last as u32).checked_sub(1)?));
    match before {
        // Control characters have no place in requests.
        Some(before) if before >= ' ' => format!("{start}{before}{HIGH}"),
        _ => start.to_owned(),
    }
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
    fn what_is_just_before_a_name_is_before_it_and_close() {
        for (name, between) in [
            ("file-00012", "file-00011"),
            ("a", "`"),
            ("b", "azz"),
            ("\u{e9}", "\u{e8}zz"),
            ("\u{e000}", ""),
            (" ", ""),
            ("a\u{1}", "a"),
        ] {
            let before = just_before(name);
            assert!(*before < *name, "{name:?}");
            assert!(
                *between <= *before || between == "a",
                "{name:?}: {before:?}"
            );
        }
        assert_eq!(just_before("x!"), "x \u{fffd}");
    }

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
