//! What both look like as a whole: after each step, across remounts and at the end.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ossvault::files::attributes::{Change, Kind};
use ossvault::fs::handles::open_file::OpenHow;

use super::super::SLOTS;
use super::super::tree::{File, Node, Slot, Tree, brief, difference};
use super::{Bench, Went};
use crate::world::{FsResult, Kernel};

impl Bench {
    /// The tree as the file system shows it.
    pub(super) async fn observe(&self) -> FsResult<BTreeMap<String, Node>> {
        let mut seen = BTreeMap::new();
        let mut directories = vec![String::new()];
        while let Some(directory) = directories.pop() {
            for name in self.names_in(&directory).await? {
                let path = match directory.as_str() {
                    "" => name,
                    directory => format!("{directory}/{name}"),
                };
                let (parent, name) = self.kernel.parent(&path).await?;
                let looks = self.kernel.lookup(parent, name).await?;
                let looks = looks.unwrap_or_else(|| panic!("{path} is listed and not there"));
                let node = match looks.kind {
                    Kind::Directory => {
                        directories.push(path.clone());
                        Node::Directory {
                            marker: true,
                            mode: looks.mode,
                        }
                    }
                    Kind::Symlink => {
                        let target = self.kernel.fs.readlink(looks.ino).await?;
                        Node::Symlink(String::from_utf8(target.to_vec()).unwrap())
                    }
                    kind @ (Kind::Fifo | Kind::Socket) => Node::Special(kind),
                    _ => {
                        let how = OpenHow {
                            read: true,
                            ..OpenHow::default()
                        };
                        let opened = self.kernel.fs.open(looks.ino, how).await?;
                        let content = self.kernel.read_all(opened.handle).await;
                        self.kernel.fs.release_now(opened.handle);
                        let content = content?;
                        assert_eq!(content.len() as u64, looks.size, "the size of {path}");
                        let mut xattrs = BTreeMap::new();
                        let list = self.kernel.fs.listxattr(looks.ino).await?;
                        for name in list
                            .split(|byte| *byte == 0)
                            .filter(|name| !name.is_empty())
                        {
                            let name = String::from_utf8(name.to_vec()).unwrap();
                            let value = self.kernel.fs.getxattr(looks.ino, &name).await?;
                            xattrs.insert(name, value);
                        }
                        Node::File(File {
                            bytes: Arc::new(content),
                            mode: looks.mode,
                            mtime: Some(looks.mtime.seconds),
                            xattrs,
                            dirty: false,
                            published: true,
                            overlay: false,
                        })
                    }
                };
                seen.insert(path, node);
            }
        }
        Ok(seen)
    }

    pub(super) async fn check(&mut self) {
        let seen = match self.observe().await {
            Ok(seen) => seen,
            Err(error) => {
                assert!(self.injected(), "looking at everything: {error:?}");
                return;
            }
        };
        let expected = self.tree.view();
        let paths = |view: &BTreeMap<String, Node>| view.keys().cloned().collect::<Vec<_>>();
        assert_eq!(paths(&seen), paths(&expected));
        for (path, node) in &expected {
            if let Some(difference) = difference(node, &seen[path], true) {
                panic!("{path}: {difference}");
            }
        }
        let slots: Vec<Slot> = self.slots.values().cloned().collect();
        for slot in slots.iter().filter(|slot| slot.torn.is_none()) {
            let result = self.kernel.read_all(slot.handle).await;
            let bytes = self.tree.file(slot.id).bytes.clone();
            if let Went::Well((content, ())) = self.compare("read", result, Ok(())) {
                assert!(
                    content == **bytes,
                    "what is open differs: {} bytes",
                    content.len()
                );
            }
        }
    }

