//! Staging what is about to change: an open file's bytes, and its attributes, before they differ from its object.

use std::ops::Range;
use std::sync::Arc;

use super::open_file::{OpenFile, State, Writer};
use super::open_files::OpenFiles;
use super::reading::Access;
use crate::files::attributes::{Attributes, Kind};
use crate::fs::data::content::Reader;
use crate::fs::data::staging::StagedFile;
use crate::fs::error::{Error, Result};
use crate::fs::namespace::entry::Object;
use crate::fs::namespace::inode::{Ino, now};
use crate::fs::namespace::object_name;
use crate::fs::namespace::tree::Namespace;

/// What a base of at most this many bytes is read in, when it is staged whole.
const STAGE_STEP: u64 = 1 << 20;

impl Writer {
    /// Where the write goes that the kernel has placed at `offset`. Where the file has moved on to a newer
    /// version, the end that the kernel appends to is that of the one before.
    pub(crate) fn place(&self, state: &State, offset: u64) -> u64 {
        match self.append && state.data.moved_on {
            true => state.size(),
            false => offset,
        }
    }
}

impl OpenFiles {
    /// Whether what is written would reach the bucket.
    ///
    /// # Errors
    /// [`Error::Stale`] when others have taken the file's name away while it was open: its changes would
    /// have nowhere to go. (A file that was unlinked here is another matter.)
    pub(crate) fn check_place(&self, file: &OpenFile, state: &State) -> Result<()> {
        if state.link.is_lost() {
            return Err(Error::Stale);
        }
        if state.link.is_gone() || state.is_dirty() || self.names.lock().key(file.ino).is_some() {
            return Ok(());
        }
        Err(Error::Stale)
    }

    /// Begins to stage, unless the base has to be read first.
    ///
    /// # Errors
    /// [`Error::Denied`] where the base would have to be read and cannot be.
    pub(crate) fn stage_over(&self, state: &mut State, offset: u64, len: usize) -> Result<bool> {
        let size = state.data.base.as_ref().map_or(0, |content| content.size());
        let covers = offset == 0 && len as u64 >= size;
        if covers || size == 0 {
            state.data.staged = Some(StagedFile::new(&self.staging, None));
        } else if !self.bucket.can_read() {
            return Err(Error::Denied("this mount has no private key"));
        } else if size > self.settings.uploads.part_size {
            state.data.staged = Some(StagedFile::new(&self.staging, Some(size)));
            state.data.appended_to = Some(size);
        } else {
            return Ok(false);
        }
        Ok(true)
    }

    /// Stages the whole of a small base, so that nothing depends on its object any more. Where the object
    /// was replaced, and nothing of it was shown, that is the new one's.
    pub(crate) async fn stage_base(
        self: &Arc<Self>,
        file: &Arc<OpenFile>,
        write: Option<(Writer, u64, usize)>,
    ) -> Result<()> {
        let append = write.is_some_and(|(by, ..)| by.append);
        let mut moves = 0;
        loop {
            let content = {
                let mut state = file.lock();
                let (offset, len) = match write {
                    Some((by, offset, len)) => (by.place(&state, offset), len),
                    None => (1, 0),
                };
                if state.data.staged.is_some() || self.stage_over(&mut state, offset, len)? {
                    return Ok(());
                }
                state
                    .data
                    .base
                    .clone()
                    .expect("stage_over needs one only to read it")
            };
            let mut staged = StagedFile::new(&self.staging, None);
            let filled = async {
                // A program that was shown this version goes on with it, and the last upload wins.
                let asks = append || !content.was_seen();
                if asks && content.is_here(std::iter::once(0..content.size())) {
                    self.check_stands(&content).await?;
                }
                self.fill(&mut staged, &content.reader(), 0..content.size())
                    .await
            };
            let filled = filled.await;
            match filled {
                Ok(()) => {}
                Err(Error::Stale) if moves < 4 => {
                    moves += 1;
                    let current = {
                        let state = file.lock();
                        state.rests_on(&content) && state.data.staged.is_none()
                    };
                    if current {
                        let access = if append {
                            Access::Append
                        } else {
                            Access::Write
                        };
                        self.move_on(file, &content, access).await?;
                    }
                    continue;
                }
                Err(error) => return Err(error),
            }
            let mut state = file.lock();
            if state.data.staged.is_none() && state.rests_on(&content) {
                state.data.staged = Some(staged);
                return Ok(());
            }
        }
    }

    /// Stages a range of a version.
    pub(crate) async fn fill(
        &self,
        staged: &mut StagedFile,
        reader: &Arc<Reader>,
        range: Range<u64>,
    ) -> Result<()> {
        let mut at = range.start;
        while at < range.end {
            let bytes = reader.read(at..range.end.min(at + STAGE_STEP)).await?;
            if bytes.is_empty() {
                return Err(Error::io("the object ended early"));
            }
            loop {
                let room = staged.room_for(at, bytes.len()).await?;
                if staged.write_with(at, &bytes, room).is_ok() {
                    break;
                }
            }
            at += bytes.len() as u64;
        }
        Ok(())
    }

    /// The attributes of a file that is about to differ from its object.
    pub(crate) fn snapshot_attributes(&self, namespace: &mut Namespace, ino: Ino) {
        if namespace.local(ino).is_some() {
            return;
        }
        // A listing may have shown that the metadata changed, and it was not requested since:
        // what was known when the file was opened is the best there is.
        let (now_there, opened) = (namespace.object(ino), namespace.open_version(ino));
        let size = now_there
            .as_ref()
            .or(opened.as_ref())
            .map_or(0, |object| object.size);
        let versions: Vec<Object> = [now_there, opened].into_iter().flatten().collect();
        let known = versions.iter().find_map(|object| object.known.as_deref());
        let headers = || {
            let key = object_name::object_key(namespace.key(ino)?).ok()?;
            let mut described = versions
                .iter()
                .filter_map(|object| self.cache.known_headers(&key, &object.etag));
            Some(Attributes::read(&described.next()?.meta, false))
        };
        let mut attributes = known
            .map(|known| known.attributes.clone())
            .or_else(headers)
            .unwrap_or_else(|| Attributes::new(Kind::File, 0o600, 0, 0, now()));
        if let Some((change, _)) = namespace.pending(ino) {
            change.apply(&mut attributes, &self.settings.defaults);
        }
        namespace.mark_dirty(ino, attributes, size);
        // The upload carries what was on its way.
        namespace.end_pending(ino, usize::MAX, &Ok(()));
    }
}
