//! Why a durable log cannot be opened or used, in words that say what to do about it.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use raft_core::wire::WireError;
use raft_core::{LogId, LogIndex, NodeId, ScanError};
use redb::{CommitError, DatabaseError, StorageError, TableError, TransactionError};

use crate::{ClusterId, DirectoryId, GroupId};

/// Why a store cannot be opened. Nothing was changed that another attempt would need.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The operating system refused something. After a failed disk the same holds as of [`DurableError::Io`].
    #[error("cannot {op} {}: {source}; check the path, its permissions and the disk; if that failed, reboot or mount its file system anew before the next start", path.display())]
    Io {
        /// What was tried.
        op: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// Another process, or another node of this one, has the store open.
    #[error("{} is in use, by another process or by a node of this one that has not ended; stop it, or choose another data directory", path.display())]
    InUse {
        /// The file that is locked.
        path: PathBuf,
    },
    /// A file that this library did not write.
    #[error("{} is not a file of this library; choose another data directory", path.display())]
    NotALog {
        /// The file.
        path: PathBuf,
    },
    /// Another version of the format, as (files, entries).
    #[error("{} has format {}.{}, and this version reads {}.{}; run the version that wrote it", path.display(), found.0, found.1, expected.0, expected.1)]
    Version {
        /// The file.
        path: PathBuf,
        /// What it has.
        found: (u16, u16),
        /// What can be read.
        expected: (u16, u16),
    },
    /// The log of a node of another cluster.
    #[error("{} belongs to cluster {found}, not to {expected}; choose the right cluster id or data directory", path.display())]
    ForeignCluster {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        found: ClusterId,
        /// Who asked.
        expected: ClusterId,
    },
    /// The log of another node.
    #[error("{} belongs to node {found}, not to {expected}; a node must never take over another one's log and votes: choose the right node id or data directory", path.display())]
    ForeignNode {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        found: NodeId,
        /// Who asked.
        expected: NodeId,
    },
    /// The log of another data directory of this node: a copy, or that of a former disk.
    #[error("{} was made for data directory {found}, but lies in {expected}; put this directory's own log back, or remove this node from the cluster and add it under a new id in an empty directory", path.display())]
    ForeignDirectory {
        /// The file.
        path: PathBuf,
        /// Where it belongs.
        found: DirectoryId,
        /// Where it lies.
        expected: DirectoryId,
    },
    /// A file of another group of this node.
    #[error("{} belongs to group {found}, not to {expected}; put it back where it was", path.display())]
    ForeignGroup {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        found: GroupId,
        /// Who asked.
        expected: GroupId,
    },
    /// A store of several groups, asked for as one log.
    #[error("{} holds group {group} beside group 0; open it as a DurableStore", path.display())]
    SeveralGroups {
        /// The store.
        path: PathBuf,
        /// One of its groups.
        group: GroupId,
    },
    /// The directory was in use, but its log is gone. A node that forgot its votes must not come back.
    #[error("{} is gone, though its directory held a log before; restore it, or remove this node from the cluster and add it under a new id in an empty directory", path.display())]
    Missing {
        /// The file that should be there.
        path: PathBuf,
    },
    /// What is stored is not what was written.
    #[error("{} is damaged: {what}; remove this node from the cluster and add it under a new id in an empty directory", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was noticed.
        what: String,
    },
    /// What is remembered of the peers' data directories is damaged. Nothing else depends on it.
    #[error("{} is damaged; make sure that no other node of the cluster has lost its disk, then delete this file: the ids of the peers' data directories are learned again", path.display())]
    PeersDamaged {
        /// The file.
        path: PathBuf,
    },
    /// Writes that were durable are gone: the newest ones are damaged, or a copy of the file was put back that is
    /// older than the latest start.
    #[error("{} has lost writes: it ends at write {found}, but write {witnessed} was durable; remove this node from the cluster and add it under a new id in an empty directory", path.display())]
    RolledBack {
        /// The file.
        path: PathBuf,
        /// The last write that is there.
        found: u64,
        /// The last write known to have been durable.
        witnessed: u64,
    },
}

