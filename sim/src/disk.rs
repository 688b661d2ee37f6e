//! The simulated disk: a file of bytes in the shipped record format, of which only a prefix survives a crash.
//!
//! * A write is appended at once and is not durable until a sync that began after it has finished.
//! * A crash keeps the synced bytes and any beginning of the others, cut at any byte; after the cut there may
//!   be zeros or rubbish, as file systems leave them.
//! * Recovery reads the bytes, drops a torn record after the synced bytes, and fails on damage before them.
//! * A record is there or not. A write may be stored as several records, one for each of its parts and for pieces of
//!   its entries, so that a crash can cut it between them.
//! * A compaction is done at once for those who read, and a crash may undo it.
//! * An append or a sync may fail. What that leaves of the file is for the next start to read, as after any crash: the
//!   driver's duty is to drop the node, never to try again (duty 4).
//! * A bit may change while the server is down. Behind the synced bytes that is a torn tail; within them recovery fails.

mod parts;
mod view;

use std::collections::VecDeque;

use bytes::Bytes;
use raft_core::wire::{RecordReader, encode_record};
use raft_core::{Entries, LogId, LogIndex, LogRecovery, LogScan, Write, WriteId};
use serde::{Deserialize, Serialize};

pub(crate) use self::parts::parts_of;
use self::view::LogView;
use crate::clock::Nanos;
use crate::rng::fold;

/// Why a disk cannot be used after a crash. Each is a bug: of the format, or of whoever wrote.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum DiskError {
    #[error("record at byte {at} of {synced} synced ones is damaged: {reason}")]
    DamagedBeforeSync { at: usize, synced: usize, reason: String },
    #[error("record at byte {at} contradicts those before it: {reason}")]
    Contradiction { at: usize, reason: String },
}

/// Why an append or a sync failed.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum WriteFailed {
    #[error("input/output error")]
    Error,
    #[error("no space left on the disk")]
    Full,
}

/// What will fail once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Failing {
    /// The next append, of which no more than so many bytes are written. It may be all of them.
    Append { kept_bytes: usize },
    /// The sync that finishes next. Nobody knows what of it is on the disk.
    Sync,
}

/// Where a bit changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rot {
    /// There is nothing on the disk.
    Nowhere,
    /// In what was synced: recovery has to fail.
    Synced,
    /// Behind it. So many of the unsynced records that were whole still are.
    Tail { whole: usize },
}

/// What lies behind the place where a crash cut the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wreck {
    /// Nothing.
    Cut,
    /// The file had grown already, but its blocks were never written.
    Zeros(usize),
    /// Blocks that hold something else.
    Rubbish(usize, u64),
}

struct Unsynced {
    id: WriteId,
    /// Where its record ends in the file.
    end: usize,
}

/// One node's disk.
#[derive(Default)]
pub(crate) struct Disk {
    file: Vec<u8>,
    synced_bytes: usize,
    unsynced: VecDeque<Unsynced>,
    /// A sync is under way for this many bytes.
    syncing: Option<usize>,
    failing: Option<Failing>,
    /// An append has failed: what is behind this never came to the disk.
    torn_at: Option<usize>,
    full_until: Nanos,
    /// Where the unsynced records end that a crash has left whole.
    survivors: Vec<usize>,
    /// A bit of the synced bytes has changed.
    rotten: bool,
    view: LogView,
    /// Through where entries were dropped by a compaction, and how much of that a crash cannot undo.
    compacted: LogId,
    compacted_durably: LogId,
}

impl Disk {
    /// Appends a write, or a part of one, as a record. It is not durable yet.
    ///
    /// # Errors
    /// If it fails: then a crash follows, and a part of the record may be there after it, even all of it.
    pub(crate) fn append(&mut self, now: Nanos, write: &Write) -> Result<(), WriteFailed> {
        let before = self.file.len();
        encode_record(write, crc32fast::hash, &mut self.file);
        self.unsynced.push_back(Unsynced { id: write.id, end: self.file.len() });
        if self.is_full(now) {
            self.torn_at = Some(before.midpoint(self.file.len()));
            return Err(WriteFailed::Full);
        }
        if let Some(Failing::Append { kept_bytes }) = self.failing {
            self.torn_at = Some(before.saturating_add(kept_bytes));
            return Err(WriteFailed::Error);
        }
        self.view.take_in(write.reset_to, &write.entries);
        Ok(())
    }

