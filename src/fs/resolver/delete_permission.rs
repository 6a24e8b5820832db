//! Whether the bucket lets us delete, by directory, as far as its answers have told.
//!
//! A rename is a copy and then a DELETE, and only the DELETE shows whether it is allowed. Where it is refused the
//! copy is undone, but what the copy has replaced is gone by then. So before a copy replaces anything, and
//! where the last DELETE was refused, a key that does not exist is deleted first: policies are looked at before
//! the object is.

use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use lru::LruCache;

/// Directories remembered.
const DIRECTORIES: usize = 256;

/// How long an answer counts: policies seldom change.
const LASTS: Duration = Duration::from_secs(600);

pub(crate) struct DeletePermissions(LruCache<String, (bool, Instant)>);

impl Default for DeletePermissions {
    fn default() -> DeletePermissions {
        let most = NonZeroUsize::new(DIRECTORIES).expect("not zero");
        DeletePermissions(LruCache::new(most))
    }
}

impl DeletePermissions {
    pub(super) fn note(&mut self, key: &str, allowed: bool, now: Instant) {
        self.0.put(directory_of(key).to_owned(), (allowed, now));
    }

    /// None: nothing is known, or not any more.
    pub(super) fn known(&mut self, key: &str, now: Instant) -> Option<bool> {
        let (allowed, at) = *self.0.get(directory_of(key))?;
        (now.saturating_duration_since(at) <= LASTS).then_some(allowed)
    }
}

/// The part of a key up to its last `/`; for a directory's marker, that of the directory's own name.
fn directory_of(key: &str) -> &str {
    let path = key.strip_suffix('/').unwrap_or(key);
    &path[..path.rfind('/').map_or(0, |slash| slash + 1)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permissions_are_those_of_the_directory_and_do_not_last_for_ever() {
        let start = Instant::now();
        let mut known = DeletePermissions::default();
        known.note("a/b/c", true, start);
        known.note("a/d/", false, start);
        known.note("top", true, start);
        let late = start + LASTS + Duration::from_secs(1);
        for (key, at, expected) in [
            ("a/b/other", start, Some(true)),
            ("a/b/directory/", start, Some(true)),
            ("a/b/directory/file", start, None),
            ("a/file", start, Some(false)),
            ("other", start, Some(true)),
            ("a/b/c", late, None),
        ] {
            assert_eq!(known.known(key, at), expected, "{key}");
        }
        for i in 0..DIRECTORIES {
            known.note(&format!("many/{i}/x"), true, start);
        }
        assert_eq!(known.known("a/b/c", start), None);
    }
}
