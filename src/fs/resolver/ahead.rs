//! Asking ahead of whoever walks through directories: what is asked here would be asked a round trip later.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::requests::Resolver;
use crate::base::sync::lock;
use crate::fs::namespace::entry::{Entry, Object};
use crate::fs::namespace::inode::Ino;
use crate::fs::namespace::inode_order;
use crate::fs::namespace::object_name::Name;
use crate::fs::namespace::tree::CachedLookup;
use crate::fs::namespace::walk::Step;
use crate::fs::supervisor::contained;

/// As deep as paths are followed down.
const DEEP: usize = 16;
/// How long directories are kept that were asked ahead and nobody came for.
const LONGEST_KEPT: Duration = Duration::from_secs(10);
/// And how many of them at most.
const MOST_KEPT: usize = 4096;

impl Resolver {
    /// Lists a directory anew in which names are looked up, before what is known of it expires.
    pub(crate) fn refresh_ahead(self: &Arc<Self>, parent: Ino) {
        let now = Instant::now();
        let wanted = {
            let mut namespace = self.names.lock();
            let ttl = namespace.ttl();
            let directory = namespace.directory(parent);
            directory.is_some_and(|directory| {
                let walked = directory.walk.goes_on(ttl.objects, now);
                directory
                    .listing
                    .freshness
                    .wants_refreshing(ttl, walked, now)
            })
        };
        if wanted {
            self.list(parent, true, now);
        }
    }

    /// Where something must be asked to find a name, and the name was a directory of which too little is known as
    /// well, both are listed at once, and what of late was below it.
    pub(crate) fn refresh_path(self: &Arc<Self>, parent: Ino, name: &str, start: Instant) {
        let mut stale = Vec::new();
        {
            let mut namespace = self.names.lock();
            let ttl = namespace.ttl();
            let mut next = namespace.child(parent, name);
            for _ in 0..DEEP {
                let Some(ino) = next else { break };
                let Some(directory) = namespace.directory(ino) else {
                    break;
                };
                if directory.listing.freshness.is_stale_page(ttl, start) {
                    stale.push(ino);
                }
                let below = directory.walk.entered_of_late(ttl.objects, start).cloned();
                next = below.and_then(|name| namespace.child(ino, &name));
            }
        }
        for ino in stale {
            self.list(ino, false, start);
        }
    }

    /// A file was looked up in a listed directory, which had to ask (`asks`) or was answered from memory. Those
    /// that follow are asked for ahead.
    pub(crate) fn walk_files(self: &Arc<Self>, parent: Ino, name: &str, asks: bool) {
        let now = Instant::now();
        let next: Vec<(Name, Object)> = {
            let mut namespace = self.names.lock();
            let ttl = namespace.ttl();
            let ino = namespace.ino_of_child(parent, name);
            // Numbering takes the directory's key, which other lookups need not have.
            let walk = namespace.directory(parent).map(|directory| &directory.walk);
            let by_inode = walk.is_some_and(|walk| walk.files.goes_by_inode());
            let number = by_inode.then(|| namespace.numbers_children(parent));
            let Some(directory) = namespace.directory(parent) else {
                return;
            };
            let previous = directory.walk.files.previous();
            let is_file = |entry: &Entry| matches!(entry, Entry::Object(_));
            let step = Step {
                name,
                asks,
                follows: directory.listing.follows(name, previous, is_file),
                ino: ino.0,
            };
            let Some(distance) = directory.walk.looks_at_file(step, ttl.objects, now) else {
                return;
            };
            let listing = &directory.listing;
            if let Some(number) = number
                && directory.walk.files.goes_by_inode()
            {
                let plan = |after| {
                    let files = listing.names().filter(|(_, entry)| is_file(entry));
                    let numbered = files.map(|(name, _)| (number(name).0, name.clone()));
                    inode_order::plan(numbered, after)
                };
                let wanted = |name: &Name| {
                    let entry = listing.fresh_entry(name, ttl.objects, now)?;
                    unknown(entry).cloned()
                };
                directory.walk.files.probe_by_inode(distance, plan, wanted)
            } else {
                let following = listing.fresh_after(name, ttl.objects, now);
                let following = following.map(|(name, entry)| (name, unknown(entry)));
                directory.walk.files.probe(name, distance, following)
            }
        };
        for (name, object) in next {
            let resolver = self.clone();
            self.runtime.spawn(async move {
                // What fails here is asked again, and reported, when it is wanted.
                let _ =
                    contained(resolver.request_headers_of(parent, &name, object, Instant::now()))
                        .await;
                if let Some(directory) = resolver.names.lock().directory(parent) {
                    directory.walk.files.probe_ended(&name);
                }
            });
        }
    }

