//! While one mount reads a file that another replaces, it sees one version of it as a whole: the size, the
//! attributes and the pages that the kernel shows under one inode all belong to that version.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::num::NonZeroUsize;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

use ossvault::files::attributes::Change;
use ossvault::fs::error::Error;
use ossvault::fs::namespace::Ino;
use ossvault::fs::namespace::kernel::KernelCaches;

use crate::fixture::{Rig, bash, can_mount, noise};
use crate::other_writers::{READ, WRITE, block, mounted_with};

/// In bytes: within a page, across pages, below and above what is fetched with a lookup.
const SIZES: [usize; 9] = [40, 80, 6000, 56, 100_000, 4096, 1500, 200_000, 4097];

/// A version contains its own number, and the rest of it belongs to no other version.
fn version(number: u64) -> Vec<u8> {
    // Sizes go up and down, and every pair of them occurs in sequence.
    let turn = number as usize;
    let size = SIZES[(turn * (1 + turn / SIZES.len() % (SIZES.len() - 1))) % SIZES.len()];
    let mut bytes = number.to_le_bytes().to_vec();
    bytes.extend(noise(number + 1, size - bytes.len()));
    bytes
}

/// None if the content is exactly one version; otherwise a description.
fn fault_in(bytes: &[u8]) -> Option<String> {
    let Some(number) = bytes.first_chunk() else {
        return Some(format!("{} bytes", bytes.len()));
    };
    let expected = version(u64::from_le_bytes(*number).min(1 << 32));
    if bytes == expected {
        return None;
    }
    let same = bytes.iter().zip(&expected).take_while(|(a, b)| a == b);
    let (same, zeros) = (same.count(), bytes.iter().rev().take_while(|at| **at == 0));
    Some(format!(
        "{} bytes, of which the first {same} are of a version of {} and the last {} are zeros",
        bytes.len(),
        expected.len(),
        zeros.count()
    ))
}

/// The results of the readers of one mount.
#[derive(Debug, Default)]
struct Seen {
    whole: AtomicU64,
    stale: AtomicU64,
    wrong: Mutex<Vec<String>>,
}

impl Seen {
    /// As printed by the reader in another process.
    fn add_printed(&self, printed: &str) {
        let mut complete = false;
        for line in printed.lines() {
            let number = |rest: &str| rest.parse::<u64>().unwrap();
            if let Some(rest) = line.strip_prefix("whole: ") {
                self.whole.fetch_add(number(rest), Ordering::Relaxed);
            } else if let Some(rest) = line.strip_prefix("stale: ") {
                self.stale.fetch_add(number(rest), Ordering::Relaxed);
                complete = true;
            } else if let Some(rest) = line.strip_prefix("wrong: ") {
                self.wrong.lock().unwrap().push(rest.to_owned());
            }
        }
        assert!(complete, "{printed}");
    }

    fn print(&self) {
        for fault in self.wrong.lock().unwrap().iter() {
            println!("wrong: {fault}");
        }
        println!("whole: {}", self.whole.load(Ordering::Relaxed));
        println!("stale: {}", self.stale.load(Ordering::Relaxed));
    }

    /// Reads repeatedly, until stopped.
    fn poll(
        &self,
        how: &str,
        path: &Path,
        over: &AtomicBool,
        read: impl Fn(&Path) -> io::Result<Vec<u8>>,
    ) {
        while !over.load(Ordering::Relaxed) {
            self.count(how, read(path));
            thread::sleep(Duration::from_micros(300));
        }
    }

