//! The checkers: on always, one file each, and asked at every step.
//!
//! * They see what is on the simulated disks, what is said in messages and actions, and each node's `Status`,
//!   `term_at` and `membership`; never a node's inside.
//! * They are incremental: what they cost grows with what changed, not with the length of the run.
//! * A rule that is broken ends the run. None is ever bent to let a run pass.

mod agreement;
mod applied;
mod blackbox;
mod book;
mod commit;
mod devices;
mod disks;
mod election;
mod leases;
pub(crate) mod limits;
mod linear;
mod log;
mod membership;
mod operations;
mod rates;
mod rules;
mod snapshots;
mod watch;
mod without;

use std::sync::Arc;

use raft_core::{
    AdminOutcome, AdminRefusal, Body, Config, Entries, Event, InstallProgress, LogId, LogIndex, LogRecovery,
    Membership, MembershipChange, Message, NodeId, Notice, ReadConsistency, ReadOutcome, Response, RoleKind,
    SnapshotId, Status, Term, Ticket, Write, WriteId, WriteOutcome,
};

pub(crate) use agreement::Agreement;
pub(crate) use election::Due;
pub(crate) use operations::{Asked, OpId, Operations};
pub(crate) use rules::decides;

use applied::Applied;
use book::Book;
use commit::Commit;
use disks::Disks;
use election::Election;
use leases::Leases;
use log::Log;
use membership::Memberships;
use rates::Rates;
use snapshots::Snapshots;
use watch::{Around, Clients, Watch};

use crate::clock::Nanos;
use crate::marks::{Mark, Marks};

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
    leases: Leases,
    rates: Rates,
    watch: Watch,
    /// What the clients asked and were told.
    pub(crate) operations: Operations,
    /// Entries seen for the first time, with the operations in them.
    fresh: Vec<(LogId, book::Meta)>,
}

impl Checks {
    /// For the nodes of these configurations, numbered from 1, members or not.
    pub(crate) fn new(configs: &[Config]) -> Self {
        let nodes = configs.len();
        let nanos = |config: &Config| u64::try_from(config.heartbeat_interval.as_nanos()).unwrap_or(u64::MAX);
        Self {
            book: Book::default(),
            disks: Disks::new(nodes),
            election: Election::new(nodes),
            log: Log::new(nodes),
            commit: Commit::default(),
            applied: Applied::new(nodes),
            memberships: Memberships::new(nodes),
            snapshots: Snapshots::new(nodes),
            leases: Leases::new(nodes),
            rates: Rates::new(configs.iter().map(nanos)),
            watch: Watch::new(configs),
            operations: Operations::default(),
            fresh: Vec::new(),
        }
    }

    /// The marks that the run has come to.
    pub(crate) fn marks(&self) -> Marks {
        self.watch.marks
    }

    /// The run has come to this mark.
    pub(crate) fn mark(&mut self, mark: Mark) {
        self.watch.marks.hit(mark);
    }

    /// From now on clocks may differ by more than was declared: nothing is promised of lease reads any more.
    pub(crate) fn lease_unbound(&mut self) {
        self.leases.unbound();
        self.operations.lease_unbound();
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

    /// Whether a node's disk holds any entry, synced.
    pub(crate) fn holds_entries(&self, node: NodeId) -> bool {
        self.disks.last(node) != LogId::ZERO
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
        let known = self.disks.base(node);
        self.watch.marks.hit_if(Mark::CompactionUndone, found.base.index < known.index);
        self.watch.marks.hit_if(Mark::CutWrite, self.disks.is_cut(node, whole));
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
        self.watch.started(status);
        self.election.started(status.id);
        self.watch.marks.hit_if(Mark::SnapshotBeyondLog, !held);
        self.log.restarted(status);
        self.memberships.started(status, view.membership, &self.book)?;
        let in_force = [&**view.membership; 2];
        let (book, disks, operations) = (&self.book, &self.disks, &mut self.operations);
        self.commit.advanced(None, status, view.term_at, in_force, book, disks, operations)?;
        self.applied.restarted(status.id, applied, &self.commit)
    }

    /// A node has crashed.
    pub(crate) fn crashed(&mut self, node: NodeId) {
        self.leases.crashed(node);
        self.rates.crashed(node);
        self.watch.crashed(node);
    }

    /// A node is about to take in an event. `due`: the timer that fires by it, if one does. `room`: it would take a proposal in.
    pub(crate) fn takes(&mut self, before: &Status, event: &Event, due: Option<Due>, room: bool, now: Nanos) {
        let node = before.id;
        self.rates.takes(node, event);
        let excused = self.election.takes(before, event, due);
        self.watch.marks.hit_if(Mark::LateWakeExcused, excused && before.role == RoleKind::Follower);
        match event {
            Event::Receive(_) => self.leases.heard(node),
            Event::Read { tickets, consistency } => {
                let lease = *consistency == ReadConsistency::Lease;
                self.leases.asked(before, *tickets, lease, self.election.latest());
            }
            _ => {}
        }
        self.watch.takes(before, event, now);
        let own = self.book.leader(before.term).map(|(_, first)| first);
        self.watch.clients.asked(before, event, room, own, &mut self.watch.marks);
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
        let wanted = self.election.wants(after.id);
        self.memberships.stepped(before, after, view.membership, &self.book, &self.commit, wanted)?;
        if elected {
            self.election.elected_leader(after, self.memberships.in_force(after.id))?;
            self.commit.complete(after, &self.book)?;
        }
        self.election.voted(before, after)?;
        let (book, commit, disks, memberships) = (&self.book, &self.commit, &self.disks, &self.memberships);
        self.watch.stepped(before, after, elected, &Around { book, commit, disks, memberships });
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
    pub(crate) fn sent(&mut self, message: &Message, now: Nanos) -> Check {
        self.rates.sent(message, now)?;
        self.watch.sent(message, &self.memberships);
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
        self.watch.written(node, write, handed, &self.book);
        if let Some(to) = write.reset_to {
            self.snapshots.reset(node, to)?;
            self.commit.keeps(node, to.term, handed, to, &self.book)?;
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
            self.watch.noted(*id, &self.book);
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

    /// A node answers a client or an operator. Whom it names as the leader must have been elected once.
    pub(crate) fn answers(&mut self, status: &Status, response: &Response) -> Check {
        let hint = match response {
            Response::Write { outcome: WriteOutcome::NotLeader { leader }, .. }
            | Response::Read { outcome: ReadOutcome::NotLeader { leader }, .. }
            | Response::Admin {
                outcome: AdminOutcome::Refused(AdminRefusal::NotLeader { leader }), ..
            } => *leader,
            _ => None,
        };
        let true_hint = hint.is_none_or(|leader| self.election.led_after(leader, Term::ZERO));
        ensure!("tickets", true_hint, "n{} names a leader that was never elected: {response:?}", status.id);
        if let Response::Read { tickets, .. } = response {
            self.leases.refused(status.id, *tickets);
        }
        self.watch.clients.answered(status, response, &mut self.watch.marks);
        Ok(())
    }

    /// A node serves a read from its state machine.
    pub(crate) fn serves(&mut self, status: &Status, ticket: Ticket) -> Check {
        let proof = self.leases.serves(status.id, ticket)?;
        let learner = self.memberships.in_force(status.id).learners.contains(&status.id);
        Clients::served(status, learner, proof, &mut self.watch.marks);
        Ok(())
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
