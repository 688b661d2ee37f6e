//! Nodes on a hub, which outlives them: what peers send on connections that stand reaches whoever takes their place.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use actix::Addr;
use raft_core::host::{RestoreError, SnapshotSource, StateMachine, WholeState};
use raft_core::{Config, Entries, EntryRef, NodeId, RoleKind};
use raft_driver_actix::admin::{InitWithConfig, TransferLeader};
use raft_driver_actix::messages::{ClientWrite, ResponseMode};
use raft_driver_actix::metrics::{GetMetrics, RaftMetrics};
use raft_driver_actix::storage::{MemoryLog, MemorySnapshots};
use raft_driver_actix::{Builder, Raft};
use raft_driver_tokio::tcp::{Tcp, TcpConfig, TcpGroup, TcpHub};
use raft_driver_tokio::{ClusterId, GroupId};

use crate::support::{n, within};

type Node = Addr<Raft<Machine>>;

/// Says how far it has applied, and panics once when told to.
#[derive(Clone, Default)]
struct Machine {
    count: Arc<AtomicU64>,
    panics: Arc<AtomicBool>,
}

impl StateMachine for Machine {
    type Response = ();
    type Snapshot = WholeState;
    type Error = Infallible;

    fn apply(&mut self, entries: &Entries, responses: &mut Vec<()>) -> Result<(), Infallible> {
        for entry in entries.iter() {
            if let EntryRef::Command(id, _) = entry {
                assert!(!self.panics.swap(false, Relaxed), "planted");
                self.count.fetch_max(id.index.get(), Relaxed);
                responses.push(());
            }
        }
        Ok(())
    }

    fn snapshot(&mut self) -> Result<WholeState, Infallible> {
        Ok(WholeState::new(""))
    }

    fn restore(&mut self, _: &mut SnapshotSource<'_>) -> Result<(), RestoreError<Infallible>> {
        Ok(())
    }
}

fn config(id: u64) -> Config {
    let mut config = Config::new(n(id));
    config.heartbeat_interval = Duration::from_millis(100);
    config.election_timeout_min = Duration::from_millis(1000);
    config.election_timeout_max = Duration::from_millis(2000);
    config
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    for _ in 0..1500 {
        if holds().await {
            return;
        }
        actix::clock::sleep(Duration::from_millis(10)).await;
    }
    panic!("not within 15 s: {what}");
}

/// Three hubs, and how a cluster on them is founded.
struct Hubs {
    hubs: Vec<TcpHub>,
    members: Vec<(NodeId, String)>,
}

impl Hubs {
    async fn new() -> Self {
        let mut hubs: Vec<TcpHub> = Vec::new();
        for id in 1..=3 {
            let tcp = Tcp::bind("127.0.0.1:0", TcpConfig::new(ClusterId::new(1))).await.unwrap();
            hubs.push(tcp.into_hub(&config(id)));
        }
        let members = (1..).zip(&hubs).map(|(id, hub)| (n(id), hub.local_addr().to_string())).collect();
        Self { hubs, members }
    }

    fn group(&self, id: usize) -> TcpGroup {
        self.hubs[id - 1].group(GroupId::new(7)).unwrap()
    }

    async fn start(&self, id: usize, log: MemoryLog, machine: Machine) -> Node {
        let builder = Builder::new(config(id as u64));
        builder.start(log, MemorySnapshots::default(), machine, self.group(id)).await.unwrap()
    }

    /// The first leads.
    async fn found(&self, nodes: [&Node; 3]) {
        let members = InitWithConfig::new(self.members.clone());
        within(nodes[0].send(members)).await.unwrap().unwrap();
        until("a leader", async || metrics(nodes[0]).await.status.leader.is_some()).await;
        let leader = metrics(nodes[0]).await.status.leader.unwrap().get() as usize;
        if leader > 1 {
            within(nodes[leader - 1].send(TransferLeader(Some(n(1))))).await.unwrap().unwrap();
        }
        until("it leads", async || metrics(nodes[0]).await.status.role == RoleKind::Leader).await;
    }
}

async fn metrics(node: &Node) -> RaftMetrics {
    within(node.send(GetMetrics)).await.unwrap()
}

async fn write(node: &Node, command: &'static str) -> u64 {
    let written = within(node.send(ClientWrite::new(command, ResponseMode::Committed))).await;
    written.unwrap().unwrap().id().index.get()
}

#[actix::test]
async fn what_peers_send_reaches_the_next_life_of_a_supervised_node() {
    let hubs = Hubs::new().await;
    let [first, third] = [1, 3].map(|id| hubs.start(id, MemoryLog::default(), Machine::default()));
    let (first, third) = (first.await, third.await);
    let (machine, opened) = (Machine::default(), Arc::<AtomicUsize>::default());
    let (log, snapshots, hub) = (MemoryLog::default(), MemorySnapshots::default(), hubs.hubs[1].clone());
    let open = {
        let (machine, opened) = (machine.clone(), Arc::clone(&opened));
        move || {
            opened.fetch_add(1, Relaxed);
            let network = hub.group(GroupId::new(7)).unwrap();
            let parts = (log.clone(), snapshots.clone(), machine.clone(), network);
            async move { Ok(parts) }
        }
    };
    let second = Builder::new(config(2)).supervise(open).await.unwrap();
    hubs.found([&first, &second, &third]).await;
    let at = write(&first, "one").await;
    until("the first write", async || machine.count.load(Relaxed) >= at).await;

    machine.panics.store(true, Relaxed);
    let at = write(&first, "two").await;
    let is_back = async || opened.load(Relaxed) == 2 && metrics(&second).await.stopped.is_none();
    until("the next life", is_back).await;
    until("the second write", async || machine.count.load(Relaxed) >= at).await;
    let at = write(&first, "three").await;
    until("the third write", async || machine.count.load(Relaxed) >= at).await;
}

/// Also of one that is not supervised, and whose actor, which answers that it has stopped, is still there.
#[actix::test]
async fn what_peers_send_reaches_a_node_that_is_started_anew_on_the_same_hub() {
    let hubs = Hubs::new().await;
    let (log, machine) = (MemoryLog::default(), Machine::default());
    let first = hubs.start(1, MemoryLog::default(), Machine::default()).await;
    let second = hubs.start(2, log.clone(), machine.clone()).await;
    let third = hubs.start(3, MemoryLog::default(), Machine::default()).await;
    hubs.found([&first, &second, &third]).await;
    let at = write(&first, "one").await;
    until("the first write", async || machine.count.load(Relaxed) >= at).await;

    machine.panics.store(true, Relaxed);
    write(&first, "breaks it").await;
    until("it has stopped", async || metrics(&second).await.stopped.is_some()).await;
    // No heartbeat follows the write any more on the connection for payloads.
    actix::clock::sleep(Duration::from_millis(500)).await;
    let again = hubs.start(2, log, machine.clone()).await;
    until("it follows again", async || metrics(&again).await.status.leader == Some(n(1))).await;
    let at = write(&first, "two").await;
    until("the second write", async || machine.count.load(Relaxed) >= at).await;
    drop((second, third));
}
