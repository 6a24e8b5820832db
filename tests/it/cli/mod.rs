//! The built binary: its output and exit codes, for valid and invalid input.

mod key;
mod keys;
mod mounts;
mod refusals;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use ossvault::store::local::{LocalStore, Settings};

use crate::fixture::{is_mount_point, ossvault};

/// A folder with an empty mount point in it. Unmounts whatever is still mounted there at the end.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Place {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("mnt")).unwrap();
        Place(folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().canonicalize().unwrap().join(name)
    }

    /// The program, run in the folder without the caller's environment variables that affect it.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = ossvault();
        command
            .args(arguments)
            .current_dir(self.0.path())
            .env("XDG_CACHE_HOME", self.0.path().join("cache"));
        command
    }

    fn run(&self, arguments: &[&str]) -> Run {
        Run::from(self.command(arguments).output().unwrap())
    }

    fn keygen(&self, name: &str) {
        self.run(&["keygen", name, "--no-passphrase", "--bits", "2048"])
            .succeeds();
    }

    /// Readable only by this user.
    fn write_secret(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o600)).unwrap();
    }

    /// An empty bucket in a folder, as a source.
    fn make_bucket(&self) -> String {
        let folder = self.path("store");
        LocalStore::open(&folder, Settings { sync: false }).unwrap();
        format!("file://{}", folder.display())
    }

    fn is_mounted(&self) -> bool {
        is_mount_point(&self.path("mnt"))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.is_mounted() {
            self.run(&["umount", "--lazy", "mnt"]);
        }
    }
}

struct Run {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl From<Output> for Run {
    fn from(output: Output) -> Run {
        Run {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Run {
    #[track_caller]
    fn succeeds(self) -> Run {
        assert_eq!(self.code, Some(0), "{}{}", self.stdout, self.stderr);
        assert_eq!(self.stderr, "");
        self
    }

    /// With this code, and one line that contains all these words.
    #[track_caller]
    fn fails(self, code: i32, words: &[&str]) -> Run {
        assert_eq!(self.code, Some(code), "{}{}", self.stdout, self.stderr);
        assert!(
            self.stderr.starts_with("ossvault: ") && self.stderr.lines().count() == 1,
            "not one line: {:?}",
            self.stderr
        );
        for word in words {
            assert!(self.stderr.contains(word), "no {word:?} in {}", self.stderr);
        }
        self
    }
}

/// A process in its own session has no terminal for a prompt.
fn detached(command: &mut Command) -> Command {
    let mut outer = Command::new("setsid");
    outer
        .arg("--wait")
        .arg(command.get_program())
        .args(command.get_args())
        .stdin(Stdio::null());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => outer.env(name, value),
            None => outer.env_remove(name),
        };
    }
    if let Some(folder) = command.get_current_dir() {
        outer.current_dir(folder);
    }
    outer
}
