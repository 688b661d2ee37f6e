//! Entries, block by block, and memberships: see the tables in the [module's head](super).

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use alloc::vec::Vec;
use bytes::Bytes;

use super::{Fields, WireError, put_count, put_u32, put_u64, put_with_length};
use crate::entry::{BlockBody, Chunk, Entries, NotConsecutive, Window};
use crate::ids::{LogIndex, NodeId};
use crate::membership::{Membership, Target};

const NOOP: u8 = 1;
const COMMANDS: u8 = 2;
const MEMBERSHIP: u8 = 3;

/// A block without its body.
const BLOCK_HEADER_BYTES: usize = 1 + 8 + 8 + 4 + 4;

// ---------------------------------------------------------------------------------------------------------
// Entries
// ---------------------------------------------------------------------------------------------------------

/// Appends entries to `out`, in the form that they have in messages and records.
///
/// # Panics
/// If a block is longer than `u32::MAX` bytes; a node makes none above its configured limits.
pub fn encode_entries(entries: &Entries, out: &mut Vec<u8>) {
    put_entries(entries, out);
}

/// Reads entries, which must fill `bytes`. Commands stay slices of `bytes`.
///
/// # Errors
/// If `bytes` is anything but what [`encode_entries`] makes of well-formed entries.
pub fn decode_entries(bytes: Bytes) -> Result<Entries, WireError> {
    let mut fields = Fields(&bytes);
    let entries = take_entries(&bytes, &mut fields)?;
    fields.finish(entries)
}

pub(super) fn put_entries(entries: &Entries, out: &mut Vec<u8>) {
    // What entries count against limits is a little more than their encoding takes.
    out.reserve(usize::try_from(entries.size_bytes()).unwrap_or(0));
    put_count(out, entries.windows().len());
    for window in entries.windows() {
        put_block(window, out);
    }
}

fn put_block(window: &Window, out: &mut Vec<u8>) {
    let range = window.range();
    out.push(match window.body() {
        BlockBody::Noop => NOOP,
        BlockBody::Commands(_) => COMMANDS,
        BlockBody::Membership(_) => MEMBERSHIP,
    });
    put_u64(out, window.term().get());
    put_u64(out, window.first_index().get());
    put_u32(out, range.end - range.start);
    put_with_length(out, |out| match window.body() {
        BlockBody::Noop => {}
        BlockBody::Commands(chunk) if range == (0..chunk.count()) => out.extend_from_slice(chunk.bytes()),
        BlockBody::Commands(chunk) => {
            out.extend_from_slice(chunk.data(range.clone()));
            if range.len() > 1 {
                chunk.ends(range).for_each(|end| put_u32(out, end));
            }
        }
        BlockBody::Membership(membership) => encode_membership(membership, out),
    });
}

/// Reads entries from `fields`, which are a part of `buffer`.
pub(super) fn take_entries(buffer: &Bytes, fields: &mut Fields<'_>) -> Result<Entries, WireError> {
    let blocks = fields.u32()?;
    if blocks == 1 {
        // As almost every append: no list.
        return Ok(Entries::from_window(take_block(buffer, fields)?));
    }
    // The count is only a claim. What is left of the input bounds it.
    let room = fields.remaining() / BLOCK_HEADER_BYTES;
    let mut windows: Vec<Window> =
        Vec::with_capacity(usize::try_from(blocks).map_or(room, |blocks| blocks.min(room)));
    for _ in 0..blocks {
        let window = take_block(buffer, fields)?;
        if let Some(after) = windows.last().map(Window::last) {
            let next = window.first();
            if next.index != after.index.next() || next.term < after.term {
                return Err(NotConsecutive { after, next }.into());
            }
        }
        windows.push(window);
    }
    Ok(Entries::from_windows(windows))
}

