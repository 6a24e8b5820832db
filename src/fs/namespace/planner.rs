//! What is requested before it is wanted: a pure policy. Lookups go in, requests come out; the resolver sends them.
//!
//! Each of these saves round trips that a program would wait for, without more requests than it would cause itself:
//!
//! | request | when | what it buys |
//! |---|---|---|
//! | the listing of a directory, once more | its names are looked up, and it is about to expire | no lookup waits for the next listing |
//! | listings of the directories below | a name has to be requested, and led to directories that have expired as well | one round trip for a path, not one for each directory in it |
//! | headers of the files that follow | a program looks at one file after another | as many at once as the [access pattern](AccessPattern) earns |
//! | attributes and names of the directories that follow | a program goes into one directory after another | the same for `find` and `du` |
//! | one listing of a whole subtree | directories that are in use together expire one after the other | one request for all of them, where their keys fill few pages |
//! | the body of a small file, with its headers | files are opened after their lookup | GET instead of HEAD and GET |
//!
//! What brings in more than it costs is measured while it is done: see `access_pattern`. What is kept for programs that
//! may come for it is bounded (`resolver/prefetch`).

use std::time::{Duration, Instant};

use super::access_pattern::{AccessPattern, Step};
use super::entry::{Entry, Object};
use super::inode::{Directory, Ino};
use super::inode_order;
use super::object_name::Name;
use super::tree::Namespace;

/// As deep as paths are followed down.
const DEEP: usize = 16;
/// So many names may be known in a tree that is listed whole: half a page, for there may be more by now.
const FEW: usize = 500;
/// A tree of more names is not listed whole, however busy it is.
const MANY: usize = 4000;
/// Of a tree whose directories are busy, so many must be wanted for each page that it takes.
const WORTH: usize = 4;
/// Keys in a page.
const PAGE: usize = 1000;
/// A directory that was not wanted for so many lifetimes of what is known is not in use.
const IN_USE: u32 = 10;
/// Objects up to this many bytes are fetched whole where they are looked up to be read.
pub const SMALL: u64 = 64 << 10;

/// A request that is worth sending now.
#[derive(Debug)]
pub enum Request {
    /// List the directory: the whole of it, or its first page.
    List { directory: Ino, whole: bool },
    /// The headers of a file, with its body where [`wants_body`] says so.
    Headers {
        parent: Ino,
        name: Name,
        object: Object,
    },
    /// The attributes of a directory, and its names.
    Directory {
        parent: Ino,
        name: Name,
        directory: Ino,
    },
}

/// A lookup of a name that is there.
#[derive(Clone, Copy, Debug)]
pub struct Looked<'a> {
    pub parent: Ino,
    pub name: &'a str,
    pub is_directory: bool,
    /// It was answered from memory. Otherwise it is about to be requested.
    pub cached: bool,
}

/// A name was looked up: what is likely to be looked up next. Of directories, `room` more may be prefetched.
pub fn after_lookup(
    namespace: &mut Namespace,
    looked: Looked<'_>,
    room: usize,
    now: Instant,
) -> Vec<Request> {
    match looked.is_directory {
        true if room == 0 => Vec::new(),
        true => directories_ahead(namespace, looked, room, now),
        false => files_ahead(namespace, looked, now),
    }
}

/// A lookup in the directory was answered from memory: the listing is renewed before it expires.
pub fn refresh(namespace: &mut Namespace, parent: Ino, now: Instant) -> Option<Request> {
    let ttl = namespace.ttl();
    let directory = namespace.directory(parent)?;
    let sequential = directory.pattern.is_sequential(ttl.objects, now);
    let freshness = &directory.listing.freshness;
    let due = freshness.wants_refreshing(ttl, sequential, now);
    due.then_some(Request::List {
        directory: parent,
        whole: true,
    })
}

