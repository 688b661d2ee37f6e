//! What handles ask of the node's task, and how the answers find their way back.
//!
//! * Every request is answered once, or its reply is dropped, which the caller is told as `Unknown` or `Stopped`.
//! * A command that certainly did not happen goes back to its caller; nothing is cloned for that.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use raft_core::host::{Operator, Read, Rejection, Writer};
use raft_core::{
    AdminOutcome, Commands, Event, LogId, MembershipChange, NodeId, ReadConsistency, Status, Ticket,
};
use tokio::sync::oneshot;

use crate::driver::guard;
use crate::error::{AdminError, Applied, ReadError};

/// A rejected command comes back. Boxed: the common answer is a short one.
pub(crate) type Answer<T> = Result<T, Box<(Rejection, Bytes)>>;

/// A write on its way to the node's task.
pub(crate) enum WriteRequest<R> {
    One(PendingWrite<R>),
    Committed { commands: Commands, batch: Arc<Batch<LogId>> },
    Applied { commands: Commands, batch: Arc<Batch<Applied<R>>> },
}

impl<R> WriteRequest<R> {
    /// Each command with its caller's place, in order.
    pub(crate) fn expand(self, queue: &mut VecDeque<PendingWrite<R>>) {
        match self {
            Self::One(write) => queue.push_back(write),
            Self::Committed { commands, batch } => queue.extend(
                (0..)
                    .zip(commands.iter())
                    .map(|(at, command)| (command.to_bytes(), Reply::Committed(Slot::part(&batch, at))))
                    .map(|(command, reply)| PendingWrite { command, reply }),
            ),
            Self::Applied { commands, batch } => queue.extend(
                (0..)
                    .zip(commands.iter())
                    .map(|(at, command)| (command.to_bytes(), Reply::Applied(Slot::part(&batch, at))))
                    .map(|(command, reply)| PendingWrite { command, reply }),
            ),
        }
    }
}

/// Anything else on its way to the node's task.
pub(crate) enum Request<S> {
    Read(Box<dyn Read<S>>, ReadConsistency),
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
    fn answer(self, outcome: AdminOutcome) {
        // A caller that no longer waits needs no answer; so for every reply below.
        let _ = self.0.send(AdminError::of(outcome));
    }

    fn stopped(self) {
        let _ = self.0.send(Err(AdminError::Stopped));
    }
}

/// A command and where its answer goes.
pub(crate) struct PendingWrite<R> {
    pub(crate) command: Bytes,
    pub(crate) reply: Reply<R>,
}

/// Where one command's answer goes.
pub(crate) enum Reply<R> {
    Committed(Slot<LogId>),
    Applied(Slot<Applied<R>>),
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
        }
    }

    fn committed(self, id: LogId) {
        match self.reply {
            Reply::Committed(slot) => slot.answer(Ok(id)),
            // Not asked for: `wants_response` says so.
            Reply::Applied(slot) => slot.answer(Err(Box::new((Rejection::ResponseLost(id), Bytes::new())))),
        }
    }

    fn applied(self, id: LogId, response: R) {
        match self.reply {
            Reply::Committed(slot) => slot.answer(Ok(id)),
            Reply::Applied(slot) => slot.answer(Ok(Applied { id, response })),
        }
    }

    fn reject(self, rejection: Rejection) {
        let rejected = Box::new((rejection, self.command));
        match self.reply {
            Reply::Committed(slot) => slot.answer(Err(rejected)),
            Reply::Applied(slot) => slot.answer(Err(rejected)),
        }
    }
}

/// A caller's place: alone, or within a batch.
pub(crate) enum Slot<T> {
    One(oneshot::Sender<Answer<T>>),
    Part(Part<T>),
}

impl<T> Slot<T> {
    fn part(batch: &Arc<Batch<T>>, at: u32) -> Self {
        Self::Part(Part { batch: Arc::clone(batch), at, open: true })
    }

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
}

impl<T> Batch<T> {
    pub(crate) fn new(count: usize, done: oneshot::Sender<Answers<T>>) -> Arc<Self> {
        let mut answers = Vec::new();
        answers.resize_with(count, || None);
        Arc::new(Self(Mutex::new(Gathered { answers, open: count, done: Some(done) })))
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

/// A read: a closure and where its result goes.
pub(crate) struct ReadJob<F, T> {
    pub(crate) closure: F,
    pub(crate) reply: oneshot::Sender<Result<T, ReadError>>,
}

impl<S, T, F> Read<S> for ReadJob<F, T>
where
    F: FnOnce(&S) -> T + Send,
    T: Send,
{
    fn serve(self: Box<Self>, machine: &S) {
        let Self { closure, reply } = *self;
        if reply.is_closed() {
            return;
        }
        // A reader that panics harms only its caller: it had no more than a shared reference.
        let result = guard("read", || closure(machine)).map_err(|_| ReadError::Panicked);
        let _ = reply.send(result);
    }

    fn reject(self: Box<Self>, rejection: Rejection) {
        let _ = self.reply.send(Err(rejection.into()));
    }

    fn is_abandoned(&self) -> bool {
        self.reply.is_closed()
    }
}
