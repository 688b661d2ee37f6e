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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::book::tests::book;
    use crate::testing::{id, joint, node, voters};
    use raft_core::Entries;
    use std::sync::Arc;

    #[test]
    fn who_comes_back_and_how_a_joint_configuration_ends_is_seen() {
        let steps = [
            voters(&[1, 2, 3]),
            joint(&[1, 2, 3], &[1, 2]),
            voters(&[1, 2]),
            joint(&[1, 2], &[1, 2, 3]),
            voters(&[1, 2]),
        ];
        let (mut book, mut membership, mut marks) = (book(), Membership::default(), Marks::default());
        let mut reached = Vec::new();
        for (index, step) in (6..).zip(steps) {
            let (at, prev) = (id(index, 3), id(index - 1, 3));
            let entry = Entries::membership(at, Arc::new(step));
            book.note(node(2), prev, &entry, &mut Vec::new()).unwrap();
            membership.noted(at, &book, &mut marks);
            reached.push(
                [Mark::ReAdded, Mark::JointBackedOut, Mark::JointLeftBySuccessor]
                    .map(|mark| marks.runs(mark)),
            );
        }
        // The same leader left the first one; the second brings n3 back, and is taken back.
        assert_eq!(reached, [[0; 3], [0; 3], [0; 3], [1, 0, 0], [1, 1, 0]]);
    }
}
