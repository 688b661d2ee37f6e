//! Every limit of the configuration is kept (DESIGN: "limits exist for everything"), and gives way again.

mod support;

use raft_core::{Body, Config, Entries, Event, ReadOutcome, WriteOutcome};
use support::{Cluster, at, n};

/// Three servers, 1 leads.
fn led(adjust: impl Fn(&mut Config)) -> Cluster {
    let mut cluster = Cluster::with(3, adjust);
    cluster.bootstrap();
    cluster.elect(1);
    cluster
}

fn is_busy(cluster: &Cluster, server: u64) -> bool {
    cluster.servers[&server].write_outcomes().last().is_some_and(|(.., last)| *last == WriteOutcome::Busy)
}

/// The entries that wait on the wire for `to`.
fn appends(cluster: &Cluster, to: u64) -> Vec<Entries> {
    let appends = cluster.wire.iter().filter(|message| message.to == n(to)).filter_map(|message| {
        let Body::AppendEntries { entries, .. } = &message.body else { return None };
        (!entries.is_empty()).then(|| entries.clone())
    });
    appends.collect()
}

const TWENTY: &str = "12345678901234567890";

// --- the log lane --------------------------------------------------------------------------------------------

#[test]
fn at_most_so_many_writes_are_in_flight_and_further_entries_gather() {
    for writes_inflight_max in [1, 3] {
        let mut cluster = led(|config| config.writes_inflight_max = writes_inflight_max);
        cluster.slow_disks = vec![1];
        for _ in 0..10 {
            cluster.propose(1, &["a"]);
        }
        let waiting = &cluster.servers[&1].unsynced;
        assert_eq!(waiting.len(), writes_inflight_max);
        assert!(waiting.iter().all(|write| write.entries.len() == 1));
        cluster.sync_one(1);
        let waiting = &cluster.servers[&1].unsynced;
        assert_eq!(waiting.len(), writes_inflight_max);
        let gathered = waiting.back().expect("one is in flight").entries.len();
        assert_eq!(gathered, 10 - writes_inflight_max as u64, "the rest goes as one");
        cluster.sync(1);
        assert_eq!(cluster.servers[&1].node.status().durable, at(12));
    }
}

#[test]
fn a_write_has_at_most_so_many_bytes_or_one_entry() {
    let mut cluster = led(|config| {
        config.write_bytes_max = 200;
        config.writes_inflight_max = 1;
    });
    cluster.slow_disks = vec![1];
    cluster.propose(1, &["first"]);
    cluster.propose(1, &[&"x".repeat(1_000)]);
    cluster.propose(1, &[TWENTY; 30]);
    let mut entries = 0;
    while let Some(write) = cluster.servers[&1].unsynced.front() {
        let (count, bytes) = (write.entries.len(), write.entries.size_bytes());
        assert!(bytes <= 200 || count == 1, "{count} entries of {bytes} bytes");
        entries += count;
        cluster.sync_one(1);
    }
    assert_eq!(entries, 32);
}

#[test]
fn entries_leave_memory_at_the_limit_but_never_before_they_are_durable() {
    let mut cluster = led(|config| config.tail_bytes_max = 1);
    cluster.cut = vec![3];
    cluster.slow_disks = vec![1];
    cluster.slow_reads = vec![1];
    cluster.propose(1, &["a"]);
    cluster.settle();
    // What goes to the third server after its connection broke.
    let probe = |cluster: &mut Cluster| {
        cluster.step(1, Event::Unreachable(n(3)));
        cluster.cut.clear();
        cluster.time_out(1);
        cluster.settle();
        cluster.time_out(1);
        cluster.settle();
    };
    probe(&mut cluster);
    assert_eq!(cluster.servers[&1].log_reads.len(), 0, "it is nowhere but in memory");
    assert_eq!(cluster.servers[&3].node.status().last.index, at(3));
    cluster.cut = vec![3];
    cluster.slow_reads.clear();
    cluster.propose(1, &["b"]);
    cluster.settle();
    cluster.sync(1);
    cluster.slow_reads = vec![1];
    probe(&mut cluster);
    let asked: Vec<_> = cluster.servers[&1].log_reads.iter().map(|asked| asked.from).collect();
    assert_eq!(asked, [at(4)], "it is on disk, and is read from there");
    cluster.answer_reads(1);
    cluster.settle();
    assert_eq!(cluster.servers[&3].node.status().last.index, at(4));
}

