//! Commit legality and Leader Completeness (§5.4).
//!
//! * An entry is first committed by a leader, that of its own term (§5.4.2, Figure 8), when the configuration in force
//!   there has it synced on a majority: of its voters, learners never counted, and of both sets while joint (§6). The
//!   entry of a bootstrap is committed by decree.
//! * One entry is committed at an index, for ever; a node's commit index falls only when it restarts.
//! * A new leader has every entry that was committed in an earlier term.
//!
//! It also keeps the one true state machine: what the committed log adds up to at each index.

use raft_core::{LogId, LogIndex, Membership, NodeId, RoleKind, Status, Term};

use super::book::Book;
use super::disks::Disks;
use super::operations::Operations;
use super::rules::decides;
use super::{Broken, Check, TermAt, ensure};
use crate::machine::State;

const CHECKER: &str = "commit";

/// The entry of a bootstrap, committed by decree.
const BOOTSTRAP: LogId = LogId::new(Term::BOOTSTRAP, LogIndex::FIRST);

#[derive(Clone, Copy, Debug)]
struct Committed {
    /// The entry's own term.
    term: Term,
    /// The term of the leader that committed it.
    in_term: Term,
    /// The state machine's digests when it has come here: of everything, and of the values alone.
    state: (u64, u64),
}

/// The committed log: the one truth that every node's log is held against.
#[derive(Debug, Default)]
pub(crate) struct Commit {
    entries: Vec<Committed>,
    machine: State,
}

impl Commit {
    /// Through where the log is committed.
    pub(crate) fn last(&self) -> LogIndex {
        LogIndex::new(self.entries.len() as u64)
    }

    /// The last committed entry.
    fn tip(&self) -> LogId {
        self.id_at(self.last()).unwrap_or(LogId::ZERO)
    }

    /// The entry that is committed at `index`, if one is.
    pub(crate) fn id_at(&self, index: LogIndex) -> Option<LogId> {
        let at = usize::try_from(index.get().checked_sub(1)?).ok()?;
        self.entries.get(at).map(|entry| LogId::new(entry.term, index))
    }

    /// The digests of the one true state machine at `index`.
    pub(crate) fn state_at(&self, index: LogIndex) -> Option<(u64, u64)> {
        let Some(at) = index.get().checked_sub(1) else {
            return Some((State::default().digest, State::default().values_digest()));
        };
        self.entries.get(usize::try_from(at).ok()?).map(|entry| entry.state)
    }

