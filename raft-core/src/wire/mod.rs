//! Messages, log records and what is known of snapshots as bytes: the format on the wire and on disk. No IO.
//!
//! * *Canonical*: whatever is decoded encodes to the same bytes again, and equal memberships are equal bytes.
//! * *Total*: bytes from a peer or a disk end in a value or a typed error, never in a panic, and memory grows
//!   with their number only, whatever lengths they claim.
//! * Commands and chunks of snapshots stay slices of the buffer that is decoded; nothing allocates per entry.
//!   Whoever keeps entries keeps that buffer.
//! * It never judges what needs the receiver's state or another field: that `to` is this node, that entries follow
//!   `prev`, that their terms do not exceed the sender's, that a chunk lies within its snapshot. The node does.
//!
//! Numbers are unsigned and little endian. A *flag* is one byte, 0 or 1. A *log id* is a term and an index,
//! 8 bytes each. Terms are below [`Term::LIMIT`] and indexes below [`LogIndex::LIMIT`]. Anything
//! that the tables do not allow is refused, bytes too many included.
//!
//! # Messages
//!
//! No length and no checksum: a transport delimits messages and vouches for their bytes.
//!
//! | bytes | field |
//! |--:|---|
//! | 2 | version: [`VERSION`] |
//! | 1 | kind |
//! | 8, 8, 8 | from, to, term |
//! | … | body |
//!
//! | kind | message | body |
//! |--:|---|---|
//! | 1 | RequestVote | last: log id; transfer: flag |
//! | 2 | RequestVoteReply | granted: flag |
//! | 3 | PreVote | proposed: 8; last: log id |
//! | 4 | PreVoteReply | proposed: 8; granted: flag |
//! | 5 | AppendEntries | prev: log id; commit: 8; round: 8; entries |
//! | 6 | AppendEntriesReply | round: 8; conflict: flag; if 0 match: 8, if 1 prev: 8 and hint: log id |
//! | 7 | InstallSnapshot | offset: 8; done: flag; round: 8; length of the data: 4; data; snapshot |
//! | 8 | InstallSnapshotReply | snapshot id; round: 8; progress: 1; if 0 wants: 8, if 1 (busy) or 3 (refused) nothing, if 2 match: 8 |
//! | 9 | TimeoutNow | |
//! | 10 | ReadIndex | incarnation, seq: 8 each |
//! | 11 | ReadIndexReply | incarnation, seq: 8 each; answered: flag; if 1 index: 8 |
//!
//! Version 1 had kinds 1 to 6 only, and no `transfer`; it was never released.
//!
//! # Entries
//!
//! A count of blocks in 4 bytes, then the blocks. Consecutive; terms never fall (§5.3).
//!
//! | bytes | field of a block |
//! |--:|---|
//! | 1 | kind: 1 no-op, 2 commands, 3 membership |
//! | 8, 8 | term, and index of the first entry; neither is 0 |
//! | 4 | how many entries, at least 1; exactly 1 unless commands |
//! | 4 | length of the body |
//! | length | body: nothing, commands, or a membership |
//!
//! One command is its bytes. Several are their bytes back to back, then for each one where it ends, counted from
//! the first byte of the first one, in 4 bytes: the form that blocks have in memory.
//!
//! # Memberships
//!
//! A *set* is a count in 4 bytes and as many node ids, 8 bytes each, strictly ascending.
//!
//! | field | form |
//! |---|---|
//! | voters, outgoing, learners, learners_next | four sets |
//! | intent | flag; if 1, voters and learners: two sets |
//! | nodes | a count in 4 bytes; for each, ascending: id in 8 bytes, length in 4, address |
//!
//! # Snapshots
//!
//! What is known of one beside its bytes. It has no version and no length: a message has the one, and a store that
//! keeps it puts both in front, and a checksum.
//!
//! | bytes | field |
//! |--:|---|
//! | 32 | snapshot id: last, a log id; taken by and seq, 8 each |
//! | 8, 8, 8 | index of the membership, size of the snapshot in bytes, digest |
//! | 4 | how many runs of terms |
//! | 16 each | term, and index of the run's first entry |
//! | … | membership |
//!
//! # Records
//!
//! One stored write in a file of such records.
//!
//! | bytes | field |
//! |--:|---|
//! | 4 | checksum of everything that follows, the length included |
//! | 4 | length of what follows |
//! | 2 | version: [`RECORD_VERSION`] |
//! | 1 | parts: bit 0 a hard state, bit 1 its vote (only with bit 0), bit 2 a reset |
//! | 8, 8 | term and vote of the hard state, as far as there |
//! | 16 | what the log is reset to, if it is: a log id without zeros |
//! | … | entries; after a reset they follow it |
//!
//! Who does not know bit 2 refuses such a record, and reads all others: it needed no other version.
//!
//! The checksum is the caller's, CRC-32 in the shipped stores. It covers the length, so that a shortened length
//! is noticed; a length of 0 is never valid, so that a tail of zeros is noticed under any checksum.

use alloc::vec::Vec;

use crate::entry::NotConsecutive;
use crate::ids::{LogId, LogIndex, NodeId, Term};
use crate::membership::MembershipError;
use crate::snapshot::SnapshotMetaError;

mod entries;
mod message;
mod record;
mod snapshot;

pub use entries::{decode_entries, decode_membership, encode_entries, encode_membership};
pub use message::{decode_message, encode_message};
pub use record::{Record, RecordReader, encode_record};
pub use snapshot::{decode_snapshot_meta, encode_snapshot_meta};

/// The version of the messages. Others are refused. Those who talk must have the same.
pub const VERSION: u16 = 3;

