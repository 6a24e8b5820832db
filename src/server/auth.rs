//! Who sent a request: V4 and V1 signatures, in the header or in the URL.

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use zeroize::Zeroizing;

use super::call::Call;
use super::refusal::{Refusal, Result};
use crate::base::time;
use crate::oss::sign;

/// How far a client's clock may be off.
const MAX_SKEW: Duration = Duration::from_secs(15 * 60);

/// The longest life of a V4 URL, in seconds (0002-00000232).
const MAX_EXPIRES: u64 = 604_800;

/// What a request must be signed with. Wiped on drop.
pub struct Credentials {
    pub id: String,
    pub secret: Zeroizing<String>,
    /// With it, requests must carry this security token.
    pub token: Option<Zeroizing<String>>,
    /// With it, V4 signatures of other regions are refused.
    pub region: Option<String>,
}

impl Credentials {
    pub fn new(
        id: impl Into<String>,
        secret: impl Into<String>,
        token: Option<String>,
    ) -> Credentials {
        Credentials {
            id: id.into(),
            secret: Zeroizing::new(secret.into()),
            token: token.map(Zeroizing::new),
            region: None,
        }
    }
}

/// # Errors
/// 403 with the service's codes.
pub fn check(call: &Call, credentials: &Credentials, now: SystemTime) -> Result<()> {
    let denied = |message: &str| Refusal::new(403, "AccessDenied", message).ec("0003-00000001");
    let authorization = call.header("authorization");
    let checked = match authorization {
        Some(text) if text.starts_with(sign::V4_ALGORITHM) => v4(call, credentials, text, now),
        Some(text) if text.starts_with("OSS ") => v1(call, credentials, text, now),
        Some(_) => Err(Refusal::argument(
            "The Authorization header is of a version that is not supported.",
        )),
        None if call.parameter("x-oss-signature").is_some() => v4_url(call, credentials, now),
        None if call.parameter("Signature").is_some() => v1_url(call, credentials, now),
        None => Err(denied(
            "You have no right to access this object because of bucket acl.",
        )),
    };
    checked?;
    let token = call
        .header("x-oss-security-token")
        .or_else(|| call.parameter("x-oss-security-token"))
        .or_else(|| call.parameter("security-token"));
    if let Some(wanted) = &credentials.token
        && token != Some(wanted.as_str())
    {
        return Err(Refusal::new(
            403,
            "InvalidAccessKeyId",
            "The OSS Access Key Id you provided is temporary and needs its security token.",
        ));
    }
    Ok(())
}

