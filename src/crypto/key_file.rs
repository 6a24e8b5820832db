//! Key files on disk: checking who can access them, and writing new ones.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use zeroize::Zeroizing;

use super::key_error::{KeyError, Strength};
use super::key_pair::KeyPair;
use super::key_parse::{self, Description, Passphrase};
use super::rsa_key::{PrivateKey, PublicKey};
use super::trust::{self, Untrusted};
use crate::text;

/// Larger than any key file: an encrypted 4096-bit key has 3.5 KB, with room for a certificate or two.
const MAX_LEN: u64 = 64 * 1024;

/// How long a pipe may take to deliver the next bytes of a key.
const PIPE_DEADLINE: Duration = Duration::from_secs(30);

/// Whether to check who can read or replace a key file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permissions {
    /// A private key must be readable only by its owner, and no key may be changed by others.
    Enforced,
    /// `--insecure-key-permissions`.
    Ignored,
}

#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    #[error("key file {}: {source}", text::path(path))]
    Io {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("cannot write {}: {source}", text::path(path))]
    Write {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("key file {}: a directory", text::path(.0))]
    Directory(PathBuf),
    #[error("key file {}: the pipe delivered nothing within {} s", text::path(.0), PIPE_DEADLINE.as_secs())]
    Silent(PathBuf),
    #[error("key file {}: too long for a key", text::path(.0))]
    TooLong(PathBuf),
    #[error(
        "private key {}: other users can read it (mode {mode:04o}); run `chmod 600` on it, or give --insecure-key-permissions",
        text::path(path)
    )]
    ReadableByOthers { path: PathBuf, mode: u32 },
    #[error(
        "public key {}: other users can change it (mode {mode:04o}); run `chmod go-w` on it, or give --insecure-key-permissions",
        text::path(path)
    )]
    WritableByOthers { path: PathBuf, mode: u32 },
    #[error(
        "key file {}: other users can replace it: {source}; or give --insecure-key-permissions",
        text::path(path)
    )]
    Exchangeable { path: PathBuf, source: Untrusted },
    #[error("key file {}: {source}", text::path(path))]
    Key { path: PathBuf, source: KeyError },
    #[error("{} exists already; keys are never overwritten", text::path(.0))]
    Exists(PathBuf),
}

/// # Errors
/// See [`KeyFileError`].
pub fn read_private(
    path: &Path,
    permissions: Permissions,
    strength: Strength,
    passphrase: Passphrase<'_>,
) -> Result<PrivateKey, KeyFileError> {
    let (bytes, found) = read(path)?;
    if permissions == Permissions::Enforced
        && let Err(refused) = check(path, &found, 0o077)
    {
        // A file without a private key exposes nothing secret: report that problem instead.
        return Err(match key_parse::private_key(&bytes, &mut || None) {
            Err(error) if holds_no_private_key(&error) => key_error(path, error),
            _ => refused,
        });
    }
    key_parse::private_key_of(&bytes, strength, passphrase)
        .map_err(|source| key_error(path, source))
}

/// Whether a file that is refused with this error is of a kind that is often kept beside private keys: public
/// keys, certificates, keys for other purposes, notes.
pub fn holds_no_private_key(error: &KeyError) -> bool {
    matches!(
        error,
        KeyError::PublicOnly | KeyError::NotAKey | KeyError::NotRsa(_) | KeyError::Foreign { .. }
    )
}

/// # Errors
/// See [`KeyFileError`].
pub fn read_public(path: &Path, permissions: Permissions) -> Result<PublicKey, KeyFileError> {
    let (bytes, found) = read(path)?;
    if permissions == Permissions::Enforced {
        check(path, &found, 0o022)?;
    }
    key_parse::public_key(&bytes).map_err(|source| key_error(path, source))
}

/// A key file, as anyone who can read it sees it.
pub struct Described {
    pub description: Description,
    /// Of the file: permission bits.
    pub mode: u32,
    pub uid: u32,
    /// The reason why the key is refused unless permissions are ignored.
    pub problem: Option<KeyFileError>,
}

/// Describes a private or public key file, whoever can access it.
///
/// # Errors
/// The file cannot be read, or has no key.
pub fn describe(path: &Path) -> Result<Described, KeyFileError> {
    let (bytes, found) = read(path)?;
    let description = key_parse::describe(&bytes).map_err(|source| key_error(path, source))?;
    let forbidden = if description.private { 0o077 } else { 0o022 };
    Ok(Described {
        description,
        mode: found.mode() & 0o7777,
        uid: found.uid(),
        problem: check(path, &found, forbidden).err(),
    })
}

