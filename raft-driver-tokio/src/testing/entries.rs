//! Made-up entries and writes, and entries as a plain list.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use raft_core::{
    Commands, Entries, EntryRef, HardState, LogId, LogIndex, Membership, NodeId, Term, Write, WriteId,
};
use serde::Deserialize;
use serde::de::value::{Error, SeqDeserializer};

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Payload {
    Noop,
    Command(Bytes),
    Membership(Arc<Membership>),
}

#[derive(Clone, PartialEq)]
pub(super) struct Entry {
    pub(super) id: LogId,
    pub(super) payload: Payload,
}

/// As short as a report needs it: what was written can be told from the beginning of a command.
impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.payload {
            Payload::Noop => write!(f, "{} no-op", self.id),
            Payload::Membership(membership) => {
                write!(f, "{} membership of {}", self.id, membership.nodes.len())
            }
            Payload::Command(command) => {
                let head = String::from_utf8_lossy(&command[..command.len().min(12)]).into_owned();
                write!(f, "{} command of {} bytes {head:?}", self.id, command.len())
            }
        }
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

pub(super) fn owned(entries: &Entries) -> Vec<Entry> {
    let owned = entries.iter().map(|entry| match entry {
        EntryRef::Noop(id) => Entry { id, payload: Payload::Noop },
        EntryRef::Command(id, command) => Entry { id, payload: Payload::Command(command.to_bytes()) },
        EntryRef::Membership(id, membership) => {
            Entry { id, payload: Payload::Membership(Arc::clone(membership)) }
        }
    });
    owned.collect()
}

pub(super) fn id(term: u64, index: u64) -> LogId {
    LogId::new(Term::new(term), LogIndex::new(index))
}

/// Commands whose content tells where and when they were written.
pub(super) fn commands(first: LogId, count: u64, bytes: usize) -> Entries {
    let command = |at: u64| {
        let id = LogId::new(first.term, first.index.plus(at));
        let mut command = format!("{id} ").into_bytes();
        let mut random = fastrand::Rng::with_seed(id.term.get() << 40 ^ id.index.get());
        command.resize_with(command.len().max(bytes), || random.u8(..));
        command.truncate(bytes);
        command
    };
    Entries::commands(first, &(0..count).map(command).collect::<Commands>())
}

pub(super) fn voters(count: u64) -> Arc<Membership> {
    let nodes = (1..=count).map(|node| (NodeId::new(node), Bytes::from(format!("node-{node}:1"))));
    Arc::new(Membership::of_voters(nodes.collect()))
}

/// Only nodes mint these; a store does not look at them.
pub(super) fn write_id(number: u64) -> WriteId {
    let fields: SeqDeserializer<_, Error> = SeqDeserializer::new(std::iter::once(number));
    WriteId::deserialize(fields).expect("a newtype around a number is read from a sequence of one")
}

/// A write in words.
pub(super) fn describe(write: &Write) -> String {
    let mut parts = Vec::new();
    if let Some(HardState { term, voted_for }) = write.hard_state {
        parts.push(match voted_for {
            Some(node) => format!("term {term} with a vote for {node}"),
            None => format!("term {term}"),
        });
    }
    parts.extend(write.reset_to.map(|base| format!("reset to {base}")));
    match (write.entries.first(), write.entries.last()) {
        (Some(first), Some(last)) if first == last => {
            parts.push(
                owned(&write.entries).first().map_or_else(String::new, |entry| format!("entry {entry}")),
            );
        }
        (Some(first), Some(last)) => {
            let bytes = write.entries.size_bytes();
            parts.push(format!("{} entries {first}..={last} of {bytes} bytes", write.entries.len()));
        }
        _ => {}
    }
    if parts.is_empty() { "nothing".into() } else { parts.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_up_writes_have_names_and_words() {
        assert_eq!(write_id(5).get(), 5);
        let hard_state = Some(HardState { term: Term::new(3), voted_for: Some(NodeId::new(2)) });
        let entries = commands(id(3, 8), 2, 20);
        let write = Write { id: write_id(1), hard_state, reset_to: Some(id(2, 7)), entries };
        let said = describe(&write);
        assert!(said.starts_with("term 3 with a vote for 2, reset to 7@2, 2 entries 8@3..=9@3 of"), "{said}");
        assert_eq!(owned(&write.entries)[1], owned(&commands(id(3, 9), 1, 20))[0], "by place alone");
    }
}
