//! What a node allocates: a handful per block and message in steady state, nothing per entry, and little while idle.
//!
//! Only what happens inside the node is counted, not what its driver does with the actions. The counts repeat exactly.

use std::collections::{BTreeMap, VecDeque};

use allocation_counter::measure;
use bytes::Bytes;
use raft_core::{
    Action, Body, CommandPacker, Commands, Config, Entries, Event, HardState, Instant, LogId, LogIndex,
    LogRecovery, LogTask, MachineTask, Membership, Message, Node, NodeId, ReadConsistency, Recovery,
    RoleKind, Term, TermRun, Ticket, Tickets,
};

const BLOCK_COMMANDS: usize = 64;

fn members(count: u64) -> BTreeMap<NodeId, Bytes> {
    let address = |id: u64| Bytes::from(format!("server{id}.example.com:7000"));
    (1..=count).map(|id| (NodeId::new(id), address(id))).collect()
}

fn pristine() -> Recovery {
    Recovery { log: LogRecovery::default(), snapshot: None, applied: LogId::ZERO, incarnation: 1 }
}

/// A cluster whose disks and machines are done at once. Counts what its nodes allocate.
struct Cluster {
    nodes: Vec<Node>,
    wire: VecDeque<Message>,
    reports: VecDeque<Event>,
    allocations: u64,
    messages: u64,
    ticket: u64,
}

impl Cluster {
    fn new(size: u64) -> Self {
        let start =
            |id| Node::start(Config::new(id), pristine(), Instant::ZERO).expect("a pristine node starts");
        let nodes = members(size).into_keys().map(start).collect();
        let mut cluster = Self {
            nodes,
            wire: VecDeque::new(),
            reports: VecDeque::new(),
            allocations: 0,
            messages: 0,
            ticket: 1,
        };
        for at in 0..cluster.nodes.len() {
            cluster.step(at, Event::Bootstrap { ticket: Ticket::new(0), members: members(size) });
        }
        cluster.step(0, Event::Campaign { ticket: Ticket::new(0) });
        cluster.settle();
        assert_eq!(cluster.nodes[0].role(), RoleKind::Leader);
        cluster
    }

    fn step(&mut self, at: usize, event: Event) {
        self.reports.push_back(event);
        while let Some(event) = self.reports.pop_front() {
            let node = &mut self.nodes[at];
            let took = measure(|| node.step(Instant::ZERO, event).expect("a driver that keeps its duties"));
            self.allocations += took.count_total;
            loop {
                let mut action = None;
                self.allocations += measure(|| action = self.nodes[at].poll_action()).count_total;
                let Some(action) = action else { break };
                self.perform(action);
            }
        }
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::Send(message) => {
                self.messages += 1;
                self.wire.push_back(message);
            }
            Action::Log(LogTask::Write(write)) => self.reports.push_back(Event::Persisted(write.id)),
            Action::Machine(MachineTask::Apply(entries)) => {
                let last = entries.last().expect("an apply is not empty");
                self.reports.push_back(Event::Applied(last.index));
            }
            _ => {}
        }
    }

    fn settle(&mut self) {
        while let Some(message) = self.wire.pop_front() {
            let to = usize::try_from(message.to.get()).expect("a small id") - 1;
            self.step(to, Event::Receive(message));
        }
    }

    /// Commits commands that are proposed as one block, on every node. Returns the allocations and messages that took.
    fn commit(&mut self, commands: Commands) -> (u64, u64) {
        let before = (self.allocations, self.messages);
        let count = commands.len() as u64;
        let first = Ticket::new(self.ticket);
        self.ticket += count;
        self.step(0, Event::Propose { first, commands });
        self.settle();
        let status = self.nodes[0].status();
        assert_eq!(status.applied, status.last.index, "all of it is committed and applied");
        (self.allocations - before.0, self.messages - before.1)
    }

    fn commit_many(&mut self, batches: u64, commands: usize) -> (u64, u64) {
        let costs = (0..batches).map(|_| self.commit(pack(commands))).collect::<Vec<_>>();
        costs.into_iter().fold((0, 0), |sum, cost| (sum.0 + cost.0, sum.1 + cost.1))
    }
}

/// Commands of 64 bytes, which `BLOCK_COMMANDS` of fit into one block.
fn pack(count: usize) -> Commands {
    let mut packer = CommandPacker::default();
    packer.reserve(count, count * 64);
    (0..count).for_each(|n| packer.push(&[u8::try_from(n % 256).expect("below 256"); 64]));
    packer.finish()
}

