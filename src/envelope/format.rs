//! The formats, and the metadata names that they use.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use crate::crypto::data_key::ContentKind;

/// Names without the `x-oss-meta-` prefix, in lower case.
pub(super) mod names {
    pub(crate) const SEED_KEY: &str = "x-oss-key";
    pub(crate) const SEED_START: &str = "x-oss-start";

    pub(crate) const SDK_PREFIX: &str = "client-side-encryption-";
    pub(crate) const SDK_KEY: &str = "client-side-encryption-key";
    pub(crate) const SDK_START: &str = "client-side-encryption-start";
    pub(crate) const SDK_CEK_ALG: &str = "client-side-encryption-cek-alg";
    pub(crate) const SDK_WRAP_ALG: &str = "client-side-encryption-wrap-alg";
    pub(crate) const SDK_MATDESC: &str = "client-side-encryption-matdesc";
    pub(crate) const SDK_DATA_SIZE: &str = "client-side-encryption-data-size";
    pub(crate) const SDK_PART_SIZE: &str = "client-side-encryption-part-size";

    pub(crate) const LEGACY_PREFIX: &str = "oss-crypto-";
    pub(crate) const LEGACY_KEY: &str = "oss-crypto-key";
    pub(crate) const LEGACY_START: &str = "oss-crypto-start";
    pub(crate) const LEGACY_CEK_ALG: &str = "oss-cek-alg";
    pub(crate) const LEGACY_WRAP_ALG: &str = "oss-wrap-alg";

    pub(crate) const VERSION: &str = "ossvault-v";
    pub(crate) const KEY_ID: &str = "ossvault-key";
    pub(crate) const XATTR: &str = "ossvault-xattr";
    pub(crate) const REWRAPPED: &str = "ossvault-rewrapped";
}

/// The permissions and type of a file, in decimal; the name is without the `x-oss-meta-` prefix.
pub const MODE: &str = "mode";

/// The maximum length of a symbolic link's target in bytes: PATH_MAX, which includes a zero byte, is 4096.
pub const LONGEST_LINK: u64 = 4095;

/// The mode in an object's user metadata, including the type bits that it claims; None if it is invalid.
pub fn stored_mode(user: &BTreeMap<String, String>) -> Option<u32> {
    user.get(MODE)?.parse().ok()
}

/// The type of content that an object's user metadata claims. The counter start shows whether that is true.
pub fn claimed_kind(user: &BTreeMap<String, String>) -> ContentKind {
    match stored_mode(user).map(|mode| mode & libc::S_IFMT) {
        Some(libc::S_IFLNK) => ContentKind::Link,
        _ => ContentKind::File,
    }
}

/// The metadata name of encrypted extended attributes, without the `x-oss-meta-` prefix.
pub const XATTR_NAME: &str = names::XATTR;

/// Whether an object's user metadata (names without `x-oss-meta-`, in lower case) makes the service apply its
/// rules on client-side encryption: a copy can neither change its metadata nor be made in parts.
pub fn is_bound_by_sdk_rules(user: &BTreeMap<String, String>) -> bool {
    user.contains_key(names::SDK_KEY)
}

/// Announces the sizes of a multipart upload in an object's metadata.
pub fn announce_sizes(user: &mut BTreeMap<String, String>, total: u64, part: u64) {
    user.insert(names::SDK_DATA_SIZE.to_owned(), total.to_string());
    user.insert(names::SDK_PART_SIZE.to_owned(), part.to_string());
}

/// Whether a metadata name (without `x-oss-meta-`, in lower case) belongs to an envelope or to data encrypted
/// under its key: such entries are removed when the content is replaced, and users cannot set them.
pub fn is_envelope_name(name: &str) -> bool {
    name.starts_with(names::SDK_PREFIX)
        || name.starts_with(names::LEGACY_PREFIX)
        || is_note(name)
        || matches!(
            name,
            names::SEED_KEY
                | names::SEED_START
                | names::LEGACY_CEK_ALG
                | names::LEGACY_WRAP_ALG
                | names::VERSION
                | names::KEY_ID
                | names::XATTR
                | names::REWRAPPED
        )
}

/// Whether an object's data key is older than its wrapping: a holder of the previous key may have kept it.
pub fn is_rewrapped(user: &BTreeMap<String, String>) -> bool {
    user.contains_key(names::REWRAPPED)
}

/// An envelope header that says nothing about the content's encryption: the SDKs' notes on the plaintext,
/// with names that other programs may use too.
pub(super) fn is_note(name: &str) -> bool {
    matches!(
        name,
        "unencrypted-content-length" | "unencrypted-content-md5"
    )
}

/// A family of metadata names with its wrapping: see docs/format.md, section 3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// The format of the documentation example: OAEP, start as decimal text. The default.
    Seed,
    /// The format of the official SDKs: PKCS#1 v1.5, start as 16 raw bytes.
    Sdk,
    /// The names of `Sdk`, wrapped with OAEP: Python's LocalRsaProvider.
    SdkOaep,
    /// Python's LocalRsaProvider before 2.10: the seed format under other names.
    Legacy,
    /// Seed and SDK headers on one object.
    Dual,
    /// No envelope: an unencrypted object, if such objects may be read.
    Plain,
}

impl Format {
    /// The name in `--format` and messages.
    pub fn name(self) -> &'static str {
        match self {
            Format::Seed => "seed",
            Format::Sdk => "sdk",
            Format::SdkOaep => "sdk-oaep",
            Format::Legacy => "legacy",
            Format::Dual => "dual",
            Format::Plain => "plain",
        }
    }

    /// Whether the service applies its rules on `client-side-encryption-*` metadata: sizes must be announced
    /// before a multipart upload, and a copy cannot change metadata.
    pub fn has_sdk_names(self) -> bool {
        matches!(self, Format::Sdk | Format::SdkOaep | Format::Dual)
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The formats that can be written.
impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Format, String> {
        match text {
            "seed" => Ok(Format::Seed),
            "sdk" => Ok(Format::Sdk),
            "dual" => Ok(Format::Dual),
            other => Err(format!(
                "unknown format {other:?}: expected seed, sdk or dual"
            )),
        }
    }
}
