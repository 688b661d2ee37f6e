//! One snapshot as a file: how it is laid out, written, checked and read.
//!
//! | bytes | content, numbers little endian |
//! |--:|---|
//! | 40 | whose it is: magic, versions, cluster, node, CRC-32; as in the log's file |
//! | 8, 4 | its group, CRC-32 of everything before |
//! | 8, … | blocks: XXH3 of what follows, seeded with the block's number; [`BLOCK_BYTES`] bytes, the last one fewer |
//! | … | what is known of the snapshot, as `raft_core::wire` encodes it |
//! | 4 | length of that |
//! | 8 | XXH3 of that, its length included |
//! | 8 | [`END_MAGIC`] |
//!
//! A snapshot without bytes has no blocks. Every block is compared with its checksum whenever it is read.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};

use bytes::Bytes;
use raft_core::host::Written;
use raft_core::{SnapshotMeta, wire};
use xxhash_rust::xxh3::{Xxh3, xxh3_64, xxh3_64_with_seed};

use crate::storage::durable::IDENTITY_BYTES;

const BLOCK_BYTES: usize = 64 * 1024;
const SUM_BYTES: usize = size_of::<u64>();
pub(super) const HEAD_BYTES: usize = IDENTITY_BYTES + 12;
const BLOCKS_AT: u64 = HEAD_BYTES as u64;
const TAIL_BYTES: usize = 4 + SUM_BYTES + END_MAGIC.len();
const END_MAGIC: [u8; 8] = *b"raft-end";
/// What is known of a snapshot is never longer than this.
const META_BYTES_MAX: u64 = 16 << 20;
/// So much is written before it is sent to the disk: a sync of everything at the end would hold up those of the log.
const SYNC_BYTES: u64 = 8 << 20;

/// Why a file is not read.
#[derive(Debug)]
pub(super) enum Unread {
    Io(io::Error),
    /// It is not what was written.
    Damaged(&'static str),
}

impl From<io::Error> for Unread {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Damaged("it is cut short"),
            _ => Self::Io(error),
        }
    }
}

/// Where a snapshot is written to.
pub(super) trait Sink: Write {
    /// Makes what was written durable, where that means something.
    fn sync(&mut self) -> io::Result<()>;
}

impl Sink for File {
    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }
}

/// To somewhere else: whoever receives it makes it durable.
pub(super) struct Stream<W>(pub(super) W);

impl<W: Write> Write for Stream<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.0.write(data)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl<W: Write> Sink for Stream<W> {
    fn sync(&mut self) -> io::Result<()> {
        self.flush()
    }
}

/// Writes a file from its beginning to its end.
pub(super) struct BlockWriter<F = File> {
    file: F,
    /// The block that is being filled, behind room for its checksum.
    block: Vec<u8>,
    blocks: u64,
    digest: Xxh3,
    size_bytes: u64,
    unsynced_bytes: u64,
}

impl<F: Sink> BlockWriter<F> {
    pub(super) fn begin(mut file: F, head: &[u8; HEAD_BYTES]) -> io::Result<Self> {
        file.write_all(head)?;
        let mut block = Vec::with_capacity(SUM_BYTES + BLOCK_BYTES);
        block.resize(SUM_BYTES, 0);
        Ok(Self { file, block, blocks: 0, digest: Xxh3::new(), size_bytes: 0, unsynced_bytes: 0 })
    }

    pub(super) fn write(&mut self, mut data: &[u8]) -> io::Result<()> {
        self.digest.update(data);
        self.size_bytes += data.len() as u64;
        while !data.is_empty() {
            let room = SUM_BYTES + BLOCK_BYTES - self.block.len();
            let (now, later) = data.split_at(room.min(data.len()));
            self.block.extend_from_slice(now);
            data = later;
            if self.block.len() == SUM_BYTES + BLOCK_BYTES {
                self.put_block()?;
            }
        }
        Ok(())
    }

    fn put_block(&mut self) -> io::Result<()> {
        let sum = xxh3_64_with_seed(&self.block[SUM_BYTES..], self.blocks);
        self.block[..SUM_BYTES].copy_from_slice(&sum.to_le_bytes());
        self.file.write_all(&self.block)?;
        self.unsynced_bytes += self.block.len() as u64;
        if self.unsynced_bytes >= SYNC_BYTES {
            self.file.sync()?;
            self.unsynced_bytes = 0;
        }
        self.blocks += 1;
        self.block.truncate(SUM_BYTES);
        Ok(())
    }

    pub(super) fn written(&self) -> Written {
        Written { size_bytes: self.size_bytes, digest: self.digest.digest() }
    }

