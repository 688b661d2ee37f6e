//! The handle: what a program holds of a node that runs.
//!
//! * A handle carries how it asks: for how long ([`Raft::within`]), and whether its writes are forwarded
//!   ([`Raft::forwarding`]). There is one method for each request, whatever the way.
//! * Every future may be dropped at any time. Its place in the node is given back soon after, that of a read which waits for
//!   the state machine when the machine comes to it; a write that was handed to the node may still happen.

mod admin;
mod health;
mod read;
mod wait;
mod write;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use raft_core::host::StateMachine;
use raft_core::{NodeId, Status};
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use crate::error::StopReason;
use crate::freshness::Freshness;
use crate::inbox::Inbox;
use crate::metrics::{Metrics, Times};
use crate::request::Request;
use crate::task::Input;
use crate::transport::TransportStats;

pub use health::Health;
pub use wait::{Wait, WaitError};

/// A node that runs. Clones are handles on the same node; when the last one is dropped, the node stops.
///
/// Every future of a handle may be dropped at any time. A write whose future is dropped may still happen.
pub struct Raft<S: StateMachine> {
    shared: Arc<Shared<S>>,
    limit: Option<Duration>,
    forwards: bool,
}

pub(crate) struct Shared<S: StateMachine> {
    pub(crate) id: NodeId,
    pub(crate) inbox: Arc<Inbox<S>>,
    pub(crate) metrics: watch::Sender<Metrics>,
    pub(crate) life: watch::Receiver<Life>,
    /// Somebody stopped waiting since the task looked last.
    pub(crate) abandoned: Arc<AtomicBool>,
    pub(crate) transport: Arc<dyn Fn() -> TransportStats + Send + Sync>,
    /// Bytes of commands that may wait for their outcome.
    pub(crate) room_bytes: usize,
    pub(crate) freshness: Arc<Freshness>,
    pub(crate) times: Times,
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
        Self { shared: Arc::clone(&self.shared), limit: self.limit, forwards: self.forwards }
    }
}

impl<S: StateMachine> fmt::Debug for Raft<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Raft")
            .field("id", &self.shared.id)
            .field("limit", &self.limit)
            .field("forwards", &self.forwards)
            .finish_non_exhaustive()
    }
}

impl<S: StateMachine> Raft<S> {
    pub(crate) fn new(shared: Shared<S>) -> Self {
        Self { shared: Arc::new(shared), limit: None, forwards: false }
    }

