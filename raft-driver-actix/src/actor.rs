//! The actor: owns a node, collects what arrives, and takes a turn for all of it.
//!
//! * One future lives as long as the actor. Actix empties the mailbox before it polls an actor's futures, so this one
//!   sees at each wake whatever has arrived by then, as a batch.
//! * Every message comes in by one [`Handler`], which takes a turn itself after so many of them: else whoever keeps the
//!   mailbox filled, with whatever, would keep that future from being polled.
//! * What comes in is only put into the inbox. Everything else happens in the turn.
//! * A node that stops by itself leaves its actor behind: it answers every request with the typed error, and
//!   [`GetMetrics`] with the reason, until it is shut down or nobody holds an address any more; or, if it is supervised,
//!   until it runs again.
//! * Lanes and networks hold weak addresses only: dropping the last address stops the node.

use std::cell::RefCell;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{self, Poll};

use actix::dev::MessageResponse;
use actix::{
    Actor, ActorContext, ActorFuture, AsyncContext, Context, Handler, Message, MessageResult, Supervised,
};
use bytes::Bytes;
use raft_core::NodeId;
use raft_core::host::StateMachine;
use raft_driver_tokio::StopReason;
use raft_driver_tokio::driver::{Ends, Engine, Freshness, Input, Running, Timer, guard};
use tokio::sync::Semaphore;

use crate::admin::{
    AddLearner, AdminReply, Campaign, CancelConfigChange, ChangeMembership, InitWithConfig,
    ProposeConfigChange, Shutdown, ShutdownNow, StepDown, TransferLeader, TriggerSnapshot,
};
use crate::inbox::{Arrival, Inbox, Request, read_fresh};
use crate::messages::{ClientRead, ClientWrite, Deferred, PendingWrite, RaftMessage};
use crate::metrics::{GetMetrics, Publisher, RaftMetrics};
use crate::supervise::{Origin, Restart};

/// Messages from one turn to the next, at most.
const TURN_MESSAGES_MAX: usize = 1024;

/// The node as this driver runs it.
pub(crate) type NodeEngine<S> = Engine<S, PendingWrite<<S as StateMachine>::Response>, AdminReply>;
pub(crate) type NodeRunning<S> = Running<S, PendingWrite<<S as StateMachine>::Response>, AdminReply>;

/// What the actor does.
enum State<S: StateMachine> {
    Runs(Box<Node<S>>),
    /// The node has stopped; what it owned ends.
    Ends(Pin<Box<dyn Future<Output = ()>>>),
    /// Nothing is left of it.
    Ended,
    /// It will run again.
    Returns(Restart<S>),
}

/// A node that runs.
struct Node<S: StateMachine> {
    engine: NodeEngine<S>,
    timer: Timer,
    ends: Ends,
}

/// A Raft node as an actor, started by a [`Builder`](crate::Builder).
///
/// It takes [`ClientWrite`] and [`ClientRead`], [`RaftMessage`], the messages in [`admin`](crate::admin), and
/// [`GetMetrics`].
pub struct Raft<S: StateMachine> {
    inbox: Rc<RefCell<Inbox<S>>>,
    /// Messages since the last turn.
    messages: usize,
    state: State<S>,
    life: u64,
    publisher: Publisher,
    freshness: Arc<Freshness>,
    /// Bytes of commands that may wait for their outcome.
    writes: Arc<Semaphore>,
    /// Stale reads that may wait for the state machine.
    local_reads: Arc<Semaphore>,
    /// Why the node has stopped.
    reason: Option<StopReason>,
    /// Where a supervised node comes from, as long as it may return.
    origin: Option<Origin<S>>,
    address: Option<(NodeId, Bytes)>,
    limits: Limits,
}

/// What may wait.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Messages in the mailbox, and stale reads beyond it.
    pub(crate) mailbox_max: usize,
    /// Bytes of commands beyond it.
    pub(crate) queue_bytes_max: usize,
}

// Nothing in it is ever pinned in place.
impl<S: StateMachine> Unpin for Raft<S> {}

