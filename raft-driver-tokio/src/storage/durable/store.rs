//! A store that several groups share: one file, one thread that writes, one fsync for whatever is waiting.
//!
//! ```text
//!  GroupLog 1 ──┐
//!  GroupLog 2 ──┼──▶ queue ──▶ raft-store: [ all that waits ] ──▶ one commit, one fsync ──▶ each is told
//!  GroupLog 3 ──┘                               ▲ gathers while the last fsync runs
//! ```
//!
//! * Whoever arrives while an fsync runs shares the next one.
//! * A [`GroupLog`] has one change under way at a time, so the queue is bounded by the number of groups, and by what the
//!   core lets a node have in flight.
//! * The thread ends, and the file is closed, when the store, its logs and their readers are dropped; whoever drops the
//!   last of store and logs waits for that.

use std::path::Path;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use raft_core::host::{AsyncLogStore, LogStore};
use raft_core::{LogId, LogRecovery, Write};
use tokio::sync::oneshot;

use super::engine::{Engine, Shared};
use super::error::{DurableError, GroupError, OpenError};
use super::file::{FileLayer, Identity};
use super::group::Group;
use super::log::{CUSTOM, open_directory, open_file};
use super::peers::KnownPeers;
use super::read::{DurableReader, blocking};
use super::write::Change;
use crate::{DirectoryId, GroupId};

/// How much one transaction takes at most, unless a single change is larger. What waits beyond it goes into the next.
const COMMIT_BYTES_MAX: u64 = 8 << 20;
/// What a change costs beside its entries: a page, since no two groups share one for long.
const CHANGE_BYTES: u64 = 4096;

/// The logs of several groups in one directory. Clones are the same store.
///
/// A group's log is handed out by [`log`](Self::log), to one user at a time. Groups come and go while others run:
/// nothing is created before the first write to a group, and [`remove`](Self::remove) drops a group's entries. A group
/// that is idle costs neither a thread, a file, nor a task; one that is in use about 200 bytes of memory.
///
/// ```
/// use raft_core::{NodeId, host::LogStore};
/// use raft_driver_tokio::storage::{AsyncLog, DurableStore, Identity};
/// use raft_driver_tokio::{ClusterId, GroupId};
///
/// # let parent = tempfile::tempdir()?;
/// # let dir = parent.path().join("node-1");
/// let identity = Identity { cluster: ClusterId::new(0x5eed), node: NodeId::new(1) };
/// let store = DurableStore::open(&dir, identity)?;
/// let mut orders = store.log(GroupId::new(1))?;
/// let users = AsyncLog(store.log(GroupId::new(2))?); // to be given to a Builder: it needs no thread
/// assert_eq!(LogStore::recover(&mut orders)?.last.index.get(), 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct DurableStore(Arc<Writer>);

/// The thread that writes.
#[derive(Debug)]
struct Writer {
    /// `None` at the end.
    queue: Option<mpsc::Sender<Request>>,
    /// `None` at the end.
    thread: Option<JoinHandle<()>>,
    shared: Arc<Shared>,
    incarnation: u64,
}

impl Drop for Writer {
    fn drop(&mut self) {
        drop(self.queue.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread of the durable store panicked");
        }
    }
}

/// A change that waits.
struct Request {
    group: Arc<Group>,
    change: Queued,
    done: Box<dyn FnOnce(Result<(), DurableError>) + Send>,
}

enum Queued {
    Write(Vec<Write>),
    Compact(LogId),
    Remove,
}

impl Request {
    fn change(&self) -> (&Group, Change<'_>) {
        let change = match &self.change {
            Queued::Write(batch) => Change::Write(batch),
            Queued::Compact(through) => Change::Compact(*through),
            Queued::Remove => Change::Remove,
        };
        (&self.group, change)
    }

