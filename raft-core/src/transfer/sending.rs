//! The leader's side of a transfer.
//!
//! * A question may overtake a chunk: that the peer still wants it means that it is lost only after a time, which follows
//!   how long chunks take. That a store kept nothing the peer says itself.

use alloc::sync::Arc;
use bytes::Bytes;
use core::time::Duration;

use crate::config::Config;
use crate::message::Body;
use crate::snapshot::{SnapshotId, SnapshotMeta};
use crate::time::Instant;

/// A snapshot that a leader sends to one peer.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(crate) struct Sending {
    meta: Arc<SnapshotMeta>,
    /// How much the peer has, once it has said so; what it had to exceed to get further; and how much it ever had.
    offset: Option<u64>,
    reached: u64,
    most: u64,
    /// It lost what it had, which is forgiven until it had more than ever.
    fell: bool,
    /// When it last got further, or was begun.
    reached_at: Instant,
    inflight: Option<InFlight>,
    /// The chunk that was lost.
    lost: Option<InFlight>,
    /// A chunk in memory, and where it begins.
    loaded: Option<(u64, Bytes)>,
    /// The round of the latest answer.
    answered: u64,
    /// The least and the longest time for a chunk to arrive, and for a rest after a refusal.
    rest: Duration,
    rest_max: Duration,
    pace: Pace,
    /// Whether a chunk was sent since the last refusal, or may have been by another leader.
    tried: bool,
    /// The last chunk was sent, and the peer wants no other since.
    complete: bool,
    /// Until when the answer to a question, or the first chunk, is waited for.
    begins_by: Option<Instant>,
}

/// The chunk on its way.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
struct InFlight {
    from: u64,
    end: u64,
    round: u64,
    /// When it was first sent, and last.
    since: Instant,
    sent_at: Instant,
    /// Before that it is not taken for lost: a question may overtake it.
    lost_at: Instant,
    /// For how long it was waited for by then, all copies together.
    waited: Duration,
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
    /// The longest time in which it got no further.
    stood: Duration,
}

/// What is to be done for a transfer.
pub(crate) enum Step {
    Send(Body),
    Read { id: SnapshotId, offset: u64, bytes_max: u64 },
}

impl Sending {
    /// Begins to send, perhaps in the place of another snapshot to the same peer.
    pub(crate) fn new(meta: Arc<SnapshotMeta>, config: &Config, now: Instant, before: Option<&Self>) -> Self {
        let rest = config.election_timeout_max;
        // One loss is not yet what a transfer is given up for.
        let rest_max = rest.max(config.catch_up_timeout / 2);
        let unknown = Pace { patience: rest, refusals: 0, rest_until: now, stood: Duration::ZERO };
        let mut pace = before.map_or(unknown, |before| before.pace);
        pace.stood = pace.stood.max(before.map_or(Duration::ZERO, |before| now.since(before.reached_at)));
        if let Some(lost) = before.and_then(|before| before.lost) {
            // It may be on its way all the same.
            pace.patience = pace.patience.max(now.since(lost.since)).min(rest_max);
        }
        if before.is_some_and(|before| before.begins_by.is_some() && before.offset.is_none()) {
            // The answer was later than that.
            pace.patience = (pace.patience * 2).min(rest_max);
        }
        // Whoever lost what it got of the one before is forgiven no more for this one.
        let lost = before.filter(|before| before.most > 0 && before.has_nothing());
        let most = lost.map_or(0, |before| before.most);
        let reached = lost.filter(|before| before.fell).map_or(0, |before| before.reached);
        Self {
            reached: reached.min(meta.size_bytes.saturating_sub(1)),
            meta,
            offset: None,
            most,
            fell: lost.is_some(),
            reached_at: now,
            inflight: None,
            lost: None,
            loaded: None,
            answered: 0,
            rest,
            rest_max,
            pace,
            tried: true,
            complete: false,
            begins_by: None,
        }
    }

