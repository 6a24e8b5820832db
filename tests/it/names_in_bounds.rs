//! Directories with more names than fit in memory: they are listed completely, their names are found, and the
//! memory for cached names is bounded.

use std::collections::HashMap;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{TryStreamExt, stream};
use ossvault::crypto::key_pair::KeyPair;
use ossvault::crypto::key_ring::KeyRing;
use ossvault::encrypted::{self, EncryptedBucket, Plaintext};
use ossvault::files::attributes::{Defaults, Overrides};
use ossvault::fs::error::Error as FsError;
use ossvault::fs::filesystem::Filesystem;
use ossvault::fs::namespace::Ino;
use ossvault::fs::namespace::object_name::Name;
use ossvault::fs::namespace::stat::Lookup;
use ossvault::fs::settings::{Settings, Spill, Uploads};
use ossvault::store::error::Error;
use ossvault::store::listing::{Hidden, PageToken, RawObject, RawPage, check};
use ossvault::store::local::{self, LocalStore};
use ossvault::store::object_store::*;
use ossvault_testing::{Call, Fate, Hooks, InstrumentedStore, MemoryStore};

use crate::fixture::{Rig, bash, can_mount};
use crate::other_writers::READ;
use crate::store::large::fill;

/// A bucket of very many small objects, none of which takes any memory: in one directory, or in many below
/// it.
struct Crowd {
    names: u64,
    /// In each directory; 0: all are in one directory.
    each: u64,
    /// One object in so many is encrypted, with this envelope and these bytes. The others are not encrypted.
    sealed: (ObjectHeaders, Bytes),
    lists: AtomicU64,
    heads: AtomicU64,
}

const DIRECTORY: &str = "d/";
const CONTENT: &[u8; 10] = b"0123456789";
/// Each of these costs an RSA operation when it is read.
const SEALED_EVERY: u64 = 128;

fn name_of(i: u64) -> String {
    format!("file-{i:013}.txt")
}

fn directory_of(n: u64) -> String {
    format!("directory-{n:07}")
}

impl Crowd {
    async fn new(names: u64, each: u64, keys: KeyRing) -> Arc<InstrumentedStore<Crowd>> {
        let folder = tempfile::tempdir().unwrap();
        let store = LocalStore::open(folder.path(), local::Settings { sync: false });
        let store = Arc::new(store.unwrap());
        let bucket = EncryptedBucket::new(store.clone(), keys, Default::default());
        let key = ObjectKey::new("one").unwrap();
        let (plain, headers) = (Plaintext::from_bytes(&CONTENT[..]), Default::default());
        let put = bucket.put(&key, &plain, headers, None, Overwrite::Allowed);
        put.await.unwrap();
        let mut answer = store.get(&key, None, None).await.unwrap();
        let bytes = answer.body.try_next().await.unwrap().unwrap();
        assert_eq!(bytes.len(), CONTENT.len());
        let crowd = Crowd {
            names,
            each,
            sealed: (answer.meta.headers, bytes),
            lists: AtomicU64::new(0),
            heads: AtomicU64::new(0),
        };
        InstrumentedStore::new(Arc::new(MemoryStore::default()), crowd)
    }

    fn key(&self, i: u64) -> String {
        match self.each {
            0 => format!("{DIRECTORY}{}", name_of(i)),
            each => format!("{DIRECTORY}{}/{}", directory_of(i / each), name_of(i)),
        }
    }

    /// The number of keys that sort before this text, or are equal to it if `and_it`.
    fn rank(&self, text: &str, and_it: bool) -> u64 {
        let (mut low, mut high) = (0, self.names);
        while low < high {
            let middle = (low + high) / 2;
            let key = self.key(middle);
            match key.as_str() < text || (and_it && key == text) {
                true => low = middle + 1,
                false => high = middle,
            }
        }
        low
    }

    /// The number of keys that sort before those that begin with this prefix, which ends with `/`, and have
    /// more after it.
    fn rank_behind(&self, prefix: &str) -> u64 {
        // The character after `/`.
        self.rank(&format!("{}0", prefix.trim_end_matches('/')), false)
    }

    fn meta(&self, key: &ObjectKey) -> Result<ObjectMeta> {
        let rank = self.rank(key.as_str(), false);
        if rank == self.names || self.key(rank) != key.as_str() {
            return Err(Error::NotFound);
        }
        let headers = match rank % SEALED_EVERY {
            0 => self.sealed.0.clone(),
            _ => ObjectHeaders::default(),
        };
        Ok(ObjectMeta {
            size: CONTENT.len() as u64,
            etag: ETag::new(format!("\"{:032X}\"", rank)),
            last_modified: old(),
            headers,
            crc64: None,
            date: old() + Duration::from_secs(100),
        })
    }

