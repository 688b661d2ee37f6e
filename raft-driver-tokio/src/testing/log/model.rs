//! What a log is, told naively, and what a crash may leave of it.

use raft_core::{HardState, LogId, LogIndex, Write};

use crate::testing::entries::{Entry, owned};

/// A log as a list.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Log {
    pub(super) hard_state: HardState,
    /// The entry before the list's first. The store's own base is there or, up to `goal`, behind.
    pub(super) base: LogId,
    /// The last index that was ever to be dropped.
    pub(super) goal: LogIndex,
    pub(super) entries: Vec<Entry>,
}

/// What a start found.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Found {
    pub(super) hard_state: HardState,
    pub(super) base: LogId,
    pub(super) entries: Vec<Entry>,
}

impl Log {
    pub(super) fn last(&self) -> LogId {
        self.entries.last().map_or(self.base, |entry| entry.id)
    }

    /// The identity of the entry at `index`, the base's included.
    pub(super) fn id_at(&self, index: LogIndex) -> Option<LogId> {
        let distance = index.get().checked_sub(self.base.index.get())?;
        match usize::try_from(distance).ok()?.checked_sub(1) {
            None => Some(self.base),
            Some(at) => self.entries.get(at).map(|entry| entry.id),
        }
    }

    /// Entries behind `index`, which is not before the base.
    pub(super) fn behind(&self, index: LogIndex) -> &[Entry] {
        let skip = usize::try_from(index.since(self.base.index)).unwrap_or(usize::MAX);
        self.entries.get(skip..).unwrap_or_default()
    }

    pub(super) fn apply(&mut self, write: &Write) {
        self.hard_state = write.hard_state.unwrap_or(self.hard_state);
        self.begin(write);
        self.entries.extend(owned(&write.entries));
    }

    /// Everything of the write but the hard state and the new entries.
    fn begin(&mut self, write: &Write) {
        if let Some(base) = write.reset_to {
            self.reset(base);
        }
        if let Some(first) = write.entries.first() {
            self.entries.retain(|entry| entry.id.index < first.index);
        }
    }

    fn reset(&mut self, base: LogId) {
        self.entries.clear();
        (self.base, self.goal) = (base, base.index);
    }

    /// Everything through `index` is gone for good.
    pub(super) fn forget(&mut self, index: LogIndex) {
        if let Some(base) = self.id_at(index) {
            self.entries.retain(|entry| entry.id.index > index);
            self.base = base;
        }
    }

    pub(super) fn is(&self, found: &Found) -> bool {
        let base = found.base.index;
        self.hard_state == found.hard_state
            && (self.base.index..=self.goal.max(self.base.index)).contains(&base)
            && self.id_at(base) == Some(found.base)
            && self.behind(base) == found.entries
    }

    /// The same log as it was found: `goal` stays, since a store may remember it.
    pub(super) fn settle(&mut self, found: Found) {
        let Found { hard_state, base, entries } = found;
        let goal = self.goal.max(base.index);
        *self = Self { hard_state, base, goal, entries };
    }
}

/// What may be found after a crash.
#[derive(Debug)]
pub(super) struct Allowed {
    /// Any of these, with any number of the entries that follow each.
    stages: Vec<(Log, Vec<Entry>)>,
}

impl Allowed {
    /// Exactly this one.
    pub(super) fn exactly(log: &Log) -> Self {
        Self { stages: vec![(log.clone(), Vec::new())] }
    }

    /// A prefix of the writes, the last one cut within its parts.
    pub(super) fn prefixes(before: &Log, writes: &[Write]) -> Self {
        let mut stages = vec![(before.clone(), Vec::new())];
        let mut log = before.clone();
        for write in writes {
            log.hard_state = write.hard_state.unwrap_or(log.hard_state);
            stages.push((log.clone(), Vec::new()));
            if let Some(base) = write.reset_to {
                log.reset(base);
                stages.push((log.clone(), Vec::new()));
            }
            log.begin(&Write { reset_to: None, ..write.clone() });
            stages.push((log.clone(), owned(&write.entries)));
            log.entries.extend(owned(&write.entries));
        }
        Self { stages }
    }

    /// The state that was found, if it is one of these.
    pub(super) fn find(&self, found: &Found) -> Option<Log> {
        let through = found.base.index.plus(found.entries.len() as u64);
        self.stages.iter().rev().find_map(|(log, more)| {
            // As many of the entries that follow as were found.
            let count = usize::try_from(through.since(log.last().index)).unwrap_or(usize::MAX);
            let mut log = log.clone();
            log.entries.extend_from_slice(&more[..count.min(more.len())]);
            log.is(found).then_some(log)
        })
    }

    pub(super) fn logs(&self) -> impl Iterator<Item = &Log> {
        self.stages.iter().map(|(log, _)| log)
    }

    /// Every entry that may be there.
    pub(super) fn has(&self, entry: &Entry) -> bool {
        self.stages.iter().any(|(log, more)| log.entries.contains(entry) || more.contains(entry))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::entries::{commands, id, write_id};
    use raft_core::Term;

    fn found(log: &Log) -> Found {
        Found { hard_state: log.hard_state, base: log.base, entries: log.entries.clone() }
    }

    #[test]
    fn a_crash_cuts_a_write_within_its_parts_and_in_their_order() {
        let mut before = Log::default();
        let hard_state = |term| Some(HardState { term: Term::new(term), voted_for: None });
        let entries = commands(id(1, 1), 5, 10);
        before.apply(&Write { id: write_id(1), hard_state: hard_state(1), reset_to: None, entries });
        let entries = commands(id(2, 3), 4, 10);
        let next = Write { id: write_id(2), hard_state: hard_state(2), reset_to: None, entries };
        let allowed = Allowed::prefixes(&before, std::slice::from_ref(&next));
        let mut after = before.clone();
        after.apply(&next);
        let mut candidates = vec![found(&before), found(&after)];
        candidates.push(Found { hard_state: after.hard_state, ..found(&before) });
        for kept in 2..6 {
            candidates.push(Found { entries: after.entries[..kept].to_vec(), ..found(&after) });
        }
        for candidate in &candidates {
            assert!(allowed.find(candidate).is_some(), "{candidate:?}");
        }
        for kept in [0, 1] {
            let lost = Found { entries: after.entries[..kept].to_vec(), ..found(&after) };
            assert!(allowed.find(&lost).is_none(), "{lost:?}");
        }
        let early = Found { hard_state: before.hard_state, ..found(&after) };
        assert!(allowed.find(&early).is_none(), "entries before the hard state");
        assert!(Allowed::exactly(&after).find(&found(&before)).is_none());
    }

    #[test]
    fn a_base_may_be_anywhere_up_to_the_goal() {
        let mut log = Log::default();
        let entries = commands(id(1, 1), 5, 10);
        log.apply(&Write { id: write_id(1), hard_state: None, reset_to: None, entries });
        log.goal = LogIndex::new(3);
        for base in 0..6 {
            let mut dropped = log.clone();
            dropped.forget(LogIndex::new(base));
            assert_eq!(log.is(&found(&dropped)), base <= 3, "{base}");
        }
        let mut wrong = found(&log);
        wrong.base = id(2, 0);
        assert!(!log.is(&wrong));
    }
}
