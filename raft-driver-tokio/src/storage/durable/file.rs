//! The bytes under the store: what a file layer must do, and the page in front of redb's own bytes.
//!
//! | bytes | first page, little endian |
//! |--:|---|
//! | 0..8 | [`LOG_MAGIC`] |
//! | 8..12 | [`FORMAT`], and the version of the entries' encoding |
//! | 12..28, 28..36 | cluster id, node id |
//! | 36..40 | CRC-32 of bytes 0..36 |
//! | 40..56, 56..60 | id of the data directory, CRC-32 of bytes 0..56 |
//! | 60..64, 64..68 | length of the [journal](super::journal), CRC-32 of bytes 0..64 |
//! | 512.., 1024.. | two witnesses: a sequence in 8 bytes and its CRC-32 in 4, written by turns |
//!
//! The journal begins at byte 4,096, and redb behind it: neither sees this page. Beyond what redb has written so far its
//! file is prepared with zeros, a mebibyte at a time: to sync a write to blocks that exist is faster than to have the
//! file system find new ones for each, by a tenth to a half for small batches.
//!
//! * A store of format 3 has no journal, and is used without one.
//! * The page is checked before redb reads a byte, so that nothing is ever repaired in a foreign file.
//! * A *witness* is the sequence of the last change of a commit to redb whose fsync has returned. It is written after that fsync and becomes
//!   durable with the next one, so it costs no fsync of its own, and never speaks of what is not durable. It
//!   tells the loss of a durable commit from a commit that a crash interrupted; redb alone rolls both back.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use raft_core::{NodeId, wire};
use redb::StorageBackend;
use redb::backends::FileBackend;

use super::error::OpenError;
use super::journal::Journal;
use super::until_failure::UntilFailure;
use crate::{ClusterId, DirectoryId};

/// The version of the files' format. Others are refused.
pub(super) const FORMAT: u16 = 3;
/// That of a store with a journal.
const FORMAT_WITH_JOURNAL: u16 = 4;
pub(super) const LOG_MAGIC: [u8; 8] = *b"raft-log";
pub(super) const IDENTITY_MAGIC: [u8; 8] = *b"raft-id\n";
/// Identity and its checksum, at the beginning of every file, snapshots included.
pub(in crate::storage) const IDENTITY_BYTES: usize = 40;

/// What log and mark begin with: identity, and the directory that they were made for.
pub(super) const HEAD_BYTES: usize = 60;
/// Head, journal's length, checksum.
const JOURNAL_HEAD_BYTES: usize = 68;

pub(super) const PAGE_BYTES: u64 = 4096;
/// A journal is not longer.
const JOURNAL_BYTES_MAX: u64 = 1 << 30;
const WITNESS_AT: [u64; 2] = [512, 1024];
const WITNESS_BYTES: usize = 12;

/// Whose store it is. Checked at every start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster that the log belongs to.
    pub cluster: ClusterId,
    /// The node whose log and votes these are.
    pub node: NodeId,
}

impl Identity {
    /// As it stands at the beginning of a file.
    pub(in crate::storage) fn encode(&self, magic: [u8; 8]) -> [u8; IDENTITY_BYTES] {
        self.encode_as(FORMAT, magic)
    }

    fn encode_as(&self, format: u16, magic: [u8; 8]) -> [u8; IDENTITY_BYTES] {
        let mut out = [0; IDENTITY_BYTES];
        out[..8].copy_from_slice(&magic);
        out[8..10].copy_from_slice(&format.to_le_bytes());
        out[10..12].copy_from_slice(&wire::RECORD_VERSION.to_le_bytes());
        out[12..28].copy_from_slice(&self.cluster.get().to_le_bytes());
        out[28..36].copy_from_slice(&self.node.get().to_le_bytes());
        let sum = crc32fast::hash(&out[..36]);
        out[36..].copy_from_slice(&sum.to_le_bytes());
        out
    }

    /// Whose the file is that begins with `found`.
    pub(in crate::storage) fn decode(magic: [u8; 8], found: &[u8], path: &Path) -> Result<Self, OpenError> {
        let path = || path.to_owned();
        let Some(found) = found.first_chunk::<IDENTITY_BYTES>().filter(|found| found[..8] == magic) else {
            return Err(OpenError::NotALog { path: path() });
        };
        let number = |at: usize| u16::from_le_bytes([found[at], found[at + 1]]);
        let newest = if magic == LOG_MAGIC { FORMAT_WITH_JOURNAL } else { FORMAT };
        if !(FORMAT..=newest).contains(&number(8)) || number(10) != wire::RECORD_VERSION {
            return Err(OpenError::Version {
                path: path(),
                found: (number(8), number(10)),
                expected: (newest, wire::RECORD_VERSION),
            });
        }
        if crc32fast::hash(&found[..36]).to_le_bytes() != found[36..] {
            return Err(OpenError::Damaged { path: path(), what: "the identity's checksum is wrong".into() });
        }
        let cluster =
            ClusterId::new(found[12..28].iter().rev().fold(0, |id, byte| id << 8 | u128::from(*byte)));
        let node = NodeId::new(found[28..36].iter().rev().fold(0, |id, byte| id << 8 | u64::from(*byte)));
        Ok(Self { cluster, node })
    }

