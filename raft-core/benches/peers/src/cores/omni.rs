//! OmniPaxos with its own log in memory. It batches a window: proposals of less than a batch would wait for a tick.

use std::hint::black_box;

use bytes::{Bytes, BytesMut};
use omnipaxos::messages::Message;
use omnipaxos::storage::{Entry, NoSnapshot};
use omnipaxos::util::LogEntry;
use omnipaxos::{ClusterConfig, OmniPaxos, OmniPaxosConfig, ServerConfig};
use omnipaxos_storage::memory_storage::MemoryStorage;

use crate::cores::{COMMAND_BYTES, Library};

#[derive(Clone, Debug)]
struct Command(Bytes);

impl Entry for Command {
    type Snapshot = NoSnapshot;
}

type Node = OmniPaxos<Command, MemoryStorage<Command>>;

pub(crate) struct Cluster {
    nodes: Vec<Node>,
    /// How many entries each has handed out.
    handed_out: Vec<usize>,
    leader: usize,
    wire: Vec<Message<Command>>,
    payload: Vec<u8>,
    handed_out_bytes: u64,
}

impl Cluster {
    fn hand_out(&mut self, at: usize) {
        let (node, handed_out) = (&self.nodes[at], &mut self.handed_out[at]);
        if node.get_decided_idx() <= *handed_out {
            return;
        }
        for entry in node.read_decided_suffix(*handed_out).into_iter().flatten() {
            if let LogEntry::Decided(command) = entry {
                self.handed_out_bytes += black_box(command.0).len() as u64;
            }
        }
        *handed_out = node.get_decided_idx();
    }

    fn run(&mut self) {
        loop {
            let mut wire = std::mem::take(&mut self.wire);
            for node in &mut self.nodes {
                node.take_outgoing_messages(&mut wire);
            }
            if wire.is_empty() {
                self.wire = wire;
                break;
            }
            for message in wire.drain(..) {
                let to = usize::try_from(message.get_receiver()).expect("a small id") - 1;
                self.nodes[to].handle_incoming(message);
            }
            self.wire = wire;
            (0..self.nodes.len()).for_each(|at| self.hand_out(at));
        }
    }
}

impl Library for Cluster {
    fn new(nodes: u64, window: usize) -> Self {
        let ids: Vec<u64> = (1..=nodes).collect();
        let node = |id: &u64| {
            let cluster_config =
                ClusterConfig { configuration_id: 1, nodes: ids.clone(), ..ClusterConfig::default() };
            let server_config = ServerConfig {
                pid: *id,
                batch_size: window,
                leader_priority: u32::from(*id == 1),
                ..ServerConfig::default()
            };
            let config = OmniPaxosConfig { cluster_config, server_config };
            config.build(MemoryStorage::default()).expect("a sound configuration")
        };
        let mut cluster = Self {
            nodes: ids.iter().map(node).collect(),
            handed_out: vec![0; ids.len()],
            leader: 0,
            wire: Vec::new(),
            payload: vec![b'x'; COMMAND_BYTES],
            handed_out_bytes: 0,
        };
        for _ in 0..1_000 {
            cluster.nodes.iter_mut().for_each(Node::tick);
            cluster.run();
            if let Some((leader, true)) = cluster.nodes[0].get_current_leader() {
                cluster.leader = usize::try_from(leader).expect("a small id") - 1;
                return cluster;
            }
        }
        panic!("nobody was elected");
    }

    fn commit(&mut self, window: usize) {
        let mut buffer = BytesMut::with_capacity(window * COMMAND_BYTES);
        for _ in 0..window {
            buffer.extend_from_slice(&self.payload);
        }
        let mut buffer = buffer.freeze();
        for _ in 0..window {
            let command = Command(buffer.split_to(COMMAND_BYTES));
            self.nodes[self.leader].append(command).expect("a leader takes proposals");
        }
        self.run();
    }

    fn handed_out_bytes(&self) -> u64 {
        self.handed_out_bytes
    }
}
