//! Snapshots and compaction (§7): taken, restored after a restart, sent to who is behind; and what happens when they
//! fail.

#![allow(clippy::unwrap_used, reason = "a test says by failing what it expected")]

mod common;

use std::path::Path;
use std::sync::{Arc, Mutex, mpsc};

use bytes::Bytes;
use common::{Cluster, Journal, alone, config, leader, members, node, within, write};
use raft_core::host::{
    FrozenState, LogStore, RestoreError, SnapshotFault, SnapshotSource, SnapshotStore, SnapshotWriter,
    StateMachine, WholeState, Written,
};
use raft_core::{
    AdminRefusal, Commands, Config, Entries, LogId, LogIndex, SnapshotError, SnapshotId, SnapshotMeta,
    SnapshotPolicy,
};
use raft_driver_tokio::storage::{DurableLog, Identity, MemoryLog, MemorySnapshots, SnapshotFiles};
use raft_driver_tokio::transport::Channels;
use raft_driver_tokio::{AdminError, Builder, ClusterId, Metrics, Raft, ReadError, StopReason};
use tokio::sync::watch;

fn text(number: usize) -> Bytes {
    Bytes::from(format!("{number:08}"))
}

/// Takes a snapshot each so many entries, and keeps few of those that it replaces.
fn often(id: u64, entries: u64) -> Config {
    let mut config = config(id);
    config.snapshot_policy = SnapshotPolicy::LogsSinceLast(entries);
    config.compaction_margin_entries = 5;
    config.snapshot_chunk_bytes = 1000;
    config.tail_bytes_max = 2000;
    config
}

async fn until<S: StateMachine>(raft: &Raft<S>, what: impl FnMut(&Metrics) -> bool) {
    within(raft.metrics().wait_for(what)).await.unwrap();
}

/// Reads until there is a leader to ask: one that was away may not have heard of it yet.
async fn commands(raft: &Raft<Journal>) -> Vec<Bytes> {
    within(async {
        loop {
            match raft.read(|journal| journal.commands.clone()).await {
                Ok(commands) => return commands,
                Err(ReadError::NotLeader { .. }) => tokio::task::yield_now().await,
                Err(error) => panic!("{error}"),
            }
        }
    })
    .await
}

/// A node alone whose log is compacted again and again, over stores that it finds again at each start.
async fn restarts<L: LogStore, P: SnapshotStore>(mut open: impl FnMut() -> (L, P)) {
    let mut expected = Vec::new();
    let mut base = LogIndex::ZERO;
    for round in 0..4 {
        let (log, snapshots) = open();
        let network = Channels::default();
        let builder = Builder::new(often(1, 40));
        let start = builder.start(log, snapshots, Journal::default(), network.endpoint());
        let raft = within(start).await.expect("starts");
        within(raft.bootstrap(members([1]))).await.expect("again is harmless");
        raft.wait(common::BOUND).leader().await.unwrap();
        assert_eq!(commands(&raft).await, expected, "round {round}");
        for number in 0..100 {
            let command = text(round * 100 + number);
            within(raft.write(command.clone())).await.unwrap();
            expected.push(command);
        }
        until(&raft, |metrics| metrics.status.base.index > base).await;
        let status = within(raft.status()).await.unwrap();
        assert!(status.snapshot.index >= status.base.index && status.last.index > status.base.index);
        base = status.base.index;
        assert!(within(raft.shutdown()).await.is_orderly());
    }
}

#[tokio::test]
async fn a_compacted_log_in_memory_goes_on_after_restarts() {
    let (log, snapshots) = (MemoryLog::default(), MemorySnapshots::default());
    restarts(|| (log.clone(), snapshots.clone())).await;
    // A shutdown may come before the last one that was replaced is dropped; a start drops it.
    assert!(snapshots.complete().len() <= 2);
    snapshots.recover(LogId::ZERO).unwrap().expect("one is left");
    assert_eq!(snapshots.complete().len(), 1);
}

