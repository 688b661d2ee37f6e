//! A cluster under way, and what must never be contradicted.

use core::time::Duration;
use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use raft_core::{
    AdminOutcome, Event, Lease, LogId, Membership, MembershipChange, Message, Response, RoleKind,
    SnapshotError, Ticket, Tickets, WriteOutcome,
};

use super::forge::{forge, stray};
use super::marks;
use super::ops::{ANY_LEADER, FOUNDERS, Op, SERVERS};
use super::support::{Cluster, members, n};

/// Messages that may be replayed.
const HISTORY_MAX: usize = 400;
const DRIFT_PPM_MAX: u32 = 100_000;
const WIRE_MAX: usize = 200;
/// A node as text: what it may take after hundreds of events.
const NODE_BYTES_MAX: usize = 1 << 16;

#[derive(Clone, Copy, Debug)]
pub(crate) struct World {
    /// With limits that are reached all the time.
    pub small: bool,
    pub leases: bool,
}

pub(crate) struct Storm {
    pub cluster: Cluster,
    pub marks: BTreeMap<String, u64>,
    history: Vec<Message>,
    /// Whether every message that arrives was once sent.
    honest: bool,
    leaders: BTreeMap<u64, u64>,
    /// By index: what any server applied.
    applied: BTreeMap<u64, (LogId, Vec<u8>)>,
    /// By read: what was committed anywhere when it was asked.
    reads: BTreeMap<u64, u64>,
    pub committed: u64,
    /// The last configuration that anybody knows to be committed, and where it stands.
    pub configuration: (u64, Arc<Membership>),
    /// Proposed commands, by ticket.
    pub proposed: BTreeMap<u64, String>,
    pub answered: BTreeMap<u64, WriteOutcome>,
    /// Requests that wait for an outcome: ticket, and at which life of which server.
    pub waiting: BTreeMap<u64, (u64, u64)>,
    seen: BTreeMap<u64, Seen>,
    next_ticket: u64,
}

/// How much of what came out of a server was looked at.
#[derive(Clone, Copy, Default)]
struct Seen {
    applied: usize,
    restored: usize,
    served: usize,
    responses: usize,
}

pub(crate) fn bits(set: u8) -> Vec<u64> {
    (1..=SERVERS).filter(|server| set >> (server - 1) & 1 == 1).collect()
}

impl Storm {
    pub(crate) fn new(honest: bool, World { small, leases }: World) -> Self {
        let mut cluster = Cluster::with(FOUNDERS, |config| {
            config.catch_up_timeout = Duration::from_secs(5);
            config.lease = leases.then_some(Lease { clock_drift_ppm_max: DRIFT_PPM_MAX });
            if small {
                config.tail_bytes_max = 100;
                config.append_bytes_max = 150;
                config.apply_bytes_max = 150;
                config.inflight_appends_max = 2;
                config.unpersisted_bytes_max = 200;
                config.pending_reads_max = 2;
                config.snapshot_chunk_bytes = 10;
                config.compaction_margin_entries = 2;
                config.snapshot_policy = raft_core::SnapshotPolicy::LogsSinceLast(9);
            }
        });
        cluster.bootstrap();
        (FOUNDERS + 1..=SERVERS).for_each(|server| cluster.join(server));
        // As far apart as the leases allow.
        let ppm = i64::from(DRIFT_PPM_MAX);
        cluster.clocks_ppm = (1..=SERVERS).map(|id| (id, if id % 2 == 0 { ppm } else { -ppm })).collect();
        cluster.trace = Some(Vec::new());
        Self {
            cluster,
            marks: BTreeMap::new(),
            history: Vec::new(),
            honest,
            leaders: BTreeMap::new(),
            applied: BTreeMap::new(),
            reads: BTreeMap::new(),
            committed: 0,
            configuration: (0, Arc::default()),
            proposed: BTreeMap::new(),
            answered: BTreeMap::new(),
            waiting: BTreeMap::new(),
            seen: BTreeMap::new(),
            next_ticket: 1_000_000,
        }
    }

    // --- messages ------------------------------------------------------------------------------------------------

