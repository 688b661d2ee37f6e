//! The node: takes in events, performs transitions between roles, and hands out actions.
//!
//! This is the only place where a role changes, and where the driver's mistakes and the peers' nonsense are told apart:
//! the former are [`Fatal`], the latter ignored and counted. What messages do is in a room of its own.

#[cfg(feature = "serde")]
mod canonical;
mod handing_out;
mod receive;

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::mem::{forget, take};

use crate::action::{AdminOutcome, AdminRefusal, RoleKind, WriteOutcome};
use crate::config::Config;
use crate::entry::Commands;
use crate::error::{Fatal, StartError};
use crate::event::Event;
use crate::ids::{LogId, LogIndex, NodeId, Term, Ticket, Tickets, WriteId};
use crate::log::Log;
use crate::membership::Membership;
use crate::proposals;
use crate::recovery::Recovery;
use crate::role::candidate::{Candidate, PreCandidate};
use crate::role::follower::Follower;
use crate::role::leader::{Leader, tickets_of};
use crate::role::{Next, Role};
use crate::state::{Reader, Shared};
use crate::status::{PeerStatus, Status};
use crate::time::Instant;
use crate::timers::Deadline;

use handing_out::Source;

#[cfg(feature = "serde")]
pub use canonical::Frame;

/// A Raft server as a pure state machine.
///
/// A driver feeds it [`Event`]s with [`step`](Self::step), performs the [`Action`](crate::Action)s that
/// [`poll_action`](Self::poll_action) hands out, and calls `step` with [`Event::Wake`] when
/// [`deadline`](Self::deadline) has passed. See the [crate's front page](crate) for the whole contract.
///
/// Given the same configuration, recovery and sequence of calls it does the same, on every machine.
///
/// An idle follower (up to seven members, sixteen terms in its log, nothing pending) takes at most 4 KiB beside the
/// tail of its log ([`Config::tail_bytes_max`]); `tests/alloc.rs` holds it to that. It costs no work between deadlines.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Node {
    shared: Shared,
    role: Role,
    fatal: Option<Fatal>,
    #[cfg_attr(feature = "serde", serde(skip))]
    asked: Source,
}

impl Node {
    /// Starts from what survived: nothing for a new server, or what its stores recovered.
    ///
    /// # Errors
    /// If the configuration contradicts itself, or what was recovered does: then something was lost or rolled
    /// back, and a node that went on could break promises it has made. It must not be started.
    pub fn start(config: Config, recovery: Recovery, now: Instant) -> Result<Self, StartError> {
        config.validate()?;
        let applied = recovery.applied;
        let (log, replaced) = Log::recover(recovery.log.clone(), recovery.snapshot.as_deref(), applied)?;
        let bootstrapped = log.term(LogIndex::FIRST) == Some(Term::BOOTSTRAP);
        let mut shared = Shared::new(config, log, &recovery, now);
        shared.adopt_snapshot(replaced);
        // The first configuration counts as committed wherever it stands.
        shared.commit(applied.index.max(if bootstrapped { LogIndex::FIRST } else { LogIndex::ZERO }));
        shared.rearm_election();
        let mut node = Self {
            role: Role::Follower(Follower::new(shared.commit_index)),
            shared,
            fatal: None,
            asked: Source::Ready,
        };
        node.hurry_if_alone();
        Ok(node)
    }

    /// Takes in one event. `now` is the time after the event was taken in; an earlier one than the last is
    /// taken as the last.
    ///
    /// # Errors
    /// If the driver broke a duty: see [`Fatal`]. Nothing that a peer sends causes it.
    pub fn step(&mut self, now: Instant, mut event: Event) -> Result<(), Fatal> {
        if let Some(fatal) = self.fatal {
            return Err(fatal);
        }
        self.shared.now = self.shared.now.max(now);
        let result = match event {
            // What happens with every entry.
            Event::Receive(ref message) => {
                self.receive(message);
                Ok(())
            }
            Event::Persisted(id) => {
                forget(event); // It owns nothing.
                self.persisted(id)
            }
            Event::Applied(index) => {
                forget(event); // It owns nothing.
                self.applied(index)
            }
            Event::Propose { first, ref mut commands } => {
                self.propose(first, take(commands));
                Ok(())
            }
            // What happens now and then.
            other => self.take_in(other),
        };
        self.follow_up();
        self.asked = Source::Ready;
        if let Err(fatal) = result {
            self.fatal = Some(fatal);
        }
        result
    }

