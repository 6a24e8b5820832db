//! A bucket in a folder on disk: the embedded default, and what the server serves.
//!
//! Two questions are answered apart. *Which objects are there?* is answered by the change log and the
//! index that follows it ([`journal`], [`index`], [`record`]); *what are their bytes?* by content files that
//! never change ([`content`], [`uploads`]). A write makes its content first and then, under the folder's lock,
//! checks its condition and appends one line: the moment at which the object is replaced. So any number of
//! processes may have the folder open, a `file://` mount beside a server for instance, and conditions hold
//! between them all.
//!
//! ```text
//! ossvault-bucket   the marker, with the format's number
//! class             see class
//! lock, log         see journal
//! data/, tmp/       see content
//! uploads/          see uploads
//! ```
//!
//! What is in memory or takes one small read is answered on the calling thread; bodies, and everything that
//! waits for the lock or syncs, run on the blocking pool.

pub mod class;
pub mod content;
pub mod directory;
pub mod disk;
pub mod index;
pub mod journal;
pub mod record;
pub mod uploads;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use md5::{Digest, Md5};

use super::error::Error;
use super::listing::{self, RawObject, RawPage};
use super::object_store::*;
use crate::base::crc64;
use class::Class;
use content::{Contents, Reading, Received};
use directory::Directory;
use disk::{failed, message};
use index::{From, Page, Query};
use journal::{Found, Journal};
use record::{Content, Details, Facts, MAX_PARTS, PartFile, Tag};
use uploads::{MIN_PART, Part, Refusal, Upload};

/// How often a read that finds its content gone asks the log again. Each time means that the object was
/// replaced in between.
const RACES: usize = 100;

#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Every change is on the disk before it is acknowledged.
    pub sync: bool,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { sync: true }
    }
}

/// Cheap to clone; the clones are one instance.
#[derive(Clone)]
pub struct LocalStore {
    inner: Arc<Inner>,
    hidden: listing::Hidden,
}

struct Inner {
    root: Directory,
    class: Class,
    journal: Journal,
    contents: Contents,
}

/// An object at the moment it was asked for; its bytes can be read whatever becomes of it.
pub struct OpenObject {
    pub meta: ObjectMeta,
    pub multipart: bool,
    /// The MD5 of the content where the tag is one.
    pub md5: Option<[u8; 16]>,
    reading: Reading,
    pub range: std::ops::Range<u64>,
}

impl OpenObject {
    pub fn body(self) -> BoxStream<'static, Result<Bytes>> {
        self.reading.stream()
    }
}

impl LocalStore {
    /// Opens the bucket in `folder`; makes it, if the folder is absent or empty. Blocks.
    ///
    /// # Errors
    /// [`Error::Misconfigured`] when the folder holds something else; the disk's.
    pub fn open(folder: &Path, settings: Settings) -> Result<LocalStore> {
        LocalStore::open_in(journal::open_folder(folder)?, settings)
    }

    /// As [`LocalStore::open`], in a folder that is open already.
    pub fn open_in(root: Directory, settings: Settings) -> Result<LocalStore> {
        LocalStore::create_in(root, Class::default(), settings)
    }

    /// As [`LocalStore::open_in`]; a bucket that is made gets this class. One that is there keeps its own.
    pub fn create_in(root: Directory, class: Class, settings: Settings) -> Result<LocalStore> {
        let journal = Journal::open(root.clone(), class, settings.sync)?;
        let class = Class::of(&root)?;
        let contents = Contents::new(root.clone(), settings.sync);
        contents.sweep();
        Ok(LocalStore {
            inner: Arc::new(Inner {
                root,
                class,
                journal,
                contents,
            }),
            hidden: listing::Hidden::default(),
        })
    }

    /// Whether there is a bucket in `folder`, or something that only opening it can tell. Changes nothing.
    pub fn is_there(folder: &Path) -> bool {
        match folder.join(journal::MARKER).symlink_metadata() {
            Ok(_) => true,
            Err(error) => !matches!(
                error.kind(),
                std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory
            ),
        }
    }

    /// For messages, and to open the bucket again.
    pub fn folder(&self) -> &Path {
        self.inner.root.path()
    }

