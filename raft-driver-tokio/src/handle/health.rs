//! Whether a node is alive, and of use.

use std::time::Duration;

use raft_core::Status;
use raft_core::host::StateMachine;

use super::{Raft, until};
use crate::error::{ReadError, StopReason};

/// How a node is: see [`Raft::health`].
#[derive(Clone, Debug)]
pub struct Health {
    /// The node, if its task answered in time.
    pub status: Option<Status>,
    /// Whether the node serves: it knows a leader, and its state machine has caught up with what was committed when it was
    /// asked, or within the limit before. Otherwise why not.
    pub ready: Result<(), ReadError>,
    /// Why the node has stopped, if it has.
    pub stopped: Option<StopReason>,
}

impl Health {
    /// Whether the node's task runs and answers. If it does not, restart the process.
    #[must_use]
    pub const fn is_live(&self) -> bool {
        self.status.is_some() && self.stopped.is_none()
    }

    /// Whether clients may be sent here. A node without a leader is live and not ready; restarting it does not help.
    #[must_use]
    pub const fn is_ready(&self) -> bool {
        self.is_live() && self.ready.is_ok()
    }
}

impl<S: StateMachine> Raft<S> {
    /// How the node is, asked of its task and its state machine; answers after `limit` at the latest. Readiness is a
    /// [`read_stale`](Self::read_stale) bounded by `limit`: asked every second with a limit of some seconds, it costs about
    /// a message in `limit`.
    pub async fn health(&self, limit: Duration) -> Health {
        let this = self.within(limit);
        let (status, ready) =
            tokio::join!(this.status(), until(this.deadline(), this.read_stale(limit, |_| ())));
        Health { status, ready: ready.unwrap_or(Err(ReadError::TimedOut)), stopped: self.stop_reason() }
    }
}
