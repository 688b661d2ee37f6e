//! What a driver finds on its disks at start, and how it is collected from the log's headers alone.

use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::action::{HardState, Write};
use crate::entry::{BlockBody, Entries};
use crate::ids::{LogId, LogIndex, Term};
use crate::membership::Membership;
use crate::snapshot::{SnapshotMeta, TermRun};

/// Everything that a node is started from.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Recovery {
    /// What the log store holds.
    pub log: LogRecovery,
    /// The newest complete snapshot in the snapshot store.
    pub snapshot: Option<Arc<SnapshotMeta>>,
    /// What the state machine itself holds durably; [`LogId::ZERO`] for one that lives in memory.
    pub applied: LogId,
    /// Differs at every start of this node, for ever: a counter kept on disk, the time, or a random number. Its
    /// random choices depend on it, and so do the names of its snapshots (which repeat where two incarnations differ
    /// by a multiple of 2^32) and of its questions to the leader, whose answers must not be taken for those of an
    /// earlier life (TRAP 55).
    pub incarnation: u64,
}

/// What a log store holds, without the payloads. Collected by a [`LogScan`].
#[derive(Clone, Debug, PartialEq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct LogRecovery {
    /// The stored hard state; the default if none was ever stored.
    pub hard_state: HardState,
    /// The entry before the first one stored.
    pub base: LogId,
    /// The last entry stored; equal to `base` if there is none.
    pub last: LogId,
    /// The runs of equal terms from `base.index + 1` through `last`.
    pub terms: Vec<TermRun>,
    /// Every configuration in the log, by index.
    pub memberships: Vec<(LogIndex, Arc<Membership>)>,
}

impl LogRecovery {
    /// The configuration that a node has in force which starts from this log and its newest snapshot; `None` if it was
    /// never part of a cluster. A log that does not hold the snapshot's last entry is going to be replaced by it.
    #[must_use]
    pub fn membership<'a>(&'a self, snapshot: Option<&'a SnapshotMeta>) -> Option<&'a Arc<Membership>> {
        let in_log = self.memberships.last();
        let Some(SnapshotMeta { id, membership, .. }) = snapshot else {
            return in_log.map(|(_, membership)| membership);
        };
        let is_held = self.term_at(id.last.index) == Some(id.last.term);
        let later = in_log.filter(|(index, _)| is_held && *index > id.last.index);
        Some(later.map_or(membership, |(_, membership)| membership))
    }

    /// The term of an entry of the log, or of the one before its first.
    pub(crate) fn term_at(&self, index: LogIndex) -> Option<Term> {
        if index == self.base.index {
            return Some(self.base.term);
        }
        if index < self.base.index || index > self.last.index {
            return None;
        }
        self.terms.iter().rev().find(|run| run.first <= index).map(|run| run.term)
    }
}

/// A store's records contradict each other: it must not be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScanError {
    /// Entries that do not follow what came before.
    #[error("the log has a gap: entries from {first} after {last}")]
    Gap {
        /// The first entry of the record.
        first: LogId,
        /// The log's last entry before it.
        last: LogId,
    },
    /// A term that falls along the log or across hard states.
    #[error("the term falls from {from} to {to}")]
    TermFalls {
        /// The earlier, greater term.
        from: Term,
        /// The later one.
        to: Term,
    },
}

/// Builds a [`LogRecovery`] from records in the order in which they were written, replacing suffixes as the
/// writes did. Memory grows with the number of terms and configurations, not of entries.
///
/// A store that already knows its surviving entries feeds those, each once.
#[derive(Clone, Debug, Default)]
pub struct LogScan {
    found: LogRecovery,
}

impl LogScan {
    /// The next write that was stored.
    ///
    /// # Errors
    /// If it cannot follow what was fed before.
    pub fn write(&mut self, write: &Write) -> Result<(), ScanError> {
        if let Some(hard_state) = write.hard_state {
            self.hard_state(hard_state)?;
        }
        if let Some(base) = write.reset_to {
            self.reset(base);
        }
        self.entries(&write.entries)
    }

    /// The next hard state that was stored.
    ///
    /// # Errors
    /// If the term falls.
    pub fn hard_state(&mut self, hard_state: HardState) -> Result<(), ScanError> {
        let before = self.found.hard_state.term;
        if hard_state.term < before {
            return Err(ScanError::TermFalls { from: before, to: hard_state.term });
        }
        self.found.hard_state = hard_state;
        Ok(())
    }

    /// The next entries that were stored: they replace the log from their first index onward.
    ///
    /// # Errors
    /// If they would leave a gap, or their term is below that of the entry before them.
    pub fn entries(&mut self, entries: &Entries) -> Result<(), ScanError> {
        for window in entries.windows() {
            self.run(window.first(), window.last_index())?;
            if let BlockBody::Membership(membership) = window.body() {
                self.found.memberships.push((window.first_index(), Arc::clone(membership)));
            }
        }
        Ok(())
    }

    /// A run of entries of one term that holds no configuration, known by its header alone.
    ///
    /// # Errors
    /// As for [`entries`](Self::entries).
    pub fn run(&mut self, first: LogId, last: LogIndex) -> Result<(), ScanError> {
        let found = &mut self.found;
        if first.index <= found.base.index || first.index > found.last.index.next() || last < first.index {
            return Err(ScanError::Gap { first, last: found.last });
        }
        while found.terms.pop_if(|run| run.first >= first.index).is_some() {}
        while found.memberships.pop_if(|(index, _)| *index >= first.index).is_some() {}
        let before = found.terms.last().map_or(found.base.term, |run| run.term);
        if first.term < before {
            return Err(ScanError::TermFalls { from: before, to: first.term });
        }
        if found.terms.last().is_none_or(|run| run.term != first.term) {
            found.terms.push(TermRun { term: first.term, first: first.index });
        }
        found.last = LogId::new(first.term, last);
        Ok(())
    }

    /// Everything was dropped, and the log begins anew behind `base`.
    pub fn reset(&mut self, base: LogId) {
        let hard_state = self.found.hard_state;
        self.found = LogRecovery { hard_state, base, last: base, ..LogRecovery::default() };
    }

    /// Entries through `through` were dropped: see [`LogTask::Compact`](crate::LogTask::Compact). What is at or before
    /// the log's base, or beyond its end, changes nothing.
    pub fn compact(&mut self, through: LogId) {
        let found = &mut self.found;
        if through.index <= found.base.index || through.index > found.last.index {
            return;
        }
        // The run that contains the new base goes on behind it.
        while found.terms.get(1).is_some_and(|next| next.first <= through.index.next()) {
            found.terms.remove(0);
        }
        if through.index == found.last.index {
            found.terms.clear();
        } else if let Some(run) = found.terms.first_mut() {
            run.first = run.first.max(through.index.next());
        }
        found.memberships.retain(|(index, _)| *index > through.index);
        found.base = through;
    }

    /// What the log holds now.
    #[must_use]
    pub fn last(&self) -> LogId {
        self.found.last
    }

    /// What was found.
    #[must_use]
    pub fn finish(self) -> LogRecovery {
        self.found
    }
}
