//! The durable log: against a naive model, over a disk that loses what was not synced, with a failing disk, and
//! with files that are not what they should be.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod crash;
mod directory;
mod disk;
mod failure;
mod journal;
mod model;
mod peers;
#[cfg(target_os = "linux")]
mod real;
mod rot;
mod store;
