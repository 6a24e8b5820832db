//! Files from one place to another: what `put`, `get`, `sync`, `cp` and `mv` do with their sources.
//!
//! As in rsync, a directory is transferred into the destination under its name; with a slash behind it, what is in it is.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::stream;

use super::filters::FilterOptions;
use super::location::{Location, shown};
use super::report::Report;
use super::session::{CommonOptions, ReportOptions, Session, add, local};
use crate::cli::error::{Error, Result};
use crate::cli::exit::Code;
use crate::cli::keys;
use crate::cli::options::KeyOptions;
use crate::cli::parts::Missing;
use crate::cli::secrets::Environment;
use crate::cli::source::Source;
use crate::cli::values;
use crate::encrypted::EncryptedBucket;
use crate::store::object_store::ObjectStore;
use crate::text;
use crate::tools::bulk;
use crate::tools::finding::{Finding, Grade, Summary};
use crate::tools::local_file::LocalFileError;
use crate::transfer::across::Across;
use crate::transfer::compare::Compare;
use crate::transfer::down::{Down, Target};
use crate::transfer::entry::{Entry, Node, finding};
use crate::transfer::filter::Filter;
use crate::transfer::find_place::{Found, find, first_at, is_directory};
use crate::transfer::folder::Folder;
use crate::transfer::options::{Options, PART, Place};
use crate::transfer::plan::{Plan, Route};
use crate::transfer::remove::keep_directory_of;
use crate::transfer::times::Times;
use crate::transfer::up::Up;
use crate::transfer::walk;

#[derive(Debug, clap::Args)]
pub(super) struct TransferOptions {
    #[command(flatten)]
    report: ReportOptions,
    /// Compare contents, not times of modification
    #[arg(long, short = 'c', conflicts_with_all = ["size_only", "ignore_times"])]
    checksum: bool,
    /// Compare sizes alone
    #[arg(long, conflicts_with = "ignore_times")]
    size_only: bool,
    /// Transfer every file
    #[arg(long, short = 'I')]
    ignore_times: bool,
    /// Restore set-user-ID and set-group-ID bits and device nodes. Anyone who can write to the bucket can set them
    #[arg(long)]
    trust_modes: bool,
    #[command(flatten)]
    common: CommonOptions,
    #[command(flatten)]
    filters: FilterOptions,
    #[command(flatten)]
    keys: KeyOptions,
    /// The size of an upload's first parts.
    #[arg(long, hide = true, default_value_t = PART, value_name = "SIZE", value_parser = values::part_size)]
    part_size: u64,
}

impl TransferOptions {
    pub(super) fn options(&self, delete: bool, default: Compare) -> Options {
        Options {
            compare: match self {
                _ if self.checksum => Compare::Checksum,
                _ if self.size_only => Compare::Size,
                _ if self.ignore_times => Compare::Never,
                _ => default,
            },
            delete,
            dry_run: self.report.dry_run,
            trust_links: self.keys.trust_links,
            trust_modes: self.trust_modes,
            part_size: self.part_size,
            ..Options::default()
        }
    }
}

/// What a command allows.
pub(super) struct Command<'a> {
    name: &'static str,
    session: Session<'a>,
    transfer: &'a TransferOptions,
    options: Options,
    filter: Arc<Filter>,
    report: Report,
    /// Directories are transferred with everything in them.
    pub recursive: bool,
    /// Delete each source once it is copied.
    pub moves: bool,
    /// A directory goes into the destination itself, not under its name.
    pub contents: bool,
}