    fn count(&self, how: &str, seen: io::Result<Vec<u8>>) {
        match seen {
            Ok(bytes) => match fault_in(&bytes) {
                None => drop(self.whole.fetch_add(1, Ordering::Relaxed)),
                Some(fault) => self.wrong.lock().unwrap().push(format!("{how}: {fault}")),
            },
            Err(error) if error.raw_os_error() == Some(libc::ESTALE) => {
                self.stale.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => self.wrong.lock().unwrap().push(format!("{how}: {error}")),
        }
    }
}

/// Like most programs; requests the size before and after.
fn read_whole(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let before = file.metadata()?.len();
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    let after = file.metadata()?.len();
    let read = bytes.len() as u64;
    if (before, after) != (read, read) {
        return Err(io::Error::other(format!(
            "{read} bytes of a file of {before}, then {after}"
        )));
    }
    Ok(bytes)
}

fn read_by_cat(path: &Path) -> io::Result<Vec<u8>> {
    let output = Command::new("cat").arg(path).env("LC_ALL", "C").output()?;
    let errors = String::from_utf8_lossy(&output.stderr);
    match output.status.success() {
        true => Ok(output.stdout),
        false if errors.contains("Stale file handle") => {
            Err(io::Error::from_raw_os_error(libc::ESTALE))
        }
        false => Err(io::Error::other(errors.into_owned())),
    }
}

/// Reads the pages, as far as the size reaches. A page that cannot be read counts as ESTALE.
fn read_mapped(path: &Path, scratch: &File) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    let Some(len) = NonZeroUsize::new(file.metadata()?.len() as usize) else {
        return Ok(Vec::new());
    };
    let map = unsafe {
        mmap(
            None,
            len,
            ProtFlags::PROT_READ,
            MapFlags::MAP_SHARED,
            &file,
            0,
        )?
    };
    drop(file);
    // The system call reads the pages: if one is missing it fails, and the process gets no signal.
    let mapped = unsafe { std::slice::from_raw_parts(map.as_ptr().cast::<u8>(), len.get()) };
    let copied = scratch.write_at(mapped, 0);
    unsafe { munmap(map, len.get())? };
    let stale = || io::Error::from_raw_os_error(libc::ESTALE);
    let copied = match copied {
        Err(error) if error.raw_os_error() == Some(libc::EFAULT) => return Err(stale()),
        copied => copied?,
    };
    if copied < len.get() {
        return Err(stale());
    }
    let mut bytes = vec![0; copied];
    scratch.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

/// Reads a mapping in a separate process. A process waits for a missing page with its memory's lock held, and
/// so do all of its threads that need memory: the server, which runs in this process, could not serve the
/// page.
struct Mapper(Child);

impl Mapper {
    fn start(path: &Path) -> Mapper {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--nocapture", "--exact"])
            .arg("coherence::the_mapper_in_a_process_of_its_own")
            .env("MAPPED_FILE", path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        Mapper(child.unwrap())
    }

    /// Its output.
    fn stop(mut self) -> String {
        drop(self.0.stdin.take());
        let output = self.0.wait_with_output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }
}

#[test]
#[ignore = "a process of the tests above"]
fn the_mapper_in_a_process_of_its_own() {
    let path = std::env::var_os("MAPPED_FILE").expect("started by a Mapper");
    let seen = Seen::default();
    let scratch = tempfile::tempfile().unwrap();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let _ = io::stdin().read_to_end(&mut Vec::new());
            over.store(true, Ordering::Relaxed);
        });
        seen.poll("mmap", path.as_ref(), &over, |path| {
            read_mapped(path, &scratch)
        });
    });
    seen.print();
}