    fn take_counts(&self) -> (u64, u64) {
        let lists = self.lists.swap(0, Ordering::Relaxed);
        (lists, self.heads.swap(0, Ordering::Relaxed))
    }
}

fn old() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_600_000_000)
}

#[async_trait]
impl Hooks for Crowd {
    fn decide(&self, call: Call) -> Fate {
        match call.changes() {
            true => Fate::Fails(Error::Unsupported(Arc::new(std::io::Error::other("no")))),
            false => Fate::CarriedOut,
        }
    }

    async fn head(&self, _: &dyn ObjectStore, key: &ObjectKey) -> Result<ObjectMeta> {
        self.heads.fetch_add(1, Ordering::Relaxed);
        tokio::task::yield_now().await;
        self.meta(key)
    }

    async fn list(&self, _: &dyn ObjectStore, request: &ListRequest) -> Result<ListPage> {
        self.lists.fetch_add(1, Ordering::Relaxed);
        tokio::task::yield_now().await;
        let mut page = RawPage {
            objects: Vec::new(),
            prefixes: Vec::new(),
            next: None,
            date: old() + Duration::from_secs(100),
        };
        let prefix = request.prefix.as_str();
        let token = request.token.as_ref().map(PageToken::as_str);
        let after = token.or(request.start_after.as_deref());
        let after = after.map_or(0, |after| match after.ends_with('/') {
            true => self.rank_behind(after),
            false => self.rank(after, true),
        });
        let mut at = self.rank(prefix, false).max(after);
        let mut most = match request.max_keys {
            0 => 1000,
            most => most,
        };
        let mut last = String::new();
        while at < self.names {
            let key = self.key(at);
            let Some(rest) = key.strip_prefix(prefix) else {
                break;
            };
            if most == 0 {
                page.next = Some(last);
                break;
            }
            most -= 1;
            match rest.find('/').filter(|_| request.delimited) {
                Some(end) => {
                    last = key[..prefix.len() + end + 1].to_owned();
                    at = self.rank_behind(&last);
                    page.prefixes.push(last.clone().into());
                }
                None => {
                    last = key.clone();
                    page.objects.push(RawObject {
                        key: key.into(),
                        size: Some(CONTENT.len() as u64),
                        etag: ETag::new(format!("\"{at:032X}\"")),
                        last_modified: Some(old()),
                        storage_class: "Standard".into(),
                    });
                    at += 1;
                }
            }
        }
        check(request, page, &Hidden::default())
    }

    async fn get(
        &self,
        _: &dyn ObjectStore,
        key: &ObjectKey,
        range: Option<ByteRange>,
        _: Option<&ETag>,
    ) -> Result<GetAnswer> {
        tokio::task::yield_now().await;
        let meta = self.meta(key)?;
        let bytes = match meta.headers.user.is_empty() {
            true => Bytes::from_static(CONTENT),
            false => self.sealed.1.clone(),
        };
        let range = range.unwrap_or(0..meta.size);
        let body = bytes.slice(range.start as usize..range.end as usize);
        Ok(GetAnswer {
            meta,
            range,
            body: Box::pin(stream::once(async move { Ok(body) })),
        })
    }
}

/// The maximum memory that this process had resident, in MiB.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.unwrap().trim().trim_end_matches(" kB");
    kilobytes.parse::<u64>().unwrap() >> 10
}

/// A kernel that never forgets an inode unless it is asked to.
struct Hoarder {
    fs: Arc<Filesystem>,
    known: HashMap<(Ino, String), (Ino, u64)>,
    forgets: tokio::sync::mpsc::Receiver<(Ino, Name)>,
    asked: u64,
}

impl Hoarder {
    fn entered(&mut self, parent: Ino, name: &str, ino: Ino) {
        let known = self.known.entry((parent, name.to_owned()));
        known.or_insert((ino, 0)).1 += 1;
        while let Ok((parent, name)) = self.forgets.try_recv() {
            self.asked += 1;
            if let Some((ino, lookups)) = self.known.remove(&(parent, name.to_string())) {
                self.fs.forget(ino, lookups);
            }
        }
    }

    async fn lookup(&mut self, parent: Ino, name: &str) -> Option<Ino> {
        let parent = self.fs.recalled(parent);
        match self.fs.lookup(parent, name).await.unwrap() {
            Lookup::Present(looks) => {
                self.entered(parent, name, looks.ino);
                Some(looks.ino)
            }
            Lookup::Absent(_) => None,
        }
    }