impl<S: StateMachine> Raft<S> {
    pub(crate) fn new(
        running: NodeRunning<S>,
        publisher: Publisher,
        origin: Option<Origin<S>>,
        address: Option<(NodeId, Bytes)>,
        limits: Limits,
    ) -> Self {
        let Running { engine, timer, ends, .. } = running;
        Self {
            inbox: Rc::default(),
            messages: 0,
            state: State::Runs(Box::new(Node { engine, timer, ends })),
            life: 0,
            publisher,
            freshness: Freshness::new(),
            writes: Arc::new(Semaphore::new(limits.queue_bytes_max)),
            local_reads: Arc::new(Semaphore::new(limits.mailbox_max)),
            reason: None,
            origin,
            address,
            limits,
        }
    }

    /// Takes in what has arrived and does all that follows.
    fn turn(&mut self, due: bool) {
        self.messages = 0;
        let Self { inbox, state, publisher, freshness, writes, local_reads, limits, .. } = self;
        let mut inbox_now = inbox.borrow_mut();
        let inbox = &mut *inbox_now;
        let State::Runs(node) = state else {
            let returns = self.origin.is_some() && inbox.shutdowns.is_empty();
            return inbox.reject(returns);
        };
        // Neither a bug of the core nor one of users' transports may leave anybody waiting.
        let turned = guard("node", || {
            let Node { engine, timer, .. } = &mut **node;
            let now = timer.now();
            // The timer fires once a heartbeat or election timeout at most: often enough to look for callers that
            // are gone, and seldom enough to look at all of them.
            let look = timer.pass(now);
            inbox.inputs.drain(..).try_for_each(|input| engine.take(now, input))?;
            while let Some(request) = inbox.requests.pop_front() {
                match request {
                    Request::Write(write) => {
                        engine.backlog().extend(write.with_room(writes, limits.queue_bytes_max))
                    }
                    Request::Read(how, read) => read_fresh(engine, freshness, local_reads, how, read),
                    Request::Admin(request, reply) => engine.admin(now, request, reply)?,
                    Request::Shutdown { at_once, reply } => {
                        inbox.shutdowns.push(reply);
                        match at_once {
                            true => return Err(StopReason::Requested),
                            false => engine.leave(now)?,
                        }
                    }
                }
            }
            let next = engine.finish(now, look)?;
            timer.arm(now, next);
            publisher.publish(engine.node(), engine.load(), now, due);
            Ok(())
        });
        drop(inbox_now);
        if let Err(reason) = turned.unwrap_or_else(|panicked| Err(panicked.into())) {
            self.halt(reason);
        }
    }

    /// Stops the node and tells everybody. What was handed to the lanes is still done, then they end.
    fn halt(&mut self, reason: StopReason) {
        if !matches!(self.state, State::Runs(_)) {
            return;
        }
        let State::Runs(node) = std::mem::replace(&mut self.state, State::Ended) else { return };
        let Node { engine, ends, .. } = *node;
        if reason.is_orderly() || reason.is_log_store() {
            self.origin = None;
        }
        if let Some(origin) = &mut self.origin {
            // As of the last turn that was completed: what it wrote is on its way to the disk.
            let handed_term = self.publisher.last().status.term;
            origin.remember(handed_term, guard("node", || engine.node().status()).ok().as_ref());
        }
        // First, so that whoever is told "stopped" can ask why.
        self.publisher.stop(engine.node(), &reason);
        self.reason = Some(reason.clone());
        // Closures of readers and a transport are dropped here: users' code again.
        if let Err(panicked) = guard("node", || engine.stop(&reason)) {
            tracing::error!(%panicked, "raft.drop");
        }
        self.state = State::Ends(Box::pin(ends.ended()));
        let mut inbox = self.inbox.borrow_mut();
        let returns = self.origin.is_some() && inbox.shutdowns.is_empty();
        inbox.reject(returns);
    }

