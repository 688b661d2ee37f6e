//! Snapshots in memory: for tests, and beside a log that lives there too.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use raft_core::host::{SnapshotFault, SnapshotStore, SnapshotWriter, Written};
use raft_core::{LogId, SnapshotId, SnapshotMeta};
use xxhash_rust::xxh3::xxh3_64;

/// Snapshots in memory. Clones are the same store, so that a test can restart a node over what the node before it left.
#[derive(Clone, Debug, Default)]
pub struct MemorySnapshots(Arc<Mutex<Kept>>);

/// Complete ones only.
type Kept = BTreeMap<SnapshotId, (Arc<SnapshotMeta>, Bytes)>;

impl MemorySnapshots {
    /// The names of those that are complete.
    #[must_use]
    pub fn complete(&self) -> Vec<SnapshotId> {
        self.kept().keys().copied().collect()
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        // Each use is one call on the map.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SnapshotStore for MemorySnapshots {
    type Writer = MemoryWriter;
    type Error = Infallible;

    fn recover(&self, _log_base: LogId) -> Result<Option<Arc<SnapshotMeta>>, Infallible> {
        let mut kept = self.kept();
        let newest = kept.pop_last();
        kept.clear();
        let meta = newest.as_ref().map(|(_, (meta, _))| Arc::clone(meta));
        kept.extend(newest);
        Ok(meta)
    }

    fn begin(&self, id: SnapshotId) -> Result<MemoryWriter, Infallible> {
        Ok(MemoryWriter { store: self.clone(), id, bytes: Vec::new() })
    }

    fn read(&self, id: SnapshotId, offset: u64, bytes_max: u64) -> Result<Bytes, SnapshotFault<Infallible>> {
        let kept = self.kept();
        let (_, bytes) = kept.get(&id).ok_or(SnapshotFault::Missing)?;
        let place = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(bytes.len());
        Ok(bytes.slice(place(offset)..place(offset.saturating_add(bytes_max))))
    }

    fn forget(&self, id: SnapshotId) -> Result<(), Infallible> {
        self.kept().remove(&id);
        Ok(())
    }
}

/// A snapshot on its way into [`MemorySnapshots`].
#[derive(Debug)]
pub struct MemoryWriter {
    store: MemorySnapshots,
    id: SnapshotId,
    bytes: Vec<u8>,
}

impl SnapshotWriter for MemoryWriter {
    type Error = Infallible;

    fn write(&mut self, data: &[u8]) -> Result<(), Infallible> {
        self.bytes.extend_from_slice(data);
        Ok(())
    }

    fn written(&self) -> Written {
        Written { size_bytes: self.bytes.len() as u64, digest: xxh3_64(&self.bytes) }
    }

    fn finish(self, meta: &SnapshotMeta) -> Result<(), Infallible> {
        self.store.kept().insert(self.id, (Arc::new(meta.clone()), self.bytes.into()));
        Ok(())
    }
}
