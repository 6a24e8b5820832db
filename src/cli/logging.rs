//! Where log lines go: to the terminal if there is one, to a file if one is given, otherwise to the system's
//! log.
//!
//! Lines contain object names and quote servers, so control characters are escaped: logs are read in
//! terminals, and one event is one line.

use std::borrow::Cow;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::{Arc, Mutex};

use log::{Level, LevelFilter, Log, Metadata, Record};

use super::error::{Error, Result};
use super::exit::Code;
use crate::base::sync::lock;
use crate::base::time;
use crate::crypto::trust;
use crate::text::{self, one_line};

/// The log of a process; cheap to clone, and all clones write to the same log.
#[derive(Clone)]
pub(crate) struct Logger {
    inner: Arc<Inner>,
}

struct Inner {
    filter: Filter,
    /// Guards only the writing of one line; no other lock is taken while it is held.
    sink: Mutex<Sink>,
}

enum Sink {
    /// The terminal while the mount is starting: a failure is one line, printed at the end, and the retries
    /// before it are not worth reporting. Only the upper layers log.
    Starting,
    Stderr,
    File(File),
    System(UnixDatagram),
    Nowhere,
}

/// Warnings and errors always; `--verbose` adds operations, twice adds requests to the service, three times
/// adds everything. RUST_LOG overrides this, for this program's own lines.
pub(crate) fn start(verbose: u8) -> Logger {
    let level = match verbose {
        0 => LevelFilter::Warn,
        1 => LevelFilter::Info,
        2 => LevelFilter::Debug,
        _ => LevelFilter::Trace,
    };
    let wanted = std::env::var("RUST_LOG").ok();
    let logger = Logger {
        inner: Arc::new(Inner {
            filter: Filter::new(level, wanted.as_deref()),
            sink: Mutex::new(if verbose == 0 && wanted.is_none() {
                Sink::Starting
            } else {
                Sink::Stderr
            }),
        }),
    };
    // A second start in one process (in tests) keeps the first logger.
    if log::set_boxed_logger(Box::new(logger.clone())).is_ok() {
        log::set_max_level(logger.inner.filter.highest());
    }
    logger
}

/// Which lines are written. Libraries log things that must not be in a log, such as requests with their
/// headers and the targets of links that the kernel reads, so none of their lines below a warning is logged,
/// whatever RUST_LOG says.
pub(crate) struct Filter(env_logger::Logger);

const OWN: &str = "ossvault";

impl Filter {
    /// `wanted` is the value of RUST_LOG; if it does not mention this program, `level` applies.
    pub(crate) fn new(level: LevelFilter, wanted: Option<&str>) -> Filter {
        let mut builder = env_logger::Builder::new();
        match wanted {
            Some(wanted) => builder
                .filter_level(level)
                .parse_filters(&directives(wanted)),
            None => builder
                .filter_level(LevelFilter::Warn)
                .filter_module(OWN, level),
        };
        Filter(builder.build())
    }

    pub(crate) fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let target = room(metadata.target());
        let may = is_within(&target, OWN) || metadata.level() <= Level::Warn;
        let metadata = Metadata::builder()
            .target(&target)
            .level(metadata.level())
            .build();
        may && self.0.enabled(&metadata)
    }

    fn highest(&self) -> LevelFilter {
        self.0.filter()
    }
}

/// The valid items of the list: env_logger prints the others on the terminal, and they may contain anything.
fn directives(list: &str) -> String {
    let is_module = |text: &str| {
        text.bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_:".contains(&byte))
    };
    let is_directive = |part: &&str| match part.split_once('=') {
        Some((module, level)) => is_module(module) && level.parse::<LevelFilter>().is_ok(),
        None => is_module(part),
    };
    let list = list.split('/').next().unwrap_or_default();
    let known = list.split(',').map(str::trim).filter(is_directive);
    known.collect::<Vec<_>>().join(",")
}

/// The lower rooms are crates, which is nothing to who sets RUST_LOG: `ossvault_oss::client` is `ossvault::oss::client`.
fn room(target: &str) -> Cow<'_, str> {
    match target.strip_prefix("ossvault_") {
        Some(rest) => Cow::Owned(format!("{OWN}::{rest}")),
        None => Cow::Borrowed(target),
    }
}