    /// The configuration in force as of the last committed entry.
    pub(crate) fn configuration<'b>(
        &self,
        book: &'b Book,
    ) -> Option<(LogId, &'b std::sync::Arc<Membership>)> {
        book.configuration(self.tip())
    }

    /// A node's commit index advanced. `before` is `None` if it has just started. `in_force` are the configurations
    /// that it may have counted by.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn advanced(
        &mut self,
        before: Option<&Status>,
        after: &Status,
        term_at: TermAt<'_>,
        in_force: [&Membership; 2],
        book: &Book,
        disks: &Disks,
        operations: &mut Operations,
    ) -> Check {
        let (node, index) = (after.id, after.commit);
        if let Some(before) = before {
            ensure!(
                CHECKER,
                before.commit <= index,
                "n{node}'s commit index fell from {} to {index}",
                before.commit
            );
        }
        if index == LogIndex::ZERO {
            return Ok(());
        }
        ensure!(
            CHECKER,
            index <= after.last.index,
            "n{node} committed {index} of a log that ends with {}",
            after.last
        );
        let id = LogId::new(term_at(index).unwrap_or_default(), index);
        if let Some(known) = self.id_at(index) {
            ensure!(CHECKER, known == id, "n{node} took {id} for committed, but {known} is");
            return Ok(());
        }
        if id != BOOTSTRAP {
            ensure!(
                CHECKER,
                after.role == RoleKind::Leader,
                "n{node} is the first to commit {id}, and does not lead"
            );
            ensure!(
                CHECKER,
                id.term == after.term,
                "n{node} leads term {} and committed {id} by counting (Figure 8)",
                after.term
            );
            Self::counted(node, id, in_force, book, disks)?;
        }
        self.extend(id, after.term, book, operations)
    }

    /// The entry is synced on those who decide.
    fn counted(node: NodeId, id: LogId, in_force: [&Membership; 2], book: &Book, disks: &Disks) -> Check {
        let holds = |voter| disks.holds(voter, id, book);
        if !in_force.iter().any(|membership| decides(membership, holds)) {
            let holders: Vec<_> = disks.nodes().filter(|holder| holds(*holder)).collect();
            let [membership, _] = in_force;
            let what =
                format!("n{node} committed {id}, which is synced on {holders:?} only, of {membership:?}");
            return Err(Broken::new(CHECKER, what));
        }
        Ok(())
    }

    fn extend(&mut self, id: LogId, in_term: Term, book: &Book, operations: &mut Operations) -> Check {
        let tip = self.tip();
        ensure!(
            CHECKER,
            book.at(id, tip.index) == Some(tip),
            "{id} was committed, but its log does not hold the committed {tip}"
        );
        for index in tip.index.get() + 1..=id.index.get() {
            let Some(entry) = book.at(id, LogIndex::new(index)) else {
                return Err(Broken::new(
                    CHECKER,
                    format!("{id} was committed, and nobody knows entry {index} before it"),
                ));
            };
            let meta = book.meta(entry);
            // The entry of a bootstrap counts as committed before it is even written.
            let known = meta.is_some() || entry == BOOTSTRAP;
            ensure!(CHECKER, known, "{entry} was committed before anybody wrote or sent it");
            let put = match meta.and_then(|meta| meta.op) {
                Some(op) => Some((op, operations.committed(op, entry)?)),
                None => None,
            };
            self.machine.apply(entry, put);
            let values = match put {
                None => self.entries.last().map(|entry| entry.state.1),
                Some(_) => None,
            };
            let state = (self.machine.digest, values.unwrap_or_else(|| self.machine.values_digest()));
            self.entries.push(Committed { term: entry.term, in_term, state });
        }
        Ok(())
    }

    /// A node became leader: it must have all that earlier leaders committed.
    pub(crate) fn complete(&self, leader: &Status, book: &Book) -> Check {
        let through = self.last_but(|in_term| in_term >= leader.term);
        let Some(needed) = self.id_at(through) else { return Ok(()) };
        let found = book.at(leader.last, through);
        ensure!(
            "leader-completeness",
            found == Some(needed),
            "n{} leads term {} with a log that ends with {} and has {found:?} where {needed} is committed",
            leader.id,
            leader.term,
            leader.last
        );
        Ok(())
    }

    /// The last entry but for those that were committed in a term that is too late.
    fn last_but(&self, is_late: impl Fn(Term) -> bool) -> LogIndex {
        let later = self.entries.iter().rev().take_while(|entry| is_late(entry.in_term)).count();
        LogIndex::new((self.entries.len() - later) as u64)
    }

    /// A node's log that ended with `before` now ends with `after`, by what a leader of `term` or later said: nothing that
    /// was committed until then may be lost by that. A leader of that term need not have what later ones commit, and who
    /// has not heard of these may yet follow it (§5.4.3).
    pub(crate) fn keeps(&self, node: NodeId, term: Term, before: LogId, after: LogId, book: &Book) -> Check {
        let Some(tip) = self.id_at(self.last_but(|in_term| in_term > term)) else { return Ok(()) };
        let (had, has) = (book.common(before, tip), book.common(after, tip));
        ensure!(
            "leader-completeness",
            has >= had,
            "n{node} held the committed log through {had:?}, and now, through {after}, only to {has:?}"
        );
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::book::tests::book;
    use super::super::disks::tests::hold;
    use super::*;
    use crate::testing::{id, index, node, status, terms};

    /// Everything through `last`, committed in that entry's term.
    pub(in crate::check) fn committed(book: &Book, last: LogId) -> Commit {
        let mut commit = Commit::default();
        let mut operations = Operations::default();
        for op in 0..10 {
            operations.invent(op);
        }
        commit.extend(last, last.term, book, &mut operations).unwrap();
        commit
    }

    struct Case {
        book: Book,
        disks: Disks,
        commit: Commit,
        operations: Operations,
    }

    fn case() -> Case {
        let book = book();
        let commit = committed(&book, id(1, 1));
        let mut operations = Operations::default();
        for op in 0..10 {
            operations.invent(op);
        }
        Case { book, disks: Disks::new(3), commit, operations }
    }

    impl Case {
        /// The leader of term 3, whose log is 1@1 2@2 3@2 4@3 5@3, moves its commit index.
        fn advance(&mut self, role: RoleKind, to: u64) -> Check {
            let before = Status { role, last: id(5, 3), commit: index(1), ..status(2, 3) };
            let after = Status { commit: index(to), ..before };
            let log = terms(&[(1, 1), (2, 2), (4, 3)], 5);
            let by = crate::testing::voters(&[1, 2, 3]);
            let (book, disks, operations) = (&self.book, &self.disks, &mut self.operations);
            self.commit.advanced(Some(&before), &after, &log, [&by, &by], book, disks, operations)
        }
    }

    #[test]
    fn a_commit_needs_a_majority_of_synced_disks() {
        let mut case = case();
        hold(&mut case.disks, 2, 3, id(5, 3));
        assert!(case.advance(RoleKind::Leader, 4).unwrap_err().what.contains("is synced on"));
        // Another entry at that index does not count.
        hold(&mut case.disks, 1, 3, id(4, 2));
        assert!(case.advance(RoleKind::Leader, 4).is_err());
        hold(&mut case.disks, 3, 3, id(4, 3));
        assert!(case.advance(RoleKind::Leader, 5).is_err());
        assert_eq!(case.advance(RoleKind::Leader, 4), Ok(()));
        assert_eq!(case.commit.last(), index(4));
    }

    #[test]
    fn an_entry_of_an_earlier_term_is_not_committed_by_counting() {
        let mut case = case();
        for node in 1..=3 {
            hold(&mut case.disks, node, 3, id(5, 3));
        }
        assert!(case.advance(RoleKind::Leader, 3).unwrap_err().what.contains("Figure 8"));
        assert!(case.advance(RoleKind::Follower, 4).unwrap_err().what.contains("does not lead"));
        assert_eq!(case.advance(RoleKind::Leader, 4), Ok(()));
        assert_eq!(case.advance(RoleKind::Follower, 3), Ok(()));
    }

    #[test]
    fn a_second_truth_or_a_falling_commit_index_is_seen() {
        let mut case = case();
        case.commit = committed(&case.book, id(4, 2));
        assert!(case.advance(RoleKind::Follower, 4).unwrap_err().what.contains("4@2 is"));
        for holder in 1..=3 {
            hold(&mut case.disks, holder, 3, id(5, 3));
        }
        assert!(
            case.advance(RoleKind::Leader, 5).unwrap_err().what.contains("does not hold the committed 4@2")
        );
        assert!(case.advance(RoleKind::Follower, 0).unwrap_err().what.contains("fell"));
        assert!(case.advance(RoleKind::Follower, 6).unwrap_err().what.contains("ends with 5@3"));
    }

    #[test]
    fn a_leader_without_a_committed_entry_is_seen() {
        let book = book();
        let commit = committed(&book, id(4, 2));
        let leader = |term, last| Status { last, role: RoleKind::Leader, ..status(2, term) };
        assert!(commit.complete(&leader(3, id(5, 3)), &book).is_err());
        assert_eq!(commit.complete(&leader(3, id(4, 2)), &book), Ok(()));
        // What was committed in term 2 or later a leader of term 2 need not have.
        assert_eq!(commit.complete(&leader(2, id(1, 1)), &book), Ok(()));
        let keeps = |term, before, after| commit.keeps(node(1), Term::new(term), before, after, &book);
        assert!(keeps(2, id(4, 2), id(4, 3)).is_err() && keeps(3, id(4, 2), id(4, 3)).is_err());
        assert_eq!(keeps(3, id(5, 3), id(4, 2)), Ok(()));
        // It follows a leader of term 1, which did not have to have that, and has not heard of term 2.
        assert_eq!(keeps(1, id(4, 2), id(4, 3)), Ok(()));
    }

    #[test]
    fn learners_and_one_set_alone_commit_nothing() {
        let (book, mut disks) = (book(), Disks::new(5));
        let counted =
            |disks: &Disks, by: &Membership| Commit::counted(node(2), id(5, 3), [by, by], &book, disks);
        let (old, both) = (crate::testing::voters(&[1, 2, 3]), crate::testing::joint(&[1, 2, 3], &[3, 4, 5]));
        // A voter and two that are none.
        for holder in [1, 4, 5] {
            hold(&mut disks, holder, 3, id(5, 3));
        }
        assert!(counted(&disks, &old).is_err() && counted(&disks, &both).is_err());
        hold(&mut disks, 2, 3, id(5, 3));
        assert_eq!((counted(&disks, &old), counted(&disks, &both)), (Ok(()), Ok(())));
        // All of the old ones, one of the new ones.
        let mut disks = Disks::new(5);
        (1..=3).for_each(|holder| hold(&mut disks, holder, 3, id(5, 3)));
        assert!(counted(&disks, &both).is_err());
    }
}
