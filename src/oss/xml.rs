//! The XML of the protocol: responses are parsed leniently (unknown elements are skipped, order does not
//! matter), requests are written with everything escaped.
//!
//! The name of the root element is checked: a page that a system in between returned instead of the response
//! must never be mistaken for an empty listing. No list is longer than a page, however long the document.

use std::fmt::Write;
use std::marker::PhantomData;

use quick_xml::events::Event;
use serde::Deserialize;
use serde::de::{DeserializeOwned, SeqAccess, Visitor};

use super::headers::size_of;
use crate::base::encoding::percent_decoded_bytes;
use crate::base::time;
use crate::object::answer::{BucketInfo, BucketStat};
use crate::object::listing::{RawObject, RawPage};
use crate::object::meta::ETag;
use crate::object::upload::{MAX_PARTS, PendingUpload, UploadId, UploadedPart};

/// The maximum number of keys in one DeleteMultipleObjects, and the maximum page size of any listing.
pub const MAX_BATCH: usize = 1000;

/// Why a document is not the expected response; for messages.
pub type Fault = String;

/// The elements of the error document that this client uses.
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

/// None if the text is not an error document.
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

/// A document with this root.
///
/// # Errors
/// Another document, or none.
pub fn read<T: DeserializeOwned>(text: &str, expected: &str) -> Result<T, Fault> {
    match root(text) {
        Some(name) if name == expected => {}
        Some(name) => return Err(format!("a document <{name}> instead of <{expected}>")),
        None => return Err(format!("no document <{expected}>")),
    }
    quick_xml::de::from_str(text).map_err(|error| format!("<{expected}>: {error}"))
}

/// A name in a response with this encoding type. Not always UTF-8: other clients may have stored objects
/// under any bytes.
fn name(text: &str, encoding: &str) -> Vec<u8> {
    match encoding {
        "url" => percent_decoded_bytes(text),
        // Invalid UTF-8 was replaced when the document was read, so this is another name.
        _ if text.contains('\u{fffd}') => Vec::new(),
        _ => text.as_bytes().to_owned(),
    }
}

/// A list of at most [`MAX_BATCH`] elements: no request asks for more.
fn bounded<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de>,
{
    struct Bounded<T>(PhantomData<T>);
    impl<'de, T: Deserialize<'de>> Visitor<'de> for Bounded<T> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            write!(f, "at most {MAX_BATCH} elements")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<T>, A::Error> {
            let mut list = Vec::new();
            while let Some(element) = seq.next_element()? {
                if list.len() == MAX_BATCH {
                    return Err(serde::de::Error::invalid_length(MAX_BATCH + 1, &self));
                }
                list.push(element);
            }
            Ok(list)
        }
    }
    deserializer.deserialize_seq(Bounded(PhantomData))
}

fn time(text: &str) -> Result<std::time::SystemTime, Fault> {
    time::parse_extended(text).ok_or_else(|| format!("not a time: {text}"))
}

/// A page of ListObjectsV2 that was requested with `encoding-type=url`. `date` is the response's. An entry
/// with missing or impossible values is no reason to reject the page.
pub fn list(text: &str, date: std::time::SystemTime) -> Result<RawPage, Fault> {
    #[derive(Default, Deserialize)]
    #[serde(rename_all = "PascalCase", default)]
    struct Contents {
        key: String,
        size: String,
        #[serde(rename = "ETag")]
        etag: String,
        last_modified: String,
        storage_class: String,
    }
    #[derive(Default, Deserialize)]
    #[serde(rename_all = "PascalCase", default)]
    struct CommonPrefixes {
        prefix: String,
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
        #[serde(default, deserialize_with = "bounded")]
        contents: Vec<Contents>,
        #[serde(default, deserialize_with = "bounded")]
        common_prefixes: Vec<CommonPrefixes>,
    }
    let result: Result_ = read(text, "ListBucketResult")?;
    let name = |text: &str| name(text, &result.encoding_type);
    let objects = result
        .contents
        .into_iter()
        .map(|entry| RawObject {
            key: name(&entry.key),
            size: size_of(&entry.size),
            etag: ETag::new(entry.etag),
            last_modified: time::parse_extended(&entry.last_modified),
            storage_class: entry.storage_class,
        })
        .collect();
    let prefixes = result
        .common_prefixes
        .iter()
        .map(|entry| name(&entry.prefix))
        .collect();
    let next = match (result.is_truncated, &*result.next_continuation_token) {
        (false, _) => None,
        // Without a token the rest cannot be requested, and half a listing must not be mistaken for a
        // complete one.
        (true, "") => return Err("a truncated listing without a continuation token".to_owned()),
        (true, token) => {
            let token = String::from_utf8(name(token)).ok();
            Some(token.ok_or("a continuation token that is not UTF-8")?)
        }
    };
    Ok(RawPage {
        objects,
        prefixes,
        next,
        date,
    })
}

