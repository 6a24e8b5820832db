//! What a transfer does, in the order of names: both sides are walked together, and each name becomes a piece of work.
//!
//! Nothing is collected: the plan holds the names that may still be joined by a directory of the same name, the folders
//! that are open, and at most a page of keys to be deleted. Folders are made in order, so that they are there before what
//! is in them; files are transferred in parallel.
//!
//! Deletions follow two rules of rsync's: what the filter excludes is not deleted, and nothing is deleted below a folder
//! of the source that could not be read.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::io;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use futures_util::stream;

use super::across::Across;
use super::down::{DIRECTORY_MODE, Down, Target};
use super::entry::{Entry, Item, Node, finding, name_of};
use super::folder::Given;
use super::join::{Join, Of, Pair, sort_key};
use super::options::{Control, Options, Place};
use super::times::Times;
use super::up::Up;
use super::walk::Items;
use crate::base::error_chain::chain;
use crate::store::error::Error as StoreError;
use crate::store::object_store::{ListedObject, ObjectKey, ObjectStore};
use crate::tools::bulk::{self, Progress, Sink};
use crate::tools::finding::{Finding, Grade, Summary};

/// The most keys that one request deletes.
const DELETED_AT_ONCE: usize = 1000;

/// Where files come from and go to.
pub(crate) enum Route {
    Up(Arc<Up>, Place),
    /// None: the destination does not exist, and is not made in a dry run.
    Down(Arc<Down>, Place, Option<Arc<Target>>),
    Across(Arc<Across>, Place),
}

/// A piece of work, and the finding that stands for it if it fails for no reason of its own.
type Work = (
    Finding,
    BoxFuture<'static, Result<Vec<Finding>, StoreError>>,
);

pub(crate) struct Plan {
    route: Arc<Route>,
    options: Options,
    control: Control,
    times: Arc<Times>,
    from: Side,
    to: Side,
    join: Join<Entry>,
    works: VecDeque<Work>,
    /// The roots have been dealt with.
    begun: bool,
    ended: bool,
    /// What is below this path at the source is not known.
    unknown: Option<String>,
    /// Of the destination, if that is a bucket.
    doomed: Vec<ListedObject>,
    /// The local folders that the walk is in, with a path each. None: it could not be opened or made, or is gone.
    open: Vec<(String, Option<Arc<Target>>)>,
}

struct Side {
    items: Items,
    next: Option<Entry>,
}

impl Plan {
    /// Of the walks of both sides, the source's first.
    pub(crate) fn new(
        route: Route,
        (from, to): (Items, Items),
        options: Options,
        control: Control,
        times: Arc<Times>,
    ) -> Plan {
        let open = match &route {
            Route::Down(_, _, root) => vec![(String::new(), root.clone())],
            _ => Vec::new(),
        };
        let side = |items| Side { items, next: None };
        Plan {
            route: Arc::new(route),
            options,
            control,
            times,
            from: side(from),
            to: side(to),
            join: Join::default(),
            works: VecDeque::new(),
            begun: false,
            ended: false,
            unknown: None,
            doomed: Vec::new(),
            open,
        }
    }

    /// Carries it out.
    ///
    /// # Errors
    /// Those that end the whole: see [`bulk::each`].
    pub(crate) async fn run(
        self,
        parallel: usize,
        progress: &Progress,
        sink: Sink<'_>,
    ) -> Result<Summary, StoreError> {
        let (times, control) = (self.times.clone(), self.control.clone());
        let works = stream::unfold(self, |mut plan| async move {
            let work = plan.next().await?;
            Some((work, plan))
        });
        let result = bulk::each(works, parallel, progress, sink).await;
        times.finish(result.is_ok() && !control.is_stopped());
        result
    }

    async fn next(&mut self) -> Option<Result<Work, StoreError>> {
        loop {
            if self.control.is_stopped() {
                return None;
            }
            if let Some(work) = self.works.pop_front() {
                return Some(Ok(work));
            }
            if self.ended {
                return None;
            }
            if let Err(error) = self.step().await {
                self.ended = true;
                return Some(Err(error));
            }
        }
    }