impl<'a> Command<'a> {
    /// # Errors
    /// A filter is none.
    pub(super) fn new(
        name: &'static str,
        transfer: &'a TransferOptions,
        options: Options,
        environment: &'a Environment,
    ) -> Result<Command<'a>> {
        let session = Session::new(&transfer.common, environment)?;
        let report = session.report(&transfer.report, name);
        Ok(Command {
            name,
            session,
            filter: Arc::new(transfer.filters.filter()?),
            transfer,
            options,
            report,
            recursive: true,
            moves: false,
            contents: false,
        })
    }

    pub(super) fn usage(message: String) -> Error {
        Error::new(Code::Usage, message)
    }

    /// Transfers each source, and ends the command.
    ///
    /// # Errors
    /// [`Code::Incomplete`] if something needs attention.
    pub(super) fn run(&self, sources: &[Location], to: &Location) -> Result<()> {
        let mut whole = Summary::default();
        for source in sources {
            if self.session.control.is_stopped() {
                break;
            }
            add(&mut whole, self.one(source, to, sources.len() > 1)?);
        }
        let nothing = format!("there was nothing to {}", self.name);
        self.session
            .conclude(&self.report, &self.transfer.report, &whole, &nothing)
    }

    fn one(&self, from: &Location, to: &Location, several: bool) -> Result<Summary> {
        match (from, to) {
            (Location::Local(from), Location::Bucket { source, key }) => {
                self.up(from, source, key, several)
            }
            (Location::Bucket { source, key }, Location::Local(to)) => {
                self.down(source, key, to, several)
            }
            (
                Location::Bucket { source, key },
                Location::Bucket {
                    source: to,
                    key: to_key,
                },
            ) => self.across((source, key), (to, to_key), several),
            (Location::Local(_), Location::Local(_)) => Err(Self::usage(format!(
                "{}: neither is in a bucket: write oss://bucket/path, or use rsync between local paths",
                self.name
            ))),
        }
    }

    fn bucket(&self, source: &Source, read_only: bool) -> Result<Arc<EncryptedBucket>> {
        // Keys are read and tested before anything is created.
        let ring = self.session.keys(&self.transfer.keys, read_only)?;
        let missing = match read_only || self.options.dry_run {
            true => Missing::Refused,
            false => Missing::Created,
        };
        let store = self.session.store(source, missing)?;
        let settings = self.session.settings(&self.transfer.keys);
        Ok(EncryptedBucket::new(store, ring, settings))
    }

    /// The records of a place, for a walk of all of it.
    fn times(&self, source: &Source, prefix: &str) -> Arc<Times> {
        Arc::new(match self.session.times_of(source, prefix) {
            Some(path) => Times::open(&path, !self.options.dry_run),
            None => Times::none(),
        })
    }

    fn up(&self, from: &Path, source: &Source, key: &str, several: bool) -> Result<Summary> {
        let found = std::fs::metadata(from).or_else(|_| from.symlink_metadata());
        let found = found.map_err(|error| local(from, error))?;
        let bucket = self.bucket(source, false)?;
        let store = bucket.store().clone();
        let directory = found.is_dir();
        if directory && !self.recursive {
            return Err(self.needs_recursive(&text::path(from)));
        }
        if !directory && self.contents {
            return Err(Self::usage(format!(
                "{} is not a directory: use put for files",
                text::path(from)
            )));
        }
        if directory {
            let contents = self.contents || ends_with_slash(from);
            let prefix =
                directory_key(key, (!contents).then(|| name(from)).transpose()?.as_deref());
            let place = Place {
                bucket: bucket.clone(),
                prefix: prefix.clone(),
            };
            let folder = Folder::open(from).map_err(|error| local(from, error))?;
            let names = folder.names().map_err(|error| local(from, error))?;
            self.check_not_empty(names.is_empty(), &text::path(from))?;
            self.check_no_file(source, &store, &prefix)?;
            let times = self.times(source, &prefix);
            let up = Arc::new(Up {
                bucket,
                options: self.options.clone(),
                control: self.session.control.clone(),
                times: times.clone(),
            });
            let filter = self.filter.clone();
            return self
                .session
                .run(&self.report, source, async |progress, sink| {
                    let to = walk::bucket_with_root(store, prefix, filter.clone()).await?;
                    let items = (walk::local(folder, filter), to);
                    let (options, control) = (self.options.clone(), self.session.control.clone());
                    let plan = Plan::new(Route::Up(up, place), items, options, control, times);
                    plan.run(self.parallel(), progress, sink).await
                });
        }
        let file = name(from)?;
        let into = several
            || key.is_empty()
            || key.ends_with('/')
            || self
                .session
                .block_on(is_directory(&store, &format!("{key}/")))
                .map_err(|error| self.session.explain(source, &error))?;
        let key = match into {
            true => format!("{}{file}", directory_key(key, None)),
            false => key.to_owned(),
        };
        let parent = match from.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let folder = Folder::open(parent).map_err(|error| local(parent, error))?;
        let stat = folder
            .stat(file.as_ref())
            .map_err(|error| local(from, error))?;
        let entry = Entry {
            path: file,
            is_directory: false,
            node: Node::Local(Some(Arc::new(folder)), stat),
            known: None,
        };
        let up = Up {
            bucket,
            options: self.options.clone(),
            control: self.session.control.clone(),
            times: Arc::new(Times::none()),
        };
        let lost = finding(key.clone(), entry.size(), Grade::Bad, "failed");
        self.alone(source, lost, async move {
            let there = match find(&store, &key).await? {
                Found::File(listed) => Some(object(listed)),
                _ => None,
            };
            up.entry(entry, key, there).await
        })
    }

    fn down(&self, source: &Source, key: &str, to: &Path, several: bool) -> Result<Summary> {
        let bucket = self.bucket(source, true)?;
        let store = bucket.store().clone();
        let found = self.session.find(source, &store, key)?;
        let is_folder = to.is_dir();
        let down = |times: &Arc<Times>| {
            Arc::new(Down {
                bucket: bucket.clone(),
                options: self.options.clone(),
                control: self.session.control.clone(),
                times: times.clone(),
            })
        };
        let listed = match found {
            Found::File(_) if self.contents => {
                return Err(Self::usage(format!(
                    "{} is a file: use get for files",
                    shown(source, key)
                )));
            }
            Found::File(listed) => listed,
            Found::Nothing(_) => return Ok(Summary::default()),
            Found::Directory(prefix) => {
                if !self.recursive {
                    return Err(self.needs_recursive(&shown(source, key)));
                }
                let contents = self.contents || key.is_empty() || key.ends_with('/');
                let last = prefix
                    .trim_end_matches('/')
                    .rsplit('/')
                    .next()
                    .unwrap_or("");
                let path = match contents {
                    true => to.to_owned(),
                    false => to.join(last),
                };
                self.check_not_empty_below(source, &store, &prefix)?;
                if path != to {
                    self.make_folder(to)?;
                }
                let root = self.make_folder(&path)?;
                let times = self.times(source, &prefix);
                let down = down(&times);
                let place = Place {
                    bucket: bucket.clone(),
                    prefix: prefix.clone(),
                };
                let there = match &root {
                    Some(folder) => {
                        let again = Folder::open(folder.path());
                        let again = again.map_err(|error| local(&path, error))?;
                        Some(again)
                    }
                    None => None,
                };
                let root = root.map(Target::root);
                let filter = self.filter.clone();
                return self
                    .session
                    .run(&self.report, source, async |progress, sink| {
                        let to = match there {
                            Some(folder) => walk::local(folder, filter.clone()),
                            None => walk::nothing(),
                        };
                        let from = walk::bucket_with_root(store, prefix, filter).await?;
                        let (options, control) =
                            (self.options.clone(), self.session.control.clone());
                        let route = Route::Down(down, place, root);
                        let plan = Plan::new(route, (from, to), options, control, times);
                        plan.run(self.parallel(), progress, sink).await
                    });
            }
        };
        let own = listed.key.rsplit('/').next().unwrap_or_default().to_owned();
        let into = several || is_folder || ends_with_slash(to);
        let (parent, name): (PathBuf, OsString) = match (into, to.parent(), to.file_name()) {
            (true, _, _) => (to.to_owned(), own.into()),
            (false, Some(parent), Some(name)) if !parent.as_os_str().is_empty() => {
                (parent.to_owned(), name.to_owned())
            }
            (false, _, Some(name)) => (PathBuf::from("."), name.to_owned()),
            (false, _, None) => (to.to_owned(), own.into()),
        };
        let folder = Folder::open(&parent).map_err(|error| local(&parent, error))?;
        let there = folder.stat(&name).ok();
        let target = Target::root(folder);
        let down = down(&Arc::new(Times::none()));
        let lost = Finding::new(&listed, Grade::Bad, "failed");
        self.alone(source, lost, async move {
            down.file(object(listed), Some(target), name, there).await
        })
    }

    /// The destination of a directory. None in a dry run, if it is not there.
    fn make_folder(&self, path: &Path) -> Result<Option<Folder>> {
        match Folder::open(path) {
            Ok(folder) => return Ok(Some(folder)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(local(path, error)),
        }
        if self.options.dry_run {
            return Ok(None);
        }
        // As with rsync, only the last part is made: a longer path is more likely a mistake.
        std::fs::create_dir(path)
            .map_err(|error| Error::from(&LocalFileError::writing(path, error)))?;
        Folder::open(path)
            .map(Some)
            .map_err(|error| local(path, error))
    }

    fn across(
        &self,
        (source, key): (&Source, &str),
        (to, to_key): (&Source, &str),
        several: bool,
    ) -> Result<Summary> {
        let inside = source == to;
        // Copies inside a bucket need no key.
        let ring = match inside {
            true => Arc::new(keys::placeholder()?),
            false => self.session.keys(&self.transfer.keys, false)?,
        };
        let settings = self.session.settings(&self.transfer.keys);
        let ours = self.session.store(source, Missing::Refused)?;
        let from = EncryptedBucket::new(ours.clone(), ring.clone(), settings.clone());
        let into = match inside {
            true => from.clone(),
            false => {
                let missing = match self.options.dry_run {
                    true => Missing::Refused,
                    false => Missing::Created,
                };
                EncryptedBucket::new(self.session.store(to, missing)?, ring, settings)
            }
        };
        let theirs = into.store().clone();
        let found = self.session.find(source, &ours, key)?;
        let across = Arc::new(Across {
            from: from.clone(),
            to: into.clone(),
            inside,
            moves: self.moves,
            options: self.options.clone(),
            control: self.session.control.clone(),
        });
        let is_there = |key: &str| {
            let prefix = directory_key(key, None);
            let there = self.session.block_on(is_directory(&theirs, &prefix));
            there.map_err(|error| self.session.explain(to, &error))
        };
        let last = |key: &str| {
            let name = key.trim_end_matches('/').rsplit('/').next();
            name.unwrap_or_default().to_owned()
        };
        let into_directory =
            several || to_key.is_empty() || to_key.ends_with('/') || is_there(to_key)?;
        let summary = match found {
            Found::Nothing(_) => Summary::default(),
            Found::File(_) if self.contents => {
                return Err(Self::usage(format!(
                    "{} is a file: use cp",
                    shown(source, key)
                )));
            }
            Found::File(listed) => {
                let destination = match into_directory {
                    true => directory_key(to_key, Some(&last(&listed.key))),
                    false => to_key.to_owned(),
                };
                let destination = destination.trim_end_matches('/').to_owned();
                if inside && destination == listed.key {
                    return Err(self.inside_itself(source, key));
                }
                let lost = Finding::new(&listed, Grade::Bad, "failed");
                self.alone(source, lost, async move {
                    let there = match find(&theirs, &destination).await? {
                        Found::File(listed) => Some(object(listed)),
                        _ => None,
                    };
                    across.entry(object(listed), destination, there).await
                })?
            }
            Found::Directory(prefix) => {
                if !self.recursive {
                    return Err(self.needs_recursive(&shown(source, key)));
                }
                // Of a directory that is renamed, the destination is the new name unless that is there.
                let under_name =
                    into_directory && !self.contents && !key.ends_with('/') && !key.is_empty();
                let to_prefix = directory_key(to_key, under_name.then(|| last(&prefix)).as_deref());
                if inside && to_prefix.starts_with(&prefix) {
                    return Err(self.inside_itself(source, key));
                }
                self.check_not_empty_below(source, &ours, &prefix)?;
                self.check_no_file(to, &theirs, &to_prefix)?;
                let place = Place {
                    bucket: into,
                    prefix: to_prefix.clone(),
                };
                let filter = self.filter.clone();
                self.session
                    .run(&self.report, source, async |progress, sink| {
                        let from = walk::bucket_with_root(ours, prefix, filter.clone()).await?;
                        let to = walk::bucket_with_root(theirs, to_prefix, filter).await?;
                        let (options, control) =
                            (self.options.clone(), self.session.control.clone());
                        let route = Route::Across(across, place);
                        let times = Arc::new(Times::none());
                        let plan = Plan::new(route, (from, to), options, control, times);
                        plan.run(self.parallel(), progress, sink).await
                    })?
            }
        };
        if self.moves && !self.options.dry_run && summary.bad == 0 {
            let place = Place {
                bucket: from,
                prefix: String::new(),
            };
            let kept = self.session.block_on(keep_directory_of(&place, key));
            kept.map_err(|error| self.session.explain(source, &error))?;
        }
        Ok(summary)
    }

    /// A source that is empty is more likely a mistake than a wish that everything be deleted: it may be a mount point
    /// that nothing is mounted on.
    fn check_not_empty(&self, is_empty: bool, shown: &str) -> Result<()> {
        if is_empty && self.options.delete && !self.transfer.report.allow_empty {
            return Err(Error::new(
                Code::Incomplete,
                format!(
                    "{shown} is empty, and --delete would remove everything: give --allow-empty if that is meant"
                ),
            ));
        }
        Ok(())
    }

    fn check_not_empty_below(
        &self,
        source: &Source,
        store: &Arc<dyn ObjectStore>,
        prefix: &str,
    ) -> Result<()> {
        if !self.options.delete || !prefix.is_empty() {
            return Ok(());
        }
        let first = self.session.block_on(first_at(store, prefix));
        let first = first.map_err(|error| self.session.explain(source, &error))?;
        self.check_not_empty(first.is_none(), &source.to_string())
    }

    /// A mount would not show a file any more whose name is a directory's too.
    fn check_no_file(
        &self,
        source: &Source,
        store: &Arc<dyn ObjectStore>,
        prefix: &str,
    ) -> Result<()> {
        let name = prefix.trim_end_matches('/');
        if name.is_empty() {
            return Ok(());
        }
        let first = self.session.block_on(first_at(store, name));
        let first = first.map_err(|error| self.session.explain(source, &error))?;
        match first.as_deref() == Some(name) {
            false => Ok(()),
            true => Err(Self::usage(format!(
                "{} is a file: name another destination, or remove it",
                shown(source, name)
            ))),
        }
    }

    fn needs_recursive(&self, shown: &str) -> Error {
        Self::usage(format!(
            "{shown} is a directory: give -r to {} it",
            self.name
        ))
    }

    fn inside_itself(&self, source: &Source, key: &str) -> Error {
        Self::usage(format!(
            "{} {} goes into itself: name another destination",
            self.name,
            shown(source, key)
        ))
    }

    fn parallel(&self) -> usize {
        self.transfer.common.parallel.into()
    }

    /// A transfer of one file.
    fn alone(
        &self,
        source: &Source,
        lost: Finding,
        work: impl Future<Output = std::result::Result<Vec<Finding>, crate::store::error::Error>>
        + Send
        + 'static,
    ) -> Result<Summary> {
        self.session
            .run(&self.report, source, async |progress, sink| {
                // One alone: an error that would end a run of many is this one's.
                bulk::each(stream::iter([Ok((lost, work))]), 0, progress, sink).await
            })
    }
}

