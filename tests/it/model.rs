//! Random operations on a [`Filesystem`], with other writers, failures and remounts, against a plain model.
//!
//! The model is a tree of files in memory that says what POSIX says. What cannot be known exactly is
//! compared as far as it can: an operation whose request was made to fail has happened or has not, and
//! nothing else; a file that another client replaced while it was open is the old version, the new one, or
//! ESTALE, and never a mixture.
//!
//! `OSSVAULT_MODEL_CASES` says how many cases run; scripts/exercise runs many. Cases that failed stand below,
//! in full; the seeds of others are kept in `model.regressions`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ossvault::fs::attributes::{Change, Kind, Timestamp};
use ossvault::fs::error::Error;
use ossvault::fs::handles::open_file::{OpenHow, Writer};
use ossvault::fs::namespace::Ino;
use ossvault::fs::namespace::object_name::Name;
use ossvault::fs::ops::copy_range;
use ossvault::fs::ops::xattr::SetXattr;
use proptest::prelude::*;
use proptest::test_runner::{Config, FileFailurePersistence, TestRunner};

use super::world::{CALLER, Failure, FsResult, Kernel, PART, World};

const DIRECTORIES: [&str; 4] = ["", "d", "e", "d/g"];
const NAMES: [&str; 6] = ["a", "b", "d", "e", "g", ".a.Q1W2E3"];
const SLOTS: usize = 4;

const KINDS: [Kind; 3] = [Kind::File, Kind::Fifo, Kind::Socket];

/// A case takes less than a second.
const HANGS: Duration = Duration::from_secs(60);

// ---- what is done ----

#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Place(pub u8, pub u8);

impl Place {
    fn path(self) -> String {
        let directory = DIRECTORIES[usize::from(self.0) % DIRECTORIES.len()];
        let name = NAMES[usize::from(self.1) % NAMES.len()];
        match directory {
            "" => name.to_owned(),
            directory => format!("{directory}/{name}"),
        }
    }
}

impl std::fmt::Debug for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Place({}, {} /* {} */)", self.0, self.1, self.path())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    Offset(u32),
    End,
}

#[derive(Clone, Debug)]
pub enum Op {
    Create {
        at: Place,
        exclusive: bool,
        slot: u8,
    },
    Open {
        at: Place,
        write: bool,
        truncate: bool,
        slot: u8,
    },
    Read {
        slot: u8,
        offset: u32,
        len: u32,
    },
    Write {
        slot: u8,
        at: At,
        len: u32,
        seed: u8,
    },
    Truncate {
        slot: u8,
        size: u32,
    },
    Allocate {
        slot: u8,
        offset: u32,
        len: u32,
    },
    Flush {
        slot: u8,
    },
    Fsync {
        slot: u8,
    },
    Close {
        slot: u8,
    },
    Resize {
        at: Place,
        size: u32,
    },
    Mkdir {
        at: Place,
    },
    Rmdir {
        at: Place,
    },
    Unlink {
        at: Place,
    },
    Rename {
        from: Place,
        to: Place,
        replace: bool,
    },
    Symlink {
        at: Place,
        target: u8,
    },
    Mknod {
        at: Place,
        kind: u8,
    },
    /// None: the whole, as cp asks for it.
    Copy {
        from: u8,
        to: u8,
        range: Option<(u32, u32)>,
    },
    Chmod {
        at: Place,
        mode: u8,
    },
    SetTime {
        at: Place,
        seconds: u16,
    },
    SetXattr {
        at: Place,
        name: u8,
        value: u8,
        how: u8,
    },
    RemoveXattr {
        at: Place,
        name: u8,
    },
    List {
        directory: u8,
    },
    FsyncDirectory {
        directory: u8,
    },
    Check,
    Forget,
    Remount,
    OthersPut {
        at: Place,
        len: u32,
        seed: u8,
    },
    OthersDelete {
        at: Place,
    },
    OthersChmod {
        at: Place,
        mode: u8,
    },
    OthersReplaceDirectory {
        directory: u8,
    },
    Fail {
        after: u8,
        lost: bool,
        changes_only: bool,
    },
    Tick,
}

#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// In milliseconds; None is an hour, and no other writers.
    pub ttl: Option<u64>,
    pub small_memory: bool,
    pub failures: bool,
    pub threads: bool,
}

fn place() -> impl Strategy<Value = Place> {
    (
        prop_oneof![4 => Just(0u8), 2 => Just(1), 1 => Just(2), 1 => Just(3)],
        0..NAMES.len() as u8,
    )
        .prop_map(|(directory, name)| Place(directory, name))
}

fn slot() -> impl Strategy<Value = u8> {
    0..SLOTS as u8
}

fn len() -> impl Strategy<Value = u32> {
    prop_oneof![
        3 => 1..200u32,
        2 => 1..70_000u32,
        2 => 100_000..300_000u32,
        1 => Just(PART as u32),
    ]
}