/// Replaces a file through one mount, in place and by rename, while two others read it, one with the usual
/// TTLs and one with almost none.
fn replace_and_poll(latency: Duration, replacements: u64) {
    if !can_mount() {
        return;
    }
    let rig = Rig::new();
    let writer = rig.mount("writer", &[]);
    let readers = [
        rig.mount("reader", &[]),
        rig.mount("hasty-reader", &["--metadata-ttl", "100ms"]),
    ];
    fs::write(writer.path.join("f"), version(0)).unwrap();
    rig.instruments().set_latency(latency);
    let seen = [Seen::default(), Seen::default()];
    let (over, failed) = (AtomicBool::new(false), OnceLock::new());
    let began = Instant::now();
    thread::scope(|scope| {
        for (mount, seen) in readers.iter().zip(&seen) {
            let (path, over) = (mount.path.join("f"), &over);
            let by_cat = path.clone();
            let mapper = Mapper::start(&path);
            scope.spawn(move || seen.poll("read", &path, over, read_whole));
            scope.spawn(move || {
                seen.poll("cat", &by_cat, over, read_by_cat);
                seen.add_printed(&mapper.stop());
            });
        }
        for number in 1..=replacements {
            let (path, aside) = (writer.path.join("f"), writer.path.join("new"));
            let written = match number % 2 {
                0 => fs::write(&path, version(number)),
                _ => fs::write(&aside, version(number)).and_then(|()| fs::rename(&aside, &path)),
            };
            if let Err(error) = written {
                let _ = failed.set(error);
                break;
            }
            // Not in step with the readers, and occasionally with a pause long enough for all of them to see
            // the version.
            let pause = if number % 16 == 0 {
                60_000
            } else {
                700 * (number % 8)
            };
            thread::sleep(Duration::from_micros(pause));
        }
        over.store(true, Ordering::Relaxed);
    });
    assert!(failed.get().is_none(), "{failed:?}");
    let took = began.elapsed().as_secs();
    for (mount, seen) in ["a TTL of 1 s", "a TTL of 100 ms"].iter().zip(&seen) {
        let wrong = seen.wrong.lock().unwrap();
        println!(
            "{mount}, requests of {latency:?}: {replacements} replacements in {took} s, {:?} read whole, {:?} \
             refused as stale, {} wrong",
            seen.whole,
            seen.stale,
            wrong.len()
        );
    }
    for seen in &seen {
        let wrong = seen.wrong.lock().unwrap();
        let some: Vec<_> = wrong.iter().take(10).collect();
        assert!(wrong.is_empty(), "{} wrong: {some:#?}", wrong.len());
        assert!(seen.whole.load(Ordering::Relaxed) > 0, "nothing was read");
    }
}

#[test]
fn a_file_that_another_mount_replaces_is_read_whole_or_not_at_all() {
    replace_and_poll(Duration::ZERO, 400);
}

/// OSSVAULT_REPLACEMENTS sets the number of replacements per latency; the default is 10,000.
#[test]
#[ignore = "takes minutes; scripts/exercise runs it"]
fn ten_thousand_replacements_are_read_whole_or_not_at_all() {
    let wanted = std::env::var("OSSVAULT_REPLACEMENTS");
    let replacements = wanted.map_or(10_000, |wanted| wanted.parse().expect("a number"));
    for latency in [Duration::ZERO, Duration::from_millis(20)] {
        replace_and_poll(latency, replacements);
    }
}

// ---- what an inode stands for ----

/// The TTL in the tests below: longer than the tests.
const LONG: Duration = Duration::from_secs(3600);

/// "A file that another client has replaced gets a new inode number."
///
/// Regression: an inode that was not open took another version's size, while the kernel had the old one's
/// pages.
#[test]
fn a_name_that_another_client_replaced_gets_a_new_inode_even_if_it_is_not_open() {
    block(async {
        let (world, kernel) = mounted_with(|_| ()).await;
        world.others.put("a", b"old").await;
        let old = kernel.look("a").await;
        world.others.put("a", b"a new one").await;
        // Detected by the open itself: the kernel looks the name up, and opens what it finds.
        let opened = kernel.fs.open(old.ino, READ).await;
        assert!(matches!(opened, Err(Error::Stale)), "{opened:?}");
        let new = kernel.look("a").await;
        assert_ne!(new.ino, old.ino);
        assert_eq!(new.size, 9);
        assert_eq!(kernel.load("a").await, b"a new one");
        // Nothing else applies to the previous object of the name either.
        let looked = kernel.fs.getattr(old.ino).await;
        assert!(matches!(looked, Err(Error::Stale)), "{looked:?}");
        let change = Change {
            mode: Some(0o600),
            ..Change::default()
        };
        let changed = kernel.fs.setattr(old.ino, None, change).await;
        assert!(matches!(changed, Err(Error::Stale)), "{changed:?}");
        let cut = kernel.fs.setattr(old.ino, Some(1), Change::default()).await;
        assert!(matches!(cut, Err(Error::Stale)), "{cut:?}");
        assert_eq!(kernel.look("a").await, new);
    });
}

