//! The steps: each operation, done to both, and compared.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ossvault::files::attributes::{Change, Kind, Timestamp};
use ossvault::fs::error::Error;
use ossvault::fs::handles::open_file::{OpenHow, Writer};
use ossvault::fs::namespace::Ino;
use ossvault::fs::namespace::object_name::Name;
use ossvault::fs::ops::copy_range;
use ossvault::fs::ops::xattr::SetXattr;

use super::super::ops::{At, Op};
use super::super::tree::{Answer, File, Id, Node, Slot, Tree, changes, pattern};
use super::super::{DIRECTORIES, KINDS};
use super::{Bench, Went};
use crate::world::{CALLER, Failure, FsResult};

impl Bench {
    pub(in crate::model) async fn step(&mut self, op: &Op) {
        self.failures_seen = self.world.weather.failed();
        match op.clone() {
            Op::Create {
                at,
                exclusive,
                slot,
            } => self.create(&at.path(), exclusive, slot).await,
            Op::Open {
                at,
                write,
                truncate,
                slot,
            } => {
                self.open(&at.path(), write, write && truncate, slot).await;
            }
            Op::Read { slot, offset, len } => self.read(slot, offset, len).await,
            Op::Write {
                slot,
                at,
                len,
                seed,
            } => self.write(slot, at, len, seed).await,
            Op::Truncate { slot, size } => {
                if let Some(open) = self.sound(slot).await.filter(|open| open.write) {
                    self.resize(open.ino, open.id, size).await;
                }
            }
            Op::Resize { at, size } => self.resize_path(&at.path(), size).await,
            Op::Allocate { slot, offset, len } => self.allocate(slot, offset, len).await,
            Op::Flush { slot } => self.flush(slot, false).await,
            Op::Fsync { slot } => self.flush(slot, true).await,
            Op::Close { slot } => self.close(slot).await,
            Op::Mkdir { at } => self.mkdir(&at.path()).await,
            Op::Rmdir { at } => self.rmdir(&at.path()).await,
            Op::Unlink { at } => self.unlink(&at.path()).await,
            Op::Rename { from, to, replace } => {
                self.rename(&from.path(), &to.path(), replace).await;
            }
            Op::Symlink { at, target } => self.symlink(&at.path(), target).await,
            Op::Mknod { at, kind } => {
                let kind = KINDS[usize::from(kind) % KINDS.len()];
                self.mknod(&at.path(), kind).await;
            }
            Op::Copy { from, to, range } => self.copy(from, to, range).await,
            Op::Chmod { at, mode } => self.chmod(&at.path(), 0o600 | u32::from(mode & 0o77)).await,
            Op::SetTime { at, seconds } => self.set_time(&at.path(), seconds.into()).await,
            Op::SetXattr {
                at,
                name,
                value,
                how,
            } => {
                self.set_xattr(&at.path(), name, Some(value), how).await;
            }
            Op::RemoveXattr { at, name } => self.set_xattr(&at.path(), name, None, 0).await,
            Op::List { directory } => self.list(DIRECTORIES[usize::from(directory)]).await,
            Op::FsyncDirectory { directory } => {
                let path = DIRECTORIES[usize::from(directory)];
                if let Ok(ino) = self.kernel.walk(path).await {
                    let synced = self.kernel.fs.fsync_directory(ino).await;
                    assert!(synced.is_ok() || self.injected(), "{synced:?}");
                }
            }
            Op::Check => self.check().await,
            Op::Forget => self.forget(),
            Op::Remount => self.remount().await,
            Op::OthersPut { at, len, seed } => {
                self.world.weather.fail(None);
                if self.setting.ttl.is_some() {
                    self.others_put(&at.path(), pattern(seed, len)).await;
                }
            }
            Op::OthersDelete { at } => {
                if self.setting.ttl.is_some() {
                    self.others_delete(&at.path()).await;
                }
            }
            Op::OthersChmod { at, mode } => {
                self.world.weather.fail(None);
                if self.setting.ttl.is_some() {
                    let mode = 0o600 | u32::from(mode & 0o77);
                    self.others_chmod(&at.path(), mode).await;
                }
            }
            Op::OthersReplaceDirectory { directory } => {
                self.world.weather.fail(None);
                if self.setting.ttl.is_some() {
                    let path = DIRECTORIES[usize::from(directory)];
                    self.others_replace_directory(path).await;
                }
            }
            Op::Fail {
                after,
                lost,
                changes_only,
            } => {
                if self.setting.failures {
                    self.failed_ever = true;
                    self.world.weather.fail(Some(Failure {
                        after: after.into(),
                        lost,
                        changes_only,
                        times: 1,
                    }));
                }
            }
            Op::Tick => self.world.weather.advance(2),
        }
        // What a rename has left behind is not shown, and in the way of others for a moment.
        while self.kernel.fs.census().leftovers > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    pub(super) async fn create(&mut self, path: &str, exclusive: bool, slot: u8) {
        self.close(slot).await;
        if self.tree.check_parent(path).is_ok() && self.tree.names.contains_key(path) {
            return match exclusive {
                true => {
                    let result = self.create_call(path, exclusive).await;
                    self.compare("create", result, Err::<(), _>("EEXIST"));
                }
                // The kernel opens what it finds.
                false => self.open(path, true, false, slot).await,
            };
        }
        let expected = self.tree.check_parent(path);
        let result = self.create_call(path, exclusive).await;
        match self.compare("create", result, expected) {
            Went::Well(((ino, handle), ())) => {
                let file = File {
                    bytes: Arc::default(),
                    mode: 0o640,
                    mtime: None,
                    xattrs: BTreeMap::new(),
                    dirty: true,
                    published: false,
                    overlay: false,
                };
                let id = self.tree.add(path, Node::File(file));
                let open = Slot {
                    handle,
                    id,
                    ino,
                    write: true,
                    torn: None,
                };
                self.slots.insert(slot, open);
            }
            Went::AsRefused => {}
            Went::Failed => self.resync(self.tree.clone()).await,
        }
    }

    pub(super) async fn create_call(&self, path: &str, exclusive: bool) -> FsResult<(Ino, u64)> {
        let (parent, name) = self.kernel.parent(path).await?;
        self.kernel.lookup(parent, name).await?;
        let how = OpenHow {
            read: true,
            write: true,
            exclusive,
            ..OpenHow::default()
        };
        let name = Name::from(name);
        let (looks, opened) = self
            .kernel
            .fs
            .create(parent, &name, 0o640, CALLER, how)
            .await?;
        self.kernel.entered(&looks);
        Ok((looks.ino, opened.handle))
    }

    pub(super) async fn open(&mut self, path: &str, write: bool, truncate: bool, slot: u8) {
        self.close(slot).await;
        let expected = self.tree.check_parent(path).and_then(|()| {
            match self
                .tree
                .names
                .get(path)
                .map(|id| (*id, &self.tree.nodes[id]))
            {
                None => Err("ENOENT"),
                Some((_, Node::Directory { .. })) => Err("EISDIR"),
                Some((id, Node::File(_))) => Ok(Some(id)),
                Some((_, Node::Symlink(_) | Node::Special(_))) => Ok(None),
            }
        });
        if expected == Ok(None) {
            return;
        }
        let result = async {
            let ino = self.kernel.walk(path).await?;
            let how = OpenHow {
                read: true,
                write,
                truncate,
                exclusive: false,
                ..OpenHow::default()
            };
            // As the kernel does when an inode turns out to stand for its name no more.
            match self.kernel.fs.open(ino, how).await {
                Err(Error::Stale) => {
                    let ino = self.kernel.walk(path).await?;
                    Ok((ino, self.kernel.fs.open(ino, how).await?.handle))
                }
                opened => Ok((ino, opened?.handle)),
            }
        }
        .await;
        match self.compare("open", result, expected) {
            Went::Well(((ino, handle), id)) => {
                let id = id.unwrap();
                if truncate {
                    let file = self.tree.file(id);
                    file.bytes = Arc::default();
                    file.mtime = None;
                    (file.dirty, file.overlay) = (true, false);
                }
                let open = Slot {
                    handle,
                    id,
                    ino,
                    write,
                    torn: None,
                };
                self.slots.insert(slot, open);
            }
            Went::AsRefused => {}
            Went::Failed => {
                let mut post = self.tree.clone();
                if let (true, Ok(Some(id))) = (truncate, expected) {
                    post.file(id).bytes = Arc::default();
                }
                self.resync(post).await;
            }
        }
    }

    pub(super) async fn read(&mut self, slot: u8, offset: u32, len: u32) {
        let Some(open) = self.sound(slot).await else {
            return;
        };
        let bytes = self.tree.file(open.id).bytes.clone();
        let start = bytes.len().min(offset as usize);
        let end = bytes.len().min(start + len as usize);
        let result = self
            .kernel
            .fs
            .read(open.handle, offset.into(), len as usize)
            .await;
        if let Went::Well((read, ())) = self.compare("read", result, Ok(())) {
            let expected: &[u8] = match offset as usize >= bytes.len() {
                true => &[],
                false => &bytes[start..end],
            };
            assert!(
                read == expected,
                "read {offset} {len}: {} bytes",
                read.len()
            );
        }
    }

    pub(super) async fn write(&mut self, slot: u8, at: At, len: u32, seed: u8) {
        let Some(open) = self.sound(slot).await.filter(|open| open.write) else {
            return;
        };
        let data = pattern(seed, len);
        let offset = match at {
            At::Offset(offset) => u64::from(offset),
            At::End => self.tree.file(open.id).bytes.len() as u64,
        };
        // As the adapter does.
        let fs = &self.kernel.fs;
        let result = match fs.write_now(open.handle, offset, &data, Writer::default()) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => {
                let data = Bytes::from(data.clone());
                fs.write(open.handle, offset, data, Writer::default()).await
            }
            Err(error) => Err(error),
        };
        if let Went::Well(_) = self.compare("write", result, Ok(())) {
            let file = self.tree.file(open.id);
            changes(file);
            let bytes = Arc::make_mut(&mut file.bytes);
            let (start, end) = (offset as usize, offset as usize + data.len());
            if bytes.len() < end {
                bytes.resize(end, 0);
            }
            bytes[start..end].copy_from_slice(&data);
        }
    }

