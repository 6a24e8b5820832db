//! Options from configuration files and the environment, and mounts that mount(8) makes.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::fixture::{can_mount, has_program};

const PROGRAM: &str = env!("CARGO_BIN_EXE_ossvault");

/// A home with a key and a bucket in a folder.
struct Home {
    folder: tempfile::TempDir,
}

impl Home {
    fn new() -> Home {
        let home = Home {
            folder: tempfile::tempdir().unwrap(),
        };
        fs::create_dir_all(home.at(".config/ossvault")).unwrap();
        fs::create_dir(home.at("mnt")).unwrap();
        let run = home.run(&["keygen", "--no-passphrase", "key"]);
        assert!(run.status.success(), "{}", errors(&run));
        home
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// With no variables but those that every program needs.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command
            .args(arguments)
            .current_dir(self.folder.path())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.folder.path())
            .stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    fn configure(&self, content: &str) {
        fs::write(self.at(".config/ossvault/config.toml"), content).unwrap();
    }

    fn source(&self) -> String {
        format!("file://{}", self.at("bucket").display())
    }

    /// A profile that mounts the bucket, with these lines besides.
    fn profile(&self, more: &str) {
        self.configure(&format!(
            "[profiles.work]\nsource = \"{}\"\nmountpoint = \"~/mnt\"\nprivate-key = \"~/key\"\n{more}",
            self.source()
        ));
    }

    fn is_mounted(&self) -> bool {
        is_mounted(&self.at("mnt"))
    }

    fn umount(&self) {
        let run = self.run(&["umount", "mnt"]);
        assert!(run.status.success(), "{}", errors(&run));
        assert!(!self.is_mounted());
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if self.is_mounted() {
            let _ = Command::new("umount")
                .arg("-l")
                .arg(self.at("mnt"))
                .status();
        }
    }
}

