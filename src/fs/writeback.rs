//! Bringing changed files into the bucket.
//!
//! [`Filesystem::publish`] is what a flush waits for. The upload itself is a task of its own, so that a
//! caller that goes away does not break it off, and one at a time per file. Each upload reads a frozen
//! snapshot under a fresh key. What fails is tried again in the background until it is up or unlinked.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::stream::{self, StreamExt};
use tokio::sync::oneshot;

use super::attributes::Attributes;
use super::content::Content;
use super::error::{Error, Result};
use super::filesystem::{Filesystem, Notice, Unsaved};
use super::gate::{Pass, Scope};
use super::names::{self, Name};
use super::namespace::{Ino, Local};
use super::open_file::{Attempt, Handover, OpenFile, State, Stream};
use super::parts;
use super::staging::{Snapshot, StagedFile};
use super::uploads::{headers_of, meta_of, plaintext};
use crate::base::backoff;
use crate::base::error_chain::chain;
use crate::base::sync::lock;
use crate::base::wait::until;
use crate::encrypted::{Uploaded, Xattrs};
use crate::envelope::write::MultipartSizes;
use crate::store::object_store::{ObjectKey, Overwrite};

/// Files uploaded at once when all are.
const PARALLEL_FILES: usize = 32;

/// The wait after the first failure; it doubles up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// How often what was appended starts over on a version that another client has put there meanwhile.
const REBASES: usize = 4;

/// What an upload is given to carry.
struct Freight {
    snapshot: Snapshot,
    base: Option<Arc<Content>>,
    /// The `written` this is.
    written: u64,
    exclusive: bool,
    xattrs: Option<Arc<Xattrs>>,
    handover: Option<oneshot::Receiver<Handover>>,
}

/// Where an upload goes.
pub(super) struct Destination {
    pub key: ObjectKey,
    pub parent: Ino,
    pub name: Name,
    _pass: Pass,
}

impl Filesystem {
    /// Returns when the bucket has everything that was written to the file before the call.
    ///
    /// # Errors
    /// Those of the upload; it is tried again in the background.
    pub(super) async fn publish(self: &Arc<Self>, file: &Arc<OpenFile>) -> Result<()> {
        let wanted = file.lock().written;
        // An upload that was under way already may have taken its snapshot before the call.
        loop {
            let begun = {
                let mut state = file.lock();
                state.check_lost()?;
                if state.gone || state.uploaded >= wanted {
                    return Ok(());
                }
                match state.upload {
                    Some(written) => written,
                    None => self.begin_upload(file, &mut state),
                }
            };
            let failure = until(&file.moved, || {
                let state = file.lock();
                let ended = state.upload != Some(begun);
                ended.then(|| state.failure.clone().filter(|_| begun >= wanted))
            });
            if let Some(error) = failure.await {
                return Err(error);
            }
        }
    }

    /// Starts the task; returns what it uploads.
    fn begin_upload(self: &Arc<Self>, file: &Arc<OpenFile>, state: &mut State) -> u64 {
        let (written, row) = (state.written, state.row());
        state.upload = Some(written);
        state.took_edge("upload", row);
        // What waits for this upload must not take the last one's failure for its own.
        state.failure = None;
        let (fs, file) = (self.clone(), file.clone());
        self.runtime.spawn(async move {
            let ended = UploadEnds(&file);
            let result = fs.upload(&file).await;
            drop(ended);
            fs.upload_ended(&file, result);
        });
        written
    }

    fn upload_ended(self: &Arc<Self>, file: &Arc<OpenFile>, result: Result<()>) {
        {
            let mut state = file.lock();
            let row = state.row();
            state.upload = None;
            match result {
                Ok(()) => {
                    state.failure = None;
                    state.failures = 0;
                }
                Err(error) => {
                    log::error!(
                        "uploading {} failed: {}",
                        self.describe_place(file.ino),
                        chain(&error)
                    );
                    state.failure = Some(error);
                    state.failures += 1;
                    // What was sent is of no use to the next attempt, which has another key.
                    state.abandon_stream();
                }
            }
            state.took_edge("upload", row);
        }
        file.moved.notify_waiters();
        self.tend(file);
        self.let_go(file);
    }