/// The ID in the response of InitiateMultipartUpload.
pub fn upload_id(text: &str) -> Result<UploadId, Fault> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Result_ {
        upload_id: String,
    }
    let result: Result_ = read(text, "InitiateMultipartUploadResult")?;
    match result.upload_id.is_empty() {
        true => Err("an empty upload ID".to_owned()),
        false => Ok(UploadId(result.upload_id)),
    }
}

/// The ETag in the response of a copy, a part copy or a completion, whose root is `expected`; None if there
/// is none.
pub fn etag(text: &str, expected: &str) -> Result<Option<ETag>, Fault> {
    #[derive(Deserialize)]
    struct Result_ {
        #[serde(rename = "ETag", default)]
        etag: String,
    }
    let result: Result_ = read(text, expected)?;
    Ok((!result.etag.is_empty()).then(|| ETag::new(result.etag)))
}

/// A page of ListParts that was requested after part `marker`, and the marker of the next one.
pub fn parts(text: &str, marker: u16) -> Result<(Vec<UploadedPart>, Option<u16>), Fault> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct PartElement {
        part_number: u16,
        #[serde(rename = "ETag")]
        etag: String,
        size: String,
        #[serde(rename = "HashCrc64ecma", default)]
        crc64: Option<u64>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Result_ {
        #[serde(default)]
        is_truncated: bool,
        next_part_number_marker: Option<u16>,
        #[serde(default, deserialize_with = "bounded")]
        part: Vec<PartElement>,
    }
    let result: Result_ = read(text, "ListPartsResult")?;
    let mut last = marker;
    let mut parts = Vec::new();
    for part in result.part {
        let number = part.part_number;
        if number <= last || number > MAX_PARTS {
            return Err(format!("part {number} is listed after part {last}"));
        }
        last = number;
        parts.push(UploadedPart {
            number,
            etag: ETag::new(part.etag),
            crc64: part.crc64,
            size: size_of(&part.size).ok_or_else(|| format!("a part of {} bytes", part.size))?,
        });
    }
    let next = match (result.is_truncated, result.next_part_number_marker) {
        (false, _) => None,
        (true, Some(next)) if next > marker && next >= last => Some(next),
        (true, _) => return Err("a truncated list of parts that does not advance".to_owned()),
    };
    Ok((parts, next))
}

/// The key and the upload ID after which the next page begins.
pub type UploadMarker = (String, String);

/// A page of ListMultipartUploads that was requested with `encoding-type=url`, and the markers of the next
/// one. Uploads under names that are not UTF-8 are skipped.
pub fn uploads(text: &str) -> Result<(Vec<PendingUpload>, Option<UploadMarker>), Fault> {
    #[derive(Default, Deserialize)]
    #[serde(rename_all = "PascalCase", default)]
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
        #[serde(default, deserialize_with = "bounded")]
        upload: Vec<UploadElement>,
    }
    let result: Result_ = read(text, "ListMultipartUploadsResult")?;
    let name = |text: &str| String::from_utf8(name(text, &result.encoding_type)).ok();
    let uploads = result.upload.into_iter().filter_map(|upload| {
        Some(PendingUpload {
            key: name(&upload.key).filter(|key| !key.is_empty())?,
            upload: UploadId(Some(upload.upload_id).filter(|id| !id.is_empty())?),
            initiated: time(&upload.initiated).ok()?,
        })
    });
    let uploads = uploads.collect();
    let next = match result.is_truncated {
        true => {
            let key = name(&result.next_key_marker).filter(|key| !key.is_empty());
            let key = key.ok_or("a truncated list of uploads that does not advance")?;
            Some((key, result.next_upload_id_marker))
        }
        false => None,
    };
    Ok((uploads, next))
}

