//! Commands packed into buffers: small ones are copied together, large ones kept by reference.
//!
//! A packed buffer is `data ++ ends`: the commands back to back, then where each ends, a `u32` in little
//! endian per command. A command alone in its block is its buffer, without `ends`.

use alloc::sync::Arc;
use alloc::vec::Vec;
use bytes::Bytes;
use core::fmt;
use core::ops::{Deref, Range};
use core::{mem, slice};

use super::BLOCK_BYTES;

/// Commands are packed into buffers of about this size: larger ones page-fault on every use.
const CHUNK_BYTES: usize = 96 * 1024;
/// From this size on a command is kept by reference instead of being copied.
const LARGE_BYTES: usize = 8 * 1024;
pub(super) const END_BYTES: usize = 4;

/// One buffer of commands.
#[derive(Clone)]
pub(crate) enum Chunk {
    /// One command: the whole buffer.
    Single(Bytes),
    /// `count` commands: `data ++ ends`.
    Packed { bytes: Bytes, count: u32 },
}

impl Chunk {
    pub(crate) fn count(&self) -> u32 {
        match self {
            Self::Single(_) => 1,
            Self::Packed { count, .. } => *count,
        }
    }

    pub(crate) fn bytes(&self) -> &Bytes {
        match self {
            Self::Single(bytes) | Self::Packed { bytes, .. } => bytes,
        }
    }

    /// Checks a packed buffer that came from outside: `count` ends that never fall, the last at the data's end.
    pub(crate) fn from_parts(bytes: Bytes, count: u32) -> Option<Self> {
        match count {
            0 => None,
            1 => Some(Self::Single(bytes)),
            _ => {
                let ends_bytes = usize::try_from(count).ok()?.checked_mul(END_BYTES)?;
                let data_bytes = bytes.len().checked_sub(ends_bytes)?;
                let mut start = 0;
                for raw in bytes[data_bytes..].chunks_exact(END_BYTES) {
                    let end = u32::from_le_bytes(raw.try_into().ok()?);
                    if end < start {
                        return None;
                    }
                    start = end;
                }
                (start as usize == data_bytes).then_some(Self::Packed { bytes, count })
            }
        }
    }

    /// Where command `at` ends within the data.
    fn end(&self, at: u32) -> usize {
        match self {
            Self::Single(bytes) => bytes.len(),
            Self::Packed { bytes, count } => {
                let from = bytes.len() - (*count - at) as usize * END_BYTES;
                let raw: [u8; END_BYTES] =
                    bytes[from..from + END_BYTES].try_into().expect("a slice of END_BYTES");
                u32::from_le_bytes(raw) as usize
            }
        }
    }

    fn start(&self, at: u32) -> usize {
        if at == 0 { 0 } else { self.end(at - 1) }
    }

    /// The data of the commands in `range`.
    pub(crate) fn data(&self, range: Range<u32>) -> &[u8] {
        if range.is_empty() {
            return &[];
        }
        &self.bytes()[self.start(range.start)..self.end(range.end - 1)]
    }

    /// Where each command of `range` ends, counted from the start of the first.
    pub(crate) fn ends(&self, range: Range<u32>) -> impl Iterator<Item = u32> + '_ {
        let base = self.start(range.start);
        range.map(move |at| {
            u32::try_from(self.end(at) - base).expect("a packed buffer is at most u32::MAX bytes")
        })
    }

    /// What the commands of `range` count against limits: their bytes and their ends.
    pub(crate) fn size_bytes(&self, range: Range<u32>) -> u64 {
        let ends_bytes = range.len() as u64 * END_BYTES as u64;
        self.data(range).len() as u64 + ends_bytes
    }

    /// The commands of `range`.
    pub(super) fn commands(&self, range: Range<u32>) -> ChunkCommands<'_> {
        let start = if range.is_empty() { 0 } else { self.start(range.start) };
        let (ends, alone): (&[u8], _) = match self {
            Self::Single(bytes) => (&[], (!range.is_empty()).then_some(bytes.len())),
            Self::Packed { bytes, count } => {
                let ends = &bytes[bytes.len() - *count as usize * END_BYTES..];
                (&ends[range.start as usize * END_BYTES..range.end as usize * END_BYTES], None)
            }
        };
        ChunkCommands { buffer: self.bytes(), start, ends: ends.as_chunks().0.iter(), alone }
    }
}

