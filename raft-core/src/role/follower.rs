//! The follower: takes entries from the leader of its term, and answers (§5.3; Figure 2, AppendEntries RPC).
//!
//! * `verified` is through where this log is known to equal the leader's. It begins at the commit index in each
//!   term (Leader Completeness, §5.4) and only rises within one.
//! * Success is derived, not stored: `match = min(verified, durable)`. Nothing is acknowledged before it is on
//!   disk (TRAP 21), and no commit passes `verified` (TRAPS 16, 17).

use alloc::sync::Arc;
use bytes::Bytes;

use crate::action::{Action, Violation};
use crate::entry::{Entries, Window};
use crate::ids::{LogId, LogIndex, NodeId};
use crate::message::{Body, Conflict};
use crate::role::Next;
use crate::snapshot::{SnapshotId, SnapshotMeta};
use crate::state::Shared;

#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(crate) struct Follower {
    verified: LogIndex,
    /// The greatest round heard from the leader of this term.
    round: u64,
    /// What the last reply said.
    replied: (u64, LogIndex),
    reply_due: bool,
    conflict: Option<Conflict>,
    /// The snapshot of which the leader is to know how far it is.
    installing: Option<SnapshotId>,
}

impl Follower {
    pub(crate) fn new(commit_index: LogIndex) -> Self {
        Self {
            verified: commit_index,
            round: 0,
            replied: (0, commit_index),
            reply_due: false,
            conflict: None,
            installing: None,
        }
    }

    /// Fires when no leader was heard from for an election timeout (§5.2).
    pub(crate) fn wake(&mut self, shared: &mut Shared) -> Next {
        election_timeout(shared)
    }

    /// AppendEntries of the current term (§5.3).
    pub(crate) fn append_entries(
        &mut self,
        shared: &mut Shared,
        prev: LogId,
        entries: &Entries,
        commit: LogIndex,
        round: u64,
    ) {
        self.round = self.round.max(round);
        // Most messages go on where the log ends.
        if prev != shared.log.last() && !self.agrees(shared, prev) {
            return;
        }
        self.conflict = None;
        // A reply for entries that are not durable waits for them, unless the leader asks who follows it.
        let asked = self.round > self.replied.0;
        if !entries.is_empty() && shared.unpersisted_bytes() >= shared.config.unpersisted_bytes_max {
            // The leader finds out by the next conflict, and sends them again.
            shared.counters.overflowed += 1;
            self.reply_due |= asked;
            return;
        }
        if let Err(index) = self.take(shared, entries) {
            return self.changed(shared, index);
        }
        let through = prev.index.plus(entries.len());
        self.verified = self.verified.max(through);
        shared.commit(commit.min(self.verified));
        self.reply_due |= asked || through <= shared.disk.durable();
    }

    /// The consistency check of §5.3: whether the log holds what the leader's message follows, as far as that is to be
    /// known here.
    #[inline(never)]
    fn agrees(&mut self, shared: &mut Shared, prev: LogId) -> bool {
        let held = shared.log.term(prev.index);
        if held == Some(prev.term) {
            return true;
        }
        // What is committed here equals the leader's log, also where the leader's message begins before it or
        // this log was compacted (TRAPS 26, 33): the check then begins at the commit index.
        if prev.index > shared.commit_index {
            let at = prev.index.min(shared.log.last_index());
            let hint = shared.log.terms.last_at_most(at, prev.term);
            self.conflict = Some(Conflict { prev: prev.index, hint });
            return false;
        }
        // The commit index bounds what may be trusted, not what may be overlooked.
        if held.is_some() {
            self.changed(shared, prev.index);
        }
        held.is_none()
    }

    /// The leader would change a committed entry.
    #[inline(never)]
    fn changed(&self, shared: &mut Shared, index: LogIndex) {
        let leader = shared.leader.expect("the sender was recognised as the leader");
        shared.violation(leader, Violation::CommittedEntryChanged(index));
    }

    /// Appends what is new, after dropping what conflicts with it (§5.3). What is there already stays, with all
    /// that follows it: the message may be an old one (TRAP 18). Fails where a committed entry would change.
    fn take(&mut self, shared: &mut Shared, entries: &Entries) -> Result<(), LogIndex> {
        for window in entries.windows() {
            if window.first_index() == shared.log.last_index().next() {
                // All of it is new.
                shared.append(window.clone());
            } else {
                self.take_part(shared, window)?;
            }
        }
        Ok(())
    }

