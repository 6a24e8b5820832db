//! What attributes cost.

use super::*;

/// Sets every attribute to its current value: mode, owner, times, an extended attribute and, for a file, the
/// size.
#[track_caller]
fn set_what_is_so(path: &Path) {
    let meta = fs::metadata(path).unwrap();
    fs::set_permissions(path, meta.permissions()).unwrap();
    std::os::unix::fs::chown(path, Some(meta.uid()), Some(meta.gid())).unwrap();
    let times = fs::FileTimes::new()
        .set_modified(meta.modified().unwrap())
        .set_accessed(meta.accessed().unwrap());
    fs::File::open(path).unwrap().set_times(times).unwrap();
    set_xattr(path, "user.same", b"value");
    if meta.is_file() {
        let name = std::ffi::CString::new(path.as_os_str().as_bytes()).unwrap();
        let cut = unsafe { libc::truncate(name.as_ptr(), meta.len() as i64) };
        assert_eq!(cut, 0, "{}", std::io::Error::last_os_error());
    }
}

#[track_caller]
fn set_xattr(path: &Path, name: &str, value: &[u8]) {
    let path = std::ffi::CString::new(path.as_os_str().as_bytes()).unwrap();
    let name = std::ffi::CString::new(name).unwrap();
    let set = unsafe {
        libc::setxattr(
            path.as_ptr(),
            name.as_ptr(),
            value.as_ptr().cast(),
            value.len(),
            0,
        )
    };
    assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
}

/// "A call that changes nothing is not stored; the change time that it updates is shown until the mount
/// ends."
///
/// Regression: chmod of a 0644 file to 0644, chown to the same owner and the same times again cost a copy
/// each, which desktops, rsync and build tools do all the time.
#[test]
fn setting_attributes_to_what_they_are_costs_nothing() {
    if !can_mount() {
        return;
    }
    let rig = Rig::new();
    // (the kind, how it was created, its path)
    const SUBJECTS: &[(&str, &str)] = &[
        ("a file", "f"),
        ("a directory", "d"),
        ("a file in it", "d/f"),
        ("the root", ""),
    ];
    let mount = rig.mount("mnt", LASTING);
    bash(&mount.path, "cd $MNT; echo x > f; mkdir d; echo y > d/f");
    for (_, name) in SUBJECTS {
        let path = mount.path.join(name);
        // Once: this stores values that were never set, and deferred ones.
        set_what_is_so(&path);
        fs::File::open(&path).unwrap().sync_all().unwrap();
    }
    for (what, name) in SUBJECTS {
        let path = mount.path.join(name);
        let before = fs::metadata(&path).unwrap();
        std::thread::sleep(Duration::from_millis(20));
        assert_costs(what, &rig.requests(|| set_what_is_so(&path)), &[]);
        let after = fs::metadata(&path).unwrap();
        let ctime = |meta: &fs::Metadata| (meta.ctime(), meta.ctime_nsec());
        assert!(
            ctime(&after) > ctime(&before),
            "{what}: the time of change moves"
        );
        assert_eq!(
            after.modified().unwrap(),
            before.modified().unwrap(),
            "{what}"
        );
    }
    mount.end_well();
    // In a mount that did not create it, and has looked it up.
    let mount = rig.mount("mnt", LASTING);
    for (what, name) in SUBJECTS {
        let path = mount.path.join(name);
        fs::metadata(&path).unwrap();
        let counts = rig.requests(|| set_what_is_so(&path));
        assert_eq!(counts.of(CopyObject), 0, "{what}: {:?}", counts.requests);
        assert_eq!(counts.of(PutObject), 0, "{what}: {:?}", counts.requests);
    }
    mount.end_well();
}

#[test]
fn setting_attributes_to_what_they_are_costs_nothing_while_the_file_is_open_or_pending() {
    if !can_mount() {
        return;
    }
    let rig = Rig::new();
    let mount = rig.mount("mnt", LASTING);
    // Open, and clean.
    let path = mount.path.join("open");
    write_and_close(&path, b"x").unwrap();
    set_what_is_so(&path);
    let file = fs::File::options().write(true).open(&path).unwrap();
    let counts = rig.requests(|| {
        set_what_is_so(&path);
        close(file).unwrap();
    });
    assert_costs("an open file", &counts, &[]);
    // Changed: its upload includes the new attributes, once. A HEAD checks that the base of the append is
    // still there.
    let mut file = fs::File::options().append(true).open(&path).unwrap();
    let counts = rig.requests(|| {
        file.write_all(b"y").unwrap();
        set_what_is_so(&path);
        close(file).unwrap();
    });
    let expected = [(PutObject, 1), (HeadObject, 1)];
    assert_costs("a changed file", &counts, &expected);
    // Under a temporary name, waiting for its rename.
    let path = mount.path.join(".waiting.a1B2c3");
    let mut file = fs::File::create_new(&path).unwrap();
    let counts = rig.requests(|| {
        file.write_all(b"y").unwrap();
        close(file).unwrap();
        set_what_is_so(&path);
        fs::rename(&path, mount.path.join("renamed")).unwrap();
        set_what_is_so(&mount.path.join("renamed"));
    });
    assert_costs("a pending file", &counts, &[(PutObject, 1)]);
    mount.end_well();
}