    /// Something will fail, once.
    pub(crate) fn fail(&mut self, failing: Failing) {
        self.failing = Some(failing);
    }

    /// There is no space left until then.
    pub(crate) fn fill(&mut self, until: Nanos) {
        self.full_until = until;
    }

    pub(crate) fn is_full(&self, now: Nanos) -> bool {
        self.full_until > now
    }

    /// Nothing fails from now on. What is rotten stays so.
    pub(crate) fn heal(&mut self) {
        (self.failing, self.full_until) = (None, 0);
    }

    /// While the server is down a bit changes: which one, is counted around the file.
    pub(crate) fn rot(&mut self, bit: u64) -> Rot {
        let bits = self.file.len() as u64 * 8;
        let Some(bit) = bit.checked_rem(bits) else { return Rot::Nowhere };
        let at = (bit / 8) as usize;
        self.file[at] ^= 1 << (bit % 8);
        if at < self.synced_bytes {
            self.rotten = true;
            return Rot::Synced;
        }
        self.survivors.retain(|end| *end <= at);
        Rot::Tail { whole: self.survivors.len() }
    }

    /// Whether recovery has to fail.
    pub(crate) fn is_rotten(&self) -> bool {
        self.rotten
    }

    /// Drops the entries through this one, or as many of them as lie in records of which nothing else is needed. A
    /// crash may bring them back.
    pub(crate) fn compact(&mut self, through: LogId, whole_records: bool) {
        let dropped = if whole_records { self.view.last_record_within(through.index) } else { Some(through) };
        if let Some(through) = dropped {
            self.compacted = through.max(self.compacted);
            self.view.compact(through.index);
        }
    }

    pub(crate) fn is_syncing(&self) -> bool {
        self.syncing.is_some()
    }

    /// Starts to make what was appended until now durable. False if one is under way, or nothing is to do.
    pub(crate) fn start_sync(&mut self) -> bool {
        if self.syncing.is_some() || self.synced_bytes == self.file.len() {
            return false;
        }
        self.syncing = Some(self.file.len());
        true
    }

    /// Finishes the sync under way: the last write that it made durable.
    ///
    /// # Errors
    /// If it fails: then nobody knows what is durable.
    pub(crate) fn finish_sync(&mut self) -> Result<Option<WriteId>, WriteFailed> {
        if self.failing == Some(Failing::Sync) {
            self.failing = None;
            return Err(WriteFailed::Error);
        }
        let Some(synced_bytes) = self.syncing.take() else { return Ok(None) };
        self.synced_bytes = synced_bytes;
        let mut last = None;
        while let Some(write) = self.unsynced.front().filter(|write| write.end <= synced_bytes) {
            last = Some(write.id);
            self.unsynced.pop_front();
        }
        Ok(last)
    }

    /// Whether appended writes wait for a sync that has not begun.
    pub(crate) fn wants_sync(&self) -> bool {
        self.syncing.is_none() && self.synced_bytes < self.file.len()
    }

    /// How long the file is.
    pub(crate) fn bytes(&self) -> usize {
        self.file.len()
    }

    /// How many bytes a crash could lose.
    pub(crate) fn unsynced_bytes(&self) -> usize {
        self.file.len() - self.synced_bytes
    }

