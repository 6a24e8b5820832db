//! How `umount` learns the outcome of a mount: from a file that the daemon keeps locked while it lives, and
//! in which it leaves its result when it ends.
//!
//! The lock cannot outlive the daemon, however it dies, and a process that reuses its pid cannot inherit it.
//! A waiting `umount` opens the file before unmounting, waits for the lock, and then reads the result. A
//! daemon that ended well removes the file; one that could not upload everything leaves it for the next
//! `umount` to report.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::error::{Error, Result};
use super::exit::Code;
use crate::text::{self, one_line};

/// Interval at which the waiting process checks the lock: shorter than a person notices.
const POLL: Duration = Duration::from_millis(20);

/// Maximum length of a report: root also waits for other users' daemons, and must not read without bound.
const LONGEST: u64 = 1 << 20;

/// The daemon's side: locked until dropped.
pub(crate) struct DaemonFile {
    path: PathBuf,
    file: File,
}

impl DaemonFile {
    /// # Errors
    /// No folder for such files can be used.
    pub(crate) fn create(mountpoint: &Path, source: &str) -> Result<DaemonFile> {
        let uid = nix::unistd::geteuid().as_raw();
        let folder = first_usable(folders(uid), uid).ok_or_else(|| {
            Error::new(
                Code::Local,
                "no folder for the mount's state: set XDG_RUNTIME_DIR to a directory that you own",
            )
        })?;
        DaemonFile::create_in(&folder, mountpoint, source)
    }

    fn create_in(folder: &Path, mountpoint: &Path, source: &str) -> Result<DaemonFile> {
        let path = folder.join(name(mountpoint));
        // Written and locked under another name first, so that the name never shows an unlocked file of a
        // live daemon, and a process that still waits on an older file of this name is not affected.
        let fresh = folder.join(format!("{}.{}", name(mountpoint), std::process::id()));
        let make = || -> std::io::Result<File> {
            let mut file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&fresh)?;
            file.try_lock().map_err(|_| {
                std::io::Error::other("a newly created file is locked by another process")
            })?;
            writeln!(
                file,
                "pid {}\nmountpoint {}\nsource {}",
                std::process::id(),
                one_line(&mountpoint.to_string_lossy()),
                one_line(source)
            )?;
            std::fs::rename(&fresh, &path)?;
            Ok(file)
        };
        let file = make().map_err(|error| {
            Error::new(
                Code::Local,
                format!(
                    "cannot write the mount's state to {}: {error}",
                    text::path(&path)
                ),
            )
        })?;
        Ok(DaemonFile { path, file })
    }

    /// For a mount that never served: the command that started it reports why.
    pub(crate) fn discard(self) {
        remove(&self.path, &self.file);
    }

    /// Leaves the result for the waiting process, and releases the lock.
    pub(crate) fn finish(mut self, result: &Result<()>) {
        let line = match result {
            Ok(()) => "exit 0\n".to_owned(),
            Err(error) => format!("exit {} {error}\n", error.code().number()),
        };
        if let Err(error) = self.file.write_all(line.as_bytes()) {
            log::warn!("cannot record the result of the mount: {error}");
        }
        if result.is_ok() {
            remove(&self.path, &self.file);
        }
    }
}

/// The waiting side.
pub(crate) struct Waiter {
    path: PathBuf,
    file: File,
}

impl Waiter {
    /// The state of the mount on `mountpoint`, served by `owner`; none if there is or was no such mount.
    pub(crate) fn open(mountpoint: &Path, owner: u32) -> Option<Waiter> {
        folders(owner)
            .into_iter()
            .find_map(|folder| Waiter::open_in(&folder, mountpoint, owner))
    }

    fn open_in(folder: &Path, mountpoint: &Path, owner: u32) -> Option<Waiter> {
        let path = folder.join(name(mountpoint));
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(&path)
            .ok()?;
        // In /tmp, any user could have left such a file.
        let metadata = file.metadata().ok()?;
        (metadata.is_file() && metadata.uid() == owner).then_some(Waiter { path, file })
    }

    /// True while the daemon lives.
    pub(crate) fn is_running(&self) -> bool {
        match self.file.try_lock_shared() {
            Ok(()) => {
                let _ = self.file.unlock();
                false
            }
            Err(TryLockError::WouldBlock) => true,
            Err(TryLockError::Error(_)) => false,
        }
    }

