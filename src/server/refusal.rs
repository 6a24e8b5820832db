//! What the service says when it refuses.

use crate::base::error_chain::chain;
use crate::store::error::Error;
use crate::store::local::uploads;

use super::xml::Xml;

/// An error answer.
#[derive(Debug)]
pub struct Refusal {
    pub status: u16,
    pub code: &'static str,
    pub message: String,
    /// The service's number of the exact cause, where it is known.
    pub ec: &'static str,
    /// More elements of the error document.
    pub extra: Vec<(&'static str, String)>,
}

pub type Result<T> = std::result::Result<T, Refusal>;

impl Refusal {
    pub fn new(status: u16, code: &'static str, message: impl Into<String>) -> Refusal {
        Refusal {
            status,
            code,
            message: message.into(),
            ec: "",
            extra: Vec::new(),
        }
    }

    pub fn ec(mut self, ec: &'static str) -> Refusal {
        self.ec = ec;
        self
    }

    pub fn with(mut self, element: &'static str, text: impl Into<String>) -> Refusal {
        self.extra.push((element, text.into()));
        self
    }

    pub fn argument(message: impl Into<String>) -> Refusal {
        Refusal::new(400, "InvalidArgument", message)
    }

    pub fn not_implemented(what: &str) -> Refusal {
        Refusal::new(
            501,
            "NotImplemented",
            format!("{what} is not implemented here."),
        )
    }

    pub fn malformed_xml() -> Refusal {
        Refusal::new(
            400,
            "MalformedXML",
            "The XML you provided was not well-formed or did not validate against our published schema.",
        )
    }

    pub fn no_such_bucket(bucket: &str) -> Refusal {
        Refusal::new(404, "NoSuchBucket", "The specified bucket does not exist.")
            .ec("0015-00000101")
            .with("BucketName", bucket)
    }

    /// Whether it says that the sender is not known, and not that a known one made a mistake.
    pub fn is_of_a_stranger(&self) -> bool {
        self.code == "InvalidAccessKeyId" || self.ec == "0003-00000001"
    }

    /// The document in the body, or in `x-oss-err`.
    pub fn document(&self, request_id: &str, host: &str) -> String {
        let mut xml = Xml::document("Error");
        xml.text("Code", self.code);
        xml.text("Message", &self.message);
        xml.text("RequestId", request_id);
        xml.text("HostId", host);
        for (name, text) in &self.extra {
            xml.text(name, text);
        }
        if !self.ec.is_empty() {
            xml.text("EC", self.ec);
        }
        xml.finish()
    }
}

/// Why a body was not taken; the cause of an [`Error::Other`] that a body's stream ends with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyFault {
    #[error("the body does not match Content-MD5")]
    Md5,
    #[error("the body does not match x-oss-hash-crc64ecma")]
    Crc64,
    #[error("the body broke off")]
    Incomplete,
    #[error("the body did not arrive in time")]
    Slow,
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Refusal {
        let new = Refusal::new;
        match &error {
            Error::NotFound => {
                new(404, "NoSuchKey", "The specified key does not exist.").ec("0026-00000001")
            }
            Error::NoSuchBucket(bucket) => Refusal::no_such_bucket(bucket),
            Error::NoSuchUpload => new(
                404,
                "NoSuchUpload",
                "The specified upload does not exist. The upload ID may be invalid, or the upload may have been aborted or completed.",
            ),
            Error::PreconditionFailed => new(
                412,
                "PreconditionFailed",
                "At least one of the pre-conditions you specified did not hold.",
            ),
            Error::AlreadyExists => new(
                409,
                "FileAlreadyExists",
                "The object you specified already exists and can not be overwritten.",
            ),
            Error::InvalidRange => new(
                416,
                "InvalidRange",
                "The requested range cannot be satisfied",
            ),
            Error::InvalidName(_) => new(
                400,
                "InvalidObjectName",
                "The specified object is not valid.",
            ),
            Error::Other(cause) => {
                if let Some(refusal) = cause.downcast_ref::<uploads::Refusal>() {
                    return part_refusal(*refusal);
                }
                match cause.downcast_ref::<BodyFault>() {
                    Some(BodyFault::Md5) => new(
                        400,
                        "InvalidDigest",
                        "The Content-MD5 you specified was invalid.",
                    ),
                    Some(BodyFault::Crc64) => new(
                        400,
                        "InvalidCRC64",
                        "The CRC64 checksum you specified does not match what we received.",
                    ),
                    Some(BodyFault::Incomplete) => {
                        new(400, "IncompleteBody", "The request body is incomplete.")
                    }
                    Some(BodyFault::Slow) => new(
                        400,
                        "RequestTimeout",
                        "Your socket connection to the server was not read from or written to within the timeout period.",
                    ),
                    None => internal(&error),
                }
            }
            Error::TooLarge(_) => new(
                400,
                "InvalidArgument",
                "The metadata or the parts are more than an object can have.",
            ),
            _ => internal(&error),
        }
    }
}

fn part_refusal(refusal: uploads::Refusal) -> Refusal {
    let message = format!("{refusal}.");
    match refusal {
        uploads::Refusal::InvalidPart => Refusal::new(400, "InvalidPart", message),
        uploads::Refusal::InvalidPartOrder => Refusal::new(400, "InvalidPartOrder", message),
        uploads::Refusal::TooSmall => Refusal::new(400, "EntityTooSmall", message),
        uploads::Refusal::InvalidNumber => Refusal::argument(message),
        uploads::Refusal::NoParts => Refusal::new(400, "MalformedXML", message),
    }
}

fn internal(error: &Error) -> Refusal {
    log::error!("{}", chain(error));
    Refusal::new(
        500,
        "InternalError",
        "We encountered an internal error. Please try again.",
    )
}
