//! `ossvault mount`: assembles the components and serves until the mount is unmounted or the daemon is asked
//! to end.

use std::ffi::OsString;
use std::sync::Arc;
use std::time::Duration;

use clap::Command;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};

use super::background::{self, Report};
use super::config::MountConfig;
use super::daemon_file::DaemonFile;
use super::error::{Error, Result};
use super::exit::Code;
use super::options::MountOptions;
use super::parts::{self, Missing};
use super::secrets::Environment;
use super::source::Source;
use super::{fstab, keys, logging, output};
use crate::encrypted::EncryptedBucket;
use crate::encrypted::key_check::{self, Listed};
use crate::files::attributes::{Defaults, Overrides};
use crate::fs::filesystem::Filesystem;
use crate::fs::settings::{Settings, Spill, Uploads};
use crate::fs::writeback::publish::FailedUpload;
use crate::fuse::adapter::Adapter;
use crate::fuse::session::{self, Mounted};
use crate::store::circuit_breaker::CircuitBreaker;
use crate::store::local::LocalStore;
use crate::text::{self, one_line};

/// Mount a bucket as an encrypted directory
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Unless an option says otherwise, credentials come from the environment: OSS_ACCESS_KEY_ID, OSS_ACCESS_KEY_SECRET and, \
for temporary ones, OSS_SESSION_TOKEN. docs/credentials.md has all sources.")]
pub(super) struct Args {
    #[command(flatten)]
    options: MountOptions,
}

/// How long the runtime may take to end tasks that nothing waits for any more.
const RUNTIME_END: Duration = Duration::from_secs(2);

/// How long the kernel may take to end the session of a removed mount.
const SESSION_END: Duration = Duration::from_secs(5);

/// How many names of unsaved files fit in one line; the log has all of them.
const NAMES_IN_MESSAGE: usize = 10;

/// Starts again in the background with `arguments`, unless `--foreground` is given. Returns when the mount serves, or
/// in the foreground when it has ended.
///
/// # Errors
/// The reason why the mount does not serve, or did not end well.
pub(super) fn run(
    args: Args,
    environment: Environment,
    arguments: &[OsString],
    commands: &Command,
) -> Result<()> {
    let options = args.options;
    if !options.foreground && !options.hidden.report {
        background::start(&environment, arguments)?;
        return match options.update_fstab {
            true => update_fstab(&options, arguments, commands),
            false => Ok(()),
        };
    }
    let mut report = options.hidden.report.then(Report::new);
    let logger = logging::start(options.verbose);
    let result = start(options, environment, &logger, report.as_mut())
        .and_then(|daemon| daemon.serve(&logger, report.as_mut()));
    match (&mut report, result) {
        // The parent prints it, or the log has it: nothing reads this process's stderr.
        (Some(report), Err(error)) => {
            report.failed(&error);
            std::process::exit(error.code().number().into());
        }
        (_, result) => result,
    }
}

/// # Errors
/// As [`fstab::update`].
fn update_fstab(options: &MountOptions, arguments: &[OsString], commands: &Command) -> Result<()> {
    let usage = |message: String| Error::new(Code::Usage, message);
    let typed = commands.clone().try_get_matches_from(arguments);
    let typed = typed.map_err(|error| usage(error.to_string()))?;
    let (Some(mount), Some(typed)) = (
        commands.find_subcommand("mount"),
        typed.subcommand_matches("mount"),
    ) else {
        return Err(usage("--update-fstab is an option of mount".to_owned()));
    };
    let given = options.mountpoint.clone().unwrap_or_default();
    let mountpoint = std::path::absolute(&given);
    let mountpoint =
        mountpoint.map_err(|error| usage(format!("{}: {error}", text::path(&given))))?;
    let is_remote = !options.source.starts_with("file://");
    let kept = fstab::options(mount, typed, is_remote);
    let path = &options.hidden.fstab;
    fstab::update(path, &options.source, &mountpoint, &kept)?;
    output::print_line(&format!(
        "{} has a line for {}; credentials and passphrases are not in it",
        text::path(path),
        text::path(&mountpoint)
    ));
    Ok(())
}

/// A mount that is being served.
struct Daemon {
    config: MountConfig,
    runtime: Runtime,
    filesystem: Arc<Filesystem>,
    mounted: Mounted,
    file: DaemonFile,
    asked: Asked,
    /// Lives as long as the mount; present only for the demo.
    server: Option<parts::EmbeddedServer>,
    /// The fingerprint of the encryption key.
    writes_for: String,
}

