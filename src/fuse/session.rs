//! Mounting, serving and unmounting.
//!
//! Root mounts with mount(2) and needs no helper; other users go through fusermount3, which is setuid. A
//! session ends in one of three ways, and the daemon must have uploaded everything in each: an external
//! unmount (the kernel closes the connection, and the threads return), an unmount by the daemon after a
//! signal, or a busy mount that is only detached (the connection lives until the process ends).
//!
//! The difficulties: a process must not access a path inside a mount that it serves itself, and a mount whose
//! daemon died answers every access with ENOTCONN. So mounts are found in
//! [`mount_table`], and a mount is only ever accessed from a thread that may hang.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use fuser::{Config, MountOption, Session, SessionACL};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags};

use super::adapter::Adapter;
use super::{guard, mount_table};

/// Enough that one request blocked in a handler does not stop the others; more threads gain nothing (reading
/// one file is no faster, and each thread may map 16 MiB for the largest request).
const THREADS: std::ops::RangeInclusive<usize> = 2..=4;

/// The kernel's read-ahead on root's mounts. Its default of 128 KiB costs a tenth of the speed of sequential
/// reads, and a larger window has no measurable benefit; with 512 KiB, the data read around a member of an
/// archive is more than twice the size of the member.
const READ_AHEAD_KIB: u32 = 208;

/// How long an existing mount may take to answer a stat before it counts as alive but stuck.
const STAT_DEADLINE: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the mount point {} does not exist (to mount there, create it with mkdir -p)", .0.display())]
    MountPointMissing(PathBuf),
    #[error("the mount point {} is not a directory", .0.display())]
    MountPointNotDirectory(PathBuf),
    #[error("the mount point {} is not empty: a mount would hide its files; use an empty directory", .0.display())]
    MountPointNotEmpty(PathBuf),
    #[error("cannot use the mount point {}", .0.display())]
    MountPointUnusable(PathBuf, #[source] io::Error),
    #[error("{} is already mounted ({by}): unmount it first with: {command}", mountpoint.display())]
    AlreadyMounted {
        mountpoint: PathBuf,
        by: String,
        command: String,
    },
    #[error(
        "FUSE is not available: cannot open /dev/fuse (load it with modprobe fuse; in a container, start it with --device /dev/fuse --cap-add SYS_ADMIN)"
    )]
    NoFuse(#[source] io::Error),
    #[error(
        "fusermount3 is not installed, and ordinary users need it to mount: install the package fuse3 (apt-get install fuse3)"
    )]
    NoFusermount,
    #[error(
        "fusermount3 refuses --allow-other: add the line user_allow_other to /etc/fuse.conf, or omit the option"
    )]
    AllowOtherForbidden,
    #[error("cannot mount or unmount {} (in a container, start it with --device /dev/fuse --cap-add SYS_ADMIN)", .0.display())]
    Refused(PathBuf, #[source] io::Error),
    #[error("{} is not mounted", .0.display())]
    NotMounted(PathBuf),
    #[error("{} is in use: close the programs that have files or a shell in it (fuser -vm shows them), or detach it with --lazy", .0.display())]
    Busy(PathBuf),
    #[error("the session failed")]
    Io(#[source] io::Error),
}

#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// `bucket.endpoint:/prefix`: shown by mount and df.
    pub source: String,
    pub read_only: bool,
    /// Programs cannot be run from the mount.
    pub noexec: bool,
    /// Other users can access the mount; the permissions of the files then apply. Never enabled without the
    /// option, not even for root's mounts, because the permissions come from the bucket.
    pub allow_other: bool,
}

/// A mount served by its own threads.
pub(crate) struct Mounted {
    mountpoint: PathBuf,
    device: Option<String>,
    ended: tokio::sync::watch::Receiver<bool>,
}

