//! What tests of real mounts share: a mount of a bucket in a folder, served by the built program.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::TryStreamExt;
use ossvault::server::endpoint::Server;
use ossvault::server::instruments::Instruments;
use ossvault::server::state::Config;
use ossvault::store::local::{LocalStore, Settings};
use ossvault::store::object_store::{
    Body, ListRequest, ObjectHeaders, ObjectKey, ObjectMeta, ObjectStore, Overwrite,
};
use tokio::runtime::Runtime;

/// A folder with a bucket, a key and a cache directory: gone when the last of its mounts is.
struct Place {
    folder: tempfile::TempDir,
    /// What stands before the bucket; none where the folder is mounted itself.
    service: Option<Service>,
}

/// The OSS protocol before the bucket, to be counted and spoilt.
struct Service {
    server: Server,
    _runtime: Runtime,
}

impl Service {
    fn start(folder: &Path) -> Service {
        let runtime = Runtime::new().unwrap();
        let server = runtime
            .block_on(Server::start(Config::new(folder)))
            .unwrap();
        server.create_bucket("bucket").unwrap();
        Service {
            server,
            _runtime: runtime,
        }
    }
}

/// A mount, taken down at the end; a test whose mount does not end well fails.
pub struct Mount {
    place: Arc<Place>,
    mountpoint: PathBuf,
    log: PathBuf,
    up: bool,
}

const PROGRAM: &str = env!("CARGO_BIN_EXE_ossvault");

/// A private key that costs no time: it protects nothing but these tests.
const KEY: &str = include_str!("../vectors/keys/rsa2048.pkcs8.pem");

/// Why nothing can be mounted here. With REQUIRE_FUSE that is a failure.
fn lacking() -> Option<&'static str> {
    let lacking = if !Path::new("/dev/fuse").exists() {
        "no /dev/fuse"
    } else if !is_root() && find("fusermount3").is_none() {
        "no fusermount3"
    } else {
        return None;
    };
    assert!(
        !is_required(),
        "REQUIRE_FUSE is set, and there is {lacking}"
    );
    Some(lacking)
}

pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// The path of a program, or None with `skipped: no PROGRAM` printed. With REQUIRE_FUSE that is a failure.
pub fn program(name: &str) -> Option<PathBuf> {
    let path = find(name);
    if path.is_none() {
        assert!(
            !is_required(),
            "REQUIRE_FUSE is set, and there is no {name}"
        );
        eprintln!("skipped: no {name}");
    }
    path
}

fn is_required() -> bool {
    std::env::var_os("REQUIRE_FUSE").is_some_and(|value| !value.is_empty())
}

fn find(program: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?)
        .map(|folder| folder.join(program))
        .find(|path| path.is_file())
}

impl Mount {
    /// A mount of a new bucket; None, with the reason printed, where nothing can be mounted.
    pub fn new(options: &[&str]) -> Option<Mount> {
        Mount::of(false, options)
    }

    /// The same through a server on loopback.
    pub fn served(options: &[&str]) -> Option<Mount> {
        Mount::of(true, options)
    }

