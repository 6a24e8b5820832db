//! Keys, the cipher, and everything that is secret.
//!
//! - [`data_key`]: one random key and one counter start per upload, and the values derived from them;
//! - [`ctr`]: AES-256-CTR at any byte offset, with `ctr_vector` as its fast kernel;
//! - [`rsa_key`], [`key_parse`], [`key_pair`], [`key_file`], [`key_passphrase`]: RSA keys, reading, generating and
//!   writing them
//!   (`key_text`, `ber`, `key_encryption`, `key_cipher`, `legacy_pem` and `recover` parse the many forms of key files);
//! - [`key_ring`]: finds the private key for a wrapped key, and handles PKCS#1 v1.5 without an oracle;
//! - [`staging_cipher`]: encrypts staged and cached data on this machine;
//! - [`mac`]: authenticates what this machine wrote itself;
//! - [`xattr`]: extended attributes under a subkey;
//! - [`trust`]: whether other users of this machine can replace a key file;
//! - `stack`: overwrites what all of these leave on the stack.
//!
//! A secret here is its own type, wiped on drop, without Debug, Clone, Copy or Default, and comes
//! from the operating system's generator and nowhere else.

pub(crate) mod ber;
pub mod ctr;
#[cfg(target_arch = "x86_64")]
mod ctr_vector;
pub mod data_key;
mod key_cipher;
pub(crate) mod key_encryption;
pub mod key_error;
pub mod key_file;
pub mod key_pair;
pub mod key_parse;
pub mod key_passphrase;
pub mod key_ring;
pub(crate) mod key_text;
pub(crate) mod legacy_pem;
pub mod mac;
pub mod random;
mod recover;
pub mod rsa_key;
mod stack;
pub mod staging_cipher;
pub mod trust;
pub mod xattr;