    /// `ls -l`, if `looks`: each name is looked up as soon as it is read. Returns the number of names.
    async fn read(&mut self, directory: Ino, looks: bool, most: u64) -> u64 {
        let handle = self.fs.opendir(self.fs.recalled(directory)).await.unwrap();
        let (mut offset, mut names) = (0, 0);
        let mut last = String::new();
        while names < most {
            let entries = self.fs.readdir(handle, offset, 128, looks).await.unwrap();
            let Some(end) = entries.last() else { break };
            offset = end.next;
            for entry in &entries {
                if self.fs.entry_was_taken(entry)
                    && let Some(looks) = &entry.stat
                {
                    self.entered(directory, &entry.name, looks.ino);
                }
            }
            self.fs.entries_were_offered(&entries);
            for entry in entries.iter().filter(|entry| !entry.name.starts_with('.')) {
                assert!(*last < *entry.name, "{last} before {}", entry.name);
                last = entry.name.to_string();
                names += 1;
                if looks && entry.stat.is_none() {
                    let found = self.lookup(directory, &entry.name).await;
                    assert!(found.is_some(), "{}", entry.name);
                }
            }
        }
        self.fs.releasedir(handle);
        names
    }
}

/// A file system on so many names, with so much memory, in MiB.
async fn mounted(
    names: u64,
    each: u64,
    limit: u64,
) -> (Arc<InstrumentedStore<Crowd>>, Hoarder, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let pair = KeyPair::generate(2048).unwrap();
    let pem = pair.private_pem(None).unwrap();
    let keys = || {
        let key = ossvault::crypto::key_parse::private_key(pem.as_bytes(), &mut || None);
        KeyRing::single(key.unwrap())
    };
    let crowd = Crowd::new(names, each, keys()).await;
    let plain = encrypted::Settings {
        plaintext: vec![DIRECTORY.to_owned()],
        ..encrypted::Settings::default()
    };
    let bucket = EncryptedBucket::new(crowd.clone(), keys(), plain);
    let settings = Settings {
        prefix: String::new(),
        metadata_ttl: Duration::from_secs(1),
        dir_ttl: Duration::from_secs(60),
        memory_limit: limit << 20,
        spill: Spill {
            dir: folder.path().to_owned(),
            limit: 1 << 30,
        },
        read_only: false,
        defaults: Defaults {
            uid: 0,
            gid: 0,
            file_mode: 0o644,
            dir_mode: 0o755,
        },
        overrides: Overrides::default(),
        trust_links: false,
        show_owner: true,
        capacity: None,
        rename_grace: Duration::from_secs(1),
        flush_after: None,
        timeout: Duration::from_secs(60),
        uploads: Uploads::within(limit << 20),
    };
    let fs = Filesystem::new(bucket, settings, tokio::runtime::Handle::current()).unwrap();
    let forgets = fs.take_forgets().unwrap();
    let kernel = Hoarder {
        fs,
        known: HashMap::new(),
        forgets,
        asked: 0,
    };
    (crowd, kernel, folder)
}

/// The test process has 64 MiB for the program itself, and its own table of inodes.
fn check_peak(what: &str, begin: u64, limit: u64) {
    println!("{what}: {} MiB; at the beginning {begin} MiB", peak());
    assert!(peak() < limit + 64, "{what}: {} MiB", peak());
}

/// Inodes take an eighth of the memory; a few more may be in flight.
fn check_inodes(kernel: &Hoarder, limit: u64) {
    let inodes = kernel.fs.census().inodes as u64;
    println!("{inodes} inodes, {} names to forget", kernel.asked);
    assert!(inodes * 768 <= (limit << 20) / 8 + (1 << 20), "{inodes}");
}

