//! The intent of a directory rename, by which a later mount finishes it.
//!
//! Before the first copy a rename writes an intent: an object below `.ossvault/` that says from where to where, and
//! carries a checksum under the mount's secret (see `instance`).

use std::sync::Arc;

use futures_util::stream::StreamExt;
use serde::{Deserialize, Serialize};

use crate::base::error_chain::chain;
use crate::crypto::mac::MacKey;
use crate::encrypted::EncryptedBucket;
use crate::encrypted::reserved::RESERVED;
use crate::fs::error::{Error, Result};
use crate::fs::instance::{Instance, ThisMount};
use crate::fs::namespace::object_name;
use crate::fs::settings::Settings;
use crate::store::object_store::{Body, ListedObject, ObjectHeaders, ObjectKey, Overwrite};

/// The most bytes of an intent: two keys, in which each byte may be escaped, and the checksum.
const LONGEST: u64 = 16 << 10;

/// What the checksum says first.
const WHAT: &[u8] = b"ossvault rename 1";

/// What an intent object holds.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Intent {
    /// Below the mount's prefix, both with a trailing `/`.
    pub from: String,
    pub to: String,
    /// In digits of base 16.
    mac: String,
}

impl Intent {
    pub(crate) fn new(secret: &MacKey, key: &ObjectKey, from: String, to: String) -> Intent {
        let sum = secret.sum(&fields(key, &from, &to));
        let mac = hex::encode(sum);
        Intent { from, to, mac }
    }

    /// What is in an object under that key, by the secret of the mount that its name tells of.
    ///
    /// # Errors
    /// When that mount has not written it, or not under that key, or it is no possible rename.
    pub(crate) fn parse(text: &[u8], secret: &MacKey, key: &ObjectKey) -> Result<Intent> {
        let intent: Intent =
            serde_json::from_slice(text).map_err(|error| Error::io(error.to_string()))?;
        intent.check(secret, key)?;
        Ok(intent)
    }

    fn check(&self, secret: &MacKey, key: &ObjectKey) -> Result<()> {
        let mut sum = [0; 32];
        let genuine = hex::decode_to_slice(&self.mac, &mut sum).is_ok()
            && secret.verifies(&fields(key, &self.from, &self.to), &sum);
        if !genuine {
            return Err(Error::io("it is not genuine"));
        }
        let apart = !self.to.starts_with(&self.from) && !self.from.starts_with(&self.to);
        match is_path(&self.from) && is_path(&self.to) && apart {
            true => Ok(()),
            false => Err(Error::io("it makes no sense")),
        }
    }
}

fn fields<'a>(key: &'a ObjectKey, from: &'a str, to: &'a str) -> [&'a [u8]; 4] {
    [
        WHAT,
        key.as_str().as_bytes(),
        from.as_bytes(),
        to.as_bytes(),
    ]
}

/// Of a directory of the user's, with a trailing `/`.
fn is_path(path: &str) -> bool {
    path.strip_suffix('/').is_some_and(|path| {
        path.split('/').all(object_name::is_component) && path.split('/').next() != Some(RESERVED)
    })
}

/// The intents of this mount.
pub(crate) struct Intents {
    bucket: Arc<EncryptedBucket>,
    settings: Arc<Settings>,
    this_mount: Arc<ThisMount>,
}

impl Intents {
    pub(crate) fn new(
        bucket: Arc<EncryptedBucket>,
        settings: Arc<Settings>,
        this_mount: Arc<ThisMount>,
    ) -> Arc<Intents> {
        Arc::new(Intents {
            bucket,
            settings,
            this_mount,
        })
    }

    pub(crate) async fn write_intent(&self, old: &str, new: &str) -> Result<ObjectKey> {
        let prefix = &self.settings.prefix;
        let below = |key: &str| key.strip_prefix(prefix.as_str()).unwrap_or(key).to_owned();
        let key = self.this_mount.key_of_ours("rename-").await?;
        let secret = &self.this_mount.instance().await.key;
        let intent = Intent::new(secret, &key, below(old), below(new));
        let text = serde_json::to_vec(&intent).map_err(|error| Error::io(error.to_string()))?;
        let headers = ObjectHeaders {
            content_type: Some("application/json".to_owned()),
            ..ObjectHeaders::default()
        };
        let store = self.bucket.store();
        let body = Body::from_bytes(text);
        match store.put(&key, &headers, body, Overwrite::Allowed).await {
            Ok(_) => Ok(key),
            Err(error) => {
                // The answer may have been lost.
                let _ = store.delete(&key).await;
                Err(error.into())
            }
        }
    }

    /// Removes an intent; where it cannot be deleted, nothing is left in it that could be carried on.
    pub(crate) async fn drop_intent(&self, intent: &ObjectKey) -> Result<()> {
        let store = self.bucket.store();
        let result = match store.delete(intent).await.map_err(Error::from) {
            Err(error) if error.is_refusal() => {
                log::warn!(
                    "cannot delete {intent}, which is emptied instead: {}",
                    chain(&error)
                );
                self.this_mount.leave_something();
                let headers = ObjectHeaders::default();
                let put = store.put(intent, &headers, Body::empty(), Overwrite::Allowed);
                put.await.map(drop).map_err(Error::from)
            }
            result => result,
        };
        if result.is_err() {
            self.this_mount.leave_something();
        }
        result
    }

    /// # Errors
    /// When it is not an intent that this mount has written.
    pub(super) async fn read_intent(
        &self,
        object: &ListedObject,
        instance: &Instance,
    ) -> Result<Intent> {
        let key = object_name::object_key(object.key.clone())?;
        if object.size > LONGEST {
            return Err(Error::io("it is too long"));
        }
        let mut body = self.bucket.store().get(&key, None, None).await?.body;
        let mut text = Vec::new();
        while let Some(chunk) = body.next().await {
            text.extend_from_slice(&chunk?);
            if text.len() as u64 > LONGEST {
                return Err(Error::io("it is too long"));
            }
        }
        Intent::parse(&text, &instance.key, &key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_intent_counts_only_where_it_was_written_and_as_it_was() {
        let secret = MacKey::generate();
        let key = |key: &str| ObjectKey::new(key).unwrap();
        let here = key(".ossvault/rename-1");
        let intent = |from: &str, to: &str| Intent::new(&secret, &here, from.into(), to.into());
        intent("a/", "b/").check(&secret, &here).unwrap();
        for (from, to) in [
            ("a", "b/"),
            ("a/", "a/b/"),
            ("a/b/", "a/"),
            ("a/", "../b/"),
            ("a//", "b/"),
            ("/", "b/"),
            (".ossvault/", "b/"),
            ("a/", ".ossvault/x/"),
            ("", "b/"),
        ] {
            let checked = intent(from, to).check(&secret, &here);
            assert!(checked.is_err(), "{from} {to}");
        }
        let mut changed = intent("a/", "b/");
        changed.from = "c/".into();
        assert!(changed.check(&secret, &here).is_err());
        let elsewhere = key(".ossvault/rename-2");
        assert!(intent("a/", "b/").check(&secret, &elsewhere).is_err());
        let other = MacKey::generate();
        assert!(intent("a/", "b/").check(&other, &here).is_err());
        for mac in ["", "zz", &"0".repeat(64), &"\u{e9}".repeat(32)] {
            let forged = Intent {
                mac: mac.to_owned(),
                ..intent("a/", "b/")
            };
            assert!(forged.check(&secret, &here).is_err(), "{mac}");
        }
    }
}
