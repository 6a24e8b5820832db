//! Decrypts PKCS#8 keys with a passphrase and the parameters in the file.
//!
//! Supports PBES2 (PBKDF2 or scrypt, and a cipher), PBES1 and the schemes of PKCS#12. The parameters come
//! from the file: their memory and iteration counts are bounded, because a file must neither end the program
//! nor keep it busy forever.

use pbkdf2::pbkdf2_hmac;
use pkcs8::pkcs5::scrypt;
use sha2::{Digest, Sha224, Sha256, Sha384, Sha512, Sha512_224, Sha512_256};
use zeroize::Zeroizing;

use super::ber::{Element, OBJECT_IDENTIFIER, OCTET_STRING};
use super::key_cipher::Cipher;
use super::key_error::KeyError;

/// Maximum number of hash iterations; today's strictest recommendations are below two million.
const MAX_ITERATIONS: u64 = 100_000_000;

/// scrypt's memory limit in bytes; twice any recommendation for files.
const MAX_SCRYPT_MEMORY: u64 = 1 << 30;

/// Maximum number of passes of scrypt over its memory, which bounds the time as well.
const MAX_SCRYPT_PASSES: u64 = 16;

const DAMAGED: KeyError = KeyError::Damaged("its encryption parameters are malformed");

/// The encryption scheme of a key file.
pub(crate) enum Encryption {
    Pbes2 {
        kdf: Kdf,
        cipher: Cipher,
        iv: Vec<u8>,
    },
    /// PKCS#5, version 1.5.
    Pbes1 {
        hash: Hash,
        cipher: Cipher,
        salt: Vec<u8>,
        iterations: u64,
    },
    /// PKCS#12, with SHA-1.
    Pkcs12 {
        cipher: Cipher,
        salt: Vec<u8>,
        iterations: u64,
    },
}

