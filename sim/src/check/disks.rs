//! Persist before send: what a node says aloud must be durable on its own disk (Figure 2, DESIGN §4).
//!
//! * Keeps, for each node, what is synced and what was handed out to be written: identities only.
//! * No message of a term leaves before a synced hard state of at least that term; pre-votes excepted, since
//!   they promise nothing.
//! * What a crash leaves is exactly a prefix of the parts of the writes that were not synced.
//! * A log that was reset or compacted is known by its last entry all the same: what came before is in the snapshot.

use std::collections::VecDeque;

use raft_core::{
    Body, HardState, InstallProgress, LogId, LogIndex, LogRecovery, Message, NodeId, Status, Write, WriteId,
};

use super::book::Book;
use super::{Broken, Check, ensure};

const CHECKER: &str = "persist-before-send";

#[derive(Clone, Copy, Debug, Default)]
struct Contents {
    hard_state: HardState,
    last: LogId,
    /// The entry before the first one in the log.
    base: LogId,
}

#[derive(Debug, Default)]
struct NodeDisk {
    synced: Contents,
    /// With every write that was handed out.
    handed: Contents,
    /// What the disk will hold when each of these is synced.
    unsynced: VecDeque<(WriteId, Contents)>,
}

/// What the nodes' disks hold.
#[derive(Debug)]
pub(crate) struct Disks {
    nodes: Vec<NodeDisk>,
}

impl Disks {
    pub(crate) fn new(nodes: usize) -> Self {
        Self { nodes: (0..nodes).map(|_| NodeDisk::default()).collect() }
    }

    fn disk(&self, node: NodeId) -> &NodeDisk {
        &self.nodes[slot(node)]
    }

    /// The last entry of the node's synced log.
    pub(crate) fn last(&self, node: NodeId) -> LogId {
        self.disk(node).synced.last
    }

    /// The node's synced hard state.
    pub(crate) fn hard_state(&self, node: NodeId) -> HardState {
        self.disk(node).synced.hard_state
    }

    /// The last entry of the log that the node has handed out to be written.
    pub(crate) fn handed(&self, node: NodeId) -> LogId {
        self.disk(node).handed.last
    }

