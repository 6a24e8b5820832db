//! The keys of a mount: the public key that encrypts, and the private keys that decrypt.
//!
//! The key for an object is found by trial. The object's hint (the key id that ossvault writes, or an SDK's
//! material description) determines the first key to try; it is remembered and never trusted, since a wrong
//! hint costs one more trial.
//!
//! PKCS#1 v1.5 has special rules. An attacker who controls the bucket can relabel any wrapped value and
//! observe whether processing continues, which is an oracle for the plaintext of other objects' keys. So an
//! envelope that no key opens gets a key computed from its text under a secret of this process, processing
//! continues as if it had been opened, and the error is reported only when bytes would be returned
//! ([`ContentCipher::unopened`]). All keys are always tried. After [`KeyRing::PKCS1_LIMIT`] such envelopes,
//! v1.5 is disabled for the process, however many rings it has.

use std::collections::HashSet;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock};

use lru::LruCache;
use zeroize::Zeroizing;

use super::ctr::ContentCipher;
use super::data_key::{CounterStart, DataKey, hmac_sha256};
use super::random;
use super::rsa_key::{PrivateKey, ProofFailed, PublicKey};

/// The number of remembered hints: there is one per key that writes to the bucket, so few exist.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(256).expect("256 is not zero");

/// Longer hints, which come from metadata, are not remembered; in bytes.
const LONGEST_HINT: usize = 1024;

pub struct KeyRing {
    private: Vec<PrivateKey>,
    writing: PublicKey,
    /// The key that opened the last object with this hint. A leaf: held only for a lookup.
    remembered: Mutex<LruCache<String, usize>>,
    /// The key that opened the last object without a hint.
    last: AtomicUsize,
    pkcs1: Arc<Pkcs1Guard>,
}

/// v1.5 is disabled: too many envelopes could not be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "too many PKCS#1 v1.5 envelopes could not be opened; no more are tried in this process (see --pkcs1-limit)"
)]
pub struct Pkcs1Stopped;

impl KeyRing {
    /// How many different v1.5 envelopes may fail to open before v1.5 is disabled. An oracle attack needs
    /// tens of thousands; a bucket with objects of a foreign key becomes obvious long before.
    pub const PKCS1_LIMIT: usize = 64;

    /// `private` in the order in which they are tried; `writing` need not belong to any of them.
    pub fn new(private: Vec<PrivateKey>, writing: PublicKey) -> KeyRing {
        KeyRing {
            private,
            writing,
            remembered: Mutex::new(LruCache::new(REMEMBERED)),
            last: AtomicUsize::new(0),
            pkcs1: Arc::new(Pkcs1Guard::new(Self::PKCS1_LIMIT)),
        }
    }

    /// One key for both.
    pub fn single(key: PrivateKey) -> KeyRing {
        let writing = key.public().clone();
        KeyRing::new(vec![key], writing)
    }

    /// A ring that cannot read what it writes.
    pub fn write_only(writing: PublicKey) -> KeyRing {
        KeyRing::new(vec![], writing)
    }

    /// Replaces [`PKCS1_LIMIT`](Self::PKCS1_LIMIT) for this ring only.
    #[must_use]
    pub fn with_pkcs1_limit(mut self, limit: usize) -> KeyRing {
        self.pkcs1 = Arc::new(Pkcs1Guard::new(limit));
        self
    }

    /// Shares its count with every other ring of the process for which this was called; the first call sets
    /// the limit. Commands build their rings with it, because an attacker counts tries, not rings.
    #[must_use]
    pub fn with_process_pkcs1_limit(mut self, limit: usize) -> KeyRing {
        static SHARED: OnceLock<Arc<Pkcs1Guard>> = OnceLock::new();
        let shared = SHARED.get_or_init(|| Arc::new(Pkcs1Guard::new(limit)));
        self.pkcs1 = shared.clone();
        self
    }

    pub fn writing(&self) -> &PublicKey {
        &self.writing
    }

    /// The public halves of the private keys, in their order.
    pub fn reading(&self) -> impl Iterator<Item = &PublicKey> {
        self.private.iter().map(PrivateKey::public)
    }

