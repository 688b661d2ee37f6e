//! What the unit tests share: hand-made entries, writes and statuses.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use raft_core::{
    Body, Counters, Entries, HardState, LogId, LogIndex, Membership, Message, NodeId, RoleKind, SnapshotId,
    SnapshotMeta, Status, Term, TermRun, Write, WriteId,
};
use serde::Deserialize;
use serde::de::value::{Error, SeqDeserializer};

use crate::machine::Machine;
use crate::workload::Nothing;

pub(crate) fn node(id: u64) -> NodeId {
    NodeId::new(id)
}

pub(crate) fn term(term: u64) -> Term {
    Term::new(term)
}

pub(crate) fn index(index: u64) -> LogIndex {
    LogIndex::new(index)
}

/// `index@term`, as in traces.
pub(crate) fn id(index: u64, term: u64) -> LogId {
    LogId::new(Term::new(term), LogIndex::new(index))
}

/// Only the core mints these; a test reads one, as from a recording.
pub(crate) fn write_id(id: u64) -> WriteId {
    let number: SeqDeserializer<_, Error> = SeqDeserializer::new(std::iter::once(id));
    WriteId::deserialize(number).unwrap()
}

pub(crate) fn write(id: u64, hard_state: Option<HardState>, entries: Entries) -> Write {
    Write { id: write_id(id), hard_state, reset_to: None, entries }
}

pub(crate) fn hard_state(term: u64, voted_for: u64) -> Option<HardState> {
    Some(HardState { term: Term::new(term), voted_for: (voted_for > 0).then(|| NodeId::new(voted_for)) })
}

/// Commands from `first` on, all of one term.
pub(crate) fn commands(first: u64, term: u64, texts: &[&str]) -> Entries {
    Entries::commands(id(first, term), &texts.iter().collect())
}

/// Puts that carry these operations' numbers.
pub(crate) fn puts(first: u64, term: u64, ops: &[u64]) -> Entries {
    Entries::commands(id(first, term), &ops.iter().map(|op| crate::machine::put(*op, 0, &[], 0)).collect())
}

pub(crate) fn message(from: u64, to: u64, term: u64, body: Body) -> Message {
    Message { from: node(from), to: node(to), term: Term::new(term), body }
}

pub(crate) fn append(prev: LogId, entries: Entries, commit: u64) -> Body {
    Body::AppendEntries { prev, entries, commit: LogIndex::new(commit), round: 1 }
}

/// A configuration in which these nodes vote.
pub(crate) fn voters(nodes: &[u64]) -> Membership {
    let nodes: BTreeMap<NodeId, Bytes> =
        nodes.iter().map(|id| (node(*id), Bytes::from_static(b"here"))).collect();
    Membership::of_voters(nodes)
}

/// A joint configuration.
pub(crate) fn joint(outgoing: &[u64], incoming: &[u64]) -> Membership {
    let mut membership = voters(&[outgoing, incoming].concat());
    membership.voters = voters(incoming).voters;
    membership.outgoing = voters(outgoing).voters;
    membership
}

/// What is known of the snapshot through `index@term`, the first that node 1 took, of the log of `check::book`'s tests.
pub(crate) fn snapshot_meta(index: u64, term: u64, seq: u64) -> SnapshotMeta {
    SnapshotMeta {
        id: SnapshotId { last: id(index, term), taken_by: node(1), seq },
        membership: Arc::new(voters(&[1, 2, 3])),
        membership_index: LogIndex::FIRST,
        size_bytes: 0,
        digest: 0,
        terms: [TermRun { term: Term::new(term), first: LogIndex::new(2) }].into(),
    }
}

/// A machine whose snapshots are longer by this much, and that of its state when these were applied: (index, term,
/// operation on key 0).
pub(crate) fn frozen(ballast_bytes: usize, applied: &[(u64, u64, Option<u64>)]) -> Bytes {
    let mut machine = Machine::new(Nothing, 1, ballast_bytes);
    for (index, term, op) in applied {
        let entries = match op {
            Some(op) => puts(*index, *term, &[*op]),
            None => Entries::noop(id(*index, *term)),
        };
        machine.apply(&entries, &mut Vec::new()).unwrap();
    }
    machine.snapshot().unwrap().0
}

/// A follower of an empty log.
pub(crate) fn status(node: u64, term: u64) -> Status {
    Status {
        id: NodeId::new(node),
        role: RoleKind::Follower,
        term: Term::new(term),
        voted_for: None,
        leader: None,
        last: LogId::ZERO,
        durable: LogIndex::ZERO,
        commit: LogIndex::ZERO,
        applied: LogIndex::ZERO,
        base: LogId::ZERO,
        snapshot: LogId::ZERO,
        membership_index: LogIndex::ZERO,
        counters: Counters::default(),
    }
}

/// `term_at` of a log given by its runs: (first index, term), through `last`.
pub(crate) fn terms(runs: &'static [(u64, u64)], last: u64) -> impl Fn(LogIndex) -> Option<Term> {
    move |index| {
        let inside = index > LogIndex::ZERO && index.get() <= last;
        let run = runs.iter().rev().find(|(first, _)| *first <= index.get())?;
        inside.then(|| Term::new(run.1))
    }
}
