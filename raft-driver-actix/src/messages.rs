//! What clients and peers say to the [`Raft`] actor, and how the answers find their way back.
//!
//! * No future waits in the actor: a handler's response is the request itself, which keeps the reply's sender and
//!   waits in the actor's inbox for the next turn. Actix polls every future of an actor at each of its wakes, so a
//!   future for each request would make each request pay for all.
//! * A request is answered once. Whoever no longer listens is not answered, and forgotten in time: to give up, drop the
//!   future, or let [`Request::timeout`](actix::dev::Request::timeout) do so.

use std::cell::RefCell;
use std::fmt;
use std::marker::PhantomData;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix::dev::{MessageResponse, OneshotSender};
use actix::{Actor, Message};
use bytes::Bytes;
use raft_core::host::{Application, Codec, CommandError, Rejection, StateMachine, Typed, Writer};
use raft_core::{LogId, NodeId, ReadConsistency};
use raft_driver_tokio::driver::{Caller, Closure, ReadJob, Served};
use raft_driver_tokio::{ReadError, WriteError};
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::Instant;

use crate::actor::Raft;
use crate::inbox::{Inbox, Request};

/// When a write is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ResponseMode {
    /// When it is committed: it will survive, and every state machine will apply it.
    Committed,
    /// When it is committed and applied at this node, with the state machine's response.
    Applied,
}

/// A client proposes a command to the leader (§8). `R` is the state machine's response.
///
/// A node that does not lead answers [`WriteError::NotLeader`] with the command, the leader and its address, unless the
/// write may be [forwarded](Self::forwarding).
#[derive(Clone, Debug)]
pub struct ClientWrite<R> {
    /// The command.
    pub command: Bytes,
    /// When it is answered.
    pub mode: ResponseMode,
    forward: Option<Duration>,
    response: PhantomData<fn() -> R>,
}

impl<R> ClientWrite<R> {
    /// A write that is answered as `mode` says.
    pub fn new(command: impl Into<Bytes>, mode: ResponseMode) -> Self {
        Self { command: command.into(), mode, forward: None, response: PhantomData }
    }

    /// A write of a typed command, validated by the application and encoded here, in the caller. Bytes are validated too,
    /// by the leader: see [`WriteError::Invalid`].
    ///
    /// # Errors
    /// If the application rejects the command, or it cannot be encoded. Nothing is in the log.
    pub fn typed<A, C, K>(
        command: &A::Command,
        mode: ResponseMode,
    ) -> Result<Self, CommandError<A::Rejection>>
    where
        A: Application<Response = R>,
        C: Codec<A::Command>,
    {
        Ok(Self::new(Typed::<A, C, K>::command(command)?, mode))
    }

    /// Sends it on to the leader if the node does not lead, once: the leader does not pass it on. Works over transports
    /// that carry letters, as the shipped ones do. What is lost on the way is [`WriteError::Unknown`] after `limit`.
    ///
    /// It takes as long as a write at the leader and, beside that, one round trip to the leader; a second one, if it waits
    /// for the response: the asked node asks how far the log is committed.
    ///
    /// The response is that of the asked node's own state machine, so that a read of it afterwards sees the write.
    #[must_use]
    pub fn forwarding(self, limit: Duration) -> Self {
        Self { forward: Some(limit), ..self }
    }
}

impl<R: 'static> Message for ClientWrite<R> {
    type Result = Result<ClientResponse<R>, WriteError>;
}

/// What became of a write.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ClientResponse<R> {
    /// It is committed.
    Committed {
        /// Where it stands in the log.
        id: LogId,
    },
    /// It is committed, and applied at the node that was asked.
    Applied {
        /// Where it stands in the log.
        id: LogId,
        /// What the state machine answered.
        response: R,
    },
}

impl<R> ClientResponse<R> {
    /// Where the command stands in the log.
    pub const fn id(&self) -> LogId {
        match self {
            Self::Committed { id } | Self::Applied { id, .. } => *id,
        }
    }

    /// What the state machine answered, if the write waited for that.
    pub fn response(self) -> Option<R> {
        match self {
            Self::Committed { .. } => None,
            Self::Applied { response, .. } => Some(response),
        }
    }
}

/// A client reads a node's state machine by a closure, which runs in the state machine's lane and should be short. Any
/// member serves it: one that does not lead asks its leader first how far it must be.
///
/// Linearizable unless it is told otherwise: the closure sees every write that was answered before this was sent (§8,
/// thesis §6.4).
pub struct ClientRead<S, T> {
    closure: Box<dyn FnOnce(&S) -> T + Send>,
    freshness: ReadFreshness,
}

