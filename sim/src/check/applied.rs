//! State-Machine Safety (§5.4.3): every state machine applies the committed log, in order, each entry once.
//!
//! * What is applied is committed, and synced on the node's own disk.
//! * Within one life of a node there is no gap, and nothing is applied twice.
//! * Machines that have come to the same index are equal by digest.

use std::collections::BTreeMap;

use raft_core::{Entries, LogId, LogIndex, NodeId};

use super::book::Book;
use super::commit::Commit;
use super::disks::{Disks, slot};
use super::{Check, ensure};

const CHECKER: &str = "applied";

/// How far each node's state machine was told to go.
#[derive(Debug)]
pub(crate) struct Applied {
    handed: Vec<LogIndex>,
    /// The machines' digest at an index, as first seen.
    digests: BTreeMap<LogIndex, (NodeId, u64)>,
}

impl Applied {
    pub(crate) fn new(nodes: usize) -> Self {
        Self { handed: vec![LogIndex::ZERO; nodes], digests: BTreeMap::new() }
    }

    /// A node started with a machine that holds `applied`.
    pub(crate) fn restarted(&mut self, node: NodeId, applied: LogId, commit: &Commit) -> Check {
        let known = commit.id_at(applied.index);
        ensure!(
            CHECKER,
            applied == LogId::ZERO || known == Some(applied),
            "n{node}'s machine kept {applied}, but {known:?} is committed there"
        );
        self.handed[slot(node)] = applied.index;
        Ok(())
    }

    /// A node hands entries to its machine.
    pub(crate) fn applies(
        &mut self,
        node: NodeId,
        entries: &Entries,
        book: &Book,
        commit: &Commit,
        disks: &Disks,
    ) -> Check {
        let handed = &mut self.handed[slot(node)];
        ensure!(CHECKER, !entries.is_empty(), "n{node} applies nothing");
        for entry in entries.iter() {
            let id = entry.id();
            ensure!(CHECKER, id.index == handed.next(), "n{node} applies {id} after index {handed}");
            let known = commit.id_at(id.index);
            ensure!(CHECKER, known == Some(id), "n{node} applies {id}, but {known:?} is committed there");
            *handed = id.index;
        }
        if let Some(last) = entries.last() {
            ensure!(
                CHECKER,
                disks.holds(node, last, book),
                "n{node} applies through {last}, but its synced log ends at {}",
                disks.last(node)
            );
        }
        book.verify(entries)
    }

    /// A machine has come to `index`.
    pub(crate) fn digest(&mut self, node: NodeId, index: LogIndex, digest: u64) -> Check {
        let (other, known) = *self.digests.entry(index).or_insert((node, digest));
        ensure!(CHECKER, known == digest, "the machines of n{other} and n{node} differ at index {index}");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::book::tests::book;
    use super::super::commit::tests::committed;
    use super::super::disks::tests::hold;
    use super::*;
    use crate::testing::{id, index, node, puts};

    #[test]
    fn gaps_repetitions_and_foreign_entries_are_seen() {
        let book = book();
        let commit = committed(&book, id(5, 3));
        let mut disks = Disks::new(2);
        hold(&mut disks, 1, 3, id(5, 3));
        let mut applied = Applied::new(2);
        applied.restarted(node(1), id(1, 1), &commit).unwrap();
        let mut applies = |entries| applied.applies(node(1), &entries, &book, &commit, &disks);
        assert!(applies(puts(3, 2, &[2])).unwrap_err().what.contains("after index 1"));
        assert_eq!(applies(puts(2, 2, &[1, 2])), Ok(()));
        assert!(applies(puts(3, 2, &[2])).unwrap_err().what.contains("after index 3"));
        assert!(applies(puts(4, 2, &[3])).unwrap_err().what.contains("is committed there"));
        assert!(applies(puts(4, 3, &[7])).unwrap_err().what.contains("was written as"));
        assert!(applies(Entries::empty()).is_err());
    }

    #[test]
    fn what_is_not_committed_or_not_synced_here_is_not_applied() {
        let book = book();
        let commit = committed(&book, id(3, 2));
        let mut disks = Disks::new(2);
        hold(&mut disks, 1, 3, id(2, 2));
        let mut applied = Applied::new(2);
        applied.restarted(node(1), id(2, 2), &commit).unwrap();
        let broken = applied.applies(node(1), &puts(3, 2, &[2]), &book, &commit, &disks).unwrap_err();
        assert!(broken.what.contains("synced log ends at 2@2"), "{broken}");
        hold(&mut disks, 1, 3, id(5, 3));
        applied.restarted(node(1), id(3, 2), &commit).unwrap();
        assert!(applied.applies(node(1), &puts(4, 3, &[4]), &book, &commit, &disks).is_err());
        assert!(applied.restarted(node(1), id(4, 3), &commit).is_err());
    }

    #[test]
    fn machines_that_differ_at_an_index_are_seen() {
        let mut applied = Applied::new(2);
        assert_eq!(applied.digest(node(1), index(4), 99), Ok(()));
        assert_eq!(applied.digest(node(2), index(5), 98), Ok(()));
        assert_eq!(applied.digest(node(2), index(4), 99), Ok(()));
        assert!(applied.digest(node(2), index(5), 97).is_err());
    }
}
