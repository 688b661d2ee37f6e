//! The node: takes in events, performs transitions between roles, and hands out actions.
//!
//! This is the only place where a role changes, where a term of a message is compared with one's own, and where
//! the driver's mistakes and the peers' nonsense are told apart: the former are [`Fatal`], the latter ignored and
//! counted.

use alloc::sync::Arc;

use crate::action::{Action, AdminOutcome, AdminRefusal, ReadOutcome, RoleKind, WriteOutcome};
use crate::config::Config;
use crate::entry::Commands;
use crate::error::{Fatal, StartError};
use crate::event::{Event, ReadConsistency};
use crate::ids::{LogId, LogIndex, NodeId, Term, Ticket};
use crate::log::Log;
use crate::membership::Membership;
use crate::message::{Body, Conflict, Message};
use crate::proposals;
use crate::reads;
use crate::recovery::Recovery;
use crate::role::candidate::{Candidate, PreCandidate};
use crate::role::follower::{Follower, recognise};
use crate::role::leader::{Leader, tickets_of};
use crate::role::{Next, Role};
use crate::state::{Reader, Shared};
use crate::status::{PeerStatus, Status};
use crate::time::Instant;
use crate::timers::Deadline;

/// A Raft server as a pure state machine.
///
/// A driver feeds it [`Event`]s with [`step`](Self::step), performs the [`Action`]s that
/// [`poll_action`](Self::poll_action) hands out, and calls `step` with [`Event::Wake`] when
/// [`deadline`](Self::deadline) has passed. See the [crate's front page](crate) for the whole contract.
///
/// Given the same configuration, recovery and sequence of calls it does the same, on every machine.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Node {
    shared: Shared,
    role: Role,
    fatal: Option<Fatal>,
}

impl Node {
    /// Starts from what survived: nothing for a new server, or what its stores recovered.
    ///
    /// # Errors
    /// If the configuration contradicts itself, or what was recovered does: then something was lost or rolled
    /// back, and a node that went on could break promises it has made. It must not be started.
    pub fn start(config: Config, recovery: Recovery, now: Instant) -> Result<Self, StartError> {
        config.validate()?;
        let Recovery { log: found, applied, incarnation } = recovery;
        let hard_state = found.hard_state;
        let log = Log::recover(found, applied)?;
        let bootstrapped = log.term(LogIndex::FIRST) == Some(Term::BOOTSTRAP);
        let mut shared = Shared::new(config, log, hard_state, now, incarnation);
        shared.apply_handed = applied.index;
        shared.last_applied = applied.index;
        // The first configuration counts as committed wherever it stands.
        shared.commit(applied.index.max(if bootstrapped { LogIndex::FIRST } else { LogIndex::ZERO }));
        let membership = Arc::clone(shared.membership());
        if !membership.nodes.is_empty() {
            shared.out.push_back(Action::Peers(membership));
        }
        shared.rearm_election();
        let mut node = Self { role: Role::Follower(Follower::new(shared.commit_index)), shared, fatal: None };
        node.hurry_if_alone();
        Ok(node)
    }

    /// Takes in one event. `now` is the time after the event was taken in; an earlier one than the last is
    /// taken as the last.
    ///
    /// # Errors
    /// If the driver broke a duty: see [`Fatal`]. Nothing that a peer sends causes it.
    pub fn step(&mut self, now: Instant, event: Event) -> Result<(), Fatal> {
        if let Some(fatal) = self.fatal {
            return Err(fatal);
        }
        self.shared.now = self.shared.now.max(now);
        let result = self.take_in(event);
        if let Role::Leader(leader) = &mut self.role {
            leader.rewind();
        }
        result.inspect_err(|fatal| self.fatal = Some(*fatal))
    }

