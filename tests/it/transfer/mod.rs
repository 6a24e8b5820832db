//! The commands that need no mount: what they leave in the bucket and on disk is what a mount and rsync would have left.

mod copies;
mod examples;
mod filters;
mod hostile;
mod looking;
mod scripting;
mod trees;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use ossvault::server::instruments::Counts;
use ossvault::store::object_store::{ObjectKey, ObjectMeta, ObjectStore};

use crate::fixture::{BUCKET, Rig, noise, ossvault, set_mode};

struct Run {
    code: Option<i32>,
    stdout: Vec<u8>,
    stderr: String,
}

impl Run {
    fn of(output: Output) -> Run {
        Run {
            code: output.status.code(),
            stdout: output.stdout,
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    fn text(&self) -> String {
        String::from_utf8(self.stdout.clone()).unwrap()
    }

    #[track_caller]
    fn succeeds(self) -> Run {
        assert_eq!(self.code, Some(0), "{}{}", self.text(), self.stderr);
        self
    }

    /// With one line of error that holds all these words.
    #[track_caller]
    fn fails(self, code: i32, words: &[&str]) -> Run {
        assert_eq!(self.code, Some(code), "{}{}", self.text(), self.stderr);
        let last = self.stderr.lines().last().unwrap_or_default();
        assert!(last.starts_with("ossvault: "), "{:?}", self.stderr);
        for word in words {
            let said = format!("{}{}", self.text(), self.stderr);
            assert!(said.contains(word), "no {word:?} in {said}");
        }
        self
    }

    #[track_caller]
    fn has(self, lines: &[&str]) -> Run {
        for line in lines {
            assert!(self.text().contains(line), "no {line:?} in {}", self.text());
        }
        self
    }

    /// The lines of JSON.
    fn json(&self) -> Vec<serde_json::Value> {
        let parse = |line: &str| serde_json::from_str(line).unwrap();
        self.text().lines().map(parse).collect()
    }
}

impl Rig {
    /// The program with the rig's bucket, without keys.
    fn plain(&self, arguments: &[&str]) -> Command {
        let mut command = ossvault();
        command
            .args(arguments)
            .args(["--endpoint", &self.endpoint()])
            .env("OSS_ACCESS_KEY_ID", "test")
            .env("OSS_ACCESS_KEY_SECRET", "test")
            .env("XDG_STATE_HOME", self.path("state"))
            .current_dir(self.path(""));
        command
    }

    /// A command that looks, or works inside a bucket.
    #[track_caller]
    fn look(&self, arguments: &[&str]) -> Run {
        Run::of(self.plain(arguments).output().unwrap())
    }

    /// A command that encrypts or decrypts.
    #[track_caller]
    fn run(&self, arguments: &[&str]) -> Run {
        let mut command = self.plain(arguments);
        command.arg("--private-key").arg(self.key());
        Run::of(command.output().unwrap())
    }

    fn counted(&self, work: impl FnOnce()) -> Counts {
        self.instruments().reset_counts();
        work();
        self.instruments().counts()
    }

    fn meta(&self, key: &str) -> ObjectMeta {
        let key = ObjectKey::new(key).unwrap();
        self.block_on(self.store.head(&key)).unwrap()
    }

    /// What the objects say of their files, but for the times that no transfer keeps.
    fn described(&self, prefix: &str) -> BTreeMap<String, BTreeMap<String, String>> {
        let mut found = BTreeMap::new();
        for key in self.keys() {
            let Some(path) = key.strip_prefix(prefix) else {
                continue;
            };
            let meta = self.meta(&key);
            let mut user = meta.headers.user;
            user.retain(|name, _| {
                ["mode", "uid", "gid", "mtime", "ossvault-rdev", "ossvault-v"]
                    .contains(&name.as_str())
            });
            user.insert("size".to_owned(), meta.size.to_string());
            let kind = meta.headers.content_type.unwrap_or_default();
            user.insert("type".to_owned(), kind);
            found.insert(path.to_owned(), user);
        }
        found
    }
}

/// A tree with something of everything, old enough for its times to be told from those of now.
fn make_tree(root: &Path) {
    let at = |name: &str| root.join(name);
    fs::create_dir_all(at("sub/deep/er")).unwrap();
    fs::create_dir_all(at("empty")).unwrap();
    fs::create_dir_all(at("a-b")).unwrap();
    fs::write(at("a"), "a").unwrap();
    fs::write(at("a.txt"), "text").unwrap();
    fs::write(at("a-b/c"), "").unwrap();
    fs::write(at("sub/one"), noise(1, 5000)).unwrap();
    fs::write(at("sub/deep/er/two"), noise(2, 300_000)).unwrap();
    fs::write(at("sub/größe 桶 +%?#&"), "names").unwrap();
    fs::write(at("private"), "secret").unwrap();
    set_mode(&at("private"), 0o600);
    set_mode(&at("a.txt"), 0o755);
    set_mode(&at("empty"), 0o2750);
    symlink("sub/one", at("link")).unwrap();
    symlink("/nowhere/at/all", at("sub/dangling")).unwrap();
    nix::unistd::mkfifo(&at("pipe"), nix::sys::stat::Mode::from_bits_truncate(0o640)).unwrap();
    if nix::unistd::geteuid().is_root() {
        std::os::unix::fs::chown(at("private"), Some(1234), Some(2345)).unwrap();
        std::os::unix::fs::lchown(at("link"), Some(1234), Some(2345)).unwrap();
    }
    // What is below first: a directory's time changes with what is in it.
    let mut paths = vec![root.to_owned()];
    let mut at = 0;
    while at < paths.len() {
        let path = paths[at].clone();
        if path.is_dir() && !path.is_symlink() {
            paths.extend(
                fs::read_dir(&path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
        }
        at += 1;
    }
    paths.sort();
    for (number, path) in paths.iter().enumerate().rev() {
        set_mtime(path, 1_600_000_000 + number as i64 * 1000, 123_456_789);
    }
}

fn set_mtime(path: &Path, seconds: i64, nanos: i64) {
    use nix::sys::stat::{UtimensatFlags, utimensat};
    use nix::sys::time::TimeSpec;
    let time = TimeSpec::new(seconds, nanos);
    let flags = UtimensatFlags::NoFollowSymlink;
    utimensat(
        nix::fcntl::AT_FDCWD,
        path,
        &TimeSpec::UTIME_OMIT,
        &time,
        flags,
    )
    .unwrap();
}

/// Everything below a folder: kind and mode, owner, time, and content or target.
fn snapshot(root: &Path) -> BTreeMap<PathBuf, (String, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let meta = fs::symlink_metadata(&path).unwrap();
            let content = if meta.is_dir() {
                folders.push(path.clone());
                Vec::new()
            } else if meta.is_symlink() {
                fs::read_link(&path)
                    .unwrap()
                    .into_os_string()
                    .into_encoded_bytes()
            } else if meta.is_file() {
                fs::read(&path).unwrap()
            } else {
                Vec::new()
            };
            let facts = format!(
                "{:o} {} {} {}.{}",
                meta.mode(),
                meta.uid(),
                meta.gid(),
                meta.mtime(),
                meta.mtime_nsec()
            );
            found.insert(
                path.strip_prefix(root).unwrap().to_owned(),
                (facts, content),
            );
        }
    }
    found
}

#[track_caller]
fn assert_same(one: &Path, other: &Path) {
    let (one, other) = (snapshot(one), snapshot(other));
    let names =
        |tree: &BTreeMap<PathBuf, (String, Vec<u8>)>| tree.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&one), names(&other));
    for (path, (facts, content)) in &one {
        assert_eq!(*facts, other[path].0, "{}", path.display());
        assert!(*content == other[path].1, "{} differs", path.display());
    }
}

fn oss(path: &str) -> String {
    format!("oss://{BUCKET}{path}")
}

/// Until what is stored now is later than what was before, in whole seconds.
fn next_second() {
    std::thread::sleep(Duration::from_millis(1100));
}
