//! Extended attributes: `user.*` is stored, encrypted, in the object's metadata; nothing else is.

use std::sync::Arc;
use std::time::Instant;

use super::attributes::{Attributes, XATTR};
use super::change_attributes::TRIES;
use super::error::{Error, Result};
use super::filesystem::{Described, Filesystem};
use super::gate::Scope;
use super::names;
use super::namespace::{Ino, Marker, now};
use super::open_file::OpenFile;
use super::writeback::Destination;
use crate::base::error_chain::chain;
use crate::crypto::xattr::SetError;
use crate::encrypted::{self, Xattrs};
use crate::envelope::Format;
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
        let xattrs = self.xattrs(ino).await?;
        xattrs
            .get(name)
            .map(<[u8]>::to_vec)
            .ok_or(Error::NoAttribute)
    }

    /// The names, each followed by a zero byte. The virtual ones are not listed: copying tools would try to
    /// set them.
    pub async fn listxattr(self: &Arc<Self>, ino: Ino) -> Result<Vec<u8>> {
        let xattrs = match self.xattrs(ino).await {
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
        self.look_at(ino, Instant::now()).await?;
        let object = self.namespace().object(ino).ok_or(Error::NoAttribute)?;
        if name == ETAG {
            return Ok(object.etag.as_str().trim_matches('"').as_bytes().to_vec());
        }
        let key = self.namespace().key(ino).ok_or(Error::NoAttribute)?;
        let described = self
            .headers(&names::object_key(key)?, &object.etag, Instant::now())
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

    /// A file's extended attributes, as it stands here.
    async fn xattrs(self: &Arc<Self>, ino: Ino) -> Result<Arc<Xattrs>> {
        self.look_at_traversing(ino, Instant::now()).await?;
        if let Some(file) = self.file_of(ino)
            && let state = file.lock()
            && state.is_dirty()
        {
            return Ok(state.xattrs.clone().unwrap_or_default());
        }
        let Some((key, described)) = self.stored_headers(ino).await? else {
            return Ok(Arc::default());
        };
        self.stored_xattrs(&key, &described).await
    }

    /// The headers that hold an inode's extended attributes; None where there can be none.
    async fn stored_headers(
        self: &Arc<Self>,
        ino: Ino,
    ) -> Result<Option<(ObjectKey, Arc<Described>)>> {
        let (key, etag) = {
            let namespace = self.namespace();
            if namespace.is_directory(ino) {
                let key = self.marker_key(&namespace, ino).ok_or(Error::Stale)?;
                match namespace.directory_marker(ino) {
                    Some(marker) => (key, marker.etag),
                    None => return Ok(None),
                }
            } else {
                let Some(object) = namespace.object(ino) else {
                    return Ok(None);
                };
                if object.known.as_ref().is_some_and(|known| !known.xattrs) {
                    return Ok(None);
                }
                let Some(key) = namespace.key(ino) else {
                    return Ok(None);
                };
                (key, object.etag)
            }
        };
        let key = names::object_key(key)?;
        let described = self.headers(&key, &etag, Instant::now()).await?;
        Ok(Some((key, described)))
    }

    async fn stored_xattrs(&self, key: &ObjectKey, described: &Described) -> Result<Arc<Xattrs>> {
        if !described.meta.headers.user.contains_key(XATTR) {
            return Ok(Arc::default());
        }
        if !self.bucket.can_read() {
            return Err(Error::Denied("this mount has no private key"));
        }
        let object = described.object.as_ref().map_err(|error| error.clone())?;
        let xattrs = self
            .bucket
            .open_xattrs(object, &described.meta.headers)
            .await
            .inspect_err(|error| {
                log::error!("extended attributes of {key}: {}", chain(error));
            })?;
        Ok(Arc::new(xattrs))
    }

    async fn change_xattrs(
        self: &Arc<Self>,
        ino: Ino,
        change: impl Fn(&mut Xattrs) -> Result<()>,
    ) -> Result<()> {
        self.look_at(ino, Instant::now()).await?;
        if self.namespace().is_directory(ino) {
            return self.change_directory_xattrs(ino, change).await;
        }
        for _ in 0..TRIES {
            if let Some(file) = self.file_of(ino) {
                let mut state = file.lock();
                if state.is_dirty() {
                    // The upload carries them; it counts as a change of the content, so that one under way
                    // is followed by another.
                    let before = state.xattrs.as_deref().cloned().unwrap_or_default();
                    let mut xattrs = before.clone();
                    change(&mut xattrs)?;
                    if xattrs == before {
                        self.namespace().confirm_attributes(ino, Some(now()));
                        return Ok(());
                    }
                    state.xattrs = (!xattrs.is_empty()).then(|| Arc::new(xattrs));
                    state.written += 1;
                    if let Some(local) = self.namespace().local_mut(ino) {
                        local.attributes.ctime = Some(now());
                        local.revision += 1;
                    }
                    return Ok(());
                }
            }
            let Some(at) = self.enter_for(ino).await? else {
                return Err(Error::NotPermitted);
            };
            let Destination {
                key, parent, name, ..
            } = &at;
            let _changing = self.begin_change([(*parent, name)]);
            let object = self.namespace().object(ino).ok_or(Error::Stale)?;
            let described = self.headers(key, &object.etag, Instant::now()).await?;
            if described.is_plain() {
                return Err(Error::Denied("unencrypted objects are served read-only"));
            }
            let before = self.stored_xattrs(key, &described).await?;
            let mut xattrs = (*before).clone();
            change(&mut xattrs)?;
            if !self.bucket.can_read() {
                return Err(Error::Denied("this mount has no private key"));
            }
            if xattrs == *before {
                self.namespace().confirm_attributes(ino, Some(now()));
                return Ok(());
            }
            let mut headers = described.meta.headers.clone();
            self.bucket.seal_xattrs(&xattrs, &mut headers)?;
            changed_now(&described.meta, false).write(&mut headers.user);
            match self.replace_headers(key, &described.meta, headers).await {
                Ok(object) => {
                    self.took_new_tag(ino, key, &described.meta.etag, &object);
                    self.keep_xattrs(ino, xattrs);
                    self.namespace()
                        .published(*parent, name, object, Instant::now());
                    return Ok(());
                }
                Err(Error::Stale) => {
                    let sent = Instant::now();
                    let meta = self.bucket.store().head(key).await?;
                    let object = self.describe(key, meta, sent);
                    self.namespace().published(*parent, name, object, sent);
                }
                Err(error) => return self.settled(*parent, name, Err(error)),
            }
        }
        Err(Error::Busy)
    }

    /// What is written to an open file later takes these along, not those of when it was opened.
    fn keep_xattrs(&self, ino: Ino, xattrs: Xattrs) {
        let Some(file) = self.file_of(ino) else {
            return;
        };
        let mut state = file.lock();
        state.xattrs = (!xattrs.is_empty()).then(|| Arc::new(xattrs));
        if state.is_dirty() {
            // An upload under way carries the old ones.
            state.written += 1;
        }
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
            .enter(|namespace| Some(vec![Scope::Key(self.marker_key(namespace, ino)?)]))
            .await?;
        let key = self.marker_key(&self.namespace(), ino);
        let key = names::object_key(key.ok_or(Error::Stale)?)?;
        for _ in 0..TRIES {
            let sent = Instant::now();
            let meta = self.marker_headers(ino, &key).await?;
            let changed = match &meta {
                Some(meta) => self.change_marker(&key, meta, &change).await,
                None => self.make_marker(ino, &key, &change).await.map(Some),
            };
            let forget = || self.forget_object(&key);
            match changed {
                // Replaced or removed by another client: asked for anew.
                Err(Error::Stale | Error::NotFound) => forget(),
                Err(error) => {
                    if !error.is_refusal() {
                        // The answer may have been lost.
                        forget();
                        self.namespace().doubt_attributes(ino);
                    }
                    return Err(error);
                }
                Ok(None) => {
                    self.namespace().confirm_attributes(ino, Some(now()));
                    return Ok(());
                }
                Ok(Some((attributes, marker))) => {
                    if ino == Ino::ROOT {
                        self.set_root_stored(true);
                    }
                    self.namespace()
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
            .copy_object(key, meta, key, replace, Overwrite::Allowed)
            .await?;
        let marker = self.remember_marker(key, headers, answer);
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
        let stored = self.namespace().stored_directory(ino);
        let mut attributes = stored.unwrap_or_else(|| Attributes::implicit_directory(now()));
        attributes.ctime = Some(now());
        let marker = self.put_marker_with(key, &attributes, &xattrs).await?;
        Ok((attributes, marker))
    }

    /// Before a file's content is changed: what goes up next takes the extended attributes along. Without
    /// the private key they go with the old content.
    pub(super) async fn take_xattrs_along(self: &Arc<Self>, file: &Arc<OpenFile>) -> Result<()> {
        if !self.bucket.can_read() || file.lock().is_dirty() {
            return Ok(());
        }
        let xattrs = match self.stored_headers(file.ino).await? {
            Some((key, described)) => self.stored_xattrs(&key, &described).await?,
            None => Arc::default(),
        };
        let mut state = file.lock();
        if !state.is_dirty() {
            state.xattrs = (!xattrs.is_empty()).then_some(xattrs);
        }
        Ok(())
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