    /// Sees to it that a file that has failed, or that nobody will flush, gets uploaded in the end.
    pub(super) fn tend(self: &Arc<Self>, file: &Arc<OpenFile>) {
        {
            let mut state = file.lock();
            let wanting = state.is_dirty() && !state.gone;
            // Who only reads does not hold up what others have written and closed.
            let due = state.failure.is_some() || (state.writers == 0 && !state.temporary);
            if !wanting || !due || state.tended || state.upload.is_some() {
                return;
            }
            state.tended = true;
        }
        let (fs, file) = (self.clone(), file.clone());
        self.runtime.spawn(async move {
            let failures = file.lock().failures;
            if failures > 0 {
                let longest = backoff::exponential(FIRST_WAIT, failures + 1, LONGEST_WAIT);
                let wait = backoff::jittered(longest, rand::random());
                tokio::time::sleep(wait).await;
            }
            file.lock().tended = false;
            // Logged where it failed; a failure tends again.
            let _ = fs.publish(&file).await;
        });
    }

    /// One attempt.
    async fn upload(self: &Arc<Self>, file: &Arc<OpenFile>) -> Result<()> {
        let Some(destination) = self.enter_for(file.ino).await? else {
            let mut state = file.lock();
            if state.gone {
                return Ok(());
            }
            // Changed files keep their names, whatever others do; without one there is nowhere to go.
            state.gone = true;
            return Err(Error::Stale);
        };
        let mut rebases = 0;
        let (mut freight, local, sent, mut result) = loop {
            let Some(mut freight) = self.take_freight(file, &destination) else {
                return Ok(());
            };
            let handover = freight.handover.take();
            let Some(local) = self.namespace().local(file.ino).cloned() else {
                return Err(Error::io("a changed file has no attributes of its own"));
            };
            let sent = Instant::now();
            let result = self
                .send(file, &freight, handover, &destination, &local)
                .await;
            if matches!(result, Err(Error::Stale))
                && rebases < REBASES
                && self.rebase(file, &destination.key).await?
            {
                rebases += 1;
                continue;
            }
            break (freight, local, sent, result);
        };
        if freight.exclusive
            && matches!(result, Err(Error::Exists))
            && self.stands_ours(file, &destination.key).await
        {
            freight.exclusive = false;
            file.lock().exclusive = false;
            result = self.send(file, &freight, None, &destination, &local).await;
        }
        {
            let mut state = file.lock();
            // Refused by the precondition, the object there is another client's.
            state.maybe_stored |= !(freight.exclusive && matches!(result, Err(Error::Exists)));
            if state.gone {
                return Ok(());
            }
        }
        if freight.exclusive && matches!(result, Err(Error::Exists)) {
            self.creation_lost(file, &destination);
        }
        let (uploaded, revision) = result?;
        self.landed(
            file,
            freight.written,
            &destination,
            uploaded,
            revision,
            sent,
        )
        .await
    }

    /// Another client has made the name first: it stands for what is there, and what was written here has nowhere to go.
    fn creation_lost(&self, file: &OpenFile, at: &Destination) {
        {
            let mut state = file.lock();
            if state.renaming {
                return;
            }
            (state.gone, state.lost) = (true, true);
            let mut namespace = self.namespace();
            namespace.forgotten(at.parent, &at.name);
            namespace.doubt(at.parent, &at.name);
        }
        self.notify(Notice::Name(at.parent, at.name.to_string()));
    }

    /// Whether what keeps an exclusive file from being uploaded is an upload of that very file, whose answer
    /// was lost.
    async fn stands_ours(&self, file: &OpenFile, key: &ObjectKey) -> bool {
        if file.lock().unsure.is_empty() {
            return false;
        }
        let Ok(meta) = self.bucket.store().head(key).await else {
            return false;
        };
        let there = Attempt {
            size: meta.size,
            ctime: Attributes::read(&meta, false).ctime,
        };
        there.ctime.is_some() && file.lock().unsure.contains(&there)
    }

