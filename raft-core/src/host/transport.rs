//! How messages travel.

use alloc::sync::Arc;

use crate::membership::Membership;
use crate::message::Message;

/// Carries messages to peers. How received ones get into the node is the driver's matter.
///
/// A transport may lose, duplicate, delay and reorder messages; it must not invent or alter them, and
/// `from` of a received one is the peer that it has authenticated.
pub trait Transport: Send + 'static {
    /// Queues the message for its receiver, or drops it if the queue is full or the peer unknown. Returns at once.
    fn send(&mut self, message: Message);

    /// Whom to reach, and where: the members of `membership` with their addresses. Replaces the last call's.
    fn peers(&mut self, membership: &Arc<Membership>);
}
