//! How secrets enter the process: it first shuts out other processes, then asks for passphrases.

use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::ptr::NonNull;

use nix::sys::resource::{Resource, setrlimit};
use nix::sys::termios::{self, LocalFlags, SetArg, SpecialCharacterIndices, Termios};
use zeroize::{Zeroize, Zeroizing};

use super::error::{Error, Result};
use super::exit::Code;
use crate::crypto::key_file::Permissions;
use crate::crypto::trust;
use crate::text;

/// Longer than any passphrase, and a bound for a pipe that never ends.
const LONGEST_PASSPHRASE: u64 = 4096;

/// The variables that hold secrets, or half of one.
const SECRETS: [&CStr; 10] = [
    PASSPHRASE,
    c"OSS_ACCESS_KEY_ID",
    c"OSS_ACCESS_KEY_SECRET",
    c"OSS_SESSION_TOKEN",
    c"OSS_TEST_ACCESS_KEY_ID",
    c"OSS_TEST_ACCESS_KEY_SECRET",
    c"ALIBABA_CLOUD_ACCESS_KEY_ID",
    c"ALIBABA_CLOUD_ACCESS_KEY_SECRET",
    c"ALIBABA_CLOUD_SECURITY_TOKEN",
    // It may hold what opens it.
    c"ALIBABA_CLOUD_CREDENTIALS_URI",
];

const PASSPHRASE: &CStr = c"OSSVAULT_PASSPHRASE";

/// Variables without the prefix `OSS` that this program or a library reads: empty ones count as unset.
const OTHERS: [&str; 8] = [
    "RUST_LOG",
    "HOME",
    "TMPDIR",
    "XDG_CACHE_HOME",
    "XDG_RUNTIME_DIR",
    "XDG_STATE_HOME",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
];

/// The environment that the process was given. Secrets exist only here: /proc/PID/environ no longer shows
/// them, and no child process inherits them.
pub(crate) struct Environment {
    secrets: Vec<(&'static CStr, Zeroizing<Vec<u8>>)>,
}

impl Environment {
    /// Closes the process: no core file, no debugger and no /proc/PID/mem for other processes of this user,
    /// and no secret in the environment. Called first, while the process has one thread. A sandbox may forbid
    /// one of the first two: that is logged and not an error.
    pub(crate) fn enter() -> Environment {
        if let Err(error) = setrlimit(Resource::RLIMIT_CORE, 0, 0) {
            log::warn!("cannot disable core files: {error}");
        }
        if let Err(error) = nix::sys::prctl::set_dumpable(false) {
            log::warn!("cannot make the process undumpable: {error}");
        }
        let empty: Vec<CString> = std::env::vars_os()
            .filter(|(name, value)| value.is_empty() && is_ours(name))
            .filter_map(|(name, _)| CString::new(name.into_vec()).ok())
            .collect();
        for name in empty {
            take_variable(&name);
        }
        Environment {
            secrets: SECRETS
                .into_iter()
                .filter_map(|name| Some((name, take_variable(name)?)))
                .collect(),
        }
    }

    fn secret(&self, name: &CStr) -> Option<&[u8]> {
        let found = self.secrets.iter().find(|(known, _)| *known == name);
        found.map(|(_, value)| value.as_slice())
    }

    /// Any variable, including secrets. None if it is not UTF-8.
    pub(crate) fn text(&self, name: &str) -> Option<String> {
        let known = self
            .secrets
            .iter()
            .find(|(known, _)| known.to_bytes() == name.as_bytes());
        match known {
            Some((_, value)) => std::str::from_utf8(value).ok().map(str::to_owned),
            None => std::env::var(name).ok(),
        }
    }

