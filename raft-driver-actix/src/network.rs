//! Messages carried by an actor of the application's own.
//!
//! A node takes any [`Network`]: the shipped ones ([`Channels`](raft_driver_tokio::transport::Channels) within a
//! process, and [TCP](raft_driver_tokio::tcp), with TLS) hand what they receive straight to the node. [`ActorNetwork`] sends
//! through an actor, which routes by [`RaftMessage::target`], and whoever receives messages feeds them in as [`RaftMessage`]
//! too.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use actix::{Actor, Handler, Recipient};
use bytes::Bytes;
use raft_core::host::Transport;
use raft_core::{Config, Membership, Message, NodeId};
use raft_driver_tokio::transport::{Inbox, Network, Started, TransportStats};

use crate::messages::RaftMessage;

/// An actor that carries messages to the nodes that they are for: by HTTP, by a message queue, or to other actors. It may
/// lose them; it must not invent or alter them. Nothing is to be implemented but the handler.
pub trait RaftNetwork: Actor + Handler<RaftMessage> {}

impl<A: Actor + Handler<RaftMessage>> RaftNetwork for A {}

/// A network that is an actor.
///
/// * A message for which the actor's mailbox has no room is dropped and counted; the protocol repeats it. Give the
///   actor a mailbox of some hundred places (`Context::set_mailbox_capacity`).
/// * Where members are is in the membership that [`GetMetrics`](crate::metrics::GetMetrics) and its listeners tell.
#[derive(Clone)]
pub struct ActorNetwork {
    actor: Recipient<RaftMessage>,
    message_bytes_max: u64,
}

impl ActorNetwork {
    /// Sends through this actor: the recipient of a [`RaftNetwork`].
    #[must_use]
    pub fn new(actor: Recipient<RaftMessage>) -> Self {
        Self { actor, message_bytes_max: u64::MAX }
    }

    /// The longest encoded message that the actor carries. A node whose configuration needs more does not start.
    #[must_use]
    pub const fn message_bytes_max(mut self, bytes: u64) -> Self {
        self.message_bytes_max = bytes;
        self
    }
}

impl fmt::Debug for ActorNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ActorNetwork")
    }
}

impl Network for ActorNetwork {
    type Transport = ActorTransport;

    fn message_bytes_max(&self) -> u64 {
        self.message_bytes_max
    }

    /// The inbox is not needed: what is received comes as [`RaftMessage`].
    fn start(self, config: &Config, _: Inbox) -> Started<ActorTransport> {
        let counts = Arc::new(Counts::default());
        let stats = Arc::clone(&counts);
        Started {
            transport: ActorTransport { id: config.id, actor: self.actor, counts },
            stats: Arc::new(move || stats.snapshot()),
            stop: Box::pin(std::future::ready(())),
        }
    }

    fn send_letter(transport: &mut ActorTransport, to: NodeId, letter: Bytes) -> bool {
        transport.carry(RaftMessage::Letter { from: transport.id, to, letter })
    }
}

/// The sending half of an [`ActorNetwork`].
pub struct ActorTransport {
    id: NodeId,
    actor: Recipient<RaftMessage>,
    counts: Arc<Counts>,
}

impl ActorTransport {
    fn carry(&self, message: RaftMessage) -> bool {
        let sent = self.actor.try_send(message).is_ok();
        let count = if sent { &self.counts.sent } else { &self.counts.dropped };
        count.fetch_add(1, Ordering::Relaxed);
        sent
    }
}

impl fmt::Debug for ActorTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ActorTransport").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Transport for ActorTransport {
    fn send(&mut self, message: Message) {
        self.carry(RaftMessage::Protocol(message));
    }

    fn peers(&mut self, _: &Arc<Membership>) {
        // Routing is the actor's own matter.
    }
}

#[derive(Debug, Default)]
struct Counts {
    sent: AtomicU64,
    dropped: AtomicU64,
}

impl Counts {
    fn snapshot(&self) -> TransportStats {
        let mut stats = TransportStats::default();
        stats.messages_sent = self.sent.load(Ordering::Relaxed);
        stats.messages_dropped = self.dropped.load(Ordering::Relaxed);
        stats
    }
}
