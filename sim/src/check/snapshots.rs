//! Snapshots (§7): what they hold, when they count, and who relies on them.
//!
//! * A snapshot's bytes are what the committed log adds up to at its last entry; its membership and its terms are those
//!   of that log; its name is used once.
//! * What is sent or written as a part of a snapshot is that part of it: nothing is ever spliced (TRAP 43).
//! * A snapshot counts once it is durable: only then may it be restored, sent, or stand for entries that are dropped.
//! * A server whose log does not begin at the first entry holds a snapshot of what came before, always.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use raft_core::{LogId, LogIndex, NodeId, SnapshotId, SnapshotMeta, Status};

use super::book::Book;
use super::commit::Commit;
use super::disks::slot;
use super::{Check, ensure};
use crate::machine::State;

const CHECKER: &str = "snapshots";

/// All snapshots that were ever taken, and where they lie.
#[derive(Debug)]
pub(crate) struct Snapshots {
    taken: BTreeMap<SnapshotId, (Arc<SnapshotMeta>, Bytes)>,
    /// Complete and durable, by node.
    held: Vec<BTreeSet<SnapshotId>>,
}

impl Snapshots {
    pub(crate) fn new(nodes: usize) -> Self {
        Self { taken: BTreeMap::new(), held: vec![BTreeSet::new(); nodes] }
    }

    /// How many have been taken.
    pub(crate) fn count(&self) -> u64 {
        self.taken.len() as u64
    }

    /// A node's machine begins to take a snapshot: its size and digest are not known to the node.
    pub(crate) fn asked(&self, node: NodeId, meta: &SnapshotMeta, book: &Book, commit: &Commit) -> Check {
        let last = meta.id.last;
        ensure!(
            CHECKER,
            meta.id.taken_by == node && !self.taken.contains_key(&meta.id) && meta.validate().is_ok(),
            "n{node} takes a snapshot with an impossible or a used name: {meta:?}"
        );
        let known = commit.id_at(last.index);
        ensure!(
            CHECKER,
            known == Some(last),
            "n{node} takes a snapshot at {last}, and {known:?} is committed there"
        );
        let in_force = book.configuration(last);
        ensure!(
            CHECKER,
            in_force.is_some_and(|(at, membership)| {
                at.index == meta.membership_index && *membership == meta.membership
            }),
            "n{node}'s snapshot says {:?} at {}, but {in_force:?} is in force at {last}",
            meta.membership,
            meta.membership_index
        );
        for (at, run) in meta.terms.iter().enumerate() {
            let through = meta.terms.get(at + 1).map_or(last.index, |next| next.first.prev());
            let ends = [run.first, through].map(|index| book.at(last, index).map(|id| id.term));
            ensure!(
                CHECKER,
                ends == [Some(run.term); 2] && run.first <= through,
                "n{node}'s snapshot through {last} says that {} through {through} are of term {}: {ends:?}",
                run.first,
                run.term
            );
        }
        Ok(())
    }

    /// The bytes of a snapshot that a machine handed over. They are not durable yet.
    pub(crate) fn made(&mut self, meta: &Arc<SnapshotMeta>, bytes: &Bytes, commit: &Commit) -> Check {
        let state = State::decode(bytes);
        let truth = commit.state_at(meta.id.last.index);
        let held =
            state.as_ref().map(|(state, _)| (state.applied, Some((state.digest, state.values_digest()))));
        ensure!(
            CHECKER,
            held == Some((meta.id.last, truth)),
            "the bytes of {:?} hold {held:?}, and the committed log adds up to {truth:?}",
            meta.id
        );
        self.taken.insert(meta.id, (Arc::clone(meta), bytes.clone()));
        Ok(())
    }

    fn known(&self, node: NodeId, meta: &SnapshotMeta) -> Result<&Bytes, super::Broken> {
        match self.taken.get(&meta.id) {
            Some((known, bytes)) if **known == *meta => Ok(bytes),
            other => {
                let what =
                    format!("n{node} speaks of {meta:?}, and known is {:?}", other.map(|(known, _)| known));
                Err(super::Broken::new(CHECKER, what))
            }
        }
    }

    /// What a node sends or writes as a part of a snapshot is that part of it.
    pub(crate) fn part(
        &self,
        node: NodeId,
        meta: &SnapshotMeta,
        offset: u64,
        data: &[u8],
        done: bool,
    ) -> Check {
        let bytes = self.known(node, meta)?;
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        let truth = bytes.get(from..from.saturating_add(data.len()));
        let ends = from + data.len() == bytes.len();
        ensure!(
            CHECKER,
            truth == Some(data) && (ends == done || data.is_empty()),
            "n{node} has {} bytes from {offset} on of {:?} (done: {done}) that are not in it",
            data.len(),
            meta.id
        );
        Ok(())
    }

