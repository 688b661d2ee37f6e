//! Reads.

use std::sync::Arc;
use std::time::Duration;

use raft_core::ReadConsistency;
use raft_core::host::{Read, StateMachine};
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::Instant;

use super::{Raft, until};
use crate::error::ReadError;
use crate::freshness::{Fresh, Proof};
use crate::request::{Closure, ReadJob, Request};

impl<S: StateMachine> Raft<S> {
    /// Reads from this node's state machine, linearizably: the closure sees every write that was answered before this
    /// call (§8, thesis §6.4). It runs in the state machine's lane and should be short. Any member serves it: one that
    /// does not lead asks its leader first how far it must be.
    ///
    /// # Errors
    /// If there is no leader to ask, or the read could not be served.
    pub async fn read<T, F>(&self, closure: F) -> Result<T, ReadError>
    where
        T: Send + 'static,
        F: FnOnce(&S) -> T + Send + 'static,
    {
        self.read_with(ReadConsistency::Linearizable, closure).await
    }

    /// As [`read`](Self::read), with a choice of how the leader proves that it still leads: see [`ReadConsistency`].
    ///
    /// # Errors
    /// As for [`read`](Self::read).
    pub async fn read_with<T, F>(&self, consistency: ReadConsistency, closure: F) -> Result<T, ReadError>
    where
        T: Send + 'static,
        F: FnOnce(&S) -> T + Send + 'static,
    {
        let _timed = self.shared.times.read();
        // A lease proves as much as the clocks are worth: stale reads do not rely on it.
        let proof = (consistency == ReadConsistency::Linearizable).then(|| self.shared.freshness.ask());
        self.ask(self.deadline(), closure, proof, None, |read| Request::Read(read, consistency)).await
    }

    /// Reads from this node's state machine as it is, if it is fresh enough: the closure sees every write that was
    /// answered at least `bound` before this call. Nobody is asked as long as a linearizable read, of whomever, has
    /// proved that within `bound`; otherwise this is one. When half of `bound` has passed, the next stale read asks for a
    /// new proof beside its own work: at most one question is on the way, however many reads there are.
    ///
    /// `Duration::MAX` reads whatever this node has, however old.
    ///
    /// Two stale reads at different nodes may see different states, the later one the older state. Time is what this
    /// process's monotonic clock measures; most do not count while a machine is suspended.
    ///
    /// # Errors
    /// As for [`read`](Self::read): a node that is cut off refuses once its last proof is older than `bound`.
    pub async fn read_stale<T, F>(&self, bound: Duration, closure: F) -> Result<T, ReadError>
    where
        T: Send + 'static,
        F: FnOnce(&S) -> T + Send + 'static,
    {
        match self.shared.freshness.judge(bound) {
            Fresh::Enough => {}
            Fresh::Aging => self.prove(),
            Fresh::Unproved => return self.read(closure).await,
        }
        let deadline = self.deadline();
        let room = until(deadline, Arc::clone(&self.shared.inbox.local_reads).acquire_owned()).await;
        let room = room.ok_or(ReadError::TimedOut)?.map_err(|_| ReadError::Stopped)?;
        self.ask(deadline, closure, None, Some(room), Request::ReadLocal).await
    }

    /// For how long this node's state may lack what was written: no write that was answered earlier is missing. `None` if
    /// that was never proved. See [`read_stale`](Self::read_stale).
    #[must_use]
    pub fn staleness(&self) -> Option<Duration> {
        self.shared.freshness.age()
    }

    async fn ask<T, F>(
        &self,
        deadline: Option<Instant>,
        closure: F,
        proof: Option<Proof>,
        room: Option<OwnedSemaphorePermit>,
        request: impl FnOnce(Box<dyn Read<S>>) -> Request<S>,
    ) -> Result<T, ReadError>
    where
        T: Send + 'static,
        F: FnOnce(&S) -> T + Send + 'static,
    {
        let (reply, receiver) = oneshot::channel();
        let request = request(Box::new(ReadJob { closure: Closure::new(closure), reply, proof, room }));
        match until(deadline, self.shared.inbox.request(request)).await {
            Some(Ok(())) => {}
            Some(Err(_)) => return Err(ReadError::Stopped),
            None => return Err(ReadError::TimedOut),
        }
        let mut following = self.follow(receiver);
        match until(deadline, &mut following).await {
            Some(answer) => answer.unwrap_or(Err(ReadError::Stopped)),
            None => Err(ReadError::TimedOut),
        }
    }

    /// Asks for a new proof, unless somebody does.
    fn prove(&self) {
        if let Some(question) = self.shared.freshness.question() {
            // A node that is busy, or gone: the next one asks, or finds the proof too old.
            self.shared.inbox.try_request(Request::Read(question, ReadConsistency::Linearizable));
        }
    }
}