fn is_mounted(path: &Path) -> bool {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let path = path.canonicalize().unwrap();
    table
        .lines()
        .any(|line| line.split(' ').nth(4) == path.to_str())
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn printed(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

// ---- configuration files ----

#[test]
fn a_profile_is_mounted_by_its_name() {
    if !can_mount() {
        return;
    }
    let home = Home::new();
    home.profile("memory-limit = \"64M\"\n");
    let run = home.run(&["mount", "work"]);
    assert!(run.status.success(), "{}", errors(&run));
    assert!(home.is_mounted());
    fs::write(home.at("mnt/a"), "text").unwrap();
    home.umount();
    // Its source is one for other commands, too.
    let run = home.run(&["verify", "work"]);
    assert!(run.status.success(), "{}{}", printed(&run), errors(&run));
    // Elsewhere, and read only, by the command line.
    fs::create_dir(home.at("other")).unwrap();
    let run = home.run(&["mount", "work", "other", "--read-only"]);
    assert!(run.status.success(), "{}", errors(&run));
    assert!(!home.is_mounted());
    assert_eq!(fs::read(home.at("other/a")).unwrap(), b"text");
    assert!(fs::write(home.at("other/b"), "").is_err());
    assert!(home.run(&["umount", "other"]).status.success());
}

/// A flag goes before the environment, that before a file, and a profile before the defaults.
#[test]
fn the_layers_have_an_order() {
    let home = Home::new();
    let shown = |variables: &[(&str, &str)]| {
        let mut command = home.command(&["config", "show", "work"]);
        let run = command.envs(variables.iter().copied()).output().unwrap();
        assert!(run.status.success(), "{}", errors(&run));
        printed(&run)
    };
    home.profile("memory_limit = \"1G\"\n[defaults]\nmemory-limit = \"2G\"\nallow-http = true\n");
    let text = shown(&[]);
    assert!(
        text.contains("memory-limit = 1G  (from the profile work"),
        "{text}"
    );
    assert!(
        text.contains("allow-http = true  (from the defaults"),
        "{text}"
    );
    let text = shown(&[("OSSVAULT_MEMORY_LIMIT", "3G"), ("OSSVAULT_TIMEOUT", "")]);
    assert!(
        text.contains("memory-limit = 3G  (from the environment variable OSSVAULT_MEMORY_LIMIT)"),
        "{text}"
    );
    assert!(
        !text.contains("timeout"),
        "an empty variable is an unset one: {text}"
    );
    // By what the mount says of it.
    let refused = |arguments: &[&str], variable: &str| {
        let mut command = home.command(&[&["mount", "work"], arguments].concat());
        let run = command
            .env("OSSVAULT_MEMORY_LIMIT", variable)
            .output()
            .unwrap();
        assert_eq!(run.status.code(), Some(2));
        errors(&run)
    };
    assert!(refused(&["--memory-limit", "1M"], "1G").contains("too small"));
    assert!(refused(&[], "1M").contains("too small"));
    let message = refused(&[], "s3cret");
    assert_eq!(
        message.trim_end(),
        "ossvault: the environment variable OSSVAULT_MEMORY_LIMIT: memory-limit: expected a size, like 512M or 10G"
    );
}

#[test]
fn a_mistake_in_a_file_is_named() {
    let home = Home::new();
    for (lines, said) in [
        (
            "memory-limi = \"1G\"",
            "there is no option memory-limi; did you mean memory-limit?",
        ),
        ("memory-limit = \"s3cret\"", "memory-limit: expected a size"),
        (
            "allow-other = \"yes\"",
            "allow-other: expected true or false",
        ),
        ("umask = 27", "umask: expected octal digits in quotes"),
        (
            "embedded-server = \"/tmp\"",
            "there is no option embedded-server",
        ),
        ("mountpoint = 1", ""),
        ("verbose = 9", "verbose: expected a number from 0 to 4"),
    ] {
        home.configure(&format!(
            "[profiles.work]\nsource = \"file:///nowhere\"\n{lines}\n"
        ));
        let run = home.run(&["config", "check"]);
        assert_eq!(run.status.code(), Some(2), "{lines}");
        let message = errors(&run);
        assert!(message.contains(said), "{lines}: {message}");
        assert!(message.contains("the profile work in"), "{message}");
        assert!(!message.contains("s3cret"), "{message}");
        if lines.starts_with("mountpoint") {
            continue;
        }
        let run = home.run(&["mount", "work", "mnt"]);
        assert_eq!(run.status.code(), Some(2), "{lines}");
        assert!(errors(&run).contains(said), "{lines}: {}", errors(&run));
    }
    home.configure("[profiles.work]\nregion = \"cn-hangzhou\"\n");
    assert!(errors(&home.run(&["config", "check"])).contains("source is missing"));
    home.profile("passphrase-command = \"echo s3cret\"\n");
    let run = home.run(&["config", "check"]);
    assert!(
        run.status.success() && printed(&run).contains("profiles: work"),
        "{}",
        errors(&run)
    );
    let run = home.run(&["config", "show", "work"]);
    assert!(
        printed(&run).contains("passphrase-command = (hidden)"),
        "{}",
        printed(&run)
    );
    assert_eq!(home.run(&["config", "show", "wrk"]).status.code(), Some(2));
}

#[test]
fn a_file_that_others_can_change_is_not_used() {
    let home = Home::new();
    home.profile("passphrase-command = \"touch ran; echo x\"\n");
    let file = home.at(".config/ossvault/config.toml");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
    for arguments in [
        &["mount", "work"][..],
        &["config", "check"],
        &["config", "show"],
    ] {
        let run = home.run(arguments);
        assert_eq!(run.status.code(), Some(21), "{}", errors(&run));
        assert!(errors(&run).contains("other users can change it"));
    }
    assert!(!home.at("ran").exists());
    // A file that is named is read instead of that one.
    let other = home.at("other.toml");
    fs::write(&other, "[profiles.home]\nsource = \"file:///a\"\n").unwrap();
    let run = home.run(&["config", "show", "home", "--config", "other.toml"]);
    assert_eq!(printed(&run), "source = file:///a\n", "{}", errors(&run));
    let mut by_variable = home.command(&["config", "show", "home"]);
    let run = by_variable.env("OSSVAULT_CONFIG", &other).output().unwrap();
    assert_eq!(printed(&run), "source = file:///a\n");
    let run = home.run(&["config", "check", "--config", "none.toml"]);
    assert_eq!(run.status.code(), Some(42));
    assert!(errors(&run).contains("there is no such file"));
}

/// The block of this language in docs/mounting.md.
fn documented(language: &str) -> &'static str {
    let text = include_str!("../../docs/mounting.md");
    let (_, block) = text.split_once(&format!("```{language}\n")).unwrap();
    block.split_once("```").unwrap().0
}

#[test]
fn the_documented_configuration_file_is_one() {
    let home = Home::new();
    home.configure(documented("toml"));
    let run = home.run(&["config", "check"]);
    assert!(run.status.success(), "{}", errors(&run));
    let run = home.run(&["config", "show", "work"]);
    let text = printed(&run);
    for line in [
        "source = oss://my-bucket/documents",
        "memory-limit = 1G",
        "region = cn-hangzhou",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    let key = home.at(".keys/vault.pem");
    assert!(
        text.contains(&format!("private-key = {}", key.display())),
        "{text}"
    );
}

#[test]
fn the_packages_install_the_documented_unit() {
    let packaged = include_str!("../../src/packaging/files/ossvault@.service");
    assert_eq!(documented("ini").trim(), packaged.trim());
}

#[test]
fn the_documented_unit_is_valid() {
    let home = Home::new();
    let unit = documented("ini").replace("/usr/bin/ossvault", PROGRAM);
    fs::write(home.at("ossvault@.service"), unit).unwrap();
    if !has_program("systemd-analyze") {
        eprintln!("skipped: no systemd-analyze");
        return;
    }
    let run = Command::new("systemd-analyze")
        .args(["verify", "--man=no", "ossvault@work.service"])
        .current_dir(home.folder.path())
        .env(
            "SYSTEMD_UNIT_PATH",
            format!("{}:", home.folder.path().display()),
        )
        .output()
        .unwrap();
    assert!(!errors(&run).contains("ossvault@"), "{}", errors(&run));
}

// ---- mount(8) ----

/// The program where mount(8) finds it, in a mount namespace of its own: `script` runs there as root of it.
fn in_namespace(home: &Home, script: &str) -> Option<Output> {
    if !can_mount() || !nix::unistd::geteuid().is_root() || !has_program("unshare") {
        eprintln!("skipped: this takes root");
        return None;
    }
    let script = format!(
        "set -e; mkdir -p upper work; mount -t tmpfs none upper; mkdir upper/u upper/w upper/etc upper/we
         mount -t overlay -o lowerdir=/sbin,upperdir=upper/u,workdir=upper/w none $(readlink -f /sbin)
         mount -t overlay -o lowerdir=/etc,upperdir=upper/etc,workdir=upper/we none /etc
         ln -s {PROGRAM} /sbin/mount.ossvault; ln -s {PROGRAM} /sbin/mount.fuse.ossvault
         {script}"
    );
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "--propagation", "private", "sh", "-c", &script])
        .current_dir(home.folder.path())
        .env("HOME", home.folder.path())
        .env("SOURCE", home.source())
        .env_remove("XDG_CACHE_HOME");
    Some(command.output().unwrap())
}

