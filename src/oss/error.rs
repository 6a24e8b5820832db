//! Errors between the client and the service, what they mean to the caller, and whether a retry makes sense.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::credentials::error::Error as CredentialError;
use super::credentials::error::Kind;
use super::retry::Class;
use crate::base::error_chain::{Cause, find_cause};
use crate::object::error::Error as ObjectError;

#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The service responded, but not with success.
    #[error("{0}")]
    Refused(Box<Refusal>),
    #[error("not a valid object name: {}", .0.escape_debug())]
    InvalidName(String),
    /// The range begins at or after the object's end.
    #[error("the range begins after the object's end")]
    InvalidRange,
    /// The object is not the one that was requested or begun.
    #[error("the object has been replaced")]
    Replaced,
    /// Nothing will work until the user changes something; the text says what.
    #[error("{0}")]
    Misconfigured(String),
    /// There is no key to sign with: none could be had, or the last one has expired and was not renewed in time.
    #[error("{0}")]
    Credentials(CredentialError),
    /// No connection, or one that broke.
    #[error("{operation}: {message}")]
    Transport {
        operation: &'static str,
        /// The whole chain of causes.
        message: String,
        /// The request cannot have reached the service.
        unsent: bool,
    },
    /// No byte moved for that long.
    #[error("{operation}: no progress for {:.1} s", .after.as_secs_f64())]
    Stalled {
        operation: &'static str,
        after: Duration,
    },
    /// A response that is not valid in this protocol.
    #[error("{operation}: {}", .what.escape_debug())]
    Protocol {
        operation: &'static str,
        what: String,
    },
    /// A request that cannot be encoded: an ETag or metadata entry that no header can carry.
    #[error("{operation}: {}", .what.escape_debug())]
    Unsendable {
        operation: &'static str,
        what: String,
    },
    /// The CRC-64 of what was sent or received differs from the service's.
    #[error("{operation}: the CRC-64 is {found}, but the service says {expected}")]
    Corrupt {
        operation: &'static str,
        expected: u64,
        found: u64,
    },
    /// The data to send could not be read.
    #[error("the source of the upload failed")]
    Source(#[source] ObjectError),
    /// The last error of a call that was retried until its time was up.
    #[error("gave up after {tries} tries: {last}")]
    GaveUp {
        tries: u32,
        #[source]
        last: Box<Error>,
    },
    /// The call failed in a way that leaves its outcome open, and it must not simply be repeated. Callers in
    /// this crate check the outcome; the error does not leave it.
    #[error("{0}")]
    Unsure(Box<Error>),
}

/// A failing response: the status, and the error document if there was one.
#[derive(Clone, Debug, Default)]
pub struct Refusal {
    pub operation: &'static str,
    /// The endpoint that refused.
    pub bucket: String,
    pub status: u16,
    /// Empty if the response contained none.
    pub code: String,
    pub message: String,
    /// `x-oss-request-id`: requested by the provider's support.
    pub request_id: String,
    /// The numbered cause, `0002-00000080`.
    pub ec: String,
    /// The endpoint that the service names as the right one.
    pub endpoint: Option<String>,
    /// The target of a redirect. Redirects are not followed: they would forward the signature.
    pub location: Option<String>,
    pub server_time: Option<SystemTime>,
    pub retry_after: Option<Duration>,
    /// It has none of the service's marks: neither a request ID nor an error document. Another server listens
    /// there, or a proxy responded.
    pub foreign: bool,
}

/// Server text is escaped, because it appears in logs and terminals.
impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: status {}", self.operation, self.status)?;
        if !self.code.is_empty() {
            write!(f, " {}", self.code.escape_debug())?;
        }
        if !self.message.is_empty() {
            write!(f, ": {}", self.message.escape_debug())?;
        }
        if let Some(endpoint) = &self.endpoint {
            write!(f, "; the endpoint is {}", endpoint.escape_debug())?;
        }
        if let Some(location) = &self.location {
            write!(f, "; it refers to {}", location.escape_debug())?;
        }
        let (id, ec) = (self.request_id.escape_debug(), self.ec.escape_debug());
        match (self.request_id.is_empty(), self.ec.is_empty()) {
            (false, false) => write!(f, " (request {id}, cause {ec})"),
            (false, true) => write!(f, " (request {id})"),
            (true, false) => write!(f, " (cause {ec})"),
            (true, true) => Ok(()),
        }
    }
}

