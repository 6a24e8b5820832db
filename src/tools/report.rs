//! The report of a run: a line of JSON for each object, in a file from which an interrupted run goes on.
//!
//! Beside the report is a checkpoint: how far the run is, and how long the report was then. A run that goes on cuts the
//! report to that length and begins after that place, so the report has each object once, however often the run was
//! interrupted; a few objects are processed twice. When the run is complete its last line says so, and the checkpoint
//! is removed.
//!
//! Objects are finished in another order than they are begun. A checkpoint therefore names the last object up to which
//! all are finished, and those beyond it that are finished too: no more than are processed in parallel.

use std::collections::{BTreeSet, VecDeque};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, BufRead, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::finding::{Finding, Grade, Summary};
use super::inventory;
use super::local_file::LocalFileError;
use super::shard::Shard;
use crate::base::sync::lock;

/// The time between checkpoints: so much is repeated by a run that goes on after a kill.
const BETWEEN: Duration = Duration::from_secs(2);
/// The longest line of a report, and the largest checkpoint, in bytes. Neither is read without a bound.
const MAX_LINE: u64 = 64 << 10;
const MAX_CHECKPOINT: u64 = 64 << 20;

/// What a run does, and to which objects. Runs that differ in it have different reports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Task {
    /// The command, with the options that determine what it does.
    pub command: String,
    pub source: String,
    pub shard: Option<Shard>,
    pub inventory: Option<inventory::Identity>,
}

/// The first line.
#[derive(Debug, Serialize, Deserialize)]
struct Header {
    /// The version of the report's form.
    report: u32,
    #[serde(flatten)]
    task: Task,
}

const VERSION: u32 = 1;

