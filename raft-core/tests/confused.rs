//! Random schedules: messages lost, duplicated, reordered, and replayed long after; disks, state machines and log
//! stores that take their time; crashes. And, apart, messages that nobody ever sent.
//!
//! * Whatever arrives, no node panics and none is fatal: the harness asserts that of every step.
//! * As long as every message was once sent, safety holds (Figure 3), answers are kept and reads see them; and once
//!   the network heals, one leader serves everybody.

mod support;

use std::collections::BTreeMap;

use proptest::prelude::*;
use raft_core::{
    Body, Conflict, Entries, Event, LogId, Message, NodeId, RoleKind, Term, Ticket, Tickets, WriteOutcome,
};
use support::{Cluster, at, commands, id, n};

const SERVERS: u64 = 3;
/// Messages that may be replayed.
const HISTORY_MAX: usize = 400;
const WIRE_MAX: usize = 200;
/// In place of a server: one that leads, if there is one.
const ANY_LEADER: u64 = 0;

#[derive(Clone, Copy, Debug)]
enum Op {
    /// The message at this place of those that wait arrives.
    Deliver(usize),
    DeliverMany(u8),
    Duplicate(usize),
    Lose(usize),
    /// A message of any time before arrives once more.
    Replay(usize),
    /// A message of any time before arrives, changed.
    Forge(usize, u8, u64),
    Pass(u16),
    TimeOut(u64),
    Propose(u64, u8),
    Read(u64),
    Campaign(u64),
    Unreachable(u64, u64),
    Forget(u64, u64),
    Cut(u64),
    Heal,
    SlowDisk(u64),
    SyncOne(u64),
    FastDisks,
    SlowMachine(u64),
    FastMachines,
    SlowReads(u64),
    FastReads,
    Restart(u64),
}

fn op() -> impl Strategy<Value = Op> {
    let server = || 1..=SERVERS;
    let client = || prop_oneof![2 => Just(ANY_LEADER), 1 => server()];
    let place = any::<u16>().prop_map(usize::from);
    prop_oneof![
        20 => place.clone().prop_map(Op::Deliver),
        20 => (1u8..40).prop_map(Op::DeliverMany),
        4 => place.clone().prop_map(Op::Duplicate),
        4 => place.clone().prop_map(Op::Lose),
        6 => place.prop_map(Op::Replay),
        4 => (0u16..500).prop_map(Op::Pass),
        10 => server().prop_map(Op::TimeOut),
        8 => (client(), 1u8..4).prop_map(|(server, count)| Op::Propose(server, count)),
        4 => client().prop_map(Op::Read),
        2 => server().prop_map(Op::Campaign),
        2 => (server(), server()).prop_map(|(server, peer)| Op::Unreachable(server, peer)),
        1 => (server(), 1u64..40).prop_map(|(server, ticket)| Op::Forget(server, ticket)),
        2 => server().prop_map(Op::Cut),
        3 => Just(Op::Heal),
        2 => server().prop_map(Op::SlowDisk),
        4 => server().prop_map(Op::SyncOne),
        2 => Just(Op::FastDisks),
        1 => server().prop_map(Op::SlowMachine),
        1 => Just(Op::FastMachines),
        1 => server().prop_map(Op::SlowReads),
        1 => Just(Op::FastReads),
        2 => server().prop_map(Op::Restart),
    ]
}

fn op_or_forgery() -> impl Strategy<Value = Op> {
    let forged = (any::<u16>(), any::<u8>(), any::<u64>());
    prop_oneof![3 => op(), 1 => forged.prop_map(|(at, how, by)| Op::Forge(at.into(), how, by))]
}