/// Converts an error to the caller's error, keeping it as the cause.
pub type Meaning = fn(Cause) -> ObjectError;

fn not_found(_: Cause) -> ObjectError {
    ObjectError::NotFound
}

fn no_such_bucket(cause: Cause) -> ObjectError {
    let bucket = refusal_of(&*cause).map(|refusal| refusal.bucket.clone());
    ObjectError::NoSuchBucket(bucket.unwrap_or_default())
}

fn no_such_upload(_: Cause) -> ObjectError {
    ObjectError::NoSuchUpload
}

fn precondition_failed(_: Cause) -> ObjectError {
    ObjectError::PreconditionFailed
}

fn already_exists(_: Cause) -> ObjectError {
    ObjectError::AlreadyExists
}

fn invalid_range(_: Cause) -> ObjectError {
    ObjectError::InvalidRange
}

fn invalid_name(cause: Cause) -> ObjectError {
    ObjectError::InvalidName(cause.to_string())
}

/// The numbered causes that require a specific reaction.
pub const WRONG_REGION: &str = "0002-00000226";
pub const VERSION_1_REFUSED: &str = "0002-00000080";

/// `QuotaExceeded`, `BucketQuotaExceeded`, `ExceedStorageCapacity`, ...: accounts, buckets and resource pools
/// have separate limits and codes.
fn is_quota(code: &str) -> bool {
    code.contains("Quota") || (code.contains("Capacity") && code.contains("Exceed"))
}

impl Refusal {
    /// The table of codes, followed by statuses for responses without a code (HEAD, proxies).
    pub fn meaning(&self) -> (Meaning, Class) {
        use Class::{Clock, Never, Retry, Slow};
        if self.foreign && matches!(self.status, 300..=407) {
            return (ObjectError::Misconfigured, Never);
        }
        if matches!(&*self.ec, WRONG_REGION | VERSION_1_REFUSED) {
            return (ObjectError::Misconfigured, Never);
        }
        match &*self.code {
            "NoSuchKey" | "NoSuchVersion" | "SymlinkTargetNotExist" => (not_found, Never),
            "NoSuchBucket" => (no_such_bucket, Never),
            "NoSuchUpload" => (no_such_upload, Never),
            // A bucket of another region responds like this, and names the endpoint.
            "AccessDenied"
                if self.endpoint.is_some() || self.message.contains("specified endpoint") =>
            {
                (ObjectError::Misconfigured, Never)
            }
            "AccessDenied"
            | "InvalidAccessKeyId"
            | "SignatureDoesNotMatch"
            | "SecurityTokenExpired"
            | "InvalidSecurityToken"
            | "AccessKeyIdAndSecurityTokenNotMatch"
            | "UserDisable"
            | "BucketDisable"
            | "AbnormalBucketOwnerStatus"
            | "InDebt" => (ObjectError::AccessDenied, Never),
            "RequestTimeTooSkewed" => (ObjectError::Misconfigured, Clock),
            "SecondLevelDomainForbidden"
            | "NonStandardHostForbidden"
            | "PermanentRedirect"
            | "TemporaryRedirect" => (ObjectError::Misconfigured, Never),
            "InvalidObjectState" | "RestoreAlreadyInProgress" => (ObjectError::Archived, Never),
            "PreconditionFailed" => (precondition_failed, Never),
            "FileAlreadyExists" | "ObjectAlreadyExists" => (already_exists, Never),
            "FileImmutable" => (ObjectError::Immutable, Never),
            "InvalidRange" => (invalid_range, Never),
            "InvalidObjectName" => (invalid_name, Never),
            "EntityTooLarge" => (ObjectError::TooLarge, Never),
            "InvalidDigest" | "InvalidCRC64" | "IncompleteBody" => (ObjectError::Corrupt, Retry),
            "BadRequest" => (ObjectError::Other, Retry),
            "RequestTimeout" => (ObjectError::TimedOut, Retry),
            "InvalidEncryptionRequest" => (ObjectError::EncryptionRule, Never),
            "NotImplemented" | "OperationNotSupported" => (ObjectError::Unsupported, Never),
            "InternalError" | "MirrorFailed" => (ObjectError::Unavailable, Retry),
            "QpsLimitExceeded"
            | "ServiceUnavailable"
            | "TotalQpsLimitExceeded"
            | "ActiveRequestLimitExceeded"
            | "DownloadTrafficRateLimitExceeded"
            | "UploadTrafficRateLimitExceeded"
            | "MetaOperationQpsLimitExceeded"
            | "CpuLimitExceeded"
            | "SlowDown" => (ObjectError::Unavailable, Slow),
            "InsufficientStorage" => (ObjectError::NoSpace, Never),
            code if is_quota(code) && !matches!(self.status, 429 | 503) => {
                (ObjectError::Quota, Never)
            }
            code if code.starts_with("WORM") || code.starts_with("Worm") => {
                (ObjectError::Immutable, Never)
            }
            _ => match self.status {
                // Bucket requests have no 404 except NoSuchBucket, which has a code.
                404 => (not_found, Never),
                412 => (precondition_failed, Never),
                416 => (invalid_range, Never),
                403 => (ObjectError::AccessDenied, Never),
                300..=399 => (ObjectError::Misconfigured, Never),
                401 => (ObjectError::AccessDenied, Retry),
                408 => (ObjectError::TimedOut, Retry),
                429 | 503 => (ObjectError::Unavailable, Slow),
                501 => (ObjectError::Unsupported, Never),
                507 => (ObjectError::NoSpace, Never),
                500.. => (ObjectError::Unavailable, Retry),
                _ => (ObjectError::Other, Never),
            },
        }
    }
}

