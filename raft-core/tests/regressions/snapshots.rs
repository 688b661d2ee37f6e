//! Snapshots that were forgotten too early, sent for ever, or never taken.

use core::time::Duration;
use std::sync::Arc;

use raft_core::{Action, Entries, Event, LogId, Notice, SnapshotPolicy, SnapshotTask, Ticket};

use super::support::{Cluster, append, at, id, install, message, snapshot_meta};

#[test]
fn a_snapshot_is_not_forgotten_before_the_state_machine_has_it() {
    let mut cluster = Cluster::veteran(3, 5, &[1]);
    cluster.slow_machines = vec![1];
    cluster.trace = Some(Vec::new());
    let first = Arc::new(snapshot_meta(id(5, 10), 2, 3, b""));
    cluster.step(1, Event::Receive(message(2, 1, 5, install(&first, 0, b"", true, 1))));
    // The restore lies in the machine's lane when the next one comes.
    let second = Arc::new(snapshot_meta(id(5, 20), 2, 3, b""));
    cluster.step(1, Event::Receive(message(2, 1, 5, install(&second, 0, b"", true, 2))));
    let forget = |(_, action): &(u64, Action)| matches!(action, Action::Snapshot(SnapshotTask::Forget(id)) if *id == first.id);
    let forgotten = |cluster: &Cluster| cluster.trace.as_ref().expect("kept").iter().any(forget);
    assert!(!forgotten(&cluster));
    cluster.report_applied(1);
    cluster.report_applied(1);
    assert!(cluster.servers[&1].applied_index >= at(10));
}

#[test]
fn whoever_asked_for_a_snapshot_is_answered_also_if_one_is_installed_first() {
    let mut cluster = Cluster::veteran(3, 5, &[1, 5, 5]);
    cluster.slow_chunks = vec![1];
    let meta = Arc::new(snapshot_meta(id(5, 10), 2, 3, b""));
    cluster.step(1, Event::Receive(message(2, 1, 5, append(id(5, 3), Entries::empty(), 3, 1))));
    cluster.step(1, Event::Receive(message(2, 1, 5, install(&meta, 0, b"", true, 2))));
    // Nothing is handed out between the request and the last chunk.
    let (now, ticket) = (cluster.now, Ticket::new(77));
    cluster.server(1).node.step(now, Event::TakeSnapshot { ticket }).expect("sound");
    cluster.perform_chunks(1);
    cluster.run_ms(1_000);
    assert!(cluster.outcome(1, ticket).is_some());
}

#[test]
fn a_snapshot_that_its_receiver_finds_damaged_is_not_sent_for_ever() {
    let mut cluster = Cluster::led_with(3, |config| {
        config.snapshot_policy = SnapshotPolicy::Never;
        config.snapshot_chunk_bytes = 10;
        config.compaction_margin_entries = 0;
        config.catch_up_timeout = Duration::from_secs(2);
    });
    cluster.commit_each(1, &["aaaaaaaaaaaa", "bbbbbbbbbbbbb", "ccccccccccccccc"]);
    cluster.take_snapshot(1);
    for (_, bytes) in cluster.server(1).disk.snapshots.values_mut() {
        let mut damaged = bytes.to_vec();
        damaged[0] ^= 1;
        *bytes = damaged.into();
    }
    cluster.join(4);
    cluster.update(1, &[4], &[], &[]);
    cluster.run_ms(20_000);
    let failed = |notice: &&Notice| matches!(notice, Notice::SnapshotFailed(_));
    let failures = cluster.servers[&4].notices.iter().filter(failed).count();
    assert!((1..20).contains(&failures), "{failures} times in 20 s");
}

#[test]
fn a_node_that_restarts_often_takes_snapshots_all_the_same() {
    let mut cluster = Cluster::led_with(1, |config| config.snapshot_policy = SnapshotPolicy::LogBytes(2_000));
    cluster.server(1).durable_machine = true;
    for _ in 0..50 {
        cluster.commit_each(1, &["aaaaaaaaaaaa", "bbbbbbbbbbbbb", "ccccccccccccccc"]);
        cluster.restart(1);
        cluster.run_ms(1_000);
    }
    assert_ne!(cluster.servers[&1].node.status().snapshot, LogId::ZERO);
}

#[test]
fn a_snapshot_that_arrives_a_second_time_is_not_forgotten_as_the_first() {
    // Half of it came from a leader that was replaced; later all of it comes again.
    let mut cluster = Cluster::veteran(3, 5, &[1]);
    let mine = Arc::new(snapshot_meta(id(5, 10), 2, 3, b"1@1 a\n"));
    let other = Arc::new(snapshot_meta(id(5, 9), 3, 3, b"1@1 b\n"));
    cluster.step(1, Event::Receive(message(2, 1, 6, install(&mine, 0, b"1@1", false, 1))));
    cluster.step(1, Event::Receive(message(3, 1, 7, install(&other, 0, b"1@1", false, 1))));
    cluster.step(1, Event::Receive(message(2, 1, 8, install(&mine, 0, b"1@1 a\n", true, 1))));
    assert_eq!(cluster.servers[&1].restored, [id(5, 10)]);
    cluster.run_ms(50);
    assert!(cluster.servers[&1].disk.snapshots.contains_key(&mine.id), "the log begins behind it");
    cluster.restart(1);
    assert_eq!(cluster.servers[&1].node.status().base, id(5, 10));
}