    pub(super) async fn allocate(&mut self, slot: u8, offset: u32, len: u32) {
        let Some(open) = self.sound(slot).await.filter(|open| open.write) else {
            return;
        };
        let result = self
            .kernel
            .fs
            .allocate(open.handle, offset.into(), len.into())
            .await;
        if let Went::Well(_) = self.compare("allocate", result, Ok(())) {
            let file = self.tree.file(open.id);
            let end = (offset + len) as usize;
            if end > file.bytes.len() {
                changes(file);
                Arc::make_mut(&mut file.bytes).resize(end, 0);
            }
        }
    }

    pub(super) async fn resize_path(&mut self, path: &str, size: u32) {
        let Some(Node::File(_)) = self.tree.node(path) else {
            return;
        };
        let id = self.tree.names[path];
        if self
            .slots
            .values()
            .any(|slot| slot.id == id && slot.torn.is_some())
        {
            return;
        }
        match self.kernel.walk(path).await {
            Ok(ino) => self.resize(ino, id, size).await,
            Err(error) => assert!(self.injected(), "walk to {path}: {error:?}"),
        }
    }

    pub(super) async fn resize(&mut self, ino: Ino, id: Id, size: u32) {
        let result = self
            .kernel
            .fs
            .setattr(ino, Some(size.into()), Change::default())
            .await;
        let written = self.slots.values().any(|slot| slot.id == id && slot.write);
        let mut post = self.tree.clone();
        let file = post.file(id);
        let differs = file.bytes.len() != size as usize;
        if differs {
            changes(file);
            Arc::make_mut(&mut file.bytes).resize(size as usize, 0);
        }
        file.mtime = None;
        match self.compare("truncate", result, Ok(())) {
            Went::Well((looks, ())) => {
                assert_eq!(looks.size, u64::from(size));
                self.tree = post;
                let named = self.tree.path_of(id).is_some();
                if differs && !written && named {
                    let file = self.tree.file(id);
                    (file.dirty, file.published, file.overlay) = (false, true, false);
                    self.check_bucket(id).await;
                }
            }
            Went::AsRefused => unreachable!(),
            Went::Failed => self.resync(post).await,
        }
    }

