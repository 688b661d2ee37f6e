//! What the checks say of things that have a bug planted.

use std::fmt::Debug;

use raft_driver_tokio::testing::{Broken, Passed, Promise};

/// The promise that is found broken, and how long the history is that shows it.
pub(crate) type Verdict = Option<(Promise, usize)>;

/// Prints the report.
pub(crate) fn verdict(bug: impl Debug, result: Result<Passed, Broken>) -> Verdict {
    match result {
        Ok(passed) => {
            println!("{bug:?}: {passed}");
            None
        }
        Err(broken) => {
            println!("{bug:?}: {broken}");
            Some((broken.promise, broken.history.len()))
        }
    }
}

/// Each bug breaks the promise that is named beside it, in a history of at most so many steps.
pub(crate) fn assert_found<B: Copy + Debug>(
    expected: &[(B, Promise)],
    steps_max: impl Fn(B) -> usize,
    verdict: impl Fn(B, Promise) -> Verdict,
) {
    let mut wrong = Vec::new();
    for &(bug, promise) in expected {
        match verdict(bug, promise) {
            Some((found, steps)) if found == promise && steps <= steps_max(bug) => {}
            other => wrong.push((bug, promise, other)),
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
