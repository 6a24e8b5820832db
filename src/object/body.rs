//! Request bodies.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::BoxStream;

use super::error::Result;

/// A request body that can be sent again: a retry must send the same bytes.
#[derive(Clone)]
pub struct Body {
    len: u64,
    open: Arc<dyn Fn() -> BoxStream<'static, Result<Bytes>> + Send + Sync>,
}

impl Body {
    /// `open` is called for every attempt and yields exactly `len` bytes, the same each time.
    pub fn new(
        len: u64,
        open: impl Fn() -> BoxStream<'static, Result<Bytes>> + Send + Sync + 'static,
    ) -> Body {
        Body {
            len,
            open: Arc::new(open),
        }
    }

    pub fn from_bytes(bytes: impl Into<Bytes>) -> Body {
        let bytes = bytes.into();
        Body::new(bytes.len() as u64, move || {
            let bytes = bytes.clone();
            Box::pin(futures_util::stream::once(async move { Ok(bytes) }))
        })
    }

    pub fn empty() -> Body {
        Body::from_bytes(Bytes::new())
    }

    /// In bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn open(&self) -> BoxStream<'static, Result<Bytes>> {
        (self.open)()
    }
}
