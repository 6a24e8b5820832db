//! `ossvault demo`: a guided tour on this machine.
//!
//! The bucket is a folder; the mount accesses it with signed HTTP requests on loopback. The server runs in
//! the mount's own process, so that unmounting ends both.

use std::fmt::Write as _;
use std::fs::{self, File, FileTimes};
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, UNIX_EPOCH};

use super::error::{Error, Result};
use super::exit::Code;
use super::{background, keygen, parts, umount};

/// Show a bucket mounted as an encrypted directory, without a cloud
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The folder to create [default: ossvault-demo, with a number appended if it exists]
    pub folder: Option<PathBuf>,
}

const BUCKET: &str = "demo-bucket";
const TREE: &str = "sample";
/// The file that is shown in plaintext and ciphertext.
const SHOWN: &str = "letters/first.txt";
const MARKER: &str = "Nobody but the holder of the key reads this line.\n";

/// # Errors
/// A step failed. The folder is kept for inspection; the mount is not.
pub(super) fn run(args: &Args) -> Result<()> {
    let demo = Demo::prepare(args.folder.as_deref())?;
    demo.show_all().inspect_err(|_| {
        // The first error is the one to report.
        let _ = demo.umount(true);
    })
}

struct Demo {
    /// Absolute.
    root: PathBuf,
}

impl Demo {
    fn prepare(folder: Option<&Path>) -> Result<Demo> {
        let cannot = |what: &Path, error: std::io::Error| {
            Error::new(
                Code::Local,
                format!(
                    "cannot create {}: {error}; give another folder",
                    what.display()
                ),
            )
        };
        let folder = match folder {
            Some(folder) => folder.to_owned(),
            None => (1..1000)
                .map(|n| match n {
                    1 => PathBuf::from("ossvault-demo"),
                    n => PathBuf::from(format!("ossvault-demo-{n}")),
                })
                .find(|folder| folder.symlink_metadata().is_err())
                .unwrap_or_else(|| PathBuf::from("ossvault-demo")),
        };
        if fs::read_dir(&folder).is_ok_and(|mut entries| entries.next().is_some()) {
            return Err(Error::new(
                Code::Exists,
                format!(
                    "{} is not empty: the demo creates its own folder; give a new name",
                    folder.display()
                ),
            ));
        }
        for name in ["", "buckets", "mnt", "cache"] {
            let path = folder.join(name);
            fs::create_dir_all(&path).map_err(|error| cannot(&path, error))?;
        }
        let root = folder
            .canonicalize()
            .map_err(|error| cannot(&folder, error))?;
        let demo = Demo { root };
        make_tree(&demo.root.join(TREE))
            .map_err(|error| demo.failed("create the sample tree", &error))?;
        parts::make_bucket(&demo.root.join("buckets"), BUCKET)?;
        println!("The demo is in {}", demo.root.display());
        Ok(demo)
    }

    fn show_all(&self) -> Result<()> {
        let mount = self.root.join("mnt");
        step("Generate a key pair. The private key never leaves this machine.");
        command(&["keygen", &self.show("key"), "--no-passphrase"]);
        let fingerprint = keygen::generate(&self.root.join("key"), 3072, None)?;
        println!("    fingerprint {fingerprint}");

        step(
            "Create a bucket in a folder, start a loopback OSS server for it, and mount it through HTTP.",
        );
        command(&[
            "mount",
            &format!("oss://{BUCKET}"),
            &self.show("mnt"),
            "--private-key",
            &self.show("key"),
        ]);
        self.mount()?;

        step(
            "Copy a small tree into it: text, folders, a link, a program, a megabyte of binary data.",
        );
        let tree = self.root.join(TREE);
        copy_tree(&tree, &mount.join(TREE))
            .map_err(|error| self.failed("copy the tree in", &error))?;
        let (files, bytes) =
            measure(&tree).map_err(|error| self.failed("measure the tree", &error))?;
        println!("    {files} names, {bytes} bytes");

        step("Unmount, and mount again with only the key.");
        command(&["umount", &self.show("mnt")]);
        self.umount(false)?;
        self.mount()?;

        step("Compare every byte, link and mode with the original.");
        let differences = compare(&tree, &mount.join(TREE))
            .map_err(|error| self.failed("compare the trees", &error))?;
        if let Some(first) = differences.first() {
            return Err(Error::new(
                Code::DemoFailed,
                format!("the data read back differs from the data written: {first}"),
            ));
        }
        println!("    all equal");

        step("Show the same file from both sides.");
        self.show_both_sides(&mount)?;

        println!();
        println!("The mount is still active. Look around in it:");
        println!("    ls -l {}", self.show(&format!("mnt/{TREE}")));
        println!("Unmount it, which also stops the server:");
        println!("    {} umount {}", program(), self.show("mnt"));
        println!("Mount it again without a server, because the bucket is a folder:");
        println!(
            "    {} mount file://{} {} --private-key {}",
            program(),
            self.root.join("buckets").join(BUCKET).display(),
            self.show("mnt"),
            self.show("key")
        );
        Ok(())
    }

