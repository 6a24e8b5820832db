//! What the service demands of objects with `x-oss-meta-client-side-encryption-*` metadata. Pure.
//!
//! It knows these names, and refuses what would leave an object that its own SDKs cannot open. Metadata of
//! other names, the seed format's among them, are ordinary.

use std::collections::BTreeMap;

use super::refusal::{Refusal, Result};
use crate::store::object_store::ObjectHeaders;

const PREFIX: &str = "client-side-encryption-";

fn get<'a>(user: &'a BTreeMap<String, String>, name: &str) -> Option<&'a str> {
    user.get(&format!("{PREFIX}{name}")).map(String::as_str)
}

fn refused(message: &str, ec: &'static str) -> Refusal {
    Refusal::new(400, "InvalidEncryptionRequest", message).ec(ec)
}

/// Whether the service takes an object for one that its SDKs encrypted.
pub fn is_encrypted(headers: &ObjectHeaders) -> bool {
    get(&headers.user, "key").is_some()
}

/// For PutObject and InitiateMultipartUpload.
pub fn check_new(headers: &ObjectHeaders) -> Result<()> {
    let user = &headers.user;
    let required = [
        ("key", "0005-00000401"),
        ("start", "0005-00000402"),
        ("cek-alg", "0005-00000403"),
        ("wrap-alg", "0005-00000404"),
    ];
    if required.iter().all(|(name, _)| get(user, name).is_none()) {
        return Ok(());
    }
    for (name, ec) in required {
        if get(user, name).is_none_or(str::is_empty) {
            return Err(refused(
                &format!("The header x-oss-meta-{PREFIX}{name} is missing."),
                ec,
            ));
        }
    }
    if get(user, "wrap-alg") == Some("rsa") && get(user, "magic-number-hmac").is_none() {
        return Err(refused(
            "The header x-oss-meta-client-side-encryption-magic-number-hmac is missing.",
            "0005-00000405",
        ));
    }
    Ok(())
}

/// The parts that an upload of an encrypted object must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    data_size: u64,
    part_size: u64,
}

impl Plan {
    /// None for an object that is not encrypted.
    ///
    /// # Errors
    /// 400 where the sizes are missing or impossible.
    pub fn of(headers: &ObjectHeaders) -> Result<Option<Plan>> {
        if !is_encrypted(headers) {
            return Ok(None);
        }
        let number = |name: &str, missing, invalid| {
            get(&headers.user, name)
                .ok_or_else(|| {
                    refused(
                        &format!("The header x-oss-meta-{PREFIX}{name} is missing."),
                        missing,
                    )
                })?
                .parse::<u64>()
                .map_err(|_| refused(&format!("x-oss-meta-{PREFIX}{name} is no number."), invalid))
        };
        let plan = Plan {
            data_size: number("data-size", "0005-00000406", "0005-00000407")?,
            part_size: number("part-size", "0005-00000408", "0005-00000409")?,
        };
        if plan.part_size == 0 || !plan.part_size.is_multiple_of(16) {
            return Err(refused(
                "The part size is not a multiple of 16.",
                "0005-00000409",
            ));
        }
        if plan.parts() > 10_000 {
            return Err(refused(
                "The part size is too small for the data size.",
                "0005-00000410",
            ));
        }
        Ok(Some(plan))
    }

    fn parts(&self) -> u64 {
        self.data_size.div_ceil(self.part_size)
    }

    pub fn check_part(&self, number: u16, size: u64) -> Result<()> {
        let number = u64::from(number);
        if number > self.parts() {
            return Err(refused(
                "The part number is larger than the count of parts.",
                "0005-00000411",
            ));
        }
        let wanted = match self.parts() - number {
            0 => self.data_size - self.part_size * (number - 1),
            _ => self.part_size,
        };
        if size != wanted {
            return Err(refused(
                "The part has not the size announced at initiation.",
                "0005-00000419",
            ));
        }
        Ok(())
    }

    pub fn check_complete(&self, parts: usize) -> Result<()> {
        if parts as u64 != self.parts() {
            return Err(refused(
                "The count of parts is not the one announced.",
                "0005-00000420",
            ));
        }
        Ok(())
    }
}

