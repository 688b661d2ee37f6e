//! Marks of one node's log: conflicts, truncations, and what its disk reports.

use raft_core::{Conflict, LogId, LogIndex, NodeId, Status, Term, Write, WriteId};

use super::{Around, Watch};
use crate::check::disks::slot;
use crate::clock::Nanos;
use crate::marks::{Mark, Marks};

/// A write that was handed to a disk.
#[derive(Clone, Copy, Debug)]
pub(super) struct Handed {
    id: WriteId,
    pub(super) at: Nanos,
    first: Option<LogIndex>,
    last: Option<LogIndex>,
}

impl Handed {
    pub(super) fn new(write: &Write, at: Nanos) -> Self {
        let index = |id: LogId| id.index;
        Self {
            id: write.id,
            at,
            first: write.entries.first().map(index),
            last: write.entries.last().map(index),
        }
    }
}

/// What is remembered of conflicts: by leader and peer, in which term they began, and where the last hint was.
#[derive(Debug)]
pub(super) struct Log {
    hints: Vec<Option<(Term, LogId)>>,
    nodes: usize,
}

impl Log {
    pub(super) fn new(nodes: usize) -> Self {
        Self { hints: vec![None; nodes * nodes], nodes }
    }

    /// A leader gets an answer of its term.
    pub(super) fn replied(
        &mut self,
        leader: &Status,
        from: NodeId,
        result: &Result<LogIndex, Conflict>,
        marks: &mut Marks,
    ) {
        let hint = &mut self.hints[slot(leader.id) * self.nodes + slot(from)];
        *hint = match result {
            Ok(_) => None,
            Err(conflict) => {
                let before = hint.filter(|(term, _)| *term == leader.term);
                let lower = before.is_some_and(|(_, before)| conflict.hint.term < before.term);
                marks.hit_if(Mark::ConflictOverTerms, lower);
                Some((leader.term, conflict.hint))
            }
        };
    }
}

impl Watch {
    /// A node's log changed.
    pub(super) fn moved(&mut self, before: &Status, after: &Status, around: &Around<'_>) {
        let kept = around.book.common(before.last, after.last).unwrap_or_default();
        let node = &mut self.nodes[slot(after.id)];
        if let Some(dropped) = node.dropped
            && after.last.index >= dropped.index
            && around.book.at(after.last, dropped.index) == Some(dropped)
        {
            self.marks.hit(Mark::TruncatedReturned);
            node.dropped = None;
        }
        if kept >= before.last.index {
            return;
        }
        self.marks.hit(Mark::SuffixTruncated);
        node.dropped = Some(before.last);
        let was_joint = around
            .book
            .configuration(before.last)
            .is_some_and(|(at, membership)| at.index > kept && membership.is_joint());
        self.marks.hit_if(Mark::JointTruncated, was_joint);
    }

    /// A disk reports a write, and all before it.
    pub(super) fn persisted(&mut self, node: NodeId, id: WriteId) {
        let writes = &mut self.nodes[slot(node)].writes;
        while let Some(reported) = writes.pop_front_if(|write| write.id <= id) {
            let overwritten = |later: &Handed| later.first.is_some() && later.first <= reported.last;
            self.marks
                .hit_if(Mark::LateReport, writes.iter().any(|later| later.id > id && overwritten(later)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{id, index, node, status};

    #[test]
    fn a_search_that_goes_back_twice_without_success_is_one_over_terms() {
        let (mut log, mut marks) = (Log::new(2), Marks::default());
        let leader = status(1, 7);
        let conflict = |at, term| Err(Conflict { prev: index(at), hint: id(at - 1, term) });
        let mut replied = |log: &mut Log, leader: &Status, result| {
            log.replied(leader, node(2), &result, &mut marks);
            marks.runs(Mark::ConflictOverTerms)
        };
        assert_eq!(replied(&mut log, &leader, conflict(9, 5)), 0);
        assert_eq!(replied(&mut log, &leader, conflict(8, 5)), 0);
        // A success, or another leadership, ends the search.
        assert_eq!(replied(&mut log, &leader, Ok(index(7))), 0);
        assert_eq!(replied(&mut log, &leader, conflict(7, 4)), 0);
        assert_eq!(replied(&mut log, &status(1, 8), conflict(6, 3)), 0);
        assert_eq!(replied(&mut log, &status(1, 8), conflict(5, 2)), 1);
    }
}
