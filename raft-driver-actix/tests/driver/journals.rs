//! What the tests of stores share: a state machine, logs that fail or count, and clusters of them.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::ThreadId;
use std::time::Duration;

use actix::prelude::*;
use bytes::Bytes;
use futures_util::future::{join_all, select_all};
use raft_core::host::{LogStore, RestoreError, SnapshotSource, StateMachine, WholeState};
use raft_core::{Config, Entries, EntryRef, LogId, LogIndex, LogRecovery, NodeId, RoleKind, Term, Write};
use raft_driver_actix::admin::{InitWithConfig, Shutdown};
use raft_driver_actix::messages::{ClientRead, ClientResponse, ClientWrite, RaftMessage, ResponseMode};
use raft_driver_actix::metrics::RaftMetrics;
use raft_driver_actix::network::ActorNetwork;
use raft_driver_actix::{Builder, Raft, ReadError, StopReason, WriteError};
use raft_driver_tokio::storage::{MemoryLog, MemoryLogError, MemoryReader, MemorySnapshots};
use raft_driver_tokio::transport::Channels;
use tokio::sync::watch;

pub(crate) const LIMIT: Duration = Duration::from_secs(30);

pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    actix::clock::timeout(LIMIT, future).await.expect("nothing hangs")
}

// --- what an application brings ----------------------------------------------------------------------------

pub(crate) type Applied = Arc<Mutex<Vec<(LogId, Vec<u8>)>>>;

/// Keeps every entry that it is given, and answers each command with the number of commands so far.
pub(crate) struct Journal {
    pub(crate) entries: Applied,
    pub(crate) commands: usize,
    pub(crate) reached: watch::Sender<LogIndex>,
    pub(crate) panic_at: Option<usize>,
}

/// A look at a [`Journal`] from outside.
pub(crate) struct Seen {
    pub(crate) entries: Applied,
    pub(crate) reached: watch::Receiver<LogIndex>,
}

impl Journal {
    pub(crate) fn new() -> (Self, Seen) {
        let entries = Applied::default();
        let (reached, seen) = watch::channel(LogIndex::ZERO);
        (
            Self { entries: Arc::clone(&entries), commands: 0, reached, panic_at: None },
            Seen { entries, reached: seen },
        )
    }
}

impl Seen {
    /// Everything through `index`, once it has been applied.
    pub(crate) async fn through(&mut self, index: LogIndex) -> Vec<(LogId, Vec<u8>)> {
        within(self.reached.wait_for(|reached| *reached >= index)).await.expect("the journal is there");
        let entries = self.entries.lock().unwrap();
        entries.iter().filter(|(id, _)| id.index <= index).cloned().collect()
    }
}

impl StateMachine for Journal {
    type Response = usize;
    type Snapshot = WholeState;
    type Error = Infallible;

    fn snapshot(&mut self) -> Result<WholeState, Infallible> {
        let mut bytes = Vec::new();
        for (id, payload) in &*self.entries.lock().unwrap() {
            for word in [id.term.get(), id.index.get(), payload.len() as u64] {
                bytes.extend_from_slice(&word.to_le_bytes());
            }
            bytes.extend_from_slice(payload);
        }
        bytes.extend_from_slice(&(self.commands as u64).to_le_bytes());
        Ok(WholeState::new(bytes))
    }

    fn restore(&mut self, source: &mut SnapshotSource<'_>) -> Result<(), RestoreError<Infallible>> {
        let mut kept = self.entries.lock().unwrap();
        kept.clear();
        let mut words = [0; 24];
        while source.remaining_bytes() > 8 {
            source.read_exact(&mut words)?;
            if words[20..] != [0; 4] {
                return Err(RestoreError::Malformed("a length makes no sense"));
            }
            let word = |at: usize| u64::from_le_bytes(words[at..at + 8].try_into().unwrap());
            let mut payload = vec![0; word(16) as usize];
            source.read_exact(&mut payload)?;
            kept.push((LogId::new(Term::new(word(0)), LogIndex::new(word(8))), payload));
        }
        let mut commands = [0; 8];
        source.read_exact(&mut commands)?;
        self.commands = u64::from_le_bytes(commands) as usize;
        drop(kept);
        self.reached.send_replace(source.last().index);
        Ok(())
    }

    fn apply(&mut self, entries: &Entries, responses: &mut Vec<usize>) -> Result<(), Infallible> {
        let mut kept = self.entries.lock().unwrap();
        for entry in entries.iter() {
            let mut payload = Vec::new();
            if let EntryRef::Command(_, command) = &entry {
                self.commands += 1;
                responses.push(self.commands);
                payload = command.to_vec();
            }
            assert_ne!(Some(self.commands), self.panic_at, "planted");
            kept.push((entry.id(), payload));
        }
        drop(kept);
        if let Some(last) = entries.last() {
            self.reached.send_replace(last.index);
        }
        Ok(())
    }
}

