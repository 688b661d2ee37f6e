//! Checks a [`StateMachine`]: that it is deterministic, what its snapshots hold, what it does with damaged ones, and what
//! it claims to hold durably.

mod items;
mod run;
mod snapshots;

use std::convert::Infallible;
use std::fmt::{Debug, Display};
use std::ops::Range;

use bytes::Bytes;
use raft_core::host::StateMachine;

use super::medium::{Medium, Survives};
use super::report::{Broken, Passed, check};
use items::{Item, history};
use run::run;

const ATTEMPTS_MAX: u32 = 300;

type MakeCommand = Box<dyn Fn(u64) -> Bytes>;
type View<S> = Box<dyn Fn(&S) -> String>;

/// Checks a [`StateMachine`]. See the [module's head](super) for what is checked and what is not.
///
/// ```
/// use raft_driver_tokio::testing::MachineCheck;
/// # use raft_core::host::{RestoreError, SnapshotSource, StateMachine, WholeState};
/// # use raft_core::{Entries, EntryRef};
/// # #[derive(Default)]
/// # struct Total(u64);
/// # impl StateMachine for Total {
/// #     type Response = u64;
/// #     type Snapshot = WholeState;
/// #     type Error = std::convert::Infallible;
/// #     fn apply(&mut self, entries: &Entries, responses: &mut Vec<u64>) -> Result<(), Self::Error> {
/// #         for entry in entries.iter() {
/// #             if let EntryRef::Command(_, command) = entry {
/// #                 self.0 += command.len() as u64;
/// #                 responses.push(self.0);
/// #             }
/// #         }
/// #         Ok(())
/// #     }
/// #     fn snapshot(&mut self) -> Result<WholeState, Self::Error> {
/// #         Ok(WholeState::new(self.0.to_le_bytes().to_vec()))
/// #     }
/// #     fn restore(&mut self, source: &mut SnapshotSource<'_>) -> Result<(), RestoreError<Self::Error>> {
/// #         let mut total = [0; 8];
/// #         source.read_exact(&mut total)?;
/// #         self.0 = u64::from_le_bytes(total);
/// #         Ok(())
/// #     }
/// # }
///
/// // Commands are made from random numbers.
/// let check = MachineCheck::new(|random| vec![0; random as usize % 100]).view(|machine: &Total| machine.0.to_string());
/// check.run(Total::default).unwrap();
/// ```
#[must_use]
pub struct MachineCheck<S> {
    seeds: Range<u64>,
    entries: usize,
    command: MakeCommand,
    bad_command: Option<MakeCommand>,
    view: Option<View<S>>,
    equal_snapshots: bool,
    notices_damage: bool,
}

impl<S> Debug for MachineCheck<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MachineCheck")
            .field("seeds", &self.seeds)
            .field("entries", &self.entries)
            .finish_non_exhaustive()
    }
}

impl<S: StateMachine<Response: PartialEq + Debug>> MachineCheck<S> {
    /// 30 histories of 60 entries. `command` makes a valid command from a random number; let it make few keys and many
    /// values, so that commands have to do with each other.
    pub fn new<B: Into<Bytes>>(command: impl Fn(u64) -> B + 'static) -> Self {
        Self {
            seeds: 0..30,
            entries: 60,
            command: Box::new(move |random| command(random).into()),
            bad_command: None,
            view: None,
            equal_snapshots: false,
            notices_damage: false,
        }
    }

    /// Which histories: one for each seed.
    pub fn seeds(self, seeds: Range<u64>) -> Self {
        Self { seeds, ..self }
    }

    /// How many entries each has.
    pub fn entries(self, entries: usize) -> Self {
        Self { entries, ..self }
    }

    /// Also checks that such commands, each made from a random number, are kept out of the log by
    /// [`check`](StateMachine::check), and refused by [`apply`](StateMachine::apply).
    pub fn bad_commands<B: Into<Bytes>>(self, command: impl Fn(u64) -> B + 'static) -> Self {
        Self { bad_command: Some(Box::new(move |random| command(random).into())), ..self }
    }

    /// The whole state in words. Without it states are told apart by the responses to later commands alone.
    pub fn view(self, view: impl Fn(&S) -> String + 'static) -> Self {
        Self { view: Some(Box::new(view)), ..self }
    }

    /// Also checks that equal states give equal snapshots. Raft does not need that; it helps to compare replicas.
    pub fn equal_snapshots(self) -> Self {
        Self { equal_snapshots: true, ..self }
    }

    /// Also checks that every snapshot that is cut short, or has a byte altered, is refused. Snapshot stores keep
    /// checksums, so that a machine need not; without this only a panic counts.
    pub fn notices_damage(self) -> Self {
        Self { notices_damage: true, ..self }
    }

    /// Runs the histories on machines that live in memory.
    ///
    /// # Errors
    /// The first promise that is broken, with the shortest history found that breaks it.
    pub fn run(&self, make: impl Fn() -> S) -> Result<Passed, Broken> {
        self.run_durable(|_: &Survives<()>| Ok::<_, Infallible>(make()))
    }

    /// Runs the histories on machines that keep their state, or a part of it, on a medium.
    ///
    /// # Errors
    /// The first promise that is broken, with the shortest history found that breaks it.
    ///
    /// # Panics
    /// If the medium itself fails: no directory can be made, for example.
    pub fn run_durable<M: Medium, E: Display>(
        &self,
        open: impl Fn(&M) -> Result<S, E>,
    ) -> Result<Passed, Broken> {
        let history = |rng: &mut fastrand::Rng| history(rng, self.entries);
        check(self.seeds.clone(), ATTEMPTS_MAX, history, Item::simpler, |seed, items| {
            run(self, &open, seed, items)
        })
    }
}
