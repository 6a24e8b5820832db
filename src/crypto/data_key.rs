//! The secrets of one object: a random key, the counter its keystream starts at, and their subkeys.
//!
//! The key encrypts content in CTR and is input to HKDF-SHA256, nothing else, ever. A key and a
//! counter never encrypt two different contents: a [`DataKey`] cannot be copied, and is consumed by
//! the one cipher that is made of it.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

use super::random;
use super::stack::wiped;

/// 32 random bytes, in a box of their own and wiped on drop.
pub struct DataKey(Box<Zeroizing<[u8; DataKey::LEN]>>);

impl DataKey {
    /// In bytes.
    pub const LEN: usize = 32;

    /// A fresh key whose derived counter start exists.
    pub fn generate() -> DataKey {
        loop {
            let mut key = DataKey(Box::new(Zeroizing::new([0; DataKey::LEN])));
            random::fill(key.0.as_mut_slice());
            if CounterStart::derive(&key).is_some() {
                return key;
            }
        }
    }

    /// For keys that were unwrapped.
    pub fn from_bytes(bytes: Zeroizing<[u8; DataKey::LEN]>) -> DataKey {
        let mut key = DataKey(Box::new(Zeroizing::new([0; DataKey::LEN])));
        key.0.copy_from_slice(bytes.as_slice());
        key
    }

    /// None unless there are exactly 32 bytes.
    pub fn from_slice(bytes: &[u8]) -> Option<DataKey> {
        if bytes.len() != DataKey::LEN {
            return None;
        }
        let mut key = DataKey(Box::new(Zeroizing::new([0; DataKey::LEN])));
        key.0.copy_from_slice(bytes);
        Some(key)
    }

    /// For wrapping and for the cipher's key schedule; whoever takes a copy wipes it.
    pub fn expose(&self) -> &[u8; DataKey::LEN] {
        &self.0
    }
}

/// The counter of an object's first block: a 128-bit integer, big-endian in the counter block.
/// No secret by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CounterStart(u128);

impl CounterStart {
    /// What a writer of the seed and dual formats uses: HKDF of the key, with bytes 8 to 11 zero as in
    /// the SDKs' IVs, so that readers that add the block number to 64 or even 32 bits agree with us.
    /// None if it were 0, which the documentation example takes for "not given": draw another key.
    pub fn derive(key: &DataKey) -> Option<CounterStart> {
        let start = wiped(|| {
            let prk = hmac_sha256(b"ossvault start v1", &[key.expose()]);
            let okm = hmac_sha256(&*prk, &[b"start", &[1]]);
            let mut start = [0; 16];
            start.copy_from_slice(&okm[..16]);
            start
        });
        let start = u128::from_be_bytes(start) & !(0xffff_ffff << 32);
        (start != 0).then_some(CounterStart(start))
    }

    /// A random start in the shape the SDKs use: 8 random bytes, 4 zero bytes, 4 random bytes. Not 0.
    pub fn generate() -> CounterStart {
        loop {
            let mut bytes = [0u8; 16];
            random::fill(&mut bytes);
            bytes[8..12].fill(0);
            if bytes != [0; 16] {
                return CounterStart::from_be_bytes(bytes);
            }
        }
    }

    pub fn from_be_bytes(bytes: [u8; 16]) -> CounterStart {
        CounterStart(u128::from_be_bytes(bytes))
    }

    pub fn to_be_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    /// The text of the seed and legacy formats: 1 to 39 ASCII digits with a value below 2^128, and
    /// blanks around them, which the documentation example's reader takes too. 0 is read, never written.
    pub fn from_decimal(text: &[u8]) -> Option<CounterStart> {
        let digits = text.trim_ascii();
        if digits.is_empty() || digits.len() > 39 || !digits.iter().all(u8::is_ascii_digit) {
            return None;
        }
        std::str::from_utf8(digits)
            .ok()?
            .parse()
            .ok()
            .map(CounterStart)
    }

    pub fn to_decimal(self) -> String {
        self.0.to_string()
    }

