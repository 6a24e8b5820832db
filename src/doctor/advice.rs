//! What to do about refusals of the service, by its own codes.

/// Advice for refused credentials.
pub(crate) fn credentials(code: &str) -> &'static str {
    match code {
        "InvalidAccessKeyId" => {
            "this access key ID does not exist or is disabled: check OSS_ACCESS_KEY_ID, or what else the key comes from; an ID that begins with STS. also needs its OSS_SESSION_TOKEN"
        }
        "SignatureDoesNotMatch" => {
            "the secret does not belong to this access key ID: check OSS_ACCESS_KEY_SECRET, or what else the key comes from"
        }
        "SecurityTokenExpired" => {
            "the temporary credentials have expired: request new ones, and set OSS_ACCESS_KEY_ID, OSS_ACCESS_KEY_SECRET and OSS_SESSION_TOKEN together, or use a source that renews them (docs/credentials.md)"
        }
        "InvalidSecurityToken" | "AccessKeyIdAndSecurityTokenNotMatch" => {
            "the token does not belong to this access key: set OSS_SESSION_TOKEN to the one that was issued with it, or unset it for a permanent key"
        }
        "UserDisable" | "InDebt" | "BucketDisable" | "AbnormalBucketOwnerStatus" => {
            "the account or the bucket is suspended, usually because of an unpaid bill: resolve this in the console; another key does not help"
        }
        "AccessDenied" => {
            "the access key is valid but has no permission for this: check its policy and the bucket's policy"
        }
        _ => {
            "check OSS_ACCESS_KEY_ID and OSS_ACCESS_KEY_SECRET, or what else the key comes from, and the permissions of this key"
        }
    }
}

/// Whether the service's code says that the credentials are at fault, rather than what they may do.
pub(crate) fn is_of_credentials(code: &str) -> bool {
    matches!(
        code,
        "InvalidAccessKeyId"
            | "SignatureDoesNotMatch"
            | "SecurityTokenExpired"
            | "InvalidSecurityToken"
            | "AccessKeyIdAndSecurityTokenNotMatch"
            | "UserDisable"
            | "InDebt"
            | "BucketDisable"
            | "AbnormalBucketOwnerStatus"
    )
}
