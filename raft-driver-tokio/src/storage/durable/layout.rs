//! How the log lies in redb: records, their headers, and how entries are cut into them.
//!
//! One table, from (group, index) to a record. The record at index 0 is the group's *meta record*, without
//! entries; every other one is a *block* of consecutive entries, at the index of the first of them. A group is one
//! log; a store opened as a [`DurableLog`](super::DurableLog) holds group 0. Another table has one record, the
//! *store record*, written at each start.
//!
//! | bytes | field of a record, little endian |
//! |--:|---|
//! | 4 | CRC-32 of the key (group, index) and of everything that follows |
//! | 1 | kind: 0 meta, 1 a run (one term, no membership), 2 mixed, 3 meta of a group that was removed |
//! | 1 | whether the hard state has a vote |
//! | 2 | zero |
//! | 8 | sequence of the change that wrote the record; each change to a group has its own |
//! | 8, 8 | the group's hard state as of that change: term, vote or zero |
//! | 8, 8, 4 | of a block: its first term, its last term, how many entries. Of a meta record: 0, the base's term, 0 |
//! | … | of a block: the entries, in the encoding of `raft_core::wire`. Of a meta record: the base's index in 8 bytes |
//!
//! The store record: CRC-32 in 4 bytes, sequence and number of the start in 8 each; and the key of that start's journal, in
//! 8, if the store has a [journal](super::journal).
//!
//! * A group's record with the highest sequence (the last block or the meta record) has the hard state in force: so
//!   an append with a hard state changes one leaf of the tree, not two.
//! * A group that was removed keeps its term and its vote, in its meta record, and nothing else.
//! * The *base* is the entry before the log's first. The first block begins right behind it.
//! * Nothing that a record says is believed before its checksum was compared.

use bytes::Bytes;
use raft_core::{Entries, EntryRef, HardState, LogId, LogIndex, NodeId, Term, wire};

use super::error::DurableError;

/// (group, index) → record.
pub(super) const LOG: redb::TableDefinition<'static, (u64, u64), &[u8]> = redb::TableDefinition::new("log");
/// → the store record.
pub(super) const STORE: redb::TableDefinition<'static, (), &[u8]> = redb::TableDefinition::new("store");

const HEADER_BYTES: usize = 52;
const SUM_BYTES: usize = 4;

const META: u8 = 0;
const RUN: u8 = 1;
const MIXED: u8 = 2;
const REMOVED: u8 = 3;

/// redb's smallest page; larger ones are powers of two of it, and a leaf is written as a whole.
const PAGE_BYTES: u64 = 4096;
/// redb's own bytes in a leaf with one record: 8 of its header and the value's end, 16 of the key, and some to spare.
const LEAF_BYTES: u64 = 32;
/// Blocks are cut to pages of at most 4 KiB << 6.
const PAGE_ORDER_MAX: u32 = 6;

/// What every record begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    /// Counts the store's changes.
    pub(super) sequence: u64,
    /// As of that change.
    pub(super) hard_state: HardState,
}

/// A block's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) stamp: Stamp,
    pub(super) first: LogId,
    pub(super) last: LogId,
    /// Whether header alone says all that a recovery needs: one term, no membership.
    pub(super) is_run: bool,
}

/// What a meta record says beside its stamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Meta {
    /// The entry before the log's first.
    pub(super) base: LogId,
    /// Whether the group was removed.
    pub(super) is_removed: bool,
}

/// The store record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StoreRecord {
    /// Of the start.
    pub(super) sequence: u64,
    /// How many times the store was opened.
    pub(super) incarnation: u64,
    /// Of the frames that were written since, if the store has a journal.
    pub(super) key: Option<u64>,
}

const STORE_RECORD_BYTES: usize = 20;
const KEY_BYTES: usize = 8;

impl StoreRecord {
    pub(super) fn encode(self) -> Vec<u8> {
        let mut out = vec![0; STORE_RECORD_BYTES];
        out[4..12].copy_from_slice(&self.sequence.to_le_bytes());
        out[12..].copy_from_slice(&self.incarnation.to_le_bytes());
        out.extend(self.key.into_iter().flat_map(u64::to_le_bytes));
        let sum = crc32fast::hash(&out[4..]);
        out[..4].copy_from_slice(&sum.to_le_bytes());
        out
    }

