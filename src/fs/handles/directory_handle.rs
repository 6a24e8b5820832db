//! An open directory: which names a program has been given of it, and which come next.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use super::page_window::{PageWindow, Seek};
use crate::base::sync::lock;
use crate::fs::namespace::inode::Ino;
use crate::fs::namespace::object_name::Name;
use crate::fs::namespace::scan::{DirectoryScan, Rest};
use crate::fs::resolver::directory_scan::Page;
use crate::store::listing::PageToken;

/// One open directory.
pub(crate) struct DirectoryHandle {
    ino: Ino,
    /// None: nothing of it was read yet. What is there counts when the reading begins, not when it was opened.
    state: Mutex<Option<Reading>>,
}

struct Reading {
    scan: Arc<DirectoryScan>,
    /// Names that stood here when the reading began, whatever the bucket has. They come after the bucket's,
    /// unless they are among these by then.
    local: Vec<(Name, Ino)>,
    /// How many names the bucket had, once that is known.
    listed: Option<u64>,
    /// Behind what the listing has, where that was cut: in a directory that is too large to be remembered.
    rest: Option<PageWindow<PageToken>>,
    /// Of the names that stood here, those that the pages of the rest have brought.
    passed: HashSet<Name>,
}

impl DirectoryHandle {
    pub(crate) fn new(ino: Ino) -> DirectoryHandle {
        DirectoryHandle {
            ino,
            state: Mutex::default(),
        }
    }

    pub(crate) fn ino(&self) -> Ino {
        self.ino
    }

    /// Whether anything of it was read yet.
    pub(crate) fn is_reading(&self) -> bool {
        lock(&self.state).is_some()
    }

    /// Reads the directory from its beginning: the names in `scan`, and then what of `local` is not among them.
    pub(crate) fn begin(&self, scan: Arc<DirectoryScan>, local: Vec<(Name, Ino)>) {
        *lock(&self.state) = Some(Reading {
            scan,
            local,
            listed: None,
            rest: None,
            passed: HashSet::new(),
        });
    }

    /// What the bucket has, as far as it has come; None if the reading has not begun.
    pub(crate) fn scan(&self) -> Option<Arc<DirectoryScan>> {
        let state = lock(&self.state);
        state.as_ref().map(|state| state.scan.clone())
    }

    /// Of a name behind the `listed` ones of a listing that was cut at `rest`.
    pub(crate) fn seek(&self, index: u64, listed: usize, rest: Rest) -> Seek<PageToken> {
        let mut state = lock(&self.state);
        let Some(state) = state.as_mut() else {
            return Seek::End;
        };
        let window = state
            .rest
            .get_or_insert_with(|| PageWindow::new(listed as u64, rest));
        window.seek(index)
    }

    /// A page of the rest of a directory that is too large to be remembered, whose first name has the index `first`.
    /// `local`: the names that stand here, whatever the bucket has.
    pub(crate) fn put_page(&self, first: u64, page: Page, local: &HashSet<Name>) {
        let mut state = lock(&self.state);
        let Some(state) = state.as_mut() else {
            return;
        };
        let passed = page.names.iter().map(|(name, _)| name);
        let passed = passed.filter(|name| local.contains(*name));
        state.passed.extend(passed.cloned());
        if let Some(rest) = &mut state.rest {
            rest.put(first, page);
        }
    }

    /// The names that only this mount has, after as many as the bucket has: what stood here when the reading began,
    /// and `unpublished`, which is called once.
    pub(crate) fn local_name(
        &self,
        index: u64,
        unpublished: impl FnOnce() -> Vec<(Name, Ino)>,
    ) -> Option<Name> {
        let mut state = lock(&self.state);
        let state = state.as_mut()?;
        let listed = match state.listed {
            Some(listed) => listed,
            None => {
                let Reading {
                    scan,
                    local,
                    passed,
                    ..
                } = &mut *state;
                local.extend(unpublished());
                local.sort_unstable();
                local.dedup_by(|later, earlier| later.0 == earlier.0);
                scan.without(local);
                local.retain(|(name, _)| !passed.contains(name));
                *state.listed.insert(index)
            }
        };
        let at = index.checked_sub(listed)?;
        state.local.get(at as usize).map(|(name, _)| name.clone())
    }
}
