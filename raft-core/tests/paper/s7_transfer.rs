//! §7: InstallSnapshot from the leader's side: who gets one, how its chunks flow, and how it is taken up again.

use std::collections::BTreeSet;

use raft_core::{
    Action, Body, Config, Message, ReplicationState, SnapshotError, SnapshotPolicy, SnapshotTask,
};

use super::support::{Cluster, at, n};

pub(crate) const TEN: [&str; 10] = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"];

pub(crate) fn small_chunks(config: &mut Config) {
    config.snapshot_policy = SnapshotPolicy::Never;
    config.compaction_margin_entries = 0;
    config.snapshot_chunk_bytes = 10;
}

/// Server 1 leads `size`; those in `away` have missed what is now only in its snapshot, which is sent in chunks of so many
/// bytes.
pub(crate) fn behind(size: u64, away: &[u64], chunk_bytes: u64) -> Cluster {
    let mut cluster = Cluster::led_with(size, |config| {
        small_chunks(config);
        config.snapshot_chunk_bytes = chunk_bytes;
    });
    cluster.cut = away.to_vec();
    cluster.commit_each(1, &TEN);
    cluster.take_snapshot(1);
    assert_eq!(cluster.servers[&1].node.status().base, cluster.servers[&1].node.status().snapshot);
    cluster.wire.clear();
    cluster.cut.clear();
    cluster.trace = Some(Vec::new());
    cluster
}

/// The offsets at which a server wrote chunks, in order.
pub(crate) fn written(cluster: &Cluster, server: u64) -> Vec<u64> {
    let trace = cluster.trace.as_ref().expect("kept");
    let offsets = trace.iter().filter_map(|(who, action)| match action {
        Action::Snapshot(SnapshotTask::Write { offset, .. }) if *who == server => Some(*offset),
        _ => None,
    });
    offsets.collect()
}

pub(crate) fn is_chunk(message: &Message) -> bool {
    matches!(&message.body, Body::InstallSnapshot { data, .. } if !data.is_empty())
}

pub(crate) fn equal(cluster: &Cluster, server: u64) -> bool {
    cluster.servers[&server].applied == cluster.servers[&1].applied && cluster.last(server) == cluster.last(1)
}

#[test]
fn a_follower_that_lacks_what_was_compacted_gets_the_snapshot_in_order() {
    let mut cluster = behind(3, &[3], 10);
    cluster.run_ms(2_000);
    assert!(equal(&cluster, 3));
    assert_eq!(cluster.servers[&3].restored.len(), 1);
    let offsets = written(&cluster, 3);
    assert!(offsets.len() > 5, "chunk by chunk: {offsets:?}");
    assert!(offsets.windows(2).all(|two| two[0] < two[1]), "each once, in order: {offsets:?}");
    assert_eq!(cluster.peer_state(1, 3), Some(ReplicationState::Replicate));
    cluster.commit_each(1, &["k"]);
    cluster.beat(1, 1);
    assert!(equal(&cluster, 3));
}

#[test]
fn while_a_snapshot_is_sent_the_leader_tells_how_far_it_is() {
    let mut cluster = behind(3, &[3], 10);
    cluster.run_until(2_000, |cluster| {
        let sent = cluster.peer(1, 3).and_then(|peer| peer.snapshot_bytes);
        sent.is_some_and(|(sent, size)| sent > 0 && sent < size)
    });
    let peer = cluster.peer(1, 3).expect("a peer");
    assert_eq!(peer.state, ReplicationState::Snapshot);
    assert!(
        peer.match_index < cluster.servers[&1].node.status().base.index,
        "nothing counts before it is installed"
    );
}

#[test]
fn several_followers_get_a_snapshot_at_once() {
    let mut cluster = behind(5, &[4, 5], 10);
    cluster.run_ms(2_000);
    assert!(equal(&cluster, 4) && equal(&cluster, 5));
}

#[test]
fn lost_chunks_and_lost_answers_are_taken_up_where_they_stopped() {
    for answers in [false, true] {
        let mut cluster = behind(3, &[3], 10);
        let mut lost = 0;
        for _ in 0..400 {
            let Some(message) = cluster.wire.pop_front() else {
                cluster.time_out(1);
                continue;
            };
            let reply = matches!(message.body, Body::InstallSnapshotReply { .. });
            let candidate = if answers { reply } else { is_chunk(&message) };
            if candidate && lost < 3 {
                lost += 1;
                continue;
            }
            cluster.deliver(message);
        }
        assert_eq!(lost, 3);
        assert!(equal(&cluster, 3));
        let offsets = written(&cluster, 3);
        let different: BTreeSet<u64> = offsets.iter().copied().collect();
        assert_eq!(offsets.len(), different.len(), "no chunk is written twice: {offsets:?}");
    }
}

#[test]
fn a_broken_connection_does_not_start_it_over() {
    let mut cluster = behind(3, &[3], 10);
    cluster.run_until(2_000, |cluster| written(cluster, 3).len() == 3);
    cluster.wire.clear();
    cluster.step(1, raft_core::Event::Unreachable(n(3)));
    cluster.run_ms(2_000);
    assert!(equal(&cluster, 3));
    assert_eq!(written(&cluster, 3).iter().filter(|offset| **offset == 0).count(), 1);
}