fn offset() -> impl Strategy<Value = u32> {
    prop_oneof![
        2 => Just(0u32),
        3 => 0..300u32,
        2 => 0..700_000u32,
        1 => (0..5u32).prop_map(|parts| parts * PART as u32),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let at = || prop_oneof![3 => Just(At::End), 2 => offset().prop_map(At::Offset)];
    prop_oneof![
        12 => (place(), any::<bool>(), slot()).prop_map(|(at, exclusive, slot)| Op::Create { at, exclusive, slot }),
        8 => (place(), any::<bool>(), prop::bool::weighted(0.2), slot())
            .prop_map(|(at, write, truncate, slot)| Op::Open { at, write, truncate, slot }),
        8 => (slot(), offset(), len()).prop_map(|(slot, offset, len)| Op::Read { slot, offset, len }),
        20 => (slot(), at(), len(), any::<u8>()).prop_map(|(slot, at, len, seed)| Op::Write { slot, at, len, seed }),
        4 => (slot(), offset()).prop_map(|(slot, size)| Op::Truncate { slot, size }),
        2 => (slot(), offset(), len()).prop_map(|(slot, offset, len)| Op::Allocate { slot, offset, len }),
        5 => slot().prop_map(|slot| Op::Flush { slot }),
        4 => slot().prop_map(|slot| Op::Fsync { slot }),
        10 => slot().prop_map(|slot| Op::Close { slot }),
        3 => (place(), offset()).prop_map(|(at, size)| Op::Resize { at, size }),
        6 => place().prop_map(|at| Op::Mkdir { at }),
        3 => place().prop_map(|at| Op::Rmdir { at }),
        5 => place().prop_map(|at| Op::Unlink { at }),
        10 => (place(), place(), prop::bool::weighted(0.9)).prop_map(|(from, to, replace)| Op::Rename { from, to, replace }),
        2 => (place(), any::<u8>()).prop_map(|(at, target)| Op::Symlink { at, target }),
        2 => (place(), 0..KINDS.len() as u8).prop_map(|(at, kind)| Op::Mknod { at, kind }),
        6 => (slot(), slot(), prop::option::weighted(0.3, (offset(), len())))
            .prop_map(|(from, to, range)| Op::Copy { from, to, range }),
        3 => (place(), any::<u8>()).prop_map(|(at, mode)| Op::Chmod { at, mode }),
        2 => (place(), any::<u16>()).prop_map(|(at, seconds)| Op::SetTime { at, seconds }),
        3 => (place(), 0..2u8, any::<u8>(), 0..3u8).prop_map(|(at, name, value, how)| Op::SetXattr { at, name, value, how }),
        1 => (place(), 0..2u8).prop_map(|(at, name)| Op::RemoveXattr { at, name }),
        4 => (0..4u8).prop_map(|directory| Op::List { directory }),
        1 => (0..4u8).prop_map(|directory| Op::FsyncDirectory { directory }),
        4 => Just(Op::Check),
        2 => Just(Op::Forget),
        2 => Just(Op::Remount),
        5 => (place(), len(), any::<u8>()).prop_map(|(at, len, seed)| Op::OthersPut { at, len, seed }),
        3 => place().prop_map(|at| Op::OthersDelete { at }),
        2 => (place(), any::<u8>()).prop_map(|(at, mode)| Op::OthersChmod { at, mode }),
        1 => (1..4u8).prop_map(|directory| Op::OthersReplaceDirectory { directory }),
        3 => (0..6u8, any::<bool>(), any::<bool>())
            .prop_map(|(after, lost, changes_only)| Op::Fail { after, lost, changes_only }),
        3 => Just(Op::Tick),
    ]
}

fn setting() -> impl Strategy<Value = Setting> {
    (
        prop_oneof![3 => Just(Some(0)), 1 => Just(Some(30)), 2 => Just(None)],
        any::<bool>(),
        prop::bool::weighted(0.3),
        any::<bool>(),
    )
        .prop_map(|(ttl, small_memory, failures, threads)| Setting {
            ttl,
            small_memory,
            failures,
            threads,
        })
}

// ---- the model ----

type Id = usize;

#[derive(Clone, Debug, PartialEq)]
struct File {
    bytes: Arc<Vec<u8>>,
    mode: u32,
    /// None: not known exactly.
    mtime: Option<i64>,
    xattrs: BTreeMap<String, Vec<u8>>,
    /// The bucket may not have it as it is.
    dirty: bool,
    /// The bucket has some version of it.
    published: bool,
    /// Changed over a base that may be read from the bucket later.
    overlay: bool,
}

#[derive(Clone, Debug, PartialEq)]
enum Node {
    File(File),
    /// `marker`: it is there without anything in it.
    Directory {
        marker: bool,
        mode: u32,
    },
    Symlink(String),
    Special(Kind),
}

#[derive(Clone, Debug, Default)]
struct Tree {
    names: BTreeMap<String, Id>,
    nodes: BTreeMap<Id, Node>,
    next: Id,
}

type Answer<T> = Result<T, &'static str>;

impl Tree {
    fn add(&mut self, path: &str, node: Node) -> Id {
        self.next += 1;
        self.nodes.insert(self.next, node);
        self.names.insert(path.to_owned(), self.next);
        self.next
    }

    fn node(&self, path: &str) -> Option<&Node> {
        Some(&self.nodes[self.names.get(path)?])
    }

    fn file(&mut self, id: Id) -> &mut File {
        match self.nodes.get_mut(&id) {
            Some(Node::File(file)) => file,
            other => panic!("{id} is {other:?}"),
        }
    }

    fn path_of(&self, id: Id) -> Option<String> {
        let named = self.names.iter().find(|(_, named)| **named == id);
        named.map(|(path, _)| path.clone())
    }

    fn parent_of(path: &str) -> &str {
        path.rsplit_once('/').map_or("", |(parent, _)| parent)
    }

    fn check_parent(&self, path: &str) -> Answer<()> {
        let parent = Tree::parent_of(path);
        let mut at = String::new();
        for component in parent.split('/').filter(|component| !component.is_empty()) {
            if !at.is_empty() {
                at.push('/');
            }
            at.push_str(component);
            match self.node(&at) {
                Some(Node::Directory { .. }) => {}
                Some(_) => return Err("ENOTDIR"),
                None => return Err("ENOENT"),
            }
        }
        Ok(())
    }

    fn below(&self, path: &str) -> Vec<String> {
        let prefix = match path {
            "" => String::new(),
            path => format!("{path}/"),
        };
        let names = self.names.keys().filter(|name| name.starts_with(&prefix));
        names.cloned().collect()
    }

    fn children(&self, path: &str) -> BTreeSet<String> {
        let prefix = if path.is_empty() { 0 } else { path.len() + 1 };
        let below = self.below(path).into_iter();
        below
            .map(|name| name[prefix..].to_owned())
            .filter(|name| !name.contains('/'))
            .collect()
    }

    /// What was in a directory and goes by our own doing leaves the directory there.
    fn leave(&mut self, path: &str) {
        let parent = Tree::parent_of(path).to_owned();
        let below = format!("{path}/");
        let others = self.below(&parent).into_iter().any(|other| {
            let unpublished =
                matches!(self.node(&other), Some(Node::File(file)) if !file.published);
            other != path && !other.starts_with(&below) && !unpublished
        });
        if others {
            return;
        }
        if let Some(id) = self.names.get(&parent)
            && let Some(Node::Directory { marker, .. }) = self.nodes.get_mut(id)
        {
            *marker = true;
        }
    }

    fn rename(&mut self, from: &str, to: &str, replace: bool) -> Answer<()> {
        self.check_parent(from)?;
        self.check_parent(to)?;
        let source = *self.names.get(from).ok_or("ENOENT")?;
        let target = self.node(to);
        if target.is_some() && !replace {
            return Err("EEXIST");
        }
        if from == to {
            return Ok(());
        }
        let moves_directory = matches!(self.nodes[&source], Node::Directory { .. });
        match target {
            Some(Node::Directory { .. }) if !moves_directory => return Err("EISDIR"),
            Some(Node::File(_) | Node::Symlink(_) | Node::Special(_)) if moves_directory => {
                return Err("ENOTDIR");
            }
            Some(Node::Directory { .. }) if !self.below(to).is_empty() => return Err("ENOTEMPTY"),
            _ => {}
        }
        let mut moved = vec![from.to_owned()];
        if moves_directory {
            moved.extend(self.below(from));
        }
        self.names.remove(to);
        let ids: Vec<_> = moved
            .iter()
            .map(|path| (path, self.names.remove(path).unwrap()))
            .collect();
        for (path, id) in ids {
            self.names
                .insert(format!("{to}{}", &path[from.len()..]), id);
        }
        self.leave(from);
        Ok(())
    }

    /// Directories without a marker are there as long as something is in them.
    fn sweep(&mut self) {
        loop {
            let empty = self.names.iter().find(|(path, id)| {
                matches!(self.nodes[id], Node::Directory { marker: false, .. })
                    && self.below(path).is_empty()
            });
            let Some(path) = empty.map(|(path, _)| path.clone()) else {
                return;
            };
            self.names.remove(&path);
        }
    }

    fn view(&self) -> BTreeMap<String, Node> {
        let names = self.names.iter();
        names
            .map(|(path, id)| (path.clone(), self.nodes[id].clone()))
            .collect()
    }
}

/// A content, and the one that took its place, unless nothing did.
type Torn = (Arc<Vec<u8>>, Option<Arc<Vec<u8>>>);

#[derive(Clone, Debug)]
struct Slot {
    handle: u64,
    id: Id,
    ino: Ino,
    write: bool,
    /// Replaced or deleted by others since it was opened: what it was, and what it is.
    torn: Option<Torn>,
}

fn pattern(seed: u8, len: u32) -> Vec<u8> {
    (0..len)
        .map(|index| seed.wrapping_add((index % 251) as u8) ^ (index >> 10) as u8)
        .collect()
}

fn errno(error: &Error) -> &'static str {
    match error {
        Error::NotFound => "ENOENT",
        Error::Exists => "EEXIST",
        Error::NotDirectory => "ENOTDIR",
        Error::IsDirectory => "EISDIR",
        Error::NotEmpty => "ENOTEMPTY",
        Error::Invalid => "EINVAL",
        Error::Stale => "ESTALE",
        Error::NoAttribute => "ENODATA",
        Error::Busy => "EBUSY",
        Error::BadHandle => "EBADF",
        Error::TimedOut(_) => "ETIMEDOUT",
        _ => "EIO",
    }
}

// ---- both side by side ----

struct Bench {
    world: World,
    kernel: Kernel,
    setting: Setting,
    tree: Tree,
    slots: HashMap<u8, Slot>,
    failures_seen: u64,
    failed_ever: bool,
}

/// How an operation went, compared with the model.
enum Went<T> {
    Well(T),
    AsRefused,
    /// A request was made to fail, and so did the operation.
    Failed,
}

impl Bench {
    async fn new(setting: Setting) -> Bench {
        let mut world = World::new();
        let ttl = setting
            .ttl
            .map_or(Duration::from_secs(3600), Duration::from_millis);
        world.settings.metadata_ttl = ttl;
        world.settings.dir_ttl = ttl;
        if setting.small_memory {
            world.settings.memory_limit = 6 << 20;
        }
        let kernel = Kernel::new(world.mount().await);
        Bench {
            world,
            kernel,
            setting,
            tree: Tree::default(),
            slots: HashMap::new(),
            failures_seen: 0,
            failed_ever: false,
        }
    }

