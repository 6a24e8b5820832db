//! `ossvault ls`, `du` and `find`: what is in a bucket. They need no key.

use std::sync::Arc;
use std::time::SystemTime;

use futures_util::stream::{self, StreamExt};
use serde_json::{Map, Value, json};

use super::location::{Location, shown};
use super::report::human;
use super::session::{CommonOptions, Session};
use crate::base::time;
use crate::cli::error::{Error, Result};
use crate::cli::exit::Code;
use crate::cli::output::{print_json, print_line};
use crate::cli::parts::Missing;
use crate::cli::secrets::Environment;
use crate::cli::source::Source;
use crate::cli::values::Expected;
use crate::encrypted::reserved::is_reserved;
use crate::files::attributes::{Attributes, Kind, Timestamp};
use crate::files::name::is_component;
use crate::store::error::Error as StoreError;
use crate::store::object_store::{ListRequest, ListedObject, ObjectKey, ObjectMeta, ObjectStore};
use crate::transfer::entry::{Entry, Item, Node};
use crate::transfer::filter::Filter;
use crate::transfer::find_place::Found;
use crate::transfer::pattern::name_matches;
use crate::transfer::walk;

/// List what is in a bucket
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ossvault ls oss://my-bucket/photos
  ossvault ls -lR my-bucket:/photos

Without -l, only listings are requested; with it, the headers of every object too.")]
pub(crate) struct LsArgs {
    /// oss://bucket[/path], bucket[:/path], or file:///folder[#path] (repeatable)
    #[arg(id = "source", value_name = "PLACE", required = true)]
    places: Vec<String>,
    /// Mode, owner, size and time of modification of each file
    #[arg(long, short = 'l')]
    long: bool,
    /// Everything below, with paths
    #[arg(long, short = 'R')]
    recursive: bool,
    /// Also keys that a mount does not show
    #[arg(long, short = 'a')]
    all: bool,
    #[command(flatten)]
    common: CommonOptions,
}

/// Sum up the sizes of what is in a bucket
#[derive(Debug, clap::Args)]
#[command(
    disable_help_flag = true,
    after_help = "\
Examples:
  ossvault du -sh oss://my-bucket
  ossvault du oss://my-bucket/photos"
)]
pub(crate) struct DuArgs {
    /// oss://bucket[/path], bucket[:/path], or file:///folder[#path] (repeatable)
    #[arg(id = "source", value_name = "PLACE", required = true)]
    places: Vec<String>,
    /// Only the sum of each place
    #[arg(long, short = 's')]
    summarize: bool,
    /// Sizes like 3.4 MiB
    #[arg(long, short = 'h')]
    human_readable: bool,
    /// Print help
    #[arg(long, action = clap::ArgAction::Help)]
    help: Option<bool>,
    #[command(flatten)]
    common: CommonOptions,
}

/// Find files in a bucket by name, type, size and time
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ossvault find oss://my-bucket/photos -name '*.jpg' -size +10M
  ossvault find my-bucket:/ -type d -name cache

As in find(1), all conditions must hold, and +N is more than N, -N less. -type f, -type l and -mtime read the headers of \
each object that the other conditions leave; names and sizes need only listings.")]
pub(crate) struct FindArgs {
    /// oss://bucket[/path], bucket[:/path], or file:///folder[#path]
    #[arg(id = "source", value_name = "PLACE")]
    place: String,
    /// A pattern of the shell's for the last part of the path
    #[arg(long, value_name = "PATTERN", allow_hyphen_values = true)]
    name: Option<String>,
    /// The same, without regard to case
    #[arg(long, value_name = "PATTERN", allow_hyphen_values = true)]
    iname: Option<String>,
    /// f: a file; d: a directory; l: a symbolic link
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<Type>,
    /// Blocks of 512 bytes, or with a unit: c (bytes), k, M, G. Sizes are rounded up to the unit
    #[arg(long, value_name = "[+-]N[ckMG]", allow_hyphen_values = true, value_parser = size)]
    size: Option<(Bound, u64)>,
    /// Days since the last modification, rounded down
    #[arg(long, value_name = "[+-]N", allow_hyphen_values = true, value_parser = days)]
    mtime: Option<Bound>,
    #[command(flatten)]
    common: CommonOptions,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Type {
    F,
    D,
    L,
}

/// A number as find(1) takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bound {
    MoreThan(u64),
    LessThan(u64),
    Exactly(u64),
}

