//! The simulated disk: a file of bytes in the shipped record format, of which only a prefix survives a crash.
//!
//! * A write is appended at once and is not durable until a sync that began after it has finished.
//! * A crash keeps the synced bytes and any beginning of the others, cut at any byte; after the cut there may
//!   be zeros or rubbish, as file systems leave them.
//! * Recovery reads the bytes, drops a torn record after the synced bytes, and fails on damage before them.
//! * A record is there or not. A write may be stored as several records, one for each of its parts and for pieces of
//!   its entries, so that a crash can cut it between them.
//! * A compaction is done at once for those who read, and a crash may undo it.

use std::collections::VecDeque;

use bytes::Bytes;
use raft_core::wire::{RecordReader, encode_record};
use raft_core::{Entries, LogId, LogIndex, LogRecovery, LogScan, Write, WriteId};

use crate::rng::fold;

/// Why a disk cannot be used after a crash. Each is a bug: of the format, or of whoever wrote.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum DiskError {
    #[error("record at byte {at} of {synced} synced ones is damaged: {reason}")]
    DamagedBeforeSync { at: usize, synced: usize, reason: String },
    #[error("record at byte {at} contradicts those before it: {reason}")]
    Contradiction { at: usize, reason: String },
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
    view: LogView,
    /// Through where entries were dropped by a compaction, and how much of that a crash cannot undo.
    compacted: LogId,
    compacted_durably: LogId,
}

/// The parts of a write in the order in which they are stored, its entries in as many pieces.
pub(crate) fn parts_of(write: &Write, pieces: u64) -> Vec<Write> {
    let part = |entries| Write { id: write.id, hard_state: None, reset_to: None, entries };
    let mut parts = Vec::new();
    if write.hard_state.is_some() {
        parts.push(Write { hard_state: write.hard_state, ..part(Entries::empty()) });
    }
    if write.reset_to.is_some() {
        parts.push(Write { reset_to: write.reset_to, ..part(Entries::empty()) });
    }
    if let Some((mut first, last)) = write.entries.first().zip(write.entries.last()) {
        let step = write.entries.len().div_ceil(pieces.max(1));
        while first.index <= last.index {
            let next = first.index.plus(step);
            parts.push(part(write.entries.slice(first.index, next.prev())));
            first.index = next;
        }
    }
    if parts.is_empty() {
        parts.push(part(Entries::empty()));
    }
    parts
}

