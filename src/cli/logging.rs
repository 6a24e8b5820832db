//! Where log lines go: the terminal while there is one, a file when asked for, else the system's log.
//!
//! Lines name objects and quote servers, so control characters in them are escaped: a log is read in
//! terminals, and one event is one line.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use log::{Level, LevelFilter, Log, Metadata, Record};

use super::error::{Error, Result, one_line};
use super::exit::Code;
use crate::oss::date;

/// The log of a process; cheap to clone, all clones are one log.
#[derive(Clone)]
pub struct Logger {
    inner: Arc<Inner>,
}

struct Inner {
    /// Builds the filter from RUST_LOG and --verbose.
    filter: env_logger::Logger,
    /// Guards nothing but the writing of one line; held across no other lock.
    sink: Mutex<Sink>,
}

enum Sink {
    /// The terminal while the mount is starting: what fails then is one line, told at the end, and the
    /// retries before it are no news. Only the upper floors speak.
    Starting,
    Stderr,
    File(File),
    System(UnixDatagram),
    Nowhere,
}

/// Warnings and errors always; `--verbose` adds what happens, twice what is asked of the service, three
/// times everything. RUST_LOG overrides.
pub fn start(verbose: u8) -> Logger {
    let level = match verbose {
        0 => LevelFilter::Warn,
        1 => LevelFilter::Info,
        2 => LevelFilter::Debug,
        _ => LevelFilter::Trace,
    };
    let mut builder = env_logger::Builder::new();
    // Libraries below us log requests with their headers: never above warnings unless RUST_LOG says so.
    builder
        .filter_level(LevelFilter::Warn)
        .filter_module("ossvault", level)
        .parse_default_env();
    let logger = Logger {
        inner: Arc::new(Inner {
            filter: builder.build(),
            sink: Mutex::new(if verbose == 0 && std::env::var_os("RUST_LOG").is_none() {
                Sink::Starting
            } else {
                Sink::Stderr
            }),
        }),
    };
    // A second start in one process (tests) keeps the first logger.
    if log::set_boxed_logger(Box::new(logger.clone())).is_ok() {
        log::set_max_level(logger.inner.filter.filter());
    }
    logger
}

impl Logger {
    /// Appends to `path`, which is created for this user's eyes only.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn to_file(&self, path: &Path) -> Result<()> {
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(path)
            .map_err(|error| {
                Error::new(
                    Code::Local,
                    format!("cannot open the log file {}: {error}", path.display()),
                )
            })?;
        self.switch(Sink::File(file));
        Ok(())
    }

    /// To the terminal, for a process that stays in the foreground.
    pub fn to_terminal(&self) {
        self.switch(Sink::Stderr);
    }

    /// To syslog, for a process in the background without a log file; nowhere if the system has none.
    pub fn to_system(&self) {
        let sink = UnixDatagram::unbound()
            .and_then(|socket| {
                socket.connect("/dev/log")?;
                // A log that hangs must not hold the mount up.
                socket.set_nonblocking(true)?;
                Ok(Sink::System(socket))
            })
            .unwrap_or(Sink::Nowhere);
        self.switch(sink);
    }

    fn switch(&self, sink: Sink) {
        *self
            .inner
            .sink
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = sink;
    }
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata) -> bool {
        self.inner.filter.enabled(metadata)
    }

    fn log(&self, record: &Record) {
        if !self.inner.filter.matches(record) {
            return;
        }
        let text = one_line(&record.args().to_string());
        let mut sink = self
            .inner
            .sink
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
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
                    date::plain(std::time::SystemTime::now()),
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

/// A panic ends one request, not the mount; its line belongs in the log like every other.
pub fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        // Not the payload: it may quote what it failed on, and that may be plaintext.
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