/// The version of the records. Others are refused. Apart from that of the messages, so that what is stored outlives
/// a change of what is said.
pub const RECORD_VERSION: u16 = 1;

/// Why bytes are not what they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Only from [`RecordReader`]: the file ends within the record that begins here, or its checksum is wrong.
    #[error("the record at byte {offset} is cut short or damaged")]
    Torn {
        /// Where that record begins. All before it is sound.
        offset: usize,
    },
    /// The input ends before the value does.
    #[error("the input ends too early")]
    Truncated,
    /// The input goes on behind the value.
    #[error("{bytes} bytes follow the value")]
    Trailing {
        /// How many.
        bytes: usize,
    },
    /// Another version of the format.
    #[error("version {0} of the format is not the one that is spoken here")]
    Version(u16),
    /// A kind, flag or set of parts that this version does not have.
    #[error("{of} has the unknown value {found}")]
    Unknown {
        /// Of what.
        of: &'static str,
        /// What stands there.
        found: u8,
    },
    /// A term at [`Term::LIMIT`] or beyond, or zero where an entry is.
    #[error("term {0} is out of range")]
    Term(u64),
    /// An index at [`LogIndex::LIMIT`] or beyond, or zero where an entry is.
    #[error("index {0} is out of range")]
    Index(u64),
    /// Entries with a gap, an overlap or a falling term (§5.3).
    #[error(transparent)]
    NotConsecutive(#[from] NotConsecutive),
    /// A block whose count, length and ends do not fit each other.
    #[error("the block at {first} does not fit its count of {count}")]
    Block {
        /// The block's first entry.
        first: LogId,
        /// How many entries it claims to have.
        count: u32,
    },
    /// A set of nodes that is not strictly ascending.
    #[error("node {0} is out of order")]
    Unsorted(NodeId),
    /// A membership whose parts do not fit together.
    #[error(transparent)]
    Membership(#[from] MembershipError),
    /// What is said of a snapshot cannot be true.
    #[error(transparent)]
    Snapshot(#[from] SnapshotMetaError),
}

/// What is left of the input. Every read is bounded by it.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn remaining(&self) -> usize {
        self.0.len()
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let (head, rest) = self.0.split_first_chunk().ok_or(WireError::Truncated)?;
        self.0 = rest;
        Ok(*head)
    }

    fn slice(&mut self, length: u32) -> Result<&'a [u8], WireError> {
        // A length beyond the address space is also one beyond the input.
        let length = usize::try_from(length).map_err(|_| WireError::Truncated)?;
        let (head, rest) = self.0.split_at_checked(length).ok_or(WireError::Truncated)?;
        self.0 = rest;
        Ok(head)
    }

    fn u8(&mut self) -> Result<u8, WireError> {
        self.array().map(u8::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, WireError> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, WireError> {
        self.array().map(u64::from_le_bytes)
    }

    fn flag(&mut self, of: &'static str) -> Result<bool, WireError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            found => Err(WireError::Unknown { of, found }),
        }
    }

    fn version(&mut self, spoken: u16) -> Result<(), WireError> {
        let found = self.array().map(u16::from_le_bytes)?;
        if found == spoken { Ok(()) } else { Err(WireError::Version(found)) }
    }

    fn node(&mut self) -> Result<NodeId, WireError> {
        self.u64().map(NodeId::new)
    }

    fn term(&mut self) -> Result<Term, WireError> {
        let term = Term::new(self.u64()?);
        if term < Term::LIMIT { Ok(term) } else { Err(WireError::Term(term.get())) }
    }

    fn index(&mut self) -> Result<LogIndex, WireError> {
        let index = LogIndex::new(self.u64()?);
        if index < LogIndex::LIMIT { Ok(index) } else { Err(WireError::Index(index.get())) }
    }

    fn log_id(&mut self) -> Result<LogId, WireError> {
        Ok(LogId::new(self.term()?, self.index()?))
    }

    /// Neither part is zero: that is before the first term and before the log.
    fn entry_id(&mut self) -> Result<LogId, WireError> {
        let id = self.log_id()?;
        if id.term == Term::ZERO {
            return Err(WireError::Term(0));
        }
        if id.index == LogIndex::ZERO {
            return Err(WireError::Index(0));
        }
        Ok(id)
    }

    /// `value`, if nothing is left.
    fn finish<T>(self, value: T) -> Result<T, WireError> {
        match self.remaining() {
            0 => Ok(value),
            bytes => Err(WireError::Trailing { bytes }),
        }
    }
}

fn put_u16(out: &mut Vec<u8>, value: u16) {
    out.extend_from_slice(&value.to_le_bytes());
}

fn put_u32(out: &mut Vec<u8>, value: u32) {
    out.extend_from_slice(&value.to_le_bytes());
}

fn put_u64(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&value.to_le_bytes());
}

fn put_log_id(out: &mut Vec<u8>, id: LogId) {
    put_u64(out, id.term.get());
    put_u64(out, id.index.get());
}

/// How many of something there are.
fn put_count(out: &mut Vec<u8>, count: usize) {
    put_u32(out, u32::try_from(count).expect("no more than u32::MAX parts fit into memory limits"));
}

/// Appends what `fill` appends, with its length in front.
fn put_with_length(out: &mut Vec<u8>, fill: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    put_u32(out, 0);
    let start = out.len();
    fill(out);
    let length = u32::try_from(out.len() - start)
        .expect("the configuration limits commands, writes and chunks to 1 GiB");
    out[at..start].copy_from_slice(&length.to_le_bytes());
}
