//! Changes the passphrase of a private key file, without a moment at which the key could be lost.
//!
//! The new file is written beside the old one, read back and tested, made durable, and renamed over it. Whatever
//! interrupts that leaves a whole key under the file's name, protected by the old passphrase or by the new one.

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use super::key_error::{KeyError, Strength};
use super::key_file::{self, KeyFileError, NewFile, Permissions};
use super::key_pair::KeyPair;
use super::key_parse::{self, Passphrase};
use super::random;
use super::rsa_key::PublicKey;

/// Writes the private key in `path` again as PKCS#8 PEM, protected by `new`, or by nothing. The file keeps its mode,
/// owner and group; a symbolic link to it stays one. Returns the key's public half.
///
/// # Errors
/// Those of [`key_file::read_private`] and [`key_file::write_new`]; the file is then as it was.
pub fn change(
    path: &Path,
    permissions: Permissions,
    strength: Strength,
    old: Passphrase<'_>,
    new: Option<&str>,
) -> Result<PublicKey, KeyFileError> {
    let (bytes, found) = key_file::read_checked(path, permissions, 0o077)?;
    let of_key = |source| key_file::key_error(path, source);
    let unwritable = |source| key_file::write_error(path, source);
    if !found.is_file() {
        return Err(of_key(KeyError::Unusable(
            "it comes from a pipe or a device, which cannot be written to",
        )));
    }
    let description = key_parse::describe(&bytes).map_err(of_key)?;
    if description.private && description.others > 0 {
        return Err(of_key(KeyError::Unusable(
            "its file has other keys or certificates besides, which would be lost: move the key to a file of its own",
        )));
    }
    let pair = KeyPair::read(&bytes, strength, old).map_err(of_key)?;
    let failed = |_| of_key(KeyError::Damaged("it cannot unwrap what it wrapped"));
    pair.prove().map_err(failed)?;
    let pem = pair.private_pem(new).map_err(of_key)?;
    // What replaces the only copy of a key must open.
    let again = key_parse::private_key_of(pem.as_bytes(), strength, &mut || {
        new.map(|text| zeroize::Zeroizing::new(text.to_owned()))
    });
    let again = again.map_err(of_key)?;
    if again.public() != pair.public() {
        return Err(of_key(KeyError::Damaged("it could not be encoded")));
    }
    again.prove().map_err(failed)?;

    // The file that a link leads to, so that the link stays.
    let target = path.canonicalize().map_err(unwritable)?;
    let folder = target.parent().unwrap_or(Path::new("/")).to_owned();
    let mut file = NewFile::create(&beside(&target), 0o600)?;
    let own = file.file().metadata().map_err(unwritable)?;
    if (own.uid(), own.gid()) != (found.uid(), found.gid()) {
        fchown(file.file(), Some(found.uid()), Some(found.gid())).map_err(unwritable)?;
    }
    let mode = std::fs::Permissions::from_mode(found.mode() & 0o7777);
    file.file().set_permissions(mode).map_err(unwritable)?;
    file.write(pem.as_bytes())?;
    file.rename_to(&target)?;
    File::open(&folder)
        .and_then(|folder| folder.sync_all())
        .map_err(|source| key_file::write_error(&folder, source))?;
    Ok(pair.public().clone())
}

