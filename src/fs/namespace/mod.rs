//! What is known of the names, in memory only: nothing here waits for the bucket or for a disk.
//!
//! [`names`] is the tree behind its lock, with the changes that are under way; [`key_locks`] which operation may change which keys.
//! [`tree`] is what the names and inodes look like, over the [`inode_table`] with its [`inode`]s; [`listing`] is what a
//! directory holds, [`scan`] a listing that is still coming.
//! [`access_pattern`] is how a directory is looked at, and [`planner`] what is requested ahead; [`kernel`] is what the kernel keeps
//! of it all.

pub mod access_pattern;
pub mod change_log;
pub mod entry;
pub mod freshness;
pub mod inode;
pub mod inode_hold;
pub mod inode_order;
pub mod inode_table;
pub mod kernel;
pub mod key_locks;
pub mod listing;
pub mod names;
pub mod object_name;
pub mod planner;
pub mod scan;
pub mod stat;
pub mod tree;

pub use inode::Ino;
