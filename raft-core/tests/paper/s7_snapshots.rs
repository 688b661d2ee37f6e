//! §7: log compaction. When a snapshot is taken, what leaves the log, and what a follower does with one.

use std::sync::Arc;

use raft_core::{
    AdminOutcome, AdminRefusal, Body, Config, Entries, Event, InstallProgress, LogId, LogIndex, Notice,
    SnapshotError, SnapshotPolicy, StartError, Term, TermRun, WriteOutcome,
};

use super::support::{
    Cluster, Store, append, at, commands, config, id, in_term, install, machine_bytes, message, n,
    snapshot_meta,
};

fn on_demand(config: &mut Config) {
    config.snapshot_policy = SnapshotPolicy::Never;
    config.compaction_margin_entries = 0;
    config.snapshot_chunk_bytes = 10;
}

const TEN: [&str; 10] = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"];

/// Through where server 1 says that its log equals the leader's.
fn acknowledged(cluster: &mut Cluster) -> Option<LogIndex> {
    let said = cluster.said().into_iter().filter_map(|body| match body {
        Body::InstallSnapshotReply { progress: InstallProgress::Installed(index), .. } => Some(index),
        Body::AppendEntriesReply { result: Ok(index), .. } => Some(index),
        _ => None,
    });
    said.max()
}

/// What server 1 says of a snapshot.
fn progress(cluster: &mut Cluster) -> Vec<InstallProgress> {
    let said = cluster.said().into_iter().filter_map(|body| match body {
        Body::InstallSnapshotReply { progress, .. } => Some(progress),
        _ => None,
    });
    said.collect()
}

// --- taking one, and compaction ----------------------------------------------------------------------------------

#[test]
fn a_snapshot_is_taken_as_the_policy_says_and_the_log_is_compacted() {
    let mut cluster = Cluster::led_with(3, |config| {
        config.snapshot_policy = SnapshotPolicy::LogsSinceLast(5);
        config.compaction_margin_entries = 2;
    });
    cluster.commit_each(1, &TEN);
    cluster.beat(1, 2);
    for server in cluster.servers.values() {
        let status = server.node.status();
        assert!(status.snapshot.index >= at(10) && status.snapshot.index <= at(12), "{status:?}");
        assert_eq!(status.base.index.get(), status.snapshot.index.get() - 2, "the margin stays");
        assert_eq!(
            (server.disk.base, server.disk.snapshots.len()),
            (status.base, 1),
            "older ones are forgotten"
        );
        let notice = Notice::Snapshot { last: status.snapshot, taken_by: status.id };
        assert!(server.notices.contains(&notice));
    }
    cluster.commit_each(1, &["k"]);
    assert_eq!(cluster.commit(1), 13);
}

#[test]
fn bytes_of_entries_are_a_policy_too() {
    let mut cluster =
        Cluster::led_with(1, |config| config.snapshot_policy = SnapshotPolicy::LogBytes(10_000));
    cluster.commit_each(1, &TEN);
    assert_eq!(cluster.servers[&1].node.status().snapshot, LogId::ZERO);
    cluster.commit_each(1, &[&"x".repeat(10_000)]);
    assert_eq!(cluster.servers[&1].node.status().snapshot.index, at(13));
}

#[test]
fn a_snapshot_on_demand_is_done_when_it_is_durable() {
    let mut cluster = Cluster::led_with(1, on_demand);
    cluster.commit_each(1, &["a"]);
    cluster.slow_snapshots = vec![1];
    let first = cluster.take_snapshot(1);
    assert_eq!(cluster.outcome(1, first), None);
    cluster.commit_each(1, &["b"]);
    let second = cluster.take_snapshot(1);
    assert_eq!(cluster.refusal(1, second), Some(AdminRefusal::NoSnapshotNeeded), "one at a time");
    cluster.finish_snapshot(1);
    assert_eq!(cluster.outcome(1, first), Some(AdminOutcome::Done));
    assert_eq!(cluster.servers[&1].node.status().snapshot, id(2, 3), "as of when it was asked for");
    assert_eq!(cluster.servers[&1].node.status().base, id(2, 3));
    cluster.slow_snapshots.clear();
    let third = cluster.take_snapshot(1);
    assert_eq!(cluster.outcome(1, third), Some(AdminOutcome::Done));
    let fourth = cluster.take_snapshot(1);
    assert_eq!(cluster.refusal(1, fourth), Some(AdminRefusal::NoSnapshotNeeded), "nothing is new");
}

