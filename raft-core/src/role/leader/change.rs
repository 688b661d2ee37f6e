//! The leader's part in a change of the membership (§6): it takes the next step as soon as the last one is committed.
//!
//! * One change at a time, and none before an entry of the current term is committed (TRAP 44).
//! * What to do next is read from the log, so a new leader finishes what an old one began (TRAPS 48, 50).
//! * New voters catch up before they vote (thesis §4.2.1). A change whose new voters make no progress is given up.
//! * Only the leader that appended the joint entry backs out of it, and only before it is committed: nobody can have
//!   C_new in its log yet, so every majority that counts still contains one of C_old (§6).
//! * A leader that does not vote leaves once the configuration that says so and an entry of its own are committed (§6), after
//!   it told everybody (TRAP 47).

use alloc::sync::Arc;
use alloc::vec::Vec;

use super::Leader;
use crate::action::{AdminOutcome, AdminRefusal, Notice};
use crate::change;
use crate::entry::{BlockBody, Window};
use crate::ids::{LogId, LogIndex, NodeId, Ticket};
use crate::membership::{Membership, MembershipChange};
use crate::progress::Progress;
use crate::quorum;
use crate::role::Next;
use crate::state::Shared;
use crate::time::Instant;

#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(super) struct Change {
    /// Who asked for the change in progress, if it was asked for here.
    ticket: Option<Ticket>,
    /// Who asked to cancel it.
    cancel: Option<Ticket>,
    /// Why it is being undone.
    undone: Option<AdminRefusal>,
    /// When its new voters last made progress.
    progress: Instant,
    farewell: Option<Farewell>,
}

/// The commit of a configuration that some left is being told.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
struct Farewell {
    since: Instant,
    /// The round that tells it.
    round: u64,
    /// Where the configuration stands.
    index: LogIndex,
}

impl Farewell {
    fn is_over(&self, shared: &Shared) -> bool {
        shared.now.since(self.since) >= shared.config.election_timeout_max
    }

    fn is_known_to(&self, peer: &Progress) -> bool {
        peer.round() >= self.round && peer.match_index() >= self.index
    }
}

impl Change {
    pub(super) fn new(now: Instant) -> Self {
        Self { ticket: None, cancel: None, undone: None, progress: now, farewell: None }
    }

    pub(super) fn is_some(&self) -> bool {
        self.ticket.is_some() || self.cancel.is_some() || self.farewell.is_some()
    }

    /// The leadership ends before the change does: whoever leads next goes on with it.
    pub(super) fn give_up(&mut self, shared: &mut Shared) {
        for ticket in [self.ticket.take(), self.cancel.take()].into_iter().flatten() {
            shared.admin(ticket, AdminOutcome::Unknown);
        }
    }
}

impl Leader {
    /// A peer got further. Only those for whom the change or the transfer waits count.
    pub(super) fn progressed(&mut self, shared: &mut Shared, node: NodeId) {
        Self::goes_on(shared, node);
        let membership = shared.membership();
        let waits = membership.intent.as_ref().is_some_and(|target| target.voters.contains(&node));
        if waits && !membership.is_voter(node) && self.peer(node).is_some_and(|peer| !peer.is_caught_up()) {
            self.change.progress = shared.now;
        }
    }

    /// An operator wants a change.
    pub(crate) fn change_membership(
        &mut self,
        shared: &mut Shared,
        ticket: Ticket,
        change: &MembershipChange,
    ) {
        let begun = match change {
            MembershipChange::Cancel => self.cancel_change(shared, ticket),
            _ => self.begin_change(shared, ticket, change),
        };
        if let Err(refusal) = begun {
            shared.admin(ticket, AdminOutcome::Refused(refusal));
        }
    }

