//! What the HTTP front needs of a node, so that it serves whatever drives one.

use bytes::Bytes;
use raft_core::host::SessionResponse;
use raft_core::{MembershipChange, NodeId};
use raft_driver_tokio::{AdminError, Applied, Metrics, Raft, ReadError, WriteError};
use tokio::sync::watch;

use crate::machine::Outcome;
use crate::once::Replicated;

/// A node that holds the map.
pub(crate) trait Node: Send + Sync + 'static {
    /// Its name.
    fn id(&self) -> NodeId;

    /// Proposes a sealed command; answered once it is committed and applied here.
    fn write(
        &self,
        sealed: Bytes,
    ) -> impl Future<Output = Result<Applied<SessionResponse<Outcome>>, WriteError>> + Send;

    /// Reads the value of a key, linearizably.
    fn get(&self, key: Vec<u8>) -> impl Future<Output = Result<Option<Bytes>, ReadError>> + Send;

    /// How it is now. `None` if it has stopped.
    fn observe(&self) -> impl Future<Output = Option<Metrics>> + Send;

    /// Changes who takes part; answered once the change is complete.
    fn change_membership(
        &self,
        change: MembershipChange,
    ) -> impl Future<Output = Result<(), AdminError>> + Send;

    /// Lets another node lead, and says which one does.
    fn transfer_leadership(
        &self,
        to: Option<NodeId>,
    ) -> impl Future<Output = Result<NodeId, AdminError>> + Send;

    /// Takes a snapshot; answered once it is durable.
    fn snapshot(&self) -> impl Future<Output = Result<(), AdminError>> + Send;
}

/// A node on Tokio.
pub(crate) struct TokioNode {
    raft: Raft<Replicated>,
    metrics: watch::Receiver<Metrics>,
}

impl TokioNode {
    pub(crate) fn new(raft: Raft<Replicated>) -> Self {
        Self { metrics: raft.metrics(), raft }
    }
}

impl Node for TokioNode {
    fn id(&self) -> NodeId {
        self.raft.id()
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

    async fn change_membership(&self, change: MembershipChange) -> Result<(), AdminError> {
        self.raft.change_membership(change).await
    }

    async fn transfer_leadership(&self, to: Option<NodeId>) -> Result<NodeId, AdminError> {
        self.raft.transfer_leadership(to).await
    }

    async fn snapshot(&self) -> Result<(), AdminError> {
        self.raft.snapshot().await
    }
}
