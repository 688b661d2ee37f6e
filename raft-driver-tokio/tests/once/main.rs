//! Typed commands, and commands that happen once.
#![cfg(feature = "postcard")]

#[path = "../common/mod.rs"]
mod common;

mod cluster;
mod fates;
mod tally;
mod typed;
