//! One local file or directory into a bucket: as the object that a mount would have made of it.

use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;

use super::compare::{Compare, Difference, Facts};
use super::content;
use super::entry::{Entry, Node, finding};
use super::failure::Failure;
use super::folder::{Folder, Stat, xattrs_of};
use super::options::{Control, Options};
use super::times::{Known, Times};
use crate::encrypted::{EncryptedBucket, Error, Plaintext, Xattrs};
use crate::files::attributes::{Attributes, Kind, Timestamp, XATTR, headers_of, headers_of_marker};
use crate::store::error::Error as StoreError;
use crate::store::object_store::{
    Body, CopyHeaders, ETag, ListedObject, ObjectKey, ObjectMeta, Overwrite,
};
use crate::tools::finding::{Finding, Grade};

pub(crate) struct Up {
    pub bucket: Arc<EncryptedBucket>,
    pub options: Options,
    pub control: Control,
    pub times: Arc<Times>,
}

/// A local file with what it is opened by.
struct Source {
    folder: Option<Arc<Folder>>,
    name: String,
    stat: Stat,
    path: PathBuf,
}

impl Source {
    fn of(entry: &Entry) -> Option<Source> {
        let Node::Local(folder, stat) = &entry.node else {
            return None;
        };
        let name = entry.name().to_owned();
        let path = folder
            .as_ref()
            .map_or(PathBuf::new(), |folder| folder.path().join(&name));
        Some(Source {
            folder: folder.clone(),
            name,
            stat: stat.clone(),
            path,
        })
    }

    fn folder(&self) -> Result<&Folder, Failure> {
        let folder = self.folder.as_deref();
        folder.ok_or_else(|| Failure::Reading(io::ErrorKind::NotFound.into()))
    }

    fn open(&self) -> Result<(File, Stat), Failure> {
        let opened = self.folder()?.open_file(self.name.as_ref());
        opened.map_err(Failure::Reading)
    }

    fn attributes(&self) -> Attributes {
        let stat = &self.stat;
        let now = Timestamp::from_system(SystemTime::now());
        let mut attributes = Attributes::new(stat.kind, stat.mode, stat.uid, stat.gid, now);
        attributes.mtime = stat.mtime;
        if matches!(stat.kind, Kind::CharDevice | Kind::BlockDevice) {
            attributes.rdev = stat.rdev;
        }
        attributes
    }
}

impl Up {
    /// `there`: what the key has, as it was listed.
    ///
    /// # Errors
    /// Errors that do not concern this file alone.
    pub(crate) async fn entry(
        &self,
        entry: Entry,
        key: String,
        there: Option<Entry>,
    ) -> Result<Vec<Finding>, StoreError> {
        let Some(source) = Source::of(&entry) else {
            return Ok(Vec::new());
        };
        let named = ListedObject {
            key: key.clone(),
            size: match source.stat.kind {
                Kind::File | Kind::Symlink => source.stat.size,
                _ => 0,
            },
            etag: ETag::new(""),
            last_modified: SystemTime::UNIX_EPOCH,
            storage_class: String::new(),
        };
        let done = match ObjectKey::new(key) {
            Ok(key) => self.try_entry(&source, &key, there).await,
            Err(_) => {
                let found = finding(named.key.clone(), named.size, Grade::Bad, "name-too-long");
                return Ok(vec![found.detail(
                    "a key has at most 1023 bytes, and begins with no slash or backslash",
                )]);
            }
        };
        let found = match done {
            Ok(outcome) => finding(named.key, named.size, Grade::Fine, outcome),
            Err(failure) => failure.found(&named, &source.path)?,
        };
        Ok(vec![found])
    }

