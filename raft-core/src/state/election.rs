//! Who leads, who may be elected, and what this node has promised about it (§5.1, §5.2).
//!
//! * Term and vote change together and are durable before anybody hears of them.
//! * A node that hears a leader helps nobody else to be elected (thesis §4.2.3); where leases are relied on, whatever
//!   becomes of its term (thesis §6.4.1).
//! * Whoever votes campaigns; and whoever is asked for a vote that its newer log forbids, while no leader is heard: the
//!   asker counts it as a voter, and may not do without it (thesis §4.2.2).

use alloc::vec::Vec;

use super::Shared;
use crate::action::{Action, AdminOutcome, AdminRefusal, HardState, Notice, ReadOutcome};
use crate::ids::{LogId, LogIndex, NodeId, Term, Tickets};
use crate::message::Body;
use crate::reads;
use crate::timers::Deadline;

impl Shared {
    pub(crate) fn term(&self) -> Term {
        self.disk.hard_state().term
    }

    pub(crate) fn voted_for(&self) -> Option<NodeId> {
        self.disk.hard_state().voted_for
    }

    /// Enters a later term (§5.1). What was to be said in the old one is of no use any more.
    pub(crate) fn enter_term(&mut self, term: Term, voted_for: Option<NodeId>) {
        assert!(term > self.term(), "a term is entered once (§5.1)");
        self.disk.set_hard_state(HardState { term, voted_for });
        self.gated = Vec::new();
        self.leader_of_term = None;
        self.set_leader(None);
    }

    /// Votes in the current term (§5.2). The vote leaves once it is durable.
    pub(crate) fn vote_for(&mut self, candidate: NodeId) {
        self.disk.set_hard_state(HardState { term: self.term(), voted_for: Some(candidate) });
    }

    /// Whether another entry is at least as up-to-date as this log's last (§5.4.1): term first, then index.
    pub(crate) fn is_up_to_date(&self, last: LogId) -> bool {
        last >= self.log.last()
    }

    /// Whether a leader was heard from within the minimum election timeout (thesis §4.2.3), or may hold a lease.
    pub(crate) fn heard_from_leader(&self) -> bool {
        let recently = |at| self.now.since(at) < self.config.election_timeout_min;
        self.leader_contact.is_some_and(recently) || self.is_bound_by_lease()
    }

    fn is_bound_by_lease(&self) -> bool {
        self.lease_until.is_some_and(|until| self.now < until)
    }

    /// The leader of the current term was heard from (§5.2).
    pub(crate) fn hear_leader(&mut self) {
        self.leader_contact = Some(self.now);
        if core::mem::take(&mut self.wanted) {
            self.rearm_election();
        }
        if self.config.lease.is_some() {
            self.lease_until = Some(self.now + self.config.election_timeout_min);
        }
        // Whether it may be needed is known: what changes that arms or disarms the timeout.
        let timeout = self.election_timeout();
        if let Some(election) = &mut self.election {
            *election = Deadline::at(self.now + timeout);
        }
    }

    pub(crate) fn set_leader(&mut self, leader: Option<NodeId>) {
        if leader.is_some() {
            self.leader_of_term = leader;
        } else {
            self.leader_contact = None;
        }
        if self.leader != leader {
            self.leader = leader;
            self.questions.give_up(leader, &mut self.out);
            let term = self.term();
            self.notify(Notice::Leader { leader, term });
            self.hand_over_ended();
        }
    }

    /// A transfer that takes too long is given up: its target may or may not campaign yet. Returns whether this node
    /// stops leading all the same.
    pub(crate) fn wake_handover(&mut self) -> bool {
        let now = self.now;
        let Some(over) = self.handover.take_if(|handover| handover.until <= now) else { return false };
        self.admin(over.ticket, AdminOutcome::Refused(AdminRefusal::TimedOut));
        over.step_down
    }

    /// A transfer ends when somebody leads in a later term (thesis §3.10).
    fn hand_over_ended(&mut self) {
        let term = self.term();
        let Some(leader) = self.leader else { return };
        if let Some(handover) = self.handover.take_if(|handover| handover.term < term) {
            let outcome = if leader == handover.to {
                AdminOutcome::Transferred { to: leader }
            } else {
                AdminOutcome::Refused(AdminRefusal::OtherLeader(leader))
            };
            self.admin(handover.ticket, outcome);
        }
    }

