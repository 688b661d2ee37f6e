//! A deterministic simulator for [`raft_core`]: a third driver of its `Node`, over a simulated clock, network and
//! disk, with safety checkers that are always on.
//!
//! One seed is one run. It draws a cluster, its limits, its clients and its misfortunes, and the same seed gives
//! the same run, on every machine, to the last byte.
//!
//! ```
//! let options = raft_sim::Options { seconds_min: 2, operations_min: 20, ..Default::default() };
//! let summary = raft_sim::run(7, &options)?;
//! assert!(summary.operations >= 20);
//! assert_eq!(summary, raft_sim::run(7, &options)?);
//! # Ok::<(), raft_sim::Failure>(())
//! ```
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
mod clients;
mod clock;
mod disk;
mod faults;
mod machine;
mod network;
mod operator;
mod rng;
mod scenario;
mod server;
mod settle;
mod snapshots;
mod summary;
#[cfg(test)]
mod testing;
mod world;

pub use campaign::{Campaign, Outcome};
pub use machine::{BadCommand, KvMachine};
pub use scenario::Options;
pub use summary::{Failure, Summary};

use world::World;

/// Runs one seed.
///
/// # Errors
/// If a checker saw a rule broken, or the node panicked or refused to go on.
pub fn run(seed: u64, options: &Options) -> Result<Summary, Failure> {
    World::new(seed, options, None).run(seed, options)
}

/// Runs one seed, and hands out what happens as protocol lines: `12.345678 n1@2 → n3 AppendEntries …`.
///
/// # Errors
/// As for [`run`].
pub fn trace(seed: u64, options: &Options, sink: &mut dyn FnMut(&str)) -> Result<Summary, Failure> {
    World::new(seed, options, Some(sink)).run(seed, options)
}
