//! The store itself: redb, the groups that are in use, and commits that make the changes of several groups durable
//! together.
//!
//! * A commit is one fsync for all the changes that it is given: of a frame of the journal if they are small and only append
//!   to their groups, else of a transaction, which brings everything that is in the journal into redb too.
//! * Each change has a sequence of its own, and leaves it in a record at one of the ends of its group: so a start finds
//!   out how far the store was.
//! * The first failure is the last call of the store.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::{fmt, io};

use redb::{Database, ReadableDatabase, Table};

use super::directory::{Marker, Reached};
use super::error::{DurableError, GroupError, OpenError};
use super::file::{FileLayer, FirstPage, Head, Identity};
use super::group::{Group, State};
use super::journal::{self, Addition, Journal};
use super::layout::{LOG, STORE, StoreRecord};
use super::peers::KnownPeers;
use super::pending::{Pending, Tail};
use super::read::{self, Found};
use super::write::{Change, Put};
use crate::{DirectoryId, GroupId};

/// redb keeps pages in memory up to this: enough for the newest blocks and the tree above all of them. What is
/// older is in the operating system's cache or on the disk.
const CACHE_BYTES: usize = 32 << 20;

/// A commit of more entries than this goes into redb at once: to write them twice would cost more than it saves.
const JOURNALED_BYTES_MAX: u64 = 256 << 10;

/// What logs, readers and writer of a store share. Fields are dropped in order: the directory is unlocked when redb has
/// closed its file.
pub(super) struct Shared {
    database: Database,
    /// Why nothing works any more.
    failed: OnceLock<Arc<str>>,
    used: Mutex<BTreeSet<u64>>,
    /// What is in the journal and not in redb.
    pending: Mutex<Pending>,
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