/// The operations of a program on a directory with this many names. Prints figures.
async fn use_crowd(names: u64, limit: u64) {
    let (crowd, mut kernel, _folder) = mounted(names, 0, limit).await;
    let fs = kernel.fs.clone();
    let begin = peak();
    let d = kernel.lookup(Ino::ROOT, "d").await.unwrap();
    let pages = names / 1000 + 1;
    crowd.take_counts();

    let began = Instant::now();
    assert_eq!(kernel.read(d, false, u64::MAX).await, names, "ls -f");
    let (lists, heads) = crowd.take_counts();
    println!(
        "ls -f of {names}: {lists} LISTs, {heads} HEADs, {:?}, {} MiB",
        began.elapsed(),
        peak()
    );
    assert!(lists <= pages + pages / 8 + 4, "{lists}");
    assert_eq!(heads, 0);

    let began = Instant::now();
    let looked_at = (names / 4).min(200_000);
    kernel.read(d, true, looked_at).await;
    let (lists, heads) = crowd.take_counts();
    println!(
        "ls -l of {looked_at}: {lists} LISTs, {heads} HEADs, {:?}, {} MiB",
        began.elapsed(),
        peak()
    );
    assert!(lists <= looked_at / 1000 * 2 + 16, "{lists}");
    assert!(heads <= looked_at + 1000, "{heads}");

    // Consecutive names without listing, further on.
    let began = Instant::now();
    for i in names / 2..names / 2 + looked_at {
        assert!(kernel.lookup(d, &name_of(i)).await.is_some(), "{i}");
    }
    let (lists, heads) = crowd.take_counts();
    println!(
        "stat of {looked_at}: {lists} LISTs, {heads} HEADs, {:?}, {} MiB",
        began.elapsed(),
        peak()
    );
    assert!(lists <= looked_at / 1000 * 2 + 16, "{lists}");
    assert!(heads <= looked_at + 1000, "{heads}");

    assert!(kernel.lookup(d, "file-0").await.is_none());
    check_inodes(&kernel, limit);

    // Many concurrent readers.
    let handles = futures_util::future::join_all((0..64).map(|_| fs.opendir(d))).await;
    for handle in &handles {
        let handle = *handle.as_ref().unwrap();
        let mut offset = 2;
        for _ in 0..16 {
            let entries = fs.readdir(handle, offset, 128, false).await.unwrap();
            offset = entries.last().unwrap().next;
        }
    }
    for handle in handles {
        fs.releasedir(handle.unwrap());
    }
    check_peak("64 readers", begin, limit);

    // All its entries would have to be held in memory until they are copied.
    let name = |name: &str| (Ino::ROOT, Name::from(name));
    let renamed = fs.rename(name("d"), name("e"), true).await;
    assert!(matches!(renamed, Err(FsError::TooMany)), "{renamed:?}");
    check_peak("a rename", begin, limit);
}

/// `cat` of small files, one after another.
async fn read_files(names: u64, limit: u64) {
    let (_crowd, mut kernel, _folder) = mounted(names, 0, limit).await;
    let (fs, begin, began) = (kernel.fs.clone(), peak(), Instant::now());
    let d = kernel.lookup(Ino::ROOT, "d").await.unwrap();
    for i in 0..names {
        let ino = kernel.lookup(d, &name_of(i)).await.unwrap();
        let handle = fs.open(ino, READ).await.unwrap().handle;
        assert_eq!(fs.read(handle, 0, 4096).await.unwrap(), CONTENT[..]);
        fs.release_now(handle);
    }
    println!("{names} files were read in {:?}", began.elapsed());
    check_inodes(&kernel, limit);
    check_peak("files read one after another", begin, limit);
}

/// `find` and `ls -l` through this many directories, of which the kernel forgets none.
async fn walk_directories(names: u64, each: u64, limit: u64) {
    let (_crowd, mut kernel, _folder) = mounted(names, each, limit).await;
    let (begin, began) = (peak(), Instant::now());
    let d = kernel.lookup(Ino::ROOT, "d").await.unwrap();
    let directories = names.div_ceil(each);
    let first = kernel.lookup(d, &directory_of(0)).await.unwrap();
    for n in 0..directories {
        let directory = kernel.lookup(d, &directory_of(n)).await.unwrap();
        let expected = each.min(names - n * each);
        assert_eq!(
            kernel.read(directory, true, u64::MAX).await,
            expected,
            "{n}"
        );
    }
    println!(
        "{names} names in {directories} directories were walked in {:?}",
        began.elapsed()
    );
    check_inodes(&kernel, limit);
    check_peak("a walk through directories", begin, limit);
    if directories < 10_000 {
        // Some program's working directory, which the kernel knows by its number.
        assert!(kernel.lookup(first, &name_of(0)).await.is_some());
        assert!(kernel.lookup(first, &name_of(each)).await.is_none());
        assert_eq!(kernel.lookup(d, &directory_of(0)).await, Some(first));
    }
}

/// A separate process, whose memory is used by nothing else.
#[test]
#[ignore = "run by the tests below"]
fn the_crowd_in_this_process() {
    let number = |name: &str| std::env::var(name).unwrap().parse::<u64>().unwrap();
    let what = std::env::var("CROWD").unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let (names, limit) = (number("CROWD_NAMES"), number("CROWD_LIMIT"));
    let work = async move {
        match what.as_str() {
            "use" => use_crowd(names, limit).await,
            "read" => read_files(names, limit).await,
            "walk" => walk_directories(names, number("CROWD_EACH"), limit).await,
            other => unreachable!("{other}"),
        }
    };
    runtime.block_on(async move { tokio::spawn(work).await.unwrap() });
    runtime.shutdown_background();
}

