//! Many groups in one durable store, each with one batch of 256-byte entries under way after the other.

use std::time::{Duration, Instant};

use raft_core::host::AsyncLogStore;
use raft_core::{Commands, Entries, LogId, LogIndex, NodeId, Term, Write, WriteId};
use raft_driver_tokio::storage::{DurableStore, Identity};
use raft_driver_tokio::{ClusterId, GroupId};

/// How many groups there may be.
pub(crate) const GROUPS: [u64; 4] = [1, 16, 256, 1000];
/// Whose logs they are.
pub(crate) const IDENTITY: Identity = Identity { cluster: ClusterId::new(1), node: NodeId::new(1) };

/// A write of these commands, behind those before it.
pub(crate) fn write(first: u64, commands: &Commands) -> Write {
    Write {
        id: serde_json::from_value::<WriteId>(first.into()).expect("a number"),
        hard_state: None,
        reset_to: None,
        entries: Entries::commands(LogId::new(Term::new(1), LogIndex::new(first)), commands),
    }
}

/// Entries a second and fsyncs a second of a store in which so many groups append a batch each, over and over.
pub(crate) fn measure_groups(groups: u64, entries: u64, time: Duration) -> (f64, f64) {
    let dir = tempfile::tempdir().expect("a directory");
    let store = DurableStore::open(dir.path(), IDENTITY).expect("a new store");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let commands: Commands = (0..entries).map(|at| [at as u8; 256]).collect();
    runtime.block_on(async {
        let mut writers = tokio::task::JoinSet::new();
        let mut logs = Vec::new();
        for group in 0..groups {
            let mut log = store.log(GroupId::new(group)).expect("nobody uses it");
            AsyncLogStore::write(&mut log, &[write(1, &commands)]).await.expect("the disk works");
            logs.push(log);
        }
        let (start, syncs) = (Instant::now(), store.syncs());
        for mut log in logs {
            let commands = commands.clone();
            writers.spawn(async move {
                let mut next = 1 + entries;
                while start.elapsed() < time {
                    let write = [write(next, &commands)];
                    AsyncLogStore::write(&mut log, &write).await.expect("the disk works");
                    next += entries;
                }
                next - 1 - entries
            });
        }
        let written: u64 = writers.join_all().await.into_iter().sum();
        let seconds = start.elapsed().as_secs_f64();
        (written as f64 / seconds, (store.syncs() - syncs) as f64 / seconds)
    })
}