/// A change by this mount creates the next version of the same inode.
#[test]
fn writing_renaming_and_changing_attributes_here_keeps_the_inode() {
    block(async {
        let part = crate::world::PART as usize;
        let (_world, kernel) =
            mounted_with(|world| world.settings.uploads.copy_limit = 1 << 20).await;
        kernel.mkdir("d").await;
        // Copies of objects that were uploaded in parts have different ETags from their sources.
        for size in [5, 5 * part] {
            let bytes = noise(size as u64, size);
            kernel.save("d/a", &bytes).await;
            let ino = kernel.look("d/a").await.ino;
            let mode = Change {
                mode: Some(0o600),
                ..Change::default()
            };
            kernel.fs.setattr(ino, None, mode).await.unwrap();
            assert_eq!(kernel.look("d/a").await.ino, ino);
            kernel.rename("d/a", "d/b").await.unwrap();
            assert_eq!(kernel.look("d/b").await.ino, ino);
            kernel.rename("d", "e").await.unwrap();
            assert_eq!(kernel.look("e/b").await.ino, ino);
            let handle = kernel.open("e/b", WRITE).await;
            kernel.write(handle, 0, b"x").await.unwrap();
            kernel.close(handle).await.unwrap();
            let looks = kernel.look("e/b").await;
            assert_eq!((looks.ino, looks.size), (ino, size as u64));
            kernel.unlink("e/b").await.unwrap();
            kernel.rename("e", "d").await.unwrap();
        }
    });
}

/// A mapping is as long as the size that was reported, whatever exists when its pages are read.
#[test]
fn a_descriptor_switches_to_a_version_of_another_size_only_if_no_size_was_reported() {
    for (new, told, moves) in [
        (&b"of the same size"[..], true, true),
        (b"one of another size", true, false),
        (b"one of another size", false, true),
        (b"shorter", true, false),
        (b"shorter", false, true),
    ] {
        block(async {
            let ttl = if told { LONG } else { Duration::ZERO };
            let (world, kernel) = mounted_with(|world| world.settings.metadata_ttl = ttl).await;
            let expired = Arc::new(Mutex::new(Vec::<Ino>::new()));
            let note = expired.clone();
            kernel.fs.set_kernel_caches(KernelCaches {
                expire_attributes: Arc::new(move |ino| note.lock().unwrap().push(ino)),
                drop_pages: Arc::new(|_, _| ()),
            });
            world.others.put("a", b"the old version.").await;
            let ino = kernel.look("a").await.ino;
            let handle = kernel.open("a", READ).await;
            world.others.put("a", new).await;
            let read = kernel.fs.read(handle, 0, 100).await;
            if moves {
                assert_eq!(read.unwrap(), new);
                assert_eq!(
                    *expired.lock().unwrap(),
                    [ino],
                    "before the read was answered"
                );
            } else {
                assert!(matches!(read, Err(Error::Stale)), "{read:?}");
            }
            kernel.close(handle).await.unwrap();
            // Either way, the mount has noticed.
            assert_eq!(kernel.load("a").await, new);
            assert_eq!(kernel.look("a").await.size, new.len() as u64);
        });
    }
}

/// The kernel's eviction of an inode waits for reads of its pages, and the expiry of attributes waits for the
/// eviction.
///
/// Regression: a thread of the runtime waited for it, so neither that read nor the thread's other work was
/// ever finished.
#[test]
fn a_read_is_answered_while_the_kernel_evicts_the_inode() {
    block(async {
        let (world, kernel) = mounted_with(|_| ()).await;
        let (answered, evicted) = std::sync::mpsc::channel::<()>();
        let evicted = Mutex::new(evicted);
        kernel.fs.set_kernel_caches(KernelCaches {
            expire_attributes: Arc::new(move |_| evicted.lock().unwrap().recv().unwrap()),
            drop_pages: Arc::new(|_, _| ()),
        });
        world.others.put("a", b"old").await;
        let handle = kernel.open("a", READ).await;
        world.others.put("a", b"new").await;
        let read = tokio::time::timeout(Duration::from_secs(20), kernel.fs.read(handle, 0, 100));
        let read = read.await.expect("an answer");
        answered.send(()).unwrap();
        assert!(matches!(read, Err(Error::Stale)), "{read:?}");
        kernel.close(handle).await.unwrap();
        assert_eq!(kernel.load("a").await, b"new");
    });
}