    #[inline(never)]
    fn take_part(&mut self, shared: &mut Shared, window: &Window) -> Result<(), LogIndex> {
        let LogId { term: base_term, index: base } = shared.log.terms.base();
        let spans = window.first_index() <= base && base <= window.last_index();
        if spans && window.term() != base_term {
            return Err(base);
        }
        let (first, last) = (window.first_index().max(base.next()), window.last_index());
        if first > last {
            return Ok(());
        }
        let Some(differs) = shared.log.terms.first_difference(window.term(), first, last) else {
            return Ok(());
        };
        if differs <= shared.commit_index {
            return Err(differs);
        }
        if differs <= shared.log.last_index() {
            shared.truncate(differs);
            self.verified = self.verified.min(differs.prev());
        }
        let new = window.narrow(differs, last).expect("the first difference lies within the block");
        shared.append(new);
        Ok(())
    }

    /// InstallSnapshot of the current term (§7).
    pub(crate) fn install_snapshot(
        &mut self,
        shared: &mut Shared,
        meta: Arc<SnapshotMeta>,
        chunk: (u64, Bytes, bool),
        round: u64,
    ) {
        self.round = self.round.max(round);
        let leader = shared.leader.expect("the sender was recognised as the leader");
        let id = meta.id;
        if shared.install_snapshot(leader, meta, chunk, round) {
            // Whatever is committed equals the leader's log (Leader Completeness, §5.4).
            self.verified = self.verified.max(shared.commit_index);
            self.installing = Some(id);
        }
    }

    /// The leader should know how far the snapshot is.
    pub(crate) fn chunk_written(&mut self, id: SnapshotId) {
        self.installing = Some(id);
    }

    /// The log was replaced by a snapshot.
    pub(crate) fn installed(&mut self, shared: &Shared) {
        self.verified = shared.commit_index;
        self.conflict = None;
    }

    /// A write became durable: what it proves may be said now.
    pub(crate) fn persisted(&mut self, shared: &Shared) {
        self.reply_due |= self.matched(shared) > self.replied.1;
    }

    fn matched(&self, shared: &Shared) -> LogIndex {
        self.verified.min(shared.disk.durable())
    }

    /// Whether the leader is to be told something, there is one, and it may be told: the term is durable.
    pub(crate) fn has_action(&self, shared: &Shared) -> bool {
        (self.reply_due || self.conflict.is_some() || self.installing.is_some())
            && shared.leader.is_some()
            && shared.disk.settled()
    }

    /// The next reply to the leader. Late: one answers for every message since the last.
    #[inline(never)]
    pub(crate) fn next_action(&mut self, shared: &Shared) -> Action {
        assert!(shared.disk.settled(), "no message of a term before that is durable (§5.1)");
        let leader = shared.leader.expect("there is a leader to be told something");
        if let Some(id) = self.installing.take() {
            let progress = shared.install_progress(id, self.matched(shared));
            let body = Body::InstallSnapshotReply { id, progress, round: self.round };
            return Action::Send(shared.message(leader, body));
        }
        let result = match self.conflict.take() {
            Some(conflict) => Err(conflict),
            None => {
                self.reply_due = false;
                self.replied = (self.round, self.matched(shared));
                Ok(self.replied.1)
            }
        };
        let body = Body::AppendEntriesReply { result, round: self.round };
        Action::Send(shared.message(leader, body))
    }
}

/// Whether the election timeout has passed for a node that may campaign (§5.2).
pub(crate) fn election_timeout(shared: &mut Shared) -> Next {
    let (now, slack) = (shared.now, shared.config.heartbeat_interval);
    if !shared.election.as_mut().is_some_and(|deadline| deadline.is_due(now, slack)) {
        return Next::Stay;
    }
    if shared.may_campaign().is_err() {
        shared.rearm_election();
        return Next::Stay;
    }
    Next::PreCampaign
}

/// Where a message of the leader `from` of the current term finds a node (§5.2): whether it may be obeyed.
pub(crate) fn recognise(shared: &mut Shared, from: NodeId) -> bool {
    if shared.has_other_leader(from) {
        let term = shared.term();
        shared.violation(from, Violation::SecondLeader(term));
        return false;
    }
    true
}