#[test]
fn a_snapshot_that_fails_changes_nothing() {
    let mut cluster = Cluster::led_with(1, on_demand);
    cluster.commit_each(1, &["a"]);
    cluster.slow_snapshots = vec![1];
    let ticket = cluster.take_snapshot(1);
    cluster.fail_snapshot(1, SnapshotError::Failed);
    assert_eq!(cluster.refusal(1, ticket), Some(AdminRefusal::Snapshot(SnapshotError::Failed)));
    assert!(cluster.servers[&1].notices.contains(&Notice::SnapshotFailed(SnapshotError::Failed)));
    let status = cluster.servers[&1].node.status();
    assert_eq!((status.snapshot, status.base), (LogId::ZERO, LogId::ZERO));
    cluster.slow_snapshots.clear();
    let again = cluster.take_snapshot(1);
    assert_eq!(cluster.outcome(1, again), Some(AdminOutcome::Done));
}

#[test]
fn a_restart_goes_on_from_snapshot_and_log() {
    let mut cluster = Cluster::led_with(3, on_demand);
    cluster.commit_each(1, &TEN);
    cluster.beat(1, 1);
    for server in 1..=3 {
        cluster.take_snapshot(server);
    }
    cluster.commit_each(1, &["k", "l"]);
    let before = cluster.servers[&1].applied.clone();
    (1..=3).for_each(|server| cluster.restart(server));
    for server in cluster.servers.values() {
        assert_eq!(server.restored, [id(2, 12)], "the state machine begins with the snapshot");
        assert_eq!(server.node.status().commit, at(12));
    }
    cluster.elect(2);
    cluster.beat(2, 1);
    assert!(cluster.servers.values().all(|server| server.applied == before));
}

#[test]
fn a_state_machine_that_kept_what_it_applied_is_not_restored() {
    let mut cluster = Cluster::led_with(1, on_demand);
    cluster.server(1).durable_machine = true;
    cluster.commit_each(1, &["a", "b"]);
    cluster.take_snapshot(1);
    cluster.commit_each(1, &["c"]);
    cluster.restart(1);
    cluster.wake(1);
    assert_eq!(cluster.servers[&1].restored, []);
    assert_eq!(cluster.servers[&1].commands(), ["a", "b", "c"]);
}

#[test]
fn what_does_not_fit_the_snapshot_does_not_start() {
    let start = |disk: &Store, applied| {
        let recovery = raft_core::Recovery {
            log: disk.recover(),
            snapshot: disk.newest_snapshot(),
            applied,
            incarnation: 1,
        };
        raft_core::Node::start(config(1), recovery, raft_core::Instant::ZERO).map(|node| node.status())
    };
    let mut disk = Store { hard_state: in_term(5), base: id(3, 7), ..Store::default() };
    assert_eq!(start(&disk, LogId::ZERO), Err(StartError::MissingSnapshot(id(3, 7))));
    let keep = |disk: &mut Store, meta: raft_core::SnapshotMeta| {
        disk.snapshots.clear();
        disk.snapshots.insert(meta.id, (Arc::new(meta), "".into()));
    };
    keep(&mut disk, snapshot_meta(id(3, 6), 1, 3, b""));
    assert!(start(&disk, LogId::ZERO).is_err(), "the snapshot ends before the log begins");
    keep(&mut disk, snapshot_meta(id(6, 9), 1, 3, b""));
    let behind = StartError::HardStateBehindSnapshot { hard_state: Term::new(5), last: id(6, 9) };
    assert_eq!(start(&disk, LogId::ZERO), Err(behind));
    let mut strange = snapshot_meta(id(3, 7), 1, 3, b"");
    strange.terms = Arc::new([TermRun { term: Term::new(4), first: at(7) }]);
    keep(&mut disk, strange);
    assert!(matches!(start(&disk, LogId::ZERO), Err(StartError::Snapshot(_))));
    keep(&mut disk, snapshot_meta(id(3, 7), 1, 3, b""));
    let status = start(&disk, LogId::ZERO).expect("sound");
    assert_eq!((status.commit, status.base, status.last), (at(7), id(3, 7), id(3, 7)));
}

