//! The files below a local folder in the order of their would-be keys, so that they can be compared with a
//! listing without holding either in memory.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::local_file::LocalFileError;

/// A regular file or a symbolic link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalFile {
    /// The path below the folder, with `/`.
    pub path: String,
    pub full: PathBuf,
}

/// Walks depth first. Within a folder, names are in the byte order of their keys; a folder sorts as its name
/// followed by `/`.
pub struct LocalTree {
    /// The remaining entries of each open folder, last first.
    folders: Vec<Vec<(String, PathBuf, bool)>>,
    next: Option<LocalFile>,
}

impl LocalTree {
    /// # Errors
    /// The folder cannot be read, or contains a name that is not UTF-8.
    pub fn new(root: &Path) -> Result<LocalTree, LocalFileError> {
        let mut tree = LocalTree {
            folders: vec![entries(root, "")?],
            next: None,
        };
        tree.advance()?;
        Ok(tree)
    }

    pub fn peek(&self) -> Option<&LocalFile> {
        self.next.as_ref()
    }

    /// # Errors
    /// As [`new`](Self::new).
    pub fn take(&mut self) -> Result<Option<LocalFile>, LocalFileError> {
        let taken = self.next.take();
        self.advance()?;
        Ok(taken)
    }

    fn advance(&mut self) -> Result<(), LocalFileError> {
        while let Some(folder) = self.folders.last_mut() {
            match folder.pop() {
                None => {
                    self.folders.pop();
                }
                Some((path, full, true)) => self.folders.push(entries(&full, &path)?),
                Some((path, full, false)) => {
                    self.next = Some(LocalFile { path, full });
                    break;
                }
            }
        }
        Ok(())
    }
}

/// The path, the full path, and whether it is a folder; last first. Folders' paths end with `/`. Sockets,
/// pipes and devices are skipped.
fn entries(folder: &Path, path: &str) -> Result<Vec<(String, PathBuf, bool)>, LocalFileError> {
    let mut found = Vec::new();
    let failed = |error| LocalFileError::reading(folder, error);
    for entry in fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        let name = name.to_str().ok_or_else(|| {
            let why = io::Error::other("its name is not UTF-8");
            LocalFileError::reading(&entry.path(), why)
        })?;
        let kind = entry.file_type().map_err(failed)?;
        if kind.is_dir() {
            found.push((format!("{path}{name}/"), entry.path(), true));
        } else if kind.is_file() || kind.is_symlink() {
            found.push((format!("{path}{name}"), entry.path(), false));
        }
    }
    found.sort_unstable_by(|a, b| b.0.cmp(&a.0));
    Ok(found)
}

#[cfg(test)]
mod tests {
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
