//! Whole nodes over TCP that prove who they are, that move, and that lose their disk.

#![allow(clippy::unwrap_used, reason = "a test says by failing what it expected")]

#[cfg(feature = "tls")]
#[path = "common/authority.rs"]
mod authority;
mod common;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use common::{Journal, config, leader, node, within, write};
use raft_core::{LogIndex, NodeId};
use raft_driver_tokio::storage::{DurableLog, Identity, MemoryLog, MemorySnapshots, NodeLog};
use raft_driver_tokio::tcp::{Refusal, Refused, Resolver, Tcp, TcpConfig};
use raft_driver_tokio::{Builder, ClusterId, Raft};
use tokio::sync::watch;

const CLUSTER: ClusterId = ClusterId::new(0x7ee5);

type Told = watch::Receiver<Option<Refused>>;

/// Where names point to, as long as a test runs.
#[derive(Clone, Debug, Default)]
struct Names(Arc<Mutex<BTreeMap<String, SocketAddr>>>);

impl Names {
    fn resolver(&self) -> Resolver {
        let names = self.clone();
        Resolver::new(move |name| {
            let found = names.0.lock().unwrap().get(&name).copied();
            async move { Ok(Vec::from_iter(found)) }
        })
    }

    /// A socket for the node; its name points there from now on.
    async fn bind(&self, id: u64, mut config: TcpConfig) -> Tcp {
        let name = format!("node-{id}");
        config.resolver = self.resolver();
        config.advertise = Some(name.clone());
        let tcp = Tcp::bind("127.0.0.1:0", config).await.expect("a free port");
        self.0.lock().unwrap().insert(name, tcp.local_addr());
        tcp
    }
}

fn members(ids: impl IntoIterator<Item = u64>) -> BTreeMap<NodeId, Bytes> {
    ids.into_iter().map(|id| (node(id), Bytes::from(format!("node-{id}")))).collect()
}

async fn start(id: u64, log: impl NodeLog, tcp: Tcp) -> Raft<Journal> {
    let started = Builder::new(config(id)).start(log, MemorySnapshots::default(), Journal::default(), tcp);
    within(started).await.expect("starts")
}

/// A node that remembers its peers, as a server that keeps its data does.
async fn start_durable(id: u64, dir: &Path, names: &Names) -> (Raft<Journal>, Told) {
    let log = DurableLog::open(dir, Identity { cluster: CLUSTER, node: node(id) }).unwrap();
    let known_peers = Some(log.peers());
    let tcp = names.bind(id, TcpConfig { known_peers, ..TcpConfig::new(CLUSTER) }).await;
    let refusals = tcp.refusals();
    (start(id, log, tcp).await, refusals)
}