#[test]
fn a_committed_batch_costs_a_handful_of_allocations_whatever_it_holds() {
    const BATCHES: u64 = 1000;
    let cost = |commands| {
        let mut cluster = Cluster::new(3);
        cluster.commit_many(BATCHES, commands); // buffers grow to their size
        cluster.commit_many(BATCHES, commands)
    };
    let (single, messages) = cost(1);
    let (block, block_messages) = cost(BLOCK_COMMANDS);
    assert_eq!(messages, block_messages, "both are one block, and travel alike");
    // One command alone is a buffer that becomes shared only when it is cloned first.
    assert!(
        block <= single,
        "nothing is allocated per entry: {block} for blocks, {single} for single commands"
    );
    // Three nodes, two of them with a message each way: what they take in, write, say and apply.
    let per_batch = single as f64 / BATCHES as f64;
    assert!(per_batch <= 6.0, "{per_batch} allocations a batch, in {} messages", messages / BATCHES);
    println!("{per_batch} allocations a batch, in {} messages", messages as f64 / BATCHES as f64);
}

#[test]
fn a_larger_batch_costs_by_its_blocks_and_messages() {
    const BATCHES: u64 = 50;
    const COMMANDS: usize = 100 * BLOCK_COMMANDS;
    let mut cluster = Cluster::new(3);
    cluster.commit_many(BATCHES, COMMANDS);
    let (allocations, messages) = cluster.commit_many(BATCHES, COMMANDS);
    let blocks = BATCHES * pack(COMMANDS).size_bytes().div_ceil(4096);
    println!("{allocations} allocations, {messages} messages, at least {blocks} blocks");
    assert!(
        allocations <= 4 * messages + 3 * blocks,
        "{allocations} for {messages} messages and {blocks} blocks"
    );
    assert!(allocations < BATCHES * COMMANDS as u64 / 20, "far fewer than entries");
}

#[test]
fn heartbeats_and_reads_cost_no_more_than_their_messages() {
    let mut cluster = Cluster::new(3);
    cluster.commit_many(100, 1);
    let read = |cluster: &mut Cluster, ticket| {
        let tickets = Tickets::one(Ticket::new(ticket));
        cluster.step(0, Event::Read { tickets, consistency: ReadConsistency::Linearizable });
        cluster.settle();
    };
    (0..100).for_each(|n| read(&mut cluster, 1 << 40 | n));
    let before = (cluster.allocations, cluster.messages);
    (0..100).for_each(|n| read(&mut cluster, 1 << 41 | n));
    let (allocations, messages) = (cluster.allocations - before.0, cluster.messages - before.1);
    println!("{allocations} allocations, {messages} messages");
    assert_eq!(messages, 400, "a round each: two messages out, two back");
    assert!(allocations <= messages, "{allocations} allocations for {messages} messages");
}

// --- memory at rest ----------------------------------------------------------------------------------------------

const IDLE_BYTES_MAX: u64 = 4096;
const TERMS: u64 = 16;

/// The bytes of a node, the heap that it holds included.
fn footprint(make: impl FnOnce() -> Node) -> (Node, u64) {
    let mut node = None;
    let heap = measure(|| node = Some(make())).bytes_current;
    let bytes = u64::try_from(heap).expect("it holds more than it was given") + size_of::<Node>() as u64;
    (node.expect("it was made"), bytes)
}

/// What a disk gives back after sixteen leaderships of ten entries each in a cluster of seven.
fn recovery() -> Recovery {
    let membership = Membership::of_voters(members(7));
    let runs = (0..TERMS).map(|n| TermRun { term: Term::new(n + 1), first: LogIndex::new(10 * n + 1) });
    let last = LogId::new(Term::new(TERMS), LogIndex::new(10 * TERMS));
    Recovery {
        log: LogRecovery {
            hard_state: HardState { term: last.term, voted_for: None },
            base: LogId::ZERO,
            last,
            terms: runs.collect(),
            memberships: vec![(LogIndex::FIRST, membership.into())],
        },
        snapshot: None,
        applied: last, // by a machine that keeps its state itself
        incarnation: 1,
    }
}

