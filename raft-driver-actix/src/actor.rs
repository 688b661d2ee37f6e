//! The actor: owns a node, collects what arrives, and takes a turn for all of it.
//!
//! * One future lives as long as the actor. Actix empties the mailbox before it polls an actor's futures, so this one
//!   sees at each wake whatever has arrived by then, as a batch.
//! * Handlers only put things into the inbox. Everything else happens in the turn.
//! * A node that stops by itself leaves its actor behind: it answers every request with the typed error, and
//!   [`GetMetrics`] with the reason, until [`Shutdown`] comes or nobody holds an address any more.
//! * Lanes and networks hold weak addresses only: dropping the last address stops the node.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{self, Poll};

use actix::{Actor, ActorContext, ActorFuture, AsyncContext, Context, Handler, Message, MessageResult};
use raft_core::host::{Read, StateMachine};
use raft_core::{Event, ReadConsistency};
use raft_driver_tokio::StopReason;
use raft_driver_tokio::driver::{AdminRequest, Timer, guard, trace_stop};
use raft_driver_tokio::transport::Room;
use tokio::sync::mpsc;

use crate::admin::{
    AdminReply, Campaign, ChangeMembership, InitWithConfig, Shutdown, StepDown, TakeSnapshot,
    TransferLeadership,
};
use crate::messages::{ClientRead, ClientWrite, Deferred, PendingWrite, RaftMessage, Reply};
use crate::metrics::{GetMetrics, Publisher, RaftMetrics};
use crate::turn::Running;

/// What one turn takes in at most, about.
const TURN_EVENTS_MAX: usize = 1024;

/// What reaches the node beside requests, past the mailbox's capacity: completions are bounded by the core's limits,
/// messages by the budgets of their links.
pub(crate) enum Input {
    Event(Event),
    Receive(raft_core::Message, Option<Room>),
    Failed(StopReason),
}

impl Message for Input {
    type Result = ();
}

/// What callers ask for.
pub(crate) enum Request<S: StateMachine> {
    Write(PendingWrite<S::Response>),
    Read(Box<dyn Read<S>>, ReadConsistency),
    Admin(AdminRequest, AdminReply),
    Shutdown(Reply<StopReason>),
}

/// What has arrived and was not taken in yet. Between turns it holds less than [`TURN_EVENTS_MAX`].
pub(crate) struct Inbox<S: StateMachine> {
    pub(crate) inputs: VecDeque<Input>,
    pub(crate) requests: VecDeque<Request<S>>,
    /// Who waits for the end.
    pub(crate) shutdowns: Vec<Reply<StopReason>>,
}

impl<S: StateMachine> Inbox<S> {
    pub(crate) fn ask(&mut self, request: Request<S>) {
        self.requests.push_back(request);
    }

    fn len(&self) -> usize {
        self.inputs.len() + self.requests.len()
    }
}

/// A Raft node as an actor, started by a [`Builder`](crate::Builder).
///
/// It takes [`ClientWrite`] and [`ClientRead`], [`RaftMessage`], the messages in [`admin`](crate::admin), and
/// [`GetMetrics`].
pub struct Raft<S: StateMachine> {
    inbox: Rc<RefCell<Inbox<S>>>,
    /// `None` once the node has stopped.
    running: Option<Running<S>>,
    timer: Timer,
    publisher: Publisher,
    /// Why the node has stopped.
    reason: Option<StopReason>,
    children: Children,
    mailbox_max: usize,
}

// Nothing in it is ever pinned in place.
impl<S: StateMachine> Unpin for Raft<S> {}

/// What must have ended before the node has.
pub(crate) struct Children {
    /// Closes the network, and waits for what runs on the blocking pool.
    pub(crate) network: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    /// Closed when whatever holds a [`Lifeline`](crate::storage::Lifeline) is gone.
    pub(crate) lanes: mpsc::Receiver<Infallible>,
}

