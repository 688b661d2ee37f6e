//! The leader: replicates its log and decides what is committed (§5.3, §5.4; Figure 2, Rules for Servers).
//!
//! * It never changes or removes an entry of its own log (Leader Append-Only, §5.3).
//! * It counts itself by what is durable here, like everybody else (TRAPS 6, 35; thesis §10.2.1), and only while it is
//!   a voter (TRAP 46).
//! * Messages are built late, when they are asked for: many proposals become one message per peer.
//! * A *round* is a generation of messages. An answer to round r proves that its sender followed this leader when
//!   it heard r: for reads (thesis §6.4) and for the check that a majority is still there (thesis §6.2).
//!
//! Here is what depends on time; clients, replication, changes of the membership, and transfers have rooms of their own.

mod change;
mod clients;
mod replicate;
mod transfer;

use alloc::vec::Vec;

use crate::action::Notice;
use crate::entry::{BlockBody, Window};
use crate::ids::{LogId, LogIndex, NodeId};
use crate::lease::RoundTimes;
use crate::log::Backlog;
use crate::progress::Progress;
use crate::quorum;
use crate::reads::Reads;
use crate::role::Next;
use crate::state::Shared;
use crate::time::Instant;
use crate::timers::Deadline;

use change::Change;
pub(crate) use clients::tickets_of;

#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(crate) struct Leader {
    /// The membership in force is settled, this node votes in it, and nobody is leaving.
    settled: bool,
    /// The index of the membership that `peers` and `settled` are of.
    counted_by: LogIndex,
    /// Every other member, by id, and those that left and are not told so yet.
    peers: Vec<Progress>,
    /// Where the search for the next message goes on.
    cursor: usize,
    /// The current round, and whether a message of it was built.
    round: u64,
    round_used: bool,
    /// When rounds were begun, where leases are relied on.
    times: RoundTimes,
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
    change: Change,
    /// It asked another to campaign: it serves no read by its lease any more (TRAP 57).
    dismissed: bool,
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
        shared.abandon_receiving();
        (shared.election, shared.wanted) = (None, false);
        let next_index = shared.log.last_index().next();
        let mut leader = Self {
            settled: false,
            counted_by: LogIndex::ZERO,
            peers: Vec::new(),
            cursor: 0,
            round: 1,
            round_used: false,
            times: RoundTimes::default(),
            noop: next_index,
            elected: shared.now,
            heartbeat: shared.now + shared.config.heartbeat_interval,
            excused: false,
            quorum_check: Deadline::at(shared.now + shared.config.election_timeout_max),
            reads: Reads::default(),
            backlog: Backlog::default(),
            change: Change::new(shared.now),
            dismissed: false,
        };
        leader.match_peers(shared);
        if shared.log.membership().0 > shared.commit_index {
            leader.match_leaving(shared);
        }
        leader.append(shared, Window::new(LogId::new(shared.term(), next_index), BlockBody::Noop));
        leader
    }

    fn append(&mut self, shared: &mut Shared, window: Window) {
        self.backlog.push(window.last_index(), window.size_bytes());
        shared.append(window);
    }

    /// Leaves office.
    pub(crate) fn retire(&mut self, shared: &mut Shared) {
        shared.void_peer_reads();
        self.reads.give_up(shared.leader, &mut shared.out);
        self.change.give_up(shared);
    }

    /// Something happened: every peer may have something to get, and what waits for it may go on.
    #[inline]
    pub(crate) fn react(&mut self, shared: &mut Shared) -> Next {
        self.cursor = 0;
        let changes = !self.settled || self.change.is_some() || shared.has_farewells();
        let next = if changes { self.drive_change(shared) } else { Next::Stay };
        if shared.handover.is_some() {
            self.drive_transfer(shared);
        }
        next
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
            self.dismiss(shared);
            return Next::Follow(None);
        }
        if self.quorum_check.is_due(now, shared.config.heartbeat_interval) {
            let contact = self.quorum_contact(shared);
            if now.since(contact) >= shared.config.election_timeout_max {
                shared.notify(Notice::MajorityMissing { silent: self.silent(shared) });
                if !self.back_out(shared) {
                    // A leader without a majority must not keep clients or followers waiting (thesis §6.2, TRAP 12).
                    shared.counters.leases_lost += 1;
                    return Next::Follow(None);
                }
            }
            let contact = self.quorum_contact(shared);
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
        quorum::reached(shared.membership(), |node| self.contact(node, shared))
    }

    /// When this node was last in contact, counted from the election.
    fn contact(&self, node: NodeId, shared: &Shared) -> Instant {
        match self.peer(node) {
            Some(peer) => peer.last_contact().unwrap_or(self.elected),
            None => shared.now,
        }
    }

    /// The voters that were not heard from for an election timeout.
    fn silent(&self, shared: &Shared) -> alloc::sync::Arc<[NodeId]> {
        let membership = shared.membership();
        let timeout = shared.config.election_timeout_max;
        let voters = membership.voters.union(&membership.outgoing).copied();
        voters.filter(|node| shared.now.since(self.contact(*node, shared)) >= timeout).collect()
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

    // --- peers ---------------------------------------------------------------------------------------------

    fn peer(&self, node: NodeId) -> Option<&Progress> {
        self.peers.binary_search_by_key(&node, |peer| peer.id).ok().map(|at| &self.peers[at])
    }

    fn peer_mut(&mut self, node: NodeId) -> Option<&mut Progress> {
        self.peers.binary_search_by_key(&node, |peer| peer.id).ok().map(|at| &mut self.peers[at])
    }

    pub(crate) fn is_peer(&self, node: NodeId) -> bool {
        self.peer(node).is_some()
    }

    pub(crate) fn peers(&self) -> impl Iterator<Item = &Progress> {
        self.peers.iter()
    }
}
