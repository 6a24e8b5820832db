//! Options and environment, merged once into checked settings. Nothing below imports this file: it fills in
//! the settings of every component.

use std::path::{Path, PathBuf};

use super::error::{Error, Result};
use super::exit::Code;
use super::options::{MountOptions, ServiceOptions};
use super::source::Source;
use sha2::{Digest, Sha256};

use crate::encrypted;
use crate::fuse::guard::Guard;
use crate::fuse::{mount_table, session};
use crate::oss::credentials::command::CommandLine;
use crate::text;

/// With less, the fixed reserves alone would not fit.
const SMALLEST_MEMORY_LIMIT: u64 = 16 << 20;

/// A mount's configuration, checked as far as possible without reading a secret or contacting the service.
#[derive(Debug)]
pub(super) struct MountConfig {
    pub source: Source,
    /// Canonical, empty, and nothing is mounted on it.
    pub mountpoint: PathBuf,
    pub private_keys: Vec<PathBuf>,
    pub public_key: Option<PathBuf>,
    pub writing_key: Option<PathBuf>,
    pub cache_dir: PathBuf,
    /// Where mounts keep the state that a later one needs to finish their work; none if there is no such
    /// place.
    pub state_dir: Option<PathBuf>,
    pub log_file: Option<PathBuf>,
    pub embedded_server: Option<PathBuf>,
    /// As given: values that need no more than clap's own checks.
    pub options: MountOptions,
}

impl MountConfig {
    /// Makes every path absolute, because the daemon changes its working directory.
    ///
    /// # Errors
    /// The first problem found.
    pub(super) fn new(mut options: MountOptions) -> Result<MountConfig> {
        let usage = |message: String| Error::new(Code::Usage, message);
        let source = Source::parse(&options.source, options.prefix.as_deref()).map_err(usage)?;
        if options.tuning.memory_limit < SMALLEST_MEMORY_LIMIT {
            return Err(usage(
                "--memory-limit is too small: it must be at least 16M".to_owned(),
            ));
        }
        for prefix in &options.keys.allow_plaintext {
            if prefix.is_empty() || (prefix.starts_with('/') && prefix != "/") {
                return Err(usage(
                    "--allow-plaintext: expected a directory of the mount, like public/, or / for all of it"
                        .to_owned(),
                ));
            }
        }
        let keys = &options.keys;
        if keys.private_key.is_empty() && keys.public_key.is_none() && keys.writing_key.is_none() {
            return Err(Error::new(
                Code::KeyMissing,
                "no key: give one with --private-key FILE (generate one with: ossvault keygen FILE)",
            ));
        }
        let Some(mountpoint) = &options.mountpoint else {
            return Err(usage(
                "no mount point: name a directory behind the source".to_owned(),
            ));
        };
        let mountpoint = session::prepare(mountpoint)?;
        if let Some(file) = &mut options.keys.reading.passphrase.passphrase_file {
            *file = absolute(file)?;
        }
        let credentials = &mut options.service.credentials;
        if let Some(file) = &mut credentials.credential_file {
            *file = absolute(file)?;
        }
        let command = credentials.credential_command.take();
        credentials.credential_command = command.map(CommandLine::anchored);
        let config = MountConfig {
            mountpoint: mountpoint.clone(),
            private_keys: options
                .keys
                .private_key
                .iter()
                .map(|path| absolute(path))
                .collect::<Result<_>>()?,
            public_key: options
                .keys
                .public_key
                .as_deref()
                .map(absolute)
                .transpose()?,
            writing_key: options
                .keys
                .writing_key
                .as_deref()
                .map(absolute)
                .transpose()?,
            cache_dir: match &options.tuning.cache_dir {
                Some(folder) => absolute(folder)?,
                None => default_cache_dir(nix::unistd::geteuid().is_root(), |name| {
                    std::env::var_os(name).map(PathBuf::from)
                })?,
            },
            state_dir: default_state_dir(nix::unistd::geteuid().is_root(), |name| {
                std::env::var_os(name).map(PathBuf::from)
            })
            .filter(|folder| !overlaps(folder, &mountpoint)),
            log_file: options.log_file.as_deref().map(absolute).transpose()?,
            embedded_server: options
                .hidden
                .embedded_server
                .as_deref()
                .map(absolute)
                .transpose()?,
            source,
            options,
        };
        config.check_overlaps()?;
        Ok(config)
    }

