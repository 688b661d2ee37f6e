//! Snapshots in files: what is complete survives, what is not is gone, and what is damaged is never used.

#![allow(clippy::unwrap_used, reason = "a test says by failing what it expected")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use raft_core::host::{SnapshotFault, SnapshotStore, SnapshotWriter};
use raft_core::{LogId, LogIndex, Membership, NodeId, SnapshotId, SnapshotMeta, Term, TermRun};
use raft_driver_tokio::storage::{Identity, OpenError, SnapshotFileError, SnapshotFiles};
use raft_driver_tokio::{ClusterId, GroupId};
use tempfile::TempDir;

const IDENTITY: Identity = Identity { cluster: ClusterId::new(77), node: NodeId::new(3) };

fn id(term: u64, index: u64) -> LogId {
    LogId::new(Term::new(term), LogIndex::new(index))
}

fn name(last: LogId) -> SnapshotId {
    SnapshotId { last, taken_by: NodeId::new(3), seq: last.index.get() }
}

/// Bytes that tell where they are.
fn content(length: usize) -> Vec<u8> {
    (0_u32..).flat_map(u32::to_le_bytes).take(length).collect()
}

/// Writes a snapshot and finishes it, or not.
fn write(store: &SnapshotFiles, last: LogId, bytes: &[u8]) -> SnapshotMeta {
    let mut writer = store.begin(name(last)).unwrap();
    for piece in bytes.chunks(10_000) {
        writer.write(piece).unwrap();
    }
    let written = writer.written();
    let node = NodeId::new(3);
    let meta = SnapshotMeta {
        id: name(last),
        membership: Arc::new(Membership::of_voters([(node, Bytes::from_static(b"here"))].into())),
        membership_index: LogIndex::FIRST,
        size_bytes: written.size_bytes,
        digest: written.digest,
        terms: Arc::new([TermRun { term: last.term, first: LogIndex::FIRST }]),
    };
    writer.finish(&meta).unwrap();
    meta
}

struct Dir(TempDir);

impl Dir {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn open(&self) -> SnapshotFiles {
        SnapshotFiles::open(self.path(), IDENTITY).unwrap()
    }

    /// What a start over this directory finds.
    fn recover(&self, base: LogId) -> Result<Option<Arc<SnapshotMeta>>, SnapshotFileError> {
        self.open().recover(base)
    }

    fn files(&self) -> Vec<PathBuf> {
        let paths = fs::read_dir(self.path()).unwrap().map(|entry| entry.unwrap().path());
        let mut paths: Vec<PathBuf> = paths.filter(|path| path.extension().is_some()).collect();
        paths.sort_unstable();
        paths
    }
}

#[test]
fn what_was_written_is_read_back_from_anywhere() {
    for length in [0, 1, 65_535, 65_536, 65_537, 400_000] {
        let dir = Dir::new();
        let bytes = content(length);
        let meta = write(&dir.open(), id(2, 9), &bytes);
        let store = dir.open();
        assert!(matches!(store.read(meta.id, 0, 10), Err(SnapshotFault::Missing)), "asked before the start");
        assert_eq!(store.recover(id(2, 9)).unwrap().as_deref(), Some(&meta));
        for (offset, bytes_max) in
            [(0, u64::MAX), (0, 1), (1, 65_536), (65_535, 2), (65_536, 65_536), (131_071, 70_000)]
        {
            let from = length.min(offset);
            let end = length.min(from.saturating_add(usize::try_from(bytes_max).unwrap_or(usize::MAX)));
            let found = store.read(meta.id, offset as u64, bytes_max).unwrap();
            assert_eq!(found, bytes[from..end], "{length} bytes, {bytes_max} from {offset} on");
        }
    }
}

#[test]
fn a_small_snapshot_may_be_written_however_little_is_free() {
    let dir = Dir::new();
    let store = SnapshotFiles::open_leaving(dir.path(), IDENTITY, u64::MAX).unwrap();
    let meta = write(&store, id(1, 5), &content(100));
    assert_eq!(store.read(meta.id, 0, 100).unwrap(), content(100));
}

