//! One attempt to bring a changed file into the bucket: a frozen snapshot of it, under a fresh key.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::oneshot;

use super::multipart::plaintext;
use super::publish::Writeback;
use crate::encrypted::{Uploaded, Xattrs};
use crate::envelope::write::MultipartSizes;
use crate::files::attributes::{Attributes, headers_of};
use crate::files::parts;
use crate::fs::data::content::Content;
use crate::fs::data::staging::{Snapshot, StagedFile};
use crate::fs::error::{Error, Result};
use crate::fs::handles::file_state::{Fingerprint, Handover, Stream};
use crate::fs::handles::open_file::OpenFile;
use crate::fs::namespace::inode::DirtyInode;
use crate::fs::namespace::kernel::Invalidation;
use crate::fs::namespace::names::Destination;
use crate::fs::resolver::object_cache::meta_of;
use crate::store::object_store::{ObjectKey, Overwrite};

/// How often what was appended starts over on a version that another client has put there meanwhile.
const REBASES: usize = 4;

/// What an upload is given to carry.
struct UploadSnapshot {
    snapshot: Snapshot,
    base: Option<Arc<Content>>,
    /// The `written` this is.
    written: u64,
    exclusive: bool,
    xattrs: Option<Arc<Xattrs>>,
    handover: Option<oneshot::Receiver<Handover>>,
}

impl Writeback {
    /// One attempt.
    pub(crate) async fn upload(self: &Arc<Self>, file: &Arc<OpenFile>) -> Result<()> {
        let Some(destination) = self.names.lock_destination(file.ino).await? else {
            let mut state = file.lock();
            if state.link.is_gone() {
                return Ok(());
            }
            // Changed files keep their names, whatever others do; without one there is nowhere to go.
            state.link.lose_name();
            return Err(Error::Stale);
        };
        let mut rebases = 0;
        let (mut frozen, local, sent, mut result) = loop {
            let Some(mut frozen) = self.take_snapshot(file, &destination) else {
                return Ok(());
            };
            let handover = frozen.handover.take();
            let Some(local) = self.names.lock().local(file.ino).cloned() else {
                return Err(Error::io("a changed file has no attributes of its own"));
            };
            let sent = Instant::now();
            let result = self
                .send(file, &frozen, handover, &destination, &local)
                .await;
            if matches!(result, Err(Error::Stale))
                && rebases < REBASES
                && self.open_files.rebase(file, &destination.key).await?
            {
                rebases += 1;
                continue;
            }
            break (frozen, local, sent, result);
        };
        if frozen.exclusive
            && matches!(result, Err(Error::Exists))
            && self.is_our_upload(file, &destination.key).await
        {
            frozen.exclusive = false;
            file.lock().allow_replacing();
            result = self.send(file, &frozen, None, &destination, &local).await;
        }
        {
            let mut state = file.lock();
            // Refused by the precondition, the object there is another client's.
            if !(frozen.exclusive && matches!(result, Err(Error::Exists))) {
                state.upload.set_may_have_stored(true);
            }
            if state.link.is_gone() {
                return Ok(());
            }
        }
        if frozen.exclusive && matches!(result, Err(Error::Exists)) {
            self.creation_lost(file, &destination);
        }
        let (uploaded, revision) = result?;
        self.commit(file, frozen.written, &destination, uploaded, revision, sent)
            .await
    }

    /// Another client has made the name first: it stands for what is there, and what was written here has nowhere to go.
    fn creation_lost(&self, file: &OpenFile, at: &Destination) {
        {
            let mut state = file.lock();
            if !state.link.lose_creation() {
                return;
            }
            let mut namespace = self.names.lock();
            namespace.forget_name(at.parent, &at.name);
            namespace.invalidate(at.parent, &at.name);
        }
        self.names
            .kernel()
            .notify(Invalidation::Name(at.parent, at.name.to_string()));
    }

    /// Whether what keeps an exclusive file from being uploaded is an upload of that very file, whose answer
    /// was lost.
    async fn is_our_upload(&self, file: &OpenFile, key: &ObjectKey) -> bool {
        if file.lock().attempts().is_empty() {
            return false;
        }
        let Ok(meta) = self.bucket.store().head(key).await else {
            return false;
        };
        let there = Fingerprint {
            size: meta.size,
            ctime: Attributes::read(&meta, false).ctime,
        };
        there.ctime.is_some() && file.lock().attempts().contains(&there)
    }

