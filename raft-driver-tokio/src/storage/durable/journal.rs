//! The journal: where small commits go first, one after the other, each in one write and one fsync.
//!
//! It is a region of the store's file, between the first page and redb's bytes. From time to time everything in it is
//! written into redb, in one transaction, and the journal begins at its front again. A start does the same, before anything else.
//!
//! The region is divided into pages of 4,096 bytes. A *frame* begins at a page, and takes as many as it needs:
//!
//! | bytes | field, little endian |
//! |--:|---|
//! | 4 | CRC-32 of what follows, through the frame's end |
//! | 4 | the frame's length in bytes |
//! | 8 | the key: made at random by each start, and kept in redb's store record |
//! | 8 | sequence of its first change; of a mark, that of the last change that is durable |
//! | 4 | how many changes; 0: a *mark* |
//! | … | changes: group, term and vote (or zero) in 8 bytes each, whether there is a vote in 1, length in 4, the entries |
//!
//! * Every page is written once in a lap: what is durable is never written over before redb has it, and is synced.
//! * Frames count only if they follow what redb has, without a gap, and have the key of the latest start. What a former lap
//!   or life left has neither; and a client cannot make up a frame within its command, since it does not know the key.
//! * After the fsync of a frame a mark takes the place where the next one will be. It becomes durable with that one, and costs no
//!   fsync. A mark, or a frame, of changes beyond those that were found tells that one of them has rotted; else it was
//!   never synced, and nobody was told of it.
//! * The file is prepared with zeros ahead of the frames in the first lap of each life, see [`file`](super::file).

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use raft_core::{Entries, HardState, NodeId, Term, wire};

use super::error::DurableError;
use super::file::{FileLayer, PAGE_BYTES};

const HEADER_BYTES: usize = 28;
const SUM_BYTES: usize = 4;
const CHANGE_BYTES: usize = 29;

/// How far ahead of the frames the file is prepared.
const PREPARED_BYTES: u64 = 256 << 10;

/// A change that only appends entries to its group, or changes its hard state.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Addition {
    pub(super) group: u64,
    /// As it is then.
    pub(super) hard_state: HardState,
    pub(super) entries: Entries,
}

/// What a start finds.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Found {
    /// Whatever redb does not have, with their sequences, without a gap.
    pub(super) additions: Vec<(u64, Addition)>,
    /// A later change than these was durable.
    pub(super) witnessed: Option<u64>,
}

/// The region, and where in it the next frame goes.
#[derive(Debug)]
pub(super) struct Journal {
    file: Arc<dyn FileLayer>,
    /// Its length. Zero: the file has none.
    bytes: u64,
    key: u64,
    /// Of the next frame, from the region's beginning.
    at: u64,
    /// How far this lap goes, which differs from lap to lap and from node to node: while one of them writes its
    /// journal into redb, the others are a majority.
    end: u64,
    lap: u64,
    /// In this life, everything before this was written.
    prepared: u64,
    /// Reused for every frame.
    buffer: Vec<u8>,
}

impl Journal {
    /// The first lap is that of this number.
    pub(super) fn new(file: Arc<dyn FileLayer>, bytes: u64, lap: u64) -> Self {
        Self { file, bytes, key: 0, at: 0, end: bytes, lap, prepared: 0, buffer: Vec::new() }
    }

    /// Whether the file has one.
    pub(super) fn exists(&self) -> bool {
        self.bytes > 0
    }

    /// Everything is in redb, under this key: begins at the front.
    pub(super) fn begin(&mut self, key: u64) {
        self.key = key;
        self.restart();
    }

    /// Everything is in redb.
    pub(super) fn restart(&mut self) {
        self.at = 0;
        self.lap = self.lap.wrapping_add(1);
        self.end = self.bytes - self.bytes / 8 * (self.lap % 4);
    }

