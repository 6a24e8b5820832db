//! Inodes, as the table has them: of a file or of a directory, with what is known of each.
//!
//! A node is what the bucket does not tell: which name it has, what the kernel was given of it, and what of it is not
//! uploaded yet. What the bucket has of a file stands in the [`Listing`] of its directory.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use super::access_pattern::AccessPattern;
use super::entry::Object;
use super::listing::Listing;
use super::object_name::Name;
use super::scan::SharedReading;
use crate::files::attributes::{Attributes, Change, Kind, Timestamp};
use crate::fs::data::budget::Reservation;
use crate::fs::error::Result;
use crate::store::object_store::ETag;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ino(pub u64);

impl Ino {
    pub const ROOT: Ino = Ino(1);
}

#[derive(Debug)]
pub(super) struct Node {
    /// None: it has no name any more.
    pub place: Option<(Ino, Name)>,
    pub kernel: KernelView,
    /// Open files and whatever else must not lose the node.
    pub pins: u32,
    /// Attribute changes on their way to the bucket.
    pub pending: Option<Box<Pending>>,
    /// When it was renamed last: shown as its time of change, stored only where that costs nothing.
    pub renamed: Option<Timestamp>,
    /// When attributes were last set to what they were: shown as the time of change, not stored.
    pub confirmed: Option<Timestamp>,
    pub inode: Inode,
}

/// What the kernel has of a node.
#[derive(Debug)]
pub(super) struct KernelView {
    /// How often it was given it, less what it has forgotten.
    pub lookups: u64,
    /// It was given it again since the node was last considered for being forgotten.
    pub used: bool,
}

#[derive(Debug)]
#[allow(clippy::large_enum_variant)] // most inodes are files: a box would be one more allocation for each
pub(super) enum Inode {
    File(FileNode),
    Directory(Box<Directory>),
}

/// What is known of a file besides its object.
#[derive(Debug, Default)]
pub(super) struct FileNode {
    /// Its attributes while it has changes that are not uploaded.
    pub dirty: Option<DirtyInode>,
    pub stored: Stored,
    /// What it was when its name was last looked at.
    pub kind: Option<Kind>,
    /// Made here under a tool's temporary name, which it still has: its rename is to come.
    pub awaits_rename: bool,
    /// It has lost its name. None while it has one.
    pub detached: Option<Detached>,
    /// The version that open files read; a name that shows another one gets another inode.
    pub open: Option<Object>,
    /// The content that the kernel's pages show.
    pub pages: Option<ETag>,
    /// The version that was shown under this inode last.
    pub version: Option<ETag>,
    /// Until when the kernel may show what it was told of `version`, its size above all.
    pub shown_until: Option<Instant>,
}

/// Whether the bucket has an object of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Stored {
    #[default]
    Committed,
    /// There is no object of this name yet.
    Uncommitted,
    /// There is one, of another file that this one is to replace: when this one goes before it was uploaded, that
    /// object must go as well.
    Shadowing,
}

/// A file without a name.
#[derive(Debug)]
pub(super) struct Detached {
    /// What was known when it lost its name.
    pub object: Option<Object>,
    /// Another client has replaced the object, and the name has another inode.
    pub replaced: bool,
}

/// Attributes of an inode with changes not yet uploaded.
#[derive(Clone, Debug)]
pub struct DirtyInode {
    pub attributes: Attributes,
    /// In bytes.
    pub size: u64,
    /// Counts changes of the attributes, so that an upload can tell whether it carried the last.
    pub revision: u64,
}

/// What is known of a directory itself.
#[derive(Debug, Default)]
pub struct Directory {
    pub listing: Listing,
    pub(super) children: HashMap<Name, Ino>,
    /// From its marker's headers, and when that was true. None: it must be requested.
    pub(super) known: Option<KnownDirectory>,
    /// Changes in the directory since its stored times, ours: shown, not stored.
    pub(super) touched: Option<Timestamp>,
    /// This mount has made it.
    pub(super) made_here: bool,
    pub pattern: AccessPattern,
    /// When its names were last looked up or read.
    pub wanted: Option<Instant>,
    /// What the listing takes of the memory budget.
    pub(super) memory: Option<Reservation>,
    /// A reading of the listing as it stands, while a directory handle goes on with it.
    pub reading: Option<SharedReading>,
}

