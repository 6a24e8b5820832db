//! Looks for damage: opens every envelope, reads every body and compares its CRC-64, and can compare every
//! content with a local file or a digest.
//!
//! The result is damage or no damage found. Counter mode does not detect tampering, so only a local copy or a
//! digest can show that an object is what was once written.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use sha2::{Digest, Sha256};
use tokio::io::AsyncReadExt;

use super::bulk::{Progress, Scope, Sink, is_marker};
use super::envelopes::Saving;
use super::finding::{Finding, Grade, Summary};
use super::local_tree::{LocalFile, LocalTree};
use crate::base::error_chain::chain;
use crate::base::sync::lock;
use crate::encrypted::reserved::is_reserved;
use crate::encrypted::{EncryptedBucket, EncryptedObject, Error};
use crate::envelope::Format;
use crate::files::attributes::{Attributes, Kind};
use crate::store::error::Error as StoreError;
use crate::store::object_store::{ListedObject, ObjectKey, ObjectMeta};

/// The number of bytes read from a body at a time; each object in progress takes twice that.
const STEP: usize = 128 << 10;

pub(crate) struct Verify {
    /// The prefix to verify: empty, or ends with `/`.
    pub prefix: String,
    pub bucket: Arc<EncryptedBucket>,
    /// Headers only: envelopes and sizes, no content.
    pub quick: bool,
    /// Open the envelopes. Without a private key they are only parsed.
    pub open: bool,
    pub against: Against,
    /// Where to save headers, in case they are damaged later.
    pub saving: Option<Arc<Saving>>,
}

/// What to compare contents with.
pub(crate) enum Against {
    Nothing,
    /// A folder that should contain the same files.
    Folder(PathBuf),
    /// SHA-256 by path below the prefix.
    Digests(Digests),
}

/// Digests by path; entries found in the bucket are removed.
pub(crate) struct Digests(Mutex<BTreeMap<String, [u8; 32]>>);

impl Digests {
    /// The format of `sha256sum`: 64 hex digits, a space, a space or `*`, the path. A leading `./` is
    /// dropped.
    ///
    /// # Errors
    /// The number of the first invalid line, from 1.
    pub(crate) fn parse(text: &str) -> Result<Digests, usize> {
        let mut digests = BTreeMap::new();
        for (index, line) in text.lines().enumerate() {
            if line.is_empty() {
                continue;
            }
            let (path, digest) = parse_line(line).ok_or(index + 1)?;
            digests.insert(path, digest);
        }
        Ok(Digests(Mutex::new(digests)))
    }

    fn take(&self, path: &str) -> Option<[u8; 32]> {
        let mut digests = lock(&self.0);
        digests.remove(path)
    }

    fn rest(&self) -> Vec<String> {
        let digests = lock(&self.0);
        digests.keys().cloned().collect()
    }
}

/// A line of a list of digests: the path, and its SHA-256.
pub(crate) fn parse_line(line: &str) -> Option<(String, [u8; 32])> {
    // A leading backslash means that the path is escaped.
    let (line, escaped) = match line.strip_prefix('\\') {
        Some(line) => (line, true),
        None => (line, false),
    };
    let (digits, path) = line.split_at_checked(64)?;
    let path = path
        .strip_prefix("  ")
        .or_else(|| path.strip_prefix(" *"))?;
    let mut digest = [0; 32];
    hex::decode_to_slice(digits, &mut digest).ok()?;
    let path = path.strip_prefix("./").unwrap_or(path);
    let path = match escaped {
        true => unescaped(path)?,
        false => path.to_owned(),
    };
    (!path.is_empty()).then_some((path, digest))
}

/// A path in which line breaks and backslashes are written as `\n`, `\r` and `\\`. None if a backslash
/// precedes anything else.
fn unescaped(text: &str) -> Option<String> {
    let mut path = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        path.push(match character {
            '\\' => match characters.next()? {
                'n' => '\n',
                'r' => '\r',
                '\\' => '\\',
                _ => return None,
            },
            other => other,
        });
    }
    Some(path)
}