    /// Loses all but `kept` of the unsynced bytes, and what was compacted unless that is kept. Returns how many of the
    /// unsynced records are still whole.
    pub(crate) fn crash(&mut self, kept: usize, wreck: Wreck, keeps_compaction: bool) -> usize {
        if keeps_compaction {
            self.compacted_durably = self.compacted;
        } else {
            self.compacted = self.compacted_durably;
        }
        let most = self.torn_at.take().unwrap_or(usize::MAX).min(self.file.len());
        let end = most.min(self.synced_bytes.saturating_add(kept));
        let lost = self.file.split_off(end);
        match wreck {
            Wreck::Cut => {}
            Wreck::Zeros(bytes) => self.file.resize(end + bytes, 0),
            Wreck::Rubbish(bytes, mut state) => {
                for _ in 0..bytes {
                    state = fold(state, bytes as u64);
                    self.file.push((state >> 56) as u8);
                }
            }
        }
        // Zeros where there were zeros are nothing lost.
        let spared = self.file[end..].iter().zip(&lost).take_while(|(now, before)| now == before).count();
        self.survivors = self.unsynced.drain(..).map(|write| write.end).collect();
        self.survivors.retain(|written| *written <= end + spared);
        (self.syncing, self.failing) = (None, None);
        self.view = LogView::default();
        self.survivors.len()
    }

    /// Reads the file after a crash. What it keeps is durable from then on.
    pub(crate) fn recover(&mut self) -> Result<LogRecovery, DiskError> {
        let mut reader = RecordReader::new(Bytes::copy_from_slice(&self.file), crc32fast::hash);
        let mut scan = LogScan::default();
        let mut view = LogView::default();
        let mut good = 0;
        loop {
            match reader.next_record() {
                Ok(Some(record)) => {
                    let fed = record.hard_state.map_or(Ok(()), |hard_state| scan.hard_state(hard_state));
                    if let Some(base) = record.reset_to {
                        scan.reset(base);
                    }
                    fed.and_then(|()| scan.entries(&record.entries))
                        .map_err(|error| DiskError::Contradiction { at: good, reason: error.to_string() })?;
                    view.take_in(record.reset_to, &record.entries);
                    good = reader.offset();
                }
                Ok(None) => break,
                // A torn record is what a crash leaves of a write that was never reported durable.
                Err(_) if good >= self.synced_bytes => break,
                Err(error) => {
                    let reason = error.to_string();
                    return Err(DiskError::DamagedBeforeSync { at: good, synced: self.synced_bytes, reason });
                }
            }
        }
        self.file.truncate(good);
        self.synced_bytes = good;
        self.survivors.clear();
        scan.compact(self.compacted_durably);
        let found = scan.finish();
        view.compact(found.base.index);
        self.view = view;
        Ok(found)
    }

