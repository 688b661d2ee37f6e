//! A log whose calls are futures, as one whose calls block.

use std::io;
use std::sync::Arc;

use raft_core::host::{AsyncLogReader, AsyncLogStore, LogReader, LogStore};
use raft_core::{Entries, LogId, LogIndex, LogRecovery, Write};
use tokio::runtime::{Builder, Runtime};

/// An [`AsyncLogStore`] as a [`LogStore`], so that the checks can be run on it. It has a runtime of its own: do not use it
/// within another one.
#[derive(Debug)]
pub struct Blocking<L> {
    store: L,
    runtime: Arc<Runtime>,
}

/// Reads from a [`Blocking`] store.
#[derive(Clone, Debug)]
pub struct BlockingReader<R> {
    reader: R,
    runtime: Arc<Runtime>,
}

impl<L: AsyncLogStore> Blocking<L> {
    /// Opens the store within the runtime in which its calls will run.
    ///
    /// # Errors
    /// If there can be no runtime, or the store cannot be opened.
    pub fn open<E: From<io::Error>>(open: impl AsyncFnOnce() -> Result<L, E>) -> Result<Self, E> {
        let runtime = Arc::new(Builder::new_current_thread().enable_all().build()?);
        let store = runtime.block_on(open())?;
        Ok(Self { store, runtime })
    }
}

impl<L: AsyncLogStore> LogStore for Blocking<L> {
    type Reader = BlockingReader<L::Reader>;
    type Error = L::Error;

    fn recover(&mut self) -> Result<LogRecovery, L::Error> {
        self.runtime.block_on(self.store.recover())
    }

    fn write(&mut self, batch: &[Write]) -> Result<(), L::Error> {
        self.runtime.block_on(self.store.write(batch))
    }

    fn compact(&mut self, through: LogId) -> Result<(), L::Error> {
        self.runtime.block_on(self.store.compact(through))
    }

    fn reader(&self) -> BlockingReader<L::Reader> {
        BlockingReader { reader: self.store.reader(), runtime: Arc::clone(&self.runtime) }
    }
}

impl<R: AsyncLogReader> LogReader for BlockingReader<R> {
    type Error = R::Error;

    fn read(&self, from: LogIndex, through: LogIndex, bytes_max: u64) -> Result<Entries, R::Error> {
        self.runtime.block_on(self.reader.read(from, through, bytes_max))
    }
}
