//! Blocks and windows on them: what an [`Entries`](super::Entries) is made of.
//!
//! * A block never changes once built; truncation only drops or narrows windows.
//! * A window is never empty.

use alloc::sync::Arc;
use core::ops::Range;

use super::commands::{Chunk, END_BYTES};
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
        let end = match &body {
            BlockBody::Commands(chunk) => chunk.count(),
            BlockBody::Noop | BlockBody::Membership(_) => 1,
        };
        assert!(
            first.index > LogIndex::ZERO && end > 0,
            "a block starts at index 1 or later and is not empty"
        );
        Self { block: Arc::new(Block { first, body }), start: 0, end }
    }

    pub(crate) fn term(&self) -> Term {
        self.block.first.term
    }

    pub(crate) fn first_index(&self) -> LogIndex {
        self.block.first.index.plus(u64::from(self.start))
    }

    pub(crate) fn last_index(&self) -> LogIndex {
        self.block.first.index.plus(u64::from(self.end) - 1)
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
    pub(crate) fn size_bytes(&self) -> u64 {
        BLOCK_BYTES
            + match &self.block.body {
                BlockBody::Noop => 0,
                BlockBody::Commands(chunk) => {
                    chunk.data(self.range()).len() as u64
                        + u64::from(self.end - self.start) * END_BYTES as u64
                }
                BlockBody::Membership(membership) => {
                    membership.nodes.values().map(|address| address.len() as u64 + 64).sum()
                }
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
            let cost = |end: u32| {
                chunk.data(self.start..end).len() as u64 + u64::from(end - self.start) * END_BYTES as u64
            };
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

    pub(super) fn entry(&self, at: u32) -> EntryRef<'_> {
        let id = LogId::new(self.term(), self.block.first.index.plus(u64::from(at)));
        match &self.block.body {
            BlockBody::Noop => EntryRef::Noop(id),
            BlockBody::Commands(chunk) => EntryRef::Command(id, chunk.command(at)),
            BlockBody::Membership(membership) => EntryRef::Membership(id, membership),
        }
    }
}
