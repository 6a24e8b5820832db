//! What renames of directories take of the memory budget.
//!
//! A rename remembers every object of its directory until their old keys are gone, so that it can be undone. How many
//! there are, the bucket decides: beyond a share of the budget, which all renames under way have together, a directory
//! is not renamed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::fs::data::budget::{MemoryBudget, Reservation};

/// All together may take so much of the memory budget, as a divisor.
const SHARE: u64 = 4;

/// What all renames under way take, in bytes.
pub(crate) type Renaming = Arc<AtomicU64>;

/// What an object with a key of that length takes, in bytes: what was listed, the answer to its copy, and its key in
/// what is to be deleted.
pub(crate) fn weight(key: usize) -> u64 {
    const BESIDES: usize = 640;
    (BESIDES + 3 * key) as u64
}

/// What one rename takes, until dropped.
pub(crate) struct RenameMemory {
    all: Renaming,
    most: u64,
    /// Counted in `all` as well.
    own: Reservation,
}

impl RenameMemory {
    pub(crate) fn new(all: &Renaming, budget: &MemoryBudget) -> RenameMemory {
        RenameMemory {
            all: all.clone(),
            most: budget.limit() / SHARE,
            own: budget.charge(0),
        }
    }

    /// False if that is too much, together with the others.
    pub(crate) fn grow(&mut self, bytes: u64) -> bool {
        let before = self.all.fetch_add(bytes, Ordering::Relaxed);
        self.own.resize(self.own.bytes() + bytes);
        before.saturating_add(bytes) <= self.most
    }
}

impl Drop for RenameMemory {
    fn drop(&mut self) {
        self.all.fetch_sub(self.own.bytes(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_renames_have_one_share_of_the_budget() {
        let (all, budget) = (Renaming::default(), MemoryBudget::new(4000));
        let mut one = RenameMemory::new(&all, &budget);
        let mut other = RenameMemory::new(&all, &budget);
        assert!(one.grow(600) && other.grow(400));
        assert_eq!(budget.used(), 1000);
        assert!(!other.grow(1));
        drop(other);
        assert!(one.grow(400) && !one.grow(1));
        drop(one);
        assert_eq!((budget.used(), all.load(Ordering::Relaxed)), (0, 0));
    }
}