pub(crate) enum Kdf {
    Pbkdf2 {
        hash: Hash,
        salt: Vec<u8>,
        iterations: u32,
    },
    Scrypt {
        salt: Vec<u8>,
        log_n: u8,
        r: u32,
        p: u32,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hash {
    Md5,
    Sha1,
    Sha224,
    Sha256,
    Sha384,
    Sha512,
    Sha512_224,
    Sha512_256,
}

impl Encryption {
    /// Parses an AlgorithmIdentifier.
    ///
    /// # Errors
    /// [`KeyError::UnsupportedEncryption`], [`KeyError::TooCostly`], [`KeyError::Damaged`].
    pub(crate) fn parse(algorithm: Element<'_>) -> Result<Encryption, KeyError> {
        let (scheme, parameters) = identified(algorithm)?;
        if scheme == "1.2.840.113549.1.5.13" {
            return pbes2(parameters.ok_or(DAMAGED)?);
        }
        let pbes1 = match scheme.as_str() {
            "1.2.840.113549.1.5.3" => Some((Hash::Md5, Cipher::Des)),
            "1.2.840.113549.1.5.6" => Some((Hash::Md5, Cipher::rc2(8))),
            "1.2.840.113549.1.5.10" => Some((Hash::Sha1, Cipher::Des)),
            "1.2.840.113549.1.5.11" => Some((Hash::Sha1, Cipher::rc2(8))),
            _ => None,
        };
        let pkcs12 = match scheme.as_str() {
            "1.2.840.113549.1.12.1.1" => Some(Cipher::Rc4 { key_len: 16 }),
            "1.2.840.113549.1.12.1.2" => Some(Cipher::Rc4 { key_len: 5 }),
            "1.2.840.113549.1.12.1.3" => Some(Cipher::DesEde3),
            "1.2.840.113549.1.12.1.4" => Some(Cipher::DesEde2),
            "1.2.840.113549.1.12.1.5" => Some(Cipher::rc2(16)),
            "1.2.840.113549.1.12.1.6" => Some(Cipher::rc2(5)),
            _ => None,
        };
        if pbes1.is_none() && pkcs12.is_none() {
            return Err(KeyError::UnsupportedEncryption(name_of(&scheme)));
        }
        let parameters = sequence(parameters.ok_or(DAMAGED)?)?;
        let [salt, iterations, ..] = parameters[..] else {
            return Err(DAMAGED);
        };
        let salt = salt.octets().ok_or(DAMAGED)?.to_vec();
        let iterations = bounded(iterations)?;
        Ok(match (pbes1, pkcs12) {
            (Some((hash, cipher)), _) => Encryption::Pbes1 {
                hash,
                cipher,
                salt,
                iterations,
            },
            (None, Some(cipher)) => Encryption::Pkcs12 {
                cipher,
                salt,
                iterations,
            },
            (None, None) => unreachable!("refused above"),
        })
    }

    /// # Errors
    /// [`KeyError::WrongPassphrase`], [`KeyError::Damaged`], [`KeyError::TooCostly`] if there is not enough
    /// memory.
    pub(crate) fn decrypt(
        &self,
        passphrase: &str,
        body: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        match self {
            Encryption::Pbes2 { kdf, cipher, iv } => {
                let mut key = Zeroizing::new(vec![0; cipher.key_len()]);
                kdf.derive(passphrase.as_bytes(), &mut key)?;
                cipher.decrypt(&key, iv, body)
            }
            Encryption::Pbes1 {
                hash,
                cipher,
                salt,
                iterations,
            } => {
                let derived = pbkdf1(*hash, passphrase.as_bytes(), salt, *iterations);
                let (key, iv) = derived[..16].split_at(8);
                cipher.decrypt(key, iv, body)
            }
            Encryption::Pkcs12 {
                cipher,
                salt,
                iterations,
            } => {
                let derive = |id, len| pkcs12_kdf(passphrase, salt, *iterations, id, len);
                let key = derive(1, cipher.key_len());
                let iv = derive(2, cipher.block_len().unwrap_or(0));
                cipher.decrypt(&key, &iv, body)
            }
        }
    }
}

fn pbes2(parameters: Element<'_>) -> Result<Encryption, KeyError> {
    let parts = sequence(parameters)?;
    let [kdf, scheme, ..] = parts[..] else {
        return Err(DAMAGED);
    };
    let (name, parameters) = identified(scheme)?;
    let parameters = parameters.ok_or(DAMAGED)?;
    let (cipher, iv) = match name.as_str() {
        // The version number encodes the effective bits of the key.
        "1.2.840.113549.3.2" if parameters.tag != OCTET_STRING => {
            let parts = sequence(parameters)?;
            let (version, iv) = match parts[..] {
                [iv] => (58, iv),
                [version, iv, ..] => (version.small().ok_or(DAMAGED)?, iv),
                _ => return Err(DAMAGED),
            };
            let bits = match version {
                58 => 128,
                120 => 64,
                160 => 40,
                bits @ 256..=1024 => bits as usize,
                _ => return Err(DAMAGED),
            };
            (
                Cipher::Rc2 {
                    key_len: bits.div_ceil(8),
                    bits,
                },
                iv,
            )
        }
        // The other parameter is the key's length, which is constant.
        "1.2.840.113533.7.66.10" if parameters.tag != OCTET_STRING => {
            let [iv, ..] = sequence(parameters)?[..] else {
                return Err(DAMAGED);
            };
            (Cipher::Cast5, iv)
        }
        "1.3.6.1.4.1.188.7.1.1.2" if parameters.tag != OCTET_STRING => {
            let [iv, ..] = sequence(parameters)?[..] else {
                return Err(DAMAGED);
            };
            (Cipher::Idea, iv)
        }
        name => match cipher_of(name) {
            Some(cipher) => (cipher, parameters),
            None => return Err(KeyError::UnsupportedEncryption(name_of(name))),
        },
    };
    let iv = iv.octets().ok_or(DAMAGED)?.to_vec();
    let (kdf, key_len) = Kdf::parse(kdf)?;
    // For RC2, the effective bits follow from the key's length.
    let cipher = match (cipher, key_len) {
        (Cipher::Rc2 { bits, .. }, Some(key_len @ 1..=128)) => Cipher::Rc2 {
            key_len: key_len as usize,
            bits,
        },
        (cipher, Some(key_len)) if key_len != cipher.key_len() as u64 => return Err(DAMAGED),
        (cipher, _) => cipher,
    };
    Ok(Encryption::Pbes2 { kdf, cipher, iv })
}

impl Kdf {
    /// And the length of the key, if it is given.
    fn parse(algorithm: Element<'_>) -> Result<(Kdf, Option<u64>), KeyError> {
        let (name, parameters) = identified(algorithm)?;
        let parameters = sequence(parameters.ok_or(DAMAGED)?)?;
        let salt = |element: &Element<'_>| Ok(element.octets().ok_or(DAMAGED)?.to_vec());
        match name.as_str() {
            "1.2.840.113549.1.5.12" => {
                let [first, iterations, rest @ ..] = &parameters[..] else {
                    return Err(DAMAGED);
                };
                let key_len = rest.first().and_then(|element| element.small());
                let hash = match rest.iter().find(|element| element.sequence().is_some()) {
                    None => Hash::Sha1,
                    Some(hash) => Hash::parse(*hash)?,
                };
                let iterations = bounded(*iterations)? as u32;
                let salt = salt(first)?;
                Ok((
                    Kdf::Pbkdf2 {
                        hash,
                        salt,
                        iterations,
                    },
                    key_len,
                ))
            }
            "1.3.6.1.4.1.11591.4.11" => {
                let [first, n, r, p, rest @ ..] = &parameters[..] else {
                    return Err(DAMAGED);
                };
                let [n, r, p] = [large(*n)?, large(*r)?, large(*p)?];
                if !n.is_power_of_two() || n < 2 || r == 0 || p == 0 {
                    return Err(DAMAGED);
                }
                let memory = n.saturating_mul(r).saturating_mul(128);
                let work = memory.saturating_mul(p);
                if memory > MAX_SCRYPT_MEMORY || work > MAX_SCRYPT_MEMORY * MAX_SCRYPT_PASSES {
                    return Err(KeyError::TooCostly(
                        "scrypt with more than 1 GiB of memory, or too many passes over it",
                    ));
                }
                let kdf = Kdf::Scrypt {
                    salt: salt(first)?,
                    log_n: n.trailing_zeros() as u8,
                    r: r as u32,
                    p: p as u32,
                };
                Ok((kdf, rest.first().and_then(|element| element.small())))
            }
            name => Err(KeyError::UnsupportedEncryption(name_of(name))),
        }
    }

    fn derive(&self, passphrase: &[u8], key: &mut [u8]) -> Result<(), KeyError> {
        match self {
            Kdf::Pbkdf2 {
                hash,
                salt,
                iterations,
            } => {
                let (salt, rounds) = (salt.as_slice(), *iterations);
                match hash {
                    Hash::Md5 => pbkdf2_hmac::<md5::Md5>(passphrase, salt, rounds, key),
                    Hash::Sha1 => pbkdf2_hmac::<sha1::Sha1>(passphrase, salt, rounds, key),
                    Hash::Sha224 => pbkdf2_hmac::<Sha224>(passphrase, salt, rounds, key),
                    Hash::Sha256 => pbkdf2_hmac::<Sha256>(passphrase, salt, rounds, key),
                    Hash::Sha384 => pbkdf2_hmac::<Sha384>(passphrase, salt, rounds, key),
                    Hash::Sha512 => pbkdf2_hmac::<Sha512>(passphrase, salt, rounds, key),
                    Hash::Sha512_224 => pbkdf2_hmac::<Sha512_224>(passphrase, salt, rounds, key),
                    Hash::Sha512_256 => pbkdf2_hmac::<Sha512_256>(passphrase, salt, rounds, key),
                }
                Ok(())
            }
            Kdf::Scrypt { salt, log_n, r, p } => {
                let no_memory = KeyError::TooCostly("scrypt with more memory than is available");
                let params = scrypt::Params::new(*log_n, *r, *p).map_err(|_| DAMAGED)?;
                // scrypt aborts the program if it cannot allocate.
                let memory = (128usize << *log_n) * *r as usize;
                Vec::<u8>::new()
                    .try_reserve_exact(memory + memory / 8)
                    .map_err(|_| no_memory)?;
                scrypt::scrypt(passphrase, salt, &params, key).map_err(|_| DAMAGED)
            }
        }
    }
}

impl Hash {
    /// That of an HMAC.
    fn parse(algorithm: Element<'_>) -> Result<Hash, KeyError> {
        let (name, _) = identified(algorithm)?;
        Ok(match name.as_str() {
            "1.2.840.113549.2.6" | "1.3.6.1.5.5.8.1.1" => Hash::Md5,
            "1.2.840.113549.2.7" | "1.3.6.1.5.5.8.1.2" => Hash::Sha1,
            "1.2.840.113549.2.8" => Hash::Sha224,
            "1.2.840.113549.2.9" => Hash::Sha256,
            "1.2.840.113549.2.10" => Hash::Sha384,
            "1.2.840.113549.2.11" => Hash::Sha512,
            "1.2.840.113549.2.12" => Hash::Sha512_224,
            "1.2.840.113549.2.13" => Hash::Sha512_256,
            name => return Err(KeyError::UnsupportedEncryption(name_of(name))),
        })
    }
}

/// For ciphers whose only parameter is the IV.
fn cipher_of(name: &str) -> Option<Cipher> {
    Some(match name {
        "2.16.840.1.101.3.4.1.2" => Cipher::Aes128,
        "2.16.840.1.101.3.4.1.22" => Cipher::Aes192,
        "2.16.840.1.101.3.4.1.42" => Cipher::Aes256,
        "1.2.410.200046.1.1.2" => Cipher::Aria128,
        "1.2.410.200046.1.1.7" => Cipher::Aria192,
        "1.2.410.200046.1.1.12" => Cipher::Aria256,
        "1.3.6.1.4.1.3029.1.2" => Cipher::Blowfish,
        "1.2.392.200011.61.1.1.1.2" => Cipher::Camellia128,
        "1.2.392.200011.61.1.1.1.3" => Cipher::Camellia192,
        "1.2.392.200011.61.1.1.1.4" => Cipher::Camellia256,
        "1.2.840.113533.7.66.10" => Cipher::Cast5,
        "1.3.14.3.2.7" => Cipher::Des,
        "1.2.840.113549.3.7" => Cipher::DesEde3,
        "1.3.6.1.4.1.188.7.1.1.2" => Cipher::Idea,
        "1.2.840.113549.3.2" => Cipher::rc2(16),
        _ => return None,
    })
}

/// For the message: the number, and its name if it is known.
fn name_of(identifier: &str) -> String {
    let name = match identifier {
        "1.2.840.113549.1.5.1" | "1.2.840.113549.1.5.4" => "PBES1 with MD2",
        "1.2.410.200004.1.4" => "SEED",
        "1.2.156.10197.1.104.2" => "SM4",
        "1.2.156.10197.1.401.2" => "HMAC with SM3",
        "2.16.840.1.101.3.4.1.6" | "2.16.840.1.101.3.4.1.46" => "AES-GCM",
        "1.2.840.113549.2.5" => "MD5",
        other => return other.to_owned(),
    };
    name.to_owned()
}

/// An AlgorithmIdentifier's name and parameters.
fn identified(algorithm: Element<'_>) -> Result<(String, Option<Element<'_>>), KeyError> {
    let parts = sequence(algorithm)?;
    let name = parts.first().and_then(|first| dotted(*first));
    Ok((name.ok_or(DAMAGED)?, parts.get(1).copied()))
}

/// An object identifier in dotted form. None if it is invalid.
pub(crate) fn dotted(element: Element<'_>) -> Option<String> {
    debug_assert!(element.tag == OBJECT_IDENTIFIER || element.identifier().is_none());
    let identifier = pkcs8::ObjectIdentifier::from_bytes(element.identifier()?).ok()?;
    Some(identifier.to_string())
}

fn sequence(element: Element<'_>) -> Result<Vec<Element<'_>>, KeyError> {
    element.sequence().ok_or(DAMAGED)
}

/// A number used as a size; one that does not fit counts as the largest.
fn large(element: Element<'_>) -> Result<u64, KeyError> {
    element.unsigned().ok_or(DAMAGED)?;
    Ok(element.small().unwrap_or(u64::MAX))
}

fn bounded(iterations: Element<'_>) -> Result<u64, KeyError> {
    match large(iterations)? {
        0 => Err(DAMAGED),
        number @ 1..=MAX_ITERATIONS => Ok(number),
        _ => Err(KeyError::TooCostly("more than 100 million iterations")),
    }
}

/// PBKDF1: at least 16 bytes.
fn pbkdf1(hash: Hash, passphrase: &[u8], salt: &[u8], iterations: u64) -> Zeroizing<Vec<u8>> {
    match hash {
        Hash::Md5 => iterated::<md5::Md5>(&[passphrase, salt], iterations),
        _ => iterated::<sha1::Sha1>(&[passphrase, salt], iterations),
    }
}

fn iterated<D: Digest>(first: &[&[u8]], iterations: u64) -> Zeroizing<Vec<u8>> {
    let mut digest = D::new();
    for part in first {
        Digest::update(&mut digest, part);
    }
    let mut value = digest.finalize();
    for _ in 1..iterations {
        value = D::digest(&value);
    }
    Zeroizing::new(value.to_vec())
}

/// RFC 7292, appendix B.2, with SHA-1. `id` is 1 for a key and 2 for an IV.
fn pkcs12_kdf(
    passphrase: &str,
    salt: &[u8],
    iterations: u64,
    id: u8,
    len: usize,
) -> Zeroizing<Vec<u8>> {
    const BLOCK: usize = 64;
    let repeated = |bytes: &[u8]| -> Zeroizing<Vec<u8>> {
        let len = bytes.len().div_ceil(BLOCK) * BLOCK;
        Zeroizing::new(bytes.iter().copied().cycle().take(len).collect())
    };
    // UTF-16 with a terminating zero.
    let mut password = Zeroizing::new(Vec::with_capacity(passphrase.len() * 2 + 2));
    for unit in passphrase.encode_utf16().chain([0]) {
        password.extend_from_slice(&unit.to_be_bytes());
    }
    let mut input = repeated(salt);
    let password = repeated(&password);
    let mut together = Zeroizing::new(Vec::with_capacity(input.len() + password.len()));
    together.extend_from_slice(&input);
    together.extend_from_slice(&password);
    input = together;

    let mut out = Zeroizing::new(Vec::with_capacity(len + 20));
    while out.len() < len {
        let value = iterated::<sha1::Sha1>(&[&[id; BLOCK], &input], iterations);
        out.extend_from_slice(&value);
        // Adds the value, repeated, plus one to each block of the input.
        for block in input.chunks_exact_mut(BLOCK) {
            let mut carry = 1u16;
            for (at, byte) in block.iter_mut().enumerate().rev() {
                carry += u16::from(*byte) + u16::from(value[at % value.len()]);
                *byte = carry as u8;
                carry >>= 8;
            }
        }
    }
    out.truncate(len);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn element(tag: u8, content: &[u8]) -> Vec<u8> {
        assert!(content.len() < 128);
        [&[tag, content.len() as u8], content].concat()
    }

    fn oid(text: &str) -> Vec<u8> {
        let identifier = pkcs8::ObjectIdentifier::new(text).unwrap();
        element(OBJECT_IDENTIFIER, identifier.as_bytes())
    }

    fn parsed(der: &[u8]) -> Result<Encryption, KeyError> {
        Encryption::parse(Element::first(der).unwrap())
    }

    fn pbes2_with(kdf: &str, parameters: &[u8], cipher: &str) -> Vec<u8> {
        let kdf = element(0x30, &[oid(kdf), element(0x30, parameters)].concat());
        let cipher = element(0x30, &[oid(cipher), element(4, &[0; 16])].concat());
        let parameters = element(0x30, &[kdf, cipher].concat());
        element(0x30, &[oid("1.2.840.113549.1.5.13"), parameters].concat())
    }

    #[test]
    fn the_costs_that_a_file_can_demand_are_bounded() {
        let salt = element(4, b"saltsalt");
        for (iterations, fine) in [
            (&[1][..], true),
            (&[0x05, 0xf5, 0xe1, 0x00], true),
            (&[0x05, 0xf5, 0xe1, 0x01], false),
            (&[0x7f, 0xff, 0xff, 0xff], false),
            (&[0x7f, 1, 1, 1, 1, 1, 1, 1, 1, 1], false),
        ] {
            let parameters = [salt.clone(), element(2, iterations)].concat();
            let der = pbes2_with(
                "1.2.840.113549.1.5.12",
                &parameters,
                "2.16.840.1.101.3.4.1.42",
            );
            let costly = matches!(parsed(&der), Err(KeyError::TooCostly(_)));
            assert_eq!(costly, !fine, "{iterations:?}");
            assert_eq!(parsed(&der).is_ok(), fine, "{iterations:?}");
        }
        for (n, r, p, fine) in [
            (&[0x40, 0][..], 8, 1, true),
            (&[0x10, 0, 0], 8, 1, true),
            (&[0x10, 0, 0], 9, 1, false),
            (&[0x01, 0, 0, 0], 8, 1, false),
            (&[0x10, 0, 0], 8, 17, false),
            (&[0x40, 0], 8, 64, true),
            (&[0x40, 0, 0, 0, 0, 0, 0, 0], 127, 127, false),
            (&[1, 0, 0, 0, 0, 0, 0, 0, 0, 0], 1, 1, false),
        ] {
            let numbers = [element(2, n), element(2, &[r]), element(2, &[p])].concat();
            let parameters = [salt.clone(), numbers].concat();
            let der = pbes2_with(
                "1.3.6.1.4.1.11591.4.11",
                &parameters,
                "2.16.840.1.101.3.4.1.42",
            );
            assert_eq!(parsed(&der).is_ok(), fine, "{n:?} {r} {p}");
        }
    }

    #[test]
    fn unsupported_parameters_are_named_and_malformed_ones_are_damage() {
        let parameters = [element(4, b"saltsalt"), element(2, &[9])].concat();
        let pbkdf2 = "1.2.840.113549.1.5.12";
        for (der, name) in [
            (
                pbes2_with(pbkdf2, &parameters, "1.2.410.200004.1.4"),
                "SEED",
            ),
            (
                pbes2_with("1.2.3.4", &parameters, "1.3.14.3.2.7"),
                "1.2.3.4",
            ),
            (
                element(0x30, &oid("1.2.840.113549.1.5.1")),
                "PBES1 with MD2",
            ),
        ] {
            assert_eq!(
                parsed(&der).err(),
                Some(KeyError::UnsupportedEncryption(name.to_owned()))
            );
        }
        for der in [
            element(0x30, &[]),
            element(0x30, &oid("1.2.840.113549.1.5.13")),
            element(
                0x30,
                &[oid("1.2.840.113549.1.5.3"), element(0x30, &[])].concat(),
            ),
            pbes2_with(pbkdf2, &element(4, b"s"), "1.3.14.3.2.7"),
            pbes2_with(
                pbkdf2,
                &[element(4, b"s"), element(2, &[0])].concat(),
                "1.3.14.3.2.7",
            ),
        ] {
            assert_eq!(parsed(&der).err(), Some(DAMAGED), "{der:x?}");
        }
    }
}