// --- InstallSnapshot at the follower -----------------------------------------------------------------------------

/// Server 1 of three has a log of these terms and gets the whole of a snapshot through `last` from 2, the leader of
/// term 9, in one message.
fn installing(terms: &[u64], last: LogId) -> (Cluster, Arc<raft_core::SnapshotMeta>) {
    let mut cluster = Cluster::veteran(3, 8, terms);
    let data = machine_bytes(&[(last, b"all of it".to_vec())]);
    let meta = Arc::new(snapshot_meta(last, 2, 3, &data));
    cluster.step(1, Event::Receive(message(2, 1, 9, install(&meta, 0, &data, true, 1))));
    (cluster, meta)
}

#[test]
fn a_snapshot_replaces_a_log_that_ends_before_it() {
    let (mut cluster, _) = installing(&[1, 3], id(5, 7));
    let server = &cluster.servers[&1];
    assert_eq!((server.disk.base, server.disk.log.len()), (id(5, 7), 0));
    let status = server.node.status();
    assert_eq!((status.commit, status.last, status.applied), (at(7), id(5, 7), at(7)));
    assert_eq!(server.commands(), ["all of it"]);
    assert_eq!(status.counters.snapshots_installed, 1);
    assert_eq!(acknowledged(&mut cluster), Some(at(7)));
}

#[test]
fn an_entry_that_differs_from_the_snapshot_s_last_is_dropped_with_all_that_follows() {
    let (cluster, _) = installing(&[1, 3, 3, 4, 4], id(5, 3));
    let server = &cluster.servers[&1];
    assert_eq!((server.disk.base, server.disk.log.len()), (id(5, 3), 0));
    assert_eq!(server.node.status().last, id(5, 3));
    assert_eq!(server.node.status().membership_index, at(1));
}

#[test]
fn entries_that_follow_an_equal_one_are_kept() {
    let (mut cluster, _) = installing(&[1, 3, 5, 5, 5], id(5, 3));
    let server = &cluster.servers[&1];
    assert_eq!((server.node.status().last, server.node.status().commit), (id(5, 5), at(3)));
    assert_eq!(server.node.status().counters.snapshots_installed, 0, "its log has all of it");
    assert_eq!(progress(&mut cluster).last(), Some(&InstallProgress::Installed(at(3))));
}

#[test]
fn a_snapshot_of_what_is_committed_already_is_answered_and_not_installed() {
    let mut cluster = Cluster::veteran(3, 8, &[1, 3, 5, 5]);
    let heartbeat = append(id(5, 4), Entries::empty(), 4, 1);
    cluster.step(1, Event::Receive(message(2, 1, 9, heartbeat)));
    assert_eq!(cluster.commit(1), 4);
    cluster.wire.clear();
    let meta = Arc::new(snapshot_meta(id(5, 3), 2, 3, b"12345"));
    cluster.step(1, Event::Receive(message(2, 1, 9, install(&meta, 0, b"1", false, 2))));
    assert_eq!(cluster.last(1), 4);
    assert!(cluster.servers[&1].disk.incoming.is_none(), "nothing of it is kept");
    let said = progress(&mut cluster);
    assert!(matches!(said[..], [InstallProgress::Installed(index)] if index >= at(3)), "{said:?}");
}

