//! What survives a stop: a log and snapshots. Memory here, files elsewhere.
//!
//! * A write is durable when `write` returns, and a snapshot when its last chunk is kept.
//! * A snapshot counts only once it is complete and its digest is right.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use raft_core::{
    Entries, LogId, LogIndex, LogReadError, LogScan, Recovery, ScanError, SnapshotError, SnapshotId,
    SnapshotMeta, Write,
};

/// A log and snapshots.
#[derive(Default)]
pub(crate) struct Disk {
    /// What recovery needs to know, kept as the log changes. A real store builds it from its files at start.
    scan: LogScan,
    log: Vec<Entries>,
    snapshots: BTreeMap<SnapshotId, (Arc<SnapshotMeta>, Bytes)>,
    incoming: Option<(SnapshotId, Vec<u8>)>,
    starts: u64,
}

impl Disk {
    /// What a node starts from.
    pub(crate) fn recovery(&mut self) -> Recovery {
        self.starts += 1;
        Recovery {
            log: self.scan.clone().finish(),
            snapshot: self.snapshots.values().next_back().map(|(meta, _)| Arc::clone(meta)),
            applied: LogId::ZERO, // the state machine lives in memory
            incarnation: self.starts,
        }
    }

    pub(crate) fn write(&mut self, write: &Write) -> Result<(), ScanError> {
        self.scan.write(write)?;
        if write.reset_to.is_some() {
            self.log.clear();
        }
        if let Some(first) = write.entries.first() {
            self.log.retain_mut(|part| {
                *part = part.slice(LogIndex::ZERO, first.index.prev());
                !part.is_empty()
            });
            self.log.push(write.entries.clone());
        }
        Ok(()) // a real one: after fsync
    }

    pub(crate) fn compact(&mut self, through: LogId) {
        self.scan.compact(through);
        self.log.retain_mut(|part| {
            *part = part.slice(through.index.next(), LogIndex::LIMIT);
            !part.is_empty()
        });
    }

    pub(crate) fn read(
        &self,
        from: LogIndex,
        through: LogIndex,
        bytes_max: u64,
    ) -> Result<Entries, LogReadError> {
        let parts = self.log.iter().map(|part| part.slice(from, through)).filter(|part| !part.is_empty());
        let found = Entries::join(parts).expect("a log is consecutive").prefix(bytes_max);
        if found.first().is_some_and(|first| first.index == from) {
            Ok(found)
        } else {
            Err(LogReadError::Gone)
        }
    }

    /// The bytes of a complete snapshot.
    pub(crate) fn snapshot(&self, id: SnapshotId) -> Option<Bytes> {
        self.snapshots.get(&id).map(|(_, bytes)| bytes.clone())
    }

    /// Keeps a snapshot that was taken here.
    pub(crate) fn keep_snapshot(&mut self, meta: &SnapshotMeta, bytes: Bytes) -> Arc<SnapshotMeta> {
        let (size_bytes, digest) = (bytes.len() as u64, digest(&bytes));
        let meta = Arc::new(SnapshotMeta { size_bytes, digest, ..meta.clone() });
        self.snapshots.insert(meta.id, (Arc::clone(&meta), bytes));
        meta
    }

    pub(crate) fn read_chunk(
        &self,
        id: SnapshotId,
        offset: u64,
        bytes_max: u64,
    ) -> Result<Bytes, SnapshotError> {
        let (meta, bytes) = self.snapshots.get(&id).ok_or(SnapshotError::Unusable)?;
        let from = offset.min(meta.size_bytes) as usize;
        let through = offset.saturating_add(bytes_max).min(meta.size_bytes) as usize;
        Ok(bytes.slice(from..through))
    }

    /// Keeps a part of a snapshot that the leader sends; the last one completes it.
    pub(crate) fn write_chunk(
        &mut self,
        meta: &Arc<SnapshotMeta>,
        offset: u64,
        data: &[u8],
        done: bool,
    ) -> Result<(), SnapshotError> {
        let mut bytes = match self.incoming.take() {
            Some((id, bytes)) if id == meta.id && bytes.len() as u64 == offset => bytes,
            _ if offset == 0 => Vec::new(),
            _ => return Err(SnapshotError::Unusable),
        };
        bytes.extend_from_slice(data);
        if !done {
            self.incoming = Some((meta.id, bytes));
            return Ok(());
        }
        if (bytes.len() as u64, digest(&bytes)) != (meta.size_bytes, meta.digest) {
            return Err(SnapshotError::Unusable);
        }
        self.snapshots.insert(meta.id, (Arc::clone(meta), bytes.into()));
        Ok(())
    }

    pub(crate) fn forget(&mut self, id: SnapshotId) {
        self.snapshots.remove(&id);
        self.incoming.take_if(|(incoming, _)| *incoming == id);
    }
}

/// FNV-1a. A real store uses something stronger.
fn digest(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}
