//! How each point of a curve is measured. What follows a lagging node over time is in [`lag`](crate::lag).

use std::time::{Duration, Instant};

use raft_core::Commands;
use raft_core::host::LogStore;
use raft_driver_tokio::storage::DurableLog;

use crate::cluster::Cluster as Core;
use crate::figures::Row;
use crate::group_commit;
use crate::idle_groups;
use crate::load::{Open, closed, closed_without, maximum};
use crate::nodes::{Cluster, Kind, Setup};
use crate::system;

pub(crate) const COMMAND_BYTES: usize = 256;
pub(crate) const MIB: f64 = 1024.0 * 1024.0;

/// What there is beside nodes in memory: the same clients, and answers without a protocol.
pub(crate) const NO_PROTOCOL: &str = "in memory with no protocol";

/// Enough for the throughput to be near its highest.
const CLIENTS: usize = 256;
/// What a core has done before anything is measured: its tail is full then.
const CORE_BEFORE: usize = 34_000;
const CORE_MEASURED: usize = 1 << 18;
const WINDOW: usize = 64;

/// Nanoseconds of CPU time for each of so many entries.
fn core_nanos(core: &mut Core, window: usize, entries: usize) -> f64 {
    let before = system::thread_cpu_seconds();
    core.commit_entries(entries, window);
    assert!(core.applied_bytes() > 0, "commands reach the state machines");
    (system::thread_cpu_seconds() - before) * 1e9 / entries as f64
}

pub(crate) fn nodes(size: u64, time: Duration) -> Vec<Row> {
    let x = size as f64;
    let mut core = Core::new(size);
    core.commit_entries(CORE_BEFORE, WINDOW);
    let mut rows = Vec::new();
    for (label, window, entries) in [
        ("one at a time", 1, CORE_MEASURED / 16),
        ("64 outstanding", WINDOW, CORE_MEASURED),
        ("1024 outstanding", 1024, CORE_MEASURED),
    ] {
        rows.push(Row::point("nodes-core", label, x, core_nanos(&mut core, window, entries)));
    }
    let cluster = Cluster::start(Setup::new(Kind::Memory, size));
    let done = closed(&cluster, CLIENTS, COMMAND_BYTES, time);
    let thousands = done.rate(Kind::Memory) / 1e3;
    rows.push(Row::point("nodes-driver", format!("{CLIENTS} clients"), x, thousands));
    rows
}

pub(crate) fn payload(kind: Kind, bytes: usize, time: Duration) -> Vec<Row> {
    // Log entries that stay behind a snapshot are limited by their number: as many as a snapshot's worth of bytes.
    let mut setup = Setup::new(kind, 3);
    let margin = setup.log_bytes() / bytes as u64;
    setup.config.compaction_margin_entries = margin.min(setup.config.compaction_margin_entries);
    let limit = setup.memory_limit_bytes();
    // As many as the leader takes in at once.
    let clients = CLIENTS.min((setup.config.uncommitted_bytes_max / bytes as u64) as usize);
    let cluster = Cluster::start(setup);
    let done = closed(&cluster, clients, bytes, time);
    let (x, rate) = (bytes as f64, done.rate(kind));
    let memory = system::memory_bytes_max() as f64 / MIB;
    vec![
        Row::point("payload-writes", kind.label(), x, rate),
        Row::point("payload-bytes", kind.label(), x, rate * x / 1e6),
        Row::point("payload-memory", kind.label(), x, memory),
        Row::point("payload-memory", format!("limit: {}", kind.label()), x, limit as f64 / MIB),
    ]
}

pub(crate) fn log_cost(entries: usize) -> Vec<Row> {
    let before = system::memory_bytes();
    let mut core = Core::new(3);
    core.commit_entries(entries, 1000);
    let memory = system::memory_bytes().saturating_sub(before) as f64 / MIB;
    // The tail is full in every case.
    core.commit_entries(CORE_BEFORE, WINDOW);
    let mut rows = Vec::new();
    for (label, window, measured) in
        [("64 outstanding", WINDOW, CORE_MEASURED), ("1024 outstanding", 1024, CORE_MEASURED)]
    {
        rows.push(Row::point("log-cost", label, entries as f64, core_nanos(&mut core, window, measured)));
    }
    rows.push(Row::point("log-memory", "three nodes", entries as f64, memory));
    rows
}