    /// A snapshot is durable from now on, put together from these bytes.
    pub(crate) fn completed(&mut self, node: NodeId, meta: &SnapshotMeta, bytes: &[u8]) -> Check {
        let known = self.known(node, meta)?;
        ensure!(CHECKER, known == bytes, "n{node} put {:?} together from other parts than its own", meta.id);
        self.held[slot(node)].insert(meta.id);
        Ok(())
    }

    /// A node reads a part of a snapshot.
    pub(crate) fn reads(&self, node: NodeId, id: SnapshotId) -> Check {
        ensure!(
            CHECKER,
            self.held[slot(node)].contains(&id),
            "n{node} reads {id:?}, and holds {:?}",
            self.held[slot(node)]
        );
        Ok(())
    }

    /// A node drops a snapshot.
    pub(crate) fn forgotten(&mut self, node: NodeId, id: SnapshotId, base: LogId) -> Check {
        self.held[slot(node)].remove(&id);
        self.covers(node, base)
    }

    /// What a node holds after a restart: `held`, and a log that begins after `base`.
    pub(crate) fn recovered(
        &mut self,
        node: NodeId,
        held: impl Iterator<Item = SnapshotId>,
        base: LogId,
    ) -> Check {
        self.held[slot(node)] = held.collect();
        self.covers(node, base)
    }

    /// What a node says is its newest complete snapshot.
    pub(crate) fn claimed(&self, status: &Status) -> Check {
        let held = &self.held[slot(status.id)];
        ensure!(
            CHECKER,
            status.snapshot == LogId::ZERO || held.iter().any(|id| id.last == status.snapshot),
            "n{} says that it has a snapshot through {}, and holds {held:?}",
            status.id,
            status.snapshot
        );
        ensure!(
            "compaction",
            status.base.index <= status.snapshot.index,
            "n{}'s log begins behind {}, and its newest snapshot ends at {}",
            status.id,
            status.base,
            status.snapshot
        );
        Ok(())
    }

    /// A node restores a snapshot.
    pub(crate) fn restores(&self, node: NodeId, meta: &SnapshotMeta) -> Check {
        self.known(node, meta)?;
        self.reads(node, meta.id)
    }

    /// A node drops its whole log: a durable snapshot has to end right there.
    pub(crate) fn reset(&self, node: NodeId, to: LogId) -> Check {
        let held = &self.held[slot(node)];
        ensure!(
            CHECKER,
            held.iter().any(|id| id.last == to),
            "n{node} begins its log anew behind {to}, and holds {held:?}"
        );
        Ok(())
    }

    /// A node drops the beginning of its log.
    pub(crate) fn compacted(
        &self,
        node: NodeId,
        through: LogId,
        applied: LogIndex,
        commit: &Commit,
    ) -> Check {
        ensure!(
            "compaction",
            through.index <= applied && commit.id_at(through.index) == Some(through),
            "n{node} compacts through {through}, and has applied through {applied}"
        );
        self.covers(node, through)
    }

