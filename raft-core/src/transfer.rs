//! Snapshots on their way from a leader to a follower, chunk by chunk (§7: offset, data, done).
//!
//! * One chunk to a peer at a time; the next one is read meanwhile. A chunk without data asks the receiver how far it
//!   is, so a transfer goes on where it was after a loss, a reconnect, or under another leader with the same snapshot.
//! * Chunks join only when the whole [`SnapshotMeta`] is equal, else the receiver begins at offset 0 (TRAP 43).
//! * The receiver hands its store one chunk at a time. Nothing is acknowledged by being sent (TRAP 39).

use alloc::sync::Arc;
use bytes::Bytes;
use core::time::Duration;

use crate::action::SnapshotTask;
use crate::ids::Term;
use crate::message::{Body, InstallProgress};
use crate::snapshot::{SnapshotId, SnapshotMeta};
use crate::time::Instant;

/// A snapshot that a leader sends to one peer.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(crate) struct Sending {
    meta: Arc<SnapshotMeta>,
    /// How much the peer has, once it has said so.
    offset: Option<u64>,
    /// The chunk on its way: where it begins, where it ends, and its round.
    inflight: Option<(u64, u64, u64)>,
    /// A chunk in memory, and where it begins.
    loaded: Option<(u64, Bytes)>,
    reading: Option<u64>,
    /// The round of the latest answer.
    answered: u64,
    /// How much the peer ever had.
    reached: u64,
    /// How often it wanted to begin anew, and until when it is left alone after that.
    refusals: u64,
    rest_until: Instant,
}

/// What an answer of the peer means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It has more than ever before.
    Progress,
    /// It had everything, and kept nothing: its store failed, or the bytes are not what their digest says.
    Refused,
    /// Nothing new.
    Nothing,
}

/// What is to be done for a transfer.
pub(crate) enum Step {
    Send(Body),
    Read(SnapshotTask),
}

impl Sending {
    pub(crate) fn new(meta: Arc<SnapshotMeta>) -> Self {
        Self {
            meta,
            offset: None,
            inflight: None,
            loaded: None,
            reading: None,
            answered: 0,
            reached: 0,
            refusals: 0,
            rest_until: Instant::ZERO,
        }
    }

    pub(crate) fn meta(&self) -> &Arc<SnapshotMeta> {
        &self.meta
    }

    pub(crate) fn offset(&self) -> u64 {
        self.offset.unwrap_or(0)
    }

    /// Whether nothing of it has arrived or is on its way.
    pub(crate) fn is_idle(&self) -> bool {
        self.offset() == 0 && self.inflight.is_none()
    }

    /// The next chunk, question, or read of the snapshot. `asked`: a message is due in any case.
    pub(crate) fn next(&mut self, asked: bool, chunk_bytes: u64, round: u64, now: Instant) -> Option<Step> {
        let size = self.meta.size_bytes;
        let rests = now < self.rest_until;
        if let (Some(offset), None, false) = (self.offset, self.inflight, rests) {
            let data = match self.loaded.take_if(|(at, _)| *at == offset) {
                Some((_, data)) => Some(data),
                None if size == 0 => Some(Bytes::new()),
                None => None,
            };
            if let Some(data) = data {
                let end = offset + data.len() as u64;
                self.inflight = Some((offset, end, round));
                let meta = Arc::clone(&self.meta);
                return Some(Step::Send(Body::InstallSnapshot {
                    meta,
                    offset,
                    data,
                    done: end == size,
                    round,
                }));
            }
        }
        if asked {
            let (meta, offset, data) = (Arc::clone(&self.meta), self.offset(), Bytes::new());
            return Some(Step::Send(Body::InstallSnapshot { meta, offset, data, done: false, round }));
        }
        // Reading goes one chunk ahead of sending.
        let wanted = match self.inflight {
            Some((_, end, _)) => end,
            None => self.offset?,
        };
        let there = self.loaded.as_ref().is_some_and(|(at, _)| *at == wanted);
        if wanted < size && !there && !rests && self.reading != Some(wanted) {
            self.reading = Some(wanted);
            let bytes_max = chunk_bytes.min(size - wanted);
            return Some(Step::Read(SnapshotTask::Read { id: self.meta.id, offset: wanted, bytes_max }));
        }
        None
    }

