//! The clients: what they ask, of whom, and how long they wait.
//!
//! * A client asks the node that it believes to lead, and follows hints. What was refused it asks again, as the
//!   same operation; what may have happened it never asks again.
//! * A client whose patience ends says so, or just walks away. Either way the operation stays in the history.

mod answers;

use std::collections::VecDeque;

use bytes::Bytes;
use raft_core::host::StateMachine;
use raft_core::{CommandPacker, Event, ReadConsistency, Ticket, Tickets};
use serde::{Deserialize, Serialize};

use crate::check::{Asked, Broken, Check, OpId, ensure};
use crate::clock::{MILLISECOND, Nanos};
use crate::machine::put;
use crate::rng::Rng;
use crate::scenario::ClientModel;
use crate::server::Waiter;
use crate::trace::{self, What};
use crate::transcript::{Decision, Source};
use crate::workload::Workload;
use crate::world::{Happening, World, note};

/// A request with all that was drawn for it: operations of one kind, asked at once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Request {
    pub(crate) client: usize,
    pub(crate) asked: Asked,
    pub(crate) wanted: Vec<Wanted>,
}

/// One operation of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Wanted {
    pub(crate) key: u16,
    /// Bytes added to a put.
    pub(crate) padding: u16,
    /// What the user's command is drawn from.
    pub(crate) seed: u64,
}

impl Wanted {
    fn draw(rng: &mut Rng, model: &ClientModel) -> Self {
        let padding = rng.below(model.padding_max + 1);
        Self {
            key: rng.below(model.keys) as u16,
            padding: u16::try_from(padding).unwrap_or(u16::MAX),
            seed: rng.bits() >> 32,
        }
    }
}

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

impl Attempt {
    fn asks(&self, op: OpId) -> trace::Request {
        trace::Request { op, write: self.asked == Asked::Put, key: self.key.into() }
    }
}

struct Client {
    /// Draws what it wants.
    wants: Rng,
    /// Draws how it goes about it.
    rng: Rng,
    target: usize,
    outstanding: usize,
    queue: VecDeque<OpId>,
    retry_due: bool,
    /// After `Busy` a client asks for less at once.
    modest: bool,
}

/// The first of the clients' streams of chance, for what they want and for how they go about it.
const WANTS: u64 = 2_000;
const CLIENTS: u64 = 3_000;

/// All clients of a run.
pub(crate) struct Clients {
    model: ClientModel,
    clients: Vec<Client>,
    /// By operation.
    attempts: Vec<Attempt>,
    answered: u64,
}

impl Clients {
    pub(crate) fn new(model: ClientModel, seed: u64) -> Self {
        let client = |at| Client {
            wants: Rng::new(seed, WANTS + at),
            rng: Rng::new(seed, CLIENTS + at),
            target: 0,
            outstanding: 0,
            queue: VecDeque::new(),
            retry_due: false,
            modest: false,
        };
        let clients = (0..model.clients as u64).map(client).collect();
        Self { model, clients, attempts: Vec::new(), answered: 0 }
    }

    /// How many answers have come.
    pub(crate) fn answered(&self) -> u64 {
        self.answered
    }

    /// Whether this operation has succeeded.
    pub(crate) fn is_answered(&self, op: OpId) -> bool {
        self.attempt(op).answered
    }

    /// What a client wants next; `None` if it waits for enough already.
    fn draw(&mut self, client: usize) -> Option<Request> {
        let model = self.model;
        let state = &mut self.clients[client];
        if state.outstanding >= model.outstanding_max {
            return None;
        }
        let asked = if state.wants.chance(model.reads) { Asked::Read } else { Asked::Put };
        let wanted = 0..state.wants.between(1, model.batch_max);
        Some(Request {
            client,
            asked,
            wanted: wanted.map(|_| Wanted::draw(&mut state.wants, &model)).collect(),
        })
    }

    fn attempt(&self, op: OpId) -> &Attempt {
        &self.attempts[usize::try_from(op).expect("operations are numbered from 0")]
    }

    fn attempt_mut(&mut self, op: OpId) -> &mut Attempt {
        &mut self.attempts[usize::try_from(op).expect("operations are numbered from 0")]
    }

