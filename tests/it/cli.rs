//! The built binary: what it prints and how it exits, for good input and bad.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use ossvault::store::local::{LocalStore, Settings};

/// A folder with an empty mount point in it. What is still mounted there at the end is taken down.
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

    /// The program, run in the folder with nothing of the caller's environment that changes it.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ossvault"));
        command
            .args(arguments)
            .current_dir(self.0.path())
            .stdin(Stdio::null());
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("OSS") || text == "RUST_LOG" {
                command.env_remove(&name);
            }
        }
        command.env("XDG_CACHE_HOME", self.0.path().join("cache"));
        command
    }

    fn run(&self, arguments: &[&str]) -> Run {
        Run::from(self.command(arguments).output().unwrap())
    }

    fn keygen(&self, name: &str) {
        self.run(&["keygen", name, "--no-passphrase", "--bits", "2048"])
            .succeeds();
    }

    /// For this user's eyes only.
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
        let path = format!(" {} ", self.path("mnt").display());
        fs::read_to_string("/proc/self/mountinfo")
            .unwrap()
            .contains(&path)
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

    /// With this code, and one line that holds all these words.
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

/// False, with a reason printed, where nothing can be mounted. REQUIRE_FUSE makes that a failure.
fn can_mount() -> bool {
    let lacking = if !Path::new("/dev/fuse").exists() {
        Some("no /dev/fuse")
    } else if !nix::unistd::geteuid().is_root() && find("fusermount3").is_none() {
        Some("no fusermount3")
    } else {
        None
    };
    if let Some(reason) = lacking {
        assert!(
            std::env::var_os("REQUIRE_FUSE").is_none_or(|value| value.is_empty()),
            "REQUIRE_FUSE is set, and there is {reason}"
        );
        eprintln!("skipped: {reason}");
    }
    lacking.is_none()
}

fn find(program: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?)
        .map(|folder| folder.join(program))
        .find(|path| path.is_file())
}

/// Waits for what happens in another process.
#[track_caller]
fn eventually(what: &str, mut happens: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !happens() {
        assert!(Instant::now() < deadline, "not within 10 s: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn keygen_writes_a_key_pair_and_never_overwrites() {
    let place = Place::new();
    let run = place.run(&["keygen", "key", "--no-passphrase"]).succeeds();
    let fingerprint = run
        .stdout
        .lines()
        .find_map(|line| line.strip_prefix("fingerprint: "))
        .unwrap();
    assert!(fingerprint.len() == 64 && fingerprint.bytes().all(|b| b.is_ascii_hexdigit()));
    assert!(run.stdout.contains("Back the private key up"));
    assert_eq!(mode(&place.path("key")), 0o600);
    let private = fs::read_to_string(place.path("key")).unwrap();
    assert!(private.starts_with("-----BEGIN PRIVATE KEY-----\n"));
    let public = fs::read_to_string(place.path("key.pub")).unwrap();
    assert!(public.starts_with("-----BEGIN PUBLIC KEY-----\n"));

    place
        .run(&["keygen", "key", "--no-passphrase"])
        .fails(25, &["key exists"]);
    fs::remove_file(place.path("key")).unwrap();
    place
        .run(&["keygen", "key", "--no-passphrase"])
        .fails(25, &["key.pub exists"]);
    assert!(!place.path("key").exists(), "nothing is left behind");
    assert_eq!(fs::read_to_string(place.path("key.pub")).unwrap(), public);
}

#[test]
fn keygen_without_a_terminal_wants_to_be_told_about_the_passphrase() {
    let place = Place::new();
    let mut command = place.command(&["keygen", "key"]);
    // Away from the terminal the tests may have been started from.
    let run = Run::from(detached(&mut command).output().unwrap());
    run.fails(24, &["--passphrase-file", "--no-passphrase"]);

    // An empty variable counts as unset.
    let mut command = place.command(&["keygen", "key"]);
    command.env("OSSVAULT_PASSPHRASE", "");
    let run = Run::from(detached(&mut command).output().unwrap());
    run.fails(24, &["--passphrase-file", "--no-passphrase"]);
    place.write_secret("none", "\n");
    place
        .run(&["keygen", "key", "--passphrase-file", "none"])
        .fails(24, &["empty"]);
    place
        .run(&["keygen", "key", "--passphrase-file", "absent"])
        .fails(24, &["absent"]);
    place
        .run(&["keygen", "key", "--passphrase-command", "exit 7"])
        .fails(24, &["7"]);
    assert!(!place.path("key").exists());

    place
        .run(&[
            "keygen",
            "key",
            "--passphrase-command",
            "echo correct horse",
        ])
        .succeeds();
    let private = fs::read_to_string(place.path("key")).unwrap();
    assert!(private.starts_with("-----BEGIN ENCRYPTED PRIVATE KEY-----\n"));
}

/// A process in a session of its own has no terminal to ask at.
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

#[test]
fn a_passphrase_is_asked_for_at_the_terminal_without_echo() {
    if find("script").is_none() {
        eprintln!("skipped: no script(1) to make a terminal");
        return;
    }
    let place = Place::new();
    let typed = |input: &str| {
        use std::io::Write;
        let line = format!("{} keygen key --bits 2048", env!("CARGO_BIN_EXE_ossvault"));
        let mut child = Command::new("script")
            .args(["-qec", &line, "/dev/null"])
            .current_dir(place.path(""))
            .env_remove("OSSVAULT_PASSPHRASE")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        // The terminal drops what was typed before a question; a person waits for it.
        for part in input.split_inclusive('\n') {
            std::thread::sleep(Duration::from_millis(300));
            stdin.write_all(part.as_bytes()).unwrap();
        }
        std::thread::sleep(Duration::from_millis(300));
        drop(stdin);
        let output = child.wait_with_output().unwrap();
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stdout).into_owned(),
        )
    };
    let (code, shown) = typed("one word\nanother\n");
    assert_eq!(code, Some(24), "{shown}");
    let (code, shown) = typed("half\u{3}");
    assert_eq!(code, Some(24), "{shown}");
    assert!(shown.contains("interrupted"), "{shown}");
    assert!(!place.path("key").exists());
    let (code, shown) = typed("one word\none word\n");
    assert_eq!(code, Some(0), "{shown}");
    assert!(!shown.contains("one word"), "{shown}");
    assert!(place.path("key.pub").exists());
}

