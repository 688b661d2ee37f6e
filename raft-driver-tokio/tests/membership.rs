//! Changes of who takes part (§6) and who leads (thesis §3.10), over TCP.

#![allow(clippy::unwrap_used, reason = "a test says by failing what it expected")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use bytes::Bytes;
use common::{Journal, config, leader, node, within, write};
use raft_core::{
    AdminRefusal, Config, Lease, LogIndex, Membership, MembershipChange, NodeId, ReadConsistency, RoleKind,
    SnapshotPolicy,
};
use raft_driver_tokio::storage::{MemoryLog, MemorySnapshots};
use raft_driver_tokio::tcp::{Refusal, Tcp, TcpConfig};
use raft_driver_tokio::{AdminError, BootstrapDigest, Builder, ClusterId, Raft, ReadError};

const CLUSTER: ClusterId = ClusterId::new(0xadd);

fn text(number: usize) -> Bytes {
    Bytes::from(format!("{number:08}"))
}

fn compacting(id: u64) -> Config {
    let mut config = config(id);
    config.snapshot_policy = SnapshotPolicy::LogsSinceLast(50);
    config.compaction_margin_entries = 10;
    config.snapshot_chunk_bytes = 700;
    config
}

/// A node and what it leaves.
struct Server {
    address: String,
    log: MemoryLog,
    snapshots: MemorySnapshots,
    raft: Option<Raft<Journal>>,
}

#[derive(Default)]
struct Cluster {
    servers: BTreeMap<u64, Server>,
    founders: BTreeMap<NodeId, Bytes>,
}

impl Cluster {
    async fn start(count: u64) -> Self {
        let mut sockets = Vec::new();
        for id in 1..=count {
            sockets.push((id, Tcp::bind("127.0.0.1:0", TcpConfig::new(CLUSTER)).await.unwrap()));
        }
        let address = |tcp: &Tcp| Bytes::from(tcp.local_addr().to_string());
        let founders = sockets.iter().map(|(id, tcp)| (node(*id), address(tcp))).collect();
        let mut cluster = Self { founders, ..Self::default() };
        for (id, tcp) in sockets {
            // The sockets were needed for their addresses; these know the set.
            let address = tcp.local_addr().to_string();
            drop(tcp);
            cluster.run(id, &address, true).await;
        }
        for server in cluster.servers.values() {
            within(server.raft.as_ref().unwrap().bootstrap(cluster.founders.clone())).await.unwrap();
        }
        cluster
    }

    /// Starts a node there, over what it left.
    async fn run(&mut self, id: u64, address: &str, is_founder: bool) -> Raft<Journal> {
        let mut transport = TcpConfig::new(CLUSTER);
        transport.bootstrap = is_founder.then(|| BootstrapDigest::of(&self.founders));
        let tcp = Tcp::bind(address, transport).await.unwrap();
        let address = tcp.local_addr().to_string();
        let (log, snapshots) = match self.servers.remove(&id) {
            Some(Server { log, snapshots, .. }) => (log, snapshots),
            None => (MemoryLog::default(), MemorySnapshots::default()),
        };
        let builder = Builder::new(compacting(id));
        let start = builder.start(log.clone(), snapshots.clone(), Journal::default(), tcp);
        let raft = within(start).await.unwrap();
        self.servers.insert(id, Server { address, log, snapshots, raft: Some(raft.clone()) });
        raft
    }

    async fn join(&mut self, id: u64) -> Raft<Journal> {
        self.run(id, "127.0.0.1:0", false).await
    }

    async fn stop(&mut self, id: u64) {
        let raft = self.servers.get_mut(&id).unwrap().raft.take().unwrap();
        assert!(within(raft.shutdown()).await.is_orderly());
    }

    fn raft(&self, id: u64) -> Raft<Journal> {
        self.servers[&id].raft.clone().unwrap()
    }

    fn of(&self, ids: impl IntoIterator<Item = u64>) -> Vec<Raft<Journal>> {
        ids.into_iter().map(|id| self.raft(id)).collect()
    }

    fn update(&self, voters: &[u64], learners: &[u64], remove: &[u64]) -> MembershipChange {
        let ids = |ids: &[u64]| ids.iter().map(|id| node(*id)).collect::<BTreeSet<_>>();
        let added = voters.iter().chain(learners).filter(|id| !self.founders.contains_key(&node(**id)));
        let addresses = added.map(|id| (node(*id), Bytes::from(self.servers[id].address.clone()))).collect();
        MembershipChange::Update {
            voters: ids(voters),
            learners: ids(learners),
            remove: ids(remove),
            addresses,
        }
    }
}

