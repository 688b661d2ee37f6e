//! What a server's disk holds: hard state, log, snapshots. It asserts what the core promises its stores.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use raft_core::{
    Entries, HardState, LogId, LogRecovery, LogScan, SnapshotError, SnapshotId, SnapshotMeta, Write,
};

use super::{at, id};

/// A disk. Everything in it survives a crash, but for the snapshot that is coming in.
#[derive(Clone, Debug, Default)]
pub struct Store {
    pub hard_state: HardState,
    /// The entry before the first one stored.
    pub base: LogId,
    pub log: Entries,
    /// Complete snapshots.
    pub snapshots: BTreeMap<SnapshotId, (Arc<SnapshotMeta>, Bytes)>,
    /// The one that is being received.
    pub incoming: Option<(Arc<SnapshotMeta>, Vec<u8>)>,
}

impl Store {
    pub fn write(&mut self, write: &Write) {
        if let Some(hard_state) = write.hard_state {
            assert!(hard_state.term >= self.hard_state.term, "a term never falls (§5.1)");
            let same = hard_state.term == self.hard_state.term;
            let free =
                self.hard_state.voted_for.is_none() || hard_state.voted_for == self.hard_state.voted_for;
            assert!(!same || free, "one vote a term (§5.2)");
            self.hard_state = hard_state;
        }
        if let Some(base) = write.reset_to {
            let held = self.snapshots.keys().any(|snapshot| snapshot.last >= base);
            assert!(held, "the log is dropped through {base} only when a snapshot holds that durably (§7)");
            self.base = base;
            self.log = Entries::empty();
        }
        if let Some(first) = write.entries.first() {
            assert!(first.index > self.base.index, "what a snapshot replaced is not written again");
            let kept = self.log.slice(self.base.index.next(), first.index.prev());
            self.log = Entries::join([kept, write.entries.clone()]).expect("writes leave no gap");
            let begins = self.log.first().map(|first| first.index);
            assert_eq!(begins, Some(self.base.index.next()), "writes leave no gap");
        }
    }

    pub fn compact(&mut self, through: LogId) {
        let held = self.snapshots.keys().any(|snapshot| snapshot.last >= through);
        assert!(held, "nothing is compacted through {through} that no snapshot holds (§7)");
        if through.index <= self.base.index {
            return;
        }
        let last = self.last();
        assert!(through.index <= last.index, "what is compacted is on disk: {through} of {last}");
        self.log = self.log.slice(through.index.next(), last.index);
        self.base = through;
    }

    pub fn last(&self) -> LogId {
        self.log.last().unwrap_or(self.base)
    }

    /// Keeps a chunk of an incoming snapshot.
    pub fn write_chunk(
        &mut self,
        meta: &Arc<SnapshotMeta>,
        offset: u64,
        data: &[u8],
        done: bool,
    ) -> Result<(), SnapshotError> {
        if offset == 0 {
            self.incoming = Some((Arc::clone(meta), Vec::new()));
        }
        let (begun, bytes) = self.incoming.as_mut().expect("a snapshot begins at offset 0");
        assert_eq!(begun, meta, "chunks of one snapshot, in the whole of its meta (TRAP 43)");
        assert_eq!(bytes.len() as u64, offset, "chunks are handed out in order");
        bytes.extend_from_slice(data);
        if !done {
            return Ok(());
        }
        let (meta, bytes) = self.incoming.take().expect("it was there a moment ago");
        if bytes.len() as u64 != meta.size_bytes || digest(&bytes) != meta.digest {
            return Err(SnapshotError::Unusable);
        }
        self.snapshots.insert(meta.id, (meta, bytes.into()));
        Ok(())
    }

    pub fn read_chunk(&self, id: SnapshotId, offset: u64, bytes_max: u64) -> Result<Bytes, SnapshotError> {
        let (_, bytes) = self.snapshots.get(&id).ok_or(SnapshotError::Unusable)?;
        let from = usize::try_from(offset).map_or(bytes.len(), |from| from.min(bytes.len()));
        let through = from.saturating_add(usize::try_from(bytes_max).unwrap_or(usize::MAX)).min(bytes.len());
        Ok(bytes.slice(from..through))
    }

    pub fn forget(&mut self, id: SnapshotId) {
        self.snapshots.remove(&id);
        if self.incoming.as_ref().is_some_and(|(meta, _)| meta.id == id) {
            self.incoming = None;
        }
    }

    /// The newest complete snapshot.
    pub fn newest_snapshot(&self) -> Option<Arc<SnapshotMeta>> {
        self.snapshots.last_key_value().map(|(_, (meta, _))| Arc::clone(meta))
    }

    pub fn recover(&self) -> LogRecovery {
        let mut scan = LogScan::default();
        scan.hard_state(self.hard_state).expect("the first one");
        if self.base != LogId::ZERO {
            scan.reset(self.base);
        }
        scan.entries(&self.log).expect("consecutive");
        scan.finish()
    }
}

pub fn digest(bytes: &[u8]) -> u64 {
    crc32fast::hash(bytes).into()
}

/// The state machine as the bytes of a snapshot: a line for each command, and nothing at all for none.
pub fn machine_bytes(applied: &[(LogId, Vec<u8>)]) -> Bytes {
    let line = |(id, command): &(LogId, Vec<u8>)| format!("{id} {}\n", String::from_utf8_lossy(command));
    applied.iter().map(line).collect::<String>().into()
}

/// What [`machine_bytes`] wrote.
pub fn machine_from(bytes: &[u8]) -> Vec<(LogId, Vec<u8>)> {
    let text = core::str::from_utf8(bytes).expect("a snapshot of this machine");
    let line = |line: &str| {
        let (place, command) = line.split_once(' ').expect("a place and a command");
        let (index, term) = place.split_once('@').expect("index@term");
        let number = |text: &str| text.parse().expect("a number");
        (id(number(term), at(number(index)).get()), command.as_bytes().to_vec())
    };
    text.lines().map(line).collect()
}
