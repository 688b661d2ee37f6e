//! §7: how much log a leader keeps beside a snapshot that is on its way, and for whom.

use std::time::Duration;

use raft_core::{Event, SnapshotPolicy, SnapshotTask};

use super::s7_pace::lagging;
use super::s7_transfer::{TEN, equal, small_chunks, written};
use super::support::{Cluster, n};

/// The entries in the leader's log.
pub(super) fn kept(cluster: &Cluster) -> u64 {
    let status = cluster.servers[&1].node.status();
    status.last.index.since(status.base.index)
}

/// A transfer of which each chunk takes so many seconds, beside ten entries and a snapshot a second. Returns whether it arrives,
/// and how many entries were kept at most.
fn crawl(each_s: u64) -> (bool, u64) {
    let mut cluster = lagging(|config| config.inflight_bytes_max = 4_000);
    cluster.servers.values_mut().for_each(|server| server.remembers = 10);
    let mut longest = 0;
    for second in 1..=1_500 {
        if !cluster.servers[&3].restored.is_empty() {
            return (true, longest);
        }
        cluster.commit_each(1, &TEN);
        cluster.run_ms(1_000);
        if second % each_s == 0 {
            cluster.perform_chunks(3);
        }
        longest = longest.max(kept(&cluster));
    }
    (false, longest)
}

#[test]
fn a_transfer_that_crawls_keeps_no_more_log_than_would_be_worth_it() {
    let (arrives, longest) = crawl(25);
    assert!(longest > 30, "the log is kept beside a transfer");
    assert!(longest <= 100, "{longest} entries were kept");
    assert!(arrives, "all the same");
}

#[test]
fn a_transfer_of_which_each_chunk_takes_longer_than_the_log_is_kept_arrives() {
    for each_s in [31, 45, 100] {
        let (arrives, longest) = crawl(each_s);
        assert!(arrives && longest <= 100, "{each_s} s a chunk, {longest} entries were kept");
    }
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