    pub(crate) fn meta(&self) -> &Arc<SnapshotMeta> {
        &self.meta
    }

    pub(crate) fn offset(&self) -> u64 {
        self.offset.unwrap_or(0)
    }

    /// Whether the peer has nothing of it, nor is anything on its way, nor an answer by which it would begin.
    pub(crate) fn is_idle(&self, now: Instant) -> bool {
        let begins = self.complete || self.begins_by.is_some_and(|until| now < until);
        !begins && self.has_nothing() && self.inflight.is_none()
    }

    /// Whether nothing of it has arrived, or all that had was lost.
    fn has_nothing(&self) -> bool {
        self.offset.unwrap_or(self.reached) == 0
    }

    /// Whether the peer got further within this time.
    pub(crate) fn goes_on(&self, now: Instant, within: Duration) -> bool {
        now.since(self.reached_at) <= within
    }

    /// Whether the peer got no further for longer than this time, and than it ever did but for once. Else a transfer whose
    /// chunks take longer would begin anew after each of them.
    pub(crate) fn stands(&self, now: Instant, within: Duration) -> bool {
        !self.goes_on(now, within.max(self.pace.stood.saturating_mul(2)))
    }

    /// Whether the peer got all of it, for all that is known here.
    pub(crate) fn was_sent_whole(&self) -> bool {
        self.complete || self.is_last(self.inflight)
    }

    /// The peer is busy. With the last chunk that may take long: all of it is there, and what comes behind it is needed.
    pub(crate) fn busy(&mut self, now: Instant) {
        self.complete = self.was_sent_whole();
        if self.complete {
            self.reached_at = now;
        }
    }

