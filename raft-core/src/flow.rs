//! How many messages of entries may be on their way to a peer: a window of messages and of bytes.
//!
//! * After a conflict there is one, and one more for each that is answered with progress, as in the slow start of TCP: a
//!   message that is answered never causes more than two.
//! * A message without entries may overtake those with, and then finds that they are lacking. They are sent again at once
//!   unless entries came late before (by more than a heartbeat interval), then only after a time that follows how late: neither
//!   a slow link nor a full one is filled with copies. What was lost is sent again after [`late_max`] at the latest, and
//!   each copy of it after as long again as it has been lacking, half of the catch-up timeout at most.

use alloc::collections::VecDeque;
use core::time::Duration;

use crate::config::Config;
use crate::ids::LogIndex;
use crate::time::Instant;

#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(crate) struct Flow {
    /// The last entry of each message on its way, the bytes of its entries, and when it was sent.
    inflight: VecDeque<(LogIndex, u64, Instant)>,
    bytes: u64,
    /// How many there may be. On a network that reorders, or to a receiver that is full, a whole window sent again for each
    /// conflict would cause as many conflicts again, without end.
    window: u32,
    lacking: Option<Lacking>,
    /// How long after it was sent, or found lacking, something is acknowledged: a round trip, what entries take longer than
    /// a message without any, and the peer's disk.
    late: Duration,
}

/// What the peer was found to lack though it was sent.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
struct Lacking {
    /// What comes behind this entry.
    behind: LogIndex,
    /// When it was first found.
    since: Instant,
    /// When it last was sent again, if it was.
    sent_again: Option<Instant>,
    /// Until when it may be on its way.
    until: Instant,
}

/// For how long entries may be on their way before they are sent again: ages beyond every timeout make no difference.
fn late_max(config: &Config) -> Duration {
    (config.election_timeout_max * 8).min(config.catch_up_timeout / 2)
}

impl Flow {
    pub(crate) fn new() -> Self {
        Self { inflight: VecDeque::new(), bytes: 0, window: u32::MAX, lacking: None, late: Duration::ZERO }
    }

    pub(crate) fn has_room(&self, config: &Config) -> bool {
        self.inflight.len() < config.inflight_appends_max.min(self.window as usize)
            && self.bytes < config.inflight_bytes_max
    }

    /// A message leaves whose last entry is this one.
    pub(crate) fn sent(&mut self, last: LogIndex, bytes: u64, now: Instant) {
        self.inflight.push_back((last, bytes, now));
        self.bytes += bytes;
    }

    /// The peer has what ends there.
    pub(crate) fn acknowledged(&mut self, through: LogIndex, now: Instant, config: &Config) {
        let copied = self.lacking.is_some_and(|lacking| lacking.sent_again.is_some());
        match self.lacking.take_if(|lacking| lacking.behind < through) {
            Some(lacking) => self.arrived(lacking, now, config),
            None if self.lacking.is_some() || self.late.is_zero() => {}
            None => self.late = self.late * 7 / 8,
        }
        let before = self.inflight.len();
        let mut sent = None;
        // Most often that is all there is.
        if let Some((_, _, at)) = self.inflight.back().filter(|(last, ..)| *last <= through) {
            sent = Some(*at);
            self.clear();
        }
        while let Some((_, bytes, at)) = self.inflight.pop_front_if(|(last, ..)| *last <= through) {
            self.bytes -= bytes;
            sent = Some(at);
        }
        // A full link is late all the time, though nothing is lacking for long. Of copies it is not known which one arrived.
        let took = sent.filter(|_| !copied).map(|sent| now.since(sent));
        if let Some(took) = took.filter(|took| *took > self.late) {
            self.late = took.min(late_max(config));
        }
        if let Some(lacking) = &mut self.lacking
            && lacking.behind == through
        {
            // It came so far only now: what should be there too by now found it full.
            let due = self
                .inflight
                .front()
                .map_or(now, |(.., sent)| *sent + self.late.max(took.unwrap_or_default()) * 2);
            lacking.until = lacking.until.min(due.max(now));
        }
        let answered = before - self.inflight.len();
        self.window = self.window.saturating_add(u32::try_from(answered).unwrap_or(u32::MAX));
    }

    /// What was lacking is there.
    fn arrived(&mut self, lacking: Lacking, now: Instant, config: &Config) {
        let (late, took) = (self.late, now.since(lacking.since));
        let learned = match lacking.sent_again.map(|sent| now.since(sent)) {
            None => took.max(late * 7 / 8),
            // There soon after it was sent again: it was waited for in vain.
            Some(since) if since * 8 < late => late / 2,
            // The waiting itself is not how late it was.
            Some(since) => took.min(late + since),
        };
        self.late = learned.min(late_max(config));
    }

    /// The peer lacks what comes behind this entry. Returns whether it is to be sent again: else it may be on its way.
    pub(crate) fn refused(&mut self, behind: LogIndex, now: Instant, config: &Config) -> bool {
        let again = self.lacking.filter(|lacking| lacking.behind == behind);
        if again.is_some_and(|lacking| now < lacking.until) {
            return false;
        }
        if let Some(before) = self.lacking.take_if(|lacking| lacking.behind < behind) {
            self.arrived(before, now, config);
        }
        let late_max = late_max(config);
        let since = again.map_or(now, |lacking| lacking.since);
        // The next may take twice as long as the last did.
        let first = (self.late * 2).min(late_max);
        // Copies that are made faster than they are carried would never end.
        let until = now + first.max(now.since(since).min(config.catch_up_timeout / 2));
        let is_lost = again.is_some() || self.late <= config.heartbeat_interval;
        let sent_again = is_lost.then_some(now);
        self.lacking = Some(Lacking { behind, since, sent_again, until });
        if is_lost {
            self.window = 1;
        }
        is_lost
    }

