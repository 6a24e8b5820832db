//! Walks both kinds of trees in the byte order of keys, where a directory sorts as its name followed by `/`, and passes
//! on what the filter includes. Neither is ever in memory as a whole: a bucket is listed page by page, a local tree is
//! read folder by folder.

use std::io;
use std::sync::Arc;

use tokio::sync::mpsc;

use super::entry::{Entry, Item, Node, finding};
use super::filter::Filter;
use super::folder::Folder;
use crate::base::error_chain::chain;
use crate::encrypted::reserved::{RESERVED, is_reserved};
use crate::files::attributes::Kind;
use crate::files::name::is_component;
use crate::store::error::Error as StoreError;
use crate::store::object_store::{ListRequest, ListedObject, ObjectStore};
use crate::tools::finding::Grade;

/// Objects that wait to be processed: a page of a listing.
const LISTED_AHEAD: usize = 1000;

/// Local files that wait to be processed. Each may keep a folder open.
const READ_AHEAD: usize = 128;

pub(crate) type Items = mpsc::Receiver<Result<Item, StoreError>>;

/// Everything below a prefix, which is empty or ends with `/`.
pub(crate) fn bucket(store: Arc<dyn ObjectStore>, prefix: String, filter: Arc<Filter>) -> Items {
    let (sender, receiver) = mpsc::channel(LISTED_AHEAD);
    tokio::spawn(async move {
        let mut request = ListRequest {
            prefix: prefix.clone(),
            ..ListRequest::default()
        };
        let mut keys = Keys::new(prefix, filter);
        loop {
            let page = match store.list(&request).await {
                Ok(page) => page,
                Err(error) => {
                    let _ = sender.send(Err(error)).await;
                    return;
                }
            };
            for object in page.objects {
                for item in keys.next(object) {
                    if sender.send(Ok(item)).await.is_err() {
                        return;
                    }
                }
            }
            match page.next {
                None => return,
                token => request.token = token,
            }
        }
    });
    receiver
}

/// As [`bucket`], with what a mount of the whole bucket stores of its root, which is not where the others are.
///
/// # Errors
/// The store's.
pub(crate) async fn bucket_with_root(
    store: Arc<dyn ObjectStore>,
    prefix: String,
    filter: Arc<Filter>,
) -> Result<Items, StoreError> {
    if !prefix.is_empty() {
        return Ok(bucket(store, prefix, filter));
    }
    let key = format!("{RESERVED}/root");
    let request = ListRequest {
        prefix: key.clone(),
        max_keys: 1,
        ..ListRequest::default()
    };
    let page = store.list(&request).await?;
    let root = page.objects.into_iter().find(|object| object.key == key);
    let mut rest = bucket(store, prefix, filter);
    let Some(root) = root else {
        return Ok(rest);
    };
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        let root = Item::Entry(Entry {
            path: String::new(),
            is_directory: true,
            node: Node::Object(root),
            known: None,
        });
        let mut next = Some(Ok(root));
        while let Some(item) = next {
            if sender.send(item).await.is_err() {
                return;
            }
            next = rest.recv().await;
        }
    });
    Ok(receiver)
}

/// Turns a flat listing into the entries of a tree. Pure.
struct Keys {
    prefix: String,
    filter: Arc<Filter>,
    /// The directory of the entry before, with a trailing `/`; empty for the root.
    inside: String,
    /// With a trailing `/`: nothing below it is included.
    excluded: Option<String>,
}

impl Keys {
    fn new(prefix: String, filter: Arc<Filter>) -> Keys {
        Keys {
            prefix,
            filter,
            inside: String::new(),
            excluded: None,
        }
    }

