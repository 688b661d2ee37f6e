//! The log as a node sees it (§5.3): the term index for all of it, payloads for a bounded tail, and the
//! configurations in it (§6).
//!
//! * The tail is a suffix of the log. Entries leave it only when durable, so what is not in the tail can be
//!   read from the log store.
//! * The configuration in force is the last one in the log, durable and committed or not (§6).

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::entry::{BLOCK_BYTES, BlockBody, Entries, Window};
use crate::error::StartError;
use crate::ids::{LogId, LogIndex, Term};
use crate::membership::Membership;
use crate::recovery::LogRecovery;
use crate::snapshot::{SnapshotMeta, TermRun};
use crate::terms::TermIndex;

#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(crate) struct Log {
    pub(crate) terms: TermIndex,
    tail: Tail,
    /// The configurations in the log, after the one that was in force at its base.
    memberships: Vec<(LogIndex, Arc<Membership>)>,
    /// In force while the log holds no configuration.
    nobody: Arc<Membership>,
}

impl Log {
    /// The log that a store holds, its payloads all there; refused if it contradicts itself, the hard state, the
    /// snapshot, or what the state machine has applied: then something was lost or rolled back (TRAPS 7, 29).
    ///
    /// Also whether the log must be replaced by the snapshot, which was complete before the log knew of it (TRAP 41).
    pub(crate) fn recover(
        found: LogRecovery,
        snapshot: Option<&SnapshotMeta>,
        applied: LogId,
    ) -> Result<(Self, bool), StartError> {
        let LogRecovery { hard_state, base, last, terms, memberships } = found;
        let terms = TermIndex::new(base, terms, last).ok_or(StartError::BadTerms { base, last })?;
        if base != LogId::ZERO && snapshot.is_none_or(|snapshot| snapshot.id.last.index < base.index) {
            return Err(StartError::MissingSnapshot(base));
        }
        if hard_state.term >= Term::LIMIT {
            return Err(StartError::TermTooLarge(hard_state.term));
        }
        if hard_state.term < last.term {
            return Err(StartError::HardStateBehindLog { hard_state: hard_state.term, last });
        }
        let mut before = base.index;
        for (index, membership) in &memberships {
            if *index <= before || *index > last.index {
                return Err(StartError::MembershipIndex(*index));
            }
            membership.validate().map_err(|error| StartError::Membership(*index, error))?;
            before = *index;
        }
        let mut log = Self { terms, tail: Tail::default(), memberships, nobody: Arc::default() };
        let mut replaced = false;
        if let Some(snapshot) = snapshot {
            snapshot.validate()?;
            let id = snapshot.id.last;
            if hard_state.term < id.term {
                return Err(StartError::HardStateBehindSnapshot { hard_state: hard_state.term, last: id });
            }
            replaced = log.term(id.index) != Some(id.term);
            if replaced {
                log.reset(snapshot);
            } else {
                log.terms.remember(&snapshot.terms);
                log.memberships.retain(|(index, _)| *index > id.index);
                log.memberships.insert(0, (snapshot.membership_index, Arc::clone(&snapshot.membership)));
            }
        }
        // What the snapshot replaces need not be looked at: the machine gets all of it again.
        let last = log.last();
        match log.term(applied.index) {
            None if applied.index > last.index => Err(StartError::AppliedBeyondLog { applied, last }),
            Some(term) if term != applied.term => Err(StartError::AppliedDiffers { applied, term }),
            _ => Ok((log, replaced)),
        }
    }

    /// Drops entries through `through`, which a snapshot holds (§7). The configuration in force there stays known.
    pub(crate) fn compact(&mut self, through: LogId) {
        self.terms.compact(through);
        let later = self.memberships.partition_point(|(index, _)| *index <= through.index);
        self.memberships.drain(..later.saturating_sub(1));
    }

    /// Replaces everything by what a snapshot holds (§7).
    pub(crate) fn reset(&mut self, snapshot: &SnapshotMeta) {
        self.terms.reset(snapshot.id.last, &snapshot.terms);
        self.tail = Tail::default();
        self.memberships.clear();
        self.memberships.push((snapshot.membership_index, Arc::clone(&snapshot.membership)));
    }

    /// The configuration in force as of the entry at `index`, and where it stands.
    pub(crate) fn membership_as_of(&self, index: LogIndex) -> Option<(LogIndex, &Arc<Membership>)> {
        let later = self.memberships.partition_point(|(at, _)| *at <= index);
        let (at, membership) = self.memberships.get(later.checked_sub(1)?)?;
        Some((*at, membership))
    }

