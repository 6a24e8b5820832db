//! CRC-64/XZ, which the service calls `x-oss-hash-crc64ecma`: over ciphertext, always.

use crc_fast::CrcAlgorithm::Crc64Xz;

/// Of some bytes at once.
pub fn of(bytes: &[u8]) -> u64 {
    crc_fast::checksum(Crc64Xz, bytes)
}

/// Of `a` followed by `b`, from the CRC of each and the length of `b` in bytes.
pub fn combine(crc_a: u64, crc_b: u64, len_b: u64) -> u64 {
    crc_fast::checksum_combine(Crc64Xz, crc_a, crc_b, len_b)
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
    }

    #[test]
    fn pieces_combine_to_the_whole() {
        let data: Vec<u8> = (0..1000u32).map(|i| (i * 7) as u8).collect();
        for cut in [0, 1, 16, 500, 999, 1000] {
            let (a, b) = data.split_at(cut);
            assert_eq!(combine(of(a), of(b), b.len() as u64), of(&data), "{cut}");
            let mut crc = Crc64::new();
            crc.update(a);
            crc.update(b);
            assert_eq!(crc.value(), of(&data), "{cut}");
        }
    }
}