    async fn try_entry(
        &self,
        source: &Source,
        key: &ObjectKey,
        there: Option<Entry>,
    ) -> Result<&'static str, Failure> {
        let is_directory = source.stat.kind == Kind::Directory;
        let there = there.map(|entry| (entry.known, entry.node));
        let Some((known, Node::Object(listed))) = there else {
            return self.store(source, key).await;
        };
        let here = Facts::from(&source.stat);
        let has_content = matches!(source.stat.kind, Kind::File | Kind::Symlink);
        // What the listing says is enough to know that the contents differ.
        let transfers = !is_directory
            && (self.options.compare == Compare::Never
                || listed.size != if has_content { here.size } else { 0 });
        if transfers {
            return self.store(source, key).await;
        }
        if let Some(known) = known
            && self.options.compare != Compare::Checksum
            && here.difference(&known.facts(), self.options.compare) == Difference::None
            && self.has_xattrs(source)?.digest() == known.xattrs
        {
            self.times.remember(*known);
            return Ok("unchanged");
        }
        let meta = match self.bucket.store().head(key).await {
            Err(StoreError::NotFound) => return self.store(source, key).await,
            meta => meta?,
        };
        let attributes = Attributes::read(&meta, is_directory);
        let there = Facts::of(&attributes, meta.size);
        let encrypted = is_directory || meta.size == 0 || self.bucket.object(&meta).is_ok();
        let xattrs = self.has_xattrs(source)?;
        let same_xattrs = self.same_xattrs(&xattrs, &meta).await;
        let difference = match here.difference(&there, self.options.compare) {
            _ if !encrypted => Difference::Content,
            Difference::None if !same_xattrs => Difference::Attributes,
            Difference::Unknown(attributes) => {
                match self.has_same_content(source, key, &meta).await? {
                    false => Difference::Content,
                    true if attributes || !same_xattrs => Difference::Attributes,
                    true => Difference::None,
                }
            }
            difference => difference,
        };
        match difference {
            Difference::None => {
                let known = Known::new(
                    key.as_str(),
                    &meta,
                    meta.last_modified,
                    &attributes,
                    &xattrs.0,
                );
                self.times.remember(known);
                Ok("unchanged")
            }
            _ if self.options.dry_run && difference == Difference::Attributes => {
                Ok("would-set-attributes")
            }
            Difference::Attributes => self.set_attributes(source, key, &meta, xattrs).await,
            _ => self.store(source, key).await,
        }
    }

    /// Makes the object anew.
    async fn store(&self, source: &Source, key: &ObjectKey) -> Result<&'static str, Failure> {
        let is_directory = source.stat.kind == Kind::Directory;
        if self.options.dry_run {
            return Ok(match is_directory {
                true => "would-make-directory",
                false => "would-store",
            });
        }
        match source.stat.kind {
            Kind::Directory => self.store_directory(source, key).await,
            Kind::File => self.store_file(source, key).await,
            Kind::Symlink => {
                let target = source.folder()?.read_link(source.name.as_ref());
                let target = target.map_err(Failure::Reading)?;
                let plain = Plaintext::from_bytes(Bytes::copy_from_slice(target.as_bytes()));
                self.store_plain(source, key, &plain, &Xattrs::new()).await
            }
            _ => {
                self.store_plain(source, key, &Plaintext::empty(), &Xattrs::new())
                    .await
            }
        }
    }

    async fn store_file(&self, source: &Source, key: &ObjectKey) -> Result<&'static str, Failure> {
        let (file, before) = source.open()?;
        let xattrs = xattrs_of(&file).map_err(Failure::Reading)?;
        let file = Arc::new(file);
        let opened = Source {
            folder: source.folder.clone(),
            name: source.name.clone(),
            stat: before.clone(),
            path: source.path.clone(),
        };
        let plain = content::plaintext(file.clone(), before.size, &self.control);
        let stored = self.store_plain(&opened, key, &plain, &xattrs).await?;
        let after = file.metadata().map_err(Failure::Reading)?;
        let mtime = after.modified().map_err(Failure::Reading)?;
        if after.len() != before.size || Timestamp::from_system(mtime) != before.mtime {
            // What is stored has the old time: the next run finds the difference.
            return Err(Error::Abandoned("run the command again").into());
        }
        Ok(stored)
    }

    async fn store_plain(
        &self,
        source: &Source,
        key: &ObjectKey,
        plain: &Plaintext,
        xattrs: &Xattrs,
    ) -> Result<&'static str, Failure> {
        let attributes = source.attributes();
        let headers = headers_of(&attributes);
        let (part, control) = (self.options.part_size, &self.control);
        let given = (!xattrs.is_empty()).then_some(xattrs);
        let sent = content::send(&self.bucket, key, plain, headers, given, part, control).await?;
        let meta = ObjectMeta {
            size: plain.len(),
            etag: sent.object.etag.clone(),
            last_modified: sent.date,
            headers: sent.headers,
            crc64: None,
            date: sent.date,
        };
        let known = Known::new(key.as_str(), &meta, sent.date, &attributes, xattrs);
        self.times.remember(known);
        Ok("stored")
    }

    async fn store_directory(
        &self,
        source: &Source,
        key: &ObjectKey,
    ) -> Result<&'static str, Failure> {
        let attributes = source.attributes();
        let headers = headers_of_marker(&attributes);
        let xattrs = self.has_xattrs(source)?.0;
        let (etag, date) = match xattrs.is_empty() {
            true => {
                let (body, overwrite) = (Body::empty(), Overwrite::Allowed);
                let put = self.bucket.store().put(key, &headers, body, overwrite);
                let answer = put.await?;
                (answer.etag, answer.date)
            }
            false => {
                let nothing = Plaintext::empty();
                let overwrite = Overwrite::Allowed;
                let put = self
                    .bucket
                    .put(key, &nothing, headers.clone(), Some(&xattrs), overwrite);
                let sent = put.await?;
                (sent.object.etag.clone(), sent.date)
            }
        };
        let meta = ObjectMeta {
            size: 0,
            etag,
            last_modified: date,
            headers,
            crc64: None,
            date,
        };
        let known = Known::new(key.as_str(), &meta, date, &attributes, &xattrs);
        self.times.remember(known);
        Ok("directory")
    }

    /// Changes the headers of the object that is there: its content stays.
    async fn set_attributes(
        &self,
        source: &Source,
        key: &ObjectKey,
        meta: &ObjectMeta,
        xattrs: Found,
    ) -> Result<&'static str, Failure> {
        let is_directory = source.stat.kind == Kind::Directory;
        let mut attributes = source.attributes();
        attributes.atime = Attributes::read(meta, is_directory).atime;
        let mut headers = meta.headers.clone();
        attributes.write(&mut headers.user);
        if !self.same_xattrs(&xattrs, meta).await {
            headers = match is_directory || meta.size == 0 {
                true => self.bucket.headers_with(headers, &xattrs.0)?,
                false => {
                    self.bucket.seal_xattrs(&xattrs.0, &mut headers)?;
                    headers
                }
            };
        }
        let (replace, limits) = (CopyHeaders::Replace(headers), self.options.limits);
        let copied = self
            .bucket
            .copy(key, meta, key, replace, Overwrite::Allowed, limits)
            .await?;
        let now = ObjectMeta {
            etag: copied.etag,
            ..meta.clone()
        };
        let known = Known::new(key.as_str(), &now, copied.date, &attributes, &xattrs.0);
        self.times.remember(known);
        Ok("attributes")
    }

    async fn has_same_content(
        &self,
        source: &Source,
        key: &ObjectKey,
        meta: &ObjectMeta,
    ) -> Result<bool, Failure> {
        if meta.size == 0 {
            return Ok(true);
        }
        let object = self.bucket.object(meta)?;
        let cipher = self.bucket.unlock(&object).await?;
        if source.stat.kind == Kind::Symlink {
            let target = source.folder()?.read_link(source.name.as_ref());
            let target = target.map_err(Failure::Reading)?;
            let mut theirs = vec![0; target.len()];
            let mut body = self.bucket.get(key, None, Some(&meta.etag)).await?;
            let mut filled = 0;
            while filled < theirs.len() {
                match body.read(&cipher, &mut theirs[filled..]).await? {
                    0 => return Ok(false),
                    count => filled += count,
                }
            }
            return Ok(target.as_bytes() == theirs);
        }
        let (file, _) = source.open()?;
        content::is_same(&self.bucket, key, meta, &cipher, &Arc::new(file)).await
    }

    fn has_xattrs(&self, source: &Source) -> Result<Found, Failure> {
        let found = match (source.stat.kind, &source.folder) {
            (Kind::File, _) => xattrs_of(&source.open()?.0),
            (Kind::Directory, Some(folder)) => folder
                .child(source.name.as_ref())
                .and_then(|child| child.xattrs()),
            _ => Ok(Xattrs::new()),
        };
        Ok(Found(found.map_err(Failure::Reading)?))
    }

    /// What cannot be opened here counts as the same if there is something on both sides.
    async fn same_xattrs(&self, here: &Found, meta: &ObjectMeta) -> bool {
        let there = meta.headers.user.contains_key(XATTR);
        if here.0.is_empty() || !there {
            return here.0.is_empty() != there;
        }
        match self.bucket.object(meta) {
            Ok(object) => match self.bucket.open_xattrs(&object, &meta.headers).await {
                Ok(opened) => opened == here.0,
                Err(_) => true,
            },
            Err(_) => true,
        }
    }
}

/// A local file's extended attributes.
struct Found(Xattrs);

impl Found {
    fn digest(&self) -> Option<String> {
        super::times::digest_of(&self.0)
    }
}
