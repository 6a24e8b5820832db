//! Small trees are listed whole: one request tells of all the directories in them.
//!
//! Directories that are in use together expire one after the other. Listed alone, each costs a request, and mostly a
//! round trip that a program waits for. So when one of them is listed anew, and is known to lie in a tree with few
//! names, the keys of the whole tree are requested, and every directory gets its share of the page.
//!
//! The same where many directories beside it were wanted within the lifetime, as git wants the 256 that its objects
//! are in: then some pages of keys are fewer requests than a listing for each.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use futures_util::future;

use super::directory_scan::ScanGuard;
use super::requests::Resolver;
use crate::fs::error::{Error, Result};
use crate::fs::namespace::inode::Ino;
use crate::fs::namespace::inode_hold::InodeHold;
use crate::fs::namespace::key_locks::{KeyGuard, Scope};
use crate::fs::namespace::planner::{self, Subtree};
use crate::store::object_store::{ListPage, ListRequest};

/// Directories that one request lists.
pub(crate) struct SubtreeScan {
    /// The first has all the others in it.
    pub directories: Vec<Ino>,
    /// How many pages their keys have at most; there may be a few more keys by now.
    pages: usize,
    /// Until it is dropped, their keys stay.
    _locked: KeyGuard,
    /// All of them but the one that was requested stay themselves as long as these do.
    pub holds: Vec<(Ino, InodeHold)>,
}

impl SubtreeScan {
    /// Lists the directories, for which a listing each has begun.
    pub(crate) async fn run(self, guards: Vec<ScanGuard>) {
        let Some(resolver) = guards.first().map(|guards| guards.resolver.clone()) else {
            return;
        };
        // To be ended with the namespace unlocked.
        let mut gone = Vec::new();
        let (top, asked) = {
            let mut namespace = resolver.names.lock();
            let top = namespace.key(self.directories[0]).unwrap_or_default();
            let ask = |guards: ScanGuard| {
                let prefix = namespace.key(guards.ino);
                match (prefix, namespace.directory(guards.ino)) {
                    (Some(prefix), Some(directory)) => {
                        Some((guards, prefix, directory.listing.begin()))
                    }
                    _ => {
                        gone.push(guards);
                        None
                    }
                }
            };
            let asked: Vec<_> = guards.into_iter().filter_map(ask).collect();
            (top, asked)
        };
        for guards in gone {
            guards.end(Err(Error::Stale));
        }
        match self.read_pages(&resolver, &top).await {
            Ok(Some(page)) => {
                let date = page.date;
                let prefixes = asked.iter().map(|(_, prefix, _)| prefix.as_str());
                let mut shares = split(page, &top, prefixes);
                for (guards, prefix, epoch) in asked {
                    let share = shares.remove(&prefix).unwrap_or_else(|| empty(date));
                    guards.end_with_page(share, &prefix, epoch);
                }
            }
            // Others have made more of it than was to be expected, or what cannot be told where it belongs.
            Ok(None) => {
                let alone = asked.into_iter().map(|(guards, _, epoch)| {
                    resolver.names.give_up(guards.ino, epoch);
                    guards.run(true)
                });
                future::join_all(alone).await;
            }
            Err(error) => {
                for (guards, _, epoch) in asked {
                    resolver.names.give_up(guards.ino, epoch);
                    guards.end(Err(error.clone()));
                }
            }
        }
    }

    /// All keys below `top`, as one page. None if there are more than so many pages tell.
    async fn read_pages(&self, resolver: &Resolver, top: &str) -> Result<Option<ListPage>> {
        let mut request = ListRequest {
            prefix: top.to_owned(),
            ..ListRequest::default()
        };
        let mut all: Option<ListPage> = None;
        for _ in 0..self.pages {
            let page = resolver.bucket.store().list(&request).await?;
            request.token = page.next.clone();
            match &mut all {
                Some(all) => {
                    all.objects.extend(page.objects);
                    all.hidden += page.hidden;
                }
                None => all = Some(page),
            }
            if request.token.is_none() {
                break;
            }
        }
        // Keys that are hidden may be any directory's: each listing tells of its own.
        Ok(all.filter(|all| request.token.is_none() && all.hidden == 0))
    }
}

fn empty(date: SystemTime) -> ListPage {
    ListPage {
        objects: Vec::new(),
        prefixes: Vec::new(),
        next: None,
        date,
        hidden: 0,
    }
}