/// The envelope repeated with a part must be that of the initiation. What else an SDK says of a part, the MD5 of
/// its plaintext for one, is its own and is not kept.
pub fn check_repeated(part: &ObjectHeaders, initiated: &ObjectHeaders) -> Result<()> {
    const ENVELOPE: [&str; 7] = [
        "key",
        "start",
        "cek-alg",
        "wrap-alg",
        "matdesc",
        "data-size",
        "part-size",
    ];
    let differs = |name: &&str| {
        get(&part.user, name).is_some_and(|value| get(&initiated.user, name) != Some(value))
    };
    if ENVELOPE.iter().any(differs) {
        return Err(refused(
            "The headers are not those of the initiation.",
            "0005-00000413",
        ));
    }
    Ok(())
}

/// No copy may change metadata of such an object, not even unrelated ones.
pub fn check_replace(source: &ObjectHeaders, replacement: &ObjectHeaders) -> Result<()> {
    let same = source.user == replacement.user
        && source.standard == replacement.standard
        && (replacement.content_type.is_none() || source.content_type == replacement.content_type);
    if is_encrypted(source) && !same {
        return Err(refused(
            "The metadata of a client-side encrypted object cannot be changed; upload it again.",
            "0005-00000421",
        ));
    }
    Ok(())
}

pub fn check_part_source(source: &ObjectHeaders) -> Result<()> {
    if is_encrypted(source) {
        return Err(refused(
            "A client-side encrypted object cannot be the source of UploadPartCopy.",
            "0042-00000309",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(entries: &[(&str, &str)]) -> ObjectHeaders {
        ObjectHeaders {
            user: entries
                .iter()
                .map(|(name, value)| (format!("{PREFIX}{name}"), value.to_string()))
                .collect(),
            ..Default::default()
        }
    }

    const WHOLE: [(&str, &str); 4] = [
        ("key", "k"),
        ("start", "s"),
        ("cek-alg", "c"),
        ("wrap-alg", "w"),
    ];

    #[test]
    fn an_envelope_is_whole_or_absent() {
        check_new(&headers(&[])).unwrap();
        check_new(&headers(&[("matdesc", "{}")])).unwrap();
        check_new(&headers(&WHOLE)).unwrap();
        for missing in 0..WHOLE.len() {
            let mut some = WHOLE.to_vec();
            some.remove(missing);
            assert_eq!(
                check_new(&headers(&some)).unwrap_err().code,
                "InvalidEncryptionRequest"
            );
        }
        let mut rsa = WHOLE.to_vec();
        rsa[3].1 = "rsa";
        assert_eq!(check_new(&headers(&rsa)).unwrap_err().ec, "0005-00000405");
        rsa.push(("magic-number-hmac", "x"));
        check_new(&headers(&rsa)).unwrap();
    }

    #[test]
    fn a_part_repeats_the_envelope_and_may_say_more() {
        let initiated = headers(&WHOLE);
        check_repeated(&headers(&[]), &initiated).unwrap();
        check_repeated(&initiated, &initiated).unwrap();
        for name in ["unencrypted-content-md5", "unencrypted-content-length"] {
            check_repeated(&headers(&[("key", "k"), (name, "x")]), &initiated).unwrap();
        }
        for name in ["key", "start", "cek-alg", "wrap-alg", "part-size"] {
            let refused = check_repeated(&headers(&[(name, "other")]), &initiated);
            assert_eq!(refused.unwrap_err().ec, "0005-00000413", "{name}");
        }
    }

    #[test]
    fn the_parts_are_those_announced() {
        let plan = |data, part| {
            let mut entries = WHOLE.to_vec();
            entries.extend([("data-size", data), ("part-size", part)]);
            Plan::of(&headers(&entries))
        };
        assert_eq!(Plan::of(&headers(&[])).unwrap(), None);
        assert_eq!(Plan::of(&headers(&WHOLE)).unwrap_err().ec, "0005-00000406");
        for (data, part) in [
            ("x", "16"),
            ("1", "x"),
            ("1", "0"),
            ("1", "17"),
            ("160017", "16"),
        ] {
            assert!(plan(data, part).is_err(), "{data} {part}");
        }
        let plan = plan("250", "112").unwrap().unwrap();
        for (number, size, taken) in [
            (1, 112, true),
            (1, 111, false),
            (2, 112, true),
            (3, 26, true),
            (3, 112, false),
            (4, 1, false),
        ] {
            assert_eq!(
                plan.check_part(number, size).is_ok(),
                taken,
                "{number} {size}"
            );
        }
        assert!(plan.check_complete(3).is_ok());
        assert!(plan.check_complete(2).is_err());
    }
}
