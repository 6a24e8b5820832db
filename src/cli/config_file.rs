//! Configuration files: options for every command, and profiles, which give a source a name.
//!
//! `~/.config/ossvault/config.toml` (below `$XDG_CONFIG_HOME`, if set) and `/etc/ossvault/config.toml`, the first
//! one's values before the second one's; or one file that is named, and no other. A file that other users can
//! change is refused: it says which key encrypts, and may name commands.
//!
//! ```toml
//! [defaults]
//! region = "cn-hangzhou"
//!
//! [profiles.work]
//! source = "oss://bucket/documents"
//! mountpoint = "~/vault"
//! private-key = "~/.keys/vault.pem"
//! ```

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::error::{Error, Result};
use super::exit::Code;
use crate::crypto::trust;
use crate::text;

/// In bytes: more than anybody writes by hand.
const LARGEST: u64 = 1 << 20;

const SYSTEM: &str = "/etc/ossvault/config.toml";

/// One file, of the right form; the options in it are not checked yet.
#[derive(Debug)]
pub(super) struct ConfigFile {
    pub path: PathBuf,
    pub defaults: Table,
    /// By name.
    pub profiles: Vec<(String, Table)>,
}

impl ConfigFile {
    /// # Errors
    /// The file cannot be read, can be changed by other users, or is not of the right form.
    pub(super) fn read(path: &Path) -> Result<ConfigFile> {
        let failed = |code, why: String| {
            Error::new(
                code,
                format!("the configuration file {}: {why}", text::path(path)),
            )
        };
        let local = |error: std::io::Error| failed(Code::Local, reason(&error));
        let file = File::open(path).map_err(local)?;
        let metadata = file.metadata().map_err(local)?;
        if metadata.is_dir() {
            return Err(failed(Code::Local, "it is a directory".to_owned()));
        }
        let exposed = |why: String| {
            failed(
                Code::KeyPermissions,
                format!("other users can change it: {why}"),
            )
        };
        if metadata.is_file() {
            trust::owner(&metadata)
                .and_then(|()| trust::way(path))
                .map_err(|untrusted| exposed(untrusted.to_string()))?;
            let mode = metadata.mode() & 0o7777;
            if mode & 0o022 != 0 {
                return Err(exposed(format!(
                    "its mode is {mode:04o}; run `chmod go-w` on it"
                )));
            }
        }
        let mut content = String::new();
        file.take(LARGEST + 1)
            .read_to_string(&mut content)
            .map_err(local)?;
        if content.len() as u64 > LARGEST {
            return Err(failed(Code::Usage, "it is larger than 1 MiB".to_owned()));
        }
        parse(path, &content).map_err(|why| failed(Code::Usage, why))
    }
}

/// The files that count, those with precedence first. A named one has to be there.
///
/// # Errors
/// As [`ConfigFile::read`].
pub(super) fn read_all(
    named: Option<&Path>,
    variable: impl Fn(&str) -> Option<PathBuf>,
) -> Result<Vec<ConfigFile>> {
    if let Some(path) = named {
        return Ok(vec![ConfigFile::read(path)?]);
    }
    let mut files = Vec::new();
    for path in user_file(variable).into_iter().chain([SYSTEM.into()]) {
        match ConfigFile::read(&path) {
            Err(_) if is_absent(&path) => {}
            file => files.push(file?),
        }
    }
    Ok(files)
}

fn is_absent(path: &Path) -> bool {
    use std::io::ErrorKind::{NotADirectory, NotFound, PermissionDenied};
    // In a home that this user may not enter there is no file for this user.
    path.metadata()
        .is_err_and(|error| matches!(error.kind(), NotFound | NotADirectory | PermissionDenied))
}

fn user_file(variable: impl Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    let absolute = |name| variable(name).filter(|path| path.is_absolute());
    let folder = absolute("XDG_CONFIG_HOME").or_else(|| Some(absolute("HOME")?.join(".config")))?;
    Some(folder.join("ossvault/config.toml"))
}