/// All steps that can fail, ordered so that a passphrase is requested only once the rest of the command line
/// is valid.
fn start(
    options: MountOptions,
    environment: Environment,
    logger: &logging::Logger,
    mut report: Option<&mut Report>,
) -> Result<Daemon> {
    let config = MountConfig::new(options)?;
    // Dropped when the mount covers the directory, or when it failed.
    let guard = config.guard()?;
    config.create_cache_dir()?;
    if let Some(path) = &config.log_file {
        logger.to_file(path)?;
    }
    // In the user's working directory: a passphrase command may be relative to it.
    let key_ring = keys::open(&config, &environment)?;
    raise_descriptor_limit();
    let cannot_run = |error: std::io::Error| {
        Error::new(Code::Failure, format!("cannot start the runtime: {error}"))
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(cannot_run)?;
    // Relative paths have been made absolute; from here on the daemon keeps no directory busy.
    std::env::set_current_dir("/").map_err(cannot_run)?;

    if let Some(report) = &mut report {
        report.close_inherited();
    }
    let server = match &config.embedded_server {
        Some(folder) => Some(runtime.block_on(parts::start_server(folder))?),
        None => None,
    };
    let made = match &config.source {
        Source::File { folder, .. } if !LocalStore::is_there(folder) => Some(text::path(folder)),
        _ => None,
    };
    let store = parts::open_store(
        config.place(),
        &environment,
        server.as_ref(),
        Missing::Created,
    )?;
    if let Some(folder) = made {
        let note = format!("created a new bucket in {folder}");
        match report {
            Some(ref mut report) => report.note(&note),
            None => output::print_line(&note),
        }
    }
    drop(environment);
    let prefix = settings(&config).prefix;
    let timeout = config.options.service.timeout;
    let store = CircuitBreaker::new(store, prefix, timeout, runtime.handle().clone());
    let writes_for = key_ring.writing().fingerprint().to_owned();
    let bucket = parts::encrypted_bucket(store, key_ring, config.bucket_settings());
    let explain = |cause: &(dyn std::error::Error + 'static)| parts::explain(cause, config.place());
    let filesystem = Filesystem::new(bucket.clone(), settings(&config), runtime.handle().clone())
        .map_err(|error| explain(&error))?;
    if let Some(folder) = config.state_folder() {
        filesystem.keep_state_in(folder);
    }
    let marker = runtime
        .block_on(filesystem.start())
        .map_err(|error| explain(&error))?;
    check_keys(&runtime, &bucket, &config, marker)?;
    // Before mounting: a signal that ended the process in between would leave a stale mount behind.
    let asked = {
        let _context = runtime.enter();
        Asked::listen()?
    };
    // Before mounting, too: from the moment the mount exists, `umount` knows its daemon.
    let file = DaemonFile::create(&config.mountpoint, &config.source.to_string())?;
    let mounted = session::mount(
        Adapter::new(filesystem.clone(), runtime.handle().clone()),
        &config.mountpoint,
        &session::Options {
            source: parts::shown_source(config.place()),
            read_only: config.options.read_only,
            noexec: config.options.noexec,
            allow_other: config.options.access.allow_other,
        },
    );
    drop(guard);
    let mounted = match mounted {
        Ok(mounted) => mounted,
        Err(error) => {
            file.discard();
            return Err(error.into());
        }
    };
    logging::log_panics();
    log::info!(
        "{} is mounted on {}",
        config.source,
        text::path(&config.mountpoint)
    );
    Ok(Daemon {
        config,
        runtime,
        filesystem,
        mounted,
        file,
        asked,
        server,
        writes_for,
    })
}

/// Refuses keys that nothing in the bucket is for: they are probably another bucket's.
fn check_keys(
    runtime: &Runtime,
    bucket: &EncryptedBucket,
    config: &MountConfig,
    marker: Listed,
) -> Result<()> {
    let policy = key_check::Policy {
        accept: config.options.keys.accept_key,
        write: !config.options.read_only,
    };
    let prefix = config.source.prefix();
    let checked = runtime.block_on(key_check::at_mount(bucket, prefix, marker, policy));
    checked.map(drop).map_err(|foreign| {
        Error::new(
            Code::KeyMismatch,
            format!(
                "the objects in {} are for another key: {}; the given key has the fingerprint {}, and could read none of them; give their key with --private-key, or give --accept-key to mount anyway and write for the given key",
                config.source,
                foreign,
                key_check::fingerprints_of(bucket.keys()),
            ),
        )
    })
}

/// Each connection, staged file and spilled block takes a descriptor; the usual limit of 1024 exists for
/// programs that use select(2).
fn raise_descriptor_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard.min(65_536)
    {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard.min(65_536), hard);
    }
}