/// A place among the objects of a pass.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Position {
    /// So many objects come before it, in this shard.
    pub objects: u64,
    /// The last of them.
    pub after: Option<String>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Checkpoint {
    /// The length of the report, in bytes.
    length: u64,
    /// Those that are complete, in order.
    passes: Vec<Finished>,
    /// The one that is under way.
    pass: Option<Started>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Finished {
    pass: String,
    summary: Summary,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Started {
    pass: String,
    position: Position,
    /// Keys of objects beyond the position that are finished.
    beyond: BTreeSet<String>,
    summary: Summary,
}

/// A line that is neither the first nor about an object.
#[derive(Serialize)]
struct PassLine<'a> {
    pass: &'a str,
    summary: &'a Summary,
}

#[derive(Serialize)]
struct LastLine {
    complete: bool,
}

/// Why a report cannot be written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(
        "{} is not a report that this run could go on with: {why}",
        crate::text::path(path)
    )]
    Foreign { path: PathBuf, why: &'static str },
    #[error("another process is writing {}", crate::text::path(.0))]
    InUse(PathBuf),
    #[error(transparent)]
    Local(#[from] LocalFileError),
}

/// How a pass begins.
#[derive(Debug)]
pub(crate) enum Beginning {
    /// It was completed by an earlier run.
    Finished(Summary),
    From(Position),
}

/// The report of the run that this process makes. Blocks for short writes.
pub(crate) struct Report {
    path: PathBuf,
    state: Mutex<State>,
}

struct State {
    file: BufWriter<File>,
    checkpoint: Checkpoint,
    /// Objects that were begun, in order, and whether they are finished.
    begun: VecDeque<(String, bool)>,
    /// Objects beyond the position that an earlier run has finished.
    skipped: BTreeSet<String>,
    last: Instant,
    /// Complete: only read.
    complete: bool,
    failed: Option<LocalFileError>,
}

impl Report {
    /// Creates the report, or goes on with the one that an interrupted run of the same task has left. It is locked as
    /// long as it is open.
    ///
    /// # Errors
    /// [`Error::Foreign`] if the file is something else, or of another task; [`Error::InUse`].
    pub(crate) fn open(path: &Path, task: &Task) -> Result<Report, Error> {
        let failed = |error| LocalFileError::writing(path, error);
        let foreign = |why| {
            Err(Error::Foreign {
                path: path.to_owned(),
                why,
            })
        };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(Error::InUse(path.to_owned())),
            Err(TryLockError::Error(error)) => return Err(failed(error).into()),
        }
        let size = file.metadata().map_err(failed)?.len();
        let kept = read_checkpoint(&checkpoint_path(path))?;
        let mut lines = Lines::of(file.try_clone().map_err(failed)?, path);
        let header = match size {
            0 => None,
            _ => lines.header()?,
        };
        let (checkpoint, complete) = match (header, kept) {
            // Killed before the first checkpoint, or before the first line was written.
            (None, Some(Checkpoint { length: 0, .. })) => (None, false),
            (None, _) if size == 0 => (None, false),
            (None, _) => return foreign("it has another first line"),
            (Some(other), _) if other != *task => {
                return foreign("it is of another command, source, inventory or part");
            }
            (Some(_), Some(kept)) if kept.length <= size => (Some(kept), false),
            (Some(_), Some(_)) => return foreign("it is shorter than its checkpoint says"),
            (Some(_), None) => match lines.finished()? {
                Some(passes) => {
                    let kept = Checkpoint {
                        length: size,
                        passes,
                        pass: None,
                    };
                    (Some(kept), true)
                }
                None => return foreign("it is not complete, and its checkpoint is missing"),
            },
        };
        let mut state = State {
            file: BufWriter::new(file),
            checkpoint: checkpoint.unwrap_or_default(),
            begun: VecDeque::new(),
            skipped: BTreeSet::new(),
            last: Instant::now(),
            complete,
            failed: None,
        };
        if !complete {
            // The checkpoint first: a report without one is not gone on with.
            let length = state.checkpoint.length;
            let cut = state.file.get_ref().set_len(length);
            cut.map_err(failed)?;
            state.file.seek(SeekFrom::Start(length)).map_err(failed)?;
            if length == 0 {
                state.save(path)?;
                let header = Header {
                    report: VERSION,
                    task: task.clone(),
                };
                state.line(&header).map_err(failed)?;
                state.save(path)?;
            }
        }
        Ok(Report {
            path: path.to_owned(),
            state: Mutex::new(state),
        })
    }

    /// Begins a pass, or goes on with it.
    pub(crate) fn begin(&self, pass: &str) -> Beginning {
        let mut state = lock(&self.state);
        let finished = &state.checkpoint.passes;
        if let Some(finished) = finished.iter().find(|finished| finished.pass == pass) {
            return Beginning::Finished(finished.summary.clone());
        }
        let started = match state.checkpoint.pass.take() {
            Some(started) if started.pass == pass => started,
            _ => Started {
                pass: pass.to_owned(),
                ..Started::default()
            },
        };
        state.begun.clear();
        state.skipped = started.beyond.clone();
        let position = started.position.clone();
        state.checkpoint.pass = Some(started);
        Beginning::From(position)
    }

    /// An object is next in the pass. False if an earlier run has finished it already.
    ///
    /// # Errors
    /// The report could not be written.
    pub(crate) fn object(&self, key: &str) -> Result<bool, LocalFileError> {
        let mut state = lock(&self.state);
        if let Some(error) = state.failed.take() {
            return Err(error);
        }
        let done = state.skipped.remove(key);
        state.begun.push_back((key.to_owned(), done));
        state.advance();
        Ok(!done)
    }

    /// An object is finished. If that cannot be written, [`Report::object`] and [`Report::end`] return the error.
    pub(crate) fn finding(&self, finding: &Finding) {
        let mut state = lock(&self.state);
        if let Err(error) = state.finding(finding, &self.path) {
            state.failed.get_or_insert(error);
        }
    }

    /// The pass is complete.
    ///
    /// # Errors
    /// The report could not be written.
    pub(crate) fn end(&self) -> Result<Summary, LocalFileError> {
        let mut state = lock(&self.state);
        if let Some(error) = state.failed.take() {
            return Err(error);
        }
        let Some(started) = state.checkpoint.pass.take() else {
            return Ok(Summary::default());
        };
        let line = PassLine {
            pass: &started.pass,
            summary: &started.summary,
        };
        let written = state.line(&line);
        written.map_err(|error| LocalFileError::writing(&self.path, error))?;
        state.checkpoint.passes.push(Finished {
            pass: started.pass,
            summary: started.summary.clone(),
        });
        state.save(&self.path)?;
        Ok(started.summary)
    }

    /// The run is interrupted: what it has finished is kept.
    ///
    /// # Errors
    /// The report could not be written.
    pub(crate) fn interrupt(&self) -> Result<(), LocalFileError> {
        lock(&self.state).save(&self.path)
    }

    /// The run is complete.
    ///
    /// # Errors
    /// The report could not be written.
    pub(crate) fn complete(&self) -> Result<(), LocalFileError> {
        let mut state = lock(&self.state);
        if state.complete {
            return Ok(());
        }
        let failed = |error| LocalFileError::writing(&self.path, error);
        state.line(&LastLine { complete: true }).map_err(failed)?;
        state.file.flush().map_err(failed)?;
        state.file.get_ref().sync_all().map_err(failed)?;
        state.complete = true;
        let checkpoint = checkpoint_path(&self.path);
        std::fs::remove_file(&checkpoint)
            .map_err(|error| LocalFileError::writing(&checkpoint, error))
    }
}