    /// Writes what is left, and hands out what all was written to: it is not durable yet.
    pub(super) fn end(mut self, meta: &SnapshotMeta) -> io::Result<F> {
        if self.block.len() > SUM_BYTES {
            self.put_block()?;
        }
        let mut tail = Vec::new();
        wire::encode_snapshot_meta(meta, &mut tail);
        let length = u32::try_from(tail.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        tail.extend_from_slice(&length.to_le_bytes());
        tail.extend_from_slice(&xxh3_64(&tail).to_le_bytes());
        tail.extend_from_slice(&END_MAGIC);
        self.file.write_all(&tail)?;
        Ok(self.file)
    }
}

impl BlockWriter {
    /// Writes what is left, and returns when all of it is durable under the name that it has.
    pub(super) fn finish(self, meta: &SnapshotMeta) -> io::Result<()> {
        self.end(meta)?.sync_all()
    }
}

/// What stands at the beginning of a file, as far as it goes.
pub(super) fn read_head(file: &mut File) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.take(BLOCKS_AT).read_to_end(&mut head)?;
    Ok(head)
}

/// What a file says of its snapshot.
pub(super) fn read_meta(file: &mut File) -> Result<SnapshotMeta, Unread> {
    let len = file.seek(SeekFrom::End(0))?;
    let tail_at = len.checked_sub(TAIL_BYTES as u64).ok_or(Unread::Damaged("it is cut short"))?;
    file.seek(SeekFrom::Start(tail_at))?;
    let mut tail = [0; TAIL_BYTES];
    file.read_exact(&mut tail)?;
    let (length, rest) = tail.split_at(4);
    let (sum, magic) = rest.split_at(SUM_BYTES);
    if magic != END_MAGIC {
        return Err(Unread::Damaged("its end is not there"));
    }
    let meta_bytes = length.iter().rev().fold(0, |length, byte| length << 8 | u64::from(*byte));
    let meta_at = tail_at.checked_sub(meta_bytes).filter(|at| *at >= BLOCKS_AT);
    let Some(meta_at) = meta_at.filter(|_| meta_bytes <= META_BYTES_MAX) else {
        return Err(Unread::Damaged("its end makes no sense"));
    };
    let mut covered = vec![0; usize::try_from(meta_bytes).map_err(|_| Unread::Damaged("it is too long"))?];
    file.seek(SeekFrom::Start(meta_at))?;
    file.read_exact(&mut covered)?;
    covered.extend_from_slice(length);
    if xxh3_64(&covered).to_le_bytes() != sum {
        return Err(Unread::Damaged("the checksum of its end is wrong"));
    }
    covered.truncate(covered.len() - length.len());
    let meta = wire::decode_snapshot_meta(&covered).map_err(|_| Unread::Damaged("its end makes no sense"))?;
    let blocks = meta.size_bytes.div_ceil(BLOCK_BYTES as u64);
    let stored = blocks.checked_mul(SUM_BYTES as u64).and_then(|sums| sums.checked_add(meta.size_bytes));
    if stored.and_then(|stored| stored.checked_add(BLOCKS_AT)) != Some(meta_at) {
        return Err(Unread::Damaged("its length is wrong"));
    }
    Ok(meta)
}

/// Compares all bytes with what the file says of them.
pub(super) fn verify(file: &mut File, meta: &SnapshotMeta) -> Result<(), Unread> {
    const STEP_BYTES: u64 = 16 * BLOCK_BYTES as u64;
    let mut digest = Xxh3::new();
    let mut offset = 0;
    while offset < meta.size_bytes {
        let part = read(file, meta.size_bytes, offset, STEP_BYTES)?;
        digest.update(&part);
        offset += part.len() as u64;
    }
    if digest.digest() == meta.digest { Ok(()) } else { Err(Unread::Damaged("its digest is wrong")) }
}

/// Bytes from `offset` on, `bytes_max` of them except at the end.
pub(super) fn read(file: &mut File, size_bytes: u64, offset: u64, bytes_max: u64) -> Result<Bytes, Unread> {
    const BLOCK: u64 = BLOCK_BYTES as u64;
    let end = size_bytes.min(offset.saturating_add(bytes_max));
    if offset >= end {
        return Ok(Bytes::new());
    }
    let (first, last) = (offset / BLOCK, (end - 1) / BLOCK);
    let stored = |block: u64| BLOCKS_AT + block * (BLOCK + SUM_BYTES as u64);
    file.seek(SeekFrom::Start(stored(first)))?;
    let mut out = Vec::new();
    let mut block = vec![0; SUM_BYTES + BLOCK_BYTES];
    for at in first..=last {
        let length = BLOCK.min(size_bytes - at * BLOCK);
        let block = &mut block[..SUM_BYTES + usize::try_from(length).expect("no more than a block")];
        file.read_exact(block)?;
        let (sum, data) = block.split_at(SUM_BYTES);
        if xxh3_64_with_seed(data, at).to_le_bytes() != sum {
            return Err(Unread::Damaged("the checksum of a block is wrong"));
        }
        let within = |from_start: u64| {
            let at = from_start.saturating_sub(at * BLOCK).min(length);
            usize::try_from(at).expect("no more than a block")
        };
        out.extend_from_slice(&data[within(offset)..within(end)]);
    }
    Ok(out.into())
}
