//! raft (TiKV's), with its own log in memory: a `Ready` for each window and each message.

use std::collections::VecDeque;
use std::hint::black_box;

use raft::prelude::{ConfState, Entry, EntryType, Message};
use raft::storage::MemStorage;
use raft::{Config, RawNode, StateRole};

use crate::cores::{COMMAND_BYTES, Library};

pub(crate) struct Cluster {
    nodes: Vec<RawNode<MemStorage>>,
    wire: VecDeque<Message>,
    payload: Vec<u8>,
    handed_out_bytes: u64,
}

impl Cluster {
    fn hand_out(&mut self, entries: &[Entry]) {
        for entry in entries.iter().filter(|entry| entry.get_entry_type() == EntryType::EntryNormal) {
            self.handed_out_bytes += black_box(&entry.data).len() as u64;
        }
    }

    /// Does what a node wants after it took something in.
    fn act(&mut self, at: usize) {
        while self.nodes[at].has_ready() {
            let node = &mut self.nodes[at];
            let store = node.raft.raft_log.store.clone();
            let mut ready = node.ready();
            self.wire.extend(ready.take_messages());
            let committed = ready.take_committed_entries();
            self.hand_out(&committed);
            if !ready.entries().is_empty() {
                store.wl().append(ready.entries()).expect("the entries follow the log");
            }
            if let Some(hard_state) = ready.hs() {
                store.wl().set_hardstate(hard_state.clone());
            }
            self.wire.extend(ready.take_persisted_messages());
            let mut light = self.nodes[at].advance(ready);
            if let Some(commit) = light.commit_index() {
                store.wl().mut_hard_state().commit = commit;
            }
            self.wire.extend(light.take_messages());
            let committed = light.take_committed_entries();
            self.hand_out(&committed);
            self.nodes[at].advance_apply();
        }
    }

    fn run(&mut self) {
        while let Some(message) = self.wire.pop_front() {
            let at = usize::try_from(message.to).expect("a small id") - 1;
            self.nodes[at].step(message).expect("a sound message");
            self.act(at);
        }
    }
}

impl Library for Cluster {
    fn new(nodes: u64, _window: usize) -> Self {
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let voters: Vec<u64> = (1..=nodes).collect();
        let node = |id: &u64| {
            let config = Config {
                max_size_per_msg: 1 << 20,
                max_inflight_msgs: 4096,
                // Without it each proposal is a message to each follower.
                batch_append: true,
                ..Config::new(*id)
            };
            let store = MemStorage::new_with_conf_state(ConfState::from((voters.clone(), Vec::new())));
            RawNode::new(&config, store, &logger).expect("a sound configuration")
        };
        let mut cluster = Self {
            nodes: voters.iter().map(node).collect(),
            wire: VecDeque::new(),
            payload: vec![b'x'; COMMAND_BYTES],
            handed_out_bytes: 0,
        };
        cluster.nodes[0].campaign().expect("a voter campaigns");
        cluster.act(0);
        cluster.run();
        assert_eq!(cluster.nodes[0].raft.state, StateRole::Leader);
        cluster
    }

    fn commit(&mut self, window: usize) {
        for _ in 0..window {
            self.nodes[0].propose(Vec::new(), self.payload.clone()).expect("a leader takes proposals");
        }
        self.act(0);
        self.run();
    }

    fn handed_out_bytes(&self) -> u64 {
        self.handed_out_bytes
    }
}
