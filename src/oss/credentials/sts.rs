//! The security token service: AssumeRole and AssumeRoleWithOIDC, and signature version 3 of the provider's APIs.
//!
//! Parameters of AssumeRole go in the query, as the service documents it, and are no secrets; a token of an identity
//! provider goes in the body. The service's messages are not shown: some repeat what was signed, with the token in it.

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use reqwest::{Method, Url};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::super::sign::hmac_sha256;
use super::access_key::AccessKey;
use super::error::Fault;
use super::http::{self, Answer, Ask};
use super::json::{self, Secret};
use crate::base::encoding::percent_encoded;
use crate::base::time;

const VERSION: &str = "2015-04-01";
const ALGORITHM: &str = "ACS3-HMAC-SHA256";
/// How long the keys live that are asked for, in seconds: what every role allows.
pub(super) const LIFE: u64 = 3600;
/// The name of sessions that are given none.
pub(super) const SESSION: &str = "ossvault";
/// As the clock of the requests to the bucket: whoever controls the reported time could obtain signatures for a
/// distant day.
const MAX_CLOCK_OFFSET: Duration = Duration::from_secs(86_400);

/// A role to assume, and how.
#[derive(Clone)]
pub struct Role {
    pub arn: String,
    pub session: String,
    /// In seconds.
    pub life: u64,
    /// Narrows the rights of the role.
    pub policy: Option<String>,
    pub external_id: Option<String>,
}

impl Role {
    fn parameters(&self) -> Vec<(&'static str, Cow<'_, str>)> {
        let mut parameters = vec![
            ("RoleArn", Cow::from(&self.arn)),
            ("RoleSessionName", Cow::from(&self.session)),
            ("DurationSeconds", Cow::from(self.life.to_string())),
        ];
        parameters.extend(
            self.policy
                .as_deref()
                .map(|policy| ("Policy", policy.into())),
        );
        let external = self.external_id.as_deref();
        parameters.extend(external.map(|id| ("ExternalId", id.into())));
        parameters
    }
}

/// A request to sign: an empty body, and everything else in the query.
pub struct Signed<'a> {
    pub host: &'a str,
    pub action: &'a str,
    pub version: &'a str,
    /// `2026-01-03T04:05:06Z`.
    pub date: &'a str,
    pub nonce: &'a str,
    pub token: Option<&'a str>,
    /// Encoded and sorted.
    pub query: &'a str,
}

/// The SHA-256 of nothing.
const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// The value of `Authorization`.
pub fn authorization(request: &Signed<'_>, id: &str, secret: &str) -> Zeroizing<String> {
    let mut headers = vec![
        ("host", request.host),
        ("x-acs-action", request.action),
        ("x-acs-content-sha256", EMPTY),
        ("x-acs-date", request.date),
    ];
    headers.extend(request.token.map(|token| ("x-acs-security-token", token)));
    headers.push(("x-acs-signature-nonce", request.nonce));
    headers.push(("x-acs-version", request.version));
    let names: Vec<&str> = headers.iter().map(|(name, _)| *name).collect();
    let names = names.join(";");
    let mut canonical = Zeroizing::new(format!("POST\n/\n{}\n", request.query));
    for (name, value) in headers {
        canonical.push_str(&format!("{name}:{value}\n"));
    }
    canonical.push_str(&format!("\n{names}\n{EMPTY}"));
    let text = format!(
        "{ALGORITHM}\n{}",
        hex::encode(Sha256::digest(canonical.as_bytes()))
    );
    let signature = hex::encode(*hmac_sha256(secret.as_bytes(), &text));
    Zeroizing::new(format!(
        "{ALGORITHM} Credential={id},SignedHeaders={names},Signature={signature}"
    ))
}