/// The commands of a buffer, one after the other.
pub(super) struct ChunkCommands<'a> {
    buffer: &'a Bytes,
    /// Where the next one begins.
    start: usize,
    ends: slice::Iter<'a, [u8; END_BYTES]>,
    /// Where a command without `ends` does.
    alone: Option<usize>,
}

impl<'a> Iterator for ChunkCommands<'a> {
    type Item = CommandRef<'a>;

    fn next(&mut self) -> Option<CommandRef<'a>> {
        let end = match self.ends.next() {
            Some(raw) => u32::from_le_bytes(*raw) as usize,
            None => self.alone.take()?,
        };
        let start = mem::replace(&mut self.start, end);
        Some(CommandRef { buffer: self.buffer, start, end })
    }
}

#[derive(Clone, Default)]
pub(super) enum Chunks {
    #[default]
    None,
    One(Chunk),
    Many(Arc<[Chunk]>),
}

/// Commands for one [`Event::Propose`](crate::Event::Propose), packed by a [`CommandPacker`].
///
/// A clone is one reference count.
#[derive(Clone, Default)]
pub struct Commands(pub(super) Chunks);

impl Commands {
    /// A single command, kept by reference.
    #[must_use]
    pub fn one(command: Bytes) -> Self {
        Self(Chunks::One(Chunk::Single(command)))
    }

    pub(crate) fn chunks(&self) -> &[Chunk] {
        match &self.0 {
            Chunks::None => &[],
            Chunks::One(chunk) => core::slice::from_ref(chunk),
            Chunks::Many(chunks) => chunks,
        }
    }

    /// The buffers themselves in turn, so that the only one is moved on instead of shared.
    pub(crate) fn each_chunk(self, mut take: impl FnMut(Chunk)) {
        match self.0 {
            Chunks::None => {}
            Chunks::One(chunk) => take(chunk),
            Chunks::Many(chunks) => chunks.iter().cloned().for_each(take),
        }
    }

    /// How many commands there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.chunks().iter().map(|chunk| chunk.count() as usize).sum()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.chunks().is_empty()
    }

    /// What they count against limits in bytes: payloads and their bookkeeping.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.chunks().iter().map(|chunk| chunk.bytes().len() as u64 + BLOCK_BYTES).sum()
    }

    /// Each command in turn.
    pub fn iter(&self) -> impl Iterator<Item = CommandRef<'_>> {
        self.chunks().iter().flat_map(|chunk| chunk.commands(0..chunk.count()))
    }

    /// The longest command's length in bytes, if that is more than `bytes_max`.
    pub(crate) fn longest_bytes_above(&self, bytes_max: u64) -> Option<u64> {
        // A buffer that is short enough as a whole holds no command that is too long.
        let suspect = |chunk: &&Chunk| chunk.bytes().len() as u64 > bytes_max;
        if !self.chunks().iter().any(|chunk| suspect(&chunk)) {
            return None;
        }
        let chunks = self.chunks().iter().filter(suspect);
        let commands = chunks.flat_map(|chunk| chunk.commands(0..chunk.count()));
        let lengths = commands.map(|command| command.len() as u64);
        lengths.max().filter(|longest| *longest > bytes_max)
    }
}

impl<T: AsRef<[u8]>> FromIterator<T> for Commands {
    fn from_iter<I: IntoIterator<Item = T>>(commands: I) -> Self {
        let mut packer = CommandPacker::default();
        for command in commands {
            packer.push(command.as_ref());
        }
        packer.finish()
    }
}

impl PartialEq for Commands {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl fmt::Debug for Commands {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// Packs commands: small ones are copied together, large ones kept by reference. Reusable after [`finish`].
///
/// [`finish`]: CommandPacker::finish
///
/// ```
/// use raft_core::CommandPacker;
///
/// let mut packer = CommandPacker::default();
/// packer.push(b"set x=1");
/// packer.push(b"set y=2");
/// let commands = packer.finish();
/// assert_eq!(commands.len(), 2);
/// assert_eq!(&*commands.iter().last().unwrap(), b"set y=2");
/// ```
#[derive(Debug, Default)]
pub struct CommandPacker {
    data: Vec<u8>,
    ends: Vec<u32>,
    full: Vec<Chunk>,
    /// What is left of the bytes that were announced by `reserve`.
    announced: usize,
}

impl CommandPacker {
    /// Adds a command by copying it.
    ///
    /// # Panics
    /// If the command is longer than `u32::MAX` bytes.
    pub fn push(&mut self, command: &[u8]) {
        if !self.ends.is_empty() && self.data.len() + command.len() > CHUNK_BYTES {
            self.seal();
        }
        if self.ends.is_empty() {
            // One command alone is copied at its exact size, a second one grows the buffer once.
            let announced = self.announced.min(CHUNK_BYTES + CHUNK_BYTES / 4);
            self.begin(command.len().max(announced));
        } else if self.data.capacity() < self.data.len() + command.len() + END_BYTES {
            let room = if self.ends.len() == 1 { self.data.len() * 16 } else { CHUNK_BYTES };
            self.data.reserve(command.len() + room.min(CHUNK_BYTES));
        }
        self.announced = self.announced.saturating_sub(command.len() + END_BYTES);
        self.data.extend_from_slice(command);
        self.ends.push(u32::try_from(self.data.len()).expect("a command is at most u32::MAX bytes"));
    }