fn files(dir: &Path) -> Vec<String> {
    let names = std::fs::read_dir(dir).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|name| name != "lock").collect();
    names.sort_unstable();
    names
}

#[tokio::test]
async fn a_compacted_log_on_disk_goes_on_after_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let identity = Identity { cluster: ClusterId::new(5), node: node(1) };
    let snapshots = dir.path().join("snapshots");
    restarts(|| {
        let log = DurableLog::open(dir.path(), identity).unwrap();
        (log, SnapshotFiles::open(&snapshots, identity).unwrap())
    })
    .await;
    assert!(files(&snapshots).len() <= 2);
    let store = SnapshotFiles::open(&snapshots, identity).unwrap();
    store.recover(LogId::ZERO).unwrap().expect("one is left");
    let left = files(&snapshots);
    assert!(left.len() == 1 && left[0].ends_with(".snapshot"), "{left:?}");
}

#[tokio::test]
async fn an_operator_takes_a_snapshot_once() {
    let snapshots = MemorySnapshots::default();
    let builder = Builder::new(config(1));
    let start = builder.start(
        MemoryLog::default(),
        snapshots.clone(),
        Journal::default(),
        Channels::default().endpoint(),
    );
    let raft = within(start).await.unwrap();
    within(raft.bootstrap(members([1]))).await.unwrap();
    let applied = write(std::slice::from_ref(&raft), text(1)).await.unwrap();
    within(raft.snapshot()).await.unwrap();
    let taken: Vec<LogId> = snapshots.complete().iter().map(|id| id.last).collect();
    assert_eq!(taken, [applied.id]);
    let again = within(raft.snapshot()).await;
    assert_eq!(again, Err(AdminError::Refused(AdminRefusal::NoSnapshotNeeded)));
}

/// Follower 3 misses more than the others' logs still hold.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_missed_too_much_gets_a_snapshot() {
    let mut cluster = Cluster { configure: |id| often(id, 100), ..Cluster::default() };
    for id in 1..=3 {
        cluster.run(id).await;
    }
    for raft in cluster.nodes.values() {
        within(raft.bootstrap(members(1..=3))).await.unwrap();
    }
    // It missed a part while it ran, and a part while it was away.
    for restart in [false, true] {
        write(&cluster.all(), text(0)).await.unwrap();
        if restart {
            cluster.stop(3).await;
        } else {
            cluster.network.isolate(node(3));
        }
        let others: Vec<_> = cluster.all().into_iter().filter(|raft| raft.id() != node(3)).collect();
        let reached = within(others[0].status()).await.unwrap().last.index;
        while others.iter().any(|raft| raft.metrics().borrow().status.base.index <= reached) {
            let many: Commands = (0..100).map(text).collect();
            within(leader(&others).await.write_all_committed(many)).await;
            within(turns(&others)).await;
        }
        if restart {
            cluster.run(3).await;
        } else {
            cluster.network.heal();
        }
        let third = cluster.nodes[&3].clone();
        until(&third, |metrics| metrics.status.counters.snapshots_installed > 0).await;
        let last = write(&cluster.all(), text(9)).await.unwrap();
        until(&third, |metrics| metrics.status.applied >= last.id.index).await;
        let expected = commands(&leader(&cluster.all()).await).await;
        assert_eq!(commands(&third).await, expected);
        assert_eq!(expected.len(), last.response);
    }
}

/// A turn of each of these nodes.
async fn turns(nodes: &[Raft<Journal>]) {
    for raft in nodes {
        raft.status().await.unwrap();
    }
}

/// A machine whose frozen state waits at a gate before each chunk.
struct Slow {
    journal: Journal,
    gate: Arc<Mutex<mpsc::Receiver<()>>>,
    frozen: watch::Sender<usize>,
}

struct SlowState {
    chunks: std::vec::IntoIter<Bytes>,
    gate: Arc<Mutex<mpsc::Receiver<()>>>,
}

impl FrozenState for SlowState {
    type Error = std::convert::Infallible;

    fn next_chunk(&mut self) -> Result<Option<Bytes>, Self::Error> {
        // An error: the test has ended.
        let _ = self.gate.lock().unwrap().recv();
        Ok(self.chunks.next())
    }
}