/// The content of a key file with which others may not do what `forbidden` says.
pub(super) fn read_checked(
    path: &Path,
    permissions: Permissions,
    forbidden: u32,
) -> Result<(Zeroizing<Vec<u8>>, Metadata), KeyFileError> {
    let (bytes, found) = read(path)?;
    if permissions == Permissions::Enforced {
        check(path, &found, forbidden)?;
    }
    Ok((bytes, found))
}

/// Checks who owns the file, what others may do with it (`forbidden`), and whether they can replace it. Not
/// applicable to data from a pipe.
fn check(path: &Path, found: &Metadata, forbidden: u32) -> Result<(), KeyFileError> {
    let exchangeable = |source| KeyFileError::Exchangeable {
        path: path.to_owned(),
        source,
    };
    if !found.is_file() {
        return match trust::is_inherited(path) {
            true => Ok(()),
            false => trust::way(path).map_err(exchangeable),
        };
    }
    trust::owner(found).map_err(exchangeable)?;
    let mode = found.mode() & 0o7777;
    if mode & forbidden != 0 {
        let path = path.to_owned();
        return Err(match forbidden {
            0o022 => KeyFileError::WritableByOthers { path, mode },
            _ => KeyFileError::ReadableByOthers { path, mode },
        });
    }
    trust::way(path).map_err(exchangeable)
}

/// The path of the public key that [`write_new`] writes: `PATH.pub`.
pub fn public_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".pub");
    name.into()
}

/// Writes the private key to `path` with mode 0600 and the public key to `path.pub` with mode 0644, both
/// durably. Neither may exist. Leaves nothing behind on failure.
///
/// # Errors
/// [`KeyFileError::Exists`], [`KeyFileError::Write`], and [`KeyFileError::Key`] for an empty passphrase.
pub fn write_new(
    path: &Path,
    pair: &KeyPair,
    passphrase: Option<&str>,
) -> Result<PathBuf, KeyFileError> {
    let private = pair
        .private_pem(passphrase)
        .map_err(|source| key_error(path, source))?;
    let public_path = public_path(path);
    let mut private_file = NewFile::create(path, 0o600)?;
    let mut public_file = NewFile::create(&public_path, 0o644)?;
    private_file.write(private.as_bytes())?;
    public_file.write(pair.public_pem().as_bytes())?;
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(|source| write_error(folder, source))?;
    private_file.keep();
    public_file.keep();
    Ok(public_path)
}

/// Writes a public key to a new file with mode 0644.
///
/// # Errors
/// [`KeyFileError::Exists`] and [`KeyFileError::Write`].
pub fn write_public(path: &Path, public: &PublicKey) -> Result<(), KeyFileError> {
    let mut file = NewFile::create(path, 0o644)?;
    file.write(public.to_pem().as_bytes())?;
    file.keep();
    Ok(())
}

/// A file that did not exist before, and is removed after a failure.
pub(super) struct NewFile {
    path: PathBuf,
    file: File,
    keep: bool,
}

impl NewFile {
    pub(super) fn create(path: &Path, mode: u32) -> Result<NewFile, KeyFileError> {
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(path)
            .map_err(|source| match source.kind() {
                std::io::ErrorKind::AlreadyExists => KeyFileError::Exists(path.to_owned()),
                _ => write_error(path, source),
            })?;
        Ok(NewFile {
            path: path.to_owned(),
            file,
            keep: false,
        })
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Durably.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), KeyFileError> {
        self.file
            .write_all(bytes)
            .and_then(|()| self.file.sync_all())
            .map_err(|source| write_error(&self.path, source))
    }

    /// In place of what has that name, if anything has.
    pub(super) fn rename_to(self, path: &Path) -> Result<(), KeyFileError> {
        std::fs::rename(&self.path, path).map_err(|source| write_error(path, source))?;
        self.keep();
        Ok(())
    }