fn is_within(target: &str, module: &str) -> bool {
    target
        .strip_prefix(module)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

impl Logger {
    /// Appends to `path`, which is created readable only by this user. It must not be a symbolic link or
    /// another user's file, because the log lines would go wherever that user wants.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub(crate) fn to_file(&self, path: &Path) -> Result<()> {
        let failed = |why: String| {
            Error::new(
                Code::Local,
                format!("cannot open the log file {}: {why}", text::path(path)),
            )
        };
        trust::links(path).map_err(|untrusted| failed(untrusted.to_string()))?;
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(path)
            .map_err(|error| match error.raw_os_error() {
                Some(libc::ELOOP) => failed("it is a symbolic link".to_owned()),
                _ => failed(error.to_string()),
            })?;
        let found = file.metadata().map_err(|error| failed(error.to_string()))?;
        trust::owner(&found).map_err(|untrusted| failed(untrusted.to_string()))?;
        self.switch(Sink::File(file));
        Ok(())
    }

    /// To the terminal, for a process in the foreground.
    pub(crate) fn to_terminal(&self) {
        self.switch(Sink::Stderr);
    }

    /// To syslog, for a process in the background without a log file; nowhere if the system has no syslog.
    pub(crate) fn to_system(&self) {
        let sink = UnixDatagram::unbound()
            .and_then(|socket| {
                socket.connect("/dev/log")?;
                // A log that hangs must not block the mount.
                socket.set_nonblocking(true)?;
                Ok(Sink::System(socket))
            })
            .unwrap_or(Sink::Nowhere);
        self.switch(sink);
    }

    fn switch(&self, sink: Sink) {
        *lock(&self.inner.sink) = sink;
    }
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata) -> bool {
        self.inner.filter.enabled(metadata)
    }

    fn log(&self, record: &Record) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let text = one_line(&record.args().to_string());
        let mut sink = lock(&self.inner.sink);
        // A line that cannot be written has nowhere else to go.
        let _ = match &mut *sink {
            Sink::Starting
                if !["ossvault::cli", "ossvault::fuse"]
                    .iter()
                    .any(|floor| record.target().starts_with(floor)) =>
            {
                Ok(())
            }
            Sink::Starting | Sink::Stderr => {
                let word = level_word(record.level());
                writeln!(std::io::stderr(), "ossvault: {word}: {text}")
            }
            Sink::File(file) => file.write_all(
                format!(
                    "{} {} [{}] {text}\n",
                    time::plain(std::time::SystemTime::now()),
                    record.level(),
                    std::process::id()
                )
                .as_bytes(),
            ),
            Sink::System(socket) => {
                // RFC 3164: facility daemon (3) * 8 + severity.
                let priority = 3 * 8 + severity(record.level());
                let pid = std::process::id();
                socket
                    .send(format!("<{priority}>ossvault[{pid}]: {text}").as_bytes())
                    .map(|_| ())
            }
            Sink::Nowhere => Ok(()),
        };
    }

    fn flush(&self) {}
}

/// A panic ends one request, not the mount, and is logged like every other error.
pub(crate) fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        // Without the payload: it may quote the data that it failed on, which may be plaintext.
        let place = panic
            .location()
            .map_or("an unknown place".to_owned(), ToString::to_string);
        log::error!("internal error (panic) at {place}: please report it");
    }));
}

fn level_word(level: Level) -> &'static str {
    match level {
        Level::Error => "error",
        Level::Warn => "warning",
        Level::Info => "info",
        Level::Debug | Level::Trace => "debug",
    }
}

fn severity(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_modules_are_never_above_warnings() {
        use LevelFilter::{Debug, Error, Info, Off, Trace, Warn};
        for (wanted, own, fs, fuser) in [
            (None, Info, Info, Warn),
            (Some("debug"), Debug, Debug, Warn),
            (Some("trace,fuser=trace"), Trace, Trace, Warn),
            (Some("fuser"), Info, Info, Warn),
            (Some("ossvault::fs=trace"), Info, Trace, Warn),
            (Some("ossvault=error, ossvault::fs"), Error, Trace, Warn),
            (Some("ossvaultish=trace"), Info, Info, Warn),
            (Some("ossvault_fs=trace"), Info, Info, Warn),
            (Some("error"), Error, Error, Error),
            (Some("off"), Off, Off, Off),
            (Some("fuser=what/ever"), Info, Info, Warn),
        ] {
            let filter = Filter::new(Info, wanted);
            let written_of = |target| {
                let is_written = |level: &LevelFilter| {
                    let level = level.to_level().expect("not off");
                    filter.enabled(&Metadata::builder().target(target).level(level).build())
                };
                let written = [Error, Warn, Info, Debug, Trace].into_iter();
                written.take_while(is_written).last().unwrap_or(Off)
            };
            let targets = ["ossvault::cli", "ossvault::fs::walk", "fuser::request"];
            assert_eq!(targets.map(written_of), [own, fs, fuser], "{wanted:?}");
            // A room that is a crate is one of the program's like any other; other crates are not.
            let crates = ["ossvault_cli", "ossvault_fs::walk", "ossvaultish"];
            assert_eq!(crates.map(written_of)[..2], [own, fs], "{wanted:?}");
            assert!(written_of(crates[2]) <= Warn, "{wanted:?}");
        }
    }
}
