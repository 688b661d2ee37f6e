//! What is known of a snapshot beside its bytes: see the tables in the [module's head](super).

use alloc::sync::Arc;
use alloc::vec::Vec;

use super::entries::{encode_membership, take_membership};
use super::{Fields, WireError, put_count, put_log_id, put_u64};
use crate::snapshot::{RUNS_MAX, SnapshotId, SnapshotMeta, SnapshotMetaError, TermRun};

/// Appends what is known of a snapshot to `out`, in the form that it has in messages. Snapshot stores keep it too.
///
/// What [`SnapshotMeta::validate`] refuses is encoded too, but is refused again when decoded.
///
/// # Panics
/// If an address is longer than `u32::MAX` bytes.
pub fn encode_snapshot_meta(meta: &SnapshotMeta, out: &mut Vec<u8>) {
    // Taken apart, so that a field added later cannot be forgotten here.
    let SnapshotMeta { id, membership, membership_index, size_bytes, digest, terms } = meta;
    put_snapshot_id(out, *id);
    put_u64(out, membership_index.get());
    put_u64(out, *size_bytes);
    put_u64(out, *digest);
    put_count(out, terms.len());
    for TermRun { term, first } in terms.iter() {
        put_u64(out, term.get());
        put_u64(out, first.get());
    }
    encode_membership(membership, out);
}

/// Reads what is known of a snapshot, which must fill `bytes`. Nothing of it stays a slice of `bytes`.
///
/// # Errors
/// If `bytes` is anything but what [`encode_snapshot_meta`] makes of what [`SnapshotMeta::validate`] allows.
pub fn decode_snapshot_meta(bytes: &[u8]) -> Result<SnapshotMeta, WireError> {
    let mut fields = Fields(bytes);
    let meta = take_snapshot_meta(&mut fields)?;
    fields.finish(meta)
}

pub(super) fn take_snapshot_meta(fields: &mut Fields<'_>) -> Result<SnapshotMeta, WireError> {
    let id = take_snapshot_id(fields)?;
    let (membership_index, size_bytes, digest) = (fields.index()?, fields.u64()?, fields.u64()?);
    let runs = fields.u32()?;
    if usize::try_from(runs).map_or(true, |runs| runs > RUNS_MAX) {
        return Err(SnapshotMetaError::Terms(id.last).into());
    }
    let terms = (0..runs)
        .map(|_| Ok(TermRun { term: fields.term()?, first: fields.index()? }))
        .collect::<Result<Arc<[TermRun]>, WireError>>()?;
    let membership = Arc::new(take_membership(fields)?);
    let meta = SnapshotMeta { id, membership, membership_index, size_bytes, digest, terms };
    meta.validate()?;
    Ok(meta)
}

pub(super) fn put_snapshot_id(out: &mut Vec<u8>, id: SnapshotId) {
    let SnapshotId { last, taken_by, seq } = id;
    put_log_id(out, last);
    put_u64(out, taken_by.get());
    put_u64(out, seq);
}

pub(super) fn take_snapshot_id(fields: &mut Fields<'_>) -> Result<SnapshotId, WireError> {
    Ok(SnapshotId { last: fields.log_id()?, taken_by: fields.node()?, seq: fields.u64()? })
}
