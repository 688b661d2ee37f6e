//! What the tasks of one node's transport share: who may connect, who is connected, and what is counted.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use raft_core::{Config, Membership, NodeId};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::storage::KnownPeers;
use crate::tcp::handshake::{Hello, Identity, Refusal, Timing, Versions};
use crate::tcp::{Refused, TcpConfig};
use crate::transport::{Counts, Inbox};

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: TcpConfig,
    /// What this node says of itself.
    pub(crate) identity: Identity,
    /// Where it says that it can be reached.
    pub(crate) address: String,
    pub(crate) inbox: Inbox,
    pub(crate) counts: Arc<Counts>,
    pub(crate) stop: CancellationToken,
    pub(crate) tasks: TaskTracker,
    refusals: watch::Sender<Option<Refused>>,
    gate: Mutex<Gate>,
}

/// Locked for moments only, never while anything is awaited.
#[derive(Debug, Default)]
struct Gate {
    membership: Arc<Membership>,
    /// Who is connected to this node.
    inbound: BTreeMap<NodeId, Inbound>,
    accepted: u64,
    /// Wakes whoever pauses before connecting to a peer.
    kicks: BTreeMap<NodeId, Arc<Notify>>,
}

#[derive(Debug)]
struct Inbound {
    /// Tells a connection from its successor.
    serial: u64,
    replaced: CancellationToken,
    /// Where the peer says that it can be reached.
    address: String,
}

/// A peer's one connection to this node, until dropped.
#[derive(Debug)]
pub(crate) struct Admitted {
    pub(crate) peer: NodeId,
    /// Cancelled when a newer connection takes its place.
    pub(crate) replaced: CancellationToken,
    serial: u64,
    shared: Arc<Shared>,
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let mut gate = self.shared.gate();
        if gate.inbound.get(&self.peer).is_some_and(|inbound| inbound.serial == self.serial) {
            gate.inbound.remove(&self.peer);
        }
    }
}

impl Shared {
    pub(crate) fn new(
        node: &Config,
        local: SocketAddr,
        config: TcpConfig,
        inbox: Inbox,
        refusals: watch::Sender<Option<Refused>>,
    ) -> Self {
        let identity = Identity {
            versions: Versions::OURS,
            cluster: config.cluster,
            bootstrap: config.bootstrap,
            timing: Timing::of(node),
            directory: config.known_peers.as_ref().map(KnownPeers::directory),
            node: node.id,
        };
        Self {
            identity,
            address: config.advertise.clone().unwrap_or_else(|| local.to_string()),
            config,
            inbox,
            counts: Arc::new(Counts::default()),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
            refusals,
            gate: Mutex::new(Gate::default()),
        }
    }

    fn gate(&self) -> MutexGuard<'_, Gate> {
        // Every use leaves the maps in order at each step: nothing to repair after a panic.
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a task until it ends or `stop` is cancelled.
    pub(crate) fn spawn(&self, stop: CancellationToken, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(async move {
            stop.run_until_cancelled(task).await;
        });
    }

    /// Whom this node belongs together with, from now on.
    pub(crate) fn set_membership(&self, membership: Arc<Membership>) {
        self.gate().membership = membership;
    }

    /// Where a peer that is connected says that it can be reached.
    pub(crate) fn stranger(&self, peer: NodeId) -> Option<String> {
        self.gate().inbound.get(&peer).map(|inbound| inbound.address.clone())
    }

    /// A peer to connect to has this alarm.
    pub(crate) fn set_kick(&self, peer: NodeId, kick: Arc<Notify>) {
        self.gate().kicks.insert(peer, kick);
    }

    pub(crate) fn remove_kick(&self, peer: NodeId) {
        self.gate().kicks.remove(&peer);
    }

    /// Whether a peer may connect. If so, an older connection of its own ends.
    pub(crate) fn admit(self: &Arc<Self>, hello: &Hello) -> Result<Admitted, Refusal> {
        self.identity.fits(&hello.from)?;
        if hello.to != self.identity.node {
            return Err(Refusal::Target);
        }
        let peer = hello.from.node;
        let mut gate = self.gate();
        if peer == self.identity.node {
            return Err(Refusal::OwnId);
        }
        // A leader or candidate may be a member that this node has not heard of yet (§6).
        let members = &gate.membership.nodes;
        if !members.contains_key(&peer) && !gate.inbound.contains_key(&peer) {
            let strangers = gate.inbound.keys().filter(|peer| !members.contains_key(peer)).count();
            if strangers >= self.config.strangers_max {
                return Err(Refusal::Full);
            }
        }
        gate.accepted += 1;
        let serial = gate.accepted;
        let replaced = CancellationToken::new();
        let inbound = Inbound { serial, replaced: replaced.clone(), address: hello.address.clone() };
        if let Some(older) = gate.inbound.insert(peer, inbound) {
            older.replaced.cancel();
        }
        if let Some(kick) = gate.kicks.get(&peer) {
            // It is there: no reason to pause any longer.
            kick.notify_one();
        }
        Ok(Admitted { peer, replaced, serial, shared: Arc::clone(self) })
    }

    /// Whether a peer, which is who it says, still has the data directory that it had before; a new one is remembered.
    pub(crate) async fn remember(&self, peer: &Identity) -> Result<(), Refusal> {
        let Some(known) = &self.config.known_peers else { return Ok(()) };
        known.admit(peer.node, peer.directory).await.map_err(|error| {
            tracing::error!(id = %self.identity.node, peer = %peer.node, %error, "raft.tcp.directory");
            Refusal::Directory
        })
    }

    /// Counts and tells a refusal. `log` is false where the same was told just before.
    pub(crate) fn refused(&self, refused: Refused, log: bool) {
        let counts = &self.counts;
        let count = match refused.refusal {
            _ if refused.by_peer => &counts.refused_by_peers,
            Refusal::Version => &counts.refused_version,
            Refusal::Cluster => &counts.refused_cluster,
            Refusal::Target => &counts.refused_target,
            Refusal::OwnId => &counts.refused_own_id,
            Refusal::Bootstrap => &counts.refused_bootstrap,
            Refusal::Full => &counts.refused_full,
            Refusal::Lease => &counts.refused_lease,
            Refusal::Tls => &counts.refused_tls,
            Refusal::Untrusted | Refusal::Expired | Refusal::Certificate => &counts.refused_certificate,
            Refusal::Name => &counts.refused_name,
            Refusal::Directory => &counts.refused_directory,
            Refusal::ShutOut => &counts.refused_shut_out,
            // Only ever said by peers.
            Refusal::Unknown => &counts.refused_by_peers,
        };
        count.one();
        if log {
            let Refused { peer, address, by_peer, refusal } = &refused;
            tracing::warn!(id = %self.identity.node, %peer, address, by_peer, %refusal, "raft.tcp.refused");
        }
        self.refusals.send_replace(Some(refused));
    }

    /// Small messages leave at once, and a peer that vanished without a word is noticed.
    pub(crate) fn tune(&self, stream: &TcpStream) -> std::io::Result<()> {
        stream.set_nodelay(true)?;
        let socket = SockRef::from(stream);
        let keepalive = TcpKeepalive::new().with_time(Duration::from_secs(5));
        socket.set_tcp_keepalive(&keepalive)?;
        // Without it, what is sent into a partition is repeated by the kernel at ever longer intervals, and a
        // connection can stay silent for minutes after the partition has healed.
        #[cfg(any(target_os = "linux", target_os = "android"))]
        socket.set_tcp_user_timeout(Some(self.config.write_timeout))?;
        Ok(())
    }
}
