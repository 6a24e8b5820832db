//! Saves envelopes outside the bucket, because a careless metadata edit by another tool would otherwise
//! destroy a file.
//!
//! The file has one JSON object per line: first a header, then one line per object with its key, ETag, size,
//! CRC-64 and headers. Nothing in it is secret: a reader of the bucket can read all of it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, UNIX_EPOCH};

use futures_util::stream;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::bulk::{Progress, Scope, Sink, keep_time};
use super::finding::{Finding, Grade, Summary};
use super::local_file::LocalFileError;
use crate::base::sync::lock;
use crate::encrypted::copy::CopyLimits;
use crate::encrypted::{EncryptedBucket, Error};
use crate::envelope;
use crate::envelope::format::{MODE, claimed_kind, is_envelope_name};
use crate::store::error::Error as StoreError;
use crate::store::object_store::{
    CopyHeaders, ETag, ListedObject, ObjectHeaders, ObjectKey, ObjectMeta, Overwrite,
};

/// Longer than any line: 8 KB of metadata and a key, fully escaped.
const LONGEST_LINE: u64 = 128 << 10;

#[derive(Debug, Serialize, Deserialize)]
struct Heading {
    /// The version of the format.
    ossvault_envelopes: u32,
}

/// The line of one object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Saved {
    pub key: String,
    pub etag: String,
    /// In bytes.
    pub size: u64,
    /// Decimal, as the service writes it: many JSON implementations lose digits of numbers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crc64: Option<String>,
    /// Unix seconds: the file's time if the metadata contains none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_modified: Option<u64>,
    /// User metadata, with names without `x-oss-meta-`.
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
            last_modified: meta
                .last_modified
                .duration_since(UNIX_EPOCH)
                .ok()
                .map(|since| since.as_secs()),
            user: meta.headers.user.clone(),
            content_type: meta.headers.content_type.clone(),
        }
    }

    /// The object as it was listed then.
    pub(crate) fn listed(&self) -> ListedObject {
        ListedObject {
            key: self.key.clone(),
            size: self.size,
            etag: ETag::new(self.etag.as_str()),
            last_modified: self
                .last_modified
                .and_then(|seconds| UNIX_EPOCH.checked_add(Duration::from_secs(seconds)))
                .unwrap_or(UNIX_EPOCH),
            storage_class: String::new(),
        }
    }
}

/// A file that is being written. It gets its name once it is complete.
pub(crate) struct Saving {
    path: PathBuf,
    temporary: PathBuf,
    file: Mutex<BufWriter<File>>,
}

impl Saving {
    /// # Errors
    /// The file exists, or cannot be written.
    pub(crate) fn create(path: &Path) -> std::io::Result<Saving> {
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
        // An object without an envelope does not need to be saved.
        if !meta.headers.user.keys().any(|name| is_envelope_name(name)) {
            return Ok(());
        }
        self.line(&Saved::new(key, meta)).map_err(|error| {
            let error = LocalFileError::writing(&self.path, error);
            Error::Store(error.into())
        })
    }

    fn line(&self, line: &impl Serialize) -> std::io::Result<()> {
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        let mut file = lock(&self.file);
        file.write_all(&text)
    }

    /// The file is complete: gives it its name, durably.
    ///
    /// # Errors
    /// A disk error.
    pub(crate) fn finish(&self) -> std::io::Result<()> {
        let mut file = lock(&self.file);
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
        // It no longer exists if the file was finished.
        let _ = std::fs::remove_file(&self.temporary);
    }
}

/// The lines of a saved file, one at a time.
pub(crate) struct Lines<R = BufReader<File>> {
    file: R,
    path: PathBuf,
    /// The number of the line that was read last, from 1.
    number: usize,
}

/// A line that describes no object. The other lines are still used.
#[derive(Debug)]
pub(crate) struct DamagedLine {
    number: usize,
    why: String,
}

