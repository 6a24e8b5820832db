//! The reports of all parts of a run, put together: is every object in exactly one of them, and is none missing?
//!
//! Keys are compared in order. Reports and inventories are in none, so their keys are sorted first, in runs that memory
//! can hold, which are written to nameless temporary files and merged: memory does not grow with the number of objects,
//! the disk holds each key once or twice.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::Serialize;
use tokio::sync::mpsc;

use super::finding::Grade;
use super::local_file::LocalFileError;
use super::report::{Lines, ReportLine, Task};
use crate::store::error::Error as StoreError;
use crate::store::object_store::ListedObject;

/// The keys of one sorted run, in bytes of memory.
const RUN: usize = 32 << 20;
/// What a key takes besides its bytes.
const OVERHEAD: usize = 48;

/// Why reports cannot be put together.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{} is not a report", crate::text::path(.0))]
    NotAReport(PathBuf),
    #[error("{} is of another run than {}: another command, source, inventory or number of parts", crate::text::path(.0), crate::text::path(.1))]
    OtherRun(PathBuf, PathBuf),
    #[error("{} and {} are of the same part", crate::text::path(.0), crate::text::path(.1))]
    SamePart(PathBuf, PathBuf),
    #[error("{} names an object of another part: {key}", crate::text::path(path))]
    OtherPart { path: PathBuf, key: String },
    #[error("cannot write keys to a temporary file")]
    Temporary(#[from] io::Error),
    #[error(transparent)]
    Local(#[from] LocalFileError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The most passes of a run.
const MAX_PASSES: usize = 8;

/// What the reports of a run say together.
#[derive(Debug)]
pub(crate) struct Reports {
    /// That of the first; the others differ in the part.
    pub task: Task,
    /// Parts without a report.
    pub absent: Vec<u32>,
    /// Reports of runs that have not finished, or whose lines are damaged.
    pub unfinished: Vec<PathBuf>,
    /// In the order of the run.
    pub passes: Vec<Pass>,
    keys: Sorter,
}

/// What a pass has found.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Pass {
    pub pass: String,
    pub objects: u64,
    /// Those that need attention.
    pub bad: u64,
    pub outcomes: BTreeMap<String, u64>,
}

impl Reports {
    /// Reads all reports, each once. Blocks.
    ///
    /// # Errors
    /// [`Error`].
    pub(crate) fn read(paths: &[PathBuf]) -> Result<Reports, Error> {
        let mut reports: Option<Reports> = None;
        let mut parts: BTreeMap<u32, PathBuf> = BTreeMap::new();
        for path in paths {
            let mut lines = Lines::open(path)?;
            let task = lines.header()?;
            let task = task.ok_or_else(|| Error::NotAReport(path.clone()))?;
            let reports = reports.get_or_insert_with(|| Reports {
                task: task.clone(),
                absent: Vec::new(),
                unfinished: Vec::new(),
                passes: Vec::new(),
                keys: Sorter::new(RUN),
            });
            if !is_same_run(&task, &reports.task) {
                return Err(Error::OtherRun(path.clone(), paths[0].clone()));
            }
            let part = task.shard.map_or(0, |shard| shard.index);
            if let Some(other) = parts.insert(part, path.clone()) {
                return Err(Error::SamePart(path.clone(), other));
            }
            if !reports.add(path, &task, &mut lines)? {
                reports.unfinished.push(path.clone());
            }
        }
        let mut reports = reports.ok_or_else(|| Error::NotAReport(PathBuf::new()))?;
        let count = reports.task.shard.map_or(1, |shard| shard.count);
        let absent = (0..count).filter(|part| !parts.contains_key(part));
        reports.absent = absent.take(MAX_ABSENT).collect();
        Ok(reports)
    }

    /// Whether the report is complete.
    fn add(&mut self, path: &Path, task: &Task, lines: &mut Lines) -> Result<bool, Error> {
        let mut complete = false;
        while let Some(line) = lines.next_line()? {
            match line {
                Ok(ReportLine::Object(object)) => {
                    if task.shard.is_some_and(|shard| !shard.contains(&object.key)) {
                        return Err(Error::OtherPart {
                            path: path.to_owned(),
                            key: object.key,
                        });
                    }
                    let Some(number) = self.pass(&object.pass) else {
                        return Ok(false);
                    };
                    let pass = &mut self.passes[usize::from(number)];
                    pass.objects += 1;
                    pass.bad += u64::from(object.grade == Grade::Bad);
                    *pass.outcomes.entry(object.outcome).or_default() += 1;
                    self.keys.push(Key {
                        key: object.key,
                        pass: number,
                    })?;
                }
                Ok(ReportLine::Pass { pass, .. }) => drop(self.pass(&pass)),
                Ok(ReportLine::Complete { complete: said }) => complete = said,
                Err(()) => return Ok(false),
            }
        }
        Ok(complete)
    }

    /// The number of a pass; none if there are too many.
    fn pass(&mut self, name: &str) -> Option<u8> {
        let found = self.passes.iter().position(|pass| pass.pass == name);
        let number = found.unwrap_or_else(|| {
            self.passes.push(Pass {
                pass: name.to_owned(),
                ..Pass::default()
            });
            self.passes.len() - 1
        });
        u8::try_from(number)
            .ok()
            .filter(|number| usize::from(*number) < MAX_PASSES)
    }

    /// Compares the keys of the reports with those of an inventory and of a listing, which is in order. `each` learns of
    /// every key that is not in all of them once. Blocks.
    ///
    /// # Errors
    /// [`Error`].
    pub(crate) fn compare(
        self,
        inventory: Option<(Sorter, SystemTime)>,
        listing: Option<mpsc::Receiver<Result<ListedObject, StoreError>>>,
        each: &mut dyn FnMut(&str, Difference),
    ) -> Result<Comparison, Error> {
        let passes = self.passes.len();
        let mut reported = self.keys.sorted()?;
        let (inventory, created) = match inventory {
            Some((keys, created)) => (Some(keys), created),
            None => (None, SystemTime::UNIX_EPOCH),
        };
        let has_listing = listing.is_some();
        let mut counted = Comparison {
            inventory: inventory.is_some().then_some(0),
            listing: has_listing.then_some(0),
            ..Comparison::default()
        };
        let mut inventory = inventory.map(Sorter::sorted).transpose()?;
        let mut listing = Listing(listing);
        let mut next_reported = reported.next()?;
        let mut next_named = next_of(&mut inventory)?;
        let mut next_listed = listing.next()?;
        loop {
            let keys = [
                next_reported.as_ref().map(|key| &key.key),
                next_named.as_ref().map(|key| &key.key),
                next_listed.as_ref().map(|object| &object.key),
            ];
            let Some(key) = keys.into_iter().flatten().min().cloned() else {
                return Ok(counted);
            };
            let mut times = [0_u64; MAX_PASSES];
            while let Some(same) = next_reported.take_if(|other| other.key == key) {
                times[usize::from(same.pass)] += 1;
                next_reported = reported.next()?;
            }
            let mut named = false;
            while next_named.take_if(|other| other.key == key).is_some() {
                named = true;
                next_named = next_of(&mut inventory)?;
            }
            let listed = next_listed.take_if(|other| other.key == key);
            if listed.is_some() {
                next_listed = listing.next()?;
            }
            counted.inventory = counted.inventory.map(|count| count + u64::from(named));
            let is_listed = u64::from(listed.is_some());
            counted.listing = counted.listing.map(|count| count + is_listed);
            let times = &times[..passes];
            let reported = times.iter().any(|times| *times > 0);
            counted.reported += u64::from(reported);
            let gone = has_listing && listed.is_none();
            let whole = !times.is_empty() && times.iter().all(|times| *times > 0);
            let difference = if times.iter().any(|times| *times > 1) {
                Difference::Twice
            } else if gone {
                Difference::Gone
            } else if whole {
                continue;
            } else if listed.is_some_and(|object| !named && object.last_modified >= created)
                && inventory.is_some()
            {
                Difference::New
            } else {
                Difference::Missing
            };
            *counted.differences.entry(difference).or_default() += 1;
            each(&key, difference);
        }
    }
}

/// No more parts without a report are named.
const MAX_ABSENT: usize = 100_000;

fn is_same_run(one: &Task, other: &Task) -> bool {
    let count = |task: &Task| task.shard.map(|shard| shard.count);
    let without_part = |task: &Task| Task {
        shard: None,
        ..task.clone()
    };
    count(one) == count(other) && without_part(one) == without_part(other)
}

/// What is wrong with a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Difference {
    /// It is in the inventory or in the bucket, and not in every pass of a report.
    Missing,
    /// It came into the bucket after the inventory, and is in no report.
    New,
    /// A pass reports it more than once.
    Twice,
    /// It is not in the bucket any more.
    Gone,
}