/// What a read must see.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ReadFreshness {
    Proved(ReadConsistency),
    Stale(Duration),
}

impl<S, T> ClientRead<S, T> {
    /// A read by this closure.
    pub fn new(closure: impl FnOnce(&S) -> T + Send + 'static) -> Self {
        let freshness = ReadFreshness::Proved(ReadConsistency::Linearizable);
        Self { closure: Box::new(closure), freshness }
    }

    /// The same, linearizable as far as clocks can be relied on: no message is sent where the leader has a lease, see
    /// [`raft_core::Config::lease`].
    #[must_use]
    pub fn lease(self) -> Self {
        Self { freshness: ReadFreshness::Proved(ReadConsistency::Lease), ..self }
    }

    /// The same, of a state that may lack writes that were answered less than `bound` before: nobody is asked as long as a
    /// linearizable read, of whomever, has proved that; see [`raft_driver_tokio::Raft::read_stale`]. `Duration::MAX` reads
    /// whatever the node has.
    #[must_use]
    pub fn stale(self, bound: Duration) -> Self {
        Self { freshness: ReadFreshness::Stale(bound), ..self }
    }
}

impl<S, T> fmt::Debug for ClientRead<S, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientRead").field("freshness", &self.freshness).finish_non_exhaustive()
    }
}

impl<S, T: 'static> Message for ClientRead<S, T> {
    type Result = Result<T, ReadError>;
}

/// What peers say to each other: the whole of the protocol in one message.
///
/// Sent *to* a [`Raft`] actor, it is something that was received for it from the peer that it names, which must be
/// authenticated. Sent *by* one, through [`ActorNetwork`](crate::network::ActorNetwork), it is to be carried to its
/// target, in whatever form: it is serde.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum RaftMessage {
    /// AppendEntries, RequestVote, InstallSnapshot, their answers, and the rest of the protocol. May be lost, repeated and
    /// late.
    Protocol(raft_core::Message),
    /// What the nodes' drivers say to each other: forwarded writes and their answers. May be lost or late, but must not
    /// arrive twice: whoever carries it does not send it again.
    Letter {
        /// Who says it.
        from: NodeId,
        /// To whom.
        to: NodeId,
        /// What.
        letter: Bytes,
    },
}

impl RaftMessage {
    /// The node that it is for.
    #[must_use]
    pub const fn target(&self) -> NodeId {
        match self {
            Self::Protocol(message) => message.to,
            Self::Letter { to, .. } => *to,
        }
    }

    /// The node that says it.
    #[must_use]
    pub const fn sender(&self) -> NodeId {
        match self {
            Self::Protocol(message) => message.from,
            Self::Letter { from, .. } => *from,
        }
    }
}

impl Message for RaftMessage {
    type Result = ();
}

/// Where an answer goes; nowhere, if the message was sent without asking for one.
pub(crate) struct Reply<T>(Option<OneshotSender<T>>);

impl<T> Reply<T> {
    pub(crate) fn answer(self, answer: T) {
        if let Some(sender) = self.0 {
            // Who no longer listens needs no answer.
            let _ = sender.send(answer);
        }
    }

    /// Whoever never asked for an answer did not stop waiting for it.
    fn is_abandoned(&self) -> bool {
        self.0.as_ref().is_some_and(OneshotSender::is_closed)
    }
}

/// A message that waits in the inbox together with its reply's sender.
pub(crate) trait Deferrable<S: StateMachine>: Message {
    fn into_request(self, reply: Reply<Self::Result>) -> Request<S>;
}

/// The response to a message that is answered in a later turn.
pub struct Deferred<S: StateMachine, M> {
    message: M,
    inbox: Rc<RefCell<Inbox<S>>>,
}

impl<S: StateMachine, M> Deferred<S, M> {
    pub(crate) fn new(message: M, inbox: &Rc<RefCell<Inbox<S>>>) -> Self {
        Self { message, inbox: Rc::clone(inbox) }
    }
}

impl<S: StateMachine, M> fmt::Debug for Deferred<S, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Deferred")
    }
}

impl<S: StateMachine, M: Deferrable<S>> MessageResponse<Raft<S>, M> for Deferred<S, M> {
    fn handle(self, _: &mut <Raft<S> as Actor>::Context, sender: Option<OneshotSender<M::Result>>) {
        self.inbox.borrow_mut().ask(self.message.into_request(Reply(sender)));
    }
}

