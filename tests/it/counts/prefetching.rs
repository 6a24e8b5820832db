//! What is requested before it is wanted costs little more than what is wanted.

use super::*;

// ---- looking ahead ----

/// A directory with 256 directories of a few objects each, like git's object store.
fn write_fan_out(root: &Path, objects: u64) {
    for i in 0..objects {
        let folder = root.join(format!("objects/{:02x}", i * 97 % 256));
        fs::create_dir_all(&folder).unwrap();
        write_and_close(&folder.join(name(i)), &content(i)).unwrap();
    }
}

/// Regression: random lookups among 256 directories were mistaken for a walk: each lookup listed ten of the
/// siblings.
#[test]
fn random_lookups_over_many_directories_list_only_the_visited_ones() {
    if !can_mount() {
        return;
    }
    const OBJECTS: u64 = 500;
    const LOOKUPS: u64 = 700;
    let rig = Rig::new();
    let mount = rig.mount("mnt", LASTING);
    write_fan_out(&mount.path, OBJECTS);
    mount.end_well();
    std::thread::sleep(Duration::from_millis(2100));
    let mount = rig.mount("mnt", &["--metadata-ttl", "1"]);
    rig.instruments().set_latency(Duration::from_millis(5));
    let look = |i: u64| {
        let i = i * 307 % OBJECTS;
        let path = format!("objects/{:02x}/{}", i * 97 % 256, name(i));
        assert_eq!(read(&mount.path.join(path)).unwrap(), content(i));
    };
    let began = std::time::Instant::now();
    let counts = rig.requests(|| (0..LOOKUPS).for_each(look));
    let seconds = began.elapsed().as_secs() + 1;
    rig.instruments().set_latency(Duration::ZERO);
    println!("{LOOKUPS} lookups in {seconds} s: {:?}", counts.requests);
    // Until all are cached, each visited directory; then all together, like their parents, once per TTL.
    let lists = counts.of(ListObjectsV2);
    assert!(lists <= OBJECTS + 8 * seconds, "{:?}", counts.requests);
    // Each object once, each directory's marker, the first file in each, and a few that were not needed.
    assert!(counts.of(GetObject) <= OBJECTS, "{:?}", counts.requests);
    assert!(
        counts.of(HeadObject) <= 256 + 256 + 30,
        "{:?}",
        counts.requests
    );
    mount.end_well();
}

#[test]
fn removing_a_cached_tree_costs_no_lookups_except_the_lists() {
    if !can_mount() {
        return;
    }
    const OBJECTS: u64 = 300;
    let rig = Rig::new();
    // A marker that is listed within its TTL after it was created is requested once more; the TTL is long
    // enough to create the tree even on a slow machine.
    let mount = rig.mount("mnt", &["--metadata-ttl", "8"]);
    write_fan_out(&mount.path, OBJECTS);
    std::thread::sleep(Duration::from_millis(8100));
    let counts = rig.requests(|| drop(bash(&mount.path, "rm -rf $MNT/objects")));
    println!("rm -rf of {OBJECTS} objects: {:?}", counts.requests);
    assert_eq!(counts.of(HeadObject), 0, "{:?}", counts.requests);
    assert_eq!(counts.of(GetObject), 0, "{:?}", counts.requests);
    // A directory is listed once, and its parents again when their TTL has expired.
    assert!(
        counts.of(ListObjectsV2) <= 256 + 30,
        "{:?}",
        counts.requests
    );
    mount.end_well();
    // In a tree that has not been visited, each name is requested once.
    let mount = rig.mount("mnt", LASTING);
    write_fan_out(&mount.path, OBJECTS);
    mount.end_well();
    let mount = rig.mount("mnt", LASTING);
    let counts = rig.requests(|| drop(bash(&mount.path, "rm -rf $MNT/objects")));
    println!("the same, on a new mount: {:?}", counts.requests);
    let asked = counts.of(HeadObject) + counts.of(GetObject);
    assert!(asked <= OBJECTS + 257, "{:?}", counts.requests);
    assert!(counts.of(ListObjectsV2) <= 256 + 5, "{:?}", counts.requests);
    mount.end_well();
}