    /// After an operation that failed because a request did: it has happened, or has not. A rename may have
    /// left both names.
    pub(super) async fn resync(&mut self, post: Tree) {
        self.world.weather.fail(None);
        let slots: Vec<u8> = self.slots.keys().copied().collect();
        for slot in slots {
            let open = self.slots.remove(&slot).unwrap();
            let _ = self.kernel.fs.flush(open.handle, 0).await;
            self.kernel.fs.release_now(open.handle);
        }
        let settled = self.kernel.settle(0, Duration::from_secs(30)).await;
        assert!(
            settled,
            "what is closed does not get uploaded: {:?}",
            self.kernel.fs.census()
        );
        self.wait_for_ttl().await;
        let seen = self.observe().await.expect("nothing fails any more");
        let (before, after) = (self.tree.view(), post.view());
        for (path, node) in &seen {
            let found = [before.get(path), after.get(path)]
                .into_iter()
                .flatten()
                .any(|expected| difference(expected, node, false).is_none());
            assert!(
                found,
                "{path} came out of nowhere, or changed: {:?}",
                brief(node)
            );
        }
        for (path, id) in &self.tree.names {
            let removed = !post.names.values().any(|named| named == id);
            let moved = post.path_of(*id);
            let there = seen.contains_key(path)
                || moved.as_ref().is_some_and(|path| seen.contains_key(path));
            assert!(removed || there, "{path} was lost");
        }
        let mut tree = Tree {
            next: self.tree.next.max(post.next),
            ..Tree::default()
        };
        for (path, node) in seen {
            let node = match (node, before.get(&path).or(after.get(&path))) {
                (Node::File(file), Some(Node::File(old))) => Node::File(File {
                    mtime: old.mtime.filter(|_| file.mtime == old.mtime),
                    ..file
                }),
                (Node::Directory { mode, .. }, Some(Node::Directory { marker, .. })) => {
                    Node::Directory {
                        mode,
                        marker: *marker,
                    }
                }
                (node, _) => node,
            };
            tree.add(&path, node);
        }
        // A marker that was to be written may be there or not.
        self.tree = tree;
        for directory in self.tree.children_of_all() {
            self.ensure_marker(&directory).await;
        }
        self.failures_seen = self.world.weather.failed();
    }

    /// Brings a directory to a known state: with a marker.
    pub(super) async fn ensure_marker(&mut self, path: &str) {
        let ino = self.kernel.walk(path).await.unwrap();
        let Some(Node::Directory { marker, mode }) =
            self.tree.nodes.get_mut(&self.tree.names[path])
        else {
            return;
        };
        *marker = true;
        *mode = 0o711;
        let change = Change {
            mode: Some(0o711),
            ..Change::default()
        };
        self.kernel.fs.setattr(ino, None, change).await.unwrap();
    }

    pub(super) async fn remount(&mut self) {
        self.world.weather.fail(None);
        for slot in 0..SLOTS as u8 {
            self.close(slot).await;
        }
        self.end_mount().await;
        self.kernel = Kernel::new(self.world.mount().await);
        self.check().await;
    }

    /// Nothing is left behind: not in the bucket, not in memory.
    pub(super) async fn end_mount(&mut self) {
        let mut ended = self.kernel.fs.shutdown().await;
        for _ in 0..3 {
            if ended.is_err() && self.failed_ever {
                ended = self.kernel.fs.shutdown().await;
            }
        }
        assert!(ended.is_ok(), "{ended:?}");
        self.settle().await;
        self.kernel.forget_all();
        // What was prefetched a moment ago may still be about to begin, and holds its inode meanwhile.
        let given_up = Instant::now() + Duration::from_secs(10);
        loop {
            let census = self.kernel.fs.census();
            if (census.inodes, census.files, census.handles) == (1, 0, 0) {
                break;
            }
            assert!(Instant::now() < given_up, "{census:?}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    pub(in crate::model) async fn end(mut self) {
        self.failures_seen = self.world.weather.failed();
        self.remount().await;
        self.end_mount().await;
        let keys: BTreeSet<String> = self.world.others.keys().await.into_iter().collect();
        let mut expected = BTreeSet::new();
        for (path, node) in self.tree.view() {
            match node {
                Node::Directory { marker: true, .. } => drop(expected.insert(format!("{path}/"))),
                Node::Directory { .. } => {}
                _ => drop(expected.insert(path)),
            }
        }
        // Markers may be there without need, and what failed may have left traces of its own.
        let strange: Vec<_> = keys
            .difference(&expected)
            .filter(|key| {
                !(key.ends_with('/') || self.failed_ever && key.starts_with(".ossvault/"))
            })
            .collect();
        assert!(strange.is_empty(), "in the bucket: {strange:?}");
        // Something below a directory's key shows it as well as its marker does.
        let missing: Vec<_> = expected
            .iter()
            .filter(|key| match key.ends_with('/') {
                true => !keys.iter().any(|other| other.starts_with(key.as_str())),
                false => !keys.contains(*key),
            })
            .collect();
        assert!(missing.is_empty(), "not in the bucket: {missing:?}");
        if !self.failed_ever {
            assert_eq!(self.world.others.unfinished_uploads().await, 0);
        }
    }
}
