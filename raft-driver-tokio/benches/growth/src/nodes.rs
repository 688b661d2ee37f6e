//! Nodes to measure, with a leader, in one process.
//!
//! * In memory: all nodes and all clients on one thread, messages through channels, logs in memory.
//! * Durable: each node on a thread of its own, with its own sockets on loopback and its own durable log and snapshots on
//!   disk; clients on the leader's thread, through its handle.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use raft_core::{Config, NodeId, RoleKind, SnapshotPolicy};
use raft_driver_tokio::storage::{DurableLog, Identity, MemoryLog, MemorySnapshots, SnapshotFiles};
use raft_driver_tokio::tcp::{Tcp, TcpConfig};
use raft_driver_tokio::transport::Channels;
use raft_driver_tokio::{Builder, ClusterId, Raft};
use tempfile::TempDir;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::bulk::Bulk;

const CLUSTER: ClusterId = ClusterId::new(0x6707);
/// The driver's default, and the durable log's cache of pages.
const QUEUE_BYTES_MAX: u64 = 128 << 20;
const CACHE_BYTES: u64 = 32 << 20;
/// Only a bound: what is waited for comes much sooner.
pub(crate) const BOUND: Duration = Duration::from_secs(300);

/// A thread with a runtime.
pub(crate) struct Host {
    pub(crate) runtime: Handle,
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Host {
    pub(crate) fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime");
        let handle = runtime.handle().clone();
        let (end, ended) = oneshot::channel::<()>();
        let thread = std::thread::spawn(move || {
            // Dropped or sent: it is over.
            let _ = runtime.block_on(ended);
        });
        Self { runtime: handle, end: Some(end), thread: Some(thread) }
    }

    /// Runs a future on this thread and waits for it.
    pub(crate) fn run<T: Send + 'static>(&self, future: impl Future<Output = T> + Send + 'static) -> T {
        let (sender, receiver) = mpsc::channel();
        self.runtime.spawn(async move {
            // Who asked waits below.
            let _ = sender.send(future.await);
        });
        receiver.recv().expect("what runs here does not panic")
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            // A panic was printed where it happened.
            let _ = thread.join();
        }
    }
}

/// Where nodes keep what they have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Memory,
    Durable,
}

impl Kind {
    pub(crate) const BOTH: [Self; 2] = [Self::Memory, Self::Durable];

    /// As a legend says it.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Memory => "in memory",
            Self::Durable => "durable over TCP",
        }
    }
}

/// How many nodes of which kind, and what they are told.
#[derive(Clone)]
pub(crate) struct Setup {
    pub(crate) kind: Kind,
    pub(crate) size: u64,
    /// The size of the state in snapshots.
    pub(crate) state_bytes: u64,
    /// Everything but the id and the time-outs.
    pub(crate) config: Config,
}

impl Setup {
    pub(crate) fn new(kind: Kind, size: u64) -> Self {
        let mut config = Config::new(NodeId::new(1));
        // A machine that is busy for a moment is no reason to elect another leader.
        config.heartbeat_interval = Duration::from_millis(100);
        config.election_timeout_min = Duration::from_secs(2);
        config.election_timeout_max = Duration::from_secs(4);
        Self { kind, size, state_bytes: 8, config }
    }

    /// Bytes of entries after which a snapshot is taken.
    pub(crate) fn log_bytes(&self) -> u64 {
        match self.config.snapshot_policy {
            SnapshotPolicy::LogBytes(bytes) => bytes,
            _ => 0,
        }
    }

    /// What the limits of nodes, handle and transport add up to, for the whole process.
    pub(crate) fn memory_limit_bytes(&self) -> u64 {
        let (config, tcp) = (&self.config, TcpConfig::new(CLUSTER));
        // Commands that wait for their outcome, at the leader.
        let handle = QUEUE_BYTES_MAX;
        let node = config.tail_bytes_max
            + config.unpersisted_bytes_max
            + config.apply_bytes_max
            + config.snapshot_chunk_bytes * 4;
        let peers = self.size - 1;
        let kept = match self.kind {
            // The log: what a snapshot replaces, what comes until it is there, and what is kept behind it all the same.
            Kind::Memory => {
                3 * self.log_bytes() + config.unapplied_bytes_max + config.inflight_bytes_max * peers
            }
            Kind::Durable => CACHE_BYTES + peers * (tcp.queue_bytes_max + 2 * tcp.inbound_bytes_max as u64),
        };
        handle + self.size * (node + kept)
    }
}

/// Where a node runs, and what it is found by again.
struct Place {
    host: usize,
    raft: Option<Raft<Bulk>>,
    memory: (MemoryLog, MemorySnapshots),
    address: String,
}

