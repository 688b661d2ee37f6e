//! What is shipped, through the checks.

use raft_core::NodeId;
use raft_driver_tokio::ClusterId;
use raft_driver_tokio::storage::{
    DurableLog, Identity, MemoryLog, MemorySnapshots, OpenError, SnapshotFiles,
};
use raft_driver_tokio::testing::{Directory, LogCheck, SimulatedDisk, SnapshotCheck, Survives};

const IDENTITY: Identity = Identity { cluster: ClusterId::new(0x5eed), node: NodeId::new(3) };

/// As the log's directory is made: aside, then renamed.
fn open_on_disk(disk: &SimulatedDisk) -> Result<DurableLog, OpenError> {
    let io = |source| OpenError::Io { op: "use", path: "simulated".into(), source };
    if disk.open("log").is_err() {
        let file = disk.create("log.new").map_err(io)?;
        DurableLog::create_on(file.layer(), IDENTITY)?;
        file.sync().map_err(io)?;
        disk.rename("log.new", "log").map_err(io)?;
        disk.sync_names().map_err(io)?;
    }
    DurableLog::open_on(disk.open("log").map_err(io)?.layer(), IDENTITY)
}

#[test]
fn the_log_in_memory() {
    let passed = LogCheck::new()
        .seeds(0..200)
        .run(|kept: &Survives<MemoryLog>| Ok::<_, std::convert::Infallible>(kept.0.clone()));
    println!("{}", passed.unwrap());
}

#[test]
fn the_durable_log_on_a_disk_that_loses_what_was_not_synced() {
    println!("{}", LogCheck::new().seeds(0..2).run(open_on_disk).unwrap());
}

#[test]
fn the_durable_log_in_a_directory() {
    let check = LogCheck::new().seeds(0..6).steps(25).one_opener();
    println!("{}", check.run(|dir: &Directory| DurableLog::open(dir.path(), IDENTITY)).unwrap());
}

#[test]
fn the_snapshots_in_memory() {
    let passed = SnapshotCheck::new()
        .run(|kept: &Survives<MemorySnapshots>| Ok::<_, std::convert::Infallible>(kept.0.clone()));
    println!("{}", passed.unwrap());
}

#[test]
fn the_snapshots_in_files() {
    let check = SnapshotCheck::new().seeds(0..6).one_opener();
    println!("{}", check.run(|dir: &Directory| SnapshotFiles::open(dir.path(), IDENTITY)).unwrap());
}
