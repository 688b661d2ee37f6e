//! What is asked of a node's log, its state machine and its snapshot store, passed to the checkers that it concerns.

use raft_core::{Entries, LogIndex, NodeId, SnapshotId, SnapshotMeta};

use super::{Check, Checks};
use crate::machine::State;
use crate::snapshots::Stored;

impl Checks {
    /// A node wants to read its log: only what is durable may be asked for.
    pub(crate) fn reads_log(&mut self, node: NodeId, from: LogIndex, through: LogIndex) -> Check {
        self.watch.reads_log(node, from);
        self.rates.reads(node)?;
        self.disks.reads(node, from, through)
    }

    /// A node hands entries to its state machine.
    pub(crate) fn applies(&mut self, node: NodeId, entries: &Entries) -> Check {
        self.applied.applies(node, entries, &self.book, &self.commit, &self.disks)
    }

    /// A state machine has come to where it says.
    pub(crate) fn machine(&self, node: NodeId, state: &State) -> Check {
        self.applied.machine(node, state, &self.commit)
    }

    /// A node hands a snapshot to its state machine.
    pub(crate) fn restores(&mut self, node: NodeId, meta: &SnapshotMeta) -> Check {
        self.snapshots.restores(node, meta)?;
        self.applied.restores(node, meta.id.last, &self.commit)
    }

    /// A node's state machine is asked for a snapshot.
    pub(crate) fn snapshot_asked(&self, node: NodeId, meta: &SnapshotMeta) -> Check {
        self.snapshots.asked(node, meta, &self.book, &self.commit)
    }

    /// A state machine handed over a snapshot.
    pub(crate) fn snapshot_made(&mut self, stored: &Stored) -> Check {
        self.snapshots.made(&stored.meta, &stored.bytes, &self.commit)
    }

    /// A node hands a chunk of a snapshot to its store.
    pub(crate) fn chunk(
        &mut self,
        node: NodeId,
        meta: &SnapshotMeta,
        offset: u64,
        data: &[u8],
        done: bool,
    ) -> Check {
        self.watch.chunk(node, meta.id, offset, done);
        self.snapshots.part(node, meta, offset, data, done)
    }

    /// A snapshot, taken here or from a leader, is complete and durable.
    pub(crate) fn snapshot_completed(&mut self, node: NodeId, stored: &Stored) -> Check {
        self.snapshots.completed(node, &stored.meta, &stored.bytes)
    }

    /// A node reads a part of a snapshot.
    pub(crate) fn snapshot_read(&mut self, node: NodeId, id: SnapshotId) -> Check {
        self.rates.reads(node)?;
        self.snapshots.reads(node, id)
    }

    /// A node drops a snapshot.
    pub(crate) fn snapshot_forgotten(&mut self, node: NodeId, id: SnapshotId) -> Check {
        self.snapshots.forgotten(node, id, self.disks.base(node))
    }
}