    async fn step(&mut self) -> Result<(), StoreError> {
        self.fill(Of::From).await?;
        self.fill(Of::To).await?;
        if !self.begun {
            self.begun = true;
            return self.roots();
        }
        let place = |entry: &Entry| sort_key(&entry.path, entry.is_directory);
        let of = match (&self.from.next, &self.to.next) {
            (None, None) => {
                let mut ready = Vec::new();
                self.join.finish(&mut ready);
                for pair in ready {
                    self.pair(pair);
                }
                self.flush();
                // Folders are given their attributes with the last of what is in them.
                self.open.clear();
                self.ended = true;
                return Ok(());
            }
            (Some(from), Some(to)) if place(from) <= place(to) => Of::From,
            (Some(_), None) => Of::From,
            _ => Of::To,
        };
        let entry = match of {
            Of::From => self.from.next.take(),
            Of::To => self.to.next.take(),
        };
        let Some(mut entry) = entry else {
            return Ok(());
        };
        self.announce(of, &mut entry);
        let mut ready = Vec::new();
        let (path, is_directory) = (entry.path.clone(), entry.is_directory);
        self.join.add(of, &path, is_directory, entry, &mut ready);
        for pair in ready {
            self.pair(pair);
        }
        Ok(())
    }

    /// Receives the next entry of a side, and reports what comes before it.
    async fn fill(&mut self, of: Of) -> Result<(), StoreError> {
        loop {
            let side = match of {
                Of::From => &mut self.from,
                Of::To => &mut self.to,
            };
            if side.next.is_some() {
                return Ok(());
            }
            match side.items.recv().await {
                None => return Ok(()),
                Some(item) => match item? {
                    Item::Entry(entry) => side.next = Some(entry),
                    // Names that cannot be files are the destination's own business.
                    Item::Finding(found) if of == Of::From || found.grade == Grade::Bad => {
                        self.report(found);
                    }
                    Item::Finding(_) => {}
                    Item::Unreadable(path, found) => {
                        if of == Of::From {
                            self.unknown = Some(path);
                        }
                        self.report(found);
                    }
                },
            }
        }
    }

    /// The roots of both sides, which come first.
    fn roots(&mut self) -> Result<(), StoreError> {
        let is_root = |entry: &mut Entry| entry.path.is_empty();
        let from = self.from.next.take_if(is_root);
        let to = self.to.next.take_if(is_root);
        let Some(mut from) = from else {
            return Ok(());
        };
        let route = self.route.clone();
        self.announce(Of::From, &mut from);
        match &*route {
            Route::Up(_, place) | Route::Across(_, place) => {
                let to = to.map(|mut to| {
                    self.announce(Of::To, &mut to);
                    to
                });
                let key = place.key("", true);
                self.transfer(from, key, to);
            }
            Route::Down(down, _, Some(target)) => {
                let (down, target) = (down.clone(), target.clone());
                let key = from.object().map(|object| object.key.clone());
                let lost = lost(&from);
                let work = async move { down.directory(from, target, false).await };
                self.push(lost, key, work);
            }
            Route::Down(..) => {}
        }
        Ok(())
    }

    /// Records are found and written in the order of keys.
    fn announce(&self, of: Of, entry: &mut Entry) {
        let key = match (&*self.route, of) {
            (Route::Up(_, place), Of::From) => Some(place.key(&entry.path, entry.is_directory)),
            (Route::Up(..), Of::To) | (Route::Down(..), Of::From) => {
                entry.object().map(|object| object.key.clone())
            }
            _ => None,
        };
        let Some(key) = key else { return };
        self.times.expect(&key);
        if let Some(object) = entry.object() {
            entry.known = self.times.known(object).map(Box::new);
        }
    }

    fn pair(&mut self, pair: Pair<Entry>) {
        if pair.from.is_empty() && (!self.options.delete || self.is_unknown(&pair.path)) {
            // Folders are entered for what may be below them.
            let route = self.route.clone();
            if let (Route::Down(..), Some(_)) = (&*route, &pair.to.directory) {
                self.enter_existing(&pair.path);
            }
            self.settle(&pair);
            return;
        }
        let route = self.route.clone();
        match &*route {
            Route::Up(_, place) | Route::Across(_, place) => self.pair_for_bucket(pair, place),
            Route::Down(down, place, _) => self.pair_for_folder(pair, down, place),
        }
    }

    fn is_unknown(&self, path: &str) -> bool {
        let mut unknown = self.unknown.iter();
        unknown.any(|unknown| {
            unknown.is_empty() || path == unknown || path.starts_with(&format!("{unknown}/"))
        })
    }

    fn pair_for_bucket(&mut self, pair: Pair<Entry>, place: &Place) {
        let Pair { path, from, to } = pair;
        let key = |is_directory| place.key(&path, is_directory);
        if let Some(directory) = from.directory {
            if let Some(file) = from.file {
                self.report(hidden(&file));
            }
            if let Some(file) = to.file {
                self.doom(file);
            }
            if matches!(directory.node, Node::Implied) {
                return;
            }
            self.transfer(directory, key(true), to.directory);
        } else if let Some(file) = from.file {
            if let Some(directory) = to.directory {
                if !self.options.delete {
                    let found = finding(key(false), file.size(), Grade::Bad, "directory-there");
                    self.report(found.detail("the destination has a directory of this name"));
                    self.times.settle(&key(false));
                    self.times.settle(&key(true));
                    return;
                }
                self.doom(directory);
            }
            self.transfer(file, key(false), to.file);
        } else {
            for entry in [to.file, to.directory].into_iter().flatten() {
                self.doom(entry);
            }
        }
    }

