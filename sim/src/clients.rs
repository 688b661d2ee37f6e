//! The clients: what they ask, of whom, and how long they wait.
//!
//! * A client asks the node that it believes to lead, and follows hints. What was refused it asks again, as the
//!   same operation; what may have happened it never asks again.
//! * A client whose patience ends says so, or just walks away. Either way the operation stays in the history.

use std::collections::VecDeque;

use bytes::Bytes;
use raft_core::{
    CommandPacker, Event, LogId, NodeId, ReadConsistency, ReadOutcome, Ticket, Tickets, WriteOutcome,
};

use crate::check::{Asked, Broken, Check, OpId, ensure};
use crate::clock::MILLISECOND;
use crate::machine::put;
use crate::rng::Rng;
use crate::scenario::ClientModel;
use crate::server::Waiter;
use crate::world::{Happening, World, say};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Waits to be asked (again).
    Queued,
    /// Asked of this server, in this life of it.
    At { server: usize, life: u32, ticket: Ticket },
    /// Answered, lost with its server, or given up.
    Over,
}

struct Attempt {
    client: usize,
    asked: Asked,
    key: u16,
    command: Bytes,
    stage: Stage,
    answered: bool,
    /// The client has said that it no longer waits.
    forgotten: bool,
    /// The client has gone without a word.
    abandoned: bool,
}

#[derive(Default)]
struct Client {
    target: usize,
    outstanding: usize,
    queue: VecDeque<OpId>,
    retry_due: bool,
    /// After `Busy` a client asks for less at once.
    modest: bool,
}

/// All clients of a run.
pub(crate) struct Clients {
    model: ClientModel,
    rng: Rng,
    clients: Vec<Client>,
    /// By operation.
    attempts: Vec<Attempt>,
    answered: u64,
}

impl Clients {
    pub(crate) fn new(model: ClientModel, rng: Rng) -> Self {
        let clients = (0..model.clients).map(|_| Client::default()).collect();
        Self { model, rng, clients, attempts: Vec::new(), answered: 0 }
    }

    /// How many answers have come.
    pub(crate) fn answered(&self) -> u64 {
        self.answered
    }

    /// Whether this operation has succeeded.
    pub(crate) fn is_answered(&self, op: OpId) -> bool {
        self.attempt(op).answered
    }

    fn attempt(&self, op: OpId) -> &Attempt {
        &self.attempts[usize::try_from(op).expect("operations are numbered from 0")]
    }

    fn attempt_mut(&mut self, op: OpId) -> &mut Attempt {
        &mut self.attempts[usize::try_from(op).expect("operations are numbered from 0")]
    }

    /// The operation needs no more work from its client.
    fn over(&mut self, op: OpId) {
        let attempt = self.attempt_mut(op);
        attempt.stage = Stage::Over;
        attempt.command = Bytes::new();
        if !attempt.abandoned {
            let client = attempt.client;
            self.clients[client].outstanding -= 1;
        }
    }
}