impl StateMachine for Slow {
    type Response = usize;
    type Snapshot = SlowState;
    type Error = std::convert::Infallible;

    fn apply(&mut self, entries: &Entries, responses: &mut Vec<usize>) -> Result<(), Self::Error> {
        self.journal.apply(entries, responses)
    }

    fn snapshot(&mut self) -> Result<SlowState, Self::Error> {
        let whole = self.journal.snapshot()?.next_chunk()?.unwrap_or_default();
        let chunks: Vec<Bytes> = whole.chunks(5).map(Bytes::copy_from_slice).collect();
        self.frozen.send_modify(|count| *count += 1);
        Ok(SlowState { chunks: chunks.into_iter(), gate: Arc::clone(&self.gate) })
    }

    fn restore(&mut self, source: &mut SnapshotSource<'_>) -> Result<(), RestoreError<Self::Error>> {
        self.journal.restore(source)
    }
}

fn slow() -> (Slow, mpsc::Sender<()>, watch::Receiver<usize>) {
    let (open, gate) = mpsc::channel();
    let (frozen, seen) = watch::channel(0);
    (Slow { journal: Journal::default(), gate: Arc::new(Mutex::new(gate)), frozen }, open, seen)
}

#[tokio::test]
async fn writes_go_on_while_a_snapshot_is_written_and_are_not_in_it() {
    for on_thread in [false, true] {
        let (machine, open, mut frozen) = slow();
        let (log, snapshots) = (MemoryLog::default(), MemorySnapshots::default());
        let mut builder = Builder::new(config(1));
        if on_thread {
            builder = builder.machine_on_thread();
        }
        let start = builder.start(log, snapshots.clone(), machine, Channels::default().endpoint());
        let raft = within(start).await.unwrap();
        within(raft.bootstrap(members([1]))).await.unwrap();
        let before = write(std::slice::from_ref(&raft), text(1)).await.unwrap();
        let taking = tokio::spawn({
            let raft = raft.clone();
            async move { raft.snapshot().await }
        });
        within(frozen.wait_for(|count| *count == 1)).await.unwrap();
        for number in 2..50 {
            within(raft.write(text(number))).await.unwrap();
        }
        assert!(!taking.is_finished());
        drop(open);
        within(taking).await.unwrap().unwrap();
        let id = snapshots.complete()[0];
        assert_eq!(id.last, before.id);
        assert_eq!(snapshots.read(id, 0, 100).unwrap(), &b"\x08\0\0\x0000000001"[..]);
    }
}

#[tokio::test]
async fn a_shutdown_waits_for_no_snapshot_and_leaves_none_behind() {
    let (machine, open, mut frozen) = slow();
    let dir = tempfile::tempdir().unwrap();
    let identity = Identity { cluster: ClusterId::new(5), node: node(1) };
    let snapshots = SnapshotFiles::open(dir.path(), identity).unwrap();
    let start = Builder::new(config(1)).start(
        MemoryLog::default(),
        snapshots,
        machine,
        Channels::default().endpoint(),
    );
    let raft = within(start).await.unwrap();
    within(raft.bootstrap(members([1]))).await.unwrap();
    write(std::slice::from_ref(&raft), text(1)).await.unwrap();
    let taking = tokio::spawn({
        let raft = raft.clone();
        async move { raft.snapshot().await }
    });
    within(frozen.wait_for(|count| *count == 1)).await.unwrap();
    let stopping = tokio::spawn({
        let raft = raft.clone();
        async move { raft.shutdown().await }
    });
    assert_eq!(within(taking).await.unwrap(), Err(AdminError::Stopped));
    // The chunk that is being read still comes; no other is asked for.
    open.send(()).unwrap();
    assert!(within(stopping).await.unwrap().is_orderly());
    assert_eq!(files(dir.path()), Vec::<String>::new());
    SnapshotFiles::open(dir.path(), identity).expect("the directory is free again");
}