#[test]
fn the_newest_is_found_and_everything_else_is_removed() {
    let dir = Dir::new();
    let store = dir.open();
    write(&store, id(1, 5), &content(100));
    // A later term is newer, whatever the index says when read as text.
    let newest = write(&store, id(3, 0x1_0000_0000), &content(200));
    write(&store, id(2, 70), &content(300));
    // One that was being written when the process was killed.
    let mut partial = store.begin(name(id(4, 0x2_0000_0000))).unwrap();
    partial.write(&content(100_000)).unwrap();
    let part = dir.files().into_iter().find(|path| path.extension().is_some_and(|it| it == "part")).unwrap();
    let left = fs::read(&part).unwrap();
    drop((partial, store));
    fs::write(part, left).unwrap();
    fs::write(dir.path().join("notes.txt"), "an operator's").unwrap();
    assert_eq!(dir.files().len(), 5);
    assert_eq!(dir.recover(LogId::ZERO).unwrap().as_deref(), Some(&newest));
    let left = dir.files();
    assert_eq!(left.len(), 2, "{left:?}");
    assert!(left.contains(&dir.path().join("notes.txt")), "what is not its own is left alone");
}

#[test]
fn one_that_is_given_up_or_forgotten_is_gone() {
    let dir = Dir::new();
    let store = dir.open();
    let mut writer = store.begin(name(id(1, 5))).unwrap();
    writer.write(&content(100_000)).unwrap();
    assert_eq!(dir.files().len(), 1);
    drop(writer);
    assert_eq!(dir.files().len(), 0);
    let meta = write(&store, id(1, 5), &content(100_000));
    store.forget(meta.id).unwrap();
    store.forget(meta.id).unwrap();
    assert_eq!(dir.files().len(), 0);
    assert!(matches!(store.read(meta.id, 0, 10), Err(SnapshotFault::Missing)));
    // Begun anew under the same name, it is the second one that counts.
    let mut writer = store.begin(meta.id).unwrap();
    writer.write(b"first").unwrap();
    drop(writer);
    let again = write(&store, id(1, 5), b"second");
    assert_eq!(store.read(again.id, 0, 10).unwrap(), "second");
}

/// Every byte of a file, one after the other, and every length.
#[test]
fn every_altered_byte_and_every_cut_is_noticed() {
    let dir = Dir::new();
    let meta = write(&dir.open(), id(2, 9), &content(300));
    let path = dir.files().remove(0);
    let whole = fs::read(&path).unwrap();
    let refused = |what: &str, expect_foreign: bool| {
        let found = dir.recover(meta.id.last);
        match found {
            Err(SnapshotFileError::Needed { path: told, .. }) => assert_eq!(told, path),
            // Cluster, node and versions are told apart from damage only by their own checksum.
            Err(SnapshotFileError::Open(_)) if expect_foreign => {}
            other => panic!("{what}: {other:?}"),
        }
        assert!(path.exists(), "kept as it is");
    };
    for at in 0..whole.len() {
        let mut altered = whole.clone();
        altered[at] ^= 0x10;
        fs::write(&path, &altered).unwrap();
        refused(&format!("byte {at}"), at < 40);
    }
    for length in 0..whole.len() {
        fs::write(&path, &whole[..length]).unwrap();
        refused(&format!("cut to {length}"), false);
    }
    fs::write(&path, [&whole[..], b"x"].concat()).unwrap();
    refused("a byte too many", false);
    fs::write(&path, &whole).unwrap();
    assert_eq!(dir.recover(meta.id.last).unwrap().as_deref(), Some(&meta));
}

