//! §7: InstallSnapshot to those who are far away, full or broken: it arrives where it can, and nobody is worn out.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use raft_core::{
    Action, Body, Config, Conflict, Event, Instant, LogId, MachineTask, Message, Notice, ReplicationState,
    SnapshotError, SnapshotPolicy, SnapshotTask,
};

use super::s7_transfer::{TEN, behind, equal, is_chunk, joining, small_chunks, written};
use super::support::{Cluster, at, id, message, n, snapshot_meta};

fn count(cluster: &Cluster, counted: impl Fn(&Action) -> bool) -> usize {
    let trace = cluster.trace.as_ref().expect("kept");
    trace.iter().filter(|(_, action)| counted(action)).count()
}

fn chunks_sent(cluster: &Cluster) -> usize {
    count(cluster, |action| matches!(action, Action::Send(message) if is_chunk(message)))
}

fn snapshots_taken(cluster: &Cluster) -> usize {
    count(cluster, |action| matches!(action, Action::Machine(MachineTask::TakeSnapshot(_))))
}

/// Lets time pass, with `turn` whenever nothing is left to do, until that says to stop or the time is over.
fn pass(cluster: &mut Cluster, ms: u64, mut turn: impl FnMut(&mut Cluster) -> bool) {
    let end = cluster.now + Duration::from_millis(ms);
    while !turn(cluster) {
        let Some((when, server)) = cluster.next_due().filter(|(when, _)| *when <= end) else { return };
        cluster.now = cluster.now.max(when);
        cluster.wake(server);
    }
}

/// A transfer whose chunks are under way for so long, while everything else overtakes them. Returns how many were sent.
fn sent_late(chunk_bytes: u64, delay_ms: u64) -> usize {
    let mut cluster = behind(3, &[3], chunk_bytes);
    let delay = Duration::from_millis(delay_ms);
    let mut under_way: VecDeque<(Instant, Message)> = VecDeque::new();
    pass(&mut cluster, 100 * delay_ms + 2_000, |cluster| {
        let late = cluster.settle_but(is_chunk);
        under_way.extend(late.into_iter().map(|message| (cluster.now + delay, message)));
        while let Some((_, message)) = under_way.pop_front_if(|(when, _)| *when <= cluster.now) {
            cluster.deliver(message);
            let late = cluster.settle_but(is_chunk);
            under_way.extend(late.into_iter().map(|message| (cluster.now + delay, message)));
        }
        equal(cluster, 3)
    });
    assert!(equal(&cluster, 3), "late by {delay_ms} ms, it arrives all the same");
    assert_eq!(snapshots_taken(&cluster), 0, "late by {delay_ms} ms: nothing was wrong with the first one");
    chunks_sent(&cluster)
}

#[test]
fn a_snapshot_of_one_chunk_arrives_however_late_that_is() {
    for delay_ms in [60, 200, 500, 700, 1_000, 1_500, 2_000, 5_000, 20_000] {
        let sent = sent_late(1 << 20, delay_ms);
        assert!(sent <= 8, "late by {delay_ms} ms, it was sent {sent} times");
    }
}

#[test]
fn chunks_that_are_late_are_not_sent_again_each_time() {
    let chunks = sent_late(10, 0);
    assert!(chunks > 5);
    for delay_ms in [60, 700, 2_000] {
        let sent = sent_late(10, delay_ms);
        assert!(sent <= chunks + 4, "{chunks} chunks, late by {delay_ms} ms, were sent {sent} times");
    }
}

/// The store at 3 fails to write what begins there or later, for ten seconds. Returns how many chunks were sent, and how
/// many snapshots taken.
fn refused(chunk_bytes: u64, from: u64) -> (usize, usize) {
    let mut cluster = behind(3, &[3], chunk_bytes);
    cluster.slow_chunks = vec![3];
    let mut failed = 0;
    pass(&mut cluster, 10_000, |cluster| {
        cluster.settle();
        while let Some(task) = cluster.servers[&3].chunk_tasks.front() {
            match task {
                SnapshotTask::Write { offset, .. } if *offset >= from => {
                    failed += 1;
                    cluster.fail_chunk(3, SnapshotError::Failed);
                }
                _ => cluster.perform_chunk(3),
            }
            cluster.settle();
        }
        false
    });
    assert!(failed > 2, "it is tried again");
    cluster.slow_chunks.clear();
    cluster.perform_chunks(3);
    cluster.run_ms(30_000);
    assert!(equal(&cluster, 3), "once there is room it arrives");
    (chunks_sent(&cluster), snapshots_taken(&cluster))
}

