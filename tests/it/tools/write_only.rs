//! Mounts without a private key.

use super::*;

#[test]
fn a_mount_without_a_private_key_writes_and_does_not_read() {
    if !can_mount() {
        return;
    }
    let rig = Rig::new();
    let before = rig.mount("before", &[]);
    fs::write(before.path.join("old"), "old content").unwrap();
    std::os::unix::fs::symlink("old", before.path.join("link")).unwrap();
    before.end_well();

    let public = rig.path("key.pub");
    let keys = ["--public-key", public.to_str().unwrap()];
    let source = format!("oss://{BUCKET}");
    let mount = rig.mount_with_keys("mnt", &source, &keys, &[]);
    let file = |name: &str| mount.path.join(name);
    let denied = |what: &str, error: std::io::Error| {
        assert_eq!(error.raw_os_error(), Some(libc::EACCES), "{what}: {error}");
    };
    // Create, list, rename, delete, replace.
    fs::write(file("new"), "new content").unwrap();
    fs::write(file("doomed"), "x").unwrap();
    fs::remove_file(file("doomed")).unwrap();
    fs::create_dir(file("dir")).unwrap();
    fs::rename(file("new"), file("dir/renamed")).unwrap();
    fs::write(file("old"), "replaced").unwrap();
    fs::set_permissions(file("old"), fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(fs::metadata(file("dir/renamed")).unwrap().len(), 11);
    // Operations that need the content.
    denied("open", File::open(file("dir/renamed")).unwrap_err());
    denied("readlink", fs::read_link(file("link")).unwrap_err());
    let overwrite = File::options().write(true).open(file("old"));
    denied("overwrite", overwrite.unwrap_err());
    let append = File::options().append(true).open(file("old"));
    denied("append", append.unwrap_err());
    let mut truncated = File::options()
        .read(true)
        .write(true)
        .truncate(true)
        .open(file("old"))
        .unwrap();
    truncated.write_all(b"rewritten").unwrap();
    truncated.sync_all().unwrap();
    // Neither the daemon nor the kernel keeps uploaded data.
    eventually("the pages are dropped", || {
        let read = truncated.read_at(&mut [0; 9], 0);
        read.is_err_and(|error| error.raw_os_error() == Some(libc::EACCES))
    });
    drop(truncated);
    denied("open", File::open(file("old")).unwrap_err());
    if has_program("rsync") {
        fs::create_dir_all(rig.path("tree/sub")).unwrap();
        fs::write(rig.path("tree/sub/file"), "by rsync").unwrap();
        let tree = rig.path("tree");
        bash(
            &mount.path,
            &format!("rsync -a {}/ $MNT/synced/", tree.display()),
        );
        assert_eq!(read(&rig, "key", "synced/sub/file"), b"by rsync");
    }
    mount.end_well();
    assert_eq!(read(&rig, "key", "old"), b"rewritten");
    assert_eq!(read(&rig, "key", "dir/renamed"), b"new content");
}

#[test]
fn a_public_key_is_pinned_by_its_fingerprint_and_others_cannot_change_it() {
    let rig = Rig::new();
    fs::create_dir(rig.path("mnt")).unwrap();
    let mount = |options: &[&str]| {
        let base = [
            "mount",
            "oss://bucket",
            "mnt",
            "--public-key",
            "key.pub",
            "--foreground",
        ];
        let options = [&base[..], options, &["--cache-dir", "cache"]].concat();
        run(&rig, &options)
    };
    mount(&["--key-fingerprint", &"0".repeat(64)]).fails(23, &["--key-fingerprint"]);
    mount(&["--key-fingerprint", "abc"]).fails(2, &["not a fingerprint"]);
    fs::set_permissions(rig.path("key.pub"), fs::Permissions::from_mode(0o666)).unwrap();
    mount(&[]).fails(21, &["other users can change it"]);
}
