//! Three nodes of ours on one thread under load, on Tokio or on Actix: `throughput` prints both, the comparison with other
//! libraries (`raft-core/benches/peers`) has them beside the others' drivers and loads those with [`load`] too.
//!
//! * Logs in memory, messages through channels, 256 bytes a write, each client a task with one write under way. A write counts
//!   when it was applied.
//! * A second is one of the thread's CPU time: it always has something to do, and other programs do not count.

#[path = "../../../raft-driver-tokio/benches/count/mod.rs"]
mod count;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use actix::System;
use bytes::Bytes;
use count::Count;
use raft_core::{Config, NodeId};
use raft_driver_actix::admin::InitWithConfig;
use raft_driver_actix::messages::{ClientWrite, ResponseMode};
use raft_driver_tokio::storage::{MemoryLog, MemorySnapshots};
use raft_driver_tokio::transport::Channels;
use rustix::time::{ClockId, clock_gettime};
use tokio::task::JoinHandle;

const WARM_UP: Duration = Duration::from_millis(100);
const ROUND: Duration = Duration::from_millis(500);
const NODES: u64 = 3;

/// How much is done.
#[derive(Clone, Copy)]
pub(crate) enum Work {
    /// What goes into a round.
    Round,
    /// About so many writes, no matter how long they take.
    Writes(u64),
}

fn members() -> BTreeMap<NodeId, Bytes> {
    (1..=NODES).map(|id| (NodeId::new(id), Bytes::new())).collect()
}

/// The first node leads: the others do not campaign for a minute.
fn config(id: NodeId) -> Config {
    let mut config = Config::new(id);
    if id != NodeId::new(1) {
        config.election_timeout_min = Duration::from_secs(60);
        config.election_timeout_max = Duration::from_secs(120);
    }
    config
}

fn stores() -> (MemoryLog, MemorySnapshots, Count) {
    (MemoryLog::default(), MemorySnapshots::default(), Count::default())
}

/// One client: writes again and again until `written` says that it is enough, or a write fails.
pub(crate) async fn client(write: impl AsyncFn(Bytes) -> bool, written: Arc<AtomicU64>, enough: u64) {
    let command = Bytes::from_static(&[7; 256]);
    while written.load(Ordering::Relaxed) < enough && write(command.clone()).await {
        written.fetch_add(1, Ordering::Relaxed);
    }
}

/// Has so many clients write, each one a task that `start` starts, and says how many writes a second there were.
pub(crate) async fn load(
    clients: usize,
    work: Work,
    mut start: impl FnMut(Arc<AtomicU64>, u64) -> JoinHandle<()>,
) -> f64 {
    let written = Arc::new(AtomicU64::new(0));
    // The first write that is applied: the node leads.
    while written.load(Ordering::Relaxed) == 0 {
        start(Arc::clone(&written), 1).await.expect("a client");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let enough = match work {
        Work::Round => u64::MAX,
        Work::Writes(writes) => writes,
    };
    let running: Vec<_> = (0..clients).map(|_| start(Arc::clone(&written), enough)).collect();
    if matches!(work, Work::Writes(_)) {
        let began = Instant::now();
        for client in running {
            client.await.expect("it only writes");
        }
        return written.load(Ordering::Relaxed) as f64 / began.elapsed().as_secs_f64();
    }
    tokio::time::sleep(WARM_UP).await;
    let (began, before) = (cpu_seconds(), written.load(Ordering::Relaxed));
    tokio::time::sleep(ROUND).await;
    (written.load(Ordering::Relaxed) - before) as f64 / (cpu_seconds() - began)
}

fn cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Writes a second through the Tokio driver.
pub(crate) fn tokio_driver(clients: usize, work: Work) -> f64 {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let network = Channels::default();
        let mut nodes = Vec::new();
        for id in members().into_keys() {
            let (log, snapshots, machine) = stores();
            let builder = raft_driver_tokio::Builder::new(config(id));
            let node = builder.start(log, snapshots, machine, network.endpoint()).await;
            nodes.push(node.expect("nothing to recover"));
        }
        nodes[0].bootstrap(members()).await.expect("it is pristine");
        load(clients, work, |written, enough| {
            let leader = nodes[0].clone();
            let write = async move |command: Bytes| leader.write(command).await.is_ok();
            tokio::spawn(client(write, written, enough))
        })
        .await
    })
}

/// Writes a second through the Actix driver.
pub(crate) fn actix_driver(clients: usize, work: Work) -> f64 {
    System::new().block_on(async {
        let network = Channels::default();
        let mut nodes = Vec::new();
        for id in members().into_keys() {
            let (log, snapshots, machine) = stores();
            let builder = raft_driver_actix::Builder::new(config(id));
            let node = builder.start(log, snapshots, machine, network.endpoint()).await;
            nodes.push(node.expect("nothing to recover"));
        }
        nodes[0].send(InitWithConfig { members: members() }).await.expect("it runs").expect("it is pristine");
        load(clients, work, |written, enough| {
            let leader = nodes[0].clone();
            let write = async move |command: Bytes| {
                let written = leader.send(ClientWrite::<u64>::new(command, ResponseMode::Applied)).await;
                matches!(written, Ok(Ok(_)))
            };
            tokio::task::spawn_local(client(write, written, enough))
        })
        .await
    })
}
