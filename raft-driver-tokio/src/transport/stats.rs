//! What a transport has counted since it was started.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What a transport has counted since it was started.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct TransportStats {
            $($(#[$doc])* pub $name: u64,)*
        }

        /// The counters behind [`TransportStats`].
        #[derive(Debug, Default)]
        pub(crate) struct Counts {
            $(pub(crate) $name: Count,)*
        }

        impl Counts {
            pub(crate) fn snapshot(&self) -> TransportStats {
                TransportStats { $($name: self.$name.0.load(Ordering::Relaxed),)* }
            }
        }
    };
}

counters! {
    /// Messages handed to the network.
    messages_sent,
    /// Bytes handed to the network; zero within a process.
    bytes_sent,
    /// How often something was handed to the network: messages that wait together leave together.
    writes,
    /// Messages received.
    messages_received,
    /// Bytes received; zero within a process.
    bytes_received,
    /// Messages dropped because a queue was full, or the peer unknown, cut off or not connected.
    messages_dropped,
    /// Messages received for a group that this process does not run.
    unknown_group,
    /// Connections made to peers.
    connects,
    /// Attempts to connect that failed before the handshake was over.
    connect_failures,
    /// Connections to peers that were lost.
    disconnects,
    /// Handshakes that a peer refused.
    refused_by_peers,
    /// Handshakes refused because the other side speaks another version.
    refused_version,
    /// Handshakes refused because the other side is of another cluster.
    refused_cluster,
    /// Handshakes refused because another node was meant.
    refused_target,
    /// Handshakes refused because the peer has this node's id.
    refused_own_id,
    /// Handshakes refused because the peer was bootstrapped with another set.
    refused_bootstrap,
    /// Connections refused because there are too many.
    refused_full,
    /// Handshakes refused because the peer counts leases by another time.
    refused_lease,
    /// Handshakes refused because one side speaks TLS and the other does not.
    refused_tls,
    /// Handshakes refused because of the peer's certificate: not trusted, expired, missing or unfit.
    refused_certificate,
    /// Handshakes refused because the peer's certificate is another node's.
    refused_name,
    /// Handshakes refused because the peer has another data directory than before.
    refused_directory,
    /// Handshakes refused because the peer's data directory cannot be remembered.
    refused_unremembered,
    /// Handshakes and connections refused because of what the peer did before.
    refused_shut_out,
    /// Connections accepted and lost, or closed for a newer one of the same peer.
    inbound_closed,
    /// Connections accepted that failed before the handshake was over.
    inbound_failures,
    /// Connections closed because the peer went silent in its handshake, or within a frame.
    stalled,
    /// Connections closed because of bytes that are no message.
    malformed,
    /// Connections closed because of a frame above the limit.
    oversized,
    /// Connections closed because a message named another sender or receiver than the handshake.
    misaddressed,
}

/// One counter. Readers need no order between counters.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    pub(crate) fn one(&self) {
        self.add(1);
    }

    pub(crate) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }
}
