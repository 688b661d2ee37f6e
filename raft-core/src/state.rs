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

use crate::action::{
    Action, AdminOutcome, AdminRefusal, HardState, LogTask, MachineTask, Notice, Response, RoleKind,
    Violation, Write,
};
use crate::config::Config;
use crate::durability::Durability;
use crate::entry::{BlockBody, Entries, Window};
use crate::error::Fatal;
use crate::ids::{LogId, LogIndex, NodeId, ReadId, Term, Ticket};
use crate::log::{Backlog, Log};
use crate::membership::Membership;
use crate::message::{Body, Message};
use crate::proposals::Proposals;
use crate::rng::Rng;
use crate::status::Counters;
use crate::time::Instant;
use crate::timers::Deadline;

/// Messages that wait for the hard state at most: more than any cluster has members.
const GATED_MAX: usize = 1024;

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
    /// The election timeout; `None` for those who may not campaign.
    pub(crate) election: Option<Deadline>,

    pub(crate) proposals: Proposals,
    bootstraps: Vec<Ticket>,

    /// Ready to be handed out.
    pub(crate) out: VecDeque<Action>,
    /// Ready once the hard state is durable.
    gated: Vec<Message>,
    log_reads: LogReads,
    pub(crate) counters: Counters,
}

/// Reads of the log store that have not been answered.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
struct LogReads {
    next_id: u64,
    pending: Vec<LogRead>,
}

#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
struct LogRead {
    id: ReadId,
    reader: Reader,
    from: LogIndex,
    through: LogIndex,
}

/// Who asked for older entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(crate) enum Reader {
    /// The state machine is behind the tail.
    Machine,
    /// A peer is.
    Peer(NodeId),
}

impl Shared {
    pub(crate) fn new(
        config: Config,
        log: Log,
        hard_state: HardState,
        now: Instant,
        incarnation: u64,
    ) -> Self {
        let rng = Rng::new(config.seed, config.id, incarnation);
        let disk = Durability::new(hard_state, log.last_index());
        Self {
            config,
            now,
            rng,
            log,
            disk,
            commit_index: LogIndex::ZERO,
            apply_handed: LogIndex::ZERO,
            last_applied: LogIndex::ZERO,
            applying: Backlog::default(),
            leader: None,
            leader_of_term: None,
            leader_contact: None,
            election: None,
            proposals: Proposals::default(),
            bootstraps: Vec::new(),
            out: VecDeque::new(),
            gated: Vec::new(),
            log_reads: LogReads { next_id: 1, pending: Vec::new() },
            counters: Counters::default(),
        }
    }

    pub(crate) fn id(&self) -> NodeId {
        self.config.id
    }

    pub(crate) fn membership(&self) -> &Arc<Membership> {
        self.log.membership().1
    }

    pub(crate) fn is_voter(&self) -> bool {
        self.membership().is_voter(self.id())
    }

    pub(crate) fn is_sole_voter(&self) -> bool {
        self.membership().is_sole_voter(self.id())
    }

    // --- terms and votes (§5.1, §5.2) ----------------------------------------------------------------------

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
        self.gated.clear();
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

    /// Whether a leader was heard from within the minimum election timeout (thesis §4.2.3).
    pub(crate) fn heard_from_leader(&self) -> bool {
        self.leader_contact.is_some_and(|at| self.now.since(at) < self.config.election_timeout_min)
    }

    pub(crate) fn set_leader(&mut self, leader: Option<NodeId>) {
        if leader.is_some() {
            self.leader_of_term = leader;
        } else {
            self.leader_contact = None;
        }
        if self.leader != leader {
            self.leader = leader;
            let term = self.term();
            self.notify(Notice::Leader { leader, term });
        }
    }

    /// Whether another leader than `from` is known for the current term (Election Safety, §5.2).
    pub(crate) fn has_other_leader(&self, from: NodeId) -> bool {
        self.leader_of_term.is_some_and(|leader| leader != from)
    }

    /// Arms the election timeout anew (§5.2), for those who may campaign.
    pub(crate) fn rearm_election(&mut self) {
        let (min, max) = (self.config.election_timeout_min, self.config.election_timeout_max);
        let timeout = self.rng.duration(min, max);
        self.election = self.is_voter().then(|| Deadline::at(self.now + timeout));
    }

    /// Whether this node's disk has not answered for longer than any election timeout (TRAP 60).
    pub(crate) fn disk_stalled(&self) -> bool {
        let max = self.config.election_timeout_max;
        self.disk.waiting_since().is_some_and(|since| self.now.since(since) > max)
    }

    /// Whether this node may campaign now, and if not, why.
    pub(crate) fn may_campaign(&self) -> Result<(), AdminRefusal> {
        if !self.is_voter() {
            Err(AdminRefusal::NotAVoter)
        } else if !self.disk.settled() || self.disk_stalled() {
            Err(AdminRefusal::NotDurable)
        } else if self.term().next().is_none() || self.log.last_index().next() >= LogIndex::LIMIT {
            Err(AdminRefusal::NoTermLeft)
        } else {
            Ok(())
        }
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
        let membership = Arc::clone(self.membership());
        self.out.push_back(Action::Peers(membership));
        // Whoever becomes a voter by replication must be able to replace a leader that dies now.
        if self.election.is_some() != self.is_voter() && self.leader != Some(self.id()) {
            self.rearm_election();
        }
        self.notify(Notice::Membership { index });
    }

    fn evict(&mut self) {
        self.log.evict(self.disk.durable(), self.config.tail_bytes_max);
    }

    /// Bytes of entries that a crash now could lose.
    pub(crate) fn unpersisted_bytes(&self) -> u64 {
        self.log.bytes_after(self.disk.durable())
    }