    fn arrive(&mut self, to: u64, message: Message) {
        let Some(server) = self.cluster.servers.get(&to) else { return };
        let before = server.node.status();
        self.keep_marks();
        self.cluster.step(to, Event::Receive(message.clone()));
        let after = self.cluster.servers[&to].node.status();
        let trace = self.cluster.trace.as_ref().expect("kept");
        let said: Vec<_> = trace.iter().map(|(_, action)| action.clone()).collect();
        *self.marks.entry(marks::of_message(&before, &after, &message, &said)).or_default() += 1;
    }

    fn keep_marks(&mut self) {
        let trace = core::mem::take(self.cluster.trace.as_mut().expect("kept"));
        for mark in trace.iter().filter_map(|(_, action)| marks::of_action(action)) {
            *self.marks.entry(mark).or_default() += 1;
        }
    }

    fn deliver(&mut self, message: Message) {
        if self.history.len() < HISTORY_MAX {
            self.history.push(message.clone());
        } else {
            let at = (message.to.get() as usize * 31 + self.cluster.wire.len() * 7) % HISTORY_MAX;
            self.history[at] = message.clone();
        }
        let (from, to) = (message.from.get(), message.to.get());
        if !self.cluster.cut.contains(&from) && !self.cluster.cut.contains(&to) {
            self.arrive(to, message);
        }
    }

    fn at(&self, place: usize) -> usize {
        place % self.cluster.wire.len().max(1)
    }

    fn traffic(&mut self, op: &Op) {
        match *op {
            Op::Deliver(place) => {
                if let Some(message) = self.cluster.wire.remove(self.at(place)) {
                    self.deliver(message);
                }
            }
            Op::DeliverMany(count) => {
                for _ in 0..count {
                    let Some(message) = self.cluster.wire.pop_front() else { break };
                    self.deliver(message);
                    self.check();
                }
            }
            Op::Duplicate(place) => {
                if let Some(message) = self.cluster.wire.get(self.at(place)).cloned() {
                    self.deliver(message);
                }
            }
            Op::Lose(place) => drop(self.cluster.wire.remove(self.at(place))),
            Op::Replay(place) => {
                if let Some(message) = self.history.get(place % self.history.len().max(1)).cloned() {
                    self.arrive(message.to.get(), message);
                }
            }
            Op::Forge(place, how, by) => {
                if let Some(message) = self.history.get(place % self.history.len().max(1)) {
                    let forged = forge(message, how, by);
                    // Whatever it says about the receiver, it arrives where the original did, or where it says.
                    let to = if how % 16 == 3 { message.to.get() } else { forged.to.get() };
                    self.arrive(to, forged);
                }
            }
            Op::Stray(server, how, by) => {
                let term = self.cluster.servers[&server].node.status().term;
                self.cluster.step(server, stray(how, by, term));
            }
            _ => unreachable!("not a message"),
        }
    }

    // --- requests --------------------------------------------------------------------------------------------------

    fn client(&self, server: u64) -> u64 {
        if server == ANY_LEADER { self.cluster.leader().unwrap_or(1) } else { server }
    }

    fn tickets(&mut self, server: u64, count: u8) -> Tickets {
        let first = self.next_ticket;
        self.next_ticket += u64::from(count);
        let life = self.cluster.servers[&server].incarnation;
        self.waiting.extend((first..self.next_ticket).map(|ticket| (ticket, (server, life))));
        Tickets::new(Ticket::new(first), count.into())
    }

    fn ask(&mut self, server: u64, request: impl FnOnce(Ticket) -> Event) {
        let ticket = self.tickets(server, 1).first;
        self.cluster.step(server, request(ticket));
    }

    fn propose(&mut self, server: u64, count: u8) {
        let tickets = self.tickets(server, count);
        let names: Vec<String> = tickets.iter().map(|ticket| format!("c{ticket}")).collect();
        self.proposed.extend(tickets.range().zip(names.clone()));
        let event = Event::Propose { first: tickets.first, commands: names.iter().collect() };
        self.cluster.step(server, event);
    }

    fn read(&mut self, server: u64, lease: bool) {
        let tickets = self.tickets(server, 1);
        self.reads.insert(tickets.first.get(), self.committed);
        let consistency =
            if lease { raft_core::ReadConsistency::Lease } else { raft_core::ReadConsistency::Linearizable };
        self.cluster.step(server, Event::Read { tickets, consistency });
    }

