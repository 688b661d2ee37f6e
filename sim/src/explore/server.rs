//! One server of a model: a node with its disk, its machine and what its driver has still to do.
//!
//! * What happens to a server depends on nothing but the server and the event: so equal servers are stepped once.
//! * All that can be done at once is done at once, but for what a model calls slow; disks report when it is chosen.
//! * Checked here is whatever one server can be held to: nothing leaves before it is durable (Figure 2), one vote a term and
//!   terms that never fall, across crashes (§5.2), entries applied in order, what counts as durable is on the disk.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use raft_core::{
    Action, Body, Commands, Entries, Event, Form, HardState, InstallProgress, Instant, LogId, LogTask,
    MachineTask, MembershipChange, Message, Node, NodeId, Notice, ReadConsistency, Recovery, Response,
    SnapshotMeta, SnapshotTask, Target, Term, Ticket, Write, WriteOutcome,
};
use twox_hash::XxHash3_64;

use super::Broken;
use super::disk::{Disk, parts};
use super::model::{Lie, Model};
use super::trace::in_words;
use super::view::{Item, View, configurations};

/// What happens to one server.
#[derive(Clone, Debug)]
pub(super) enum Act {
    Receive(Message),
    Fire,
    /// The disk has the first so many writes, and says so.
    Sync(usize),
    /// The disk keeps so many parts of what it has not reported; `chunk`: and the chunk that it was writing.
    Crash {
        kept: u64,
        chunk: bool,
    },
    Restart,
    /// The machine does its next task.
    Machine,
    /// The store of snapshots has the chunk.
    Store,
    Propose(Ticket),
    Read(Ticket),
    Change(Ticket, &'static [u64]),
    Snapshot(Ticket),
    Transfer(Ticket, NodeId),
}

/// What the rest of the world has to know of a step.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Seen {
    /// A proposal was answered.
    Committed {
        ticket: Ticket,
        id: LogId,
    },
    Superseded {
        ticket: Ticket,
    },
    /// A read is served by a machine that has so many entries.
    Served {
        ticket: Ticket,
        applied: u64,
    },
    /// A read is not served.
    Refused {
        ticket: Ticket,
    },
}

/// What came of a step.
#[derive(Debug, Default)]
pub(super) struct Effects {
    pub(super) sends: Vec<Message>,
    pub(super) seen: Vec<Seen>,
    /// What the server did, in words, if somebody wants to read it.
    pub(super) lines: Option<Vec<String>>,
}

/// One server.
#[derive(Clone, Debug)]
pub(super) struct Server {
    pub(super) id: NodeId,
    /// How often it was started.
    lives: u64,
    pub(super) node: Option<Node>,
    pub(super) disk: Disk,
    /// Handed to the disk and not reported.
    pub(super) writes: VecDeque<Write>,
    /// What the machine holds: lost in a crash.
    pub(super) machine: Vec<Item>,
    pub(super) tasks: VecDeque<MachineTask>,
    /// The chunk that the store of snapshots is writing.
    pub(super) chunk: Option<SnapshotTask>,
    /// The latest term in which it said something, and whom it said to vote for.
    said: HardState,
}

impl Server {
    /// An empty server that was just started.
    pub(super) fn new(id: NodeId, model: &Model) -> Result<Self, Broken> {
        let mut server = Self {
            id,
            lives: 0,
            node: None,
            disk: Disk::default(),
            writes: VecDeque::new(),
            machine: Vec::new(),
            tasks: VecDeque::new(),
            chunk: None,
            said: HardState::default(),
        };
        server.act(Act::Restart, model, &mut Effects::default())?;
        Ok(server)
    }

    /// Gives it its first configuration, durably.
    pub(super) fn bootstrap(&mut self, model: &Model) -> Result<(), Broken> {
        let members = (1..=u64::from(model.voters)).map(|id| (NodeId::new(id), Bytes::new())).collect();
        let mut effects = Effects::default();
        self.step(Instant::ZERO, Event::Bootstrap { ticket: Ticket::new(0), members }, model, &mut effects)?;
        self.act(Act::Sync(self.writes.len()), model, &mut effects)
    }

