//! Parses keys from real-world files: every form that OpenSSL 3 reads.
//!
//! A file is PEM, or DER, or base64 of either. A block's kind is determined by its structure, because labels
//! are unreliable: PKCS#8 under `RSA PRIVATE KEY` and the reverse are common. Files may contain other things
//! beside keys, like certificates; the first key is used, wherever it is. If there is no usable key, the
//! error names what was found and gives advice.

use zeroize::Zeroizing;

use super::ber::{BIT_STRING, CONSTRUCTED, Element, INTEGER, OCTET_STRING, SEQUENCE};
use super::key_encryption::{Encryption, dotted};
use super::key_error::{KeyError, Strength};
use super::key_text::{self, Block};
use super::legacy_pem;
use super::recover::Numbers;
use super::rsa_key::{PrivateKey, PublicKey};

/// Called at most once, and only if the key is protected. None means that there is no passphrase.
pub type Passphrase<'a> = &'a mut dyn FnMut() -> Option<Zeroizing<String>>;

/// Makes something of the numbers of a private key.
type Make<'a, T> = &'a dyn Fn(&Numbers<'_>) -> Result<T, KeyError>;

const RSA_ENCRYPTION: &str = "1.2.840.113549.1.1.1";

/// A private key from a file's bytes.
///
/// # Errors
/// Each kind of failure has its own [`KeyError`].
pub fn private_key(bytes: &[u8], passphrase: Passphrase<'_>) -> Result<PrivateKey, KeyError> {
    private_key_of(bytes, Strength::Enforced, passphrase)
}

/// The same, with a size that `strength` allows.
///
/// # Errors
/// Each kind of failure has its own [`KeyError`].
pub fn private_key_of(
    bytes: &[u8],
    strength: Strength,
    passphrase: Passphrase<'_>,
) -> Result<PrivateKey, KeyError> {
    private_numbers(bytes, passphrase, &|numbers| {
        PrivateKey::new(numbers, strength)
    })
}

/// What `make` makes of the numbers of the private key in a file's bytes.
///
/// # Errors
/// Each kind of failure has its own [`KeyError`].
pub(super) fn private_numbers<T>(
    bytes: &[u8],
    passphrase: Passphrase<'_>,
    make: Make<'_, T>,
) -> Result<T, KeyError> {
    let pieces = Pieces::of(bytes)?;
    let Some(piece) = pieces.first(|kind| *kind == Kind::Private) else {
        return Err(match pieces.first(|_| true).map(Piece::kind) {
            Some(Kind::Public) => KeyError::PublicOnly,
            Some(Kind::Certificate) => KeyError::Foreign {
                what: "a certificate",
                advice: "a private key is needed here, which is in a separate file",
            },
            Some(Kind::Other(error)) => error,
            Some(Kind::Private) | None => pieces.nothing(),
        });
    };
    let der = piece.body()?;
    let Some(dek_info) = &piece.dek_info else {
        return private_from_der(der, passphrase, make);
    };
    let passphrase = passphrase().ok_or(KeyError::PassphraseNeeded)?;
    let plain = legacy_pem::decrypt(dek_info, der, &passphrase)?;
    // One wrong passphrase in 256 produces padding that looks valid, but no key.
    private_from_der(&plain, &mut || None, make).map_err(not_opened)
}

/// What a file shows of its key to anyone, without a passphrase.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    pub private: bool,
    /// `PKCS#8`, `PKCS#1`, `SubjectPublicKeyInfo` or `certificate`.
    pub structure: &'static str,
    /// In PEM, otherwise in DER.
    pub pem: bool,
    pub encrypted: bool,
    /// Keys, certificates and anything else that the file has besides.
    pub others: usize,
}

