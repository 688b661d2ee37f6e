//! How messages get from node to node: what a transport must offer to be run here, and the way in for what it
//! receives.
//!
//! * A transport never waits in [`Transport::send`]: a full queue drops the message, and the protocol repeats it.
//! * What it receives goes through a [`Link`], with a [`Budget`] in bytes: a peer that floods a node is not read any
//!   further until the node has taken in what came before. A transport gives a peer that connects again the budget that it
//!   had, or it is none.
//!
//! * Beside messages of the protocol it may carry *letters*: bytes that drivers send each other, such as forwarded writes.
//!   A letter may be lost or late, but is delivered at most once: whoever sent it does not send it again either.
//!
//! Shipped: [`Channels`] within one process, and [`tcp`](crate::tcp).

mod budget;
mod channels;
mod stats;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use raft_core::host::Transport;
use raft_core::{Config, Message, NodeId};

pub use budget::{Budget, Room};
pub(crate) use budget::{Pool, WeakPool};
pub use channels::{Channels, Endpoint, Sender};
pub(crate) use stats::Counts;
pub use stats::TransportStats;

/// A transport that is ready to be started with a node.
pub trait Network: Send + 'static {
    /// The part that sends.
    type Transport: Transport;

    /// The longest encoded message that it carries.
    fn message_bytes_max(&self) -> u64 {
        u64::MAX
    }

    /// Whether a node of this configuration can use it. By default, any can.
    ///
    /// # Errors
    /// Says why not.
    fn check(&self, config: &Config) -> Result<(), &'static str> {
        let _ = config;
        Ok(())
    }

    /// Begins to receive for the node of this configuration, into `inbox`. Called once, inside the runtime.
    fn start(self, config: &Config, inbox: Inbox) -> Started<Self::Transport>;

    /// Queues a letter of at most [`message_bytes_max`](Self::message_bytes_max) bytes for the driver of another node.
    /// Returns at once, and whether the letter may arrive: `false` promises that it will not. It must not arrive twice,
    /// however the network behaves. By default no letter is ever sent, and writes are not forwarded over this network.
    fn send_letter(transport: &mut Self::Transport, to: NodeId, letter: Bytes) -> bool {
        let _ = (transport, to, letter);
        false
    }
}

/// A transport that runs.
pub struct Started<T> {
    /// The part that sends.
    pub transport: T,
    /// A look at its counters.
    pub stats: Arc<dyn Fn() -> TransportStats + Send + Sync>,
    /// Once polled: closes everything, and resolves when every task has ended and every socket is closed.
    pub stop: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl<T> std::fmt::Debug for Started<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Started").finish_non_exhaustive()
    }
}

/// Something that a transport has to tell its node.
#[derive(Debug)]
pub enum Incoming {
    /// A message from the peer that the transport has authenticated as its sender.
    Message(Message, Room),
    /// A letter from the driver of the node that the transport has authenticated as its sender.
    Letter {
        /// Who sent it.
        from: NodeId,
        /// What it says.
        letter: Bytes,
        /// Its share of the link's budget.
        room: Room,
    },
    /// The connection to this peer was lost, and with it perhaps what was on the way; or it is there again, and what was sent
    /// meanwhile was dropped.
    Unreachable(NodeId),
}

/// The node is gone: nothing is received for it any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the node has stopped")]
pub struct Closed;

/// Why [`Link::try_deliver`] did not deliver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TryDeliverError {
    /// The link's budget is used up.
    #[error("the node has not yet taken in what came before")]
    Full,
    /// The node is gone.
    #[error(transparent)]
    Closed(#[from] Closed),
}

type Sink = dyn Fn(Incoming) -> Result<(), Closed> + Send + Sync;

/// The way into a node for whatever transports receive.
#[derive(Clone)]
pub struct Inbox(Arc<Sink>);

impl Inbox {
    /// An inbox that hands everything to `sink`, which must not block: a host's unbounded queue. Budgets are kept
    /// by [`Link`].
    pub fn new(sink: impl Fn(Incoming) -> Result<(), Closed> + Send + Sync + 'static) -> Self {
        Self(Arc::new(sink))
    }

    /// A way in, for as much as the budget has room for.
    #[must_use]
    pub fn link(&self, budget: Budget) -> Link {
        Link { inbox: self.clone(), budget }
    }

    /// Tells the node that the connection to `peer` was lost.
    pub fn unreachable(&self, peer: NodeId) {
        // A node that is gone need not know.
        let _ = (self.0)(Incoming::Unreachable(peer));
    }
}

impl std::fmt::Debug for Inbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Inbox")
    }
}

/// The way into a node for one connection.
#[derive(Clone, Debug)]
pub struct Link {
    inbox: Inbox,
    budget: Budget,
}

impl Link {
    /// Delivers a message of about `bytes`, once there is room for it.
    ///
    /// # Errors
    /// If the node is gone.
    pub async fn deliver(&self, message: Message, bytes: usize) -> Result<(), Closed> {
        let room = self.budget.room(bytes).await?;
        (self.inbox.0)(Incoming::Message(message, room))
    }

    /// Delivers a message of about `bytes` if there is room for it.
    ///
    /// # Errors
    /// If there is none, or the node is gone.
    pub fn try_deliver(&self, message: Message, bytes: usize) -> Result<(), TryDeliverError> {
        let room = self.budget.try_room(bytes).ok_or(TryDeliverError::Full)?;
        Ok((self.inbox.0)(Incoming::Message(message, room))?)
    }

    /// Delivers a letter, once there is room for it.
    ///
    /// # Errors
    /// If the node is gone.
    pub async fn deliver_letter(&self, from: NodeId, letter: Bytes) -> Result<(), Closed> {
        let room = self.budget.room(letter.len()).await?;
        (self.inbox.0)(Incoming::Letter { from, letter, room })
    }

    /// Delivers a letter if there is room for it.
    ///
    /// # Errors
    /// If there is none, or the node is gone.
    pub fn try_deliver_letter(&self, from: NodeId, letter: Bytes) -> Result<(), TryDeliverError> {
        let room = self.budget.try_room(letter.len()).ok_or(TryDeliverError::Full)?;
        Ok((self.inbox.0)(Incoming::Letter { from, letter, room })?)
    }
}
