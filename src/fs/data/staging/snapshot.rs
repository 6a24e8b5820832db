//! What a staged file held at one moment, to be read as often as an upload needs.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};

use super::content::{Content, Piece, StagedPiece, zeros};
use crate::store;

/// Opens a range of the base object as plaintext: exactly the bytes of the range, in order.
pub type BaseReader =
    Arc<dyn Fn(Range<u64>) -> BoxStream<'static, Result<Bytes, store::error::Error>> + Send + Sync>;

/// Immutable; a clone is the same snapshot. Holds the blocks it was made of until it is dropped.
#[derive(Clone)]
pub struct Snapshot {
    pub(super) content: Arc<Content>,
    /// What may be read of it.
    pub(super) window: Range<u64>,
}

impl Snapshot {
    /// Of the whole file, in bytes.
    pub fn len(&self) -> u64 {
        self.content.len
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many bytes of the base object shine through at most.
    pub fn base(&self) -> u64 {
        self.content.base
    }

    /// What is read from the base object.
    pub fn base_gaps(&self) -> Vec<Range<u64>> {
        self.content.base_gaps(self.window.clone())
    }

    /// Whether any byte is read from the base object.
    pub fn needs_base(&self) -> bool {
        !self.base_gaps().is_empty()
    }

    /// All of it has gone up: when memory is short, its blocks are spilled before others.
    pub fn sent(&self) {
        self.content.area.sent(self.content.blocks.values());
    }

    /// `range`, cut at the end of the file and of what the snapshot covers, piece by piece.
    pub fn pieces(&self, range: Range<u64>) -> Vec<Piece> {
        self.content
            .pieces(range.start.max(self.window.start)..range.end.min(self.window.end))
    }

    /// The bytes of `range`, cut as [`Snapshot::pieces`] cuts it, in chunks of at most 1 MiB (what
    /// `base` yields is passed on as it comes). The same bytes each time. Bytes in memory are
    /// not copied; spilled ones are read when they are asked for. Drop a chunk before asking for
    /// the next: a chunk that was spilled holds memory of the slice kept for draining, which
    /// is a few MiB for everybody.
    ///
    /// # Errors
    /// Those of `base`, which is asked for each gap once, and `Corrupt` when it yields more or less
    /// than it was asked for; `Corrupt` when spilled bytes are damaged; `TimedOut` without memory.
    pub fn stream(
        &self,
        range: Range<u64>,
        base: Option<BaseReader>,
    ) -> BoxStream<'static, Result<Bytes, store::error::Error>> {
        stream::iter(self.pieces(range))
            .flat_map(move |piece| match piece {
                Piece::Staged(piece) => staged(piece),
                Piece::Zero(len) => zero(len),
                Piece::Base(range) => match &base {
                    Some(base) => exactly(base(range.clone()), range.end - range.start),
                    None => failed("a snapshot over an object was read without the object"),
                },
            })
            .boxed()
    }
}

type Chunks = BoxStream<'static, Result<Bytes, store::error::Error>>;

fn staged(piece: StagedPiece) -> Chunks {
    stream::unfold(Some(piece), |left| async move {
        let piece = left?;
        if let Some(bytes) = piece.read_now() {
            return Some((Ok(bytes), None));
        }
        let (first, rest) = piece.split();
        match first.read().await {
            Ok(bytes) => Some((Ok(bytes), rest)),
            Err(error) => Some((Err(error.into()), None)),
        }
    })
    .boxed()
}

fn zero(len: u64) -> Chunks {
    stream::unfold(len, |left| async move {
        if left == 0 {
            return None;
        }
        let chunk = zeros(left);
        let left = left - chunk.len() as u64;
        Some((Ok(chunk), left))
    })
    .boxed()
}

/// A base that ends early or late would shift everything after it.
fn exactly(chunks: Chunks, len: u64) -> Chunks {
    stream::unfold(Some((chunks, len)), |state| async move {
        let (mut chunks, left) = state?;
        match chunks.next().await {
            Some(Ok(chunk)) => match left.checked_sub(chunk.len() as u64) {
                Some(left) => Some((Ok(chunk), Some((chunks, left)))),
                None => Some((Err(corrupt("more")), None)),
            },
            Some(Err(error)) => Some((Err(error), None)),
            None if left == 0 => None,
            None => Some((Err(corrupt("less")), None)),
        }
    })
    .boxed()
}

fn corrupt(what: &str) -> store::error::Error {
    let text = format!("{what} bytes than asked for came from the object under a staged file");
    store::error::Error::Corrupt(Arc::new(std::io::Error::other(text)))
}

fn failed(text: &'static str) -> Chunks {
    let error = store::error::Error::other(std::io::Error::other(text));
    stream::once(async move { Err(error) }).boxed()
}
