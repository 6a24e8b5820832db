//! An upload in parts: what it reads, how the parts are sent, and how it is given up.

use std::future::Future;
use std::sync::Arc;

use futures_util::stream::{self, StreamExt, TryStreamExt};

use super::publish::Writeback;
use crate::base::wait::until;
use crate::encrypted::{self, EncryptedUpload, Plaintext, Uploaded};
use crate::fs::data::content::{self, Content};
use crate::fs::data::staging::{BaseReader, Snapshot};
use crate::fs::error::{Error, Result};
use crate::fs::handles::open_file::OpenFile;
use crate::store::error::Error as StoreError;
use crate::store::object_store::{ByteRange, Overwrite};

/// Parts of one upload in flight. Eight of 8 MiB give a gigabyte a second where each is answered 20 ms
/// after its last byte; four give 0.8.
pub(crate) const PARALLEL_PARTS: usize = 8;

/// Breaks off what has no effect by itself when the file is unlinked: the object would be deleted next.
async fn unless_gone(
    file: &OpenFile,
    work: impl Future<Output = encrypted::Result<()>>,
) -> Result<()> {
    let gone = until(&file.moved, || file.lock().link.is_gone().then_some(()));
    tokio::select! {
        // A file that is gone already lets nothing begin.
        biased;
        () = gone => Err(Error::NotFound),
        result = work => Ok(result?),
    }
}

/// What an upload reads: the snapshot over the base it was made on.
pub(crate) fn plaintext(snapshot: Snapshot, base: Option<Arc<Content>>) -> Plaintext {
    let base = base.map(base_reader);
    Plaintext::new(snapshot.len(), move |range| {
        snapshot.stream(range, base.clone())
    })
}

/// Reads ranges of an object's content for an upload over it.
fn base_reader(content: Arc<Content>) -> BaseReader {
    /// What is read at a time, in bytes.
    const STEP: u64 = 1 << 20;
    Arc::new(move |range: ByteRange| {
        let reader = content.reader();
        stream::try_unfold((reader, range), |(reader, range)| async move {
            if range.is_empty() {
                return Ok(None);
            }
            let step = range.start..range.end.min((range.start / STEP + 1) * STEP);
            let bytes = reader
                .read(step.clone())
                .await
                .map_err(|error| match error {
                    content::Error::Changed => StoreError::PreconditionFailed,
                    error => StoreError::Other(Arc::new(error)),
                })?;
            if bytes.len() as u64 != step.end - step.start {
                return Err(StoreError::other(std::io::Error::other(
                    "the base ended early",
                )));
            }
            Ok(Some((bytes, (reader, step.end..range.end))))
        })
        .boxed()
    })
}

impl Writeback {
    /// Sends parts, several at once, then the first, and ends the upload. One that fails is aborted.
    pub(crate) async fn send_parts(
        &self,
        file: &OpenFile,
        upload: EncryptedUpload,
        rest: Vec<(u16, ByteRange)>,
        first: ByteRange,
        plain: &Plaintext,
        overwrite: Overwrite,
    ) -> Result<Uploaded> {
        let sending = async {
            // The content is final here, so the first part need not wait for the others to end.
            stream::iter(rest.into_iter().chain([(1, first)]))
                .map(|(number, range)| upload.part(number, range, plain))
                .buffer_unordered(PARALLEL_PARTS)
                .try_collect::<()>()
                .await
        };
        let result = match unless_gone(file, sending).await {
            Ok(()) => upload.complete(overwrite).await.map_err(Error::from),
            Err(error) => Err(error),
        };
        if result.is_err() {
            self.abort(upload);
        }
        result
    }

    /// Gives an upload up, in the background: the error that led to it is returned without waiting for this.
    pub(crate) fn abort(&self, upload: EncryptedUpload) {
        let abort = async move {
            match upload.abort().await {
                // The call that failed had its effect after all.
                Ok(()) | Err(encrypted::Error::Store(StoreError::NoSuchUpload)) => {}
                Err(error) => log::warn!(
                    "cannot abort an unfinished upload of {}: {error}",
                    upload.key()
                ),
            }
        };
        self.tasks.spawn(abort);
    }
}