// ---- what a refused read leaves behind ----

/// "The next `open()` finds the new version."
///
/// Regression: every new open was served the old version, and then refused when it was read, until the TTL
/// had expired.
#[test]
fn after_a_refused_read_every_new_open_serves_the_new_version() {
    if !can_mount() {
        return;
    }
    let rig = Rig::new();
    let writer = rig.mount("writer", &[]);
    let reader = rig.mount("reader", &["--metadata-ttl", "1h", "--memory-limit", "32M"]);
    let write = |fill: u8, size: usize| {
        fs::write(writer.path.join("f"), vec![fill; size]).unwrap();
    };
    write(b'o', 64 << 20);
    // Pages of the beginning stay in the kernel's cache.
    for _ in 0..2 {
        bash(&reader.path, "head -c 1000 $MNT/f | tail -c 1");
    }
    for (round, size) in [64 << 20, 65 << 20, 63 << 20].into_iter().enumerate() {
        let fill = b'a' + round as u8;
        write(fill, size);
        // Where no page belongs to the previous version.
        let at = (16 * (round + 1)) << 20;
        let read = || {
            let mut bytes = [0; 10];
            let file = File::open(reader.path.join("f"))?;
            file.read_exact_at(&mut bytes, at as u64).map(|()| bytes)
        };
        match read() {
            // Pages elsewhere belong to the old version.
            Err(error) => assert_eq!(error.raw_os_error(), Some(libc::ESTALE)),
            Ok(bytes) => assert_eq!(bytes, [fill; 10]),
        }
        for _ in 0..5 {
            assert_eq!(read().unwrap(), [fill; 10]);
        }
        let looked = fs::metadata(reader.path.join("f")).unwrap().len();
        assert_eq!(looked, size as u64);
    }
}

/// "Data that was only appended, by a program that does not read the file, is appended to the other
/// client's version."
///
/// Regression: when two mounts appended in turn, every other append failed.
#[test]
fn mounts_that_append_in_turn_lose_nothing() {
    if !can_mount() {
        return;
    }
    let rig = Rig::new();
    // A file larger than a part is not completely cached when it is appended to.
    let options = ["--part-size", "128K"];
    let mounts = [rig.mount("one", &options), rig.mount("other", &options)];
    for (name, base) in [("small", 0), ("large", 300_000)] {
        let mut expected = "b".repeat(base);
        fs::write(mounts[0].path.join(name), &expected).unwrap();
        // The other mount's cached negative entries.
        thread::sleep(Duration::from_millis(1100));
        for pause in [0, 50, 300, 1100] {
            for turn in 0..10 {
                let line = format!("{turn} after {pause} ms {}\n", "x".repeat(turn * 700));
                let path = mounts[turn % 2].path.join(name);
                let mut log = OpenOptions::new().append(true).open(path).unwrap();
                io::Write::write_all(&mut log, line.as_bytes()).unwrap();
                crate::fixture::close(log).unwrap();
                expected += &line;
                thread::sleep(Duration::from_millis(pause));
            }
        }
        thread::sleep(Duration::from_millis(1100));
        for mount in &mounts {
            let log = fs::read_to_string(mount.path.join(name)).unwrap();
            assert!(
                log == expected,
                "{name}: {} bytes of {}",
                log.len(),
                expected.len()
            );
        }
    }
}

// ---- direct I/O ----

/// The kernel's asynchronous I/O, through its system calls.
struct Aio(libc::c_ulong);

/// struct iocb, of 64 bytes.
#[repr(C)]
#[derive(Default)]
struct Iocb {
    data: u64,
    key: u32,
    flags: u32,
    opcode: u16,
    priority: i16,
    descriptor: u32,
    buffer: u64,
    len: u64,
    offset: i64,
    reserved: u64,
    more_flags: u32,
    event: u32,
}

impl Aio {
    const WRITE: u16 = 1;