    /// Encodes a frame of changes, the first of which has this sequence; whether there is room for it.
    pub(super) fn fits<'a>(
        &mut self,
        first: u64,
        additions: impl ExactSizeIterator<Item = &'a Addition>,
    ) -> bool {
        let Self { buffer, key, .. } = self;
        buffer.clear();
        buffer.extend_from_slice(&[0; HEADER_BYTES]);
        let count = additions.len();
        for Addition { group, hard_state: HardState { term, voted_for }, entries } in additions {
            for word in [*group, term.get(), voted_for.map_or(0, NodeId::get)] {
                buffer.extend_from_slice(&word.to_le_bytes());
            }
            buffer.push(u8::from(voted_for.is_some()));
            let length_at = buffer.len();
            buffer.extend_from_slice(&[0; 4]);
            if !entries.is_empty() {
                wire::encode_entries(entries, buffer);
            }
            let Ok(length) = u32::try_from(buffer.len() - length_at - 4) else { return false };
            buffer[length_at..length_at + 4].copy_from_slice(&length.to_le_bytes());
        }
        let bytes = buffer.len() as u64;
        match u32::try_from(count) {
            // A page is left for the mark.
            Ok(count) if count > 0 && pages_bytes(bytes) + PAGE_BYTES <= self.end.saturating_sub(self.at) => {
                seal(buffer, *key, first, count);
                true
            }
            _ => false,
        }
    }

    /// Writes the frame that was encoded, and makes it durable.
    pub(super) fn append(&mut self) -> io::Result<()> {
        // Whole pages: the system need not read the rest of one.
        let bytes = pages_bytes(self.buffer.len() as u64);
        self.buffer.resize(bytes as usize, 0);
        let end = self.at + bytes;
        self.file.write(PAGE_BYTES + self.at, &self.buffer)?;
        if end + PAGE_BYTES > self.prepared {
            let through = self.bytes.min(end + PREPARED_BYTES);
            self.file.write(PAGE_BYTES + end, &vec![0; (through - end) as usize])?;
            self.prepared = through;
        }
        self.file.sync()?;
        self.at = end;
        Ok(())
    }

    /// To be called when the change of this sequence is durable, and all before it.
    pub(super) fn mark(&mut self, sequence: u64) -> io::Result<()> {
        let mut mark = [0; HEADER_BYTES];
        seal(&mut mark, self.key, sequence, 0);
        self.file.write(PAGE_BYTES + self.at, &mark)
    }

    /// Reads what follows change `after`, which is redb's last, under this key.
    pub(super) fn find(&self, key: u64, after: u64) -> Result<Found, DurableError> {
        let mut found = Found::default();
        let (mut sequence, mut next) = (after, 0);
        let mut at = 0;
        while at < self.bytes {
            let frame = self.frame(key, at)?;
            let pages = frame.as_ref().map_or(PAGE_BYTES, |(_, _, frame)| pages_bytes(frame.len() as u64));
            match frame {
                Some((first, count, frame)) if count > 0 && at == next && first == sequence + 1 => {
                    for addition in decode(frame.slice(HEADER_BYTES..), count)? {
                        sequence += 1;
                        found.additions.push((sequence, addition));
                    }
                    next = at + pages;
                }
                Some((first, count, _)) => {
                    let last = first + u64::from(count).saturating_sub(1);
                    found.witnessed = found.witnessed.max(Some(last));
                }
                None => {}
            }
            // What lies within a frame that is out of turn may be newer than it.
            at = if at + pages == next { next } else { at + PAGE_BYTES };
        }
        found.witnessed = found.witnessed.filter(|witnessed| *witnessed > sequence);
        Ok(found)
    }

    /// The frame that begins here, if there is a whole one: the sequence, the number of changes, its bytes.
    fn frame(&self, key: u64, at: u64) -> io::Result<Option<(u64, u32, Bytes)>> {
        let mut header = [0; HEADER_BYTES];
        self.file.read(PAGE_BYTES + at, &mut header)?;
        let word =
            |at: usize| header[at..at + 8].iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
        let half =
            |at: usize| header[at..at + 4].iter().rev().fold(0, |word, byte| word << 8 | u32::from(*byte));
        let length = u64::from(half(4));
        if word(8) != key || length < HEADER_BYTES as u64 || length > self.bytes - at {
            return Ok(None);
        }
        let mut frame = vec![0; length as usize];
        self.file.read(PAGE_BYTES + at, &mut frame)?;
        let is_whole = crc32fast::hash(&frame[SUM_BYTES..]) == half(0) && word(16) < u64::MAX >> 1;
        Ok(is_whole.then(|| (word(16), half(24), frame.into())))
    }
}

/// So many bytes, in whole pages.
fn pages_bytes(bytes: u64) -> u64 {
    bytes.next_multiple_of(PAGE_BYTES)
}

fn seal(frame: &mut [u8], key: u64, sequence: u64, count: u32) {
    let length =
        u32::try_from(frame.len()).expect("a frame is shorter than the region, and its length was compared");
    frame[4..8].copy_from_slice(&length.to_le_bytes());
    frame[8..16].copy_from_slice(&key.to_le_bytes());
    frame[16..24].copy_from_slice(&sequence.to_le_bytes());
    frame[24..28].copy_from_slice(&count.to_le_bytes());
    let sum = crc32fast::hash(&frame[SUM_BYTES..]);
    frame[..SUM_BYTES].copy_from_slice(&sum.to_le_bytes());
}

/// The changes of a frame whose checksum was right.
fn decode(mut rest: Bytes, count: u32) -> Result<Vec<Addition>, DurableError> {
    let damaged = || DurableError::Damaged("a frame of its journal has another form".into());
    let mut additions = Vec::new();
    for _ in 0..count {
        if rest.len() < CHANGE_BYTES {
            return Err(damaged());
        }
        let head = rest.split_to(CHANGE_BYTES);
        let word =
            |at: usize| head[at..at + 8].iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
        let length = head[25..].iter().rev().fold(0, |word, byte| word << 8 | usize::from(*byte));
        if length > rest.len() || Term::new(word(8)) >= Term::LIMIT {
            return Err(damaged());
        }
        let entries = match rest.split_to(length) {
            none if none.is_empty() => Entries::empty(),
            entries => wire::decode_entries(entries)?,
        };
        let voted_for = (head[24] == 1).then(|| NodeId::new(word(16)));
        let hard_state = HardState { term: Term::new(word(8)), voted_for };
        additions.push(Addition { group: word(0), hard_state, entries });
    }
    if rest.is_empty() { Ok(additions) } else { Err(damaged()) }
}