    fn mount(&self) -> Result<()> {
        let mut command = Command::new(background::this_program()?);
        command
            .arg("mount")
            .arg(format!("oss://{BUCKET}"))
            .arg(self.root.join("mnt"))
            .arg("--private-key")
            .arg(self.root.join("key"))
            .arg("--cache-dir")
            .arg(self.root.join("cache"))
            .arg("--log-file")
            .arg(self.root.join("mount.log"))
            .arg("--embedded-server")
            .arg(self.root.join("buckets"));
        // Neither the environment nor a configuration file is about this mount.
        command.args(["--config", "/dev/null", background::REPORT_OPTION]);
        for (name, _) in std::env::vars_os() {
            let name_bytes = name.as_encoded_bytes();
            if name_bytes.starts_with(b"OSSVAULT_") || name_bytes.starts_with(b"OSS_") {
                command.env_remove(&name);
            }
        }
        background::start_command(command)
    }

    fn umount(&self, lazy: bool) -> Result<()> {
        umount::run(&umount::Args {
            mountpoint: self.root.join("mnt"),
            lazy,
        })
    }

    fn show_both_sides(&self, mount: &Path) -> Result<()> {
        let plain = fs::read(mount.join(TREE).join(SHOWN))
            .map_err(|error| self.failed("read the file back", &error))?;
        println!("  in the mount, {}/{TREE}/{SHOWN}:", self.show("mnt"));
        print!("{}", hexdump(&plain));
        let object = parts::look_into(
            &self.root.join("buckets").join(BUCKET),
            &format!("{TREE}/{SHOWN}"),
        )?;
        println!("  in the bucket, oss://{BUCKET}/{TREE}/{SHOWN}:");
        print!("{}", hexdump(&object.first_bytes));
        println!("  with the headers:");
        for (name, value) in &object.headers {
            println!("    x-oss-meta-{name}: {}", shorten(value));
        }
        if object
            .first_bytes
            .windows(10)
            .any(|window| MARKER.as_bytes().windows(10).any(|part| part == window))
        {
            return Err(Error::new(
                Code::DemoFailed,
                "plaintext was found in the bucket",
            ));
        }
        Ok(())
    }

    /// A path of the demo, as short as it can be typed from here.
    fn show(&self, name: &str) -> String {
        let path = self.root.join(name);
        std::env::current_dir()
            .ok()
            .and_then(|here| path.strip_prefix(here).ok().map(Path::to_owned))
            .unwrap_or(path)
            .display()
            .to_string()
    }

    fn failed(&self, what: &str, error: &std::io::Error) -> Error {
        Error::new(
            Code::DemoFailed,
            format!(
                "the demo could not {what}: {error}; check {} and its mount.log",
                self.root.display()
            ),
        )
    }
}

fn step(text: &str) {
    println!();
    println!("* {text}");
    // Visible before the step is done, even if the output is a pipe.
    let _ = std::io::stdout().flush();
}

fn command(words: &[&str]) {
    println!("    $ ossvault {}", words.join(" "));
}

/// How this program was called, for commands that the user can repeat.
fn program() -> String {
    std::env::args()
        .next()
        .unwrap_or_else(|| "ossvault".to_owned())
}

fn make_tree(root: &Path) -> std::io::Result<()> {
    for folder in ["letters", "pictures/2024/summer", "empty"] {
        fs::create_dir_all(root.join(folder))?;
    }
    let file = |name: &str, content: &[u8]| fs::write(root.join(name), content);
    file("README.txt", b"A tree made to be encrypted.\n")?;
    file(SHOWN, MARKER.as_bytes())?;
    file(
        "letters/second.txt",
        "Zweiter Brief. 第二封信。\n".as_bytes(),
    )?;
    file("letters/nothing.txt", b"")?;
    let noise: Vec<u8> = noise(1 << 20);
    file("pictures/2024/summer/beach.raw", &noise)?;
    file(
        "hello.sh",
        b"#!/bin/sh\necho hello from an encrypted script\n",
    )?;
    fs::set_permissions(root.join("hello.sh"), fs::Permissions::from_mode(0o755))?;
    symlink("2024/summer/beach.raw", root.join("pictures/latest"))?;
    // A time that copying must preserve.
    let past = UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    File::options()
        .write(true)
        .open(root.join("README.txt"))?
        .set_times(FileTimes::new().set_modified(past))
}