/// Of a page of all keys that begin with `top`, what a delimited listing of each of these directories would show.
///
/// Of no others: a key of a thousand slashes tells of a thousand directories, with half a megabyte of names.
fn split<'a>(
    page: ListPage,
    top: &str,
    directories: impl Iterator<Item = &'a str>,
) -> HashMap<String, ListPage> {
    let mut shares: HashMap<String, ListPage> = directories
        .map(|prefix| (prefix.to_owned(), empty(page.date)))
        .collect();
    let longest = shares.keys().map(String::len).max().unwrap_or_default();
    let objects = page.objects.into_iter();
    for object in objects.filter(|object| object.key.starts_with(top)) {
        let mut len = top.len();
        while len <= longest {
            let share = shares.get_mut(&object.key[..len]);
            match (object.key[len..].find('/'), share) {
                (Some(more), share) => {
                    let below = &object.key[..=len + more];
                    // In order, as the keys are.
                    if let Some(share) = share
                        && share.prefixes.last().is_none_or(|last| last != below)
                    {
                        share.prefixes.push(below.to_owned());
                    }
                    len = below.len();
                }
                (None, Some(share)) => {
                    share.objects.push(object);
                    break;
                }
                (None, None) => break,
            }
        }
    }
    shares
}

impl Resolver {
    /// The subtree with this directory in it that is listed whole. None if it is not to be listed with others.
    pub(crate) fn subtree_with(self: &Arc<Self>, ino: Ino, now: Instant) -> Option<SubtreeScan> {
        let mut namespace = self.names.lock();
        if let Some(directory) = namespace.directory(ino) {
            directory.wanted = Some(now);
        }
        let Subtree { directories, pages } = planner::subtree_with(&mut namespace, ino, now)?;
        let keys = directories.iter().map(|&ino| namespace.key(ino));
        let scopes = keys
            .map(|key| key.map(Scope::Listing))
            .collect::<Option<_>>();
        // Not waited for: the caller may be renaming a directory in it.
        let locked = self.names.try_lock_keys(scopes?)?;
        let others = directories.iter().filter(|other| **other != ino);
        let holds =
            others.filter_map(|&other| Some((other, self.names.hold_in(&mut namespace, other)?)));
        Some(SubtreeScan {
            holds: holds.collect(),
            directories,
            pages,
            _locked: locked,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::object_store::{ETag, ListedObject};

    fn page(keys: &[&str]) -> ListPage {
        let objects = keys.iter().map(|key| ListedObject {
            key: (*key).into(),
            size: 1,
            etag: ETag::new("tag"),
            last_modified: SystemTime::UNIX_EPOCH,
            storage_class: String::new(),
        });
        ListPage {
            objects: objects.collect(),
            ..empty(SystemTime::UNIX_EPOCH)
        }
    }

    /// What the service answers for a delimiter `/`.
    fn delimited<'a>(keys: &[&'a str], folder: &str) -> (Vec<&'a str>, Vec<&'a str>) {
        let (mut objects, mut prefixes) = (Vec::new(), Vec::new());
        for key in keys {
            let Some(rest) = key.strip_prefix(folder) else {
                continue;
            };
            match rest.find('/') {
                None => objects.push(*key),
                Some(at) => prefixes.push(&key[..=folder.len() + at]),
            }
        }
        prefixes.dedup();
        (objects, prefixes)
    }

    #[test]
    fn a_share_is_what_a_delimited_listing_shows() {
        let trees: [(&str, &[&str]); 5] = [
            ("", &["a", "a/", "a/b/c/d", "a/b/c/e", "a/f", "b", "c/d"]),
            (
                "t/",
                &["t/", "t/a/", "t/a/x", "t/b", "t/b-", "t/b/", "t/b0/y"],
            ),
            ("t/", &["t//", "t//a", "t/a//", "t/a//b", "t/ü/é"]),
            // What was not requested.
            ("t/", &["", "s/t/a", "tü", "t/a", "u"]),
            ("t/", &[]),
        ];
        for (top, keys) in trees {
            let folders = keys
                .iter()
                .flat_map(|key| key.match_indices('/').map(|(at, _)| &key[..=at]));
            let folders = folders.filter(|folder| folder.starts_with(top));
            let folders: Vec<&str> = folders.chain([top]).collect();
            let shares = split(page(keys), top, folders.iter().copied());
            for folder in folders {
                let share = &shares[folder];
                let objects = share.objects.iter().map(|object| &*object.key).collect();
                let prefixes = share.prefixes.iter().map(|prefix| &**prefix).collect();
                let found: (Vec<_>, Vec<_>) = (objects, prefixes);
                assert_eq!(found, delimited(keys, folder), "{folder} of {keys:?}");
            }
        }
    }

    /// A page of them told of a million directories, and took more than a gigabyte to say so.
    #[test]
    fn a_key_of_a_thousand_slashes_is_no_directory_s_but_those_that_are_listed() {
        let slashes = "/".repeat(1000);
        let keys: Vec<String> = (0..1000).map(|i| format!("t/{i:04}{slashes}x")).collect();
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        let shares = split(page(&keys), "t/", ["t/", "t/0001/", "t/a/"].into_iter());
        assert_eq!(shares.len(), 3);
        assert_eq!(shares["t/"].prefixes.len(), 1000);
        assert_eq!(shares["t/0001/"].prefixes, ["t/0001//"]);
        assert_eq!(shares["t/a/"].prefixes, Vec::<String>::new());
        assert!(shares.values().all(|share| share.objects.is_empty()));
    }
}
