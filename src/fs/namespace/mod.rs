//! What is known of the names, in memory only: inodes, listings, and which of them are changing.

pub mod inode_hold;
pub mod inode_order;
pub mod inode_table;
pub mod kernel;
pub mod key_locks;
pub mod listing;
pub mod names;
pub mod object_name;
pub mod scan;
pub mod stat;
pub mod walk;

pub use inode_table::Ino;