    /// The folder as it is open here: whatever its path names now.
    pub fn root(&self) -> &Directory {
        &self.inner.root
    }

    /// Deletes the bucket if it is empty; its folder stays, empty. Nothing is removed that this store has not
    /// made.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`] when it holds objects, unfinished uploads, or files that are not a bucket's.
    pub async fn destroy(&self) -> Result<()> {
        self.blocking(Inner::destroy).await
    }

    pub fn class(&self) -> Class {
        self.inner.class
    }

    /// What an object that is stored with these headers has.
    fn completed(&self, headers: &ObjectHeaders) -> ObjectHeaders {
        let mut headers = headers.clone();
        if headers.storage_class.is_none() && self.inner.class != Class::Standard {
            headers.storage_class = Some(self.inner.class.name().to_string());
        }
        headers
    }

    /// How many objects there are.
    pub fn len(&self) -> Result<usize> {
        Ok(self.inner.journal.fresh()?.index().len())
    }

    pub fn is_empty(&self) -> Result<bool> {
        Ok(self.len()? == 0)
    }

    /// The object, with `choose`'s range of it open for reading; none is the whole. `choose` sees the object
    /// it decides about: what is opened is that version.
    pub fn open_object(
        &self,
        key: &ObjectKey,
        mut choose: impl FnMut(&ObjectMeta) -> Result<Option<ByteRange>>,
    ) -> Result<OpenObject> {
        for _ in 0..RACES {
            let found = self.inner.find(key)?;
            let meta = found.meta();
            let range = choose(&meta)?.unwrap_or(0..meta.size);
            match self.inner.read(key, &found, range.clone()) {
                Err(Error::NotFound) => continue,
                reading => {
                    return Ok(OpenObject {
                        meta,
                        multipart: found.facts.multipart,
                        md5: (found.facts.tag.parts == 0).then_some(found.facts.tag.digest),
                        reading: reading?,
                        range,
                    });
                }
            }
        }
        Err(Error::Corrupt(message(format!(
            "the content of {key} is missing"
        ))))
    }

    /// What HEAD tells, and whether a multipart upload made the object.
    pub fn describe(&self, key: &ObjectKey) -> Result<(ObjectMeta, bool, Option<[u8; 16]>)> {
        let found = self.inner.find(key)?;
        let md5 = (found.facts.tag.parts == 0).then_some(found.facts.tag.digest);
        Ok((found.meta(), found.facts.multipart, md5))
    }

    pub fn page(&self, query: &Query<'_>) -> Result<Page> {
        Ok(self.inner.journal.fresh()?.index().list(query))
    }

    /// A write whose length may be unknown. Nothing happens when `body` ends with an error.
    pub async fn put_stream(
        &self,
        key: &ObjectKey,
        headers: &ObjectHeaders,
        body: BoxStream<'static, Result<Bytes>>,
        expected: Option<u64>,
        overwrite: Overwrite,
    ) -> Result<PutAnswer> {
        checked(headers)?;
        let received = self.inner.contents.receive(body, expected).await?;
        let (key, headers) = (key.clone(), self.completed(headers));
        self.blocking(move |inner| inner.put(&key, &headers, received, overwrite))
            .await
    }

    /// As the trait's `copy`, without a condition when there is no tag.
    pub async fn copy_if(
        &self,
        source: &ObjectKey,
        source_etag: Option<&ETag>,
        destination: &ObjectKey,
        headers: CopyHeaders,
        overwrite: Overwrite,
    ) -> Result<(PutAnswer, SystemTime)> {
        let headers = match headers {
            CopyHeaders::Replace(headers) => {
                checked(&headers)?;
                CopyHeaders::Replace(self.completed(&headers))
            }
            CopyHeaders::Keep => CopyHeaders::Keep,
        };
        let (source, etag, destination) =
            (source.clone(), source_etag.cloned(), destination.clone());
        self.blocking(move |inner| {
            inner.copy(&source, etag.as_ref(), &destination, &headers, overwrite)
        })
        .await
    }