    /// The key a file has when its upload starts, and the right to change it. None: it has no name.
    pub(super) async fn enter_for(&self, ino: Ino) -> Result<Option<Destination>> {
        let entered = self
            .enter(|namespace| Some(vec![Scope::Key(namespace.key(ino)?)]))
            .await;
        let Ok(pass) = entered else { return Ok(None) };
        let namespace = self.namespace();
        let key = namespace.key(ino).ok_or(Error::Stale)?;
        let (parent, name) = namespace.place(ino).ok_or(Error::Stale)?;
        Ok(Some(Destination {
            key: names::object_key(key)?,
            parent,
            name,
            _pass: pass,
        }))
    }

    fn take_freight(&self, file: &Arc<OpenFile>, destination: &Destination) -> Option<Freight> {
        let mut state = file.lock();
        if state.gone || !state.is_dirty() {
            return None;
        }
        state.upload = Some(state.written);
        let snapshot = state.staged.as_ref()?.snapshot();
        let handover = match &mut state.stream {
            Stream::Active { handover, .. } => {
                let (sender, receiver) = oneshot::channel();
                *handover = Some(sender);
                Some(receiver)
            }
            _ => None,
        };
        let freight = Freight {
            snapshot,
            base: state.content.clone(),
            written: state.written,
            exclusive: state.exclusive,
            xattrs: state.xattrs.clone(),
            handover,
        };
        drop(state);
        file.moved.notify_waiters();
        log::debug!(
            "uploading {}, {} bytes{}",
            destination.key,
            freight.snapshot.len(),
            match freight.snapshot.needs_base() {
                true => ", some of them from its base",
                false => "",
            }
        );
        Some(freight)
    }

    /// Sends the bytes. Returns what is in the bucket now and the attributes' revision it carries.
    async fn send(
        self: &Arc<Self>,
        file: &Arc<OpenFile>,
        freight: &Freight,
        handover: Option<oneshot::Receiver<Handover>>,
        to: &Destination,
        local: &Local,
    ) -> Result<(Uploaded, u64)> {
        let overwrite = match freight.exclusive {
            true => Overwrite::Forbidden,
            false => Overwrite::Allowed,
        };
        let size = freight.snapshot.len();
        if let Some(base) = &freight.base
            && let gaps = freight.snapshot.base_gaps()
            && !gaps.is_empty()
            && base.is_here(gaps)
        {
            self.check_stands(base).await?;
        }
        let plain = plaintext(freight.snapshot.clone(), freight.base.clone());
        // The pump ends its parts and hands over; it drops the sender when it failed or was abandoned.
        let mut handover = match handover {
            Some(receiver) => receiver.await.ok(),
            None => None,
        };
        let xattrs = freight.xattrs.as_deref();
        if let Some(stream) = &handover
            && (stream.key != to.key.as_str() || stream.xattrs.as_deref() != xattrs)
        {
            // Renamed since, or given extended attributes: an upload can change neither.
            let stream = handover.take().expect("matched above");
            self.abort(stream.upload);
        }
        if freight.exclusive {
            let carried = handover.as_ref().map(|stream| stream.ctime);
            file.lock().try_anew(Attempt {
                size,
                ctime: carried.unwrap_or(local.attributes.ctime),
            });
        }
        if let Some(stream) = handover {
            let rest = parts::plan(
                stream.sent_to,
                size,
                stream.next_part,
                self.settings.part_size,
            );
            let first = 0..self.settings.part_size;
            let uploaded = self.send_parts(file, stream.upload, rest, first, &plain, overwrite);
            return Ok((uploaded.await?, stream.revision));
        }
        let headers = headers_of(&local.attributes);
        if size <= self.settings.part_size {
            // Never broken off: a PUT that the service has in hand may take effect after the DELETE that
            // removes its object, and then the file is back.
            let put = self.bucket.put(&to.key, &plain, headers, xattrs, overwrite);
            return Ok((put.await?, local.revision));
        }
        // Equal parts in the formats that announce their size.
        let sized = self.bucket.format().has_sdk_names();
        let mut parts = match sized {
            true => parts::equal(size, self.settings.part_size),
            false => parts::plan(0, size, 1, self.settings.part_size),
        };
        let upload = match sized {
            true => {
                let part = parts[0].1.end;
                let sizes = MultipartSizes { total: size, part };
                self.bucket
                    .begin_sized_upload(&to.key, headers, xattrs, sizes)
                    .await?
            }
            false => self.bucket.begin_upload(&to.key, headers, xattrs).await?,
        };
        let (_, first) = parts.remove(0);
        let uploaded = self.send_parts(file, upload, parts, first, &plain, overwrite);
        Ok((uploaded.await?, local.revision))
    }

