//! The file system: names, inodes, listings, open files, staging, read-ahead, writeback, rename.
//!
//! [`filesystem`] is what the floor above calls; its operations stand by subject in `lookup`, `files`, `reading`,
//! `writing`, `changes`, `rename_file`, `rename_directory`, `change_attributes`, `xattrs` and `directories`. What is known stands in
//! [`namespace`] and its `listing`s, filled by `probe`, `ahead` and `lister`. Bytes are in `open_file`, over
//! [`staging`] on their way out (`writeback`, `streaming`, `uploads`, `parts`) and [`content`] on their way in ([`read_ahead`]).

mod ahead;
pub mod attributes;
pub mod budget;
mod byte_lru;
mod change_attributes;
mod changes;
mod changing;
pub mod content;
pub mod copy_range;
mod delete_permission;
pub mod directories;
pub mod error;
pub mod files;
pub mod filesystem;
mod gate;
mod inode_hold;
mod instance;
mod leftover;
mod lister;
mod listing;
pub mod lookup;
mod memory;
pub mod names;
pub mod namespace;
pub mod open_file;
mod page_window;
mod parts;
mod preserve;
mod probe;
mod processes;
pub mod read_ahead;
mod reading;
mod rebase;
mod rename_directory;
mod rename_file;
mod rename_intent;
pub mod settings;
mod small_trees;
pub mod staging;
mod streaming;
mod supervisor;
mod temporary_names;
mod uploads;
mod walk;
mod writeback;
mod writing;
pub mod xattrs;
