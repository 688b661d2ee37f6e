//! Data directories as operators leave them: foreign, damaged, half created, in use.

use std::fs;
use std::path::Path;

use raft_core::NodeId;
use raft_core::host::LogStore;
use raft_driver_tokio::ClusterId;
use raft_driver_tokio::storage::{DurableLog, Identity, OpenError};

use crate::model::{IDENTITY, Model, commands, id, vote, write};

fn fill(dir: &Path) -> Model {
    let mut log = DurableLog::open(dir, IDENTITY).unwrap();
    let next = write(vote(1, 2), commands(id(1, 1), 500, 256));
    log.write(std::slice::from_ref(&next)).unwrap();
    let mut model = Model::default();
    model.apply(&next);
    model
}

fn open(dir: &Path) -> Result<Model, OpenError> {
    DurableLog::open(dir, IDENTITY).map(|mut log| Model::read(&mut log).unwrap())
}

#[test]
fn a_log_comes_back_and_counts_its_starts() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("a/b/c");
    let model = fill(&dir);
    for incarnation in 2..5 {
        let mut log = DurableLog::open(&dir, IDENTITY).unwrap();
        assert_eq!(log.incarnation(), incarnation);
        assert_eq!(Model::read(&mut log).unwrap(), model);
    }
    let mut names: Vec<_> = fs::read_dir(&dir).unwrap().map(|file| file.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["raft-identity", "raft-log"]);
}

#[test]
fn another_cluster_node_or_version_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let model = fill(dir.path());
    let other = Identity { cluster: ClusterId::new(1), ..IDENTITY };
    let error = DurableLog::open(dir.path(), other).unwrap_err();
    assert!(matches!(error, OpenError::ForeignCluster { .. }), "{error}");
    let other = Identity { node: NodeId::new(4), ..IDENTITY };
    let error = DurableLog::open(dir.path(), other).unwrap_err();
    assert!(matches!(error, OpenError::ForeignNode { .. }), "{error}");
    for file in ["raft-identity", "raft-log"] {
        let path = dir.path().join(file);
        let bytes = fs::read(&path).unwrap();
        for at in [8, 10] {
            let mut altered = bytes.clone();
            altered[at] += 1;
            fs::write(&path, &altered).unwrap();
            let error = open(dir.path()).unwrap_err();
            assert!(matches!(error, OpenError::Version { .. }), "{error}");
        }
        fs::write(&path, b"something else entirely, and longer than an identity").unwrap();
        let error = open(dir.path()).unwrap_err();
        assert!(matches!(error, OpenError::NotALog { .. }), "{error}");
        assert_eq!(fs::read(&path).unwrap().len(), 52, "a foreign file is left alone");
        fs::write(&path, &bytes).unwrap();
    }
    assert_eq!(open(dir.path()).unwrap(), model);
    // One node's log under another one's mark.
    let elsewhere = tempfile::tempdir().unwrap();
    drop(DurableLog::open(elsewhere.path(), Identity { node: NodeId::new(4), ..IDENTITY }).unwrap());
    fs::copy(elsewhere.path().join("raft-log"), dir.path().join("raft-log")).unwrap();
    let error = open(dir.path()).unwrap_err();
    assert!(matches!(error, OpenError::ForeignNode { .. }), "{error}");
}

#[test]
fn a_directory_that_lost_its_log_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path());
    let log = dir.path().join("raft-log");
    let bytes = fs::read(&log).unwrap();
    fs::remove_file(&log).unwrap();
    for _ in 0..2 {
        let error = open(dir.path()).unwrap_err();
        assert!(matches!(error, OpenError::Missing { .. }), "{error}");
    }
    // Also if the mark was damaged too.
    let mark = dir.path().join("raft-identity");
    let whole = fs::read(&mark).unwrap();
    fs::write(&mark, &whole[..20]).unwrap();
    assert!(matches!(open(dir.path()), Err(OpenError::Missing { .. })));
    fs::write(&mark, &whole).unwrap();

    for len in [0, 40, 4096, bytes.len() / 2] {
        fs::write(&log, &bytes[..len]).unwrap();
        let error = open(dir.path()).unwrap_err();
        assert!(matches!(error, OpenError::Damaged { .. }), "{len}: {error}");
    }
}