    fn transfer(&mut self, entry: Entry, key: String, there: Option<Entry>) {
        let lost = Finding {
            key: key.clone(),
            ..lost(&entry)
        };
        let route = self.route.clone();
        let to = key.clone();
        let work = async move {
            match &*route {
                Route::Up(up, _) => up.entry(entry, to, there).await,
                Route::Across(across, _) => across.entry(entry, to, there).await,
                Route::Down(..) => Ok(Vec::new()),
            }
        };
        self.push(lost, Some(key), work);
    }

    /// Deletes an object of the destination, with others.
    fn doom(&mut self, entry: Entry) {
        if let Node::Object(object) = entry.node {
            self.times.settle(&object.key);
            self.doomed.push(object);
            if self.doomed.len() >= DELETED_AT_ONCE {
                self.flush();
            }
        }
    }

    fn flush(&mut self) {
        let doomed = std::mem::take(&mut self.doomed);
        let store = match &*self.route {
            Route::Up(up, _) => up.bucket.store().clone(),
            Route::Across(across, _) => across.to.store().clone(),
            Route::Down(..) => return,
        };
        let Some(first) = doomed.first() else { return };
        let lost = Finding::new(first, Grade::Bad, "failed");
        let dry_run = self.options.dry_run;
        self.push(
            lost,
            None,
            async move { delete(&store, doomed, dry_run).await },
        );
    }

    fn pair_for_folder(&mut self, pair: Pair<Entry>, down: &Arc<Down>, place: &Place) {
        let dry_run = self.options.dry_run;
        let name = OsStr::new(name_of(&pair.path)).to_owned();
        let parent = self.target_above(&pair.path);
        let Pair { path, from, to } = pair;
        if let Some(directory) = from.directory {
            if let Some(file) = from.file {
                self.settle_entry(&file);
                self.report(hidden(&file));
            }
            let exists = to.directory.is_some();
            if let (Some(parent), Some(_), false) = (&parent, &to.file, dry_run) {
                // It makes way, as in rsync.
                let _ = parent.folder.remove(&name);
            }
            let target = match (parent, exists, dry_run) {
                (None, _, _) => None,
                (Some(_), false, true) => None,
                (Some(parent), true, _) => Some(parent.child(&name)),
                (Some(parent), false, false) => {
                    let made = parent.folder.make_folder(&name);
                    Some(made.and_then(|()| parent.child(&name)))
                }
            };
            let key = place.key(&path, true);
            let target = match target {
                None => None,
                Some(Ok(target)) => Some(target),
                Some(Err(error)) => {
                    let found = finding(key.clone(), 0, Grade::Bad, "not-written");
                    self.report(found.detail(format!("{path}: {}", chain(&error))));
                    None
                }
            };
            self.open.push((path, target.clone()));
            let Some(target) = target else {
                self.settle_entry(&directory);
                if dry_run {
                    self.report(finding(key, 0, Grade::Fine, "would-make-directory"));
                }
                return;
            };
            if let Node::Implied = directory.node {
                if !exists {
                    target.give_at_end(Given {
                        mode: Some(DIRECTORY_MODE),
                        ..Given::default()
                    });
                    self.report(finding(key, 0, Grade::Fine, "directory"));
                }
                return;
            }
            let lost = lost(&directory);
            let down = down.clone();
            let work = async move { down.directory(directory, target, !exists).await };
            self.push(lost, Some(key), work);
            return;
        }
        if let Some(file) = from.file {
            let key = place.key(&path, false);
            if to.directory.is_some() {
                let gone = match (self.options.delete, &parent) {
                    (true, Some(parent)) if !dry_run => parent.folder.remove_tree(&name),
                    (true, _) => Ok(()),
                    (false, _) => Err(io::Error::other("a directory has this name")),
                };
                if let Err(error) = gone {
                    self.times.settle(&key);
                    let found = finding(key, file.size(), Grade::Bad, "directory-there");
                    self.report(found.detail(chain(&error)));
                    self.enter_existing(&path);
                    return;
                }
                self.open.push((path, None));
            }
            if parent.is_none() && !dry_run {
                self.times.settle(&key);
                let found = finding(key, file.size(), Grade::Bad, "not-written");
                self.report(found.detail("its directory could not be made"));
                return;
            }
            let lost = lost(&file);
            let there = to.file.and_then(|entry| entry.stat().cloned());
            let down = down.clone();
            let work = async move { down.file(file, parent, name, there).await };
            self.push(lost, Some(key), work);
            return;
        }
        let Some(parent) = parent else { return };
        if let Some(entry) = to.file {
            let removed = match dry_run {
                true => Ok("would-delete"),
                false => parent.folder.remove(&name).map(|()| "deleted"),
            };
            self.removed(&path, entry.size(), removed);
        }
        if to.directory.is_some() {
            match parent.child(&name) {
                Ok(target) => {
                    if !dry_run {
                        target.remove_at_end();
                    }
                    let outcome = if dry_run { "would-delete" } else { "deleted" };
                    self.removed(&path, 0, Ok(outcome));
                    self.open.push((path, Some(target)));
                }
                Err(error) => self.removed(&path, 0, Err(error)),
            }
        }
    }

