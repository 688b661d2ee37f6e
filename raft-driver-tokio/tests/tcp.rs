//! Whole nodes over TCP on loopback.

mod common;

use std::collections::BTreeMap;

use bytes::Bytes;
use common::{BOUND, Journal, config, leader, node, within, write};
use raft_core::NodeId;
use raft_driver_tokio::storage::{MemoryLog, MemorySnapshots};
use raft_driver_tokio::tcp::{Refusal, Tcp, TcpConfig};
use raft_driver_tokio::{BootstrapDigest, Builder, ClusterId, Raft, StartError};

const CLUSTER: ClusterId = ClusterId::new(0xc1a5_7e20);

async fn bind(address: &str, config: TcpConfig) -> Tcp {
    Tcp::bind(address, config).await.expect("a free port")
}

/// Sockets first, so that every address is known before a node starts.
async fn sockets(count: u64) -> (Vec<Tcp>, BTreeMap<NodeId, Bytes>) {
    let mut sockets = Vec::new();
    for _ in 0..count {
        sockets.push(bind("127.0.0.1:0", TcpConfig::new(CLUSTER)).await);
    }
    let address = |tcp: &Tcp| Bytes::from(tcp.local_addr().to_string());
    let members = (1..).map(node).zip(sockets.iter().map(address)).collect();
    (sockets, members)
}

async fn start(id: u64, log: MemoryLog, tcp: Tcp) -> Raft<Journal> {
    let snapshots = MemorySnapshots::default();
    within(Builder::new(config(id)).start(log, snapshots, Journal::default(), tcp)).await.expect("starts")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_lose_their_leader_and_go_on() {
    let (sockets, members) = sockets(3).await;
    let mut nodes = Vec::new();
    let logs: Vec<_> = (0..3).map(|_| MemoryLog::default()).collect();
    for ((id, tcp), log) in (1..).zip(sockets).zip(&logs) {
        nodes.push(start(id, log.clone(), tcp).await);
    }
    for raft in &nodes {
        within(raft.bootstrap(members.clone())).await.unwrap();
    }
    for number in 0..100 {
        write(&nodes, Bytes::from(format!("{number}"))).await.unwrap();
    }
    let old = leader(&nodes).await.id();
    let at = nodes.iter().position(|raft| raft.id() == old).unwrap();
    assert!(within(nodes.remove(at).shutdown()).await.is_orderly());
    let mut last = None;
    for number in 100..200 {
        last = Some(write(&nodes, Bytes::from(format!("{number}"))).await.unwrap().id.index);
    }
    // Back at the same port, over what it left.
    let address = std::str::from_utf8(&members[&old]).unwrap();
    let tcp = bind(address, TcpConfig::new(CLUSTER)).await;
    let back = start(old.get(), logs[at].clone(), tcp).await;
    let mut metrics = back.metrics();
    within(metrics.wait_for(|metrics| Some(metrics.status.applied) >= last)).await.unwrap();
    nodes.push(back);
    let journal = within(leader(&nodes).await.read(|journal| journal.commands.clone())).await.unwrap();
    assert_eq!(journal, (0..200).map(|number| number.to_string()).collect::<Vec<_>>());
    assert!(nodes.iter().all(|raft| raft.transport().messages_received > 0));
}

#[tokio::test]
async fn one_node_can_bootstrap_for_all() {
    let (sockets, members) = sockets(3).await;
    let mut nodes = Vec::new();
    for (id, tcp) in (1..).zip(sockets) {
        nodes.push(start(id, MemoryLog::default(), tcp).await);
    }
    within(nodes[1].bootstrap(members.clone())).await.unwrap();
    write(&nodes, Bytes::from("known to all")).await.unwrap();
    for raft in &nodes {
        assert!(raft.wait(BOUND).leader().await.is_ok());
        let mut metrics = raft.metrics();
        within(metrics.wait_for(|metrics| metrics.membership.nodes == members)).await.unwrap();
    }
}

#[tokio::test]
async fn nodes_bootstrapped_with_different_sets_refuse_each_other() {
    let first = bind("127.0.0.1:0", TcpConfig::new(CLUSTER)).await;
    let address = first.local_addr().to_string();
    drop(first);
    let set = |extra: u64| -> BTreeMap<NodeId, Bytes> {
        [
            (node(1), Bytes::from(address.clone())),
            (node(2), Bytes::from("127.0.0.1:1")),
            (node(extra), "".into()),
        ]
        .into()
    };
    let tcp = |address: String, set: BTreeMap<NodeId, Bytes>| async move {
        let mut config = TcpConfig::new(CLUSTER);
        config.bootstrap = Some(BootstrapDigest::of(&set));
        bind(&address, config).await
    };
    let one = tcp(address.clone(), set(3)).await;
    let two = tcp("127.0.0.1:0".to_owned(), set(4)).await;
    let (mut seen_by_one, mut seen_by_two) = (one.refusals(), two.refusals());
    let raft_one = start(1, MemoryLog::default(), one).await;
    let raft_two = start(2, MemoryLog::default(), two).await;
    within(raft_one.bootstrap(set(3))).await.unwrap();
    within(raft_two.bootstrap(set(4))).await.unwrap();
    let by_two = within(seen_by_two.wait_for(Option::is_some)).await.unwrap().clone().unwrap();
    assert_eq!((by_two.peer, by_two.by_peer, by_two.refusal), (node(1), true, Refusal::Bootstrap));
    let by_one = within(seen_by_one.wait_for(Option::is_some)).await.unwrap().clone().unwrap();
    assert_eq!((by_one.peer, by_one.by_peer, by_one.refusal), (node(2), false, Refusal::Bootstrap));
    assert!(raft_one.transport().refused_bootstrap > 0);
    assert!(raft_two.transport().refused_by_peers > 0);
}

#[tokio::test]
async fn a_command_that_no_frame_holds_is_refused_at_start() {
    let mut config = config(1);
    config.command_bytes_max = 16 << 20;
    let tcp = bind("127.0.0.1:0", TcpConfig::new(CLUSTER)).await;
    let snapshots = MemorySnapshots::default();
    let started = Builder::new(config).start(MemoryLog::default(), snapshots, Journal::default(), tcp);
    assert!(matches!(within(started).await, Err(StartError::MessageTooLong { .. })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_and_many_commands_pass() {
    let (sockets, members) = sockets(3).await;
    let mut nodes = Vec::new();
    for (id, tcp) in (1..).zip(sockets) {
        nodes.push(start(id, MemoryLog::default(), tcp).await);
    }
    for raft in &nodes {
        within(raft.bootstrap(members.clone())).await.unwrap();
    }
    let large: Vec<Bytes> = (0..20).map(|at: u8| Bytes::from(vec![at; 1 << 20])).collect();
    let mut writers = tokio::task::JoinSet::new();
    for command in large.clone() {
        let nodes = nodes.clone();
        writers.spawn(async move { write(&nodes, command).await });
    }
    for result in within(writers.join_all()).await {
        result.unwrap();
    }
    let mut journal = within(leader(&nodes).await.read(|journal| journal.commands.clone())).await.unwrap();
    journal.sort();
    assert_eq!(journal, large);
}