fn heartbeat(term: u64, prev: LogId, entries: Entries, commit: LogIndex, round: u64) -> Event {
    let (from, to) = (NodeId::new(2), NodeId::new(1));
    let body = Body::AppendEntries { prev, entries, commit, round };
    Event::Receive(Message { from, to, term: Term::new(term), body })
}

/// Does everything at once that a node wants done, and drops what it says.
fn drain(node: &mut Node) {
    while let Some(action) = node.poll_action() {
        let report = match action {
            Action::Log(LogTask::Write(write)) => Some(Event::Persisted(write.id)),
            Action::Machine(MachineTask::Apply(entries)) => {
                entries.last().map(|last| Event::Applied(last.index))
            }
            _ => None,
        };
        report
            .into_iter()
            .for_each(|event| node.step(Instant::ZERO, event).expect("a driver that keeps its duties"));
    }
}

#[test]
fn an_idle_follower_fits_into_four_kibibytes() {
    let (node, bytes) = footprint(|| {
        let mut node =
            Node::start(Config::new(NodeId::new(1)), recovery(), Instant::ZERO).expect("it starts");
        // It helped to elect its leader, so that queues were used that it needs no more.
        let prev = LogId::new(Term::new(TERMS), LogIndex::new(10 * TERMS));
        let (from, to, term) = (NodeId::new(2), NodeId::new(1), Term::new(TERMS + 1));
        for body in
            [Body::PreVote { proposed: term, last: prev }, Body::RequestVote { last: prev, transfer: false }]
        {
            let term = if matches!(body, Body::PreVote { .. }) { prev.term } else { term };
            let asked = Event::Receive(Message { from, to, term, body });
            node.step(Instant::ZERO, asked).expect("a peer makes nothing fatal");
            drain(&mut node);
        }
        for round in 1..=1000 {
            let event = heartbeat(TERMS + 1, prev, Entries::empty(), prev.index, round);
            node.step(Instant::ZERO, event).expect("a peer makes nothing fatal");
            drain(&mut node);
        }
        node
    });
    let status = node.status();
    assert_eq!((status.leader, status.voted_for), (Some(NodeId::new(2)), Some(NodeId::new(2))));
    assert_eq!(status.durable, LogIndex::new(10 * TERMS));
    println!("{bytes} bytes, {} of them inline", size_of::<Node>());
    assert!(
        bytes <= IDLE_BYTES_MAX,
        "an idle follower of seven members and {TERMS} terms takes {bytes} bytes"
    );
}

#[test]
fn a_follower_that_was_busy_goes_back_to_its_tail_and_four_kibibytes() {
    let config = Config { tail_bytes_max: 16 * 1024, ..Config::new(NodeId::new(1)) };
    let mut tail_bytes = 0;
    let (node, bytes) = footprint(|| {
        let mut node = Node::start(config.clone(), pristine(), Instant::ZERO).expect("it starts");
        let bootstrap = Event::Bootstrap { ticket: Ticket::new(1), members: members(7) };
        node.step(Instant::ZERO, bootstrap).expect("a driver that keeps its duties");
        drain(&mut node);
        let mut last = LogId::new(Term::BOOTSTRAP, LogIndex::FIRST);
        let mut written: Vec<u64> = Vec::new();
        for term in 2..=TERMS {
            for round in 1..=50 {
                let first = LogId::new(Term::new(term), last.index.next());
                let entries = Entries::commands(first, &pack(BLOCK_COMMANDS));
                written.push(entries.size_bytes());
                let event = heartbeat(term, last, entries.clone(), last.index, round);
                last = entries.last().expect("a block is not empty");
                node.step(Instant::ZERO, event).expect("a peer makes nothing fatal");
                drain(&mut node);
            }
            let event = heartbeat(term, last, Entries::empty(), last.index, 51);
            node.step(Instant::ZERO, event).expect("a peer makes nothing fatal");
            drain(&mut node);
        }
        // The blocks of the tail are as large as they count, and each has a place in a list.
        let mut room = config.tail_bytes_max;
        while let Some(block) = written.pop().filter(|block| *block <= room) {
            room -= block;
            tail_bytes += block;
        }
        node
    });
    let status = node.status();
    assert_eq!((status.applied, status.term), (status.last.index, Term::new(TERMS)));
    println!("{bytes} bytes, {tail_bytes} of them counted as the tail");
    assert!(bytes <= IDLE_BYTES_MAX + tail_bytes, "{bytes} bytes, of which the tail may have {tail_bytes}");
}