    fn change(&mut self, server: u64, change: MembershipChange) {
        self.ask(server, |ticket| Event::ChangeMembership { ticket, change: Box::new(change) });
    }

    fn request(&mut self, op: &Op) {
        let ids = |set: u8| bits(set).into_iter().map(n).collect();
        match *op {
            Op::Propose(server, count) => self.propose(self.client(server), count),
            Op::Read(server, lease) => self.read(self.client(server), lease),
            Op::Campaign(server) => self.ask(server, |ticket| Event::Campaign { ticket }),
            Op::Forget(server, ticket) => {
                let tickets = Tickets::new(Ticket::new(1_000_000 + ticket), 2);
                self.cluster.step(server, Event::Forget { tickets });
            }
            Op::Change(server, voters, learners) => {
                let target = raft_core::Target { voters: ids(voters), learners: ids(learners) };
                let addresses = members(1..=SERVERS);
                self.change(self.client(server), MembershipChange::Set { target, addresses });
            }
            Op::Update(server, voters, learners, remove) => {
                let change = MembershipChange::Update {
                    voters: ids(voters),
                    learners: ids(learners),
                    remove: ids(remove),
                    addresses: members(1..=SERVERS),
                };
                self.change(self.client(server), change);
            }
            Op::Cancel(server) => self.change(self.client(server), MembershipChange::Cancel),
            Op::SetAddress(server, node) => {
                let address = Bytes::from(format!("n{node}'"));
                self.change(self.client(server), MembershipChange::SetAddress { node: n(node), address });
            }
            Op::Transfer(server, to) => {
                self.ask(self.client(server), |ticket| Event::TransferLeadership { ticket, to: to.map(n) });
            }
            Op::StepDown(server) => self.ask(self.client(server), |ticket| Event::StepDown { ticket }),
            // A server that nobody bootstrapped must not found a cluster of its own.
            Op::Bootstrap(server, set) if server <= FOUNDERS => {
                self.ask(server, |ticket| Event::Bootstrap { ticket, members: members(bits(set)) });
            }
            Op::Bootstrap(..) => {}
            Op::TakeSnapshot(server) => self.ask(server, |ticket| Event::TakeSnapshot { ticket }),
            _ => unreachable!("not a request"),
        }
    }

    // --- everything --------------------------------------------------------------------------------------------------

    pub(crate) fn perform(&mut self, op: Op) {
        let cluster = &mut self.cluster;
        match op {
            Op::Pass(ms) => cluster.pass_ms(ms.into()),
            Op::TimeOut(server) => {
                if cluster.servers[&server].node.deadline().is_some() {
                    cluster.time_out(server);
                }
            }
            Op::Unreachable(server, peer) => cluster.step(server, Event::Unreachable(n(peer))),
            Op::Cut(server) => cluster.cut = vec![server],
            Op::Heal => cluster.cut.clear(),
            Op::SlowDisk(server) => cluster.slow_disks.push(server),
            Op::SyncOne(server) => cluster.sync_one(server),
            Op::FastDisks => cluster.hurry_disks(),
            Op::SlowMachine(server) => cluster.slow_machines.push(server),
            Op::FastMachines => {
                for server in core::mem::take(&mut cluster.slow_machines) {
                    cluster.report_applied(server);
                }
            }
            Op::SlowReads(server) => cluster.slow_reads.push(server),
            Op::FastReads => {
                for server in core::mem::take(&mut cluster.slow_reads) {
                    cluster.answer_reads(server);
                }
            }
            Op::SlowChunks(server) => cluster.slow_chunks.push(server),
            Op::Chunk(server) => cluster.perform_chunk(server),
            Op::FailChunk(server) => {
                if !cluster.servers[&server].chunk_tasks.is_empty() {
                    cluster.fail_chunk(server, SnapshotError::Failed);
                }
            }
            Op::FastChunks => {
                for server in core::mem::take(&mut cluster.slow_chunks) {
                    cluster.perform_chunks(server);
                }
            }
            Op::SlowSnapshots(server) => cluster.slow_snapshots.push(server),
            Op::FailSnapshot(server) => {
                if cluster.servers[&server].taking.is_some() {
                    cluster.fail_snapshot(server, SnapshotError::Failed);
                }
            }
            Op::FastSnapshots => {
                for server in core::mem::take(&mut cluster.slow_snapshots) {
                    cluster.finish_snapshot(server);
                }
            }
            Op::Restart(server) => {
                // It applies from the beginning again, which is looked at again too.
                let seen = self.seen.entry(server).or_default();
                (seen.applied, seen.restored) = (0, cluster.servers[&server].restored.len());
                cluster.restart(server);
            }
            op @ (Op::Deliver(_)
            | Op::DeliverMany(_)
            | Op::Duplicate(_)
            | Op::Lose(_)
            | Op::Replay(_)
            | Op::Forge(..)
            | Op::Stray(..)) => self.traffic(&op),
            op => self.request(&op),
        }
        // What does not fit on the wire is lost.
        self.cluster.wire.truncate(WIRE_MAX);
        self.keep_marks();
        self.check();
    }

