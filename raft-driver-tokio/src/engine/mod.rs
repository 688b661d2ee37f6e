//! A node and everything around it: the one place where the node is stepped, whatever drives it.
//!
//! A driver collects what has arrived. Then it takes a turn: it hands all of it over, and calls [`Engine::finish`], which
//! does what follows.
//!
//! * The clock is read after the last event was taken in, and the timer comes last, so that a process that was
//!   paused hears what was said meanwhile before it acts on an old deadline.
//! * Nothing here waits: not for a disk that may block, not for a socket, not for a client.
//! * The first failure of store, state machine or node is the reason to stop. Nothing is retried.

mod backlog;
mod place;
mod question;
mod setup;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use raft_core::host::recording::RecordedNode;
use raft_core::host::{Clients, LogSpan, Operator, Read, Rejection, SnapshotStore, StateMachine, Transport};
use raft_core::{
    Action, AdminOutcome, AdminRefusal, Event, Instant, MachineTask, Membership, Message, Node, NodeId,
    ReadConsistency, Response, RoleKind, SnapshotTask,
};

use crate::apply::{LaneTask, Restore};
use crate::driver::{SnapshotLane, guard, reject_reads, trace_notice, trace_stop};
use crate::error::StopReason;
use crate::forward::{self, Caller, Desk, Forwards};
use crate::leave::{Ended, HandedOver, Leaving};
use crate::metrics::Load;
use crate::recording::RecordingWriter;
use crate::request::AdminRequest;
use crate::storage::lane::LogLane;
use crate::transport::{Incoming, Network, Room};

use backlog::Backlog;
use place::AnyPlace;
use question::Question;
pub use setup::{Ends, Running, Setup, TransportCounters};

/// How many writes one turn proposes at most.
const TURN_WRITES_MAX: usize = 1024;

/// How many writes and entries make a turn a long one.
const LONG_TURN: u64 = 256;

/// How many entries one turn applies at most; more of them are applied beside the node, as many at a time.
const TURN_APPLIES_MAX: u64 = 1024;

/// What reaches a node beside clients' requests. Its queue may be unbounded, and is bounded all the same: completions
/// by the core's limits, messages by the budgets of their links.
#[derive(Debug)]
pub enum Input {
    /// To be stepped.
    Event(Event),
    /// A message, and its share of the link's budget, if there is one.
    Receive(Message, Option<Room>),
    /// A letter of another node's driver.
    Letter {
        /// Who sent it.
        from: NodeId,
        /// What it says.
        letter: Bytes,
        /// Its share of the link's budget, if there is one.
        room: Option<Room>,
    },
    /// A lane cannot go on.
    Failed(StopReason),
}

impl From<Incoming> for Input {
    fn from(incoming: Incoming) -> Self {
        match incoming {
            Incoming::Message(message, room) => Self::Receive(message, Some(room)),
            Incoming::Letter { from, letter, room } => Self::Letter { from, letter, room: Some(room) },
            Incoming::Unreachable(peer) => Self::Event(Event::Unreachable(peer)),
        }
    }
}

/// Who asked for something administrative: a caller, or the engine itself, before it ends.
#[derive(Debug)]
enum Asked<A> {
    Caller(A),
    Leaving(HandedOver),
}

impl<A: Operator> Operator for Asked<A> {
    fn answer(self, outcome: AdminOutcome, membership: &Membership) {
        match self {
            Self::Caller(operator) => operator.answer(outcome, membership),
            // Whatever came of it otherwise, it is over. Nobody listens any more if the node stops first.
            Self::Leaving(handed_over) => drop(handed_over.send(match outcome {
                AdminOutcome::Refused(AdminRefusal::TransferInProgress) => Ended::Replaced,
                _ => Ended::Over,
            })),
        }
    }

    fn stopped(self) {
        if let Self::Caller(operator) = self {
            operator.stopped();
        }
    }
}

/// Sends messages and letters, whatever the network.
trait Post: Send {
    fn transport(&mut self) -> &mut dyn Transport;
    fn send_letter(&mut self, to: NodeId, letter: Bytes) -> bool;
}

/// The transport of a network.
struct PostOf<N: Network>(N::Transport);

impl<N: Network> Post for PostOf<N> {
    fn transport(&mut self) -> &mut dyn Transport {
        &mut self.0
    }