/// Describes the key in a file's bytes: the private one, if there is one.
///
/// # Errors
/// As [`private_key`], unless the file has a public key.
pub fn describe(bytes: &[u8]) -> Result<Description, KeyError> {
    let pieces = Pieces::of(bytes)?;
    let wanted = [Kind::Private, Kind::Public, Kind::Certificate];
    let found = wanted
        .iter()
        .find_map(|wanted| pieces.first(|kind| kind == wanted));
    let Some(piece) = found else {
        return Err(match pieces.first(|_| true).map(Piece::kind) {
            Some(Kind::Other(error)) => error,
            _ => pieces.nothing(),
        });
    };
    let (structure, encrypted) = match Structure::of(piece.body()?) {
        // Nothing is known of what it encrypts, but only this form has such a header.
        _ if piece.dek_info.is_some() => ("PKCS#1", true),
        Some(Structure::PrivatePkcs1(_) | Structure::PublicPkcs1(_)) => ("PKCS#1", false),
        Some(Structure::Pkcs8(_)) => ("PKCS#8", false),
        Some(Structure::EncryptedPkcs8(_)) => ("PKCS#8", true),
        Some(Structure::Spki(_)) => ("SubjectPublicKeyInfo", false),
        Some(Structure::Certificate(_)) => ("certificate", false),
        Some(Structure::Other(_)) | None => return Err(KeyError::NotAKey),
    };
    Ok(Description {
        private: piece.kind() == Kind::Private,
        structure,
        pem: piece.label.is_some(),
        encrypted,
        others: pieces.pieces.len() - 1,
    })
}

/// A public key from a file's bytes; a certificate contains one too.
///
/// # Errors
/// Each kind of failure has its own [`KeyError`].
pub fn public_key(bytes: &[u8]) -> Result<PublicKey, KeyError> {
    let pieces = Pieces::of(bytes)?;
    // An error even if there is a public key beside it: a write-only machine must not have the private key.
    if let Some(piece) = pieces.first(|kind| *kind == Kind::Private) {
        piece.body()?;
        return Err(KeyError::PrivateGiven);
    }
    let found = pieces
        .first(|kind| *kind == Kind::Public)
        .or(pieces.first(|kind| *kind == Kind::Certificate));
    let Some(piece) = found else {
        return Err(match pieces.first(|_| true).map(Piece::kind) {
            Some(Kind::Other(error)) => error,
            _ => pieces.nothing(),
        });
    };
    let der = piece.body()?;
    let key = match Structure::of(der).ok_or(KeyError::NotAKey)? {
        Structure::PublicPkcs1(numbers) => public_from_numbers(&numbers)?,
        Structure::Spki(parts) => public_from_spki(&parts)?,
        Structure::Certificate(parts) => {
            let info = parts[0].sequence().and_then(|parts| spki_of(&parts));
            public_from_spki(&info.ok_or(KeyError::NotAKey)?)?
        }
        _ => return Err(KeyError::NotAKey),
    };
    key.check_modulus()?;
    Ok(key)
}

/// The kind of a block.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Private,
    Public,
    Certificate,
    /// The reason why it cannot be used.
    Other(KeyError),
}

/// One block of PEM, or a whole file of DER.
struct Piece {
    label: Option<String>,
    dek_info: Option<String>,
    body: Option<Zeroizing<Vec<u8>>>,
}

impl Piece {
    fn body(&self) -> Result<&[u8], KeyError> {
        match &self.body {
            Some(body) => Ok(body),
            None => Err(KeyError::Damaged("its base64 is malformed")),
        }
    }

    fn kind(&self) -> Kind {
        let label = self.label.as_deref();
        if self.dek_info.is_some() {
            return Kind::Private;
        }
        if let Some(foreign) = label.and_then(|label| foreign_label(label, self.body.as_deref())) {
            return Kind::Other(foreign);
        }
        if let Some(kind) = self
            .body
            .as_deref()
            .and_then(|der| Some(Structure::of(der)?.kind()))
        {
            return kind;
        }
        // Its label shows what it was meant to be.
        match label {
            Some("PRIVATE KEY" | "RSA PRIVATE KEY" | "ENCRYPTED PRIVATE KEY") => Kind::Private,
            Some("PUBLIC KEY" | "RSA PUBLIC KEY") => Kind::Public,
            Some("CERTIFICATE" | "X509 CERTIFICATE" | "TRUSTED CERTIFICATE") => Kind::Certificate,
            Some(other) => Kind::Other(KeyError::NotRsa(format!(
                "a PEM file of kind \"{}\"",
                other.escape_debug()
            ))),
            None => Kind::Other(KeyError::NotAKey),
        }
    }
}