    pub async fn part_stream(
        &self,
        key: &ObjectKey,
        upload: &UploadId,
        number: u16,
        body: BoxStream<'static, Result<Bytes>>,
        expected: Option<u64>,
    ) -> Result<UploadedPart> {
        // Before gigabytes are taken in for nothing.
        uploads::load(&self.inner.root, key.as_str(), upload)?;
        let received = self.inner.contents.receive(body, expected).await?;
        let (key, upload) = (key.clone(), upload.clone());
        self.blocking(move |inner| inner.add_part(&key, &upload, number, received))
            .await
    }

    /// What was said when the upload began.
    pub fn upload_headers(&self, key: &ObjectKey, upload: &UploadId) -> Result<ObjectHeaders> {
        Ok(uploads::load(&self.inner.root, key.as_str(), upload)?
            .details
            .headers())
    }

    /// By number.
    pub async fn list_parts(&self, key: &ObjectKey, upload: &UploadId) -> Result<Vec<Part>> {
        let (key, upload) = (key.clone(), upload.clone());
        self.blocking(move |inner| {
            let what = uploads::load(&inner.root, key.as_str(), &upload)?;
            Ok(
                uploads::parts(&inner.contents.parts(&what.key, &what.name)?)?
                    .into_values()
                    .collect(),
            )
        })
        .await
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let inner = self.inner.clone();
        tokio::task::spawn_blocking(move || work(&inner))
            .await
            .unwrap_or_else(|error| Err(Error::other(error)))
    }
}

/// The clock in whole seconds, as the service has it.
pub fn now() -> SystemTime {
    whole_seconds(SystemTime::now())
}

fn whole_seconds(time: SystemTime) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(unix(time))
}

