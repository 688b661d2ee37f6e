//! The store itself: redb, the groups that are in use, and commits that make the changes of several groups durable
//! together.
//!
//! * A commit is one transaction and one fsync, for all the changes that it is given.
//! * Each change has a sequence of its own, and leaves it in a record at one of the ends of its group: so a start finds
//!   out how far the store was.
//! * A group is used once at a time. What is known of it in memory is that of the last change, and lives as long as
//!   somebody uses it: groups that nobody uses cost no memory.
//! * The first failure is the last call of the store; a change that the group's log does not allow is the last call of
//!   that group.

use std::collections::BTreeSet;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use raft_core::{HardState, LogIndex};
use redb::{Database, ReadableDatabase};

use super::directory::{Marker, Reached};
use super::error::{DurableError, GroupError, OpenError};
use super::file::{FileLayer, FirstPage, Head, Identity};
use super::layout::{LOG, STORE, StoreRecord};
use super::peers::KnownPeers;
use super::read::{self, Found};
use super::write::{Change, Ends, Put};
use crate::{DirectoryId, GroupId};

/// redb keeps pages in memory up to this: enough for the newest blocks and the tree above all of them. What is
/// older is in the operating system's cache or on the disk.
const CACHE_BYTES: usize = 32 << 20;

/// What logs, readers and writer of a store share. Fields are dropped in order: the directory is unlocked when redb has
/// closed its file.
pub(super) struct Shared {
    database: Database,
    /// Why nothing works any more.
    failed: OnceLock<Arc<str>>,
    used: Mutex<BTreeSet<u64>>,
    syncs: AtomicU64,
    /// Holds the lock on the directory.
    pub(super) peers: KnownPeers,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("failed", &self.failed).finish_non_exhaustive()
    }
}

impl Shared {
    /// Runs `call` unless an earlier one failed; if this one fails, it was the last.
    pub(super) fn call<T>(
        &self,
        call: impl FnOnce(&Database) -> Result<T, DurableError>,
    ) -> Result<T, DurableError> {
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

    /// How many commits were made durable since the store was opened.
    pub(super) fn syncs(&self) -> u64 {
        self.syncs.load(Ordering::Relaxed)
    }

    /// The groups that have something stored.
    pub(super) fn groups(&self) -> Result<Vec<GroupId>, DurableError> {
        self.call(|database| {
            let mut groups = Vec::new();
            let table = database.begin_read()?.open_table(LOG)?;
            read::groups(&table, |group, found| {
                if !found.meta.is_removed {
                    groups.push(GroupId::new(group));
                }
            })?;
            Ok(groups)
        })
    }

    fn used(&self) -> std::sync::MutexGuard<'_, BTreeSet<u64>> {
        // Each use is one call on the set.
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
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

// ---------------------------------------------------------------------------------------------------------
// Groups
// ---------------------------------------------------------------------------------------------------------

/// A group that is in use, until its log, its readers and its changes under way are dropped.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) id: u64,
    state: Mutex<State>,
    /// Why this group alone does not work any more.
    failed: OnceLock<Arc<str>>,
    shared: Arc<Shared>,
}

/// What is known of a group, as of the last change to it.
#[derive(Clone, Copy, Debug)]
pub(super) struct State {
    pub(super) hard_state: HardState,
    pub(super) ends: Ends,
    /// Blocks through here are still to be dropped.
    pub(super) goal: Option<LogIndex>,
    /// Whether it has a meta record that says that it exists.
    pub(super) is_stored: bool,
}

impl Group {
    /// Begins to use a group, whether it has anything stored or not.
    pub(super) fn open(shared: &Arc<Shared>, group: GroupId) -> Result<Arc<Self>, GroupError> {
        let id = group.get();
        if !shared.used().insert(id) {
            return Err(GroupError::InUse { group });
        }
        // From here on dropping it ends the use.
        let state =
            State { hard_state: HardState::default(), ends: Ends::default(), goal: None, is_stored: false };
        let mut opened =
            Self { id, state: Mutex::new(state), failed: OnceLock::new(), shared: Arc::clone(shared) };
        let found = shared.call(|database| Found::read(&database.begin_read()?.open_table(LOG)?, id))?;
        if let Some(Found { stamp, meta, ends }) = found {
            // Of one that was removed, only the hard state is left.
            let ends = if meta.is_removed { Ends::default() } else { ends };
            let state = State { hard_state: stamp.hard_state, ends, goal: None, is_stored: !meta.is_removed };
            opened.state = Mutex::new(state);
        }
        Ok(Arc::new(opened))
    }