    fn injected(&self) -> bool {
        self.world.weather.failed() > self.failures_seen
    }

    fn compare<T, M>(&self, what: &str, actual: FsResult<T>, expected: Answer<M>) -> Went<(T, M)> {
        match (actual, expected) {
            (Ok(actual), Ok(expected)) => Went::Well((actual, expected)),
            (Err(_), _) if self.injected() => Went::Failed,
            (Err(error), Err(expected)) => {
                assert_eq!(errno(&error), expected, "{what}: {error:?}");
                Went::AsRefused
            }
            (Ok(_), Err(expected)) => panic!("{what} succeeded instead of {expected}"),
            (Err(error), Ok(_)) => panic!("{what}: {error:?}"),
        }
    }

    fn opened(&self) -> usize {
        let inos: BTreeSet<Ino> = self.slots.values().map(|slot| slot.ino).collect();
        inos.len()
    }

    async fn settle(&mut self) {
        let settled = self
            .kernel
            .settle(self.opened(), Duration::from_secs(30))
            .await;
        assert!(
            settled,
            "what is closed does not get uploaded: {:?}",
            self.kernel.fs.census()
        );
        let open: BTreeSet<Id> = self.slots.values().map(|slot| slot.id).collect();
        for (id, node) in &mut self.tree.nodes {
            if let Node::File(file) = node
                && !open.contains(id)
            {
                (file.dirty, file.published, file.overlay) = (false, true, false);
            }
        }
    }

    /// What was acknowledged is in the bucket, whole.
    async fn check_bucket(&self, id: Id) {
        let Some(path) = self.tree.path_of(id) else {
            return;
        };
        let Node::File(file) = &self.tree.nodes[&id] else {
            return;
        };
        let stored = self.world.others.get(&path).await;
        assert_eq!(
            stored.map(|bytes| bytes == **file.bytes),
            Some(true),
            "{path} was acknowledged and is not in the bucket"
        );
    }

    /// Other writers' changes are seen from now on.
    async fn wait_for_ttl(&self) {
        if let Some(ttl @ 1..) = self.setting.ttl {
            tokio::time::sleep(Duration::from_millis(ttl + 2)).await;
        }
    }

    // ---- slots ----

    async fn close(&mut self, slot: u8) {
        let Some(open) = self.slots.remove(&slot) else {
            return;
        };
        if open.torn.is_some() {
            self.check_torn(&open).await;
        }
        let flushed = self.kernel.fs.flush(open.handle, 0).await;
        self.kernel.fs.release_now(open.handle);
        match flushed {
            Ok(()) if open.torn.is_none() => self.acknowledged(&open, false).await,
            Ok(()) => {}
            Err(error) => assert!(
                self.injected() || open.torn.is_some(),
                "close {slot}: {error:?}"
            ),
        }
        let last = !self.slots.values().any(|other| other.ino == open.ino);
        // One under a temporary name may wait for its rename, which may come next.
        let path = self.tree.path_of(open.id).unwrap_or_default();
        let waits = path.ends_with("Q1W2E3") && open.torn.is_none();
        if last && !waits {
            self.settle().await;
            if open.torn.is_none() {
                self.check_bucket(open.id).await;
            }
        }
    }

    /// Of a file that others replaced while it was open: one version or ESTALE.
    async fn check_torn(&self, slot: &Slot) {
        let (old, new) = slot.torn.as_ref().unwrap();
        match self.kernel.read_all(slot.handle).await {
            Ok(content) => {
                let known = content == **old || new.as_ref().is_some_and(|new| content == ***new);
                assert!(known, "a mixture of versions was read");
            }
            Err(Error::Stale) => {}
            Err(error) => assert!(self.injected(), "reading what was replaced: {error:?}"),
        }
    }

    /// A slot that is open and of one piece; those that are not are checked and closed.
    async fn sound(&mut self, slot: u8) -> Option<Slot> {
        let open = self.slots.get(&slot)?.clone();
        if open.torn.is_some() {
            self.close(slot).await;
            return None;
        }
        Some(open)
    }

    // ---- the steps ----

