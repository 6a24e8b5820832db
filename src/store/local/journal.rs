//! The change log of a bucket folder, and the index that follows it.
//!
//! The log is the one truth about which objects there are: a line in it is the moment at which an object
//! appears, is replaced or goes. Any number of processes may have the folder open. Those that change
//! something hold the lock file's `flock` meanwhile, so a condition is checked against, and the line
//! appended to, the same state. Those that read take no lock: before they answer, they compare the log's
//! length with what they have read (one `fstat`) and read what is new.
//!
//! What makes it hard:
//! - a crash can tear the last line. Readers take whole lines only; the next writer cuts the torn one off.
//! - waste piles up. A writer that finds more waste than truth writes a new log and renames it over the old
//!   one; whoever has the old one open sees that it has no name any more, and loads the new one.
//! - one process holds the lock and stops. Waiting for it has a deadline.

use std::fs::{self, File, TryLockError};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use super::class::{self, Class};
use super::directory::Directory;
use super::disk::{failed, into_inner, message};
use super::index::{Index, Line};
use super::record::{self, Content, Details, Facts, MAX_LINE};
use crate::store::error::Error;
use crate::store::object_store::Result;

pub const MARKER: &str = "ossvault-bucket";
const MARKER_TEXT: &str = "ossvault bucket folder, format 1\n";
const LOCK: &str = "lock";
const LOG: &str = "log";
const NEW_LOG: &str = "log.new";

/// What is read of the log in one piece.
const BLOCK: usize = 1 << 20;

/// Damaged lines that are reported one by one.
const SHOWN: u64 = 10;

/// Below this size a log is not worth rewriting.
const SMALL_LOG: u64 = 4 << 20;

/// A writer holds the lock for one append, or for rewriting a log: seconds at most.
const LOCK_WAIT: Duration = Duration::from_secs(30);

pub struct Journal {
    root: Directory,
    sync: bool,
    /// The lock file. Taken before `state`; held for every change, across disk I/O, never across an await.
    writer: Mutex<File>,
    /// Held for memory, and by whoever catches up while it reads the log's new lines.
    state: RwLock<State>,
}

pub struct State {
    log: Arc<File>,
    /// Everything before this offset is in the index.
    end: u64,
    /// That offset is within a line that is longer than any of ours, and skipped.
    overlong: bool,
    index: Index,
}

/// An object as the log tells it.
#[derive(Clone, Debug)]
pub struct Found {
    pub facts: Facts,
    pub content: Content,
    pub details: Details,
}

impl State {
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// # Errors
    /// [`Error::Corrupt`] when the line has been damaged since it was loaded.
    pub fn find(&self, key: &str) -> Result<Option<Found>> {
        let Some(entry) = self.index.get(key) else {
            return Ok(None);
        };
        let mut line = vec![0; entry.line.len as usize];
        self.log
            .read_exact_at(&mut line, entry.line.offset)
            .map_err(failed("reading the log", Path::new(LOG)))?;
        let (content, details) = record::details(&line)
            .ok_or_else(|| Error::Corrupt(message("a damaged line in the bucket's log")))?;
        Ok(Some(Found {
            facts: entry.facts.clone(),
            content,
            details,
        }))
    }

    fn is_current(&self) -> io::Result<bool> {
        let log = self.log.metadata()?;
        Ok(log.nlink() > 0 && log.len() == self.end)
    }

