//! Faults that the operating system makes: another process, `kill -9`, a file system that is full or read-only, files
//! that may not be opened. Those that need a file system of their own are mounted in namespaces, where these are allowed.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use raft_core::host::{LogReader, LogStore, SnapshotStore, SnapshotWriter};
use raft_core::{LogIndex, NodeId, SnapshotId};
use raft_driver_tokio::GroupId;
use raft_driver_tokio::storage::{
    DurableError, DurableLog, DurableStore, KnownPeers, OpenError, PeerRefused, SnapshotFileError,
    SnapshotFiles,
};
use raft_driver_tokio::{Builder, DirectoryId, StartError};

use crate::model::{IDENTITY, Model, commands, id, reset, vote, write};

/// What the process is that the tests start: one of the functions below, and where.
const PART: &str = "RAFT_TEST_PART";
const PLACE: &str = "RAFT_TEST_PLACE";

#[test]
#[ignore = "run by other tests, as a process of its own"]
fn child() {
    let dir = PathBuf::from(std::env::var_os(PLACE).unwrap());
    match std::env::var(PART).unwrap().as_str() {
        "write" => write_until_killed(&dir),
        "full" => on_a_full_disk(&dir),
        "read-only" => on_a_disk_that_is_only_read(&dir),
        "forbidden" => on_files_that_may_not_be_opened(&dir),
        part => panic!("{part} is no part"),
    }
}

/// This test binary again, in namespaces of its own if `unshare` is not empty.
fn process(part: &str, dir: &Path, unshare: &[&str]) -> Command {
    let this = std::env::current_exe().unwrap();
    let mut command = match unshare {
        [] => Command::new(this),
        flags => {
            let mut command = Command::new("unshare");
            command.args(flags).arg(this);
            command
        }
    };
    command.args(["--exact", "real::child", "--ignored", "--nocapture"]).env(PART, part).env(PLACE, dir);
    command.stdin(Stdio::null());
    command
}