    /// Nothing is on its way: how late something was is forgotten little by little.
    pub(crate) fn rest(&mut self) {
        self.late = self.late * 7 / 8;
    }

    /// What was on its way is of no interest any more, nor how late it was.
    pub(crate) fn interrupted(&mut self) {
        (self.lacking, self.late) = (None, Duration::ZERO);
    }

    /// Nothing is on its way any more, or nothing that counts.
    pub(crate) fn clear(&mut self) {
        self.inflight.clear();
        self.bytes = 0;
    }

    pub(crate) fn messages(&self) -> usize {
        self.inflight.len()
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::NodeId;

    /// Sends messages of one entry from `next` on, as many as there may be; returns how many.
    fn fill(flow: &mut Flow, config: &Config, next: &mut LogIndex) -> usize {
        let before = flow.messages();
        while flow.has_room(config) {
            flow.sent(*next, 1, Instant::ZERO);
            *next = next.next();
        }
        flow.messages() - before
    }

    #[test]
    fn the_window_is_bounded_and_acknowledgements_free_it() {
        let mut config = Config::new(NodeId::new(1));
        config.inflight_appends_max = 2;
        let (mut flow, mut next) = (Flow::new(), LogIndex::FIRST);
        assert_eq!(fill(&mut flow, &config, &mut next), 2);
        flow.acknowledged(LogIndex::new(1), Instant::ZERO, &config);
        assert_eq!(fill(&mut flow, &config, &mut next), 1);
        flow.acknowledged(LogIndex::new(3), Instant::ZERO, &config);
        assert_eq!((flow.messages(), flow.bytes()), (0, 0));
    }

    #[test]
    fn after_a_conflict_an_answer_causes_two_messages_for_each_that_it_answers() {
        let config = Config::new(NodeId::new(1));
        let (mut flow, mut next) = (Flow::new(), LogIndex::FIRST);
        assert_eq!(fill(&mut flow, &config, &mut next), config.inflight_appends_max);
        assert!(flow.refused(LogIndex::ZERO, Instant::ZERO, &config));
        flow.clear();
        next = LogIndex::FIRST;
        assert_eq!(fill(&mut flow, &config, &mut next), 1);
        for answered in 1..=40 {
            flow.acknowledged(LogIndex::new(answered), Instant::ZERO, &config);
            assert_eq!(fill(&mut flow, &config, &mut next), 2, "one in its place, and one more");
        }
        flow.acknowledged(LogIndex::new(60), Instant::ZERO, &config);
        assert_eq!(fill(&mut flow, &config, &mut next), 40, "two for each of twenty");
        flow.acknowledged(LogIndex::new(70), Instant::ZERO, &config);
        let more = config.inflight_appends_max - 51;
        assert_eq!(fill(&mut flow, &config, &mut next), more, "no more than there may be");
    }

    #[test]
    fn what_is_lacking_again_and_again_is_sent_less_and_less_often() {
        let mut config = Config::new(NodeId::new(1));
        config.catch_up_timeout = Duration::from_secs(10);
        let (mut flow, behind, mut now) = (Flow::new(), LogIndex::new(7), Instant::ZERO);
        // Each heartbeat finds it lacking.
        let mut sent = |flow: &mut Flow, behind, beats| {
            let refused = (0..beats).filter(|_| {
                now = now + config.heartbeat_interval;
                flow.refused(behind, now, &config)
            });
            let times = refused.count();
            flow.acknowledged(behind.next(), now, &config);
            times
        };
        assert_eq!(sent(&mut flow, behind, 100), 8, "within five seconds");
        assert_eq!(sent(&mut flow, behind.next(), 90), 1, "what takes as long the next time");
        assert_eq!(sent(&mut flow, behind, 30), 0, "what takes less long");
        for index in 100..150 {
            flow.acknowledged(LogIndex::new(index), Instant::ZERO, &config);
        }
        assert_eq!(sent(&mut flow, behind, 2), 2, "until entries were quick for a time");
        assert_eq!(sent(&mut flow, behind, 1_200), 19, "each five seconds in the end");
        flow.interrupted();
        assert_eq!(sent(&mut flow, behind, 2), 2);
    }

    #[test]
    fn what_has_to_be_sent_again_each_time_is_not_waited_for_longer_and_longer() {
        let config = Config::new(NodeId::new(1));
        let (mut flow, mut now, mut waited) = (Flow::new(), Instant::ZERO, 0);
        // Once entries took ten seconds. Then a network brings all of them in the wrong order: they are refused, and lost.
        flow.late = Duration::from_secs(10);
        for index in 1..=50 {
            while !flow.refused(LogIndex::new(index), now, &config) {
                now = now + config.heartbeat_interval;
                waited += 1;
            }
            now = now + config.heartbeat_interval / 2;
            flow.acknowledged(LogIndex::new(index + 1), now, &config);
        }
        assert!(
            (1..=700).contains(&waited),
            "{waited} heartbeats: a few times as long as entries may be late"
        );
    }

    #[test]
    fn how_long_something_was_lacking_beyond_every_limit_makes_no_difference() {
        let config = Config::new(NodeId::new(1));
        let late = [40, 600].map(|seconds| {
            let mut flow = Flow::new();
            assert!(flow.refused(LogIndex::new(7), Instant::ZERO, &config));
            flow.acknowledged(LogIndex::new(8), Instant::ZERO + Duration::from_secs(seconds), &config);
            flow.late
        });
        assert_eq!(late[0], late[1], "states that are taken for the same behave alike");
    }
}
