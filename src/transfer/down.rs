//! One object into a folder of this machine: under a temporary name, with its attributes, and then in its place.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use super::compare::{Compare, Difference, Facts};
use super::content;
use super::entry::{Entry, Node, finding};
use super::failure::Failure;
use super::folder::{Folder, Given, Stat, TEMPORARY, set_xattrs_of, xattrs_of};
use super::options::{Control, Options};
use super::times::{Known, Times, digest_of};
use crate::base::error_chain::chain;
use crate::base::sync::lock;
use crate::crypto::ctr::ContentCipher;
use crate::encrypted::{EncryptedBucket, EncryptedObject, Error, Xattrs};
use crate::envelope::format::LONGEST_LINK;
use crate::files::attributes::{Attributes, Kind};
use crate::store::error::Error as StoreError;
use crate::store::object_store::{ListedObject, ObjectKey, ObjectMeta};
use crate::tools::finding::{Finding, Grade};

/// Set-user-ID, and set-group-ID.
const SET_ID: u32 = libc::S_ISUID | libc::S_ISGID;

/// Of files and directories that store none, as in a mount.
const FILE_MODE: u32 = 0o644;
pub(crate) const DIRECTORY_MODE: u32 = 0o755;

/// A folder that files are written into, or removed from. It is given its attributes, or removed, when everything below
/// it is done: with its last reference.
pub(crate) struct Target {
    pub folder: Folder,
    /// Where it is itself; none for the root.
    place: Option<(Arc<Target>, OsString)>,
    /// A leaf: held for a lookup.
    end: Mutex<End>,
}

#[derive(Clone, Copy)]
enum End {
    Stays,
    Given(Given),
    Removed,
}

impl Target {
    pub(crate) fn root(folder: Folder) -> Arc<Target> {
        Arc::new(Target {
            folder,
            place: None,
            end: Mutex::new(End::Stays),
        })
    }

    /// A folder below, which is there.
    pub(crate) fn child(self: &Arc<Target>, name: &OsStr) -> io::Result<Arc<Target>> {
        Ok(Arc::new(Target {
            folder: self.folder.child(name)?,
            place: Some((self.clone(), name.to_owned())),
            end: Mutex::new(End::Stays),
        }))
    }

    pub(crate) fn give_at_end(&self, given: Given) {
        *lock(&self.end) = End::Given(given);
    }

    /// Unless something is still in it.
    pub(crate) fn remove_at_end(&self) {
        *lock(&self.end) = End::Removed;
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        let end = *lock(&self.end);
        let done = match (end, &self.place) {
            (End::Given(given), _) => self.folder.give_self(&given),
            (End::Removed, Some((parent, name))) => match parent.folder.remove_folder(name) {
                Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                removed => removed,
            },
            _ => Ok(()),
        };
        if let Err(error) = done {
            log::warn!("{}: {}", self.folder.path().display(), chain(&error));
        }
    }
}

pub(crate) struct Down {
    pub bucket: Arc<EncryptedBucket>,
    pub options: Options,
    pub control: Control,
    pub times: Arc<Times>,
}

/// A version of an object.
struct Version {
    key: ObjectKey,
    meta: ObjectMeta,
    attributes: Attributes,
    /// None for an empty object without an envelope.
    object: Option<Arc<EncryptedObject>>,
}

impl Down {
    /// A file that the bucket has, at a name of `target`; none in a dry run. `there`: what has the name.
    ///
    /// # Errors
    /// Errors that do not concern this file alone.
    pub(crate) async fn file(
        &self,
        entry: Entry,
        target: Option<Arc<Target>>,
        name: OsString,
        there: Option<Stat>,
    ) -> Result<Vec<Finding>, StoreError> {
        let Node::Object(listed) = entry.node else {
            return Ok(Vec::new());
        };
        let local = match &target {
            Some(target) => target.folder.path().join(&name),
            None => PathBuf::from(&name),
        };
        let known = entry.known;
        let done = self
            .try_file(&listed, known, target.as_deref(), &name, there)
            .await;
        Ok(vec![match done {
            Ok(("device", _)) => finding(listed.key, 0, Grade::Left, "device")
                .detail("device nodes are made with --trust-modes only"),
            Ok((outcome, size)) => finding(listed.key, size, Grade::Fine, outcome),
            Err(failure) => failure.found(&listed, &local)?,
        }])
    }

