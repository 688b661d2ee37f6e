//! A question to the leader, for nobody: how far is the log committed?
//!
//! The leader says where a forwarded write is committed, and this node's machine answers the caller when it has applied the
//! entry, for which a message of the protocol must say so too. If no other writes follow, that is the next heartbeat; the
//! round of a read says it at once.
//!
//! * Asked only if an entry was told of that is not known to be committed here: one question for all of a turn.
//! * One is under way at a time: what is told of meanwhile waits for the next.
//! * One that is refused is not repeated: the next heartbeat says as much.

use raft_core::{LogIndex, Ticket, Tickets};

/// Whether to ask.
#[derive(Debug, Default)]
pub(super) struct Question {
    /// The last entry that the leader told of since the last question.
    told: Option<LogIndex>,
    under_way: Option<Ticket>,
}

impl Question {
    /// The leader says that this one is committed.
    pub(super) fn told(&mut self, index: LogIndex) {
        self.told = self.told.max(Some(index));
    }

    /// Asks the next question with `ask`, if there is one to ask, and returns whether. `commit` is what this node knows.
    pub(super) fn next(&mut self, commit: impl FnOnce() -> LogIndex, ask: impl FnOnce() -> Ticket) -> bool {
        let Some(told) = self.told.take_if(|_| self.under_way.is_none()) else { return false };
        self.under_way = (told > commit()).then(ask);
        self.under_way.is_some()
    }

    /// These reads have been answered or refused.
    pub(super) fn ended(&mut self, tickets: Tickets) {
        self.under_way.take_if(|ticket| tickets.range().contains(&ticket.get()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_asked_at_a_time_and_only_for_what_is_not_known() {
        let mut question = Question::default();
        let mut ask = |told: &[u64], ended: bool, commit: u64| {
            told.iter().for_each(|index| question.told(LogIndex::new(*index)));
            if ended {
                question.ended(Tickets::new(Ticket::new(5), 2));
                question.ended(Tickets::new(Ticket::new(7), 2));
            }
            question.next(|| LogIndex::new(commit), || Ticket::new(8))
        };
        assert!(!ask(&[], false, 4));
        assert!(!ask(&[3, 4], false, 4), "known");
        assert!(ask(&[5, 7, 6], false, 5), "the last one is not");
        assert!(!ask(&[8], false, 5), "one is under way");
        assert!(ask(&[], true, 7), "of what was told of meanwhile");
        assert!(!ask(&[9], false, 8));
        assert!(!ask(&[], true, 9), "a message has said it");
        assert!(ask(&[10], false, 9));
        assert!(!ask(&[], true, 9), "refused");
    }
}
