//! Envelopes kept outside the bucket: one careless metadata edit by another tool is otherwise the end of a
//! file.
//!
//! A file of lines, each a JSON object: first what it is, then one line per object with its key, tag, size,
//! CRC-64 and headers. Nothing in it is secret: whoever can read the bucket can read all of it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::bulk::{Finding, Grade};
use crate::encrypted::copy::CopyLimits;
use crate::encrypted::{EncryptedBucket, Error};
use crate::envelope::format::is_envelope_name;
use crate::envelope::{self};
use crate::store::error::Error as StoreError;
use crate::store::object_store::{
    CopyHeaders, ETag, ListedObject, ObjectHeaders, ObjectKey, ObjectMeta, Overwrite,
};

/// Longer than a line can be: 8 KB of metadata, and a key, all escaped.
const LONGEST_LINE: u64 = 128 << 10;

#[derive(Debug, Serialize, Deserialize)]
struct Heading {
    /// The version of the format.
    ossvault_envelopes: u32,
}

/// One object's line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    pub key: String,
    pub etag: String,
    /// In bytes.
    pub size: u64,
    /// Decimal, as the service writes it: JSON numbers lose digits in many hands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crc64: Option<String>,
    /// User metadata, names without `x-oss-meta-`.
    pub user: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
}

impl Saved {
    fn new(key: &str, meta: &ObjectMeta) -> Saved {
        Saved {
            key: key.to_owned(),
            etag: meta.etag.as_str().to_owned(),
            size: meta.size,
            crc64: meta.crc64.map(|crc| crc.to_string()),
            user: meta.headers.user.clone(),
            content_type: meta.headers.content_type.clone(),
        }
    }
}

/// A file that is being written. It gets its name when it is whole.
pub struct Saving {
    path: PathBuf,
    temporary: PathBuf,
    file: Mutex<BufWriter<File>>,
}

impl Saving {
    /// # Errors
    /// The file exists, or cannot be written.
    pub fn create(path: &Path) -> std::io::Result<Saving> {
        if path.symlink_metadata().is_ok() {
            return Err(std::io::ErrorKind::AlreadyExists.into());
        }
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(format!(".{}.part", std::process::id()));
        let temporary = PathBuf::from(temporary);
        let file = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)?;
        let saving = Saving {
            path: path.to_owned(),
            temporary,
            file: Mutex::new(BufWriter::new(file)),
        };
        saving.line(&Heading {
            ossvault_envelopes: 1,
        })?;
        Ok(saving)
    }

    pub(super) fn object(&self, key: &str, meta: &ObjectMeta) -> Result<(), Error> {
        // What has no envelope needs no saving.
        if !meta.headers.user.keys().any(|name| is_envelope_name(name)) {
            return Ok(());
        }
        self.line(&Saved::new(key, meta))
            .map_err(|error| Error::Store(StoreError::NoSpace(Arc::new(error))))
    }

    fn line(&self, line: &impl Serialize) -> std::io::Result<()> {
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.write_all(&text)
    }

    /// Everything is in it: it gets its name, durably.
    ///
    /// # Errors
    /// The disk's.
    pub fn finish(&self) -> std::io::Result<()> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.flush()?;
        file.get_ref().sync_all()?;
        std::fs::rename(&self.temporary, &self.path)?;
        let folder = match self.path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        File::open(folder)?.sync_all()
    }
}

impl Drop for Saving {
    fn drop(&mut self) {
        // Gone if it was finished.
        let _ = std::fs::remove_file(&self.temporary);
    }
}

/// The lines of a file that was saved, one at a time.
pub struct Lines(std::io::Lines<BufReader<std::io::Take<File>>>, usize);

impl Lines {
    /// # Errors
    /// The file cannot be read, or is none of ours.
    pub fn open(path: &Path) -> std::io::Result<Lines> {
        use std::io::Read;
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        let mut lines = Lines(BufReader::new(file.take(length)).lines(), 0);
        let first = lines.line()?.unwrap_or_default();
        match serde_json::from_str::<Heading>(&first) {
            Ok(Heading {
                ossvault_envelopes: 1,
            }) => Ok(lines),
            _ => Err(lines.wrong("is not the first one of a file of saved envelopes")),
        }
    }

