//! Many groups in each of three processes: they are independent, come and go, and share what they share.

mod common;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use common::{BOUND, node, within};
use raft_core::host::{RestoreError, SnapshotSource, StateMachine, WholeState};
use raft_core::{Config, Entries, EntryRef, NodeId};
use raft_driver_tokio::groups::{
    DurableStores, GroupStores, Groups, MemoryStores, RemoveError, StartGroupError,
};
use raft_driver_tokio::storage::{Identity, MemoryLog, MemorySnapshots};
use raft_driver_tokio::tcp::{Tcp, TcpConfig, TcpHub};
use raft_driver_tokio::{Builder, Certainty, ClusterId, GroupId, Raft, StopReason};
use tokio::sync::mpsc;

const CLUSTER: ClusterId = ClusterId::new(0x9907);

/// Counts commands, and breaks at one that says so.
#[derive(Debug, Default)]
struct Counter(u64);

impl StateMachine for Counter {
    type Response = u64;
    type Snapshot = WholeState;
    type Error = io::Error;

    fn apply(&mut self, entries: &Entries, responses: &mut Vec<u64>) -> Result<(), io::Error> {
        for entry in entries.iter() {
            if let EntryRef::Command(_, command) = entry {
                if &*command.to_bytes() == b"break" {
                    return Err(io::Error::other("as it was told"));
                }
                self.0 += 1;
                responses.push(self.0);
            }
        }
        Ok(())
    }

    fn snapshot(&mut self) -> Result<WholeState, io::Error> {
        Ok(WholeState::new(self.0.to_le_bytes().to_vec()))
    }

    fn restore(&mut self, source: &mut SnapshotSource<'_>) -> Result<(), RestoreError<io::Error>> {
        let mut bytes = [0; 8];
        source.read_exact(&mut bytes)?;
        self.0 = u64::from_le_bytes(bytes);
        Ok(())
    }
}

fn config(id: u64) -> Config {
    let mut config = Config::new(node(id));
    config.heartbeat_interval = Duration::from_millis(100);
    config.election_timeout_min = Duration::from_millis(600);
    config.election_timeout_max = Duration::from_millis(1200);
    config
}

/// One of the processes.
type Process<D> = Groups<Counter, D, TcpHub>;

async fn process<D: GroupStores>(id: u64, address: &str, stores: D) -> Process<D> {
    let tcp = within(Tcp::bind(address, TcpConfig::new(CLUSTER))).await.expect("a free port");
    Groups::new(Builder::new(config(id)), stores, tcp.into_hub(&config(id)))
}

struct Processes<D: GroupStores> {
    members: BTreeMap<NodeId, Bytes>,
    processes: Vec<Process<D>>,
}

impl<D: GroupStores> Processes<D> {
    async fn start(stores: impl Fn(u64) -> D) -> Self {
        let mut processes = Vec::new();
        for id in 1..=3 {
            processes.push(process(id, "127.0.0.1:0", stores(id)).await);
        }
        let address = |process: &Process<D>| Bytes::from(process.network().local_addr().to_string());
        let members = (1..).map(node).zip(processes.iter().map(address)).collect();
        Self { members, processes }
    }

    /// A new group on all of them.
    async fn create(&self, group: u64) -> Vec<Raft<Counter>> {
        let mut nodes = Vec::new();
        for process in &self.processes {
            let raft = within(process.start(GroupId::new(group), Counter::default())).await.expect("starts");
            nodes.push(raft);
        }
        within(nodes[group as usize % 3].bootstrap(self.members.clone())).await.expect("pristine");
        nodes
    }

    fn nodes(&self, group: u64) -> Vec<Raft<Counter>> {
        self.processes.iter().filter_map(|process| process.get(GroupId::new(group))).collect()
    }

    async fn shutdown(self) {
        for process in self.processes {
            within(process.shutdown()).await;
            assert!(process.running().is_empty());
        }
    }
}