    async fn step(&mut self, op: &Op) {
        self.failures_seen = self.world.weather.failed();
        match op.clone() {
            Op::Create {
                at,
                exclusive,
                slot,
            } => self.create(&at.path(), exclusive, slot).await,
            Op::Open {
                at,
                write,
                truncate,
                slot,
            } => {
                self.open(&at.path(), write, write && truncate, slot).await;
            }
            Op::Read { slot, offset, len } => self.read(slot, offset, len).await,
            Op::Write {
                slot,
                at,
                len,
                seed,
            } => self.write(slot, at, len, seed).await,
            Op::Truncate { slot, size } => {
                if let Some(open) = self.sound(slot).await.filter(|open| open.write) {
                    self.resize(open.ino, open.id, size).await;
                }
            }
            Op::Resize { at, size } => self.resize_path(&at.path(), size).await,
            Op::Allocate { slot, offset, len } => self.allocate(slot, offset, len).await,
            Op::Flush { slot } => self.flush(slot, false).await,
            Op::Fsync { slot } => self.flush(slot, true).await,
            Op::Close { slot } => self.close(slot).await,
            Op::Mkdir { at } => self.mkdir(&at.path()).await,
            Op::Rmdir { at } => self.rmdir(&at.path()).await,
            Op::Unlink { at } => self.unlink(&at.path()).await,
            Op::Rename { from, to, replace } => {
                self.rename(&from.path(), &to.path(), replace).await;
            }
            Op::Symlink { at, target } => self.symlink(&at.path(), target).await,
            Op::Mknod { at, kind } => {
                let kind = KINDS[usize::from(kind) % KINDS.len()];
                self.mknod(&at.path(), kind).await;
            }
            Op::Copy { from, to, range } => self.copy(from, to, range).await,
            Op::Chmod { at, mode } => self.chmod(&at.path(), 0o600 | u32::from(mode & 0o77)).await,
            Op::SetTime { at, seconds } => self.set_time(&at.path(), seconds.into()).await,
            Op::SetXattr {
                at,
                name,
                value,
                how,
            } => {
                self.set_xattr(&at.path(), name, Some(value), how).await;
            }
            Op::RemoveXattr { at, name } => self.set_xattr(&at.path(), name, None, 0).await,
            Op::List { directory } => self.list(DIRECTORIES[usize::from(directory)]).await,
            Op::FsyncDirectory { directory } => {
                let path = DIRECTORIES[usize::from(directory)];
                if let Ok(ino) = self.kernel.walk(path).await {
                    let synced = self.kernel.fs.fsync_directory(ino).await;
                    assert!(synced.is_ok() || self.injected(), "{synced:?}");
                }
            }
            Op::Check => self.check().await,
            Op::Forget => self.forget(),
            Op::Remount => self.remount().await,
            Op::OthersPut { at, len, seed } => {
                self.world.weather.fail(None);
                if self.setting.ttl.is_some() {
                    self.others_put(&at.path(), pattern(seed, len)).await;
                }
            }
            Op::OthersDelete { at } => {
                if self.setting.ttl.is_some() {
                    self.others_delete(&at.path()).await;
                }
            }
            Op::OthersChmod { at, mode } => {
                self.world.weather.fail(None);
                if self.setting.ttl.is_some() {
                    let mode = 0o600 | u32::from(mode & 0o77);
                    self.others_chmod(&at.path(), mode).await;
                }
            }
            Op::OthersReplaceDirectory { directory } => {
                self.world.weather.fail(None);
                if self.setting.ttl.is_some() {
                    let path = DIRECTORIES[usize::from(directory)];
                    self.others_replace_directory(path).await;
                }
            }
            Op::Fail {
                after,
                lost,
                changes_only,
            } => {
                if self.setting.failures {
                    self.failed_ever = true;
                    self.world.weather.fail(Some(Failure {
                        after: after.into(),
                        lost,
                        changes_only,
                        times: 1,
                    }));
                }
            }
            Op::Tick => self.world.weather.advance(2),
        }
        // What a rename has left behind is not shown, and in the way of others for a moment.
        while self.kernel.fs.census().leftovers > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    async fn create(&mut self, path: &str, exclusive: bool, slot: u8) {
        self.close(slot).await;
        if self.tree.check_parent(path).is_ok() && self.tree.names.contains_key(path) {
            return match exclusive {
                true => {
                    let result = self.create_call(path, exclusive).await;
                    self.compare("create", result, Err::<(), _>("EEXIST"));
                }
                // The kernel opens what it finds.
                false => self.open(path, true, false, slot).await,
            };
        }
        let expected = self.tree.check_parent(path);
        let result = self.create_call(path, exclusive).await;
        match self.compare("create", result, expected) {
            Went::Well(((ino, handle), ())) => {
                let file = File {
                    bytes: Arc::default(),
                    mode: 0o640,
                    mtime: None,
                    xattrs: BTreeMap::new(),
                    dirty: true,
                    published: false,
                    overlay: false,
                };
                let id = self.tree.add(path, Node::File(file));
                let open = Slot {
                    handle,
                    id,
                    ino,
                    write: true,
                    torn: None,
                };
                self.slots.insert(slot, open);
            }
            Went::AsRefused => {}
            Went::Failed => self.resync(self.tree.clone()).await,
        }
    }

    async fn create_call(&self, path: &str, exclusive: bool) -> FsResult<(Ino, u64)> {
        let (parent, name) = self.kernel.parent(path).await?;
        self.kernel.lookup(parent, name).await?;
        let how = OpenHow {
            read: true,
            write: true,
            exclusive,
            ..OpenHow::default()
        };
        let name = Name::from(name);
        let (looks, opened) = self
            .kernel
            .fs
            .create(parent, &name, 0o640, CALLER, how)
            .await?;
        self.kernel.entered(&looks);
        Ok((looks.ino, opened.handle))
    }

    async fn open(&mut self, path: &str, write: bool, truncate: bool, slot: u8) {
        self.close(slot).await;
        let expected = self.tree.check_parent(path).and_then(|()| {
            match self
                .tree
                .names
                .get(path)
                .map(|id| (*id, &self.tree.nodes[id]))
            {
                None => Err("ENOENT"),
                Some((_, Node::Directory { .. })) => Err("EISDIR"),
                Some((id, Node::File(_))) => Ok(Some(id)),
                Some((_, Node::Symlink(_) | Node::Special(_))) => Ok(None),
            }
        });
        if expected == Ok(None) {
            return;
        }
        let result = async {
            let ino = self.kernel.walk(path).await?;
            let how = OpenHow {
                read: true,
                write,
                truncate,
                exclusive: false,
                ..OpenHow::default()
            };
            // As the kernel does when an inode turns out to stand for its name no more.
            match self.kernel.fs.open(ino, how).await {
                Err(Error::Stale) => {
                    let ino = self.kernel.walk(path).await?;
                    Ok((ino, self.kernel.fs.open(ino, how).await?.handle))
                }
                opened => Ok((ino, opened?.handle)),
            }
        }
        .await;
        match self.compare("open", result, expected) {
            Went::Well(((ino, handle), id)) => {
                let id = id.unwrap();
                if truncate {
                    let file = self.tree.file(id);
                    file.bytes = Arc::default();
                    file.mtime = None;
                    (file.dirty, file.overlay) = (true, false);
                }
                let open = Slot {
                    handle,
                    id,
                    ino,
                    write,
                    torn: None,
                };
                self.slots.insert(slot, open);
            }
            Went::AsRefused => {}
            Went::Failed => {
                let mut post = self.tree.clone();
                if let (true, Ok(Some(id))) = (truncate, expected) {
                    post.file(id).bytes = Arc::default();
                }
                self.resync(post).await;
            }
        }
    }

    async fn read(&mut self, slot: u8, offset: u32, len: u32) {
        let Some(open) = self.sound(slot).await else {
            return;
        };
        let bytes = self.tree.file(open.id).bytes.clone();
        let start = bytes.len().min(offset as usize);
        let end = bytes.len().min(start + len as usize);
        let result = self
            .kernel
            .fs
            .read(open.handle, offset.into(), len as usize)
            .await;
        if let Went::Well((read, ())) = self.compare("read", result, Ok(())) {
            let expected: &[u8] = match offset as usize >= bytes.len() {
                true => &[],
                false => &bytes[start..end],
            };
            assert!(
                read == expected,
                "read {offset} {len}: {} bytes",
                read.len()
            );
        }
    }

    async fn write(&mut self, slot: u8, at: At, len: u32, seed: u8) {
        let Some(open) = self.sound(slot).await.filter(|open| open.write) else {
            return;
        };
        let data = pattern(seed, len);
        let offset = match at {
            At::Offset(offset) => u64::from(offset),
            At::End => self.tree.file(open.id).bytes.len() as u64,
        };
        // As the adapter does.
        let fs = &self.kernel.fs;
        let result = match fs.write_now(open.handle, offset, &data, Writer::default()) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => {
                let data = Bytes::from(data.clone());
                fs.write(open.handle, offset, data, Writer::default()).await
            }
            Err(error) => Err(error),
        };
        if let Went::Well(_) = self.compare("write", result, Ok(())) {
            let file = self.tree.file(open.id);
            changes(file);
            let bytes = Arc::make_mut(&mut file.bytes);
            let (start, end) = (offset as usize, offset as usize + data.len());
            if bytes.len() < end {
                bytes.resize(end, 0);
            }
            bytes[start..end].copy_from_slice(&data);
        }
    }

    async fn allocate(&mut self, slot: u8, offset: u32, len: u32) {
        let Some(open) = self.sound(slot).await.filter(|open| open.write) else {
            return;
        };
        let result = self
            .kernel
            .fs
            .allocate(open.handle, offset.into(), len.into())
            .await;
        if let Went::Well(_) = self.compare("allocate", result, Ok(())) {
            let file = self.tree.file(open.id);
            let end = (offset + len) as usize;
            if end > file.bytes.len() {
                changes(file);
                Arc::make_mut(&mut file.bytes).resize(end, 0);
            }
        }
    }

    async fn resize_path(&mut self, path: &str, size: u32) {
        let Some(Node::File(_)) = self.tree.node(path) else {
            return;
        };
        let id = self.tree.names[path];
        if self
            .slots
            .values()
            .any(|slot| slot.id == id && slot.torn.is_some())
        {
            return;
        }
        match self.kernel.walk(path).await {
            Ok(ino) => self.resize(ino, id, size).await,
            Err(error) => assert!(self.injected(), "walk to {path}: {error:?}"),
        }
    }

    async fn resize(&mut self, ino: Ino, id: Id, size: u32) {
        let result = self
            .kernel
            .fs
            .setattr(ino, Some(size.into()), Change::default())
            .await;
        let written = self.slots.values().any(|slot| slot.id == id && slot.write);
        let mut post = self.tree.clone();
        let file = post.file(id);
        let differs = file.bytes.len() != size as usize;
        if differs {
            changes(file);
            Arc::make_mut(&mut file.bytes).resize(size as usize, 0);
        }
        file.mtime = None;
        match self.compare("truncate", result, Ok(())) {
            Went::Well((looks, ())) => {
                assert_eq!(looks.size, u64::from(size));
                self.tree = post;
                let named = self.tree.path_of(id).is_some();
                if differs && !written && named {
                    let file = self.tree.file(id);
                    (file.dirty, file.published, file.overlay) = (false, true, false);
                    self.check_bucket(id).await;
                }
            }
            Went::AsRefused => unreachable!(),
            Went::Failed => self.resync(post).await,
        }
    }

    async fn flush(&mut self, slot: u8, sync: bool) {
        let Some(open) = self.sound(slot).await else {
            return;
        };
        let result = match sync {
            true => self.kernel.fs.fsync(open.handle).await,
            false => self.kernel.fs.flush(open.handle, 0).await,
        };
        if let Went::Well(_) = self.compare("flush", result, Ok(())) {
            self.acknowledged(&open, sync).await;
        }
    }

