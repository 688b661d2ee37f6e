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

impl Target {
    /// Whether `node` is wanted, as voter or learner.
    #[must_use]
    pub fn contains(&self, node: NodeId) -> bool {
        self.voters.contains(&node) || self.learners.contains(&node)
    }
}

/// What to change about who takes part (§6). One change at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum MembershipChange {
    /// Arrive at exactly these voters and learners, from whatever there is.
    Set {
        /// Where to arrive.
        target: Target,
        /// The addresses of those who are new, and of members that moved: in force at once, even if the change is given up.
        addresses: BTreeMap<NodeId, Bytes>,
    },
    /// Arrive at what there is with these differences. A node named here may be a member already: a learner among
    /// `voters` is promoted, a voter among `learners` demoted.
    Update {
        /// Who is to vote.
        voters: BTreeSet<NodeId>,
        /// Who is to receive the log without a vote, for as long as nobody changes it.
        learners: BTreeSet<NodeId>,
        /// Who is to leave.
        remove: BTreeSet<NodeId>,
        /// The addresses of those who are new, and of members that moved: in force at once, even if the change is given up.
        addresses: BTreeMap<NodeId, Bytes>,
    },
    /// Give up the change in progress. While new voters catch up: at any leader that votes. Once the joint configuration is in the
    /// log: only at the leader that appended it, in that same term, before it is committed.
    Cancel,
    /// A member is reached elsewhere.
    SetAddress {
        /// Who.
        node: NodeId,
        /// Where.
        address: Bytes,
    },
}

/// A cluster configuration (§6).
#[derive(Clone, Debug, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Membership {
    /// Those who vote and are counted for commits: C_new in the joint phase.
    pub voters: BTreeSet<NodeId>,
    /// C_old in the joint phase, else empty.
    pub outgoing: BTreeSet<NodeId>,
    /// Those who receive the log and are counted nowhere (thesis §4.2.1). Asked for their vote they give it, since they may
    /// be the ones who are behind (§6); and one that must refuse it, because its own log is newer, may have to lead until
    /// a voter has that log (thesis §4.2.2).
    pub learners: BTreeSet<NodeId>,
    /// Voters that become learners when the joint phase ends.
    pub learners_next: BTreeSet<NodeId>,
    /// The change in progress, if any. Whoever it names receives the log already.
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

    /// Whether two sets must agree: the joint phase of a change (§6).
    #[must_use]
    pub fn is_joint(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Whether no change is in progress.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.intent.is_none() && !self.is_joint()
    }

    /// Whether `node` receives the log: as voter, as learner, or because the change in progress names it.
    #[must_use]
    pub fn contains(&self, node: NodeId) -> bool {
        self.is_voter(node)
            || self.learners.contains(&node)
            || self.intent.as_ref().is_some_and(|intent| intent.contains(node))
    }

    /// Every member once, in order.
    #[must_use]
    pub fn members(&self) -> BTreeSet<NodeId> {
        let intent = self.intent.iter().flat_map(|intent| intent.voters.union(&intent.learners));
        let sets = [&self.voters, &self.outgoing, &self.learners];
        sets.into_iter().flatten().chain(intent).copied().collect()
    }

    /// Whether `node` alone decides: its own durable write commits.
    #[must_use]
    #[inline]
    pub fn is_sole_voter(&self, node: NodeId) -> bool {
        self.voters.len() == 1 && self.decides(node)
    }

    /// Whether nobody else votes in either set.
    #[inline(never)]
    fn decides(&self, node: NodeId) -> bool {
        self.voters.contains(&node) && self.outgoing.is_subset(&self.voters)
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
        if let Some(intent) = &self.intent {
            if intent.voters.is_empty() {
                return Err(MembershipError::NoVoters);
            }
            if let Some(node) = intent.voters.intersection(&intent.learners).next() {
                return Err(MembershipError::LearnerVotes(*node));
            }
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
