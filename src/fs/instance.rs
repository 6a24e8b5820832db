//! What a mount leaves in the bucket for a later one, and how that one knows it for its own.
//!
//! Any client that may write to the bucket can put an intent there that looks like ours. So each mount that leaves
//! anything has a random name and a secret, in a file of that name on this machine. The file is locked as long as the
//! mount lives: what a mount has left whose file can be locked is left for good. A mount that ends with nothing left
//! removes its file; one that was killed is cleaned up after, and its file goes then.
//!
//! Without a folder for these files, objects are left in the bucket under a name that no later mount recognizes.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use tokio::sync::OnceCell;

use super::error::Result;
use super::namespace::object_name;
use super::settings::Settings;
use crate::crypto::mac::{self, MacKey};
use crate::encrypted::reserved::RESERVED;
use crate::store::object_store::ObjectKey;

/// Files of earlier mounts that are looked at, at most.
const MOST: usize = 1024;

/// A mount, alive or not, by what it has on this machine.
pub(crate) struct Instance {
    pub id: String,
    pub key: MacKey,
    /// Locked, and where it is; None: there is no folder for it.
    file: Option<(File, PathBuf)>,
}

impl Instance {
    /// A new one, with a file in `folder` if that can be.
    pub(crate) fn create(folder: Option<&Path>) -> Instance {
        let id = format!("{:016x}", rand::random::<u64>());
        let key = MacKey::generate();
        let file = folder.and_then(|folder| match keep(folder, &id, &key) {
            Ok(file) => Some(file),
            Err(error) => {
                log::warn!(
                    "cannot write to {}: if this mount is killed, no later one can finish what it leaves: {error}",
                    folder.display()
                );
                None
            }
        });
        Instance { id, key, file }
    }

    /// The mount of that name, if it was on this machine and lives no more: locked, so that no other mount cleans up
    /// after it at once.
    pub(crate) fn ended(folder: &Path, id: &str) -> Option<Instance> {
        if !is_id(id) {
            return None;
        }
        let path = folder.join(id);
        let mut options = OpenOptions::new();
        options
            .read(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
        let mut file = options.open(&path).ok()?;
        let meta = file.metadata().ok()?;
        let ours = meta.is_file()
            && meta.uid() == nix::unistd::geteuid().as_raw()
            && meta.mode() & 0o077 == 0
            && meta.len() == mac::LEN as u64;
        if !ours {
            return None;
        }
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock | TryLockError::Error(_)) => return None,
        }
        let mut secret = zeroize::Zeroizing::new([0; mac::LEN]);
        file.read_exact(&mut *secret).ok()?;
        Some(Instance {
            id: id.to_owned(),
            key: MacKey::from_bytes(&*secret)?,
            file: Some((file, path)),
        })
    }

    /// All those that live no more.
    pub(crate) fn all_ended(folder: &Path) -> Vec<Instance> {
        let Ok(entries) = std::fs::read_dir(folder) else {
            return Vec::new();
        };
        let names = entries.take(MOST).flatten().map(|entry| entry.file_name());
        names
            .filter_map(|name| Instance::ended(folder, name.to_str()?))
            .collect()
    }

    /// Nothing of it is left in the bucket.
    pub(crate) fn remove(&self) {
        if let Some((_locked, path)) = &self.file
            && let Err(error) = std::fs::remove_file(path)
        {
            log::warn!("{} is left: {error}", path.display());
        }
    }
}

/// This mount, to those that come after it.
pub(crate) struct ThisMount {
    settings: Arc<Settings>,
    /// Where a mount of this bucket finds what an earlier one has kept.
    state_dir: OnceLock<PathBuf>,
    instance: OnceCell<Instance>,
    /// Something of this mount stays in the bucket for a later one to clean up.
    leaves_something: AtomicBool,
}

impl ThisMount {
    pub(crate) fn new(settings: Arc<Settings>) -> Arc<ThisMount> {
        Arc::new(ThisMount {
            settings,
            state_dir: OnceLock::new(),
            instance: OnceCell::new(),
            leaves_something: AtomicBool::new(false),
        })
    }

    /// The first time counts.
    pub(crate) fn keep_state_in(&self, folder: PathBuf) {
        let _ = self.state_dir.set(folder);
    }