    fn keep(mut self) {
        self.keep = true;
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.keep {
            // Nothing can be done about an error while handling another one.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Content and metadata from one open descriptor, so that both belong to the same file.
fn read(path: &Path) -> Result<(Zeroizing<Vec<u8>>, Metadata), KeyFileError> {
    // Without O_NONBLOCK, opening a FIFO would wait forever.
    let mut file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .map_err(|source| io_error(path, source))?;
    let found = file.metadata().map_err(|source| io_error(path, source))?;
    if found.is_dir() {
        return Err(KeyFileError::Directory(path.to_owned()));
    }
    // With capacity reserved in advance: growing would leave copies of the key behind.
    let mut bytes = Zeroizing::new(vec![0; MAX_LEN as usize + 1]);
    let mut len = 0;
    while len < bytes.len() {
        if !found.is_file() {
            wait_for(&file, path)?;
        }
        match file.read(&mut bytes[len..]) {
            Ok(0) => break,
            Ok(count) => len += count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(source) => return Err(io_error(path, source)),
        }
    }
    if len as u64 > MAX_LEN {
        return Err(KeyFileError::TooLong(path.to_owned()));
    }
    bytes.truncate(len);
    Ok((bytes, found))
}

/// Waits until a pipe has data or ends.
fn wait_for(file: &File, path: &Path) -> Result<(), KeyFileError> {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let timeout = PollTimeout::try_from(PIPE_DEADLINE).unwrap_or(PollTimeout::MAX);
    let mut waiting = [PollFd::new(file.as_fd(), PollFlags::POLLIN)];
    match poll(&mut waiting, timeout) {
        Ok(0) => Err(KeyFileError::Silent(path.to_owned())),
        Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
        Err(error) => Err(io_error(path, error.into())),
    }
}

fn io_error(path: &Path, source: std::io::Error) -> KeyFileError {
    KeyFileError::Io {
        path: path.to_owned(),
        source,
    }
}

pub(super) fn write_error(path: &Path, source: std::io::Error) -> KeyFileError {
    KeyFileError::Write {
        path: path.to_owned(),
        source,
    }
}

pub(super) fn key_error(path: &Path, source: KeyError) -> KeyFileError {
    KeyFileError::Key {
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::sync::LazyLock;

    static PAIR: LazyLock<KeyPair> = LazyLock::new(|| KeyPair::generate(2048).unwrap());

    fn mode(path: &Path) -> u32 {
        path.metadata().unwrap().mode() & 0o7777
    }

    fn set_mode(path: &Path, mode: u32) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn writes_a_pair_that_reads_back() {
        let folder = tempfile::tempdir().unwrap();
        for (name, passphrase) in [("plain", None), ("protected", Some("correct horse"))] {
            let path = folder.path().join(name);
            let public = write_new(&path, &PAIR, passphrase).unwrap();
            assert_eq!(public, folder.path().join(format!("{name}.pub")));
            assert_eq!((mode(&path), mode(&public) & 0o700), (0o600, 0o600));
            let mut asked = 0;
            let private = read_private(
                &path,
                Permissions::Enforced,
                Strength::Enforced,
                &mut || {
                    asked += 1;
                    Some(Zeroizing::new("correct horse".into()))
                },
            )
            .unwrap();
            assert_eq!(asked, usize::from(passphrase.is_some()));
            private.prove().unwrap();
            let public = read_public(&public, Permissions::Enforced).unwrap();
            assert_eq!(public.fingerprint(), private.public().fingerprint());
        }
        let wrong = read_private(
            &folder.path().join("protected"),
            Permissions::Enforced,
            Strength::Enforced,
            &mut || Some(Zeroizing::new("wrong".into())),
        );
        assert!(
            wrong
                .err()
                .unwrap()
                .to_string()
                .ends_with("wrong passphrase")
        );
    }

    #[test]
    fn never_overwrites_and_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        for existing in ["key", "key.pub"] {
            let existing = folder.path().join(existing);
            std::fs::write(&existing, "precious").unwrap();
            let error = write_new(&path, &PAIR, None).err().unwrap();
            assert!(
                matches!(error, KeyFileError::Exists(ref p) if *p == existing),
                "{error}"
            );
            assert_eq!(std::fs::read_to_string(&existing).unwrap(), "precious");
            std::fs::remove_file(existing).unwrap();
            assert_eq!(folder.path().read_dir().unwrap().count(), 0);
        }
        let error = write_new(&path, &PAIR, Some("")).err().unwrap();
        assert!(error.to_string().contains("empty passphrase"), "{error}");
        assert_eq!(folder.path().read_dir().unwrap().count(), 0);
    }

    #[test]
    fn a_key_that_others_can_access_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let public = write_new(&path, &PAIR, None).unwrap();
        for (m, private_ok, public_ok) in [
            (0o600, true, true),
            (0o400, true, true),
            (0o640, false, true),
            (0o604, false, true),
            (0o620, false, false),
            (0o602, false, false),
        ] {
            set_mode(&path, m);
            set_mode(&public, m);
            let read = |permissions| {
                read_private(&path, permissions, Strength::Enforced, &mut || None).is_ok()
            };
            assert_eq!(read(Permissions::Enforced), private_ok, "{m:o}");
            assert!(read(Permissions::Ignored), "{m:o}");
            assert_eq!(
                read_public(&public, Permissions::Enforced).is_ok(),
                public_ok,
                "{m:o}"
            );
            assert!(read_public(&public, Permissions::Ignored).is_ok(), "{m:o}");
        }
        // The more basic problem is reported first.
        set_mode(&public, 0o644);
        let error = read_private(
            &public,
            Permissions::Enforced,
            Strength::Enforced,
            &mut || None,
        )
        .err()
        .unwrap();
        assert!(
            error.to_string().contains("this is a public key"),
            "{error}"
        );
        set_mode(&path, 0o600);
        let error = read_public(&path, Permissions::Enforced).err().unwrap();
        assert!(
            error.to_string().contains("this is a private key"),
            "{error}"
        );
    }

    #[test]
    fn anything_but_a_key_file_is_an_error_that_names_it() {
        let folder = tempfile::tempdir().unwrap();
        let long = folder.path().join("long");
        std::fs::write(&long, vec![b'x'; 70_000]).unwrap();
        set_mode(&long, 0o600);
        for (path, message) in [
            (folder.path().join("missing"), "No such file"),
            (folder.path().to_owned(), "a directory"),
            (long, "too long for a key"),
        ] {
            let error = read_private(
                &path,
                Permissions::Enforced,
                Strength::Enforced,
                &mut || None,
            )
            .err()
            .unwrap();
            let error = error.to_string();
            assert!(error.contains(message), "{error}");
            assert!(error.contains(path.to_str().unwrap()), "{error}");
        }
    }

    #[test]
    fn openssl_opens_the_written_keys() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        write_new(&path, &PAIR, Some("correct horse")).unwrap();
        let output = std::process::Command::new("openssl")
            .args(["pkey", "-pubout", "-passin", "pass:correct horse", "-in"])
            .arg(&path)
            .output();
        match output {
            Ok(output) => {
                let error = String::from_utf8_lossy(&output.stderr).into_owned();
                assert!(output.status.success(), "{error}");
                assert_eq!(String::from_utf8(output.stdout).unwrap(), PAIR.public_pem());
            }
            Err(error) => println!("skipped: no openssl ({error})"),
        }
    }

    /// Someone who can replace the public key can read what is written from then on.
    #[test]
    fn a_key_that_others_can_replace_is_refused() {
        use std::os::unix::fs::{lchown, symlink};
        let root = tempfile::tempdir().unwrap();
        let open = root.path().join("open");
        std::fs::create_dir(&open).unwrap();
        let key = open.join("key");
        let public = write_new(&key, &PAIR, None).unwrap();
        let link = root.path().join("link");
        symlink(&public, &link).unwrap();
        let refused = |path: &Path, permissions| {
            let error = match path == key {
                true => read_private(path, permissions, Strength::Enforced, &mut || None).err(),
                false => read_public(path, permissions).err(),
            };
            error.map(|error| error.to_string()).unwrap_or_default()
        };
        for path in [&key, &public, &link] {
            assert_eq!(refused(path, Permissions::Enforced), "");
        }
        set_mode(&open, 0o777);
        for path in [&key, &public, &link] {
            let message = refused(path, Permissions::Enforced);
            assert!(
                message.contains("other users can replace the contents of the folder"),
                "{message}"
            );
            assert_eq!(refused(path, Permissions::Ignored), "");
        }
        // A folder like /tmp: other users can add names, but not replace existing files.
        set_mode(&open, 0o1777);
        for path in [&key, &public, &link] {
            assert_eq!(refused(path, Permissions::Enforced), "");
        }
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped in part: only root gives files away");
            return;
        }
        lchown(&link, Some(4711), None).unwrap();
        let message = refused(&link, Permissions::Enforced);
        assert!(
            message.contains("belongs to another user (uid 4711)"),
            "{message}"
        );
        lchown(&public, Some(4711), None).unwrap();
        let message = refused(&public, Permissions::Enforced);
        assert!(
            message.contains("it belongs to another user (uid 4711)"),
            "{message}"
        );
    }

    #[test]
    fn a_key_comes_through_a_pipe_however_slowly() {
        let (reader, mut writer) = std::io::pipe().unwrap();
        use std::os::fd::AsRawFd;
        let path = PathBuf::from(format!("/proc/self/fd/{}", reader.as_raw_fd()));
        let pem = PAIR.private_pem(None).unwrap();
        let (first, second) = pem.as_bytes().split_at(100);
        let key = std::thread::scope(|scope| {
            scope.spawn(move || {
                std::thread::sleep(Duration::from_millis(50));
                writer.write_all(first).unwrap();
                std::thread::sleep(Duration::from_millis(50));
                writer.write_all(second).unwrap();
            });
            read_private(
                &path,
                Permissions::Enforced,
                Strength::Enforced,
                &mut || None,
            )
        });
        assert_eq!(key.unwrap().public(), PAIR.public());
        // A pipe that never ends is not read forever.
        let error = read_public(Path::new("/dev/zero"), Permissions::Ignored);
        assert!(matches!(error, Err(KeyFileError::TooLong(_))));
    }
}
