//! What other clients do to the bucket meanwhile.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::super::tree::{File, Id, Node, Tree};
use super::Bench;

impl Bench {
    pub(super) fn holders(&self, id: Id) -> bool {
        self.slots.values().any(|slot| slot.id == id)
    }

    /// Whether others may change this now, so that what must follow is known.
    pub(super) fn may_be_changed(&self, path: &str) -> bool {
        match self.tree.node(path) {
            Some(Node::File(file)) => file.published && !(file.dirty && file.overlay),
            _ => true,
        }
    }

    pub(super) fn tear(&mut self, id: Id, new: Option<Arc<Vec<u8>>>) {
        let old = self.tree.file(id).bytes.clone();
        for slot in self.slots.values_mut().filter(|slot| slot.id == id) {
            slot.torn.get_or_insert((old.clone(), None)).1 = new.clone();
        }
    }

    pub(super) async fn others_put(&mut self, path: &str, content: Vec<u8>) {
        let mut ancestors = Vec::new();
        let mut at = Tree::parent_of(path);
        while !at.is_empty() {
            match self.tree.node(at) {
                Some(Node::Directory { .. }) => {}
                None => ancestors.push(at.to_owned()),
                Some(_) => return,
            }
            at = Tree::parent_of(at);
        }
        let stands = self.tree.node(path).cloned();
        if matches!(stands, Some(Node::Directory { .. })) || !self.may_be_changed(path) {
            return;
        }
        self.world.others.put(path, &content).await;
        self.wait_for_ttl().await;
        if let Some(Node::File(file)) = &stands {
            let id = self.tree.names[path];
            if file.dirty && self.holders(id) {
                // What was changed here stands over it, and will replace it.
                return;
            }
            self.tear(id, Some(Arc::new(content.clone())));
        }
        for ancestor in ancestors {
            let implicit = Node::Directory {
                marker: false,
                mode: 0o755,
            };
            self.tree.add(&ancestor, implicit);
        }
        let file = File {
            bytes: Arc::new(content),
            mode: 0o640,
            mtime: Some(1_700_000_000),
            xattrs: BTreeMap::new(),
            dirty: false,
            published: true,
            overlay: false,
        };
        self.tree.add(path, Node::File(file));
    }

    pub(super) async fn others_delete(&mut self, path: &str) {
        let Some(node @ (Node::File(_) | Node::Symlink(_) | Node::Special(_))) =
            self.tree.node(path).cloned()
        else {
            return;
        };
        if !self.may_be_changed(path) {
            return;
        }
        self.world.others.delete(path).await;
        self.wait_for_ttl().await;
        let id = self.tree.names[path];
        if let Node::File(file) = &node {
            if file.dirty && self.holders(id) {
                return;
            }
            self.tear(id, None);
        }
        self.tree.names.remove(path);
        self.tree.sweep();
    }

    pub(super) async fn others_chmod(&mut self, path: &str, mode: u32) {
        let Some(Node::File(file)) = self.tree.node(path) else {
            return;
        };
        let id = self.tree.names[path];
        if file.dirty || self.holders(id) {
            return;
        }
        self.world.others.chmod(path, 0o100_000 | mode).await;
        self.wait_for_ttl().await;
        self.tree.file(id).mode = mode;
    }

    pub(super) async fn others_replace_directory(&mut self, path: &str) {
        if !matches!(self.tree.node(path), Some(Node::Directory { .. })) {
            return;
        }
        let below = self.tree.below(path);
        let busy = below.iter().any(|path| {
            let id = self.tree.names[path];
            self.holders(id) || matches!(self.tree.node(path), Some(Node::File(file)) if file.dirty)
        });
        if busy {
            return;
        }
        for key in self.world.others.keys().await {
            if key.starts_with(&format!("{path}/")) {
                self.world.others.delete(&key).await;
            }
        }
        self.world.others.put(path, b"a file now").await;
        self.wait_for_ttl().await;
        for path in below {
            self.tree.names.remove(&path);
        }
        let file = File {
            bytes: Arc::new(b"a file now".to_vec()),
            mode: 0o640,
            mtime: Some(1_700_000_000),
            xattrs: BTreeMap::new(),
            dirty: false,
            published: true,
            overlay: false,
        };
        self.tree.add(path, Node::File(file));
        self.tree.sweep();
    }
}
