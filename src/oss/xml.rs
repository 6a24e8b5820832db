//! The XML of the protocol: answers read leniently (unknown elements are skipped, order does not
//! matter), requests written with everything escaped.
//!
//! The name of the root element is checked: a page that something on the way put in place of the answer
//! must never pass for an empty listing.

use std::fmt::Write;

use quick_xml::events::Event;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::date;
use super::sign::percent_decoded;
use super::types::{BucketDescription, Listed, Page, Part, Upload};

/// Why a document is not the answer it should be; for messages.
pub type Fault = String;

/// The error document's elements this client looks at.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ErrorDocument {
    pub code: String,
    pub message: String,
    pub request_id: String,
    #[serde(rename = "EC")]
    pub ec: String,
    pub endpoint: String,
    pub server_time: String,
    pub string_to_sign: String,
    pub canonical_request: String,
}

/// None if the text is no error document.
pub fn error(text: &str) -> Option<ErrorDocument> {
    read(text, "Error").ok()
}

/// The root element's name.
fn root(text: &str) -> Option<String> {
    let mut reader = quick_xml::Reader::from_str(text);
    loop {
        match reader.read_event().ok()? {
            Event::Start(element) | Event::Empty(element) => {
                return Some(element.local_name().as_ref().to_owned());
            }
            Event::Eof => return None,
            _ => {}
        }
    }
}

fn read<T: DeserializeOwned>(text: &str, expected: &str) -> Result<T, Fault> {
    match root(text) {
        Some(name) if name == expected => {}
        Some(name) => return Err(format!("a document <{name}> instead of <{expected}>")),
        None => return Err(format!("no document <{expected}>")),
    }
    quick_xml::de::from_str(text).map_err(|error| format!("<{expected}>: {error}"))
}

fn decoded(text: &str) -> Result<String, Fault> {
    percent_decoded(text).ok_or_else(|| format!("a name that is not UTF-8: {text}"))
}

fn time(text: &str) -> Result<std::time::SystemTime, Fault> {
    date::parse_extended(text).ok_or_else(|| format!("not a time: {text}"))
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct PrefixElement {
    prefix: String,
}

/// A page of ListObjectsV2 that was asked for with `encoding-type=url`. `date` is the answer's.
pub fn list(text: &str, date: std::time::SystemTime) -> Result<Page, Fault> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Contents {
        key: String,
        size: u64,
        #[serde(rename = "ETag", default)]
        etag: String,
        last_modified: String,
        #[serde(default)]
        storage_class: String,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Result_ {
        #[serde(default)]
        is_truncated: bool,
        #[serde(default)]
        next_continuation_token: String,
        #[serde(default)]
        encoding_type: String,
        #[serde(default)]
        contents: Vec<Contents>,
        #[serde(default)]
        common_prefixes: Vec<PrefixElement>,
    }
    let result: Result_ = read(text, "ListBucketResult")?;
    let name = |text: String| match &*result.encoding_type {
        "url" => decoded(&text),
        _ => Ok(text),
    };
    let objects = result
        .contents
        .into_iter()
        .map(|entry| {
            Ok(Listed {
                key: name(entry.key)?,
                size: entry.size,
                etag: entry.etag,
                last_modified: time(&entry.last_modified)?,
                storage_class: entry.storage_class,
            })
        })
        .collect::<Result<_, Fault>>()?;
    let prefixes = result
        .common_prefixes
        .into_iter()
        .map(|entry| name(entry.prefix))
        .collect::<Result<_, Fault>>()?;
    let next = match (result.is_truncated, &*result.next_continuation_token) {
        (false, _) => None,
        // Without a token the rest cannot be had, and half a listing must not pass for a whole one.
        (true, "") => return Err("a truncated listing without a continuation token".to_owned()),
        (true, token) => Some(name(token.to_owned())?),
    };
    Ok(Page {
        objects,
        prefixes,
        next,
        date,
    })
}

/// The id of InitiateMultipartUpload's answer.
pub fn upload_id(text: &str) -> Result<String, Fault> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Result_ {
        upload_id: String,
    }
    let result: Result_ = read(text, "InitiateMultipartUploadResult")?;
    match result.upload_id.is_empty() {
        true => Err("an empty upload id".to_owned()),
        false => Ok(result.upload_id),
    }
}

