//! The first signed request, and what its answer says of the bucket, the credentials and the region.

use super::advice;
use super::check::Checks;
use crate::base::error_chain::chain;
use crate::oss::error::{VERSION_1_REFUSED, WRONG_REGION, refusal_of, without_key};
use crate::store::error::Error;
use crate::store::object_store::{ListPage, ListRequest, ListedObject, ObjectStore};

pub(super) const NAMES: [&str; 4] = ["credentials", "region", "bucket", "list"];

/// Some of the bucket's objects, if it has any. None: there is no use in other requests.
pub(super) async fn check(
    checks: &mut Checks<'_>,
    store: &dyn ObjectStore,
    prefix: &str,
) -> Option<Vec<ListedObject>> {
    let request = ListRequest {
        prefix: prefix.to_owned(),
        max_keys: 100,
        ..ListRequest::default()
    };
    let error = match store.list(&request).await {
        Ok(page) => {
            checks.ok("credentials", "accepted");
            checks.ok("region", "the signature is accepted");
            checks.ok("bucket", format!("{} exists", store.name()));
            checks.ok("list", listed(&page));
            return Some(page.objects);
        }
        Err(error) => error,
    };
    let cause = match &error {
        Error::Misconfigured(cause) | Error::Unavailable(cause) | Error::Other(cause) => {
            chain(cause.as_ref())
        }
        error => chain(error),
    };
    let refusal = refusal_of(&error);
    let code = refusal.map_or("", |refusal| &refusal.code);
    let (name, remedy) = match &error {
        Error::NoSuchBucket(_) => (
            "bucket",
            "check the bucket's name and --endpoint, or create the bucket in the OSS console",
        ),
        _ if without_key(&error).is_some() => (
            "credentials",
            "see docs/credentials.md for the sources of credentials and what each needs",
        ),
        _ if code == "RequestTimeTooSkewed" => ("credentials", "set this machine's clock"),
        _ if refusal.is_some_and(|r| r.ec == WRONG_REGION) => (
            "region",
            "requests are signed for another region: give the bucket's with --region",
        ),
        _ if refusal.is_some_and(|r| r.ec == VERSION_1_REFUSED) => (
            "region",
            "the bucket does not accept version 1 signatures: omit --sign-v1",
        ),
        _ if refusal.is_some_and(|r| r.endpoint.is_some()) => (
            "region",
            "the bucket is elsewhere: give --endpoint the one that the service names",
        ),
        _ if refusal.is_some_and(|r| r.foreign) => (
            "bucket",
            "what answers is not OSS: check --endpoint, and whether a proxy or a login page is in between",
        ),
        Error::AccessDenied(_) if advice::is_of_credentials(code) => {
            ("credentials", advice::credentials(code))
        }
        Error::AccessDenied(_) => (
            "list",
            "allow the action oss:ListObjects on the bucket (docs/permissions.md)",
        ),
        _ => ("bucket", "check --endpoint and --region"),
    };
    for step in NAMES {
        match step {
            step if step == name => checks.fail(step, cause.clone(), remedy),
            // Refused for its rights alone, a request has passed all other checks.
            "credentials" | "region" if name == "list" => checks.ok(step, "accepted"),
            "bucket" if name == "list" => checks.ok(step, format!("{} exists", store.name())),
            step => checks.skip(step, format!("{name} failed")),
        }
    }
    (name == "list").then(Vec::new)
}

fn listed(page: &ListPage) -> String {
    match (page.objects.len(), page.next.is_some()) {
        (0, _) => "allowed; there are no objects yet".to_owned(),
        (count, true) => format!("allowed; there are more than {count} objects"),
        (1, false) => "allowed; there is one object".to_owned(),
        (count, false) => format!("allowed; there are {count} objects"),
    }
}

/// Whether old versions are kept.
pub(super) async fn versioning(checks: &mut Checks<'_>, store: &dyn ObjectStore) {
    const NAME: &str = "versioning";
    match store.bucket_info().await {
        Ok(info) if info.hierarchical => checks.warn(
            NAME,
            "the bucket has a hierarchical namespace, where keys behave otherwise than in usual buckets",
            "use a bucket without one",
        ),
        Ok(info) if info.versioned => checks.warn(
            NAME,
            "the bucket keeps old versions: they are billed, stay encrypted for the old key after a rewrap, and creating a file exclusively (O_EXCL) is not enforced there",
            "add a lifecycle rule that removes old versions after some days, or use a bucket without versioning",
        ),
        Ok(_) => checks.ok(NAME, "old versions are not kept"),
        Err(Error::AccessDenied(_)) => checks.warn(
            NAME,
            "whether the bucket keeps old versions is not known: oss:GetBucketInfo is refused",
            "allow the action oss:GetBucketInfo on the bucket, or look in the OSS console",
        ),
        Err(error) => checks.warn(
            NAME,
            format!("whether the bucket keeps old versions is not known: {}", chain(&error)),
            "look in the OSS console",
        ),
    }
}
