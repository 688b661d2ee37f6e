//! Proposals that wait for their one outcome.
//!
//! A pending entry (T, i) is *committed* once the commit index passes i and the entry there is of term T. It is
//! *superseded* once another entry is committed at i, or an entry of a term above T is committed before it: then
//! no log that could still be elected holds (T, i). Truncation alone proves nothing, since a truncated entry can
//! return; so proposals outlive the leadership that took them in (§5.4, §8).

use alloc::collections::VecDeque;

use crate::action::{Action, Response, WriteOutcome};
use crate::ids::{LogId, LogIndex, Ticket, Tickets};
use crate::terms::TermIndex;

/// By term, and within a term by index, since a node leads terms one after the other.
#[derive(Clone, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(crate) struct Proposals {
    pending: VecDeque<Pending>,
    count: u64,
    /// Tickets fall somewhere in `pending`: callers choose them, but most count upwards.
    unordered: bool,
}

/// Consecutive tickets for consecutive entries of one term.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
struct Pending {
    tickets: Tickets,
    first: LogId,
}

impl Pending {
    fn last_index(&self) -> LogIndex {
        self.first.index.plus(u64::from(self.tickets.count) - 1)
    }

    /// Splits off the first `count`.
    fn split(&mut self, count: u32) -> Self {
        let head = Self { tickets: Tickets::new(self.tickets.first, count), ..*self };
        self.tickets.first = Ticket::new(self.tickets.first.get().wrapping_add(u64::from(count)));
        self.tickets.count -= count;
        self.first.index = self.first.index.plus(u64::from(count));
        head
    }
}

/// How many of `pending` are decided by a commit through `commit`, and how.
enum Decided {
    Committed(u32),
    Superseded(u32),
    /// The log no longer tells: a snapshot took the place of these entries, and it remembers later terms only.
    Unknown(u32),
    Nothing,
}

/// Whether all of `pending` is committed with an entry of the same leader: a leader's log only grows in its term, so
/// whoever holds its later entry holds its earlier ones (§5.3).
fn is_held(pending: &Pending, commit: LogId) -> bool {
    pending.first.term == commit.term && pending.last_index() <= commit.index
}

fn decide(pending: &Pending, commit: LogId, terms: &TermIndex) -> Decided {
    let LogId { term, index: first } = pending.first;
    let count = |through: LogIndex| {
        u32::try_from(through.since(first) + 1).expect("at most as many as there are tickets")
    };
    let through = pending.last_index().min(commit.index);
    if first <= commit.index {
        if terms.remembered(first).is_none() {
            return Decided::Unknown(count(through));
        }
        // What a log holds of a leader's entries is a beginning of them (Log Matching, §5.3).
        match terms.first_difference(term, first, through) {
            None => return Decided::Committed(count(through)),
            Some(other) if other > first => return Decided::Committed(count(other.prev())),
            Some(_) => return Decided::Superseded(pending.tickets.count),
        }
    }
    if commit.term > term { Decided::Superseded(pending.tickets.count) } else { Decided::Nothing }
}

impl Proposals {
    pub(crate) fn len(&self) -> u64 {
        self.count
    }

    /// These tickets wait for the entries from `first` on.
    pub(crate) fn push(&mut self, tickets: Tickets, first: LogId) {
        self.count += u64::from(tickets.count);
        if let Some(last) = self.pending.back_mut() {
            let adjacent = last.first.term == first.term
                && last.last_index().next() == first.index
                && last.tickets.range().end == tickets.first.get();
            if let (true, Some(count)) = (adjacent, last.tickets.count.checked_add(tickets.count)) {
                last.tickets.count = count;
                return;
            }
            self.unordered |= tickets.first.get() < last.tickets.range().end;
        } else {
            self.unordered = false;
        }
        self.pending.push_back(Pending { tickets, first });
    }