    fn bytes(&self) -> u64 {
        let entries = match &self.change {
            Queued::Write(batch) => batch.iter().map(|write| write.entries.size_bytes()).sum(),
            Queued::Compact(_) | Queued::Remove => 0,
        };
        entries + CHANGE_BYTES
    }

    /// Whoever hears of it finds the group unused by this.
    fn finish(self, outcome: Result<(), DurableError>) {
        let Self { group, change, done } = self;
        drop((group, change));
        done(outcome);
    }
}

/// The thread.
fn run(mut engine: Engine, queue: &mpsc::Receiver<Request>) {
    let mut batch = Vec::new();
    let mut outcomes = Vec::new();
    while let Ok(first) = queue.recv() {
        let mut bytes = first.bytes();
        batch.push(first);
        while bytes < COMMIT_BYTES_MAX
            && let Ok(next) = queue.try_recv()
        {
            bytes += next.bytes();
            batch.push(next);
        }
        let committed = engine.commit(batch.iter().map(Request::change), |outcome| outcomes.push(outcome));
        if let Err(error) = committed {
            // All or nothing.
            outcomes.clear();
            outcomes.resize_with(batch.len(), || Err(error.clone()));
        }
        batch.drain(..).zip(outcomes.drain(..)).for_each(|(request, outcome)| request.finish(outcome));
    }
}

impl DurableStore {
    /// Opens the store in `dir`; creates both if they were never there. A directory that was used as a
    /// [`DurableLog`](super::DurableLog) is a store whose only group is 0.
    ///
    /// # Errors
    /// Whatever is there and cannot be used as it is: see [`OpenError`].
    pub fn open(dir: impl AsRef<Path>, identity: Identity) -> Result<Self, OpenError> {
        Self::start(open_directory(dir.as_ref(), identity)?, dir.as_ref())
    }

    /// Opens a store that [`DurableLog::create_on`](super::DurableLog::create_on) has created. The caller keeps others
    /// away from the file.
    ///
    /// # Errors
    /// Whatever is there and cannot be used as it is: see [`OpenError`].
    pub fn open_on(file: Arc<dyn FileLayer>, identity: Identity) -> Result<Self, OpenError> {
        Self::start(open_file(file, identity)?, Path::new(CUSTOM))
    }

    fn start(engine: Engine, path: &Path) -> Result<Self, OpenError> {
        let (queue, requests) = mpsc::channel();
        let (shared, incarnation) = (Arc::clone(&engine.shared), engine.incarnation);
        let thread = std::thread::Builder::new().name("raft-store".into());
        let thread = thread.spawn(move || run(engine, &requests));
        let thread = Some(thread.map_err(OpenError::io("start the thread that writes", path))?);
        Ok(Self(Arc::new(Writer { queue: Some(queue), thread, shared, incarnation })))
    }

    /// The log of a group, to be used by one node at a time: the group's place is free again when the log, its readers
    /// and its calls under way are dropped. Nothing is written before the log is.
    ///
    /// # Errors
    /// If the group is in use, or the store has failed.
    pub fn log(&self, group: GroupId) -> Result<GroupLog, GroupError> {
        Ok(GroupLog { group: Group::open(&self.0.shared, group)?, writer: Arc::clone(&self.0) })
    }

