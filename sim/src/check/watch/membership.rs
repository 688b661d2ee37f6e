//! Marks of changes of the membership.

use std::collections::BTreeSet;

use raft_core::{LogId, NodeId};

use crate::check::book::Book;
use crate::marks::{Mark, Marks};

/// What is remembered of memberships.
#[derive(Debug, Default)]
pub(super) struct Membership {
    /// Whoever was a member once.
    ever: BTreeSet<NodeId>,
}

impl Membership {
    /// A configuration was written or sent for the first time.
    pub(super) fn noted(&mut self, id: LogId, book: &Book, marks: &mut Marks) {
        let Some(membership) = book.configuration_at(id) else { return };
        let before = book.at(id, id.index.prev()).and_then(|prev| book.configuration(prev));
        if let Some((at, before)) = before {
            let leaves = before.is_joint() && !membership.is_joint();
            let back = leaves && membership.voters == before.outgoing && membership.voters != before.voters;
            marks.hit_if(Mark::JointBackedOut, back);
            marks.hit_if(Mark::JointLeftBySuccessor, leaves && !back && at.term != id.term);
            let promoted = before.learners.iter().any(|node| membership.voters.contains(node));
            marks.hit_if(Mark::LearnerPromoted, promoted);
            let demoted = |node: &NodeId| before.voters.contains(node) || before.outgoing.contains(node);
            marks.hit_if(Mark::VoterDemoted, membership.learners.iter().any(demoted));
            let returns = |node: &NodeId| !before.contains(*node) && self.ever.contains(node);
            marks.hit_if(Mark::ReAdded, membership.members().iter().any(returns));
        }
        self.ever.extend(membership.members());
    }
}