/// Adds one wherever the leader is, until it is known to have happened.
async fn add(nodes: &[Raft<Counter>]) -> u64 {
    loop {
        match within(common::write(nodes, Bytes::from("one"))).await {
            Ok(applied) => return applied.response,
            Err(error) => assert_ne!(error.certainty(), Certainty::Unknown, "nothing was lost: {error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_groups_share_their_connections_and_nothing_else() {
    const GROUPS: u64 = 100;
    const WRITES: u64 = 20;
    let cluster = Processes::start(|_| MemoryStores::default()).await;
    for group in 0..GROUPS {
        cluster.create(group).await;
    }
    let mut writers = tokio::task::JoinSet::new();
    for group in 0..GROUPS {
        let nodes = cluster.nodes(group);
        writers.spawn(async move {
            for expected in 1..=WRITES {
                assert_eq!(
                    add(&nodes).await,
                    expected,
                    "no other group's command was counted, and none twice"
                );
            }
        });
    }
    while let Some(ended) = within(writers.join_next()).await {
        ended.expect("every count was exact");
    }
    // Two connections from each process to each of two others, whatever the number of groups.
    for process in &cluster.processes {
        let stats = process.network().stats();
        assert_eq!((stats.connects, stats.malformed, stats.misaddressed), (4, 0, 0), "{stats:?}");
    }
    // One that breaks takes none of the others along.
    let broken = cluster.nodes(7);
    let error = common::write(&broken, Bytes::from("break")).await.expect_err("the machine failed");
    assert_ne!(error.certainty(), Certainty::DidNotHappen);
    // Whoever applied it has stopped; the last one may not have heard that it was committed.
    let mut stops = tokio::task::JoinSet::new();
    for raft in broken {
        stops.spawn(async move { raft.stopped().await });
    }
    let reason = within(stops.join_next()).await.expect("there are three").expect("no panic");
    assert!(matches!(reason, StopReason::Machine(_)), "{reason}");
    assert_eq!(add(&cluster.nodes(8)).await, WRITES + 1);
    let stopped = |group: &u64| cluster.nodes(*group).iter().any(|raft| raft.stop_reason().is_some());
    assert_eq!((0..GROUPS).filter(stopped).collect::<Vec<_>>(), [7]);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_come_and_go_while_others_run() {
    let cluster = Processes::start(|_| MemoryStores::default()).await;
    let stays = cluster.create(1).await;
    let goes = cluster.create(2).await;
    let taken = within(cluster.processes[0].start(GroupId::new(2), Counter::default())).await;
    assert!(matches!(taken, Err(StartGroupError::Taken(_))));
    add(&goes).await;
    // A member of it must not forget what it has acknowledged.
    let group = GroupId::new(2);
    let refused = within(cluster.processes[2].remove(group)).await;
    assert!(matches!(refused, Err(RemoveError::StillMember { .. })), "{refused:?}");
    assert!(cluster.processes[2].get(group).is_some(), "it goes on");
    let third = goes[2].clone();
    loop {
        match within(common::leader(&goes).await.remove(node(3))).await {
            Ok(()) => break,
            Err(error) => assert!(third.stop_reason().is_none(), "{error}"),
        }
    }
    let mut metrics = third.metrics();
    within(metrics.wait_for(|metrics| !metrics.membership.contains(node(3)))).await.expect("it is told");
    within(cluster.processes[2].remove(group)).await.expect("a member no more");
    assert!(cluster.processes[2].get(group).is_none());
    assert_eq!(cluster.processes[2].stored().await.unwrap(), [GroupId::new(1)]);
    // The rest of it goes on, and so does the other.
    assert_eq!(add(&goes[..2]).await, 2);
    assert_eq!(add(&stays).await, 1);
    // It comes back, with nothing, as somebody new.
    let again = within(cluster.processes[2].start(group, Counter::default())).await.expect("starts");
    let term = |raft: &Raft<Counter>| raft.metrics().borrow().status.term;
    assert!(term(&again) >= term(&third), "it may have voted there, and must not vote again");
    let address = cluster.members[&node(3)].clone();
    loop {
        let added = within(common::leader(&goes[..2]).await.add_voter(node(3), address.clone())).await;
        if added.is_ok() {
            break;
        }
    }
    within(again.wait(BOUND).until(|metrics| metrics.membership.is_voter(node(3))))
        .await
        .expect("it is a voter");
    assert_eq!(add(&goes[..2]).await, 3);
    // Nobody is left who could mind.
    for process in &cluster.processes {
        within(process.remove_anyway(group)).await.expect("whoever calls it vouches for it");
        within(process.stop(GroupId::new(1))).await.expect("it ran");
        let refused = within(process.remove(GroupId::new(1))).await;
        assert!(matches!(refused, Err(RemoveError::StillMember { .. })), "what is stored says so");
    }
    cluster.shutdown().await;
}

/// Stores whose opening takes until it may end.
#[derive(Debug)]
struct Slow {
    stores: MemoryStores,
    asked: mpsc::UnboundedSender<()>,
    go_on: Mutex<std::sync::mpsc::Receiver<()>>,
}

impl GroupStores for Slow {
    type Log = MemoryLog;
    type Snapshots = MemorySnapshots;
    type Error = Infallible;

    fn open(&self, group: GroupId) -> Result<(MemoryLog, MemorySnapshots), Infallible> {
        self.asked.send(()).expect("the test waits for it");
        self.go_on.lock().expect("one opens").recv().expect("the test lets it go on");
        self.stores.open(group)
    }

    fn groups(&self) -> Result<Vec<GroupId>, Infallible> {
        GroupStores::groups(&self.stores)
    }

    fn remove(&self, group: GroupId) -> Result<(), Infallible> {
        self.stores.remove(group)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_waits_for_a_start_that_is_under_way() {
    let ((asked, mut opening), (let_go, go_on)) = (mpsc::unbounded_channel(), std::sync::mpsc::channel());
    let stores = Slow { stores: MemoryStores::default(), asked, go_on: Mutex::new(go_on) };
    let process = process(1, "127.0.0.1:0", stores).await;
    let starting = tokio::spawn({
        let process = process.clone();
        async move { process.start(GroupId::new(1), Counter::default()).await }
    });
    within(opening.recv()).await.expect("it is being opened");
    let mut ending = Box::pin(process.shutdown());
    let ended = tokio::time::timeout(Duration::from_millis(100), &mut ending).await;
    assert!(ended.is_err(), "it does not wait");
    let late = within(process.start(GroupId::new(2), Counter::default())).await;
    assert!(matches!(late, Err(StartGroupError::ShutDown)), "{late:?}");
    let_go.send(()).expect("it opens");
    within(ending).await;
    assert!(process.network().group(GroupId::new(1)).is_ok(), "its node has stopped");
    let started = within(starting).await.expect("it ends");
    assert!(matches!(started, Err(StartGroupError::ShutDown)), "{started:?}");
    assert!(process.running().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_on_disk_are_there_again_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let open = |id: u64| {
        let identity = Identity { cluster: CLUSTER, node: node(id) };
        DurableStores::open(dir.path().join(id.to_string()), identity).expect("a directory of its own")
    };
    let mut cluster = Processes::start(open).await;
    for group in 1..=10 {
        let nodes = cluster.create(group).await;
        for expected in 1..=group {
            assert_eq!(add(&nodes).await, expected);
        }
    }
    let snapshot = cluster.nodes(10)[0].clone();
    within(snapshot.wait(BOUND).applied(snapshot.status().await.expect("it runs").commit))
        .await
        .expect("soon");
    within(snapshot.snapshot()).await.expect("there is something to keep");
    drop(snapshot);
    for process in std::mem::take(&mut cluster.processes) {
        within(process.shutdown()).await;
    }
    for id in 1..=3 {
        let address = std::str::from_utf8(&cluster.members[&node(id)]).unwrap();
        let process = process(id, address, open(id)).await;
        let stored = within(process.stored()).await.unwrap();
        assert_eq!(stored, (1..=10).map(GroupId::new).collect::<Vec<_>>());
        for group in stored {
            within(process.start(group, Counter::default())).await.expect("starts over what it left");
        }
        cluster.processes.push(process);
    }
    for group in 1..=10 {
        assert_eq!(
            add(&cluster.nodes(group)).await,
            group + 1,
            "nothing is lost, and nothing happened twice"
        );
    }
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_goes_away_leaves_the_leadership_of_all_its_groups() {
    let cluster = Processes::start(|_| MemoryStores::default()).await;
    for group in 0..20 {
        let nodes = cluster.create(group).await;
        assert_eq!(add(&nodes).await, 1);
    }
    // As if it was cut off: nothing is handed over.
    within(cluster.processes[0].network().stop()).await;
    for group in 0..20 {
        let others = &cluster.nodes(group)[1..];
        assert_eq!(add(others).await, 2);
        assert_ne!(common::leader(others).await.id(), node(1));
    }
    cluster.shutdown().await;
}

#[tokio::test]
async fn a_node_that_does_not_fit_the_process_is_refused() {
    let tcp = within(Tcp::bind("127.0.0.1:0", TcpConfig::new(CLUSTER))).await.unwrap();
    let hub = tcp.into_hub(&config(1));
    let groups = Groups::<Counter, _, _>::new(Builder::new(config(2)), MemoryStores::default(), hub.clone());
    let refused = within(groups.start(GroupId::new(1), Counter::default())).await;
    assert!(matches!(refused, Err(StartGroupError::Start(raft_driver_tokio::StartError::Network(_)))));
    assert!(hub.group(GroupId::new(1)).is_ok(), "its name is free again");
    within(groups.shutdown()).await;
    let late = within(groups.start(GroupId::new(1), Counter::default())).await;
    assert!(matches!(late, Err(StartGroupError::ShutDown)));
}