    fn take_snapshot(
        &self,
        file: &Arc<OpenFile>,
        destination: &Destination,
    ) -> Option<UploadSnapshot> {
        let mut state = file.lock();
        if state.link.is_gone() || !state.is_dirty() {
            return None;
        }
        let version = state.data.version;
        state.upload.begin(version);
        let snapshot = state.data.staged.as_ref()?.snapshot();
        let handover = match &mut state.stream {
            Stream::Active { handover, .. } => {
                let (sender, receiver) = oneshot::channel();
                *handover = Some(sender);
                Some(receiver)
            }
            _ => None,
        };
        let frozen = UploadSnapshot {
            snapshot,
            base: state.data.base.clone(),
            written: state.data.version,
            exclusive: state.is_exclusive(),
            xattrs: state.xattrs.clone(),
            handover,
        };
        drop(state);
        file.moved.notify_waiters();
        log::debug!(
            "uploading {}, {} bytes{}",
            destination.key,
            frozen.snapshot.len(),
            match frozen.snapshot.needs_base() {
                true => ", some of them from its base",
                false => "",
            }
        );
        Some(frozen)
    }

    /// Sends the bytes. Returns what is in the bucket now and the attributes' revision it carries.
    async fn send(
        self: &Arc<Self>,
        file: &Arc<OpenFile>,
        frozen: &UploadSnapshot,
        handover: Option<oneshot::Receiver<Handover>>,
        to: &Destination,
        local: &DirtyInode,
    ) -> Result<(Uploaded, u64)> {
        let overwrite = match frozen.exclusive {
            true => Overwrite::Forbidden,
            false => Overwrite::Allowed,
        };
        let size = frozen.snapshot.len();
        if let Some(base) = &frozen.base
            && let gaps = frozen.snapshot.base_gaps()
            && !gaps.is_empty()
            && base.is_here(gaps)
        {
            self.open_files.check_stands(base).await?;
        }
        let plain = plaintext(frozen.snapshot.clone(), frozen.base.clone());
        // The pump ends its parts and hands over; it drops the sender when it failed or was abandoned.
        let mut handover = match handover {
            Some(receiver) => receiver.await.ok(),
            None => None,
        };
        let xattrs = frozen.xattrs.as_deref();
        if let Some(stream) = &handover
            && (stream.key != to.key.as_str() || stream.xattrs.as_deref() != xattrs)
        {
            // Renamed since, or given extended attributes: an upload can change neither.
            let stream = handover.take().expect("matched above");
            self.abort(stream.upload);
        }
        if frozen.exclusive {
            let carried = handover.as_ref().map(|stream| stream.ctime);
            file.lock().record_attempt(Fingerprint {
                size,
                ctime: carried.unwrap_or(local.attributes.ctime),
            });
        }
        if let Some(stream) = handover {
            let rest = parts::plan(
                stream.sent_to,
                size,
                stream.next_part,
                self.settings.uploads.part_size,
            );
            let first = 0..self.settings.uploads.part_size;
            let uploaded = self.send_parts(file, stream.upload, rest, first, &plain, overwrite);
            return Ok((uploaded.await?, stream.revision));
        }
        let headers = headers_of(&local.attributes);
        if size <= self.settings.uploads.part_size {
            // Never broken off: a PUT that the service has in hand may take effect after the DELETE that
            // removes its object, and then the file is back.
            let put = self.bucket.put(&to.key, &plain, headers, xattrs, overwrite);
            return Ok((put.await?, local.revision));
        }
        // Equal parts in the formats that announce their size.
        let sized = self.bucket.format().has_sdk_names();
        let mut parts = match sized {
            true => parts::equal(size, self.settings.uploads.part_size),
            false => parts::plan(0, size, 1, self.settings.uploads.part_size),
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
    pub(crate) async fn commit(
        self: &Arc<Self>,
        file: &Arc<OpenFile>,
        written: u64,
        at: &Destination,
        uploaded: Uploaded,
        revision: u64,
        sent: Instant,
    ) -> Result<()> {
        self.cache
            .remember_upload(&at.key, &uploaded, Instant::now());
        let mut object = self
            .cache
            .describe(&at.key, meta_of(&uploaded), Instant::now());
        object.uploaded_here = true;
        let etag = object.etag.clone();
        let envelope = Some(uploaded.object.clone());
        let content = self
            .cache
            .new_content(&at.key, etag.clone(), object.size, envelope);
        let correct = {
            let mut state = file.lock();
            let end = content.size();
            state.data.appended_to = state.data.appended_to.map(|_| end);
            let base = state.data.base.replace(content.clone());
            if let (Some(base), Some(staged), true) =
                (&base, &state.data.staged, self.bucket.can_read())
            {
                content.inherit(base, staged.base_gaps(0..staged.len()));
            }
            state.data.committed = written;
            state.data.emptied = false;
            state.creation = None;
            state.stream.abandon();
            state.upload.set_may_have_stored(false);
            let clean = !state.is_dirty();
            if clean {
                state.data.committed_staging = state.data.staged.as_ref().map(StagedFile::id);
                state.data.changed_by.clear();
            }
            let mut namespace = self.names.lock();
            namespace.published(at.parent, &at.name, object.clone(), sent);
            namespace.uploaded(file.ino, &etag);
            namespace.set_open(file.ino, (state.refs.handles > 0).then(|| object.clone()));
            let changed = namespace
                .local(file.ino)
                .is_some_and(|local| local.revision != revision);
            if clean {
                namespace.pages_show(file.ino, Some(&etag));
                if !changed {
                    namespace.mark_clean(file.ino);
                }
            }
            drop(namespace);
            if clean && !changed {
                self.open_files.drop_staged(&mut state);
            }
            clean && changed
        };
        if !self.bucket.can_read() {
            // Nor does the kernel keep what can be opened here no more.
            self.names.kernel().notify(Invalidation::Content(file.ino));
        }
        if !correct {
            return Ok(());
        }
        let corrected = self.correct_attributes(file, at).await;
        let mut state = file.lock();
        match &corrected {
            Ok(()) => {
                if !state.is_dirty() && !state.link.is_gone() {
                    self.open_files.drop_staged(&mut state);
                }
            }
            Err(_) if state.data.staged.is_none() && !self.bucket.can_read() => {
                self.names.lock().mark_clean(file.ino);
            }
            Err(_) => {
                // The next attempt brings content and attributes together.
                if state.data.staged.is_none() {
                    let size = state.size();
                    state.data.staged = Some(self.open_files.new_staged(Some(size)));
                }
                state.data.version += 1;
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
        let _changing = self.names.begin_change([(at.parent, &at.name)]);
        loop {
            let Some((local, object)) = ({
                let namespace = self.names.lock();
                namespace
                    .local(file.ino)
                    .cloned()
                    .zip(namespace.object(file.ino))
            }) else {
                return Ok(());
            };
            let described = self
                .cache
                .headers(&at.key, &object.etag, Instant::now())
                .await?;
            let replaced = match described.meta.etag == object.etag {
                true => {
                    self.objects
                        .replace_attributes(&at.key, &described.meta, &local.attributes)
                        .await
                }
                false => Err(Error::Stale),
            };
            if let Err(Error::Stale) = replaced {
                // Another client has replaced it already: those are not the attributes of what it wrote.
                let state = file.lock();
                let mut namespace = self.names.lock();
                if !state.is_dirty() {
                    namespace.mark_clean(file.ino);
                }
                return Ok(());
            }
            let replaced = replaced?;
            self.open_files
                .took_new_tag(file.ino, &at.key, &described.meta.etag, &replaced);
            let state = file.lock();
            let mut namespace = self.names.lock();
            namespace.published(at.parent, &at.name, replaced, Instant::now());
            if state.is_dirty() {
                return Ok(());
            }
            let current = namespace.local(file.ino);
            if current.is_none_or(|now| now.revision == local.revision) {
                namespace.mark_clean(file.ino);
                return Ok(());
            }
        }
    }
}
