//! `passwd-ossfs`: a line per key, `ID:SECRET` for every bucket or `BUCKET:ID:SECRET` for one.

use std::time::SystemTime;

use zeroize::Zeroizing;

use super::super::access_key::{AccessKey, Names};
use super::super::error::Fault;

const NAMES: Names = Names {
    id: "its access key ID",
    secret: "its secret",
    token: "",
};

/// The key for `bucket`: its own, or that of all.
///
/// # Errors
/// A line is of neither form, or there are two for the bucket, or none. Lines are not shown.
pub fn key(text: &str, bucket: &str, now: SystemTime) -> Result<AccessKey, Fault> {
    let (mut own, mut any) = (None, None);
    for (number, line) in text.lines().enumerate() {
        let number = number + 1;
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let wrong = |what: &str| Fault::unusable(format!("line {number}: {what}"));
        let parts: Vec<&str> = line.split(':').collect();
        let (of, id, secret) = match parts[..] {
            [id, secret] => (&mut any, id, secret),
            [name, id, secret] if name == bucket => (&mut own, id, secret),
            [_, _, _] => continue,
            _ => return Err(wrong("neither ID:SECRET nor BUCKET:ID:SECRET")),
        };
        if of.is_some() {
            return Err(wrong("a second key for the same buckets"));
        }
        let value = |text: &str| Some(Zeroizing::new(text.to_owned()));
        let key = AccessKey::checked(NAMES, [value(id), value(secret), None], None, now);
        *of = Some(key.map_err(|fault| wrong(&fault.why))?);
    }
    own.or(any)
        .ok_or_else(|| Fault::unusable("it has no key for this bucket"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_buckets_own_key_goes_before_that_of_all() {
        for (text, expected) in [
            ("id:hunter2", Ok("id")),
            ("# c\n\n id:hunter2 \r\n", Ok("id")),
            (
                "id:hunter2\nother:oid:hunter2\nbucket:bid:hunter2\n",
                Ok("bid"),
            ),
            ("bucket:bid:hunter2\nid:hunter2", Ok("bid")),
            ("other:oid:hunter2", Err("no key for this bucket")),
            ("", Err("no key for this bucket")),
            ("hunter2", Err("line 1: neither")),
            ("a:b:c:hunter2", Err("line 1: neither")),
            ("\nid:hunter2\nhunter2:x", Err("line 3: a second key")),
            ("id:", Err("line 1: its secret is missing")),
            (":hunter2", Err("line 1: its access key ID is missing")),
            ("id:hun ter2", Err("line 1: its secret holds")),
            ("[default]\nhunter2=1", Err("line 1: neither")),
        ] {
            match (key(text, "bucket", SystemTime::now()), expected) {
                (Ok(key), Ok(id)) => {
                    assert_eq!((key.id(), key.secret()), (id, "hunter2"), "{text}");
                }
                (Err(fault), Err(expected)) => {
                    assert!(fault.why.contains(expected), "{text}: {}", fault.why);
                    assert!(!fault.why.contains("ter2"), "{}", fault.why);
                }
                (result, _) => panic!("{text}: {}", result.is_ok()),
            }
        }
    }
}
