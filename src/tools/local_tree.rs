//! The files below a local folder in the order of their would-be keys, so that they can be compared with a
//! listing without holding either in memory.

use std::cmp::Ordering;
use std::io;
use std::path::{Path, PathBuf};

use walkdir::{DirEntry, WalkDir};

use super::local_file::LocalFileError;

/// A regular file or a symbolic link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LocalFile {
    /// The path below the folder, with `/`.
    pub path: String,
    pub full: PathBuf,
}

/// Walks depth first, and holds the names of the folders that it is in. Sockets, pipes and devices are skipped.
pub(super) struct LocalTree {
    root: PathBuf,
    entries: walkdir::IntoIter,
    next: Option<LocalFile>,
}

impl LocalTree {
    /// # Errors
    /// The folder cannot be read, or contains a name that is not UTF-8.
    pub(super) fn new(root: &Path) -> Result<LocalTree, LocalFileError> {
        let entries = WalkDir::new(root).min_depth(1).sort_by(by_key).into_iter();
        let mut tree = LocalTree {
            root: root.to_owned(),
            entries,
            next: None,
        };
        tree.advance()?;
        Ok(tree)
    }

    pub(super) fn peek(&self) -> Option<&LocalFile> {
        self.next.as_ref()
    }

    /// # Errors
    /// As [`new`](Self::new).
    pub(super) fn take(&mut self) -> Result<Option<LocalFile>, LocalFileError> {
        let taken = self.next.take();
        self.advance()?;
        Ok(taken)
    }

    fn advance(&mut self) -> Result<(), LocalFileError> {
        for entry in self.entries.by_ref() {
            let entry = entry.map_err(|error| {
                let path = error.path().unwrap_or(&self.root).to_owned();
                LocalFileError::reading(&path, error.into())
            })?;
            let kind = entry.file_type();
            if kind.is_file() || kind.is_symlink() {
                self.next = Some(self.file(entry)?);
                break;
            }
        }
        Ok(())
    }

    fn file(&self, entry: DirEntry) -> Result<LocalFile, LocalFileError> {
        let below = entry
            .path()
            .strip_prefix(&self.root)
            .unwrap_or(entry.path());
        let path = below.to_str().ok_or_else(|| {
            let why = io::Error::other("its name is not UTF-8");
            LocalFileError::reading(entry.path(), why)
        })?;
        Ok(LocalFile {
            path: path.to_owned(),
            full: entry.into_path(),
        })
    }
}

/// The byte order of keys, in which a folder's key is its name followed by `/`.
fn by_key(a: &DirEntry, b: &DirEntry) -> Ordering {
    key(a).cmp(key(b))
}

fn key(entry: &DirEntry) -> impl Iterator<Item = &u8> {
    let slash = entry.file_type().is_dir().then_some(&b'/');
    entry.file_name().as_encoded_bytes().iter().chain(slash)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn files_are_in_the_order_of_their_keys() {
        let folder = tempfile::tempdir().unwrap();
        let mut wanted = ["a/b", "a/b.c/d", "a-", "a.b", "a0", "b/", "z/y/x"].map(str::to_owned);
        for path in &wanted {
            let full = folder.path().join(path);
            if path.ends_with('/') {
                fs::create_dir_all(full).unwrap();
            } else {
                fs::create_dir_all(full.parent().unwrap()).unwrap();
                fs::write(full, path).unwrap();
            }
        }
        wanted.sort();
        let mut tree = LocalTree::new(folder.path()).unwrap();
        for path in wanted.iter().filter(|path| !path.ends_with('/')) {
            assert_eq!(tree.peek().unwrap().path, *path);
            assert_eq!(tree.take().unwrap().unwrap().path, *path);
        }
        assert_eq!(tree.take().unwrap(), None);
    }
}