    /// What follows from a flush that succeeded.
    async fn acknowledged(&mut self, open: &Slot, sync: bool) {
        let path = self.tree.path_of(open.id);
        let file = self.tree.file(open.id);
        let temporary = path.is_none_or(|path| path.ends_with("Q1W2E3") && !file.published);
        if sync || (open.write && !file.bytes.is_empty() && !temporary) {
            (file.dirty, file.published, file.overlay) = (false, true, false);
            self.check_bucket(open.id).await;
        }
    }

    async fn mkdir(&mut self, path: &str) {
        let expected = self
            .tree
            .check_parent(path)
            .and_then(|()| match self.tree.node(path) {
                Some(_) => Err("EEXIST"),
                None => Ok(()),
            });
        let result = async {
            let (parent, name) = self.kernel.parent(path).await?;
            self.kernel.lookup(parent, name).await?;
            let name = Name::from(name);
            let looks = self.kernel.fs.mkdir(parent, &name, 0o750, CALLER).await?;
            self.kernel.entered(&looks);
            assert_eq!((looks.kind, looks.mode), (Kind::Directory, 0o750));
            Ok(())
        }
        .await;
        let mut post = self.tree.clone();
        let made = Node::Directory {
            marker: true,
            mode: 0o750,
        };
        if expected.is_ok() {
            post.add(path, made);
        }
        self.finish("mkdir", result, expected, post).await;
    }

    async fn rmdir(&mut self, path: &str) {
        let expected = self
            .tree
            .check_parent(path)
            .and_then(|()| match self.tree.node(path) {
                None => Err("ENOENT"),
                Some(Node::Directory { .. }) if !self.tree.below(path).is_empty() => {
                    Err("ENOTEMPTY")
                }
                Some(Node::Directory { .. }) => Ok(()),
                Some(_) => Err("ENOTDIR"),
            });
        let result = async {
            let (parent, name) = self.kernel.parent(path).await?;
            self.kernel.lookup(parent, name).await?;
            self.kernel.fs.rmdir(parent, &Name::from(name)).await
        }
        .await;
        let mut post = self.tree.clone();
        if expected.is_ok() {
            post.leave(path);
            post.names.remove(path);
        }
        self.finish("rmdir", result, expected, post).await;
    }

    async fn unlink(&mut self, path: &str) {
        let expected = self
            .tree
            .check_parent(path)
            .and_then(|()| match self.tree.node(path) {
                None => Err("ENOENT"),
                Some(Node::Directory { .. }) => Err("EISDIR"),
                Some(_) => Ok(()),
            });
        let result = async {
            let (parent, name) = self.kernel.parent(path).await?;
            self.kernel.lookup(parent, name).await?;
            self.kernel.fs.unlink(parent, &Name::from(name)).await
        }
        .await;
        let mut post = self.tree.clone();
        if expected.is_ok() {
            post.leave(path);
            post.names.remove(path);
        }
        self.finish("unlink", result, expected, post).await;
    }

    async fn rename(&mut self, from: &str, to: &str, replace: bool) {
        // What the kernel refuses by itself.
        if to.starts_with(&format!("{from}/")) {
            return;
        }
        let mut post = self.tree.clone();
        let expected = post.rename(from, to, replace);
        if expected.is_err() {
            post = self.tree.clone();
        }
        let result = async {
            let (old_parent, old_name) = self.kernel.parent(from).await?;
            let (new_parent, new_name) = self.kernel.parent(to).await?;
            // The target's inode is looked up by the kernel as well, the source's first.
            self.kernel.lookup(old_parent, old_name).await?;
            self.kernel.lookup(new_parent, new_name).await?;
            let from = (old_parent, Name::from(old_name));
            let to = (new_parent, Name::from(new_name));
            self.kernel.fs.rename(from, to, replace).await
        }
        .await;
        self.finish("rename", result, expected, post).await;
    }

    async fn symlink(&mut self, path: &str, target: u8) {
        let expected = self
            .tree
            .check_parent(path)
            .and_then(|()| match self.tree.node(path) {
                Some(_) => Err("EEXIST"),
                None => Ok(()),
            });
        let target = format!("../target-{target}");
        let result = async {
            let (parent, name) = self.kernel.parent(path).await?;
            self.kernel.lookup(parent, name).await?;
            let name = Name::from(name);
            let looks = self
                .kernel
                .fs
                .symlink(parent, &name, target.as_bytes(), CALLER)
                .await?;
            self.kernel.entered(&looks);
            assert_eq!(looks.kind, Kind::Symlink);
            Ok(())
        }
        .await;
        let mut post = self.tree.clone();
        if expected.is_ok() {
            post.add(path, Node::Symlink(target));
        }
        self.finish("symlink", result, expected, post).await;
    }

    async fn mknod(&mut self, path: &str, kind: Kind) {
        let expected = self
            .tree
            .check_parent(path)
            .and_then(|()| match self.tree.node(path) {
                Some(_) => Err("EEXIST"),
                None => Ok(()),
            });
        let result = async {
            let (parent, name) = self.kernel.parent(path).await?;
            self.kernel.lookup(parent, name).await?;
            let name = Name::from(name);
            let mode = kind.type_bits() | 0o640;
            let made = self.kernel.fs.mknod(parent, &name, mode, 0, CALLER);
            let looks = made.await?;
            self.kernel.entered(&looks);
            assert_eq!((looks.kind, looks.mode), (kind, 0o640));
            Ok(())
        }
        .await;
        let mut post = self.tree.clone();
        if expected.is_ok() {
            let node = match kind {
                Kind::File => Node::File(File {
                    bytes: Arc::default(),
                    mode: 0o640,
                    mtime: None,
                    xattrs: BTreeMap::new(),
                    dirty: false,
                    published: true,
                    overlay: false,
                }),
                kind => Node::Special(kind),
            };
            post.add(path, node);
        }
        self.finish("mknod", result, expected, post).await;
    }

    /// From a file into another, at the same offset.
    async fn copy(&mut self, from: u8, to: u8, range: Option<(u32, u32)>) {
        let (Some(from), Some(to)) = (self.sound(from).await, self.sound(to).await) else {
            return;
        };
        if from.id == to.id || !to.write {
            return;
        }
        let (offset, len) = range.map_or((0, u64::MAX >> 1), |(offset, len)| {
            (u64::from(offset), u64::from(len))
        });
        let source = self.tree.file(from.id).bytes.clone();
        let start = source.len().min(offset as usize);
        let end = source.len().min(offset.saturating_add(len) as usize);
        let wanted = source[start..end].to_vec();
        let place = |slot: &Slot| copy_range::Place {
            handle: slot.handle,
            offset,
        };
        let fs = &self.kernel.fs;
        let in_bucket = match fs.copy_range(place(&from), place(&to), len).await {
            Ok(copied) => {
                assert_eq!(copied, source.len() as u64, "only the whole is copied so");
                true
            }
            // As the kernel goes on.
            Err(Error::NotSupported) => false,
            Err(error) => panic!("copy_file_range: {error:?}"),
        };
        if !in_bucket {
            let result = async {
                let data = fs.read(from.handle, offset, wanted.len()).await?;
                if !data.is_empty() {
                    fs.write(to.handle, offset, data, Writer::default()).await?;
                }
                Ok(())
            }
            .await;
            if !matches!(self.compare("copy", result, Ok(())), Went::Well(_)) || wanted.is_empty() {
                return;
            }
        }
        let file = self.tree.file(to.id);
        changes(file);
        let bytes = Arc::make_mut(&mut file.bytes);
        bytes.resize(bytes.len().max(end), 0);
        bytes[start..end].copy_from_slice(&wanted);
        if in_bucket {
            (file.dirty, file.published, file.overlay) = (false, true, false);
            self.check_bucket(to.id).await;
        }
    }

    async fn finish(&mut self, what: &str, result: FsResult<()>, expected: Answer<()>, post: Tree) {
        match self.compare(what, result, expected) {
            Went::Well(_) => self.tree = post,
            Went::AsRefused => {}
            Went::Failed => self.resync(post).await,
        }
    }

