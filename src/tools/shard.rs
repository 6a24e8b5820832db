//! One of several parts of a set of objects, for processes that share the work.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The part `index` of `count`: each key is in exactly one of them, which follows from the key alone and is the same in
/// every version of the program. Keys are spread by a hash, so that a prefix with many objects, or with large ones, is
/// shared by all parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Shard {
    /// From 0.
    pub index: u32,
    /// At least 1.
    pub count: u32,
}

impl Shard {
    /// Whether the key is in this part: the first eight bytes of its SHA-256 as a big-endian number, modulo the count.
    pub(crate) fn contains(self, key: &str) -> bool {
        let digest: [u8; 32] = Sha256::digest(key).into();
        let (first, _) = digest.split_at(8);
        let number = first
            .iter()
            .fold(0, |number, byte| number << 8 | u64::from(*byte));
        number % u64::from(self.count) == u64::from(self.index)
    }
}

/// `I/N`, with I from 0 to N - 1.
impl FromStr for Shard {
    type Err = NoPart;

    fn from_str(text: &str) -> Result<Shard, NoPart> {
        let (index, count) = text.split_once('/').ok_or(NoPart)?;
        match (number(index), number(count)) {
            (Some(index), Some(count)) if index < count => Ok(Shard { index, count }),
            _ => Err(NoPart),
        }
    }
}

/// The text names no part.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NoPart;

/// Digits alone: no sign.
fn number(text: &str) -> Option<u32> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| digits)
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_a_number_of_a_count() {
        for (text, shard) in [
            ("0/1", Some((0, 1))),
            ("7/8", Some((7, 8))),
            (
                "4294967294/4294967295",
                Some((4_294_967_294, 4_294_967_295)),
            ),
            ("8/8", None),
            ("0/0", None),
            ("1", None),
            ("", None),
            ("/", None),
            ("a/2", None),
            ("-1/2", None),
            ("+1/2", None),
            ("1/2/3", None),
            ("1 / 2", None),
            ("1/4294967296", None),
        ] {
            let parsed = text.parse::<Shard>().ok();
            let parsed = parsed.map(|shard| (shard.index, shard.count));
            assert_eq!(parsed, shard, "{text:?}");
        }
    }

    /// Another version of the program must agree, and whoever computes it with `sha256sum`.
    #[test]
    fn the_part_of_a_key_never_changes() {
        // sha256("a") = ca978112ca1bbdca..., sha256("") = e3b0c44298fc1c14...
        for (key, count, index) in [
            ("a", 8, 0xca97_8112_ca1b_bdca_u64 % 8),
            ("a", 1000, 0xca97_8112_ca1b_bdca_u64 % 1000),
            ("", 7, 0xe3b0_c442_98fc_1c14_u64 % 7),
        ] {
            for other in 0..count {
                let shard = Shard {
                    index: other,
                    count,
                };
                assert_eq!(
                    shard.contains(key),
                    u64::from(other) == index,
                    "{key} {shard}"
                );
            }
        }
    }

    #[test]
    fn a_prefix_is_spread_over_all_parts() {
        let mut sizes = [0; 8];
        for number in 0..8000 {
            let key = format!("logs/2026/12/01/{number:08}");
            let within = (0..8).filter(|&index| Shard { index, count: 8 }.contains(&key));
            let within: Vec<u32> = within.collect();
            assert_eq!(within.len(), 1, "{key}");
            sizes[within[0] as usize] += 1;
        }
        assert!(
            sizes.iter().all(|size| (850..1150).contains(size)),
            "{sizes:?}"
        );
    }
}
