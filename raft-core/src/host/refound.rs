//! A new cluster from what one server of an old one holds: after the old one lost its majority for good, or from a
//! backup. Offline, and by a person's decision: entries that the old cluster had committed elsewhere may be missing.
//!
//! * Every configuration that the copy knows, in the snapshot and in the log, is the new one: at no prefix of its log can
//!   members of the old cluster form a majority again.
//! * A copy that was cut short cannot be started: the log comes before the snapshot that it begins behind, and the term
//!   comes last; a log beyond its snapshot or its term is refused. Where nothing is there yet, the stores are empty.
//! * Its term is above every term that the server knew, and no vote is given in it (§5.1).
//! * What the server held and nobody had committed becomes part of the new cluster's log.
//! * The new cluster needs a name of its own, which its transport compares: servers of the old one must not reach it.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use bytes::Bytes;

use crate::action::{HardState, Write};
use crate::entry::{BlockBody, Entries, Window};
use crate::ids::{LogId, LogIndex, NodeId, Term, WriteId};
use crate::membership::{Membership, MembershipError};
use crate::recovery::LogRecovery;
use crate::snapshot::SnapshotMeta;

/// Why no cluster can be made of what a server holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RefoundError {
    /// It holds no configuration: it never was part of a cluster.
    #[error("it holds no configuration: it never was part of a cluster")]
    Unfounded,
    /// Its log begins behind an entry that no snapshot of it reaches.
    #[error("its log begins after {base}, and what came before is in no snapshot of it")]
    Gap {
        /// The entry before the log's first.
        base: LogId,
    },
    /// The new members are no valid configuration.
    #[error("the new members are no configuration: {0}")]
    Members(#[from] MembershipError),
    /// There is no term above those that it knew.
    #[error("there is no term above {0}")]
    Term(Term),
    /// Entries that do not follow what was copied before.
    #[error("entries from {first} cannot follow {last}")]
    NotConsecutive {
        /// The first of them.
        first: LogId,
        /// What was copied before.
        last: LogId,
    },
}

/// Copies what a server holds into the stores of a new cluster's first server: [`begin`](Self::begin) and the
/// snapshot if there is one, then [`copy`](Self::copy) for the entries of [`rest`](Self::rest), then [`finish`](Self::finish).
#[derive(Clone, Debug)]
pub struct Refounding {
    members: Arc<Membership>,
    hard_state: HardState,
    last: LogId,
    copied: LogId,
    writes: u64,
}

impl Refounding {
    /// From what the server's stores have recovered. `members` are the voters of the new cluster, with their addresses. More
    /// than one only if each of them gets the very same copy.
    ///
    /// # Errors
    /// If no cluster can be made of it.
    pub fn plan(
        found: &LogRecovery,
        snapshot: Option<&SnapshotMeta>,
        members: BTreeMap<NodeId, Bytes>,
    ) -> Result<Self, RefoundError> {
        let members = Membership::of_voters(members);
        members.validate()?;
        let reached = snapshot.map_or(LogId::ZERO, |meta| meta.id.last);
        if found.base.index > reached.index {
            return Err(RefoundError::Gap { base: found.base });
        }
        if snapshot.is_none() && found.memberships.is_empty() {
            return Err(RefoundError::Unfounded);
        }
        let last = if found.term_at(reached.index) == Some(reached.term) { found.last } else { reached };
        let term = found.hard_state.term.max(found.last.term).max(reached.term);
        let term = term.next().ok_or(RefoundError::Term(term))?;
        let hard_state = HardState { term, voted_for: None };
        Ok(Self { members: Arc::new(members), hard_state, last, copied: reached, writes: 0 })
    }

    /// The last entry of the copy.
    #[must_use]
    pub fn last(&self) -> LogId {
        self.last
    }

    /// The entries that are still to be copied, first and last; `None` once all are.
    #[must_use]
    pub fn rest(&self) -> Option<(LogIndex, LogIndex)> {
        (self.copied.index < self.last.index).then(|| (self.copied.index.next(), self.last.index))
    }

    /// The first write to the new log, for what has a snapshot; and what is known of that, as the new cluster has it. Its
    /// bytes stay as they are. They are to be copied when the write is done: a server without them cannot be started then.
    pub fn begin(&mut self, meta: &SnapshotMeta) -> (Write, SnapshotMeta) {
        let membership = Arc::clone(&self.members);
        let meta = SnapshotMeta { membership, membership_index: meta.id.last.index, ..meta.clone() };
        let reset_to = Some(meta.id.last);
        (Write { id: self.mint(), hard_state: None, reset_to, entries: Entries::empty() }, meta)
    }

    /// The last write: from now on a node can be started.
    ///
    /// # Panics
    /// If there are entries left to be copied.
    pub fn finish(mut self) -> Write {
        assert!(self.rest().is_none(), "the entries were copied");
        let hard_state = Some(self.hard_state);
        Write { id: self.mint(), hard_state, reset_to: None, entries: Entries::empty() }
    }

    /// The next write: entries as the server has them, with its configurations replaced.
    ///
    /// # Errors
    /// If they do not follow what was copied before.
    pub fn copy(&mut self, entries: &Entries) -> Result<Write, RefoundError> {
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else {
            return Ok(Write {
                id: self.mint(),
                hard_state: None,
                reset_to: None,
                entries: Entries::empty(),
            });
        };
        if first.index != self.copied.index.next() || first.term < self.copied.term {
            return Err(RefoundError::NotConsecutive { first, last: self.copied });
        }
        let replaced = |window: &Window| match window.body() {
            BlockBody::Membership(_) => {
                Window::new(window.first(), BlockBody::Membership(Arc::clone(&self.members)))
            }
            _ => window.clone(),
        };
        let entries = Entries::from_windows(entries.windows().iter().map(replaced).collect());
        self.copied = last;
        Ok(Write { id: self.mint(), hard_state: None, reset_to: None, entries })
    }

    fn mint(&mut self) -> WriteId {
        self.writes += 1;
        WriteId::mint(self.writes)
    }
}
