//! The ways in which mount(8) starts a file system: `mount.ossvault SOURCE DIRECTORY -o k=v,...` for
//! `mount -t ossvault`, and `ossvault SOURCE DIRECTORY -o k=v,...`, by way of mount.fuse3, for
//! `mount -t fuse.ossvault`. Both become `ossvault mount` with the options that stand for them.
//!
//! What may stand in fstab is read by every user of the machine: options that would hold a secret are refused.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use clap::{ArgAction, Command};

use super::error::{Error, Result};
use super::exit::Code;
use crate::text;

/// Options of mount(8), fstab(5), systemd.mount(5) and mount.fuse3(8) that say nothing to a mount of ours: what they
/// ask for is done by others, or always so.
const ELSEWHERE: [&str; 40] = [
    "rw",
    "nodev",
    "nosuid",
    "dev",
    "suid",
    "exec",
    "async",
    "auto",
    "noauto",
    "user",
    "nouser",
    "users",
    "nousers",
    "owner",
    "noowner",
    "group",
    "nogroup",
    "defaults",
    "_netdev",
    "nofail",
    "comment",
    "fsname",
    "subtype",
    "default_permissions",
    "atime",
    "diratime",
    "nodiratime",
    "relatime",
    "norelatime",
    "strictatime",
    "nostrictatime",
    "lazytime",
    "nolazytime",
    "loud",
    "silent",
    "iversion",
    "noiversion",
    "mand",
    "nomand",
    "noatime",
];

/// What would be secrets, in the words of other mounts.
const SECRETS: [&str; 12] = [
    "passphrase",
    "password",
    "passwd",
    "secret",
    "token",
    "access_key",
    "access_key_id",
    "access_key_secret",
    "accesskeyid",
    "accesskeysecret",
    "ak",
    "sk",
];

/// The command line, translated where mount(8) made it.
///
/// # Errors
/// [`Code::Usage`]: an option that there is not, or one that would hold a secret.
pub(super) fn translate(arguments: Vec<OsString>, commands: &Command) -> Result<Vec<OsString>> {
    let Some(rest) = is_by_mount(&arguments, commands).then(|| &arguments[1..]) else {
        return Ok(arguments);
    };
    let mount = commands.find_subcommand("mount").expect("a command");
    let (mut places, mut translated) = (Vec::new(), Vec::new());
    let mut words = rest.iter();
    while let Some(word) = words.next() {
        let text = word.to_str().unwrap_or_default();
        match text {
            "-o" | "-t" | "-N" => {
                let value = words
                    .next()
                    .ok_or_else(|| usage(format!("{text} has no value")))?;
                if text == "-o" {
                    options(value, mount, &mut translated)?;
                }
            }
            // mount(8) hands on whether it keeps a table, and whether unknown options are to be forgiven.
            "-n" | "-s" | "-w" | "--rw" => {}
            "-r" | "--read-only" => translated.push("--read-only".into()),
            "-v" | "--verbose" => translated.push("--verbose".into()),
            _ if text.starts_with("-o") => {
                options(
                    OsStr::from_bytes(&word.as_bytes()[2..]),
                    mount,
                    &mut translated,
                )?;
            }
            _ if text.starts_with('-') && text.len() > 1 => {
                return Err(usage(
                    "mount(8) gave an option that is not known here".to_owned(),
                ));
            }
            _ => places.push(word.clone()),
        }
    }
    if places.len() != 2 {
        return Err(usage(format!(
            "expected a source and a directory, like oss://bucket /mnt; there are {}",
            places.len()
        )));
    }
    let mut line = vec!["ossvault".into(), "mount".into()];
    line.extend(translated);
    line.push("--".into());
    line.extend(places);
    Ok(line)
}

fn usage(message: String) -> Error {
    Error::new(Code::Usage, message)
}

/// By the name of this program, or by what comes first: two places, of which the first one is no command.
fn is_by_mount(arguments: &[OsString], commands: &Command) -> bool {
    let program = arguments.first().map(Path::new).and_then(Path::file_name);
    if program.is_some_and(|name| name.as_bytes().starts_with(b"mount.")) {
        return true;
    }
    let [_, source, directory, rest @ ..] = arguments else {
        return false;
    };
    let is_place = |word: &OsString| !word.as_bytes().starts_with(b"-");
    let is_command = source
        .to_str()
        .is_some_and(|name| name == "help" || commands.find_subcommand(name).is_some());
    let has_options = rest
        .first()
        .is_none_or(|word| word.as_bytes().starts_with(b"-"));
    is_place(source) && is_place(directory) && !is_command && has_options
}

/// Of `-o`: by commas, `\,` being a comma of a value.
fn options(list: &OsStr, mount: &Command, translated: &mut Vec<OsString>) -> Result<()> {
    let list = list
        .to_str()
        .ok_or_else(|| usage("-o is not UTF-8".to_owned()))?;
    for option in split(list) {
        if let Some(argument) = option_of(&option, mount)? {
            translated.push(argument.into());
        }
    }
    Ok(())
}

fn split(list: &str) -> Vec<String> {
    let mut options = vec![String::new()];
    let mut characters = list.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => options.last_mut().expect("one").extend(characters.next()),
            ',' => options.push(String::new()),
            other => options.last_mut().expect("one").push(other),
        }
    }
    options.retain(|option| !option.is_empty());
    options
}

