//! What a walk of either side finds.

use std::sync::Arc;

use super::folder::{Folder, Stat};
use super::times::Known;
use crate::store::object_store::ListedObject;
use crate::tools::finding::{Finding, Grade};

/// Something with a name, on this machine or in a bucket.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// Below the root of the walk, without slashes at its ends; empty for the root itself.
    pub path: String,
    pub is_directory: bool,
    pub node: Node,
    /// What the headers of the object said in an earlier run, if they still say so.
    pub known: Option<Box<Known>>,
}

#[derive(Clone, Debug)]
pub(crate) enum Node {
    /// In a folder of this machine. None for the root.
    Local(Option<Arc<Folder>>, Stat),
    /// An object; of a directory, its marker.
    Object(ListedObject),
    /// A directory that is only the beginning of keys.
    Implied,
}

impl Entry {
    pub(crate) fn object(&self) -> Option<&ListedObject> {
        match &self.node {
            Node::Object(object) => Some(object),
            _ => None,
        }
    }

    pub(crate) fn stat(&self) -> Option<&Stat> {
        match &self.node {
            Node::Local(_, stat) => Some(stat),
            _ => None,
        }
    }

    /// In bytes.
    pub(crate) fn size(&self) -> u64 {
        match &self.node {
            Node::Local(_, stat) => stat.size,
            Node::Object(object) => object.size,
            Node::Implied => 0,
        }
    }

    /// The last part of the path.
    pub(crate) fn name(&self) -> &str {
        name_of(&self.path)
    }
}

pub(crate) fn name_of(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// What a walk yields.
#[derive(Debug)]
pub(crate) enum Item {
    Entry(Entry),
    /// Something that has no place in a transfer.
    Finding(Finding),
    /// What is below this path could not be read: nothing is known of it.
    Unreadable(String, Finding),
}

/// A finding about a path or a key.
pub(crate) fn finding(
    key: impl Into<String>,
    size: u64,
    grade: Grade,
    outcome: &'static str,
) -> Finding {
    Finding {
        key: key.into(),
        size,
        outcome,
        grade,
        format: None,
        detail: None,
    }
}
