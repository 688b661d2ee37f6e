//! Any log store as an actor.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use actix::{Actor, Addr, Handler, MessageResult, SyncArbiter, SyncContext};
use raft_core::host::{LogReader, LogStore};

use super::log::{CompactLog, GetInitialState, GetLogEntries, SaveLog};

/// An actor around a [`LogStore`], in a `SyncContext` on a thread of its own: for an application in which other actors
/// write to the same store, or read it, in one order with the node. A node alone needs no actor: it takes the store as it is.
///
/// ```
/// use raft_driver_actix::storage::{ActorLog, LogActor, MemoryLog};
/// # actix::System::new().block_on(async {
/// let actor = LogActor::start(MemoryLog::default());
/// let log = ActorLog::new(&actor); // for Builder::start
/// # drop(log);
/// # });
/// ```
pub struct LogActor<L: LogStore> {
    /// `None` for one that stands in for an actor that stopped.
    store: Option<L>,
}

impl<L: LogStore> LogActor<L> {
    /// Starts the actor.
    ///
    /// # Panics
    /// Outside an Actix system, or if there is no thread to be had.
    pub fn start(store: L) -> Addr<Self> {
        let first = Mutex::new(Some(store));
        // Called once: nobody stops the actor but by dropping its addresses.
        SyncArbiter::start(1, move || {
            let mut first = first.lock().unwrap_or_else(PoisonError::into_inner);
            Self { store: first.take() }
        })
    }

    fn store(&mut self) -> &mut L {
        self.store.as_mut().expect("the factory is called once, as the actor never stops itself")
    }
}

impl<L: LogStore> fmt::Debug for LogActor<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LogActor")
    }
}

// A store is never pinned.
impl<L: LogStore> Unpin for LogActor<L> {}

impl<L: LogStore> Actor for LogActor<L> {
    type Context = SyncContext<Self>;
}

impl<L: LogStore> Handler<GetInitialState<L::Error>> for LogActor<L> {
    type Result = MessageResult<GetInitialState<L::Error>>;

    fn handle(&mut self, _: GetInitialState<L::Error>, _: &mut Self::Context) -> Self::Result {
        MessageResult(self.store().recover())
    }
}

impl<L: LogStore> Handler<SaveLog<L::Error>> for LogActor<L> {
    type Result = MessageResult<SaveLog<L::Error>>;

    fn handle(&mut self, save: SaveLog<L::Error>, _: &mut Self::Context) -> Self::Result {
        MessageResult(self.store().write(&save.batch))
    }
}

impl<L: LogStore> Handler<CompactLog<L::Error>> for LogActor<L> {
    type Result = MessageResult<CompactLog<L::Error>>;

    fn handle(&mut self, compact: CompactLog<L::Error>, _: &mut Self::Context) -> Self::Result {
        MessageResult(self.store().compact(compact.through))
    }
}

impl<L: LogStore> Handler<GetLogEntries<L::Error>> for LogActor<L> {
    type Result = MessageResult<GetLogEntries<L::Error>>;

    fn handle(&mut self, read: GetLogEntries<L::Error>, _: &mut Self::Context) -> Self::Result {
        MessageResult(self.store().reader().read(read.from, read.through, read.bytes_max))
    }
}