    fn removed(&mut self, path: &str, size: u64, removed: io::Result<&'static str>) {
        self.report(match removed {
            Ok(outcome) => finding(path, size, Grade::Fine, outcome),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                finding(path, size, Grade::Left, "gone")
            }
            Err(error) => finding(path, size, Grade::Bad, "not-deleted").detail(chain(&error)),
        });
    }

    /// The open folder that a path is in; the walk has left those that it is not in.
    fn target_above(&mut self, path: &str) -> Option<Arc<Target>> {
        while let Some((folder, target)) = self.open.last() {
            let is_above = folder.is_empty()
                || path
                    .strip_prefix(folder.as_str())
                    .is_some_and(|rest| rest.starts_with('/'));
            if is_above {
                let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
                // Another one above it was not entered.
                return target.clone().filter(|_| folder == parent);
            }
            self.open.pop();
        }
        None
    }

    /// A folder that only the destination has, and that stays.
    fn enter_existing(&mut self, path: &str) {
        let parent = self.target_above(path);
        let target = parent.and_then(|parent| parent.child(name_of(path).as_ref()).ok());
        self.open.push((path.to_owned(), target));
    }

    fn settle(&self, pair: &Pair<Entry>) {
        let sides = [&pair.from, &pair.to];
        for side in sides {
            for entry in [&side.file, &side.directory].into_iter().flatten() {
                self.settle_entry(entry);
            }
        }
    }

    fn settle_entry(&self, entry: &Entry) {
        if let Some(object) = entry.object() {
            self.times.settle(&object.key);
        }
    }

    fn report(&mut self, found: Finding) {
        let lost = found.clone();
        self.push(lost, None, async move { Ok(vec![found]) });
    }

    fn push(
        &mut self,
        lost: Finding,
        key: Option<String>,
        work: impl Future<Output = Result<Vec<Finding>, StoreError>> + Send + 'static,
    ) {
        let times = self.times.clone();
        let work = async move {
            let found = work.await;
            if let Some(key) = key {
                times.settle(&key);
            }
            found
        };
        self.works.push_back((lost, Box::pin(work)));
    }
}

/// Deletes objects with one request.
///
/// # Errors
/// Those of the request.
pub(crate) async fn delete(
    store: &Arc<dyn ObjectStore>,
    doomed: Vec<ListedObject>,
    dry_run: bool,
) -> Result<Vec<Finding>, StoreError> {
    let found = |object: &ListedObject, outcome| Finding::new(object, Grade::Fine, outcome);
    if dry_run {
        return Ok(doomed
            .iter()
            .map(|object| found(object, "would-delete"))
            .collect());
    }
    let keys: Vec<ObjectKey> = doomed
        .iter()
        .filter_map(|object| ObjectKey::new(object.key.as_str()).ok())
        .collect();
    let mut failed = store.delete_many(&keys).await?;
    Ok(doomed
        .iter()
        .map(|object| {
            let at = failed
                .iter()
                .position(|(key, _)| key.as_str() == object.key);
            match at.map(|at| failed.swap_remove(at)) {
                None => found(object, "deleted"),
                Some((_, error)) => {
                    Finding::new(object, Grade::Bad, "not-deleted").detail(chain(&error))
                }
            }
        })
        .collect())
}

fn lost(entry: &Entry) -> Finding {
    match entry.object() {
        Some(object) => Finding::new(object, Grade::Bad, "failed"),
        None => finding(entry.path.clone(), entry.size(), Grade::Bad, "failed"),
    }
}

/// A file whose name is a directory's too.
fn hidden(file: &Entry) -> Finding {
    let found = Finding {
        grade: Grade::Left,
        outcome: "hidden",
        ..lost(file)
    };
    found.detail("a directory has the same name")
}
