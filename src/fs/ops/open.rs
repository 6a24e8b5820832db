//! Open, create, flush, fsync, release: the life of what is open.

use std::sync::Arc;
use std::time::Instant;

use super::filesystem::Filesystem;
use crate::files::attributes::Kind;
use crate::fs::error::{Error, Result};
use crate::fs::handles::file_state::Creation;
use crate::fs::handles::open_file::{OpenFile, OpenHow};
use crate::fs::handles::open_files::Opened;
use crate::fs::handles::temporary_names;
use crate::fs::handles::writers::{leaves_copies, process_of};
use crate::fs::namespace::inode::{Ino, now};
use crate::fs::namespace::object_name::Name;
use crate::fs::namespace::stat::{Caller, Lookup, Stat};
use crate::fs::namespace::tree::Target;

impl Filesystem {
    // ---- open ----

    pub async fn open(self: &Arc<Self>, ino: Ino, how: OpenHow) -> Result<Opened> {
        if how.write || how.truncate {
            self.writable()?;
        }
        let file = self.open_files.acquire(ino, Instant::now()).await?;
        let opened = self.open_files.open_handle(&file, how);
        if let Err(error) = self.open_files.check_access(&file, how) {
            self.writeback.release(opened.handle);
            return Err(error);
        }
        let result = self.prepare_changes(&file, how).await;
        if let Err(error) = result {
            self.writeback.release(opened.handle);
            return Err(error);
        }
        if how.read {
            let content = file.lock().data.base.clone();
            if let Some(content) = content {
                content.expect_reading();
            }
        }
        let place = self.names.lock().place(ino);
        if let Some((parent, _)) = place {
            self.resolver.on_open(parent);
        }
        Ok(opened)
    }

    async fn prepare_changes(self: &Arc<Self>, file: &Arc<OpenFile>, how: OpenHow) -> Result<()> {
        // The kernel itself refuses writers, but asks for O_RDONLY | O_TRUNC before it looks.
        if how.truncate && file.lock().refs.runners > 0 {
            return Err(Error::Running);
        }
        if how.write || how.truncate {
            self.open_files.refuse_plain(file).await?;
            self.open_files.take_xattrs_along(file).await?;
        }
        if how.truncate {
            self.writeback.truncate_open(file, 0, true).await?;
            if how.clear_set_id
                && let Some(local) = self.names.lock().dirty_mut(file.ino)
            {
                local.attributes.clear_set_id(&self.settings.defaults);
                local.revision += 1;
            }
        }
        Ok(())
    }

    // ---- create ----

    pub async fn create(
        self: &Arc<Self>,
        parent: Ino,
        name: &Name,
        mode: u32,
        caller: Caller,
        how: OpenHow,
    ) -> Result<(Stat, Opened)> {
        self.writable()?;
        self.names.check_new_name(parent, name)?;
        let start = Instant::now();
        let mut asked = !how.exclusive || temporary_names::is_random(name);
        loop {
            // A name that others remove between the two looks is one to be made.
            while let Some(target) = self.resolver.target(parent, name, start).await? {
                if how.exclusive {
                    return Err(Error::Exists);
                }
                if let Target::Directory(_) = target {
                    return Err(Error::IsDirectory);
                }
                if let Lookup::Present(stat) = self.resolver.lookup(parent, name, start).await? {
                    let opened = self.open(stat.ino, how).await;
                    if opened.is_err() {
                        self.names.lock().forget(stat.ino, 1);
                    }
                    return Ok((stat, opened?));
                }
            }
            if std::mem::replace(&mut asked, true) {
                break;
            }
            // The bucket decides whether it is there, not what is cached.
            self.resolver.confirm_absent(parent, name, start).await?;
        }
        // What is made in a directory may get its group from it.
        self.resolver.getattr(parent, start).await?;
        let file = self.open_files.insert_with(|| {
            let mut namespace = self.names.lock();
            let attributes =
                self.resolver
                    .new_attributes(&namespace, parent, Kind::File, mode, caller);
            let ino = namespace.create(parent, name, attributes);
            namespace.pin(ino);
            namespace.touch_directory(parent, now());
            let temporary = how.exclusive && temporary_names::is_temporary(name);
            namespace.set_awaits_rename(ino, temporary);
            drop(namespace);
            let file = OpenFile::new(ino, None);
            {
                let mut state = file.lock();
                state.refs.acquire();
                state.data.staged = Some(self.open_files.new_staged(None));
                state.data.version = 1;
                state.data.emptied = true;
                state.creation = Some(Creation {
                    exclusive: how.exclusive.then(Vec::new),
                    temporary,
                });
            }
            if let Some(age) = self.settings.flush_after {
                self.writeback.upload_after(&file, &mut file.lock(), age);
            }
            file
        });
        let ino = file.ino;
        let opened = self.open_files.open_handle(&file, how);
        let stat = self.resolver.getattr(ino, start).await?;
        self.resolver.remember(ino);
        Ok((stat, opened))
    }

    // ---- flush, fsync, release ----

    /// Every close of every descriptor, by this thread. (0: the kernel does not say.)
    pub async fn flush(self: &Arc<Self>, handle: u64, thread: u32) -> Result<()> {
        let handle = self.open_files.handle(handle)?;
        if !handle.changes {
            return Ok(());
        }
        let (publishes, still_empty) = {
            let state = handle.file.lock();
            state.check_lost()?;
            let publishes = state.is_dirty()
                && !state.link.is_gone()
                && !state.waits_for_rename(self.settings.uploads.part_size)
                // It has inherited the descriptor; those who write go on, or the last close sees to it.
                && !state.data.changed_by.excludes_process_of(thread, process_of);
            (publishes, state.is_still_empty())
        };
        let ino = handle.file.ino.0;
        if publishes && !(still_empty && leaves_copies(handle.opener, thread, ino)) {
            self.writeback.publish(&handle.file).await?;
        }
        self.writeback.store_at_close(handle.file.ino).await
    }

    /// The last close. RELEASE has no error channel: pending data is uploaded in the background.
    pub fn release_now(&self, handle: u64) {
        self.writeback.release(handle);
    }

    pub async fn fsync(self: &Arc<Self>, handle: u64) -> Result<()> {
        let handle = self.open_files.handle(handle)?;
        let publishes = {
            let state = handle.file.lock();
            state.check_lost()?;
            let waits =
                state.is_temporary() && state.may_wait(self.settings.uploads.part_size) && {
                    let place = self.names.lock().place(handle.file.ino);
                    place.is_some_and(|(_, name)| temporary_names::is_synced_before_rename(&name))
                };
            state.is_dirty() && !waits
        };
        if publishes {
            self.writeback.publish(&handle.file).await?;
        }
        let of_file = |ino| ino == handle.file.ino;
        match self.writeback.store_late(of_file).await.pop() {
            Some((_, error)) => Err(error),
            None => Ok(()),
        }
    }
}
