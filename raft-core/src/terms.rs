//! The term index: `term(i)` for the whole log from a few words per leadership (§5.3).
//!
//! * Runs are consecutive, their terms rise strictly, and together they cover `(base, last]`.
//! * Some runs of what was compacted are remembered, so that it can be told what became of proposals there. They are
//!   for nothing else: no term before `base` is known to the protocol (TRAP 27).
//! * It never holds payloads and never touches a disk, so conflicts are found without reading the log.

use alloc::vec::Vec;

use crate::ids::{LogId, LogIndex, Term};
use crate::snapshot::{RUNS_MAX, TermRun};

#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(crate) struct TermIndex {
    /// The entry before the log's first.
    base: LogId,
    runs: Vec<TermRun>,
    last: LogIndex,
}

impl TermIndex {
    /// `None` if the runs do not cover `(base, last]` in order.
    pub(crate) fn new(base: LogId, runs: Vec<TermRun>, last: LogId) -> Option<Self> {
        let mut before = TermRun { term: base.term, first: base.index };
        for (at, run) in runs.iter().enumerate() {
            let starts = if at == 0 { run.first == base.index.next() } else { run.first > before.first };
            let rises = if at == 0 { run.term >= before.term } else { run.term > before.term };
            if !starts || !rises {
                return None;
            }
            before = *run;
        }
        let covers = last.term == before.term && last.index >= before.first;
        let empty = runs.is_empty() && last == base;
        let in_range = last.index < LogIndex::LIMIT && last.term < Term::LIMIT;
        (in_range && if runs.is_empty() { empty } else { covers }).then_some(Self {
            base,
            runs,
            last: last.index,
        })
    }

    /// Remembers these runs of what was compacted, the latest of them through `base` or beyond.
    pub(crate) fn remember(&mut self, history: &[TermRun]) {
        let mut runs: Vec<TermRun> =
            history.iter().copied().filter(|run| run.first <= self.base.index).collect();
        if runs.last().is_none_or(|run| run.term != self.base.term) {
            return;
        }
        let goes_on = self.runs.first().is_some_and(|run| run.term == self.base.term);
        runs.extend(self.runs.iter().skip(usize::from(goes_on)));
        self.runs = runs;
    }

    /// The latest runs of equal terms through `index`.
    pub(crate) fn history(&self, index: LogIndex) -> &[TermRun] {
        let end = self.run_at(index);
        &self.runs[end.saturating_sub(RUNS_MAX)..end]
    }

    pub(crate) fn base(&self) -> LogId {
        self.base
    }

    pub(crate) fn last(&self) -> LogId {
        LogId::new(self.runs.last().map_or(self.base.term, |run| run.term), self.last)
    }

    /// How many runs begin at or before `index`.
    fn run_at(&self, index: LogIndex) -> usize {
        // Recent entries are asked for most: they are in the last run.
        match self.runs.last() {
            Some(run) if run.first <= index => self.runs.len(),
            _ => self.runs.partition_point(|run| run.first <= index),
        }
    }

    /// The term of the entry at `index`; `None` outside `[base, last]`.
    pub(crate) fn term(&self, index: LogIndex) -> Option<Term> {
        if index > self.last || index < self.base.index {
            return None;
        }
        match self.run_at(index) {
            0 => Some(self.base.term),
            at => Some(self.runs[at - 1].term),
        }
    }

    /// As [`term`](Self::term), also for what was compacted as far as it is remembered.
    pub(crate) fn remembered(&self, index: LogIndex) -> Option<Term> {
        if index > self.last {
            return None;
        }
        match self.run_at(index) {
            0 => (index == self.base.index).then_some(self.base.term),
            at => Some(self.runs[at - 1].term),
        }
    }

    pub(crate) fn id(&self, index: LogIndex) -> Option<LogId> {
        self.term(index).map(|term| LogId::new(term, index))
    }

    /// The last index of the run that contains `index`, which must be in the log.
    fn run_end(&self, index: LogIndex) -> LogIndex {
        self.runs.get(self.run_at(index)).map_or(self.last, |next| next.first.prev())
    }

    /// The first index in `[from, through]` that is in the log, or remembered of it, with another term than `term`,
    /// or is past its end. `None` if all of them are there in this term.
    pub(crate) fn first_difference(&self, term: Term, from: LogIndex, through: LogIndex) -> Option<LogIndex> {
        match self.remembered(from) {
            Some(found) if found == term => {
                let end = self.run_end(from);
                (end < through).then(|| end.next())
            }
            _ => Some(from),
        }
    }

    /// The last entry at or before `index` whose term is at most `term`; `base` if there is none.
    ///
    /// Both sides of a conflict use it to skip a term at a time (§5.3, the optimisation at its end).
    pub(crate) fn last_at_most(&self, index: LogIndex, term: Term) -> LogId {
        let below_index = self.run_at(index);
        let below_term = self.runs.partition_point(|run| run.term <= term);
        match below_index.min(below_term) {
            0 => self.base,
            at => {
                let run = self.runs[at - 1];
                let end = self.runs.get(at).map_or(self.last, |next| next.first.prev());
                if end.min(index) <= self.base.index {
                    return self.base;
                }
                LogId::new(run.term, end.min(index))
            }
        }
    }

