//! Opens an envelope: returns the cipher of its object.

use zeroize::Zeroizing;

use super::detect::{Envelope, Start};
use super::error::Error;
use super::format::Format;
use crate::crypto::ctr::ContentCipher;
use crate::crypto::data_key::{CounterStart, DataKey};
use crate::crypto::key_ring::KeyRing;

/// An opened envelope.
pub struct Opened {
    /// Decrypts the content.
    pub cipher: ContentCipher,
    /// The fingerprint of the key that opened it. None for an SDK envelope that no key opened: its cipher is
    /// [unopened](ContentCipher::unopened).
    pub by: Option<String>,
}

/// Unwraps key and start, and compares the type in the start with the type that the metadata claims. Two RSA
/// operations; one for version 1, whose start is computed. Blocks.
///
/// # Errors
/// [`Error::NoPrivateKey`], [`Error::ForeignKey`], [`Error::NotOpened`], [`Error::WrongContent`],
/// [`Error::WrongStart`], [`Error::WrongKind`], [`Error::SealMissing`], [`Error::Pkcs1Stopped`]. An SDK
/// envelope that no key opens is not among them, see [`key_ring`](crate::crypto::key_ring); one that names
/// another key is, and is not tried.
pub fn open(envelope: &Envelope, keys: &KeyRing) -> Result<Opened, Error> {
    let opened = unwrap(envelope, keys)?;
    match opened.cipher.binding() {
        None if envelope.bound && opened.cipher.is_opened() => Err(Error::WrongStart),
        Some(binding) if binding.sealed => Err(Error::SealMissing),
        Some(binding) if binding.kind != envelope.kind => Err(Error::WrongKind {
            claimed: envelope.kind,
        }),
        _ => Ok(opened),
    }
}

fn unwrap(envelope: &Envelope, keys: &KeyRing) -> Result<Opened, Error> {
    if envelope.format == Format::Plain {
        let cipher = ContentCipher::identity();
        return Ok(Opened { cipher, by: None });
    }
    if !keys.can_read() {
        return Err(Error::NoPrivateKey);
    }
    if envelope.format == Format::Sdk {
        let Start::Raw(start) = &envelope.start else {
            return Err(Error::WrongContent("counter start"));
        };
        if let Some(id) = foreign(envelope, keys) {
            return Err(Error::ForeignKey(id));
        }
        // A mix of two objects' values gives the same error as values that cannot be opened: otherwise the
        // store would learn that both are well-formed.
        let belongs_to =
            |key: &DataKey, start: CounterStart| !envelope.bound || start.binding(key).is_some();
        let (cipher, by) = keys.open_pkcs1(&envelope.wrapped_key, start, belongs_to)?;
        return Ok(Opened {
            cipher,
            by: by.map(|key| key.fingerprint().to_owned()),
        });
    }
    let hint = envelope.hint.as_deref();
    let key = envelope.wrapped_key.as_slice();
    let (key, start, by) = match &envelope.start {
        Start::DerivedV1 => {
            let ([key], by) = keys
                .unwrap(hint, [key])
                .ok_or_else(|| not_opened(envelope, keys))?;
            (key, None, by)
        }
        Start::Decimal(start) | Start::Raw(start) => {
            let ([key, start], by) = keys
                .unwrap(hint, [key, start])
                .ok_or_else(|| not_opened(envelope, keys))?;
            (key, Some(start), by)
        }
    };
    let key = DataKey::from_slice(&key).ok_or(Error::WrongContent("data key of 32 bytes"))?;
    let start = match start {
        None => CounterStart::derive_v1(&key),
        Some(start) => parse_start(&envelope.start, &start),
    }
    .ok_or(Error::WrongContent("counter start"))?;
    Ok(Opened {
        cipher: ContentCipher::new(key, start),
        by: Some(by.fingerprint().to_owned()),
    })
}

