//! Small models close, in seconds; and what is planted in them is found, by a shortest way.

use raft_sim::explore::{Budget, Lie, Limits, Model, Report, explore, models};

fn report(model: &Model) -> Report {
    explore(model, &Limits::default(), |_| ())
}

/// A model that closes without a broken rule, in so many states at least.
fn closes(model: Model, least: u64) -> Report {
    let report = report(&model);
    assert!(
        report.closed(),
        "{}: {}",
        model.name,
        report.violation.map_or_else(String::new, |found| found.to_string())
    );
    assert!(report.states >= least, "{report:?}");
    report
}

/// What is broken, in how many choices.
fn finds(model: Model) -> (&'static str, u32, String) {
    let found = report(&model).violation.expect("the plant is found");
    let choices = found.trace.iter().filter(|line| !line.starts_with("      ")).count();
    assert_eq!(choices, found.steps as usize, "each choice is a line:\n{found}");
    (found.rule, found.steps, found.to_string())
}

#[test]
fn elections_with_crashes_close() {
    let budget = Budget { timeouts: 1, crashes: 1, ..Budget::NONE };
    closes(Model { budget, ..Model::new("election", "") }, 20_000);
}

#[test]
fn replication_with_a_new_leader_closes() {
    let budget = Budget { timeouts: 2, proposals: 1, ..Budget::NONE };
    let report =
        closes(Model { led: true, latest_only: true, budget, ..Model::new("replication", "") }, 10_000);
    assert!(report.steps * 10 < report.transitions, "most steps are known: {report:?}");
}

#[test]
fn disks_that_crash_close() {
    let budget = Budget { timeouts: 1, crashes: 1, proposals: 1, ..Budget::NONE };
    closes(Model { led: true, latest_only: true, budget, ..Model::new("fsync", "") }, 10_000);
}

#[test]
fn a_change_of_the_membership_closes() {
    let budget = Budget { changes: 1, heartbeats: 1, ..Budget::NONE };
    let targets: &[&[u64]] = &[&[2, 3]];
    let model = Model { voters: 2, led: true, latest_only: true, budget, targets, ..Model::new("joint", "") };
    closes(model, 1_000);
}

#[test]
fn snapshots_close() {
    let budget = Budget { heartbeats: 2, proposals: 1, snapshots: 1, ..Budget::NONE };
    let model = Model {
        led: true,
        slow: true,
        latest_only: true,
        chunk_entries: 2,
        budget,
        ..Model::new("snapshot", "")
    };
    closes(model, 10_000);
}

#[test]
fn reads_close() {
    let budget = Budget { proposals: 1, reads: 1, ..Budget::NONE };
    closes(Model { led: true, budget, ..Model::new("read", "") }, 10_000);
}

#[test]
fn lost_and_doubled_messages_close() {
    let budget = Budget { drops: 1, duplicates: 1, timeouts: 1, proposals: 1, ..Budget::NONE };
    closes(Model { led: true, budget, ..Model::new("network", "") }, 10_000);
}

#[test]
fn a_limit_is_not_silent() {
    let budget = Budget { timeouts: 2, ..Budget::NONE };
    let model = Model { budget, ..Model::new("election", "") };
    let report = explore(&model, &Limits { states_max: 1_000 }, |_| ());
    assert!(report.cut && !report.closed() && report.violation.is_none());
}

/// Without symmetry each state is met under all that its servers can be called: between as many times as there are callings
/// and once.
#[test]
fn symmetry_merges_states_and_nothing_else() {
    let budget = Budget { timeouts: 1, crashes: 1, ..Budget::NONE };
    let states = |symmetric| closes(Model { symmetric, budget, ..Model::new("election", "") }, 1).states;
    let (merged, all) = (states(true), states(false));
    assert!(merged < all / 2 && all <= merged * 6, "{merged} of {all}");
}

/// A vote that a restart forgets is given twice. No shorter way exists: each of two candidates needs its timer, a pre-vote, its
/// grant, and a sync; the first one crashes and starts again, hears the other's request, and syncs its second vote.
#[test]
fn a_forgotten_vote_is_found_by_a_shortest_way() {
    let budget = Budget { timeouts: 2, crashes: 1, ..Budget::NONE };
    let model = Model { budget, latest_only: true, lie: Some(Lie::VoteForgotten), ..Model::new("liar", "") };
    let (rule, steps, text) = finds(model);
    assert_eq!((rule, steps), ("one-vote", 4 + 2 + 4 + 2), "{text}");
}

/// Votes that were never synced leave at once.
#[test]
fn a_write_reported_before_it_is_durable_is_found_by_a_shortest_way() {
    let budget = Budget { timeouts: 1, ..Budget::NONE };
    let model = Model { budget, lie: Some(Lie::ReportedBeforeDurable), ..Model::new("liar", "") };
    let (rule, steps, text) = finds(model);
    // One timer, one pre-vote, its grant: then the candidate asks for votes in a term that its disk has not seen.
    assert_eq!((rule, steps), ("persist-before-send", 3), "{text}");
}

/// A server that comes back with an empty disk.
#[test]
fn a_lost_disk_is_found_by_a_shortest_way() {
    let budget = Budget { crashes: 1, proposals: 1, timeouts: 2, ..Budget::NONE };
    let model = Model {
        led: true,
        latest_only: true,
        budget,
        lie: Some(Lie::DiskForgotten),
        ..Model::new("liar", "")
    };
    let (rule, steps, text) = finds(model);
    // A crash, a start, a command, its message, a sync of the term, and the answer that the log is empty: the leader sees it.
    assert_eq!((rule, steps), ("notice", 6), "{text}");
}

#[test]
fn the_shipped_models_are_told_apart_and_lie_about_nothing() {
    let all = models();
    assert!(all.len() >= 6);
    for (at, model) in all.iter().enumerate() {
        assert!(model.lie.is_none() && !model.about.is_empty() && !model.bounds().is_empty(), "{model:?}");
        assert!(all[..at].iter().all(|other| other.name != model.name), "{} twice", model.name);
    }
}
