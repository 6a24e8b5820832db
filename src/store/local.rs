//! A bucket in a folder on disk.
