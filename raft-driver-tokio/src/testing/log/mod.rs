//! Checks a [`LogStore`] with generated histories and crashes.

mod find;
mod kill;
mod model;
mod run;
mod step;
mod verdict;

use std::fmt::Display;
use std::ops::Range;

use raft_core::host::LogStore;

use super::medium::Medium;
use super::report::{Broken, Passed, check};
use run::run;
use step::{history, simpler};

/// How often a shorter history is tried.
const ATTEMPTS_MAX: u32 = 400;

/// Checks a [`LogStore`]. See the [module's head](super) for what is checked and what is not.
#[derive(Clone, Debug)]
#[must_use]
pub struct LogCheck {
    seeds: Range<u64>,
    steps: usize,
    command_bytes_max: usize,
    one_opener: bool,
}

impl Default for LogCheck {
    fn default() -> Self {
        Self::new()
    }
}

impl LogCheck {
    /// 20 histories of 40 steps.
    pub const fn new() -> Self {
        Self { seeds: 0..20, steps: 40, command_bytes_max: 20_000, one_opener: false }
    }

    /// Which histories: one for each seed.
    pub const fn seeds(self, seeds: Range<u64>) -> Self {
        Self { seeds, ..self }
    }

    /// How long each is.
    pub const fn steps(self, steps: usize) -> Self {
        Self { steps, ..self }
    }

    /// The longest command; most are below 120 bytes.
    pub const fn command_bytes_max(self, bytes: usize) -> Self {
        Self { command_bytes_max: bytes, ..self }
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
        S: LogStore,
        E: Display,
    {
        let history = |rng: &mut fastrand::Rng| history(rng, self.steps, self.command_bytes_max);
        check(self.seeds.clone(), ATTEMPTS_MAX, history, simpler, |seed, steps| {
            run(&open, self.one_opener, seed, steps)
        })
    }
}
