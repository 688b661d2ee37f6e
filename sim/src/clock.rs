//! The simulated clock: one heap of future events, ordered by time and then by when they were scheduled.
//!
//! * Time moves only from event to event, and never back.
//! * Events of one instant happen in the order in which they were scheduled, so a run is one sequence.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Virtual nanoseconds since the start of the run.
pub(crate) type Nanos = u64;

pub(crate) const MICROSECOND: Nanos = 1_000;
pub(crate) const MILLISECOND: Nanos = 1_000 * MICROSECOND;
pub(crate) const SECOND: Nanos = 1_000 * MILLISECOND;

/// The clock and what it will bring.
#[derive(Debug)]
pub(crate) struct Clock<E> {
    now: Nanos,
    scheduled: u64,
    // Keys and events are apart, so that sifting moves 24 bytes however large an event is.
    heap: BinaryHeap<Reverse<(Nanos, u64, u32)>>,
    slots: Vec<Option<E>>,
    free: Vec<u32>,
}

impl<E> Clock<E> {
    pub(crate) fn new() -> Self {
        Self { now: 0, scheduled: 0, heap: BinaryHeap::new(), slots: Vec::new(), free: Vec::new() }
    }

    pub(crate) fn now(&self) -> Nanos {
        self.now
    }

    /// Schedules `event` for `at`, or for now if that has passed.
    pub(crate) fn at(&mut self, at: Nanos, event: E) {
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slots[slot as usize] = Some(event);
                slot
            }
            None => {
                self.slots.push(Some(event));
                u32::try_from(self.slots.len() - 1).expect("fewer than 2^32 events wait at once")
            }
        };
        self.scheduled += 1;
        self.heap.push(Reverse((at.max(self.now), self.scheduled, slot)));
    }

    /// Schedules `event` for `delay` from now.
    pub(crate) fn after(&mut self, delay: Nanos, event: E) {
        self.at(self.now.saturating_add(delay), event);
    }

    /// Whatever `is_meant` of what is scheduled from `since` on happens now, in the order in which it would have.
    pub(crate) fn hasten(&mut self, since: Nanos, is_meant: impl Fn(&E) -> bool) {
        let slots = &self.slots;
        let meant = |slot: u32| slots[slot as usize].as_ref().is_some_and(&is_meant);
        let all = std::mem::take(&mut self.heap).into_sorted_vec();
        // The last comes first.
        for Reverse((at, scheduled, slot)) in all.into_iter().rev() {
            let (at, scheduled) = if at >= since && meant(slot) {
                self.scheduled += 1;
                (self.now, self.scheduled)
            } else {
                (at, scheduled)
            };
            self.heap.push(Reverse((at, scheduled, slot)));
        }
    }

    /// Moves time to the next event and takes it.
    pub(crate) fn pop(&mut self) -> Option<E> {
        let Reverse((at, _, slot)) = self.heap.pop()?;
        self.now = at;
        self.free.push(slot);
        self.slots[slot as usize].take()
    }
}

/// A server's own clock: it has an epoch of its own, runs a little fast or slow, and sometimes jumps.
///
/// * What a node is shown never runs backwards, as its driver owes it (duty 3): a clock that was set back stands
///   still until the time that it has shown already comes again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LocalClock {
    /// It has run since then, and shows `shown` until then.
    from: Nanos,
    shown: Nanos,
    /// Nanoseconds gained (or lost) every million: now, and when nothing is wrong with it.
    drift_ppm: i32,
    own_drift_ppm: i32,
}

impl LocalClock {
    /// A clock that shows `epoch` at the simulated time zero.
    pub(crate) fn new(epoch: Nanos, drift_ppm: i32) -> Self {
        Self { from: 0, shown: epoch, drift_ppm, own_drift_ppm: drift_ppm }
    }

    /// What this clock shows at `now`.
    pub(crate) fn at(self, now: Nanos) -> Nanos {
        // A run of a day with a clock off by a twentieth still fits.
        let elapsed = now.saturating_sub(self.from);
        let gained = (elapsed as i64).saturating_mul(i64::from(self.drift_ppm)) / 1_000_000;
        (self.shown + elapsed).saturating_add_signed(gained)
    }

    /// The first simulated instant at which this clock shows `local` or more. Zero if it always has.
    pub(crate) fn when(self, local: Nanos) -> Nanos {
        let Some(elapsed) = local.checked_sub(self.shown).filter(|elapsed| *elapsed > 0) else { return 0 };
        let drift = i64::from(self.drift_ppm);
        let gained = (elapsed as i64).saturating_mul(drift) / (1_000_000 + drift);
        let mut now = self.from + elapsed.saturating_add_signed(-gained).saturating_sub(2);
        // Rounding is off by a nanosecond or two.
        while self.at(now) < local {
            now += 1;
        }
        now
    }

    /// At `now` it is set ahead.
    pub(crate) fn jump_ahead(&mut self, now: Nanos, by: Nanos) {
        // One that stands still goes on at once if it is set ahead by more than it was set back.
        let still = self.from.saturating_sub(now);
        self.set(now, by.saturating_sub(still), still.saturating_sub(by));
    }

