//! The checkers: on always, one file each, and asked at every step.
//!
//! * They see what is on the simulated disks, what is said in messages and actions, and each node's `Status`
//!   and `term_at`; never a node's inside.
//! * They are incremental: what they cost grows with what changed, not with the length of the run.
//! * A rule that is broken ends the run. None is ever bent to let a run pass.

mod applied;
mod book;
mod commit;
mod disks;
mod election;
mod linear;
mod log;
mod operations;

use raft_core::{
    Body, Entries, HardState, LogId, LogIndex, Message, NodeId, Notice, RoleKind, Status, Term, Write,
    WriteId,
};

pub(crate) use operations::{Asked, OpId, Operations};

use applied::Applied;
use book::Book;
use commit::Commit;
use disks::Disks;
use election::Election;
use log::Log;

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

/// All checkers, and what they know together.
pub(crate) struct Checks {
    book: Book,
    disks: Disks,
    election: Election,
    log: Log,
    commit: Commit,
    applied: Applied,
    /// What the clients asked and were told.
    pub(crate) operations: Operations,
    /// Entries seen for the first time, with the operations in them.
    fresh: Vec<(LogId, book::Meta)>,
}

impl Checks {
    /// For nodes 1 through `nodes`, all of them voters.
    pub(crate) fn new(nodes: usize) -> Self {
        Self {
            book: Book::default(),
            disks: Disks::new(nodes),
            election: Election::new(nodes),
            log: Log::new(nodes),
            commit: Commit::default(),
            applied: Applied::new(nodes),
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

    /// A node read its disk after a crash, and `whole` of the writes that were not synced had survived.
    pub(crate) fn recovered(
        &mut self,
        node: NodeId,
        hard_state: HardState,
        last: LogId,
        whole: usize,
    ) -> Check {
        self.disks.recovered(node, hard_state, last, whole)?;
        self.election.durable(node, hard_state)
    }

    /// A node started from what it recovered; its state machine holds `applied`.
    pub(crate) fn started(&mut self, status: &Status, applied: LogId, term_at: TermAt<'_>) -> Check {
        ensure!(
            "recovery",
            status.last == self.disks.last(status.id) && status.term == self.disks.hard_state(status.id).term,
            "{status:?} started from a disk that holds {}",
            self.disks.last(status.id)
        );
        self.log.restarted(status);
        self.commit.advanced(None, status, term_at, &self.book, &self.disks, &mut self.operations)?;
        self.applied.restarted(status.id, applied, &self.commit)
    }

    /// A node has taken in an event.
    pub(crate) fn stepped(&mut self, before: &Status, after: &Status, term_at: TermAt<'_>) -> Check {
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
        if leads && !(before.role == RoleKind::Leader && before.term == after.term) {
            self.election.elected_leader(after)?;
            self.book.lead(after, term_at)?;
            self.commit.complete(after, &self.book)?;
        }
        self.election.voted(before, after)?;
        if before.last != after.last || before.term != after.term {
            self.log.moved(before, after, &self.book, &self.commit)?;
        }
        if before.durable != after.durable {
            self.disks.claimed(after, &self.book)?;
        }
        if before.commit != after.commit {
            let (book, disks) = (&self.book, &self.disks);
            self.commit.advanced(Some(before), after, term_at, book, disks, &mut self.operations)?;
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
        match &message.body {
            Body::AppendEntries { prev, entries, commit, .. } => {
                ensure!(
                    "commit",
                    *commit <= self.commit.last(),
                    "{message:?}, but nobody has committed beyond {}",
                    self.commit.last()
                );
                self.log.sent_entries(message, *prev, &self.book)?;
                self.note(message.from, *prev, entries)
            }
            Body::AppendEntriesReply { result: Ok(matched), .. } => {
                self.log.acknowledged(message, *matched);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// A node hands a write to its disk.
    pub(crate) fn written(&mut self, node: NodeId, write: &Write) -> Check {
        if let Some(first) = write.entries.first() {
            let handed = self.disks.handed(node);
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
        self.disks.written(node, write);
        Ok(())
    }

    /// Enters entries into the book, and tells what is new to those who count operations.
    fn note(&mut self, by: NodeId, prev: LogId, entries: &Entries) -> Check {
        self.fresh.clear();
        self.book.note(by, prev, entries, &mut self.fresh)?;
        for (id, meta) in &self.fresh {
            self.operations.appended(*id, *meta)?;
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

    /// A state machine has come to `index`.
    pub(crate) fn digest(&mut self, node: NodeId, index: LogIndex, digest: u64) -> Check {
        self.applied.digest(node, index, digest)
    }

    /// A node answers that an operation is committed at `id`.
    pub(crate) fn answered_committed(&mut self, op: OpId, id: LogId) -> Check {
        self.operations.answered_committed(op, id, self.commit.id_at(id.index))
    }

    /// A node has something to tell its operators.
    pub(crate) fn notified(&self, node: NodeId, notice: &Notice) -> Check {
        ensure!("notice", !matches!(notice, Notice::Violation { .. }), "n{node} raised {notice:?}");
        Ok(())
    }
}
