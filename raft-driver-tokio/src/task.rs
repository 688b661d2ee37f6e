//! The node's task: waits until something has arrived, takes in all that has, up to a limit for each queue, and lets the
//! [`Engine`] take a turn for it.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use raft_core::Instant;
use raft_core::host::{Operator, Rejection, StateMachine, Writer};
use tokio::sync::mpsc::{Receiver, UnboundedReceiver};
use tokio::sync::watch;

use crate::driver::{self, Engine, Timer, guard, refuse_read};
use crate::error::StopReason;
use crate::handle::Life;
use crate::metrics::Publisher;
use crate::request::{AdminReply, PendingWrite, Request, WriteRequest};

/// How much is taken from one queue in one turn.
const TURN_EVENTS_MAX: usize = 1024;

/// How long callers that are gone may gather before all that wait are looked at.
const ABANDONED_FOR: Duration = Duration::from_millis(10);

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

/// Where requests come from.
pub(crate) struct Queues<S: StateMachine> {
    pub(crate) inputs: UnboundedReceiver<Input>,
    pub(crate) requests: Receiver<Request<S>>,
    pub(crate) writes: Receiver<WriteRequest<S::Response>>,
}

/// What has arrived and was not taken in yet.
struct Arrived<S: StateMachine> {
    inputs: Vec<Input>,
    requests: Vec<Request<S>>,
    writes: Vec<WriteRequest<S::Response>>,
    handles_dropped: bool,
}

/// The node as this driver runs it.
pub(crate) type NodeEngine<S> = Engine<S, PendingWrite<<S as StateMachine>::Response>, AdminReply>;

/// A node and where its requests come from.
pub(crate) struct NodeTask<S: StateMachine> {
    engine: NodeEngine<S>,
    timer: Timer,
    queues: Queues<S>,
    arrived: Arrived<S>,
    publisher: Publisher,
    life: Arc<watch::Sender<Life>>,
    /// Somebody stopped waiting since the last look, and when the next one is due.
    abandoned: Arc<AtomicBool>,
    look_at: Option<Instant>,
}

impl<S: StateMachine> NodeTask<S> {
    pub(crate) fn new(
        engine: NodeEngine<S>,
        timer: Timer,
        queues: Queues<S>,
        publisher: Publisher,
        life: Arc<watch::Sender<Life>>,
        abandoned: Arc<AtomicBool>,
    ) -> Self {
        let arrived =
            Arrived { inputs: Vec::new(), requests: Vec::new(), writes: Vec::new(), handles_dropped: false };
        Self { engine, timer, queues, arrived, publisher, life, abandoned, look_at: None }
    }

    /// Runs the node until it stops, and answers everybody who waits.
    pub(crate) async fn run(mut self) {
        let reason = loop {
            // The first turn comes before anything arrived: a node that was just started has actions.
            let turned = guard("node", || self.turn());
            if let Err(reason) = turned.unwrap_or_else(|panicked| Err(panicked.into())) {
                break reason;
            }
            poll_fn(|cx| self.poll_arrived(cx)).await;
        };
        self.stop(reason);
    }

    /// Takes in whatever has arrived.
    fn poll_arrived(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Self { queues, arrived, .. } = self;
        let mut ready = queues.inputs.poll_recv_many(cx, &mut arrived.inputs, TURN_EVENTS_MAX).is_ready();
        match queues.requests.poll_recv_many(cx, &mut arrived.requests, TURN_EVENTS_MAX) {
            Poll::Ready(0) => (ready, arrived.handles_dropped) = (true, true),
            Poll::Ready(_) => ready = true,
            Poll::Pending => {}
        }
        // Back-pressure: without room, commands stay where they are, and their callers wait.
        if self.engine.node().write_room_bytes() > 0 {
            let Self { queues, arrived, .. } = self;
            ready |= !self.engine.backlog().is_empty()
                || queues.writes.poll_recv_many(cx, &mut arrived.writes, TURN_EVENTS_MAX).is_ready();
        }
        ready |= self.timer.poll(cx).is_ready();
        if ready { Poll::Ready(()) } else { Poll::Pending }
    }

    fn turn(&mut self) -> Result<(), StopReason> {
        if self.arrived.handles_dropped {
            return Err(StopReason::HandlesDropped);
        }
        let now = self.timer.now();
        self.take_inputs(now)?;
        let asked = self.take_requests(now)?;
        let backlog = self.engine.backlog();
        self.arrived.writes.drain(..).for_each(|request| request.expand(backlog));
        // Callers that are gone are looked for soon after one of them is, and when the timer fires: others are gone when
        // their time is up.
        let look = !self.timer.is_armed() || self.look_at.is_some_and(|at| at <= now);
        if look {
            self.look_at = None;
            // Before the look: whoever is gone after it tells the task again.
            self.abandoned.store(false, Ordering::Release);
        }
        let next = self.engine.finish(now, look)?;
        self.timer.arm([next, self.look_at].into_iter().flatten().min());
        self.publisher.publish(self.engine.node(), self.engine.load(), asked);
        Ok(())
    }

    fn take_inputs(&mut self, now: Instant) -> Result<(), StopReason> {
        for input in self.arrived.inputs.drain(..) {
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
        for request in self.arrived.requests.drain(..) {
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
        let Self { mut engine, queues, arrived, publisher, life, .. } = self;
        life.send_modify(|life| life.reason = Some(reason.clone()));
        publisher.stopped(&reason);
        let Queues { mut requests, mut writes, .. } = queues;
        arrived.writes.into_iter().for_each(|request| request.expand(engine.backlog()));
        engine.stop(&reason);
        arrived.requests.into_iter().for_each(refuse);
        writes.close();
        requests.close();
        // Whoever holds a place in a closed queue may still put a request there: the queues are emptied until the last
        // of them has, which nothing else waits for.
        tokio::spawn(async move {
            while let Some(request) = writes.recv().await {
                let mut backlog = VecDeque::new();
                request.expand(&mut backlog);
                backlog.into_iter().for_each(|write| write.reject(Rejection::Stopped));
            }
        });
        tokio::spawn(async move {
            while let Some(request) = requests.recv().await {
                refuse(request);
            }
        });
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