#[test]
fn an_encrypted_key_opens_with_openssl() {
    if find("openssl").is_none() {
        eprintln!("skipped: no openssl");
        return;
    }
    let place = Place::new();
    place
        .command(&["keygen", "key"])
        .env("OSSVAULT_PASSPHRASE", "correct horse")
        .output()
        .map(Run::from)
        .unwrap()
        .succeeds();
    let output = Command::new("openssl")
        .args(["rsa", "-pubout", "-passin", "pass:correct horse", "-in"])
        .arg(place.path("key"))
        .output()
        .unwrap();
    assert!(output.status.success());
    assert_eq!(output.stdout, fs::read(place.path("key.pub")).unwrap());
}

#[test]
fn a_wrong_command_line_is_a_usage_error() {
    let place = Place::new();
    for arguments in [
        &[][..],
        &["explode"],
        &["mount"],
        &["keygen", "key", "--bits", "1024"],
        &["mount", "oss://bucket", "mnt", "--memory-limit", "much"],
        &["mount", "oss://bucket", "mnt", "--path-style", "--cname"],
        &["mount", "oss://bucket", "mnt", "--file-mode", "999"],
    ] {
        assert_eq!(place.run(arguments).code, Some(2), "{arguments:?}");
    }
    for (arguments, words) in [
        (
            &["mount", "nonsense", "mnt", "--private-key", "k"][..],
            "not a source",
        ),
        (
            &["mount", "oss://B", "mnt", "--private-key", "k"],
            "not a bucket name",
        ),
        (
            &[
                "mount",
                "oss://bucket/a",
                "mnt",
                "--prefix",
                "b",
                "--private-key",
                "k",
            ],
            "one of them",
        ),
        (
            &[
                "mount",
                "oss://bucket",
                "mnt",
                "--memory-limit",
                "1M",
                "--private-key",
                "k",
            ],
            "--memory-limit",
        ),
    ] {
        place.run(arguments).fails(2, &[words]);
    }
    for arguments in [&["--help"][..], &["--version"], &["mount", "--help"]] {
        assert_eq!(place.run(arguments).code, Some(0), "{arguments:?}");
    }
}

#[test]
fn a_mount_point_that_cannot_be_one_is_refused() {
    let place = Place::new();
    place.keygen("key");
    fs::create_dir(place.path("full")).unwrap();
    fs::write(place.path("full/file"), "").unwrap();
    let mount = |mountpoint: &str| {
        place.run(&[
            "mount",
            "file:///nowhere",
            mountpoint,
            "--private-key",
            "key",
        ])
    };
    mount("absent").fails(10, &["absent", "does not exist", "mkdir"]);
    mount("key").fails(10, &["key", "not a directory"]);
    mount("full").fails(10, &["full", "not empty"]);
    mount("/proc").fails(11, &["/proc", "already mounted"]);
    assert!(!Path::new("/nowhere").exists());
}