    pub(super) async fn flush(&mut self, slot: u8, sync: bool) {
        let Some(open) = self.sound(slot).await else {
            return;
        };
        let result = match sync {
            true => self.kernel.fs.fsync(open.handle).await,
            false => self.kernel.fs.flush(open.handle, 0).await,
        };
        if let Went::Well(_) = self.compare("flush", result, Ok(())) {
            self.acknowledged(&open, sync).await;
        }
    }

    /// What follows from a flush that succeeded.
    pub(super) async fn acknowledged(&mut self, open: &Slot, sync: bool) {
        let path = self.tree.path_of(open.id);
        let file = self.tree.file(open.id);
        let temporary = path.is_none_or(|path| path.ends_with("Q1W2E3") && !file.published);
        if sync || (open.write && !file.bytes.is_empty() && !temporary) {
            (file.dirty, file.published, file.overlay) = (false, true, false);
            self.check_bucket(open.id).await;
        }
    }

    pub(super) async fn mkdir(&mut self, path: &str) {
        let expected = self
            .tree
            .check_parent(path)
            .and_then(|()| match self.tree.node(path) {
                Some(_) => Err("EEXIST"),
                None => Ok(()),
            });
        let result = async {
            let (parent, name) = self.kernel.parent(path).await?;
            self.kernel.lookup(parent, name).await?;
            let name = Name::from(name);
            let looks = self.kernel.fs.mkdir(parent, &name, 0o750, CALLER).await?;
            self.kernel.entered(&looks);
            assert_eq!((looks.kind, looks.mode), (Kind::Directory, 0o750));
            Ok(())
        }
        .await;
        let mut post = self.tree.clone();
        let made = Node::Directory {
            marker: true,
            mode: 0o750,
        };
        if expected.is_ok() {
            post.add(path, made);
        }
        self.finish("mkdir", result, expected, post).await;
    }

