//! What every role shares (Figure 2, "State"): term and vote, the log, what is committed and applied, and what
//! waits to be handed out.
//!
//! * `commit_index` never falls and never passes the end of the log.
//! * Messages of a term wait in `gated` until the hard state is durable (§5.1, §5.2: Figure 2, "updated on stable
//!   storage before responding to RPCs"). Pre-votes change no state and do not wait (thesis §9.6).

use alloc::collections::{BTreeMap, VecDeque};
use alloc::sync::Arc;
use alloc::vec::Vec;
use bytes::Bytes;
use core::mem::discriminant;

use crate::action::{Action, AdminOutcome, AdminRefusal, Notice, Response, RoleKind, Violation};
use crate::config::Config;
use crate::durability::Durability;
use crate::entry::{BlockBody, Window};
use crate::ids::{LogId, LogIndex, NodeId, Term, Ticket};
use crate::log::{Backlog, Log};
use crate::membership::Membership;
use crate::message::{Body, Message};
use crate::proposals::Proposals;
use crate::questions::Questions;
use crate::recovery::Recovery;
use crate::rng::Rng;
use crate::status::Counters;
use crate::time::Instant;
use crate::timers::Deadline;

mod election;
mod lanes;
mod snapshots;

use lanes::LogReads;
pub(crate) use lanes::Reader;
use snapshots::Snapshots;

/// Messages that wait for the hard state at most: more than any cluster has members.
const GATED_MAX: usize = 1024;

/// Administrative requests of a kind that wait at most.
pub(crate) const ADMIN_MAX: usize = 1024;

#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(crate) struct Shared {
    pub(crate) config: Config,
    /// The time of the current step.
    pub(crate) now: Instant,
    pub(crate) rng: Rng,

    pub(crate) log: Log,
    pub(crate) disk: Durability,
    pub(crate) commit_index: LogIndex,
    /// Through where entries have been handed to the state machine.
    pub(crate) apply_handed: LogIndex,
    /// `lastApplied` of Figure 2, as reported.
    pub(crate) last_applied: LogIndex,
    /// Handed to the state machine and not reported yet.
    applying: Backlog,

    /// Where this node would send clients.
    pub(crate) leader: Option<NodeId>,
    /// The leader of the current term once it is known, even after this node lost sight of it.
    leader_of_term: Option<NodeId>,
    /// When a message of the current leader last arrived.
    pub(crate) leader_contact: Option<Instant>,
    /// Until when this node helps nobody to be elected, whatever it hears of terms: some leader's lease may hold until
    /// then (thesis §6.4.1). Only where leases are relied on.
    lease_until: Option<Instant>,
    /// The election timeout; `None` for those who may not campaign.
    pub(crate) election: Option<Deadline>,
    /// Its vote was asked for and refused for its newer log, and no leader was heard from since (thesis §4.2.2).
    pub(crate) wanted: bool,

    pub(crate) proposals: Proposals,
    bootstraps: Vec<Ticket>,
    pub(crate) questions: Questions,
    pub(crate) handover: Option<Handover>,
    snapshots: Snapshots,
    /// The configuration of the last `Peers`, and whether a later one is to follow that names nobody new.
    announced: Arc<Membership>,
    farewells: bool,

    /// Ready to be handed out.
    pub(crate) out: VecDeque<Action>,
    /// Ready once the hard state is durable.
    gated: Vec<Message>,
    log_reads: LogReads,
    pub(crate) counters: Counters,
}

/// A transfer of the leadership in progress (thesis §3.10), as the leader that asked for it sees it. It outlives that
/// leadership, since whoever leads next decides its outcome.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(crate) struct Handover {
    pub(crate) ticket: Ticket,
    pub(crate) to: NodeId,
    /// The term of the old leader.
    pub(crate) term: Term,
    /// When it is given up: an election timeout after its target, or any voter of a stop, last got further.
    pub(crate) until: Instant,
    /// When it is given up though the target gets further.
    pub(crate) until_max: Instant,
    /// Whether the old leader stops leading in any case.
    pub(crate) step_down: bool,
    /// The round in which `TimeoutNow` was sent last.
    pub(crate) sent: Option<u64>,
}

