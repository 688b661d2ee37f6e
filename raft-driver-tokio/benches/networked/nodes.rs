//! Three nodes, each on a thread of its own.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use raft_core::host::LogStore;
use raft_core::{Config, NodeId};
use raft_driver_tokio::storage::{DurableLog, DurableReader, Identity, SnapshotFiles};
use raft_driver_tokio::tcp::{Tcp, TcpConfig, Tls};
use raft_driver_tokio::{Builder, ClusterId, Raft};
use tokio::sync::oneshot;

use crate::authority::Authority;
use crate::count::Count;
use crate::{Figures, load};

const CLUSTER: ClusterId = ClusterId::new(0xbe_4c);
const LEADER: NodeId = NodeId::new(1);

/// The first node leads: the others do not campaign for a minute.
fn config(id: NodeId) -> Config {
    let mut config = Config::new(id);
    if id != LEADER {
        config.election_timeout_min = Duration::from_secs(60);
        config.election_timeout_max = Duration::from_secs(120);
    }
    config
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

fn network(id: NodeId, authority: Option<&Authority>) -> TcpConfig {
    let tls = authority.map(|authority| {
        let issued = authority.issue(&[Tls::name(CLUSTER, id)]);
        let identity = Identity { cluster: CLUSTER, node: id };
        let (ca, certificate, key) = (&authority.pem, &issued.certificate, &issued.key);
        Tls::from_pem(identity, ca.as_bytes(), certificate.as_bytes(), key.as_bytes()).expect("they fit")
    });
    TcpConfig { tls, ..TcpConfig::new(CLUSTER) }
}

async fn start(id: NodeId, dir: &Path, tcp: Tcp) -> (Raft<Count>, DurableReader) {
    let identity = Identity { cluster: CLUSTER, node: id };
    let log = DurableLog::open(dir, identity).expect("a new log");
    let snapshots = SnapshotFiles::open(dir.join("snapshots"), identity).expect("a new directory");
    let reader = log.reader();
    let raft = Builder::new(config(id)).start(log, snapshots, Count::default(), tcp).await;
    (raft.expect("nothing to recover"), reader)
}

/// A follower on a thread of its own.
struct Follower {
    address: String,
    syncs: DurableReader,
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl Follower {
    fn start(id: NodeId, dir: &Path, config: TcpConfig) -> Self {
        let (started, told) = mpsc::channel();
        let (stop, stopped) = oneshot::channel();
        let dir = dir.to_owned();
        let thread = std::thread::spawn(move || {
            runtime().block_on(async move {
                let tcp = Tcp::bind("127.0.0.1:0", config).await.expect("a free port");
                let address = tcp.local_addr().to_string();
                let (raft, syncs) = start(id, &dir, tcp).await;
                started.send((address, syncs)).expect("it is waited for");
                stopped.await.expect("the end is told");
                raft.shutdown_now().await;
            });
        });
        let (address, syncs) = told.recv().expect("the follower starts");
        Self { address, syncs, stop, thread }
    }
}

pub(crate) fn measure(dir: &Path, clients: usize, round: Duration, with_tls: bool) -> Figures {
    let authority = with_tls.then(|| Authority::new("bench"));
    let dir_of = |id: NodeId| dir.join(id.to_string());
    let followers: Vec<_> = [2, 3]
        .map(NodeId::new)
        .into_iter()
        .map(|id| (id, Follower::start(id, &dir_of(id), network(id, authority.as_ref()))))
        .collect();
    let figures = runtime().block_on(async {
        let tcp = Tcp::bind("127.0.0.1:0", network(LEADER, authority.as_ref())).await.expect("a free port");
        let mut members: BTreeMap<NodeId, Bytes> =
            followers.iter().map(|(id, follower)| (*id, follower.address.clone().into())).collect();
        members.insert(LEADER, tcp.local_addr().to_string().into());
        let (leader, reader) = start(LEADER, &dir_of(LEADER), tcp).await;
        leader.bootstrap(members).await.expect("it is pristine");
        leader.wait(Duration::from_secs(10)).leader().await.expect("it is elected");
        let syncs = || reader.syncs() + followers.iter().map(|(_, node)| node.syncs.syncs()).sum::<u64>();
        let writer = leader.clone();
        let figures = load(clients, round, syncs, move |command| {
            let leader = writer.clone();
            async move {
                leader.write(command).await.expect("it leads");
            }
        })
        .await;
        leader.shutdown_now().await;
        figures
    });
    for (_, Follower { stop, thread, .. }) in followers {
        stop.send(()).expect("it runs");
        thread.join().expect("it ends in order");
    }
    figures
}