    pub fn can_read(&self) -> bool {
        !self.private.is_empty()
    }

    /// Whether this ring can read what it writes.
    pub fn can_read_own_writing(&self) -> bool {
        self.reading().any(|key| *key == self.writing)
    }

    /// Whether a hint names a key of this ring; false if it is not a key id.
    pub fn has(&self, key_id: &str) -> bool {
        self.reading().any(|key| key.key_id() == key_id)
    }

    /// Tests each private key with one wrap and unwrap.
    ///
    /// # Errors
    /// [`ProofFailed`].
    pub fn prove(&self) -> Result<(), ProofFailed> {
        self.private.iter().try_for_each(PrivateKey::prove)
    }

    /// Unwraps OAEP values that belong together, the first one by trial, the others with the key that opened
    /// it. Also returns that key. None if no key opens all of them. Blocks.
    pub fn unwrap<const N: usize>(
        &self,
        hint: Option<&str>,
        wrapped: [&[u8]; N],
    ) -> Option<([Zeroizing<Vec<u8>>; N], &PublicKey)> {
        for index in self.order(hint) {
            let key = &self.private[index];
            let opened: Vec<_> = wrapped.iter().map_while(|w| key.unwrap(w)).collect();
            if let Ok(opened) = opened.try_into() {
                self.remember(hint, index);
                return Some((opened, key.public()));
            }
        }
        None
    }

    /// Opens an SDK envelope. To an outside observer it always succeeds, see the module's documentation; the
    /// key is None for a cipher that is [unopened](ContentCipher::unopened). An envelope that `accepts`
    /// refuses counts as not opened. Blocks.
    ///
    /// # Errors
    /// [`Pkcs1Stopped`].
    pub fn open_pkcs1(
        &self,
        wrapped_key: &[u8],
        wrapped_start: &[u8],
        accepts: impl Fn(&DataKey, CounterStart) -> bool,
    ) -> Result<(ContentCipher, Option<&PublicKey>), Pkcs1Stopped> {
        let stand_in = self.pkcs1.stand_in(wrapped_key, wrapped_start);
        let attempt = self.pkcs1.begin(&stand_in)?;
        let opened = self
            .try_pkcs1(wrapped_key, wrapped_start)
            .filter(|(key, start, _)| accepts(key, *start));
        Ok(match opened {
            Some((key, start, public)) => (ContentCipher::new(key, start), Some(public)),
            None => {
                attempt.failed();
                (stand_in.into_cipher(), None)
            }
        })
    }

    /// Whether a key opens an SDK envelope. For callers whose requests to the store do not depend on the
    /// answer: failures are not counted. Blocks.
    pub fn opens_pkcs1(&self, wrapped_key: &[u8], wrapped_start: &[u8]) -> bool {
        self.try_pkcs1(wrapped_key, wrapped_start).is_some()
    }

    fn try_pkcs1(
        &self,
        wrapped_key: &[u8],
        wrapped_start: &[u8],
    ) -> Option<(DataKey, CounterStart, &PublicKey)> {
        let mut opened = None;
        for private in &self.private {
            let key = private.unwrap_pkcs1(wrapped_key);
            let start = private.unwrap_pkcs1(wrapped_start);
            let key = key.and_then(|key| DataKey::from_slice(&key));
            let start = start.and_then(|start| <[u8; 16]>::try_from(start.as_slice()).ok());
            if let (Some(key), Some(start)) = (key, start) {
                opened = Some((key, CounterStart::from_be_bytes(start), private.public()));
            }
        }
        opened
    }

    /// Each key once, the likeliest first.
    fn order(&self, hint: Option<&str>) -> impl Iterator<Item = usize> {
        let likely = match hint {
            None => self.last.load(Ordering::Relaxed),
            Some(hint) => self
                .private
                .iter()
                .position(|key| key.public().key_id() == hint)
                .or_else(|| {
                    self.remembered
                        .lock()
                        .expect("never poisoned")
                        .get(hint)
                        .copied()
                })
                .unwrap_or(0),
        };
        let count = self.private.len();
        (likely < count)
            .then_some(likely)
            .into_iter()
            .chain((0..count).filter(move |&i| i != likely))
    }

