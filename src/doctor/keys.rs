//! Whether the given keys fit together, and fit the bucket.

use std::sync::Arc;

use super::check::Checks;
use crate::crypto::key_ring::KeyRing;
use crate::encrypted::key_check::{self, Fit, Listed, Policy};
use crate::encrypted::{EncryptedBucket, Settings};
use crate::store::object_store::ObjectStore;

/// The keys that the command was given.
pub(crate) enum Keys {
    None,
    Ring(KeyRing),
    /// The reason why they cannot be used, with advice.
    Refused(String),
}

pub(super) const NAMES: [&str; 2] = ["keys", "keys-of-objects"];

/// The ring, if it can be used.
pub(super) fn check(checks: &mut Checks<'_>, keys: Keys) -> Option<KeyRing> {
    match keys {
        Keys::None => {
            checks.skip("keys", "no key was given (--private-key, --public-key)");
            None
        }
        Keys::Refused(why) => {
            checks.fail(
                "keys",
                why,
                "ossvault key show FILE describes a key file; docs/keys.md lists what is supported",
            );
            None
        }
        Keys::Ring(ring) => {
            let what = match (ring.can_read(), ring.can_read_own_writing()) {
                (true, true) => "they open what they write",
                (true, false) => "they do not open what they write",
                (false, _) => "for writing alone",
            };
            let found = format!("{what}; fingerprint {}", key_check::fingerprints_of(&ring));
            match ring.can_read() && !ring.can_read_own_writing() {
                false => checks.ok("keys", found),
                true => checks.warn(
                    "keys",
                    found,
                    "give the private half of the writing key too, unless this is intended",
                ),
            }
            Some(ring)
        }
    }
}

/// Whether the bucket's objects are for one of them.
pub(super) async fn of_objects(
    checks: &mut Checks<'_>,
    store: &Arc<dyn ObjectStore>,
    prefix: &str,
    ring: Option<KeyRing>,
) {
    const NAME: &str = "keys-of-objects";
    let Some(ring) = ring else {
        let named = key_check::sample(store, prefix).await.named;
        return checks.skip(
            NAME,
            match named.is_empty() {
                true => "there is no key to compare".to_owned(),
                false => format!(
                    "there is no key to compare; the objects name fingerprints that begin with {}",
                    named.join(", ")
                ),
            },
        );
    };
    let own = key_check::fingerprints_of(&ring);
    let bucket = EncryptedBucket::new(store.clone(), ring, Settings::default());
    let policy = Policy {
        accept: false,
        write: false,
    };
    match key_check::at_mount(&bucket, prefix, Listed::Unknown, policy).await {
        Ok(Fit::Marked) => checks.ok(NAME, "the bucket's key marker names one of the keys"),
        Ok(Fit::Named) => checks.ok(NAME, "an object names one of the keys"),
        Ok(Fit::Unknown) => checks.ok(NAME, "nothing names a key, or it cannot be read"),
        Err(foreign) => checks.fail(
            NAME,
            format!("the objects are for another key: {foreign}; the given key has the fingerprint {own}"),
            "give the key that they are for with --private-key; to write for the given key anyway, mount with --accept-key",
        ),
    }
}
