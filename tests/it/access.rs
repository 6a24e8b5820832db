//! Access to a mount is not decided by the bucket.

use std::fs;
use std::os::unix::fs::MetadataExt;

use ossvault::store::object_store::{CopyHeaders, CopyRequest, ObjectKey, ObjectStore, Overwrite};

use crate::fixture::{Mount, errno, is_root, mode, set_mode, shell, shell_as};

const NOBODY: u32 = 65534;

/// Changes stored metadata, as anyone who can write to the bucket can.
fn store_attributes(mount: &Mount, key: &str, entries: &[(&str, &str)]) {
    let folder = mount.beside("bucket");
    let store = ossvault::store::local::LocalStore::open(
        &folder,
        ossvault::store::local::Settings { sync: false },
    );
    let store = store.unwrap();
    let key = ObjectKey::new(key).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let meta = store.head(&key).await.unwrap();
        let mut headers = meta.headers.clone();
        for (name, value) in entries {
            headers.user.insert((*name).into(), (*value).into());
        }
        let replace = CopyHeaders::Replace(headers);
        let request = CopyRequest {
            source: key.clone(),
            source_etag: meta.etag.clone(),
            destination: key.clone(),
            headers: replace,
            overwrite: Overwrite::Allowed,
        };
        let copy = store.copy(&request);
        copy.await.unwrap();
    });
}

fn roots_mount(options: &[&str]) -> Option<Mount> {
    if !is_root() {
        eprintln!("skipped: only root can become another user");
        return None;
    }
    let mount = Mount::new(&[&["--metadata-ttl", "0"], options].concat())?;
    fs::write(mount.path("secret"), "text").unwrap();
    set_mode(&mount.path("secret"), 0o600);
    fs::create_dir(mount.path("d")).unwrap();
    Some(mount)
}

fn nobody(mount: &Mount, line: &str) -> bool {
    shell_as(NOBODY, &mount.beside(""), line).0
}

/// "Without `--allow-other`, only the user who mounted the bucket can access the mount, even if that user
/// is root."
#[test]
fn other_users_cannot_access_roots_mount_without_allow_other() {
    let Some(mount) = roots_mount(&[]) else {
        return;
    };
    for entries in [
        [("mode", "33188"), ("uid", "0")],
        [("mode", "33279"), ("uid", "65534")],
    ] {
        store_attributes(&mount, "secret", &entries);
        let shown = fs::metadata(mount.path("secret")).unwrap();
        // Root sees the stored values.
        assert_eq!(shown.uid().to_string(), entries[1].1);
        assert_eq!(shown.mode().to_string(), entries[0].1);
        assert!(!nobody(&mount, "cat mnt/secret"));
        assert!(!nobody(&mount, "ls mnt"));
        assert!(!nobody(&mount, "echo x > mnt/new"));
    }
    assert_eq!(fs::read(mount.path("secret")).unwrap(), b"text");
}

/// "With it, the stored owners and modes decide, and anyone who can write to the bucket can change them."
#[test]
fn stored_modes_apply_to_other_users() {
    let Some(mount) = roots_mount(&["--allow-other"]) else {
        return;
    };
    assert!(!nobody(&mount, "cat mnt/secret"));
    store_attributes(&mount, "secret", &[("mode", "33188")]);
    assert!(nobody(&mount, "cat mnt/secret"));
}

/// "`--umask` removes permissions from all files and directories, whatever is stored; `--force-uid`,
/// `--force-gid`, `--force-file-mode` and `--force-dir-mode` are shown instead of the stored values."
#[test]
fn shown_permissions_can_be_restricted_and_replaced() {
    let options = ["--allow-other", "--umask", "077"];
    let Some(mount) = roots_mount(&options) else {
        return;
    };
    // Even the owner stored in the bucket has no more permissions than the mask leaves.
    store_attributes(&mount, "secret", &[("mode", "33279"), ("uid", "0")]);
    assert!(!nobody(&mount, "cat mnt/secret"));
    assert_eq!(mode(&mount.path("secret")), 0o700);
    assert_eq!(mode(mount.root()), 0o700);
    assert_eq!(mode(&mount.path("d")), 0o700);
    drop(mount);

    let options = [
        "--allow-other",
        "--force-uid=1234",
        "--force-gid=65534",
        "--force-file-mode=0640",
        "--force-dir-mode=0750",
        "--umask=020",
    ];
    let Some(mount) = roots_mount(&options) else {
        return;
    };
    store_attributes(&mount, "secret", &[("mode", "33279"), ("uid", "65534")]);
    for (path, shown) in [
        (mount.path("secret"), 0o640),
        (mount.path("d"), 0o750),
        (mount.root().to_owned(), 0o750),
    ] {
        let meta = fs::symlink_metadata(&path).unwrap();
        assert_eq!((meta.uid(), meta.gid()), (1234, 65534), "{path:?}");
        assert_eq!(mode(&path), shown, "{path:?}");
    }
    assert!(nobody(&mount, "cat mnt/secret"));
    assert!(!nobody(&mount, "echo x >> mnt/secret"));
}

/// "`chmod()` and `chown()` still store their values."
#[test]
fn set_attributes_are_stored_whatever_is_shown() {
    let options = ["--umask=077", "--force-uid=4242", "--force-file-mode=0400"];
    let Some(mut mount) = roots_mount(&options) else {
        return;
    };
    set_mode(&mount.path("secret"), 0o644);
    std::os::unix::fs::chown(mount.path("secret"), Some(77), Some(88)).unwrap();
    assert_eq!(mode(&mount.path("secret")), 0o400);
    assert_eq!(fs::metadata(mount.path("secret")).unwrap().uid(), 4242);
    mount.remount(&[]);
    assert_eq!(mode(&mount.path("secret")), 0o644);
    let meta = fs::metadata(mount.path("secret")).unwrap();
    assert_eq!((meta.uid(), meta.gid()), (77, 88));
}

/// Regression: the kernel resolved the returned target, and the mount looked up the names in it in the
/// bucket.
#[test]
fn opening_a_file_that_became_a_link_looks_no_target_up() {
    let Some(mount) = Mount::served(&["--metadata-ttl", "0"]) else {
        return;
    };
    let secret = "AKIA-super-secret-token-0123456789";
    fs::write(mount.path("token.txt"), secret).unwrap();
    store_attributes(&mount, "token.txt", &[("mode", "41471")]);
    let meta = fs::symlink_metadata(mount.path("token.txt")).unwrap();
    assert!(meta.is_symlink());
    assert_eq!(errno(fs::read(mount.path("token.txt"))), libc::EIO);
    assert_eq!(errno(fs::read_link(mount.path("token.txt"))), libc::EIO);
    assert_eq!(errno(fs::write(mount.path("token.txt"), "new")), libc::EIO);
    shell(mount.root(), "! ls -lR --color=always . || true");
    assert_eq!(mount.bucket().keys(), ["token.txt"]);
    assert!(mount.log().contains("token.txt"), "{}", mount.log());
    assert!(!mount.log().contains(secret));
    fs::remove_file(mount.path("token.txt")).unwrap();
    assert!(mount.bucket().keys().is_empty());
}
