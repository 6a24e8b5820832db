//! Uploading a file while it is written.
//!
//! The pump of a file that is written in order sends its full parts, as they come, from the second on. The flush
//! that publishes the file has the upload handed over, and sends the rest and the first part. A write back
//! over what was sent abandons it.

use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::task::{JoinError, JoinSet};

use super::multipart::{PARALLEL_PARTS, plaintext};
use super::publish::Writeback;
use crate::base::error_chain::chain;
use crate::base::wait::until;
use crate::encrypted::EncryptedUpload;
use crate::files::attributes::headers_of;
use crate::files::parts;
use crate::fs::data::staging::Snapshot;
use crate::fs::error::{Error, Result};
use crate::fs::handles::file_state::{Handover, Stream};
use crate::fs::handles::open_file::{OpenFile, State};
use crate::fs::namespace::object_name;
use crate::store::object_store::ByteRange;

enum Next {
    Part(Snapshot, ByteRange),
    Handover(oneshot::Sender<Handover>),
    Stop,
    Wait,
}

impl State {
    fn is_stream(&self, stream: u64) -> bool {
        matches!(self.stream, Stream::Active { id, .. } if id == stream)
    }

    /// Whether all of it is staged, and nothing else uploads it.
    fn may_stream(&self) -> bool {
        let staged = self.data.staged.as_ref();
        !self.link.is_gone()
            && !self.upload.is_running()
            && staged.is_some_and(|staged| staged.base() == 0)
    }
}

fn part_ended(ended: std::result::Result<Result<()>, JoinError>) -> Result<()> {
    ended.unwrap_or_else(|_| Err(Error::io("a part was broken off")))
}

impl Writeback {
    /// After a write: begins to upload a file that is being written in order, or lets its stream look.
    pub(crate) fn keep_streaming(self: &Arc<Self>, file: &Arc<OpenFile>, state: &mut State) {
        match &state.stream {
            Stream::Active { .. } => file.moved.notify_waiters(),
            Stream::Possible => {
                let Some(staged) = &state.data.staged else {
                    return;
                };
                // Below a whole first part there is nothing that could be sent before the end.
                let least = self
                    .settings
                    .uploads
                    .stream_after
                    .max(self.settings.uploads.part_size);
                let begins = !self.bucket.format().has_sdk_names()
                    && staged.written_prefix() >= least
                    && state.may_stream();
                if begins {
                    let id = self.open_files.new_handle();
                    state.stream = Stream::Active {
                        sent_to: self.settings.uploads.part_size,
                        first_end: self.settings.uploads.part_size,
                        handover: None,
                        id,
                    };
                    let (writeback, file) = (self.clone(), file.clone());
                    self.tasks
                        .spawn(async move { writeback.pump(file, id).await });
                }
            }
            // The pump of one that was just abandoned is to end it.
            Stream::Over => file.moved.notify_waiters(),
        }
    }

    /// Sends full parts while the file is written on, until it is told to hand over or to stop.
    async fn pump(self: Arc<Self>, file: Arc<OpenFile>, id: u64) {
        match self.run_pump(&file, id).await {
            Ok(()) => {}
            Err(error) => {
                log::warn!(
                    "uploading {} while it is written failed; it will be uploaded whole: {}",
                    self.names.describe_place(file.ino),
                    chain(&error)
                );
                let mut state = file.lock();
                if state.is_stream(id) {
                    state.stream = Stream::Over;
                }
            }
        }
    }

    async fn run_pump(self: &Arc<Self>, file: &Arc<OpenFile>, id: u64) -> Result<()> {
        let xattrs = file.lock().xattrs.clone();
        let (key, local) = {
            let namespace = self.names.lock();
            let local = namespace.local(file.ino).cloned();
            namespace.key(file.ino).zip(local).ok_or(Error::Stale)?
        };
        let name = object_name::object_key(key.clone())?;
        let headers = headers_of(&local.attributes);
        let begun = self.bucket.begin_upload(&name, headers, xattrs.as_deref());
        let upload = Arc::new(begun.await?);
        let mut sending = JoinSet::new();
        let fed = self.feed(file, id, &upload, &mut sending).await;
        sending.shutdown().await;
        let upload =
            Arc::into_inner(upload).ok_or_else(|| Error::io("an upload is still in use"))?;
        match fed {
            Ok(Some((handover, sent_to, next_part))) => {
                let unwanted = handover.send(Handover {
                    upload,
                    key,
                    xattrs,
                    revision: local.revision,
                    ctime: local.attributes.ctime,
                    sent_to,
                    next_part,
                });
                if let Err(unwanted) = unwanted {
                    self.abort(unwanted.upload);
                }
                Ok(())
            }
            Ok(None) => {
                self.abort(upload);
                Ok(())
            }
            Err(error) => {
                self.abort(upload);
                Err(error)
            }
        }
    }

    /// Sends parts until it is told to hand over: then to whom, up to where parts were sent, and the number
    /// of the next. None: it was told to stop.
    async fn feed(
        self: &Arc<Self>,
        file: &Arc<OpenFile>,
        id: u64,
        upload: &Arc<EncryptedUpload>,
        sending: &mut JoinSet<Result<()>>,
    ) -> Result<Option<(oneshot::Sender<Handover>, u64, u16)>> {
        let mut sent_to = self.settings.uploads.part_size;
        let mut number: u16 = 2;
        let handover = loop {
            let in_flight = sending.len();
            let next = until(&file.moved, || {
                match self.next_part(file, id, sent_to, number, in_flight) {
                    Next::Wait => None,
                    next => Some(next),
                }
            });
            let next = tokio::select! {
                biased;
                next = next => next,
                Some(ended) = sending.join_next() => {
                    part_ended(ended)?;
                    continue;
                }
            };
            match next {
                Next::Part(snapshot, range) => {
                    let plain = plaintext(snapshot.clone(), None);
                    let upload = upload.clone();
                    sent_to = range.end;
                    let part = number;
                    number += 1;
                    sending.spawn(async move {
                        upload.part(part, range, &plain).await?;
                        snapshot.sent();
                        Ok(())
                    });
                }
                Next::Handover(sender) => break sender,
                Next::Stop => return Ok(None),
                Next::Wait => {}
            }
        };
        while let Some(ended) = sending.join_next().await {
            part_ended(ended)?;
        }
        Ok(Some((handover, sent_to, number)))
    }

    fn next_part(
        &self,
        file: &OpenFile,
        id: u64,
        sent_to: u64,
        number: u16,
        sending: usize,
    ) -> Next {
        let mut state = file.lock();
        if state.link.is_gone() || !state.is_stream(id) {
            return Next::Stop;
        }
        let State { stream, data, .. } = &mut *state;
        let Stream::Active {
            sent_to: frozen,
            handover,
            ..
        } = stream
        else {
            return Next::Stop;
        };
        if let Some(sender) = handover.take() {
            return Next::Handover(sender);
        }
        let Some(staged) = &mut data.staged else {
            return Next::Stop;
        };
        let range =
            sent_to..sent_to + parts::growing(self.settings.uploads.part_size, number.into());
        // A part is sent when something follows it: the last one goes with the rest at the end.
        if sending >= PARALLEL_PARTS || staged.len() <= range.end || !staged.is_written(&range) {
            return Next::Wait;
        }
        *frozen = range.end;
        Next::Part(staged.snapshot_of(range.clone()), range)
    }
}