/// A call's error for its caller. An error of the body is already the caller's own.
impl From<Error> for ObjectError {
    fn from(error: Error) -> ObjectError {
        match error {
            Error::InvalidName(name) => ObjectError::InvalidName(name),
            Error::Source(error) => error,
            error => {
                let meaning = error.meaning();
                meaning(Arc::new(error))
            }
        }
    }
}

impl Error {
    /// What it means to the caller.
    pub(super) fn means(&self) -> ObjectError {
        self.clone().into()
    }

    fn meaning(&self) -> Meaning {
        match self {
            Error::Refused(refusal) => refusal.meaning().0,
            Error::InvalidName(_) => invalid_name,
            Error::InvalidRange => invalid_range,
            Error::Replaced => precondition_failed,
            Error::Misconfigured(_) => ObjectError::Misconfigured,
            Error::Credentials(error) if error.kind == Kind::Unreachable => {
                ObjectError::Unavailable
            }
            Error::Credentials(_) => ObjectError::AccessDenied,
            Error::Transport { .. } => ObjectError::Unavailable,
            Error::Stalled { .. } => ObjectError::TimedOut,
            Error::Corrupt { .. } => ObjectError::Corrupt,
            Error::Protocol { .. } | Error::Unsendable { .. } | Error::Source(_) => {
                ObjectError::Other
            }
            Error::GaveUp { last, .. } => last.meaning(),
            Error::Unsure(error) => error.meaning(),
        }
    }

    /// Whether the same request may be retried.
    pub fn class(&self) -> Class {
        match self {
            Error::Refused(refusal) => refusal.meaning().1,
            // An invalid response came from a system in between, and is transient.
            Error::Transport { .. }
            | Error::Stalled { .. }
            | Error::Protocol { .. }
            | Error::Corrupt { .. } => Class::Retry,
            _ => Class::Never,
        }
    }

    /// Whether the service refused the key itself, so that another one of the same rights may be accepted.
    pub(super) fn is_of_key(&self) -> bool {
        let Error::Refused(refusal) = self else {
            return false;
        };
        let code = &*refusal.code;
        refusal.status == 403
            && (code.starts_with("InvalidAccessKeyId")
                || code.starts_with("InvalidSecurityToken")
                || code.starts_with("SecurityToken")
                || code == "AccessKeyIdAndSecurityTokenNotMatch")
    }

    /// Whether the service accepted the signature, although it refused the request.
    pub(super) fn accepts_key(&self) -> bool {
        match self {
            Error::Refused(refusal) => {
                !refusal.foreign && matches!(refusal.status, 304 | 404 | 409 | 412 | 416)
            }
            _ => false,
        }
    }

