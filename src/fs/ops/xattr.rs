//! Extended attributes: `user.*` is stored, encrypted, in the object's metadata; nothing else is.

use std::sync::Arc;
use std::time::Instant;

use super::filesystem::Filesystem;
use crate::crypto::xattr::SetError;
use crate::encrypted::{self, Xattrs};
use crate::envelope::Format;
use crate::fs::attributes::Attributes;
use crate::fs::error::{Error, Result};
use crate::fs::namespace::inode_table::{Ino, Marker, now};
use crate::fs::namespace::key_locks::Scope;
use crate::fs::namespace::names::Destination;
use crate::fs::namespace::object_name;
use crate::fs::resolver::objects::TRIES;
use crate::store::object_store::{CopyHeaders, ObjectKey, ObjectMeta, Overwrite};

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
        self.change_xattrs(ino, |xattrs| {
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
        self.change_xattrs(ino, |xattrs| {
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
        self.resolver.look_at(ino, Instant::now()).await?;
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
            // Also with an envelope that nobody can make anything of.
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

    async fn change_xattrs(
        self: &Arc<Self>,
        ino: Ino,
        change: impl Fn(&mut Xattrs) -> Result<()>,
    ) -> Result<()> {
        self.resolver.look_at(ino, Instant::now()).await?;
        if self.names.lock().is_directory(ino) {
            return self.change_directory_xattrs(ino, change).await;
        }
        for _ in 0..TRIES {
            if let Some(file) = self.open_files.file_of(ino) {
                let mut state = file.lock();
                if state.is_dirty() {
                    // The upload carries them; it counts as a change of the content, so that one under way
                    // is followed by another.
                    let before = state.xattrs.as_deref().cloned().unwrap_or_default();
                    let mut xattrs = before.clone();
                    change(&mut xattrs)?;
                    if xattrs == before {
                        self.names.lock().confirm_attributes(ino, Some(now()));
                        return Ok(());
                    }
                    state.xattrs = (!xattrs.is_empty()).then(|| Arc::new(xattrs));
                    state.written += 1;
                    if let Some(local) = self.names.lock().local_mut(ino) {
                        local.attributes.ctime = Some(now());
                        local.revision += 1;
                    }
                    return Ok(());
                }
            }
            let Some(at) = self.names.enter_for(ino).await? else {
                return Err(Error::NotPermitted);
            };
            let Destination {
                key, parent, name, ..
            } = &at;
            let _changing = self.names.begin_change([(*parent, name)]);
            let object = self.names.lock().object(ino).ok_or(Error::Stale)?;
            let described = self
                .cache
                .headers(key, &object.etag, Instant::now())
                .await?;
            if described.is_plain() {
                return Err(Error::Denied("unencrypted objects are served read-only"));
            }
            let before = self.open_files.stored_xattrs(key, &described).await?;
            let mut xattrs = (*before).clone();
            change(&mut xattrs)?;
            if !self.bucket.can_read() {
                return Err(Error::Denied("this mount has no private key"));
            }
            if xattrs == *before {
                self.names.lock().confirm_attributes(ino, Some(now()));
                return Ok(());
            }
            let mut headers = described.meta.headers.clone();
            self.bucket.seal_xattrs(&xattrs, &mut headers)?;
            changed_now(&described.meta, false).write(&mut headers.user);
            match self
                .objects
                .replace_headers(key, &described.meta, headers)
                .await
            {
                Ok(object) => {
                    self.open_files
                        .took_new_tag(ino, key, &described.meta.etag, &object);
                    self.open_files.keep_xattrs(ino, xattrs);
                    self.names
                        .lock()
                        .published(*parent, name, object, Instant::now());
                    return Ok(());
                }
                Err(Error::Stale) => {
                    let sent = Instant::now();
                    let meta = self.bucket.store().head(key).await?;
                    let object = self.cache.describe(key, meta, sent);
                    self.names.lock().published(*parent, name, object, sent);
                }
                Err(error) => return self.names.settled(*parent, name, Err(error)),
            }
        }
        Err(Error::Busy)
    }

    /// A directory's marker carries an envelope of its own when it has extended attributes. What else its
    /// headers say, others' entries included, stays.
    async fn change_directory_xattrs(
        self: &Arc<Self>,
        ino: Ino,
        change: impl Fn(&mut Xattrs) -> Result<()>,
    ) -> Result<()> {
        if !self.bucket.can_read() {
            return Err(Error::Denied("this mount has no private key"));
        }
        let _pass = self
            .names
            .enter_in_time(Instant::now(), |namespace| {
                Some(vec![Scope::Key(self.markers.marker_key(namespace, ino)?)])
            })
            .await?;
        let key = self.markers.marker_key(&self.names.lock(), ino);
        let key = object_name::object_key(key.ok_or(Error::Stale)?)?;
        for _ in 0..TRIES {
            let sent = Instant::now();
            let meta = self.markers.marker_headers(ino, &key).await?;
            let changed = match &meta {
                Some(meta) => self.change_marker(&key, meta, &change).await,
                None => self.make_marker(ino, &key, &change).await.map(Some),
            };
            let forget = || self.cache.forget_object(&key);
            match changed {
                // Replaced or removed by another client: asked for anew.
                Err(Error::Stale | Error::NotFound) => forget(),
                Err(error) => {
                    if !error.is_refusal() {
                        // The answer may have been lost.
                        forget();
                        self.names.lock().doubt_attributes(ino);
                    }
                    return Err(error);
                }
                Ok(None) => {
                    self.names.lock().confirm_attributes(ino, Some(now()));
                    return Ok(());
                }
                Ok(Some((attributes, marker))) => {
                    if ino == Ino::ROOT {
                        self.markers.set_root_stored(true);
                    }
                    self.names
                        .lock()
                        .set_directory(ino, attributes, Some(marker), sent);
                    return Ok(());
                }
            }
        }
        Err(Error::Busy)
    }

    /// None: it was so already.
    async fn change_marker(
        &self,
        key: &ObjectKey,
        meta: &ObjectMeta,
        change: impl Fn(&mut Xattrs) -> Result<()>,
    ) -> Result<Option<(Attributes, Marker)>> {
        let mut xattrs = match self.bucket.object_at(key, meta) {
            Ok(envelope) if envelope.format != Format::Plain => {
                self.bucket.open_xattrs(&envelope, &meta.headers).await?
            }
            Ok(_) | Err(encrypted::Error::NotEncrypted) if meta.size == 0 => Xattrs::new(),
            // Another tool's, with content that no envelope of ours would belong to.
            Ok(_) | Err(encrypted::Error::NotEncrypted) => return Err(Error::NotSupported),
            Err(error) => return Err(error.into()),
        };
        let before = xattrs.clone();
        change(&mut xattrs)?;
        if xattrs == before {
            return Ok(None);
        }
        let attributes = changed_now(meta, true);
        let mut headers = meta.headers.clone();
        attributes.write(&mut headers.user);
        if meta.size == 0 {
            // There is no content that an envelope would have to stay with: each change draws a new key.
            headers = self.bucket.headers_with(headers, &xattrs)?;
        } else {
            self.bucket.seal_xattrs(&xattrs, &mut headers)?;
        }
        let replace = CopyHeaders::Replace(headers.clone());
        let answer = self
            .objects
            .copy_object(key, meta, key, replace, Overwrite::Allowed)
            .await?;
        let marker = self.markers.remember_marker(key, headers, answer);
        Ok(Some((attributes, marker)))
    }

    async fn make_marker(
        &self,
        ino: Ino,
        key: &ObjectKey,
        change: impl Fn(&mut Xattrs) -> Result<()>,
    ) -> Result<(Attributes, Marker)> {
        let mut xattrs = Xattrs::new();
        change(&mut xattrs)?;
        let stored = self.names.lock().stored_directory(ino);
        let mut attributes = stored.unwrap_or_else(|| Attributes::implicit_directory(now()));
        attributes.ctime = Some(now());
        let marker = self
            .markers
            .put_marker_with(key, &attributes, &xattrs)
            .await?;
        Ok((attributes, marker))
    }
}

/// The attributes of an object whose metadata change now.
fn changed_now(meta: &ObjectMeta, directory: bool) -> Attributes {
    Attributes {
        ctime: Some(now()),
        ..Attributes::read(meta, directory)
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