impl DamagedLine {
    /// Takes the place of the object that the line was about.
    fn listed(&self) -> ListedObject {
        ListedObject {
            key: format!("line {}", self.number),
            size: 0,
            etag: ETag::new(""),
            last_modified: UNIX_EPOCH,
            storage_class: String::new(),
        }
    }
}

impl Lines {
    /// # Errors
    /// The file cannot be read, or is not a file of saved envelopes.
    pub(crate) fn open(path: &Path) -> std::io::Result<Lines> {
        Lines::of(BufReader::new(File::open(path)?), path)
    }
}

impl<R: BufRead> Lines<R> {
    /// # Errors
    /// The file cannot be read, or is not a file of saved envelopes.
    pub(crate) fn of(file: R, path: &Path) -> std::io::Result<Lines<R>> {
        let mut lines = Lines {
            file,
            path: path.to_owned(),
            number: 0,
        };
        match lines.read::<Heading>()? {
            Some(Ok(Heading {
                ossvault_envelopes: 1,
            })) => Ok(lines),
            _ => Err(std::io::Error::other(
                "its first line is not the header of a file of saved envelopes",
            )),
        }
    }

    /// None at the end.
    ///
    /// # Errors
    /// A disk error.
    #[allow(clippy::should_implement_trait)] // it fails
    pub(crate) fn next(&mut self) -> std::io::Result<Option<Result<Saved, DamagedLine>>> {
        self.read()
    }

    fn read<T: DeserializeOwned>(&mut self) -> std::io::Result<Option<Result<T, DamagedLine>>> {
        self.number += 1;
        let mut line = Vec::new();
        let longest = (&mut self.file).take(LONGEST_LINE + 1);
        if { longest }.read_until(b'\n', &mut line)? == 0 {
            return Ok(None);
        }
        let damaged = |why: String| DamagedLine {
            number: self.number,
            why,
        };
        if line.len() as u64 > LONGEST_LINE {
            self.file.skip_until(b'\n')?;
            return Ok(Some(Err(damaged("the line is too long".to_owned()))));
        }
        let parsed = serde_json::from_slice(&line);
        Ok(Some(parsed.map_err(|error| damaged(error.to_string()))))
    }
}

pub(crate) struct Restore {
    pub bucket: Arc<EncryptedBucket>,
    pub dry_run: bool,
    pub limits: CopyLimits,
}

impl Restore {
    /// Processes every object below the prefix that the file has a line for.
    ///
    /// # Errors
    /// Errors of the bucket and the disk. A damaged line is a finding.
    pub(crate) async fn run(
        self: &Arc<Self>,
        mut lines: Lines,
        scope: &Scope,
        progress: &Progress,
        sink: Sink<'_>,
    ) -> Result<Summary, StoreError> {
        let path = lines.path.clone();
        let rows = std::iter::from_fn(|| lines.next().transpose());
        let rows = rows.filter(|row| match row {
            Ok(Ok(saved)) => saved.key.starts_with(&scope.prefix),
            _ => true,
        });
        let objects = rows.map(|row| {
            let restore = self.clone();
            let row = row.map_err(|error| LocalFileError::reading(&path, error))?;
            let listed = match &row {
                Ok(saved) => saved.listed(),
                Err(line) => line.listed(),
            };
            let named = listed.clone();
            let work = async move {
                match row {
                    Ok(saved) => restore.object(&saved).await,
                    Err(line) => {
                        let finding = Finding::new(&named, Grade::Bad, "damaged-line");
                        Ok(finding.detail(line.why))
                    }
                }
            };
            Ok((listed, work))
        });
        scope.each(stream::iter(objects), progress, sink).await
    }