    /// Everything through `commit` is committed: says what that decides. `applied_here`: whether the entries will be
    /// handed to the state machine, rather than a snapshot that holds their effect.
    pub(crate) fn committed(
        &mut self,
        commit: LogId,
        terms: &TermIndex,
        applied_here: bool,
        out: &mut VecDeque<Action>,
    ) {
        // Most often whole ranges are committed by the leader that took them in.
        while let Some(pending) = self.pending.pop_front_if(|pending| is_held(pending, commit)) {
            let Pending { tickets, first } = pending;
            self.count -= u64::from(tickets.count);
            out.push_back(respond(tickets, WriteOutcome::Committed { first, applied_here }));
        }
        // What comes later in one term is decided later, so one undecided range ends the search; after several
        // leaderships with open ends every range is looked at.
        let one_term = match (self.pending.front(), self.pending.back()) {
            (Some(front), Some(back)) => front.first.term == back.first.term,
            _ => return,
        };
        let mut at = 0;
        while let Some(pending) = self.pending.get_mut(at) {
            let (decided, outcome) = match decide(pending, commit, terms) {
                Decided::Committed(count) => {
                    let first = pending.first;
                    (pending.split(count).tickets, WriteOutcome::Committed { first, applied_here })
                }
                Decided::Superseded(count) => (pending.split(count).tickets, WriteOutcome::Superseded),
                Decided::Unknown(count) => (pending.split(count).tickets, WriteOutcome::Unknown),
                Decided::Nothing if one_term => break,
                Decided::Nothing => {
                    at += 1;
                    continue;
                }
            };
            if pending.tickets.count == 0 {
                self.pending.remove(at);
            }
            self.count -= u64::from(decided.count);
            out.push_back(respond(decided, outcome));
        }
    }

    /// The caller no longer waits for these: their outcome is unknown, now.
    pub(crate) fn forget(&mut self, tickets: Tickets, out: &mut VecDeque<Action>) {
        let (start, end) = (tickets.range().start, tickets.range().end);
        let overlaps = |pending: &Pending| {
            let range = pending.tickets.range();
            range.start < end && start < range.end
        };
        // Many callers may give up at once: each is looked up, not searched for.
        let mut at = if self.unordered {
            0
        } else {
            self.pending.partition_point(|pending| pending.tickets.range().end <= start)
        };
        while let Some(pending) = self.pending.get_mut(at) {
            if !overlaps(pending) {
                if !self.unordered {
                    break;
                }
                at += 1;
                continue;
            }
            let range = pending.tickets.range();
            let length = |from: u64, to: u64| {
                u32::try_from(to - from).expect("a part of a range is no longer than the range")
            };
            if range.start < start {
                let kept = pending.split(length(range.start, start));
                self.pending.insert(at, kept);
                at += 1;
                continue;
            }
            let forgotten = pending.split(length(range.start, range.end.min(end))).tickets;
            if pending.tickets.count == 0 {
                self.pending.remove(at);
            }
            self.count -= u64::from(forgotten.count);
            out.push_back(respond(forgotten, WriteOutcome::Unknown));
        }
    }
}

