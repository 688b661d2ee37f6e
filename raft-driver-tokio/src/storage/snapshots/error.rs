//! What can go wrong with snapshots as files, and what to do about it.

use std::io;
use std::path::{Path, PathBuf};

use raft_core::LogId;

use super::files::COMPLETE;
use crate::storage::durable::OpenError;

/// Why files of snapshots cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotFileError {
    /// The operating system refused something.
    #[error("cannot {op} {}: {source}; check the path, its permissions and the disk", path.display())]
    Io {
        /// What was tried.
        op: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// Another process, or another node of this one, has the directory open.
    #[error("{} is in use, by another process or by a node of this one that has not ended; stop it, or choose another data directory", path.display())]
    InUse {
        /// The file that is locked.
        path: PathBuf,
    },
    /// A file of another node, cluster or version; or a directory cannot be made, or its names not be made durable.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Names could not be made durable before. To try again would prove nothing: the system may have dropped them.
    #[error("the names in {} could not be made durable before, and what its disk holds of them is unknown; check that, and reboot or mount its file system anew before the next start", path.display())]
    Failed {
        /// The directory.
        path: PathBuf,
    },
    /// No snapshot is kept when so little is free: the log may need it.
    #[error("the disk of {} has {free_bytes} bytes free, and snapshots leave {left_bytes} to the log; make room on it", path.display())]
    NoRoom {
        /// The directory of the snapshots.
        path: PathBuf,
        /// What is free.
        free_bytes: u64,
        /// What is left free: see [`SnapshotFiles::open`](super::SnapshotFiles::open).
        left_bytes: u64,
    },
    /// There is no snapshot to be exported.
    #[error("there is no snapshot to be written to {}: take one first", path.display())]
    Nothing {
        /// Where it should go.
        path: PathBuf,
    },
    /// A backup goes to a file that is not there yet.
    #[error("{} exists; choose another name: a backup replaces nothing", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// A snapshot is not what was written.
    #[error("{} is damaged: {what}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was noticed.
        what: &'static str,
    },
    /// The same, and its entries are in no log any more.
    #[error("{} is damaged: {what}; the log has no other copy of what is in it: remove this node from the cluster and add it under a new id in an empty directory", path.display())]
    Needed {
        /// The file.
        path: PathBuf,
        /// What was noticed.
        what: &'static str,
    },
    /// What came before the log's first entry is in none of the snapshots. Nothing was removed.
    #[error("the log begins after {base}, and no snapshot in {} reaches that far; put it back{}, or remove this node from the cluster and add it under a new id in an empty directory; what an import or a rescue left that was cut short is deleted, and begun anew", dir.display(), Renamed(part.as_deref()))]
    Missing {
        /// The directory of the snapshots.
        dir: PathBuf,
        /// The entry before the log's first.
        base: LogId,
        /// One that reaches that far and was never finished, or a loss of power took its name back.
        part: Option<PathBuf>,
    },
}

struct Renamed<'a>(Option<&'a Path>);

impl std::fmt::Display for Renamed<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Some(part) = self.0 else { return Ok(()) };
        let name = part.with_extension(COMPLETE);
        write!(f, " (rename {} to {}: it is used if it is whole)", part.display(), name.display())
    }
}

impl SnapshotFileError {
    pub(super) fn io(op: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Io { op, path, source }
    }
}