    /// Entries from `from` through `through` at most, about `bytes_max` bytes. `None` if `from` is not there.
    pub(crate) fn read(&self, from: LogIndex, through: LogIndex, bytes_max: u64) -> Option<Entries> {
        self.view.read(from, through, bytes_max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{commands, write};
    use raft_core::{HardState, NodeId, Term};

    fn id(index: u64, term: u64) -> LogId {
        LogId::new(Term::new(term), LogIndex::new(index))
    }

    fn hard_state(term: u64) -> Option<HardState> {
        Some(HardState { term: Term::new(term), voted_for: Some(NodeId::new(1)) })
    }

    fn synced(disk: &mut Disk) -> Option<u64> {
        disk.finish_sync().unwrap().map(WriteId::get)
    }

    /// Two synced writes, then two that are not.
    fn disk() -> (Disk, [usize; 4]) {
        let mut disk = Disk::default();
        let mut ends = [0; 4];
        let writes = [
            write(1, hard_state(1), commands(1, 1, &["a", "b", "c"])),
            write(2, hard_state(2), Entries::empty()),
            write(3, None, commands(3, 2, &["d"])),
            write(4, hard_state(3), commands(4, 3, &["e", "f"])),
        ];
        for (at, write) in writes.iter().enumerate() {
            disk.append(0, write).unwrap();
            ends[at] = disk.file.len();
            if at == 1 {
                assert!(disk.start_sync());
                assert!(!disk.start_sync());
                assert_eq!(synced(&mut disk), Some(2));
            }
        }
        (disk, ends)
    }

    #[test]
    fn a_crash_at_every_byte_keeps_a_prefix_of_whole_writes_and_never_less_than_the_synced() {
        let (whole, ends) = disk();
        let tail = whole.unsynced_bytes();
        assert_eq!(tail, ends[3] - ends[1]);
        for kept in 0..=tail {
            for wreck in [Wreck::Cut, Wreck::Zeros(40), Wreck::Rubbish(40, kept as u64)] {
                let (mut disk, _) = self::disk();
                let survived = disk.crash(kept, wreck, true);
                let found = disk.recover().unwrap();
                let end = ends[1] + kept;
                // Zeros and rubbish may happen to be the very bytes that were lost.
                assert!(survived >= usize::from(end >= ends[2]) + usize::from(end >= ends[3]));
                assert!(wreck != Wreck::Cut || end >= ends[survived + 1]);
                let expected = [(0, 2, id(3, 1)), (1, 2, id(3, 2)), (2, 3, id(5, 3))][survived];
                assert_eq!((survived, found.hard_state.term.get(), found.last), expected, "{kept} {wreck:?}");
                assert_eq!(disk.unsynced_bytes(), 0);
                let all = disk.read(LogIndex::FIRST, found.last.index, u64::MAX).unwrap();
                assert_eq!(all.last(), Some(found.last));
                assert_eq!(all.first(), Some(id(1, 1)));
            }
        }
    }

    #[test]
    fn damage_before_the_synced_offset_is_an_error() {
        let (mut disk, ends) = disk();
        disk.crash(0, Wreck::Cut, true);
        for at in 0..ends[1] {
            let mut damaged = Disk { file: disk.file.clone(), synced_bytes: ends[1], ..Disk::default() };
            damaged.file[at] ^= 0x40;
            assert!(damaged.recover().is_err(), "a flipped bit at byte {at} went unseen");
        }
        disk.file.truncate(ends[1] - 1);
        assert!(matches!(disk.recover(), Err(DiskError::DamagedBeforeSync { .. })));
    }

    #[test]
    fn reads_see_the_log_as_the_writes_add_up_to_it() {
        let (disk, _) = disk();
        let read = |from, through, bytes| disk.read(LogIndex::new(from), LogIndex::new(through), bytes);
        let ids = |entries: Option<Entries>| entries.map(|e| e.iter().map(|e| e.id()).collect::<Vec<_>>());
        let log = [id(1, 1), id(2, 1), id(3, 2), id(4, 3), id(5, 3)];
        assert_eq!(ids(read(1, 5, u64::MAX)), Some(log.to_vec()));
        assert_eq!(ids(read(2, 4, u64::MAX)), Some(log[1..4].to_vec()));
        assert_eq!(ids(read(2, 5, 1)), Some(log[1..2].to_vec()));
        assert_eq!(read(6, 9, u64::MAX), None);
    }

    #[test]
    fn a_sync_covers_what_was_appended_before_it_began() {
        let mut disk = Disk::default();
        disk.append(0, &write(1, None, commands(1, 1, &["a"]))).unwrap();
        assert!(disk.start_sync());
        disk.append(0, &write(2, None, commands(2, 1, &["b"]))).unwrap();
        assert!(!disk.wants_sync());
        assert_eq!(synced(&mut disk), Some(1));
        assert!(disk.wants_sync());
        assert_eq!(disk.crash(usize::MAX, Wreck::Cut, true), 1);
    }

    #[test]
    fn a_compaction_may_be_undone_by_a_crash_and_a_reset_drops_everything() {
        let read = |disk: &Disk, from| disk.read(LogIndex::new(from), LogIndex::new(9), u64::MAX);
        for keeps in [false, true] {
            let (mut disk, _) = disk();
            disk.compact(id(1, 1), true);
            assert!(read(&disk, 1).is_some(), "its record holds the second entry too");
            disk.compact(id(2, 1), keeps);
            assert_eq!(read(&disk, 2), None);
            assert_eq!(read(&disk, 3).and_then(|found| found.first()), Some(id(3, 2)));
            disk.crash(usize::MAX, Wreck::Cut, keeps);
            let found = disk.recover().unwrap();
            assert_eq!((found.base, found.last), (if keeps { id(2, 1) } else { LogId::ZERO }, id(5, 3)));
            assert_eq!(read(&disk, 2).is_none(), keeps);
            disk.append(0, &Write { reset_to: Some(id(9, 3)), ..write(5, None, commands(10, 3, &["g"])) })
                .unwrap();
            assert_eq!(read(&disk, 5), None);
            disk.crash(usize::MAX, Wreck::Cut, keeps);
            let found = disk.recover().unwrap();
            assert_eq!((found.base, found.last), (id(9, 3), id(10, 3)));
        }
    }

    #[test]
    fn a_failed_append_leaves_a_torn_record_and_a_full_disk_takes_nothing() {
        let more = write(5, hard_state(4), commands(6, 4, &["g"]));
        let mut bytes = Vec::new();
        encode_record(&more, crc32fast::hash, &mut bytes);
        for kept_bytes in [0, 1, bytes.len() - 1, bytes.len(), usize::MAX] {
            let (mut disk, ends) = disk();
            disk.fail(Failing::Append { kept_bytes });
            assert_eq!(disk.append(0, &more), Err(WriteFailed::Error));
            let whole = usize::from(kept_bytes >= bytes.len());
            assert_eq!(disk.crash(usize::MAX, Wreck::Cut, true), 2 + whole);
            assert_eq!(disk.file.len(), ends[3] + kept_bytes.min(bytes.len()));
            assert_eq!(disk.recover().unwrap().last, [id(5, 3), id(6, 4)][whole]);
        }
        let (mut disk, _) = disk();
        disk.fill(100);
        assert_eq!(disk.append(99, &more), Err(WriteFailed::Full));
        assert_eq!(disk.crash(usize::MAX, Wreck::Cut, true), 2);
        assert_eq!(disk.recover().unwrap().last, id(5, 3));
        assert!(disk.is_full(99));
        disk.append(100, &more).unwrap();
        assert!(disk.start_sync());
        assert_eq!(synced(&mut disk), Some(5));
    }

    #[test]
    fn what_a_failed_append_lacked_may_be_there_all_the_same() {
        // The record ends with a zero, and so does what the file system leaves behind the cut.
        let (mut disk, _) = disk();
        disk.fail(Failing::Append { kept_bytes: 0 });
        let state = Some(HardState { term: Term::new(4), voted_for: None });
        let ends_with_zeros = write(5, state, Entries::empty());
        assert_eq!(disk.append(0, &ends_with_zeros), Err(WriteFailed::Error));
        let bytes = disk.file.len();
        disk.torn_at = Some(bytes - 1);
        assert_eq!(disk.crash(usize::MAX, Wreck::Zeros(9), true), 3);
        assert_eq!(disk.recover().unwrap().hard_state.term.get(), 4);
    }

    #[test]
    fn a_failed_sync_makes_nothing_durable() {
        let (mut disk, _) = disk();
        assert!(disk.start_sync());
        disk.fail(Failing::Sync);
        assert_eq!(disk.finish_sync(), Err(WriteFailed::Error));
        disk.crash(0, Wreck::Cut, true);
        assert_eq!(disk.recover().unwrap().last, id(3, 1));
    }

    #[test]
    fn a_changed_bit_is_an_error_in_the_synced_bytes_and_a_torn_tail_behind_them() {
        let (whole, ends) = disk();
        for bit in 0..whole.file.len() as u64 * 8 {
            let (mut disk, _) = self::disk();
            assert_eq!(disk.crash(usize::MAX, Wreck::Cut, true), 2);
            let found = disk.rot(bit);
            let at = usize::try_from(bit / 8).unwrap();
            if at < ends[1] {
                assert_eq!(found, Rot::Synced);
                assert!(disk.is_rotten() && disk.recover().is_err(), "bit {bit} went unseen");
            } else {
                let whole = usize::from(at >= ends[2]);
                assert_eq!(found, Rot::Tail { whole });
                assert_eq!(disk.recover().unwrap().last, [id(3, 1), id(3, 2)][whole]);
            }
        }
        assert_eq!(Disk::default().rot(7), Rot::Nowhere);
    }
}
