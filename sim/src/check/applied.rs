//! State-Machine Safety (§5.4.3): every state machine applies the committed log, in order, each entry once.
//!
//! * What is applied is committed, and synced on the node's own disk.
//! * Within one life of a node there is no gap, nothing is applied twice, and a snapshot only takes a machine forward.
//! * A machine that has come to an index, by whatever way, is what the committed log adds up to there, by digest.
//! * Who was told that a command will be applied here gets it applied here, not swallowed by a snapshot.

use std::collections::BTreeMap;

use raft_core::{Entries, LogId, LogIndex, NodeId};

use super::book::Book;
use super::commit::Commit;
use super::disks::{Disks, slot};
use super::{Check, OpId, ensure};
use crate::machine::State;

const CHECKER: &str = "applied";

/// How far each node's state machine was told to go.
#[derive(Debug)]
pub(crate) struct Applied {
    handed: Vec<LogIndex>,
    /// The operations that each node promised to apply.
    promised: Vec<BTreeMap<LogIndex, OpId>>,
}

impl Applied {
    pub(crate) fn new(nodes: usize) -> Self {
        Self { handed: vec![LogIndex::ZERO; nodes], promised: vec![BTreeMap::new(); nodes] }
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
        self.promised[slot(node)].clear();
        Ok(())
    }

    /// A node answered that it will apply an operation.
    pub(crate) fn promised(&mut self, node: NodeId, op: OpId, at: LogIndex) -> Check {
        let handed = self.handed[slot(node)];
        ensure!(CHECKER, at > handed, "n{node} promises to apply operation {op} at {at} and is at {handed}");
        self.promised[slot(node)].insert(at, op);
        Ok(())
    }

    /// A node hands a snapshot to its machine.
    pub(crate) fn restores(&mut self, node: NodeId, last: LogId, commit: &Commit) -> Check {
        let handed = &mut self.handed[slot(node)];
        ensure!(
            CHECKER,
            last.index > *handed,
            "n{node} restores a snapshot through {last} at index {handed}"
        );
        let known = commit.id_at(last.index);
        ensure!(CHECKER, known == Some(last), "n{node} restores {last}, but {known:?} is committed there");
        *handed = last.index;
        let broken = self.promised[slot(node)].first_key_value().filter(|(at, _)| **at <= last.index);
        ensure!(
            CHECKER,
            broken.is_none(),
            "n{node} restores a snapshot through {last}, and had promised to apply {broken:?} (index, operation)"
        );
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
        let handed = *handed;
        let promised = &mut self.promised[slot(node)];
        while promised
            .first_entry()
            .filter(|first| *first.key() <= handed)
            .map(|first| first.remove())
            .is_some()
        {}
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

    /// A machine has come to where it says.
    pub(crate) fn machine(&self, node: NodeId, state: &State, commit: &Commit) -> Check {
        let at = state.applied;
        let known = commit.id_at(at.index).unwrap_or_default();
        ensure!(CHECKER, at == known, "n{node}'s machine is at {at}, and {known} is committed there");
        let (digest, values) = commit.state_at(at.index).unwrap_or_default();
        ensure!(
            CHECKER,
            state.digest == digest && state.values_digest() == values,
            "n{node}'s machine at {at} is not what the committed log adds up to"
        );
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
    fn a_machine_that_is_not_what_the_log_adds_up_to_is_seen() {
        let book = book();
        let commit = committed(&book, id(5, 3));
        let applied = Applied::new(2);
        let mut state = State::default();
        state.apply(id(1, 1), None);
        assert_eq!(applied.machine(node(1), &state, &commit), Ok(()));
        state.apply(id(2, 2), Some((1, 0)));
        assert_eq!(applied.machine(node(1), &state, &commit), Ok(()));
        state.apply(id(3, 2), Some((7, 0)));
        assert!(applied.machine(node(1), &state, &commit).is_err());
    }

    #[test]
    fn a_snapshot_takes_a_machine_forward_and_swallows_no_promise() {
        let book = book();
        let commit = committed(&book, id(5, 3));
        let mut applied = Applied::new(2);
        applied.restarted(node(1), id(1, 1), &commit).unwrap();
        assert!(applied.restores(node(1), id(1, 1), &commit).is_err());
        assert!(applied.restores(node(1), id(4, 2), &commit).is_err());
        assert_eq!(applied.restores(node(1), id(3, 2), &commit), Ok(()));
        assert!(applied.promised(node(1), 7, index(3)).is_err());
        applied.promised(node(1), 7, index(4)).unwrap();
        assert!(applied.restores(node(1), id(5, 3), &commit).unwrap_err().what.contains("promised"));
        // After a restart nobody waits any more.
        applied.restarted(node(1), id(3, 2), &commit).unwrap();
        assert_eq!(applied.restores(node(1), id(5, 3), &commit), Ok(()));
    }
}