    /// At `now` it is set back.
    pub(crate) fn jump_back(&mut self, now: Nanos, by: Nanos) {
        self.set(now, 0, self.from.saturating_sub(now) + by);
    }

    /// From `now` on it runs at another speed.
    pub(crate) fn set_drift(&mut self, now: Nanos, drift_ppm: i32) {
        self.set(now, 0, self.from.saturating_sub(now));
        self.drift_ppm = drift_ppm;
    }

    /// If it stands still, it goes on; at the speed that it had before anything was wrong with it.
    pub(crate) fn heal(&mut self, now: Nanos) {
        self.from = now.min(self.from);
        self.set_drift(now, self.own_drift_ppm);
    }

    fn set(&mut self, now: Nanos, ahead: Nanos, still: Nanos) {
        (self.shown, self.from) = (self.at(now) + ahead, now + still);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_by_time_and_then_by_the_order_of_scheduling() {
        let mut clock = Clock::new();
        clock.at(20, 'c');
        clock.at(10, 'a');
        clock.at(10, 'b');
        assert_eq!(clock.pop(), Some('a'));
        clock.at(5, 'x');
        clock.after(3, 'd');
        assert_eq!(clock.pop(), Some('b'));
        assert_eq!(clock.pop(), Some('x'));
        assert_eq!(clock.now(), 10);
        assert_eq!(clock.pop(), Some('d'));
        assert_eq!(clock.pop(), Some('c'));
        assert_eq!(clock.now(), 20);
        assert_eq!(clock.pop(), None);
    }

    #[test]
    fn what_is_hastened_happens_now_and_in_its_order() {
        let mut clock = Clock::new();
        for (at, event) in [(50, 'c'), (10, 'a'), (40, 'b'), (60, 'd'), (45, 'x'), (20, 'e')] {
            clock.at(at, event);
        }
        assert_eq!(clock.pop(), Some('a'));
        clock.hasten(40, |event| "bcd".contains(*event));
        let order: Vec<_> = std::iter::from_fn(|| clock.pop().map(|event| (clock.now(), event))).collect();
        assert_eq!(order, [(10, 'b'), (10, 'c'), (10, 'd'), (20, 'e'), (45, 'x')]);
    }

    /// Looks at the clock now and then: what it shows never goes back, and `when` is its exact inverse.
    fn watch(local: LocalClock, from: Nanos, until: Nanos) -> Nanos {
        let mut before = 0;
        for now in (from..until).step_by(12_345_677) {
            let shown = local.at(now);
            assert!(shown >= before);
            before = shown;
            let when = local.when(shown).max(from);
            assert!(local.at(when) >= shown && (when == from || local.at(when - 1) < shown));
        }
        before
    }

    #[test]
    fn a_local_clock_is_monotonic_and_its_inverse_is_exact() {
        for drift_ppm in [-50_000, -3, 0, 7, 50_000] {
            watch(LocalClock::new(1_234_567, drift_ppm), 0, SECOND);
        }
    }

    #[test]
    fn a_clock_jumps_ahead_and_stands_still_when_it_is_set_back() {
        for drift_ppm in [-50_000, 0, 50_000] {
            let mut local = LocalClock::new(77, drift_ppm);
            let shown = watch(local, 0, SECOND);
            local.jump_ahead(SECOND, 5_000);
            assert!(local.at(SECOND) >= shown + 5_000);
            let shown = watch(local, SECOND, 2 * SECOND);
            local.jump_back(2 * SECOND, MILLISECOND);
            local.set_drift(2 * SECOND, -drift_ppm);
            let still = local.at(2 * SECOND);
            assert!(still >= shown);
            assert_eq!(local.at(2 * SECOND + MILLISECOND), still);
            assert!(local.at(2 * SECOND + 2 * MILLISECOND) > still);
            assert!(local.when(still + 1) > 2 * SECOND + MILLISECOND);
            watch(local, 2 * SECOND, 3 * SECOND);
            // Ahead by less than it was set back: it stands still for the rest.
            local.jump_back(3 * SECOND, 10 * MILLISECOND);
            local.jump_ahead(3 * SECOND, 4 * MILLISECOND);
            assert_eq!(local.at(3 * SECOND), local.at(3 * SECOND + 6 * MILLISECOND));
            assert!(local.at(3 * SECOND) < local.at(3 * SECOND + 7 * MILLISECOND));
            let shown = local.at(3 * SECOND + MILLISECOND);
            local.heal(3 * SECOND + MILLISECOND);
            assert_eq!(local.at(3 * SECOND + MILLISECOND), shown, "it does not jump");
            let gained = i64::from(drift_ppm) * MILLISECOND as i64 / 1_000_000;
            let after = (shown + MILLISECOND).saturating_add_signed(gained);
            assert_eq!(local.at(3 * SECOND + 2 * MILLISECOND), after, "at its own speed");
        }
    }
}
