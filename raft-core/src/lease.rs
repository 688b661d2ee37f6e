//! The lease of a leader (thesis §6.4.1): for how long nobody else can have been elected.
//!
//! A follower that answered round r refuses to elect another leader for the minimum election timeout after it heard r,
//! which was after r was sent. So the lease is counted from the *send* time of the latest round that a majority
//! confirmed, by clocks that may differ as far as [`Lease`] says (TRAP 58). It ends for good when the leader has asked
//! another to campaign (TRAP 57).

use alloc::collections::VecDeque;
use core::time::Duration;

use crate::config::Lease;
use crate::time::{Instant, nanos};

/// When rounds were begun.
#[derive(Clone, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(crate) struct RoundTimes {
    /// Rising. The first is the latest that is confirmed, if any is.
    rounds: VecDeque<(u64, Instant)>,
}

/// Rounds remembered at most; those that find no room count as begun when the last one that did was.
const ROUNDS_MAX: usize = 64;

impl RoundTimes {
    /// The first message of `round` leaves after `now`.
    pub(crate) fn sent(&mut self, round: u64, now: Instant) {
        let newer = self.rounds.back().is_none_or(|(last, _)| *last < round);
        if newer && self.rounds.len() < ROUNDS_MAX {
            self.rounds.push_back((round, now));
        }
    }

    /// A majority has confirmed every round through `round`.
    pub(crate) fn confirmed(&mut self, round: u64) {
        let later = self.rounds.partition_point(|(sent, _)| *sent <= round);
        self.rounds.drain(..later.saturating_sub(1));
    }

    /// Whether the lease holds at `now`, with everything through `round` confirmed.
    pub(crate) fn holds(
        &self,
        round: u64,
        now: Instant,
        election_timeout_min: Duration,
        lease: Lease,
    ) -> bool {
        let confirmed = self.rounds.front().filter(|(sent, _)| *sent <= round);
        confirmed.is_some_and(|(_, sent)| now.since(*sent) < length(election_timeout_min, lease))
    }
}

/// The follower's clock may run fast and the leader's slow, each by the bound.
fn length(election_timeout_min: Duration, lease: Lease) -> Duration {
    let drift = u128::from(lease.clock_drift_ppm_max);
    let length = u128::from(nanos(election_timeout_min)) * (1_000_000 - drift) / (1_000_000 + drift);
    Duration::from_nanos(u64::try_from(length).expect("shorter than the timeout"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Lease = Lease { clock_drift_ppm_max: 100_000 };
    const TIMEOUT: Duration = Duration::from_nanos(1_100);

    #[test]
    fn the_lease_counts_from_the_send_time_of_the_confirmed_round() {
        let at = Instant::from_nanos;
        let mut times = RoundTimes::default();
        times.sent(1, at(0));
        times.sent(2, at(500));
        assert!(!times.holds(0, at(0), TIMEOUT, LEASE), "nothing is confirmed");
        times.confirmed(1);
        assert!(times.holds(1, at(899), TIMEOUT, LEASE));
        assert!(!times.holds(1, at(900), TIMEOUT, LEASE), "1,100 less twice a tenth, about");
        times.confirmed(2);
        assert!(times.holds(2, at(1_399), TIMEOUT, LEASE));
    }

    #[test]
    fn a_round_that_found_no_room_counts_as_an_earlier_one() {
        let mut times = RoundTimes::default();
        for round in 1..=200 {
            times.sent(round, Instant::from_nanos(round * 10));
        }
        times.confirmed(150);
        assert!(times.holds(150, Instant::from_nanos(1_539), TIMEOUT, LEASE));
        assert!(!times.holds(150, Instant::from_nanos(1_540), TIMEOUT, LEASE), "64 was sent at 640");
    }
}
