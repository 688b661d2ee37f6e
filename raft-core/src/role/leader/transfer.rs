//! Handing the leadership over (thesis §3.10): on request, before a planned stop, when removed, and when the own disk
//! stands still.
//!
//! * The target is brought up to date first, and proposals wait meanwhile; then it is told to campaign at once.
//! * From then on this leader serves no read by its lease, whatever becomes of the transfer (TRAP 57).
//! * A transfer that does not happen within one election timeout is given up, and so is one when this node is to stop: then
//!   whoever is best takes over.

use super::Leader;
use crate::action::{Action, AdminOutcome, AdminRefusal};
use crate::ids::{NodeId, Ticket};
use crate::message::Body;
use crate::progress::Progress;
use crate::state::{Handover, Shared};

impl Leader {
    /// Begins a transfer to `to`, or to the voter whose log is longest.
    pub(crate) fn transfer(
        &mut self,
        shared: &mut Shared,
        ticket: Ticket,
        to: Option<NodeId>,
        step_down: bool,
    ) {
        let busy = shared.handover.is_some_and(|running| running.step_down || !step_down);
        let target = match to {
            _ if busy => Err(AdminRefusal::TransferInProgress),
            Some(to) if to == shared.id() => Err(AdminRefusal::AlreadyLeader),
            Some(to) if !shared.membership().voters.contains(&to) => Err(AdminRefusal::UnknownNode(to)),
            Some(to) => Ok(to),
            None => self.successor(shared).map(|peer| peer.id).ok_or(AdminRefusal::NoOtherVoter),
        };
        match target {
            Ok(to) => {
                let until = shared.now + shared.config.election_timeout_max;
                let term = shared.term();
                let handover = Handover { ticket, to, term, until, step_down, sent: None };
                if let Some(replaced) = shared.handover.replace(handover) {
                    shared.admin(replaced.ticket, AdminOutcome::Refused(AdminRefusal::TransferInProgress));
                }
            }
            Err(refusal) => shared.admin(ticket, AdminOutcome::Refused(refusal)),
        }
    }

    /// The voter that is in contact and has most of the log.
    fn successor(&self, shared: &Shared) -> Option<&Progress> {
        let voters = &shared.membership().voters;
        let candidates = self.peers.iter().filter(|peer| voters.contains(&peer.id));
        candidates.max_by_key(|peer| {
            let there = peer.is_in_contact(shared.now, shared.config.election_timeout_max);
            (there, peer.counted_match(), peer.last_contact())
        })
    }

    /// Tells the target to campaign once it has the whole log, and again with each round.
    #[inline(never)]
    pub(super) fn drive_transfer(&mut self, shared: &mut Shared) {
        let Some(Handover { ticket, to, sent, step_down, .. }) = shared.handover else { return };
        if !shared.membership().voters.contains(&to) {
            // A change of the membership took it away meanwhile (TRAP 59).
            shared.handover = None;
            if step_down {
                return self.transfer(shared, ticket, None, true);
            }
            return shared.admin(ticket, AdminOutcome::Refused(AdminRefusal::UnknownNode(to)));
        }
        let last = shared.log.last_index();
        let complete = self.peer(to).is_some_and(|peer| peer.counted_match() == last);
        if complete && sent.is_none_or(|sent| sent < self.round) {
            self.dismissed = true;
            shared.out.push_back(Action::Send(shared.message(to, Body::TimeoutNow)));
            if let Some(handover) = &mut shared.handover {
                handover.sent = Some(self.round);
            }
        }
    }

    /// Asks the best voter to take over, without waiting for it (§6; TRAP 60).
    pub(super) fn dismiss(&mut self, shared: &mut Shared) {
        let last = shared.log.last_index();
        let successor =
            self.successor(shared).filter(|peer| peer.counted_match() == last).map(|peer| peer.id);
        if let Some(to) = successor {
            self.dismissed = true;
            shared.out.push_back(Action::Send(shared.message(to, Body::TimeoutNow)));
        }
    }
}