    /// Reads what others appended.
    fn catch_up(&mut self, root: &Directory) -> Result<()> {
        let path = root.path_of(LOG);
        let mut log = self
            .log
            .metadata()
            .map_err(failed("reading the log", &path))?;
        if log.nlink() == 0 || log.len() < self.end {
            *self = State::open(root)?;
            log = self
                .log
                .metadata()
                .map_err(failed("reading the log", &path))?;
        }
        // One byte more than there is: the end is found by a read that fills less.
        let new = usize::try_from(log.len() - self.end.min(log.len())).unwrap_or(BLOCK);
        let mut block = vec![0; (new + 1).min(BLOCK)];
        // Bytes of the block that are a line's beginning.
        let mut kept = 0;
        let mut damaged = 0;
        loop {
            let read = self
                .log
                .read_at(&mut block[kept..], self.end + kept as u64)
                .map_err(failed("reading the log", &path))?;
            if read == 0 {
                if damaged > SHOWN {
                    let more = damaged - SHOWN;
                    log::warn!("{}: skipped {more} more damaged lines", path.display());
                }
                return Ok(());
            }
            let filled = kept + read;
            let mut begin = 0;
            while let Some(len) = block[begin..filled].iter().position(|byte| *byte == b'\n') {
                let line = &block[begin..begin + len];
                let offset = self.end + begin as u64;
                let change = match std::mem::take(&mut self.overlong) {
                    true => None,
                    false => record::parse(line),
                };
                match change {
                    Some(change) => self.index.apply(
                        change,
                        Line {
                            offset,
                            len: len as u32,
                        },
                    ),
                    None => {
                        damaged += 1;
                        if damaged <= SHOWN {
                            log::warn!(
                                "{}: skipped a damaged line at offset {offset}",
                                path.display()
                            );
                        }
                    }
                }
                begin += len + 1;
            }
            self.end += begin as u64;
            block.copy_within(begin..filled, 0);
            kept = filled - begin;
            if self.overlong || kept > MAX_LINE {
                self.overlong = true;
                self.end += kept as u64;
                kept = 0;
            }
            if kept == block.len() {
                block.resize((block.len() * 2).clamp(BLOCK, MAX_LINE + 1), 0);
            }
        }
    }

    fn open(root: &Directory) -> Result<State> {
        let path = root.path_of(LOG);
        let log = root
            .open_log(LOG, false)
            .map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => Error::NoSuchBucket(path.display().to_string()),
                _ => failed("opening the log", &path)(error),
            })?;
        Ok(State {
            log: Arc::new(log),
            end: 0,
            overlong: false,
            index: Index::default(),
        })
    }
}

/// Holds the folder's lock; see [`Journal::lock`].
pub struct Locked<'a> {
    journal: &'a Journal,
    lock: MutexGuard<'a, File>,
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        // Cannot fail for a descriptor that is open; and the lock ends with the descriptor anyway.
        let _ = self.lock.unlock();
    }
}

impl Journal {
    /// Makes the folder a bucket of this class if it is empty.
    ///
    /// # Errors
    /// [`Error::Misconfigured`] when it holds something else.
    pub fn open(root: Directory, class: Class, sync: bool) -> Result<Journal> {
        if !is_bucket(&root)? {
            check_empty(&root)?;
        }
        let lock_path = root.path_of(LOCK);
        let lock = root
            .open_or_create(LOCK)
            .map_err(failed("opening the lock file", &lock_path))?;
        take(&lock, &lock_path)?;
        // Again under the lock: another process may have been quicker.
        if !is_bucket(&root)? {
            make_bucket(&root, class, sync)?;
        }
        let mut state = State::open(&root)?;
        state.catch_up(&root)?;
        lock.unlock().map_err(failed("unlocking", &lock_path))?;
        Ok(Journal {
            root,
            sync,
            writer: Mutex::new(lock),
            state: RwLock::new(state),
        })
    }

