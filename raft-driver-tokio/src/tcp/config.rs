//! Limits and time-outs of the TCP transport.

use std::net::SocketAddr;
use std::time::Duration;

use crate::cluster::{BootstrapDigest, ClusterId};
use crate::storage::KnownPeers;
use crate::tcp::Resolver;
#[cfg(feature = "tls")]
use crate::tcp::Tls;
use crate::tcp::frame::HEADER_BYTES;
use crate::tcp::handshake::HELLO_BYTES_MAX;

/// The configuration of a [`Tcp`](super::Tcp). Start from [`TcpConfig::new`] and change what you need.
#[derive(Clone, Debug)]
pub struct TcpConfig {
    /// The cluster. Nodes of another are refused.
    pub cluster: ClusterId,
    /// The set that the cluster was bootstrapped with, whoever its members are now; a peer with another is refused.
    /// Default `None`: not compared, as for a node that joins later.
    pub bootstrap: Option<BootstrapDigest>,
    /// Where peers reach this node, told in handshakes to those that do not know it yet. Default: where it listens; of a
    /// node that listens on all addresses of its host, peers take the address that it connects from, with its port.
    pub advertise: Option<String>,
    /// Finds the sockets behind the addresses of the membership, again before each connection. Default: the system, for
    /// `host:port`.
    pub resolver: Resolver,
    /// Certificate, key and authorities. With it, every connection is encrypted, and peers must prove who they are.
    /// Default `None`: plain text, and peers are believed. All nodes of a cluster must do the same.
    #[cfg(feature = "tls")]
    pub tls: Option<Tls>,
    /// What this node remembers of its peers' data directories: a peer that lost its disk and comes back under its old
    /// id is refused. With a durable log, always give it what its `peers()` returns: a member that votes again without what
    /// it acknowledged may lose answered writes. Default `None`: nothing is compared.
    pub known_peers: Option<KnownPeers>,
    /// Longest frame. Must hold the longest command, the longest append and a part of a snapshot. Default 8 MiB.
    pub frame_bytes_max: u32,
    /// Messages of one group that wait to be sent to one peer; more are dropped. Default 4,096.
    pub queue_messages_max: usize,
    /// Bytes of one group that wait to be sent to one peer; messages beyond them are dropped. Default 32 MiB.
    pub queue_bytes_max: u64,
    /// Bytes of all groups that wait to be sent to one peer; beyond them each group may have one message in the queue.
    /// Default 128 MiB.
    pub queue_peer_bytes_max: u64,
    /// Bytes received from one peer that a group's node has not yet taken in; for each of the peer's two connections, and
    /// those that it makes after them. At the limit, messages without payloads are dropped, and no more payloads are read
    /// from that peer. Peers that are not members count as one. Default 16 MiB.
    pub inbound_bytes_max: usize,
    /// The same for all groups of the process together: no peer takes up more than twice this. Default 128 MiB.
    pub inbound_peer_bytes_max: usize,
    /// Connections that are in their handshake. When one more comes, the oldest of the address that has most of them is
    /// closed. Default 64.
    pub handshakes_max: usize,
    /// Peers connected that are not members, as far as this node knows; more are refused. A member has two connections.
    /// Each holds up to `frame_bytes_max` of a frame that is not whole yet, beside all budgets: two of them for each of these
    /// peers, a gigabyte with the defaults. Default 64.
    pub strangers_max: usize,
    /// For a connection to come about. Default 2 s.
    pub connect_timeout: Duration,
    /// For the handshake after it. Default 2 s.
    pub handshake_timeout: Duration,
    /// For a peer to take any bytes of what it is sent, after which the connection is given up. Default 5 s.
    pub write_timeout: Duration,
    /// For a peer to go on with a frame that it has begun, after which the connection is closed. Default 5 s.
    pub stall_timeout: Duration,
    /// The longest time for which an address is shut out that sends what no node sends, again and again, or connects
    /// again and again though it is refused. All nodes behind one address share its fate. Zero: nobody is shut out.
    /// Default 30 s.
    pub shut_out_max: Duration,
    /// The first pause before a connection is tried again. Default 20 ms.
    pub backoff_min: Duration,
    /// The longest pause. Default 1 s.
    pub backoff_max: Duration,
}

