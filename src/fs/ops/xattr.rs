//! Extended attributes: `user.*` is stored, encrypted, in the object's metadata; nothing else is.

use std::sync::Arc;
use std::time::Instant;

use super::filesystem::Filesystem;
use crate::crypto::xattr::SetError;
use crate::encrypted;
use crate::fs::error::{Error, Result};
use crate::fs::namespace::inode::Ino;
use crate::fs::namespace::object_name;

const USER: &str = "user.";

/// There are none. Programs that look for one take that for an answer, and EOPNOTSUPP for a failure.
const ACCESS_CONTROL_LISTS: [&str; 2] = ["system.posix_acl_access", "system.posix_acl_default"];

/// Read-only attributes that say how a file is stored.
const VIRTUAL: &str = "user.ossvault.";
const FORMAT: &str = "user.ossvault.format";
const ETAG: &str = "user.ossvault.etag";
const KEY_ID: &str = "user.ossvault.key-id";
const ENCRYPTED: &str = "user.ossvault.encrypted";
/// Of the key that opens it, which this finds out.
const FINGERPRINT: &str = "user.ossvault.fingerprint";

/// How setxattr treats a name that is there, or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetXattr {
    Either,
    /// XATTR_CREATE
    New,
    /// XATTR_REPLACE
    Existing,
}

impl Filesystem {
    pub async fn getxattr(self: &Arc<Self>, ino: Ino, name: &str) -> Result<Vec<u8>> {
        if ACCESS_CONTROL_LISTS.contains(&name) {
            return Err(Error::NoAttribute);
        }
        check_name(name)?;
        if name.starts_with(VIRTUAL) {
            return self.virtual_xattr(ino, name).await;
        }
        let xattrs = self.open_files.xattrs(ino).await?;
        xattrs
            .get(name)
            .map(<[u8]>::to_vec)
            .ok_or(Error::NoAttribute)
    }

    /// The names, each followed by a zero byte. The virtual ones are not listed: copying tools would try to
    /// set them.
    pub async fn listxattr(self: &Arc<Self>, ino: Ino) -> Result<Vec<u8>> {
        let xattrs = match self.open_files.xattrs(ino).await {
            // Without the private key names are as secret as values.
            Err(Error::Denied(_)) => return Ok(Vec::new()),
            xattrs => xattrs?,
        };
        let mut names = Vec::new();
        for (name, _) in xattrs.iter() {
            names.extend_from_slice(name.as_bytes());
            names.push(0);
        }
        Ok(names)
    }

    pub async fn setxattr(
        self: &Arc<Self>,
        ino: Ino,
        name: &str,
        value: &[u8],
        how: SetXattr,
    ) -> Result<()> {
        self.check_change(name)?;
        self.open_files
            .change_xattrs(ino, |xattrs| {
                match (how, xattrs.get(name).is_some()) {
                    (SetXattr::New, true) => return Err(Error::Exists),
                    (SetXattr::Existing, false) => return Err(Error::NoAttribute),
                    _ => {}
                }
                xattrs.set(name, value).map_err(|error| match error {
                    SetError::TooLarge => Error::NoSpace,
                    SetError::NotAName => Error::Invalid,
                })
            })
            .await
    }

    pub async fn removexattr(self: &Arc<Self>, ino: Ino, name: &str) -> Result<()> {
        self.check_change(name)?;
        self.open_files
            .change_xattrs(ino, |xattrs| {
                xattrs.remove(name).map(drop).ok_or(Error::NoAttribute)
            })
            .await
    }

    fn check_change(&self, name: &str) -> Result<()> {
        check_name(name)?;
        if name.starts_with(VIRTUAL) {
            return Err(Error::NotPermitted);
        }
        self.writable()
    }

    async fn virtual_xattr(self: &Arc<Self>, ino: Ino, name: &str) -> Result<Vec<u8>> {
        self.resolver.getattr(ino, Instant::now()).await?;
        let object = self.names.lock().object(ino).ok_or(Error::NoAttribute)?;
        if name == ETAG {
            return Ok(object.etag.as_str().trim_matches('"').as_bytes().to_vec());
        }
        let key = self.names.lock().key(ino).ok_or(Error::NoAttribute)?;
        let described = self
            .cache
            .headers(&object_name::object_key(key)?, &object.etag, Instant::now())
            .await?;
        let value = match (name, &described.object) {
            (ENCRYPTED, Err(encrypted::Error::NotEncrypted)) => "no".to_owned(),
            (ENCRYPTED, _) if described.is_plain() => "no".to_owned(),
            // Also with an envelope that cannot be opened.
            (ENCRYPTED, _) => "yes".to_owned(),
            (FORMAT, Ok(object)) => object.format.to_string(),
            (KEY_ID, Ok(object)) => object.key_id().ok_or(Error::NoAttribute)?.to_owned(),
            (FINGERPRINT, Ok(object)) => {
                self.bucket.unlock(object).await?;
                object.opened_by().ok_or(Error::NoAttribute)?.to_owned()
            }
            _ => return Err(Error::NoAttribute),
        };
        Ok(value.into_bytes())
    }
}

/// # Errors
/// [`Error::NotSupported`] outside of `user.`: it is said without a request, and the kernel asks often.
fn check_name(name: &str) -> Result<()> {
    match name.starts_with(USER) {
        true => Ok(()),
        false => Err(Error::NotSupported),
    }
}
