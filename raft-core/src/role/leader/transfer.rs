//! Handing the leadership over (thesis §3.10): on request, before a planned stop, when removed, and when the own disk
//! stands still.
//!
//! * The target is brought up to date first, and proposals wait meanwhile; then it is told to campaign at once.
//! * From then on this leader serves no read by its lease, whatever becomes of the transfer (TRAP 57).
//! * A transfer is given up one election timeout after its target last got further, and after four in any case.
//! * When this node is to stop, that takes the place of a transfer that is running: whoever was told to campaign takes over,
//!   else whoever has the whole log first. It goes on while any voter gets further.

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
        let (now, timeout) = (shared.now, shared.config.election_timeout_max);
        // Whoever was told to campaign may do so at any moment: nobody else is told then.
        let in_contact = |to| self.peer(to).is_some_and(|peer| peer.is_in_contact(now, timeout));
        let told = shared.handover.filter(|running| running.sent.is_some() && in_contact(running.to));
        let target = match to {
            _ if shared.handover.is_some() && !step_down => Err(AdminRefusal::TransferInProgress),
            Some(to) if to == shared.id() => Err(AdminRefusal::AlreadyLeader),
            Some(to) if !shared.membership().voters.contains(&to) => Err(AdminRefusal::UnknownNode(to)),
            Some(to) => Ok(to),
            None => match told {
                Some(running) => Ok(running.to),
                None => self.successor(shared).map(|peer| peer.id).ok_or(AdminRefusal::NoOtherVoter),
            },
        };
        match target {
            Ok(to) => {
                // One stop after the other puts nothing off.
                let stops = shared.handover.filter(|running| running.step_down);
                let (until, until_max) = stops
                    .map_or((now + timeout, now + shared.config.handover_max()), |stops| {
                        (stops.until, stops.until_max)
                    });
                let (term, sent) = (shared.term(), told.and_then(|told| told.sent));
                let handover = Handover { ticket, to, term, until, until_max, step_down, sent };
                if let Some(replaced) = shared.handover.replace(handover) {
                    // Who asked for it may find that it happens all the same; who is told so of a stop, that this node leads.
                    let refusal = match replaced.sent {
                        Some(_) if !replaced.step_down => AdminRefusal::TimedOut,
                        _ => AdminRefusal::TransferInProgress,
                    };
                    shared.admin(replaced.ticket, AdminOutcome::Refused(refusal));
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

    /// A peer got further: a transfer to it goes on. What is under way can take a busy disk longer than an election timeout,
    /// and what is proposed meanwhile would wait for that too.
    pub(super) fn goes_on(shared: &mut Shared, peer: NodeId) {
        if let Some(handover) = shared.handover
            && handover.sent.is_none()
            && (handover.to == peer || handover.step_down && shared.membership().voters.contains(&peer))
        {
            let until = (shared.now + shared.config.election_timeout_max).min(handover.until_max);
            shared.handover = Some(Handover { until, ..handover });
        }
    }

    /// Tells the target to campaign once it has the whole log, and again with each round.
    #[inline(never)]
    pub(super) fn drive_transfer(&mut self, shared: &mut Shared) {
        let Some(Handover { ticket, to, sent, step_down, until_max, .. }) = shared.handover else { return };
        if !shared.membership().voters.contains(&to) {
            // A change of the membership took it away meanwhile (TRAP 59).
            shared.handover = None;
            if step_down {
                self.transfer(shared, ticket, None, true);
                if let Some(handover) = &mut shared.handover {
                    (handover.until, handover.until_max) = (handover.until.min(until_max), until_max);
                }
                return;
            }
            return shared.admin(ticket, AdminOutcome::Refused(AdminRefusal::UnknownNode(to)));
        }
        // Who is to stop waits for nobody in particular.
        let first = if step_down && sent.is_none() { self.complete(shared) } else { None };
        let has_all = |peer: &Progress| peer.counted_match() == shared.log.last_index();
        let to = first.or_else(|| self.peer(to).filter(|peer| has_all(peer)).map(|peer| peer.id));
        if let Some(to) = to
            && sent.is_none_or(|sent| sent < self.round)
        {
            self.tell(shared, to);
            if let Some(handover) = &mut shared.handover {
                (handover.to, handover.sent) = (to, Some(self.round));
            }
        }
    }

    /// Asks the best voter to take over, without waiting for it (§6; TRAP 60).
    pub(super) fn dismiss(&mut self, shared: &mut Shared) {
        if let Some(to) = self.complete(shared) {
            self.tell(shared, to);
        }
    }

    /// The best voter, if it has the whole log.
    fn complete(&self, shared: &Shared) -> Option<NodeId> {
        let last = shared.log.last_index();
        self.successor(shared).filter(|peer| peer.counted_match() == last).map(|peer| peer.id)
    }

    fn tell(&mut self, shared: &mut Shared, to: NodeId) {
        self.dismissed = true;
        shared.out.push_back(Action::Send(shared.message(to, Body::TimeoutNow)));
    }
}