    /// For another process of this program, which first removes them from its environment.
    pub(crate) fn pass_on(&self, command: &mut Command) {
        for (name, value) in &self.secrets {
            let name = OsStr::from_bytes(name.to_bytes());
            command.env(name, OsStr::from_bytes(value));
        }
    }
}

fn is_ours(name: &OsStr) -> bool {
    let name_bytes = name.as_bytes();
    name_bytes.starts_with(b"OSS")
        || name_bytes.starts_with(b"ALIBABA_CLOUD_")
        || OTHERS.iter().any(|other| name == *other)
}

/// Locks the present heap in memory: the private keys were just allocated on it. The C library's allocator
/// uses one contiguous range for the main thread, and it is small as long as nothing else has started. Best
/// effort: the amount that a user may lock is limited, and data keys, each of which opens one file, come and
/// go on other threads.
pub(crate) fn lock_heap() {
    if let Err(error) = try_lock_heap() {
        log::debug!("the private keys may be swapped out: {error}");
    }
}

#[expect(unsafe_code, reason = "mlock of the heap")]
fn try_lock_heap() -> std::io::Result<()> {
    let maps = std::fs::read_to_string("/proc/self/maps")?;
    let unknown = || std::io::Error::other("no heap in /proc/self/maps");
    let heap = maps.lines().find(|line| line.ends_with("[heap]"));
    let (range, _) = heap
        .and_then(|line| line.split_once(' '))
        .ok_or_else(unknown)?;
    let (start, end) = range.split_once('-').ok_or_else(unknown)?;
    let number = |text| usize::from_str_radix(text, 16).map_err(|_| unknown());
    let (start, end) = (number(start)?, number(end)?);
    let at = NonNull::new(start as *mut libc::c_void).ok_or_else(unknown)?;
    // SAFETY: locking changes neither what is mapped nor what is in it.
    Ok(unsafe { nix::sys::mman::mlock(at, end - start) }?)
}

/// Removes a variable from the environment, where /proc/PID/environ would show it and child processes would
/// inherit it.
#[expect(unsafe_code, reason = "the only way to wipe a variable's bytes")]
fn take_variable(name: &CStr) -> Option<Zeroizing<Vec<u8>>> {
    // SAFETY: there is no other thread that could read or change the environment meanwhile; the value is
    // a string of the C library's, which nobody else points into, and its bytes are ours to change.
    unsafe {
        let value = libc::getenv(name.as_ptr());
        if value.is_null() {
            return None;
        }
        let value = std::slice::from_raw_parts_mut(value.cast::<u8>(), libc::strlen(value));
        let taken = Zeroizing::new(value.to_vec());
        value.zeroize();
        libc::unsetenv(name.as_ptr());
        Some(taken)
    }
}

/// Sources of a passphrase, in the order of the fields, then `OSSVAULT_PASSPHRASE`, then the terminal. Never
/// an argument: arguments are visible to every user of the machine.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct PassphraseArgs {
    /// Read the private key's passphrase from the first line of this file [default: OSSVAULT_PASSPHRASE, or
    /// ask at the terminal]
    #[arg(long, value_name = "FILE", conflicts_with = "passphrase_command")]
    pub passphrase_file: Option<PathBuf>,
    /// Run this with sh and use the first line of its output as the passphrase; its environment names the key
    /// file in OSSVAULT_KEY_FILE
    #[arg(long, value_name = "COMMAND")]
    pub passphrase_command: Option<String>,
}

impl PassphraseArgs {
    /// The passphrase of an existing key. `None`: there is no terminal to ask at, and no other source was
    /// given.
    ///
    /// # Errors
    /// A source that was given yields no passphrase.
    pub(crate) fn read(
        &self,
        key: &Path,
        given: &Environment,
        permissions: Permissions,
    ) -> Result<Option<Zeroizing<String>>> {
        if let Some(passphrase) = self.without_asking(key, given, permissions)? {
            return Ok(Some(passphrase));
        }
        let Some(mut terminal) = Terminal::open() else {
            return Ok(None);
        };
        terminal
            .ask(&format!("Passphrase for {}: ", text::path(key)))
            .map(Some)
    }

    /// A passphrase for a new key: entered twice, never empty. `None` as in [`Self::read`].
    ///
    /// # Errors
    /// It is empty or differs the second time, or a source that was given yields none.
    pub(crate) fn choose(
        &self,
        key: &Path,
        given: &Environment,
    ) -> Result<Option<Zeroizing<String>>> {
        let passphrase = match self.without_asking(key, given, Permissions::Enforced)? {
            Some(passphrase) => passphrase,
            None => match choose_at_terminal(key)? {
                Some(passphrase) => passphrase,
                None => return Ok(None),
            },
        };
        if passphrase.is_empty() {
            return Err(Error::new(
                Code::Passphrase,
                "an empty passphrase protects nothing: choose one, or give --no-passphrase",
            ));
        }
        Ok(Some(passphrase))
    }