impl TcpConfig {
    /// The defaults for a node of this cluster.
    #[must_use]
    pub fn new(cluster: ClusterId) -> Self {
        const MIB: u32 = 1024 * 1024;
        Self {
            cluster,
            bootstrap: None,
            advertise: None,
            resolver: Resolver::default(),
            #[cfg(feature = "tls")]
            tls: None,
            known_peers: None,
            frame_bytes_max: 8 * MIB,
            queue_messages_max: 4096,
            queue_bytes_max: 32 * MIB as u64,
            queue_peer_bytes_max: 128 * MIB as u64,
            inbound_bytes_max: 16 * MIB as usize,
            inbound_peer_bytes_max: 128 * MIB as usize,
            handshakes_max: 64,
            strangers_max: 64,
            connect_timeout: Duration::from_secs(2),
            handshake_timeout: Duration::from_secs(2),
            write_timeout: Duration::from_secs(5),
            stall_timeout: Duration::from_secs(5),
            shut_out_max: Duration::from_secs(30),
            backoff_min: Duration::from_millis(20),
            backoff_max: Duration::from_secs(1),
        }
    }

    /// The longest message that fits in a frame.
    pub(super) fn message_bytes_max(&self) -> u64 {
        u64::from(self.frame_bytes_max).saturating_sub(HEADER_BYTES as u64)
    }

    pub(super) fn validate(&self) -> Result<(), &'static str> {
        const COUNT_MAX: usize = 65_536;
        const BYTES_MAX: u64 = 1 << 30;
        const TIME_MAX: Duration = Duration::from_secs(60 * 60);
        let times = [
            self.connect_timeout,
            self.handshake_timeout,
            self.write_timeout,
            self.stall_timeout,
            self.backoff_min,
            self.backoff_max,
        ];
        let counts = [self.queue_messages_max, self.handshakes_max, self.strangers_max];
        let inbound = [self.inbound_bytes_max as u64, self.inbound_peer_bytes_max as u64];
        let bytes = [self.queue_bytes_max, self.queue_peer_bytes_max, inbound[0], inbound[1]];
        if times.iter().any(Duration::is_zero) {
            return Err("time-outs and pauses must not be zero");
        }
        if times.iter().any(|time| *time > TIME_MAX) || self.shut_out_max > TIME_MAX {
            return Err("time-outs and pauses must not be above an hour");
        }
        if self.backoff_min > self.backoff_max {
            return Err("backoff_min must not be above backoff_max");
        }
        if counts.contains(&0) || bytes.contains(&0) {
            return Err("limits must not be zero");
        }
        if counts.iter().any(|count| *count > COUNT_MAX) {
            return Err("queue_messages_max, handshakes_max and strangers_max must not be above 65,536");
        }
        if bytes.iter().any(|bytes| *bytes > BYTES_MAX) || u64::from(self.frame_bytes_max) > BYTES_MAX {
            return Err("byte limits must not be above 1 GiB");
        }
        if (self.frame_bytes_max as usize) < HELLO_BYTES_MAX {
            return Err("frame_bytes_max must hold a handshake");
        }
        if self.advertise.as_ref().is_some_and(|address| address.len() > HELLO_BYTES_MAX / 2) {
            return Err("advertise is too long");
        }
        let advertised = self.advertise.as_deref().and_then(|address| address.parse::<SocketAddr>().ok());
        if advertised.is_some_and(|address| address.ip().to_canonical().is_unspecified()) {
            return Err("advertise is no address of a host: name one where peers reach this node, or none");
        }
        #[cfg(feature = "tls")]
        if self.tls.as_ref().is_some_and(|tls| tls.identity().cluster != self.cluster) {
            return Err("tls is of another cluster");
        }
        Ok(())
    }
}
