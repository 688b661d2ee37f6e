//! A campaign that exercises nothing proves nothing: each feature comes up, in a few dozen seeds.

use raft_sim::{Campaign, Mark, Options, Registers, Simulation};

/// What a few dozen runs may miss: each of these comes up in fewer than one run of eight.
const RARE: &[Mark] = &[
    Mark::TruncatedReturned,
    Mark::ChangeTooLate,
    Mark::RotInTail,
    Mark::SnapshotResumedAfterReconnect,
    Mark::JointTruncated,
    Mark::LateReport,
    Mark::SnapshotReplacesConflict,
    Mark::TransferOvertaken,
    Mark::JointBackedOut,
    Mark::VoteForStranger,
    Mark::NonVoterElected,
    Mark::SnapshotBeyondLog,
    Mark::PreVoteRefusedByLog,
    Mark::DecidedBySnapshot,
    Mark::CutWrite,
    Mark::SnapshotResumedBySuccessor,
    Mark::ElectedWhileJoint,
    Mark::JointLeftBySuccessor,
    Mark::ChangeTimedOut,
    Mark::ChangeCancelled,
    Mark::BusyUnapplied,
    Mark::LateWakeExcused,
    Mark::SnapshotThoughLogIsThere,
    Mark::LostReplaced,
    Mark::LogReadGone,
    Mark::BusyReads,
    Mark::BusyQuestions,
    Mark::Overflowed,
    Mark::ConflictOverTerms,
    Mark::BusyProposals,
];

#[test]
fn a_few_dozen_seeds_exercise_every_feature() {
    let options = Options { seconds_min: 20, ..Options::default() };
    let simulation = Simulation { options, workload: Registers };
    let outcome = Campaign { start: 400, seeds: 60, jobs: 2, keep_going: false, deadline: None }
        .run(&simulation, |_| ());
    let failures: Vec<String> = outcome.failures.iter().map(ToString::to_string).collect();
    assert!(failures.is_empty(), "{failures:?}");
    let seen = outcome.summary;
    let least = [
        ("changes done", seen.changes_done, 60),
        ("changes cancelled", seen.changes_cancelled, 1),
        ("changes refused", seen.changes_refused, 60),
        ("changes that timed out", seen.timed_out, 1),
        ("joint phases", seen.joint, 60),
        ("servers that joined", seen.joined, 20),
        ("servers that were retired", seen.retired, 10),
        ("snapshots taken", seen.snapshots, 1_000),
        ("chunks sent", seen.chunks, 1_000),
        ("snapshots installed", seen.installed, 60),
        ("snapshots restored", seen.restored, 100),
        ("compactions", seen.compactions, 1_000),
        ("transfers", seen.transfers, 10),
        ("restarts by plan", seen.restarts, 20),
        ("lease reads", seen.lease_reads, 1_000),
        ("reads served by others", seen.follower_reads, 1_000),
        ("writes applied elsewhere", seen.applied_elsewhere, 1),
        ("crashes", seen.crashes, 100),
        ("starts refused", seen.starts_refused, 5),
        ("runs with clocks beyond the bound", seen.beyond_bound, 1),
        ("reads of the log", seen.log_reads, 1_000),
        ("runs with a part that stayed broken", seen.majorities, 20),
    ];
    let faults = seen.faults.iter().map(|(kind, count)| (kind, count, 5));
    for (what, count, least) in least.into_iter().chain(faults) {
        assert!(count >= least, "only {count} {what}:\n{seen}");
    }
    let missed: Vec<Mark> = seen.marks.missed().filter(|mark| !RARE.contains(mark)).collect();
    assert!(missed.is_empty(), "never reached {missed:?}:\n{}", seen.marks);
    assert_eq!((seen.excused, seen.undecided), (0, 0), "{seen}");
}
