//! Linearizability as a client sees it (Herlihy and Wing): a second opinion that knows nothing of logs, terms or leaders.
//!
//! A *history* is what clients did, each call with the instant at which it was made and the one at which its answer
//! came. It is linearizable if all calls can be put in one order that agrees with real time (a call that was answered
//! before another one was made comes before it) and in which each answer is right, by the rules of a [`Spec`].
//!
//! * [`check`] searches for such an order, for any specification: after Wing and Gong, with Lowe's memo of what was
//!   found to lead nowhere.
//! * A call without an answer stays open for ever: it may take effect at any time after it was made, or never.
//! * It never guesses. What it finds is either the order itself, or the proof by exhaustion that there is none; a search
//!   that grew beyond its bound says so.
//! * [`RegisterHistory`] is for the commonest case, a key whose writes are told apart: there the search goes straight to
//!   its end, however many calls are open at once, and a history that is wrong is cut down to the few calls that show it.
//!
//! ```
//! use raft_sim::history::{Call, Spec, Verdict, check};
//!
//! /// A counter; each call adds one, and returns what it then is.
//! struct Counter;
//!
//! impl Spec for Counter {
//!     type State = u64;
//!     type Op = u64;
//!     fn initial(&self) -> u64 {
//!         0
//!     }
//!     fn apply(&self, state: &u64, returned: &u64) -> Option<u64> {
//!         (state + 1 == *returned).then_some(*returned)
//!     }
//! }
//!
//! // Both are under way at once: 2 may well have been answered before 1.
//! let together = [Call::answered(10, 40, 1), Call::answered(20, 30, 2)];
//! assert_eq!(check(&Counter, &together, 100), Verdict::Linearizable(vec![0, 1]));
//! // Here 2 had been answered before the other one was even made.
//! let apart = [Call::answered(35, 40, 1), Call::answered(20, 30, 2)];
//! assert!(matches!(check(&Counter, &apart, 100), Verdict::Impossible(_)));
//! ```

mod register;
mod search;
#[cfg(test)]
mod tests;

use std::hash::Hash;

pub use register::{Access, CallId, Opinion, Register, RegisterHistory};
pub use search::check;

/// What the calls mean, one at a time: a sequential specification.
pub trait Spec {
    /// What the object is at an instant. Small, and cheap to clone: a search holds one for every call.
    type State: Clone + Eq + Hash;
    /// A call, with what it returned.
    type Op;

    /// What the object is before the first call.
    fn initial(&self) -> Self::State;

    /// What the object is after `op`; `None` if `op` cannot return in `state` what it did return.
    fn apply(&self, state: &Self::State, op: &Self::Op) -> Option<Self::State>;

    /// Whether `op` never changes the object, in whatever state: a search that knows it tries less.
    fn only_reads(&self, op: &Self::Op) -> bool {
        let _ = op;
        false
    }
}

/// One call of a client. The instants are numbers of any clock that all clients share; calls that touch in one instant
/// count as concurrent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call<Op> {
    /// When it was made.
    pub invoked: u64,
    /// When the answer came. `None`: none has, and the call may take effect at any time, or never.
    pub returned: Option<u64>,
    /// What was called, and what it returned.
    pub op: Op,
}

impl<Op> Call<Op> {
    /// A call that was answered.
    pub const fn answered(invoked: u64, returned: u64, op: Op) -> Self {
        Self { invoked, returned: Some(returned), op }
    }

    /// A call whose answer never came.
    pub const fn open(invoked: u64, op: Op) -> Self {
        Self { invoked, returned: None, op }
    }
}

/// What came of a search.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The calls can have happened in this order. Open calls that are not in it need not have happened.
    Linearizable(Vec<usize>),
    /// There is no such order. This is the longest beginning of one that was found.
    Impossible(Vec<usize>),
    /// The search grew beyond its bound.
    Undecided,
}