    /// Whether a part of the snapshot from there on is being read for this peer.
    pub(crate) fn is_reading(&self, offset: u64) -> bool {
        self.reading == Some(offset)
    }

    /// The part that was being read. Returns whether it is sound.
    pub(crate) fn read(&mut self, offset: u64, data: &Bytes) -> bool {
        self.reading = None;
        let fits = offset.checked_add(data.len() as u64).is_some_and(|end| end <= self.meta.size_bytes);
        if data.is_empty() || !fits {
            return false;
        }
        self.loaded = Some((offset, data.clone()));
        true
    }

    /// The peer says how much it has. If it lost what it had, or did not keep the first chunk, it is left alone for a while,
    /// `rest` longer each time: a full disk must not cost a transfer after the other.
    pub(crate) fn wants(&mut self, offset: u64, round: u64, now: Instant, rest: Duration) -> Answer {
        let size = self.meta.size_bytes;
        let stale = round < self.answered
            || offset > size
            || self.inflight.is_some_and(|(at, _, sent)| at == offset && round <= sent);
        if stale {
            return Answer::Nothing;
        }
        let complete = self.inflight.is_some_and(|(_, end, sent)| end == size && round > sent);
        let lost = offset == 0 && (self.inflight.is_some() || self.offset() > 0);
        self.answered = round;
        self.inflight = None;
        self.offset = Some(offset);
        self.loaded.take_if(|(at, _)| *at != offset);
        if lost {
            self.refusals += 1;
            let times = u32::try_from(self.refusals.min(64)).expect("at most 64");
            self.rest_until = now + rest.saturating_mul(times);
            return if complete { Answer::Refused } else { Answer::Nothing };
        }
        if offset <= self.reached {
            return Answer::Nothing;
        }
        self.reached = offset;
        self.rest_until = now;
        Answer::Progress
    }

    /// Whether the peer wanted to begin anew more than once: the fault may be on this side.
    pub(crate) fn is_suspect(&self) -> bool {
        self.refusals > 1
    }

    /// What was on its way may be lost: the next heartbeat asks.
    pub(crate) fn interrupted(&mut self) {
        self.offset = None;
        self.inflight = None;
    }
}

/// A snapshot that arrives from a leader.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(crate) struct Receiving {
    meta: Arc<SnapshotMeta>,
    /// Through where the store has it.
    received: u64,
    chunk: Chunk,
    /// The term and the latest round in which the leader sent it.
    term: Term,
    round: u64,
}

#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
enum Chunk {
    /// None: the next one is wanted.
    Wanted,
    /// It waits to be handed to the store.
    Waiting(Bytes, bool),
    /// The store writes it: its end, and whether it is the last.
    Writing(u64, bool),
    /// All are there.
    Complete,
}

impl Receiving {
    pub(crate) fn new(meta: Arc<SnapshotMeta>, term: Term, round: u64) -> Self {
        Self { meta, received: 0, chunk: Chunk::Wanted, term, round }
    }

    pub(crate) fn meta(&self) -> &Arc<SnapshotMeta> {
        &self.meta
    }

    pub(crate) fn id(&self) -> SnapshotId {
        self.meta.id
    }

    pub(crate) fn is_complete(&self) -> bool {
        matches!(self.chunk, Chunk::Complete)
    }

    /// Whether the leader of `term` sent its message of `round` before those that brought this snapshot.
    pub(crate) fn is_newer_than(&self, term: Term, round: u64) -> bool {
        self.term == term && round < self.round
    }

    /// A chunk arrived, or a question.
    pub(crate) fn take(&mut self, offset: u64, data: Bytes, done: bool, term: Term, round: u64) {
        self.round = if self.term == term { self.round.max(round) } else { round };
        self.term = term;
        let wanted = matches!(self.chunk, Chunk::Wanted) && offset == self.received;
        if wanted && (done || !data.is_empty()) {
            self.chunk = Chunk::Waiting(data, done);
        }
    }

    pub(crate) fn progress(&self) -> InstallProgress {
        match self.chunk {
            Chunk::Wanted => InstallProgress::Wants(self.received),
            Chunk::Waiting(..) | Chunk::Writing(..) | Chunk::Complete => InstallProgress::Busy,
        }
    }