    pub(super) async fn rmdir(&mut self, path: &str) {
        let expected = self
            .tree
            .check_parent(path)
            .and_then(|()| match self.tree.node(path) {
                None => Err("ENOENT"),
                Some(Node::Directory { .. }) if !self.tree.below(path).is_empty() => {
                    Err("ENOTEMPTY")
                }
                Some(Node::Directory { .. }) => Ok(()),
                Some(_) => Err("ENOTDIR"),
            });
        let result = async {
            let (parent, name) = self.kernel.parent(path).await?;
            self.kernel.lookup(parent, name).await?;
            self.kernel.fs.rmdir(parent, &Name::from(name)).await
        }
        .await;
        let mut post = self.tree.clone();
        if expected.is_ok() {
            post.leave(path);
            post.names.remove(path);
        }
        self.finish("rmdir", result, expected, post).await;
    }

    pub(super) async fn unlink(&mut self, path: &str) {
        let expected = self
            .tree
            .check_parent(path)
            .and_then(|()| match self.tree.node(path) {
                None => Err("ENOENT"),
                Some(Node::Directory { .. }) => Err("EISDIR"),
                Some(_) => Ok(()),
            });
        let result = async {
            let (parent, name) = self.kernel.parent(path).await?;
            self.kernel.lookup(parent, name).await?;
            self.kernel.fs.unlink(parent, &Name::from(name)).await
        }
        .await;
        let mut post = self.tree.clone();
        if expected.is_ok() {
            post.leave(path);
            post.names.remove(path);
        }
        self.finish("unlink", result, expected, post).await;
    }

    pub(super) async fn rename(&mut self, from: &str, to: &str, replace: bool) {
        // What the kernel refuses by itself.
        if to.starts_with(&format!("{from}/")) {
            return;
        }
        let mut post = self.tree.clone();
        let expected = post.rename(from, to, replace);
        if expected.is_err() {
            post = self.tree.clone();
        }
        let result = async {
            let (old_parent, old_name) = self.kernel.parent(from).await?;
            let (new_parent, new_name) = self.kernel.parent(to).await?;
            // The target's inode is looked up by the kernel as well, the source's first.
            self.kernel.lookup(old_parent, old_name).await?;
            self.kernel.lookup(new_parent, new_name).await?;
            let from = (old_parent, Name::from(old_name));
            let to = (new_parent, Name::from(new_name));
            self.kernel.fs.rename(from, to, replace).await
        }
        .await;
        self.finish("rename", result, expected, post).await;
    }

    pub(super) async fn symlink(&mut self, path: &str, target: u8) {
        let expected = self
            .tree
            .check_parent(path)
            .and_then(|()| match self.tree.node(path) {
                Some(_) => Err("EEXIST"),
                None => Ok(()),
            });
        let target = format!("../target-{target}");
        let result = async {
            let (parent, name) = self.kernel.parent(path).await?;
            self.kernel.lookup(parent, name).await?;
            let name = Name::from(name);
            let looks = self
                .kernel
                .fs
                .symlink(parent, &name, target.as_bytes(), CALLER)
                .await?;
            self.kernel.entered(&looks);
            assert_eq!(looks.kind, Kind::Symlink);
            Ok(())
        }
        .await;
        let mut post = self.tree.clone();
        if expected.is_ok() {
            post.add(path, Node::Symlink(target));
        }
        self.finish("symlink", result, expected, post).await;
    }

