//! Whole runs: a seed is one run, and it holds.

use raft_sim::{Campaign, Options};

/// Long enough for elections, crashes and a few hundred operations, short enough for every test run.
fn short() -> Options {
    Options { nodes: None, seconds_min: 10, operations_min: 100 }
}

#[test]
fn a_seed_gives_the_same_run_twice() {
    for seed in [3, 1_000_003] {
        let (first, second) = (raft_sim::run(seed, &short()), raft_sim::run(seed, &short()));
        assert_eq!(first, second);
        assert!(first.is_ok(), "{first:?}");
    }
    assert_ne!(raft_sim::run(3, &short()), raft_sim::run(4, &short()));
}

#[test]
fn reading_the_protocol_lines_changes_nothing() {
    let mut lines = Vec::new();
    let traced = raft_sim::trace(5, &short(), &mut |line| lines.push(line.to_owned()));
    assert_eq!(traced, raft_sim::run(5, &short()));
    let has = |part: &str| lines.iter().any(|line| line.contains(part));
    for part in ["is Leader", " AppendEntries prev=", " writes #", " synced #", " put k", "faults are over"] {
        assert!(has(part), "no line has `{part}`");
    }
}

#[test]
fn clusters_of_every_size_hold() {
    for nodes in [1, 2, 3, 4, 5, 7] {
        let options = Options { nodes: Some(nodes), ..short() };
        for seed in 0..4 {
            let summary = raft_sim::run(seed, &options).unwrap_or_else(|failure| panic!("{failure}"));
            assert!(summary.operations >= 100 && summary.committed > 0, "{summary}");
            assert!(summary.simulated.as_secs() >= 10, "{summary}");
        }
    }
}

#[test]
fn a_campaign_adds_up_the_same_on_any_number_of_threads() {
    let campaign = |jobs| Campaign { start: 20, seeds: 12, jobs, keep_going: true, options: short() };
    let (one, two) = (campaign(1).run(|_| ()), campaign(2).run(|_| ()));
    assert!(one.failures.is_empty() && two.failures.is_empty(), "{one:?} {two:?}");
    assert_eq!(one.summary, two.summary);
    assert_eq!(one.summary.runs, 12);
    // The world is bad enough: leaders change and servers crash.
    assert!(one.summary.elections > 24 && one.summary.crashes > 12, "{}", one.summary);
}