    /// Adds a command, without copying it if it is large.
    ///
    /// # Panics
    /// If the command is longer than `u32::MAX` bytes.
    pub fn push_bytes(&mut self, command: Bytes) {
        if command.len() < LARGE_BYTES {
            return self.push(&command);
        }
        assert!(u32::try_from(command.len()).is_ok(), "a command is at most u32::MAX bytes");
        self.seal();
        self.full.push(Chunk::Single(command));
    }

    /// Makes room for `commands` more commands of `bytes` in all, so that a batch of known size is copied once.
    pub fn reserve(&mut self, commands: usize, bytes: usize) {
        let ends = if commands > 1 { commands.saturating_mul(END_BYTES) } else { 0 };
        self.announced = bytes.saturating_add(ends);
        self.begin(self.announced.min(CHUNK_BYTES + CHUNK_BYTES / 4));
        self.ends.reserve(commands.min(CHUNK_BYTES));
    }

    /// Whether no command waits for [`finish`](Self::finish).
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty() && self.full.is_empty()
    }

    fn begin(&mut self, bytes: usize) {
        if self.data.capacity() == 0 {
            self.data = Vec::with_capacity(bytes);
        } else {
            self.data.reserve_exact(bytes);
        }
    }

    fn take(&mut self) -> Option<Chunk> {
        if self.ends.is_empty() {
            return None;
        }
        let mut data = mem::take(&mut self.data);
        let chunk = if self.ends.len() == 1 {
            // What was reserved for more commands is not kept with one.
            data.shrink_to_fit();
            Chunk::Single(Bytes::from(data))
        } else {
            let count = u32::try_from(self.ends.len()).expect("fewer commands than bytes of their ends");
            for end in &self.ends {
                data.extend_from_slice(&end.to_le_bytes());
            }
            if data.capacity() > data.len() + data.len() / 2 {
                // Limits count what is used: what is kept must not be much more.
                data.shrink_to_fit();
            }
            Chunk::Packed { bytes: Bytes::from(data), count }
        };
        self.ends.clear();
        Some(chunk)
    }

    fn seal(&mut self) {
        if let Some(chunk) = self.take() {
            self.full.push(chunk);
        }
    }

    /// The commands pushed since the last call.
    pub fn finish(&mut self) -> Commands {
        if self.full.is_empty() {
            return Commands(self.take().map_or(Chunks::None, Chunks::One));
        }
        self.seal();
        if self.full.len() == 1 {
            return Commands(self.full.pop().map_or(Chunks::None, Chunks::One));
        }
        Commands(Chunks::Many(self.full.drain(..).collect()))
    }
}

impl fmt::Debug for Chunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.commands(0..self.count())).finish()
    }
}

/// One command, borrowed from its block.
#[derive(Clone, Copy)]
pub struct CommandRef<'a> {
    buffer: &'a Bytes,
    start: usize,
    end: usize,
}

impl CommandRef<'_> {
    /// The command as an owned slice of its block: one reference count, no copy.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        self.buffer.slice(self.start..self.end)
    }
}

impl Deref for CommandRef<'_> {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }
}

impl PartialEq for CommandRef<'_> {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

/// Text if it is text, at most 24 bytes of it.
impl fmt::Debug for CommandRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN_BYTES: usize = 24;
        let shown = &self[..self.len().min(SHOWN_BYTES)];
        write!(f, "\"{}\"", shown.escape_ascii())?;
        if self.len() > SHOWN_BYTES { write!(f, "+{}B", self.len() - SHOWN_BYTES) } else { Ok(()) }
    }
}
