//! Planted bugs in a log store: each is found, by the check that is there for it.

use std::io;
use std::sync::{Arc, RwLock};

use raft_core::host::{LogReader, LogStore};
use raft_core::{Entries, HardState, LogId, LogIndex, LogRecovery, LogScan, Term, TermRun, Write, wire};
use raft_driver_tokio::storage::FileLayer;
use raft_driver_tokio::testing::{LogCheck, Promise, SimulatedDisk, SimulatedFile};

use crate::found::{Verdict, assert_found, verdict};

/// What is wrong with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bug {
    None,
    /// Returns before the fsync.
    NoSync,
    /// Syncs what came before, not what was just written.
    SyncsLate,
    /// Does not write the hard state unless entries come with it.
    LosesHardState,
    /// The hard state is kept in memory while the term stays the same.
    LosesVote,
    /// Entries are written before the hard state of the same write.
    EntriesFirst,
    /// Overwriting does not drop what follows.
    KeepsOldSuffix,
    /// The overwritten suffix is back after a restart.
    ForgetsTruncation,
    /// A reset is not written.
    ForgetsReset,
    /// A reset keeps entries that lie behind the new base.
    ResetKeepsEntries,
    /// Drops one entry more than it should.
    CompactsTooMuch,
    /// What was dropped is back after a restart.
    ForgetsCompaction,
    /// Goes beyond the last entry wanted.
    ReadsPastTheEnd,
    /// Goes beyond the number of bytes.
    ReadsTooMuch,
    /// Gives nothing if the first entry is larger than the limit.
    ReadsNothing,
    /// Records at the end are not checked.
    AcceptsTornTail,
    /// Refuses to start when the last record is torn.
    RefusesTornTail,
    /// The runs of terms are those of before the last compaction.
    WrongTerms,
    /// Memberships that were overwritten are still told.
    OldMemberships,
    /// An error of the fsync is logged, and forgotten.
    IgnoresFailedSync,
    /// What a killed process had left is taken over without a sync.
    RecoversFromCache,
    /// Panics when a batch is empty of entries.
    Panics,
    /// The file's name is never synced.
    ForgetsItsName,
}

#[derive(Debug, Default)]
struct Kept {
    hard_state: HardState,
    base: LogId,
    log: Vec<Entries>,
}

impl Kept {
    fn last(&self) -> LogId {
        self.log.last().and_then(Entries::last).unwrap_or(self.base)
    }
}

/// A file of records, all of it in memory too.
struct FileLog {
    bug: Bug,
    file: SimulatedFile,
    kept: Arc<RwLock<Kept>>,
}

#[derive(Clone)]
struct FileReader {
    bug: Bug,
    kept: Arc<RwLock<Kept>>,
}

const HARD_STATE: u8 = 1;
const RESET: u8 = 2;
const ENTRIES: u8 = 3;
const COMPACT: u8 = 4;

/// Kind, length, checksum, content.
fn record(kind: u8, content: &[u8]) -> Vec<u8> {
    let mut record = vec![kind];
    record.extend_from_slice(&(content.len() as u32).to_le_bytes());
    record.extend_from_slice(&sum(kind, content).to_le_bytes());
    record.extend_from_slice(content);
    record
}

/// The kind too: zeros are no record.
fn sum(kind: u8, content: &[u8]) -> u32 {
    crc32fast::hash(&[&[kind], content].concat())
}

fn put_id(id: LogId) -> Vec<u8> {
    [id.term.get().to_le_bytes(), id.index.get().to_le_bytes()].concat()
}

fn number(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes.try_into().unwrap())
}

fn get_id(bytes: &[u8]) -> LogId {
    LogId::new(Term::new(number(&bytes[..8])), LogIndex::new(number(&bytes[8..16])))
}

fn put_hard_state(hard_state: HardState) -> Vec<u8> {
    let vote = hard_state.voted_for.map_or(0, |node| node.get());
    [hard_state.term.get().to_le_bytes(), vote.to_le_bytes()].concat()
}

fn get_hard_state(bytes: &[u8]) -> HardState {
    let vote = number(&bytes[8..16]);
    let voted_for = (vote > 0).then(|| raft_core::NodeId::new(vote));
    HardState { term: Term::new(number(&bytes[..8])), voted_for }
}

impl Kept {
    fn replay(&mut self, bug: Bug, kind: u8, content: &[u8], is_start: bool) {
        match kind {
            HARD_STATE => self.hard_state = get_hard_state(content),
            RESET => self.reset(bug, get_id(content)),
            ENTRIES => {
                let entries = wire::decode_entries(bytes::Bytes::copy_from_slice(content)).unwrap();
                self.append(bug, entries, is_start);
            }
            COMPACT => self.compact(bug, get_id(content)),
            _ => unreachable!(),
        }
    }

