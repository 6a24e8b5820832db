//! What a staged file consists of: written bytes, what is left of its base, and zeros.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::area::StagingArea;
use super::block::{Block, Held};
use super::buffer::Buffer;
use super::error::Error;
use super::ranges::RangeSet;

/// Zeros for holes.
static ZEROS: [u8; 256 << 10] = [0; 256 << 10];

/// `len` zeros, or as many as one chunk has.
pub fn zeros(len: u64) -> Bytes {
    let len = usize::try_from(len).unwrap_or(usize::MAX).min(ZEROS.len());
    Bytes::from_static(&ZEROS[..len])
}

/// A part of a file's content that comes from one place.
#[derive(Clone)]
pub enum Piece {
    Staged(StagedPiece),
    /// These bytes of the base object.
    Base(Range<u64>),
    /// So many zeros.
    Zero(u64),
}

impl Piece {
    /// In bytes; never 0.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> u64 {
        match self {
            Piece::Staged(piece) => piece.range.len() as u64,
            Piece::Base(range) => range.end - range.start,
            Piece::Zero(len) => *len,
        }
    }
}

/// Staged bytes of one block. Frozen while this is held.
#[derive(Clone)]
pub struct StagedPiece {
    area: Arc<StagingArea>,
    block: Arc<Block>,
    range: Range<usize>,
}

impl StagedPiece {
    /// In bytes; never 0.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.range.len()
    }

    /// The bytes, without copying, if they are in memory.
    pub fn read_now(&self) -> Option<Bytes> {
        match self.block.held() {
            Some(Held::Memory(buffer)) => Some(slice(buffer, self.range.clone())),
            _ => None,
        }
    }

    /// As [`StagedPiece::read_now`], and how much memory of the budget the bytes hold while they live.
    pub fn read_with_memory(&self) -> Option<(Bytes, u64)> {
        match self.block.held() {
            Some(Held::Memory(buffer)) => {
                let reserved = buffer.reserved();
                Some((slice(buffer, self.range.clone()), reserved))
            }
            _ => None,
        }
    }

    /// The bytes. Those that come from disk hold memory of the budget until they are dropped.
    ///
    /// # Errors
    /// [`Error::Damaged`], [`Error::Io`]; [`Error::TimedOut`] without memory.
    pub async fn read(&self) -> Result<Bytes, Error> {
        match self.block.held() {
            Some(Held::Memory(buffer)) => Ok(slice(buffer, self.range.clone())),
            Some(Held::Disk(stored)) => self.area.load(stored, self.range.clone()).await,
            // Only a block without pieces is written into.
            None => Err(Error::Damaged),
        }
    }

    /// The first chunk of it, and the rest.
    pub(super) fn split(mut self) -> (StagedPiece, Option<StagedPiece>) {
        let middle = (self.range.start + 1).next_multiple_of(self.area.chunk());
        if middle >= self.range.end {
            return (self, None);
        }
        let rest = StagedPiece {
            range: middle..self.range.end,
            ..self.clone()
        };
        self.range.end = middle;
        (self, Some(rest))
    }
}

fn slice(buffer: Arc<Buffer>, range: Range<usize>) -> Bytes {
    struct Owner(Arc<Buffer>);
    impl AsRef<[u8]> for Owner {
        fn as_ref(&self) -> &[u8] {
            self.0.bytes()
        }
    }
    Bytes::from_owner(Owner(buffer)).slice(range)
}

/// Always: `base` and all of `written` are at most `len`; every written byte lies in a block, within
/// that block's bytes; no block lies wholly outside of what is written.
#[derive(Clone)]
pub(super) struct Content {
    pub area: Arc<StagingArea>,
    pub len: u64,
    /// So many bytes of the base object are visible where nothing was written.
    pub base: u64,
    pub written: RangeSet,
    /// By index.
    pub blocks: BTreeMap<u64, Arc<Block>>,
}

impl Content {
    /// `range`, cut at the end of the file, piece by piece.
    pub(super) fn pieces(&self, range: Range<u64>) -> Vec<Piece> {
        let end = range.end.min(self.len);
        let mut at = range.start;
        let mut pieces = Vec::new();
        if at >= end {
            return pieces;
        }
        let block = self.area.block as u64;
        for written in self.written.within(at..end) {
            self.push_gap(at..written.start, &mut pieces);
            at = written.start;
            while at < written.end {
                let index = at / block;
                let stop = written.end.min((index + 1) * block);
                let within = (at - index * block) as usize..(stop - index * block) as usize;
                let staged = self.blocks.get(&index).map(|block| StagedPiece {
                    area: self.area.clone(),
                    block: block.clone(),
                    range: within,
                });
                pieces.push(Piece::Staged(staged.expect("what is written has a block")));
                at = stop;
            }
        }
        self.push_gap(at..end, &mut pieces);
        pieces
    }

    fn push_gap(&self, gap: Range<u64>, pieces: &mut Vec<Piece>) {
        let base_end = gap.end.min(self.base).max(gap.start);
        if gap.start < base_end {
            pieces.push(Piece::Base(gap.start..base_end));
        }
        if base_end < gap.end {
            pieces.push(Piece::Zero(gap.end - base_end));
        }
    }

    /// See [`StagedFile::read_now`](super::StagedFile::read_now).
    pub(super) fn read_now(&self, range: Range<u64>) -> Option<Bytes> {
        let pieces = self.pieces(range);
        if let [Piece::Staged(only)] = &pieces[..] {
            return only.read_now();
        }
        let mut parts = Vec::with_capacity(pieces.len());
        let mut total = 0;
        for piece in &pieces {
            parts.push(match piece {
                Piece::Staged(piece) => Some(piece.read_now()?),
                Piece::Base(_) => return None,
                Piece::Zero(_) => None,
            });
            total += piece.len();
        }
        let mut all = BytesMut::with_capacity(usize::try_from(total).ok()?);
        for (piece, part) in pieces.iter().zip(parts) {
            match part {
                Some(bytes) => all.extend_from_slice(&bytes),
                None => all.resize(all.len() + piece.len() as usize, 0),
            }
        }
        Some(all.freeze())
    }

    /// The parts of `range` that would be read from the base.
    pub(super) fn base_gaps(&self, range: Range<u64>) -> Vec<Range<u64>> {
        let end = range.end.min(self.base);
        let mut at = range.start;
        let mut gaps = Vec::new();
        if at >= end {
            return gaps;
        }
        for written in self.written.within(at..end) {
            if at < written.start {
                gaps.push(at..written.start);
            }
            at = written.end;
        }
        if at < end {
            gaps.push(at..end);
        }
        gaps
    }
}