    /// The next chunk for the store.
    pub(crate) fn next_write(&mut self) -> Option<SnapshotTask> {
        let Chunk::Waiting(data, done) = &mut self.chunk else { return None };
        let (data, done) = (core::mem::take(data), *done);
        self.chunk = Chunk::Writing(self.received + data.len() as u64, done);
        Some(SnapshotTask::Write { meta: Arc::clone(&self.meta), offset: self.received, data, done })
    }

    /// The store has what it was handed, or has nothing.
    pub(crate) fn written(&mut self, kept: bool) {
        if let Chunk::Writing(end, done) = self.chunk {
            self.received = if kept { end } else { 0 };
            self.chunk = if kept && done { Chunk::Complete } else { Chunk::Wanted };
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::collections::BTreeMap;

    use super::*;
    use crate::ids::{LogId, LogIndex, NodeId};
    use crate::membership::Membership;

    const REST: Duration = Duration::from_millis(100);

    /// Three chunks of one byte.
    fn sending() -> Sending {
        let last = LogId::new(Term::new(1), LogIndex::new(9));
        let membership = Membership::of_voters(BTreeMap::from([(NodeId::new(1), Bytes::new())]));
        Sending::new(Arc::new(SnapshotMeta {
            id: crate::snapshot::SnapshotId { last, taken_by: NodeId::new(1), seq: 1 },
            membership: Arc::new(membership),
            membership_index: LogIndex::new(1),
            size_bytes: 3,
            digest: 0,
            terms: Arc::new([]),
        }))
    }

    /// Sends what there is to send without being asked, and reads for it; returns where the chunk begins.
    fn sent(sending: &mut Sending, round: u64, now: Instant) -> Option<u64> {
        for _ in 0..4 {
            match sending.next(false, 1, round, now)? {
                Step::Send(Body::InstallSnapshot { offset, .. }) => return Some(offset),
                Step::Read(SnapshotTask::Read { offset, .. }) => {
                    assert!(sending.read(offset, &Bytes::from_static(b"x")));
                }
                _ => unreachable!("nothing else is asked of anybody"),
            }
        }
        None
    }

    #[test]
    fn a_receiver_that_lost_what_it_had_is_left_alone_for_longer_each_time() {
        let (mut sending, mut now, mut round) = (sending(), Instant::ZERO, 1);
        assert_eq!(sending.wants(0, round, now, REST), Answer::Nothing);
        for refusals in 1..=3 {
            assert_eq!(sent(&mut sending, round, now), Some(0));
            let news = if refusals == 1 { Answer::Progress } else { Answer::Nothing };
            assert_eq!(sending.wants(1, round, now, REST), news, "what it had before is no progress");
            assert_eq!(sent(&mut sending, round, now), Some(1));
            // Its disk is full: it answers the next question with nothing.
            round += 1;
            assert_eq!(sending.wants(0, round, now, REST), Answer::Nothing);
            assert_eq!(sent(&mut sending, round, now + (REST * refusals - Duration::from_nanos(1))), None);
            assert!(sending.next(true, 1, round, now).is_some(), "it is asked how far it is all the same");
            now = now + REST * refusals;
        }
        assert_eq!(sent(&mut sending, round, now), Some(0));
        // Nor is there room for the first chunk now.
        for refusals in 4..=5 {
            round += 1;
            assert_eq!(sending.wants(0, round, now, REST), Answer::Nothing);
            assert_eq!(sent(&mut sending, round, now + (REST * refusals - Duration::from_nanos(1))), None);
            now = now + REST * refusals;
            assert_eq!(sent(&mut sending, round, now), Some(0));
        }
        // A connection that was lost is no fault of its.
        sending.wants(1, round, now, REST);
        sending.interrupted();
        round += 1;
        sending.wants(0, round, now, REST);
        assert_eq!(sent(&mut sending, round, now), Some(0));
    }

    #[test]
    fn a_first_chunk_that_arrives_late_ends_the_rest() {
        let (mut sending, now) = (sending(), Instant::ZERO);
        sending.wants(0, 1, now, REST);
        assert_eq!(sent(&mut sending, 1, now), Some(0));
        // The question of the next round overtook it.
        sending.wants(0, 2, now, REST);
        assert_eq!(sent(&mut sending, 2, now), None);
        assert_eq!(sending.wants(1, 3, now, REST), Answer::Progress);
        assert_eq!(sent(&mut sending, 3, now), Some(1));
    }
}
