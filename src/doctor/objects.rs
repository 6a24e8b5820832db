//! What may be done with objects, and whether the service keeps the promises that a mount builds on: preconditions,
//! copies with other metadata, multipart uploads.

use bytes::Bytes;
use futures_util::TryStreamExt;

use super::check::Checks;
use super::scratch::Scratch;
use crate::base::error_chain::chain;
use crate::crypto::random;
use crate::store::error::{Error, Result};
use crate::store::object_store::{
    Body, CopyHeaders, CopyRequest, ETag, ListedObject, ObjectHeaders, ObjectKey, ObjectStore,
    Overwrite,
};

/// What a mount is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    ReadWrite,
    /// Nothing is written.
    ReadOnly,
    /// There is no private key: a mount works without reading.
    WriteOnly,
}

/// Those that need an object that was just written.
const OF_WRITTEN: [&str; 5] = [
    "forbid-overwrite",
    "if-match",
    "copy",
    "multipart",
    "delete",
];

/// Of the object that is written, in bytes.
const SIZE: usize = 4096;

/// The name of the metadata that a copy sets.
const NOTE: &str = "ossvault-doctor";

pub(super) async fn check(
    checks: &mut Checks<'_>,
    store: &dyn ObjectStore,
    scratch: &Scratch,
    listed: &[ListedObject],
    usage: Use,
) {
    let there = listed.iter().find(|object| object.size > 0);
    let there = there.and_then(|object| ObjectKey::new(object.key.as_str()).ok());
    if usage == Use::ReadOnly {
        const WHY: &str = "with --read-only nothing is written";
        checks.skip("put", WHY);
        read(checks, store, there.as_ref(), None, usage).await;
        checks.skip_all(&OF_WRITTEN, WHY);
        return;
    }
    let mut content = vec![0; SIZE];
    random::fill(&mut content);
    let content = Bytes::from(content);
    let written = async {
        let key = scratch.key("object")?;
        let headers = ObjectHeaders::default();
        let body = Body::from_bytes(content.clone());
        let put = store.put(&key, &headers, body, Overwrite::Allowed).await?;
        Ok((key, put.etag))
    };
    let written: Result<(ObjectKey, ETag)> = written.await;
    let (key, etag) = match written {
        Ok(written) => written,
        Err(error) => {
            refused(checks, "put", &error, "oss:PutObject");
            read(checks, store, there.as_ref(), None, usage).await;
            checks.skip_all(&OF_WRITTEN, "put failed");
            return;
        }
    };
    checks.ok("put", "allowed");
    read(checks, store, Some(&key), Some(&content), usage).await;
    forbid_overwrite(checks, store, &key, &content).await;
    if_match(checks, store, &key).await;
    copy(checks, store, &key, &etag, usage).await;
    multipart(checks, store, scratch).await;
    delete(checks, store, &key).await;
}

fn refused(checks: &mut Checks<'_>, name: &'static str, error: &Error, actions: &str) {
    let remedy = match error {
        Error::AccessDenied(_) => {
            format!("allow {actions} on the bucket's objects (docs/permissions.md)")
        }
        Error::Quota(_) => "raise the quota of the bucket or the account".to_owned(),
        Error::Immutable(_) => {
            "a retention policy keeps objects as they are: use another bucket or prefix".to_owned()
        }
        _ => {
            "see what the service says; a service that is not OSS may lack the operation".to_owned()
        }
    };
    checks.fail(name, chain(error), remedy);
}

