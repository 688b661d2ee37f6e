//! The canonical form: equal for states that behave alike, different for others, so that a state space closes.

#![cfg(feature = "serde")]
// Helpers of tests are tests too.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use raft_core::{
    Action, Body, Commands, Config, Event, Frame, Instant, LogId, LogIndex, LogRecovery, LogTask,
    MachineTask, Message, Node, NodeId, ReadConsistency, Recovery, RoleKind, Ticket, Tickets,
};

/// A cluster whose every freedom is in the hands of the test: when time passes for a node, when a message arrives, when
/// a write becomes durable.
#[derive(Clone)]
struct Cluster {
    nodes: Vec<Node>,
    wire: Vec<Message>,
    /// Reports of each node's disk and machine that have not arrived.
    reports: Vec<VecDeque<Event>>,
}

/// Times on a small grid: one heartbeat, two of them until an election, no jitter.
fn config(id: NodeId) -> Config {
    let tick = Duration::from_nanos(1);
    Config {
        heartbeat_interval: tick,
        election_timeout_min: tick * 2,
        election_timeout_max: tick * 3,
        catch_up_timeout: tick * 3,
        ..Config::new(id)
    }
}

impl Cluster {
    fn new(size: u64, epoch: u64, incarnation: u64) -> Self {
        let members: BTreeMap<NodeId, Bytes> = (1..=size).map(|id| (NodeId::new(id), Bytes::new())).collect();
        let recovery =
            || Recovery { log: LogRecovery::default(), snapshot: None, applied: LogId::ZERO, incarnation };
        let start = |id: &NodeId| Node::start(config(*id), recovery(), Instant::from_nanos(epoch)).unwrap();
        let nodes = members.keys().map(start).collect::<Vec<_>>();
        let mut cluster = Self { reports: vec![VecDeque::new(); nodes.len()], nodes, wire: Vec::new() };
        for at in 0..cluster.nodes.len() {
            cluster.step(at, Event::Bootstrap { ticket: Ticket::new(1), members: members.clone() });
            cluster.report_all(at);
        }
        cluster
    }

    fn step(&mut self, at: usize, event: Event) {
        self.step_at(at, Instant::ZERO, event);
    }

    /// A time in the past is no time that passes.
    fn step_at(&mut self, at: usize, now: Instant, event: Event) {
        self.nodes[at].step(now, event).unwrap();
        while let Some(action) = self.nodes[at].poll_action() {
            match action {
                Action::Send(message) => self.wire.push(message),
                Action::Log(LogTask::Write(write)) => self.reports[at].push_back(Event::Persisted(write.id)),
                Action::Machine(MachineTask::Apply(entries)) => {
                    self.reports[at].push_back(Event::Applied(entries.last().unwrap().index));
                }
                _ => {}
            }
        }
    }

    /// Time passes for this node until its deadline.
    fn fire(&mut self, at: usize) {
        let deadline = self.nodes[at].deadline().unwrap();
        self.step_at(at, deadline, Event::Wake);
    }

    fn report(&mut self, at: usize) -> bool {
        let Some(event) = self.reports[at].pop_front() else { return false };
        self.step(at, event);
        true
    }

    fn report_all(&mut self, at: usize) {
        while self.report(at) {}
    }

    fn deliver(&mut self, message: usize) {
        let message = self.wire.remove(message);
        let to = usize::try_from(message.to.get()).unwrap() - 1;
        self.step(to, Event::Receive(message));
    }

    /// Everything arrives.
    fn settle(&mut self) {
        loop {
            (0..self.nodes.len()).for_each(|at| self.report_all(at));
            if self.wire.is_empty() {
                return;
            }
            self.deliver(0);
        }
    }

    /// The canonical form of all of it. The order of messages on the wire does not matter.
    fn canonical(&self) -> Vec<u8> {
        let frame = Frame::new(&self.nodes, &self.wire);
        let mut out = Vec::new();
        for (node, reports) in self.nodes.iter().zip(&self.reports) {
            frame.node(node, &mut out);
            for report in reports {
                frame.report(node.status().id, report, &mut out);
            }
            out.push(0xff);
        }
        let mut messages = Vec::new();
        for message in &self.wire {
            let mut form = Vec::new();
            frame.message(message, &mut form);
            messages.push(form);
        }
        messages.sort_unstable();
        out.extend(messages.concat());
        out
    }

    fn elect(&mut self, at: usize) {
        self.step(at, Event::Campaign { ticket: Ticket::new(2) });
        self.settle();
        assert_eq!(self.nodes[at].role(), RoleKind::Leader);
    }

    fn propose(&mut self, at: usize, ticket: u64) {
        self.step(
            at,
            Event::Propose { first: Ticket::new(ticket), commands: Commands::one(Bytes::from_static(b"x")) },
        );
    }
}

