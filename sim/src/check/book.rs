//! The book of all entries that were ever written or sent: a tree in which each term is one branch.
//!
//! * A term's entries are appended by its one leader, without gaps, behind one entry of an earlier term. So the
//!   whole log below any entry follows from that entry's identity, and a log is known by its last identity.
//! * It keeps the configurations, and so knows which one is in force in any log (§6).
//! * Log Matching (§5.3) is checked where entries come in: the same identity always has the same contents and
//!   the same predecessor.

use std::collections::BTreeMap;
use std::sync::Arc;

use raft_core::wire::encode_membership;
use raft_core::{Entries, EntryRef, LogId, LogIndex, Membership, NodeId, Status, Term};
use twox_hash::XxHash3_64;

use super::{Broken, Check, TermAt, ensure};
use crate::machine::parse;

const CHECKER: &str = "log-matching";

/// What an entry holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Meta {
    /// A hash of its kind and contents.
    pub(crate) hash: u64,
    /// The operation in it, if it is a command.
    pub(crate) op: Option<u64>,
}

impl Meta {
    pub(crate) fn of(entry: &EntryRef<'_>) -> Self {
        match entry {
            EntryRef::Noop(_) => Self { hash: 1, op: None },
            EntryRef::Membership(_, membership) => {
                let mut bytes = Vec::new();
                encode_membership(membership, &mut bytes);
                Self { hash: XxHash3_64::oneshot_with_seed(2, &bytes), op: None }
            }
            EntryRef::Command(_, command) => Self::of_command(command),
        }
    }

    pub(crate) fn of_command(command: &[u8]) -> Self {
        Self { hash: XxHash3_64::oneshot_with_seed(3, command), op: parse(command).map(|(op, _)| op) }
    }
}

/// One leader's part of the tree.
#[derive(Debug)]
struct Branch {
    /// `None` for the term in which a cluster is bootstrapped: nobody leads it.
    leader: Option<NodeId>,
    first: LogIndex,
    /// What the first entry stands behind.
    prev: LogId,
    /// `None`: its leader spoke of it, and nobody has seen what it holds.
    entries: Vec<Option<Meta>>,
    /// The configuration in force at `prev`.
    inherited: Option<LogId>,
}

/// All branches.
#[derive(Debug)]
pub(crate) struct Book {
    branches: BTreeMap<Term, Branch>,
    configurations: BTreeMap<LogId, Arc<Membership>>,
}

impl Default for Book {
    fn default() -> Self {
        let bootstrap = Branch {
            leader: None,
            first: LogIndex::FIRST,
            prev: LogId::ZERO,
            entries: Vec::new(),
            inherited: None,
        };
        Self { branches: BTreeMap::from([(Term::BOOTSTRAP, bootstrap)]), configurations: BTreeMap::new() }
    }
}

impl Book {
    /// Opens the branch of a leader that was just elected: behind the log that it has.
    pub(crate) fn lead(&mut self, status: &Status, term_at: TermAt<'_>) -> Check {
        let (term, last) = (status.term, status.last);
        let mut first = last.index.next();
        while first > LogIndex::FIRST && term_at(first.prev()) == Some(term) {
            first = first.prev();
        }
        let prev = match first.prev() {
            LogIndex::ZERO => LogId::ZERO,
            index => LogId::new(term_at(index).unwrap_or_default(), index),
        };
        ensure!(CHECKER, prev.term < term, "n{} leads term {term} behind an entry {prev}", status.id);
        // What it appended itself in an earlier term may still wait for its disk, and nobody else have it.
        let own = self.branches.get(&prev.term).is_some_and(|branch| branch.leader == Some(status.id));
        ensure!(
            CHECKER,
            prev == LogId::ZERO || own || self.meta(prev).is_some(),
            "n{} leads term {term} behind {prev}, which nobody ever wrote or sent",
            status.id
        );
        let inherited = self.configuration(prev).map(|(id, _)| id);
        let branch = Branch { leader: Some(status.id), first, prev, entries: Vec::new(), inherited };
        self.branches.insert(term, branch);
        Ok(())
    }

    /// Who leads a term, and where its own entries begin.
    pub(crate) fn leader(&self, term: Term) -> Option<(NodeId, LogIndex)> {
        let branch = self.branches.get(&term)?;
        branch.leader.map(|leader| (leader, branch.first))
    }

    /// The configuration in force in the log that ends with `last`, as far as its entries were ever seen.
    pub(crate) fn configuration(&self, last: LogId) -> Option<(LogId, &Arc<Membership>)> {
        let branch = self.branches.get(&last.term)?;
        let own = LogId::new(last.term, branch.first)..=last;
        let found =
            (branch.first <= last.index).then(|| self.configurations.range(own).next_back()).flatten();
        if let Some((id, membership)) = found {
            return Some((*id, membership));
        }
        let id = branch.inherited?;
        self.configurations.get(&id).map(|membership| (id, membership))
    }