/// Resolving the name needs a request. If it is a directory whose listing has expired, that is listed in parallel,
/// along with those below through which the last paths led.
pub fn beside_request(
    namespace: &mut Namespace,
    parent: Ino,
    name: &str,
    start: Instant,
) -> Vec<Request> {
    let ttl = namespace.ttl();
    let mut stale = Vec::new();
    let mut next = namespace.child(parent, name);
    for _ in 0..DEEP {
        let Some(ino) = next else { break };
        let Some(directory) = namespace.directory(ino) else {
            break;
        };
        if directory.listing.freshness.is_stale_page(ttl, start) {
            stale.push(Request::List {
                directory: ino,
                whole: false,
            });
        }
        let below = directory
            .pattern
            .last_child_dir(ttl.objects, start)
            .cloned();
        next = below.and_then(|name| namespace.child(ino, &name));
    }
    stale
}

/// Whether the body of a small file is likely to be wanted along with its headers.
pub fn wants_body(pattern: &AccessPattern, object: &Object) -> bool {
    pattern.expects_opens() && (1..=SMALL).contains(&object.size)
}

fn files_ahead(namespace: &mut Namespace, looked: Looked<'_>, now: Instant) -> Vec<Request> {
    let Looked {
        parent,
        name,
        cached,
        ..
    } = looked;
    let ttl = namespace.ttl();
    let ino = namespace.ino_of_child(parent, name);
    // Numbering takes the directory's key, which other lookups need not have.
    let pattern = namespace
        .directory(parent)
        .map(|directory| &directory.pattern);
    let by_inode = pattern.is_some_and(|pattern| pattern.files.is_by_inode());
    let number = by_inode.then(|| namespace.numbers_children(parent));
    let Some(directory) = namespace.directory(parent) else {
        return Vec::new();
    };
    let previous = directory.pattern.files.previous();
    let is_file = |entry: &Entry| matches!(entry, Entry::Object(_));
    let step = Step {
        name,
        requested: !cached,
        follows: directory.listing.follows(name, previous, is_file),
        ino: ino.0,
    };
    let Some(distance) = directory.pattern.on_file_lookup(step, ttl.objects, now) else {
        return Vec::new();
    };
    let listing = &directory.listing;
    let next = if let Some(number) = number
        && directory.pattern.files.is_by_inode()
    {
        let plan = |after| {
            let files = listing.names().filter(|(_, entry)| is_file(entry));
            let numbered = files.map(|(name, _)| (number(name).0, name.clone()));
            inode_order::plan(numbered, after)
        };
        let wanted = |name: &Name| {
            let entry = listing.fresh_entry(name, ttl.objects, now)?;
            without_headers(entry).cloned()
        };
        directory
            .pattern
            .files
            .probe_by_inode(distance, plan, wanted)
    } else {
        let following = listing.fresh_after(name, ttl.objects, now);
        let following = following.map(|(name, entry)| (name, without_headers(entry)));
        directory.pattern.files.probe(name, distance, following)
    };
    let headers = |(name, object)| Request::Headers {
        parent,
        name,
        object,
    };
    next.into_iter().map(headers).collect()
}

fn directories_ahead(
    namespace: &mut Namespace,
    looked: Looked<'_>,
    room: usize,
    now: Instant,
) -> Vec<Request> {
    let Looked {
        parent,
        name,
        cached,
        ..
    } = looked;
    let ttl = namespace.ttl();
    let ino = namespace.ino_of_child(parent, name);
    let Some(directory) = namespace.directory(parent) else {
        return Vec::new();
    };
    let previous = directory.pattern.directories.previous();
    let is_directory = |entry: &Entry| matches!(entry, Entry::Directory);
    let step = Step {
        name,
        requested: !cached,
        follows: directory.listing.follows(name, previous, is_directory),
        ino: ino.0,
    };
    let pattern = &mut directory.pattern;
    let Some(distance) = pattern.on_directory_lookup(step, ttl.objects, now) else {
        return Vec::new();
    };
    let distance = distance.min(u32::try_from(room).unwrap_or(u32::MAX));
    let following = directory
        .listing
        .fresh_after(name, ttl.of_directories(), now);
    let following = following
        .filter(|(_, entry)| is_directory(entry))
        .map(|(name, _)| (name, Some(&())));
    let next = pattern.directories.probe(name, distance, following);
    let request = |(name, ()): (Name, ())| Request::Directory {
        directory: namespace.node_for(parent, &name, true),
        parent,
        name,
    };
    next.into_iter().map(request).collect()
}

