//! What is read of a group: its two ends, all that a recovery needs, and entries.

use raft_core::host::{AsyncLogReader, LogReader};
use raft_core::{Entries, LogIndex, LogRecovery, LogScan};
use redb::{AccessGuard, ReadableDatabase, ReadableTable, StorageError};

use std::ops::RangeInclusive;
use std::sync::Arc;

use super::error::DurableError;
use super::group::{Group, State};
use super::layout::{self, LOG, Meta, Stamp};
use super::pending::Tail;
use super::write::Ends;

/// The keys of a group's blocks that begin at `first` or later.
pub(super) fn blocks(group: u64, first: LogIndex) -> RangeInclusive<(u64, u64)> {
    (group, first.get())..=(group, u64::MAX)
}

type Pair<'a> = Result<(AccessGuard<'a, (u64, u64)>, AccessGuard<'a, &'static [u8]>), StorageError>;

pub(super) fn key_value<'a>(
    pair: Pair<'a>,
) -> Result<(LogIndex, AccessGuard<'a, &'static [u8]>), DurableError> {
    let (key, value) = pair?;
    Ok((LogIndex::new(key.value().1), value))
}

/// What the two ends of a group's log say: the meta record and the last block.
pub(super) struct Found {
    /// Of the last change.
    pub(super) stamp: Stamp,
    pub(super) meta: Meta,
    pub(super) ends: Ends,
}

impl Found {
    /// `None` if the group was never written.
    pub(super) fn read(
        table: &impl ReadableTable<(u64, u64), &'static [u8]>,
        group: u64,
    ) -> Result<Option<Self>, DurableError> {
        let Some(record) = table.get((group, 0))? else { return Ok(None) };
        let (mut stamp, meta) = layout::decode_meta(group, record.value())?;
        let mut ends = Ends { base: meta.base, last: meta.base };
        if let Some(block) = table.range(blocks(group, LogIndex::FIRST))?.next_back() {
            let (index, value) = key_value(block)?;
            let header = layout::decode_header(group, index, value.value())?;
            ends.last = header.last;
            // Of the same change they are the same.
            if header.stamp.sequence > stamp.sequence {
                stamp = header.stamp;
            }
        }
        Ok(Some(Self { stamp, meta, ends }))
    }

    /// Whether the group was removed, and some of it is still there.
    pub(super) fn is_partly_removed(&self) -> bool {
        self.meta.is_removed && self.ends.last != self.meta.base
    }
}

/// The groups that were ever written, one after the other.
pub(super) fn groups(
    table: &impl ReadableTable<(u64, u64), &'static [u8]>,
    mut each: impl FnMut(u64, Found),
) -> Result<(), DurableError> {
    let mut next = Some(0);
    while let Some(group) = next {
        let Some(record) = table.range((group, 0)..)?.next() else { break };
        let (group, index) = record?.0.value();
        let found = if index == 0 { Found::read(table, group)? } else { None };
        let found = found.ok_or_else(|| {
            DurableError::Damaged(format!("group {group} has entries, but its meta record is missing"))
        })?;
        each(group, found);
        next = group.checked_add(1);
    }
    Ok(())
}

impl Group {
    /// Reads what was stored, of redb's blocks the headers only.
    pub(super) fn recover(&self) -> Result<LogRecovery, DurableError> {
        // Before redb: what is written there meanwhile is not missed.
        let tail = self.tail(|tail| (tail.hard_state, tail.first(), tail.parts.clone()));
        self.call(|database| {
            let table = database.begin_read()?.open_table(LOG)?;
            let found = Found::read(&table, self.id)?;
            let State { hard_state, ends, .. } = State::of(found);
            let (hard_state, tail_first, parts) = tail.unwrap_or((hard_state, None, Vec::new()));
            let mut scan = LogScan::default();
            scan.reset(ends.base);
            for block in table.range(blocks(self.id, LogIndex::FIRST))? {
                let (index, value) = key_value(block)?;
                if tail_first.is_some_and(|first| index >= first) {
                    break;
                }
                let header = layout::decode_header(self.id, index, value.value())?;
                if index != scan.last().index.next() {
                    let what = format_args!("it should follow {}", scan.last());
                    return Err(DurableError::damaged(index, what));
                }
                if header.is_run {
                    scan.run(header.first, header.last.index)?;
                } else {
                    scan.entries(&layout::decode_block(self.id, index, value.value())?)?;
                }
            }
            for part in parts {
                scan.entries(&part)?;
            }
            scan.hard_state(hard_state)?;
            Ok(scan.finish())
        })
    }

