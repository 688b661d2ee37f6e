//! Deadlines that do not fire for a process that slept through them (DESIGN §2, duty 3).

use core::time::Duration;

use crate::time::Instant;

/// One deadline.
///
/// A wake that comes later than the deadline by more than `slack` is first taken for a pause of this process:
/// it re-arms once for `slack`, so that messages already received are heard first (TRAP 62).
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(crate) struct Deadline {
    at: Instant,
    excused: bool,
}

impl Deadline {
    pub(crate) fn at(at: Instant) -> Self {
        Self { at, excused: false }
    }

    pub(crate) fn instant(&self) -> Instant {
        self.at
    }

    /// Whether to act now.
    pub(crate) fn is_due(&mut self, now: Instant, slack: Duration) -> bool {
        if now < self.at {
            return false;
        }
        if now.since(self.at) > slack && !self.excused {
            *self = Self { at: now + slack, excused: true };
            return false;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_wake_is_excused_once() {
        let slack = Duration::from_nanos(10);
        let at = Instant::from_nanos;
        let mut deadline = Deadline::at(at(100));
        assert!(!deadline.is_due(at(99), slack));
        assert!(Deadline::at(at(100)).is_due(at(110), slack));
        assert!(!deadline.is_due(at(111), slack), "too late: excused");
        assert_eq!(deadline.instant(), at(121));
        assert!(!deadline.is_due(at(120), slack));
        assert!(deadline.is_due(at(500), slack), "late again: not excused twice");
    }
}
