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
        assert_eq!(fs::read(&mark).unwrap(), whole);
    }
    fs::write(&mark, vec![0; whole.len()]).unwrap();
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
