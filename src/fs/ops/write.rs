//! Changing what is open: writes, truncation and allocation, all into staged bytes.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use crate::fs::attributes::Kind;
use crate::fs::error::{Error, Result};
use crate::fs::filesystem::Filesystem;
use crate::fs::handles::open_file::{OpenFile, State, Stream, Writer};
use crate::fs::namespace::inode_table::now;
use crate::fs::writeback::multipart_plan::MAX_OBJECT;

/// A file that is uploaded while it is written keeps the time of change that the upload began with for
/// this many seconds.
const STREAM_DRIFT: i64 = 60;

/// A write that memory could not take at once; nothing was changed.
pub struct MustWait;

impl Filesystem {
    /// Writes if memory can take it at once.
    pub fn write_now(
        self: &Arc<Self>,
        handle: u64,
        offset: u64,
        data: &[u8],
        by: Writer,
    ) -> Result<std::result::Result<(), MustWait>> {
        let handle = self.open_files.handle(handle)?;
        check_end(offset, data.len())?;
        let file = &handle.file;
        let mut state = file.lock();
        self.open_files.check_place(file, &state)?;
        let offset = by.place(&state, offset);
        if state.staged.is_none() && !self.open_files.stage_over(&mut state, offset, data.len())? {
            return Ok(Err(MustWait));
        }
        let staged = state.staged.as_mut().expect("staged above");
        if staged.try_write(offset, data).is_err() {
            return Ok(Err(MustWait));
        }
        self.wrote(file, &mut state, offset, data.len(), by);
        Ok(Ok(()))
    }

    /// What is read or written through this handle now, the kernel may keep in pages. To be said before
    /// anything is read: a direct write that is done by then does not look for these pages.
    pub fn fills_pages(&self, handle: u64) {
        if let Ok(handle) = self.open_files.handle(handle) {
            handle.file.paged.store(true, Ordering::SeqCst);
        }
    }

    /// Whether the kernel may have pages of the file.
    pub fn has_pages(&self, handle: u64) -> bool {
        let handle = self.open_files.handle(handle);
        handle.is_ok_and(|handle| handle.file.paged.load(Ordering::SeqCst))
    }

    /// A direct write to this range is done, and nobody is told yet: the kernel does not look for pages in its
    /// way where the write is asynchronous, and would show them from then on.
    pub async fn pass_by_pages(&self, handle: u64, range: Range<u64>) -> Result<()> {
        let handle = self.open_files.handle(handle)?;
        self.names.kernel().drop_pages(handle.file.ino, range).await;
        Ok(())
    }

    /// Writes, waiting for memory, for blocks that are on disk, or for the base.
    pub async fn write(
        self: &Arc<Self>,
        handle: u64,
        offset: u64,
        data: Bytes,
        by: Writer,
    ) -> Result<()> {
        let opened = self.open_files.handle(handle)?;
        check_end(offset, data.len())?;
        let file = &opened.file;
        let write = Some((by, offset, data.len()));
        self.open_files.stage_base(file, write).await?;
        loop {
            let room = {
                let mut state = file.lock();
                let offset = by.place(&state, offset);
                if state.staged.is_none()
                    && !self.open_files.stage_over(&mut state, offset, data.len())?
                {
                    None
                } else {
                    let staged = state.staged.as_ref().expect("staged above");
                    Some(staged.room_for(offset, data.len()))
                }
            };
            let Some(room) = room else {
                self.open_files.stage_base(file, write).await?;
                continue;
            };
            let room = room.await?;
            let mut state = file.lock();
            self.open_files.check_place(file, &state)?;
            let offset = by.place(&state, offset);
            let Some(staged) = state.staged.as_mut() else {
                continue;
            };
            if staged.write_with(offset, &data, room).is_ok() {
                self.wrote(file, &mut state, offset, data.len(), by);
                return Ok(());
            }
        }
    }

    /// What follows from a write that was done.
    fn wrote(
        self: &Arc<Self>,
        file: &Arc<OpenFile>,
        state: &mut State,
        offset: u64,
        len: usize,
        by: Writer,
    ) {
        let row = state.row();
        state.changers.add(by.thread);
        let appended = |end: &u64| by.append && offset >= *end;
        state.appended_to = state.appended_to.filter(appended);
        state.abandon_stream_over(offset..offset + len as u64);
        self.content_changed(file, state, by.clear_set_id);
        self.keep_streaming(file, state);
        state.took_edge("write", row);
    }

