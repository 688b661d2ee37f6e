//! What operators see of a node: asked for with [`GetMetrics`], or sent to listeners when it matters.
//!
//! Listeners hear of a change of role, term, leader or membership, and of the stop: once a turn at most.

use std::sync::Arc;

use actix::{Message, Recipient};
use raft_core::{Membership, Node, PeerStatus, Status};
use raft_driver_tokio::StopReason;
use raft_driver_tokio::transport::TransportStats;

use crate::storage::guard;

/// A node at a glance. As a message it goes to listeners.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RaftMetrics {
    /// Role, term, leader, indexes and counters; as they last were if the node has stopped.
    pub status: Status,
    /// The configuration in force.
    pub membership: Arc<Membership>,
    /// What the leader knows of its peers; empty elsewhere.
    pub peers: Vec<PeerStatus>,
    /// What the network has counted.
    pub transport: TransportStats,
    /// Writes that wait for their outcome; those that wait for the state machine alone are not among them.
    pub pending_writes: usize,
    /// Reads that wait to be served.
    pub pending_reads: usize,
    /// Why the node has stopped, if it has.
    pub stopped: Option<StopReason>,
}

impl Message for RaftMetrics {
    type Result = ();
}

/// Asks for the metrics as of the node's last turn. Answered after a stop too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GetMetrics;

impl Message for GetMetrics {
    type Result = RaftMetrics;
}

pub(crate) type TransportCounters = Arc<dyn Fn() -> TransportStats + Send + Sync>;

/// Keeps what was published last.
pub(crate) struct Publisher {
    last: RaftMetrics,
    transport: TransportCounters,
    listeners: Vec<Recipient<RaftMetrics>>,
}

impl Publisher {
    pub(crate) fn new(
        node: &Node,
        transport: TransportCounters,
        listeners: Vec<Recipient<RaftMetrics>>,
    ) -> Self {
        let last = RaftMetrics {
            status: node.status(),
            membership: Arc::clone(node.membership()),
            peers: node.peers().collect(),
            transport: transport(),
            pending_writes: 0,
            pending_reads: 0,
            stopped: None,
        };
        Self { last, transport, listeners }
    }

    /// Publishes if something changed that listeners must know; `pending` is the number of writes and of reads.
    pub(crate) fn publish(&mut self, node: &Node, pending: (usize, usize)) {
        let (status, last) = (node.status(), &self.last.status);
        if (status.role, status.term, status.leader) != (last.role, last.term, last.leader)
            || !Arc::ptr_eq(node.membership(), &self.last.membership)
        {
            self.refresh(node, pending);
            self.tell();
        }
    }

    fn refresh(&mut self, node: &Node, pending: (usize, usize)) {
        let last = &mut self.last;
        last.status = node.status();
        last.membership.clone_from(node.membership());
        last.peers.clear();
        last.peers.extend(node.peers());
        last.transport = (self.transport)();
        (last.pending_writes, last.pending_reads) = pending;
    }

    fn tell(&self) {
        // Past the capacity of their mailboxes: changes are few, and a lost one would be missed for long.
        self.listeners.iter().for_each(|listener| listener.do_send(self.last.clone()));
    }

    pub(crate) fn now(&mut self, node: &Node, pending: (usize, usize)) -> RaftMetrics {
        self.refresh(node, pending);
        self.last.clone()
    }

    pub(crate) fn last(&self) -> RaftMetrics {
        self.last.clone()
    }

    pub(crate) fn stop(&mut self, node: &Node, reason: &StopReason) {
        // A node that panicked may do so again; then the last figures stand.
        if guard("node", || self.refresh(node, (0, 0))).is_err() {
            tracing::error!("the node's last status cannot be read");
        }
        self.last.stopped = Some(reason.clone());
        self.tell();
    }
}