    /// Waits until the daemon has ended, calling `still_waiting` about once a second with the seconds waited,
    /// and returns how it ended. There is no deadline: the daemon's own calls have theirs, and giving up here
    /// would report success too early.
    ///
    /// # Errors
    /// What the daemon reported, or [`Code::DaemonDied`].
    pub(crate) fn wait(self, mut still_waiting: impl FnMut(u64)) -> Result<()> {
        let started = std::time::Instant::now();
        let mut told = 0;
        while self.is_running() {
            std::thread::sleep(POLL);
            let seconds = started.elapsed().as_secs();
            if seconds > told {
                told = seconds;
                still_waiting(seconds);
            }
        }
        let mut text = Vec::new();
        let read = (&self.file).take(LONGEST).read_to_end(&mut text);
        // Reported once: the next mount or umount starts afresh.
        remove(&self.path, &self.file);
        match read {
            Ok(_) => reported(&text),
            Err(_) => reported(b""),
        }
    }
}

/// The daemon's outcome, from the file that it left. Another user's daemon may have written anything.
///
/// # Errors
/// What the daemon reported, or [`Code::DaemonDied`].
pub(crate) fn reported(text: &[u8]) -> Result<()> {
    let text = String::from_utf8_lossy(text);
    let result = text.lines().find_map(|line| line.strip_prefix("exit "));
    match result.map(|result| result.split_once(' ').unwrap_or((result, ""))) {
        Some(("0", _)) => Ok(()),
        Some((number, message)) => Err(Error::new(
            match Code::from_number(number.parse().unwrap_or(1)) {
                Code::Success => Code::Failure,
                code => code,
            },
            message,
        )),
        None => Err(Error::new(
            Code::DaemonDied,
            "the mount's daemon died without a report: files that were still open may be lost",
        )),
    }
}

/// Removes `path` if it still refers to `file`: a new mount on the same directory may have replaced it.
fn remove(path: &Path, file: &File) {
    if let (Ok(there), Ok(here)) = (std::fs::symlink_metadata(path), file.metadata())
        && (there.dev(), there.ino()) == (here.dev(), here.ino())
    {
        let _ = std::fs::remove_file(path);
    }
}

fn name(mountpoint: &Path) -> String {
    let hash = Sha256::digest(mountpoint.as_os_str().as_bytes());
    format!("mount-{}", hex::encode(&hash[..12]))
}

/// The folders in which a user's daemons keep such files, best first. The list is the same for the daemon and
/// for the waiting process, which may run in another session or as root.
fn folders(uid: u32) -> Vec<PathBuf> {
    let mut folders = Vec::new();
    if uid == 0 {
        folders.push(PathBuf::from("/run/ossvault"));
    } else {
        if uid == nix::unistd::geteuid().as_raw()
            && let Some(folder) = std::env::var_os("XDG_RUNTIME_DIR")
        {
            folders.push(PathBuf::from(folder).join("ossvault"));
        }
        folders.push(PathBuf::from(format!("/run/user/{uid}/ossvault")));
    }
    folders.push(PathBuf::from(format!("/tmp/ossvault-{uid}")));
    // Another user may have created that one first. The home directory comes from the user database, because
    // the waiting process may have another HOME.
    if let Ok(Some(user)) = nix::unistd::User::from_uid(uid.into()) {
        folders.push(user.dir.join(".cache/ossvault/run"));
    }
    folders
}

fn first_usable(folders: Vec<PathBuf>, uid: u32) -> Option<PathBuf> {
    folders.into_iter().find(|folder| usable(folder, uid))
}

