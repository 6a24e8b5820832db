//! Open files whose object is about to go: what their handles may still read is kept.
//!
//! What is staged stays. A clean object is read into staging if it fits, and else copied aside inside the
//! bucket, until its last handle is closed.

use std::sync::Arc;
use std::time::Instant;

use super::open_file::OpenFile;
use super::open_files::OpenFiles;
use crate::fs::data::content::Content;
use crate::fs::data::staging::StagedFile;
use crate::fs::error::{Error, Result};
use crate::fs::namespace::object_name;
use crate::store::object_store::{CopyHeaders, Overwrite};

impl OpenFiles {
    /// Makes what handles of a clean file may still read independent of its object, which is about to go:
    /// its bytes are staged, or, when they are many, the object is copied aside. False: others have replaced
    /// the object, and there is nothing left to preserve.
    pub(crate) async fn preserve(self: &Arc<Self>, file: &Arc<OpenFile>) -> Result<bool> {
        let content = {
            let state = file.lock();
            if state.refs.handles == 0 || (state.data.staged.is_some() && !state.needs_base()) {
                return Ok(true);
            }
            match &state.data.base {
                Some(content) if content.size() > 0 && self.bucket.can_read() => content.clone(),
                _ => return Ok(true),
            }
        };
        let largest = self.settings.memory_limit / 4;
        if content.size() <= largest {
            match self.stage_whole(file, &content).await {
                Ok(()) => return Ok(true),
                Err(Error::Stale) => return Ok(false),
                Err(Error::NoSpace) => {}
                Err(error) => return Err(error),
            }
        }
        let Some(key) = self.names.lock().key(file.ino) else {
            return Ok(true);
        };
        let key = object_name::object_key(key)?;
        let aside = self.this_mount.key_of_ours("aside/").await?;
        let described = self
            .cache
            .headers(&key, &content.etag(), Instant::now())
            .await?;
        let answer = self
            .objects
            .copy_object(
                &key,
                &described.meta,
                &aside,
                CopyHeaders::Keep,
                Overwrite::Allowed,
            )
            .await?;
        if let Ok(object) = &described.object {
            content.set_object(aside.clone(), object.with_etag(answer.etag));
        }
        file.lock().aside = Some(aside);
        Ok(true)
    }

    /// Reads all of a version into staging, below what was written.
    async fn stage_whole(
        self: &Arc<Self>,
        file: &Arc<OpenFile>,
        content: &Arc<Content>,
    ) -> Result<()> {
        let reader = content.reader();
        let staged_already = file.lock().data.staged.is_some();
        if !staged_already {
            let mut staged = StagedFile::new(&self.staging, None);
            self.fill(&mut staged, &reader, 0..content.size()).await?;
            let mut state = file.lock();
            // A newer version than the one that was read may be there by now, or one that is being written.
            if state.data.staged.is_none() && state.rests_on(content) {
                state.data.staged = Some(staged);
            }
            return Ok(());
        }
        loop {
            let gap = {
                let state = file.lock();
                let Some(staged) = &state.data.staged else {
                    return Ok(());
                };
                staged.base_gaps(0..staged.len()).into_iter().next()
            };
            let Some(gap) = gap else { return Ok(()) };
            let step = gap.start..gap.end.min(gap.start + (1 << 20));
            let bytes = reader.read(step.clone()).await?;
            if bytes.is_empty() {
                return Err(Error::io("the object ended early"));
            }
            loop {
                let room = match &file.lock().data.staged {
                    Some(staged) => staged.room_for(step.start, bytes.len()),
                    None => return Ok(()),
                };
                let room = room.await?;
                let mut state = file.lock();
                let Some(staged) = &mut state.data.staged else {
                    return Ok(());
                };
                // Written over meanwhile: that counts more.
                let still_gap = staged.base_gaps(step.clone()) == [step.clone()];
                if !still_gap || staged.write_with(step.start, &bytes, room).is_ok() {
                    break;
                }
            }
        }
    }
}
