//! Translates kernel requests into file system calls, and results into replies. Makes no decisions.
//!
//! Every call is an async function. It is polled once on the session thread, where cached data can answer it.
//! If it has to wait, it moves to the runtime together with its reply, so that no session thread ever blocks.

use std::ffi::OsStr;
use std::future::Future;
use std::io;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use fuser::{
    AccessFlags, CopyFileRangeFlags, Errno, FileHandle, FopenFlags, Generation, INodeNo, InitFlags,
    IoctlFlags, KernelConfig, LockOwner, OpenAccMode, OpenFlags, PollEvents, PollFlags,
    PollNotifier, RenameFlags, ReplyAttr, ReplyBmap, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyPoll,
    ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use futures_util::FutureExt;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::convert::{BLOCK_SIZE, attr, no_entry, timestamp};
use super::dirents::{self, Dirents};
use super::errno::{errno, level};
use crate::base::deadline;
use crate::base::error_chain::chain;
use crate::files::attributes::{Change, Timestamp};
use crate::fs::error::{Error, Result};
use crate::fs::filesystem::Filesystem;
use crate::fs::handles::open_file::{OpenHow, Writer};
use crate::fs::handles::open_files::Opened;
use crate::fs::namespace::Ino;
use crate::fs::namespace::kernel::{Invalidation, KernelCaches};
use crate::fs::namespace::object_name::{self, Name};
use crate::fs::namespace::stat::{Caller, Lookup, Stat};
use crate::fs::ops::copy_range::Place;
use crate::fs::ops::xattr::SetXattr;

/// The largest request, in bytes: the kernel's default limit.
const MAX_WRITE: u32 = 1 << 20;

/// Maximum number of background requests, such as read-ahead, that the kernel may have in flight.
const MAX_BACKGROUND: u16 = 128;

/// The kernel opens the file to execute it (an internal flag that it does not mask).
const FMODE_EXEC: i32 = 0x20;

/// An inode number is never reused while the kernel knows it.
const GENERATION: Generation = Generation(0);

pub(crate) struct Adapter {
    fs: Arc<Filesystem>,
    runtime: Handle,
    dirents: Dirents,
}

impl Adapter {
    pub(crate) fn new(fs: Arc<Filesystem>, runtime: Handle) -> Adapter {
        Adapter {
            fs,
            runtime,
            dirents: Dirents::default(),
        }
    }

    /// Writes directory replies; needs the session's device before the session runs.
    pub(crate) fn dirents(&self) -> Dirents {
        self.dirents.clone()
    }

    /// Invalidations for a session thread to send to the kernel. Can be taken once.
    pub(crate) fn notices(&self) -> Notices {
        Notices(self.fs.take_notices())
    }

    /// Receives access to the kernel's caches before the session runs.
    pub(crate) fn kernel_caches(&self) -> impl FnOnce(fuser::Notifier) + use<> {
        let fs = self.fs.clone();
        move |notifier| {
            let pages = notifier.clone();
            fs.set_kernel_caches(KernelCaches {
                // A negative offset leaves the pages alone; invalidating them would wait for their locks.
                expire_attributes: Arc::new(move |ino| invalidate(&notifier, ino, -1, 0)),
                drop_pages: Arc::new(move |ino, range| {
                    let len = range.end.saturating_sub(range.start);
                    invalidate(&pages, ino, range.start as i64, len as i64);
                }),
            });
        }
    }

    /// Names that the kernel should forget, for a session thread to send. Can be taken once.
    pub(crate) fn forgets(&self) -> Forgets {
        Forgets(self.fs.take_forgets())
    }

    /// Polls `work` once here, and moves it to the runtime if it has to wait. A panic is answered with EIO.
    fn run<T: Send + 'static, R: Reply>(
        &self,
        operation: &'static str,
        reply: R,
        work: impl Future<Output = Result<T>> + Send + 'static,
        done: impl FnOnce(R, T) + Send + 'static,
    ) {
        let _entered = self.runtime.enter();
        let mut work = Box::pin(AssertUnwindSafe(work).catch_unwind());
        let finish = move |result: std::thread::Result<Result<T>>| match result {
            Ok(Ok(value)) => done(reply, value),
            Ok(Err(error)) => {
                log_failure(operation, &error);
                reply.fail(errno(&error));
            }
            Err(_) => {
                log::error!("{operation} panicked; the mount continues");
                reply.fail(Errno::EIO);
            }
        };
        match work.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            // A dropped reply answers EIO.
            Poll::Ready(result) => contain(operation, || finish(result)),
            Poll::Pending => {
                self.runtime.spawn(async move { finish(work.await) });
            }
        }
    }

    /// As [`run`](Self::run), for calls that change nothing: they end within the timeout, however many
    /// requests they make and whatever they wait for. The requests themselves continue for other calls that
    /// wait for them.
    fn run_query<T: Send + 'static, R: Reply>(
        &self,
        operation: &'static str,
        reply: R,
        work: impl Future<Output = Result<T>> + Send + 'static,
        done: impl FnOnce(R, T) + Send + 'static,
    ) {
        let timeout = self.fs.settings().timeout;
        let work = async move {
            let answer = deadline::by(Instant::now() + timeout, work).await;
            answer.unwrap_or_else(|_| {
                let after = format!("no response for {:.1} s", timeout.as_secs_f64());
                Err(Error::TimedOut(Arc::new(io::Error::other(after))))
            })
        };
        self.run(operation, reply, work, done);
    }

    /// The name that the kernel passed; on error, replies and returns none.
    fn name<R: Reply>(&self, name: &OsStr, reply: R) -> Option<(Name, R)> {
        match object_name::component(name) {
            Ok(name) => Some((Name::from(name), reply)),
            Err(error) => {
                reply.fail(errno(&error));
                None
            }
        }
    }
}

