//! noraft and raftbare, which are alike: the node decides about positions in the log, and whoever uses it keeps the
//! commands. Here a window's commands are slices of one buffer, and a follower takes the slices over without a copy.

/// Both have the same names for the same things.
macro_rules! small_raft {
    ($name:ident, $library:ident, $handle:expr) => {
        pub(crate) mod $name {
            use std::collections::VecDeque;
            use std::hint::black_box;

            use bytes::{Bytes, BytesMut};
            use $library::{Action, LogEntries, Message, Node, NodeId};

            use crate::cores::{COMMAND_BYTES, Library};

            pub(crate) struct Cluster {
                servers: Vec<Server>,
                wire: VecDeque<(usize, Message)>,
                payload: Vec<u8>,
                handed_out_bytes: u64,
            }

            struct Server {
                node: Node,
                /// The command of each index, empty where the entry is none.
                commands: Vec<Bytes>,
                handed_out: usize,
            }

            impl Server {
                /// Drops what follows `last`, and makes it the last.
                fn end_at(&mut self, last: usize) {
                    self.commands.resize(last + 1, Bytes::new());
                }
            }

            fn place(id: NodeId) -> usize {
                usize::try_from(id.get()).expect("a small id")
            }

            fn index(at: $library::LogIndex) -> usize {
                usize::try_from(at.get()).expect("a small index")
            }

            impl Cluster {
                /// Does what a server wants after it took something in.
                fn act(&mut self, at: usize) {
                    while let Some(action) = self.servers[at].node.actions_mut().next() {
                        match action {
                            Action::BroadcastMessage(message) => {
                                for to in (0..self.servers.len()).filter(|to| *to != at) {
                                    self.wire.push_back((to, message.clone()));
                                }
                            }
                            Action::SendMessage(to, message) => self.wire.push_back((place(to), message)),
                            Action::AppendLogEntries(entries) => self.append(at, &entries),
                            other => drop(black_box(other)),
                        }
                    }
                    self.hand_out(at);
                }

                /// A follower takes the commands over from the leader, the first of the servers.
                fn append(&mut self, at: usize, entries: &LogEntries) {
                    if at == 0 {
                        return;
                    }
                    let (leader, followers) = self.servers.split_first_mut().expect("there are servers");
                    let follower = &mut followers[at - 1].commands;
                    follower.truncate(index(entries.prev_position().index) + 1);
                    let (from, last) = (follower.len(), index(entries.last_position().index));
                    follower.extend_from_slice(&leader.commands[from..=last]);
                }

                fn hand_out(&mut self, at: usize) {
                    let server = &mut self.servers[at];
                    let commit = index(server.node.commit_index()).min(server.commands.len() - 1);
                    for command in &server.commands[server.handed_out + 1..=commit.max(server.handed_out)] {
                        self.handed_out_bytes += black_box(command).len() as u64;
                    }
                    server.handed_out = commit.max(server.handed_out);
                }

                fn run(&mut self) {
                    while let Some((to, message)) = self.wire.pop_front() {
                        $handle(&mut self.servers[to].node, message);
                        if to == 0 {
                            // The entries that a leader adds itself.
                            let last = index(self.servers[0].node.log().last_position().index);
                            self.servers[0].end_at(last);
                        }
                        self.act(to);
                    }
                }
            }

            impl Library for Cluster {
                fn new(nodes: u64, _window: usize) -> Self {
                    let ids: Vec<NodeId> = (0..nodes).map(NodeId::new).collect();
                    let server = |id: &NodeId| Server {
                        node: Node::start(*id),
                        commands: vec![Bytes::new()],
                        handed_out: 0,
                    };
                    let mut cluster = Self {
                        servers: ids.iter().map(server).collect(),
                        wire: VecDeque::new(),
                        payload: vec![b'x'; COMMAND_BYTES],
                        handed_out_bytes: 0,
                    };
                    let position = cluster.servers[0].node.create_cluster(&ids);
                    cluster.servers[0].end_at(index(position.index));
                    cluster.act(0);
                    cluster.run();
                    assert!(cluster.servers[0].node.role().is_leader());
                    cluster
                }

                fn commit(&mut self, window: usize) {
                    let mut buffer = BytesMut::with_capacity(window * COMMAND_BYTES);
                    for _ in 0..window {
                        buffer.extend_from_slice(&self.payload);
                    }
                    let mut buffer = buffer.freeze();
                    let leader = &mut self.servers[0];
                    for _ in 0..window {
                        let position = leader.node.propose_command();
                        leader.commands.push(buffer.split_to(COMMAND_BYTES));
                        assert_eq!(leader.commands.len(), index(position.index) + 1);
                    }
                    self.act(0);
                    self.run();
                }

                fn handed_out_bytes(&self) -> u64 {
                    self.handed_out_bytes
                }
            }
        }
    };
}

small_raft!(by_noraft, noraft, |node: &mut noraft::Node, message: noraft::Message| {
    node.handle_message(&message).expect("the bench keeps the rules");
});
small_raft!(by_raftbare, raftbare, |node: &mut raftbare::Node, message: raftbare::Message| {
    node.handle_message(message);
});
