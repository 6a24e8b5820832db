//! Typical operations of programs on a directory, on a real mount.

mod attributes;
mod contents;
mod directories;
mod names;
mod programs;

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;

use crate::fixture::*;

/// Small parts and little memory: files of some MiB are streamed, spilled and merged with their base.
const SMALL_PARTS: &[&str] = &[
    "--memory-limit",
    "16M",
    "--part-size",
    "128K",
    "--stream-after",
    "512K",
];

fn read_write(path: &Path) -> File {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .unwrap()
}

struct Attributes<'a>(&'a Path);

impl Attributes<'_> {
    fn set(&self, name: &str, value: &[u8], flags: i32) -> io::Result<libc::c_int> {
        let (path, name) = (c_path(self.0), c_path(Path::new(name)));
        checked(unsafe {
            libc::setxattr(
                path.as_ptr(),
                name.as_ptr(),
                value.as_ptr().cast(),
                value.len(),
                flags,
            )
        })
    }

    fn get(&self, name: &str) -> io::Result<Vec<u8>> {
        let (path, name) = (c_path(self.0), c_path(Path::new(name)));
        let mut value = vec![0; 65_536];
        let len = unsafe {
            libc::getxattr(
                path.as_ptr(),
                name.as_ptr(),
                value.as_mut_ptr().cast(),
                value.len(),
            )
        };
        value.truncate(checked(len as libc::c_int)? as usize);
        Ok(value)
    }

    fn remove(&self, name: &str) -> io::Result<libc::c_int> {
        let (path, name) = (c_path(self.0), c_path(Path::new(name)));
        checked(unsafe { libc::removexattr(path.as_ptr(), name.as_ptr()) })
    }

    fn list(&self) -> BTreeSet<String> {
        let path = c_path(self.0);
        let mut list = vec![0u8; 65_536];
        let len = unsafe { libc::listxattr(path.as_ptr(), list.as_mut_ptr().cast(), list.len()) };
        list.truncate(checked(len as libc::c_int).unwrap() as usize);
        list.split(|byte| *byte == 0)
            .filter(|name| !name.is_empty())
            .map(|name| String::from_utf8(name.to_vec()).unwrap())
            .collect()
    }
}