    pub(super) fn decode(value: &[u8]) -> Result<Self, DurableError> {
        const WITH_KEY_BYTES: usize = STORE_RECORD_BYTES + KEY_BYTES;
        let found = Some(value).filter(|found| matches!(found.len(), STORE_RECORD_BYTES | WITH_KEY_BYTES));
        let found = found.filter(|found| crc32fast::hash(&found[4..]).to_le_bytes() == found[..4]);
        let found = found.ok_or_else(|| DurableError::Damaged("the store record is not as it was".into()))?;
        let word =
            |at: usize| found[at..at + 8].iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
        let key = (found.len() == WITH_KEY_BYTES).then(|| word(STORE_RECORD_BYTES));
        Ok(Self { sequence: word(4), incarnation: word(12), key })
    }
}

/// Replaces `out` by the meta record.
pub(super) fn encode_meta(group: u64, stamp: Stamp, meta: Meta, out: &mut Vec<u8>) {
    let kind = if meta.is_removed { REMOVED } else { META };
    put_header(kind, stamp, [0, meta.base.term.get()], 0, out);
    out.extend_from_slice(&meta.base.index.get().to_le_bytes());
    seal(group, LogIndex::ZERO, out);
}

/// The meta record's stamp, and what else it says.
pub(super) fn decode_meta(group: u64, value: &[u8]) -> Result<(Stamp, Meta), DurableError> {
    let (kind, stamp, [zero, base_term], count, body) = open(group, LogIndex::ZERO, value)?;
    let index = <[u8; 8]>::try_from(body).map(|index| LogIndex::new(u64::from_le_bytes(index)));
    match (kind, zero, count, index) {
        (META | REMOVED, 0, 0, Ok(index))
            if index < LogIndex::LIMIT && (index == LogIndex::ZERO) == (base_term == Term::ZERO.get()) =>
        {
            let base = LogId::new(Term::new(base_term), index);
            Ok((stamp, Meta { base, is_removed: kind == REMOVED }))
        }
        _ => Err(DurableError::Damaged("the meta record has another form".into())),
    }
}

/// Replaces `out` by the block of `entries`, which are not empty.
pub(super) fn encode_block(group: u64, stamp: Stamp, entries: &Entries, out: &mut Vec<u8>) {
    let (Some(first), Some(last)) = (entries.first(), entries.last()) else {
        unreachable!("a block is cut from entries, one at least");
    };
    let is_run =
        first.term == last.term && !entries.iter().any(|entry| matches!(entry, EntryRef::Membership(..)));
    let count = u32::try_from(entries.len()).expect("a block's entries, 4 bytes each, fit into its 4 GiB");
    put_header(if is_run { RUN } else { MIXED }, stamp, [first.term.get(), last.term.get()], count, out);
    wire::encode_entries(entries, out);
    seal(group, first.index, out);
}

/// The header of the block at `index`, whose checksum was right.
pub(super) fn decode_header(group: u64, index: LogIndex, value: &[u8]) -> Result<Header, DurableError> {
    let (kind, stamp, terms, count, _) = open(group, index, value)?;
    let last = index.get().checked_add(u64::from(count)).filter(|next| *next <= LogIndex::LIMIT.get());
    match (kind, last) {
        (RUN | MIXED, Some(next)) if count > 0 && terms[0] <= terms[1] => Ok(Header {
            stamp,
            first: LogId::new(Term::new(terms[0]), index),
            last: LogId::new(Term::new(terms[1]), LogIndex::new(next - 1)),
            is_run: kind == RUN,
        }),
        _ => Err(DurableError::damaged(index, "its header makes no sense")),
    }
}

/// The entries of the block at `index`, from a copy of its value. Commands stay slices of that copy.
pub(super) fn decode_block(group: u64, index: LogIndex, value: &[u8]) -> Result<Entries, DurableError> {
    let header = decode_header(group, index, value)?;
    let body = value.get(HEADER_BYTES..).unwrap_or(&[]);
    let entries = wire::decode_entries(Bytes::copy_from_slice(body))
        .map_err(|error| DurableError::damaged(index, error))?;
    if (entries.first(), entries.last()) != (Some(header.first), Some(header.last)) {
        return Err(DurableError::damaged(index, "its header and its entries differ"));
    }
    Ok(entries)
}