fn settings(config: &MountConfig) -> Settings {
    let options = &config.options;
    let uploads = Uploads::within(options.tuning.memory_limit);
    Settings {
        prefix: config.source.prefix().to_owned(),
        metadata_ttl: options.tuning.metadata_ttl,
        dir_ttl: options.tuning.dir_ttl,
        memory_limit: options.tuning.memory_limit,
        spill: Spill {
            dir: config.cache_dir.clone(),
            limit: options.tuning.cache_limit.unwrap_or(u64::MAX),
        },
        read_only: options.read_only,
        defaults: Defaults {
            uid: options
                .access
                .uid
                .unwrap_or_else(|| nix::unistd::geteuid().as_raw()),
            gid: options
                .access
                .gid
                .unwrap_or_else(|| nix::unistd::getegid().as_raw()),
            file_mode: options.access.file_mode,
            dir_mode: options.access.dir_mode,
        },
        overrides: Overrides {
            uid: options.access.force_uid,
            gid: options.access.force_gid,
            file_mode: options.access.force_file_mode,
            dir_mode: options.access.force_dir_mode,
            umask: options.access.umask,
        },
        trust_links: options.keys.trust_links,
        // If only one user can access the mount, a stored owner could lock that user out of their own files.
        show_owner: nix::unistd::geteuid().is_root() || options.access.allow_other,
        rename_grace: options.tuning.rename_grace,
        flush_after: options.tuning.flush_after,
        capacity: options.tuning.capacity,
        timeout: options.service.timeout,
        uploads: Uploads {
            part_size: options.hidden.part_size,
            stream_after: options.hidden.stream_after.unwrap_or(uploads.stream_after),
            copy_limit: options.hidden.copy_limit.unwrap_or(uploads.copy_limit),
        },
    }
}

impl Daemon {
    /// Returns when the mount has ended and everything written is uploaded.
    fn serve(mut self, logger: &logging::Logger, report: Option<&mut Report>) -> Result<()> {
        // From here on, a failure must still remove the mount.
        if let Err(error) = self.announce(logger, report) {
            let _ = self.mounted.unmount();
            self.file.discard();
            return Err(error);
        }
        match self.filesystem.can_read() {
            true => log::info!("encrypting with the key {}", self.writes_for),
            // Logged at every level: whoever replaces the key file could read everything written from then
            // on.
            false => log::warn!(
                "write-only mount: encrypting with the key {}",
                self.writes_for
            ),
        }
        let result = self.wait();
        if let Err(error) = &result {
            log::error!("{error}");
        }
        self.file.finish(&result);
        drop(self.server.take());
        self.runtime.shutdown_timeout(RUNTIME_END);
        result
    }

    fn announce(&self, logger: &logging::Logger, report: Option<&mut Report>) -> Result<()> {
        if let Some(report) = report {
            if self.config.log_file.is_none() {
                logger.to_system();
            }
            report.ready()?;
        } else {
            if self.config.log_file.is_none() {
                logger.to_terminal();
            }
            // For a unit of systemd's of Type=notify; nothing happens elsewhere.
            if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
                log::warn!("cannot tell the service manager that the mount serves: {error}");
            }
        }
        Ok(())
    }

    fn wait(&mut self) -> Result<()> {
        let Daemon {
            runtime,
            filesystem,
            mounted,
            asked,
            ..
        } = self;
        runtime.block_on(async {
            tokio::select! {
                () = mounted.ended() => log::info!("unmounted externally: uploading pending changes"),
                name = asked.next() => {
                    log::info!("{name}: uploading pending changes");
                    // While the mount still serves, so that readers and writers are not disturbed yet.
                    let saved = asked.unless_twice(filesystem.shutdown()).await;
                    let gone = mounted.unmount();
                    if let Ok(true) = gone {
                        // Returns at once, unless another mount namespace holds a copy of the mount.
                        let _ = tokio::time::timeout(SESSION_END, mounted.ended()).await;
                    }
                    saved?;
                    gone?;
                }
            }
            // Data written between the first upload and the end of the mount.
            asked.unless_twice(filesystem.shutdown()).await
        })
    }
}

/// The signals that ask the daemon to end.
struct Asked {
    term: tokio::signal::unix::Signal,
    int: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
}

impl Asked {
    fn listen() -> Result<Asked> {
        let listen = |kind| {
            signal(kind).map_err(|error| {
                Error::new(Code::Failure, format!("cannot listen for signals: {error}"))
            })
        };
        Ok(Asked {
            term: listen(SignalKind::terminate())?,
            int: listen(SignalKind::interrupt())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.term.recv() => "SIGTERM",
            _ = self.int.recv() => "SIGINT",
            _ = self.hangup.recv() => "SIGHUP",
        }
    }

    /// Every upload has a deadline, but many may be pending: a second signal abandons them.
    async fn unless_twice(
        &mut self,
        saving: impl Future<Output = std::result::Result<(), Vec<FailedUpload>>>,
    ) -> Result<()> {
        tokio::select! {
            saved = saving => saved.map_err(|unsaved| not_saved(&unsaved)),
            name = self.next() => Err(Error::new(
                Code::Unsaved,
                format!("second {name}: the mount ended before everything was uploaded"),
            )),
        }
    }
}

fn not_saved(unsaved: &[FailedUpload]) -> Error {
    for file in unsaved {
        log::error!("not uploaded: {file}");
    }
    let mut names: Vec<String> = unsaved
        .iter()
        .take(NAMES_IN_MESSAGE)
        .map(|file| one_line(&file.to_string()))
        .collect();
    if unsaved.len() > NAMES_IN_MESSAGE {
        names.push(format!("and {} more", unsaved.len() - NAMES_IN_MESSAGE));
    }
    Error::new(
        Code::Unsaved,
        format!("not uploaded, and lost: {}", names.join(", ")),
    )
}
