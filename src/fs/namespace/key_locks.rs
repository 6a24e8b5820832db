//! Locks on keys: which operation may change which keys now.
//!
//! Every operation that changes objects holds a [`KeyGuard`] for the keys it changes: one key is changed by one
//! operation at a time, and a directory rename has its whole subtree to itself, listings of it included. An operation
//! locks all its keys at once, so that no two operations wait for each other; it holds nothing while it waits, and
//! conflicting locks are granted in the order in which they were requested.

use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::Notify;

use crate::base::sync::lock;
use crate::base::wait::until;

/// What an operation changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    Key(String),
    /// Every key that begins with this; ends with `/`.
    Subtree(String),
    /// Nothing: the directory of this key is listed, and its keys stay while it is.
    Listing(String),
}

impl Scope {
    fn conflicts(&self, other: &Scope) -> bool {
        match (self, other) {
            (Scope::Key(a), Scope::Key(b)) => a == b,
            (Scope::Subtree(a), Scope::Subtree(b)) => {
                a.starts_with(b.as_str()) || b.starts_with(a.as_str())
            }
            (Scope::Subtree(tree), Scope::Key(key) | Scope::Listing(key))
            | (Scope::Key(key) | Scope::Listing(key), Scope::Subtree(tree)) => {
                key.starts_with(tree.as_str())
            }
            (Scope::Listing(_), Scope::Key(_) | Scope::Listing(_))
            | (Scope::Key(_), Scope::Listing(_)) => false,
        }
    }
}

#[derive(Clone, Default)]
pub struct KeyLocks(Arc<Shared>);

#[derive(Default)]
struct Shared {
    /// Granted locks and those that wait, in the order of their requests. Held only to look and to change
    /// the list.
    queue: Mutex<Queue>,
    released: Notify,
}

#[derive(Default)]
struct Queue {
    last: u64,
    waiters: Vec<Waiter>,
}

struct Waiter {
    ticket: u64,
    scopes: Vec<Scope>,
    /// The lock is held; otherwise it waits.
    granted: bool,
}

impl Waiter {
    fn conflicts(&self, other: &Waiter) -> bool {
        let mut scopes = self.scopes.iter();
        scopes.any(|a| other.scopes.iter().any(|b| a.conflicts(b)))
    }

    /// Whether it waits for conflicting requests before it. Listings do not, only for locks that are held: an operation may
    /// list a directory while it holds a key in it for which an earlier request waits.
    fn is_fair(&self) -> bool {
        !self
            .scopes
            .iter()
            .all(|scope| matches!(scope, Scope::Listing(_)))
    }
}

impl Queue {
    /// Grants the lock unless a conflicting one is held or was requested earlier.
    fn try_grant(&mut self, ticket: u64) -> bool {
        let Some(at) = self
            .waiters
            .iter()
            .position(|waiter| waiter.ticket == ticket)
        else {
            return false;
        };
        let (waiter, respects) = (&self.waiters[at], self.waiters[at].is_fair());
        let free = self.waiters.iter().enumerate().all(|(index, other)| {
            let counts = index != at && (other.granted || (respects && index < at));
            !(counts && waiter.conflicts(other))
        });
        self.waiters[at].granted |= free;
        free
    }
}

/// The right to change these keys, until dropped; before it is granted, the place in the queue.
pub struct KeyGuard {
    shared: Arc<Shared>,
    ticket: u64,
}

impl KeyLocks {
    /// Waits until no other operation changes any of these. Each holder ends within its requests' deadlines.
    pub async fn lock(&self, scopes: Vec<Scope>) -> KeyGuard {
        let guard = self.enqueue(scopes);
        let granted = || self.0.lock().try_grant(guard.ticket).then_some(());
        until(&self.0.released, granted).await;
        guard
    }

    /// The guard, if no other operation holds or awaits any of these.
    pub fn try_lock(&self, scopes: Vec<Scope>) -> Option<KeyGuard> {
        let guard = self.enqueue(scopes);
        let free = self.0.lock().try_grant(guard.ticket);
        free.then_some(guard)
    }

    fn enqueue(&self, scopes: Vec<Scope>) -> KeyGuard {
        let mut queue = self.0.lock();
        queue.last += 1;
        let ticket = queue.last;
        queue.waiters.push(Waiter {
            ticket,
            scopes,
            granted: false,
        });
        KeyGuard {
            shared: self.0.clone(),
            ticket,
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        lock(&self.queue)
    }
}

impl KeyGuard {
    /// Keeps only these of its scopes.
    pub fn downgrade(&mut self, scopes: Vec<Scope>) {
        let mut queue = self.shared.lock();
        let ticket = self.ticket;
        if let Some(waiter) = queue
            .waiters
            .iter_mut()
            .find(|waiter| waiter.ticket == ticket)
        {
            waiter.scopes = scopes;
        }
        drop(queue);
        self.shared.released.notify_waiters();
    }
}

impl Drop for KeyGuard {
    fn drop(&mut self) {
        let mut queue = self.shared.lock();
        queue.waiters.retain(|waiter| waiter.ticket != self.ticket);
        drop(queue);
        self.shared.released.notify_waiters();
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
            (tree("a/"), Scope::Listing("a/b/".into()), true),
            (tree("a/b/"), Scope::Listing("a/".into()), false),
            (key("a/b"), Scope::Listing("a/".into()), false),
        ] {
            assert_eq!(a.conflicts(&b), expected, "{a:?} {b:?}");
            assert_eq!(b.conflicts(&a), expected, "{b:?} {a:?}");
        }
    }

    #[tokio::test]
    async fn the_second_waits_for_the_first() {
        let key_locks = KeyLocks::default();
        let first = key_locks.lock(vec![key("d/a"), key("d/b")]).await;
        assert!(key_locks.try_lock(vec![tree("d/")]).is_none());
        assert!(key_locks.try_lock(vec![key("d/c")]).is_some());
        let waiting = tokio::spawn({
            let key_locks = key_locks.clone();
            async move { drop(key_locks.lock(vec![tree("d/")]).await) }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(first);
        waiting.await.unwrap();
    }

    #[tokio::test]
    async fn who_waits_is_not_overtaken() {
        // Uploads below a directory came and went for ever, two at a time, and its rename never had its turn.
        let key_locks = KeyLocks::default();
        let first = key_locks.lock(vec![key("d/a")]).await;
        let rename = tokio::spawn({
            let key_locks = key_locks.clone();
            async move { key_locks.lock(vec![tree("d/")]).await }
        });
        tokio::task::yield_now().await;
        assert!(key_locks.try_lock(vec![key("d/b")]).is_none());
        assert!(key_locks.try_lock(vec![key("e")]).is_some());
        let later = tokio::spawn({
            let key_locks = key_locks.clone();
            async move { drop(key_locks.lock(vec![key("d/b")]).await) }
        });
        drop(first);
        let rename = rename.await.unwrap();
        tokio::task::yield_now().await;
        assert!(!later.is_finished());
        drop(rename);
        later.await.unwrap();
    }

    #[tokio::test]
    async fn who_gives_up_waiting_holds_nobody_up() {
        let key_locks = KeyLocks::default();
        let first = key_locks.lock(vec![key("d/a")]).await;
        let rename = key_locks.lock(vec![tree("d/")]);
        let gave_up = tokio::time::timeout(std::time::Duration::from_millis(1), rename).await;
        assert!(gave_up.is_err());
        assert!(key_locks.try_lock(vec![key("d/b")]).is_some());
        drop(first);
    }
}
