//! How fresh a node's state is known to be.
//!
//! What a state is worth is measured from a question: a linearizable read that this node *asked* at one time, by its own
//! clock, and that was served later, proves that the state in which it was served holds every write that was answered
//! before that time (thesis §6.4). The state only moves forward. So the age of the last proof bounds how stale the state
//! can be, whatever became of the leader or the network meanwhile. That heartbeats arrive proves nothing of the kind: the
//! last one may have been on the way for long, or be of a leader that was deposed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use raft_core::host::{Read, Rejection};
use tokio::time::Instant;

/// For drivers: when the state of a node was proved to be fresh.
#[derive(Debug)]
pub struct Freshness {
    epoch: Instant,
    /// When the question of the last proof was asked: nanoseconds since the epoch, and one. Zero: never.
    proved: AtomicU64,
    /// A question is on the way that nobody waits for.
    asking: AtomicBool,
}

/// What a state is worth to a read that wants it fresh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fresh {
    /// It will do.
    Enough,
    /// It will do, and a new proof is due: see [`Freshness::question`].
    Aging,
    /// Only a linearizable read will do.
    Unproved,
}

impl Freshness {
    /// Nothing is proved.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(Self { epoch: Instant::now(), proved: AtomicU64::new(0), asking: AtomicBool::new(false) })
    }

    /// A linearizable read begins, which proves something once it is served.
    #[must_use]
    pub fn ask(self: &Arc<Self>) -> Proof {
        Proof { freshness: Arc::clone(self), asked: self.now() }
    }

    /// Whether the state has every write that was answered `bound` ago. `Duration::MAX` asks for nothing.
    #[must_use]
    pub fn judge(&self, bound: Duration) -> Fresh {
        match self.age() {
            _ if bound == Duration::MAX => Fresh::Enough,
            Some(age) if age <= bound / 2 => Fresh::Enough,
            Some(age) if age <= bound => Fresh::Aging,
            _ => Fresh::Unproved,
        }
    }

    /// A linearizable read for the proof alone; `None` if one is on the way already.
    #[must_use]
    pub fn question<S>(self: &Arc<Self>) -> Option<Box<dyn Read<S>>> {
        let first = !self.asking.swap(true, Ordering::AcqRel);
        first.then(|| Box::new(Question { proof: self.ask() }) as _)
    }

    /// How old the state may be; `None` if that was never proved.
    #[must_use]
    pub fn age(&self) -> Option<Duration> {
        match self.proved.load(Ordering::Acquire) {
            0 => None,
            proved => Some(Duration::from_nanos(self.now().saturating_sub(proved))),
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_nanos()).unwrap_or(u64::MAX).saturating_add(1)
    }
}

/// For drivers: what a linearizable read will have proved once it is served.
#[derive(Debug)]
pub struct Proof {
    freshness: Arc<Freshness>,
    asked: u64,
}

impl Proof {
    /// To be called in the state machine's lane, where reads are served.
    pub fn served(&self) {
        self.freshness.proved.fetch_max(self.asked, Ordering::AcqRel);
    }
}

/// A linearizable read for the proof alone.
struct Question {
    proof: Proof,
}

impl<S> Read<S> for Question {
    fn serve(self: Box<Self>, _: &S) {
        self.proof.served();
    }

    fn reject(self: Box<Self>, _: Rejection) {}

    fn is_abandoned(&self) -> bool {
        false
    }
}

impl Drop for Question {
    fn drop(&mut self) {
        self.proof.freshness.asking.store(false, Ordering::Release);
    }
}