impl Bound {
    fn parse(text: &str) -> Option<Bound> {
        let (bound, digits): (fn(u64) -> Bound, &str) = match text.as_bytes().first()? {
            b'+' => (Bound::MoreThan, &text[1..]),
            b'-' => (Bound::LessThan, &text[1..]),
            _ => (Bound::Exactly, text),
        };
        let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
        Some(bound(digits.parse().ok().filter(|_| plain)?))
    }

    fn holds(self, value: u64) -> bool {
        match self {
            Bound::MoreThan(bound) => value > bound,
            Bound::LessThan(bound) => value < bound,
            Bound::Exactly(bound) => value == bound,
        }
    }
}

fn size(text: &str) -> std::result::Result<(Bound, u64), Expected> {
    let expected = Expected("expected a size like +10M, -4k or 100c");
    let (number, unit) = match text.as_bytes().last() {
        Some(b'c') => (&text[..text.len() - 1], 1),
        Some(b'k') => (&text[..text.len() - 1], 1 << 10),
        Some(b'M') => (&text[..text.len() - 1], 1 << 20),
        Some(b'G') => (&text[..text.len() - 1], 1 << 30),
        _ => (text, 512),
    };
    Ok((Bound::parse(number).ok_or(expected)?, unit))
}

fn days(text: &str) -> std::result::Result<Bound, Expected> {
    Bound::parse(text).ok_or(Expected("expected a number of days like +7, -1 or 0"))
}

/// find's own spelling of its conditions: `-name` for `--name`.
pub(crate) fn translate(typed: Vec<std::ffi::OsString>) -> Vec<std::ffi::OsString> {
    if typed.get(1).is_none_or(|command| command != "find") {
        return typed;
    }
    let conditions = ["-name", "-iname", "-type", "-size", "-mtime"];
    let long = |argument: std::ffi::OsString| match argument.to_str() {
        Some(text) if conditions.contains(&text) => format!("-{text}").into(),
        _ => argument,
    };
    typed.into_iter().map(long).collect()
}

/// Something to be shown.
struct Shown {
    /// As it is printed.
    name: String,
    key: String,
    is_directory: bool,
    object: Option<ListedObject>,
}

/// # Errors
/// [`Code::Incomplete`] if there is nothing of that name.
pub(crate) fn ls(args: &LsArgs, environment: &Environment) -> Result<()> {
    let session = Session::new(&args.common, environment)?;
    each_place(&args.places, |source, key| {
        let store = session.store(source, Missing::Refused)?;
        let found = session.find(source, &store, key)?;
        let lister = Lister {
            store: store.clone(),
            long: args.long,
            json: args.common.json,
            parallel: args.common.parallel.into(),
        };
        let listed = session.block_on(async {
            match found {
                Found::File(listed) => {
                    let shown = Shown {
                        name: listed.key.clone(),
                        key: listed.key.clone(),
                        is_directory: false,
                        object: Some(listed),
                    };
                    lister.print(vec![shown]).await
                }
                Found::Directory(prefix) => list(&lister, &prefix, args.recursive, args.all).await,
                Found::Nothing(_) => Ok(()),
            }
        });
        listed.map_err(|error| session.explain(source, &error))
    })
}

/// Each place is tried; the first error of several counts.
fn each_place(places: &[String], work: impl Fn(&Source, &str) -> Result<()>) -> Result<()> {
    let mut failed = None;
    for place in places {
        let done = Location::in_bucket(place).and_then(|(source, key)| work(&source, &key));
        if let Err(error) = done {
            if places.len() == 1 {
                return Err(error);
            }
            crate::cli::output::tell(&error.to_string());
            failed.get_or_insert(error.code());
        }
    }
    failed.map_or(Ok(()), |code| Err(Error::silent(code)))
}

