//! Log records, framed so that a torn tail is told from damage: see the tables in the [module's head](super).
//!
//! * A record counts as written only if all of it is there and its checksum is right.
//! * A record whose checksum is right but whose content makes no sense was not torn: another version wrote it,
//!   or it was altered. A store must not cut it off.

use alloc::vec::Vec;
use bytes::Bytes;

use super::entries::{put_entries, take_entries};
use super::{Fields, RECORD_VERSION, WireError, put_log_id, put_u16, put_u32, put_u64, put_with_length};
use crate::action::{HardState, Write};
use crate::entry::{Entries, NotConsecutive};
use crate::ids::LogId;

const HARD_STATE: u8 = 1;
const VOTE: u8 = 2;
const RESET: u8 = 4;

const VERSION_BYTES: usize = size_of::<u16>();

/// One stored write: hard state, reset, entries, to be done in this order.
#[derive(Clone, Debug, PartialEq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Record {
    /// Replaces the one before it.
    pub hard_state: Option<HardState>,
    /// Drops every entry before it, whatever its index: the next one has the index after this one's.
    pub reset_to: Option<LogId>,
    /// Replace the log from their first index onward. If empty, the log stays as it is.
    pub entries: Entries,
}

/// Appends one framed log record (checksum, length, version, body) to `out`. The write's id is not stored.
///
/// # Panics
/// If the write is longer than `u32::MAX` bytes; a node makes none above its configured limits.
pub fn encode_record(write: &Write, checksum: impl Fn(&[u8]) -> u32, out: &mut Vec<u8>) {
    // Taken apart, so that a field added later cannot be forgotten here.
    let Write { id: _, hard_state, reset_to, entries } = write;
    let vote = hard_state.and_then(|hard_state| hard_state.voted_for);
    let part = |there: bool, bit: u8| if there { bit } else { 0 };
    let at = out.len();
    put_u32(out, 0);
    let covered = out.len();
    put_with_length(out, |out| {
        put_u16(out, RECORD_VERSION);
        out.push(
            part(hard_state.is_some(), HARD_STATE)
                | part(vote.is_some(), VOTE)
                | part(reset_to.is_some(), RESET),
        );
        hard_state.iter().for_each(|hard_state| put_u64(out, hard_state.term.get()));
        vote.iter().for_each(|candidate| put_u64(out, candidate.get()));
        reset_to.iter().for_each(|id| put_log_id(out, *id));
        put_entries(entries, out);
    });
    let sum = checksum(&out[covered..]);
    out[at..covered].copy_from_slice(&sum.to_le_bytes());
}

/// Reads the content of a record: what its checksum and length vouch for. `buffer` holds it.
fn decode_content(buffer: &Bytes, content: &[u8]) -> Result<Record, WireError> {
    let mut fields = Fields(content);
    fields.version(RECORD_VERSION)?;
    let parts = fields.u8()?;
    let has = |bit: u8| parts & bit != 0;
    // A vote is part of a hard state.
    if parts > (HARD_STATE | VOTE | RESET) || (has(VOTE) && !has(HARD_STATE)) {
        return Err(WireError::Unknown { of: "the parts of a record", found: parts });
    }
    let hard_state = if has(HARD_STATE) {
        let term = fields.term()?;
        Some(HardState { term, voted_for: if has(VOTE) { Some(fields.node()?) } else { None } })
    } else {
        None
    };
    let reset_to = if has(RESET) { Some(fields.entry_id()?) } else { None };
    let entries = take_entries(buffer, &mut fields)?;
    if let (Some(after), Some(next)) = (reset_to, entries.first())
        && (next.index != after.index.next() || next.term < after.term)
    {
        return Err(NotConsecutive { after, next }.into());
    }
    fields.finish(Record { hard_state, reset_to, entries })
}

/// Reads a file of records from its first byte on. Commands stay slices of the file's bytes.
///
/// ```
/// use raft_core::wire::{RecordReader, WireError, encode_record};
/// # use raft_core::{Entries, LogId, LogIndex, Term, Write};
/// # let checksum = |bytes: &[u8]| bytes.iter().fold(7, |sum: u32, byte| sum.rotate_left(5) ^ u32::from(*byte));
/// # let id = serde_json::from_str("1").unwrap();
/// # let entries = Entries::noop(LogId::new(Term::new(1), LogIndex::new(1)));
/// # let write = Write { id, hard_state: None, reset_to: None, entries: entries.clone() };
/// let mut file = Vec::new();
/// encode_record(&write, checksum, &mut file);
/// let sound = file.len();
/// file.extend_from_slice(&[0; 4096]); // a crash left blocks of zeros behind
///
/// let mut reader = RecordReader::new(file.into(), checksum);
/// let record = reader.next_record()?.expect("one was written");
/// assert_eq!(record.entries, entries);
/// assert_eq!(reader.next_record(), Err(WireError::Torn { offset: sound }));
/// # Ok::<(), WireError>(())
/// ```
#[derive(Clone, Debug)]
pub struct RecordReader<C> {
    file: Bytes,
    checksum: C,
    offset: usize,
}

impl<C: Fn(&[u8]) -> u32> RecordReader<C> {
    /// A reader at the first byte of `file`, with the checksum that the records were written with.
    #[must_use]
    pub fn new(file: Bytes, checksum: C) -> Self {
        Self { file, checksum, offset: 0 }
    }

    /// Where the next record begins. Everything before it was read; after an error, where the bad one begins.
    #[must_use]
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// The next record; `None` at a clean end. A reader that has returned an error returns it again.
    ///
    /// # Errors
    /// [`WireError::Torn`] if the record is cut short or its checksum is wrong: a write that a crash
    /// interrupted, if nothing from here on was ever reported durable, else damage. Any other error is a record
    /// that is whole but cannot be understood: never cut it off.
    pub fn next_record(&mut self) -> Result<Option<Record>, WireError> {
        let rest = self.file.get(self.offset..).unwrap_or(&[]);
        if rest.is_empty() {
            return Ok(None);
        }
        let (content, after) = self.split_record(rest).ok_or(WireError::Torn { offset: self.offset })?;
        let record = decode_content(&self.file, content)?;
        self.offset = self.file.len() - after.len();
        Ok(Some(record))
    }

    /// The content of the first record and what follows it, if the record is whole.
    fn split_record<'a>(&self, bytes: &'a [u8]) -> Option<(&'a [u8], &'a [u8])> {
        let (sum, covered) = bytes.split_first_chunk()?;
        let (length, content) = covered.split_first_chunk()?;
        let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
        let (content, after) = content.split_at_checked(length)?;
        let covered = &covered[..covered.len() - after.len()];
        let whole = length >= VERSION_BYTES && (self.checksum)(covered) == u32::from_le_bytes(*sum);
        whole.then_some((content, after))
    }
}