    pub fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// The counter of the block that holds byte `offset`.
    pub fn at(self, offset: u64) -> u128 {
        self.0.wrapping_add(u128::from(offset / 16))
    }
}

/// What a subkey is for. The labels are part of the format.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    Xattr,
    /// The three below are reserved for the integrity layer.
    Leaf,
    Seal,
    Label,
}

impl Purpose {
    fn info(self) -> &'static [u8] {
        match self {
            Purpose::Xattr => b"ossvault/xattr",
            Purpose::Leaf => b"ossvault/leaf",
            Purpose::Seal => b"ossvault/seal",
            Purpose::Label => b"ossvault/label",
        }
    }
}

/// HKDF-SHA256 over key and start. Re-wrapping leaves both alone, so subkeys outlive it. Whoever takes one
/// does that where the stack is wiped.
pub fn subkey(key: &DataKey, start: CounterStart, purpose: Purpose) -> Zeroizing<[u8; 32]> {
    let prk = hmac_sha256(
        b"ossvault subkeys v1",
        &[key.expose(), &start.to_be_bytes()],
    );
    // One block of HKDF-Expand: all our outputs are 32 bytes or fewer.
    hmac_sha256(&*prk, &[purpose.info(), &[1]])
}

pub(super) fn hmac_sha256(key: &[u8], parts: &[&[u8]]) -> Zeroizing<[u8; 32]> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    for part in parts {
        mac.update(part);
    }
    let mut out = Zeroizing::new([0; 32]);
    out.copy_from_slice(&mac.finalize().into_bytes());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    fn sequential() -> DataKey {
        DataKey::from_bytes(Zeroizing::new(std::array::from_fn(|i| i as u8)))
    }

    #[test]
    fn subkeys_are_the_published_ones() {
        let start = CounterStart::from_be_bytes([0, 1, 2, 3, 4, 5, 6, 7, 0, 0, 0, 0, 8, 9, 10, 11]);
        for (purpose, expected) in [
            (
                Purpose::Leaf,
                "92b0cf000d6a08bdcbad6f32570942ce3248f448d275baef7197fa873714fc03",
            ),
            (
                Purpose::Seal,
                "257c9e46035fa2f69a8a79189a4c0d9d6ffd759e559cd7da8ea33431ee95c4d9",
            ),
            (
                Purpose::Xattr,
                "7d668a1e48db04f65c8e991014e34751e64b05256c49c09b5400558c5bd6f745",
            ),
            (
                Purpose::Label,
                "180e6a4e036ceb78fb48206d0064b3713c913847cef314b554c0571c9a05113f",
            ),
        ] {
            assert_eq!(hex(&*subkey(&sequential(), start, purpose)), expected);
        }
    }

    #[test]
    fn the_derived_start_is_the_published_one() {
        let start = CounterStart::derive(&sequential()).unwrap();
        assert_eq!(
            hex(&start.to_be_bytes()),
            "0eaf5e9bfe1ee4fc0000000051f0cfbf"
        );
        assert_eq!(start.to_decimal(), "19519762796746891640986000929097568191");
    }

    #[test]
    fn a_decimal_start_is_digits_below_two_to_the_128() {
        let max = u128::MAX.to_string();
        for (text, expected) in [
            ("7", Some(7)),
            (" 7\n", Some(7)),
            ("0", Some(0)),
            (max.as_str(), Some(u128::MAX)),
            ("340282366920938463463374607431768211456", None),
            ("0000000000000000000000000000000000000007", None),
            ("", None),
            (" ", None),
            ("+7", None),
            ("-7", None),
            ("1_0", None),
            ("0x7", None),
            ("7.", None),
        ] {
            assert_eq!(
                CounterStart::from_decimal(text.as_bytes()),
                expected.map(CounterStart),
                "{text:?}"
            );
        }
    }

    #[test]
    fn generated_starts_have_the_shape_of_the_sdks() {
        for _ in 0..100 {
            assert_eq!(CounterStart::generate().to_be_bytes()[8..12], [0; 4]);
        }
    }
}