    /// Whether the file that begins with `found` is this node's.
    pub(in crate::storage) fn check(
        &self,
        magic: [u8; 8],
        found: &[u8],
        path: &Path,
    ) -> Result<(), OpenError> {
        let Self { cluster, node } = Self::decode(magic, found, path)?;
        let path = || path.to_owned();
        if cluster != self.cluster {
            return Err(OpenError::ForeignCluster { path: path(), found: cluster, expected: self.cluster });
        }
        if node != self.node {
            return Err(OpenError::ForeignNode { path: path(), found: node, expected: self.node });
        }
        Ok(())
    }
}

/// Whose file it is, and of which directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) identity: Identity,
    pub(super) directory: DirectoryId,
}

impl Head {
    pub(super) fn encode(&self, magic: [u8; 8]) -> [u8; HEAD_BYTES] {
        self.encode_as(FORMAT, magic)
    }

    fn encode_as(&self, format: u16, magic: [u8; 8]) -> [u8; HEAD_BYTES] {
        let mut out = [0; HEAD_BYTES];
        out[..IDENTITY_BYTES].copy_from_slice(&self.identity.encode_as(format, magic));
        out[IDENTITY_BYTES..56].copy_from_slice(&self.directory.get().to_le_bytes());
        let sum = crc32fast::hash(&out[..56]);
        out[56..].copy_from_slice(&sum.to_le_bytes());
        out
    }

    /// What the file begins with, if it is this node's.
    pub(super) fn decode(
        identity: Identity,
        magic: [u8; 8],
        found: &[u8],
        path: &Path,
    ) -> Result<Self, OpenError> {
        identity.check(magic, found, path)?;
        let found = found.first_chunk::<HEAD_BYTES>();
        let Some(found) = found.filter(|found| crc32fast::hash(&found[..56]).to_le_bytes() == found[56..])
        else {
            let what = "the checksum of the directory's id is wrong".into();
            return Err(OpenError::Damaged { path: path.to_owned(), what });
        };
        let id = found[IDENTITY_BYTES..56].iter().rev().fold(0, |id, byte| id << 8 | u128::from(*byte));
        Ok(Self { identity, directory: DirectoryId::new(id) })
    }
}

/// The file under a [`DurableLog`](super::DurableLog). Implement it to inject faults, or to encrypt; bytes are
/// counted from the beginning of the file. Once one of `write`, `set_len` and `sync` has failed, a store calls none of them
/// again.
pub trait FileLayer: std::fmt::Debug + Send + Sync + 'static {
    /// The file's length.
    ///
    /// # Errors
    /// If it cannot be told.
    fn len_bytes(&self) -> io::Result<u64>;

    /// Fills `out` from `offset` on.
    ///
    /// # Errors
    /// If that cannot be read, or the file is too short.
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()>;

    /// Writes all of `data` at `offset`, which lies within the file.
    ///
    /// # Errors
    /// If that cannot be done, or only in part.
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()>;

    /// Cuts or extends the file, with zeros.
    ///
    /// # Errors
    /// If that cannot be done.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Returns when everything written before, and the length, survives a loss of power.
    ///
    /// # Errors
    /// If that cannot be vouched for.
    fn sync(&self) -> io::Result<()>;
}

/// A file of the operating system.
#[derive(Debug)]
pub(super) struct OsFile(pub(super) FileBackend);

impl FileLayer for OsFile {
    fn len_bytes(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(offset, out)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write(offset, data)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}

/// The first page of a store's file.
#[derive(Debug)]
pub(super) struct FirstPage {
    file: Arc<dyn FileLayer>,
    pub(super) head: Head,
    /// Length of the journal. Zero: there is none.
    journal_bytes: u64,
    /// Which witness is written next: never the newest that is whole.
    turn: usize,
}

impl FirstPage {
    /// Writes the page into an empty file, which is to have a journal of `journal_bytes`, whole pages, or none.
    pub(super) fn create(file: Arc<dyn FileLayer>, head: Head, journal_bytes: u64) -> io::Result<Self> {
        let file = UntilFailure::of(file);
        let mut page = vec![0; PAGE_BYTES as usize];
        if journal_bytes == 0 {
            page[..HEAD_BYTES].copy_from_slice(&head.encode(LOG_MAGIC));
        } else {
            page[..JOURNAL_HEAD_BYTES].copy_from_slice(&encode_journal(head, journal_bytes));
        }
        for at in WITNESS_AT.map(|at| at as usize) {
            page[at..at + WITNESS_BYTES].copy_from_slice(&encode_witness(0));
        }
        file.set_len(PAGE_BYTES + journal_bytes)?;
        file.write(0, &page)?;
        Ok(Self { file, head, journal_bytes, turn: 0 })
    }