/// A log store that says it may block, fails when told to, and shows where it runs.
#[derive(Clone, Default)]
pub(crate) struct SlowLog {
    pub(crate) log: MemoryLog,
    pub(crate) broken: Arc<AtomicBool>,
    pub(crate) panics: Arc<AtomicBool>,
    /// A write waits for it.
    pub(crate) gate: Arc<tokio::sync::Mutex<()>>,
    pub(crate) thread: Arc<Mutex<Option<ThreadId>>>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum SlowLogError {
    #[error(transparent)]
    Log(#[from] MemoryLogError),
    #[error("the disk is gone")]
    Broken,
}

#[derive(Clone)]
pub(crate) struct SlowReader(MemoryReader);

impl raft_core::host::LogReader for SlowReader {
    type Error = SlowLogError;

    fn read(&self, from: LogIndex, through: LogIndex, bytes_max: u64) -> Result<Entries, SlowLogError> {
        Ok(self.0.read(from, through, bytes_max)?)
    }
}

impl LogStore for SlowLog {
    type Reader = SlowReader;
    type Error = SlowLogError;

    fn recover(&mut self) -> Result<LogRecovery, SlowLogError> {
        Ok(self.log.recover()?)
    }

    fn write(&mut self, batch: &[Write]) -> Result<(), SlowLogError> {
        *self.thread.lock().unwrap() = Some(std::thread::current().id());
        drop(self.gate.blocking_lock());
        assert!(!self.panics.load(Ordering::Relaxed), "planted");
        if self.broken.load(Ordering::Relaxed) {
            return Err(SlowLogError::Broken);
        }
        Ok(self.log.write(batch)?)
    }

    fn compact(&mut self, through: LogId) -> Result<(), SlowLogError> {
        Ok(self.log.compact(through)?)
    }

    fn reader(&self) -> SlowReader {
        SlowReader(self.log.reader())
    }
}

/// A log in memory that counts how often it is called.
#[derive(Clone, Default)]
pub(crate) struct CountedLog {
    pub(crate) log: MemoryLog,
    pub(crate) writes: Arc<AtomicUsize>,
}

impl LogStore for CountedLog {
    type Reader = MemoryReader;
    type Error = MemoryLogError;

    const MAY_BLOCK: bool = false;

    fn recover(&mut self) -> Result<LogRecovery, MemoryLogError> {
        self.log.recover()
    }

    fn write(&mut self, batch: &[Write]) -> Result<(), MemoryLogError> {
        self.writes.fetch_add(1, Ordering::Relaxed);
        self.log.write(batch)
    }

    fn compact(&mut self, through: LogId) -> Result<(), MemoryLogError> {
        self.log.compact(through)
    }

    fn reader(&self) -> MemoryReader {
        self.log.reader()
    }
}

/// The application's own network: an actor that routes by target.
#[derive(Default)]
pub(crate) struct Router {
    pub(crate) nodes: BTreeMap<NodeId, Addr<Raft<Journal>>>,
}

impl Actor for Router {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        context.set_mailbox_capacity(1024);
    }
}

impl Handler<RaftMessage> for Router {
    type Result = ();

    fn handle(&mut self, message: RaftMessage, _: &mut Self::Context) {
        if let Some(node) = self.nodes.get(&message.target()) {
            // A message that finds no room is lost, as on any network.
            let _ = node.try_send(message);
        }
    }
}

#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Route(NodeId, Option<Addr<Raft<Journal>>>);

impl Handler<Route> for Router {
    type Result = ();

    fn handle(&mut self, Route(id, node): Route, _: &mut Self::Context) {
        self.nodes.remove(&id);
        self.nodes.extend(node.map(|node| (id, node)));
    }
}

/// Passes a node's metrics on to a test that waits.
pub(crate) struct Listener(watch::Sender<Option<RaftMetrics>>);

impl Actor for Listener {
    type Context = Context<Self>;
}

impl Handler<RaftMetrics> for Listener {
    type Result = ();