// --- the machine lane ------------------------------------------------------------------------------------------

#[test]
fn at_most_so_many_bytes_are_being_applied() {
    let mut cluster = led(|config| config.apply_bytes_max = 200);
    cluster.slow_machines = vec![1];
    cluster.propose(1, &[TWENTY; 30]);
    cluster.settle();
    assert_eq!(cluster.commit(1), 32);
    for _ in 0..30 {
        let handed = &cluster.servers[&1].unreported;
        let bytes: u64 = handed.iter().map(Entries::size_bytes).sum();
        let last = handed.back().map_or(0, Entries::size_bytes);
        assert!(bytes - last < 200, "{bytes} bytes: handed out beyond the limit");
        assert!(handed.iter().all(|entries| entries.size_bytes() <= 200 || entries.len() == 1));
        cluster.report_applied(1);
    }
    assert_eq!(cluster.servers[&1].applied_index, at(32));
}

#[test]
fn a_machine_that_is_behind_the_tail_is_read_to_within_the_same_limit() {
    let mut cluster = led(|config| {
        config.apply_bytes_max = 200;
        config.tail_bytes_max = 1;
    });
    cluster.propose(1, &[TWENTY; 30]);
    cluster.settle();
    let now = cluster.now;
    cluster.server(1).restart(now);
    cluster.slow_machines = vec![1];
    cluster.slow_reads = vec![1];
    cluster.elect(2);
    cluster.time_out(2);
    cluster.settle();
    for _ in 0..60 {
        let asked = &cluster.servers[&1].log_reads;
        assert!(asked.len() <= 1 && asked.iter().all(|asked| asked.bytes_max == 200), "{asked:?}");
        let bytes: u64 = cluster.servers[&1].unreported.iter().map(Entries::size_bytes).sum();
        assert!(bytes < 400, "{bytes}");
        cluster.answer_reads(1);
        cluster.report_applied(1);
    }
    assert_eq!(cluster.servers[&1].applied_index, at(33));
}

#[test]
fn proposals_are_busy_while_too_much_is_not_applied() {
    let mut cluster = led(|config| config.unapplied_bytes_max = 300);
    cluster.slow_machines = vec![1];
    cluster.propose(1, &[TWENTY; 20]);
    cluster.settle();
    assert_eq!((cluster.commit(1), cluster.servers[&1].node.write_room_bytes()), (22, 0), "committed, but");
    cluster.propose(1, &["a"]);
    assert!(is_busy(&cluster, 1));
    cluster.report_applied(1);
    assert_eq!(cluster.servers[&1].node.write_room_bytes(), 300);
    cluster.propose(1, &["a"]);
    assert_eq!(cluster.servers[&1].node.status().last.index, at(23));
}

// --- clients -----------------------------------------------------------------------------------------------------

#[test]
fn at_most_so_many_reads_are_pending() {
    let mut cluster = led(|config| config.pending_reads_max = 2);
    let pending = [cluster.read(1), cluster.read(1)];
    let busy = cluster.read(1);
    assert_eq!(cluster.servers[&1].read_outcomes(), [(busy, ReadOutcome::Busy)]);
    cluster.settle();
    cluster.time_out(1);
    cluster.settle();
    let served: u32 = cluster.servers[&1].served.iter().map(|tickets| tickets.count).sum();
    assert_eq!(served, pending.len() as u32);
    cluster.read(1);
    assert_eq!(cluster.servers[&1].read_outcomes().len(), 1, "there is room again");
}

#[test]
fn at_most_so_many_proposals_are_pending() {
    let mut cluster = led(|config| config.pending_proposals_max = 2);
    cluster.cut = vec![2, 3];
    cluster.propose(1, &["a"]);
    cluster.propose(1, &["b"]);
    assert_eq!(cluster.servers[&1].write_outcomes(), []);
    cluster.propose(1, &["c"]);
    assert!(is_busy(&cluster, 1));
    assert_eq!(cluster.servers[&1].node.status().last.index, at(4));
    cluster.cut.clear();
    for _ in 0..3 {
        cluster.time_out(1);
        cluster.settle();
    }
    assert_eq!(cluster.commit(1), 4);
    cluster.propose(1, &["d"]);
    assert_eq!(cluster.servers[&1].node.status().last.index, at(5));
}

