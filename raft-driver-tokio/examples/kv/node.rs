//! What this program needs of a node, whatever drives it.

use std::collections::BTreeMap;

use bytes::Bytes;
use raft_core::host::SessionResponse;
use raft_core::{MembershipChange, NodeId};
use raft_driver_tokio::{AdminError, Applied, Metrics, ReadError, StopReason, WriteError};
use tokio::sync::watch;

use crate::machine::Outcome;

/// A node that holds the map. Clones are the same node.
pub(crate) trait Node: Clone + Send + Sync + 'static {
    /// Its name.
    fn id(&self) -> NodeId;

    /// Gives a pristine node the members that the cluster begins with.
    fn bootstrap(
        &self,
        members: BTreeMap<NodeId, Bytes>,
    ) -> impl Future<Output = Result<(), AdminError>> + Send;

    /// Proposes a sealed command; answered once it is committed and applied here.
    fn write(
        &self,
        sealed: Bytes,
    ) -> impl Future<Output = Result<Applied<SessionResponse<Outcome>>, WriteError>> + Send;

    /// Reads the value of a key, linearizably.
    fn get(&self, key: Vec<u8>) -> impl Future<Output = Result<Option<Bytes>, ReadError>> + Send;

    /// How it is now. `None` if it has stopped.
    fn observe(&self) -> impl Future<Output = Option<Metrics>> + Send;

    /// How it is, whenever role, term, leader or members change, and when it stops.
    fn metrics(&self) -> watch::Receiver<Metrics>;

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

    /// Lets another node lead, if this one does.
    fn step_down(&self) -> impl Future<Output = Result<(), AdminError>> + Send;

    /// Stops it; resolves once everything of it has ended.
    fn shutdown(&self) -> impl Future<Output = StopReason> + Send;

    /// Resolves when it has stopped, for whatever reason.
    fn stopped(&self) -> impl Future<Output = StopReason> + Send {
        let mut metrics = self.metrics();
        async move {
            let stopped = metrics.wait_for(|metrics| metrics.stopped.is_some()).await;
            // An error: whatever drove it is gone.
            stopped.ok().and_then(|metrics| metrics.stopped.clone()).unwrap_or(StopReason::RuntimeEnded)
        }
    }
}