    /// The commit index rises: the outcomes that this decides are due (Figure 2, `commitIndex`).
    pub(crate) fn commit(&mut self, index: LogIndex) {
        if index <= self.commit_index {
            return;
        }
        let id = self.log.terms.id(index).expect("the commit index never passes the end of the log (§5.3)");
        self.commit_index = index;
        self.proposals.committed(id, &self.log.terms, &mut self.out);
    }

    // --- bootstrap -----------------------------------------------------------------------------------------

    /// The first configuration, at index 1 in term 1, which counts as committed: every pristine node that is given
    /// the same set writes the same entry.
    pub(crate) fn bootstrap(&mut self, ticket: Ticket, members: BTreeMap<NodeId, Bytes>) {
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
        } else if self.log.membership_at(LogIndex::FIRST).map(|found| &**found) != Some(&membership) {
            return self.admin(ticket, AdminOutcome::Refused(AdminRefusal::NotPristine));
        }
        self.bootstraps.push(ticket);
        self.answer_bootstraps();
    }

    fn answer_bootstraps(&mut self) {
        if self.disk.durable() >= LogIndex::FIRST && self.disk.settled() {
            for ticket in core::mem::take(&mut self.bootstraps) {
                self.admin(ticket, AdminOutcome::Done);
            }
        }
    }

    // --- completions ---------------------------------------------------------------------------------------

    pub(crate) fn persisted(&mut self, id: crate::ids::WriteId) -> Result<(), Fatal> {
        self.disk.persisted(id)?;
        if self.disk.settled() {
            let gated = self.gated.drain(..).map(Action::Send);
            self.out.extend(gated);
        }
        self.answer_bootstraps();
        self.evict();
        Ok(())
    }

    pub(crate) fn applied(&mut self, index: LogIndex) -> Result<(), Fatal> {
        if index > self.apply_handed {
            return Err(Fatal::UnknownApplied(index, self.apply_handed));
        }
        self.last_applied = self.last_applied.max(index);
        self.applying.drain(index);
        Ok(())
    }

    /// Older entries arrived. Says for whom, unless nobody waits for them any more.
    pub(crate) fn log_read(
        &mut self,
        id: ReadId,
        result: Result<Entries, crate::event::LogReadError>,
    ) -> Result<Option<(Reader, Entries)>, Fatal> {
        let Some(at) = self.log_reads.pending.iter().position(|read| read.id == id) else {
            return Ok(None);
        };
        let read = self.log_reads.pending.remove(at);
        // Committed entries, and those of a leader's own log, are never truncated: what was asked for is there.
        match result {
            Ok(entries) if self.log.is_own(&entries, read.from, read.through) => {
                Ok(Some((read.reader, entries)))
            }
            _ => Err(Fatal::LogMismatch(id, read.from)),
        }
    }

    /// Nobody waits for what was being read for peers.
    pub(crate) fn void_peer_reads(&mut self) {
        self.log_reads.pending.retain(|read| read.reader == Reader::Machine);
    }

    pub(crate) fn read_log(
        &mut self,
        reader: Reader,
        from: LogIndex,
        through: LogIndex,
        bytes_max: u64,
    ) -> Action {
        let read = ReadId::mint(self.log_reads.next_id);
        self.log_reads.next_id += 1;
        self.log_reads.pending.push(LogRead { id: read, reader, from, through });
        Action::ReadLog { read, from, through, bytes_max }
    }

    fn is_reading_for_machine(&self) -> bool {
        self.log_reads.pending.iter().any(|read| read.reader == Reader::Machine)
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

    /// The next write, if there is something to write and room for it among those in flight.
    pub(crate) fn next_write(&mut self) -> Option<Action> {
        if self.disk.inflight() >= self.config.writes_inflight_max {
            return None;
        }
        let hard_state = self.disk.unwritten_hard_state();
        let from = self.disk.unwritten();
        let last = self.log.last_index();
        if hard_state.is_none() && from > last {
            return None;
        }
        let entries = self
            .log
            .slice(from, last, u64::MAX, self.config.write_bytes_max)
            .expect("entries that are not durable are in the tail");
        let id = self.disk.hand_out(entries.last().map(|last| last.index), self.now);
        Some(Action::Log(LogTask::Write(Write { id, hard_state, entries })))
    }

    /// The next entries for the state machine: committed and durable here, so that a crash of the whole cluster
    /// cannot take back what a client has seen applied (TRAP 22).
    pub(crate) fn next_apply(&mut self) -> Option<Action> {
        let from = self.apply_handed.next();
        let through = self.commit_index.min(self.disk.durable());
        if from > through || self.applying.bytes() >= self.config.apply_bytes_max {
            return None;
        }
        let bytes_max = self.config.apply_bytes_max;
        match self.log.slice(from, through, u64::MAX, bytes_max) {
            Some(entries) => Some(self.apply(entries)),
            None if self.is_reading_for_machine() => None,
            None => {
                let through = through.min(self.log.tail_first().prev());
                Some(self.read_log(Reader::Machine, from, through, bytes_max))
            }
        }
    }

    /// Hands entries to the state machine: in order, without gaps, once (State Machine Safety, §5.4.3).
    pub(crate) fn apply(&mut self, entries: Entries) -> Action {
        let (first, last) = entries.first().zip(entries.last()).expect("a slice and a read are not empty");
        assert_eq!(first.index, self.apply_handed.next(), "entries are applied in order (§5.3)");
        assert!(last.index <= self.commit_index, "only committed entries are applied (§5.3)");
        self.apply_handed = last.index;
        self.applying.push(last.index, entries.size_bytes());
        Action::Machine(MachineTask::Apply(entries))
    }

    pub(crate) fn role_changed(&mut self, role: RoleKind) {
        let term = self.term();
        self.notify(Notice::Role { role, term });
    }
}
