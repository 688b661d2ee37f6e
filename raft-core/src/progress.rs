//! What a leader knows of one peer, and when it may send what (§5.3; Figure 2, `nextIndex` and `matchIndex`).
//!
//! * `match_index < next_index`, and `match_index` only rises, unless the peer lost what it had: it comes from durable
//!   acknowledgements alone, never from a hint or from what was sent (TRAPS 20, 39).
//! * Snapshot: entries cannot help, or would be more work (§7); see [`Sending`].
//! * Probe: one message at a time, repeated by heartbeats. Replicate: optimistic, within a window of messages
//!   and bytes. Every heartbeat carries `prev = next_index - 1`, so the loss of a whole window is noticed by the
//!   next heartbeat (TRAP 30).

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::time::Duration;

use crate::config::Config;
use crate::entry::Entries;
use crate::flow::Flow;
use crate::ids::{LogId, LogIndex, NodeId, ReadId};
use crate::message::Conflict;
use crate::rounds::{Behind, CatchUp};
use crate::snapshot::{SnapshotId, SnapshotMeta};
use crate::status::{PeerStatus, ReplicationState};
use crate::terms::TermIndex;
use crate::time::Instant;
use crate::transfer::Sending;

#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(crate) struct Progress {
    pub(crate) id: NodeId,
    state: ReplicationState,
    match_index: LogIndex,
    next_index: LogIndex,
    /// A probe is on its way; a reply or the next heartbeat sends another.
    paused: bool,
    flow: Flow,
    /// The snapshot on its way, in state Snapshot.
    sending: Option<Box<Sending>>,
    /// A part of a snapshot that is being read for it, of this one or of one before: one at a time, whatever it says.
    pub(crate) chunk: Option<(SnapshotId, u64)>,
    /// After a snapshot: the log that was kept for it meanwhile.
    behind: Option<Behind>,
    /// The round in which it was added: what it said before is of an earlier life as a member (TRAP 28).
    added: u64,
    /// How it catches up before it votes.
    catch_up: CatchUp,
    /// It left the membership, and is told so.
    pub(crate) leaving: bool,
    /// It votes in the membership in force.
    pub(crate) votes: bool,
    /// The greatest round that it confirmed.
    round: u64,
    /// The leader's round when `match_index` was last raised: only answers to later rounds are younger than that.
    match_round: u64,
    /// Set while it counts in no majority.
    lost: Option<Lost>,
    /// The last entry of the probe on its way, and the bytes of its entries.
    probing: Option<(LogIndex, u64)>,
    last_contact: Option<Instant>,
    /// A message is due even without entries.
    pub(crate) heartbeat_due: bool,
    /// Older entries that are being read for it, and those that were.
    pub(crate) reading: Option<ReadId>,
    pub(crate) loaded: Entries,
}

/// A peer that no longer holds what it had acknowledged as durable (TRAP 29).
#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
struct Lost {
    /// What it had acknowledged. Once it has done so again it counts again.
    through: LogIndex,
    /// The leader's round when that was found: acknowledgements up to it may be of the time before.
    found: u64,
}

/// What a conflict meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ConflictFound {
    /// An earlier question: ignored.
    Stale,
    /// What the peer lacks may be on its way: not sent again yet.
    Late,
    /// `next_index` moved back.
    MovedBack,
    /// The peer no longer holds what it had acknowledged.
    Lost(LogIndex),
}

impl Progress {
    /// A peer of which nothing is known: probing starts at the end of the log. `round` is one of which no message was
    /// built yet.
    pub(crate) fn new(id: NodeId, next_index: LogIndex, round: u64, now: Instant) -> Self {
        Self {
            id,
            state: ReplicationState::Probe,
            match_index: LogIndex::ZERO,
            next_index,
            paused: false,
            flow: Flow::new(),
            sending: None,
            chunk: None,
            behind: None,
            added: round,
            catch_up: CatchUp::new(next_index.prev(), now),
            leaving: false,
            votes: false,
            round: 0,
            match_round: 0,
            lost: None,
            probing: None,
            last_contact: None,
            heartbeat_due: true,
            reading: None,
            loaded: Entries::empty(),
        }
    }

    pub(crate) fn next_index(&self) -> LogIndex {
        self.next_index
    }

    pub(crate) fn last_contact(&self) -> Option<Instant> {
        self.last_contact
    }

    /// What counts towards a commit.
    pub(crate) fn counted_match(&self) -> LogIndex {
        if self.lost.is_some() { LogIndex::ZERO } else { self.match_index }
    }

