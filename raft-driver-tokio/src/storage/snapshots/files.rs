//! Snapshots as files in a directory of their own.
//!
//! | file | content |
//! |---|---|
//! | `LLLL-TTTT-NNNN-SSSS.snapshot` | a complete snapshot; index, term, server and number in hexadecimal |
//! | the same with `.part` | one that is being written; removed at the next start |
//! | `group-GGGG` | the same for one of several groups, in hexadecimal; made when its first snapshot begins |
//! | `lock` | locked while the store is open |
//!
//! * A snapshot is written aside, synced, renamed, and its name synced: under its final name it is complete, whatever
//!   crash comes. What is there and not whole was damaged later.
//! * A start makes the names that it finds durable before anything depends on them: whoever wrote them may have been
//!   killed before it could. And it removes nothing as long as what the log needs is not found.
//! * A directory whose names could not be synced is not synced again: the store takes no snapshot any more, as one that
//!   nobody can vouch for. The node goes on without, and a start finds out what is there.
//! * No snapshot takes the last room of the disk, which the log may need.
//! * Everything that is read is compared with a checksum first; a start reads the newest snapshot as a whole.
//! * A damaged snapshot is passed over only if it is not needed, see
//!   [`recover`](raft_core::host::SnapshotStore::recover); it is then removed, with a warning.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::Bytes;
use raft_core::host::{SnapshotFault, SnapshotStore, SnapshotWriter, Written};
use raft_core::{LogId, LogIndex, NodeId, SnapshotId, SnapshotMeta, Term};

use super::error::SnapshotFileError;
use super::file::{self, BlockWriter, HEAD_BYTES, Unread};
use super::room::{LOOK_BYTES, Room};
use crate::GroupId;
use crate::storage::durable::{
    IDENTITY_BYTES, Identity, OpenError, SYNC_DIRECTORY, create_directory, sync_ancestors, sync_directory,
};

pub(super) const MAGIC: [u8; 8] = *b"raft-snp";
pub(super) const COMPLETE: &str = "snapshot";
const PARTIAL: &str = "part";
const LOCK_FILE: &str = "lock";

/// Snapshots as files. See the [module's head](crate::storage::snapshots) for what it promises.
///
/// ```
/// use raft_core::{LogId, NodeId, host::SnapshotStore};
/// use raft_driver_tokio::ClusterId;
/// use raft_driver_tokio::storage::{Identity, SnapshotFiles};
///
/// # let parent = tempfile::tempdir()?;
/// # let dir = parent.path().join("node-1");
/// let identity = Identity { cluster: ClusterId::new(0x5eed), node: NodeId::new(1) };
/// let snapshots = SnapshotFiles::open(dir.join("snapshots"), identity)?;
/// assert_eq!(snapshots.recover(LogId::ZERO)?, None);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// A clone is the same store: keep one beside the node for [`export`](Self::export).
#[derive(Clone, Debug)]
pub struct SnapshotFiles(pub(super) Arc<Shared>);

#[derive(Debug)]
pub(super) struct Shared {
    dir: PathBuf,
    identity: Identity,
    group: GroupId,
    /// Where the name of a group's directory stands, which is made when its first snapshot begins.
    above: Option<PathBuf>,
    /// Complete ones.
    complete: Mutex<BTreeMap<SnapshotId, Arc<SnapshotMeta>>>,
    held: Arc<Held>,
}

/// What all groups share.
#[derive(Debug)]
struct Held {
    _lock: File,
    room: Room,
    /// The directory whose names could not be made durable, if there is one.
    failed: OnceLock<PathBuf>,
}

impl SnapshotFiles {
    /// Opens the directory; creates it if it was never there. It may lie within that of a
    /// [`DurableLog`](crate::storage::DurableLog): a snapshot is given up, with [`SnapshotFileError::NoRoom`], once less than
    /// a twentieth of the disk is free, or than 128 MiB if that is less, and it has taken more than is left.
    ///
    /// # Errors
    /// If it cannot be used, or another process has it open.
    pub fn open(dir: impl AsRef<Path>, identity: Identity) -> Result<Self, SnapshotFileError> {
        Self::open_with(dir.as_ref(), identity, Room::default())
    }

