//! A store with one log, written on the caller's thread.

use std::path::Path;
use std::sync::Arc;

use raft_core::host::LogStore;
use raft_core::{LogId, LogRecovery, Write};

use super::directory;
use super::engine::Engine;
use super::error::{DurableError, GroupError, OpenError};
use super::file::{FileLayer, FirstPage, Identity};
use super::group::Group;
use super::peers::KnownPeers;
use super::read::DurableReader;
use super::write::Change;
use crate::{DirectoryId, GroupId};

/// A log in a directory of its own. See the [module's head](crate::storage::durable) for what it promises and what it costs.
///
/// It is group 0 of a store that may hold others, see [`DurableStore`](super::DurableStore).
///
/// ```
/// use raft_core::{NodeId, host::LogStore};
/// use raft_driver_tokio::ClusterId;
/// use raft_driver_tokio::storage::{DurableLog, Identity};
///
/// # let parent = tempfile::tempdir()?;
/// # let dir = parent.path().join("node-1");
/// let identity = Identity { cluster: ClusterId::new(0x5eed), node: NodeId::new(1) };
/// let mut log = DurableLog::open(&dir, identity)?;
/// assert_eq!(log.incarnation(), 1);
/// assert_eq!(log.recover()?.last.index.get(), 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct DurableLog {
    group: Arc<Group>,
    engine: Engine,
}

/// How long the journal of a new store is. Writes wait while all of it is brought into redb: the longer it is the fewer are
/// they, and the longer each waits. For files of other kinds, which need not be sparse, a part of it is enough.
const JOURNAL_BYTES: u64 = 768 << 10;

/// What errors call a file that is not the operating system's.
pub(super) const CUSTOM: &str = "(custom file)";

impl DurableLog {
    /// Opens the log in `dir`; creates both if they were never there.
    ///
    /// # Errors
    /// Whatever is there and cannot be used as it is: see [`OpenError`].
    pub fn open(dir: impl AsRef<Path>, identity: Identity) -> Result<Self, OpenError> {
        Self::of(open_directory(dir.as_ref(), identity)?, dir.as_ref())
    }

    /// Creates an empty store in an empty file of another kind than the operating system's. If this fails, or a crash
    /// interrupts it, the file must be thrown away.
    ///
    /// # Errors
    /// If the file is not empty, or fails.
    pub fn create_on(file: Arc<dyn FileLayer>, identity: Identity) -> Result<(), OpenError> {
        Engine::create(file, identity, Path::new(CUSTOM), JOURNAL_BYTES / 12)
    }

    /// Opens a log that [`create_on`](Self::create_on) has created. The caller keeps others away from the file.
    ///
    /// # Errors
    /// Whatever is there and cannot be used as it is: see [`OpenError`].
    pub fn open_on(file: Arc<dyn FileLayer>, identity: Identity) -> Result<Self, OpenError> {
        Self::of(open_file(file, identity)?, Path::new(CUSTOM))
    }

    fn of(engine: Engine, path: &Path) -> Result<Self, OpenError> {
        let group = GroupId::default();
        let failed = |error| OpenError::of(path)(error);
        // What belongs to other groups would be neither seen nor compacted.
        let others = engine.shared.groups().map_err(failed)?;
        if let Some(other) = others.into_iter().find(|other| *other != group) {
            return Err(OpenError::SeveralGroups { path: path.to_owned(), group: other });
        }
        let group = Group::open(&engine.shared, group).map_err(|error| match error {
            GroupError::Log(error) => failed(error),
            GroupError::InUse { .. } => unreachable!("the engine is this log's alone"),
        })?;
        Ok(Self { group, engine })
    }

    /// How many times this log was opened, this time included: what
    /// [`Recovery`](raft_core::Recovery) needs if you drive the core yourself; the builder does not ask for it.
    #[must_use]
    pub fn incarnation(&self) -> u64 {
        self.engine.incarnation
    }

    /// The id of the data directory: made when it was initialised, the same ever since.
    #[must_use]
    pub fn directory(&self) -> DirectoryId {
        self.engine.shared.peers.directory()
    }

    /// What is remembered of the peers' data directories, beside the log.
    #[must_use]
    pub fn peers(&self) -> KnownPeers {
        self.engine.shared.peers.clone()
    }
}

pub(super) fn open_directory(dir: &Path, identity: Identity) -> Result<Engine, OpenError> {
    let opened =
        directory::open(dir, identity, |file, path| Engine::create(file, identity, path, JOURNAL_BYTES))?;
    Engine::open(opened.first_page, &opened.log_path, Some((opened.marker, dir)))
}

pub(super) fn open_file(file: Arc<dyn FileLayer>, identity: Identity) -> Result<Engine, OpenError> {
    let path = Path::new(CUSTOM);
    Engine::open(FirstPage::open(file, identity, path)?, path, None)
}

impl LogStore for DurableLog {
    type Reader = DurableReader;
    type Error = DurableError;

    fn recover(&mut self) -> Result<LogRecovery, DurableError> {
        self.group.recover()
    }

    fn write(&mut self, batch: &[Write]) -> Result<(), DurableError> {
        self.engine.commit_one(&self.group, Change::Write(batch))
    }

    fn compact(&mut self, through: LogId) -> Result<(), DurableError> {
        self.engine.commit_one(&self.group, Change::Compact(through))
    }

    fn reader(&self) -> DurableReader {
        DurableReader(Arc::clone(&self.group))
    }
}
