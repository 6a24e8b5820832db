//! A file's content while it differs from its object.
//!
//! A write takes three steps on the fast path, on whatever thread it is called: each touched block
//! is looked at, memory for all of them is reserved at once, then bytes are copied, which cannot
//! fail. Until the last step nothing has changed, so a write that needs room it does not
//! get leaves the file as it was.

use std::ops::Range;
use std::sync::{Arc, Weak};

use bytes::Bytes;

use super::area::{StagingArea, blocking};
use super::block::{Block, Held, Taken};
use super::buffer::{Buffer, capacity};
use super::content::{Content, Piece};
use super::error::Error;
use super::ranges::RangeSet;
use super::snapshot::Snapshot;
use crate::fs::data::budget::Reservation;

/// A write could not be done at once: wait for [`StagedFile::room_for`], then
/// [`StagedFile::write_with`]. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NeedsRoom;

/// What a write needs: memory, and the content of touched blocks that were on disk.
pub struct Room {
    reservation: Reservation,
    /// More was asked for than the budget can ever give; what was given has to do.
    cut: bool,
    /// By generation of the block.
    sources: Vec<(u64, Source)>,
}

enum Source {
    /// Frozen while we hold it: the block of that generation holds these bytes, wherever it is.
    Frozen(Arc<Buffer>),
    /// A copy, read from disk, with room to grow as far as the write goes.
    Loaded(Buffer),
}

/// Bytes written over an optional base. Not Clone: see [`StagedFile::snapshot`].
pub struct StagedFile {
    id: u64,
    /// Shared with snapshots; a change after a snapshot copies the tables first, and then shares
    /// only blocks.
    content: Arc<Content>,
}

/// The part of a write that falls into one block.
struct Part {
    index: u64,
    /// In the block.
    within: Range<usize>,
    /// In the data.
    data: Range<usize>,
}

impl Part {
    fn covers(&self, len: usize) -> bool {
        self.within.start == 0 && self.within.end >= len
    }
}

/// What is to be done with a block.
enum Target {
    /// Written into as it is.
    Same(Taken),
    /// Replaced by a copy.
    Copy(Arc<Buffer>),
    /// Replaced by what was loaded.
    Loaded(Buffer),
    /// Nothing of it is kept, or there was none.
    New,
}

struct Job {
    part: Part,
    target: Target,
    capacity: usize,
}

impl StagedFile {
    /// `base`: so many bytes of an object are visible below what will be written.
    pub fn new(area: &Arc<StagingArea>, base: Option<u64>) -> StagedFile {
        let base = base.unwrap_or(0);
        StagedFile {
            id: area.new_file_id(),
            content: Arc::new(Content {
                area: area.clone(),
                len: base,
                base,
                written: RangeSet::default(),
                blocks: Default::default(),
            }),
        }
    }

    /// No two have the same.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// In bytes.
    pub fn len(&self) -> u64 {
        self.content.len
    }

    pub fn is_empty(&self) -> bool {
        self.content.len == 0
    }

    /// How many bytes of the base object are visible where nothing was written.
    pub fn base(&self) -> u64 {
        self.content.base
    }

    /// How many bytes have been written.
    pub fn staged_bytes(&self) -> u64 {
        self.content.written.total()
    }

    /// How many bytes from the start on have been written without a gap.
    pub fn written_prefix(&self) -> u64 {
        self.content.written.prefix()
    }

    /// Whether every byte of `range` has been written.
    pub fn is_written(&self, range: &Range<u64>) -> bool {
        self.content.written.covers(range)
    }

    /// The parts of `range` that are still read from the base: to take a base in whole, read these
    /// and write each of them.
    pub fn base_gaps(&self, range: Range<u64>) -> Vec<Range<u64>> {
        self.content.base_gaps(range)
    }

    /// Whether anything is read from the base.
    pub fn needs_base(&self) -> bool {
        !self.content.base_gaps(0..u64::MAX).is_empty()
    }

    /// Writes now, if memory can be had without waiting and no touched block is on disk. A gap
    /// between the end of the file and `offset` reads as zeros. `offset + data.len()` must not be
    /// above `u64::MAX`.
    pub fn try_write(&mut self, offset: u64, data: &[u8]) -> Result<(), NeedsRoom> {
        self.write(offset, data, None)
    }

