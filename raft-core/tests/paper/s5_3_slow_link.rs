//! §5.3, §7: AppendEntries and InstallSnapshot over a link that takes its time for bytes, while what carries none overtakes
//! them.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use raft_core::{Body, Commands, Event, Instant, Message, NodeId, RoleKind, SnapshotPolicy, Ticket};

use super::s7_transfer::{TEN, equal};
use super::support::{Cluster, n};

const ENTRY_BYTES: u64 = 10_000;
const ENTRIES: u64 = 200;

fn payload_bytes(message: &Message) -> u64 {
    match &message.body {
        Body::AppendEntries { entries, .. } => entries.len() * ENTRY_BYTES,
        Body::InstallSnapshot { data, .. } => data.len() as u64,
        _ => 0,
    }
}

/// A link to server 3.
#[derive(Clone, Copy, Debug)]
struct Link {
    bytes_s: u64,
    /// What would wait beyond that is lost.
    waiting_bytes_max: u64,
    overtaking: bool,
}

/// Server 3 lacks two megabytes, which are entries or in a snapshot. Returns how long it took in milliseconds, if not for
/// ever, and the bytes that were sent.
fn catch_up(Link { bytes_s, waiting_bytes_max, overtaking }: Link, snapshot: bool) -> (Option<u64>, u64) {
    let mut cluster = Cluster::led_with(3, |config| {
        config.snapshot_policy = SnapshotPolicy::Never;
        config.compaction_margin_entries = 0;
    });
    cluster.cut = vec![3];
    let command = "x".repeat(usize::try_from(ENTRY_BYTES).expect("a small number"));
    for _ in 0..ENTRIES {
        cluster.propose(1, &[&command]);
        cluster.settle();
    }
    if snapshot {
        cluster.take_snapshot(1);
    }
    cluster.wire.clear();
    cluster.cut.clear();
    let (begun, mut free, mut sent_bytes) = (cluster.now, cluster.now, 0);
    let mut link: VecDeque<(Instant, Message)> = VecDeque::new();
    for tick in 0..120_000 {
        cluster.now = begun + Duration::from_millis(10 * tick);
        while let Some((_, server)) = cluster.next_due().filter(|(when, _)| *when <= cluster.now) {
            cluster.wake(server);
        }
        loop {
            let is_slow =
                |message: &Message| message.to == n(3) && (!overtaking || payload_bytes(message) > 0);
            for message in cluster.settle_but(is_slow) {
                let bytes = payload_bytes(&message);
                let waiting = free.since(cluster.now).as_millis() as u64 * bytes_s / 1_000;
                if bytes > 0 && waiting > waiting_bytes_max {
                    continue;
                }
                sent_bytes += bytes;
                free = free.max(cluster.now) + Duration::from_millis(bytes * 1_000 / bytes_s);
                link.push_back((free, message));
            }
            let Some((_, message)) = link.pop_front_if(|(when, _)| *when <= cluster.now) else { break };
            cluster.deliver(message);
        }
        if cluster.last(3) == cluster.last(1) {
            return (Some(10 * tick), sent_bytes);
        }
    }
    (None, sent_bytes)
}

/// Catches up over links so fast, in at most 6 times the bare time and with at most 12 times the bytes.
fn all_of_it_arrives(snapshot: bool, bytes_s: &[u64]) {
    for &bytes_s in bytes_s {
        let in_order = Link { bytes_s, waiting_bytes_max: u64::MAX, overtaking: false };
        let bare = catch_up(in_order, snapshot).0.expect("it arrives in order");
        for waiting_bytes_max in [u64::MAX, 4 << 20, 1 << 20] {
            let link = Link { bytes_s, waiting_bytes_max, overtaking: true };
            let (took, sent) = catch_up(link, snapshot);
            let took = took.unwrap_or_else(|| panic!("{link:?}: never there, {sent} bytes sent"));
            assert!(
                took <= 6 * bare && sent <= 12 * ENTRIES * ENTRY_BYTES,
                "{link:?}: {took} ms instead of {bare}, {sent} bytes"
            );
        }
    }
}

#[test]
fn entries_that_are_under_way_are_not_sent_again_and_again() {
    all_of_it_arrives(false, &[100_000, 500_000, 2_000_000]);
}

#[test]
fn nor_are_entries_that_are_under_way_for_longer_than_they_are_ever_waited_for_at_first() {
    all_of_it_arrives(false, &[30_000, 50_000, 70_000]);
}

#[test]
fn nor_are_chunks_of_a_snapshot() {
    all_of_it_arrives(true, &[30_000, 50_000, 100_000, 500_000]);
}

#[test]
fn entries_that_are_lost_are_sent_again_with_the_next_heartbeat() {
    let mut cluster = Cluster::led(3);
    cluster.commit_each(1, &["a"]);
    cluster.beat(1, 2);
    for round in 0..20 {
        // Everything on its way to 3 is lost.
        cluster.propose(1, &["lost"]);
        drop(cluster.settle_but(|message| message.to == n(3)));
        cluster.beat(1, 1);
        assert_eq!(cluster.last(3), cluster.last(1), "round {round}");
    }
}