/// Pairs as a query or a form, sorted as signatures want them.
pub fn encoded(mut pairs: Vec<(&str, Cow<'_, str>)>) -> Zeroizing<String> {
    pairs.sort_unstable();
    let mut text = Zeroizing::new(String::new());
    for (name, value) in pairs {
        if !text.is_empty() {
            text.push('&');
        }
        text.push_str(&percent_encoded(name, false));
        text.push('=');
        text.push_str(&percent_encoded(&value, false));
    }
    text
}

/// A key of `role`, which `key` may assume.
///
/// # Errors
/// The service does not answer, refuses, or gives what is no key.
pub(super) async fn assume_role(
    endpoint: &str,
    role: &Role,
    key: &AccessKey,
    patience: Duration,
) -> Result<AccessKey, Fault> {
    const ACTION: &str = "AssumeRole";
    let host = host_of(endpoint);
    let query = encoded(role.parameters());
    let url = Zeroizing::new(format!("{endpoint}/?{}", *query));
    let send = async |now: SystemTime| {
        let (date, nonce) = (time::plain(now), hex::encode(rand::random::<[u8; 16]>()));
        let request = Signed {
            host: &host,
            action: ACTION,
            version: VERSION,
            date: &date,
            nonce: &nonce,
            token: key.token(),
            query: &query,
        };
        let authorization = authorization(&request, key.id(), key.secret());
        let plain = |value: &str| Zeroizing::new(value.to_owned());
        let mut headers = vec![
            ("authorization", authorization),
            ("x-acs-action", plain(ACTION)),
            ("x-acs-content-sha256", plain(EMPTY)),
            ("x-acs-date", plain(&date)),
            ("x-acs-signature-nonce", plain(&nonce)),
            ("x-acs-version", plain(VERSION)),
            ("accept", plain("application/json")),
        ];
        if let Some(token) = key.token() {
            headers.push(("x-acs-security-token", plain(token)));
        }
        let ask = Ask {
            method: Method::POST,
            url: &url,
            headers: &headers,
            body: None,
        };
        http::send(ask, patience).await
    };
    let now = SystemTime::now();
    let answer = send(now).await?;
    // A clock that is off costs one more request: the service says what time it is.
    let answer = match corrected(&answer, now) {
        Some(theirs) => send(theirs).await?,
        None => answer,
    };
    key_of(&answer, ACTION, SystemTime::now())
}

/// The header `Host` of requests to an endpoint, which is signed: a port that goes without saying is not in it.
fn host_of(endpoint: &str) -> String {
    let url = Url::parse(endpoint).ok();
    let host = url
        .as_ref()
        .and_then(|url| url.host_str())
        .unwrap_or_default();
    match url.as_ref().and_then(Url::port) {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

/// A key of `role` for whoever `token`, of the identity provider `provider`, speaks of.
///
/// # Errors
/// As [`assume_role`].
pub(super) async fn assume_role_with_oidc(
    endpoint: &str,
    role: &Role,
    provider: &str,
    token: &str,
    patience: Duration,
) -> Result<AccessKey, Fault> {
    const ACTION: &str = "AssumeRoleWithOIDC";
    let now = SystemTime::now();
    let nonce = hex::encode(rand::random::<[u8; 16]>());
    let query = encoded(vec![
        ("Action", ACTION.into()),
        ("Version", VERSION.into()),
        ("Format", "JSON".into()),
        ("Timestamp", time::plain(now).into()),
        ("SignatureNonce", nonce.into()),
    ]);
    let mut form = role.parameters();
    form.push(("OIDCProviderArn", provider.into()));
    form.push(("OIDCToken", token.into()));
    let url = format!("{endpoint}/?{}", *query);
    let ask = Ask {
        method: Method::POST,
        url: &url,
        headers: &[],
        body: Some(encoded(form)),
    };
    let answer = http::send(ask, patience).await?;
    key_of(&answer, ACTION, SystemTime::now())
}

#[derive(Deserialize)]
struct Refusal {
    #[serde(rename = "Code")]
    code: Option<Secret>,
    #[serde(rename = "RequestId")]
    request: Option<Secret>,
}

fn refusal(answer: &Answer) -> Option<Refusal> {
    json::parse(&answer.body).ok()
}

/// The service's time, if it has refused a request for its date.
fn corrected(answer: &Answer, now: SystemTime) -> Option<SystemTime> {
    let code = refusal(answer)?.code?.0;
    let of_clock = code.contains("TimeStamp") || code.contains("Timestamp");
    let theirs = answer.date?;
    let offset = theirs
        .duration_since(now)
        .unwrap_or_else(|error| error.duration());
    (answer.status >= 400 && of_clock && offset <= MAX_CLOCK_OFFSET).then_some(theirs)
}

/// The key in an answer. Its expiry is moved to this machine's clock, which need not be right.
fn key_of(answer: &Answer, action: &str, now: SystemTime) -> Result<AccessKey, Fault> {
    if answer.status == 200 {
        return json::key_at(&answer.body, now, answer.date).map_err(|fault| Fault {
            why: format!("{action}: {}", fault.why),
            ..fault
        });
    }
    let refusal = refusal(answer);
    let code = refusal.as_ref().and_then(|refusal| refusal.code.as_ref());
    let code = code.map_or("", |code| code.0.as_str());
    let request = refusal
        .as_ref()
        .and_then(|refusal| refusal.request.as_ref());
    let plain = |id: &&Secret| {
        (1..=64).contains(&id.0.len())
            && id
                .0
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    let request = request.filter(plain);
    let request = request.map_or_else(String::new, |id| format!(", request {}", *id.0));
    let why = format!(
        "{action}: STS refused with status {}{}{request}; {}",
        answer.status,
        json::code_in_brackets(code),
        advice(code)
    );
    Err(match answer.status {
        429 | 500.. => Fault::unreachable(why),
        _ if code.starts_with("Throttling") => Fault::unreachable(why),
        _ => Fault::unusable(why),
    })
}

fn advice(code: &str) -> &'static str {
    match code {
        "NoPermission" => {
            "the role must trust who assumes it, and who assumes it needs the action sts:AssumeRole"
        }
        "EntityNotExist.Role" | "EntityNotExist.RoleArn" => "there is no such role: check its ARN",
        "InvalidAccessKeyId.NotFound" | "InvalidAccessKeyId.Inactive" | "SignatureDoesNotMatch" => {
            "the key that assumes the role is not valid"
        }
        "InvalidSecurityToken.Expired" | "InvalidSecurityToken.Malformed" => {
            "the token of the key that assumes the role is not valid any more"
        }
        "AuthenticationFail.OIDCToken.Expired" | "AuthenticationFail.OIDCToken.Invalid" => {
            "the identity token is not accepted: is the token file still renewed?"
        }
        code if code.to_ascii_lowercase().contains("timestamp") => "set this machine's clock",
        _ => "check the role and who may assume it",
    }
}

#[cfg(test)]
mod tests {
    use super::super::error::Kind;
    use super::*;

    /// The example with fixed parameters in the documentation of signature version 3.
    #[test]
    fn the_signature_is_the_documented_one() {
        let query = encoded(vec![
            (
                "ImageId",
                "win2019_1809_x64_dtc_zh-cn_40G_alibase_20230811.vhd".into(),
            ),
            ("RegionId", "cn-shanghai".into()),
        ]);
        let request = Signed {
            host: "ecs.cn-shanghai.aliyuncs.com",
            action: "RunInstances",
            version: "2014-05-26",
            date: "2023-10-26T10:22:32Z",
            nonce: "3156853299f313e23d1673dc12e1703d",
            token: None,
            query: &query,
        };
        assert_eq!(
            *authorization(&request, "YourAccessKeyId", "YourAccessKeySecret"),
            "ACS3-HMAC-SHA256 Credential=YourAccessKeyId,SignedHeaders=host;x-acs-action;\
             x-acs-content-sha256;x-acs-date;x-acs-signature-nonce;x-acs-version,\
             Signature=06563a9e1b43f5dfe96b81484da74bceab24a1d853912eee15083a6f0f3283c0"
        );
    }

    #[test]
    fn the_signed_host_is_the_one_that_is_sent() {
        for (endpoint, host) in [
            ("https://sts.aliyuncs.com", "sts.aliyuncs.com"),
            ("https://sts.aliyuncs.com:443", "sts.aliyuncs.com"),
            ("https://STS.example.com:8443", "sts.example.com:8443"),
            ("http://127.0.0.1:1234", "127.0.0.1:1234"),
            ("http://[::1]:1234", "[::1]:1234"),
        ] {
            assert_eq!(host_of(endpoint), host);
        }
    }

    fn answer(status: u16, body: &str, date: Option<u64>) -> Answer {
        Answer {
            status,
            body: Zeroizing::new(body.as_bytes().to_vec()),
            date: date.map(time::from_unix_seconds),
        }
    }

    /// 2026-01-03T04:05:06Z.
    const NOW: u64 = 1_767_413_106;

    #[test]
    fn refusals_are_told_apart_and_their_messages_are_not_shown() {
        for (status, body, kind, expected) in [
            (
                403,
                r#"{"RequestId":"6894B13B","Code":"NoPermission","Message":"hunter2"}"#,
                Kind::Unusable,
                "status 403 (NoPermission), request 6894B13B; the role must trust",
            ),
            (
                400,
                r#"{"Code":"SignatureDoesNotMatch","Message":"hunter2","RequestId":"hunter2 x"}"#,
                Kind::Unusable,
                "status 400 (SignatureDoesNotMatch); the key that assumes",
            ),
            (500, "hunter2", Kind::Unreachable, "status 500;"),
            (
                400,
                r#"{"Code":"Throttling.User"}"#,
                Kind::Unreachable,
                "(Throttling.User)",
            ),
            (429, "", Kind::Unreachable, "status 429"),
            (302, "", Kind::Unusable, "status 302"),
            (
                404,
                r#"{"Code":"EntityNotExist.Role"}"#,
                Kind::Unusable,
                "no such role",
            ),
            (
                200,
                "hunter2",
                Kind::Unusable,
                "AssumeRole: line 1, column 1",
            ),
            (
                200,
                "{}",
                Kind::Unusable,
                "AssumeRole: AccessKeyId is missing",
            ),
        ] {
            let now = time::from_unix_seconds(NOW);
            let fault = key_of(&answer(status, body, None), "AssumeRole", now);
            let fault = fault.err().unwrap();
            assert_eq!(fault.kind, kind, "{}", fault.why);
            assert!(fault.why.contains(expected), "{}", fault.why);
            assert!(!fault.why.contains("hunter2"), "{}", fault.why);
        }
    }

    /// What counts is how long the key lives, by the clock of who made it.
    #[test]
    fn a_clock_that_is_off_makes_no_key_expire() {
        let body = |expiration: &str| {
            format!(
                r#"{{"Credentials":{{"AccessKeyId":"STS.i","AccessKeySecret":"s","SecurityToken":"t",
                    "Expiration":"{expiration}"}}}}"#
            )
        };
        let now = time::from_unix_seconds(NOW);
        for (expiration, date, life) in [
            ("2026-01-03T05:05:06Z", None, Some(3600)),
            ("2026-01-03T05:05:06Z", Some(NOW), Some(3600)),
            // Two hours behind, two hours ahead.
            ("2026-01-03T03:05:06Z", Some(NOW - 7200), Some(3600)),
            ("2026-01-03T07:05:06Z", Some(NOW + 7200), Some(3600)),
            // A clock that is off by days is not believed.
            ("2026-01-01T04:05:06Z", Some(NOW - 4 * 86_400), None),
            ("2026-01-03T04:05:06Z", Some(NOW), None),
        ] {
            let answer = answer(200, &body(expiration), date);
            match (key_of(&answer, "AssumeRole", now), life) {
                (Ok(key), Some(life)) => {
                    let expires = time::from_unix_seconds(NOW + life);
                    assert_eq!(key.expires(), Some(expires), "{expiration}");
                }
                (Err(fault), None) => assert_eq!(fault.kind, Kind::Expired),
                (result, _) => panic!("{expiration}: {}", result.is_ok()),
            }
        }
    }

    #[test]
    fn a_request_is_repeated_once_with_the_services_time() {
        let now = time::from_unix_seconds(NOW);
        for (status, code, date, expected) in [
            (400, "InvalidTimeStamp.Expired", Some(NOW + 3600), true),
            (400, "IllegalTimestamp", Some(NOW - 3600), true),
            (400, "IllegalTimestamp", None, false),
            (400, "IllegalTimestamp", Some(NOW + 2 * 86_400), false),
            (400, "NoPermission", Some(NOW + 3600), false),
            (200, "IllegalTimestamp", Some(NOW + 3600), false),
        ] {
            let answer = answer(status, &format!(r#"{{"Code":"{code}"}}"#), date);
            let theirs = corrected(&answer, now);
            assert_eq!(theirs.is_some(), expected, "{code}");
            assert!(theirs.is_none() || theirs == answer.date);
        }
    }
}
