//! Checks a [`SnapshotStore`] with snapshots that are written whole, in part, twice at once, over a failing disk, and
//! with a crash after each call.

mod model;
mod run;
mod store;

use std::fmt::Display;
use std::ops::Range;

use raft_core::host::SnapshotStore;

use super::medium::Medium;
use super::report::{Broken, Passed, check};
use run::{history, run, simpler};

const ATTEMPTS_MAX: u32 = 200;

/// Checks a [`SnapshotStore`]. See the [module's head](super) for what is checked and what is not.
#[derive(Clone, Debug)]
#[must_use]
pub struct SnapshotCheck {
    seeds: Range<u64>,
    steps: usize,
    bytes_max: usize,
    one_opener: bool,
}

impl Default for SnapshotCheck {
    fn default() -> Self {
        Self::new()
    }
}

impl SnapshotCheck {
    /// 20 histories of 15 steps.
    pub const fn new() -> Self {
        Self { seeds: 0..20, steps: 15, bytes_max: 200_000, one_opener: false }
    }

    /// Which histories: one for each seed.
    pub const fn seeds(self, seeds: Range<u64>) -> Self {
        Self { seeds, ..self }
    }

    /// How long each is.
    pub const fn steps(self, steps: usize) -> Self {
        Self { steps, ..self }
    }

    /// The largest snapshot; most are smaller.
    pub const fn bytes_max(self, bytes: usize) -> Self {
        Self { bytes_max: bytes, ..self }
    }

    /// Also checks that a second opener is refused while the store is open.
    pub const fn one_opener(self) -> Self {
        Self { one_opener: true, ..self }
    }

    /// Runs the histories, each on a new medium.
    ///
    /// # Errors
    /// The first promise that is broken, with the shortest history found that breaks it.
    ///
    /// # Panics
    /// If the medium itself fails: no directory can be made, for example.
    pub fn run<M, S, E>(&self, open: impl Fn(&M) -> Result<S, E>) -> Result<Passed, Broken>
    where
        M: Medium,
        S: SnapshotStore,
        E: Display,
    {
        let history = |rng: &mut fastrand::Rng| history(rng, self.steps, self.bytes_max);
        check(self.seeds.clone(), ATTEMPTS_MAX, history, simpler, |seed, steps| {
            run(&open, self.one_opener, seed, steps)
        })
    }
}
