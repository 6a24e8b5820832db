//! Who may change which keys now.
//!
//! Whatever changes objects holds a [`KeyGuard`] for the keys it changes: one key is changed by one operation at
//! a time, and a directory rename has its whole subtree to itself, listings of it included. All keys of an
//! operation are asked for at once, so that no two operations wait for each other; an operation waits holding
//! nothing, and nobody who came later and wants the same overtakes it.

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
    /// Those at work and those that wait, in the order in which they came. Held only to look and to change
    /// the list.
    line: Mutex<Queue>,
    left: Notify,
}

#[derive(Default)]
struct Queue {
    last: u64,
    places: Vec<Waiter>,
}

struct Waiter {
    ticket: u64,
    scopes: Vec<Scope>,
    /// At work; otherwise it waits.
    inside: bool,
}

impl Waiter {
    fn conflicts(&self, other: &Waiter) -> bool {
        let mut scopes = self.scopes.iter();
        scopes.any(|a| other.scopes.iter().any(|b| a.conflicts(b)))
    }

    /// An operation may list a directory while it has a pass for a key in it, for which somebody waits who
    /// came before the listing: so listings wait for those at work only.
    fn is_fair(&self) -> bool {
        !self
            .scopes
            .iter()
            .all(|scope| matches!(scope, Scope::Listing(_)))
    }
}

impl Queue {
    /// Goes to work, unless somebody is at work, or came before and waits, who wants any of its scopes.
    fn try_inside(&mut self, ticket: u64) -> bool {
        let Some(at) = self.places.iter().position(|place| place.ticket == ticket) else {
            return false;
        };
        let (place, respects) = (&self.places[at], self.places[at].is_fair());
        let free = self.places.iter().enumerate().all(|(index, other)| {
            let counts = index != at && (other.inside || (respects && index < at));
            !(counts && place.conflicts(other))
        });
        self.places[at].inside |= free;
        free
    }
}

/// The right to change what was asked for, until dropped; while it is waited for, the place in the line.
pub struct KeyGuard {
    gate: Arc<Shared>,
    ticket: u64,
}

impl KeyLocks {
    /// Waits until nobody else changes any of these. Each holder ends within its requests' deadlines.
    pub async fn enter(&self, scopes: Vec<Scope>) -> KeyGuard {
        let pass = self.enqueue(scopes);
        let inside = || self.0.lock().try_inside(pass.ticket).then_some(());
        until(&self.0.left, inside).await;
        pass
    }

    /// The pass, if nobody else has or awaits any of these.
    pub fn try_enter(&self, scopes: Vec<Scope>) -> Option<KeyGuard> {
        let pass = self.enqueue(scopes);
        let free = self.0.lock().try_inside(pass.ticket);
        free.then_some(pass)
    }

    fn enqueue(&self, scopes: Vec<Scope>) -> KeyGuard {
        let mut line = self.0.lock();
        line.last += 1;
        let ticket = line.last;
        line.places.push(Waiter {
            ticket,
            scopes,
            inside: false,
        });
        KeyGuard {
            gate: self.0.clone(),
            ticket,
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        lock(&self.line)
    }
}

impl KeyGuard {
    /// Keeps only these of its scopes.
    pub fn downgrade(&mut self, scopes: Vec<Scope>) {
        let mut line = self.gate.lock();
        let ticket = self.ticket;
        if let Some(place) = line.places.iter_mut().find(|place| place.ticket == ticket) {
            place.scopes = scopes;
        }
        drop(line);
        self.gate.left.notify_waiters();
    }
}

impl Drop for KeyGuard {
    fn drop(&mut self) {
        let mut line = self.gate.lock();
        line.places.retain(|place| place.ticket != self.ticket);
        drop(line);
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
        let gate = KeyLocks::default();
        let first = gate.enter(vec![key("d/a"), key("d/b")]).await;
        assert!(gate.try_enter(vec![tree("d/")]).is_none());
        assert!(gate.try_enter(vec![key("d/c")]).is_some());
        let waiting = tokio::spawn({
            let gate = gate.clone();
            async move { drop(gate.enter(vec![tree("d/")]).await) }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(first);
        waiting.await.unwrap();
    }

    #[tokio::test]
    async fn who_waits_is_not_overtaken() {
        // Uploads below a directory came and went for ever, two at a time, and its rename never had its turn.
        let gate = KeyLocks::default();
        let first = gate.enter(vec![key("d/a")]).await;
        let rename = tokio::spawn({
            let gate = gate.clone();
            async move { gate.enter(vec![tree("d/")]).await }
        });
        tokio::task::yield_now().await;
        assert!(gate.try_enter(vec![key("d/b")]).is_none());
        assert!(gate.try_enter(vec![key("e")]).is_some());
        let later = tokio::spawn({
            let gate = gate.clone();
            async move { drop(gate.enter(vec![key("d/b")]).await) }
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
        let gate = KeyLocks::default();
        let first = gate.enter(vec![key("d/a")]).await;
        let rename = gate.enter(vec![tree("d/")]);
        let gave_up = tokio::time::timeout(std::time::Duration::from_millis(1), rename).await;
        assert!(gave_up.is_err());
        assert!(gate.try_enter(vec![key("d/b")]).is_some());
        drop(first);
    }
}
