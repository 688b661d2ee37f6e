//! A log on a disk that survives `kill -9` and a loss of power, in one file of the embedded store [redb].
//!
//! * What [`write`](LogStore::write) returned for is read back, byte for byte, by every later start, or the start
//!   fails with an error that says why. Nothing is cut silently.
//! * A batch is one transaction and one fsync: hard state, truncation and entries become durable together.
//! * Compaction drops whole blocks, a bounded number at once, so that it stops no write for long.
//! * What is read is compared with its checksum first, at start and in every read.
//! * After the first failure nothing is tried again: every later call of store and readers fails.
//! * One process at a time: a second opener is refused.
//!
//! # Why redb
//!
//! Batches of 256-byte entries, each made durable, as a fraction of a preallocated plain file with `fdatasync`
//! (6,904, 4,521 and 2,038 a second there; ext4, two cores; medians of 7 rounds). A batch is stored as records of
//! many entries, which fill redb's pages:
//!
//! | store | 1 entry | 64 | 1,024 | three at once: 1 | 64 | 1,024 | crates |
//! |---|--:|--:|--:|--:|--:|--:|--:|
//! | raft-engine 0.4.2, record per batch | 1.03 | 0.82 | 1.03 | 1.09 | 1.06 | 1.11 | 68 to 86 |
//! | fjall 3.1.13, record per batch | 1.04 | 0.83 | 0.54 | 1.17 | 1.22 | 0.84 | 40 |
//! | redb 4.5.0, entry per record | 0.49 | 0.44 | 0.23 | 0.45 | 0.63 | 0.29 | 2 |
//! | redb 4.5.0, record per batch | 0.49 | 0.46 | 0.50 | 0.45 | 0.76 | 0.49 | 2 |
//! | redb 4.5.0, records that fill pages (60 and 1,000 entries) | | 0.88 | 0.96 | | 0.87 | 0.86 | 2 |
//!
//! `cargo bench --bench durable` repeats this for the log as it is, against a plain file.
//!
//! redb is the slowest for a single small entry (it writes 7 pages where an appended file writes one), and was
//! chosen for what it does when things go wrong:
//!
//! * raft-engine in its default mode cut intact records behind a damaged one, silently; in its strict mode it
//!   refused to start after any kill. An fsync error panics. Its last release is of April 2024.
//! * fjall cut silently at damage in the middle of its journal (fjall-rs/fjall#311), and its files cannot be
//!   replaced by ones that inject faults.
//! * redb checks every page against a tree of checksums at start, refused all damage that was tried except a torn
//!   last commit, returns errors and stays failed, and does all of its IO through one trait, so that the tests
//!   here run over a disk that drops and tears what was not synced. It is well kept: a release a month.
//!
//! # What is checked when
//!
//! A start reads the whole file: redb verifies its checksums from the root to every page (0.2 to 0.4 s for 500 MB),
//! and [`recover`](LogStore::recover) compares each block's own CRC-32. The first finds everything that is not as
//! redb wrote it; the second costs no further IO, since redb reads a value's page to show its header, and vouches
//! for the way into and out of redb. Entries are decoded only where a header does not say everything: memberships,
//! and blocks of several terms.
//!
//! # Limits
//!
//! * Directories that were deleted as a whole look like those of a new node. Never start a node that had one again
//!   under the same id.
//! * An older copy of the log alone is refused if it was made before the latest start, see
//!   [`OpenError::RolledBack`]. One made after that start is not noticed, nor are older copies of both files, nor of
//!   the whole disk, nor an older log whose `raft-identity` was removed: never start a node from a backup or an
//!   older image of its disk.
//! * If power is lost *and* the pages of the very last commit rot, the start comes back one commit short: nothing
//!   on the disk tells this from a commit that the loss of power interrupted. Without a loss of power, or one commit
//!   earlier, it is noticed: see [`OpenError::RolledBack`].
//! * After a failed fsync the operating system may show data that is not on the disk. Do not go on using a disk that
//!   failed.
//! * The file does not shrink; the space of what was compacted or truncated is reused.
//! * A panic inside redb (it asserts on some damage in debug builds) is caught and counts as damage; not so with
//!   `panic = "abort"`.
//!
//! [redb]: https://docs.rs/redb

