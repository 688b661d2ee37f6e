//! Logs as plain lists, to be compared with each other (Log Matching, §5.3).

use std::collections::BTreeSet;
use std::sync::Arc;

use raft_core::{Entries, EntryRef, Form, LogId, LogIndex, Membership, NodeId};
use twox_hash::XxHash3_64;

/// What a machine keeps of an entry, in bytes.
pub(super) const ENTRY_BYTES: u64 = 16;

/// An entry: its term, and a hash of what it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Item {
    pub(super) term: u64,
    pub(super) body: u64,
}

impl Item {
    pub(super) fn of(entry: &EntryRef<'_>) -> Self {
        let term = entry.id().term.get();
        let body = match entry {
            EntryRef::Noop(_) => 0,
            EntryRef::Command(_, command) => command_body(command),
            EntryRef::Membership(_, membership) => {
                let mut form = Form::default();
                form.add(NodeId::new(0), &***membership);
                XxHash3_64::oneshot(&form.bytes)
            }
        };
        Self { term, body }
    }

    pub(super) fn to_bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.term.to_le_bytes());
        bytes[8..].copy_from_slice(&self.body.to_le_bytes());
        bytes
    }

    /// What [`to_bytes`](Self::to_bytes) wrote, for as many as there are.
    pub(super) fn read(bytes: &[u8]) -> Vec<Self> {
        let number = |part: &[u8]| part.iter().rev().fold(0, |high, byte| high << 8 | u64::from(*byte));
        let item = |part: &[u8]| Self { term: number(&part[..8]), body: number(&part[8..]) };
        bytes.chunks_exact(16).map(item).collect()
    }
}

/// What a command's entry says.
pub(super) fn command_body(command: &[u8]) -> u64 {
    1 + XxHash3_64::oneshot(command) % (u64::MAX - 1)
}

/// A log behind its base.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct View {
    base_index: u64,
    base_term: u64,
    items: Vec<Item>,
    /// Where configurations stand in it.
    configurations: Vec<u64>,
}

impl View {
    pub(super) fn new(base: LogId, entries: &Entries) -> Self {
        let items = entries.iter().map(|entry| Item::of(&entry)).collect();
        let configurations = entries.iter().filter_map(|entry| match entry {
            EntryRef::Membership(id, _) => Some(id.index.get()),
            _ => None,
        });
        let configurations = configurations.collect();
        Self { base_index: base.index.get(), base_term: base.term.get(), items, configurations }
    }

    pub(super) fn last_index(&self) -> u64 {
        self.base_index + self.items.len() as u64
    }

    /// The entry at `index`, if it is in the log and not only in a snapshot.
    pub(super) fn item(&self, index: u64) -> Option<Item> {
        let at = index.checked_sub(self.base_index + 1)?;
        self.items.get(usize::try_from(at).ok()?).copied()
    }

    pub(super) fn term(&self, index: u64) -> Option<u64> {
        if index == self.base_index { Some(self.base_term) } else { self.item(index).map(|item| item.term) }
    }

    /// Whether the entry is in the log, or in the snapshot before it.
    pub(super) fn holds(&self, index: u64, item: Item) -> bool {
        match index.cmp(&self.base_index) {
            std::cmp::Ordering::Less => true,
            std::cmp::Ordering::Equal => self.base_term == item.term,
            std::cmp::Ordering::Greater => self.item(index) == Some(item),
        }
    }

    /// How many configurations stand behind `index`.
    pub(super) fn configurations_after(&self, index: u64) -> usize {
        self.configurations.iter().filter(|at| **at > index).count()
    }

    /// If two logs contain an entry with the same index and term, they are the same up to there (§5.3). Where they are not.
    pub(super) fn mismatch(&self, other: &Self) -> Option<u64> {
        let first = self.base_index.max(other.base_index);
        let last = self.last_index().min(other.last_index());
        let same = (first..=last).rev().find(|index| self.term(*index) == other.term(*index))?;
        (first..=same).find(|index| {
            let differs = |one: Option<Item>, two: Option<Item>| one.is_some() && two.is_some() && one != two;
            self.term(*index) != other.term(*index) || differs(self.item(*index), other.item(*index))
        })
    }
}

/// A majority, of both sets while joint (§6).
pub(super) fn decides(membership: &Membership, yes: &dyn Fn(NodeId) -> bool) -> bool {
    let majority = |set: &BTreeSet<NodeId>| set.iter().filter(|node| yes(**node)).count() > set.len() / 2;
    majority(&membership.voters) && (membership.outgoing.is_empty() || majority(&membership.outgoing))
}

/// Whether whoever decides by `one` has a server in common with whoever decides by `two` (§6).
pub(super) fn intersect(one: &Membership, two: &Membership) -> bool {
    let nodes: Vec<NodeId> = one.members().union(&two.members()).copied().collect();
    let chosen = |set: u32| {
        let nodes = &nodes;
        move |node: NodeId| nodes.iter().position(|other| *other == node).is_some_and(|at| set >> at & 1 == 1)
    };
    // Two that have nothing in common would be a set and what it leaves.
    (0..1_u32 << nodes.len()).all(|set| !decides(one, &chosen(set)) || !decides(two, &chosen(!set)))
}

/// The configurations of a log in their order.
pub(super) fn configurations(entries: &Entries) -> Vec<(LogIndex, Arc<Membership>)> {
    let membership = |entry: EntryRef<'_>| match entry {
        EntryRef::Membership(id, membership) => Some((id.index, Arc::clone(membership))),
        _ => None,
    };
    entries.iter().filter_map(membership).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{commands, id, joint, voters};

    fn view(parts: &[Entries]) -> View {
        View::new(LogId::ZERO, &Entries::join(parts.iter().cloned()).unwrap())
    }

    #[test]
    fn logs_that_share_an_entry_share_what_comes_before() {
        let begin = commands(1, 1, &["a", "b"]);
        let one = view(&[begin.clone(), commands(3, 2, &["c"])]);
        assert_eq!(one.mismatch(&view(&[begin.clone(), commands(3, 3, &["d"])])), None, "they part at 3");
        assert_eq!(one.mismatch(&view(&[begin])), None);
        assert_eq!(one.mismatch(&view(&[commands(1, 1, &["a", "x"]), commands(3, 2, &["c"])])), Some(2));
        assert_eq!(one.mismatch(&view(&[commands(1, 1, &["a"]), commands(2, 2, &["b", "c"])])), Some(2));
        let behind = View::new(id(2, 2), &commands(3, 2, &["c"]));
        assert_eq!(one.mismatch(&behind), Some(2), "the entry before the first is of another term");
    }

    #[test]
    fn neighbours_by_one_server_intersect_and_strangers_do_not() {
        assert!(intersect(&voters(&[1, 2, 3]), &voters(&[1, 2])));
        assert!(!intersect(&voters(&[1, 2, 3]), &voters(&[1, 4, 5])));
        assert!(intersect(&voters(&[1, 2, 3]), &joint(&[1, 2, 3], &[4, 5])));
        assert!(intersect(&joint(&[1, 2, 3], &[4, 5]), &voters(&[4, 5])));
        assert!(!intersect(&voters(&[1, 2, 3]), &voters(&[4])));
    }

    #[test]
    fn items_survive_as_bytes() {
        let items = [Item { term: 3, body: 0 }, Item { term: 4, body: u64::MAX }];
        assert_eq!(Item::read(&items.map(Item::to_bytes).concat()), items);
    }
}
