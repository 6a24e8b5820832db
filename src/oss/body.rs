//! A request's body: bytes that can be sent again, the same each time.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::BoxStream;

use crate::base::error_chain::Cause;

/// Cheap to clone.
#[derive(Clone)]
pub struct Body {
    len: u64,
    open: Arc<dyn Fn() -> BoxStream<'static, Result<Bytes, Cause>> + Send + Sync>,
}

impl Body {
    /// `open` is called for every attempt and yields exactly `len` bytes, the same each time.
    pub fn new(
        len: u64,
        open: impl Fn() -> BoxStream<'static, Result<Bytes, Cause>> + Send + Sync + 'static,
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

    /// In bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn open(&self) -> BoxStream<'static, Result<Bytes, Cause>> {
        (self.open)()
    }
}