    fn read(&self, from: LogIndex, through: LogIndex, bytes_max: u64) -> Result<Entries, DurableError> {
        // Before redb, as above.
        let tail = |tail: &Tail| Some((tail.follows, tail.first()?, tail.read(from, through, bytes_max)));
        let tail = self.tail(tail).flatten();
        if let Some((_, first, more)) = &tail
            && from >= *first
        {
            let found = self.call(|_| Ok(Entries::join(more.iter().cloned())))?;
            return Ok(found.map_err(|error| DurableError::damaged(from, error))?.prefix(bytes_max));
        }
        let (mut found, more) = self.call(|database| {
            if from == LogIndex::ZERO || from > through {
                return Ok((Vec::new(), Vec::new()));
            }
            let table = database.begin_read()?.open_table(LOG)?;
            let (stored, more) = match tail {
                // Otherwise redb has it by now, or what took its place.
                Some((follows, first, more))
                    if State::of(Found::read(&table, self.id)?).sequence == follows =>
                {
                    (through.min(first.prev()), more)
                }
                _ => (through, Vec::new()),
            };
            // `from` lies in the last block that does not begin behind it, if it is in the log.
            let Some(holder) = table.range((self.id, 1)..=(self.id, from.get()))?.next_back() else {
                return Ok((Vec::new(), Vec::new()));
            };
            let (start, holder) = key_value(holder)?;
            if layout::decode_header(self.id, start, holder.value())?.last.index < from {
                return Ok((Vec::new(), Vec::new()));
            }
            let mut found = Vec::new();
            let mut bytes = 0;
            for block in table.range((self.id, start.get())..=(self.id, stored.get()))? {
                let (index, value) = key_value(block)?;
                let part = layout::decode_block(self.id, index, value.value())?.slice(from, stored);
                bytes += part.size_bytes();
                found.push(part);
                if bytes >= bytes_max {
                    break;
                }
            }
            Ok((found, more))
        })?;
        // What follows it, unless `bytes_max` was reached before.
        let end = found.last().and_then(Entries::last);
        if more.first().and_then(Entries::first).map(|first| first.index.prev()) == end.map(|end| end.index) {
            found.extend(more);
        }
        let found = Entries::join(found).map_err(|error| DurableError::damaged(from, error))?;
        Ok(found.prefix(bytes_max))
    }
}

/// Reads a [`DurableLog`](super::DurableLog) or a [`GroupLog`](super::GroupLog), beside its writes. The group, and the
/// directory of the store, stay in use until its readers are dropped.
#[derive(Clone, Debug)]
pub struct DurableReader(pub(super) Arc<Group>);

impl DurableReader {
    /// How many fsyncs the store made since it was opened, whichever group they were for.
    #[must_use]
    pub fn syncs(&self) -> u64 {
        self.0.syncs()
    }
}

impl LogReader for DurableReader {
    type Error = DurableError;

    fn read(&self, from: LogIndex, through: LogIndex, bytes_max: u64) -> Result<Entries, DurableError> {
        self.0.read(from, through, bytes_max)
    }
}

/// On the blocking pool of the current runtime.
impl AsyncLogReader for DurableReader {
    type Error = DurableError;

    async fn read(&self, from: LogIndex, through: LogIndex, bytes_max: u64) -> Result<Entries, DurableError> {
        let group = Arc::clone(&self.0);
        blocking(move || group.read(from, through, bytes_max)).await
    }
}

/// Runs a call on the blocking pool of the current runtime.
pub(super) async fn blocking<T: Send + 'static>(
    call: impl FnOnce() -> Result<T, DurableError> + Send + 'static,
) -> Result<T, DurableError> {
    // It fails only if the runtime ends, and takes whoever waits with it.
    let called = tokio::task::spawn_blocking(call).await;
    called.unwrap_or_else(|error| Err(DurableError::Failed(error.to_string().into())))
}