/// The result of DeleteMultipleObjects for each key: deleted, or refused with code and message.
pub struct Deleted {
    pub deleted: Vec<String>,
    pub refused: Vec<(String, String, String)>,
}

/// The response of DeleteMultipleObjects. Names that are not UTF-8 were not requested, and are skipped.
pub fn deleted(text: &str) -> Result<Deleted, Fault> {
    #[derive(Default, Deserialize)]
    #[serde(rename_all = "PascalCase", default)]
    struct KeyElement {
        key: String,
        code: String,
        message: String,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Result_ {
        #[serde(default)]
        encoding_type: String,
        #[serde(default, deserialize_with = "bounded")]
        deleted: Vec<KeyElement>,
        #[serde(default, deserialize_with = "bounded")]
        error: Vec<KeyElement>,
    }
    let result: Result_ = read(text, "DeleteResult")?;
    let name = |text: &str| String::from_utf8(name(text, &result.encoding_type)).ok();
    let deleted = result.deleted.iter().filter_map(|entry| name(&entry.key));
    let refused = result
        .error
        .iter()
        .filter_map(|entry| Some((name(&entry.key)?, entry.code.clone(), entry.message.clone())));
    Ok(Deleted {
        deleted: deleted.collect(),
        refused: refused.collect(),
    })
}

pub fn bucket_info(text: &str) -> Result<BucketInfo, Fault> {
    #[derive(Default, Deserialize)]
    #[serde(rename_all = "PascalCase", default)]
    struct Bucket {
        location: String,
        versioning: String,
        hierarchical_namespace: String,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Info {
        bucket: Bucket,
    }
    let Info { bucket } = read(text, "BucketInfo")?;
    let some = |text: String| (!text.is_empty()).then_some(text);
    Ok(BucketInfo {
        region: some(bucket.location).map(|location| match location.strip_prefix("oss-") {
            Some(region) => region.to_owned(),
            None => location,
        }),
        versioned: matches!(&*bucket.versioning, "Enabled" | "Suspended"),
        hierarchical: bucket.hierarchical_namespace == "Enabled",
    })
}

/// The most a bucket can hold, for all that is believed of one: 2^62 bytes.
const MAX_STORAGE: u64 = 1 << 62;

pub fn bucket_stat(text: &str) -> Result<BucketStat, Fault> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Stat {
        storage: u64,
        #[serde(default)]
        object_count: u64,
    }
    let stat: Stat = read(text, "BucketStat")?;
    Ok(BucketStat {
        bytes: stat.storage.min(MAX_STORAGE),
        objects: stat.object_count,
    })
}

/// Whether a key can be written in XML 1.0 and read back unchanged. Control characters cannot, and a parser
/// may change line endings.
pub fn is_writable(text: &str) -> bool {
    !text
        .chars()
        .any(|c| c < ' ' || matches!(c, '\u{fffe}' | '\u{ffff}'))
}

/// The request of DeleteMultipleObjects, in the form whose response names every key.
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
        let expected = [("a/\u{6587}\n", Some(344_606)), ("a/z", Some(0))];
        assert_eq!(keys, expected.map(|(key, size)| (key.as_bytes(), size)));
        assert_eq!(
            page.objects[0].etag.as_str(),
            "\"5B3C1A2E053D763E1B002CC607C5A0FE\""
        );
        assert_eq!(page.objects[1].etag.as_str(), "\"X\"");
        let time = page.objects[0].last_modified.unwrap();
        assert_eq!(time::unix_seconds(time), 1_767_413_106);
        assert_eq!(page.prefixes, [&b"a/d ++/"[..], b"a/e/"]);
        assert_eq!(page.next.as_deref(), Some("Ch+Yy="));
    }

    #[test]
    fn an_incomplete_listing_is_refused() {
        for text in [
            "",
            "not xml",
            "<html><body>captive portal</body></html>",
            "<Error><Code>X</Code></Error>",
            "<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>",
            "<ListBucketResult><Contents><Key>a</Key>",
            "<ListBucketResult><EncodingType>url</EncodingType><IsTruncated>true</IsTruncated><NextContinuationToken>%ff</NextContinuationToken></ListBucketResult>",
        ] {
            assert!(list(text, UNIX_EPOCH).is_err(), "{text}");
        }
        let empty = list("<ListBucketResult/>", UNIX_EPOCH).unwrap();
        assert!(empty.objects.is_empty() && empty.next.is_none());
    }

    #[test]
    fn errors_are_parsed_and_web_pages_are_not_errors() {
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
            Ok(UploadId("U".to_owned()))
        );
        assert_eq!(
            etag(
                "<CopyObjectResult><LastModified>x</LastModified><ETag>\"E\"</ETag></CopyObjectResult>",
                "CopyObjectResult"
            ),
            Ok(Some(ETag::new("\"E\"")))
        );
        assert_eq!(etag("<CopyObjectResult/>", "CopyObjectResult"), Ok(None));
        let (list, next) = parts(
            "<ListPartsResult><NextPartNumberMarker>5</NextPartNumberMarker><IsTruncated>true</IsTruncated>\
             <Part><PartNumber>1</PartNumber><LastModified>x</LastModified><ETag>\"E\"</ETag><Size>9</Size><HashCrc64ecma>7</HashCrc64ecma></Part>\
             <Part><PartNumber>5</PartNumber><ETag>\"F\"</ETag><Size>1</Size></Part></ListPartsResult>",
            0,
        )
        .unwrap();
        assert_eq!((list[0].number, list[0].crc64), (1, Some(7)));
        assert_eq!((list[1].number, list[1].crc64), (5, None));
        assert_eq!(next, Some(5));
        let (list, next) = uploads(
            "<ListMultipartUploadsResult><EncodingType>url</EncodingType><IsTruncated>true</IsTruncated>\
             <NextKeyMarker>a%20b</NextKeyMarker><NextUploadIdMarker>V</NextUploadIdMarker>\
             <Upload><Key>a%20b</Key><UploadId>V</UploadId><Initiated>2026-01-03T04:05:06.000Z</Initiated></Upload></ListMultipartUploadsResult>",
        )
        .unwrap();
        assert_eq!((&*list[0].key, &*list[0].upload.0), ("a b", "V"));
        assert_eq!(next, Some(("a b".to_owned(), "V".to_owned())));
    }

    #[test]
    fn the_use_of_a_bucket_is_read_and_bounded() {
        let stat = |inside: &str| bucket_stat(&format!("<BucketStat>{inside}</BucketStat>"));
        let read = stat(
            "<Storage>1600</Storage><ObjectCount>230</ObjectCount><MultipartUploadCount>40</MultipartUploadCount>",
        );
        let expected = BucketStat {
            bytes: 1600,
            objects: 230,
        };
        assert_eq!(read.unwrap(), expected);
        let huge = stat("<Storage>18446744073709551615</Storage>").unwrap();
        assert_eq!(huge.bytes, MAX_STORAGE);
        for wrong in ["", "<Storage>-1</Storage>", "<Storage>much</Storage>"] {
            assert!(stat(wrong).is_err(), "{wrong}");
        }
        assert!(bucket_stat("<BucketInfo><Storage>1</Storage></BucketInfo>").is_err());
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

    #[test]
    fn an_impossible_entry_does_not_spoil_its_page() {
        let page = list(
            "<ListBucketResult><EncodingType>url</EncodingType>\
             <Contents><Key>bad%FFname</Key><Size>1</Size></Contents>\
             <Contents><Key>minus</Key><Size>-1</Size><LastModified>never</LastModified></Contents>\
             <Contents><Key>huge</Key><Size>18446744073709551615</Size></Contents>\
             <Contents><Size>1</Size></Contents><Contents/>\
             <Contents><Key>good</Key><Size>7</Size></Contents>\
             <CommonPrefixes><Prefix>%FE/</Prefix></CommonPrefixes><CommonPrefixes/></ListBucketResult>",
            UNIX_EPOCH,
        )
        .unwrap();
        let keys: Vec<_> = page.objects.iter().map(|o| (&*o.key, o.size)).collect();
        assert_eq!(
            keys,
            [
                (&b"bad\xffname"[..], Some(1)),
                (b"minus", None),
                (b"huge", None),
                (b"", Some(1)),
                (b"", None),
                (b"good", Some(7))
            ]
        );
        assert!(page.objects.iter().all(|o| o.last_modified.is_none()));
        assert_eq!(page.prefixes, [&b"\xfe/"[..], b""]);
        // Not encoded: the replaced text is not the name.
        let page = list(
            "<ListBucketResult><Contents><Key>a\u{fffd}b</Key><Size>1</Size></Contents></ListBucketResult>",
            UNIX_EPOCH,
        );
        assert_eq!(page.unwrap().objects[0].key, b"");
    }

    #[test]
    fn no_list_is_longer_than_a_page() {
        let document = |root: &str, element: &str, count: usize| {
            format!("<{root}>{}</{root}>", element.repeat(count))
        };
        let contents = "<Contents><Key>a</Key></Contents>";
        let prefix = "<CommonPrefixes><Prefix>a/</Prefix></CommonPrefixes>";
        for element in [contents, prefix] {
            let page = |count| list(&document("ListBucketResult", element, count), UNIX_EPOCH);
            assert!(page(MAX_BATCH).is_ok());
            assert!(page(MAX_BATCH + 1).is_err());
        }
        for element in [
            "<Deleted><Key>a</Key></Deleted>",
            "<Error><Key>a</Key></Error>",
        ] {
            assert!(deleted(&document("DeleteResult", element, MAX_BATCH)).is_ok());
            assert!(deleted(&document("DeleteResult", element, MAX_BATCH + 1)).is_err());
        }
        let upload = "<Upload><Key>a</Key></Upload>";
        let root = "ListMultipartUploadsResult";
        assert!(uploads(&document(root, upload, MAX_BATCH)).is_ok());
        assert!(uploads(&document(root, upload, MAX_BATCH + 1)).is_err());
    }

    #[test]
    fn parts_are_listed_in_order_after_the_marker() {
        let part = |number: &str, size: &str| {
            format!(
                "<Part><PartNumber>{number}</PartNumber><ETag>E</ETag><Size>{size}</Size></Part>"
            )
        };
        let go_on = |next: &str| {
            format!(
                "<IsTruncated>true</IsTruncated><NextPartNumberMarker>{next}</NextPartNumberMarker>"
            )
        };
        for (content, marker, expected) in [
            (part("1", "1") + &part("3", "1"), 0, Some(None)),
            (part("10000", "1"), 9999, Some(None)),
            (part("10001", "1"), 0, None),
            (part("0", "1"), 0, None),
            (part("65536", "1"), 0, None),
            (part("-1", "1"), 0, None),
            (part("2", "1") + &part("1", "1"), 0, None),
            (part("2", "1") + &part("2", "1"), 0, None),
            (part("5", "1"), 5, None),
            (part("1", "-1"), 0, None),
            (part("1", "1") + &go_on("1"), 0, Some(Some(1))),
            (part("2", "1") + &go_on("1"), 0, None),
            (part("2", "1") + &go_on("0"), 1, None),
            (go_on("5"), 5, None),
            (go_on("6"), 5, Some(Some(6))),
            ("<IsTruncated>true</IsTruncated>".to_owned(), 0, None),
        ] {
            let text = format!("<ListPartsResult>{content}</ListPartsResult>");
            let next = parts(&text, marker).map(|(_, next)| next).ok();
            assert_eq!(next, expected, "{text} behind {marker}");
        }
    }
}