#[test]
fn a_receiver_without_room_is_left_alone_for_longer_each_time() {
    let all = sent_late(10, 0);
    for (chunk_bytes, from, tries) in [(10, 0, 8), (10, 10, 16), (1 << 20, 0, 8)] {
        let (sent, taken) = refused(chunk_bytes, from);
        assert!(sent <= tries + all, "chunks of {chunk_bytes}, none kept from {from} on: {sent} sent");
        assert!(taken <= 3, "chunks of {chunk_bytes}, none kept from {from} on: {taken} snapshots taken");
    }
}

#[test]
fn a_leader_that_can_neither_read_its_snapshot_nor_take_one_tries_less_and_less_often() {
    let mut cluster = behind(3, &[3], 10);
    (cluster.slow_chunks, cluster.slow_snapshots) = (vec![1], vec![1]);
    pass(&mut cluster, 10_000, |cluster| {
        cluster.settle();
        for _ in 0..100 {
            if cluster.servers[&1].taking.is_some() {
                cluster.fail_snapshot(1, SnapshotError::Failed);
            } else if matches!(cluster.servers[&1].chunk_tasks.front(), Some(SnapshotTask::Read { .. })) {
                cluster.fail_chunk(1, SnapshotError::Unusable);
            } else if cluster.servers[&1].chunk_tasks.is_empty() {
                return false;
            } else {
                cluster.perform_chunk(1);
            }
            cluster.settle();
        }
        unreachable!("one event brings a few tasks")
    });
    let (taken, notices) = (snapshots_taken(&cluster), cluster.servers[&1].notices.len());
    assert!((2..=8).contains(&taken), "{taken} snapshots");
    assert!(notices <= 30, "{notices} notices");
}

#[test]
fn a_snapshot_that_is_only_less_work_and_cannot_be_read_makes_way_for_the_log() {
    let mut cluster = joining(500);
    (cluster.slow_chunks, cluster.slow_snapshots) = (vec![1], vec![1]);
    let mut failed = 0;
    pass(&mut cluster, 10_000, |cluster| {
        cluster.settle();
        if cluster.servers[&1].taking.is_some() {
            cluster.fail_snapshot(1, SnapshotError::Failed);
        }
        if !cluster.servers[&1].chunk_tasks.is_empty() {
            cluster.fail_chunk(1, SnapshotError::Unusable);
            failed += 1;
        }
        equal(cluster, 2)
    });
    assert!(failed > 0, "a snapshot is what it was to get");
    assert!(equal(&cluster, 2) && cluster.servers[&2].restored.is_empty());
}

/// Server 3 has missed what is now only in snapshots, of which there is one for each ten entries; its store takes no chunk by
/// itself.
pub(crate) fn lagging(configure: impl Fn(&mut Config)) -> Cluster {
    let mut cluster = Cluster::led_with(3, |config| {
        small_chunks(config);
        config.snapshot_policy = SnapshotPolicy::LogsSinceLast(10);
        configure(config);
    });
    cluster.cut = vec![3];
    (0..3).for_each(|_| cluster.commit_each(1, &TEN));
    cluster.wire.clear();
    cluster.cut.clear();
    cluster.slow_chunks = vec![3];
    cluster
}

#[test]
fn a_receiver_that_stays_busy_does_not_keep_the_leader_from_compacting() {
    // Its store hangs with the first chunk.
    let mut cluster = lagging(|_| ());
    cluster.run_ms(500);
    let begun = cluster.servers[&1].node.status().snapshot;
    cluster.commit_each(1, &TEN);
    cluster.run_ms(1_000);
    let status = cluster.servers[&1].node.status();
    assert!(
        status.snapshot > begun && status.base == begun,
        "for a while the log goes on behind what is sent"
    );
    for _ in 0..40 {
        cluster.commit_each(1, &TEN);
        cluster.run_ms(1_000);
    }
    assert!(cluster.servers[&1].node.status().base > status.snapshot, "not for ever");
    cluster.perform_chunks(3);
    cluster.slow_chunks.clear();
    cluster.run_ms(10_000);
    assert!(equal(&cluster, 3));
}