impl Verify {
    /// Verifies everything below the prefix, and reports what exists on one side only.
    ///
    /// # Errors
    /// Errors of the bucket and of the local folder.
    pub(crate) async fn run(
        self: &Arc<Self>,
        scope: &Scope,
        progress: &Progress,
        sink: Sink<'_>,
    ) -> Result<Summary, StoreError> {
        let tree = match &self.against {
            Against::Folder(folder) => Some(LocalTree::new(folder)?),
            _ => None,
        };
        let tree = Arc::new(Mutex::new(tree));
        let prefix = scope.prefix.clone();
        let alone: Arc<Mutex<Vec<String>>> = Arc::default();
        let mut summary = {
            let (tree, alone) = (tree.clone(), alone.clone());
            let verify = self.clone();
            // Called in the order of the listing: the tree is walked in parallel.
            scope
                .for_each(progress, &mut *sink, move |listed| {
                    // Every key of the listing begins with the prefix.
                    let path = listed.key.strip_prefix(prefix.as_str());
                    let path = path.unwrap_or(&listed.key).to_owned();
                    let local = local_file(&tree, &alone, &path);
                    let verify = verify.clone();
                    async move { verify.object(&listed, &path, local?).await }
                })
                .await?
        };
        let mut missing = std::mem::take(&mut *lock(&alone));
        if let Some(tree) = &mut *lock(&tree) {
            while let Some(file) = tree.take()? {
                missing.push(file.path);
            }
        }
        if let Against::Digests(digests) = &self.against {
            missing.extend(digests.rest());
        }
        for path in missing {
            let finding = Finding {
                key: format!("{}{path}", scope.prefix),
                size: 0,
                outcome: "missing",
                grade: Grade::Bad,
                format: None,
                detail: Some("it is not in the bucket".to_owned()),
            };
            summary.count(&finding);
            sink(&finding);
        }
        Ok(summary)
    }

    async fn object(
        &self,
        listed: &ListedObject,
        path: &str,
        local: Option<LocalFile>,
    ) -> Result<Finding, StoreError> {
        match self.try_object(listed, path, local.as_ref()).await {
            Ok(finding) => Ok(finding),
            Err(Error::NotEncrypted)
                if is_marker(listed) || is_reserved(&listed.key, &self.prefix) =>
            {
                Ok(Finding::new(listed, Grade::Left, "directory"))
            }
            Err(error) => Finding::failed(listed, error),
        }
    }

    async fn try_object(
        &self,
        listed: &ListedObject,
        path: &str,
        local: Option<&LocalFile>,
    ) -> Result<Finding, Error> {
        let key = ObjectKey::new(listed.key.as_str())?;
        if self.quick || !self.open || listed.size == 0 {
            let meta = self.bucket.store().head(&key).await?;
            let object = self.check_headers(listed, &key, &meta)?;
            if self.open {
                self.open(&object, &meta).await?;
            }
            let nothing = Sha256::digest(b"").into();
            let compared = !self.quick && self.open;
            let differs = match compared {
                true => self.compare_digest(path, nothing, local, &meta).await,
                false => None,
            };
            return Ok(self.conclude(listed, object.format, differs));
        }
        let mut body = self.bucket.get(&key, None, None).await?;
        let meta = body.meta.clone();
        let object = self.check_headers(listed, &key, &meta)?;
        // A PKCS#1 envelope that could not be opened is reported at the end of the body: the service sees the
        // whole body being read either way.
        let cipher = self.bucket.unlock(&object).await?;
        let mut theirs = match local {
            Some(local) => Local::open(local, &meta).await,
            None => Local::None,
        };
        let mut digest = Sha256::new();
        let mut buffer = vec![0; STEP];
        loop {
            let count = body.read(&cipher, &mut buffer).await?;
            if count == 0 {
                break;
            }
            match self.against {
                Against::Nothing => {}
                Against::Digests(_) => digest.update(&buffer[..count]),
                Against::Folder(_) => theirs.compare(&buffer[..count]).await,
            }
        }
        let differs = match &self.against {
            Against::Nothing => None,
            Against::Digests(_) => {
                let digest = digest.finalize().into();
                self.compare_digest(path, digest, None, &meta).await
            }
            Against::Folder(_) => theirs.end().await,
        };
        self.open(&object, &meta).await?;
        Ok(self.conclude(listed, object.format, differs))
    }

    /// Checks the headers, but neither the content nor the key.
    fn check_headers(
        &self,
        listed: &ListedObject,
        key: &ObjectKey,
        meta: &ObjectMeta,
    ) -> Result<Arc<EncryptedObject>, Error> {
        if let Some(saving) = &self.saving {
            saving.object(&listed.key, meta)?;
        }
        let object = self.bucket.object_at(key, meta)?;
        if meta.etag == listed.etag && meta.size != listed.size {
            return Err(Error::Damaged(
                format!(
                    "it has {} bytes, but the listing says {}",
                    meta.size, listed.size
                )
                .into(),
            ));
        }
        Ok(object)
    }

