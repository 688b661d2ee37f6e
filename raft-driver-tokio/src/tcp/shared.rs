//! What the tasks of one process's transport share: who may connect, who is connected, who is sent to, and what is
//! counted.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use raft_core::{Config, NodeId};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::cluster::GroupId;
use crate::storage::{KnownPeers, PeerRefused};
use crate::tcp::budgets::Budgets;
use crate::tcp::dial::Dialer;
use crate::tcp::door::Door;
use crate::tcp::handshake::{Hello, Identity, Timing, Versions};
use crate::tcp::peers::{Book, Peer};
use crate::tcp::penalty::Offence;
use crate::tcp::queue::Lane;
use crate::tcp::registry::Registry;
use crate::tcp::{Refusal, Refused, TcpConfig};
use crate::transport::Counts;

/// The same refusal is logged again after this time.
const TOLD_AGAIN: Duration = Duration::from_secs(60);
/// Refusals that are remembered as logged, and peers with whose directories something is wrong.
const TOLD_MAX: usize = 256;

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: TcpConfig,
    /// What this node says of itself.
    pub(crate) identity: Identity,
    /// Where it says that it can be reached.
    pub(crate) address: String,
    pub(crate) registry: Registry,
    /// How much peers may send before it is taken in.
    pub(crate) budgets: Budgets,
    pub(crate) counts: Arc<Counts>,
    pub(crate) stop: CancellationToken,
    pub(crate) tasks: TaskTracker,
    /// Where all of them run: groups may have others, which end before.
    runtime: tokio::runtime::Handle,
    /// Who may begin a handshake.
    pub(crate) door: Arc<Door>,
    refusals: watch::Sender<Option<Refused>>,
    gate: Mutex<Gate>,
}

/// Locked for moments only, never while anything is awaited.
#[derive(Debug, Default)]
struct Gate {
    book: Book,
    /// Who is connected to this node.
    inbound: BTreeMap<(NodeId, Lane), Inbound>,
    accepted: u64,
    /// Refusals that were logged lately: who, whether that peer refused, and why.
    told: BTreeMap<(NodeId, bool, Refusal), Instant>,
    /// What is wrong with peers' data directories, as it was logged.
    directories: BTreeMap<NodeId, String>,
}

impl Gate {
    /// Where a peer that is connected says that it can be reached.
    fn spoken_from(&self, peer: NodeId) -> Option<&str> {
        let inbound = Lane::ALL.into_iter().find_map(|lane| self.inbound.get(&(peer, lane)))?;
        Some(&inbound.address)
    }

    /// A leader or candidate may be a member that this node has not heard of yet (§6): some strangers may connect.
    fn has_room(&self, peer: NodeId, strangers_max: usize) -> Result<(), Refusal> {
        if self.book.is_member(peer) || self.spoken_from(peer).is_some() {
            return Ok(());
        }
        let strangers = self.inbound.keys().map(|(peer, _)| *peer).filter(|peer| !self.book.is_member(*peer));
        // Both connections of a peer stand beside each other.
        let mut strangers: Vec<_> = strangers.collect();
        strangers.dedup();
        if strangers.len() >= strangers_max { Err(Refusal::Full) } else { Ok(()) }
    }

    /// Whether this refusal was not logged lately: peers try again and again.
    fn is_news(&mut self, refusal: (NodeId, bool, Refusal), now: Instant) -> bool {
        if self.told.get(&refusal).is_some_and(|at| now - *at < TOLD_AGAIN) {
            return false;
        }
        if self.told.len() >= TOLD_MAX {
            self.told.clear();
        }
        self.told.insert(refusal, now);
        true
    }

    /// Whether something else is wrong with this peer's directory than was logged, or nothing was until now.
    fn is_new_trouble(&mut self, peer: NodeId, trouble: String) -> bool {
        if self.directories.get(&peer) == Some(&trouble) {
            return false;
        }
        if self.directories.len() >= TOLD_MAX {
            self.directories.clear();
        }
        self.directories.insert(peer, trouble);
        true
    }
}