    /// The state with every change that had been made when this was called.
    pub fn fresh(&self) -> Result<RwLockReadGuard<'_, State>> {
        let state = self.state.read().unwrap_or_else(into_inner);
        if state
            .is_current()
            .map_err(failed("reading the log", self.root.path()))?
        {
            return Ok(state);
        }
        drop(state);
        self.state
            .write()
            .unwrap_or_else(into_inner)
            .catch_up(&self.root)?;
        Ok(self.state.read().unwrap_or_else(into_inner))
    }

    pub fn find(&self, key: &str) -> Result<Option<Found>> {
        self.fresh()?.find(key)
    }

    /// Waits until no other process and no other thread is changing the bucket. Blocks, with a deadline.
    ///
    /// # Errors
    /// [`Error::TimedOut`].
    pub fn lock(&self) -> Result<Locked<'_>> {
        let lock = self.writer.lock().unwrap_or_else(into_inner);
        take(&lock, &self.root.path_of(LOCK))?;
        Ok(Locked {
            journal: self,
            lock,
        })
    }
}

impl Locked<'_> {
    /// Nothing changes it while the lock is held.
    pub fn state(&self) -> Result<RwLockReadGuard<'_, State>> {
        self.journal.fresh()
    }

    /// The moment of change: everybody sees it from now on.
    ///
    /// # Errors
    /// [`Error::TooLarge`] for a line that would not be read again.
    pub fn commit(&self, lines: &str) -> Result<Committed> {
        let journal = self.journal;
        let path = journal.root.path_of(LOG);
        if lines.lines().any(|line| line.len() > MAX_LINE) {
            return Err(Error::TooLarge(message(
                "more metadata or parts than an object can have",
            )));
        }
        let mut state = journal.state.write().unwrap_or_else(into_inner);
        state.catch_up(&journal.root)?;
        let end = state.end;
        let append = || {
            if state.log.metadata()?.len() != end {
                state.log.set_len(end)?;
            }
            if state.overlong {
                (&*state.log).write_all(b"\n")?;
            }
            (&*state.log).write_all(lines.as_bytes())
        };
        if let Err(error) = append() {
            // What was written of it must not become the beginning of the next line.
            let _ = state.log.set_len(end);
            return Err(failed("writing the log", &path)(error));
        }
        state.catch_up(&journal.root)?;
        if state.end > SMALL_LOG && state.index.live_bytes() < state.end / 2 {
            if let Err(error) = rewrite(&journal.root, &state, journal.sync) {
                log::warn!("{}: the log cannot be rewritten: {error}", path.display());
            }
            state.catch_up(&journal.root)?;
        }
        Ok(Committed {
            log: journal.sync.then(|| state.log.clone()),
        })
    }
}

/// A change that is seen, but maybe not yet on the disk.
#[must_use]
pub struct Committed {
    log: Option<Arc<File>>,
}

impl Committed {
    /// Waits for the disk. For the time after the lock is given back: others need not wait for it too.
    pub fn sync(self) -> Result<()> {
        match self.log {
            Some(log) => log
                .sync_data()
                .map_err(failed("syncing the log", Path::new(LOG))),
            None => Ok(()),
        }
    }
}

/// Writes a log with the living lines only and gives it the log's name.
fn rewrite(root: &Directory, state: &State, sync: bool) -> io::Result<()> {
    // Left by a crash.
    match root.remove_file(NEW_LOG) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut new = BufWriter::with_capacity(1 << 20, root.create_file(NEW_LOG)?);
    let mut lines: Vec<Line> = state.index.lines().collect();
    // In the order of the old log: it is read in one sweep.
    lines.sort_unstable_by_key(|line| line.offset);
    let mut text = Vec::new();
    for line in lines {
        text.resize(line.len as usize + 1, 0);
        state.log.read_exact_at(&mut text, line.offset)?;
        new.write_all(&text)?;
    }
    let new = new.into_inner().map_err(io::IntoInnerError::into_error)?;
    if sync {
        new.sync_all()?;
    }
    root.rename(NEW_LOG, root, LOG)?;
    if sync {
        root.sync()?;
    }
    Ok(())
}

