//! Timing and limits. Everything that could grow has a limit here. What clients ask for is refused once a limit is
//! reached, so one request may overshoot it: a batch that is larger than a limit is not refused for ever.

use core::time::Duration;

use crate::error::ConfigError;
use crate::ids::NodeId;
use crate::time::nanos;

/// Longer election timeouts are mistakes.
const TIMEOUT_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// A node's configuration. Start from [`Config::new`] and change what you need;
/// [`Node::start`](crate::Node::start) validates it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Config {
    /// This node's name.
    pub id: NodeId,
    /// Seeds the jitter of the election timeout (§5.2). Nodes may share one.
    pub seed: u64,
    /// An election timeout is drawn from `[min, max)` each time that it is armed (§5.2). Default 200 ms. Also
    /// the time within which a node that heard from its leader refuses to elect another (thesis §4.2.3).
    pub election_timeout_min: Duration,
    /// Default 400 ms, at most a day. A leader that has not heard from a majority for this long steps down (thesis §6.2), and
    /// so does one whose disk has not answered for this long. An election takes two syncs, one here and one at the voters.
    pub election_timeout_max: Duration,
    /// How often an idle leader sends heartbeats (§5.2). Default 50 ms.
    pub heartbeat_interval: Duration,
    /// Longest command that may be proposed. Default 1 MiB.
    pub command_bytes_max: u64,
    /// Entries in one `AppendEntries`. Default 4,096.
    pub append_entries_max: u64,
    /// Bytes in one `AppendEntries`, except that one entry is always sent. Default 256 KiB.
    pub append_bytes_max: u64,
    /// `AppendEntries` with entries on the way to one peer. Default 64.
    pub inflight_appends_max: usize,
    /// Bytes of entries sent to one peer that it has not acknowledged, which it does once they are durable. Default 8 MiB.
    /// Should not be above the `unpersisted_bytes_max` of any peer.
    pub inflight_bytes_max: u64,
    /// Writes handed to the log store and not yet reported; at the limit further entries gather in the next
    /// one, so that group commit forms by itself. Default 2.
    pub writes_inflight_max: usize,
    /// Bytes in one write, except that one entry is always written. Default 4 MiB. The disk must be able to make so many
    /// durable well within `election_timeout_max`: who leads and waits longer for one write steps down (TRAP 60).
    pub write_bytes_max: u64,
    /// Bytes of entries that are not durable here. A follower at the limit drops further appends. Default 64 MiB. Should not
    /// be below the `inflight_bytes_max` of any node that may lead: what a follower drops counts as late at the leader, which
    /// then waits longer before it sends anything again, so that a follower with a slow disk catches up more slowly still.
    pub unpersisted_bytes_max: u64,
    /// Bytes that a leader appended and has not committed; at the limit proposals are `Busy`. Default 64 MiB.
    pub uncommitted_bytes_max: u64,
    /// Bytes that a leader appended and has not applied; at the limit proposals are `Busy`. Default 64 MiB.
    pub unapplied_bytes_max: u64,
    /// Bytes handed to the state machine and not yet reported applied. Default 4 MiB.
    pub apply_bytes_max: u64,
    /// Bytes of recent entries kept in memory; older ones are read from the log store. Default 8 MiB. Entries
    /// that are not durable are kept beyond it.
    pub tail_bytes_max: u64,
    /// When a snapshot is taken without being asked for (§7). Default: once 64 MiB of entries were applied since the
    /// last one.
    pub snapshot_policy: SnapshotPolicy,
    /// Bytes in one `InstallSnapshot`. Default 1 MiB.
    pub snapshot_chunk_bytes: u64,
    /// Entries that a snapshot replaces and that stay in the log all the same, so that slow followers need no
    /// snapshot. Default 10,000.
    pub compaction_margin_entries: u64,
    /// A membership change is given up when its new voters make no progress for this long, and a log is compacted past a
    /// snapshot that is being sent, or past what its receiver got since, when that makes none. It is also compacted past a
    /// snapshot that is being sent once what it has behind that is more than each of twice the snapshot, the log of eight
    /// snapshots by the policy, and `inflight_bytes_max`. What was sent to a peer is first taken for lost after half of this
    /// time at most, entries after eight election timeouts too, and sent again. So where messages without payload overtake
    /// others, a link should carry `append_bytes_max` in half of this time (and with it `inflight_bytes_max` for each other
    /// peer that shares the link), and `snapshot_chunk_bytes` in twice: what takes longer may never arrive. Default 30 s.
    pub catch_up_timeout: Duration,
    /// Lets a leader serve reads by its lease (thesis §6.4.1). Default `None`: clocks are not relied on. Must be the
    /// same on all nodes, and `election_timeout_min` too.
    pub lease: Option<Lease>,
    /// Proposals waiting for their outcome; at the limit proposals are `Busy`. Default 1,048,576.
    pub pending_proposals_max: u64,
    /// Reads waiting for their round; at the limit reads are `Busy`. Default 1,048,576.
    pub pending_reads_max: u64,
}