/// A message that nobody sent, but for one field or two.
fn forge(message: &Message, how: u8, by: u64) -> Message {
    let mut forged = message.clone();
    // Small numbers are the confusing ones: they look like the truth.
    let near = |value: u64| match by % 9 {
        0 => by,
        1 => 0,
        2 => 1 << 62,
        near => (value + (by / 9) % 4).saturating_sub(near % 4),
    };
    let near_id = |found: LogId| id(near(found.term.get()), near(found.index.get()));
    match how % 8 {
        0 => forged.term = Term::new(near(message.term.get())),
        1 => core::mem::swap(&mut forged.from, &mut forged.to),
        2 => forged.from = NodeId::new(by % (SERVERS + 3)),
        3 => forged.to = NodeId::new(by % (SERVERS + 1)),
        _ => {}
    }
    match (&mut forged.body, how / 8 % 8) {
        (Body::RequestVote { last } | Body::PreVote { last, .. }, 0..=2) => *last = near_id(*last),
        (Body::PreVote { proposed, .. } | Body::PreVoteReply { proposed, .. }, 3) => {
            *proposed = Term::new(near(proposed.get()));
        }
        (Body::RequestVoteReply { granted } | Body::PreVoteReply { granted, .. }, 4..=7) => {
            *granted = !*granted;
        }
        (Body::AppendEntries { prev, .. }, 0) => *prev = near_id(*prev),
        (Body::AppendEntries { commit, .. }, 1) => *commit = at(near(commit.get())),
        (Body::AppendEntries { round, .. }, 2) => *round = near(*round),
        (Body::AppendEntries { entries, .. }, 3) => *entries = Entries::empty(),
        (Body::AppendEntries { prev, entries, .. }, 4 | 5) => {
            let first = id(near(message.term.get()).clamp(1, 1 << 62), prev.index.get() % (1 << 62) + 1);
            *entries = commands(first, &["forged", "too"]);
        }
        (Body::AppendEntries { prev, entries, .. }, 6) => {
            let first = id(near(prev.term.get()).max(1), prev.index.get() % (1 << 62) + 1);
            let alone = raft_core::Membership::of_voters(support::members([by % 5]));
            *entries = Entries::membership(first, std::sync::Arc::new(alone));
        }
        (Body::AppendEntriesReply { result, .. }, 0..=2) => {
            *result = match result {
                Ok(index) => Ok(at(near(index.get()))),
                Err(Conflict { prev, hint }) => {
                    Err(Conflict { prev: at(near(prev.get())), hint: near_id(*hint) })
                }
            }
        }
        (Body::AppendEntriesReply { result, .. }, 3) => {
            let conflict = Conflict { prev: at(near(3)), hint: near_id(id(1, 1)) };
            *result = if result.is_ok() { Err(conflict) } else { Ok(at(near(3))) };
        }
        (Body::AppendEntriesReply { round, .. }, 4..=7) => *round = near(*round),
        _ => {}
    }
    forged
}

/// A cluster under way, and what must never be contradicted.
struct Storm {
    cluster: Cluster,
    history: Vec<Message>,
    /// Whether every message that arrives was once sent.
    honest: bool,
    leaders: BTreeMap<u64, u64>,
    /// By index: what any server applied.
    applied: BTreeMap<u64, (LogId, Vec<u8>)>,
    /// By read: what was committed anywhere when it was asked.
    reads: BTreeMap<u64, u64>,
    committed: u64,
    /// Proposed commands, by ticket.
    proposed: BTreeMap<u64, String>,
    answered: BTreeMap<u64, WriteOutcome>,
    seen: BTreeMap<u64, Seen>,
}

/// How much of what came out of a server was looked at.
#[derive(Clone, Copy, Default)]
struct Seen {
    applied: usize,
    served: usize,
    responses: usize,
}

impl Storm {
    fn new(honest: bool, small: bool) -> Self {
        let mut cluster = Cluster::with(SERVERS, |config| {
            if small {
                config.tail_bytes_max = 100;
                config.append_bytes_max = 150;
                config.apply_bytes_max = 150;
                config.inflight_appends_max = 2;
                config.unpersisted_bytes_max = 600;
            }
        });
        cluster.bootstrap();
        Self {
            cluster,
            history: Vec::new(),
            honest,
            leaders: BTreeMap::new(),
            applied: BTreeMap::new(),
            reads: BTreeMap::new(),
            committed: 0,
            proposed: BTreeMap::new(),
            answered: BTreeMap::new(),
            seen: BTreeMap::new(),
        }
    }

