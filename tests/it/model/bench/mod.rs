//! File system and model side by side.

mod other_writers;
mod steps;
mod whole;

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use ossvault::fs::error::Error;
use ossvault::fs::namespace::Ino;

use super::ops::Setting;
use super::tree::{Answer, Id, Node, Slot, Tree, errno};
use crate::world::{FsResult, Kernel, World};

pub(super) struct Bench {
    pub(super) world: World,
    pub(super) kernel: Kernel,
    pub(super) setting: Setting,
    pub(super) tree: Tree,
    pub(super) slots: HashMap<u8, Slot>,
    pub(super) failures_seen: u64,
    pub(super) failed_ever: bool,
}

/// How an operation went, compared with the model.
pub(super) enum Went<T> {
    Well(T),
    AsRefused,
    /// A request was made to fail, and so did the operation.
    Failed,
}

impl Bench {
    pub(super) async fn new(setting: Setting) -> Bench {
        let mut world = World::new();
        let ttl = setting
            .ttl
            .map_or(Duration::from_secs(3600), Duration::from_millis);
        world.settings.metadata_ttl = ttl;
        world.settings.dir_ttl = ttl;
        if setting.small_memory {
            world.settings.memory_limit = 6 << 20;
        }
        let kernel = Kernel::new(world.mount().await);
        Bench {
            world,
            kernel,
            setting,
            tree: Tree::default(),
            slots: HashMap::new(),
            failures_seen: 0,
            failed_ever: false,
        }
    }

    pub(super) fn injected(&self) -> bool {
        self.world.weather.failed() > self.failures_seen
    }

    pub(super) fn compare<T, M>(
        &self,
        what: &str,
        actual: FsResult<T>,
        expected: Answer<M>,
    ) -> Went<(T, M)> {
        match (actual, expected) {
            (Ok(actual), Ok(expected)) => Went::Well((actual, expected)),
            (Err(_), _) if self.injected() => Went::Failed,
            (Err(error), Err(expected)) => {
                assert_eq!(errno(&error), expected, "{what}: {error:?}");
                Went::AsRefused
            }
            (Ok(_), Err(expected)) => panic!("{what} succeeded instead of {expected}"),
            (Err(error), Ok(_)) => panic!("{what}: {error:?}"),
        }
    }

    pub(super) fn opened(&self) -> usize {
        let inos: BTreeSet<Ino> = self.slots.values().map(|slot| slot.ino).collect();
        inos.len()
    }

    pub(super) async fn settle(&mut self) {
        let settled = self
            .kernel
            .settle(self.opened(), Duration::from_secs(30))
            .await;
        assert!(
            settled,
            "what is closed does not get uploaded: {:?}",
            self.kernel.fs.census()
        );
        let open: BTreeSet<Id> = self.slots.values().map(|slot| slot.id).collect();
        for (id, node) in &mut self.tree.nodes {
            if let Node::File(file) = node
                && !open.contains(id)
            {
                (file.dirty, file.published, file.overlay) = (false, true, false);
            }
        }
    }

    /// What was acknowledged is in the bucket, whole.
    pub(super) async fn check_bucket(&self, id: Id) {
        let Some(path) = self.tree.path_of(id) else {
            return;
        };
        let Node::File(file) = &self.tree.nodes[&id] else {
            return;
        };
        let stored = self.world.others.get(&path).await;
        assert_eq!(
            stored.map(|bytes| bytes == **file.bytes),
            Some(true),
            "{path} was acknowledged and is not in the bucket"
        );
    }

    /// Other writers' changes are seen from now on.
    pub(super) async fn wait_for_ttl(&self) {
        if let Some(ttl @ 1..) = self.setting.ttl {
            tokio::time::sleep(Duration::from_millis(ttl + 2)).await;
        }
    }

    // ---- slots ----

    pub(super) async fn close(&mut self, slot: u8) {
        let Some(open) = self.slots.remove(&slot) else {
            return;
        };
        if open.torn.is_some() {
            self.check_torn(&open).await;
        }
        let flushed = self.kernel.fs.flush(open.handle, 0).await;
        self.kernel.fs.release_now(open.handle);
        match flushed {
            Ok(()) if open.torn.is_none() => self.acknowledged(&open, false).await,
            Ok(()) => {}
            Err(error) => assert!(
                self.injected() || open.torn.is_some(),
                "close {slot}: {error:?}"
            ),
        }
        let last = !self.slots.values().any(|other| other.ino == open.ino);
        // One under a temporary name may wait for its rename, which may come next.
        let path = self.tree.path_of(open.id).unwrap_or_default();
        let waits = path.ends_with("Q1W2E3") && open.torn.is_none();
        if last && !waits {
            self.settle().await;
            if open.torn.is_none() {
                self.check_bucket(open.id).await;
            }
        }
    }

    /// Of a file that others replaced while it was open: one version or ESTALE.
    pub(super) async fn check_torn(&self, slot: &Slot) {
        let (old, new) = slot.torn.as_ref().unwrap();
        match self.kernel.read_all(slot.handle).await {
            Ok(content) => {
                let known = content == **old || new.as_ref().is_some_and(|new| content == ***new);
                assert!(known, "a mixture of versions was read");
            }
            Err(Error::Stale) => {}
            Err(error) => assert!(self.injected(), "reading what was replaced: {error:?}"),
        }
    }

    /// A slot that is open and of one piece; those that are not are checked and closed.
    pub(super) async fn sound(&mut self, slot: u8) -> Option<Slot> {
        let open = self.slots.get(&slot)?.clone();
        if open.torn.is_some() {
            self.close(slot).await;
            return None;
        }
        Some(open)
    }
}