#[test]
fn a_damaged_one_is_passed_over_only_where_nothing_is_lost() {
    let damage = |path: &Path| {
        let mut bytes = fs::read(path).unwrap();
        bytes[60] ^= 1;
        fs::write(path, bytes).unwrap();
    };
    // The log is whole: whatever was in the snapshot is in the log too.
    let dir = Dir::new();
    let meta = write(&dir.open(), id(2, 9), &content(300));
    damage(&dir.files()[0]);
    let error = dir.recover(id(2, 8)).unwrap_err();
    assert!(matches!(&error, SnapshotFileError::Needed { .. }), "{error}");
    assert!(error.to_string().contains("new id in an empty directory"), "{error}");
    assert_eq!(dir.recover(LogId::ZERO).unwrap(), None);
    assert_eq!(dir.files().len(), 0);

    // An older one reaches as far as the log's beginning.
    let store = dir.open();
    let older = write(&store, id(2, 7), &content(200));
    write(&store, id(2, 9), &content(300));
    drop(store);
    damage(&dir.files()[1]);
    assert!(dir.recover(id(2, 8)).is_err());
    assert_eq!(dir.recover(id(2, 7)).unwrap().as_deref(), Some(&older));
    assert_eq!(dir.files().len(), 1);

    // Damaged while it is in use: whoever asks is told, and another one can take its place.
    let store = dir.open();
    store.recover(id(2, 7)).unwrap();
    damage(&dir.files()[0]);
    let fault = store.read(older.id, 0, 10).unwrap_err();
    assert!(matches!(fault, SnapshotFault::Damaged(SnapshotFileError::Damaged { .. })), "{fault}");
    fs::remove_file(&dir.files()[0]).unwrap();
    assert!(matches!(store.read(meta.id, 0, 10), Err(SnapshotFault::Missing)));
}

/// A loss of power may take back a name that was never made durable, and leave all of the bytes under the other one.
#[test]
fn what_the_log_needs_is_not_removed_because_it_lost_its_name() {
    let dir = Dir::new();
    let store = dir.open();
    write(&store, id(1, 5), &content(100));
    let meta = write(&store, id(2, 9), &content(300));
    drop(store);
    let files = dir.files();
    let part = files[1].with_extension("part");
    fs::rename(&files[1], &part).unwrap();
    let left = dir.files();
    let error = dir.recover(meta.id.last).unwrap_err();
    assert!(
        matches!(&error, SnapshotFileError::Missing { part: Some(told), .. } if *told == part),
        "{error}"
    );
    let advice = format!("rename {} to {}", part.display(), files[1].display());
    assert!(error.to_string().contains(&advice), "{error}");
    assert_eq!(dir.files(), left);
    // As it is told.
    fs::rename(&part, &files[1]).unwrap();
    assert_eq!(dir.recover(meta.id.last).unwrap().as_deref(), Some(&meta));

    let error = dir.recover(id(2, 10)).unwrap_err();
    assert!(matches!(&error, SnapshotFileError::Missing { part: None, .. }), "{error}");
    assert!(error.to_string().contains("put it back, or"), "{error}");
    assert_eq!(dir.files().len(), 1);
}

#[test]
fn a_file_under_another_name_is_not_taken_for_that_one() {
    let dir = Dir::new();
    let store = dir.open();
    let meta = write(&store, id(2, 9), &content(300));
    let path = dir.files().remove(0);
    let other = path.to_str().unwrap().replace("0000000000000009", "000000000000000a");
    drop(store);
    fs::rename(&path, other).unwrap();
    assert!(matches!(dir.recover(meta.id.last), Err(SnapshotFileError::Needed { .. })));
}

#[test]
fn another_nodes_snapshots_are_refused_and_two_openers_too() {
    let dir = Dir::new();
    let store = dir.open();
    write(&store, id(2, 9), &content(300));
    let second = SnapshotFiles::open(dir.path(), IDENTITY);
    assert!(matches!(second, Err(SnapshotFileError::InUse { .. })));
    drop(store);
    for (other, is_cluster) in [
        (Identity { node: NodeId::new(4), ..IDENTITY }, false),
        (Identity { cluster: ClusterId::new(78), ..IDENTITY }, true),
    ] {
        let error = SnapshotFiles::open(dir.path(), other).unwrap().recover(LogId::ZERO).unwrap_err();
        let told = matches!(&error, SnapshotFileError::Open(OpenError::ForeignCluster { .. }) if is_cluster)
            || matches!(&error, SnapshotFileError::Open(OpenError::ForeignNode { .. }) if !is_cluster);
        assert!(told, "{error}");
    }
    assert_eq!(dir.files().len(), 1);
}