fn object(listed: crate::store::object_store::ListedObject) -> Entry {
    Entry {
        path: listed.key.clone(),
        is_directory: listed.key.ends_with('/'),
        node: Node::Object(listed),
        known: None,
    }
}

/// The prefix of a directory, or of the one of that name below it.
fn directory_key(key: &str, below: Option<&str>) -> String {
    let key = key.trim_end_matches('/');
    match (key, below) {
        ("", None) => String::new(),
        ("", Some(name)) => format!("{name}/"),
        (key, None) => format!("{key}/"),
        (key, Some(name)) => format!("{key}/{name}/"),
    }
}

/// The name that a local file has in a bucket.
fn name(path: &Path) -> Result<String> {
    let canonical;
    let named = match path.file_name() {
        Some(name) => Some(name),
        // `.` and `..` are directories with names of their own.
        None => {
            canonical = path.canonicalize().map_err(|error| local(path, error))?;
            canonical.file_name()
        }
    };
    let name = named.and_then(|name| name.to_str()).ok_or_else(|| {
        Error::new(
            Code::Usage,
            format!(
                "{} has no name that a key can hold: put a slash behind it to transfer what is in it",
                text::path(path)
            ),
        )
    })?;
    Ok(name.to_owned())
}

fn ends_with_slash(path: &Path) -> bool {
    let bytes = path.as_os_str().as_encoded_bytes();
    bytes.ends_with(b"/") || bytes.ends_with(b"/.") || bytes == b"."
}
