//! The simulated snapshot store of one server: complete snapshots survive a crash, everything else does not.
//!
//! * A snapshot is complete only when its last chunk is there, its size and digest are right, and a sync of its own
//!   has finished. A crash that comes while that sync is under way may or may not leave it complete.
//! * What was forgotten may be there again after a crash: removing a file is durable late, if at all.
//! * A bit of a complete snapshot may change while the server is down: then the store must not be used.
//! * It is strict with its node: a chunk that does not continue what was written before is a finding.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use raft_core::{LogId, SnapshotId, SnapshotMeta};
use twox_hash::XxHash3_64;

/// A snapshot that is complete.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    pub(crate) meta: Arc<SnapshotMeta>,
    pub(crate) bytes: Bytes,
}

impl Stored {
    /// What the state machine handed over, with the size and digest filled in.
    pub(crate) fn seal(meta: &SnapshotMeta, bytes: Bytes) -> Self {
        let (size_bytes, digest) = (bytes.len() as u64, XxHash3_64::oneshot(&bytes));
        Self { meta: Arc::new(SnapshotMeta { size_bytes, digest, ..meta.clone() }), bytes }
    }

    fn verify(&self) -> Result<(), String> {
        let (bytes, digest) = (self.bytes.len() as u64, XxHash3_64::oneshot(&self.bytes));
        let right = (bytes, digest) == (self.meta.size_bytes, self.meta.digest);
        let of = self.meta.id;
        right
            .then_some(())
            .ok_or_else(|| format!("{of} has {bytes} bytes with digest {digest:x}: {:?}", self.meta))
    }
}

#[derive(Debug)]
struct Incoming {
    meta: Arc<SnapshotMeta>,
    bytes: Vec<u8>,
    /// Its last chunk is there, and the sync that makes it complete is under way.
    whole: bool,
}

/// The store.
#[derive(Debug, Default)]
pub(crate) struct SnapshotStore {
    complete: BTreeMap<SnapshotId, Stored>,
    /// Taken here, and not durable yet.
    taking: Option<Stored>,
    incoming: Option<Incoming>,
    /// Removed since the last start.
    removed: Vec<Stored>,
    /// In the newest one a bit has changed.
    rotten: bool,
}

impl SnapshotStore {
    /// A snapshot is being taken: complete once [`taken`](Self::taken) is called.
    pub(crate) fn take(&mut self, stored: Stored) {
        self.taking = Some(stored);
    }

    /// The snapshot that was being taken has failed. Returns what it would have replaced.
    pub(crate) fn drop_taking(&mut self) -> Option<LogId> {
        self.taking.take().map(|lost| lost.meta.id.last)
    }

    /// The snapshot that was being taken is durable.
    pub(crate) fn taken(&mut self) -> Option<Stored> {
        let stored = self.taking.take()?;
        self.complete.insert(stored.meta.id, stored.clone());
        Some(stored)
    }