    pub(super) async fn mknod(&mut self, path: &str, kind: Kind) {
        let expected = self
            .tree
            .check_parent(path)
            .and_then(|()| match self.tree.node(path) {
                Some(_) => Err("EEXIST"),
                None => Ok(()),
            });
        let result = async {
            let (parent, name) = self.kernel.parent(path).await?;
            self.kernel.lookup(parent, name).await?;
            let name = Name::from(name);
            let mode = kind.type_bits() | 0o640;
            let made = self.kernel.fs.mknod(parent, &name, mode, 0, CALLER);
            let looks = made.await?;
            self.kernel.entered(&looks);
            assert_eq!((looks.kind, looks.mode), (kind, 0o640));
            Ok(())
        }
        .await;
        let mut post = self.tree.clone();
        if expected.is_ok() {
            let node = match kind {
                Kind::File => Node::File(File {
                    bytes: Arc::default(),
                    mode: 0o640,
                    mtime: None,
                    xattrs: BTreeMap::new(),
                    dirty: false,
                    published: true,
                    overlay: false,
                }),
                kind => Node::Special(kind),
            };
            post.add(path, node);
        }
        self.finish("mknod", result, expected, post).await;
    }

    /// From a file into another, at the same offset.
    pub(super) async fn copy(&mut self, from: u8, to: u8, range: Option<(u32, u32)>) {
        let (Some(from), Some(to)) = (self.sound(from).await, self.sound(to).await) else {
            return;
        };
        if from.id == to.id || !to.write {
            return;
        }
        let (offset, len) = range.map_or((0, u64::MAX >> 1), |(offset, len)| {
            (u64::from(offset), u64::from(len))
        });
        let source = self.tree.file(from.id).bytes.clone();
        let start = source.len().min(offset as usize);
        let end = source.len().min(offset.saturating_add(len) as usize);
        let wanted = source[start..end].to_vec();
        let place = |slot: &Slot| copy_range::Place {
            handle: slot.handle,
            offset,
        };
        let fs = &self.kernel.fs;
        let in_bucket = match fs.copy_range(place(&from), place(&to), len).await {
            Ok(copied) => {
                assert_eq!(copied, source.len() as u64, "only the whole is copied so");
                true
            }
            // As the kernel goes on.
            Err(Error::NotSupported) => false,
            Err(error) => panic!("copy_file_range: {error:?}"),
        };
        if !in_bucket {
            let result = async {
                let data = fs.read(from.handle, offset, wanted.len()).await?;
                if !data.is_empty() {
                    fs.write(to.handle, offset, data, Writer::default()).await?;
                }
                Ok(())
            }
            .await;
            if !matches!(self.compare("copy", result, Ok(())), Went::Well(_)) || wanted.is_empty() {
                return;
            }
        }
        let file = self.tree.file(to.id);
        changes(file);
        let bytes = Arc::make_mut(&mut file.bytes);
        bytes.resize(bytes.len().max(end), 0);
        bytes[start..end].copy_from_slice(&wanted);
        if in_bucket {
            (file.dirty, file.published, file.overlay) = (false, true, false);
            self.check_bucket(to.id).await;
        }
    }

    pub(super) async fn finish(
        &mut self,
        what: &str,
        result: FsResult<()>,
        expected: Answer<()>,
        post: Tree,
    ) {
        match self.compare(what, result, expected) {
            Went::Well(_) => self.tree = post,
            Went::AsRefused => {}
            Went::Failed => self.resync(post).await,
        }
    }

    /// A named file or directory, and its inode.
    pub(super) async fn subject(&self, path: &str) -> Option<(Id, Ino)> {
        let node = self.tree.node(path);
        if !matches!(node, Some(Node::File(_) | Node::Directory { .. })) {
            return None;
        }
        let id = self.tree.names[path];
        match self.kernel.walk(path).await {
            Ok(ino) => Some((id, ino)),
            Err(error) => {
                assert!(self.injected(), "walk to {path}: {error:?}");
                None
            }
        }
    }

    pub(super) async fn chmod(&mut self, path: &str, mode: u32) {
        let Some((id, ino)) = self.subject(path).await else {
            return;
        };
        let change = Change {
            mode: Some(mode),
            ..Change::default()
        };
        let result = self.kernel.fs.setattr(ino, None, change).await;
        let mut post = self.tree.clone();
        match post.nodes.get_mut(&id).unwrap() {
            Node::File(file) => file.mode = mode,
            Node::Directory { mode: old, marker } => (*old, *marker) = (mode, true),
            Node::Symlink(_) | Node::Special(_) => unreachable!(),
        }
        if let Ok(looks) = &result {
            assert_eq!(looks.mode, mode);
        }
        self.finish("chmod", result.map(drop), Ok(()), post).await;
    }

