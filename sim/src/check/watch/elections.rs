//! Marks of elections: who votes, who does not, and why a leader stops.

use raft_core::{NodeId, RoleKind, Status, Term};

use super::{Around, Taken, Watch};
use crate::check::disks::slot;
use crate::check::rules::decides;
use crate::marks::Mark;

/// What is remembered of elections.
#[derive(Debug, Default)]
pub(super) struct Elections {
    /// The latest term that somebody ran in, and who did first.
    candidate: Option<(Term, NodeId)>,
}

impl Watch {
    /// A node took in an event: what became of its vote, its term and its role.
    pub(super) fn voted(&mut self, before: &Status, after: &Status, around: &Around<'_>) {
        let node = after.id;
        let taken = self.nodes[slot(node)].taken;
        let led = self.nodes[slot(node)].led;
        let in_force = around.memberships.in_force(node);
        let sticky = after.counters.sticky > before.counters.sticky;
        let marks = &mut self.marks;
        marks.hit_if(Mark::RestartedVoterWaits, sticky && !led && before.role == RoleKind::Follower);
        match taken {
            Taken::PreVote { last, proposed_above } => {
                marks.hit_if(Mark::StickyPreVote, sticky);
                marks.hit_if(Mark::PreVoteRefusedByLog, !sticky && proposed_above && last < before.last);
            }
            Taken::RequestVote { from, last, of_term, transfer } => {
                marks.hit_if(Mark::StickyVote, sticky);
                let granted = after.voted_for == Some(from);
                marks.hit_if(Mark::VoteRefusedByLog, of_term && !sticky && !granted && last < before.last);
                let taken = of_term && before.term == after.term && before.voted_for.is_some();
                marks.hit_if(Mark::VoteGivenBefore, taken && !granted && before.voted_for != Some(node));
                let new = granted && (before.term, before.voted_for) != (after.term, after.voted_for);
                marks.hit_if(Mark::VoteForTransfer, new && transfer && before.leader.is_some());
                let stranger = !in_force.voters.is_empty() && !in_force.contains(from);
                marks.hit_if(Mark::VoteForStranger, new && stranger);
            }
            Taken::Append { from, late } => {
                marks.hit_if(Mark::EarlierLeaderHeard, late);
                let new = after.leader == Some(from) && before.leader != after.leader;
                let stranger = !in_force.voters.is_empty() && !in_force.contains(from);
                marks.hit_if(Mark::StrangerObeyed, new && stranger);
            }
            Taken::TimeoutNow => {
                marks.hit_if(Mark::TimeoutNowTooLate, after.role != RoleKind::Candidate);
            }
            Taken::Other => {}
        }
        let runs =
            after.role == RoleKind::Candidate && (before.role, before.term) != (after.role, after.term);
        if runs {
            match self.elections.candidate {
                Some((term, first)) if term == after.term => {
                    marks.hit_if(Mark::SplitVote, first != node);
                }
                _ => self.elections.candidate = Some((after.term, node)),
            }
        }
        let asks = after.role != RoleKind::Follower && before.role == RoleKind::Follower;
        marks.hit_if(Mark::NonVoterCampaigned, asks && !in_force.is_voter(node));
        marks.hit_if(
            Mark::CampaignLost,
            before.role == RoleKind::Candidate
                && after.role != RoleKind::Leader
                && (before.role, before.term) != (after.role, after.term),
        );
    }

    /// A node was elected.
    pub(super) fn elected(&mut self, leader: &Status, around: &Around<'_>) {
        let leads = |other: &super::Node| {
            other.up && other.status.is_some_and(|it| it.role == RoleKind::Leader && it.id != leader.id)
        };
        let others = self.nodes.iter().any(leads);
        self.marks.hit_if(Mark::TwoLeaders, others);
        let in_force = around.memberships.in_force(leader.id);
        self.marks.hit_if(Mark::ElectedWhileJoint, in_force.is_joint());
        self.marks.hit_if(Mark::NonVoterElected, !in_force.is_voter(leader.id));
        // What stands before the first entry of its own term.
        let inherited =
            around.book.leader(leader.term).and_then(|(_, first)| around.book.at(leader.last, first.prev()));
        let Some(inherited) = inherited else { return };
        let open = inherited.index > around.commit.last();
        let held = |voter| around.disks.holds(voter, inherited, around.book);
        self.marks.hit_if(Mark::Figure8, open && decides(in_force, held));
        let configuration = around.book.configuration(inherited);
        let open = configuration.is_some_and(|(at, _)| at.index > around.commit.last());
        self.marks.hit_if(Mark::ConfigurationInherited, open);
    }

    /// What a leader did, or why it stopped.
    pub(super) fn led(&mut self, before: &Status, after: &Status, around: &Around<'_>) {
        let marks = &mut self.marks;
        marks.hit_if(Mark::DeposedByTerm, after.term > before.term);
        if after.counters.leases_lost > before.counters.leases_lost {
            let oldest = self.nodes[slot(after.id)].writes.front().map_or(self.now, |write| write.at);
            // Clocks differ by a quarter at most.
            let stalled = self.now - oldest > self.election_max[slot(after.id)] * 3 / 4;
            marks.hit(if stalled { Mark::StalledDisk } else { Mark::LostMajority });
        }
        if after.role == RoleKind::Leader && after.commit > before.commit {
            marks.hit_if(Mark::CommitBeforeOwnDisk, after.durable < after.commit);
            let first = around.book.at(after.last, before.commit.next());
            let earlier = first.is_some_and(|id| id.term < after.term && id.term > Term::BOOTSTRAP);
            marks.hit_if(Mark::EarlierTermCommitted, earlier);
        }
    }
}
