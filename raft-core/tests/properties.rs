//! Properties against naive models: what the parts of the vocabulary promise, said a second time in the simplest way.
//! (Quorums stand in `src/quorum.rs`, up to 20 and 20 voters; wire formats in `tests/wire`.)

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;
use raft_core::{
    Commands, Entries, EntryRef, LogId, LogIndex, LogRecovery, LogScan, Membership, MembershipError,
    SnapshotMeta, Term, TermRun, Tickets,
};
use support::{at, commands, id, members, n, snapshot_meta, target};

/// An entry as a model keeps it: its term, and its command, or nothing for a no-op.
type Entry = (u64, Option<String>);

/// Logs of a few terms, longer runs and shorter ones.
fn log() -> impl Strategy<Value = Vec<Entry>> {
    let run = (0u64..3, 1usize..6, any::<bool>());
    proptest::collection::vec(run, 0..8).prop_map(|runs| {
        let mut term = 1;
        let mut log = Vec::new();
        for (step, count, noop) in runs {
            term += step;
            let command = |at: usize| (!(noop && at == 0)).then(|| format!("{term}.{at}"));
            log.extend((0..count).map(|at| (term, command(at))));
        }
        log
    })
}

/// The same as the library keeps it, cut into blocks at the places that `cuts` says.
fn entries(first: u64, log: &[Entry], cuts: &[usize]) -> Entries {
    let mut parts: Vec<Entries> = Vec::new();
    let mut block: Vec<&str> = Vec::new();
    let mut begins = 0;
    let mut close = |block: &mut Vec<&str>, begins: usize, term: u64| {
        if !block.is_empty() {
            parts.push(commands(id(term, first + begins as u64), block));
            block.clear();
        }
    };
    let mut noops = Vec::new();
    for (place, (term, command)) in log.iter().enumerate() {
        let before = place.checked_sub(1).map_or(*term, |before| log[before].0);
        if before != *term || cuts.contains(&place) || command.is_none() {
            close(&mut block, begins, before);
        }
        match command {
            Some(command) => {
                if block.is_empty() {
                    begins = place;
                }
                block.push(command);
            }
            None => noops.push((place, *term)),
        }
    }
    if let Some((term, _)) = log.last() {
        close(&mut block, begins, *term);
    }
    parts.extend(noops.iter().map(|(place, term)| Entries::noop(id(*term, first + *place as u64))));
    parts.sort_by_key(|part| part.first().map(|first| first.index));
    Entries::join(parts).expect("consecutive")
}

fn model(entries: &Entries) -> Vec<(LogId, Option<String>)> {
    let found = entries.iter().map(|entry| match entry {
        EntryRef::Command(at, command) => (at, Some(String::from_utf8_lossy(&command).into_owned())),
        other => (other.id(), None),
    });
    found.collect()
}