    /// Keeps a chunk of an incoming snapshot.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub(crate) fn write(
        &mut self,
        meta: &Arc<SnapshotMeta>,
        offset: u64,
        data: &[u8],
        done: bool,
    ) -> Result<(), String> {
        if offset == 0 {
            self.incoming = Some(Incoming { meta: Arc::clone(meta), bytes: Vec::new(), whole: false });
        }
        let Some(incoming) = &mut self.incoming else {
            return Err(format!("a chunk of {} at {offset} continues nothing", meta.id));
        };
        if incoming.meta != *meta || incoming.bytes.len() as u64 != offset || incoming.whole {
            let (of, at) = (incoming.meta.id, incoming.bytes.len());
            return Err(format!("a chunk of {} at {offset} does not continue {of} at {at}", meta.id));
        }
        incoming.bytes.extend_from_slice(data);
        incoming.whole = done;
        if done {
            let whole =
                Stored { meta: Arc::clone(meta), bytes: Bytes::from(std::mem::take(&mut incoming.bytes)) };
            whole.verify()?;
            incoming.bytes = whole.bytes.into();
        }
        Ok(())
    }

    /// The incoming snapshot, if its last chunk is there, is durable from now on.
    pub(crate) fn completed(&mut self, id: SnapshotId) -> Option<Stored> {
        let incoming = self.incoming.take_if(|incoming| incoming.whole && incoming.meta.id == id)?;
        let stored = Stored { meta: incoming.meta, bytes: incoming.bytes.into() };
        self.complete.insert(id, stored.clone());
        Some(stored)
    }

    /// A part of a complete snapshot.
    pub(crate) fn read(&self, id: SnapshotId, offset: u64, bytes_max: u64) -> Option<Bytes> {
        let bytes = &self.complete.get(&id)?.bytes;
        let from = usize::try_from(offset).ok().filter(|from| *from <= bytes.len())?;
        let rest = bytes.len() - from;
        Some(bytes.slice(from..from + rest.min(usize::try_from(bytes_max).unwrap_or(rest))))
    }

    /// A complete snapshot.
    pub(crate) fn get(&self, id: SnapshotId) -> Option<&Stored> {
        self.complete.get(&id)
    }

    /// The complete snapshot with the greatest last entry.
    pub(crate) fn newest(&self) -> Option<&Stored> {
        self.complete.values().next_back()
    }

    /// While the server is down a bit of the newest snapshot changes. False if there is none.
    pub(crate) fn rot(&mut self, bit: u64) -> bool {
        let Some(mut newest) = self.complete.last_entry() else { return false };
        let mut bytes = newest.get().bytes.to_vec();
        let Some(bit) = bit.checked_rem(bytes.len() as u64 * 8) else { return false };
        bytes[(bit / 8) as usize] ^= 1 << (bit % 8);
        newest.get_mut().bytes = bytes.into();
        self.rotten = true;
        true
    }

    /// Whether the check at a start has to fail.
    pub(crate) fn is_rotten(&self) -> bool {
        self.rotten
    }

    /// Looks at the newest snapshot, as a start does.
    ///
    /// # Errors
    /// If its bytes are not what its meta says.
    pub(crate) fn verify(&self) -> Result<(), String> {
        self.newest().map_or(Ok(()), Stored::verify)
    }

    /// Every complete one.
    pub(crate) fn complete(&self) -> impl Iterator<Item = SnapshotId> + '_ {
        self.complete.keys().copied()
    }

    /// How many snapshots lie here, complete or not.
    pub(crate) fn count(&self) -> usize {
        self.complete.len() + usize::from(self.taking.is_some()) + usize::from(self.incoming.is_some())
    }

    /// Drops a snapshot, complete or not.
    pub(crate) fn forget(&mut self, id: SnapshotId) {
        self.incoming.take_if(|incoming| incoming.meta.id == id);
        self.removed.extend(self.complete.remove(&id));
    }

    /// Loses what is not complete; `lucky`: what was about to be complete is, and what was removed is there again.
    pub(crate) fn crash(&mut self, lucky: bool) {
        let whole = self.incoming.take().filter(|incoming| incoming.whole);
        let arriving = whole.map(|incoming| Stored { meta: incoming.meta, bytes: incoming.bytes.into() });
        let taking = self.taking.take();
        let removed = std::mem::take(&mut self.removed);
        if lucky {
            for stored in arriving.into_iter().chain(taking).chain(removed) {
                self.complete.insert(stored.meta.id, stored);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::snapshot_meta;

    fn store() -> (SnapshotStore, Stored) {
        let stored = Stored::seal(&snapshot_meta(5, 2, 1), Bytes::from_static(b"0123456789"));
        (SnapshotStore::default(), stored)
    }

    #[test]
    fn a_snapshot_is_complete_only_after_its_last_chunk_and_sync() {
        let (mut store, Stored { meta, bytes }) = store();
        store.write(&meta, 0, &bytes[..4], false).unwrap();
        assert!(store.completed(meta.id).is_none());
        store.write(&meta, 4, &bytes[4..], true).unwrap();
        assert!(store.newest().is_none());
        assert!(store.completed(meta.id).is_some());
        assert_eq!(store.read(meta.id, 8, 100), Some(bytes.slice(8..)));
        assert_eq!(store.read(meta.id, 2, 3), Some(bytes.slice(2..5)));
        assert_eq!(store.read(meta.id, 11, 3), None);
        store.forget(meta.id);
        assert!(store.read(meta.id, 0, 1).is_none());
    }

    #[test]
    fn spliced_chunks_are_seen() {
        let (mut store, Stored { meta, bytes }) = store();
        let mut other = (*meta).clone();
        other.id.seq = 9;
        let other = Arc::new(other);
        assert!(store.write(&meta, 4, &bytes[4..], true).is_err());
        store.write(&meta, 0, &bytes[..4], false).unwrap();
        assert!(store.write(&meta, 5, &bytes[5..], true).is_err());
        assert!(store.write(&other, 4, &bytes[4..], true).is_err());
        assert!(store.write(&meta, 4, b"abcdef", true).unwrap_err().contains("digest"));
    }

    #[test]
    fn a_crash_loses_what_is_not_complete_and_may_bring_back_what_was_removed() {
        for lucky in [false, true] {
            let (mut store, stored) = store();
            let meta = Arc::clone(&stored.meta);
            store.take(stored.clone());
            assert!(store.newest().is_none());
            store.crash(lucky);
            assert_eq!(store.newest().is_some(), lucky);
            store.take(stored);
            assert!(store.taken().is_some());
            store.crash(false);
            assert!(store.get(meta.id).is_some());
            store.forget(meta.id);
            store.crash(lucky);
            assert_eq!(store.complete().count(), usize::from(lucky));
            store.write(&meta, 0, b"01", false).unwrap();
            assert_eq!(store.count(), usize::from(lucky) + 1);
            store.crash(true);
            assert_eq!(store.count(), usize::from(lucky));
        }
    }

    #[test]
    fn a_changed_bit_is_seen_at_the_start() {
        let (mut store, stored) = store();
        assert!(!store.rot(5));
        let bits = stored.bytes.len() as u64 * 8;
        for bit in 0..bits {
            store.take(stored.clone());
            assert!(store.taken().is_some());
            assert_eq!(store.verify(), Ok(()));
            assert!(store.rot(bit + bits) && store.is_rotten());
            assert!(store.verify().unwrap_err().contains("digest"), "bit {bit} went unseen");
        }
    }
}