    async fn try_file(
        &self,
        listed: &ListedObject,
        known: Option<Box<Known>>,
        target: Option<&Target>,
        name: &OsStr,
        there: Option<Stat>,
    ) -> Result<(&'static str, u64), Failure> {
        let key = ObjectKey::new(listed.key.as_str())?;
        let local = there.as_ref().map(Facts::from);
        if let (Some(local), Some(known), Some(target)) = (&local, &known, target)
            && self.options.compare != Compare::Checksum
            && self
                .wanted(known.facts())
                .difference(local, self.options.compare)
                == Difference::None
            && self.xattrs_at(target, name, local.kind)? == known.xattrs
        {
            self.times.remember((**known).clone());
            return Ok(("unchanged", listed.size));
        }
        // Only what may be the same is worth a question of its own.
        let compares = local.as_ref().is_some_and(|local| {
            self.options.compare != Compare::Never && local.size == listed.size
        });
        if self.options.dry_run && (!compares || target.is_none()) {
            return Ok(("would-fetch", listed.size));
        }
        let dry_run = self.options.dry_run;
        let Some(target) = target else {
            return Err(Failure::Writing(io::ErrorKind::NotFound.into()));
        };
        if let (true, Some(local)) = (compares, &local) {
            let version = self.version(&key, self.bucket.store().head(&key).await?)?;
            let xattrs = self.xattrs(&version).await?;
            let wanted = self.wanted(Facts::of(&version.attributes, version.meta.size));
            let same_xattrs = self.xattrs_at(target, name, local.kind)? == digest_of(&xattrs);
            let mut difference = wanted.difference(local, self.options.compare);
            if let Difference::Unknown(attributes) = difference {
                difference = match self.has_same_content(&key, &version, target, name).await? {
                    false => Difference::Content,
                    true if attributes => Difference::Attributes,
                    true => Difference::None,
                };
            }
            match difference {
                Difference::None if same_xattrs => {
                    self.remember(&version, &xattrs);
                    return Ok(("unchanged", version.meta.size));
                }
                Difference::None | Difference::Attributes if dry_run => {
                    return Ok(("would-set-attributes", 0));
                }
                Difference::None | Difference::Attributes => {
                    if !same_xattrs {
                        let (file, _) = target.folder.open_file(name).map_err(Failure::Writing)?;
                        set_xattrs_of(&file, &xattrs).map_err(Failure::Writing)?;
                    }
                    let given = self.given(&version.attributes);
                    let done = target.folder.give(name, version.attributes.kind, &given);
                    done.map_err(Failure::Writing)?;
                    self.remember(&version, &xattrs);
                    return Ok(("attributes", 0));
                }
                _ if dry_run => return Ok(("would-fetch", version.meta.size)),
                _ => {}
            }
        }
        self.fetch(&key, listed, target, name).await
    }