#[test]
fn a_key_that_cannot_be_used_is_refused() {
    let place = Place::new();
    place.keygen("key");
    place.keygen("other");
    place
        .command(&["keygen", "locked", "--bits", "2048"])
        .env("OSSVAULT_PASSPHRASE", "open sesame")
        .output()
        .map(Run::from)
        .unwrap()
        .succeeds();
    fs::copy(place.path("key"), place.path("shared")).unwrap();
    fs::set_permissions(place.path("shared"), fs::Permissions::from_mode(0o640)).unwrap();
    fs::write(place.path("text"), "not a key\n").unwrap();
    fs::set_permissions(place.path("text"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::copy(place.path("key.pub"), place.path("writable.pub")).unwrap();
    fs::set_permissions(
        place.path("writable.pub"),
        fs::Permissions::from_mode(0o666),
    )
    .unwrap();

    let source = format!("file://{}", place.path("store").display());
    let mount = |options: &[&str]| {
        let mut arguments = vec!["mount", &source, "mnt"];
        arguments.extend(options);
        let mut command = place.command(&arguments);
        Run::from(detached(&mut command).output().unwrap())
    };
    mount(&[]).fails(20, &["--private-key", "keygen"]);
    mount(&["--private-key", "absent"]).fails(20, &["absent", "keygen"]);
    mount(&["--private-key", "shared"]).fails(21, &["shared", "chmod 600"]);
    mount(&["--public-key", "writable.pub"]).fails(21, &["writable.pub", "chmod"]);
    mount(&["--private-key", "text"]).fails(22, &["text", "not an RSA key"]);
    mount(&["--private-key", "key.pub"]).fails(22, &["key.pub", "public key"]);
    mount(&["--private-key", "locked"]).fails(24, &["locked", "--passphrase-file"]);
    mount(&[
        "--private-key",
        "locked",
        "--passphrase-command",
        "echo wrong",
    ])
    .fails(24, &["locked", "wrong passphrase"]);
    mount(&["--private-key", "key", "--public-key", "other.pub"])
        .fails(23, &["other.pub", "does not belong"]);

    if find("openssl").is_none() {
        eprintln!("skipped in part: no openssl to make a small key");
    } else {
        let status = Command::new("openssl")
            .args(["genrsa", "-out"])
            .arg(place.path("small"))
            .arg("1024")
            .stderr(Stdio::null())
            .status()
            .unwrap();
        assert!(status.success());
        fs::set_permissions(place.path("small"), fs::Permissions::from_mode(0o600)).unwrap();
        mount(&["--private-key", "small"]).fails(22, &["small", "1024 bits", "2048"]);
    }
    assert!(!place.path("store").exists(), "nothing was touched");
}

#[test]
fn what_the_daemon_uses_may_not_lie_in_its_mount() {
    let place = Place::new();
    place.keygen("key");
    symlink(place.path("mnt"), place.path("link")).unwrap();
    let around = format!("file://{}", place.path("").display());
    place
        .run(&[
            "mount",
            around.trim_end_matches('/'),
            "mnt",
            "--private-key",
            "key",
        ])
        .fails(16, &["source folder", "contains"]);
    for (option, value) in [
        ("--cache-dir", "mnt/cache"),
        ("--cache-dir", "link/cache"),
        ("--log-file", "mnt/log"),
        ("--passphrase-file", "mnt/pass"),
    ] {
        place
            .run(&[
                "mount",
                "oss://bucket",
                "mnt",
                "--private-key",
                "key",
                option,
                value,
            ])
            .fails(16, &[value, "inside the mount point"]);
    }
}

#[test]
fn a_service_that_cannot_be_used_is_named() {
    let place = Place::new();
    place.keygen("key");
    let mount = |options: &[&str], credentials: bool| {
        let mut arguments = vec![
            "mount",
            "oss://bucket",
            "mnt",
            "--private-key",
            "key",
            "--timeout",
            "2",
        ];
        arguments.extend(options);
        let mut command = place.command(&arguments);
        if credentials {
            command
                .env("OSS_ACCESS_KEY_ID", "id")
                .env("OSS_ACCESS_KEY_SECRET", "not-to-be-shown");
        }
        let run = Run::from(command.output().unwrap());
        assert!(!run.stderr.contains("not-to-be-shown"));
        run
    };
    mount(&["--region", "cn-hangzhou"], false).fails(32, &["OSS_ACCESS_KEY_ID"]);
    mount(&[], true).fails(31, &["--endpoint", "--region"]);
    mount(&["--endpoint", "http://oss.example.com"], true).fails(31, &["--allow-http"]);
    mount(&["--endpoint", "ftp://oss.example.com"], true).fails(31, &["ftp"]);
    mount(&["--endpoint", "oss.example.com"], true).fails(31, &["--region"]);
    // A port nobody listens on.
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .unwrap()
        .port();
    let endpoint = format!("http://127.0.0.1:{port}");
    mount(&["--endpoint", &endpoint], true).fails(34, &[&endpoint, "oss://bucket"]);
    assert!(!place.is_mounted());
}

#[test]
fn a_folder_that_is_no_bucket_is_refused() {
    let place = Place::new();
    place.keygen("key");
    fs::create_dir(place.path("photos")).unwrap();
    fs::write(place.path("photos/cat.jpg"), "meow").unwrap();
    let source = format!("file://{}", place.path("photos").display());
    place
        .run(&["mount", &source, "mnt", "--private-key", "key"])
        .fails(35, &["photos", "empty"]);
    assert_eq!(fs::read_dir(place.path("photos")).unwrap().count(), 1);
}

#[test]
fn a_mount_comes_up_in_the_background_and_goes_down_with_umount() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    place.keygen("key");
    let source = format!("file://{}", place.path("store").display());
    let mount = ["mount", &source, "mnt", "--private-key", "key"];
    place.run(&mount).succeeds();
    assert!(place.is_mounted());
    assert_eq!(fs::read_dir(place.path("mnt")).unwrap().count(), 0);
    place
        .run(&mount)
        .fails(11, &["already mounted", "ossvault umount"]);

    let inside = fs::File::open(place.path("mnt")).unwrap();
    place.run(&["umount", "mnt"]).fails(15, &["in use"]);
    drop(inside);
    place.run(&["umount", "mnt"]).succeeds();
    assert!(!place.is_mounted());
    place.run(&["umount", "mnt"]).fails(14, &["not mounted"]);
    place
        .run(&["umount", "absent"])
        .fails(10, &["absent", "does not exist"]);
    place.run(&["umount", "/proc"]).fails(14, &["/proc"]);
}

/// "Metadata comes from the bucket and is not trusted: every mount is nosuid and nodev."
#[test]
fn the_options_of_the_mount_are_safe_ones() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    place.keygen("key");
    let source = format!("file://{}", place.path("store").display());
    place
        .run(&[
            "mount",
            &source,
            "mnt",
            "--private-key",
            "key",
            "--read-only",
        ])
        .succeeds();
    let path = format!(" {} ", place.path("mnt").display());
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let line = table.lines().find(|line| line.contains(&path)).unwrap();
    for word in [
        "ro,",
        "nosuid",
        "nodev",
        "default_permissions",
        " fuse.ossvault ",
        "ossvault",
        "file://",
    ] {
        assert!(line.contains(word), "no {word} in {line}");
    }
    if nix::unistd::geteuid().is_root() {
        let device = line.split(' ').nth(2).unwrap();
        let knob = format!("/sys/class/bdi/{device}/read_ahead_kb");
        assert_eq!(fs::read_to_string(knob).unwrap().trim(), "208");
    }
}

