//! What a machine is given: entries, told so that any of them can be left out.

use bytes::Bytes;
use raft_core::{Commands, Entries, EntryRef, LogId, LogIndex, Term};

use crate::testing::entries::voters;

#[derive(Clone, Copy, Debug)]
pub(super) struct Item {
    kind: Kind,
    new_term: bool,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    /// Made from this number.
    Command(u64),
    Noop,
    Membership(u64),
}

impl Item {
    pub(super) fn simpler(&self) -> Vec<Self> {
        if self.new_term { vec![Self { new_term: false, ..*self }] } else { Vec::new() }
    }
}

pub(super) fn history(random: &mut fastrand::Rng, entries: usize) -> Vec<Item> {
    let item = |random: &mut fastrand::Rng| {
        let kind = match random.u32(..12) {
            0 => Kind::Noop,
            1 => Kind::Membership(random.u64(1..5)),
            _ => Kind::Command(random.u64(..)),
        };
        Item { kind, new_term: random.u32(..10) == 0 }
    };
    (0..entries).map(|_| item(random)).collect()
}

/// The entries, each by itself; the first has index 1.
pub(super) fn log(items: &[Item], command: &dyn Fn(u64) -> Bytes) -> Vec<Entries> {
    let mut term = Term::BOOTSTRAP.get();
    let entry = |(at, item): (usize, &Item)| {
        term += u64::from(item.new_term);
        let id = LogId::new(Term::new(term), LogIndex::new(at as u64 + 1));
        match item.kind {
            Kind::Command(random) => Entries::commands(id, &Commands::one(command(random))),
            Kind::Noop => Entries::noop(id),
            Kind::Membership(count) => Entries::membership(id, voters(count)),
        }
    };
    items.iter().enumerate().map(entry).collect()
}

pub(super) fn joined(entries: &[Entries]) -> Entries {
    Entries::join(entries.iter().cloned()).expect("they follow each other")
}

/// The same entries in batches of any size.
pub(super) fn batches(entries: &[Entries], random: &mut fastrand::Rng) -> Vec<Entries> {
    let mut rest = entries;
    let mut batches = Vec::new();
    while !rest.is_empty() {
        let (batch, later) = rest.split_at(random.usize(1..=rest.len().min(12)));
        batches.push(joined(batch));
        rest = later;
    }
    batches
}

/// The entry in words.
pub(super) fn describe(entry: &Entries) -> String {
    match entry.iter().next() {
        Some(EntryRef::Command(id, command)) => {
            let bytes = command.to_bytes();
            let head = String::from_utf8_lossy(&bytes[..bytes.len().min(30)]).into_owned();
            format!("entry {id}: command of {} bytes {head:?}", bytes.len())
        }
        Some(EntryRef::Noop(id)) => format!("entry {id}: no-op"),
        Some(EntryRef::Membership(id, _)) => format!("entry {id}: membership"),
        None => String::new(),
    }
}
