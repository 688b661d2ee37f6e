//! What clients want of a leader: proposals and reads (§8, thesis §6.4).

use super::Leader;
use crate::action::{Action, ReadOutcome, WriteOutcome, WriteRefusal};
use crate::entry::{BlockBody, Commands, Window};
use crate::event::ReadConsistency;
use crate::ids::{LogId, LogIndex, NodeId, Ticket, Tickets};
use crate::message::{Body, QuestionId};
use crate::progress::Progress;
use crate::proposals;
use crate::quorum;
use crate::reads;
use crate::state::Shared;

impl Leader {
    /// Bytes that may still be appended before proposals are refused.
    pub(crate) fn room_bytes(&self, shared: &Shared) -> u64 {
        let config = &shared.config;
        if shared.proposals.len() >= config.pending_proposals_max || shared.handover.is_some() {
            return 0;
        }
        let uncommitted =
            config.uncommitted_bytes_max.saturating_sub(self.backlog.after(shared.commit_index));
        let unapplied = config.unapplied_bytes_max.saturating_sub(self.backlog.bytes());
        uncommitted.min(unapplied)
    }

    /// Appends commands to the log (§5.3). They wait there for the next message to each peer and the next write.
    pub(crate) fn propose(&mut self, shared: &mut Shared, tickets: Tickets, commands: Commands) {
        let bytes_max = shared.config.command_bytes_max;
        let longest = commands.longest_bytes_above(bytes_max);
        let last = shared.log.last_index();
        let refusal = if let Some(bytes) = longest {
            Some(WriteOutcome::Refused(WriteRefusal::TooLarge { bytes, bytes_max }))
        } else if last.plus(u64::from(tickets.count)) >= LogIndex::LIMIT {
            Some(WriteOutcome::Refused(WriteRefusal::LogFull))
        } else if !self.settled && !shared.is_voter() {
            // It is leaving, and will not see what becomes of entries after that (§6).
            Some(WriteOutcome::NotLeader { leader: None })
        } else if self.room_bytes(shared) == 0 {
            Some(WriteOutcome::Busy)
        } else {
            None
        };
        if let Some(outcome) = refusal {
            shared.out.push_back(proposals::respond(tickets, outcome));
            return;
        }
        let first = LogId::new(shared.term(), last.next());
        commands.each_chunk(|chunk| {
            let first = LogId::new(first.term, shared.log.last_index().next());
            self.append(shared, Window::new(first, BlockBody::Commands(chunk)));
        });
        shared.proposals.push(tickets, first);
    }

    /// The index that a read which arrives now must see: everything committed by now, and the first entry of the term
    /// (thesis §6.4).
    fn read_index(&self, shared: &Shared) -> LogIndex {
        shared.commit_index.max(self.noop)
    }

    /// A read waits for a round that begins now, or is proved by the lease.
    pub(crate) fn read(&mut self, shared: &mut Shared, tickets: Tickets, consistency: ReadConsistency) {
        if self.reads.len() >= shared.config.pending_reads_max {
            shared.out.push_back(reads::refuse(tickets, ReadOutcome::Busy));
            return;
        }
        let index = self.read_index(shared);
        if consistency == ReadConsistency::Lease && self.holds_lease(shared) {
            return self.reads.push_proved(tickets, index);
        }
        self.new_round();
        self.reads.push(tickets, self.round, index);
        self.confirm_reads(shared);
    }

    /// Another member wants to serve reads.
    pub(crate) fn read_index_asked(&mut self, shared: &Shared, from: NodeId, id: QuestionId) {
        self.new_round();
        let index = self.read_index(shared);
        if self.reads.ask(from, id, self.round, index) {
            self.confirm_reads(shared);
        }
    }

    /// Whether nobody else can have been elected (thesis §6.4.1).
    fn holds_lease(&self, shared: &Shared) -> bool {
        let Some(lease) = shared.config.lease else { return false };
        let alone = shared.is_sole_voter();
        let min = shared.config.election_timeout_min;
        let proved = alone || self.times.holds(self.confirmed_round(shared), shared.now, min, lease);
        // Not for a leader that does not vote: who votes alone may be elected without waiting for it (see `Shared::new`).
        proved && shared.is_voter() && !self.dismissed && shared.commit_index >= self.noop
    }

    /// The last round that a majority has confirmed.
    fn confirmed_round(&self, shared: &Shared) -> u64 {
        quorum::reached(shared.membership(), |node| {
            self.peer(node).map_or(self.round, Progress::counted_round)
        })
    }

    #[inline]
    pub(super) fn confirm_reads(&mut self, shared: &Shared) {
        if self.reads.is_waiting() || shared.config.lease.is_some() {
            self.confirm(shared);
        }
    }

    #[inline(never)]
    fn confirm(&mut self, shared: &Shared) {
        let confirmed = self.confirmed_round(shared);
        self.reads.confirm(confirmed);
        if shared.config.lease.is_some() {
            self.times.confirmed(confirmed);
        }
    }

    pub(crate) fn forget(&mut self, shared: &mut Shared, tickets: Tickets) {
        self.reads.forget(tickets, &mut shared.out);
    }

    /// Whether reads wait for the state machine.
    pub(crate) fn has_reads(&self) -> bool {
        self.reads.is_proved()
    }

    /// The next reads to serve.
    pub(crate) fn next_serve(&mut self, shared: &Shared) -> Option<Action> {
        self.reads.serve(shared.apply_handed)
    }

    /// The next answer to a member that serves reads itself.
    pub(super) fn next_answer(&mut self, shared: &Shared) -> Option<Action> {
        if !self.reads.is_asked() {
            return None;
        }
        let (to, id, index) = self.reads.answer(self.confirmed_round(shared), shared.commit_index)?;
        Some(Action::Send(shared.message(to, Body::ReadIndexReply { id, index: Some(index) })))
    }
}

/// The tickets of a proposal.
pub(crate) fn tickets_of(first: Ticket, commands: &Commands) -> Option<Tickets> {
    let count = u32::try_from(commands.len()).ok()?;
    (count > 0).then_some(Tickets::new(first, count))
}
