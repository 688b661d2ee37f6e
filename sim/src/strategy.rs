//! Schedules as a strategy of proptest: drawn like any other value, and shrunk when a test fails.
//!
//! * A schedule is drawn as a seed. What it decides is known once it has been run, and then decisions are left out: first
//!   half of them, then quarters, down to one by one; faults first, then the operator's acts, then requests.
//! * [`Simulation::shrink`](crate::Simulation::shrink) knows more ways to make a failing run short, and needs more runs.

use std::fmt;
use std::sync::{Arc, OnceLock};

use proptest::prelude::any;
use proptest::strategy::{NewTree, Strategy, ValueTree};
use proptest::test_runner::TestRunner;

use crate::scenario::Options;
use crate::summary::{Failure, Summary};
use crate::transcript::{Decided, Decision, Transcript};
use crate::workload::Workload;
use crate::world::World;

/// Everything that can happen to a cluster, as a strategy: the machine and its clients are the test's own.
///
/// ```
/// use proptest::prelude::*;
/// use raft_sim::{Options, Registers, schedules};
///
/// proptest! {
///     #![proptest_config(ProptestConfig { cases: 4, failure_persistence: None, ..ProptestConfig::default() })]
///     # /*
///     #[test]
///     # */
///     fn whatever_happens_it_holds(schedule in schedules(Options { seconds_min: 2, ..Options::default() })) {
///         schedule.run(&Registers)?; // or your own `Workload`
///     }
/// }
/// # whatever_happens_it_holds();
/// ```
///
/// Proptest runs 256 cases unless told otherwise, and each is a cluster's life: see
/// [`seconds_min`](Options::seconds_min). The [`Failure`] holds the schedule as a [transcript](Failure::transcript): a test
/// that writes it to a file whenever it fails leaves the shortest one there, which `sim replay` runs.
#[must_use]
pub fn schedules(options: Options) -> Schedules {
    Schedules { options }
}

/// See [`schedules`].
#[derive(Clone, Debug)]
pub struct Schedules {
    options: Options,
}

/// All that is decided in one run: who crashes when, what the operator does, what clients ask for.
#[derive(Clone)]
pub struct Schedule {
    options: Options,
    seed: u64,
    /// What is left of the decisions, if some were left out.
    shrunk: Option<Transcript>,
    /// What was decided when the seed was run.
    drawn: Arc<OnceLock<Transcript>>,
}

impl Schedule {
    /// Runs it.
    ///
    /// # Errors
    /// If a checker saw a rule broken, or the node or the machine panicked or refused to go on.
    pub fn run<W: Workload>(&self, workload: &W) -> Result<Summary, Box<Failure>> {
        let (result, transcript) = match &self.shrunk {
            Some(transcript) => World::given(workload, transcript, None).run(&self.options),
            None => World::drawn(workload, self.seed, &self.options, None).run(&self.options),
        };
        // It is always the same, unless the machine is not deterministic; the first is as good as any.
        self.drawn.get_or_init(|| transcript);
        result
    }

    /// What it decides: known once it was run.
    #[must_use]
    pub fn transcript(&self) -> Option<&Transcript> {
        self.shrunk.as_ref().or_else(|| self.drawn.get())
    }
}

impl fmt::Debug for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed {}", self.seed)?;
        match self.transcript().map(Transcript::decisions) {
            Some((faults, moves, requests)) => {
                write!(f, " with {faults} faults, {moves} acts of the operator and {requests} requests")
            }
            None => Ok(()),
        }
    }
}

impl Strategy for Schedules {
    type Tree = ScheduleTree;
    type Value = Schedule;

    fn new_tree(&self, runner: &mut TestRunner) -> NewTree<Self> {
        let seed = any::<u64>().new_tree(runner)?.current();
        let drawn = Arc::new(OnceLock::new());
        let schedule = Schedule { options: self.options.clone(), seed, shrunk: None, drawn };
        Ok(ScheduleTree { schedule, search: None })
    }
}

/// A schedule, and what proptest has left out of it so far.
#[derive(Clone, Debug)]
pub struct ScheduleTree {
    schedule: Schedule,
    search: Option<Search>,
}

#[derive(Clone, Debug)]
struct Search {
    /// The shortest that failed.
    best: Transcript,
    /// The next part to leave out: how long, and behind how many that must stay.
    length: usize,
    from: usize,
}

impl Search {
    fn new(mut best: Transcript) -> Self {
        // Proptest leaves out from the front.
        best.decisions.sort_by_key(|decided| order(&decided.decision));
        let length = best.decisions.len().div_ceil(2);
        Self { best, length, from: 0 }
    }

    /// Without the next part, if there is one.
    fn candidate(&mut self) -> Option<Transcript> {
        if self.from >= self.best.decisions.len() {
            (self.from, self.length) = (0, self.length / 2);
        }
        if self.length == 0 || self.best.decisions.is_empty() {
            return None;
        }
        let through = (self.from + self.length).min(self.best.decisions.len());
        let mut candidate = self.best.clone();
        candidate.decisions.drain(self.from..through);
        Some(candidate)
    }
}

/// What is left out first.
fn order(decision: &Decision) -> u8 {
    match decision {
        Decision::Fault(_) => 0,
        Decision::Move(_) => 1,
        Decision::Request(_) => 2,
    }
}

/// As it is run: in the order of time.
fn in_time(mut transcript: Transcript) -> Transcript {
    transcript.decisions.sort_by_key(|Decided { at, .. }| *at);
    transcript
}

impl ScheduleTree {
    /// Tries the next part. If there is none left, the shortest that failed stays.
    fn next(&mut self) -> bool {
        let Some(search) = &mut self.search else { return false };
        let candidate = search.candidate();
        let more = candidate.is_some();
        self.schedule.shrunk = Some(in_time(candidate.unwrap_or_else(|| search.best.clone())));
        more
    }
}

impl ValueTree for ScheduleTree {
    type Value = Schedule;

    fn current(&self) -> Schedule {
        self.schedule.clone()
    }

    fn simplify(&mut self) -> bool {
        match (&mut self.search, &self.schedule.shrunk) {
            // What was tried failed too: its parts move up.
            (Some(search), Some(shorter)) => {
                let Search { length, from, .. } = *search;
                *search = Search { length, from, ..Search::new(shorter.clone()) };
            }
            // A test that failed without running it has nothing to do with it.
            _ => match self.schedule.drawn.get() {
                Some(drawn) => self.search = Some(Search::new(drawn.clone())),
                None => return false,
            },
        }
        self.next()
    }

    fn complicate(&mut self) -> bool {
        // It failed only with that part: leave it in.
        if let Some(search) = &mut self.search {
            search.from += search.length;
        }
        self.next()
    }
}
