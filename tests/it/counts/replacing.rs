//! What tools that write beside a file and rename cost: editors, rsync.

use super::*;

// ---- temporary names ----

#[test]
fn files_that_tools_write_beside_and_rename_cost_one_put() {
    if !can_mount() {
        return;
    }
    let rig = Rig::new();
    let mount = rig.mount("mnt", LASTING);
    bash(&mount.path, "ls $MNT; echo old > $MNT/settings.ini");
    // (the temporary name, whether the tool calls fsync)
    for (temporary, sync) in [
        ("settings.ini.B7K2Q9", false),
        (".goutputstream-W9K3E1", false),
        (".goutputstream-W9K3E2", true),
        ("settings.ini.hJwQbz", false),
        ("settings.ini.tmp", false),
        (".settings.ini.a1b2c3", false),
    ] {
        let path = mount.path.join(temporary);
        let counts = rig.requests(|| {
            let mut file = fs::File::create_new(&path).unwrap();
            file.write_all(temporary.as_bytes()).unwrap();
            if sync {
                file.sync_all().unwrap();
            }
            close(file).unwrap();
            fs::rename(&path, mount.path.join("settings.ini")).unwrap();
        });
        // O_EXCL checks at the service whether the name is free, except for random names.
        match temporary {
            "settings.ini.tmp" => {
                assert_costs(temporary, &counts, &[(ListObjectsV2, 1), (PutObject, 1)]);
            }
            _ => assert_costs(temporary, &counts, &[(PutObject, 1)]),
        }
        let found = read(&mount.path.join("settings.ini")).unwrap();
        assert_eq!(found, temporary.as_bytes());
    }
    // What vim tries before it writes.
    let path = mount.path.join("4913");
    let counts = rig.requests(|| {
        close(fs::File::create_new(&path).unwrap()).unwrap();
        fs::remove_file(&path).unwrap();
    });
    assert_costs(
        "a test whether a file can be made",
        &counts,
        &[(ListObjectsV2, 1)],
    );
    mount.end_well();
}

// ---- rsync ----

#[test]
fn rsync_of_new_files_costs_at_most_a_third_more_than_a_put_each_and_nothing_the_second_time() {
    if !can_mount() || !has_program("rsync") {
        return;
    }
    let rig = Rig::new();
    let flat = rig.path("flat");
    fs::create_dir(&flat).unwrap();
    for i in 0..500 {
        fs::write(flat.join(name(i)), content(i)).unwrap();
    }
    let deep = rig.path("deep");
    for folder in 0..20 {
        let folder = deep.join(format!("folder-{folder}"));
        fs::create_dir_all(&folder).unwrap();
        for i in 0..10 {
            fs::write(folder.join(name(i)), content(i)).unwrap();
        }
    }
    // Another time than now: it has to be set, on directories too.
    bash(
        &rig.path(""),
        "find \"$MNT/flat\" \"$MNT/deep\" -exec touch -d 2021-02-03T04:05:06.789 {} +",
    );
    let mount = rig.mount("mnt", LASTING);
    for (source, files) in [(&flat, 500), (&deep, 200)] {
        let target = mount.path.join(source.file_name().unwrap());
        let first = rig.requests(|| {
            rsync(source, &target, &[]);
            // The times of new directories are stored within a second.
            std::thread::sleep(Duration::from_millis(1500));
        });
        let each = first.total() as f64 / f64::from(files);
        println!(
            "rsync -a of {files} new files: {:?}, {each:.3} a file",
            first.requests
        );
        assert!(each <= 1.3, "{each} a file: {:?}", first.requests);
        let second = rig.requests(|| rsync(source, &target, &[]));
        println!("the same again: {:?}", second.requests);
        assert_eq!(second.others(&[ListObjectsV2]), 0, "{:?}", second.requests);
    }
    mount.end_well();
    // A new mount, with nothing but the key, finds everything that was written.
    let mount = rig.mount("other", &["--metadata-ttl", "0"]);
    for source in [&flat, &deep] {
        let target = mount.path.join(source.file_name().unwrap());
        assert_eq!(rsync_differences(source, &target), "");
    }
    mount.end_well();
}