    /// What [`StagedFile::write_with`] needs for such a write. Does not borrow the file; holds
    /// nothing while it waits.
    ///
    /// # Errors
    /// [`Error::NoSpace`], [`Error::TimedOut`], [`Error::Io`]; [`Error::Damaged`] when a touched
    /// block cannot be read back.
    pub fn room_for(
        &self,
        offset: u64,
        len: usize,
    ) -> impl Future<Output = Result<Room, Error>> + Send + use<> {
        let area = self.content.area.clone();
        let mut need = 0;
        let mut touched = Vec::new();
        for part in parts(area.block, offset, len) {
            let mut end = part.within.end;
            if let Some(block) = self.content.blocks.get(&part.index) {
                let len = block.len();
                end = end.max(len);
                if !part.covers(len) {
                    let capacity = capacity(area.block, part.index, end);
                    touched.push((Arc::downgrade(block), capacity));
                }
            }
            need += capacity(area.block, part.index, end) as u64;
        }
        make_room(area, need, touched)
    }

    /// As [`StagedFile::try_write`], with what was waited for. [`NeedsRoom`] when another write has
    /// changed the same blocks meanwhile: wait again.
    pub fn write_with(&mut self, offset: u64, data: &[u8], room: Room) -> Result<(), NeedsRoom> {
        self.write(offset, data, Some(room))
    }

    fn write(&mut self, offset: u64, data: &[u8], mut room: Option<Room>) -> Result<(), NeedsRoom> {
        if data.is_empty() {
            return Ok(());
        }
        let content = Arc::make_mut(&mut self.content);
        let area = content.area.clone();

        let mut need = 0;
        let mut jobs = Vec::with_capacity(2);
        for part in parts(area.block, offset, data.len()) {
            let job = plan(content, part, room.as_mut())?;
            need += job.capacity as u64;
            jobs.push(job);
        }

        let mut memory = match room {
            Some(room) if room.cut => room.reservation,
            Some(Room {
                mut reservation, ..
            }) => {
                let lacking = need.saturating_sub(reservation.bytes());
                reservation.absorb(area.try_take(lacking).ok_or(NeedsRoom)?);
                reservation
            }
            None => area.try_take(need).ok_or(NeedsRoom)?,
        };

        for Job {
            part,
            target,
            capacity,
        } in jobs
        {
            let data = &data[part.data];
            let mut buffer = match target {
                Target::Same(mut taken) => {
                    let buffer = taken.buffer();
                    if capacity > 0 {
                        let room = buffer.capacity() + capacity;
                        buffer.grow(room, memory.split(capacity as u64));
                    }
                    buffer.write(part.within.start, data);
                    continue;
                }
                Target::Loaded(mut buffer) => {
                    if capacity > 0 {
                        let room = buffer.capacity() + capacity;
                        buffer.grow(room, memory.split(capacity as u64));
                    }
                    buffer
                }
                Target::Copy(source) => {
                    let mut copy = area.pool.buffer(capacity, memory.split(capacity as u64));
                    copy.write(0, source.bytes());
                    copy
                }
                Target::New => area.pool.buffer(capacity, memory.split(capacity as u64)),
            };
            buffer.write(part.within.start, data);
            let block = area.adopt(self.id, part.index, buffer);
            content.blocks.insert(part.index, block);
        }
        let end = offset + data.len() as u64;
        content.written.insert(offset..end);
        content.len = content.len.max(end);
        area.mind_the_level();
        Ok(())
    }

    /// Cuts the file, or lets it grow by zeros. What is cut off of the base never comes back. Needs
    /// no memory.
    pub fn truncate(&mut self, len: u64) {
        if len == self.content.len {
            return;
        }
        let content = Arc::make_mut(&mut self.content);
        if len < content.len {
            let block = content.area.block as u64;
            content.base = content.base.min(len);
            content.written.cut(len);
            content.blocks.split_off(&len.div_ceil(block));
            // The last one may hold nothing any more.
            let last = len / block;
            let empty = content.written.within(last * block..len).next().is_none();
            if empty {
                content.blocks.remove(&last);
            }
        }
        content.len = len;
    }

    /// The whole content as it is now. Cheap; the next write copies the tables.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            content: self.content.clone(),
            window: 0..self.content.len,
        }
    }

    /// The content of `range` as it is now, for one part of a long upload: costs what the range
    /// costs, now and at the next write.
    pub fn snapshot_of(&self, range: Range<u64>) -> Snapshot {
        let from = &self.content;
        let window = range.start..range.end.min(from.len).max(range.start);
        let block = from.area.block as u64;
        let mut written = RangeSet::default();
        for part in from.written.within(window.clone()) {
            written.insert(part);
        }
        Snapshot {
            content: Arc::new(Content {
                area: from.area.clone(),
                len: from.len,
                base: from.base,
                written,
                blocks: from
                    .blocks
                    .range(
                        window.start / block..window.end.div_ceil(block).max(window.start / block),
                    )
                    .map(|(&index, block)| (index, block.clone()))
                    .collect(),
            }),
            window,
        }
    }

    /// `range`, cut at the end of the file, piece by piece. Pieces freeze their blocks: drop them
    /// before writing, or the write copies.
    pub fn pieces(&self, range: Range<u64>) -> Vec<Piece> {
        self.content.pieces(range)
    }

    /// The bytes of `range`, cut at the end of the file, if all of them are in memory or zeros.
    pub fn read_now(&self, range: Range<u64>) -> Option<Bytes> {
        self.content.read_now(range)
    }

    /// Moves all of the file to disk that can be; returns how many bytes of memory that freed. For
    /// files that have to wait long. Does not borrow the file.
    ///
    /// # Errors
    /// As [`StagingArea::spill`].
    pub fn spill(&self) -> impl Future<Output = Result<u64, Error>> + Send + use<> {
        let area = self.content.area.clone();
        let blocks = self.content.blocks.values().map(Arc::downgrade).collect();
        async move { area.spill_blocks(Some(blocks), u64::MAX).await }
    }
}

