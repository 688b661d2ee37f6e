//! Every rule and every trap once more, with room for 200 bytes of entries in memory: nearly all of the log is read
//! from the log store.

#![allow(clippy::duplicate_mod, reason = "each of them brings its own support")]

#[path = "../paper/main.rs"]
mod paper;
#[path = "../regressions/main.rs"]
mod regressions;
#[path = "../scripts/main.rs"]
mod scripts;
#[path = "../traps/main.rs"]
mod traps;
