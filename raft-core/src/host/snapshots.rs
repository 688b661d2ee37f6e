//! Where snapshots are kept (§7), and what every driver does with them.
//!
//! * A snapshot is *complete* once all of its bytes are durable and their length and digest are those of its meta. An
//!   incomplete one is of no use after a restart.
//! * A local one and an incoming one may be written at the same time, while others are read.

use alloc::sync::Arc;
use bytes::Bytes;

use super::frozen::FrozenState;
use crate::ids::LogId;
use crate::snapshot::{SnapshotError, SnapshotId, SnapshotMeta};

/// Keeps snapshots. Blocking, and called from several threads at once: a driver runs it beside the node.
///
/// A failed call harms nothing but its own snapshot: the node goes on, and tries again.
pub trait SnapshotStore: Send + Sync + 'static {
    /// A snapshot that is being written.
    type Writer: SnapshotWriter<Error = Self::Error>;
    /// Why a call failed.
    type Error: core::error::Error + Send + Sync + 'static;

    /// What survived, asked once before anything else: the newest complete snapshot. It is durable, also what a killed
    /// process had left in caches: a node drops the log that it covers. Incomplete ones, and older ones, are dropped
    /// afterwards.
    ///
    /// `log_base` is the entry before the log's first: the entries through there are in a snapshot only. A damaged
    /// snapshot may be passed over if an older one reaches that far, or if the log is whole (its base is
    /// [`LogId::ZERO`]); else it is an error.
    ///
    /// # Errors
    /// If the store cannot be read, durability cannot be vouched for, or the snapshot that is needed is damaged. Nothing
    /// is dropped then.
    fn recover(&self, log_base: LogId) -> Result<Option<Arc<SnapshotMeta>>, Self::Error>;

    /// Begins to write a snapshot. An incomplete one of the same name is dropped; there is no other writer of it.
    ///
    /// # Errors
    /// If it cannot be written.
    fn begin(&self, id: SnapshotId) -> Result<Self::Writer, Self::Error>;

    /// Bytes of a complete snapshot, `bytes_max` of them except at its end.
    ///
    /// # Errors
    /// If it is not there, cannot be read, or is damaged.
    fn read(&self, id: SnapshotId, offset: u64, bytes_max: u64) -> Result<Bytes, SnapshotFault<Self::Error>>;

    /// Drops a snapshot, complete or not, if it is there. Whoever reads it at this moment may be told that it is gone.
    ///
    /// # Errors
    /// If it cannot be dropped. It may be there again after a restart.
    fn forget(&self, id: SnapshotId) -> Result<(), Self::Error>;
}

/// A snapshot that is being written. Dropped before it is finished, it is gone.
pub trait SnapshotWriter: Send + 'static {
    /// Why it cannot go on.
    type Error: core::error::Error + Send + Sync + 'static;

    /// Appends bytes.
    ///
    /// # Errors
    /// If they cannot be kept.
    fn write(&mut self, data: &[u8]) -> Result<(), Self::Error>;

    /// Length and digest of what was written.
    fn written(&self) -> Written;

    /// Returns when the snapshot is complete, and durable: after fsync. Its length and digest are those in `meta`.
    ///
    /// # Errors
    /// If durability cannot be vouched for.
    fn finish(self, meta: &SnapshotMeta) -> Result<(), Self::Error>;
}

/// Length and digest of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// How many.
    pub size_bytes: u64,
    /// Their checksum: see [`SnapshotMeta::digest`].
    pub digest: u64,
}

/// Why something about a snapshot was not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotFault<E> {
    /// The store failed.
    #[error("{0}")]
    Failed(E),
    /// The snapshot is not what was written.
    #[error("{0}")]
    Damaged(E),
    /// The snapshot, or what came before this part of it, is not there.
    #[error("it is not there")]
    Missing,
    /// All of it came, and it is not what was announced.
    #[error("it has {} bytes of digest {:x} instead of {} of {:x}",
        found.size_bytes, found.digest, expected.size_bytes, expected.digest)]
    Different {
        /// What came.
        found: Written,
        /// What was announced.
        expected: Written,
    },
}

impl<E> From<SnapshotFault<E>> for SnapshotError {
    fn from(fault: SnapshotFault<E>) -> Self {
        match fault {
            SnapshotFault::Failed(_) => Self::Failed,
            SnapshotFault::Damaged(_) | SnapshotFault::Missing | SnapshotFault::Different { .. } => {
                Self::Unusable
            }
        }
    }
}