/// HEAD, and GET of a part. `content` is the object's, if it is known.
async fn read(
    checks: &mut Checks<'_>,
    store: &dyn ObjectStore,
    key: Option<&ObjectKey>,
    content: Option<&Bytes>,
    usage: Use,
) {
    let Some(key) = key else {
        checks.skip_all(&["head", "get"], "there is no object to read");
        return;
    };
    let needless =
        |error: &Error| usage == Use::WriteOnly && matches!(error, Error::AccessDenied(_));
    const WITHOUT: &str = "refused, which a mount with only the public key can live with: attributes of existing objects are not shown";
    const TO_READ: &str =
        "allow oss:GetObject to show attributes and to rename and change existing objects";
    let size = match store.head(key).await {
        Ok(meta) => {
            let wrong = content.is_some_and(|content| content.len() as u64 != meta.size);
            match wrong {
                false => checks.ok("head", "allowed"),
                true => checks.fail(
                    "head",
                    format!("an object of {SIZE} bytes is said to have {}", meta.size),
                    "something between this machine and the service changes answers: a proxy?",
                ),
            }
            meta.size
        }
        Err(error) if needless(&error) => {
            checks.warn("head", WITHOUT, TO_READ);
            return checks.skip("get", "head is refused");
        }
        Err(error) => {
            refused(checks, "head", &error, "oss:GetObject");
            return checks.skip("get", "head failed");
        }
    };
    let range = size / 4..size.min(size / 4 + 1024);
    let got = async {
        let answer = store.get(key, Some(range.clone()), None).await?;
        let pieces: Vec<Bytes> = answer.body.try_collect().await?;
        Ok(pieces.concat())
    };
    let got: Result<Vec<u8>> = got.await;
    match (got, content) {
        (Ok(bytes), Some(content))
            if bytes != content[range.start as usize..range.end as usize] =>
        {
            checks.fail(
                "get",
                "a range of the object came back other than it was written",
                "something between this machine and the service changes contents or ignores ranges: a proxy?",
            );
        }
        (Ok(_), _) => checks.ok("get", "allowed, and ranges are right"),
        (Err(error), _) if needless(&error) => checks.warn("get", WITHOUT, TO_READ),
        (Err(error), _) => refused(checks, "get", &error, "oss:GetObject"),
    }
}

/// What creating a file exclusively relies on.
async fn forbid_overwrite(
    checks: &mut Checks<'_>,
    store: &dyn ObjectStore,
    key: &ObjectKey,
    content: &Bytes,
) {
    const NAME: &str = "forbid-overwrite";
    let headers = ObjectHeaders::default();
    let body = Body::from_bytes(content.clone());
    match store.put(key, &headers, body, Overwrite::Forbidden).await {
        Err(Error::AlreadyExists) => checks.ok(NAME, "an object that exists is not overwritten"),
        Ok(_) if checks.verdict("versioning") == Some(super::check::Verdict::Warning) => checks.warn(
            NAME,
            "x-oss-forbid-overwrite is ignored, as in every bucket that has or had versioning",
            "two clients that create one file at the same moment may overwrite each other: use a bucket without versioning",
        ),
        Ok(_) => checks.fail(
            NAME,
            "an object was overwritten although the request forbade that",
            "files that must not be overwritten could be: use a service that respects x-oss-forbid-overwrite",
        ),
        Err(error) => refused(checks, NAME, &error, "oss:PutObject"),
    }
}

/// What keeps versions of a file from being mixed.
async fn if_match(checks: &mut Checks<'_>, store: &dyn ObjectStore, key: &ObjectKey) {
    const NAME: &str = "if-match";
    if !checks.is_ok("get") {
        return checks.skip(NAME, "get failed");
    }
    let other = ETag::new("\"00000000000000000000000000000000\"");
    let answer = store.get(key, Some(0..1), Some(&other)).await;
    let copied = store
        .copy(&CopyRequest {
            source: key.clone(),
            source_etag: other,
            destination: key.clone(),
            headers: CopyHeaders::Keep,
            overwrite: Overwrite::Allowed,
        })
        .await;
    match (answer.map(drop), copied.map(drop)) {
        (Err(Error::PreconditionFailed), Err(Error::PreconditionFailed)) => {
            checks.ok(NAME, "reads and copies of another version are refused");
        }
        (Ok(()), _) => checks.fail(
            NAME,
            "If-Match is ignored: a version was read that the request did not ask for",
            "a file that is replaced while it is read could be mixed from two versions: use a service that respects If-Match",
        ),
        (_, Ok(())) => checks.fail(
            NAME,
            "x-oss-copy-source-if-match is ignored: a version was copied that the request did not ask for",
            "a change of attributes could bring an old version back: use a service that respects the header",
        ),
        (Err(Error::PreconditionFailed), Err(_)) => {
            checks.ok(NAME, "reads of another version are refused");
        }
        (Err(error), _) => refused(checks, NAME, &error, "oss:GetObject"),
    }
}