/// The contents of a file.
struct Pieces {
    pieces: Vec<Piece>,
    incomplete: bool,
}

impl Pieces {
    fn of(bytes: &[u8]) -> Result<Pieces, KeyError> {
        if let Some(pieces) = Pieces::of_pem(bytes) {
            return Ok(pieces);
        }
        if Structure::of(bytes).is_some() {
            return Ok(Pieces::of_der(Zeroizing::new(bytes.to_vec())));
        }
        if let Some(error) = foreign(bytes) {
            return Err(error);
        }
        let Some(decoded) = key_text::bare_base64(bytes) else {
            return Err(KeyError::NotAKey);
        };
        Ok(Pieces::of_pem(&decoded).unwrap_or_else(|| Pieces::of_der(decoded)))
    }

    fn of_pem(bytes: &[u8]) -> Option<Pieces> {
        let found = key_text::blocks(bytes)?;
        let piece = |block: Block| Piece {
            label: Some(block.label),
            dek_info: block.dek_info,
            body: block.body,
        };
        Some(Pieces {
            pieces: found.blocks.into_iter().map(piece).collect(),
            incomplete: found.incomplete,
        })
    }

    fn of_der(bytes: Zeroizing<Vec<u8>>) -> Pieces {
        let piece = Piece {
            label: None,
            dek_info: None,
            body: Some(bytes),
        };
        Pieces {
            pieces: vec![piece],
            incomplete: false,
        }
    }

    fn first(&self, is_wanted: impl Fn(&Kind) -> bool) -> Option<&Piece> {
        self.pieces.iter().find(|piece| is_wanted(&piece.kind()))
    }

    fn nothing(&self) -> KeyError {
        match self.incomplete {
            true => KeyError::Damaged("its PEM text is incomplete"),
            false => KeyError::NotAKey,
        }
    }
}

