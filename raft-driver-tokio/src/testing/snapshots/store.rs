//! The user's store, each of its calls checked by itself.

use bytes::Bytes;
use raft_core::host::{SnapshotStore, SnapshotWriter, Written};
use raft_core::{SnapshotId, SnapshotMeta};

use super::model::Whole;
use crate::testing::promise::Promise;
use crate::testing::report::{Violation, ensure, guarded};

fn refused(call: &str, error: impl std::fmt::Display) -> Violation {
    Violation::new(Promise::AcceptsWhatIsLegal, format_args!("{call} fails: {error}"))
}

pub(super) fn begin<S: SnapshotStore>(store: &S, id: SnapshotId) -> Result<S::Writer, Violation> {
    guarded("SnapshotStore::begin", || store.begin(id))?.map_err(|error| refused("begin", error))
}

pub(super) fn write<W: SnapshotWriter>(writer: &mut W, data: &[u8]) -> Result<(), Violation> {
    guarded("SnapshotWriter::write", || writer.write(data))?.map_err(|error| refused("write", error))
}

/// Whether a length and a digest are those of what was written, as far as can be told without knowing how it is made.
pub(super) fn written<W: SnapshotWriter>(writer: &W, size_bytes: usize) -> Result<Written, Violation> {
    let written = guarded("SnapshotWriter::written", || writer.written())?;
    ensure(written.size_bytes == size_bytes as u64, Promise::SnapshotDigest, || {
        format!("it says that {} bytes were written; it were {size_bytes}", written.size_bytes)
    })?;
    Ok(written)
}

/// The meta with length and digest, as a node gets it back.
pub(super) fn with(meta: &SnapshotMeta, written: Written) -> SnapshotMeta {
    let Written { size_bytes, digest } = written;
    SnapshotMeta { size_bytes, digest, ..meta.clone() }
}

/// One read, and that it gives exactly what it should.
pub(super) fn read<S: SnapshotStore>(
    store: &S,
    whole: &Whole,
    offset: u64,
    bytes_max: u64,
) -> Result<(), Violation> {
    let (meta, bytes) = whole;
    let id = meta.id;
    let asked = format!("reading {bytes_max} bytes of {id} from {offset} on");
    let found = guarded("SnapshotStore::read", || store.read(id, offset, bytes_max))?;
    let found = found.map_err(|error| {
        Violation::new(Promise::SnapshotBytesKept, format_args!("{asked} fails: {error}"))
    })?;
    let place = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(bytes.len());
    let expected = bytes.slice(place(offset)..place(offset.saturating_add(bytes_max)));
    ensure(found.len() == expected.len(), Promise::SnapshotReadBounds, || {
        format!("{asked} gives {} bytes of {}; it has {}", found.len(), expected.len(), bytes.len())
    })?;
    ensure(found == expected, Promise::SnapshotBytesKept, || format!("{asked} gives other bytes"))
}

/// All of it, in pieces.
pub(super) fn read_all<S: SnapshotStore>(store: &S, whole: &Whole) -> Result<(), Violation> {
    let length = whole.1.len() as u64;
    for step in [length.max(1), (length / 3).max(1)] {
        let mut offset = 0;
        while offset < length {
            read(store, whole, offset, step)?;
            offset += step;
        }
    }
    read(store, whole, length, 10)
}

/// That it is not there.
pub(super) fn is_missing<S: SnapshotStore>(
    store: &S,
    id: SnapshotId,
    promise: Promise,
    why: &str,
) -> Result<(), Violation> {
    let found = guarded("SnapshotStore::read", || store.read(id, 0, 10))?;
    ensure(found.is_err(), promise, || format!("{id} is read, which {why}"))
}

/// The digest depends on the bytes, all of them, and on nothing else.
pub(super) fn check_digest<S: SnapshotStore>(
    store: &S,
    id: SnapshotId,
    bytes: &Bytes,
    expected: Written,
) -> Result<(), Violation> {
    let digest_of = |bytes: &[u8], step: usize| {
        let mut writer = begin(store, id)?;
        bytes.chunks(step).try_for_each(|piece| write(&mut writer, piece))?;
        written(&writer, bytes.len())
    };
    let again = digest_of(bytes, (bytes.len() / 2).max(1))?;
    ensure(again == expected, Promise::SnapshotDigest, || {
        format!(
            "the same bytes in other pieces have digest {:x} in place of {:x}",
            again.digest, expected.digest
        )
    })?;
    for place in [0, bytes.len() / 2, bytes.len().saturating_sub(1)] {
        let mut altered = bytes.to_vec();
        let Some(byte) = altered.get_mut(place) else { continue };
        *byte ^= 1;
        let other = digest_of(&altered, bytes.len())?;
        ensure(other != expected, Promise::SnapshotDigest, || {
            format!("byte {place} of {} was altered, and the digest stays {:x}", bytes.len(), other.digest)
        })?;
    }
    Ok(())
}