#[test]
fn mount_and_fstab_mount_a_bucket() {
    let home = Home::new();
    let key = home.at("key");
    let mountpoint = home.at("mnt");
    let script = format!(
        "mount -t ossvault \"$SOURCE\" mnt -o rw,_netdev,private_key={key},memory_limit=64M > /dev/null
         echo one > mnt/a; findmnt -no FSTYPE mnt; {PROGRAM} umount mnt
         echo \"$SOURCE {mnt} fuse.ossvault ro,noauto,noexec,umask=077,x-systemd.automount,private_key={key} 0 0\" >> /etc/fstab
         mount {mnt}; cat mnt/a; findmnt -no OPTIONS mnt; stat -c %a mnt/a; {PROGRAM} umount mnt",
        key = key.display(),
        mnt = mountpoint.display(),
    );
    let Some(run) = in_namespace(&home, &script) else {
        return;
    };
    let text = printed(&run);
    assert!(run.status.success(), "{text}{}", errors(&run));
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[..2], ["fuse.ossvault", "one"], "{text}");
    for option in ["ro,", "nosuid", "nodev", "noexec"] {
        assert!(lines[2].contains(option), "{option}: {text}");
    }
    assert_eq!(lines[3], "400", "644, less 077, and nothing can be written");
}

/// As mount.fuse3 calls it, by a shell.
#[test]
fn the_program_itself_takes_what_mount_hands_on() {
    if !can_mount() {
        return;
    }
    let home = Home::new();
    let options = format!("rw,nosuid,private_key={}", home.at("key").display());
    let run = home.run(&[&*home.source(), "mnt", "-o", &options]);
    assert!(run.status.success(), "{}", errors(&run));
    assert!(home.is_mounted());
    home.umount();
    let run = home.run(&[&*home.source(), "mnt", "-o", "passphrase=s3cret"]);
    assert_eq!(run.status.code(), Some(2));
    assert!(!errors(&run).contains("s3cret") && errors(&run).contains("secret"));
}