/// Creates the folder; true if it belongs to this user and no one else can write to it.
fn usable(folder: &Path, uid: u32) -> bool {
    let _ = DirBuilder::new().recursive(true).mode(0o700).create(folder);
    std::fs::symlink_metadata(folder).is_ok_and(|metadata| {
        metadata.is_dir() && metadata.uid() == uid && metadata.mode() & 0o022 == 0
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uid() -> u32 {
        nix::unistd::geteuid().as_raw()
    }

    /// A user who creates the folder in /tmp first must not be able to keep others from mounting.
    #[test]
    fn a_folder_of_another_user_is_skipped() {
        let root = tempfile::tempdir().unwrap();
        let [taken, link, ours] =
            ["taken", "link", "home/.cache/ossvault/run"].map(|name| root.path().join(name));
        std::fs::create_dir(&taken).unwrap();
        std::fs::set_permissions(&taken, std::os::unix::fs::PermissionsExt::from_mode(0o777))
            .unwrap();
        std::os::unix::fs::symlink(root.path(), &link).unwrap();
        let list = vec![taken, link, ours.clone()];
        assert_eq!(first_usable(list, uid()), Some(ours.clone()));
        let mode = ours.metadata().unwrap().mode();
        assert_eq!(mode & 0o777, 0o700);
        let home = nix::unistd::User::from_uid(uid().into())
            .unwrap()
            .unwrap()
            .dir;
        assert_eq!(folders(uid()).pop(), Some(home.join(".cache/ossvault/run")));
    }

    #[test]
    fn a_waiter_receives_the_result_of_the_daemon() {
        let folder = tempfile::tempdir().unwrap();
        let mountpoint = Path::new("/mnt/a");
        let waiter = || Waiter::open_in(folder.path(), mountpoint, uid());
        assert!(waiter().is_none());

        for result in [
            Ok(()),
            Err(Error::new(Code::Unsaved, "not uploaded: a, b\nc")),
        ] {
            let daemon = DaemonFile::create_in(folder.path(), mountpoint, "oss://b").unwrap();
            let waiter = waiter().unwrap();
            assert!(waiter.is_running());
            daemon.finish(&result);
            assert!(!waiter.is_running());
            match (waiter.wait(|_| ()), result) {
                (Ok(()), Ok(())) => (),
                (Err(heard), Err(said)) => {
                    assert_eq!(heard.code(), said.code());
                    assert_eq!(heard.to_string(), "not uploaded: a, b\\nc");
                }
                (heard, said) => panic!("{heard:?} is not {said:?}"),
            }
        }
        assert!(waiter().is_none(), "nothing is left behind");
    }

    #[test]
    fn a_daemon_that_dies_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let mountpoint = Path::new("/mnt/a");
        let daemon = DaemonFile::create_in(folder.path(), mountpoint, "oss://b").unwrap();
        let waiter = Waiter::open_in(folder.path(), mountpoint, uid()).unwrap();
        drop(daemon);
        assert_eq!(waiter.wait(|_| ()).unwrap_err().code(), Code::DaemonDied);
    }

    #[test]
    fn a_report_may_be_anything_and_is_read_within_bounds() {
        for (text, code) in [
            (&b"pid 1\nexit 0\n"[..], None),
            (b"exit 40 a", Some(Code::Unsaved)),
            // Everything that is not reported as a success is a failure.
            (b"exit 00 a", Some(Code::Failure)),
            (b"exit 256", Some(Code::Failure)),
            (b"exit \xff", Some(Code::Failure)),
            (b"pid 1\n", Some(Code::DaemonDied)),
            (b"", Some(Code::DaemonDied)),
        ] {
            assert_eq!(
                reported(text).err().map(|error| error.code()),
                code,
                "{text:?}"
            );
        }
        // Without disk blocks, and larger than memory.
        let folder = tempfile::tempdir().unwrap();
        let mountpoint = Path::new("/mnt/a");
        let file = File::create(folder.path().join(name(mountpoint))).unwrap();
        file.set_len(1 << 42).unwrap();
        let waiter = Waiter::open_in(folder.path(), mountpoint, uid()).unwrap();
        assert_eq!(waiter.wait(|_| ()).unwrap_err().code(), Code::DaemonDied);
    }

    #[test]
    fn a_new_daemon_does_not_disturb_a_waiter_for_the_old_one() {
        let folder = tempfile::tempdir().unwrap();
        let mountpoint = Path::new("/mnt/a");
        let old = DaemonFile::create_in(folder.path(), mountpoint, "oss://b").unwrap();
        let waits_for_old = Waiter::open_in(folder.path(), mountpoint, uid()).unwrap();
        let _new = DaemonFile::create_in(folder.path(), mountpoint, "oss://b").unwrap();
        old.finish(&Ok(()));
        assert!(!waits_for_old.is_running());
        let waits_for_new = Waiter::open_in(folder.path(), mountpoint, uid()).unwrap();
        assert!(waits_for_new.is_running());
    }
}
