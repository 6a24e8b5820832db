//! The service as an [`ObjectStore`]: every call is one of the client's, in other words.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures_util::StreamExt;
use log::warn;

use super::error::Error;
use super::listing::{self, PageToken, RawObject, RawPage};
use super::log_limit::LogLimit;
use super::object_store::{
    Body, BucketInfo, ByteRange, CopyHeaders, ETag, GetAnswer, ListPage, ListRequest,
    ObjectHeaders, ObjectKey, ObjectMeta, ObjectStore, Overwrite, PendingUpload, PutAnswer, Result,
    UploadId, UploadedPart,
};
use crate::base::error_chain::{Cause, chain};
use crate::oss;
use crate::oss::client::Client;
use crate::oss::error::Kind;
use crate::oss::operations::Directive;
use crate::oss::types::{HeadersRef, ListQuery, ObjectInfo, Part, Stored};

const REFUSED_LOG_INTERVAL: Duration = Duration::from_secs(60);

/// A bucket of the service.
#[derive(Clone)]
pub struct OssStore {
    client: Client,
    hidden: listing::Hidden,
    refused: Arc<LogLimit>,
}

impl OssStore {
    pub fn new(client: Client) -> OssStore {
        OssStore {
            client,
            hidden: listing::Hidden::default(),
            refused: Arc::default(),
        }
    }

    /// As [`error`](Self::error), of an object or of a prefix. A refusal is worth a line in the log: programs
    /// show "permission denied" at most, and what to do about it is in the service's answer. A mount without
    /// the right to read would fill the log: one line a minute.
    fn failed(&self, about: &str, error: oss::error::Error) -> Error {
        if error.kind() == Kind::AccessDenied
            && self.refused.admits(Instant::now(), REFUSED_LOG_INTERVAL)
        {
            warn!(
                "{}, \"{}\": {}",
                self.name(),
                about.escape_debug(),
                chain(&error)
            );
        }
        self.error(error)
    }

    fn error(&self, error: oss::error::Error) -> Error {
        match error {
            oss::error::Error::InvalidName(name) => Error::InvalidName(name),
            // A body made above this floor fails in this floor's words.
            oss::error::Error::Source(cause) => match cause.downcast_ref::<Error>() {
                Some(error) => error.clone(),
                None => Error::Other(cause),
            },
            error => {
                let kind = error.kind();
                let cause: Cause = Arc::new(error);
                match kind {
                    Kind::NotFound => Error::NotFound,
                    Kind::NoSuchBucket => Error::NoSuchBucket(self.client.bucket().to_owned()),
                    Kind::NoSuchUpload => Error::NoSuchUpload,
                    Kind::PreconditionFailed => Error::PreconditionFailed,
                    Kind::AlreadyExists => Error::AlreadyExists,
                    Kind::InvalidRange => Error::InvalidRange,
                    Kind::InvalidName => Error::InvalidName(cause.to_string()),
                    Kind::AccessDenied => Error::AccessDenied(cause),
                    Kind::Archived => Error::Archived(cause),
                    Kind::Immutable => Error::Immutable(cause),
                    Kind::TooLarge => Error::TooLarge(cause),
                    Kind::Quota => Error::Quota(cause),
                    Kind::NoSpace => Error::NoSpace(cause),
                    Kind::EncryptionRule => Error::EncryptionRule(cause),
                    Kind::Unsupported => Error::Unsupported(cause),
                    Kind::Misconfigured => Error::Misconfigured(cause),
                    Kind::TimedOut => Error::TimedOut(cause),
                    Kind::Unavailable => Error::Unavailable(cause),
                    Kind::Corrupt => Error::Corrupt(cause),
                    Kind::Other => Error::Other(cause),
                }
            }
        }
    }

    fn put_answer(stored: Stored) -> PutAnswer {
        PutAnswer {
            etag: ETag::new(stored.etag),
            crc64: stored.crc64,
            date: stored.date,
        }
    }