async fn list(
    lister: &Lister,
    prefix: &str,
    recursive: bool,
    all: bool,
) -> std::result::Result<(), StoreError> {
    let mut request = ListRequest {
        prefix: prefix.to_owned(),
        delimited: !recursive,
        ..ListRequest::default()
    };
    loop {
        let page = lister.store.list(&request).await?;
        let mut shown: Vec<Shown> = Vec::new();
        for object in page.objects {
            let name = object
                .key
                .strip_prefix(prefix)
                .unwrap_or(&object.key)
                .to_owned();
            let is_directory = name.ends_with('/') && object.size == 0;
            let path = name
                .strip_suffix('/')
                .filter(|_| is_directory)
                .unwrap_or(&name);
            let visible = path.split('/').all(is_component) && !is_reserved(&object.key, prefix);
            if name.is_empty() || !(visible && !is_reserved(&object.key, "") || all) {
                continue;
            }
            shown.push(Shown {
                name,
                key: object.key.clone(),
                is_directory,
                object: Some(object),
            });
        }
        for key in page.prefixes {
            let name = key.strip_prefix(prefix).unwrap_or(&key).to_owned();
            let visible = is_component(name.trim_end_matches('/'))
                && !is_reserved(&key, prefix)
                && !is_reserved(&key, "");
            if visible || all {
                shown.push(Shown {
                    name,
                    key,
                    is_directory: true,
                    object: None,
                });
            }
        }
        shown.sort_by(|one, other| one.name.cmp(&other.name));
        lister.print(shown).await?;
        match page.next {
            None => return Ok(()),
            token => request.token = token,
        }
    }
}

struct Lister {
    store: Arc<dyn ObjectStore>,
    long: bool,
    json: bool,
    parallel: usize,
}

impl Lister {
    /// In order; the headers that `-l` takes are requested several at a time.
    async fn print(&self, shown: Vec<Shown>) -> std::result::Result<(), StoreError> {
        let mut described = std::pin::pin!(
            stream::iter(shown)
                .map(|shown| async move {
                    let meta = match (self.long, ObjectKey::new(shown.key.as_str())) {
                        (true, Ok(key)) => match self.store.head(&key).await {
                            Ok(meta) => Some(meta),
                            // A directory without a marker, or gone since.
                            Err(StoreError::NotFound) => None,
                            Err(error) => return Err(error),
                        },
                        _ => None,
                    };
                    Ok((shown, meta))
                })
                .buffered(self.parallel)
        );
        while let Some(described) = described.next().await {
            let (shown, meta) = described?;
            match self.json {
                true => print_json(&object(&shown, meta.as_ref())),
                false if self.long => print_line(&long(&shown, meta.as_ref())),
                false => print_line(&shown.name),
            }
        }
        Ok(())
    }
}

/// The fields are named as in objects' metadata.
fn object(shown: &Shown, meta: Option<&ObjectMeta>) -> Value {
    let mut fields = Map::new();
    fields.insert("name".to_owned(), json!(shown.name));
    fields.insert("key".to_owned(), json!(shown.key));
    let kind = match meta {
        Some(meta) => kind_of(&Attributes::read(meta, shown.is_directory)),
        None if shown.is_directory => "directory",
        // Only its headers tell a link from a file.
        None => "object",
    };
    fields.insert("type".to_owned(), json!(kind));
    if let Some(listed) = &shown.object {
        fields.insert("size".to_owned(), json!(listed.size));
        fields.insert("etag".to_owned(), json!(listed.etag.as_str()));
        let stored = time::extended(listed.last_modified);
        fields.insert("stored".to_owned(), json!(stored));
    }
    if let Some(meta) = meta {
        let attributes = Attributes::read(meta, shown.is_directory);
        let mode = attributes.mode.map(|mode| format!("{mode:04o}"));
        fields.insert("mode".to_owned(), json!(mode));
        fields.insert("uid".to_owned(), json!(attributes.uid));
        fields.insert("gid".to_owned(), json!(attributes.gid));
        fields.insert("mtime".to_owned(), json!(attributes.mtime.to_text()));
    }
    Value::Object(fields)
}

