//! The content of an upload, before it is encrypted.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt};

use crate::store::object_store::{ByteRange, Result};

type Open = dyn Fn(ByteRange) -> BoxStream<'static, Result<Bytes>> + Send + Sync;

/// Content that can be read again from any offset and is always the same: a snapshot of a staged file. If it
/// differs nevertheless, the upload detects that and refuses to send it.
#[derive(Clone)]
pub struct Plaintext {
    len: u64,
    open: Arc<Open>,
}

impl Plaintext {
    /// `open` yields exactly the bytes of the range, in chunks of any size. It is not called for an empty
    /// range. Chunks without other references are freed as they are consumed.
    pub fn new(
        len: u64,
        open: impl Fn(ByteRange) -> BoxStream<'static, Result<Bytes>> + Send + Sync + 'static,
    ) -> Plaintext {
        Plaintext {
            len,
            open: Arc::new(open),
        }
    }

    pub fn from_bytes(bytes: impl Into<Bytes>) -> Plaintext {
        let bytes = bytes.into();
        Plaintext::new(bytes.len() as u64, move |range| {
            // Ranges are inside `len`, which was converted from a usize.
            let piece = bytes.slice(range.start as usize..range.end as usize);
            stream::once(async move { Ok(piece) }).boxed()
        })
    }

    pub fn empty() -> Plaintext {
        Plaintext::from_bytes(Bytes::new())
    }

    /// In bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn open(&self, range: ByteRange) -> BoxStream<'static, Result<Bytes>> {
        if range.is_empty() {
            return stream::empty().boxed();
        }
        (self.open)(range)
    }
}

/// Prints nothing of the content.
impl fmt::Debug for Plaintext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Plaintext({} bytes)", self.len)
    }
}