pub(crate) fn respond(tickets: Tickets, outcome: WriteOutcome) -> Action {
    Action::Respond(Response::Write { tickets, outcome })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Term;
    use alloc::vec::Vec;

    fn id(term: u64, index: u64) -> LogId {
        LogId::new(Term::new(term), LogIndex::new(index))
    }

    fn tickets(first: u64, count: u32) -> Tickets {
        Tickets::new(Ticket::new(first), count)
    }

    fn log(runs: &[(u64, u64)]) -> TermIndex {
        let mut terms = TermIndex::new(LogId::ZERO, Vec::new(), LogId::ZERO).expect("an empty log");
        runs.iter().for_each(|(term, last)| terms.append(Term::new(*term), LogIndex::new(*last)));
        terms
    }

    fn outcomes(
        proposals: &mut Proposals,
        act: impl FnOnce(&mut Proposals, &mut VecDeque<Action>),
    ) -> Vec<(u64, u32, char)> {
        let mut out = VecDeque::new();
        act(proposals, &mut out);
        let short = |action| match action {
            Action::Respond(Response::Write { tickets, outcome }) => {
                let outcome = match outcome {
                    WriteOutcome::Committed { .. } => 'c',
                    WriteOutcome::Superseded => 's',
                    WriteOutcome::Unknown => '?',
                    _ => '!',
                };
                (tickets.first.get(), tickets.count, outcome)
            }
            _ => (0, 0, '!'),
        };
        out.into_iter().map(short).collect()
    }

    #[test]
    fn a_range_is_committed_in_parts() {
        let mut proposals = Proposals::default();
        proposals.push(tickets(10, 3), id(2, 5));
        proposals.push(tickets(13, 1), id(2, 8));
        let terms = log(&[(1, 4), (2, 8)]);
        let got = outcomes(&mut proposals, |p, out| p.committed(id(2, 6), &terms, true, out));
        assert_eq!(got, [(10, 2, 'c')]);
        let got = outcomes(&mut proposals, |p, out| p.committed(id(2, 8), &terms, true, out));
        assert_eq!(got, [(12, 2, 'c')]);
        assert_eq!(proposals.len(), 0);
    }

    #[test]
    fn a_higher_term_committed_before_it_supersedes() {
        let mut proposals = Proposals::default();
        proposals.push(tickets(1, 3), id(2, 5));
        // A leader of term 3 kept entry 5 and put its own at 6.
        let got = outcomes(&mut proposals, |p, out| {
            p.committed(id(3, 6), &log(&[(1, 4), (2, 5), (3, 6)]), true, out)
        });
        assert_eq!(got, [(1, 1, 'c'), (2, 2, 's')]);
    }

    #[test]
    fn a_truncated_entry_that_returns_is_committed() {
        let mut proposals = Proposals::default();
        proposals.push(tickets(1, 1), id(2, 5));
        let got = outcomes(&mut proposals, |p, out| p.committed(id(1, 4), &log(&[(1, 4)]), true, out));
        assert_eq!(got, []);
        let got = outcomes(&mut proposals, |p, out| {
            p.committed(id(4, 6), &log(&[(1, 4), (2, 5), (4, 6)]), true, out)
        });
        assert_eq!(got, [(1, 1, 'c')]);
    }

    #[test]
    fn ranges_of_several_leaderships_are_decided_apart() {
        let mut proposals = Proposals::default();
        proposals.push(tickets(1, 1), id(2, 9));
        proposals.push(tickets(2, 1), id(4, 6));
        let got =
            outcomes(&mut proposals, |p, out| p.committed(id(2, 6), &log(&[(1, 5), (2, 6)]), true, out));
        assert_eq!(got, [(2, 1, 's')], "another entry stands at 6; 9 is open");
    }

    #[test]
    fn a_snapshot_decides_as_far_as_it_remembers() {
        let mut proposals = Proposals::default();
        for (ticket, term, index) in [(1, 2, 3), (2, 4, 6), (3, 5, 8), (4, 6, 11)] {
            proposals.push(tickets(ticket, 1), id(term, index));
        }
        let mut terms = log(&[]);
        let run =
            |term, first| crate::snapshot::TermRun { term: Term::new(term), first: LogIndex::new(first) };
        terms.reset(id(7, 10), &[run(4, 5), run(7, 8)]);
        let got = outcomes(&mut proposals, |p, out| p.committed(id(7, 10), &terms, false, out));
        assert_eq!(got, [(1, 1, '?'), (2, 1, 'c'), (3, 1, 's'), (4, 1, 's')]);
    }

    #[test]
    fn forgetting_finds_tickets_in_any_order() {
        let mut proposals = Proposals::default();
        proposals.push(tickets(50, 2), id(2, 5));
        proposals.push(tickets(10, 2), id(2, 7));
        proposals.push(tickets(30, 2), id(2, 9));
        for (first, rest) in [(31, 5), (50, 4), (10, 3)] {
            let got = outcomes(&mut proposals, |p, out| p.forget(tickets(first, 1), out));
            assert_eq!((got, proposals.len()), (alloc::vec![(first, 1, '?')], rest));
        }
        assert_eq!(outcomes(&mut proposals, |p, out| p.forget(tickets(12, 18), out)), []);
    }

    #[test]
    fn forgetting_cuts_ranges() {
        let mut proposals = Proposals::default();
        proposals.push(tickets(1, 5), id(2, 5));
        let got = outcomes(&mut proposals, |p, out| p.forget(tickets(2, 2), out));
        assert_eq!((got, proposals.len()), (alloc::vec![(2, 2, '?')], 3));
        let got =
            outcomes(&mut proposals, |p, out| p.committed(id(2, 9), &log(&[(1, 4), (2, 9)]), true, out));
        assert_eq!(got, [(1, 1, 'c'), (4, 2, 'c')]);
    }
}
