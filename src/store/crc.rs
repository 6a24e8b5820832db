//! CRC-64/XZ, the checksum the service gives for every object (`x-oss-hash-crc64ecma`).

use crc_fast::CrcAlgorithm;

/// CRC-64/XZ of bytes that arrive in pieces.
pub struct Crc64(crc_fast::Digest);

impl Crc64 {
    pub fn new() -> Crc64 {
        Crc64(crc_fast::Digest::new(CrcAlgorithm::Crc64Xz))
    }

    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub fn value(&self) -> u64 {
        self.0.finalize()
    }
}

impl Default for Crc64 {
    fn default() -> Crc64 {
        Crc64::new()
    }
}

pub fn crc64(bytes: &[u8]) -> u64 {
    crc_fast::checksum(CrcAlgorithm::Crc64Xz, bytes)
}

/// The CRC of two byte strings laid end to end, from the CRC of each and the length of the second.
pub fn combine(first: u64, second: u64, second_len: u64) -> u64 {
    crc_fast::checksum_combine(CrcAlgorithm::Crc64Xz, first, second, second_len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn has_the_check_value_of_the_service() {
        assert_eq!(crc64(b"123456789"), 11051210869376104954);
        assert_eq!(crc64(b""), 0);
    }

    #[test]
    fn combines_at_every_cut() {
        let bytes: Vec<u8> = (0..1000u32).map(|n| (n * 7) as u8).collect();
        for cut in [0, 1, 15, 16, 17, 500, 999, 1000] {
            let (a, b) = bytes.split_at(cut);
            assert_eq!(
                combine(crc64(a), crc64(b), b.len() as u64),
                crc64(&bytes),
                "cut at {cut}"
            );
        }
    }
}