mod directory;
mod error;
mod file;
mod layout;
mod peers;
mod write;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, OnceLock};

use raft_core::host::{LogReader, LogStore};
use raft_core::{Entries, HardState, LogId, LogIndex, LogRecovery, LogScan, Write};
use redb::{AccessGuard, Database, ReadableDatabase, StorageError};

use crate::DirectoryId;

use directory::{Marker, Reached};
pub(super) use directory::{create_directory, sync_ancestors, sync_directory};
pub use error::{DurableError, OpenError};
pub(super) use file::IDENTITY_BYTES;
pub use file::{FileLayer, Identity};
use file::{FirstPage, Head};
use layout::{GROUP, LOG, Meta, Stamp};
pub use peers::{KNOWN_PEERS_MAX, KnownPeers, PeerRefused};
use write::{Ends, Plan, Put};

/// redb keeps pages in memory up to this: enough for the newest blocks and the tree above all of them. What is
/// older is in the operating system's cache or on the disk.
const CACHE_BYTES: usize = 32 << 20;

/// A log in a directory of its own. See the [module's head](crate::storage::durable) for what it promises and what it costs.
///
/// ```
/// use raft_core::{NodeId, host::LogStore};
/// use raft_driver_tokio::ClusterId;
/// use raft_driver_tokio::storage::{DurableLog, Identity};
///
/// # let parent = tempfile::tempdir()?;
/// # let dir = parent.path().join("node-1");
/// let identity = Identity { cluster: ClusterId::new(0x5eed), node: NodeId::new(1) };
/// let mut log = DurableLog::open(&dir, identity)?;
/// assert_eq!(log.incarnation(), 1);
/// assert_eq!(log.recover()?.last.index.get(), 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct DurableLog {
    shared: Arc<Shared>,
    first_page: FirstPage,
    incarnation: u64,
    /// Of the last commit.
    stamp: Stamp,
    ends: Ends,
    /// Blocks through here are still to be dropped.
    goal: Option<LogIndex>,
    /// Reused for every record.
    buffer: Vec<u8>,
}

/// Reads a [`DurableLog`], beside its writes.
#[derive(Clone, Debug)]
pub struct DurableReader(Arc<Shared>);

/// Fields are dropped in order: the directory is unlocked when redb has closed its file.
struct Shared {
    database: Database,
    failed: OnceLock<Arc<str>>,
    /// Holds the lock on the directory.
    peers: KnownPeers,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("failed", &self.failed).finish_non_exhaustive()
    }
}

impl Shared {
    /// Runs `call` unless an earlier one failed; if this one fails, it was the last.
    fn call<T>(&self, call: impl FnOnce(&Database) -> Result<T, DurableError>) -> Result<T, DurableError> {
        if let Some(why) = self.failed.get() {
            return Err(DurableError::Failed(Arc::clone(why)));
        }
        let result = caught(|| call(&self.database));
        if let Err(error) = &result {
            // If a reader failed at the same moment, its reason is as good.
            let _ = self.failed.set(error.to_string().into());
        }
        result
    }
}

/// redb asserts on some damage instead of returning it. What it was working on is not used after that.
fn caught<T>(call: impl FnOnce() -> Result<T, DurableError>) -> Result<T, DurableError> {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|payload| {
        let what = payload.downcast_ref::<&str>().copied();
        let what = what.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
        Err(DurableError::Damaged(what.unwrap_or("redb panicked").to_owned()))
    })
}

fn builder() -> redb::Builder {
    let mut builder = redb::Builder::new();
    builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true);
    builder
}