impl Difference {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Difference::Missing => "missing",
            Difference::New => "new",
            Difference::Twice => "twice",
            Difference::Gone => "gone",
        }
    }

    /// Whether there is something left to do.
    pub(crate) fn needs_attention(self) -> bool {
        self != Difference::Gone
    }
}

/// The numbers of different keys.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Comparison {
    pub reported: u64,
    pub inventory: Option<u64>,
    pub listing: Option<u64>,
    pub differences: BTreeMap<Difference, u64>,
}

fn next_of(keys: &mut Option<Sorted>) -> Result<Option<Key>, Error> {
    match keys {
        Some(keys) => Ok(keys.next()?),
        None => Ok(None),
    }
}

struct Listing(Option<mpsc::Receiver<Result<ListedObject, StoreError>>>);

impl Listing {
    fn next(&mut self) -> Result<Option<ListedObject>, Error> {
        let object = self.0.as_mut().and_then(mpsc::Receiver::blocking_recv);
        Ok(object.transpose()?)
    }
}

/// A key, and the number of the pass that reports it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub key: String,
    pub pass: u8,
}

/// Takes any number of keys and returns them in order.
#[derive(Debug)]
pub(crate) struct Sorter {
    keys: Vec<Key>,
    /// The memory that they take.
    bytes: usize,
    /// The most that they may take.
    most: usize,
    runs: Vec<File>,
}