    /// The bucket has it: makes this known, and corrects attributes that changed while it went up.
    /// `written` is what it is a copy of.
    pub(super) async fn landed(
        self: &Arc<Self>,
        file: &Arc<OpenFile>,
        written: u64,
        at: &Destination,
        uploaded: Uploaded,
        revision: u64,
        sent: Instant,
    ) -> Result<()> {
        self.remember_upload(&at.key, &uploaded, Instant::now());
        let mut object = self.describe(&at.key, meta_of(&uploaded), Instant::now());
        object.ours = true;
        let etag = object.etag.clone();
        let content = Content::new(
            self.bucket.clone(),
            self.cache.clone(),
            at.key.clone(),
            etag.clone(),
            object.size,
            Some(uploaded.object.clone()),
        );
        let correct = {
            let mut state = file.lock();
            let end = content.size();
            state.appended_to = state.appended_to.map(|_| end);
            let base = state.content.replace(content.clone());
            if let (Some(base), Some(staged), true) = (&base, &state.staged, self.bucket.can_read())
            {
                content.inherit(base, staged.base_gaps(0..staged.len()));
            }
            state.uploaded = written;
            state.exclusive = false;
            state.unsure.clear();
            state.emptied = false;
            state.temporary = false;
            state.stream = match state.stream {
                Stream::Active { .. } | Stream::Over => Stream::Over,
                Stream::Possible => Stream::Possible,
            };
            state.maybe_stored = false;
            let clean = !state.is_dirty();
            if clean {
                state.stored = state.staged.as_ref().map(StagedFile::id);
                state.changers.clear();
            }
            let mut namespace = self.namespace();
            namespace.published(at.parent, &at.name, object.clone(), sent);
            namespace.uploaded(file.ino, &etag);
            namespace.set_open(file.ino, (state.handles > 0).then(|| object.clone()));
            let changed = namespace
                .local(file.ino)
                .is_some_and(|local| local.revision != revision);
            if clean {
                namespace.pages_show(file.ino, Some(&etag));
                if !changed {
                    namespace.end_local(file.ino);
                }
            }
            drop(namespace);
            if clean && !changed {
                self.drop_staged(&mut state);
            }
            clean && changed
        };
        if !self.bucket.can_read() {
            // Nor does the kernel keep what can be opened here no more.
            self.notify(Notice::Content(file.ino));
        }
        if !correct {
            return Ok(());
        }
        let corrected = self.correct_attributes(file, at).await;
        let mut state = file.lock();
        match &corrected {
            Ok(()) => {
                if !state.is_dirty() && !state.gone {
                    self.drop_staged(&mut state);
                }
            }
            Err(_) if state.staged.is_none() && !self.bucket.can_read() => {
                self.namespace().end_local(file.ino);
            }
            Err(_) => {
                // The next attempt brings content and attributes together.
                if state.staged.is_none() {
                    let size = state.size();
                    state.staged = Some(StagedFile::new(&self.staging, Some(size)));
                }
                state.written += 1;
            }
        }
        corrected
    }

