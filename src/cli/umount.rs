//! `ossvault umount`: unmounts and reports whether everything reached the bucket.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::daemon_file::Waiter;
use super::error::{Error, Result};
use super::exit::Code;
use super::output;
use crate::fuse::{mount_table, session};

/// Unmount, and wait until everything is uploaded
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    pub mountpoint: PathBuf,
    /// Detach the mount even if programs have files open in it, without waiting for them
    #[arg(long, short = 'z')]
    pub lazy: bool,
}

/// How long a mount may be busy before that is an error, so that a program that has just ended or an indexer
/// does not fail the command.
const STILL_IN_USE: Duration = Duration::from_secs(1);

/// Interval between attempts.
const POLL: Duration = Duration::from_millis(20);

/// # Errors
/// Not mounted, busy, or the error that the daemon reports.
pub(super) fn run(args: &Args) -> Result<()> {
    let mountpoint = session::canonical(&args.mountpoint)?;
    let entry = mount_table::find(&mountpoint).map_err(|error| {
        Error::new(
            Code::Failure,
            format!("cannot read the mount table: {error}"),
        )
    })?;
    let me = nix::unistd::geteuid().as_raw();
    let Some(entry) = entry else {
        // umount(8) may have been used: the daemon may still be uploading, or may have left its report.
        return match Waiter::open(&mountpoint, me) {
            Some(waiter) => wait(waiter),
            None => Err(session::Error::NotMounted(mountpoint).into()),
        };
    };
    if !entry.is_ours() {
        return Err(Error::new(
            Code::NotMounted,
            format!(
                "{} is not an ossvault mount but {} ({}): use umount(8)",
                mountpoint.display(),
                entry.source,
                entry.kind
            ),
        ));
    }
    if me != 0
        && let Some(owner) = entry.owner.filter(|owner| *owner != me)
    {
        return Err(Error::new(
            Code::MountRefused,
            format!(
                "the mount on {} belongs to {}: only that user or root can unmount it",
                mountpoint.display(),
                user_name(owner)
            ),
        ));
    }
    // Opened before the mount is removed: a daemon that ends well removes the file.
    let waiter = Waiter::open(&mountpoint, entry.owner.unwrap_or(me));
    let stale = waiter.as_ref().is_none_or(|waiter| !waiter.is_running());
    match unmount_unless_used(&mountpoint) {
        Err(session::Error::Busy(_)) if stale => session::unmount(&mountpoint, true)?,
        Err(session::Error::Busy(_)) if args.lazy => {
            session::unmount(&mountpoint, true)?;
            output::tell(&format!(
                "{} is detached; programs that have files open in it keep them, and what they write is uploaded \
                 until they close them",
                mountpoint.display()
            ));
            return Ok(());
        }
        result => result?,
    }
    match waiter {
        Some(waiter) => wait(waiter),
        None => Err(Error::new(
            Code::DaemonDied,
            format!(
                "{} is unmounted, but its daemon left no report: it is unknown whether everything was uploaded",
                mountpoint.display()
            ),
        )),
    }
}

/// The user's name, or the number if there is none.
fn user_name(uid: u32) -> String {
    let user = nix::unistd::User::from_uid(uid.into());
    user.ok()
        .flatten()
        .map_or_else(|| format!("user {uid}"), |user| user.name)
}

fn unmount_unless_used(mountpoint: &Path) -> std::result::Result<(), session::Error> {
    let began = Instant::now();
    loop {
        match session::unmount(mountpoint, false) {
            Err(session::Error::Busy(_)) if began.elapsed() < STILL_IN_USE => {
                std::thread::sleep(POLL);
            }
            result => return result,
        }
    }
}

fn wait(waiter: Waiter) -> Result<()> {
    waiter.wait(|seconds| {
        // Often enough to show progress, rarely enough not to scroll.
        if seconds == 2 || seconds % 30 == 0 {
            output::tell(&format!("still uploading ({seconds} s)"));
        }
    })
}