/// Whether any key opens it, whichever key and type it claims. For callers whose requests to the store do not
/// depend on the answer: failures are not counted. Blocks.
pub fn opens(envelope: &Envelope, keys: &KeyRing) -> bool {
    match &envelope.start {
        Start::Raw(start) if envelope.format == Format::Sdk => {
            keys.opens_pkcs1(&envelope.wrapped_key, start)
        }
        _ => unwrap(envelope, keys).is_ok(),
    }
}

fn parse_start(kind: &Start, unwrapped: &Zeroizing<Vec<u8>>) -> Option<CounterStart> {
    match kind {
        Start::Raw(_) => <[u8; 16]>::try_from(unwrapped.as_slice())
            .ok()
            .map(CounterStart::from_be_bytes),
        Start::Decimal(_) | Start::DerivedV1 => CounterStart::from_decimal(unwrapped),
    }
}

fn not_opened(envelope: &Envelope, keys: &KeyRing) -> Error {
    foreign(envelope, keys).map_or(Error::NotOpened, Error::ForeignKey)
}

/// The key named by the envelope, if the ring does not have it.
fn foreign(envelope: &Envelope, keys: &KeyRing) -> Option<String> {
    let id = envelope.key_id()?;
    (!keys.has(id)).then(|| id.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::data_key::{ContentKind, StartBinding};
    use crate::crypto::key_pair::KeyPair;
    use crate::crypto::rsa_key::PublicKey;
    use crate::envelope::detect;
    use crate::envelope::write::{fresh_cipher, write};
    use std::collections::BTreeMap;
    use std::sync::LazyLock;

    static PAIRS: LazyLock<[KeyPair; 2]> =
        LazyLock::new(|| std::array::from_fn(|_| KeyPair::generate(2048).unwrap()));

    fn ring(index: usize) -> KeyRing {
        let pem = PAIRS[index].private_pem(None).unwrap();
        let key = crate::crypto::key_parse::private_key(pem.as_bytes(), &mut || None).unwrap();
        KeyRing::single(key)
    }

    fn public() -> &'static PublicKey {
        PAIRS[0].public()
    }

    #[test]
    fn opens_what_was_written_in_every_format() {
        for format in [Format::Seed, Format::Sdk, Format::Dual] {
            let cipher = fresh_cipher(ContentKind::File);
            let entries = write(format, public(), &cipher, None).unwrap();
            let envelope = detect(&entries).unwrap().unwrap();
            assert_eq!(envelope.format, format);
            assert_eq!(envelope.key_id(), Some(public().key_id()));
            assert!(envelope.bound);
            let opened = open(&envelope, &ring(0)).unwrap();
            assert_eq!(opened.cipher.key().expose(), cipher.key().expose());
            assert_eq!(opened.cipher.start(), cipher.start());
            assert_eq!(opened.by.as_deref(), Some(public().fingerprint()));
        }
    }

    const FORMATS: [Format; 3] = [Format::Seed, Format::Sdk, Format::Dual];

    /// An object's metadata: an envelope with this start, and a mode.
    fn metadata(
        format: Format,
        cipher: &ContentCipher,
        version: Option<&str>,
        mode: u32,
    ) -> BTreeMap<String, String> {
        let mut user = write(format, public(), cipher, None).unwrap();
        user.remove("ossvault-v");
        if let Some(version) = version {
            user.insert("ossvault-v".into(), version.into());
        }
        user.insert("mode".into(), mode.to_string());
        user
    }

    /// None: it can be opened and decrypted.
    fn refused(user: &BTreeMap<String, String>) -> Option<Error> {
        let envelope = detect(user).unwrap().unwrap();
        match open(&envelope, &ring(0)) {
            Err(error) => Some(error),
            Ok(opened) if opened.cipher.is_opened() => None,
            // For an SDK envelope, the error appears when bytes are decrypted.
            Ok(_) => Some(Error::WrongStart),
        }
    }

    const FILE: u32 = 0o100_600;
    const LINK: u32 = 0o120_777;

    /// Regression: changing the mode in the metadata turned a file's content into a link's target, which
    /// programs looked up in the bucket: the bucket's owner could read the plaintext.
    #[test]
    fn a_start_that_contradicts_the_metadata_is_an_error() {
        for format in FORMATS {
            for binding in StartBinding::ALL {
                let key = DataKey::generate();
                let start = CounterStart::derive(&key, binding).unwrap();
                let cipher = ContentCipher::new(key, start);
                for (mode, claimed) in [(FILE, ContentKind::File), (LINK, ContentKind::Link)] {
                    // Also without the header: the start carries the type, and the header can be removed.
                    for version in [Some("2"), None] {
                        let user = metadata(format, &cipher, version, mode);
                        let expected = match binding {
                            _ if binding.sealed => Some(Error::SealMissing),
                            _ if binding.kind != claimed => Some(Error::WrongKind { claimed }),
                            _ => None,
                        };
                        let what = format!("{format} {binding:?} {claimed:?} {version:?}");
                        assert_eq!(refused(&user), expected, "{what}");
                    }
                }
            }
        }
    }

    #[test]
    fn under_version_2_only_a_derived_start_opens() {
        for format in FORMATS {
            let key = || DataKey::from_slice(&[7; 32]).unwrap();
            let v1 = CounterStart::derive_v1(&key()).unwrap();
            let of_another = fresh_cipher(ContentKind::File).start();
            for start in [CounterStart::generate(), v1, of_another] {
                let cipher = ContentCipher::new(key(), start);
                for mode in [FILE, LINK] {
                    let user = metadata(format, &cipher, Some("2"), mode);
                    assert_eq!(refused(&user), Some(Error::WrongStart), "{format}");
                    // Without the header, it counts as another writer's, which has no type.
                    let user = metadata(format, &cipher, None, mode);
                    assert_eq!(refused(&user), None, "{format}");
                    let opened = open(&detect(&user).unwrap().unwrap(), &ring(0)).unwrap();
                    assert_eq!(opened.cipher.binding(), None);
                    assert_eq!(opened.cipher.start(), start);
                }
            }
        }
    }

    #[test]
    fn version_1_is_read_and_says_nothing_of_the_kind() {
        let key = DataKey::generate();
        let start = CounterStart::derive_v1(&key).unwrap();
        let cipher = ContentCipher::new(key, start);
        let user = write(Format::Seed, public(), &cipher, None).unwrap();
        assert_eq!(user["ossvault-v"], "1");
        let envelope = detect(&user).unwrap().unwrap();
        assert_eq!(envelope.start, Start::DerivedV1);
        let opened = open(&envelope, &ring(0)).unwrap();
        assert_eq!(opened.cipher.start(), start);
        assert_eq!(opened.cipher.binding(), None);
        // The other version on an object of this one gives another keystream, and reveals nothing of the
        // content.
        let relabelled = metadata(
            Format::Seed,
            &fresh_cipher(ContentKind::File),
            Some("1"),
            LINK,
        );
        let opened = open(&detect(&relabelled).unwrap().unwrap(), &ring(0)).unwrap();
        assert_eq!(opened.cipher.binding(), None);
    }

    /// The start that an attacker can observe must not depend on the claimed type.
    #[test]
    fn whether_a_key_opens_an_envelope_does_not_depend_on_the_claim() {
        for format in FORMATS {
            let cipher = fresh_cipher(ContentKind::File);
            for mode in [FILE, LINK] {
                let user = metadata(format, &cipher, Some("2"), mode);
                let envelope = detect(&user).unwrap().unwrap();
                assert!(opens(&envelope, &ring(0)), "{format}");
                assert!(!opens(&envelope, &ring(1)), "{format}");
            }
        }
    }

    /// `cargo test --release --lib what_opening_costs -- --ignored --nocapture`
    #[test]
    #[ignore = "a measurement"]
    fn what_opening_costs() {
        const ROUNDS: u32 = 2000;
        let keys = ring(0);
        let key = DataKey::generate();
        let start = CounterStart::derive_v1(&key).unwrap();
        for (name, cipher) in [
            ("version 1", ContentCipher::new(key, start)),
            ("version 2", fresh_cipher(ContentKind::File)),
        ] {
            let user = write(Format::Seed, public(), &cipher, None).unwrap();
            let envelope = detect(&user).unwrap().unwrap();
            let began = std::time::Instant::now();
            for _ in 0..ROUNDS {
                open(&envelope, &keys).unwrap();
            }
            println!("{name}: {:?}", began.elapsed() / ROUNDS);
        }
    }

    #[test]
    fn a_start_that_is_not_derived_is_written_and_read() {
        let cipher = ContentCipher::new(DataKey::generate(), CounterStart::generate());
        let entries = write(Format::Seed, public(), &cipher, None).unwrap();
        assert!(!entries.contains_key("ossvault-v"));
        let envelope = detect(&entries).unwrap().unwrap();
        let opened = open(&envelope, &ring(0)).unwrap();
        assert_eq!(opened.cipher.start(), cipher.start());
    }

    #[test]
    fn each_failure_has_its_own_error() {
        let wrap = |secret: &[u8]| public().wrap(secret);
        let hint = |text: &str| Some(text.to_owned());
        let foreign = || PAIRS[1].public().wrap(&[1; 32]);
        let id = PAIRS[1].public().key_id();
        for (name, key, start, hint, expected) in [
            (
                "foreign",
                foreign(),
                Start::DerivedV1,
                None,
                Error::NotOpened,
            ),
            (
                "named",
                foreign(),
                Start::DerivedV1,
                hint(id),
                Error::ForeignKey(id.into()),
            ),
            (
                "wrong name",
                foreign(),
                Start::DerivedV1,
                hint(public().key_id()),
                Error::NotOpened,
            ),
            (
                "short",
                wrap(&[1; 31]),
                Start::DerivedV1,
                None,
                Error::WrongContent("data key of 32 bytes"),
            ),
            (
                "long",
                wrap(&[1; 33]),
                Start::DerivedV1,
                None,
                Error::WrongContent("data key of 32 bytes"),
            ),
            (
                "start",
                wrap(&[1; 32]),
                Start::Decimal(wrap(b"-1")),
                None,
                Error::WrongContent("counter start"),
            ),
            (
                "raw",
                wrap(&[1; 32]),
                Start::Raw(wrap(&[0; 15])),
                None,
                Error::WrongContent("counter start"),
            ),
            (
                "half",
                wrap(&[1; 32]),
                Start::Decimal(foreign()),
                None,
                Error::NotOpened,
            ),
        ] {
            let envelope = Envelope {
                format: Format::Seed,
                wrapped_key: key,
                start,
                bound: false,
                kind: ContentKind::File,
                hint,
            };
            assert_eq!(open(&envelope, &ring(0)).err(), Some(expected), "{name}");
            let without = KeyRing::write_only(public().clone());
            assert_eq!(open(&envelope, &without).err(), Some(Error::NoPrivateKey));
        }
    }

    /// Regression: it was tried, counted among possible attacks, and reported as damage.
    #[test]
    fn an_sdk_envelope_for_a_key_we_do_not_have_is_not_tried() {
        let cipher = fresh_cipher(ContentKind::File);
        let entries = write(Format::Sdk, public(), &cipher, None).unwrap();
        let envelope = detect(&entries).unwrap().unwrap();
        let other = ring(1).with_pkcs1_limit(1);
        for _ in 0..3 {
            let expected = Error::ForeignKey(public().key_id().to_owned());
            assert_eq!(open(&envelope, &other).err(), Some(expected));
        }
        // Without the name it is tried, and no key opens it.
        let unnamed = Envelope {
            hint: None,
            ..envelope
        };
        assert!(!open(&unnamed, &other).unwrap().cipher.is_opened());
    }

    #[test]
    fn a_start_of_0_is_read_and_not_written() {
        let envelope = Envelope {
            format: Format::Seed,
            wrapped_key: public().wrap(&[1; 32]),
            start: Start::Decimal(public().wrap(b"0")),
            bound: false,
            kind: ContentKind::File,
            hint: None,
        };
        let opened = open(&envelope, &ring(0)).unwrap();
        assert!(opened.cipher.start().is_zero());
        assert!(write(Format::Seed, public(), &opened.cipher, None).is_err());
    }
}