impl World<'_> {
    /// A client's next request is due.
    pub(crate) fn request(&mut self, client: usize) -> Check {
        if self.settling {
            return Ok(());
        }
        let clients = &mut self.clients;
        let model = clients.model;
        let next = clients.rng.exponential(model.think_mean);
        self.clock.after(next, Happening::Request(client));
        if clients.clients[client].outstanding >= model.outstanding_max {
            return Ok(());
        }
        let asked = if clients.rng.chance(model.reads) { Asked::Read } else { Asked::Put };
        for _ in 0..clients.rng.between(1, model.batch_max) {
            let op = self.begin(client, asked);
            self.clock.after(model.patience, Happening::Patience(op));
        }
        // A client that was just refused waits before it asks for anything again.
        if self.clients.clients[client].retry_due { Ok(()) } else { self.submit(client) }
    }

    /// A last write when all faults are over: it has to commit, and its client waits for ever.
    pub(crate) fn last_request(&mut self) -> OpId {
        let op = self.begin(0, Asked::Put);
        self.retry_soon(0);
        op
    }

    fn begin(&mut self, client: usize, asked: Asked) -> OpId {
        let clients = &mut self.clients;
        let key = clients.rng.below(clients.model.keys) as u16;
        let op = self.checks.operations.begin(asked, key);
        let command = match asked {
            Asked::Put => {
                let padding = clients.rng.below(clients.model.padding_max + 1) as usize;
                let command = put(op, key, padding);
                self.checks.operations.command(op, &command);
                Bytes::from(command)
            }
            Asked::Read => Bytes::new(),
        };
        let stage = Stage::Queued;
        let attempt = Attempt {
            client,
            asked,
            key,
            command,
            stage,
            answered: false,
            forgotten: false,
            abandoned: false,
        };
        clients.attempts.push(attempt);
        clients.clients[client].outstanding += 1;
        clients.clients[client].queue.push_back(op);
        op
    }

    /// A client tries again.
    pub(crate) fn retry(&mut self, client: usize) -> Check {
        self.clients.clients[client].retry_due = false;
        self.submit(client)
    }

    fn retry_soon(&mut self, client: usize) {
        let state = &mut self.clients.clients[client];
        if !state.retry_due {
            state.retry_due = true;
            let delay = MILLISECOND + self.clients.rng.exponential(10 * MILLISECOND);
            self.clock.after(delay, Happening::Retry(client));
        }
    }

    /// Any server that is switched on.
    fn any_server(&mut self) -> usize {
        let there = self.servers.iter().filter(|server| server.is_enlisted()).count();
        let chosen = self.clients.rng.index(there);
        let mut on = (0..self.servers.len()).filter(|at| self.servers[*at].is_enlisted());
        on.nth(chosen).unwrap_or(0)
    }

    /// Asks a server for what waits in a client's queue.
    fn submit(&mut self, client: usize) -> Check {
        // What is refused comes back into the queue, and is not asked again at once.
        let mut left = self.clients.clients[client].queue.len();
        while left > 0 {
            let model = self.clients.model;
            let mut target = self.clients.clients[client].target;
            let next = self.clients.clients[client].queue.front().map(|op| self.clients.attempt(*op).asked);
            // Reads may be asked of anybody.
            let stray = if next == Some(Asked::Read) { model.stray.max(model.near) } else { model.stray };
            if self.clients.rng.chance(stray) {
                target = self.any_server();
            }
            // Half of the clients wait when they are asked to, the others do not.
            let polite = client.is_multiple_of(2);
            let server = &self.servers[target];
            let (up, room) = (server.is_up(), server.has_room());
            if !up {
                self.clients.clients[client].target = self.any_server();
            }
            if !up || (polite && !room) {
                self.retry_soon(client);
                return Ok(());
            }
            let batch_max = if self.clients.clients[client].modest { 1 } else { model.batch_max };
            let queued = self.clients.clients[client].queue.len();
            let batch = self.next_batch(client, batch_max.min(left as u64));
            left = left.saturating_sub(queued - self.clients.clients[client].queue.len());
            let Some(asked) = batch.first().map(|op| self.clients.attempt(*op).asked) else { return Ok(()) };
            self.ask(client, target, asked, &batch)?;
        }
        Ok(())
    }

    /// The next operations of one kind in a client's queue.
    fn next_batch(&mut self, client: usize, batch_max: u64) -> Vec<OpId> {
        let clients = &mut self.clients;
        let mut batch: Vec<OpId> = Vec::new();
        while let Some(op) = clients.clients[client].queue.front().copied() {
            let attempt = clients.attempt(op);
            if attempt.stage == Stage::Queued {
                let other_kind =
                    batch.first().is_some_and(|first| clients.attempt(*first).asked != attempt.asked);
                if other_kind || batch.len() as u64 >= batch_max {
                    break;
                }
                batch.push(op);
            }
            clients.clients[client].queue.pop_front();
        }
        batch
    }

    fn ask(&mut self, client: usize, target: usize, asked: Asked, batch: &[OpId]) -> Check {
        let server = &mut self.servers[target];
        let life = server.life();
        let mut packer = CommandPacker::default();
        let mut first = None;
        for op in batch {
            let ticket = server.ticket(Waiter::Client(*op));
            first.get_or_insert(ticket);
            let attempt = self.clients.attempt_mut(*op);
            attempt.stage = Stage::At { server: target, life, ticket };
            packer.push_bytes(attempt.command.clone());
        }
        let Some(first) = first else { return Ok(()) };
        if self.traces() {
            let wanted: Vec<String> = batch
                .iter()
                .map(|op| match self.clients.attempt(*op) {
                    Attempt { asked: Asked::Put, key, .. } => format!("put k{key}={op}"),
                    Attempt { asked: Asked::Read, key, .. } => format!("read k{key} (#{op})"),
                })
                .collect();
            self.line(&format!("c{client} → n{} {} ticket {first}", target + 1, wanted.join(", ")));
        }
        let count = u32::try_from(batch.len()).expect("a batch is a few operations");
        let event = match asked {
            Asked::Put => Event::Propose { first, commands: packer.finish() },
            Asked::Read => {
                let lease = self.clients.rng.chance(self.clients.model.lease_reads);
                let consistency = if lease { ReadConsistency::Lease } else { ReadConsistency::Linearizable };
                self.summary.lease_reads += if lease { u64::from(count) } else { 0 };
                Event::Read { tickets: Tickets::new(first, count), consistency }
            }
        };
        self.ask_server(target, event)
    }

    /// A client's patience ends.
    pub(crate) fn patience_ends(&mut self, op: OpId) -> Check {
        let now = self.clock.now();
        let (stage, client) = (self.clients.attempt(op).stage, self.clients.attempt(op).client);
        match stage {
            Stage::Over => Ok(()),
            Stage::Queued => {
                say!(self, "c{client} gives up #{op}, which nobody took");
                self.checks.operations.withdrawn(op)?;
                self.clients.over(op);
                Ok(())
            }
            Stage::At { server, life, ticket } => {
                // A node that is silent may have lost its leadership without knowing.
                self.clients.clients[client].target = self.any_server();
                let reachable = self.servers[server].is_awake(now) && self.servers[server].life() == life;
                if reachable && self.clients.rng.chance(self.clients.model.forget) {
                    self.clients.attempt_mut(op).forgotten = true;
                    say!(self, "c{client} → n{} forget #{op} ticket {ticket}", server + 1);
                    return self.step(server, Event::Forget { tickets: Tickets::one(ticket) });
                }
                say!(self, "c{client} walks away from #{op}");
                self.clients.attempt_mut(op).abandoned = true;
                self.clients.clients[client].outstanding -= 1;
                Ok(())
            }
        }
    }

    /// A server crashed with this operation: its outcome is unknown for ever.
    pub(crate) fn lost_with_server(&mut self, op: OpId) {
        self.clients.over(op);
    }

    /// A node answered the `offset`-th write of a range.
    pub(crate) fn write_answered(
        &mut self,
        at: usize,
        op: OpId,
        offset: u64,
        outcome: &WriteOutcome,
    ) -> Check {
        say!(self, "n{} → c{} {outcome:?} for put #{op}", at + 1, self.clients.attempt(op).client);
        self.clients.answered += 1;
        match outcome {
            WriteOutcome::Committed { first, applied_here } => {
                let id = LogId::new(first.term, first.index.plus(offset));
                let node = self.servers[at].status().id;
                self.checks.answered_committed(node, op, id, *applied_here)?;
                self.summary.applied_elsewhere += u64::from(!applied_here);
                let client = self.clients.attempt(op).client;
                self.clients.clients[client].modest = false;
                self.clients.attempt_mut(op).answered = true;
                self.clients.over(op);
                Ok(())
            }
            WriteOutcome::Superseded => {
                self.checks.operations.superseded(op)?;
                self.clients.over(op);
                self.again_if_last(op);
                Ok(())
            }
            WriteOutcome::NotLeader { leader } => self.refused(op, Some(*leader)),
            WriteOutcome::Busy => {
                self.summary.busy += 1;
                self.refused(op, None)
            }
            WriteOutcome::Unknown => self.unknown(at, op),
            WriteOutcome::Refused(refusal) => {
                Err(Broken::new("operations", format!("operation {op} was refused: {refusal}")))
            }
        }
    }

    /// A node answered a read that it did not serve.
    pub(crate) fn read_answered(&mut self, at: usize, op: OpId, outcome: &ReadOutcome) -> Check {
        say!(self, "n{} → c{} {outcome:?} for read #{op}", at + 1, self.clients.attempt(op).client);
        self.clients.answered += 1;
        match outcome {
            ReadOutcome::NotLeader { leader } => self.refused(op, Some(*leader)),
            ReadOutcome::Busy => {
                self.summary.busy += 1;
                self.refused(op, None)
            }
            ReadOutcome::Unknown => self.unknown(at, op),
        }
    }

    /// A node serves a read from its state machine.
    pub(crate) fn read_served(&mut self, at: usize, op: OpId) -> Check {
        self.clients.answered += 1;
        let key = self.clients.attempt(op).key;
        let saw = self.servers[at].machine().get(key);
        say!(self, "n{} → c{} read #{op} k{key}={saw:?}", at + 1, self.clients.attempt(op).client);
        self.checks.operations.served(op, saw)?;
        self.clients.attempt_mut(op).answered = true;
        self.clients.over(op);
        Ok(())
    }

    /// It was not proposed: the client asks again, elsewhere if there is a hint (or no leader known).
    fn refused(&mut self, op: OpId, leader: Option<Option<NodeId>>) -> Check {
        self.checks.operations.refused(op)?;
        let clients = &mut self.clients;
        let attempt = clients.attempt(op);
        let client = attempt.client;
        if attempt.abandoned {
            clients.over(op);
            return self.checks.operations.withdrawn(op);
        }
        clients.attempt_mut(op).stage = Stage::Queued;
        let hint = leader.map(|leader| match leader {
            Some(leader) => usize::try_from(leader.get()).unwrap_or(1).saturating_sub(1),
            None => self.any_server(),
        });
        let servers = self.servers.len();
        let state = &mut self.clients.clients[client];
        state.queue.push_back(op);
        match hint {
            Some(target) => state.target = target.min(servers - 1),
            None => state.modest = true,
        }
        self.retry_soon(client);
        Ok(())
    }

    /// Nobody knows what became of it: the client gave it up, or a snapshot that the node installed did not say.
    fn unknown(&mut self, at: usize, op: OpId) -> Check {
        let forgotten = self.clients.attempt(op).forgotten;
        let seen = self.checks.operations.seen(op);
        let lost = seen.is_some_and(|id| self.servers[at].may_not_know(id.index));
        ensure!(
            "operations",
            forgotten || lost,
            "n{} does not know what became of operation {op}, which stands at {seen:?}",
            at + 1
        );
        self.summary.unknown += u64::from(!forgotten);
        self.clients.over(op);
        self.again_if_last(op);
        Ok(())
    }
}