    /// Whether a failed call may still have taken effect.
    pub(super) fn is_ambiguous(&self) -> bool {
        match self {
            Error::Refused(refusal) => refusal.meaning().1 == Class::Retry && refusal.status >= 500,
            Error::Transport { unsent, .. } => !unsent,
            Error::Stalled { .. } | Error::Protocol { .. } => true,
            _ => false,
        }
    }

    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Error::Refused(refusal) => refusal.retry_after,
            _ => None,
        }
    }
}

/// The service's refusal that caused an error, however deep in the chain.
pub fn refusal_of<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a Refusal> {
    find_cause(error, &|error: &'a Error| match error {
        Error::Refused(refusal) => Some(&**refusal),
        _ => None,
    })
}

/// Why there was no key to sign with, however deep in the chain.
pub fn without_key<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> Option<&'a CredentialError> {
    find_cause(error, &|error: &'a Error| match error {
        Error::Credentials(error) => Some(error),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use std::mem::discriminant;

    use super::*;
    use crate::base::error_chain::chain;

    /// Asserts what a refusal means to the caller and to the retry.
    fn check(refusal: &Refusal, meaning: Meaning, class: Class) {
        let cause = || -> Cause { Arc::new(Error::Refused(Box::new(refusal.clone()))) };
        let (found, found_class) = refusal.meaning();
        let (found, meaning) = (found(cause()), meaning(cause()));
        assert_eq!(discriminant(&found), discriminant(&meaning), "{refusal}");
        assert_eq!(found_class, class, "{refusal}");
    }

    #[test]
    fn codes_then_statuses_decide() {
        use Class::{Clock, Never, Retry, Slow};
        let table: &[(u16, &str, &str, Meaning, Class)] = &[
            (404, "NoSuchKey", "", not_found, Never),
            (404, "", "", not_found, Never),
            (404, "NoSuchBucket", "", no_such_bucket, Never),
            (403, "AccessDenied", "", ObjectError::AccessDenied, Never),
            (
                403,
                "AccessDenied",
                "The bucket you are attempting to access must be addressed using the specified endpoint.",
                ObjectError::Misconfigured,
                Never,
            ),
            (301, "", "", ObjectError::Misconfigured, Never),
            (
                403,
                "RequestTimeTooSkewed",
                "",
                ObjectError::Misconfigured,
                Clock,
            ),
            (412, "", "", precondition_failed, Never),
            (409, "FileAlreadyExists", "", already_exists, Never),
            (409, "FileImmutable", "", ObjectError::Immutable, Never),
            (416, "InvalidRange", "", invalid_range, Never),
            (400, "InvalidCRC64", "", ObjectError::Corrupt, Retry),
            (400, "RequestTimeout", "", ObjectError::TimedOut, Retry),
            (400, "InvalidArgument", "", ObjectError::Other, Never),
            (400, "EntityTooLarge", "", ObjectError::TooLarge, Never),
            (
                400,
                "InvalidEncryptionRequest",
                "",
                ObjectError::EncryptionRule,
                Never,
            ),
            (403, "InvalidObjectState", "", ObjectError::Archived, Never),
            (429, "QpsLimitExceeded", "", ObjectError::Unavailable, Slow),
            (503, "", "", ObjectError::Unavailable, Slow),
            (500, "InternalError", "", ObjectError::Unavailable, Retry),
            (502, "", "", ObjectError::Unavailable, Retry),
            (408, "", "", ObjectError::TimedOut, Retry),
            (403, "QuotaExceeded", "", ObjectError::Quota, Never),
            (400, "BucketQuotaExceeded", "", ObjectError::Quota, Never),
            (403, "ExceedStorageCapacity", "", ObjectError::Quota, Never),
            (
                503,
                "RequestQuotaExceeded",
                "",
                ObjectError::Unavailable,
                Slow,
            ),
            (507, "", "", ObjectError::NoSpace, Never),
            (400, "InsufficientStorage", "", ObjectError::NoSpace, Never),
            (403, "InDebt", "", ObjectError::AccessDenied, Never),
        ];
        for &(status, code, message, kind, class) in table {
            let refusal = Refusal {
                status,
                code: code.to_owned(),
                message: message.to_owned(),
                ..Refusal::default()
            };
            check(&refusal, kind, class);
        }
    }

    #[test]
    fn refusals_of_the_key_are_told_from_refusals_of_the_request() {
        for (status, code, of_key, accepts) in [
            (403, "SecurityTokenExpired", true, false),
            (403, "InvalidSecurityToken", true, false),
            (403, "InvalidAccessKeyId", true, false),
            (403, "InvalidAccessKeyId.NotFound", true, false),
            (403, "AccessKeyIdAndSecurityTokenNotMatch", true, false),
            (403, "AccessDenied", false, false),
            (403, "SignatureDoesNotMatch", false, false),
            (403, "RequestTimeTooSkewed", false, false),
            (403, "UserDisable", false, false),
            (403, "", false, false),
            (500, "SecurityTokenExpired", false, false),
            (404, "NoSuchKey", false, true),
            (404, "", false, true),
            (412, "PreconditionFailed", false, true),
            (409, "FileAlreadyExists", false, true),
            (503, "", false, false),
        ] {
            let refusal = Refusal {
                status,
                code: code.to_owned(),
                ..Refusal::default()
            };
            let foreign = Refusal {
                foreign: true,
                ..refusal.clone()
            };
            let error = Error::Refused(Box::new(refusal));
            assert_eq!(error.is_of_key(), of_key, "{status} {code}");
            assert_eq!(error.accepts_key(), accepts, "{status} {code}");
            assert!(!Error::Refused(Box::new(foreign)).accepts_key());
        }
    }

    #[test]
    fn server_text_is_escaped() {
        let refusal = Refusal {
            operation: "HeadObject",
            status: 403,
            code: "Access\u{1b}[31mDenied".to_owned(),
            message: "a\nb".to_owned(),
            request_id: "R".to_owned(),
            ec: "0003-00000001".to_owned(),
            ..Refusal::default()
        };
        assert_eq!(
            refusal.to_string(),
            "HeadObject: status 403 Access\\u{1b}[31mDenied: a\\nb (request R, cause 0003-00000001)"
        );
    }

    #[test]
    fn responses_from_other_servers_are_not_attributed_to_the_service() {
        use Class::{Never, Retry, Slow};
        let table: &[(u16, Meaning, Class)] = &[
            (302, ObjectError::Misconfigured, Never),
            (401, ObjectError::Misconfigured, Never),
            (403, ObjectError::Misconfigured, Never),
            (404, ObjectError::Misconfigured, Never),
            (407, ObjectError::Misconfigured, Never),
            (429, ObjectError::Unavailable, Slow),
            (502, ObjectError::Unavailable, Retry),
        ];
        for &(status, kind, class) in table {
            let refusal = Refusal {
                status,
                foreign: true,
                ..Refusal::default()
            };
            check(&refusal, kind, class);
        }
        for ec in [WRONG_REGION, VERSION_1_REFUSED] {
            let refusal = Refusal {
                status: 403,
                code: "InvalidArgument".to_owned(),
                ec: ec.to_owned(),
                ..Refusal::default()
            };
            check(&refusal, ObjectError::Misconfigured, Never);
        }
    }

    #[test]
    fn a_refusal_is_found_anywhere_in_the_error_chain() {
        #[derive(Debug, thiserror::Error)]
        #[error("outer")]
        struct Outer(#[source] Cause);
        let refused = || {
            Error::Refused(Box::new(Refusal {
                status: 403,
                request_id: "R".to_owned(),
                ..Refusal::default()
            }))
        };
        let gave_up = || Error::GaveUp {
            tries: 2,
            last: Box::new(refused()),
        };
        let id = |error: &(dyn std::error::Error + 'static)| {
            refusal_of(error).map(|refusal| refusal.request_id.clone())
        };
        assert_eq!(id(&refused()).as_deref(), Some("R"));
        assert_eq!(id(&gave_up()).as_deref(), Some("R"));
        let twice = Outer(Arc::new(Outer(Arc::new(gave_up()))));
        assert_eq!(id(&twice).as_deref(), Some("R"));
        assert_eq!(id(&Outer(Arc::new(Error::Replaced))), None);
        // Each is logged once.
        assert_eq!(
            chain(&twice),
            "outer: gave up after 2 tries: : status 403 (request R)"
        );
    }
}