/// How attributes are changed and files are renamed.
async fn copy(
    checks: &mut Checks<'_>,
    store: &dyn ObjectStore,
    key: &ObjectKey,
    etag: &ETag,
    usage: Use,
) {
    const NAME: &str = "copy";
    let mut headers = ObjectHeaders::default();
    headers.user.insert(NOTE.to_owned(), "1".to_owned());
    let copied = store
        .copy(&CopyRequest {
            source: key.clone(),
            source_etag: etag.clone(),
            destination: key.clone(),
            headers: CopyHeaders::Replace(headers),
            overwrite: Overwrite::Allowed,
        })
        .await;
    match copied {
        Ok(_) if checks.is_ok("head") => match store.head(key).await {
            Ok(meta) if meta.headers.user.contains_key(NOTE) => {
                checks.ok(NAME, "allowed, with other metadata");
            }
            Ok(_) => checks.fail(
                NAME,
                "a copy onto itself did not change the object's metadata",
                "modes, owners and times could not be stored: use a service that respects x-oss-metadata-directive",
            ),
            Err(error) => refused(checks, NAME, &error, "oss:GetObject"),
        },
        Ok(_) => checks.ok(NAME, "allowed"),
        Err(error @ Error::AccessDenied(_)) if usage == Use::WriteOnly => checks.warn(
            NAME,
            format!("existing objects cannot be renamed or changed: {}", chain(&error)),
            "a mount with only the public key works without; otherwise allow oss:GetObject",
        ),
        Err(error) => refused(checks, NAME, &error, "oss:GetObject and oss:PutObject"),
    }
}

/// How large files are written.
async fn multipart(checks: &mut Checks<'_>, store: &dyn ObjectStore, scratch: &Scratch) {
    const NAME: &str = "multipart";
    let whole = async {
        let key = scratch.key("parts")?;
        let headers = ObjectHeaders::default();
        let upload = store.create_multipart(&key, &headers).await?;
        scratch.began(&key, &upload);
        let body = Body::from_bytes(Bytes::from(vec![1; SIZE]));
        let part = store.upload_part(&key, &upload, 1, body).await?;
        let parts = [part];
        store
            .complete_multipart(&key, &upload, &parts, Overwrite::Allowed)
            .await
    };
    if let Err(error) = whole.await {
        return refused(checks, NAME, &error, "oss:PutObject");
    }
    let given_up = async {
        let key = scratch.key("given-up")?;
        let upload = store
            .create_multipart(&key, &ObjectHeaders::default())
            .await?;
        scratch.began(&key, &upload);
        store.abort_multipart(&key, &upload).await
    };
    match given_up.await {
        Ok(()) => checks.ok(NAME, "parts are uploaded, completed and given up"),
        Err(error) => checks.warn(
            NAME,
            format!("uploads that are given up leave parts behind, which are billed: {}", chain(&error)),
            "allow oss:AbortMultipartUpload, or add a lifecycle rule that removes parts after some days",
        ),
    }
}

async fn delete(checks: &mut Checks<'_>, store: &dyn ObjectStore, key: &ObjectKey) {
    const NAME: &str = "delete";
    if let Err(error) = store.delete(key).await {
        return refused(checks, NAME, &error, "oss:DeleteObject");
    }
    match store.head(key).await {
        Ok(_) => checks.fail(
            NAME,
            "an object is there after it was deleted",
            "something between this machine and the service caches answers: a proxy or a CDN?",
        ),
        Err(_) => checks.ok(NAME, "allowed"),
    }
}