    /// Checks the page of an existing file, and that something follows it.
    pub(super) fn open(file: Arc<dyn FileLayer>, identity: Identity, path: &Path) -> Result<Self, OpenError> {
        let io = |op| move |source| OpenError::Io { op, path: path.to_owned(), source };
        let damaged = |what: &str| OpenError::Damaged { path: path.to_owned(), what: what.into() };
        let file = UntilFailure::of(file);
        let len = file.len_bytes().map_err(io("read the length of"))?;
        let mut first = vec![0; len.min(JOURNAL_HEAD_BYTES as u64) as usize];
        file.read(0, &mut first).map_err(io("read"))?;
        if len < PAGE_BYTES && first.iter().all(|byte| *byte == 0) {
            return Err(damaged("it is empty"));
        }
        identity.check(LOG_MAGIC, &first, path)?;
        if len <= PAGE_BYTES {
            return Err(damaged("it ends after its first page"));
        }
        let head = Head::decode(identity, LOG_MAGIC, &first, path)?;
        let has_journal = first[8..10] == FORMAT_WITH_JOURNAL.to_le_bytes();
        let journal_bytes = match first.first_chunk().and_then(decode_journal) {
            _ if !has_journal => 0,
            Some(bytes) => bytes,
            None => return Err(damaged("the checksum of the journal's length is wrong")),
        };
        if len <= PAGE_BYTES + journal_bytes {
            // redb would make a new and empty database of this.
            return Err(damaged("it ends after its journal"));
        }
        Ok(Self { file, head, journal_bytes, turn: 0 })
    }

    /// The sequence that was durable for certain.
    pub(super) fn witness(&mut self) -> io::Result<Option<u64>> {
        let mut newest = None;
        for (slot, at) in WITNESS_AT.into_iter().enumerate() {
            let mut raw = [0; WITNESS_BYTES];
            self.file.read(at, &mut raw)?;
            // A crash may tear the one that was being written. The other one is whole.
            newest = newest.max(decode_witness(raw).map(|sequence| (sequence, slot)));
        }
        self.turn = newest.map_or(0, |(_, slot)| 1 - slot);
        Ok(newest.map(|(sequence, _)| sequence))
    }

    /// To be called when the change of this sequence is durable, and all before it.
    pub(super) fn set_witness(&mut self, sequence: u64) -> io::Result<()> {
        self.file.write(WITNESS_AT[self.turn], &encode_witness(sequence))?;
        self.turn = 1 - self.turn;
        Ok(())
    }

    /// The journal.
    pub(super) fn journal(&self) -> Journal {
        Journal::new(Arc::clone(&self.file), self.journal_bytes, self.head.identity.node.get())
    }

