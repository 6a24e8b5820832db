//! The model: an in-memory tree of files that behaves according to POSIX.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ossvault::files::attributes::Kind;
use ossvault::fs::error::Error;
use ossvault::fs::namespace::Ino;

use crate::world::PART;

pub(super) type Id = usize;

#[derive(Clone, Debug, PartialEq)]
pub(super) struct File {
    pub(super) bytes: Arc<Vec<u8>>,
    pub(super) mode: u32,
    /// None if not known exactly.
    pub(super) mtime: Option<i64>,
    pub(super) xattrs: BTreeMap<String, Vec<u8>>,
    /// The bucket may not have it in this state.
    pub(super) dirty: bool,
    /// The bucket has some version of it.
    pub(super) published: bool,
    /// Changed over a base that may be read from the bucket later.
    pub(super) overlay: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Node {
    File(File),
    /// `marker`: it exists without any entries.
    Directory {
        marker: bool,
        mode: u32,
    },
    Symlink(String),
    Special(Kind),
}

#[derive(Clone, Debug, Default)]
pub(super) struct Tree {
    pub(super) names: BTreeMap<String, Id>,
    pub(super) nodes: BTreeMap<Id, Node>,
    pub(super) next: Id,
}

pub(super) type Answer<T> = Result<T, &'static str>;

impl Tree {
    pub(super) fn add(&mut self, path: &str, node: Node) -> Id {
        self.next += 1;
        self.nodes.insert(self.next, node);
        self.names.insert(path.to_owned(), self.next);
        self.next
    }

    pub(super) fn node(&self, path: &str) -> Option<&Node> {
        Some(&self.nodes[self.names.get(path)?])
    }

    pub(super) fn file(&mut self, id: Id) -> &mut File {
        match self.nodes.get_mut(&id) {
            Some(Node::File(file)) => file,
            other => panic!("{id} is {other:?}"),
        }
    }

    pub(super) fn path_of(&self, id: Id) -> Option<String> {
        let named = self.names.iter().find(|(_, named)| **named == id);
        named.map(|(path, _)| path.clone())
    }

    pub(super) fn parent_of(path: &str) -> &str {
        path.rsplit_once('/').map_or("", |(parent, _)| parent)
    }

    pub(super) fn check_parent(&self, path: &str) -> Answer<()> {
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

    pub(super) fn below(&self, path: &str) -> Vec<String> {
        let prefix = match path {
            "" => String::new(),
            path => format!("{path}/"),
        };
        let names = self.names.keys().filter(|name| name.starts_with(&prefix));
        names.cloned().collect()
    }

    pub(super) fn children(&self, path: &str) -> BTreeSet<String> {
        let prefix = if path.is_empty() { 0 } else { path.len() + 1 };
        let below = self.below(path).into_iter();
        below
            .map(|name| name[prefix..].to_owned())
            .filter(|name| !name.contains('/'))
            .collect()
    }

    /// If this mount removes a directory's last entry, the directory remains.
    pub(super) fn leave(&mut self, path: &str) {
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

    pub(super) fn rename(&mut self, from: &str, to: &str, replace: bool) -> Answer<()> {
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

    /// Directories without a marker exist as long as they contain something.
    pub(super) fn sweep(&mut self) {
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

    pub(super) fn view(&self) -> BTreeMap<String, Node> {
        let names = self.names.iter();
        names
            .map(|(path, id)| (path.clone(), self.nodes[id].clone()))
            .collect()
    }
}

/// A content, and the one that replaced it, if any.
pub(super) type Torn = (Arc<Vec<u8>>, Option<Arc<Vec<u8>>>);

#[derive(Clone, Debug)]
pub(super) struct Slot {
    pub(super) handle: u64,
    pub(super) id: Id,
    pub(super) ino: Ino,
    pub(super) write: bool,
    /// Replaced or deleted by others since it was opened: the previous and the present state.
    pub(super) torn: Option<Torn>,
}

pub(super) fn pattern(seed: u8, len: u32) -> Vec<u8> {
    (0..len)
        .map(|index| seed.wrapping_add((index % 251) as u8) ^ (index >> 10) as u8)
        .collect()
}

pub(super) fn errno(error: &Error) -> &'static str {
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

impl Tree {
    pub(super) fn children_of_all(&self) -> Vec<String> {
        let directories = self
            .names
            .iter()
            .filter(|(_, id)| matches!(self.nodes[id], Node::Directory { .. }));
        directories.map(|(path, _)| path.clone()).collect()
    }
}

pub(super) fn changes(file: &mut File) {
    file.overlay |= !file.dirty && file.bytes.len() as u64 > PART;
    file.dirty = true;
    file.mtime = None;
}

/// `attributes`: not only the content.
pub(super) fn difference(expected: &Node, seen: &Node, attributes: bool) -> Option<String> {
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

pub(super) fn brief(node: &Node) -> String {
    match node {
        Node::File(file) => format!("a file of {} bytes", file.bytes.len()),
        node => format!("{node:?}"),
    }
}
