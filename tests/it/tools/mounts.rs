//! Keys in mounts: which one encrypts, which ones decrypt, and how a file appears that none of them opens.

use super::damage::{put_sdk, spoil_v15};
use super::*;

fn errno<T>(result: std::io::Result<T>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

fn getxattr(path: &Path, name: &str) -> std::io::Result<Vec<u8>> {
    let path = std::ffi::CString::new(path.as_os_str().as_encoded_bytes()).unwrap();
    let name = std::ffi::CString::new(name).unwrap();
    let mut value = vec![0u8; 256];
    // SAFETY: both strings end with a zero byte, and the buffer has the length that is given.
    let len = unsafe {
        let buffer = value.as_mut_ptr().cast();
        libc::getxattr(path.as_ptr(), name.as_ptr(), buffer, value.len())
    };
    let len = usize::try_from(len).map_err(|_| std::io::Error::last_os_error())?;
    value.truncate(len);
    Ok(value)
}

/// A key's fingerprint, computed from its public half.
fn fingerprint(rig: &Rig, file: &str) -> String {
    let public = key_parse::public_key(&fs::read(rig.path(file)).unwrap()).unwrap();
    public.fingerprint().to_owned()
}

/// Regression: the failed part was dropped: each further read fetched it again, unlike a part that could be
/// opened.
#[test]
fn reading_again_costs_the_same_requests_whether_the_v15_envelope_opened_or_not() {
    if !can_mount() {
        return;
    }
    let costs = |size: usize, spoilt: bool| {
        let rig = Rig::new();
        put_sdk(&rig, "a", size);
        if spoilt {
            spoil_v15(&rig, "a");
        }
        let mount = rig.mount("mnt", &["--metadata-ttl", "60"]);
        let path = mount.path.join("a");
        let mut costs = Vec::new();
        let mut reads = |file: &File| {
            let counts = rig.requests(|| {
                let read = file.read_at(&mut vec![0; size], 0);
                match spoilt {
                    true => assert_eq!(errno(read), Some(libc::EIO)),
                    false => assert_eq!(read.unwrap(), size),
                }
            });
            costs.push((counts.requests, counts.bytes_out));
        };
        // Three times through one descriptor, and once more after all descriptors are closed.
        let file = File::open(&path).unwrap();
        for _ in 0..3 {
            reads(&file);
        }
        drop(file);
        rig.settle();
        reads(&File::open(&path).unwrap());
        mount.end_well();
        costs
    };
    for size in [17, 60_000, 400_000] {
        let opened = costs(size, false);
        assert_eq!(opened, costs(size, true), "{size}");
        assert!(opened[1..].iter().all(|(requests, _)| requests.is_empty()));
    }
}

/// Regression: an indexer that read such a file filled the log with two lines for every read.
#[test]
fn a_file_that_cannot_be_read_is_in_the_log_once() {
    if !can_mount() {
        return;
    }
    let rig = Rig::new();
    fill(&rig, 4, Format::Seed);
    make_new_key(&rig);
    let key = rig.path("new");
    let source = format!("oss://{BUCKET}");
    let keys = ["--private-key", key.to_str().unwrap()];
    let mount = rig.mount_with_keys("mnt", &source, &keys, &["--accept-key"]);
    let file = File::open(mount.path.join("tree/003")).unwrap();
    for _ in 0..5 {
        let read = file.read_at(&mut [0; 100], 0);
        assert_eq!(errno(read), Some(libc::EACCES));
    }
    drop(file);
    let log = fs::read_to_string(&mount.log).unwrap();
    assert_eq!(log.lines().count(), 1, "{log}");
    assert!(log.contains("reading \"tree/003\": "), "{log}");
    assert!(log.contains("is not among the private keys"), "{log}");
    mount.end_well();
}

#[test]
fn the_first_private_key_writes_and_all_read() {
    if !can_mount() {
        return;
    }
    let rig = Rig::new();
    make_new_key(&rig);
    fill(&rig, 2, Format::Seed);
    let (old, new) = (rig.path("key"), rig.path("new"));
    let (old, new) = (old.to_str().unwrap(), new.to_str().unwrap());
    let public = rig.path("key.pub");
    let public = public.to_str().unwrap();
    let source = format!("oss://{BUCKET}");
    let both = ["--private-key", new, "--private-key", old];
    let by_name = [&both[..], &["--public-key", public]].concat();
    for (name, options, writes) in [
        ("first", &both[..], "new.pub"),
        ("named", &by_name, "key.pub"),
    ] {
        let mount = rig.mount_with_keys(name, &source, options, &[]);
        // Files that the old key wrapped, and files that this mount writes.
        assert_eq!(fs::read(mount.path.join("tree/001")).unwrap(), content(1));
        fs::write(mount.path.join(name), name).unwrap();
        mount.end_well();
        let again = rig.mount_with_keys(name, &source, options, &[]);
        assert_eq!(fs::read_to_string(again.path.join(name)).unwrap(), name);
        again.end_well();
        let hint = head(&rig, name).headers.user["ossvault-key"].clone();
        assert!(fingerprint(&rig, writes).starts_with(&hint), "{name}");
        let opener = writes.trim_end_matches(".pub");
        assert_eq!(read(&rig, opener, name), name.as_bytes());
    }
    // For a key that is not available: nothing written could be read back.
    let pair = ["--private-key", old, "--public-key", "new.pub"];
    let mount = [&["mount", &source, "mnt"][..], &pair].concat();
    fs::create_dir_all(rig.path("mnt")).unwrap();
    run(&rig, &mount).fails(23, &["does not belong"]);
}

#[test]
fn attributes_under_a_missing_key_are_refused_at_the_call() {
    if !can_mount() {
        return;
    }
    let rig = Rig::new();
    // The first has an extended attribute, the second has none.
    fill(&rig, 2, Format::Seed);
    let public = rig.path("key.pub");
    let keys = ["--public-key", public.to_str().unwrap()];
    let mount = rig.mount_with_keys("mnt", &format!("oss://{BUCKET}"), &keys, &[]);
    let denied = getxattr(&mount.path.join("tree/000"), "user.comment");
    assert_eq!(errno(denied), Some(libc::EACCES));
    let none = getxattr(&mount.path.join("tree/001"), "user.comment");
    assert_eq!(errno(none), Some(libc::ENODATA));
    mount.end_well();
}

/// Regression: it reported for every file that it can be opened, because opening needs no key.
#[test]
fn info_reads_a_file_in_a_mount_to_say_whether_it_opens() {
    if !can_mount() {
        return;
    }
    let rig = Rig::new();
    make_new_key(&rig);
    fill(&rig, 4, Format::Seed);
    put_plain(&rig, "plain", &attributes(1), b"plain");
    let mut damaged = head(&rig, "tree/002");
    damaged.headers.user.remove("x-oss-start");
    put_plain(&rig, "damaged", &damaged.headers, b"ciphertext");
    let mut kms = head(&rig, "tree/002");
    for (name, value) in [
        ("client-side-encryption-key", "QUJD"),
        ("client-side-encryption-start", "QUJD"),
        ("client-side-encryption-cek-alg", "AES/CTR/NoPadding"),
        ("client-side-encryption-wrap-alg", "KMS/ALICLOUD"),
    ] {
        kms.headers.user.insert(name.to_owned(), value.to_owned());
    }
    put_plain(&rig, "kms", &kms.headers, b"ciphertext");
    let strange = bucket(&rig, "new", Format::Seed);
    for (name, text) in [("strange", "by another key"), ("strange-empty", "")] {
        let (key, plain) = (object_key(name), Plaintext::from_bytes(text.as_bytes()));
        let put = strange.put(&key, &plain, attributes(1), None, Overwrite::Allowed);
        rig.block_on(put).unwrap();
    }
    let mount = rig.mount("mnt", &["--allow-plaintext", "/"]);
    let info = |name: &str| {
        let path = mount.path.join(name);
        let run = run(&rig, &["info", path.to_str().unwrap(), "--json"]);
        let report: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
        // A file that cannot be opened is an error.
        let code = if report["can_open"] == false { 43 } else { 0 };
        assert_eq!(run.code, Some(code), "{}", run.stderr);
        report
    };
    let ours = info("tree/003");
    assert_eq!(ours["can_open"], true);
    assert_eq!(ours["encrypted"], true);
    assert_eq!(ours["fingerprint"], fingerprint(&rig, "key.pub"));
    assert_eq!(ours["attributes"]["mode"], "33188");
    assert_eq!(ours["attributes"]["mtime"], "1700000000.3");
    assert!(ours["attributes"]["uid"].is_string());
    let plain = info("plain");
    assert_eq!(plain["encrypted"], false);
    assert_eq!(plain["can_open"], true);
    assert_eq!(plain["fingerprint"], serde_json::Value::Null);
    for (name, words) in [
        ("strange", "does not have the key"),
        ("strange-empty", "does not have the key"),
        ("damaged", "envelope is damaged"),
        ("kms", "not supported"),
    ] {
        let found = info(name);
        assert_eq!(found["can_open"], false, "{name}");
        assert_eq!(found["encrypted"], true, "{name}");
        let problem = found["problem"].as_str().unwrap();
        assert!(problem.contains(words), "{name}: {problem}");
    }
    mount.end_well();
}