    /// What counts towards a read.
    pub(crate) fn counted_round(&self) -> u64 {
        if self.lost.is_some() { 0 } else { self.round }
    }

    /// Whether an answer to this round is of this membership of the peer (TRAP 28).
    pub(crate) fn is_of_now(&self, round: u64) -> bool {
        round >= self.added
    }

    pub(crate) fn state(&self) -> ReplicationState {
        self.state
    }

    /// Whether it was heard from in this term, so that `next_index` is more than a guess.
    pub(crate) fn was_heard(&self) -> bool {
        self.last_contact.is_some()
    }

    pub(crate) fn match_index(&self) -> LogIndex {
        self.match_index
    }

    /// The greatest round that it answered.
    pub(crate) fn round(&self) -> u64 {
        self.round
    }

    /// Whether it keeps up with a log that is committed through `last` (thesis §4.2.1).
    pub(crate) fn catches_up(&mut self, last: LogIndex, now: Instant, within: Duration) -> bool {
        let reached = self.last_contact.map(|_| self.counted_match());
        self.catch_up.advance(reached, last, now, within)
    }

    /// Whether it kept up when that was last looked at.
    pub(crate) fn is_caught_up(&self) -> bool {
        self.catch_up.is_done()
    }

    /// Whether it was heard from within this time.
    pub(crate) fn is_in_contact(&self, now: Instant, within: Duration) -> bool {
        self.last_contact.is_some_and(|at| now.since(at) <= within)
    }

    /// It answered a message of this round: it followed this leader then.
    pub(crate) fn heard(&mut self, round: u64, now: Instant) {
        self.round = self.round.max(round);
        self.last_contact = Some(now);
    }

    /// Its log equals the leader's through `index`, durably, it said in `round`; `current_round` is the leader's, whose log
    /// ends at `end`. Returns whether that is news for a commit.
    pub(crate) fn acknowledged(
        &mut self,
        index: LogIndex,
        round: u64,
        current_round: u64,
        end: LogIndex,
        config: &Config,
    ) -> bool {
        let mut news = index > self.match_index;
        if let Some(lost) = self.lost {
            if round <= lost.found {
                return false;
            }
            if index >= lost.through {
                self.lost = None;
                news = true;
            }
        }
        if self.sending.as_ref().is_some_and(|sending| sending.meta().id.last.index <= index) {
            self.probe(index.next());
            // The log that was kept for it meanwhile it shall get: else it would need the next snapshot at once, and so on.
            self.behind = self.last_contact.map(|now| Behind::new(index, end, now));
        }
        // Whatever was probed for, the follower accepted it; if the probe's entries were lost all the same, the
        // next heartbeat finds out.
        if self.state == ReplicationState::Probe {
            self.state = ReplicationState::Replicate;
            if let Some((last, bytes)) = self.probing.take() {
                self.next_index = last.next();
                self.flow.sent(last, bytes, self.last_contact.unwrap_or_default());
            }
        }
        if index > self.match_index {
            self.match_index = index;
            self.match_round = current_round;
            self.next_index = self.next_index.max(index.next());
            if let Some(now) = self.last_contact {
                self.flow.acknowledged(index, now, config);
                if let Some(behind) = self.behind {
                    self.behind = behind.reached(index, end, now);
                }
            }
        } else if self.flow.messages() == 0 {
            self.flow.rest();
        }
        if self.loaded.first().is_some_and(|first| first.index < self.next_index) {
            self.loaded = Entries::empty();
        }
        news
    }

    /// It refused `conflict.prev` in `round`; `current_round`, `terms` and `config` are the leader's.
    pub(crate) fn refused(
        &mut self,
        conflict: Conflict,
        round: u64,
        current_round: u64,
        terms: &TermIndex,
        config: &Config,
    ) -> ConflictFound {
        let mut found = ConflictFound::MovedBack;
        if conflict.prev <= self.match_index || conflict.hint.index < self.match_index {
            // A reply from before the acknowledgement is of no interest (TRAP 25); one from a later round
            // proves that durable entries are gone.
            if round <= self.match_round {
                return ConflictFound::Stale;
            }
            let before = self.lost.map_or(LogIndex::ZERO, |lost| lost.through);
            found = ConflictFound::Lost(self.match_index);
            self.lost = Some(Lost { through: before.max(self.match_index), found: current_round });
            self.match_index = LogIndex::ZERO;
        } else if self.state == ReplicationState::Probe && conflict.prev.next() != self.next_index {
            return ConflictFound::Stale;
        }
        if self.state == ReplicationState::Snapshot {
            return found;
        }
        let shorter = conflict.hint.index.min(conflict.prev.prev());
        if let (ReplicationState::Replicate, Some(now)) = (self.state, self.last_contact)
            && !self.flow.refused(shorter, now, config)
            && found == ConflictFound::MovedBack
        {
            return ConflictFound::Late;
        }
        let base = terms.base().index;
        if shorter < base {
            // Nothing in the log can match: the snapshot will (§7).
            self.probe(shorter.max(self.match_index).next());
            return found;
        }
        // The last entry of ours that can still equal one of its own (§5.3).
        let common = terms.last_at_most(shorter, conflict.hint.term);
        self.probe(common.index.max(self.match_index).next());
        found
    }

