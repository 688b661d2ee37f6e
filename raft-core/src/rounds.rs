//! Rounds of replication, by which a leader sees whether a peer keeps up (thesis §4.2.1): each ends at what the log was
//! when it began.

use core::time::Duration;

use crate::ids::LogIndex;
use crate::time::Instant;

/// Of a server that is to vote: one round that was shorter than an election timeout is good enough.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(crate) struct CatchUp {
    goal: LogIndex,
    since: Instant,
    done: bool,
}

impl CatchUp {
    pub(crate) fn new(goal: LogIndex, now: Instant) -> Self {
        Self { goal, since: now, done: false }
    }

    /// It has the log through `reached`, if it was heard from, which ends at `last`. Returns whether it keeps up.
    pub(crate) fn advance(
        &mut self,
        reached: Option<LogIndex>,
        last: LogIndex,
        now: Instant,
        within: Duration,
    ) -> bool {
        let quick = now.since(self.since) <= within;
        if reached.is_some_and(|reached| reached >= self.goal) {
            *self = Self { goal: last, since: now, done: quick };
        } else if !quick {
            self.done = false;
        }
        self.done
    }

    /// Whether it kept up when that was last looked at.
    pub(crate) fn is_done(&self) -> bool {
        self.done
    }
}

/// Behind a snapshot: as long as rounds get shorter, the log is kept for it.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(crate) struct Behind {
    /// What the peer had when it began, and where the log ended then.
    from: LogIndex,
    goal: LogIndex,
    /// When it last got further.
    since: Instant,
}

impl Behind {
    pub(crate) fn new(from: LogIndex, goal: LogIndex, now: Instant) -> Self {
        Self { from, goal, since: now }
    }

    /// It has the log through `index`, which ends at `end`. Another round follows as long as they get shorter.
    pub(crate) fn reached(self, index: LogIndex, end: LogIndex, now: Instant) -> Option<Self> {
        if index < self.goal {
            return Some(Self { since: now, ..self });
        }
        let next = Self::new(index, end, now);
        (end > index && end.since(index) < self.goal.since(self.from)).then_some(next)
    }

    /// Behind which entry the log that ends at `end` is kept, unless it grows faster than the peer takes it in.
    pub(crate) fn needed(self, end: LogIndex, now: Instant, within: Duration) -> Option<LogIndex> {
        let keeps_up = end.since(self.goal) <= self.goal.since(self.from) && now.since(self.since) <= within;
        keeps_up.then_some(self.from)
    }
}
