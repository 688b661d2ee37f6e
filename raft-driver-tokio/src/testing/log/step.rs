//! What a log store is asked, told so that any step can be left out and the rest still makes sense.

use raft_core::{Entries, HardState, LogId, LogIndex, NodeId, Term, Write};

use super::model::Log;
use crate::testing::entries::{commands, id, voters, write_id};

#[derive(Clone, Debug)]
pub(super) enum Step {
    /// Writes in one batch, and what comes after it.
    Write { parts: Vec<Part>, then: Then },
    /// Drop entries through so many before the last one.
    Compact { back: u64 },
    /// From so many before the last one on.
    Read { back: u64, count: u64, bytes_max: u64 },
    /// The store is dropped, and opened again.
    Reopen,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    GoOn,
    /// Go on with one of the things that a crash could have left.
    Crash(u64),
    /// An operation on the medium fails while the batch is written, after so many that work; then a crash.
    Fail(u64),
    /// Reads run beside the write.
    ReadBeside,
}

/// A write: where its entries begin, counted back from the end of the log, and what they are.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub(super) back: u64,
    pub(super) new_term: bool,
    pub(super) kind: Kind,
}

#[derive(Clone, Debug)]
pub(super) enum Kind {
    HardState,
    Noop,
    Commands {
        count: u64,
        bytes: usize,
        votes: bool,
    },
    Membership(u64),
    NoopAndCommands(u64),
    /// Everything is dropped; the log begins anew so far behind its end, or before it.
    Reset {
        ahead: i64,
        count: u64,
    },
}

/// A history of so many steps.
pub(super) fn history(random: &mut fastrand::Rng, steps: usize, bytes_max: usize) -> Vec<Step> {
    (0..steps).map(|_| step(random, bytes_max)).collect()
}

fn step(random: &mut fastrand::Rng, bytes_max: usize) -> Step {
    match random.u32(..20) {
        0..=11 => {
            let parts = (0..random.usize(1..4)).map(|_| part(random, bytes_max)).collect();
            let then = match random.u32(..12) {
                0..=1 => Then::Crash(random.u64(..)),
                2 => Then::Fail(random.u64(..8)),
                3 => Then::ReadBeside,
                _ => Then::GoOn,
            };
            Step::Write { parts, then }
        }
        12..=14 => Step::Compact { back: random.u64(..60) },
        15..=17 => {
            let bytes_max = [0, 100, 5_000, 50_000, u64::MAX][random.usize(..5)];
            Step::Read { back: random.u64(..80), count: random.u64(..60), bytes_max }
        }
        _ => Step::Reopen,
    }
}

fn part(random: &mut fastrand::Rng, bytes_max: usize) -> Part {
    let back = match random.u32(..9) {
        0..=5 => 0,
        6..=7 => random.u64(..10),
        _ => random.u64(..100),
    };
    let kind = match random.u32(..16) {
        0..=2 => Kind::HardState,
        3 => Kind::Noop,
        4..=5 => Kind::Membership(random.u64(1..6)),
        6..=7 => Kind::NoopAndCommands(random.u64(1..20)),
        8 => Kind::Reset { ahead: random.i64(-40..40), count: random.u64(..12) },
        _ => {
            Kind::Commands { count: random.u64(1..40), bytes: bytes(random, bytes_max), votes: random.bool() }
        }
    };
    Part { back, new_term: random.u32(..4) == 0, kind }
}

/// Mostly small, now and then as large as it gets.
fn bytes(random: &mut fastrand::Rng, bytes_max: usize) -> usize {
    match random.u32(..10) {
        0 => random.usize(..=bytes_max),
        1..=2 => random.usize(..=bytes_max.min(3_000)),
        _ => random.usize(..=bytes_max.min(120)),
    }
}

/// Simpler steps that may do in place of this one.
pub(super) fn simpler(step: &Step) -> Vec<Step> {
    let mut simpler = Vec::new();
    if let Step::Write { parts, then } = step {
        if *then != Then::GoOn {
            simpler.push(Step::Write { parts: parts.clone(), then: Then::GoOn });
        }
        for at in 0..parts.len() {
            if parts.len() > 1 {
                let mut parts = parts.clone();
                parts.remove(at);
                simpler.push(Step::Write { parts, then: *then });
            }
            for part in simpler_parts(&parts[at]) {
                let mut parts = parts.clone();
                parts[at] = part;
                simpler.push(Step::Write { parts, then: *then });
            }
        }
    }
    simpler
}

