//! What the tests share: a storage that is an actor, in both kinds, a network that is an actor, and clusters of them.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use actix::prelude::*;
use bytes::Bytes;
use futures_util::future::select_all;
use raft_core::host::{Codec, LogReader, LogStore, WholeState};
use raft_core::{
    AdminRefusal, Config, Entries, EntryRef, LogId, LogIndex, LogRecovery, NodeId, RoleKind, Term, Write,
};
use raft_driver_actix::admin::{InitWithConfig, Shutdown};
use raft_driver_actix::messages::{ClientRead, ClientResponse, ClientWrite, ResponseMode};
use raft_driver_actix::metrics::{RaftMetrics, watch as listen};
use raft_driver_actix::network::ActorNetwork;
use raft_driver_actix::storage::{
    ActorLog, ActorMachine, ApplyToStateMachine, AsyncLog, CompactLog, CreateSnapshot, GetInitialState,
    GetLastApplied, GetLogEntries, InstallSnapshot, MemoryLog, MemorySnapshots, RaftStateMachine,
    RaftStorage, SaveLog,
};
use raft_driver_actix::{AdminError, Builder, Raft, ReadError, StopReason, WriteError};
use raft_driver_tokio::Postcard;
use raft_driver_tokio::storage::MemoryLogError;
use tokio::sync::watch;

use crate::asking::ask;
pub(crate) use crate::router::{HeardOf, Route, Router};

pub(crate) const LIMIT: Duration = Duration::from_secs(60);

pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    actix::clock::timeout(LIMIT, future).await.expect("nothing hangs")
}

pub(crate) fn n(id: u64) -> NodeId {
    NodeId::new(id)
}

pub(crate) fn address(id: u64) -> Bytes {
    format!("node {id}").into()
}

pub(crate) fn members(ids: impl IntoIterator<Item = u64>) -> BTreeMap<NodeId, Bytes> {
    ids.into_iter().map(|id| (n(id), address(id))).collect()
}

// --- a storage -------------------------------------------------------------------------------------------------

#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    #[error(transparent)]
    Log(#[from] MemoryLogError),
    #[error("the disk is gone")]
    Broken,
    #[error("a snapshot that makes no sense")]
    Snapshot,
}

/// One entry as tests compare it.
pub(crate) type Line = (LogId, Vec<u8>);

/// What survives a node: its log and its snapshots. Also the switches by which a test breaks its storage.
#[derive(Clone, Default)]
pub(crate) struct Disk {
    pub(crate) log: MemoryLog,
    pub(crate) snapshots: MemorySnapshots,
    pub(crate) broken: Arc<AtomicBool>,
    pub(crate) panics: Arc<AtomicBool>,
}

impl Disk {
    /// Everything in the log, entry by entry.
    pub(crate) fn lines(&self) -> Vec<Line> {
        let found = self.log.clone().recover().unwrap();
        let mut lines = Vec::new();
        while lines.last().map_or(found.base, |(id, _): &Line| *id).index < found.last.index {
            let from = lines.last().map_or(found.base, |(id, _): &Line| *id).index.next();
            lines.extend(lines_of(&self.log.reader().read(from, found.last.index, u64::MAX).unwrap()));
        }
        lines
    }
}

pub(crate) fn lines_of(entries: &Entries) -> Vec<Line> {
    let payload = |entry: &EntryRef<'_>| match entry {
        EntryRef::Noop(_) => b"no-op".to_vec(),
        EntryRef::Command(_, command) => command.to_vec(),
        EntryRef::Membership(_, membership) => format!("{membership:?}").into_bytes(),
    };
    entries.iter().map(|entry| (entry.id(), payload(&entry))).collect()
}

/// Log and state machine in one, as the seed's storage was: keeps every command that it is given, and answers with their
/// number.
pub(crate) struct Storage {
    disk: Disk,
    applied: Arc<Mutex<Vec<Line>>>,
    reached: watch::Sender<LogIndex>,
    incoming: Vec<u8>,
}

/// A look at a storage from outside.
#[derive(Clone)]
pub(crate) struct Seen {
    applied: Arc<Mutex<Vec<Line>>>,
    reached: watch::Receiver<LogIndex>,
}

impl Seen {
    /// Every command through `index`, once all of it has been applied.
    pub(crate) async fn through(&mut self, index: LogIndex) -> Vec<Line> {
        within(self.reached.wait_for(|reached| *reached >= index)).await.expect("the storage is there");
        self.now().into_iter().filter(|(id, _)| id.index <= index).collect()
    }

    /// Whether the storage ends.
    pub(crate) async fn gone(&mut self) -> bool {
        self.reached.wait_for(|_| false).await.is_err()
    }