// --- peers ---------------------------------------------------------------------------------------------------------

/// How a lagging peer is brought up to date: what each message to it held.
fn catch_up(adjust: impl Fn(&mut Config)) -> Vec<(u64, u64)> {
    let mut cluster = led(adjust);
    cluster.cut = vec![3];
    for _ in 0..10 {
        cluster.propose(1, &[TWENTY; 3]);
        cluster.settle();
    }
    cluster.cut.clear();
    cluster.time_out(1);
    let mut sent = Vec::new();
    for _ in 0..10_000 {
        let Some(message) = cluster.wire.pop_front() else { break };
        if let Body::AppendEntries { entries, .. } = &message.body
            && !entries.is_empty()
            && message.to == n(3)
        {
            sent.push((entries.len(), entries.size_bytes()));
        }
        cluster.deliver(message);
    }
    assert_eq!(cluster.servers[&3].node.status().last.index, at(32));
    assert!(sent.len() > 1);
    sent
}

#[test]
fn an_append_has_at_most_so_many_entries_and_bytes() {
    for tail_bytes_max in [1, 1 << 20] {
        let entries = catch_up(|config| {
            config.append_entries_max = 2;
            config.tail_bytes_max = tail_bytes_max;
        });
        assert!(entries.iter().all(|(count, _)| *count <= 2), "{entries:?}");
        let bytes = catch_up(|config| {
            config.append_bytes_max = 120;
            config.tail_bytes_max = tail_bytes_max;
        });
        assert!(bytes.iter().all(|(count, bytes)| *bytes <= 120 || *count == 1), "{bytes:?}");
        let single = catch_up(|config| {
            config.append_bytes_max = 1;
            config.tail_bytes_max = tail_bytes_max;
        });
        assert!(single.iter().all(|(count, _)| *count == 1), "one entry is always sent: {single:?}");
    }
}

#[test]
fn at_most_so_many_bytes_are_on_the_way_to_a_peer() {
    let mut cluster = led(|config| config.inflight_bytes_max = 200);
    cluster.intercept(|_| true);
    for _ in 0..10 {
        cluster.propose(1, &[TWENTY]);
    }
    for peer in [2, 3] {
        let sizes: Vec<u64> = appends(&cluster, peer).iter().map(Entries::size_bytes).collect();
        let (last, before) = sizes.split_last().expect("something is on the way");
        let before: u64 = before.iter().sum();
        assert!(before < 200 && before + last >= 200, "{sizes:?}: full, and overshot by one message at most");
    }
    let inflight: Vec<u64> = cluster.servers[&1].node.peers().map(|peer| peer.inflight_bytes).collect();
    assert!(inflight.iter().all(|bytes| (200..300).contains(bytes)), "{inflight:?}");
    cluster.settle();
    assert_eq!(cluster.commit(1), 12, "acknowledgements make room");
}

#[test]
fn at_most_so_many_appends_are_on_the_way_to_a_peer() {
    let mut cluster = led(|config| config.inflight_appends_max = 3);
    for _ in 0..10 {
        cluster.propose(1, &["a"]);
    }
    assert_eq!(appends(&cluster, 2).len(), 3);
    cluster.settle();
    assert_eq!(cluster.commit(1), 12);
}

#[test]
fn a_slow_disk_bounds_what_a_follower_takes_in() {
    let mut cluster = Cluster::with(3, |config| config.unpersisted_bytes_max = 200);
    cluster.bootstrap();
    cluster.elect(1);
    cluster.slow_disks = vec![2];
    for _ in 0..10 {
        cluster.propose(1, &["0123456789012345678901234567890123456789"]);
        cluster.settle();
    }
    let status = cluster.servers[&2].node.status();
    assert!(status.last.index <= at(6) && status.counters.overflowed > 0, "{status:?}");
    for _ in 0..20 {
        cluster.sync(2);
        cluster.time_out(1);
        cluster.settle();
    }
    assert_eq!(cluster.servers[&2].node.status().last.index, at(12));
}