#[test]
fn copies_that_keep_attributes_cost_one_copy_besides_the_content() {
    if !can_mount() {
        return;
    }
    let rig = Rig::new();
    let mount = rig.mount("mnt", LASTING);
    let source = rig.path("source");
    fs::write(&source, noise(1, 20_000)).unwrap();
    bash(&source, "chmod 640 $MNT; touch -d 2020-01-01 $MNT");
    bash(
        &mount.path,
        &format!("cd $MNT; ls; cp -a {} f", source.display()),
    );
    // cp -a within the mount: content, then owner, mode and times through the open descriptor.
    let copied = rig.requests(|| drop(bash(&mount.path, "cp -a $MNT/f $MNT/g")));
    println!("cp -a within the mount: {:?}", copied.requests);
    // cp creates its file with O_EXCL, which is checked at the service.
    assert_costs("cp -a", &copied, &[(ListObjectsV2, 1), (CopyObject, 2)]);
    // From outside, the upload includes them.
    let line = format!("cp -a {} $MNT/h", source.display());
    let copied = rig.requests(|| drop(bash(&mount.path, &line)));
    assert_costs(
        "cp -a from outside",
        &copied,
        &[(ListObjectsV2, 1), (PutObject, 1)],
    );
    // As desktops paste: write and close, then set the mode, which is the same already, and the times.
    let path = mount.path.join("pasted");
    let pasted = rig.requests(|| {
        write_and_close(&path, &noise(2, 5000)).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions();
        fs::set_permissions(&path, mode).unwrap();
        let times = fs::FileTimes::new()
            .set_modified(SystemTime::UNIX_EPOCH)
            .set_accessed(SystemTime::UNIX_EPOCH);
        fs::File::open(&path).unwrap().set_times(times).unwrap();
    });
    assert_costs("a paste", &pasted, &[(PutObject, 1), (CopyObject, 1)]);
    mount.end_well();
    let mount = rig.mount("other", LASTING);
    for name in ["g", "h"] {
        let meta = fs::metadata(mount.path.join(name)).unwrap();
        let expected = fs::metadata(&source).unwrap();
        assert_eq!(meta.mode(), expected.mode(), "{name}");
        assert_eq!(meta.mtime(), expected.mtime(), "{name}");
    }
    mount.end_well();
}

/// "Attributes that a program sets on a file it has open for writing are stored by its `close()` or
/// `fsync()`, which return the error."
#[test]
fn attributes_set_on_a_file_being_written_are_stored_or_refused_at_its_close() {
    if !can_mount() {
        return;
    }
    let rig = Rig::new();
    let mount = rig.mount("mnt", LASTING);
    let path = mount.path.join("f");
    write_and_close(&path, b"x").unwrap();
    let stored_time = || {
        let head = rig.block_on(rig.store.head(&ObjectKey::new("f").unwrap()));
        head.unwrap().headers.user["mtime"].clone()
    };
    let at = |seconds| {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        fs::FileTimes::new().set_modified(time)
    };
    let open = || fs::File::options().write(true).open(&path).unwrap();
    // Visible at once; stored by the close, by fsync, and by changes of other programs.
    let file = open();
    file.set_times(at(1000)).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().mtime(), 1000);
    assert_ne!(stored_time(), "1000");
    close(file).unwrap();
    assert_eq!(stored_time(), "1000");
    let file = open();
    file.set_times(at(2000)).unwrap();
    file.sync_all().unwrap();
    assert_eq!(stored_time(), "2000");
    file.set_times(at(3000)).unwrap();
    bash(&path, "chmod 600 $MNT");
    assert_eq!(stored_time(), "3000");
    // A later write takes precedence.
    file.set_times(at(4000)).unwrap();
    file.write_all_at(b"y", 0).unwrap();
    close(file).unwrap();
    let written: f64 = stored_time().parse().unwrap();
    assert!(written > 1e9, "{written}");
    // Refused.
    let file = open();
    file.set_times(at(5000)).unwrap();
    let refused = Action::Status {
        status: 403,
        code: "AccessDenied".to_owned(),
    };
    rig.fault(Fault::once(CopyObject, refused).always());
    let error = close(file).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EACCES));
    rig.instruments().clear_faults();
    eventually("nothing has changed", || {
        fs::metadata(&path).unwrap().mtime() as f64 == written.floor()
    });
    mount.end_well();
}

