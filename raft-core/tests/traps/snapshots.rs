//! Traps 36 to 43: snapshots.

use std::sync::Arc;

use raft_core::{Body, Entries, Event, Message, SnapshotPolicy};

use super::support::{
    Cluster, append, at, id, in_term, install, log, machine_bytes, message, snapshot_meta, voters,
};

#[test]
fn trap_36_an_old_snapshot_leaves_a_newer_log_alone() {
    let mut cluster = Cluster::led(3);
    cluster.commit_each(1, &["a", "b", "c"]);
    cluster.beat(1, 1);
    let before = cluster.servers[&2].disk.clone();
    for last in 2..=5 {
        let data = machine_bytes(&[]);
        let meta = Arc::new(snapshot_meta(id(2, last), 1, 3, &data));
        cluster.step(2, Event::Receive(message(1, 2, 2, install(&meta, 0, &data, true, 9))));
        assert_eq!((cluster.servers[&2].disk.base, cluster.last(2)), (before.base, 5));
        assert_eq!(cluster.servers[&2].disk.log, before.log);
        assert!(cluster.servers[&2].restored.is_empty());
    }
}

#[test]
fn trap_38_a_membership_in_the_log_that_a_snapshot_replaces_is_gone() {
    let mut cluster = Cluster::pristine(1);
    let own = Entries::membership(id(3, 2), Arc::new(voters(1..=1)));
    let stored = Entries::join([log(3, &[1]), own]).expect("consecutive");
    cluster.place(1, in_term(8), stored);
    cluster.now = cluster.servers[&1].node.deadline().unwrap_or(cluster.now);
    assert_eq!(cluster.voters(1), [1]);
    let meta = Arc::new(snapshot_meta(id(5, 7), 2, 5, b""));
    cluster.step(1, Event::Receive(message(2, 1, 9, install(&meta, 0, b"", true, 1))));
    assert_eq!(cluster.voters(1), [1, 2, 3, 4, 5]);
    cluster.restart(1);
    assert_eq!(cluster.voters(1), [1, 2, 3, 4, 5]);
}

#[test]
fn trap_42_a_fresh_leader_has_the_snapshot_that_its_log_needs() {
    let mut cluster = Cluster::led_with(3, |config| {
        config.snapshot_policy = SnapshotPolicy::Never;
        config.compaction_margin_entries = 0;
    });
    cluster.cut = vec![3];
    cluster.commit_each(1, &["a", "b", "c"]);
    cluster.take_snapshot(1);
    cluster.restart(1);
    cluster.elect(1);
    assert!(cluster.servers[&1].node.status().base.index > at(1));
    cluster.cut.clear();
    cluster.run_ms(2_000);
    assert_eq!(cluster.servers[&3].commands(), ["a", "b", "c"]);
    // Also one that got its own log by a snapshot.
    cluster.cut = vec![1];
    cluster.join(4);
    cluster.elect(3);
    cluster.set_members(3, &[1, 2, 3], &[4]);
    cluster.run_ms(2_000);
    assert_eq!(cluster.servers[&4].commands(), ["a", "b", "c"]);
}

#[test]
fn trap_43_a_snapshot_with_bytes_does_not_end_with_an_empty_chunk() {
    let mut cluster = Cluster::veteran(3, 9, &[1, 3]);
    let meta = Arc::new(snapshot_meta(id(5, 7), 2, 3, b"123"));
    cluster.step(1, Event::Receive(message(2, 1, 9, install(&meta, 0, b"123", false, 1))));
    cluster.step(1, Event::Receive(message(2, 1, 9, install(&meta, 3, b"", true, 2))));
    cluster.step(1, Event::Receive(message(2, 1, 9, install(&meta, 2, b"345", true, 2))));
    cluster.step(1, Event::Receive(message(2, 1, 9, install(&meta, u64::MAX, b"345", true, 2))));
    assert_eq!(cluster.servers[&1].node.status().counters.absurd, 4);
    assert_eq!(cluster.last(1), 2);
    cluster.step(1, Event::Receive(message(2, 1, 9, append(id(3, 2), Entries::empty(), 2, 3))));
    assert_eq!(cluster.commit(1), 2, "nothing is stuck");
}

#[test]
fn trap_43_a_chunk_of_the_same_name_with_another_content_does_not_join() {
    let mut cluster = Cluster::veteran(3, 9, &[1, 3]);
    let first = Arc::new(snapshot_meta(id(5, 7), 2, 3, b"123456"));
    let mut other = snapshot_meta(id(5, 7), 2, 3, b"abcdef");
    assert_eq!(first.id, other.id);
    cluster.step(1, Event::Receive(message(2, 1, 9, install(&first, 0, b"123", false, 1))));
    let second = Arc::new(other.clone());
    cluster.step(1, Event::Receive(message(2, 1, 9, install(&second, 3, b"def", true, 2))));
    assert!(cluster.servers[&1].disk.snapshots.is_empty());
    assert_eq!(cluster.last(1), 2, "nothing was put together of two");
    other.membership_index = at(2);
    let third = Arc::new(other);
    cluster.step(1, Event::Receive(message(2, 1, 9, install(&third, 3, b"def", true, 3))));
    assert!(cluster.servers[&1].disk.snapshots.is_empty());
}

#[test]
fn trap_39_a_snapshot_counts_when_it_is_installed_and_not_when_it_is_sent() {
    let mut cluster = Cluster::led_with(3, |config| {
        config.snapshot_policy = SnapshotPolicy::Never;
        config.compaction_margin_entries = 0;
    });
    cluster.cut = vec![3];
    cluster.commit_each(1, &["a", "b", "c"]);
    cluster.take_snapshot(1);
    cluster.cut.clear();
    let before = cluster.peer(1, 3).expect("a peer").match_index;
    assert!(before < at(5));
    let is_last = |message: &Message| matches!(message.body, Body::InstallSnapshot { done: true, .. });
    cluster.run_until(1_000, |cluster| cluster.wire.iter().any(is_last));
    assert_eq!(cluster.peer(1, 3).expect("a peer").match_index, before, "it is on its way");
    cluster.slow_disks = vec![3];
    cluster.settle();
    cluster.beat(1, 1);
    assert_eq!(cluster.peer(1, 3).expect("a peer").match_index, before, "the log on disk is the old one");
    cluster.hurry_disks();
    cluster.settle();
    cluster.beat(1, 1);
    assert_eq!(cluster.peer(1, 3).expect("a peer").match_index, at(5));
}
