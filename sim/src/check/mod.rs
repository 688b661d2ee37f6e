//! The checkers: on always, one file each, and asked at every step.
//!
//! * They see what is on the simulated disks, what is said in messages and actions, and each node's `Status`,
//!   `term_at` and `membership`; never a node's inside.
//! * They are incremental: what they cost grows with what changed, not with the length of the run.
//! * A rule that is broken ends the run. None is ever bent to let a run pass.

mod applied;
mod book;
mod commit;
mod disks;
mod election;
pub(crate) mod limits;
mod linear;
mod log;
mod membership;
mod operations;
mod rules;
mod snapshots;

use std::sync::Arc;

use raft_core::{
    Body, Entries, InstallProgress, LogId, LogIndex, LogRecovery, Membership, MembershipChange, Message,
    NodeId, Notice, RoleKind, SnapshotId, SnapshotMeta, Status, Term, Write, WriteId,
};

pub(crate) use operations::{Asked, OpId, Operations};

use applied::Applied;
use book::Book;
use commit::Commit;
use disks::Disks;
use election::Election;
use log::Log;
use membership::Memberships;
use snapshots::Snapshots;

use crate::machine::State;
use crate::snapshots::Stored;

/// A rule was broken: which checker saw it, and what it saw.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{checker}: {what}")]
pub(crate) struct Broken {
    pub(crate) checker: &'static str,
    pub(crate) what: String,
}

impl Broken {
    pub(crate) fn new(checker: &'static str, what: impl Into<String>) -> Self {
        Self { checker, what: what.into() }
    }
}

/// What every check returns.
pub(crate) type Check = Result<(), Broken>;

/// Breaks the rule of `checker` unless the condition holds.
macro_rules! ensure {
    ($checker:expr, $holds:expr, $($what:tt)+) => {
        if !$holds {
            return Err($crate::check::Broken::new($checker, format!($($what)+)));
        }
    };
}
pub(crate) use ensure;

/// `Node::term_at` of the node that stepped.
pub(crate) type TermAt<'a> = &'a dyn Fn(LogIndex) -> Option<Term>;

/// What a checker may ask the node that stepped.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    pub(crate) term_at: TermAt<'a>,
    pub(crate) membership: &'a Arc<Membership>,
}

/// All checkers, and what they know together.
pub(crate) struct Checks {
    book: Book,
    disks: Disks,
    election: Election,
    log: Log,
    commit: Commit,
    applied: Applied,
    memberships: Memberships,
    snapshots: Snapshots,
    /// What the clients asked and were told.
    pub(crate) operations: Operations,
    /// Entries seen for the first time, with the operations in them.
    fresh: Vec<(LogId, book::Meta)>,
}

impl Checks {
    /// For nodes 1 through `nodes`, members or not.
    pub(crate) fn new(nodes: usize) -> Self {
        Self {
            book: Book::default(),
            disks: Disks::new(nodes),
            election: Election::new(nodes),
            log: Log::new(nodes),
            commit: Commit::default(),
            applied: Applied::new(nodes),
            memberships: Memberships::new(nodes),
            snapshots: Snapshots::new(nodes),
            operations: Operations::default(),
            fresh: Vec::new(),
        }
    }

    /// How far the log is known to be committed.
    pub(crate) fn committed(&self) -> LogIndex {
        self.commit.last()
    }

    /// How many leaders have been elected.
    pub(crate) fn elections(&self) -> u64 {
        self.election.elected()
    }

    /// Snapshots taken, joint configurations entered, and those that were backed out of.
    pub(crate) fn exercised(&self) -> (u64, u64, u64) {
        (self.snapshots.count(), self.memberships.joint, self.memberships.backed_out)
    }

    /// The configuration in force as of the last committed entry, and where it stands.
    pub(crate) fn configuration(&self) -> Option<(LogId, &Arc<Membership>)> {
        self.commit.configuration(&self.book)
    }

    /// What was last in force on a node.
    pub(crate) fn in_force(&self, node: NodeId) -> &Arc<Membership> {
        self.memberships.in_force(node)
    }

    /// A node read its disks after a crash: `whole` of the parts of writes that were not synced had survived, and
    /// these snapshots.
    pub(crate) fn recovered(
        &mut self,
        node: NodeId,
        found: &LogRecovery,
        whole: usize,
        snapshots: impl Iterator<Item = SnapshotId>,
    ) -> Check {
        self.disks.recovered(node, found, whole, &self.book)?;
        self.snapshots.recovered(node, snapshots, found.base)?;
        self.election.durable(node, found.hard_state)
    }

