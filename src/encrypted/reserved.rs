//! The names of the mount's own objects.

/// The directory below a mount's prefix that is the program's own.
pub const RESERVED: &str = ".ossvault";

/// Whether a key is one of the program's own objects below this prefix. Anywhere else, `.ossvault` is an ordinary
/// name.
pub fn is_reserved(key: &str, prefix: &str) -> bool {
    let below = key.strip_prefix(prefix).unwrap_or(key);
    below
        .strip_prefix(RESERVED)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}