#[test]
fn a_runtime_that_ends_gives_up_what_is_being_saved() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let ends = runtime();
    let snapshots = MemorySnapshots::default();
    let (open, raft) = ends.block_on(async {
        let (machine, open, mut frozen) = slow();
        let builder = Builder::new(config(1));
        let start =
            builder.start(MemoryLog::default(), snapshots.clone(), machine, Channels::default().endpoint());
        let raft = within(start).await.unwrap();
        within(raft.bootstrap(members([1]))).await.unwrap();
        write(std::slice::from_ref(&raft), text(1)).await.unwrap();
        tokio::spawn({
            let raft = raft.clone();
            async move { raft.snapshot().await }
        });
        within(frozen.wait_for(|count| *count == 1)).await.unwrap();
        (open, raft)
    });
    // One chunk is being read; the others wait at the gate, and nobody opens it for them before the runtime ends.
    let ending = std::thread::spawn(move || drop(ends));
    let reason = runtime().block_on(within(raft.stopped()));
    assert!(matches!(reason, StopReason::RuntimeEnded), "{reason}");
    // An error: the runtime ended before the first chunk was asked for.
    let _ = open.send(());
    ending.join().unwrap();
    assert!(snapshots.complete().is_empty());
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Begin,
    Write,
    Finish,
    Panic,
    Read,
}

/// A store that fails as it is told.
#[derive(Clone, Debug, Default)]
struct Faulty {
    kept: MemorySnapshots,
    fault: Arc<Mutex<Option<Fault>>>,
}

#[derive(Debug, thiserror::Error)]
#[error("the disk is on fire")]
struct Fire;

struct FaultyWriter(<MemorySnapshots as SnapshotStore>::Writer, Option<Fault>);

impl Faulty {
    fn check(&self, fault: Fault) -> Result<(), Fire> {
        if *self.fault.lock().unwrap() == Some(fault) { Err(Fire) } else { Ok(()) }
    }
}

impl SnapshotStore for Faulty {
    type Writer = FaultyWriter;
    type Error = Fire;

    fn recover(&self, base: LogId) -> Result<Option<Arc<SnapshotMeta>>, Fire> {
        self.kept.recover(base).map_err(|never| match never {})
    }

    fn begin(&self, id: SnapshotId) -> Result<FaultyWriter, Fire> {
        self.check(Fault::Begin)?;
        let fault = *self.fault.lock().unwrap();
        Ok(FaultyWriter(self.kept.begin(id).map_err(|never| match never {})?, fault))
    }

    fn read(&self, id: SnapshotId, offset: u64, bytes_max: u64) -> Result<Bytes, SnapshotFault<Fire>> {
        self.check(Fault::Read).map_err(SnapshotFault::Failed)?;
        self.kept.read(id, offset, bytes_max).map_err(|_| SnapshotFault::Missing)
    }

    fn forget(&self, id: SnapshotId) -> Result<(), Fire> {
        self.kept.forget(id).map_err(|never| match never {})
    }
}

impl SnapshotWriter for FaultyWriter {
    type Error = Fire;

    fn write(&mut self, data: &[u8]) -> Result<(), Fire> {
        match self.1 {
            Some(Fault::Write) => Err(Fire),
            Some(Fault::Panic) => panic!("the disk melted"),
            _ => self.0.write(data).map_err(|never| match never {}),
        }
    }

    fn written(&self) -> Written {
        self.0.written()
    }

    fn finish(self, meta: &SnapshotMeta) -> Result<(), Fire> {
        match self.1 {
            Some(Fault::Finish) => Err(Fire),
            _ => self.0.finish(meta).map_err(|never| match never {}),
        }
    }
}

