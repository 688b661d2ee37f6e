//! Random schedules: messages lost, duplicated, reordered, and replayed long after; disks, state machines, log and
//! snapshot stores that take their time; crashes; changes of the membership, snapshots, transfers. And, apart, messages
//! and reports that nobody ever sent.
//!
//! * Whatever arrives, no node panics and none is fatal: the harness asserts that of every step. None grows without
//!   bound, and every branch in which a handler accepts or refuses is reached: [`marks`] are kept of what each message
//!   did.
//! * As long as every message was once sent, safety holds (Figure 3), answers are kept and reads see them; and once
//!   the network heals, one leader serves everybody.

#[path = "../support/mod.rs"]
mod support;

mod calm;
mod forge;
mod living;
mod marks;
mod ops;
mod storm;

use std::cell::RefCell;
use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};

use living::Fate;
use ops::{change, op, op_or_forgery};
use storm::{Storm, World};

/// At least so many; `PROPTEST_CASES` asks for more.
fn cases(least: u32) -> ProptestConfig {
    let default = ProptestConfig::default();
    let cases = default.cases.max(least);
    ProptestConfig { cases, failure_persistence: None, max_shrink_iters: 4_000, ..default }
}

fn the_same_everywhere(least: u32) -> TestRunner {
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    TestRunner::new_with_rng(cases(least), rng)
}

fn world() -> impl Strategy<Value = World> {
    (any::<bool>(), any::<bool>()).prop_map(|(small, leases)| World { small, leases })
}

proptest! {
    #![proptest_config(cases(400))]

    #[test]
    fn late_lost_doubled_and_disordered_messages_break_nothing(
        world in world(),
        ops in proptest::collection::vec(op(), 50..400),
    ) {
        let mut storm = Storm::new(true, world);
        ops.into_iter().for_each(|op| storm.perform(op));
        storm.calm();
    }

    #[test]
    fn a_majority_that_lives_is_enough_amid_changes_of_the_membership(
        world in world(),
        ops in proptest::collection::vec(change(), 100..400),
        living in 0u8..1 << ops::SERVERS,
    ) {
        let mut storm = Storm::new(true, world);
        ops.into_iter().for_each(|op| storm.perform(op));
        storm.survive(living);
    }

    #[test]
    fn messages_that_nobody_sent_neither_panic_nor_stop_a_node(
        world in world(),
        ops in proptest::collection::vec(op_or_forgery(), 50..400),
    ) {
        let mut storm = Storm::new(false, world);
        ops.into_iter().for_each(|op| storm.perform(op));
        storm.check_size();
    }
}

/// Who does not vote leads in some of them, the same on every machine.
#[test]
fn a_majority_that_lives_may_need_a_leader_that_does_not_vote() {
    let seen = RefCell::new(BTreeMap::<Fate, u64>::new());
    let strategy = (world(), proptest::collection::vec(change(), 100..400), 0u8..1 << ops::SERVERS);
    let result = the_same_everywhere(2_000).run(&strategy, |(world, ops, living)| {
        let mut storm = Storm::new(true, world);
        ops.into_iter().for_each(|op| storm.perform(op));
        *seen.borrow_mut().entry(storm.survive(living)).or_default() += 1;
        Ok(())
    });
    result.expect("no schedule fails");
    let seen = seen.into_inner();
    assert!(seen.contains_key(&Fate::RecoveredByNonVoter), "{seen:?}");
    let excused = [Fate::NotTried, Fate::Excused].iter().filter_map(|fate| seen.get(fate)).sum::<u64>();
    assert!(excused * 100 < seen.values().sum(), "{seen:?}");
}

/// The same schedules on every machine, so that what they reach is known: every branch of every handler.
#[test]
fn every_branch_of_every_handler_is_reached() {
    let seen = RefCell::new(BTreeMap::<String, u64>::new());
    let strategy = (world(), any::<bool>(), proptest::collection::vec(op_or_forgery(), 300..400));
    let result = the_same_everywhere(300).run(&strategy, |(world, honest, ops)| {
        let mut storm = Storm::new(honest, world);
        ops.into_iter().filter(|op| !honest || !op.is_forgery()).for_each(|op| storm.perform(op));
        let mut seen = seen.borrow_mut();
        storm.marks.iter().for_each(|(mark, count)| *seen.entry(mark.clone()).or_default() += count);
        Ok(())
    });
    result.expect("no schedule fails");
    let seen = seen.into_inner();
    let missing: Vec<_> = marks::EXPECTED.iter().filter(|mark| !seen.contains_key(**mark)).collect();
    assert!(missing.is_empty(), "never reached: {missing:#?}\nreached: {seen:#?}");
}