    /// Attributes were set after the upload had begun: the object gets them before anybody is told that
    /// the file is in the bucket.
    async fn correct_attributes(
        self: &Arc<Self>,
        file: &Arc<OpenFile>,
        at: &Destination,
    ) -> Result<()> {
        let _changing = self.begin_change([(at.parent, &at.name)]);
        loop {
            let Some((local, object)) = ({
                let namespace = self.namespace();
                namespace
                    .local(file.ino)
                    .cloned()
                    .zip(namespace.object(file.ino))
            }) else {
                return Ok(());
            };
            let described = self.headers(&at.key, &object.etag, Instant::now()).await?;
            let replaced = match described.meta.etag == object.etag {
                true => {
                    self.replace_attributes(&at.key, &described.meta, &local.attributes)
                        .await
                }
                false => Err(Error::Stale),
            };
            if let Err(Error::Stale) = replaced {
                // Another client has replaced it already: those are not the attributes of what it wrote.
                let state = file.lock();
                let mut namespace = self.namespace();
                if !state.is_dirty() {
                    namespace.end_local(file.ino);
                }
                return Ok(());
            }
            let replaced = replaced?;
            self.took_new_tag(file.ino, &at.key, &described.meta.etag, &replaced);
            let state = file.lock();
            let mut namespace = self.namespace();
            namespace.published(at.parent, &at.name, replaced, Instant::now());
            if state.is_dirty() {
                return Ok(());
            }
            let current = namespace.local(file.ino);
            if current.is_none_or(|now| now.revision == local.revision) {
                namespace.end_local(file.ino);
                return Ok(());
            }
        }
    }

    /// Uploads a snapshot of a file that is still changed and not uploaded when it has been so for `age`.
    /// Once a file, until it is uploaded.
    pub(super) fn upload_after(
        self: &Arc<Self>,
        file: &Arc<OpenFile>,
        state: &mut State,
        age: Duration,
    ) {
        if std::mem::replace(&mut state.aging, true) {
            return;
        }
        let (fs, file) = (self.clone(), Arc::downgrade(file));
        self.runtime.spawn(async move {
            loop {
                tokio::time::sleep(age).await;
                let Some(file) = file.upgrade() else { return };
                let due = {
                    let mut state = file.lock();
                    state.aging = state.is_dirty() && !state.gone;
                    if !state.aging {
                        return;
                    }
                    !state.may_wait(fs.settings.part_size)
                };
                if due {
                    // Logged where it fails, and tried again there.
                    let _ = fs.publish(&file).await;
                }
            }
        });
    }

    // ---- all of them ----

    /// Uploads everything that is pending, temporary names included.
    pub(super) async fn upload_everything(
        self: &Arc<Self>,
    ) -> std::result::Result<(), Vec<Unsaved>> {
        let files: Vec<_> = lock(&self.files).values().cloned().collect();
        let unsaved: Vec<Unsaved> = stream::iter(files)
            .map(|file| async move {
                let result = self.publish(&file).await;
                result.err().map(|error| Unsaved {
                    path: self.describe_place(file.ino),
                    error,
                })
            })
            .buffer_unordered(PARALLEL_FILES)
            .filter_map(|unsaved| async move { unsaved })
            .collect()
            .await;
        if unsaved.is_empty() {
            Ok(())
        } else {
            Err(unsaved)
        }
    }

    /// For messages: the key, escaped.
    pub(super) fn describe_place(&self, ino: Ino) -> String {
        match self.namespace().key(ino) {
            Some(key) => format!("\"{}\"", key.escape_debug()),
            None => "a file without a name".to_owned(),
        }
    }
}

/// A panic in an upload must not leave its waiters waiting.
struct UploadEnds<'a>(&'a OpenFile);

impl Drop for UploadEnds<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let mut state = self.0.lock();
            state.upload = None;
            state.failure = Some(Error::io("the upload panicked"));
            // Whoever was to hand over may be gone: the next attempt must not wait for it.
            state.abandon_stream();
            drop(state);
            self.0.moved.notify_waiters();
        }
    }
}