    /// The daemon must never access its own mount: its request would wait for itself.
    fn check_overlaps(&self) -> Result<()> {
        let mut used: Vec<(&str, &Path)> = vec![("the cache directory", &self.cache_dir)];
        if let Source::File { folder, .. } = &self.source {
            used.push(("the source folder", folder));
        }
        if let Some(folder) = &self.embedded_server {
            used.push(("the server's folder", folder));
        }
        if let Some(file) = &self.log_file {
            used.push(("the log file", file));
        }
        let keys = self.private_keys.iter();
        for file in keys.chain(&self.public_key).chain(&self.writing_key) {
            used.push(("the key file", file));
        }
        if let Some(file) = &self.options.keys.reading.passphrase.passphrase_file {
            used.push(("the passphrase file", file));
        }
        if let Some(file) = &self.options.service.credentials.credential_file {
            used.push(("the credential file", file));
        }
        for (what, path) in used {
            let real = resolve(path);
            let relation = if real.starts_with(&self.mountpoint) {
                "is inside"
            } else if self.mountpoint.starts_with(&real) {
                "contains"
            } else {
                continue;
            };
            return Err(Error::new(
                Code::Overlap,
                format!(
                    "{what} {} {relation} the mount point {}: the mount would wait for itself; choose another location",
                    text::path(path),
                    text::path(&self.mountpoint)
                ),
            ));
        }
        Ok(())
    }

    /// Where mounts of this bucket and prefix keep the state that a later one needs.
    pub(super) fn state_folder(&self) -> Option<PathBuf> {
        let place = self.source.to_string();
        Some(folder_of(
            self.state_dir.as_ref()?,
            &place,
            &self.options.service,
        ))
    }

    /// How objects are written, and which may be read although they are not encrypted.
    pub(super) fn bucket_settings(&self) -> encrypted::Settings {
        let prefix = self.source.prefix();
        let below = |folder: &String| match folder.trim_end_matches('/') {
            "" => prefix.to_owned(),
            folder => format!("{prefix}{folder}/"),
        };
        encrypted::Settings {
            format: self.options.keys.format,
            plaintext: self
                .options
                .keys
                .allow_plaintext
                .iter()
                .map(below)
                .collect(),
        }
    }

    /// The guard of the mount point, if it is to have one.
    ///
    /// # Errors
    /// [`Code::MountPoint`]; [`Code::Usage`] below an automount, which covers the directory itself.
    pub(super) fn guard(&self) -> Result<Option<Guard>> {
        if !self.options.guard {
            return Ok(None);
        }
        let path = text::path(&self.mountpoint);
        if let Ok(Some(_)) = mount_table::find(&self.mountpoint) {
            return Err(Error::new(
                Code::Usage,
                format!("--guard: {path} is an automount, which covers the directory at all times"),
            ));
        }
        let guard = Guard::of(&self.mountpoint).map_err(|error| {
            let message = format!("cannot guard the mount point {path}: {error}");
            Error::new(Code::MountPoint, message)
        });
        guard.map(Some)
    }

    /// Creates the cache directory, readable only by this user.
    ///
    /// # Errors
    /// [`Code::Local`].
    pub(super) fn create_cache_dir(&self) -> Result<()> {
        use std::os::unix::fs::DirBuilderExt;
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.cache_dir)
            .map_err(|error| {
                Error::new(
                    Code::Local,
                    format!(
                        "cannot create the cache directory {}: {error}; give another one with --cache-dir",
                        text::path(&self.cache_dir)
                    ),
                )
            })
    }
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|error| {
        Error::new(
            Code::Usage,
            format!("{} is not a usable path: {error}", text::path(path)),
        )
    })
}

/// The path with its links resolved as far as it exists; the part that does not exist yet cannot be a link.
fn resolve(path: &Path) -> PathBuf {
    for ancestor in path.ancestors() {
        if let Ok(real) = ancestor.canonicalize() {
            let rest = path
                .strip_prefix(ancestor)
                .expect("an ancestor is a prefix of its path");
            // Joining an empty path would add a slash.
            return real.join(rest).components().collect();
        }
    }
    path.to_owned()
}

/// Whether one of the two folders is inside the other.
fn overlaps(folder: &Path, mountpoint: &Path) -> bool {
    let real = resolve(folder);
    real.starts_with(mountpoint) || mountpoint.starts_with(&real)
}

/// The folder of one place. They are distinguished by a checksum, because names and places may contain any character.
fn folder_of(state: &Path, place: &str, service: &ServiceOptions) -> PathBuf {
    let place = format!(
        "{place}\n{}\n{}",
        service.endpoint.as_deref().unwrap_or_default(),
        service.region.as_deref().unwrap_or_default()
    );
    let sum = Sha256::digest(place.as_bytes());
    state.join(hex::encode(&sum[..8]))
}

/// Where commands keep what they know of a place from one run to the next.
pub(super) fn state_of(place: &str, service: &ServiceOptions) -> Option<PathBuf> {
    let root = nix::unistd::geteuid().is_root();
    let state = default_state_dir(root, |name| std::env::var_os(name).map(PathBuf::from))?;
    Some(folder_of(&state.join("transfers"), place, service))
}