    /// What an event made possible, whichever it was.
    #[inline(always)]
    fn follow_up(&mut self) {
        let shared = &mut self.shared;
        match &mut self.role {
            Role::Leader(leader) => {
                let next = leader.react(shared);
                self.transition(next);
            }
            Role::Follower(role) => {
                if shared.is_receiving() && shared.install() {
                    role.installed(shared);
                }
            }
            Role::PreCandidate(_) | Role::Candidate(_) => {}
        }
        if self.shared.has_farewells() && !matches!(self.role, Role::Leader(_)) {
            self.shared.announce(true);
        }
        if self.shared.has_old_snapshots() {
            self.forget_snapshots();
        }
    }

    #[inline(never)]
    fn forget_snapshots(&mut self) {
        let role = &self.role;
        let is_sent = |id| matches!(role, Role::Leader(leader) if leader.is_sending(id));
        self.shared.forget_snapshots(is_sent);
    }

    #[inline(never)]
    fn take_in(&mut self, event: Event) -> Result<(), Fatal> {
        let shared = &mut self.shared;
        let next = match event {
            Event::Receive(_) | Event::Persisted(_) | Event::Applied(_) | Event::Propose { .. } => {
                unreachable!("`step` takes these in itself")
            }
            Event::Wake => {
                shared.wake_questions();
                let steps_down = shared.wake_handover();
                match &mut self.role {
                    Role::Leader(_) if steps_down => Next::Follow(None),
                    Role::Leader(role) => role.wake(shared),
                    Role::Follower(role) => role.wake(shared),
                    Role::PreCandidate(role) => role.wake(shared),
                    Role::Candidate(role) => role.wake(shared),
                }
            }
            Event::LogRead { read, result } => {
                match shared.log_read(read, result)? {
                    Some((Reader::Machine, entries)) => {
                        let action = shared.apply(entries);
                        shared.out.push_back(action);
                    }
                    Some((Reader::Peer(peer), entries)) => {
                        if let Role::Leader(leader) = &mut self.role {
                            leader.loaded(peer, entries);
                        }
                    }
                    None => {}
                }
                Next::Stay
            }
            Event::Read { tickets, consistency } => {
                match &mut self.role {
                    _ if tickets.count == 0 => {}
                    Role::Leader(leader) => leader.read(shared, tickets, consistency),
                    _ => shared.ask_leader(tickets),
                }
                Next::Stay
            }
            Event::ChangeMembership { ticket, change } => {
                match &mut self.role {
                    Role::Leader(leader) => leader.change_membership(shared, ticket, &change),
                    _ => self.not_leader(ticket),
                }
                Next::Stay
            }
            Event::TransferLeadership { ticket, to } => {
                match &mut self.role {
                    Role::Leader(leader) => leader.transfer(shared, ticket, to, false),
                    _ => self.not_leader(ticket),
                }
                Next::Stay
            }
            Event::StepDown { ticket } => {
                if let Role::Leader(leader) = &mut self.role {
                    leader.transfer(shared, ticket, None, true);
                    Next::Stay
                } else {
                    shared.admin(ticket, AdminOutcome::Done);
                    // A campaign ends here: the votes for it may be on their way.
                    let campaigns = !matches!(self.role, Role::Follower(_));
                    if campaigns { Next::Follow(None) } else { Next::Stay }
                }
            }
            Event::TakeSnapshot { ticket } => {
                shared.take_snapshot(ticket);
                Next::Stay
            }
            Event::SnapshotTaken(result) => {
                shared.snapshot_taken(result)?;
                Next::Stay
            }
            Event::SnapshotChunkRead { id, offset, result } => {
                if let Role::Leader(leader) = &mut self.role {
                    leader.chunk_read(shared, id, offset, result.as_ref().map_err(|error| *error));
                }
                Next::Stay
            }
            Event::SnapshotChunkWritten { id, offset, result } => {
                let news = shared.chunk_written(id, offset, result);
                if let (true, Role::Follower(role)) = (news, &mut self.role) {
                    role.chunk_written(id);
                }
                Next::Stay
            }
            Event::Bootstrap { ticket, members } => {
                shared.bootstrap(ticket, members);
                self.hurry_if_alone();
                Next::Stay
            }
            Event::Campaign { ticket } => self.campaign(ticket),
            Event::Forget { tickets } => {
                self.forget(tickets);
                Next::Stay
            }
            Event::Unreachable(peer) => {
                if let Role::Leader(leader) = &mut self.role {
                    leader.unreachable(peer);
                }
                Next::Stay
            }
        };
        self.transition(next);
        Ok(())
    }