    /// Whether another leader than `from` is known for the current term (Election Safety, §5.2).
    pub(crate) fn has_other_leader(&self, from: NodeId) -> bool {
        self.leader_of_term.is_some_and(|leader| leader != from)
    }

    /// Arms the election timeout anew (§5.2), for those who may campaign.
    pub(crate) fn rearm_election(&mut self) {
        let timeout = self.election_timeout();
        self.election = self.may_be_needed().then(|| Deadline::at(self.now + timeout));
    }

    /// Drawn anew each time (§5.2).
    fn election_timeout(&mut self) -> core::time::Duration {
        self.rng.duration(self.config.election_timeout_min, self.config.election_timeout_max)
    }

    /// Whether this node's disk has not answered for longer than any election timeout (TRAP 60).
    pub(crate) fn disk_stalled(&self) -> bool {
        let max = self.config.election_timeout_max;
        self.disk.waiting_since().is_some_and(|since| self.now.since(since) > max)
    }

    /// Whether this node may campaign now, and if not, why.
    pub(crate) fn may_campaign(&self) -> Result<(), AdminRefusal> {
        if self.is_bound_by_lease() { Err(AdminRefusal::LeaderAlive) } else { self.can_campaign() }
    }

    /// Whether an election may need this node as a candidate. It does not count itself where it does not vote.
    ///
    /// A voter's log may lack what others hold, and be newer: by the configuration there this node votes too, and they wait
    /// for a vote that it must refuse (§5.4.1). So it campaigns itself, by the configuration here (thesis §4.2.2), unless
    /// that is committed and names it nowhere: then a majority knows so (TRAP 14).
    pub(super) fn may_be_needed(&self) -> bool {
        let (index, membership) = self.log.membership();
        let left = || index <= self.commit_index && !membership.contains(self.id());
        membership.is_voter(self.id()) || (self.wanted && !left())
    }

    /// This node's vote was asked for, and its log forbids it: who does not vote campaigns then.
    pub(crate) fn want(&mut self) {
        if self.is_voter() || self.wanted || self.leader == Some(self.id()) {
            return;
        }
        self.wanted = true;
        self.rearm_election();
    }

    /// The same, when the leader itself asks for it (thesis §3.10).
    pub(crate) fn can_campaign(&self) -> Result<(), AdminRefusal> {
        if !self.may_be_needed() {
            Err(AdminRefusal::NotAVoter)
        } else if !self.disk.settled() || self.disk_stalled() {
            Err(AdminRefusal::NotDurable)
        } else if self.term().next().is_none() || self.log.last_index().next() >= LogIndex::LIMIT {
            Err(AdminRefusal::NoTermLeft)
        } else {
            Ok(())
        }
    }

    // --- what needs a leader: reads at members that do not lead (thesis §6.4) --------------------------------

    /// Asks the leader, if there is one.
    pub(crate) fn ask_leader(&mut self, tickets: Tickets) {
        let outcome = match self.leader {
            None => ReadOutcome::NotLeader { leader: None },
            Some(_) if self.questions.len() >= self.config.pending_reads_max => ReadOutcome::Busy,
            Some(leader) if !self.membership().contains(self.id()) => {
                ReadOutcome::NotLeader { leader: Some(leader) }
            }
            Some(_) => {
                let again = self.now + self.config.heartbeat_interval.saturating_mul(2);
                return self.questions.push(tickets, again);
            }
        };
        self.out.push_back(reads::refuse(tickets, outcome));
    }

    /// Repeats an unanswered question, as long as a leader is heard from; then nobody waits any longer.
    pub(crate) fn wake_questions(&mut self) {
        let max = self.config.election_timeout_max;
        let heard = self.leader_contact.is_some_and(|at| self.now.since(at) < max);
        let alive = heard || self.leader == Some(self.id());
        let again = self.now + self.config.heartbeat_interval.saturating_mul(2);
        if self.questions.wake(self.now, again) && !alive {
            self.questions.give_up_all(&mut self.out);
        }
    }

    pub(crate) fn next_question(&mut self) -> Option<Action> {
        let leader = self.leader.filter(|_| self.disk.settled())?;
        let (to, id) = self.questions.next(leader)?;
        Some(Action::Send(self.message(to, Body::ReadIndex { id })))
    }
}
