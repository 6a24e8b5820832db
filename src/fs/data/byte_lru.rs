//! A cache that holds so many bytes, not so many entries.

use std::hash::Hash;

use lru::LruCache;

use super::budget::Reservation;

/// What was used longest ago goes first.
pub(crate) struct ByteLru<K, V> {
    /// With the bytes of each.
    entries: LruCache<K, (V, u64)>,
    limit: u64,
    held: u64,
    /// None where the bytes are counted elsewhere.
    memory: Option<Reservation>,
}

impl<K: Hash + Eq, V> ByteLru<K, V> {
    /// At most `limit` bytes, which become those of `memory`: None if the bytes are counted elsewhere.
    pub(crate) fn new(limit: u64, memory: Option<Reservation>) -> ByteLru<K, V> {
        ByteLru {
            entries: LruCache::unbounded(),
            limit,
            held: 0,
            memory,
        }
    }

    fn count(&mut self, held: u64) {
        self.held = held;
        if let Some(memory) = &mut self.memory {
            memory.resize(held);
        }
    }

    pub(crate) fn get(&mut self, key: &K) -> Option<&V> {
        self.entries.get(key).map(|(value, _)| value)
    }

    /// Without counting as a use.
    pub(crate) fn peek(&self, key: &K) -> Option<&V> {
        self.entries.peek(key).map(|(value, _)| value)
    }

    /// `bytes`: what the entry takes in memory. One that is larger than all that may be kept is not.
    pub(crate) fn put(&mut self, key: K, value: V, bytes: u64) {
        let mut held = self.held;
        if let Some((_, replaced)) = self.entries.put(key, (value, bytes)) {
            held -= replaced;
        }
        held += bytes;
        while held > self.limit
            && let Some((_, (_, dropped))) = self.entries.pop_lru()
        {
            held -= dropped;
        }
        self.count(held);
    }

    pub(crate) fn pop(&mut self, key: &K) -> Option<V> {
        let (value, bytes) = self.entries.pop(key)?;
        self.count(self.held - bytes);
        Some(value)
    }

    pub(crate) fn clear(&mut self) {
        self.entries.clear();
        self.count(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::data::budget::MemoryBudget;

    #[test]
    fn it_holds_so_many_bytes_and_counts_them() {
        let budget = MemoryBudget::new(1000);
        let mut cache = ByteLru::new(100, Some(budget.charge(0)));
        for (key, bytes, held, kept) in [
            ("a", 40, 40, "a"),
            ("b", 50, 90, "ab"),
            ("a", 20, 70, "ab"),
            ("c", 30, 100, "abc"),
            ("d", 1, 51, "acd"),
            ("e", 101, 0, ""),
            ("f", 100, 100, "f"),
        ] {
            cache.put(key, (), bytes);
            assert_eq!(budget.used(), held, "{key}");
            for all in ["a", "b", "c", "d", "e", "f"] {
                let is_kept = cache.entries.peek(&all).is_some();
                assert_eq!(is_kept, kept.contains(all), "{all} after {key}");
            }
        }
        assert!(cache.pop(&"f").is_some() && cache.pop(&"f").is_none());
        assert_eq!(budget.used(), 0);
        cache.put("g", (), 10);
        cache.clear();
        assert_eq!((budget.used(), cache.get(&"g")), (0, None));
    }
}
