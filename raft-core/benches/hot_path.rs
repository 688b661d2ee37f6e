//! The core's hot path: one thread, messages by function call, log in memory, durability reported for every
//! write, 256-byte commands committed and handed to every node's state machine.
//!
//! `cargo bench -p raft-core` prints a table: nanoseconds (median of rounds taken in turn, and their spread) and
//! allocations per entry. Allocations are exact; times compare only within one run. `-- count 64` runs one
//! configuration once and nothing else, for `valgrind --tool=callgrind`.

use std::collections::{BTreeMap, VecDeque};
use std::hint::black_box;

use bytes::Bytes;
use raft_core::{
    Action, CommandPacker, Config, Event, Instant, LogId, LogRecovery, LogTask, MachineTask, Message, Node,
    NodeId, Recovery, RoleKind, Ticket,
};

const COMMAND_BYTES: usize = 256;
const ROUNDS: usize = 9;
const WINDOWS: [usize; 3] = [1, 64, 1024];
const ENTRIES_A_ROUND: usize = 1 << 16;

struct Cluster {
    nodes: Vec<Node>,
    wire: VecDeque<Message>,
    done: VecDeque<Event>,
    packer: CommandPacker,
    payload: Vec<u8>,
    ticket: u64,
    now: Instant,
    applied_bytes: u64,
}

impl Cluster {
    /// A cluster with a leader, the first of its nodes.
    fn new(size: u64) -> Self {
        let now = Instant::ZERO;
        let members: BTreeMap<NodeId, Bytes> = (1..=size).map(|id| (NodeId::new(id), Bytes::new())).collect();
        let mut cluster = Self {
            nodes: Vec::new(),
            wire: VecDeque::new(),
            done: VecDeque::new(),
            packer: CommandPacker::default(),
            payload: vec![b'x'; COMMAND_BYTES],
            ticket: 0,
            now,
            applied_bytes: 0,
        };
        for id in members.keys() {
            let recovery = Recovery { log: LogRecovery::default(), applied: LogId::ZERO, incarnation: 1 };
            let node = Node::start(Config::new(*id), recovery, now).expect("a pristine node starts");
            cluster.nodes.push(node);
        }
        for at in 0..cluster.nodes.len() {
            cluster.step(at, Event::Bootstrap { ticket: Ticket::new(0), members: members.clone() });
        }
        cluster.step(0, Event::Campaign { ticket: Ticket::new(0) });
        cluster.run();
        assert_eq!(cluster.nodes[0].role(), RoleKind::Leader);
        cluster
    }

    fn step(&mut self, at: usize, event: Event) {
        let now = self.now;
        self.nodes[at].step(now, event).expect("the bench keeps a driver's duties");
        loop {
            while let Some(action) = self.nodes[at].poll_action() {
                match action {
                    Action::Send(message) => self.wire.push_back(message),
                    Action::Log(LogTask::Write(write)) => {
                        black_box(&write.entries);
                        self.done.push_back(Event::Persisted(write.id));
                    }
                    Action::Machine(MachineTask::Apply(entries)) => {
                        for entry in entries.iter() {
                            if let raft_core::EntryRef::Command(_, command) = entry {
                                self.applied_bytes += black_box(&*command).len() as u64;
                            }
                        }
                        let last = entries.last().expect("an apply is not empty");
                        self.done.push_back(Event::Applied(last.index));
                    }
                    other => drop(black_box(other)),
                }
            }
            let Some(event) = self.done.pop_front() else { return };
            self.nodes[at].step(now, event).expect("the bench keeps a driver's duties");
        }
    }

    fn run(&mut self) {
        while let Some(message) = self.wire.pop_front() {
            let to = usize::try_from(message.to.get()).expect("a small id") - 1;
            self.step(to, Event::Receive(message));
        }
    }

    /// Commits `window` commands that are outstanding together.
    fn commit(&mut self, window: usize) {
        self.packer.reserve(window, window * COMMAND_BYTES);
        for _ in 0..window {
            self.packer.push(&self.payload);
        }
        let commands = self.packer.finish();
        let first = Ticket::new(self.ticket);
        self.ticket += window as u64;
        self.step(0, Event::Propose { first, commands });
        self.run();
    }

    fn commit_entries(&mut self, entries: usize, window: usize) {
        for _ in 0..entries / window {
            self.commit(window);
        }
        let status = self.nodes[0].status();
        assert_eq!(status.commit, status.last.index, "everything is committed");
    }
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [mode, window] = args.as_slice()
        && mode == "count"
    {
        let window = window.parse().expect("a window size");
        Cluster::new(3).commit_entries(ENTRIES_A_ROUND, window);
        return;
    }
    println!("256-byte commands, durability gated, per entry; median of {ROUNDS} rounds (min to max)\n");
    println!("nodes  outstanding        ns/entry        allocations/entry");
    for size in [3, 5] {
        let mut clusters: Vec<Cluster> = WINDOWS.iter().map(|_| Cluster::new(size)).collect();
        let mut times: Vec<Vec<u128>> = WINDOWS.iter().map(|_| Vec::new()).collect();
        for _ in 0..ROUNDS {
            for ((window, cluster), times) in WINDOWS.iter().zip(&mut clusters).zip(&mut times) {
                let begin = std::time::Instant::now();
                cluster.commit_entries(ENTRIES_A_ROUND, *window);
                times.push(begin.elapsed().as_nanos() * 10 / ENTRIES_A_ROUND as u128);
            }
        }
        for ((window, cluster), times) in WINDOWS.iter().zip(&mut clusters).zip(&mut times) {
            times.sort_unstable();
            let allocations =
                allocation_counter::measure(|| cluster.commit_entries(ENTRIES_A_ROUND, *window));
            let tenth = |at: usize| times[at] as f64 / 10.0;
            println!(
                "{size:>5}  {window:>11}  {:>7.1} ({:.1} to {:.1})  {:>10.3}",
                tenth(ROUNDS / 2),
                tenth(0),
                tenth(ROUNDS - 1),
                allocations.count_total as f64 / ENTRIES_A_ROUND as f64,
            );
        }
    }
}
