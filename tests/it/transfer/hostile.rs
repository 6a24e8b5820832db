//! A bucket that someone else can write to.

use std::os::unix::fs::FileTypeExt;

use ossvault::store::object_store::{Body, ObjectHeaders, Overwrite};

use super::*;
use crate::fixture::is_root;

impl Rig {
    fn plant(&self, key: &str, headers: &ObjectHeaders, bytes: &'static [u8]) {
        let key = ObjectKey::new(key).unwrap();
        let put = self
            .store
            .put(&key, headers, Body::from_bytes(bytes), Overwrite::Allowed);
        self.block_on(put).unwrap();
    }

    /// Someone else's metadata on an object of ours.
    fn claim(&self, key: &str, name: &str, value: &str) {
        use ossvault::store::object_store::{CopyHeaders, CopyRequest};
        let meta = self.meta(key);
        let mut headers = meta.headers;
        headers.user.insert(name.to_owned(), value.to_owned());
        let key = ObjectKey::new(key).unwrap();
        let copy = CopyRequest {
            source: key.clone(),
            source_etag: meta.etag,
            destination: key,
            headers: CopyHeaders::Replace(headers),
            overwrite: Overwrite::Allowed,
        };
        self.block_on(self.store.copy(&copy)).unwrap();
    }
}

#[test]
fn no_key_leads_out_of_the_destination() {
    let rig = Rig::new();
    fs::create_dir_all(rig.path("outside")).unwrap();
    fs::write(rig.path("good"), "good").unwrap();
    rig.run(&["put", "good", &oss("/p/good")]).succeeds();
    let good = rig.meta("p/good").headers;
    let content: &'static [u8] = rig.ciphertext("p/good").leak();
    for key in [
        "p/../outside/x",
        "p/..",
        "p/.",
        "p//x",
        "p/a/../../outside/x",
        "p/./x",
        "p/x/",
        "p/nul\0x",
        "p/away/x",
        "p/.ossvault/x",
    ] {
        rig.plant(key, &good, content);
    }
    fs::create_dir(rig.path("back")).unwrap();
    symlink(rig.path("outside"), rig.path("back/away")).unwrap();
    rig.run(&["get", "-v", &oss("/p/"), "back"])
        .succeeds()
        .has(&["hidden: p/../outside/x"]);
    assert_eq!(fs::read_dir(rig.path("outside")).unwrap().count(), 0);
    // A link in the destination made way for a directory.
    assert!(rig.path("back/away").symlink_metadata().unwrap().is_dir());
    assert_eq!(fs::read(rig.path("back/away/x")).unwrap(), b"good");
    let mut names: Vec<_> = fs::read_dir(rig.path("back"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    names.sort();
    assert_eq!(names, ["away", "good"]);
    // Names that no file can have go with their directory.
    rig.look(&["rm", "-r", &oss("/p")]).succeeds();
    assert!(rig.keys().is_empty(), "{:?}", rig.keys());
}

#[test]
fn what_is_claimed_of_a_file_is_not_believed() {
    let rig = Rig::new();
    for name in ["file", "suid", "device"] {
        fs::write(
            rig.path(name),
            if name == "device" { "" } else { "/etc/passwd" },
        )
        .unwrap();
        rig.run(&["put", name, &oss("/p/")]).succeeds();
    }
    rig.claim("p/file", "mode", &(libc::S_IFLNK | 0o777).to_string());
    rig.claim("p/suid", "mode", &(libc::S_IFREG | 0o6755).to_string());
    rig.claim("p/device", "mode", &(libc::S_IFBLK | 0o666).to_string());
    rig.plant("p/plain", &ObjectHeaders::default(), b"not encrypted");
    let run = rig.run(&["get", "-v", &oss("/p/"), "back"]);
    run.fails(
        43,
        &[
            "damaged: p/file",
            "device: p/device",
            "not-encrypted: p/plain",
        ],
    );
    assert_eq!(
        fs::metadata(rig.path("back/suid")).unwrap().mode() & 0o7777,
        0o755
    );
    for name in ["file", "device", "plain"] {
        assert!(
            rig.path("back").join(name).symlink_metadata().is_err(),
            "{name}"
        );
    }
    rig.run(&["get", "--allow-plaintext", "p", &oss("/p/plain"), "plain"])
        .succeeds();
    assert_eq!(fs::read(rig.path("plain")).unwrap(), b"not encrypted");
    if is_root() {
        rig.run(&["get", "--trust-modes", "-I", &oss("/p/suid"), "suid2"])
            .succeeds();
        assert_eq!(
            fs::metadata(rig.path("suid2")).unwrap().mode() & 0o7777,
            0o6755
        );
        rig.claim("p/device", "ossvault-rdev", "259");
        rig.claim("p/device", "mode", &(libc::S_IFCHR | 0o666).to_string());
        rig.run(&["get", "--trust-modes", &oss("/p/device"), "device2"])
            .succeeds();
        let kind = fs::symlink_metadata(rig.path("device2"))
            .unwrap()
            .file_type();
        assert!(kind.is_char_device());
    }
}

#[test]
fn nothing_half_done_is_seen() {
    use ossvault::server::instruments::{Action, Fault};
    use ossvault::server::operation::Operation;
    let rig = Rig::new();
    fs::write(rig.path("a"), noise(1, 200_000)).unwrap();
    rig.run(&["put", "a", &oss("/a")]).succeeds();
    fs::create_dir(rig.path("back")).unwrap();
    fs::write(rig.path("back/a"), "before").unwrap();
    rig.fault(Fault::once(Operation::GetObject, Action::CorruptBody { at: 1000 }).always());
    rig.run(&["get", &oss("/a"), "back"])
        .fails(43, &["damaged: a"]);
    assert_eq!(fs::read(rig.path("back/a")).unwrap(), b"before");
    assert_eq!(fs::read_dir(rig.path("back")).unwrap().count(), 1);
}

/// Both a file and a directory have the name: the directory is what a mount shows.
#[test]
fn a_directory_goes_before_a_file_of_its_name() {
    let rig = Rig::new();
    fs::write(rig.path("f"), "file").unwrap();
    for key in ["/p/x", "/p/x-y", "/p/x.txt", "/p/x/inside"] {
        rig.run(&["put", "f", &oss(key)]).succeeds();
    }
    let run = rig.run(&["get", "-v", &oss("/p/"), "back"]).succeeds();
    run.has(&["hidden: p/x", "fetched: p/x/inside"]);
    assert!(rig.path("back/x/inside").is_file() && rig.path("back/x-y").is_file());
    // And is what is compared with.
    rig.run(&["sync", "--delete", "back", &oss("/p")])
        .succeeds();
    assert!(!rig.keys().contains(&"p/x".to_owned()), "{:?}", rig.keys());
}
