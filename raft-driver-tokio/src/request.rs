//! What handles ask of the node's task, and how the answers find their way back.
//!
//! * Every request is answered once, or its reply is dropped, which the caller is told as `Unknown` or `Stopped`.
//! * A command that certainly did not happen goes back to its caller; nothing is cloned for that.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use raft_core::host::{Operator, Read, Rejection, Writer};
use raft_core::{
    AdminOutcome, CommandRef, Commands, Event, LogId, Membership, MembershipChange, NodeId, ReadConsistency,
    Status, Ticket,
};
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::Instant;

use crate::driver::{discard, guard};
use crate::error::{AdminError, Applied, ReadError};
use crate::forward::{Caller, Served};
use crate::freshness::Proof;

/// A rejected command comes back. Boxed: the common answer is a short one.
pub(crate) type Answer<T> = Result<T, Box<(Rejection, Bytes)>>;

/// Anything else on its way to the node's task.
pub(crate) enum Request<S> {
    Read(Box<dyn Read<S>>, ReadConsistency),
    /// Of the state as it is.
    ReadLocal(Box<dyn Read<S>>),
    Admin(AdminRequest, AdminReply),
    Status(oneshot::Sender<Status>),
    /// Bring the metrics up to date: somebody began to listen.
    Publish,
}

/// For drivers: what operators ask of a node.
#[derive(Clone, Debug, PartialEq)]
pub enum AdminRequest {
    /// [`Event::Bootstrap`].
    Bootstrap(BTreeMap<NodeId, Bytes>),
    /// [`Event::Campaign`].
    Campaign,
    /// [`Event::ChangeMembership`].
    ChangeMembership(Box<MembershipChange>),
    /// [`Event::TransferLeadership`].
    TransferLeadership(Option<NodeId>),
    /// [`Event::StepDown`].
    StepDown,
    /// [`Event::TakeSnapshot`].
    TakeSnapshot,
}

impl AdminRequest {
    /// What to step for it.
    #[must_use]
    pub fn into_event(self, ticket: Ticket) -> Event {
        match self {
            Self::Bootstrap(members) => Event::Bootstrap { ticket, members },
            Self::Campaign => Event::Campaign { ticket },
            Self::ChangeMembership(change) => Event::ChangeMembership { ticket, change },
            Self::TransferLeadership(to) => Event::TransferLeadership { ticket, to },
            Self::StepDown => Event::StepDown { ticket },
            Self::TakeSnapshot => Event::TakeSnapshot { ticket },
        }
    }
}

/// Where an administrative answer goes.
#[derive(Debug)]
pub(crate) struct AdminReply(pub(crate) oneshot::Sender<Result<Option<NodeId>, AdminError>>);

impl Operator for AdminReply {
    fn answer(self, outcome: AdminOutcome, membership: &Membership) {
        // A caller that no longer waits needs no answer; so for every reply below.
        let _ = self.0.send(AdminError::of(outcome, membership));
    }

    fn stopped(self) {
        let _ = self.0.send(Err(AdminError::Stopped));
    }
}

/// A command and where its answer goes.
pub(crate) struct PendingWrite<R> {
    pub(crate) command: Bytes,
    pub(crate) reply: Reply<R>,
    /// Until when the leader may be asked to write it, if this node does not lead.
    pub(crate) forward: Option<Instant>,
    /// Its share of what may wait, held for its drop; a batch holds it for all.
    pub(crate) room: Option<OwnedSemaphorePermit>,
}

/// Where one command's answer goes.
pub(crate) enum Reply<R> {
    Committed(Slot<LogId>),
    Applied(Slot<Applied<R>>),
    /// Another node asks for its caller. Boxed: the others are short, and most are.
    Forwarded(Box<Served>),
}

impl<R> Writer for PendingWrite<R> {
    type Response = R;

    fn command(&self) -> &Bytes {
        &self.command
    }

    fn wants_response(&self) -> bool {
        matches!(self.reply, Reply::Applied(_))
    }

    fn is_abandoned(&self) -> bool {
        match &self.reply {
            Reply::Committed(slot) => slot.is_abandoned(),
            Reply::Applied(slot) => slot.is_abandoned(),
            Reply::Forwarded(served) => served.is_abandoned(),
        }
    }

    fn committed(self, id: LogId) {
        match self.reply {
            Reply::Committed(slot) => slot.answer(Ok(id)),
            // Not asked for: `wants_response` says so.
            Reply::Applied(slot) => slot.answer(Err(Box::new((Rejection::ResponseLost(id), Bytes::new())))),
            Reply::Forwarded(served) => served.answer(Ok(id)),
        }
    }

    fn applied(self, id: LogId, response: R) {
        match self.reply {
            Reply::Committed(slot) => slot.answer(Ok(id)),
            Reply::Applied(slot) => slot.answer(Ok(Applied { id, response })),
            // Not asked for; the other node's own machine answers.
            Reply::Forwarded(served) => served.answer(Ok(id)),
        }
    }

    fn reject(self, rejection: Rejection) {
        let rejected = |rejection| Box::new((rejection, self.command));
        match self.reply {
            Reply::Committed(slot) => slot.answer(Err(rejected(rejection))),
            Reply::Applied(slot) => slot.answer(Err(rejected(rejection))),
            Reply::Forwarded(served) => served.answer(Err(rejection)),
        }
    }
}

