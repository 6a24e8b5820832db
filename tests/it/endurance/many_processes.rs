//! Many processes at once on one mount.

use super::*;

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
                    "endurance::many_processes::worker",
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
