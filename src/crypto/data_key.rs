//! The secrets of one object: a random key, the counter that its keystream starts at, and their subkeys.
//!
//! The key encrypts content in CTR mode and is an input to HKDF-SHA256, and has no other use. A key and a
//! counter never encrypt two different contents: a [`DataKey`] cannot be copied, and is consumed by the one
//! cipher that is created from it.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

use super::random;
use super::stack::wiped;

/// 32 random bytes on the heap, wiped on drop.
pub struct DataKey(Box<Zeroizing<[u8; DataKey::LEN]>>);

impl DataKey {
    /// In bytes.
    pub const LEN: usize = 32;

    /// A fresh key whose derived counter starts exist.
    pub fn generate() -> DataKey {
        loop {
            let mut key = DataKey(Box::new(Zeroizing::new([0; DataKey::LEN])));
            random::fill(key.0.as_mut_slice());
            if derived_starts(&key).iter().all(|start| !start.is_zero()) {
                return key;
            }
        }
    }

    /// For unwrapped keys.
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

    /// For wrapping and for the cipher's key schedule; the caller must wipe any copy.
    pub fn expose(&self) -> &[u8; DataKey::LEN] {
        &self.0
    }
}

/// The type of an object's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContentKind {
    /// A file's bytes, or anything else that is not a link.
    File,
    /// The target of a symbolic link.
    Link,
}

/// What a derived counter start says about its object. Only a holder of the data key can produce the start of
/// another type, so metadata that contradicts it was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StartBinding {
    pub kind: ContentKind,
    /// The object has a seal. Reserved for the integrity layer: never written, and an error if the seal is
    /// missing.
    pub sealed: bool,
}

impl StartBinding {
    pub const ALL: [StartBinding; 4] = [
        StartBinding::of(ContentKind::File),
        StartBinding::of(ContentKind::Link),
        StartBinding {
            kind: ContentKind::File,
            sealed: true,
        },
        StartBinding {
            kind: ContentKind::Link,
            sealed: true,
        },
    ];

    /// For writing: unsealed.
    pub const fn of(kind: ContentKind) -> StartBinding {
        StartBinding {
            kind,
            sealed: false,
        }
    }

    /// The input of HKDF-Expand. Part of the format.
    fn info(self) -> [u8; 5] {
        let [a, b, c, d] = match self.kind {
            ContentKind::File => *b"file",
            ContentKind::Link => *b"link",
        };
        [a, b, c, d, u8::from(self.sealed)]
    }
}

/// The counter of an object's first block: a 128-bit integer, big-endian in the counter block. Not a secret
/// by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CounterStart(u128);

impl CounterStart {
    /// The start for writing: HKDF of the key, with bytes 8 to 11 zero as in the SDKs' IVs, so that readers
    /// that add the block number to only 64 or 32 bits compute the same counters. None if it were 0, which
    /// the documentation example interprets as "not given": generate another key.
    pub fn derive(key: &DataKey, binding: StartBinding) -> Option<CounterStart> {
        let index = StartBinding::ALL.iter().position(|of| *of == binding);
        let start = derived_starts(key)[index.expect("all of them are there")];
        (!start.is_zero()).then_some(start)
    }

    /// As derived by version 1, which did not include the object's type. Read, but never written.
    pub fn derive_v1(key: &DataKey) -> Option<CounterStart> {
        let start = wiped(|| {
            let prk = hmac_sha256(b"ossvault start v1", &[key.expose()]);
            shaped(&hmac_sha256(&*prk, &[b"start", &[1]]))
        });
        (!start.is_zero()).then_some(start)
    }

    /// What the start says about the object with this key; None if version 2 did not derive it.
    pub fn binding(self, key: &DataKey) -> Option<StartBinding> {
        if self.is_zero() {
            return None;
        }
        let index = derived_starts(key).iter().position(|start| *start == self);
        index.map(|index| StartBinding::ALL[index])
    }

    /// A random start in the layout of the SDKs: 8 random bytes, 4 zero bytes, 4 random bytes. Not 0.
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

    /// The text of the seed and legacy formats: 1 to 39 ASCII digits with a value below 2^128, with
    /// whitespace around them, which the documentation example's reader also accepts. 0 is read but never
    /// written.
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

    /// The counter of the block that contains byte `offset`.
    pub fn at(self, offset: u64) -> u128 {
        self.0.wrapping_add(u128::from(offset / 16))
    }
}

/// In the order of [`StartBinding::ALL`]. One of them is wrapped and written, the others are not.
fn derived_starts(key: &DataKey) -> [CounterStart; 4] {
    wiped(|| {
        let prk = hmac_sha256(b"ossvault start v2", &[key.expose()]);
        StartBinding::ALL.map(|binding| shaped(&hmac_sha256(&*prk, &[&binding.info(), &[1]])))
    })
}

/// The first 16 bytes, with the gap of the SDKs' IVs.
fn shaped(okm: &[u8; 32]) -> CounterStart {
    let start = okm.first_chunk().expect("16 of 32 bytes");
    CounterStart(u128::from_be_bytes(*start) & !(0xffff_ffff << 32))
}

/// The purpose of a subkey. The labels are part of the format.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    Xattr,
    /// The following three are reserved for the integrity layer.
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

/// HKDF-SHA256 over key and start. Rewrapping changes neither, so subkeys remain valid. Callers derive a
/// subkey where the stack is wiped.
pub fn subkey(key: &DataKey, start: CounterStart, purpose: Purpose) -> Zeroizing<[u8; 32]> {
    let prk = hmac_sha256(
        b"ossvault subkeys v1",
        &[key.expose(), &start.to_be_bytes()],
    );
    // One block of HKDF-Expand: no output is longer than 32 bytes.
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

    fn sequential() -> DataKey {
        DataKey::from_bytes(Zeroizing::new(std::array::from_fn(|i| i as u8)))
    }

    /// For the sequential key: file and link, unsealed and sealed.
    const PUBLISHED_STARTS: [&str; 4] = [
        "c995df0454111f690000000001af3b62",
        "87e762b4666173330000000046e8fb19",
        "709dfab3e714fb2a00000000f3f89b29",
        "7556241bd6dbc39800000000e1454144",
    ];

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
            assert_eq!(
                hex::encode(*subkey(&sequential(), start, purpose)),
                expected
            );
        }
    }

    #[test]
    fn the_derived_starts_are_the_published_ones() {
        let start = CounterStart::derive_v1(&sequential()).unwrap();
        assert_eq!(
            hex::encode(start.to_be_bytes()),
            "0eaf5e9bfe1ee4fc0000000051f0cfbf"
        );
        assert_eq!(start.to_decimal(), "19519762796746891640986000929097568191");
        assert_eq!(start.binding(&sequential()), None);
        for (binding, expected) in StartBinding::ALL.into_iter().zip(PUBLISHED_STARTS) {
            let start = CounterStart::derive(&sequential(), binding).unwrap();
            assert_eq!(hex::encode(start.to_be_bytes()), expected, "{binding:?}");
            assert_eq!(start.binding(&sequential()), Some(binding));
            let other = DataKey::from_bytes(Zeroizing::new([7; 32]));
            assert_eq!(start.binding(&other), None, "{binding:?}");
        }
        assert_eq!(CounterStart(0).binding(&sequential()), None);
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
