//! An orderly end: the leadership is handed over before the node stops, and writes that are on their way get their
//! outcome if it comes soon.
//!
//! * The core ends a hand-over, successful or not, within an election timeout; what follows has one more at most.

use std::time::Duration;

use raft_core::Instant;
use tokio::sync::oneshot;

/// To be told when the hand-over is over, however it ended.
pub(crate) type HandedOver = oneshot::Sender<()>;

/// How far the end has come.
#[derive(Debug)]
pub(crate) struct Leaving {
    election_timeout: Duration,
    handed_over: oneshot::Receiver<()>,
    /// When the node stops, whoever still waits.
    until: Option<Instant>,
}

impl Leaving {
    /// The end begins: the node is to step down.
    pub(crate) fn begin(election_timeout: Duration) -> (Self, HandedOver) {
        let (operator, handed_over) = oneshot::channel();
        (Self { election_timeout, handed_over, until: None }, operator)
    }

    /// When to look again at the latest; `None` if the node may stop now. `writes` wait for their outcome.
    pub(crate) fn at(&mut self, now: Instant, writes: usize) -> Option<Instant> {
        if self.until.is_none() && self.handed_over.try_recv() != Err(oneshot::error::TryRecvError::Empty) {
            self.until = Some(now + self.election_timeout);
        }
        match self.until {
            // The core says when: it has a timer for it.
            None => Some(now + self.election_timeout),
            Some(until) => Some(until).filter(|until| writes > 0 && now < *until),
        }
    }
}