fn unix(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

impl Facts {
    pub fn last_modified(&self) -> SystemTime {
        let since = Duration::from_secs(self.modified.max(0) as u64);
        UNIX_EPOCH.checked_add(since).unwrap_or(UNIX_EPOCH)
    }
}

impl Found {
    fn meta(&self) -> ObjectMeta {
        ObjectMeta {
            size: self.facts.size,
            etag: self.facts.tag.etag(),
            last_modified: self.facts.last_modified(),
            headers: self.details.headers(),
            crc64: Some(self.facts.crc64),
            date: now(),
        }
    }
}

impl Inner {
    fn find(&self, key: &ObjectKey) -> Result<Found> {
        self.journal.find(key.as_str())?.ok_or(Error::NotFound)
    }

    fn read(&self, key: &ObjectKey, found: &Found, range: std::ops::Range<u64>) -> Result<Reading> {
        self.contents.open(
            key.as_str(),
            &found.content,
            &found.details.parts,
            found.facts.size,
            range,
        )
    }

    fn destroy(&self) -> Result<()> {
        let removing = |error| failed("removing the bucket", self.root.path())(error);
        let locked = self.journal.lock()?;
        let empty = locked.state()?.index().is_empty()
            && uploads::list(&self.root, "")?.is_empty()
            && journal::foreign_entry(&self.root)
                .map_err(removing)?
                .is_none();
        if !empty {
            return Err(Error::AlreadyExists);
        }
        locked
            .retire()
            .and_then(|()| self.contents.destroy())
            .and_then(|()| uploads::destroy(&self.root))
            .and_then(|()| journal::remove_rest(&self.root))
            .map_err(removing)
    }

    /// Checks, appends one line that gives `key` the content, and removes what it replaced. `check` sees the
    /// object that is there; `then` is run before anybody else can change anything.
    fn publish(
        &self,
        key: &str,
        facts: &Facts,
        content: &Content,
        details: &Details,
        check: impl FnOnce(Option<&Found>) -> Result<()>,
        then: impl FnOnce(),
    ) -> Result<()> {
        let locked = self.journal.lock()?;
        let before = {
            let state = locked.state()?;
            match state.find(key) {
                // A damaged line can be replaced; what it told of is lost either way.
                Err(Error::Corrupt(cause)) => {
                    log::warn!("{}: replaced: {cause}", key.escape_debug());
                    None
                }
                found => found?,
            }
        };
        check(before.as_ref())?;
        let committed = locked.commit(&record::put_line(key, facts, content, details))?;
        then();
        drop(locked);
        committed.sync()?;
        if let Some(before) = before
            && before.content != *content
        {
            self.contents.remove(key, &before.content);
        }
        Ok(())
    }

    fn put(
        &self,
        key: &ObjectKey,
        headers: &ObjectHeaders,
        received: Received,
        overwrite: Overwrite,
    ) -> Result<PutAnswer> {
        let key = key.as_str();
        let written = received.finish()?;
        let content = if written.len == 0 {
            Content::Empty
        } else {
            Content::File(self.contents.new_name(key))
        };
        let facts = Facts {
            modified: unix(SystemTime::now()) as i64,
            size: written.len,
            crc64: written.crc64,
            tag: written.tag,
            multipart: false,
            infrequent: record::is_infrequent(headers),
        };
        self.contents.keep(key, &content, written)?;
        self.publish(
            key,
            &facts,
            &content,
            &Details::new(headers, Vec::new()),
            |before| may_write(overwrite, before),
            || (),
        )
        .inspect_err(|_| self.contents.remove(key, &content))?;
        Ok(answer(&facts))
    }

    fn copy(
        &self,
        source: &ObjectKey,
        source_etag: Option<&ETag>,
        destination: &ObjectKey,
        headers: &CopyHeaders,
        overwrite: Overwrite,
    ) -> Result<(PutAnswer, SystemTime)> {
        let onto_itself = source == destination;
        for _ in 0..RACES {
            let found = self.find(source)?;
            if source_etag.is_some_and(|etag| !found.facts.tag.is(etag)) {
                return Err(Error::PreconditionFailed);
            }
            let facts = Facts {
                modified: unix(SystemTime::now()) as i64,
                infrequent: match headers {
                    CopyHeaders::Keep => found.facts.infrequent,
                    CopyHeaders::Replace(headers) => record::is_infrequent(headers),
                },
                ..found.facts.clone()
            };
            let details = match headers {
                CopyHeaders::Keep => found.details.clone(),
                CopyHeaders::Replace(headers) => Details::new(headers, found.details.parts.clone()),
            };
            let content = if onto_itself {
                found.content.clone()
            } else {
                let shared = self.contents.share(
                    source.as_str(),
                    &found.content,
                    &found.details.parts,
                    destination.as_str(),
                );
                match shared {
                    // Replaced since it was found.
                    Err(Error::NotFound) => continue,
                    shared => shared?,
                }
            };
            let mut moved_on = false;
            let check = |before: Option<&Found>| {
                may_write(overwrite, before)?;
                // The source must be what was found until this moment.
                let source_now = match before {
                    Some(before) if onto_itself => Some(before.clone()),
                    _ => self.journal.find(source.as_str())?,
                };
                moved_on = source_now.is_none_or(|now| {
                    now.content != found.content
                        || now.facts != found.facts
                        || now.details != found.details
                });
                if moved_on {
                    Err(Error::PreconditionFailed)
                } else {
                    Ok(())
                }
            };
            let published = self.publish(
                destination.as_str(),
                &facts,
                &content,
                &details,
                check,
                || (),
            );
            if published.is_err() && !onto_itself {
                self.contents.remove(destination.as_str(), &content);
            }
            if moved_on {
                continue;
            }
            published?;
            return Ok((answer(&facts), facts.last_modified()));
        }
        Err(Error::Corrupt(message(format!(
            "the content of {source} is missing"
        ))))
    }

    fn delete(&self, keys: &[ObjectKey]) -> Result<()> {
        let locked = self.journal.lock()?;
        let mut lines = String::new();
        let mut gone = Vec::new();
        {
            let state = locked.state()?;
            for key in keys {
                if state.index().get(key.as_str()).is_none() {
                    continue;
                }
                lines.push_str(&record::delete_line(key.as_str()));
                if let Ok(Some(found)) = state.find(key.as_str()) {
                    gone.push((key.as_str(), found.content));
                }
            }
        }
        if lines.is_empty() {
            return Ok(());
        }
        let committed = locked.commit(&lines)?;
        drop(locked);
        committed.sync()?;
        for (key, content) in gone {
            self.contents.remove(key, &content);
        }
        Ok(())
    }

    fn begin_upload(&self, key: &ObjectKey, headers: &ObjectHeaders) -> Result<UploadId> {
        let upload = UploadId(self.contents.new_id());
        let what = Upload {
            key: key.as_str().to_string(),
            name: self.contents.new_name(key.as_str()),
            initiated: unix(SystemTime::now()),
            details: Details::new(headers, Vec::new()),
        };
        self.contents.make_parts(key.as_str(), &what.name)?;
        uploads::create(
            &self.root,
            &self.contents.new_id(),
            &upload,
            &what,
            self.contents.syncs(),
        )
        .inspect_err(|_| {
            self.contents
                .remove(key.as_str(), &Content::Parts(what.name.clone()));
        })?;
        Ok(upload)
    }

    fn add_part(
        &self,
        key: &ObjectKey,
        upload: &UploadId,
        number: u16,
        received: Received,
    ) -> Result<UploadedPart> {
        if number == 0 || number > MAX_PARTS {
            return Err(Refusal::InvalidNumber.into());
        }
        let mut written = received.finish()?;
        let part = UploadedPart {
            number,
            etag: written.tag.etag(),
            crc64: Some(written.crc64),
            size: written.len,
        };
        let name = uploads::part_name(number, written.len, written.crc64, &written.tag);
        // Neither completed nor aborted nor sent twice at once while this goes on.
        let _locked = self.journal.lock()?;
        let what = uploads::load(&self.root, key.as_str(), upload)?;
        let folder = self.contents.parts(&what.key, &what.name)?;
        if written.len == 0 {
            folder
                .open_or_create(&name)
                .map_err(failed("creating a part", &folder.path_of(&name)))?;
        } else {
            written.rename(&folder, &name)?;
        }
        let number_prefix = format!("{number:05}~");
        let replaced = |other: &str| other.starts_with(&number_prefix) && other != name;
        let remove_replaced = || {
            for other in folder.names()? {
                if let Some(other) = other?.to_str().filter(|other| replaced(other)) {
                    folder.remove_file(other)?;
                }
            }
            Ok::<(), std::io::Error>(())
        };
        if let Err(error) = remove_replaced() {
            log::warn!("{key}: a replaced part cannot be removed: {error}");
        }
        Ok(part)
    }

    fn complete(
        &self,
        key: &ObjectKey,
        upload: &UploadId,
        parts: &[UploadedPart],
        overwrite: Overwrite,
    ) -> Result<PutAnswer> {
        let what = uploads::load(&self.root, key.as_str(), upload)?;
        let folder = self.contents.parts(&what.key, &what.name)?;
        let mut there = uploads::parts(&folder)?;
        let chosen = choose_parts(&mut there, parts)?;

        let mut facts = Facts {
            modified: unix(SystemTime::now()) as i64,
            size: 0,
            crc64: 0,
            tag: Tag {
                digest: [0; 16],
                parts: chosen.len() as u16,
            },
            multipart: true,
            infrequent: record::is_infrequent(&what.details.headers()),
        };
        let mut md5 = Md5::new();
        let mut files = Vec::with_capacity(chosen.len());
        for part in chosen {
            facts.crc64 = crc64::combine(facts.crc64, part.crc64, part.size);
            facts.size = facts.size.checked_add(part.size).ok_or_else(|| {
                Error::TooLarge(message("parts of more bytes than can be counted"))
            })?;
            md5.update(part.tag.digest);
            files.push(PartFile {
                file: part.file,
                size: part.size,
            });
        }
        facts.tag.digest = md5.finalize().into();
        if self.contents.syncs() {
            self.contents.sync(&folder)?;
            self.contents
                .sync(&self.contents.make_shard(key.as_str())?)?;
        }
        let mut details = what.details;
        details.parts = files;
        self.publish(
            key.as_str(),
            &facts,
            &Content::Parts(what.name.clone()),
            &details,
            |before| {
                may_write(overwrite, before)?;
                // Under the lock: it may have been aborted, completed, or got other parts meanwhile.
                uploads::load(&self.root, key.as_str(), upload)?;
                let same = details
                    .parts
                    .iter()
                    .all(|part| folder.entry(&part.file).is_ok_and(|entry| entry.is_file));
                if same {
                    Ok(())
                } else {
                    Err(Refusal::InvalidPart.into())
                }
            },
            // Under the lock still: a part sent now would change an object.
            || {
                if let Err(error) = uploads::remove(&self.root, upload) {
                    log::warn!("{key}: a completed upload stays listed: {error}");
                }
            },
        )?;
        for part in there.into_values() {
            if let Err(error) = folder.remove_file(&part.file) {
                log::warn!("{key}: a part that was not used cannot be removed: {error}");
            }
        }
        Ok(answer(&facts))
    }

    fn abort(&self, key: &ObjectKey, upload: &UploadId) -> Result<()> {
        let _locked = self.journal.lock()?;
        let what = uploads::load(&self.root, key.as_str(), upload)?;
        let content = Content::Parts(what.name.clone());
        // A crash between completing an upload and forgetting it leaves parts that are an object now.
        let completed = self
            .journal
            .find(key.as_str())?
            .is_some_and(|found| found.content == content);
        uploads::remove(&self.root, upload)?;
        if !completed {
            self.contents.remove(key.as_str(), &content);
        }
        Ok(())
    }
}

fn may_write(overwrite: Overwrite, before: Option<&Found>) -> Result<()> {
    match (overwrite, before) {
        (Overwrite::Forbidden, Some(_)) => Err(Error::AlreadyExists),
        _ => Ok(()),
    }
}

/// # Errors
/// [`Error::TooLarge`] for what would not be read again.
fn checked(headers: &ObjectHeaders) -> Result<()> {
    match Details::new(headers, Vec::new()).is_bounded() {
        true => Ok(()),
        false => Err(Error::TooLarge(message(
            "more metadata than an object can have",
        ))),
    }
}

fn answer(facts: &Facts) -> PutAnswer {
    PutAnswer {
        etag: facts.tag.etag(),
        crc64: Some(facts.crc64),
        date: now(),
    }
}

/// Takes the parts that `wanted` names out of `there`; what stays is not part of the object.
fn choose_parts(
    there: &mut std::collections::BTreeMap<u16, Part>,
    wanted: &[UploadedPart],
) -> Result<Vec<Part>> {
    if wanted.is_empty() {
        return Err(Refusal::NoParts.into());
    }
    if !wanted.is_sorted_by(|a, b| a.number < b.number) {
        return Err(Refusal::InvalidPartOrder.into());
    }
    let mut chosen = Vec::with_capacity(wanted.len());
    for wanted in wanted {
        match there.remove(&wanted.number) {
            Some(part) if part.tag.is(&wanted.etag) => chosen.push(part),
            _ => return Err(Refusal::InvalidPart.into()),
        }
    }
    let (_, all_but_last) = chosen.split_last().expect("checked: not empty");
    if all_but_last.iter().any(|part| part.size < MIN_PART) {
        return Err(Refusal::TooSmall.into());
    }
    Ok(chosen)
}

#[async_trait]
impl ObjectStore for LocalStore {
    fn name(&self) -> String {
        format!("file://{}", self.folder().display())
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectMeta> {
        Ok(self.inner.find(key)?.meta())
    }

    async fn get(
        &self,
        key: &ObjectKey,
        range: Option<ByteRange>,
        if_match: Option<&ETag>,
    ) -> Result<GetAnswer> {
        let object = self.open_object(key, |meta| {
            if if_match.is_some_and(|etag| *etag != meta.etag) {
                return Err(Error::PreconditionFailed);
            }
            match &range {
                Some(range) if range.start >= meta.size || range.start >= range.end => {
                    Err(Error::InvalidRange)
                }
                Some(range) => Ok(Some(range.start..range.end.min(meta.size))),
                None => Ok(None),
            }
        })?;
        Ok(GetAnswer {
            meta: object.meta.clone(),
            range: object.range.clone(),
            body: object.body(),
        })
    }

    async fn put(
        &self,
        key: &ObjectKey,
        headers: &ObjectHeaders,
        body: Body,
        overwrite: Overwrite,
    ) -> Result<PutAnswer> {
        self.put_stream(key, headers, body.open(), Some(body.len()), overwrite)
            .await
    }

    async fn delete(&self, key: &ObjectKey) -> Result<()> {
        let keys = [key.clone()];
        self.blocking(move |inner| inner.delete(&keys)).await
    }

    async fn delete_many(&self, keys: &[ObjectKey]) -> Result<Vec<(ObjectKey, Error)>> {
        let keys = keys.to_vec();
        self.blocking(move |inner| inner.delete(&keys)).await?;
        Ok(Vec::new())
    }

    async fn copy(&self, request: &CopyRequest) -> Result<PutAnswer> {
        let etag = Some(&request.source_etag);
        let copied = self
            .copy_if(
                &request.source,
                etag,
                &request.destination,
                request.headers.clone(),
                request.overwrite,
            )
            .await?;
        Ok(copied.0)
    }

    async fn list(&self, request: &ListRequest) -> Result<ListPage> {
        let from = match (&request.token, &request.start_after) {
            (Some(token), _) => from_token(token.as_str())
                .ok_or_else(|| Error::Other(message("not a token of this store's listings")))?,
            (None, Some(key)) => From::After(key.clone()),
            (None, None) => From::Start,
        };
        let page = self.page(&Query {
            prefix: &request.prefix,
            delimiter: if request.delimited { "/" } else { "" },
            from,
            max: match request.max_keys {
                0 => 1000,
                max => usize::from(max.min(1000)),
            },
        })?;
        let page = RawPage {
            objects: page
                .objects
                .into_iter()
                .map(|(key, facts)| RawObject {
                    key: key.into_bytes(),
                    size: Some(facts.size),
                    etag: facts.tag.etag(),
                    last_modified: Some(facts.last_modified()),
                    storage_class: String::new(),
                })
                .collect(),
            prefixes: page.prefixes.into_iter().map(String::into_bytes).collect(),
            next: page.next.map(|next| to_token(&next)),
            date: now(),
        };
        listing::check(request, page, &self.hidden)
    }

    async fn create_multipart(&self, key: &ObjectKey, headers: &ObjectHeaders) -> Result<UploadId> {
        checked(headers)?;
        let (key, headers) = (key.clone(), self.completed(headers));
        self.blocking(move |inner| inner.begin_upload(&key, &headers))
            .await
    }

    async fn upload_part(
        &self,
        key: &ObjectKey,
        upload: &UploadId,
        number: u16,
        body: Body,
    ) -> Result<UploadedPart> {
        self.part_stream(key, upload, number, body.open(), Some(body.len()))
            .await
    }

    async fn copy_part(&self, request: &CopyPartRequest) -> Result<UploadedPart> {
        let range = Some(request.range.clone());
        let source = self.get(&request.source, range, Some(&request.source_etag));
        let source = source.await?;
        let len = source.range.end - source.range.start;
        let (key, upload, number) = (&request.key, &request.upload, request.number);
        self.part_stream(key, upload, number, source.body, Some(len))
            .await
    }

    async fn complete_multipart(
        &self,
        key: &ObjectKey,
        upload: &UploadId,
        parts: &[UploadedPart],
        overwrite: Overwrite,
    ) -> Result<PutAnswer> {
        let (key, upload, parts) = (key.clone(), upload.clone(), parts.to_vec());
        self.blocking(move |inner| inner.complete(&key, &upload, &parts, overwrite))
            .await
    }

    async fn abort_multipart(&self, key: &ObjectKey, upload: &UploadId) -> Result<()> {
        let (key, upload) = (key.clone(), upload.clone());
        match self.blocking(move |inner| inner.abort(&key, &upload)).await {
            Err(Error::NoSuchUpload) => Ok(()),
            aborted => aborted,
        }
    }

    async fn list_uploads(&self, prefix: &str) -> Result<Vec<PendingUpload>> {
        let prefix = prefix.to_string();
        self.blocking(move |inner| uploads::list(&inner.root, &prefix))
            .await
    }

    async fn bucket_info(&self) -> Result<BucketInfo> {
        drop(self.inner.journal.fresh()?);
        Ok(BucketInfo::default())
    }
}

/// A place in a listing as text.
pub fn to_token(from: &From) -> String {
    match from {
        From::Start => String::new(),
        From::After(key) => format!("a{key}"),
        From::Behind(lead) => format!("b{lead}"),
    }
}

/// None if it is no token.
pub fn from_token(token: &str) -> Option<From> {
    let (kind, name) = token.split_at_checked(1)?;
    match kind {
        "a" => Some(From::After(name.to_string())),
        "b" => Some(From::Behind(name.to_string())),
        _ => None,
    }
}