    async fn fetch(
        &self,
        key: &ObjectKey,
        listed: &ListedObject,
        target: &Target,
        name: &OsStr,
    ) -> Result<(&'static str, u64), Failure> {
        // One request brings both the headers and the content of a small object.
        let (meta, body) = match listed.size > 0 && content::is_fetched_whole(listed.size) {
            true => {
                let body = self.bucket.get(key, None, None).await?;
                (body.meta.clone(), Some(body))
            }
            false => (self.bucket.store().head(key).await?, None),
        };
        let version = self.version(key, meta)?;
        let cipher = match &version.object {
            Some(object) => self.bucket.unlock(object).await?,
            None => Arc::new(ContentCipher::identity()),
        };
        let xattrs = self.xattrs(&version).await?;
        let kind = version.attributes.kind;
        let size = version.meta.size;
        let temporary = temporary_name();
        let folder = &target.folder;
        let made = async {
            match kind {
                Kind::Symlink => {
                    let link = self.link(key, &version, &cipher, body).await?;
                    let made = folder.make_link(OsStr::from_bytes(&link), &temporary);
                    made.map_err(Failure::Writing)?;
                }
                Kind::File | Kind::Directory => {
                    let file = folder.create(&temporary).map_err(Failure::Writing)?;
                    let file = Arc::new(file);
                    match body {
                        Some(body) => {
                            content::write_body(body, &cipher, &file, &self.control).await?;
                        }
                        None if size == 0 => {}
                        None => {
                            let (bucket, control) = (&self.bucket, &self.control);
                            let meta = &version.meta;
                            content::fetch_ranges(bucket, key, meta, &cipher, &file, control)
                                .await?;
                        }
                    }
                    if !xattrs.is_empty() {
                        set_xattrs_of(&file, &xattrs).map_err(Failure::Writing)?;
                    }
                }
                Kind::CharDevice | Kind::BlockDevice if !self.options.trust_modes => {
                    return Ok("device");
                }
                kind => {
                    let rdev = version.attributes.rdev;
                    let made = folder.make_special(kind, rdev, &temporary);
                    made.map_err(Failure::Writing)?;
                }
            }
            let given = self.given(&version.attributes);
            folder
                .give(&temporary, kind, &given)
                .map_err(Failure::Writing)?;
            folder.rename(&temporary, name).map_err(Failure::Writing)?;
            Ok("fetched")
        };
        let made: Result<&'static str, Failure> = made.await;
        if made.is_err() {
            let _ = folder.remove(&temporary);
        } else {
            self.remember(&version, &xattrs);
        }
        Ok((made?, size))
    }

    /// A link's target, by the rules of a mount.
    async fn link(
        &self,
        key: &ObjectKey,
        version: &Version,
        cipher: &ContentCipher,
        body: Option<crate::encrypted::Ciphertext>,
    ) -> Result<Vec<u8>, Failure> {
        let size = version.meta.size;
        if !(1..=LONGEST_LINK).contains(&size) {
            return Err(Error::Damaged("no symbolic link's target has that length".into()).into());
        }
        if let Some(object) = &version.object
            && let Err(error) = object.check_link(cipher)
            && !self.options.trust_links
        {
            return Err(error.into());
        }
        let mut body = match body {
            Some(body) => body,
            None => self.bucket.get(key, None, Some(&version.meta.etag)).await?,
        };
        let mut target = vec![0; size as usize];
        let mut filled = 0;
        while filled < target.len() {
            match body.read(cipher, &mut target[filled..]).await? {
                0 => break,
                count => filled += count,
            }
        }
        if filled < target.len() || target.contains(&0) {
            return Err(Error::Damaged("the object is no symbolic link".into()).into());
        }
        Ok(target)
    }

    /// The attributes of a directory, which are given to it when everything below it is done.
    ///
    /// # Errors
    /// Errors that do not concern this directory alone.
    pub(crate) async fn directory(
        &self,
        entry: Entry,
        target: Arc<Target>,
        made: bool,
    ) -> Result<Vec<Finding>, StoreError> {
        let listed = match entry.node {
            Node::Object(listed) => listed,
            _ => return Ok(Vec::new()),
        };
        let done = self.try_directory(&listed, entry.known, &target).await;
        Ok(match done {
            Ok(_) if made => vec![finding(listed.key, 0, Grade::Fine, "directory")],
            Ok(outcome) => vec![finding(listed.key, 0, Grade::Fine, outcome)],
            Err(failure) => vec![failure.found(&listed, target.folder.path())?],
        })
    }

