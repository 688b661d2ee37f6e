//! What a user brings to the simulator: a state machine, commands for it, and what must always be true of it.
//!
//! * A workload never sees the simulator: it hands out machines and commands, and looks at a machine when asked.
//! * Everything that it draws comes from the [`Rng`] that it is given, so that a seed stays one run.

use std::fmt::Debug;

use raft_core::host::{RestoreError, SnapshotSource, StateMachine, WholeState};
use raft_core::{Entries, EntryRef};

use crate::rng::Rng;

/// A state machine to be replicated, and how it is used.
///
/// Each server of a run gets a [`machine`](Self::machine) of its own, clients propose [`command`](Self::command)s, and
/// the simulator does the rest: loses messages, crashes servers, takes and sends snapshots. Beyond what Raft promises
/// it holds the machines to being *replicated* ones: the same command gives the same response on every server and after
/// every restart, and the same state gives the same snapshot, to the byte.
///
/// ```
/// use raft_core::host::{RestoreError, SnapshotSource, StateMachine, WholeState};
/// use raft_core::{Entries, EntryRef};
/// use raft_sim::{Options, Rng, Simulation, Workload};
///
/// /// Accounts between which money moves: none is ever made.
/// struct Bank([u64; 4]);
///
/// impl StateMachine for Bank {
///     type Response = bool;
///     type Snapshot = WholeState;
///     type Error = std::convert::Infallible;
///
///     fn apply(&mut self, entries: &Entries, responses: &mut Vec<bool>) -> Result<(), Self::Error> {
///         for entry in entries.iter() {
///             let EntryRef::Command(_, command) = entry else { continue };
///             let (from, to, amount) = (command[0] as usize, command[1] as usize, u64::from(command[2]));
///             let possible = self.0[from] >= amount;
///             if possible {
///                 self.0[from] -= amount;
///                 self.0[to] += amount;
///             }
///             responses.push(possible);
///         }
///         Ok(())
///     }
///
///     fn snapshot(&mut self) -> Result<WholeState, Self::Error> {
///         Ok(WholeState::new(self.0.map(u64::to_le_bytes).concat()))
///     }
///
///     fn restore(&mut self, source: &mut SnapshotSource<'_>) -> Result<(), RestoreError<Self::Error>> {
///         for account in &mut self.0 {
///             let mut bytes = [0; 8];
///             source.read_exact(&mut bytes)?;
///             *account = u64::from_le_bytes(bytes);
///         }
///         Ok(())
///     }
/// }
///
/// struct Transfers;
///
/// impl Workload for Transfers {
///     type Machine = Bank;
///
///     fn machine(&self) -> Bank {
///         Bank([100; 4])
///     }
///
///     fn command(&self, rng: &mut Rng) -> Vec<u8> {
///         vec![rng.below(4) as u8, rng.below(4) as u8, rng.below(50) as u8]
///     }
///
///     fn invariant(&self, bank: &Bank) -> Result<(), String> {
///         let sum: u64 = bank.0.iter().sum();
///         if sum == 400 { Ok(()) } else { Err(format!("{sum} in all")) }
///     }
/// }
///
/// let simulation = Simulation { options: Options { seconds_min: 2, ..Options::default() }, workload: Transfers };
/// for seed in 0..3 {
///     simulation.run(seed)?;
/// }
/// # Ok::<(), Box<raft_sim::Failure>>(())
/// ```
pub trait Workload: Sync {
    /// What is replicated.
    type Machine: StateMachine<Response: PartialEq + Debug>;

    /// What transcripts call it: the command line does not replay one of another name.
    #[must_use]
    fn name() -> &'static str {
        std::any::type_name::<Self>()
    }

    /// A new machine, as a server has it that starts with an empty disk.
    fn machine(&self) -> Self::Machine;

    /// A command that the machine [accepts](StateMachine::check), at most
    /// [`command_bytes_max`](Self::command_bytes_max) bytes.
    fn command(&self, rng: &mut Rng) -> Vec<u8>;

    /// The length of the longest command, by which a run chooses its limits.
    fn command_bytes_max(&self) -> u64 {
        1_024
    }

    /// What must be true of every machine whenever it has applied something or was restored.
    ///
    /// # Errors
    /// Says what is wrong: the run ends as a failure of the checker `invariant`.
    fn invariant(&self, machine: &Self::Machine) -> Result<(), String> {
        let _ = machine;
        Ok(())
    }

    /// A number for the whole state, if that is cheap to have: then machines are compared whenever two have come to the
    /// same entry, not only by their responses and snapshots.
    fn digest(&self, machine: &Self::Machine) -> Option<u64> {
        let _ = machine;
        None
    }
}

/// No machine of one's own: commands of varying length on the simulator's own key-value store, which every run has.
#[derive(Clone, Copy, Debug, Default)]
pub struct Registers;

/// A machine that holds nothing.
#[derive(Clone, Copy, Debug)]
pub struct Nothing;

impl StateMachine for Nothing {
    type Response = ();
    type Snapshot = WholeState;
    type Error = std::convert::Infallible;

    fn apply(&mut self, entries: &Entries, responses: &mut Vec<()>) -> Result<(), Self::Error> {
        let commands = entries.iter().filter(|entry| matches!(entry, EntryRef::Command(..)));
        responses.extend(commands.map(|_| ()));
        Ok(())
    }

    fn snapshot(&mut self) -> Result<WholeState, Self::Error> {
        Ok(WholeState::new(Vec::new()))
    }

    fn restore(&mut self, _: &mut SnapshotSource<'_>) -> Result<(), RestoreError<Self::Error>> {
        Ok(())
    }
}

impl Workload for Registers {
    type Machine = Nothing;

    fn machine(&self) -> Nothing {
        Nothing
    }

    fn command(&self, _: &mut Rng) -> Vec<u8> {
        Vec::new()
    }

    fn command_bytes_max(&self) -> u64 {
        0
    }
}
