//! A bucket behind a server in this process, and mounts of it, each a process of its own.
//!
//! Tests act on the mounts as programs do, and look at the bucket, the counts and the faults from behind.
//! A rig checks at its end that nothing is left over: no unfinished uploads, no staged files, no mounts.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::IntoRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use futures_util::TryStreamExt;
use ossvault::server::endpoint::Server;
use ossvault::server::instruments::{Counts, Fault, Instruments};
use ossvault::server::state::Config;
use ossvault::store::local::LocalStore;
use ossvault::store::object_store::{ListRequest, ObjectKey, ObjectStore};
use tokio::runtime::Runtime;

/// The bucket's name.
pub const BUCKET: &str = "bucket";

/// What a mount may take to serve, and to end when nothing is wrong.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Rig {
    folder: tempfile::TempDir,
    runtime: Runtime,
    server: Server,
    pub store: LocalStore,
}

/// False, with the reason printed, where nothing can be mounted. REQUIRE_FUSE makes that a failure.
pub fn can_mount() -> bool {
    let lacking = if !Path::new("/dev/fuse").exists() {
        Some("no /dev/fuse")
    } else if !nix::unistd::geteuid().is_root() && !has("fusermount3") {
        Some("no fusermount3")
    } else {
        None
    };
    lacking.is_none_or(skip)
}

/// False, with the reason printed, where a program is missing.
pub fn has_program(program: &str) -> bool {
    has(program) || skip(&format!("no {program}"))
}

fn skip(reason: &str) -> bool {
    let required = std::env::var_os("REQUIRE_FUSE").is_some_and(|value| !value.is_empty());
    assert!(!required, "REQUIRE_FUSE is set, and there is {reason}");
    eprintln!("skipped: {reason}");
    false
}

fn has(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// The key pair that all rigs use, made once.
fn key_pair() -> &'static (Vec<u8>, Vec<u8>) {
    static KEYS: OnceLock<(Vec<u8>, Vec<u8>)> = OnceLock::new();
    KEYS.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let key = folder.path().join("key");
        let made = Command::new(env!("CARGO_BIN_EXE_ossvault"))
            .args(["keygen", "--no-passphrase", "--bits", "2048"])
            .arg(&key)
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        let public = fs::read(folder.path().join("key.pub")).unwrap();
        (fs::read(&key).unwrap(), public)
    })
}

impl Rig {
    pub fn new() -> Rig {
        Rig::with(|_| ())
    }

    /// With another server than usual.
    pub fn with(change: impl FnOnce(&mut Config)) -> Rig {
        let folder = tempfile::tempdir().unwrap();
        let runtime = Runtime::new().unwrap();
        let (private, public) = key_pair();
        let key = folder.path().join("key");
        let mut options = File::options();
        options.create_new(true).write(true).mode(0o600);
        options.open(&key).unwrap().write_all(private).unwrap();
        fs::write(folder.path().join("key.pub"), public).unwrap();
        let mut config = Config::new(folder.path().join("buckets"));
        change(&mut config);
        let server = runtime.block_on(Server::start(config)).unwrap();
        let store = server.create_bucket(BUCKET).unwrap();
        Rig {
            folder,
            runtime,
            server,
            store,
        }
    }