    /// Restores an object's envelope if the content is unchanged since it was saved and the envelope is no
    /// longer complete. Other headers are restored if they are missing.
    ///
    /// # Errors
    /// Errors that do not concern a single object.
    pub(crate) async fn object(&self, saved: &Saved) -> Result<Finding, StoreError> {
        let listed = saved.listed();
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
                    .detail("the object is no longer in the bucket"));
            }
            meta => meta?,
        };
        // A copy by another tool may have changed only the ETag.
        let same_crc = meta.crc64.is_some()
            && meta.crc64.map(|crc| crc.to_string()) == saved.crc64
            && meta.size == saved.size;
        if meta.etag != listed.etag && !same_crc {
            return Ok(Finding::new(listed, Grade::Left, "replaced")
                .detail("its content has changed since the envelope was saved"));
        }
        let now = envelope::detect(&meta.headers.user);
        let was = envelope::detect(&saved.user);
        let Ok(Some(was)) = was else {
            return Ok(Finding::new(listed, Grade::Bad, "not-saved")
                .detail("the saved envelope is incomplete"));
        };
        match now {
            Ok(Some(now)) if now == was => {
                return Ok(Finding::new(listed, Grade::Fine, "whole").format(now.format));
            }
            // The mode is part of what was saved: someone has changed only the mode.
            Ok(Some(now)) if now.same_wrapping(&was) => {}
            Ok(Some(now)) => {
                // Rewrapped since, or forged: this command cannot decide which.
                return Ok(Finding::new(listed, Grade::Left, "another-envelope")
                    .format(now.format)
                    .detail("it has a complete envelope that differs from the saved one"));
            }
            Ok(None) | Err(_) => {}
        }
        let outcome = match self.dry_run {
            true => "to-restore",
            false => "restored",
        };
        let finding = Finding::new(listed, Grade::Fine, outcome).format(was.format);
        if !self.dry_run {
            let headers = merge(&meta, saved);
            let replace = CopyHeaders::Replace(headers);
            self.bucket
                .copy(&key, &meta, &key, replace, Overwrite::Allowed, self.limits)
                .await?;
        }
        Ok(finding)
    }
}

/// The saved envelope, and the other headers that are missing now; existing headers are kept.
pub(crate) fn merge(now: &ObjectMeta, saved: &Saved) -> ObjectHeaders {
    let mut headers = now.headers.clone();
    headers.user.retain(|name, _| !is_envelope_name(name));
    for (name, value) in &saved.user {
        headers
            .user
            .entry(name.clone())
            .or_insert_with(|| value.clone());
    }
    // The key was bound to the type of the content: a mode that claims another type is not kept.
    if claimed_kind(&headers.user) != claimed_kind(&saved.user) {
        match saved.user.get(MODE) {
            Some(mode) => headers.user.insert(MODE.to_owned(), mode.clone()),
            None => headers.user.remove(MODE),
        };
    }
    headers.content_type = headers.content_type.or_else(|| saved.content_type.clone());
    // The time of the last edit is not the file's time, if a better one is known.
    if let Some(seconds) = saved.last_modified {
        let user = &mut headers.user;
        user.entry("mtime".to_owned())
            .or_insert_with(|| seconds.to_string());
    }
    keep_time(&mut headers, now);
    headers
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Regression: a malformed file made the command panic; the file may come from anywhere.
    #[test]
    fn an_impossible_time_is_none() {
        let heading = "{\"ossvault_envelopes\":1}\n";
        for (seconds, read) in [(5, 5), (u64::MAX, 0), (1 << 63, 0)] {
            let line = format!(
                "{{\"key\":\"k\",\"etag\":\"E\",\"size\":1,\"last_modified\":{seconds},\"user\":{{}}}}"
            );
            let text = format!("{heading}{line}\n");
            let mut lines = Lines::of(text.as_bytes(), Path::new("saved")).unwrap();
            let saved = lines.next().unwrap().unwrap().unwrap();
            let listed = saved.listed();
            assert_eq!(listed.last_modified, UNIX_EPOCH + Duration::from_secs(read));
        }
    }
}