    /// The same, with so much of the disk left free as is said here: nothing, on a disk of their own.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_leaving(
        dir: impl AsRef<Path>,
        identity: Identity,
        left_bytes: u64,
    ) -> Result<Self, SnapshotFileError> {
        Self::open_with(dir.as_ref(), identity, Room { left_bytes: Some(left_bytes) })
    }

    fn open_with(dir: &Path, identity: Identity, room: Room) -> Result<Self, SnapshotFileError> {
        create_directory(dir)?;
        let path = dir.join(LOCK_FILE);
        let lock = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let lock = lock.map_err(SnapshotFileError::io("open", &path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(SnapshotFileError::InUse { path }),
            Err(TryLockError::Error(error)) => return Err(SnapshotFileError::io("lock", &path)(error)),
        }
        let (group, complete) = (GroupId::default(), Mutex::default());
        let held = Arc::new(Held { _lock: lock, room, failed: OnceLock::new() });
        let shared = Shared { dir: dir.to_owned(), identity, group, above: None, complete, held };
        if shared.names()?.is_empty() {
            // Whoever created the directory may have been killed before its name was durable.
            sync_ancestors(dir)?;
        }
        Ok(Self(Arc::new(shared)))
    }

    /// The snapshots of one of several groups, in the same directory and under the same lock; nothing is opened or made
    /// for a group without snapshots. One node at a time may run over them, which the group's
    /// [log](crate::storage::DurableStore::log) takes care of.
    #[must_use]
    pub fn group(&self, group: GroupId) -> Self {
        let Shared { dir: above, identity, held, .. } = &*self.0;
        let dir = above.join(format!("group-{:016x}", group.get()));
        let (above, complete, held) = (Some(above.clone()), Mutex::default(), Arc::clone(held));
        Self(Arc::new(Shared { dir, identity: *identity, group, above, complete, held }))
    }

    /// Removes all snapshots that are here: those of a group that was removed.
    ///
    /// # Errors
    /// If one cannot be removed.
    pub fn clear(&self) -> Result<(), SnapshotFileError> {
        let shared = &*self.0;
        shared.check_failed()?;
        shared.complete().clear();
        for path in shared.names()?.keys() {
            remove(path)?;
        }
        // Also if there was nothing: an earlier call may not have come this far.
        if shared.dir.is_dir() { shared.sync(&shared.dir) } else { Ok(()) }
    }
}

impl Shared {
    pub(super) fn complete(&self) -> MutexGuard<'_, BTreeMap<SnapshotId, Arc<SnapshotMeta>>> {
        // Each use is one call on the map.
        self.complete.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check_failed(&self) -> Result<(), SnapshotFileError> {
        match self.held.failed.get() {
            Some(path) => Err(SnapshotFileError::Failed { path: path.clone() }),
            None => Ok(()),
        }
    }

    /// Makes the names in a directory durable. If that fails once, nothing is believed to be durable any more.
    fn sync(&self, dir: &Path) -> Result<(), SnapshotFileError> {
        self.check_failed()?;
        let synced = sync_directory(dir);
        if matches!(synced, Err(OpenError::Io { op: SYNC_DIRECTORY, .. })) {
            self.held.failed.get_or_init(|| dir.to_owned());
        }
        Ok(synced?)
    }

    /// What each of the files begins with.
    pub(super) fn head(&self) -> [u8; HEAD_BYTES] {
        let mut head = [0; HEAD_BYTES];
        head[..IDENTITY_BYTES].copy_from_slice(&self.identity.encode(MAGIC));
        head[IDENTITY_BYTES..HEAD_BYTES - 4].copy_from_slice(&self.group.get().to_le_bytes());
        let sum = crc32fast::hash(&head[..HEAD_BYTES - 4]);
        head[HEAD_BYTES - 4..].copy_from_slice(&sum.to_le_bytes());
        head
    }

    pub(super) fn path(&self, id: SnapshotId, extension: &str) -> PathBuf {
        let SnapshotId { last, taken_by, seq } = id;
        let (index, term, node) = (last.index.get(), last.term.get(), taken_by.get());
        self.dir.join(format!("{index:016x}-{term:016x}-{node:016x}-{seq:016x}.{extension}"))
    }

    /// The files that name a snapshot, and whether it is a complete one.
    fn names(&self) -> Result<BTreeMap<PathBuf, (SnapshotId, bool)>, SnapshotFileError> {
        let failed = || SnapshotFileError::io("read the directory", &self.dir);
        let mut names = BTreeMap::new();
        let entries = match fs::read_dir(&self.dir) {
            // A group that never had one.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(names),
            entries => entries.map_err(failed())?,
        };
        for entry in entries {
            let path = entry.map_err(failed())?.path();
            let named = parse_name(&path).map(|(id, extension)| (id, extension == COMPLETE));
            names.extend(named.map(|named| (path, named)));
        }
        Ok(names)
    }

