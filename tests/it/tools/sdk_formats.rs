//! Mounts that write the SDKs' formats.

use super::*;

#[test]
fn a_mount_that_writes_the_sdks_formats_follows_the_services_rules() {
    if !can_mount() {
        return;
    }
    let large: Vec<u8> = (0..20u32 << 20).map(|i| (i % 251) as u8).collect();
    for format in ["sdk", "dual"] {
        let rig = Rig::new();
        let mount = rig.mount("mnt", &["--format", format, "--metadata-ttl", "60"]);
        let file = |name: &str| mount.path.join(name);
        fs::write(file("small"), "small").unwrap();
        fs::write(file("large"), &large).unwrap();
        for name in ["small", "large"] {
            // A metadata change: the service does not allow it by a copy.
            fs::set_permissions(file(name), fs::Permissions::from_mode(0o600)).unwrap();
            fs::rename(file(name), file(&format!("{name}.2"))).unwrap();
        }
        std::os::unix::fs::symlink("small.2", file("link")).unwrap();
        mount.end_well();
        let user = head(&rig, "large.2").headers.user;
        assert_eq!(
            user["client-side-encryption-data-size"],
            large.len().to_string()
        );
        assert_eq!(user["mode"], (0o100_600).to_string());
        let again = rig.mount("again", &[]);
        assert_eq!(fs::read(again.path.join("link")).unwrap(), b"small");
        assert!(fs::read(again.path.join("large.2")).unwrap() == large);
        let mode = fs::metadata(again.path.join("small.2")).unwrap().mode();
        assert_eq!(mode & 0o777, 0o600);
        again.end_well();
        rig.assert_no_unfinished_uploads();
    }
}

/// "A file is not uploaded while it is being written: its size must be known first." "chmod, chown, utimens
/// and setxattr upload the whole object again, unchanged. So does a change of attributes during an upload."
#[test]
fn in_the_sdks_formats_attributes_cost_an_upload() {
    if !can_mount() {
        return;
    }
    let rig = Rig::new();
    let options = ["--part-size", "128K", "--stream-after", "256K"];
    let options = [&options[..], &["--format", "sdk", "--metadata-ttl", "60"]].concat();
    let mount = rig.mount("mnt", &options);
    let path = mount.path.join("f");
    let mut file = fs::File::create(&path).unwrap();
    let written = rig.requests(|| file.write_all(&vec![7; 1 << 20]).unwrap());
    assert_eq!(written.total(), 0, "{:?}", written.requests);
    drop(file);
    let stored = rig.ciphertext("f");
    for line in [
        "chmod 600 $MNT/f",
        "chown $(id -u):$(id -g) $MNT/f; chmod 640 $MNT/f",
        "touch -d @1000 $MNT/f",
        "python3 -c 'import os, sys; os.setxattr(sys.argv[1], \"user.a\", b\"1\")' $MNT/f",
    ] {
        let counts = rig.requests(|| drop(bash(&mount.path, line)));
        assert!(counts.bytes_in >= 1 << 20, "{line}: {:?}", counts.requests);
        assert_eq!(counts.of(Operation::CopyObject), 0, "{line}");
        assert!(rig.ciphertext("f") == stored, "{line}");
    }

    // A chmod while the upload is in progress.
    let path = mount.path.join("g");
    let stall = Action::Stall { ms: 2000 };
    rig.fault(Fault::once(Operation::PutObject, stall));
    let counts = rig.requests(|| {
        let mut file = fs::File::create(&path).unwrap();
        file.write_all(&[7; 1000]).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let sent = || rig.instruments().counts().of(Operation::PutObject);
                eventually("the upload is under way", || sent() == 1);
                fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            });
            file.sync_all().unwrap();
        });
    });
    assert_eq!(counts.of(Operation::PutObject), 2, "{:?}", counts.requests);
    mount.end_well();
    let user = head(&rig, "g").headers.user;
    assert_eq!(user["mode"], (0o100_600).to_string());
    rig.assert_no_unfinished_uploads();
}
