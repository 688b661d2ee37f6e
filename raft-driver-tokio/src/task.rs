//! The node's task: waits until something has arrived, takes in all that has, up to a limit for each queue, and lets the
//! [`Engine`] take a turn for it.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use raft_core::Instant;
use raft_core::host::{Operator, StateMachine};
use tokio::sync::watch;
use tokio::task::coop;

use crate::driver::{self, Engine, Timer, guard, refuse_read};
use crate::error::StopReason;
use crate::handle::Life;
use crate::inbox::{Arrivals, Arrived};
use crate::metrics::Publisher;
use crate::request::{AdminReply, PendingWrite, Request};

/// How many inputs, and how many requests, are taken in in one turn.
const TURN_EVENTS_MAX: usize = 1024;

/// How long callers that are gone may gather before all that wait are looked at.
const ABANDONED_FOR: Duration = Duration::from_millis(10);

/// How often buffers that are larger than they need be are given back.
const SHRINK_EVERY: Duration = Duration::from_secs(1);

/// What reaches the node beside clients' requests.
#[derive(Debug)]
pub(crate) enum Input {
    Node(driver::Input),
    /// Somebody stopped waiting.
    Abandoned,
    /// Hand the leadership over, then stop.
    HandOver,
    Stop,
}

/// The node as this driver runs it.
pub(crate) type NodeEngine<S> = Engine<S, PendingWrite<<S as StateMachine>::Response>, AdminReply>;

/// A node and where its requests come from.
pub(crate) struct NodeTask<S: StateMachine> {
    engine: NodeEngine<S>,
    timer: Timer,
    arrivals: Arrivals<S>,
    /// Taken from there and not taken in yet.
    arrived: Arrived<S>,
    publisher: Publisher,
    life: Arc<watch::Sender<Life>>,
    /// Somebody stopped waiting since the last look, and when the next one is due.
    abandoned: Arc<AtomicBool>,
    look_at: Option<Instant>,
    shrink_at: Instant,
}

impl<S: StateMachine> NodeTask<S> {
    pub(crate) fn new(
        engine: NodeEngine<S>,
        timer: Timer,
        arrivals: Arrivals<S>,
        publisher: Publisher,
        life: Arc<watch::Sender<Life>>,
        abandoned: Arc<AtomicBool>,
    ) -> Self {
        let arrived = Arrived::default();
        Self {
            engine,
            timer,
            arrivals,
            arrived,
            publisher,
            life,
            abandoned,
            look_at: None,
            shrink_at: Instant::ZERO,
        }
    }

    /// Runs the node until it stops, and answers everybody who waits.
    pub(crate) async fn run(mut self) {
        let reason = loop {
            // The first turn comes before anything arrived: a node that was just started has actions.
            let turned = guard("node", || self.turn());
            if let Err(reason) = turned.unwrap_or_else(|panicked| Err(panicked.into())) {
                break reason;
            }
            if self.engine.has_worked() || self.engine.is_ready() || !self.arrived.is_empty() {
                // Others come first, the runtime's own work and peers with what this turn sent them among them.
                tokio::task::yield_now().await;
            }
            poll_fn(|cx| self.poll_arrived(cx)).await;
            // However much arrives, others run too.
            coop::consume_budget().await;
        };
        self.stop(reason);
    }

    /// Takes whatever has arrived, or says that the timer fires.
    fn poll_arrived(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Self { engine, timer, arrivals, arrived, .. } = self;
        // Back-pressure: without room, commands stay where they are, and their callers wait.
        let wants_writes = engine.backlog().is_empty() && engine.node().write_room_bytes() > 0;
        arrivals.give_back(arrived, engine.backlog().len());
        if arrivals.poll_take(cx, arrived, wants_writes).is_ready() || engine.is_ready() {
            return Poll::Ready(());
        }
        timer.poll(cx)
    }

    fn turn(&mut self) -> Result<(), StopReason> {
        if self.arrived.handles_dropped {
            return Err(StopReason::HandlesDropped);
        }
        let now = self.timer.now();
        self.take_inputs(now)?;
        let asked = self.take_requests(now)?;
        if !self.arrived.writes.is_empty() {
            // They are taken only when those before are gone: places are swapped, nothing moves.
            std::mem::swap(self.engine.backlog(), &mut self.arrived.writes);
        }
        // Callers that are gone are looked for soon after one of them is, and when the timer fires: others are gone when
        // their time is up.
        let look = self.timer.pass(now) || self.look_at.is_some_and(|at| at <= now);
        if look {
            self.look_at = None;
            // Before the look: whoever is gone after it tells the task again.
            self.abandoned.swap(false, Ordering::AcqRel);
        }
        let next = self.engine.finish(now, look)?;
        self.timer.arm(now, [next, self.look_at].into_iter().flatten().min());
        if self.shrink_at <= now {
            self.shrink_at = now + SHRINK_EVERY;
            self.arrivals.shrink(&mut self.arrived);
        }
        self.publisher.publish(self.engine.node(), self.engine.load(), now, asked);
        Ok(())
    }

    fn take_inputs(&mut self, now: Instant) -> Result<(), StopReason> {
        let count = self.arrived.inputs.len().min(TURN_EVENTS_MAX);
        for input in self.arrived.inputs.drain(..count) {
            match input {
                Input::Node(input) => self.engine.take(now, input)?,
                Input::Abandoned => self.look_at = self.look_at.or(Some(now + ABANDONED_FOR)),
                Input::HandOver => self.engine.leave(now)?,
                Input::Stop => return Err(StopReason::Requested),
            }
        }
        Ok(())
    }

    /// Takes in what was asked for beside writes. Returns whether metrics were asked for.
    fn take_requests(&mut self, now: Instant) -> Result<bool, StopReason> {
        let mut asked = false;
        let count = self.arrived.requests.len().min(TURN_EVENTS_MAX);
        for request in self.arrived.requests.drain(..count) {
            match request {
                Request::Read(read, consistency) => self.engine.read(read, consistency),
                Request::ReadLocal(read) => self.engine.read_local(read),
                // Who no longer waits needs no answer.
                Request::Status(reply) => drop(reply.send(self.engine.node().status())),
                Request::Publish => asked = true,
                Request::Admin(request, reply) => self.engine.admin(now, request, reply)?,
            }
        }
        Ok(asked)
    }

    /// Tells everybody who waits. Dropping the rest ends the lanes.
    fn stop(self, reason: StopReason) {
        let Self { mut engine, arrivals, arrived, publisher, life, .. } = self;
        life.send_modify(|life| life.reason = Some(reason.clone()));
        publisher.stopped(&reason);
        let rest = arrivals.close();
        engine.backlog().extend(arrived.writes.into_iter().chain(rest.writes));
        engine.stop(&reason);
        arrived.requests.into_iter().chain(rest.requests).for_each(refuse);
    }
}

/// Answers a request to a node that is gone.
fn refuse<S>(request: Request<S>) {
    match request {
        Request::Read(read, _) | Request::ReadLocal(read) => refuse_read(read),
        Request::Admin(_, reply) => reply.stopped(),
        // A dropped reply is an answer: the node is gone.
        Request::Status(_) | Request::Publish => {}
    }
}