    /// This node's name.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.shared.id
    }

    /// A handle on the same node whose writes, reads and administrative requests are given up after `limit` each, the
    /// time to wait for room included. What that says of a write: [`WriteError::Busy`](crate::WriteError::Busy) if it was
    /// not handed to the node yet, else [`WriteError::Unknown`](crate::WriteError::Unknown), and the node forgets it.
    ///
    /// ```
    /// # async fn put<S: raft_core::host::StateMachine>(raft: raft_driver_tokio::Raft<S>) {
    /// # use std::time::Duration;
    /// let client = raft.within(Duration::from_secs(2)).forwarding();
    /// match client.write("hello").await {
    ///     Ok(applied) => println!("{}", applied.id),
    ///     Err(error) => println!("{error}: {:?}", error.advice()),
    /// }
    /// # }
    /// ```
    #[must_use]
    pub fn within(&self, limit: Duration) -> Self {
        Self { limit: Some(limit), ..self.clone() }
    }

    /// A handle on the same node whose writes go to the leader if this node does not lead, once: the leader does not
    /// pass them on. A node that knows no leader yet refuses at once, whatever the limit: [`wait`](Self::wait) for one
    /// first. Works over transports that carry letters, as the shipped ones do.
    ///
    /// Such a write takes as long as one at the leader and, beside that, one round trip to the leader; a second one, if it
    /// waits for the response: this node asks how far the log is committed, for all writes that were answered meanwhile,
    /// unless other writes have said it.
    ///
    /// What is lost on the way is [`WriteError::Unknown`](crate::WriteError::Unknown) when the limit of
    /// [`within`](Self::within) passes, or 10 seconds without one. The response is that of this node's own state
    /// machine, so that a read of it afterwards sees the write; if the machine was far ahead of the answer, it is
    /// [`WriteError::ResponseLost`](crate::WriteError::ResponseLost).
    #[must_use]
    pub fn forwarding(&self) -> Self {
        Self { forwards: true, ..self.clone() }
    }

    /// The node's status now, asked of its task. `None` if it has stopped, or the limit has passed.
    pub async fn status(&self) -> Option<Status> {
        let (sender, receiver) = oneshot::channel();
        let ask = async {
            self.shared.inbox.request(Request::Status(sender)).await.ok()?;
            receiver.await.ok()
        };
        until(self.deadline(), ask).await?
    }

    /// The node's metrics, as they change. While a receiver exists, they are published in every turn in which
    /// something changed.
    #[must_use]
    pub fn metrics(&self) -> watch::Receiver<Metrics> {
        let receiver = self.shared.metrics.subscribe();
        // What changed while nobody listened comes with the next publication. If the queue is full or the node
        // has stopped, that comes anyway or never.
        self.shared.inbox.try_request(Request::Publish);
        receiver
    }

    /// What the transport has counted until now.
    #[must_use]
    pub fn transport(&self) -> TransportStats {
        (self.shared.transport)()
    }

    /// Hands the leadership over if the node has it, so that no client waits for an election timeout, then stops the node.
    /// The hand-over takes [`Config::handover_max`](raft_core::Config::handover_max) at most, successful or not; the node
    /// stops even if this future is dropped.
    ///
    /// Resolves when every task and thread has ended, and files and sockets are closed; says why the node stopped, which
    /// may be another reason than this call. A call after that only says why. What is committed and was handed to the state
    /// machine is applied first.
    pub async fn shutdown(&self) -> StopReason {
        // A node that is gone need not be told.
        let _ = self.shared.inbox.input(Input::HandOver);
        self.stopped().await
    }

    /// As [`shutdown`](Self::shutdown), at once: if this node leads, its followers find out by an election timeout.
    pub async fn shutdown_now(&self) -> StopReason {
        let _ = self.shared.inbox.input(Input::Stop);
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

    fn deadline(&self) -> Option<Instant> {
        // A limit that no clock can name is none.
        self.limit.and_then(|limit| Instant::now().checked_add(limit))
    }

    /// Waits for the answer to something that the node follows.
    fn follow<T>(&self, receiver: oneshot::Receiver<T>) -> Following<'_, S, T> {
        Following { receiver: Some(receiver), shared: &self.shared }
    }
}

impl<S: StateMachine> Shared<S> {
    /// The task is told once, however many callers stop waiting before it looks.
    fn abandon(&self) {
        if !self.abandoned.swap(true, Ordering::AcqRel) {
            // A node that is gone has nothing to forget.
            let _ = self.inbox.input(Input::Abandoned);
        }
    }
}

impl<S: StateMachine> Drop for Shared<S> {
    fn drop(&mut self) {
        self.inbox.handles_dropped();
    }
}

/// Runs `future` until then. `None` if it was not done.
async fn until<T>(deadline: Option<Instant>, future: impl Future<Output = T>) -> Option<T> {
    match deadline {
        None => Some(future.await),
        Some(deadline) => tokio::time::timeout_at(deadline, future).await.ok(),
    }
}

/// A caller that waits for an answer: `None` if the node dropped the request. Dropped before that, it sees to it that the
/// node forgets it.
struct Following<'a, S: StateMachine, T> {
    receiver: Option<oneshot::Receiver<T>>,
    shared: &'a Shared<S>,
}

impl<S: StateMachine, T> Following<'_, S, T> {
    /// What has arrived already.
    fn answered(&mut self) -> Option<T> {
        self.receiver.as_mut()?.try_recv().ok()
    }
}

impl<S: StateMachine, T> Future for Following<'_, S, T> {
    type Output = Option<T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        let Some(receiver) = &mut self.receiver else { return Poll::Ready(None) };
        let answer = ready!(Pin::new(receiver).poll(cx));
        self.receiver = None;
        Poll::Ready(answer.ok())
    }
}

impl<S: StateMachine, T> Drop for Following<'_, S, T> {
    fn drop(&mut self) {
        // Closed first: whoever looks sees that nobody waits.
        if let Some(receiver) = self.receiver.take() {
            drop(receiver);
            self.shared.abandon();
        }
    }
}