/// Lookups of git one second after the previous ones cost little more than those within the TTL.
#[test]
fn cloning_from_loose_objects_costs_little_more_than_with_a_long_lifetime() {
    if !can_mount() || !has_program("git") {
        return;
    }
    let rig = Rig::new();
    let source = rig.path("source");
    fs::create_dir(&source).unwrap();
    bash(
        &source,
        "export HOME=$MNT GIT_CONFIG_NOSYSTEM=1
        cd $MNT; git init -q .; git config user.name n; git config user.email e; git config gc.auto 0
        for i in $(seq 120); do echo $i > f$((i % 9)); git add .; git commit -qm $i; done",
    );
    let mount = rig.mount("mnt", LASTING);
    bash(
        &source,
        &format!("cp -r $MNT {}/repository", mount.path.display()),
    );
    mount.end_well();
    let clone = |ttl: &str, into: &str| {
        let mount = rig.mount("mnt", &["--metadata-ttl", ttl]);
        bash(&mount.path, "find $MNT -type f -size +1c | wc -l");
        rig.instruments().set_latency(Duration::from_millis(10));
        let line = format!(
            "export HOME=$MNT GIT_CONFIG_NOSYSTEM=1
            git config --file /dev/null --list
            git -c safe.directory='*' clone -q file://$MNT/repository {}",
            rig.path(into).display()
        );
        let counts = rig.requests(|| drop(bash(&mount.path, &line)));
        rig.instruments().set_latency(Duration::ZERO);
        println!(
            "clone with a TTL of {ttl} s: {:?}, {}",
            counts.requests,
            counts.total()
        );
        mount.end_well();
        counts
    };
    let long = clone("60", "long").total();
    let short = clone("1", "short");
    assert!(
        short.total() * 10 <= long * 13 + 100,
        "{long}: {:?}",
        short.requests
    );
}

// ---- seeking ----

/// Regression: reading a member of an archive fetched sixteen times its size.
#[test]
fn a_member_of_a_large_archive_costs_little_more_than_its_size() {
    if !can_mount() {
        return;
    }
    const SIZE: usize = 78_940_822;
    const MEMBER: usize = 263_000;
    let rig = Rig::new();
    let mount = rig.mount("mnt", LASTING);
    let bytes = noise(5, SIZE);
    write_and_close(&mount.path.join("archive"), &bytes).unwrap();
    mount.end_well();
    // (the read size, the member's position)
    for (step, at) in [(8192, 16_572_416), (MEMBER, 33_333_333), (4096, 71_548_928)] {
        let mount = rig.mount("mnt", LASTING);
        let counts = rig.requests(|| {
            let file = fs::File::open(mount.path.join("archive")).unwrap();
            let expect = |from: usize, len: usize| {
                let mut read = vec![0; len];
                file.read_exact_at(&mut read, from as u64).unwrap();
                assert!(read == bytes[from..from + len]);
            };
            // The end of the table of contents, the whole table, and the member's own header.
            expect(SIZE - 22, 22);
            expect(SIZE - 20_000, 20_000);
            expect(at, 30);
            for from in (at + 30..at + MEMBER).step_by(step) {
                expect(from, step.min(at + MEMBER - from));
            }
        });
        println!(
            "{MEMBER} bytes, {step} at a time: {} fetched, {:?}",
            counts.bytes_out, counts.requests
        );
        let most = 2 * MEMBER as u64 + (256 << 10);
        assert!(counts.bytes_out <= most, "{step}: {}", counts.bytes_out);
        assert!(counts.of(GetObject) <= 14, "{:?}", counts.requests);
        mount.end_well();
    }
}

// ---- the root ----

/// "Attributes of the root that other clients set become visible after at most `--dir-ttl`: they are stored
/// in an object of their own."
///
/// Regression: once they were stored, every TTL began with three sequential requests.
#[test]
fn the_roots_attributes_cost_no_more_than_any_directorys() {
    if !can_mount() {
        return;
    }
    let rig = Rig::new();
    let ttl = ["--metadata-ttl", "1", "--dir-ttl", "8"];
    let mount = rig.mount("mnt", &ttl);
    bash(
        &mount.path,
        "mkdir $MNT/d; echo x > $MNT/d/f; chmod 750 $MNT $MNT/d",
    );
    // Modes and times are cached permanently only once they are two seconds old.
    std::thread::sleep(Duration::from_millis(2100));
    mount.end_well();
    let mount = rig.mount("mnt", &ttl);
    bash(&mount.path, "ls -l $MNT $MNT/d");
    let expired = Duration::from_millis(1100);
    std::thread::sleep(expired);
    let root = rig.requests(|| drop(bash(&mount.path, "stat $MNT; ls $MNT")));
    assert_costs("the root", &root, &[(ListObjectsV2, 1)]);
    std::thread::sleep(expired);
    let below = rig.requests(|| drop(bash(&mount.path, "ls -l $MNT/d")));
    println!("a directory below: {:?}", below.requests);
    assert_eq!(below.of(HeadObject), 0, "{:?}", below.requests);
    assert!(below.of(ListObjectsV2) <= 2, "{:?}", below.requests);
    // Another client's change.
    let other = rig.mount("other", &ttl);
    bash(&other.path, "chmod 700 $MNT");
    std::thread::sleep(Duration::from_millis(8100));
    let mode = fs::metadata(&mount.path).unwrap().mode();
    assert_eq!(mode & 0o777, 0o700);
    other.end_well();
    mount.end_well();
}