    pub(crate) fn state_dir(&self) -> Option<PathBuf> {
        self.state_dir.get().cloned()
    }

    /// Something of it stays in the bucket.
    pub(crate) fn leave_something(&self) {
        self.leaves_something.store(true, Ordering::Relaxed);
    }

    /// The name of this mount, by which later mounts recognize what it left.
    pub(crate) async fn instance(&self) -> &Instance {
        let create = async {
            let folder = self.state_dir.get().cloned();
            let created = tokio::task::spawn_blocking(move || Instance::create(folder.as_deref()));
            created.await.unwrap_or_else(|_| Instance::create(None))
        };
        self.instance.get_or_init(|| create).await
    }

    /// A key below `.ossvault/` that says whose it is.
    pub(crate) async fn key_of_ours(&self, what: &str) -> Result<ObjectKey> {
        object_name::object_key(format!(
            "{}{}/{what}{}-{:016x}",
            self.settings.prefix,
            RESERVED,
            self.instance().await.id,
            rand::random::<u64>()
        ))
    }

    /// Nothing of this mount is left in the bucket, as far as it knows.
    pub(crate) fn end_instance(&self) {
        if let Some(instance) = self.instance.get()
            && !self.leaves_something.load(Ordering::Relaxed)
        {
            instance.remove();
        }
    }
}

/// Whether this may be the name of a mount: 16 digits of base 16.
pub(crate) fn is_id(text: &str) -> bool {
    text.len() == 16
        && text
            .bytes()
            .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

fn keep(folder: &Path, id: &str, key: &MacKey) -> io::Result<(File, PathBuf)> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)?;
    let meta = folder.symlink_metadata()?;
    if !meta.is_dir() || meta.uid() != nix::unistd::geteuid().as_raw() || meta.mode() & 0o022 != 0 {
        return Err(io::Error::other("others may change what is in it"));
    }
    let path = folder.join(id);
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    let mut file = options.open(&path)?;
    // Locked before it holds anything: an empty one belongs to no mount.
    file.lock()?;
    file.write_all(key.as_bytes())?;
    file.sync_all()?;
    Ok((file, path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_is_known_again_when_it_has_ended_and_until_its_file_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("state");
        let living = Instance::create(Some(&folder));
        let (id, sum) = (living.id.clone(), living.key.sum(&[b"x"]));
        assert!(is_id(&id));
        assert!(Instance::ended(&folder, &id).is_none(), "it lives");
        drop(living);
        let ended = Instance::ended(&folder, &id).unwrap();
        assert!(ended.key.verifies(&[b"x"], &sum));
        assert!(
            Instance::all_ended(&folder).is_empty(),
            "it is being cleaned up after"
        );
        drop(ended);
        let all = Instance::all_ended(&folder);
        assert_eq!(all.len(), 1);
        all[0].remove();
        assert!(Instance::ended(&folder, &id).is_none());
        let mode = folder.metadata().unwrap().mode() & 0o777;
        assert_eq!(mode, 0o700);
    }

    #[test]
    fn what_is_no_file_of_a_mount_s_is_not_taken_for_one() {
        use std::os::unix::fs::symlink;
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let write = |name: &str, bytes: &[u8], mode: u32| {
            let mut options = OpenOptions::new();
            options.write(true).create_new(true).mode(mode);
            let mut file = options.open(folder.join(name)).unwrap();
            file.write_all(bytes).unwrap();
        };
        write("00000000000000aa", &[1; 32], 0o600);
        write("00000000000000bb", &[1; 31], 0o600);
        write("00000000000000cc", &[1; 32], 0o644);
        write("short", &[1; 32], 0o600);
        symlink(
            folder.join("00000000000000aa"),
            folder.join("00000000000000dd"),
        )
        .unwrap();
        for (id, expected) in [
            ("00000000000000aa", true),
            ("00000000000000bb", false),
            ("00000000000000cc", false),
            ("00000000000000dd", false),
            ("00000000000000ee", false),
            ("short", false),
            ("../../../../etc/p", false),
            ("", false),
        ] {
            assert_eq!(Instance::ended(folder, id).is_some(), expected, "{id}");
        }
    }
}