    fn send_letter(&mut self, to: NodeId, letter: Bytes) -> bool {
        N::send_letter(&mut self.0, to, letter)
    }
}

/// Performs tasks of the snapshot lane, whatever its store.
trait Snapshots: Send {
    fn perform(&self, task: SnapshotTask);
}

impl<P: SnapshotStore> Snapshots for SnapshotLane<P> {
    fn perform(&self, task: SnapshotTask) {
        Self::perform(self, task);
    }
}

/// A node that runs, its lanes, and everybody who waits for it: started by a [`Setup`]. `W` and `A` are callers as the
/// driver keeps them. Dropped, it ends its lanes.
pub struct Engine<S: StateMachine, W: Caller<Response = S::Response>, A: Operator> {
    node: RecordedNode,
    /// The node's, as of the last turn.
    deadline: Option<Instant>,
    /// Writes proposed, and entries applied, in the last turn.
    worked: u64,
    recording: Option<RecordingWriter>,
    log: Box<dyn LogLane>,
    machine: AnyPlace<S, W>,
    snapshots: Box<dyn Snapshots>,
    post: Box<dyn Post>,
    clients: Clients<W, Box<dyn Read<S>>, Asked<A>>,
    /// Reads that the node has handed out and the machine lane has not served.
    unserved: Arc<AtomicUsize>,
    /// Writes that wait for room in the node.
    backlog: Backlog<W>,
    forwards: Forwards<W>,
    desk: Desk,
    question: Question,
    leaving: Option<Leaving>,
}

impl<S: StateMachine, W: Caller<Response = S::Response>, A: Operator> std::fmt::Debug for Engine<S, W, A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("node", &self.node).finish_non_exhaustive()
    }
}

impl<S: StateMachine, W: Caller<Response = S::Response>, A: Operator> Engine<S, W, A> {
    /// The node, to look at.
    #[must_use]
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Who waits for it.
    #[must_use]
    pub fn load(&self) -> Load {
        let (writes, reads) = self.clients.pending();
        let writes = writes + self.backlog.len() + self.forwards.len();
        Load { writes, reads, letters_refused: self.desk.refused() }
    }

    /// Writes of this node's clients that wait for room in the node.
    pub const fn backlog(&mut self) -> &mut VecDeque<W> {
        &mut self.backlog.own
    }