    pub(super) fn state(&self) -> State {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many commits of the store were made durable since it was opened.
    pub(super) fn syncs(&self) -> u64 {
        self.shared.syncs()
    }

    /// Runs `call` unless an earlier one failed.
    pub(super) fn call<T>(
        &self,
        call: impl FnOnce(&Database) -> Result<T, DurableError>,
    ) -> Result<T, DurableError> {
        self.usable()?;
        self.shared.call(call)
    }

    fn usable(&self) -> Result<(), DurableError> {
        self.failed.get().map_or(Ok(()), |why| Err(DurableError::Failed(Arc::clone(why))))
    }

    /// Makes a change within a transaction: whether there was anything to do, or why it is not allowed.
    fn change(
        &self,
        put: &mut Put<'_, '_>,
        change: Change<'_>,
    ) -> Result<Result<bool, DurableError>, DurableError> {
        if let Err(failed) = self.usable() {
            return Ok(Err(failed));
        }
        // If it panics, the store is not used any more.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match put.change(&mut state, change) {
            Err(error @ DurableError::NotConsecutive { .. }) => {
                let _ = self.failed.set(error.to_string().into());
                Ok(Err(error))
            }
            other => other.map(Ok),
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.shared.used().remove(&self.id);
    }
}

// ---------------------------------------------------------------------------------------------------------
// The store
// ---------------------------------------------------------------------------------------------------------

/// Who writes. There is one.
#[derive(Debug)]
pub(super) struct Engine {
    pub(super) shared: Arc<Shared>,
    first_page: FirstPage,
    pub(super) incarnation: u64,
    /// Of the last change that is durable.
    sequence: u64,
    /// Reused for every record.
    buffer: Vec<u8>,
}

fn builder() -> redb::Builder {
    let mut builder = redb::Builder::new();
    builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true);
    builder
}

fn put_record(database: &mut Database, record: StoreRecord) -> Result<(), DurableError> {
    let transaction = database.begin_write()?;
    transaction.open_table(STORE)?.insert((), record.encode().as_slice())?;
    drop(transaction.open_table(LOG)?);
    transaction.commit()?;
    Ok(())
}

/// What a start finds.
struct Survey {
    record: StoreRecord,
    /// Of the last change.
    sequence: u64,
    partly_removed: Vec<GroupId>,
}

impl Survey {
    fn of(database: &Database) -> Result<Self, DurableError> {
        let transaction = database.begin_read()?;
        let missing = || DurableError::Damaged("its store record is missing".into());
        let record = transaction.open_table(STORE)?.get(())?.ok_or_else(missing)?;
        let record = StoreRecord::decode(record.value())?;
        let mut survey = Self { record, sequence: record.sequence, partly_removed: Vec::new() };
        read::groups(&transaction.open_table(LOG)?, |group, found| {
            survey.sequence = survey.sequence.max(found.stamp.sequence);
            if found.is_partly_removed() {
                survey.partly_removed.push(GroupId::new(group));
            }
        })?;
        Ok(survey)
    }
}

impl Engine {
    /// Creates an empty store in an empty file.
    pub(super) fn create(file: Arc<dyn FileLayer>, identity: Identity, path: &Path) -> Result<(), OpenError> {
        if file.len_bytes().map_err(OpenError::io("read the length of", path))? != 0 {
            return Err(OpenError::NotALog { path: path.to_owned() });
        }
        let directory = DirectoryId::random().map_err(OpenError::io("name the directory of", path))?;
        let head = Head { identity, directory };
        let first_page = FirstPage::create(file, head).map_err(OpenError::io("write", path))?;
        let fill = || {
            let mut database = builder().create_with_backend(first_page.rest()?)?;
            put_record(&mut database, StoreRecord { sequence: 0, incarnation: 0 })?;
            database.close()?;
            Ok(())
        };
        caught(fill).map_err(OpenError::of(path))
    }