// ---------------------------------------------------------------------------------------------------------
// Opening
// ---------------------------------------------------------------------------------------------------------

impl DurableLog {
    /// Opens the log in `dir`; creates both if they were never there.
    ///
    /// # Errors
    /// Whatever is there and cannot be used as it is: see [`OpenError`].
    pub fn open(dir: impl AsRef<Path>, identity: Identity) -> Result<Self, OpenError> {
        let dir = dir.as_ref();
        let opened = directory::open(dir, identity, |file, path| create(file, identity, path))?;
        open(opened.first_page, &opened.log_path, Some((opened.marker, dir)))
    }

    /// Creates an empty log in an empty file of another kind than the operating system's. If this fails, or a crash
    /// interrupts it, the file must be thrown away.
    ///
    /// # Errors
    /// If the file is not empty, or fails.
    pub fn create_on(file: Arc<dyn FileLayer>, identity: Identity) -> Result<(), OpenError> {
        create(file, identity, Path::new(CUSTOM))
    }

    /// Opens a log that [`create_on`](Self::create_on) has created. The caller keeps others away from the file.
    ///
    /// # Errors
    /// Whatever is there and cannot be used as it is: see [`OpenError`].
    pub fn open_on(file: Arc<dyn FileLayer>, identity: Identity) -> Result<Self, OpenError> {
        let path = Path::new(CUSTOM);
        open(FirstPage::open(file, identity, path)?, path, None)
    }

    /// How many times this log was opened, this time included: what
    /// [`Recovery`](raft_core::Recovery) needs if you drive the core yourself; the builder does not ask for it.
    #[must_use]
    pub fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// The id of the data directory: made when it was initialised, the same ever since.
    #[must_use]
    pub fn directory(&self) -> DirectoryId {
        self.shared.peers.directory()
    }

    /// What is remembered of the peers' data directories, beside the log.
    #[must_use]
    pub fn peers(&self) -> KnownPeers {
        self.shared.peers.clone()
    }
}

const CUSTOM: &str = "(custom file)";

fn create(file: Arc<dyn FileLayer>, identity: Identity, path: &Path) -> Result<(), OpenError> {
    if file.len_bytes().map_err(OpenError::io("read the length of", path))? != 0 {
        return Err(OpenError::NotALog { path: path.to_owned() });
    }
    let directory = DirectoryId::random().map_err(OpenError::io("name the directory of", path))?;
    let head = Head { identity, directory };
    let first_page = FirstPage::create(file, head).map_err(OpenError::io("write", path))?;
    let fill = || {
        let mut database = builder().create_with_backend(first_page.rest()?)?;
        let stamp = Stamp { sequence: 0, hard_state: HardState::default() };
        put_meta(&mut database, stamp, Meta { incarnation: 0, base: LogId::ZERO })?;
        database.close()?;
        Ok(())
    };
    caught(fill).map_err(OpenError::of(path))
}

fn put_meta(database: &mut Database, stamp: Stamp, meta: Meta) -> Result<(), DurableError> {
    let mut record = Vec::new();
    layout::encode_meta(GROUP, stamp, meta, &mut record);
    let transaction = database.begin_write()?;
    transaction.open_table(LOG)?.insert((GROUP, 0), record.as_slice())?;
    transaction.commit()?;
    Ok(())
}