    fn deliver(&mut self, message: Message) {
        if self.history.len() < HISTORY_MAX {
            self.history.push(message.clone());
        } else {
            let at = (message.to.get() as usize * 31 + self.cluster.wire.len() * 7) % HISTORY_MAX;
            self.history[at] = message.clone();
        }
        self.cluster.deliver(message);
    }

    fn at(&self, place: usize) -> usize {
        place % self.cluster.wire.len().max(1)
    }

    fn perform(&mut self, op: Op) {
        match op {
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
                    self.cluster.deliver(message);
                }
            }
            Op::Forge(place, how, by) => {
                if let Some(message) = self.history.get(place % self.history.len().max(1)) {
                    let forged = forge(message, how, by);
                    // Whatever it says about the receiver, it arrives where the original did, or where it says.
                    let to = if how % 16 == 3 { message.to.get() } else { forged.to.get() };
                    if self.cluster.servers.contains_key(&to) {
                        self.cluster.step(to, Event::Receive(forged));
                    }
                }
            }
            Op::Pass(ms) => self.cluster.pass_ms(ms.into()),
            Op::TimeOut(server) => {
                if self.cluster.servers[&server].node.deadline().is_some() {
                    self.cluster.time_out(server);
                }
            }
            Op::Propose(server, count) => self.propose(self.client(server), count),
            Op::Read(server) => {
                let server = self.client(server);
                let tickets = self.cluster.read(server);
                self.reads.insert(tickets.first.get(), self.committed);
            }
            Op::Campaign(server) => self.cluster.step(server, Event::Campaign { ticket: Ticket::new(0) }),
            Op::Unreachable(server, peer) => self.cluster.step(server, Event::Unreachable(n(peer))),
            Op::Forget(server, ticket) => {
                let tickets = Tickets::new(Ticket::new(ticket), 2);
                self.cluster.step(server, Event::Forget { tickets });
            }
            Op::Cut(server) => self.cluster.cut = vec![server],
            Op::Heal => self.cluster.cut.clear(),
            Op::SlowDisk(server) => {
                if !self.cluster.slow_disks.contains(&server) {
                    self.cluster.slow_disks.push(server);
                }
            }
            Op::SyncOne(server) => self.cluster.sync_one(server),
            Op::FastDisks => self.cluster.hurry_disks(),
            Op::SlowMachine(server) => self.cluster.slow_machines.push(server),
            Op::FastMachines => {
                for server in core::mem::take(&mut self.cluster.slow_machines) {
                    self.cluster.report_applied(server);
                }
            }
            Op::SlowReads(server) => self.cluster.slow_reads.push(server),
            Op::FastReads => {
                for server in core::mem::take(&mut self.cluster.slow_reads) {
                    self.cluster.answer_reads(server);
                }
            }
            Op::Restart(server) => {
                let now = self.cluster.now;
                self.cluster.server(server).restart(now);
                // It applies from the beginning again, which is looked at again too.
                self.seen.entry(server).or_default().applied = 0;
                self.cluster.poll(server);
            }
        }
        // What does not fit on the wire is lost.
        self.cluster.wire.truncate(WIRE_MAX);
        self.check();
    }

    fn client(&self, server: u64) -> u64 {
        if server != ANY_LEADER {
            return server;
        }
        (1..=SERVERS).find(|server| self.cluster.role(*server) == RoleKind::Leader).unwrap_or(1)
    }

    fn propose(&mut self, server: u64, count: u8) {
        let next = self.proposed.keys().last().map_or(0, |last| last + 1).max(1_000_000);
        let names: Vec<String> = (0..u64::from(count)).map(|at| format!("c{}", next + at)).collect();
        let first = Ticket::new(next);
        self.proposed.extend((next..).zip(names.clone()));
        self.cluster.step(server, Event::Propose { first, commands: names.iter().collect() });
    }

    fn check(&mut self) {
        for (name, server) in &self.cluster.servers {
            let status = server.node.status();
            let seen = self.seen.entry(*name).or_default();
            if !self.honest {
                continue;
            }
            assert_eq!(status.counters.violations, 0, "{name}: {:?}", server.notices);
            if status.role == RoleKind::Leader {
                let leader = *self.leaders.entry(status.term.get()).or_insert(*name);
                assert_eq!(leader, *name, "two leaders in term {} (Election Safety, §5.2)", status.term);
            }
            self.committed = self.committed.max(status.commit.get());
            for (at, command) in &server.applied[seen.applied..] {
                let expected = self.applied.entry(at.index.get()).or_insert((*at, command.clone()));
                assert_eq!(*expected, (*at, command.clone()), "State Machine Safety (§5.4.3)");
            }
            seen.applied = server.applied.len();
            for (tickets, after) in server.served.iter().zip(&server.served_after).skip(seen.served) {
                for ticket in tickets.iter() {
                    let asked = self.reads.remove(&ticket.get()).expect("a read is answered once");
                    assert!(after.get() >= asked, "a read at {after} misses what was committed at {asked}");
                }
            }
            seen.served = server.served.len();
            for (first, count, outcome) in server.write_outcomes().into_iter().skip(seen.responses) {
                for at in 0..u64::from(count) {
                    let outcome = match outcome.clone() {
                        WriteOutcome::Committed { first, applied_here } => {
                            let first = LogId::new(first.term, first.index.plus(at));
                            WriteOutcome::Committed { first, applied_here }
                        }
                        other => other,
                    };
                    assert_eq!(self.answered.insert(first + at, outcome), None, "one outcome each");
                }
            }
            seen.responses = server.write_outcomes().len();
        }
    }

    /// Everything works again: what then becomes of it all.
    fn calm(mut self) {
        self.perform(Op::Heal);
        self.perform(Op::FastDisks);
        self.perform(Op::FastMachines);
        self.perform(Op::FastReads);
        let agree = |cluster: &Cluster| {
            let led = (1..=SERVERS).any(|server| cluster.role(server) == RoleKind::Leader);
            // A commit index is forgotten by a restart: only logs that are equal and committed to their ends agree.
            let last = cluster.servers[&1].node.status().last;
            let done = cluster.servers.values().all(|server| {
                let status = server.node.status();
                (status.last, status.commit, status.applied) == (last, last.index, last.index)
            });
            led && done
        };
        for _ in 0..200 {
            if agree(&self.cluster) {
                break;
            }
            let due = |server: &u64| self.cluster.servers[server].node.deadline();
            let next = (1..=SERVERS).min_by_key(due).expect("somebody waits for something");
            self.cluster.time_out(next);
            self.cluster.settle();
            self.check();
        }
        assert!(agree(&self.cluster), "no leader brings everybody together");
        let logs: Vec<_> = self.cluster.servers.values().map(|server| &server.applied).collect();
        assert!(logs.iter().all(|log| *log == logs[0]));
        for (ticket, outcome) in &self.answered {
            let command = self.proposed[ticket].as_bytes();
            let found = logs[0].iter().filter(|(_, applied)| applied == command);
            let places: Vec<LogId> = found.map(|(at, _)| *at).collect();
            match outcome {
                WriteOutcome::Committed { first, .. } => assert_eq!(places, [*first], "an answer is kept"),
                WriteOutcome::Unknown => {}
                _ => assert_eq!(places, [], "{ticket} ended as {outcome:?}"),
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn late_lost_doubled_and_disordered_messages_break_nothing(
        small in any::<bool>(),
        ops in proptest::collection::vec(op(), 50..400),
    ) {
        let mut storm = Storm::new(true, small);
        ops.into_iter().for_each(|op| storm.perform(op));
        storm.calm();
    }

    #[test]
    fn messages_that_nobody_sent_neither_panic_nor_stop_a_node(
        small in any::<bool>(),
        ops in proptest::collection::vec(op_or_forgery(), 50..400),
    ) {
        let mut storm = Storm::new(false, small);
        ops.into_iter().for_each(|op| storm.perform(op));
    }
}