fn kind_of(attributes: &Attributes) -> &'static str {
    match attributes.kind {
        Kind::File => "file",
        Kind::Directory => "directory",
        Kind::Symlink => "link",
        Kind::Fifo => "fifo",
        Kind::Socket => "socket",
        Kind::CharDevice | Kind::BlockDevice => "device",
    }
}

/// `-rw-r--r-- 1000 1000 12345 2026-11-30 21:00:00 name`, as ls(1) has it. A `?` is what is not stored.
fn long(shown: &Shown, meta: Option<&ObjectMeta>) -> String {
    let directory = if shown.is_directory { 'd' } else { '-' };
    let Some(meta) = meta else {
        return format!("{directory}????????? ? ? - - {}", shown.name);
    };
    let attributes = Attributes::read(meta, shown.is_directory);
    let letter = match attributes.kind {
        Kind::File => '-',
        Kind::Directory => 'd',
        Kind::Symlink => 'l',
        Kind::Fifo => 'p',
        Kind::Socket => 's',
        Kind::CharDevice => 'c',
        Kind::BlockDevice => 'b',
    };
    let mode = match attributes.mode {
        Some(mode) => permissions(mode),
        None => "?????????".to_owned(),
    };
    let number = |number: Option<u32>| number.map_or("?".to_owned(), |number| number.to_string());
    let at = time::plain(attributes.mtime.to_system());
    format!(
        "{letter}{mode} {} {} {} {at} {}",
        number(attributes.uid),
        number(attributes.gid),
        meta.size,
        shown.name
    )
}

/// `rwxr-xr-x`
fn permissions(mode: u32) -> String {
    let mut text = String::new();
    for (shift, special, set, unset) in [
        (6, 0o4000, 's', 'S'),
        (3, 0o2000, 's', 'S'),
        (0, 0o1000, 't', 'T'),
    ] {
        let bits = mode >> shift & 7;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (mode & special != 0, bits & 1 != 0) {
            (true, true) => set,
            (true, false) => unset,
            (false, true) => 'x',
            (false, false) => '-',
        });
    }
    text
}

/// # Errors
/// [`Code::Incomplete`] if there is nothing of that name.
pub(crate) fn du(args: &DuArgs, environment: &Environment) -> Result<()> {
    let session = Session::new(&args.common, environment)?;
    each_place(&args.places, |source, key| {
        let store = session.store(source, Missing::Refused)?;
        let print = |path: &str, bytes: u64, objects: u64| {
            let shown = shown(source, path.trim_end_matches('/'));
            if args.common.json {
                print_json(&json!({"place": shown, "bytes": bytes, "objects": objects}));
                return;
            }
            let size = match args.human_readable {
                true => human(bytes),
                false => bytes.to_string(),
            };
            print_line(&format!("{size:>12} {objects:>8} {shown}"));
        };
        match session.find(source, &store, key)? {
            Found::File(listed) => print(&listed.key, listed.size, 1),
            Found::Nothing(_) => {}
            Found::Directory(prefix) => {
                let summed = session.block_on(sum(&store, &prefix, |path, bytes, objects| {
                    if !args.summarize || path == prefix {
                        print(path, bytes, objects);
                    }
                }));
                summed.map_err(|error| session.explain(source, &error))?;
            }
        }
        Ok(())
    })
}

