//! A cluster of nodes on one thread: messages by function call, log in memory, durability reported for every write,
//! commands committed and handed to every node's state machine. What the hot path is measured with, alone and beside
//! other libraries.

use std::collections::{BTreeMap, VecDeque};
use std::hint::black_box;

use bytes::Bytes;
use raft_core::{
    Action, CommandPacker, Config, EntryRef, Event, Instant, LogId, LogRecovery, LogTask, MachineTask,
    Message, Node, NodeId, Recovery, RoleKind, Ticket,
};

pub(crate) const COMMAND_BYTES: usize = 256;
const DUTIES: &str = "the bench keeps a driver's duties";

/// See above.
pub(crate) struct Cluster {
    nodes: Vec<Node>,
    wire: VecDeque<Message>,
    packer: CommandPacker,
    payload: Vec<u8>,
    ticket: u64,
    now: Instant,
    applied_bytes: u64,
}

impl Cluster {
    /// A cluster with a leader, the first of its nodes.
    pub(crate) fn new(size: u64) -> Self {
        let now = Instant::ZERO;
        let members: BTreeMap<NodeId, Bytes> = (1..=size).map(|id| (NodeId::new(id), Bytes::new())).collect();
        let mut cluster = Self {
            nodes: Vec::new(),
            wire: VecDeque::new(),
            packer: CommandPacker::default(),
            payload: vec![b'x'; COMMAND_BYTES],
            ticket: 0,
            now,
            applied_bytes: 0,
        };
        for id in members.keys() {
            let recovery = Recovery {
                log: LogRecovery::default(),
                snapshot: None,
                applied: LogId::ZERO,
                incarnation: 1,
            };
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

    /// Takes in an event and does what comes of it. What is done at once is reported at once.
    fn step(&mut self, at: usize, event: Event) {
        let (node, now) = (&mut self.nodes[at], self.now);
        node.step(now, event).expect(DUTIES);
        loop {
            match node.poll_action() {
                Some(Action::Send(message)) => self.wire.push_back(message),
                Some(Action::Log(LogTask::Write(write))) => {
                    black_box(&write.entries);
                    node.step(now, Event::Persisted(write.id)).expect(DUTIES);
                }
                Some(Action::Machine(MachineTask::Apply(entries))) => {
                    for entry in entries.iter() {
                        if let EntryRef::Command(_, command) = entry {
                            self.applied_bytes += black_box(&*command).len() as u64;
                        }
                    }
                    if let Some(last) = entries.last() {
                        node.step(now, Event::Applied(last.index)).expect(DUTIES);
                    }
                }
                Some(other) => drop(black_box(other)),
                None => return,
            }
        }
    }

    fn run(&mut self) {
        while let Some(message) = self.wire.pop_front() {
            let to = usize::try_from(message.to.get()).expect("a small id") - 1;
            self.step(to, Event::Receive(message));
        }
    }

    /// Commits `window` commands that are outstanding together.
    pub(crate) fn commit(&mut self, window: usize) {
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

    /// Bytes of commands that were handed to state machines, all nodes together.
    pub(crate) fn applied_bytes(&self) -> u64 {
        self.applied_bytes
    }

    pub(crate) fn commit_entries(&mut self, entries: usize, window: usize) {
        for _ in 0..entries / window {
            self.commit(window);
        }
        let status = self.nodes[0].status();
        assert_eq!(status.commit, status.last.index, "everything is committed");
    }
}