    /// Whether another turn has something to do, although nothing more may have arrived.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        !self.backlog.is_empty() && self.node.write_room_bytes() > 0
    }

    /// Whether the last turn took so long that others should run before the next.
    #[must_use]
    pub const fn has_worked(&self) -> bool {
        self.worked >= LONG_TURN
    }

    // --- a turn: what has arrived is handed over ------------------------------------------------------------

    /// Takes in what comes from lanes and peers.
    ///
    /// # Errors
    /// The reason to stop.
    pub fn take(&mut self, now: Instant, input: Input) -> Result<(), StopReason> {
        match input {
            Input::Event(event) => self.step(now, event),
            // The link's room is given back when the message has been taken in.
            Input::Receive(message, _room) => self.step(now, Event::Receive(message)),
            Input::Letter { from, letter, room: _room } => {
                let Self { forwards, desk, question, node, machine, backlog, .. } = self;
                let served = &mut backlog.served;
                forward::receive(forwards, desk, from, letter, node.membership(), served, |claim, kept| {
                    question.told(claim.id.index);
                    machine.perform(LaneTask::Claim(claim, kept));
                });
                Ok(())
            }
            Input::Failed(reason) => Err(reason),
        }
    }

    /// Lets a read wait for its round, or the leader's lease. It is `Busy` while as many as the node takes in wait for the
    /// machine alone: the node does not count those, and one that was given up stays among them.
    pub fn read(&mut self, read: Box<dyn Read<S>>, consistency: ReadConsistency) {
        if self.unserved.load(Ordering::Relaxed) as u64 >= self.node.config().pending_reads_max {
            return read.reject(Rejection::Busy);
        }
        self.clients.read(read, consistency);
    }

    /// Reads the state as it is. It is for the driver to bound such reads: see [`ReadJob`](crate::driver::ReadJob).
    pub fn read_local(&mut self, read: Box<dyn Read<S>>) {
        self.machine.perform(LaneTask::Serve(vec![read], None));
    }

    /// Asks the node for something administrative.
    ///
    /// # Errors
    /// The reason to stop.
    pub fn admin(&mut self, now: Instant, request: AdminRequest, operator: A) -> Result<(), StopReason> {
        let ticket = self.clients.admin(Asked::Caller(operator));
        self.step(now, request.into_event(ticket))
    }

    /// Hands the leadership over, if the node has it; [`finish`](Self::finish) then ends it.
    ///
    /// # Errors
    /// The reason to stop.
    pub fn leave(&mut self, now: Instant) -> Result<(), StopReason> {
        if self.leaving.is_some() {
            return Ok(());
        }
        let (leaving, handed_over) = Leaving::begin(now, self.node.config());
        self.leaving = Some(leaving);
        let ticket = self.clients.admin(Asked::Leaving(handed_over));
        self.step(now, Event::StepDown { ticket })
    }

    /// Ends a turn: does all that follows from what was taken in. `look` for callers that are gone: now and then, since
    /// all that wait are looked at. Returns when to take the next turn at the latest.
    ///
    /// # Errors
    /// The reason to stop.
    pub fn finish(&mut self, now: Instant, look: bool) -> Result<Option<Instant>, StopReason> {
        self.worked = 0;
        self.tell_reads(now)?;
        self.propose(now)?;
        // One that has moved to an earlier moment in this turn is seen in the next.
        let is_due = |deadline: Option<Instant>| deadline.is_some_and(|deadline| deadline <= now);
        if is_due(self.deadline) && is_due(self.node.deadline()) {
            self.step(now, Event::Wake)?;
        }
        if look {
            self.forget(now)?;
        }
        self.drain(now)?;
        if let Some(recording) = &mut self.recording {
            recording.take(&mut self.node, now);
        }
        let Self { desk, post, .. } = self;
        desk.send(|to, letter| post.send_letter(to, letter));
        let writes = self.load().writes;
        let leave_at = match &mut self.leaving {
            Some(leaving) => {
                let status = self.node.status();
                let succeeded = status.leader.is_some_and(|leader| leader != status.id);
                Some(leaving.at(now, succeeded, writes).ok_or(StopReason::Requested)?)
            }
            None => None,
        };
        // A node without members to hear from, or a learner, has no deadline of its own.
        let look_at = self.forwards.look_in().map(|wait| now + wait);
        self.deadline = self.node.deadline();
        Ok([self.deadline, leave_at, look_at].into_iter().flatten().min())
    }

    /// A node that refuses an event was misused by its driver, and can no longer vouch for anything.
    fn step(&mut self, now: Instant, event: Event) -> Result<(), StopReason> {
        self.node.step(now, event).map_err(StopReason::Driver)
    }

    /// Proposes as much as the node has room for, or passes on to the leader what may be passed on.
    fn propose(&mut self, now: Instant) -> Result<(), StopReason> {
        if self.backlog.is_empty() {
            return Ok(());
        }
        if self.node.role() == RoleKind::Leader {
            let Self { node, clients, backlog, worked, .. } = self;
            for (queue, writes_max) in backlog.shares(TURN_WRITES_MAX) {
                // Until one of them is used up: a room's worth of commands may be invalid, all of it.
                let mut left = writes_max.min(queue.len());
                while left > 0 && node.role() == RoleKind::Leader {
                    let before = queue.len();
                    let event = clients.propose(queue, node.write_room_bytes(), left);
                    let taken = before - queue.len();
                    if taken == 0 {
                        break;
                    }
                    left -= taken;
                    *worked += taken as u64;
                    if let Some(event) = event {
                        node.step(now, event).map_err(StopReason::Driver)?;
                    }
                }
            }
            return Ok(());
        }
        // What the node would answer; without a ticket, so that refusals by the million take no place behind a
        // write whose outcome is long in coming.
        let leader = self.node.status().leader;
        let rejection = Rejection::not_leader(leader, self.node.membership());
        let Self { forwards, backlog, post, worked, .. } = self;
        for (queue, writes_max) in backlog.shares(TURN_WRITES_MAX) {
            *worked += queue.len().min(writes_max) as u64;
            forwards.pass(queue, writes_max, leader, &rejection, |to, letter| post.send_letter(to, letter));
        }
        Ok(())
    }

    fn tell_reads(&mut self, now: Instant) -> Result<(), StopReason> {
        while let Some(event) = self.clients.reads() {
            self.step(now, event)?;
        }
        Ok(())
    }

    /// Gives up what nobody waits for any more.
    fn forget(&mut self, now: Instant) -> Result<(), StopReason> {
        self.backlog.retain(|write| !write.is_abandoned());
        if self.forwards.forget() {
            self.machine.perform(LaneTask::Forget);
        }
        self.clients.abandoned().into_iter().try_for_each(|event| self.step(now, event))
    }

    /// Does all that the node has to do, and what follows from that in the same turn.
    fn drain(&mut self, now: Instant) -> Result<(), StopReason> {
        let mut entries_max = TURN_APPLIES_MAX;
        let drained = self.drain_with(now, &mut entries_max);
        self.worked += TURN_APPLIES_MAX - entries_max;
        drained
    }

    fn drain_with(&mut self, now: Instant, entries_max: &mut u64) -> Result<(), StopReason> {
        loop {
            while let Some(action) = self.node.poll_action() {
                self.perform(now, action)?;
            }
            if let Some(durable) = self.log.flush()? {
                self.step(now, Event::Persisted(durable))?;
                continue;
            }
            match self.machine.flush(entries_max)? {
                Some(applied) => self.step(now, Event::Applied(applied))?,
                None if self.question.next(|| self.node.status().commit, || self.clients.question()) => {
                    self.tell_reads(now)?;
                }
                None => return Ok(()),
            }
        }
    }

    fn perform(&mut self, now: Instant, action: Action) -> Result<(), StopReason> {
        match action {
            Action::Send(message) => self.post.transport().send(message),
            Action::Log(task) => self.log.perform(task),
            Action::Machine(MachineTask::Apply(entries)) => {
                let committed = self.clients.committed();
                self.machine.perform(LaneTask::Apply { entries, committed });
            }
            Action::Machine(MachineTask::Serve(tickets)) => {
                self.question.ended(tickets);
                let reads = self.clients.served(tickets);
                if reads.is_empty() {
                    return Ok(());
                }
                self.unserved.fetch_add(reads.len(), Ordering::Relaxed);
                self.machine.perform(LaneTask::Serve(reads, Some(Arc::clone(&self.unserved))));
            }
            Action::Machine(MachineTask::TakeSnapshot(meta)) => {
                self.machine.perform(LaneTask::TakeSnapshot(meta));
            }
            Action::Machine(MachineTask::Restore(meta)) => {
                let committed = self.clients.committed();
                self.machine.perform(LaneTask::Restore(Restore { meta, committed }));
            }
            Action::Snapshot(task) => self.snapshots.perform(task),
            Action::Respond(response) => {
                if let Response::Read { tickets, .. } = response {
                    self.question.ended(tickets);
                }
                self.clients.respond(response, self.node.membership());
            }
            Action::ReadLog { read, from, through, bytes_max } => {
                if let Some(event) = self.log.read(LogSpan { read, from, through, bytes_max })? {
                    self.step(now, event)?;
                }
            }
            Action::Peers(membership) => self.post.transport().peers(&membership),
            Action::Notify(notice) => trace_notice(self.node.status().id, notice),
        }
        Ok(())
    }

    /// The node stops for this reason, which must have been published: tells everybody who waits. What was handed to the
    /// lanes is still done, then they end.
    pub fn stop(self, reason: &StopReason) {
        trace_stop(self.node.status().id, reason);
        let Self { mut node, recording, mut clients, mut backlog, mut forwards, mut desk, mut post, .. } =
            self;
        if let Some(recording) = recording {
            let orderly = !matches!(reason, StopReason::Panicked { .. } | StopReason::Driver(_));
            recording.end(&mut node, orderly);
        }
        // Closures of readers are dropped here: users' code.
        if let Err(panicked) = guard("read", || clients.stop()) {
            tracing::error!(%panicked, "raft.read");
        }
        backlog.drain().for_each(|write| write.reject(Rejection::Stopped));
        forwards.stop();
        desk.send(|to, letter| post.send_letter(to, letter));
    }
}

/// Answers a read of a node that has stopped.
pub fn refuse_read<S>(read: Box<dyn Read<S>>) {
    reject_reads(vec![read]);
}
