//! A deterministic simulator for [`raft_core`]: a third driver of its `Node`, over a simulated clock, network and
//! disk, with safety checkers that are always on.
//!
//! One seed is one run. It draws a cluster, its limits, its clients and its misfortunes, and the same seed gives
//! the same run, on every machine, to the last byte.
//!
//! ```
//! use raft_sim::{Options, Simulation};
//!
//! let options = Options { seconds_min: 2, operations_min: 20, ..Options::default() };
//! let simulation: Simulation = Simulation { options, ..Simulation::default() };
//! let summary = simulation.run(7)?;
//! assert!(summary.operations >= 20);
//! assert_eq!(summary, simulation.run(7)?);
//! # Ok::<(), Box<raft_sim::Failure>>(())
//! ```
//!
//! That one runs the simulator's own key-value store. [`Workload`] says how to run your own state machine.
//!
//! What is simulated: messages are lost, doubled, delayed, overtaken and cut off, in one direction or both; a
//! disk keeps bytes in the shipped record format, of which a crash spares what was synced and any beginning of
//! the rest; servers crash between any two actions, stand still, and have clocks that run apart; actions are
//! taken late, completions reported late or together. What is checked, at every step: election safety, one vote
//! per term across restarts, persist-before-send, log matching, leader append-only, leader completeness, commit
//! legality, state-machine safety, that every request gets one outcome and a true one, and linearizability. At
//! the end everything heals, and the cluster must come to rest.

mod campaign;
mod check;
#[cfg(feature = "cli")]
pub mod cli;
mod clients;
mod clock;
mod disk;
pub mod explore;
mod faults;
pub mod history;
mod machine;
mod marks;
mod minimize;
mod network;
mod operator;
mod recording;
mod rng;
mod scenario;
mod server;
mod settle;
pub mod show;
mod snapshots;
#[cfg(feature = "proptest")]
mod strategy;
mod summary;
#[cfg(test)]
mod testing;
pub mod trace;
mod transcript;
mod workload;
mod world;

pub use campaign::{Campaign, Outcome};
pub use faults::FaultCounts;
pub use marks::{Mark, Marks};
pub use minimize::{Holds, Progress, Shrunk};
pub use recording::{ReplayFailure, Verified, is_recording, replay_recording};
pub use rng::{Ppm, Rng};
pub use scenario::{Options, Profile};
#[cfg(feature = "proptest")]
pub use strategy::{Schedule, ScheduleTree, Schedules, schedules};
pub use summary::{Failure, Summary};
pub use transcript::{Transcript, TranscriptError};
pub use workload::{Nothing, Registers, Workload};

use raft_core::NodeId;
use raft_core::host::recording::{RecorderOptions, RecordingPart};
use world::World;

/// A workload, and what is fixed for all its runs.
#[derive(Clone, Debug, Default)]
pub struct Simulation<W = Registers> {
    /// What is fixed; a seed decides the rest.
    pub options: Options,
    /// What is replicated, and how it is used.
    pub workload: W,
}

impl<W: Workload> Simulation<W> {
    /// Runs one seed.
    ///
    /// # Errors
    /// If a checker saw a rule broken, or the node or the machine panicked or refused to go on.
    pub fn run(&self, seed: u64) -> Result<Summary, Box<Failure>> {
        self.transcribe(seed).0
    }

    /// Runs one seed, and hands out everything that was decided.
    pub fn transcribe(&self, seed: u64) -> (Result<Summary, Box<Failure>>, Transcript) {
        World::drawn(&self.workload, seed, &self.options, None).run(&self.options)
    }

    /// Runs one seed, and hands out what happens. A record prints as `12.345678 n1@2 → n3 AppendEntries …`.
    ///
    /// # Errors
    /// As for [`run`](Self::run).
    pub fn trace(&self, seed: u64, sink: &mut dyn FnMut(&trace::Record)) -> Result<Summary, Box<Failure>> {
        World::drawn(&self.workload, seed, &self.options, Some(sink)).run(&self.options).0
    }

    /// Runs one seed, and records every node: `write` is told whose node it is, in which of its lives, counted from 0, and
    /// what to write down. A replay of the files ([`replay_recording`]) is no simulation: it holds the node alone against
    /// what it did.
    ///
    /// # Errors
    /// As for [`run`](Self::run). What was recorded until then was handed out.
    pub fn record(
        &self,
        seed: u64,
        options: RecorderOptions,
        write: &mut dyn FnMut(NodeId, u32, RecordingPart<'_>),
    ) -> Result<Summary, Box<Failure>> {
        let world = World::drawn(&self.workload, seed, &self.options, None);
        world.recorded(options, write).run(&self.options).0
    }

    /// Does again what was written down: the same decisions are the same run, to the last event.
    ///
    /// # Errors
    /// As for [`run`](Self::run).
    pub fn replay(&self, transcript: &Transcript) -> Result<Summary, Box<Failure>> {
        World::given(&self.workload, transcript, None).run(&self.options).0
    }

    /// Does again what was written down, and hands out what happens.
    ///
    /// # Errors
    /// As for [`run`](Self::run).
    pub fn trace_again(
        &self,
        transcript: &Transcript,
        sink: &mut dyn FnMut(&trace::Record),
    ) -> Result<Summary, Box<Failure>> {
        World::given(&self.workload, transcript, Some(sink)).run(&self.options).0
    }
}