fn option_of(option: &str, mount: &Command) -> Result<Option<String>> {
    let (name, value) = match option.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (option, None),
    };
    let plain = name.replace('-', "_").to_ascii_lowercase();
    if SECRETS.contains(&&*plain) {
        return Err(usage(
            "an option of this mount would hold a secret, and everybody can read fstab and the list of processes: \
             put it into the environment of the mount or into a file"
                .to_owned(),
        ));
    }
    if name.starts_with("x-") || name.starts_with("X-") || ELSEWHERE.contains(&name) {
        return Ok(None);
    }
    let flag = match name {
        "ro" => return Ok(Some("--read-only".to_owned())),
        // Of everything, as with other file systems.
        "uid" => "force-uid",
        "gid" => "force-gid",
        "noexec" => return Ok(Some("--noexec".to_owned())),
        "allow_root" => {
            return Err(usage(
                "allow_root is not offered: use allow_other".to_owned(),
            ));
        }
        _ => &plain.replace('_', "-"),
    };
    let known = mount
        .get_arguments()
        .find(|argument| argument.get_long() == Some(flag) && !argument.is_hide_set());
    let Some(argument) = known else {
        return Err(usage(match text::word(name) {
            Some(name) => format!("there is no mount option {name}; see: ossvault mount --help"),
            None => "there is no such mount option; see: ossvault mount --help".to_owned(),
        }));
    };
    let takes_value = matches!(argument.get_action(), ArgAction::Set | ArgAction::Append);
    match (value, takes_value) {
        (Some(value), true) => {
            let value = match flag {
                "force-uid" | "force-gid" => number_of(flag, value),
                _ => value.to_owned(),
            };
            Ok(Some(format!("--{flag}={value}")))
        }
        (None, false) => Ok(Some(format!("--{flag}"))),
        (None, true) => Err(usage(format!("the mount option {flag} has no value"))),
        (Some(_), false) => Err(usage(format!("the mount option {flag} takes no value"))),
    }
}

/// mount(8) takes names of users and groups too.
fn number_of(flag: &str, value: &str) -> String {
    let number = match flag {
        "force-uid" => nix::unistd::User::from_name(value)
            .ok()
            .flatten()
            .map(|user| user.uid.to_string()),
        _ => nix::unistd::Group::from_name(value)
            .ok()
            .flatten()
            .map(|group| group.gid.to_string()),
    };
    number.unwrap_or_else(|| value.to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::cli::Cli;

    fn translated(line: &[&str]) -> std::result::Result<Vec<String>, String> {
        let line = line.iter().map(OsString::from).collect();
        let line = translate(line, &Cli::command()).map_err(|error| error.to_string())?;
        Ok(line
            .iter()
            .map(|word| word.to_str().unwrap().to_owned())
            .collect())
    }

    #[test]
    fn what_mount_hands_on_becomes_a_mount() {
        for (line, expected) in [
            (
                &[
                    "/sbin/mount.ossvault",
                    "oss://bucket",
                    "/mnt",
                    "-o",
                    "rw,_netdev",
                ][..],
                &["mount", "--", "oss://bucket", "/mnt"][..],
            ),
            (
                &[
                    "mount.ossvault",
                    "work",
                    "/mnt",
                    "-n",
                    "-t",
                    "fuse.ossvault",
                    "-r",
                ],
                &["mount", "--read-only", "--", "work", "/mnt"],
            ),
            (
                &[
                    "ossvault",
                    "oss://b-1",
                    "/mnt",
                    "-o",
                    "ro,nosuid,x-systemd.automount,memory_limit=1G,allow_other",
                ],
                &[
                    "mount",
                    "--read-only",
                    "--memory-limit=1G",
                    "--allow-other",
                    "--",
                    "oss://b-1",
                    "/mnt",
                ],
            ),
            (
                &[
                    "ossvault",
                    "file:///a b",
                    "/mnt",
                    "-ouid=root,gid=0,umask=027",
                ],
                &[
                    "mount",
                    "--force-uid=0",
                    "--force-gid=0",
                    "--umask=027",
                    "--",
                    "file:///a b",
                    "/mnt",
                ],
            ),
            (
                &["ossvault", "bucket", "/mnt", "-o", r"private-key=/k\,1"],
                &["mount", "--private-key=/k,1", "--", "bucket", "/mnt"],
            ),
            // What is typed stays as it is.
            (&["ossvault", "mount", "a", "b"], &["mount", "a", "b"]),
            (&["ossvault", "umount", "/mnt"], &["umount", "/mnt"]),
            (&["ossvault", "--help"], &["--help"]),
        ] {
            assert_eq!(translated(line).unwrap()[1..], *expected, "{line:?}");
        }
    }

    #[test]
    fn options_that_are_wrong_are_named_and_secrets_are_not() {
        for (options, said) in [
            ("password=s3cret", "would hold a secret"),
            ("access_key_secret=s3cret", "would hold a secret"),
            ("memory_limi=1", "no mount option memory_limi"),
            ("memory_limit", "memory-limit has no value"),
            ("allow_other=s3cret", "allow-other takes no value"),
            ("allow_root", "use allow_other"),
        ] {
            let message = translated(&["mount.ossvault", "a", "/b", "-o", options]).unwrap_err();
            assert!(message.contains(said), "{options}: {message}");
            assert!(!message.contains("s3cret"), "{message}");
        }
        let message = translated(&["mount.ossvault", "a"]).unwrap_err();
        assert!(message.contains("a source and a directory"), "{message}");
    }
}