    /// The configuration at an entry, if that was seen and is one.
    pub(crate) fn configuration_at(&self, id: LogId) -> Option<&Arc<Membership>> {
        self.configurations.get(&id)
    }

    /// Every configuration ever seen.
    pub(crate) fn configurations(&self) -> impl Iterator<Item = (LogId, &Arc<Membership>)> {
        self.configurations.iter().map(|(id, membership)| (*id, membership))
    }

    /// A configuration was seen for the first time: later branches may stand behind it.
    fn configured(&mut self, id: LogId, membership: Arc<Membership>) {
        self.configurations.insert(id, membership);
        let later: Vec<(Term, LogId)> = self
            .branches
            .iter()
            .filter(|(term, _)| **term > id.term)
            .map(|(term, b)| (*term, b.prev))
            .collect();
        for (term, prev) in later {
            let inherited = self.configuration(prev).map(|(id, _)| id);
            if let Some(branch) = self.branches.get_mut(&term) {
                branch.inherited = inherited;
            }
        }
    }

    /// The last entry known of the log of a term's leader.
    pub(crate) fn tip(&self, term: Term) -> Option<LogId> {
        let branch = self.branches.get(&term)?;
        match branch.entries.len() as u64 {
            0 => Some(branch.prev),
            count => Some(LogId::new(term, branch.first.plus(count - 1))),
        }
    }

    /// The entry at `index` of the log that ends with `last`. `None` beyond it, or if the log is unknown.
    pub(crate) fn at(&self, mut last: LogId, index: LogIndex) -> Option<LogId> {
        if index > last.index {
            return None;
        }
        if index == last.index {
            return Some(last);
        }
        // Terms fall from branch to branch, so this ends.
        while last.term > Term::ZERO {
            let branch = self.branches.get(&last.term)?;
            if index >= branch.first {
                return Some(LogId::new(last.term, index));
            }
            last = branch.prev;
        }
        (index == LogIndex::ZERO).then_some(LogId::ZERO)
    }

    /// Through which index the logs that end with `a` and `b` are equal.
    pub(crate) fn common(&self, mut a: LogId, mut b: LogId) -> Option<LogIndex> {
        loop {
            if a.term == b.term {
                return Some(a.index.min(b.index));
            }
            let greater = if a.term > b.term { &mut a } else { &mut b };
            *greater = self.branches.get(&greater.term)?.prev;
        }
    }

    /// What the entry holds, if it was ever seen.
    pub(crate) fn meta(&self, id: LogId) -> Option<Meta> {
        let branch = self.branches.get(&id.term)?;
        let at = id.index.get().checked_sub(branch.first.get())?;
        branch.entries.get(usize::try_from(at).ok()?).copied().flatten()
    }

    /// A leader speaks of an entry of its own term that it may have sent and written to nobody so far.
    pub(crate) fn spoken_of(&mut self, leader: NodeId, id: LogId) {
        if let Some(branch) = self.branches.get_mut(&id.term).filter(|branch| branch.leader == Some(leader)) {
            let known = id.index.next().since(branch.first);
            let known =
                usize::try_from(known).expect("an index that fits in memory").max(branch.entries.len());
            branch.entries.resize(known, None);
        }
    }

    /// Enters what `by` sends or writes behind `prev`. What was not in the book goes to `fresh`.
    pub(crate) fn note(
        &mut self,
        by: NodeId,
        mut prev: LogId,
        entries: &Entries,
        fresh: &mut Vec<(LogId, Meta)>,
    ) -> Check {
        let mut branch_term = Term::ZERO;
        let mut branch: Option<&mut Branch> = None;
        let mut fresh_configurations = Vec::new();
        for entry in entries.iter() {
            let id = entry.id();
            ensure!(CHECKER, id.index == prev.index.next(), "n{by} put {id} behind {prev}");
            if branch.is_none() || branch_term != id.term {
                branch_term = id.term;
                branch = self.branches.get_mut(&id.term);
            }
            let Some(branch) = branch.as_mut() else {
                return Err(Broken::new(CHECKER, format!("n{by} has {id}, of a term that nobody led")));
            };
            let behind =
                if id.index == branch.first { branch.prev } else { LogId::new(id.term, id.index.prev()) };
            ensure!(
                CHECKER,
                id.index >= branch.first && prev == behind,
                "n{by} has {id} behind {prev}, others behind {behind}"
            );
            let meta = Meta::of(&entry);
            let at = usize::try_from(id.index.since(branch.first)).expect("an index that fits in memory");
            match branch.entries.get(at) {
                Some(Some(known)) => {
                    ensure!(
                        CHECKER,
                        *known == meta,
                        "n{by} has another {id} than others: {meta:?}, not {known:?}"
                    );
                }
                unseen => {
                    let first_words = unseen.is_some();
                    ensure!(
                        CHECKER,
                        first_words || at == branch.entries.len(),
                        "n{by} has {id} before anybody had what it follows"
                    );
                    let bootstrap = id == LogId::new(Term::BOOTSTRAP, LogIndex::FIRST);
                    ensure!(
                        CHECKER,
                        branch.leader == Some(by) || bootstrap,
                        "n{by} created {id}, but the leader of its term is {:?}",
                        branch.leader
                    );
                    if first_words {
                        branch.entries[at] = Some(meta);
                    } else {
                        branch.entries.push(Some(meta));
                    }
                    fresh.push((id, meta));
                    if let EntryRef::Membership(_, membership) = entry {
                        fresh_configurations.push((id, Arc::clone(membership)));
                    }
                }
            }
            prev = id;
        }
        for (id, membership) in fresh_configurations {
            self.configured(id, membership);
        }
        Ok(())
    }