    pub(super) async fn set_time(&mut self, path: &str, seconds: i64) {
        let Some((id, ino)) = self.subject(path).await else {
            return;
        };
        let time = Timestamp { seconds, nanos: 0 };
        let change = Change {
            mtime: Some(time),
            ..Change::default()
        };
        let result = self.kernel.fs.setattr(ino, None, change).await;
        let mut post = self.tree.clone();
        match post.nodes.get_mut(&id).unwrap() {
            Node::File(file) => file.mtime = Some(seconds),
            Node::Directory { marker, .. } => *marker = true,
            Node::Symlink(_) | Node::Special(_) => unreachable!(),
        }
        if let Ok(looks) = &result {
            assert_eq!(looks.mtime, time);
        }
        self.finish("utimes", result.map(drop), Ok(()), post).await;
    }

    pub(super) async fn set_xattr(&mut self, path: &str, name: u8, value: Option<u8>, how: u8) {
        let Some((id, ino)) = self.subject(path).await else {
            return;
        };
        if !matches!(self.tree.nodes[&id], Node::File(_)) {
            return;
        }
        let name = format!("user.{name}");
        let file = self.tree.file(id);
        let there = file.xattrs.contains_key(&name);
        let (how, expected) = match (how, value) {
            (_, None) if !there => (SetXattr::Either, Err("ENODATA")),
            (1, Some(_)) if there => (SetXattr::New, Err("EEXIST")),
            (2, Some(_)) if !there => (SetXattr::Existing, Err("ENODATA")),
            (1, _) => (SetXattr::New, Ok(())),
            (2, _) => (SetXattr::Existing, Ok(())),
            _ => (SetXattr::Either, Ok(())),
        };
        let bytes = value.map(|value| vec![value; usize::from(value) / 4]);
        let fs = &self.kernel.fs;
        let result = match &bytes {
            Some(bytes) => fs.setxattr(ino, &name, bytes, how).await,
            None => fs.removexattr(ino, &name).await,
        };
        let mut post = self.tree.clone();
        if expected.is_ok() {
            let xattrs = &mut post.file(id).xattrs;
            match bytes {
                Some(bytes) => drop(xattrs.insert(name, bytes)),
                None => drop(xattrs.remove(&name)),
            }
        }
        self.finish("setxattr", result, expected, post).await;
    }

    pub(super) async fn list(&mut self, path: &str) {
        if !path.is_empty() && !matches!(self.tree.node(path), Some(Node::Directory { .. })) {
            return;
        }
        let result = self.names_in(path).await;
        let expected = self.tree.children(path);
        if let Went::Well((names, ())) = self.compare("readdir", result, Ok(())) {
            let names: BTreeSet<String> = names.into_iter().collect();
            assert_eq!(names, expected, "in \"{path}\"");
        }
    }

    pub(super) async fn names_in(&self, path: &str) -> FsResult<Vec<String>> {
        let ino = self.kernel.walk(path).await?;
        let fs = &self.kernel.fs;
        let handle = fs.opendir(ino).await?;
        let mut names = Vec::new();
        let mut offset = 0;
        let result = loop {
            let entries = match fs.readdir(handle, offset, 3, offset % 2 == 0).await {
                Ok(entries) => entries,
                Err(error) => break Err(error),
            };
            let Some(last) = entries.last() else {
                break Ok(());
            };
            offset = last.next;
            for entry in &entries {
                if let Some(looks) = &entry.stat {
                    fs.entry_was_taken(entry);
                    self.kernel.entered(looks);
                }
            }
            fs.entries_were_offered(&entries);
            let shown = entries
                .iter()
                .filter(|entry| entry.name[..] != *"." && entry.name[..] != *"..");
            names.extend(shown.map(|entry| entry.name.to_string()));
        };
        fs.releasedir(handle);
        result?;
        let distinct: BTreeSet<&String> = names.iter().collect();
        assert_eq!(distinct.len(), names.len(), "a name came twice: {names:?}");
        Ok(names)
    }

    pub(super) fn forget(&mut self) {
        let open: BTreeSet<Ino> = self.slots.values().map(|slot| slot.ino).collect();
        self.kernel.forget_except(&open);
    }
}
