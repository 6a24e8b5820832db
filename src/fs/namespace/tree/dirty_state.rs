//! Attributes that the bucket does not have yet, and those of directories.

use std::time::Instant;

use super::Namespace;
use crate::fs::attributes::{Attributes, Change, Timestamp};
use crate::fs::error::{Error, Result};
use crate::fs::namespace::inode::{DirtyInode, Ino, KnownDirectory, Marker, Outcome};

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
                self.directory_marker(ino)?;
                self.stored_directory(ino)?
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

    /// Whether this mount has made the directory.
    pub fn is_made_here(&self, ino: Ino) -> bool {
        let directory = self.directory_ref(ino);
        directory.is_some_and(|directory| directory.made_here)
    }

    /// When a directory's attributes were last known to be true.
    pub fn directory_checked(&self, ino: Ino) -> Option<Instant> {
        let directory = self.directory_ref(ino)?;
        Some(directory.known.as_ref()?.checked)
    }

    /// All that is on its way for an inode, and how many calls asked for it.
    pub fn pending(&self, ino: Ino) -> Option<(Change, usize)> {
        let pending = self.nodes.get(&ino)?.pending.as_ref()?;
        Some((pending.change.clone(), pending.waiting.len()))
    }

    /// What the first `carried` calls asked for is in the bucket, or could not be brought there.
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

    /// A listing of the directory showed this marker: whether what is known of it still counts.
    pub fn confirm_directory(
        &mut self,
        ino: Ino,
        listed: Option<&Marker>,
        checked: Instant,
    ) -> bool {
        let Some(known) = self
            .directory(ino)
            .and_then(|directory| directory.known.as_mut())
        else {
            return false;
        };
        let same = match (&mut known.marker, listed) {
            (None, None) => true,
            (Some(ours), Some(listed)) if ours.uploaded_here && ours.etag == listed.etag => {
                let unchanged = listed.last_modified <= ours.last_modified;
                if unchanged {
                    // Another client may have changed it in the same second: the next listing asks, once.
                    ours.last_modified = listed.last_modified;
                    ours.uploaded_here = false;
                }
                unchanged
            }
            (Some(known), Some(listed)) => {
                known.settled
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
                .is_some_and(|marker| !marker.settled && !marker.uploaded_here),
            None => marked == Some(true),
        }
    }

    pub fn directory_marker(&self, ino: Ino) -> Option<Marker> {
        let directory = self.directory_ref(ino)?;
        directory.known.as_ref()?.marker.clone()
    }

    /// Something in the directory was changed by this mount: its times show it at once. It is not stored.
    pub fn touch_directory(&mut self, ino: Ino, now: Timestamp) {
        if let Some(directory) = self.directory(ino) {
            directory.touched = Some(now);
        }
    }

    /// The stored times are what counts again.
    pub fn untouch_directory(&mut self, ino: Ino) {
        if let Some(directory) = self.directory(ino) {
            directory.touched = None;
        }
    }

    /// What the directory's marker holds, without what only this mount shows.
    pub fn stored_directory(&self, ino: Ino) -> Option<Attributes> {
        let directory = self.directory_ref(ino)?;
        directory
            .known
            .as_ref()
            .map(|known| known.attributes.clone())
    }
}