fn open(
    first_page: FirstPage,
    path: &Path,
    marker: Option<(Marker, &Path)>,
) -> Result<DurableLog, OpenError> {
    let Some(witnessed) = first_page.witness().map_err(OpenError::io("read", path))? else {
        return Err(OpenError::Damaged { path: path.to_owned(), what: "both of its witnesses are".into() });
    };
    let found = caught(|| {
        let database = builder().create_with_backend(first_page.rest()?)?;
        let found = read_ends(&database)?;
        Ok((database, found))
    });
    let (mut database, (mut stamp, Meta { incarnation, base }, last)) = found.map_err(OpenError::of(path))?;
    if stamp.sequence < witnessed {
        return Err(OpenError::RolledBack { path: path.to_owned(), found: stamp.sequence, witnessed });
    }
    if let Some(reached) = marker.as_ref().map(|(marker, _)| marker.reached()).transpose()?.flatten() {
        let witnessed = reached.sequence;
        if stamp.sequence < witnessed {
            return Err(OpenError::RolledBack { path: path.to_owned(), found: stamp.sequence, witnessed });
        }
        // Another copy, which was written to elsewhere.
        if incarnation < reached.incarnation {
            let what = format!("it was opened {incarnation} times, and {} are known", reached.incarnation);
            return Err(OpenError::Damaged { path: path.to_owned(), what });
        }
    }
    // Counting this start makes everything found durable, also what a killed process had left in caches.
    stamp.sequence += 1;
    let incarnation = incarnation + 1;
    let meta = Meta { incarnation, base };
    caught(|| put_meta(&mut database, stamp, meta)).map_err(OpenError::of(path))?;
    first_page.set_witness(stamp.sequence).map_err(OpenError::io("write", path))?;
    let peers = match marker {
        None => KnownPeers::in_memory(first_page.head.directory),
        Some((mut marker, dir)) => {
            // After the log: it must never lag behind what the marker says.
            marker.set_reached(Reached { sequence: stamp.sequence, incarnation })?;
            KnownPeers::open(dir, first_page.head, Arc::new(marker))?
        }
    };
    let shared = Arc::new(Shared { database, failed: OnceLock::new(), peers });
    let ends = Ends { base, last };
    Ok(DurableLog { shared, first_page, incarnation, stamp, ends, goal: None, buffer: Vec::new() })
}

/// What the two ends of the log say: the meta record and the last block. The stamp is that of the last commit.
fn read_ends(database: &Database) -> Result<(Stamp, Meta, LogId), DurableError> {
    let table = database.begin_read()?.open_table(LOG)?;
    let missing = || DurableError::Damaged("its meta record is missing".into());
    let record = table.get((GROUP, 0))?.ok_or_else(missing)?;
    let (mut stamp, meta) = layout::decode_meta(GROUP, record.value())?;
    let mut last = meta.base;
    if let Some(block) = table.range(blocks(LogIndex::FIRST))?.next_back() {
        let (index, value) = key_value(block)?;
        let header = layout::decode_header(GROUP, index, value.value())?;
        last = header.last;
        if header.stamp.sequence > stamp.sequence {
            stamp = header.stamp;
        }
    }
    Ok((stamp, meta, last))
}

/// The keys of the blocks that begin at `first` or later.
fn blocks(first: LogIndex) -> std::ops::RangeInclusive<(u64, u64)> {
    (GROUP, first.get())..=(GROUP, u64::MAX)
}

type Pair<'a> = Result<(AccessGuard<'a, (u64, u64)>, AccessGuard<'a, &'static [u8]>), StorageError>;

fn key_value<'a>(pair: Pair<'a>) -> Result<(LogIndex, AccessGuard<'a, &'static [u8]>), DurableError> {
    let (key, value) = pair?;
    Ok((LogIndex::new(key.value().1), value))
}

// ---------------------------------------------------------------------------------------------------------
// Writing
// ---------------------------------------------------------------------------------------------------------

impl LogStore for DurableLog {
    type Reader = DurableReader;
    type Error = DurableError;

    fn recover(&mut self) -> Result<LogRecovery, DurableError> {
        let (hard_state, base) = (self.stamp.hard_state, self.ends.base);
        self.shared.call(|database| {
            let table = database.begin_read()?.open_table(LOG)?;
            let mut scan = LogScan::default();
            scan.reset(base);
            for block in table.range(blocks(LogIndex::FIRST))? {
                let (index, value) = key_value(block)?;
                let header = layout::decode_header(GROUP, index, value.value())?;
                if index != scan.last().index.next() {
                    return Err(DurableError::damaged(
                        index,
                        format_args!("it should follow {}", scan.last()),
                    ));
                }
                if header.is_run {
                    scan.run(header.first, header.last.index)?;
                } else {
                    scan.entries(&layout::decode_block(GROUP, index, value.value())?)?;
                }
            }
            scan.hard_state(hard_state)?;
            Ok(scan.finish())
        })
    }