/// Entries to 3, which is needed, are lost twice. Returns how long their commit takes then, in milliseconds. So many seconds
/// before, for which nothing was to be done, it lacked entries for so long; a transport may say so, or not.
fn lost_twice(outage_s: u64, said: bool, quiet_s: u64) -> u64 {
    let is_lost = |message: &Message| message.to == n(3) && payload_bytes(message) > 0;
    let mut cluster = Cluster::led(3);
    cluster.commit_each(1, &TEN);
    cluster.beat(1, 2);
    // Before that messages are lost, and with them the connection, for a while.
    cluster.propose(1, &["lost"]);
    drop(cluster.settle_but(is_lost));
    cluster.time_out(1);
    drop(cluster.settle_but(is_lost));
    cluster.cut_links = vec![(1, 3), (3, 1)];
    (0..outage_s * 20).for_each(|_| cluster.beat(1, 1));
    cluster.cut_links.clear();
    if said {
        cluster.step(1, Event::Unreachable(n(3)));
    }
    cluster.run_ms(1_000 * (outage_s + quiet_s));
    assert!(equal(&cluster, 3));
    cluster.cut = vec![2];
    let (begun, before) = (cluster.now, cluster.commit(1));
    cluster.propose(1, &["needed"]);
    let mut lost = 0;
    for _ in 0..1_000 {
        if cluster.commit(1) > before {
            break;
        }
        match lost {
            0 | 1 => lost += cluster.settle_but(is_lost).len(),
            _ => cluster.settle(),
        }
        cluster.time_out(1);
    }
    u64::try_from(cluster.now.since(begun).as_millis()).expect("a moment")
}

#[test]
fn an_outage_does_not_make_later_losses_dear() {
    for (said, quiet_s) in [(true, 1), (false, 4)] {
        let (before, after) = (lost_twice(0, said, quiet_s), lost_twice(60, said, quiet_s));
        assert!(after <= before + 100, "{after} ms instead of {before}; it was said: {said}");
    }
}

#[test]
fn a_receiver_that_was_full_gets_the_rest_as_soon_as_it_has_room() {
    let mut cluster = Cluster::led_with(3, |config| {
        (config.unpersisted_bytes_max, config.append_bytes_max) = (1_000, 500);
        config.snapshot_policy = SnapshotPolicy::Never;
    });
    cluster.beat(1, 2);
    cluster.slow_disks = vec![3];
    let command = "x".repeat(100);
    for _ in 0..60 {
        cluster.propose(1, &[&command]);
        cluster.settle();
    }
    cluster.beat(1, 200);
    assert!(cluster.servers[&3].node.status().counters.overflowed > 0, "it was full for ten seconds");
    cluster.sync(3);
    cluster.slow_disks.clear();
    cluster.settle();
    cluster.beat(1, 10);
    assert!(equal(&cluster, 3));
}

/// An entry is written each `every_ms` for a minute; those for 3 take turns on a link, `each_ms` an entry, and everything
/// else overtakes them. Returns how often entries were sent, and how far 3 is behind at the end.
fn beside_load(each_ms: u64, every_ms: u64) -> (u64, u64) {
    let mut cluster = Cluster::led(3);
    let mut link: VecDeque<(Instant, Message)> = VecDeque::new();
    let (begun, mut free, mut sent) = (cluster.now, cluster.now, 0);
    for ms in (0..60_000).step_by(10) {
        cluster.now = begun + Duration::from_millis(ms);
        while let Some((_, server)) = cluster.next_due().filter(|(when, _)| *when <= cluster.now) {
            cluster.wake(server);
        }
        if ms % every_ms == 0 {
            cluster.propose(1, &["x"]);
        }
        loop {
            for message in cluster.settle_but(|message| message.to == n(3) && payload_bytes(message) > 0) {
                let entries = payload_bytes(&message) / ENTRY_BYTES;
                sent += entries;
                free = free.max(cluster.now) + Duration::from_millis(entries * each_ms);
                link.push_back((free, message));
            }
            let Some((_, message)) = link.pop_front_if(|(when, _)| *when <= cluster.now) else { break };
            cluster.deliver(message);
        }
    }
    (sent, cluster.last(1) - cluster.last(3))
}

#[test]
fn beside_a_load_of_two_thirds_of_the_link_nobody_falls_behind() {
    for (each_ms, every_ms) in [(10, 20), (60, 110), (60, 120), (100, 150), (200, 300), (400, 600)] {
        let (sent, behind) = beside_load(each_ms, every_ms);
        let written = 60_000 / every_ms;
        assert!(
            behind <= 5 && sent <= 2 * written,
            "{each_ms} ms each, one every {every_ms} ms: {written} written, {sent} sent, {behind} behind"
        );
    }
}