/// Mounts `filesystem` on `mountpoint`, which [`prepare`] returned, and serves it.
///
/// # Errors
/// After an error, nothing is left mounted.
pub(crate) fn mount(
    filesystem: Adapter,
    mountpoint: &Path,
    options: &Options,
) -> Result<Mounted, Error> {
    let root = nix::unistd::geteuid().is_root();
    let dirents = filesystem.dirents();
    let notices = filesystem.notices();
    let kernel_caches = filesystem.kernel_caches();
    let forgets = filesystem.forgets();
    let mut config = Config::default();
    config.acl = if options.allow_other {
        SessionACL::All
    } else {
        SessionACL::Owner
    };
    let cores = thread::available_parallelism().map_or(2, |n| n.get());
    config.n_threads = Some(cores.clamp(*THREADS.start(), *THREADS.end()));

    let session = if root {
        let device = mount_directly(mountpoint, options)?;
        Session::from_fd(filesystem, device, config.acl, config).inspect_err(|_| {
            let _ = nix::mount::umount2(mountpoint, MntFlags::MNT_DETACH);
        })
    } else {
        find_fusermount().ok_or(Error::NoFusermount)?;
        // The device is world-writable on systems with FUSE; otherwise the helper cannot open it for us.
        File::options()
            .read(true)
            .write(true)
            .open("/dev/fuse")
            .map_err(Error::NoFuse)?;
        config.mount_options = vec![
            MountOption::FSName(source_for_helper(&options.source)),
            MountOption::Subtype("ossvault".to_owned()),
            MountOption::DefaultPermissions,
            MountOption::NoSuid,
            MountOption::NoDev,
            if options.read_only {
                MountOption::RO
            } else {
                MountOption::RW
            },
        ];
        if options.noexec {
            config.mount_options.push(MountOption::NoExec);
        }
        Session::new(filesystem, mountpoint, &config)
    };
    let session = session.map_err(|error| {
        if error.to_string().contains("user_allow_other") {
            Error::AllowOtherForbidden
        } else {
            Error::Refused(mountpoint.to_owned(), error)
        }
    })?;

    let device = mount_table::find(mountpoint)
        .map_err(Error::Io)?
        .map(|entry| entry.device);
    if let Some(device) = device.as_deref().filter(|_| root) {
        raise_read_ahead(device);
    }
    dirents.set_device(session.as_fd()).map_err(Error::Io)?;
    kernel_caches(session.notifier());
    let notifier = session.notifier();
    thread::Builder::new()
        .name("fuse-forgets".to_owned())
        .spawn(move || forgets.tell(&notifier))
        .map_err(Error::Io)?;
    let notifier = session.notifier();
    // Ends with the file system.
    thread::Builder::new()
        .name("fuse-notices".to_owned())
        .spawn(move || notices.tell(&notifier))
        .map_err(Error::Io)?;
    let (announce, ended) = tokio::sync::watch::channel(false);
    thread::Builder::new()
        .name("fuse-session".to_owned())
        .spawn(move || {
            if let Err(error) = session.run() {
                log::error!("the session with the kernel failed: {error}");
            }
            let _ = announce.send(true);
        })
        .map_err(Error::Io)?;
    Ok(Mounted {
        mountpoint: mountpoint.to_owned(),
        device,
        ended,
    })
}

impl Mounted {
    /// Returns when the kernel has ended the session because of an unmount. Can be dropped and called again.
    pub(crate) async fn ended(&mut self) {
        // An error means that the thread panicked; treated as ended.
        let _ = self.ended.wait_for(|ended| *ended).await;
    }

    /// Unmounts. If programs have files open in it, the mount is detached: it can no longer be entered, and
    /// those programs lose it when this process ends. True if the mount is completely gone.
    ///
    /// # Errors
    /// Even detaching fails. A mount that is gone already is not an error.
    pub(crate) fn unmount(&self) -> Result<bool, Error> {
        // Another file system may be mounted there by now, if this mount was unmounted externally.
        let entry = mount_table::find(&self.mountpoint).map_err(Error::Io)?;
        if entry.is_none() || entry.map(|entry| entry.device) != self.device {
            return Ok(true);
        }
        match unmount(&self.mountpoint, false) {
            Ok(()) | Err(Error::NotMounted(_)) => Ok(true),
            Err(Error::Busy(_)) => {
                log::warn!(
                    "{} is in use and was detached: the programs that use it lose access now",
                    self.mountpoint.display()
                );
                unmount(&self.mountpoint, true).map(|()| false)
            }
            Err(error) => Err(error),
        }
    }
}

