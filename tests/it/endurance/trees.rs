//! Whole trees come back as they went in, and in plaintext nowhere.

use super::*;

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
