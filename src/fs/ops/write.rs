//! write and fallocate: into staged bytes, at once where memory allows.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::filesystem::Filesystem;
use crate::fs::error::{Error, Result};
use crate::fs::handles::open_file::Writer;
use crate::fs::writeback::changes::check_end;

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
        if state.data.staged.is_none()
            && !self.open_files.stage_over(&mut state, offset, data.len())?
        {
            return Ok(Err(MustWait));
        }
        let staged = state.data.staged.as_mut().expect("staged above");
        if staged.try_write(offset, data).is_err() {
            return Ok(Err(MustWait));
        }
        self.writeback
            .wrote(file, &mut state, offset, data.len(), by);
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

    /// A direct write to this range is done, and not acknowledged yet: the kernel does not look for pages in its
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
                if state.data.staged.is_none()
                    && !self.open_files.stage_over(&mut state, offset, data.len())?
                {
                    None
                } else {
                    let staged = state.data.staged.as_ref().expect("staged above");
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
            let Some(staged) = state.data.staged.as_mut() else {
                continue;
            };
            if staged.write_with(offset, &data, room).is_ok() {
                self.writeback
                    .wrote(file, &mut state, offset, data.len(), by);
                return Ok(());
            }
        }
    }

    /// Makes room: the file grows to at least that size. What is there stays.
    pub async fn allocate(self: &Arc<Self>, handle: u64, offset: u64, length: u64) -> Result<()> {
        let handle = self.open_files.handle(handle)?;
        check_end(offset, 0)?;
        let end = offset.saturating_add(length);
        let room = self
            .settings
            .spill
            .limit
            .saturating_add(self.settings.memory_limit);
        if end.saturating_sub(handle.file.lock().size()) > room {
            // What is written there would find none.
            return Err(Error::NoSpace);
        }
        check_end(end, 0)?;
        self.writeback
            .resize_open(&handle.file, end, false, true)
            .await
    }
}