    /// A node started from what it recovered, `snapshot` its newest; its state machine holds `applied`.
    pub(crate) fn started(
        &mut self,
        status: &Status,
        applied: LogId,
        snapshot: LogId,
        view: View<'_>,
    ) -> Check {
        let stored = self.disks.last(status.id);
        // A snapshot that the log does not hold replaces it.
        let held = snapshot == LogId::ZERO
            || snapshot.index <= self.disks.base(status.id).index
            || self.book.at(stored, snapshot.index) == Some(snapshot);
        let last = if held { stored } else { snapshot };
        ensure!(
            "recovery",
            status.last == last && status.term == self.disks.hard_state(status.id).term,
            "{status:?} started from a disk that holds {stored} and a snapshot through {snapshot}"
        );
        self.log.restarted(status);
        self.memberships.started(status, view.membership, &self.book)?;
        let in_force = [&**view.membership; 2];
        let (book, disks, operations) = (&self.book, &self.disks, &mut self.operations);
        self.commit.advanced(None, status, view.term_at, in_force, book, disks, operations)?;
        self.applied.restarted(status.id, applied, &self.commit)
    }

    /// A node has taken in an event.
    pub(crate) fn stepped(&mut self, before: &Status, after: &Status, view: View<'_>) -> Check {
        if before == after {
            return Ok(());
        }
        ensure!(
            "election",
            before.term <= after.term,
            "n{} went from term {} back to {}",
            after.id,
            before.term,
            after.term
        );
        ensure!(
            "counters",
            (before.counters.absurd, before.counters.misaddressed, before.counters.violations)
                == (after.counters.absurd, after.counters.misaddressed, after.counters.violations),
            "n{} took a correct node's message for an impossible one: {:?}",
            after.id,
            after.counters
        );
        let leads = after.role == RoleKind::Leader;
        let elected = leads && !(before.role == RoleKind::Leader && before.term == after.term);
        if elected {
            self.book.lead(after, view.term_at)?;
        }
        self.memberships.stepped(before, after, view.membership, &self.book, &self.commit)?;
        if elected {
            self.election.elected_leader(after, self.memberships.in_force(after.id))?;
            self.commit.complete(after, &self.book)?;
        }
        self.election.voted(before, after)?;
        if before.last != after.last || before.term != after.term {
            self.log.moved(before, after, &self.book, &self.commit)?;
        }
        if before.durable != after.durable {
            self.disks.claimed(after, &self.book)?;
        }
        if (before.snapshot, before.base) != (after.snapshot, after.base) {
            self.snapshots.claimed(after)?;
        }
        if before.commit != after.commit {
            let in_force = self.memberships.of(after.id);
            let (book, disks, operations) = (&self.book, &self.disks, &mut self.operations);
            self.commit.advanced(Some(before), after, view.term_at, in_force, book, disks, operations)?;
        }
        ensure!(
            "applied",
            before.applied <= after.applied && after.applied <= after.commit,
            "n{} says that it applied through {} with commit {}",
            after.id,
            after.applied,
            after.commit
        );
        Ok(())
    }

    /// A node was given a message.
    pub(crate) fn received(&mut self, message: &Message) {
        self.election.received(message);
    }

    /// A node sends a message: everything that it claims must be durable by now.
    pub(crate) fn sent(&mut self, message: &Message) -> Check {
        self.disks.sent(message, &self.book)?;
        self.election.sent(message)?;
        self.memberships.sent(message)?;
        match &message.body {
            Body::AppendEntries { prev, entries, commit, .. } => {
                ensure!(
                    "commit",
                    *commit <= self.commit.last(),
                    "{message:?}, but nobody has committed beyond {}",
                    self.commit.last()
                );
                if prev.term == message.term {
                    // Its own disk may get it later than its peers.
                    self.book.spoken_of(message.from, *prev);
                }
                self.log.sent_entries(message, *prev, &self.book)?;
                self.note(message.from, *prev, entries)
            }
            Body::AppendEntriesReply { result: Ok(matched), .. }
            | Body::InstallSnapshotReply { progress: InstallProgress::Installed(matched), .. } => {
                self.log.acknowledged(message, *matched);
                Ok(())
            }
            Body::InstallSnapshot { meta, offset, data, done, .. } => {
                self.snapshots.part(message.from, meta, *offset, data, *done)
            }
            _ => Ok(()),
        }
    }

    /// A node hands a write to its disk, which stores it in these parts.
    pub(crate) fn written(&mut self, node: NodeId, write: &Write, parts: &[Write]) -> Check {
        let mut handed = self.disks.handed(node);
        if let Some(to) = write.reset_to {
            self.snapshots.reset(node, to)?;
            self.commit.keeps(node, handed, to, &self.book)?;
            handed = to;
        }
        if let Some(first) = write.entries.first() {
            let prev = self.book.at(handed, first.index.prev());
            let Some(prev) = prev else {
                return Err(Broken::new(
                    "log",
                    format!("n{node} writes {:?} behind a log that ends at {handed}", write.entries),
                ));
            };
            self.note(node, prev, &write.entries)?;
            self.log.written(node, handed, &write.entries, &self.book, &self.commit)?;
        }
        for part in parts {
            self.disks.written(node, part);
        }
        Ok(())
    }

    /// A node drops the beginning of its log.
    pub(crate) fn compacted(&mut self, status: &Status, through: LogId) -> Check {
        self.snapshots.compacted(status.id, through, status.applied, &self.commit)?;
        self.disks.compacted(status.id, through, &self.book)
    }

