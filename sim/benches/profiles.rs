//! How fast the simulator is, with all its checkers, on one core: simulated seconds a second where little happens, and the
//! core's events a second where much does. Five servers with faults, the same seeds each round.
//!
//! `cargo bench -p raft-sim --bench profiles` prints a table: medians of rounds taken in turn (least to most).

#[path = "../../raft-core/benches/rounds/mod.rs"]
mod rounds;

use std::time::Instant;

use raft_sim::{Campaign, Options, Profile, Simulation, Summary};
use rounds::in_turn;

const ROUNDS: usize = 5;

/// A profile, and what of it counts.
struct Case {
    profile: Profile,
    /// Enough for some seconds at most.
    seeds: u64,
    what: &'static str,
    amount: fn(&Summary) -> f64,
    reach: u64,
}

const CASES: [Case; 2] = [
    Case {
        profile: Profile::Light,
        seeds: 40,
        what: "simulated seconds",
        amount: |summary| summary.simulated.as_secs_f64(),
        reach: 1_000,
    },
    Case {
        profile: Profile::Heavy,
        seeds: 4,
        what: "events of the core",
        amount: |summary| summary.events as f64,
        reach: 500_000,
    },
];

/// What counts of the case, a second.
fn rate(case: &Case) -> f64 {
    let options = Options { profile: case.profile, ..Options::default() };
    let simulation: Simulation = Simulation { options, ..Simulation::default() };
    let campaign = Campaign { start: 0, seeds: case.seeds, jobs: 1, keep_going: false, deadline: None };
    let begin = Instant::now();
    let outcome = campaign.run(&simulation, |_| ());
    assert!(outcome.failures.is_empty(), "a seed fails: {:?}", outcome.failures.first());
    (case.amount)(&outcome.summary) / begin.elapsed().as_secs_f64()
}

fn main() {
    println!("One core, all checkers; medians of {ROUNDS} rounds (least to most).\n");
    println!("| profile | seeds | | a second | to reach |");
    println!("|---|--:|---|--:|--:|");
    for (case, rate) in CASES.iter().zip(in_turn(ROUNDS, &mut CASES.each_ref(), |case| rate(case))) {
        let Case { profile, seeds, what, reach, .. } = case;
        println!("| {profile} | {seeds} | {what} | {rate} | {reach} |");
    }
}