    /// The runs of equal terms that a snapshot through `index` tells of.
    pub(crate) fn history(&self, index: LogIndex) -> Arc<[TermRun]> {
        self.terms.history(index).into()
    }

    pub(crate) fn last(&self) -> LogId {
        self.terms.last()
    }

    pub(crate) fn last_index(&self) -> LogIndex {
        self.terms.last().index
    }

    /// The term of the entry at `index`; `None` outside the log.
    pub(crate) fn term(&self, index: LogIndex) -> Option<Term> {
        self.terms.term(index)
    }

    /// The configuration in force and its index; index zero if there is none.
    pub(crate) fn membership(&self) -> (LogIndex, &Arc<Membership>) {
        self.memberships.last().map_or((LogIndex::ZERO, &self.nobody), |(index, found)| (*index, found))
    }

    /// The configuration at exactly this index.
    pub(crate) fn membership_at(&self, index: LogIndex) -> Option<&Arc<Membership>> {
        let at = self.memberships.binary_search_by_key(&index, |(index, _)| *index).ok()?;
        Some(&self.memberships[at].1)
    }

    /// Appends one block's entries right after the last.
    #[inline(always)]
    pub(crate) fn append(&mut self, window: Window) {
        let (first, last) = (window.first_index(), window.last_index());
        assert!(first == self.last_index().next(), "a log has no gaps (§5.3)");
        self.terms.append(window.term(), last);
        if let BlockBody::Membership(membership) = window.body() {
            self.memberships.push((first, Arc::clone(membership)));
        }
        self.tail.push(window);
    }

    /// Drops every entry from `from` on, and with them the configurations among them (§6).
    pub(crate) fn truncate(&mut self, from: LogIndex) {
        self.terms.truncate(from);
        self.tail.truncate(from);
        while self.memberships.pop_if(|(index, _)| *index >= from).is_some() {}
    }

    /// The first index whose payload is in memory; one past the end if none is.
    pub(crate) fn tail_first(&self) -> LogIndex {
        self.tail.first().unwrap_or(self.last_index().next())
    }

    /// Entries `[from, through]`, cut to the limits but at least one, or `None` if `from` is not in the tail.
    #[inline(always)]
    pub(crate) fn slice(
        &self,
        from: LogIndex,
        through: LogIndex,
        entries_max: u64,
        bytes_max: u64,
    ) -> Option<Entries> {
        match self.tail.newest(from, through) {
            Some(window) if window.len() <= entries_max && window.size_bytes() <= bytes_max => {
                Some(Entries::from_window(window.clone()))
            }
            _ => self.cut(from, through, entries_max, bytes_max),
        }
    }

    /// As [`slice`](Self::slice), wherever it lies.
    #[inline(never)]
    fn cut(&self, from: LogIndex, through: LogIndex, entries_max: u64, bytes_max: u64) -> Option<Entries> {
        let through = through.min(self.last_index());
        if from > through {
            return Some(Entries::empty());
        }
        self.tail.slice(from, through, entries_max, bytes_max)
    }

    /// Bytes of entries after `index`, as far as they are in the tail.
    pub(crate) fn bytes_after(&self, index: LogIndex) -> u64 {
        if index >= self.last_index() { 0 } else { self.tail.bytes_after(index) }
    }

    /// Drops durable entries from memory until the tail has at most `bytes_max` bytes.
    #[inline]
    pub(crate) fn evict(&mut self, durable: LogIndex, bytes_max: u64) {
        self.tail.evict(durable, bytes_max);
    }

    /// Checks entries that the log store returned for `[from, through]` against the term index (§5.3).
    pub(crate) fn is_own(&self, entries: &Entries, from: LogIndex, through: LogIndex) -> bool {
        let in_range = entries.first().is_some_and(|first| first.index == from)
            && entries.last().is_some_and(|last| last.index <= through);
        in_range
            && entries.windows().iter().all(|window| {
                self.terms
                    .first_difference(window.term(), window.first_index(), window.last_index())
                    .is_none()
            })
    }
}

/// One block of the tail and where it ends, counted in bytes from the first block ever.
#[derive(Clone, Debug)]
struct Slot {
    window: Window,
    end_bytes: u64,
}