    pub(crate) fn check(&mut self) {
        for (name, server) in &self.cluster.servers {
            let status = server.node.status();
            let seen = self.seen.entry(*name).or_default();
            for response in &server.responses[seen.responses..] {
                let tickets = match response {
                    Response::Write { tickets, .. } | Response::Read { tickets, .. } => *tickets,
                    Response::Admin { ticket, .. } => Tickets::one(*ticket),
                };
                for ticket in tickets.range() {
                    let waited = self.waiting.remove(&ticket).is_some();
                    assert!(waited || ticket < 1_000_000, "{ticket}: one outcome each, {response:?}");
                    if let Response::Write { outcome, .. } = response {
                        let outcome = shifted(outcome, ticket - tickets.first.get());
                        self.answered.insert(ticket, outcome);
                    }
                    self.reads.remove(&ticket);
                    let Response::Admin { outcome: AdminOutcome::Transferred { to }, .. } = response else {
                        continue;
                    };
                    assert_ne!(to.get(), *name);
                }
            }
            seen.responses = server.responses.len();
            if server.restored.len() > seen.restored {
                (seen.restored, seen.applied) = (server.restored.len(), 0);
            }
            if self.honest {
                assert_eq!(status.counters.violations, 0, "{name}: {:?}", server.notices);
                if status.role == RoleKind::Leader {
                    let leader = *self.leaders.entry(status.term.get()).or_insert(*name);
                    assert_eq!(leader, *name, "two leaders in term {} (Election Safety, §5.2)", status.term);
                }
                self.committed = self.committed.max(status.commit.get());
                let at = status.membership_index;
                if at <= status.commit && at.get() > self.configuration.0 {
                    self.configuration = (at.get(), Arc::clone(server.node.membership()));
                }
                for (at, command) in &server.applied[seen.applied..] {
                    let expected = self.applied.entry(at.index.get()).or_insert((*at, command.clone()));
                    assert_eq!(*expected, (*at, command.clone()), "State Machine Safety (§5.4.3)");
                }
            }
            seen.applied = server.applied.len();
            for (tickets, after) in server.served.iter().zip(&server.served_after).skip(seen.served) {
                for ticket in tickets.range() {
                    assert!(self.waiting.remove(&ticket).is_some(), "a read is answered once");
                    let asked = self.reads.remove(&ticket).expect("a read is answered once");
                    let fresh = !self.honest || after.get() >= asked;
                    assert!(fresh, "a read at {after} misses what was committed at {asked}");
                }
            }
            seen.served = server.served.len();
        }
    }

    /// No node has grown beyond what its limits allow.
    pub(crate) fn check_size(&self) {
        for (name, server) in &self.cluster.servers {
            let text = serde_json::to_string(&server.node).expect("a node can be written");
            assert!(text.len() < NODE_BYTES_MAX, "{name}: {} bytes: {text}", text.len());
        }
    }
}

/// The outcome of one proposal of a range.
fn shifted(outcome: &WriteOutcome, at: u64) -> WriteOutcome {
    match outcome.clone() {
        WriteOutcome::Committed { first, applied_here } => {
            let first = LogId::new(first.term, first.index.plus(at));
            WriteOutcome::Committed { first, applied_here }
        }
        other => other,
    }
}
