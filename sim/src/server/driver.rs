//! The driver of one server: takes events in, polls actions, performs them, reports completions.
//!
//! * Late, early, merged or spurious, as far as the law of actions allows: actions are left for later, timers fire
//!   late, syncs are reported together.
//! * It takes no protocol decision, and hands everything that leaves the node to the checkers first.

use std::collections::BTreeMap;

use bytes::Bytes;
use raft_core::host::StateMachine;
use raft_core::{
    Action, AdminOutcome, AdminRefusal, Entries, Event, Instant, LogIndex, LogReadError, LogTask,
    MachineTask, Message, Node, NodeId, Notice, Response, Ticket, Tickets,
};

use super::{Local, Waiter};
use crate::check::{Broken, Check, ensure};
use crate::clock::{MILLISECOND, Nanos};
use crate::world::{Happening, World, say};

impl World<'_> {
    /// A message arrives.
    pub(crate) fn deliver(&mut self, message: Message) -> Check {
        let now = self.clock.now();
        let slot = |node: NodeId| usize::try_from(node.get()).unwrap_or(0).saturating_sub(1);
        let (from, to) = (slot(message.from), slot(message.to));
        let server = &self.servers[to];
        if !server.is_up() || self.network.swallows(now, from, to) {
            self.summary.messages_lost += 1;
            return Ok(());
        }
        if server.paused_until > now {
            let until = self.network.after_pause(server.paused_until);
            self.clock.at(until, Happening::Deliver(message));
            return Ok(());
        }
        say!(self, "n{} ← {message:?}", message.to);
        self.checks.received(&message);
        self.step(to, Event::Receive(message))
    }

    /// A client asks a server, at once or when it goes on.
    pub(crate) fn ask_server(&mut self, at: usize, event: Event) -> Check {
        let server = &self.servers[at];
        if server.is_awake(self.clock.now()) {
            return self.step(at, event);
        }
        // A process that goes on finds requests and messages in no particular order.
        let (life, until) = (server.life, server.paused_until + self.rng.below(MILLISECOND));
        self.clock.at(until, Happening::Asked(at, life, event));
        Ok(())
    }

    /// A request comes to a server that had stood still.
    pub(crate) fn asked(&mut self, at: usize, life: u32, event: Event) -> Check {
        // If it has crashed meanwhile, the request was lost with it.
        if self.servers[at].life == life { self.ask_server(at, event) } else { Ok(()) }
    }

    /// Something happens inside a server.
    pub(crate) fn local(&mut self, at: usize, life: u32, local: Local) -> Check {
        let now = self.clock.now();
        let server = &mut self.servers[at];
        if server.life != life || !server.is_up() {
            return Ok(());
        }
        if server.paused_until > now {
            let until = server.paused_until;
            self.clock.at(until, Happening::Local(at, life, local));
            return Ok(());
        }
        match local {
            Local::Wake(due) => self.wake(at, due),
            Local::SpuriousWake => self.step(at, Event::Wake),
            Local::Poll => {
                server.poll_due = false;
                self.poll(at)
            }
            Local::Synced => self.synced(at),
            Local::Persisted(id) => self.step(at, Event::Persisted(id)),
            Local::MachineDone => self.machine_done(at),
            Local::LogRead { read, from, through, bytes_max } => {
                let found = server.disk.read(from, through, bytes_max);
                // Any non-empty beginning will do.
                let shorter = self.rng.chance(100_000);
                let found =
                    found.map(|entries| if shorter { entries.prefix(self.rng.below(200)) } else { entries });
                self.step(at, Event::LogRead { read, result: found.ok_or(LogReadError::Gone) })
            }
            Local::Bootstrap { alien } => self.bootstrap(at, alien),
        }
    }

    fn bootstrap(&mut self, at: usize, alien: bool) -> Check {
        let waiter = if alien { Waiter::AlienBootstrap } else { Waiter::Bootstrap };
        let mut members: BTreeMap<NodeId, Bytes> = self
            .servers
            .iter()
            .map(|server| (server.config.id, Bytes::from(format!("sim:{}", server.config.id))))
            .collect();
        if alien {
            members.insert(NodeId::new(99), Bytes::from_static(b"sim:99"));
        }
        let ticket = self.servers[at].ticket(waiter);
        say!(self, "n{} bootstraps{}", at + 1, if alien { " with another set" } else { "" });
        self.step(at, Event::Bootstrap { ticket, members })
    }

    /// A timer fires: perhaps too early by now, since deadlines move.
    fn wake(&mut self, at: usize, due: Nanos) -> Check {
        let now = self.clock.now();
        let server = &mut self.servers[at];
        if server.timer.is_none_or(|(_, fires)| fires != due) {
            return Ok(());
        }
        server.timer = None;
        let local_now = Instant::from_nanos(server.clock.at(now));
        if server.node.as_ref().and_then(Node::deadline).is_some_and(|deadline| deadline <= local_now) {
            return self.step(at, Event::Wake);
        }
        self.set_timer(at);
        Ok(())
    }

    fn set_timer(&mut self, at: usize) {
        let now = self.clock.now();
        let server = &mut self.servers[at];
        let Some(deadline) = server.node.as_ref().and_then(Node::deadline) else { return };
        // Deadlines mostly move on: a timer that fires too early is set again then.
        if server.timer.is_some_and(|(before, _)| before <= deadline) {
            return;
        }
        let due = server.clock.when(deadline.as_nanos()).max(now);
        let driver = self.scenario.driver;
        let late =
            if self.rng.chance(driver.late_wake) { self.rng.exponential(driver.late_wake_mean) } else { 0 };
        let fires = due + late;
        server.timer = Some((deadline, fires));
        self.clock.at(fires, Happening::Local(at, server.life, Local::Wake(fires)));
    }

    /// A node takes in an event, and then perhaps its actions are taken.
    pub(crate) fn step(&mut self, at: usize, event: Event) -> Check {
        let now = self.clock.now();
        let server = &mut self.servers[at];
        let Some(node) = &mut server.node else { return Ok(()) };
        let local_now = Instant::from_nanos(server.clock.at(now));
        node.step(local_now, event).map_err(|error| Broken::new("fatal", format!("n{}: {error}", at + 1)))?;
        let (before, after) = (server.status, node.status());
        self.checks.stepped(&before, &after, &|index| node.term_at(index))?;
        server.status = after;
        self.summary.events += 1;
        self.fold((after.commit.get() << 16) ^ (after.term.get() << 40) ^ after.last.index.get());
        if (before.role, before.term) != (after.role, after.term) {
            say!(self, "n{}@{} is {:?}", after.id, after.term, after.role);
        }
        if before.commit != after.commit {
            say!(self, "n{}@{} commits through {}", after.id, after.term, after.commit);
        }
        let driver = self.scenario.driver;
        if self.rng.chance(driver.spurious_wake) {
            let life = self.servers[at].life;
            let delay = self.rng.exponential(MILLISECOND);
            self.clock.after(delay, Happening::Local(at, life, Local::SpuriousWake));
        }
        if self.rng.chance(driver.late_poll) {
            let taken = self.rng.below(3);
            return self.poll_some(at, taken);
        }
        self.poll(at)
    }

    /// Takes and performs every action.
    pub(super) fn poll(&mut self, at: usize) -> Check {
        self.take_actions(at, u64::MAX)?;
        self.set_timer(at);
        Ok(())
    }

    /// Takes a few actions, and leaves the others for later.
    fn poll_some(&mut self, at: usize, taken: u64) -> Check {
        self.take_actions(at, taken)?;
        self.set_timer(at);
        let delay = self.rng.exponential(self.scenario.driver.late_poll_mean);
        let server = &mut self.servers[at];
        if server.is_up() && !server.poll_due {
            server.poll_due = true;
            self.clock.after(delay, Happening::Local(at, server.life, Local::Poll));
        }
        Ok(())
    }

    fn take_actions(&mut self, at: usize, actions: u64) -> Check {
        for _ in 0..actions {
            let server = &mut self.servers[at];
            let Some(action) = server.node.as_mut().and_then(Node::poll_action) else { return Ok(()) };
            if let Some(left) = &mut server.crash_in {
                *left -= 1;
                if *left == 0 {
                    return self.crash(at);
                }
            }
            self.perform(at, action)?;
        }
        Ok(())
    }

    fn perform(&mut self, at: usize, action: Action) -> Check {
        let server = &mut self.servers[at];
        let id = server.config.id;
        let life = server.life;
        match action {
            Action::Log(LogTask::Write(write)) => {
                self.checks.written(id, &write)?;
                server.disk.append(&write);
                say!(self, "n{id} writes #{:?} {:?} {:?}", write.id, write.hard_state, write.entries);
                self.start_sync(at);
                Ok(())
            }
            Action::Machine(task) => {
                if let MachineTask::Apply(entries) = &task {
                    self.checks.applies(id, entries)?;
                }
                server.lane.push_back(task);
                if server.lane.len() == 1 {
                    self.start_machine(at);
                }
                Ok(())
            }
            Action::Send(message) => {
                ensure!("messages", message.from == id, "n{id} sends in another's name: {message:?}");
                // A node that belongs to no cluster yet answers whoever asks it.
                let known = server.peers.is_empty() || server.peers.contains(&message.to);
                ensure!("messages", known, "{message:?}, but it never asked to be connected to its receiver");
                self.send(message)
            }
            Action::Respond(response) => self.respond(at, response),
            Action::ReadLog { read, from, through, bytes_max } => {
                self.checks.reads_log(id, from, through)?;
                self.summary.log_reads += 1;
                say!(self, "n{id} reads its log from {from} through {through}");
                let delay = self.rng.exponential(self.scenario.disk.read_mean);
                let local = Local::LogRead { read, from, through, bytes_max };
                self.clock.after(delay, Happening::Local(at, life, local));
                Ok(())
            }
            Action::Peers(membership) => {
                server.peers.extend(membership.members());
                say!(self, "n{id} connects to {:?}", membership.members());
                Ok(())
            }
            Action::Notify(notice) => {
                self.checks.notified(id, &notice)?;
                if !matches!(notice, Notice::Role { .. }) {
                    say!(self, "n{id} notes {notice:?}");
                }
                Ok(())
            }
        }
    }

    fn start_sync(&mut self, at: usize) {
        let model = self.scenario.disk;
        let server = &mut self.servers[at];
        if !server.disk.start_sync() {
            return;
        }
        let mut delay = model.sync_min + self.rng.exponential(model.sync_more);
        if self.rng.chance(model.stall) {
            delay += self.rng.exponential(model.stall_mean);
        }
        let finished = (self.clock.now() + delay).max(server.stalled_until);
        self.clock.at(finished, Happening::Local(at, server.life, Local::Synced));
    }

    fn synced(&mut self, at: usize) -> Check {
        let server = &mut self.servers[at];
        let (id, life) = (server.config.id, server.life);
        self.summary.syncs += 1;
        let through = server.disk.finish_sync();
        let more = server.disk.wants_sync();
        if let Some(through) = through {
            self.checks.synced(id, through)?;
            say!(self, "n{id} synced #{through:?}");
        }
        self.start_sync(at);
        let (Some(through), model) = (through, self.scenario.disk) else { return Ok(()) };
        if self.rng.chance(model.late_report) {
            if more && self.rng.chance(500_000) {
                // The sync that has just begun will report for both.
                return Ok(());
            }
            let delay = self.rng.exponential(model.late_mean);
            self.clock.after(delay, Happening::Local(at, life, Local::Persisted(through)));
            return Ok(());
        }
        self.step(at, Event::Persisted(through))
    }

    fn start_machine(&mut self, at: usize) {
        let delay = self.rng.exponential(self.scenario.machine.task_mean);
        let life = self.servers[at].life;
        self.clock.after(delay, Happening::Local(at, life, Local::MachineDone));
    }

    fn machine_done(&mut self, at: usize) -> Check {
        let model = self.scenario.machine;
        let server = &mut self.servers[at];
        let Some(task) = server.lane.pop_front() else { return Ok(()) };
        let more = !server.lane.is_empty();
        let applied = match task {
            MachineTask::Apply(entries) => self.apply(at, &entries)?,
            MachineTask::Serve(tickets) => {
                self.serve(at, tickets)?;
                None
            }
        };
        if more {
            self.start_machine(at);
        }
        let Some(applied) = applied else { return Ok(()) };
        if self.rng.chance(model.save) {
            self.servers[at].machine.save();
        }
        let more_to_apply = self.servers[at].lane.iter().any(|task| matches!(task, MachineTask::Apply(_)));
        if more_to_apply && self.rng.chance(model.late_report) {
            return Ok(());
        }
        self.step(at, Event::Applied(applied))
    }

    fn apply(&mut self, at: usize, entries: &Entries) -> Result<Option<LogIndex>, Broken> {
        let server = &mut self.servers[at];
        let mut responses = Vec::new();
        let applied = server.machine.apply(entries, &mut responses);
        applied.map_err(|error| Broken::new("machine", format!("n{}: {error}", at + 1)))?;
        let (last, digest) = (server.machine.applied(), server.machine.digest());
        self.checks.digest(server.config.id, last.index, digest)?;
        say!(self, "n{} applied through {last}", at + 1);
        Ok(Some(last.index))
    }

    fn serve(&mut self, at: usize, tickets: Tickets) -> Check {
        for ticket in tickets.iter() {
            let waiter = self.waiter(at, ticket)?;
            let Waiter::Client(op) = waiter else {
                return Err(Broken::new("tickets", format!("n{} served {waiter:?} as a read", at + 1)));
            };
            self.read_served(at, op)?;
        }
        Ok(())
    }

    /// Who waits for this ticket. Each is answered exactly once.
    fn waiter(&mut self, at: usize, ticket: Ticket) -> Result<Waiter, Broken> {
        self.servers[at].waiters.take(ticket).ok_or_else(|| {
            let what = format!("n{} answered ticket {ticket}, which nobody waits for (any more)", at + 1);
            Broken::new("tickets", what)
        })
    }

    fn respond(&mut self, at: usize, response: Response) -> Check {
        match response {
            Response::Write { tickets, outcome } => {
                for (offset, ticket) in (0..).zip(tickets.iter()) {
                    let waiter = self.waiter(at, ticket)?;
                    let Waiter::Client(op) = waiter else {
                        return Err(Broken::new(
                            "tickets",
                            format!("n{} answered {waiter:?} as a write", at + 1),
                        ));
                    };
                    self.write_answered(at, op, offset, &outcome)?;
                }
                Ok(())
            }
            Response::Read { tickets, outcome } => {
                for ticket in tickets.iter() {
                    let waiter = self.waiter(at, ticket)?;
                    let Waiter::Client(op) = waiter else {
                        return Err(Broken::new(
                            "tickets",
                            format!("n{} answered {waiter:?} as a read", at + 1),
                        ));
                    };
                    self.read_answered(at, op, &outcome)?;
                }
                Ok(())
            }
            Response::Admin { ticket, outcome } => {
                let waiter = self.waiter(at, ticket)?;
                say!(self, "n{} answers {waiter:?}: {outcome:?}", at + 1);
                let right = match waiter {
                    Waiter::Bootstrap => outcome == AdminOutcome::Done,
                    Waiter::AlienBootstrap => outcome == AdminOutcome::Refused(AdminRefusal::NotPristine),
                    Waiter::Campaign => true,
                    Waiter::Client(_) => false,
                };
                ensure!("tickets", right, "n{} answered {waiter:?} with {outcome:?}", at + 1);
                Ok(())
            }
        }
    }
}
