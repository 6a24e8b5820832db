//! Who may change which keys now.
//!
//! Whatever changes objects holds a [`Pass`] for the keys it changes: one key is changed by one operation at
//! a time, and a directory rename has its whole subtree to itself. All keys of an operation are asked for at
//! once, so that no two operations wait for each other; an operation waits holding nothing.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// What an operation changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    Key(String),
    /// Every key that begins with this; ends with `/`.
    Subtree(String),
}

impl Scope {
    fn conflicts(&self, other: &Scope) -> bool {
        match (self, other) {
            (Scope::Key(a), Scope::Key(b)) => a == b,
            (Scope::Subtree(tree), Scope::Key(key)) | (Scope::Key(key), Scope::Subtree(tree)) => {
                key.starts_with(tree.as_str())
            }
            (Scope::Subtree(a), Scope::Subtree(b)) => {
                a.starts_with(b.as_str()) || b.starts_with(a.as_str())
            }
        }
    }
}

#[derive(Clone, Default)]
pub struct Gate(Arc<Shared>);

#[derive(Default)]
struct Shared {
    /// Those at work, by ticket. Held only to look and to change the list.
    working: Mutex<Vec<(u64, Vec<Scope>)>>,
    left: Notify,
}

/// The right to change what was asked for, until dropped.
pub struct Pass {
    gate: Arc<Shared>,
    ticket: u64,
}

impl Gate {
    /// Waits until nobody else changes any of these. Each holder ends within its requests' deadlines.
    pub async fn enter(&self, scopes: Vec<Scope>) -> Pass {
        loop {
            let left = self.0.left.notified();
            tokio::pin!(left);
            left.as_mut().enable();
            if let Some(pass) = self.try_enter(&scopes) {
                return pass;
            }
            left.await;
        }
    }

    /// The pass, if nobody else has any of these.
    pub fn try_enter(&self, scopes: &[Scope]) -> Option<Pass> {
        let mut working = self.0.lock();
        let taken = working
            .iter()
            .flat_map(|(_, held)| held)
            .any(|held| scopes.iter().any(|scope| scope.conflicts(held)));
        if taken {
            return None;
        }
        let ticket = working.last().map_or(0, |(last, _)| last + 1);
        working.push((ticket, scopes.to_vec()));
        Some(Pass {
            gate: self.0.clone(),
            ticket,
        })
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Vec<(u64, Vec<Scope>)>> {
        self.working.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.gate
            .lock()
            .retain(|(ticket, _)| *ticket != self.ticket);
        self.gate.left.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Scope {
        Scope::Key(text.into())
    }

    fn tree(text: &str) -> Scope {
        Scope::Subtree(text.into())
    }

    #[test]
    fn scopes_conflict_where_they_meet() {
        for (a, b, expected) in [
            (key("a"), key("a"), true),
            (key("a"), key("ab"), false),
            (tree("a/"), key("a/b"), true),
            (tree("a/"), key("a"), false),
            (tree("a/"), tree("a/b/"), true),
            (tree("a/"), tree("ab/"), false),
        ] {
            assert_eq!(a.conflicts(&b), expected, "{a:?} {b:?}");
            assert_eq!(b.conflicts(&a), expected, "{b:?} {a:?}");
        }
    }

    #[tokio::test]
    async fn the_second_waits_for_the_first() {
        let gate = Gate::default();
        let first = gate.enter(vec![key("d/a"), key("d/b")]).await;
        assert!(gate.try_enter(&[tree("d/")]).is_none());
        assert!(gate.try_enter(&[key("d/c")]).is_some());
        let waiting = tokio::spawn({
            let gate = gate.clone();
            async move { drop(gate.enter(vec![tree("d/")]).await) }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(first);
        waiting.await.unwrap();
    }
}