/// Cuts entries into blocks that fill redb's pages: a leaf's whole page is written, so that a block a little above
/// 16 KiB alone would cost 32.
pub(super) fn cut(entries: Entries) -> impl Iterator<Item = Entries> {
    let mut rest = entries;
    std::iter::from_fn(move || {
        let first = rest.first()?;
        let block = match block_bytes(rest.size_bytes()) {
            None => rest.clone(),
            Some(bytes_max) => rest.prefix(bytes_max),
        };
        let last = block.last().map_or(first.index, |last| last.index);
        rest = rest.slice(last.next(), LogIndex::LIMIT);
        Some(block)
    })
}

/// How much of `bytes` the next block takes. `None`: all of it.
fn block_bytes(bytes: u64) -> Option<u64> {
    let room = |order: u32| (PAGE_BYTES << order) - LEAF_BYTES - HEADER_BYTES as u64;
    if bytes <= room(1) {
        return None;
    }
    // The largest page that is filled. The next larger one is taken if little of it stays unused.
    let order = (0..=PAGE_ORDER_MAX).rev().find(|order| room(*order) <= bytes).unwrap_or(0);
    let larger = room(order + 1);
    if order < PAGE_ORDER_MAX && bytes <= larger && bytes >= larger / 8 * 7 {
        return None;
    }
    Some(room(order))
}

// ---------------------------------------------------------------------------------------------------------
// Bytes
// ---------------------------------------------------------------------------------------------------------

fn put_header(kind: u8, stamp: Stamp, words: [u64; 2], count: u32, out: &mut Vec<u8>) {
    let Stamp { sequence, hard_state: HardState { term, voted_for } } = stamp;
    out.clear();
    out.extend_from_slice(&[0; SUM_BYTES]);
    out.extend_from_slice(&[kind, u8::from(voted_for.is_some()), 0, 0]);
    for word in [sequence, term.get(), voted_for.map_or(0, NodeId::get), words[0], words[1]] {
        out.extend_from_slice(&word.to_le_bytes());
    }
    out.extend_from_slice(&count.to_le_bytes());
    debug_assert_eq!(out.len(), HEADER_BYTES);
}

fn seal(group: u64, index: LogIndex, out: &mut [u8]) {
    let sum = checksum(group, index, &out[SUM_BYTES..]);
    out[..SUM_BYTES].copy_from_slice(&sum.to_le_bytes());
}

/// The key is covered too: a record at another place than its own is noticed.
fn checksum(group: u64, index: LogIndex, covered: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&group.to_le_bytes());
    hasher.update(&index.get().to_le_bytes());
    hasher.update(covered);
    hasher.finalize()
}

type Opened<'a> = (u8, Stamp, [u64; 2], u32, &'a [u8]);

/// The parts of a record, if its checksum is right.
fn open(group: u64, index: LogIndex, value: &[u8]) -> Result<Opened<'_>, DurableError> {
    let Some((header, body)) = value.split_first_chunk::<HEADER_BYTES>() else {
        return Err(DurableError::damaged(index, "it is cut short"));
    };
    if checksum(group, index, &value[SUM_BYTES..]).to_le_bytes() != header[..SUM_BYTES] {
        return Err(DurableError::damaged(index, "its checksum is wrong"));
    }
    let word = |at: usize| header[at..at + 8].iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
    let voted_for = match (header[5], word(24)) {
        (0, 0) => None,
        (1, node) => Some(NodeId::new(node)),
        _ => return Err(DurableError::damaged(index, "its vote makes no sense")),
    };
    let hard_state = HardState { term: Term::new(word(16)), voted_for };
    let count = header[48..].iter().rev().fold(0, |count, byte| count << 8 | u32::from(*byte));
    let words = [word(32), word(40)];
    if words[1] >= Term::LIMIT.get() || hard_state.term >= Term::LIMIT || header[6..8] != [0, 0] {
        return Err(DurableError::damaged(index, "its header makes no sense"));
    }
    Ok((header[4], Stamp { sequence: word(8), hard_state }, words, count, body))
}