// --- what every driver does with them ------------------------------------------------------------------------------

/// Why a frozen state was not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SaveError<S, F> {
    /// The store failed.
    #[error("the snapshot store failed: {0}")]
    Store(S),
    /// The state could not be read.
    #[error("the frozen state cannot be read: {0}")]
    State(F),
    /// The node is about to stop.
    #[error("the node stops")]
    Stopped,
}

/// Keeps a frozen state, durably, and returns `meta` with its size and digest: the outcome of
/// [`MachineTask::TakeSnapshot`](crate::MachineTask::TakeSnapshot). Given up as soon as `stopped` says so.
///
/// # Errors
/// If the state cannot be read or kept. Nothing is left of it then.
pub fn save_snapshot<S: SnapshotStore, F: FrozenState>(
    store: &S,
    meta: &SnapshotMeta,
    mut state: F,
    stopped: impl Fn() -> bool,
) -> Result<Arc<SnapshotMeta>, SaveError<S::Error, F::Error>> {
    let mut writer = store.begin(meta.id).map_err(SaveError::Store)?;
    while let Some(chunk) = state.next_chunk().map_err(SaveError::State)? {
        if stopped() {
            return Err(SaveError::Stopped);
        }
        writer.write(&chunk).map_err(SaveError::Store)?;
    }
    let Written { size_bytes, digest } = writer.written();
    let meta = SnapshotMeta { size_bytes, digest, ..meta.clone() };
    writer.finish(&meta).map_err(SaveError::Store)?;
    Ok(Arc::new(meta))
}

/// What [`SnapshotTask::Write`](crate::SnapshotTask::Write) asks for.
#[derive(Clone, Debug, PartialEq)]
pub struct SnapshotChunk {
    /// Of which snapshot.
    pub meta: Arc<SnapshotMeta>,
    /// From where.
    pub offset: u64,
    /// Its bytes.
    pub data: Bytes,
    /// Whether the snapshot ends with them.
    pub done: bool,
}

/// The snapshot that is being received, if there is one: puts its chunks together.
#[derive(Debug)]
pub struct IncomingSnapshot<W> {
    current: Option<(SnapshotId, W)>,
}

impl<W> Default for IncomingSnapshot<W> {
    fn default() -> Self {
        Self { current: None }
    }
}

impl<W: SnapshotWriter> IncomingSnapshot<W> {
    /// Performs a task. After a failure, nothing is left of the snapshot.
    ///
    /// # Errors
    /// If the chunk is not kept.
    pub fn write<S: SnapshotStore<Writer = W, Error = W::Error>>(
        &mut self,
        store: &S,
        chunk: &SnapshotChunk,
    ) -> Result<(), SnapshotFault<W::Error>> {
        let SnapshotChunk { meta, offset, data, done } = chunk;
        let before = self.current.take();
        let mut writer = if *offset == 0 {
            // Gone before its successor is there: it may have the same name.
            drop(before);
            store.begin(meta.id).map_err(SnapshotFault::Failed)?
        } else {
            let continued =
                before.filter(|(id, writer)| *id == meta.id && writer.written().size_bytes == *offset);
            continued.ok_or(SnapshotFault::Missing)?.1
        };
        writer.write(data).map_err(SnapshotFault::Failed)?;
        if !*done {
            self.current = Some((meta.id, writer));
            return Ok(());
        }
        let expected = Written { size_bytes: meta.size_bytes, digest: meta.digest };
        let found = writer.written();
        if found != expected {
            return Err(SnapshotFault::Different { found, expected });
        }
        writer.finish(meta).map_err(SnapshotFault::Failed)
    }

