//! Planted bugs in a state machine: each is found, by the check that is there for it.

use std::collections::{BTreeMap, HashMap};
use std::io;

use bytes::Bytes;
use raft_core::host::{FrozenState, RestoreError, SnapshotSource, StateMachine, Unacceptable};
use raft_core::{Entries, EntryRef, LogId, LogIndex, Term};
use raft_driver_tokio::testing::{MachineCheck, Promise, SimulatedDisk};

use crate::found::{Verdict, assert_found, verdict};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bug {
    None,
    /// Answers with the size of the batch.
    KnowsTheBatch,
    /// Answers depend on the order of a hash map.
    HashOrder,
    /// Answers memberships too.
    AnswersMemberships,
    /// Forgets the answer to a command that changed nothing.
    ForgetsAnswers,
    /// Skips what it cannot decode.
    SkipsBadCommands,
    /// A bad command makes it panic.
    PanicsAtBadCommands,
    /// A snapshot clears a counter.
    SnapshotCounts,
    /// The state is read when its first chunk is asked for.
    FreezesLate,
    /// What was there before a restore stays.
    RestoreMerges,
    /// The counter is not in the snapshot.
    ForgetsTheCounter,
    /// An error of the source ends the snapshot.
    IgnoresErrors,
    /// A snapshot that is cut makes it panic.
    PanicsAtCutSnapshots,
    /// A snapshot without its checksum's word is taken.
    TakesDamage,
    /// It says that entries are durable that were never synced.
    ClaimsTooMuch,
    /// It holds more than it says.
    ClaimsTooLittle,
}

type Shared = std::sync::Arc<std::sync::Mutex<State>>;

#[derive(Clone, Debug, Default, PartialEq)]
struct State {
    pairs: BTreeMap<u8, u8>,
    /// Commands so far.
    count: u64,
}

impl State {
    fn encode(&self, bug: Bug) -> Vec<u8> {
        let count = if bug == Bug::ForgetsTheCounter { 0 } else { self.count };
        let mut out = count.to_le_bytes().to_vec();
        out.push(self.pairs.len() as u8);
        out.extend(self.pairs.iter().flat_map(|(key, value)| [*key, *value]));
        out.extend_from_slice(&crc32fast::hash(&out).to_le_bytes());
        out
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (body, sum) = bytes.split_at_checked(bytes.len().checked_sub(4)?)?;
        (crc32fast::hash(body).to_le_bytes() == sum).then(|| Self::decode_body(body))?
    }

    fn decode_body(body: &[u8]) -> Option<Self> {
        let (count, rest) = body.split_first_chunk::<8>()?;
        let (length, pairs) = rest.split_first()?;
        let pairs: BTreeMap<u8, u8> = pairs.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect();
        (pairs.len() == usize::from(*length)).then(|| Self { pairs, count: u64::from_le_bytes(*count) })
    }
}

/// A small map; durable if it is given a disk: after every batch the whole state is written aside and renamed.
struct Machine {
    bug: Bug,
    state: Shared,
    disk: Option<SimulatedDisk>,
    applied: LogId,
}

enum Frozen {
    Bytes(Option<Vec<u8>>),
    Late(Option<Shared>),
}

impl FrozenState for Frozen {
    type Error = io::Error;

    fn next_chunk(&mut self) -> io::Result<Option<Bytes>> {
        Ok(match self {
            Self::Bytes(bytes) => bytes.take().map(Bytes::from),
            Self::Late(state) => state.take().map(|state| state.lock().unwrap().encode(Bug::None).into()),
        })
    }
}

impl Machine {
    fn new(bug: Bug) -> Self {
        Self { bug, state: Shared::default(), disk: None, applied: LogId::ZERO }
    }

    fn open(bug: Bug, disk: &SimulatedDisk) -> io::Result<Self> {
        let mut machine = Self { disk: Some(disk.clone()), ..Self::new(bug) };
        if let Ok(file) = disk.open("state") {
            // A killed process may have left it in caches.
            file.sync()?;
            disk.sync_names()?;
            let content = file.contents()?;
            let (id, state) = content.split_at(16);
            let number = |at: usize| u64::from_le_bytes(id[at..at + 8].try_into().unwrap());
            machine.applied = LogId::new(Term::new(number(0)), LogIndex::new(number(8)));
            *machine.state.lock().unwrap() = State::decode(state).ok_or(io::ErrorKind::InvalidData)?;
        }
        Ok(machine)
    }

