//! An orderly end: the leadership is handed over before the node stops, and writes that are on their way get their
//! outcome if it comes soon.
//!
//! * The core ends a hand-over, successful or not, within [`Config::handover_max`]; what follows has an election timeout.
//! * Another hand-over may take the place of the one that was asked for: that one is waited for instead, no longer.

use std::time::Duration;

use raft_core::{Config, Instant};
use tokio::sync::oneshot;

/// To be told how the hand-over ended.
pub(crate) type HandedOver = oneshot::Sender<Ended>;

/// How a hand-over ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// It is over, successful or not.
    Over,
    /// Another one took its place, and may go on.
    Replaced,
}

/// How far the end has come.
#[derive(Debug)]
pub(crate) struct Leaving {
    election_timeout: Duration,
    handed_over: oneshot::Receiver<Ended>,
    /// Until when a hand-over is waited for that took the place of the one that was asked for.
    over_by: Instant,
    replaced: bool,
    /// When the node stops, whoever still waits.
    until: Option<Instant>,
}

impl Leaving {
    /// The end begins: the node is to step down.
    pub(crate) fn begin(now: Instant, config: &Config) -> (Self, HandedOver) {
        let (operator, handed_over) = oneshot::channel();
        let election_timeout = config.election_timeout_max;
        let over_by = now + config.handover_max();
        (Self { election_timeout, handed_over, over_by, replaced: false, until: None }, operator)
    }

    /// When to look again at the latest; `None` if the node may stop now. `succeeded`: another node is known to lead;
    /// `writes` wait for their outcome.
    pub(crate) fn at(&mut self, now: Instant, succeeded: bool, writes: usize) -> Option<Instant> {
        if self.until.is_none() && self.is_over(now, succeeded) {
            self.until = Some(now + self.election_timeout);
        }
        match self.until {
            None if self.replaced => Some(self.over_by),
            // The core says when: it has a timer for it.
            None => Some(now + self.election_timeout),
            Some(until) => Some(until).filter(|until| writes > 0 && now < *until),
        }
    }

    fn is_over(&mut self, now: Instant, succeeded: bool) -> bool {
        match self.handed_over.try_recv() {
            Err(oneshot::error::TryRecvError::Empty) => return false,
            Ok(Ended::Replaced) => self.replaced = true,
            Ok(Ended::Over) | Err(oneshot::error::TryRecvError::Closed) => {}
        }
        // Not as soon as this node leads no more: whoever takes over may need its vote.
        !self.replaced || succeeded || self.over_by <= now
    }
}

#[cfg(test)]
mod tests {
    use raft_core::NodeId;

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(3);

    fn begin() -> (Leaving, HandedOver) {
        let mut config = Config::new(NodeId::new(1));
        config.election_timeout_max = TIMEOUT;
        Leaving::begin(second(4), &config)
    }

    fn second(second: u64) -> Instant {
        Instant::ZERO + Duration::from_secs(second)
    }

    #[test]
    fn a_hand_over_that_took_the_place_of_another_is_waited_for_no_longer() {
        for (succeeds_at, over_at) in [(5, 5), (17, 16)] {
            let (mut leaving, handed_over) = begin();
            handed_over.send(Ended::Replaced).expect("it listens");
            for now in 4..over_at {
                assert_eq!(leaving.at(second(now), false, 1), Some(second(16)));
            }
            // Then writes have their time.
            assert_eq!(
                leaving.at(second(over_at), succeeds_at == over_at, 1),
                Some(second(over_at) + TIMEOUT)
            );
            assert_eq!(leaving.at(second(over_at + 1), false, 0), None);
        }
    }

    #[test]
    fn what_is_over_is_not_waited_for_whoever_leads() {
        let (mut leaving, handed_over) = begin();
        assert_eq!(leaving.at(second(5), true, 0), Some(second(8)));
        handed_over.send(Ended::Over).expect("it listens");
        assert_eq!(leaving.at(second(6), false, 1), Some(second(9)));
        assert_eq!(leaving.at(second(9), false, 1), None);
    }
}
