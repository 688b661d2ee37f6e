//! §7: how much log a leader keeps beside a snapshot that is on its way, and for whom.

use std::time::Duration;

use raft_core::{Body, Event, InstallProgress, SnapshotPolicy, SnapshotTask};

use super::s7_pace::lagging;
use super::s7_transfer::{TEN, equal, small_chunks, written};
use super::support::{Cluster, message, n};

/// The entries in the leader's log.
fn kept(cluster: &Cluster) -> u64 {
    let status = cluster.servers[&1].node.status();
    status.last.index.since(status.base.index)
}

#[test]
fn a_transfer_that_crawls_keeps_no_more_log_than_would_be_worth_it() {
    let mut cluster = lagging(|config| config.inflight_bytes_max = 4_000);
    let mut longest = 0;
    // Each chunk takes 25 s, beside ten entries a second.
    for second in 1..=1_000 {
        if !cluster.servers[&3].restored.is_empty() {
            break;
        }
        cluster.commit_each(1, &TEN);
        cluster.run_ms(1_000);
        if second % 25 == 0 {
            cluster.perform_chunks(3);
        }
        longest = longest.max(kept(&cluster));
    }
    assert!(longest > 30, "the log is kept beside a transfer");
    assert!(longest <= 100, "{longest} entries were kept");
    assert!(!cluster.servers[&3].restored.is_empty(), "it arrives all the same");
}

#[test]
fn a_peer_that_claims_to_get_further_all_the_time_does_not_hold_the_log() {
    let mut cluster =
        lagging(|config| (config.snapshot_chunk_bytes, config.inflight_bytes_max) = (1 << 20, 4_000));
    let (mut longest, mut claimed) = (0, 0);
    for second in 0..400 {
        cluster.commit_each(1, &TEN);
        for _ in 0..20 {
            cluster.time_out(1);
            for sent in cluster.settle_but(|message| message.to == n(3)) {
                let Body::InstallSnapshot { meta, round, .. } = &sent.body else { continue };
                claimed = if second % 25 == 0 { claimed + 1 } else { claimed };
                let progress = InstallProgress::Wants(claimed % meta.size_bytes);
                let body = Body::InstallSnapshotReply { id: meta.id, progress, round: *round };
                cluster.step(1, Event::Receive(message(3, 1, sent.term.get(), body)));
            }
        }
        longest = longest.max(kept(&cluster));
    }
    assert!(longest <= 200, "{longest} entries were kept");
}

#[test]
fn a_peer_that_claims_anything_has_one_chunk_read_at_a_time() {
    let mut cluster = lagging(|_| ());
    cluster.slow_chunks = vec![1];
    let mut asked = None;
    for _ in 0..10 {
        cluster.time_out(1);
        let to_third = cluster.settle_but(|message| message.to == n(3));
        asked = to_third.iter().find_map(|message| match &message.body {
            Body::InstallSnapshot { meta, round, .. } => Some((meta.id, *round)),
            _ => None,
        });
        if asked.is_some() {
            break;
        }
        to_third.into_iter().for_each(|message| cluster.deliver(message));
    }
    let (id, round) = asked.expect("it is asked how far it is");
    let term = cluster.term(1);
    for offset in 0..100 {
        let progress = InstallProgress::Wants(offset);
        let body = Body::InstallSnapshotReply { id, progress, round };
        cluster.step(1, Event::Receive(message(3, 1, term, body)));
    }
    assert_eq!(cluster.servers[&1].chunk_tasks.len(), 1);
}

/// Its store takes 40 s for the last chunk, beside entries; two seconds after that came the connection breaks, or not.
/// Returns how many snapshots it was sent, and how many are there.
fn takes_long_to_finish(breaks: bool) -> (usize, usize) {
    let mut cluster = lagging(|_| ());
    let mut finishing = Vec::new();
    for second in 0..200 {
        cluster.commit_each(1, &TEN);
        cluster.run_ms(1_000);
        if breaks && finishing.last().is_some_and(|(_, at)| at + 2 == second) {
            cluster.step(1, Event::Unreachable(n(3)));
        }
        while let Some(task) = cluster.servers[&3].chunk_tasks.front() {
            if let SnapshotTask::Write { meta, done: true, .. } = task {
                if finishing.last().is_none_or(|(id, _)| *id != meta.id) {
                    finishing.push((meta.id, second));
                }
                if finishing.last().is_some_and(|(_, at)| second < at + 40) {
                    break;
                }
            }
            cluster.perform_chunk(3);
            cluster.settle();
        }
        if !cluster.servers[&3].restored.is_empty() {
            break;
        }
    }
    (finishing.len(), cluster.servers[&3].restored.len())
}

#[test]
fn a_receiver_that_takes_long_to_finish_is_not_sent_another_one_meanwhile() {
    assert_eq!([false, true].map(takes_long_to_finish), [(1, 1), (1, 1)]);
}

#[test]
fn a_snapshot_that_waits_for_the_machine_is_not_thrown_away_for_the_next_one() {
    let mut cluster = Cluster::led_with(3, |config| {
        small_chunks(config);
        config.snapshot_policy = SnapshotPolicy::LogsSinceLast(10);
    });
    cluster.commit_each(1, &TEN);
    cluster.beat(1, 2);
    cluster.cut = vec![3];
    (0..3).for_each(|_| cluster.commit_each(1, &TEN));
    cluster.wire.clear();
    cluster.cut.clear();
    cluster.trace = Some(Vec::new());
    // For a minute and a half it restores the one that it had.
    cluster.slow_machines = vec![3];
    cluster.restart(3);
    for _ in 0..90 {
        cluster.commit_each(1, &TEN);
        cluster.run_ms(1_000);
    }
    assert_eq!(written(&cluster, 3).iter().filter(|offset| **offset == 0).count(), 1);
    cluster.slow_machines.clear();
    cluster.report_applied(3);
    cluster.run_ms(2_000);
    assert!(equal(&cluster, 3));
}

#[test]
fn who_takes_long_to_restore_a_small_state_and_keeps_up_easily_needs_one_snapshot() {
    // The defaults, divided by 1,024: a state of 2.4 "MB", writes of 36 "MB/s", three seconds for the last chunk.
    let mut cluster = Cluster::led_with(3, |config| {
        config.snapshot_policy = SnapshotPolicy::LogBytes(64 << 10);
        config.tail_bytes_max = 8 << 10;
        config.append_bytes_max = 256;
        config.inflight_bytes_max = 8 << 10;
        config.snapshot_chunk_bytes = 1 << 10;
        config.compaction_margin_entries = 10;
    });
    cluster.servers.values_mut().for_each(|server| server.remembers = 20);
    let command = "x".repeat(100);
    let commands = [command.as_str(); 18];
    cluster.cut = vec![3];
    (0..170).for_each(|_| cluster.commit_each(1, &commands));
    cluster.wire.clear();
    cluster.cut.clear();
    cluster.slow_chunks = vec![3];
    let mut done_at = None;
    for _ in 0..600 {
        if equal(&cluster, 3) {
            break;
        }
        cluster.propose(1, &commands);
        cluster.settle();
        while let Some(task) = cluster.servers[&3].chunk_tasks.front() {
            if let SnapshotTask::Write { done: true, .. } = task {
                let at = *done_at.get_or_insert(cluster.now + Duration::from_secs(3));
                if cluster.now < at {
                    break;
                }
                done_at = None;
            }
            cluster.perform_chunk(3);
            cluster.settle();
        }
        cluster.run_ms(50);
    }
    assert!(equal(&cluster, 3));
    assert_eq!(cluster.servers[&3].restored.len(), 1);
}
