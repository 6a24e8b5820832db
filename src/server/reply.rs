//! An answer on its way out.

use std::time::SystemTime;

use bytes::Bytes;
use futures_util::stream::BoxStream;
use hyper::header::{HeaderName, HeaderValue};

use crate::base::time;
use crate::store::error::Error;

pub struct Reply {
    pub status: u16,
    pub headers: Vec<(HeaderName, HeaderValue)>,
    pub body: Body,
}

pub enum Body {
    /// Whole; empty for answers without one.
    Bytes(Bytes),
    /// As many bytes as the number says.
    Stream(u64, BoxStream<'static, Result<Bytes, Error>>),
    /// None, though `Content-Length` tells of so many: the answer to a HEAD.
    Head(u64),
}

impl Reply {
    pub fn empty(status: u16) -> Reply {
        Reply {
            status,
            headers: Vec::new(),
            body: Body::Bytes(Bytes::new()),
        }
    }

    pub fn xml(document: String) -> Reply {
        let mut reply = Reply::empty(200);
        reply.body = Body::Bytes(document.into());
        reply.header("content-type", "application/xml");
        reply
    }

    pub fn json(document: &impl serde::Serialize) -> Reply {
        let mut reply = Reply::empty(200);
        reply.body = Body::Bytes(serde_json::to_vec(document).unwrap_or_default().into());
        reply.header("content-type", "application/json");
        reply
    }

    /// Leaves out what cannot be a header: such a value could only come from a damaged store.
    pub fn header(&mut self, name: &str, value: impl AsRef<[u8]>) {
        let name = HeaderName::from_bytes(name.as_bytes());
        let value = HeaderValue::from_bytes(value.as_ref());
        if let (Ok(name), Ok(value)) = (name, value) {
            self.headers.push((name, value));
        }
    }

    pub fn http_date(&mut self, name: &str, time: SystemTime) {
        self.header(name, time::http(time));
    }
}