    /// Opens a store, which lies in a directory that is locked by `marker`, or in none.
    pub(super) fn open(
        mut first_page: FirstPage,
        path: &Path,
        marker: Option<(Marker, &Path)>,
    ) -> Result<Self, OpenError> {
        let Some(witnessed) = first_page.witness().map_err(OpenError::io("read", path))? else {
            return Err(OpenError::Damaged {
                path: path.to_owned(),
                what: "both of its witnesses are".into(),
            });
        };
        let found = caught(|| {
            let database = builder().create_with_backend(first_page.rest()?)?;
            let survey = Survey::of(&database)?;
            Ok((database, survey))
        });
        let (mut database, Survey { record, sequence, partly_removed }) =
            found.map_err(OpenError::of(path))?;
        let rolled_back =
            |witnessed| OpenError::RolledBack { path: path.to_owned(), found: sequence, witnessed };
        if sequence < witnessed {
            return Err(rolled_back(witnessed));
        }
        if let Some(reached) = marker.as_ref().map(|(marker, _)| marker.reached()).transpose()?.flatten() {
            if sequence < reached.sequence {
                return Err(rolled_back(reached.sequence));
            }
            // Another copy, which was written to elsewhere.
            if record.incarnation < reached.incarnation {
                let (opened, known) = (record.incarnation, reached.incarnation);
                let what = format!("it was opened {opened} times, and {known} are known");
                return Err(OpenError::Damaged { path: path.to_owned(), what });
            }
        }
        // Counting this start makes everything found durable, also what a killed process had left in caches.
        let record = StoreRecord { sequence: sequence + 1, incarnation: record.incarnation + 1 };
        let StoreRecord { sequence, incarnation } = record;
        caught(|| put_record(&mut database, record)).map_err(OpenError::of(path))?;
        first_page.set_witness(sequence).map_err(OpenError::io("write", path))?;
        let peers = match marker {
            None => KnownPeers::in_memory(first_page.head.directory),
            Some((mut marker, dir)) => {
                // After the log: it must never lag behind what the marker says.
                marker.set_reached(Reached { sequence, incarnation })?;
                KnownPeers::open(dir, first_page.head, Arc::new(marker))?
            }
        };
        let (used, syncs) = (Mutex::default(), AtomicU64::new(0));
        let shared = Arc::new(Shared { database, failed: OnceLock::new(), used, syncs, peers });
        let mut engine = Self { shared, first_page, incarnation, sequence, buffer: Vec::new() };
        for group in partly_removed {
            engine.remove(group).map_err(|error| match error {
                GroupError::Log(error) => OpenError::of(path)(error),
                GroupError::InUse { .. } => unreachable!("nobody uses a group yet"),
            })?;
        }
        Ok(engine)
    }

    fn remove(&mut self, group: GroupId) -> Result<(), GroupError> {
        let group = Group::open(&self.shared, group)?;
        self.commit_one(&group, Change::Remove)?;
        while group.state().goal.is_some() {
            self.commit_one(&group, Change::Remove)?;
        }
        Ok(())
    }

    /// Makes one change durable.
    pub(super) fn commit_one(&mut self, group: &Group, change: Change<'_>) -> Result<(), DurableError> {
        let mut outcome = Ok(());
        self.commit([(group, change)], |made| outcome = made)?;
        outcome
    }

    /// Makes changes durable, in this order, all or nothing. Says of each whether its group allowed it.
    pub(super) fn commit<'a>(
        &mut self,
        changes: impl IntoIterator<Item = (&'a Group, Change<'a>)>,
        mut outcome: impl FnMut(Result<(), DurableError>),
    ) -> Result<(), DurableError> {
        let Self { shared, first_page, sequence, buffer, .. } = self;
        let reached = shared.call(|database| {
            let mut reached = *sequence;
            let transaction = database.begin_write()?;
            {
                let mut table = transaction.open_table(LOG)?;
                for (group, change) in changes {
                    let mut put = Put {
                        table: &mut table,
                        group: group.id,
                        sequence: reached + 1,
                        buffer: &mut *buffer,
                    };
                    let made = group.change(&mut put, change)?;
                    reached += u64::from(matches!(made, Ok(true)));
                    outcome(made.map(drop));
                }
            }
            if reached == *sequence {
                // Everything before is durable.
                transaction.abort()?;
                return Ok(reached);
            }
            // One fsync. Its failure is final: redb and `call` both refuse everything after it.
            transaction.commit()?;
            shared.syncs.fetch_add(1, Ordering::Relaxed);
            first_page.set_witness(reached)?;
            Ok(reached)
        })?;
        *sequence = reached;
        Ok(())
    }
}