    /// None if the kernel does not have one.
    fn new(depth: usize) -> Option<Aio> {
        let mut context: libc::c_ulong = 0;
        let set = unsafe { libc::syscall(libc::SYS_io_setup, depth, &mut context) };
        (set == 0).then_some(Aio(context))
    }

    /// Submits all of these writes at once, and waits for them.
    fn write(&self, file: &File, pieces: &[(u64, &[u8])]) {
        let mut blocks: Vec<Iocb> = pieces
            .iter()
            .map(|(offset, bytes)| Iocb {
                opcode: Aio::WRITE,
                descriptor: file.as_raw_fd() as u32,
                buffer: bytes.as_ptr() as u64,
                len: bytes.len() as u64,
                offset: *offset as i64,
                ..Iocb::default()
            })
            .collect();
        let mut list: Vec<*mut Iocb> = blocks.iter_mut().map(std::ptr::from_mut).collect();
        let count = list.len() as libc::c_long;
        let sent = unsafe { libc::syscall(libc::SYS_io_submit, self.0, count, list.as_mut_ptr()) };
        assert_eq!(sent, count, "{}", io::Error::last_os_error());
        // data, object, result, result
        let mut events = vec![[0i64; 4]; pieces.len()];
        let none = std::ptr::null_mut::<libc::timespec>();
        let into = events.as_mut_ptr();
        let got =
            unsafe { libc::syscall(libc::SYS_io_getevents, self.0, count, count, into, none) };
        assert_eq!(got, count, "{}", io::Error::last_os_error());
        for [_, _, result, _] in events {
            assert_eq!(result, pieces[0].1.len() as i64);
        }
    }
}

impl Drop for Aio {
    fn drop(&mut self) {
        unsafe { libc::syscall(libc::SYS_io_destroy, self.0) };
    }
}

/// "A mount sees its own writes at once."
///
/// Regression: pages that were read during an asynchronous direct write were not updated.
#[test]
fn asynchronous_direct_writes_are_seen_by_buffered_readers() {
    const BLOCK: usize = 64 << 10;
    const BLOCKS: usize = 16;
    if !can_mount() {
        return;
    }
    let Some(aio) = Aio::new(BLOCKS) else {
        eprintln!("skipped: no asynchronous I/O");
        return;
    };
    let rig = Rig::new();
    let mount = rig.mount("mnt", &[]);
    let path = mount.path.join("f");
    fs::write(&path, vec![0; BLOCK * BLOCKS]).unwrap();
    let mut options = OpenOptions::new();
    let direct = options.read(true).write(true).custom_flags(libc::O_DIRECT);
    let direct = direct.open(&path).unwrap();
    // Aligned, as direct I/O requires.
    let map = unsafe {
        let len = NonZeroUsize::new(BLOCK * BLOCKS).unwrap();
        nix::sys::mman::mmap_anonymous(None, len, ProtFlags::PROT_WRITE, MapFlags::MAP_PRIVATE)
    };
    let map = map.unwrap().cast::<u8>();
    let buffer = unsafe { std::slice::from_raw_parts_mut(map.as_ptr(), BLOCK * BLOCKS) };
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let file = File::open(&path).unwrap();
                let mut bytes = vec![0; BLOCK * BLOCKS];
                while !over.load(Ordering::Relaxed) {
                    file.read_exact_at(&mut bytes, 0).unwrap();
                }
            });
        }
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let buffered = File::open(&path).unwrap();
            let mut bytes = vec![0; BLOCK * BLOCKS];
            for round in 1..=100u8 {
                buffer.fill(round);
                let pieces: Vec<_> = (0..BLOCKS)
                    .map(|at| ((at * BLOCK) as u64, &buffer[at * BLOCK..(at + 1) * BLOCK]))
                    .collect();
                aio.write(&direct, &pieces);
                buffered.read_exact_at(&mut bytes, 0).unwrap();
                let old = bytes.iter().filter(|byte| **byte != round).count();
                assert_eq!(old, 0, "bytes of before, in round {round}");
            }
        }));
        over.store(true, Ordering::Relaxed);
        result.unwrap();
    });
    drop(direct);
    assert!(fs::read(&path).unwrap() == vec![100; BLOCK * BLOCKS]);
}
