//! The wire and record formats: round trips, refusals, fixed bytes, torn files. Here: making values and bytes.

// `Write` carries an id that only a node mints; tests get one through serde.
#![cfg(feature = "serde")]
// Helpers of tests are tests too.
#![allow(clippy::unwrap_used)]

mod golden;
mod properties;
mod records;
mod refusals;
mod strategies;

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use raft_core::wire::{
    Record, RecordReader, WireError, encode_entries, encode_membership, encode_message, encode_record,
    encode_snapshot_meta,
};
use raft_core::{
    CommandPacker, Entries, HardState, LogId, LogIndex, Membership, Message, NodeId, SnapshotId,
    SnapshotMeta, Target, Term, TermRun, Write, WriteId,
};

pub(crate) fn id(term: u64, index: u64) -> LogId {
    LogId::new(Term::new(term), LogIndex::new(index))
}

pub(crate) fn nodes(ids: &[u64]) -> BTreeSet<NodeId> {
    ids.iter().copied().map(NodeId::new).collect()
}

pub(crate) fn commands(first: LogId, commands: impl IntoIterator<Item = Vec<u8>>) -> Entries {
    let mut packer = CommandPacker::default();
    commands.into_iter().for_each(|command| packer.push_bytes(command.into()));
    Entries::commands(first, &packer.finish())
}

pub(crate) fn write(hard_state: Option<HardState>, entries: Entries) -> Write {
    let id: WriteId = serde_json::from_str("1").unwrap();
    Write { id, hard_state, reset_to: None, entries }
}

pub(crate) fn reset(hard_state: Option<HardState>, to: LogId, entries: Entries) -> Write {
    Write { reset_to: Some(to), ..write(hard_state, entries) }
}

pub(crate) fn run(term: u64, first: u64) -> TermRun {
    TermRun { term: Term::new(term), first: LogIndex::new(first) }
}

/// A snapshot through 9@2 while the joint phase lasts.
pub(crate) fn meta() -> SnapshotMeta {
    SnapshotMeta {
        id: SnapshotId { last: id(2, 9), taken_by: NodeId::new(1), seq: 3 },
        membership: Arc::new(joint()),
        membership_index: LogIndex::new(7),
        size_bytes: 0x0001_0000,
        digest: 0xfeed,
        terms: [run(1, 4), run(2, 6)].into(),
    }
}

/// The configuration of the joint phase in which node 2 leaves, node 3 is demoted and node 4 comes.
pub(crate) fn joint() -> Membership {
    Membership {
        voters: nodes(&[1, 4]),
        outgoing: nodes(&[1, 2, 3]),
        learners: nodes(&[9]),
        learners_next: nodes(&[3]),
        intent: Some(Target { voters: nodes(&[1, 4]), learners: nodes(&[3, 9]) }),
        nodes: [1, 2, 3, 4, 9].map(|n| (NodeId::new(n), Bytes::from(format!("h{n}")))).into(),
    }
}

pub(crate) fn encoded(encode: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    encode(&mut out);
    out
}

pub(crate) fn message_bytes(message: &Message) -> Vec<u8> {
    encoded(|out| encode_message(message, out))
}

pub(crate) fn entries_bytes(entries: &Entries) -> Vec<u8> {
    encoded(|out| encode_entries(entries, out))
}

pub(crate) fn membership_bytes(membership: &Membership) -> Vec<u8> {
    encoded(|out| encode_membership(membership, out))
}

pub(crate) fn meta_bytes(meta: &SnapshotMeta) -> Vec<u8> {
    encoded(|out| encode_snapshot_meta(meta, out))
}

pub(crate) fn record_bytes(write: &Write) -> Vec<u8> {
    encoded(|out| encode_record(write, crc32fast::hash, out))
}

pub(crate) fn read_all(file: impl Into<Bytes>) -> (Vec<Record>, usize, Result<(), WireError>) {
    let mut reader = RecordReader::new(file.into(), crc32fast::hash);
    let mut records = Vec::new();
    loop {
        match reader.next_record() {
            Ok(Some(record)) => records.push(record),
            Ok(None) => return (records, reader.offset(), Ok(())),
            Err(error) => {
                assert_eq!(reader.next_record(), Err(error), "an error stays");
                return (records, reader.offset(), Err(error));
            }
        }
    }
}
