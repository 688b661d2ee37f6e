//! Snapshots on their way from a leader to a follower, chunk by chunk (§7: offset, data, done).
//!
//! * One chunk to a peer at a time; the next one is read meanwhile. A chunk without data asks the receiver how far it
//!   is, so a transfer goes on where it was after a loss, a reconnect, or under another leader with the same snapshot.
//! * Chunks join only when the whole [`SnapshotMeta`] is equal, else the receiver begins at offset 0 (TRAP 43).
//! * The receiver hands its store one chunk at a time. Nothing is acknowledged by being sent (TRAP 39).
//! * A question may overtake a chunk: that the peer still wants it means that it is lost only after a time, which follows
//!   how long chunks take. That a store kept nothing the peer says itself.

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
    /// How much the peer has, once it has said so, and how much it ever had.
    offset: Option<u64>,
    reached: u64,
    /// When it last got further, or was begun.
    reached_at: Instant,
    inflight: Option<InFlight>,
    /// The chunk that was lost: where it begins, and when it was first sent.
    lost: Option<(u64, Instant)>,
    /// A chunk in memory, and where it begins.
    loaded: Option<(u64, Bytes)>,
    reading: Option<u64>,
    /// The round of the latest answer.
    answered: u64,
    /// The least time for a chunk to arrive, and the least rest after a refusal.
    rest: Duration,
    pace: Pace,
}

/// The chunk on its way.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
struct InFlight {
    from: u64,
    end: u64,
    round: u64,
    /// When it was first sent.
    since: Instant,
    /// Before that it is not taken for lost: a question may overtake it.
    lost_at: Instant,
}

/// What was learned of a peer, by whichever snapshot.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
struct Pace {
    /// How long a chunk may take.
    patience: Duration,
    /// How often it kept nothing of what it got, and until when it is left alone after that.
    refusals: u32,
    rest_until: Instant,
}

/// How many rests a wait is at most.
const RESTS_MAX: u32 = 64;

/// What is to be done for a transfer.
pub(crate) enum Step {
    Send(Body),
    Read(SnapshotTask),
}

