//! A state machine's state as bytes (§7): how it gives them for a snapshot, and takes them from one.
//!
//! * Bytes move a piece at a time: nobody has to hold a whole snapshot in memory.
//! * A state is *frozen* at one point of the machine lane, and written out beside later writes.

use alloc::vec::Vec;
use bytes::Bytes;
use core::convert::Infallible;
use core::fmt;

use crate::ids::LogId;
use crate::snapshot::{SnapshotError, SnapshotMeta};

/// The state of a machine at one point, as bytes. Read on another thread than the machine's, while that goes on.
pub trait FrozenState: Send + 'static {
    /// Why it cannot be read. The snapshot is given up then, and the node goes on.
    type Error: core::error::Error + Send + Sync + 'static;

    /// Its next bytes, as many as is convenient; `None` at the end.
    ///
    /// # Errors
    /// If they cannot be read.
    fn next_chunk(&mut self) -> Result<Option<Bytes>, Self::Error>;
}

/// A small state, all of it at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WholeState(Option<Bytes>);

impl WholeState {
    /// A state whose snapshot is these bytes.
    #[must_use]
    pub fn new(bytes: impl Into<Bytes>) -> Self {
        Self(Some(bytes.into()))
    }
}

impl FrozenState for WholeState {
    type Error = Infallible;

    fn next_chunk(&mut self) -> Result<Option<Bytes>, Infallible> {
        Ok(self.0.take())
    }
}

/// How much of a snapshot is read at once.
const CHUNK_BYTES: u64 = 256 * 1024;

/// A complete snapshot, from its first byte to its last.
pub struct SnapshotSource<'a> {
    meta: &'a SnapshotMeta,
    read: &'a mut dyn FnMut(u64, u64) -> Result<Bytes, SnapshotError>,
    offset: u64,
    /// Read, and not yet taken.
    rest: Bytes,
}

impl<'a> SnapshotSource<'a> {
    /// For drivers: the snapshot of this meta. `read` is given an offset and a length, and returns bytes from there on,
    /// at least one.
    pub fn new(
        meta: &'a SnapshotMeta,
        read: &'a mut dyn FnMut(u64, u64) -> Result<Bytes, SnapshotError>,
    ) -> Self {
        Self { meta, read, offset: 0, rest: Bytes::new() }
    }

    /// The last entry whose effect is in the snapshot.
    #[must_use]
    pub fn last(&self) -> LogId {
        self.meta.id.last
    }

    /// How many bytes are left.
    #[must_use]
    pub fn remaining_bytes(&self) -> u64 {
        self.meta.size_bytes.saturating_sub(self.offset) + self.rest.len() as u64
    }

    /// The next bytes; `None` at the end.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn next_chunk(&mut self) -> Result<Option<Bytes>, SnapshotError> {
        if self.rest.is_empty() {
            self.fill()?;
        }
        let chunk = core::mem::take(&mut self.rest);
        Ok((!chunk.is_empty()).then_some(chunk))
    }

    /// Fills `out` with the next bytes.
    ///
    /// # Errors
    /// If they cannot be read, or there are fewer.
    pub fn read_exact(&mut self, mut out: &mut [u8]) -> Result<(), SnapshotError> {
        while !out.is_empty() {
            if self.rest.is_empty() {
                self.fill()?;
            }
            let count = out.len().min(self.rest.len());
            if count == 0 {
                return Err(SnapshotError::Unusable);
            }
            let (now, later) = out.split_at_mut(count);
            now.copy_from_slice(&self.rest.split_to(count));
            out = later;
        }
        Ok(())
    }

    /// All that is left.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn read_to_end(&mut self) -> Result<Vec<u8>, SnapshotError> {
        let mut all = Vec::new();
        while let Some(chunk) = self.next_chunk()? {
            all.extend_from_slice(&chunk);
        }
        Ok(all)
    }

    fn fill(&mut self) -> Result<(), SnapshotError> {
        let left = self.meta.size_bytes.saturating_sub(self.offset);
        if left > 0 {
            let wanted = left.min(CHUNK_BYTES);
            let found = (self.read)(self.offset, wanted)?;
            if found.is_empty() || found.len() as u64 > wanted {
                return Err(SnapshotError::Unusable);
            }
            self.offset += found.len() as u64;
            self.rest = found;
        }
        Ok(())
    }
}

impl fmt::Debug for SnapshotSource<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SnapshotSource").field("meta", self.meta).field("offset", &self.offset).finish()
    }
}

/// Why a state machine could not take a snapshot's state. The driver stops the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError<E> {
    /// The snapshot cannot be read.
    #[error(transparent)]
    Source(#[from] SnapshotError),
    /// Its bytes are none of this machine's.
    #[error("the snapshot is not one of this state machine: {0}")]
    Malformed(&'static str),
    /// The machine failed.
    #[error("{0}")]
    Machine(E),
}

impl<E> RestoreError<E> {
    /// The same, of a machine whose failures are part of another's.
    pub fn map_machine<F>(self, map: impl FnOnce(E) -> F) -> RestoreError<F> {
        match self {
            Self::Source(error) => RestoreError::Source(error),
            Self::Malformed(what) => RestoreError::Malformed(what),
            Self::Machine(error) => RestoreError::Machine(map(error)),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::host::clients::tests::id;
    use crate::ids::{LogIndex, NodeId};
    use crate::membership::Membership;
    use crate::snapshot::{SnapshotId, TermRun};
    use alloc::sync::Arc;

    pub(crate) fn meta(last: LogId, size_bytes: u64) -> SnapshotMeta {
        let node = NodeId::new(1);
        let membership = Membership::of_voters([(node, Bytes::from_static(b"here"))].into());
        SnapshotMeta {
            id: SnapshotId { last, taken_by: node, seq: 1 },
            membership: Arc::new(membership),
            membership_index: LogIndex::FIRST,
            size_bytes,
            digest: 0,
            terms: Arc::new([TermRun { term: last.term, first: LogIndex::FIRST }]),
        }
    }

    #[test]
    fn a_source_gives_all_of_it_and_notices_a_short_one() {
        let bytes: Bytes = (0..100_u8).cycle().take(600_000).collect::<Vec<u8>>().into();
        let whole = meta(id(7), bytes.len() as u64);
        let mut read = |offset: u64, bytes_max: u64| {
            let from = usize::try_from(offset).unwrap();
            let end = bytes.len().min(from + usize::try_from(bytes_max).unwrap().min(70_001));
            Ok(bytes.slice(from..end))
        };
        let mut source = SnapshotSource::new(&whole, &mut read);
        let mut head = [0; 70_005];
        source.read_exact(&mut head).unwrap();
        assert_eq!(source.remaining_bytes(), 600_000 - 70_005);
        assert_eq!(source.read_to_end().unwrap(), bytes[70_005..]);
        assert_eq!(head[..], bytes[..70_005]);
        assert_eq!(source.next_chunk(), Ok(None));
        assert_eq!(source.read_exact(&mut [0]), Err(SnapshotError::Unusable));
        let longer = meta(id(7), bytes.len() as u64 + 1);
        let mut source = SnapshotSource::new(&longer, &mut read);
        assert_eq!(source.read_to_end(), Err(SnapshotError::Unusable));
    }
}
