//! The search for an order of calls: depth first, with a memo.
//!
//! * At each step the candidates are the calls that were made before any call not yet in the order was answered
//!   (Wing and Gong). They are tried by their rank; ranks only decide how fast the search is, never what it finds.
//! * A candidate that only reads, and reads what is there, is taken without an alternative: in any order that has it later
//!   (or, if it is open, not at all) it can be moved to here, and no other call sees a difference.
//! * Where nothing leads on, the set of calls in the order and the state are remembered (Lowe): whatever comes to the
//!   same set and state by another way leads nowhere either.

use std::collections::HashSet;

use super::{Call, Spec, Verdict};

/// Whether these calls are linearizable. The search gives up after it has tried `steps_max` times to put a call next.
#[must_use]
pub fn check<S: Spec>(spec: &S, calls: &[Call<S::Op>], steps_max: u64) -> Verdict {
    // Who was answered first probably happened first, and who was never answered perhaps never.
    let mut order: Vec<usize> = (0..calls.len()).collect();
    order.sort_by_key(|at| (calls[*at].returned.unwrap_or(u64::MAX), calls[*at].invoked));
    check_ranked(spec, calls, &order, steps_max)
}

/// As [`check`], trying calls in this order first: the nearer it is to one that is possible, the faster.
pub(super) fn check_ranked<S: Spec>(
    spec: &S,
    calls: &[Call<S::Op>],
    order: &[usize],
    steps_max: u64,
) -> Verdict {
    Search::new(spec, calls, order, steps_max).run()
}

/// The calls in the order so far, and the state after them: what decides whether it leads on.
#[derive(PartialEq, Eq, Hash)]
struct Reached<State> {
    /// Through which call, by invocation, and which ones before it are not in the order.
    through: usize,
    without: Box<[u32]>,
    state: State,
}

/// A step of the order.
struct Step<State> {
    slot: usize,
    before: State,
    due: usize,
    through: usize,
    /// There is no alternative to it.
    forced: bool,
}

/// A search under way. Calls are named by their *slot*: their place by invocation.
struct Search<'a, S: Spec> {
    spec: &'a S,
    calls: &'a [Call<S::Op>],
    /// The call in each slot.
    slots: Vec<usize>,
    rank: Vec<usize>,
    /// The slots that are not in the order, linked by invocation. The last element is the list's head and end.
    next: Vec<usize>,
    prev: Vec<usize>,
    in_order: Vec<bool>,
    /// The slots of answered calls by their answers; those before `due` are all in the order.
    by_answer: Vec<usize>,
    due: usize,
    /// Every slot in the order is below this one.
    through: usize,
    state: S::State,
    steps: Vec<Step<S::State>>,
    longest: Vec<usize>,
    dead: HashSet<Reached<S::State>>,
    steps_left: u64,
}

impl<'a, S: Spec> Search<'a, S> {
    fn new(spec: &'a S, calls: &'a [Call<S::Op>], order: &[usize], steps_max: u64) -> Self {
        let end = calls.len();
        let mut slots: Vec<usize> = (0..end).collect();
        slots.sort_by_key(|at| (calls[*at].invoked, calls[*at].returned.unwrap_or(u64::MAX)));
        let mut rank_of_call = vec![0; end];
        for (rank, at) in order.iter().enumerate() {
            rank_of_call[*at] = rank;
        }
        let rank = slots.iter().map(|at| rank_of_call[*at]).collect();
        let mut by_answer: Vec<usize> =
            (0..end).filter(|slot| calls[slots[*slot]].returned.is_some()).collect();
        by_answer.sort_by_key(|slot| calls[slots[*slot]].returned);
        Self {
            spec,
            calls,
            slots,
            rank,
            next: (1..=end).chain([0]).collect(),
            prev: [end].into_iter().chain(0..end).collect(),
            in_order: vec![false; end],
            by_answer,
            due: 0,
            through: 0,
            state: spec.initial(),
            steps: Vec::new(),
            longest: Vec::new(),
            dead: HashSet::new(),
            steps_left: steps_max,
        }
    }

