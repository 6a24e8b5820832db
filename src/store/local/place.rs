//! Where content is in a bucket folder, and how it is removed.
//!
//! Another process may remove content at any time; a file that is open stays readable. Within this process, a
//! folder of parts that is being read is removed when the last read ends, because its files are opened one after
//! the other.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};

use super::directory::Directory;
use super::record::{Content, is_part_name};
use crate::base::sync::lock;

/// The folder of all content, below the bucket folder; in it, one folder for each shard of the keys.
pub(super) const DATA: &str = "data";

/// Where the content of an object is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Place {
    /// `data/HH`
    pub shard: String,
    pub name: String,
    /// A folder of part files.
    pub in_parts: bool,
}

impl Place {
    /// None for empty content.
    pub(super) fn of(key: &str, content: &Content) -> Option<Place> {
        let (name, in_parts) = match content {
            Content::Empty => return None,
            Content::File(name) => (name, false),
            Content::Parts(name) => (name, true),
        };
        Some(Place {
            shard: shard(key),
            name: name.clone(),
            in_parts,
        })
    }

    /// From the bucket folder.
    pub(super) fn path(&self) -> String {
        format!("{}/{}", self.shard, self.name)
    }

    /// Removes the content, and nothing that this store does not make: no folder but one of parts, nothing in
    /// that but parts. A failure costs only room.
    pub(super) fn remove(&self, root: &Directory) {
        let remove = || {
            let shard = root.directory(&self.shard)?;
            if !self.in_parts {
                return shard.remove_file(&self.name);
            }
            let parts = shard.directory(&self.name)?;
            for name in parts.names()? {
                if let Some(name) = name?.to_str().filter(|name| is_part_name(name)) {
                    parts.remove_file(name)?;
                }
            }
            shard.remove_directory(&self.name)
        };
        warn_of(remove(), &root.path_of(&self.path()));
    }
}

/// The folder of a key's content, from the bucket folder.
pub(super) fn shard(key: &str) -> String {
    let spread = crc_fast::crc32_iso_hdlc(key.as_bytes()) & 0xff;
    format!("{DATA}/{spread:02x}")
}

/// Logs a removal that failed; a file that is already gone is no failure.
pub(super) fn warn_of(removed: io::Result<()>, path: &Path) {
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            log::warn!("{}: cannot be removed: {error}", path.display());
        }
        _ => {}
    }
}

/// The folders of parts that are being read: removed ones go when the last read ends.
pub(super) struct Leases {
    root: Directory,
    held: Mutex<HashMap<Place, Held>>,
}

#[derive(Default)]
struct Held {
    readers: usize,
    removed: bool,
}

pub(super) struct Lease {
    leases: Arc<Leases>,
    place: Place,
}

impl Leases {
    pub(super) fn new(root: Directory) -> Leases {
        Leases {
            root,
            held: Mutex::default(),
        }
    }

    pub(super) fn take(leases: &Arc<Leases>, place: &Place) -> Lease {
        lock(&leases.held).entry(place.clone()).or_default().readers += 1;
        Lease {
            leases: leases.clone(),
            place: place.clone(),
        }
    }

    pub(super) fn remove(&self, place: Place) {
        if let Some(held) = lock(&self.held).get_mut(&place) {
            held.removed = true;
            return;
        }
        place.remove(&self.root);
    }
}

impl Lease {
    /// The bucket folder.
    pub(super) fn root(&self) -> &Directory {
        &self.leases.root
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut leases = lock(&self.leases.held);
        let Some(held) = leases.get_mut(&self.place) else {
            return;
        };
        held.readers -= 1;
        if held.readers == 0 {
            let removed = held.removed;
            leases.remove(&self.place);
            drop(leases);
            if removed {
                self.place.remove(&self.leases.root);
            }
        }
    }
}