/// A name in the same folder that is in no use: `.NAME.XXXXXXXXXXXXXXXX`.
fn beside(path: &Path) -> PathBuf {
    let mut bytes = [0; 8];
    random::fill(&mut bytes);
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}", hex::encode(bytes)));
    path.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use zeroize::Zeroizing;

    use super::*;

    fn given(text: Option<&str>) -> impl FnMut() -> Option<Zeroizing<String>> {
        let text = text.map(|text| Zeroizing::new(text.to_owned()));
        move || text.clone()
    }

    fn changed(path: &Path, old: Option<&str>, new: Option<&str>) -> Result<PublicKey, String> {
        change(
            path,
            Permissions::Enforced,
            Strength::Enforced,
            &mut given(old),
            new,
        )
        .map_err(|error| error.to_string())
    }

    fn opens(path: &Path, passphrase: Option<&str>) -> Result<PublicKey, String> {
        key_file::read_private(
            path,
            Permissions::Enforced,
            Strength::Enforced,
            &mut given(passphrase),
        )
        .map(|key| key.public().clone())
        .map_err(|error| error.to_string())
    }

    fn set_mode(path: &Path, mode: u32) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_passphrase_is_set_changed_and_removed_and_the_file_keeps_its_mode() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let pair = KeyPair::generate(2048).unwrap();
        key_file::write_new(&path, &pair, None).unwrap();
        set_mode(&path, 0o400);
        let link = folder.path().join("link");
        symlink("key", &link).unwrap();
        let mut before = None;
        for after in [Some("one"), Some("two"), None] {
            assert_eq!(changed(&link, before, after).unwrap(), *pair.public());
            assert_eq!(opens(&path, after).unwrap(), *pair.public());
            if let Some(before) = before {
                assert!(opens(&path, Some(before)).is_err() == after.is_some());
            }
            assert_eq!(path.metadata().unwrap().mode() & 0o7777, 0o400);
            assert!(link.symlink_metadata().unwrap().is_symlink());
            before = after;
        }
        // The key, its public half, and the link: nothing is left over.
        assert_eq!(folder.path().read_dir().unwrap().count(), 3);
    }

    #[test]
    fn a_refused_change_leaves_the_file_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let pair = KeyPair::generate(2048).unwrap();
        key_file::write_new(&path, &pair, Some("right")).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let chain = folder.path().join("chain");
        std::fs::write(&chain, [&bytes[..], pair.public_pem().as_bytes()].concat()).unwrap();
        set_mode(&chain, 0o600);
        set_mode(&folder.path().join("key.pub"), 0o600);
        for (path, old, new, message) in [
            (&path, Some("wrong"), Some("new"), "wrong passphrase"),
            (&path, None, Some("new"), "none was given"),
            (&path, Some("right"), Some(""), "empty passphrase"),
            (&chain, Some("right"), Some("new"), "besides"),
            (&folder.path().join("key.pub"), None, None, "public key"),
        ] {
            let error = changed(path, old, new).unwrap_err();
            assert!(error.contains(message), "{error}");
        }
        assert_eq!(std::fs::read(&path).unwrap(), bytes);
        assert_eq!(folder.path().read_dir().unwrap().count(), 3);
    }

    #[test]
    fn every_form_of_a_private_key_becomes_the_one_that_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let vectors = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/keys");
        let mut forms = 0;
        for entry in vectors.read_dir().unwrap().flatten() {
            let name = entry.file_name().into_string().unwrap();
            if !name.starts_with("rsa") || name.contains(".pub.") {
                continue;
            }
            let path = folder.path().join(&name);
            std::fs::copy(entry.path(), &path).unwrap();
            set_mode(&path, 0o600);
            let encrypted = name.contains(".enc.");
            let old = encrypted.then_some(VECTORS_PASSPHRASE);
            let described = key_file::describe(&path).unwrap().description;
            assert_eq!(described.encrypted, encrypted, "{name}");
            assert_eq!(described.pem, name.ends_with(".pem"), "{name}");
            let structure = if name.contains("pkcs1") {
                "PKCS#1"
            } else {
                "PKCS#8"
            };
            assert_eq!(described.structure, structure, "{name}");
            let public = opens(&path, old).unwrap();
            assert_eq!(changed(&path, old, Some("new")).unwrap(), public, "{name}");
            assert_eq!(opens(&path, Some("new")).unwrap(), public, "{name}");
            forms += 1;
        }
        assert!(forms > 8, "{forms}");
    }

    /// Of the encrypted keys in `tests/vectors/keys`.
    const VECTORS_PASSPHRASE: &str = "correct horse battery";
}