impl State {
    fn line(&mut self, line: &impl Serialize) -> io::Result<()> {
        let line = serde_json::to_string(line)?;
        self.file.write_all(line.as_bytes())?;
        self.file.write_all(b"\n")?;
        self.checkpoint.length += line.len() as u64 + 1;
        Ok(())
    }

    fn finding(&mut self, finding: &Finding, path: &Path) -> Result<(), LocalFileError> {
        #[derive(Serialize)]
        struct Line<'a> {
            pass: &'a str,
            #[serde(flatten)]
            finding: &'a Finding,
        }
        let pass = self.checkpoint.pass.as_ref();
        let pass = pass.map_or_else(String::new, |started| started.pass.clone());
        let line = Line {
            pass: &pass,
            finding,
        };
        self.line(&line)
            .map_err(|error| LocalFileError::writing(path, error))?;
        if let Some(started) = &mut self.checkpoint.pass {
            started.summary.count(finding);
        }
        let mut begun = self.begun.iter_mut();
        if let Some(begun) = begun.find(|(key, done)| *key == finding.key && !done) {
            begun.1 = true;
        }
        self.advance();
        match self.last.elapsed() > BETWEEN {
            true => self.save(path),
            false => Ok(()),
        }
    }

    /// Moves the position past objects that are finished.
    fn advance(&mut self) {
        let Some(started) = &mut self.checkpoint.pass else {
            return;
        };
        while let Some((_, true)) = self.begun.front() {
            started.position.objects += 1;
            started.position.after = self.begun.pop_front().map(|(key, _)| key);
        }
    }

    /// Writes a checkpoint, after what it tells of.
    fn save(&mut self, path: &Path) -> Result<(), LocalFileError> {
        if self.complete {
            return Ok(());
        }
        let failed = |error| LocalFileError::writing(path, error);
        self.last = Instant::now();
        self.file.flush().map_err(failed)?;
        self.file.get_ref().sync_data().map_err(failed)?;
        if let Some(started) = &mut self.checkpoint.pass {
            let done = self.begun.iter().filter(|(_, done)| *done);
            let done = done.map(|(key, _)| key.clone());
            started.beyond = done.chain(self.skipped.iter().cloned()).collect();
        }
        let checkpoint = checkpoint_path(path);
        let mut new = checkpoint.clone().into_os_string();
        new.push(".new");
        let write = || {
            let mut file = File::create(&new)?;
            file.write_all(&serde_json::to_vec(&self.checkpoint)?)?;
            file.sync_all()?;
            std::fs::rename(&new, &checkpoint)
        };
        write().map_err(|error| LocalFileError::writing(&checkpoint, error))
    }
}

