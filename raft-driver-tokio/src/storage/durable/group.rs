//! The groups of a store that are in use, and what is known of them.
//!
//! * A group is used once at a time. What is known of it in memory is that of the last change, and lives as long as
//!   somebody uses it, or a part of it is in the journal: other groups cost no memory.
//! * What a group's log does not allow is the last call of that group.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use raft_core::{Entries, HardState, LogIndex, Write};
use redb::{Database, ReadableDatabase};

use super::engine::Shared;
use super::error::{DurableError, GroupError};
use super::journal::Addition;
use super::layout::{LOG, Stamp};
use super::pending::Tail;
use super::read::Found;
use super::write::{Change, Ends, Put};
use crate::GroupId;

/// A group that is in use, until its log, its readers and its changes under way are dropped.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) id: u64,
    pub(super) state: Arc<Mutex<State>>,
    /// Why this group alone does not work any more.
    failed: OnceLock<Arc<str>>,
    shared: Arc<Shared>,
}

/// What redb has of a group, as of the last change that was brought there.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct State {
    /// Of that change.
    pub(super) sequence: u64,
    pub(super) hard_state: HardState,
    pub(super) ends: Ends,
    /// Blocks through here are still to be dropped.
    pub(super) goal: Option<LogIndex>,
    /// Whether it has a meta record that says that it exists.
    pub(super) is_stored: bool,
}

impl State {
    /// Of what its records say.
    pub(super) fn of(found: Option<Found>) -> Self {
        let Some(Found { stamp, meta, ends }) = found else { return Self::default() };
        // Of one that was removed, only the hard state is left.
        let ends = if meta.is_removed { Ends::default() } else { ends };
        let Stamp { sequence, hard_state } = stamp;
        Self { sequence, hard_state, ends, goal: None, is_stored: !meta.is_removed }
    }
}

impl Group {
    /// Begins to use a group, whether it has anything stored or not.
    pub(super) fn open(shared: &Arc<Shared>, group: GroupId) -> Result<Arc<Self>, GroupError> {
        let id = group.get();
        if !shared.used().insert(id) {
            return Err(GroupError::InUse { group });
        }
        // From here on dropping it ends the use.
        let state = Arc::default();
        let mut opened = Self { id, state, failed: OnceLock::new(), shared: Arc::clone(shared) };
        let waiting = shared.pending().get(id).map(|tail| Arc::clone(&tail.state));
        opened.state = match waiting {
            Some(state) => state,
            None => {
                let found =
                    shared.call(|database| Found::read(&database.begin_read()?.open_table(LOG)?, id))?;
                Arc::new(Mutex::new(State::of(found)))
            }
        };
        Ok(Arc::new(opened))
    }

    /// What of the group is in the journal and not in redb, if anything is.
    pub(super) fn tail<T>(&self, look: impl FnOnce(&Tail) -> T) -> Option<T> {
        self.shared.pending().get(self.id).map(look)
    }

    /// What the writes come to, if all that they do is to append, or to change the hard state, and the group's log allows it.
    pub(super) fn addition(&self, batch: &[Write]) -> Option<Addition> {
        let State { hard_state, ends, is_stored, .. } = self.state();
        let (mut hard_state, mut last) = self
            .tail(|tail| (tail.hard_state, tail.last().unwrap_or(ends.last)))
            .unwrap_or((hard_state, ends.last));
        let mut parts = Vec::new();
        for write in batch {
            if write.reset_to.is_some() {
                return None;
            }
            hard_state = write.hard_state.unwrap_or(hard_state);
            let (Some(first), Some(end)) = (write.entries.first(), write.entries.last()) else { continue };
            if first.index != last.index.next() || first.term < last.term {
                return None;
            }
            last = end;
            parts.push(write.entries.clone());
        }
        let entries = Entries::join(parts).ok()?;
        (is_stored && self.usable().is_ok()).then_some(Addition { group: self.id, hard_state, entries })
    }

    pub(super) fn state(&self) -> State {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many commits of the store were made durable since it was opened.
    pub(super) fn syncs(&self) -> u64 {
        self.shared.syncs()
    }

    /// Runs `call` unless an earlier one failed.
    pub(super) fn call<T>(
        &self,
        call: impl FnOnce(&Database) -> Result<T, DurableError>,
    ) -> Result<T, DurableError> {
        self.usable()?;
        self.shared.call(call)
    }

    fn usable(&self) -> Result<(), DurableError> {
        self.failed.get().map_or(Ok(()), |why| Err(DurableError::Failed(Arc::clone(why))))
    }

    /// Makes a change within a transaction: whether there was anything to do, or why it is not allowed.
    pub(super) fn change(
        &self,
        put: &mut Put<'_, '_>,
        change: Change<'_>,
    ) -> Result<Result<bool, DurableError>, DurableError> {
        if let Err(failed) = self.usable() {
            return Ok(Err(failed));
        }
        // If it panics, the store is not used any more.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match put.change(&mut state, change) {
            Err(error @ DurableError::NotConsecutive { .. }) => {
                let _ = self.failed.set(error.to_string().into());
                Ok(Err(error))
            }
            other => other.map(Ok),
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.shared.used().remove(&self.id);
    }
}
