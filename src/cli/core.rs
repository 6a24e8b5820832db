//! A stand-in for the file system while it is being built: an empty directory, under the names and
//! signatures of `fs::filesystem`, `fs::settings` and `fuse::adapter`. Goes when they come.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::encrypted::bucket::EncryptedBucket;
use crate::store::error::Error;
use crate::store::object_store::ListRequest;

#[allow(dead_code)]
pub struct Settings {
    pub prefix: String,
    pub metadata_ttl: Duration,
    pub dir_ttl: Duration,
    pub memory_limit: u64,
    pub cache_dir: PathBuf,
    pub cache_limit: u64,
    pub read_only: bool,
    pub uid: u32,
    pub gid: u32,
    pub file_mode: u32,
    pub dir_mode: u32,
    pub show_owner: bool,
    pub rename_grace: Duration,
    pub flush_after: Option<Duration>,
    pub timeout: Duration,
    pub parallel: usize,
    pub allow_plaintext: Vec<String>,
}

#[derive(Debug)]
pub struct Unsaved {
    pub path: String,
}

impl std::fmt::Display for Unsaved {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.path)
    }
}

pub struct Filesystem {
    bucket: Arc<EncryptedBucket>,
    settings: Settings,
}

impl Filesystem {
    pub fn new(
        bucket: Arc<EncryptedBucket>,
        settings: Settings,
        _runtime: tokio::runtime::Handle,
    ) -> Result<Arc<Filesystem>, Error> {
        Ok(Arc::new(Filesystem { bucket, settings }))
    }

    pub async fn start(&self) -> Result<(), Error> {
        let request = ListRequest {
            prefix: self.settings.prefix.clone(),
            max_keys: 1,
            ..ListRequest::default()
        };
        self.bucket.store().list(&request).await.map(|_| ())
    }

    pub async fn shutdown(&self) -> Result<(), Vec<Unsaved>> {
        Ok(())
    }
}

pub struct Adapter(Arc<Filesystem>);

impl Adapter {
    pub fn new(filesystem: Arc<Filesystem>, _runtime: tokio::runtime::Handle) -> Adapter {
        Adapter(filesystem)
    }
}

impl fuser::Filesystem for Adapter {
    fn getattr(
        &self,
        _request: &fuser::Request,
        ino: fuser::INodeNo,
        _handle: Option<fuser::FileHandle>,
        reply: fuser::ReplyAttr,
    ) {
        let now = SystemTime::UNIX_EPOCH;
        reply.attr(
            &Duration::from_secs(1),
            &fuser::FileAttr {
                ino,
                size: 0,
                blocks: 0,
                atime: now,
                mtime: now,
                ctime: now,
                crtime: now,
                kind: fuser::FileType::Directory,
                perm: self.0.settings.dir_mode as u16,
                nlink: 2,
                uid: self.0.settings.uid,
                gid: self.0.settings.gid,
                rdev: 0,
                blksize: 4096,
                flags: 0,
            },
        );
    }

    fn readdir(
        &self,
        _request: &fuser::Request,
        _ino: fuser::INodeNo,
        _handle: fuser::FileHandle,
        _offset: u64,
        reply: fuser::ReplyDirectory,
    ) {
        reply.ok();
    }
}
