//! What is on disk (DESIGN: durability): the writes in flight, and through where the log and the hard state
//! survive a crash.
//!
//! * `durable` never exceeds what a reported write proves for the log *as it is now*: an overwrite lowers it at
//!   once and clamps every write in flight, so a late report for overwritten entries proves nothing (the ABA
//!   race of storage acknowledgements without identity, TRAP 23).
//! * The hard state is *settled* when the one in memory is the one on disk. No message of a term leaves before.

use alloc::collections::VecDeque;

use crate::action::HardState;
use crate::error::Fatal;
use crate::ids::{LogId, LogIndex, WriteId};
use crate::time::Instant;

#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(crate) struct Durability {
    hard_state: HardState,
    /// The hard state has changed since the last write was handed out.
    hard_changed: bool,
    hard_durable: HardState,
    /// Through where the log has been handed to the store.
    handed: LogIndex,
    durable: LogIndex,
    /// The next write drops the whole log first.
    reset_to: Option<LogId>,
    inflight: VecDeque<InFlight>,
    next_id: u64,
}

#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
struct InFlight {
    id: WriteId,
    /// When it was handed out.
    since: Instant,
    hard_state: Option<HardState>,
    /// Through where the log is durable once this is; `None` if it brings no entries.
    through: Option<LogIndex>,
}

impl Durability {
    pub(crate) fn new(hard_state: HardState, last: LogIndex) -> Self {
        Self {
            hard_state,
            hard_changed: false,
            hard_durable: hard_state,
            handed: last,
            durable: last,
            reset_to: None,
            // As many as are usually in flight.
            inflight: VecDeque::with_capacity(2),
            next_id: 1,
        }
    }

    pub(crate) fn hard_state(&self) -> HardState {
        self.hard_state
    }

    /// Term and vote change together, in one write (TRAP 1).
    pub(crate) fn set_hard_state(&mut self, to: HardState) {
        let from = self.hard_state;
        assert!(to.term >= from.term, "a term never falls (§5.1)");
        assert!(
            to.term > from.term || from.voted_for.is_none() || to.voted_for == from.voted_for,
            "at most one vote in a term (§5.2)"
        );
        self.hard_changed |= to != from;
        self.hard_state = to;
    }

    /// Whether the hard state in memory is the one on disk.
    pub(crate) fn settled(&self) -> bool {
        self.hard_durable == self.hard_state
    }

    /// Through where the log is durable.
    pub(crate) fn durable(&self) -> LogIndex {
        self.durable
    }

    /// Through where the log has been handed to the store.
    pub(crate) fn handed(&self) -> LogIndex {
        self.handed
    }

    pub(crate) fn inflight(&self) -> usize {
        self.inflight.len()
    }

    /// The hard state that the next write must bring, if any.
    pub(crate) fn unwritten_hard_state(&self) -> Option<HardState> {
        self.hard_changed.then_some(self.hard_state)
    }

    /// Whether the next write must bring more than entries.
    pub(crate) fn has_unwritten_state(&self) -> bool {
        self.hard_changed || self.reset_to.is_some()
    }

    /// The log is about to lose every entry from `from` on.
    pub(crate) fn overwrite(&mut self, from: LogIndex) {
        let kept = from.prev();
        self.durable = self.durable.min(kept);
        self.handed = self.handed.min(kept);
        for write in &mut self.inflight {
            write.through = write.through.map(|through| through.min(kept));
        }
    }

    /// The whole log is about to be replaced by what a snapshot holds through `base`. Nothing of the log is durable until
    /// the write that does it is.
    pub(crate) fn reset(&mut self, base: LogId) {
        self.durable = LogIndex::ZERO;
        for write in &mut self.inflight {
            write.through = None;
        }
        self.handed = base.index;
        self.reset_to = Some(base);
    }

    /// Where the next write must let the log begin anew, if anywhere.
    pub(crate) fn unwritten_reset(&self) -> Option<LogId> {
        self.reset_to
    }

    /// Records a write of entries through `through`, and of whatever else is unwritten: see
    /// [`unwritten_hard_state`](Self::unwritten_hard_state) and [`unwritten_reset`](Self::unwritten_reset).
    #[inline]
    pub(crate) fn hand_out(&mut self, through: Option<LogIndex>, now: Instant) -> WriteId {
        let id = WriteId::mint(self.next_id);
        self.next_id += 1;
        let mut write = InFlight { id, since: now, hard_state: None, through };
        if let Some(through) = through {
            self.handed = through;
        }
        if self.has_unwritten_state() {
            write.hard_state = self.unwritten_hard_state();
            self.hard_changed = false;
            let reset = self.reset_to.take().map(|base| base.index);
            write.through = through.or(reset);
        }
        self.inflight.push_back(write);
        id
    }