    /// # Errors
    /// A line that is none.
    #[allow(clippy::should_implement_trait)] // it fails
    pub fn next(&mut self) -> std::io::Result<Option<Saved>> {
        let Some(line) = self.line()? else {
            return Ok(None);
        };
        match serde_json::from_str(&line) {
            Ok(saved) => Ok(Some(saved)),
            Err(error) => Err(self.wrong(&format!("is damaged: {error}"))),
        }
    }

    fn line(&mut self) -> std::io::Result<Option<String>> {
        self.1 += 1;
        match self.0.next() {
            Some(Ok(line)) if line.len() as u64 > LONGEST_LINE => Err(self.wrong("is too long")),
            line => line.transpose(),
        }
    }

    fn wrong(&self, what: &str) -> std::io::Error {
        std::io::Error::other(format!("line {} {what}", self.1))
    }
}

pub struct Restore {
    pub bucket: Arc<EncryptedBucket>,
    pub dry_run: bool,
    pub limits: CopyLimits,
}

impl Restore {
    /// Puts an object's envelope back, if the object has still the content it was saved with and has no
    /// whole envelope any more. Other headers come back where they are missing.
    ///
    /// # Errors
    /// Those that are not the object's own.
    pub async fn object(&self, saved: &Saved) -> Result<Finding, StoreError> {
        let listed = ListedObject {
            key: saved.key.clone(),
            size: saved.size,
            etag: ETag::new(saved.etag.as_str()),
            last_modified: std::time::SystemTime::UNIX_EPOCH,
            storage_class: String::new(),
        };
        match self.try_object(&listed, saved).await {
            Ok(finding) => Ok(finding),
            Err(error) => Finding::failed(&listed, error),
        }
    }

    async fn try_object(&self, listed: &ListedObject, saved: &Saved) -> Result<Finding, Error> {
        let key = ObjectKey::new(saved.key.as_str())?;
        let meta = match self.bucket.store().head(&key).await {
            Err(StoreError::NotFound) => {
                return Ok(Finding::new(listed, Grade::Bad, "missing")
                    .detail("the object is not in the bucket any more"));
            }
            meta => meta?,
        };
        // A copy by another tool may have changed the tag and nothing else.
        let same_crc = meta.crc64.is_some()
            && meta.crc64.map(|crc| crc.to_string()) == saved.crc64
            && meta.size == saved.size;
        if meta.etag != listed.etag && !same_crc {
            return Ok(Finding::new(listed, Grade::Left, "replaced")
                .detail("its content is another one than was saved"));
        }
        let now = envelope::detect(&meta.headers.user);
        let was = envelope::detect(&saved.user);
        let Ok(Some(was)) = was else {
            return Ok(Finding::new(listed, Grade::Bad, "not-saved")
                .detail("what was saved is no whole envelope"));
        };
        match now {
            Ok(Some(now)) if now == was => {
                return Ok(Finding::new(listed, Grade::Fine, "whole").format(now.format));
            }
            Ok(Some(now)) => {
                // Re-wrapped since, or forged: to decide which is not ours.
                return Ok(Finding::new(listed, Grade::Left, "another-envelope")
                    .format(now.format)
                    .detail("it has a whole envelope, which is another one than was saved"));
            }
            Ok(None) | Err(_) => {}
        }
        let finding = Finding::new(listed, Grade::Fine, "restored").format(was.format);
        if !self.dry_run {
            let headers = merge(&meta.headers, saved);
            let replace = CopyHeaders::Replace(headers);
            self.bucket
                .copy(&key, &meta, &key, replace, Overwrite::Allowed, self.limits)
                .await?;
        }
        Ok(finding)
    }
}

/// The envelope that was saved, and what else is missing now; what is there stays.
fn merge(now: &ObjectHeaders, saved: &Saved) -> ObjectHeaders {
    let mut headers = now.clone();
    headers.user.retain(|name, _| !is_envelope_name(name));
    for (name, value) in &saved.user {
        headers
            .user
            .entry(name.clone())
            .or_insert_with(|| value.clone());
    }
    headers.content_type = headers.content_type.or_else(|| saved.content_type.clone());
    headers
}