    fn next(&mut self, object: ListedObject) -> Vec<Item> {
        let Some(path) = object.key.strip_prefix(self.prefix.as_str()) else {
            return Vec::new();
        };
        if is_reserved(&object.key, &self.prefix) || is_reserved(&object.key, "") {
            return Vec::new();
        }
        if path.is_empty() {
            return vec![Item::Entry(Entry {
                path: String::new(),
                is_directory: true,
                node: Node::Object(object),
                known: None,
            })];
        }
        let (path, is_directory) = match path.strip_suffix('/') {
            Some(path) => (path.to_owned(), true),
            None => (path.to_owned(), false),
        };
        if !path.split('/').all(is_component) || (is_directory && object.size > 0) {
            let found = finding(object.key, object.size, Grade::Left, "hidden");
            return vec![Item::Finding(found.detail("no file can have this name"))];
        }
        if self.is_excluded(&path) {
            return Vec::new();
        }
        let mut items = Vec::new();
        let parent = path.rfind('/').map_or("", |at| &path[..=at]);
        // The directories that the entry before was not in.
        let ends = parent.match_indices('/').map(|(at, _)| at);
        for end in ends.collect::<Vec<_>>() {
            let directory = &path[..end];
            if self.inside.starts_with(&path[..=end]) {
                continue;
            }
            if !self.filter.includes(directory, true) {
                self.excluded = Some(path[..=end].to_owned());
                return items;
            }
            self.inside = path[..=end].to_owned();
            items.push(Item::Entry(Entry {
                path: directory.to_owned(),
                is_directory: true,
                node: Node::Implied,
                known: None,
            }));
        }
        self.inside = parent.to_owned();
        if !self.filter.includes(&path, is_directory) {
            if is_directory {
                self.excluded = Some(format!("{path}/"));
            }
            return items;
        }
        if is_directory {
            self.inside = format!("{path}/");
        }
        items.push(Item::Entry(Entry {
            path,
            is_directory,
            node: Node::Object(object),
            known: None,
        }));
        items
    }

    fn is_excluded(&self, path: &str) -> bool {
        let mut excluded = self.excluded.iter();
        excluded.any(|excluded| path.starts_with(excluded.as_str()))
    }
}

/// A tree of this machine. The root itself comes first. Where a mount's root would be, the name of its own directory
/// is reserved.
pub(crate) fn local(root: Folder, filter: Arc<Filter>) -> Items {
    let (sender, receiver) = mpsc::channel(READ_AHEAD);
    tokio::task::spawn_blocking(move || {
        for item in Tree::new(root, filter) {
            if sender.blocking_send(Ok(item)).is_err() {
                return;
            }
        }
    });
    receiver
}

/// Nothing.
pub(crate) fn nothing() -> Items {
    mpsc::channel(1).1
}

struct Tree {
    filter: Arc<Filter>,
    /// Items that are known and come before anything else.
    ready: Vec<Item>,
    /// The entries of each open folder that are left, the last first.
    open: Vec<(Arc<Folder>, Vec<Entry>)>,
}

impl Tree {
    fn new(root: Folder, filter: Arc<Filter>) -> Tree {
        let mut tree = Tree {
            filter,
            ready: Vec::new(),
            open: Vec::new(),
        };
        match root.stat_self() {
            Ok(stat) => {
                let entry = Entry {
                    path: String::new(),
                    is_directory: true,
                    node: Node::Local(None, stat),
                    known: None,
                };
                tree.enter(Arc::new(root), "");
                // Before what was found on the way in.
                tree.ready.push(Item::Entry(entry));
            }
            Err(error) => tree.unreadable("", &root, &error),
        }
        tree
    }

    /// Reads a folder's names.
    fn enter(&mut self, folder: Arc<Folder>, path: &str) {
        let names = match folder.names() {
            Ok(names) => names,
            Err(error) => return self.unreadable(path, &folder, &error),
        };
        let mut entries = Vec::new();
        for name in names {
            let full = folder.path().join(&name);
            let refuse = |outcome, why: &str| {
                let shown = full.display().to_string();
                Item::Finding(finding(shown, 0, Grade::Bad, outcome).detail(why))
            };
            let Some(text) = name.to_str() else {
                self.ready
                    .push(refuse("not-utf8", "a key cannot hold its name"));
                continue;
            };
            if path.is_empty() && text == RESERVED {
                self.ready
                    .push(refuse("reserved", "the name is reserved for mounts"));
                continue;
            }
            let below = match path {
                "" => text.to_owned(),
                path => format!("{path}/{text}"),
            };
            match folder.stat(&name) {
                Ok(stat) => {
                    let is_directory = stat.kind == Kind::Directory;
                    if self.filter.includes(&below, is_directory) {
                        entries.push(Entry {
                            path: below,
                            is_directory,
                            node: Node::Local(Some(folder.clone()), stat),
                            known: None,
                        });
                    }
                }
                // Gone since it was listed.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => self.ready.push(refuse("unreadable", &chain(&error))),
            }
        }
        let place = |entry: &Entry| super::join::sort_key(&entry.path, entry.is_directory);
        entries.sort_by_cached_key(|entry| std::cmp::Reverse(place(entry)));
        self.open.push((folder, entries));
    }