/// Asks whoever leads, as long as it was not done: an election may come at any time on a busy machine.
async fn change(nodes: &[Raft<Journal>], change: MembershipChange) {
    within(async {
        loop {
            match leader(nodes).await.change_membership(change.clone()).await {
                // The second: the new leader has completed what the old one began.
                Ok(()) | Err(AdminError::Refused(AdminRefusal::NoChange)) => return,
                Err(
                    AdminError::Unknown
                    | AdminError::NotLeader { .. }
                    | AdminError::Refused(AdminRefusal::NoEntryCommitted | AdminRefusal::ChangeInProgress),
                ) => tokio::task::yield_now().await,
                Err(error) => panic!("{error}"),
            }
        }
    })
    .await;
}

async fn caught_up(raft: &Raft<Journal>, index: LogIndex) {
    within(raft.metrics().wait_for(|metrics| metrics.status.applied >= index)).await.unwrap();
}

/// Reads until there is a leader to ask: a new node may not have heard of it yet.
async fn commands(raft: &Raft<Journal>) -> Vec<Bytes> {
    within(async {
        loop {
            match raft.read(|journal| journal.commands.clone()).await {
                Ok(commands) => return commands,
                Err(ReadError::NotLeader { .. }) => tokio::task::yield_now().await,
                Err(error) => panic!("{error}"),
            }
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fourth_node_joins_by_snapshot_and_votes() {
    let mut cluster = Cluster::start(3).await;
    let founders = cluster.of(1..=3);
    for number in 0..300 {
        write(&founders, text(number)).await.unwrap();
    }
    for raft in &founders {
        within(raft.metrics().wait_for(|metrics| metrics.status.base.index > LogIndex::ZERO)).await.unwrap();
    }
    let fourth = cluster.join(4).await;
    change(&founders, cluster.update(&[4], &[], &[])).await;
    let status = within(fourth.status()).await.unwrap();
    assert_eq!(status.counters.snapshots_installed, 1, "the log alone does not reach back");
    let voters: BTreeSet<_> = (1..=4).map(node).collect();
    within(fourth.metrics().wait_for(|metrics| metrics.membership.voters == voters)).await.unwrap();

    // It counts: of four, three must agree, and it is one of those that are left.
    let old = leader(&founders).await.id().get();
    cluster.stop(old).await;
    let left: Vec<u64> = (1..=4).filter(|id| *id != old).collect();
    let last = write(&cluster.of(left.iter().copied()), text(300)).await.unwrap();
    caught_up(&fourth, last.id.index).await;
    assert_eq!(commands(&fourth).await, (0..=300).map(text).collect::<Vec<_>>());

    // A restart keeps all of it, and finds the others.
    cluster.stop(4).await;
    let address = cluster.servers[&4].address.clone();
    let fourth = cluster.run(4, &address, false).await;
    let last = write(&cluster.of(left), text(301)).await.unwrap();
    caught_up(&fourth, last.id.index).await;
    assert_eq!(commands(&fourth).await.len(), 302);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leader_is_replaced_by_a_new_node() {
    let mut cluster = Cluster::start(3).await;
    let founders = cluster.of(1..=3);
    for number in 0..50 {
        write(&founders, text(number)).await.unwrap();
    }
    let fourth = cluster.join(4).await;
    let old = leader(&founders).await.id().get();
    change(&founders, cluster.update(&[4], &[], &[old])).await;
    let stay: Vec<u64> = (1..=4).filter(|id| *id != old).collect();
    let nodes = cluster.of(stay.iter().copied());
    let last = write(&nodes, text(50)).await.unwrap();
    caught_up(&fourth, last.id.index).await;
    let voters: BTreeSet<_> = stay.iter().map(|id| node(*id)).collect();
    for raft in &nodes {
        let settled = |membership: &Membership| {
            membership.voters == voters && !membership.is_joint() && membership.intent.is_none()
        };
        within(raft.metrics().wait_for(|metrics| settled(&metrics.membership))).await.unwrap();
    }
    // Whoever left does not lead, and disturbs nobody.
    let removed = cluster.raft(old);
    within(removed.metrics().wait_for(|metrics| metrics.status.role == RoleKind::Follower)).await.unwrap();
    cluster.stop(old).await;
    write(&nodes, text(51)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn learners_receive_the_log_and_serve_reads_without_a_vote() {
    let mut cluster = Cluster::start(1).await;
    let first = cluster.raft(1);
    let founders = [first.clone()];
    write(&founders, text(0)).await.unwrap();
    let learner = cluster.join(2).await;
    change(&founders, cluster.update(&[], &[2], &[])).await;
    let last = write(&founders, text(1)).await.unwrap();
    assert_eq!(commands(&learner).await.len(), 2, "a read waits for what was acknowledged");
    caught_up(&learner, last.id.index).await;
    // Without it, the one voter goes on.
    cluster.stop(2).await;
    write(&founders, text(2)).await.unwrap();
    let address = cluster.servers[&2].address.clone();
    let learner = cluster.run(2, &address, false).await;
    change(&founders, cluster.update(&[2], &[], &[])).await;
    let to = within(first.transfer_leadership(Some(node(2)))).await.unwrap();
    assert_eq!(to, node(2));
    within(learner.metrics().wait_for(|metrics| metrics.status.role == RoleKind::Leader)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_moves_is_found_at_its_new_address() {
    let mut cluster = Cluster::start(3).await;
    let founders = cluster.of(1..=3);
    write(&founders, text(0)).await.unwrap();
    let led_by = leader(&founders).await.id().get();
    let moves = (1..=3).find(|id| *id != led_by).unwrap();
    cluster.stop(moves).await;
    let back = cluster.run(moves, "127.0.0.1:0", true).await;
    let stay = cluster.of((1..=3).filter(|id| *id != moves));
    let address = Bytes::from(cluster.servers[&moves].address.clone());
    change(&stay, MembershipChange::SetAddress { node: node(moves), address: address.clone() }).await;
    let last = write(&stay, text(1)).await.unwrap();
    caught_up(&back, last.id.index).await;
    let moved = |membership: &Membership| membership.nodes[&node(moves)] == address;
    within(back.metrics().wait_for(|metrics| moved(&metrics.membership))).await.unwrap();
}

/// Writes while the leadership moves: the longest time without an acknowledged write stays below what an election
/// without a transfer takes at least.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transfer_and_a_planned_stop_cost_no_election_timeout() {
    let mut cluster = Cluster::start(3).await;
    let nodes = cluster.of(1..=3);
    write(&nodes, text(0)).await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn({
        let (nodes, stop) = (nodes.clone(), Arc::clone(&stop));
        async move {
            let (mut times, mut number) = (vec![Instant::now()], 0);
            while !stop.load(Ordering::Relaxed) {
                for raft in &nodes {
                    // A node that does not lead, or hands over, says so at once.
                    while raft.write(text(number)).await.is_ok() {
                        number += 1;
                        times.push(Instant::now());
                        if stop.load(Ordering::Relaxed) {
                            break;
                        }
                    }
                }
                tokio::task::yield_now().await;
            }
            times
        }
    });
    let terms = || nodes.iter().map(|raft| raft.metrics().borrow().status.term).max().unwrap();
    let before = terms();
    let mut moves = 0;
    while moves < 4 {
        let from = leader(&nodes).await;
        // Writes go on in between.
        let applied = from.metrics().borrow().status.applied;
        within(from.metrics().wait_for(|metrics| metrics.status.applied > applied)).await.unwrap();
        let moved = match moves {
            0..3 => within(from.transfer_leadership(None)).await.map(|to| assert_ne!(to, from.id())),
            _ => within(from.step_down()).await,
        };
        match moved {
            Ok(()) => moves += 1,
            // Another one led by then, and leads on.
            Err(AdminError::NotLeader { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
    stop.store(true, Ordering::Relaxed);
    let times = within(writer).await.unwrap();
    let gap = times.windows(2).map(|two| two[1] - two[0]).max().unwrap();
    println!(
        "{moves} moves, {} writes, longest gap {gap:?}, {} terms",
        times.len(),
        terms().get() - before.get()
    );
    // One term for each move: nobody had to wait for a time-out and campaign by itself.
    assert!(terms().get() - before.get() <= moves + 1, "elections beside the transfers");
    cluster.stop(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_changed_is_refused_with_its_reason() {
    let mut cluster = Cluster::start(3).await;
    let nodes = cluster.of(1..=3);
    write(&nodes, text(0)).await.unwrap();
    let refused = async |asked: MembershipChange| loop {
        match within(leader(&nodes).await.change_membership(asked.clone())).await {
            Err(AdminError::NotLeader { .. } | AdminError::Refused(AdminRefusal::NoEntryCommitted)) => {}
            Err(AdminError::Refused(refusal)) => return refusal,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(refused(cluster.update(&[1], &[], &[])).await, AdminRefusal::NoChange);
    assert_eq!(refused(cluster.update(&[], &[], &[1, 2, 3])).await, AdminRefusal::NoVoters);
    assert_eq!(refused(MembershipChange::Cancel).await, AdminRefusal::NothingToCancel);
    let nowhere = MembershipChange::Update {
        voters: [node(9)].into(),
        learners: BTreeSet::new(),
        remove: BTreeSet::new(),
        addresses: BTreeMap::new(),
    };
    assert_eq!(refused(nowhere).await, AdminRefusal::NoAddress(node(9)));
    let follower = nodes.iter().find(|raft| raft.metrics().borrow().status.role == RoleKind::Follower);
    let asked = within(follower.unwrap().change_membership(cluster.update(&[], &[], &[1]))).await;
    assert!(matches!(asked, Err(AdminError::NotLeader { .. } | AdminError::Unknown) | Ok(())));

    // A node that never comes holds up nothing for ever: the change is cancelled.
    let absent = cluster.join(4).await;
    within(absent.shutdown()).await;
    let adding = tokio::spawn({
        let (raft, adding) = (leader(&nodes).await, cluster.update(&[4], &[], &[]));
        async move { raft.change_membership(adding).await }
    });
    let leads = leader(&nodes).await;
    within(leads.metrics().wait_for(|metrics| metrics.membership.intent.is_some())).await.unwrap();
    write(&nodes, text(1)).await.unwrap();
    within(leads.change_membership(MembershipChange::Cancel)).await.unwrap();
    assert_eq!(within(adding).await.unwrap(), Err(AdminError::Refused(AdminRefusal::Cancelled)));
    let voters: BTreeSet<_> = (1..=3).map(node).collect();
    within(leads.metrics().wait_for(|metrics| metrics.membership.voters == voters)).await.unwrap();
}

#[tokio::test]
async fn nodes_that_count_leases_differently_refuse_each_other() {
    let one = Tcp::bind("127.0.0.1:0", TcpConfig::new(CLUSTER)).await.unwrap();
    let two = Tcp::bind("127.0.0.1:0", TcpConfig::new(CLUSTER)).await.unwrap();
    let address = |tcp: &Tcp| Bytes::from(tcp.local_addr().to_string());
    let set: BTreeMap<NodeId, Bytes> = [(node(1), address(&one)), (node(2), address(&two))].into();
    let mut refusals = one.refusals();
    let mut nodes = Vec::new();
    for (id, tcp, lease) in [(1, one, None), (2, two, Some(Lease { clock_drift_ppm_max: 100 }))] {
        let config = Config { lease, ..config(id) };
        let (log, snapshots) = (MemoryLog::default(), MemorySnapshots::default());
        let raft = within(Builder::new(config).start(log, snapshots, Journal::default(), tcp)).await.unwrap();
        within(raft.bootstrap(set.clone())).await.unwrap();
        nodes.push(raft);
    }
    let told = within(refusals.wait_for(Option::is_some)).await.unwrap().clone().unwrap();
    assert_eq!((told.peer, told.refusal), (node(2), Refusal::Lease));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_by_lease_see_every_acknowledged_write() {
    let mut nodes = Vec::new();
    let mut sockets = Vec::new();
    for id in 1..=3 {
        sockets.push((id, Tcp::bind("127.0.0.1:0", TcpConfig::new(CLUSTER)).await.unwrap()));
    }
    let address = |tcp: &Tcp| Bytes::from(tcp.local_addr().to_string());
    let set: BTreeMap<NodeId, Bytes> = sockets.iter().map(|(id, tcp)| (node(*id), address(tcp))).collect();
    for (id, tcp) in sockets {
        let config = Config { lease: Some(Lease { clock_drift_ppm_max: 500 }), ..config(id) };
        let (log, snapshots) = (MemoryLog::default(), MemorySnapshots::default());
        let raft = within(Builder::new(config).start(log, snapshots, Journal::default(), tcp)).await.unwrap();
        within(raft.bootstrap(set.clone())).await.unwrap();
        nodes.push(raft);
    }
    for number in 0..50 {
        let applied = write(&nodes, text(number)).await.unwrap();
        let raft = leader(&nodes).await;
        let read = within(raft.read_with(ReadConsistency::Lease, |journal| journal.commands.len())).await;
        // An election on a busy machine leaves no leader to ask.
        if let Ok(count) = read {
            assert!(count >= applied.response, "{count} of {}", applied.response);
        }
    }
}
