//! Attributes that the bucket does not have yet, and those of directories.

use std::time::Instant;

use super::Namespace;
use crate::files::attributes::{Attributes, Change, Timestamp};
use crate::fs::error::{Error, Result};
use crate::fs::namespace::inode::{Directory, DirtyInode, Ino, KnownDirectory, Marker, Outcome};

impl Namespace {
    /// The file is changed here, and not in the bucket: its looks are local from now on.
    pub fn mark_dirty(&mut self, ino: Ino, attributes: Attributes, size: u64) {
        if let Some(file) = self.file_mut(ino) {
            let revision = file.dirty.as_ref().map_or(1, |dirty| dirty.revision + 1);
            file.dirty = Some(DirtyInode {
                attributes,
                size,
                revision,
            });
        }
    }

    pub fn dirty_mut(&mut self, ino: Ino) -> Option<&mut DirtyInode> {
        self.file_mut(ino)?.dirty.as_mut()
    }

    /// The bucket shows what was local.
    pub fn mark_clean(&mut self, ino: Ino) {
        if let Some(file) = self.file_mut(ino) {
            file.dirty = None;
        }
    }

    /// An attribute change that is on its way: shown at once. Every call is followed by an
    /// [`Namespace::end_pending`] that carries it.
    pub fn add_pending(&mut self, ino: Ino, change: &Change) -> Outcome {
        let outcome = Outcome::default();
        match self.nodes.get_mut(&ino) {
            Some(node) => {
                let pending = node.pending.get_or_insert_default();
                pending.change.merge(change);
                pending.waiting.push(outcome.clone());
            }
            None => drop(outcome.set(Err(Error::Stale))),
        }
        outcome
    }

    /// What is stored of an inode, as last known, with the changes on their way. None of a directory without a
    /// marker: nothing of it is stored.
    pub fn stored_attributes(&self, ino: Ino) -> Option<Attributes> {
        let mut attributes = match self.is_directory(ino) {
            true => {
                self.directory_ref(ino).and_then(Directory::marker)?;
                self.directory_ref(ino).and_then(Directory::stored)?
            }
            false => self.object(ino)?.known.as_ref()?.attributes.clone(),
        };
        if let Some((change, _)) = self.pending(ino) {
            change.apply(&mut attributes, &self.defaults);
        }
        Some(attributes)
    }

    /// Attributes were set to what they were.
    pub fn confirm_attributes(&mut self, ino: Ino, time: Option<Timestamp>) {
        if let Some(node) = self.nodes.get_mut(&ino) {
            node.confirmed = node.confirmed.max(time);
        }
    }

    /// Whether a tool is expected to rename the file.
    pub fn awaits_rename(&self, ino: Ino) -> bool {
        self.file(ino).is_some_and(|file| file.awaits_rename)
    }

    pub fn set_awaits_rename(&mut self, ino: Ino, awaits: bool) {
        if let Some(file) = self.file_mut(ino) {
            file.awaits_rename = awaits;
        }
    }

    /// All that is on its way for an inode, and how many calls requested it.
    pub fn pending(&self, ino: Ino) -> Option<(Change, usize)> {
        let pending = self.nodes.get(&ino)?.pending.as_ref()?;
        Some((pending.change.clone(), pending.waiting.len()))
    }

    /// What the first `carried` calls requested is in the bucket, or could not be brought there.
    pub fn end_pending(&mut self, ino: Ino, carried: usize, result: &Result<()>) {
        let Some(node) = self.nodes.get_mut(&ino) else {
            return;
        };
        let Some(pending) = &mut node.pending else {
            return;
        };
        let carried = carried.min(pending.waiting.len());
        for outcome in pending.waiting.drain(..carried) {
            // Only set here, and once.
            let _ = outcome.set(result.clone());
        }
        if pending.waiting.is_empty() {
            node.pending = None;
            self.drop_if_unused(ino);
        }
    }

    /// What a directory's marker said, or that there is none. Asked for at `checked`.
    pub fn set_directory(
        &mut self,
        ino: Ino,
        attributes: Attributes,
        marker: Option<Marker>,
        checked: Instant,
    ) {
        if let Some(directory) = self.directory(ino) {
            directory.listing.set_marker(marker.is_some());
            directory.known = Some(KnownDirectory {
                attributes,
                checked,
                marker,
            });
        }
    }

    /// Whether a listing will not be enough to know a directory's attributes: there is most likely a marker, of which
    /// nothing is known, or that was changed a moment ago.
    pub fn expects_marker(&mut self, ino: Ino) -> bool {
        let parent = self.place(ino).map(|(parent, _)| parent);
        let marked = parent
            .and_then(|parent| self.directory(parent))
            .and_then(|parent| parent.listing.marker());
        let known = self
            .directory(ino)
            .and_then(|directory| directory.known.as_ref());
        match known {
            Some(known) => (known.marker.as_ref())
                .is_some_and(|marker| !marker.revalidatable && !marker.uploaded_here),
            None => marked == Some(true),
        }
    }

    /// Something in the directory was changed by this mount: its times show it at once. It is not stored.
    pub fn touch_directory(&mut self, ino: Ino, now: Timestamp) {
        if let Some(directory) = self.directory(ino) {
            directory.touched = Some(now);
        }
    }
}