fn simpler_parts(part: &Part) -> Vec<Part> {
    let mut kinds = Vec::new();
    match part.kind {
        Kind::HardState | Kind::Noop | Kind::Membership(_) => {}
        Kind::NoopAndCommands(count) => {
            kinds.push(Kind::Noop);
            kinds.extend((count > 1).then_some(Kind::NoopAndCommands(count / 2)));
        }
        Kind::Reset { ahead, count } => {
            kinds.extend((count > 0).then_some(Kind::Reset { ahead, count: 0 }));
        }
        Kind::Commands { count, bytes, votes } => {
            kinds.extend((count > 1).then_some(Kind::Commands { count: count / 2, bytes, votes }));
            let fewer = Kind::Commands { count: count.saturating_sub(1), bytes, votes };
            kinds.extend((count > 1).then_some(fewer));
            kinds.extend((bytes > 20).then_some(Kind::Commands { count, bytes: 20, votes }));
            kinds.extend(votes.then_some(Kind::Commands { count, bytes, votes: false }));
        }
    }
    let mut simpler: Vec<Part> = kinds.into_iter().map(|kind| Part { kind, ..part.clone() }).collect();
    if part.new_term && part.back == 0 {
        simpler.push(Part { new_term: false, ..part.clone() });
    }
    if part.back > 0 {
        simpler.push(Part { back: 0, ..part.clone() });
        simpler.push(Part { back: part.back / 2, ..part.clone() });
    }
    simpler
}

/// A write that a node could hand out in this state: terms never fall, entries of one index and term are always the same,
/// nothing is overwritten that was to be dropped. `lost`: entries up to this term may have been lost.
pub(super) fn build(log: &Log, part: &Part, lost: Option<Term>, number: u64) -> Write {
    let lowest = log.goal.max(log.base.index).get() + 1;
    let end = log.last().index.get() + 1;
    let first = end.saturating_sub(part.back).max(lowest).min(end);
    let goes_back = matches!(part.kind, Kind::Reset { ahead, .. } if ahead <= 0);
    let new_term = part.new_term || lost.is_some() || first < end || goes_back;
    let known = log.hard_state.term.max(log.last().term).max(lost.unwrap_or(Term::BOOTSTRAP));
    let term = known.get() + u64::from(new_term);
    let first = id(term, first);
    let is_raised = term > log.hard_state.term.get();
    let vote = part.new_term.then(|| NodeId::new(1 + number % 3));
    let hard_state = Some(HardState { term: Term::new(term), voted_for: vote }).filter(|_| is_raised);
    let can_vote = log.hard_state.voted_for.is_none() && log.hard_state.term > Term::ZERO;
    let write = |hard_state, reset_to, entries| Write { id: write_id(number), hard_state, reset_to, entries };
    match part.kind {
        Kind::HardState => {
            // Another vote takes another term.
            let term = Term::new(term + u64::from(!is_raised && !can_vote));
            let voted_for = Some(NodeId::new(1 + number % 3));
            write(Some(HardState { term, voted_for }), None, Entries::empty())
        }
        Kind::Noop => write(hard_state, None, Entries::noop(first)),
        Kind::Membership(count) => write(hard_state, None, Entries::membership(first, voters(count))),
        Kind::Commands { count, bytes, votes } => {
            let in_this_term = HardState { voted_for: Some(NodeId::new(2)), ..log.hard_state };
            let hard_state = hard_state.or(Some(in_this_term).filter(|_| votes && can_vote));
            write(hard_state, None, commands(first, count, bytes))
        }
        Kind::NoopAndCommands(count) => {
            let more = commands(id(term, first.index.get() + 1), count, 30);
            let both = Entries::join([Entries::noop(first), more]);
            write(hard_state, None, both.expect("the commands follow the no-op"))
        }
        Kind::Reset { ahead, count } => {
            let index = log.last().index.get().saturating_add_signed(ahead).max(lowest);
            let base = LogId::new(Term::new(term), LogIndex::new(index));
            let entries = match count {
                0 => Entries::empty(),
                _ => commands(id(term, index + 1), count, 40),
            };
            write(hard_state, Some(base), entries)
        }
    }
}
