//! What the node's task holds of the transport: a queue for each peer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use raft_core::host::Transport;
use raft_core::{Membership, Message, NodeId};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use crate::tcp::dial::{Dialer, Queue, size_bytes};
use crate::tcp::shared::Shared;

/// The sending half of a [`Tcp`](super::Tcp).
#[derive(Debug)]
pub struct TcpSender {
    shared: Arc<Shared>,
    peers: BTreeMap<NodeId, Peer>,
    /// How many there are in the membership; any others are strangers.
    members: usize,
}

#[derive(Debug)]
struct Peer {
    address: String,
    messages: mpsc::Sender<Message>,
    bytes: Arc<AtomicU64>,
    stop: CancellationToken,
}

impl TcpSender {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, peers: BTreeMap::new(), members: 0 }
    }

    /// Begins to connect to a peer, instead of where it was looked for before.
    fn connect(&mut self, peer: NodeId, address: String) {
        self.disconnect(peer);
        let shared = &self.shared;
        let (messages, queue) = mpsc::channel(shared.config.queue_messages_max);
        let bytes = Arc::new(AtomicU64::new(0));
        let stop = shared.stop.child_token();
        let kick = Arc::new(Notify::new());
        shared.set_kick(peer, Arc::clone(&kick));
        let dialer = Dialer {
            shared: Arc::clone(shared),
            peer,
            address: address.clone(),
            queue: Queue { messages: queue, bytes: Arc::clone(&bytes) },
            kick,
        };
        shared.spawn(stop.clone(), dialer.run());
        self.peers.insert(peer, Peer { address, messages, bytes, stop });
    }

    fn disconnect(&mut self, peer: NodeId) {
        if let Some(old) = self.peers.remove(&peer) {
            old.stop.cancel();
            self.shared.remove_kick(peer);
        }
    }

    fn queue(&mut self, message: Message) -> Option<()> {
        let to = message.to;
        if !self.peers.contains_key(&to) {
            if self.peers.len() >= self.members + self.shared.config.strangers_max {
                return None;
            }
            // A node without a log answers whoever speaks to it (§6), where that says that it is.
            let address = self.shared.stranger(to)?;
            self.connect(to, address);
        }
        let peer = self.peers.get(&to)?;
        let bytes = size_bytes(&message);
        if peer.bytes.load(Ordering::Relaxed) > self.shared.config.queue_bytes_max {
            return None;
        }
        // Counted first: whoever takes it out subtracts it.
        peer.bytes.fetch_add(bytes, Ordering::Relaxed);
        if peer.messages.try_send(message).is_err() {
            peer.bytes.fetch_sub(bytes, Ordering::Relaxed);
            return None;
        }
        Some(())
    }
}

impl Transport for TcpSender {
    fn send(&mut self, message: Message) {
        if self.queue(message).is_none() {
            self.shared.counts.messages_dropped.one();
        }
    }

    fn peers(&mut self, membership: &Arc<Membership>) {
        self.shared.set_membership(Arc::clone(membership));
        self.members = membership.nodes.len();
        let gone = self.peers.keys().filter(|peer| !membership.nodes.contains_key(peer));
        for peer in gone.copied().collect::<Vec<_>>() {
            self.disconnect(peer);
        }
        let others = membership.nodes.iter().filter(|(peer, _)| **peer != self.shared.identity.node);
        for (peer, address) in others.map(|(peer, address)| (*peer, address)).collect::<Vec<_>>() {
            let Ok(address) = std::str::from_utf8(address) else {
                tracing::error!(%peer, ?address, "raft.tcp.bad_address");
                self.disconnect(peer);
                continue;
            };
            if self.peers.get(&peer).is_none_or(|known| known.address != address) {
                self.connect(peer, address.to_owned());
            }
        }
    }
}