    /// The rest of the file.
    pub(super) fn rest(&self) -> io::Result<Rest> {
        let (prepared, begin) = (Mutex::new(self.file.len_bytes()?), PAGE_BYTES + self.journal_bytes);
        Ok(Rest { prepared, begin, file: Arc::clone(&self.file) })
    }
}

/// What the first page of a store with a journal begins with.
fn encode_journal(head: Head, bytes: u64) -> [u8; JOURNAL_HEAD_BYTES] {
    let mut out = [0; JOURNAL_HEAD_BYTES];
    out[..HEAD_BYTES].copy_from_slice(&head.encode_as(FORMAT_WITH_JOURNAL, LOG_MAGIC));
    let bytes = u32::try_from(bytes).expect("a journal is not longer than a gibibyte");
    out[HEAD_BYTES..64].copy_from_slice(&bytes.to_le_bytes());
    let sum = crc32fast::hash(&out[..64]);
    out[64..].copy_from_slice(&sum.to_le_bytes());
    out
}

fn decode_journal(found: &[u8; JOURNAL_HEAD_BYTES]) -> Option<u64> {
    let bytes = found[HEAD_BYTES..64].iter().rev().fold(0, |bytes, byte| bytes << 8 | u64::from(*byte));
    let is_right = crc32fast::hash(&found[..64]).to_le_bytes() == found[64..]
        && (1..=JOURNAL_BYTES_MAX).contains(&bytes)
        && bytes.is_multiple_of(PAGE_BYTES);
    is_right.then_some(bytes)
}

fn encode_witness(sequence: u64) -> [u8; WITNESS_BYTES] {
    let mut out = [0; WITNESS_BYTES];
    out[..8].copy_from_slice(&sequence.to_le_bytes());
    let sum = crc32fast::hash(&out[..8]);
    out[8..].copy_from_slice(&sum.to_le_bytes());
    out
}

fn decode_witness(raw: [u8; WITNESS_BYTES]) -> Option<u64> {
    let (sequence, sum) = raw.split_first_chunk::<8>()?;
    (crc32fast::hash(sequence).to_le_bytes() == sum).then(|| u64::from_le_bytes(*sequence))
}

/// What follows first page and journal: redb's bytes.
///
/// redb's own locks are not offered: the store holds a lock on its directory for as long as this lives.
#[derive(Debug)]
pub(super) struct Rest {
    file: Arc<dyn FileLayer>,
    /// Where they begin.
    begin: u64,
    /// From here on the file was extended and never written since it was opened: it reads as zeros.
    prepared: Mutex<u64>,
}

/// How far ahead a small write prepares the file.
const PREPARED_BYTES: u64 = 1 << 20;
/// Larger writes prepare nothing: for them, writing everything twice costs more than it saves.
const SMALL_BYTES: u64 = 64 << 10;

impl Rest {
    fn shift(&self, offset: u64) -> io::Result<u64> {
        offset.checked_add(self.begin).ok_or_else(|| io::ErrorKind::InvalidInput.into())
    }

    fn prepared(&self) -> MutexGuard<'_, u64> {
        // A layer that panicked while it was held: the store is not used after that.
        self.prepared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StorageBackend for Rest {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.len_bytes()?.saturating_sub(self.begin))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(self.shift(offset)?, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let len = self.shift(len)?;
        let mut prepared = self.prepared();
        self.file.set_len(len)?;
        *prepared = len.min(*prepared);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let offset = self.shift(offset)?;
        let bytes = data.len() as u64;
        let end = offset + bytes;
        let mut prepared = self.prepared();
        if end <= *prepared {
            drop(prepared);
            return self.file.write(offset, data);
        }
        // Held until the data is written: zeros must not follow data of another thread.
        self.file.write(offset, data)?;
        *prepared = end;
        if bytes <= SMALL_BYTES {
            let through = self.file.len_bytes()?.min(end.saturating_add(PREPARED_BYTES));
            if let Some(zeros) = through.checked_sub(end).filter(|zeros| *zeros > 0) {
                self.file.write(end, &vec![0; zeros as usize])?;
                *prepared = through;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_told_from_every_other() {
        let path = Path::new("x");
        let ours = Identity { cluster: ClusterId::new(7 << 100 | 5), node: NodeId::new(3) };
        let head = Head { identity: ours, directory: DirectoryId::random().unwrap() };
        let bytes = head.encode(LOG_MAGIC);
        assert_eq!(Head::decode(ours, LOG_MAGIC, &bytes, path).unwrap(), head);
        assert_ne!(DirectoryId::random().unwrap(), head.directory);
        for bit in 0..8 * HEAD_BYTES {
            let mut altered = bytes;
            altered[bit / 8] ^= 1 << (bit % 8);
            Head::decode(ours, LOG_MAGIC, &altered, path).unwrap_err();
        }
        let other = Identity { cluster: ClusterId::new(6), ..ours };
        let error = other.check(LOG_MAGIC, &bytes, path).unwrap_err();
        assert!(matches!(error, OpenError::ForeignCluster { found, .. } if found == ours.cluster));
        let other = Identity { node: NodeId::new(4), ..ours };
        let error = other.check(LOG_MAGIC, &bytes, path).unwrap_err();
        assert!(matches!(error, OpenError::ForeignNode { found, .. } if found == ours.node));
        assert!(matches!(ours.check(IDENTITY_MAGIC, &bytes, path), Err(OpenError::NotALog { .. })));
    }

    #[test]
    fn a_torn_witness_is_none() {
        let before = encode_witness(258);
        let after = encode_witness(770);
        assert_eq!(decode_witness(before), Some(258));
        assert_eq!(decode_witness([0; WITNESS_BYTES]), None);
        for cut in 1..WITNESS_BYTES {
            let mut torn = before;
            torn[..cut].copy_from_slice(&after[..cut]);
            assert!(matches!(decode_witness(torn), None | Some(258 | 770)));
        }
    }
}