/// An entry to 3 is lost while its disk stalls for ten seconds. Then the disk is quick, and after so many commits for which it
/// is needed an entry to it is lost. Returns how long that one's commit takes, in milliseconds.
fn lost_after_a_stall(between: usize) -> u64 {
    let is_lost = |message: &Message| message.to == n(3) && payload_bytes(message) > 0;
    let mut cluster = Cluster::led(3);
    cluster.commit_each(1, &TEN);
    cluster.beat(1, 2);
    cluster.slow_disks = vec![3];
    cluster.propose(1, &["lost"]);
    drop(cluster.settle_but(is_lost));
    cluster.beat(1, 200);
    cluster.hurry_disks();
    cluster.settle();
    cluster.beat(1, 1);
    assert!(equal(&cluster, 3));
    cluster.cut = vec![2];
    cluster.commit_each(1, &vec!["between"; between]);
    let (begun, before) = (cluster.now, cluster.commit(1));
    cluster.propose(1, &["needed"]);
    drop(cluster.settle_but(is_lost));
    for _ in 0..500 {
        if cluster.commit(1) > before {
            break;
        }
        cluster.beat(1, 1);
    }
    u64::try_from(cluster.now.since(begun).as_millis()).expect("a moment")
}

#[test]
fn a_stall_of_the_disk_makes_few_later_losses_dear() {
    let took = [0, 40].map(lost_after_a_stall);
    assert!(
        took[0] <= 3_300 && took[1] <= 100,
        "{took:?} ms: eight election timeouts at most, and soon a heartbeat"
    );
}

/// Clients propose as much as the leader takes, over links so fast, on which heartbeats overtake entries, and disks that take
/// so long for each write. Returns the bytes of entries that were sent to both followers in the second half of so many
/// seconds, and that were committed then.
fn saturated(bytes_s: u64, sync_ms: u64, seconds: u64) -> (u64, u64) {
    let mut cluster = Cluster::led_with(3, |config| config.snapshot_policy = SnapshotPolicy::Never);
    cluster.servers.values_mut().for_each(|server| server.remembers = 1);
    cluster.slow_disks = if sync_ms > 0 { vec![1, 2, 3] } else { Vec::new() };
    let command = Bytes::from(vec![0; usize::try_from(ENTRY_BYTES).expect("a small number")]);
    let (mut proposed, mut sent_bytes) = (1 << 20, 0);
    let mut under_way: Vec<(Instant, Message)> = Vec::new();
    let mut free = BTreeMap::<NodeId, Instant>::new();
    // When each disk is done with the write that it is busy with.
    let mut done = BTreeMap::<u64, Instant>::new();
    let mut before = (0, 0);
    for tick in 0..seconds * 1_000 {
        if tick == seconds * 500 {
            before = (sent_bytes, cluster.commit(1));
        }
        cluster.pass_ms(1);
        let now = cluster.now;
        while let Some((_, server)) = cluster.next_due().filter(|(when, _)| *when <= now) {
            cluster.wake(server);
        }
        for server in cluster.slow_disks.clone() {
            while !cluster.servers[&server].unsynced.is_empty()
                && *done.entry(server).or_insert(now + Duration::from_millis(sync_ms)) <= now
            {
                done.remove(&server);
                cluster.sync_one(server);
            }
        }
        while cluster.servers[&1].node.write_room_bytes() > 0 {
            proposed += 1;
            let commands = Commands::one(command.clone());
            cluster.step(1, Event::Propose { first: Ticket::new(proposed), commands });
        }
        for (_, message) in under_way.extract_if(.., |(when, _)| *when <= now).collect::<Vec<_>>() {
            cluster.deliver(message);
        }
        for message in core::mem::take(&mut cluster.wire) {
            let bytes = payload_bytes(&message);
            sent_bytes += bytes;
            let carried = free.entry(message.to).or_insert(now);
            *carried = (*carried).max(now) + Duration::from_micros(bytes * 1_000_000 / bytes_s);
            let arrives = if bytes > 0 { *carried } else { now };
            under_way.push((arrives + Duration::from_millis(1), message));
        }
    }
    assert_eq!(cluster.role(1), RoleKind::Leader);
    (sent_bytes - before.0, 2 * (cluster.commit(1) - before.1) * ENTRY_BYTES)
}

#[test]
fn a_link_that_is_full_does_not_carry_everything_twice() {
    let disks = [0, 5, 80].map(|sync_ms| (5_000_000, sync_ms, 20));
    // What waits for the second link is under way for sixteen seconds.
    for (bytes_s, sync_ms, seconds) in disks.into_iter().chain([(500_000, 80, 120)]) {
        let (sent, committed) = saturated(bytes_s, sync_ms, seconds);
        let of = format!("{bytes_s} bytes a second to each, {sync_ms} ms a sync");
        assert!(sent <= committed + committed / 10, "{sent} bytes were sent for {committed}; {of}");
        let carried = seconds * bytes_s;
        assert!(committed >= carried - carried / 10, "{committed} bytes were committed; {of}");
    }
}
