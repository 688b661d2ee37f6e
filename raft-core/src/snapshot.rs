//! Snapshots: what names one, and what is known of it beside its bytes (§7).
//!
//! The bytes belong to the state machine and lie in the driver's store; the node moves names, offsets and chunks.

use alloc::sync::Arc;
use core::fmt;

use crate::ids::{LogId, LogIndex, NodeId, Term};
use crate::membership::{Membership, MembershipError};

/// A run of entries of one term, up to the next run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct TermRun {
    /// The term of every entry in the run.
    pub term: Term,
    /// Where the run begins.
    pub first: LogIndex,
}

/// Names one snapshot of one server. The entry alone would not do: two servers' bytes for the same entry may differ,
/// and chunks of them must never be put together.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct SnapshotId {
    /// The last entry that it replaces (§7: lastIncludedIndex, lastIncludedTerm).
    pub last: LogId,
    /// The server that took it.
    pub taken_by: NodeId,
    /// Which of that server's.
    pub seq: u64,
}

/// Everything about a snapshot but its bytes (§7).
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct SnapshotMeta {
    /// Its name.
    pub id: SnapshotId,
    /// The configuration in force as of `id.last` (§6).
    pub membership: Arc<Membership>,
    /// Where that configuration stands in the log.
    pub membership_index: LogIndex,
    /// The length of its bytes.
    pub size_bytes: u64,
    /// A checksum of its bytes, of whatever kind the snapshot stores of the cluster agree on.
    pub digest: u64,
    /// The latest runs of equal terms through `id.last`, so that its receiver can tell what became of proposals among
    /// the entries that it replaces. The first run may begin anywhere.
    pub terms: Arc<[TermRun]>,
}

/// How many runs of compacted entries are remembered at most.
pub(crate) const RUNS_MAX: usize = 64;

impl SnapshotMeta {
    /// Checks that the parts fit together.
    ///
    /// # Errors
    /// Says which rule is broken.
    pub fn validate(&self) -> Result<(), SnapshotMetaError> {
        let last = self.id.last;
        if last.index == LogIndex::ZERO || last.index >= LogIndex::LIMIT {
            return Err(SnapshotMetaError::Index(last.index));
        }
        if last.term == Term::ZERO || last.term >= Term::LIMIT {
            return Err(SnapshotMetaError::Term(last.term));
        }
        if self.membership_index == LogIndex::ZERO || self.membership_index > last.index {
            return Err(SnapshotMetaError::MembershipIndex(self.membership_index));
        }
        self.membership.validate()?;
        let rising =
            self.terms.windows(2).all(|two| two[0].term < two[1].term && two[0].first < two[1].first);
        let bounded = self.terms.len() <= RUNS_MAX
            && self.terms.first().is_none_or(|run| run.first > LogIndex::ZERO && run.term > Term::ZERO);
        let ends = self.terms.last().is_none_or(|run| run.term == last.term && run.first <= last.index);
        if rising && bounded && ends { Ok(()) } else { Err(SnapshotMetaError::Terms(last)) }
    }
}

/// Why what is said of a snapshot cannot be true.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotMetaError {
    /// Its last index is zero or too large.
    #[error("a snapshot through index {0}")]
    Index(LogIndex),
    /// Its last term is zero or too large.
    #[error("a snapshot of term {0}")]
    Term(Term),
    /// Its configuration stands nowhere in it.
    #[error("a snapshot with a membership from index {0}")]
    MembershipIndex(LogIndex),
    /// Its configuration cannot be used.
    #[error("the snapshot's membership: {0}")]
    Membership(#[from] MembershipError),
    /// Its runs of terms are out of order, too many, or do not end at its last entry.
    #[error("the terms of the snapshot through {0} do not fit")]
    Terms(LogId),
}

/// Why a snapshot store did not do what it was asked. A store that lost the snapshot that it reported complete says
/// `Unusable`; another is then taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum SnapshotError {
    /// It could not be read or written.
    #[error("the snapshot store failed")]
    Failed,
    /// It is not there, or its bytes are not what its digest says.
    #[error("the snapshot is missing or damaged")]
    Unusable,
}

/// As in protocol traces: `9@2/n1#3`.
impl fmt::Display for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/n{}#{}", self.last, self.taken_by, self.seq)
    }
}

impl fmt::Debug for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
