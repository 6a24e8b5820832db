//! Lookup, getattr, readlink: what names and inodes look like to a program.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::attributes::{Attributes, Kind, Timestamp};
use super::content::Content;
use super::error::{Error, Result};
use super::filesystem::Filesystem;
use super::names;
use super::namespace::{Ino, Namespace, View, now};
use crate::base::error_chain::chain;
use crate::crypto::data_key::ContentKind;
use crate::envelope::format::LONGEST_LINK;

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    pub uid: u32,
    pub gid: u32,
}

/// A file as stat shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Looks {
    pub ino: Ino,
    pub kind: Kind,
    /// In bytes.
    pub size: u64,
    /// Permission bits.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub atime: Timestamp,
    pub mtime: Timestamp,
    pub ctime: Timestamp,
    pub rdev: u32,
    /// An object has one name; what is open has none once that is gone.
    pub links: u32,
    /// How long the kernel may count on it.
    pub valid: Duration,
}

/// An answer to a lookup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    Present(Looks),
    /// Not there, and how long the kernel may count on that.
    Absent(Duration),
}

impl Filesystem {
    /// What a name stands for. A name that is there counts as known to the kernel once more.
    pub async fn lookup(self: &Arc<Self>, parent: Ino, name: &str) -> Result<Found> {
        let start = Instant::now();
        if self.is_reserved(parent, name) {
            return Ok(Found::Absent(self.settings.metadata_ttl));
        }
        match self.look_up(parent, name, start).await? {
            Ok(view) => Ok(Found::Present(self.looks(view))),
            Err(checked) => Ok(Found::Absent(self.valid(checked))),
        }
    }

    /// What an inode is that the kernel has a file handle of, and may have forgotten. It counts as known to the
    /// kernel once more.
    ///
    /// # Errors
    /// [`Error::Stale`] when its name is gone or stands for something else, or nothing is remembered of it.
    pub async fn lookup_inode(self: &Arc<Self>, ino: Ino) -> Result<Looks> {
        if !self.namespace().recall(ino) {
            return Err(Error::Stale);
        }
        match self.look_at(ino, Instant::now()).await {
            Ok(view) => Ok(self.looks(view)),
            Err(error) => {
                self.forget(ino, 1);
                Err(error)
            }
        }
    }

    /// The directory above one, as [`Filesystem::lookup_inode`].
    pub async fn lookup_parent(self: &Arc<Self>, ino: Ino) -> Result<Looks> {
        let place = self.namespace().place(ino);
        match place {
            Some((parent, _)) => self.lookup_inode(parent).await,
            None if ino == Ino::ROOT => self.lookup_inode(ino).await,
            None => Err(Error::Stale),
        }
    }

    pub async fn getattr(self: &Arc<Self>, ino: Ino) -> Result<Looks> {
        let start = Instant::now();
        let view = self.look_at_traversing(ino, start).await?;
        Ok(self.looks(view))
    }

    pub fn forget(&self, ino: Ino, lookups: u64) {
        self.namespace().forget(ino, lookups);
    }

    /// A link's target. Programs go on to resolve it, and the names in it are asked of the bucket: what is not
    /// known to be a target is not told to the kernel. What claims to be a link looks like one all the same,
    /// and can be removed.
    ///
    /// # Errors
    /// [`Error::Io`] where the length is that of no target, where the object's key says that it is a file, and
    /// where it does not say, unless [`trust_links`](super::settings::Settings::trust_links). Nothing of the
    /// content has been fetched then.
    pub async fn readlink(self: &Arc<Self>, ino: Ino) -> Result<Bytes> {
        let view = self.look_at(ino, Instant::now()).await?;
        if view.attributes.kind != Kind::Symlink {
            return Err(Error::Invalid);
        }
        if !self.bucket.can_read() {
            return Err(Error::Denied("this mount has no private key"));
        }
        let file = self.hold_file(ino, Instant::now()).await?;
        let content = file.lock().content.clone();
        let result = match content {
            Some(content) => self.link_target(ino, &content).await,
            None => Err(Error::io("the object is no symbolic link")),
        };
        self.end_hold(&file);
        result
    }

    async fn link_target(self: &Arc<Self>, ino: Ino, content: &Arc<Content>) -> Result<Bytes> {
        let size = content.size();
        if !(1..=LONGEST_LINK).contains(&size) {
            return Err(Error::io("no symbolic link's target has that length"));
        }
        if let Err(error) = self.check_link(ino, content).await {
            if content.to_be_told() {
                let place = self.describe_place(ino);
                log::error!("the symbolic link {place}: {}", chain(&error));
            }
            return Err(error.told());
        }
        let target = content.reader().read(0..size).await;
        let target = target.map_err(|error| self.read_failed(ino, content, error))?;
        match target.contains(&0) {
            true => Err(Error::io("the object is no symbolic link")),
            false => Ok(target),
        }
    }

