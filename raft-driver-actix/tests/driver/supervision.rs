//! A supervised node opens its stores anew after a failure, under the same address.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use actix::Addr;
use raft_core::{Config, RoleKind};
use raft_driver_actix::admin::{InitWithConfig, Shutdown};
use raft_driver_actix::messages::{ClientRead, ClientWrite, ResponseMode};
use raft_driver_actix::metrics::{GetMetrics, RaftMetrics, watch as listen};
use raft_driver_actix::storage::{MemoryLog, MemorySnapshots};
use raft_driver_actix::{Builder, Parts, Raft, ReadError, StartError, StopReason, WriteError};
use raft_driver_tokio::transport::{Channels, Endpoint};
use tokio::sync::watch;

use crate::support::{Disk, Kind, Machine, Seen, Sync, members, n, within};

struct Supervised {
    raft: Addr<Raft<Machine>>,
    metrics: watch::Receiver<Option<RaftMetrics>>,
    disk: Disk,
    seen: Arc<Mutex<Vec<Seen>>>,
    opened: Arc<AtomicUsize>,
}

/// A node alone, and how often it may be opened without an error.
async fn supervised(failures: &'static [usize]) -> Supervised {
    let (listener, metrics) = listen();
    let (disk, opened, seen) = (Disk::default(), Arc::new(AtomicUsize::new(0)), Arc::default());
    let (kept, count, look): (_, _, Arc<Mutex<Vec<Seen>>>) =
        (disk.clone(), Arc::clone(&opened), Arc::clone(&seen));
    let open = move || {
        let (disk, number, look) = (kept.clone(), count.fetch_add(1, Ordering::Relaxed), Arc::clone(&look));
        async move {
            if failures.contains(&number) {
                return Err(StartError::Log("planted".into()));
            }
            let (_, log, machine, seen) = Sync::start(disk.clone());
            look.lock().unwrap().push(seen);
            Ok((log, disk.snapshots, machine, Channels::default().endpoint()))
        }
    };
    let builder = Builder::new(Config::new(n(1))).listener(listener);
    let raft = builder.supervise(open).await.unwrap();
    raft.send(InitWithConfig { members: members([1]) }).await.unwrap().unwrap();
    Supervised { raft, metrics, disk, seen, opened }
}

impl Supervised {
    async fn until(&mut self, mut holds: impl FnMut(&RaftMetrics) -> bool) -> RaftMetrics {
        let held = self.metrics.wait_for(|seen| seen.as_ref().is_some_and(&mut holds));
        within(held).await.unwrap().clone().unwrap()
    }

    async fn leads(&mut self) {
        self.until(|seen| seen.status.role == RoleKind::Leader && seen.stopped.is_none()).await;
    }

    async fn write(&self, command: &'static str) -> Result<usize, WriteError> {
        let written = within(self.raft.send(ClientWrite::new(command, ResponseMode::Applied))).await.unwrap();
        written.map(|written| written.response().unwrap())
    }
}

#[actix::test]
async fn a_node_whose_store_failed_returns_from_what_survived() {
    // The first restart fails as well, and is tried again.
    let mut node = supervised(&[1]).await;
    node.leads().await;
    assert_eq!(node.write("one").await, Ok(1));
    for round in 2..4 {
        node.disk.broken.store(true, Ordering::Relaxed);
        let lost = node.write("lost").await;
        assert!(matches!(lost, Err(WriteError::Unknown | WriteError::Stopped { .. })), "{lost:?}");
        let told = node.until(|seen| seen.stopped.is_some()).await;
        assert!(matches!(told.stopped, Some(StopReason::Log(_))));
        // While it is away, nothing is taken and nothing waits.
        let read = node.raft.send(ClientRead::new(|_: &Machine| ())).await.unwrap();
        assert!(matches!(read, Err(ReadError::Busy | ReadError::Stopped)), "{read:?}");
        node.disk.broken.store(false, Ordering::Relaxed);
        node.leads().await;
        assert_eq!(node.write("more").await, Ok(round), "what was lost is not in the log, the rest is");
    }
    assert_eq!(node.opened.load(Ordering::Relaxed), 4, "three lives, and one that did not begin");
    let seen = node.seen.lock().unwrap().last().unwrap().now();
    assert_eq!(seen.len(), 3);
    let reason = within(node.raft.send(Shutdown)).await.unwrap();
    assert!(matches!(reason, StopReason::Requested));
    // It stays away, and says so.
    let after = node.raft.send(ClientWrite::new("late", ResponseMode::Applied)).await.unwrap();
    assert!(matches!(after, Err(WriteError::Stopped { .. })), "{after:?}");
    let told = node.raft.send(GetMetrics).await.unwrap();
    assert!(matches!(told.stopped, Some(StopReason::Requested)));
    assert_eq!(node.opened.load(Ordering::Relaxed), 4);
}

#[actix::test]
async fn a_panic_of_the_storage_is_a_failure_like_another() {
    let mut node = supervised(&[]).await;
    node.leads().await;
    assert_eq!(node.write("one").await, Ok(1));
    node.disk.panics.store(true, Ordering::Relaxed);
    assert!(node.write("lost").await.is_err());
    node.until(|seen| seen.stopped.is_some()).await;
    node.disk.panics.store(false, Ordering::Relaxed);
    node.leads().await;
    assert_eq!(node.write("two").await, Ok(2));
    within(node.raft.send(Shutdown)).await.unwrap();
}

#[actix::test]
async fn a_shutdown_while_it_is_away_is_the_end() {
    let mut node = supervised(&[]).await;
    node.leads().await;
    node.disk.broken.store(true, Ordering::Relaxed);
    assert!(node.write("lost").await.is_err());
    node.until(|seen| seen.stopped.is_some()).await;
    // Broken as it is: it would fail again and again.
    within(node.raft.send(Shutdown)).await.unwrap();
    let again = node.raft.send(ClientWrite::new("late", ResponseMode::Applied)).await.unwrap();
    assert!(matches!(again, Err(WriteError::Stopped { .. })), "{again:?}");
    assert!(node.opened.load(Ordering::Relaxed) <= 2);
}

#[actix::test]
async fn the_first_start_that_fails_is_an_error() {
    type Opened = Parts<MemoryLog, MemorySnapshots, Machine, Endpoint>;
    let open = async || Err::<Opened, _>(StartError::Log("planted".into()));
    let started = Builder::new(Config::new(n(1))).supervise(open).await;
    assert!(matches!(started, Err(StartError::Log(_))));
}