    fn of(served: bool, options: &[&str]) -> Option<Mount> {
        if let Some(reason) = lacking() {
            eprintln!("skipped: {reason}");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let key = folder.path().join("key");
        fs::write(&key, KEY).unwrap();
        set_mode(&key, 0o600);
        // Other users take part in some tests.
        set_mode(folder.path(), 0o755);
        let service = served.then(|| Service::start(folder.path()));
        let place = Arc::new(Place { folder, service });
        Some(Mount::start(place, "mnt", options))
    }

    /// Another mount of the same bucket: another client.
    pub fn second(&self, options: &[&str]) -> Mount {
        Mount::start(self.place.clone(), "mnt2", options)
    }

    fn start(place: Arc<Place>, name: &str, options: &[&str]) -> Mount {
        let folder = place.folder.path().canonicalize().unwrap();
        let mountpoint = folder.join(name);
        let log = folder.join(format!("{name}.log"));
        fs::create_dir_all(&mountpoint).unwrap();
        fs::create_dir_all(folder.join("cache")).unwrap();
        let mut mount = Mount {
            place,
            mountpoint,
            log,
            up: false,
        };
        mount.mount(options);
        mount
    }

    fn mount(&mut self, options: &[&str]) {
        let output = self.command(options).output().unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        self.up = true;
    }

    /// The command that mounts it. Options that name a key stand for the private one.
    fn command(&self, options: &[&str]) -> Command {
        let folder = self.mountpoint.parent().unwrap();
        let mut command = Command::new(PROGRAM);
        command.arg("mount");
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("OSS") {
                command.env_remove(&name);
            }
        }
        match &self.place.service {
            None => {
                command.arg(format!("file://{}", folder.join("bucket").display()));
                command.arg("--no-sync");
            }
            Some(service) => {
                command.args(["oss://bucket", "--region", "cn-hangzhou", "--endpoint"]);
                command.arg(service.server.endpoint());
                command.env("OSS_ACCESS_KEY_ID", "test");
                command.env("OSS_ACCESS_KEY_SECRET", "test");
            }
        }
        if !options.contains(&"--public-key") {
            command.arg("--private-key").arg(folder.join("key"));
        }
        command
            .arg(&self.mountpoint)
            .env("XDG_STATE_HOME", folder.join("state"))
            .current_dir(folder)
            .arg("--cache-dir")
            .arg(folder.join("cache"))
            .arg("--log-file")
            .arg(&self.log)
            .args(options)
            .stdin(Stdio::null());
        command
    }

    /// Takes it down, which uploads everything, and mounts it again: nothing is remembered.
    pub fn remount(&mut self, options: &[&str]) {
        self.unmount();
        self.mount(options);
    }

    /// # Panics
    /// If the daemon did not end well.
    pub fn unmount(&mut self) {
        const IN_USE: Option<i32> = Some(15);
        let mut tries = 0;
        let output = loop {
            let output = Command::new(PROGRAM)
                .arg("umount")
                .arg(&self.mountpoint)
                .stdin(Stdio::null())
                .output()
                .unwrap();
            // Another test's thread may be between fork and exec, with our descriptors as its own.
            tries += 1;
            if output.status.code() != IN_USE || tries == 5 {
                break output;
            }
        };
        assert!(
            output.status.success(),
            "{}{}",
            String::from_utf8_lossy(&output.stderr),
            self.log()
        );
        self.up = false;
    }

    /// Takes it down, whatever that says: the exit code and the message.
    pub fn try_unmount(&mut self, options: &[&str]) -> (Option<i32>, String) {
        let output = Command::new(PROGRAM)
            .arg("umount")
            .arg(&self.mountpoint)
            .args(options)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        self.up = self.is_mounted();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), text)
    }

    pub fn is_mounted(&self) -> bool {
        let path = format!(" {} ", self.mountpoint.display());
        fs::read_to_string("/proc/self/mountinfo")
            .unwrap()
            .contains(&path)
    }

    /// Ends the daemon as a crash would, and cleans up what is left of the mount.
    pub fn kill(&mut self) {
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let of_ours = |part: &[u8]| part == self.mountpoint.as_os_str().as_bytes();
            if line.starts_with(PROGRAM.as_bytes())
                && line.split(|byte| *byte == 0).any(of_ours)
                && let Ok(pid) = entry.file_name().to_string_lossy().parse()
            {
                let pid = nix::unistd::Pid::from_raw(pid);
                let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
            }
        }
        eventually("the daemon is gone", || {
            fs::metadata(&self.mountpoint)
                .is_err_and(|error| error.raw_os_error() == Some(libc::ENOTCONN))
        });
        self.try_unmount(&["--lazy"]);
        self.up = false;
    }

    /// Mounts again what was taken down or killed.
    pub fn start_again(&mut self, options: &[&str]) {
        self.mount(options);
    }

    /// The server's.
    pub fn instruments(&self) -> &Arc<Instruments> {
        let service = self.place.service.as_ref().expect("a served mount");
        service.server.instruments()
    }

    /// The bucket as another client, one that knows nothing of files, sees it.
    pub fn bucket(&self) -> Bucket {
        let folder = self.mountpoint.parent().unwrap().join("bucket");
        let store = LocalStore::open(&folder, Settings { sync: false }).unwrap();
        Bucket(store, Runtime::new().unwrap())
    }

    pub fn root(&self) -> &Path {
        &self.mountpoint
    }

    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.mountpoint.join(name)
    }

    /// A folder beside the mount, on a local disk.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.mountpoint.parent().unwrap().join(name)
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

