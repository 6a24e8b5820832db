//! Whether other users of this machine can replace a file.
//!
//! Someone who can replace a public key can read what is written from then on. To do that, it is enough to
//! own the file, to be able to write to a folder above it, or to own a symbolic link on the path to it. So
//! the path is walked one name at a time, following links explicitly, and every folder and link on it must
//! belong to this user or to root. A folder that others can write to is harmless only with the sticky bit:
//! they can add names to it, but not replace those of others.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use crate::text;

/// Maximum number of links on one path, as in the kernel.
const MAX_LINKS: usize = 40;

const STICKY: u32 = 0o1000;

/// The part of the path to a file that cannot be trusted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Untrusted {
    #[error("it belongs to another user (uid {uid})")]
    File { uid: u32 },
    #[error(
        "the folder {} belongs to another user (uid {uid}), who can replace its contents",
        text::path(path)
    )]
    FolderOwner { path: PathBuf, uid: u32 },
    #[error(
        "other users can replace the contents of the folder {} (mode {mode:04o}); run `chmod go-w` on it",
        text::path(path)
    )]
    FolderMode { path: PathBuf, mode: u32 },
    #[error(
        "the symbolic link {} belongs to another user (uid {uid})",
        text::path(path)
    )]
    Link { path: PathBuf, uid: u32 },
}

/// Checks the owner of an open file.
///
/// # Errors
/// [`Untrusted::File`].
pub fn owner(file: &Metadata) -> Result<(), Untrusted> {
    match is_us(file.uid()) {
        true => Ok(()),
        false => Err(Untrusted::File { uid: file.uid() }),
    }
}

/// Checks every folder and link on the path to `path`, including the last name if it is a link. Names that
/// cannot be accessed are left to the code that opens the file, and so are files that the parent process has
/// already opened (`/dev/fd`, `/dev/stdin`).
///
/// # Errors
/// The first one that other users can change.
pub fn way(path: &Path) -> Result<(), Untrusted> {
    walk(path, true)
}

/// Checks only the links on the path, for a file whose last name is opened without following it.
///
/// # Errors
/// [`Untrusted::Link`].
pub fn links(path: &Path) -> Result<(), Untrusted> {
    walk(path, false)
}

fn walk(path: &Path, folders: bool) -> Result<(), Untrusted> {
    if is_inherited(path) {
        return Ok(());
    }
    let Ok(path) = std::path::absolute(path) else {
        return Ok(());
    };
    let mut at = PathBuf::from("/");
    let mut names: VecDeque<OsString> = names_of(&path);
    let mut links = 0;
    if folders && let Ok(root) = at.symlink_metadata() {
        folder(&at, &root)?;
    }
    while let Some(name) = names.pop_front() {
        if name == ".." {
            at.pop();
            continue;
        }
        at.push(&name);
        let Ok(found) = at.symlink_metadata() else {
            return Ok(());
        };
        if found.is_symlink() {
            if !is_us(found.uid()) && !is_foreign_root(found.uid()) {
                return Err(Untrusted::Link {
                    path: at,
                    uid: found.uid(),
                });
            }
            links += 1;
            let Ok(target) = at.read_link() else {
                return Ok(());
            };
            if links > MAX_LINKS || is_inherited(&at) {
                return Ok(());
            }
            match target.is_absolute() {
                true => at = PathBuf::from("/"),
                false => {
                    at.pop();
                }
            }
            for name in names_of(&target).into_iter().rev() {
                names.push_front(name);
            }
        } else if folders && found.is_dir() && !names.is_empty() {
            folder(&at, &found)?;
        }
    }
    Ok(())
}

fn folder(path: &Path, found: &Metadata) -> Result<(), Untrusted> {
    let uid = found.uid();
    if !is_us(uid) && !is_foreign_root(uid) {
        let path = path.to_owned();
        return Err(Untrusted::FolderOwner { path, uid });
    }
    let mode = found.mode() & 0o7777;
    if mode & 0o022 != 0 && mode & STICKY == 0 {
        let path = path.to_owned();
        return Err(Untrusted::FolderMode { path, mode });
    }
    Ok(())
}

