//! What follows from a change of an open file's content: it is counted, shown in the attributes, and uploaded.

use std::sync::Arc;

use super::publish::Writeback;
use crate::files::attributes::Kind;
use crate::files::parts::MAX_OBJECT;
use crate::fs::error::{Error, Result};
use crate::fs::handles::file_state::Stream;
use crate::fs::handles::open_file::{OpenFile, State, Writer};
use crate::fs::namespace::inode::now;

/// A file that is uploaded while it is written keeps the time of change that the upload began with for
/// this many seconds.
const STREAM_DRIFT: i64 = 60;

impl Writeback {
    /// What follows from a write that was done.
    pub(crate) fn wrote(
        self: &Arc<Self>,
        file: &Arc<OpenFile>,
        state: &mut State,
        offset: u64,
        len: usize,
        by: Writer,
    ) {
        let row = state.state_name();
        state.data.changed_by.add(by.thread);
        let appended = |end: &u64| by.append && offset >= *end;
        state.data.appended_to = state.data.appended_to.filter(appended);
        state.stream.abandon_over(offset..offset + len as u64);
        self.content_changed(file, state, by.clear_set_id);
        self.keep_streaming(file, state);
        state.trace_transition("write", row);
    }

    /// The content is another one now: counts it, and shows it in the attributes.
    fn content_changed(
        self: &Arc<Self>,
        file: &Arc<OpenFile>,
        state: &mut State,
        clear_set_id: bool,
    ) {
        let was_clean = !state.is_dirty();
        state.data.version += 1;
        if was_clean && let Some(age) = self.settings.flush_after {
            self.upload_after(file, state, age);
        }
        let size = state.size();
        if size > 0 {
            state.data.emptied = false;
        }
        let mut namespace = self.names.lock();
        if was_clean {
            self.open_files
                .snapshot_attributes(&mut namespace, file.ino);
        }
        if let Some(local) = namespace.dirty_mut(file.ino) {
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
    pub(crate) async fn resize_open(
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
                if state.data.staged.is_none() && size == 0 {
                    state.data.staged = Some(self.open_files.new_staged(None));
                }
                if state.data.staged.is_some() || self.open_files.stage_over(&mut state, 1, 0)? {
                    let (before, row) = (state.size(), state.state_name());
                    let staged = state.data.staged.as_mut().expect("staged above");
                    staged.truncate(size);
                    state.data.appended_to = None;
                    state.stream.abandon_over(size.min(before)..u64::MAX);
                    if by_open && size == 0 {
                        state.data.emptied = true;
                    }
                    let emptied = state.data.emptied;
                    self.content_changed(file, &mut state, false);
                    state.data.emptied = emptied && size == 0;
                    state.trace_transition("truncate", row);
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

    /// A file that was clean and is not open is again what the bucket has.
    pub(crate) fn undo_truncation(&self, file: &Arc<OpenFile>) {
        let mut state = file.lock();
        if state.refs.handles > 1 || state.upload.is_running() || state.link.is_gone() {
            return;
        }
        state.data.staged = None;
        state.data.committed = state.data.version;
        state.upload.forget_failure();
        let mut namespace = self.names.lock();
        namespace.mark_clean(file.ino);
        if let Some((parent, name)) = namespace.place(file.ino) {
            // The answer may have been lost.
            namespace.invalidate(parent, &name);
        }
    }
}

/// # Errors
/// [`Error::TooLarge`] beyond what an object can hold.
pub(crate) fn check_end(offset: u64, len: usize) -> Result<()> {
    match offset.checked_add(len as u64) {
        Some(end) if end <= MAX_OBJECT => Ok(()),
        _ => Err(Error::TooLarge),
    }
}