pub(crate) fn log_recovery(entries: u64) -> Vec<Row> {
    let dir = tempfile::tempdir().expect("a directory");
    let open = || DurableLog::open(dir.path(), group_commit::IDENTITY).expect("the log opens");
    let mut log = open();
    let batch = 1000.min(entries);
    let commands: Commands = (0..batch).map(|at| [at as u8; COMMAND_BYTES]).collect();
    let firsts: Vec<u64> = (0..entries / batch).map(|at| 1 + at * batch).collect();
    // Several at once, as a busy node's lane does.
    for firsts in firsts.chunks(4) {
        let writes: Vec<_> = firsts.iter().map(|first| group_commit::write(*first, &commands)).collect();
        log.write(&writes).expect("the disk works");
    }
    drop(log);
    let began = Instant::now();
    let mut log = open();
    let recovered = log.recover().expect("it is whole");
    let seconds = began.elapsed().as_secs_f64();
    assert_eq!(recovered.last.index.get(), entries, "everything is there");
    vec![Row::point("log-recovery", "entries of 256 bytes", entries as f64, seconds)]
}

pub(crate) fn groups_commit(groups: u64, time: Duration) -> Vec<Row> {
    let mut rows = Vec::new();
    for batch in [1, 16] {
        let (written, syncs) = group_commit::measure_groups(groups, batch, time);
        let x = groups as f64;
        let what = if batch == 1 { "one entry at a time" } else { "16 at a time" };
        rows.push(Row::point("groups-commit", format!("entries: {what}"), x, written));
        rows.push(Row::point("groups-commit", format!("fsyncs: {what}"), x, syncs));
    }
    rows
}

pub(crate) fn groups_idle(groups: u64, time: Duration) -> Vec<Row> {
    let quiet = Duration::from_secs(2);
    let found = idle_groups::measure("shared", groups, quiet, time).expect("three processes run");
    let most = |value: fn(&idle_groups::Idleness) -> f64| found.iter().map(value).fold(0.0, f64::max);
    let x = groups as f64;
    vec![
        Row::point("groups-idle", "one set of connections", x, 100.0 * most(|process| process.core_share)),
        Row::point(
            "groups-memory",
            "one set of connections",
            x,
            most(|process| process.rss_bytes_max as f64) / MIB,
        ),
    ]
}

pub(crate) fn clients(kind: Kind, clients: usize, time: Duration) -> Vec<Row> {
    let cluster = Cluster::start(Setup::new(kind, 3));
    let done = closed(&cluster, clients, COMMAND_BYTES, time);
    vec![Row::point("clients", kind.label(), clients as f64, done.rate(kind))]
}

pub(crate) fn clients_without(clients: usize, time: Duration) -> Vec<Row> {
    let done = closed_without(clients, COMMAND_BYTES, time);
    vec![Row::point("clients", NO_PROTOCOL, clients as f64, done.rate(Kind::Memory))]
}

pub(crate) fn load(kind: Kind, percents: &[u32], time: Duration) -> Vec<Row> {
    let figure = if kind == Kind::Memory { "load-memory" } else { "load-durable" };
    let cluster = Cluster::start(Setup::new(kind, 3));
    let most = maximum(&cluster, COMMAND_BYTES, time);
    let mut rows = Vec::new();
    for percent in percents {
        let rate = most * f64::from(*percent) / 100.0;
        let open = Open::start(&cluster, Some(rate), COMMAND_BYTES);
        std::thread::sleep(time + time / 4);
        let until = open.elapsed();
        let seen = open.finish();
        let nanos = seen.nanos(time / 4, until);
        let nanos = [0.5, 0.99, 0.999].map(|quantile| nanos.value_at_quantile(quantile) as f64);
        for (series, nanos) in ["p50", "p99", "p99.9"].into_iter().zip(nanos) {
            rows.push(Row::point(figure, series, f64::from(*percent), nanos / 1e3));
        }
        let load = format!("{}: {percent} % of {most:.0}/s", kind.label());
        rows.push(Row::Tail { load, rate: seen.rate(time / 4, until), nanos });
        cluster.settle();
    }
    rows
}
