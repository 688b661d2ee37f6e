//! Misuse by the driver. Misbehaving peers never cause one of these.

use crate::ids::{LogId, LogIndex, ReadId, Term, WriteId};
use crate::membership::MembershipError;
use crate::snapshot::SnapshotMetaError;

/// The driver broke a duty, and the node can no longer vouch for anything. Sticky: every later `step` returns
/// it again. Drop the node and start it anew from its store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Fatal {
    /// `Persisted` for a write that was never handed out.
    #[error("write {0:?} was reported durable but never handed out")]
    UnknownWrite(WriteId),
    /// `Applied` beyond what was handed out.
    #[error("index {0} was reported applied but only entries through {1} were handed out")]
    UnknownApplied(LogIndex, LogIndex),
    /// `SnapshotTaken` without a `TakeSnapshot`, or of another snapshot.
    #[error("a snapshot was reported that was never asked for")]
    UnknownSnapshot,
    /// The log store returned other entries than it was given, or none where durable ones must be.
    #[error("read {0:?} of the log did not return the durable entries from index {1}")]
    LogMismatch(ReadId, LogIndex),
}

/// Why a node cannot start from what its driver recovered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StartError {
    /// The configuration contradicts itself.
    #[error("configuration: {0}")]
    Config(#[from] ConfigError),
    /// The hard state is older than the log: it was lost or rolled back.
    #[error("the hard state is of term {hard_state}, but the log's last entry is {last}")]
    HardStateBehindLog {
        /// The recovered term.
        hard_state: Term,
        /// The log's last entry.
        last: LogId,
    },
    /// No term is left to count on: see [`Term::LIMIT`].
    #[error("the hard state is of term {0}, which is out of range")]
    TermTooLarge(Term),
    /// The state machine holds more than the log: the log was lost or rolled back.
    #[error("the state machine has applied through {applied}, but the log ends at {last}")]
    AppliedBeyondLog {
        /// What the state machine says it holds.
        applied: LogId,
        /// The log's last entry.
        last: LogId,
    },
    /// The state machine's last applied entry is another one than the log's.
    #[error("the state machine has applied {applied}, but the log has term {term} there")]
    AppliedDiffers {
        /// What the state machine says it holds.
        applied: LogId,
        /// The term in the log.
        term: Term,
    },
    /// The term runs do not cover the log in order.
    #[error("the log's terms do not cover it from {base} to {last}")]
    BadTerms {
        /// Where the log begins.
        base: LogId,
        /// Where it ends.
        last: LogId,
    },
    /// The log begins behind compacted entries, and there is no snapshot of them.
    #[error(
        "the log begins after {0}, and there is no snapshot of what came before; put it back, or remove this node from the cluster and add it under a new id"
    )]
    MissingSnapshot(LogId),
    /// The snapshot cannot be what it says.
    #[error("snapshot: {0}")]
    Snapshot(#[from] SnapshotMetaError),
    /// The hard state is older than the snapshot: it was lost or rolled back.
    #[error("the hard state is of term {hard_state}, but the snapshot is of {last}")]
    HardStateBehindSnapshot {
        /// The recovered term.
        hard_state: Term,
        /// The snapshot's last entry.
        last: LogId,
    },
    /// A configuration in the log cannot be used.
    #[error("membership at index {0}: {1}")]
    Membership(LogIndex, MembershipError),
    /// A configuration stands at an index outside the log, or out of order.
    #[error("a membership at index {0} is outside the log or out of order")]
    MembershipIndex(LogIndex),
}

/// Why a configuration is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// `election_timeout_min` must be below `election_timeout_max`.
    #[error("election_timeout_min must be below election_timeout_max")]
    ElectionTimeoutRange,
    /// The heartbeat interval must be below the minimal election timeout, and not zero.
    #[error("heartbeat_interval must be above zero and below election_timeout_min")]
    HeartbeatInterval,
    /// A limit is zero.
    #[error("{0} must not be zero")]
    Zero(&'static str),
    /// A limit is too large to be kept.
    #[error("{0} is too large: at most {1}")]
    TooLarge(&'static str, u64),
}
