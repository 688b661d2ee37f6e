//! Blocks and windows on them: what an [`Entries`](super::Entries) is made of.
//!
//! * A block never changes once built; truncation only drops or narrows windows.
//! * A window is never empty, and its indexes do not overflow.

use alloc::sync::Arc;
use core::ops::Range;
use core::slice;

use super::commands::{Chunk, ChunkCommands};
use super::{BLOCK_BYTES, EntryRef};
use crate::ids::{LogId, LogIndex, Term};
use crate::membership::Membership;

#[derive(Clone, Debug)]
pub(crate) enum BlockBody {
    Noop,
    Commands(Chunk),
    Membership(Arc<Membership>),
}

#[derive(Debug)]
pub(crate) struct Block {
    first: LogId,
    body: BlockBody,
    /// How many entries it has.
    count: u32,
    /// What it counts against limits: asked for at every step of an entry's way.
    size_bytes: u64,
}

/// The entries `[start, end)` of a block, counted within it. Never empty.
#[derive(Clone, Debug)]
pub(crate) struct Window {
    block: Arc<Block>,
    start: u32,
    end: u32,
}

impl Window {
    pub(crate) fn new(first: LogId, body: BlockBody) -> Self {
        let (count, payload_bytes) = match &body {
            BlockBody::Commands(chunk) => (chunk.count(), chunk.size_bytes(0..chunk.count())),
            BlockBody::Noop => (1, 0),
            BlockBody::Membership(membership) => {
                (1, membership.nodes.values().map(|address| address.len() as u64 + 64).sum())
            }
        };
        assert!(
            first.index > LogIndex::ZERO && count > 0,
            "a block starts at index 1 or later and is not empty"
        );
        assert!(first.index.get() <= u64::MAX - u64::from(count), "a block ends before the last index");
        let size_bytes = BLOCK_BYTES + payload_bytes;
        Self { block: Arc::new(Block { first, body, count, size_bytes }), start: 0, end: count }
    }

    pub(crate) fn term(&self) -> Term {
        self.block.first.term
    }

    pub(crate) fn first_index(&self) -> LogIndex {
        self.block.first.index.ahead(u64::from(self.start))
    }

    pub(crate) fn last_index(&self) -> LogIndex {
        self.block.first.index.ahead(u64::from(self.end) - 1)
    }

    pub(crate) fn first(&self) -> LogId {
        LogId::new(self.term(), self.first_index())
    }

    pub(crate) fn last(&self) -> LogId {
        LogId::new(self.term(), self.last_index())
    }

    pub(crate) fn body(&self) -> &BlockBody {
        &self.block.body
    }

    /// The window's range of commands within its block.
    pub(crate) fn range(&self) -> Range<u32> {
        self.start..self.end
    }

    pub(crate) fn len(&self) -> u64 {
        u64::from(self.end - self.start)
    }

    /// What the window counts against limits in bytes.
    #[inline]
    pub(crate) fn size_bytes(&self) -> u64 {
        if self.end - self.start == self.block.count { self.block.size_bytes } else { self.part_bytes() }
    }

    #[inline(never)]
    fn part_bytes(&self) -> u64 {
        match &self.block.body {
            BlockBody::Commands(chunk) => BLOCK_BYTES + chunk.size_bytes(self.range()),
            BlockBody::Noop | BlockBody::Membership(_) => self.block.size_bytes,
        }
    }

    /// The part of the window in `[from, through]`, if any.
    pub(crate) fn narrow(&self, from: LogIndex, through: LogIndex) -> Option<Self> {
        let first = from.max(self.first_index());
        let last = through.min(self.last_index());
        if first > last {
            return None;
        }
        let offset = |index: LogIndex| {
            u32::try_from(index.since(self.block.first.index)).expect("an index inside the block")
        };
        Some(Self { block: Arc::clone(&self.block), start: offset(first), end: offset(last) + 1 })
    }

    /// The longest beginning of the window with at most `bytes_max` bytes, one entry at least.
    pub(crate) fn prefix(&self, entries_max: u64, bytes_max: u64) -> Self {
        let count = u64::from(self.end - self.start).min(entries_max.max(1));
        let mut end = self.start + u32::try_from(count).expect("at most the window's own length");
        if let BlockBody::Commands(chunk) = &self.block.body {
            let room = bytes_max.saturating_sub(BLOCK_BYTES);
            let cost = |end: u32| chunk.size_bytes(self.start..end);
            if cost(end) > room {
                // The greatest end whose cost still fits; costs grow with the end.
                let (mut fits, mut too_many) = (self.start, end);
                while too_many - fits > 1 {
                    let middle = fits + (too_many - fits) / 2;
                    if cost(middle) <= room {
                        fits = middle;
                    } else {
                        too_many = middle;
                    }
                }
                end = fits.max(self.start + 1);
            }
        }
        Self { block: Arc::clone(&self.block), start: self.start, end }
    }

    /// Each entry in turn.
    fn entries(&self) -> WindowEntries<'_> {
        let first = self.first();
        match &self.block.body {
            BlockBody::Noop => WindowEntries::One(Some(EntryRef::Noop(first))),
            BlockBody::Membership(membership) => {
                WindowEntries::One(Some(EntryRef::Membership(first, membership)))
            }
            BlockBody::Commands(chunk) => WindowEntries::Commands(first, chunk.commands(self.range())),
        }
    }
}

/// The entries of consecutive windows.
pub(super) struct EntriesIter<'a> {
    current: WindowEntries<'a>,
    windows: slice::Iter<'a, Window>,
}

impl<'a> EntriesIter<'a> {
    pub(super) fn over(windows: &'a [Window]) -> Self {
        Self { current: WindowEntries::One(None), windows: windows.iter() }
    }
}

impl<'a> Iterator for EntriesIter<'a> {
    type Item = EntryRef<'a>;

    #[inline]
    fn next(&mut self) -> Option<EntryRef<'a>> {
        loop {
            if let Some(entry) = self.current.next() {
                return Some(entry);
            }
            self.current = self.windows.next()?.entries();
        }
    }
}

/// The entries of one window.
enum WindowEntries<'a> {
    One(Option<EntryRef<'a>>),
    /// The next one's place.
    Commands(LogId, ChunkCommands<'a>),
}

impl<'a> Iterator for WindowEntries<'a> {
    type Item = EntryRef<'a>;

    fn next(&mut self) -> Option<EntryRef<'a>> {
        match self {
            Self::Commands(next, commands) => {
                let id = *next;
                next.index = id.index.next();
                commands.next().map(|command| EntryRef::Command(id, command))
            }
            Self::One(entry) => entry.take(),
        }
    }
}