/// "Attributes that are set on a file under a temporary name wait for its rename as well."
///
/// Regression: a file larger than a part was uploaded under its temporary name, and copied there once for
/// each of its attributes before it was copied to its final name.
#[test]
fn rsync_of_a_large_file_costs_its_upload_and_one_copy() {
    if !can_mount() || !has_program("rsync") {
        return;
    }
    let rig = Rig::new();
    let source = rig.path("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("large"), noise(1, 3 << 20)).unwrap();
    bash(
        &source,
        "cd $MNT; chmod 640 large; touch -d 2020-01-01 large",
    );
    let options = [LASTING, &["--part-size", "1M"]].concat();
    let mount = rig.mount("mnt", &options);
    bash(&mount.path, "ls $MNT");
    let counts = rig.requests(|| rsync(&source, &mount.path.join("copy"), &[]));
    println!("rsync -a of a large file: {:?}", counts.requests);
    assert_eq!(counts.of(UploadPart), 3, "{:?}", counts.requests);
    assert_eq!(counts.of(DeleteObject), 1, "{:?}", counts.requests);
    // One of them is for the directory.
    assert!(counts.of(CopyObject) <= 2, "{:?}", counts.requests);
    let stored = rig.block_on(rig.store.head(&ObjectKey::new("copy/large").unwrap()));
    let user = stored.unwrap().headers.user;
    assert_eq!(user["mode"], (libc::S_IFREG | 0o640).to_string());
    mount.end_well();
    let mount = rig.mount("other", &options);
    assert_eq!(rsync_differences(&source, &mount.path.join("copy")), "");
    mount.end_well();
}

/// "A directory is renamed by copying its contents; other clients may see it partly moved."
#[test]
fn renaming_a_directory_of_a_hundred_files_costs_a_copy_each_and_five_more() {
    if !can_mount() {
        return;
    }
    let rig = Rig::new();
    let mount = rig.mount("mnt", LASTING);
    fs::create_dir(mount.path.join("old")).unwrap();
    for i in 0..100 {
        write_and_close(&mount.path.join("old").join(name(i)), &content(i)).unwrap();
    }
    let counts = rig.requests(|| {
        fs::rename(mount.path.join("old"), mount.path.join("new")).unwrap();
    });
    println!("renaming a directory of 100 files: {:?}", counts.requests);
    assert!(counts.total() <= 105, "{:?}", counts.requests);
    for i in 0..100 {
        assert_eq!(
            read(&mount.path.join("new").join(name(i))).unwrap(),
            content(i)
        );
    }
    mount.end_well();
    assert!(
        rig.keys().iter().all(|key| key.starts_with("new/")),
        "{:?}",
        rig.keys()
    );
}

#[test]
fn reading_one_byte_of_a_large_file_fetches_at_most_a_mebibyte() {
    if !can_mount() {
        return;
    }
    let rig = Rig::new();
    let mount = rig.mount("mnt", LASTING);
    let bytes = noise(1, 40 << 20);
    write_and_close(&mount.path.join("large"), &bytes).unwrap();
    mount.end_well();
    for offset in [0, 1, 12_345_678, (40 << 20) - 1] {
        let mount = rig.mount("mnt", LASTING);
        let counts = rig.requests(|| {
            let file = fs::File::open(mount.path.join("large")).unwrap();
            let mut byte = [0];
            file.read_exact_at(&mut byte, offset).unwrap();
            assert_eq!(byte[0], bytes[offset as usize]);
        });
        println!(
            "one byte at {offset}: {} bytes fetched, {:?}",
            counts.bytes_out, counts.requests
        );
        // Listings are counted too: some hundred bytes.
        assert!(
            counts.bytes_out <= (1 << 20) + 4096,
            "at {offset}: {}",
            counts.bytes_out
        );
        mount.end_well();
    }
}