#[derive(Clone, Debug, Default)]
struct Tail {
    slots: VecDeque<Slot>,
    start_bytes: u64,
    /// Where the last slot ends.
    end_bytes: u64,
}

impl Tail {
    fn first(&self) -> Option<LogIndex> {
        self.slots.front().map(|slot| slot.window.first_index())
    }

    #[inline(always)]
    fn push(&mut self, window: Window) {
        self.end_bytes += window.size_bytes();
        self.slots.push_back(Slot { window, end_bytes: self.end_bytes });
    }

    /// The window that is exactly `[from, through]`, if it is the last one or the one before: a log that is kept up with
    /// is read a block at a time.
    #[inline]
    fn newest(&self, from: LogIndex, through: LogIndex) -> Option<&Window> {
        let mut slot = self.slots.back()?;
        if slot.window.first_index() > from {
            slot = self.slots.get(self.slots.len().wrapping_sub(2))?;
        }
        (slot.window.first_index() == from && slot.window.last_index() == through).then_some(&slot.window)
    }

    /// The slot that contains `index` or, if `index` is before the tail, its first.
    fn slot_at(&self, index: LogIndex) -> usize {
        // The newest entries are asked for most.
        match self.slots.back() {
            Some(slot) if slot.window.first_index() <= index => self.slots.len() - 1,
            _ => self.slots.partition_point(|slot| slot.window.last_index() < index),
        }
    }

    fn truncate(&mut self, from: LogIndex) {
        while let Some(slot) = self.slots.pop_back() {
            self.end_bytes = slot.end_bytes - slot.window.size_bytes();
            if slot.window.first_index() >= from {
                continue;
            }
            let window = slot.window.narrow(slot.window.first_index(), from.prev());
            self.push(window.expect("the slot begins before the cut"));
            break;
        }
    }

    fn bytes_after(&self, index: LogIndex) -> u64 {
        let at = self.slots.partition_point(|slot| slot.window.last_index() <= index);
        match self.slots.get(at) {
            Some(slot) => self.end_bytes - (slot.end_bytes - slot.window.size_bytes()),
            None => 0,
        }
    }

    #[inline]
    fn evict(&mut self, durable: LogIndex, bytes_max: u64) {
        if self.end_bytes - self.start_bytes > bytes_max {
            self.evict_some(durable, bytes_max);
        }
    }

    #[inline(never)]
    fn evict_some(&mut self, durable: LogIndex, bytes_max: u64) {
        while self.end_bytes - self.start_bytes > bytes_max
            && let Some(slot) = self.slots.pop_front_if(|slot| slot.window.last_index() <= durable)
        {
            self.start_bytes = slot.end_bytes;
        }
    }

    fn slice(&self, from: LogIndex, through: LogIndex, entries_max: u64, bytes_max: u64) -> Option<Entries> {
        if self.first().is_none_or(|first| first > from) {
            return None;
        }
        let at = self.slot_at(from);
        let cut = |slot: &Slot, from, entries_max, bytes_max| {
            let window = slot.window.narrow(from, through).expect("the slot overlaps the range");
            if window.len() <= entries_max && window.size_bytes() <= bytes_max {
                (window, false)
            } else {
                (window.prefix(entries_max, bytes_max), true)
            }
        };
        let (first, full) = cut(&self.slots[at], from, entries_max, bytes_max);
        if full || first.last_index() == through {
            return Some(Entries::from_window(first));
        }
        let mut bytes = bytes_max - first.size_bytes();
        let mut entries = entries_max - first.len();
        let windows_max = entries.min(bytes / BLOCK_BYTES).saturating_add(1);
        let room = usize::try_from(windows_max).unwrap_or(usize::MAX);
        let mut windows = Vec::with_capacity((self.slots.len() - at).min(room));
        windows.push(first);
        for slot in self.slots.range(at + 1..) {
            // A further block that fits only in part is left for the next slice: blocks stay whole.
            if slot.window.first_index() > through || entries == 0 {
                break;
            }
            let (window, _) = cut(slot, slot.window.first_index(), entries, u64::MAX);
            if window.size_bytes() > bytes {
                break;
            }
            bytes -= window.size_bytes();
            entries -= window.len();
            windows.push(window);
        }
        Some(Entries::from_windows(windows))
    }
}

#[cfg(feature = "serde")]
mod serde_impl {
    //! The tail travels as its entries.