    pub(crate) fn now(&self) -> Vec<Line> {
        self.applied.lock().unwrap().clone()
    }
}

impl Storage {
    fn new(disk: Disk) -> (Self, Seen) {
        let (reached, seen) = watch::channel(LogIndex::ZERO);
        let applied = Arc::default();
        let seen = Seen { applied: Arc::clone(&applied), reached: seen };
        (Self { disk, applied, reached, incoming: Vec::new() }, seen)
    }

    fn save(&mut self, batch: &[Write]) -> Result<(), StoreError> {
        assert!(!self.disk.panics.load(Ordering::Relaxed), "planted");
        if self.disk.broken.load(Ordering::Relaxed) {
            return Err(StoreError::Broken);
        }
        Ok(self.disk.log.write(batch)?)
    }

    fn apply(&mut self, entries: &Entries) -> Vec<usize> {
        let mut applied = self.applied.lock().unwrap();
        let mut responses = Vec::new();
        for entry in entries.iter() {
            if let EntryRef::Command(id, command) = entry {
                applied.push((id, command.to_vec()));
                responses.push(applied.len());
            }
        }
        if let Some(last) = entries.last() {
            self.reached.send_replace(last.index);
        }
        responses
    }

    fn freeze(&self) -> WholeState {
        let lines: Vec<_> = self.applied.lock().unwrap().clone();
        let lines: Vec<_> =
            lines.into_iter().map(|(id, command)| (id.term.get(), id.index.get(), command)).collect();
        WholeState::new(Postcard::encode(&lines).unwrap())
    }

    fn install(&mut self, part: &InstallSnapshot<StoreError>) -> Result<(), StoreError> {
        if part.offset == 0 {
            self.incoming.clear();
        }
        assert_eq!(part.offset, self.incoming.len() as u64, "parts follow each other");
        self.incoming.extend_from_slice(&part.data);
        if part.done {
            let bytes = std::mem::take(&mut self.incoming);
            let lines: Vec<(u64, u64, Vec<u8>)> =
                Postcard::decode(bytes.into()).map_err(|_| StoreError::Snapshot)?;
            let id = |term, index| LogId::new(Term::new(term), LogIndex::new(index));
            *self.applied.lock().unwrap() =
                lines.into_iter().map(|(term, index, command)| (id(term, index), command)).collect();
            self.reached.send_replace(part.last.index);
        }
        Ok(())
    }
}

type Apply = ApplyToStateMachine<usize, StoreError>;
type Freeze = CreateSnapshot<WholeState, StoreError>;

/// What a storage does with each message, whatever it lives in.
macro_rules! storage_calls {
    ($call:ident) => {
        $call!(GetInitialState<StoreError>, LogRecovery, |storage, _message| Ok(storage
            .disk
            .log
            .recover()?));
        $call!(SaveLog<StoreError>, (), |storage, message| storage.save(&message.batch));
        $call!(CompactLog<StoreError>, (), |storage, message| Ok(storage
            .disk
            .log
            .compact(message.through)?));
        $call!(GetLogEntries<StoreError>, Entries, |storage, message| {
            Ok(storage.disk.log.reader().read(message.from, message.through, message.bytes_max)?)
        });
        $call!(GetLastApplied<StoreError>, LogId, |_storage, _message| Ok(LogId::ZERO));
        $call!(Apply, Vec<usize>, |storage, message| Ok(storage.apply(&message.entries)));
        $call!(Freeze, WholeState, |storage, _message| Ok(storage.freeze()));
        $call!(InstallSnapshot<StoreError>, (), |storage, message| storage.install(&message));
    };
}

/// A storage whose calls block.
pub(crate) struct Blocking(Option<Storage>);

impl Actor for Blocking {
    type Context = SyncContext<Self>;
}

macro_rules! blocking {
    ($message:ty, $result:ty, |$storage:ident, $given:ident| $body:expr) => {
        impl Handler<$message> for Blocking {
            type Result = Result<$result, StoreError>;

            fn handle(&mut self, $given: $message, _: &mut Self::Context) -> Self::Result {
                let $storage = self.0.as_mut().expect("made once");
                $body
            }
        }
    };
}
storage_calls!(blocking);

/// A storage whose calls are futures, which take their time.
pub(crate) struct Asynchronous(Rc<RefCell<Storage>>);

impl Actor for Asynchronous {
    type Context = Context<Self>;
}

