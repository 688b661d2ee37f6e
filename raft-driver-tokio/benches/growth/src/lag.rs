//! A follower that comes back far behind, beside load at half of what the cluster can do: what becomes of the load.
//!
//! The third node is stopped, the other two write, the load begins, the third node is started again. It catches up from
//! the leader's log, or by a snapshot if the leader has compacted its log meanwhile. The same load before and after is
//! what the time between is held against.

use std::time::{Duration, Instant};

use raft_core::{Commands, SnapshotPolicy};
use raft_driver_tokio::{Metrics, Raft};

use crate::bulk::Bulk;
use crate::figures::Row;
use crate::load::{Open, SLICE, Seen, maximum};
use crate::nodes::{BOUND, Cluster, Kind, Setup};
use crate::points::{COMMAND_BYTES, MIB};
use crate::system;

const THIRD: usize = 2;
/// A follower is where the leader is when it gets so soon to where the leader was.
const CLOSE: Duration = Duration::from_millis(100);
/// Entries that are written at once, before the load.
const BATCH: usize = 4096;
/// By how much the load may suffer.
const LOSS_MAX: f64 = 20.0;

/// How far behind, and how it comes back.
pub(crate) struct Lag {
    /// The name of the figures.
    pub(crate) figure: &'static str,
    pub(crate) entries: usize,
    /// A snapshot of so many bytes, and no entries before it any more.
    pub(crate) snapshot_bytes: Option<u64>,
    /// How long the load is alone, before and after.
    pub(crate) alone: Duration,
}

/// Measures it.
pub(crate) fn measure(lag: &Lag) -> Vec<Row> {
    let mut setup = Setup::new(Kind::Durable, 3);
    // Nothing is compacted but on demand.
    setup.config.snapshot_policy = SnapshotPolicy::Never;
    setup.config.compaction_margin_entries = 0;
    setup.state_bytes = lag.snapshot_bytes.unwrap_or(8);
    let limit = setup.memory_limit_bytes();
    let mut cluster = Cluster::start(setup);
    let rate = maximum(&cluster, COMMAND_BYTES, lag.alone / 2) / 2.0;
    cluster.stop(THIRD);
    fill(&cluster, lag.entries);
    if lag.snapshot_bytes.is_some() {
        compact(&cluster);
    }

    system::forget_memory_max();
    let load = Open::start(&cluster, Some(rate), COMMAND_BYTES);
    std::thread::sleep(lag.alone);
    let begin = load.elapsed();
    cluster.restart(THIRD);
    let (leader, third) = (cluster.leader(), cluster.node(THIRD));
    cluster.leader_host().run(caught_up(leader, third));
    let end = load.elapsed();
    std::thread::sleep(lag.alone);
    let all = load.elapsed();
    let memory = system::memory_bytes_max();
    let seen = load.finish();
    cluster.settle();
    if lag.snapshot_bytes.is_some() {
        let third = cluster.node(THIRD);
        let installed = cluster.leader_host().run(async move { third.status().await });
        let installed = installed.expect("it runs").counters.snapshots_installed;
        assert!(installed > 0, "it came back by a snapshot");
    }
    let mut rows = rows(lag, &seen, rate, [begin, end, all]);
    let took = (end - begin).as_secs_f64();
    eprintln!("{} behind, caught up in {took:.1} s beside {rate:.0} writes/s", lag.entries);
    let what = format!("{}: memory of the process", lag.figure);
    rows.push(Row::check(what, memory as f64 / MIB, limit as f64 / MIB, "MiB"));
    rows
}

/// Writes so many entries, as fast as it can.
fn fill(cluster: &Cluster, entries: usize) {
    let leader = cluster.leader();
    cluster.leader_host().run(async move {
        for first in (0..entries).step_by(BATCH) {
            let count = BATCH.min(entries - first);
            let commands: Commands = (0..count).map(|at| [at as u8; COMMAND_BYTES]).collect();
            for written in leader.write_all_committed(commands).await {
                written.expect("the leader stays");
            }
        }
    });
}

/// Has the leader take a snapshot and drop what it replaces.
fn compact(cluster: &Cluster) {
    let leader = cluster.leader();
    cluster.leader_host().run(async move {
        leader.snapshot().await.expect("there is something to take");
        let compacted = |metrics: &Metrics| metrics.status.base.index == metrics.status.snapshot.index;
        leader.wait(BOUND).until(compacted).await.expect("it drops what the snapshot replaces");
    });
}

/// Until the follower is where the leader is.
async fn caught_up(leader: Raft<Bulk>, follower: Raft<Bulk>) {
    loop {
        let target = leader.status().await.expect("the leader runs").commit;
        let asked = Instant::now();
        follower.wait(BOUND).applied(target).await.expect("it catches up");
        if asked.elapsed() < CLOSE {
            return;
        }
    }
}

fn rows(lag: &Lag, seen: &Seen, offered: f64, [begin, end, all]: [Duration; 3]) -> Vec<Row> {
    let (writes, latency) = (lag.figure, format!("{}-latency", lag.figure));
    let mut rows = Vec::new();
    let mut from = Duration::ZERO;
    while from + SLICE <= all {
        let until = from + SLICE;
        let middle = (from + SLICE / 2).as_secs_f64();
        rows.push(Row::point(writes, "answered", middle, seen.rate(from, until)));
        rows.push(Row::point(writes, "offered", middle, offered));
        let nanos = seen.nanos(from, until);
        for (series, quantile) in [("p50", 0.5), ("p99", 0.99)] {
            let micros = nanos.value_at_quantile(quantile) as f64 / 1e3;
            rows.push(Row::point(&latency, series, middle, micros));
        }
        from = until;
    }
    for figure in [writes, &latency] {
        rows.push(Row::mark(figure, "it is back", begin.as_secs_f64()));
        rows.push(Row::mark(figure, "it has all", end.as_secs_f64()));
    }
    // Whole slices within; the first of all is where the load begins.
    let alone = (seen.rate(SLICE, begin) + seen.rate(end + SLICE, all)) / 2.0;
    let beside = seen.rate(begin, (end + SLICE).min(all));
    let loss = 100.0 * (1.0 - beside / alone);
    rows.push(Row::check(format!("{writes}: what the load loses beside it"), loss, LOSS_MAX, "%"));
    for (name, from, until) in
        [("alone", SLICE, begin), ("meanwhile", begin, end.max(begin + SLICE)), ("after", end + SLICE, all)]
    {
        let nanos = seen.nanos(from, until);
        rows.push(Row::Tail {
            load: format!("{writes}: {name}"),
            rate: seen.rate(from, until),
            nanos: [0.5, 0.99, 0.999].map(|quantile| nanos.value_at_quantile(quantile) as f64),
        });
    }
    rows
}
