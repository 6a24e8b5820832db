//! Many operations at once, for a long time, and interrupted: the result is what a local disk would hold,
//! complete.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::stream::{self, StreamExt};
use ossvault::server::operation::Operation::ListObjectsV2;
use ossvault::store::object_store::{Body, ObjectHeaders, ObjectKey, ObjectStore, Overwrite};

use crate::counts::{rsync, rsync_differences};
use crate::fixture::{
    Rig, assert_same_tree, can_mount, close, eventually, has_program, noise, read, write_and_close,
};

// ---- one large directory ----

#[test]
fn a_hundred_thousand_names_are_listed_as_they_come_and_in_little_memory() {
    if !can_mount() {
        return;
    }
    const NAMES: usize = 100_000;
    let rig = Rig::new();
    rig.block_on(async {
        let put = async |at: usize| {
            let key = ObjectKey::new(format!("{at:06} {}", "n".repeat(50))).unwrap();
            let headers = ObjectHeaders::default();
            let put = rig
                .store
                .put(&key, &headers, Body::empty(), Overwrite::Allowed);
            put.await.unwrap();
        };
        stream::iter(0..NAMES)
            .map(put)
            .buffer_unordered(8)
            .for_each(async |()| ())
            .await;
    });
    let mount = rig.mount("mnt", &["--memory-limit", "48M"]);
    rig.instruments().set_latency(Duration::from_millis(10));
    for round in 0..2 {
        let mut last = String::new();
        let mut count = 0;
        for entry in fs::read_dir(&mount.path).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            assert!(name > last, "{name} after {last}");
            last = name;
            count += 1;
            if count == 1 && round == 0 {
                let pages = rig.instruments().counts().of(ListObjectsV2);
                assert!(pages < 20, "{pages} of 100 pages before the first name");
            }
        }
        assert_eq!(count, NAMES);
    }
    let peak = mount.peak_memory() >> 20;
    println!("{NAMES} names listed twice: at most {peak} MiB resident");
    assert!(peak < 48 + 64, "{peak} MiB resident");
    mount.end_well();
}

// ---- one large file ----

struct LargeFile {
    size: u64,
    memory_limit: &'static str,
    /// In bytes.
    most_resident: u64,
    latency: Duration,
    /// MB/s in each direction, if measured.
    at_least: Option<f64>,
}

#[test]
fn a_file_larger_than_memory_goes_in_and_out_within_the_limit() {
    large_file(&LargeFile {
        size: 300 << 20,
        memory_limit: "32M",
        most_resident: 96 << 20,
        latency: Duration::from_millis(2),
        at_least: None,
    });
}

#[test]
#[ignore = "takes long: scripts/exercise large-file"]
fn three_gib_go_in_and_out_within_192_mib_at_300_mb_a_second() {
    large_file(&LargeFile {
        size: 3 << 30,
        memory_limit: "128M",
        most_resident: 192 << 20,
        latency: Duration::from_millis(20),
        at_least: Some(300.0),
    });
}

/// Content that contains its own position, generated as fast as it is compared.
struct Pattern(Vec<u8>);

impl Pattern {
    const BLOCK: usize = 1 << 20;

    fn new() -> Pattern {
        Pattern(noise(42, Pattern::BLOCK))
    }

    /// The block at `index`: every page of it differs from every other page of the file.
    fn block(&mut self, index: u64) -> &[u8] {
        for (i, page) in self.0.chunks_mut(4096).enumerate() {
            page[..8].copy_from_slice(&(index << 16 | i as u64).to_le_bytes());
        }
        &self.0
    }
}