    /// The same without `OSSVAULT_PASSPHRASE`: for the passphrase that replaces that one.
    ///
    /// # Errors
    /// As [`Self::choose`].
    pub(crate) fn choose_another(&self, key: &Path) -> Result<Option<Zeroizing<String>>> {
        self.choose(key, &Environment { secrets: vec![] })
    }

    fn without_asking(
        &self,
        key: &Path,
        given: &Environment,
        permissions: Permissions,
    ) -> Result<Option<Zeroizing<String>>> {
        if let Some(path) = &self.passphrase_file {
            return from_file(path, permissions).map(Some);
        }
        if let Some(command) = &self.passphrase_command {
            return run(command, key).map(Some);
        }
        let Some(bytes) = given.secret(PASSPHRASE) else {
            return Ok(None);
        };
        match std::str::from_utf8(bytes) {
            Ok(passphrase) => Ok(Some(Zeroizing::new(passphrase.to_owned()))),
            Err(_) => Err(Error::new(
                Code::Passphrase,
                "OSSVAULT_PASSPHRASE is not UTF-8",
            )),
        }
    }
}

/// Asks twice. None if there is no terminal.
fn choose_at_terminal(key: &Path) -> Result<Option<Zeroizing<String>>> {
    let Some(mut terminal) = Terminal::open() else {
        return Ok(None);
    };
    let first = terminal.ask(&format!("New passphrase for {}: ", text::path(key)))?;
    if !first.is_empty() && *terminal.ask("Repeat the passphrase: ")? != *first {
        return Err(Error::new(
            Code::Passphrase,
            "the two passphrases differ: nothing was written; try again",
        ));
    }
    Ok(Some(first))
}

/// The file is subject to the rules of private keys: it is worth as much as one.
fn from_file(path: &Path, permissions: Permissions) -> Result<Zeroizing<String>> {
    let name = format!("file {}", text::path(path));
    let file = File::open(path).map_err(|error| {
        let code = match error.kind() {
            std::io::ErrorKind::PermissionDenied => Code::KeyPermissions,
            _ => Code::Passphrase,
        };
        Error::new(code, format!("cannot read the passphrase {name}: {error}"))
    })?;
    let found = file.metadata().map_err(|error| {
        Error::new(
            Code::Passphrase,
            format!("cannot read the passphrase {name}: {error}"),
        )
    })?;
    if found.is_dir() {
        return Err(Error::new(
            Code::Passphrase,
            format!("the passphrase {name} is a folder"),
        ));
    }
    let refused = |why: String| {
        Error::new(
            Code::KeyPermissions,
            format!("the passphrase {name}: {why}, or give --insecure-key-permissions"),
        )
    };
    // A pipe is not in a folder, and its mode means nothing.
    if permissions == Permissions::Enforced && found.is_file() {
        let mode = found.mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(refused(format!(
                "other users can read it (mode {mode:04o}); run `chmod 600` on it"
            )));
        }
        trust::owner(&found)
            .and_then(|()| trust::way(path))
            .map_err(|untrusted| refused(format!("other users can replace it: {untrusted};")))?;
    }
    first_line(file, &format!("the {name}"))
}

/// The command receives the name of the key file: several keys may have different passphrases.
fn run(command: &str, key: &Path) -> Result<Zeroizing<String>> {
    let failed = |reason: String| {
        Error::new(
            Code::Passphrase,
            format!("--passphrase-command failed: {reason}"),
        )
    };
    let mut child = Command::new("sh")
        .arg("-c")
        .arg(command)
        .env(
            "OSSVAULT_KEY_FILE",
            std::path::absolute(key).unwrap_or(key.to_owned()),
        )
        .stdin(Stdio::inherit())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| failed(error.to_string()))?;
    let output = child.stdout.take().expect("stdout was asked for as a pipe");
    let passphrase = first_line(output, "the command's output");
    let status = child.wait().map_err(|error| failed(error.to_string()))?;
    if !status.success() {
        return Err(failed(status.to_string()));
    }
    passphrase
}

