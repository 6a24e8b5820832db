//! What uploads have in common: what they read, the parts they are sent in, and how they are given up.

use std::sync::Arc;
use std::time::SystemTime;

use futures_util::stream::{self, StreamExt, TryStreamExt};

use super::attributes::Attributes;
use super::content::{self, Content};
use super::error::{Error, Result};
use super::filesystem::Filesystem;
use super::listing::{Known, Object};
use super::open_file::OpenFile;
use super::staging::{BaseReader, Snapshot};
use crate::base::sync::lock;
use crate::base::time::unix_seconds;
use crate::base::wait::until;
use crate::encrypted::{self, EncryptedUpload, Plaintext, Uploaded};
use crate::store::error::Error as StoreError;
use crate::store::object_store::{ByteRange, ETag, ObjectHeaders, ObjectMeta, Overwrite};

/// Parts of one upload in flight. Eight of 8 MiB give a gigabyte a second where each is answered 20 ms
/// after its last byte; four give 0.8.
pub(super) const PARALLEL_PARTS: usize = 8;

impl Filesystem {
    /// Sends parts, several at once, then the first, and ends the upload. One that fails is aborted.
    pub(super) async fn send_parts(
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

    /// Gives an upload up. Whoever waits for the error that led to it does not wait for this as well.
    pub(super) fn abort(&self, upload: EncryptedUpload) {
        let abort = async move {
            match upload.abort().await {
                // The call that failed had its effect after all.
                Ok(()) | Err(encrypted::Error::Store(StoreError::NoSuchUpload)) => {}
                Err(error) => log::warn!(
                    "an unfinished upload of {} is left in the bucket: {error}",
                    upload.key()
                ),
            }
        };
        self.spawn_upload(abort);
    }

    pub(super) fn spawn_upload(&self, work: impl Future<Output = ()> + Send + 'static) {
        let mut uploads = lock(&self.uploads);
        while uploads.try_join_next().is_some() {}
        uploads.spawn_on(work, &self.runtime);
    }

    /// Waits until no stream goes on any more, and nothing is being given up. When every file is published,
    /// or was given up on, they all come to an end.
    pub(super) async fn uploads_ended(&self) {
        loop {
            // Streams give up uploads at their end.
            let mut uploads = std::mem::take(&mut *lock(&self.uploads));
            if uploads.is_empty() {
                return;
            }
            while uploads.join_next().await.is_some() {}
        }
    }
}

/// Breaks off what has no effect by itself when the file is unlinked: the object would be deleted next.
async fn unless_gone(
    file: &OpenFile,
    work: impl Future<Output = encrypted::Result<()>>,
) -> Result<()> {
    let gone = until(&file.moved, || file.lock().gone.then_some(()));
    tokio::select! {
        // A file that is gone already lets nothing begin.
        biased;
        () = gone => Err(Error::NotFound),
        result = work => Ok(result?),
    }
}

/// What an upload reads: the snapshot over the base it was made on.
pub(super) fn plaintext(snapshot: Snapshot, base: Option<Arc<Content>>) -> Plaintext {
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

/// The headers of a new object.
pub(super) fn headers_of(attributes: &Attributes) -> ObjectHeaders {
    let mut headers = ObjectHeaders {
        content_type: Some("application/octet-stream".to_owned()),
        ..ObjectHeaders::default()
    };
    attributes.write(&mut headers.user);
    headers
}

/// What a HEAD would say of an object that was just uploaded.
pub(super) fn meta_of(uploaded: &Uploaded) -> ObjectMeta {
    ObjectMeta {
        size: uploaded.object.size,
        etag: uploaded.object.etag.clone(),
        last_modified: uploaded.date,
        headers: uploaded.headers.clone(),
        crc64: uploaded.object.crc64,
        date: uploaded.date,
    }
}

/// An object of ours as its upload's answer shows it.
pub(super) fn object_of_ours(
    size: u64,
    etag: ETag,
    date: SystemTime,
    attributes: &Attributes,
    xattrs: bool,
) -> Object {
    Object {
        size,
        etag,
        last_modified: unix_seconds(date),
        ours: true,
        known: Some(Arc::new(Known {
            attributes: attributes.clone(),
            settled: false,
            xattrs,
        })),
    }
}
