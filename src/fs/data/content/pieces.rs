//! Putting a read together that crosses parts.

use std::ops::Range;

use bytes::{Bytes, BytesMut};

/// The bytes of a read as they come together.
pub(super) struct Pieces {
    /// The next byte wanted.
    pub at: u64,
    len: usize,
    first: Bytes,
    /// Used when there is more than one piece. A crossing read copies each piece as it comes, so that
    /// it pins no part while it waits for another; reads are at most a MiB long.
    joined: BytesMut,
}

impl Pieces {
    pub(super) fn new(range: &Range<u64>) -> Pieces {
        Pieces {
            at: range.start,
            len: (range.end - range.start) as usize,
            first: Bytes::new(),
            joined: BytesMut::new(),
        }
    }

    pub(super) fn push(&mut self, bytes: Bytes) {
        self.at += bytes.len() as u64;
        if bytes.len() == self.len {
            self.first = bytes;
        } else {
            self.joined.reserve(self.len - self.joined.len());
            self.joined.extend_from_slice(&bytes);
        }
    }

    pub(super) fn join(self) -> Bytes {
        if self.first.is_empty() {
            self.joined.freeze()
        } else {
            self.first
        }
    }
}
