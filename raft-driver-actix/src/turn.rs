//! A running node and everything around it: the one place where the node is stepped.
//!
//! A turn: take in all that has arrived; read the clock; step everything; fire the timer if it is due; drain the
//! actions; publish.
//!
//! * The clock is read after the last event was taken in, and the timer comes last, so that a process that was paused
//!   hears what was said meanwhile before it acts on an old deadline.
//! * Nothing here waits: not for a disk that may block, not for a peer, not for a client.
//! * The first failure of store, state machine or node ends the node. Nothing is retried.

use std::collections::VecDeque;

use actix::Recipient;
use raft_core::host::{Clients, LogSpan, Operator, Read, Rejection, StateMachine, Transport, Writer};
use raft_core::{Action, Event, Instant, MachineTask, Node, RoleKind};
use raft_driver_tokio::StopReason;
use raft_driver_tokio::driver::{Timer, trace_notice};

use crate::actor::{Inbox, Input, Request};
use crate::admin::AdminReply;
use crate::messages::PendingWrite;
use crate::metrics::Publisher;
use crate::storage::{LogLane, MachineMessage, Snapshots};

/// A node that runs. Dropped, it ends its lanes.
pub(crate) struct Running<S: StateMachine> {
    pub(crate) node: Node,
    pub(crate) log: Box<dyn LogLane>,
    pub(crate) machine: Recipient<MachineMessage<S>>,
    pub(crate) snapshots: Box<dyn Snapshots>,
    pub(crate) transport: Box<dyn Transport>,
    pub(crate) clients: Clients<PendingWrite<S::Response>, Box<dyn Read<S>>, AdminReply>,
    /// Writes that wait for room in the node.
    pub(crate) backlog: VecDeque<PendingWrite<S::Response>>,
    pub(crate) backlog_max: usize,
}

impl<S: StateMachine> Running<S> {
    /// Takes in what has arrived and does all that follows. `inbox` is empty afterwards, unless the node failed.
    pub(crate) fn turn(
        &mut self,
        inbox: &mut Inbox<S>,
        timer: &mut Timer,
        publisher: &mut Publisher,
    ) -> Result<(), StopReason> {
        let now = timer.now();
        let fired = !timer.is_armed();
        while let Some(input) = inbox.inputs.pop_front() {
            match input {
                Input::Event(event) => self.step(now, event)?,
                // The link's room is given back when the message has been taken in.
                Input::Receive(message, _room) => self.step(now, Event::Receive(message))?,
                Input::Failed(reason) => return Err(reason),
            }
        }
        while let Some(request) = inbox.requests.pop_front() {
            let event = match request {
                Request::Write(write) => {
                    self.backlog.push_back(write);
                    continue;
                }
                Request::Read(read, consistency) => {
                    self.clients.read(read, consistency);
                    continue;
                }
                Request::Admin(request, reply) => request.into_event(self.clients.admin(reply)),
                Request::Shutdown(reply) => {
                    inbox.shutdowns.push(reply);
                    return Err(StopReason::Requested);
                }
            };
            self.step(now, event)?;
        }
        while let Some(event) = self.clients.reads() {
            self.step(now, event)?;
        }
        self.propose(now)?;
        if self.node.deadline().is_some_and(|deadline| deadline <= now) {
            self.step(now, Event::Wake)?;
        }
        if fired {
            // The timer fires once a heartbeat or election timeout at most: often enough to look for callers that
            // are gone, and seldom enough to look at all of them.
            self.clients.abandoned().into_iter().try_for_each(|event| self.step(now, event))?;
        }
        self.drain(now)?;
        timer.arm(self.node.deadline());
        publisher.publish(&self.node, self.pending());
        Ok(())
    }

    pub(crate) fn pending(&self) -> (usize, usize) {
        let (writes, reads) = self.clients.pending();
        (writes + self.backlog.len(), reads)
    }

    /// A node that refuses an event was misused by this driver, and can no longer vouch for anything.
    fn step(&mut self, now: Instant, event: Event) -> Result<(), StopReason> {
        self.node.step(now, event).map_err(StopReason::Driver)
    }

    /// Proposes as much as the node has room for. The rest waits, up to a limit.
    fn propose(&mut self, now: Instant) -> Result<(), StopReason> {
        if self.backlog.is_empty() {
            return Ok(());
        }
        let status = self.node.status();
        if status.role != RoleKind::Leader {
            // What the node would answer; without a ticket, so that refusals by the million take no place behind a
            // write whose outcome is long in coming.
            let rejection = Rejection::not_leader(status.leader, self.node.membership());
            self.backlog.drain(..).for_each(|write| write.reject(rejection.clone()));
            return Ok(());
        }
        if let Some(event) = self.clients.propose(&mut self.backlog, self.node.write_room_bytes()) {
            self.step(now, event)?;
        }
        let kept = self.backlog.len().min(self.backlog_max);
        self.backlog.drain(kept..).for_each(|write| write.reject(Rejection::Busy));
        Ok(())
    }

    /// Does all that the node has to do, and what follows from that in the same turn.
    fn drain(&mut self, now: Instant) -> Result<(), StopReason> {
        loop {
            while let Some(action) = self.node.poll_action() {
                self.perform(now, action)?;
            }
            match self.log.flush()? {
                Some(durable) => self.step(now, Event::Persisted(durable))?,
                None => return Ok(()),
            }
        }
    }

    fn perform(&mut self, now: Instant, action: Action) -> Result<(), StopReason> {
        match action {
            Action::Send(message) => self.transport.send(message),
            Action::Log(task) => self.log.perform(task),
            Action::Machine(MachineTask::Apply(entries)) => {
                self.machine.do_send(MachineMessage::Apply { entries, committed: self.clients.committed() });
            }
            Action::Machine(MachineTask::Serve(tickets)) => {
                self.machine.do_send(MachineMessage::Serve(self.clients.served(tickets)));
            }
            Action::Machine(MachineTask::TakeSnapshot(meta)) => {
                self.machine.do_send(MachineMessage::TakeSnapshot(meta));
            }
            Action::Machine(MachineTask::Restore(meta)) => {
                self.machine.do_send(MachineMessage::Restore { meta, committed: self.clients.committed() });
            }
            Action::Snapshot(task) => self.snapshots.perform(task),
            Action::Respond(response) => self.clients.respond(response, self.node.membership()),
            Action::ReadLog { read, from, through, bytes_max } => {
                if let Some(event) = self.log.read(LogSpan { read, from, through, bytes_max })? {
                    self.step(now, event)?;
                }
            }
            Action::Peers(membership) => self.transport.peers(&membership),
            Action::Notify(notice) => trace_notice(self.node.status().id, notice),
        }
        Ok(())
    }

    /// Tells everybody who waits.
    pub(crate) fn stop(&mut self) {
        self.snapshots.stop();
        self.clients.stop();
        self.backlog.drain(..).for_each(|write| write.reject(Rejection::Stopped));
    }
}

impl<S: StateMachine> Inbox<S> {
    /// The node has stopped: answers whatever is here.
    pub(crate) fn reject(&mut self) {
        self.inputs.clear();
        for request in self.requests.drain(..) {
            match request {
                Request::Write(write) => write.reject(Rejection::Stopped),
                Request::Read(read, _) => read.reject(Rejection::Stopped),
                Request::Admin(_, reply) => reply.stopped(),
                Request::Shutdown(reply) => self.shutdowns.push(reply),
            }
        }
    }
}