impl Sending {
    /// Begins to send, perhaps in the place of another snapshot to the same peer.
    pub(crate) fn new(meta: Arc<SnapshotMeta>, rest: Duration, now: Instant, before: Option<&Self>) -> Self {
        let unknown = Pace { patience: rest, refusals: 0, rest_until: now };
        Self {
            meta,
            offset: None,
            reached: 0,
            reached_at: now,
            inflight: None,
            lost: None,
            loaded: None,
            reading: None,
            answered: 0,
            rest,
            pace: before.map_or(unknown, |before| before.pace),
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
        self.offset.unwrap_or(self.reached) == 0 && self.inflight.is_none()
    }

    /// Whether the peer got further within this time.
    pub(crate) fn goes_on(&self, now: Instant, within: Duration) -> bool {
        now.since(self.reached_at) <= within
    }

    /// The next chunk, question, or read of the snapshot. `asked`: a message is due in any case.
    pub(crate) fn next(&mut self, asked: bool, chunk_bytes: u64, round: u64, now: Instant) -> Option<Step> {
        let size = self.meta.size_bytes;
        let rests = now < self.pace.rest_until;
        if let (Some(offset), None, false) = (self.offset, self.inflight, rests) {
            let data = match self.loaded.take_if(|(at, _)| *at == offset) {
                Some((_, data)) => Some(data),
                None if size == 0 => Some(Bytes::new()),
                None => None,
            };
            if let Some(data) = data {
                let end = offset + data.len() as u64;
                let since = self.lost.filter(|(from, _)| *from == offset).map_or(now, |(_, since)| since);
                // Sent again it may take twice as long as it has taken.
                let patience = self.pace.patience.max(now.since(since)).min(self.rest * RESTS_MAX);
                self.inflight = Some(InFlight { from: offset, end, round, since, lost_at: now + patience });
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
            Some(InFlight { end, .. }) => end,
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

    /// The peer says how much it has. Returns whether that is more than ever before.
    pub(crate) fn wants(&mut self, offset: u64, round: u64, now: Instant) -> bool {
        if self.is_stale(offset, round, now) {
            return false;
        }
        let sent = self.settle(offset, round);
        self.lost = sent.filter(|chunk| chunk.from == offset).map(|chunk| (offset, chunk.since));
        if offset <= self.reached {
            return false;
        }
        if let Some(chunk) = sent {
            // The next may take twice as long.
            self.pace.patience = (now.since(chunk.since) * 2).clamp(self.rest, self.rest * RESTS_MAX);
        }
        (self.reached, self.reached_at) = (offset, now);
        true
    }

    /// The peer kept nothing of what it got. It is left alone for a while, longer each time: a full disk must not cost a
    /// transfer after the other. Returns whether the fault may be on this side: it had all of it more than once, and the
    /// bytes may not be what their digest says.
    pub(crate) fn refused(&mut self, round: u64, now: Instant) -> bool {
        let known = self.inflight.is_none() && self.offset == Some(0);
        if known || self.is_stale(0, round, now) {
            return false;
        }
        let sent = self.settle(0, round);
        self.pace.refusals = self.pace.refusals.saturating_add(1);
        self.pace.rest_until = now + self.rest * self.pace.refusals.min(RESTS_MAX);
        let complete = sent.is_some_and(|chunk| chunk.end == self.meta.size_bytes);
        // Each time for twice as long: another snapshot costs more than a transfer.
        complete && self.pace.refusals > 1 && self.pace.refusals.is_power_of_two()
    }

    /// Whether an answer of this round, by which the peer wants what begins there, tells nothing new: it is an old one, or
    /// has overtaken the chunk.
    fn is_stale(&self, offset: u64, round: u64, now: Instant) -> bool {
        let before = |chunk: InFlight| {
            let on_its_way = chunk.from == offset && now < chunk.lost_at;
            offset <= chunk.from && (round <= chunk.round || on_its_way)
        };
        round < self.answered || offset > self.meta.size_bytes || self.inflight.is_some_and(before)
    }

    /// This much the peer has now. Returns what was on its way to it.
    fn settle(&mut self, offset: u64, round: u64) -> Option<InFlight> {
        self.answered = round;
        self.offset = Some(offset);
        self.loaded.take_if(|(at, _)| *at != offset);
        self.inflight.take()
    }

    /// What was on its way may be lost: the next heartbeat asks.
    pub(crate) fn interrupted(&mut self) {
        (self.offset, self.inflight, self.lost) = (None, None, None);
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
    /// The store was handed some of it.
    begun: bool,
}

#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
enum Chunk {
    /// None: the next one is wanted.
    Wanted,
    /// None: the store kept nothing of what it was handed, and the first one is wanted again.
    Refused,
    /// It waits to be handed to the store.
    Waiting(Bytes, bool),
    /// The store writes it: its end, and whether it is the last.
    Writing(u64, bool),
    /// All are there.
    Complete,
}

impl Receiving {
    pub(crate) fn new(meta: Arc<SnapshotMeta>, term: Term, round: u64) -> Self {
        Self { meta, received: 0, chunk: Chunk::Wanted, term, round, begun: false }
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
        let wanted = matches!(self.chunk, Chunk::Wanted | Chunk::Refused) && offset == self.received;
        if wanted && (done || !data.is_empty()) {
            self.chunk = Chunk::Waiting(data, done);
        }
    }

    pub(crate) fn progress(&self) -> InstallProgress {
        match self.chunk {
            Chunk::Wanted => InstallProgress::Wants(self.received),
            Chunk::Refused => InstallProgress::Refused,
            Chunk::Waiting(..) | Chunk::Writing(..) | Chunk::Complete => InstallProgress::Busy,
        }
    }

    /// Whether the store may hold some of it.
    pub(crate) fn has_begun(&self) -> bool {
        self.begun
    }

    /// The next chunk for the store.
    pub(crate) fn next_write(&mut self) -> Option<SnapshotTask> {
        let Chunk::Waiting(data, done) = &mut self.chunk else { return None };
        let (data, done) = (core::mem::take(data), *done);
        self.chunk = Chunk::Writing(self.received + data.len() as u64, done);
        self.begun = true;
        Some(SnapshotTask::Write { meta: Arc::clone(&self.meta), offset: self.received, data, done })
    }

    /// The store has what it was handed, or has nothing.
    pub(crate) fn written(&mut self, kept: bool) {
        if let Chunk::Writing(end, done) = self.chunk {
            (self.received, self.chunk) = match (kept, done) {
                (false, _) => (0, Chunk::Refused),
                (true, false) => (end, Chunk::Wanted),
                (true, true) => (end, Chunk::Complete),
            };
        }
    }
}
