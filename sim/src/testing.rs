//! What the unit tests share: hand-made entries, writes and statuses.

use raft_core::{
    Body, Counters, Entries, HardState, LogId, LogIndex, Message, NodeId, RoleKind, Status, Term, Write,
    WriteId,
};
use serde::Deserialize;
use serde::de::IntoDeserializer;
use serde::de::value::{Error, U64Deserializer};

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
    let number: U64Deserializer<Error> = id.into_deserializer();
    WriteId::deserialize(number).unwrap()
}

pub(crate) fn write(id: u64, hard_state: Option<HardState>, entries: Entries) -> Write {
    Write { id: write_id(id), hard_state, entries }
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
    Entries::commands(id(first, term), &ops.iter().map(|op| crate::machine::put(*op, 0, 0)).collect())
}

pub(crate) fn message(from: u64, to: u64, term: u64, body: Body) -> Message {
    Message { from: node(from), to: node(to), term: Term::new(term), body }
}

pub(crate) fn append(prev: LogId, entries: Entries, commit: u64) -> Body {
    Body::AppendEntries { prev, entries, commit: LogIndex::new(commit), round: 1 }
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