impl Shared {
    /// From what was recovered, `log` being made of it.
    pub(crate) fn new(config: Config, log: Log, recovery: &Recovery, now: Instant) -> Self {
        let incarnation = recovery.incarnation;
        let rng = Rng::new(config.seed, config.id, incarnation);
        let disk = Durability::new(recovery.log.hard_state, log.last_index());
        let mut shared = Self {
            config,
            now,
            rng,
            log,
            disk,
            commit_index: LogIndex::ZERO,
            apply_handed: recovery.applied.index,
            last_applied: recovery.applied.index,
            applying: Backlog::default(),
            leader: None,
            leader_of_term: None,
            leader_contact: None,
            lease_until: None,
            election: None,
            wanted: false,
            proposals: Proposals::default(),
            bootstraps: Vec::new(),
            questions: Questions::new(incarnation),
            handover: None,
            snapshots: Snapshots::new(recovery.snapshot.clone(), recovery.applied.index, incarnation),
            announced: Arc::default(),
            farewells: false,
            out: VecDeque::new(),
            gated: Vec::new(),
            log_reads: LogReads::default(),
            counters: Counters::default(),
        };
        // Before it stopped, it may have promised a leader not to elect another (TRAP 58). Who votes alone promised it to
        // nobody but a leader that does not vote, which relies on no lease.
        if shared.config.lease.is_some() && shared.term() > Term::ZERO && !shared.is_sole_voter() {
            shared.lease_until = Some(now + shared.config.election_timeout_min);
        }
        shared.announce(true);
        shared
    }

    pub(crate) fn id(&self) -> NodeId {
        self.config.id
    }

    #[inline]
    pub(crate) fn membership(&self) -> &Arc<Membership> {
        self.log.membership().1
    }

    pub(crate) fn is_voter(&self) -> bool {
        self.membership().is_voter(self.id())
    }

    #[inline]
    pub(crate) fn is_sole_voter(&self) -> bool {
        self.membership().is_sole_voter(self.id())
    }

    // --- the log (§5.3) ------------------------------------------------------------------------------------

    /// Appends a block of the current leader, this node or another.
    pub(crate) fn append(&mut self, window: Window) {
        let membership = matches!(window.body(), BlockBody::Membership(_)).then(|| window.first_index());
        self.log.append(window);
        if let Some(index) = membership {
            self.membership_changed(index);
        }
        self.evict();
    }

    /// Drops every entry from `from` on: a conflict with the leader (§5.3).
    pub(crate) fn truncate(&mut self, from: LogIndex) {
        assert!(from > self.commit_index, "what is committed stays (Leader Completeness, §5.4)");
        let before = self.log.membership().0;
        self.disk.overwrite(from);
        self.log.truncate(from);
        let (index, _) = self.log.membership();
        if index != before {
            self.membership_changed(index);
        }
    }

    fn membership_changed(&mut self, index: LogIndex) {
        self.announce(false);
        // Whoever becomes a voter by replication must be able to replace a leader that dies now.
        if self.election.is_some() != self.may_be_needed() && self.leader != Some(self.id()) {
            self.rearm_election();
        }
        self.notify(Notice::Membership { index });
    }

    /// Says whom to connect to, if somebody is new or moved. Who left stays among them until it is taken leave of, or
    /// `now`.
    #[inline(never)]
    pub(crate) fn announce(&mut self, now: bool) {
        let membership = Arc::clone(self.membership());
        let known = |(node, address)| self.announced.nodes.get(node) == Some(address);
        let news = !membership.nodes.iter().all(known);
        let mut gone = self.announced.nodes.clone();
        gone.retain(|node, _| !now && !membership.nodes.contains_key(node));
        self.farewells = !gone.is_empty();
        if news || membership.nodes.len() + gone.len() < self.announced.nodes.len() {
            self.announced = membership;
            if self.farewells {
                Arc::make_mut(&mut self.announced).nodes.append(&mut gone);
            }
            self.out.push_back(Action::Peers(Arc::clone(&self.announced)));
        }
    }

    /// Whoever else is to be reached, until it is taken leave of.
    pub(crate) fn announce_leaving(&mut self, nodes: &BTreeMap<NodeId, Bytes>) {
        if nodes.keys().all(|node| self.announced.nodes.contains_key(node)) {
            return;
        }
        let announced = Arc::make_mut(&mut self.announced);
        for (node, address) in nodes {
            announced.nodes.entry(*node).or_insert_with(|| address.clone());
        }
        self.farewells = true;
        self.out.push_back(Action::Peers(Arc::clone(&self.announced)));
    }

    /// Whether those who left the membership in force were not yet taken leave of, though its entry is committed.
    pub(crate) fn has_farewells(&self) -> bool {
        self.farewells && self.log.membership().0 <= self.commit_index
    }

    #[inline]
    fn evict(&mut self) {
        self.log.evict(self.disk.durable(), self.config.tail_bytes_max);
    }

    /// Bytes of entries that a crash now could lose.
    pub(crate) fn unpersisted_bytes(&self) -> u64 {
        self.log.bytes_after(self.disk.durable())
    }

    /// The commit index rises: the outcomes that this decides are due (Figure 2, `commitIndex`).
    #[inline]
    pub(crate) fn commit(&mut self, index: LogIndex) {
        self.commit_as(index, true);
    }