    /// Entries cannot help it, or would be more work (§7).
    pub(crate) fn send_snapshot(&mut self, meta: Arc<SnapshotMeta>, config: &Config, now: Instant) {
        let sending = Sending::new(meta, config, now, self.sending.as_deref());
        self.flow.interrupted();
        self.probe(self.next_index);
        self.state = ReplicationState::Snapshot;
        self.behind = None;
        self.sending = Some(Box::new(sending));
    }

    pub(crate) fn sending(&mut self) -> Option<&mut Sending> {
        self.sending.as_deref_mut()
    }

    pub(crate) fn sending_of(&mut self, id: SnapshotId) -> Option<&mut Sending> {
        self.sending().filter(|sending| sending.meta().id == id)
    }

    /// Behind which entry it needs the log that ends at `end`, or will when it has its snapshot, if it got further within
    /// this time. A log that grows faster than the peer takes it in is not kept, nor one that `outweighs` the snapshot.
    pub(crate) fn needs_behind(
        &self,
        end: LogIndex,
        now: Instant,
        within: Duration,
        outweighs: impl Fn(&SnapshotMeta) -> bool,
    ) -> Option<LogIndex> {
        match (&self.sending, self.behind) {
            (Some(sending), _) => {
                let kept = sending.goes_on(now, within) && !outweighs(sending.meta());
                kept.then_some(sending.meta().id.last.index)
            }
            (None, Some(behind)) => behind.needed(end, now, within),
            (None, None) => None,
        }
    }

    pub(crate) fn snapshot(&self) -> Option<&Arc<SnapshotMeta>> {
        self.sending.as_deref().map(Sending::meta)
    }

    /// The snapshot can no longer be sent: the peer is probed anew.
    pub(crate) fn abandon_snapshot(&mut self) {
        if self.state == ReplicationState::Snapshot {
            self.probe(self.match_index.next());
        }
    }

    /// What was on its way may be lost.
    pub(crate) fn unreachable(&mut self) {
        self.flow.interrupted();
        if let Some(sending) = &mut self.sending {
            sending.interrupted();
        }
        if self.state == ReplicationState::Replicate {
            self.probe(self.match_index.next());
            self.paused = true;
        }
    }

    fn probe(&mut self, next_index: LogIndex) {
        self.state = ReplicationState::Probe;
        self.next_index = next_index;
        self.paused = false;
        self.probing = None;
        self.sending = None;
        self.flow.clear();
        self.loaded = Entries::empty();
    }

    /// Whether entries may be sent now, were there any.
    pub(crate) fn has_room(&self, config: &Config) -> bool {
        match self.state {
            ReplicationState::Snapshot => false,
            ReplicationState::Probe => !self.paused,
            ReplicationState::Replicate => self.flow.has_room(config),
        }
    }

    /// Whether there is nothing to tell it of a log that ends at `last`: most of the time there is not.
    pub(crate) fn is_up_to_date(&self, last: LogIndex) -> bool {
        self.state == ReplicationState::Replicate && self.next_index > last && !self.heartbeat_due
    }

    /// A message that begins at `next_index` leaves.
    pub(crate) fn sent(&mut self, entries: &Entries, now: Instant) {
        self.heartbeat_due = false;
        match self.state {
            ReplicationState::Snapshot => {}
            ReplicationState::Probe => {
                self.paused = true;
                if let Some(last) = entries.last() {
                    self.probing = Some((last.index, entries.size_bytes()));
                }
            }
            ReplicationState::Replicate => {
                if let Some(LogId { index, .. }) = entries.last() {
                    self.next_index = index.next();
                    self.flow.sent(index, entries.size_bytes(), now);
                }
            }
        }
    }

