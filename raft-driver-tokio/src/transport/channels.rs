//! Nodes of one process, joined by queues: for tests, benchmarks and examples. Links can be cut and healed.
//!
//! Messages are moved, never encoded; payloads stay shared. A link holds a limited number of messages, and drops
//! what is beyond it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use raft_core::host::Transport;
use raft_core::{Config, Membership, Message, NodeId};

use super::{Budget, Counts, Inbox, Link, Network, Started, TryDeliverError};

/// What one link may hold: by the least that a message counts, 16,384 messages.
const LINK_BYTES: usize = 16 * 1024 * 1024;

/// A network within the process. Clones are the same network.
///
/// ```
/// use raft_core::NodeId;
/// use raft_driver_tokio::transport::Channels;
///
/// let network = Channels::default();
/// let endpoint = network.endpoint(); // one for each start of a node
/// network.isolate(NodeId::new(1));
/// network.heal();
/// # drop(endpoint);
/// ```
#[derive(Clone, Debug, Default)]
pub struct Channels(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// Counts changes of `topology`, so that a sender looks at it only when it changed.
    version: AtomicU64,
    topology: Mutex<Topology>,
}

#[derive(Debug, Default)]
struct Topology {
    /// Who runs; the number tells a node from its successor of the same name.
    nodes: BTreeMap<NodeId, (u64, Inbox)>,
    /// Links that lose everything: from, to.
    cut: BTreeSet<(NodeId, NodeId)>,
    isolated: BTreeSet<NodeId>,
    started: u64,
}

impl Channels {
    /// A place for one node, for one start of it.
    #[must_use]
    pub fn endpoint(&self) -> Endpoint {
        Endpoint { network: self.clone() }
    }

    /// From now on, whatever `from` sends to `to` is lost.
    pub fn cut(&self, from: NodeId, to: NodeId) {
        self.change(|topology| {
            topology.cut.insert((from, to));
        });
    }

    /// From now on, whatever `node` sends or should receive is lost.
    pub fn isolate(&self, node: NodeId) {
        self.change(|topology| {
            topology.isolated.insert(node);
        });
    }

    /// Undoes every [`cut`](Self::cut) and [`isolate`](Self::isolate).
    pub fn heal(&self) {
        self.change(|topology| {
            topology.cut.clear();
            topology.isolated.clear();
        });
    }

    fn topology(&self) -> MutexGuard<'_, Topology> {
        // Each change is one call on a collection: after a panic it is done or not done, never half.
        self.0.topology.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<R>(&self, change: impl FnOnce(&mut Topology) -> R) -> R {
        let mut topology = self.topology();
        let result = change(&mut topology);
        self.0.version.fetch_add(1, Ordering::Release);
        result
    }
}

/// A place for one node in [`Channels`].
#[derive(Debug)]
pub struct Endpoint {
    network: Channels,
}

impl Network for Endpoint {
    type Transport = Sender;

    fn start(self, config: &Config, inbox: Inbox) -> Started<Sender> {
        let id = config.id;
        let network = self.network;
        let serial = network.change(|topology| {
            topology.started += 1;
            topology.nodes.insert(id, (topology.started, inbox));
            topology.started
        });
        let counts = Arc::new(Counts::default());
        let stats = Arc::clone(&counts);
        let sender = Sender { id, network: network.clone(), counts, version: 0, links: BTreeMap::new() };
        Started {
            transport: sender,
            stats: Arc::new(move || stats.snapshot()),
            stop: Box::pin(async move {
                network.change(|topology| {
                    if topology.nodes.get(&id).is_some_and(|(running, _)| *running == serial) {
                        topology.nodes.remove(&id);
                    }
                });
            }),
        }
    }

    fn send_letter(transport: &mut Sender, to: NodeId, letter: Bytes) -> bool {
        let from = transport.id;
        transport.link(to).is_some_and(|link| link.try_deliver_letter(from, letter).is_ok())
    }
}

/// The sending half of an [`Endpoint`].
#[derive(Debug)]
pub struct Sender {
    id: NodeId,
    network: Channels,
    counts: Arc<Counts>,
    /// The version of the topology that `links` was made from.
    version: u64,
    links: BTreeMap<NodeId, (u64, Link)>,
}

impl Sender {
    /// Brings `links` up to date, keeping those that still stand with what they hold.
    fn refresh(&mut self, version: u64) {
        let topology = self.network.topology();
        let id = self.id;
        let open = |to: &NodeId| {
            !topology.isolated.contains(&id)
                && !topology.isolated.contains(to)
                && !topology.cut.contains(&(id, *to))
        };
        self.links.retain(|to, (serial, _)| {
            open(to) && topology.nodes.get(to).is_some_and(|(running, _)| running == serial)
        });
        for (to, (serial, inbox)) in &topology.nodes {
            if *to != id && open(to) {
                self.links.entry(*to).or_insert_with(|| (*serial, inbox.link(Budget::new(LINK_BYTES))));
            }
        }
        self.version = version;
    }

    fn link(&mut self, to: NodeId) -> Option<&Link> {
        // Read before the topology: a change in between is seen at the next message.
        let version = self.network.0.version.load(Ordering::Acquire);
        if version != self.version {
            self.refresh(version);
        }
        self.links.get(&to).map(|(_, link)| link)
    }
}

impl Transport for Sender {
    fn send(&mut self, message: Message) {
        // Payloads are shared with the sender's log: a message costs the link one place, whatever its length.
        let sent = match self.link(message.to) {
            Some(link) => link.try_deliver(message, 0),
            None => Err(TryDeliverError::Full),
        };
        match sent {
            Ok(()) => self.counts.messages_sent.one(),
            Err(_) => self.counts.messages_dropped.one(),
        }
    }

    fn peers(&mut self, _membership: &Arc<Membership>) {
        // Everybody in the network can be reached by name.
    }
}
