//! The handle: what a program holds of a node that runs.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use raft_core::host::StateMachine;
use raft_core::{CommandRef, Commands, LogId, MembershipChange, NodeId, ReadConsistency, Status};
use tokio::sync::mpsc::{Sender, UnboundedSender};
use tokio::sync::{oneshot, watch};

use crate::error::{AdminError, Applied, ReadError, StopReason, WriteError};
use crate::metrics::Metrics;
use crate::request::{
    AdminReply, AdminRequest, Answer, Answers, Batch, PendingWrite, ReadJob, Reply, Request, Slot,
    WriteRequest,
};
use crate::task::Input;
use crate::transport::TransportStats;

/// A node that runs. Clones are handles on the same node; when the last one is dropped, the node stops.
///
/// Every future of a handle may be dropped at any time. A write whose future is dropped may still happen.
pub struct Raft<S: StateMachine> {
    shared: Arc<Shared<S>>,
}

pub(crate) struct Shared<S: StateMachine> {
    pub(crate) id: NodeId,
    pub(crate) writes: Sender<WriteRequest<S::Response>>,
    pub(crate) requests: Sender<Request<S>>,
    pub(crate) inputs: UnboundedSender<Input>,
    pub(crate) metrics: watch::Sender<Metrics>,
    pub(crate) life: watch::Receiver<Life>,
    pub(crate) abandoned: Arc<AtomicUsize>,
    pub(crate) transport: Arc<dyn Fn() -> TransportStats + Send + Sync>,
}

/// How far a node's end has come.
#[derive(Clone, Debug, Default)]
pub(crate) struct Life {
    /// Set before anybody is told `Stopped`.
    pub(crate) reason: Option<StopReason>,
    /// Every task and thread has ended, everything they owned is dropped.
    pub(crate) ended: bool,
}

impl<S: StateMachine> Clone for Raft<S> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<S: StateMachine> fmt::Debug for Raft<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Raft").field("id", &self.shared.id).finish_non_exhaustive()
    }
}

impl<S: StateMachine> Raft<S> {
    pub(crate) fn new(shared: Shared<S>) -> Self {
        Self { shared: Arc::new(shared) }
    }