    fn begin_change(
        &mut self,
        shared: &mut Shared,
        ticket: Ticket,
        change: &MembershipChange,
    ) -> Result<(), AdminRefusal> {
        let (index, membership) = shared.log.membership();
        if !shared.is_voter() {
            return Err(AdminRefusal::NotLeader { leader: None });
        } else if !membership.is_settled() || index > shared.commit_index || self.change.ticket.is_some() {
            return Err(AdminRefusal::ChangeInProgress);
        } else if shared.commit_index < self.noop {
            return Err(AdminRefusal::NoEntryCommitted);
        } else if shared.handover.is_some() {
            return Err(AdminRefusal::TransferInProgress);
        }
        let next = change::begin(membership, change)?;
        let farewell = self.change.farewell;
        self.change = Change { ticket: Some(ticket), farewell, ..Change::new(shared.now) };
        self.append_membership(shared, next);
        Ok(())
    }

    fn cancel_change(&mut self, shared: &mut Shared, ticket: Ticket) -> Result<(), AdminRefusal> {
        let (index, membership) = shared.log.membership();
        if !shared.is_voter() {
            return Err(AdminRefusal::NotLeader { leader: None });
        } else if membership.intent.is_none() {
            return Err(AdminRefusal::NothingToCancel);
        } else if self.change.cancel.is_some() {
            return Err(AdminRefusal::ChangeInProgress);
        } else if membership.is_joint() && !self.may_back_out(shared, index) {
            return Err(AdminRefusal::TooLate);
        }
        self.change.cancel = Some(ticket);
        Ok(())
    }

    /// Whether the configuration in force, a joint one, was appended by this leader and is not committed.
    fn may_back_out(&self, shared: &Shared, index: LogIndex) -> bool {
        index > shared.commit_index && index >= self.noop
    }

    /// When a majority of the new voters is silent while one of the old ones is there, the leader that wanted the change
    /// takes it back.
    pub(super) fn back_out(&mut self, shared: &mut Shared) -> bool {
        let (index, membership) = shared.log.membership();
        if !membership.is_joint() || !self.may_back_out(shared, index) {
            return false;
        }
        let old = Membership { voters: membership.outgoing.clone(), ..Membership::default() };
        let contact = quorum::reached(&old, |node| self.contact(node, shared));
        if shared.now.since(contact) >= shared.config.election_timeout_max {
            return false;
        }
        self.undo_joint(shared, index, AdminRefusal::TimedOut);
        true
    }

    fn undo_joint(&mut self, shared: &mut Shared, joint: LogIndex, why: AdminRefusal) {
        // Nothing was compacted that is not committed.
        let before = shared.log.membership_as_of(joint.prev()).map(|(_, before)| change::abandon(before));
        self.change.undone = Some(why);
        self.append_membership(shared, before.expect("a joint configuration follows another"));
    }

    /// In force as soon as it is in the log (§6); commits are decided anew by it (TRAP 51).
    fn append_membership(&mut self, shared: &mut Shared, next: Membership) {
        if next.intent.is_none() {
            self.change.farewell = None;
        }
        let id = LogId::new(shared.term(), shared.log.last_index().next());
        self.append(shared, Window::new(id, BlockBody::Membership(Arc::new(next))));
        self.match_peers(shared);
        self.advance_commit(shared);
        self.confirm_reads(shared);
    }

    /// The next step of the change in progress, if it is time for one.
    #[inline(never)]
    pub(super) fn drive_change(&mut self, shared: &mut Shared) -> Next {
        if self.change.farewell.is_some() || shared.has_farewells() {
            self.take_leave(shared);
        }
        if self.settled && !self.change.is_some() {
            return Next::Stay;
        }
        let (index, membership) = shared.log.membership();
        let membership = Arc::clone(membership);
        if index > shared.commit_index {
            if membership.is_joint() && self.change.cancel.is_some() && self.may_back_out(shared, index) {
                self.undo_joint(shared, index, AdminRefusal::Cancelled);
            }
            return Next::Stay;
        }
        if shared.commit_index < self.noop {
            return Next::Stay;
        }
        if membership.is_joint() {
            self.append_membership(shared, change::finish(&membership));
        } else if membership.intent.is_none() {
            self.answer_change(shared);
            return self.farewell(shared, index, &membership);
        } else if shared.is_voter() {
            self.catch_up(shared, &membership);
        } else {
            // It led because nobody else could (thesis §4.2.2). Now others have its log.
            return self.farewell(shared, index, &membership);
        }
        Next::Stay
    }