#[test]
fn the_same_state_at_another_time_after_more_rounds_writes_and_reads_is_the_same() {
    let run = |epoch, incarnation, rounds| {
        let mut cluster = Cluster::new(3, epoch, incarnation);
        cluster.elect(0);
        for round in 0..rounds {
            cluster.fire(0);
            // One read more than the other run: rounds, questions and their ids go on.
            let tickets = Tickets::one(Ticket::new(1000 + round));
            let at = usize::try_from(round % 3).unwrap();
            cluster.step(at, Event::Read { tickets, consistency: ReadConsistency::Linearizable });
            cluster.settle();
        }
        for at in [1, 2] {
            // Their clocks went on as well.
            cluster.step_at(at, Instant::from_nanos(epoch + rounds), Event::Wake);
        }
        cluster.settle();
        cluster.fire(0);
        cluster.settle();
        cluster.propose(0, 5);
        cluster
    };
    let (short, long) = (run(0, 1, 6), run(1_000_000_007, 99, 60));
    let round = |cluster: &Cluster| match &cluster.wire[0].body {
        Body::AppendEntries { round, .. } => *round,
        _ => 0,
    };
    assert!(round(&long) > round(&short), "the detour was one");
    assert_eq!(short.canonical(), long.canonical());
    let json = |cluster: &Cluster| {
        cluster.nodes.iter().map(|node| serde_json::to_string(node).unwrap()).collect::<Vec<_>>()
    };
    assert_ne!(json(&short), json(&long), "without the canonical form they differ");
}

#[test]
fn a_message_that_says_nothing_new_leaves_a_leader_as_it_was() {
    let mut cluster = Cluster::new(3, 0, 1);
    cluster.elect(0);
    cluster.settle();
    // Its last words are two heartbeats, or these and that it hears the answer to an earlier leadership.
    cluster.fire(0);
    let before = cluster.canonical();
    let (from, to, term) = (NodeId::new(2), NodeId::new(1), cluster.nodes[0].status().term);
    let body = Body::AppendEntriesReply { result: Ok(LogIndex::ZERO), round: 0 };
    cluster.step(0, Event::Receive(Message { from, to, term, body }));
    assert_eq!(cluster.canonical(), before);
}

#[test]
fn what_behaves_differently_is_different() {
    let mut cluster = Cluster::new(3, 0, 1);
    cluster.elect(0);
    let mut forms = HashSet::new();
    let mut differs = |cluster: &Cluster, what| assert!(forms.insert(cluster.canonical()), "{what}");
    differs(&cluster, "a leader at rest");
    let mut other = cluster.clone();
    other.fire(0);
    differs(&other, "a heartbeat is on its way");
    other.deliver(0);
    differs(&other, "it arrived, and was answered");
    let mut other = cluster.clone();
    other.propose(0, 5);
    differs(&other, "an entry is on its way");
    let mut written = other.clone();
    written.report(0);
    differs(&written, "it is durable at the leader");
    other.deliver(0);
    differs(&other, "it arrived at one follower");
    let mut other = cluster.clone();
    other.propose(0, 6);
    differs(&other, "another ticket waits for it");
    let mut other = cluster.clone();
    other.step_at(1, Instant::from_nanos(1), Event::Wake);
    differs(&other, "time passed for a follower");
    let mut other = cluster.clone();
    let tickets = Tickets::one(Ticket::new(9));
    other.step(1, Event::Read { tickets, consistency: ReadConsistency::Linearizable });
    differs(&other, "a follower asks for a read");
    cluster.step(0, Event::TransferLeadership { ticket: Ticket::new(3), to: Some(NodeId::new(2)) });
    cluster.settle();
    assert_eq!(cluster.nodes[1].role(), RoleKind::Leader);
    differs(&cluster, "another leads");
}

/// Everything that can happen to two servers, as far as terms, logs and the wire are bounded: they elect leaders, depose
/// them, lose messages, and the disk answers whenever it likes.
#[test]
fn a_bounded_state_space_closes() {
    const TERM_MAX: u64 = 3;
    const WIRE_MAX: usize = 1;
    const STATES_MAX: usize = 200_000;
    let start = Cluster::new(2, 0, 1);
    let mut seen = HashSet::from([start.canonical()]);
    let mut open = VecDeque::from([start]);
    let mut leaders: BTreeMap<u64, HashSet<u64>> = BTreeMap::new();
    while let Some(cluster) = open.pop_front() {
        let mut next = Vec::new();
        let mut go = |change: &dyn Fn(&mut Cluster)| {
            let mut cluster = cluster.clone();
            change(&mut cluster);
            next.push(cluster);
        };
        for at in 0..2 {
            if cluster.nodes[at].deadline().is_some() {
                go(&|cluster| cluster.fire(at));
            }
            if !cluster.reports[at].is_empty() {
                go(&|cluster| assert!(cluster.report(at)));
            }
        }
        for at in 0..cluster.wire.len() {
            go(&|cluster| cluster.deliver(at));
            go(&|cluster| drop(cluster.wire.remove(at)));
        }
        for cluster in next {
            for node in &cluster.nodes {
                let status = node.status();
                if status.role == RoleKind::Leader {
                    let of_term = leaders.entry(status.term.get()).or_default();
                    of_term.insert(status.id.get());
                }
            }
            let both_lead = cluster.nodes.iter().all(|node| node.role() == RoleKind::Leader);
            let terms = cluster.nodes.iter().map(|node| node.status().term.get());
            assert!(
                !both_lead || terms.clone().min() < terms.clone().max(),
                "two leaders of one term (§5.2)"
            );
            let bounded = terms.max() <= Some(TERM_MAX) && cluster.wire.len() <= WIRE_MAX;
            if bounded && seen.insert(cluster.canonical()) {
                open.push_back(cluster);
            }
        }
        assert!(seen.len() < STATES_MAX, "it does not close");
    }
    assert!(seen.len() > 10_000, "something was explored");
    for term in 2..=TERM_MAX {
        assert_eq!(leaders[&term].len(), 2, "either may win term {term}, in one history or another");
    }
}
