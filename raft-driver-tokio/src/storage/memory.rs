//! A log in memory: for tests, benchmarks, and state that may be lost with the process.
//!
//! * Clones are the same log, so that a test can restart a node over what the node before it left.
//! * It never blocks for longer than a copy of a few reference counts, so it runs inline in the node's task.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use raft_core::host::{LogReader, LogStore};
use raft_core::{
    Entries, HardState, LogId, LogIndex, LogRecovery, LogScan, NotConsecutive, ScanError, Write,
};

/// A log in memory. One node at a time may run over it.
#[derive(Clone, Debug, Default)]
pub struct MemoryLog(Arc<Mutex<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    hard_state: HardState,
    /// The entry before the first one.
    base: LogId,
    /// Consecutive and never empty: as they were written, cut where a later write replaced their end.
    parts: Vec<Entries>,
}

/// The log was given something that does not fit to what it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MemoryLogError {
    /// Entries that begin beyond the log's end, or before its beginning.
    #[error("entries from index {first} do not fit to a log that ends at {last}")]
    Gap {
        /// The first of them.
        first: LogIndex,
        /// The log's last index.
        last: LogIndex,
    },
    /// What is kept does not follow each other.
    #[error(transparent)]
    NotConsecutive(#[from] NotConsecutive),
    /// What is kept contradicts itself.
    #[error(transparent)]
    Scan(#[from] ScanError),
}

impl MemoryLog {
    /// A log that knows the term and the vote of this one, and nothing else.
    pub(crate) fn vote_alone(&self) -> Self {
        let hard_state = self.kept().hard_state;
        Self(Arc::new(Mutex::new(Kept { hard_state, ..Kept::default() })))
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        // `Kept::write` cannot panic between two changes that belong together.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn last(&self) -> LogIndex {
        self.parts.last().and_then(Entries::last).unwrap_or(self.base).index
    }

    fn write(&mut self, write: &Write) -> Result<(), MemoryLogError> {
        if let Some(hard_state) = write.hard_state {
            self.hard_state = hard_state;
        }
        if let Some(base) = write.reset_to {
            self.reset(base);
        }
        self.append(&write.entries)
    }

    fn reset(&mut self, base: LogId) {
        self.parts.clear();
        self.base = base;
    }

    fn compact(&mut self, through: LogId) {
        if through.index <= self.base.index || through.index > self.last() {
            return;
        }
        let gone = self.parts.partition_point(|part| part.last().is_some_and(|id| id.index <= through.index));
        self.parts.drain(..gone);
        if let Some(part) = self.parts.first_mut() {
            *part = part.slice(through.index.next(), LogIndex::LIMIT);
        }
        self.base = through;
    }

    fn append(&mut self, entries: &Entries) -> Result<(), MemoryLogError> {
        let Some(first) = entries.first().map(|first| first.index) else { return Ok(()) };
        let last = self.last();
        if first <= self.base.index || first > last.next() {
            return Err(MemoryLogError::Gap { first, last });
        }
        if first <= last {
            let keep = self.parts.partition_point(|part| part.first().is_some_and(|id| id.index < first));
            self.parts.truncate(keep);
            if let Some(end) = self.parts.last_mut() {
                *end = end.slice(LogIndex::ZERO, first.prev());
            }
        }
        self.parts.push(entries.clone());
        Ok(())
    }

    fn read(&self, from: LogIndex, through: LogIndex, bytes_max: u64) -> Result<Entries, MemoryLogError> {
        if from <= self.base.index || from > through {
            return Ok(Entries::empty());
        }
        let skip = self.parts.partition_point(|part| part.last().is_some_and(|id| id.index < from));
        let mut found = Vec::new();
        let mut bytes = 0;
        for part in self.parts.get(skip..).unwrap_or(&[]) {
            let part = part.slice(from, through);
            if part.is_empty() || (bytes >= bytes_max && !found.is_empty()) {
                break;
            }
            bytes += part.size_bytes();
            found.push(part);
        }
        Ok(Entries::join(found)?.prefix(bytes_max))
    }
}

impl LogStore for MemoryLog {
    type Reader = MemoryReader;
    type Error = MemoryLogError;

    const MAY_BLOCK: bool = false;

    fn recover(&mut self) -> Result<LogRecovery, MemoryLogError> {
        let kept = self.kept();
        let mut scan = LogScan::default();
        scan.reset(kept.base);
        scan.hard_state(kept.hard_state)?;
        for part in &kept.parts {
            scan.entries(part)?;
        }
        Ok(scan.finish())
    }

    fn write(&mut self, batch: &[Write]) -> Result<(), MemoryLogError> {
        let mut kept = self.kept();
        batch.iter().try_for_each(|write| kept.write(write))
    }

    fn compact(&mut self, through: LogId) -> Result<(), MemoryLogError> {
        self.kept().compact(through);
        Ok(())
    }

    fn reader(&self) -> MemoryReader {
        MemoryReader(self.clone())
    }
}

/// Reads a [`MemoryLog`].
#[derive(Clone, Debug)]
pub struct MemoryReader(MemoryLog);

impl LogReader for MemoryReader {
    type Error = MemoryLogError;

    fn read(&self, from: LogIndex, through: LogIndex, bytes_max: u64) -> Result<Entries, MemoryLogError> {
        self.0.kept().read(from, through, bytes_max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use raft_core::{Commands, NodeId, Term};

    fn entries(term: u64, first: u64, count: u8) -> Entries {
        let commands = (0..count).map(|at| [at; 8]).collect::<Commands>();
        Entries::commands(LogId::new(Term::new(term), LogIndex::new(first)), &commands)
    }

    fn put(log: &MemoryLog, hard_state: Option<HardState>, entries: Entries) -> Result<(), MemoryLogError> {
        // `WriteId` is minted by nodes only, so writes are fed one layer below the trait.
        let mut kept = log.kept();
        if let Some(hard_state) = hard_state {
            kept.hard_state = hard_state;
        }
        kept.append(&entries)
    }

    #[test]
    fn a_suffix_is_replaced_and_a_clone_recovers_it() {
        let log = MemoryLog::default();
        let voted = HardState { term: Term::new(3), voted_for: Some(NodeId::new(2)) };
        put(&log, Some(voted), entries(1, 1, 10)).unwrap();
        put(&log, None, entries(1, 11, 10)).unwrap();
        put(&log, None, entries(3, 6, 2)).unwrap();
        let recovery = log.clone().recover().unwrap();
        assert_eq!(recovery.hard_state, voted);
        assert_eq!(recovery.last, LogId::new(Term::new(3), LogIndex::new(7)));
        assert_eq!(recovery.terms.len(), 2);
        let all = log.reader().read(LogIndex::FIRST, LogIndex::new(100), u64::MAX).unwrap();
        assert_eq!(all, Entries::join([entries(1, 1, 5), entries(3, 6, 2)]).unwrap());
    }

    #[test]
    fn what_is_left_of_a_removed_one_is_its_vote() {
        let log = MemoryLog::default();
        let voted = HardState { term: Term::new(3), voted_for: Some(NodeId::new(2)) };
        put(&log, Some(voted), entries(1, 1, 10)).unwrap();
        let found = log.vote_alone().recover().unwrap();
        assert_eq!((found.hard_state, found.base, found.last), (voted, LogId::ZERO, LogId::ZERO));
        assert_eq!(log.clone().recover().unwrap().last.index, LogIndex::new(10), "this one is whole");
    }

    #[test]
    fn reads_keep_to_their_bounds() {
        let log = MemoryLog::default();
        put(&log, None, entries(1, 1, 10)).unwrap();
        put(&log, None, entries(1, 11, 10)).unwrap();
        let read = |from: u64, through: u64, bytes_max| {
            let found = log.reader().read(LogIndex::new(from), LogIndex::new(through), bytes_max).unwrap();
            found.first().map(|first| (first.index.get(), found.len()))
        };
        assert_eq!(read(9, 12, u64::MAX), Some((9, 4)));
        assert_eq!(read(9, 12, 0), Some((9, 1)), "one entry at least");
        assert_eq!(read(21, 30, u64::MAX), None);
        assert_eq!(read(5, 4, u64::MAX), None);
    }

    #[test]
    fn what_is_compacted_is_gone_and_the_rest_goes_on() {
        let log = MemoryLog::default();
        put(&log, None, entries(1, 1, 10)).unwrap();
        put(&log, None, entries(2, 11, 10)).unwrap();
        let id = |term, index| LogId::new(Term::new(term), LogIndex::new(index));
        let mut store = log.clone();
        for through in [id(1, 4), id(1, 4), id(1, 2), id(9, 99)] {
            store.compact(through).unwrap();
        }
        let read = |from: u64| log.reader().read(LogIndex::new(from), LogIndex::new(30), u64::MAX).unwrap();
        assert!(read(4).is_empty());
        assert_eq!(read(5).len(), 16);
        let found = log.clone().recover().unwrap();
        assert_eq!((found.base, found.last, found.terms.len()), (id(1, 4), id(2, 20), 2));
        let gap = MemoryLogError::Gap { first: LogIndex::new(4), last: LogIndex::new(20) };
        assert_eq!(put(&log, None, entries(2, 4, 1)), Err(gap), "compacted entries are not written again");
        store.compact(id(2, 20)).unwrap();
        let found = log.clone().recover().unwrap();
        assert_eq!((found.base, found.last, found.terms.len()), (id(2, 20), id(2, 20), 0));
        put(&log, None, entries(2, 21, 1)).unwrap();

        // A reset goes on behind its base, wherever the log was.
        for base in [id(3, 50), id(4, 7)] {
            log.kept().reset(base);
            put(&log, None, entries(5, base.index.get() + 1, 2)).unwrap();
            let found = log.clone().recover().unwrap();
            assert_eq!((found.base, found.last), (base, id(5, base.index.get() + 2)));
        }
    }

    #[test]
    fn a_gap_is_refused() {
        let log = MemoryLog::default();
        put(&log, None, entries(1, 1, 2)).unwrap();
        let gap = MemoryLogError::Gap { first: LogIndex::new(4), last: LogIndex::new(2) };
        assert_eq!(put(&log, None, entries(1, 4, 1)), Err(gap));
    }
}
