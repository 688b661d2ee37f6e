//! The figures for the `metrics` facade. Whoever installs a recorder does so before nodes are started.
//!
//! * Every figure has the label `node`, and `group` if the builder was told of one; those of peers have `peer` too.
//! * Exported when role, term, leader or membership change, and every 100 ms if a turn comes.
//! * The crate's documentation lists the names; a test holds it against the tables here.

use std::time::Duration;

use ::metrics::{Counter, Gauge, Histogram, Label, SharedString, Unit};
use raft_core::{Node, NodeId, RoleKind, Status};
use tokio::time::Instant;

use super::{Labels, Load};
use crate::transport::TransportStats;

const EVERY: Duration = Duration::from_millis(100);

/// Name, description, and what it is now.
type GaugeOf = (&'static str, &'static str, fn(&Status, Load) -> f64);
type CounterOf = (&'static str, &'static str, fn(&Status, &TransportStats) -> u64);

const GAUGES: [GaugeOf; 9] = [
    ("raft_is_leader", "1 at the leader, else 0", |status, _| flag(status.role == RoleKind::Leader)),
    ("raft_has_leader", "1 if the node knows a leader, else 0", |status, _| flag(status.leader.is_some())),
    ("raft_term", "The current term", |status, _| float(status.term.get())),
    ("raft_last_index", "The last entry of the log", |status, _| float(status.last.index.get())),
    ("raft_commit_index", "The last entry known to be committed", |status, _| float(status.commit.get())),
    ("raft_applied_index", "The last entry that the state machine holds", |status, _| {
        float(status.applied.get())
    }),
    ("raft_snapshot_index", "The last entry that the newest snapshot replaces", |status, _| {
        float(status.snapshot.index.get())
    }),
    ("raft_pending_writes", "Writes that wait for their outcome", |_, load| float(load.writes as u64)),
    ("raft_pending_reads", "Reads that wait for the proof of what they must see", |_, load| {
        float(load.reads as u64)
    }),
];

const COUNTERS: [CounterOf; 11] = [
    ("raft_elections_total", "Elections begun by this node", |status, _| status.counters.campaigns),
    ("raft_elections_won_total", "Elections won by this node", |status, _| status.counters.elections_won),
    ("raft_leases_lost_total", "Times that it stepped down without a majority", |status, _| {
        status.counters.leases_lost
    }),
    ("raft_violations_total", "Messages that would have broken safety", |status, _| {
        status.counters.violations
    }),
    ("raft_snapshots_installed_total", "Snapshots installed from a leader", |status, _| {
        status.counters.snapshots_installed
    }),
    ("raft_messages_sent_total", "Messages handed to the network", |_, transport| transport.messages_sent),
    ("raft_messages_received_total", "Messages received", |_, transport| transport.messages_received),
    ("raft_messages_dropped_total", "Messages that had no room or no connection", |_, transport| {
        transport.messages_dropped
    }),
    ("raft_sent_bytes_total", "Bytes handed to the network", |_, transport| transport.bytes_sent),
    ("raft_received_bytes_total", "Bytes received", |_, transport| transport.bytes_received),
    ("raft_disconnects_total", "Connections to peers that were lost", |_, transport| transport.disconnects),
];

const PEER_LAG: &str = "raft_peer_lag_entries";
const WRITE_SECONDS: &str = "raft_write_seconds";
const READ_SECONDS: &str = "raft_read_seconds";

fn flag(on: bool) -> f64 {
    if on { 1.0 } else { 0.0 }
}

#[expect(clippy::cast_precision_loss, reason = "what the facade takes; exact up to 2^53")]
fn float(number: u64) -> f64 {
    number as f64
}

fn labels(labels: Labels) -> Vec<Label> {
    let group = labels.group.map(|group| Label::new("group", group.get().to_string()));
    let node = Label::new("node", labels.id.get().to_string());
    [Some(node), group].into_iter().flatten().collect()
}

/// Exports a node's figures, if the feature `metrics` is on.
#[derive(Debug)]
pub struct Export {
    labels: Vec<Label>,
    gauges: Vec<Gauge>,
    counters: Vec<Counter>,
    last: Option<raft_core::Instant>,
}

impl Export {
    /// For drivers: the figures of this node.
    #[must_use]
    pub fn of(id: NodeId) -> Self {
        Self::new(Labels { id, group: None })
    }

    pub(crate) fn new(of: Labels) -> Self {
        let labels = labels(of);
        let gauge = |(name, text, _)| {
            ::metrics::describe_gauge!(name, text);
            ::metrics::gauge!(name, labels.clone())
        };
        let counter = |(name, text, _)| {
            ::metrics::describe_counter!(name, text);
            ::metrics::counter!(name, labels.clone())
        };
        let (gauges, counters) = (GAUGES.map(gauge).into(), COUNTERS.map(counter).into());
        ::metrics::describe_gauge!(PEER_LAG, "Entries that a peer lacks, as its leader knows");
        Self { labels, gauges, counters, last: None }
    }

    /// For drivers, after each turn: exports, if something important changed or the last time is long ago.
    pub fn publish(
        &mut self,
        moved: bool,
        node: &Node,
        load: Load,
        now: raft_core::Instant,
        transport: &dyn Fn() -> TransportStats,
    ) {
        if !moved && self.last.is_some_and(|last| now.since(last) < EVERY) {
            return;
        }
        self.last = Some(now);
        let (status, transport) = (node.status(), transport());
        for (gauge, (_, _, value)) in self.gauges.iter().zip(GAUGES) {
            gauge.set(value(&status, load));
        }
        for (counter, (_, _, value)) in self.counters.iter().zip(COUNTERS) {
            counter.absolute(value(&status, &transport));
        }
        for peer in node.peers() {
            let mut labels = self.labels.clone();
            labels.push(Label::new("peer", peer.id.get().to_string()));
            let lag = status.last.index.get().saturating_sub(peer.match_index.get());
            ::metrics::gauge!(PEER_LAG, labels).set(float(lag));
        }
    }
}

/// Measures requests.
#[derive(Debug)]
pub(crate) struct Times {
    writes: Histogram,
    reads: Histogram,
}

impl Times {
    pub(crate) fn new(of: Labels) -> Self {
        let histogram = |name: &'static str, text: SharedString| {
            ::metrics::describe_histogram!(name, Unit::Seconds, text);
            ::metrics::histogram!(name, labels(of))
        };
        let writes = histogram(WRITE_SECONDS, "From a write's call to its outcome, or its end".into());
        let reads = histogram(READ_SECONDS, "From a read's call to its outcome, or its end".into());
        Self { writes, reads }
    }

    pub(crate) fn write(&self) -> Timed<'_> {
        Timed { histogram: &self.writes, since: Instant::now() }
    }

    pub(crate) fn read(&self) -> Timed<'_> {
        Timed { histogram: &self.reads, since: Instant::now() }
    }
}

/// A request that takes its time, which is known when this is dropped.
pub(crate) struct Timed<'a> {
    histogram: &'a Histogram,
    since: Instant,
}

impl Drop for Timed<'_> {
    fn drop(&mut self) {
        self.histogram.record(self.since.elapsed());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documentation_lists_every_figure() {
        let documentation = include_str!("../lib.rs");
        let names = GAUGES.iter().map(|(name, ..)| *name).chain(COUNTERS.iter().map(|(name, ..)| *name));
        for name in names.chain([PEER_LAG, WRITE_SECONDS, READ_SECONDS]) {
            assert!(documentation.contains(&format!("//! | `{name}` |")), "{name} is not in the table");
        }
    }
}
