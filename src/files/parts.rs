//! Which parts an upload has. Pure.

use crate::store::object_store::ByteRange;

/// Part sizes are multiples of this, in bytes: the unit of later integrity trees.
const UNIT: u64 = 128 << 10;

/// The most parts an upload may have.
const MAX_PARTS: u64 = 10_000;

/// The largest part, in bytes: 5 GiB.
const MAX_PART: u64 = 5 << 30;

/// The largest object, in bytes: 10,000 parts of 5 GiB.
pub const MAX_OBJECT: u64 = MAX_PARTS * MAX_PART;

/// After so many parts, the parts of an upload of unknown length double.
const DOUBLES_AFTER: u64 = 250;

/// The size of part `number` (from 1) of an upload whose length is not known yet, in bytes.
pub fn growing(first: u64, number: u64) -> u64 {
    let doublings = (number.saturating_sub(1) / DOUBLES_AFTER).min(20);
    (first << doublings).min(MAX_PART)
}

/// The parts of what remains of an object of `size` bytes from `from` on, the next being `number`.
/// `first`: the size of small uploads' parts. Empty if nothing remains.
pub fn plan(from: u64, size: u64, number: u16, first: u64) -> Vec<(u16, ByteRange)> {
    let room = MAX_PARTS + 1 - u64::from(number);
    let least = (size - from).div_ceil(room).next_multiple_of(UNIT);
    let part = growing(first, number.into()).max(least);
    let mut parts = Vec::new();
    let mut at = from;
    let mut number = number;
    while at < size {
        let end = size.min(at + part);
        parts.push((number, at..end));
        at = end;
        number += 1;
    }
    parts
}

/// The parts of an object whose size is announced before its upload: all of them equal but the last.
pub fn equal(size: u64, least: u64) -> Vec<(u16, ByteRange)> {
    let part = size.div_ceil(MAX_PARTS).next_multiple_of(UNIT).max(least);
    let starts = (0..size.div_ceil(part)).map(|index| index * part);
    starts
        .zip(1..)
        .map(|(start, number)| (number, start..size.min(start + part)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: u64 = 8 << 20;

    #[test]
    fn parts_cover_the_object_within_the_services_limits() {
        for size in [1, FIRST - 1, FIRST, FIRST + 1, 100 << 30, 48 << 40] {
            for (from, number) in [(0, 1), (FIRST.min(size), 2)] {
                let parts = plan(from, size, number, FIRST);
                let mut at = from;
                for (index, (part, range)) in parts.iter().enumerate() {
                    assert_eq!(u64::from(*part), u64::from(number) + index as u64);
                    assert_eq!(range.start, at);
                    assert!(range.end - range.start <= MAX_PART);
                    assert!(range.end == size || (range.end - range.start) % UNIT == 0);
                    at = range.end;
                }
                assert_eq!(at, size);
                assert!(parts.len() as u64 <= MAX_PARTS);
            }
        }
    }

    #[test]
    fn equal_parts_are_equal() {
        for size in [1, FIRST, FIRST + 1, 100 << 30, 48 << 40] {
            let parts = equal(size, FIRST);
            let part = parts[0].1.end;
            assert!(parts.len() as u64 <= MAX_PARTS && part.is_multiple_of(UNIT) || size == part);
            for (index, (number, range)) in parts.iter().enumerate() {
                assert_eq!(usize::from(*number), index + 1);
                assert_eq!(
                    *range,
                    index as u64 * part..size.min((index as u64 + 1) * part)
                );
            }
        }
    }

    #[test]
    fn growing_parts_reach_far() {
        let total: u64 = (1..=MAX_PARTS).map(|number| growing(FIRST, number)).sum();
        assert!(total > 30 << 40, "{total}");
        assert_eq!(growing(FIRST, 1), FIRST);
        assert_eq!(growing(FIRST, MAX_PARTS), MAX_PART);
    }
}