impl<S: StateMachine> Deferrable<S> for ClientWrite<S::Response> {
    fn into_request(self, reply: Reply<Self::Result>) -> Request<S> {
        let Self { command, mode, forward, .. } = self;
        // Clocks cannot name all limits.
        let forward = forward.map(|limit| Instant::now() + limit.min(FORWARD_LIMIT_MAX));
        let reply = WriteReply::Own(mode, Told(Some(reply)));
        Request::Write(PendingWrite { command, forward, reply, room: None })
    }
}

impl<S: StateMachine, T: Send + 'static> Deferrable<S> for ClientRead<S, T> {
    fn into_request(self, reply: Reply<Self::Result>) -> Request<S> {
        // A read whose result nobody wants is as good as abandoned.
        let reply = reply.0.unwrap_or_else(|| oneshot::channel().0);
        let (closure, freshness) = (Closure::new(self.closure), self.freshness);
        Request::Read(
            freshness,
            Box::new(move |proof, room| Box::new(ReadJob { closure, reply, proof, room })),
        )
    }
}

/// The longest limit of a forwarded write.
const FORWARD_LIMIT_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// A write that waits for its outcome.
pub(crate) struct PendingWrite<R> {
    command: Bytes,
    /// Until when the leader may be asked to write it, if this node does not lead.
    forward: Option<Instant>,
    reply: WriteReply<R>,
    /// Its share of what may wait; another node's has a budget of its own.
    room: Option<OwnedSemaphorePermit>,
}

/// What the smallest command counts, so that their number is bounded too.
const COMMAND_BYTES_MIN: usize = 256;

impl<R> PendingWrite<R> {
    /// The write with its share of `room`, which is `room_bytes` in all; refused if there is none.
    pub(crate) fn with_room(mut self, room: &Arc<Semaphore>, room_bytes: usize) -> Option<Self> {
        let share = self.command.len().max(COMMAND_BYTES_MIN).min(room_bytes);
        let share = u32::try_from(share).unwrap_or(u32::MAX);
        if let Ok(permit) = Arc::clone(room).try_acquire_many_owned(share) {
            self.room = Some(permit);
            return Some(self);
        }
        self.reject(Rejection::Busy);
        None
    }
}

enum WriteReply<R> {
    Own(ResponseMode, Told<R>),
    /// Another node asks for its caller. Boxed: most are not, and shorter.
    Served(Box<Served>),
}

/// The caller of a write. One that is given up, because its limit has passed, hears that too.
struct Told<R>(Option<Reply<Result<ClientResponse<R>, WriteError>>>);

impl<R> Told<R> {
    fn answer(mut self, answer: Result<ClientResponse<R>, WriteError>) {
        if let Some(reply) = self.0.take() {
            reply.answer(answer);
        }
    }

    fn is_abandoned(&self) -> bool {
        self.0.as_ref().is_none_or(Reply::is_abandoned)
    }
}

impl<R> Drop for Told<R> {
    fn drop(&mut self) {
        if let Some(reply) = self.0.take() {
            reply.answer(Err(WriteError::Unknown));
        }
    }
}

impl<R: Send + 'static> Caller for PendingWrite<R> {
    fn forward_until(&self) -> Option<Instant> {
        self.forward
    }

    fn served(command: Bytes, by: Served) -> Self {
        Self { command, forward: None, reply: WriteReply::Served(Box::new(by)), room: None }
    }
}

impl<R> Writer for PendingWrite<R> {
    type Response = R;

    fn command(&self) -> &Bytes {
        &self.command
    }

    fn wants_response(&self) -> bool {
        matches!(self.reply, WriteReply::Own(ResponseMode::Applied, _))
    }

    fn is_abandoned(&self) -> bool {
        match &self.reply {
            WriteReply::Own(_, reply) => {
                reply.is_abandoned() || self.forward.is_some_and(|until| until <= Instant::now())
            }
            WriteReply::Served(served) => served.is_abandoned(),
        }
    }

    fn committed(self, id: LogId) {
        match self.reply {
            WriteReply::Own(_, reply) => reply.answer(Ok(ClientResponse::Committed { id })),
            WriteReply::Served(served) => served.answer(Ok(id)),
        }
    }

    fn applied(self, id: LogId, response: R) {
        match self.reply {
            WriteReply::Own(_, reply) => reply.answer(Ok(ClientResponse::Applied { id, response })),
            // Not asked for; the other node's own machine answers.
            WriteReply::Served(served) => served.answer(Ok(id)),
        }
    }

    fn reject(self, rejection: Rejection) {
        match self.reply {
            WriteReply::Own(_, reply) => reply.answer(Err(WriteError::new(rejection, self.command))),
            WriteReply::Served(served) => served.answer(Err(rejection)),
        }
    }
}