pub(crate) fn rsync(source: &Path, target: &Path, options: &[&str]) {
    let output = Command::new("rsync")
        .arg("-a")
        .args(options)
        .arg(slashed(source))
        .arg(slashed(target))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// The changes that `rsync -anc --delete` would make, in either direction.
pub(crate) fn rsync_differences(one: &Path, other: &Path) -> String {
    let mut differences = String::new();
    for (source, target) in [(one, other), (other, one)] {
        let output = Command::new("rsync")
            .args(["-anci", "--delete"])
            .arg(slashed(source))
            .arg(slashed(target))
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        differences += &String::from_utf8(output.stdout).unwrap();
    }
    differences
}

fn slashed(path: &Path) -> PathBuf {
    path.join("")
}

/// "Renaming a file of 1 GB or more transfers its data through this machine."
#[test]
fn objects_too_large_for_one_copy_are_copied_in_parts() {
    if !can_mount() {
        return;
    }
    const LIMIT: usize = 1 << 20;
    let bytes = noise(7, 3 * LIMIT);
    for format in ["seed", "sdk"] {
        // The limit of 1 GB, reduced on both sides.
        let rig = Rig::with(|config| config.copy_limit = LIMIT as u64);
        let options = [LASTING, &["--copy-limit", "1M", "--format", format]].concat();
        let mount = rig.mount("mnt", &options);
        fs::create_dir(mount.path.join("d")).unwrap();
        fs::write(mount.path.join("d/large"), &bytes).unwrap();
        for line in [
            "mv $MNT/d/large $MNT/d/renamed",
            "mv $MNT/d $MNT/e",
            "chmod 600 $MNT/e/renamed",
            "cp -p $MNT/e/renamed $MNT/copy",
        ] {
            let counts = rig.requests(|| drop(bash(&mount.path, line)));
            let moved = counts.bytes_in.min(counts.bytes_out) as usize;
            let in_parts = counts.of(UploadPartCopy);
            if format == "seed" {
                assert_eq!(in_parts % 3, 0, "{line}: {:?}", counts.requests);
                assert!(in_parts > 0 && moved < LIMIT, "{line}: {moved} bytes");
            } else {
                assert_eq!(in_parts, 0, "{line}: {:?}", counts.requests);
                assert!(moved >= 3 * LIMIT, "{line}: {moved} bytes");
            }
            // The directory's marker.
            assert!(counts.of(CopyObject) <= 1, "{line}: {:?}", counts.requests);
        }
        mount.end_well();
        rig.assert_no_unfinished_uploads();
        let mount = rig.mount("other", &[]);
        let path = mount.path.join("e/renamed");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(read(&path).unwrap(), bytes);
        assert_eq!(read(&mount.path.join("copy")).unwrap(), bytes);
        mount.end_well();
    }
}

/// "A file that is uploaded while it is written keeps the modification time at which its upload began,
/// unless it is still being written a minute later or the time is set explicitly."
///
/// Regression: an upload cannot change its headers at its end, and every write updated the modification time,
/// so each large file was copied onto itself once more to correct it.
#[test]
fn a_large_file_written_in_order_is_not_copied_to_correct_its_time() {
    if !can_mount() {
        return;
    }
    const PIECE: usize = 1 << 20;
    let rig = Rig::new();
    let mount = rig.mount("mnt", LASTING);
    let path = mount.path.join("large");
    let bytes = noise(3, 80 * PIECE);
    let source = rig.path("source");
    fs::write(&source, &bytes).unwrap();
    // In a separate process: a process that another test forks from this one would close a duplicate of the
    // descriptor in the middle of it.
    let counts = rig.requests(|| {
        let line = format!(
            "dd bs={PIECE} status=none if={} of={}",
            source.display(),
            path.display()
        );
        bash(&mount.path, &line);
    });
    assert_eq!(
        counts.of(InitiateMultipartUpload),
        1,
        "{:?}",
        counts.requests
    );
    assert_eq!(counts.of(CopyObject), 0, "{:?}", counts.requests);
    assert_eq!(counts.of(UploadPartCopy), 0, "{:?}", counts.requests);
    let shown = fs::metadata(&path).unwrap().modified().unwrap();
    mount.end_well();
    let mount = rig.mount("other", &[]);
    let path = mount.path.join("large");
    assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), shown);
    assert_eq!(read(&path).unwrap(), bytes);
    // A time that is set explicitly is kept.
    let line = format!(
        "{{ cat {}; touch -d @1000 {}; }} > {1}",
        source.display(),
        path.display()
    );
    bash(&mount.path, &line);
    mount.end_well();
    let mount = rig.mount("again", &[]);
    assert_eq!(
        fs::metadata(mount.path.join("large")).unwrap().mtime(),
        1000
    );
    mount.end_well();
}

#[test]
#[ignore = "takes long: scripts/exercise slow-writer"]
fn a_large_file_that_is_written_for_more_than_a_minute_has_the_time_of_its_last_write() {
    if !can_mount() {
        return;
    }
    let rig = Rig::new();
    let options = ["--part-size", "128K", "--stream-after", "256K"];
    let mount = rig.mount("mnt", &options);
    let path = mount.path.join("slow");
    let mut file = fs::File::create(&path).unwrap();
    for _ in 0..2 {
        file.write_all(&noise(3, 4 << 20)).unwrap();
        std::thread::sleep(Duration::from_secs(65));
    }
    let before_the_last = SystemTime::now();
    file.write_all(b"the end").unwrap();
    drop(file);
    let shown = fs::metadata(&path).unwrap().modified().unwrap();
    assert!(shown + Duration::from_secs(1) > before_the_last);
    mount.end_well();
    let mount = rig.mount("other", &[]);
    let stored = fs::metadata(mount.path.join("slow")).unwrap();
    assert_eq!(stored.modified().unwrap(), shown);
    mount.end_well();
}
