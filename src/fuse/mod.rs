//! Kernel requests in, replies out.

pub mod mount_table;
pub mod session;
