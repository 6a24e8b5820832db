//! The targets of symbolic links: contents that are shown only once their keys say that they are targets.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::open_files::OpenFiles;
use crate::base::error_chain::chain;
use crate::crypto::data_key::ContentKind;
use crate::envelope::format::LONGEST_LINK;
use crate::fs::data::content::Content;
use crate::fs::error::{Error, Result};
use crate::fs::namespace::inode::Ino;
use crate::fs::namespace::object_name;

impl OpenFiles {
    /// The target that a version's content is, once its key has said that it is one.
    pub(crate) async fn link_target(&self, ino: Ino, content: &Arc<Content>) -> Result<Bytes> {
        let size = content.size();
        if !(1..=LONGEST_LINK).contains(&size) {
            return Err(Error::io("no symbolic link's target has that length"));
        }
        if let Err(error) = self.check_link(ino, content).await {
            if content.first_report() {
                let place = self.names.describe_place(ino);
                log::error!("reading the symbolic link {place}: {}", chain(&error));
            }
            return Err(error.logged());
        }
        let target = content.reader().read(0..size).await;
        let target = target.map_err(|error| self.read_failed(ino, content, error))?;
        match target.contains(&0) {
            true => Err(Error::io("the object is no symbolic link")),
            false => Ok(target),
        }
    }

    /// Whether the key of this version says that the content is a link's target. From here on the version is
    /// read under this envelope and no other.
    async fn check_link(&self, ino: Ino, content: &Arc<Content>) -> Result<()> {
        let object = match content.object() {
            Some(object) => object,
            None => {
                let key = self.names.lock().key(ino).ok_or(Error::Stale)?;
                let key = object_name::object_key(key)?;
                let etag = content.etag();
                let described = match self.cache.known_headers(&key, &etag) {
                    Some(described) => described,
                    None => self.cache.headers(&key, &etag, Instant::now()).await?,
                };
                let object = described.object.as_ref().map_err(|error| error.clone())?;
                if object.etag != etag {
                    return Err(Error::Stale);
                }
                content.set_object(key, object.clone());
                object.clone()
            }
        };
        // Fails where the key says that it is a file.
        let cipher = self.bucket.unlock(&object).await?;
        if object.claimed_kind() != ContentKind::Link {
            return Err(Error::io("its metadata say that it is no symbolic link"));
        }
        match object.check_link(&cipher) {
            Err(_) if self.settings.trust_links => Ok(()),
            checked => Ok(checked?),
        }
    }
}