    fn handle(&mut self, metrics: RaftMetrics, _: &mut Self::Context) {
        self.0.send_replace(Some(metrics));
    }
}

pub(crate) fn listener() -> (Recipient<RaftMetrics>, watch::Receiver<Option<RaftMetrics>>) {
    let (sender, metrics) = watch::channel(None);
    (Listener(sender).start().recipient(), metrics)
}

// --- a cluster ---------------------------------------------------------------------------------------------

pub(crate) fn n(id: u64) -> NodeId {
    NodeId::new(id)
}

pub(crate) fn members(ids: impl IntoIterator<Item = u64>) -> BTreeMap<NodeId, Bytes> {
    ids.into_iter().map(|id| (n(id), Bytes::from(format!("node {id}")))).collect()
}

/// How the nodes of a cluster are joined.
#[derive(Clone)]
pub(crate) enum Net {
    Router(Addr<Router>),
    Channels(Channels),
}

pub(crate) struct Running<L> {
    pub(crate) raft: Addr<Raft<Journal>>,
    pub(crate) seen: Seen,
    pub(crate) metrics: watch::Receiver<Option<RaftMetrics>>,
    pub(crate) log: L,
    pub(crate) snapshots: MemorySnapshots,
}

pub(crate) async fn start<L: LogStore + Clone>(
    id: NodeId,
    log: L,
    snapshots: MemorySnapshots,
    net: &Net,
) -> Running<L> {
    let mut config = Config::new(id);
    // Whoever is behind is served from the store.
    config.tail_bytes_max = 1;
    start_with(Builder::new(config), id, log, snapshots, net).await
}

pub(crate) async fn start_with<L: LogStore + Clone>(
    builder: Builder,
    id: NodeId,
    log: L,
    snapshots: MemorySnapshots,
    net: &Net,
) -> Running<L> {
    let (journal, seen) = Journal::new();
    let (listener, metrics) = listener();
    let builder = builder.listener(listener);
    let raft = match net {
        Net::Router(router) => {
            let network = ActorNetwork::new(router.clone().recipient());
            let raft = builder.start(log.clone(), snapshots.clone(), journal, network).await.unwrap();
            router.send(Route(id, Some(raft.clone()))).await.unwrap();
            raft
        }
        Net::Channels(channels) => {
            let network = channels.endpoint();
            builder.start(log.clone(), snapshots.clone(), journal, network).await.unwrap()
        }
    };
    Running { raft, seen, metrics, log, snapshots }
}

pub(crate) struct Cluster<L> {
    pub(crate) net: Net,
    pub(crate) nodes: BTreeMap<NodeId, Running<L>>,
}

impl<L: LogStore + Clone + Default> Cluster<L> {
    pub(crate) async fn start(net: Net) -> Self {
        let mut nodes = BTreeMap::new();
        for id in (1..=3).map(n) {
            nodes.insert(id, start(id, L::default(), MemorySnapshots::default(), &net).await);
        }
        Self { net, nodes }
    }

    /// Three nodes, formed on all of them in parallel.
    pub(crate) async fn form() -> Self {
        let cluster = Self::start(Net::Router(Router::default().start())).await;
        let init = InitWithConfig { members: members(1..=3) };
        for formed in join_all(cluster.nodes.values().map(|node| node.raft.send(init.clone()))).await {
            formed.unwrap().unwrap();
        }
        cluster
    }

    /// Waits until one of the nodes leads.
    pub(crate) async fn leader(&self) -> NodeId {
        let leads = self.nodes.iter().map(|(id, node)| {
            let mut metrics = node.metrics.clone();
            Box::pin(async move {
                let leads = |seen: &Option<RaftMetrics>| {
                    seen.as_ref().is_some_and(|seen| seen.status.role == RoleKind::Leader)
                };
                metrics.wait_for(leads).await.unwrap();
                *id
            })
        });
        within(select_all(leads)).await.0
    }

    /// Writes through whoever leads, as often as it takes: an election may come at any time on a busy machine.
    pub(crate) async fn write(&self, command: &str, mode: ResponseMode) -> ClientResponse<usize> {
        within(async {
            loop {
                let leader = self.leader().await;
                match self.nodes[&leader].raft.send(ClientWrite::new(command.to_owned(), mode)).await.unwrap()
                {
                    Ok(response) => return response,
                    Err(WriteError::NotLeader { command: back, .. }) => assert_eq!(back, command),
                    Err(WriteError::Superseded { .. } | WriteError::Unknown) => {}
                    Err(other) => panic!("{other}"),
                }
            }
        })
        .await
    }

    pub(crate) async fn read(&self) -> Vec<(LogId, Vec<u8>)> {
        within(async {
            loop {
                let leader = self.leader().await;
                let read = ClientRead::new(|journal: &Journal| journal.entries.lock().unwrap().clone());
                match self.nodes[&leader].raft.send(read).await.unwrap() {
                    Ok(found) => return found,
                    Err(ReadError::NotLeader { .. }) => {}
                    Err(other) => panic!("{other}"),
                }
            }
        })
        .await
    }

    pub(crate) async fn stop(&mut self, id: NodeId) -> (L, MemorySnapshots) {
        let node = self.nodes.remove(&id).unwrap();
        if let Net::Router(router) = &self.net {
            router.send(Route(id, None)).await.unwrap();
        }
        assert!(matches!(within(node.raft.send(Shutdown)).await.unwrap(), StopReason::Requested));
        (node.log, node.snapshots)
    }

    pub(crate) async fn end(mut self) {
        for id in self.nodes.keys().copied().collect::<Vec<_>>() {
            self.stop(id).await;
        }
    }
}