    /// Extends the log with entries of `term` through `last`.
    #[inline]
    pub(crate) fn append(&mut self, term: Term, last: LogIndex) {
        assert!(last > self.last, "a log only grows by an append (§5.3)");
        if self.runs.last().is_none_or(|run| run.term != term) {
            self.begin(term);
        }
        self.last = last;
    }

    fn begin(&mut self, term: Term) {
        let before = self.last();
        assert!(term >= before.term, "terms never fall along a log (§5.3)");
        self.runs.push(TermRun { term, first: before.index.next() });
    }

    /// Drops every entry through `through`, which is in the log.
    pub(crate) fn compact(&mut self, through: LogId) {
        assert_eq!(self.term(through.index), Some(through.term), "only what is in the log is compacted (§7)");
        self.base = through;
        let old = self.run_at(through.index);
        self.runs.drain(..old.saturating_sub(RUNS_MAX));
    }

    /// Drops everything: the log begins anew behind `base`, of which `history` is known.
    pub(crate) fn reset(&mut self, base: LogId, history: &[TermRun]) {
        *self = Self { base, runs: Vec::new(), last: base.index };
        self.remember(history);
    }

    /// Drops every entry from `from` on.
    pub(crate) fn truncate(&mut self, from: LogIndex) {
        assert!(from > self.base.index, "what was compacted cannot be truncated");
        while self.runs.pop_if(|run| run.first >= from).is_some() {}
        self.last = self.last.min(from.prev());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    fn index(terms: &[u64]) -> TermIndex {
        let mut index = TermIndex::new(LogId::ZERO, Vec::new(), LogId::ZERO).expect("an empty log");
        for (at, term) in (1..).zip(terms) {
            index.append(Term::new(*term), LogIndex::new(at));
        }
        index
    }

    /// A log as a list of non-decreasing terms.
    fn log() -> impl Strategy<Value = Vec<u64>> {
        proptest::collection::vec(1u64..6, 0..20).prop_map(|mut terms| {
            terms.sort_unstable();
            terms
        })
    }

    proptest! {
        #[test]
        fn agrees_with_a_list_of_terms(terms in log(), cut in 1usize..22, at in 0u64..22, term in 0u64..7) {
            let mut terms = terms;
            let mut index = index(&terms);
            index.truncate(LogIndex::new(cut as u64));
            terms.truncate(cut - 1);
            let naive = |at: u64| if at == 0 { Some(0) } else { terms.get(at as usize - 1).copied() };
            prop_assert_eq!(index.term(LogIndex::new(at)).map(Term::get), naive(at));
            prop_assert_eq!(index.last().index.get(), terms.len() as u64);
            let expected = (0..=at).rev().find(|at| naive(*at).is_some_and(|found| found <= term)).unwrap_or(0);
            prop_assert_eq!(index.last_at_most(LogIndex::new(at), Term::new(term)).index.get(), expected);
            let through = at + 5;
            let expected = (at..=through).find(|at| naive(*at) != Some(term));
            let got = index.first_difference(Term::new(term), LogIndex::new(at), LogIndex::new(through));
            prop_assert_eq!(got.map(LogIndex::get), expected);
        }
    }

    proptest! {
        #[test]
        fn compaction_forgets_only_what_came_before(
            terms in log(), base in 0u64..21, at in 0u64..22, term in 0u64..7,
        ) {
            prop_assume!(base as usize <= terms.len());
            let naive = index(&terms);
            let mut index = naive.clone();
            let base = LogIndex::new(base);
            index.compact(naive.id(base).expect("in the log"));
            let at = LogIndex::new(at);
            prop_assert_eq!(index.term(at), naive.term(at).filter(|_| at >= base));
            prop_assert_eq!(index.last(), naive.last());
            if at > LogIndex::ZERO {
                prop_assert_eq!(index.remembered(at), naive.term(at));
            }
            let expected = naive.last_at_most(at, Term::new(term));
            let found = index.last_at_most(at, Term::new(term));
            prop_assert_eq!(found, if expected.index < base { index.base() } else { expected });
        }
    }

    #[test]
    fn recovered_runs_must_cover_the_log() {
        let run = |term, first| TermRun { term: Term::new(term), first: LogIndex::new(first) };
        let id = |term, index| LogId::new(Term::new(term), LogIndex::new(index));
        assert!(TermIndex::new(LogId::ZERO, vec![run(1, 1), run(3, 2)], id(3, 9)).is_some());
        for (runs, last) in [
            (vec![run(1, 2)], id(1, 2)),
            (vec![run(1, 1), run(1, 2)], id(1, 2)),
            (vec![run(2, 1), run(1, 2)], id(1, 2)),
            (vec![run(1, 1), run(2, 5)], id(2, 4)),
            (vec![run(1, 1)], id(2, 4)),
            (vec![], id(1, 1)),
            (vec![run(1, 1)], LogId::new(Term::new(1), LogIndex::LIMIT)),
        ] {
            assert!(TermIndex::new(LogId::ZERO, runs.clone(), last).is_none(), "{runs:?} {last}");
        }
    }
}