/// A panic ends one operation, not the session thread that runs it.
fn contain(operation: &'static str, work: impl FnOnce()) {
    if std::panic::catch_unwind(AssertUnwindSafe(work)).is_err() {
        log::error!("{operation} panicked; the mount continues");
    }
}

fn log_failure(operation: &str, error: &Error) {
    let level = level(error);
    if log::log_enabled!(level) {
        log::log!(level, "{operation}: {}", chain(error));
    }
}

impl fuser::Filesystem for Adapter {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // Without READDIRPLUS_AUTO, which makes the kernel request attributes only in every other reply and
        // look up the rest by name.
        let wanted = InitFlags::FUSE_ASYNC_READ
            | InitFlags::FUSE_BIG_WRITES
            | InitFlags::FUSE_MAX_PAGES
            | InitFlags::FUSE_ATOMIC_O_TRUNC
            | InitFlags::FUSE_PARALLEL_DIROPS
            | InitFlags::FUSE_DO_READDIRPLUS
            | InitFlags::FUSE_ASYNC_DIO
            | InitFlags::FUSE_EXPORT_SUPPORT
            | InitFlags::FUSE_EXPLICIT_INVAL_DATA
            | InitFlags::FUSE_HANDLE_KILLPRIV_V2
            | InitFlags::FUSE_CACHE_SYMLINKS;
        // Adding several fails as a whole if the kernel lacks one.
        let offered = wanted & config.capabilities();
        if let Err(refused) = config.add_capabilities(offered) {
            log::warn!("the kernel does not support {refused:?}");
        }
        // Each is clamped to the nearest value that the kernel allows.
        let _ = config.set_max_write(MAX_WRITE);
        let _ = config.set_max_background(MAX_BACKGROUND);
        let _ = config.set_congestion_threshold(MAX_BACKGROUND * 3 / 4);
        let _ = config.set_time_granularity(Duration::from_nanos(1));
        Ok(())
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let fs = self.fs.clone();
        // For file handles (open_by_handle_at, NFS): an inode itself, and what is above it.
        let here = |reply, stat| entry(reply, &stat);
        match name.as_encoded_bytes() {
            b"." => {
                let work = async move { fs.lookup_inode(Ino(parent.0)).await };
                return self.run_query("lookup", reply, work, here);
            }
            b".." => {
                let work = async move { fs.lookup_parent(Ino(parent.0)).await };
                return self.run_query("lookup", reply, work, here);
            }
            _ => {}
        }
        let Some((name, reply)) = self.name(name, reply) else {
            return;
        };
        self.run_query(
            "lookup",
            reply,
            async move { fs.lookup(fs.recalled(Ino(parent.0)), &name).await },
            |reply, found| match found {
                Lookup::Present(stat) => entry(reply, &stat),
                Lookup::Absent(valid) => reply.entry(&valid, &no_entry(), GENERATION),
            },
        );
    }

    fn forget(&self, _request: &Request, ino: INodeNo, lookups: u64) {
        contain("forget", || self.fs.forget(Ino(ino.0), lookups));
    }

    fn getattr(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: Option<FileHandle>,
        reply: ReplyAttr,
    ) {
        let fs = self.fs.clone();
        let work = async move { fs.getattr(fs.recalled(Ino(ino.0))).await };
        self.run_query("getattr", reply, work, attributes);
    }

    fn setattr(
        &self,
        request: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        ctime: Option<SystemTime>,
        _handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let change = Change {
            mode,
            uid,
            gid,
            atime: atime.map(timestamp),
            mtime: mtime.map(timestamp),
            ctime: ctime.map(Timestamp::from_system),
            // The kernel leaves this to the file system; only root keeps these bits when truncating a file.
            clear_set_id: size.is_some() && request.uid() != 0,
        };
        let (fs, thread) = (self.fs.clone(), request.pid());
        let work = async move {
            fs.setattr_by(thread, fs.recalled(Ino(ino.0)), size, change)
                .await
        };
        self.run("setattr", reply, work, attributes);
    }

    fn readlink(&self, _request: &Request, ino: INodeNo, reply: ReplyData) {
        let fs = self.fs.clone();
        let work = async move { fs.readlink(Ino(ino.0)).await };
        self.run_query("readlink", reply, work, |reply, target| reply.data(&target));
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let Some((name, reply)) = self.name(name, reply) else {
            return;
        };
        let (fs, caller) = (self.fs.clone(), caller(request));
        let work = async move {
            fs.mknod(fs.recalled(Ino(parent.0)), &name, mode, rdev, caller)
                .await
        };
        self.run("mknod", reply, work, |reply, stat| entry(reply, &stat));
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        let Some((name, reply)) = self.name(name, reply) else {
            return;
        };
        let (fs, caller) = (self.fs.clone(), caller(request));
        let work = async move {
            fs.mkdir(fs.recalled(Ino(parent.0)), &name, mode, caller)
                .await
        };
        self.run("mkdir", reply, work, |reply, stat| entry(reply, &stat));
    }

    fn unlink(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let Some((name, reply)) = self.name(name, reply) else {
            return;
        };
        let fs = self.fs.clone();
        let work = async move { fs.unlink(fs.recalled(Ino(parent.0)), &name).await };
        self.run("unlink", reply, work, ok);
    }

    fn rmdir(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let Some((name, reply)) = self.name(name, reply) else {
            return;
        };
        let fs = self.fs.clone();
        let work = async move { fs.rmdir(fs.recalled(Ino(parent.0)), &name).await };
        self.run("rmdir", reply, work, ok);
    }

    fn symlink(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let Some((name, reply)) = self.name(name, reply) else {
            return;
        };
        let target = target.as_os_str().as_encoded_bytes().to_vec();
        let (fs, caller) = (self.fs.clone(), caller(request));
        let work = async move {
            fs.symlink(fs.recalled(Ino(parent.0)), &name, &target, caller)
                .await
        };
        self.run("symlink", reply, work, |reply, stat| entry(reply, &stat));
    }

    fn rename(
        &self,
        _request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        if flags.intersects(RenameFlags::RENAME_EXCHANGE | RenameFlags::RENAME_WHITEOUT) {
            return reply.error(Errno::EINVAL);
        }
        let Some((name, reply)) = self.name(name, reply) else {
            return;
        };
        let Some((new_name, reply)) = self.name(new_name, reply) else {
            return;
        };
        let replace = !flags.contains(RenameFlags::RENAME_NOREPLACE);
        let fs = self.fs.clone();
        let from = (fs.recalled(Ino(parent.0)), name);
        let to = (fs.recalled(Ino(new_parent.0)), new_name);
        let work = async move { fs.rename(from, to, replace).await };
        self.run("rename", reply, work, ok);
    }

    fn link(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _parent: INodeNo,
        _name: &OsStr,
        reply: ReplyEntry,
    ) {
        reply.error(Errno::EPERM);
    }

    fn open(&self, request: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let how = how(request, flags.0);
        let fs = self.fs.clone();
        let work = async move { fs.open(Ino(ino.0), how).await };
        self.run("open", reply, work, move |reply, opened| {
            reply.opened(FileHandle(opened.handle), open_flags(&opened, how));
        });
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let Some((name, reply)) = self.name(name, reply) else {
            return;
        };
        let how = how(request, flags);
        let (fs, caller) = (self.fs.clone(), caller(request));
        let work = async move {
            fs.create(fs.recalled(Ino(parent.0)), &name, mode, caller, how)
                .await
        };
        self.run("create", reply, work, move |reply, (stat, opened)| {
            reply.created(
                &stat.valid,
                &attr(&stat),
                GENERATION,
                FileHandle(opened.handle),
                open_flags(&opened, how),
            );
        });
    }

    fn read(
        &self,
        _request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        // Even if the descriptor uses direct I/O: the file may be mapped.
        self.fs.fills_pages(handle.0);
        let fs = self.fs.clone();
        let work = async move { fs.read(handle.0, offset, size as usize).await };
        self.run("read", reply, work, |reply, bytes: Bytes| {
            reply.data(&bytes);
        });
    }

    fn write(
        &self,
        request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        // Data that the kernel writes back from a mapping has no writing process, and goes to its own offset
        // even if the descriptor appends.
        let mapped = write_flags.contains(WriteFlags::FUSE_WRITE_CACHE);
        let by = Writer {
            thread: if mapped { 0 } else { request.pid() },
            append: !mapped && flags.0 & libc::O_APPEND != 0,
            clear_set_id: write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID),
        };
        let direct = !mapped && flags.0 & libc::O_DIRECT != 0;
        let written = data.len() as u32;
        let range = offset..offset.saturating_add(data.len() as u64);
        let _entered = self.runtime.enter();
        let now = std::panic::catch_unwind(AssertUnwindSafe(|| {
            if !direct {
                self.fs.fills_pages(handle.0);
            }
            self.fs.write_now(handle.0, offset, data, by)
        }));
        let fs = self.fs.clone();
        let done = move |reply: ReplyWrite, ()| reply.written(written);
        match now {
            Ok(Ok(Ok(()))) if direct && self.fs.has_pages(handle.0) => {
                let work = async move { fs.pass_by_pages(handle.0, range).await };
                self.run("write", reply, work, done);
            }
            Ok(Ok(Ok(()))) => reply.written(written),
            Ok(Ok(Err(_))) => {
                let data = Bytes::copy_from_slice(data);
                let work = async move {
                    fs.write(handle.0, offset, data, by).await?;
                    match direct && fs.has_pages(handle.0) {
                        true => fs.pass_by_pages(handle.0, range).await,
                        false => Ok(()),
                    }
                };
                self.run("write", reply, work, done);
            }
            Ok(Err(error)) => {
                log_failure("write", &error);
                reply.error(errno(&error));
            }
            Err(_) => reply.error(Errno::EIO),
        }
    }

    fn flush(
        &self,
        request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        _owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        let (fs, thread) = (self.fs.clone(), request.pid());
        let work = async move { fs.flush(handle.0, thread).await };
        self.run("flush", reply, work, ok);
    }

    fn release(
        &self,
        _request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let _entered = self.runtime.enter();
        contain("release", || self.fs.release_now(handle.0));
        reply.ok();
    }

    fn fsync(
        &self,
        _request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        let fs = self.fs.clone();
        let work = async move { fs.fsync(handle.0).await };
        self.run("fsync", reply, work, ok);
    }

    /// Not supported. Programs use it on every file they open to check for a terminal.
    fn ioctl(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _flags: IoctlFlags,
        _cmd: u32,
        _in_data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(Errno::ENOTTY);
    }

    /// The kernel calls each of these once and remembers the result: files are always ready, ...
    fn poll(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _handle: FileHandle,
        _notifier: PollNotifier,
        _events: PollEvents,
        _flags: PollFlags,
        reply: ReplyPoll,
    ) {
        reply.error(Errno::ENOSYS);
    }

    /// ... contain data from beginning to end, ...
    fn lseek(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _handle: FileHandle,
        _offset: i64,
        _whence: i32,
        reply: ReplyLseek,
    ) {
        reply.error(Errno::ENOSYS);
    }

    /// ... are accessible according to their modes, ...
    fn access(&self, _request: &Request, _ino: INodeNo, _mask: AccessFlags, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    /// ... and are not on a block device.
    fn bmap(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _block_size: u32,
        _index: u64,
        reply: ReplyBmap,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn fallocate(
        &self,
        _request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        if mode != 0 {
            return reply.error(Errno::EOPNOTSUPP);
        }
        let fs = self.fs.clone();
        let work = async move { fs.allocate(handle.0, offset, length).await };
        self.run("fallocate", reply, work, ok);
    }

    fn copy_file_range(
        &self,
        _request: &Request,
        _ino_in: INodeNo,
        fh_in: FileHandle,
        offset_in: u64,
        _ino_out: INodeNo,
        fh_out: FileHandle,
        offset_out: u64,
        len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let from = Place {
            handle: fh_in.0,
            offset: offset_in,
        };
        let to = Place {
            handle: fh_out.0,
            offset: offset_out,
        };
        let fs = self.fs.clone();
        let work = async move { fs.copy_range(from, to, len).await };
        self.run("copy_file_range", reply, work, |reply, copied| {
            reply.written(u32::try_from(copied).unwrap_or(u32::MAX));
        });
    }

    fn opendir(&self, _request: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let fs = self.fs.clone();
        let work = async move { fs.opendir(fs.recalled(Ino(ino.0))).await };
        self.run("opendir", reply, work, |reply, handle| {
            reply.opened(FileHandle(handle), FopenFlags::empty());
        });
    }

    fn readdir(
        &self,
        request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        reply: ReplyDirectory,
    ) {
        let fs = self.fs.clone();
        let work = async move { fs.readdir(handle.0, offset, dirents::MOST, false).await };
        let (dirents, unique) = (self.dirents.clone(), request.unique());
        self.run_query("readdir", reply, work, move |reply, entries| {
            dirents.reply(unique, reply, &entries);
        });
    }

    fn readdirplus(
        &self,
        request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        reply: ReplyDirectoryPlus,
    ) {
        let fs = self.fs.clone();
        let work = async move { fs.readdir(handle.0, offset, dirents::MOST_PLUS, true).await };
        let (dirents, unique) = (self.dirents.clone(), request.unique());
        let fs = self.fs.clone();
        self.run_query("readdirplus", reply, work, move |reply, entries| {
            dirents.reply_plus(unique, reply, &entries, |entry| fs.entry_was_taken(entry));
            fs.entries_were_offered(&entries);
        });
    }

    fn releasedir(
        &self,
        _request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        contain("releasedir", || self.fs.releasedir(handle.0));
        reply.ok();
    }

    fn fsyncdir(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        let fs = self.fs.clone();
        let work = async move { fs.fsync_directory(fs.recalled(Ino(ino.0))).await };
        self.run("fsyncdir", reply, work, ok);
    }

    fn statfs(&self, _request: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        let space = self.fs.space();
        let block = u64::from(BLOCK_SIZE);
        let free = space.free / block;
        let used = (space.total - space.free).div_ceil(block);
        let files = 1 << 40;
        reply.statfs(
            free + used,
            free,
            free,
            files,
            files,
            BLOCK_SIZE,
            255,
            BLOCK_SIZE,
        );
    }

    fn setxattr(
        &self,
        _request: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let Some((name, reply)) = xattr_name(name, reply) else {
            return;
        };
        let how = match flags {
            0 => SetXattr::Either,
            libc::XATTR_CREATE => SetXattr::New,
            libc::XATTR_REPLACE => SetXattr::Existing,
            _ => return reply.error(Errno::EINVAL),
        };
        let (fs, value) = (self.fs.clone(), value.to_vec());
        let work = async move {
            fs.setxattr(fs.recalled(Ino(ino.0)), &name, &value, how)
                .await
        };
        self.run("setxattr", reply, work, ok);
    }

    fn getxattr(
        &self,
        _request: &Request,
        ino: INodeNo,
        name: &OsStr,
        size: u32,
        reply: ReplyXattr,
    ) {
        let Some((name, reply)) = xattr_name(name, reply) else {
            return;
        };
        let fs = self.fs.clone();
        let work = async move { fs.getxattr(fs.recalled(Ino(ino.0)), &name).await };
        self.run_query("getxattr", reply, work, xattr(size));
    }

    fn listxattr(&self, _request: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let fs = self.fs.clone();
        let work = async move { fs.listxattr(fs.recalled(Ino(ino.0))).await };
        self.run_query("listxattr", reply, work, xattr(size));
    }

    fn removexattr(&self, _request: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let Some((name, reply)) = xattr_name(name, reply) else {
            return;
        };
        let fs = self.fs.clone();
        let work = async move { fs.removexattr(fs.recalled(Ino(ino.0)), &name).await };
        self.run("removexattr", reply, work, ok);
    }
}

/// Invalidations for the kernel, in the order in which they occur.
pub(crate) struct Notices(Option<mpsc::Receiver<Invalidation>>);

impl Notices {
    /// Sends invalidations until the file system is dropped. Blocks, and so needs its own thread: the kernel
    /// may make it wait for requests that are being processed.
    pub(crate) fn tell(self, notifier: &fuser::Notifier) {
        let Some(mut notices) = self.0 else {
            return;
        };
        while let Some(notice) = notices.blocking_recv() {
            contain("an invalidation", || match &notice {
                Invalidation::Content(ino) => invalidate(notifier, *ino, 0, 0),
                Invalidation::Name(parent, name) => {
                    let told = notifier.inval_entry(INodeNo(parent.0), OsStr::new(name));
                    // The kernel has not cached it.
                    if let Err(error) = told
                        && error.kind() != io::ErrorKind::NotFound
                    {
                        log::debug!("cannot invalidate {notice:?} in the kernel: {error}");
                    }
                }
            });
        }
    }
}

fn invalidate(notifier: &fuser::Notifier, ino: Ino, offset: i64, len: i64) {
    // The kernel has not cached it.
    if let Err(error) = notifier.inval_inode(INodeNo(ino.0), offset, len)
        && error.kind() != io::ErrorKind::NotFound
    {
        log::debug!("cannot invalidate {ino:?} in the kernel: {error}");
    }
}

/// Names of files that the kernel should forget.
pub(crate) struct Forgets(Option<mpsc::Receiver<(Ino, Name)>>);

impl Forgets {
    /// As [`Notices::tell`], on another thread, so that urgent invalidations never wait for these.
    pub(crate) fn tell(self, notifier: &fuser::Notifier) {
        let Some(mut forgets) = self.0 else {
            return;
        };
        while let Some((parent, name)) = forgets.blocking_recv() {
            // The kernel may have forgotten the name already, or a program may use the file: it will be tried
            // again.
            let _ = notifier.inval_entry(INodeNo(parent.0), OsStr::new(&*name));
        }
    }
}

// ---- requests ----

fn caller(request: &Request) -> Caller {
    Caller {
        uid: request.uid(),
        gid: request.gid(),
    }
}

fn how(request: &Request, flags: i32) -> OpenHow {
    let mode = OpenFlags(flags).acc_mode();
    OpenHow {
        read: mode != OpenAccMode::O_WRONLY,
        write: mode != OpenAccMode::O_RDONLY,
        truncate: flags & libc::O_TRUNC != 0,
        exclusive: flags & libc::O_EXCL != 0,
        execute: flags & FMODE_EXEC != 0,
        // As in setattr.
        clear_set_id: request.uid() != 0,
        thread: request.pid(),
    }
}

// ---- replies ----

fn ok(reply: ReplyEmpty, _: ()) {
    reply.ok();
}

fn entry(reply: ReplyEntry, stat: &Stat) {
    reply.entry(&stat.valid, &attr(stat), GENERATION);
}

fn attributes(reply: ReplyAttr, stat: Stat) {
    reply.attr(&stat.valid, &attr(&stat));
}

/// The name of an attribute; on error, replies and returns none.
fn xattr_name<R: Reply>(name: &OsStr, reply: R) -> Option<(String, R)> {
    match name.to_str() {
        Some(name) => Some((name.to_owned(), reply)),
        None => {
            reply.fail(Errno::EILSEQ);
            None
        }
    }
}

/// Replies with a value, or with its length if the caller only asks for that.
fn xattr<T: AsRef<[u8]>>(size: u32) -> impl FnOnce(ReplyXattr, T) {
    move |reply, value| match value.as_ref() {
        value if size == 0 => reply.size(value.len() as u32),
        value if value.len() > size as usize => reply.error(errno(&Error::BufferTooSmall)),
        value => reply.data(value),
    }
}

fn open_flags(opened: &Opened, how: OpenHow) -> FopenFlags {
    let mut flags = FopenFlags::empty();
    if opened.keep_pages {
        flags |= FopenFlags::FOPEN_KEEP_CACHE;
    }
    if !how.write && !how.truncate {
        flags |= FopenFlags::FOPEN_NOFLUSH;
    }
    flags
}

/// Every reply can be an error.
trait Reply: Send + 'static {
    fn fail(self, errno: Errno);
}

macro_rules! replies {
    ($($reply:ty),*) => {
        $(impl Reply for $reply {
            fn fail(self, errno: Errno) {
                self.error(errno);
            }
        })*
    };
}

replies!(
    ReplyAttr,
    ReplyCreate,
    ReplyData,
    ReplyDirectory,
    ReplyDirectoryPlus,
    ReplyEmpty,
    ReplyEntry,
    ReplyOpen,
    ReplyWrite,
    ReplyXattr
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_does_not_leave_the_thread_of_the_session() {
        contain("a test", || panic!("on purpose"));
    }
}
