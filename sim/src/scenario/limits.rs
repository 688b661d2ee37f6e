//! The limits and timing of a run's servers.

use std::time::Duration;

use raft_core::{Config, Lease, NodeId, SnapshotPolicy};

use super::Timing;
use crate::rng::Rng;

/// What the limits have to fit.
pub(super) struct Shape {
    pub(super) command_bytes_max: u64,
    pub(super) ballast_bytes: u64,
    pub(super) lease: Option<Lease>,
}

pub(super) fn configs(rng: &mut Rng, nodes: usize, timing: &Timing, shape: &Shape) -> Vec<Config> {
    let mut config = Config::new(NodeId::new(0));
    config.seed = rng.bits();
    config.election_timeout_min = Duration::from_nanos(timing.election_min);
    config.election_timeout_max = Duration::from_nanos(timing.election_max);
    config.heartbeat_interval = Duration::from_nanos(timing.heartbeat);
    // A change whose new voters do not catch up is given up soon enough to be seen, or late.
    config.catch_up_timeout =
        Duration::from_nanos(rng.log_between(timing.election_max * 2, timing.election_max * 32));
    config.lease = shape.lease;
    let defaults = config.clone();
    let mixed = rng.chance(250_000);
    limits(rng, &mut config, shape);
    (1..=nodes as u64)
        .map(|id| {
            if mixed {
                config = defaults.clone();
                limits(rng, &mut config, shape);
            }
            Config { id: NodeId::new(id), ..config.clone() }
        })
        .collect()
}

/// Small limits, each in some runs: what is never reached is never tested.
fn limits(rng: &mut Rng, config: &mut Config, shape: &Shape) {
    // No limit is so small that a single command could never pass it.
    let least = 200 + shape.command_bytes_max;
    let mut sometimes = |ppm, min: u64, max: u64, limit: &mut u64| {
        if rng.chance(ppm) {
            *limit = rng.log_between(min, max);
        }
    };
    sometimes(330_000, least, least * 6, &mut config.tail_bytes_max);
    sometimes(330_000, 1, 16, &mut config.append_entries_max);
    sometimes(250_000, 64, 2_000, &mut config.append_bytes_max);
    sometimes(200_000, least, least * 16, &mut config.inflight_bytes_max);
    sometimes(250_000, 64, 2_000, &mut config.write_bytes_max);
    sometimes(150_000, least, least * 16, &mut config.unpersisted_bytes_max);
    sometimes(250_000, least, least * 16, &mut config.uncommitted_bytes_max);
    sometimes(150_000, least, least * 16, &mut config.unapplied_bytes_max);
    sometimes(250_000, 64, 2_000, &mut config.apply_bytes_max);
    sometimes(125_000, 1, 16, &mut config.pending_proposals_max);
    sometimes(125_000, 1, 8, &mut config.pending_reads_max);
    let mut appends = config.inflight_appends_max as u64;
    sometimes(330_000, 1, 4, &mut appends);
    config.inflight_appends_max = appends as usize;
    config.writes_inflight_max = rng.between(1, 4) as usize;
    config.snapshot_policy = match rng.below(8) {
        0 => SnapshotPolicy::Never,
        1..=4 => SnapshotPolicy::LogsSinceLast(rng.log_between(4, 512)),
        _ => SnapshotPolicy::LogBytes(rng.log_between(512, 64 * 1024)),
    };
    let margin = rng.log_between(1, 256);
    config.compaction_margin_entries = *rng.pick(&[0, 0, margin, 10_000]);
    // A snapshot has one chunk or many, but not so many that another is always taken first.
    config.snapshot_chunk_bytes = rng.log_between(16, 1_024).max(shape.ballast_bytes / 60);
}