/// A process that is killed at any point leaves some prefix of what it wrote under the name of an incomplete snapshot,
/// or the complete one under either name.
#[test]
fn a_kill_at_any_point_leaves_the_older_one_or_the_whole_newer_one() {
    let dir = Dir::new();
    let older = write(&dir.open(), id(1, 5), &content(100));
    let kept = fs::read(&dir.files()[0]).unwrap();
    let older_path = dir.files().remove(0);
    let newer = write(&dir.open(), id(2, 9), &content(1000));
    let newer_path = dir.files().into_iter().find(|path| *path != older_path).unwrap();
    let whole = fs::read(&newer_path).unwrap();
    for length in (0..=whole.len()).step_by(7).chain([whole.len()]) {
        for path in dir.files() {
            fs::remove_file(path).unwrap();
        }
        fs::write(&older_path, &kept).unwrap();
        fs::write(newer_path.with_extension("part"), &whole[..length]).unwrap();
        assert_eq!(dir.recover(older.id.last).unwrap().as_deref(), Some(&older), "cut to {length}");
        assert_eq!(dir.files(), std::slice::from_ref(&older_path));
    }
    fs::write(&newer_path, &whole).unwrap();
    assert_eq!(dir.recover(older.id.last).unwrap().as_deref(), Some(&newer));
    assert_eq!(dir.files(), [newer_path]);
}

#[test]
fn groups_share_a_directory_and_see_only_their_own() {
    let dir = Dir::new();
    let store = dir.open();
    let [one, two] = [1, 2].map(|group| store.group(GroupId::new(group)));
    assert_eq!(one.recover(LogId::ZERO).unwrap(), None);
    let files = || fs::read_dir(dir.path()).unwrap().count();
    assert_eq!(files(), 1, "a group without snapshots costs nothing on the disk");
    let alone = write(&store, id(2, 90), &content(10));
    let first = write(&one, id(3, 100), &content(100_000));
    let second = write(&two, id(4, 100), &content(70));
    drop((store, one, two));

    let store = dir.open();
    let [one, two] = [1, 2].map(|group| store.group(GroupId::new(group)));
    assert_eq!(store.recover(LogId::ZERO).unwrap().as_deref(), Some(&alone));
    assert_eq!(one.recover(LogId::ZERO).unwrap().as_deref(), Some(&first));
    assert_eq!(two.recover(LogId::ZERO).unwrap().as_deref(), Some(&second));
    assert_eq!(one.read(first.id, 50_000, 10).unwrap(), content(100_000)[50_000..50_010]);
    one.clear().unwrap();
    assert_eq!(one.recover(LogId::ZERO).unwrap(), None);
    assert_eq!(two.recover(LogId::ZERO).unwrap().as_deref(), Some(&second));

    // Another group's file.
    let of = |group: u64| dir.path().join(format!("group-{group:016x}"));
    let file = fs::read_dir(of(2)).unwrap().next().unwrap().unwrap();
    fs::copy(file.path(), of(1).join(file.file_name())).unwrap();
    let error = one.recover(LogId::ZERO).unwrap_err();
    let (found, expected) = (GroupId::new(2), GroupId::new(1));
    assert!(
        matches!(error, SnapshotFileError::Open(OpenError::ForeignGroup { found: f, expected: e, .. })
            if (f, e) == (found, expected)),
        "{error}"
    );
    // All of them are under one lock.
    drop((store, two));
    assert!(matches!(SnapshotFiles::open(dir.path(), IDENTITY), Err(SnapshotFileError::InUse { .. })));
}
