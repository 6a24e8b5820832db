//! What a name or an inode stands for: from memory where that is recent enough, and else from the bucket.

use std::sync::Arc;
use std::time::Instant;

use super::requests::Resolver;
use crate::fs::attributes::Kind;
use crate::fs::error::{Error, Result};
use crate::fs::namespace::inode::Ino;
use crate::fs::namespace::object_name::Name;
use crate::fs::namespace::tree::{Look, Namespace, Target, View};

/// Tries until an answer is not overtaken by changes of our own.
const TRIES: usize = 16;

impl Resolver {
    /// What a name looks like, which counts as known to the kernel once more; if it is not there, since when that is
    /// known.
    pub(crate) async fn look_up(
        self: &Arc<Self>,
        parent: Ino,
        name: &str,
        start: Instant,
    ) -> Result<std::result::Result<View, Instant>> {
        let mut walked = false;
        let mut _held = [None, None];
        for _ in 0..TRIES {
            let (look, holds) = {
                let mut namespace = self.names.lock();
                let look = namespace.look_up(parent, name, start);
                // What something must be asked about stays until the answer has been looked at.
                let wanted = match &look {
                    Look::Known(_) | Look::Absent(_) | Look::Stale => [None, None],
                    Look::AskName | Look::AskObject(_) => [Some(parent), None],
                    Look::AskDirectory(ino) => [Some(parent), Some(*ino)],
                };
                let holds = wanted.map(|ino| self.names.hold_in(&mut namespace, ino?));
                if let Look::Known(_) = &look {
                    self.names.kernel().forget_surplus(&mut namespace);
                }
                (look, holds)
            };
            _held = holds;
            match look {
                Look::Stale => return Err(Error::Stale),
                Look::Known(view) => {
                    match view.attributes.kind {
                        _ if walked => {}
                        Kind::Directory => self.walk_directories(parent, name, false),
                        _ => self.walk_files(parent, name, false),
                    }
                    self.refresh_ahead(parent);
                    return Ok(Ok(view));
                }
                Look::Absent(checked) => {
                    self.refresh_ahead(parent);
                    return Ok(Err(checked));
                }
                Look::AskName => {
                    self.refresh_path(parent, name, start);
                    self.ask_name(parent, name, start).await?;
                }
                Look::AskObject(object) => {
                    if !std::mem::replace(&mut walked, true) {
                        self.walk_files(parent, name, true);
                    }
                    self.ask_object(parent, &Name::from(name), object, start)
                        .await?;
                }
                Look::AskDirectory(ino) => {
                    if !std::mem::replace(&mut walked, true) {
                        self.walk_directories(parent, name, true);
                    }
                    self.refresh_path(parent, name, start);
                    self.ask_directory(ino, start).await?;
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
    pub(crate) async fn look_at(self: &Arc<Self>, ino: Ino, start: Instant) -> Result<View> {
        self.look_at_with(ino, start, Namespace::look_at).await
    }

    /// As [`Resolver::look_at`], for who goes through a directory and looks at each name.
    pub(crate) async fn look_at_traversing(
        self: &Arc<Self>,
        ino: Ino,
        start: Instant,
    ) -> Result<View> {
        self.look_at_with(ino, start, Namespace::look_at_traversing)
            .await
    }

    async fn look_at_with(
        self: &Arc<Self>,
        ino: Ino,
        start: Instant,
        look_at: fn(&mut Namespace, Ino, Instant) -> Look,
    ) -> Result<View> {
        let mut _held = None;
        for _ in 0..TRIES {
            let (look, hold) = {
                let mut namespace = self.names.lock();
                let look = look_at(&mut namespace, ino, start);
                let asks = !matches!(look, Look::Known(_) | Look::Absent(_) | Look::Stale);
                let hold = asks.then(|| self.names.hold_in(&mut namespace, ino));
                (look, hold)
            };
            _held = hold;
            match look {
                Look::Known(view) => return Ok(view),
                // A caller that came by a path looks again, and finds what stands there now.
                Look::Absent(_) | Look::Stale => return Err(Error::Stale),
                Look::AskDirectory(ino) => self.ask_directory(ino, start).await?,
                look => {
                    let place = self.names.lock().place(ino);
                    let (parent, name) = place.ok_or(Error::Stale)?;
                    match look {
                        Look::AskObject(object) => {
                            self.walk_files(parent, &name, true);
                            self.ask_object(parent, &name, object, start).await?;
                        }
                        _ => self.ask_name(parent, &name, start).await?,
                    }
                }
            }
        }
        Err(Error::Busy)
    }

    /// What stands under a name, asked for if need be.
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
                None => self.ask_name(parent, name, start).await?,
            }
        }
    }
}
