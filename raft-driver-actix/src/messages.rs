//! What clients and peers say to the [`Raft`] actor, and how the answers find their way back.
//!
//! * No future waits in the actor: a handler's response is the request itself, which keeps the reply's sender and
//!   waits in the actor's inbox for the next turn. Actix polls every future of an actor at each of its wakes, so a
//!   future for each request would make each request pay for all.
//! * A request is answered once. Whoever no longer listens is not answered, and forgotten in time.

use std::cell::RefCell;
use std::fmt;
use std::marker::PhantomData;
use std::rc::Rc;

use actix::dev::{MessageResponse, OneshotSender};
use actix::{Actor, Message};
use bytes::Bytes;
use raft_core::host::{Read, Rejection, StateMachine, Writer};
use raft_core::{LogId, ReadConsistency};
use raft_driver_tokio::driver::guard;
use raft_driver_tokio::{ReadError, WriteError};

use crate::actor::{Inbox, Raft, Request};

/// When a write is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ResponseMode {
    /// When it is committed: it will survive, and every state machine will apply it.
    Committed,
    /// When it is committed and applied at this node, with the state machine's response.
    Applied,
}

/// A client proposes a command to the leader (§8). `R` is the state machine's response.
#[derive(Clone, Debug)]
pub struct ClientWrite<R> {
    /// The command.
    pub command: Bytes,
    /// When it is answered.
    pub mode: ResponseMode,
    response: PhantomData<fn() -> R>,
}

impl<R> ClientWrite<R> {
    /// A write that is answered as `mode` says.
    pub fn new(command: impl Into<Bytes>, mode: ResponseMode) -> Self {
        Self { command: command.into(), mode, response: PhantomData }
    }
}

impl<R: 'static> Message for ClientWrite<R> {
    type Result = Result<ClientResponse<R>, WriteError>;
}

/// What became of a write.
#[derive(Clone, Debug, PartialEq, Eq)]
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
}

/// A client reads a node's state machine, linearizably: the closure sees every write that was answered
/// before this was sent (§8, thesis §6.4). It runs in the state machine's lane and should be short. Any member serves it:
/// one that does not lead asks its leader first how far it must be.
pub struct ClientRead<S, T> {
    closure: Box<dyn FnOnce(&S) -> T + Send>,
    consistency: ReadConsistency,
}

impl<S, T> ClientRead<S, T> {
    /// A read by this closure.
    pub fn new(closure: impl FnOnce(&S) -> T + Send + 'static) -> Self {
        Self { closure: Box::new(closure), consistency: ReadConsistency::Linearizable }
    }

    /// The same, with a choice of how the leader proves that it still leads.
    #[must_use]
    pub fn with(self, consistency: ReadConsistency) -> Self {
        Self { consistency, ..self }
    }
}

impl<S, T> fmt::Debug for ClientRead<S, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientRead")
    }
}

impl<S, T: 'static> Message for ClientRead<S, T> {
    type Result = Result<T, ReadError>;
}

/// A message of the protocol. Sent *to* a [`Raft`] actor, it is one that was received for it from the
/// peer that it names, which must be authenticated. Sent *by* one, through
/// [`ActorNetwork`](crate::network::ActorNetwork), it is to be carried to its target.
#[derive(Clone, Debug, PartialEq)]
pub struct RaftMessage(pub raft_core::Message);

impl RaftMessage {
    /// The node that it is for.
    #[must_use]
    pub const fn target(&self) -> raft_core::NodeId {
        self.0.to
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
    pub(crate) fn is_abandoned(&self) -> bool {
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
        Request::Write(PendingWrite { command: self.command, mode: self.mode, reply })
    }
}

impl<S: StateMachine, T: Send + 'static> Deferrable<S> for ClientRead<S, T> {
    fn into_request(self, reply: Reply<Self::Result>) -> Request<S> {
        Request::Read(Box::new(ReadJob { closure: self.closure, reply }), self.consistency)
    }
}

/// A write that waits for its outcome.
pub(crate) struct PendingWrite<R> {
    command: Bytes,
    mode: ResponseMode,
    reply: Reply<Result<ClientResponse<R>, WriteError>>,
}

impl<R> Writer for PendingWrite<R> {
    type Response = R;

    fn command(&self) -> &Bytes {
        &self.command
    }

    fn wants_response(&self) -> bool {
        self.mode == ResponseMode::Applied
    }

    fn is_abandoned(&self) -> bool {
        self.reply.is_abandoned()
    }

    fn committed(self, id: LogId) {
        self.reply.answer(Ok(ClientResponse::Committed { id }));
    }

    fn applied(self, id: LogId, response: R) {
        self.reply.answer(Ok(ClientResponse::Applied { id, response }));
    }

    fn reject(self, rejection: Rejection) {
        let Self { command, reply, .. } = self;
        reply.answer(Err(WriteError::new(rejection, command)));
    }
}

/// A read that waits to be served.
struct ReadJob<S, T> {
    closure: Box<dyn FnOnce(&S) -> T + Send>,
    reply: Reply<Result<T, ReadError>>,
}

impl<S, T: Send> Read<S> for ReadJob<S, T> {
    fn serve(self: Box<Self>, machine: &S) {
        let Self { closure, reply } = *self;
        if reply.is_abandoned() {
            return;
        }
        // A reader that panics harms only its caller: it had no more than a shared reference.
        reply.answer(guard("read", || closure(machine)).map_err(|_| ReadError::Panicked));
    }

    fn reject(self: Box<Self>, rejection: Rejection) {
        self.reply.answer(Err(rejection.into()));
    }

    fn is_abandoned(&self) -> bool {
        self.reply.is_abandoned()
    }
}
