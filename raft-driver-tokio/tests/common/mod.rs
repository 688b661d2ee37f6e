//! What the tests share: a state machine that can be seen into, a log store that can be held up or broken, a cluster
//! over channels, and waiting with a bound.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use bytes::Bytes;
use raft_core::host::{LogReader, LogStore, RestoreError, SnapshotSource, StateMachine, WholeState};
use raft_core::{Config, Entries, EntryRef, LogId, LogIndex, LogRecovery, NodeId, RoleKind, Write};
use raft_driver_tokio::storage::{MemoryLog, MemoryReader, MemorySnapshots, NodeLog};
use raft_driver_tokio::transport::{Channels, Network};
use raft_driver_tokio::{Applied, Builder, Certainty, Metrics, Raft, WriteError};

/// Only a bound: what is waited for comes much sooner, or never.
pub(crate) const BOUND: Duration = Duration::from_secs(30);

pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(BOUND, future).await.expect("within 30 seconds")
}

pub(crate) fn node(id: u64) -> NodeId {
    NodeId::new(id)
}

pub(crate) fn config(id: u64) -> Config {
    let mut config = Config::new(node(id));
    config.election_timeout_min = Duration::from_millis(300);
    config.election_timeout_max = Duration::from_millis(600);
    config
}

/// Keeps every command; answers with how many it has.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    pub(crate) commands: Vec<Bytes>,
    /// Held so that a test can see whether the machine is dropped.
    pub(crate) token: Arc<()>,
}

impl StateMachine for Journal {
    type Response = usize;
    type Snapshot = WholeState;
    type Error = std::convert::Infallible;

    fn apply(&mut self, entries: &Entries, responses: &mut Vec<usize>) -> Result<(), Self::Error> {
        for entry in entries.iter() {
            if let EntryRef::Command(_, command) = entry {
                self.commands.push(command.to_bytes());
                responses.push(self.commands.len());
            }
        }
        Ok(())
    }

    fn snapshot(&mut self) -> Result<WholeState, Self::Error> {
        let mut bytes = Vec::new();
        for command in &self.commands {
            bytes.extend_from_slice(&u32::try_from(command.len()).expect("short").to_le_bytes());
            bytes.extend_from_slice(command);
        }
        Ok(WholeState::new(bytes))
    }

    fn restore(&mut self, source: &mut SnapshotSource<'_>) -> Result<(), RestoreError<Self::Error>> {
        self.commands.clear();
        while source.remaining_bytes() > 0 {
            let mut length = [0; 4];
            source.read_exact(&mut length)?;
            let mut command = vec![0; u32::from_le_bytes(length) as usize];
            source.read_exact(&mut command)?;
            self.commands.push(command.into());
        }
        Ok(())
    }
}

pub(crate) fn members(ids: impl IntoIterator<Item = u64>) -> BTreeMap<NodeId, Bytes> {
    ids.into_iter().map(|id| (node(id), Bytes::from(format!("node-{id}")))).collect()
}

/// Nodes over channels, with logs that outlive them.
pub(crate) struct Cluster {
    pub(crate) configure: fn(u64) -> Config,
    pub(crate) network: Channels,
    pub(crate) logs: BTreeMap<u64, MemoryLog>,
    pub(crate) snapshots: BTreeMap<u64, MemorySnapshots>,
    pub(crate) nodes: BTreeMap<u64, Raft<Journal>>,
}

impl Default for Cluster {
    fn default() -> Self {
        Self {
            configure: config,
            network: Channels::default(),
            logs: BTreeMap::new(),
            snapshots: BTreeMap::new(),
            nodes: BTreeMap::new(),
        }
    }
}

impl Cluster {
    pub(crate) async fn start(count: u64) -> Self {
        let mut cluster = Self::default();
        for id in 1..=count {
            cluster.run(id).await;
        }
        for raft in cluster.nodes.values() {
            within(raft.bootstrap(members(1..=count))).await.expect("pristine");
        }
        cluster
    }

    /// Starts a node over what it left.
    pub(crate) async fn run(&mut self, id: u64) -> Raft<Journal> {
        let log = self.logs.entry(id).or_default().clone();
        let snapshots = self.snapshots.entry(id).or_default().clone();
        let builder = Builder::new((self.configure)(id));
        let start = builder.start(log, snapshots, Journal::default(), self.network.endpoint());
        let raft = within(start).await.expect("starts");
        self.nodes.insert(id, raft.clone());
        raft
    }

    pub(crate) async fn stop(&mut self, id: u64) {
        let raft = self.nodes.remove(&id).expect("it runs");
        assert!(within(raft.shutdown()).await.is_orderly());
    }

    pub(crate) fn all(&self) -> Vec<Raft<Journal>> {
        self.nodes.values().cloned().collect()
    }
}