impl Config {
    /// The defaults for a node of this name.
    #[must_use]
    pub const fn new(id: NodeId) -> Self {
        const KIB: u64 = 1024;
        const MIB: u64 = 1024 * KIB;
        Self {
            id,
            seed: 0,
            election_timeout_min: Duration::from_millis(200),
            election_timeout_max: Duration::from_millis(400),
            heartbeat_interval: Duration::from_millis(50),
            command_bytes_max: MIB,
            append_entries_max: 4096,
            append_bytes_max: 256 * KIB,
            inflight_appends_max: 64,
            inflight_bytes_max: 8 * MIB,
            writes_inflight_max: 2,
            write_bytes_max: 4 * MIB,
            unpersisted_bytes_max: 64 * MIB,
            uncommitted_bytes_max: 64 * MIB,
            unapplied_bytes_max: 64 * MIB,
            apply_bytes_max: 4 * MIB,
            tail_bytes_max: 8 * MIB,
            snapshot_policy: SnapshotPolicy::LogBytes(64 * MIB),
            snapshot_chunk_bytes: MIB,
            compaction_margin_entries: 10_000,
            catch_up_timeout: Duration::from_secs(30),
            lease: None,
            pending_proposals_max: MIB,
            pending_reads_max: MIB,
        }
    }

    /// How long a transfer of the leadership may take: four times `election_timeout_max`. One whose target (any voter, if
    /// the leader is to stop) gets no further is given up after one (thesis §3.10).
    #[must_use]
    pub const fn handover_max(&self) -> Duration {
        self.election_timeout_max.saturating_mul(4)
    }

    /// Checks that the parts fit together.
    ///
    /// # Errors
    /// Names the first rule that is broken.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if self.election_timeout_min >= self.election_timeout_max {
            return Err(ConfigError::ElectionTimeoutRange);
        }
        if self.heartbeat_interval.is_zero() || self.heartbeat_interval >= self.election_timeout_min {
            return Err(ConfigError::HeartbeatInterval);
        }
        let limits = [
            ("command_bytes_max", self.command_bytes_max, 1 << 30),
            ("append_entries_max", self.append_entries_max, 1 << 30),
            ("append_bytes_max", self.append_bytes_max, 1 << 30),
            ("inflight_appends_max", self.inflight_appends_max as u64, 1 << 20),
            ("inflight_bytes_max", self.inflight_bytes_max, u64::MAX),
            ("writes_inflight_max", self.writes_inflight_max as u64, 1 << 10),
            ("write_bytes_max", self.write_bytes_max, 1 << 30),
            ("unpersisted_bytes_max", self.unpersisted_bytes_max, u64::MAX),
            ("uncommitted_bytes_max", self.uncommitted_bytes_max, u64::MAX),
            ("unapplied_bytes_max", self.unapplied_bytes_max, u64::MAX),
            ("apply_bytes_max", self.apply_bytes_max, 1 << 30),
            ("tail_bytes_max", self.tail_bytes_max, u64::MAX),
            ("election_timeout_max", nanos(self.election_timeout_max), nanos(TIMEOUT_MAX)),
            ("catch_up_timeout", nanos(self.catch_up_timeout), u64::MAX),
            ("snapshot_chunk_bytes", self.snapshot_chunk_bytes, 1 << 30),
            ("pending_proposals_max", self.pending_proposals_max, 1 << 40),
            ("pending_reads_max", self.pending_reads_max, 1 << 40),
        ];
        for (name, value, max) in limits {
            if value == 0 {
                return Err(ConfigError::Zero(name));
            }
            if value > max {
                return Err(ConfigError::TooLarge(name, max));
            }
        }
        match self.snapshot_policy {
            SnapshotPolicy::LogsSinceLast(0) | SnapshotPolicy::LogBytes(0) => {
                return Err(ConfigError::Zero("snapshot_policy"));
            }
            _ => {}
        }
        if self.lease.is_some_and(|lease| lease.clock_drift_ppm_max >= 1_000_000) {
            return Err(ConfigError::TooLarge("clock_drift_ppm_max", 999_999));
        }
        Ok(())
    }
}

/// When a snapshot is taken without being asked for (§7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum SnapshotPolicy {
    /// Only on demand: the log grows for ever.
    Never,
    /// Once this many entries were applied since the last one.
    LogsSinceLast(u64),
    /// Once this many bytes of entries were applied since the last one.
    LogBytes(u64),
}

/// How far clocks are relied on for lease reads (thesis §6.4.1).
///
/// A clock that stands still breaks every bound: Linux's `CLOCK_MONOTONIC` does while the machine is suspended, so a leader
/// that wakes from it may serve stale lease reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Lease {
    /// How much faster or slower than true time any node's clock may run, in parts per million. Quartz is within
    /// 100; a bound that does not hold makes lease reads stale.
    pub clock_drift_ppm_max: u32,
}