/// A mount below an automount point waited for itself, or said that something is mounted there.
#[test]
fn an_automount_point_is_a_mount_point() {
    let home = Home::new();
    let key = home.at("key");
    // The shell is the automounter. Another process group that looks into the directory waits for ever.
    let script = format!(
        "exec 7<> pipe; mount -t autofs -o fd=7,pgrp=$$,minproto=5,maxproto=5,direct systemd-1 mnt
         grep -q autofs /proc/self/mountinfo
         setsid {PROGRAM} mount \"$SOURCE\" mnt --private-key {key} --foreground > /dev/null & served=$!
         for i in $(seq 100); do findmnt -no FSTYPE mnt | grep -q ossvault && break; sleep 0.1; done
         findmnt -no FSTYPE mnt | tail -n 1; echo two > mnt/b; cat mnt/b; kill $served; wait $served; umount mnt",
        key = key.display(),
    );
    nix::unistd::mkfifo(&home.at("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let Some(run) = in_namespace(&home, &script) else {
        return;
    };
    if errors(&run).contains("unknown filesystem type") {
        eprintln!("skipped: no autofs here");
        return;
    }
    let text = printed(&run);
    assert!(run.status.success(), "{text}{}", errors(&run));
    assert_eq!(text, "fuse.ossvault\ntwo\n");
}

#[test]
fn the_mount_table_names_bucket_endpoint_and_prefix() {
    if !can_mount() {
        return;
    }
    let rig = crate::fixture::Rig::new();
    let mount = rig.mount("mnt", &["--prefix", "photos/2024"]);
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let path = mount.path.canonicalize().unwrap();
    let line = table
        .lines()
        .find(|line| line.split(' ').nth(4) == path.to_str())
        .unwrap();
    let host = rig.endpoint().replace("http://", "");
    assert!(
        line.contains(&format!(" bucket.{host}:/photos/2024 ")),
        "{line}"
    );
}

/// What systemd waits for in a unit of `Type=notify`.
#[test]
fn a_service_manager_is_told_when_the_mount_serves() {
    if !can_mount() {
        return;
    }
    let home = Home::new();
    let socket = UnixDatagram::bind(home.at("notify")).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    let source = home.source();
    let mut child = home
        .command(&["mount", &source, "mnt", "--private-key", "key", "-f"])
        .env("NOTIFY_SOCKET", home.at("notify"))
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut message = [0; 100];
    let length = socket.recv(&mut message).unwrap();
    assert!(message[..length].starts_with(b"READY=1"));
    assert!(home.is_mounted());
    home.umount();
    let deadline = Instant::now() + Duration::from_secs(30);
    while child.try_wait().unwrap().is_none() {
        assert!(Instant::now() < deadline, "the daemon does not end");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The bare directory takes no files, not even root's where its file system has the flag for that.
#[test]
fn a_guarded_mount_point_takes_no_files_while_nothing_is_mounted() {
    if !can_mount() {
        return;
    }
    let home = Home::new();
    let mount = |options: &[&str]| {
        let source = home.source();
        let line = ["mount", &source, "mnt", "--private-key", "key"];
        let run = home.run(&[&line[..], options].concat());
        assert!(run.status.success(), "{}", errors(&run));
    };
    let unmount = || {
        let run = home.run(&["umount", "mnt"]);
        assert!(run.status.success(), "{}", errors(&run));
    };
    let mode = || fs::metadata(home.at("mnt")).unwrap().permissions().mode() & 0o7777;
    mount(&["--guard"]);
    fs::write(home.at("mnt/file"), "x").unwrap();
    unmount();
    assert_eq!(mode(), 0);
    let immutable = Command::new("lsattr")
        .arg("-d")
        .arg(home.at("mnt"))
        .output();
    let immutable = immutable.is_ok_and(|run| {
        let said = String::from_utf8_lossy(&run.stdout).into_owned();
        said.split(' ')
            .next()
            .is_some_and(|flags| flags.contains('i'))
    });
    if immutable || !crate::fixture::is_root() {
        assert!(fs::write(home.at("mnt/plaintext"), "x").is_err());
    }
    // A mount that fails leaves it guarded; the next one works as before.
    let refused = home.run(&[
        "mount",
        &home.source(),
        "mnt",
        "--private-key",
        "absent",
        "--guard",
    ]);
    assert!(!refused.status.success());
    assert_eq!(mode(), 0);
    mount(&["--guard"]);
    assert_eq!(fs::read(home.at("mnt/file")).unwrap(), b"x");
    unmount();
    assert_eq!(mode(), 0);
    // Without the option, the guard is gone.
    mount(&[]);
    unmount();
    assert_eq!(mode(), 0o700);
    fs::write(home.at("mnt/plaintext"), "x").unwrap();
}

#[test]
fn a_mount_writes_its_line_of_fstab() {
    if !can_mount() {
        return;
    }
    let home = Home::new();
    fs::write(home.at("fstab"), "# none\n").unwrap();
    fs::set_permissions(home.at("fstab"), fs::Permissions::from_mode(0o640)).unwrap();
    let source = home.source();
    let line = [
        "mount",
        &source,
        "mnt",
        "--private-key",
        "key",
        "--memory-limit",
        "64M",
        "--update-fstab",
        "--fstab",
        "fstab",
    ];
    for _ in 0..2 {
        let run = home.run(&line);
        assert!(run.status.success(), "{}", errors(&run));
        assert!(home.run(&["umount", "mnt"]).status.success());
        let key = home.at("key").canonicalize().unwrap();
        let mountpoint = home.at("mnt").canonicalize().unwrap();
        let expected = format!(
            "# none\n{source}\t{}\tossvault\tnofail,private_key={},memory_limit=64M\t0\t0\n",
            mountpoint.display(),
            key.display(),
        );
        assert_eq!(fs::read_to_string(home.at("fstab")).unwrap(), expected);
        let mode = fs::metadata(home.at("fstab")).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o640);
    }
    fs::write(
        home.at("fstab"),
        format!("/dev/sda1 {} ext4 defaults 0 1\n", home.at("mnt").display()),
    )
    .unwrap();
    let refused = home.run(&line);
    assert_eq!(refused.status.code(), Some(2), "{}", errors(&refused));
    assert!(home.run(&["umount", "mnt"]).status.success());
}