/// As for the cache, in the place that the system keeps across restarts.
fn default_state_dir(root: bool, variable: impl Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    let absolute = |name| variable(name).filter(|path| path.is_absolute());
    if let Some(folder) = absolute("XDG_STATE_HOME") {
        return Some(folder.join("ossvault"));
    }
    match root {
        true => Some(PathBuf::from("/var/lib/ossvault")),
        false => absolute("HOME").map(|home| home.join(".local/state/ossvault")),
    }
}

/// Root's cache belongs to the machine; every other user has one at home.
///
/// # Errors
/// There is no home.
pub(super) fn default_cache_dir(
    root: bool,
    variable: impl Fn(&str) -> Option<PathBuf>,
) -> Result<PathBuf> {
    let absolute = |name| variable(name).filter(|path| path.is_absolute());
    if let Some(folder) = absolute("XDG_CACHE_HOME") {
        return Ok(folder.join("ossvault"));
    }
    if root {
        return Ok(PathBuf::from("/var/cache/ossvault"));
    }
    match absolute("HOME") {
        Some(home) => Ok(home.join(".cache/ossvault")),
        None => Err(Error::new(
            Code::Local,
            "no place for the cache: neither XDG_CACHE_HOME nor HOME is set; give one with --cache-dir",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: MountOptions,
    }

    fn config(folder: &Path, arguments: &[&str]) -> Result<MountConfig> {
        let mountpoint = folder.join("mnt");
        std::fs::create_dir_all(&mountpoint).unwrap();
        let line = ["mount", arguments[0], mountpoint.to_str().unwrap()]
            .into_iter()
            .chain(arguments[1..].iter().copied());
        MountConfig::new(Line::try_parse_from(line).unwrap().options)
    }

    #[test]
    fn files_of_the_daemon_must_not_be_inside_its_mount_or_contain_it() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        std::os::unix::fs::symlink(root.join("mnt"), root.join("link")).unwrap();
        let at = |name: &str| root.join(name).to_str().unwrap().to_owned();
        let key = ["--private-key", "/k"];
        for (arguments, refused) in [
            (vec!["oss://bucket".to_owned()], false),
            (vec![format!("file://{}", at("store"))], false),
            (vec![format!("file://{}", at("mnt/store"))], true),
            (vec![format!("file://{}", at(""))], true),
            (
                vec!["oss://bucket".into(), "--cache-dir".into(), at("mnt/a/b")],
                true,
            ),
            (
                vec!["oss://bucket".into(), "--cache-dir".into(), at("link/new")],
                true,
            ),
            (
                vec!["oss://bucket".into(), "--cache-dir".into(), at("mnt2")],
                false,
            ),
            (
                vec!["oss://bucket".into(), "--log-file".into(), at("mnt/log")],
                true,
            ),
            (
                vec!["oss://bucket".into(), "--public-key".into(), at("mnt/k")],
                true,
            ),
        ] {
            let mut line: Vec<&str> = arguments.iter().map(String::as_str).collect();
            line.extend(key);
            if !line.contains(&"--cache-dir") {
                line.extend(["--cache-dir", "/nonexistent/cache"]);
            }
            let code = config(&root, &line).map_err(|error| error.code());
            assert_eq!(
                code.err(),
                refused.then_some(Code::Overlap),
                "{arguments:?}"
            );
        }
    }

    #[test]
    fn the_cache_is_in_the_standard_place() {
        let home = |name: &str| (name == "HOME").then(|| PathBuf::from("/home/a"));
        let xdg = |name: &str| (name == "XDG_CACHE_HOME").then(|| PathBuf::from("/x"));
        assert_eq!(
            default_cache_dir(false, home).unwrap(),
            Path::new("/home/a/.cache/ossvault")
        );
        assert_eq!(
            default_cache_dir(true, home).unwrap(),
            Path::new("/var/cache/ossvault")
        );
        assert_eq!(
            default_cache_dir(true, xdg).unwrap(),
            Path::new("/x/ossvault")
        );
        assert!(default_cache_dir(false, |_| None).is_err());
        for (root, variables, expected) in [
            (false, Some("HOME"), Some("/x/.local/state/ossvault")),
            (true, Some("HOME"), Some("/var/lib/ossvault")),
            (true, Some("XDG_STATE_HOME"), Some("/x/ossvault")),
            (false, None, None),
        ] {
            let variable = |name: &str| (variables == Some(name)).then(|| PathBuf::from("/x"));
            let found = default_state_dir(root, variable);
            assert_eq!(found.as_deref(), expected.map(Path::new));
        }
    }
}