    /// The node will not return after all.
    fn give_up(&mut self, reason: StopReason) {
        tracing::error!(%reason, "raft.restart");
        self.origin = None;
        self.publisher.give_up(&reason);
        self.reason = Some(reason);
    }

    /// Makes room before the mailbox brings more than a turn should take, and lets others on the arbiter run: Actix would
    /// not before the mailbox is empty.
    fn make_room(&mut self, context: &mut Context<Self>) {
        if self.messages >= TURN_MESSAGES_MAX {
            self.turn(false);
            context.wait(actix::fut::wrap_future(tokio::task::yield_now()));
        }
        self.messages += 1;
    }

    fn arrived(&mut self, input: Input) {
        self.inbox.borrow_mut().inputs.push_back(input);
    }

    fn poll(&mut self, context: &mut Context<Self>, task: &mut task::Context<'_>) {
        let due = self.publisher.poll_due(task);
        // A turn comes even when nothing seems to have happened: spurious ones are harmless, and cost little.
        if !context.connected() {
            self.halt(StopReason::HandlesDropped);
        }
        self.turn(due);
        match &mut self.state {
            State::Runs(node) => {
                // What one turn could not take, or the timer was armed for a moment that has passed already.
                if node.engine.is_ready() || node.timer.poll(task).is_ready() {
                    task.waker().wake_by_ref();
                }
            }
            State::Ends(ends) => {
                // Users' networks and stores are dropped in there.
                let ended = guard("node", || ends.as_mut().poll(task)).unwrap_or_else(|panicked| {
                    tracing::error!(%panicked, "raft.drop");
                    Poll::Ready(())
                });
                if ended.is_ready() {
                    self.state = State::Ended;
                    self.ended(context);
                }
            }
            State::Ended => self.ended(context),
            State::Returns(restart) => {
                let asked = !self.inbox.borrow().shutdowns.is_empty();
                let wanted = !asked && context.connected() && self.origin.is_some();
                let Poll::Ready(returned) = restart.poll(task, wanted) else { return };
                match returned {
                    Ok(Some(running)) => self.returned(running, task),
                    Ok(None) => self.state = State::Ended,
                    Err(forgotten) => {
                        self.state = State::Ended;
                        self.give_up(StopReason::Log(Arc::new(forgotten)));
                    }
                }
                if !wanted {
                    self.halt(StopReason::Requested);
                    task.waker().wake_by_ref();
                }
            }
        }
    }

    /// Nothing is left of the node: the actor ends too if that was wanted, or lets its supervisor start it anew.
    fn ended(&mut self, context: &mut Context<Self>) {
        let asked = !self.inbox.borrow().shutdowns.is_empty();
        if asked || !context.connected() || self.origin.is_some() {
            context.stop();
        }
    }

    /// The node runs again.
    fn returned(&mut self, running: NodeRunning<S>, task: &mut task::Context<'_>) {
        let Running { engine, timer, stats, ends } = running;
        self.publisher.restarted(engine.node(), stats);
        // What was proved of another state machine says nothing of this one.
        self.freshness = Freshness::new();
        self.reason = None;
        self.state = State::Runs(Box::new(Node { engine, timer, ends }));
        task.waker().wake_by_ref();
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
        context.set_mailbox_capacity(self.limits.mailbox_max);
        context.spawn(Turns);
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        // Only if the arbiter ends under a node that runs.
        self.halt(StopReason::RuntimeEnded);
        let mut inbox = self.inbox.borrow_mut();
        inbox.reject(false);
        if !inbox.shutdowns.is_empty() {
            // Whatever ended it, it is not to return.
            self.origin = None;
        }
        let reason = self.reason.clone().unwrap_or(StopReason::RuntimeEnded);
        inbox.shutdowns.drain(..).for_each(|reply| reply.answer(reason.clone()));
    }
}