#[cfg(test)]
mod tests {
    use super::*;
    use raft_core::{Commands, Membership};
    use std::sync::Arc;

    fn id(term: u64, index: u64) -> LogId {
        LogId::new(Term::new(term), LogIndex::new(index))
    }

    fn commands(first: LogId, count: usize, bytes: usize) -> Entries {
        Entries::commands(first, &(0..count).map(|at| vec![at as u8; bytes]).collect::<Commands>())
    }

    const STAMP: Stamp =
        Stamp { sequence: 77, hard_state: HardState { term: Term::new(9), voted_for: Some(NodeId::new(4)) } };

    #[test]
    fn records_return_and_every_flipped_bit_is_noticed() {
        let mut out = Vec::new();
        for key in [None, Some(u64::MAX - 5)] {
            let record = StoreRecord { sequence: 1 << 40 | 3, incarnation: 9, key };
            assert_eq!(StoreRecord::decode(&record.encode()).unwrap(), record);
            for bit in 0..8 * record.encode().len() {
                let mut altered = record.encode();
                altered[bit / 8] ^= 1 << (bit % 8);
                StoreRecord::decode(&altered).unwrap_err();
            }
        }
        for (base, is_removed) in [(LogId::ZERO, false), (id(3, 77), false), (LogId::ZERO, true)] {
            let meta = Meta { base, is_removed };
            encode_meta(3, STAMP, meta, &mut out);
            assert_eq!(decode_meta(3, &out).unwrap(), (STAMP, meta));
            decode_meta(4, &out).unwrap_err();
            decode_meta(3, &out[..out.len() - 1]).unwrap_err();
        }

        let nodes = [(NodeId::new(1), Bytes::from_static(b"a"))].into();
        let membership = Entries::membership(id(2, 5), Arc::new(Membership::of_voters(nodes)));
        let mixed = Entries::join([commands(id(1, 1), 4, 10), membership, commands(id(2, 6), 1, 0)]).unwrap();
        for (entries, is_run) in [(mixed, false), (commands(id(5, 8), 3, 7), true)] {
            let first = entries.first().unwrap();
            encode_block(0, STAMP, &entries, &mut out);
            let header = Header { stamp: STAMP, first, last: entries.last().unwrap(), is_run };
            assert_eq!(decode_header(0, first.index, &out).unwrap(), header);
            assert_eq!(decode_block(0, first.index, &out).unwrap(), entries);
            decode_header(0, first.index.next(), &out).unwrap_err();
            for bit in 0..out.len() * 8 {
                out[bit / 8] ^= 1 << (bit % 8);
                decode_header(0, first.index, &out).unwrap_err();
                out[bit / 8] ^= 1 << (bit % 8);
            }
            for len in 0..out.len() {
                decode_block(0, first.index, &out[..len]).unwrap_err();
            }
        }
    }

    #[test]
    fn blocks_fill_pages_and_lose_nothing() {
        let mut out = Vec::new();
        for (count, bytes) in [
            (1, 0),
            (1, 256),
            (16, 256),
            (64, 256),
            (1024, 256),
            (5000, 40),
            (30, 9000),
            (3, 700_000),
            (9, 1),
        ] {
            let entries = commands(id(3, 10), count, bytes);
            let blocks: Vec<Entries> = cut(entries.clone()).collect();
            assert_eq!(Entries::join(blocks.iter().cloned()).unwrap(), entries);
            let mut pages = 0;
            let mut stored = 0;
            for block in &blocks {
                encode_block(0, STAMP, block, &mut out);
                let bytes = out.len() as u64 + LEAF_BYTES;
                stored += bytes;
                pages += bytes.div_ceil(PAGE_BYTES).next_power_of_two() * PAGE_BYTES;
                assert!(block.len() == 1 || bytes <= PAGE_BYTES << PAGE_ORDER_MAX);
            }
            if bytes < 1000 {
                assert!(pages <= stored + stored / 4 + PAGE_BYTES, "{count} x {bytes}: {stored} in {pages}");
            }
        }
    }
}
