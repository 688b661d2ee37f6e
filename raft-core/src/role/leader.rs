//! The leader: replicates its log and decides what is committed (§5.3, §5.4; Figure 2, Rules for Servers).
//!
//! * It never changes or removes an entry of its own log (Leader Append-Only, §5.3).
//! * It counts itself by what is durable here, like everybody else (TRAPS 6, 35; thesis §10.2.1).
//! * Messages are built late, when they are asked for: many proposals become one message per peer.
//! * A *round* is a generation of messages. An answer to round r proves that its sender followed this leader when
//!   it heard r: for reads (thesis §6.4) and for the check that a majority is still there (thesis §6.2).

use alloc::vec::Vec;

use crate::action::{Action, ReadOutcome, Violation, WriteOutcome, WriteRefusal};
use crate::entry::{BlockBody, Commands, Entries, Window};
use crate::ids::{LogId, LogIndex, NodeId, Ticket, Tickets};
use crate::log::Backlog;
use crate::message::{Body, Conflict};
use crate::progress::{ConflictFound, Progress};
use crate::proposals;
use crate::quorum;
use crate::reads::{self, Reads};
use crate::role::Next;
use crate::state::{Reader, Shared};
use crate::time::Instant;
use crate::timers::Deadline;

#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(crate) struct Leader {
    /// Every other member, by id.
    peers: Vec<Progress>,
    /// Where the search for the next message goes on.
    cursor: usize,
    /// The current round, and whether a message of it was built.
    round: u64,
    round_used: bool,
    /// The first entry of this term (§8).
    noop: LogIndex,
    elected: Instant,
    heartbeat: Instant,
    /// The last wake was late, and excused.
    excused: bool,
    quorum_check: Deadline,
    reads: Reads,
    /// Appended by this leader and not applied yet.
    backlog: Backlog,
}

impl Leader {
    /// Takes office: appends a no-op, so that it can commit what earlier leaders left (§5.4.2, §8).
    pub(crate) fn start(shared: &mut Shared) -> Self {
        let id = shared.id();
        assert!(
            shared.disk.settled() && shared.voted_for() == Some(id),
            "a leader has durably voted for itself (§5.2)"
        );
        shared.counters.elections_won += 1;
        shared.set_leader(Some(id));
        shared.election = None;
        let next_index = shared.log.last_index().next();
        let others = shared.membership().members().into_iter().filter(|node| *node != id);
        let mut leader = Self {
            peers: others.map(|node| Progress::new(node, next_index)).collect(),
            cursor: 0,
            round: 1,
            round_used: false,
            noop: next_index,
            elected: shared.now,
            heartbeat: shared.now + shared.config.heartbeat_interval,
            excused: false,
            quorum_check: Deadline::at(shared.now + shared.config.election_timeout_max),
            reads: Reads::default(),
            backlog: Backlog::default(),
        };
        leader.append(shared, Window::new(LogId::new(shared.term(), next_index), BlockBody::Noop));
        leader
    }

    fn append(&mut self, shared: &mut Shared, window: Window) {
        self.backlog.push(window.last_index(), window.size_bytes());
        shared.append(window);
    }

    // --- time ----------------------------------------------------------------------------------------------

    pub(crate) fn deadline(&self) -> Instant {
        self.heartbeat.min(self.quorum_check.instant())
    }

    pub(crate) fn wake(&mut self, shared: &mut Shared) -> Next {
        let now = shared.now;
        // A wake that comes late means that this process slept; then it reads its mailbox first (TRAP 62).
        let late = now.since(self.heartbeat) > shared.config.heartbeat_interval;
        self.excused = late && !self.excused;
        if shared.disk_stalled() && !shared.is_sole_voter() && !self.excused {
            // It could not commit with its own vote, nor keep a new term: somebody else should lead (TRAP 60).
            shared.counters.leases_lost += 1;
            return Next::Follow(None);
        }
        if self.quorum_check.is_due(now, shared.config.heartbeat_interval) {
            let contact = self.quorum_contact(shared);
            if now.since(contact) >= shared.config.election_timeout_max {
                // A leader without a majority must not keep clients or followers waiting (thesis §6.2, TRAP 12).
                shared.counters.leases_lost += 1;
                return Next::Follow(None);
            }
            self.quorum_check = Deadline::at(contact + shared.config.election_timeout_max);
        }
        if now >= self.heartbeat {
            self.heartbeat = now + shared.config.heartbeat_interval;
            self.new_round();
        }
        Next::Stay
    }

