//! What a server keeps on its disk: what is durable, and what a crash may spare of the rest.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use raft_core::{
    Entries, Form, HardState, LogId, LogRecovery, LogScan, NodeId, SnapshotError, SnapshotId, SnapshotMeta,
    Write,
};
use twox_hash::XxHash3_64;

use super::Broken;

/// Everything that survives a crash for certain.
#[derive(Clone, Debug, Default)]
pub(super) struct Disk {
    pub(super) hard_state: HardState,
    /// The entry before the first one stored.
    pub(super) base: LogId,
    pub(super) log: Entries,
    /// Complete snapshots.
    snapshots: BTreeMap<SnapshotId, (Arc<SnapshotMeta>, Bytes)>,
    /// The one that is coming in: lost in a crash.
    incoming: Option<(Arc<SnapshotMeta>, Vec<u8>)>,
}

/// In how many places a crash may cut this write: hard state, reset, and each entry.
pub(super) fn parts(write: &Write) -> u64 {
    u64::from(write.hard_state.is_some()) + u64::from(write.reset_to.is_some()) + write.entries.len()
}

impl Disk {
    /// Stores a write.
    pub(super) fn write(&mut self, write: &Write) -> Result<(), Broken> {
        self.write_parts(write, parts(write))
    }

    /// Stores the first parts of what was not synced, as a crash may.
    pub(super) fn crash(&mut self, writes: &VecDeque<Write>, mut kept: u64) -> Result<(), Broken> {
        self.incoming = None;
        for write in writes {
            let of_this = kept.min(parts(write));
            self.write_parts(write, of_this)?;
            kept -= of_this;
        }
        Ok(())
    }

    fn write_parts(&mut self, write: &Write, mut kept: u64) -> Result<(), Broken> {
        if let (Some(hard_state), true) = (write.hard_state, kept > 0) {
            if hard_state.term < self.hard_state.term {
                return Err(Broken::new("disk", format!("the term falls to {hard_state:?}")));
            }
            self.hard_state = hard_state;
            kept -= 1;
        }
        if let (Some(base), true) = (write.reset_to, kept > 0) {
            if !self.snapshots.keys().any(|snapshot| snapshot.last >= base) {
                return Err(Broken::new(
                    "disk",
                    format!("the log is dropped through {base}, and no snapshot holds it"),
                ));
            }
            (self.base, self.log) = (base, Entries::empty());
            kept -= 1;
        }
        let Some(first) = write.entries.first().filter(|_| kept > 0) else { return Ok(()) };
        let entries = write.entries.slice(first.index, first.index.plus(kept - 1));
        let before = self.log.slice(self.base.index.next(), first.index.prev());
        let gap = |what: String| Broken::new("disk", format!("{:?} leaves a gap: {what}", write.entries));
        self.log = Entries::join([before, entries]).map_err(|error| gap(error.to_string()))?;
        if self.log.first().map(|first| first.index) != Some(self.base.index.next()) {
            return Err(gap(format!("the log begins behind {}", self.base)));
        }
        Ok(())
    }

    pub(super) fn last(&self) -> LogId {
        self.log.last().unwrap_or(self.base)
    }

    /// Drops the beginning of the log, which a snapshot holds.
    pub(super) fn compact(&mut self, through: LogId) -> Result<(), Broken> {
        let held = self.snapshots.keys().any(|snapshot| snapshot.last >= through);
        let there = through.index <= self.last().index;
        if !held || !there {
            return Err(Broken::new("disk", format!("compacted through {through}, which no snapshot holds")));
        }
        if through.index > self.base.index {
            self.log = self.log.slice(through.index.next(), self.last().index);
            self.base = through;
        }
        Ok(())
    }

    /// Keeps a chunk; the last one makes the snapshot complete.
    pub(super) fn chunk(
        &mut self,
        meta: &Arc<SnapshotMeta>,
        offset: u64,
        data: &[u8],
        done: bool,
    ) -> Result<(), Broken> {
        if offset == 0 {
            self.incoming = Some((Arc::clone(meta), Vec::new()));
        }
        let Some((begun, bytes)) = &mut self.incoming else {
            return Err(Broken::new("snapshots", format!("{} begins at {offset}", meta.id)));
        };
        if begun != meta || bytes.len() as u64 != offset {
            return Err(Broken::new(
                "snapshots",
                format!("{offset} of {} behind {} of {}", meta.id, bytes.len(), begun.id),
            ));
        }
        bytes.extend_from_slice(data);
        if !done {
            return Ok(());
        }
        let bytes = core::mem::take(bytes);
        if bytes.len() as u64 != meta.size_bytes || XxHash3_64::oneshot(&bytes) != meta.digest {
            return Err(Broken::new("snapshots", format!("{} is put together wrongly", meta.id)));
        }
        self.incoming = None;
        self.keep(Arc::clone(meta), bytes.into());
        Ok(())
    }

    /// A complete snapshot.
    pub(super) fn keep(&mut self, meta: Arc<SnapshotMeta>, bytes: Bytes) {
        self.snapshots.insert(meta.id, (meta, bytes));
    }

    pub(super) fn snapshot(&self, id: SnapshotId) -> Result<&Bytes, SnapshotError> {
        self.snapshots.get(&id).map(|(_, bytes)| bytes).ok_or(SnapshotError::Unusable)
    }

    pub(super) fn forget(&mut self, id: SnapshotId) {
        self.snapshots.remove(&id);
        if self.incoming.as_ref().is_some_and(|(meta, _)| meta.id == id) {
            self.incoming = None;
        }
    }

    pub(super) fn newest_snapshot(&self) -> Option<Arc<SnapshotMeta>> {
        self.snapshots.last_key_value().map(|(_, (meta, _))| Arc::clone(meta))
    }

    pub(super) fn recover(&self) -> Result<LogRecovery, Broken> {
        let mut scan = LogScan::default();
        scan.hard_state(self.hard_state).map_err(|error| Broken::new("disk", error.to_string()))?;
        if self.base != LogId::ZERO {
            scan.reset(self.base);
        }
        scan.entries(&self.log).map_err(|error| Broken::new("disk", error.to_string()))?;
        Ok(scan.finish())
    }

    pub(super) fn add_to(&self, form: &mut Form, of: NodeId) {
        form.add(of, &(self.hard_state, self.base, &self.log));
        let snapshots = self.snapshots.values().map(|(meta, bytes)| (&**meta, bytes));
        form.add(of, &snapshots.collect::<Vec<_>>());
        form.add(of, &self.incoming.as_ref().map(|(meta, bytes)| (&**meta, bytes)));
    }
}
