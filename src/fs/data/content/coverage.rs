//! Which bytes of an object have been fetched, and their CRC-64: when ranges fetched in any order have
//! covered the whole object, its checksum is known without reading it again.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::base::crc64;

/// Disjoint stretches kept before giving up: scattered reads of a huge object would fill memory with
/// stretches that never meet.
const STRETCHES: usize = 4096;

#[derive(Debug, Default)]
pub(super) struct Coverage {
    /// Start to (end, CRC-64/XZ of the bytes between), neither overlapping nor touching.
    stretches: BTreeMap<u64, (u64, u64)>,
}

impl Coverage {
    /// Adds a fetched range with its CRC-64. Returns the whole object's once `0..size` is covered.
    ///
    /// A range that overlaps what is covered is ignored: its own share cannot be told apart.
    pub(super) fn add(&mut self, range: Range<u64>, crc: u64, size: u64) -> Option<u64> {
        let Range { mut start, mut end } = range;
        let mut crc = crc;
        let before = self.stretches.range(..end).next_back();
        let before = before.map(|(start, stretch)| (*start, *stretch));
        match before {
            Some((_, (before_end, _))) if before_end > start => return None,
            Some((before_start, (before_end, before_crc))) if before_end == start => {
                crc = crc64::combine(before_crc, crc, end - start);
                start = before_start;
            }
            _ => {}
        }
        if let Some((after_end, after_crc)) = self.stretches.remove(&end) {
            crc = crc64::combine(crc, after_crc, after_end - end);
            end = after_end;
        }
        self.stretches.insert(start, (end, crc));
        if self.stretches.len() > STRETCHES {
            self.stretches.clear();
        }
        (start == 0 && end == size).then_some(crc)
    }

    pub(super) fn clear(&mut self) {
        self.stretches.clear();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn ranges_in_any_order_give_the_crc_of_the_whole(
            content in proptest::collection::vec(any::<u8>(), 1..2000),
            cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..12),
            order in any::<u64>(),
        ) {
            let mut edges: Vec<usize> = cuts.iter().map(|cut| cut.index(content.len())).collect();
            edges.extend([0, content.len()]);
            edges.sort();
            edges.dedup();
            let mut ranges: Vec<_> = edges.windows(2).map(|pair| pair[0]..pair[1]).collect();
            ranges.sort_by_key(|range| (range.start as u64 + 1).wrapping_mul(order | 1));
            let mut coverage = Coverage::default();
            let size = content.len() as u64;
            for (index, range) in ranges.iter().enumerate() {
                let crc = crc64::of(&content[range.clone()]);
                let bytes = range.start as u64..range.end as u64;
                let whole = coverage.add(bytes.clone(), crc, size);
                let expected = (index + 1 == ranges.len()).then(|| crc64::of(&content));
                prop_assert_eq!(whole, expected);
                prop_assert_eq!(coverage.add(bytes, crc, size), None, "the same range again");
            }
        }
    }

    #[test]
    fn scattered_ranges_are_forgotten_before_they_fill_memory() {
        let mut coverage = Coverage::default();
        for index in 0..STRETCHES as u64 * 2 {
            coverage.add(index * 2..index * 2 + 1, 0, u64::MAX);
            assert!(coverage.stretches.len() <= STRETCHES);
        }
    }
}