    fn not_leader(&mut self, ticket: Ticket) {
        let leader = self.shared.leader;
        self.shared.admin(ticket, AdminOutcome::Refused(AdminRefusal::NotLeader { leader }));
    }

    fn forget(&mut self, tickets: Tickets) {
        let shared = &mut self.shared;
        shared.proposals.forget(tickets, &mut shared.out);
        shared.questions.forget(tickets, &mut shared.out);
        if let Role::Leader(leader) = &mut self.role {
            leader.forget(shared, tickets);
        }
    }

    fn propose(&mut self, first: Ticket, commands: Commands) {
        let Some(tickets) = tickets_of(first, &commands) else { return };
        match &mut self.role {
            Role::Leader(leader) => leader.propose(&mut self.shared, tickets, commands),
            _ => {
                let outcome = WriteOutcome::NotLeader { leader: self.shared.leader };
                self.shared.out.push_back(proposals::respond(tickets, outcome));
            }
        }
    }

    fn campaign(&mut self, ticket: Ticket) -> Next {
        let allowed = match &self.role {
            Role::Leader(_) => Err(AdminRefusal::AlreadyLeader),
            _ => self.shared.may_campaign(),
        };
        let (outcome, next) = match allowed {
            Ok(()) => (AdminOutcome::Done, Next::PreCampaign),
            Err(refusal) => (AdminOutcome::Refused(refusal), Next::Stay),
        };
        self.shared.admin(ticket, outcome);
        next
    }

    fn persisted(&mut self, id: WriteId) -> Result<(), Fatal> {
        let shared = &mut self.shared;
        shared.persisted(id)?;
        let next = match &mut self.role {
            Role::Leader(role) => {
                role.advance_commit(shared);
                Next::Stay
            }
            Role::Follower(role) => {
                role.persisted(shared);
                self.hurry_if_alone();
                Next::Stay
            }
            Role::PreCandidate(role) => role.decide(shared),
            Role::Candidate(role) => role.persisted(shared),
        };
        self.transition(next);
        Ok(())
    }

    fn applied(&mut self, index: LogIndex) -> Result<(), Fatal> {
        self.shared.applied(index)?;
        if let Role::Leader(leader) = &mut self.role {
            leader.applied(&self.shared);
        }
        Ok(())
    }

    /// A sole voter has nobody to wait for but its own disk.
    #[inline]
    fn hurry_if_alone(&mut self) {
        if self.shared.is_sole_voter() && matches!(self.role, Role::Follower(_)) {
            self.hurry();
        }
    }

    #[inline(never)]
    fn hurry(&mut self) {
        if self.shared.may_campaign().is_ok() {
            self.shared.election = Some(Deadline::at(self.shared.now));
        }
    }

    // --- transitions (Figure 4) ----------------------------------------------------------------------------

    #[inline]
    fn transition(&mut self, next: Next) {
        if next != Next::Stay {
            self.perform(next);
        }
    }