/// What is to be done for `part`; takes what it needs from `room`. `capacity` of the job is what a
/// new buffer needs, or what an old one lacks.
fn plan(content: &Content, part: Part, room: Option<&mut Room>) -> Result<Job, NeedsRoom> {
    let area = &content.area;
    let wanted = |end: usize| capacity(area.block, part.index, end);
    let lacking = |buffer: &Buffer| {
        let end = buffer.len().max(part.within.end);
        if buffer.capacity() >= end {
            0
        } else {
            wanted(end).saturating_sub(buffer.capacity())
        }
    };
    let (target, capacity) = match content.blocks.get(&part.index) {
        None => (Target::New, wanted(part.within.end)),
        Some(block) => {
            let source = room.and_then(|room| {
                let place = room
                    .sources
                    .iter()
                    .position(|(generation, _)| *generation == block.generation())?;
                Some(room.sources.swap_remove(place).1)
            });
            match source {
                Some(Source::Loaded(buffer)) => {
                    let capacity = lacking(&buffer);
                    (Target::Loaded(buffer), capacity)
                }
                Some(Source::Frozen(buffer)) if matches!(block.held(), Some(Held::Disk(_))) => {
                    let capacity = wanted(buffer.len().max(part.within.end));
                    (Target::Copy(buffer), capacity)
                }
                source => {
                    // Ours would make it shared.
                    drop(source);
                    if let Some(mut taken) = Block::take(block) {
                        let capacity = lacking(taken.buffer());
                        (Target::Same(taken), capacity)
                    } else {
                        match block.held().ok_or(NeedsRoom)? {
                            held if part.covers(held.len()) => {
                                (Target::New, wanted(part.within.end))
                            }
                            Held::Memory(buffer) => {
                                let capacity = wanted(buffer.len().max(part.within.end));
                                (Target::Copy(buffer), capacity)
                            }
                            Held::Disk(_) => return Err(NeedsRoom),
                        }
                    }
                }
            }
        }
    };
    Ok(Job {
        part,
        target,
        capacity,
    })
}

async fn make_room(
    area: Arc<StagingArea>,
    need: u64,
    touched: Vec<(Weak<Block>, usize)>,
) -> Result<Room, Error> {
    let mut reservation = area.take(need).await?;
    let cut = reservation.bytes() < need;
    let mut sources = Vec::new();
    let mut to_load = Vec::new();
    for (block, capacity) in touched {
        // One that is gone has been replaced; then `write_with` finds out.
        let Some(block) = block.upgrade() else {
            continue;
        };
        match block.held() {
            // Kept, in case it is spilled before the write comes.
            Some(Held::Memory(buffer)) => {
                sources.push((block.generation(), Source::Frozen(buffer)));
            }
            Some(Held::Disk(stored)) => {
                let capacity = capacity.max(stored.len());
                let buffer = area
                    .pool
                    .buffer(capacity, reservation.split(capacity as u64));
                to_load.push((block.generation(), stored, buffer));
            }
            None => {}
        }
    }
    if !to_load.is_empty() {
        let loaded = blocking(move || {
            let mut loaded = Vec::with_capacity(to_load.len());
            for (generation, stored, mut buffer) in to_load {
                stored.read(0..stored.len(), buffer.fill(stored.len()))?;
                loaded.push((generation, Source::Loaded(buffer)));
            }
            Ok(loaded)
        })
        .await?;
        sources.extend(loaded);
    }
    Ok(Room {
        reservation,
        cut,
        sources,
    })
}

/// `len` bytes at `offset`, block by block.
fn parts(block: usize, offset: u64, len: usize) -> impl Iterator<Item = Part> {
    let mut done = 0;
    std::iter::from_fn(move || {
        if done >= len {
            return None;
        }
        let at = offset + done as u64;
        let index = at / block as u64;
        let start = (at % block as u64) as usize;
        let take = (block - start).min(len - done);
        let part = Part {
            index,
            within: start..start + take,
            data: done..done + take,
        };
        done += take;
        Some(part)
    })
}
