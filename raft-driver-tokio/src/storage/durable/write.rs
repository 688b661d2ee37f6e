//! What a transaction changes: entries appended and truncated, hard state, the log begun anew, old blocks dropped.
//!
//! * Whatever belongs together is one transaction: a crash leaves all of it or nothing.
//! * Compaction drops whole blocks from the front, a bounded number in each transaction, and looks at nothing else: it
//!   costs what is dropped.

use raft_core::{Entries, HardState, LogId, LogIndex, Write};
use redb::{ReadableTable, Table};

use super::error::DurableError;
use super::layout::{self, GROUP, Meta, Stamp};
use super::{blocks, key_value};

/// How many blocks one transaction drops. The rest is dropped by those that follow, so that no write waits for long.
const COMPACT_BLOCKS_MAX: usize = 1024;

/// What a batch comes to: its writes, one over the other.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) hard_state: Option<HardState>,
    /// Everything before is dropped, and the log begins behind this.
    reset: Option<LogId>,
    /// Consecutive. They replace the log from their first index on.
    parts: Vec<Entries>,
}

impl Plan {
    /// `ends` are those of the log now.
    pub(super) fn of(batch: &[Write], ends: Ends) -> Result<Self, DurableError> {
        let mut plan = Self::default();
        let Ends { mut base, last } = ends;
        for write in batch {
            plan.hard_state = write.hard_state.or(plan.hard_state);
            if let Some(reset) = write.reset_to {
                plan.reset = Some(reset);
                plan.parts.clear();
                base = reset;
            }
            let Some(first) = write.entries.first() else { continue };
            let end = plan.parts.last().and_then(Entries::last).or(plan.reset).unwrap_or(last);
            if first.index <= base.index || first.index > end.index.next() {
                return Err(DurableError::NotConsecutive { first, last: end });
            }
            while plan.parts.pop_if(|part| part.first().is_some_and(|id| id.index >= first.index)).is_some() {
            }
            if let Some(end) = plan.parts.last_mut() {
                *end = end.slice(LogIndex::ZERO, first.index.prev());
            }
            plan.parts.push(write.entries.clone());
        }
        Ok(plan)
    }

    /// Whether everything that there was is dropped.
    pub(super) const fn begins_anew(&self) -> bool {
        self.reset.is_some()
    }

    /// Whether nothing changes.
    pub(super) fn is_empty(&self) -> bool {
        self.hard_state.is_none() && self.reset.is_none() && self.parts.is_empty()
    }
}

/// Where the log begins and ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(super) struct Ends {
    /// The entry before the first.
    pub(super) base: LogId,
    /// The last entry; the base if there is none.
    pub(super) last: LogId,
}

/// What a transaction changes.
pub(super) struct Put<'t, 'db> {
    pub(super) table: &'t mut Table<'db, (u64, u64), &'static [u8]>,
    pub(super) stamp: Stamp,
    pub(super) incarnation: u64,
    /// Reused for every record.
    pub(super) buffer: &'t mut Vec<u8>,
}

impl Put<'_, '_> {
    /// Performs a batch, and goes on with a compaction. Says where the log begins and ends then.
    pub(super) fn write(
        &mut self,
        plan: Plan,
        mut ends: Ends,
        goal: Option<LogIndex>,
    ) -> Result<Ends, DurableError> {
        let before = ends;
        if let Some(base) = plan.reset {
            self.table.retain_in(blocks(LogIndex::FIRST), |_, _| false)?;
            ends = Ends { base, last: base };
        } else if let Some(goal) = goal {
            ends.base = self.drop_blocks(goal)?.unwrap_or(ends.base);
        }
        // The last block says what the hard state is, or the meta record where there is none.
        if ends.base != before.base || plan.parts.is_empty() {
            self.meta(ends.base)?;
        }
        self.entries(plan.parts, ends)
    }

    fn meta(&mut self, base: LogId) -> Result<(), DurableError> {
        let meta = Meta { incarnation: self.incarnation, base };
        layout::encode_meta(GROUP, self.stamp, meta, self.buffer);
        self.table.insert((GROUP, 0), self.buffer.as_slice())?;
        Ok(())
    }

    /// Drops blocks that end at or before `goal`, not all of them if they are many. Returns the last entry dropped.
    fn drop_blocks(&mut self, goal: LogIndex) -> Result<Option<LogId>, DurableError> {
        // A block ends where the next one begins: only the last one's record needs to be read.
        let mut dropped = None;
        let mut open = None;
        let starts = (GROUP, LogIndex::FIRST.get())..=(GROUP, goal.next().get());
        for block in self.table.range(starts)?.take(COMPACT_BLOCKS_MAX + 1) {
            dropped = open.replace(key_value(block)?.0).or(dropped);
        }
        let mut last = None;
        for start in [open, dropped].into_iter().flatten() {
            let value = self.table.get((GROUP, start.get()))?;
            let Some(value) = value else { continue };
            let end = layout::decode_header(GROUP, start, value.value())?.last;
            if end.index <= goal {
                last = Some((start, end));
                break;
            }
        }
        let Some((start, end)) = last else { return Ok(None) };
        self.table.retain_in((GROUP, LogIndex::FIRST.get())..=(GROUP, start.get()), |_, _| false)?;
        Ok(Some(end))
    }

    /// Replaces the log from the first entry's index on.
    fn entries(&mut self, parts: Vec<Entries>, mut ends: Ends) -> Result<Ends, DurableError> {
        let entries = Entries::join(parts)
            .map_err(|error| DurableError::NotConsecutive { first: error.next, last: error.after })?;
        let Some(first) = entries.first() else { return Ok(ends) };
        if first.index <= ends.last.index {
            ends.last = self.truncate(first.index, ends.base)?;
        }
        if first.term < ends.last.term {
            return Err(DurableError::NotConsecutive { first, last: ends.last });
        }
        ends.last = entries.last().unwrap_or(ends.last);
        self.blocks(entries)?;
        Ok(ends)
    }

    /// Drops every entry from `first` on. Says what the log ends with then.
    fn truncate(&mut self, first: LogIndex, base: LogId) -> Result<LogId, DurableError> {
        let mut kept = None;
        let mut before = base;
        if let Some(block) = self.table.range((GROUP, 1)..(GROUP, first.get()))?.next_back() {
            let (index, value) = key_value(block)?;
            before = layout::decode_header(GROUP, index, value.value())?.last;
            if before.index >= first {
                let entries = layout::decode_block(GROUP, index, value.value())?;
                kept = Some((index, entries.slice(index, first.prev())));
            }
        }
        self.table.retain_in(blocks(first), |_, _| false)?;
        if let Some((index, entries)) = kept {
            before = entries.last().unwrap_or(base);
            self.table.remove((GROUP, index.get()))?;
            self.blocks(entries)?;
        }
        Ok(before)
    }

    fn blocks(&mut self, entries: Entries) -> Result<(), DurableError> {
        for block in layout::cut(entries) {
            let Some(first) = block.first() else { continue };
            layout::encode_block(GROUP, self.stamp, &block, self.buffer);
            self.table.insert((GROUP, first.index.get()), self.buffer.as_slice())?;
        }
        Ok(())
    }
}
