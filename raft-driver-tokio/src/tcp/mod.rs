//! A transport over TCP: two connections for each direction between two processes, from the sender to the receiver.
//!
//! * Entries and parts of snapshots have a connection of their own, so that they delay no heartbeat. Any number of groups
//!   share both ([`TcpHub`]); what they have to say at the same time leaves in one write.
//! * Frames are a length in four bytes, little endian, the group, and a message as [`raft_core::wire`] encodes it.
//!   Payloads stay slices of the buffer that they were received in.
//! * A connection begins with a handshake: both sides name protocol version, cluster, themselves and the digest of
//!   the set that the cluster was bootstrapped with, and what leases rely on. Who does not fit is refused with a reason
//!   that both sides see. Whether the other is a member is not asked: a node may hear of its own cluster's change last.
//! * Nothing waits for a peer: each has a bounded queue for each group, and what does not fit, or waits for a peer that cannot be
//!   reached, is dropped. The protocol repeats what matters.
//! * A lost connection is made again after a pause that doubles, with jitter; at once if the peer connects first.
//! * Nothing that a peer sends can panic a node, stall it or fill its memory: frames, handshakes, connections and
//!   what was received and not yet taken in have limits.
//!
//! * Who sends what no node sends, or comes again and again though it is refused, is shut out for a while.
//!
//! # Refusals
//!
//! Whoever is refused is told the reason and nothing else. [`Tcp::refusals`] shows the last one on either side, the
//! counters of [`TransportStats`](crate::transport::TransportStats) all of them, and the event `raft.tcp.refused` each
//! once a minute. An address that is [shut out](TcpConfig::shut_out_max) is told nothing: its connections are closed.
//!
//! # Versions
//!
//! Both sides say which versions they speak, and take the highest in common: a release can be rolled out one node
//! after the other as long as neighbouring releases share a version.
//!
//! # Addresses
//!
//! A member's address is resolved again for every connection ([`TcpConfig::resolver`]), and all that it resolves to is tried, IPv6
//! and IPv4. A member that moves for good gets a new address by
//! [`MembershipChange::SetAddress`](raft_core::MembershipChange::SetAddress).
//!
//! # Data directories
//!
//! With [`TcpConfig::known_peers`], the id of a node's data directory travels in the handshake, and peers remember it on
//! their disks. A node that comes back empty under its old id has forgotten its votes and what it acknowledged: it is refused, by
//! both sides. Remove it and add it under a new id. Without `known_peers` nobody notices, and answered writes may be lost.
#![cfg_attr(feature = "tls", doc = "\n")]
#![cfg_attr(feature = "tls", doc = include_str!("tls.md"))]

mod accept;
mod budgets;
mod config;
mod dial;
mod door;
mod frame;
mod handshake;
mod hub;
mod peers;
mod penalty;
mod pump;
mod queue;
mod receive;
mod refusal;
mod registry;
mod resolve;
mod secure;
mod sender;
mod shared;
mod stream;
#[cfg(test)]
mod tests;
#[cfg(feature = "tls")]
mod tls;

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use raft_core::{Config, NodeId};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::cluster::GroupId;
use crate::transport::{Inbox, Network, Started};

pub use config::TcpConfig;
use handshake::Versions;
pub use hub::{GroupTaken, TcpGroup, TcpHub};
pub use refusal::Refusal;
pub use resolve::Resolver;
pub use sender::TcpSender;
use shared::Shared;
#[cfg(feature = "tls")]
pub use tls::{Tls, TlsError, TlsPart};

/// Why the transport could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TcpError {
    /// The address cannot be listened on: in use, not this host's, or forbidden.
    #[error("cannot listen on {address}: {error}")]
    Bind {
        /// The address.
        address: String,
        /// Why not.
        #[source]
        error: std::io::Error,
    },
    /// The configuration contradicts itself.
    #[error("{0}")]
    Config(&'static str),
}

/// A handshake was refused: a mistake in a configuration that does not heal by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The peer: as configured here if this node connected, else as it called itself.
    pub peer: NodeId,
    /// Where it is.
    pub address: String,
    /// Whether the peer refused this node; else this node refused the peer.
    pub by_peer: bool,
    /// Why.
    pub refusal: Refusal,
}

/// A listening socket, ready to be given to a node.
#[derive(Debug)]
pub struct Tcp {
    listener: TcpListener,
    local: SocketAddr,
    config: TcpConfig,
    versions: Versions,
    refusals: watch::Sender<Option<Refused>>,
}

impl Tcp {
    /// Listens on `address`, for instance `127.0.0.1:0`. Connections are accepted once a node is started with it.
    ///
    /// # Errors
    /// If the address cannot be listened on.
    pub async fn bind(address: &str, config: TcpConfig) -> Result<Self, TcpError> {
        config.validate().map_err(TcpError::Config)?;
        let bind = |error| TcpError::Bind { address: address.to_owned(), error };
        let listener = TcpListener::bind(address).await.map_err(bind)?;
        let local = listener.local_addr().map_err(bind)?;
        let (versions, refusals) = (Versions::OURS, watch::Sender::new(None));
        Ok(Self { listener, local, config, versions, refusals })
    }

    /// As an older or a newer release.
    #[cfg(test)]
    fn speaking(self, versions: Versions) -> Self {
        Self { versions, ..self }
    }

    /// Where it listens.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// The last handshake that was refused, by this node or a peer, as it changes. Ask before the node is started.
    #[must_use]
    pub fn refusals(&self) -> watch::Receiver<Option<Refused>> {
        self.refusals.subscribe()
    }

    /// Begins to accept connections, within the current runtime, for any number of groups whose nodes all have the id,
    /// the shortest election timeout and the lease of `node`.
    ///
    /// [`TcpConfig::bootstrap`] is compared for the whole process: leave it out unless all groups begin with the same set.
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    #[must_use]
    pub fn into_hub(self, node: &Config) -> TcpHub {
        let Self { listener, local, config, versions, refusals } = self;
        #[cfg(feature = "tls")]
        if let Some(tls) = config.tls.as_ref().filter(|tls| tls.identity().node != node.id) {
            let certified = tls.identity().node;
            tracing::error!(id = %node.id, %certified, "raft.tls.another_node");
        }
        let shared = Arc::new(Shared::new(node, local, config, versions, refusals.clone()));
        shared.spawn(shared.stop.clone(), accept::accept(Arc::clone(&shared), listener));
        TcpHub::new(shared, local, refusals)
    }
}

impl Network for Tcp {
    type Transport = TcpSender;

    fn message_bytes_max(&self) -> u64 {
        self.config.message_bytes_max()
    }

    fn check(&self, node: &Config) -> Result<(), &'static str> {
        #[cfg(feature = "tls")]
        if self.config.tls.as_ref().is_some_and(|tls| tls.identity().node != node.id) {
            return Err("the certificate is loaded for another node than the one that is started");
        }
        let _ = node;
        Ok(())
    }

    fn send_letter(transport: &mut TcpSender, to: NodeId, letter: Bytes) -> bool {
        TcpGroup::send_letter(transport, to, letter)
    }

    fn start(self, node: &Config, inbox: Inbox) -> Started<TcpSender> {
        let hub = self.into_hub(node);
        let group = hub.group(GroupId::default()).expect("a new hub has no groups");
        let started = group.start(node, inbox);
        Started { stop: Box::pin(async move { hub.stop().await }), ..started }
    }
}