/// `each`: the number of names per directory, for a walk.
fn crowd(what: &str, names: u64, each: u64, limit: u64) {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--nocapture", "--exact"])
        .arg("names_in_bounds::the_crowd_in_this_process")
        .env("CROWD", what)
        .env("CROWD_NAMES", names.to_string())
        .env("CROWD_EACH", each.to_string())
        .env("CROWD_LIMIT", limit.to_string())
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    println!("{told}");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}\n{errors}");
    assert!(told.contains("1 passed"), "{told}");
}

/// A directory whose names do not fit in the memory limit is listed page by page, again for each reader.
#[test]
fn a_directory_with_more_names_than_fit_in_memory_is_read_completely_and_within_bounds() {
    crowd("use", 200_000, 0, 16);
}

#[test]
fn small_files_read_sequentially_leave_nothing_behind() {
    crowd("read", 20_000, 0, 16);
}

/// Regression: the kernel keeps directories as long as it likes, and was not asked to forget them: each left
/// an inode here.
#[test]
fn directories_that_were_walked_through_are_forgotten_and_found_again() {
    crowd("walk", 20_000, 4, 16);
}

#[test]
#[ignore = "takes long: scripts/exercise memory"]
fn a_million_names_stay_within_the_memory_limit() {
    crowd("use", 1_000_000, 0, 64);
}

#[test]
#[ignore = "takes long: scripts/exercise memory"]
fn a_million_small_files_read_sequentially_stay_within_the_memory_limit() {
    crowd("read", 1_000_000, 0, 64);
}

#[test]
#[ignore = "takes long: scripts/exercise memory"]
fn a_million_names_in_many_directories_stay_within_the_memory_limit() {
    crowd("walk", 1_000_000, 100, 64);
    crowd("walk", 1_000_000, 10, 64);
}

/// A bucket in a folder with so many objects, mounted: in one directory and in many, listed, and some looked at.
fn list_folder(names: usize, limit: &str, most: u64) {
    if !can_mount() {
        return;
    }
    let rig = Rig::new();
    for (name, each) in [("one", names), ("many", 100)] {
        let bucket = rig.path(&format!("folder-{name}"));
        fill(&bucket, names, each);
        let source = format!("file://{}", bucket.display());
        let options = [
            "--memory-limit",
            limit,
            "--allow-plaintext",
            "directory00000/",
            "--no-sync",
        ];
        let mount = rig.mount_source(name, &source, &options);
        let began = Instant::now();
        let script = "find $MNT -type f | wc -l
            cat $MNT/directory00000/file00000?? | wc -c
            ls -l $MNT/directory00000/file00000?? | wc -l";
        let told = bash(&mount.path, script);
        assert_eq!(told, format!("{names}\n0\n100\n"));
        let (peak, took) = (mount.peak_memory(), began.elapsed());
        println!(
            "{names} names, {each} in a directory: {took:?}, at most {} MiB",
            peak >> 20
        );
        mount.end_well();
        assert!(peak < most, "{} MiB", peak >> 20);
    }
}

#[test]
fn a_folder_with_many_objects_is_listed_within_bounds() {
    list_folder(30_000, "16M", 80 << 20);
}

#[test]
#[ignore = "takes long: scripts/exercise memory"]
fn a_million_objects_in_a_folder_stay_within_the_memory_limit() {
    list_folder(1_000_000, "64M", 128 << 20);
}

/// A program's working directory is among those evicted here while the kernel still knows them.
#[test]
fn a_working_directory_survives_the_eviction_of_its_inode() {
    if !can_mount() {
        return;
    }
    let rig = Rig::new();
    rig.block_on(async {
        for n in 0..2000 {
            let key = ObjectKey::new(format!("{}/below/x", directory_of(n))).unwrap();
            let (headers, body) = (ObjectHeaders::default(), Body::empty());
            let put = rig.store.put(&key, &headers, body, Overwrite::Allowed);
            put.await.unwrap();
        }
    });
    let mount = rig.mount("mnt", &["--memory-limit", "16M"]);
    let script = "cd $MNT/directory-0000000/below && find $MNT -type d | wc -l && /bin/pwd && ls && stat -c %s x";
    let told = bash(&mount.path, script);
    let expected = format!(
        "4001\n{}/directory-0000000/below\nx\n0\n",
        mount.path.display()
    );
    assert_eq!(told, expected);
    mount.end_well();
}
