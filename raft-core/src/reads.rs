//! Linearizable reads without a log entry: ReadIndex (thesis §6.4).
//!
//! A read waits (1) for a round of which no message was built before the read arrived to be confirmed by a
//! majority, so this node still led when it arrived; (2) for the state machine to hold everything that was
//! committed when it arrived, and the first entry of this term, before which a leader does not know what is
//! committed (TRAP 54). Reads of one round share it, each with its own index (TRAP 56).

use alloc::collections::VecDeque;

use crate::action::{Action, MachineTask, ReadOutcome, Response};
use crate::ids::{LogIndex, NodeId, Ticket, Tickets};

#[derive(Clone, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(crate) struct Reads {
    /// In order of arrival: rounds and indexes never fall.
    waiting: VecDeque<Waiting>,
    /// How many of `waiting` have their round confirmed.
    confirmed: usize,
    count: u64,
    /// Tickets fall somewhere in `waiting`: callers choose them, but most count upwards.
    unordered: bool,
}

#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
struct Waiting {
    tickets: Tickets,
    round: u64,
    index: LogIndex,
}

impl Reads {
    pub(crate) fn len(&self) -> u64 {
        self.count
    }

    /// The last round that a read waits for, if any is not confirmed.
    pub(crate) fn awaited_round(&self) -> Option<u64> {
        (self.confirmed < self.waiting.len()).then(|| self.waiting.back().map_or(0, |last| last.round))
    }

    pub(crate) fn push(&mut self, tickets: Tickets, round: u64, index: LogIndex) {
        self.count += u64::from(tickets.count);
        if self.confirmed < self.waiting.len()
            && let Some(last) = self.waiting.back_mut()
            && (last.round, last.index) == (round, index)
            && last.tickets.range().end == tickets.first.get()
            && let Some(count) = last.tickets.count.checked_add(tickets.count)
        {
            last.tickets.count = count;
            return;
        }
        self.unordered &= !self.waiting.is_empty();
        self.unordered |=
            self.waiting.back().is_some_and(|last| tickets.first.get() < last.tickets.range().end);
        self.waiting.push_back(Waiting { tickets, round, index });
    }

    /// A majority has confirmed every round through `round`.
    pub(crate) fn confirm(&mut self, round: u64) {
        while self.waiting.get(self.confirmed).is_some_and(|read| read.round <= round) {
            self.confirmed += 1;
        }
    }

    /// The next reads to serve, once entries through `applied` have been handed to the state machine.
    pub(crate) fn serve(&mut self, applied: LogIndex) -> Option<Action> {
        let ready = self.confirmed > 0 && self.waiting.front().is_some_and(|read| read.index <= applied);
        let read = if ready { self.waiting.pop_front()? } else { return None };
        self.confirmed -= 1;
        self.count -= u64::from(read.tickets.count);
        Some(Action::Machine(MachineTask::Serve(read.tickets)))
    }

    /// The caller no longer waits for these.
    pub(crate) fn forget(&mut self, tickets: Tickets, out: &mut VecDeque<Action>) {
        let gone = tickets.range();
        // Many callers may give up at once: each is looked up, not searched for.
        let candidates = if self.unordered {
            0..self.waiting.len()
        } else {
            self.waiting.partition_point(|read| read.tickets.range().end <= gone.start)
                ..self.waiting.partition_point(|read| read.tickets.range().start < gone.end)
        };
        for at in candidates.rev() {
            let read = self.waiting[at];
            let range = read.tickets.range();
            let (start, end) = (range.start.max(gone.start), range.end.min(gone.end));
            if start >= end {
                continue;
            }
            let part = |from: u64, to: u64| {
                let count = u32::try_from(to - from).expect("a part is no longer than the whole");
                Tickets::new(Ticket::new(from), count)
            };
            let forgotten = part(start, end);
            self.count -= u64::from(forgotten.count);
            out.push_back(refuse(forgotten, ReadOutcome::Unknown));
            // What remains of the range stays where it was, in up to two parts.
            let was_confirmed = at < self.confirmed;
            self.waiting.remove(at);
            self.confirmed -= usize::from(was_confirmed);
            for (from, to) in [(end, range.end), (range.start, start)] {
                if from < to {
                    self.waiting.insert(at, Waiting { tickets: part(from, to), ..read });
                    self.confirmed += usize::from(was_confirmed);
                }
            }
        }
    }

    /// This node no longer leads: nothing more can be proved here.
    pub(crate) fn give_up(&mut self, leader: Option<NodeId>, out: &mut VecDeque<Action>) {
        for read in self.waiting.drain(..) {
            out.push_back(refuse(read.tickets, ReadOutcome::NotLeader { leader }));
        }
        self.confirmed = 0;
        self.count = 0;
    }
}

pub(crate) fn refuse(tickets: Tickets, outcome: ReadOutcome) -> Action {
    Action::Respond(Response::Read { tickets, outcome })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tickets(first: u64, count: u32) -> Tickets {
        Tickets::new(Ticket::new(first), count)
    }

    fn serve(reads: &mut Reads, applied: u64) -> Option<Tickets> {
        match reads.serve(LogIndex::new(applied)) {
            Some(Action::Machine(MachineTask::Serve(tickets))) => Some(tickets),
            _ => None,
        }
    }

    #[test]
    fn a_read_waits_for_its_round_and_for_its_index() {
        let mut reads = Reads::default();
        reads.push(tickets(1, 1), 4, LogIndex::new(7));
        reads.push(tickets(2, 1), 4, LogIndex::new(7));
        reads.push(tickets(3, 1), 4, LogIndex::new(8));
        reads.push(tickets(4, 1), 5, LogIndex::new(8));
        assert_eq!(serve(&mut reads, 9), None, "no round confirmed");
        reads.confirm(4);
        assert_eq!(serve(&mut reads, 6), None, "not applied");
        assert_eq!(
            serve(&mut reads, 7),
            Some(tickets(1, 2)),
            "reads of one round and index are served together"
        );
        assert_eq!(serve(&mut reads, 7), None, "each has its own index");
        assert_eq!(serve(&mut reads, 8), Some(tickets(3, 1)));
        assert_eq!(serve(&mut reads, 9), None);
        assert_eq!(reads.awaited_round(), Some(5));
    }

    #[test]
    fn forgetting_cuts_ranges_and_keeps_the_rest_in_place() {
        let mut reads = Reads::default();
        reads.push(tickets(1, 5), 1, LogIndex::new(1));
        reads.confirm(1);
        reads.push(tickets(6, 1), 2, LogIndex::new(1));
        let mut out = VecDeque::new();
        reads.forget(tickets(2, 2), &mut out);
        assert_eq!(out, [refuse(tickets(2, 2), ReadOutcome::Unknown)]);
        assert_eq!(reads.len(), 4);
        assert_eq!(serve(&mut reads, 1), Some(tickets(1, 1)));
        assert_eq!(serve(&mut reads, 1), Some(tickets(4, 2)));
        assert_eq!(serve(&mut reads, 1), None);
    }
}