    /// A path beside buckets and mounts.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().canonicalize().unwrap().join(name)
    }

    pub fn key(&self) -> PathBuf {
        self.path("key")
    }

    pub fn endpoint(&self) -> String {
        self.server.endpoint()
    }

    pub fn instruments(&self) -> &Instruments {
        self.server.instruments()
    }

    pub fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    /// Mounts the bucket on a folder of this name, through the server.
    pub fn mount(&self, name: &str, options: &[&str]) -> Mount {
        self.mount_source(name, &format!("oss://{BUCKET}"), options)
    }

    pub fn mount_source(&self, name: &str, source: &str, options: &[&str]) -> Mount {
        let key = self.key();
        let key = ["--private-key", key.to_str().unwrap()];
        self.mount_with_keys(name, source, &key, options)
    }

    /// With these options for the keys and no others.
    pub fn mount_with_keys(
        &self,
        name: &str,
        source: &str,
        keys: &[&str],
        options: &[&str],
    ) -> Mount {
        let path = self.path(name);
        fs::create_dir_all(&path).unwrap();
        let cache = self.path(&format!("cache-{name}"));
        let log = self.path(&format!("log-{name}"));
        let errors = File::options()
            .create(true)
            .append(true)
            .open(self.path(&format!("errors-{name}")))
            .unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_ossvault"));
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("OSS") || text == "RUST_LOG" {
                command.env_remove(&name);
            }
        }
        command
            .args(["mount", source])
            .arg(&path)
            .args(["--foreground", "--endpoint", &self.endpoint()])
            .args(keys)
            .arg("--cache-dir")
            .arg(&cache)
            .arg("--log-file")
            .arg(&log)
            .args(options)
            .env("OSS_ACCESS_KEY_ID", "test")
            .env("OSS_ACCESS_KEY_SECRET", "test")
            .env("XDG_STATE_HOME", self.path("state"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(errors);
        let child = command.spawn().unwrap();
        let mut mount = Mount {
            child: Some(child),
            path,
            cache,
            log,
            errors: self.path(&format!("errors-{name}")),
        };
        let deadline = Instant::now() + PATIENCE;
        while !mount.serves() {
            let ended = mount.child.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none(), "{ended:?}: {}", mount.messages());
            assert!(Instant::now() < deadline, "no mount after {PATIENCE:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
        mount
    }

    /// What the server is asked while this runs, and until it is asked no more.
    pub fn requests(&self, work: impl FnOnce()) -> Counts {
        self.settle();
        self.instruments().reset_counts();
        work();
        self.settle();
        self.instruments().counts()
    }

    /// Waits until nothing is asked of the server any more.
    pub fn settle(&self) {
        const QUIET: Duration = Duration::from_millis(60);
        let mut before = self.instruments().counts().total();
        loop {
            std::thread::sleep(QUIET + 2 * self.instruments().latency());
            let now = self.instruments().counts().total();
            if now == before {
                return;
            }
            before = now;
        }
    }

    /// Waits for what follows a call within moments.
    pub fn settle_short(&self) {
        std::thread::sleep(Duration::from_millis(20));
    }

    pub fn fault(&self, fault: Fault) {
        self.instruments().add_fault(fault);
    }

    /// All keys in the bucket, in order.
    pub fn keys(&self) -> Vec<String> {
        self.block_on(async {
            let mut request = ListRequest::default();
            let mut keys = Vec::new();
            loop {
                let page = self.store.list(&request).await.unwrap();
                keys.extend(page.objects.into_iter().map(|object| object.key));
                match page.next {
                    Some(token) => request.token = Some(token),
                    None => return keys,
                }
            }
        })
    }

    /// An object's bytes, as the bucket has them.
    pub fn ciphertext(&self, key: &str) -> Vec<u8> {
        let key = ObjectKey::new(key).unwrap();
        self.block_on(async {
            let answer = self.store.get(&key, None, None).await.unwrap();
            let pieces: Vec<bytes::Bytes> = answer.body.try_collect().await.unwrap();
            pieces.concat()
        })
    }

    /// Every file in the folder that is the bucket, with its path.
    pub fn bucket_files(&self) -> Vec<PathBuf> {
        let mut files = Vec::new();
        walk(self.store.folder(), &mut files);
        files
    }

    /// Nothing unfinished is in the bucket. Aborts run after the call they belong to: they get a while.
    #[track_caller]
    pub fn assert_no_unfinished_uploads(&self) {
        eventually("no unfinished uploads", || self.unfinished_uploads() == 0);
    }

    pub fn unfinished_uploads(&self) -> usize {
        self.block_on(self.store.list_uploads("")).unwrap().len()
    }
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => walk(&path, files),
            Ok(kind) if kind.is_file() => files.push(path),
            _ => {}
        }
    }
}

/// A mount; it is taken down when this is dropped.
pub struct Mount {
    child: Option<Child>,
    pub path: PathBuf,
    pub cache: PathBuf,
    pub log: PathBuf,
    errors: PathBuf,
}

/// How a mount's process ended.
pub struct Ended {
    pub code: Option<i32>,
    /// What it wrote to stderr.
    pub messages: String,
}

impl Mount {
    fn serves(&self) -> bool {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        mounts.contains(&format!(" {} ", self.path.display()))
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("runs").id()
    }

    pub fn messages(&self) -> String {
        fs::read_to_string(&self.errors).unwrap_or_default()
    }

    /// The most memory the process had resident since it began, in bytes.
    pub fn peak_memory(&self) -> u64 {
        self.status_bytes("VmHWM:")
    }

    fn status_bytes(&self, name: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kilobytes = line.unwrap().trim().trim_end_matches(" kB");
        kilobytes.parse::<u64>().unwrap() << 10
    }

    /// What its descriptors lead to; None where we may not look.
    pub fn descriptors(&self) -> Option<Vec<PathBuf>> {
        let entries = fs::read_dir(format!("/proc/{}/fd", self.pid())).ok()?;
        entries
            .map(|entry| fs::read_link(entry.ok()?.path()).ok())
            .collect()
    }