fn take_block(buffer: &Bytes, fields: &mut Fields<'_>) -> Result<Window, WireError> {
    let kind = fields.u8()?;
    let first = fields.entry_id()?;
    let count = fields.u32()?;
    let length = fields.u32()?;
    let body = fields.slice(length)?;
    let misfit = WireError::Block { first, count };
    if count == 0 || (kind != COMMANDS && count != 1) {
        return Err(misfit);
    }
    let last = first.index.plus(u64::from(count) - 1);
    if last >= LogIndex::LIMIT {
        return Err(WireError::Index(last.get()));
    }
    let body = match kind {
        NOOP if body.is_empty() => BlockBody::Noop,
        NOOP => return Err(misfit),
        COMMANDS => BlockBody::Commands(Chunk::from_parts(buffer.slice_ref(body), count).ok_or(misfit)?),
        MEMBERSHIP => BlockBody::Membership(Arc::new(decode_membership(body)?)),
        found => return Err(WireError::Unknown { of: "the kind of block", found }),
    };
    Ok(Window::new(first, body))
}

// ---------------------------------------------------------------------------------------------------------
// Memberships
// ---------------------------------------------------------------------------------------------------------

/// Appends a membership to `out`. Equal memberships are equal bytes.
///
/// One that [`Membership::validate`] refuses is encoded too, but is refused again when decoded.
///
/// # Panics
/// If an address is longer than `u32::MAX` bytes.
pub fn encode_membership(membership: &Membership, out: &mut Vec<u8>) {
    // Taken apart, so that a field added later cannot be forgotten here.
    let Membership { voters, outgoing, learners, learners_next, intent, nodes } = membership;
    for set in [voters, outgoing, learners, learners_next] {
        put_set(set, out);
    }
    out.push(u8::from(intent.is_some()));
    if let Some(Target { voters, learners }) = intent {
        put_set(voters, out);
        put_set(learners, out);
    }
    put_count(out, nodes.len());
    for (node, address) in nodes {
        put_u64(out, node.get());
        put_with_length(out, |out| out.extend_from_slice(address));
    }
}

/// Reads a membership, which must fill `bytes`.
///
/// Addresses are copied: a membership is small and lives long, and must not keep a whole buffer of commands.
///
/// # Errors
/// If `bytes` is anything but what [`encode_membership`] makes of a valid membership.
pub fn decode_membership(bytes: &[u8]) -> Result<Membership, WireError> {
    let mut fields = Fields(bytes);
    let membership = take_membership(&mut fields)?;
    fields.finish(membership)
}

pub(super) fn take_membership(fields: &mut Fields<'_>) -> Result<Membership, WireError> {
    let membership = Membership {
        voters: take_set(fields)?,
        outgoing: take_set(fields)?,
        learners: take_set(fields)?,
        learners_next: take_set(fields)?,
        intent: if fields.flag("intent")? {
            Some(Target { voters: take_set(fields)?, learners: take_set(fields)? })
        } else {
            None
        },
        nodes: take_nodes(fields)?,
    };
    membership.validate()?;
    Ok(membership)
}

fn put_set(set: &BTreeSet<NodeId>, out: &mut Vec<u8>) {
    put_count(out, set.len());
    set.iter().for_each(|node| put_u64(out, node.get()));
}

fn take_set(fields: &mut Fields<'_>) -> Result<BTreeSet<NodeId>, WireError> {
    let count = fields.u32()?;
    let mut before = None;
    (0..count).map(|_| take_ascending(fields, &mut before)).collect()
}

fn take_nodes(fields: &mut Fields<'_>) -> Result<BTreeMap<NodeId, Bytes>, WireError> {
    let count = fields.u32()?;
    let mut before = None;
    (0..count)
        .map(|_| {
            let node = take_ascending(fields, &mut before)?;
            let length = fields.u32()?;
            Ok((node, Bytes::copy_from_slice(fields.slice(length)?)))
        })
        .collect()
}

/// The next node id, which must be above the one before it: one set has one encoding.
fn take_ascending(fields: &mut Fields<'_>, before: &mut Option<NodeId>) -> Result<NodeId, WireError> {
    let node = fields.node()?;
    if before.replace(node) >= Some(node) {
        return Err(WireError::Unsorted(node));
    }
    Ok(node)
}