#[test]
fn who_got_a_snapshot_gets_the_log_behind_it_and_not_the_next_snapshot() {
    let mut cluster = lagging(|config| {
        // What is kept cannot be sent at once.
        (config.inflight_appends_max, config.append_entries_max) = (1, 4);
    });
    // Each chunk takes as long as ten entries, which make another snapshot.
    for _ in 0..200 {
        if equal(&cluster, 3) {
            break;
        }
        cluster.propose(1, &TEN);
        let to_third = cluster.settle_but(|message| message.to == n(3));
        to_third.into_iter().for_each(|message| cluster.deliver(message));
        if !cluster.servers[&3].chunk_tasks.is_empty() {
            cluster.perform_chunk(3);
        }
        cluster.settle();
        cluster.run_ms(60);
    }
    assert!(equal(&cluster, 3), "it catches up beside the load");
    assert_eq!(cluster.servers[&3].restored.len(), 1, "with the first snapshot that it was sent");
}

/// A follower that takes in `taken` entries while ten are proposed. Returns whether it is there in the end, and how many
/// entries the leader's log had at most between its first snapshot and the next.
fn catching_up_beside_load(taken: usize) -> (bool, u64) {
    let mut cluster = lagging(|config| {
        config.compaction_margin_entries = 40;
        (config.inflight_appends_max, config.append_entries_max) = (1, 1);
    });
    let mut longest = 0;
    for _ in 0..300 {
        cluster.propose(1, &TEN);
        let mut kept: Vec<_> = cluster.settle_but(|message| message.to == n(3));
        for _ in 0..taken {
            kept.drain(..).for_each(|message| cluster.deliver(message));
            if cluster.servers[&3].restored.is_empty() && !cluster.servers[&3].chunk_tasks.is_empty() {
                cluster.perform_chunk(3);
                kept.extend(cluster.settle_but(|message| message.to == n(3)));
                break;
            }
            kept.extend(cluster.settle_but(|message| message.to == n(3)));
        }
        cluster.now = cluster.now + Duration::from_millis(60);
        cluster.wake(1);
        kept.extend(cluster.settle_but(|message| message.to == n(3)));
        kept.into_iter().for_each(|message| cluster.deliver(message));
        let status = cluster.servers[&1].node.status();
        let sending = cluster.peer_state(1, 3) == Some(ReplicationState::Snapshot);
        if !cluster.servers[&3].restored.is_empty() && !sending {
            longest = longest.max(status.last.index.since(status.base.index));
        }
    }
    let behind = cluster.last(1) - cluster.last(3);
    (behind <= 40 && cluster.servers[&3].restored.len() == 1, longest)
}

#[test]
fn the_log_is_kept_for_who_catches_up_and_not_for_who_never_will() {
    let (there, _) = catching_up_beside_load(30);
    assert!(there, "it takes in more than is written");
    let (there, longest) = catching_up_beside_load(2);
    assert!(!there && longest < 1_000, "it takes in less; {longest} entries were kept");
}

#[test]
fn a_short_silence_does_not_start_it_over_with_a_newer_snapshot() {
    let mut cluster = behind(3, &[3], 10);
    cluster.run_until(2_000, |cluster| written(cluster, 3).len() == 5);
    cluster.wire.clear();
    cluster.cut = vec![3];
    cluster.commit_each(1, &["more"]);
    cluster.take_snapshot(1);
    // Longer than an election timeout.
    cluster.run_ms(1_000);
    cluster.commit_each(1, &["and more"]);
    cluster.cut.clear();
    cluster.wire.clear();
    cluster.run_ms(3_000);
    assert!(equal(&cluster, 3));
    let offsets = written(&cluster, 3);
    assert!(offsets.iter().filter(|offset| **offset == 0).count() == 1, "{offsets:?}");
}

#[test]
fn a_broken_connection_does_not_start_it_over_with_a_newer_snapshot() {
    let mut cluster = behind(3, &[3], 10);
    cluster.run_until(2_000, |cluster| written(cluster, 3).len() == 5);
    cluster.wire.clear();
    cluster.cut = vec![3];
    let before = cluster.servers[&1].node.status().snapshot;
    cluster.commit_each(1, &["more"]);
    cluster.take_snapshot(1);
    assert!(cluster.servers[&1].node.status().snapshot > before);
    cluster.cut.clear();
    cluster.wire.clear();
    cluster.step(1, Event::Unreachable(n(3)));
    cluster.run_ms(2_000);
    assert!(equal(&cluster, 3));
    let offsets = written(&cluster, 3);
    assert_eq!(offsets.get(5), Some(&50), "{offsets:?}");
}

