//! What the node's task holds of the transport: a queue for each peer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use raft_core::host::Transport;
use raft_core::{Membership, Message, NodeId};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use crate::tcp::dial::Dialer;
use crate::tcp::pump::{Queue, size_bytes};
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
    is_member: Arc<AtomicBool>,
    messages: mpsc::Sender<Message>,
    bytes: Arc<AtomicU64>,
    stop: CancellationToken,
}

impl TcpSender {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, peers: BTreeMap::new(), members: 0 }
    }

    /// Begins to connect to a peer, instead of where it was looked for before.
    fn connect(&mut self, peer: NodeId, address: String, is_member: bool) {
        self.disconnect(peer);
        let shared = &self.shared;
        let (messages, queue) = mpsc::channel(shared.config.queue_messages_max);
        let bytes = Arc::new(AtomicU64::new(0));
        let stop = shared.stop.child_token();
        let kick = Arc::new(Notify::new());
        shared.set_kick(peer, Arc::clone(&kick));
        let is_member = Arc::new(AtomicBool::new(is_member));
        let dialer = Dialer {
            shared: Arc::clone(shared),
            peer,
            address: address.clone(),
            queue: Queue { messages: queue, bytes: Arc::clone(&bytes) },
            is_member: Arc::clone(&is_member),
            kick,
        };
        shared.spawn(stop.clone(), dialer.run());
        self.peers.insert(peer, Peer { address, is_member, messages, bytes, stop });
    }

    fn disconnect(&mut self, peer: NodeId) {
        if let Some(old) = self.peers.remove(&peer) {
            old.stop.cancel();
            self.shared.remove_kick(peer);
        }
    }

    /// Sees to it that whoever spoke to this node can be answered (§6): where that says that it is.
    fn reach_stranger(&mut self, to: NodeId) -> Option<()> {
        let ended = |peer: &Peer| peer.messages.is_closed();
        if let Some(peer) = self.peers.get(&to) {
            if !ended(peer) {
                return Some(());
            }
            if peer.is_member.load(Ordering::Relaxed) {
                // It was given up at the very moment when it became one.
                let address = peer.address.clone();
                self.connect(to, address, true);
                return Some(());
            }
        }
        if self.peers.len() >= self.members + self.shared.config.strangers_max {
            let gone = self.peers.iter().filter(|(_, peer)| ended(peer)).map(|(peer, _)| *peer);
            gone.collect::<Vec<_>>().into_iter().for_each(|peer| self.disconnect(peer));
            if self.peers.len() >= self.members + self.shared.config.strangers_max {
                return None;
            }
        }
        let address = self.shared.stranger(to)?;
        self.connect(to, address, false);
        Some(())
    }

    fn queue(&mut self, message: Message) -> Option<()> {
        let to = message.to;
        self.reach_stranger(to)?;
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
        let members: BTreeMap<NodeId, &Bytes> =
            membership.nodes.iter().map(|(peer, at)| (*peer, at)).collect();
        self.members = members.len();
        let is_gone = |peer: &NodeId, known: &Peer| {
            // One that left is dropped at once; one that was never a member goes on for as long as it speaks.
            !members.contains_key(peer)
                && (known.is_member.load(Ordering::Relaxed) || self.shared.stranger(*peer).is_none())
        };
        let gone = self.peers.iter().filter(|(peer, known)| is_gone(peer, known)).map(|(peer, _)| *peer);
        for peer in gone.collect::<Vec<_>>() {
            self.disconnect(peer);
        }
        let own = self.shared.identity.node;
        for (peer, address) in members.into_iter().filter(|(peer, _)| *peer != own) {
            let Ok(address) = std::str::from_utf8(address) else {
                tracing::error!(%peer, ?address, "raft.tcp.bad_address");
                self.disconnect(peer);
                continue;
            };
            match self.peers.get(&peer) {
                Some(known) if known.address == address && !known.messages.is_closed() => {
                    known.is_member.store(true, Ordering::Relaxed);
                }
                _ => self.connect(peer, address.to_owned(), true),
            }
        }
    }
}
