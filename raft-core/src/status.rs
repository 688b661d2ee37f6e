//! What a node tells about itself: cheap copies for metrics, logs and operators.

use crate::action::RoleKind;
use crate::ids::{LogId, LogIndex, NodeId, Term};
use crate::time::Instant;

/// A node at a glance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Status {
    /// This node.
    pub id: NodeId,
    /// Its role (Figure 4).
    pub role: RoleKind,
    /// Its current term.
    pub term: Term,
    /// Whom it voted for in that term.
    pub voted_for: Option<NodeId>,
    /// The leader of that term, if known; itself while it leads.
    pub leader: Option<NodeId>,
    /// The last entry of its log, durable or not.
    pub last: LogId,
    /// Through where its log is durable.
    pub durable: LogIndex,
    /// Its commit index.
    pub commit: LogIndex,
    /// Through where its state machine was reported to be.
    pub applied: LogIndex,
    /// The entry before the log's first: what is older is only in the snapshot.
    pub base: LogId,
    /// The last entry that the newest complete snapshot replaces; zero if there is none.
    pub snapshot: LogId,
    /// Where the configuration in force stands in the log; zero if there is none.
    pub membership_index: LogIndex,
    /// What has happened since the start.
    pub counters: Counters,
}

/// Counts since the start of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Counters {
    /// Elections begun: pre-votes that led to a candidacy in a new term.
    pub campaigns: u64,
    /// Elections won.
    pub elections_won: u64,
    /// Times that it stepped down because it lost its majority or its disk stalled (thesis §6.2).
    pub leases_lost: u64,
    /// Messages ignored because they were addressed to another node, or claimed to come from this one.
    pub misaddressed: u64,
    /// Messages ignored because a field was impossible.
    pub absurd: u64,
    /// Messages ignored because they came late: an earlier term, or a question no longer asked.
    pub stale: u64,
    /// Votes and pre-votes refused because a leader is alive (thesis §4.2.3).
    pub sticky: u64,
    /// Messages refused because they would have broken safety: see [`Notice::Violation`](crate::Notice::Violation).
    pub violations: u64,
    /// Snapshots installed from a leader.
    pub snapshots_installed: u64,
    /// Appends whose entries were dropped because too many were not durable yet.
    pub overflowed: u64,
}

/// What a leader knows of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct PeerStatus {
    /// The peer.
    pub id: NodeId,
    /// How entries are sent to it.
    pub state: ReplicationState,
    /// Through where its log is known to equal the leader's (`matchIndex` of Figure 2).
    pub match_index: LogIndex,
    /// The next entry to send to it (`nextIndex` of Figure 2).
    pub next_index: LogIndex,
    /// `AppendEntries` with entries on the way to it.
    pub inflight_appends: u64,
    /// Bytes of entries on the way to it.
    pub inflight_bytes: u64,
    /// How much of a snapshot it has, and the snapshot's length, while one is sent to it.
    pub snapshot_bytes: Option<(u64, u64)>,
    /// When it was last heard from in this term.
    pub last_contact: Option<Instant>,
}

/// How a leader sends entries to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum ReplicationState {
    /// Looking for the last common entry, one message at a time.
    Probe,
    /// Entries are sent optimistically, within the limits on what is in flight.
    Replicate,
    /// A snapshot is sent, as `AppendEntries` cannot help, or would be more work (§7).
    Snapshot,
}