    fn keep(&mut self, last: Option<LogId>) -> io::Result<()> {
        let before = self.applied;
        self.applied = last.unwrap_or(before);
        let Some(disk) = &self.disk else { return Ok(()) };
        let id = match self.bug {
            Bug::ClaimsTooLittle => before,
            _ => self.applied,
        };
        let mut content = [id.term.get().to_le_bytes(), id.index.get().to_le_bytes()].concat();
        content.extend(self.state.lock().unwrap().encode(Bug::None));
        if self.bug == Bug::ClaimsTooMuch && disk.open("state").is_ok() {
            // Only the claim.
            let old = disk.open("state")?.contents()?;
            content.splice(16.., old[16..].iter().copied());
        }
        let file = disk.create("state.new")?;
        file.append(&content)?;
        file.sync()?;
        disk.rename("state.new", "state")?;
        disk.sync_names()
    }
}

impl StateMachine for Machine {
    type Response = (u64, Option<u8>);
    type Snapshot = Frozen;
    type Error = io::Error;

    fn apply(&mut self, entries: &Entries, responses: &mut Vec<Self::Response>) -> io::Result<()> {
        for entry in entries.iter() {
            let command = match entry {
                EntryRef::Command(_, command) => command,
                EntryRef::Membership(..) if self.bug == Bug::AnswersMemberships => {
                    responses.push((0, None));
                    continue;
                }
                _ => continue,
            };
            let mut state = self.state.lock().unwrap();
            let [key, value] = command[..] else {
                assert!(self.bug != Bug::PanicsAtBadCommands, "two bytes");
                if self.bug == Bug::SkipsBadCommands {
                    responses.push((0, None));
                    continue;
                }
                return Err(io::ErrorKind::InvalidData.into());
            };
            state.count += 1;
            let before = state.pairs.insert(key, value);
            if self.bug == Bug::ForgetsAnswers && before == Some(value) {
                continue;
            }
            responses.push(match self.bug {
                Bug::KnowsTheBatch => (entries.len(), before),
                Bug::HashOrder => {
                    let pairs: HashMap<u8, u8> = state.pairs.clone().into_iter().collect();
                    (state.count, pairs.keys().next().copied())
                }
                _ => (state.count, before),
            });
        }
        self.keep(entries.last())
    }

    fn snapshot(&mut self) -> io::Result<Frozen> {
        if self.bug == Bug::FreezesLate {
            return Ok(Frozen::Late(Some(self.state.clone())));
        }
        let mut state = self.state.lock().unwrap();
        let bytes = state.encode(self.bug);
        if self.bug == Bug::SnapshotCounts {
            state.count += 1;
        }
        Ok(Frozen::Bytes(Some(bytes)))
    }