fn expected(first: u64, log: &[Entry]) -> Vec<(LogId, Option<String>)> {
    (first..).zip(log).map(|(index, (term, command))| (id(*term, index), command.clone())).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn entries_are_a_list_however_they_are_cut(
        log in log(),
        cuts in proptest::collection::vec(0usize..40, 0..6),
        (from, through) in (0u64..50, 0u64..50),
        bytes_max in 0u64..2_000,
    ) {
        let (whole, cut) = (entries(5, &log, &[]), entries(5, &log, &cuts));
        prop_assert_eq!(&whole, &cut);
        let list = expected(5, &log);
        prop_assert_eq!(model(&cut), list.clone());
        prop_assert_eq!(cut.len(), list.len() as u64);
        prop_assert_eq!((cut.first(), cut.last()), (list.first().map(|e| e.0), list.last().map(|e| e.0)));
        let inside = |entry: &&(LogId, _)| (from..=through).contains(&entry.0.index.get());
        let slice: Vec<_> = list.iter().filter(inside).cloned().collect();
        prop_assert_eq!(model(&cut.slice(at(from), at(through))), slice);
        let prefix = cut.prefix(bytes_max);
        prop_assert_eq!(model(&prefix), list[..prefix.len() as usize].to_vec());
        prop_assert!(prefix.len() >= u64::from(!list.is_empty()), "one at least");
        prop_assert!(prefix.size_bytes() <= bytes_max || prefix.len() <= 1);
    }

    #[test]
    fn only_what_follows_is_joined(log in log(), gap in 0u64..4, term in 1u64..20) {
        let first = entries(1, &log, &[]);
        let next = id(term, log.len() as u64 + 1 + gap);
        let joined = Entries::join([first.clone(), commands(next, &["x"])]);
        let falls = log.last().is_some_and(|(last, _)| *last > term);
        prop_assert_eq!(joined.is_ok(), log.is_empty() || (gap == 0 && !falls));
    }

    #[test]
    fn a_scan_of_writes_finds_what_a_list_of_entries_would_be(
        writes in proptest::collection::vec((log(), 0u64..12, 0u64..3), 1..8),
    ) {
        let mut scan = LogScan::default();
        let (mut base, mut list) = (LogId::ZERO, Vec::<LogId>::new());
        for (log, back, what) in writes {
            let last = list.last().copied().unwrap_or(base);
            match what {
                0 if !list.is_empty() => {
                    // Compacted somewhere inside, or through the end.
                    let through = list[(back as usize).min(list.len() - 1)];
                    scan.compact(through);
                    list.retain(|entry| entry.index > through.index);
                    base = through;
                }
                1 if back > 9 => {
                    base = id(last.term.get().max(1), last.index.get() + back);
                    scan.reset(base);
                    list.clear();
                }
                _ => {
                    let first = (last.index.get() + 1).saturating_sub(back).max(base.index.get() + 1);
                    list.retain(|entry| entry.index.get() < first);
                    let floor = list.last().unwrap_or(&base).term.get();
                    let risen: Vec<Entry> =
                        log.iter().map(|(term, command)| (term + floor, command.clone())).collect();
                    scan.entries(&entries(first, &risen, &[])).expect("it follows");
                    if risen.is_empty() {
                        // An empty write leaves the log as it is.
                        list = scan_list(&scan.clone().finish());
                    }
                    list.extend(expected(first, &risen).into_iter().map(|(at, _)| at));
                }
            }
        }
        let found = scan.finish();
        prop_assert_eq!((found.base, found.last), (base, list.last().copied().unwrap_or(base)));
        prop_assert_eq!(scan_list(&found), list);
    }

    #[test]
    fn a_membership_is_sound_when_every_rule_holds(
        (voters, outgoing, learners) in (set(), set(), set()),
        (learners_next, addresses) in (set(), set()),
        intent in proptest::option::of((set(), set())),
    ) {
        let ids = |set: &BTreeSet<u64>| set.iter().copied().map(n).collect();
        let list = |set: &BTreeSet<u64>| set.iter().copied().collect::<Vec<_>>();
        let membership = Membership {
            voters: ids(&voters),
            outgoing: ids(&outgoing),
            learners: ids(&learners),
            learners_next: ids(&learners_next),
            intent: intent.as_ref().map(|(voters, learners)| target(&list(voters), &list(learners))),
            nodes: members(addresses.iter().copied()),
        };
        let mut all: BTreeSet<u64> = [&voters, &outgoing, &learners].into_iter().flatten().copied().collect();
        let mut sound = !voters.is_empty()
            && learners.iter().all(|node| !voters.contains(node) && !outgoing.contains(node))
            && learners_next.is_subset(&outgoing);
        if let Some((voters, learners)) = &intent {
            all.extend(voters.iter().chain(learners));
            sound &= !voters.is_empty() && voters.is_disjoint(learners);
        }
        prop_assert_eq!(membership.members().iter().map(|id| id.get()).collect::<BTreeSet<_>>(), all.clone());
        sound &= all.is_subset(&addresses);
        prop_assert_eq!(membership.validate().is_ok(), sound);
        for node in 0..8 {
            prop_assert_eq!(membership.contains(n(node)), all.contains(&node));
            prop_assert_eq!(membership.is_voter(n(node)), voters.contains(&node) || outgoing.contains(&node));
            // Alone: nobody else is needed for a majority of either set.
            let alone = voters == [node].into() && (outgoing.is_empty() || outgoing == [node].into());
            prop_assert_eq!(membership.is_sole_voter(n(node)), alone);
        }
        if voters.is_empty() {
            prop_assert_eq!(membership.validate(), Err(MembershipError::NoVoters));
        }
    }

    #[test]
    fn the_terms_of_a_snapshot_rise_and_end_at_its_last_entry(
        runs in proptest::collection::vec((0u64..4, 0u64..4), 0..6),
        (term, index) in (0u64..8, 0u64..8),
    ) {
        let (mut at_term, mut at_index) = (0, 0);
        let mut rising = true;
        let terms: Vec<TermRun> = runs
            .iter()
            .enumerate()
            .map(|(place, (term, index))| {
                rising &= place == 0 || (*term > 0 && *index > 0);
                (at_term, at_index) = (at_term + term, at_index + index);
                rising &= at_term > 0 && at_index > 0;
                TermRun { term: Term::new(at_term), first: at(at_index) }
            })
            .collect();
        let ends = terms.last().is_none_or(|run| run.term.get() == term && run.first.get() <= index);
        let mut meta = snapshot_meta(id(term, index), 1, 3, b"");
        meta.terms = terms.into();
        let sound = term > 0 && index > 0 && rising && ends;
        prop_assert_eq!(meta.validate().is_ok(), sound, "{:?}", meta);
        let late = SnapshotMeta { membership_index: at(index + 1), ..meta };
        prop_assert!(late.validate().is_err());
    }

    #[test]
    fn the_order_of_log_ids_is_the_up_to_date_relation(a in any::<(u64, u64)>(), b in any::<(u64, u64)>()) {
        let newer = a.0 > b.0 || (a.0 == b.0 && a.1 > b.1);
        prop_assert_eq!(id(a.0, a.1) > id(b.0, b.1), newer);
    }

    #[test]
    fn packed_commands_are_a_list(
        list in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 0..40),
        large in proptest::option::of(1_000usize..200_000),
    ) {
        let mut list = list;
        list.extend(large.map(|bytes| vec![7; bytes]));
        let packed: Commands = list.iter().collect();
        prop_assert_eq!(packed.iter().map(|command| command.to_vec()).collect::<Vec<_>>(), list.clone());
        prop_assert_eq!((packed.len(), packed.is_empty()), (list.len(), list.is_empty()));
        let stored = Entries::commands(id(3, 9), &packed);
        prop_assert_eq!(stored.len(), list.len() as u64);
        for (entry, (index, command)) in stored.iter().zip((9..).zip(&list)) {
            let EntryRef::Command(at, found) = entry else { panic!("a command") };
            prop_assert_eq!((at, found.to_bytes()), (id(3, index), command.clone().into()));
        }
    }

    #[test]
    fn a_range_of_tickets_is_its_numbers(first in any::<u64>(), count in 0u32..100) {
        let tickets = Tickets::new(raft_core::Ticket::new(first), count);
        let numbers: Vec<u64> = tickets.iter().map(|ticket| ticket.get()).collect();
        prop_assert_eq!(numbers, (first..first.saturating_add(count.into())).collect::<Vec<_>>());
    }
}

