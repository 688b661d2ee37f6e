//! What operators see of a node: asked for with [`GetMetrics`], or sent to listeners when it matters.
//!
//! Listeners hear of a change of role, term, leader or membership, and of the stop: once a turn at most.

use std::ops::Deref;
use std::sync::Arc;

use actix::{Message, Recipient};
use raft_core::Node;
use raft_driver_tokio::driver::guard;
use raft_driver_tokio::transport::TransportStats;
use raft_driver_tokio::{Metrics, StopReason};

/// A node at a glance, as a message to listeners.
#[derive(Clone, Debug)]
pub struct RaftMetrics(pub Metrics);

impl Deref for RaftMetrics {
    type Target = Metrics;

    fn deref(&self) -> &Metrics {
        &self.0
    }
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
        Self { last: RaftMetrics(Metrics::new(node, transport())), transport, listeners }
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
        self.last.0.update(node, pending, (self.transport)());
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
        self.last.0.stopped = Some(reason.clone());
        self.tell();
    }
}
