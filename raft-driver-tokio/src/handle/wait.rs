//! Waiting for a node to come to something, with a time-out.

use std::sync::Arc;
use std::time::Duration;

use raft_core::host::StateMachine;
use raft_core::{LogIndex, Membership, NodeId, RoleKind, Status};
use tokio::sync::watch;

use super::Raft;
use crate::error::StopReason;
use crate::metrics::Metrics;

/// Why a [`Wait`] ended before its condition held.
#[derive(Clone, Debug, thiserror::Error)]
pub enum WaitError {
    /// The time-out passed.
    #[error(
        "not within {limit:?}: node {} is {:?} in term {}, commit {}, applied {}",
        status.id, status.role, status.term, status.commit, status.applied
    )]
    TimedOut {
        /// How long was waited.
        limit: Duration,
        /// The node as it was then.
        status: Box<Status>,
    },
    /// The node has stopped, or is about to.
    #[error("the node has stopped: {0}")]
    Stopped(#[source] StopReason),
}

impl<S: StateMachine> Raft<S> {
    /// Waits for this node to come to something, no longer than `limit`:
    ///
    /// ```
    /// # async fn example<S: raft_core::host::StateMachine>(
    /// #     raft: raft_driver_tokio::Raft<S>,
    /// # ) -> Result<(), Box<dyn std::error::Error>> {
    /// # use std::time::Duration;
    /// let leader = raft.wait(Duration::from_secs(10)).leader().await?;
    /// let written = raft.write_committed("hello").await?;
    /// raft.wait(Duration::from_secs(1)).applied(written.index).await?;
    /// raft.wait(Duration::from_secs(60)).until(|metrics| metrics.peers.len() == 2).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn wait(&self, limit: Duration) -> Wait {
        let (metrics, life) = (self.metrics(), self.shared.life.clone());
        Wait { metrics, limit, ended: Box::new(move || life.borrow().reason.clone()) }
    }
}

/// Something that is waited for: see [`Raft::wait`]. Looks at every state of the node that was published; one that passes
/// within a turn of the node may not be seen.
#[must_use = "nothing is waited for until a condition is named"]
pub struct Wait {
    metrics: watch::Receiver<Metrics>,
    limit: Duration,
    ended: Box<dyn Fn() -> Option<StopReason> + Send + Sync>,
}

impl std::fmt::Debug for Wait {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wait").field("limit", &self.limit).finish_non_exhaustive()
    }
}

impl Wait {
    /// Until this holds; returns the metrics for which it did.
    ///
    /// # Errors
    /// If it does not hold in time, or the node stops before.
    pub async fn until(self, mut condition: impl FnMut(&Metrics) -> bool) -> Result<Metrics, WaitError> {
        let Self { mut metrics, limit, ended } = self;
        let mut held = false;
        let seen = metrics.wait_for(|metrics| {
            held = condition(metrics);
            held || metrics.stopped.is_some()
        });
        let seen = tokio::time::timeout(limit, seen).await.map(|seen| seen.map(|seen| seen.clone()));
        match seen {
            Ok(Ok(metrics)) if held => Ok(metrics),
            Ok(Ok(metrics)) => Err(WaitError::Stopped(metrics.stopped.unwrap_or(StopReason::RuntimeEnded))),
            // Nobody publishes any more.
            Ok(Err(_)) => Err(WaitError::Stopped(ended().unwrap_or(StopReason::RuntimeEnded))),
            Err(_) => {
                let status = Box::new(metrics.borrow().status);
                Err(WaitError::TimedOut { limit, status })
            }
        }
    }

    /// Until the node knows a leader, which may be itself; returns who it is. A node that was never bootstrapped has none.
    ///
    /// # Errors
    /// As for [`until`](Self::until).
    pub async fn leader(self) -> Result<NodeId, WaitError> {
        let mut leader = None;
        let metrics = self.until(|metrics| {
            // One that has stopped was the last to know.
            leader = metrics.status.leader.filter(|_| metrics.stopped.is_none());
            leader.is_some()
        });
        let id = metrics.await?.status.id;
        Ok(leader.unwrap_or(id))
    }

    /// Until the node has this role.
    ///
    /// # Errors
    /// As for [`until`](Self::until).
    pub async fn role(self, role: RoleKind) -> Result<Status, WaitError> {
        let has = |metrics: &Metrics| metrics.stopped.is_none() && metrics.status.role == role;
        self.until(has).await.map(|metrics| metrics.status)
    }

    /// Until the node knows that everything through this index is committed.
    ///
    /// # Errors
    /// As for [`until`](Self::until).
    pub async fn committed(self, through: LogIndex) -> Result<Status, WaitError> {
        self.until(|metrics| metrics.status.commit >= through).await.map(|metrics| metrics.status)
    }

    /// Until the node's state machine has applied everything through this index.
    ///
    /// # Errors
    /// As for [`until`](Self::until).
    pub async fn applied(self, through: LogIndex) -> Result<Status, WaitError> {
        self.until(|metrics| metrics.status.applied >= through).await.map(|metrics| metrics.status)
    }

    /// Until the configuration in force fulfils this.
    ///
    /// # Errors
    /// As for [`until`](Self::until).
    pub async fn membership(
        self,
        mut condition: impl FnMut(&Membership) -> bool,
    ) -> Result<Arc<Membership>, WaitError> {
        self.until(|metrics| condition(&metrics.membership)).await.map(|metrics| metrics.membership)
    }
}
