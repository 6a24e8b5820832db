//! A keyed checksum that distinguishes what this machine wrote from what others wrote.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

use super::random;

/// The length of a key and of a checksum, in bytes.
pub const LEN: usize = 32;

/// A key for HMAC-SHA256.
pub struct MacKey(Zeroizing<[u8; LEN]>);

impl MacKey {
    pub fn generate() -> MacKey {
        let mut key = Zeroizing::new([0; LEN]);
        random::fill(&mut *key);
        MacKey(key)
    }

    /// None if the length is wrong.
    pub fn from_bytes(bytes: &[u8]) -> Option<MacKey> {
        Some(MacKey(Zeroizing::new(bytes.try_into().ok()?)))
    }

    /// To be stored where no other user can read it.
    pub fn as_bytes(&self) -> &[u8; LEN] {
        &self.0
    }

    /// Covers several fields, each preceded by its length, so that no bytes can move from one to the next.
    pub fn sum(&self, fields: &[&[u8]]) -> [u8; LEN] {
        self.over(fields).finalize().into_bytes().into()
    }

    /// In constant time.
    pub fn verifies(&self, fields: &[&[u8]], sum: &[u8]) -> bool {
        self.over(fields).verify_slice(sum).is_ok()
    }

    fn over(&self, fields: &[&[u8]]) -> Hmac<Sha256> {
        let mut mac =
            Hmac::<Sha256>::new_from_slice(&*self.0).expect("HMAC takes keys of any length");
        for field in fields {
            mac.update(&(field.len() as u64).to_be_bytes());
            mac.update(field);
        }
        mac
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mac_depends_on_its_key_and_its_fields() {
        let key = MacKey::from_bytes(&[1; LEN]).unwrap();
        let sum = key.sum(&[b"ab", b"c"]);
        assert!(key.verifies(&[b"ab", b"c"], &sum));
        for (other, fields) in [
            (1, &[&b"a"[..], b"bc"][..]),
            (1, &[b"abc"]),
            (1, &[b"ab", b"c", b""]),
            (2, &[b"ab", b"c"]),
        ] {
            let key = MacKey::from_bytes(&[other; LEN]).unwrap();
            assert!(!key.verifies(fields, &sum), "{other} {fields:?}");
        }
        assert!(!key.verifies(&[b"ab", b"c"], &sum[..31]));
        assert!(MacKey::from_bytes(&[0; 31]).is_none());
        assert_ne!(MacKey::generate().as_bytes(), MacKey::generate().as_bytes());
    }
}
