//! Sends what the planner requests before it is wanted, and keeps for a while the directories that came of it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::requests::Resolver;
use crate::fs::namespace::entry::Object;
use crate::fs::namespace::inode::Ino;
use crate::fs::namespace::object_name::Name;
use crate::fs::namespace::planner::{self, Looked, Request};
use crate::fs::namespace::tree::{CachedLookup, Namespace};
use crate::fs::supervisor::contained;

/// How long directories are kept that were prefetched and not looked up since.
const LONGEST_KEPT: Duration = Duration::from_secs(10);

impl Resolver {
    /// A name was looked up that is there: what is likely to be looked up next is requested.
    pub(super) fn prefetch_after(self: &Arc<Self>, looked: Looked<'_>) {
        let room = match looked.is_directory {
            true => self.prefetched.room(),
            false => 0,
        };
        let now = Instant::now();
        let requests = planner::after_lookup(&mut self.names.lock(), looked, room, now);
        self.send_ahead(requests, now);
    }

    /// Lists a directory once more in which names are looked up, if it is about to expire.
    pub(super) fn refresh_ahead(self: &Arc<Self>, parent: Ino) {
        let now = Instant::now();
        let request = planner::refresh(&mut self.names.lock(), parent, now);
        self.send_ahead(request, now);
    }

    /// Resolving a name needs a request: what else of the path has expired is listed in parallel.
    pub(super) fn refresh_path(self: &Arc<Self>, parent: Ino, name: &str, start: Instant) {
        let requests = planner::beside_request(&mut self.names.lock(), parent, name, start);
        self.send_ahead(requests, start);
    }

    fn send_ahead(self: &Arc<Self>, requests: impl IntoIterator<Item = Request>, start: Instant) {
        for request in requests {
            match request {
                Request::List { directory, whole } => drop(self.list(directory, whole, start)),
                Request::Headers {
                    parent,
                    name,
                    object,
                } => self.prefetch_headers(parent, name, object),
                Request::Directory {
                    parent,
                    name,
                    directory,
                } => self.prefetch_directory(parent, name, directory, start),
            }
        }
    }

    fn prefetch_headers(self: &Arc<Self>, parent: Ino, name: Name, object: Object) {
        let resolver = self.clone();
        self.runtime.spawn(async move {
            let request = resolver.request_headers_of(parent, &name, object, Instant::now());
            // What fails here is requested again, and reported, when it is wanted.
            let _ = contained(request).await;
            if let Some(directory) = resolver.names.lock().directory(parent) {
                directory.pattern.files.probe_ended(&name);
            }
        });
    }

    fn prefetch_directory(self: &Arc<Self>, parent: Ino, name: Name, ino: Ino, start: Instant) {
        // It stays until a program comes for it: no request about it must take it away.
        let kept = self.keep_prefetched(ino);
        let resolver = self.clone();
        self.runtime.spawn(async move {
            let known = matches!(
                resolver.names.lock().getattr(ino, start),
                CachedLookup::Hit(_)
            );
            if !known {
                // As above.
                let _ = contained(resolver.request_directory(ino, start)).await;
            }
            if let Some(directory) = resolver.names.lock().directory(parent) {
                directory.pattern.directories.probe_ended(&name);
            }
            let counts = resolver.settings.metadata_ttl.min(LONGEST_KEPT);
            if kept && resolver.prefetched.expires_at(Instant::now() + counts, ino) {
                resolver.expire_prefetched().await;
            }
        });
    }

    /// Gives up prefetched directories as they expire, until there are none.
    async fn expire_prefetched(self: Arc<Self>) {
        let weak = Arc::downgrade(&self);
        drop(self);
        while let Some(resolver) = weak.upgrade() {
            let next = {
                let mut namespace = resolver.names.lock();
                let (expired, next) = resolver.prefetched.take_expired(Instant::now());
                unpin_all(&mut namespace, expired);
                next
            };
            let Some(next) = next else { return };
            drop(resolver);
            tokio::time::sleep_until(next.into()).await;
        }
    }

    /// No program will come any more for what was prefetched.
    pub(crate) fn forget_prefetched(&self) {
        let mut namespace = self.names.lock();
        unpin_all(&mut namespace, self.prefetched.take_all());
    }

    /// False if it is kept already, or not known any more. What is kept changes only with the names locked: it is
    /// pinned exactly while it is among them.
    fn keep_prefetched(&self, ino: Ino) -> bool {
        let mut namespace = self.names.lock();
        let kept = self.prefetched.add(ino);
        if kept && !namespace.pin(ino) {
            self.prefetched.remove(ino);
            return false;
        }
        kept
    }

    /// A file was opened after its lookup: where that happens, bodies are fetched along with attributes.
    pub(crate) fn on_open(&self, parent: Ino) {
        if let Some(directory) = self.names.lock().directory(parent) {
            directory.pattern.on_open();
        }
    }
}

fn unpin_all(namespace: &mut Namespace, inodes: Vec<Ino>) {
    for ino in inodes {
        namespace.unpin(ino);
    }
}
