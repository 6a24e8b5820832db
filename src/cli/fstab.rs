//! `ossvault mount --update-fstab`: a line of /etc/fstab for the mount that was just made.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use clap::builder::ValueParser;
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command};

use super::error::{Error, Result};
use super::exit::Code;
use crate::text;

/// Options that concern the command and not the mount.
const NOT_OF_MOUNTS: [&str; 6] = [
    "source",
    "mountpoint",
    "foreground",
    "verbose",
    "update_fstab",
    "config",
];

/// The types of file system that mount(8) hands to ossvault.
const OWN_TYPES: [&str; 2] = ["ossvault", "fuse.ossvault"];

/// Writes a line for the mount into `fstab`, in place of an earlier one for the same mount point.
///
/// # Errors
/// [`Code::Local`]; [`Code::Usage`] if a line of another file system has the mount point.
pub(super) fn update(fstab: &Path, source: &str, mountpoint: &Path, options: &str) -> Result<()> {
    let failed = |error: io::Error| {
        let path = text::path(fstab);
        Error::new(Code::Local, format!("cannot change {path}: {error}"))
    };
    let before = match fs::read(fstab) {
        Ok(before) => before,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(failed(error)),
    };
    let line = format!(
        "{}\t{}\tossvault\t{}\t0\t0",
        field(OsStr::new(source)),
        field(mountpoint.as_os_str()),
        field(OsStr::new(options)),
    );
    let after = with_line(&before, &field(mountpoint.as_os_str()), &line).map_err(|kind| {
        Error::new(
            Code::Usage,
            format!(
                "{} has a line of the type {kind} for {}: remove it first; nothing was changed",
                text::path(fstab),
                text::path(mountpoint)
            ),
        )
    })?;
    replace(fstab, &after).map_err(failed)
}

/// The options of the mount that were given on the command line, as fstab has them.
pub(super) fn options(mount: &Command, matches: &ArgMatches, is_remote: bool) -> String {
    let mut options: Vec<String> = match is_remote {
        true => vec!["_netdev".to_owned(), "nofail".to_owned()],
        false => vec!["nofail".to_owned()],
    };
    for argument in mount.get_arguments() {
        let id = argument.get_id().as_str();
        let given = matches.value_source(id) == Some(ValueSource::CommandLine);
        if !given || NOT_OF_MOUNTS.contains(&id) || argument.is_hide_set() {
            continue;
        }
        let Some(name) = argument.get_long().map(|name| name.replace('-', "_")) else {
            continue;
        };
        match argument.get_action() {
            ArgAction::Set | ArgAction::Append => {
                for value in matches.get_raw(id).into_iter().flatten() {
                    options.push(format!("{name}={}", value_of(argument, value)));
                }
            }
            _ => options.push(name),
        }
    }
    options.join(",")
}

/// Commas escaped as `-o` has them, and paths from the root.
fn value_of(argument: &Arg, value: &OsStr) -> String {
    let is_path = argument.get_value_parser().type_id() == ValueParser::path_buf().type_id();
    let value = match std::path::absolute(value) {
        Ok(path) if is_path => path.into_os_string(),
        _ => value.to_owned(),
    };
    let value = value.to_string_lossy();
    value.replace('\\', "\\\\").replace(',', "\\,")
}

/// A field of fstab: blanks, line ends and backslashes are octal (fstab(5)).
fn field(text: &OsStr) -> String {
    let mut field = Vec::new();
    for &byte in text.as_bytes() {
        match byte {
            b' ' | b'\t' | b'\n' | b'\\' => field.extend(format!("\\{byte:03o}").into_bytes()),
            byte => field.push(byte),
        }
    }
    String::from_utf8_lossy(&field).into_owned()
}

