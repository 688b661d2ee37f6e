//! A hub whose groups run on several runtimes: the end of one of them is no concern of the other groups.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use raft_core::host::Transport;
use raft_core::{Body, Config, Membership, Message, NodeId, Term};
use raft_driver_tokio::tcp::{Tcp, TcpConfig, TcpHub, TcpSender};
use raft_driver_tokio::transport::{Closed, Inbox, Incoming, Network, Started};
use raft_driver_tokio::{ClusterId, GroupId};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

fn config(id: u64) -> Config {
    Config::new(NodeId::new(id))
}

/// Starts a group's network on the current runtime.
fn group(hub: &TcpHub, id: u64, group: u64) -> (TcpSender, UnboundedReceiver<Incoming>) {
    let (sender, incoming) = unbounded_channel();
    let inbox = Inbox::new(move |incoming| sender.send(incoming).map_err(|_| Closed));
    let Started { transport, .. } =
        hub.group(GroupId::new(group)).expect("nobody has it").start(&config(id), inbox);
    (transport, incoming)
}

fn hello() -> Message {
    let (from, to) = (NodeId::new(1), NodeId::new(2));
    Message { from, to, term: Term::new(1), body: Body::TimeoutNow }
}

/// Whether a message of the sender's arrives within 10 seconds.
async fn arrives(sender: &mut TcpSender, incoming: &mut UnboundedReceiver<Incoming>) -> bool {
    for _ in 0..100 {
        sender.send(hello());
        let told = tokio::time::timeout(Duration::from_millis(100), incoming.recv()).await;
        if matches!(told, Ok(Some(Incoming::Message(..)))) {
            return true;
        }
    }
    false
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_runtime_of_one_group_ends_and_others_go_on() {
    let tcp = async |id| {
        Tcp::bind("127.0.0.1:0", TcpConfig::new(ClusterId::new(1))).await.unwrap().into_hub(&config(id))
    };
    let (ours, theirs) = (tcp(1).await, tcp(2).await);
    let address = |hub: &TcpHub| Bytes::from(hub.local_addr().to_string());
    let nodes = BTreeMap::from([(NodeId::new(1), address(&ours)), (NodeId::new(2), address(&theirs))]);
    let members = Arc::new(Membership::of_voters(nodes));
    let (_there, mut incoming) = group(&theirs, 2, 8);

    // Group 7 has a runtime of its own, as a node on an Actix arbiter has.
    let other = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let mut first = {
        let _within = other.enter();
        let (mut first, _) = group(&ours, 1, 7);
        first.peers(&members);
        first
    };
    first.send(hello());
    // Group 8 runs on the runtime of the hub.
    let (mut second, _incoming) = group(&ours, 1, 8);
    second.peers(&members);
    assert!(arrives(&mut second, &mut incoming).await, "before");
    drop(first);
    other.shutdown_background();
    // Its tasks are gone by then, and what was on the way has come.
    tokio::time::sleep(Duration::from_millis(500)).await;
    while incoming.try_recv().is_ok() {}
    assert!(arrives(&mut second, &mut incoming).await, "group 8 has lost its connections for good");
}