/// The tag in the answer of a copy, a part copy or a completion, whose root is `expected`.
pub fn etag(text: &str, expected: &str) -> Result<String, Fault> {
    #[derive(Deserialize)]
    struct Result_ {
        #[serde(rename = "ETag")]
        etag: String,
    }
    let result: Result_ = read(text, expected)?;
    Ok(result.etag)
}

/// A page of ListParts, and the marker of the next one.
pub fn parts(text: &str) -> Result<(Vec<Part>, Option<String>), Fault> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct PartElement {
        part_number: u16,
        #[serde(rename = "ETag")]
        etag: String,
        size: u64,
        #[serde(rename = "HashCrc64ecma", default)]
        crc64: Option<u64>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Result_ {
        #[serde(default)]
        is_truncated: bool,
        #[serde(default)]
        next_part_number_marker: String,
        #[serde(default)]
        part: Vec<PartElement>,
    }
    let result: Result_ = read(text, "ListPartsResult")?;
    let parts = result
        .part
        .into_iter()
        .map(|part| Part {
            number: part.part_number,
            etag: part.etag,
            crc64: part.crc64,
            size: part.size,
        })
        .collect();
    let next = (result.is_truncated && !result.next_part_number_marker.is_empty())
        .then_some(result.next_part_number_marker);
    Ok((parts, next))
}

/// The key and the upload id after which the next page begins.
pub type UploadMarker = (String, String);

/// A page of ListMultipartUploads that was asked for with `encoding-type=url`, and the markers of the
/// next one.
pub fn uploads(text: &str) -> Result<(Vec<Upload>, Option<UploadMarker>), Fault> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct UploadElement {
        key: String,
        upload_id: String,
        initiated: String,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Result_ {
        #[serde(default)]
        is_truncated: bool,
        #[serde(default)]
        encoding_type: String,
        #[serde(default)]
        next_key_marker: String,
        #[serde(default)]
        next_upload_id_marker: String,
        #[serde(default)]
        upload: Vec<UploadElement>,
    }
    let result: Result_ = read(text, "ListMultipartUploadsResult")?;
    let name = |text: String| match &*result.encoding_type {
        "url" => decoded(&text),
        _ => Ok(text),
    };
    let uploads = result
        .upload
        .into_iter()
        .map(|upload| {
            Ok(Upload {
                key: name(upload.key)?,
                id: upload.upload_id,
                initiated: time(&upload.initiated)?,
            })
        })
        .collect::<Result<_, Fault>>()?;
    let next = match result.is_truncated && !result.next_key_marker.is_empty() {
        true => Some((
            name(result.next_key_marker.clone())?,
            result.next_upload_id_marker,
        )),
        false => None,
    };
    Ok((uploads, next))
}

/// What DeleteMultipleObjects says of each key: those deleted, and those refused with code and message.
pub struct Deleted {
    pub deleted: Vec<String>,
    pub refused: Vec<(String, String, String)>,
}

/// The answer of DeleteMultipleObjects.
pub fn deleted(text: &str) -> Result<Deleted, Fault> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct KeyElement {
        key: String,
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Result_ {
        #[serde(default)]
        encoding_type: String,
        #[serde(default)]
        deleted: Vec<KeyElement>,
        #[serde(default)]
        error: Vec<KeyElement>,
    }
    let result: Result_ = read(text, "DeleteResult")?;
    let name = |text: &str| match &*result.encoding_type {
        "url" => decoded(text),
        _ => Ok(text.to_owned()),
    };
    Ok(Deleted {
        deleted: result
            .deleted
            .iter()
            .map(|entry| name(&entry.key))
            .collect::<Result<_, Fault>>()?,
        refused: result
            .error
            .iter()
            .map(|entry| Ok((name(&entry.key)?, entry.code.clone(), entry.message.clone())))
            .collect::<Result<_, Fault>>()?,
    })
}