impl<R: Send + 'static> Caller for PendingWrite<R> {
    fn forward_until(&self) -> Option<Instant> {
        self.forward
    }

    fn served(command: Bytes, by: Served) -> Self {
        Self { command, reply: Reply::Forwarded(Box::new(by)), forward: None, room: None }
    }
}

/// A caller's place: alone, or within a batch.
pub(crate) enum Slot<T> {
    One(oneshot::Sender<Answer<T>>),
    Part(Part<T>),
}

impl<T> Slot<T> {
    fn answer(self, answer: Answer<T>) {
        match self {
            Self::One(sender) => drop(sender.send(answer)),
            Self::Part(mut part) => part.fill(answer),
        }
    }

    fn is_abandoned(&self) -> bool {
        match self {
            Self::One(sender) => sender.is_closed(),
            Self::Part(part) => part.batch.is_abandoned(),
        }
    }
}

/// Answers gathered for a caller that proposed many commands at once.
pub(crate) struct Batch<T>(Mutex<Gathered<T>>);

/// In the commands' order; a place that stays empty is `Unknown`.
pub(crate) type Answers<T> = Vec<Option<Answer<T>>>;

struct Gathered<T> {
    answers: Answers<T>,
    open: usize,
    done: Option<oneshot::Sender<Answers<T>>>,
    #[expect(dead_code, reason = "held until all have their outcome")]
    room: OwnedSemaphorePermit,
}

impl<T> Batch<T> {
    pub(crate) fn new(
        count: usize,
        done: oneshot::Sender<Answers<T>>,
        room: OwnedSemaphorePermit,
    ) -> Arc<Self> {
        let mut answers = Vec::new();
        answers.resize_with(count, || None);
        Arc::new(Self(Mutex::new(Gathered { answers, open: count, done: Some(done), room })))
    }

    /// Each of the commands with its place, in order.
    pub(crate) fn writes<R>(
        self: &Arc<Self>,
        commands: &Commands,
        reply: fn(Slot<T>) -> Reply<R>,
        forward: Option<Instant>,
    ) -> Vec<PendingWrite<R>> {
        let write = |(at, command): (u32, CommandRef<'_>)| {
            let reply = reply(Slot::Part(Part { batch: Arc::clone(self), at, open: true }));
            PendingWrite { command: command.to_bytes(), reply, forward, room: None }
        };
        (0..).zip(commands.iter()).map(write).collect()
    }

    /// Whatever there is until now; nobody waits for the rest. `None` if all of it was sent.
    pub(crate) fn give_up(&self) -> Option<Answers<T>> {
        let mut gathered = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        gathered.done.take().map(|_| std::mem::take(&mut gathered.answers))
    }

    fn fill(&self, at: u32, answer: Option<Answer<T>>) {
        let mut gathered = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = gathered.answers.get_mut(at as usize) {
            *place = answer;
        }
        gathered.open = gathered.open.saturating_sub(1);
        if gathered.open == 0 {
            let answers = std::mem::take(&mut gathered.answers);
            if let Some(done) = gathered.done.take() {
                let _ = done.send(answers);
            }
        }
    }

    fn is_abandoned(&self) -> bool {
        let gathered = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        gathered.done.as_ref().is_none_or(oneshot::Sender::is_closed)
    }
}

/// One command's place in a [`Batch`]. Dropped without an answer, it stays empty.
pub(crate) struct Part<T> {
    batch: Arc<Batch<T>>,
    at: u32,
    open: bool,
}

impl<T> Part<T> {
    fn fill(&mut self, answer: Answer<T>) {
        self.open = false;
        self.batch.fill(self.at, Some(answer));
    }
}

impl<T> Drop for Part<T> {
    fn drop(&mut self) {
        if self.open {
            self.batch.fill(self.at, None);
        }
    }
}

/// For drivers: a reader's closure. It is dropped where the node is, if it was not called: what that does is its
/// caller's, and harms nobody else.
#[derive(Debug)]
pub struct Closure<F>(Option<F>);

impl<F> Closure<F> {
    /// This one.
    pub const fn new(closure: F) -> Self {
        Self(Some(closure))
    }
}

impl<F> Drop for Closure<F> {
    fn drop(&mut self) {
        if let Some(closure) = self.0.take() {
            discard("read", closure);
        }
    }
}

/// For drivers: a read, which is a closure and where its result goes.
#[derive(Debug)]
pub struct ReadJob<F, T> {
    /// Is given the state machine.
    pub closure: Closure<F>,
    /// Hears what it returned.
    pub reply: oneshot::Sender<Result<T, ReadError>>,
    /// What it proves of the state that it is served from, if anything.
    pub proof: Option<Proof>,
    /// Its share of what may wait, for one that the node does not count.
    pub room: Option<OwnedSemaphorePermit>,
}

impl<S, T, F> Read<S> for ReadJob<F, T>
where
    F: FnOnce(&S) -> T + Send,
    T: Send,
{
    fn serve(self: Box<Self>, machine: &S) {
        let Self { mut closure, reply, proof, room } = *self;
        if let Some(proof) = proof {
            proof.served();
        }
        if reply.is_closed() {
            return;
        }
        // A reader that panics harms only its caller: it had no more than a shared reference.
        if let Some(closure) = closure.0.take() {
            let result = guard("read", || closure(machine)).map_err(|_| ReadError::Panicked);
            let _ = reply.send(result);
        }
        drop(room);
    }

    fn reject(self: Box<Self>, rejection: Rejection) {
        let _ = self.reply.send(Err(rejection.into()));
    }

    fn is_abandoned(&self) -> bool {
        self.reply.is_closed()
    }
}