    /// Performs [`SnapshotTask::Forget`](crate::SnapshotTask::Forget).
    ///
    /// # Errors
    /// If the store cannot drop it.
    pub fn forget<S: SnapshotStore<Writer = W, Error = W::Error>>(
        &mut self,
        store: &S,
        id: SnapshotId,
    ) -> Result<(), W::Error> {
        self.current.take_if(|(current, _)| *current == id);
        store.forget(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::clients::tests::id;
    use crate::host::frozen::tests::meta;
    use alloc::collections::BTreeMap;
    use alloc::vec;
    use alloc::vec::Vec;
    use core::cell::Cell;
    use core::convert::Infallible;
    use std::sync::Mutex;

    type Kept = Arc<Mutex<BTreeMap<SnapshotId, Vec<u8>>>>;

    /// Keeps bytes; the digest is their sum.
    #[derive(Default)]
    struct Store(Kept);

    struct Writer {
        kept: Kept,
        id: SnapshotId,
        bytes: Vec<u8>,
    }

    impl SnapshotStore for Store {
        type Writer = Writer;
        type Error = Infallible;

        fn recover(&self, _: LogId) -> Result<Option<Arc<SnapshotMeta>>, Infallible> {
            Ok(None)
        }

        fn begin(&self, id: SnapshotId) -> Result<Writer, Infallible> {
            Ok(Writer { kept: Arc::clone(&self.0), id, bytes: Vec::new() })
        }

        fn read(&self, _: SnapshotId, _: u64, _: u64) -> Result<Bytes, SnapshotFault<Infallible>> {
            Err(SnapshotFault::Missing)
        }

        fn forget(&self, id: SnapshotId) -> Result<(), Infallible> {
            self.0.lock().unwrap().remove(&id);
            Ok(())
        }
    }

    impl SnapshotWriter for Writer {
        type Error = Infallible;

        fn write(&mut self, data: &[u8]) -> Result<(), Infallible> {
            self.bytes.extend_from_slice(data);
            Ok(())
        }

        fn written(&self) -> Written {
            let digest = self.bytes.iter().map(|byte| u64::from(*byte)).sum();
            Written { size_bytes: self.bytes.len() as u64, digest }
        }

        fn finish(self, meta: &SnapshotMeta) -> Result<(), Infallible> {
            assert_eq!(self.written(), Written { size_bytes: meta.size_bytes, digest: meta.digest });
            self.kept.lock().unwrap().insert(self.id, self.bytes);
            Ok(())
        }
    }

    struct Counting(u8);

    impl FrozenState for Counting {
        type Error = Infallible;

        fn next_chunk(&mut self) -> Result<Option<Bytes>, Infallible> {
            self.0 += 1;
            Ok((self.0 <= 4).then(|| vec![self.0; self.0.into()].into()))
        }
    }

    #[test]
    fn a_saved_state_has_its_size_and_digest_and_a_stop_leaves_nothing() {
        let store = Store::default();
        let asked = Cell::new(0);
        let stopped = || asked.replace(asked.get() + 1) == 2;
        assert_eq!(save_snapshot(&store, &meta(id(7), 0), Counting(0), stopped), Err(SaveError::Stopped));
        assert!(store.0.lock().unwrap().is_empty());
        let saved = save_snapshot(&store, &meta(id(7), 0), Counting(0), || false).unwrap();
        assert_eq!((saved.size_bytes, saved.digest), (10, 30));
        assert_eq!(store.0.lock().unwrap()[&saved.id], [1, 2, 2, 3, 3, 3, 4, 4, 4, 4]);
    }

    #[test]
    fn chunks_are_put_together_in_order_only_and_checked_at_the_end() {
        let store = Store::default();
        let mut incoming = IncomingSnapshot::default();
        let meta = Arc::new(SnapshotMeta { digest: 6, ..meta(id(7), 3) });
        let mut other = (*meta).clone();
        other.id.seq += 1;
        let other = Arc::new(other);
        let mut write = |meta: &Arc<SnapshotMeta>, offset, data: &[u8], done| {
            let data = Bytes::copy_from_slice(data);
            incoming.write(&store, &SnapshotChunk { meta: Arc::clone(meta), offset, data, done })
        };
        assert_eq!(write(&meta, 1, &[2], false), Err(SnapshotFault::Missing), "nothing came before");
        write(&meta, 0, &[1], false).unwrap();
        assert_eq!(write(&meta, 2, &[3], true), Err(SnapshotFault::Missing), "a gap");
        assert_eq!(write(&meta, 1, &[2], false), Err(SnapshotFault::Missing), "gone after a failure");
        write(&other, 0, &[1], false).unwrap();
        assert_eq!(write(&meta, 1, &[2], false), Err(SnapshotFault::Missing), "another one's");
        write(&meta, 0, &[1, 2], false).unwrap();
        write(&meta, 0, &[1, 2], false).unwrap();
        assert!(matches!(write(&meta, 2, &[4], true), Err(SnapshotFault::Different { .. })));
        assert!(store.0.lock().unwrap().is_empty());
        write(&meta, 0, &[1, 2], false).unwrap();
        write(&meta, 2, &[3], true).unwrap();
        assert_eq!(store.0.lock().unwrap()[&meta.id], [1, 2, 3]);
        incoming.forget(&store, meta.id).unwrap();
        assert!(store.0.lock().unwrap().is_empty());
    }
}
