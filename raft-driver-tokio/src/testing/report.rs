//! What a check says: which promise was broken, how, and the shortest history found that breaks it.

use std::fmt;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::promise::Promise;

/// A promise was broken. Its `Debug` form is the report too, so that `unwrap` in a test prints it.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
pub struct Broken {
    /// Which one.
    pub promise: Promise,
    /// What was found instead.
    pub what: String,
    /// What was done until then, a line a step, without what could be left out.
    pub history: Vec<String>,
    /// The seed whose history it was.
    pub seed: u64,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "broken promise: {}", self.promise)?;
        writeln!(f, "  {}", self.what)?;
        writeln!(f, "the shortest history found (of seed {}):", self.seed)?;
        for (at, line) in self.history.iter().enumerate() {
            writeln!(f, "  {:>2}. {line}", at + 1)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f)?;
        fmt::Display::fmt(self, f)
    }
}

/// How much was done while nothing was found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passed {
    /// Histories.
    pub histories: u64,
    /// Calls of the store or the machine.
    pub calls: u64,
    /// Crashes after which it was opened again.
    pub crashes: u64,
}

impl Passed {
    pub(super) fn add(&mut self, other: Self) {
        self.histories += other.histories;
        self.calls += other.calls;
        self.crashes += other.crashes;
    }
}

impl fmt::Display for Passed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { histories, calls, crashes } = self;
        write!(f, "{histories} histories, {calls} calls, {crashes} crashes: nothing found")
    }
}

/// What a run found, and what was done until then.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) violation: Option<Violation>,
    pub(super) history: Vec<String>,
    pub(super) passed: Passed,
    /// Steps begun.
    pub(super) steps: usize,
}

impl Ended {
    pub(super) fn breaks(&self, promise: Promise) -> bool {
        self.violation.as_ref().is_some_and(|violation| violation.promise == promise)
    }
}

impl Broken {
    /// Of the shortest history. Threads and time may have their say in what is checked: if that one does not fail
    /// again, `first` counts, which did.
    pub(super) fn of(seed: u64, shortest: Ended, first: Ended) -> Self {
        let ended = if shortest.violation.is_some() { shortest } else { first };
        let Ended { violation, history, .. } = ended;
        let Violation { promise, what } = violation.expect("only broken promises are reported");
        Self { promise, what, history, seed }
    }
}

/// What one run found.
#[derive(Clone, Debug)]
pub(super) struct Violation {
    pub(super) promise: Promise,
    pub(super) what: String,
}

impl Violation {
    pub(super) fn new(promise: Promise, what: impl fmt::Display) -> Self {
        Self { promise, what: what.to_string() }
    }
}

pub(super) fn ensure(holds: bool, promise: Promise, what: impl FnOnce() -> String) -> Result<(), Violation> {
    if holds { Ok(()) } else { Err(Violation { promise, what: what() }) }
}

/// Calls something of the user's. A panic is a violation, and whatever panicked is not used after it.
pub(super) fn guarded<T>(method: &str, call: impl FnOnce() -> T) -> Result<T, Violation> {
    catch_unwind(AssertUnwindSafe(call)).map_err(|payload| {
        let said = payload.downcast_ref::<&str>().map(|said| (*said).to_owned());
        let said = said.or_else(|| payload.downcast_ref::<String>().cloned());
        let said = said.unwrap_or_else(|| "something that is no text".into());
        Violation::new(Promise::NeverPanics, format_args!("{method} panicked: {said}"))
    })
}

/// Runs a history for each seed. The first that breaks a promise is made shorter, with at most `attempts_max` runs.
pub(super) fn check<T: Clone>(
    seeds: Range<u64>,
    attempts_max: u32,
    history: impl Fn(&mut fastrand::Rng) -> Vec<T>,
    simpler: impl Fn(&T) -> Vec<T>,
    run: impl Fn(u64, &[T]) -> Ended,
) -> Result<Passed, Broken> {
    let mut passed = Passed::default();
    for seed in seeds {
        let steps = history(&mut fastrand::Rng::with_seed(seed));
        let ended = run(seed, &steps);
        passed.add(ended.passed);
        if let Some(violation) = &ended.violation {
            let breaks = |steps: &[T]| run(seed, steps).breaks(violation.promise);
            let shortest = shrink(steps[..ended.steps].to_vec(), attempts_max, simpler, breaks);
            return Err(Broken::of(seed, run(seed, &shortest), ended));
        }
    }
    Ok(passed)
}

/// Leaves steps out as long as the same promise is broken: halves first, then single ones, then what `simpler` offers in
/// place of a step. `attempts_max` bounds how often it is tried.
fn shrink<T: Clone>(
    mut steps: Vec<T>,
    attempts_max: u32,
    simpler: impl Fn(&T) -> Vec<T>,
    mut still_breaks: impl FnMut(&[T]) -> bool,
) -> Vec<T> {
    let mut attempts = 0;
    let mut attempt = |candidate: &[T]| {
        attempts += 1;
        (attempts <= attempts_max).then(|| still_breaks(candidate))
    };
    loop {
        let before = steps.len();
        let mut length = (steps.len() / 2).max(1);
        loop {
            let mut at = steps.len();
            while at > 0 {
                let from = at.saturating_sub(length);
                let candidate = [&steps[..from], &steps[at..]].concat();
                match attempt(&candidate) {
                    None => return steps,
                    Some(true) => steps = candidate,
                    Some(false) => {}
                }
                at = from.min(steps.len());
            }
            if length == 1 {
                break;
            }
            length /= 2;
        }
        let mut changed = steps.len() != before;
        for at in 0..steps.len() {
            while let Some(found) = simpler(&steps[at]).into_iter().find_map(|step| {
                let mut candidate = steps.clone();
                candidate[at] = step;
                attempt(&candidate).filter(|breaks| *breaks).map(|_| candidate)
            }) {
                steps = found;
                changed = true;
            }
        }
        if !changed {
            return steps;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_that_do_not_matter_are_left_out() {
        let steps: Vec<u32> = (0..60).collect();
        let smaller = |step: &u32| if *step > 40 { vec![step - 1] } else { Vec::new() };
        let breaks = |steps: &[u32]| steps.contains(&7) && steps.iter().any(|step| *step >= 40);
        assert_eq!(shrink(steps.clone(), 10_000, smaller, breaks), [7, 40]);
        let mut attempts = 0;
        shrink(steps, 5, smaller, |_| {
            attempts += 1;
            false
        });
        assert_eq!(attempts, 5, "it ends");
    }

    #[test]
    fn a_panic_is_told() {
        let violation = guarded("LogStore::write", || panic!("at {}", 5)).unwrap_err();
        assert_eq!(violation.promise, Promise::NeverPanics);
        assert!(violation.what.contains("LogStore::write panicked: at 5"), "{}", violation.what);
        assert_eq!(guarded("x", || 5).unwrap(), 5);
    }
}