    /// Whether the key of this version says that the content is a link's target. From here on the version is
    /// read under this envelope and no other.
    async fn check_link(self: &Arc<Self>, ino: Ino, content: &Arc<Content>) -> Result<()> {
        let object = match content.object() {
            Some(object) => object,
            None => {
                let key = self.namespace().key(ino).ok_or(Error::Stale)?;
                let key = names::object_key(key)?;
                let etag = content.etag();
                let described = match self.known_headers(&key, &etag) {
                    Some(described) => described,
                    None => self.headers(&key, &etag, Instant::now()).await?,
                };
                let object = described.object.as_ref().map_err(|error| error.clone())?;
                if object.etag != etag {
                    return Err(Error::Stale);
                }
                content.set_object(key, object.clone());
                object.clone()
            }
        };
        // Fails where the key says that it is a file.
        let cipher = self.bucket.unlock(&object).await?;
        if object.claimed_kind() != ContentKind::Link {
            return Err(Error::io("its metadata say that it is no symbolic link"));
        }
        match object.check_link(&cipher) {
            Err(_) if self.settings.trust_links => Ok(()),
            checked => Ok(checked?),
        }
    }

    /// Free space, as such a thing can be told of a bucket: in bytes.
    pub fn free_bytes(&self) -> u64 {
        1 << 50
    }

    /// A view that is given to the kernel as an entry.
    pub(super) fn entered(&self, view: View, _start: Instant) -> Looks {
        let mut namespace = self.namespace();
        namespace.remember(view.ino);
        self.forget_surplus(&mut namespace);
        drop(namespace);
        self.looks(view)
    }

    pub(super) fn looks(&self, view: View) -> Looks {
        let View {
            ino,
            attributes,
            size,
            checked,
            named,
        } = view;
        let defaults = &self.settings.defaults;
        let (uid, gid) = if self.settings.show_owner {
            (
                attributes.uid.unwrap_or(defaults.uid),
                attributes.gid.unwrap_or(defaults.gid),
            )
        } else {
            let shown = attributes.gid.filter(|gid| self.groups.contains(gid));
            (defaults.uid, shown.unwrap_or(defaults.gid))
        };
        let overrides = &self.settings.overrides;
        let (uid, gid) = (overrides.uid.unwrap_or(uid), overrides.gid.unwrap_or(gid));
        let mode = attributes.permissions(defaults);
        let mut mode = overrides.permissions(attributes.kind, mode);
        if self.settings.read_only {
            mode &= !0o222;
        }
        let size = match attributes.kind {
            Kind::File | Kind::Symlink => size,
            _ => 0,
        };
        Looks {
            ino,
            kind: attributes.kind,
            size,
            mode,
            uid,
            gid,
            atime: attributes.atime.unwrap_or(attributes.mtime),
            mtime: attributes.mtime,
            ctime: attributes.ctime.unwrap_or(attributes.mtime),
            rdev: attributes.rdev,
            links: match (named, attributes.kind) {
                (false, _) => 0,
                // Subdirectories are not counted: that would take a listing.
                (true, Kind::Directory) => 2,
                (true, _) => 1,
            },
            valid: self.valid(checked),
        }
    }

    /// # Errors
    /// [`Error::NotPermitted`] for an owner or a group that would be stored and not shown.
    pub(super) fn check_shown(&self, uid: Option<u32>, gid: Option<u32>) -> Result<()> {
        let defaults = &self.settings.defaults;
        let hides_uid = uid.is_some_and(|uid| uid != defaults.uid);
        let hides_gid = gid.is_some_and(|gid| gid != defaults.gid && !self.groups.contains(&gid));
        match !self.settings.show_owner && (hides_uid || hides_gid) {
            true => Err(Error::NotPermitted),
            false => Ok(()),
        }
    }

    /// How long the kernel may count on what was known at `checked`: for less time than this mount does.
    fn valid(&self, checked: Instant) -> Duration {
        /// The answer has to get there, and the kernel counts in ticks, of which it takes one more.
        const MARGIN: Duration = Duration::from_millis(20);
        let ttl = self.settings.metadata_ttl.saturating_sub(MARGIN);
        ttl.saturating_sub(checked.elapsed())
    }

    /// The attributes of something that is made now.
    pub(super) fn new_attributes(
        &self,
        namespace: &Namespace,
        parent: Ino,
        kind: Kind,
        mode: u32,
        caller: Caller,
    ) -> Attributes {
        let mut gid = caller.gid;
        let mut mode = mode;
        // In a set-group-id directory everything belongs to the directory's group.
        if let Some(directory) = namespace.stored_directory(parent)
            && directory.permissions(&self.settings.defaults) & libc::S_ISGID != 0
        {
            gid = directory.gid.unwrap_or(self.settings.defaults.gid);
            if kind == Kind::Directory {
                mode |= libc::S_ISGID;
            }
        }
        Attributes::new(kind, mode, caller.uid, gid, now())
    }
}