impl Children {
    fn poll_ended(&mut self, task: &mut task::Context<'_>) -> Poll<()> {
        if let Some(network) = &mut self.network {
            match network.as_mut().poll(task) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(()) => self.network = None,
            }
        }
        match self.lanes.poll_recv(task) {
            Poll::Ready(None) => Poll::Ready(()),
            Poll::Ready(Some(never)) => match never {},
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: StateMachine> Raft<S> {
    pub(crate) fn new(
        running: Running<S>,
        timer: Timer,
        publisher: Publisher,
        children: Children,
        mailbox_max: usize,
    ) -> Self {
        let inbox = Inbox { inputs: VecDeque::new(), requests: VecDeque::new(), shutdowns: Vec::new() };
        let inbox = Rc::new(RefCell::new(inbox));
        Self { inbox, running: Some(running), timer, publisher, reason: None, children, mailbox_max }
    }

    fn turn(&mut self) {
        let Self { inbox, running, timer, publisher, .. } = self;
        let mut inbox = inbox.borrow_mut();
        let Some(running) = running else { return inbox.reject() };
        // Neither a bug of the core nor one of users' transports may leave anybody waiting.
        let turned = guard("node", || running.turn(&mut inbox, timer, publisher));
        drop(inbox);
        if let Err(reason) = turned.unwrap_or_else(|panicked| Err(panicked.into())) {
            self.halt(reason);
        }
    }

    /// Stops the node and tells everybody. What was handed to the lanes is still done, then they end.
    fn halt(&mut self, reason: StopReason) {
        let Some(mut running) = self.running.take() else { return };
        let id = running.node.status().id;
        trace_stop(id, &reason);
        // First, so that whoever is told "stopped" can ask why.
        self.publisher.stop(&running.node, &reason);
        self.reason = Some(reason);
        // Closures of readers and a transport are dropped here: users' code again.
        let dropped = guard("node", || {
            running.stop();
            drop(running);
        });
        if let Err(panicked) = dropped {
            tracing::error!(id = id.get(), %panicked, "raft.drop");
        }
        self.inbox.borrow_mut().reject();
    }

    /// Makes room before the mailbox brings more than a turn should take.
    fn make_room(&mut self) {
        if self.inbox.borrow().len() >= TURN_EVENTS_MAX {
            self.turn();
        }
    }

    fn defer<M>(&mut self, message: M) -> Deferred<S, M> {
        self.make_room();
        Deferred::new(message, &self.inbox)
    }

    fn poll(&mut self, context: &mut Context<Self>, task: &mut task::Context<'_>) {
        // Polled even when nothing seems to have happened: spurious turns are harmless, and cost little.
        let _ = self.timer.poll(task);
        if !context.connected() {
            self.halt(StopReason::HandlesDropped);
        }
        self.turn();
        if self.running.is_some() {
            if self.timer.poll(task).is_ready() {
                // It was armed for a moment that has passed already.
                task.waker().wake_by_ref();
            }
        } else if self.children.poll_ended(task).is_ready()
            && (!self.inbox.borrow().shutdowns.is_empty() || !context.connected())
        {
            context.stop();
        }
    }
}

impl<S: StateMachine> fmt::Debug for Raft<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Raft").field("reason", &self.reason).finish_non_exhaustive()
    }
}

impl<S: StateMachine> Actor for Raft<S> {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        context.set_mailbox_capacity(self.mailbox_max);
        context.spawn(Turns);
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        // Only if the arbiter ends under a node that runs.
        self.halt(StopReason::RuntimeEnded);
        let mut inbox = self.inbox.borrow_mut();
        inbox.reject();
        let reason = self.reason.clone().unwrap_or(StopReason::RuntimeEnded);
        inbox.shutdowns.drain(..).for_each(|reply| reply.answer(reason.clone()));
    }
}

/// The one future of the actor.
struct Turns;

impl<S: StateMachine> ActorFuture<Raft<S>> for Turns {
    type Output = ();

    fn poll(
        self: Pin<&mut Self>,
        raft: &mut Raft<S>,
        context: &mut Context<Raft<S>>,
        task: &mut task::Context<'_>,
    ) -> Poll<()> {
        raft.poll(context, task);
        Poll::Pending
    }
}

impl<S: StateMachine> Handler<Input> for Raft<S> {
    type Result = ();

    fn handle(&mut self, input: Input, _: &mut Self::Context) {
        self.make_room();
        self.inbox.borrow_mut().inputs.push_back(input);
    }
}

impl<S: StateMachine> Handler<RaftMessage> for Raft<S> {
    type Result = ();

    fn handle(&mut self, RaftMessage(message): RaftMessage, context: &mut Self::Context) {
        Handler::<Input>::handle(self, Input::Receive(message, None), context);
    }
}

impl<S: StateMachine> Handler<ClientWrite<S::Response>> for Raft<S> {
    type Result = Deferred<S, ClientWrite<S::Response>>;

    fn handle(&mut self, write: ClientWrite<S::Response>, _: &mut Self::Context) -> Self::Result {
        self.defer(write)
    }
}

impl<S: StateMachine, T: Send + 'static> Handler<ClientRead<S, T>> for Raft<S> {
    type Result = Deferred<S, ClientRead<S, T>>;

    fn handle(&mut self, read: ClientRead<S, T>, _: &mut Self::Context) -> Self::Result {
        self.defer(read)
    }
}

/// Messages that are answered in a later turn.
macro_rules! deferred {
    ($($message:ty),* $(,)?) => {$(
        impl<S: StateMachine> Handler<$message> for Raft<S> {
            type Result = Deferred<S, $message>;

            fn handle(&mut self, message: $message, _: &mut Self::Context) -> Self::Result {
                self.defer(message)
            }
        }
    )*};
}
deferred!(InitWithConfig, Campaign, ChangeMembership, TransferLeadership, StepDown, TakeSnapshot, Shutdown,);

impl<S: StateMachine> Handler<GetMetrics> for Raft<S> {
    type Result = MessageResult<GetMetrics>;

    fn handle(&mut self, _: GetMetrics, _: &mut Self::Context) -> Self::Result {
        let metrics: RaftMetrics = match &self.running {
            Some(running) => self.publisher.now(&running.node, running.pending()),
            None => self.publisher.last(),
        };
        MessageResult(metrics)
    }
}
