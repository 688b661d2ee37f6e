//! Client sessions as a user's workload: no command of a session happens twice, whatever is lost, doubled and restarted.

use std::array::TryFromSliceError;
use std::collections::BTreeMap;
use std::convert::Infallible;

use bytes::Bytes;
use raft_core::host::{
    Codec, Envelope, RestoreError, SessionId, SessionLimits, SessionResponse, Sessions, SessionsError,
    SnapshotSource, StateMachine, WholeState,
};
use raft_core::{Entries, EntryRef};
use raft_sim::{Options, Rng, Simulation, Workload};

/// How often each command was applied; a command says whose it is and which.
#[derive(Default)]
struct Ledger(BTreeMap<[u8; 2], u64>);

impl StateMachine for Ledger {
    type Response = u64;
    type Snapshot = WholeState;
    type Error = Infallible;

    fn apply(&mut self, entries: &Entries, responses: &mut Vec<u64>) -> Result<(), Infallible> {
        for entry in entries.iter() {
            let EntryRef::Command(_, command) = entry else { continue };
            let times = self.0.entry([command[0], command[1]]).or_default();
            *times += 1;
            responses.push(self.0.values().sum());
        }
        Ok(())
    }

    fn snapshot(&mut self) -> Result<WholeState, Infallible> {
        let bytes = self.0.iter().flat_map(|(command, times)| [&command[..], &times.to_le_bytes()].concat());
        Ok(WholeState::new(bytes.collect::<Vec<u8>>()))
    }

    fn restore(&mut self, source: &mut SnapshotSource<'_>) -> Result<(), RestoreError<Infallible>> {
        self.0.clear();
        while source.remaining_bytes() > 0 {
            let (mut command, mut times) = ([0; 2], [0; 8]);
            source.read_exact(&mut command)?;
            source.read_exact(&mut times)?;
            self.0.insert(command, u64::from_le_bytes(times));
        }
        Ok(())
    }
}

struct Little;

impl Codec<u64> for Little {
    type Error = TryFromSliceError;

    fn encode(value: &u64) -> Result<Bytes, TryFromSliceError> {
        Ok(Bytes::copy_from_slice(&value.to_le_bytes()))
    }

    fn decode(bytes: Bytes) -> Result<u64, TryFromSliceError> {
        Ok(u64::from_le_bytes(bytes[..].try_into()?))
    }
}

type Once = Sessions<Ledger, Little>;

/// The machine as it should be, or one whose table of sessions does not survive a snapshot.
struct Machine {
    once: Once,
    forgets: bool,
}

impl StateMachine for Machine {
    type Response = SessionResponse<u64>;
    type Snapshot = <Once as StateMachine>::Snapshot;
    type Error = SessionsError<Infallible>;

    fn apply(&mut self, entries: &Entries, responses: &mut Vec<Self::Response>) -> Result<(), Self::Error> {
        self.once.apply(entries, responses)
    }

    fn snapshot(&mut self) -> Result<Self::Snapshot, Self::Error> {
        self.once.snapshot()
    }

    fn restore(&mut self, source: &mut SnapshotSource<'_>) -> Result<(), RestoreError<Self::Error>> {
        self.once.restore(source)?;
        if self.forgets {
            self.once = Once::new(Ledger(self.once.machine().0.clone()));
        }
        Ok(())
    }
}

struct Retries {
    forgets: bool,
}

impl Workload for Retries {
    type Machine = Machine;

    fn machine(&self) -> Machine {
        Machine { once: Once::new(Ledger::default()), forgets: self.forgets }
    }

    /// Nobody hears an answer here: names and numbers are guessed, low ones mostly, so that there are many retries, in
    /// every order, of sessions that are there, that are gone and that are yet to come.
    fn command(&self, rng: &mut Rng) -> Vec<u8> {
        let session = SessionId::new(rng.log_between(1, 12));
        let sealed = match rng.below(12) {
            0 | 1 => Envelope::Open(SessionLimits::new(3, 4)).seal(Bytes::new()),
            2 if rng.below(3) == 0 => Envelope::Close(session).seal(Bytes::new()),
            // Session 0 is nobody's: these may happen as often as they like.
            2 => Envelope::Plain.seal(vec![0, 0]),
            _ => {
                let sequence = 1 + rng.below(8);
                let needed_from = sequence - rng.below(4).min(sequence);
                let command = vec![session.get() as u8, sequence as u8];
                Envelope::Once { session, sequence, needed_from }.seal(command)
            }
        };
        sealed.to_vec()
    }

    fn invariant(&self, machine: &Machine) -> Result<(), String> {
        let applied = &machine.once.machine().0;
        let twice = applied.iter().find(|(command, times)| command[0] != 0 && **times > 1);
        match twice {
            Some(([session, sequence], times)) => {
                Err(format!("command {sequence} of session {session} was applied {times} times"))
            }
            None if machine.once.open_sessions() > 3 => Err("more than 3 sessions".to_owned()),
            None => Ok(()),
        }
    }
}

fn first_failure(forgets: bool) -> Option<String> {
    let options = Options { seconds_min: 8, operations_min: 120, ..Options::default() };
    let simulation = Simulation { options, workload: Retries { forgets } };
    (0..16).find_map(|seed| simulation.run(seed).err()).map(|failure| failure.to_string())
}

#[test]
fn no_command_of_a_session_happens_twice_and_all_replicas_agree() {
    assert_eq!(first_failure(false), None);
}

#[test]
fn a_table_that_a_snapshot_leaves_out_is_noticed() {
    assert!(first_failure(true).is_some());
}
