//! Which parts of a key are names of files.

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