#[test]
fn snapshots_that_are_named_and_never_sent_leave_nothing_to_be_forgotten() {
    let mut cluster = Cluster::led(3);
    cluster.run_ms(100);
    cluster.trace = Some(Vec::new());
    let term = cluster.term(1);
    for round in 0..1_000 {
        let mut meta = snapshot_meta(id(2, 50), 1, 3, b"0123456789");
        meta.id.seq = round;
        let round = 100 + round;
        let meta = Arc::new(meta);
        let body = Body::InstallSnapshot { meta, offset: 0, data: Bytes::new(), done: false, round };
        cluster.step(3, Event::Receive(message(1, 3, term, body)));
    }
    assert_eq!(count(&cluster, |action| matches!(action, Action::Snapshot(_))), 0);
}

#[test]
fn refusals_of_what_comes_before_the_log_are_nonsense() {
    let mut cluster = Cluster::led(3);
    cluster.commit_each(1, &TEN);
    cluster.time_out(1);
    let rounds = cluster.wire.iter().filter_map(|message| match message.body {
        Body::AppendEntries { round, .. } => Some(round),
        _ => None,
    });
    let round = rounds.max().expect("a heartbeat is due");
    cluster.wire.clear();
    let (term, notices) = (cluster.term(1), cluster.servers[&1].notices.len());
    for _ in 0..100 {
        let result = Err(Conflict { prev: at(0), hint: LogId::ZERO });
        let body = Body::AppendEntriesReply { result, round };
        cluster.step(1, Event::Receive(message(3, 1, term, body)));
    }
    assert_eq!(cluster.servers[&1].node.status().counters.absurd, 100);
    assert_eq!((cluster.wire.len(), cluster.servers[&1].notices.len()), (0, notices));
}

/// Everything to and from server 3 takes `delay_ms`; every `every_ms` there is another snapshot. Whether it gets one within
/// twenty seconds.
fn far_away(delay_ms: u64, every_ms: u64) -> bool {
    let mut cluster = lagging(|config| config.snapshot_chunk_bytes = 1 << 20);
    cluster.slow_chunks.clear();
    let (begun, delay) = (cluster.now, Duration::from_millis(delay_ms));
    let mut under_way: VecDeque<(Instant, Message)> = VecDeque::new();
    for ms in (0..20_000).step_by(10) {
        cluster.now = begun + Duration::from_millis(ms);
        while let Some((_, server)) = cluster.next_due().filter(|(when, _)| *when <= cluster.now) {
            cluster.wake(server);
        }
        if ms % every_ms == 0 {
            cluster.propose(1, &TEN);
        }
        loop {
            let sent = cluster.settle_but(|message| message.to == n(3) || message.from == n(3));
            under_way.extend(sent.into_iter().map(|message| (cluster.now + delay, message)));
            let Some((_, message)) = under_way.pop_front_if(|(when, _)| *when <= cluster.now) else { break };
            cluster.deliver(message);
        }
    }
    !cluster.servers[&3].restored.is_empty()
}

#[test]
fn snapshots_that_follow_each_other_faster_than_answers_come_are_sent_all_the_same() {
    for (delay_ms, every_ms) in
        [(20, 1_000), (100, 400), (100, 150), (100, 100), (150, 50), (250, 100), (400, 300)]
    {
        assert!(far_away(delay_ms, every_ms), "{delay_ms} ms each way, a snapshot each {every_ms} ms");
    }
}

#[test]
fn who_begins_anew_gets_the_latest() {
    let mut cluster = behind(3, &[3], 10);
    cluster.run_until(2_000, |cluster| written(cluster, 3).len() == 3);
    cluster.propose(1, &["more"]);
    drop(cluster.settle_but(|message| message.to == n(3)));
    cluster.take_snapshot(1);
    drop(cluster.settle_but(|message| message.to == n(3)));
    let latest = cluster.servers[&1].node.status().snapshot;
    cluster.restart(3);
    cluster.trace.as_mut().expect("kept").clear();
    cluster.run_ms(3_000);
    assert!(equal(&cluster, 3));
    let old = count(&cluster, |action| {
        matches!(action, Action::Send(Message { body: Body::InstallSnapshot { meta, data, .. }, .. })
            if !data.is_empty() && meta.id.last != latest)
    });
    assert!(old <= 1, "{old} chunks of the old one");
}

/// Server 4 is to vote, and gets a snapshot in many chunks, which its store takes when it is told to.
fn joining_by_small_chunks() -> Cluster {
    let mut cluster = Cluster::led_with(3, |config| {
        small_chunks(config);
        config.snapshot_chunk_bytes = 2;
    });
    cluster.commit_each(1, &TEN);
    cluster.take_snapshot(1);
    cluster.join(4);
    cluster.slow_chunks = vec![4];
    cluster.update(1, &[4], &[], &[]);
    cluster
}