    /// The content is another one now: counts it, and shows it in the attributes.
    fn content_changed(
        self: &Arc<Self>,
        file: &Arc<OpenFile>,
        state: &mut State,
        clear_set_id: bool,
    ) {
        let was_clean = !state.is_dirty();
        state.written += 1;
        if was_clean && let Some(age) = self.settings.flush_after {
            self.upload_after(file, state, age);
        }
        let size = state.size();
        if size > 0 {
            state.emptied = false;
        }
        let mut namespace = self.names.lock();
        if was_clean {
            self.open_files.localize(&mut namespace, file.ino);
        }
        if let Some(local) = namespace.local_mut(file.ino) {
            let time = now();
            local.size = size;
            // What is written is a file, whatever its metadata have come to claim since it was opened: the
            // key of its upload will say what the attributes say.
            if local.attributes.kind == Kind::Symlink {
                local.attributes.kind = Kind::File;
            }
            // The object has its time of change since its upload began. Correcting it costs a copy of
            // the whole object, so it is not moved for less than [`STREAM_DRIFT`].
            let began = local.attributes.mtime;
            let uploading = matches!(state.stream, Stream::Active { .. });
            let steady = time >= began && time.seconds - began.seconds < STREAM_DRIFT;
            if uploading && steady && !clear_set_id {
                return;
            }
            local.attributes.set_mtime(time);
            local.attributes.ctime = Some(time);
            if clear_set_id {
                local.attributes.clear_set_id(&self.settings.defaults);
            }
            local.revision += 1;
        }
    }

    // ---- truncate ----

    /// Sets the size of an open file. `by_open`: O_TRUNC.
    pub(crate) async fn truncate_open(
        self: &Arc<Self>,
        file: &Arc<OpenFile>,
        size: u64,
        by_open: bool,
    ) -> Result<()> {
        self.resize_open(file, size, by_open, false).await
    }

    /// `only_grow`: what has come to be larger meanwhile stays so.
    async fn resize_open(
        self: &Arc<Self>,
        file: &Arc<OpenFile>,
        size: u64,
        by_open: bool,
        only_grow: bool,
    ) -> Result<()> {
        check_end(size, 0)?;
        loop {
            let ready = {
                let mut state = file.lock();
                self.open_files.check_place(file, &state)?;
                if only_grow && size <= state.size() {
                    return Ok(());
                }
                if state.staged.is_none() && size == 0 {
                    state.staged = Some(self.open_files.new_staged(None));
                }
                if state.staged.is_some() || self.open_files.stage_over(&mut state, 1, 0)? {
                    let (before, row) = (state.size(), state.row());
                    let staged = state.staged.as_mut().expect("staged above");
                    staged.truncate(size);
                    state.appended_to = None;
                    state.abandon_stream_over(size.min(before)..u64::MAX);
                    if by_open && size == 0 {
                        state.emptied = true;
                    }
                    let emptied = state.emptied;
                    self.content_changed(file, &mut state, false);
                    state.emptied = emptied && size == 0;
                    state.took_edge("truncate", row);
                    true
                } else {
                    false
                }
            };
            if ready {
                return Ok(());
            }
            self.open_files.stage_base(file, None).await?;
        }
    }

    /// Makes room: the file grows to at least that size. What is there stays.
    pub async fn allocate(self: &Arc<Self>, handle: u64, offset: u64, length: u64) -> Result<()> {
        let handle = self.open_files.handle(handle)?;
        check_end(offset, 0)?;
        let end = offset.saturating_add(length);
        let room = self
            .settings
            .cache_limit
            .saturating_add(self.settings.memory_limit);
        if end.saturating_sub(handle.file.lock().size()) > room {
            // What is written there would find none.
            return Err(Error::NoSpace);
        }
        check_end(end, 0)?;
        self.resize_open(&handle.file, end, false, true).await
    }
}

/// # Errors
/// [`Error::TooLarge`] beyond what an object can hold.
fn check_end(offset: u64, len: usize) -> Result<()> {
    match offset.checked_add(len as u64) {
        Some(end) if end <= MAX_OBJECT => Ok(()),
        _ => Err(Error::TooLarge),
    }
}