/// Bytes that look random and are always the same (splitmix64).
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x6f73_7376_6175_6c74_u64;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = state;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bytes.extend((word ^ (word >> 31)).to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// The entries of a folder by name.
fn entries(folder: &Path) -> std::io::Result<Vec<fs::DirEntry>> {
    let mut entries = fs::read_dir(folder)?.collect::<std::io::Result<Vec<_>>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    Ok(entries)
}

fn copy_tree(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir(to)?;
    for entry in entries(from)? {
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let metadata = source.symlink_metadata()?;
        if metadata.is_dir() {
            copy_tree(&source, &target)?;
        } else if metadata.is_symlink() {
            symlink(fs::read_link(&source)?, &target)?;
        } else {
            let mut file = File::create_new(&target)?;
            file.write_all(&fs::read(&source)?)?;
            file.set_permissions(metadata.permissions())?;
            file.set_times(FileTimes::new().set_modified(metadata.modified()?))?;
            // Closing a `File` would not report whether the upload worked.
            file.sync_all()?;
        }
    }
    Ok(())
}

fn measure(folder: &Path) -> std::io::Result<(u64, u64)> {
    let (mut names, mut bytes) = (0, 0);
    for entry in entries(folder)? {
        let metadata = entry.path().symlink_metadata()?;
        names += 1;
        if metadata.is_dir() {
            let inside = measure(&entry.path())?;
            names += inside.0;
            bytes += inside.1;
        } else if metadata.is_file() {
            bytes += metadata.len();
        }
    }
    Ok((names, bytes))
}

/// The differences, in sentences; empty if the trees are equal.
fn compare(left: &Path, right: &Path) -> std::io::Result<Vec<String>> {
    let mut found = Vec::new();
    let (ours, theirs) = (entries(left)?, entries(right)?);
    let names = |list: &[fs::DirEntry]| list.iter().map(|e| e.file_name()).collect::<Vec<_>>();
    if names(&ours) != names(&theirs) {
        found.push(format!("the names in {}", right.display()));
        return Ok(found);
    }
    for (a, b) in ours.iter().zip(&theirs) {
        let (a, b) = (a.path(), b.path());
        let (x, y) = (a.symlink_metadata()?, b.symlink_metadata()?);
        if x.file_type() != y.file_type() {
            found.push(format!("the type of {}", b.display()));
        } else if x.is_dir() {
            found.extend(compare(&a, &b)?);
        } else if x.is_symlink() {
            if fs::read_link(&a)? != fs::read_link(&b)? {
                found.push(format!("the target of {}", b.display()));
            }
        } else {
            if fs::read(&a)? != fs::read(&b)? {
                found.push(format!("the content of {}", b.display()));
            }
            if x.mode() != y.mode() {
                found.push(format!("the mode of {}", b.display()));
            }
            if x.mtime() != y.mtime() {
                found.push(format!("the time of {}", b.display()));
            }
        }
    }
    Ok(found)
}

/// The first 64 bytes, as hexdump -C shows them.
fn hexdump(bytes: &[u8]) -> String {
    let mut text = String::new();
    for (line, chunk) in bytes.chunks(16).take(4).enumerate() {
        let hex: Vec<String> = chunk.iter().map(|byte| format!("{byte:02x}")).collect();
        let letters: String = chunk
            .iter()
            .map(|byte| match byte {
                b' '..=b'~' => char::from(*byte),
                _ => '.',
            })
            .collect();
        let _ = writeln!(
            text,
            "    {:04x}  {:<47}  |{letters}|",
            line * 16,
            hex.join(" ")
        );
    }
    text
}

fn shorten(value: &str) -> String {
    const SHOWN: usize = 40;
    match value.char_indices().nth(SHOWN) {
        Some((cut, _)) => format!("{}... ({} bytes)", &value[..cut], value.len()),
        None => value.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copied_tree_is_equal_and_a_changed_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let (tree, copy) = (folder.path().join("a"), folder.path().join("b"));
        make_tree(&tree).unwrap();
        copy_tree(&tree, &copy).unwrap();
        assert_eq!(compare(&tree, &copy).unwrap(), Vec::<String>::new());
        fs::write(copy.join(SHOWN), "x").unwrap();
        fs::set_permissions(copy.join("hello.sh"), fs::Permissions::from_mode(0o600)).unwrap();
        // The time of SHOWN may or may not differ within its second.
        assert!(compare(&tree, &copy).unwrap().len() >= 2);
    }

    #[test]
    fn a_hexdump_has_letters_beside_it() {
        assert_eq!(
            hexdump(b"ab\n"),
            "    0000  61 62 0a                                         |ab.|\n"
        );
        assert_eq!(hexdump(&[0; 1000]).lines().count(), 4);
    }
}
