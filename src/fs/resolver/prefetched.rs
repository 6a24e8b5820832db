//! Directories that were prefetched and not looked up since: bounded, counted against the memory budget, and given up
//! when what is known of them has expired.

use std::collections::{HashSet, VecDeque};
use std::sync::Mutex;
use std::time::Instant;

use crate::base::sync::lock;
use crate::fs::data::budget::{MemoryBudget, Reservation};
use crate::fs::namespace::inode::Ino;

/// How many are kept at most.
const MOST_KEPT: usize = 4096;
/// So much of the memory budget, as a divisor, may go to them.
const SHARE: u64 = 32;
/// What one takes besides its inode, which the table of inodes counts: its places here, and the task that requests it.
const WEIGHT: u64 = 2048;

/// Directories that were prefetched, each kept for a program that may come for it.
pub(super) struct Prefetched {
    most: usize,
    /// A leaf.
    state: Mutex<State>,
}

struct State {
    inodes: HashSet<Ino>,
    /// In the order in which they expire; those that are still being requested are not among them.
    expiring: VecDeque<(Instant, Ino)>,
    memory: Reservation,
    /// A task waits for the first to expire.
    waiting: bool,
}

impl Prefetched {
    pub(super) fn new(budget: &MemoryBudget) -> Prefetched {
        let most = usize::try_from(budget.limit() / SHARE / WEIGHT).unwrap_or(usize::MAX);
        Prefetched {
            most: most.clamp(1, MOST_KEPT),
            state: Mutex::new(State {
                inodes: HashSet::new(),
                expiring: VecDeque::new(),
                memory: budget.charge(0),
                waiting: false,
            }),
        }
    }

    /// How many more there may be.
    pub(super) fn room(&self) -> usize {
        self.most.saturating_sub(lock(&self.state).inodes.len())
    }

    /// False if it was there already.
    pub(super) fn add(&self, ino: Ino) -> bool {
        let mut state = lock(&self.state);
        let added = state.inodes.insert(ino);
        state.count();
        added
    }

    /// False if it was not there.
    pub(super) fn remove(&self, ino: Ino) -> bool {
        let mut state = lock(&self.state);
        let removed = state.inodes.remove(&ino);
        state.count();
        removed
    }

    pub(super) fn take_all(&self) -> Vec<Ino> {
        let mut state = lock(&self.state);
        state.expiring.clear();
        let all = state.inodes.drain().collect();
        state.count();
        all
    }

    /// From now on it expires. True if the caller has to see to that, as no other task does.
    pub(super) fn expires_at(&self, at: Instant, ino: Ino) -> bool {
        let mut state = lock(&self.state);
        state.expiring.push_back((at, ino));
        !std::mem::replace(&mut state.waiting, true)
    }

    /// Those that have expired, and when the next one does.
    pub(super) fn take_expired(&self, now: Instant) -> (Vec<Ino>, Option<Instant>) {
        let mut state = lock(&self.state);
        let mut expired = Vec::new();
        while let Some(&(at, ino)) = state.expiring.front()
            && at <= now
        {
            state.expiring.pop_front();
            if state.inodes.remove(&ino) {
                expired.push(ino);
            }
        }
        state.count();
        let next = state.expiring.front().map(|(at, _)| *at);
        state.waiting = next.is_some();
        (expired, next)
    }
}

impl State {
    fn count(&mut self) {
        let bytes = self.inodes.len() as u64 * WEIGHT;
        self.memory.resize(bytes);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_is_kept_is_bounded_and_counts_against_the_budget_until_it_expires() {
        let budget = MemoryBudget::new(4 * SHARE * WEIGHT);
        let prefetched = Prefetched::new(&budget);
        let now = Instant::now();
        let later = now + Duration::from_secs(10);
        for ino in 2..6 {
            assert!(prefetched.add(Ino(ino)) && !prefetched.add(Ino(ino)));
        }
        assert_eq!((prefetched.room(), budget.used()), (0, 4 * WEIGHT));
        assert!(prefetched.expires_at(now, Ino(2)), "the first sees to it");
        assert!(!prefetched.expires_at(later, Ino(3)));
        assert_eq!(prefetched.take_expired(now), (vec![Ino(2)], Some(later)));
        assert_eq!((prefetched.room(), budget.used()), (1, 3 * WEIGHT));
        assert_eq!(prefetched.take_expired(later), (vec![Ino(3)], None));
        assert!(prefetched.expires_at(later, Ino(4)), "and the next");
        assert_eq!(prefetched.take_all().len(), 2);
        assert_eq!(prefetched.take_expired(later), (vec![], None));
        assert_eq!(budget.used(), 0);
    }
}