/// Runs a part where it can mount a file system, if that is allowed here. The same faults are injected in `failure.rs`
/// and `store.rs`, everywhere.
fn with_mounts(part: &str) {
    let allowed = Command::new("unshare").args(["-Urm", "mount", "-t", "tmpfs", "raft", "/mnt"]).output();
    if !allowed.is_ok_and(|output| output.status.success()) {
        println!("not run: no namespaces, or no mounts in them");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let output = process(part, dir.path(), &["-Urm"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

fn mount(options: &str, dir: &Path) {
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", options, "raft"]).arg(dir).status();
    assert!(mounted.unwrap().success(), "{options}");
}

// --- another process ---------------------------------------------------------------------------------------

/// Says what is durable, as soon as it is.
fn write_until_killed(dir: &Path) {
    let store = DurableStore::open(dir, IDENTITY).unwrap();
    let mut logs: Vec<_> = (0..3).map(|group| store.log(GroupId::new(group)).unwrap()).collect();
    for at in 0.. {
        for (group, log) in logs.iter_mut().enumerate() {
            LogStore::write(log, &[write(vote(1, 1), commands(id(1, 1 + at * 5), 5, 700))]).unwrap();
            println!("durable {group} {}", (at + 1) * 5);
        }
    }
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn durable(line: &str) -> Option<(u64, usize)> {
    let mut words = line.strip_prefix("durable ")?.split(' ');
    Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
}

#[test]
fn a_second_process_is_refused_and_a_killed_one_leaves_all_that_it_reported() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..3 {
        let mut child = process("write", dir.path(), &[]);
        if round > 0 {
            // It would begin anew.
            let store = DurableStore::open(dir.path(), IDENTITY).unwrap();
            (0..3).for_each(|group| store.remove(GroupId::new(group)).unwrap());
        }
        let mut child = Killed(child.stdout(Stdio::piped()).spawn().unwrap());
        let mut lines = BufReader::new(child.0.stdout.take().unwrap());
        let mut reported = [0; 3];
        let note = |lines: &mut BufReader<ChildStdout>, reported: &mut [usize; 3]| {
            let mut line = String::new();
            if lines.read_line(&mut line).unwrap() > 0
                && let Some((group, count)) = durable(line.trim_end())
            {
                reported[group as usize] = count;
            }
            line.is_empty()
        };
        while reported[2] < 100 {
            assert!(!note(&mut lines, &mut reported), "it ended");
        }
        let error = DurableStore::open(dir.path(), IDENTITY).unwrap_err();
        assert!(matches!(error, OpenError::InUse { .. }), "{error}");
        let error = DurableLog::open(dir.path(), IDENTITY).unwrap_err();
        assert!(matches!(error, OpenError::InUse { .. }), "{error}");
        child.0.kill().unwrap();
        child.0.wait().unwrap();
        while !note(&mut lines, &mut reported) {}
        let store = DurableStore::open(dir.path(), IDENTITY).unwrap();
        for (group, reported) in reported.into_iter().enumerate() {
            let mut log = store.log(GroupId::new(group as u64)).unwrap();
            let found = Model::read(&mut log).unwrap();
            // One write more may have been under way.
            assert!(found.log.len() == reported || found.log.len() == reported + 5, "group {group}");
        }
    }
}

// --- a disk that is full -----------------------------------------------------------------------------------

fn on_a_full_disk(dir: &Path) {
    // Too small for anything: nothing is there afterwards that another attempt would stumble over.
    mount("size=64k", dir);
    let data = dir.join("data");
    let error = DurableLog::open(&data, IDENTITY).unwrap_err();
    let is_full =
        matches!(&error, OpenError::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull);
    assert!(is_full, "{error}");
    assert!(error.to_string().contains("check the path, its permissions and the disk"), "{error}");
    mount("remount,size=12m", dir);

    let store = DurableStore::open(&data, IDENTITY).unwrap();
    let mut logs: Vec<_> = (0..2).map(|group| store.log(GroupId::new(group)).unwrap()).collect();
    let mut reported = [0_usize; 2];
    let error = 'full: loop {
        for (group, log) in logs.iter_mut().enumerate() {
            let first = id(1, 1 + reported[group] as u64);
            match LogStore::write(log, &[write(vote(1, 1), commands(first, 50, 1000))]) {
                Ok(()) => reported[group] += 50,
                Err(error) => break 'full error,
            }
        }
        assert!(reported[0] < 100_000, "it is never full");
    };
    assert!(matches!(error, DurableError::Full), "{error}");
    assert!(error.to_string().contains("free some space"), "{error}");
    assert!(reported[0] > 1000, "it was of use before: {reported:?}");
    let again = LogStore::write(&mut logs[0], &[]);
    assert!(matches!(again, Err(DurableError::Failed(_))));
    drop((logs, store));

    // Whether it starts while the disk is full or says that it cannot: nothing is lost.
    if let Err(error) = DurableStore::open(&data, IDENTITY) {
        assert!(matches!(error, OpenError::Io { .. }), "{error}");
    }
    mount("remount,size=48m", dir);
    let store = DurableStore::open(&data, IDENTITY).unwrap();
    for (group, reported) in reported.into_iter().enumerate() {
        let mut log = store.log(GroupId::new(group as u64)).unwrap();
        let found = Model::read(&mut log).unwrap();
        assert!(found.log.len() == reported || found.log.len() == reported + 50, "group {group}");
        let next = commands(id(1, 1 + found.log.len() as u64), 50, 1000);
        LogStore::write(&mut log, &[write(None, next)]).unwrap();
    }

    // A snapshot is given up before the log has no room.
    let snapshots_in = data.join("snapshots");
    let name = SnapshotId { last: id(1, 9), taken_by: NodeId::new(3), seq: 1 };
    let until_refused = |snapshots: &SnapshotFiles| {
        let mut writer = snapshots.begin(name).unwrap();
        // In one piece.
        let failed = writer.write(&vec![7; 48 << 20]).unwrap_err();
        (writer, failed)
    };
    let (writer, failed) = until_refused(&SnapshotFiles::open(&snapshots_in, IDENTITY).unwrap());
    assert!(
        matches!(failed, SnapshotFileError::NoRoom { left_bytes, .. } if left_bytes > 2 << 20),
        "{failed}"
    );
    let mut log = store.log(GroupId::new(2)).unwrap();
    LogStore::write(&mut log, &[write(vote(1, 1), commands(id(1, 1), 1000, 1000))]).unwrap();
    drop((writer, log));

    // Where it may take everything it is given up all the same. What is remembered of peers has no room then.
    let (writer, failed) = until_refused(&SnapshotFiles::open_leaving(&snapshots_in, IDENTITY, 0).unwrap());
    let is_full = matches!(&failed, SnapshotFileError::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull);
    assert!(is_full, "{failed}");
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let peers: KnownPeers = store.peers();
    let refused = runtime.block_on(peers.admit(NodeId::new(9), Some(DirectoryId::new(1)))).unwrap_err();
    assert!(matches!(refused, PeerRefused::Failed { .. }), "{refused}");
    drop(writer);
    let left = fs::read_dir(&snapshots_in).unwrap().count();
    assert_eq!(left, 1, "what was given up is removed");
}

#[test]
fn a_full_disk_is_said_and_costs_nothing_that_was_reported() {
    with_mounts("full");
}

// --- a disk that is only read ------------------------------------------------------------------------------

fn on_a_disk_that_is_only_read(dir: &Path) {
    mount("size=12m", dir);
    let mut log = DurableLog::open(dir, IDENTITY).unwrap();
    log.write(&[write(vote(1, 1), commands(id(1, 1), 50, 1000))]).unwrap();
    drop(log);
    mount("remount,ro", dir);
    let error = DurableLog::open(dir, IDENTITY).unwrap_err();
    let is_read_only = matches!(&error, OpenError::Io { source, .. } if source.kind() == std::io::ErrorKind::ReadOnlyFilesystem);
    assert!(is_read_only, "{error}");
    mount("remount,rw", dir);
    let mut log = DurableLog::open(dir, IDENTITY).unwrap();
    assert_eq!(Model::read(&mut log).unwrap().log.len(), 50);
}

#[test]
fn a_disk_that_is_only_read_is_said() {
    with_mounts("read-only");
}

// --- files that may not be opened --------------------------------------------------------------------------

fn on_files_that_may_not_be_opened(dir: &Path) {
    for file in ["raft-identity", "raft-log", "raft-peers"] {
        let path = dir.join(file);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
        let error = DurableLog::open(dir, IDENTITY).unwrap_err();
        let is_denied = matches!(&error, OpenError::Io { source, path: at, .. }
            if source.kind() == std::io::ErrorKind::PermissionDenied && *at == path);
        assert!(is_denied, "{file}: {error}");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }
}

#[tokio::test]
async fn files_that_may_not_be_opened_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = DurableLog::open(dir.path(), IDENTITY).unwrap();
    log.write(&[write(vote(1, 1), commands(id(1, 1), 50, 1000))]).unwrap();
    log.peers().admit(NodeId::new(9), Some(DirectoryId::new(1))).await.unwrap();
    drop(log);
    // Root may open everything, except from a namespace in which it is nobody.
    let is_root = fs::metadata("/proc/self").unwrap().uid() == 0;
    let unshare: &[&str] = if is_root { &["-U"] } else { &[] };
    if is_root && !Command::new("unshare").args(["-U", "true"]).output().is_ok_and(|ran| ran.status.success())
    {
        println!("not run: no namespaces");
        return;
    }
    let output = process("forbidden", dir.path(), unshare).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let mut log = DurableLog::open(dir.path(), IDENTITY).unwrap();
    assert_eq!(Model::read(&mut log).unwrap().log.len(), 50);
    assert_eq!(log.peers().get(NodeId::new(9)), Some(DirectoryId::new(1)));
}

// --- files that are missing --------------------------------------------------------------------------------

#[tokio::test]
async fn a_snapshot_that_the_log_needs_and_is_missing_starts_no_node() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = DurableLog::open(dir.path(), IDENTITY).unwrap();
    log.write(&[reset(vote(3, 1), id(3, 40), commands(id(3, 41), 2, 10))]).unwrap();
    assert!(!log.reader().read(LogIndex::new(41), LogIndex::LIMIT, 1).unwrap().is_empty());
    let snapshots = SnapshotFiles::open(dir.path().join("snapshots"), IDENTITY).unwrap();
    let network = raft_driver_tokio::transport::Channels::default();
    let builder = Builder::new(raft_core::Config::new(IDENTITY.node));
    let error = builder.start(log, snapshots, Counter(0), network.endpoint()).await.unwrap_err();
    let StartError::Snapshots(error) = error else { panic!("{error}") };
    let is_missing = matches!(error.downcast_ref(), Some(SnapshotFileError::Missing { base, part: None, .. })
        if *base == id(3, 40));
    assert!(is_missing, "{error}");
    assert!(error.to_string().contains("put it back, or"), "{error}");
}

/// Counts commands.
struct Counter(u64);

impl raft_core::host::StateMachine for Counter {
    type Response = ();
    type Snapshot = raft_core::host::WholeState;
    type Error = std::io::Error;

    fn apply(&mut self, entries: &raft_core::Entries, responses: &mut Vec<()>) -> std::io::Result<()> {
        for entry in entries.iter() {
            if matches!(entry, raft_core::EntryRef::Command(..)) {
                self.0 += 1;
                responses.push(());
            }
        }
        Ok(())
    }

    fn snapshot(&mut self) -> std::io::Result<Self::Snapshot> {
        Ok(raft_core::host::WholeState::new(self.0.to_le_bytes().to_vec()))
    }

    fn restore(
        &mut self,
        source: &mut raft_core::host::SnapshotSource<'_>,
    ) -> Result<(), raft_core::host::RestoreError<std::io::Error>> {
        let mut count = [0; 8];
        source.read_exact(&mut count)?;
        self.0 = u64::from_le_bytes(count);
        Ok(())
    }
}
