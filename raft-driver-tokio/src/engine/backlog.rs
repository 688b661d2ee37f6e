//! Writes that wait for room in the node: those of its own clients, and those that other nodes pass on.
//!
//! * They wait apart: whichever there are more of, a turn takes as many of the others, if there are so many.
//! * Room may be short: whose writes come first changes with each turn.

use std::collections::VecDeque;

/// Writes that wait.
pub(super) struct Backlog<W> {
    /// Of this node's clients.
    pub(super) own: VecDeque<W>,
    /// Of other nodes'.
    pub(super) served: VecDeque<W>,
    served_first: bool,
}

impl<W> Default for Backlog<W> {
    fn default() -> Self {
        Self { own: VecDeque::new(), served: VecDeque::new(), served_first: false }
    }
}

impl<W> Backlog<W> {
    pub(super) fn len(&self) -> usize {
        self.own.len() + self.served.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.own.is_empty() && self.served.is_empty()
    }

    pub(super) fn retain(&mut self, mut keep: impl FnMut(&W) -> bool) {
        self.own.retain(&mut keep);
        self.served.retain(keep);
    }

    pub(super) fn drain(&mut self) -> impl Iterator<Item = W> + '_ {
        self.own.drain(..).chain(self.served.drain(..))
    }

    /// Both, in the order of this turn, each with how many of it the turn may take if it takes `writes_max`.
    pub(super) fn shares(&mut self, writes_max: usize) -> [(&mut VecDeque<W>, usize); 2] {
        let half = writes_max / 2;
        let own_max = writes_max - half.min(self.served.len());
        let served_max = writes_max - own_max.min(self.own.len());
        let Self { own, served, served_first } = self;
        *served_first = !*served_first;
        match served_first {
            true => [(served, served_max), (own, own_max)],
            false => [(own, own_max), (served, served_max)],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of their own, and of others', so many turns take, each as many as it may and has room for.
    fn taken(own: usize, served: usize, writes_max: usize, room: usize, turns: usize) -> (usize, usize) {
        let mut taken = [0, 0];
        let mut backlog =
            Backlog { own: vec![0; own].into(), served: vec![1; served].into(), ..Backlog::default() };
        for _ in 0..turns {
            let mut room = room;
            for (queue, share) in backlog.shares(writes_max) {
                let count = queue.len().min(share).min(room);
                room -= count;
                queue.drain(..count).for_each(|whose| taken[whose] += 1);
            }
        }
        (taken[0], taken[1])
    }

    #[test]
    fn neither_waits_for_all_of_the_other() {
        assert_eq!(taken(100, 100, 10, 100, 2), (10, 10));
        assert_eq!(taken(100, 0, 10, 100, 2), (20, 0));
        assert_eq!(taken(0, 100, 10, 100, 2), (0, 20));
        assert_eq!(taken(1, 100, 10, 100, 1), (1, 9), "what one leaves is the other's");
        assert_eq!(taken(100, 1, 10, 100, 1), (9, 1));
        assert_eq!(taken(100, 100, 10, 3, 2), (3, 3), "short room is shared turn by turn");
    }
}