    fn remember(&self, hint: Option<&str>, index: usize) {
        match hint {
            Some(hint) if hint.len() > LONGEST_HINT => {}
            None => self.last.store(index, Ordering::Relaxed),
            Some(hint) => {
                let mut remembered = self.remembered.lock().expect("never poisoned");
                if remembered.get(hint) != Some(&index) {
                    remembered.put(hint.to_owned(), index);
                }
            }
        }
    }
}

/// Computes keys for envelopes that cannot be opened, and counts those envelopes.
struct Pkcs1Guard {
    secret: Zeroizing<[u8; 32]>,
    limit: usize,
    /// A leaf: held only for a lookup.
    tried: Mutex<Tried>,
    /// Signals the end of an attempt.
    ended: Condvar,
}

#[derive(Default)]
struct Tried {
    /// One digest per envelope that could not be opened, at most `limit` of them. Reading the same damaged
    /// object again reveals nothing new and is not counted.
    failed: HashSet<[u8; 32]>,
    /// Attempts in progress, each of which may add one more.
    under_way: usize,
}

struct StandIn {
    key: Zeroizing<[u8; 32]>,
    start: Zeroizing<[u8; 32]>,
}

impl StandIn {
    fn into_cipher(self) -> ContentCipher {
        let start = self.start.first_chunk().expect("16 of 32 bytes");
        ContentCipher::unopened(
            DataKey::from_bytes(self.key),
            CounterStart::from_be_bytes(*start),
        )
    }
}

impl Pkcs1Guard {
    fn new(limit: usize) -> Pkcs1Guard {
        let mut secret = Zeroizing::new([0; 32]);
        random::fill(secret.as_mut_slice());
        Pkcs1Guard {
            secret,
            limit,
            tried: Mutex::default(),
            ended: Condvar::new(),
        }
    }

    /// Reserves one of the remaining failures before anything is unwrapped, so that concurrent attempts count
    /// like sequential ones. Waits while all of them are reserved.
    fn begin(&self, stand_in: &StandIn) -> Result<Attempt<'_>, Pkcs1Stopped> {
        let digest = hmac_sha256(b"seen", &[stand_in.key.as_slice()]);
        let mut tried = self.tried.lock().expect("never poisoned");
        loop {
            if tried.failed.len() >= self.limit {
                return Err(Pkcs1Stopped);
            }
            if tried.failed.len() + tried.under_way < self.limit {
                break;
            }
            tried = self.ended.wait(tried).expect("never poisoned");
        }
        tried.under_way += 1;
        Ok(Attempt {
            guard: self,
            digest: *digest,
        })
    }

    fn stand_in(&self, wrapped_key: &[u8], wrapped_start: &[u8]) -> StandIn {
        let derive = |label: &[u8]| {
            let length = (wrapped_key.len() as u64).to_be_bytes();
            hmac_sha256(
                self.secret.as_slice(),
                &[label, &length, wrapped_key, wrapped_start],
            )
        };
        StandIn {
            key: derive(b"key"),
            start: derive(b"start"),
        }
    }
}

/// One envelope being tried. Releases its reservation when dropped.
struct Attempt<'a> {
    guard: &'a Pkcs1Guard,
    digest: [u8; 32],
}

