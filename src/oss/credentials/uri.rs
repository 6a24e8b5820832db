//! The keys that a service of the user's own gives at a URL, in JSON as the metadata service writes it.

use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use reqwest::Method;
use zeroize::Zeroizing;

use super::access_key::AccessKey;
use super::error::{Error, Fault};
use super::http::{self, Ask};
use super::json;
use super::network::Network;
use super::source::Source;

pub struct Uri {
    /// Not shown: it may hold a secret that opens it.
    uri: Zeroizing<String>,
    network: Network,
}

impl Uri {
    pub(super) fn new(uri: Zeroizing<String>, network: Network) -> Uri {
        Uri { uri, network }
    }

    async fn key(&self) -> Result<AccessKey, Fault> {
        let ask = Ask {
            method: Method::GET,
            url: self.uri.trim(),
            headers: &[],
            body: None,
        };
        let answer = http::send(ask, self.network.patience()).await?;
        match answer.status {
            200 => json::key_at(&answer.body, SystemTime::now(), answer.date),
            429 | 500.. => Err(Fault::unreachable(format!("status {}", answer.status))),
            status => Err(Fault::unusable(format!("status {status}"))),
        }
    }
}

#[async_trait]
impl Source for Uri {
    fn name(&self) -> String {
        "the credentials URI".to_owned()
    }

    async fn fetch(&self) -> Result<Arc<AccessKey>, Error> {
        let key = self.key().await;
        key.map(Arc::new).map_err(|fault| fault.of(self.name()))
    }
}