    /// Every node.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = NodeId> + use<> {
        (1..=self.nodes.len() as u64).map(NodeId::new)
    }

    /// Whether the entry is in the node's synced log.
    pub(crate) fn holds(&self, node: NodeId, id: LogId, book: &Book) -> bool {
        book.at(self.last(node), id.index) == Some(id)
    }

    /// Whether a crash that left so many of the parts of unsynced writes cut one of these writes.
    pub(crate) fn is_cut(&self, node: NodeId, whole: usize) -> bool {
        let unsynced = &self.disk(node).unsynced;
        let part = |at: usize| unsynced.get(at).map(|(id, _)| *id);
        whole > 0 && part(whole).is_some() && part(whole) == part(whole - 1)
    }

    /// Where the node's log begins, once everything handed out is done.
    pub(crate) fn base(&self, node: NodeId) -> LogId {
        self.disk(node).handed.base
    }

    /// A write, or a part of one, was handed to the disk.
    pub(crate) fn written(&mut self, node: NodeId, write: &Write) {
        let disk = &mut self.nodes[slot(node)];
        if let Some(hard_state) = write.hard_state {
            disk.handed.hard_state = hard_state;
        }
        if let Some(base) = write.reset_to {
            (disk.handed.last, disk.handed.base) = (base, base);
        }
        if let Some(last) = write.entries.last() {
            disk.handed.last = last;
        }
        disk.unsynced.push_back((write.id, disk.handed));
    }

    /// The node drops the entries through this one, which must be durable.
    pub(crate) fn compacted(&mut self, node: NodeId, through: LogId, book: &Book) -> Check {
        ensure!(
            "compaction",
            self.holds(node, through, book),
            "n{node} compacts through {through}, but its synced log ends at {}",
            self.last(node)
        );
        let disk = &mut self.nodes[slot(node)];
        for contents in disk.unsynced.iter_mut().map(|(_, contents)| contents) {
            contents.base = contents.base.max(through);
        }
        disk.synced.base = disk.synced.base.max(through);
        disk.handed.base = disk.handed.base.max(through);
        Ok(())
    }

    /// Makes the writes through this one durable. Returns the hard states that became durable with it.
    pub(crate) fn synced(&mut self, node: NodeId, through: WriteId) -> Result<Vec<HardState>, Broken> {
        let disk = &mut self.nodes[slot(node)];
        let mut hard_states = Vec::new();
        let mut waited = false;
        while let Some((id, contents)) = disk.unsynced.front().filter(|(id, _)| *id <= through).copied() {
            if contents.hard_state != disk.synced.hard_state {
                hard_states.push(contents.hard_state);
            }
            disk.synced = contents;
            disk.unsynced.pop_front();
            waited = id == through;
        }
        ensure!(CHECKER, waited, "n{node} synced write {through:?}, which is not waiting");
        Ok(hard_states)
    }

    /// A node read its disk after a crash, and `whole` of the parts of writes that were not synced had survived.
    pub(crate) fn recovered(
        &mut self,
        node: NodeId,
        found: &LogRecovery,
        whole: usize,
        book: &Book,
    ) -> Check {
        let (hard_state, last, base) = (found.hard_state, found.last, found.base);
        let disk = &mut self.nodes[slot(node)];
        let expected = match whole.checked_sub(1) {
            None => disk.synced,
            Some(at) => disk.unsynced.get(at).map_or(disk.handed, |(_, contents)| *contents),
        };
        ensure!(
            "recovery",
            (expected.hard_state, expected.last) == (hard_state, last),
            "n{node} found {hard_state:?} and a log through {last}, but {expected:?} was stored"
        );
        // A compaction may be undone by a crash, and nothing else moves the beginning of a log.
        ensure!(
            "recovery",
            base.index <= expected.base.index && book.at(last, base.index) == Some(base),
            "n{node} found a log that begins after {base}, but it began after {}",
            expected.base
        );
        let expected = Contents { base, ..expected };
        *disk = NodeDisk { synced: expected, handed: expected, unsynced: VecDeque::new() };
        Ok(())
    }

    /// A node's status says through where its log is durable.
    pub(crate) fn claimed(&self, status: &Status, book: &Book) -> Check {
        let claimed = book.at(status.last, status.durable);
        ensure!(
            CHECKER,
            claimed.is_some_and(|id| self.holds(status.id, id, book)),
            "n{} takes its log for durable through {}, but {} is synced",
            status.id,
            status.durable,
            self.last(status.id)
        );
        Ok(())
    }

    /// A node asks its disk for entries.
    pub(crate) fn reads(&self, node: NodeId, from: LogIndex, through: LogIndex) -> Check {
        let (last, base) = (self.last(node), self.base(node));
        ensure!(
            "read-log",
            base.index < from && from <= through && through <= last.index,
            "n{node} reads entries {from} through {through} of a log that is synced from {base} through {last}"
        );
        Ok(())
    }

    /// A node sends a message.
    pub(crate) fn sent(&self, message: &Message, book: &Book) -> Check {
        let (from, term) = (message.from, message.term);
        if matches!(message.body, Body::PreVote { .. } | Body::PreVoteReply { .. }) {
            return Ok(());
        }
        let synced = self.hard_state(from);
        ensure!(CHECKER, synced.term >= term, "{message:?}, but the synced hard state is {synced:?}");
        // Votes are looked at by the election checker, which remembers every one that was durable. What a candidate
        // advertises need not be synced: a crash ends its candidacy, and the synced vote bars it from another one
        // in that term.
        let matched = match message.body {
            Body::AppendEntriesReply { result: Ok(matched), .. } => Some(matched),
            Body::InstallSnapshotReply { progress: InstallProgress::Installed(matched), .. } => Some(matched),
            _ => None,
        };
        if let Some(matched) = matched {
            let leaders = book.tip(term).and_then(|tip| book.at(tip, matched));
            let synced = self.last(from);
            ensure!(
                CHECKER,
                leaders.is_some() && leaders == book.at(synced, matched),
                "{message:?}, but the synced log ends at {synced}, and the leader has {leaders:?} there"
            );
        }
        Ok(())
    }
}