    pub(crate) fn status(&self) -> PeerStatus {
        PeerStatus {
            id: self.id,
            state: self.state,
            match_index: self.match_index,
            next_index: self.next_index,
            inflight_appends: self.flow.messages() as u64,
            inflight_bytes: self.flow.bytes(),
            snapshot_bytes: self
                .sending
                .as_ref()
                .map(|sending| (sending.offset(), sending.meta().size_bytes)),
            last_contact: self.last_contact,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Term;
    use alloc::vec::Vec;

    const CONFIG: Config = Config::new(NodeId::new(1));

    fn index(at: u64) -> LogIndex {
        LogIndex::new(at)
    }

    fn conflict(prev: u64, hint: u64, term: u64) -> Conflict {
        Conflict { prev: index(prev), hint: LogId::new(Term::new(term), index(hint)) }
    }

    /// Entries 1-3 of term 1, 4-6 of term 4.
    fn terms() -> TermIndex {
        let mut terms = TermIndex::new(LogId::ZERO, Vec::new(), LogId::ZERO).expect("an empty log");
        terms.append(Term::new(1), index(3));
        terms.append(Term::new(4), index(6));
        terms
    }

    #[test]
    fn back_off_skips_a_term_at_a_time() {
        let mut peer = Progress::new(NodeId::new(2), index(7), 1, Instant::ZERO);
        // Its entries 4 to 6 are of term 2: none of ours of term 4 can match.
        assert_eq!(peer.refused(conflict(6, 6, 2), 1, 1, &terms(), &CONFIG), ConflictFound::MovedBack);
        assert_eq!(peer.next_index(), index(4));
    }

    #[test]
    fn a_stale_refusal_moves_nothing() {
        let mut peer = Progress::new(NodeId::new(2), index(7), 1, Instant::ZERO);
        assert!(peer.acknowledged(index(5), 3, 3, index(6), &CONFIG));
        assert_eq!(peer.refused(conflict(4, 2, 1), 3, 3, &terms(), &CONFIG), ConflictFound::Stale);
        assert_eq!((peer.match_index, peer.next_index()), (index(5), index(7)));
        let mut probing = Progress::new(NodeId::new(2), index(7), 1, Instant::ZERO);
        assert_eq!(probing.refused(conflict(2, 1, 1), 1, 1, &terms(), &CONFIG), ConflictFound::Stale);
    }

    #[test]
    fn a_stale_refusal_of_something_later_moves_nothing_either() {
        let mut peer = Progress::new(NodeId::new(2), index(7), 1, Instant::ZERO);
        assert!(peer.acknowledged(index(5), 3, 3, index(6), &CONFIG));
        assert_eq!(peer.refused(conflict(6, 2, 1), 2, 3, &terms(), &CONFIG), ConflictFound::Stale);
        assert_eq!((peer.match_index, peer.next_index()), (index(5), index(7)));
    }

    #[test]
    fn a_peer_that_lost_acknowledged_entries_counts_for_nothing_until_it_has_them_again() {
        let mut peer = Progress::new(NodeId::new(2), index(7), 1, Instant::ZERO);
        peer.heard(3, Instant::ZERO);
        assert!(peer.acknowledged(index(6), 3, 3, index(6), &CONFIG));
        assert_eq!(peer.refused(conflict(6, 0, 0), 4, 4, &terms(), &CONFIG), ConflictFound::Lost(index(6)));
        assert_eq!((peer.counted_match(), peer.counted_round(), peer.next_index()), (index(0), 0, index(1)));
        assert!(!peer.acknowledged(index(6), 4, 4, index(6), &CONFIG), "a duplicate of the time before");
        assert!(peer.acknowledged(index(4), 5, 5, index(6), &CONFIG));
        assert_eq!(peer.counted_match(), index(0));
        assert!(peer.acknowledged(index(6), 5, 5, index(6), &CONFIG));
        assert_eq!(peer.counted_match(), index(6));
    }

    #[test]
    fn one_probe_is_on_its_way_at_a_time() {
        let mut peer = Progress::new(NodeId::new(2), index(1), 1, Instant::ZERO);
        assert!(peer.has_room(&CONFIG));
        peer.sent(&Entries::empty(), Instant::ZERO);
        assert!(!peer.has_room(&CONFIG));
        peer.acknowledged(LogIndex::ZERO, 1, 1, index(6), &CONFIG);
        assert!(peer.has_room(&CONFIG));
    }
}