impl OpenError {
    pub(super) fn io(op: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { op, path, source }
    }

    /// A failure of the opened file at `path`.
    pub(super) fn of(path: impl Into<PathBuf>) -> impl FnOnce(DurableError) -> Self {
        let path = path.into();
        move |error| match error {
            // redb reports a header that is not its own as invalid data; the other is a file that is too short.
            DurableError::Io(source)
                if !matches!(source.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) =>
            {
                let source = io::Error::new(source.kind(), source.to_string());
                Self::Io { op: "read and write", path, source }
            }
            DurableError::Full => {
                Self::Io { op: "write to", path, source: io::ErrorKind::StorageFull.into() }
            }
            DurableError::Damaged(what) => Self::Damaged { path, what },
            other => Self::Damaged { path, what: other.to_string() },
        }
    }
}

/// Why a group's log is not handed out, or not removed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum GroupError {
    /// Its log, a reader of it, or a call under way is not dropped yet.
    #[error("group {group} is in use in this process; stop the node that uses it first")]
    InUse {
        /// Which.
        group: GroupId,
    },
    /// The store failed.
    #[error(transparent)]
    Log(#[from] DurableError),
}

/// Why an open store cannot go on. It refuses everything after the first of these; start the node anew when the
/// cause is gone. When that is, after a failed disk, says [`Io`](Self::Io).
#[derive(Clone, Debug, thiserror::Error)]
pub enum DurableError {
    /// The disk failed. Whether the last write is durable is unknown, and it is not tried again: after a failed
    /// fsync a second one may succeed without having written anything. Nor is a new process enough: until a reboot, or until
    /// the file system is mounted anew, it may read from memory what the disk does not hold.
    #[error(
        "the disk failed: {0}; check it, and reboot or mount its file system anew before the next start, so that nothing is read that the disk does not hold; if in doubt, replace this node by one of a new id"
    )]
    Io(#[source] Arc<io::Error>),
    /// The disk is full. Nothing that was reported durable is lost.
    #[error("the disk is full: free some space, then start the node again")]
    Full,
    /// What is stored is not what was written.
    #[error("the log is damaged: {0}")]
    Damaged(String),
    /// Entries that begin beyond the log's end or at index zero, or whose term falls: the driver's mistake.
    #[error("entries from {first} cannot follow {last}")]
    NotConsecutive {
        /// The first of them.
        first: LogId,
        /// What they should follow.
        last: LogId,
    },
    /// An earlier call failed.
    #[error("the log is not used any more after an earlier failure: {0}")]
    Failed(Arc<str>),
}

impl DurableError {
    pub(super) fn damaged(at: LogIndex, what: impl std::fmt::Display) -> Self {
        Self::Damaged(format!("the block at index {at}: {what}"))
    }
}

impl From<io::Error> for DurableError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full,
            _ => Self::Io(Arc::new(error)),
        }
    }
}

impl From<redb::Error> for DurableError {
    fn from(error: redb::Error) -> Self {
        match error {
            redb::Error::Io(error) => error.into(),
            redb::Error::PreviousIo => Self::Io(Arc::new(io::Error::other("an earlier call failed"))),
            other => Self::Damaged(other.to_string()),
        }
    }
}

macro_rules! by_way_of_redb_error {
    ($($from:ty),*) => {$(
        impl From<$from> for DurableError {
            fn from(error: $from) -> Self {
                redb::Error::from(error).into()
            }
        }
    )*};
}
by_way_of_redb_error!(CommitError, DatabaseError, StorageError, TableError, TransactionError);

impl From<ScanError> for DurableError {
    fn from(error: ScanError) -> Self {
        Self::Damaged(error.to_string())
    }
}

impl From<WireError> for DurableError {
    fn from(error: WireError) -> Self {
        Self::Damaged(error.to_string())
    }
}