    /// New voters catch up with what is committed (thesis §4.2.1). All of them must, and a majority of the target must be
    /// there: else the joint configuration could not be left again.
    fn catch_up(&mut self, shared: &mut Shared, membership: &Membership) {
        let target = membership.intent.as_ref().expect("a change in progress has a target");
        // What is not committed waits for everybody's disk, the leader's too: a round ends at what is.
        let (now, last) = (shared.now, shared.commit_index);
        let within = shared.config.election_timeout_max;
        let mut behind: Vec<NodeId> = Vec::new();
        let mut ready = 0;
        for node in &target.voters {
            let there = match self.peer_mut(*node) {
                Some(peer) => peer.catches_up(last, now, within) && peer.is_in_contact(now, within),
                None => true,
            };
            ready += usize::from(there);
            if !there && !membership.is_voter(*node) {
                behind.push(*node);
            }
        }
        if self.change.cancel.is_some() {
            self.change.undone = Some(AdminRefusal::Cancelled);
            self.append_membership(shared, change::abandon(membership));
        } else if behind.is_empty() && ready > target.voters.len() / 2 {
            self.append_membership(shared, change::join(membership));
        } else if now.since(self.change.progress) >= shared.config.catch_up_timeout {
            shared.notify(Notice::ChangeTimedOut { behind: behind.into() });
            self.change.undone = Some(AdminRefusal::TimedOut);
            self.append_membership(shared, change::abandon(membership));
        }
    }

    /// The last configuration of the change is committed.
    fn answer_change(&mut self, shared: &mut Shared) {
        let undone = self.change.undone.take();
        if let Some(ticket) = self.change.ticket.take() {
            let outcome = undone.map_or(AdminOutcome::Done, AdminOutcome::Refused);
            shared.admin(ticket, outcome);
        }
        if let Some(ticket) = self.change.cancel.take() {
            let cancelled = undone == Some(AdminRefusal::Cancelled);
            let refused = AdminOutcome::Refused(AdminRefusal::TooLate);
            shared.admin(ticket, if cancelled { AdminOutcome::Done } else { refused });
        }
    }

    /// A leader that left goes once everybody was told, or had the time (§6).
    fn farewell(&mut self, shared: &mut Shared, index: LogIndex, membership: &Membership) -> Next {
        let removed = !membership.is_voter(shared.id());
        if self.change.farewell.is_none() && (removed || self.peers.iter().any(|peer| peer.leaving)) {
            self.new_round();
            self.change.farewell = Some(Farewell { since: shared.now, round: self.round, index });
            // Whoever was asked to campaign before that did not do it.
            self.dismissed &= !removed;
        }
        if removed && !self.dismissed {
            self.dismiss(shared);
        }
        let told = self.change.farewell.is_none_or(|farewell| {
            farewell.is_over(shared) || self.peers.iter().all(|peer| farewell.is_known_to(peer))
        });
        if removed && told { Next::Follow(None) } else { Next::Stay }
    }

    /// Who left is told so, for an election timeout at most (TRAP 47).
    fn take_leave(&mut self, shared: &mut Shared) {
        if let Some(farewell) = self.change.farewell {
            let over = farewell.is_over(shared);
            self.peers.retain(|peer| !peer.leaving || !(over || farewell.is_known_to(peer)));
            if shared.is_voter() && !self.peers.iter().any(|peer| peer.leaving) {
                self.change.farewell = None;
            }
            self.settle(shared);
        }
        if shared.has_farewells() && !self.peers.iter().any(|peer| peer.leaving) {
            shared.announce(true);
        }
    }
}