/// An object of which only the listing has told.
fn without_headers(entry: &Entry) -> Option<&Object> {
    match entry {
        Entry::Object(object) if object.known.is_none() => Some(object),
        _ => None,
    }
}

// ---- how much one listing covers ----

/// Directories that one listing of keys tells of.
#[derive(Debug)]
pub struct Subtree {
    /// The first has all the others in it.
    pub directories: Vec<Ino>,
    /// How many pages their keys have at most; there may be a few more keys by now.
    pub pages: usize,
}

/// The largest subtree with this directory in it that is worth listing whole. None if the directory is to be listed
/// alone.
pub fn subtree_with(namespace: &mut Namespace, ino: Ino, now: Instant) -> Option<Subtree> {
    let ttl = namespace.ttl().objects;
    let lately = ttl.saturating_mul(IN_USE);
    let few = largest(namespace, ino, lately, now);
    let (directories, pages) = match few {
        Some(directories) => (directories, 1),
        None => busy(namespace, ino, ttl, now)?,
    };
    Some(Subtree { directories, pages })
}

/// The directories of the largest tree of few names, all of them known and in use, that has `ino` in it.
fn largest(
    namespace: &mut Namespace,
    ino: Ino,
    lately: Duration,
    now: Instant,
) -> Option<Vec<Ino>> {
    let in_use = |directory: &Directory| {
        let wanted = directory.wanted;
        wanted.is_some_and(|wanted| now.saturating_duration_since(wanted) < lately)
    };
    let mut tree = None;
    let mut top = Some(ino);
    while let Some(at) = top {
        let Some((larger, _)) = known_tree(namespace, at, FEW, in_use) else {
            break;
        };
        tree = Some(larger);
        top = namespace.place(at).map(|(parent, _)| parent);
    }
    tree.filter(|tree| tree.len() > 1)
}

/// The directories of the tree above `ino`, and how many pages they take, if so many of them were wanted within
/// the lifetime that listing all is worth it.
fn busy(
    namespace: &mut Namespace,
    ino: Ino,
    ttl: Duration,
    now: Instant,
) -> Option<(Vec<Ino>, usize)> {
    let (parent, _) = namespace.place(ino)?;
    let wanted = namespace.directories_wanted(parent, ttl, now);
    if wanted < WORTH {
        return None;
    }
    let (tree, names) = known_tree(namespace, parent, MANY, |_| true)?;
    let pages = names / PAGE + 1;
    (wanted >= WORTH * pages).then_some((tree, pages + 1))
}