    /// Checks that these entries are what the book says they are.
    pub(crate) fn verify(&self, entries: &Entries) -> Check {
        for entry in entries.iter() {
            let (id, meta) = (entry.id(), Meta::of(&entry));
            let known = self.meta(id);
            ensure!(CHECKER, known == Some(meta), "entry {id} holds {meta:?}, it was written as {known:?}");
        }
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::testing::{id, index, node, puts, status, term, terms};

    /// Term 2 led by n1 behind the bootstrap entry: 2@2 3@2 4@2; term 3 led by n2 behind 3@2: 4@3 5@3.
    pub(in crate::check) fn book() -> Book {
        let mut book = Book::default();
        let fresh = &mut Vec::new();
        book.note(node(1), LogId::ZERO, &Entries::noop(id(1, 1)), fresh).unwrap();
        let mut leader = status(1, 2);
        leader.last = id(2, 2);
        book.lead(&leader, &terms(&[(1, 1), (2, 2)], 2)).unwrap();
        book.note(node(1), id(1, 1), &puts(2, 2, &[1, 2, 3]), fresh).unwrap();
        let mut leader = status(2, 3);
        leader.last = id(4, 3);
        book.lead(&leader, &terms(&[(1, 1), (2, 2), (4, 3)], 4)).unwrap();
        book.note(node(2), id(3, 2), &puts(4, 3, &[4, 5]), fresh).unwrap();
        assert_eq!(fresh.len(), 6);
        book
    }

    #[test]
    fn a_log_is_known_by_its_last_entry() {
        let book = book();
        let log: Vec<_> = (0..=6).map(|at| book.at(id(5, 3), index(at))).collect();
        let expected = [LogId::ZERO, id(1, 1), id(2, 2), id(3, 2), id(4, 3), id(5, 3)];
        assert_eq!(log[..6], expected.map(Some));
        assert_eq!(log[6], None);
        assert_eq!(book.common(id(5, 3), id(4, 2)), Some(index(3)));
        assert_eq!(book.common(id(1, 1), id(4, 2)), Some(index(1)));
        assert_eq!(book.common(LogId::ZERO, id(4, 2)), Some(index(0)));
        assert_eq!(book.common(id(9, 9), id(4, 2)), None);
        assert_eq!(book.tip(term(2)), Some(id(4, 2)));
    }

    #[test]
    fn entries_that_differ_from_what_was_seen_break_log_matching() {
        let mut book = book();
        let mut note = |by, prev, entries| book.note(node(by), prev, &entries, &mut Vec::new());
        assert_eq!(note(3, id(1, 1), puts(2, 2, &[1, 2])), Ok(()));
        for (by, prev, entries, why) in [
            (3, id(1, 1), puts(2, 2, &[1, 9]), "another 3@2"),
            (2, id(4, 2), puts(5, 3, &[5]), "behind 4@2"),
            (1, id(4, 2), puts(6, 2, &[5]), "put 6@2 behind 4@2"),
            (3, id(4, 2), puts(5, 2, &[6]), "n3 created 5@2"),
            (2, id(6, 3), puts(7, 3, &[6]), "before anybody had"),
            (2, id(5, 3), puts(6, 4, &[6]), "a term that nobody led"),
        ] {
            let broken = note(by, prev, entries).unwrap_err();
            assert!(broken.what.contains(why), "{broken}, expected {why}");
        }
        assert!(book.verify(&puts(4, 3, &[4, 5])).is_ok());
        assert!(book.verify(&puts(4, 3, &[5])).is_err());
    }

    #[test]
    fn a_leader_behind_an_unknown_entry_is_refused() {
        let mut book = book();
        let mut leader = status(3, 7);
        leader.last = id(9, 7);
        let log = terms(&[(1, 1), (2, 2), (4, 3), (9, 7)], 9);
        let broken = book.lead(&leader, &log).unwrap_err();
        assert!(broken.what.contains("nobody ever wrote"), "{broken}");
        // The leader of term 3 itself may have appended more than anybody has seen.
        leader.id = node(2);
        assert_eq!(book.lead(&leader, &log), Ok(()));
    }
}
