//! Why bytes are no key, and which sizes of keys are taken.

/// In bits. Smaller keys protect nothing.
pub const MIN_BITS: usize = 2048;
/// What is taken where weak keys are.
pub const WEAK_BITS: usize = 1024;
pub const MAX_BITS: usize = 4096;

/// Why a key cannot be had from some bytes. Never carries any of them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("not an RSA key (expected PEM or DER: PKCS#1, PKCS#8, or a public key)")]
    NotAKey,
    #[error("not an RSA key but {0}; make one with `ossvault keygen`")]
    NotRsa(String),
    #[error("the key is damaged: {0}")]
    Damaged(&'static str),
    /// Whole, and of a kind that is not supported.
    #[error("the key cannot be used: {0}")]
    Unusable(&'static str),
    #[error("the key is protected by a passphrase, and none was given")]
    PassphraseNeeded,
    #[error("wrong passphrase")]
    WrongPassphrase,
    #[error("a passphrase may not be empty; ask for no passphrase instead")]
    EmptyPassphrase,
    #[error(
        "the key is encrypted in a way that is not supported ({0}); convert it with: openssl pkcs8 -topk8 -in FILE -out NEWFILE -provider legacy -provider default"
    )]
    UnsupportedEncryption(String),
    #[error(
        "the key's encryption asks for too much ({0}); convert it with: openssl pkcs8 -topk8 -in FILE -out NEWFILE"
    )]
    TooCostly(&'static str),
    #[error("this is {what}: {advice}")]
    Foreign {
        what: &'static str,
        advice: &'static str,
    },
    #[error(
        "the key has {0} bits, at least {min} are needed (to read what an old key of {weak} bits or more protects: --allow-weak-keys)",
        min = MIN_BITS,
        weak = WEAK_BITS
    )]
    TooSmall(usize),
    #[error("the key has {0} bits, at most {max} are supported", max = MAX_BITS)]
    TooLarge(usize),
    #[error("this is a public key; the private key is needed here")]
    PublicOnly,
    #[error("this is a private key; the public key is needed here")]
    PrivateGiven,
}

/// Which sizes of keys are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strength {
    /// Those that protect something.
    Enforced,
    /// Smaller ones as well, to read what they were used for once.
    WeakAllowed,
}
