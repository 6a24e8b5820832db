//! The storage class of a bucket: that of its objects which are stored without one.
//!
//! It is decided when the bucket is made and never changes. A bucket of the standard class has no file for it.

use std::io::{self, Write};

use super::directory::Directory;
use super::disk::{failed, message};
use crate::store::error::Error;
use crate::store::object_store::Result;

pub const FILE: &str = "class";

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    #[default]
    Standard,
    Infrequent,
}

impl Class {
    pub fn named(name: &str) -> Option<Class> {
        match name {
            "Standard" => Some(Class::Standard),
            "IA" => Some(Class::Infrequent),
            _ => None,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Class::Standard => "Standard",
            Class::Infrequent => "IA",
        }
    }

    /// # Errors
    /// [`Error::Misconfigured`] for one this program does not know.
    pub fn of(root: &Directory) -> Result<Class> {
        let other = || {
            Error::Misconfigured(message(format!(
                "{} is a bucket folder of an unknown storage class",
                root.path().display()
            )))
        };
        match root.read(FILE, 64) {
            Ok(text) => std::str::from_utf8(&text)
                .ok()
                .and_then(|text| Class::named(text.trim_end()))
                .ok_or_else(other),
            Err(error) => match error.kind() {
                io::ErrorKind::NotFound => Ok(Class::Standard),
                io::ErrorKind::FileTooLarge | io::ErrorKind::InvalidData => Err(other()),
                _ => Err(failed("reading the storage class", &root.path_of(FILE))(
                    error,
                )),
            },
        }
    }

    /// For a folder that no longer is a bucket.
    pub fn remove(root: &Directory) -> io::Result<()> {
        match root.remove_file(FILE) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// For a folder that is becoming a bucket: what an attempt before this one left there is replaced.
    pub fn write(self, root: &Directory, sync: bool) -> io::Result<()> {
        Class::remove(root)?;
        if self == Class::Standard {
            return Ok(());
        }
        let mut file = root.create_file(FILE)?;
        writeln!(file, "{}", self.name())?;
        if sync {
            file.sync_all()?;
        }
        Ok(())
    }
}
