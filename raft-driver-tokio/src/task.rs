//! The node's task: the one place where the node is stepped.
//!
//! A turn: wait until something has arrived; take in all that has, up to a limit for each queue; read the clock;
//! step everything; fire the timer if it is due; drain the actions; publish.
//!
//! * The clock is read after the last event was taken in, and the timer comes last, so that a process that was
//!   paused hears what was said meanwhile before it acts on an old deadline.
//! * Nothing here waits: not for a disk that may block, not for a socket, not for a client, and no lock is held
//!   while anything is done.
//! * The first failure of store, state machine or node ends the task. Nothing is retried.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use raft_core::host::recording::RecordedNode;
use raft_core::host::{
    Clients, LogSpan, Operator, Read, Rejection, SnapshotStore, StateMachine, Transport, Writer,
};
use raft_core::{Action, Event, Instant, MachineTask, Message, NodeId, RoleKind};
use tokio::sync::mpsc::{Receiver, UnboundedReceiver, UnboundedSender};
use tokio::sync::watch;

use crate::apply::{LaneTask, Restore};
use crate::driver::{SnapshotLane, Timer, guard, reject_reads, trace_notice, trace_stop};
use crate::error::StopReason;
use crate::forward::{self, Desk, Forwards};
use crate::handle::Life;
use crate::leave::Leaving;
use crate::metrics::Publisher;
use crate::recording::RecordingWriter;
use crate::request::{AdminReply, PendingWrite, Request, WriteRequest};
use crate::storage::lane::LogLane;
use crate::transport::Room;

/// How much is taken from one queue in one turn.
const TURN_EVENTS_MAX: usize = 1024;

/// How long callers that are gone may gather before all that wait are looked at.
const ABANDONED_FOR: Duration = Duration::from_millis(10);