    /// What is known of the snapshot in this file, if all of it is as it was written.
    fn check(
        &self,
        path: &Path,
        id: SnapshotId,
    ) -> Result<Result<SnapshotMeta, &'static str>, SnapshotFileError> {
        let mut file = File::open(path).map_err(SnapshotFileError::io("open", path))?;
        let head = file::read_head(&mut file).map_err(SnapshotFileError::io("read", path))?;
        if head != self.head() {
            // Another one's, or damaged: never both ours and different.
            return match self.identity.check(MAGIC, &head, path) {
                Err(
                    error @ (OpenError::Version { .. }
                    | OpenError::ForeignCluster { .. }
                    | OpenError::ForeignNode { .. }),
                ) => Err(error.into()),
                Ok(()) => match group_of(&head) {
                    Some(found) => {
                        let (path, expected) = (path.to_owned(), self.group);
                        Err(OpenError::ForeignGroup { path, found, expected }.into())
                    }
                    None => Ok(Err("its beginning is not as it was written")),
                },
                Err(_) => Ok(Err("its beginning is not as it was written")),
            };
        }
        let checked = file::read_meta(&mut file).and_then(|meta| {
            if meta.id != id {
                return Err(Unread::Damaged("its name is another one's"));
            }
            file::verify(&mut file, &meta)?;
            Ok(meta)
        });
        match checked {
            Ok(meta) => Ok(Ok(meta)),
            Err(Unread::Damaged(what)) => Ok(Err(what)),
            Err(Unread::Io(error)) => Err(SnapshotFileError::io("read", path)(error)),
        }
    }
}

/// The group that a file says it is of.
pub(super) fn group_of(head: &[u8]) -> Option<GroupId> {
    let (covered, sum) = head.first_chunk::<HEAD_BYTES>()?.split_last_chunk::<4>()?;
    let group = covered.last_chunk::<8>()?;
    (crc32fast::hash(covered).to_le_bytes() == *sum).then(|| GroupId::new(u64::from_le_bytes(*group)))
}

fn parse_name(path: &Path) -> Option<(SnapshotId, &str)> {
    let extension = path.extension()?.to_str()?;
    let mut parts = path
        .file_stem()?
        .to_str()?
        .split('-')
        .map(|part| (part.len() == 16).then(|| u64::from_str_radix(part, 16).ok()).flatten());
    let mut part = || parts.next().flatten();
    let (index, term, node, seq) = (part()?, part()?, part()?, part()?);
    let last = LogId::new(Term::new(term), LogIndex::new(index));
    let id = SnapshotId { last, taken_by: NodeId::new(node), seq };
    (parts.next().is_none() && [COMPLETE, PARTIAL].contains(&extension)).then_some((id, extension))
}

impl SnapshotStore for SnapshotFiles {
    type Writer = FileWriter;
    type Error = SnapshotFileError;

    fn recover(&self, log_base: LogId) -> Result<Option<Arc<SnapshotMeta>>, SnapshotFileError> {
        let shared = &*self.0;
        let names = shared.names()?;
        if !names.is_empty() {
            // Whoever renamed one may have been killed before the name was durable.
            shared.sync(&shared.dir)?;
        }
        let mut complete: Vec<_> = names.iter().filter(|(_, (_, complete))| *complete).collect();
        complete.sort_unstable_by_key(|(_, (id, _))| std::cmp::Reverse(*id));
        let mut damaged = Vec::new();
        let mut newest = None;
        for (path, (id, _)) in complete {
            match shared.check(path, *id)? {
                Ok(meta) => {
                    newest = Some(Arc::new(meta));
                    break;
                }
                Err(what) => damaged.push((path.clone(), what)),
            }
        }
        let reached = newest.as_ref().map_or(LogIndex::ZERO, |meta| meta.id.last.index);
        if reached < log_base.index {
            if !damaged.is_empty() {
                let (path, what) = damaged.swap_remove(0);
                return Err(SnapshotFileError::Needed { path, what });
            }
            let reaches = |id: &SnapshotId| id.last.index >= log_base.index;
            let part = names.into_iter().find(|(_, (id, complete))| !complete && reaches(id));
            let (dir, part) = (shared.dir.clone(), part.map(|(path, _)| path));
            return Err(SnapshotFileError::Missing { dir, base: log_base, part });
        }
        for (path, what) in &damaged {
            let path = path.display();
            tracing::warn!(%path, what, "a damaged snapshot is removed: the log holds what is in it");
        }
        let kept = newest.as_ref().map(|meta| meta.id);
        for (path, (id, complete)) in &names {
            if !*complete || Some(*id) != kept {
                fs::remove_file(path).map_err(SnapshotFileError::io("remove", path))?;
            }
        }
        let mut map = shared.complete();
        map.clear();
        map.extend(newest.iter().map(|meta| (meta.id, Arc::clone(meta))));
        Ok(newest)
    }