#[derive(Clone, Debug)]
pub(super) struct KnownDirectory {
    pub attributes: Attributes,
    pub checked: Instant,
    /// The marker's time and whether a later change would show; None without a marker.
    pub marker: Option<Marker>,
}

/// A directory's marker object, as far as it tells one version from another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Marker {
    pub etag: ETag,
    /// Seconds since the epoch.
    pub last_modified: u64,
    /// As `CachedAttributes::revalidatable`.
    pub revalidatable: bool,
    /// As [`Object::uploaded_here`].
    pub uploaded_here: bool,
}

/// Attribute changes that were requested and are not in the bucket yet.
#[derive(Debug, Default)]
pub(super) struct Pending {
    pub change: Change,
    /// Of the calls that asked, in their order.
    pub waiting: Vec<Outcome>,
}

/// What became of one call's change; empty while it is on its way. Changes that come while a copy is under
/// way go with the next: a copy's failure is the failure of those that it carried, and of no others.
pub type Outcome = Arc<OnceLock<Result<()>>>;

impl Directory {
    /// Its marker, as far as it is known.
    pub fn marker(&self) -> Option<Marker> {
        self.known.as_ref()?.marker.clone()
    }

    /// When its attributes were last known to be true.
    pub fn checked(&self) -> Option<Instant> {
        Some(self.known.as_ref()?.checked)
    }

    /// What its marker holds, without what only this mount shows.
    pub fn stored(&self) -> Option<Attributes> {
        let known = self.known.as_ref()?;
        Some(known.attributes.clone())
    }

    /// Whether this mount has made it.
    pub fn is_made_here(&self) -> bool {
        self.made_here
    }

    /// What is known of its attributes may be wrong: they are requested anew.
    pub fn invalidate_attributes(&mut self) {
        self.known = None;
    }

    /// The stored times are what counts again.
    pub fn untouch(&mut self) {
        self.touched = None;
    }

    /// A listing of the directory showed this marker: whether what is known of it still counts.
    pub fn confirm_marker(&mut self, listed: Option<&Marker>, checked: Instant) -> bool {
        let Some(known) = &mut self.known else {
            return false;
        };
        let same = match (&mut known.marker, listed) {
            (None, None) => true,
            (Some(ours), Some(listed)) if ours.uploaded_here && ours.etag == listed.etag => {
                let unchanged = listed.last_modified <= ours.last_modified;
                if unchanged {
                    // Another client may have changed it in the same second: after the next listing it is requested, once.
                    ours.last_modified = listed.last_modified;
                    ours.uploaded_here = false;
                }
                unchanged
            }
            (Some(known), Some(listed)) => {
                known.revalidatable
                    && known.etag == listed.etag
                    && known.last_modified == listed.last_modified
            }
            _ => false,
        };
        if same {
            known.checked = known.checked.max(checked);
        }
        same
    }
}

impl Node {
    /// Of which nothing is known but its name.
    pub(super) fn new(place: Option<(Ino, Name)>, directory: bool) -> Node {
        Node {
            place,
            kernel: KernelView {
                lookups: 0,
                used: true,
            },
            pins: 0,
            pending: None,
            renamed: None,
            confirmed: None,
            inode: match directory {
                true => Inode::Directory(Box::default()),
                false => Inode::File(FileNode::default()),
            },
        }
    }

    pub(super) fn is_directory(&self) -> bool {
        matches!(self.inode, Inode::Directory(_))
    }

    pub(super) fn directory(&self) -> Option<&Directory> {
        match &self.inode {
            Inode::Directory(directory) => Some(directory),
            Inode::File(_) => None,
        }
    }

    pub(super) fn directory_mut(&mut self) -> Option<&mut Directory> {
        match &mut self.inode {
            Inode::Directory(directory) => Some(directory),
            Inode::File(_) => None,
        }
    }

    pub(super) fn file(&self) -> Option<&FileNode> {
        match &self.inode {
            Inode::File(file) => Some(file),
            Inode::Directory(_) => None,
        }
    }

    pub(super) fn file_mut(&mut self) -> Option<&mut FileNode> {
        match &mut self.inode {
            Inode::File(file) => Some(file),
            Inode::Directory(_) => None,
        }
    }

    /// Whether it has changes that are not uploaded.
    pub(super) fn is_dirty(&self) -> bool {
        self.file().is_some_and(|file| file.dirty.is_some())
    }
}

/// For attributes that are made now.
pub fn now() -> Timestamp {
    Timestamp::from_system(std::time::SystemTime::now())
}
