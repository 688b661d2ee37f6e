//! The roles of Figure 4. A handler gets what is shared and its own role, and says what comes next; only
//! [`Node::step`](crate::Node::step) performs the transition.

pub(crate) mod candidate;
pub(crate) mod follower;
pub(crate) mod leader;

use alloc::boxed::Box;

use crate::action::RoleKind;
use crate::ids::NodeId;

use candidate::{Candidate, PreCandidate};
use follower::Follower;
use leader::Leader;

#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(crate) enum Role {
    Follower(Follower),
    PreCandidate(PreCandidate),
    Candidate(Candidate),
    Leader(Box<Leader>),
}

/// What a handler wants to happen to the role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Next {
    /// Nothing.
    Stay,
    /// Follow this leader, or nobody yet, in the current term.
    Follow(Option<NodeId>),
    /// Ask who would vote for this node (thesis §9.6).
    PreCampaign,
    /// Ask for votes in a new term (§5.2).
    Campaign {
        /// Because the leader asked for it (thesis §3.10).
        transfer: bool,
    },
    /// A majority has voted for this node (§5.2).
    Lead,
}

impl Role {
    pub(crate) fn kind(&self) -> RoleKind {
        match self {
            Self::Follower(_) => RoleKind::Follower,
            Self::PreCandidate(_) => RoleKind::PreCandidate,
            Self::Candidate(_) => RoleKind::Candidate,
            Self::Leader(_) => RoleKind::Leader,
        }
    }
}
