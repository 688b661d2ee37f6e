//! Persist before send: what a node says aloud must be durable on its own disk (Figure 2, DESIGN §4).
//!
//! * Keeps, for each node, what is synced and what was handed out to be written: identities only.
//! * No message of a term leaves before a synced hard state of at least that term; pre-votes excepted, since
//!   they promise nothing.
//! * What a crash leaves is exactly a prefix of the writes that were not synced.

use std::collections::VecDeque;

use raft_core::{Body, HardState, LogId, LogIndex, Message, NodeId, Status, Write, WriteId};

use super::book::Book;
use super::{Broken, Check, ensure};

const CHECKER: &str = "persist-before-send";

#[derive(Clone, Copy, Debug, Default)]
struct Contents {
    hard_state: HardState,
    last: LogId,
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

    pub(crate) fn written(&mut self, node: NodeId, write: &Write) {
        let disk = &mut self.nodes[slot(node)];
        if let Some(hard_state) = write.hard_state {
            disk.handed.hard_state = hard_state;
        }
        if let Some(last) = write.entries.last() {
            disk.handed.last = last;
        }
        disk.unsynced.push_back((write.id, disk.handed));
    }

    /// Makes the writes through this one durable. Returns the hard states that became durable with it.
    pub(crate) fn synced(&mut self, node: NodeId, through: WriteId) -> Result<Vec<HardState>, Broken> {
        let disk = &mut self.nodes[slot(node)];
        let mut hard_states = Vec::new();
        while let Some((id, contents)) = disk.unsynced.front().filter(|(id, _)| *id <= through).copied() {
            if contents.hard_state != disk.synced.hard_state {
                hard_states.push(contents.hard_state);
            }
            disk.synced = contents;
            disk.unsynced.pop_front();
            if id == through {
                return Ok(hard_states);
            }
        }
        Err(Broken::new(CHECKER, format!("n{node} synced write {through:?}, which is not waiting")))
    }

    pub(crate) fn recovered(
        &mut self,
        node: NodeId,
        hard_state: HardState,
        last: LogId,
        whole: usize,
    ) -> Check {
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
        let last = self.last(node);
        ensure!(
            "read-log",
            LogIndex::ZERO < from && from <= through && through <= last.index,
            "n{node} reads entries {from} through {through} of a log that is synced through {last}"
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
        if let Body::AppendEntriesReply { result: Ok(matched), .. } = message.body {
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
        disk.synced = Contents { hard_state: hard_state(term, 0).unwrap(), last };
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
        let early = message(1, 2, 3, Body::RequestVote { last: LogId::ZERO });
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
        let found = |disks: &mut Disks, term, last, whole| {
            disks.recovered(node(1), hard_state(term, if term == 3 { 2 } else { 0 }).unwrap(), last, whole)
        };
        assert!(found(&mut disks, 2, id(1, 1), 0).is_err());
        assert!(found(&mut disks, 3, id(3, 2), 1).is_err());
        assert_eq!(found(&mut disks, 2, id(3, 2), 1), Ok(()));
        assert_eq!(disks.handed(node(1)), id(3, 2));
        assert_eq!(found(&mut disks, 2, id(3, 2), 0), Ok(()));
    }
}