    /// The next chunk, question, or read of the snapshot. `asked`: a message is due in any case. `chunk_bytes`: how much may
    /// be read, unless something is being read already.
    pub(crate) fn next(
        &mut self,
        asked: bool,
        chunk_bytes: Option<u64>,
        round: u64,
        now: Instant,
    ) -> Option<Step> {
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
                let lost = self.lost.filter(|lost| lost.from == offset);
                let (since, waited) = lost.map_or((now, Duration::ZERO), |lost| (lost.since, lost.waited));
                // Each copy may take as long as all before it: made faster than they are carried, they would never end.
                let waited_max = self.rest_max.saturating_mul(4);
                let patience = self.pace.patience.max(waited);
                let (lost_at, waited) = (now + patience, (waited + patience).min(waited_max));
                self.tried = true;
                self.inflight =
                    Some(InFlight { from: offset, end, round, since, sent_at: now, lost_at, waited });
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
            self.begins_by.get_or_insert(now + self.pace.patience);
            let (meta, offset, data) = (Arc::clone(&self.meta), self.offset(), Bytes::new());
            return Some(Step::Send(Body::InstallSnapshot { meta, offset, data, done: false, round }));
        }
        // Reading goes one chunk ahead of sending.
        let wanted = match self.inflight {
            Some(InFlight { end, .. }) => end,
            None => self.offset?,
        };
        let there = self.loaded.as_ref().is_some_and(|(at, _)| *at == wanted);
        if wanted < size && !there && !rests {
            let bytes_max = chunk_bytes?.min(size - wanted);
            return Some(Step::Read { id: self.meta.id, offset: wanted, bytes_max });
        }
        None
    }

    /// The part that was being read. Returns whether it is sound.
    pub(crate) fn read(&mut self, offset: u64, data: &Bytes) -> bool {
        let fits = offset.checked_add(data.len() as u64).is_some_and(|end| end <= self.meta.size_bytes);
        if data.is_empty() || !fits {
            return false;
        }
        self.loaded = Some((offset, data.clone()));
        true
    }

    /// The peer says how much it has. Returns whether that is more than before.
    pub(crate) fn wants(&mut self, offset: u64, round: u64, now: Instant) -> bool {
        if self.is_stale(offset, round, now) {
            return false;
        }
        let sent = self.settle(offset, round);
        if self.reached == 0 {
            self.begins_by = Some(now + self.pace.patience);
        }
        self.lost = sent.or(self.lost).filter(|chunk| chunk.from == offset);
        if let Some(chunk) = sent.filter(|chunk| chunk.from < offset) {
            // The next may take twice as long as this one did, or as the last time it was sent, if that one arrived.
            let last = now.since(chunk.sent_at) * 2 + self.pace.patience;
            let patience = if chunk.sent_at > chunk.since { last } else { Duration::MAX };
            let patience = patience.min(now.since(chunk.since) * 2);
            self.pace.patience = patience.clamp(self.rest, self.rest_max);
        }
        if offset <= self.reached {
            // Once: whoever lost what it had again and again would get further for ever.
            if offset < self.reached && !self.fell {
                (self.reached, self.fell) = (offset, true);
            }
            return false;
        }
        self.pace.rest_until = now;
        self.pace.stood = self.pace.stood.max(now.since(self.reached_at));
        (self.reached, self.reached_at) = (offset, now);
        if offset > self.most {
            (self.most, self.fell) = (offset, false);
        }
        true
    }

    /// The peer kept nothing of what it got. It is left alone for a while, longer each time: a full disk must not cost a
    /// transfer after the other. Returns whether the fault may be on this side: it had all of it more than once, and the
    /// bytes may not be what their digest says.
    pub(crate) fn refused(&mut self, round: u64, now: Instant) -> bool {
        if self.is_stale(0, round, now) {
            return false;
        }
        let sent = self.settle(0, round);
        self.lost = None;
        // It says so again until it gets a chunk.
        if !core::mem::take(&mut self.tried) {
            return false;
        }
        self.pace.refusals = self.pace.refusals.saturating_add(1);
        self.pace.rest_until = now + self.rest.saturating_mul(self.pace.refusals).min(self.rest_max);
        let complete = self.is_last(sent);
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
        let older = self.offset.is_some_and(|known| offset < known) && round == self.answered;
        let absurd = offset > self.meta.size_bytes;
        round < self.answered || older || absurd || self.inflight.is_some_and(before)
    }

    /// With this chunk all of it was sent.
    fn is_last(&self, chunk: Option<InFlight>) -> bool {
        chunk.is_some_and(|chunk| chunk.end == self.meta.size_bytes)
    }

    /// This much the peer has now. Returns what was on its way to it.
    fn settle(&mut self, offset: u64, round: u64) -> Option<InFlight> {
        self.answered = round;
        (self.complete, self.begins_by) = (false, None);
        self.offset = Some(offset);
        self.loaded.take_if(|(at, _)| *at != offset);
        self.inflight.take()
    }

    /// What was on its way may be lost: the next heartbeat asks.
    pub(crate) fn interrupted(&mut self) {
        self.complete = self.was_sent_whole();
        (self.offset, self.inflight, self.lost, self.begins_by) = (None, None, None, None);
    }
}

#[cfg(test)]
mod tests {
    use alloc::collections::BTreeMap;

    use super::*;
    use crate::ids::{LogId, LogIndex, NodeId, Term};
    use crate::membership::Membership;

    const MS: Duration = Duration::from_millis(1);

    /// Twenty chunks of one byte; a rest is 400 ms.
    fn sending() -> Sending {
        let last = LogId::new(Term::new(1), LogIndex::new(9));
        let membership = Membership::of_voters(BTreeMap::from([(NodeId::new(1), Bytes::new())]));
        let meta = SnapshotMeta {
            id: SnapshotId { last, taken_by: NodeId::new(1), seq: 1 },
            membership: Arc::new(membership),
            membership_index: LogIndex::new(1),
            size_bytes: 20,
            digest: 0,
            terms: Arc::new([]),
        };
        Sending::new(Arc::new(meta), &Config::new(NodeId::new(1)), Instant::ZERO, None)
    }

