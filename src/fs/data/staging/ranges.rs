//! Which bytes of a file have been written: a set of offsets kept as ranges.

use std::collections::BTreeMap;
use std::ops::Range;

/// A set of `u64`. Its ranges are not empty, do not overlap and do not touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct RangeSet {
    /// Start to end.
    ranges: BTreeMap<u64, u64>,
}

impl RangeSet {
    pub(super) fn insert(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let (mut start, mut end) = (range.start, range.end);
        if let Some((&before, &before_end)) = self.ranges.range(..=start).next_back()
            && before_end >= start
        {
            if before_end >= end {
                return;
            }
            start = before;
        }
        while let Some((&next, &next_end)) = self.ranges.range(start..=end).next() {
            self.ranges.remove(&next);
            end = end.max(next_end);
        }
        self.ranges.insert(start, end);
    }

    /// Removes everything from `start` on.
    pub(super) fn cut(&mut self, start: u64) {
        self.ranges.split_off(&start);
        if let Some((_, end)) = self.ranges.range_mut(..start).next_back() {
            *end = (*end).min(start);
        }
    }

    /// Whether all of `range` is in the set.
    pub(super) fn covers(&self, range: &Range<u64>) -> bool {
        range.is_empty()
            || self
                .ranges
                .range(..=range.start)
                .next_back()
                .is_some_and(|(_, &end)| end >= range.end)
    }

    /// The parts of `range` that are in the set, in order.
    pub(super) fn within(&self, range: Range<u64>) -> impl Iterator<Item = Range<u64>> + '_ {
        let first = self
            .ranges
            .range(..=range.start)
            .next_back()
            .map_or(range.start, |(&start, _)| start);
        let last = range.end.max(first);
        self.ranges
            .range(first..last)
            .map(move |(&start, &end)| start.max(range.start)..end.min(range.end))
            .filter(|part| !part.is_empty())
    }

    /// How many offsets are in the set.
    pub(super) fn total(&self) -> u64 {
        self.ranges.iter().map(|(start, end)| end - start).sum()
    }

    /// How many offsets from 0 on are in the set without a gap.
    pub(super) fn prefix(&self) -> u64 {
        self.ranges.get(&0).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Insert(Range<u64>),
        Cut(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        let range = (0..60_u64, 0..20_u64).prop_map(|(start, len)| start..start + len);
        prop_oneof![
            4 => range.prop_map(Step::Insert),
            1 => (0..80_u64).prop_map(Step::Cut),
        ]
    }

    proptest! {
        #[test]
        fn holds_what_a_list_of_flags_holds(steps in prop::collection::vec(step(), 0..40), asked in (0..80_u64, 0..40_u64)) {
            let mut set = RangeSet::default();
            let mut flags = [false; 120];
            for step in steps {
                match step {
                    Step::Insert(range) => {
                        flags[range.start as usize..range.end as usize].fill(true);
                        set.insert(range);
                    }
                    Step::Cut(start) => {
                        flags[start as usize..].fill(false);
                        set.cut(start);
                    }
                }
            }
            let mut before = None;
            for (&start, &end) in &set.ranges {
                prop_assert!(start < end);
                prop_assert!(before.is_none_or(|before| before < start));
                before = Some(end);
            }
            let asked = asked.0..asked.0 + asked.1;
            let mut found = [false; 120];
            for part in set.within(asked.clone()) {
                prop_assert!(!part.is_empty());
                found[part.start as usize..part.end as usize].fill(true);
            }
            for at in 0..120 {
                prop_assert_eq!(found[at], flags[at] && asked.contains(&(at as u64)));
            }
            prop_assert_eq!(set.covers(&asked), asked.clone().all(|at| flags[at as usize]));
            prop_assert_eq!(set.total(), flags.iter().filter(|flag| **flag).count() as u64);
            prop_assert_eq!(set.prefix(), flags.iter().take_while(|flag| **flag).count() as u64);
        }
    }
}