/// Checks a mount point and returns its canonical path. First removes a stale ossvault mount, whose daemon is
/// dead.
///
/// # Errors
/// The mount point is missing, not a directory or not empty, or something is mounted on it.
pub(crate) fn prepare(mountpoint: &Path) -> Result<PathBuf, Error> {
    let canonical = canonical(mountpoint)?;
    // A loop, because stale mounts can be stacked; bounded, like every loop.
    for _ in 0..16 {
        let Some(entry) = mount_table::find(&canonical).map_err(Error::Io)? else {
            break;
        };
        if entry.is_automount() {
            // Looking into it would wait for the mount that is being made here.
            return Ok(canonical);
        }
        let taken = |command: String| Error::AlreadyMounted {
            mountpoint: canonical.clone(),
            by: entry.source.clone(),
            command,
        };
        let stale = entry.kind.starts_with("fuse")
            && matches!(stat_with_deadline(&canonical), Some(Err(error))
                if error.raw_os_error() == Some(Errno::ENOTCONN as i32));
        if !entry.is_ours() {
            return Err(taken(format!("umount {}", canonical.display())));
        }
        if !stale {
            return Err(taken(format!("ossvault umount {}", canonical.display())));
        }
        log::warn!(
            "{} has a stale mount of {} (its daemon is gone): unmounting it",
            canonical.display(),
            entry.source
        );
        unmount(&canonical, true)?;
    }
    let unusable = |error| Error::MountPointUnusable(canonical.clone(), error);
    let metadata = std::fs::metadata(&canonical).map_err(unusable)?;
    if !metadata.is_dir() {
        return Err(Error::MountPointNotDirectory(canonical));
    }
    guard::lift(&canonical).map_err(unusable)?;
    let mut entries = std::fs::read_dir(&canonical).map_err(unusable)?;
    if entries.next().is_some() {
        return Err(Error::MountPointNotEmpty(canonical));
    }
    Ok(canonical)
}

/// The path as it appears in the mount table. The last component is not accessed, unless it is a symbolic
/// link, because it may be a mount that hangs or is stale.
///
/// # Errors
/// [`Error::MountPointMissing`], [`Error::MountPointUnusable`].
pub(crate) fn canonical(mountpoint: &Path) -> Result<PathBuf, Error> {
    let unusable = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => Error::MountPointMissing(mountpoint.to_owned()),
        _ => Error::MountPointUnusable(mountpoint.to_owned(), error),
    };
    let absolute = std::path::absolute(mountpoint).map_err(unusable)?;
    let (Some(parent), Some(name)) = (absolute.parent(), absolute.file_name()) else {
        return Ok(absolute);
    };
    if name != ".." {
        let path = parent.canonicalize().map_err(unusable)?.join(name);
        if mount_table::find(&path).map_err(Error::Io)?.is_some() {
            return Ok(path);
        }
    }
    absolute.canonicalize().map_err(unusable)
}

/// None if it does not answer in time.
fn stat_with_deadline(path: &Path) -> Option<io::Result<()>> {
    let (send, receive) = mpsc::channel();
    let path = path.to_owned();
    // Not joined: a stat on a mount whose daemon is stuck returns only when that daemon dies.
    thread::Builder::new()
        .name("stat".to_owned())
        .spawn(move || {
            let _ = send.send(std::fs::symlink_metadata(path).map(|_| ()));
        })
        .ok()?;
    receive.recv_timeout(STAT_DEADLINE).ok()
}

/// Unmounts `mountpoint` (canonical); with `lazy`, detaches it even if it is in use.
///
/// # Errors
/// [`Error::Busy`], [`Error::NotMounted`], [`Error::NoFusermount`], or another error of the system.
pub(crate) fn unmount(mountpoint: &Path, lazy: bool) -> Result<(), Error> {
    let mut flags = MntFlags::UMOUNT_NOFOLLOW;
    if lazy {
        flags |= MntFlags::MNT_DETACH;
    }
    match nix::mount::umount2(mountpoint, flags) {
        Ok(()) => Ok(()),
        Err(Errno::EBUSY) => Err(Error::Busy(mountpoint.to_owned())),
        Err(Errno::EINVAL) => Err(Error::NotMounted(mountpoint.to_owned())),
        Err(Errno::EPERM) => unmount_with_helper(mountpoint, lazy),
        Err(error) => Err(Error::Refused(mountpoint.to_owned(), error.into())),
    }
}

