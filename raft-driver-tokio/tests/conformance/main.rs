//! The stores that are shipped keep their promises, and stores that do not are found out.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod bad_logs;
mod bad_machines;
mod bad_snapshots;
mod found;
mod ours;
mod sessions;