    fn covers(&self, node: NodeId, base: LogId) -> Check {
        let held = &self.held[slot(node)];
        ensure!(
            "compaction",
            base == LogId::ZERO || held.iter().any(|id| id.last >= base),
            "n{node}'s log begins behind {base}, and of what came before it holds {held:?}"
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::book::tests::book;
    use super::super::commit::tests::committed;
    use super::*;
    use crate::snapshots::Stored;
    use crate::testing::{frozen, id, index, node, snapshot_meta, status, term, voters};
    use raft_core::{Entries, TermRun};

    /// The book with a configuration at 6@3.
    fn case() -> (Book, Commit, Snapshots) {
        let mut book = book();
        let entry = Entries::membership(id(6, 3), Arc::new(voters(&[1, 2, 3])));
        book.note(node(2), id(5, 3), &entry, &mut Vec::new()).unwrap();
        let commit = committed(&book, id(6, 3));
        (book, commit, Snapshots::new(2))
    }

    fn meta() -> SnapshotMeta {
        let runs = [(2, 2), (3, 4)].map(|(of, first)| TermRun { term: term(of), first: index(first) });
        SnapshotMeta { membership_index: index(6), terms: runs.into(), ..snapshot_meta(6, 3, 1) }
    }

    fn truth(commit: &Commit) -> Bytes {
        let applied = [(2, 2, Some(1)), (3, 2, Some(2)), (4, 3, Some(4)), (5, 3, Some(5)), (6, 3, None)];
        let bytes = frozen(100, &[&[(1, 1, None)], &applied[..]].concat());
        let (state, _) = State::decode(&bytes).unwrap();
        assert_eq!(commit.state_at(index(6)).unwrap().0, state.digest);
        bytes
    }

    #[test]
    fn a_snapshot_tells_the_truth_about_its_log() {
        let (book, commit, known) = case();
        let asked = |meta: &SnapshotMeta| known.asked(node(1), meta, &book, &commit);
        assert_eq!(asked(&meta()), Ok(()));
        let stale = SnapshotMeta { membership: Arc::new(voters(&[1, 2])), ..meta() };
        assert!(asked(&stale).unwrap_err().what.contains("is in force"));
        let elsewhere = SnapshotMeta { membership_index: index(1), ..meta() };
        assert!(asked(&elsewhere).is_err());
        let run = |of, first| TermRun { term: term(of), first: index(first) };
        let false_terms = SnapshotMeta { terms: [run(2, 2), run(3, 5)].into(), ..meta() };
        assert!(asked(&false_terms).unwrap_err().what.contains("are of term"));
        let uncommitted = SnapshotMeta { id: SnapshotId { last: id(7, 3), ..meta().id }, ..meta() };
        assert!(asked(&uncommitted).is_err());
        assert!(known.asked(node(2), &meta(), &book, &commit).unwrap_err().what.contains("name"));
    }

    #[test]
    fn bytes_that_are_not_the_state_or_not_in_the_snapshot_are_seen() {
        let (_, commit, mut known) = case();
        let stored = Stored::seal(&meta(), truth(&commit));
        let foreign = frozen(100, &[]);
        assert!(known.made(&stored.meta, &foreign, &commit).is_err());
        known.made(&stored.meta, &stored.bytes, &commit).unwrap();
        let part = |offset, data: &[u8], done| known.part(node(2), &stored.meta, offset, data, done);
        assert_eq!(part(0, &stored.bytes[..9], false), Ok(()));
        assert_eq!(part(9, &stored.bytes[9..], true), Ok(()));
        assert!(part(8, &stored.bytes[9..], true).is_err());
        assert!(part(0, &stored.bytes[..9], true).is_err());
        assert!(known.completed(node(2), &stored.meta, &stored.bytes[1..]).is_err());
        let altered = SnapshotMeta { digest: 1, ..(*stored.meta).clone() };
        assert!(known.part(node(2), &altered, 0, &[], false).unwrap_err().what.contains("known is"));
    }

    #[test]
    fn a_snapshot_counts_once_it_is_durable_and_as_long_as_it_is_needed() {
        let (_, commit, mut known) = case();
        let stored = Stored::seal(&meta(), truth(&commit));
        let name = stored.meta.id;
        known.made(&stored.meta, &stored.bytes, &commit).unwrap();
        known.completed(node(1), &stored.meta, &stored.bytes).unwrap();
        assert!(known.restores(node(2), &stored.meta).is_err());
        let says = Status { snapshot: id(6, 3), base: id(4, 3), ..status(2, 3) };
        assert!(known.claimed(&says).unwrap_err().what.contains("says that it has"));
        assert!(known.reset(node(2), id(6, 3)).is_err());
        known.completed(node(2), &stored.meta, &stored.bytes).unwrap();
        assert_eq!(known.restores(node(2), &stored.meta), Ok(()));
        assert_eq!(known.claimed(&says), Ok(()));
        assert!(known.claimed(&Status { base: id(7, 3), ..says }).is_err());
        assert_eq!(known.reset(node(2), id(6, 3)), Ok(()));
        assert!(known.reset(node(2), id(5, 3)).is_err());
        assert_eq!(known.compacted(node(2), id(4, 3), index(4), &commit), Ok(()));
        assert!(known.compacted(node(2), id(4, 3), index(3), &commit).is_err());
        assert!(known.forgotten(node(2), name, id(4, 3)).unwrap_err().what.contains("begins behind 4@3"));
        assert!(known.recovered(node(1), std::iter::empty(), id(1, 1)).is_err());
        assert_eq!(known.recovered(node(1), std::iter::empty(), LogId::ZERO), Ok(()));
        assert!(known.reads(node(1), name).is_err());
    }
}
