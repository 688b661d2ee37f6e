//! What client sessions cost: a machine alone, and behind a table of sessions, applying 256-byte commands.
//!
//! `cargo bench -p raft-core --bench sessions` prints a table. The machine adds up lengths, so that what is measured is the
//! wrapper: taking the envelope off, the table, and the copy of small commands. Times are medians of rounds taken in turn;
//! compare only within one run.

use std::array::TryFromSliceError;
use std::convert::Infallible;
use std::hint::black_box;
use std::time::Instant;

use bytes::Bytes;
use raft_core::host::{
    Codec, Envelope, FrozenState, RestoreError, SessionId, SessionLimits, Sessions, SnapshotSource,
    StateMachine, WholeState,
};
use raft_core::{Commands, Entries, EntryRef, LogId, LogIndex, Term};

const COMMAND_BYTES: usize = 256;
const ROUNDS: usize = 21;
const COMMANDS_A_ROUND: usize = 1 << 14;

#[derive(Default)]
struct Total(u64);

impl StateMachine for Total {
    type Response = u64;
    type Snapshot = WholeState;
    type Error = Infallible;

    fn apply(&mut self, entries: &Entries, responses: &mut Vec<u64>) -> Result<(), Infallible> {
        for entry in entries.iter() {
            if let EntryRef::Command(_, command) = entry {
                self.0 += command.len() as u64;
                responses.push(self.0);
            }
        }
        Ok(())
    }

    fn snapshot(&mut self) -> Result<WholeState, Infallible> {
        Ok(WholeState::new(self.0.to_le_bytes().to_vec()))
    }

    fn restore(&mut self, _: &mut SnapshotSource<'_>) -> Result<(), RestoreError<Infallible>> {
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

type Once = Sessions<Total, Little>;

/// Applies batches one after the other, as a node would hand them out.
struct Log<M: StateMachine> {
    machine: M,
    next: u64,
    responses: Vec<M::Response>,
}

impl<M: StateMachine> Log<M> {
    fn new(machine: M) -> Self {
        Self { machine, next: 1, responses: Vec::new() }
    }

    /// How long it takes, in nanoseconds.
    fn apply(&mut self, commands: &Commands) -> f64 {
        let entries = Entries::commands(LogId::new(Term::new(1), LogIndex::new(self.next)), commands);
        self.next += entries.len();
        self.responses.clear();
        let begin = Instant::now();
        self.machine.apply(&entries, &mut self.responses).expect("sealed commands");
        black_box(&self.responses);
        begin.elapsed().as_nanos() as f64
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    if !std::env::args().any(|argument| argument == "--bench") {
        return; // `cargo test` runs this too
    }
    println!(
        "| sessions | commands a batch | machine alone, ns | behind sessions, ns | the envelope, bytes |"
    );
    println!("|--:|--:|--:|--:|--:|");
    for sessions in [100_u32, 10_000] {
        let limits = SessionLimits::new(sessions, 64);
        let mut once = Log::new(Once::new(Total::default()));
        for _ in 0..sessions {
            once.apply(&Commands::one(Envelope::Open(limits).seal(Bytes::new())));
        }
        let mut alone = Log::new(Total::default());
        let (mut sequence, mut bytes) = (0, 0);
        for batch in [1_usize, 64, 1024] {
            let (mut plain, mut wrapped) = (Vec::new(), Vec::new());
            for _ in 0..ROUNDS {
                let (mut of_plain, mut of_wrapped) = (0.0, 0.0);
                for _ in 0..COMMANDS_A_ROUND / batch {
                    let payload = || vec![7; COMMAND_BYTES];
                    let commands: Vec<Bytes> = (0..batch as u64)
                        .map(|at| {
                            sequence += 1;
                            // Each session in turn, as far apart as they can be.
                            let session = SessionId::new(1 + (sequence + at * 7919) % u64::from(sessions));
                            Envelope::Once { session, sequence, needed_from: sequence }.seal(payload())
                        })
                        .collect();
                    bytes = commands.last().map_or(0, Bytes::len) - COMMAND_BYTES;
                    of_wrapped += once.apply(&commands.iter().collect());
                    of_plain += alone.apply(&(0..batch).map(|_| payload()).collect());
                }
                plain.push(of_plain / COMMANDS_A_ROUND as f64);
                wrapped.push(of_wrapped / COMMANDS_A_ROUND as f64);
            }
            println!("| {sessions} | {batch} | {:.0} | {:.0} | {bytes} |", median(plain), median(wrapped));
        }
        let mut freeze = Vec::new();
        let mut written = 0;
        for _ in 0..ROUNDS {
            let begin = Instant::now();
            let mut frozen = once.machine.snapshot().expect("it is in memory");
            freeze.push(begin.elapsed().as_nanos() as f64);
            written = 0;
            while let Some(chunk) = frozen.next_chunk().expect("it is in memory") {
                written += chunk.len();
            }
        }
        println!(
            "freezing {sessions} sessions: {:.0} µs; {written} bytes in the snapshot\n",
            median(freeze) / 1000.0
        );
    }
}
