//! Directories with more names than there is memory for: they are read whole, their names are found, and what is
//! remembered of them keeps within bounds.

use std::collections::HashMap;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;
use ossvault::crypto::key_pair::KeyPair;
use ossvault::crypto::key_ring::KeyRing;
use ossvault::encrypted::{self, EncryptedBucket};
use ossvault::fs::attributes::{Defaults, Overrides};
use ossvault::fs::filesystem::Filesystem;
use ossvault::fs::namespace::Ino;
use ossvault::fs::namespace::stat::Lookup;
use ossvault::fs::settings::Settings;
use ossvault::store::error::Error;
use ossvault::store::listing::{Hidden, PageToken, RawObject, RawPage, check};
use ossvault::store::object_store::*;

/// A bucket with one directory of very many small objects, none of which takes any memory.
struct Crowd {
    names: u64,
    lists: AtomicU64,
    heads: AtomicU64,
}

const DIRECTORY: &str = "d/";

fn name_of(i: u64) -> String {
    format!("file-{i:013}.txt")
}

impl Crowd {
    fn key(i: u64) -> String {
        format!("{DIRECTORY}{}", name_of(i))
    }

    /// How many keys sort before this text, or are it where `and_it`.
    fn rank(&self, text: &str, and_it: bool) -> u64 {
        let (mut low, mut high) = (0, self.names);
        while low < high {
            let middle = (low + high) / 2;
            let key = Crowd::key(middle);
            match key.as_str() < text || (and_it && key == text) {
                true => low = middle + 1,
                false => high = middle,
            }
        }
        low
    }

    fn take_counts(&self) -> (u64, u64) {
        let lists = self.lists.swap(0, Ordering::Relaxed);
        (lists, self.heads.swap(0, Ordering::Relaxed))
    }
}

fn old() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_600_000_000)
}

fn unsupported<T>() -> Result<T> {
    Err(Error::Unsupported(Arc::new(std::io::Error::other("no"))))
}

#[async_trait]
impl ObjectStore for Crowd {
    fn name(&self) -> String {
        "crowd".into()
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectMeta> {
        self.heads.fetch_add(1, Ordering::Relaxed);
        tokio::task::yield_now().await;
        let rank = self.rank(key.as_str(), false);
        if rank == self.names || Crowd::key(rank) != key.as_str() {
            return Err(Error::NotFound);
        }
        Ok(ObjectMeta {
            size: 10,
            etag: ETag::new(format!("\"{:032X}\"", rank)),
            last_modified: old(),
            headers: ObjectHeaders::default(),
            crc64: None,
            date: old() + Duration::from_secs(100),
        })
    }

    async fn list(&self, request: &ListRequest) -> Result<ListPage> {
        self.lists.fetch_add(1, Ordering::Relaxed);
        tokio::task::yield_now().await;
        let mut page = RawPage {
            objects: Vec::new(),
            prefixes: Vec::new(),
            next: None,
            date: old() + Duration::from_secs(100),
        };
        let hidden = Hidden::default();
        let prefix = request.prefix.as_str();
        if request.delimited && DIRECTORY.starts_with(prefix) && prefix != DIRECTORY {
            page.prefixes.push(DIRECTORY.into());
            return check(request, page, &hidden);
        }
        let token = request.token.as_ref().map(PageToken::as_str);
        let after = token.or(request.start_after.as_deref());
        let after = after.map_or(0, |after| self.rank(after, true));
        let first = self.rank(prefix, false).max(after);
        let most = match request.max_keys {
            0 => 1000,
            most => u64::from(most),
        };
        for i in first..self.names {
            let key = Crowd::key(i);
            if !key.starts_with(prefix) {
                break;
            }
            if i == first + most {
                page.next = Some(Crowd::key(i - 1));
                break;
            }
            page.objects.push(RawObject {
                key: key.into(),
                size: Some(10),
                etag: ETag::new(format!("\"{i:032X}\"")),
                last_modified: old(),
                storage_class: "Standard".into(),
            });
        }
        check(request, page, &hidden)
    }

    async fn get(
        &self,
        _: &ObjectKey,
        _: Option<ByteRange>,
        _: Option<&ETag>,
    ) -> Result<GetAnswer> {
        unsupported()
    }

    async fn put(
        &self,
        _: &ObjectKey,
        _: &ObjectHeaders,
        _: Body,
        _: Overwrite,
    ) -> Result<PutAnswer> {
        unsupported()
    }

    async fn delete(&self, _: &ObjectKey) -> Result<()> {
        unsupported()
    }

    async fn delete_many(&self, _: &[ObjectKey]) -> Result<Vec<(ObjectKey, Error)>> {
        unsupported()
    }

    async fn copy(
        &self,
        _: &ObjectKey,
        _: &ETag,
        _: &ObjectKey,
        _: CopyHeaders,
        _: Overwrite,
    ) -> Result<PutAnswer> {
        unsupported()
    }

    async fn create_multipart(&self, _: &ObjectKey, _: &ObjectHeaders) -> Result<UploadId> {
        unsupported()
    }

    async fn upload_part(
        &self,
        _: &ObjectKey,
        _: &UploadId,
        _: u16,
        _: Body,
    ) -> Result<UploadedPart> {
        unsupported()
    }

    async fn copy_part(
        &self,
        _: &ObjectKey,
        _: &UploadId,
        _: u16,
        _: &ObjectKey,
        _: &ETag,
        _: ByteRange,
    ) -> Result<UploadedPart> {
        unsupported()
    }

    async fn complete_multipart(
        &self,
        _: &ObjectKey,
        _: &UploadId,
        _: &[UploadedPart],
        _: Overwrite,
    ) -> Result<PutAnswer> {
        unsupported()
    }

    async fn abort_multipart(&self, _: &ObjectKey, _: &UploadId) -> Result<()> {
        unsupported()
    }

    async fn list_uploads(&self, _: &str) -> Result<Vec<PendingUpload>> {
        unsupported()
    }

    async fn bucket_info(&self) -> Result<BucketInfo> {
        unsupported()
    }
}

/// The most memory this process had resident, in MiB.
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
    forgets: tokio::sync::mpsc::Receiver<(Ino, ossvault::fs::namespace::object_name::Name)>,
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
        match self.fs.lookup(parent, name).await.unwrap() {
            Lookup::Present(looks) => {
                self.entered(parent, name, looks.ino);
                Some(looks.ino)
            }
            Lookup::Absent(_) => None,
        }
    }

    /// `ls -l`, if `looks`: each name is looked up as soon as it is read. Returns how many names there are.
    async fn read(&mut self, directory: Ino, looks: bool, most: u64) -> u64 {
        let handle = self.fs.opendir(directory).await.unwrap();
        let (mut offset, mut names) = (0, 0);
        let mut last = String::new();
        while names < most {
            let entries = self.fs.readdir(handle, offset, 128, looks).await.unwrap();
            let Some(end) = entries.last() else { break };
            offset = end.next;
            for entry in &entries {
                if self.fs.entry_was_taken(entry)
                    && let Some(looks) = &entry.looks
                {
                    self.entered(directory, &entry.name, looks.ino);
                }
            }
            self.fs.entries_were_offered(&entries);
            for entry in entries.iter().filter(|entry| !entry.name.starts_with('.')) {
                assert!(*last < *entry.name, "{last} before {}", entry.name);
                last = entry.name.to_string();
                names += 1;
                if looks && entry.looks.is_none() {
                    let found = self.lookup(directory, &entry.name).await;
                    assert!(found.is_some(), "{}", entry.name);
                }
            }
        }
        self.fs.releasedir(handle);
        names
    }
}

