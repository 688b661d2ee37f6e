//! Elections: first the question whether one could be won, which disturbs nobody (thesis §9.6), then the
//! election itself (§5.2; Figure 2, RequestVote RPC).
//!
//! * A grant counts once, for the term that was asked about, from a voter in force (TRAPS 3-5).
//! * The candidate's own vote counts when it is durable, like everybody's (TRAP 6).

use alloc::collections::BTreeSet;

use crate::ids::{NodeId, Term};
use crate::message::Body;
use crate::quorum;
use crate::role::Next;
use crate::role::follower::election_timeout;
use crate::state::Shared;

/// Asks who would vote for it in the next term. Its term and vote stay as they are.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(crate) struct PreCandidate {
    proposed: Term,
    granted: BTreeSet<NodeId>,
}

impl PreCandidate {
    /// Begins. The caller has checked `may_campaign`.
    pub(crate) fn start(shared: &mut Shared) -> (Self, Next) {
        let proposed = shared.term().next().expect("who may campaign has a term left");
        shared.rearm_election();
        let last = shared.log.last();
        ask(shared, &Body::PreVote { proposed, last });
        let role = Self { proposed, granted: BTreeSet::from([shared.id()]) };
        let next = role.decide(shared);
        (role, next)
    }

    /// Whether to campaign now.
    pub(crate) fn decide(&self, shared: &Shared) -> Next {
        let won = quorum::agrees(shared.membership(), |node| self.granted.contains(&node));
        // The hard state may have changed since the question was asked: no campaign while it is in flight.
        if won && shared.may_campaign().is_ok() { Next::Campaign { transfer: false } } else { Next::Stay }
    }

    pub(crate) fn pre_vote_reply(
        &mut self,
        shared: &mut Shared,
        from: NodeId,
        proposed: Term,
        granted: bool,
    ) -> Next {
        if proposed != self.proposed {
            shared.counters.stale += 1;
            return Next::Stay;
        }
        if granted {
            self.granted.insert(from);
        }
        self.decide(shared)
    }

    pub(crate) fn wake(&mut self, shared: &mut Shared) -> Next {
        election_timeout(shared)
    }
}

/// Asks for votes in a new term.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(crate) struct Candidate {
    granted: BTreeSet<NodeId>,
}

impl Candidate {
    /// Increments the term and votes for itself; the requests leave when both are durable (§5.2, TRAP 7).
    /// `transfer`: a live leader asked for it, and nobody should refuse because of that leader (thesis §3.10).
    pub(crate) fn start(shared: &mut Shared, transfer: bool) -> Self {
        let term = shared.term().next().expect("who may campaign has a term left");
        let id = shared.id();
        shared.enter_term(term, Some(id));
        shared.counters.campaigns += 1;
        shared.rearm_election();
        let last = shared.log.last();
        ask(shared, &Body::RequestVote { last, transfer });
        Self { granted: BTreeSet::new() }
    }

    /// The own vote counts now if it became durable.
    pub(crate) fn persisted(&mut self, shared: &mut Shared) -> Next {
        if shared.disk.settled() && self.granted.insert(shared.id()) {
            // The requests leave only now: those who vote have a whole timeout for their own disks (§5.2).
            shared.rearm_election();
        }
        self.decide(shared)
    }

    pub(crate) fn request_vote_reply(&mut self, shared: &Shared, from: NodeId, granted: bool) -> Next {
        if granted {
            self.granted.insert(from);
        }
        self.decide(shared)
    }

    /// Election Safety (§5.2): one vote per voter and term, so two majorities cannot both hold.
    fn decide(&self, shared: &Shared) -> Next {
        let won = quorum::agrees(shared.membership(), |node| self.granted.contains(&node));
        // Nobody granted before the requests left, and those left after the own vote was durable.
        if won && shared.disk.settled() { Next::Lead } else { Next::Stay }
    }

    pub(crate) fn wake(&mut self, shared: &mut Shared) -> Next {
        election_timeout(shared)
    }
}

/// Puts a question to every other voter.
fn ask(shared: &mut Shared, body: &Body) {
    let membership = shared.membership().clone();
    let id = shared.id();
    for node in membership.voters.union(&membership.outgoing).filter(|node| **node != id) {
        match body {
            Body::PreVote { .. } => shared.send(*node, body.clone()),
            _ => shared.send_gated(*node, body.clone()),
        }
    }
}
