//! Errors of key parsing, and the accepted key sizes.

/// In bits. Smaller keys are too weak to protect anything.
pub const MIN_BITS: usize = 2048;
/// The minimum if weak keys are allowed.
pub const WEAK_BITS: usize = 1024;
pub const MAX_BITS: usize = 4096;

/// Why bytes are not a usable key. Never contains any of the bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("not an RSA key (expected PEM or DER: PKCS#1, PKCS#8, or a public key)")]
    NotAKey,
    #[error("not an RSA key but {0}; generate one with `ossvault keygen`")]
    NotRsa(String),
    #[error("the key is damaged: {0}")]
    Damaged(&'static str),
    /// Well-formed, but of an unsupported kind.
    #[error("the key cannot be used: {0}")]
    Unusable(&'static str),
    #[error("the key is protected by a passphrase, and none was given")]
    PassphraseNeeded,
    #[error("wrong passphrase")]
    WrongPassphrase,
    #[error("an empty passphrase is not allowed; use no passphrase instead")]
    EmptyPassphrase,
    #[error(
        "the key's encryption is not supported ({0}); convert it with: openssl pkcs8 -topk8 -in FILE -out NEWFILE -provider legacy -provider default"
    )]
    UnsupportedEncryption(String),
    #[error(
        "the key's encryption needs too much memory or time ({0}); convert it with: openssl pkcs8 -topk8 -in FILE -out NEWFILE"
    )]
    TooCostly(&'static str),
    #[error("this is {what}: {advice}")]
    Foreign {
        what: &'static str,
        advice: &'static str,
    },
    #[error(
        "the key has {0} bits, but at least {min} are required (to read what an old key of {weak} bits or more protects: --allow-weak-keys)",
        min = MIN_BITS,
        weak = WEAK_BITS
    )]
    TooSmall(usize),
    #[error("the key has {0} bits, but at most {max} are supported", max = MAX_BITS)]
    TooLarge(usize),
    #[error("this is a public key; the private key is needed here")]
    PublicOnly,
    #[error("this is a private key; the public key is needed here")]
    PrivateGiven,
}

/// The accepted key sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strength {
    /// Only sizes that are secure.
    Enforced,
    /// Smaller sizes too, to read what they once protected.
    WeakAllowed,
}