/// `flock` that waits, but not for ever.
fn take(lock: &File, path: &Path) -> Result<()> {
    let deadline = Instant::now() + LOCK_WAIT;
    let mut pause = Duration::from_micros(20);
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::Error(error)) => return Err(failed("locking", path)(error)),
            Err(TryLockError::WouldBlock) => {
                if Instant::now() >= deadline {
                    return Err(Error::TimedOut(message(format!(
                        "{}: another process has held the lock for {} s",
                        path.display(),
                        LOCK_WAIT.as_secs()
                    ))));
                }
                std::thread::sleep(pause);
                pause = (pause * 2).min(Duration::from_millis(2));
            }
        }
    }
}

/// Opens the folder that the user named, and makes it if it is absent.
pub fn open_folder(folder: &Path) -> Result<Directory> {
    fs::create_dir_all(folder).map_err(failed("creating the bucket's folder", folder))?;
    Directory::open(folder).map_err(failed("opening the bucket's folder", folder))
}

/// Whether the folder is a bucket already.
///
/// # Errors
/// [`Error::Misconfigured`] when it is one of a format this program does not know.
pub fn is_bucket(root: &Directory) -> Result<bool> {
    let other = || {
        Error::Misconfigured(message(format!(
            "{} is a bucket folder of another format than 1, or damaged",
            root.path().display()
        )))
    };
    match root.read(MARKER, MARKER_TEXT.len() as u64) {
        Ok(text) if text == MARKER_TEXT.as_bytes() => Ok(true),
        Ok(_) => Err(other()),
        Err(error) => match error.kind() {
            io::ErrorKind::NotFound => Ok(false),
            io::ErrorKind::FileTooLarge | io::ErrorKind::InvalidData => Err(other()),
            _ => Err(failed("reading the marker", &root.path_of(MARKER))(error)),
        },
    }
}

/// What a bucket folder has; `lost+found` is what a fresh file system has.
const OWN: [&str; 9] = [
    MARKER,
    class::FILE,
    LOCK,
    LOG,
    NEW_LOG,
    "data",
    "uploads",
    "tmp",
    "lost+found",
];

/// Something in the folder that is not of a bucket.
pub fn foreign_entry(root: &Directory) -> io::Result<Option<String>> {
    for name in root.names()? {
        let name = name?;
        if !OWN.iter().any(|own| name == *own) {
            return Ok(Some(name.to_string_lossy().escape_debug().to_string()));
        }
    }
    Ok(None)
}

fn check_empty(root: &Directory) -> Result<()> {
    match foreign_entry(root).map_err(failed("reading the folder", root.path()))? {
        None => Ok(()),
        Some(name) => Err(Error::Misconfigured(message(format!(
            "{} is neither empty nor a bucket folder: it holds {name}",
            root.path().display()
        )))),
    }
}

/// The marker comes last, by rename: a folder that has it is whole.
fn make_bucket(root: &Directory, class: Class, sync: bool) -> Result<()> {
    let make = || {
        for name in ["data", "uploads", "tmp"] {
            match root.create_directory(name) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {
                    root.directory(name)?;
                }
            }
        }
        root.open_log(LOG, true)?;
        class.write(root, sync)?;
        let temporary = root.directory("tmp")?;
        match temporary.remove_file(MARKER) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut marker = temporary.create_file(MARKER)?;
        marker.write_all(MARKER_TEXT.as_bytes())?;
        if sync {
            marker.sync_all()?;
        }
        temporary.rename(MARKER, root, MARKER)?;
        if sync {
            root.sync()?;
        }
        Ok(())
    };
    make().map_err(failed("making a bucket of the folder", root.path()))
}

impl Locked<'_> {
    /// The first step of deleting the bucket: from now on every process finds that there is none.
    pub fn retire(&self) -> io::Result<()> {
        let root = &self.journal.root;
        root.remove_file(MARKER)?;
        root.remove_file(LOG)
    }
}

/// The last step, when everything else is gone.
pub fn remove_rest(root: &Directory) -> io::Result<()> {
    for name in [NEW_LOG, class::FILE, LOCK] {
        match root.remove_file(name) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}