    /// Lets something happen to it.
    pub(super) fn act(&mut self, act: Act, model: &Model, effects: &mut Effects) -> Result<(), Broken> {
        let now = Instant::ZERO;
        let event = match act {
            Act::Receive(message) => Event::Receive(message),
            Act::Fire => {
                let deadline = self.node.as_ref().and_then(Node::deadline).unwrap_or(now);
                self.step(deadline, Event::Wake, model, effects)?;
                return self.check();
            }
            Act::Sync(count) => {
                let mut last = None;
                for write in self.writes.drain(..count) {
                    self.disk.write(&write)?;
                    last = Some(write.id);
                }
                match last.filter(|_| model.lie != Some(Lie::ReportedBeforeDurable)) {
                    Some(id) => Event::Persisted(id),
                    None => return self.check(),
                }
            }
            Act::Crash { kept, chunk } => return self.crash(kept, chunk),
            Act::Restart => {
                self.start(model)?;
                self.drain(now, model, effects)?;
                return self.check();
            }
            Act::Machine => match self.tasks.pop_front() {
                Some(task) => {
                    let reports = self.perform_task(task, effects)?;
                    self.steps(now, reports, model, effects)?;
                    return self.check();
                }
                None => return Ok(()),
            },
            Act::Store => match self.chunk.take() {
                Some(task) => {
                    let reports = self.perform_chunk(task)?;
                    self.steps(now, reports, model, effects)?;
                    return self.check();
                }
                None => return Ok(()),
            },
            Act::Propose(first) => Event::Propose { first, commands: Commands::one(command(first)) },
            Act::Read(ticket) => {
                let tickets = raft_core::Tickets::one(ticket);
                Event::Read { tickets, consistency: ReadConsistency::Linearizable }
            }
            Act::Change(ticket, voters) => {
                let voters = voters.iter().map(|id| NodeId::new(*id)).collect();
                let target = Target { voters, learners: Default::default() };
                let addresses = target.voters.iter().map(|node| (*node, Bytes::new())).collect();
                let change = Box::new(MembershipChange::Set { target, addresses });
                Event::ChangeMembership { ticket, change }
            }
            Act::Snapshot(ticket) => Event::TakeSnapshot { ticket },
            Act::Transfer(ticket, to) => Event::TransferLeadership { ticket, to: Some(to) },
        };
        self.step(now, event, model, effects)?;
        self.check()
    }

    fn crash(&mut self, kept: u64, chunk: bool) -> Result<(), Broken> {
        if let (Some(task), true) = (self.chunk.take(), chunk) {
            self.perform_chunk(task)?;
        }
        let writes = core::mem::take(&mut self.writes);
        self.disk.crash(&writes, kept)?;
        (self.node, self.machine, self.tasks) = (None, Vec::new(), VecDeque::new());
        Ok(())
    }

    /// In how many places a crash may cut what the disk has not reported.
    pub(super) fn unsynced_parts(&self) -> u64 {
        self.writes.iter().map(parts).sum()
    }

    fn start(&mut self, model: &Model) -> Result<(), Broken> {
        if model.lie == Some(Lie::DiskForgotten) {
            self.disk = Disk::default();
        }
        let mut log = self.disk.recover()?;
        if model.lie == Some(Lie::VoteForgotten) {
            log.hard_state.voted_for = None;
        }
        self.lives += 1;
        let snapshot = self.disk.newest_snapshot();
        let recovery = Recovery { log, snapshot, applied: LogId::ZERO, incarnation: self.lives };
        let node = Node::start(model.config(self.id), recovery, Instant::ZERO);
        self.node = Some(node.map_err(|error| Broken::new("recovery", error.to_string()))?);
        Ok(())
    }

    fn step(
        &mut self,
        now: Instant,
        event: Event,
        model: &Model,
        effects: &mut Effects,
    ) -> Result<(), Broken> {
        let Some(node) = &mut self.node else { return Ok(()) };
        node.step(now, event).map_err(|fatal| Broken::new("fatal", fatal.to_string()))?;
        self.drain(now, model, effects)
    }

    fn steps(
        &mut self,
        now: Instant,
        events: Vec<Event>,
        model: &Model,
        effects: &mut Effects,
    ) -> Result<(), Broken> {
        events.into_iter().try_for_each(|event| self.step(now, event, model, effects))
    }

    /// Performs whatever the node hands out, and reports what is finished at once.
    fn drain(&mut self, now: Instant, model: &Model, effects: &mut Effects) -> Result<(), Broken> {
        while let Some(action) = self.node.as_mut().and_then(Node::poll_action) {
            if let Some(lines) = &mut effects.lines {
                lines.extend(in_words(&action));
            }
            let reports = self.perform(action, model, effects)?;
            self.steps(now, reports, model, effects)?;
        }
        Ok(())
    }