/// The directories of the tree below `top`, and how many names are in them, if all are known and `wanted`, and
/// they have no more than `most` names.
fn known_tree(
    namespace: &mut Namespace,
    top: Ino,
    most: usize,
    wanted: impl Fn(&Directory) -> bool,
) -> Option<(Vec<Ino>, usize)> {
    let mut directories = vec![top];
    let mut names = 0;
    let mut at = 0;
    while let Some(&ino) = directories.get(at) {
        let directory = namespace.directory(ino)?;
        let known = directory.listing.freshness.complete.is_some()
            && directory.listing.freshness.is_one_page();
        names += directory.listing.len();
        if !known || !wanted(directory) || names > most {
            return None;
        }
        let entries = directory.listing.names();
        let below = entries.filter(|(_, entry)| matches!(entry, Entry::Directory));
        let below: Vec<_> = below.map(|(name, _)| name.clone()).collect();
        for name in below {
            directories.push(namespace.child(ino, &name)?);
        }
        at += 1;
    }
    Some((directories, names))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::attributes::Defaults;
    use crate::fs::namespace::freshness::Ttl;
    use crate::fs::namespace::listing::Listing;
    use crate::store::object_store::ETag;

    const LATELY: Duration = Duration::from_secs(10);

    /// A namespace of directories with so many files each.
    struct KnownTree(Namespace, Instant);

    impl KnownTree {
        fn new(directories: &[(&str, usize)]) -> KnownTree {
            let ttl = Ttl {
                objects: Duration::from_secs(1),
                directories: Duration::from_secs(1),
            };
            let defaults = Defaults {
                uid: 0,
                gid: 0,
                file_mode: 0o644,
                dir_mode: 0o755,
            };
            let mut tree = KnownTree(Namespace::new(String::new(), ttl, defaults), Instant::now());
            for (path, files) in directories {
                let (above, name) = path.rsplit_once('/').unwrap_or(("", path));
                let now = tree.1;
                let mut ino = Ino::ROOT;
                if !path.is_empty() {
                    let above = tree.find(above);
                    ino = tree.0.node_for(above, name, true);
                    let listing = &mut tree.directory(above).listing;
                    listing.put(&Name::from(name), Entry::Directory, now);
                }
                let directory = tree.0.directory(ino).unwrap();
                directory.listing = Listing::of_new_directory(&Listing::default(), now);
                directory.wanted = Some(now);
                for file in 0..*files {
                    let object = Object {
                        size: 1,
                        etag: ETag::new("tag"),
                        last_modified: 0,
                        uploaded_here: false,
                        known: None,
                    };
                    let name = Name::from(format!("file-{file}"));
                    directory.listing.put(&name, Entry::Object(object), now);
                }
            }
            tree
        }

        fn find(&self, path: &str) -> Ino {
            let names = path.split('/').filter(|name| !name.is_empty());
            names.fold(Ino::ROOT, |at, name| self.0.child(at, name).unwrap())
        }

        fn directory(&mut self, ino: Ino) -> &mut Directory {
            self.0.directory(ino).unwrap()
        }

        #[track_caller]
        fn assert_lists(&mut self, path: &str, expected: &[&str]) {
            let ino = self.find(path);
            let found = largest(&mut self.0, ino, LATELY, self.1);
            let expected: Vec<_> = expected.iter().map(|path| self.find(path)).collect();
            let mut found = found.unwrap_or_default();
            assert_eq!(found.first(), expected.first(), "{path}");
            found.sort_unstable();
            let mut expected = expected;
            expected.sort_unstable();
            assert_eq!(found, expected, "{path}");
        }
    }

    #[test]
    fn a_tree_is_as_large_as_it_can_be_with_few_names_in_it() {
        let sizes = [
            ("", 3),
            ("a", 400),
            ("t", 2),
            ("t/b", 200),
            ("t/b/c", 10),
            ("u", 100),
        ];
        let mut tree = KnownTree::new(&sizes);
        tree.assert_lists("t/b/c", &["t", "t/b", "t/b/c"]);
        tree.assert_lists("t", &["t", "t/b", "t/b/c"]);
        tree.assert_lists("a", &[]);
        tree.assert_lists("u", &[]);
        tree.assert_lists("", &[]);
    }

    #[test]
    fn what_is_not_known_whole_or_not_in_use_is_no_part_of_a_tree() {
        let sizes = [("", 1), ("t", 2), ("t/b", 2), ("t/c", 2)];
        let mut tree = KnownTree::new(&sizes);
        tree.assert_lists("t/c", &["", "t", "t/b", "t/c"]);
        tree.1 += LATELY / 2;
        let (root, t, b, c) = (
            Ino::ROOT,
            tree.find("t"),
            tree.find("t/b"),
            tree.find("t/c"),
        );
        let now = tree.1;
        for ino in [t, b, c] {
            tree.directory(ino).wanted = Some(now);
        }
        tree.1 += LATELY / 2;
        tree.assert_lists("t/c", &["t", "t/b", "t/c"]);
        tree.directory(root).wanted = Some(now);
        tree.directory(b).listing.expire();
        tree.assert_lists("t/c", &[]);
        let mut tree = KnownTree::new(&sizes);
        tree.directory(t)
            .listing
            .put(&Name::from("other"), Entry::Directory, now);
        tree.assert_lists("t/c", &[]);
    }

    /// The paths that are to be listed, and whether whole.
    fn listed(requests: impl IntoIterator<Item = Request>) -> Vec<(Ino, bool)> {
        let of = |request| match request {
            Request::List { directory, whole } => (directory, whole),
            other => panic!("{other:?}"),
        };
        requests.into_iter().map(of).collect()
    }

    #[test]
    fn a_request_for_a_name_takes_the_expired_listings_of_its_path_along() {
        let mut tree = KnownTree::new(&[("", 1), ("t", 1), ("t/b", 1), ("t/b/c", 1)]);
        let (ttl, now) = (tree.0.ttl().objects, tree.1);
        let (t, b, c) = (tree.find("t"), tree.find("t/b"), tree.find("t/b/c"));
        for (directory, name) in [(t, "b"), (b, "c")] {
            let step = Step {
                name,
                requested: true,
                follows: false,
                ino: 0,
            };
            let pattern = &mut tree.directory(directory).pattern;
            pattern.on_directory_lookup(step, ttl, now);
        }
        for (age, expected) in [
            (0, vec![]),
            (2, vec![(t, false), (b, false), (c, false)]),
            // Too long ago for the path to be followed down.
            (4, vec![(t, false)]),
        ] {
            let requests = beside_request(&mut tree.0, Ino::ROOT, "t", now + age * ttl);
            assert_eq!(listed(requests), expected, "{age}");
        }
    }

    #[test]
    fn a_listing_is_requested_once_more_before_it_expires() {
        let mut tree = KnownTree::new(&[("", 1)]);
        tree.directory(Ino::ROOT).listing.freshness.took = Duration::from_millis(100);
        for (age, due) in [(500, false), (900, true), (1100, false)] {
            let now = tree.1 + Duration::from_millis(age);
            let request = refresh(&mut tree.0, Ino::ROOT, now);
            let expected = if due { vec![(Ino::ROOT, true)] } else { vec![] };
            assert_eq!(listed(request), expected, "{age}");
        }
    }

    #[test]
    fn what_a_walk_is_likely_to_look_up_next_is_requested_once() {
        let directories = [("", 9), ("a", 0), ("b", 0), ("c", 0), ("d", 0)];
        let mut tree = KnownTree::new(&directories);
        let now = tree.1;
        let looked = |name, is_directory| Looked {
            parent: Ino::ROOT,
            name,
            is_directory,
            cached: false,
        };
        tree.directory(Ino::ROOT).pattern.begin_reading(now);
        let mut names = Vec::new();
        for name in ["file-0", "file-1"] {
            for request in after_lookup(&mut tree.0, looked(name, false), 0, now) {
                match request {
                    Request::Headers { name, .. } => names.push(name.to_string()),
                    other => panic!("{other:?}"),
                }
            }
        }
        let expected: Vec<_> = (1..9).map(|file| format!("file-{file}")).collect();
        assert_eq!(names, expected);
        let none = after_lookup(&mut tree.0, looked("a", true), 0, now);
        assert!(none.is_empty(), "there is no room");
        let none = after_lookup(&mut tree.0, looked("a", true), 2, now);
        assert!(none.is_empty(), "the walker's pace is not known yet");
        let later = now + Duration::from_millis(1);
        let some = after_lookup(&mut tree.0, looked("b", true), 2, later);
        assert_eq!(some.len(), 2, "{some:?}");
    }

    #[test]
    fn only_small_bodies_come_with_their_headers() {
        let pattern = AccessPattern::default();
        for (size, expected) in [(0, false), (1, true), (SMALL, true), (SMALL + 1, false)] {
            let object = Object {
                size,
                etag: ETag::new("tag"),
                last_modified: 0,
                uploaded_here: false,
                known: None,
            };
            assert_eq!(wants_body(&pattern, &object), expected, "{size}");
        }
    }
}
