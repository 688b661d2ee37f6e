//! A snapshot goes from a state to a file, over a socket, into another file and into another state without ever being in
//! memory as a whole, while writes go on. The only test of its process, since the highest mark is the process's.
//!
//! `RAFT_SNAPSHOT_MIB=1024 cargo test --release -p raft-driver-tokio --test snapshot_memory -- --nocapture` prints the figures for
//! a snapshot of 1 GiB.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test says by failing what it expected")]

mod bulk;
mod common;

use std::collections::BTreeMap;
use std::fs;

use bytes::Bytes;
use raft_core::Config;
use raft_driver_tokio::storage::{Identity, MemoryLog, SnapshotFiles};
use raft_driver_tokio::tcp::{Tcp, TcpConfig};
use raft_driver_tokio::{Builder, ClusterId, Raft};

use bulk::Bulk;
use common::{BOUND, config, node, within};

const CLUSTER: ClusterId = ClusterId::new(0xb16);
const MIB: u64 = 1 << 20;
/// What a whole snapshot may cost beyond what the process had before, both ends of it and the network between.
const ALLOWED_BYTES: u64 = 64 * MIB;

fn size_bytes() -> u64 {
    let mib = std::env::var("RAFT_SNAPSHOT_MIB").map_or(256, |mib| mib.parse().expect("a number of MiB"));
    mib * MIB
}

/// From `/proc/self/status`, in bytes.
fn memory(field: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    line.trim_start_matches(':').trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

fn compacting(id: u64) -> Config {
    let mut config = config(id);
    config.compaction_margin_entries = 0;
    config
}

async fn start(id: u64, root: &std::path::Path, tcp: Tcp) -> Raft<Bulk> {
    let identity = Identity { cluster: CLUSTER, node: node(id) };
    let snapshots = SnapshotFiles::open(root.join(id.to_string()), identity).unwrap();
    let builder = Builder::new(compacting(id));
    within(builder.start(MemoryLog::default(), snapshots, Bulk::new(size_bytes()), tcp)).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_snapshot_is_never_in_memory_as_a_whole() {
    let root = tempfile::tempdir().unwrap();
    let mut sockets = Vec::new();
    for _ in 0..2 {
        sockets.push(Tcp::bind("127.0.0.1:0", TcpConfig::new(CLUSTER)).await.unwrap());
    }
    let address = |tcp: &Tcp| Bytes::from(tcp.local_addr().to_string());
    let addresses: BTreeMap<_, _> = (1..).map(node).zip(sockets.iter().map(address)).collect();
    let mut sockets = sockets.into_iter();
    let leader = start(1, root.path(), sockets.next().unwrap()).await;
    let learner = start(2, root.path(), sockets.next().unwrap()).await;
    let first = [(node(1), addresses[&node(1)].clone())].into();
    within(leader.bootstrap(first)).await.unwrap();
    assert_eq!(leader.wait(BOUND).leader().await.ok(), Some(node(1)));
    within(leader.write("before")).await.unwrap();
    let before = memory("VmRSS");

    // Writes are answered while the snapshot is being written.
    let asked = leader.clone();
    let taking = asked.snapshot();
    tokio::pin!(taking);
    let mut beside = 0;
    let taken = loop {
        tokio::select! {
            biased;
            taken = &mut taking => break taken,
            // Enough to see that they do not wait; more would only fill the log, which is in memory too.
            written = leader.write("beside"), if beside < 10_000 => beside += u64::from(written.is_ok()),
            () = tokio::time::sleep(BOUND) => panic!("the snapshot is not taken: {:?}", leader.metrics().borrow()),
        }
    };
    taken.unwrap();
    assert!(beside > 0, "writes wait for a snapshot");
    let taken = memory("VmHWM").saturating_sub(before);

    let change = raft_core::MembershipChange::Update {
        voters: [].into(),
        learners: [node(2)].into(),
        remove: [].into(),
        addresses: addresses.into_iter().filter(|(id, _)| *id == node(2)).collect(),
    };
    within(leader.change_membership(change)).await.unwrap();
    let target = within(leader.status()).await.unwrap().commit;
    let arrived = learner.wait(BOUND).applied(target).await;
    assert!(arrived.is_ok(), "{arrived:?}: {:?}", leader.metrics().borrow());
    let restored = within(learner.read_with(raft_core::ReadConsistency::Linearizable, |machine| {
        (machine.restored_bytes, machine.applied)
    }));
    let (restored_bytes, applied) = restored.await.unwrap();
    assert_eq!(restored_bytes, size_bytes(), "the learner came by a snapshot");
    // The write that nobody waited for any more may have happened too.
    assert!((1 + beside..=2 + beside).contains(&applied), "{applied} applied, {beside} answered beside");
    let all = memory("VmHWM").saturating_sub(before);
    println!(
        "a snapshot of {} MiB: {} MiB to write it, {} MiB with sending, receiving and restoring it in the same process; {beside} writes beside",
        size_bytes() / MIB,
        taken / MIB,
        all / MIB
    );
    assert!(all <= ALLOWED_BYTES, "{all} bytes for a snapshot of {}", size_bytes());
    for raft in [leader, learner] {
        within(raft.shutdown()).await;
    }
}
