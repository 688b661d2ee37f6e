//! A cluster by function calls: every message, every fsync, every chunk of a snapshot and every moment is the test's
//! own choice.
//!
//! * [`cluster`]: the servers and the wire between them; messages travel only when told to.
//! * [`server`]: one server: its node, its disk, its state machine, and what came out of the node.
//! * [`store`]: what a server's disk holds, and how it survives a crash.
//! * [`admin`]: requests of clients and operators, and what became of them.
#![allow(dead_code, unreachable_pub, unused_imports, reason = "each test binary uses a part of it")]

mod admin;
mod cluster;
mod server;
mod store;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use raft_core::{
    Body, Commands, Config, Entries, Event, HardState, LogId, LogIndex, LogRecovery, LogScan, Membership,
    Message, NodeId, SnapshotId, SnapshotMeta, Target, Term, TermRun,
};

pub use cluster::Cluster;
pub use server::{LogRead, Pace, Server};
pub use store::{Store, machine_bytes, machine_from};

pub fn n(id: u64) -> NodeId {
    NodeId::new(id)
}

pub fn at(index: u64) -> LogIndex {
    LogIndex::new(index)
}

pub fn id(term: u64, index: u64) -> LogId {
    LogId::new(Term::new(term), at(index))
}

pub fn members(ids: impl IntoIterator<Item = u64>) -> BTreeMap<NodeId, Bytes> {
    ids.into_iter().map(|id| (n(id), Bytes::from(format!("n{id}")))).collect()
}

/// In this term, without a vote.
pub fn in_term(term: u64) -> HardState {
    HardState { term: Term::new(term), voted_for: None }
}

/// The defaults; in the binary `small_tail`, with room for a few entries in memory only.
pub fn config(server: u64) -> Config {
    let mut config = Config::new(n(server));
    if module_path!().starts_with("small_tail") {
        config.tail_bytes_max = 200;
    }
    config
}

pub fn message(from: u64, to: u64, term: u64, body: Body) -> Message {
    Message { from: n(from), to: n(to), term: Term::new(term), body }
}

pub fn append(prev: LogId, entries: Entries, commit: u64, round: u64) -> Body {
    Body::AppendEntries { prev, entries, commit: at(commit), round }
}

pub fn request_vote(last: LogId) -> Body {
    Body::RequestVote { last, transfer: false }
}

/// Server `from` asks server 1 for its vote.
pub fn ask(from: u64, term: u64, last: LogId) -> Event {
    Event::Receive(message(from, 1, term, request_vote(last)))
}

/// Commands of one term, the first at `first`.
pub fn commands(first: LogId, commands: &[&str]) -> Entries {
    Entries::commands(first, &commands.iter().collect::<Commands>())
}

/// A log with these terms, its first entry the configuration of servers `1..=size`.
pub fn log(size: u64, terms: &[u64]) -> Entries {
    assert_eq!(terms.first(), Some(&1), "a log begins with the bootstrap");
    let first = Entries::membership(id(1, 1), Arc::new(voters(1..=size)));
    let rest = (2..).zip(&terms[1..]).map(|(index, term)| {
        let command = format!("{index}@{term}");
        commands(id(*term, index), &[&command])
    });
    Entries::join(core::iter::once(first).chain(rest)).expect("consecutive")
}

/// A configuration in which these vote.
pub fn voters(ids: impl IntoIterator<Item = u64>) -> Membership {
    Membership::of_voters(members(ids))
}

/// Where a change is to arrive.
pub fn target(voters: &[u64], learners: &[u64]) -> Target {
    Target {
        voters: voters.iter().copied().map(n).collect(),
        learners: learners.iter().copied().map(n).collect(),
    }
}

/// A snapshot of these bytes taken by `taken_by` through `last`, in a cluster of servers `1..=size`.
pub fn snapshot_meta(last: LogId, taken_by: u64, size: u64, data: &[u8]) -> SnapshotMeta {
    SnapshotMeta {
        id: SnapshotId { last, taken_by: n(taken_by), seq: 1 },
        membership: Arc::new(voters(1..=size)),
        membership_index: at(1),
        size_bytes: data.len() as u64,
        digest: store::digest(data),
        terms: Arc::new([TermRun { term: last.term, first: last.index }]),
    }
}

pub fn install(meta: &Arc<SnapshotMeta>, offset: u64, data: &[u8], done: bool, round: u64) -> Body {
    Body::InstallSnapshot { meta: Arc::clone(meta), offset, data: Bytes::copy_from_slice(data), done, round }
}

pub fn recover(hard_state: HardState, log: &Entries) -> LogRecovery {
    let mut scan = LogScan::default();
    scan.hard_state(hard_state).expect("the first one");
    scan.entries(log).expect("consecutive");
    scan.finish()
}
