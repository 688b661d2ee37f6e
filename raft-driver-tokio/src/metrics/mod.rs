//! What operators see of a node: one value, published through a watch channel.
//!
//! * Published at most once a turn of the node's task, and only when something changed.
//! * A change of role, term, leader or membership is always published; the rest only while somebody listens.
//! * With the feature `metrics` the same goes to the `metrics` facade: see [`export`].
//! * Transport counters are read when something is published; [`Raft::transport`](crate::Raft::transport) reads
//!   them at once.

#[cfg(feature = "metrics")]
mod export;
#[cfg(not(feature = "metrics"))]
mod silent;
#[cfg(not(feature = "metrics"))]
use silent as export;

use std::sync::Arc;

use bytes::Bytes;
use raft_core::{Instant, Membership, Node, NodeId, PeerStatus, Status};
use tokio::sync::watch;

use crate::cluster::GroupId;
use crate::error::StopReason;
use crate::transport::TransportStats;
pub use export::Export;
pub(crate) use export::Times;

/// What tells a node's figures from those of others in the process.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(not(feature = "metrics"), expect(dead_code, reason = "only figures have labels"))]
pub(crate) struct Labels {
    pub(crate) id: NodeId,
    pub(crate) group: Option<GroupId>,
}

/// For drivers: who waits for a node, and what was not even taken in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Writes that wait for their outcome.
    pub writes: usize,
    /// See [`Metrics::pending_reads`].
    pub reads: usize,
    /// See [`Metrics::letters_refused`].
    pub letters_refused: u64,
}

/// A node at a glance.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Metrics {
    /// Role, term, leader, indexes and counters; as they last were if the node has stopped.
    pub status: Status,
    /// The configuration in force.
    pub membership: Arc<Membership>,
    /// What the leader knows of its peers; empty elsewhere.
    pub peers: Vec<PeerStatus>,
    /// What the transport has counted.
    pub transport: TransportStats,
    /// Writes that wait for their outcome; those that wait for the state machine alone are not among them.
    pub pending_writes: usize,
    /// Reads that wait for the proof of what they must see; those that wait for the state machine alone are not among them.
    pub pending_reads: usize,
    /// What other nodes' drivers passed on and was dropped: commands of nodes that are no members, answers to an earlier
    /// life of this node, and what makes no sense.
    pub letters_refused: u64,
    /// Why the node has stopped, if it has.
    pub stopped: Option<StopReason>,
}

impl Metrics {
    /// For drivers: a node that has just been started.
    #[must_use]
    pub fn new(node: &Node, transport: TransportStats) -> Self {
        Self {
            status: node.status(),
            membership: Arc::clone(node.membership()),
            peers: node.peers().collect(),
            transport,
            pending_writes: 0,
            pending_reads: 0,
            letters_refused: 0,
            stopped: None,
        }
    }

    /// For drivers: the node as it is now.
    pub fn update(&mut self, node: &Node, load: Load, transport: TransportStats) {
        self.status = node.status();
        self.membership.clone_from(node.membership());
        self.peers.clear();
        self.peers.extend(node.peers());
        self.transport = transport;
        let Load { writes, reads, letters_refused } = load;
        (self.pending_writes, self.pending_reads, self.letters_refused) = (writes, reads, letters_refused);
    }

    /// The leader's address as the membership has it.
    #[must_use]
    pub fn leader_address(&self) -> Option<&Bytes> {
        self.membership.nodes.get(&self.status.leader?)
    }
}

/// The publishing side.
pub(crate) struct Publisher {
    metrics: watch::Sender<Metrics>,
    transport: Arc<dyn Fn() -> TransportStats + Send + Sync>,
    last: Status,
    load: Load,
    membership: Arc<Membership>,
    export: Export,
}

impl Publisher {
    pub(crate) fn new(
        node: &Node,
        transport: Arc<dyn Fn() -> TransportStats + Send + Sync>,
        labels: Labels,
    ) -> Self {
        let metrics = watch::Sender::new(Metrics::new(node, transport()));
        let (last, membership) = (node.status(), Arc::clone(node.membership()));
        let export = Export::new(labels);
        Self { metrics, transport, last, load: Load::default(), membership, export }
    }

    pub(crate) fn sender(&self) -> watch::Sender<Metrics> {
        self.metrics.clone()
    }

    /// Publishes what changed.
    pub(crate) fn publish(&mut self, node: &Node, load: Load, now: Instant, asked: bool) {
        let (status, last) = (node.status(), &self.last);
        let moved = (status.role, status.term, status.leader) != (last.role, last.term, last.leader)
            || !Arc::ptr_eq(node.membership(), &self.membership);
        self.export.publish(moved, node, load, now, &*self.transport);
        let heard = || self.metrics.receiver_count() > 0 && (status != *last || load != self.load);
        if !(asked || moved || heard()) {
            return;
        }
        (self.last, self.load) = (status, load);
        if moved {
            self.membership = Arc::clone(node.membership());
        }
        self.metrics.send_modify(|metrics| metrics.update(node, load, (self.transport)()));
    }

    /// The last publication.
    pub(crate) fn stopped(&self, reason: &StopReason) {
        stopped(&self.metrics, reason);
    }
}

/// Marks the metrics of a node that has stopped, unless they are marked already.
pub(crate) fn stopped(metrics: &watch::Sender<Metrics>, reason: &StopReason) {
    metrics.send_if_modified(|metrics| {
        let first = metrics.stopped.is_none();
        if first {
            metrics.stopped = Some(reason.clone());
        }
        first
    });
}
