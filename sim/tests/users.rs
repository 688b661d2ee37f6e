//! A user's own machine: a faulty one is caught, and its failure becomes a short file that replays.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use raft_core::host::{RestoreError, SnapshotSource, StateMachine, Unacceptable, WholeState};
use raft_core::{Entries, EntryRef};
use raft_sim::{Failure, Options, Rng, Simulation, Transcript, Workload};

/// What is wrong with a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wrong {
    Nothing,
    /// It answers with something that is no part of its state.
    Answers,
    /// Its snapshots leave something out.
    Snapshots,
    /// Its state may become what it must not.
    State,
    /// It panics at a command.
    Panics,
    /// It is given a command that it refuses.
    Commands,
}

/// Counts words.
struct Words {
    wrong: Wrong,
    counts: BTreeMap<u8, u64>,
    /// Which of all machines this is: what no deterministic machine may look at.
    number: u64,
}

impl StateMachine for Words {
    type Response = u64;
    type Snapshot = WholeState;
    type Error = Infallible;

    fn apply(&mut self, entries: &Entries, responses: &mut Vec<u64>) -> Result<(), Infallible> {
        for entry in entries.iter() {
            let EntryRef::Command(_, command) = entry else { continue };
            assert!(self.wrong != Wrong::Panics || command[0] != 3, "word 3");
            let count = self.counts.entry(command[0]).or_default();
            *count += 1;
            if self.wrong == Wrong::State && *count == 20 {
                *count = 0;
            }
            let noise = if self.wrong == Wrong::Answers { self.number } else { 0 };
            responses.push(*count + noise);
        }
        Ok(())
    }

    fn check(command: &Bytes) -> Result<(), Unacceptable> {
        if command[0] < 4 { Ok(()) } else { Err(Unacceptable::new("there are four words")) }
    }

    fn snapshot(&mut self) -> Result<WholeState, Infallible> {
        let kept = self.counts.iter().filter(|(word, _)| self.wrong != Wrong::Snapshots || **word != 2);
        let bytes: Vec<u8> =
            kept.flat_map(|(word, count)| [&[*word][..], &count.to_le_bytes()].concat()).collect();
        Ok(WholeState::new(bytes))
    }

    fn restore(&mut self, source: &mut SnapshotSource<'_>) -> Result<(), RestoreError<Infallible>> {
        self.counts.clear();
        while source.remaining_bytes() > 0 {
            let (mut word, mut count) = ([0], [0; 8]);
            source.read_exact(&mut word)?;
            source.read_exact(&mut count)?;
            self.counts.insert(word[0], u64::from_le_bytes(count));
        }
        Ok(())
    }
}

struct Texts {
    wrong: Wrong,
    machines: AtomicU64,
}

impl Workload for Texts {
    type Machine = Words;

    fn machine(&self) -> Words {
        let number = self.machines.fetch_add(1, Ordering::Relaxed);
        Words { wrong: self.wrong, counts: BTreeMap::new(), number }
    }

    fn command(&self, rng: &mut Rng) -> Vec<u8> {
        let words = if self.wrong == Wrong::Commands { 5 } else { 4 };
        vec![rng.below(words) as u8; 1 + rng.index(30)]
    }

    fn invariant(&self, words: &Words) -> Result<(), String> {
        let zero = words.counts.iter().find(|(_, count)| **count == 0);
        zero.map_or(Ok(()), |(word, _)| Err(format!("word {word} was never there")))
    }
}

fn simulation(wrong: Wrong) -> Simulation<Texts> {
    let options = Options { seconds_min: 8, operations_min: 80, ..Options::default() };
    Simulation { options, workload: Texts { wrong, machines: AtomicU64::new(0) } }
}

fn first_failure(wrong: Wrong) -> Option<Box<Failure>> {
    let simulation = simulation(wrong);
    (0..12).find_map(|seed| simulation.run(seed).err())
}

#[test]
fn a_right_machine_holds() {
    assert_eq!(first_failure(Wrong::Nothing).map(|failure| failure.to_string()), None);
}

#[test]
fn a_wrong_machine_is_caught_by_the_checker_that_should() {
    for (wrong, checker) in [
        (Wrong::Answers, "agreement"),
        (Wrong::Snapshots, "agreement"),
        (Wrong::State, "invariant"),
        (Wrong::Panics, "panic"),
        (Wrong::Commands, "workload"),
    ] {
        let failure = first_failure(wrong).unwrap_or_else(|| panic!("{wrong:?} was not caught"));
        assert_eq!(failure.checker, checker, "{wrong:?}: {failure}");
    }
}

#[test]
fn a_failure_becomes_a_short_file_that_still_fails_and_holds_once_it_is_mended() {
    let broken = simulation(Wrong::Snapshots);
    let failure = first_failure(Wrong::Snapshots).expect("a snapshot is taken and restored");
    let mut runs = 0;
    let shrunk = broken.shrink(&failure.transcript, 400, &mut |_| runs += 1).expect("it fails");
    let size = |transcript: &Transcript| {
        let (faults, moves, requests) = transcript.decisions();
        faults + moves + requests
    };
    assert_eq!(runs, shrunk.runs);
    assert!(size(&shrunk.transcript) * 2 < size(&failure.transcript), "{:?}", shrunk.transcript.decisions());
    assert!(shrunk.transcript.servers().1 <= failure.transcript.servers().1);
    let read = Transcript::parse(&shrunk.transcript.to_text()).expect("what was written can be read");
    assert_eq!(read.failed_by(), Some("agreement"));
    let again = broken.replay(&read).expect_err("it fails again");
    assert_eq!((again.checker, &again.what), ("agreement", &shrunk.failure.what));
    simulation(Wrong::Nothing).replay(&read).unwrap_or_else(|failure| panic!("{failure}"));
    assert!(simulation(Wrong::Nothing).shrink(&read, 10, &mut |_| ()).is_err());
}

/// The stock program has another workload: it must not say of this file that it holds.
#[cfg(feature = "cli")]
#[test]
fn the_command_line_refuses_a_file_of_another_workload_and_tells_of_one_that_holds_again() {
    use std::process::{Command, Output};

    let file = std::env::temp_dir().join(format!("users-{}.jsonl", std::process::id()));
    let sim = |command: &str| -> Output {
        Command::new(env!("CARGO_BIN_EXE_sim")).args([command.as_ref(), file.as_os_str()]).output().unwrap()
    };
    let failure = first_failure(Wrong::State).expect("the state becomes what it must not");
    failure.transcript.write(&file).unwrap();
    for command in ["replay", "shrink", "show"] {
        let refused = sim(command);
        let told = String::from_utf8_lossy(&refused.stderr);
        assert_eq!(refused.status.code(), Some(2), "{command}: {refused:?}");
        assert!(told.contains("users::Texts") && told.contains("raft_sim::workload::Registers"), "{told}");
    }
    // Files of former versions do not say what they were made with.
    let workload = "\"workload\":\"users::Texts\",";
    let text = failure.transcript.to_text();
    assert!(text.lines().next().unwrap().contains(workload));
    std::fs::write(&file, text.replacen(workload, "", 1)).unwrap();
    let holds = sim("replay");
    let told = String::from_utf8_lossy(&holds.stdout);
    assert!(holds.status.success(), "{holds:?}");
    assert!(told.ends_with("this run holds now; it was written as failing by `invariant`\n"), "{told}");
    std::fs::remove_file(&file).unwrap();
    let name = std::env::current_exe().unwrap();
    let name = name.file_name().unwrap().to_string_lossy();
    assert_eq!(failure.command(), format!("{name} run --seed {} --seconds 8 --trace", failure.seed()));
}
