//! How files are objects, for everything that reads or writes them: the mount, and commands without one.

pub mod attributes;
pub mod name;
pub mod parts;