/// Requests as the signing functions want them.
fn signed<T>(call: &Call, without: &[&str], then: impl FnOnce(&sign::Request<'_>) -> T) -> T {
    let headers = call.header_list();
    let query: Vec<(Cow<'_, str>, Cow<'_, str>)> = call
        .query
        .iter()
        .filter(|(name, _)| !without.contains(&name.as_str()))
        .map(|(name, value)| (Cow::Borrowed(name.as_str()), Cow::Borrowed(value.as_str())))
        .collect();
    then(&sign::Request {
        method: call.method.as_str(),
        bucket: call.bucket.as_deref(),
        key: call.key.as_deref(),
        query: &query,
        headers: &headers,
    })
}

fn v4(call: &Call, credentials: &Credentials, authorization: &str, now: SystemTime) -> Result<()> {
    let malformed = || Refusal::argument("The Authorization header is malformed.");
    let (mut credential, mut additional, mut signature) = ("", "", "");
    for field in authorization[sign::V4_ALGORITHM.len()..].split(',') {
        let (name, value) = field.trim().split_once('=').ok_or_else(malformed)?;
        match name {
            "Credential" => credential = value,
            "AdditionalHeaders" => additional = value,
            "Signature" => signature = value,
            _ => return Err(malformed()),
        }
    }
    match call.header("x-oss-content-sha256") {
        Some(sign::UNSIGNED_PAYLOAD) => {}
        _ => {
            return Err(
                Refusal::argument("x-oss-content-sha256 must be UNSIGNED-PAYLOAD.")
                    .ec("0002-00000214"),
            );
        }
    }
    let date_time = call
        .header("x-oss-date")
        .ok_or_else(|| Refusal::new(403, "AccessDenied", "The x-oss-date header is missing."))?;
    check_clock(time::parse_basic(date_time), now)?;
    check_v4(
        call,
        credentials,
        credential,
        additional,
        signature,
        date_time,
        &[],
    )
}

fn v4_url(call: &Call, credentials: &Credentials, now: SystemTime) -> Result<()> {
    let parameter = |name| call.parameter(name).unwrap_or_default();
    let expires: u64 = parameter("x-oss-expires")
        .parse()
        .ok()
        .filter(|seconds| (1..=MAX_EXPIRES).contains(seconds))
        .ok_or_else(|| {
            Refusal::argument("x-oss-expires must be between 1 and 604800.").ec("0002-00000232")
        })?;
    let date_time = parameter("x-oss-date");
    let made = time::parse_basic(date_time)
        .ok_or_else(|| Refusal::argument("x-oss-date is malformed."))?;
    if now > made + Duration::from_secs(expires) {
        return Err(Refusal::new(403, "AccessDenied", "Request has expired."));
    }
    check_v4(
        call,
        credentials,
        parameter("x-oss-credential"),
        parameter("x-oss-additional-headers"),
        parameter("x-oss-signature"),
        date_time,
        &["x-oss-signature"],
    )
}

fn check_v4(
    call: &Call,
    credentials: &Credentials,
    credential: &str,
    additional: &str,
    signature: &str,
    date_time: &str,
    without: &[&str],
) -> Result<()> {
    let mut scope = credential.split('/');
    let mut next = || scope.next().unwrap_or_default();
    let (id, day, region, product, end) = (next(), next(), next(), next(), next());
    if product != "oss"
        || end != "aliyun_v4_request"
        || day.len() != 8
        || !date_time.starts_with(day)
    {
        return Err(Refusal::argument("The credential scope is malformed."));
    }
    check_id(id, credentials)?;
    if credentials
        .region
        .as_deref()
        .is_some_and(|own| own != region)
    {
        return Err(match call.header("authorization") {
            Some(_) => Refusal::argument("Invalid signing region in Authorization header.")
                .ec("0002-00000226"),
            // Of a signed URL.
            None => Refusal::argument("The signing region in credential is invalid."),
        });
    }
    let additional: Vec<&str> = additional
        .split(';')
        .filter(|name| !name.is_empty())
        .collect();
    // Each is looked for among the headers.
    if additional.len() > call.headers.len() {
        return Err(Refusal::argument(
            "More additional headers than there are headers.",
        ));
    }
    let canonical = signed(call, without, |request| {
        sign::v4_canonical(request, &additional)
    });
    let to_sign = sign::v4_string_to_sign(&canonical, date_time, &sign::v4_scope(day, region));
    let wanted = sign::SigningKey::derive(&credentials.secret, day, region).sign(&to_sign);
    compare(signature, &wanted, id, &to_sign, Some(&canonical))
}

fn v1(call: &Call, credentials: &Credentials, authorization: &str, now: SystemTime) -> Result<()> {
    let (id, signature) = authorization["OSS ".len()..]
        .split_once(':')
        .ok_or_else(|| Refusal::argument("The Authorization header is malformed."))?;
    check_id(id, credentials)?;
    let date = call.header("date").unwrap_or_default();
    let when = call.header("x-oss-date").unwrap_or(date);
    if when.is_empty() {
        return Err(Refusal::new(
            403,
            "AccessDenied",
            "OSS authentication requires a valid Date.",
        ));
    }
    check_clock(time::parse_http(when), now)?;
    let to_sign = signed(call, &[], |request| sign::v1_string_to_sign(request, date));
    let wanted = sign::v1_signature(&credentials.secret, &to_sign);
    compare(signature, &wanted, id, &to_sign, None)
}

fn v1_url(call: &Call, credentials: &Credentials, now: SystemTime) -> Result<()> {
    let parameter = |name| call.parameter(name).unwrap_or_default();
    let id = parameter("OSSAccessKeyId");
    check_id(id, credentials)?;
    let expires = parameter("Expires");
    let until: u64 = expires
        .parse()
        .map_err(|_| Refusal::argument("Expires is no number."))?;
    if time::unix_seconds(now) > until {
        return Err(Refusal::new(403, "AccessDenied", "Request has expired."));
    }
    let to_sign = signed(
        call,
        &["OSSAccessKeyId", "Expires", "Signature"],
        |request| sign::v1_string_to_sign(request, expires),
    );
    let wanted = sign::v1_signature(&credentials.secret, &to_sign);
    compare(parameter("Signature"), &wanted, id, &to_sign, None)
}

pub(super) fn check_id(id: &str, credentials: &Credentials) -> Result<()> {
    if id == credentials.id {
        return Ok(());
    }
    Err(Refusal::new(
        403,
        "InvalidAccessKeyId",
        "The OSS Access Key Id you provided does not exist in our records.",
    )
    .ec("0002-00000902")
    .with("OSSAccessKeyId", id))
}

pub(super) fn check_clock(sent: Option<SystemTime>, now: SystemTime) -> Result<()> {
    let sent =
        sent.ok_or_else(|| Refusal::new(403, "AccessDenied", "The request's date is malformed."))?;
    let skew = now
        .duration_since(sent)
        .unwrap_or_else(|early| early.duration());
    if skew <= MAX_SKEW {
        return Ok(());
    }
    Err(Refusal::new(
        403,
        "RequestTimeTooSkewed",
        "The difference between the request time and the current time is too large.",
    )
    .ec("0002-00000504")
    .with(
        "MaxAllowedSkewMilliseconds",
        MAX_SKEW.as_millis().to_string(),
    )
    .with("RequestTime", time::extended(sent))
    .with("ServerTime", time::extended(now)))
}

pub(super) fn compare(
    signature: &str,
    wanted: &str,
    id: &str,
    to_sign: &str,
    canonical: Option<&str>,
) -> Result<()> {
    if aws_lc_rs::constant_time::verify_slices_are_equal(signature.as_bytes(), wanted.as_bytes())
        .is_ok()
    {
        return Ok(());
    }
    let hex: Vec<String> = to_sign.bytes().map(|byte| format!("{byte:02X}")).collect();
    let mut refusal = Refusal::new(
        403,
        "SignatureDoesNotMatch",
        "The request signature we calculated does not match the signature you provided. Check your key and signing method.",
    )
    .ec("0002-00000040")
    .with("OSSAccessKeyId", id)
    .with("SignatureProvided", signature)
    .with("StringToSign", to_sign)
    .with("StringToSignBytes", hex.join(" "));
    if let Some(canonical) = canonical {
        refusal = refusal.with("CanonicalRequest", canonical);
    }
    Err(refusal)
}

#[cfg(test)]
mod tests {
    use hyper::Request;

    use super::*;
    use crate::pace::Patience;

    /// Each is looked for among the headers: a long list of them would keep the server busy.
    #[test]
    fn more_additional_headers_than_headers_are_refused() {
        let now = time::parse_basic("20130524T000500Z").unwrap();
        for (additional, code) in [
            ("", "SignatureDoesNotMatch"),
            ("host;range", "SignatureDoesNotMatch"),
            ("a;b;c;d;e", "InvalidArgument"),
            ("host;host;host;host;host", "InvalidArgument"),
        ] {
            let authorization = format!(
                "{} Credential=id/20130524/r/oss/aliyun_v4_request,AdditionalHeaders={additional},Signature=0",
                sign::V4_ALGORITHM
            );
            let request = Request::builder()
                .uri("/b/k")
                .header("host", "h")
                .header("x-oss-date", "20130524T000000Z")
                .header("x-oss-content-sha256", sign::UNSIGNED_PAYLOAD)
                .header("authorization", authorization)
                .body(())
                .unwrap();
            let call = Call::of_head(request.into_parts().0, Patience::default());
            let call = call.unwrap();
            let refusal = check(&call, &Credentials::new("id", "secret", None), now);
            assert_eq!(refusal.unwrap_err().code, code, "{additional}");
        }
    }
}
