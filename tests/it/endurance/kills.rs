//! Mounts that are killed.

use super::*;

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
