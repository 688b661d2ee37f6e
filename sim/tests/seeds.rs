//! Whole runs: a seed is one run, and it holds.

use raft_sim::{Campaign, Options, Simulation, Summary};

/// Long enough for elections, crashes and a few hundred operations, short enough for every test run.
fn short() -> Simulation {
    let options = Options { nodes: None, seconds_min: 10, operations_min: 100, ..Options::default() };
    Simulation { options, ..Simulation::default() }
}

/// A run's figures.
fn run(seed: u64) -> Summary {
    short().run(seed).unwrap_or_else(|failure| panic!("{failure}"))
}

#[test]
fn a_seed_gives_the_same_run_twice() {
    for seed in [3, 1_000_003] {
        assert_eq!(run(seed), run(seed));
    }
    assert_ne!(run(3), run(4));
}

#[test]
fn reading_the_protocol_lines_changes_nothing() {
    let mut lines = Vec::new();
    let traced = short().trace(5, &mut |line| lines.push(line.to_string()));
    assert_eq!(traced.unwrap_or_else(|failure| panic!("{failure}")), run(5));
    let has = |part: &str| lines.iter().any(|line| line.contains(part));
    for part in ["is Leader", " AppendEntries prev=", " writes #", " synced #", " put k", "faults are over"] {
        assert!(has(part), "no line has `{part}`");
    }
}

#[test]
fn clusters_of_every_size_hold() {
    for nodes in [1, 2, 3, 4, 5, 7] {
        let mut simulation = short();
        simulation.options.nodes = Some(nodes);
        for seed in 0..4 {
            let summary = simulation.run(seed).unwrap_or_else(|failure| panic!("{failure}"));
            assert!(summary.operations >= 100 && summary.committed > 0, "{summary}");
            assert!(summary.simulated.as_secs() >= 10, "{summary}");
        }
    }
}

#[test]
fn a_campaign_adds_up_the_same_on_any_number_of_threads() {
    let campaign = |jobs| Campaign { start: 20, seeds: 12, jobs, keep_going: true, deadline: None };
    let (one, two) = (campaign(1).run(&short(), |_| ()), campaign(2).run(&short(), |_| ()));
    assert!(one.failures.is_empty() && two.failures.is_empty(), "{one:?} {two:?}");
    assert_eq!(one.summary, two.summary);
    assert_eq!(one.summary.runs, 12);
    // The world is bad enough: leaders change and servers crash.
    assert!(one.summary.elections > 24 && one.summary.crashes > 12, "{}", one.summary);
}