    /// This node's name.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.shared.id
    }

    /// Proposes a command and returns when it is committed and applied here, with the state machine's response.
    ///
    /// Waits while the node has no room for more commands, and as long as no majority can be reached: put a time-out
    /// around it. If the future is dropped, the outcome is unknown.
    ///
    /// # Errors
    /// [`WriteError`] says what is known about the command; one that did not happen comes back in it.
    pub async fn write(&self, command: impl Into<Bytes>) -> Result<Applied<S::Response>, WriteError> {
        let (sender, receiver) = oneshot::channel();
        self.send(command.into(), Reply::Applied(Slot::One(sender))).await?;
        self.answer(receiver).await
    }

    /// Proposes a command and returns when it is committed: it will survive, and every machine will apply it.
    /// Does not wait for the state machine.
    ///
    /// # Errors
    /// As for [`write`](Self::write).
    pub async fn write_committed(&self, command: impl Into<Bytes>) -> Result<LogId, WriteError> {
        let (sender, receiver) = oneshot::channel();
        self.send(command.into(), Reply::Committed(Slot::One(sender))).await?;
        self.answer(receiver).await
    }

    /// Proposes many commands at once and returns when all have their outcome: one result for each, in order.
    /// They are not atomic: some may happen and others not.
    pub async fn write_all(&self, commands: Commands) -> Vec<Result<Applied<S::Response>, WriteError>> {
        self.write_batch(commands, |commands, batch| WriteRequest::Applied { commands, batch }).await
    }

    /// As [`write_all`](Self::write_all), without waiting for the state machine.
    pub async fn write_all_committed(&self, commands: Commands) -> Vec<Result<LogId, WriteError>> {
        self.write_batch(commands, |commands, batch| WriteRequest::Committed { commands, batch }).await
    }

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
        let (reply, receiver) = oneshot::channel();
        let read = Request::Read(Box::new(ReadJob { closure, reply }), consistency);
        if self.shared.requests.send(read).await.is_err() {
            return Err(ReadError::Stopped);
        }
        self.wait(receiver).await.unwrap_or(Err(ReadError::Stopped))
    }

    /// Gives a pristine cluster its first configuration: every voter with its address, this node among them. Call
    /// it on one node or on several, with the same set; again is harmless.
    ///
    /// # Errors
    /// If the node was bootstrapped with another set, or the set cannot be used.
    pub async fn bootstrap(&self, members: BTreeMap<NodeId, Bytes>) -> Result<(), AdminError> {
        self.admin(AdminRequest::Bootstrap(members)).await.map(drop)
    }

    /// Asks for an election now.
    ///
    /// # Errors
    /// If the node may not campaign.
    pub async fn campaign(&self) -> Result<(), AdminError> {
        self.admin(AdminRequest::Campaign).await.map(drop)
    }

    /// Changes who takes part (§6), at the leader. Returns when the last configuration of the change is committed, which
    /// takes as long as new voters need to catch up; one that makes no progress is given up after
    /// [`catch_up_timeout`](raft_core::Config::catch_up_timeout).
    ///
    /// # Errors
    /// If it was refused or given up; [`AdminError::Unknown`] if this node lost the leadership before the change was
    /// complete: a new leader goes on with it.
    pub async fn change_membership(&self, change: MembershipChange) -> Result<(), AdminError> {
        self.admin(AdminRequest::ChangeMembership(Box::new(change))).await.map(drop)
    }

    /// Hands the leadership to another voter (thesis §3.10): to the one whose log is longest if `to` is `None`. Returns
    /// who leads, once it does.
    ///
    /// # Errors
    /// If this node does not lead, or nobody took over in time.
    pub async fn transfer_leadership(&self, to: Option<NodeId>) -> Result<NodeId, AdminError> {
        let led_by = self.admin(AdminRequest::TransferLeadership(to)).await?;
        led_by.or(to).ok_or(AdminError::Unknown)
    }

    /// Hands the leadership over if this node has it: call it before [`shutdown`](Self::shutdown), with a time-out, and
    /// no client waits for an election timeout.
    ///
    /// # Errors
    /// If there is nobody who could take over.
    pub async fn step_down(&self) -> Result<(), AdminError> {
        self.admin(AdminRequest::StepDown).await.map(drop)
    }

    /// Takes a snapshot of this node's state machine now (§7). Returns when it is durable.
    ///
    /// # Errors
    /// If nothing was applied since the last one, one is being taken, or it cannot be kept.
    pub async fn snapshot(&self) -> Result<(), AdminError> {
        self.admin(AdminRequest::TakeSnapshot).await.map(drop)
    }

    /// The node's status now, asked of its task. `None` if it has stopped.
    pub async fn status(&self) -> Option<Status> {
        let (sender, receiver) = oneshot::channel();
        self.shared.requests.send(Request::Status(sender)).await.ok()?;
        receiver.await.ok()
    }

    /// The node's metrics, as they change. While a receiver exists, they are published in every turn in which
    /// something changed.
    #[must_use]
    pub fn metrics(&self) -> watch::Receiver<Metrics> {
        let receiver = self.shared.metrics.subscribe();
        // What changed while nobody listened comes with the next publication. If the queue is full or the node
        // has stopped, that comes anyway or never.
        let _ = self.shared.requests.try_send(Request::Publish);
        receiver
    }

    /// What the transport has counted until now.
    #[must_use]
    pub fn transport(&self) -> TransportStats {
        (self.shared.transport)()
    }

    /// Waits until this node knows a leader. `None` if `limit` passes before, or the node stops. A node that was never
    /// bootstrapped has none.
    pub async fn wait_for_leader(&self, limit: Duration) -> Option<NodeId> {
        let mut metrics = self.metrics();
        let seen = metrics.wait_for(|metrics| metrics.status.leader.is_some() || metrics.stopped.is_some());
        let seen = tokio::time::timeout(limit, seen).await.ok()?.ok()?;
        if seen.stopped.is_some() { None } else { seen.status.leader }
    }

    /// Stops the node. Resolves when every task and thread has ended, and files and sockets are closed; says why
    /// the node stopped, which may be another reason than this call. A call after that only says why.
    ///
    /// What is committed and was handed to the state machine is applied first.
    pub async fn shutdown(&self) -> StopReason {
        // A node that is gone need not be told.
        let _ = self.shared.inputs.send(Input::Stop);
        self.stopped().await
    }

    /// Waits until the node has stopped, for whatever reason, and everything has ended.
    pub async fn stopped(&self) -> StopReason {
        let mut life = self.shared.life.clone();
        // An error: the tasks were dropped together with their runtime.
        let _ = life.wait_for(|life| life.ended).await;
        let reason = life.borrow().reason.clone();
        reason.unwrap_or(StopReason::RuntimeEnded)
    }

    /// Why the node has stopped, or is about to. `None` while it runs.
    #[must_use]
    pub fn stop_reason(&self) -> Option<StopReason> {
        let reason = self.shared.life.borrow().reason.clone();
        reason.or_else(|| self.shared.life.has_changed().is_err().then_some(StopReason::RuntimeEnded))
    }

    async fn send(&self, command: Bytes, reply: Reply<S::Response>) -> Result<(), WriteError> {
        let request = WriteRequest::One(PendingWrite { command, reply });
        self.shared.writes.send(request).await.map_err(|request| {
            let WriteRequest::One(write) = request.0 else { unreachable!("the request sent above") };
            WriteError::Stopped { command: write.command }
        })
    }

    async fn answer<T>(&self, receiver: oneshot::Receiver<Answer<T>>) -> Result<T, WriteError> {
        match self.wait(receiver).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(rejected)) => {
                let (rejection, command) = *rejected;
                Err(WriteError::new(rejection, command))
            }
            Err(_) => Err(WriteError::Unknown),
        }
    }

    async fn write_batch<T>(
        &self,
        commands: Commands,
        request: impl FnOnce(Commands, Arc<Batch<T>>) -> WriteRequest<S::Response>,
    ) -> Vec<Result<T, WriteError>> {
        let count = commands.len();
        if count == 0 {
            return Vec::new();
        }
        let (sender, receiver) = oneshot::channel::<Answers<T>>();
        let request = request(commands.clone(), Batch::new(count, sender));
        if self.shared.writes.send(request).await.is_err() {
            let stopped = |command: CommandRef<'_>| Err(WriteError::Stopped { command: command.to_bytes() });
            return commands.iter().map(stopped).collect();
        }
        let Ok(answers) = self.wait(receiver).await else {
            return (0..count).map(|_| Err(WriteError::Unknown)).collect();
        };
        let result = |answer: Option<Answer<T>>| match answer {
            Some(Ok(value)) => Ok(value),
            Some(Err(rejected)) => Err(WriteError::new(rejected.0, rejected.1)),
            None => Err(WriteError::Unknown),
        };
        answers.into_iter().map(result).collect()
    }

    async fn admin(&self, request: AdminRequest) -> Result<Option<NodeId>, AdminError> {
        let (sender, receiver) = oneshot::channel();
        let sent = self.shared.requests.send(Request::Admin(request, AdminReply(sender))).await;
        sent.map_err(|_| AdminError::Stopped)?;
        receiver.await.unwrap_or(Err(AdminError::Stopped))
    }

    /// Waits, and counts the caller as gone if the future is dropped before the answer.
    async fn wait<T>(&self, receiver: oneshot::Receiver<T>) -> Result<T, oneshot::error::RecvError> {
        let mut waiting = Waiting { abandoned: Some(&self.shared.abandoned) };
        let answer = receiver.await;
        waiting.abandoned = None;
        answer
    }
}

struct Waiting<'a> {
    abandoned: Option<&'a AtomicUsize>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(abandoned) = self.abandoned {
            abandoned.fetch_add(1, Ordering::Relaxed);
        }
    }
}