macro_rules! asynchronous {
    ($message:ty, $result:ty, |$storage:ident, $given:ident| $body:expr) => {
        impl Handler<$message> for Asynchronous {
            type Result = ResponseFuture<Result<$result, StoreError>>;

            fn handle(&mut self, $given: $message, _: &mut Self::Context) -> Self::Result {
                let storage = Rc::clone(&self.0);
                Box::pin(async move {
                    tokio::task::yield_now().await;
                    let mut storage = storage.borrow_mut();
                    let $storage = &mut *storage;
                    $body
                })
            }
        }
    };
}
storage_calls!(asynchronous);

/// Stops the actor under its node.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct StopStorage;

impl Handler<StopStorage> for Asynchronous {
    type Result = ();

    fn handle(&mut self, _: StopStorage, context: &mut Self::Context) {
        context.stop();
    }
}

pub(crate) type Machine = ActorMachine<usize, WholeState, StoreError>;
pub(crate) type Node = Addr<Raft<Machine>>;

/// How a storage lives.
pub(crate) trait Kind: 'static {
    type Actor: RaftStorage<StoreError> + RaftStateMachine<usize, WholeState, StoreError>;

    fn start(disk: Disk) -> (Addr<Self::Actor>, AsyncLog<ActorLog<StoreError>>, Machine, Seen);
}

/// In a `SyncContext` on a thread.
pub(crate) struct Sync;
/// In a `Context` on an arbiter of its own.
pub(crate) struct Async;

impl Kind for Sync {
    type Actor = Blocking;

    fn start(disk: Disk) -> (Addr<Blocking>, AsyncLog<ActorLog<StoreError>>, Machine, Seen) {
        let (storage, seen) = Storage::new(disk);
        let first = Mutex::new(Some(storage));
        let actor = SyncArbiter::start(1, move || Blocking(first.lock().unwrap().take()));
        let (log, machine) = (ActorLog::new(&actor), ActorMachine::new(&actor));
        (actor, log, machine, seen)
    }
}

impl Kind for Async {
    type Actor = Asynchronous;

    fn start(disk: Disk) -> (Addr<Asynchronous>, AsyncLog<ActorLog<StoreError>>, Machine, Seen) {
        let (storage, seen) = Storage::new(disk);
        let start = move |_: &mut Context<Asynchronous>| Asynchronous(Rc::new(RefCell::new(storage)));
        let actor = Asynchronous::start_in_arbiter(&storage_arbiter(), start);
        let (log, machine) = (ActorLog::new(&actor), ActorMachine::new(&actor));
        (actor, log, machine, seen)
    }
}

thread_local! {
    /// One for the storages of a test.
    static STORAGES: Arbiter = Arbiter::new();
}

fn storage_arbiter() -> actix::ArbiterHandle {
    STORAGES.with(Arbiter::handle)
}

// --- a cluster -------------------------------------------------------------------------------------------------

pub(crate) struct Member<K: Kind> {
    pub(crate) raft: Node,
    pub(crate) storage: Addr<K::Actor>,
    pub(crate) seen: Seen,
    pub(crate) metrics: watch::Receiver<Option<RaftMetrics>>,
    pub(crate) disk: Disk,
}

impl<K: Kind> Member<K> {
    /// Waits until its metrics fulfil this.
    pub(crate) async fn until(&self, mut holds: impl FnMut(&RaftMetrics) -> bool) -> RaftMetrics {
        let mut metrics = self.metrics.clone();
        let held = metrics.wait_for(|seen| seen.as_ref().is_some_and(&mut holds));
        within(held).await.expect("the node is there").clone().expect("just seen")
    }
}

pub(crate) struct Cluster<K: Kind> {
    pub(crate) router: Addr<Router>,
    pub(crate) nodes: BTreeMap<NodeId, Member<K>>,
    configure: fn(&mut Config),
}

impl<K: Kind> Cluster<K> {
    /// No node yet.
    pub(crate) fn new(configure: fn(&mut Config)) -> Self {
        Self { router: Router::default().start(), nodes: BTreeMap::new(), configure }
    }

    /// These nodes, formed on all of them in parallel.
    pub(crate) async fn form(ids: std::ops::RangeInclusive<u64>, configure: fn(&mut Config)) -> Self {
        let mut cluster = Self::new(configure);
        for id in ids.clone() {
            cluster.start(id, Disk::default()).await;
        }
        let init = InitWithConfig { members: members(ids) };
        let asked = cluster.nodes.values().map(|node| node.raft.send(init.clone()));
        for formed in within(futures_util::future::join_all(asked)).await {
            formed.unwrap().unwrap();
        }
        cluster
    }