    fn perform(
        &mut self,
        action: Action,
        model: &Model,
        effects: &mut Effects,
    ) -> Result<Vec<Event>, Broken> {
        match action {
            Action::Send(message) => {
                self.speaks(&message)?;
                effects.sends.push(message);
            }
            Action::Log(LogTask::Write(write)) => {
                let id = write.id;
                self.writes.push_back(write);
                if model.lie == Some(Lie::ReportedBeforeDurable) {
                    return Ok(vec![Event::Persisted(id)]);
                }
            }
            Action::Log(LogTask::Compact { through }) => self.disk.compact(through)?,
            // Its place is in the lane, behind what came before.
            Action::Machine(task) if model.slow => self.tasks.push_back(task),
            Action::Machine(task) => return self.perform_task(task, effects),
            Action::Snapshot(task @ SnapshotTask::Write { .. }) if model.slow => self.chunk = Some(task),
            Action::Snapshot(task) => return self.perform_chunk(task),
            Action::ReadLog { read, from, through, bytes_max } => {
                let entries = self.disk.log.slice(from, through).prefix(bytes_max);
                return Ok(vec![Event::LogRead { read, result: Ok(entries) }]);
            }
            Action::Respond(response) => effects.seen.extend(answers(&response)),
            Action::Notify(Notice::Violation { peer, kind }) => {
                return Err(Broken::new("notice", format!("n{} says of n{peer}: {kind:?}", self.id)));
            }
            Action::Peers(_) | Action::Notify(_) => {}
        }
        Ok(Vec::new())
    }

    fn perform_task(&mut self, task: MachineTask, effects: &mut Effects) -> Result<Vec<Event>, Broken> {
        let report = match task {
            MachineTask::Apply(entries) => {
                for entry in entries.iter() {
                    let index = entry.id().index;
                    if index.get() != self.machine.len() as u64 + 1 {
                        let what = format!("n{} applies {index} behind {}", self.id, self.machine.len());
                        return Err(Broken::new("applied", what));
                    }
                    self.machine.push(Item::of(&entry));
                }
                entries.last().map(|last| Event::Applied(last.index))
            }
            MachineTask::Restore(meta) => {
                let bytes = self.disk.snapshot(meta.id);
                let bytes =
                    bytes.map_err(|_| Broken::new("snapshots", format!("{} is not there", meta.id)))?;
                self.machine = Item::read(bytes);
                Some(Event::Applied(meta.id.last.index))
            }
            MachineTask::TakeSnapshot(meta) => {
                let bytes: Bytes = self.machine.iter().flat_map(|item| item.to_bytes()).collect();
                let (size_bytes, digest) = (bytes.len() as u64, XxHash3_64::oneshot(&bytes));
                let meta = Arc::new(SnapshotMeta { size_bytes, digest, ..SnapshotMeta::clone(&meta) });
                self.disk.keep(Arc::clone(&meta), bytes);
                Some(Event::SnapshotTaken(Ok(meta)))
            }
            MachineTask::Serve(tickets) => {
                let applied = self.machine.len() as u64;
                effects.seen.extend(tickets.iter().map(|ticket| Seen::Served { ticket, applied }));
                None
            }
        };
        Ok(report.into_iter().collect())
    }

    fn perform_chunk(&mut self, task: SnapshotTask) -> Result<Vec<Event>, Broken> {
        let report = match task {
            SnapshotTask::Read { id, offset, bytes_max } => {
                let part = |bytes: &Bytes| {
                    let length = bytes.len() as u64;
                    let at =
                        |offset: u64| usize::try_from(offset.min(length)).expect("within what is in memory");
                    bytes.slice(at(offset)..at(offset + bytes_max))
                };
                Event::SnapshotChunkRead { id, offset, result: self.disk.snapshot(id).map(part) }
            }
            SnapshotTask::Write { meta, offset, data, done } => {
                self.disk.chunk(&meta, offset, &data, done)?;
                Event::SnapshotChunkWritten { id: meta.id, offset, result: Ok(()) }
            }
            SnapshotTask::Forget(id) => {
                self.disk.forget(id);
                return Ok(Vec::new());
            }
        };
        Ok(vec![report])
    }

    // --- what one server is held to -------------------------------------------------------------------------