#[test]
fn a_stale_mount_is_cleaned_by_the_next_one() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    place.keygen("key");
    let source = format!("file://{}", place.path("store").display());
    let mount = [
        "mount",
        &source,
        "mnt",
        "--private-key",
        "key",
        "--foreground",
    ];
    let start = || {
        let child = place
            .command(&mount)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        eventually("mounted", || place.is_mounted());
        child
    };
    let mut child = start();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(place.is_mounted(), "the kernel keeps what nobody unmounts");
    assert!(fs::metadata(place.path("mnt")).is_err());

    let run = place.run(&["mount", &source, "mnt", "--private-key", "key"]);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    assert!(run.stderr.contains("stale mount"), "{}", run.stderr);
    assert!(fs::metadata(place.path("mnt")).is_ok());
    place.run(&["umount", "mnt"]).succeeds();

    let mut child = start();
    child.kill().unwrap();
    child.wait().unwrap();
    place
        .run(&["umount", "mnt"])
        .fails(41, &["died without a report"]);
    assert!(!place.is_mounted());
}

#[test]
fn signals_and_an_unmount_from_outside_end_the_daemon() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    place.keygen("key");
    let source = format!("file://{}", place.path("store").display());
    let umount = |_: u32| {
        let program = find("fusermount3").map_or("umount".into(), |path| path);
        let mut command = Command::new(&program);
        if program.ends_with("fusermount3") {
            command.arg("-u");
        }
        assert!(command.arg(place.path("mnt")).status().unwrap().success());
    };
    let signal = |name: &'static str| {
        move |pid: u32| {
            let status = Command::new("kill")
                .args([name, &pid.to_string()])
                .status()
                .unwrap();
            assert!(status.success());
        }
    };
    let ends: [(&str, &dyn Fn(u32)); 3] = [
        ("SIGTERM", &signal("-TERM")),
        ("SIGINT", &signal("-INT")),
        ("umount", &umount),
    ];
    for (name, end) in ends {
        let mut child = place
            .command(&[
                "mount",
                &source,
                "mnt",
                "--private-key",
                "key",
                "--foreground",
            ])
            .spawn()
            .unwrap();
        eventually("mounted", || {
            place.is_mounted() && fs::read_dir(place.path("mnt")).is_ok()
        });
        end(child.id());
        let mut status = None;
        eventually(name, || {
            status = child.try_wait().unwrap();
            status.is_some()
        });
        assert_eq!(status.unwrap().code(), Some(0), "{name}");
        assert!(!place.is_mounted(), "{name}");
    }
}

