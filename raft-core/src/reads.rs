//! Linearizable reads without a log entry: ReadIndex (thesis §6.4), as the leader sees them.
//!
//! A read waits (1) for a round of which no message was built before the read arrived to be confirmed by a
//! majority, so this node still led when it arrived; (2) for the state machine to hold everything that was
//! committed when it arrived, and the first entry of this term, before which a leader does not know what is
//! committed (TRAP 54). Reads of one round share it, each with its own index (TRAP 56).
//!
//! Members that do not lead ask for the index (2) and serve the read themselves: see [`questions`](crate::questions).

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use crate::action::{Action, MachineTask, ReadOutcome, Response};
use crate::ids::{LogIndex, NodeId, Tickets};
use crate::message::QuestionId;

#[derive(Clone, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(crate) struct Reads {
    /// In order of arrival: rounds and indexes never fall.
    waiting: Queue,
    /// Those whose leader is proved: they wait for the state machine.
    proved: Queue,
    /// Questions of other members, one of each: their latest.
    asked: Vec<Asked>,
}

/// A question of another member.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
struct Asked {
    by: NodeId,
    id: QuestionId,
    round: u64,
    index: LogIndex,
}

/// Reads in the order in which they came.
#[derive(Clone, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(crate) struct Queue {
    reads: VecDeque<Waiting>,
    count: u64,
    /// Tickets fall somewhere in `reads`: callers choose them, but most count upwards.
    unordered: bool,
}

#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
struct Waiting {
    tickets: Tickets,
    round: u64,
    index: LogIndex,
}

impl Queue {
    pub(crate) fn is_empty(&self) -> bool {
        self.reads.is_empty()
    }

    /// How many tickets wait.
    pub(crate) fn len(&self) -> u64 {
        self.count
    }

    /// These wait, and it is not known yet for what.
    pub(crate) fn push_tickets(&mut self, tickets: Tickets) {
        self.push(Waiting { tickets, round: 0, index: LogIndex::ZERO });
    }

    /// All of them, in their order.
    pub(crate) fn into_tickets(self) -> impl Iterator<Item = Tickets> {
        self.reads.into_iter().map(|read| read.tickets)
    }

    fn push(&mut self, read: Waiting) {
        let tickets = read.tickets;
        self.count += u64::from(tickets.count);
        if let Some(last) = self.reads.back_mut()
            && (last.round, last.index) == (read.round, read.index)
            && last.tickets.range().end == tickets.first.get()
            && let Some(count) = last.tickets.count.checked_add(tickets.count)
        {
            last.tickets.count = count;
            return;
        }
        self.unordered &= !self.reads.is_empty();
        self.unordered |=
            self.reads.back().is_some_and(|last| tickets.first.get() < last.tickets.range().end);
        self.reads.push_back(read);
    }

    fn pop_if(&mut self, ready: impl FnOnce(&Waiting) -> bool) -> Option<Waiting> {
        let read = self.reads.pop_front_if(|read| ready(read))?;
        self.count -= u64::from(read.tickets.count);
        Some(read)
    }

    pub(crate) fn forget(&mut self, tickets: Tickets, out: &mut VecDeque<Action>) {
        let range = tickets.range();
        // Many callers may give up at once: each is looked up, not searched for.
        let candidates = if self.unordered {
            0..self.reads.len()
        } else {
            self.reads.partition_point(|read| read.tickets.range().end <= range.start)
                ..self.reads.partition_point(|read| read.tickets.range().start < range.end)
        };
        for at in candidates.rev() {
            let read = self.reads[at];
            let (before, gone, after) = read.tickets.cut(tickets);
            let Some(gone) = gone else { continue };
            self.count -= u64::from(gone.count);
            out.push_back(refuse(gone, ReadOutcome::Unknown));
            // What remains of the range stays where it was.
            self.reads.remove(at);
            for tickets in [after, before].into_iter().flatten() {
                self.reads.insert(at, Waiting { tickets, ..read });
            }
        }
    }
}

impl Reads {
    pub(crate) fn len(&self) -> u64 {
        self.waiting.len() + self.proved.len()
    }

    /// Whether somebody waits for a round.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty() || !self.asked.is_empty()
    }

    /// Whether somebody waits for nothing but the state machine.
    pub(crate) fn is_proved(&self) -> bool {
        !self.proved.is_empty()
    }

    pub(crate) fn push(&mut self, tickets: Tickets, round: u64, index: LogIndex) {
        self.waiting.push(Waiting { tickets, round, index });
    }

    /// A read that needs no round: the lease proves that this node leads (thesis §6.4.1).
    pub(crate) fn push_proved(&mut self, tickets: Tickets, index: LogIndex) {
        self.proved.push(Waiting { tickets, round: 0, index });
    }

    /// Another member asks. Returns whether the question is new.
    pub(crate) fn ask(&mut self, by: NodeId, id: QuestionId, round: u64, index: LogIndex) -> bool {
        let asked = Asked { by, id, round, index };
        match self.asked.iter_mut().find(|asked| asked.by == by) {
            Some(before) if before.id == id => false,
            Some(before) => {
                *before = asked;
                true
            }
            None => {
                self.asked.push(asked);
                true
            }
        }
    }

    /// A majority has confirmed every round through `round`.
    pub(crate) fn confirm(&mut self, round: u64) {
        while let Some(read) = self.waiting.pop_if(|read| read.round <= round) {
            self.proved.push(Waiting { round: 0, ..read });
        }
    }

    /// The next reads to serve, once entries through `applied` have been handed to the state machine.
    pub(crate) fn serve(&mut self, applied: LogIndex) -> Option<Action> {
        let read = self.proved.pop_if(|read| read.index <= applied)?;
        Some(Action::Machine(MachineTask::Serve(read.tickets)))
    }

    /// The next question to answer: a majority confirmed its round, and its index is committed, the first entry of the
    /// term included.
    pub(crate) fn answer(
        &mut self,
        confirmed: u64,
        commit: LogIndex,
    ) -> Option<(NodeId, QuestionId, LogIndex)> {
        let ready = |asked: &Asked| asked.round <= confirmed && asked.index <= commit;
        let at = self.asked.iter().position(ready)?;
        let asked = self.asked.remove(at);
        Some((asked.by, asked.id, asked.index))
    }

    /// Whether a question waits.
    pub(crate) fn is_asked(&self) -> bool {
        !self.asked.is_empty()
    }

    /// The caller no longer waits for these.
    pub(crate) fn forget(&mut self, tickets: Tickets, out: &mut VecDeque<Action>) {
        self.waiting.forget(tickets, out);
        self.proved.forget(tickets, out);
    }

    /// This node no longer leads: nothing more can be proved here.
    pub(crate) fn give_up(&mut self, leader: Option<NodeId>, out: &mut VecDeque<Action>) {
        for read in self.proved.reads.drain(..).chain(self.waiting.reads.drain(..)) {
            out.push_back(refuse(read.tickets, ReadOutcome::NotLeader { leader }));
        }
        *self = Self::default();
    }
}

pub(crate) fn refuse(tickets: Tickets, outcome: ReadOutcome) -> Action {
    Action::Respond(Response::Read { tickets, outcome })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Ticket;

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
        assert!(reads.is_waiting(), "the last one waits for its round");
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