    #[inline(never)]
    fn perform(&mut self, mut next: Next) {
        loop {
            let shared = &mut self.shared;
            let (role, then) = match next {
                Next::Stay => return,
                Next::Follow(leader) => {
                    shared.set_leader(leader);
                    shared.withdraw_requests();
                    shared.rearm_election();
                    (Role::Follower(Follower::new(shared.commit_index)), Next::Stay)
                }
                Next::PreCampaign => {
                    shared.set_leader(None);
                    let (role, then) = PreCandidate::start(shared);
                    (Role::PreCandidate(role), then)
                }
                Next::Campaign { transfer } => {
                    (Role::Candidate(Candidate::start(shared, transfer)), Next::Stay)
                }
                Next::Lead => (Role::Leader(Box::new(Leader::start(shared))), Next::Stay),
            };
            if let Role::Leader(old) = &mut self.role {
                old.retire(shared);
            }
            // Asking anew leaves the term as it is: without a majority that is all that happens, again and again.
            let asks_again = matches!((&self.role, &role), (Role::PreCandidate(_), Role::PreCandidate(_)));
            self.role = role;
            if !asks_again {
                self.shared.role_changed(self.role.kind());
            }
            next = then;
        }
    }

    /// A message showed a later term (§5.1).
    fn adopt(&mut self, term: Term, leader: Option<NodeId>) {
        self.shared.enter_term(term, None);
        self.transition(Next::Follow(leader));
    }

    /// When to call `step` with [`Event::Wake`]; `None` if nothing is due without an event.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        if self.fatal.is_some() {
            return None;
        }
        let shared = &self.shared;
        let role = match &self.role {
            Role::Leader(leader) => Some(leader.deadline()),
            _ => shared.election.as_ref().map(Deadline::instant),
        };
        let handover = shared.handover.map(|handover| handover.until);
        [role, handover, shared.questions.deadline()].into_iter().flatten().min()
    }

    /// Back-pressure: at 0 a driver stops taking client commands in; what it proposes all the same is `Busy`.
    #[must_use]
    pub fn write_room_bytes(&self) -> u64 {
        match &self.role {
            Role::Leader(leader) => leader.room_bytes(&self.shared),
            // Proposals are answered at once elsewhere.
            _ => self.shared.config.uncommitted_bytes_max,
        }
    }

    /// The node at a glance.
    #[inline]
    #[must_use]
    pub fn status(&self) -> Status {
        let shared = &self.shared;
        Status {
            id: shared.id(),
            role: self.role.kind(),
            term: shared.term(),
            voted_for: shared.voted_for(),
            leader: shared.leader,
            last: shared.log.last(),
            durable: shared.disk.durable(),
            commit: shared.commit_index,
            applied: shared.last_applied,
            base: shared.log.terms.base(),
            snapshot: shared.snapshot().map_or(LogId::ZERO, |meta| meta.id.last),
            membership_index: shared.log.membership().0,
            counters: shared.counters,
        }
    }

    /// What a leader knows of its peers, in the order of their ids; empty elsewhere.
    pub fn peers(&self) -> impl Iterator<Item = PeerStatus> + '_ {
        let leader = match &self.role {
            Role::Leader(leader) => Some(leader),
            _ => None,
        };
        leader.into_iter().flat_map(|leader| leader.peers().map(crate::progress::Progress::status))
    }

    /// The configuration in force (§6); without voters while the node is pristine.
    #[must_use]
    pub fn membership(&self) -> &Arc<Membership> {
        self.shared.membership()
    }

    /// What it was started with.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.shared.config
    }

    /// The term of the entry at `index`, for the whole log from memory; `None` outside it.
    #[must_use]
    pub fn term_at(&self, index: LogIndex) -> Option<Term> {
        self.shared.log.term(index)
    }

    /// Its role (Figure 4).
    #[must_use]
    pub fn role(&self) -> RoleKind {
        self.role.kind()
    }
}