    use super::{Entries, Tail, Window};
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    impl Serialize for Tail {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            Entries::from_windows(self.slots.iter().map(|slot| slot.window.clone()).collect())
                .serialize(serializer)
        }
    }

    impl<'de> Deserialize<'de> for Tail {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            let mut tail = Self::default();
            Entries::deserialize(deserializer)?
                .windows()
                .iter()
                .map(Window::clone)
                .for_each(|w| tail.push(w));
            Ok(tail)
        }
    }
}

/// Bytes of entries that await something, by where they end in the log. What was committed or applied is out of
/// the count by its index alone, and a leader begins with an empty one, so nothing can leak (TRAP 32).
#[derive(Clone, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(crate) struct Backlog {
    /// (last index, bytes through it), both rising.
    ends: VecDeque<(LogIndex, u64)>,
    start_bytes: u64,
}

impl Backlog {
    pub(crate) fn push(&mut self, last: LogIndex, bytes: u64) {
        let end = self.ends.back().map_or(self.start_bytes, |(_, end)| *end) + bytes;
        self.ends.push_back((last, end));
    }

    /// Everything at or before `index` is done.
    pub(crate) fn drain(&mut self, index: LogIndex) {
        // Most often that is all there is.
        if let Some((last, end)) = self.ends.back()
            && *last <= index
        {
            self.start_bytes = *end;
            return self.ends.clear();
        }
        while let Some((_, end)) = self.ends.pop_front_if(|(last, _)| *last <= index) {
            self.start_bytes = end;
        }
    }

    /// Bytes that end after `index`.
    pub(crate) fn after(&self, index: LogIndex) -> u64 {
        let at = self.ends.partition_point(|(last, _)| *last <= index);
        let start = if at == 0 { self.start_bytes } else { self.ends[at - 1].1 };
        self.ends.back().map_or(0, |(_, end)| end - start)
    }

    /// Bytes in all.
    pub(crate) fn bytes(&self) -> u64 {
        self.ends.back().map_or(0, |(_, end)| end - self.start_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::Commands;
    use alloc::vec;

    /// Blocks of these lengths, one after the other.
    fn log(blocks: &[usize]) -> Log {
        let (mut log, _) = Log::recover(LogRecovery::default(), None, LogId::ZERO).expect("an empty log");
        for count in blocks {
            let commands: Commands = (0..*count).map(|at| vec![0; at]).collect();
            let first = LogId::new(Term::new(2), log.last_index().next());
            let entries = Entries::commands(first, &commands);
            entries.windows().iter().for_each(|window| log.append(window.clone()));
        }
        log
    }

    #[test]
    fn every_slice_is_what_was_appended() {
        let log = log(&[1, 3, 1, 2, 2]);
        for (from, through) in (1..=9).flat_map(|from| (from..=9).map(move |through| (from, through))) {
            let found = log.slice(LogIndex::new(from), LogIndex::new(through), u64::MAX, u64::MAX);
            let ids = found.iter().flat_map(Entries::iter).map(|entry| entry.id().index.get());
            assert!(ids.eq(from..=through), "{found:?}");
            let one = log.slice(LogIndex::new(from), LogIndex::new(through), 1, u64::MAX);
            assert_eq!(one.map(|one| one.len()), Some(1), "limits hold for the newest blocks too");
        }
    }

    #[test]
    fn the_tail_counts_its_bytes_whatever_is_cut_off() {
        let mut log = log(&[1, 3, 1, 2, 2]);
        let held = |log: &Log| log.tail.slots.iter().map(|slot| slot.window.size_bytes()).sum::<u64>();
        assert_eq!((log.bytes_after(LogIndex::ZERO), log.bytes_after(LogIndex::new(9))), (held(&log), 0));
        let last_two = held(&log) - log.tail.slots[0].end_bytes - log.tail.slots[1].window.size_bytes();
        log.evict(LogIndex::new(4), last_two);
        assert_eq!(
            (log.tail_first(), log.tail.end_bytes - log.tail.start_bytes),
            (LogIndex::new(5), held(&log))
        );
        log.truncate(LogIndex::new(7));
        assert_eq!((log.last_index(), log.bytes_after(LogIndex::new(4))), (LogIndex::new(6), held(&log)));
        log.evict(LogIndex::new(6), 0);
        assert_eq!((log.tail_first(), log.bytes_after(LogIndex::ZERO)), (LogIndex::new(7), 0));
    }
}