fn checkpoint_path(report: &Path) -> PathBuf {
    let mut path = report.as_os_str().to_owned();
    path.push(".checkpoint");
    path.into()
}

fn read_checkpoint(path: &Path) -> Result<Option<Checkpoint>, Error> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(LocalFileError::reading(path, error).into()),
    };
    let mut bytes = Vec::new();
    file.take(MAX_CHECKPOINT)
        .read_to_end(&mut bytes)
        .map_err(|error| LocalFileError::reading(path, error))?;
    match serde_json::from_slice(&bytes) {
        Ok(checkpoint) => Ok(Some(checkpoint)),
        Err(_) => Err(Error::Foreign {
            path: path.to_owned(),
            why: "it is not a checkpoint",
        }),
    }
}

/// A line of a report.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum ReportLine {
    Object(ReportedObject),
    Pass { pass: String, summary: Summary },
    Complete { complete: bool },
}

/// What a report says of an object.
#[derive(Debug, Deserialize)]
pub(crate) struct ReportedObject {
    pub pass: String,
    pub key: String,
    pub outcome: String,
    pub grade: Grade,
}

/// Reads a report.
pub(crate) struct Lines {
    reader: BufReader<File>,
    path: PathBuf,
    line: Vec<u8>,
}

impl Lines {
    /// # Errors
    /// The file cannot be read.
    pub(crate) fn open(path: &Path) -> Result<Lines, LocalFileError> {
        let file = File::open(path).map_err(|error| LocalFileError::reading(path, error))?;
        Ok(Lines::of(file, path))
    }

    fn of(file: File, path: &Path) -> Lines {
        Lines {
            reader: BufReader::new(file),
            path: path.to_owned(),
            line: Vec::new(),
        }
    }

