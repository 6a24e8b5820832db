//! What is open: files between the bucket and the programs that have them open, and directories that are read.

pub mod open_file;
pub mod orphan;
pub mod page_window;
pub mod reading;
pub mod rebase;
pub mod temporary_names;
pub mod writers;