/// Restarted by its supervisor, a node is what survived in its stores, as after a start of the process. Only one that
/// was started by [`Builder::supervise`](crate::Builder::supervise) can be.
impl<S: StateMachine> Supervised for Raft<S> {
    fn restarting(&mut self, _: &mut Self::Context) {
        // Without: it was shut down, and stays so; whoever has an address yet is told.
        if let Some(origin) = &mut self.origin {
            self.life += 1;
            self.state = State::Returns(origin.restart(self.life));
        }
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

/// A message that the node takes.
pub trait Mail<S: StateMachine>: Message + Sized {
    /// What its sender gets.
    type Answer: MessageResponse<Raft<S>, Self>;

    /// Hands it to the actor, which has room for it.
    fn deliver(self, raft: &mut Raft<S>) -> Self::Answer;
}

/// The one way in, so that no message is forgotten in the count.
impl<S: StateMachine, M: Mail<S>> Handler<M> for Raft<S> {
    type Result = M::Answer;

    fn handle(&mut self, message: M, context: &mut Self::Context) -> M::Answer {
        self.make_room(context);
        message.deliver(self)
    }
}

impl<S: StateMachine> Mail<S> for Arrival {
    type Answer = ();

    fn deliver(self, raft: &mut Raft<S>) {
        let Self { life, input } = self;
        match input {
            // Whatever it was that stopped the node before.
            Input::Failed(reason) if reason.is_log_store() && raft.origin.is_some() => {
                if matches!(raft.state, State::Runs(_)) {
                    raft.arrived(Input::Failed(reason));
                } else {
                    raft.give_up(reason);
                }
            }
            input if life == raft.life => raft.arrived(input),
            _ => {}
        }
    }
}

impl<S: StateMachine> Mail<S> for RaftMessage {
    type Answer = ();

    fn deliver(self, raft: &mut Raft<S>) {
        let id = raft.publisher.last().status.id;
        let input = match self {
            Self::Protocol(message) => Input::Receive(message, None),
            Self::Letter { from, to, letter } if to == id => Input::Letter { from, letter, room: None },
            Self::Letter { from, to, .. } => {
                return tracing::warn!(%id, %from, %to, "raft.misaddressed");
            }
        };
        raft.arrived(input);
    }
}

impl<S: StateMachine> Mail<S> for ClientWrite<S::Response> {
    type Answer = Deferred<S, Self>;

    fn deliver(self, raft: &mut Raft<S>) -> Self::Answer {
        Deferred::new(self, &raft.inbox)
    }
}

impl<S: StateMachine, T: Send + 'static> Mail<S> for ClientRead<S, T> {
    type Answer = Deferred<S, Self>;

    fn deliver(self, raft: &mut Raft<S>) -> Self::Answer {
        Deferred::new(self, &raft.inbox)
    }
}

impl<S: StateMachine> Mail<S> for InitWithConfig {
    type Answer = Deferred<S, Self>;

    fn deliver(mut self, raft: &mut Raft<S>) -> Self::Answer {
        if let Some((id, address)) = &raft.address {
            self.members.entry(*id).or_insert_with(|| address.clone());
        }
        Deferred::new(self, &raft.inbox)
    }
}

/// Messages that are answered in a later turn.
macro_rules! deferred {
    ($($message:ty),* $(,)?) => {$(
        impl<S: StateMachine> Mail<S> for $message {
            type Answer = Deferred<S, Self>;

            fn deliver(self, raft: &mut Raft<S>) -> Self::Answer {
                Deferred::new(self, &raft.inbox)
            }
        }
    )*};
}
deferred!(
    AddLearner,
    Campaign,
    CancelConfigChange,
    ChangeMembership,
    ProposeConfigChange,
    Shutdown,
    ShutdownNow,
    StepDown,
    TransferLeader,
    TriggerSnapshot,
);

impl<S: StateMachine> Mail<S> for GetMetrics {
    type Answer = MessageResult<Self>;

    fn deliver(self, raft: &mut Raft<S>) -> Self::Answer {
        let metrics: RaftMetrics = match &raft.state {
            State::Runs(node) => raft.publisher.now(node.engine.node(), node.engine.load()),
            State::Ends(_) | State::Ended | State::Returns(_) => raft.publisher.last().clone(),
        };
        MessageResult(metrics)
    }
}
