//! Nodes that are recorded: every file replays, what goes wrong with the files never reaches the node.

#![allow(clippy::unwrap_used, reason = "a test says by failing what it expected")]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use common::{BOUND, Cluster, Journal, alone, config, leader, members, node, within, write};
use raft_core::NodeId;
use raft_core::host::recording::{Ending, Replay};
use raft_driver_tokio::storage::{MemoryLog, MemorySnapshots};
use raft_driver_tokio::transport::Channels;
use raft_driver_tokio::{Builder, Raft, Recording, StartError};

/// The recordings in a directory: node, start, file.
fn files(directory: &Path) -> BTreeMap<(u64, u64, u64), PathBuf> {
    let place = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_str().unwrap().strip_suffix(".recording").unwrap();
        let numbers: Vec<u64> =
            name.strip_prefix('n').unwrap().split('.').map(|part| part.parse().unwrap()).collect();
        (numbers[0], numbers[1], numbers[2])
    };
    let paths = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    paths.map(|path| (place(&path), path)).collect()
}

/// Replays a file in both ways that users have; returns how many steps it has, and how it ends.
fn replay(path: &Path) -> (u64, Ending) {
    let file = Bytes::from(fs::read(path).unwrap());
    let mut replay = Replay::open(file.clone(), crc32fast::hash).unwrap();
    let mut steps = 0;
    while let Some(step) = replay.next_step().unwrap() {
        steps += u64::from(step.event.is_some());
    }
    let mut lines = 0;
    let verified = raft_sim::replay_recording(file, &mut |step| {
        lines += u64::from(step.event.is_some());
        assert!(!step.to_string().is_empty());
    });
    let verified = verified.unwrap_or_else(|failure| panic!("{}: {failure}", path.display()));
    assert_eq!((verified.steps, verified.ending), (steps, replay.ending().unwrap()));
    assert_eq!(lines, steps);
    (steps, verified.ending)
}

async fn start(cluster: &mut Cluster, recording: &Recording, id: u64) -> Raft<Journal> {
    let log = cluster.logs.entry(id).or_default().clone();
    let snapshots = cluster.snapshots.entry(id).or_default().clone();
    let builder = Builder::new(config(id)).record(recording.clone());
    let start = builder.start(log, snapshots, Journal::default(), cluster.network.endpoint());
    let raft = within(start).await.unwrap();
    cluster.nodes.insert(id, raft.clone());
    raft
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_file_of_a_run_with_restarts_replays() {
    let directory = tempfile::tempdir().unwrap();
    // Small ones, so that there are several, which begin with checkpoints.
    let recording =
        Recording { file_bytes_max: 16 * 1024, files_max: 1000, ..Recording::new(directory.path()) };
    let mut cluster = Cluster::default();
    for id in 1..=3 {
        start(&mut cluster, &recording, id).await;
    }
    for raft in cluster.all() {
        within(raft.bootstrap(members(1..=3))).await.unwrap();
    }
    for round in 0..3 {
        for number in 0..100 {
            write(&cluster.all(), Bytes::from(format!("{round}: {number}"))).await.unwrap();
        }
        let led_by = leader(&cluster.all()).await.id().get();
        cluster.stop(led_by).await;
        write(&cluster.all(), Bytes::from("without it")).await.unwrap();
        start(&mut cluster, &recording, led_by).await;
    }
    for id in 1..=3 {
        cluster.stop(id).await;
    }
    let files = files(directory.path());
    let mut starts: BTreeMap<u64, u64> = BTreeMap::new();
    for ((id, start, _), path) in &files {
        let (steps, ending) = replay(path);
        assert!(steps > 0, "{}", path.display());
        // Each was ended: by the next one, or with the node.
        assert_eq!(ending, Ending::Complete, "{}", path.display());
        let newest = starts.entry(*id).or_default();
        *newest = (*newest).max(*start);
    }
    assert_eq!(starts.values().sum::<u64>(), 3, "one more for each restart: {starts:?}");
    assert!(files.len() > 6 + 3, "several files of a start: {files:?}");
}

async fn recorded(recording: Recording) -> Raft<Journal> {
    let builder = Builder::new(config(1)).record(recording);
    alone(builder, MemoryLog::default(), Journal::default(), Channels::default().endpoint()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_oldest_files_go_first() {
    let directory = tempfile::tempdir().unwrap();
    let recording = Recording {
        file_bytes_max: 4 * 1024,
        files_max: 3,
        bytes_max: 1 << 30,
        ..Recording::new(directory.path())
    };
    for start in 0..2 {
        let raft = recorded(recording.clone()).await;
        for _ in 0..200 {
            within(raft.write(vec![7; 500])).await.unwrap();
        }
        assert!(within(raft.shutdown()).await.is_orderly());
        let files = files(directory.path());
        assert!(files.len() <= 3, "{files:?}");
        let (newest, path) = files.last_key_value().unwrap();
        assert_eq!((newest.0, newest.1), (1, start));
        assert!(newest.2 > 3, "older ones are gone: {newest:?}");
        assert_eq!(replay(path).1, Ending::Complete);
    }
    // By bytes too, however many files there may be; the newest stays.
    let raft = recorded(Recording { files_max: 1000, bytes_max: 1, ..recording }).await;
    within(raft.write("a")).await.unwrap();
    assert!(within(raft.shutdown()).await.is_orderly());
    assert_eq!(files(directory.path()).len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_that_cannot_be_written_do_not_stop_the_node() {
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("recordings");
    let recording = Recording { file_bytes_max: 4 * 1024, ..Recording::new(&directory) };
    let raft = recorded(recording).await;
    within(raft.write("a")).await.unwrap();
    // Further files have no place.
    fs::remove_dir_all(&directory).unwrap();
    for number in 0..200 {
        let applied = within(raft.write(vec![7; 500])).await.unwrap();
        assert_eq!(applied.response, number + 2);
    }
    assert!(within(raft.shutdown()).await.is_orderly());
    assert!(!directory.exists());
}

#[tokio::test]
async fn a_directory_that_cannot_be_is_refused_at_the_start() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let builder = Builder::new(config(1)).record(Recording::new(file.path().join("below a file")));
    let (log, snapshots) = (MemoryLog::default(), MemorySnapshots::default());
    let refused =
        within(builder.start(log, snapshots, Journal::default(), Channels::default().endpoint())).await;
    assert!(matches!(refused, Err(StartError::Recording { .. })), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_is_killed_leaves_what_was_written_until_then() {
    let directory = tempfile::tempdir().unwrap();
    let raft = recorded(Recording::new(directory.path())).await;
    for _ in 0..100 {
        within(raft.write("a")).await.unwrap();
    }
    // What a copy of the directory holds at any moment replays; it was never ended.
    let (place, path) = files(directory.path()).pop_first().unwrap();
    assert_eq!(NodeId::new(place.0), node(1));
    let copy = copied(&path);
    let (_, ending) = replay(copy.path());
    assert!(matches!(ending, Ending::Open | Ending::Damaged { .. }), "{ending:?}");
    assert_eq!(raft.wait(BOUND).leader().await.ok(), Some(node(1)));
    assert!(within(raft.shutdown()).await.is_orderly());
    assert_eq!(replay(&path).1, Ending::Complete);
}

fn copied(path: &Path) -> tempfile::NamedTempFile {
    let copy = tempfile::NamedTempFile::new().unwrap();
    fs::copy(path, copy.path()).unwrap();
    copy
}