/// Nodes are numbered from 1.
pub(super) fn slot(node: NodeId) -> usize {
    usize::try_from(node.get()).expect("a node of the simulated cluster") - 1
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::book::tests::book;
    use super::*;
    use crate::testing::{hard_state, id, index, message, node, puts, status, write, write_id};
    use raft_core::Entries;

    /// Puts the log that ends with `last` on a node's disk, synced.
    pub(in crate::check) fn hold(disks: &mut Disks, on: u64, term: u64, last: LogId) {
        let disk = &mut disks.nodes[slot(node(on))];
        disk.synced = Contents { hard_state: hard_state(term, 0).unwrap(), last, base: LogId::ZERO };
        disk.handed = disk.synced;
    }

    fn matched(index: u64) -> Body {
        Body::AppendEntriesReply { result: Ok(LogIndex::new(index)), round: 1 }
    }

    #[test]
    fn nothing_of_a_term_leaves_before_its_hard_state_is_synced() {
        let book = book();
        let mut disks = Disks::new(2);
        disks.written(node(1), &write(1, hard_state(3, 1), Entries::empty()));
        let early = message(1, 2, 3, Body::RequestVote { last: LogId::ZERO, transfer: false });
        assert!(disks.sent(&early, &book).unwrap_err().what.contains("synced hard state"));
        let promise =
            message(1, 2, 3, Body::PreVote { proposed: crate::testing::term(4), last: LogId::ZERO });
        assert_eq!(disks.sent(&promise, &book), Ok(()));
        assert_eq!(disks.synced(node(1), write_id(1)).unwrap(), [hard_state(3, 1).unwrap()]);
        assert_eq!(disks.sent(&early, &book), Ok(()));
        assert!(disks.synced(node(1), write_id(1)).is_err());
    }

    #[test]
    fn an_acknowledgement_needs_the_leaders_entries_synced() {
        let book = book();
        let mut disks = Disks::new(3);
        hold(&mut disks, 3, 3, id(4, 2));
        // Term 3's leader shares 1 through 3 with term 2's.
        assert_eq!(disks.sent(&message(3, 2, 3, matched(3)), &book), Ok(()));
        assert!(disks.sent(&message(3, 2, 3, matched(4)), &book).is_err());
        assert!(disks.sent(&message(3, 2, 3, matched(9)), &book).is_err());
        disks.written(node(3), &write(1, None, puts(4, 3, &[4, 5])));
        assert!(disks.sent(&message(3, 2, 3, matched(5)), &book).is_err());
        disks.synced(node(3), write_id(1)).unwrap();
        assert_eq!(disks.sent(&message(3, 2, 3, matched(5)), &book), Ok(()));
    }

    #[test]
    fn a_claim_or_a_read_beyond_what_is_synced_is_seen() {
        let book = book();
        let mut disks = Disks::new(3);
        hold(&mut disks, 3, 3, id(4, 2));
        let mut claim = status(3, 3);
        (claim.last, claim.durable) = (id(5, 3), index(3));
        assert_eq!(disks.claimed(&claim, &book), Ok(()));
        claim.durable = index(4);
        assert!(disks.claimed(&claim, &book).is_err());
        assert_eq!(disks.reads(node(3), index(1), index(4)), Ok(()));
        assert!(disks.reads(node(3), index(1), index(5)).is_err());
        assert!(disks.reads(node(3), index(0), index(2)).is_err());
    }

    #[test]
    fn a_crash_leaves_a_prefix_of_the_writes() {
        let mut disks = Disks::new(1);
        hold(&mut disks, 1, 2, id(2, 2));
        let handed = |disks: &mut Disks| {
            disks.written(node(1), &write(1, None, puts(3, 2, &[3])));
            disks.written(node(1), &write(2, hard_state(3, 2), Entries::empty()));
        };
        handed(&mut disks);
        let book = book();
        let found = |disks: &mut Disks, term, last, whole| {
            let hard_state = hard_state(term, if term == 3 { 2 } else { 0 }).unwrap();
            let found = LogRecovery { hard_state, last, ..LogRecovery::default() };
            disks.recovered(node(1), &found, whole, &book)
        };
        assert!(found(&mut disks, 2, id(1, 1), 0).is_err());
        assert!(found(&mut disks, 3, id(3, 2), 1).is_err());
        assert_eq!(found(&mut disks, 2, id(3, 2), 1), Ok(()));
        assert_eq!(disks.handed(node(1)), id(3, 2));
        assert_eq!(found(&mut disks, 2, id(3, 2), 0), Ok(()));
    }

    #[test]
    fn a_reset_log_counts_only_when_it_is_synced_and_a_compaction_drops_what_is() {
        let book = book();
        let mut disks = Disks::new(1);
        hold(&mut disks, 1, 3, id(2, 2));
        let reset = Write { reset_to: Some(id(4, 3)), ..write(1, None, Entries::empty()) };
        disks.written(node(1), &reset);
        assert!(!disks.holds(node(1), id(4, 3), &book));
        disks.synced(node(1), write_id(1)).unwrap();
        assert!(disks.holds(node(1), id(4, 3), &book) && disks.holds(node(1), id(2, 2), &book));
        assert!(disks.reads(node(1), index(4), index(4)).is_err());
        disks.written(node(1), &write(2, None, puts(5, 3, &[5])));
        assert!(disks.compacted(node(1), id(5, 3), &book).is_err());
        disks.synced(node(1), write_id(2)).unwrap();
        assert_eq!(disks.reads(node(1), index(5), index(5)), Ok(()));
        assert_eq!(disks.compacted(node(1), id(5, 3), &book), Ok(()));
        assert!(disks.reads(node(1), index(5), index(5)).is_err());
        // The crash may undo the compaction, but not the reset.
        let found = |base| LogRecovery {
            hard_state: hard_state(3, 0).unwrap(),
            last: id(5, 3),
            base,
            ..LogRecovery::default()
        };
        assert!(disks.recovered(node(1), &found(id(5, 2)), 0, &book).is_err());
        assert_eq!(disks.recovered(node(1), &found(id(4, 3)), 0, &book), Ok(()));
        assert!(disks.recovered(node(1), &found(id(5, 3)), 0, &book).is_err());
    }
}