fn large_file(case: &LargeFile) {
    if !can_mount() {
        return;
    }
    let rig = Rig::new();
    rig.instruments().set_latency(case.latency);
    let options = ["--memory-limit", case.memory_limit];
    let mount = rig.mount("mnt", &options);
    let path = mount.path.join("large");
    let blocks = case.size / Pattern::BLOCK as u64;
    let mut pattern = Pattern::new();
    let rate = |began: Instant| case.size as f64 / 1e6 / began.elapsed().as_secs_f64();

    let began = Instant::now();
    let mut file = File::create_new(&path).unwrap();
    for index in 0..blocks {
        file.write_all(pattern.block(index)).unwrap();
    }
    close(file).unwrap();
    let (into, resident_in) = (rate(began), mount.peak_memory());
    // It has its own attributes by now, through a copy in parts when it is large: it is still the same file.
    let mut first = vec![0; Pattern::BLOCK];
    File::open(&path).unwrap().read_exact(&mut first).unwrap();
    assert!(first == pattern.block(0));
    mount.end_well();
    rig.assert_no_unfinished_uploads();

    let mount = rig.mount("mnt", &options);
    let counts = rig.requests(|| {
        let mut byte = [0];
        let file = File::open(&path).unwrap();
        file.read_exact_at(&mut byte, case.size / 2).unwrap();
        assert_eq!(byte[0], pattern.block(blocks / 2)[0]);
    });
    println!("reading one byte fetched {} bytes", counts.bytes_out);
    assert!(counts.bytes_out <= (1 << 20) + 4096, "{}", counts.bytes_out);

    let began = Instant::now();
    let mut file = File::open(&path).unwrap();
    let mut buffer = vec![0; Pattern::BLOCK];
    for index in 0..blocks {
        file.read_exact(&mut buffer).unwrap();
        assert!(buffer == pattern.block(index), "block {index}");
    }
    assert_eq!(file.read(&mut buffer).unwrap(), 0);
    let (out, resident_out) = (rate(began), mount.peak_memory());
    drop(file);
    mount.end_well();

    println!(
        "{} MiB with --memory-limit {} and {:?} a request: in at {into:.0} MB/s with at most {} MiB resident, out at {out:.0} MB/s with {} MiB",
        case.size >> 20,
        case.memory_limit,
        case.latency,
        resident_in >> 20,
        resident_out >> 20,
    );
    assert!(
        resident_in <= case.most_resident,
        "{resident_in} bytes resident"
    );
    assert!(
        resident_out <= case.most_resident,
        "{resident_out} bytes resident"
    );
    if let Some(at_least) = case.at_least {
        assert!(
            into > at_least && out > at_least,
            "{into:.0} and {out:.0} MB/s"
        );
    }
}

// ---- kill -9 ----

#[test]
fn after_a_kill_in_the_middle_of_a_copy_every_closed_file_is_whole_and_no_partial_one_is_visible() {
    if !can_mount() {
        return;
    }
    for (round, after) in [150, 400, 900].into_iter().enumerate() {
        let rig = Rig::new();
        let mount = rig.mount("mnt", &["--memory-limit", "32M"]);
        rig.instruments().set_latency(Duration::from_millis(5));
        let done = Mutex::new(Vec::new());
        let stop = AtomicBool::new(false);
        // Small files, large ones, replaced ones, and some that are renamed into place, side by side.
        let content = |name: &str| {
            let kind = name.as_bytes()[0];
            let seed = u64::from(kind) << 32 | name[1..].parse::<u64>().unwrap();
            let len = match kind {
                b'l' => 18 << 20,
                _ => 1 + seed as usize % 50_000,
            };
            noise(seed, len)
        };
        std::thread::scope(|scope| {
            for kind in ["s", "l", "t", "r"] {
                let (done, stop, path) = (&done, &stop, &mount.path);
                scope.spawn(move || {
                    for i in 0.. {
                        let name = format!("{kind}{i}");
                        let written = match kind {
                            "t" => write_temporary(path, &name, &content(&name)),
                            "r" => write_and_close(&path.join(&name), b"an older version")
                                .and_then(|()| write_and_close(&path.join(&name), &content(&name))),
                            _ => write_and_close(&path.join(&name), &content(&name)),
                        };
                        if written.is_err() || stop.load(Ordering::Relaxed) {
                            return;
                        }
                        done.lock().unwrap().push(name);
                    }
                });
            }
            std::thread::sleep(Duration::from_millis(after));
            mount_kill(&mount);
            stop.store(true, Ordering::Relaxed);
        });
        mount.kill();
        rig.instruments().set_latency(Duration::ZERO);
        let done = done.into_inner().unwrap();
        let mount = rig.mount("mnt", &[]);
        for name in &done {
            let found =
                read(&mount.path.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert!(found == content(name), "{name} is not whole");
        }
        let mut visible = 0;
        for entry in fs::read_dir(&mount.path).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let found = read(&mount.path.join(&name)).unwrap();
            let whole = match name.strip_prefix('.') {
                // A temporary name that was uploaded after its grace period, complete.
                Some(temporary) => found == content(temporary.split_once('.').unwrap().0),
                None => {
                    found == content(&name)
                        || (name.starts_with('r') && found == b"an older version")
                }
            };
            assert!(
                whole,
                "{name} is visible and not whole: {} bytes",
                found.len()
            );
            visible += 1;
        }
        println!(
            "round {round}: {} files acknowledged, {visible} visible, all whole",
            done.len()
        );
        assert!(!done.is_empty(), "killed before anything was done");
        mount.end_well();
    }
}

