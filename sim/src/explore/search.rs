//! Breadth first: every state at the least number of choices from the start, so that the first violation is a nearest one.

use std::collections::HashSet;
use std::time::Instant;

use super::fingerprint::{Fingerprints, Hashed};
use super::model::Model;
use super::state::{Choice, State};
use super::tables::Tables;
use super::trace::trace;
use super::{Broken, Limits, Progress, Report, Violation};

/// How many states are looked at between two reports of progress.
const PROGRESS_STATES: usize = 1 << 15;

/// Explores a model until nothing is left, a limit is reached, or a rule is broken.
pub fn explore(model: &Model, limits: &Limits, mut progress: impl FnMut(&Progress)) -> Report {
    let began = Instant::now();
    let mut tables = Tables::new(model);
    let mut report = Report::new(model.name);
    let mut search = Search::default();
    match State::start(&mut tables) {
        Ok(start) => search.run(start, &mut tables, limits, &mut report, |report| {
            progress(&Progress {
                states: report.states,
                transitions: report.transitions,
                depth: report.depth,
                widest: report.widest,
                elapsed: began.elapsed(),
            });
        }),
        Err(broken) => report.violation = Some(Violation::new(broken, 0, Vec::new())),
    }
    report.servers = tables.servers.len() as u64;
    report.steps = tables.steps_made();
    report.elapsed = began.elapsed();
    report
}

#[derive(Default)]
struct Search {
    seen: HashSet<u128, Hashed>,
    /// Of each state by its number: from which one it was reached first, and how.
    parents: Vec<(u32, u32)>,
    fingerprints: Fingerprints,
}

impl Search {
    fn run(
        &mut self,
        start: State,
        tables: &mut Tables<'_>,
        limits: &Limits,
        report: &mut Report,
        mut progress: impl FnMut(&Report),
    ) {
        self.seen.insert(self.fingerprints.of(&start, tables));
        self.parents.push((0, 0));
        report.states = 1;
        let mut level = vec![(0, start.clone())];
        let (mut choices, mut reached) = (Vec::new(), start.clone());
        while !level.is_empty() {
            report.widest = report.widest.max(level.len() as u64);
            let mut next = Vec::new();
            for (looked, (number, state)) in core::mem::take(&mut level).into_iter().enumerate() {
                if looked % PROGRESS_STATES == 0 {
                    progress(report);
                }
                state.choices(tables, &mut choices);
                for choice in &choices {
                    report.transitions += 1;
                    match state.choose(*choice, tables, &mut reached) {
                        Ok(()) => {
                            if !self.seen.insert(self.fingerprints.of(&reached, tables)) {
                                continue;
                            }
                            let place = u32::try_from(self.parents.len()).expect("fewer than 2^32 states");
                            self.parents.push((number, choice.pack()));
                            next.push((place, reached.clone()));
                            report.states += 1;
                        }
                        Err(broken) => {
                            report.violation = Some(self.violation(broken, start, number, *choice, tables));
                            report.depth += 1;
                            return;
                        }
                    }
                }
                if report.states >= limits.states_max {
                    report.cut = true;
                    return;
                }
            }
            report.depth += u32::from(!next.is_empty());
            level = next;
        }
    }

    /// The way to a broken rule.
    fn violation(
        &self,
        broken: Broken,
        start: State,
        from: u32,
        last: Choice,
        tables: &mut Tables<'_>,
    ) -> Violation {
        let mut path = vec![last];
        let mut at = from;
        while at != 0 {
            let (before, choice) = self.parents[at as usize];
            path.push(Choice::unpack(choice));
            at = before;
        }
        path.reverse();
        let steps = u32::try_from(path.len()).expect("a path is short");
        Violation::new(broken, steps, trace(start, &path, tables))
    }
}
