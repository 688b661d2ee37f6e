//! Reads at members that do not lead: they ask the leader which index to wait for, and serve from their own state
//! machine (thesis §6.4).
//!
//! * One question is on its way at a time. It stands for every read that came before it was first sent; later reads
//!   wait for the next one, because its answer may be older than they are.
//! * A question is repeated until it is answered or its leader is gone. Its id contains the incarnation, so that an
//!   answer to an earlier life of this node answers nothing (TRAP 55).
//! * Once a read has its index, it waits for nothing but the state machine, whoever leads; but not for ever, if nobody
//!   does.

use alloc::collections::VecDeque;

use crate::action::{Action, ReadOutcome};
use crate::ids::{LogIndex, NodeId, Tickets};
use crate::message::QuestionId;
use crate::reads::{self, Queue, Reads};
use crate::time::Instant;

#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(crate) struct Questions {
    incarnation: u64,
    next_seq: u64,
    asking: Option<Asking>,
    /// For the next question.
    queued: Queue,
    /// Those that have their index.
    answered: Reads,
    /// When to ask again, and to look whether there is still a leader, as long as somebody waits.
    again: Instant,
}

#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
struct Asking {
    id: QuestionId,
    leader: NodeId,
    reads: Queue,
    due: bool,
}

impl Questions {
    pub(crate) fn new(incarnation: u64) -> Self {
        let (queued, answered) = (Queue::default(), Reads::default());
        Self { incarnation, next_seq: 1, asking: None, queued, answered, again: Instant::ZERO }
    }

    /// Reads that wait, in any way.
    pub(crate) fn len(&self) -> u64 {
        self.asking.as_ref().map_or(0, |asking| asking.reads.len()) + self.queued.len() + self.answered.len()
    }

    /// These wait from now on; `again` is when to look after them.
    pub(crate) fn push(&mut self, tickets: Tickets, again: Instant) {
        if self.len() == 0 {
            self.again = again;
        }
        self.queued.push_tickets(tickets);
    }

    /// The next question to send to the leader, if there is one to send.
    pub(crate) fn next(&mut self, leader: NodeId) -> Option<(NodeId, QuestionId)> {
        if self.asking.is_none() && !self.queued.is_empty() {
            let id = QuestionId { incarnation: self.incarnation, seq: self.next_seq };
            self.next_seq += 1;
            let reads = core::mem::take(&mut self.queued);
            self.asking = Some(Asking { id, leader, reads, due: true });
        }
        let asking = self.asking.as_mut().filter(|asking| asking.due)?;
        asking.due = false;
        Some((asking.leader, asking.id))
    }

    /// When to call [`wake`](Self::wake).
    pub(crate) fn deadline(&self) -> Option<Instant> {
        (self.len() > 0).then_some(self.again)
    }

    /// Asks again if it is time, and the next time at `again`. Returns whether it is.
    pub(crate) fn wake(&mut self, now: Instant, again: Instant) -> bool {
        let due = self.len() > 0 && self.again <= now;
        if due {
            self.again = again;
            self.asking.iter_mut().for_each(|asking| asking.due = true);
        }
        due
    }

    /// The leader answered. Returns whether that was the question.
    pub(crate) fn answer(
        &mut self,
        from: NodeId,
        id: QuestionId,
        index: Option<LogIndex>,
        out: &mut VecDeque<Action>,
    ) -> bool {
        let Some(asking) = self.asking.take_if(|asking| asking.id == id && asking.leader == from) else {
            return false;
        };
        for tickets in asking.reads.into_tickets() {
            match index {
                Some(index) => self.answered.push_proved(tickets, index),
                None => out.push_back(reads::refuse(tickets, ReadOutcome::NotLeader { leader: None })),
            }
        }
        true
    }

    /// The next reads to serve, once entries through `applied` have been handed to the state machine.
    pub(crate) fn serve(&mut self, applied: LogIndex) -> Option<Action> {
        self.answered.serve(applied)
    }

    /// The leader that was asked is gone: what has no index gets none.
    pub(crate) fn give_up(&mut self, leader: Option<NodeId>, out: &mut VecDeque<Action>) {
        let asking = self.asking.take().map(|asking| asking.reads).unwrap_or_default();
        let queued = core::mem::take(&mut self.queued);
        for tickets in asking.into_tickets().chain(queued.into_tickets()) {
            out.push_back(reads::refuse(tickets, ReadOutcome::NotLeader { leader }));
        }
    }

    /// Nobody leads any more: what they wait for may never come.
    pub(crate) fn give_up_all(&mut self, out: &mut VecDeque<Action>) {
        self.give_up(None, out);
        self.answered.give_up(None, out);
    }

    /// The caller no longer waits for these.
    pub(crate) fn forget(&mut self, tickets: Tickets, out: &mut VecDeque<Action>) {
        self.answered.forget(tickets, out);
        self.queued.forget(tickets, out);
        if let Some(asking) = &mut self.asking {
            asking.reads.forget(tickets, out);
        }
    }
}