impl Attempt<'_> {
    fn failed(self) {
        let mut tried = self.guard.tried.lock().expect("never poisoned");
        if tried.failed.insert(self.digest) && tried.failed.len() == self.guard.limit {
            log::error!(
                "none of the private keys opened {} envelopes wrapped with PKCS#1 v1.5: no more are tried until the next start",
                self.guard.limit
            );
        }
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        self.guard.tried.lock().expect("never poisoned").under_way -= 1;
        self.guard.ended.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::key_pair::KeyPair;
    use std::sync::LazyLock;

    static PAIRS: LazyLock<[KeyPair; 3]> =
        LazyLock::new(|| std::array::from_fn(|_| KeyPair::generate(2048).unwrap()));

    fn key(index: usize) -> PrivateKey {
        let pem = PAIRS[index].private_pem(None).unwrap();
        crate::crypto::key_parse::private_key(pem.as_bytes(), &mut || None).unwrap()
    }

    fn ring(indices: &[usize]) -> KeyRing {
        KeyRing::new(
            indices.iter().map(|&i| key(i)).collect(),
            PAIRS[indices[0]].public().clone(),
        )
    }

    fn any(_: &DataKey, _: CounterStart) -> bool {
        true
    }

    #[test]
    fn finds_the_key_by_trial_whatever_the_hint_says() {
        let ring = ring(&[0, 1]);
        let id = |i: usize| PAIRS[i].public().key_id().to_owned();
        for wrapped_by in [0, 1, 1, 0] {
            let wrapped = PAIRS[wrapped_by].public().wrap(b"secret");
            for hint in [
                None,
                Some(id(0)),
                Some(id(1)),
                Some(id(2)),
                Some("{}".into()),
            ] {
                let ([opened], by) = ring.unwrap(hint.as_deref(), [&wrapped]).unwrap();
                assert_eq!(**opened, *b"secret");
                assert_eq!(by, PAIRS[wrapped_by].public());
                let first = ring.order(hint.as_deref()).next();
                match hint.as_deref() {
                    // The remembered key is tried first, but not before a key that is named.
                    None | Some("{}") => assert_eq!(first, Some(wrapped_by)),
                    Some(hint) if ring.has(hint) => {}
                    Some(_) => assert_eq!(first, Some(wrapped_by)),
                }
                assert_eq!(ring.order(hint.as_deref()).count(), 2);
            }
        }
        let foreign = PAIRS[2].public().wrap(b"secret");
        assert!(ring.unwrap(None, [&foreign]).is_none());
        let one = PAIRS[0].public().wrap(b"key");
        assert!(ring.unwrap(None, [&one, &foreign]).is_none());
    }

    #[test]
    fn v15_opens_with_any_of_the_keys() {
        let ring = ring(&[0, 1]);
        for index in [0, 1] {
            let public = PAIRS[index].public();
            let (cipher, by) = ring
                .open_pkcs1(
                    &public.wrap_pkcs1(&[3; 32]),
                    &public.wrap_pkcs1(&[4; 16]),
                    any,
                )
                .unwrap();
            assert!(cipher.is_opened());
            assert_eq!(cipher.key().expose(), &[3; 32]);
            assert_eq!(cipher.start().to_be_bytes(), [4; 16]);
            assert_eq!(by, Some(public));
        }
    }

    #[test]
    fn unopened_v15_envelopes_look_opened_until_v15_is_disabled() {
        let ring = ring(&[0]).with_pkcs1_limit(4);
        let public = PAIRS[0].public();
        let (key, start) = (public.wrap_pkcs1(&[3; 32]), public.wrap_pkcs1(&[4; 16]));
        let foreign = PAIRS[2].public().wrap_pkcs1(&[3; 32]);
        for (name, bad_key, bad_start) in [
            ("foreign", foreign.clone(), start.clone()),
            ("wrong length", public.wrap_pkcs1(&[3; 31]), start.clone()),
            ("wrong start", key.clone(), public.wrap_pkcs1(&[4; 17])),
        ] {
            let open = || ring.open_pkcs1(&bad_key, &bad_start, any).unwrap();
            let (first, by) = open();
            assert!(!first.is_opened() && by.is_none(), "{name}");
            // The same each time, and counted once.
            let (again, _) = open();
            assert_eq!(first.key().expose(), again.key().expose(), "{name}");
            assert_eq!(first.start(), again.start(), "{name}");
        }
        assert!(ring.open_pkcs1(&key, &start, any).unwrap().0.is_opened());
        let (last, _) = ring.open_pkcs1(&start, &key, any).unwrap();
        assert!(!last.is_opened());
        assert_eq!(ring.open_pkcs1(&key, &start, any).err(), Some(Pkcs1Stopped));
        // OAEP is not affected.
        assert!(ring.unwrap(None, [&public.wrap(b"a")]).is_some());
    }

    /// Regression: the limit was checked before and counted after the attempt, so concurrent attempts
    /// exceeded it.
    #[test]
    fn v15_failures_never_exceed_the_limit_however_many_are_tried_at_once() {
        const LIMIT: usize = 8;
        let ring = ring(&[0, 1]).with_pkcs1_limit(LIMIT);
        let public = PAIRS[0].public();
        let start = public.wrap_pkcs1(&[4; 16]);
        let bad: Vec<_> = (0..200).map(|_| public.wrap_pkcs1(&[3; 31])).collect();
        let unopened = AtomicUsize::new(0);
        let begin = std::sync::Barrier::new(bad.len());
        std::thread::scope(|scope| {
            for key in &bad {
                scope.spawn(|| {
                    begin.wait();
                    if ring.open_pkcs1(key, &start, any).is_ok() {
                        unopened.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
        assert_eq!(unopened.into_inner(), LIMIT);
    }

    /// Attempts in progress count, but a successful one releases its reservation: none is refused because of
    /// it.
    #[test]
    fn v15_envelopes_that_open_are_never_refused_however_many_are_tried_at_once() {
        let ring = ring(&[0]).with_pkcs1_limit(2);
        let public = PAIRS[0].public();
        let (key, start) = (public.wrap_pkcs1(&[3; 32]), public.wrap_pkcs1(&[4; 16]));
        // One failure is left, and trying a known one again does not use it up.
        let bad = public.wrap_pkcs1(&[3; 31]);
        ring.open_pkcs1(&bad, &start, any).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..50 {
                scope.spawn(|| assert!(ring.open_pkcs1(&key, &start, any).unwrap().0.is_opened()));
                scope.spawn(|| assert!(!ring.open_pkcs1(&bad, &start, any).unwrap().0.is_opened()));
            }
        });
    }

    #[test]
    fn an_envelope_that_the_caller_refuses_looks_unopened() {
        let ring = ring(&[0]).with_pkcs1_limit(1);
        let public = PAIRS[0].public();
        let (key, start) = (public.wrap_pkcs1(&[3; 32]), public.wrap_pkcs1(&[4; 16]));
        let opened = |accepted| ring.open_pkcs1(&key, &start, |_, _| accepted);
        assert!(opened(true).unwrap().0.is_opened());
        let (refused, by) = opened(false).unwrap();
        assert!(!refused.is_opened() && by.is_none());
        // It counts like one as well.
        assert_eq!(opened(true).err(), Some(Pkcs1Stopped));
    }

    /// Regression: each ring had its own count, so two keys for a rotation allowed twice as many tries.
    #[test]
    fn the_rings_of_a_process_share_one_limit() {
        let (one, two) = (ring(&[0]), ring(&[1]));
        let one = one.with_process_pkcs1_limit(2);
        let two = two.with_process_pkcs1_limit(100);
        let start = PAIRS[2].public().wrap_pkcs1(&[4; 16]);
        let foreign = |byte| PAIRS[2].public().wrap_pkcs1(&[byte; 32]);
        assert!(one.open_pkcs1(&foreign(1), &start, any).is_ok());
        assert!(two.open_pkcs1(&foreign(2), &start, any).is_ok());
        for ring in [&one, &two] {
            let third = ring.open_pkcs1(&foreign(3), &start, any);
            assert_eq!(third.err(), Some(Pkcs1Stopped));
        }
        let own = ring(&[0]).with_pkcs1_limit(1);
        assert!(own.open_pkcs1(&foreign(3), &start, any).is_ok());
    }

    #[test]
    fn knows_what_it_can_read() {
        for (ring, can_read, own) in [
            (ring(&[0]), true, true),
            (KeyRing::single(key(1)), true, true),
            (
                KeyRing::new(vec![key(0)], PAIRS[1].public().clone()),
                true,
                false,
            ),
            (KeyRing::write_only(PAIRS[1].public().clone()), false, false),
        ] {
            assert_eq!(
                (ring.can_read(), ring.can_read_own_writing()),
                (can_read, own)
            );
            ring.prove().unwrap();
        }
    }
}