    /// As [`Resolver::walk_files`], of a directory below: its attributes and its names.
    pub(crate) fn walk_directories(self: &Arc<Self>, parent: Ino, name: &str, asks: bool) {
        if lock(&self.prefetched).len() >= MOST_KEPT {
            return;
        }
        let now = Instant::now();
        let next: Vec<(Name, Ino)> = {
            let mut namespace = self.names.lock();
            let ttl = namespace.ttl();
            let ino = namespace.ino_of_child(parent, name);
            let Some(directory) = namespace.directory(parent) else {
                return;
            };
            let previous = directory.walk.directories.previous();
            let is_directory = |entry: &Entry| matches!(entry, Entry::Directory);
            let step = Step {
                name,
                asks,
                follows: directory.listing.follows(name, previous, is_directory),
                ino: ino.0,
            };
            let walk = &mut directory.walk;
            let Some(distance) = walk.looks_at_directory(step, ttl.objects, now) else {
                return;
            };
            let following = directory
                .listing
                .fresh_after(name, ttl.of_directories(), now);
            let following = following
                .filter(|(_, entry)| matches!(entry, Entry::Directory))
                .map(|(name, _)| (name, Some(&())));
            let next = walk.directories.probe(name, distance, following);
            let inode = |(name, ()): (Name, ())| {
                let ino = namespace.node_for(parent, &name, true);
                (name, ino)
            };
            next.into_iter().map(inode).collect()
        };
        for (name, ino) in next {
            // It stays until somebody comes for it: what is asked about it on its way must not take it away.
            let kept = lock(&self.prefetched).insert(ino);
            if kept && !self.names.lock().pin(ino) {
                lock(&self.prefetched).remove(&ino);
            }
            let resolver = self.clone();
            self.runtime.spawn(async move {
                let known = matches!(
                    resolver.names.lock().getattr(ino, now),
                    CachedLookup::Hit(_)
                );
                if !known {
                    // As above.
                    let _ = contained(resolver.request_directory(ino, now)).await;
                }
                if let Some(directory) = resolver.names.lock().directory(parent) {
                    directory.walk.directories.probe_ended(&name);
                }
                let counts = resolver.settings.metadata_ttl.min(LONGEST_KEPT);
                let weak = Arc::downgrade(&resolver);
                drop(resolver);
                tokio::time::sleep(counts).await;
                if kept && let Some(resolver) = weak.upgrade() {
                    resolver.forget_prefetched_one(ino);
                }
            });
        }
    }

    /// Nobody will come any more for what was asked ahead.
    pub(crate) fn forget_prefetched(&self) {
        let asked: Vec<Ino> = lock(&self.prefetched).iter().copied().collect();
        for ino in asked {
            self.forget_prefetched_one(ino);
        }
    }

    /// If nobody came for it, nobody is told of the inode that it got.
    fn forget_prefetched_one(&self, ino: Ino) {
        let was_kept = lock(&self.prefetched).remove(&ino);
        if was_kept {
            self.names.lock().unpin(ino);
        }
    }

    /// A file was opened after its lookup: where that happens, bodies are fetched along with attributes.
    pub(crate) fn opened_after_lookup(&self, parent: Ino) {
        if let Some(directory) = self.names.lock().directory(parent) {
            directory.walk.opened_after_lookup();
        }
    }
}

/// An object of which only the listing has told.
fn unknown(entry: &Entry) -> Option<&Object> {
    match entry {
        Entry::Object(object) if object.known.is_none() => Some(object),
        _ => None,
    }
}
