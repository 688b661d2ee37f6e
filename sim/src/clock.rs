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

    /// Moves time to the next event and takes it.
    pub(crate) fn pop(&mut self) -> Option<E> {
        let Reverse((at, _, slot)) = self.heap.pop()?;
        self.now = at;
        self.free.push(slot);
        self.slots[slot as usize].take()
    }
}

/// A server's own clock: it has an epoch of its own and runs a little fast or slow, as real ones do.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LocalClock {
    /// What it shows when the simulated time is zero.
    pub(crate) epoch: Nanos,
    /// Nanoseconds gained (or lost) every million.
    pub(crate) drift_ppm: i32,
}

impl LocalClock {
    /// What this clock shows at `now`.
    pub(crate) fn at(self, now: Nanos) -> Nanos {
        // A run of a day with a clock off by a twentieth still fits.
        let gained = (now as i64).saturating_mul(i64::from(self.drift_ppm)) / 1_000_000;
        (self.epoch + now).saturating_add_signed(gained)
    }

    /// The first simulated instant at which this clock shows `local` or more.
    pub(crate) fn when(self, local: Nanos) -> Nanos {
        let elapsed = local.saturating_sub(self.epoch);
        let drift = i64::from(self.drift_ppm);
        let gained = (elapsed as i64).saturating_mul(drift) / (1_000_000 + drift);
        let mut now = elapsed.saturating_add_signed(-gained).saturating_sub(2);
        // Rounding is off by a nanosecond or two.
        while self.at(now) < local {
            now += 1;
        }
        now
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
    fn a_local_clock_is_monotonic_and_its_inverse_is_exact() {
        for drift_ppm in [-50_000, -3, 0, 7, 50_000] {
            let local = LocalClock { epoch: 1_234_567, drift_ppm };
            let mut before = 0;
            for now in (0..1_000_000_000).step_by(12_345_677) {
                let shown = local.at(now);
                assert!(shown >= before);
                before = shown;
                let when = local.when(shown);
                assert!(local.at(when) >= shown && (when == 0 || local.at(when - 1) < shown));
            }
        }
    }
}