    /// Open files in the cache directory: nameless, so that only descriptors lead to them.
    pub fn spilled(&self) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(format!("/proc/{}/fd", self.pid())) else {
            return Vec::new();
        };
        let open = entries.flatten().map(|entry| entry.path());
        open.filter(|path| fs::read_link(path).is_ok_and(|target| target.starts_with(&self.cache)))
            .collect()
    }

    /// Asks it to end, as a service manager does, and waits.
    pub fn end(mut self) -> Ended {
        let child = self.child.take().expect("runs");
        signal(&child, nix::sys::signal::Signal::SIGTERM);
        let code = wait(child, PATIENCE).expect("it ends when it is asked to");
        let ended = Ended {
            code,
            messages: self.messages(),
        };
        assert!(!self.serves(), "still mounted: {}", self.path.display());
        if code == Some(0) {
            let mut left = Vec::new();
            walk(&self.cache, &mut left);
            left.retain(|path| fs::metadata(path).is_ok_and(|meta| meta.len() > 0));
            assert!(left.is_empty(), "left in the cache directory: {left:?}");
        }
        ended
    }

    /// Ends it, with everything uploaded.
    #[track_caller]
    pub fn end_well(self) {
        let ended = self.end();
        assert_eq!(ended.code, Some(0), "{}", ended.messages);
    }

    /// As a power cut would.
    pub fn kill(mut self) {
        self.kill_now();
    }

    fn kill_now(&mut self) {
        if let Some(child) = self.child.take() {
            signal(&child, nix::sys::signal::Signal::SIGKILL);
            wait(child, PATIENCE);
        }
        if self.serves() {
            let _ = Command::new(env!("CARGO_BIN_EXE_ossvault"))
                .args(["umount", "--lazy"])
                .arg(&self.path)
                .output();
        }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        self.kill_now();
    }
}

fn signal(child: &Child, signal: nix::sys::signal::Signal) {
    let pid = nix::unistd::Pid::from_raw(child.id() as i32);
    let _ = nix::sys::signal::kill(pid, signal);
}

/// The exit code; none of either after that long.
fn wait(mut child: Child, patience: Duration) -> Option<Option<i32>> {
    let deadline = Instant::now() + patience;
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status.code());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let _ = child.kill();
    let _ = child.wait();
    None
}

/// Waits for what happens elsewhere.
#[track_caller]
pub fn eventually(what: &str, mut happens: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !happens() {
        assert!(Instant::now() < deadline, "not within 20 s: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Runs a script, which finds the mount in `$MNT`.
#[track_caller]
pub fn shell(mount: &Path, script: &str) -> String {
    let output = Command::new("bash")
        .args(["-euc", script])
        .env("MNT", mount)
        .env("LC_ALL", "C")
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// Closes a file and says how that went, which dropping it does not.
pub fn close(file: File) -> io::Result<()> {
    Ok(nix::unistd::close(file.into_raw_fd())?)
}

/// Writes a file and returns what close returns.
pub fn write_and_close(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(content)?;
    close(file)
}

pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    File::open(path)?.read_to_end(&mut content)?;
    Ok(content)
}

/// Bytes that look random and are the same each time.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut content = Vec::with_capacity(len + 8);
    while content.len() < len {
        // xorshift
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        content.extend_from_slice(&state.to_le_bytes());
    }
    content.truncate(len);
    content
}

/// Everything below a folder: what it is, its mode, and its content or target.
pub fn tree(root: &Path) -> BTreeMap<PathBuf, (String, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let meta = fs::symlink_metadata(&path).unwrap();
            let mode = meta.mode();
            let content = if meta.is_dir() {
                folders.push(path.clone());
                Vec::new()
            } else if meta.is_symlink() {
                let target = fs::read_link(&path).unwrap();
                target.into_os_string().into_encoded_bytes()
            } else {
                read(&path).unwrap()
            };
            let name = path.strip_prefix(root).unwrap().to_owned();
            found.insert(name, (format!("{mode:o}"), content));
        }
    }
    found
}

/// Fails with the first few differences of two trees, without their contents.
#[track_caller]
pub fn assert_same_tree(found: &Path, expected: &Path) {
    let (found, expected) = (tree(found), tree(expected));
    let mut differences = Vec::new();
    for (name, (mode, content)) in &expected {
        match found.get(name) {
            None => differences.push(format!("{} is missing", name.display())),
            Some((found_mode, _)) if found_mode != mode => {
                differences.push(format!(
                    "{} has mode {found_mode}, not {mode}",
                    name.display()
                ));
            }
            Some((_, found)) if found != content => differences.push(format!(
                "{} has {} other bytes than the expected {}",
                name.display(),
                found.len(),
                content.len()
            )),
            Some(_) => {}
        }
    }
    let unexpected = found.keys().filter(|name| !expected.contains_key(*name));
    differences.extend(unexpected.map(|name| format!("{} should not be there", name.display())));
    differences.truncate(10);
    assert!(differences.is_empty(), "{differences:#?}");
}