    fn uploaded(part: Part) -> UploadedPart {
        UploadedPart {
            number: part.number,
            etag: ETag::new(part.etag),
            crc64: part.crc64,
            size: part.size,
        }
    }
}

/// An object in this floor's words.
pub(crate) fn meta(info: ObjectInfo) -> ObjectMeta {
    ObjectMeta {
        size: info.size,
        etag: ETag::new(info.etag),
        last_modified: info.last_modified,
        headers: ObjectHeaders {
            user: info.user,
            content_type: info.content_type,
            standard: info.standard,
            storage_class: info.storage_class,
        },
        crc64: info.crc64,
        date: info.date,
    }
}

/// A page in this floor's words, still unchecked.
pub(crate) fn raw_page(page: oss::types::Page) -> RawPage {
    let date = page.date;
    let objects = page.objects.into_iter().map(|object| RawObject {
        key: object.key,
        size: object.size,
        etag: ETag::new(object.etag),
        last_modified: object.last_modified.unwrap_or(date),
        storage_class: object.storage_class,
    });
    RawPage {
        objects: objects.collect(),
        prefixes: page.prefixes,
        next: page.next,
        date,
    }
}

fn headers_ref(headers: &ObjectHeaders) -> HeadersRef<'_> {
    HeadersRef {
        user: &headers.user,
        content_type: headers.content_type.as_deref(),
        standard: &headers.standard,
        storage_class: headers.storage_class.as_deref(),
    }
}

fn body(body: Body) -> oss::body::Body {
    oss::body::Body::new(body.len(), move || {
        let stream = body.open();
        stream
            .map(|piece| piece.map_err(|error| Arc::new(error) as Cause))
            .boxed()
    })
}

