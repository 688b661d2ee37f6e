//! Reads, and how fresh this node's state is known to be.
//!
//! What a state is worth is measured from a question: a linearizable read that this node *asked* at one time, by its own
//! clock, and that was served later, proves that the state in which it was served holds every write that was answered
//! before that time (thesis §6.4). The state only moves forward. So the age of the last proof bounds how stale the state
//! can be, whatever became of the leader or the network meanwhile. That heartbeats arrive proves nothing of the kind: the
//! last one may have been on the way for long, or be of a leader that was deposed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use raft_core::ReadConsistency;
use raft_core::host::{Read, Rejection, StateMachine};
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::Instant;

use super::{Raft, until};
use crate::error::ReadError;
use crate::request::{ReadJob, Request};

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
        let freshness = &self.shared.freshness;
        if bound != Duration::MAX {
            match freshness.age() {
                Some(age) if age <= bound => {
                    if age > bound / 2 {
                        self.prove();
                    }
                }
                _ => return self.read(closure).await,
            }
        }
        let deadline = self.deadline();
        let room = until(deadline, Arc::clone(&self.shared.local_reads).acquire_owned()).await;
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
        let request = request(Box::new(ReadJob { closure, reply, proof, room }));
        match until(deadline, self.shared.requests.send(request)).await {
            Some(Ok(())) => {}
            Some(Err(_)) => return Err(ReadError::Stopped),
            None => return Err(ReadError::TimedOut),
        }
        let mut following = self.follow(receiver);
        match until(deadline, following.answer()).await {
            Some(answer) => answer.unwrap_or(Err(ReadError::Stopped)),
            None => Err(ReadError::TimedOut),
        }
    }

    /// Asks for a new proof, unless somebody does.
    fn prove(&self) {
        let freshness = &self.shared.freshness;
        if !freshness.asking.swap(true, Ordering::AcqRel) {
            let question = Question { proof: freshness.ask() };
            let request = Request::Read(Box::new(question), ReadConsistency::Linearizable);
            // A node that is busy, or gone: the next one asks, or finds the proof too old.
            drop(self.shared.requests.try_send(request));
        }
    }
}

/// How fresh the state is known to be.
#[derive(Debug)]
pub(crate) struct Freshness {
    epoch: Instant,
    /// When the question of the last proof was asked: nanoseconds since the epoch, and one. Zero: never.
    proved: AtomicU64,
    /// A question is on the way that nobody waits for.
    asking: AtomicBool,
}

impl Freshness {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { epoch: Instant::now(), proved: AtomicU64::new(0), asking: AtomicBool::new(false) })
    }

    /// A question begins.
    fn ask(self: &Arc<Self>) -> Proof {
        Proof { freshness: Arc::clone(self), asked: self.now() }
    }

    fn age(&self) -> Option<Duration> {
        match self.proved.load(Ordering::Acquire) {
            0 => None,
            proved => Some(Duration::from_nanos(self.now().saturating_sub(proved))),
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_nanos()).unwrap_or(u64::MAX).saturating_add(1)
    }
}

/// What a linearizable read will have proved once it is served.
pub(crate) struct Proof {
    freshness: Arc<Freshness>,
    asked: u64,
}

impl Proof {
    /// To be called in the state machine's lane, where reads are served.
    pub(crate) fn served(self) {
        self.freshness.proved.fetch_max(self.asked, Ordering::AcqRel);
    }
}

/// A linearizable read for the proof alone.
struct Question {
    proof: Proof,
}

impl<S> Read<S> for Question {
    fn serve(self: Box<Self>, _: &S) {
        self.proof.freshness.proved.fetch_max(self.proof.asked, Ordering::AcqRel);
    }

    fn reject(self: Box<Self>, _: Rejection) {}

    fn is_abandoned(&self) -> bool {
        false
    }
}

impl Drop for Question {
    fn drop(&mut self) {
        self.proof.freshness.asking.store(false, Ordering::Release);
    }
}