    /// Sends what there is to send without being asked, and reads for it; returns where the chunk begins.
    fn sent(sending: &mut Sending, round: u64, now: Instant) -> Option<u64> {
        for _ in 0..4 {
            match sending.next(false, Some(1), round, now)? {
                Step::Send(Body::InstallSnapshot { offset, .. }) => return Some(offset),
                Step::Read { offset, .. } => assert!(sending.read(offset, &Bytes::from_static(b"x"))),
                Step::Send(_) => unreachable!("nothing else is asked of anybody"),
            }
        }
        None
    }

    /// Asks each 50 ms until the chunk is sent again; returns when that is.
    fn lost(sending: &mut Sending, offset: u64, round: &mut u64, mut now: Instant) -> Instant {
        for _ in 0..1_000 {
            now = now + 50 * MS;
            *round += 1;
            assert!(!sending.wants(offset, *round, now));
            if sent(sending, *round, now) == Some(offset) {
                return now;
            }
        }
        panic!("a chunk that is lost is sent again some time");
    }

    #[test]
    fn chunks_that_are_lost_once_do_not_slow_the_next_ones_down() {
        let (mut sending, mut now, mut round) = (sending(), Instant::ZERO, 1);
        sending.wants(0, round, now);
        for offset in 0..20 {
            assert_eq!(sent(&mut sending, round, now), Some(offset));
            now = lost(&mut sending, offset, &mut round, now);
            assert!(sending.wants(offset + 1, round, now));
        }
        assert!(now.since(Instant::ZERO) <= 20 * 450 * MS, "{now:?}");
    }

    #[test]
    fn a_chunk_that_is_late_is_sent_less_and_less_often_however_long_it_takes_to_read() {
        let (mut sending, mut now, mut round, mut times) = (sending(), Instant::ZERO, 1, 0);
        sending.wants(0, round, now);
        let mut reading = None;
        for _ in 0..200 {
            match sending.next(false, reading.is_none().then_some(1), round, now) {
                Some(Step::Send(_)) => times += 1,
                Some(Step::Read { offset, .. }) => reading = Some((offset, now + 120 * MS)),
                None => {}
            }
            now = now + 50 * MS;
            round += 1;
            sending.wants(0, round, now);
            if let Some((offset, _)) = reading.take_if(|(_, until)| *until <= now) {
                sending.read(offset, &Bytes::from_static(b"x"));
            }
        }
        assert!((3..=6).contains(&times), "in ten seconds it was sent {times} times");
    }

    #[test]
    fn a_refusal_counts_once_however_often_the_connection_breaks() {
        let (mut sending, mut now) = (sending(), Instant::ZERO);
        sending.wants(0, 1, now);
        let mut tries = 0;
        for round in 2..200 {
            if sent(&mut sending, round, now) == Some(0) {
                tries += 1;
                now = now + 400 * MS;
            }
            now = now + 300 * MS;
            sending.interrupted();
            sending.refused(round, now);
            assert!(sending.pace.refusals <= tries, "{} refusals of {tries} tries", sending.pace.refusals);
        }
        assert!(tries > 3, "it is tried again");
    }

    #[test]
    fn a_chunk_that_arrives_late_ends_the_rest() {
        let (mut sending, mut now) = (sending(), Instant::ZERO);
        sending.wants(0, 1, now);
        assert_eq!(sent(&mut sending, 1, now), Some(0));
        // What it says is of the chunk before.
        now = now + 400 * MS;
        assert!(!sending.refused(2, now));
        assert_eq!(sent(&mut sending, 2, now), None);
        assert!(sending.next(true, Some(1), 2, now).is_some(), "it is asked how far it is all the same");
        assert!(sending.wants(1, 3, now));
        assert_eq!(sent(&mut sending, 3, now), Some(1));
        // An answer of the same round that comes late moves nothing.
        assert!(sending.wants(2, 4, now));
        assert!(!sending.wants(0, 4, now) && !sending.refused(4, now));
        assert_eq!(sent(&mut sending, 4, now), Some(2));
    }
}
