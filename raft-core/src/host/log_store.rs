//! Where the log and the hard state survive a crash (Figure 2, persistent state).

use crate::action::Write;
use crate::entry::Entries;
use crate::event::{Event, LogReadError};
use crate::ids::{LogId, LogIndex, ReadId};
use crate::recovery::LogRecovery;

/// A durable log. Blocking: a driver runs one that [`MAY_BLOCK`](Self::MAY_BLOCK) on a thread of its own.
///
/// After any failed call the store is not used again: an fsync that failed once is never retried.
pub trait LogStore: Send + 'static {
    /// Reads beside the writes.
    type Reader: LogReader<Error = Self::Error>;
    /// Why it cannot go on. The driver stops the node.
    type Error: core::error::Error + Send + Sync + 'static;

    /// Whether calls wait for a device. If not, they run inline in the node's task.
    const MAY_BLOCK: bool = true;

    /// What survived, asked once before the first write. Reads headers, not payloads; see
    /// [`LogScan`](crate::LogScan). All that it returns is durable: a node counts on it as on what was reported, also on
    /// what a killed process had left in the operating system's caches, so sync that first.
    ///
    /// # Errors
    /// If what is stored is damaged anywhere but in a tail that was never reported durable.
    fn recover(&mut self) -> Result<LogRecovery, Self::Error>;

    /// Performs the writes in order (see [`Write`] for what each means) and returns when all are durable: after
    /// one fsync for the whole batch. A crash in between keeps a prefix of them.
    ///
    /// # Errors
    /// If durability cannot be vouched for.
    fn write(&mut self, batch: &[Write]) -> Result<(), Self::Error>;

    /// Drops entries through `through` at most; the log then begins behind what was dropped. As many are dropped as is
    /// convenient: a store that keeps entries in groups drops whole ones. What is at or before the log's base, or
    /// beyond its end, changes nothing. Need not be durable when it returns, but becomes so before any later
    /// [`write`](Self::write). Its cost should be that of what is dropped, not of what stays.
    ///
    /// # Errors
    /// If the store cannot go on.
    fn compact(&mut self, through: LogId) -> Result<(), Self::Error>;

    /// A reader that does not queue behind [`write`](Self::write). It may outlive the last write, and the store
    /// itself: the directory of a durable store stays locked until its readers are dropped too.
    fn reader(&self) -> Self::Reader;
}

/// Reads entries of a [`LogStore`], while it is being written.
pub trait LogReader: Clone + Send + 'static {
    /// Why it cannot read.
    type Error: core::error::Error + Send + Sync + 'static;

    /// Entries from `from` on, through `through` at most: as many as fit into `bytes_max`
    /// ([`Entries::size_bytes`]), one at least. Empty if `from` is not in the log.
    ///
    /// # Errors
    /// If the log cannot be read, or what is read is damaged.
    fn read(&self, from: LogIndex, through: LogIndex, bytes_max: u64) -> Result<Entries, Self::Error>;
}

/// A durable log whose calls are futures: one that has threads of its own, or is reached over a network. It needs no
/// thread of the driver's.
///
/// Each call means what it means for a [`LogStore`]. A driver makes the next call of the store when the last has
/// returned; reads go on beside them. A driver that stops waits for the call that runs, and for those that were queued.
/// A call that never returns keeps the node from stopping; give it an end. Futures are polled on the driver's
/// runtime and must not block it.
pub trait AsyncLogStore: Send + 'static {
    /// Reads beside the writes.
    type Reader: AsyncLogReader<Error = Self::Error>;
    /// Why it cannot go on. The driver stops the node.
    type Error: core::error::Error + Send + Sync + 'static;

    /// As [`LogStore::recover`].
    ///
    /// # Errors
    /// If what is stored is damaged anywhere but in a tail that was never reported durable.
    fn recover(&mut self) -> impl Future<Output = Result<LogRecovery, Self::Error>> + Send;

    /// As [`LogStore::write`]: ready when all of the batch is durable.
    ///
    /// # Errors
    /// If durability cannot be vouched for.
    fn write(&mut self, batch: &[Write]) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// As [`LogStore::compact`].
    ///
    /// # Errors
    /// If the store cannot go on.
    fn compact(&mut self, through: LogId) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// A reader that does not queue behind [`write`](Self::write).
    fn reader(&self) -> Self::Reader;
}

/// Reads entries of an [`AsyncLogStore`], while it is being written.
pub trait AsyncLogReader: Clone + Send + Sync + 'static {
    /// Why it cannot read.
    type Error: core::error::Error + Send + Sync + 'static;

    /// Whether the store is still there, as far as is known at once. A driver asks now and then, and stops a node whose
    /// store is gone: one that only heartbeats would not notice for long.
    fn is_connected(&self) -> bool {
        true
    }

    /// As [`LogReader::read`].
    ///
    /// # Errors
    /// If the log cannot be read, or what is read is damaged.
    fn read(
        &self,
        from: LogIndex,
        through: LogIndex,
        bytes_max: u64,
    ) -> impl Future<Output = Result<Entries, Self::Error>> + Send;
}

/// What [`Action::ReadLog`](crate::Action::ReadLog) asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogSpan {
    /// To be echoed.
    pub read: ReadId,
    /// The first entry wanted.
    pub from: LogIndex,
    /// The last entry wanted, inclusive.
    pub through: LogIndex,
    /// Where to stop.
    pub bytes_max: u64,
}

impl LogSpan {
    /// Reads it, and returns what to step.
    ///
    /// # Errors
    /// If the log cannot be read: then the node is to be dropped.
    pub fn read<R: LogReader>(self, reader: &R) -> Result<Event, R::Error> {
        Ok(self.found(reader.read(self.from, self.through, self.bytes_max)?))
    }

    /// What to step when this was read.
    #[must_use]
    pub fn found(self, entries: Entries) -> Event {
        let result = if entries.is_empty() { Err(LogReadError::Gone) } else { Ok(entries) };
        Event::LogRead { read: self.read, result }
    }
}
