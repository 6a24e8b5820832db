//! CRC-64/XZ, the checksum the service gives for every object (`x-oss-hash-crc64ecma`): over ciphertext, always.

use crc_fast::CrcAlgorithm::Crc64Xz;

/// Of some bytes at once.
pub fn of(bytes: &[u8]) -> u64 {
    crc_fast::checksum(Crc64Xz, bytes)
}

/// Of `a` followed by `b`, from the CRC of each and the length of `b` in bytes.
pub fn combine(crc_a: u64, crc_b: u64, len_b: u64) -> u64 {
    // `a` is shifted past `b`: multiplied by x^(8 len). The crate's own function does this with matrices,
    // which takes 0.1 ms; every part of a read and of an upload needs it.
    let mut shifted = crc_a;
    let mut bits = len_b;
    for power in powers() {
        if bits == 0 {
            break;
        }
        if bits & 1 == 1 {
            shifted = multiply(shifted, *power);
        }
        bits >>= 1;
    }
    shifted ^ crc_b
}

/// CRC-64/XZ's polynomial; bit 63 is the coefficient of x^0.
const POLYNOMIAL: u64 = 0xC96C_5795_D787_0F42;

/// The product of two polynomials, modulo the polynomial.
const fn multiply(a: u64, mut b: u64) -> u64 {
    let mut product = 0;
    let mut bit = 1 << 63;
    while bit != 0 {
        if a & bit != 0 {
            product ^= b;
        }
        // Times x.
        b = if b & 1 == 1 {
            (b >> 1) ^ POLYNOMIAL
        } else {
            b >> 1
        };
        bit >>= 1;
    }
    product
}

/// x^(8 * 2^i).
const fn powers() -> &'static [u64; 64] {
    const POWERS: [u64; 64] = {
        let mut powers = [0; 64];
        powers[0] = 1 << (63 - 8);
        let mut i = 1;
        while i < 64 {
            powers[i] = multiply(powers[i - 1], powers[i - 1]);
            i += 1;
        }
        powers
    };
    &POWERS
}

/// Of bytes that come in pieces.
#[derive(Clone)]
pub struct Crc64(crc_fast::Digest);

impl Crc64 {
    pub fn new() -> Crc64 {
        Crc64(crc_fast::Digest::new(Crc64Xz))
    }

    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Of what came so far.
    pub fn value(&self) -> u64 {
        self.0.finalize()
    }
}

impl Default for Crc64 {
    fn default() -> Crc64 {
        Crc64::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_one_the_service_uses() {
        assert_eq!(of(b"123456789"), 0x995d_c9bb_df19_39fa);
        assert_eq!(of(b""), 0);
    }

    #[test]
    fn pieces_combine_to_the_whole() {
        let data: Vec<u8> = (0..1000u32).map(|i| (i * 7) as u8).collect();
        for cut in [0, 1, 15, 16, 17, 500, 999, 1000] {
            let (a, b) = data.split_at(cut);
            assert_eq!(combine(of(a), of(b), b.len() as u64), of(&data), "{cut}");
            let mut crc = Crc64::new();
            crc.update(a);
            crc.update(b);
            assert_eq!(crc.value(), of(&data), "{cut}");
        }
    }
}