    /// A named file or directory, and its inode.
    async fn subject(&self, path: &str) -> Option<(Id, Ino)> {
        let node = self.tree.node(path);
        if !matches!(node, Some(Node::File(_) | Node::Directory { .. })) {
            return None;
        }
        let id = self.tree.names[path];
        match self.kernel.walk(path).await {
            Ok(ino) => Some((id, ino)),
            Err(error) => {
                assert!(self.injected(), "walk to {path}: {error:?}");
                None
            }
        }
    }

    async fn chmod(&mut self, path: &str, mode: u32) {
        let Some((id, ino)) = self.subject(path).await else {
            return;
        };
        let change = Change {
            mode: Some(mode),
            ..Change::default()
        };
        let result = self.kernel.fs.setattr(ino, None, change).await;
        let mut post = self.tree.clone();
        match post.nodes.get_mut(&id).unwrap() {
            Node::File(file) => file.mode = mode,
            Node::Directory { mode: old, marker } => (*old, *marker) = (mode, true),
            Node::Symlink(_) | Node::Special(_) => unreachable!(),
        }
        if let Ok(looks) = &result {
            assert_eq!(looks.mode, mode);
        }
        self.finish("chmod", result.map(drop), Ok(()), post).await;
    }

    async fn set_time(&mut self, path: &str, seconds: i64) {
        let Some((id, ino)) = self.subject(path).await else {
            return;
        };
        let time = Timestamp { seconds, nanos: 0 };
        let change = Change {
            mtime: Some(time),
            ..Change::default()
        };
        let result = self.kernel.fs.setattr(ino, None, change).await;
        let mut post = self.tree.clone();
        match post.nodes.get_mut(&id).unwrap() {
            Node::File(file) => file.mtime = Some(seconds),
            Node::Directory { marker, .. } => *marker = true,
            Node::Symlink(_) | Node::Special(_) => unreachable!(),
        }
        if let Ok(looks) = &result {
            assert_eq!(looks.mtime, time);
        }
        self.finish("utimes", result.map(drop), Ok(()), post).await;
    }

    async fn set_xattr(&mut self, path: &str, name: u8, value: Option<u8>, how: u8) {
        let Some((id, ino)) = self.subject(path).await else {
            return;
        };
        if !matches!(self.tree.nodes[&id], Node::File(_)) {
            return;
        }
        let name = format!("user.{name}");
        let file = self.tree.file(id);
        let there = file.xattrs.contains_key(&name);
        let (how, expected) = match (how, value) {
            (_, None) if !there => (SetXattr::Either, Err("ENODATA")),
            (1, Some(_)) if there => (SetXattr::New, Err("EEXIST")),
            (2, Some(_)) if !there => (SetXattr::Existing, Err("ENODATA")),
            (1, _) => (SetXattr::New, Ok(())),
            (2, _) => (SetXattr::Existing, Ok(())),
            _ => (SetXattr::Either, Ok(())),
        };
        let bytes = value.map(|value| vec![value; usize::from(value) / 4]);
        let fs = &self.kernel.fs;
        let result = match &bytes {
            Some(bytes) => fs.setxattr(ino, &name, bytes, how).await,
            None => fs.removexattr(ino, &name).await,
        };
        let mut post = self.tree.clone();
        if expected.is_ok() {
            let xattrs = &mut post.file(id).xattrs;
            match bytes {
                Some(bytes) => drop(xattrs.insert(name, bytes)),
                None => drop(xattrs.remove(&name)),
            }
        }
        self.finish("setxattr", result, expected, post).await;
    }

    async fn list(&mut self, path: &str) {
        if !path.is_empty() && !matches!(self.tree.node(path), Some(Node::Directory { .. })) {
            return;
        }
        let result = self.names_in(path).await;
        let expected = self.tree.children(path);
        if let Went::Well((names, ())) = self.compare("readdir", result, Ok(())) {
            let names: BTreeSet<String> = names.into_iter().collect();
            assert_eq!(names, expected, "in \"{path}\"");
        }
    }

    async fn names_in(&self, path: &str) -> FsResult<Vec<String>> {
        let ino = self.kernel.walk(path).await?;
        let fs = &self.kernel.fs;
        let handle = fs.opendir(ino).await?;
        let mut names = Vec::new();
        let mut offset = 0;
        let result = loop {
            let entries = match fs.readdir(handle, offset, 3, offset % 2 == 0).await {
                Ok(entries) => entries,
                Err(error) => break Err(error),
            };
            let Some(last) = entries.last() else {
                break Ok(());
            };
            offset = last.next;
            for entry in &entries {
                if let Some(looks) = &entry.stat {
                    fs.entry_was_taken(entry);
                    self.kernel.entered(looks);
                }
            }
            fs.entries_were_offered(&entries);
            let shown = entries
                .iter()
                .filter(|entry| entry.name[..] != *"." && entry.name[..] != *"..");
            names.extend(shown.map(|entry| entry.name.to_string()));
        };
        fs.releasedir(handle);
        result?;
        let distinct: BTreeSet<&String> = names.iter().collect();
        assert_eq!(distinct.len(), names.len(), "a name came twice: {names:?}");
        Ok(names)
    }

    fn forget(&mut self) {
        let open: BTreeSet<Ino> = self.slots.values().map(|slot| slot.ino).collect();
        self.kernel.forget_except(&open);
    }

    // ---- the whole ----

    /// The tree as the file system shows it.
    async fn observe(&self) -> FsResult<BTreeMap<String, Node>> {
        let mut seen = BTreeMap::new();
        let mut directories = vec![String::new()];
        while let Some(directory) = directories.pop() {
            for name in self.names_in(&directory).await? {
                let path = match directory.as_str() {
                    "" => name,
                    directory => format!("{directory}/{name}"),
                };
                let (parent, name) = self.kernel.parent(&path).await?;
                let looks = self.kernel.lookup(parent, name).await?;
                let looks = looks.unwrap_or_else(|| panic!("{path} is listed and not there"));
                let node = match looks.kind {
                    Kind::Directory => {
                        directories.push(path.clone());
                        Node::Directory {
                            marker: true,
                            mode: looks.mode,
                        }
                    }
                    Kind::Symlink => {
                        let target = self.kernel.fs.readlink(looks.ino).await?;
                        Node::Symlink(String::from_utf8(target.to_vec()).unwrap())
                    }
                    kind @ (Kind::Fifo | Kind::Socket) => Node::Special(kind),
                    _ => {
                        let how = OpenHow {
                            read: true,
                            ..OpenHow::default()
                        };
                        let opened = self.kernel.fs.open(looks.ino, how).await?;
                        let content = self.kernel.read_all(opened.handle).await;
                        self.kernel.fs.release_now(opened.handle);
                        let content = content?;
                        assert_eq!(content.len() as u64, looks.size, "the size of {path}");
                        let mut xattrs = BTreeMap::new();
                        let list = self.kernel.fs.listxattr(looks.ino).await?;
                        for name in list
                            .split(|byte| *byte == 0)
                            .filter(|name| !name.is_empty())
                        {
                            let name = String::from_utf8(name.to_vec()).unwrap();
                            let value = self.kernel.fs.getxattr(looks.ino, &name).await?;
                            xattrs.insert(name, value);
                        }
                        Node::File(File {
                            bytes: Arc::new(content),
                            mode: looks.mode,
                            mtime: Some(looks.mtime.seconds),
                            xattrs,
                            dirty: false,
                            published: true,
                            overlay: false,
                        })
                    }
                };
                seen.insert(path, node);
            }
        }
        Ok(seen)
    }

    async fn check(&mut self) {
        let seen = match self.observe().await {
            Ok(seen) => seen,
            Err(error) => {
                assert!(self.injected(), "looking at everything: {error:?}");
                return;
            }
        };
        let expected = self.tree.view();
        let paths = |view: &BTreeMap<String, Node>| view.keys().cloned().collect::<Vec<_>>();
        assert_eq!(paths(&seen), paths(&expected));
        for (path, node) in &expected {
            if let Some(difference) = difference(node, &seen[path], true) {
                panic!("{path}: {difference}");
            }
        }
        let slots: Vec<Slot> = self.slots.values().cloned().collect();
        for slot in slots.iter().filter(|slot| slot.torn.is_none()) {
            let result = self.kernel.read_all(slot.handle).await;
            let bytes = self.tree.file(slot.id).bytes.clone();
            if let Went::Well((content, ())) = self.compare("read", result, Ok(())) {
                assert!(
                    content == **bytes,
                    "what is open differs: {} bytes",
                    content.len()
                );
            }
        }
    }

