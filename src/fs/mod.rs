//! The file system: names, inodes, listings, open files, staging, read-ahead, writeback, rename.
//!
//! [`filesystem`] is what the floor above calls; its operations stand by subject in `lookup`, `files`, `reading`,
//! `writing`, `changes`, `rename_file`, `rename_directory`, `change_attributes`, `xattrs` and `directories`. What is known stands in
//! [`namespace`] and its `listing`s, filled by `probe`, `ahead` and `lister`. Bytes are in `open_file`, over
//! [`staging`] on their way out (`writeback`, `streaming`, `uploads`, `parts`) and [`content`] on their way in ([`read_ahead`]).

pub mod attributes;
mod background;
pub mod data;
pub mod error;
pub mod filesystem;
pub mod handles;
pub(crate) mod instance;
pub mod namespace;
pub mod ops;
mod resolver;
pub mod settings;
mod supervisor;
pub mod writeback;
