//! Recent elections as this node saw them: a small ring, for the status page and whoever looks for the cause of a
//! gap.
//!
//! * One entry for each leader of each term, made when this node hears of it. What happened while it was down, or
//!   faster than it looked, is not there.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use raft_core::{NodeId, Status, Term};
use serde::Serialize;

/// Entries kept.
const KEPT: usize = 32;

/// One leader of one term.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Election {
    /// When this node heard of it, in milliseconds since 1970.
    at_unix_ms: u64,
    term: u64,
    leader: u64,
    /// For how long this node had known no leader.
    without_leader_ms: u64,
}

/// The ring.
#[derive(Debug)]
pub(crate) struct Elections(Mutex<Ring>);

#[derive(Debug)]
struct Ring {
    /// The leader known last, with its term.
    led: Option<(Term, NodeId)>,
    /// Since when nobody has been known to lead.
    without_since: Option<Instant>,
    seen: VecDeque<Election>,
}

impl Elections {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(Ring { led: None, without_since: Some(Instant::now()), seen: VecDeque::new() }))
    }

    /// Takes in how the node is.
    pub(crate) fn observe(&self, status: &Status) {
        self.observe_at(status.term, status.leader, Instant::now());
    }

    fn observe_at(&self, term: Term, leader: Option<NodeId>, now: Instant) {
        let mut ring = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(leader) = leader else {
            ring.without_since.get_or_insert(now);
            return;
        };
        let without = ring.without_since.take().map_or(Duration::ZERO, |since| now - since);
        if ring.led == Some((term, leader)) {
            return;
        }
        ring.led = Some((term, leader));
        if ring.seen.len() == KEPT {
            ring.seen.pop_front();
        }
        ring.seen.push_back(Election {
            at_unix_ms: unix_ms(),
            term: term.get(),
            leader: leader.get(),
            without_leader_ms: millis(without),
        });
    }

    /// The newest first.
    pub(crate) fn recent(&self) -> Vec<Election> {
        let ring = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ring.seen.iter().rev().cloned().collect()
    }
}

/// Milliseconds since 1970; zero before that.
pub(crate) fn unix_ms() -> u64 {
    millis(SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default())
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_leader_of_a_term_is_one_entry_and_the_ring_is_bounded() {
        let (elections, began) = (Elections::new(), Instant::now());
        let observe = |term, leader: u64, ms| {
            let leader = (leader > 0).then_some(NodeId::new(leader));
            elections.observe_at(Term::new(term), leader, began + Duration::from_millis(ms));
        };
        observe(2, 1, 1_000);
        observe(2, 1, 2_000);
        observe(2, 0, 3_000);
        observe(3, 0, 3_100);
        observe(3, 2, 3_250);
        let seen = elections.recent();
        let brief = |election: &Election| (election.term, election.leader);
        assert_eq!(seen.iter().map(brief).collect::<Vec<_>>(), [(3, 2), (2, 1)]);
        assert_eq!(seen[0].without_leader_ms, 250);
        // The same leader, found again.
        observe(3, 0, 4_000);
        observe(3, 2, 4_100);
        assert_eq!(elections.recent().len(), 2);
        for term in 4..100 {
            observe(term, 1, 5_000);
        }
        assert_eq!((elections.recent().len(), elections.recent()[0].term), (KEPT, 99));
    }
}
