//! What is open: files between the bucket and the programs that have them open, and directories that are read.
//!
//! [`open_file`] is one file and its states, of the parts in [`file_state`]; [`open_files`] the table of them. `staging_ops`, `reading`, `orphan`,
//! `rebase`, `versions` and `xattrs` are what is done to one of them, without knowing when it is uploaded.

pub mod directory_handle;
pub mod file_state;
pub mod link;
pub mod open_file;
pub mod open_files;
pub mod orphan;
pub mod page_window;
pub mod reading;
pub mod rebase;
pub mod staging_ops;
pub mod temporary_names;
pub mod versions;
pub mod writers;
pub mod xattrs;