/// Without the number, which says nothing more.
fn reason(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "there is no such file".to_owned(),
        std::io::ErrorKind::PermissionDenied => "you may not read it".to_owned(),
        std::io::ErrorKind::InvalidData => "it is not UTF-8".to_owned(),
        _ => error.to_string(),
    }
}

fn parse(path: &Path, content: &str) -> std::result::Result<ConfigFile, String> {
    // The parser's own message quotes the line, which may hold what was pasted into the wrong file.
    let mut table: Table = content.parse().map_err(|error: toml::de::Error| {
        let line = error.span().map_or(1, |span| {
            1 + content[..span.start.min(content.len())]
                .bytes()
                .filter(|byte| *byte == b'\n')
                .count()
        });
        format!("line {line} is not TOML")
    })?;
    let defaults = match table.remove("defaults") {
        None => Table::new(),
        Some(Value::Table(table)) => table,
        Some(_) => return Err("defaults is no table: write [defaults]".to_owned()),
    };
    let mut profiles = Vec::new();
    match table.remove("profiles") {
        None => {}
        Some(Value::Table(tables)) => {
            for (name, profile) in tables {
                let Value::Table(profile) = profile else {
                    return Err("a profile is no table: write [profiles.NAME]".to_owned());
                };
                if !is_profile_name(&name) {
                    return Err(
                        "a profile's name has another character than letters, digits, - and _"
                            .to_owned(),
                    );
                }
                profiles.push((name, profile));
            }
        }
        Some(_) => return Err("profiles is no table: write [profiles.NAME]".to_owned()),
    }
    match table.keys().next() {
        Some(name) => Err(match text::word(name) {
            Some(name) => format!(
                "{name} stands outside of [defaults] and [profiles.NAME], which are all there is"
            ),
            None => "it has more than [defaults] and [profiles.NAME]".to_owned(),
        }),
        None => Ok(ConfigFile {
            path: path.to_owned(),
            defaults,
            profiles,
        }),
    }
}

/// What cannot be mistaken for a source or a path.
pub(super) fn is_profile_name(name: &str) -> bool {
    !name.is_empty()
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_defaults_and_profiles_and_nothing_else() {
        let parsed = |content: &str| parse(Path::new("/c"), content);
        let file = parsed("[defaults]\nregion = 'a'\n[profiles.work]\nsource = 'b'\n").unwrap();
        assert_eq!(file.defaults.len(), 1);
        assert_eq!(file.profiles[0].0, "work");
        assert!(parsed("").unwrap().profiles.is_empty());
        for (content, said) in [
            ("region = 'a'", "region stands outside"),
            ("defaults = 1", "[defaults]"),
            ("profiles = 1", "[profiles.NAME]"),
            ("[profiles]\nwork = 1", "[profiles.NAME]"),
            ("[profiles.'a/b']", "name has another character"),
            ("\n\nx = [s3cret", "line 3 is not TOML"),
            ("a = 1\na = 2", "line 2 is not TOML"),
        ] {
            let message = parsed(content).unwrap_err();
            assert!(message.contains(said), "{content}: {message}");
            assert!(!message.contains("s3cret"), "{message}");
        }
    }

    #[test]
    fn a_file_that_others_can_change_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.toml");
        std::fs::write(&path, "[defaults]\n").unwrap();
        for (mode, expected) in [
            (0o600, None),
            (0o644, None),
            (0o664, Some(Code::KeyPermissions)),
            (0o602, Some(Code::KeyPermissions)),
        ] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let code = ConfigFile::read(&path).err().map(|error| error.code());
            assert_eq!(code, expected, "{mode:o}");
        }
        let missing = ConfigFile::read(&folder.path().join("none")).unwrap_err();
        assert!(missing.to_string().ends_with("there is no such file"));
    }
}