#[test]
fn without_fuse_or_its_helper_the_message_names_what_to_install() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only root can become a user who may not mount");
        return;
    }
    if find("setpriv").is_none() {
        eprintln!("skipped: no setpriv(1)");
        return;
    }
    let place = Place::new();
    fs::set_permissions(place.path(""), fs::Permissions::from_mode(0o755)).unwrap();
    // Where an ordinary user can run it.
    fs::copy(env!("CARGO_BIN_EXE_ossvault"), place.path("ossvault")).unwrap();
    place.keygen("key");
    for name in ["mnt", "key", "key.pub"] {
        std::os::unix::fs::chown(place.path(name), Some(65534), Some(65534)).unwrap();
    }
    fs::create_dir(place.path("home")).unwrap();
    std::os::unix::fs::chown(place.path("home"), Some(65534), Some(65534)).unwrap();
    let source = format!("file://{}", place.path("home/store").display());
    let run = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(place.path("ossvault"))
        .args(["mount", &source, "mnt", "--private-key", "key"])
        .current_dir(place.path(""))
        .env_clear()
        .env("XDG_CACHE_HOME", place.path("home"))
        .env("FUSERMOUNT_PATH", "/nonexistent/fusermount3")
        .stdin(Stdio::null())
        .output()
        .map(Run::from)
        .unwrap();
    run.fails(13, &["fusermount3", "fuse3"]);
    assert!(!place.is_mounted());
}

/// `ossvault serve` on a free port, with one bucket. Ends with this.
struct Service {
    child: std::process::Child,
    endpoint: String,
}