    /// The first line. None if it is not that of a report.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(crate) fn header(&mut self) -> Result<Option<Task>, LocalFileError> {
        let whole = self.read()?;
        let header = serde_json::from_slice::<Header>(&self.line).ok();
        let header = header.filter(|header| whole && header.report == VERSION);
        Ok(header.map(|header| header.task))
    }

    /// The next line; none at the end. A line that is cut, or none of a report's, is an error in the inner result.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(crate) fn next_line(&mut self) -> Result<Option<Result<ReportLine, ()>>, LocalFileError> {
        let whole = self.read()?;
        if self.line.is_empty() {
            return Ok(None);
        }
        let line = serde_json::from_slice(&self.line).map_err(|_| ());
        Ok(Some(if whole { line } else { Err(()) }))
    }

    /// False if the line has no end.
    fn read(&mut self) -> Result<bool, LocalFileError> {
        self.line.clear();
        let read = self
            .reader
            .by_ref()
            .take(MAX_LINE)
            .read_until(b'\n', &mut self.line);
        read.map_err(|error| LocalFileError::reading(&self.path, error))?;
        Ok(self.line.ends_with(b"\n"))
    }

    /// The passes of a report that is complete.
    fn finished(&mut self) -> Result<Option<Vec<Finished>>, LocalFileError> {
        let mut passes = Vec::new();
        let mut complete = false;
        while let Some(line) = self.next_line()? {
            complete = false;
            match line {
                Ok(ReportLine::Pass { pass, summary }) => passes.push(Finished { pass, summary }),
                Ok(ReportLine::Complete { complete: said }) => complete = said,
                Ok(ReportLine::Object(_)) => {}
                Err(()) => return Ok(None),
            }
        }
        Ok(complete.then_some(passes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(index: u32) -> Task {
        Task {
            command: "verify".to_owned(),
            source: "oss://bucket".to_owned(),
            shard: Some(Shard { index, count: 2 }),
            inventory: None,
        }
    }

    fn finding(key: &str) -> Finding {
        Finding {
            key: key.to_owned(),
            size: 1,
            outcome: "no-damage",
            grade: Grade::Fine,
            format: None,
            detail: None,
        }
    }

    fn keys(path: &Path) -> Vec<String> {
        let mut lines = Lines::open(path).unwrap();
        assert_eq!(lines.header().unwrap(), Some(task(0)));
        let mut keys = Vec::new();
        while let Some(line) = lines.next_line().unwrap() {
            if let ReportLine::Object(object) = line.unwrap() {
                keys.push(object.key);
            }
        }
        keys
    }

    fn position(beginning: Beginning) -> Position {
        match beginning {
            Beginning::From(position) => position,
            Beginning::Finished(summary) => panic!("{summary:?}"),
        }
    }

    /// What was finished after the last checkpoint is finished again; everything is reported once.
    #[test]
    fn a_run_goes_on_where_its_last_checkpoint_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("report");
        let report = Report::open(&path, &task(0)).unwrap();
        assert_eq!(position(report.begin("verify")), Position::default());
        for key in ["a", "b", "c", "d", "e"] {
            assert!(report.object(key).unwrap());
        }
        for key in ["b", "a", "d"] {
            report.finding(&finding(key));
        }
        report.interrupt().unwrap();
        // This one is lost: the process is killed before the next checkpoint.
        report.finding(&finding("c"));
        lock(&report.state).file.flush().unwrap();
        drop(report);
        assert_eq!(keys(&path), ["b", "a", "d", "c"]);

        let report = Report::open(&path, &task(0)).unwrap();
        let begun = position(report.begin("verify"));
        assert_eq!((begun.objects, begun.after.as_deref()), (2, Some("b")));
        for (key, left) in [("c", true), ("d", false), ("e", true)] {
            assert_eq!(report.object(key).unwrap(), left, "{key}");
        }
        report.finding(&finding("e"));
        report.finding(&finding("c"));
        let summary = report.end().unwrap();
        assert_eq!((summary.objects, summary.of("no-damage")), (5, 5));
        report.complete().unwrap();
        drop(report);
        assert_eq!(keys(&path), ["b", "a", "d", "e", "c"]);
        assert!(!checkpoint_path(&path).exists());

        // Once more: there is nothing left to do.
        let report = Report::open(&path, &task(0)).unwrap();
        assert!(
            matches!(report.begin("verify"), Beginning::Finished(summary) if summary.objects == 5)
        );
        report.complete().unwrap();
        assert_eq!(keys(&path).len(), 5);
    }

    #[test]
    fn a_second_pass_goes_on_without_the_first() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("report");
        let report = Report::open(&path, &task(0)).unwrap();
        position(report.begin("rewrap"));
        report.object("a").unwrap();
        report.finding(&finding("a"));
        report.end().unwrap();
        position(report.begin("proof"));
        report.object("a").unwrap();
        report.interrupt().unwrap();
        drop(report);
        let report = Report::open(&path, &task(0)).unwrap();
        assert!(
            matches!(report.begin("rewrap"), Beginning::Finished(summary) if summary.objects == 1)
        );
        assert_eq!(position(report.begin("proof")), Position::default());
        assert!(report.object("a").unwrap());
    }

    #[test]
    fn a_file_that_is_not_the_report_of_this_run_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("report");
        std::fs::write(&path, "my thesis\n").unwrap();
        assert!(matches!(
            Report::open(&path, &task(0)),
            Err(Error::Foreign { .. })
        ));
        assert_eq!(std::fs::read(&path).unwrap(), b"my thesis\n");
        std::fs::remove_file(&path).unwrap();

        let report = Report::open(&path, &task(0)).unwrap();
        assert!(matches!(
            Report::open(&path, &task(0)),
            Err(Error::InUse(_))
        ));
        drop(report);
        assert!(matches!(
            Report::open(&path, &task(1)),
            Err(Error::Foreign { .. })
        ));
        // Interrupted, and what says how far it was is gone: nothing is repeated unasked.
        std::fs::remove_file(checkpoint_path(&path)).unwrap();
        assert!(matches!(
            Report::open(&path, &task(0)),
            Err(Error::Foreign { .. })
        ));
    }
}
