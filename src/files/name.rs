//! Which parts of a key are names of files, and which keys are the mounts' own.

/// The directory below a mount's prefix that is its own: hidden, and not to be created.
pub const RESERVED: &str = ".ossvault";

/// The longest name of one file, in bytes: NAME_MAX.
pub const MAX_COMPONENT: usize = 255;

/// Whether a part of a key can be shown as a file's name.
pub fn is_component(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= MAX_COMPONENT
        && name != "."
        && name != ".."
        && !name.contains(['/', '\0'])
}

/// Whether a key is one of the mount's own objects, like the intent of a rename: not encrypted, and not a
/// file. They are directly below the mount's prefix; anywhere else, `.ossvault` is an ordinary name.
pub fn is_internal(key: &str, prefix: &str) -> bool {
    let below = key.strip_prefix(prefix).unwrap_or(key);
    below
        .strip_prefix(RESERVED)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}
