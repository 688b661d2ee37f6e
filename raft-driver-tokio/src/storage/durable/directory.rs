//! The directory of a store: who holds it, whether a log must be there, and how a new one comes to be.
//!
//! | file | content |
//! |---|---|
//! | `raft-identity` | whose directory this is, and how far its log was; locked while the store is open |
//! | `raft-log` | the log |
//! | `raft-log.new` | a log that is being created; of no meaning |
//! | `raft-peers` | the ids of the peers' data directories, see [`KnownPeers`](super::KnownPeers) |
//!
//! A store is created in this order, each step durable before the next: the directory; an empty `raft-identity`; the
//! log, complete, as `raft-log.new`; its renaming to `raft-log`; the content of `raft-identity`. So a crash at any
//! point leaves either nothing that was ever used (and it begins anew) or a complete log. Once `raft-identity` has
//! content a log must be there: if it is missing, the node has lost its memory and must not start.
//!
//! The directory's id is made with the log, and stands in both files: the log of another directory is refused.
//!
//! Every run that finds `raft-identity` without content syncs all that leads to the directory, whoever created it: an
//! earlier run may have been killed before it could.
//!
//! # How far the log was
//!
//! Bytes 512.. and 1024.. of `raft-identity` are two slots: sequence and number of the start in 8 bytes each, little
//! endian, and their CRC-32 in 4. Each start writes one, by turns, when the log itself has counted that start and is
//! synced. So a crash at any point leaves the slots behind the log by one start at most, never ahead of it, and a
//! log that is behind them is another one.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::backends::FileBackend;

use super::error::OpenError;
use super::file::{FileLayer, FirstPage, Head, IDENTITY_MAGIC, Identity, OsFile};

const IDENTITY_FILE: &str = "raft-identity";
const LOG_FILE: &str = "raft-log";
const NEW_LOG_FILE: &str = "raft-log.new";

const SLOT_AT: [u64; 2] = [512, 1024];
const SLOT_BYTES: usize = 20;

/// How far a log was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Reached {
    /// Of the last commit.
    pub(super) sequence: u64,
    /// How many times it was opened.
    pub(super) incarnation: u64,
}

impl Reached {
    fn encode(self) -> [u8; SLOT_BYTES] {
        let mut out = [0; SLOT_BYTES];
        out[..8].copy_from_slice(&self.sequence.to_le_bytes());
        out[8..16].copy_from_slice(&self.incarnation.to_le_bytes());
        let sum = crc32fast::hash(&out[..16]);
        out[16..].copy_from_slice(&sum.to_le_bytes());
        out
    }

    fn decode(raw: [u8; SLOT_BYTES]) -> Option<Self> {
        let (sequence, rest) = raw.split_first_chunk::<8>()?;
        let (incarnation, sum) = rest.split_first_chunk::<8>()?;
        (crc32fast::hash(&raw[..16]).to_le_bytes() == *sum).then(|| Self {
            sequence: u64::from_le_bytes(*sequence),
            incarnation: u64::from_le_bytes(*incarnation),
        })
    }
}

/// A locked directory with a log in it.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) marker: Marker,
    pub(super) first_page: FirstPage,
    pub(super) log_path: PathBuf,
}

/// Locks the directory and opens its log; creates both if they were never there. `create_log` writes a complete and
/// empty log into an empty file.
pub(super) fn open(
    dir: &Path,
    identity: Identity,
    create_log: impl FnOnce(Arc<dyn FileLayer>, &Path) -> Result<(), OpenError>,
) -> Result<Opened, OpenError> {
    create_directory(dir)?;
    let mut marker = Marker::lock(dir)?;
    let log_path = dir.join(LOG_FILE);
    let exists = log_path.try_exists().map_err(OpenError::io("look for", &log_path))?;
    if !exists {
        marker.check_unused(&identity, &log_path)?;
        let new_path = dir.join(NEW_LOG_FILE);
        let log = open_file(&new_path, true)?;
        create_log(Arc::clone(&log), &new_path)?;
        log.sync().map_err(OpenError::io("sync", &new_path))?;
        drop(log);
        fs::rename(&new_path, &log_path).map_err(OpenError::io("rename", &new_path))?;
    }
    // The log itself says whose it is, and which directory it was made for.
    let first_page = FirstPage::open(open_file(&log_path, false)?, identity, &log_path)?;
    if !marker.is_complete(first_page.head, &log_path)? {
        // New, or a crash came between the renaming and the mark: the renaming may not have been durable yet.
        sync_ancestors(dir)?;
        sync_directory(dir)?;
        marker.write_at(0, &first_page.head.encode(IDENTITY_MAGIC))?;
    }
    Ok(Opened { marker, first_page, log_path })
}