impl Service {
    fn start(place: &Place) -> Service {
        use std::io::BufRead;
        let mut child = place
            .command(&[
                "serve",
                "--dir",
                "buckets",
                "--listen",
                "127.0.0.1:0",
                "--create",
                "bucket",
            ])
            .env("OSS_ACCESS_KEY_ID", "id")
            .env("OSS_ACCESS_KEY_SECRET", "secret")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        std::io::BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let endpoint = line.trim().rsplit(' ').next().unwrap().to_owned();
        assert!(endpoint.starts_with("http://127.0.0.1:"), "{line}");
        Service { child, endpoint }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn what_the_service_refuses_is_told_in_one_line() {
    let place = Place::new();
    place.keygen("key");
    let service = Service::start(&place);
    let mount = |source: &str, endpoint: &str, id: &str, secret: &str| {
        place
            .command(&[
                "mount",
                source,
                "mnt",
                "--private-key",
                "key",
                "--endpoint",
                endpoint,
            ])
            .args(["--timeout", "2"])
            .env("OSS_ACCESS_KEY_ID", id)
            .env("OSS_ACCESS_KEY_SECRET", secret)
            .output()
            .map(Run::from)
            .unwrap()
    };
    let endpoint = service.endpoint.as_str();
    mount("oss://no-such-bucket", endpoint, "id", "secret")
        .fails(30, &["no-such-bucket", endpoint]);
    mount("oss://bucket", endpoint, "id", "wrong")
        .fails(32, &["SignatureDoesNotMatch", "OSS_ACCESS_KEY_SECRET"]);
    mount("oss://bucket", endpoint, "nobody", "secret").fails(32, &["InvalidAccessKeyId"]);
    assert!(!place.is_mounted());

    if can_mount() {
        mount("oss://bucket", endpoint, "id", "secret").succeeds();
        place.run(&["umount", "mnt"]).succeeds();
    }
}

#[test]
fn an_endpoint_that_is_no_oss_service_is_named() {
    let place = Place::new();
    place.keygen("key");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    // Ends with the process.
    std::thread::spawn(move || {
        use std::io::{Read, Write};
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(
                b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\nhello\n",
            );
        }
    });
    let run = place
        .command(&[
            "mount",
            "oss://bucket",
            "mnt",
            "--private-key",
            "key",
            "--timeout",
            "2",
        ])
        .args(["--endpoint", &endpoint])
        .env("OSS_ACCESS_KEY_ID", "id")
        .env("OSS_ACCESS_KEY_SECRET", "secret")
        .output()
        .map(Run::from)
        .unwrap();
    run.fails(31, &[&endpoint]);
}

/// A place where user 65534 can mount; None, with the reason printed, where that cannot be.
fn for_an_ordinary_user() -> Option<Place> {
    let lacking = ["fusermount3", "unshare", "setpriv"]
        .into_iter()
        .find(|program| find(program).is_none());
    if !nix::unistd::geteuid().is_root() || lacking.is_some() {
        // As an ordinary user every other test here takes this way.
        eprintln!("skipped: needs root, fusermount3, unshare(1) and setpriv(1)");
        return None;
    }
    let place = Place::new();
    fs::set_permissions(place.path(""), fs::Permissions::from_mode(0o755)).unwrap();
    fs::copy(env!("CARGO_BIN_EXE_ossvault"), place.path("ossvault")).unwrap();
    place.keygen("key");
    fs::create_dir(place.path("home")).unwrap();
    for name in ["mnt", "key", "key.pub", "home"] {
        std::os::unix::fs::chown(place.path(name), Some(65534), Some(65534)).unwrap();
    }
    Some(place)
}

/// Runs a script as root that can do things `as_user`.
fn as_an_ordinary_user(place: &Place, script: &str) -> Run {
    // In a mount namespace of its own, with a device that everybody may open, as udev makes it.
    const BEFORE: &str = r#"
        set -eu
        if ! su_can_open=$(setpriv --reuid=65534 --regid=65534 --clear-groups sh -c ': <>/dev/fuse' 2>&1); then
            mknod device c 10 229
            chmod 666 device
            mount --bind device /dev/fuse
        fi
        as_user() {
            setpriv --reuid=65534 --regid=65534 --clear-groups env -i PATH="$PATH" HOME="$PWD/home" "$@"
        }
    "#;
    Command::new("unshare")
        .args(["-m", "sh", "-c", &format!("{BEFORE}{script}")])
        .current_dir(place.path(""))
        .stdin(Stdio::null())
        .output()
        .map(Run::from)
        .unwrap()
}

#[test]
fn an_ordinary_user_mounts_through_fusermount3() {
    if !can_mount() {
        return;
    }
    let Some(place) = for_an_ordinary_user() else {
        return;
    };
    let script = r#"
        as_user ./ossvault mount "file://$PWD/home/store" mnt --private-key key
        as_user ls mnt
        if ls mnt 2>/dev/null; then echo "root got in"; exit 1; fi
        as_user ./ossvault umount mnt
        if grep -q " $PWD/mnt " /proc/self/mountinfo; then echo "still mounted"; exit 1; fi
    "#;
    as_an_ordinary_user(&place, script).succeeds();
}

/// Stored owners would lock him out of his own files.
#[test]
fn to_an_ordinary_user_everything_in_his_mount_appears_to_be_his() {
    if !can_mount() {
        return;
    }
    let Some(place) = for_an_ordinary_user() else {
        return;
    };
    let script = r#"
        mkdir roots
        ./ossvault mount "file://$PWD/home/store" roots --private-key key --insecure-key-permissions --no-sync
        mkdir roots/d
        echo text > roots/d/file
        ln -s file roots/d/link
        chmod 600 roots/d/file
        chown -h 1234:5678 roots/d roots/d/file roots/d/link
        test "$(stat -c %u:%g:%a roots/d/file)" = 1234:5678:600
        ./ossvault umount roots
        chown -R 65534:65534 home
        as_user ./ossvault mount "file://$PWD/home/store" mnt --private-key key --no-sync
        as_user sh -euc '
            cd mnt
            test "$(stat -c %u:%g . d d/file d/link | sort -u)" = 65534:65534
            test "$(cat d/file)" = text
            echo more >> d/file
            chmod 640 d/file
            touch -d @1000 d/file
            chgrp 65534 d/file
            echo new > d/new
            mkdir d/sub
            mv d/new d/sub/new
            rm d/link
            test "$(stat -c %u:%g:%a:%Y d/file)" = 65534:65534:640:1000
            ! chown 1234 d/file 2> /dev/null
        '
        as_user ./ossvault umount mnt
        # What root had given away stays so in the bucket.
        ./ossvault mount "file://$PWD/home/store" roots --private-key key --insecure-key-permissions --no-sync
        test "$(stat -c %u:%g:%a roots/d/file)" = 1234:65534:640
        test "$(stat -c %u:%g roots/d/sub/new)" = 65534:65534
        ./ossvault umount roots
    "#;
    as_an_ordinary_user(&place, script).succeeds();
}

// ---- keys and passphrases ----

/// A key file with a passphrase of its own.
fn protected_key(place: &Place, name: &str, passphrase: &str) {
    place
        .command(&["keygen", name, "--bits", "2048"])
        .env("OSSVAULT_PASSPHRASE", passphrase)
        .output()
        .map(Run::from)
        .unwrap()
        .succeeds();
}

/// The daemon changed to `/` first, and looked there.
#[test]
fn a_passphrase_file_or_command_may_be_relative_to_where_the_user_is() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    protected_key(&place, "key", "open sesame");
    place.write_secret("pass", "open sesame\n");
    let source = format!("file://{}", place.path("store").display());
    for option in [
        ["--passphrase-file", "pass"],
        ["--passphrase-command", "cat ./pass"],
    ] {
        let mount = ["mount", &source, "mnt", "--private-key", "key"];
        place.run(&[&mount[..], &option].concat()).succeeds();
        place.run(&["umount", "mnt"]).succeeds();
    }
}

