//! The example's program as users run it: real processes on loopback, real files, `kill -9`.
//!
//! Cargo builds examples together with the tests; [`support::binary`] finds the program beside them. Most of the tests are
//! those of the same program on Actix, too.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod bad_input;
mod client;
mod cluster;
mod demo;
mod members;
mod offline;
mod support;
mod watch;

/// The name of the program that is tested.
const PROGRAM: &str = "kv";
