//! Schedules as a strategy: found, shrunk, and left alone where nothing is wrong.

#![cfg(feature = "proptest")]

use std::cell::Cell;
use std::convert::Infallible;

use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};
use raft_core::host::{RestoreError, SnapshotSource, StateMachine, WholeState};
use raft_core::{Entries, EntryRef};
use raft_sim::{Options, Registers, Rng, Schedule, Simulation, Workload, schedules};

fn options() -> Options {
    Options { seconds_min: 3, operations_min: 60, ..Options::default() }
}

fn runner(cases: u32) -> TestRunner {
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha))
}

/// Counts commands, and forgets one of them whenever it is restored.
struct Counter(u64);

impl StateMachine for Counter {
    type Response = u64;
    type Snapshot = WholeState;
    type Error = Infallible;

    fn apply(&mut self, entries: &Entries, responses: &mut Vec<u64>) -> Result<(), Infallible> {
        for _ in entries.iter().filter(|entry| matches!(entry, EntryRef::Command(..))) {
            self.0 += 1;
            responses.push(self.0);
        }
        Ok(())
    }

    fn snapshot(&mut self) -> Result<WholeState, Infallible> {
        Ok(WholeState::new(self.0.to_le_bytes().to_vec()))
    }

    fn restore(&mut self, source: &mut SnapshotSource<'_>) -> Result<(), RestoreError<Infallible>> {
        let mut bytes = [0; 8];
        source.read_exact(&mut bytes)?;
        self.0 = u64::from_le_bytes(bytes).saturating_sub(1);
        Ok(())
    }
}

struct Counting;

impl Workload for Counting {
    type Machine = Counter;

    fn machine(&self) -> Counter {
        Counter(0)
    }

    fn command(&self, _: &mut Rng) -> Vec<u8> {
        vec![1]
    }
}

#[test]
fn a_bug_of_a_users_machine_is_found_and_its_schedule_shrunk() {
    let test = |schedule: Schedule| Ok(schedule.run(&Counting).map(|_| ())?);
    let Err(TestError::Fail(_, schedule)) = runner(50).run(&schedules(options()), test) else {
        panic!("a machine that forgets is not found out");
    };
    let failure = schedule.run(&Counting).expect_err("what is left still fails");
    let size = |(faults, moves, requests): (usize, usize, usize)| faults + moves + requests;
    let left = size(schedule.transcript().expect("it was run").decisions());
    let seed = failure.transcript.seed();
    let whole = Simulation { options: options(), workload: Counting }.transcribe(seed).1;
    assert!(left * 2 < size(whole.decisions()), "{left} of {:?}: {failure}", whole.decisions());
}

#[test]
fn schedules_are_runs_that_hold() {
    let cases = Cell::new(0);
    let test = |schedule: Schedule| {
        assert!(schedule.transcript().is_none(), "nothing is run before the test asks for it");
        let summary = schedule.run(&Registers)?;
        assert_eq!(schedule.run(&Registers)?, summary, "a schedule is one run");
        cases.set(cases.get() + 1);
        Ok(())
    };
    runner(8).run(&schedules(options()), test).expect("the simulator's own machine is right");
    assert_eq!(cases.get(), 8);
}

#[test]
fn a_test_that_fails_by_itself_shrinks_nothing() {
    let result = runner(3).run(&schedules(options()), |_| Err(TestCaseError::fail("no")));
    let Err(TestError::Fail(_, schedule)) = result else { panic!("it fails") };
    assert!(schedule.transcript().is_none());
}
