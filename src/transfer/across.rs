//! One object to another key: inside a bucket without its data passing through this machine, as a mount renames it;
//! between buckets decrypted and encrypted again on the way.

use std::sync::Arc;
use std::time::SystemTime;

use futures_util::stream::{StreamExt, TryStreamExt};

use super::compare::{Compare, Difference, Facts};
use super::content;
use super::entry::{Entry, Node, finding};
use super::failure::Failure;
use super::options::{Control, Options};
use crate::encrypted::{EncryptedBucket, Error, Plaintext};
use crate::envelope::format::is_bound_by_sdk_rules;
use crate::files::attributes::{Attributes, Timestamp};
use crate::store::error::Error as StoreError;
use crate::store::object_store::{
    Body, CopyHeaders, ListedObject, ObjectHeaders, ObjectKey, ObjectMeta, Overwrite,
};
use crate::tools::finding::{Finding, Grade};

/// How often an object is copied again that others replace meanwhile.
const TRIES: usize = 5;

pub(crate) struct Across {
    pub from: Arc<EncryptedBucket>,
    pub to: Arc<EncryptedBucket>,
    /// Both are the same bucket.
    pub inside: bool,
    /// Delete each source once it is copied.
    pub moves: bool,
    pub options: Options,
    pub control: Control,
}

impl Across {
    /// # Errors
    /// Errors that do not concern this object alone.
    pub(crate) async fn entry(
        &self,
        entry: Entry,
        key: String,
        there: Option<Entry>,
    ) -> Result<Vec<Finding>, StoreError> {
        let Node::Object(listed) = entry.node else {
            return Ok(Vec::new());
        };
        let there = there.and_then(|entry| entry.object().cloned());
        let named = ListedObject {
            key: key.clone(),
            ..listed.clone()
        };
        let done = match ObjectKey::new(key) {
            Ok(key) => {
                self.try_entry(&listed, &key, there, entry.is_directory)
                    .await
            }
            Err(_) => {
                let found = finding(named.key, named.size, Grade::Bad, "name-too-long");
                return Ok(vec![found]);
            }
        };
        Ok(vec![match done {
            Ok(outcome) => finding(named.key, named.size, Grade::Fine, outcome),
            Err(failure) => failure.found(&named, listed.key.as_ref())?,
        }])
    }