/// The process ends at once; what waits for it gets an error.
fn mount_kill(mount: &crate::fixture::rig::Mount) {
    let pid = nix::unistd::Pid::from_raw(mount.pid() as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
}

/// As rsync does.
fn write_temporary(folder: &Path, name: &str, content: &[u8]) -> std::io::Result<()> {
    let temporary = folder.join(format!(".{name}.aB3dE6"));
    let mut file = File::create_new(&temporary)?;
    file.write_all(content)?;
    close(file)?;
    fs::rename(&temporary, folder.join(name))
}

// ---- many processes ----

#[test]
fn ten_thousand_operations_of_sixteen_processes_end_as_on_a_local_disk() {
    many_processes(10_000);
}

#[test]
#[ignore = "takes long: scripts/exercise operations"]
fn a_hundred_thousand_operations_of_sixteen_processes_end_as_on_a_local_disk() {
    many_processes(100_000);
}

const WORKERS: u64 = 16;

/// Directories that all workers work in.
const SHARED: u64 = 8;

fn many_processes(operations: u64) {
    if !can_mount() {
        return;
    }
    let rig = Rig::new();
    let local = rig.path("local");
    let mount = rig.mount("mnt", &["--memory-limit", "64M"]);
    for root in [&local, &mount.path] {
        for i in 0..SHARED {
            fs::create_dir_all(root.join(format!("shared-{i}"))).unwrap();
        }
    }
    run_workers(&local, operations / WORKERS);
    let began = Instant::now();
    run_workers(&mount.path, operations / WORKERS);
    let rate = operations as f64 / began.elapsed().as_secs_f64();
    println!("{operations} operations of {WORKERS} processes: {rate:.0} a second");
    assert_same_tree(&mount.path, &local);
    let resident = mount.peak_memory();
    println!("at most {} MiB resident", resident >> 20);
    assert!(resident <= 128 << 20, "{resident}");
    mount.end_well();
    rig.assert_no_unfinished_uploads();
    let mount = rig.mount("other", &["--metadata-ttl", "0"]);
    assert_same_tree(&mount.path, &local);
    mount.end_well();
}

/// This very program, as `worker` below.
fn run_workers(root: &Path, operations: u64) {
    let program = std::env::current_exe().unwrap();
    let workers: Vec<_> = (0..WORKERS)
        .map(|id| {
            Command::new(&program)
                .args([
                    "--exact",
                    "endurance::worker",
                    "--ignored",
                    "--nocapture",
                    "-q",
                ])
                .env("WORKER_ROOT", root)
                .env("WORKER_ID", id.to_string())
                .env("WORKER_OPERATIONS", operations.to_string())
                .stdout(Stdio::null())
                .spawn()
                .unwrap()
        })
        .collect();
    for mut worker in workers {
        assert!(worker.wait().unwrap().success());
    }
}

#[test]
#[ignore = "one of the processes of many_processes"]
fn worker() {
    let Some(root) = std::env::var_os("WORKER_ROOT") else {
        return;
    };
    let number = |name: &str| std::env::var(name).unwrap().parse::<u64>().unwrap();
    Worker::new(root.into(), number("WORKER_ID")).run(number("WORKER_OPERATIONS"));
}

/// Operates on its own names in shared directories, and checks what it reads.
struct Worker {
    root: PathBuf,
    id: u64,
    state: u64,
    /// Its files, below the root, and their contents.
    files: Vec<PathBuf>,
    contents: HashMap<PathBuf, Vec<u8>>,
    /// Its own directories.
    folders: Vec<PathBuf>,
    made: u64,
}

impl Worker {
    fn new(root: PathBuf, id: u64) -> Worker {
        Worker {
            root,
            id,
            state: (id + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15),
            files: Vec::new(),
            contents: HashMap::new(),
            folders: Vec::new(),
            made: 0,
        }
    }

    fn below(&mut self, most: usize) -> usize {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        (self.state >> 16) as usize % most
    }

    fn run(&mut self, operations: u64) {
        for operation in 0..operations {
            let kind = self.below(100);
            self.step(kind, operation);
        }
    }

    fn step(&mut self, kind: usize, operation: u64) {
        let context = format!("worker {}, operation {operation}, kind {kind}", self.id);
        match kind {
            0..25 => self.create(&context),
            25..40 => self.overwrite(&context),
            40..50 => self.append(&context),
            50..70 => self.check(&context),
            70..80 => self.rename(&context),
            80..90 => self.delete(&context),
            90..93 => self.make_folder(&context),
            93..95 => self.rename_folder(&context),
            95..97 => self.remove_folder(&context),
            _ => self.change_mode(&context),
        }
    }

    /// A new name, in a shared directory or in one of its own.
    fn new_name(&mut self, what: &str) -> PathBuf {
        self.made += 1;
        let own = self.folders.len();
        let folder = match self.below(SHARED as usize + own) {
            i if i < own => self.folders[i].clone(),
            i => PathBuf::from(format!("shared-{}", i - own)),
        };
        folder.join(format!("{what}-{}-{}", self.id, self.made))
    }

    fn content(&mut self) -> Vec<u8> {
        let most = if self.below(20) == 0 { 200_000 } else { 5000 };
        let len = self.below(most);
        noise(self.state, len)
    }

    fn create(&mut self, context: &str) {
        let name = self.new_name("file");
        let content = self.content();
        write_and_close(&self.root.join(&name), &content).expect(context);
        self.files.push(name.clone());
        self.contents.insert(name, content);
    }

    fn any(&mut self) -> Option<PathBuf> {
        if self.files.is_empty() {
            return None;
        }
        let i = self.below(self.files.len());
        Some(self.files[i].clone())
    }

    fn overwrite(&mut self, context: &str) {
        let Some(name) = self.any() else { return };
        let piece = self.content();
        let old = self.contents.get_mut(&name).expect("known");
        let offset = match old.len() {
            0 => 0,
            len => piece.len() % len,
        };
        let file = File::options()
            .write(true)
            .open(self.root.join(&name))
            .expect(context);
        file.write_all_at(&piece, offset as u64).expect(context);
        close(file).expect(context);
        old.resize(old.len().max(offset + piece.len()), 0);
        old[offset..offset + piece.len()].copy_from_slice(&piece);
    }

    fn append(&mut self, context: &str) {
        let Some(name) = self.any() else { return };
        let piece = self.content();
        let mut file = File::options()
            .append(true)
            .open(self.root.join(&name))
            .expect(context);
        file.write_all(&piece).expect(context);
        close(file).expect(context);
        self.contents.get_mut(&name).expect("known").extend(piece);
    }

    fn check(&mut self, context: &str) {
        let Some(name) = self.any() else { return };
        let found = read(&self.root.join(&name)).expect(context);
        assert!(
            found == self.contents[&name],
            "{context}: {}",
            name.display()
        );
    }

    fn rename(&mut self, context: &str) {
        let Some(old) = self.any() else { return };
        // Occasionally over another file of its own.
        let new = match self.below(3) {
            0 => self.any().expect("there is one"),
            _ => self.new_name("file"),
        };
        fs::rename(self.root.join(&old), self.root.join(&new)).expect(context);
        if old != new {
            let content = self.contents.remove(&old).expect("known");
            self.files.retain(|name| *name != old && *name != new);
            self.files.push(new.clone());
            self.contents.insert(new, content);
        }
    }

    fn delete(&mut self, context: &str) {
        let Some(name) = self.any() else { return };
        fs::remove_file(self.root.join(&name)).expect(context);
        assert!(
            !self.root.join(&name).exists(),
            "{context}: {}",
            name.display()
        );
        self.files.retain(|other| *other != name);
        self.contents.remove(&name);
    }

    fn make_folder(&mut self, context: &str) {
        let i = self.below(SHARED as usize);
        self.made += 1;
        let name = PathBuf::from(format!("shared-{i}/folder-{}-{}", self.id, self.made));
        fs::create_dir(self.root.join(&name)).expect(context);
        self.folders.push(name);
    }

    fn rename_folder(&mut self, context: &str) {
        if self.folders.is_empty() {
            return;
        }
        let i = self.below(self.folders.len());
        let old = self.folders[i].clone();
        let shared = self.below(SHARED as usize);
        self.made += 1;
        let new = PathBuf::from(format!("shared-{shared}/folder-{}-{}", self.id, self.made));
        fs::rename(self.root.join(&old), self.root.join(&new)).expect(context);
        self.folders[i] = new.clone();
        for name in &mut self.files {
            if let Ok(rest) = name.strip_prefix(&old) {
                let moved = new.join(rest);
                let content = self.contents.remove(name).expect("known");
                self.contents.insert(moved.clone(), content);
                *name = moved;
            }
        }
    }

    fn remove_folder(&mut self, context: &str) {
        if self.folders.is_empty() {
            return;
        }
        let i = self.below(self.folders.len());
        let folder = self.folders[i].clone();
        let used = self.files.iter().any(|name| name.starts_with(&folder));
        let removed = fs::remove_dir(self.root.join(&folder));
        match used {
            true => {
                let error = removed.expect_err(context);
                assert_eq!(error.raw_os_error(), Some(libc::ENOTEMPTY), "{context}");
            }
            false => {
                removed.expect(context);
                self.folders.swap_remove(i);
            }
        }
    }

    fn change_mode(&mut self, context: &str) {
        let Some(name) = self.any() else { return };
        let mode = [0o600, 0o640, 0o644, 0o755][self.below(4)];
        let path = self.root.join(&name);
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect(context);
    }
}

// ---- two mounts ----

#[test]
fn a_chmod_that_races_a_replacement_on_another_mount_never_breaks_the_file() {
    race(100);
}

#[test]
#[ignore = "takes long: scripts/exercise races"]
fn a_thousand_chmods_that_race_replacements_on_another_mount_never_break_the_file() {
    race(1000);
}

fn race(rounds: u32) {
    if !can_mount() {
        return;
    }
    let rig = Rig::new();
    let one = rig.mount("one", &[]);
    let two = rig.mount("two", &[]);
    let watcher = rig.mount("watcher", &["--metadata-ttl", "0"]);
    let contents = [vec![b'a'; 30_000], vec![b'b'; 20_000]];
    write_and_close(&two.path.join("f"), &contents[0]).unwrap();
    let mut refused = 0;
    for round in 0..rounds {
        let new = &contents[(round as usize + 1) % 2];
        std::thread::scope(|scope| {
            let chmod = scope.spawn(|| {
                let mode = if round % 2 == 0 { 0o600 } else { 0o644 };
                fs::set_permissions(one.path.join("f"), fs::Permissions::from_mode(mode))
            });
            let replacing = scope.spawn(|| write_and_close(&two.path.join("f"), new).unwrap());
            while !(chmod.is_finished() && replacing.is_finished()) {
                // Opening always succeeds.
                let mut file = File::open(watcher.path.join("f")).unwrap();
                let mut found = Vec::new();
                match file.read_to_end(&mut found) {
                    Ok(_) => assert!(contents.contains(&found), "{} other bytes", found.len()),
                    // Replaced between its first and its last byte.
                    Err(error) => assert_eq!(error.raw_os_error(), Some(libc::ESTALE), "{error}"),
                }
            }
            refused += u32::from(chmod.join().unwrap().is_err());
        });
        let found = read(&watcher.path.join("f")).unwrap();
        assert!(found == *new, "round {round}: the replacement is lost");
    }
    println!("{rounds} races: the file was always whole; {refused} chmods were refused");
    for mount in [one, two, watcher] {
        mount.end_well();
    }
}

// ---- plaintext ----

#[test]
fn what_is_written_is_found_nowhere_in_plaintext() {
    if !can_mount() {
        return;
    }
    const MARKER: &[u8] = b"MARKER-of-what-must-stay-secret-MARKER";
    let rig = Rig::new();
    let mount = rig.mount("mnt", &["--memory-limit", "16M", "--verbose"]);
    let secret: Vec<u8> = MARKER.repeat(1 + (1 << 20) / MARKER.len());
    write_and_close(&mount.path.join("small"), MARKER).unwrap();
    symlink(
        std::str::from_utf8(MARKER).unwrap(),
        mount.path.join("link"),
    )
    .unwrap();
    // Out of order, so that nothing can be uploaded before the end: all of it has to be staged.
    let file = File::create(mount.path.join("large")).unwrap();
    for i in (0..60).rev() {
        file.write_all_at(&secret, i * secret.len() as u64).unwrap();
    }
    let spilled = mount.spilled();
    let sizes: Vec<u64> = spilled
        .iter()
        .map(|path| fs::metadata(path).unwrap().len())
        .collect();
    println!("spilled: {sizes:?} bytes");
    if nix::unistd::geteuid().is_root() {
        assert!(
            sizes.iter().any(|size| *size > 20 << 20),
            "nothing was spilled: {sizes:?}"
        );
    }
    let mut searched = 0;
    for path in &spilled {
        searched += assert_lacks(path, MARKER);
    }
    close(file).unwrap();
    assert!(read(&mount.path.join("large")).unwrap().starts_with(MARKER));
    assert_eq!(read(&mount.path.join("small")).unwrap(), MARKER);
    // A failure is logged with its causes.
    let _ = fs::read(mount.path.join("absent"));
    let mut places = rig.bucket_files();
    places.push(mount.log.clone());
    for entry in fs::read_dir(&mount.cache).unwrap() {
        places.push(entry.unwrap().path());
    }
    mount.end_well();
    for path in places.iter().filter(|path| path.is_file()) {
        searched += assert_lacks(path, MARKER);
    }
    println!(
        "searched {} MiB in {} files",
        searched >> 20,
        places.len() + spilled.len()
    );
    assert!(searched > 60 << 20);
}

/// Returns how many bytes were searched.
#[track_caller]
fn assert_lacks(path: &Path, marker: &[u8]) -> u64 {
    let content = read(path).unwrap();
    // A part of it would be enough: a strip may end anywhere.
    let part = &marker[..16];
    let first = part[0];
    let found = content
        .windows(part.len())
        .any(|window| window[0] == first && window == part);
    assert!(!found, "found in {}", path.display());
    content.len() as u64
}

// ---- real trees ----

#[test]
fn a_tree_comes_back_as_it_went_in_with_nothing_but_the_key() {
    if !can_mount() || !has_program("rsync") {
        return;
    }
    let rig = Rig::new();
    let source = rig.path("source");
    make_tree(&source);
    round_trip(
        &rig,
        "oss",
        &format!("oss://{}", crate::fixture::BUCKET),
        &source,
    );
    let folder = rig.path("folder");
    round_trip(
        &rig,
        "file",
        &format!("file://{}", folder.display()),
        &source,
    );
}

#[test]
#[ignore = "takes long: scripts/exercise trees"]
fn usr_include_and_usr_share_doc_come_back_as_they_went_in() {
    if !can_mount() || !has_program("rsync") {
        return;
    }
    let rig = Rig::new();
    let source = rig.path("source");
    fs::create_dir(&source).unwrap();
    for folder in ["include", "share/doc"] {
        let from = Path::new("/usr").join(folder);
        let to = source.join(folder);
        fs::create_dir_all(&to).unwrap();
        rsync(&from, &to, &[]);
    }
    round_trip(
        &rig,
        "oss",
        &format!("oss://{}", crate::fixture::BUCKET),
        &source,
    );
    let folder = rig.path("folder");
    round_trip(
        &rig,
        "file",
        &format!("file://{}", folder.display()),
        &source,
    );
}

/// In with rsync; out through another mount that has an empty cache directory.
fn round_trip(rig: &Rig, name: &str, source: &str, tree: &Path) {
    let mount = rig.mount_source(&format!("in-{name}"), source, &[]);
    let began = Instant::now();
    let counts = rig.requests(|| rsync(tree, &mount.path.join("tree"), &[]));
    println!(
        "{source}: rsync -a took {:.1?}, {:?}",
        began.elapsed(),
        counts.requests
    );
    mount.end_well();
    let options = ["--metadata-ttl", "0"];
    let mount = rig.mount_source(&format!("out-{name}"), source, &options);
    let began = Instant::now();
    assert_eq!(rsync_differences(tree, &mount.path.join("tree")), "");
    println!(
        "{source}: rsync -anc --delete both ways took {:.1?}",
        began.elapsed()
    );
    mount.end_well();
}

/// One of everything that a tree can contain.
fn make_tree(root: &Path) {
    for folder in ["", "empty", "a/b/c", "names", "modes"] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    for i in 0..200 {
        let path = root.join(format!("a/b/{i}"));
        fs::write(&path, noise(i, (i * i) as usize)).unwrap();
    }
    for name in [
        "with space",
        "plus+percent%20",
        "ünïcödé",
        "-dash",
        "#hash?",
        "quote'\"",
        "a\\b",
        "new\nline",
    ] {
        fs::write(root.join("names").join(name), name).unwrap();
    }
    for mode in [
        0o400, 0o444, 0o600, 0o644, 0o700, 0o755, 0o777, 0o4755, 0o2755,
    ] {
        let path = root.join(format!("modes/{mode:o}"));
        fs::write(&path, "x").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }
    fs::write(root.join("a/zero"), "").unwrap();
    fs::write(root.join("a/large"), noise(1, 9 << 20)).unwrap();
    symlink("b/1", root.join("a/link")).unwrap();
    symlink("/nowhere/at/all", root.join("a/dangling")).unwrap();
    symlink("b", root.join("a/to-folder")).unwrap();
    let sticky = fs::Permissions::from_mode(0o1777);
    fs::set_permissions(root.join("empty"), sticky).unwrap();
    let set = |path: &str, seconds: u64| {
        let time = std::time::UNIX_EPOCH + Duration::new(seconds, 123_456_789);
        File::open(root.join(path))
            .unwrap()
            .set_modified(time)
            .unwrap();
    };
    set("a/b/7", 1_000_000_000);
    set("a/zero", 86_400);
    set("a/b", 1_500_000_000);
}

// ---- what is left of a mount that was killed ----

#[test]
fn an_upload_that_a_kill_broke_off_leaves_the_object_as_it_was() {
    if !can_mount() {
        return;
    }
    let rig = Rig::new();
    let mount = rig.mount("mnt", &["--memory-limit", "32M"]);
    let old = noise(1, 1 << 20);
    write_and_close(&mount.path.join("f"), &old).unwrap();
    let mut file = File::create(mount.path.join("f")).unwrap();
    for _ in 0..40 {
        file.write_all(&old).unwrap();
    }
    eventually("parts are on their way", || {
        !rig.block_on(rig.store.list_uploads("")).unwrap().is_empty()
    });
    mount.kill();
    drop(file);
    let mount = rig.mount("mnt", &[]);
    assert!(read(&mount.path.join("f")).unwrap() == old);
    mount.end_well();
    let key = ObjectKey::new("f").unwrap();
    assert_eq!(
        rig.block_on(rig.store.head(&key)).unwrap().size,
        old.len() as u64
    );
}