    /// After an operation that failed because a request did: it has happened, or has not. A rename may have
    /// left both names.
    async fn resync(&mut self, post: Tree) {
        self.world.weather.fail(None);
        let slots: Vec<u8> = self.slots.keys().copied().collect();
        for slot in slots {
            let open = self.slots.remove(&slot).unwrap();
            let _ = self.kernel.fs.flush(open.handle, 0).await;
            self.kernel.fs.release_now(open.handle);
        }
        let settled = self.kernel.settle(0, Duration::from_secs(30)).await;
        assert!(
            settled,
            "what is closed does not get uploaded: {:?}",
            self.kernel.fs.census()
        );
        self.wait_for_ttl().await;
        let seen = self.observe().await.expect("nothing fails any more");
        let (before, after) = (self.tree.view(), post.view());
        for (path, node) in &seen {
            let found = [before.get(path), after.get(path)]
                .into_iter()
                .flatten()
                .any(|expected| difference(expected, node, false).is_none());
            assert!(
                found,
                "{path} came out of nowhere, or changed: {:?}",
                brief(node)
            );
        }
        for (path, id) in &self.tree.names {
            let removed = !post.names.values().any(|named| named == id);
            let moved = post.path_of(*id);
            let there = seen.contains_key(path)
                || moved.as_ref().is_some_and(|path| seen.contains_key(path));
            assert!(removed || there, "{path} was lost");
        }
        let mut tree = Tree {
            next: self.tree.next.max(post.next),
            ..Tree::default()
        };
        for (path, node) in seen {
            let node = match (node, before.get(&path).or(after.get(&path))) {
                (Node::File(file), Some(Node::File(old))) => Node::File(File {
                    mtime: old.mtime.filter(|_| file.mtime == old.mtime),
                    ..file
                }),
                (Node::Directory { mode, .. }, Some(Node::Directory { marker, .. })) => {
                    Node::Directory {
                        mode,
                        marker: *marker,
                    }
                }
                (node, _) => node,
            };
            tree.add(&path, node);
        }
        // A marker that was to be written may be there or not.
        self.tree = tree;
        for directory in self.tree.children_of_all() {
            self.ensure_marker(&directory).await;
        }
        self.failures_seen = self.world.weather.failed();
    }

    /// Brings a directory to a known state: with a marker.
    async fn ensure_marker(&mut self, path: &str) {
        let ino = self.kernel.walk(path).await.unwrap();
        let Some(Node::Directory { marker, mode }) =
            self.tree.nodes.get_mut(&self.tree.names[path])
        else {
            return;
        };
        *marker = true;
        *mode = 0o711;
        let change = Change {
            mode: Some(0o711),
            ..Change::default()
        };
        self.kernel.fs.setattr(ino, None, change).await.unwrap();
    }

    async fn remount(&mut self) {
        self.world.weather.fail(None);
        for slot in 0..SLOTS as u8 {
            self.close(slot).await;
        }
        self.end_mount().await;
        self.kernel = Kernel::new(self.world.mount().await);
        self.check().await;
    }

    /// Nothing is left behind: not in the bucket, not in memory.
    async fn end_mount(&mut self) {
        let mut ended = self.kernel.fs.shutdown().await;
        for _ in 0..3 {
            if ended.is_err() && self.failed_ever {
                ended = self.kernel.fs.shutdown().await;
            }
        }
        assert!(ended.is_ok(), "{ended:?}");
        self.settle().await;
        self.kernel.forget_all();
        let census = self.kernel.fs.census();
        assert_eq!(
            (census.inodes, census.files, census.handles),
            (1, 0, 0),
            "{census:?}"
        );
    }

    async fn end(mut self) {
        self.failures_seen = self.world.weather.failed();
        self.remount().await;
        self.end_mount().await;
        let keys: BTreeSet<String> = self.world.others.keys().await.into_iter().collect();
        let mut expected = BTreeSet::new();
        for (path, node) in self.tree.view() {
            match node {
                Node::Directory { marker: true, .. } => drop(expected.insert(format!("{path}/"))),
                Node::Directory { .. } => {}
                _ => drop(expected.insert(path)),
            }
        }
        // Markers may be there without need, and what failed may have left traces of its own.
        let strange: Vec<_> = keys
            .difference(&expected)
            .filter(|key| {
                !(key.ends_with('/') || self.failed_ever && key.starts_with(".ossvault/"))
            })
            .collect();
        assert!(strange.is_empty(), "in the bucket: {strange:?}");
        // Something below a directory's key shows it as well as its marker does.
        let missing: Vec<_> = expected
            .iter()
            .filter(|key| match key.ends_with('/') {
                true => !keys.iter().any(|other| other.starts_with(key.as_str())),
                false => !keys.contains(*key),
            })
            .collect();
        assert!(missing.is_empty(), "not in the bucket: {missing:?}");
        if !self.failed_ever {
            assert_eq!(self.world.others.unfinished_uploads().await, 0);
        }
    }

    // ---- other writers ----

    fn holders(&self, id: Id) -> bool {
        self.slots.values().any(|slot| slot.id == id)
    }

    /// Whether others may change this now, so that what must follow is known.
    fn may_be_changed(&self, path: &str) -> bool {
        match self.tree.node(path) {
            Some(Node::File(file)) => file.published && !(file.dirty && file.overlay),
            _ => true,
        }
    }

    fn tear(&mut self, id: Id, new: Option<Arc<Vec<u8>>>) {
        let old = self.tree.file(id).bytes.clone();
        for slot in self.slots.values_mut().filter(|slot| slot.id == id) {
            slot.torn.get_or_insert((old.clone(), None)).1 = new.clone();
        }
    }

    async fn others_put(&mut self, path: &str, content: Vec<u8>) {
        let mut ancestors = Vec::new();
        let mut at = Tree::parent_of(path);
        while !at.is_empty() {
            match self.tree.node(at) {
                Some(Node::Directory { .. }) => {}
                None => ancestors.push(at.to_owned()),
                Some(_) => return,
            }
            at = Tree::parent_of(at);
        }
        let stands = self.tree.node(path).cloned();
        if matches!(stands, Some(Node::Directory { .. })) || !self.may_be_changed(path) {
            return;
        }
        self.world.others.put(path, &content).await;
        self.wait_for_ttl().await;
        if let Some(Node::File(file)) = &stands {
            let id = self.tree.names[path];
            if file.dirty && self.holders(id) {
                // What was changed here stands over it, and will replace it.
                return;
            }
            self.tear(id, Some(Arc::new(content.clone())));
        }
        for ancestor in ancestors {
            let implicit = Node::Directory {
                marker: false,
                mode: 0o755,
            };
            self.tree.add(&ancestor, implicit);
        }
        let file = File {
            bytes: Arc::new(content),
            mode: 0o640,
            mtime: Some(1_700_000_000),
            xattrs: BTreeMap::new(),
            dirty: false,
            published: true,
            overlay: false,
        };
        self.tree.add(path, Node::File(file));
    }

    async fn others_delete(&mut self, path: &str) {
        let Some(node @ (Node::File(_) | Node::Symlink(_) | Node::Special(_))) =
            self.tree.node(path).cloned()
        else {
            return;
        };
        if !self.may_be_changed(path) {
            return;
        }
        self.world.others.delete(path).await;
        self.wait_for_ttl().await;
        let id = self.tree.names[path];
        if let Node::File(file) = &node {
            if file.dirty && self.holders(id) {
                return;
            }
            self.tear(id, None);
        }
        self.tree.names.remove(path);
        self.tree.sweep();
    }

    async fn others_chmod(&mut self, path: &str, mode: u32) {
        let Some(Node::File(file)) = self.tree.node(path) else {
            return;
        };
        let id = self.tree.names[path];
        if file.dirty || self.holders(id) {
            return;
        }
        self.world.others.chmod(path, 0o100_000 | mode).await;
        self.wait_for_ttl().await;
        self.tree.file(id).mode = mode;
    }