#[derive(Debug)]
struct Inbound {
    /// Tells a connection from its successor.
    serial: u64,
    replaced: CancellationToken,
    /// Where the peer says that it can be reached.
    address: String,
}

/// A peer's one connection of a lane to this node, until dropped.
#[derive(Debug)]
pub(crate) struct Admitted {
    pub(crate) peer: NodeId,
    pub(crate) lane: Lane,
    /// Cancelled when a newer connection takes its place.
    pub(crate) replaced: CancellationToken,
    serial: u64,
    shared: Arc<Shared>,
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let mut gate = self.shared.gate();
        let key = (self.peer, self.lane);
        if gate.inbound.get(&key).is_some_and(|inbound| inbound.serial == self.serial) {
            gate.inbound.remove(&key);
        }
    }
}

impl Shared {
    pub(crate) fn new(
        node: &Config,
        local: SocketAddr,
        config: TcpConfig,
        versions: Versions,
        refusals: watch::Sender<Option<Refused>>,
    ) -> Self {
        let identity = Identity {
            versions,
            cluster: config.cluster,
            bootstrap: config.bootstrap,
            timing: Timing::of(node),
            directory: config.known_peers.as_ref().map(KnownPeers::directory),
            node: node.id,
        };
        Self {
            identity,
            address: config.advertise.clone().unwrap_or_else(|| local.to_string()),
            door: Arc::new(Door::new(config.handshakes_max, config.shut_out_max)),
            budgets: Budgets::new(config.inbound_bytes_max, config.inbound_peer_bytes_max),
            config,
            registry: Registry::default(),
            counts: Arc::new(Counts::default()),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
            runtime: tokio::runtime::Handle::current(),
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
        let task = async move {
            stop.run_until_cancelled(task).await;
        };
        drop(self.tasks.spawn_on(task, &self.runtime));
    }

    /// A group has a member at this address.
    pub(crate) fn join(self: &Arc<Self>, peer: NodeId, address: &str) {
        let new = {
            let mut gate = self.gate();
            let was_member = gate.book.is_member(peer);
            let new = gate.book.join(peer, address, &self.stop);
            if !was_member {
                self.registry.changed();
            }
            new
        };
        if let Some(peer) = new {
            self.dial(&peer);
        }
    }

    /// A group's member is reached elsewhere.
    pub(crate) fn moved(&self, peer: NodeId, from: &str, to: &str) {
        self.gate().book.moved(peer, from, to);
    }

    /// A group no longer has this member.
    pub(crate) fn leave(&self, peer: NodeId, address: &str) {
        let mut gate = self.gate();
        gate.book.leave(peer, address);
        if !gate.book.is_member(peer) {
            self.registry.changed();
        }
    }

    /// Whether any group here has this member.
    pub(crate) fn is_member(&self, peer: NodeId) -> bool {
        self.gate().book.is_member(peer)
    }

    /// A group has ended.
    pub(crate) fn forget_group(&self, group: GroupId) {
        self.registry.remove(group);
        self.gate().book.forget_group(group);
    }

    /// Whom to send to what is for `to`. Whoever spoke to this node can be answered (§6): where it says that it is.
    pub(crate) fn reach(self: &Arc<Self>, to: NodeId) -> Option<Arc<Peer>> {
        let mut gate = self.gate();
        if let Some(peer) = gate.book.get(to) {
            return Some(Arc::clone(peer));
        }
        if gate.book.strangers() >= self.config.strangers_max {
            return None;
        }
        let address = gate.spoken_from(to)?.to_owned();
        let peer = gate.book.answer(to, &address, &self.stop);
        drop(gate);
        self.dial(&peer);
        Some(peer)
    }

    /// Ends the connections to a peer that is no member of any group and no longer speaks; `false` for any other.
    /// Should it come back, it is connected to anew.
    pub(crate) fn give_up(&self, peer: &Peer) -> bool {
        let mut gate = self.gate();
        let gone = !gate.book.is_member(peer.id) && gate.spoken_from(peer.id).is_none();
        if gone && !peer.is_gone() {
            gate.book.remove(peer.id);
        }
        gone || peer.is_gone()
    }

    fn dial(self: &Arc<Self>, peer: &Arc<Peer>) {
        for lane in Lane::ALL {
            let dialer = Dialer { shared: Arc::clone(self), peer: Arc::clone(peer), lane };
            self.spawn(peer.stop.clone(), dialer.run());
        }
    }

    /// Whether there is room for a connection of this peer: for a stranger there may be none.
    ///
    /// # Errors
    /// [`Refusal::Full`].
    pub(crate) fn has_room(&self, peer: NodeId) -> Result<(), Refusal> {
        self.gate().has_room(peer, self.config.strangers_max)
    }

    /// Takes the connection of a peer that is who it says, belongs here and is reached at `address`, if there is room. An
    /// older one of its own ends.
    pub(crate) fn admit(self: &Arc<Self>, hello: &Hello, address: String) -> Result<Admitted, Refusal> {
        let peer = hello.from.node;
        let mut gate = self.gate();
        gate.has_room(peer, self.config.strangers_max)?;
        gate.book.spoke(peer, &address);
        gate.accepted += 1;
        let (serial, lane) = (gate.accepted, hello.lane);
        let replaced = CancellationToken::new();
        let inbound = Inbound { serial, replaced: replaced.clone(), address };
        if let Some(older) = gate.inbound.insert((peer, lane), inbound) {
            older.replaced.cancel();
        }
        if let Some(peer) = gate.book.get(peer) {
            // It is there: no reason to pause any longer.
            Lane::ALL.iter().for_each(|lane| peer.kick(*lane).notify_one());
        }
        Ok(Admitted { peer, lane, replaced, serial, shared: Arc::clone(self) })
    }

    /// Whether a peer, which is who it says, still has the data directory that it had before; a new one is remembered.
    pub(crate) async fn remember(&self, peer: &Identity) -> Result<(), Refusal> {
        let Some(known) = &self.config.known_peers else { return Ok(()) };
        let Err(error) = known.admit(peer.node, peer.directory).await else {
            self.gate().directories.remove(&peer.node);
            return Ok(());
        };
        if self.gate().is_new_trouble(peer.node, error.to_string()) {
            tracing::error!(id = %self.identity.node, peer = %peer.node, %error, "raft.tcp.directory");
        }
        match error {
            PeerRefused::AnotherDirectory { .. } => Err(Refusal::Directory),
            PeerRefused::TooMany { .. } | PeerRefused::Failed { .. } => Err(Refusal::Unremembered),
        }
    }

    /// Notes that something that no honest node does, or does often, came from this address.
    pub(crate) fn offence(&self, from: SocketAddr, peer: NodeId, offence: Offence) {
        if let Some(pause) = self.door.note(from.ip(), offence) {
            let address = from.to_string();
            tracing::warn!(id = %self.identity.node, address, ?pause, "raft.tcp.shut_out");
            self.refused(Refused { peer, address, by_peer: false, refusal: Refusal::ShutOut });
        }
    }

    /// Counts and tells a refusal.
    pub(crate) fn refused(&self, refused: Refused) {
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
            Refusal::Unremembered => &counts.refused_unremembered,
            Refusal::ShutOut => &counts.refused_shut_out,
            // Only ever said by peers.
            Refusal::Unknown => &counts.refused_by_peers,
        };
        count.one();
        let Refused { peer, address, by_peer, refusal } = &refused;
        if self.gate().is_news((*peer, *by_peer, *refusal), Instant::now()) {
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