/// What a program does to a directory of so many names, with so much memory, in MiB. Prints its figures.
async fn use_crowd(names: u64, limit: u64) {
    let crowd = Arc::new(Crowd {
        names,
        lists: AtomicU64::new(0),
        heads: AtomicU64::new(0),
    });
    let folder = tempfile::tempdir().unwrap();
    let pair = KeyPair::generate(2048).unwrap();
    let pem = pair.private_pem(None).unwrap();
    let key = ossvault::crypto::key_parse::private_key(pem.as_bytes(), &mut || None);
    let keys = KeyRing::single(key.unwrap());
    let bucket = EncryptedBucket::new(crowd.clone(), keys, encrypted::Settings::default());
    let settings = Settings {
        prefix: String::new(),
        metadata_ttl: Duration::from_secs(1),
        dir_ttl: Duration::from_secs(60),
        memory_limit: limit << 20,
        cache_dir: folder.path().to_owned(),
        cache_limit: 1 << 30,
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
        rename_grace: Duration::from_secs(1),
        flush_after: None,
        timeout: Duration::from_secs(60),
        copy_limit: Settings::COPY_LIMIT,
        part_size: Settings::PART_SIZE,
        stream_after: Settings::stream_after(limit << 20),
    };
    let fs = Filesystem::new(bucket, settings, tokio::runtime::Handle::current()).unwrap();
    let forgets = fs.take_forgets().unwrap();
    let mut kernel = Hoarder {
        fs: fs.clone(),
        known: HashMap::new(),
        forgets,
        asked: 0,
    };
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

    // One after another by heart, further on.
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
    let inodes = fs.census().inodes as u64;
    println!("{inodes} inodes, {} names to forget", kernel.asked);
    assert!(inodes * 768 <= (limit << 20) / 8 + (1 << 20), "{inodes}");

    // Many who read at once.
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
    println!("64 readers: {} MiB; at the beginning {begin} MiB", peak());
    // Whoever runs this has 64 MiB for the program itself, and keeps its own table of inodes.
    assert!(peak() < limit + 64, "{} MiB", peak());
}

/// A process of its own, whose memory is nothing else's.
#[test]
#[ignore = "run by the test below"]
fn the_crowd_in_this_process() {
    let number = |name: &str| std::env::var(name).unwrap().parse().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let (names, limit) = (number("CROWD_NAMES"), number("CROWD_LIMIT"));
    runtime.block_on(async move { tokio::spawn(use_crowd(names, limit)).await.unwrap() });
    runtime.shutdown_background();
}

fn crowd(names: u64, limit: u64) {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--nocapture", "--exact"])
        .arg("names_in_bounds::the_crowd_in_this_process")
        .env("CROWD_NAMES", names.to_string())
        .env("CROWD_LIMIT", limit.to_string())
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    println!("{told}");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}\n{errors}");
    assert!(told.contains("1 passed"), "{told}");
}

/// A directory whose names do not fit the memory limit is read page by page, each time anew.
#[test]
fn a_directory_with_more_names_than_there_is_memory_for_is_read_whole_and_within_bounds() {
    crowd(200_000, 16);
}

#[test]
#[ignore = "takes long: scripts/exercise memory"]
fn a_million_names_take_no_more_memory_than_they_may() {
    crowd(1_000_000, 64);
}
