//! Who takes part: the cluster's configuration as it stands in a log entry (§6).
//!
//! * A configuration is in force as soon as it is in the log, and out of force when truncated (§6).
//! * `outgoing` is empty except in the joint phase (C_old,new), when both sets must agree.
//! * The sets are sorted and free of duplicates, so that equal configurations are equal bytes.

use alloc::collections::{BTreeMap, BTreeSet};
use bytes::Bytes;

use crate::ids::NodeId;

/// What a membership change in progress wants to arrive at (§6); kept in the log so that a new leader
/// can finish what an old one began.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Target {
    /// The voters wanted.
    pub voters: BTreeSet<NodeId>,
    /// The learners wanted.
    pub learners: BTreeSet<NodeId>,
}

/// A cluster configuration (§6).
#[derive(Clone, Debug, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Membership {
    /// Those who vote and are counted for commits: C_new in the joint phase.
    pub voters: BTreeSet<NodeId>,
    /// C_old in the joint phase, else empty.
    pub outgoing: BTreeSet<NodeId>,
    /// Those who receive the log and do not vote (thesis §4.2.1).
    pub learners: BTreeSet<NodeId>,
    /// Voters that become learners when the joint phase ends.
    pub learners_next: BTreeSet<NodeId>,
    /// The change in progress, if any.
    pub intent: Option<Target>,
    /// The address of every node named above, in whatever form the transport uses.
    pub nodes: BTreeMap<NodeId, Bytes>,
}

impl Membership {
    /// A configuration in which every node votes.
    #[must_use]
    pub fn of_voters(nodes: BTreeMap<NodeId, Bytes>) -> Self {
        Self { voters: nodes.keys().copied().collect(), nodes, ..Self::default() }
    }

    /// Whether `node` votes: in either set while joint.
    #[must_use]
    pub fn is_voter(&self, node: NodeId) -> bool {
        self.voters.contains(&node) || self.outgoing.contains(&node)
    }

    /// Whether `node` receives the log, as voter or learner.
    #[must_use]
    pub fn contains(&self, node: NodeId) -> bool {
        self.is_voter(node) || self.learners.contains(&node)
    }

    /// Every member once, in order.
    #[must_use]
    pub fn members(&self) -> BTreeSet<NodeId> {
        [&self.voters, &self.outgoing, &self.learners].into_iter().flatten().copied().collect()
    }

    /// Whether `node` alone decides: its own durable write commits.
    #[must_use]
    pub fn is_sole_voter(&self, node: NodeId) -> bool {
        self.voters.len() == 1 && self.voters.contains(&node) && self.outgoing.is_subset(&self.voters)
    }

    /// Whether the parts fit together: someone votes, no learner votes, and everyone has an address.
    ///
    /// # Errors
    /// Says which rule is broken.
    pub fn validate(&self) -> Result<(), MembershipError> {
        if self.voters.is_empty() {
            return Err(MembershipError::NoVoters);
        }
        if let Some(node) = self.learners.iter().find(|node| self.is_voter(**node)) {
            return Err(MembershipError::LearnerVotes(*node));
        }
        if let Some(node) = self.learners_next.iter().find(|node| !self.outgoing.contains(node)) {
            return Err(MembershipError::NotOutgoing(*node));
        }
        let members = self.members();
        if let Some(node) = members.iter().find(|node| !self.nodes.contains_key(node)) {
            return Err(MembershipError::NoAddress(*node));
        }
        Ok(())
    }
}

/// Why a configuration cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MembershipError {
    /// Nobody votes, so nothing could ever be committed.
    #[error("the membership has no voters")]
    NoVoters,
    /// A node is both learner and voter.
    #[error("node {0} is both learner and voter")]
    LearnerVotes(NodeId),
    /// A node is to become a learner after a joint phase that it is not leaving.
    #[error("node {0} is to be demoted but is not an outgoing voter")]
    NotOutgoing(NodeId),
    /// A member without an address.
    #[error("node {0} has no address")]
    NoAddress(NodeId),
}
