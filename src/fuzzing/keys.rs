//! Key files.

use crate::crypto::ber::{Element, sequence_of_numbers};
use crate::crypto::key_encryption::{Encryption, Kdf};
use crate::crypto::{key_parse, key_text, legacy_pem};

/// What a case may cost, in rounds of a hash.
const MAX_ROUNDS: u64 = 32;

pub(super) fn file(input: &[u8]) {
    let private = key_parse::private_key(input, &mut || None);
    let public = key_parse::public_key(input);
    let described = key_parse::describe(input);
    if private.is_ok() {
        assert!(described.is_ok_and(|found| found.private && !found.encrypted));
    } else if public.is_ok() {
        assert!(described.is_ok_and(|found| !found.private));
    }
}

/// The text around keys, and the elements within.
pub(super) fn text(input: &[u8]) {
    if let Some(found) = key_text::blocks(input) {
        assert!(found.blocks.len() <= 64);
        for block in &found.blocks {
            let body = block.body.as_deref();
            let body = body.map_or(&[][..], |body| body.as_slice());
            // Base64 is longer than what it encodes.
            assert!(body.len() <= input.len());
            elements(body, 0);
            if let Some(dek_info) = &block.dek_info {
                let plain = legacy_pem::decrypt(dek_info, body, "passphrase");
                assert!(plain.is_err() || plain.is_ok_and(|plain| plain.len() <= body.len()));
            }
        }
    }
    if let Some(body) = key_text::bare_base64(input) {
        elements(&body, 0);
    }
    elements(input, 0);
}

/// Goes through the elements, and reads each in every way.
fn elements(input: &[u8], depth: usize) {
    const DEEP: usize = 6;
    let Some(first) = Element::first(input) else {
        return;
    };
    let mut all = vec![first];
    all.extend(first.sequence().unwrap_or_default());
    let numbers: Vec<&[u8]> = all.iter().filter_map(|one| one.unsigned()).collect();
    let again = sequence_of_numbers(&numbers);
    let read = Element::first(&again).and_then(Element::sequence);
    let read = read.expect("what is written here can be read");
    let read: Vec<_> = read.into_iter().map(|one| one.unsigned()).collect();
    assert!(read.into_iter().eq(numbers.into_iter().map(Some)));
    for element in all {
        let _ = (element.small(), element.identifier());
        for content in [element.octets(), element.bits()].into_iter().flatten() {
            assert!(content.len() < input.len());
            if depth < DEEP {
                elements(&content, depth + 1);
            }
        }
    }
}

/// An AlgorithmIdentifier, and behind it what was encrypted that way.
pub(super) fn encryption(input: &[u8]) {
    let Some(whole) = Element::first(input).and_then(Element::sequence) else {
        return;
    };
    let [algorithm, body, ..] = whole[..] else {
        return;
    };
    let Ok(encryption) = Encryption::parse(algorithm) else {
        return;
    };
    let rounds = match &encryption {
        Encryption::Pbes1 { iterations, .. } | Encryption::Pkcs12 { iterations, .. } => *iterations,
        Encryption::Pbes2 { kdf, .. } => match kdf {
            Kdf::Pbkdf2 { iterations, .. } => u64::from(*iterations),
            Kdf::Scrypt { log_n, r, p, .. } => {
                // Bounded when it was parsed.
                let memory = (128u64 << log_n) * u64::from(*r);
                assert!(memory <= 1 << 30 && memory * u64::from(*p) <= 16 << 30);
                (memory * u64::from(*p)) >> 9
            }
        },
    };
    assert!(rounds <= (16 << 30) >> 9 || rounds <= 100_000_000);
    let Some(body) = body.octets().filter(|_| rounds <= MAX_ROUNDS) else {
        return;
    };
    if let Ok(plain) = encryption.decrypt("passphrase", &body) {
        assert!(plain.len() <= body.len());
    }
}