    fn begin(&self, id: SnapshotId) -> Result<FileWriter, SnapshotFileError> {
        let shared = &*self.0;
        shared.check_failed()?;
        // Until one is complete, nobody knows whether whoever made the directory came to sync its name.
        if let Some(above) = shared.above.as_ref().filter(|_| shared.complete().is_empty()) {
            create_directory(&shared.dir)?;
            shared.sync(above)?;
        }
        let path = shared.path(id, PARTIAL);
        let file = OpenOptions::new().write(true).create(true).truncate(true).open(&path);
        let file = file.map_err(SnapshotFileError::io("create", &path))?;
        // From here on dropping it removes the file.
        let mut writer = FileWriter { shared: Arc::clone(&self.0), id, path, blocks: None, unseen_bytes: 0 };
        let blocks = BlockWriter::begin(file, &self.0.head());
        writer.blocks = Some(blocks.map_err(SnapshotFileError::io("write", &writer.path))?);
        Ok(writer)
    }

    fn read(
        &self,
        id: SnapshotId,
        offset: u64,
        bytes_max: u64,
    ) -> Result<Bytes, SnapshotFault<SnapshotFileError>> {
        let size_bytes = self.0.complete().get(&id).map(|meta| meta.size_bytes);
        let size_bytes = size_bytes.ok_or(SnapshotFault::Missing)?;
        let path = self.0.path(id, COMPLETE);
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(SnapshotFault::Missing),
            Err(error) => return Err(SnapshotFault::Failed(SnapshotFileError::io("open", &path)(error))),
        };
        file::read(&mut file, size_bytes, offset, bytes_max).map_err(|unread| match unread {
            Unread::Damaged(what) => SnapshotFault::Damaged(SnapshotFileError::Damaged { path, what }),
            Unread::Io(error) => SnapshotFault::Failed(SnapshotFileError::io("read", &path)(error)),
        })
    }

    fn forget(&self, id: SnapshotId) -> Result<(), SnapshotFileError> {
        self.0.complete().remove(&id);
        for extension in [PARTIAL, COMPLETE] {
            remove(&self.0.path(id, extension))?;
        }
        Ok(())
    }
}

pub(super) fn remove(path: &Path) -> Result<(), SnapshotFileError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(SnapshotFileError::io("remove", path)(error))
        }
        _ => Ok(()),
    }
}

/// A snapshot on its way into [`SnapshotFiles`].
pub struct FileWriter {
    shared: Arc<Shared>,
    id: SnapshotId,
    /// Where it is written, aside.
    path: PathBuf,
    /// `None` at the end.
    blocks: Option<BlockWriter>,
    /// Written since the disk was looked at.
    unseen_bytes: usize,
}

impl std::fmt::Debug for FileWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FileWriter").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Drop for FileWriter {
    fn drop(&mut self) {
        // Closed first, which some systems ask for. If it cannot be removed, the next start will try again.
        drop(self.blocks.take());
        let _ = remove(&self.path);
    }
}

impl FileWriter {
    fn blocks(&mut self) -> Result<&mut BlockWriter, SnapshotFileError> {
        let closed = || SnapshotFileError::io("write", &self.path)(io::ErrorKind::NotConnected.into());
        match &mut self.blocks {
            Some(blocks) => Ok(blocks),
            None => Err(closed()),
        }
    }
}

impl SnapshotWriter for FileWriter {
    type Error = SnapshotFileError;

    fn write(&mut self, data: &[u8]) -> Result<(), SnapshotFileError> {
        // A state may come in one piece.
        for part in data.chunks(LOOK_BYTES) {
            self.unseen_bytes += part.len();
            if self.unseen_bytes >= LOOK_BYTES {
                self.unseen_bytes = 0;
                self.shared.held.room.check(&self.shared.dir, self.written().size_bytes)?;
            }
            let failed = SnapshotFileError::io("write", &self.path);
            self.blocks()?.write(part).map_err(failed)?;
        }
        Ok(())
    }

    fn written(&self) -> Written {
        self.blocks.as_ref().map_or(Written { size_bytes: 0, digest: 0 }, BlockWriter::written)
    }

    fn finish(mut self, meta: &SnapshotMeta) -> Result<(), SnapshotFileError> {
        let failed = SnapshotFileError::io("write", &self.path);
        if let Some(blocks) = self.blocks.take() {
            blocks.finish(meta).map_err(failed)?;
        }
        let complete = self.shared.path(self.id, COMPLETE);
        fs::rename(&self.path, &complete).map_err(SnapshotFileError::io("rename", &self.path))?;
        if let Err(error) = self.shared.sync(&self.shared.dir) {
            // Nobody was told of it.
            let _ = remove(&complete);
            return Err(error);
        }
        self.shared.complete().insert(self.id, Arc::new(meta.clone()));
        Ok(())
    }
}