#[tokio::test]
async fn a_snapshot_that_cannot_be_kept_harms_nothing() {
    let store = Faulty::default();
    let start = Builder::new(config(1)).start(
        MemoryLog::default(),
        store.clone(),
        Journal::default(),
        Channels::default().endpoint(),
    );
    let raft = within(start).await.unwrap();
    within(raft.bootstrap(members([1]))).await.unwrap();
    write(std::slice::from_ref(&raft), text(0)).await.unwrap();
    for fault in [Fault::Begin, Fault::Write, Fault::Finish, Fault::Panic] {
        *store.fault.lock().unwrap() = Some(fault);
        let taken = within(raft.snapshot()).await;
        let failed = AdminRefusal::Snapshot(SnapshotError::Failed);
        assert_eq!(taken, Err(AdminError::Refused(failed)), "{fault:?}");
        assert!(store.kept.complete().is_empty());
        within(raft.write(text(1))).await.expect("the node goes on");
    }
    *store.fault.lock().unwrap() = None;
    within(raft.snapshot()).await.unwrap();
    assert_eq!(store.kept.complete().len(), 1);
}

/// A machine that cannot freeze its state, or take another one.
struct Stubborn(Journal);

#[derive(Debug, thiserror::Error)]
#[error("not now")]
struct NotNow;

impl StateMachine for Stubborn {
    type Response = usize;
    type Snapshot = WholeState;
    type Error = NotNow;

    fn apply(&mut self, entries: &Entries, responses: &mut Vec<usize>) -> Result<(), NotNow> {
        self.0.apply(entries, responses).map_err(|never| match never {})
    }

    fn snapshot(&mut self) -> Result<WholeState, NotNow> {
        Err(NotNow)
    }

    fn restore(&mut self, source: &mut SnapshotSource<'_>) -> Result<(), RestoreError<NotNow>> {
        source.next_chunk()?;
        Err(RestoreError::Machine(NotNow))
    }
}

#[tokio::test]
async fn a_state_that_cannot_be_frozen_is_told_and_the_node_goes_on() {
    let builder = Builder::new(config(1));
    let raft =
        alone(builder, MemoryLog::default(), Stubborn(Journal::default()), Channels::default().endpoint());
    let raft = raft.await;
    within(raft.write("a")).await.unwrap();
    let refused = AdminRefusal::Snapshot(SnapshotError::Failed);
    assert_eq!(within(raft.snapshot()).await, Err(AdminError::Refused(refused)));
    assert_eq!(within(raft.write("b")).await.unwrap().response, 2);
}

#[tokio::test]
async fn a_snapshot_that_cannot_be_restored_stops_the_node() {
    let (log, store) = (MemoryLog::default(), Faulty::default());
    let start = Builder::new(often(1, 20)).start(
        log.clone(),
        store.clone(),
        Journal::default(),
        Channels::default().endpoint(),
    );
    let raft = within(start).await.unwrap();
    within(raft.bootstrap(members([1]))).await.unwrap();
    for number in 0..50 {
        write(std::slice::from_ref(&raft), text(number)).await.unwrap();
    }
    until(&raft, |metrics| metrics.status.base.index > LogIndex::ZERO).await;
    within(raft.shutdown()).await;

    for on_thread in [false, true] {
        let builder = || match on_thread {
            true => Builder::new(often(1, 20)).machine_on_thread(),
            false => Builder::new(often(1, 20)),
        };
        let network = Channels::default();
        *store.fault.lock().unwrap() = Some(Fault::Read);
        let start = builder().start(log.clone(), store.clone(), Journal::default(), network.endpoint());
        let reason = within(within(start).await.unwrap().stopped()).await;
        assert!(matches!(reason, StopReason::Restore(_)), "{reason}");
        *store.fault.lock().unwrap() = None;
        let machine = Stubborn(Journal::default());
        let start = builder().start(log.clone(), store.clone(), machine, network.endpoint());
        let reason = within(within(start).await.unwrap().stopped()).await;
        assert!(matches!(reason, StopReason::Machine(_)), "{reason}");
    }
    // Nothing of it harmed what is stored.
    let start =
        Builder::new(often(1, 20)).start(log, store, Journal::default(), Channels::default().endpoint());
    let raft = within(start).await.unwrap();
    raft.wait(common::BOUND).leader().await.unwrap();
    assert_eq!(commands(&raft).await, (0..50).map(text).collect::<Vec<_>>());
}