pub fn bucket_info(text: &str) -> Result<BucketDescription, Fault> {
    #[derive(Default, Deserialize)]
    #[serde(rename_all = "PascalCase", default)]
    struct Bucket {
        location: String,
        versioning: String,
        hierarchical_namespace: String,
        storage_class: String,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Info {
        bucket: Bucket,
    }
    let Info { bucket } = read(text, "BucketInfo")?;
    let some = |text: String| (!text.is_empty()).then_some(text);
    Ok(BucketDescription {
        region: some(bucket.location).map(|location| match location.strip_prefix("oss-") {
            Some(region) => region.to_owned(),
            None => location,
        }),
        versioned: matches!(&*bucket.versioning, "Enabled" | "Suspended"),
        hierarchical: bucket.hierarchical_namespace == "Enabled",
        storage_class: some(bucket.storage_class),
    })
}

/// Whether a key can be written in XML 1.0 and read back the same. Control characters cannot, and a
/// parser may turn line ends into others.
pub fn is_writable(text: &str) -> bool {
    !text
        .chars()
        .any(|c| c < ' ' || matches!(c, '\u{fffe}' | '\u{ffff}'))
}

/// The request of DeleteMultipleObjects, in the form whose answer names every key.
pub fn delete_request<'a>(keys: impl Iterator<Item = &'a str>) -> String {
    let mut out =
        String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?><Delete><Quiet>false</Quiet>");
    for key in keys {
        let key = quick_xml::escape::escape(key);
        let _ = write!(out, "<Object><Key>{key}</Key></Object>");
    }
    out.push_str("</Delete>");
    out
}