    pub(super) fn used(&self) -> MutexGuard<'_, BTreeSet<u64>> {
        // Each use is one call on the set.
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Held for moments: never while redb is used.
    pub(super) fn pending(&self) -> MutexGuard<'_, Pending> {
        // If it panics while it is held, the store is not used any more.
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
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
// The store
// ---------------------------------------------------------------------------------------------------------

/// Who writes. There is one.
#[derive(Debug)]
pub(super) struct Engine {
    pub(super) shared: Arc<Shared>,
    first_page: FirstPage,
    journal: Journal,
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

/// Counts a start, and brings into redb what the journal has.
fn put_record(
    database: &mut Database,
    record: StoreRecord,
    additions: Vec<(u64, Addition)>,
) -> Result<(), DurableError> {
    let transaction = database.begin_write()?;
    transaction.open_table(STORE)?.insert((), record.encode().as_slice())?;
    {
        let mut table = transaction.open_table(LOG)?;
        let mut pending = Pending::default();
        for (sequence, addition) in additions {
            let found = match pending.get(addition.group) {
                Some(_) => None,
                None => Found::read(&table, addition.group)?,
            };
            pending.add(sequence, addition, || Arc::new(Mutex::new(State::of(found))));
        }
        settle(&pending, &mut table, &mut Vec::new())?;
    }
    transaction.commit()?;
    Ok(())
}

/// Brings what is in the journal into redb.
fn settle(
    pending: &Pending,
    table: &mut Table<'_, (u64, u64), &'static [u8]>,
    buffer: &mut Vec<u8>,
) -> Result<(), DurableError> {
    for (group, Tail { state, sequence, hard_state, parts, .. }) in pending.iter() {
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        if !state.is_stored {
            return Err(DurableError::Damaged(format!(
                "its journal has a change to group {group}, which is not there"
            )));
        }
        let mut put = Put { table: &mut *table, group, sequence: *sequence, buffer: &mut *buffer };
        put.change(&mut state, Change::Journaled(*hard_state, parts))?;
    }
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
    /// Creates an empty store in an empty file, with a journal of so many bytes, whole pages, or with none.
    pub(super) fn create(
        file: Arc<dyn FileLayer>,
        identity: Identity,
        path: &Path,
        journal_bytes: u64,
    ) -> Result<(), OpenError> {
        if file.len_bytes().map_err(OpenError::io("read the length of", path))? != 0 {
            return Err(OpenError::NotALog { path: path.to_owned() });
        }
        let directory = DirectoryId::random().map_err(OpenError::io("name the directory of", path))?;
        let head = Head { identity, directory };
        let first_page =
            FirstPage::create(file, head, journal_bytes).map_err(OpenError::io("write", path))?;
        let fill = || {
            let mut database = builder().create_with_backend(first_page.rest()?)?;
            put_record(&mut database, StoreRecord { sequence: 0, incarnation: 0, key: None }, Vec::new())?;
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
        let mut journal = first_page.journal();
        let found = caught(|| {
            let database = builder().create_with_backend(first_page.rest()?)?;
            let survey = Survey::of(&database)?;
            let found = match survey.record.key {
                Some(key) => journal.find(key, survey.sequence)?,
                None => journal::Found::default(),
            };
            Ok((database, survey, found))
        });
        let (mut database, Survey { record, sequence, partly_removed }, found) =
            found.map_err(OpenError::of(path))?;
        let sequence = found.additions.last().map_or(sequence, |(sequence, _)| *sequence);
        let rolled_back =
            |witnessed| OpenError::RolledBack { path: path.to_owned(), found: sequence, witnessed };
        let witnessed = found.witnessed.unwrap_or(0).max(witnessed);
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
        let key = journal.exists().then(getrandom::u64).transpose();
        let key = key.map_err(io::Error::from).map_err(OpenError::io("name the start of", path))?;
        let record = StoreRecord { sequence: sequence + 1, incarnation: record.incarnation + 1, key };
        let StoreRecord { sequence, incarnation, .. } = record;
        caught(|| put_record(&mut database, record, found.additions)).map_err(OpenError::of(path))?;
        journal.begin(key.unwrap_or(0));
        first_page.set_witness(sequence).map_err(OpenError::io("write", path))?;
        let peers = match marker {
            None => KnownPeers::in_memory(first_page.head.directory),
            Some((mut marker, dir)) => {
                // After the log: it must never lag behind what the marker says.
                marker.set_reached(Reached { sequence, incarnation })?;
                KnownPeers::open(dir, first_page.head, Arc::new(marker))?
            }
        };
        let (used, pending, syncs) = (Mutex::default(), Mutex::default(), AtomicU64::new(0));
        let shared = Arc::new(Shared { database, failed: OnceLock::new(), used, pending, syncs, peers });
        let mut engine = Self { shared, first_page, journal, incarnation, sequence, buffer: Vec::new() };
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
        let changes: Vec<_> = changes.into_iter().collect();
        if !self.append(&changes)? {
            return self.transact(&changes, outcome);
        }
        changes.iter().for_each(|_| outcome(Ok(())));
        Ok(())
    }

    /// Makes changes durable in the journal, or says that this is not for the journal.
    fn append(&mut self, changes: &[(&Group, Change<'_>)]) -> Result<bool, DurableError> {
        let Self { shared, journal, sequence, .. } = self;
        let (mut additions, mut groups) = (Vec::new(), BTreeSet::new());
        let mut bytes = 0;
        for (group, change) in changes {
            let Change::Write(batch) = change else { return Ok(false) };
            let Some(addition) = group.addition(batch) else { return Ok(false) };
            bytes += addition.entries.size_bytes();
            // What one adds depends on what the other does.
            if bytes > JOURNALED_BYTES_MAX || !groups.insert(group.id) {
                return Ok(false);
            }
            if batch.iter().any(|write| write.hard_state.is_some()) || !addition.entries.is_empty() {
                additions.push((*group, addition));
            }
        }
        if additions.is_empty() {
            // Everything before is durable.
            return shared.call(|_| Ok(true));
        }
        if !shared.pending().has_room(&groups) {
            return Ok(false);
        }
        let first = *sequence + 1;
        if !journal.fits(first, additions.iter().map(|(_, addition)| addition)) {
            return Ok(false);
        }
        let reached = *sequence + additions.len() as u64;
        // One fsync. Its failure is final: `call` refuses everything after it.
        shared.call(|_| Ok(journal.append()?))?;
        shared.syncs.fetch_add(1, Ordering::Relaxed);
        let mut pending = shared.pending();
        for (sequence, (group, addition)) in (first..).zip(additions) {
            pending.add(sequence, addition, || Arc::clone(&group.state));
        }
        drop(pending);
        *sequence = reached;
        shared.call(|_| Ok(journal.mark(reached)?))?;
        Ok(true)
    }

    /// Makes changes durable in redb, with what is in the journal.
    fn transact(
        &mut self,
        changes: &[(&Group, Change<'_>)],
        mut outcome: impl FnMut(Result<(), DurableError>),
    ) -> Result<(), DurableError> {
        let Self { shared, first_page, journal, sequence, buffer, .. } = self;
        let reached = shared.call(|database| {
            let mut reached = *sequence;
            let transaction = database.begin_write()?;
            // A copy: nobody waits for the lock meanwhile.
            let pending = shared.pending().clone();
            {
                let mut table = transaction.open_table(LOG)?;
                settle(&pending, &mut table, buffer)?;
                for (group, change) in changes {
                    let mut put = Put {
                        table: &mut table,
                        group: group.id,
                        sequence: reached + 1,
                        buffer: &mut *buffer,
                    };
                    let made = group.change(&mut put, *change)?;
                    reached += u64::from(matches!(made, Ok(true)));
                    outcome(made.map(drop));
                }
            }
            if reached == *sequence && pending.is_empty() {
                // Everything before is durable.
                transaction.abort()?;
                return Ok(reached);
            }
            // One fsync. Its failure is final: redb and `call` both refuse everything after it.
            transaction.commit()?;
            shared.syncs.fetch_add(1, Ordering::Relaxed);
            shared.pending().clear();
            journal.restart();
            first_page.set_witness(reached)?;
            Ok(reached)
        })?;
        *sequence = reached;
        Ok(())
    }
}

/// So that the next start finds nothing in the journal. If this fails it does.
impl Drop for Engine {
    fn drop(&mut self) {
        if !self.shared.pending().is_empty() {
            let _ = self.transact(&[], |_| {});
        }
    }
}

#[cfg(test)]
mod tests {
    use raft_core::{Commands, Entries, LogId, LogIndex, NodeId, Term, Write};
    use redb::backends::FileBackend;

    use super::super::file::OsFile;
    use super::*;
    use crate::ClusterId;

    const IDENTITY: Identity = Identity { cluster: ClusterId::new(5), node: NodeId::new(2) };

    fn layer(path: &Path) -> Arc<dyn FileLayer> {
        let file = std::fs::File::options().read(true).write(true).create(true).truncate(false).open(path);
        Arc::new(OsFile(FileBackend::new(file.unwrap()).unwrap()))
    }

    /// Opens the store, finds so many entries, and appends one twice.
    fn append_to(path: &Path, found: u64) {
        let first_page = FirstPage::open(layer(path), IDENTITY, path).unwrap();
        let mut engine = Engine::open(first_page, path, None).unwrap();
        let group = Group::open(&engine.shared, GroupId::new(0)).unwrap();
        assert_eq!(group.recover().unwrap().last.index, LogIndex::new(found));
        for index in [found + 1, found + 2] {
            let at = LogId::new(Term::new(1), LogIndex::new(index));
            let entries = Entries::commands(at, &[[7; 100]].iter().collect::<Commands>());
            let id = serde_json::from_str("1").unwrap();
            let write = Write { id, hard_state: None, reset_to: None, entries };
            engine.commit_one(&group, Change::Write(&[write])).unwrap();
        }
        assert_eq!(engine.shared.syncs(), 2);
        // The first of all goes into redb in any case: it makes the group.
        assert_eq!(engine.shared.pending().is_empty(), !engine.journal.exists());
    }

    #[test]
    fn a_store_of_the_format_without_a_journal_is_used_without_one() {
        let dir = tempfile::tempdir().unwrap();
        for (journal_bytes, format) in [(0, 3), (64 << 10, 4)] {
            let path = dir.path().join(format.to_string());
            Engine::create(layer(&path), IDENTITY, &path, journal_bytes as u64).unwrap();
            for life in 0..5 {
                append_to(&path, 2 * life);
            }
            let bytes = std::fs::read(&path).unwrap();
            assert_eq!(bytes[8..10], [format, 0]);
            assert!(bytes[4096 + journal_bytes..].starts_with(b"redb"), "where it begins");
            let has_frames = bytes[4096..4096 + journal_bytes].iter().any(|byte| *byte != 0);
            assert_eq!(has_frames, format == 4);
        }
    }
}
