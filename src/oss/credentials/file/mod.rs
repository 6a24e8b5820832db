//! A file with keys, in any of the forms that the provider's programs write. It is read again when it has been
//! replaced, which secret stores do by swapping a symbolic link.
//!
//! The form is seen from the content: JSON is a key or the configuration of `aliyun`, a section in brackets is the
//! configuration of ossutil, anything else is `passwd-ossfs`.

mod aliyun;
mod ossutil;
pub mod passwd;
pub mod read;

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use async_trait::async_trait;

use super::access_key::AccessKey;
use super::error::{Error, Fault};
use super::json;
use super::network::Network;
use super::recipe::Recipe;
use super::source::Source;
use crate::base::sync::lock;
use read::{Identity, Rules};

pub struct KeyFile {
    /// Absolute.
    pub(super) path: PathBuf,
    /// The path for messages.
    pub(super) shown: String,
    pub(super) rules: Rules,
    /// Of the forms that have profiles; none is the current one.
    pub(super) profile: Option<String>,
    /// Of the form that has keys for buckets.
    pub(super) bucket: String,
    pub(super) network: Network,
    /// The version that was read last. A leaf.
    pub(super) seen: Mutex<Option<Identity>>,
}

/// What a file says.
///
/// # Errors
/// It is of no known form; or as the form's own parser.
fn recipe(
    bytes: &[u8],
    profile: Option<&str>,
    bucket: &str,
    network: &Network,
    now: SystemTime,
) -> Result<Recipe, Fault> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let text = std::str::from_utf8(bytes).map_err(|_| Fault::unusable("it is not UTF-8"))?;
    let first = text
        .lines()
        .map(str::trim)
        .find(|line| !line.is_empty() && !line.starts_with(['#', ';']));
    let is_json = first.is_some_and(|line| line.starts_with('{'));
    if is_json && aliyun::is_config(bytes) {
        return aliyun::recipe(bytes, profile, network, now);
    }
    if first.is_some_and(|line| line.starts_with('[')) {
        return ossutil::recipe(text, profile, now);
    }
    if profile.is_some() {
        return Err(Fault::unusable(
            "a profile was named, and it has no profiles",
        ));
    }
    Ok(Recipe::Key(match is_json {
        true => json::key(bytes, now)?,
        false => passwd::key(text, bucket, now)?,
    }))
}

/// For fuzzing: whether a file of this content would give or lead to a key, or the error's text.
#[doc(hidden)]
pub fn examine(bytes: &[u8], profile: Option<&str>, network: &Network) -> Result<(), String> {
    let recipe = recipe(bytes, profile, "bucket", network, SystemTime::now());
    let source = recipe.map_err(|fault| fault.why)?.source(network);
    source.map(drop).map_err(|error| error.to_string())
}

#[async_trait]
impl Source for KeyFile {
    fn name(&self) -> String {
        format!("the file {}", self.shown)
    }

    async fn fetch(&self) -> Result<Arc<AccessKey>, Error> {
        let failed = |fault: Fault| fault.of(self.name());
        let content = read::content(self.path.clone(), self.rules).await;
        let content = content.map_err(failed)?;
        *lock(&self.seen) = Some(content.identity);
        let profile = self.profile.as_deref();
        let recipe = recipe(
            &content.bytes,
            profile,
            &self.bucket,
            &self.network,
            SystemTime::now(),
        );
        let source = recipe.map_err(failed)?.source(&self.network);
        // What the file leads to has a name of its own.
        let through = |error: Error| Error {
            from: format!("{}, {}", self.name(), error.from),
            ..error
        };
        source.map_err(through)?.fetch().await.map_err(through)
    }

    fn is_watched(&self) -> bool {
        true
    }

    async fn changed(&self) -> bool {
        let now = read::identity(self.path.clone()).await;
        now.is_some() && now != *lock(&self.seen)
    }
}
