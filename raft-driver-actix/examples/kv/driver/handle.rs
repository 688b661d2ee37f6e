//! A node's address as what this program needs of a node.

use std::collections::BTreeMap;

use actix::{Actor, Addr, Context, Handler, MailboxError};
use bytes::Bytes;
use raft_core::host::SessionResponse;
use raft_core::{MembershipChange, NodeId};
use raft_driver_actix::Raft;
use raft_driver_actix::admin::{
    ChangeMembership, InitWithConfig, Shutdown, StepDown, TransferLeader, TriggerSnapshot,
};
use raft_driver_actix::messages::{ClientRead, ClientResponse, ClientWrite, ResponseMode};
use raft_driver_actix::metrics::{GetMetrics, RaftMetrics};
use raft_driver_tokio::{AdminError, Applied, Metrics, ReadError, StopReason, WriteError};
use tokio::sync::watch;

use crate::machine::Outcome;
use crate::node::Node;
use crate::once::Replicated;

/// A node on Actix.
#[derive(Clone)]
pub(crate) struct Handle {
    id: NodeId,
    raft: Addr<Raft<Replicated>>,
    metrics: watch::Receiver<Metrics>,
}

/// Listens to the node, for whoever waits for a change.
pub(crate) struct Watcher(watch::Sender<Metrics>);

impl Actor for Watcher {
    type Context = Context<Self>;
}

impl Handler<RaftMetrics> for Watcher {
    type Result = ();

    fn handle(&mut self, RaftMetrics(metrics): RaftMetrics, _: &mut Self::Context) {
        self.0.send_replace(metrics);
    }
}

impl Handle {
    /// `watcher` is where the node has been sending its metrics from its start on.
    pub(crate) async fn new(raft: Addr<Raft<Replicated>>, watcher: Context<Watcher>) -> Self {
        let Ok(RaftMetrics(metrics)) = raft.send(GetMetrics).await else {
            // The arbiter ends, and this task with it.
            return std::future::pending().await;
        };
        let id = metrics.status.id;
        let (sender, metrics) = watch::channel(metrics);
        watcher.run(Watcher(sender));
        Self { id, raft, metrics }
    }
}

impl Node for Handle {
    fn id(&self) -> NodeId {
        self.id
    }

    async fn bootstrap(&self, members: BTreeMap<NodeId, Bytes>) -> Result<(), AdminError> {
        done(self.raft.send(InitWithConfig { members }).await)
    }

    async fn write(&self, sealed: Bytes) -> Result<Applied<SessionResponse<Outcome>>, WriteError> {
        match self.raft.send(ClientWrite::new(sealed, ResponseMode::Applied)).await {
            Ok(Ok(ClientResponse::Applied { id, response })) => Ok(Applied { id, response }),
            Ok(Ok(ClientResponse::Committed { id })) => Err(WriteError::ResponseLost { id }),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(WriteError::Unknown),
        }
    }

    async fn get(&self, key: Vec<u8>) -> Result<Option<Bytes>, ReadError> {
        let read = ClientRead::new(move |replicated: &Replicated| replicated.machine().get(&key));
        self.raft.send(read).await.unwrap_or(Err(ReadError::Stopped))
    }

    async fn observe(&self) -> Option<Metrics> {
        let RaftMetrics(metrics) = self.raft.send(GetMetrics).await.ok()?;
        metrics.stopped.is_none().then_some(metrics)
    }

    fn metrics(&self) -> watch::Receiver<Metrics> {
        self.metrics.clone()
    }

    async fn change_membership(&self, change: MembershipChange) -> Result<(), AdminError> {
        done(self.raft.send(ChangeMembership(change)).await)
    }

    async fn transfer_leadership(&self, to: Option<NodeId>) -> Result<NodeId, AdminError> {
        done(self.raft.send(TransferLeader(to)).await)
    }

    async fn snapshot(&self) -> Result<(), AdminError> {
        done(self.raft.send(TriggerSnapshot).await)
    }

    async fn step_down(&self) -> Result<(), AdminError> {
        done(self.raft.send(StepDown).await)
    }

    async fn shutdown(&self) -> StopReason {
        self.raft.send(Shutdown).await.unwrap_or(StopReason::RuntimeEnded)
    }
}

/// A mailbox fails when its actor is gone: what it held was done or not.
fn done<T>(answer: Result<Result<T, AdminError>, MailboxError>) -> Result<T, AdminError> {
    answer.unwrap_or(Err(AdminError::Unknown))
}