    /// This write and all before it are durable. A write reported before is a no-op.
    pub(crate) fn persisted(&mut self, id: WriteId, now: Instant) -> Result<(), Fatal> {
        if id.get() >= self.next_id {
            return Err(Fatal::UnknownWrite(id));
        }
        let is_news = self.inflight.front().is_some_and(|write| write.id <= id);
        while let Some(write) = self.inflight.pop_front_if(|write| write.id <= id) {
            if let Some(hard_state) = write.hard_state {
                self.hard_durable = hard_state;
            }
            if let Some(through) = write.through {
                self.durable = self.durable.max(through);
            }
        }
        // Whatever is behind them waited for them: a disk that is busy answers, one that stands still does not (TRAP 60).
        if let Some(next) = self.inflight.front_mut().filter(|_| is_news) {
            next.since = next.since.max(now);
        }
        Ok(())
    }

    /// Since when the disk owes an answer: the oldest write was handed out then, or the one before it reported.
    pub(crate) fn waiting_since(&self) -> Option<Instant> {
        self.inflight.front().map(|write| write.since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{NodeId, Term};

    fn index(at: u64) -> LogIndex {
        LogIndex::new(at)
    }

    #[test]
    fn a_late_report_for_overwritten_entries_proves_nothing() {
        let mut disk = Durability::new(HardState::default(), index(3));
        let first = disk.hand_out(Some(index(8)), Instant::ZERO);
        disk.overwrite(index(5));
        let second = disk.hand_out(Some(index(9)), Instant::ZERO);
        disk.persisted(first, Instant::ZERO).expect("it was handed out");
        assert_eq!(disk.durable(), index(4), "5 to 8 are other entries now");
        disk.persisted(second, Instant::ZERO).expect("it was handed out");
        assert_eq!(disk.durable(), index(9));
        disk.persisted(first, Instant::ZERO).expect("reported again: a no-op");
        assert_eq!(disk.durable(), index(9));
    }

    #[test]
    fn an_overwrite_lowers_durable_at_once() {
        let mut disk = Durability::new(HardState::default(), index(9));
        disk.overwrite(index(4));
        assert_eq!((disk.durable(), disk.handed()), (index(3), index(3)));
    }

    #[test]
    fn a_reset_counts_only_when_it_is_reported_itself() {
        let mut disk = Durability::new(HardState::default(), index(3));
        let before = disk.hand_out(Some(index(8)), Instant::ZERO);
        disk.reset(LogId::new(Term::new(2), index(20)));
        assert_eq!(disk.handed(), index(20));
        let reset = disk.hand_out(None, Instant::ZERO);
        assert_eq!(disk.unwritten_reset(), None);
        disk.persisted(before, Instant::ZERO).expect("it was handed out");
        assert_eq!(disk.durable(), LogIndex::ZERO, "that log is gone");
        disk.persisted(reset, Instant::ZERO).expect("it was handed out");
        assert_eq!(disk.durable(), index(20));
    }

    #[test]
    fn the_hard_state_settles_only_with_its_own_write() {
        let mut disk = Durability::new(HardState::default(), LogIndex::ZERO);
        disk.set_hard_state(HardState { term: Term::new(2), voted_for: None });
        let first = disk.hand_out(None, Instant::ZERO);
        disk.set_hard_state(HardState { term: Term::new(2), voted_for: Some(NodeId::new(1)) });
        let second = disk.hand_out(None, Instant::ZERO);
        disk.persisted(first, Instant::ZERO).expect("it was handed out");
        assert!(!disk.settled());
        disk.persisted(second, Instant::ZERO).expect("it was handed out");
        assert!(disk.settled());
        let never = WriteId::mint(9);
        assert_eq!(disk.persisted(never, Instant::ZERO), Err(Fatal::UnknownWrite(never)));
    }

    #[test]
    fn a_disk_that_answers_again_what_it_said_before_stands_still() {
        let at = |second| Instant::ZERO + core::time::Duration::from_secs(second);
        let mut disk = Durability::new(HardState::default(), index(3));
        let first = disk.hand_out(Some(index(4)), at(0));
        disk.hand_out(Some(index(5)), at(1));
        assert_eq!(disk.waiting_since(), Some(at(0)));
        for again in [2, 3] {
            disk.persisted(first, at(again)).expect("it was handed out");
            assert_eq!(disk.waiting_since(), Some(at(2)));
        }
    }
}