    /// The groups that have something stored, ascending. Blocks.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn groups(&self) -> Result<Vec<GroupId>, DurableError> {
        self.0.shared.groups()
    }

    /// Removes a group: its entries are gone when this returns. Its term and its vote stay for ever (some 100 bytes), so
    /// that a group that is used again later votes no second time in a term. Remove this node from the
    /// group's members before: entries that it has acknowledged are lost with it. Blocks; other groups go on meanwhile.
    ///
    /// # Errors
    /// If the group is in use, or the store has failed. A removal that a crash interrupts is finished when the store is
    /// opened next.
    pub fn remove(&self, group: GroupId) -> Result<(), GroupError> {
        let mut log = self.log(group)?;
        log.wait(Queued::Remove)?;
        while log.group.state().goal.is_some() {
            log.wait(Queued::Remove)?;
        }
        Ok(())
    }

    /// How many transactions were made durable since the store was opened, one fsync each.
    #[must_use]
    pub fn syncs(&self) -> u64 {
        self.0.shared.syncs()
    }

    /// How many times the store was opened, this time included.
    #[must_use]
    pub fn incarnation(&self) -> u64 {
        self.0.incarnation
    }

    /// The id of the data directory: made when it was initialised, the same ever since.
    #[must_use]
    pub fn directory(&self) -> DirectoryId {
        self.0.shared.peers.directory()
    }

    /// What is remembered of the peers' data directories, beside the logs.
    #[must_use]
    pub fn peers(&self) -> KnownPeers {
        self.0.shared.peers.clone()
    }
}

/// The log of one group in a [`DurableStore`].
///
/// It is a [`LogStore`] whose calls wait for the store's thread, and an [`AsyncLogStore`] whose calls are told by it:
/// within [`AsyncLog`](crate::storage::AsyncLog) it needs no thread of its own.
#[derive(Debug)]
pub struct GroupLog {
    group: Arc<Group>,
    writer: Arc<Writer>,
}

impl GroupLog {
    /// Which group it is.
    #[must_use]
    pub fn id(&self) -> GroupId {
        GroupId::new(self.group.id)
    }

    /// Whether anything of it is stored: not for a group that is new, or was removed.
    #[must_use]
    pub fn is_stored(&self) -> bool {
        self.group.state().is_stored
    }

    fn send(&mut self, change: Queued, done: impl FnOnce(Result<(), DurableError>) + Send + 'static) {
        let request = Request { group: Arc::clone(&self.group), change, done: Box::new(done) };
        if let Some(queue) = &self.writer.queue {
            // A thread that is gone drops it, which is an answer.
            let _ = queue.send(request);
        }
    }

    fn wait(&mut self, change: Queued) -> Result<(), DurableError> {
        let (sender, outcome) = mpsc::sync_channel(1);
        self.send(change, move |outcome| drop(sender.send(outcome)));
        outcome.recv().unwrap_or_else(|_| Err(thread_gone()))
    }

    async fn told(&mut self, change: Queued) -> Result<(), DurableError> {
        let (sender, outcome) = oneshot::channel();
        self.send(change, move |outcome| drop(sender.send(outcome)));
        outcome.await.unwrap_or_else(|_| Err(thread_gone()))
    }
}

fn thread_gone() -> DurableError {
    DurableError::Failed("the thread that writes is gone".into())
}

impl LogStore for GroupLog {
    type Reader = DurableReader;
    type Error = DurableError;

    fn recover(&mut self) -> Result<LogRecovery, DurableError> {
        self.group.recover()
    }

    fn write(&mut self, batch: &[Write]) -> Result<(), DurableError> {
        self.wait(Queued::Write(batch.to_vec()))
    }

    fn compact(&mut self, through: LogId) -> Result<(), DurableError> {
        self.wait(Queued::Compact(through))
    }

    fn reader(&self) -> DurableReader {
        DurableReader(Arc::clone(&self.group))
    }
}

/// Within a Tokio runtime: what is read is read on its blocking pool.
impl AsyncLogStore for GroupLog {
    type Reader = DurableReader;
    type Error = DurableError;

    async fn recover(&mut self) -> Result<LogRecovery, DurableError> {
        let group = Arc::clone(&self.group);
        blocking(move || group.recover()).await
    }

    async fn write(&mut self, batch: &[Write]) -> Result<(), DurableError> {
        self.told(Queued::Write(batch.to_vec())).await
    }

    async fn compact(&mut self, through: LogId) -> Result<(), DurableError> {
        self.told(Queued::Compact(through)).await
    }

    fn reader(&self) -> DurableReader {
        DurableReader(Arc::clone(&self.group))
    }
}