/// The text with this line in place of the one for the mount point, or at the end. The type of a line of another file
/// system, if that has the mount point.
fn with_line(before: &[u8], mountpoint: &str, line: &str) -> std::result::Result<Vec<u8>, String> {
    let mut after = Vec::new();
    let mut replaced = false;
    for old in before.split_inclusive(|byte| *byte == b'\n') {
        let text = String::from_utf8_lossy(old);
        let mut fields = text.split_ascii_whitespace();
        let source = fields.next().unwrap_or("#");
        let is_for_it = !source.starts_with('#') && fields.next() == Some(mountpoint);
        let kind = fields.next().unwrap_or_default();
        match is_for_it {
            true if !OWN_TYPES.contains(&kind) => return Err(kind.escape_debug().to_string()),
            true if replaced => {}
            true => {
                after.extend_from_slice(line.as_bytes());
                after.push(b'\n');
                replaced = true;
            }
            false => after.extend_from_slice(old),
        }
    }
    if !replaced {
        if after.last().is_some_and(|last| *last != b'\n') {
            after.push(b'\n');
        }
        after.extend_from_slice(line.as_bytes());
        after.push(b'\n');
    }
    Ok(after)
}

/// As a whole, with the old file's owner and mode: a machine with half an fstab does not boot.
fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let path = match fs::canonicalize(path) {
        Ok(path) => path,
        Err(_) => path.to_owned(),
    };
    let mut new: PathBuf = path.clone();
    new.as_mut_os_string().push(".ossvault-new");
    let write = || {
        let mut file = File::create(&new)?;
        if let Ok(old) = fs::metadata(&path) {
            fchown(&file, Some(old.uid()), Some(old.gid()))?;
            file.set_permissions(fs::Permissions::from_mode(old.mode() & 0o7777))?;
        }
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&new, &path)
    };
    write().inspect_err(|_| {
        let _ = fs::remove_file(&new);
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_replaces_the_one_for_the_same_mount_point() {
        let line = "oss://b\t/v\tossvault\tnofail\t0\t0";
        for (before, after) in [
            ("", Ok(format!("{line}\n"))),
            (
                "/dev/a / ext4 defaults 0 1",
                Ok(format!("/dev/a / ext4 defaults 0 1\n{line}\n")),
            ),
            (
                "# oss://old /v ossvault x 0 0\n",
                Ok(format!("# oss://old /v ossvault x 0 0\n{line}\n")),
            ),
            (
                "oss://old /v ossvault x 0 0\n/dev/b /b xfs\n",
                Ok(format!("{line}\n/dev/b /b xfs\n")),
            ),
            (
                "oss://old /v fuse.ossvault x\noss://old /v ossvault x\n",
                Ok(format!("{line}\n")),
            ),
            ("/dev/a /v ext4 defaults 0 1\n", Err("ext4".to_owned())),
            (
                "oss://old /vv ossvault x\n",
                Ok(format!("oss://old /vv ossvault x\n{line}\n")),
            ),
        ] {
            let found = with_line(before.as_bytes(), "/v", line);
            let found = found.map(|text| String::from_utf8(text).unwrap());
            assert_eq!(found, after, "{before:?}");
        }
    }

    #[test]
    fn a_field_has_no_blank() {
        assert_eq!(
            field(OsStr::new("/a b\tc\\d\ne")),
            "/a\\040b\\011c\\134d\\012e"
        );
    }

    #[test]
    fn what_was_given_becomes_options() {
        use clap::CommandFactory;
        let line = [
            "ossvault",
            "mount",
            "oss://b",
            "/v",
            "--private-key",
            "k,1",
            "--read-only",
            "--memory-limit=1G",
            "--foreground",
            "--private-key",
            "/k2",
            "-v",
        ];
        let commands = super::super::Cli::command();
        let mount = commands.find_subcommand("mount").unwrap();
        let matches = commands.clone().get_matches_from(line);
        let matches = matches.subcommand_matches("mount").unwrap();
        let found = options(mount, matches, true);
        let here = std::env::current_dir().unwrap();
        let mut found: Vec<&str> = found.split(',').collect();
        // The comma of a value is escaped.
        let key = format!("private_key={}/k\\", here.display());
        found.sort_unstable();
        let mut expected = [
            "1",
            "_netdev",
            "memory_limit=1G",
            "nofail",
            "private_key=/k2",
            &key,
            "read_only",
        ];
        expected.sort_unstable();
        assert_eq!(found, expected);
    }
}