/// The node among these that leads. Waits for it, without polling.
pub(crate) async fn leader<S: StateMachine>(nodes: &[Raft<S>]) -> Raft<S> {
    let mut watching = tokio::task::JoinSet::new();
    for raft in nodes {
        let raft = raft.clone();
        watching.spawn(async move {
            let mut metrics = raft.metrics();
            let leads = |metrics: &Metrics| metrics.status.role == RoleKind::Leader;
            metrics.wait_for(leads).await.expect("the handle is here");
            raft
        });
    }
    within(watching.join_next()).await.expect("there are nodes").expect("no panic")
}

/// Writes where the leader is, wherever that moves. The command must be unknown to nobody: it is repeated only if
/// it did not happen.
pub(crate) async fn write<S: StateMachine>(
    nodes: &[Raft<S>],
    mut command: Bytes,
) -> Result<Applied<S::Response>, WriteError> {
    loop {
        let error = match within(leader(nodes).await.write(command)).await {
            Ok(applied) => return Ok(applied),
            Err(error) => error,
        };
        if error.certainty() != Certainty::DidNotHappen {
            return Err(error);
        }
        command = error.into_command().expect("it did not happen");
    }
}

/// Starts a single node and waits until it leads.
pub(crate) async fn alone<S, L, N>(builder: Builder, log: L, machine: S, network: N) -> Raft<S>
where
    S: StateMachine,
    L: NodeLog,
    N: Network,
{
    let raft =
        within(builder.start(log, MemorySnapshots::default(), machine, network)).await.expect("starts");
    within(raft.bootstrap(members([1]))).await.expect("pristine");
    assert_eq!(raft.wait(BOUND).leader().await.ok(), Some(node(1)));
    raft
}

/// What goes wrong in a [`FaultyLog`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    Error,
    Panic,
}

#[derive(Debug, thiserror::Error)]
#[error("the disk is on fire")]
pub(crate) struct Fire;

#[derive(Debug, Default)]
struct Orders {
    held: bool,
    fault: Option<Fault>,
    /// The lengths of the batches written.
    batches: Vec<usize>,
    reads: usize,
}

/// Gives orders to a [`FaultyLog`].
#[derive(Clone, Debug, Default)]
pub(crate) struct Control(Arc<(Mutex<Orders>, Condvar)>);

impl Control {
    fn order(&self, order: impl FnOnce(&mut Orders)) {
        order(&mut self.0.0.lock().expect("no panic while held"));
        self.0.1.notify_all();
    }

    /// From now on writes wait.
    pub(crate) fn hold(&self) {
        self.order(|orders| orders.held = true);
    }

    pub(crate) fn release(&self) {
        self.order(|orders| orders.held = false);
    }

    /// The next write goes wrong.
    pub(crate) fn fail(&self, fault: Fault) {
        self.order(|orders| orders.fault = Some(fault));
    }

    /// How often entries were read.
    pub(crate) fn reads(&self) -> usize {
        self.0.0.lock().expect("no panic while held").reads
    }

    pub(crate) fn batches(&self) -> Vec<usize> {
        self.0.0.lock().expect("no panic while held").batches.clone()
    }
}

/// A log that blocks and fails on order. `BLOCKS` says where it runs.
#[derive(Debug)]
pub(crate) struct FaultyLog<const BLOCKS: bool = true> {
    log: MemoryLog,
    control: Control,
}

impl<const BLOCKS: bool> FaultyLog<BLOCKS> {
    pub(crate) fn new(log: MemoryLog) -> (Self, Control) {
        let control = Control::default();
        (Self { log, control: control.clone() }, control)
    }
}

impl<const BLOCKS: bool> LogStore for FaultyLog<BLOCKS> {
    type Reader = FaultyReader;
    type Error = Fire;

    const MAY_BLOCK: bool = BLOCKS;

    fn recover(&mut self) -> Result<LogRecovery, Fire> {
        self.log.recover().map_err(|_| Fire)
    }

    fn write(&mut self, batch: &[Write]) -> Result<(), Fire> {
        let (orders, changed) = &*self.control.0;
        let mut orders = orders.lock().expect("no panic while held");
        while orders.held && orders.fault.is_none() {
            orders = changed.wait(orders).expect("no panic while held");
        }
        orders.batches.push(batch.len());
        let fault = orders.fault;
        drop(orders);
        match fault {
            None => self.log.write(batch).map_err(|_| Fire),
            Some(Fault::Error) => Err(Fire),
            Some(Fault::Panic) => panic!("the disk melted"),
        }
    }

    fn compact(&mut self, through: LogId) -> Result<(), Fire> {
        self.log.compact(through).map_err(|_| Fire)
    }

    fn reader(&self) -> FaultyReader {
        FaultyReader { log: self.log.reader(), control: self.control.clone() }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct FaultyReader {
    log: MemoryReader,
    control: Control,
}

impl LogReader for FaultyReader {
    type Error = Fire;

    fn read(&self, from: LogIndex, through: LogIndex, bytes_max: u64) -> Result<Entries, Fire> {
        self.control.order(|orders| orders.reads += 1);
        self.log.read(from, through, bytes_max).map_err(|_| Fire)
    }
}