/// A bucket's objects.
pub struct Bucket(LocalStore, Runtime);

impl Bucket {
    pub fn keys(&self) -> Vec<String> {
        let listed = self
            .1
            .block_on(self.0.list(&ListRequest::default()))
            .unwrap();
        listed
            .objects
            .into_iter()
            .map(|object| object.key)
            .collect()
    }

    pub fn head(&self, key: &str) -> ObjectMeta {
        let key = ObjectKey::new(key).unwrap();
        self.1.block_on(self.0.head(&key)).unwrap()
    }

    pub fn put(&self, key: &str, text: &str) {
        self.put_with(key, &ObjectHeaders::default(), text.as_bytes());
    }

    pub fn put_with(&self, key: &str, headers: &ObjectHeaders, bytes: &[u8]) {
        let key = ObjectKey::new(key).unwrap();
        let body = Body::from_bytes(bytes::Bytes::copy_from_slice(bytes));
        let put = self.0.put(&key, headers, body, Overwrite::Allowed);
        self.1.block_on(put).unwrap();
    }

    /// What is stored: ciphertext, of what mounts write.
    pub fn get(&self, key: &str) -> Vec<u8> {
        let key = ObjectKey::new(key).unwrap();
        self.1.block_on(async {
            let answer = self.0.get(&key, None, None).await.unwrap();
            let pieces: Vec<bytes::Bytes> = answer.body.try_collect().await.unwrap();
            pieces.concat()
        })
    }

    pub fn delete(&self, key: &str) {
        let key = ObjectKey::new(key).unwrap();
        self.1.block_on(self.0.delete(&key)).unwrap();
    }
}

/// Waits for what happens in another process.
#[track_caller]
pub fn eventually(what: &str, mut happens: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(15);
    while !happens() {
        assert!(Instant::now() < deadline, "not within 15 s: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.log());
            if self.up {
                let _ = Command::new(PROGRAM)
                    .args(["umount", "--lazy"])
                    .arg(&self.mountpoint)
                    .output();
            }
            return;
        }
        if self.up {
            self.unmount();
        }
        let log = self.log();
        assert!(!log.contains("panic"), "{log}");
    }
}

/// Runs a shell line in a folder.
///
/// # Panics
/// With what it printed, if it fails.
#[track_caller]
pub fn shell(folder: &Path, line: &str) -> String {
    let output = Command::new("sh")
        .args(["-euc", line])
        .current_dir(folder)
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{line}\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// The same, as an ordinary user. Whether it succeeded, and what it printed.
pub fn shell_as(uid: u32, folder: &Path, line: &str) -> (bool, String) {
    use std::os::unix::process::CommandExt;
    let output = Command::new("sh")
        .args(["-euc", line])
        .current_dir(folder)
        .env("LC_ALL", "C.UTF-8")
        .uid(uid)
        .gid(uid)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    (
        output.status.success(),
        String::from_utf8_lossy(&text).into_owned(),
    )
}

/// The number of an error, as libc has it.
#[track_caller]
pub fn errno<T>(result: io::Result<T>) -> i32 {
    match result {
        Ok(_) => panic!("succeeded"),
        Err(error) => error.raw_os_error().expect("an error of the system"),
    }
}

/// What a system call returned.
pub fn checked(result: libc::c_int) -> io::Result<libc::c_int> {
    match result {
        -1 => Err(io::Error::last_os_error()),
        value => Ok(value),
    }
}

pub fn c_path(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).unwrap()
}

pub fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Permission bits, set-id and sticky ones included.
#[track_caller]
pub fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::MetadataExt;
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

/// Names in a directory, sorted.
#[track_caller]
pub fn names(path: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(path)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Bytes that say where they are.
pub fn pattern(len: usize, seed: u32) -> Vec<u8> {
    (0..len as u32)
        .map(|at| (at.wrapping_mul(2_654_435_761).wrapping_add(seed) >> 13) as u8)
        .collect()
}
