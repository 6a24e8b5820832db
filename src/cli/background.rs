//! Starts the mount in the background, and reports the outcome to the shell.
//!
//! The parent starts its own binary again with `--report` and waits for one line on the child's stdout:
//! `ready`, or the exit code and the message. There is no fork without exec: the child creates all its
//! threads itself, and generates every key and nonce after it has started. The child keeps the terminal until
//! it is ready, because it may have to ask for a passphrase there; then it leaves the session and closes its
//! stdio.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::RawFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use super::error::{Error, Result};
use super::exit::Code;
use super::output;
use super::secrets::Environment;
use crate::text;

/// The hidden option that makes a mount report to its parent process.
pub(super) const REPORT_OPTION: &str = "--report";

/// The prefix of a line that the parent prints as it is, before the line with the outcome.
const NOTE: &str = "note ";

/// Starts this program again in the background, with these arguments: its name, the command and the rest. Returns when the mount serves.
///
/// # Errors
/// The error that the child reported.
pub(super) fn start(environment: &Environment, arguments: &[OsString]) -> Result<()> {
    let mut command = Command::new(this_program()?);
    if let [name, subcommand, rest @ ..] = arguments {
        // Before the rest, which may hold `--`.
        command
            .arg0(name)
            .args([subcommand, OsStr::new(REPORT_OPTION)])
            .args(rest);
    }
    environment.pass_on(&mut command);
    start_command(command)
}

/// The running program, even if its file has been replaced since.
///
/// # Errors
/// /proc is not mounted.
pub(super) fn this_program() -> Result<std::path::PathBuf> {
    std::env::current_exe().map_err(|error| {
        Error::new(
            Code::Failure,
            format!("cannot find this program to start it in the background: {error}"),
        )
    })
}

/// As [`start`], with a command from the caller, which includes [`REPORT_OPTION`].
///
/// # Errors
/// The error that the child reported.
pub(super) fn start_command(mut command: Command) -> Result<()> {
    let mut child = command.stdout(Stdio::piped()).spawn().map_err(|error| {
        Error::new(
            Code::Failure,
            format!("cannot start the background process: {error}"),
        )
    })?;
    let report = child.stdout.take().expect("stdout was asked for as a pipe");
    let mut report = BufReader::new(report);
    let mut line = String::new();
    // Ends when the child reports or dies; everything that the child does before has its own deadline.
    while report.read_line(&mut line).is_ok_and(|count| count > 0) {
        match line.strip_prefix(NOTE) {
            Some(note) => output::print_line(note),
            None => break,
        }
        line.clear();
    }
    if line == "ready\n" {
        return Ok(());
    }
    let status = child.wait();
    match line.trim_end().split_once(' ') {
        Some((number, message)) if number.parse::<u8>().is_ok() => {
            let code = Code::from_number(number.parse().unwrap_or(1));
            Err(Error::new(code, message))
        }
        _ => Err(Error::new(
            Code::DaemonDied,
            format!(
                "the background process ended without a report ({}): run the mount with --foreground --verbose to see why",
                status.map_or_else(|error| error.to_string(), |status| status.to_string())
            ),
        )),
    }
}

/// The child's side.
pub(super) struct Report {
    sent: bool,
    inherited: Vec<RawFd>,
}

impl Report {
    /// Called before the process has opened anything, so that every descriptor beyond stdio came from
    /// outside.
    pub(super) fn new() -> Report {
        let mut inherited: Vec<RawFd> = std::fs::read_dir("/proc/self/fd")
            .map(|folder| {
                folder
                    .flatten()
                    .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
                    .filter(|fd| *fd > 2)
                    .collect()
            })
            .unwrap_or_default();
        // One of them belonged to the directory iterator, which is closed by now: its number will be reused.
        inherited.retain(|fd| std::fs::symlink_metadata(format!("/proc/self/fd/{fd}")).is_ok());
        Report {
            sent: false,
            inherited,
        }
    }

    /// Closes the descriptors that the daemon was started with: another process may wait for their other end,
    /// or for a lock on them. Called after the secrets are read, because one of them may be the passphrase
    /// file.
    pub(super) fn close_inherited(&mut self) {
        for fd in self.inherited.drain(..) {
            // Open since before the process started, so no object in this program owns them.
            let _ = nix::unistd::close(fd);
        }
    }

    /// Leaves the session and the terminal, and tells the parent that the mount serves.
    ///
    /// # Errors
    /// /dev/null cannot be opened.
    pub(super) fn ready(&mut self) -> Result<()> {
        let failed = |what: &str, error: std::io::Error| {
            Error::new(Code::Failure, format!("cannot {what}: {error}"))
        };
        // Fails only for the leader of a process group, which a newly started child is not.
        nix::unistd::setsid()
            .map_err(|error| failed("leave the terminal's session", error.into()))?;
        let null = File::options()
            .read(true)
            .write(true)
            .open("/dev/null")
            .map_err(|error| failed("open /dev/null", error))?;
        nix::unistd::dup2_stdin(&null).map_err(|error| failed("close stdin", error.into()))?;
        nix::unistd::dup2_stderr(&null).map_err(|error| failed("close stderr", error.into()))?;
        self.send("ready\n");
        // The parent's read ends here at the latest.
        nix::unistd::dup2_stdout(&null).map_err(|error| failed("close stdout", error.into()))
    }

    /// Tells the parent why the mount does not serve. Has no effect after [`Self::ready`], when the parent
    /// has gone.
    pub(super) fn failed(&mut self, error: &Error) {
        self.send(&format!("{} {error}\n", error.code().number()));
    }

    /// A note for the user about something that is not an error. Only before [`Self::ready`].
    pub(super) fn note(&self, note: &str) {
        write(&format!("{NOTE}{}\n", text::one_line(note)));
    }

    fn send(&mut self, line: &str) {
        if !self.sent {
            self.sent = true;
            write(line);
        }
    }
}

fn write(line: &str) {
    let mut stdout = std::io::stdout();
    // If the parent was killed, the mount still serves.
    let _ = stdout.write_all(line.as_bytes());
    let _ = stdout.flush();
}
