//! Three nodes of ours on one thread under load, on Tokio or on Actix: `throughput` prints both, the comparison with other
//! libraries (`raft-core/benches/peers`) has them beside the others' drivers and loads those with [`load`] too.
//!
//! * Logs in memory, messages through channels, 256 bytes a write, each client with one write under way. A write counts
//!   when it was applied.
//! * A second is one of the thread's CPU time: it always has something to do, and other programs do not count.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::rc::Rc;
use std::time::Duration;

use actix::System;
use bytes::Bytes;
use raft_core::host::{RestoreError, SnapshotSource, StateMachine, WholeState};
use raft_core::{Config, Entries, EntryRef, NodeId};
use raft_driver_actix::admin::InitWithConfig;
use raft_driver_actix::messages::{ClientWrite, ResponseMode};
use raft_driver_tokio::storage::{MemoryLog, MemorySnapshots};
use raft_driver_tokio::transport::Channels;
use rustix::time::{ClockId, clock_gettime};
use tokio::task::LocalSet;

const WARM_UP: Duration = Duration::from_millis(100);
const ROUND: Duration = Duration::from_millis(500);
const NODES: u64 = 3;

/// Counts what it applies.
#[derive(Default)]
struct Count(u64);

impl StateMachine for Count {
    type Response = u64;
    type Snapshot = WholeState;
    type Error = Infallible;

    fn apply(&mut self, entries: &Entries, responses: &mut Vec<u64>) -> Result<(), Infallible> {
        for entry in entries.iter() {
            if let EntryRef::Command(..) = entry {
                self.0 += 1;
                responses.push(self.0);
            }
        }
        Ok(())
    }

    fn snapshot(&mut self) -> Result<WholeState, Infallible> {
        Ok(WholeState::new(self.0.to_le_bytes().to_vec()))
    }

    fn restore(&mut self, source: &mut SnapshotSource<'_>) -> Result<(), RestoreError<Infallible>> {
        let mut count = [0; 8];
        source.read_exact(&mut count)?;
        self.0 = u64::from_le_bytes(count);
        Ok(())
    }
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

/// Has so many clients write, one write after the other each, and says how many writes a second there were. `write` says
/// whether it was applied: until the first was, the node does not lead yet.
pub(crate) async fn load<W: Future<Output = bool> + 'static>(
    clients: usize,
    write: impl Fn(Bytes) -> W + Clone + 'static,
) -> f64 {
    let command = Bytes::from_static(&[7; 256]);
    while !write(command.clone()).await {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let written = Rc::new(Cell::new(0_u64));
    for _ in 0..clients {
        let (write, command, written) = (write.clone(), command.clone(), Rc::clone(&written));
        tokio::task::spawn_local(async move {
            while write(command.clone()).await {
                written.set(written.get() + 1);
            }
        });
    }
    tokio::time::sleep(WARM_UP).await;
    let (began, before) = (cpu_seconds(), written.get());
    tokio::time::sleep(ROUND).await;
    (written.get() - before) as f64 / (cpu_seconds() - began)
}

fn cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Writes a second through the Tokio driver.
pub(crate) fn tokio_driver(clients: usize) -> f64 {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let measured = async {
        let network = Channels::default();
        let mut nodes = Vec::new();
        for id in members().into_keys() {
            let (log, snapshots, machine) = stores();
            let builder = raft_driver_tokio::Builder::new(config(id));
            let node = builder.start(log, snapshots, machine, network.endpoint()).await;
            nodes.push(node.expect("nothing to recover"));
        }
        nodes[0].bootstrap(members()).await.expect("it is pristine");
        let leader = nodes[0].clone();
        load(clients, move |command| {
            let leader = leader.clone();
            async move { leader.write(command).await.is_ok() }
        })
        .await
    };
    LocalSet::new().block_on(&runtime, measured)
}

/// Writes a second through the Actix driver.
pub(crate) fn actix_driver(clients: usize) -> f64 {
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
        let leader = nodes[0].clone();
        load(clients, move |command| {
            let written = leader.send(ClientWrite::<u64>::new(command, ResponseMode::Applied));
            async move { matches!(written.await, Ok(Ok(_))) }
        })
        .await
    })
}