    async fn others_replace_directory(&mut self, path: &str) {
        if !matches!(self.tree.node(path), Some(Node::Directory { .. })) {
            return;
        }
        let below = self.tree.below(path);
        let busy = below.iter().any(|path| {
            let id = self.tree.names[path];
            self.holders(id) || matches!(self.tree.node(path), Some(Node::File(file)) if file.dirty)
        });
        if busy {
            return;
        }
        for key in self.world.others.keys().await {
            if key.starts_with(&format!("{path}/")) {
                self.world.others.delete(&key).await;
            }
        }
        self.world.others.put(path, b"a file now").await;
        self.wait_for_ttl().await;
        for path in below {
            self.tree.names.remove(&path);
        }
        let file = File {
            bytes: Arc::new(b"a file now".to_vec()),
            mode: 0o640,
            mtime: Some(1_700_000_000),
            xattrs: BTreeMap::new(),
            dirty: false,
            published: true,
            overlay: false,
        };
        self.tree.add(path, Node::File(file));
        self.tree.sweep();
    }
}

impl Tree {
    fn children_of_all(&self) -> Vec<String> {
        let directories = self
            .names
            .iter()
            .filter(|(_, id)| matches!(self.nodes[id], Node::Directory { .. }));
        directories.map(|(path, _)| path.clone()).collect()
    }
}

fn changes(file: &mut File) {
    file.overlay |= !file.dirty && file.bytes.len() as u64 > PART;
    file.dirty = true;
    file.mtime = None;
}

/// `attributes`: not only the content.
fn difference(expected: &Node, seen: &Node, attributes: bool) -> Option<String> {
    match (expected, seen) {
        (Node::File(expected), Node::File(seen)) => {
            if expected.bytes != seen.bytes {
                let at = expected
                    .bytes
                    .iter()
                    .zip(seen.bytes.iter())
                    .position(|(a, b)| a != b);
                return Some(format!(
                    "{} bytes instead of {}, different from {at:?} on",
                    seen.bytes.len(),
                    expected.bytes.len()
                ));
            }
            if attributes && expected.mode != seen.mode {
                return Some(format!(
                    "mode {:o} instead of {:o}",
                    seen.mode, expected.mode
                ));
            }
            if attributes && expected.mtime.is_some() && expected.mtime != seen.mtime {
                return Some(format!(
                    "mtime {:?} instead of {:?}",
                    seen.mtime, expected.mtime
                ));
            }
            if attributes && expected.xattrs != seen.xattrs {
                return Some(format!(
                    "xattrs {:?} instead of {:?}",
                    seen.xattrs, expected.xattrs
                ));
            }
            None
        }
        (Node::Directory { mode, .. }, Node::Directory { mode: seen, .. }) => {
            (attributes && mode != seen).then(|| format!("mode {seen:o} instead of {mode:o}"))
        }
        (expected, seen) if expected == seen => None,
        (expected, seen) => Some(format!(
            "{:?} instead of {:?}",
            brief(seen),
            brief(expected)
        )),
    }
}

fn brief(node: &Node) -> String {
    match node {
        Node::File(file) => format!("a file of {} bytes", file.bytes.len()),
        node => format!("{node:?}"),
    }
}

// ---- running ----

fn run(setting: Setting, ops: &[Op]) {
    let mut runtime = match setting.threads {
        true => tokio::runtime::Builder::new_multi_thread(),
        false => tokio::runtime::Builder::new_current_thread(),
    };
    let runtime = runtime.worker_threads(2).enable_all().build().unwrap();
    let work = async {
        let mut bench = Bench::new(setting).await;
        for op in ops {
            if std::env::var_os("OSSVAULT_MODEL_TRACE").is_some() {
                eprintln!("{op:?}");
            }
            bench.step(op).await;
        }
        bench.end().await;
    };
    let in_time = runtime.block_on(async { tokio::time::timeout(HANGS, work).await });
    runtime.shutdown_background();
    // At once: shrinking a case that hangs takes long, and says nothing before its end.
    assert!(in_time.is_ok(), "it hangs: {setting:?}, {ops:?}");
}

#[test]
fn random_operations_agree_with_the_model() {
    let cases = std::env::var("OSSVAULT_MODEL_CASES")
        .ok()
        .and_then(|cases| cases.parse().ok())
        .unwrap_or(200);
    let kept = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/model.regressions");
    let mut runner = TestRunner::new(Config {
        cases,
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(kept))),
        max_shrink_iters: 400,
        // In milliseconds.
        max_shrink_time: 300_000,
        ..Config::default()
    });
    let cases = (setting(), prop::collection::vec(op(), 1..60));
    let result = runner.run(&cases, |(setting, ops)| {
        run(setting, &ops);
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}

/// What was found by chance once must not depend on chance again.
#[test]
fn cases_that_failed_once_agree_with_the_model() {
    let alone = |ttl, failures| Setting {
        ttl,
        small_memory: false,
        failures,
        threads: false,
    };
    let create = |at| Op::Create {
        at,
        exclusive: false,
        slot: 0,
    };
    let fail = |after, lost| Op::Fail {
        after,
        lost,
        changes_only: false,
    };
    for (cause, setting, ops) in [
        (
            "a directory whose marker could not be asked for kept an inode that nobody knew",
            alone(Some(30), true),
            vec![
                create(Place(0, 0)),
                create(Place(0, 0)),
                Op::Mkdir { at: Place(0, 1) },
                Op::Forget,
                fail(0, false),
                Op::Check,
            ],
        ),
        (
            "the copy of a directory whose answer was lost was neither deleted nor shown",
            alone(None, true),
            vec![
                Op::Mkdir { at: Place(0, 4) },
                fail(1, true),
                Op::Rename {
                    from: Place(0, 4),
                    to: Place(0, 0),
                    replace: false,
                },
            ],
        ),
        (
            "a directory was made and the answer lost: it was taken to be absent",
            alone(None, true),
            vec![fail(0, true), Op::Mkdir { at: Place(0, 0) }],
        ),
        (
            "a changed file whose object others had removed was not listed",
            alone(Some(0), false),
            vec![
                create(Place(0, 4)),
                Op::Fsync { slot: 0 },
                Op::Write {
                    slot: 0,
                    at: At::End,
                    len: 1,
                    seed: 0,
                },
                Op::OthersDelete { at: Place(0, 4) },
                Op::Check,
            ],
        ),
        (
            "a rename whose DELETE failed left an older version under the new name",
            alone(Some(30), true),
            vec![
                create(Place(0, 1)),
                Op::Fsync { slot: 0 },
                fail(2, false),
                Op::Truncate { slot: 0, size: 0 },
                Op::Write {
                    slot: 0,
                    at: At::End,
                    len: 1,
                    seed: 0,
                },
                Op::Rename {
                    from: Place(0, 1),
                    to: Place(0, 2),
                    replace: false,
                },
            ],
        ),
        (
            "what was known of an open file's attributes was forgotten when its directory was renamed",
            alone(Some(0), false),
            vec![
                Op::OthersPut {
                    at: Place(3, 0),
                    len: 1,
                    seed: 0,
                },
                create(Place(3, 3)),
                Op::Symlink {
                    at: Place(0, 0),
                    target: 0,
                },
                create(Place(3, 3)),
                Op::Rename {
                    from: Place(1, 4),
                    to: Place(0, 3),
                    replace: false,
                },
                Op::Allocate {
                    slot: 0,
                    offset: 0,
                    len: 1,
                },
            ],
        ),
        (
            "a directory rename whose intent was written and the answer lost was finished by the next mount",
            alone(Some(0), true),
            vec![
                Op::Mkdir { at: Place(0, 3) },
                fail(2, true),
                Op::Symlink {
                    at: Place(2, 1),
                    target: 0,
                },
                Op::Create {
                    at: Place(2, 0),
                    exclusive: false,
                    slot: 2,
                },
                Op::Open {
                    at: Place(0, 0),
                    write: false,
                    truncate: false,
                    slot: 2,
                },
                Op::Rename {
                    from: Place(0, 3),
                    to: Place(0, 0),
                    replace: false,
                },
            ],
        ),
    ] {
        println!("{cause}");
        run(setting, &ops);
    }
}
