//! The two lanes and the reads of the log: what is handed to the disk and to the state machine, and what they report
//! (DESIGN: the law of actions).
//!
//! * Entries are applied in order, without gaps, once, and only when committed and durable here.
//! * A write carries whatever waits by then, so group commit forms by itself.

use alloc::vec::Vec;

use super::Shared;
use crate::action::{Action, LogTask, MachineTask, Write};
use crate::entry::Entries;
use crate::error::Fatal;
use crate::ids::{LogIndex, NodeId, ReadId};

/// Reads of the log store that have not been answered.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(super) struct LogReads {
    next_id: u64,
    pending: Vec<LogRead>,
}

#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
struct LogRead {
    id: ReadId,
    reader: Reader,
    from: LogIndex,
    through: LogIndex,
}

/// Who asked for older entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(crate) enum Reader {
    /// The state machine is behind the tail.
    Machine,
    /// A peer is.
    Peer(NodeId),
}

impl Default for LogReads {
    fn default() -> Self {
        Self { next_id: 1, pending: Vec::new() }
    }
}

impl Shared {
    pub(crate) fn persisted(&mut self, id: crate::ids::WriteId) -> Result<(), Fatal> {
        self.disk.persisted(id, self.now)?;
        if !self.gated.is_empty() && self.disk.settled() {
            // Elections are rare: the list need not be kept.
            let gated = core::mem::take(&mut self.gated).into_iter().map(Action::Send);
            self.out.extend(gated);
        }
        self.answer_bootstraps();
        self.evict();
        Ok(())
    }

    pub(crate) fn applied(&mut self, index: LogIndex) -> Result<(), Fatal> {
        if index > self.apply_handed {
            return Err(Fatal::UnknownApplied(index, self.apply_handed));
        }
        self.last_applied = self.last_applied.max(index);
        self.applying.drain(index);
        Ok(())
    }

    /// Older entries arrived. Says for whom, unless nobody waits for them any more.
    pub(crate) fn log_read(
        &mut self,
        id: ReadId,
        result: Result<Entries, crate::event::LogReadError>,
    ) -> Result<Option<(Reader, Entries)>, Fatal> {
        let Some(at) = self.log_reads.pending.iter().position(|read| read.id == id) else {
            return Ok(None);
        };
        let read = self.log_reads.pending.remove(at);
        // Committed entries, and those of a leader's own log, are never truncated: what was asked for is there, or was
        // compacted since. What has not been applied is never compacted.
        let compacted = read.from <= self.log.terms.base().index;
        match result {
            _ if compacted => Ok(Some((read.reader, Entries::empty()))),
            Ok(entries) if self.log.is_own(&entries, read.from, read.through) => {
                Ok(Some((read.reader, entries)))
            }
            _ => Err(Fatal::LogMismatch(id, read.from)),
        }
    }

    /// The log of which these reads were is gone.
    pub(super) fn void_reads(&mut self) {
        self.log_reads.pending.clear();
    }

    /// Nobody waits for what was being read for peers.
    pub(crate) fn void_peer_reads(&mut self) {
        self.log_reads.pending.retain(|read| read.reader == Reader::Machine);
    }

    pub(crate) fn read_log(
        &mut self,
        reader: Reader,
        from: LogIndex,
        through: LogIndex,
        bytes_max: u64,
    ) -> Action {
        let read = ReadId::mint(self.log_reads.next_id);
        self.log_reads.next_id += 1;
        self.log_reads.pending.push(LogRead { id: read, reader, from, through });
        Action::ReadLog { read, from, through, bytes_max }
    }

    #[inline]
    fn is_reading_for_machine(&self) -> bool {
        self.log_reads.pending.iter().any(|read| read.reader == Reader::Machine)
    }

    /// Whether there is something to write and room for it among those in flight.
    pub(crate) fn has_write(&self) -> bool {
        let news = self.disk.handed() < self.log.last_index() || self.disk.has_unwritten_state();
        news && self.disk.inflight() < self.config.writes_inflight_max
    }

    /// The next write.
    #[inline(never)]
    pub(crate) fn next_write(&mut self) -> Action {
        assert!(self.has_write(), "something to write, and within the limit of writes in flight");
        let (mut hard_state, mut reset_to) = (None, None);
        if self.disk.has_unwritten_state() {
            (hard_state, reset_to) = (self.disk.unwritten_hard_state(), self.disk.unwritten_reset());
        }
        let (from, last) = (self.disk.handed().next(), self.log.last_index());
        let entries = self
            .log
            .slice(from, last, u64::MAX, self.config.write_bytes_max)
            .expect("entries that are not durable are in the tail");
        let id = self.disk.hand_out(entries.range().map(|range| *range.end()), self.now);
        Action::Log(LogTask::Write(Write { id, hard_state, reset_to, entries }))
    }

    /// Through where entries may be applied: committed and durable here, so that a crash of the whole cluster cannot
    /// take back what a client has seen applied (TRAP 22).
    fn appliable(&self) -> LogIndex {
        self.commit_index.min(self.disk.durable())
    }

    /// Whether there are entries for the state machine, and room for them.
    pub(crate) fn has_apply(&self) -> bool {
        self.apply_handed < self.appliable()
            && self.applying.bytes() < self.config.apply_bytes_max
            && !self.is_reading_for_machine()
    }

    /// The next entries for the state machine, or how to get them.
    #[inline(never)]
    pub(crate) fn next_apply(&mut self) -> Action {
        assert!(self.has_apply(), "one read of the machine's at a time, and within its limits");
        let (from, through) = (self.apply_handed.next(), self.appliable());
        match self.log.slice(from, through, u64::MAX, self.config.apply_bytes_max) {
            Some(entries) => self.apply(entries),
            None => self.read_to_apply(from, through),
        }
    }

    #[inline(never)]
    fn read_to_apply(&mut self, from: LogIndex, through: LogIndex) -> Action {
        let through = through.min(self.log.tail_first().prev());
        self.read_log(Reader::Machine, from, through, self.config.apply_bytes_max)
    }

    /// Hands entries to the state machine: in order, without gaps, once (State Machine Safety, §5.4.3).
    #[inline(always)]
    pub(crate) fn apply(&mut self, entries: Entries) -> Action {
        let range = entries.range().expect("a slice and a read are not empty");
        let (first, last) = (*range.start(), *range.end());
        assert!(first == self.apply_handed.next(), "entries are applied in order (§5.3)");
        assert!(last <= self.commit_index, "only committed entries are applied (§5.3)");
        self.apply_handed = last;
        let bytes = entries.size_bytes();
        self.applying.push(last, bytes);
        self.snapshots.applied(bytes);
        Action::Machine(MachineTask::Apply(entries))
    }
}