    fn take_in(&mut self, event: Event) -> Result<(), Fatal> {
        let shared = &mut self.shared;
        let next = match event {
            Event::Wake => match &mut self.role {
                Role::Follower(role) => role.wake(shared),
                Role::PreCandidate(role) => role.wake(shared),
                Role::Candidate(role) => role.wake(shared),
                Role::Leader(role) => role.wake(shared),
            },
            Event::Receive(message) => {
                self.receive(message);
                return Ok(());
            }
            Event::Persisted(id) => {
                shared.persisted(id)?;
                self.persisted()
            }
            Event::Applied(index) => {
                shared.applied(index)?;
                if let Role::Leader(leader) = &mut self.role {
                    leader.applied(shared);
                }
                Next::Stay
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
            Event::Propose { first, commands } => {
                self.propose(first, &commands);
                Next::Stay
            }
            Event::Read { tickets, consistency: ReadConsistency::Linearizable } => {
                match &mut self.role {
                    _ if tickets.count == 0 => {}
                    Role::Leader(leader) => leader.read(shared, tickets),
                    _ => {
                        let outcome = ReadOutcome::NotLeader { leader: shared.leader };
                        shared.out.push_back(reads::refuse(tickets, outcome));
                    }
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
                shared.proposals.forget(tickets, &mut shared.out);
                if let Role::Leader(leader) = &mut self.role {
                    leader.forget(shared, tickets);
                }
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

    fn propose(&mut self, first: Ticket, commands: &Commands) {
        let Some(tickets) = tickets_of(first, commands) else { return };
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

    fn persisted(&mut self) -> Next {
        self.hurry_if_alone();
        let shared = &mut self.shared;
        match &mut self.role {
            Role::Follower(role) => role.persisted(shared),
            Role::PreCandidate(role) => return role.decide(shared),
            Role::Candidate(role) => return role.persisted(shared),
            Role::Leader(role) => role.advance_commit(shared),
        }
        Next::Stay
    }

    /// A sole voter has nobody to wait for but its own disk.
    fn hurry_if_alone(&mut self) {
        let waits = matches!(self.role, Role::Follower(_)) && self.shared.may_campaign().is_ok();
        if waits && self.shared.is_sole_voter() {
            self.shared.election = Some(Deadline::at(self.shared.now));
        }
    }

    // --- transitions (Figure 4) ----------------------------------------------------------------------------

    fn transition(&mut self, mut next: Next) {
        loop {
            let shared = &mut self.shared;
            let (role, then) = match next {
                Next::Stay => return,
                Next::Follow(leader) => {
                    shared.set_leader(leader);
                    shared.rearm_election();
                    (Role::Follower(Follower::new(shared.commit_index)), Next::Stay)
                }
                Next::PreCampaign => {
                    shared.set_leader(None);
                    let (role, then) = PreCandidate::start(shared);
                    (Role::PreCandidate(role), then)
                }
                Next::Campaign => (Role::Candidate(Candidate::start(shared)), Next::Stay),
                Next::Lead => (Role::Leader(Leader::start(shared)), Next::Stay),
            };
            if let Role::Leader(old) = &mut self.role {
                old.retire(shared);
            }
            self.role = role;
            self.shared.role_changed(self.role.kind());
            next = then;
        }
    }

    /// A message showed a later term (§5.1).
    fn adopt(&mut self, term: Term, leader: Option<NodeId>) {
        self.shared.enter_term(term, None);
        self.transition(Next::Follow(leader));
    }

    // --- messages ------------------------------------------------------------------------------------------

    /// Nothing in here can fail: what makes no sense is ignored and counted.
    fn receive(&mut self, message: Message) {
        let shared = &mut self.shared;
        if message.to != shared.id() || message.from == shared.id() {
            shared.counters.misaddressed += 1;
            return;
        }
        if message.is_absurd(shared.term()) {
            shared.counters.absurd += 1;
            return;
        }
        let Message { from, term, body, .. } = message;
        match body {
            Body::PreVote { proposed, last } => self.pre_vote(from, proposed, last),
            Body::RequestVote { last } => self.request_vote(from, term, last),
            Body::AppendEntries { prev, ref entries, commit, round } => {
                if term < self.shared.term() {
                    // The leader learns of this term by the answer, and steps down (§5.1, TRAP 11). The answer
                    // confirms no round: its receiver may lead this very term by the time it arrives.
                    let conflict = Conflict { prev: LogIndex::ZERO, hint: LogId::ZERO };
                    let reply = Body::AppendEntriesReply { result: Err(conflict), round: 0 };
                    self.shared.counters.stale += 1;
                    return self.shared.send_gated(from, reply);
                }
                if !self.recognise_leader(from, term) {
                    return;
                }
                if let Role::Follower(role) = &mut self.role {
                    role.append_entries(&mut self.shared, prev, entries, commit, round);
                }
            }
            Body::PreVoteReply { .. } | Body::RequestVoteReply { .. } | Body::AppendEntriesReply { .. } => {
                self.reply(from, term, &body);
            }
        }
    }

    /// Answers to this node's own questions.
    fn reply(&mut self, from: NodeId, term: Term, body: &Body) {
        if !self.shared.membership().contains(from) {
            // Strangers were asked nothing.
            self.shared.counters.stale += 1;
            return;
        }
        if term > self.shared.term() {
            return self.adopt(term, None);
        }
        let shared = &mut self.shared;
        let next = match (&mut self.role, body) {
            // The sender of a grant may be behind in term: the question was about a later one anyway.
            (Role::PreCandidate(role), Body::PreVoteReply { proposed, granted }) => {
                role.pre_vote_reply(shared, from, *proposed, *granted)
            }
            // Everything else counts only in its own term (TRAP 3).
            (Role::Candidate(role), Body::RequestVoteReply { granted }) if term == shared.term() => {
                role.request_vote_reply(shared, from, *granted)
            }
            (Role::Leader(role), Body::AppendEntriesReply { result, round }) if term == shared.term() => {
                role.append_entries_reply(shared, from, *result, *round);
                Next::Stay
            }
            _ => {
                shared.counters.stale += 1;
                Next::Stay
            }
        };
        self.transition(next);
    }

    /// Whether a live leader forbids electing another (thesis §4.2.3).
    fn is_sticky(&self) -> bool {
        match &self.role {
            Role::Leader(leader) => leader.is_established(&self.shared),
            _ => self.shared.heard_from_leader(),
        }
    }

    /// Says whether it would vote for the sender; changes nothing here, not even a timer (thesis §9.6, TRAP 9).
    fn pre_vote(&mut self, from: NodeId, proposed: Term, last: LogId) {
        let sticky = self.is_sticky();
        let shared = &mut self.shared;
        shared.counters.sticky += u64::from(sticky);
        let granted = !sticky && proposed > shared.term() && shared.is_up_to_date(last);
        shared.send(from, Body::PreVoteReply { proposed, granted });
    }

    /// Figure 2, RequestVote RPC.
    fn request_vote(&mut self, from: NodeId, term: Term, last: LogId) {
        if term < self.shared.term() {
            // The candidate learns of this term by the answer (§5.1).
            return self.shared.send_gated(from, Body::RequestVoteReply { granted: false });
        }
        if self.is_sticky() {
            // As if it had not arrived, its term included: a server that was removed or cut off must not unseat a
            // leader that works (thesis §4.2.3).
            self.shared.counters.sticky += 1;
            return;
        }
        if term > self.shared.term() {
            self.adopt(term, None);
        }
        let shared = &mut self.shared;
        let free = shared.voted_for().is_none_or(|node| node == from);
        let granted = free && shared.is_up_to_date(last);
        if granted {
            assert!(
                matches!(self.role, Role::Follower(_) | Role::PreCandidate(_)),
                "others have voted (§5.2)"
            );
            shared.vote_for(from);
            // Whoever helps another to lead does not compete with it (§5.2).
            shared.rearm_election();
        }
        shared.send_gated(from, Body::RequestVoteReply { granted });
    }

    /// A message of the leader of `term`, which is not below the current one: obeys it, unless that would make two
    /// leaders of one term (§5.2). Afterwards this node is its follower.
    fn recognise_leader(&mut self, from: NodeId, term: Term) -> bool {
        if term > self.shared.term() {
            self.adopt(term, Some(from));
        } else if !recognise(&mut self.shared, from) {
            return false;
        } else if !matches!(self.role, Role::Follower(_)) {
            self.transition(Next::Follow(Some(from)));
        } else {
            self.shared.set_leader(Some(from));
        }
        self.shared.leader_contact = Some(self.shared.now);
        self.shared.rearm_election();
        true
    }

    // --- what comes out ------------------------------------------------------------------------------------

    /// The next thing to do, or `None` until the next `step`. Whatever is handed out may be done at once; what must
    /// stay in order travels in one lane.
    pub fn poll_action(&mut self) -> Option<Action> {
        if self.fatal.is_some() {
            return None;
        }
        let shared = &mut self.shared;
        if let Some(action) = shared.out.pop_front() {
            return Some(action);
        }
        // Messages first: peers write to their disks while this node writes to its own (thesis §10.2.1).
        let message = match &mut self.role {
            Role::Leader(role) => role.next_action(shared),
            Role::Follower(role) => role.next_action(shared),
            Role::PreCandidate(_) | Role::Candidate(_) => None,
        };
        if message.is_some() {
            return message;
        }
        if let Some(write) = shared.next_write() {
            return Some(write);
        }
        if let Some(apply) = shared.next_apply() {
            return Some(apply);
        }
        match &mut self.role {
            Role::Leader(role) => role.next_serve(shared),
            _ => None,
        }
    }

    /// When to call `step` with [`Event::Wake`]; `None` if nothing is due without an event.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        if self.fatal.is_some() {
            return None;
        }
        match &self.role {
            Role::Leader(leader) => Some(leader.deadline()),
            _ => self.shared.election.as_ref().map(Deadline::instant),
        }
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