    fn call(&self, slot: usize) -> &'a Call<S::Op> {
        &self.calls[self.slots[slot]]
    }

    fn run(mut self) -> Verdict {
        // The rank of the last alternative that was tried here and led nowhere.
        let mut tried = None;
        while self.due < self.by_answer.len() {
            match self.pick(tried) {
                None if self.steps_left == 0 => return Verdict::Undecided,
                Some((slot, state, forced)) => {
                    self.put(slot, state, forced);
                    tried = None;
                    // Nothing was ever found dead in most searches.
                    if self.dead.is_empty() || !self.dead.contains(&self.reached()) {
                        continue;
                    }
                }
                None => {
                    let reached = self.reached();
                    self.dead.insert(reached);
                    if self.steps.len() > self.longest.len() {
                        self.longest = self.order();
                    }
                }
            }
            // Back to the last step that has alternatives.
            loop {
                let Some(step) = self.steps.pop() else { return Verdict::Impossible(self.longest) };
                let (slot, forced) = (step.slot, step.forced);
                self.take_back(step);
                if !forced {
                    tried = Some(self.rank[slot]);
                    break;
                }
            }
        }
        Verdict::Linearizable(self.order())
    }

    /// The candidate of the lowest rank above `tried`, what the state is after it, and whether it needs no alternative.
    fn pick(&mut self, tried: Option<usize>) -> Option<(usize, S::State, bool)> {
        let end = self.calls.len();
        let before = self.call(self.by_answer[self.due]).returned.unwrap_or(u64::MAX);
        let mut best: Option<(usize, S::State)> = None;
        let mut slot = self.next[end];
        while slot != end && self.call(slot).invoked <= before {
            let rank = self.rank[slot];
            if tried.is_none_or(|tried| rank > tried) {
                self.steps_left = self.steps_left.checked_sub(1)?;
                if let Some(after) = self.spec.apply(&self.state, &self.call(slot).op) {
                    if after == self.state && self.spec.only_reads(&self.call(slot).op) {
                        return Some((slot, after, true));
                    }
                    if best.as_ref().is_none_or(|(best, _)| rank < self.rank[*best]) {
                        best = Some((slot, after));
                    }
                }
            }
            slot = self.next[slot];
        }
        best.map(|(slot, after)| (slot, after, false))
    }

    fn put(&mut self, slot: usize, state: S::State, forced: bool) {
        let before = std::mem::replace(&mut self.state, state);
        self.steps.push(Step { slot, before, due: self.due, through: self.through, forced });
        self.in_order[slot] = true;
        let (prev, next) = (self.prev[slot], self.next[slot]);
        (self.next[prev], self.prev[next]) = (next, prev);
        self.through = self.through.max(slot + 1);
        while self.by_answer.get(self.due).is_some_and(|slot| self.in_order[*slot]) {
            self.due += 1;
        }
    }

    /// Undoes the last step: links are restored in the reverse order in which they were cut.
    fn take_back(&mut self, step: Step<S::State>) {
        let slot = step.slot;
        self.in_order[slot] = false;
        let (prev, next) = (self.prev[slot], self.next[slot]);
        (self.next[prev], self.prev[next]) = (slot, slot);
        (self.state, self.due, self.through) = (step.before, step.due, step.through);
    }

    fn reached(&self) -> Reached<S::State> {
        let mut without = Vec::new();
        let mut slot = self.next[self.calls.len()];
        while slot < self.through {
            without.push(u32::try_from(slot).expect("fewer than 2^32 calls"));
            slot = self.next[slot];
        }
        Reached { through: self.through, without: without.into(), state: self.state.clone() }
    }

    fn order(&self) -> Vec<usize> {
        self.steps.iter().map(|step| self.slots[step.slot]).collect()
    }
}