/// See above. The first node leads.
pub(crate) struct Cluster {
    setup: Setup,
    places: Vec<Place>,
    channels: Channels,
    dir: TempDir,
    hosts: Vec<Host>,
}

impl Cluster {
    pub(crate) fn start(setup: Setup) -> Self {
        let threads = if setup.kind == Kind::Memory { 1 } else { setup.size };
        let hosts = (0..threads).map(|_| Host::start()).collect();
        let places = (0..setup.size).map(|at| Place {
            host: usize::try_from(at % threads).expect("few nodes"),
            raft: None,
            memory: Default::default(),
            address: "127.0.0.1:0".into(),
        });
        let (places, channels) = (places.collect(), Channels::default());
        let dir = tempfile::tempdir().expect("a directory for stores");
        let mut cluster = Self { setup, places, channels, dir, hosts };
        // Bound before anybody is told where.
        let mut sockets = Vec::new();
        for at in 0..cluster.places.len() {
            sockets.push(cluster.bind(at));
        }
        for (at, socket) in sockets.into_iter().enumerate() {
            cluster.start_with(at, socket);
        }
        let members: BTreeMap<NodeId, Bytes> = (1..)
            .map(NodeId::new)
            .zip(cluster.places.iter().map(|place| Bytes::from(place.address.clone())))
            .collect();
        let leader = cluster.leader();
        cluster.leader_host().run(async move {
            leader.bootstrap(members).await.expect("it is pristine");
            // Refused while the others are not reached yet; then an election follows by itself.
            let _ = leader.campaign().await;
            leader.wait(BOUND).role(RoleKind::Leader).await.expect("nobody else campaigns");
        });
        cluster
    }

    fn bind(&mut self, at: usize) -> Option<Tcp> {
        let place = &mut self.places[at];
        if self.setup.kind == Kind::Memory {
            return None;
        }
        let address = place.address.clone();
        let bound = self.hosts[place.host].run(async move {
            Tcp::bind(&address, TcpConfig::new(CLUSTER)).await.expect("loopback can be listened on")
        });
        place.address = bound.local_addr().to_string();
        Some(bound)
    }

    /// Starts a node that was stopped, over what it has kept.
    pub(crate) fn restart(&mut self, at: usize) {
        let socket = self.bind(at);
        self.start_with(at, socket);
    }

    fn start_with(&mut self, at: usize, socket: Option<Tcp>) {
        let Self { setup, places, channels, dir, hosts } = self;
        let place = &mut places[at];
        let mut config = setup.config.clone();
        config.id = NodeId::new(at as u64 + 1);
        if at > 0 {
            // The first one leads. Others step in if it is gone for good, which fails the measurement.
            config.election_timeout_min *= 10;
            config.election_timeout_max *= 10;
        }
        let identity = Identity { cluster: CLUSTER, node: config.id };
        let builder = Builder::new(config);
        let machine = Bulk::new(setup.state_bytes);
        let root = dir.path().join(at.to_string());
        let ((log, snapshots), channels) = (place.memory.clone(), channels.clone());
        let raft = hosts[place.host].run(async move {
            let started = match socket {
                None => builder.start(log, snapshots, machine, channels.endpoint()).await,
                Some(tcp) => {
                    let log = DurableLog::open(&root, identity).expect("the log opens");
                    let files = SnapshotFiles::open(root.join("snapshots"), identity);
                    builder.start(log, files.expect("the snapshots open"), machine, tcp).await
                }
            };
            started.expect("the node starts")
        });
        place.raft = Some(raft);
    }

    /// Stops a node; what it has kept stays.
    pub(crate) fn stop(&mut self, at: usize) {
        let place = &mut self.places[at];
        if let Some(raft) = place.raft.take() {
            self.hosts[place.host].run(async move { raft.shutdown_now().await });
        }
    }

    pub(crate) fn leader(&self) -> Raft<Bulk> {
        self.node(0)
    }

    /// A node that runs.
    pub(crate) fn node(&self, at: usize) -> Raft<Bulk> {
        self.places[at].raft.clone().expect("it was started")
    }

    /// Where the leader runs, and its clients.
    pub(crate) fn leader_host(&self) -> &Host {
        &self.hosts[0]
    }

    /// Until every node has applied what the leader has committed.
    pub(crate) fn settle(&self) {
        let leader = self.leader();
        let nodes: Vec<_> = self.places.iter().filter_map(|place| place.raft.clone()).collect();
        self.leader_host().run(async move {
            let status = leader.status().await.expect("the leader runs");
            for node in nodes {
                node.wait(BOUND).applied(status.commit).await.expect("it follows");
            }
        });
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        (0..self.places.len()).for_each(|at| self.stop(at));
    }
}