/// The first line, without its line break.
pub(crate) fn first_line(source: impl Read, name: &str) -> Result<Zeroizing<String>> {
    let failed = |reason: &str| {
        Error::new(
            Code::Passphrase,
            format!("no passphrase in {name}: {reason}"),
        )
    };
    // With its capacity reserved, the buffer is never moved, so that no unwiped copy is left behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(LONGEST_PASSPHRASE as usize + 1));
    source
        .take(LONGEST_PASSPHRASE)
        .read_to_end(&mut bytes)
        .map_err(|error| failed(&error.to_string()))?;
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or(&[]);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    match std::str::from_utf8(line) {
        Ok("") => Err(failed("its first line is empty")),
        Ok(line) => Ok(Zeroizing::new(line.to_owned())),
        Err(_) => Err(failed("not UTF-8")),
    }
}

/// The terminal that the program was started from, whatever stdin and stdout are.
struct Terminal(File);

const INTERRUPT: u8 = 3;

impl Terminal {
    fn open() -> Option<Terminal> {
        let file = File::options().read(true).write(true).open("/dev/tty");
        file.ok().map(Terminal)
    }

    /// Asks without echo. Ctrl-C ends the line like Enter and is reported separately: as a signal it would
    /// leave the terminal without echo.
    fn ask(&mut self, prompt: &str) -> Result<Zeroizing<String>> {
        let failed = |error: &dyn std::fmt::Display| {
            Error::new(
                Code::Passphrase,
                format!("cannot ask for the passphrase at the terminal: {error}"),
            )
        };
        let before = termios::tcgetattr(&self.0).map_err(|error| failed(&error))?;
        let mut silent = before.clone();
        silent
            .local_flags
            .remove(LocalFlags::ECHO | LocalFlags::ISIG);
        silent
            .local_flags
            .insert(LocalFlags::ECHONL | LocalFlags::ICANON);
        silent.control_chars[SpecialCharacterIndices::VEOL as usize] = INTERRUPT;
        let restore = RestoreTerminal(&self.0, before);
        termios::tcsetattr(&self.0, SetArg::TCSAFLUSH, &silent).map_err(|error| failed(&error))?;

        (&self.0)
            .write_all(prompt.as_bytes())
            .map_err(|error| failed(&error))?;
        let mut line = Zeroizing::new(Vec::with_capacity(LONGEST_PASSPHRASE as usize));
        let mut byte = Zeroizing::new([0u8]);
        while line.len() < LONGEST_PASSPHRASE as usize {
            let read = (&self.0).read(&mut *byte).map_err(|error| failed(&error))?;
            match byte[0] {
                _ if read == 0 => break,
                b'\n' => break,
                INTERRUPT => {
                    drop(restore);
                    let _ = (&self.0).write_all(b"\n");
                    return Err(Error::new(
                        Code::Passphrase,
                        "interrupted at the passphrase prompt: nothing was done",
                    ));
                }
                byte => line.push(byte),
            }
        }
        drop(restore);
        let line = std::str::from_utf8(&line).map_err(|_| failed(&"it is not UTF-8"))?;
        Ok(Zeroizing::new(line.to_owned()))
    }
}

struct RestoreTerminal<'a>(&'a File, Termios);

impl Drop for RestoreTerminal<'_> {
    fn drop(&mut self) {
        let _ = termios::tcsetattr(self.0, SetArg::TCSAFLUSH, &self.1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_passphrase_is_the_first_line() {
        for (text, passphrase) in [
            (&b"secret"[..], Some("secret")),
            (b"secret\n", Some("secret")),
            (b"two words \r\nrest", Some("two words ")),
            (b"", None),
            (b"\nsecond", None),
            (b"\xff\xfe\n", None),
        ] {
            let read = first_line(text, "a test").ok();
            assert_eq!(read.as_ref().map(|p| p.as_str()), passphrase);
        }
    }

    #[test]
    fn a_command_that_fails_gives_no_passphrase() {
        let run = |command| run(command, Path::new("key"));
        assert_eq!(run("echo word; echo more").unwrap().as_str(), "word");
        assert!(run("echo word; exit 3").is_err());
        assert!(run("true").is_err());
    }
}
