//! What the headers of objects said, kept on this machine from one run to the next.
//!
//! A listing tells size and tag of an object, and when it was stored, but not the time of modification that is compared;
//! without this, every object of an unchanged tree would cost a HEAD. A record counts as long as the listing shows the
//! object that it was made of: the same tag, and not stored since. It is a cache: without it, nothing is different but
//! the number of requests. What it holds is in the bucket for everyone to see who can list it, but for a digest of
//! extended attributes, which is why it is this user's alone.
//!
//! The file is in the order of keys, and is read and written along with the walk, so that neither is in memory.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, BufWriter, Lines, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::compare::Facts;
use crate::base::sync::lock;
use crate::base::time::unix_seconds;
use crate::encrypted::Xattrs;
use crate::files::attributes::{Attributes, Kind, Timestamp};
use crate::store::object_store::{ListedObject, ObjectMeta};

/// Keys whose records wait for those before them; more are given up, first those that have waited longest.
const MOST_WAITING: usize = 100_000;

/// The longest line that is one of ours, in bytes: a key may be escaped.
const LONGEST_LINE: usize = 16 << 10;

/// What is recorded of one object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Known {
    pub key: String,
    etag: String,
    /// Not stored since, in seconds.
    date: u64,
    size: u64,
    /// Type bits.
    kind: u32,
    mode: Option<u32>,
    uid: Option<u32>,
    gid: Option<u32>,
    mtime: (i64, u32),
    rdev: u32,
    pub xattrs: Option<String>,
}

/// Tells different sets of extended attributes apart.
pub(crate) fn digest_of(xattrs: &Xattrs) -> Option<String> {
    if xattrs.is_empty() {
        return None;
    }
    let mut digest = Sha256::new();
    for (name, value) in xattrs.iter() {
        for part in [name.as_bytes(), value] {
            digest.update((part.len() as u64).to_be_bytes());
            digest.update(part);
        }
    }
    Some(hex::encode(&digest.finalize()[..16]))
}

impl Known {
    /// `date`: the object was not stored later.
    pub(crate) fn new(
        key: &str,
        meta: &ObjectMeta,
        date: SystemTime,
        attributes: &Attributes,
        xattrs: &Xattrs,
    ) -> Known {
        Known {
            key: key.to_owned(),
            etag: meta.etag.as_str().to_owned(),
            date: unix_seconds(date),
            size: meta.size,
            kind: attributes.kind.type_bits(),
            mode: attributes.mode,
            uid: attributes.uid,
            gid: attributes.gid,
            mtime: (attributes.mtime.seconds, attributes.mtime.nanos),
            rdev: attributes.rdev,
            xattrs: digest_of(xattrs),
        }
    }

    fn is_of(&self, listed: &ListedObject) -> bool {
        self.key == listed.key
            && self.etag == listed.etag.as_str()
            && self.size == listed.size
            && unix_seconds(listed.last_modified) <= self.date
    }

    pub(crate) fn facts(&self) -> Facts {
        Facts {
            kind: Kind::from_mode(self.kind).unwrap_or(Kind::File),
            size: self.size,
            mtime: Timestamp {
                seconds: self.mtime.0,
                nanos: self.mtime.1.min(999_999_999),
            },
            rdev: self.rdev,
            mode: self.mode,
            uid: self.uid,
            gid: self.gid,
        }
    }
}

/// Records of one place, of the run before and of this one.
pub(crate) struct Times {
    /// A leaf: held for a few lines of a local file.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    before: Option<Lines<BufReader<File>>>,
    peeked: Option<Known>,
    after: Option<BufWriter<File>>,
    /// Where it is written, and where that goes at the end.
    paths: Option<(PathBuf, PathBuf)>,
    /// Keys in work, in the order in which they are written. None: nothing is to be recorded of it.
    waiting: BTreeMap<String, Progress>,
}

enum Progress {
    Waiting,
    Done(Option<Known>),
}

impl Times {
    /// No records.
    pub(crate) fn none() -> Times {
        Times {
            state: Mutex::default(),
        }
    }

    /// Those in the file, if there are any. `writes`: they are replaced by those of this run. What cannot be read or
    /// written is done without.
    pub(crate) fn open(path: &Path, writes: bool) -> Times {
        let mut state = State::default();
        if let Ok(file) = File::open(path) {
            state.before = Some(BufReader::new(file).lines());
        }
        if writes && let Some(folder) = path.parent() {
            let made = fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(folder);
            let new = path.with_extension(format!("{}", std::process::id()));
            let mut options = File::options();
            options.write(true).create(true).truncate(true).mode(0o600);
            match made.and_then(|()| options.open(&new)) {
                Ok(file) => {
                    state.after = Some(BufWriter::new(file));
                    state.paths = Some((new, path.to_owned()));
                }
                Err(error) => log::info!("times of objects are not kept: {error}"),
            }
        }
        Times {
            state: Mutex::new(state),
        }
    }

    /// Announces a key. Keys are announced in their order.
    pub(crate) fn expect(&self, key: &str) {
        let mut state = lock(&self.state);
        if state.after.is_none() {
            return;
        }
        state
            .waiting
            .entry(key.to_owned())
            .or_insert(Progress::Waiting);
        if state.waiting.len() > MOST_WAITING
            && let Some((key, Progress::Done(Some(known)))) = state.waiting.pop_first()
        {
            debug_assert_eq!(key, known.key);
            state.write(&known);
        }
    }