#[test]
fn a_creation_that_a_crash_interrupted_begins_anew_or_is_finished() {
    let dir = tempfile::tempdir().unwrap();
    let model = fill(dir.path());
    let mark = dir.path().join("raft-identity");
    let whole = fs::read(&mark).unwrap();
    // The log was renamed, the mark not written, or not all of it.
    for len in [0, 1, 30] {
        fs::write(&mark, &whole[..len]).unwrap();
        assert_eq!(open(dir.path()).unwrap(), model);
        assert_eq!(fs::read(&mark).unwrap()[..40], whole[..40]);
    }
    fs::write(&mark, [0; 40]).unwrap();
    assert_eq!(open(dir.path()).unwrap(), model);
    fs::remove_file(&mark).unwrap();
    assert_eq!(open(dir.path()).unwrap(), model);
    // A mark that was not finished does not open another node's log.
    fs::write(&mark, b"").unwrap();
    let error = DurableLog::open(dir.path(), Identity { node: NodeId::new(4), ..IDENTITY }).unwrap_err();
    assert!(matches!(error, OpenError::ForeignNode { .. }), "{error}");

    // Before the renaming nothing was ever used.
    for content in [&b""[..], b"half a log"] {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("raft-identity"), b"").unwrap();
        fs::write(dir.path().join("raft-log.new"), content).unwrap();
        assert_eq!(open(dir.path()).unwrap(), Model::default());
    }
}

#[test]
fn a_second_opener_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let model = fill(dir.path());
    let log = DurableLog::open(dir.path(), IDENTITY).unwrap();
    let error = open(dir.path()).unwrap_err();
    assert!(matches!(error, OpenError::InUse { .. }), "{error}");
    // A reader that outlives its store keeps the file open.
    let reader = log.reader();
    drop(log);
    assert!(matches!(open(dir.path()), Err(OpenError::InUse { .. })));
    drop(reader);
    assert_eq!(open(dir.path()).unwrap(), model);
}

#[test]
fn a_file_in_place_of_the_directory_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    fs::write(&path, b"x").unwrap();
    assert!(matches!(open(&path), Err(OpenError::Io { .. })));
}

#[test]
fn an_older_copy_of_the_log_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let model = fill(dir.path());
    let log = dir.path().join("raft-log");
    let mut copies = vec![fs::read(&log).unwrap()];
    for _ in 0..6 {
        assert_eq!(open(dir.path()).unwrap(), model);
        copies.push(fs::read(&log).unwrap());
    }
    let newest = copies.pop().unwrap();
    for (opened, copy) in copies.iter().enumerate() {
        fs::write(&log, copy).unwrap();
        for _ in 0..2 {
            let error = open(dir.path()).unwrap_err();
            assert!(matches!(error, OpenError::RolledBack { .. }), "{opened}: {error}");
        }
    }
    // An older copy that was written to elsewhere: more writes, fewer starts.
    let elsewhere = tempfile::tempdir().unwrap();
    fs::write(elsewhere.path().join("raft-log"), &copies[0]).unwrap();
    let mut other = DurableLog::open(elsewhere.path(), IDENTITY).unwrap();
    for term in 2..40 {
        other.write(&[write(vote(term, 2), commands(id(term, 501 + term), 0, 0))]).unwrap();
    }
    drop(other);
    fs::copy(elsewhere.path().join("raft-log"), &log).unwrap();
    let error = open(dir.path()).unwrap_err();
    assert!(matches!(error, OpenError::Damaged { .. }), "{error}");

    fs::write(&log, newest).unwrap();
    assert_eq!(open(dir.path()).unwrap(), model);
}

#[test]
fn a_start_that_a_crash_interrupted_leaves_the_directory_usable() {
    let dir = tempfile::tempdir().unwrap();
    let model = fill(dir.path());
    let mark = dir.path().join("raft-identity");
    let cut = |before: &[u8], cut: usize| {
        let mut torn = fs::read(&mark).unwrap();
        let old = |at: usize| before.get(at).copied().unwrap_or(0);
        let slot = [512, 1024]
            .into_iter()
            .find(|slot| (*slot..slot + 20).any(|at| torn.get(at).is_some_and(|byte| *byte != old(at))));
        let slot = slot.expect("each start writes a slot");
        for (at, byte) in torn.iter_mut().enumerate().take(slot + 20).skip(slot + cut) {
            *byte = old(at);
        }
        fs::write(&mark, torn).unwrap();
    };
    // From the very first slot on, again and again: the log has counted each start, its slot was cut off.
    let whole = fs::read(&mark).unwrap();
    cut(&whole[..40], 7);
    for bytes in 0..20 {
        let before = fs::read(&mark).unwrap();
        assert_eq!(open(dir.path()).unwrap(), model, "{bytes}");
        cut(&before, bytes);
    }
    assert_eq!(open(dir.path()).unwrap(), model);
    for bytes in [19, 3, 0, 12, 8] {
        let before = fs::read(&mark).unwrap();
        assert_eq!(open(dir.path()).unwrap(), model, "{bytes}");
        cut(&before, bytes);
    }
    for _ in 0..2 {
        assert_eq!(open(dir.path()).unwrap(), model);
    }
    // Rot in both: nothing is known any more.
    let mut rotten = fs::read(&mark).unwrap();
    rotten[512] ^= 1;
    rotten[1024] ^= 1;
    fs::write(&mark, rotten).unwrap();
    let error = open(dir.path()).unwrap_err();
    assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
}
