//! What groups share: a store that has a log and snapshots for each, and a network that has an endpoint for each.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::error::Error;
use std::future::Future;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use raft_core::host::SnapshotStore;

use crate::cluster::GroupId;
use crate::storage::{
    AsyncLog, DurableError, DurableStore, GroupError, GroupLog, Identity, MemoryLog, MemorySnapshots,
    NodeLog, OpenError, SnapshotFileError, SnapshotFiles,
};
use crate::tcp::{GroupTaken, TcpGroup, TcpHub};
use crate::transport::Network;

/// Stores for groups. Its calls may block: they are made where that harms nobody.
pub trait GroupStores: Send + Sync + 'static {
    /// A group's log. Best one without a thread of its own.
    type Log: NodeLog;
    /// A group's snapshots.
    type Snapshots: SnapshotStore;
    /// Why a call failed.
    type Error: Error + Send + Sync + 'static;

    /// The stores of a group, made at their first write. Its last user is gone.
    ///
    /// # Errors
    /// If they cannot be used.
    fn open(&self, group: GroupId) -> Result<(Self::Log, Self::Snapshots), Self::Error>;

    /// The groups that have something stored, ascending.
    ///
    /// # Errors
    /// If that cannot be found out.
    fn groups(&self) -> Result<Vec<GroupId>, Self::Error>;

    /// Drops whatever is stored of a group that does not run, except for what it must remember to vote no second time
    /// in a term, should it come back.
    ///
    /// # Errors
    /// If something is left.
    fn remove(&self, group: GroupId) -> Result<(), Self::Error>;
}

/// A network that groups share.
pub trait GroupNetwork: Send + Sync + 'static {
    /// The network of one group.
    type Network: Network;

    /// The network of a group, for one start of its node.
    ///
    /// # Errors
    /// If it runs already.
    fn group(&self, group: GroupId) -> Result<Self::Network, GroupTaken>;

    /// Closes everything; resolves when all sockets are closed.
    fn stop(&self) -> impl Future<Output = ()> + Send;
}

impl GroupNetwork for TcpHub {
    type Network = TcpGroup;

    fn group(&self, group: GroupId) -> Result<TcpGroup, GroupTaken> {
        TcpHub::group(self, group)
    }

    async fn stop(&self) {
        TcpHub::stop(self).await;
    }
}

/// Stores in memory: for tests, and state that may be lost with the process. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct MemoryStores(Arc<Mutex<BTreeMap<GroupId, InMemory>>>);

/// What is kept of a group.
#[derive(Clone, Debug, Default)]
struct InMemory {
    log: MemoryLog,
    snapshots: MemorySnapshots,
    /// Nothing is left but its vote.
    is_removed: bool,
}

impl MemoryStores {
    fn groups(&self) -> MutexGuard<'_, BTreeMap<GroupId, InMemory>> {
        // Each use is one change of the map or of an entry.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl GroupStores for MemoryStores {
    type Log = MemoryLog;
    type Snapshots = MemorySnapshots;
    type Error = Infallible;

    fn open(&self, group: GroupId) -> Result<(MemoryLog, MemorySnapshots), Infallible> {
        let mut groups = self.groups();
        let stored = groups.entry(group).or_default();
        stored.is_removed = false;
        Ok((stored.log.clone(), stored.snapshots.clone()))
    }

    fn groups(&self) -> Result<Vec<GroupId>, Infallible> {
        let groups = self.groups();
        Ok(groups.iter().filter(|(_, stored)| !stored.is_removed).map(|(group, _)| *group).collect())
    }

    fn remove(&self, group: GroupId) -> Result<(), Infallible> {
        if let Some(stored) = self.groups().get_mut(&group) {
            let log = stored.log.vote_alone();
            *stored = InMemory { log, snapshots: MemorySnapshots::default(), is_removed: true };
        }
        Ok(())
    }
}

/// Logs of all groups in one [`DurableStore`], and their snapshots as files beside it. Clones are the same.
#[derive(Clone, Debug)]
pub struct DurableStores {
    log: DurableStore,
    snapshots: Arc<SnapshotFiles>,
}

/// Why stores on disk cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DurableStoresError {
    /// The logs cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The log of a group.
    #[error(transparent)]
    Log(#[from] GroupError),
    /// The logs of all groups.
    #[error(transparent)]
    Logs(#[from] DurableError),
    /// The snapshots.
    #[error(transparent)]
    Snapshots(#[from] SnapshotFileError),
}

impl DurableStores {
    /// Opens both in this directory; creates it if it was never there. Blocks.
    ///
    /// # Errors
    /// If one of them cannot be used as it is.
    pub fn open(dir: impl AsRef<Path>, identity: Identity) -> Result<Self, DurableStoresError> {
        let dir = dir.as_ref();
        let log = DurableStore::open(dir, identity)?;
        let snapshots = Arc::new(SnapshotFiles::open(dir.join("snapshots"), identity)?);
        Ok(Self { log, snapshots })
    }

    /// The store of the logs.
    #[must_use]
    pub const fn log(&self) -> &DurableStore {
        &self.log
    }
}

impl GroupStores for DurableStores {
    type Log = AsyncLog<GroupLog>;
    type Snapshots = SnapshotFiles;
    type Error = DurableStoresError;

    fn open(&self, group: GroupId) -> Result<(AsyncLog<GroupLog>, SnapshotFiles), DurableStoresError> {
        let (log, snapshots) = (self.log.log(group)?, self.snapshots.group(group));
        if !log.is_stored() {
            // Left by a removal that a crash cut short. A node whose first snapshot came before its log has stored its
            // term by then, or has promised nothing yet.
            snapshots.clear()?;
        }
        Ok((AsyncLog(log), snapshots))
    }

    fn groups(&self) -> Result<Vec<GroupId>, DurableStoresError> {
        Ok(self.log.groups()?)
    }

    fn remove(&self, group: GroupId) -> Result<(), DurableStoresError> {
        // In this order: a log without its snapshot could not be opened. A snapshot that a crash leaves behind is cleared
        // when the group is opened again.
        self.log.remove(group)?;
        Ok(self.snapshots.group(group).clear()?)
    }
}
