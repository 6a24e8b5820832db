//! Files that are closed, renamed or removed: what of them is uploaded then, and what never is.
//!
//! Open handles of a file whose name goes read on (see `handles/orphan`). A removal that fails gives the name back.

use std::sync::Arc;
use std::time::Duration;

use super::deferred::Deferred;
use super::publish::Writeback;
use crate::base::error_chain::chain;
use crate::base::sync::lock;
use crate::fs::error::Result;
use crate::fs::handles::open_file::{FileHandle, OpenFile};
use crate::fs::namespace::inode::Ino;

impl Writeback {
    /// The call that held the file is done with it.
    pub(crate) fn release_held(self: &Arc<Self>, file: &Arc<OpenFile>) {
        self.end_handle(file, None);
    }

    /// The last close. RELEASE has no error channel: pending data is uploaded in the background.
    pub(crate) fn release(self: &Arc<Self>, handle: u64) {
        let Some(handle) = self.open_files.remove_handle(handle) else {
            return;
        };
        let file = handle.file.clone();
        let writable = handle.writable;
        if writable {
            file.lock().refs.forget_opener(handle.opener);
        }
        if writable && lock(&self.deferred_times).get(&file.ino) == Some(&Deferred::Close) {
            let (writeback, ino) = (self.clone(), file.ino);
            self.runtime.spawn(async move {
                if let Err(error) = writeback.store_at_close(ino).await {
                    let place = writeback.names.describe_place(ino);
                    log::warn!(
                        "the attributes of {place} are not stored: {}",
                        chain(&error)
                    );
                }
            });
        }
        self.end_handle(&file, Some(handle));
    }

    /// `handle`: None where the file was only held.
    fn end_handle(self: &Arc<Self>, file: &Arc<OpenFile>, handle: Option<Arc<FileHandle>>) {
        let uses = handle
            .as_deref()
            .map(|handle| [handle.readable, handle.writable, handle.runs]);
        // Its fetches end, without the lock.
        drop(handle);
        let waits = {
            let mut state = file.lock();
            let [reads, writes, runs] = uses.unwrap_or_default();
            state.refs.release(reads, writes, runs);
            if state.refs.writers == 0 && !state.is_dirty() && !state.link.is_gone() {
                // Where the object is gone, what is staged is all there is.
                if self.names.lock().key(file.ino).is_some() {
                    self.open_files.drop_staged(&mut state);
                }
            }
            state.refs.writers == 0
                && state.is_temporary()
                && state.is_dirty()
                && !state.link.is_gone()
        };
        if waits {
            self.wait_for_rename(file);
        } else {
            self.schedule_upload(file);
        }
        self.open_files.drop_if_idle(file);
    }

    /// Uploads a file under its temporary name, unless it is renamed in time.
    fn wait_for_rename(self: &Arc<Self>, file: &Arc<OpenFile>) {
        let (writeback, file) = (self.clone(), file.clone());
        let grace: Duration = self.settings.rename_grace;
        self.runtime.spawn(async move {
            tokio::time::sleep(grace).await;
            let still = {
                let mut state = file.lock();
                let still = state.is_temporary() && state.is_dirty() && state.refs.writers == 0;
                if still {
                    state.end_temporary();
                }
                still
            };
            if still {
                writeback.schedule_upload(&file);
            }
        });
    }

    /// The file's name is about to go, and perhaps its object: open handles go on reading, and it is
    /// not uploaded any more. Followed by [`Writeback::after_removal`] or [`Writeback::restore`].
    pub(crate) async fn orphan(self: &Arc<Self>, file: &Arc<OpenFile>) -> Result<()> {
        loop {
            let preserved = self.open_files.preserve(file).await?;
            {
                let mut state = file.lock();
                // An upload may just have let go of what was staged.
                let again = preserved
                    && state.refs.handles > 0
                    && state.aside.is_none()
                    && state.needs_base()
                    && self.bucket.can_read()
                    && state.data.base.is_some();
                if again {
                    continue;
                }
                state.link.begin_removal();
                state.stream.abandon();
            }
            file.moved.notify_waiters();
            return Ok(());
        }
    }

    /// It could not be removed after all.
    pub(crate) fn restore(self: &Arc<Self>, file: &Arc<OpenFile>) {
        {
            file.lock().link.restore();
        }
        self.schedule_upload(file);
        self.open_files.drop_if_idle(file);
    }

    /// The name is gone.
    pub(crate) fn after_removal(self: &Arc<Self>, ino: Ino) {
        if let Some(file) = self.open_files.file_of(ino) {
            file.lock().link.end_removal();
            self.open_files.drop_if_idle(&file);
        }
    }

    /// Where the rename was what the file waited for, it goes up now, and the rename reports how that went.
    pub(crate) async fn publish_renamed(self: &Arc<Self>, ino: Ino) -> Result<()> {
        let Some(file) = self.open_files.file_of(ino) else {
            return Ok(());
        };
        let closed = {
            let mut state = file.lock();
            state.end_temporary();
            state.link.begin_rename();
            state.refs.writers == 0 && state.is_dirty()
        };
        let result = match closed {
            true => self.publish(&file).await,
            false => Ok(()),
        };
        file.lock().link.end_rename();
        if result.is_ok() {
            self.open_files.drop_if_idle(&file);
        }
        result
    }
}