fn names_of(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter_map(|component| match component {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some("..".into()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
        })
        .collect()
}

/// Names of descriptors: the parent process opened the files behind them.
pub fn is_inherited(path: &Path) -> bool {
    ["/dev/fd", "/dev/stdin", "/proc/self/fd"]
        .iter()
        .any(|folder| path.starts_with(folder))
}

fn is_us(uid: u32) -> bool {
    uid == 0 || uid == nix::unistd::geteuid().as_raw()
}

/// In a user namespace, the machine's root has no number of its own and appears as the overflow user, like
/// every other outside user. It owns the folders up to /, so there it counts as root.
fn is_foreign_root(uid: u32) -> bool {
    let number = |path| -> Option<u32> { std::fs::read_to_string(path).ok()?.trim().parse().ok() };
    if number("/proc/sys/kernel/overflowuid") != Some(uid) {
        return false;
    }
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    // The whole range, mapped to itself: this is the machine's own namespace.
    map.split_whitespace().ne(["0", "0", "4294967295"])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt, lchown, symlink};

    #[test]
    fn a_path_that_others_can_change_is_reported() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        let at = |name: &str| root.join(name);
        for folder in ["safe", "open", "sticky", "safe/below", "open/below"] {
            std::fs::create_dir(at(folder)).unwrap();
            std::fs::write(at(folder).join("key"), "").unwrap();
        }
        for (folder, mode) in [("safe", 0o755), ("open", 0o777), ("sticky", 0o1777)] {
            std::fs::set_permissions(at(folder), Permissions::from_mode(mode)).unwrap();
        }
        symlink("../open/key", at("safe/to-open")).unwrap();
        symlink(at("safe"), at("open/to-safe")).unwrap();
        symlink("../safe/key", at("sticky/to-safe")).unwrap();
        let open = Some("open");
        for (path, wrong) in [
            ("safe/key", None),
            ("safe/below/key", None),
            ("sticky/key", None),
            ("sticky/to-safe", None),
            ("safe/absent", None),
            ("absent/key", None),
            ("open/key", open),
            ("open/below/key", open),
            ("open/to-safe/key", open),
            ("safe/to-open", open),
            ("safe/../open/key", open),
        ] {
            let found = way(&at(path));
            assert_eq!(links(&at(path)), Ok(()), "{path}");
            match wrong {
                None => assert_eq!(found, Ok(()), "{path}"),
                Some(folder) => assert_eq!(
                    found,
                    Err(Untrusted::FolderMode {
                        path: at(folder),
                        mode: 0o777
                    }),
                    "{path}"
                ),
            }
        }
        assert_eq!(way(Path::new("/dev/fd/63")), Ok(()));
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped in part: only root gives files away");
            return;
        }
        lchown(at("sticky/to-safe"), Some(4711), None).unwrap();
        lchown(at("sticky/key"), Some(4711), None).unwrap();
        let stranger = Err(Untrusted::Link {
            path: at("sticky/to-safe"),
            uid: 4711,
        });
        assert_eq!(way(&at("sticky/to-safe")), stranger);
        assert_eq!(links(&at("sticky/to-safe")), stranger);
        let file = at("sticky/key").metadata().unwrap();
        assert_eq!(owner(&file), Err(Untrusted::File { uid: 4711 }));
        lchown(at("safe"), Some(4711), None).unwrap();
        assert_eq!(
            way(&at("safe/below/key")),
            Err(Untrusted::FolderOwner {
                path: at("safe"),
                uid: 4711
            })
        );
    }

    #[test]
    fn links_in_a_circle_end() {
        let root = tempfile::tempdir().unwrap();
        symlink("b", root.path().join("a")).unwrap();
        symlink("a", root.path().join("b")).unwrap();
        assert_eq!(way(&root.path().join("a")), Ok(()));
    }
}
