//! A log that is an actor.

use std::error::Error;
use std::fmt;
use std::marker::PhantomData;

use actix::dev::ToEnvelope;
use actix::{Actor, Addr, Handler, Message, Recipient};
use raft_core::host::{AsyncLogReader, AsyncLogStore};
use raft_core::{Entries, LogId, LogIndex, LogRecovery, Write};
use raft_driver_tokio::storage::AsyncLog;

use super::ActorError;

/// Messages of a storage: each says what it is answered with, and for which type of errors.
macro_rules! storage_messages {
    ($($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty),* $(,)? } -> $result:ty;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug)]
        pub struct $name<E> {
            $($(#[$field_doc])* pub $field: $type,)*
            error: PhantomData<fn() -> E>,
        }

        impl<E> $name<E> {
            /// The message.
            #[allow(clippy::new_without_default, reason = "a message is not made without a reason")]
            #[must_use]
            pub fn new($($field: $type),*) -> Self {
                Self { $($field,)* error: PhantomData }
            }
        }

        impl<E: Send + 'static> Message for $name<E> {
            type Result = Result<$result, E>;
        }
    )*};
}
pub(super) use storage_messages;

storage_messages! {
    /// What survived: asked once, before anything else. See [`LogStore::recover`](raft_core::host::LogStore::recover), and
    /// [`LogScan`](raft_core::LogScan), which makes the answer.
    GetInitialState {} -> LogRecovery;

    /// Performs these writes in order, each as [`Write`] says: hard state, reset, truncation, entries. To be answered when
    /// all of them are durable, after one fsync.
    SaveLog {
        /// What to write.
        batch: Vec<Write>,
    } -> ();

    /// Entries through this one may be dropped: see [`LogStore::compact`](raft_core::host::LogStore::compact).
    CompactLog {
        /// The last entry to drop.
        through: LogId,
    } -> ();

    /// Entries from `from` on, through `through` at most, as many as fit into `bytes_max` and one at least; none if `from`
    /// is not in the log. See [`LogReader::read`](raft_core::host::LogReader::read).
    GetLogEntries {
        /// The first.
        from: LogIndex,
        /// The last, inclusive.
        through: LogIndex,
        /// Where to stop.
        bytes_max: u64,
    } -> Entries;
}

/// An actor that keeps a node's log and hard state: see the [module's head](super). Nothing is to be implemented but the
/// handlers.
pub trait RaftStorage<E: Send + 'static>:
    Actor + Handler<GetInitialState<E>> + Handler<SaveLog<E>> + Handler<CompactLog<E>> + Handler<GetLogEntries<E>>
{
}

impl<A, E> RaftStorage<E> for A
where
    E: Send + 'static,
    A: Actor
        + Handler<GetInitialState<E>>
        + Handler<SaveLog<E>>
        + Handler<CompactLog<E>>
        + Handler<GetLogEntries<E>>,
{
}

/// A [`RaftStorage`] as a log to start a node on.
///
/// It holds the actor's address: an actor in a `Context` ends with the node, unless somebody else holds its address too.
pub struct ActorLog<E: Send + 'static> {
    recover: Recipient<GetInitialState<E>>,
    save: Recipient<SaveLog<E>>,
    compact: Recipient<CompactLog<E>>,
    reader: ActorLogReader<E>,
}

impl<E: Error + Send + Sync + 'static> ActorLog<E> {
    /// The log that this actor keeps.
    #[must_use]
    pub fn new<A: RaftStorage<E>>(actor: &Addr<A>) -> AsyncLog<Self>
    where
        A::Context: ToEnvelope<A, GetInitialState<E>>
            + ToEnvelope<A, SaveLog<E>>
            + ToEnvelope<A, CompactLog<E>>
            + ToEnvelope<A, GetLogEntries<E>>,
    {
        AsyncLog(Self {
            recover: actor.clone().recipient(),
            save: actor.clone().recipient(),
            compact: actor.clone().recipient(),
            reader: ActorLogReader { read: actor.clone().recipient() },
        })
    }
}

impl<E: Send + 'static> fmt::Debug for ActorLog<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ActorLog")
    }
}

impl<E: Error + Send + Sync + 'static> AsyncLogStore for ActorLog<E> {
    type Reader = ActorLogReader<E>;
    type Error = ActorError<E>;

    async fn recover(&mut self) -> Result<LogRecovery, ActorError<E>> {
        ActorError::flatten(self.recover.send(GetInitialState::new()).await)
    }

    async fn write(&mut self, batch: &[Write]) -> Result<(), ActorError<E>> {
        // Entries are shared: a write's clone is a few words.
        ActorError::flatten(self.save.send(SaveLog::new(batch.to_vec())).await)
    }

    async fn compact(&mut self, through: LogId) -> Result<(), ActorError<E>> {
        ActorError::flatten(self.compact.send(CompactLog::new(through)).await)
    }

    fn reader(&self) -> ActorLogReader<E> {
        self.reader.clone()
    }
}

/// Reads an [`ActorLog`].
pub struct ActorLogReader<E: Send + 'static> {
    read: Recipient<GetLogEntries<E>>,
}

impl<E: Send + 'static> Clone for ActorLogReader<E> {
    fn clone(&self) -> Self {
        Self { read: self.read.clone() }
    }
}

impl<E: Send + 'static> fmt::Debug for ActorLogReader<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ActorLogReader")
    }
}

impl<E: Error + Send + Sync + 'static> AsyncLogReader for ActorLogReader<E> {
    type Error = ActorError<E>;

    async fn read(
        &self,
        from: LogIndex,
        through: LogIndex,
        bytes_max: u64,
    ) -> Result<Entries, ActorError<E>> {
        let asked = self.read.send(GetLogEntries::new(from, through, bytes_max)).await;
        let entries = ActorError::flatten(asked)?;
        let outside = entries.first().is_some_and(|first| first.index != from)
            || entries.last().is_some_and(|last| last.index > through);
        if outside { Err(ActorError::Broken("entries that were not asked for")) } else { Ok(entries) }
    }

    fn is_connected(&self) -> bool {
        self.read.connected()
    }
}
