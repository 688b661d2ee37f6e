//! What a change does to its group: entries appended and truncated, hard state, the log begun anew, old blocks
//! dropped, the group removed.
//!
//! * Whatever belongs together is within one transaction: a crash leaves all of it or nothing.
//! * A change that the group's log does not allow changes nothing, so that it harms no other group of the transaction.
//! * Compaction drops whole blocks from the front, a bounded number in each transaction, and looks at nothing else: it
//!   costs what is dropped.

use raft_core::{Entries, HardState, LogId, LogIndex, Write};
use redb::{ReadableTable, Table};

use super::error::DurableError;
use super::group::State;
use super::layout::{self, Meta, Stamp};
use super::read::{blocks, key_value};

/// How many blocks of a removed group one transaction drops. The rest is dropped by those that follow.
const REMOVE_BLOCKS_MAX: usize = 1024;

/// How many blocks a write drops that goes on with a compaction: a millisecond or two. A write of many blocks drops twice
/// as many, so that a log that is written without a pause does not grow.
const COMPACT_BLOCKS: usize = 64;

/// What is to be done to a group's log.
#[derive(Clone, Copy, Debug)]
pub(super) enum Change<'a> {
    Write(&'a [Write]),
    /// What the journal holds of the group: the hard state, and entries that follow the log's last.
    Journaled(HardState, &'a [Entries]),
    /// Dropping entries through this.
    Compact(LogId),
    /// A step of it: there is more to do while the group has a goal.
    Remove,
}

/// What a batch comes to: its writes, one over the other.
#[derive(Debug, Default)]
struct Plan {
    hard_state: Option<HardState>,
    /// Everything before is dropped, and the log begins behind this.
    reset: Option<LogId>,
    /// Consecutive. They replace the log from their first index on.
    parts: Vec<Entries>,
}

impl Plan {
    /// `ends` are those of the log now.
    fn of(batch: &[Write], ends: Ends) -> Result<Self, DurableError> {
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

    /// Whether nothing changes.
    fn is_empty(&self) -> bool {
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

/// Makes a change within a transaction.
pub(super) struct Put<'t, 'db> {
    pub(super) table: &'t mut Table<'db, (u64, u64), &'static [u8]>,
    pub(super) group: u64,
    /// Of this change.
    pub(super) sequence: u64,
    /// Reused for every record.
    pub(super) buffer: &'t mut Vec<u8>,
}

/// What stays of a log that is cut.
struct Cut {
    /// What the log ends with then.
    last: LogId,
    /// What is left of the block that is cut, and where it begins.
    kept: Option<(LogIndex, Entries)>,
}

impl Put<'_, '_> {
    /// Whether there was anything to do. After an error that is not [`DurableError::NotConsecutive`] the transaction
    /// must not be committed.
    pub(super) fn change(&mut self, state: &mut State, change: Change<'_>) -> Result<bool, DurableError> {
        match change {
            Change::Write(batch) => {
                let plan = Plan::of(batch, state.ends)?;
                if plan.is_empty() {
                    return Ok(false);
                }
                self.write(plan, state)?;
            }
            Change::Journaled(hard_state, entries) => {
                let (first, last) = (entries.first().and_then(Entries::first), state.ends.last);
                if first.is_some_and(|first| first.index != last.index.next()) {
                    return Err(DurableError::Damaged(format!("its journal does not follow {last}")));
                }
                let plan = Plan { hard_state: Some(hard_state), reset: None, parts: entries.to_vec() };
                self.write(plan, state)?;
            }
            Change::Compact(through) => {
                let Ends { base, last } = state.ends;
                if through.index <= base.index || through.index > last.index {
                    return Ok(false);
                }
                state.goal = Some(state.goal.map_or(through.index, |goal| goal.max(through.index)));
                // What this transaction leaves is dropped by the writes that follow.
                self.write(Plan::default(), state)?;
            }
            Change::Remove => self.remove(state)?,
        }
        Ok(true)
    }

    /// Performs a batch, and goes on with a compaction.
    fn write(&mut self, plan: Plan, state: &mut State) -> Result<(), DurableError> {
        let Plan { hard_state, reset, parts } = plan;
        let stamp = self.stamp(hard_state.unwrap_or(state.hard_state));
        let not_consecutive = |first, last| DurableError::NotConsecutive { first, last };
        let entries = Entries::join(parts).map_err(|error| not_consecutive(error.next, error.after))?;
        let before = state.ends;
        let mut ends = reset.map_or(before, |base| Ends { base, last: base });
        let mut cut = None;
        if let Some(first) = entries.first() {
            if first.index <= ends.last.index {
                cut = Some(self.cut(first.index, ends.base)?);
            }
            let last = cut.as_ref().map_or(ends.last, |cut| cut.last);
            if first.term < last.term {
                return Err(not_consecutive(first, last));
            }
        }

        let mut goal = state.goal;
        if reset.is_some() {
            self.table.retain_in(blocks(self.group, LogIndex::FIRST), |_, _| false)?;
            goal = None;
        } else if let Some(through) = goal {
            let written = layout::cut(entries.clone()).count();
            ends.base = self.drop_blocks(through, COMPACT_BLOCKS.max(2 * written))?.unwrap_or(ends.base);
            // It is reached, or lies within the block that is first now.
            goal = goal.filter(|goal| ends.base != before.base && ends.base.index < *goal);
        }
        // The last block says what the hard state is, or the meta record where there is none.
        if ends.base != before.base || entries.is_empty() || !state.is_stored {
            self.meta(stamp, Meta { base: ends.base, is_removed: false })?;
        }
        if let (Some(cut), Some(first)) = (cut, entries.first()) {
            ends.last = cut.last;
            self.table.retain_in(blocks(self.group, first.index), |_, _| false)?;
            if let Some((index, kept)) = cut.kept {
                self.table.remove((self.group, index.get()))?;
                self.blocks(stamp, kept)?;
            }
        }
        ends.last = entries.last().unwrap_or(ends.last);
        self.blocks(stamp, entries)?;
        let Stamp { sequence, hard_state } = stamp;
        *state = State { sequence, hard_state, ends, goal, is_stored: true };
        Ok(())
    }

    /// Begins to remove the group, or goes on.
    fn remove(&mut self, state: &mut State) -> Result<(), DurableError> {
        let stamp = self.stamp(state.hard_state);
        self.meta(stamp, Meta { base: LogId::ZERO, is_removed: true })?;
        let starts: Vec<LogIndex> = self
            .table
            .range(blocks(self.group, LogIndex::FIRST))?
            .take(REMOVE_BLOCKS_MAX + 1)
            .map(|block| Ok(key_value(block)?.0))
            .collect::<Result<_, DurableError>>()?;
        if let Some(start) = starts.get(..starts.len().min(REMOVE_BLOCKS_MAX)).and_then(<[_]>::last) {
            self.drop_through(*start)?;
        }
        let goal = (starts.len() > REMOVE_BLOCKS_MAX).then_some(LogIndex::LIMIT);
        let Stamp { sequence, hard_state } = stamp;
        *state = State { sequence, hard_state, ends: Ends::default(), goal, is_stored: false };
        Ok(())
    }

    const fn stamp(&self, hard_state: HardState) -> Stamp {
        Stamp { sequence: self.sequence, hard_state }
    }

    fn meta(&mut self, stamp: Stamp, meta: Meta) -> Result<(), DurableError> {
        layout::encode_meta(self.group, stamp, meta, self.buffer);
        self.table.insert((self.group, 0), self.buffer.as_slice())?;
        Ok(())
    }

    /// Drops blocks that end at or before `goal`, so many at most. Returns the last entry dropped.
    fn drop_blocks(&mut self, goal: LogIndex, blocks_max: usize) -> Result<Option<LogId>, DurableError> {
        // A block ends where the next one begins: only the last one's record needs to be read.
        let mut dropped = None;
        let mut open = None;
        let starts = (self.group, LogIndex::FIRST.get())..=(self.group, goal.next().get());
        for block in self.table.range(starts)?.take(blocks_max) {
            dropped = open.replace(key_value(block)?.0).or(dropped);
        }
        let mut last = None;
        for start in [open, dropped].into_iter().flatten() {
            let value = self.table.get((self.group, start.get()))?;
            let Some(value) = value else { continue };
            let end = layout::decode_header(self.group, start, value.value())?.last;
            if end.index <= goal {
                last = Some((start, end));
                break;
            }
        }
        let Some((start, end)) = last else { return Ok(None) };
        self.drop_through(start)?;
        Ok(Some(end))
    }

    /// Drops the blocks that begin at or before `start`.
    fn drop_through(&mut self, start: LogIndex) -> Result<(), DurableError> {
        let dropped = (self.group, LogIndex::FIRST.get())..=(self.group, start.get());
        Ok(self.table.retain_in(dropped, |_, _| false)?)
    }

    /// What dropping every entry from `first` on leaves. Changes nothing.
    fn cut(&self, first: LogIndex, base: LogId) -> Result<Cut, DurableError> {
        let before = (self.group, LogIndex::FIRST.get())..(self.group, first.get());
        let Some(block) = self.table.range(before)?.next_back() else {
            return Ok(Cut { last: base, kept: None });
        };
        let (index, value) = key_value(block)?;
        let last = layout::decode_header(self.group, index, value.value())?.last;
        if last.index < first {
            return Ok(Cut { last, kept: None });
        }
        let kept = layout::decode_block(self.group, index, value.value())?.slice(index, first.prev());
        Ok(Cut { last: kept.last().unwrap_or(base), kept: Some((index, kept)) })
    }

    fn blocks(&mut self, stamp: Stamp, entries: Entries) -> Result<(), DurableError> {
        for block in layout::cut(entries) {
            let Some(first) = block.first() else { continue };
            layout::encode_block(self.group, stamp, &block, self.buffer);
            self.table.insert((self.group, first.index.get()), self.buffer.as_slice())?;
        }
        Ok(())
    }
}
