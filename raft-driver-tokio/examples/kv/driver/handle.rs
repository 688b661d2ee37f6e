//! A node's handle as what this program needs of a node.

use std::collections::BTreeMap;

use bytes::Bytes;
use raft_core::host::SessionResponse;
use raft_core::{MembershipChange, NodeId};
use raft_driver_tokio::{AdminError, Applied, Metrics, Raft, ReadError, StopReason, WriteError};
use tokio::sync::watch;

use crate::machine::Outcome;
use crate::node::Node;
use crate::once::Replicated;

/// A node on Tokio.
#[derive(Clone)]
pub(crate) struct Handle {
    raft: Raft<Replicated>,
    metrics: watch::Receiver<Metrics>,
}

impl Handle {
    pub(crate) fn new(raft: Raft<Replicated>) -> Self {
        Self { metrics: raft.metrics(), raft }
    }
}

impl Node for Handle {
    fn id(&self) -> NodeId {
        self.raft.id()
    }

    async fn bootstrap(&self, members: BTreeMap<NodeId, Bytes>) -> Result<(), AdminError> {
        self.raft.bootstrap(members).await
    }

    async fn write(&self, sealed: Bytes) -> Result<Applied<SessionResponse<Outcome>>, WriteError> {
        self.raft.write(sealed).await
    }

    async fn get(&self, key: Vec<u8>) -> Result<Option<Bytes>, ReadError> {
        self.raft.read(move |replicated: &Replicated| replicated.machine().get(&key)).await
    }

    async fn observe(&self) -> Option<Metrics> {
        let status = self.raft.status().await?;
        let mut metrics = self.metrics.borrow().clone();
        metrics.status = status;
        Some(metrics)
    }

    fn metrics(&self) -> watch::Receiver<Metrics> {
        self.metrics.clone()
    }

    async fn change_membership(&self, change: MembershipChange) -> Result<(), AdminError> {
        self.raft.change_membership(change).await
    }

    async fn transfer_leadership(&self, to: Option<NodeId>) -> Result<NodeId, AdminError> {
        self.raft.transfer_leadership(to).await
    }

    async fn snapshot(&self) -> Result<(), AdminError> {
        self.raft.snapshot().await
    }

    async fn step_down(&self) -> Result<(), AdminError> {
        self.raft.step_down().await
    }

    async fn shutdown(&self) -> StopReason {
        self.raft.shutdown().await
    }

    async fn stopped(&self) -> StopReason {
        self.raft.stopped().await
    }
}
