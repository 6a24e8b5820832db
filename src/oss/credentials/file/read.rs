//! Reads a file with keys, if nobody else can read or replace it.

use std::fs::{File, Metadata, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::OFlag;
use zeroize::Zeroizing;

use super::super::error::Fault;
use super::super::json::LARGEST;

/// A file on a network that is gone must not stop what can go on without it.
const PATIENCE: Duration = Duration::from_secs(10);

/// Whether other users can replace a file: its owner, and the folders above it. The text says who can.
pub type Trusted = fn(&Path, &Metadata) -> Result<(), String>;

/// Who else may have access to a file.
#[derive(Clone, Copy)]
pub enum Rules {
    /// Anybody.
    Open,
    /// Nobody; or members of its group, who may read it.
    Private { trusted: Trusted, group: bool },
}

/// Tells one version of a file from the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    inode: (u64, u64),
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Identity {
    fn of(found: &Metadata) -> Identity {
        Identity {
            inode: (found.dev(), found.ino()),
            size: found.size(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        }
    }
}

pub(in super::super) struct Content {
    pub bytes: Zeroizing<Vec<u8>>,
    pub identity: Identity,
}

/// The content of the file that is at `path` now, links followed.
///
/// # Errors
/// It cannot be read, others may have access to it, or it is too large.
pub(in super::super) async fn content(path: PathBuf, rules: Rules) -> Result<Content, Fault> {
    let reading = tokio::task::spawn_blocking(move || read(&path, rules));
    match tokio::time::timeout(PATIENCE, reading).await {
        Ok(Ok(content)) => content,
        Ok(Err(_)) | Err(_) => Err(Fault::unreachable(
            "it cannot be read: its disk does not answer",
        )),
    }
}

/// None if there is nothing to be seen: a file that is being replaced.
pub(super) async fn identity(path: PathBuf) -> Option<Identity> {
    let looking = tokio::task::spawn_blocking(move || path.metadata().ok());
    let found = tokio::time::timeout(PATIENCE, looking).await.ok()?.ok()??;
    Some(Identity::of(&found))
}

fn read(path: &Path, rules: Rules) -> Result<Content, Fault> {
    let failed = |error: std::io::Error| {
        Fault::unusable(match error.kind() {
            std::io::ErrorKind::NotFound => "there is no such file".to_owned(),
            std::io::ErrorKind::PermissionDenied => "you may not read it".to_owned(),
            _ => format!("it cannot be read: {error}"),
        })
    };
    // A pipe that nobody writes to must not hold up whoever opens it.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(OFlag::O_NONBLOCK.bits())
        .open(path)
        .map_err(failed)?;
    let found = file.metadata().map_err(failed)?;
    if !found.is_file() {
        return Err(Fault::unusable(
            "it is not a regular file, and it has to be read again whenever its keys change",
        ));
    }
    if let Rules::Private { trusted, group } = rules {
        check_mode(found.mode() & 0o7777, group)?;
        trusted(path, &found)
            .map_err(|why| Fault::unusable(format!("other users can replace it: {why}")))?;
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(LARGEST + 1));
    let mut whole = File::take(file, LARGEST as u64 + 1);
    whole.read_to_end(&mut bytes).map_err(failed)?;
    match bytes.len() <= LARGEST {
        true => Ok(Content {
            bytes,
            identity: Identity::of(&found),
        }),
        false => Err(Fault::unusable("it is larger than 64 KiB")),
    }
}

fn check_mode(mode: u32, group: bool) -> Result<(), Fault> {
    let (forbidden, advice) = match group {
        true => (0o137, "chmod 640"),
        false => (0o077, "chmod 600"),
    };
    match mode & forbidden {
        0 => Ok(()),
        _ => Err(Fault::unusable(format!(
            "other users can read or change it (mode {mode:04o}); run `{advice}` on it"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn anybody(_: &Path, _: &Metadata) -> Result<(), String> {
        Ok(())
    }

    fn nobody(_: &Path, _: &Metadata) -> Result<(), String> {
        Err("it is somebody's".to_owned())
    }

    #[tokio::test]
    async fn a_file_with_keys_is_nobody_elses() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        fs::write(&path, "content").unwrap();
        let private = |trusted: Trusted, group| Rules::Private { trusted, group };
        for (mode, rules, expected) in [
            (0o600, private(anybody, false), None),
            (0o400, private(anybody, false), None),
            (
                0o640,
                private(anybody, false),
                Some("(mode 0640); run `chmod 600`"),
            ),
            (0o604, private(anybody, false), Some("chmod 600")),
            (0o640, private(anybody, true), None),
            (
                0o660,
                private(anybody, true),
                Some("(mode 0660); run `chmod 640`"),
            ),
            (0o644, private(anybody, true), Some("chmod 640")),
            (
                0o600,
                private(nobody, false),
                Some("replace it: it is somebody's"),
            ),
            (0o644, Rules::Open, None),
        ] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            match (content(path.clone(), rules).await, expected) {
                (Ok(content), None) => assert_eq!(content.bytes.as_slice(), b"content"),
                (Err(fault), Some(expected)) => {
                    assert!(fault.why.contains(expected), "{mode:o}: {}", fault.why);
                }
                (result, _) => panic!("{mode:o}: {}", result.is_ok()),
            }
        }
    }

    #[tokio::test]
    async fn what_cannot_be_read_again_is_refused_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        nix::unistd::mkfifo(&path("pipe"), nix::sys::stat::Mode::S_IRUSR).unwrap();
        fs::write(path("huge"), vec![b'x'; LARGEST + 1]).unwrap();
        for (path, expected) in [
            (path("pipe"), "not a regular file"),
            (folder.path().to_owned(), "not a regular file"),
            (path("huge"), "larger than 64 KiB"),
            (path("absent"), "no such file"),
        ] {
            let fault = content(path, Rules::Open).await.err().unwrap();
            assert!(fault.why.contains(expected), "{}", fault.why);
        }
    }

    #[tokio::test]
    async fn a_link_that_is_swapped_is_another_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("one"), "content").unwrap();
        fs::write(path("two"), "content").unwrap();
        std::os::unix::fs::symlink("one", path("link")).unwrap();
        let read = content(path("link"), Rules::Open).await.ok().unwrap();
        assert_eq!(identity(path("link")).await, Some(read.identity));
        std::os::unix::fs::symlink("two", path("new")).unwrap();
        fs::rename(path("new"), path("link")).unwrap();
        assert_ne!(identity(path("link")).await, Some(read.identity));
        fs::remove_file(path("two")).unwrap();
        assert_eq!(identity(path("link")).await, None);
    }
}
