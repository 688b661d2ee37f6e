//! Log stores whose calls are futures: slow ones, ones that fail, and ones that panic.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use common::{Journal, alone, config, leader, members, within};
use raft_core::host::{AsyncLogReader, AsyncLogStore, LogReader, LogStore};
use raft_core::{Entries, LogId, LogIndex, LogRecovery, NodeId, Write};
use raft_driver_tokio::storage::{
    AsyncLog, DurableStore, Identity, MemoryLog, MemoryReader, MemorySnapshots,
};
use raft_driver_tokio::transport::Channels;
use raft_driver_tokio::{Builder, Certainty, ClusterId, GroupId, Raft, StartError, StopReason};
use tokio::sync::watch;

/// What the store is told to do.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Order {
    /// After some time.
    Work,
    /// Wait until it is told something else.
    Hold,
    Fail,
    Panic,
    /// Before there is a future.
    PanicAtOnce,
}

#[derive(Clone, Debug, thiserror::Error)]
#[error("the other end is gone")]
struct Gone;

/// A log that lives elsewhere and takes its time.
struct Remote {
    log: MemoryLog,
    orders: watch::Receiver<Order>,
    batches: Arc<AtomicUsize>,
    _token: Arc<()>,
}

#[derive(Clone)]
struct RemoteReader {
    reader: MemoryReader,
    orders: watch::Receiver<Order>,
}

struct Control {
    orders: watch::Sender<Order>,
    batches: Arc<AtomicUsize>,
    token: Arc<()>,
}

fn remote(log: MemoryLog) -> (AsyncLog<Remote>, Control) {
    let (orders, receiver) = watch::channel(Order::Work);
    let control = Control { orders, batches: Arc::default(), token: Arc::default() };
    let (batches, token) = (Arc::clone(&control.batches), Arc::clone(&control.token));
    (AsyncLog(Remote { log, orders: receiver, batches, _token: token }), control)
}

async fn obey(mut orders: watch::Receiver<Order>) -> Result<(), Gone> {
    tokio::time::sleep(Duration::from_micros(fastrand::u64(..2000))).await;
    // A test that has ended gives no more orders.
    let order = orders.wait_for(|order| *order != Order::Hold).await.map_or(Order::Work, |order| *order);
    match order {
        Order::Fail => Err(Gone),
        Order::Panic => panic!("the connection melted"),
        _ => Ok(()),
    }
}

impl AsyncLogStore for Remote {
    type Reader = RemoteReader;
    type Error = Gone;

    async fn recover(&mut self) -> Result<LogRecovery, Gone> {
        obey(self.orders.clone()).await?;
        self.log.recover().map_err(|_| Gone)
    }

    fn write(&mut self, batch: &[Write]) -> impl Future<Output = Result<(), Gone>> + Send {
        assert_ne!(*self.orders.borrow(), Order::PanicAtOnce, "no connection at all");
        self.batches.fetch_add(1, Ordering::Relaxed);
        async {
            obey(self.orders.clone()).await?;
            self.log.write(batch).map_err(|_| Gone)
        }
    }

    async fn compact(&mut self, through: LogId) -> Result<(), Gone> {
        obey(self.orders.clone()).await?;
        self.log.compact(through).map_err(|_| Gone)
    }

    fn reader(&self) -> RemoteReader {
        RemoteReader { reader: self.log.reader(), orders: self.orders.clone() }
    }
}

impl AsyncLogReader for RemoteReader {
    type Error = Gone;

    async fn read(&self, from: LogIndex, through: LogIndex, bytes_max: u64) -> Result<Entries, Gone> {
        obey(self.orders.clone()).await?;
        self.reader.read(from, through, bytes_max).map_err(|_| Gone)
    }
}

#[tokio::test]
async fn a_cluster_runs_on_slow_stores_and_comes_back() {
    let network = Channels::default();
    let logs: Vec<MemoryLog> = (0..3).map(|_| MemoryLog::default()).collect();
    let start = async |id: u64| {
        let (log, control) = remote(logs[id as usize - 1].clone());
        let builder = Builder::new(config(id));
        let start = builder.start(log, MemorySnapshots::default(), Journal::default(), network.endpoint());
        (within(start).await.unwrap(), control)
    };
    let mut nodes: Vec<(Raft<Journal>, Control)> = Vec::new();
    for id in 1..=3 {
        nodes.push(start(id).await);
    }
    within(nodes[0].0.bootstrap(members(1..=3))).await.unwrap();
    let rafts: Vec<_> = nodes.iter().map(|(raft, _)| raft.clone()).collect();
    for number in 0..100_u64 {
        common::write(&rafts, Bytes::from(number.to_le_bytes().to_vec())).await.unwrap();
    }
    let expected = 100;
    assert_eq!(within(leader(&rafts).await.read(|journal| journal.commands.len())).await.unwrap(), expected);
    for (raft, control) in nodes.drain(..) {
        assert!(within(raft.shutdown()).await.is_orderly());
        assert_eq!(Arc::strong_count(&control.token), 1, "the store is dropped by then");
        assert!(control.batches.load(Ordering::Relaxed) > 0);
    }
    drop(rafts);
    for id in 1..=3 {
        nodes.push(start(id).await);
    }
    let rafts: Vec<_> = nodes.iter().map(|(raft, _)| raft.clone()).collect();
    // Older entries are read from the stores, to be applied again.
    assert_eq!(within(leader(&rafts).await.read(|journal| journal.commands.len())).await.unwrap(), expected);
}