#[test]
fn a_passphrase_command_is_told_which_key_it_is_for() {
    let place = Place::new();
    protected_key(&place, "one", "first word");
    protected_key(&place, "two", "second word");
    place.write_secret("one.pass", "first word\n");
    place.write_secret("two.pass", "second word\n");
    let source = place.make_bucket();
    let verify = [
        "verify",
        &source,
        "--private-key",
        "one",
        "--private-key",
        "two",
        "--allow-empty",
        "--passphrase-command",
    ];
    place
        .run(&[&verify[..], &["cat one.pass"]].concat())
        .fails(24, &["two", "wrong passphrase"]);
    place
        .run(&[&verify[..], &["cat \"$OSSVAULT_KEY_FILE.pass\""]].concat())
        .succeeds();
}

/// An old key and a new one have different passphrases, as they should, and there was one option for both.
#[test]
fn rewrap_takes_a_passphrase_for_the_new_key() {
    let place = Place::new();
    protected_key(&place, "old", "first word");
    protected_key(&place, "new", "second word");
    place.write_secret("old.pass", "first word\n");
    place.write_secret("new.pass", "second word\n");
    let source = place.make_bucket();
    let rewrap = [
        "rewrap",
        &source,
        "--private-key",
        "old",
        "--passphrase-file",
        "old.pass",
        "--public-key",
        "new.pub",
        "--new-private-key",
        "new",
        "--allow-empty",
    ];
    place.run(&rewrap).fails(24, &["new", "wrong passphrase"]);
    for option in [
        ["--new-passphrase-file", "new.pass"],
        ["--new-passphrase-command", "cat new.pass"],
    ] {
        place.run(&[&rewrap[..], &option].concat()).succeeds();
    }
}

/// It stayed in the environment of the daemon, and of everything the daemon started.
#[test]
fn the_passphrase_leaves_the_environment() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    protected_key(&place, "key", "open sesame");
    let source = format!("file://{}", place.path("store").display());
    let mut child = place
        .command(&[
            "mount",
            &source,
            "mnt",
            "--private-key",
            "key",
            "--foreground",
        ])
        .env("OSSVAULT_PASSPHRASE", "open sesame")
        .spawn()
        .unwrap();
    eventually("mounted", || place.is_mounted());
    // Nobody but root may look into the daemon at all.
    match fs::read(format!("/proc/{}/environ", child.id())) {
        Ok(environment) => {
            let environment = String::from_utf8_lossy(&environment);
            assert!(environment.contains("XDG_CACHE_HOME"), "{environment}");
            assert!(!environment.contains("sesame"), "{environment}");
        }
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied),
    }
    place.run(&["umount", "mnt"]).succeeds();
    assert!(child.wait().unwrap().success());
}

#[test]
fn the_memory_with_the_private_keys_is_locked() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    place.keygen("key");
    let source = format!("file://{}", place.path("store").display());
    let mount = [
        "mount",
        &source,
        "mnt",
        "--private-key",
        "key",
        "--foreground",
    ];
    let mut child = place.command(&mount).spawn().unwrap();
    eventually("mounted", || place.is_mounted());
    let about = |file: &str, start: &str| {
        let text = fs::read_to_string(format!("/proc/{}/{file}", child.id())).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(start));
        line.unwrap().split_whitespace().next().unwrap().to_owned()
    };
    // Above the old limit of 64 KiB, which no heap fits.
    let limit = about("limits", "Max locked memory");
    let enough = limit.parse::<u64>().map_or(true, |bytes| bytes >= 8 << 20);
    if enough || nix::unistd::geteuid().is_root() {
        assert!(about("status", "VmLck:").parse::<u64>().unwrap() > 0);
    } else {
        eprintln!("skipped: not enough memory may be locked here");
    }
    place.run(&["umount", "mnt"]).succeeds();
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_daemon_that_dies_leaves_no_core_file() {
    if !can_mount() {
        return;
    }
    use std::os::unix::process::ExitStatusExt;
    let place = Place::new();
    place.keygen("key");
    let source = format!("file://{}", place.path("store").display());
    // As somebody would start it who wants core files.
    let script = "ulimit -S -c $(ulimit -H -c); exec \"$0\" \"$@\"";
    let program = place.command(&[]);
    let mut command = Command::new("sh");
    command
        .args(["-c", script])
        .arg(program.get_program())
        .args(["mount", &source, "mnt", "--private-key", "key", "-f"])
        .args(["--cache-dir", "cache"])
        .current_dir(place.path(""));
    let mut child = command.spawn().unwrap();
    eventually("mounted", || place.is_mounted());
    let limits = fs::read_to_string(format!("/proc/{}/limits", child.id())).unwrap();
    let core = limits
        .lines()
        .find(|line| line.starts_with("Max core file size"))
        .unwrap();
    let numbers: Vec<&str> = core.split_whitespace().skip(4).collect();
    assert_eq!(numbers[..2], ["0", "0"], "{core}");
    // Nor one that a program takes from the kernel, for which the limit does not count.
    let pid = nix::unistd::Pid::from_raw(child.id() as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGABRT).unwrap();
    let status = child.wait().unwrap();
    assert_eq!(status.signal(), Some(libc::SIGABRT));
    assert!(!status.core_dumped());
}