#[async_trait]
impl ObjectStore for OssStore {
    fn name(&self) -> String {
        format!("oss://{}", self.client.bucket())
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectMeta> {
        let info = self.client.head_object(key.as_str()).await;
        info.map(meta)
            .map_err(|error| self.failed(key.as_str(), error))
    }

    async fn get(
        &self,
        key: &ObjectKey,
        range: Option<ByteRange>,
        if_match: Option<&ETag>,
    ) -> Result<GetAnswer> {
        let download = self
            .client
            .get_object(key.as_str(), range, if_match.map(ETag::as_str))
            .await
            .map_err(|error| self.failed(key.as_str(), error))?;
        let store = self.clone();
        Ok(GetAnswer {
            meta: meta(download.info),
            range: download.range,
            body: download
                .body
                .map(move |piece| piece.map_err(|error| store.error(error)))
                .boxed(),
        })
    }

    async fn put(
        &self,
        key: &ObjectKey,
        headers: &ObjectHeaders,
        content: Body,
        overwrite: Overwrite,
    ) -> Result<PutAnswer> {
        let forbid = overwrite == Overwrite::Forbidden;
        self.client
            .put_object(key.as_str(), headers_ref(headers), body(content), forbid)
            .await
            .map(OssStore::put_answer)
            .map_err(|error| self.error(error))
    }

    async fn delete(&self, key: &ObjectKey) -> Result<()> {
        let done = self.client.delete_object(key.as_str()).await;
        done.map_err(|error| self.failed(key.as_str(), error))
    }

    async fn delete_many(&self, keys: &[ObjectKey]) -> Result<Vec<(ObjectKey, Error)>> {
        let names: Vec<&str> = keys.iter().map(ObjectKey::as_str).collect();
        let failed = self
            .client
            .delete_objects(&names)
            .await
            .map_err(|error| self.error(error))?;
        failed
            .into_iter()
            .map(|(key, error)| Ok((ObjectKey::new(key)?, self.error(error))))
            .collect()
    }

    async fn copy(
        &self,
        source: &ObjectKey,
        source_etag: &ETag,
        destination: &ObjectKey,
        headers: CopyHeaders,
        overwrite: Overwrite,
    ) -> Result<PutAnswer> {
        let directive = match &headers {
            CopyHeaders::Keep => Directive::Copy,
            CopyHeaders::Replace(headers) => Directive::Replace(headers_ref(headers)),
        };
        self.client
            .copy_object(
                source.as_str(),
                source_etag.as_str(),
                destination.as_str(),
                directive,
                overwrite == Overwrite::Forbidden,
            )
            .await
            .map(OssStore::put_answer)
            .map_err(|error| self.failed(destination.as_str(), error))
    }

    async fn list(&self, request: &ListRequest) -> Result<ListPage> {
        let query = ListQuery {
            prefix: &request.prefix,
            delimiter: request.delimited.then_some("/"),
            start_after: match &request.token {
                Some(_) => None,
                None => request.start_after.as_deref(),
            },
            continuation_token: request.token.as_ref().map(PageToken::as_str),
            max_keys: request.max_keys,
        };
        let page = self.client.list_objects(&query).await;
        let page = page.map_err(|error| self.failed(&request.prefix, error))?;
        listing::check(request, raw_page(page), &self.hidden)
    }

    async fn create_multipart(&self, key: &ObjectKey, headers: &ObjectHeaders) -> Result<UploadId> {
        let id = self
            .client
            .initiate_multipart(key.as_str(), headers_ref(headers))
            .await;
        id.map(UploadId).map_err(|error| self.error(error))
    }

    async fn upload_part(
        &self,
        key: &ObjectKey,
        upload: &UploadId,
        number: u16,
        content: Body,
    ) -> Result<UploadedPart> {
        self.client
            .upload_part(key.as_str(), &upload.0, number, body(content))
            .await
            .map(OssStore::uploaded)
            .map_err(|error| self.error(error))
    }

    async fn copy_part(
        &self,
        key: &ObjectKey,
        upload: &UploadId,
        number: u16,
        source: &ObjectKey,
        source_etag: &ETag,
        range: ByteRange,
    ) -> Result<UploadedPart> {
        self.client
            .copy_part(
                key.as_str(),
                &upload.0,
                number,
                source.as_str(),
                source_etag.as_str(),
                range,
            )
            .await
            .map(OssStore::uploaded)
            .map_err(|error| self.error(error))
    }

    async fn complete_multipart(
        &self,
        key: &ObjectKey,
        upload: &UploadId,
        parts: &[UploadedPart],
        overwrite: Overwrite,
    ) -> Result<PutAnswer> {
        let parts: Vec<Part> = parts
            .iter()
            .map(|part| Part {
                number: part.number,
                etag: part.etag.as_str().to_owned(),
                crc64: part.crc64,
                size: part.size,
            })
            .collect();
        let forbid = overwrite == Overwrite::Forbidden;
        self.client
            .complete_multipart(key.as_str(), &upload.0, &parts, forbid)
            .await
            .map(OssStore::put_answer)
            .map_err(|error| self.error(error))
    }

    async fn abort_multipart(&self, key: &ObjectKey, upload: &UploadId) -> Result<()> {
        let done = self.client.abort_multipart(key.as_str(), &upload.0).await;
        done.map_err(|error| self.error(error))
    }

    async fn list_uploads(&self, prefix: &str) -> Result<Vec<PendingUpload>> {
        let uploads = self.client.list_uploads(prefix).await;
        Ok(uploads
            .map_err(|error| self.error(error))?
            .into_iter()
            .map(|upload| PendingUpload {
                key: upload.key,
                upload: UploadId(upload.id),
                initiated: upload.initiated,
            })
            .collect())
    }

    async fn bucket_info(&self) -> Result<BucketInfo> {
        let info = self.client.bucket_info().await;
        let info = info.map_err(|error| self.error(error))?;
        Ok(BucketInfo {
            region: info.region,
            versioned: info.versioned,
            hierarchical: info.hierarchical,
        })
    }
}