    fn write(&mut self, batch: &[Write]) -> Result<(), DurableError> {
        let plan = Plan::of(batch, self.ends);
        match self.shared.call(|_| plan)? {
            // Everything before is durable.
            plan if plan.is_empty() => Ok(()),
            plan => self.commit(plan),
        }
    }

    fn compact(&mut self, through: LogId) -> Result<(), DurableError> {
        let Ends { base, last } = self.ends;
        if through.index <= base.index || through.index > last.index {
            return Ok(());
        }
        self.goal = Some(self.goal.map_or(through.index, |goal| goal.max(through.index)));
        // What one transaction leaves is dropped by the writes that follow.
        self.commit(Plan::default())
    }

    fn reader(&self) -> DurableReader {
        DurableReader(Arc::clone(&self.shared))
    }
}

impl DurableLog {
    /// One transaction.
    fn commit(&mut self, plan: Plan) -> Result<(), DurableError> {
        let Self { shared, first_page, incarnation, stamp, ends, goal, buffer } = self;
        let begins_anew = plan.begins_anew();
        let (new_stamp, new_ends) = shared.call(|database| {
            let hard_state = plan.hard_state.unwrap_or(stamp.hard_state);
            let new_stamp = Stamp { sequence: stamp.sequence + 1, hard_state };
            let transaction = database.begin_write()?;
            let new_ends = {
                let mut table = transaction.open_table(LOG)?;
                let mut put = Put { table: &mut table, stamp: new_stamp, incarnation: *incarnation, buffer };
                put.write(plan, *ends, *goal)?
            };
            // One fsync. Its failure is final: redb and `call` both refuse everything after it.
            transaction.commit()?;
            first_page.set_witness(new_stamp.sequence)?;
            Ok((new_stamp, new_ends))
        })?;
        if begins_anew || new_ends.base == ends.base || Some(new_ends.base.index) >= *goal {
            // The goal is reached, or lies within the block that is first now, or is of another log.
            *goal = None;
        }
        (*stamp, *ends) = (new_stamp, new_ends);
        Ok(())
    }
}

// ---------------------------------------------------------------------------------------------------------
// Reading
// ---------------------------------------------------------------------------------------------------------

impl LogReader for DurableReader {
    type Error = DurableError;

    fn read(&self, from: LogIndex, through: LogIndex, bytes_max: u64) -> Result<Entries, DurableError> {
        self.0.call(|database| {
            if from == LogIndex::ZERO || from > through {
                return Ok(Entries::empty());
            }
            let table = database.begin_read()?.open_table(LOG)?;
            // `from` lies in the last block that does not begin behind it, if it is in the log.
            let Some(holder) = table.range((GROUP, 1)..=(GROUP, from.get()))?.next_back() else {
                return Ok(Entries::empty());
            };
            let (start, holder) = key_value(holder)?;
            if layout::decode_header(GROUP, start, holder.value())?.last.index < from {
                return Ok(Entries::empty());
            }
            let mut found = Vec::new();
            let mut bytes = 0;
            for block in table.range((GROUP, start.get())..=(GROUP, through.get()))? {
                let (index, value) = key_value(block)?;
                let part = layout::decode_block(GROUP, index, value.value())?.slice(from, through);
                bytes += part.size_bytes();
                found.push(part);
                if bytes >= bytes_max {
                    break;
                }
            }
            let found = Entries::join(found).map_err(|error| DurableError::damaged(start, error))?;
            Ok(found.prefix(bytes_max))
        })
    }
}