    fn unreadable(&mut self, path: &str, folder: &Folder, error: &io::Error) {
        let shown = folder.path().display().to_string();
        let found = finding(shown, 0, Grade::Bad, "unreadable").detail(chain(error));
        self.ready.push(Item::Unreadable(path.to_owned(), found));
    }
}

impl Iterator for Tree {
    type Item = Item;

    fn next(&mut self) -> Option<Item> {
        loop {
            if let Some(item) = self.ready.pop() {
                return Some(item);
            }
            let (folder, entries) = self.open.last_mut()?;
            let Some(entry) = entries.pop() else {
                self.open.pop();
                continue;
            };
            if entry.is_directory {
                match folder.child(entry.name().as_ref()) {
                    Ok(child) => self.enter(Arc::new(child), &entry.path),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => {
                        let shown = folder.path().join(entry.name()).display().to_string();
                        let found =
                            finding(shown, 0, Grade::Bad, "unreadable").detail(chain(&error));
                        let path = entry.path.clone();
                        self.ready.push(Item::Unreadable(path, found));
                    }
                }
            }
            return Some(Item::Entry(entry));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::store::object_store::ETag;

    fn listed(key: &str, size: u64) -> ListedObject {
        ListedObject {
            key: key.to_owned(),
            size,
            etag: ETag::new("\"1\""),
            last_modified: UNIX_EPOCH,
            storage_class: String::new(),
        }
    }

    fn shown(item: &Item) -> String {
        match item {
            Item::Entry(entry) => {
                let kind = match entry.node {
                    Node::Implied => " implied",
                    _ => "",
                };
                let path = super::super::join::sort_key(&entry.path, entry.is_directory);
                format!("{path}{kind}")
            }
            Item::Finding(found) => format!("{} {}", found.outcome, found.key),
            Item::Unreadable(path, _) => format!("unreadable {path}"),
        }
    }

    #[test]
    fn a_listing_becomes_a_tree() {
        let mut filter = Filter::default();
        filter.add_pattern(false, "no/").unwrap();
        filter.add_pattern(false, "*.o").unwrap();
        let mut keys = Keys::new("p/".to_owned(), Arc::new(filter));
        let mut found = Vec::new();
        for (key, size) in [
            ("p/", 0),
            ("p/.ossvault/rename-1", 9),
            ("p/a", 1),
            ("p/a//b", 1),
            ("p/a/../b", 1),
            ("p/a/b.o", 1),
            ("p/a/c", 1),
            ("p/a/d/e/f", 1),
            ("p/d/", 0),
            ("p/d/x", 1),
            ("p/d2/", 7),
            ("p/no/", 0),
            ("p/no/x", 1),
            ("p/no2/no/x", 1),
            ("p/z", 1),
            // Not what was asked for.
            ("q", 1),
        ] {
            found.extend(keys.next(listed(key, size)).iter().map(shown));
        }
        assert_eq!(
            found,
            [
                "/",
                "a",
                "hidden p/a//b",
                "hidden p/a/../b",
                "a/ implied",
                "a/c",
                "a/d/ implied",
                "a/d/e/ implied",
                "a/d/e/f",
                "d/",
                "d/x",
                "hidden p/d2/",
                "no2/ implied",
                "z",
            ]
        );
    }

    #[test]
    fn a_local_tree_is_walked_in_the_order_of_its_keys() {
        let folder = tempfile::tempdir().unwrap();
        let mut wanted = ["a/b", "a/b.c/d", "a-", "a.b", "a0", "b/", "z/y/x"].map(str::to_owned);
        for path in &wanted {
            let full = folder.path().join(path);
            if path.ends_with('/') {
                fs::create_dir_all(full).unwrap();
            } else {
                fs::create_dir_all(full.parent().unwrap()).unwrap();
                fs::write(full, path).unwrap();
            }
        }
        fs::create_dir(folder.path().join(".ossvault")).unwrap();
        let tree = Tree::new(Folder::open(folder.path()).unwrap(), Arc::default());
        let found: Vec<String> = tree.map(|item| shown(&item)).collect();
        assert_eq!(found[0], "/");
        assert!(found[1].starts_with("reserved "), "{found:?}");
        let files: Vec<&String> = found[2..]
            .iter()
            .filter(|path| wanted.contains(path))
            .collect();
        wanted.sort();
        assert_eq!(files, wanted.iter().collect::<Vec<_>>());
        let mut sorted = found[2..].to_vec();
        sorted.sort();
        assert_eq!(found[2..], sorted);
    }
}