fn open_file(path: &Path, is_new: bool) -> Result<Arc<dyn FileLayer>, OpenError> {
    let file = OpenOptions::new().read(true).write(true).create(is_new).truncate(is_new).open(path);
    let file = file.map_err(OpenError::io("open", path))?;
    let file = FileBackend::new(file).map_err(|error| OpenError::Io {
        op: "open",
        path: path.to_owned(),
        source: io::Error::other(error.to_string()),
    })?;
    Ok(Arc::new(OsFile(file)))
}

/// Creates the directory and what leads to it, durable only after [`sync_ancestors`].
pub(in crate::storage) fn create_directory(dir: &Path) -> Result<(), OpenError> {
    let above = dir.ancestors().skip(1).find(|path| path.as_os_str().is_empty() || path.is_dir());
    if cfg!(unix) && !dir.is_dir() {
        // What cannot be synced is not created either: the next run could not tell who did.
        let above = above.filter(|path| !path.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(above).map_err(OpenError::io("open the directory", above))?;
    }
    fs::create_dir_all(dir).map_err(OpenError::io("create the directory", dir))
}

/// Makes the names that lead to the directory durable, up to the root.
pub(in crate::storage) fn sync_ancestors(dir: &Path) -> Result<(), OpenError> {
    // Symbolic links: it is the directory's own name that must stay.
    let dir = fs::canonicalize(dir).map_err(OpenError::io("find the directory", dir))?;
    for above in dir.ancestors().skip(1) {
        match sync_directory(above) {
            // Nothing was created there by this library, see `create_directory`; or nothing can be, on a file
            // system that is only read.
            Err(OpenError::Io { source, .. })
                if matches!(
                    source.kind(),
                    io::ErrorKind::PermissionDenied
                        | io::ErrorKind::InvalidInput
                        | io::ErrorKind::Unsupported
                        | io::ErrorKind::ReadOnlyFilesystem
                ) => {}
            other => other?,
        }
    }
    Ok(())
}

/// Makes the names in a directory durable.
pub(in crate::storage) fn sync_directory(dir: &Path) -> Result<(), OpenError> {
    #[cfg(test)]
    tests::SYNCED.with_borrow_mut(|synced| synced.push(dir.to_owned()));
    // Elsewhere directories cannot be opened as files, and names are durable with the file.
    if cfg!(unix) {
        let open = File::open(dir).map_err(OpenError::io("open the directory", dir))?;
        #[cfg(test)]
        tests::failure().map_err(OpenError::io(SYNC_DIRECTORY, dir))?;
        open.sync_all().map_err(OpenError::io(SYNC_DIRECTORY, dir))?;
    }
    Ok(())
}

/// What an error of [`sync_directory`] says when nothing is known of the names any more.
pub(in crate::storage) const SYNC_DIRECTORY: &str = "sync the directory";

/// The file that says whose directory this is, and how far its log was. Held for as long as the store is open: no
/// second opener gets in.
#[derive(Debug)]
pub(super) struct Marker {
    file: File,
    path: PathBuf,
    content: Vec<u8>,
}

impl Marker {
    fn lock(dir: &Path) -> Result<Self, OpenError> {
        let path = dir.join(IDENTITY_FILE);
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = file.map_err(OpenError::io("open", &path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(OpenError::InUse { path }),
            Err(TryLockError::Error(source)) => return Err(OpenError::Io { op: "lock", path, source }),
        }
        let mut content = Vec::new();
        // Bounded: a foreign file may be of any size.
        (&mut file).take(4096).read_to_end(&mut content).map_err(OpenError::io("read", &path))?;
        Ok(Self { file, path, content })
    }

    /// An error if there ever was a log.
    fn check_unused(&self, identity: &Identity, log_path: &Path) -> Result<(), OpenError> {
        if self.content.is_empty() {
            return Ok(());
        }
        if !self.is_part_of(&identity.encode(IDENTITY_MAGIC)) {
            identity.check(IDENTITY_MAGIC, &self.content, &self.path)?;
        }
        Err(OpenError::Missing { path: log_path.to_owned() })
    }

    /// Whether all of it was written. An error if it is not that of the log's node and directory.
    fn is_complete(&self, log: Head, log_path: &Path) -> Result<bool, OpenError> {
        if self.is_part_of(&log.encode(IDENTITY_MAGIC)) {
            return Ok(false);
        }
        let found = Head::decode(log.identity, IDENTITY_MAGIC, &self.content, &self.path)?;
        if found != log {
            return Err(OpenError::ForeignDirectory {
                path: log_path.to_owned(),
                found: log.directory,
                expected: found.directory,
            });
        }
        Ok(true)
    }

    /// Whether this is what a crash leaves that came while `expected` was written: it is cut short, or there are zeros
    /// where bytes should be.
    fn is_part_of(&self, expected: &[u8]) -> bool {
        self.content.len() <= expected.len()
            && self.content != expected
            && self.content.iter().zip(expected).all(|(found, expected)| found == expected || *found == 0)
    }

    /// The slots, and which of them is the newest that is whole.
    fn slots(&self) -> ([[u8; SLOT_BYTES]; 2], Option<(Reached, usize)>) {
        let slots = SLOT_AT.map(|at| {
            let raw = self.content.get(at as usize..).unwrap_or_default();
            let mut slot = [0; SLOT_BYTES];
            let bytes = raw.len().min(SLOT_BYTES);
            slot[..bytes].copy_from_slice(&raw[..bytes]);
            slot
        });
        let whole = slots.iter().enumerate();
        let newest = whole.filter_map(|(slot, raw)| Some((Reached::decode(*raw)?, slot))).max();
        (slots, newest)
    }

    /// How far the log was at the latest start that came to its end. None: it never did.
    pub(super) fn reached(&self) -> Result<Option<Reached>, OpenError> {
        let (slots, newest) = self.slots();
        // A crash tears one of them at most, and what was never written is zeros.
        if newest.is_none() && slots.iter().all(|slot| *slot != [0; SLOT_BYTES]) {
            let what = "both of its slots are".into();
            return Err(OpenError::Damaged { path: self.path.clone(), what });
        }
        Ok(newest.map(|(reached, _)| reached))
    }

    /// To be called once, when the log is durable that far.
    pub(super) fn set_reached(&mut self, reached: Reached) -> Result<(), OpenError> {
        // Never into the newest one that is whole: it holds if this write is torn, however many were before. And
        // never into one that was never written while another one is torn: zeros are no excuse for both.
        let (slots, newest) = self.slots();
        let slot = match newest {
            Some((_, slot)) => 1 - slot,
            None => usize::from(slots[0] == [0; SLOT_BYTES] && slots[1] != [0; SLOT_BYTES]),
        };
        self.write_at(SLOT_AT[slot], &reached.encode())
    }

    fn write_at(&mut self, at: u64, bytes: &[u8]) -> Result<(), OpenError> {
        self.file
            .seek(SeekFrom::Start(at))
            .and_then(|_| self.file.write_all(bytes))
            .and_then(|()| self.file.sync_all())
            .map_err(OpenError::io("write", &self.path))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use raft_core::host::{SnapshotStore, SnapshotWriter, Written};
    use raft_core::{LogId, LogIndex, Membership, NodeId, SnapshotId, SnapshotMeta, Term, TermRun};

    use super::*;
    use crate::storage::{DurableLog, SnapshotFileError, SnapshotFiles};
    use crate::{ClusterId, DirectoryId, GroupId};

    thread_local! {
        /// The directories that this thread has synced.
        pub(super) static SYNCED: RefCell<Vec<PathBuf>> = const { RefCell::new(Vec::new()) };
        /// Whether its next sync of a directory fails.
        static FAILS: Cell<bool> = const { Cell::new(false) };
    }

    /// What comes instead of a sync.
    pub(super) fn failure() -> io::Result<()> {
        if FAILS.take() { Err(io::Error::other("as the test wants it")) } else { Ok(()) }
    }

    #[test]
    fn the_directory_is_durable_in_its_parent_whoever_created_it() {
        let identity = Identity { cluster: ClusterId::new(1), node: NodeId::new(1) };
        let parent = tempfile::tempdir().unwrap();
        let above = fs::canonicalize(parent.path()).unwrap();
        let dir = above.join("a/b");
        // What a run leaves that was killed before it synced anything.
        fs::create_dir_all(&dir).unwrap();
        drop(DurableLog::open(&dir, identity).unwrap());
        let synced = SYNCED.take();
        for path in [&above, &above.join("a"), &dir] {
            assert!(synced.contains(path), "{}", path.display());
        }
        // Also if it was killed between the renaming and the mark.
        fs::write(dir.join(IDENTITY_FILE), b"").unwrap();
        drop(DurableLog::open(&dir, identity).unwrap());
        assert!(SYNCED.take().contains(&above.join("a")));
        // Once that is over, starts do not pay for it.
        drop(DurableLog::open(&dir, identity).unwrap());
        assert_eq!(SYNCED.take(), Vec::<PathBuf>::new());
    }

    #[test]
    fn every_renaming_is_made_durable_in_its_directory() {
        let identity = Identity { cluster: ClusterId::new(1), node: NodeId::new(1) };
        let dir = tempfile::tempdir().unwrap();
        let log = DurableLog::open(dir.path(), identity).unwrap();
        assert!(SYNCED.take().contains(&dir.path().to_owned()));
        // What is remembered of peers; the first of them on another thread.
        let peer = NodeId::new(2);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(log.peers().admit(peer, Some(DirectoryId::new(7)))).unwrap();
        log.peers().forget(peer).unwrap();
        assert_eq!(SYNCED.take(), [dir.path().to_owned()]);
        // A snapshot; and the directory of a group, which is made for its first one.
        let snapshots = SnapshotFiles::open(dir.path().join("s"), identity).unwrap();
        let group = snapshots.group(GroupId::new(5));
        SYNCED.take();
        let last = LogId::new(Term::new(1), LogIndex::FIRST);
        let id = SnapshotId { last, taken_by: peer, seq: 1 };
        // Given up: whoever comes next cannot know whether the directory's name was synced.
        drop(snapshots.group(GroupId::new(5)).begin(id).unwrap());
        SYNCED.take();
        finish(&group, id).unwrap();
        let above = dir.path().join("s");
        assert_eq!(SYNCED.take(), [above.clone(), above.join(format!("group-{:016x}", 5))]);
        let later = SnapshotId { last: LogId { index: last.index.next(), ..last }, ..id };
        finish(&group, later).unwrap();
        assert_eq!(SYNCED.take(), [above.join(format!("group-{:016x}", 5))], "its name is durable by now");
    }

    /// A kill between renaming and sync: the name is there, and a loss of power would take it back.
    #[test]
    fn a_renaming_that_a_killed_process_left_is_made_durable_before_it_counts() {
        let identity = Identity { cluster: ClusterId::new(1), node: NodeId::new(1) };
        let dir = tempfile::tempdir().unwrap();
        let open = || SnapshotFiles::open(dir.path(), identity).unwrap();
        let older =
            SnapshotId { last: LogId::new(Term::new(1), LogIndex::FIRST), taken_by: NodeId::new(1), seq: 1 };
        let newer = SnapshotId { seq: 2, ..older };
        finish(&open(), older).unwrap();
        finish(&open(), newer).unwrap();
        let files = || fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(files(), 3, "two snapshots, and the lock");
        // If it cannot be, nothing is removed: the older one may be all that is left.
        FAILS.set(true);
        assert!(matches!(open().recover(LogId::ZERO), Err(SnapshotFileError::Open(OpenError::Io { .. }))));
        assert_eq!(files(), 3);
        SYNCED.take();
        assert_eq!(open().recover(LogId::ZERO).unwrap().unwrap().id, newer);
        assert_eq!(SYNCED.take(), [dir.path().to_owned()]);
        assert_eq!(files(), 2);
    }

    /// The same of the peers' table, by which peers are admitted.
    #[tokio::test]
    async fn a_table_of_peers_that_a_killed_process_left_is_made_durable_before_it_counts() {
        let identity = Identity { cluster: ClusterId::new(1), node: NodeId::new(1) };
        let dir = tempfile::tempdir().unwrap();
        let log = DurableLog::open(dir.path(), identity).unwrap();
        log.peers().admit(NodeId::new(2), Some(DirectoryId::new(7))).await.unwrap();
        drop(log);
        FAILS.set(true);
        assert!(matches!(
            DurableLog::open(dir.path(), identity),
            Err(OpenError::Io { op: SYNC_DIRECTORY, .. })
        ));
        SYNCED.take();
        let log = DurableLog::open(dir.path(), identity).unwrap();
        assert_eq!(log.peers().get(NodeId::new(2)), Some(DirectoryId::new(7)));
        assert_eq!(SYNCED.take(), [dir.path().to_owned()]);
    }

    /// An empty snapshot.
    fn finish(snapshots: &SnapshotFiles, id: SnapshotId) -> Result<(), SnapshotFileError> {
        let writer = snapshots.begin(id)?;
        let Written { size_bytes, digest } = writer.written();
        let membership = Arc::new(Membership::of_voters([(id.taken_by, "there".into())].into()));
        let terms = Arc::new([TermRun { term: id.last.term, first: LogIndex::FIRST }]);
        let membership_index = LogIndex::FIRST;
        writer.finish(&SnapshotMeta { id, membership, membership_index, size_bytes, digest, terms })
    }

    /// The second one could succeed although what the first one covered is lost.
    #[test]
    fn a_sync_that_failed_is_not_tried_again() {
        let identity = Identity { cluster: ClusterId::new(1), node: NodeId::new(1) };
        let dir = tempfile::tempdir().unwrap();
        let last = LogId::new(Term::new(1), LogIndex::FIRST);
        let id = SnapshotId { last, taken_by: NodeId::new(1), seq: 1 };
        let open = || SnapshotFiles::open(dir.path(), identity).unwrap();
        for group in [0, 5] {
            let snapshots = open();
            let group = snapshots.group(GroupId::new(group));
            FAILS.set(true);
            assert!(matches!(finish(&group, id), Err(SnapshotFileError::Open(OpenError::Io { .. }))));
            for failed in [&group, &snapshots, &snapshots.group(GroupId::new(9))] {
                assert!(matches!(finish(failed, id), Err(SnapshotFileError::Failed { .. })));
                assert!(matches!(failed.clear(), Err(SnapshotFileError::Failed { .. })));
            }
            assert_eq!(group.newest(), None);
        }
        // When the cause is gone and the node starts anew.
        finish(&open(), id).unwrap();
        // Also one that fails at the end.
        let snapshots = open();
        let meta = snapshots.recover(LogId::ZERO).unwrap().unwrap();
        let later = SnapshotId { seq: 2, ..id };
        let writer = snapshots.begin(later).unwrap();
        FAILS.set(true);
        assert!(writer.finish(&SnapshotMeta { id: later, ..(*meta).clone() }).is_err());
        assert!(matches!(finish(&snapshots, later), Err(SnapshotFileError::Failed { .. })));
        drop(snapshots);
        assert_eq!(open().recover(LogId::ZERO).unwrap().unwrap().id, id);
    }

    #[test]
    fn a_torn_slot_is_none() {
        let before = Reached { sequence: 258, incarnation: 3 };
        let after = Reached { sequence: 770, incarnation: 5 };
        assert_eq!(Reached::decode(before.encode()), Some(before));
        assert_eq!(Reached::decode([0; SLOT_BYTES]), None);
        for cut in 1..SLOT_BYTES {
            let mut torn = before.encode();
            torn[..cut].copy_from_slice(&after.encode()[..cut]);
            let found = Reached::decode(torn);
            assert!(found.is_none() || found == Some(before) || found == Some(after), "{cut}: {found:?}");
        }
    }
}