#[test]
fn a_write_only_mount_says_for_which_key_it_writes() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    let made = place
        .run(&["keygen", "key", "--no-passphrase", "--bits", "2048"])
        .succeeds();
    let fingerprint = made
        .stdout
        .lines()
        .find_map(|line| line.strip_prefix("fingerprint: "))
        .unwrap();
    let source = format!("file://{}", place.path("store").display());
    place
        .run(&[
            "mount",
            &source,
            "mnt",
            "--public-key",
            "key.pub",
            "--log-file",
            "log",
        ])
        .succeeds();
    eventually("the log says so", || {
        let log = fs::read_to_string(place.path("log")).unwrap_or_default();
        log.lines()
            .any(|line| line.contains("WARN") && line.contains(fingerprint))
    });
    place.run(&["umount", "mnt"]).succeeds();
}

/// What `keygen` promises, by another program: how the private key is encrypted, and what the fingerprint is.
#[test]
fn openssl_sees_the_encryption_and_the_fingerprint_that_are_promised() {
    if find("openssl").is_none() || find("sha256sum").is_none() {
        eprintln!("skipped: no openssl or no sha256sum");
        return;
    }
    let place = Place::new();
    let made = place
        .command(&["keygen", "key", "--bits", "2048"])
        .env("OSSVAULT_PASSPHRASE", "correct horse")
        .output()
        .map(Run::from)
        .unwrap()
        .succeeds();
    let shell = |line: &str| {
        let output = Command::new("sh")
            .args(["-c", line])
            .current_dir(place.path(""))
            .output()
            .unwrap();
        assert!(output.status.success(), "{line}");
        String::from_utf8(output.stdout).unwrap()
    };
    let parsed = shell("openssl asn1parse -in key");
    let values: Vec<&str> = parsed
        .lines()
        .filter_map(|line| line.rsplit_once(':'))
        .filter(|(kind, _)| kind.contains("OBJECT") || kind.contains("INTEGER"))
        .map(|(_, value)| value)
        .collect();
    // PBES2 of scrypt with N = 2^14, r = 8 and p = 5, numbers in hex, and AES-256-CBC.
    assert_eq!(
        values,
        ["PBES2", "scrypt", "4000", "08", "05", "aes-256-cbc"],
        "{parsed}"
    );
    let digest = shell("openssl pkey -pubin -in key.pub -outform DER | sha256sum");
    let fingerprint = digest.split(' ').next().unwrap();
    assert!(
        made.stdout
            .contains(&format!("fingerprint: {fingerprint}\n")),
        "{digest}{}",
        made.stdout
    );
}

#[test]
fn help_says_where_passphrases_come_from_and_what_keygen_writes() {
    let place = Place::new();
    for command in ["mount", "keygen", "verify", "rewrap", "adopt", "info"] {
        let help = place.run(&[command, "--help"]).succeeds().stdout;
        assert!(help.contains("OSSVAULT_PASSPHRASE"), "{command}");
        assert!(help.contains("OSSVAULT_KEY_FILE"), "{command}");
    }
    let help = place.run(&["keygen", "--help"]).succeeds().stdout;
    assert!(help.contains("PATH.pub"), "{help}");
}

/// It said that nothing was mounted there.
#[test]
fn a_mount_is_unmounted_by_its_owner_or_by_root() {
    use std::os::unix::process::CommandExt;
    if !can_mount() {
        return;
    }
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only root can become another user");
        return;
    }
    let place = Place::new();
    place.keygen("key");
    let source = format!("file://{}", place.path("bucket").display());
    let mount = ["mount", &source, "mnt", "--private-key", "key"];
    place.run(&mount).succeeds();
    fs::set_permissions(place.path(""), fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = place.command(&["umount", "mnt"]);
    let other = command.uid(65534).gid(65534).output().unwrap();
    Run::from(other).fails(17, &["belongs to root", "can unmount it"]);
    assert!(place.is_mounted());
    place.run(&["umount", "mnt"]).succeeds();
}
