//! What is durable in the [journal](super::journal) and not in redb, as it is kept in memory: for readers, and to be
//! written into redb.
//!
//! * Of each group it is consecutive, and follows what redb has of it.
//! * It takes up no more than the journal does, beside what its entries' buffers hold beyond them: those that came from peers may
//!   hold eight times as much.
//! * It is of a limited number of groups, since each costs redb a page when all of it is brought there.
//! * It is added when it is durable, and taken away when redb has it: whoever looks here first, and then into redb, misses
//!   nothing, and may find something twice. What it follows says whether both are of the same moment.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use raft_core::{Entries, HardState, LogId, LogIndex};

use super::group::State;
use super::journal::Addition;

/// A group more is no longer for the journal: to bring them all into redb takes some milliseconds.
pub(super) const GROUPS_MAX: usize = 1024;

/// Of all groups.
#[derive(Clone, Debug, Default)]
pub(super) struct Pending(BTreeMap<u64, Tail>);

/// Of one group.
#[derive(Clone, Debug)]
pub(super) struct Tail {
    /// What redb has. The group's own, if it is in use.
    pub(super) state: Arc<Mutex<State>>,
    /// The last change that redb has.
    pub(super) follows: u64,
    /// Of its last change.
    pub(super) sequence: u64,
    pub(super) hard_state: HardState,
    /// One by one as they came; some may be all there is.
    pub(super) parts: Vec<Entries>,
}

impl Pending {
    pub(super) fn get(&self, group: u64) -> Option<&Tail> {
        self.0.get(&group)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, &Tail)> {
        self.0.iter().map(|(group, tail)| (*group, tail))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether there is room for changes to these groups.
    pub(super) fn has_room(&self, groups: &BTreeSet<u64>) -> bool {
        let more = groups.iter().filter(|group| !self.0.contains_key(group)).count();
        self.0.len() + more <= GROUPS_MAX
    }

    /// Adds a change of this sequence.
    pub(super) fn add(
        &mut self,
        sequence: u64,
        addition: Addition,
        state: impl FnOnce() -> Arc<Mutex<State>>,
    ) {
        let Addition { group, hard_state, entries } = addition;
        let new = || {
            let state = state();
            let follows = state.lock().unwrap_or_else(PoisonError::into_inner).sequence;
            Tail { state, follows, sequence, hard_state, parts: Vec::new() }
        };
        let tail = self.0.entry(group).or_insert_with(new);
        (tail.sequence, tail.hard_state) = (sequence, hard_state);
        if !entries.is_empty() {
            tail.parts.push(entries);
        }
    }

    /// All of it is durable in redb.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

impl Tail {
    /// The first entry.
    pub(super) fn first(&self) -> Option<LogIndex> {
        Some(self.parts.first()?.first()?.index)
    }

    /// The last entry.
    pub(super) fn last(&self) -> Option<LogId> {
        self.parts.last()?.last()
    }

    /// Entries between these, both included, of `bytes_max` or a little more.
    pub(super) fn read(&self, from: LogIndex, through: LogIndex, bytes_max: u64) -> Vec<Entries> {
        let begin = self.parts.partition_point(|part| part.last().is_none_or(|last| last.index < from));
        let (mut found, mut bytes) = (Vec::new(), 0);
        for part in &self.parts[begin..] {
            if part.first().is_none_or(|first| first.index > through) || (bytes >= bytes_max && bytes > 0) {
                break;
            }
            let part = part.slice(from, through);
            bytes += part.size_bytes();
            found.push(part);
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_room_for_a_limited_number_of_groups() {
        let mut pending = Pending::default();
        let add = |pending: &mut Pending, group: u64| {
            let addition = Addition { group, hard_state: HardState::default(), entries: Entries::empty() };
            pending.add(group + 1, addition, Arc::default);
        };
        let most = GROUPS_MAX as u64;
        (1..most).for_each(|group| add(&mut pending, group));
        assert!(pending.has_room(&[1, 2, most].into()));
        assert!(!pending.has_room(&[most, most + 1].into()));
        add(&mut pending, most);
        assert!(pending.has_room(&(1..=most).collect()), "of those that are there, any number");
        assert!(!pending.has_room(&[most + 1].into()));
        pending.clear();
        assert!(pending.has_room(&[most + 1].into()));
    }
}
