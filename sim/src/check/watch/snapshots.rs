//! Marks of snapshots on their way.

use raft_core::{Message, NodeId, SnapshotId, Term};

use crate::check::disks::slot;
use crate::marks::{Mark, Marks};

/// A snapshot on its way from one node to another.
#[derive(Clone, Copy, Debug)]
struct Sending {
    id: SnapshotId,
    term: Term,
    /// The last part with data that was sent: where it began.
    part: Option<u64>,
    /// The connection was lost since.
    interrupted: bool,
}

/// What is remembered of snapshots.
#[derive(Debug)]
pub(super) struct Snapshots {
    sending: Vec<Option<Sending>>,
    /// The snapshot of which each node has some parts.
    receiving: Vec<Option<SnapshotId>>,
}

impl Snapshots {
    pub(super) fn new(nodes: usize) -> Self {
        Self { sending: vec![None; nodes * nodes], receiving: vec![None; nodes] }
    }

    fn link(&mut self, from: NodeId, to: NodeId) -> &mut Option<Sending> {
        &mut self.sending[slot(from) * self.receiving.len() + slot(to)]
    }

    /// A leader sends a part of a snapshot, or asks how much of it is there.
    pub(super) fn sent(
        &mut self,
        message: &Message,
        id: SnapshotId,
        offset: u64,
        bytes: usize,
        marks: &mut Marks,
    ) {
        let link = self.link(message.from, message.to);
        let known = link.filter(|sending| sending.term == message.term);
        let overtaken = known.is_some_and(|sending| {
            sending.id != id && sending.id.last < id.last && sending.part.is_some_and(|part| part > 0)
        });
        marks.hit_if(Mark::SnapshotOvertaken, overtaken);
        let mut sending = known.filter(|sending| sending.id == id).unwrap_or(Sending {
            id,
            term: message.term,
            part: None,
            interrupted: false,
        });
        if bytes > 0 {
            marks.hit_if(Mark::SnapshotResentPart, sending.part == Some(offset));
            marks.hit_if(Mark::SnapshotResumedAfterReconnect, sending.interrupted && offset > 0);
            marks.hit_if(Mark::SnapshotResumedBySuccessor, sending.part.is_none() && offset > 0);
            (sending.part, sending.interrupted) = (Some(offset), false);
        }
        *link = Some(sending);
    }

    /// A leader lost its connection to a peer.
    pub(super) fn interrupted(&mut self, leader: NodeId, peer: NodeId) {
        if let Some(sending) = self.link(leader, peer) {
            sending.interrupted = sending.part.is_some();
        }
    }

    /// A node keeps a part of a snapshot.
    pub(super) fn chunk(&mut self, node: NodeId, id: SnapshotId, offset: u64, done: bool, marks: &mut Marks) {
        let receiving = &mut self.receiving[slot(node)];
        marks.hit_if(Mark::SnapshotOfAnother, offset == 0 && receiving.is_some_and(|other| other != id));
        *receiving = (!done).then_some(id);
    }

    /// A node started anew, with nothing of an incomplete snapshot.
    pub(super) fn started(&mut self, node: NodeId) {
        self.receiving[slot(node)] = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{message, node, snapshot_meta};
    use raft_core::Body;

    #[test]
    fn what_goes_on_where_it_was_is_told_from_what_begins_anew() {
        let mut snapshots = Snapshots::new(3);
        let mut marks = Marks::default();
        let (first, second) = (snapshot_meta(4, 2, 1).id, snapshot_meta(9, 3, 2).id);
        let mut sent = |snapshots: &mut Snapshots, from, term, id, offset, bytes| {
            let message = message(from, 3, term, Body::TimeoutNow);
            snapshots.sent(&message, id, offset, bytes, &mut marks);
            marks
        };
        // A question, then the parts from the beginning: nothing special.
        sent(&mut snapshots, 1, 3, first, 0, 0);
        sent(&mut snapshots, 1, 3, first, 0, 10);
        assert_eq!(sent(&mut snapshots, 1, 3, first, 10, 10), Marks::default());
        assert_eq!(sent(&mut snapshots, 1, 3, first, 10, 10).runs(Mark::SnapshotResentPart), 1);
        snapshots.interrupted(node(1), node(3));
        sent(&mut snapshots, 1, 3, first, 20, 0);
        assert_eq!(sent(&mut snapshots, 1, 3, first, 20, 10).runs(Mark::SnapshotResumedAfterReconnect), 1);
        // Another leader, and then another snapshot.
        assert_eq!(sent(&mut snapshots, 2, 4, first, 30, 10).runs(Mark::SnapshotResumedBySuccessor), 1);
        assert_eq!(sent(&mut snapshots, 2, 4, second, 0, 0).runs(Mark::SnapshotOvertaken), 1);
    }

    #[test]
    fn parts_of_two_snapshots_at_one_receiver_are_seen() {
        let mut snapshots = Snapshots::new(3);
        let mut marks = Marks::default();
        let (first, second) = (snapshot_meta(4, 2, 1).id, snapshot_meta(9, 3, 2).id);
        snapshots.chunk(node(3), first, 0, true, &mut marks);
        snapshots.chunk(node(3), second, 0, false, &mut marks);
        snapshots.chunk(node(3), second, 10, false, &mut marks);
        assert_eq!(marks, Marks::default());
        snapshots.chunk(node(3), first, 0, false, &mut marks);
        assert_eq!(marks.runs(Mark::SnapshotOfAnother), 1);
    }
}
