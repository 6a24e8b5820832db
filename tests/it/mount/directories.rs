//! Directories that change while they are read.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;

use crate::fixture::*;

/// A directory stream, as in libc.
struct Stream(*mut libc::DIR);

impl Stream {
    fn open(path: &Path) -> Stream {
        let stream = unsafe { libc::opendir(c_path(path).as_ptr()) };
        assert!(!stream.is_null());
        Stream(stream)
    }

    /// The next name except `.` and `..`.
    fn next(&mut self) -> Option<String> {
        loop {
            let entry = unsafe { libc::readdir(self.0) };
            if entry.is_null() {
                return None;
            }
            let name = unsafe { std::ffi::CStr::from_ptr((*entry).d_name.as_ptr()) };
            let name = name.to_str().unwrap().to_owned();
            if name != "." && name != ".." {
                return Some(name);
            }
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        unsafe { libc::closedir(self.0) };
    }
}

#[test]
fn a_directory_is_read_once_each_while_it_changes() {
    let Some(mut mount) = Mount::new(&[]) else {
        return;
    };
    const MANY: usize = 2500;
    fs::create_dir(mount.path("many")).unwrap();
    thread::scope(|scope| {
        for part in 0..4 {
            let mount = &mount;
            scope.spawn(move || {
                for at in (part..MANY).step_by(4) {
                    fs::write(mount.path(format!("many/{at:05}")), "x").unwrap();
                }
            });
        }
    });
    let expected: Vec<String> = (0..MANY).map(|at| format!("{at:05}")).collect();
    for again in [false, true] {
        if again {
            mount.remount(&[]);
        }
        let folder = mount.path("many");
        assert!(names(&folder) == expected, "again: {again}");

        // While names appear and disappear, those that remain are seen exactly once.
        let mut stream = Stream::open(&folder);
        let mut seen = Vec::new();
        let mut places = Vec::new();
        while let Some(name) = stream.next() {
            if seen.len() % 500 == 250 {
                places.push((unsafe { libc::telldir(stream.0) }, seen.len()));
                let passing = format!("passing{}", seen.len());
                fs::write(folder.join(&passing), "x").unwrap();
                fs::remove_file(folder.join(&passing)).unwrap();
                fs::remove_file(folder.join(&expected[seen.len() / 2])).unwrap();
                fs::write(folder.join(&expected[seen.len() / 2]), "x").unwrap();
            }
            if !name.starts_with("passing") {
                seen.push(name);
            }
        }
        seen.sort();
        let all = seen.len();
        seen.dedup();
        assert_eq!(seen.len(), all, "twice");
        let staying = |name: &&String| seen.binary_search(name).is_err();
        let missing: Vec<_> = expected.iter().filter(staying).collect();
        assert!(missing.is_empty(), "{missing:?}");

        // Back to a position: continues from there.
        let (place, read) = places[2];
        unsafe { libc::seekdir(stream.0, place) };
        let mut rest = BTreeSet::new();
        while let Some(name) = stream.next() {
            rest.insert(name);
        }
        let expected_rest = MANY - read;
        assert!(
            rest.len() + 3 >= expected_rest && rest.len() <= expected_rest + 3,
            "{} after a place with {expected_rest} to come",
            rest.len()
        );
        unsafe { libc::rewinddir(stream.0) };
        let mut count = 0;
        while stream.next().is_some() {
            count += 1;
        }
        assert_eq!(count, MANY);
    }
    fs::remove_dir_all(mount.path("many")).unwrap();
    assert!(names(mount.root()).is_empty());
}

/// "A directory remains when its last entry is removed."
#[test]
fn a_directory_remains_when_its_last_entry_is_removed() {
    let Some(mut mount) = Mount::new(&["--metadata-ttl", "0", "--dir-ttl", "0"]) else {
        return;
    };
    fs::create_dir_all(mount.path("a/b/c")).unwrap();
    fs::write(mount.path("a/b/c/f"), "x").unwrap();
    fs::remove_file(mount.path("a/b/c/f")).unwrap();
    mount.remount(&[]);
    fs::remove_dir(mount.path("a/b/c")).unwrap();
    assert_eq!(names(&mount.path("a")), ["b"]);
    assert!(names(&mount.path("a/b")).is_empty());
    // A directory that is open when it is removed.
    let folder = File::open(mount.path("a/b")).unwrap();
    fs::remove_dir(mount.path("a/b")).unwrap();
    assert_eq!(errno(fs::metadata(mount.path("a/b"))), libc::ENOENT);
    assert_eq!(folder.metadata().unwrap().nlink(), 0);
    let inside = format!("/proc/self/fd/{}/x", folder.as_raw_fd());
    assert_eq!(errno(File::create(inside)), libc::ENOENT);
    drop(folder);
    fs::create_dir(mount.path("a/b")).unwrap();
    assert!(names(&mount.path("a/b")).is_empty());
}