    /// The server that an operation was asked of, if it has not answered.
    pub(crate) fn held_by(&self, op: OpId) -> Option<usize> {
        match self.attempt(op).stage {
            Stage::At { server, .. } => Some(server),
            Stage::Queued | Stage::Over => None,
        }
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

impl<W: Workload> World<'_, W> {
    /// Every client's first request is due soon.
    pub(crate) fn first_requests(&mut self) {
        for client in 0..self.clients.clients.len() {
            let delay = self.clients.clients[client].wants.below(500 * MILLISECOND);
            self.next_request(client, delay);
        }
    }

    /// Schedules a client's next request: `delay` from now, unless the requests are given.
    fn next_request(&mut self, client: usize, delay: Nanos) {
        if !self.plan.is_given() {
            self.clock.after(delay, Happening::Request(client));
        } else if let Some(at) = self.plan.next_at(Source::Client(client)) {
            self.clock.at(at, Happening::Request(client));
        }
    }

    /// A client's next request is due.
    pub(crate) fn request(&mut self, client: usize) -> Check {
        if self.settling {
            return Ok(());
        }
        let delay = self.clients.clients[client].wants.exponential(self.clients.model.think_mean);
        let request = match self.plan.next(Source::Client(client)) {
            Some(Decision::Request(request)) => Some(request),
            _ => self.clients.draw(client),
        };
        self.next_request(client, delay);
        let Some(request) = request else { return Ok(()) };
        for wanted in &request.wanted {
            let op = self.begin(client, request.asked, *wanted)?;
            self.clock.after(self.clients.model.patience, Happening::Patience(op));
        }
        self.decided(Decision::Request(request));
        // A client that was just refused waits before it asks for anything again.
        if self.clients.clients[client].retry_due { Ok(()) } else { self.submit(client) }
    }

    /// A last write when all faults are over: it has to commit, and its client waits for ever.
    pub(crate) fn last_request(&mut self) -> Result<OpId, Broken> {
        let wanted = Wanted::draw(&mut self.operator.rng, &self.clients.model);
        let op = self.begin(0, Asked::Put, wanted)?;
        self.retry_soon(0);
        Ok(op)
    }

    fn begin(&mut self, client: usize, asked: Asked, wanted: Wanted) -> Result<OpId, Broken> {
        let Wanted { key, padding, seed } = wanted;
        let op = self.checks.operations.begin(asked, key);
        let command = match asked {
            Asked::Put => {
                let user = Bytes::from(self.workload.command(&mut Rng::new(seed, 0)));
                let bytes_max = self.workload.command_bytes_max();
                ensure!(
                    "workload",
                    user.len() as u64 <= bytes_max,
                    "a command has {} bytes, and command_bytes_max() says {bytes_max}",
                    user.len()
                );
                // As a driver asks before it proposes a command.
                let accepted = W::Machine::check(&user);
                accepted.map_err(|why| {
                    Broken::new("workload", format!("the machine refuses a command: {why}"))
                })?;
                let command = put(op, key, &user, padding.into());
                self.checks.operations.command(op, &command);
                Bytes::from(command)
            }
            Asked::Read => Bytes::new(),
        };
        let attempt = Attempt {
            client,
            asked,
            key,
            command,
            stage: Stage::Queued,
            answered: false,
            forgotten: false,
            abandoned: false,
        };
        self.clients.attempts.push(attempt);
        let state = &mut self.clients.clients[client];
        state.outstanding += 1;
        state.queue.push_back(op);
        Ok(op)
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
            let delay = MILLISECOND + state.rng.exponential(10 * MILLISECOND);
            self.clock.after(delay, Happening::Retry(client));
        }
    }

    /// Any server that is switched on, as a client picks one.
    fn any_server(&mut self, client: usize) -> usize {
        let on = |at: &usize| self.servers[*at].is_enlisted() && self.may_answer(*at);
        let there = (0..self.servers.len()).filter(on).count();
        let chosen = self.clients.clients[client].rng.index(there);
        let on = |at: &usize| self.servers[*at].is_enlisted() && self.may_answer(*at);
        (0..self.servers.len()).filter(on).nth(chosen).unwrap_or(0)
    }

    /// Asks a server for what waits in a client's queue.
    fn submit(&mut self, client: usize) -> Check {
        // What is refused comes back into the queue, and is not asked again at once.
        let mut left = self.clients.clients[client].queue.len();
        while left > 0 {
            let model = self.clients.model;
            let mut target = self.clients.clients[client].target;
            if !self.may_answer(target) {
                target = self.any_server(client);
                self.clients.clients[client].target = target;
            }
            let next = self.clients.clients[client].queue.front().map(|op| self.clients.attempt(*op).asked);
            // Reads may be asked of anybody.
            let stray = if next == Some(Asked::Read) { model.stray.max(model.near) } else { model.stray };
            if self.clients.clients[client].rng.chance(stray) {
                target = self.any_server(client);
            }
            // Half of the clients wait when they are asked to, the others do not.
            let polite = client.is_multiple_of(2);
            let server = &self.servers[target];
            let (up, room) = (server.is_up(), server.has_room());
            if !up {
                self.clients.clients[client].target = self.any_server(client);
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
        let requests = || batch.iter().map(|op| self.clients.attempt(*op).asks(*op)).collect();
        note!(self, target, What::Asks { client: client as u64, ticket: first.get(), requests: requests() });
        let count = u32::try_from(batch.len()).expect("a batch is a few operations");
        let event = match asked {
            Asked::Put => Event::Propose { first, commands: packer.finish() },
            Asked::Read => {
                let model = self.clients.model;
                let lease = self.clients.clients[client].rng.chance(model.lease_reads);
                let consistency = if lease { ReadConsistency::Lease } else { ReadConsistency::Linearizable };
                self.summary.lease_reads += if lease { u64::from(count) } else { 0 };
                if lease {
                    batch.iter().for_each(|op| self.checks.operations.by_lease(*op));
                }
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
                note!(self, None, What::gives_up(client, op, "withdraws"));
                self.checks.operations.withdrawn(op)?;
                self.clients.over(op);
                Ok(())
            }
            Stage::At { server, life, ticket } => {
                // A node that is silent may have lost its leadership without knowing.
                self.clients.clients[client].target = self.any_server(client);
                let reachable = self.servers[server].is_awake(now) && self.servers[server].life() == life;
                let model = self.clients.model;
                if reachable && self.clients.clients[client].rng.chance(model.forget) {
                    self.clients.attempt_mut(op).forgotten = true;
                    note!(self, server, What::gives_up(client, op, "forgets"));
                    return self.step(server, Event::Forget { tickets: Tickets::one(ticket) });
                }
                note!(self, server, What::gives_up(client, op, "leaves"));
                self.clients.attempt_mut(op).abandoned = true;
                self.clients.clients[client].outstanding -= 1;
                Ok(())
            }
        }
    }
}
