//! Refusals by the bucket: the errno that a program gets, and the messages in the log and at exit.

use std::fs::{self, File};
use std::io::Write;

use ossvault::server::instruments::{Action, Fault};
use ossvault::server::operation::Operation;

use crate::fixture::*;

fn refusal(operation: Operation, status: u16, code: &str) -> Fault {
    let code = code.to_owned();
    Fault::once(operation, Action::Status { status, code }).always()
}

/// "If the bucket refuses a request, the call fails: with EACCES if a policy forbids it, EPERM if the
/// object is under retention, EDQUOT if a quota is exhausted, ENOSPC if there is no space, EFBIG if the
/// data is too large. The log and the report at unmount give the service's error code and the request ID."
#[test]
fn refusals_of_the_bucket_are_reported_with_their_code() {
    let Some(mut mount) = Mount::served(&["--metadata-ttl", "60s"]) else {
        return;
    };
    let cases = [
        (403, "AccessDenied", libc::EACCES),
        (409, "FileImmutable", libc::EPERM),
        (403, "QuotaExceeded", libc::EDQUOT),
        (400, "BucketQuotaExceeded", libc::EDQUOT),
        (507, "InsufficientStorage", libc::ENOSPC),
        (400, "EntityTooLarge", libc::EFBIG),
    ];
    for (n, (status, code, expected)) in cases.into_iter().enumerate() {
        let name = format!("case{n}");
        let fault = refusal(Operation::PutObject, status, code);
        mount.instruments().add_fault(fault.on_keys(&name));
        let mut file = File::create(mount.path(&name)).unwrap();
        file.write_all(b"x").unwrap();
        assert_eq!(errno(file.sync_all()), expected, "{code}");
        let log = mount.log();
        let line = log
            .lines()
            .find(|line| line.contains(&format!("uploading \"{name}\"")))
            .unwrap_or_else(|| panic!("{code}: {log}"));
        for part in ["PutObject", code, &status.to_string(), "request "] {
            assert!(line.contains(part), "{part}: {line}");
        }
    }
    let (exit, message) = mount.try_unmount(&[]);
    assert_eq!(exit, Some(40), "{message}");
    let log = mount.log();
    for (n, (status, code, _)) in cases.into_iter().enumerate() {
        assert!(
            log.contains(&format!("not uploaded: \"case{n}\": ")),
            "{log}"
        );
        let told = message.contains(&format!("status {status} {code}"));
        assert!(told || message.contains(" more"), "{code}: {message}");
    }
    assert!(message.contains("request "), "{message}");
}

#[test]
fn a_read_that_the_bucket_refuses_is_in_the_log_and_does_not_fill_it() {
    let Some(mut mount) = Mount::served(&["--metadata-ttl", "0", "--dir-ttl", "0"]) else {
        return;
    };
    for n in 0..20 {
        fs::write(mount.path(format!("f{n}")), "x").unwrap();
    }
    mount.remount(&["--metadata-ttl", "0", "--dir-ttl", "0"]);
    for operation in [Operation::HeadObject, Operation::GetObject] {
        let fault = refusal(operation, 403, "AccessDenied");
        mount.instruments().add_fault(fault.on_keys("f"));
    }
    for n in 0..20 {
        let number = errno(fs::read(mount.path(format!("f{n}"))));
        assert_eq!(number, libc::EACCES);
    }
    let log = mount.log();
    let lines: Vec<&str> = (log.lines())
        .filter(|line| line.contains("AccessDenied"))
        .collect();
    assert!(!lines.is_empty(), "{log}");
    for part in ["\"f", "403", "request "] {
        assert!(lines[0].contains(part), "{part}: {}", lines[0]);
    }
    // Not one for each file and call.
    assert!(lines.len() <= 20, "{log}");
    mount.instruments().clear_faults();
    assert_eq!(fs::read(mount.path("f0")).unwrap(), b"x");
}