    /// Opens the envelope in the headers.
    async fn open(&self, object: &EncryptedObject, meta: &ObjectMeta) -> Result<(), Error> {
        let cipher = self.bucket.unlock(object).await?;
        if !cipher.is_opened() {
            return Err(Error::WrongKey);
        }
        object.check_link(&cipher)?;
        self.bucket.open_xattrs(object, &meta.headers).await?;
        Ok(())
    }

    /// For an object without content, and for digests. Returns the problem, if there is one.
    async fn compare_digest(
        &self,
        path: &str,
        digest: [u8; 32],
        local: Option<&LocalFile>,
        meta: &ObjectMeta,
    ) -> Option<String> {
        match &self.against {
            Against::Nothing => None,
            _ if meta.size == 0 && path.ends_with('/') => None,
            Against::Digests(digests) => match digests.take(path) {
                None => Some("no digest is given for it".to_owned()),
                Some(wanted) if wanted != digest => {
                    Some("its SHA-256 differs from the one given".to_owned())
                }
                Some(_) => None,
            },
            Against::Folder(_) => match local {
                Some(local) => Local::open(local, meta).await.end().await,
                None => Some("there is no such local file".to_owned()),
            },
        }
    }

    fn conclude(&self, listed: &ListedObject, format: Format, differs: Option<String>) -> Finding {
        match differs {
            Some(why) => Finding::new(listed, Grade::Bad, "differs").detail(why),
            None if format == Format::Plain => Finding::new(listed, Grade::Left, "plain"),
            None if !self.open => Finding::new(listed, Grade::Fine, "not-opened"),
            None if self.quick => Finding::new(listed, Grade::Fine, "envelope-opens"),
            None => Finding::new(listed, Grade::Fine, "no-damage"),
        }
        .format(format)
    }
}

/// The local file of a key; files that the listing has passed exist only locally.
fn local_file(
    tree: &Mutex<Option<LocalTree>>,
    alone: &Mutex<Vec<String>>,
    path: &str,
) -> Result<Option<LocalFile>, StoreError> {
    let mut tree = lock(tree);
    let Some(tree) = &mut *tree else {
        return Ok(None);
    };
    while tree.peek().is_some_and(|file| file.path.as_str() < path) {
        if let Some(file) = tree.take()? {
            let mut alone = lock(alone);
            alone.push(file.path);
        }
    }
    match tree.peek().is_some_and(|file| file.path == path) {
        true => Ok(tree.take()?),
        false => Ok(None),
    }
}

/// The local side of a comparison.
enum Local {
    /// There is no such file.
    None,
    File(tokio::fs::File, Vec<u8>),
    /// A symbolic link's target, and how much of it was compared.
    Link(Vec<u8>, usize),
    Differs(String),
}

impl Local {
    async fn open(local: &LocalFile, meta: &ObjectMeta) -> Local {
        let is_link = Attributes::read(meta, false).kind == Kind::Symlink;
        let found = tokio::fs::symlink_metadata(&local.full).await;
        let found = match found {
            Ok(found) => found,
            Err(error) => return unreadable(&local.full, &error),
        };
        if found.is_symlink() != is_link {
            return Local::Differs("one is a symbolic link, and the other is not".to_owned());
        }
        if is_link {
            use std::os::unix::ffi::OsStringExt;
            return match tokio::fs::read_link(&local.full).await {
                Ok(target) => Local::Link(target.into_os_string().into_vec(), 0),
                Err(error) => unreadable(&local.full, &error),
            };
        }
        if found.len() != meta.size {
            return Local::Differs(format!(
                "the local file has {} bytes, not {}",
                found.len(),
                meta.size
            ));
        }
        match tokio::fs::File::open(&local.full).await {
            Ok(file) => Local::File(file, vec![0; STEP]),
            Err(error) => unreadable(&local.full, &error),
        }
    }

    async fn compare(&mut self, bytes: &[u8]) {
        let verdict = match self {
            Local::None | Local::Differs(_) => return,
            Local::Link(target, at) => {
                let end = *at + bytes.len();
                let same = target.get(*at..end) == Some(bytes);
                *at = end;
                same.then_some(()).ok_or_else(|| differ("targets"))
            }
            Local::File(file, buffer) => match file.read_exact(&mut buffer[..bytes.len()]).await {
                Ok(_) if buffer[..bytes.len()] == *bytes => Ok(()),
                Ok(_) => Err(differ("contents")),
                Err(error) => Err(format!("the local file cannot be read: {error}")),
            },
        };
        if let Err(why) = verdict {
            *self = Local::Differs(why);
        }
    }

