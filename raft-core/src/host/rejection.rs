//! What a caller is told whose write or read has no result: whether it happened, and who would know.

use bytes::Bytes;

use super::Unacceptable;
use crate::action::WriteRefusal;
use crate::ids::{LogId, NodeId};
use crate::membership::Membership;

/// Why a write or a read has no result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// Did not happen: the node does not lead.
    NotLeader {
        /// Who leads, if known.
        leader: Option<NodeId>,
        /// The leader's address as the membership has it.
        address: Option<Bytes>,
    },
    /// Did not happen: limits are reached.
    Busy,
    /// Did not happen: another leader's entry was committed in its place.
    Superseded,
    /// Did not happen, and never can.
    Refused(WriteRefusal),
    /// Did not happen, and never can: it is no command of this state machine.
    Invalid(Unacceptable),
    /// Did not happen: the node has stopped.
    Stopped,
    /// It may have happened, or may happen later.
    Unknown,
    /// It happened, and the state machine's response is lost.
    ResponseLost(LogId),
}

impl Rejection {
    /// The node does not lead; `membership` knows where the leader is.
    #[must_use]
    pub fn not_leader(leader: Option<NodeId>, membership: &Membership) -> Self {
        let address = leader.and_then(|leader| membership.nodes.get(&leader).cloned());
        Self::NotLeader { leader, address }
    }
}
