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
                    timestamp(std::time::SystemTime::now()),
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

/// `Sun, 06 Nov 1994 08:49:37 GMT` would sort badly: this is `1994-11-06T08:49:37Z`.
fn timestamp(time: std::time::SystemTime) -> String {
    let seconds = time
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    let (days, time) = (seconds / 86400, seconds % 86400);
    // Civil date from days since 1970-01-01, by Howard Hinnant's algorithm for dates from 1970 on.
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12 + 1;
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z",
        time / 3600,
        time / 60 % 60,
        time % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, UNIX_EPOCH};

    #[test]
    fn timestamps_are_utc_and_sort() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (784_111_777, "1994-11-06T08:49:37Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(timestamp(UNIX_EPOCH + Duration::from_secs(seconds)), text);
        }
    }
}