fn unmount_with_helper(mountpoint: &Path, lazy: bool) -> Result<(), Error> {
    let helper = find_fusermount().ok_or(Error::NoFusermount)?;
    let output = Command::new(helper)
        .arg(if lazy { "-uz" } else { "-u" })
        .arg("--")
        .arg(mountpoint)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()
        .map_err(Error::Io)?;
    if output.status.success() {
        return Ok(());
    }
    let reason = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if reason.contains("busy") {
        return Err(Error::Busy(mountpoint.to_owned()));
    }
    if reason.contains("not found in") {
        return Err(Error::NotMounted(mountpoint.to_owned()));
    }
    Err(Error::Refused(
        mountpoint.to_owned(),
        io::Error::other(reason),
    ))
}

/// mount(2) with the kernel's own options. The connection lives as long as the returned descriptor.
fn mount_directly(mountpoint: &Path, options: &Options) -> Result<OwnedFd, Error> {
    let device = File::options()
        .read(true)
        .write(true)
        .open("/dev/fuse")
        .map_err(Error::NoFuse)?;
    let data = format!(
        "fd={},rootmode=40000,user_id={},group_id={},default_permissions{}",
        device.as_raw_fd(),
        nix::unistd::getuid(),
        nix::unistd::getgid(),
        match options.allow_other {
            true => ",allow_other",
            false => "",
        },
    );
    let mut flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    if options.read_only {
        flags |= MsFlags::MS_RDONLY;
    }
    if options.noexec {
        flags |= MsFlags::MS_NOEXEC;
    }
    nix::mount::mount(
        Some(options.source.as_str()),
        mountpoint,
        Some(mount_table::KIND),
        flags,
        Some(data.as_str()),
    )
    .map_err(|error| match error {
        // The kernel has no such file system: the device node exists, the module does not.
        Errno::ENODEV => Error::NoFuse(error.into()),
        _ => Error::Refused(mountpoint.to_owned(), error.into()),
    })?;
    Ok(device.into())
}

/// fusermount3 separates its options with commas, and a backslash escapes a comma.
fn source_for_helper(source: &str) -> String {
    source.replace('\\', "\\\\").replace(',', "\\,")
}

/// `FUSERMOUNT_PATH`, or fusermount3 (or its older name) in the usual places.
fn find_fusermount() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("FUSERMOUNT_PATH") {
        return Some(PathBuf::from(path)).filter(|path| path.is_file());
    }
    let search = std::env::var_os("PATH").unwrap_or_default();
    ["fusermount3", "fusermount"].into_iter().find_map(|name| {
        std::env::split_paths(&search)
            .chain(["/bin", "/usr/bin", "/sbin"].map(PathBuf::from))
            .map(|folder| folder.join(name))
            .find(|path| path.is_file())
    })
}

/// Best effort: without it, only reading is slower.
fn raise_read_ahead(device: &str) {
    let knob = Path::new("/sys/class/bdi")
        .join(OsStr::new(device))
        .join("read_ahead_kb");
    if let Err(error) = std::fs::write(&knob, READ_AHEAD_KIB.to_string()) {
        log::info!(
            "sequential reads are slightly slower: cannot write {}: {error}",
            knob.display()
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_point_must_be_an_empty_directory() {
        let folder = tempfile::tempdir().unwrap();
        let empty = folder.path().join("empty");
        let file = folder.path().join("file");
        std::fs::create_dir(&empty).unwrap();
        std::fs::write(&file, "x").unwrap();
        assert!(matches!(
            prepare(&folder.path().join("absent")),
            Err(Error::MountPointMissing(_))
        ));
        assert!(matches!(
            prepare(&file),
            Err(Error::MountPointNotDirectory(_))
        ));
        assert!(matches!(
            prepare(folder.path()),
            Err(Error::MountPointNotEmpty(_))
        ));
        assert_eq!(prepare(&empty).unwrap(), empty.canonicalize().unwrap());
        assert!(matches!(
            prepare(Path::new("/proc")),
            Err(Error::AlreadyMounted { .. })
        ));
    }

    #[test]
    fn a_comma_in_the_source_does_not_become_an_option() {
        assert_eq!(
            source_for_helper("oss://bucket/a,allow_other\\"),
            "oss://bucket/a\\,allow_other\\\\"
        );
    }
}