    async fn try_entry(
        &self,
        listed: &ListedObject,
        destination: &ObjectKey,
        there: Option<ListedObject>,
        is_directory: bool,
    ) -> Result<&'static str, Failure> {
        let source = ObjectKey::new(listed.key.as_str())?;
        let mut meta = None;
        if let Some(there) = &there
            && self.options.compare != Compare::Never
            && there.size == listed.size
        {
            // A copy has the tag of what it is a copy of.
            let same_tag = there.etag == listed.etag;
            if same_tag && !is_directory && there.last_modified >= listed.last_modified {
                return Ok("unchanged");
            }
            let ours = self.from.store().head(&source).await?;
            let theirs = self.to.store().head(destination).await?;
            let facts = |meta: &ObjectMeta| {
                let attributes = Attributes::read(meta, is_directory);
                Facts::of(&attributes, if is_directory { 0 } else { meta.size })
            };
            let compare = match self.options.compare {
                // Ciphertexts of one content differ: other tags say nothing.
                Compare::Checksum if same_tag => Compare::Quick,
                compare => compare,
            };
            let mut difference = facts(&ours).difference(&facts(&theirs), compare);
            if let Difference::Unknown(attributes) = difference {
                difference = match self.is_same(&source, &ours, destination, &theirs).await? {
                    false => Difference::Content,
                    true if attributes => Difference::Attributes,
                    true => Difference::None,
                };
            }
            if difference == Difference::None {
                return Ok("unchanged");
            }
            meta = Some(ours);
        }
        if self.options.dry_run {
            return Ok(match (is_directory, self.moves) {
                (true, _) => "would-make-directory",
                (false, true) => "would-move",
                (false, false) => "would-copy",
            });
        }
        let mut tries = 1;
        loop {
            let now = match meta.take() {
                Some(meta) => meta,
                None => self.from.store().head(&source).await?,
            };
            let copied = match (self.inside, is_directory) {
                (true, _) => self.copy(&source, &now, destination, is_directory).await,
                (false, true) => self.send_directory(&now, destination).await,
                (false, false) => self.send(&source, &now, destination).await,
            };
            match copied {
                Err(Failure::Object(Error::Store(StoreError::PreconditionFailed)))
                    if tries < TRIES =>
                {
                    tries += 1;
                }
                Err(failure) => return Err(failure),
                Ok(()) => {
                    if self.moves {
                        self.remove(&source, &now).await?;
                    }
                    return Ok(match (is_directory, self.moves) {
                        (true, _) => "directory",
                        (false, true) => "moved",
                        (false, false) => "copied",
                    });
                }
            }
        }
    }

    /// As a rename in a mount does it: the copy's time of change is now, where the service lets a copy change headers.
    async fn copy(
        &self,
        source: &ObjectKey,
        meta: &ObjectMeta,
        destination: &ObjectKey,
        is_directory: bool,
    ) -> Result<(), Failure> {
        let keeps = !is_directory
            && (self.from.object(meta).is_err() || is_bound_by_sdk_rules(&meta.headers.user));
        let headers = match keeps {
            true => CopyHeaders::Keep,
            false => {
                let mut headers = meta.headers.clone();
                changed_now(&mut headers, meta, is_directory);
                CopyHeaders::Replace(headers)
            }
        };
        let (overwrite, limits) = (Overwrite::Allowed, self.options.limits);
        let copied = self
            .from
            .copy(source, meta, destination, headers, overwrite, limits);
        copied.await?;
        Ok(())
    }

    /// Under a fresh key of the other bucket.
    async fn send(
        &self,
        source: &ObjectKey,
        meta: &ObjectMeta,
        destination: &ObjectKey,
    ) -> Result<(), Failure> {
        let mut headers = meta.headers.clone();
        changed_now(&mut headers, meta, false);
        headers.storage_class = None;
        let object = match self.from.object_at(source, meta) {
            Err(Error::NotEncrypted) if meta.size == 0 => None,
            object => Some(object?),
        };
        let (plain, xattrs) = match object {
            None => (Plaintext::empty(), Default::default()),
            Some(object) => {
                let cipher = self.from.unlock(&object).await?;
                let xattrs = self.from.open_xattrs(&object, &meta.headers).await?;
                let (bucket, key, meta) = (self.from.clone(), source.clone(), meta.clone());
                let plain = Plaintext::new(meta.size, move |range| {
                    let (bucket, key) = (bucket.clone(), key.clone());
                    let (meta, cipher) = (meta.clone(), cipher.clone());
                    content::decrypted(bucket, key, meta, cipher, range)
                        .map_err(|failure| match failure {
                            Failure::Object(Error::Store(error)) => error,
                            Failure::Object(error) => StoreError::other(error),
                            _ => StoreError::PreconditionFailed,
                        })
                        .boxed()
                });
                (plain, xattrs)
            }
        };
        let given = (!xattrs.is_empty()).then_some(&xattrs);
        let (part, control) = (self.options.part_size, &self.control);
        content::send(&self.to, destination, &plain, headers, given, part, control).await?;
        Ok(())
    }

    async fn send_directory(
        &self,
        meta: &ObjectMeta,
        destination: &ObjectKey,
    ) -> Result<(), Failure> {
        let mut headers = meta.headers.clone();
        changed_now(&mut headers, meta, true);
        headers.storage_class = None;
        let xattrs = match self.from.object(meta) {
            Ok(object) => self.from.open_xattrs(&object, &meta.headers).await?,
            Err(_) => Default::default(),
        };
        let overwrite = Overwrite::Allowed;
        if xattrs.is_empty() {
            let headers = self.to.headers_with(headers, &xattrs)?;
            let put = self
                .to
                .store()
                .put(destination, &headers, Body::empty(), overwrite);
            put.await?;
        } else {
            let nothing = Plaintext::empty();
            let put = self
                .to
                .put(destination, &nothing, headers, Some(&xattrs), overwrite);
            put.await?;
        }
        Ok(())
    }

    async fn is_same(
        &self,
        source: &ObjectKey,
        ours: &ObjectMeta,
        destination: &ObjectKey,
        theirs: &ObjectMeta,
    ) -> Result<bool, Failure> {
        let here = self
            .from
            .unlock(&*self.from.object_at(source, ours)?)
            .await?;
        let there = self
            .to
            .unlock(&*self.to.object_at(destination, theirs)?)
            .await?;
        let mut one = self.from.get(source, None, Some(&ours.etag)).await?;
        let mut other = self.to.get(destination, None, Some(&theirs.etag)).await?;
        let mut buffers = (vec![0; 128 << 10], vec![0; 128 << 10]);
        loop {
            let count = one.read(&here, &mut buffers.0).await?;
            if count == 0 {
                return Ok(other.read(&there, &mut buffers.1).await? == 0);
            }
            let mut filled = 0;
            while filled < count {
                match other.read(&there, &mut buffers.1[filled..count]).await? {
                    0 => return Ok(false),
                    more => filled += more,
                }
            }
            if buffers.0[..count] != buffers.1[..count] {
                return Ok(false);
            }
        }
    }

    /// The source of a move, unless others have replaced it since.
    async fn remove(&self, source: &ObjectKey, copied: &ObjectMeta) -> Result<(), Failure> {
        match self.from.store().head(source).await {
            Ok(now) if now.etag != copied.etag => Err(StoreError::PreconditionFailed.into()),
            Ok(_) => Ok(self.from.store().delete(source).await?),
            Err(StoreError::NotFound) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// A file that stored no time of its own keeps the one that was shown.
fn changed_now(headers: &mut ObjectHeaders, meta: &ObjectMeta, is_directory: bool) {
    let mut attributes = Attributes::read(meta, is_directory);
    attributes.ctime = Some(Timestamp::from_system(SystemTime::now()));
    attributes.write(&mut headers.user);
}
