//! The formats by name, and the metadata names they use.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use crate::crypto::data_key::ContentKind;

/// Names are without the `x-oss-meta-` prefix, in lower case.
pub(super) mod names {
    pub const SEED_KEY: &str = "x-oss-key";
    pub const SEED_START: &str = "x-oss-start";

    pub const SDK_PREFIX: &str = "client-side-encryption-";
    pub const SDK_KEY: &str = "client-side-encryption-key";
    pub const SDK_START: &str = "client-side-encryption-start";
    pub const SDK_CEK_ALG: &str = "client-side-encryption-cek-alg";
    pub const SDK_WRAP_ALG: &str = "client-side-encryption-wrap-alg";
    pub const SDK_MATDESC: &str = "client-side-encryption-matdesc";
    pub const SDK_DATA_SIZE: &str = "client-side-encryption-data-size";
    pub const SDK_PART_SIZE: &str = "client-side-encryption-part-size";

    pub const LEGACY_PREFIX: &str = "oss-crypto-";
    pub const LEGACY_KEY: &str = "oss-crypto-key";
    pub const LEGACY_START: &str = "oss-crypto-start";
    pub const LEGACY_CEK_ALG: &str = "oss-cek-alg";
    pub const LEGACY_WRAP_ALG: &str = "oss-wrap-alg";

    pub const VERSION: &str = "ossvault-v";
    pub const KEY_ID: &str = "ossvault-key";
    pub const XATTR: &str = "ossvault-xattr";
    pub const REWRAPPED: &str = "ossvault-rewrapped";
}

/// The permissions and the type of a file, in decimal, without the `x-oss-meta-` prefix.
pub const MODE: &str = "mode";

/// The longest target of a symbolic link, in bytes: PATH_MAX with its zero byte is 4096.
pub const LONGEST_LINK: u64 = 4095;

/// The mode in an object's user metadata, with the type bits that it claims; None where it makes no sense.
pub fn stored_mode(user: &BTreeMap<String, String>) -> Option<u32> {
    user.get(MODE)?.parse().ok()
}

/// What an object's user metadata claim its content to be. Whether that is true, the counter start says.
pub fn claimed_kind(user: &BTreeMap<String, String>) -> ContentKind {
    match stored_mode(user).map(|mode| mode & libc::S_IFMT) {
        Some(libc::S_IFLNK) => ContentKind::Link,
        _ => ContentKind::File,
    }
}

/// The metadata entry of sealed extended attributes, without the `x-oss-meta-` prefix.
pub const XATTR_NAME: &str = names::XATTR;

/// Whether an object's user metadata (names without `x-oss-meta-`, in lower case) make the service apply its
/// rules on client-side encryption: its metadata cannot be changed by a copy, nor can it be copied in parts.
pub fn is_bound_by_sdk_rules(user: &BTreeMap<String, String>) -> bool {
    user.contains_key(names::SDK_KEY)
}

/// Announces the sizes of a multipart upload in an object's metadata.
pub fn announce_sizes(user: &mut BTreeMap<String, String>, total: u64, part: u64) {
    user.insert(names::SDK_DATA_SIZE.to_owned(), total.to_string());
    user.insert(names::SDK_PART_SIZE.to_owned(), part.to_string());
}

/// Whether a metadata name (without `x-oss-meta-`, in lower case) belongs to an envelope, or to what is
/// encrypted under its key: such entries go when the content is replaced, and no user may set them.
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

/// Whether an object's data key is older than its wrapping: who could open the one before may have kept it.
pub fn is_rewrapped(user: &BTreeMap<String, String>) -> bool {
    user.contains_key(names::REWRAPPED)
}

/// An envelope name that says nothing of the content's encryption: what the SDKs note of the plaintext in
/// names that anybody might use.
pub(super) fn is_note(name: &str) -> bool {
    matches!(
        name,
        "unencrypted-content-length" | "unencrypted-content-md5"
    )
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// The documentation example's: OAEP, start as decimal text. Our default.
    Seed,
    /// The official SDKs': PKCS#1 v1.5, start as 16 raw bytes.
    Sdk,
    /// The names of `Sdk`, wrapped with OAEP: Python's LocalRsaProvider.
    SdkOaep,
    /// Python's LocalRsaProvider before 2.10: the seed format under other names.
    Legacy,
    /// Seed and SDK headers on one object.
    Dual,
    /// No envelope: an object that is not encrypted, where those are served.
    Plain,
}

impl Format {
    /// As `--format` and messages call it.
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

    /// Whether the service applies its rules on `client-side-encryption-*` metadata: sizes announced
    /// before a multipart upload, no metadata change by copy.
    pub fn has_sdk_names(self) -> bool {
        matches!(self, Format::Sdk | Format::SdkOaep | Format::Dual)
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The formats that are written.
impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Format, String> {
        match text {
            "seed" => Ok(Format::Seed),
            "sdk" => Ok(Format::Sdk),
            "dual" => Ok(Format::Dual),
            other => Err(format!(
                "unknown format {other:?}: one of seed, sdk, dual is written"
            )),
        }
    }
}
