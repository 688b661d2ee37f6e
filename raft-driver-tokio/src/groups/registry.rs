//! The groups that run in this process.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use raft_core::host::{SnapshotStore, StateMachine};
use raft_core::{LogIndex, NodeId};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::cluster::GroupId;
use crate::error::{StartError, StopReason};
use crate::groups::{GroupNetwork, GroupStores};
use crate::storage::NodeLog;
use crate::tcp::GroupTaken;
use crate::{Builder, Metrics, Raft};

/// All groups of a process. Clones are the same.
pub struct Groups<S: StateMachine, D, N> {
    inner: Arc<Inner<S, D, N>>,
}

struct Inner<S: StateMachine, D, N> {
    builder: Builder,
    stores: Arc<D>,
    network: N,
    book: Mutex<Book<S>>,
}

struct Book<S: StateMachine> {
    /// Started and not stopped through here; some may have stopped by themselves.
    running: BTreeMap<GroupId, Raft<S>>,
    /// Being started, stopped or removed.
    busy: BTreeSet<GroupId>,
    is_closed: bool,
    /// Told when nothing is busy any more.
    settled: Arc<Notify>,
}

/// Why a group was not started.
#[derive(Debug, thiserror::Error)]
pub enum StartGroupError<E> {
    /// It runs already, or is being started, stopped or removed.
    #[error(transparent)]
    Taken(#[from] GroupTaken),
    /// Its stores cannot be used.
    #[error("the stores of the group cannot be opened: {0}")]
    Stores(#[source] E),
    /// Its node cannot be started.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The groups of this process were shut down.
    #[error("the groups of this process were shut down")]
    ShutDown,
}

/// Why a group was not removed.
#[derive(Debug, thiserror::Error)]
pub enum RemoveError<E> {
    /// This node is still a member as far as it knows: remove it from the members first, and wait until it heard of that.
    #[error("node {node} is still a member of group {group}")]
    StillMember {
        /// The group.
        group: GroupId,
        /// This node.
        node: NodeId,
    },
    /// It is being started, stopped or removed.
    #[error("group {0} is being started, stopped or removed")]
    Busy(GroupId),
    /// What is stored cannot be read.
    #[error(transparent)]
    Recover(#[from] StartError),
    /// Its stores cannot be used, or something is left in them; it does not run any more.
    #[error("what is stored of the group cannot be removed: {0}")]
    Stores(#[source] E),
}

impl<S: StateMachine, D, N> Clone for Groups<S, D, N> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

impl<S: StateMachine, D, N> fmt::Debug for Groups<S, D, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Groups").field("running", &self.inner.book().running.keys()).finish_non_exhaustive()
    }
}

impl<S: StateMachine, D, N> Inner<S, D, N> {
    fn book(&self) -> MutexGuard<'_, Book<S>> {
        // Each use is one change: after a panic it is done or not done, never half.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A group that is being worked on, by one caller; until dropped.
struct Hold<S: StateMachine, D, N> {
    inner: Arc<Inner<S, D, N>>,
    group: GroupId,
}

impl<S: StateMachine, D, N> Drop for Hold<S, D, N> {
    fn drop(&mut self) {
        let mut book = self.inner.book();
        book.busy.remove(&self.group);
        if book.busy.is_empty() {
            book.settled.notify_waiters();
        }
    }
}

impl<S: StateMachine, D: GroupStores, N: GroupNetwork> Groups<S, D, N> {
    /// No groups yet. Each is started by this builder, over its part of the stores and of the network.
    #[must_use]
    pub fn new(builder: Builder, stores: D, network: N) -> Self {
        let builder = builder.with_timer_step();
        let (running, busy, settled) = (BTreeMap::new(), BTreeSet::new(), Arc::default());
        let book = Book { running, busy, is_closed: false, settled };
        Self { inner: Arc::new(Inner { builder, stores: Arc::new(stores), network, book: Mutex::new(book) }) }
    }

    /// This process's name, in all groups.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.inner.builder.config().id
    }

    /// The network that they share.
    #[must_use]
    pub fn network(&self) -> &N {
        &self.inner.network
    }

    /// The stores that they share.
    #[must_use]
    pub fn stores(&self) -> &D {
        &self.inner.stores
    }

    fn hold(&self, group: GroupId) -> Option<Hold<S, D, N>> {
        let free = self.inner.book().busy.insert(group);
        free.then(|| Hold { inner: Arc::clone(&self.inner), group })
    }

    /// Starts a group, over what it left if it was here before. A new one has to be bootstrapped, or added to by its
    /// leader. One that has stopped by itself is started anew.
    ///
    /// # Errors
    /// If it runs already, or cannot be started. Nothing runs of it then.
    pub async fn start(&self, group: GroupId, machine: S) -> Result<Raft<S>, StartGroupError<D::Error>> {
        let hold = self.hold(group).ok_or(GroupTaken(group))?;
        let before = {
            let book = self.inner.book();
            if book.is_closed {
                return Err(StartGroupError::ShutDown);
            }
            book.running.get(&group).cloned()
        };
        if let Some(before) = before {
            if before.stop_reason().is_none() {
                return Err(GroupTaken(group).into());
            }
            before.stopped().await;
            self.inner.book().running.remove(&group);
        }
        let (log, snapshots) = self.open(group).await.map_err(StartGroupError::Stores)?;
        let network = self.inner.network.group(group)?;
        let raft = self.inner.builder.clone().start(log, snapshots, machine, network).await?;
        let is_closed = {
            let mut book = self.inner.book();
            if !book.is_closed {
                book.running.insert(group, raft.clone());
            }
            book.is_closed
        };
        if is_closed {
            // Still held: who shuts the groups down waits for it.
            raft.shutdown_now().await;
        }
        drop(hold);
        if is_closed { Err(StartGroupError::ShutDown) } else { Ok(raft) }
    }

    /// The handle of a group that was started here.
    #[must_use]
    pub fn get(&self, group: GroupId) -> Option<Raft<S>> {
        self.inner.book().running.get(&group).cloned()
    }

    /// The groups that were started here, ascending. One that has stopped by itself is among them, and its handle says why.
    #[must_use]
    pub fn running(&self) -> Vec<GroupId> {
        self.inner.book().running.keys().copied().collect()
    }

    /// The groups that have something stored here, ascending: those to start again when the process is.
    ///
    /// # Errors
    /// If the stores cannot be read.
    pub async fn stored(&self) -> Result<Vec<GroupId>, D::Error> {
        self.blocking(|stores| stores.groups()).await
    }

    /// Stops a group, after it handed over its leadership. Resolves when its files are closed; it can be started
    /// again. `None` if it does not run, or is being worked on.
    pub async fn stop(&self, group: GroupId) -> Option<StopReason> {
        let _hold = self.hold(group)?;
        let raft = self.get(group)?;
        let reason = raft.shutdown().await;
        self.inner.book().running.remove(&group);
        Some(reason)
    }

    /// Stops a group of which this node is no member any more, and deletes what is stored of it.
    ///
    /// # Errors
    /// If this node is a member as far as it knows, or something could not be deleted.
    pub async fn remove(&self, group: GroupId) -> Result<(), RemoveError<D::Error>> {
        self.remove_if(group, |is_member| !is_member).await
    }

    /// As [`remove`](Self::remove), whether or not this node is a member: whoever calls it vouches for what this node has
    /// acknowledged being held by a majority without it. For groups that are abandoned as a whole, and nodes that were
    /// removed while they were away and will never hear of it.
    ///
    /// # Errors
    /// If something could not be deleted.
    pub async fn remove_anyway(&self, group: GroupId) -> Result<(), RemoveError<D::Error>> {
        self.remove_if(group, |_| true).await
    }

    async fn remove_if(&self, group: GroupId, may: fn(bool) -> bool) -> Result<(), RemoveError<D::Error>> {
        let hold = self.hold(group).ok_or(RemoveError::Busy(group))?;
        let node = self.id();
        let is_member = match self.get(group) {
            Some(raft) => !has_left(&raft).await,
            None => self.is_stored_member(group).await?,
        };
        if !may(is_member) {
            return Err(RemoveError::StillMember { group, node });
        }
        if let Some(raft) = self.get(group) {
            raft.shutdown_now().await;
            self.inner.book().running.remove(&group);
        }
        let removed = self.blocking(move |stores| {
            // Also if nobody waits any more: the group cannot be started while it is being removed.
            let _hold = hold;
            stores.remove(group)
        });
        removed.await.map_err(RemoveError::Stores)
    }

    /// Whether what is stored of a group that does not run says that this node is a member.
    async fn is_stored_member(&self, group: GroupId) -> Result<bool, RemoveError<D::Error>> {
        let (log, snapshots) = self.open(group).await.map_err(RemoveError::Stores)?;
        let (log, found) = log.ask().await?;
        let node = self.id();
        let newest = found.memberships.last().cloned();
        let snapshot = self
            .blocking(move |_| {
                let snapshot = snapshots.recover(found.base);
                drop(log);
                snapshot
            })
            .await;
        let snapshot = snapshot.map_err(|error| StartError::Snapshots(Box::new(error)))?;
        let committed = snapshot.as_ref().map_or(LogIndex::ZERO, |meta| meta.id.last.index);
        // What is in the log alone may never be committed, and this node's vote may be needed for that.
        Ok(newest.is_some_and(|(index, membership)| index > committed || membership.contains(node))
            || snapshot.is_some_and(|meta| meta.membership.contains(node)))
    }

    /// Stops all groups, after they handed over what they lead, and then closes the network. Whatever is under way, such
    /// as a start, is waited for; none can be started afterwards.
    pub async fn shutdown(&self) {
        let running: Vec<_> = {
            let mut book = self.inner.book();
            book.is_closed = true;
            book.running.values().cloned().collect()
        };
        let mut stopping = JoinSet::new();
        for raft in running {
            stopping.spawn(async move { raft.shutdown().await });
        }
        while stopping.join_next().await.is_some() {}
        self.settled().await;
        self.inner.book().running.clear();
        self.inner.network.stop().await;
    }

    /// Resolves when nothing is being started, stopped or removed.
    async fn settled(&self) {
        let settled = Arc::clone(&self.inner.book().settled);
        loop {
            // Registered before the look, so that nothing is missed between the two.
            let told = settled.notified();
            if self.inner.book().busy.is_empty() {
                return;
            }
            told.await;
        }
    }

    async fn open(&self, group: GroupId) -> Result<(D::Log, D::Snapshots), D::Error> {
        self.blocking(move |stores| stores.open(group)).await
    }

    /// Calls something that may block.
    async fn blocking<R: Send + 'static>(&self, call: impl FnOnce(&D) -> R + Send + 'static) -> R {
        let stores = Arc::clone(&self.inner.stores);
        match tokio::task::spawn_blocking(move || call(&stores)).await {
            Ok(result) => result,
            Err(error) => match error.try_into_panic() {
                // A store of the caller's: its panic is the caller's.
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => std::future::pending().await,
            },
        }
    }
}

/// How long a node that was removed waits to hear that this is committed: its leader tells it.
const HEARS_WITHIN: Duration = Duration::from_secs(5);

/// Whether a committed configuration says that this node is no member. One that is only in its log may need its vote yet.
async fn has_left<S: StateMachine>(raft: &Raft<S>) -> bool {
    let node = raft.id();
    if raft.metrics().borrow().membership.contains(node) {
        return false;
    }
    let left = |metrics: &Metrics| {
        !metrics.membership.contains(node) && metrics.status.membership_index <= metrics.status.commit
    };
    raft.wait(HEARS_WITHIN).until(left).await.is_ok()
}