    /// Whatever a message claims is durable (Figure 2), and contradicts nothing that was said before (§5.2).
    fn speaks(&mut self, message: &Message) -> Result<(), Broken> {
        let term = message.term;
        let early =
            |what: String| Err(Broken::new("persist-before-send", format!("{message:?}, but {what}")));
        let asks = matches!(message.body, Body::PreVote { .. } | Body::PreVoteReply { .. });
        let durable = self.disk.hard_state;
        if !asks && durable.term < term {
            return early(format!("n{} has durably term {}", self.id, durable.term));
        }
        let vote = match message.body {
            Body::RequestVote { .. } => Some(self.id),
            Body::RequestVoteReply { granted: true } => Some(message.to),
            _ => None,
        };
        if vote.is_some() && (durable.term, durable.voted_for) != (term, vote) {
            return early(format!(
                "n{} has durably voted for {:?} in term {}",
                self.id, durable.voted_for, durable.term
            ));
        }
        if let Body::AppendEntriesReply { result: Ok(matched), .. }
        | Body::InstallSnapshotReply { progress: InstallProgress::Installed(matched), .. } = message.body
            && self.disk.last().index < matched
        {
            return early(format!("the disk of n{} ends at {}", self.id, self.disk.last()));
        }
        if !asks {
            let before = self.said;
            let same = before.term == term;
            if term < before.term {
                return Err(Broken::new(
                    "term",
                    format!("{message:?}, after it spoke in term {}", before.term),
                ));
            }
            if let (true, Some(vote), Some(other)) = (same, vote, before.voted_for)
                && vote != other
            {
                return Err(Broken::new(
                    "one-vote",
                    format!("{message:?}, after it voted for n{other} (§5.2)"),
                ));
            }
            self.said = HardState { term, voted_for: vote.or(before.voted_for.filter(|_| same)) };
        }
        Ok(())
    }

    /// What the node takes for durable is on the disk.
    fn check(&self) -> Result<(), Broken> {
        let Some(node) = &self.node else { return Ok(()) };
        let status = node.status();
        for index in self.disk.base.index.get() + 1..=status.durable.get() {
            let index = raft_core::LogIndex::new(index);
            let stored = self.disk.log.slice(index, index).first().map(|id| id.term);
            if node.term_at(index).is_some_and(|term| stored != Some(term)) {
                let what =
                    format!("n{} takes entry {index} for durable; its disk holds {stored:?} there", self.id);
                return Err(Broken::new("durable", what));
            }
        }
        if status.applied > status.commit {
            return Err(Broken::new("applied", format!("n{} applied beyond its commit index", self.id)));
        }
        Ok(())
    }

    // --- what it is -----------------------------------------------------------------------------------------

    /// The log as the node knows it; as the disk has it, while it is down.
    pub(super) fn log(&self) -> Entries {
        let Some(node) = &self.node else { return self.disk.log.clone() };
        let (tail, status) = (node.tail(), node.status());
        let first = tail.first().map_or(status.last.index.next(), |first| first.index);
        let begin = status.base.index.next();
        let older = self.disk.log.slice(begin, first.prev());
        let all = Entries::join([older, tail.slice(begin, status.last.index)]);
        all.expect("what is not in memory is durable")
    }

    /// The same, to be compared.
    pub(super) fn view(&self) -> View {
        let base = self.node.as_ref().map_or(self.disk.base, |node| node.status().base);
        View::new(base, &self.log())
    }

    /// Whether the configurations of its log are steps of joint consensus: neighbours whose majorities meet (§6).
    pub(super) fn configurations_meet(&self) -> bool {
        let all = configurations(&self.log());
        all.windows(2).all(|two| super::view::intersect(&two[0].1, &two[1].1))
    }

    /// The latest term it has heard of.
    pub(super) fn term(&self) -> Term {
        self.node.as_ref().map_or(self.disk.hard_state.term, |node| node.status().term)
    }

    /// Its canonical form: all that its future depends on, and what it said.
    pub(super) fn add_to(&self, form: &mut Form) {
        form.add(self.id, &(self.id, self.node.is_some()));
        if let Some(node) = &self.node {
            form.add_node(node);
        }
        self.disk.add_to(form, self.id);
        form.add(self.id, &(&self.writes, &self.tasks, &self.chunk, self.said));
        let machine: Vec<(u64, u64)> = self.machine.iter().map(|item| (item.term, item.body)).collect();
        form.add(self.id, &machine);
        form.source.push(self.lives);
    }
}

/// What the proposal with this ticket says.
pub(super) fn command(ticket: Ticket) -> Bytes {
    Bytes::copy_from_slice(&ticket.get().to_le_bytes())
}

fn answers(response: &Response) -> Vec<Seen> {
    match response {
        Response::Write { tickets, outcome: WriteOutcome::Committed { first, .. } } => {
            let place =
                |(at, ticket)| Seen::Committed { ticket, id: LogId::new(first.term, first.index.plus(at)) };
            (0..).zip(tickets.iter()).map(place).collect()
        }
        Response::Write { tickets, outcome: WriteOutcome::Superseded } => {
            tickets.iter().map(|ticket| Seen::Superseded { ticket }).collect()
        }
        Response::Read { tickets, .. } => tickets.iter().map(|ticket| Seen::Refused { ticket }).collect(),
        Response::Write { .. } | Response::Admin { .. } => Vec::new(),
    }
}