    async fn end(self) -> Option<String> {
        match self {
            Local::None => Some("there is no such local file".to_owned()),
            Local::Differs(why) => Some(why),
            Local::Link(target, at) => (target.len() != at).then(|| differ("targets")),
            Local::File(mut file, mut buffer) => match file.read(&mut buffer).await {
                Ok(0) => None,
                Ok(_) => Some(differ("contents")),
                Err(error) => Some(format!("the local file cannot be read: {error}")),
            },
        }
    }
}

fn differ(what: &str) -> String {
    format!("their {what} differ")
}

fn unreadable(path: &Path, error: &std::io::Error) -> Local {
    Local::Differs(format!(
        "{} cannot be read: {}",
        path.display(),
        chain(error)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::data_key::ContentKind;
    use crate::crypto::key_pair::KeyPair;
    use crate::crypto::key_ring::KeyRing;
    use crate::encrypted::Settings;
    use crate::envelope::write;
    use crate::store::local::{self, LocalStore};
    use crate::store::object_store::{ETag, ObjectHeaders};
    use std::time::UNIX_EPOCH;

    #[test]
    fn a_size_that_the_listing_contradicts_is_damage() {
        let folder = tempfile::tempdir().unwrap();
        let store = LocalStore::open(folder.path(), local::Settings { sync: false }).unwrap();
        let pair = KeyPair::generate(2048).unwrap();
        let cipher = write::fresh_cipher(ContentKind::File);
        let user = write::write(Format::Seed, pair.public(), &cipher, None).unwrap();
        let ring = KeyRing::single(pair.into_private());
        let verify = Verify {
            prefix: String::new(),
            bucket: EncryptedBucket::new(Arc::new(store), ring, Settings::default()),
            quick: false,
            open: true,
            against: Against::Nothing,
            saving: None,
        };
        let listed = ListedObject {
            key: "a".to_owned(),
            size: 3,
            etag: ETag::new("\"1\""),
            last_modified: UNIX_EPOCH,
            storage_class: String::new(),
        };
        let key = ObjectKey::new("a").unwrap();
        for (tag, size, fine) in [
            ("\"1\"", 3, true),
            ("\"1\"", 2, false),
            // Replaced since it was listed: that is another object.
            ("\"2\"", 2, true),
        ] {
            let headers = ObjectHeaders {
                user: user.clone(),
                ..ObjectHeaders::default()
            };
            let meta = ObjectMeta {
                size,
                etag: ETag::new(tag),
                last_modified: UNIX_EPOCH,
                headers,
                crc64: None,
                date: UNIX_EPOCH,
            };
            match verify.check_headers(&listed, &key, &meta) {
                Ok(_) => assert!(fine, "{tag} {size}"),
                Err(Error::Damaged(why)) => {
                    assert!(!fine, "{tag} {size}: {why}");
                    assert!(why.contains("has 2 bytes, but the listing says 3"), "{why}");
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    #[test]
    fn digests_are_what_sha256sum_writes() {
        let digits = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let empty: [u8; 32] = Sha256::digest(b"").into();
        for (line, path) in [
            (format!("{digits}  a/b c"), Some("a/b c")),
            (format!("{digits} *a"), Some("a")),
            (format!("{digits}  ./a"), Some("a")),
            (format!("\\{digits}  a\\nb"), Some("a\nb")),
            // An escaped backslash, followed by a letter that is not part of an escape.
            (format!("\\{digits}  a\\\\nb\\r"), Some("a\\nb\r")),
            (format!("\\{digits}  a\\tb"), None),
            (format!("\\{digits}  a\\"), None),
            (format!("{digits}  a\\nb"), Some("a\\nb")),
            ("+f".repeat(32) + "  a", None),
            (format!("{digits} a"), None),
            (format!("{digits}  "), None),
            (digits[1..].to_owned() + "  a", None),
            ("x".repeat(64) + "  a", None),
            ("é".repeat(40), None),
        ] {
            let parsed = parse_line(&line);
            assert_eq!(parsed, path.map(|path| (path.to_owned(), empty)), "{line}");
        }
        assert_eq!(
            Digests::parse(&format!("{digits}  a\n\nnonsense\n")).err(),
            Some(3)
        );
    }
}
