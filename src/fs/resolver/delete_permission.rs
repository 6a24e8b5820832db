//! Whether the bucket lets us delete, by directory, as far as its answers have told.
//!
//! A rename is a copy and then a DELETE, and only the DELETE shows whether it is allowed. Where it is refused the
//! copy is undone, but what the copy has replaced is gone by then. So before a copy replaces anything, and
//! where the last DELETE was refused, a key that does not exist is deleted first: policies are looked at before
//! the object is.

use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use lru::LruCache;

use super::objects::Objects;
use crate::base::sync::lock;
use crate::fs::error::{Error, Refusal, Result};
use crate::fs::namespace::object_name;
use crate::store::object_store::ObjectKey;

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
    fn note(&mut self, key: &str, allowed: bool, now: Instant) {
        self.0.put(directory_of(key).to_owned(), (allowed, now));
    }

    /// None: nothing is known, or not any more.
    fn known(&mut self, key: &str, now: Instant) -> Option<bool> {
        let (allowed, at) = *self.0.get(directory_of(key))?;
        (now.saturating_duration_since(at) <= LASTS).then_some(allowed)
    }
}

/// The part of a key up to its last `/`; for a directory's marker, that of the directory's own name.
fn directory_of(key: &str) -> &str {
    let path = key.strip_suffix('/').unwrap_or(key);
    &path[..path.rfind('/').map_or(0, |slash| slash + 1)]
}

impl Objects {
    /// Remembers how the DELETE of a key ended.
    pub(crate) fn note_deletion<T>(&self, key: &str, result: &Result<T>) {
        let allowed = match result {
            Ok(_) => true,
            Err(Error::Refused(Refusal::Denied | Refusal::NotPermitted, _)) => false,
            Err(_) => return,
        };
        lock(&self.delete_permissions).note(key, allowed, Instant::now());
    }

    /// Before a rename from this key copies anything.
    ///
    /// # Errors
    /// Those of a DELETE that is refused.
    pub(crate) async fn check_deletable(&self, key: &ObjectKey, replaces: bool) -> Result<()> {
        let known = lock(&self.delete_permissions).known(key.as_str(), Instant::now());
        if known.unwrap_or(!replaces) {
            return Ok(());
        }
        let nothing = format!(
            "{}.ossvault-{:016x}",
            key.as_str().trim_end_matches('/'),
            rand::random::<u64>()
        );
        let Ok(nothing) = object_name::object_key(nothing) else {
            return Ok(());
        };
        let result = self.bucket.store().delete(&nothing).await;
        let result = result.map_err(Error::from);
        self.note_deletion(key.as_str(), &result);
        match result {
            Err(error) if error.is_refusal() => Err(error),
            // Without an answer the rename goes on, and its own DELETE is tried as often as it takes.
            _ => Ok(()),
        }
    }
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
