//! This machine: FUSE, the helper that ordinary users mount with, disk space, limits of the kernel.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::sys::statvfs::statvfs;

use super::check::Checks;
use crate::text;

/// Staged data of any size needs some.
const DISK_AT_LEAST: u64 = 1 << 30;

const MIB: u64 = 1 << 20;

const MAX_PAGES: &str = "/proc/sys/fs/fuse/max_pages_limit";

/// What the kernel passes on at once at least, in pages of 4 KiB: 1 MiB.
const PAGES_AT_LEAST: u64 = 256;

/// Where to look.
pub(crate) struct Machine {
    /// `/dev/fuse`.
    pub fuse_device: PathBuf,
    /// Where data is staged.
    pub cache_dir: Option<PathBuf>,
    pub root: bool,
}

pub(super) fn check(checks: &mut Checks<'_>, machine: &Machine) {
    fuse(checks, &machine.fuse_device);
    helper(checks, machine.root);
    disk(checks, machine.cache_dir.as_deref());
    kernel(checks);
}

fn fuse(checks: &mut Checks<'_>, device: &Path) {
    const NAME: &str = "fuse";
    let shown = text::path(device);
    match OpenOptions::new().read(true).write(true).open(device) {
        Ok(_) => checks.ok(NAME, format!("{shown} can be opened")),
        Err(error) => checks.fail(
            NAME,
            format!("cannot open {shown}: {error}"),
            "load the kernel's module (modprobe fuse); in a container, start it with --device /dev/fuse --cap-add SYS_ADMIN",
        ),
    }
}

fn helper(checks: &mut Checks<'_>, root: bool) {
    const NAME: &str = "fusermount3";
    const SET_UID: u32 = 0o4000;
    if root {
        return checks.ok(NAME, "not needed: root mounts without it");
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .map(|folder| folder.join("fusermount3"))
        .find(|file| file.is_file());
    let Some(file) = found else {
        return checks.fail(
            NAME,
            "it is not installed, and ordinary users need it to mount",
            "install the package fuse3 (apt-get install fuse3)",
        );
    };
    let shown = text::path(&file);
    match fs::metadata(&file) {
        Ok(meta) if meta.uid() == 0 && meta.permissions().mode() & SET_UID != 0 => {
            let others = fs::read_to_string("/etc/fuse.conf").unwrap_or_default();
            let allowed = others.lines().any(|line| line.trim() == "user_allow_other");
            let may = if allowed { "is" } else { "is not" };
            checks.ok(
                NAME,
                format!("{shown} may mount for you; --allow-other {may} allowed by /etc/fuse.conf"),
            );
        }
        _ => checks.fail(
            NAME,
            format!("{shown} does not run as root, so it cannot mount"),
            "install the package fuse3 again, or run: chown root FILE; chmod u+s FILE",
        ),
    }
}

fn disk(checks: &mut Checks<'_>, folder: Option<&Path>) {
    const NAME: &str = "disk";
    const ELSEWHERE: &str = "give another folder with --cache-dir";
    let Some(folder) = folder else {
        return checks.fail(
            NAME,
            "there is no place for staged data: neither XDG_CACHE_HOME nor HOME is set",
            ELSEWHERE,
        );
    };
    // A mount creates what is missing.
    let there = folder.ancestors().find(|folder| folder.is_dir());
    let there = there.unwrap_or(Path::new("/"));
    let shown = text::path(folder);
    use nix::unistd::{AccessFlags, access};
    if let Err(error) = access(there, AccessFlags::W_OK | AccessFlags::X_OK) {
        return checks.fail(
            NAME,
            format!("cannot write to {}: {}", text::path(there), error.desc()),
            ELSEWHERE,
        );
    }
    match statvfs(there) {
        Err(error) => checks.fail(NAME, format!("{shown}: {}", error.desc()), ELSEWHERE),
        Ok(stat) => {
            let free = stat.blocks_available() * stat.fragment_size();
            let found = format!("{} MiB free for {shown}", free / MIB);
            match free >= DISK_AT_LEAST {
                true => checks.ok(NAME, found),
                false => checks.warn(
                    NAME,
                    found,
                    "files that are written out of order and do not fit in memory are staged there: free some space, or name a larger disk with --cache-dir",
                ),
            }
        }
    }
}

fn kernel(checks: &mut Checks<'_>) {
    const NAME: &str = "kernel";
    let release = nix::sys::utsname::uname().map_or_else(
        |_| "unknown".to_owned(),
        |name| name.release().to_string_lossy().into_owned(),
    );
    let pages = fs::read_to_string(MAX_PAGES).ok();
    let pages = pages.and_then(|text| text.trim().parse::<u64>().ok());
    let ahead = read_ahead();
    let ahead = match ahead.is_empty() {
        true => String::new(),
        false => format!(
            "; read-ahead of mounts of this kind: {} KiB",
            ahead.join(", ")
        ),
    };
    match pages {
        Some(pages) if pages < PAGES_AT_LEAST => checks.warn(
            NAME,
            format!("Linux {release}, {MAX_PAGES} is {pages}{ahead}"),
            format!(
                "reads and writes are split into more requests than necessary: echo {PAGES_AT_LEAST} > {MAX_PAGES}"
            ),
        ),
        Some(pages) => checks.ok(
            NAME,
            format!("Linux {release}, requests of up to {} KiB{ahead}", pages * 4),
        ),
        // Before Linux 6.13 it cannot be set.
        None => checks.ok(NAME, format!("Linux {release}{ahead}")),
    }
}

/// Of the FUSE mounts there are now.
fn read_ahead() -> Vec<String> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let devices = table
        .lines()
        .filter(|line| line.contains(" - fuse.ossvault "))
        .filter_map(|line| line.split(' ').nth(2));
    devices
        .filter_map(|device| {
            let text = fs::read_to_string(format!("/sys/class/bdi/{device}/read_ahead_kb"));
            Some(text.ok()?.trim().to_owned())
        })
        .collect()
}