impl Disk {
    /// Appends a write, or a part of one, as a record. It is not durable yet.
    pub(crate) fn append(&mut self, write: &Write) {
        encode_record(write, crc32fast::hash, &mut self.file);
        self.unsynced.push_back(Unsynced { id: write.id, end: self.file.len() });
        self.view.take_in(write.reset_to, &write.entries);
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

    /// Starts to make what was appended until now durable. False if one is under way, or nothing is to do.
    pub(crate) fn start_sync(&mut self) -> bool {
        if self.syncing.is_some() || self.synced_bytes == self.file.len() {
            return false;
        }
        self.syncing = Some(self.file.len());
        true
    }

    /// Finishes the sync under way: the last write that it made durable.
    pub(crate) fn finish_sync(&mut self) -> Option<WriteId> {
        self.synced_bytes = self.syncing.take()?;
        let mut last = None;
        while let Some(write) = self.unsynced.front().filter(|write| write.end <= self.synced_bytes) {
            last = Some(write.id);
            self.unsynced.pop_front();
        }
        last
    }

    /// Whether appended writes wait for a sync that has not begun.
    pub(crate) fn wants_sync(&self) -> bool {
        self.syncing.is_none() && self.synced_bytes < self.file.len()
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
        let end = self.file.len().min(self.synced_bytes.saturating_add(kept));
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
        let whole = self.unsynced.iter().filter(|write| write.end <= end + spared).count();
        self.unsynced.clear();
        self.syncing = None;
        self.view = LogView::default();
        whole
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

/// The log as the records add up to it: what a read sees.
#[derive(Default)]
struct LogView {
    /// Consecutive, none empty.
    parts: Vec<Entries>,
}

fn first_of(entries: &Entries) -> LogIndex {
    entries.first().map_or(LogIndex::ZERO, |id| id.index)
}

fn last_of(entries: &Entries) -> LogIndex {
    entries.last().map_or(LogIndex::ZERO, |id| id.index)
}

impl LogView {
    fn take_in(&mut self, reset_to: Option<LogId>, entries: &Entries) {
        if reset_to.is_some() {
            self.parts.clear();
        }
        self.replace_from(entries);
    }

    /// The last entry of the last record that ends at or before `through`.
    fn last_record_within(&self, through: LogIndex) -> Option<LogId> {
        let within = self.parts.partition_point(|part| last_of(part) <= through);
        self.parts.get(within.checked_sub(1)?)?.last()
    }

    fn compact(&mut self, through: LogIndex) {
        let dropped = self.parts.partition_point(|part| last_of(part) <= through);
        self.parts.drain(..dropped);
        if let Some(part) = self.parts.first_mut()
            && first_of(part) <= through
        {
            *part = part.slice(through.next(), last_of(part));
        }
    }

    fn replace_from(&mut self, entries: &Entries) {
        if entries.is_empty() {
            return;
        }
        let first = first_of(entries);
        while self.parts.pop_if(|part| first_of(part) >= first).is_some() {}
        if let Some(part) = self.parts.last_mut()
            && last_of(part) >= first
        {
            *part = part.slice(first_of(part), first.prev());
        }
        self.parts.push(entries.clone());
    }

    fn read(&self, from: LogIndex, through: LogIndex, bytes_max: u64) -> Option<Entries> {
        let start = self.parts.partition_point(|part| last_of(part) < from);
        let mut found = Vec::new();
        let mut bytes = 0;
        for part in self.parts.get(start..)? {
            if first_of(part) > through || bytes >= bytes_max {
                break;
            }
            let part = part.slice(from, through);
            bytes += part.size_bytes();
            found.push(part);
        }
        let joined = Entries::join(found).expect("the parts of a view are consecutive");
        (joined.first()?.index == from).then(|| joined.prefix(bytes_max))
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
            disk.append(write);
            ends[at] = disk.file.len();
            if at == 1 {
                assert!(disk.start_sync());
                assert!(!disk.start_sync());
                assert_eq!(disk.finish_sync().map(WriteId::get), Some(2));
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
        disk.append(&write(1, None, commands(1, 1, &["a"])));
        assert!(disk.start_sync());
        disk.append(&write(2, None, commands(2, 1, &["b"])));
        assert!(!disk.wants_sync());
        assert_eq!(disk.finish_sync().map(WriteId::get), Some(1));
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
            disk.append(&Write { reset_to: Some(id(9, 3)), ..write(5, None, commands(10, 3, &["g"])) });
            assert_eq!(read(&disk, 5), None);
            disk.crash(usize::MAX, Wreck::Cut, keeps);
            let found = disk.recover().unwrap();
            assert_eq!((found.base, found.last), (id(9, 3), id(10, 3)));
        }
    }

    #[test]
    fn a_write_can_be_cut_between_its_parts_in_their_order() {
        let whole =
            Write { reset_to: Some(id(6, 2)), ..write(1, hard_state(3), commands(7, 3, &["a", "b", "c"])) };
        let parts = parts_of(&whole, 2);
        let shapes: Vec<_> = parts
            .iter()
            .map(|part| (part.hard_state.is_some(), part.reset_to.is_some(), part.entries.len()))
            .collect();
        assert_eq!(shapes, [(true, false, 0), (false, true, 0), (false, false, 2), (false, false, 1)]);
        assert_eq!(Entries::join(parts.into_iter().map(|part| part.entries)).unwrap(), whole.entries);
        assert_eq!(parts_of(&write(1, None, Entries::empty()), 3).len(), 1);
    }
}
