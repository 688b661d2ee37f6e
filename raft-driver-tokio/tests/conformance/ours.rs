//! What is shipped, through the checks.

use std::io;
use std::path::Path;

use raft_core::host::LogStore;
use raft_core::{LogId, LogRecovery, NodeId, Write};
use raft_driver_tokio::storage::{
    DurableError, DurableLog, DurableReader, DurableStore, GroupLog, Identity, MemoryLog, MemorySnapshots,
    OpenError, SnapshotFiles,
};
use raft_driver_tokio::testing::{
    Blocking, Directory, LogCheck, Promise, SimulatedDisk, SnapshotCheck, Survives,
};
use raft_driver_tokio::{ClusterId, GroupId};

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
    println!("{}", LogCheck::new().seeds(0..2).steps(30).run(open_on_disk).unwrap());
}

#[test]
fn the_durable_log_in_a_directory() {
    let check = LogCheck::new().seeds(0..3).steps(15).one_opener();
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
    let check = SnapshotCheck::new().seeds(0..3).one_opener();
    println!("{}", check.run(|dir: &Directory| SnapshotFiles::open(dir.path(), IDENTITY)).unwrap());
}

fn open_group(dir: &Directory) -> Result<GroupLog, io::Error> {
    let store = DurableStore::open(dir.path(), IDENTITY).map_err(io::Error::other)?;
    store.log(GroupId::new(7)).map_err(io::Error::other)
}

#[test]
fn the_log_of_a_group() {
    let check = LogCheck::new().seeds(6..8).steps(12).one_opener();
    println!("{}", check.run(open_group).unwrap());
}

#[test]
fn the_log_of_a_group_by_its_futures() {
    let check = LogCheck::new().seeds(9..11).steps(12).one_opener();
    println!("{}", check.run(|dir: &Directory| Blocking::open(async || open_group(dir))).unwrap());
}

#[test]
fn the_durable_log_in_a_process_that_is_killed() {
    let check = LogCheck::new().steps(60).seeds(3..4);
    let test = "ours::the_durable_log_in_a_process_that_is_killed";
    println!("{}", check.run_killed(test, 10, |dir| DurableLog::open(dir, IDENTITY)).unwrap());
}

/// Says that a batch is durable when the one before it is.
struct Late {
    log: DurableLog,
    held_back: Vec<Write>,
}

impl LogStore for Late {
    type Reader = DurableReader;
    type Error = DurableError;

    fn recover(&mut self) -> Result<LogRecovery, DurableError> {
        self.log.recover()
    }

    fn write(&mut self, batch: &[Write]) -> Result<(), DurableError> {
        let held_back = std::mem::replace(&mut self.held_back, batch.to_vec());
        self.log.write(&held_back)
    }

    fn compact(&mut self, _: LogId) -> Result<(), DurableError> {
        Ok(())
    }

    fn reader(&self) -> DurableReader {
        self.log.reader()
    }
}

#[test]
fn a_log_that_holds_writes_back_is_found_by_a_kill() {
    let open = |dir: &Path| DurableLog::open(dir, IDENTITY).map(|log| Late { log, held_back: Vec::new() });
    let test = "ours::a_log_that_holds_writes_back_is_found_by_a_kill";
    let broken = LogCheck::new().steps(20).run_killed(test, 10, open).unwrap_err();
    println!("{broken}");
    let promises = [Promise::DurableOnReturn, Promise::HardStateKept, Promise::ResetDropsAll];
    assert!(promises.contains(&broken.promise), "{broken}");
}