    #[inline]
    fn commit_as(&mut self, index: LogIndex, applied_here: bool) {
        if index <= self.commit_index {
            return;
        }
        assert!(index <= self.log.last_index(), "the commit index never passes the end of the log (§5.3)");
        let before = core::mem::replace(&mut self.commit_index, index);
        if self.proposals.len() > 0 {
            self.decide(applied_here);
        }
        // Only the commit of the configuration in force changes who may be needed.
        if self.log.membership().0 > before {
            self.leave_if_committed();
        }
    }

    #[inline(never)]
    fn decide(&mut self, applied_here: bool) {
        let id = self.log.terms.id(self.commit_index).expect("what was not committed was not compacted");
        self.proposals.committed(id, &self.log.terms, applied_here, &mut self.out);
    }

    #[inline(never)]
    fn leave_if_committed(&mut self) {
        if self.election.is_some() && !self.may_be_needed() {
            // It has left (§6, TRAP 14).
            self.election = None;
        }
    }

    // --- bootstrap -----------------------------------------------------------------------------------------

    /// The first configuration, at index 1 in term 1, which counts as committed: every pristine node that is given
    /// the same set writes the same entry.
    pub(crate) fn bootstrap(&mut self, ticket: Ticket, members: BTreeMap<NodeId, Bytes>) {
        if self.bootstraps.len() >= ADMIN_MAX {
            return self.admin(ticket, AdminOutcome::Refused(AdminRefusal::Busy));
        }
        let membership = Membership::of_voters(members);
        if !membership.is_voter(self.id()) {
            return self.admin(ticket, AdminOutcome::Refused(AdminRefusal::NotAMember));
        }
        if self.log.last() == LogId::ZERO {
            if self.term() < Term::BOOTSTRAP {
                self.enter_term(Term::BOOTSTRAP, None);
            }
            let id = LogId::new(Term::BOOTSTRAP, LogIndex::FIRST);
            self.append(Window::new(id, BlockBody::Membership(Arc::new(membership))));
            self.commit(LogIndex::FIRST);
        } else if self.log.membership_at(LogIndex::FIRST).is_some_and(|first| **first != membership) {
            // Once a snapshot holds a later configuration, with whom it began is not known any more.
            return self.admin(ticket, AdminOutcome::Refused(AdminRefusal::NotPristine));
        }
        self.bootstraps.push(ticket);
        self.answer_bootstraps();
    }

    #[inline]
    fn answer_bootstraps(&mut self) {
        if !self.bootstraps.is_empty() {
            self.answer_bootstraps_if_durable();
        }
    }

    #[inline(never)]
    fn answer_bootstraps_if_durable(&mut self) {
        if self.disk.durable() >= LogIndex::FIRST && self.disk.settled() {
            for ticket in core::mem::take(&mut self.bootstraps) {
                self.admin(ticket, AdminOutcome::Done);
            }
        }
    }

    // --- what is handed out --------------------------------------------------------------------------------

    pub(crate) fn notify(&mut self, notice: Notice) {
        self.out.push_back(Action::Notify(notice));
    }

    pub(crate) fn violation(&mut self, peer: NodeId, kind: Violation) {
        self.counters.violations += 1;
        self.notify(Notice::Violation { peer, kind });
    }

    pub(crate) fn admin(&mut self, ticket: Ticket, outcome: AdminOutcome) {
        self.out.push_back(Action::Respond(Response::Admin { ticket, outcome }));
    }

    pub(crate) fn message(&self, to: NodeId, body: Body) -> Message {
        Message { from: self.id(), to, term: self.term(), body }
    }

    /// Sends at once: for pre-votes only.
    pub(crate) fn send(&mut self, to: NodeId, body: Body) {
        let message = self.message(to, body);
        self.out.push_back(Action::Send(message));
    }

    /// Sends once the hard state is durable (Figure 2). At most one message of a kind to a peer waits: the latest,
    /// except that a refused vote, which answers an earlier term, does not take the place of one that was given.
    pub(crate) fn send_gated(&mut self, to: NodeId, body: Body) {
        let message = self.message(to, body);
        if self.disk.settled() {
            self.out.push_back(Action::Send(message));
            return;
        }
        let same =
            |other: &Message| other.to == to && discriminant(&other.body) == discriminant(&message.body);
        match self.gated.iter().position(same) {
            Some(_) if matches!(message.body, Body::RequestVoteReply { granted: false }) => {}
            Some(at) => self.gated[at] = message,
            None if self.gated.len() < GATED_MAX => self.gated.push(message),
            // Lost, as any message may be.
            None => {}
        }
    }

    /// Who no longer campaigns asks for no votes (§5.2). By the time its disk is ready, whom it would have asked may have
    /// left.
    pub(crate) fn withdraw_requests(&mut self) {
        self.gated.retain(|message| !matches!(message.body, Body::RequestVote { .. }));
    }

    pub(crate) fn role_changed(&mut self, role: RoleKind) {
        let term = self.term();
        self.notify(Notice::Role { role, term });
    }
}