fn set() -> impl Strategy<Value = BTreeSet<u64>> {
    proptest::collection::btree_set(0u64..8, 0..6)
}

/// The entries that runs of terms stand for.
fn scan_list(found: &LogRecovery) -> Vec<LogId> {
    let starts: BTreeMap<LogIndex, Term> = found.terms.iter().map(|run| (run.first, run.term)).collect();
    let term = |index: LogIndex| *starts.range(..=index).next_back().expect("every entry has a term").1;
    (found.base.index.get() + 1..=found.last.index.get()).map(at).map(|at| LogId::new(term(at), at)).collect()
}

#[test]
fn a_configuration_in_a_scan_goes_with_its_entry() {
    let membership = |voters| Arc::new(support::voters(voters));
    let mut scan = LogScan::default();
    scan.entries(&Entries::membership(id(1, 1), membership(1..=3))).expect("the first");
    scan.entries(&Entries::membership(id(2, 2), membership(1..=4))).expect("the second");
    scan.entries(&commands(id(2, 3), &["x"])).expect("the third");
    assert_eq!(scan.clone().finish().memberships.len(), 2);
    let mut replaced = scan.clone();
    replaced.entries(&commands(id(3, 2), &["y"])).expect("it replaces");
    assert_eq!(replaced.finish().memberships, [(at(1), membership(1..=3))]);
    let mut compacted = scan.clone();
    compacted.compact(id(1, 1));
    assert_eq!(compacted.finish().memberships, [(at(2), membership(1..=4))]);
    scan.reset(id(5, 9));
    assert_eq!(scan.finish().memberships, []);
}
