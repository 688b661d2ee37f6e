//! Who waits for which ticket: tickets are handed out in order, so a queue with holes is enough.

use alloc::collections::VecDeque;

use crate::ids::{Ticket, Tickets};

/// Callers waiting for the outcomes of their tickets.
///
/// * Tickets are consecutive: no hashing, no allocation per ticket once warm.
/// * A ticket is taken once: a second outcome for it would find nobody.
#[derive(Debug)]
pub struct Waiters<W> {
    /// The ticket of the front of `slots`.
    base: u64,
    slots: VecDeque<Option<W>>,
    waiting: usize,
}

impl<W> Default for Waiters<W> {
    fn default() -> Self {
        Self { base: 0, slots: VecDeque::new(), waiting: 0 }
    }
}

impl<W> Waiters<W> {
    /// The ticket that the next [`push`](Self::push) will get.
    #[must_use]
    pub fn next(&self) -> Ticket {
        Ticket::new(self.base + self.slots.len() as u64)
    }

    /// Gives `waiter` the next ticket.
    pub fn push(&mut self, waiter: W) -> Ticket {
        let ticket = self.next();
        self.slots.push_back(Some(waiter));
        self.waiting += 1;
        ticket
    }

    /// The next ticket, for which nobody waits.
    pub fn skip(&mut self) -> Ticket {
        let ticket = self.next();
        self.slots.push_back(None);
        ticket
    }

    /// The waiter of this ticket, if it still waits.
    pub fn take(&mut self, ticket: Ticket) -> Option<W> {
        let at = usize::try_from(ticket.get().checked_sub(self.base)?).ok()?;
        let waiter = match at {
            // The common case: outcomes come in order.
            0 => {
                self.base += u64::from(!self.slots.is_empty());
                self.slots.pop_front()?
            }
            _ => self.slots.get_mut(at)?.take(),
        };
        self.waiting -= usize::from(waiter.is_some());
        while let Some(None) = self.slots.front() {
            self.slots.pop_front();
            self.base += 1;
        }
        waiter
    }

    /// The waiters of these tickets, in order, each with its offset in the range.
    pub fn take_all(&mut self, tickets: Tickets) -> impl Iterator<Item = (u64, W)> + '_ {
        (0..)
            .zip(tickets.iter())
            .filter_map(|(offset, ticket)| self.take(ticket).map(|waiter| (offset, waiter)))
    }

    /// Everybody who still waits, in order; afterwards nobody does.
    pub fn drain(&mut self) -> impl Iterator<Item = W> + '_ {
        self.base += self.slots.len() as u64;
        self.waiting = 0;
        self.slots.drain(..).flatten()
    }

    /// Everybody who still waits, in order, with their tickets.
    pub fn iter(&self) -> impl Iterator<Item = (Ticket, &W)> {
        (self.base..)
            .zip(&self.slots)
            .filter_map(|(ticket, slot)| slot.as_ref().map(|waiter| (Ticket::new(ticket), waiter)))
    }

    /// How many wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.waiting
    }

    /// Whether nobody waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    #[test]
    fn each_ticket_is_answered_once_in_any_order() {
        let mut waiters = Waiters::default();
        let tickets: Vec<Ticket> = (0..4).map(|name| waiters.push(name)).collect();
        assert_eq!(waiters.take(tickets[2]), Some(2));
        assert_eq!(waiters.take(tickets[2]), None);
        assert_eq!(waiters.iter().map(|(_, name)| *name).collect::<Vec<_>>(), [0, 1, 3]);
        assert_eq!(waiters.take_all(Tickets::new(tickets[0], 3)).collect::<Vec<_>>(), [(0, 0), (1, 1)]);
        assert_eq!(waiters.push(4), Ticket::new(4));
        assert_eq!(waiters.len(), 2);
        assert_eq!(waiters.drain().collect::<Vec<_>>(), [3, 4]);
        assert_eq!(waiters.next(), Ticket::new(5));
        assert_eq!(waiters.take(tickets[3]), None);
        assert!(waiters.is_empty());
        for after in [7, 9] {
            assert_eq!((waiters.skip(), waiters.len()), (Ticket::new(after - 2), 0));
            assert_eq!((waiters.push(5), waiters.len()), (Ticket::new(after - 1), 1));
            assert_eq!(
                waiters.take_all(Tickets::new(Ticket::new(after - 2), 2)).collect::<Vec<_>>(),
                [(1, 5)]
            );
            assert_eq!(waiters.next(), Ticket::new(after));
        }
    }
}