    /// When a majority, this node included, was last in contact.
    fn quorum_contact(&self, shared: &Shared) -> Instant {
        quorum::reached(shared.membership(), |node| match self.peer(node) {
            Some(peer) => peer.last_contact().unwrap_or(self.elected),
            None => shared.now,
        })
    }

    /// Whether a majority was heard from within the minimum election timeout (thesis §4.2.3).
    pub(crate) fn is_established(&self, shared: &Shared) -> bool {
        shared.now.since(self.quorum_contact(shared)) < shared.config.election_timeout_min
    }

    /// Begins a round in which every peer gets a message, unless the current one has not begun yet.
    fn new_round(&mut self) {
        if self.round_used {
            self.round += 1;
            self.round_used = false;
            self.peers.iter_mut().for_each(|peer| peer.heartbeat_due = true);
        }
    }

    // --- clients -------------------------------------------------------------------------------------------

    /// Bytes that may still be appended before proposals are refused.
    pub(crate) fn room_bytes(&self, shared: &Shared) -> u64 {
        let config = &shared.config;
        if shared.proposals.len() >= config.pending_proposals_max {
            return 0;
        }
        let uncommitted =
            config.uncommitted_bytes_max.saturating_sub(self.backlog.after(shared.commit_index));
        let unapplied = config.unapplied_bytes_max.saturating_sub(self.backlog.bytes());
        uncommitted.min(unapplied)
    }