    fn reset(&mut self, bug: Bug, base: LogId) {
        if bug == Bug::ResetKeepsEntries && base.index < self.last().index && base.index > self.base.index {
            self.compact(Bug::None, base);
        } else {
            self.log.clear();
        }
        self.base = base;
    }

    fn append(&mut self, bug: Bug, entries: Entries, is_start: bool) {
        let Some(first) = entries.first() else { return };
        let last = entries.last().unwrap();
        if first.index > self.last().index.next() {
            return;
        }
        let old = std::mem::take(&mut self.log);
        for part in &old {
            let before = part.slice(LogIndex::ZERO, first.index.prev());
            self.log.extend((!before.is_empty()).then_some(before));
        }
        self.log.push(entries);
        let keeps_suffix = bug == Bug::KeepsOldSuffix || bug == Bug::ForgetsTruncation && is_start;
        if keeps_suffix {
            for part in &old {
                let behind = part.slice(last.index.next(), LogIndex::LIMIT);
                self.log.extend((!behind.is_empty()).then_some(behind));
            }
        }
    }

    fn compact(&mut self, bug: Bug, through: LogId) {
        if through.index <= self.base.index || through.index > self.last().index {
            return;
        }
        let index = if bug == Bug::CompactsTooMuch && through.index < self.last().index {
            through.index.next()
        } else {
            through.index
        };
        let term = self.log.iter().flat_map(|part| part.iter().map(|entry| entry.id()).collect::<Vec<_>>());
        self.base = term.into_iter().find(|id| id.index == index).unwrap();
        let old = std::mem::take(&mut self.log);
        for part in &old {
            let behind = part.slice(index.next(), LogIndex::LIMIT);
            self.log.extend((!behind.is_empty()).then_some(behind));
        }
    }
}

impl FileLog {
    fn open(bug: Bug, disk: &SimulatedDisk) -> io::Result<Self> {
        let file = match disk.open("log") {
            Ok(file) => {
                disk.sync_names()?;
                file
            }
            Err(_) if bug == Bug::ForgetsItsName => disk.create("log")?,
            Err(_) => {
                let file = disk.create("log")?;
                disk.sync_names()?;
                file
            }
        };
        let bytes = file.contents()?;
        let mut kept = Kept::default();
        let mut at = 0;
        while let Some(head) = bytes.get(at..at + 9) {
            let length = u32::from_le_bytes(head[1..5].try_into().unwrap()) as usize;
            let expected = u32::from_le_bytes(head[5..9].try_into().unwrap());
            let content = bytes.get(at + 9..at + 9 + length);
            let is_whole = content.is_some_and(|content| sum(head[0], content) == expected);
            if !is_whole && bug == Bug::RefusesTornTail {
                return Err(io::Error::other("a record is torn"));
            }
            if !is_whole && bug == Bug::AcceptsTornTail && head[0] == HARD_STATE {
                // Zeros take the place of what is missing.
                let mut content = content.unwrap_or(&bytes[at + 9..]).to_vec();
                content.resize(16, 0);
                kept.replay(bug, HARD_STATE, &content, true);
            }
            if !is_whole {
                break;
            }
            kept.replay(bug, head[0], content.unwrap(), true);
            at += 9 + length;
        }
        file.set_len(at as u64)?;
        if bug != Bug::RecoversFromCache {
            file.sync()?;
        }
        Ok(Self { bug, file, kept: Arc::new(RwLock::new(kept)) })
    }

    fn put(&self, kind: u8, content: &[u8]) -> io::Result<()> {
        self.kept.write().unwrap().replay(self.bug, kind, content, false);
        self.file.append(&record(kind, content))
    }

    fn put_write(&self, write: &Write) -> io::Result<()> {
        let bug = self.bug;
        let hard_state = write.hard_state.filter(|hard_state| match bug {
            Bug::LosesHardState => !write.entries.is_empty(),
            Bug::LosesVote => hard_state.term != self.kept.read().unwrap().hard_state.term,
            _ => true,
        });
        let put_state = || hard_state.map_or(Ok(()), |state| self.put(HARD_STATE, &put_hard_state(state)));
        if bug != Bug::EntriesFirst {
            put_state()?;
        }
        if let Some(base) = write.reset_to {
            if bug == Bug::ForgetsReset {
                self.kept.write().unwrap().reset(bug, base);
            } else {
                self.put(RESET, &put_id(base))?;
            }
        }
        if !write.entries.is_empty() {
            let mut content = Vec::new();
            wire::encode_entries(&write.entries, &mut content);
            self.put(ENTRIES, &content)?;
        }
        if bug == Bug::EntriesFirst {
            put_state()?;
        }
        Ok(())
    }
}

impl LogStore for FileLog {
    type Reader = FileReader;
    type Error = io::Error;

