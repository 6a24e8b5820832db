//! What a name or an inode stands for: from memory where that is recent enough, and else from the bucket.

use std::sync::Arc;
use std::time::Instant;

use super::requests::Resolver;
use crate::files::attributes::Kind;
use crate::fs::error::{Error, Result};
use crate::fs::namespace::inode::Ino;
use crate::fs::namespace::object_name::Name;
use crate::fs::namespace::planner::Looked;
use crate::fs::namespace::stat::{Lookup, Stat};
use crate::fs::namespace::tree::{CachedLookup, Namespace, Target};

/// Tries until an answer is not overtaken by changes of our own.
const TRIES: usize = 16;

impl Resolver {
    /// What a name stands for. If it is there, it counts as known to the kernel once more.
    pub(crate) async fn lookup(
        self: &Arc<Self>,
        parent: Ino,
        name: &str,
        start: Instant,
    ) -> Result<Lookup> {
        let mut planned = false;
        let mut _held = [None, None];
        for _ in 0..TRIES {
            let (look, holds) = {
                let mut namespace = self.names.lock();
                let look = namespace.lookup(parent, name, start);
                // An inode that a request is about stays until the response has been read.
                let wanted = match &look {
                    CachedLookup::Hit(_) | CachedLookup::Negative(_) | CachedLookup::Stale => {
                        [None, None]
                    }
                    CachedLookup::NeedsName | CachedLookup::NeedsHead(_) => [Some(parent), None],
                    CachedLookup::NeedsMarker(ino) => [Some(parent), Some(*ino)],
                };
                let holds = wanted.map(|ino| self.names.hold_in(&mut namespace, ino?));
                if let CachedLookup::Hit(_) = &look {
                    self.names.kernel().forget_surplus(&mut namespace);
                }
                (look, holds)
            };
            _held = holds;
            match look {
                CachedLookup::Stale => return Err(Error::Stale),
                CachedLookup::Hit(cached) => {
                    if !planned {
                        self.prefetch_after(Looked {
                            is_directory: cached.attributes.kind == Kind::Directory,
                            cached: true,
                            parent,
                            name,
                        });
                    }
                    self.refresh_ahead(parent);
                    return Ok(Lookup::Present(self.shown(cached)));
                }
                CachedLookup::Negative(checked) => {
                    self.refresh_ahead(parent);
                    return Ok(Lookup::Absent(self.valid(checked)));
                }
                CachedLookup::NeedsName => {
                    self.refresh_path(parent, name, start);
                    self.request_name(parent, name, start).await?;
                }
                CachedLookup::NeedsHead(object) => {
                    if !std::mem::replace(&mut planned, true) {
                        self.prefetch_after(Looked {
                            is_directory: false,
                            cached: false,
                            parent,
                            name,
                        });
                    }
                    self.request_headers_of(parent, &Name::from(name), object, start)
                        .await?;
                }
                CachedLookup::NeedsMarker(ino) => {
                    if !std::mem::replace(&mut planned, true) {
                        self.prefetch_after(Looked {
                            is_directory: true,
                            cached: false,
                            parent,
                            name,
                        });
                    }
                    self.refresh_path(parent, name, start);
                    self.request_directory(ino, start).await?;
                }
            }
        }
        Err(Error::Busy)
    }

    /// What an inode looks like.
    ///
    /// # Errors
    /// [`Error::Stale`] when its name is gone or stands for something else: the kernel looks the name up
    /// anew, and finds what there is.
    pub(crate) async fn getattr(self: &Arc<Self>, ino: Ino, start: Instant) -> Result<Stat> {
        self.getattr_with(ino, start, Namespace::getattr).await
    }

    /// As [`Resolver::getattr`], for a program that may be going through the directory.
    pub(crate) async fn getattr_traversing(
        self: &Arc<Self>,
        ino: Ino,
        start: Instant,
    ) -> Result<Stat> {
        self.getattr_with(ino, start, Namespace::getattr_traversing)
            .await
    }

    async fn getattr_with(
        self: &Arc<Self>,
        ino: Ino,
        start: Instant,
        look_at: fn(&mut Namespace, Ino, Instant) -> CachedLookup,
    ) -> Result<Stat> {
        let mut _held = None;
        for _ in 0..TRIES {
            let (look, hold) = {
                let mut namespace = self.names.lock();
                let look = look_at(&mut namespace, ino, start);
                let asks = !matches!(
                    look,
                    CachedLookup::Hit(_) | CachedLookup::Negative(_) | CachedLookup::Stale
                );
                let hold = asks.then(|| self.names.hold_in(&mut namespace, ino));
                (look, hold)
            };
            _held = hold;
            match look {
                CachedLookup::Hit(cached) => return Ok(self.shown(cached)),
                // A caller that came by a path looks again, and finds what stands there now.
                CachedLookup::Negative(_) | CachedLookup::Stale => return Err(Error::Stale),
                CachedLookup::NeedsMarker(ino) => self.request_directory(ino, start).await?,
                look => {
                    let place = self.names.lock().place(ino);
                    let (parent, name) = place.ok_or(Error::Stale)?;
                    match look {
                        CachedLookup::NeedsHead(object) => {
                            self.prefetch_after(Looked {
                                is_directory: false,
                                cached: false,
                                parent,
                                name: &name,
                            });
                            self.request_headers_of(parent, &name, object, start)
                                .await?;
                        }
                        _ => self.request_name(parent, &name, start).await?,
                    }
                }
            }
        }
        Err(Error::Busy)
    }

    /// What stands under a name, requested if need be.
    pub(crate) async fn target(
        self: &Arc<Self>,
        parent: Ino,
        name: &str,
        start: Instant,
    ) -> Result<Option<Target>> {
        loop {
            let target = self.names.lock().target(parent, name, start);
            match target {
                Some(target) => return Ok(target),
                None => self.request_name(parent, name, start).await?,
            }
        }
    }
}