    fn restore(&mut self, source: &mut SnapshotSource<'_>) -> Result<(), RestoreError<io::Error>> {
        let mut bytes = Vec::new();
        loop {
            match source.next_chunk() {
                Ok(Some(chunk)) => bytes.extend(chunk),
                Ok(None) => break,
                Err(_) if self.bug == Bug::IgnoresErrors => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        assert!(self.bug != Bug::PanicsAtCutSnapshots || bytes.len() >= 4, "a checksum");
        let decoded = match self.bug {
            Bug::TakesDamage => State::decode_body(&bytes[..bytes.len().saturating_sub(4)]),
            _ => State::decode(&bytes),
        };
        let mut decoded = decoded.ok_or(RestoreError::Malformed("it is damaged"))?;
        if self.bug == Bug::RestoreMerges {
            let old = self.state.lock().unwrap().pairs.clone();
            for (key, value) in old {
                decoded.pairs.entry(key).or_insert(value);
            }
        }
        *self.state.lock().unwrap() = decoded;
        self.keep(Some(source.last())).map_err(RestoreError::Machine)
    }

    fn recover(&mut self) -> io::Result<LogId> {
        Ok(if self.disk.is_some() { self.applied } else { LogId::ZERO })
    }

    fn check(command: &Bytes) -> Result<(), Unacceptable> {
        if command.len() == 2 { Ok(()) } else { Err(Unacceptable::new("two bytes make a command")) }
    }
}

/// The same, but it lets everything into the log.
struct Unchecked(Machine);

impl StateMachine for Unchecked {
    type Response = (u64, Option<u8>);
    type Snapshot = Frozen;
    type Error = io::Error;

    fn apply(&mut self, entries: &Entries, responses: &mut Vec<Self::Response>) -> io::Result<()> {
        self.0.apply(entries, responses)
    }

    fn snapshot(&mut self) -> io::Result<Frozen> {
        self.0.snapshot()
    }

    fn restore(&mut self, source: &mut SnapshotSource<'_>) -> Result<(), RestoreError<io::Error>> {
        self.0.restore(source)
    }
}

#[test]
fn a_machine_that_lets_everything_into_the_log_is_found() {
    let check = MachineCheck::new(|random| vec![random as u8, 0]).bad_commands(|_| "longer");
    let broken = check.run(|| Unchecked(Machine::new(Bug::None))).unwrap_err();
    assert_eq!(broken.promise, Promise::ChecksCommands, "{broken}");
    let check = MachineCheck::new(|random| vec![0; 2 + random as usize % 2]);
    let broken = check.run(|| Machine::new(Bug::None)).unwrap_err();
    assert_eq!(broken.promise, Promise::ChecksCommands, "{broken}");
}

fn verdict_of(bug: Bug, is_durable: bool, has_view: bool) -> Verdict {
    let check = MachineCheck::new(|random| vec![random as u8 % 8, (random >> 8) as u8 % 4])
        .seeds(0..10)
        .bad_commands(|random| vec![0; 3 + random as usize % 5])
        .notices_damage()
        .equal_snapshots();
    let check = if has_view {
        check.view(|machine: &Machine| format!("{:?}", machine.state.lock().unwrap()))
    } else {
        check
    };
    let result = match is_durable {
        true => check.run_durable(|disk: &SimulatedDisk| Machine::open(bug, disk)),
        false => check.run(|| Machine::new(bug)),
    };
    verdict(bug, result)
}

#[test]
fn machines_without_bugs_pass() {
    for (is_durable, has_view) in [(false, false), (false, true), (true, false), (true, true)] {
        assert_eq!(verdict_of(Bug::None, is_durable, has_view), None);
    }
}

#[test]
fn each_bug_is_found_by_the_check_that_is_there_for_it() {
    let expected = [
        (Bug::KnowsTheBatch, Promise::Deterministic),
        (Bug::HashOrder, Promise::Deterministic),
        (Bug::AnswersMemberships, Promise::OneResponse),
        (Bug::ForgetsAnswers, Promise::OneResponse),
        (Bug::SkipsBadCommands, Promise::RefusesBadCommands),
        (Bug::PanicsAtBadCommands, Promise::NeverPanics),
        (Bug::SnapshotCounts, Promise::SnapshotHarmless),
        (Bug::FreezesLate, Promise::SnapshotIsThePoint),
        (Bug::RestoreMerges, Promise::RestoreReplaces),
        (Bug::ForgetsTheCounter, Promise::RestoreReplaces),
        (Bug::IgnoresErrors, Promise::RestoreReportsErrors),
        (Bug::PanicsAtCutSnapshots, Promise::NeverPanics),
        (Bug::TakesDamage, Promise::RestoreReportsErrors),
        (Bug::ClaimsTooMuch, Promise::RecoverClaims),
        (Bug::ClaimsTooLittle, Promise::RecoverClaims),
    ];
    // What depends on chance is not always found again in a shorter history.
    let steps_max = |bug| if bug == Bug::HashOrder { usize::MAX } else { 10 };
    for has_view in [false, true] {
        assert_found(&expected, steps_max, |bug, promise| {
            verdict_of(bug, promise == Promise::RecoverClaims, has_view)
        });
    }
}