#[test]
fn a_new_voter_that_restarts_on_its_way_gets_further_all_the_same() {
    let mut cluster = joining_by_small_chunks();
    for second in 0..300 {
        cluster.run_ms(1_000);
        if second % 2 == 0 {
            cluster.perform_chunk(4);
        }
        if second == 50 {
            cluster.restart(4);
        }
    }
    let timed_out = |notice: &&Notice| matches!(notice, Notice::ChangeTimedOut { .. });
    assert_eq!(cluster.servers[&1].notices.iter().find(timed_out), None);
    assert_eq!(cluster.voters(1), [1, 2, 3, 4]);
}

/// A voter that joins gets a chunk a second, and does so with its place in the run. Returns after how many seconds the change is
/// given up, if it is.
fn given_up(mut turn: impl FnMut(&mut Cluster, usize)) -> Option<usize> {
    let mut cluster = joining_by_small_chunks();
    let timed_out = |notice: &Notice| matches!(notice, Notice::ChangeTimedOut { .. });
    (0..600).find(|second| {
        cluster.run_ms(1_000);
        turn(&mut cluster, *second);
        cluster.servers[&1].notices.iter().any(timed_out)
    })
}

#[test]
fn a_new_voter_that_loses_what_it_got_again_and_again_gets_no_further() {
    for (each_s, newer) in [(4, false), (8, false), (20, false), (4, true), (20, true)] {
        let crashes = |cluster: &mut Cluster, second: usize| {
            cluster.perform_chunk(4);
            if second % each_s == each_s - 1 {
                take_another(cluster, newer);
                cluster.restart(4);
            }
        };
        let is_given_up = given_up(crashes).is_some_and(|second| second <= 180);
        assert!(is_given_up, "it crashes each {each_s} s, newer snapshots {newer}");
    }
    // Its connection breaks after it began anew, and then there is another snapshot.
    let crashes = |cluster: &mut Cluster, second: usize| match second % 6 {
        4 => cluster.restart(4),
        5 => {
            cluster.step(1, Event::Unreachable(n(4)));
            take_another(cluster, true);
        }
        _ => cluster.perform_chunk(4),
    };
    assert!(given_up(crashes).is_some_and(|second| second <= 180), "it is interrupted besides");
    for newer in [false, true] {
        let without_room = |cluster: &mut Cluster, _| match cluster.servers[&4].chunk_tasks.front() {
            Some(SnapshotTask::Write { offset: 6.., .. }) => {
                take_another(cluster, newer);
                cluster.fail_chunk(4, SnapshotError::Failed);
            }
            _ => cluster.perform_chunk(4),
        };
        let is_given_up = given_up(without_room).is_some_and(|second| second <= 180);
        assert!(is_given_up, "it has no room for all of it, newer snapshots {newer}");
    }
}

fn take_another(cluster: &mut Cluster, newer: bool) {
    if newer {
        cluster.commit_each(1, &["x"]);
        cluster.take_snapshot(1);
    }
}

/// Nothing reaches 3 for so long, in the midst of a snapshot, and then so many chunks are lost besides. Returns in how many
/// seconds it is there.
fn after_an_outage(outage_s: u64, lost: usize) -> u64 {
    let mut cluster = behind(3, &[3], 10);
    let mut chunks = 0;
    pass(&mut cluster, 10_000, |cluster| {
        let sent = cluster.settle_but(is_chunk);
        chunks += sent.len();
        if chunks <= 2 {
            sent.into_iter().for_each(|message| cluster.deliver(message));
        }
        chunks > 2
    });
    let healed = cluster.now + Duration::from_secs(outage_s);
    pass(&mut cluster, outage_s * 1_000, |cluster| {
        drop(cluster.settle_but(|message| message.to == n(3) || message.from == n(3)));
        false
    });
    cluster.now = healed;
    let mut left = lost;
    pass(&mut cluster, 100_000, |cluster| {
        for chunk in cluster.settle_but(is_chunk) {
            match left {
                0 => cluster.deliver(chunk),
                _ => left -= 1,
            }
        }
        equal(cluster, 3)
    });
    assert!(equal(&cluster, 3), "{outage_s} s of an outage, {lost} chunks lost");
    cluster.now.since(healed).as_secs()
}

#[test]
fn how_long_an_outage_was_says_nothing_of_how_long_chunks_take() {
    for lost in [0, 1, 2] {
        let took = after_an_outage(7_200, lost);
        assert!(took <= 40, "{took} s with {lost} chunks lost after it");
    }
}