/// What reaches the node beside clients' requests. The queue is unbounded, and bounded all the same: completions
/// by the core's limits, messages by the budgets of their links.
#[derive(Debug)]
pub(crate) enum Input {
    Event(Event),
    Receive(Message, Room),
    Letter {
        from: NodeId,
        letter: Bytes,
        room: Room,
    },
    Failed(StopReason),
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

/// What has arrived and was not stepped yet.
struct Arrived<S: StateMachine> {
    inputs: Vec<Input>,
    requests: Vec<Request<S>>,
    writes: Vec<WriteRequest<S::Response>>,
    /// Commands that wait for room in the node.
    backlog: VecDeque<PendingWrite<S::Response>>,
    handles_dropped: bool,
}

/// Everybody who waits for a node.
pub(crate) type Waiting<S> =
    Clients<PendingWrite<<S as StateMachine>::Response>, Box<dyn Read<S>>, AdminReply>;

/// A node and everything around it.
pub(crate) struct NodeTask<S: StateMachine, P: SnapshotStore, T> {
    node: RecordedNode,
    recording: Option<RecordingWriter>,
    timer: Timer,
    log: Box<dyn LogLane>,
    machine: UnboundedSender<LaneTask<S>>,
    snapshots: SnapshotLane<P>,
    transport: T,
    queues: Queues<S>,
    arrived: Arrived<S>,
    clients: Waiting<S>,
    publisher: Publisher,
    life: Arc<watch::Sender<Life>>,
    /// Somebody stopped waiting since the last look, and when the next one is due.
    abandoned: Arc<AtomicBool>,
    look_at: Option<Instant>,
    forwards: Forwards<S::Response>,
    desk: Desk,
    send_letter: fn(&mut T, NodeId, Bytes) -> bool,
    leaving: Option<Leaving>,
}

/// What a [`NodeTask`] is made of.
pub(crate) struct Parts<S: StateMachine, P: SnapshotStore, T> {
    pub(crate) node: RecordedNode,
    pub(crate) recording: Option<RecordingWriter>,
    pub(crate) timer: Timer,
    pub(crate) log: Box<dyn LogLane>,
    pub(crate) machine: UnboundedSender<LaneTask<S>>,
    pub(crate) snapshots: SnapshotLane<P>,
    pub(crate) transport: T,
    pub(crate) clients: Waiting<S>,
    pub(crate) queues: Queues<S>,
    pub(crate) publisher: Publisher,
    pub(crate) life: Arc<watch::Sender<Life>>,
    pub(crate) abandoned: Arc<AtomicBool>,
    pub(crate) forwards: Forwards<S::Response>,
    pub(crate) desk: Desk,
    pub(crate) send_letter: fn(&mut T, NodeId, Bytes) -> bool,
}

impl<S: StateMachine, P: SnapshotStore, T: Transport> NodeTask<S, P, T> {
    pub(crate) fn new(parts: Parts<S, P, T>) -> Self {
        let Parts {
            node,
            recording,
            timer,
            log,
            machine,
            snapshots,
            transport,
            clients,
            queues,
            publisher,
            life,
            abandoned,
            forwards,
            desk,
            send_letter,
        } = parts;
        Self {
            node,
            recording,
            timer,
            log,
            machine,
            snapshots,
            transport,
            queues,
            arrived: Arrived {
                inputs: Vec::new(),
                requests: Vec::new(),
                writes: Vec::new(),
                backlog: VecDeque::new(),
                handles_dropped: false,
            },
            clients,
            publisher,
            life,
            abandoned,
            look_at: None,
            forwards,
            desk,
            send_letter,
            leaving: None,
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
        if self.node.write_room_bytes() > 0 {
            let Self { queues, arrived, .. } = self;
            ready |= !arrived.backlog.is_empty()
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
        self.take_writes(now)?;
        if self.node.deadline().is_some_and(|deadline| deadline <= now) {
            step(&mut self.node, now, Event::Wake)?;
        }
        if !self.timer.is_armed() || self.look_at.is_some_and(|at| at <= now) {
            self.forget(now)?;
        }
        self.drain(now)?;
        if let Some(recording) = &mut self.recording {
            recording.take(&mut self.node, now);
        }
        let Self { desk, transport, send_letter, .. } = self;
        desk.send(|to, letter| send_letter(transport, to, letter));
        let (writes, reads) = self.pending();
        let leave_at = match &mut self.leaving {
            Some(leaving) => Some(leaving.at(now, writes).ok_or(StopReason::Requested)?),
            None => None,
        };
        self.timer.arm([self.node.deadline(), self.look_at, leave_at].into_iter().flatten().min());
        self.publisher.publish(&self.node, (writes, reads), asked);
        Ok(())
    }

    /// How many writes and reads wait.
    fn pending(&self) -> (usize, usize) {
        let (writes, reads) = self.clients.pending();
        (writes + self.arrived.backlog.len() + self.forwards.len(), reads)
    }

    fn take_inputs(&mut self, now: Instant) -> Result<(), StopReason> {
        for input in self.arrived.inputs.drain(..) {
            match input {
                Input::Event(event) => step(&mut self.node, now, event)?,
                // The link's room is given back when the message has been taken in.
                Input::Receive(message, _room) => step(&mut self.node, now, Event::Receive(message))?,
                Input::Letter { from, letter, room: _room } => {
                    let Self { forwards, desk, node, machine, arrived: Arrived { backlog, .. }, .. } = self;
                    forward::receive(
                        forwards,
                        desk,
                        from,
                        letter,
                        node.membership(),
                        backlog,
                        |claim, kept| {
                            drop(machine.send(LaneTask::Claim(claim, kept)));
                        },
                    );
                }
                Input::Failed(reason) => return Err(reason),
                Input::Abandoned => self.look_at = self.look_at.or(Some(now + ABANDONED_FOR)),
                Input::HandOver if self.leaving.is_none() => {
                    let (leaving, operator) = Leaving::begin(self.node.config().election_timeout_max);
                    self.leaving = Some(leaving);
                    let ticket = self.clients.admin(operator);
                    step(&mut self.node, now, Event::StepDown { ticket })?;
                }
                Input::HandOver => {}
                Input::Stop => return Err(StopReason::Requested),
            }
        }
        Ok(())
    }

    /// Steps what was asked for beside writes. Returns whether metrics were asked for.
    fn take_requests(&mut self, now: Instant) -> Result<bool, StopReason> {
        let mut asked = false;
        for request in self.arrived.requests.drain(..) {
            let event = match request {
                Request::Read(read, consistency) => {
                    self.clients.read(read, consistency);
                    continue;
                }
                Request::ReadLocal(read) => {
                    drop(self.machine.send(LaneTask::Serve(vec![read])));
                    continue;
                }
                Request::Status(reply) => {
                    // Who no longer waits needs no answer.
                    let _ = reply.send(self.node.status());
                    continue;
                }
                Request::Publish => {
                    asked = true;
                    continue;
                }
                Request::Admin(request, reply) => request.into_event(self.clients.admin(reply)),
            };
            step(&mut self.node, now, event)?;
        }
        while let Some(event) = self.clients.reads() {
            step(&mut self.node, now, event)?;
        }
        Ok(asked)
    }

    fn take_writes(&mut self, now: Instant) -> Result<(), StopReason> {
        let Arrived { writes, backlog, .. } = &mut self.arrived;
        writes.drain(..).for_each(|request| request.expand(backlog));
        if backlog.is_empty() {
            return Ok(());
        }
        if self.node.role() == RoleKind::Leader {
            return match self.clients.propose(backlog, self.node.write_room_bytes()) {
                Some(event) => step(&mut self.node, now, event),
                None => Ok(()),
            };
        }
        // What the node would answer; without a ticket, so that refusals by the million take no place behind a
        // write whose outcome is long in coming.
        let leader = self.node.status().leader;
        let rejection = Rejection::not_leader(leader, self.node.membership());
        let Self { forwards, transport, send_letter, .. } = self;
        forwards.pass(backlog, leader, &rejection, |to, letter| send_letter(transport, to, letter));
        Ok(())
    }

    /// Gives up what nobody waits for any more. Looked at soon after somebody is gone, and when the timer fires: others
    /// are gone when their time is up.
    fn forget(&mut self, now: Instant) -> Result<(), StopReason> {
        self.look_at = None;
        // Before the look: whoever is gone after it tells the task again.
        self.abandoned.store(false, Ordering::Release);
        self.arrived.backlog.retain(|write| !write.is_abandoned());
        self.forwards.forget();
        self.clients.abandoned().into_iter().try_for_each(|event| step(&mut self.node, now, event))
    }

    /// Does all that the node has to do, and what follows from that in the same turn.
    fn drain(&mut self, now: Instant) -> Result<(), StopReason> {
        loop {
            while let Some(action) = self.node.poll_action() {
                self.perform(now, action)?;
            }
            match self.log.flush()? {
                Some(durable) => step(&mut self.node, now, Event::Persisted(durable))?,
                None => return Ok(()),
            }
        }
    }

    fn perform(&mut self, now: Instant, action: Action) -> Result<(), StopReason> {
        match action {
            Action::Send(message) => self.transport.send(message),
            Action::Log(task) => self.log.perform(task),
            // A lane that has ended reported why before it did.
            Action::Machine(MachineTask::Apply(entries)) => {
                let committed = self.clients.committed();
                drop(self.machine.send(LaneTask::Apply { entries, committed }));
            }
            Action::Machine(MachineTask::Serve(tickets)) => {
                drop(self.machine.send(LaneTask::Serve(self.clients.served(tickets))));
            }
            Action::Machine(MachineTask::TakeSnapshot(meta)) => {
                drop(self.machine.send(LaneTask::TakeSnapshot(meta)));
            }
            Action::Machine(MachineTask::Restore(meta)) => {
                let committed = self.clients.committed();
                drop(self.machine.send(LaneTask::Restore(Restore { meta, committed })));
            }
            Action::Snapshot(task) => self.snapshots.perform(task),
            Action::Respond(response) => self.clients.respond(response, self.node.membership()),
            Action::ReadLog { read, from, through, bytes_max } => {
                if let Some(event) = self.log.read(LogSpan { read, from, through, bytes_max })? {
                    step(&mut self.node, now, event)?;
                }
            }
            Action::Peers(membership) => self.transport.peers(&membership),
            Action::Notify(notice) => trace_notice(self.node.status().id, notice),
        }
        Ok(())
    }

    /// Tells everybody who waits. Dropping the rest ends the lanes.
    fn stop(mut self, reason: StopReason) {
        trace_stop(self.node.status().id, &reason);
        if let Some(recording) = self.recording.take() {
            let orderly = !matches!(reason, StopReason::Panicked { .. } | StopReason::Driver(_));
            recording.end(&mut self.node, orderly);
        }
        self.life.send_modify(|life| life.reason = Some(reason.clone()));
        self.publisher.stopped(&reason);
        let Self { queues, arrived, mut clients, mut forwards, mut desk, mut transport, send_letter, .. } =
            self;
        let Queues { mut requests, mut writes, .. } = queues;
        // Closures of readers are dropped here: users' code.
        if let Err(panicked) = guard("read", || clients.stop()) {
            tracing::error!(%panicked, "raft.read");
        }
        let Arrived { requests: taken, writes: unexpanded, mut backlog, .. } = arrived;
        unexpanded.into_iter().for_each(|request| request.expand(&mut backlog));
        backlog.into_iter().for_each(|write| write.reject(Rejection::Stopped));
        forwards.stop();
        desk.send(|to, letter| send_letter(&mut transport, to, letter));
        taken.into_iter().for_each(refuse);
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
        Request::Read(read, _) | Request::ReadLocal(read) => reject_reads(vec![read]),
        Request::Admin(_, reply) => reply.stopped(),
        // A dropped reply is an answer: the node is gone.
        Request::Status(_) | Request::Publish => {}
    }
}

/// A node that refuses an event was misused by this driver, and can no longer vouch for anything.
fn step(node: &mut RecordedNode, now: Instant, event: Event) -> Result<(), StopReason> {
    node.step(now, event).map_err(StopReason::Driver)
}