    async fn try_directory(
        &self,
        listed: &ListedObject,
        known: Option<Box<Known>>,
        target: &Target,
    ) -> Result<&'static str, Failure> {
        let local = target.folder.stat_self().map_err(Failure::Reading)?;
        let local = Facts::from(&local);
        let xattrs_here = target.folder.xattrs().map_err(Failure::Reading)?;
        if let Some(known) = known {
            let wanted = self.wanted(known.facts());
            let mut given = given_of(&wanted);
            if self.options.dry_run {
                given = Given::default();
            }
            if digest_of(&xattrs_here) == known.xattrs {
                target.give_at_end(given);
                let same = wanted.difference(&local, Compare::Quick) == Difference::None;
                self.times.remember(*known);
                return Ok(if same { "unchanged" } else { "attributes" });
            }
        }
        let key = ObjectKey::new(listed.key.as_str())?;
        let meta = self.bucket.store().head(&key).await?;
        let attributes = Attributes::read(&meta, true);
        let object = self.bucket.object(&meta).ok();
        let version = Version {
            key,
            meta,
            attributes,
            object,
        };
        let xattrs = self.xattrs(&version).await?;
        let wanted = self.wanted(Facts::of(&version.attributes, 0));
        let same = wanted.difference(&local, Compare::Quick) == Difference::None;
        if self.options.dry_run {
            return Ok(if same {
                "unchanged"
            } else {
                "would-set-attributes"
            });
        }
        if xattrs != xattrs_here {
            target
                .folder
                .set_xattrs(&xattrs)
                .map_err(Failure::Writing)?;
        }
        target.give_at_end(given_of(&wanted));
        self.remember(&version, &xattrs);
        Ok(if same { "unchanged" } else { "attributes" })
    }

    fn version(&self, key: &ObjectKey, meta: ObjectMeta) -> Result<Version, Failure> {
        let object = match self.bucket.object_at(key, &meta) {
            Ok(object) => Some(object),
            // Nothing is hidden in no bytes.
            Err(Error::NotEncrypted) if meta.size == 0 => None,
            Err(error) => return Err(error.into()),
        };
        Ok(Version {
            key: key.clone(),
            attributes: Attributes::read(&meta, false),
            meta,
            object,
        })
    }

    async fn xattrs(&self, version: &Version) -> Result<Xattrs, Failure> {
        match &version.object {
            Some(object) => Ok(self
                .bucket
                .open_xattrs(object, &version.meta.headers)
                .await?),
            None => Ok(Xattrs::new()),
        }
    }

    fn xattrs_at(
        &self,
        target: &Target,
        name: &OsStr,
        kind: Kind,
    ) -> Result<Option<String>, Failure> {
        if kind != Kind::File {
            return Ok(None);
        }
        let (file, _) = target.folder.open_file(name).map_err(Failure::Reading)?;
        Ok(digest_of(&xattrs_of(&file).map_err(Failure::Reading)?))
    }

    async fn has_same_content(
        &self,
        key: &ObjectKey,
        version: &Version,
        target: &Target,
        name: &OsStr,
    ) -> Result<bool, Failure> {
        let Some(object) = &version.object else {
            return Ok(true);
        };
        let cipher = self.bucket.unlock(object).await?;
        if version.attributes.kind == Kind::Symlink {
            let link = self.link(key, version, &cipher, None).await?;
            let there = target.folder.read_link(name).map_err(Failure::Reading)?;
            return Ok(there.as_bytes() == link);
        }
        let (file, _) = target.folder.open_file(name).map_err(Failure::Reading)?;
        content::is_same(&self.bucket, key, &version.meta, &cipher, &Arc::new(file)).await
    }

    fn remember(&self, version: &Version, xattrs: &Xattrs) {
        let (meta, attributes) = (&version.meta, &version.attributes);
        let key = version.key.as_str();
        let known = Known::new(key, meta, meta.last_modified, attributes, xattrs);
        self.times.remember(known);
    }

    /// What an object says, as far as it is believed here, and can be restored by this user.
    fn wanted(&self, mut facts: Facts) -> Facts {
        let root = nix::unistd::Uid::effective().is_root();
        if !root {
            (facts.uid, facts.gid) = (None, None);
        }
        if !self.options.trust_modes && facts.kind != Kind::Directory {
            facts.mode = facts.mode.map(|mode| mode & !SET_ID);
        }
        facts
    }

    fn given(&self, attributes: &Attributes) -> Given {
        let mut given = given_of(&self.wanted(Facts::of(attributes, 0)));
        given.gid = attributes.gid;
        given.mode = given.mode.or(match attributes.kind {
            Kind::Symlink => None,
            _ => Some(FILE_MODE),
        });
        given
    }
}

fn given_of(facts: &Facts) -> Given {
    Given {
        mode: facts.mode,
        uid: facts.uid,
        gid: facts.gid,
        mtime: Some(facts.mtime),
    }
}

fn temporary_name() -> OsString {
    let mut random = [0; 8];
    crate::crypto::random::fill(&mut random);
    format!("{TEMPORARY}{}", hex::encode(random)).into()
}