async fn caught_up(raft: &Raft<Journal>, through: LogIndex) {
    within(raft.metrics().wait_for(|metrics| metrics.status.applied >= through)).await.expect("it runs");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_is_resolved_again_when_its_node_moves() {
    let names = Names::default();
    let mut nodes = Vec::new();
    let log = MemoryLog::default();
    for id in 1..=3 {
        let tcp = names.bind(id, TcpConfig::new(CLUSTER)).await;
        nodes.push(start(id, if id == 3 { log.clone() } else { MemoryLog::default() }, tcp).await);
    }
    within(nodes[0].bootstrap(members(1..=3))).await.unwrap();
    let first = write(&nodes, Bytes::from("here")).await.unwrap();
    caught_up(&nodes[2], first.id.index).await;
    assert!(within(nodes.remove(2).shutdown()).await.is_orderly());
    // Elsewhere, and nobody is told but the one who keeps the names.
    let back = start(3, log, names.bind(3, TcpConfig::new(CLUSTER)).await).await;
    let second = write(&nodes, Bytes::from("there")).await.unwrap();
    caught_up(&back, second.id.index).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_lost_its_disk_is_refused_under_its_old_id() {
    let dirs: Vec<_> = (1..=3).map(|_| tempfile::tempdir().unwrap()).collect();
    let names = Names::default();
    let run = async |id: u64| start_durable(id, dirs[id as usize - 1].path(), &names).await;
    let mut nodes = Vec::new();
    for id in 1..=3 {
        nodes.push(run(id).await.0);
    }
    within(nodes[0].bootstrap(members(1..=3))).await.unwrap();
    let written = write(&nodes, Bytes::from("kept")).await.unwrap();
    for raft in &nodes {
        caught_up(raft, written.id.index).await;
    }
    // All stop, so that nobody remembers but on disk, and one disk is lost.
    for raft in nodes.drain(..) {
        assert!(within(raft.shutdown()).await.is_orderly());
    }
    std::fs::remove_dir_all(dirs[2].path()).unwrap();
    std::fs::create_dir(dirs[2].path()).unwrap();
    let mut told = Vec::new();
    for id in 1..=3 {
        let (raft, refusals) = run(id).await;
        nodes.push(raft);
        told.push(refusals);
    }
    within(nodes[2].bootstrap(members(1..=3))).await.unwrap();
    let refused_by_it = |peer| {
        move |told: &Option<Refused>| {
            told.as_ref().is_some_and(|told| {
                (told.peer, told.refusal, told.by_peer) == (node(peer), Refusal::Directory, peer != 3)
            })
        }
    };
    for (at, peer) in [(0, 3), (1, 3), (2, 1)] {
        within(told[at].wait_for(refused_by_it(peer))).await.expect("it runs");
    }
    // The others go on without it, and it takes part in nothing.
    write(&nodes[..2], Bytes::from("without it")).await.unwrap();
    assert!(leader(&nodes[..2]).await.id() != node(3));
    assert!(nodes[2].metrics().borrow().status.applied < written.id.index, "nobody speaks to it");
    assert!(nodes[0].transport().refused_directory > 0 && nodes[2].transport().refused_by_peers > 0);
}

/// With the vote of who forgot it, a write that was answered would be lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_answered_is_not_lost_to_a_node_with_an_emptied_directory() {
    let dirs: Vec<_> = (1..=4).map(|_| tempfile::tempdir().unwrap()).collect();
    let names = Names::default();
    // Each is given the same set at each start.
    let run = async |id: u64, dir: usize| {
        let (raft, told) = start_durable(id, dirs[dir - 1].path(), &names).await;
        within(raft.bootstrap(members(1..=3))).await.unwrap();
        (raft, told)
    };
    let (one, two, three) = (run(1, 1).await.0, run(2, 2).await.0, run(3, 3).await.0);
    let first = write(&[one.clone(), two.clone(), three.clone()], "first".into()).await.unwrap();
    for raft in [&one, &two, &three] {
        caught_up(raft, first.id.index).await;
    }
    // Node 2 lacks what the others answer for, node 1 is away, and node 3 loses its disk.
    within(two.shutdown()).await;
    write(&[one.clone(), three.clone()], "precious".into()).await.unwrap();
    within(one.shutdown_now()).await;
    within(three.shutdown_now()).await;
    let (two, mut told) = run(2, 2).await;
    let (three, _) = run(3, 4).await;
    // Several election timeouts.
    let forgetful = two.wait(Duration::from_secs(2)).leader().await;
    assert!(forgetful.is_err(), "{forgetful:?} has forgotten what was answered");
    let directory =
        |told: &Option<Refused>| told.as_ref().is_some_and(|told| told.refusal == Refusal::Directory);
    within(told.wait_for(directory)).await.expect("it runs");
    let (one, _) = run(1, 1).await;
    write(&[one.clone(), two.clone()], "more".into()).await.unwrap();
    let kept = within(leader(&[one, two]).await.read(|journal| journal.commands.clone())).await.unwrap();
    assert_eq!(kept, ["first", "precious", "more"]);
    assert!(three.metrics().borrow().status.applied < first.id.index, "nobody speaks to it");
}

#[cfg(feature = "tls")]
mod tls {
    use raft_driver_tokio::tcp::{Tls, TlsError};

    use super::authority::Authority;
    use super::*;

    fn issue(authority: &Authority, id: u64, dir: &Path) {
        let issued = authority.issue(&[Tls::name(CLUSTER, node(id))]);
        for (file, content) in
            [("ca", &authority.pem), ("certificate", &issued.certificate), ("key", &issued.key)]
        {
            std::fs::write(dir.join("new"), content).unwrap();
            std::fs::rename(dir.join("new"), dir.join(file)).unwrap();
        }
    }

    fn load(id: u64, dir: &Path) -> Result<Tls, TlsError> {
        let identity = Identity { cluster: CLUSTER, node: node(id) };
        Tls::from_files(identity, dir.join("ca"), dir.join("certificate"), dir.join("key"))
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_cluster_over_tls_changes_its_authority_without_a_stop() {
        let (old, mut new) = (Authority::new("old"), Authority::new("new"));
        let dirs: Vec<_> = (1..=3).map(|_| tempfile::tempdir().unwrap()).collect();
        let dir = |id: u64| dirs[id as usize - 1].path();
        let names = Names::default();
        let bind = async |id: u64| {
            let tls = Some(load(id, dir(id)).unwrap());
            names.bind(id, TcpConfig { tls, ..TcpConfig::new(CLUSTER) }).await
        };
        let logs: Vec<_> = (1..=3).map(|_| MemoryLog::default()).collect();
        let mut nodes = Vec::new();
        for id in 1..=3 {
            issue(&old, id, dir(id));
            nodes.push(start(id, logs[id as usize - 1].clone(), bind(id).await).await);
        }
        for raft in &nodes {
            within(raft.bootstrap(members(1..=3))).await.unwrap();
        }
        let large = Bytes::from(vec![7; 1 << 20]);
        write(&nodes, large.clone()).await.unwrap();

        // Trust both; then certificates of the new one; each step at one node after the other, all of them running.
        let new_alone = new.pem.clone();
        new.pem.push_str(&old.pem);
        for id in 1..=3 {
            std::fs::write(dir(id).join("ca"), &new.pem).unwrap();
        }
        for id in 1..=3 {
            issue(&new, id, dir(id));
        }
        // Every connection is made anew, by nodes that were not told.
        for id in 1..=3 {
            let raft = nodes.remove(0);
            assert!(within(raft.shutdown()).await.is_orderly());
            let back = start(id, logs[id as usize - 1].clone(), bind(id).await).await;
            nodes.push(back.clone());
            let written = write(&nodes, Bytes::from(vec![id as u8])).await.unwrap();
            caught_up(&back, written.id.index).await;
        }
        for id in 1..=3 {
            std::fs::write(dir(id).join("ca"), &new_alone).unwrap();
        }
        let journal = within(leader(&nodes).await.read(|journal| journal.commands.clone())).await.unwrap();
        assert_eq!(journal, [large, vec![1].into(), vec![2].into(), vec![3].into()]);

        // One that still has a certificate of the old authority is refused, by itself first.
        issue(&old, 3, dir(3));
        std::fs::write(dir(3).join("ca"), &new_alone).unwrap();
        assert!(matches!(load(3, dir(3)), Err(TlsError::Untrusted)));
    }
}
