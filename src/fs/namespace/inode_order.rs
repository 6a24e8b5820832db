//! Lookups in ascending order of inode numbers: a pure policy.
//!
//! gnulib's fts sorts directories of more than 10,000 names by inode number before it looks at them, so that find,
//! du, and chmod -R read a disk in one direction. An inode number of ours is a hash of the key: by name such a walk
//! jumps to and fro, by number it goes straight ahead. What is planned here are the names that come next by number.

use std::collections::VecDeque;

use super::object_name::Name;

/// How far a walker has come, and the names behind it by number.
#[derive(Debug, Default)]
pub struct InodeOrder {
    /// The number that was looked up last.
    last: u64,
    /// How many lookups in a row had a higher number than the one before.
    ascending: u32,
    /// Names behind the walker that were not handed out yet, by number.
    planned: VecDeque<(u64, Name)>,
    /// The highest number that has been planned.
    reached: u64,
}

impl InodeOrder {
    /// By chance, so many lookups ascend once in 20 million million runs.
    const EVIDENCE: u32 = 16;
    /// Names that are planned at once: each plan goes through the whole directory.
    pub const PLANNED: usize = 4096;

    /// A name was looked up whose inode has this number.
    pub fn step(&mut self, ino: u64) {
        if ino < self.last {
            *self = InodeOrder::default();
        } else if ino > self.last {
            self.ascending = self.ascending.saturating_add(1);
        }
        self.last = ino;
        while self.planned.front().is_some_and(|(next, _)| *next <= ino) {
            self.planned.pop_front();
        }
    }

    pub fn is_followed(&self) -> bool {
        self.ascending >= InodeOrder::EVIDENCE
    }

    /// The next name by number. `plan` is called where the plan has ended: with a number, for the
    /// [`InodeOrder::PLANNED`] names with the lowest numbers above, in order.
    pub fn next(&mut self, plan: impl FnOnce(u64) -> Vec<(u64, Name)>) -> Option<Name> {
        if self.planned.is_empty() && self.reached < u64::MAX {
            self.planned = plan(self.last.max(self.reached)).into();
            self.reached = self.planned.back().map_or(u64::MAX, |(last, _)| *last);
        }
        self.planned.pop_front().map(|(_, name)| name)
    }
}

/// Of numbered names in any order, those with the lowest numbers above `after`, in order.
pub fn plan(names: impl Iterator<Item = (u64, Name)>, after: u64) -> Vec<(u64, Name)> {
    let mut names: Vec<_> = names.filter(|(ino, _)| *ino > after).collect();
    if names.len() > InodeOrder::PLANNED {
        names.select_nth_unstable(InodeOrder::PLANNED);
        names.truncate(InodeOrder::PLANNED);
    }
    names.sort_unstable();
    names.shrink_to_fit();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers in no order, by name.
    fn names() -> Vec<(u64, Name)> {
        (0..10_000_u64)
            .map(|at| (at * 7919 % 10_007, Name::from(format!("{at:05}"))))
            .collect()
    }

    #[test]
    fn a_walk_by_inode_number_shows_and_each_name_is_planned_once() {
        let mut sorted = names();
        sorted.sort();
        let mut order = InodeOrder::default();
        for (ino, _) in &sorted[1..=16] {
            assert!(!order.is_followed());
            order.step(*ino);
        }
        assert!(order.is_followed());
        let mut plans = 0;
        let mut planned = Vec::new();
        while let Some(name) = order.next(|after| {
            plans += 1;
            plan(names().into_iter(), after)
        }) {
            planned.push(name);
        }
        let expected: Vec<_> = sorted[17..].iter().map(|(_, name)| name.clone()).collect();
        assert_eq!(planned, expected);
        assert_eq!(plans, 4, "the last finds nothing more");
        order.step(sorted[17].0);
        assert!(order.next(|_| unreachable!("all is planned")).is_none());
    }

    #[test]
    fn what_the_walker_has_passed_is_not_planned() {
        let mut order = InodeOrder::default();
        for ino in 1..=20 {
            order.step(ino);
        }
        let names = (21..30).map(|ino| (ino, Name::from(format!("{ino}"))));
        assert_eq!(
            order.next(|after| plan(names, after)).as_deref(),
            Some("21")
        );
        order.step(25);
        assert_eq!(order.next(|_| unreachable!()).as_deref(), Some("26"));
    }

    #[test]
    fn a_lookup_of_a_lower_number_is_a_new_beginning() {
        let mut order = InodeOrder::default();
        for ino in 1..=20 {
            order.step(ino);
        }
        order.step(3);
        assert!(!order.is_followed());
        for ino in 4..=19 {
            order.step(ino);
        }
        assert!(order.is_followed());
        let after = order.next(|after| vec![(after + 1, Name::from("next"))]);
        assert_eq!(after.as_deref(), Some("next"));
    }

    #[test]
    fn the_same_name_again_proves_nothing() {
        let mut order = InodeOrder::default();
        for _ in 0..100 {
            order.step(7);
        }
        assert!(!order.is_followed());
    }
}