#[test]
fn a_snapshot_is_acknowledged_when_it_and_the_new_log_are_durable() {
    let mut cluster = Cluster::veteran(3, 9, &[1, 3]);
    cluster.slow_chunks = vec![1];
    cluster.slow_disks = vec![1];
    let data = machine_bytes(&[(id(5, 7), b"x".to_vec())]);
    let meta = Arc::new(snapshot_meta(id(5, 7), 2, 3, &data));
    cluster.step(1, Event::Receive(message(2, 1, 9, install(&meta, 0, &data, true, 1))));
    assert_eq!(acknowledged(&mut cluster), None);
    cluster.perform_chunk(1);
    assert_eq!(acknowledged(&mut cluster), None, "the log on disk is the old one");
    assert_eq!(cluster.servers[&1].unsynced.front().and_then(|write| write.reset_to), Some(id(5, 7)));
    cluster.sync(1);
    assert_eq!(acknowledged(&mut cluster), Some(at(7)));
}

#[test]
fn a_crash_between_snapshot_and_log_is_made_good_at_the_start() {
    let mut cluster = Cluster::veteran(3, 9, &[1, 3, 3]);
    cluster.slow_disks = vec![1];
    let data = machine_bytes(&[(id(5, 2), b"x".to_vec())]);
    let meta = Arc::new(snapshot_meta(id(5, 2), 2, 3, &data));
    cluster.step(1, Event::Receive(message(2, 1, 9, install(&meta, 0, &data, true, 1))));
    assert!(!cluster.servers[&1].disk.snapshots.is_empty(), "the snapshot is complete");
    assert_eq!(cluster.servers[&1].disk.last(), id(3, 3), "the log is not replaced yet");
    cluster.slow_disks.clear();
    cluster.restart(1);
    let server = &cluster.servers[&1];
    assert_eq!((server.disk.base, server.disk.last()), (id(5, 2), id(5, 2)));
    assert_eq!((server.node.status().commit, server.commands()), (at(2), vec!["x".to_owned()]));
}

#[test]
fn chunks_wait_for_the_hard_state_of_their_term() {
    let mut cluster = Cluster::veteran(3, 4, &[1, 3]);
    cluster.slow_disks = vec![1];
    let data = machine_bytes(&[(id(5, 7), b"x".to_vec())]);
    let meta = Arc::new(snapshot_meta(id(5, 7), 2, 3, &data));
    cluster.step(1, Event::Receive(message(2, 1, 9, install(&meta, 0, &data, true, 1))));
    assert!(cluster.servers[&1].disk.snapshots.is_empty(), "a snapshot of term 5, a hard state of term 4");
    cluster.hurry_disks();
    for round in 2..5 {
        cluster.step(1, Event::Receive(message(2, 1, 9, install(&meta, 0, &data, true, round))));
    }
    assert_eq!(cluster.servers[&1].disk.base, id(5, 7));
}

#[test]
fn a_leader_of_an_earlier_term_learns_of_the_later_one() {
    let mut cluster = Cluster::veteran(3, 8, &[1, 3]);
    let meta = Arc::new(snapshot_meta(id(5, 7), 2, 3, b"123"));
    cluster.step(1, Event::Receive(message(2, 1, 7, install(&meta, 0, b"123", true, 1))));
    let answer = cluster.wire.pop_front().expect("an answer");
    assert_eq!((answer.to, answer.term), (n(2), Term::new(8)));
    assert!(cluster.servers[&1].disk.snapshots.is_empty());
}

