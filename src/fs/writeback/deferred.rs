//! Attribute changes that are stored later.

/// What attribute changes wait for that are shown and not stored yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deferred {
    /// A program that makes a directory sets its times, its mode, and its times again when the files are in it: times of a
    /// directory that this mount made wait a moment, and what else is set meanwhile waits with them.
    Moment,
    /// The program that sets them has the file open for writing: its close stores them and says how that went.
    Close,
    /// The file has a tool's temporary name: the copy that renames it carries them.
    Rename,
}