    /// Appends commands to the log (§5.3). They wait there for the next message to each peer and the next write.
    pub(crate) fn propose(&mut self, shared: &mut Shared, tickets: Tickets, commands: &Commands) {
        let bytes_max = shared.config.command_bytes_max;
        let longest = commands.longest_bytes_above(bytes_max);
        let last = shared.log.last_index();
        let refusal = if let Some(bytes) = longest {
            Some(WriteOutcome::Refused(WriteRefusal::TooLarge { bytes, bytes_max }))
        } else if last.plus(u64::from(tickets.count)) >= LogIndex::LIMIT {
            Some(WriteOutcome::Refused(WriteRefusal::LogFull))
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
        for chunk in commands.chunks() {
            let first = LogId::new(first.term, shared.log.last_index().next());
            self.append(shared, Window::new(first, BlockBody::Commands(chunk.clone())));
        }
        shared.proposals.push(tickets, first);
    }

    /// A read waits for a round that begins now, and for everything committed by now (thesis §6.4).
    pub(crate) fn read(&mut self, shared: &mut Shared, tickets: Tickets) {
        if self.reads.len() >= shared.config.pending_reads_max {
            shared.out.push_back(reads::refuse(tickets, ReadOutcome::Busy));
            return;
        }
        self.new_round();
        self.reads.push(tickets, self.round, shared.commit_index.max(self.noop));
        self.confirm_reads(shared);
    }

    fn confirm_reads(&mut self, shared: &Shared) {
        if self.reads.awaited_round().is_none() {
            return;
        }
        let confirmed = quorum::reached(shared.membership(), |node| {
            self.peer(node).map_or(self.round, Progress::counted_round)
        });
        self.reads.confirm(confirmed);
    }

    pub(crate) fn forget(&mut self, shared: &mut Shared, tickets: Tickets) {
        self.reads.forget(tickets, &mut shared.out);
    }

    /// Leaves office.
    pub(crate) fn retire(&mut self, shared: &mut Shared) {
        shared.void_peer_reads();
        self.reads.give_up(shared.leader, &mut shared.out);
    }

    // --- replication ---------------------------------------------------------------------------------------

    fn peer(&self, node: NodeId) -> Option<&Progress> {
        self.peers.iter().find(|peer| peer.id == node)
    }

    pub(crate) fn peers(&self) -> impl Iterator<Item = &Progress> {
        self.peers.iter()
    }

    /// A reply of the current term (§5.3).
    pub(crate) fn append_entries_reply(
        &mut self,
        shared: &mut Shared,
        from: NodeId,
        result: Result<LogIndex, Conflict>,
        round: u64,
    ) {
        // Round zero answers a leadership of an earlier term.
        let Some(peer) = self.peers.iter_mut().find(|peer| peer.id == from && round > 0) else {
            shared.counters.stale += 1;
            return;
        };
        let last = shared.log.last_index();
        let absurd = match result {
            Ok(index) => index > last,
            Err(conflict) => conflict.prev > last || conflict.hint.index > conflict.prev,
        };
        if absurd || round > self.round {
            shared.counters.absurd += 1;
            return;
        }
        peer.heard(round, shared.now);
        match result {
            Ok(index) => {
                if peer.acknowledged(index, round, self.round) {
                    self.advance_commit(shared);
                }
            }
            Err(conflict) => match peer.refused(conflict, round, self.round, &shared.log.terms) {
                ConflictFound::MovedBack => {}
                ConflictFound::Stale => shared.counters.stale += 1,
                ConflictFound::Lost(index) => {
                    shared.violation(from, Violation::AcknowledgedEntryLost(index));
                    // Only answers to what is sent from now on say what it holds.
                    self.new_round();
                }
            },
        }
        self.confirm_reads(shared);
    }

    /// Commits what a majority holds durably, if it is of the current term; what comes before it is then committed
    /// too (§5.4.2, Figure 8).
    pub(crate) fn advance_commit(&mut self, shared: &mut Shared) {
        let durable = shared.disk.durable();
        let held = quorum::reached(shared.membership(), |node| {
            self.peer(node).map_or(durable, Progress::counted_match)
        });
        if held > shared.commit_index && held >= self.noop {
            assert_eq!(
                shared.log.term(held),
                Some(shared.term()),
                "only entries of its own term are committed by counting (§5.4.2)"
            );
            shared.commit(held);
        }
    }

    /// The state machine got further.
    pub(crate) fn applied(&mut self, shared: &Shared) {
        self.backlog.drain(shared.last_applied);
    }

    pub(crate) fn unreachable(&mut self, node: NodeId) {
        if let Some(peer) = self.peers.iter_mut().find(|peer| peer.id == node) {
            peer.unreachable();
        }
    }

    /// Older entries for a peer arrived from the log store.
    pub(crate) fn loaded(&mut self, node: NodeId, entries: Entries) {
        if let Some(peer) = self.peers.iter_mut().find(|peer| peer.id == node) {
            peer.reading = None;
            peer.loaded = entries;
        }
    }

    /// Something happened: every peer may have something to get.
    pub(crate) fn rewind(&mut self) {
        self.cursor = 0;
    }

    /// The next message to a peer or read of older entries for one.
    pub(crate) fn next_action(&mut self, shared: &mut Shared) -> Option<Action> {
        while let Some(peer) = self.peers.get_mut(self.cursor) {
            if let Some(action) = next_for(peer, shared, self.round) {
                self.round_used |= matches!(action, Action::Send(_));
                return Some(action);
            }
            self.cursor += 1;
        }
        None
    }

    /// The next reads to serve.
    pub(crate) fn next_serve(&mut self, shared: &Shared) -> Option<Action> {
        self.reads.serve(shared.apply_handed)
    }
}

fn next_for(peer: &mut Progress, shared: &mut Shared, round: u64) -> Option<Action> {
    let from = peer.next_index();
    let last = shared.log.last_index();
    let mut entries = Entries::empty();
    if from <= last && peer.has_room(&shared.config) {
        let config = &shared.config;
        if peer.loaded.first().is_some_and(|first| first.index == from) {
            entries = core::mem::take(&mut peer.loaded);
        } else if let Some(found) =
            shared.log.slice(from, last, config.append_entries_max, config.append_bytes_max)
        {
            entries = found;
        } else if peer.reading.is_none() {
            let through = shared.log.tail_first().prev().min(from.plus(config.append_entries_max - 1));
            let bytes_max = config.append_bytes_max;
            let action = shared.read_log(Reader::Peer(peer.id), from, through, bytes_max);
            if let Action::ReadLog { read, .. } = &action {
                peer.reading = Some(*read);
            }
            return Some(action);
        }
    }
    if entries.is_empty() && !peer.heartbeat_due {
        return None;
    }
    let prev = shared.log.terms.id(from.prev()).expect("next_index is at most one past the log's end");
    peer.sent(&entries);
    let body = Body::AppendEntries { prev, entries, commit: shared.commit_index, round };
    Some(Action::Send(shared.message(peer.id, body)))
}

/// The tickets of a proposal.
pub(crate) fn tickets_of(first: Ticket, commands: &Commands) -> Option<Tickets> {
    let count = u32::try_from(commands.len()).ok()?;
    (count > 0).then_some(Tickets::new(first, count))
}
