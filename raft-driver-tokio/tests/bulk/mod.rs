//! A state machine that counts the commands that it applies, and whose snapshots are as large as wanted and need no
//! memory: every eighth byte of them begins a number made of its position and of the count.

use std::convert::Infallible;

use bytes::{BufMut, Bytes, BytesMut};
use raft_core::host::{FrozenState, RestoreError, SnapshotSource, StateMachine};
use raft_core::{Entries, EntryRef, SnapshotError};

const CHUNK_BYTES: u64 = 1 << 20;

/// See above.
pub(crate) struct Bulk {
    size_bytes: u64,
    /// Commands applied since the beginning of the log.
    pub(crate) applied: u64,
    /// Bytes of the snapshot that was restored last.
    pub(crate) restored_bytes: u64,
}

impl Bulk {
    /// A state whose snapshots have so many bytes, a multiple of eight, eight at least.
    pub(crate) fn new(size_bytes: u64) -> Self {
        assert!(size_bytes >= 8 && size_bytes.is_multiple_of(8), "whole words, and a first one");
        Self { size_bytes, applied: 0, restored_bytes: 0 }
    }
}

fn word(applied: u64, position: u64) -> u64 {
    (applied << 40) ^ position.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// A state as it was: written out piece by piece.
pub(crate) struct Frozen {
    applied: u64,
    position: u64,
    end: u64,
}

impl FrozenState for Frozen {
    type Error = Infallible;

    fn next_chunk(&mut self) -> Result<Option<Bytes>, Infallible> {
        let until = self.end.min(self.position + CHUNK_BYTES);
        let mut chunk = BytesMut::with_capacity(usize::try_from(until - self.position).expect("a chunk"));
        while self.position < until {
            // The first word says how many commands were applied.
            let word = if self.position == 0 { self.applied } else { word(self.applied, self.position) };
            chunk.put_u64_le(word);
            self.position += 8;
        }
        Ok((!chunk.is_empty()).then(|| chunk.freeze()))
    }
}

impl StateMachine for Bulk {
    type Response = u64;
    type Snapshot = Frozen;
    type Error = Infallible;

    fn apply(&mut self, entries: &Entries, responses: &mut Vec<u64>) -> Result<(), Infallible> {
        for entry in entries.iter() {
            if let EntryRef::Command(..) = entry {
                self.applied += 1;
                responses.push(self.applied);
            }
        }
        Ok(())
    }

    fn snapshot(&mut self) -> Result<Frozen, Infallible> {
        Ok(Frozen { applied: self.applied, position: 0, end: self.size_bytes })
    }

    fn restore(&mut self, source: &mut SnapshotSource<'_>) -> Result<(), RestoreError<Infallible>> {
        let mut bytes = [0; 8];
        source.read_exact(&mut bytes)?;
        let applied = u64::from_le_bytes(bytes);
        let mut position = 8;
        while source.remaining_bytes() > 0 {
            source.read_exact(&mut bytes)?;
            if u64::from_le_bytes(bytes) != word(applied, position) {
                return Err(SnapshotError::Unusable.into());
            }
            position += 8;
        }
        (self.applied, self.restored_bytes) = (applied, position);
        Ok(())
    }
}