#[test]
fn chunks_of_two_snapshots_are_never_put_together() {
    let mut cluster = behind(3, &[3], 10);
    cluster.run_until(2_000, |cluster| written(cluster, 3).len() == 3);
    // 2 takes a snapshot of its own through the same entry, and leads; 1 is gone.
    cluster.wire.clear();
    cluster.cut = vec![3];
    cluster.beat(1, 1);
    cluster.take_snapshot(2);
    assert_eq!(cluster.servers[&2].node.status().base, cluster.servers[&1].node.status().base);
    cluster.cut = vec![1];
    let before = written(&cluster, 3).len();
    cluster.elect(2);
    cluster.run_ms(2_000);
    assert_eq!(cluster.servers[&3].applied, cluster.servers[&2].applied);
    assert_eq!(written(&cluster, 3).get(before), Some(&0), "another server's snapshot begins anew");
}

#[test]
fn a_transfer_ends_when_the_log_reaches_further() {
    let mut cluster = behind(3, &[3], 10);
    cluster.run_until(2_000, |cluster| written(cluster, 3).len() == 3);
    // 2 still has the whole log, and leads from now on.
    cluster.cut = vec![1];
    cluster.wire.clear();
    cluster.elect(2);
    cluster.run_ms(2_000);
    assert_eq!(cluster.servers[&3].applied, cluster.servers[&2].applied);
    assert_eq!(cluster.servers[&3].restored.len(), 0, "entries did it");
    assert!(cluster.servers[&3].disk.incoming.is_none(), "what had come of the snapshot is forgotten");
}

/// A server joins a leader whose log is all there beside a snapshot.
pub(crate) fn joining(append_bytes_max: u64) -> Cluster {
    let mut cluster = Cluster::led_with(1, |config| {
        config.snapshot_policy = SnapshotPolicy::Never;
        config.append_bytes_max = append_bytes_max;
    });
    for _ in 0..10 {
        cluster.commit_each(1, &TEN);
    }
    cluster.take_snapshot(1);
    assert_eq!(cluster.servers[&1].node.status().base.index, at(0), "the log is all there");
    cluster.join(2);
    cluster.set_members(1, &[1], &[2]);
    cluster
}

#[test]
fn a_new_server_gets_a_snapshot_when_that_is_less_work_than_the_log() {
    for (append_bytes_max, restored) in [(500, 1), (1 << 20, 0)] {
        let mut cluster = joining(append_bytes_max);
        cluster.run_ms(2_000);
        assert_eq!(cluster.servers[&2].restored.len(), restored);
        assert_eq!(cluster.last(2), cluster.last(1));
    }
}

#[test]
fn a_slow_store_holds_up_its_own_snapshot_only() {
    let mut cluster = behind(3, &[3], 10);
    cluster.slow_chunks = vec![3];
    cluster.run_ms(1_000);
    assert_eq!(cluster.servers[&3].chunk_tasks.len(), 1, "one chunk at a time");
    let term = cluster.term(1);
    let before = cluster.commit(1);
    cluster.commit_each(1, &["k"]);
    assert_eq!((cluster.commit(1), cluster.term(3)), (before + 1, term), "3 hears its leader meanwhile");
    for _ in 0..200 {
        cluster.perform_chunks(3);
        cluster.beat(1, 1);
    }
    assert!(equal(&cluster, 3));
}

#[test]
fn a_leader_whose_snapshot_is_unusable_takes_another() {
    let mut cluster = behind(3, &[3], 10);
    cluster.slow_chunks = vec![1];
    cluster.run_until(2_000, |cluster| !cluster.servers[&1].chunk_tasks.is_empty());
    cluster.fail_chunk(1, SnapshotError::Unusable);
    cluster.slow_chunks.clear();
    cluster.commit_each(1, &["k"]);
    cluster.run_ms(3_000);
    assert!(equal(&cluster, 3), "{:?}", cluster.servers[&1].notices);
}

#[test]
fn a_follower_whose_store_fails_is_served_again() {
    let mut cluster = behind(3, &[3], 10);
    cluster.slow_chunks = vec![3];
    cluster.run_until(2_000, |cluster| !cluster.servers[&3].chunk_tasks.is_empty());
    cluster.fail_chunk(3, SnapshotError::Failed);
    cluster.slow_chunks.clear();
    cluster.run_ms(3_000);
    assert!(equal(&cluster, 3), "{:?}", cluster.servers[&3].notices);
}

#[test]
fn a_follower_that_restarts_in_the_middle_begins_anew() {
    let mut cluster = behind(3, &[3], 10);
    cluster.run_until(2_000, |cluster| written(cluster, 3).len() == 3);
    cluster.restart(3);
    cluster.run_ms(3_000);
    assert!(equal(&cluster, 3));
}

#[test]
fn a_newer_snapshot_of_the_leader_does_not_starve_the_one_on_its_way() {
    let mut cluster = behind(3, &[3], 10);
    let mut done = false;
    // The leader takes a new one all the time, faster than any is sent.
    for round in 0..300 {
        if let Some(message) = cluster.wire.pop_front() {
            cluster.deliver(message);
        } else {
            cluster.time_out(1);
        }
        if round % 20 == 0 && !done {
            cluster.propose(1, &["more"]);
            cluster.take_snapshot(1);
        }
        done |= !cluster.servers[&3].restored.is_empty();
    }
    cluster.run_ms(1_000);
    assert!(done && equal(&cluster, 3));
}

#[test]
fn an_empty_snapshot_is_installed_too() {
    let mut cluster = Cluster::led_with(3, small_chunks);
    cluster.cut = vec![3];
    cluster.elect(2);
    cluster.elect(1);
    cluster.take_snapshot(1);
    let status = cluster.servers[&1].node.status();
    assert_eq!(status.base, status.snapshot, "without a single command");
    cluster.cut.clear();
    cluster.run_ms(1_000);
    assert_eq!((cluster.servers[&3].restored.len(), cluster.last(3)), (1, cluster.last(1)));
}