/// Calls `done` for every directory once everything in it is counted, the prefix last.
async fn sum(
    store: &Arc<dyn ObjectStore>,
    prefix: &str,
    mut done: impl FnMut(&str, u64, u64),
) -> std::result::Result<(), StoreError> {
    let mut open: Vec<(String, u64, u64)> = vec![(prefix.to_owned(), 0, 0)];
    let mut leave = |open: &mut Vec<(String, u64, u64)>, key: &str| {
        while open.len() > 1 && open.last().is_some_and(|(path, ..)| !key.starts_with(path)) {
            if let Some((path, bytes, objects)) = open.pop() {
                done(&path, bytes, objects);
                if let Some(parent) = open.last_mut() {
                    parent.1 += bytes;
                    parent.2 += objects;
                }
            }
        }
        if key.is_empty()
            && let Some((path, bytes, objects)) = open.pop()
        {
            done(&path, bytes, objects);
        }
    };
    let mut request = ListRequest {
        prefix: prefix.to_owned(),
        ..ListRequest::default()
    };
    loop {
        let page = store.list(&request).await?;
        for object in page.objects {
            leave(&mut open, &object.key);
            let from = open.last().map_or(0, |(path, ..)| path.len());
            let ends = object.key.match_indices('/').map(|(at, _)| at + 1);
            for end in ends.filter(|end| *end > from) {
                open.push((object.key[..end].to_owned(), 0, 0));
            }
            if let Some(directory) = open.last_mut() {
                directory.1 += object.size;
                directory.2 += 1;
            }
        }
        match page.next {
            None => break,
            token => request.token = token,
        }
    }
    // No key is empty, and none begins with what is open.
    while open.len() > 1 {
        leave(&mut open, "\u{0}");
    }
    leave(&mut open, "");
    Ok(())
}

/// # Errors
/// [`Code::Incomplete`] if nothing is found.
pub(crate) fn find(args: &FindArgs, environment: &Environment) -> Result<()> {
    let session = Session::new(&args.common, environment)?;
    let (source, key) = Location::in_bucket(&args.place)?;
    let store = session.store(&source, Missing::Refused)?;
    let count = match session.find(&source, &store, &key)? {
        Found::Directory(prefix) => session.block_on(search(args, &source, &store, &prefix)),
        Found::File(listed) => session.block_on(async {
            let entry = Entry {
                path: listed.key.clone(),
                is_directory: false,
                node: Node::Object(listed),
                known: None,
            };
            let matched = matches(args, &store, &entry).await?;
            Ok(u64::from(matched.is_some_and(|meta| {
                found(args, &source, "", &entry, meta.as_ref());
                true
            })))
        }),
        Found::Nothing(_) => Ok(0),
    };
    match count.map_err(|error| session.explain(&source, &error))? {
        0 => Err(Error::new(
            Code::Incomplete,
            format!("nothing below {} matches", shown(&source, &key)),
        )),
        _ => Ok(()),
    }
}

async fn search(
    args: &FindArgs,
    source: &Source,
    store: &Arc<dyn ObjectStore>,
    prefix: &str,
) -> std::result::Result<u64, StoreError> {
    let items = walk::bucket(store.clone(), prefix.to_owned(), Arc::<Filter>::default());
    let entries = stream::unfold(items, |mut items| async move {
        let item = items.recv().await?;
        Some((item, items))
    });
    let entries = entries.filter_map(|item| async {
        match item {
            Ok(Item::Entry(entry)) if !entry.path.is_empty() => Some(Ok(entry)),
            Ok(_) => None,
            Err(error) => Some(Err(error)),
        }
    });
    let mut matched = std::pin::pin!(
        entries
            .map(|entry| async move {
                let entry = entry?;
                let matched = matches(args, store, &entry).await?;
                Ok::<_, StoreError>(matched.map(|meta| (entry, meta)))
            })
            .buffered(args.common.parallel.into())
    );
    let mut count = 0;
    while let Some(entry) = matched.next().await {
        if let Some((entry, meta)) = entry? {
            count += 1;
            found(args, source, prefix, &entry, meta.as_ref());
        }
    }
    Ok(count)
}

fn found(args: &FindArgs, source: &Source, prefix: &str, entry: &Entry, meta: Option<&ObjectMeta>) {
    let key = match entry.is_directory {
        true => format!("{prefix}{}/", entry.path),
        false => format!("{prefix}{}", entry.path),
    };
    if args.common.json {
        let shown = Shown {
            name: entry.name().to_owned(),
            key,
            is_directory: entry.is_directory,
            object: entry.object().cloned(),
        };
        print_json(&object(&shown, meta));
    } else {
        print_line(&shown(source, &key));
    }
}

