//! Many seeds on many threads, until one fails, or all of them.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use crate::Simulation;
use crate::summary::{Failure, Summary};
use crate::workload::Workload;

/// Which seeds to run, and how.
#[derive(Clone, Debug)]
pub struct Campaign {
    /// The first seed.
    pub start: u64,
    /// How many.
    pub seeds: u64,
    /// On how many threads.
    pub jobs: usize,
    /// Go on after a failure.
    pub keep_going: bool,
    /// Begin no seed after this moment.
    pub deadline: Option<Instant>,
}

/// How a campaign ended.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// The figures of the runs that held, added up.
    pub summary: Summary,
    /// The failures by seed. The first is that of the lowest seed that fails, whatever was run beside it.
    pub failures: Vec<Box<Failure>>,
}

impl Campaign {
    /// Runs the seeds in order, and stops at a failure unless it is to go on. `progress` is told the figures so far after each
    /// run, from any thread.
    pub fn run<W: Workload>(
        &self,
        simulation: &Simulation<W>,
        progress: impl Fn(&Summary) + Sync,
    ) -> Outcome {
        let next = AtomicU64::new(0);
        let stop = AtomicBool::new(false);
        let outcome = Mutex::new(Outcome::default());
        let work = || {
            while !stop.load(Ordering::Relaxed) {
                // Seeds are begun in order, and what was begun is finished: the lowest failure is the first.
                let offset = next.fetch_add(1, Ordering::Relaxed);
                let late = self.deadline.is_some_and(|deadline| Instant::now() >= deadline);
                if offset >= self.seeds || late {
                    return;
                }
                let result = simulation.run(self.start.wrapping_add(offset));
                let mut outcome = outcome.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                match result {
                    Ok(summary) => {
                        outcome.summary.add(&summary);
                        progress(&outcome.summary);
                    }
                    Err(failure) => {
                        stop.store(!self.keep_going, Ordering::Relaxed);
                        outcome.failures.push(failure);
                    }
                }
            }
        };
        thread::scope(|scope| {
            for _ in 1..self.jobs.max(1) {
                scope.spawn(work);
            }
            work();
        });
        let mut outcome = outcome.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        outcome.failures.sort_by_key(|failure| failure.seed());
        outcome
    }
}