    pub(crate) async fn start(&mut self, id: u64, disk: Disk) -> &Member<K> {
        let mut config = Config::new(n(id));
        // Whoever is behind is served from the store.
        config.tail_bytes_max = 1;
        (self.configure)(&mut config);
        let (listener, metrics) = listen();
        let (storage, log, machine, seen) = K::start(disk.clone());
        let network = ActorNetwork::new(self.router.clone().recipient());
        let mut config = raft_driver_actix::Config::from(config);
        config.metrics_rate = Duration::from_millis(20);
        let builder = Builder::new(config).address(address(id)).listener(listener);
        let raft = within(builder.start(log, disk.snapshots.clone(), machine, network)).await.unwrap();
        let join = Route::Join(n(id), raft.clone().recipient());
        self.router.send(join).await.unwrap();
        self.nodes.insert(n(id), Member { raft, storage, seen, metrics, disk });
        &self.nodes[&n(id)]
    }

    /// Whoever leads, and that all others that are connected would be told of.
    pub(crate) async fn leader(&self) -> NodeId {
        let all: Vec<NodeId> = self.nodes.keys().copied().collect();
        self.leader_of(&all).await
    }

    /// Waits until one of these leads.
    pub(crate) async fn leader_of(&self, ids: &[NodeId]) -> NodeId {
        let leads = ids.iter().map(|id| {
            let node = &self.nodes[id];
            Box::pin(async move {
                node.until(|seen| seen.status.role == RoleKind::Leader).await;
                *id
            })
        });
        within(select_all(leads)).await.0
    }

    /// Writes through whoever of these leads, as often as it takes: an election may come at any time on a busy machine.
    pub(crate) async fn write_by(&self, ids: &[NodeId], command: &str) -> ClientResponse<usize> {
        within(async {
            loop {
                let leader = self.leader_of(ids).await;
                let write = ClientWrite::new(command.to_owned(), ResponseMode::Applied);
                match self.nodes[&leader].raft.send(write).await.unwrap() {
                    Ok(response) => return response,
                    Err(WriteError::NotLeader { command: back, .. }) => assert_eq!(back, command),
                    Err(WriteError::Superseded { .. } | WriteError::Unknown | WriteError::Busy { .. }) => {}
                    Err(other) => panic!("{other}"),
                }
                tokio::task::yield_now().await;
            }
        })
        .await
    }

    pub(crate) async fn write(&self, command: &str) -> LogIndex {
        let all: Vec<NodeId> = self.nodes.keys().copied().collect();
        self.write_by(&all, command).await.id().index
    }

    /// As [`ask`], of whoever leads here.
    pub(crate) async fn ask<M, T>(&self, message: M) -> Result<T, AdminRefusal>
    where
        M: Message<Result = Result<T, AdminError>> + Clone + Send + 'static,
        T: Send + 'static,
        Raft<Machine>: Handler<M>,
    {
        ask(async || self.nodes[&self.leader().await].raft.clone(), message).await
    }

    /// What this node has applied, linearizably, by way of its leader.
    pub(crate) async fn read(&self, id: NodeId) -> Vec<Line> {
        within(async {
            loop {
                let node = &self.nodes[&id];
                match node.raft.send(ClientRead::new(|_: &Machine| ())).await.unwrap() {
                    Ok(()) => return node.seen.now(),
                    Err(ReadError::NotLeader { .. }) => tokio::task::yield_now().await,
                    Err(other) => panic!("{other}"),
                }
            }
        })
        .await
    }

    /// What every node has applied through `last`, and, entry by entry, what stands in every log: all the same.
    pub(crate) async fn compare(&mut self, last: LogIndex) -> Vec<Line> {
        let mut applied = Vec::new();
        for (id, node) in &mut self.nodes {
            applied.push((*id, node.seen.through(last).await));
        }
        let (_, first) = &applied[0];
        for (id, other) in &applied {
            assert_eq!(other, first, "node {id} has applied the same commands");
        }
        let logs = self.nodes.values().map(|node| node.disk.lines());
        let mut known: BTreeMap<LogIndex, Line> = BTreeMap::new();
        for line in logs.flatten().filter(|(id, _)| id.index <= last) {
            let same = known.entry(line.0.index).or_insert_with(|| line.clone());
            assert_eq!(*same, line, "logs agree entry by entry");
        }
        first.clone()
    }

    pub(crate) async fn stop(&mut self, id: NodeId) -> Disk {
        let node = self.nodes.remove(&id).unwrap();
        self.router.send(Route::Leave(id)).await.unwrap();
        let reason = within(node.raft.send(Shutdown)).await.unwrap();
        assert!(matches!(reason, StopReason::Requested), "{reason}");
        node.disk
    }

    pub(crate) async fn end(mut self) {
        for id in self.nodes.keys().copied().collect::<Vec<_>>() {
            self.stop(id).await;
        }
    }
}