#[test]
fn a_chunk_is_a_sign_of_life_of_the_leader() {
    let mut cluster = Cluster::veteran(3, 9, &[1, 3]);
    let deadline = cluster.servers[&1].node.deadline().expect("a voter");
    cluster.now = deadline - core::time::Duration::from_millis(1);
    let meta = Arc::new(snapshot_meta(id(5, 7), 2, 3, b"123"));
    cluster.step(1, Event::Receive(message(2, 1, 9, install(&meta, 0, b"1", false, 1))));
    let armed = cluster.servers[&1].node.deadline().expect("a voter");
    assert!(armed.since(cluster.now) >= cluster.servers[&1].config.election_timeout_min);
}

#[test]
fn damaged_bytes_are_not_installed() {
    let mut cluster = Cluster::veteran(3, 9, &[1, 3]);
    let meta = Arc::new(snapshot_meta(id(5, 7), 2, 3, b"right"));
    cluster.step(1, Event::Receive(message(2, 1, 9, install(&meta, 0, b"wrong", true, 1))));
    assert_eq!((cluster.last(1), cluster.commit(1)), (2, 1));
    cluster.wire.clear();
    cluster.step(1, Event::Receive(message(2, 1, 9, install(&meta, 0, b"", false, 2))));
    assert_eq!(progress(&mut cluster), [InstallProgress::Refused], "all of it again");
}

#[test]
fn the_snapshot_s_membership_comes_into_force() {
    let mut cluster = Cluster::veteran(3, 9, &[1, 3]);
    let data = machine_bytes(&[]);
    let mut meta = snapshot_meta(id(5, 7), 2, 5, &data);
    meta.membership_index = at(6);
    let meta = Arc::new(meta);
    cluster.step(1, Event::Receive(message(2, 1, 9, install(&meta, 0, &data, true, 1))));
    assert_eq!(cluster.voters(1), [1, 2, 3, 4, 5]);
    assert_eq!(cluster.servers[&1].node.status().membership_index, at(6));
    let peers = cluster.servers[&1].peers.last().expect("told whom to reach");
    assert_eq!(**peers, *meta.membership);
    cluster.restart(1);
    assert_eq!(cluster.voters(1), [1, 2, 3, 4, 5], "also after a restart");
}

#[test]
fn proposals_that_a_snapshot_decides_get_their_outcome() {
    let mut cluster = Cluster::led_with(3, on_demand);
    cluster.cut_links = vec![(2, 1), (3, 1)];
    let kept = cluster.propose(1, &["kept"]);
    cluster.settle();
    cluster.cut = vec![1];
    let lost = cluster.propose(1, &["lost"]);
    cluster.cut_links.clear();
    cluster.elect(2);
    cluster.commit_each(2, &TEN);
    cluster.take_snapshot(2);
    cluster.cut.clear();
    cluster.beat(2, 4);
    assert_eq!(cluster.servers[&1].restored.len(), 1, "it came by snapshot");
    let committed = WriteOutcome::Committed { first: id(2, 3), applied_here: false };
    assert_eq!(cluster.write_outcome(1, kept), Some(committed));
    assert_eq!(cluster.write_outcome(1, lost), Some(WriteOutcome::Superseded));
}

#[test]
fn entries_behind_the_snapshot_are_appended_as_ever() {
    let (mut cluster, _) = installing(&[1, 3], id(5, 7));
    cluster.wire.clear();
    let more = append(id(5, 7), commands(id(9, 8), &["more"]), 8, 2);
    cluster.step(1, Event::Receive(message(2, 1, 9, more)));
    assert_eq!(cluster.servers[&1].commands(), ["all of it", "more"]);
    // What lies before it counts as equal: it was committed (TRAP 26).
    cluster.wire.clear();
    let early = append(id(5, 6), commands(id(5, 7), &["known"]), 8, 3);
    cluster.step(1, Event::Receive(message(2, 1, 9, early)));
    let said = cluster.said();
    assert!(matches!(said[..], [Body::AppendEntriesReply { result: Ok(_), .. }]), "{said:?}");
}