    /// The record of a listed object. Objects are looked up in the order of their keys.
    pub(crate) fn known(&self, listed: &ListedObject) -> Option<Known> {
        let mut state = lock(&self.state);
        loop {
            if state.peeked.is_none() {
                state.peeked = state.next_before();
            }
            match &state.peeked {
                None => return None,
                Some(known) if known.key < listed.key => state.peeked = None,
                Some(known) if known.is_of(listed) => return state.peeked.take(),
                Some(_) => return None,
            }
        }
    }

    /// Records this for the next run.
    pub(crate) fn remember(&self, known: Known) {
        let mut state = lock(&self.state);
        if let Some(progress) = state.waiting.get_mut(&known.key) {
            *progress = Progress::Done(Some(known));
        }
    }

    /// Nothing more is recorded of this key.
    pub(crate) fn settle(&self, key: &str) {
        let mut state = lock(&self.state);
        if let Some(progress @ Progress::Waiting) = state.waiting.get_mut(key) {
            *progress = Progress::Done(None);
        }
        while let Some(first) = state.waiting.first_entry() {
            match first.get() {
                Progress::Waiting => return,
                Progress::Done(_) => {
                    if let Progress::Done(Some(known)) = first.remove() {
                        state.write(&known);
                    }
                }
            }
        }
    }

    /// Replaces the records of the run before. `complete`: the walk came to its end; what it did not come to is kept
    /// otherwise.
    pub(crate) fn finish(&self, complete: bool) {
        let mut state = lock(&self.state);
        for (_, progress) in std::mem::take(&mut state.waiting) {
            if let Progress::Done(Some(known)) = progress {
                state.write(&known);
            }
        }
        if !complete {
            let peeked = state.peeked.take();
            let mut next = peeked.or_else(|| state.next_before());
            while let Some(known) = next {
                state.write(&known);
                next = state.next_before();
            }
        }
        let Some((new, path)) = state.paths.take() else {
            return;
        };
        let flushed = state.after.take().map(|mut file| file.flush());
        if matches!(flushed, Some(Ok(()))) {
            let _ = fs::rename(&new, path);
        } else {
            let _ = fs::remove_file(&new);
        }
    }
}

impl Drop for Times {
    fn drop(&mut self) {
        if let Some((new, _)) = &lock(&self.state).paths {
            let _ = fs::remove_file(new);
        }
    }
}

impl State {
    fn write(&mut self, known: &Known) {
        if let Some(file) = &mut self.after
            && let Ok(line) = serde_json::to_string(known)
            && writeln!(file, "{line}").is_err()
        {
            self.after = None;
        }
    }

    /// A line that is none of ours ends the records.
    fn next_before(&mut self) -> Option<Known> {
        let line = self.before.as_mut()?.next()?.ok()?;
        let known = match line.len() <= LONGEST_LINE {
            true => serde_json::from_str(&line).ok(),
            false => None,
        };
        if known.is_none() {
            self.before = None;
        }
        known
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::store::object_store::{ETag, ObjectHeaders};

    fn listed(key: &str, at: u64) -> ListedObject {
        ListedObject {
            key: key.to_owned(),
            size: 3,
            etag: ETag::new(format!("\"{key}\"")),
            last_modified: UNIX_EPOCH + Duration::from_secs(at),
            storage_class: String::new(),
        }
    }

    fn known(key: &str, at: u64) -> Known {
        let listed = listed(key, at);
        let meta = ObjectMeta {
            size: listed.size,
            etag: listed.etag,
            last_modified: listed.last_modified,
            headers: ObjectHeaders::default(),
            crc64: None,
            date: listed.last_modified,
        };
        let attributes = Attributes::implicit_directory(Timestamp {
            seconds: 5,
            nanos: 6,
        });
        Known::new(key, &meta, meta.last_modified, &attributes, &Xattrs::new())
    }

    #[test]
    fn records_last_from_one_run_to_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state/times");
        let times = Times::open(&path, true);
        for key in ["a", "a.txt", "b", "c"] {
            times.expect(key);
            assert_eq!(times.known(&listed(key, 10)), None);
        }
        // Done in another order; nothing is recorded of one.
        for key in ["c", "a.txt", "a"] {
            times.remember(known(key, 10));
            times.settle(key);
        }
        times.settle("b");
        times.finish(true);
        let times = Times::open(&path, false);
        assert_eq!(times.known(&listed("a", 10)), Some(known("a", 10)));
        // Stored since.
        assert_eq!(times.known(&listed("a.txt", 11)), None);
        assert_eq!(times.known(&listed("b", 10)), None);
        assert_eq!(times.known(&listed("c", 9)), Some(known("c", 10)));
        let facts = known("a", 10).facts();
        assert_eq!((facts.mtime.seconds, facts.mtime.nanos), (5, 6));
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn an_interrupted_run_keeps_what_it_did_not_come_to() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("times");
        let times = Times::open(&path, true);
        for key in ["a", "b", "c"] {
            times.expect(key);
            times.remember(known(key, 10));
            times.settle(key);
        }
        times.finish(true);
        let times = Times::open(&path, true);
        times.expect("a");
        assert!(times.known(&listed("a", 10)).is_some());
        times.remember(known("a", 20));
        times.settle("a");
        times.finish(false);
        let times = Times::open(&path, false);
        assert_eq!(times.known(&listed("a", 15)), Some(known("a", 20)));
        assert!(times.known(&listed("c", 10)).is_some());
    }

    #[test]
    fn a_damaged_file_is_done_without() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("times");
        fs::write(&path, b"{\"key\":1}\n\xff\n").unwrap();
        let times = Times::open(&path, false);
        assert_eq!(times.known(&listed("a", 10)), None);
    }
}