    /// Enters entries into the book, and tells what is new to those who count operations.
    fn note(&mut self, by: NodeId, prev: LogId, entries: &Entries) -> Check {
        self.fresh.clear();
        self.book.note(by, prev, entries, &mut self.fresh)?;
        for (id, meta) in &self.fresh {
            self.operations.appended(*id, *meta)?;
            self.memberships.noted(*id, &self.book)?;
        }
        Ok(())
    }

    /// A sync made this write and all before it durable.
    pub(crate) fn synced(&mut self, node: NodeId, through: WriteId) -> Check {
        for hard_state in self.disks.synced(node, through)? {
            self.election.durable(node, hard_state)?;
        }
        Ok(())
    }

    /// A node wants to read its log: only what is durable may be asked for.
    pub(crate) fn reads_log(&self, node: NodeId, from: LogIndex, through: LogIndex) -> Check {
        self.disks.reads(node, from, through)
    }

    /// A node hands entries to its state machine.
    pub(crate) fn applies(&mut self, node: NodeId, entries: &Entries) -> Check {
        self.applied.applies(node, entries, &self.book, &self.commit, &self.disks)
    }

    /// A state machine has come to where it says.
    pub(crate) fn machine(&self, node: NodeId, state: &State) -> Check {
        self.applied.machine(node, state, &self.commit)
    }

    /// A node hands a snapshot to its state machine.
    pub(crate) fn restores(&mut self, node: NodeId, meta: &SnapshotMeta) -> Check {
        self.snapshots.restores(node, meta)?;
        self.applied.restores(node, meta.id.last, &self.commit)
    }

    /// A node's state machine is asked for a snapshot.
    pub(crate) fn snapshot_asked(&self, node: NodeId, meta: &SnapshotMeta) -> Check {
        self.snapshots.asked(node, meta, &self.book, &self.commit)
    }

    /// A state machine handed over a snapshot.
    pub(crate) fn snapshot_made(&mut self, stored: &Stored) -> Check {
        self.snapshots.made(&stored.meta, &stored.bytes, &self.commit)
    }

    /// A node hands a chunk of a snapshot to its store.
    pub(crate) fn chunk(
        &self,
        node: NodeId,
        meta: &SnapshotMeta,
        offset: u64,
        data: &[u8],
        done: bool,
    ) -> Check {
        self.snapshots.part(node, meta, offset, data, done)
    }

    /// A snapshot, taken here or from a leader, is complete and durable.
    pub(crate) fn snapshot_completed(&mut self, node: NodeId, stored: &Stored) -> Check {
        self.snapshots.completed(node, &stored.meta, &stored.bytes)
    }

    /// A node reads a part of a snapshot.
    pub(crate) fn snapshot_read(&self, node: NodeId, id: SnapshotId) -> Check {
        self.snapshots.reads(node, id)
    }

    /// A node drops a snapshot.
    pub(crate) fn snapshot_forgotten(&mut self, node: NodeId, id: SnapshotId) -> Check {
        self.snapshots.forgotten(node, id, self.disks.base(node))
    }

    /// A node answers that an operation is committed at `id`, and perhaps that it will be applied there.
    pub(crate) fn answered_committed(
        &mut self,
        node: NodeId,
        op: OpId,
        id: LogId,
        applied_here: bool,
    ) -> Check {
        self.operations.answered_committed(op, id, self.commit.id_at(id.index))?;
        if applied_here { self.applied.promised(node, op, id.index) } else { Ok(()) }
    }

    /// Whether a configuration committed behind `after` has arrived at what was asked for.
    pub(crate) fn changed(&self, change: &MembershipChange, after: LogIndex) -> bool {
        let arrived = |membership: &Membership| {
            let settled = membership.intent.is_none() && !membership.is_joint();
            match change {
                MembershipChange::Set { target, .. } => {
                    settled
                        && (&membership.voters, &membership.learners) == (&target.voters, &target.learners)
                }
                MembershipChange::Update { voters, learners, remove, .. } => {
                    settled
                        && voters.is_subset(&membership.voters)
                        && learners.is_subset(&membership.learners)
                        && remove.iter().all(|node| !membership.contains(*node))
                }
                MembershipChange::Cancel => settled,
                MembershipChange::SetAddress { node, address } => membership.nodes.get(node) == Some(address),
            }
        };
        let committed = |id: LogId| self.commit.id_at(id.index) == Some(id);
        let later = self.book.configurations().filter(|(id, _)| id.index > after && committed(*id));
        later.into_iter().any(|(_, membership)| arrived(membership))
    }

    /// Whether this node led a term above `term`.
    pub(crate) fn led_after(&self, node: NodeId, term: Term) -> bool {
        self.election.led_after(node, term)
    }

    /// A node has something to tell its operators.
    pub(crate) fn notified(&self, node: NodeId, notice: &Notice) -> Check {
        ensure!("notice", !matches!(notice, Notice::Violation { .. }), "n{node} raised {notice:?}");
        Ok(())
    }
}