impl Sorter {
    /// Holds so many bytes of keys in memory.
    pub(crate) fn new(most: usize) -> Sorter {
        Sorter {
            keys: Vec::new(),
            bytes: 0,
            most,
            runs: Vec::new(),
        }
    }

    /// For the keys of an inventory.
    pub(crate) fn of_inventory() -> Sorter {
        Sorter::new(RUN)
    }

    /// # Errors
    /// A temporary file cannot be written.
    pub(crate) fn push(&mut self, key: Key) -> io::Result<()> {
        self.bytes += key.key.len() + OVERHEAD;
        self.keys.push(key);
        match self.bytes > self.most {
            true => self.write_run(),
            false => Ok(()),
        }
    }

    fn write_run(&mut self) -> io::Result<()> {
        self.keys.sort_unstable();
        let mut file = BufWriter::new(tempfile::tempfile()?);
        for Key { key, pass } in self.keys.drain(..) {
            let length = u32::try_from(key.len()).map_err(io::Error::other)?;
            file.write_all(&length.to_le_bytes())?;
            file.write_all(&[pass])?;
            file.write_all(key.as_bytes())?;
        }
        self.bytes = 0;
        let mut file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.seek(SeekFrom::Start(0))?;
        self.runs.push(file);
        Ok(())
    }

    fn sorted(mut self) -> io::Result<Sorted> {
        if !self.keys.is_empty() {
            self.write_run()?;
        }
        let mut sorted = Sorted {
            runs: self.runs.into_iter().map(BufReader::new).collect(),
            next: BinaryHeap::new(),
        };
        for run in 0..sorted.runs.len() {
            sorted.read(run)?;
        }
        Ok(sorted)
    }
}