/// Whether all conditions hold; with the headers, if they were needed.
async fn matches(
    args: &FindArgs,
    store: &Arc<dyn ObjectStore>,
    entry: &Entry,
) -> std::result::Result<Option<Option<ObjectMeta>>, StoreError> {
    let named = |pattern: &Option<String>, ignore_case| {
        let mut patterns = pattern.iter();
        patterns.all(|pattern| name_matches(pattern, entry.name(), ignore_case))
    };
    let has_size = |(bound, unit): (Bound, u64)| bound.holds(entry.size().div_ceil(unit));
    let listed = named(&args.name, false)
        && named(&args.iname, true)
        && args.size.is_none_or(has_size)
        && match args.kind {
            Some(Type::D) => entry.is_directory,
            Some(Type::F | Type::L) => !entry.is_directory,
            None => true,
        };
    let needs_kind = matches!(args.kind, Some(Type::F | Type::L));
    if !listed || !(needs_kind || args.mtime.is_some()) {
        return Ok(listed.then_some(None));
    }
    let Some(object) = entry.object() else {
        // A directory without a marker has no time of its own.
        return Ok(None);
    };
    let Ok(key) = ObjectKey::new(object.key.as_str()) else {
        return Ok(None);
    };
    let meta = match store.head(&key).await {
        Err(StoreError::NotFound) => return Ok(None),
        meta => meta?,
    };
    let attributes = Attributes::read(&meta, entry.is_directory);
    let kind = match args.kind {
        Some(Type::F) => attributes.kind == Kind::File,
        Some(Type::L) => attributes.kind == Kind::Symlink,
        _ => true,
    };
    let now = Timestamp::from_system(SystemTime::now()).seconds;
    let age = now.saturating_sub(attributes.mtime.seconds) / 86_400;
    let in_time = |bound: Bound| bound.holds(u64::try_from(age).unwrap_or(0));
    Ok((kind && args.mtime.is_none_or(in_time)).then_some(Some(meta)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_find() {
        for (text, bytes, holds) in [
            ("+1k", 1024, false),
            ("+1k", 1025, true),
            ("1k", 1, true),
            ("-1k", 0, true),
            ("-1k", 1, false),
            ("2", 600, true),
            ("100c", 100, true),
            ("+10M", 11 << 20, true),
            ("1G", (1 << 30) + 1, false),
        ] {
            let (bound, unit) = size(text).unwrap();
            assert_eq!(
                bound.holds(u64::div_ceil(bytes, unit)),
                holds,
                "{text} {bytes}"
            );
        }
        for text in ["", "+", "k", "1x", "+-1", "1.5k"] {
            assert!(size(text).is_err(), "{text}");
        }
        assert_eq!(days("+7"), Ok(Bound::MoreThan(7)));
        assert!(days("x").is_err());
    }

    #[test]
    fn permissions_are_written_as_ls_does() {
        for (mode, text) in [
            (0o644, "rw-r--r--"),
            (0o4755, "rwsr-xr-x"),
            (0o2644, "rw-r-Sr--"),
            (0o1777, "rwxrwxrwt"),
        ] {
            assert_eq!(permissions(mode), text);
        }
    }

    #[test]
    fn conditions_may_have_one_dash() {
        let typed = ["ossvault", "find", "oss://b", "-name", "-n", "--type", "f"];
        let typed = typed.map(std::ffi::OsString::from).to_vec();
        let wanted = ["ossvault", "find", "oss://b", "--name", "-n", "--type", "f"];
        assert_eq!(translate(typed), wanted.map(std::ffi::OsString::from));
        let other = ["ossvault", "ls", "-name"]
            .map(std::ffi::OsString::from)
            .to_vec();
        assert_eq!(translate(other.clone()), other);
    }
}
