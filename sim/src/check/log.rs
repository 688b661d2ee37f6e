//! What happens to one node's log: Leader Append-Only (§5.3), and nothing kept that may not be lost.
//!
//! * A leader only appends to its log, and sends only what is in it.
//! * A follower keeps what it has acknowledged to a leader for as long as that leader's term lasts.
//! * Nobody ever drops an entry that is committed (§5.4).

use raft_core::{Body, Entries, LogId, LogIndex, Message, NodeId, RoleKind, Status, Term};

use super::book::Book;
use super::commit::Commit;
use super::disks::slot;
use super::{Check, ensure};

const CHECKER: &str = "log";

/// What each node has promised about its log.
#[derive(Debug)]
pub(crate) struct Log {
    /// The greatest acknowledgement, and the term in which it was given.
    acknowledged: Vec<(Term, LogIndex)>,
}

impl Log {
    pub(crate) fn new(nodes: usize) -> Self {
        Self { acknowledged: vec![(Term::ZERO, LogIndex::ZERO); nodes] }
    }

    /// A node says that its log equals its leader's through `matched`.
    pub(crate) fn acknowledged(&mut self, message: &Message, matched: LogIndex) {
        let known = &mut self.acknowledged[slot(message.from)];
        // Pairs are ordered by term first: an acknowledgement in a later term replaces all before it.
        *known = (*known).max((message.term, matched));
    }

    /// A node started anew: what it acknowledged must still be there.
    pub(crate) fn restarted(&mut self, status: &Status) {
        debug_assert!(status.role != RoleKind::Leader, "nobody leads before it was elected");
    }

    /// A node's log or term has changed.
    pub(crate) fn moved(&self, before: &Status, after: &Status, book: &Book, commit: &Commit) -> Check {
        let node = after.id;
        let kept = book.common(before.last, after.last);
        ensure!(CHECKER, kept.is_some(), "n{node}'s log ends with {}, of a term that nobody led", after.last);
        let kept = kept.unwrap_or_default();
        let leads = |status: &Status| status.role == RoleKind::Leader;
        if leads(before) && leads(after) && before.term == after.term {
            ensure!(
                CHECKER,
                kept == before.last.index,
                "n{node} leads term {} and changed its log from {} to {}",
                after.term,
                before.last,
                after.last
            );
        }
        if kept < before.last.index {
            commit.keeps(node, after.term, before.last, after.last, book)?;
        }
        let (term, matched) = self.acknowledged[slot(node)];
        if term == after.term {
            let tip = book.tip(term).unwrap_or_default();
            ensure!(
                CHECKER,
                book.common(tip, after.last) >= Some(matched),
                "n{node} acknowledged its log through {matched} in term {term}, and now it ends with {}",
                after.last
            );
        }
        Ok(())
    }

    /// A node writes entries over a log that ended with `handed`.
    pub(crate) fn written(
        &self,
        node: NodeId,
        handed: LogId,
        entries: &Entries,
        book: &Book,
        commit: &Commit,
    ) -> Check {
        match (entries.first(), entries.last()) {
            (Some(first), Some(last)) if first.index <= handed.index => {
                // Its log became this by the word of a leader of that term or later; this node may have gone on since.
                commit.keeps(node, last.term, handed, last, book)
            }
            _ => Ok(()),
        }
    }

    /// A leader sends entries behind `prev`: both must be in its log.
    pub(crate) fn sent_entries(&self, message: &Message, prev: LogId, book: &Book) -> Check {
        debug_assert!(matches!(message.body, Body::AppendEntries { .. }));
        let tip = book.tip(message.term).unwrap_or_default();
        ensure!(
            CHECKER,
            book.at(tip, prev.index) == Some(prev),
            "{message:?}, but the log of that term's leader ends with {tip} and has {:?} there",
            book.at(tip, prev.index)
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::book::tests::book;
    use super::super::commit::tests::committed;
    use super::*;
    use crate::testing::{append, id, index, message, puts, status, term};

    fn ends(node: u64, at: u64, last: LogId) -> Status {
        Status { last, ..status(node, at) }
    }

    #[test]
    fn a_leader_that_changes_its_log_is_seen() {
        let (book, log, commit) = (book(), Log::new(3), Commit::default());
        let leads = |last| Status { role: RoleKind::Leader, ..ends(1, 2, last) };
        assert_eq!(log.moved(&leads(id(3, 2)), &leads(id(4, 2)), &book, &commit), Ok(()));
        assert!(log.moved(&leads(id(4, 2)), &leads(id(3, 2)), &book, &commit).is_err());
        // As a follower of term 3 it may.
        let (before, after) = (leads(id(4, 2)), ends(1, 3, id(4, 3)));
        assert_eq!(log.moved(&before, &after, &book, &commit), Ok(()));
        assert!(log.moved(&before, &ends(1, 9, id(4, 9)), &book, &commit).is_err());
    }

    #[test]
    fn an_acknowledged_entry_must_stay_while_its_term_lasts() {
        let (book, mut log, commit) = (book(), Log::new(3), Commit::default());
        let reply = |term, matched| {
            message(3, 2, term, Body::AppendEntriesReply { result: Ok(index(matched)), round: 1 })
        };
        log.acknowledged(&reply(3, 5), index(5));
        log.acknowledged(&reply(3, 4), index(4));
        let (before, after) = (ends(3, 3, id(5, 3)), ends(3, 3, id(4, 3)));
        let broken = log.moved(&before, &after, &book, &commit).unwrap_err();
        assert!(broken.what.contains("acknowledged its log through 5"), "{broken}");
        // In a later term the promise is void until it is given again.
        assert_eq!(log.moved(&before, &ends(3, 4, id(4, 3)), &book, &commit), Ok(()));
    }

    #[test]
    fn a_committed_entry_must_not_be_dropped_or_overwritten() {
        let (book, log) = (book(), Log::new(3));
        let commit = committed(&book, id(4, 2));
        let (before, after) = (ends(3, 2, id(4, 2)), ends(3, 3, id(4, 3)));
        assert!(log.moved(&before, &after, &book, &commit).is_err());
        let node = before.id;
        assert!(log.written(node, id(4, 2), &puts(4, 3, &[4]), &book, &commit).is_err());
        // A late append that is written again must not cut what follows it.
        assert!(log.written(node, id(4, 2), &puts(2, 2, &[1, 2]), &book, &commit).is_err());
        assert_eq!(log.written(node, id(4, 2), &puts(2, 2, &[1, 2, 3]), &book, &commit), Ok(()));
    }

    #[test]
    fn a_leader_sends_only_what_is_in_its_log() {
        let (book, log) = (book(), Log::new(3));
        let sent = |prev| message(2, 1, 3, append(prev, Entries::empty(), 0));
        assert_eq!(log.sent_entries(&sent(id(3, 2)), id(3, 2), &book), Ok(()));
        assert!(log.sent_entries(&sent(id(4, 2)), id(4, 2), &book).is_err());
        assert!(log.sent_entries(&sent(id(6, 3)), id(6, 3), &book).is_err());
        assert_eq!(book.tip(term(3)), Some(id(5, 3)));
    }
}
