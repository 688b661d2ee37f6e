//! How messages travel.

use alloc::sync::Arc;

use crate::config::Config;
use crate::membership::Membership;
use crate::message::Message;

/// Carries messages to peers. How received ones get into the node is the driver's matter.
///
/// A transport may lose, duplicate, delay and reorder messages; it must not invent or alter them, and
/// `from` of a received one is the peer that it has authenticated.
pub trait Transport: Send + 'static {
    /// Queues the message for its receiver, or drops it if the queue is full or the peer unknown. Returns at once.
    ///
    /// Messages may be lost, come twice, and overtake each other, also two to the same peer: what has no payload may
    /// travel in a lane of its own, where a question how far a snapshot is overtakes the chunks that were sent before it.
    fn send(&mut self, message: Message);

    /// Whom to reach, and where: the members of `membership` with their addresses. Replaces the last call's.
    ///
    /// A node obeys a leader, and answers a candidate, that it was not told of yet (§6): one that has no log, and one
    /// that was away while the membership changed. So messages of servers that are no members must be received, and
    /// the answers to them carried, wherever the transport gets their addresses from.
    fn peers(&mut self, membership: &Arc<Membership>);
}

/// What an encoded message may need beside its entries, or its part of a snapshot.
const MESSAGE_OVERHEAD_BYTES: u64 = 64 * 1024;

/// The longest encoded message that a node with this configuration may send. A transport that carries less would be
/// given it again and again: refuse to start such a node.
#[must_use]
pub fn message_bytes_needed(config: &Config) -> u64 {
    let payload = config.append_bytes_max.max(config.command_bytes_max).max(config.snapshot_chunk_bytes);
    payload.saturating_add(MESSAGE_OVERHEAD_BYTES)
}
