//! The service as an [`ObjectStore`]: every call is one of the client's.

use async_trait::async_trait;

use super::object_store::{
    Body, BucketInfo, BucketStat, ByteRange, CopyPartRequest, CopyRequest, ETag, GetAnswer,
    ListPage, ListRequest, ObjectHeaders, ObjectKey, ObjectMeta, ObjectStore, Overwrite,
    PendingUpload, PutAnswer, Result, UploadId, UploadedPart,
};
use crate::object::error::Error;
use ossvault_oss::client::Client;

#[async_trait]
impl ObjectStore for Client {
    fn name(&self) -> String {
        format!("oss://{}", self.bucket())
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectMeta> {
        let meta = self.head_object(key.as_str()).await;
        meta.inspect_err(|error| self.log_refusal(key.as_str(), error))
    }

    async fn get(
        &self,
        key: &ObjectKey,
        range: Option<ByteRange>,
        if_match: Option<&ETag>,
    ) -> Result<GetAnswer> {
        let answer = self.get_object(key.as_str(), range, if_match).await;
        answer.inspect_err(|error| self.log_refusal(key.as_str(), error))
    }

    async fn put(
        &self,
        key: &ObjectKey,
        headers: &ObjectHeaders,
        body: Body,
        overwrite: Overwrite,
    ) -> Result<PutAnswer> {
        self.put_object(key.as_str(), headers, body, overwrite)
            .await
    }

    async fn delete(&self, key: &ObjectKey) -> Result<()> {
        let deleted = self.delete_object(key.as_str()).await;
        deleted.inspect_err(|error| self.log_refusal(key.as_str(), error))
    }

    async fn delete_many(&self, keys: &[ObjectKey]) -> Result<Vec<(ObjectKey, Error)>> {
        let names: Vec<&str> = keys.iter().map(ObjectKey::as_str).collect();
        let failed = self.delete_objects(&names).await?;
        failed
            .into_iter()
            .map(|(key, error)| Ok((ObjectKey::new(key)?, error)))
            .collect()
    }

    async fn copy(&self, request: &CopyRequest) -> Result<PutAnswer> {
        let copied = self.copy_object(request).await;
        copied.inspect_err(|error| self.log_refusal(request.destination.as_str(), error))
    }

    async fn list(&self, request: &ListRequest) -> Result<ListPage> {
        let page = self.list_objects(request).await;
        page.inspect_err(|error| self.log_refusal(&request.prefix, error))
    }

    async fn create_multipart(&self, key: &ObjectKey, headers: &ObjectHeaders) -> Result<UploadId> {
        self.initiate_multipart(key.as_str(), headers).await
    }

    async fn upload_part(
        &self,
        key: &ObjectKey,
        upload: &UploadId,
        number: u16,
        body: Body,
    ) -> Result<UploadedPart> {
        Client::upload_part(self, key, upload, number, body).await
    }

    async fn copy_part(&self, request: &CopyPartRequest) -> Result<UploadedPart> {
        Client::copy_part(self, request).await
    }

    async fn complete_multipart(
        &self,
        key: &ObjectKey,
        upload: &UploadId,
        parts: &[UploadedPart],
        overwrite: Overwrite,
    ) -> Result<PutAnswer> {
        Client::complete_multipart(self, key, upload, parts, overwrite).await
    }

    async fn abort_multipart(&self, key: &ObjectKey, upload: &UploadId) -> Result<()> {
        Client::abort_multipart(self, key, upload).await
    }

    async fn list_uploads(&self, prefix: &str) -> Result<Vec<PendingUpload>> {
        Client::list_uploads(self, prefix).await
    }

    async fn bucket_info(&self) -> Result<BucketInfo> {
        Client::bucket_info(self).await
    }

    async fn bucket_stat(&self) -> Result<Option<BucketStat>> {
        Client::bucket_stat(self).await.map(Some)
    }
}
