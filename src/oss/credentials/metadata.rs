//! The keys of an ECS instance's role, from the metadata service in its second version.
//!
//! The second version asks for a token first, with a method and a header that no browser and no naive proxy can be made
//! to send, so that a program on the instance which fetches URLs for others cannot be used to steal the keys. The first
//! version is not used.

use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use reqwest::Method;
use zeroize::Zeroizing;

use super::access_key::AccessKey;
use super::arn;
use super::error::{Error, Fault};
use super::http::{self, Answer, Ask};
use super::json;
use super::network::Network;
use super::source::Source;

const ROLES: &str = "/latest/meta-data/ram/security-credentials/";
/// The token is used at once.
const TOKEN_LIFE: &str = "180";

pub struct Instance {
    /// None: the one that the instance has.
    role: Option<String>,
    network: Network,
}

impl Instance {
    /// # Errors
    /// `role` is not the name of a role; it is not shown.
    pub fn new(role: Option<String>, network: Network) -> Result<Instance, Error> {
        match role.as_deref().is_none_or(arn::is_name) {
            true => Ok(Instance { role, network }),
            false => {
                let why = "the name of the role has other characters than letters, digits and ._-";
                Err(Fault::unusable(why).of("the metadata service"))
            }
        }
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        header: (&'static str, Zeroizing<String>),
    ) -> Result<Answer, Fault> {
        let url = format!("{}{path}", self.network.metadata());
        let ask = Ask {
            method,
            url: &url,
            headers: &[header],
            body: None,
        };
        let answer = http::send(ask, self.network.patience()).await?;
        match answer.status {
            200 => Ok(answer),
            404 => Err(Fault::unusable(
                "status 404: the instance has no such role, or this is no ECS instance",
            )),
            429 | 500.. => Err(Fault::unreachable(format!("status {}", answer.status))),
            status => Err(Fault::unusable(format!("status {status}"))),
        }
    }

    async fn key(&self) -> Result<AccessKey, Fault> {
        const TOKEN: &str = "x-aliyun-ecs-metadata-token";
        let life = Zeroizing::new(TOKEN_LIFE.to_owned());
        let header = ("x-aliyun-ecs-metadata-token-ttl-seconds", life);
        let answer = self.ask(Method::PUT, "/latest/api/token", header).await?;
        let token = text(&answer).filter(|token| token.len() <= 1024);
        let token = token.ok_or_else(|| Fault::unusable("it answers with what is no token"))?;
        let token = Zeroizing::new(token.to_owned());
        let get = |path| self.ask(Method::GET, path, (TOKEN, token.clone()));
        let role = match &self.role {
            Some(role) => role.clone(),
            None => {
                let answer = get(ROLES).await?;
                let role = text(&answer).filter(|role| arn::is_name(role));
                let role = role.ok_or_else(|| Fault::unusable("the instance has no role"))?;
                role.to_owned()
            }
        };
        let answer = get(&format!("{ROLES}{role}")).await?;
        json::key_at(&answer.body, SystemTime::now(), answer.date)
    }
}

/// A word.
fn text(answer: &Answer) -> Option<&str> {
    let text = std::str::from_utf8(&answer.body).ok()?.trim();
    let plain = text.bytes().all(|byte| byte.is_ascii_graphic());
    (!text.is_empty() && plain).then_some(text)
}

#[async_trait]
impl Source for Instance {
    fn name(&self) -> String {
        match &self.role {
            None => "the metadata service".to_owned(),
            Some(role) => format!("the metadata service, role {role}"),
        }
    }

    async fn fetch(&self) -> Result<Arc<AccessKey>, Error> {
        let key = self.key().await;
        key.map(Arc::new).map_err(|fault| fault.of(self.name()))
    }
}