/// The request of CompleteMultipartUpload.
pub fn complete_request<'a>(parts: impl Iterator<Item = (u16, &'a str)>) -> String {
    let mut out =
        String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?><CompleteMultipartUpload>");
    for (number, etag) in parts {
        let etag = quick_xml::escape::escape(etag);
        let _ = write!(
            out,
            "<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>"
        );
    }
    out.push_str("</CompleteMultipartUpload>");
    out
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    const LIST: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<ListBucketResult xmlns="http://doc.oss-cn-hangzhou.aliyuncs.com">
  <Name>bkt</Name><Prefix>a%2F</Prefix><Unknown><Deep x="1"/></Unknown>
  <CommonPrefixes><Prefix>a%2Fd%20+%2B%2F</Prefix></CommonPrefixes>
  <Contents><Key>a%2F%E6%96%87%0A</Key><LastModified>2026-01-03T04:05:06.000Z</LastModified>
    <ETag>"5B3C1A2E053D763E1B002CC607C5A0FE"</ETag><Type>Normal</Type><Size>344606</Size>
    <StorageClass>Standard</StorageClass><Owner><ID>1</ID></Owner></Contents>
  <EncodingType>url</EncodingType>
  <CommonPrefixes><Prefix>a%2Fe%2F</Prefix></CommonPrefixes>
  <Contents><Key>a%2Fz</Key><LastModified>2026-01-03T04:05:06.000Z</LastModified>
    <ETag>&quot;X&quot;</ETag><Size>0</Size></Contents>
  <IsTruncated>true</IsTruncated><NextContinuationToken>Ch%2BYy%3D</NextContinuationToken>
  <KeyCount>4</KeyCount>
</ListBucketResult>"#;

    #[test]
    fn a_listing_is_read_whatever_its_order_and_extras() {
        let page = list(LIST, UNIX_EPOCH).unwrap();
        let keys: Vec<_> = page.objects.iter().map(|o| (&*o.key, o.size)).collect();
        assert_eq!(keys, [("a/\u{6587}\n", 344_606), ("a/z", 0)]);
        assert_eq!(page.objects[0].etag, "\"5B3C1A2E053D763E1B002CC607C5A0FE\"");
        assert_eq!(page.objects[1].etag, "\"X\"");
        assert_eq!(date::unix(page.objects[0].last_modified), 1_767_413_106);
        assert_eq!(page.prefixes, ["a/d ++/", "a/e/"]);
        assert_eq!(page.next.as_deref(), Some("Ch+Yy="));
    }

    #[test]
    fn what_is_no_whole_listing_is_refused() {
        for text in [
            "",
            "not xml",
            "<html><body>captive portal</body></html>",
            "<Error><Code>X</Code></Error>",
            "<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>",
            "<ListBucketResult><Contents><Key>a</Key>",
            "<ListBucketResult><EncodingType>url</EncodingType><CommonPrefixes><Prefix>%ff</Prefix></CommonPrefixes></ListBucketResult>",
        ] {
            assert!(list(text, UNIX_EPOCH).is_err(), "{text}");
        }
        let empty = list("<ListBucketResult/>", UNIX_EPOCH).unwrap();
        assert!(empty.objects.is_empty() && empty.next.is_none());
    }

    #[test]
    fn errors_are_read_and_web_pages_are_none() {
        let document = error(
            "<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code><Message>a &amp; b</Message>\
             <RequestId>R</RequestId><HostId>h</HostId><EC>0003-00000001</EC>\
             <Endpoint>oss-cn-beijing.aliyuncs.com</Endpoint></Error>",
        )
        .unwrap();
        assert_eq!(document.code, "AccessDenied");
        assert_eq!(document.message, "a & b");
        assert_eq!(document.ec, "0003-00000001");
        assert_eq!(document.endpoint, "oss-cn-beijing.aliyuncs.com");
        for text in ["", "<html><p>Bad gateway<br></html>", "<Err", "\u{0}"] {
            assert!(error(text).is_none(), "{text}");
        }
    }

    #[test]
    fn multipart_answers_are_read() {
        assert_eq!(
            upload_id(
                "<InitiateMultipartUploadResult><Bucket>b</Bucket><Key>k</Key><UploadId>U</UploadId></InitiateMultipartUploadResult>"
            ),
            Ok("U".to_owned())
        );
        assert_eq!(
            etag(
                "<CopyObjectResult><LastModified>x</LastModified><ETag>\"E\"</ETag></CopyObjectResult>",
                "CopyObjectResult"
            ),
            Ok("\"E\"".to_owned())
        );
        let (list, next) = parts(
            "<ListPartsResult><NextPartNumberMarker>5</NextPartNumberMarker><IsTruncated>true</IsTruncated>\
             <Part><PartNumber>1</PartNumber><LastModified>x</LastModified><ETag>\"E\"</ETag><Size>9</Size><HashCrc64ecma>7</HashCrc64ecma></Part>\
             <Part><PartNumber>5</PartNumber><ETag>\"F\"</ETag><Size>1</Size></Part></ListPartsResult>",
        )
        .unwrap();
        assert_eq!((list[0].number, list[0].crc64), (1, Some(7)));
        assert_eq!((list[1].number, list[1].crc64), (5, None));
        assert_eq!(next.as_deref(), Some("5"));
        let (list, next) = uploads(
            "<ListMultipartUploadsResult><EncodingType>url</EncodingType><IsTruncated>true</IsTruncated>\
             <NextKeyMarker>a%20b</NextKeyMarker><NextUploadIdMarker>V</NextUploadIdMarker>\
             <Upload><Key>a%20b</Key><UploadId>V</UploadId><Initiated>2026-01-03T04:05:06.000Z</Initiated></Upload></ListMultipartUploadsResult>",
        )
        .unwrap();
        assert_eq!((&*list[0].key, &*list[0].id), ("a b", "V"));
        assert_eq!(next, Some(("a b".to_owned(), "V".to_owned())));
    }

    #[test]
    fn bucket_info_is_read() {
        let info = bucket_info(
            "<BucketInfo><Bucket><Location>oss-cn-hangzhou</Location><Versioning>Suspended</Versioning>\
             <StorageClass>Standard</StorageClass><Owner><ID>1</ID></Owner></Bucket></BucketInfo>",
        )
        .unwrap();
        assert_eq!(info.region.as_deref(), Some("cn-hangzhou"));
        assert!(info.versioned && !info.hierarchical);
    }

    #[test]
    fn requests_escape_names() {
        assert_eq!(
            delete_request(["a<b>&\"'"].into_iter()),
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Delete><Quiet>false</Quiet>\
             <Object><Key>a&lt;b&gt;&amp;&quot;&apos;</Key></Object></Delete>"
        );
        assert!(
            complete_request([(1, "\"E\"")].into_iter())
                .contains("<Part><PartNumber>1</PartNumber><ETag>&quot;E&quot;</ETag></Part>")
        );
        assert!(is_writable("a b \u{6587}"));
        assert!(!is_writable("a\rb") && !is_writable("a\u{1}"));
    }

    #[test]
    fn the_answer_to_a_batch_delete_names_each_key() {
        let answer = deleted(
            "<DeleteResult><EncodingType>url</EncodingType><Deleted><Key>a%2Bb</Key></Deleted>\
             <Error><Key>c</Key><Code>AccessDenied</Code><Message>no</Message></Error></DeleteResult>",
        )
        .unwrap();
        assert_eq!(answer.deleted, ["a+b"]);
        assert_eq!(answer.refused[0].0, "c");
        assert_eq!(answer.refused[0].1, "AccessDenied");
    }
}
