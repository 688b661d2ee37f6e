//! The bugs of other libraries, by the numbers of the project's list of traps. What a rule of the paper already shows
//! stands in `tests/paper`; `tests/README.md` has the whole table.

#[path = "../support/mod.rs"]
mod support;

mod elections;
mod log;
mod membership;
mod reads;
mod seed;
mod snapshots;