    fn recover(&mut self) -> io::Result<LogRecovery> {
        let kept = self.kept.read().unwrap();
        let mut scan = LogScan::default();
        scan.reset(kept.base);
        for part in &kept.log {
            // A bad store does not look.
            if scan.entries(part).is_err() {
                break;
            }
        }
        let mut found = scan.finish();
        found.hard_state = kept.hard_state;
        found.last = kept.last();
        match (self.bug, found.terms.first_mut()) {
            (Bug::WrongTerms, Some(run)) if found.base.index > LogIndex::ZERO => {
                *run = TermRun { first: run.first.prev(), ..*run };
            }
            _ => {}
        }
        if self.bug == Bug::OldMemberships {
            found.memberships.pop();
        }
        Ok(found)
    }

    fn write(&mut self, batch: &[Write]) -> io::Result<()> {
        assert!(
            self.bug != Bug::Panics || batch.iter().any(|write| !write.entries.is_empty()),
            "nothing to do"
        );
        if self.bug == Bug::SyncsLate {
            self.file.sync()?;
        }
        batch.iter().try_for_each(|write| self.put_write(write))?;
        match self.bug {
            Bug::NoSync | Bug::SyncsLate => Ok(()),
            Bug::IgnoresFailedSync => {
                let _ = self.file.sync();
                Ok(())
            }
            _ => self.file.sync(),
        }
    }

    fn compact(&mut self, through: LogId) -> io::Result<()> {
        if self.bug == Bug::ForgetsCompaction {
            self.kept.write().unwrap().compact(self.bug, through);
            return Ok(());
        }
        self.put(COMPACT, &put_id(through))
    }

    fn reader(&self) -> FileReader {
        FileReader { bug: self.bug, kept: Arc::clone(&self.kept) }
    }
}

impl LogReader for FileReader {
    type Error = io::Error;

    fn read(&self, from: LogIndex, through: LogIndex, bytes_max: u64) -> io::Result<Entries> {
        let kept = self.kept.read().unwrap();
        if from <= kept.base.index || from > through {
            return Ok(Entries::empty());
        }
        let through = if self.bug == Bug::ReadsPastTheEnd { through.next() } else { through };
        let parts = kept.log.iter().map(|part| part.slice(from, through)).filter(|part| !part.is_empty());
        let Ok(found) = Entries::join(parts) else {
            // Only where old entries follow new ones.
            return Ok(kept
                .log
                .iter()
                .find(|part| part.slice(from, from).len() == 1)
                .unwrap()
                .slice(from, through));
        };
        match self.bug {
            Bug::ReadsTooMuch => Ok(found),
            Bug::ReadsNothing if found.prefix(0).size_bytes() > bytes_max => Ok(Entries::empty()),
            _ => Ok(found.prefix(bytes_max)),
        }
    }
}

fn verdict_of(bug: Bug) -> Verdict {
    let check = LogCheck::new().seeds(0..60).steps(30).command_bytes_max(3_000);
    verdict(bug, check.run(|disk: &SimulatedDisk| FileLog::open(bug, disk)))
}

#[test]
fn a_store_without_bugs_passes() {
    assert_eq!(verdict_of(Bug::None), None);
}

#[test]
fn each_bug_is_found_by_the_check_that_is_there_for_it() {
    let expected = [
        (Bug::NoSync, Promise::DurableOnReturn),
        (Bug::SyncsLate, Promise::DurableOnReturn),
        (Bug::LosesHardState, Promise::HardStateKept),
        (Bug::LosesVote, Promise::HardStateKept),
        (Bug::EntriesFirst, Promise::PartsInOrder),
        (Bug::KeepsOldSuffix, Promise::OverwriteTruncates),
        (Bug::ForgetsTruncation, Promise::OverwriteTruncates),
        (Bug::ForgetsReset, Promise::ResetDropsAll),
        (Bug::ResetKeepsEntries, Promise::ResetDropsAll),
        (Bug::CompactsTooMuch, Promise::CompactsNoMore),
        (Bug::ForgetsCompaction, Promise::CompactionStays),
        (Bug::ReadsPastTheEnd, Promise::ReadsNothingElse),
        (Bug::ReadsTooMuch, Promise::ReadsKeepToBytes),
        (Bug::ReadsNothing, Promise::ReadsWhatIsThere),
        (Bug::AcceptsTornTail, Promise::HardStateKept),
        (Bug::RefusesTornTail, Promise::OpensAfterCrash),
        (Bug::WrongTerms, Promise::RecoverTellsTerms),
        (Bug::OldMemberships, Promise::RecoverTellsMemberships),
        (Bug::IgnoresFailedSync, Promise::DurableOnReturn),
        (Bug::RecoversFromCache, Promise::RecoveredIsDurable),
        (Bug::Panics, Promise::NeverPanics),
        (Bug::ForgetsItsName, Promise::DurableOnReturn),
    ];
    assert_found(&expected, |_| 12, |bug, _| verdict_of(bug));
}