/// Keys in order.
struct Sorted {
    runs: Vec<BufReader<File>>,
    /// The next one of each run.
    next: BinaryHeap<Reverse<(Key, usize)>>,
}

impl Sorted {
    fn next(&mut self) -> io::Result<Option<Key>> {
        let Some(Reverse((key, run))) = self.next.pop() else {
            return Ok(None);
        };
        self.read(run)?;
        Ok(Some(key))
    }

    fn read(&mut self, run: usize) -> io::Result<()> {
        let file = &mut self.runs[run];
        let mut head = [0; 5];
        match file.read_exact(&mut head) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error),
        }
        let [a, b, c, d, pass] = head;
        let mut key = vec![0; u32::from_le_bytes([a, b, c, d]) as usize];
        file.read_exact(&mut key)?;
        let key = String::from_utf8(key).map_err(io::Error::other)?;
        self.next.push(Reverse((Key { key, pass }, run)));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::object_store::ETag;
    use crate::tools::shard::Shard;

    #[test]
    fn keys_are_sorted_whatever_memory_holds() {
        let key = |number: u32| Key {
            key: format!("key-{}", number.wrapping_mul(2_654_435_761) % 1000),
            pass: (number % 2) as u8,
        };
        for most in [0, 1000, usize::MAX] {
            let mut sorter = Sorter::new(most);
            let mut expected: Vec<Key> = (0..3000).map(key).collect();
            for key in expected.clone() {
                sorter.push(key).unwrap();
            }
            expected.sort();
            let mut sorted = sorter.sorted().unwrap();
            for key in expected {
                assert_eq!(sorted.next().unwrap(), Some(key));
            }
            assert_eq!(sorted.next().unwrap(), None);
        }
    }

    fn task(part: &str) -> Task {
        Task {
            command: "verify".to_owned(),
            source: "oss://bucket".to_owned(),
            shard: part.parse().ok(),
            inventory: None,
        }
    }

    /// A report with these keys and these last lines.
    fn report(folder: &Path, part: &str, keys: &[&str], complete: bool) -> PathBuf {
        let path = folder.join(part.replace('/', "of"));
        let task = serde_json::to_value(task(part)).unwrap();
        let mut header = serde_json::json!({"report": 1});
        let fields = header.as_object_mut().unwrap();
        fields.extend(task.as_object().unwrap().clone());
        let mut text = format!("{header}\n");
        for key in keys {
            let line = serde_json::json!({
                "pass": "verify", "key": key, "size": 1, "outcome": "no-damage", "grade": "fine",
            });
            text.push_str(&format!("{line}\n"));
        }
        if complete {
            text.push_str("{\"complete\":true}\n");
        }
        std::fs::write(&path, text).unwrap();
        path
    }

    /// `a` to `f`, in their parts.
    fn two_parts(folder: &Path, left_out: &str, twice: &str) -> [PathBuf; 2] {
        let part = |index| Shard { index, count: 2 };
        [0, 1].map(|index| {
            let keys = ["f", "a", "c", "b", "d", "e"];
            let mut keys: Vec<_> = keys
                .into_iter()
                .filter(|key| part(index).contains(key) && *key != left_out)
                .collect();
            if part(index).contains(twice) && !twice.is_empty() {
                keys.push(twice);
            }
            report(folder, &part(index).to_string(), &keys, true)
        })
    }

    fn sorter(keys: &[&str]) -> Sorter {
        let mut sorter = Sorter::new(100);
        for key in keys {
            let key = (*key).to_owned();
            sorter.push(Key { key, pass: 0 }).unwrap();
        }
        sorter
    }

    /// With the second of their last modification.
    fn listing(keys: &[(&str, u64)]) -> mpsc::Receiver<Result<ListedObject, StoreError>> {
        let (sender, receiver) = mpsc::channel(100);
        for (key, second) in keys {
            let object = ListedObject {
                key: (*key).to_owned(),
                size: 1,
                etag: ETag::new("E"),
                last_modified: crate::base::time::from_unix_seconds(*second),
                storage_class: String::new(),
            };
            sender.try_send(Ok(object)).unwrap();
        }
        receiver
    }

    #[test]
    fn each_key_is_in_one_report_once_and_none_is_missing() {
        let folder = tempfile::tempdir().unwrap();
        let all = ["a", "b", "c", "d", "e", "f"];
        let created = crate::base::time::from_unix_seconds(100);
        let old = all.map(|key| (key, 50));
        let new = [&old[..], &[("g", 150)]].concat();
        let earlier = [&old[..], &[("g", 50)]].concat();
        type Case<'a> = (
            &'a str,
            &'a str,
            Option<&'a [&'a str]>,
            Option<&'a [(&'a str, u64)]>,
            &'a [(&'a str, &'a str)],
        );
        let cases: &[Case] = &[
            ("", "", None, None, &[]),
            ("", "", Some(&all), Some(&old), &[]),
            ("", "c", Some(&all), Some(&old), &[("c", "twice")]),
            ("c", "", Some(&all), Some(&old), &[("c", "missing")]),
            ("c", "", Some(&all), None, &[("c", "missing")]),
            ("c", "", None, Some(&old), &[("c", "missing")]),
            ("", "", Some(&all), Some(&new), &[("g", "new")]),
            ("", "", Some(&all), Some(&earlier), &[("g", "missing")]),
            ("", "", None, Some(&new), &[("g", "missing")]),
            ("", "", Some(&all), Some(&old[1..]), &[("a", "gone")]),
            ("a", "", Some(&all), Some(&old[1..]), &[("a", "gone")]),
        ];
        for (left_out, twice, inventory, listed, expected) in cases {
            let paths = two_parts(folder.path(), left_out, twice);
            let reports = Reports::read(&paths).unwrap();
            assert!(reports.absent.is_empty() && reports.unfinished.is_empty());
            let inventory = inventory.map(|keys| (sorter(keys), created));
            let mut seen = Vec::new();
            let counted =
                reports.compare(inventory, listed.map(listing), &mut |key, difference| {
                    seen.push((key.to_owned(), difference.name()));
                });
            let seen: Vec<_> = seen
                .iter()
                .map(|(key, name)| (key.as_str(), *name))
                .collect();
            assert_eq!(seen, *expected, "{left_out} {twice} {listed:?}");
            let reported = 6 - u64::from(!left_out.is_empty());
            assert_eq!(counted.unwrap().reported, reported);
        }
    }

    #[test]
    fn reports_of_one_run_are_put_together() {
        let folder = tempfile::tempdir().unwrap();
        let [first, second] = two_parts(folder.path(), "", "");
        let reports = Reports::read(std::slice::from_ref(&second)).unwrap();
        assert_eq!(reports.absent, [0]);
        assert!(matches!(
            Reports::read(&[first.clone(), first.clone()]),
            Err(Error::SamePart(..))
        ));
        let other = report(folder.path(), "0/3", &[], true);
        assert!(matches!(
            Reports::read(&[first.clone(), other]),
            Err(Error::OtherRun(..))
        ));
        let text = std::fs::read_to_string(&first).unwrap();
        let swapped = text.replacen("\"index\":0", "\"index\":1", 1);
        std::fs::write(&first, swapped).unwrap();
        assert!(matches!(
            Reports::read(std::slice::from_ref(&first)),
            Err(Error::OtherPart { .. })
        ));
        std::fs::write(&first, text.replace("{\"complete\":true}\n", "")).unwrap();
        let reports = Reports::read(&[first.clone(), second]).unwrap();
        assert_eq!(reports.unfinished, std::slice::from_ref(&first));
        std::fs::write(&first, "my thesis\n").unwrap();
        assert!(matches!(Reports::read(&[first]), Err(Error::NotAReport(_))));
    }
}
