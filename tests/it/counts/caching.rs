//! What is read again, or was written, is not fetched.

use super::*;

/// Bypasses the kernel's cache.
fn read_directly(path: &Path, len: usize) -> Vec<u8> {
    const PAGE: usize = 4096;
    let file = fs::File::options()
        .read(true)
        .custom_flags(libc::O_DIRECT)
        .open(path)
        .unwrap();
    let mut bytes = vec![0; len.next_multiple_of(PAGE) + PAGE];
    let start = bytes.as_ptr().align_offset(PAGE);
    let mut filled = 0;
    while filled < len {
        let end = (start + len).next_multiple_of(PAGE).min(bytes.len());
        let read = file
            .read_at(&mut bytes[start + filled..end], filled as u64)
            .unwrap();
        assert!(read > 0, "{} ends after {filled}", path.display());
        filled += read;
    }
    bytes[start..start + len].to_vec()
}

/// Regression: an image viewer reads the beginning of each file, and opens it again twice: this cost three
/// requests per file.
#[test]
fn a_small_file_is_fetched_once_however_often_it_is_opened() {
    if !can_mount() {
        return;
    }
    const FILES: u64 = 40;
    const LEN: usize = 300_000;
    let rig = Rig::new();
    let mount = rig.mount("mnt", LASTING);
    for i in 0..FILES {
        write_and_close(&mount.path.join(name(i)), &noise(i, LEN)).unwrap();
    }
    mount.end_well();
    let mount = rig.mount("mnt", LASTING);
    bash(&mount.path, "ls -l $MNT");
    let heads = rig.requests(|| {
        let line = format!(
            "cd $MNT; head -c 4096 {0} >&2; head -c 20000 {0} >&2",
            name(0)
        );
        bash(&mount.path, &format!("{{ {line}; }} 2> /dev/null"));
    });
    assert_costs("head and head", &heads, &[(GetObject, 1)]);
    let rounds = rig.requests(|| {
        for _ in 0..3 {
            for i in 1..FILES {
                let path = mount.path.join(name(i));
                let mut start = [0; 4096];
                fs::File::open(&path)
                    .unwrap()
                    .read_exact_at(&mut start, 0)
                    .unwrap();
                assert!(read_directly(&path, LEN) == noise(i, LEN));
            }
        }
    });
    assert_costs("three rounds", &rounds, &[(GetObject, FILES - 1)]);
    mount.end_well();

    // Within the memory budget, and not beyond it.
    let options = [LASTING, &["--memory-limit", "16M"]].concat();
    let mount = rig.mount("mnt", &options);
    for _ in 0..2 {
        for i in 0..FILES {
            assert!(read_directly(&mount.path.join(name(i)), LEN) == noise(i, LEN));
        }
    }
    let again = rig.requests(|| drop(read_directly(&mount.path.join(name(FILES - 1)), LEN)));
    assert_costs("the last one", &again, &[]);
    assert!(mount.peak_memory() < 80 << 20, "{}", mount.peak_memory());
    mount.end_well();
}

/// After another client has replaced a file, its cached data must not be used.
#[test]
fn cached_data_of_one_version_is_not_shown_for_another() {
    if !can_mount() {
        return;
    }
    let rig = Rig::new();
    let mount = rig.mount("mnt", &["--metadata-ttl", "0"]);
    let other = rig.mount("other", &["--metadata-ttl", "0"]);
    for round in 0..10u64 {
        let (writer, reader) = match round % 2 {
            0 => (&mount.path, &other.path),
            _ => (&other.path, &mount.path),
        };
        let bytes = noise(round, 10_000);
        write_and_close(&writer.join("f"), &bytes).unwrap();
        assert!(read_directly(&reader.join("f"), 10_000) == bytes, "{round}");
        assert!(read_directly(&writer.join("f"), 10_000) == bytes, "{round}");
    }
    mount.end_well();
    other.end_well();
}

/// Regression: `echo x >> f` fetched the whole file, also right after this mount had written it.
#[test]
fn written_data_is_not_fetched_again() {
    if !can_mount() {
        return;
    }
    const LARGE: usize = 20 << 20;
    let rig = Rig::new();
    let mount = rig.mount("mnt", LASTING);
    bash(&mount.path, "ls $MNT");
    let path = mount.path.join("small");
    let small = rig.requests(|| {
        write_and_close(&path, &noise(1, 5000)).unwrap();
        assert!(read_directly(&path, 5000) == noise(1, 5000));
        for _ in 0..3 {
            bash(&path, "echo x >> $MNT");
        }
        bash(
            &mount.path,
            "cd $MNT; chmod 600 small; mv small renamed; echo x >> renamed",
        );
        bash(&mount.path, "cd $MNT; cp renamed copy; echo x >> copy");
        let expected = [&noise(1, 5000)[..], b"x\nx\nx\nx\nx\n"].concat();
        let found = read_directly(&mount.path.join("copy"), expected.len());
        assert!(found == expected);
    });
    // A HEAD checks that the base of the append is still there, and a LIST whether the copy's name is free.
    let expected = [
        (ListObjectsV2, 1),
        (PutObject, 6),
        (CopyObject, 3),
        (DeleteObject, 1),
        (HeadObject, 5),
    ];
    assert_costs("a small file", &small, &expected);

    let path = mount.path.join("large");
    let mut expected = noise(2, LARGE);
    let large = rig.requests(|| {
        write_and_close(&path, &expected).unwrap();
        for _ in 0..5 {
            bash(&path, "echo x >> $MNT");
            expected.extend(b"x\n");
        }
        // And a write in the middle.
        let file = fs::File::options().write(true).open(&path).unwrap();
        file.write_all_at(b"changed", 7 << 20).unwrap();
        close(file).unwrap();
        expected[7 << 20..][..7].copy_from_slice(b"changed");
    });
    println!("a file of 20 MiB and six changes: {:?}", large.requests);
    assert_eq!(large.of(GetObject), 0, "{:?}", large.requests);
    assert_eq!(large.of(CompleteMultipartUpload), 7, "{:?}", large.requests);
    let read = rig.requests(|| assert!(read_directly(&path, expected.len()) == expected));
    assert_costs("reading it", &read, &[]);
    mount.end_well();
    let mount = rig.mount("other", LASTING);
    assert!(fs::read(mount.path.join("large")).unwrap() == expected);
    mount.end_well();
}

#[test]
fn a_write_only_mount_caches_nothing_that_it_wrote() {
    if !can_mount() {
        return;
    }
    let rig = Rig::new();
    let public = rig.path("key.pub");
    let keys = ["--public-key", public.to_str().unwrap()];
    let mount = rig.mount_with_keys("mnt", "oss://bucket", &keys, LASTING);
    let path = mount.path.join("f");
    write_and_close(&path, b"secret").unwrap();
    for error in [
        fs::read(&path).unwrap_err(),
        fs::File::options().append(true).open(&path).unwrap_err(),
    ] {
        assert_eq!(error.raw_os_error(), Some(libc::EACCES));
    }
    mount.end_well();
}