/// The kind of a DER structure, determined by its first elements.
enum Structure<'a> {
    PrivatePkcs1(Vec<Element<'a>>),
    Pkcs8(Vec<Element<'a>>),
    EncryptedPkcs8(Vec<Element<'a>>),
    PublicPkcs1(Vec<Element<'a>>),
    Spki(Vec<Element<'a>>),
    Certificate(Vec<Element<'a>>),
    Other(KeyError),
}

impl<'a> Structure<'a> {
    /// None if the structure is not that of a key.
    fn of(der: &'a [u8]) -> Option<Structure<'a>> {
        let parts = Element::first(der)?.sequence()?;
        let tags: Vec<u8> = parts.iter().map(|part| part.tag & !CONSTRUCTED).collect();
        const SEQUENCE_: u8 = SEQUENCE & !CONSTRUCTED;
        let other = |what, advice| Structure::Other(KeyError::Foreign { what, advice });
        Some(match tags[..] {
            [INTEGER, SEQUENCE_, OCTET_STRING, ..] => Structure::Pkcs8(parts),
            [SEQUENCE_, OCTET_STRING] => Structure::EncryptedPkcs8(parts),
            [SEQUENCE_, BIT_STRING] => Structure::Spki(parts),
            [INTEGER, INTEGER] => Structure::PublicPkcs1(parts),
            [SEQUENCE_, SEQUENCE_, BIT_STRING] => match parts[0].sequence().map(|p| spki_of(&p)) {
                Some(Some(_)) => Structure::Certificate(parts),
                _ => other(
                    "a certificate request or a list of certificates",
                    "use the key that it was created with",
                ),
            },
            [INTEGER, OCTET_STRING, ..] => {
                Structure::Other(KeyError::NotRsa("an elliptic-curve key".into()))
            }
            [INTEGER, INTEGER, INTEGER, INTEGER, INTEGER, INTEGER] => {
                Structure::Other(KeyError::NotRsa("a DSA key".into()))
            }
            [INTEGER, SEQUENCE_, ..] if parts[0].small() == Some(3) => other(
                "a PKCS#12 file",
                "extract the key with: openssl pkcs12 -in FILE -nocerts -out KEYFILE (with -legacy if it is old)",
            ),
            [INTEGER, INTEGER, INTEGER, INTEGER, ..] => Structure::PrivatePkcs1(parts),
            _ => return None,
        })
    }

    fn kind(self) -> Kind {
        match self {
            Structure::PrivatePkcs1(_) | Structure::Pkcs8(_) | Structure::EncryptedPkcs8(_) => {
                Kind::Private
            }
            Structure::PublicPkcs1(_) | Structure::Spki(_) => Kind::Public,
            Structure::Certificate(_) => Kind::Certificate,
            Structure::Other(error) => Kind::Other(error),
        }
    }
}

/// The SubjectPublicKeyInfo in the first part of a certificate: serial number, algorithm, issuer, validity,
/// subject and key, after an optional version.
fn spki_of<'a>(parts: &[Element<'a>]) -> Option<Vec<Element<'a>>> {
    const VERSION: u8 = 0xa0;
    let parts = match parts.first()?.tag {
        VERSION => &parts[1..],
        _ => parts,
    };
    let [serial, algorithm, issuer, validity, subject, info, ..] = parts else {
        return None;
    };
    serial.unsigned()?;
    for part in [algorithm, issuer, validity, subject] {
        part.sequence()?;
    }
    let info = info.sequence()?;
    (info.len() == 2 && info[1].tag & !CONSTRUCTED == BIT_STRING).then_some(info)
}

fn private_from_der<T>(
    der: &[u8],
    passphrase: Passphrase<'_>,
    make: Make<'_, T>,
) -> Result<T, KeyError> {
    match Structure::of(der) {
        Some(Structure::PrivatePkcs1(parts)) => private_from_numbers(&parts, make),
        Some(Structure::Pkcs8(parts)) => private_from_pkcs8(&parts, make),
        Some(Structure::EncryptedPkcs8(parts)) => {
            let encryption = Encryption::parse(parts[0])?;
            let body = parts[1].octets().ok_or(KeyError::NotAKey)?;
            let passphrase = passphrase().ok_or(KeyError::PassphraseNeeded)?;
            let plain = encryption.decrypt(&passphrase, &body)?;
            private_from_der(&plain, &mut || None, make).map_err(not_opened)
        }
        _ => Err(KeyError::NotAKey),
    }
}

/// A wrong passphrase does not produce a valid structure.
fn not_opened(error: KeyError) -> KeyError {
    match error {
        KeyError::NotAKey | KeyError::PassphraseNeeded => KeyError::WrongPassphrase,
        other => other,
    }
}

fn private_from_pkcs8<T>(parts: &[Element<'_>], make: Make<'_, T>) -> Result<T, KeyError> {
    let [_, algorithm, key, ..] = parts else {
        return Err(KeyError::NotAKey);
    };
    rsa_only(*algorithm)?;
    let der = key.octets().ok_or(KeyError::NotAKey)?;
    match Structure::of(&der) {
        Some(Structure::PrivatePkcs1(parts)) => private_from_numbers(&parts, make),
        _ => Err(KeyError::NotAKey),
    }
}

fn private_from_numbers<T>(parts: &[Element<'_>], make: Make<'_, T>) -> Result<T, KeyError> {
    // The tenth element, in keys with more than two primes, is not a number.
    let numbers: Vec<&[u8]> = parts.iter().map_while(|part| part.unsigned()).collect();
    let [version, modulus, exponent, private_exponent, rest @ ..] = &numbers[..] else {
        return Err(KeyError::NotAKey);
    };
    if **version == [1] || parts.len() > numbers.len() {
        return Err(KeyError::Unusable(
            "it has more than two primes, which is not supported: generate a new one with `ossvault keygen`",
        ));
    }
    let crt = match *rest {
        [p, q, dp, dq, inverse] if rest.iter().all(|number| !number.is_empty()) => {
            Some([p, q, dp, dq, inverse])
        }
        _ => None,
    };
    let numbers = Numbers {
        modulus,
        exponent,
        private_exponent,
        crt,
    };
    make(&numbers)
}

fn public_from_spki(parts: &[Element<'_>]) -> Result<PublicKey, KeyError> {
    let [algorithm, key] = parts else {
        return Err(KeyError::NotAKey);
    };
    rsa_only(*algorithm)?;
    let der = key.bits().ok_or(KeyError::NotAKey)?;
    match Structure::of(&der) {
        Some(Structure::PublicPkcs1(numbers)) => public_from_numbers(&numbers),
        _ => Err(KeyError::NotAKey),
    }
}

fn public_from_numbers(numbers: &[Element<'_>]) -> Result<PublicKey, KeyError> {
    let number = |at: usize| {
        let number = numbers.get(at).and_then(|number| number.unsigned());
        number.ok_or(KeyError::NotAKey)
    };
    PublicKey::new(number(0)?, number(1)?, Strength::Enforced)
}

fn rsa_only(algorithm: Element<'_>) -> Result<(), KeyError> {
    let parts = algorithm.sequence().ok_or(KeyError::NotAKey)?;
    let name = parts.first().and_then(|name| dotted(*name));
    let name = name.ok_or(KeyError::NotAKey)?;
    if name == RSA_ENCRYPTION {
        return Ok(());
    }
    Err(KeyError::NotRsa(match name.as_str() {
        "1.2.840.10045.2.1" => "an elliptic-curve key".into(),
        "1.2.840.10040.4.1" => "a DSA key".into(),
        "1.3.101.110" => "an X25519 key".into(),
        "1.3.101.112" => "an Ed25519 key".into(),
        "1.2.840.113549.1.1.10" => "an RSA key for signatures only (PSS)".into(),
        name => format!("a key of algorithm {name}"),
    }))
}

/// Blocks identified by their labels.
fn foreign_label(label: &str, body: Option<&Vec<u8>>) -> Option<KeyError> {
    let foreign = |what, advice| Some(KeyError::Foreign { what, advice });
    match label {
        "OPENSSH PRIVATE KEY" => {
            // The type of the key precedes it in plain text.
            let is_rsa = body.is_none_or(|body| body.windows(7).any(|word| word == b"ssh-rsa"));
            match is_rsa {
                true => foreign(
                    "a key in OpenSSH's format",
                    "convert a copy of it with: ssh-keygen -p -m PEM -f FILE",
                ),
                false => Some(KeyError::NotRsa("an SSH key of another kind".into())),
            }
        }
        "CERTIFICATE REQUEST" | "NEW CERTIFICATE REQUEST" => foreign(
            "a certificate request",
            "use the key that it was created with",
        ),
        "PKCS7" | "CMS" => foreign("a file of certificates", "use the file of the key itself"),
        "SSH2 PUBLIC KEY" => SSH_PUBLIC,
        label if label.starts_with("PGP ") => foreign(
            "a PGP key",
            "generate a key pair with: ossvault keygen FILE",
        ),
        _ => None,
    }
}

const SSH_PUBLIC: Option<KeyError> = Some(KeyError::Foreign {
    what: "a public key in SSH's format",
    advice: "convert it with: ssh-keygen -e -m PKCS8 -f FILE > NEWFILE",
});

/// Files of other programs.
fn foreign(bytes: &[u8]) -> Option<KeyError> {
    let foreign = |what, advice| Some(KeyError::Foreign { what, advice });
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(4096)]);
    let text = text.trim_start_matches(|c: char| c.is_whitespace() || c == '\u{feff}');
    let has = |word: &str| text.contains(word);
    if bytes.starts_with(&[0xfe, 0xed, 0xfe, 0xed]) || bytes.starts_with(&[0xce, 0xce, 0xce, 0xce])
    {
        return foreign(
            "a Java key store",
            "convert it with: keytool -importkeystore -srckeystore FILE -destkeystore NEW.p12 -deststoretype PKCS12, then: openssl pkcs12 -in NEW.p12 -nocerts -out KEYFILE",
        );
    }
    if text.starts_with("PuTTY-User-Key-File") {
        return foreign(
            "a PuTTY key",
            "convert it with: puttygen FILE -O private-openssh -o NEWFILE, then: ssh-keygen -p -m PEM -f NEWFILE",
        );
    }
    if text.starts_with("ssh-rsa ") {
        return SSH_PUBLIC;
    }
    if text.starts_with("---- BEGIN SSH2 PUBLIC KEY") {
        return SSH_PUBLIC;
    }
    if ["ssh-", "ecdsa-", "sk-"]
        .iter()
        .any(|word| text.starts_with(word))
    {
        return Some(KeyError::NotRsa("an SSH key of another kind".into()));
    }
    if text.starts_with("AGE-SECRET-KEY") || has("age-encryption.org") {
        return Some(KeyError::NotRsa("a key of age".into()));
    }
    if text.starts_with('{') && has("\"kty\"") {
        return foreign(
            "a JSON web key",
            "convert it to PEM with the program that created it",
        );
    }
    if text.starts_with('{') && has("-----BEGIN") || has("\"private_key\"") {
        return foreign(
            "a JSON file",
            "save the PEM text that it contains in a separate file",
        );
    }
    if text.starts_with('<') && has("RSAKeyValue") {
        return foreign(
            "an XML key",
            "convert it to PEM with the program that created it",
        );
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(bytes: &[u8]) -> (KeyError, KeyError) {
        (
            private_key(bytes, &mut || None).err().unwrap(),
            public_key(bytes).err().unwrap(),
        )
    }

    #[test]
    fn anything_but_a_key_is_named_in_the_error() {
        let incomplete = KeyError::Damaged("its PEM text is incomplete");
        let ec = "-----BEGIN EC PRIVATE KEY-----\nMHc=\n-----END EC PRIVATE KEY-----\n";
        for (text, expected) in [
            ("", KeyError::NotAKey),
            ("hello", KeyError::NotAKey),
            ("-----BEGIN PRIVATE KEY", incomplete.clone()),
            ("-----BEGIN PRIVATE KEY-----\nAAAA\n", incomplete.clone()),
            (
                "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PUBLIC KEY-----",
                incomplete,
            ),
            (
                "-----BEGIN PRIVATE KEY-----\n!!!!\n-----END PRIVATE KEY-----",
                KeyError::Damaged("its base64 is malformed"),
            ),
            (
                ec,
                KeyError::NotRsa("a PEM file of kind \"EC PRIVATE KEY\"".into()),
            ),
        ] {
            let (private, public) = refused(text.as_bytes());
            assert_eq!(private, expected, "{text}");
            assert_eq!(public, expected, "{text}");
        }
        let empty = "-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----";
        assert_eq!(
            refused(empty.as_bytes()),
            (KeyError::NotAKey, KeyError::PrivateGiven)
        );
        assert_eq!(refused(&[0x30, 0x80]).0, KeyError::NotAKey);
        assert_eq!(refused(&[0xff; 3000]).0, KeyError::NotAKey);
    }

    #[test]
    fn a_small_key_is_refused_with_its_size() {
        // A disposable key of 1024 bits.
        let private = include_str!("testdata/rsa1024.pem");
        let public = include_str!("testdata/rsa1024.pub.pem");
        assert_eq!(
            private_key(private.as_bytes(), &mut || None).err(),
            Some(KeyError::TooSmall(1024))
        );
        assert_eq!(
            public_key(public.as_bytes()).err(),
            Some(KeyError::TooSmall(1024))
        );
    }
}