#[tokio::test]
async fn nodes_of_several_groups_run_over_one_store_without_threads() {
    const GROUPS: u64 = 5;
    let dirs: Vec<_> = (0..3).map(|_| tempfile::tempdir().unwrap()).collect();
    for round in 1..=2 {
        let open = |id: u64| {
            let identity = Identity { cluster: ClusterId::new(1), node: NodeId::new(id) };
            DurableStore::open(dirs[id as usize - 1].path(), identity).unwrap()
        };
        let stores: Vec<_> = (1..=3).map(open).collect();
        let mut groups = Vec::new();
        for group in (1..=GROUPS).map(GroupId::new) {
            let network = Channels::default();
            let mut rafts = Vec::new();
            for (id, store) in (1..).zip(&stores) {
                let log = AsyncLog(store.log(group).unwrap());
                let start = Builder::new(config(id)).start(
                    log,
                    MemorySnapshots::default(),
                    Journal::default(),
                    network.endpoint(),
                );
                rafts.push(within(start).await.unwrap());
            }
            within(rafts[0].bootstrap(members(1..=3))).await.unwrap();
            groups.push(rafts);
        }
        for (number, rafts) in groups.iter().enumerate() {
            for _ in 0..=number {
                common::write(rafts, Bytes::from("x")).await.unwrap();
            }
            let count = within(leader(rafts).await.read(|journal| journal.commands.len())).await.unwrap();
            assert_eq!(count, (number + 1) * round, "what was there comes back");
        }
        for raft in groups.into_iter().flatten() {
            assert!(within(raft.shutdown()).await.is_orderly());
        }
        // Every group's place is free again, and the directories with them.
        assert!((1..=GROUPS).all(|group| stores[0].log(GroupId::new(group)).is_ok()));
    }
}

#[tokio::test]
async fn a_store_that_fails_or_panics_stops_the_node() {
    for order in [Order::Fail, Order::Panic, Order::PanicAtOnce] {
        let kept = MemoryLog::default();
        let (log, control) = remote(kept.clone());
        let raft =
            alone(Builder::new(config(1)), log, Journal::default(), Channels::default().endpoint()).await;
        within(raft.write("kept")).await.unwrap();
        control.orders.send_replace(order);
        let lost = within(raft.write("lost")).await.unwrap_err();
        assert_eq!(lost.certainty(), Certainty::Unknown);
        let reason = within(raft.stopped()).await;
        let expected = match order {
            Order::Fail => "the log store failed: the other end is gone",
            Order::Panic => "the connection melted",
            _ => "no connection at all",
        };
        assert!(reason.to_string().contains(expected), "{reason}");
        assert_eq!(matches!(reason, StopReason::Log(_)), order == Order::Fail);
        assert_eq!(Arc::strong_count(&control.token), 1, "the store is dropped");
        // What was acknowledged is there at the next start.
        let (log, _control) = remote(kept);
        let builder = Builder::new(config(1));
        let start = builder.start(
            log,
            MemorySnapshots::default(),
            Journal::default(),
            Channels::default().endpoint(),
        );
        let raft = within(start).await.unwrap();
        assert_eq!(raft.wait(common::BOUND).leader().await.ok(), Some(NodeId::new(1)));
        assert_eq!(within(raft.read(|journal| journal.commands.clone())).await.unwrap(), ["kept"]);
    }
}

#[tokio::test]
async fn a_store_that_cannot_be_recovered_starts_no_node() {
    for order in [Order::Fail, Order::Panic] {
        let (log, control) = remote(MemoryLog::default());
        control.orders.send_replace(order);
        let builder = Builder::new(config(1));
        let start = builder.start(
            log,
            MemorySnapshots::default(),
            Journal::default(),
            Channels::default().endpoint(),
        );
        let error = within(start).await.unwrap_err();
        match order {
            Order::Fail => assert!(matches!(error, StartError::Log(_)), "{error}"),
            _ => assert!(matches!(error, StartError::Panicked { .. }), "{error}"),
        }
        assert_eq!(Arc::strong_count(&control.token), 1, "the store is dropped");
    }
}

#[tokio::test]
async fn writes_gather_while_the_store_is_busy_and_a_stop_waits_for_them() {
    let kept = MemoryLog::default();
    let (log, control) = remote(kept.clone());
    let raft = alone(Builder::new(config(1)), log, Journal::default(), Channels::default().endpoint()).await;
    within(raft.write("first")).await.unwrap();
    control.orders.send_replace(Order::Hold);
    let before = control.batches.load(Ordering::Relaxed);
    let mut metrics = raft.metrics();
    let mut writers = tokio::task::JoinSet::new();
    for number in 1..=200 {
        let raft = raft.clone();
        writers.spawn(async move { raft.write(Bytes::from("x")).await });
        within(metrics.wait_for(|metrics| metrics.pending_writes >= number)).await.unwrap();
    }
    let shutdown = tokio::spawn({
        let raft = raft.clone();
        async move { raft.shutdown().await }
    });
    // Everybody is told at once, though the store still works on it.
    for result in within(writers.join_all()).await {
        assert_eq!(result.unwrap_err().certainty(), Certainty::Unknown);
    }
    assert!(!shutdown.is_finished());
    assert!(Arc::strong_count(&control.token) > 1);
    control.orders.send_replace(Order::Work);
    within(shutdown).await.unwrap();
    assert_eq!(Arc::strong_count(&control.token), 1, "the store is dropped");
    let batches = control.batches.load(Ordering::Relaxed) - before;
    assert!(batches <= 10, "200 writes took {batches} calls");
    let last = kept.clone().recover().unwrap().last;
    assert!(last.index > LogIndex::new(3), "what was handed to the store is there: {last}");
}
