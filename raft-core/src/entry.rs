//! Log entries as windows on shared, immutable blocks.
//!
//! A *block* holds consecutive entries of one term and one kind: a no-op, a membership, or many commands
//! packed into one buffer. [`Entries`] is a window on one block, or a list of windows; cloning, slicing and
//! sending it moves reference counts, never payloads. Nothing here allocates per entry.
//!
//! * The entries of an [`Entries`] are consecutive and their terms never fall (§5.3).
//! * A block never changes once built; truncation only drops or narrows windows.
//!
//! A packed buffer is `data ++ ends`: the commands back to back, then where each ends, a `u32` in little
//! endian per command. A command alone in its block is its buffer, without `ends`.

use alloc::sync::Arc;
use alloc::vec::Vec;
use bytes::Bytes;
use core::fmt;
use core::ops::{Deref, Range};

use crate::ids::{LogId, LogIndex, Term};
use crate::membership::Membership;

/// Commands are packed into buffers of about this size: larger ones page-fault on every use.
const CHUNK_BYTES: usize = 96 * 1024;
/// From this size on a command is kept by reference instead of being copied.
const LARGE_BYTES: usize = 8 * 1024;
/// What a block costs beside its payload, in memory and on the wire; counted against every limit, so that
/// empty commands are not free.
const BLOCK_BYTES: u64 = 64;
const END_BYTES: usize = 4;

// ---------------------------------------------------------------------------------------------------------
// Commands: what a client proposes
// ---------------------------------------------------------------------------------------------------------

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

    fn command(&self, at: u32) -> CommandRef<'_> {
        CommandRef { buffer: self.bytes(), start: self.start(at), end: self.end(at) }
    }
}

#[derive(Clone, Default)]
enum Chunks {
    #[default]
    None,
    One(Chunk),
    Many(Arc<[Chunk]>),
}

/// Commands for one [`Event::Propose`](crate::Event::Propose), packed by a [`CommandPacker`].
///
/// A clone is one reference count.
#[derive(Clone, Default)]
pub struct Commands(Chunks);

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
        self.chunks().iter().flat_map(|chunk| (0..chunk.count()).map(|at| chunk.command(at)))
    }

    /// The longest command's length in bytes.
    pub(crate) fn longest_bytes(&self) -> usize {
        self.iter().map(|command| command.len()).max().unwrap_or(0)
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
            self.data.reserve_exact(command.len());
        } else if self.data.capacity() < self.data.len() + command.len() + END_BYTES {
            let room = if self.ends.len() == 1 { self.data.len() * 16 } else { CHUNK_BYTES };
            self.data.reserve(command.len() + room.min(CHUNK_BYTES));
        }
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
        let ends = if commands > 1 { commands * END_BYTES } else { 0 };
        self.data.reserve_exact((bytes + ends).min(CHUNK_BYTES + CHUNK_BYTES / 4));
        self.ends.reserve(commands.min(CHUNK_BYTES));
    }

    /// How many commands wait for [`finish`](Self::finish).
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty() && self.full.is_empty()
    }

    fn take(&mut self) -> Option<Chunk> {
        if self.ends.is_empty() {
            return None;
        }
        let mut data = core::mem::take(&mut self.data);
        let chunk = if self.ends.len() == 1 {
            Chunk::Single(Bytes::from(data))
        } else {
            let count = u32::try_from(self.ends.len()).expect("fewer commands than bytes of their ends");
            for end in &self.ends {
                data.extend_from_slice(&end.to_le_bytes());
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
        f.debug_list().entries((0..self.count()).map(|at| self.command(at))).finish()
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

// ---------------------------------------------------------------------------------------------------------
// Entries: commands at their place in the log
// ---------------------------------------------------------------------------------------------------------

#[derive(Clone, Debug)]
pub(crate) enum BlockBody {
    Noop,
    Commands(Chunk),
    Membership(Arc<Membership>),
}

#[derive(Debug)]
pub(crate) struct Block {
    first: LogId,
    body: BlockBody,
}

/// The entries `[start, end)` of a block, counted within it. Never empty.
#[derive(Clone, Debug)]
pub(crate) struct Window {
    block: Arc<Block>,
    start: u32,
    end: u32,
}

impl Window {
    pub(crate) fn new(first: LogId, body: BlockBody) -> Self {
        let end = match &body {
            BlockBody::Commands(chunk) => chunk.count(),
            BlockBody::Noop | BlockBody::Membership(_) => 1,
        };
        assert!(
            first.index > LogIndex::ZERO && end > 0,
            "a block starts at index 1 or later and is not empty"
        );
        Self { block: Arc::new(Block { first, body }), start: 0, end }
    }

    pub(crate) fn term(&self) -> Term {
        self.block.first.term
    }

    pub(crate) fn first_index(&self) -> LogIndex {
        self.block.first.index.plus(u64::from(self.start))
    }

    pub(crate) fn last_index(&self) -> LogIndex {
        self.block.first.index.plus(u64::from(self.end) - 1)
    }

    pub(crate) fn first(&self) -> LogId {
        LogId::new(self.term(), self.first_index())
    }

    pub(crate) fn last(&self) -> LogId {
        LogId::new(self.term(), self.last_index())
    }

    pub(crate) fn body(&self) -> &BlockBody {
        &self.block.body
    }

    /// The window's range of commands within its block.
    pub(crate) fn range(&self) -> Range<u32> {
        self.start..self.end
    }

    pub(crate) fn len(&self) -> u64 {
        u64::from(self.end - self.start)
    }

    /// What the window counts against limits in bytes.
    pub(crate) fn size_bytes(&self) -> u64 {
        BLOCK_BYTES
            + match &self.block.body {
                BlockBody::Noop => 0,
                BlockBody::Commands(chunk) => {
                    chunk.data(self.range()).len() as u64
                        + u64::from(self.end - self.start) * END_BYTES as u64
                }
                BlockBody::Membership(membership) => {
                    membership.nodes.values().map(|address| address.len() as u64 + 64).sum()
                }
            }
    }

    /// The part of the window in `[from, through]`, if any.
    pub(crate) fn narrow(&self, from: LogIndex, through: LogIndex) -> Option<Self> {
        let first = from.max(self.first_index());
        let last = through.min(self.last_index());
        if first > last {
            return None;
        }
        let offset = |index: LogIndex| {
            u32::try_from(index.since(self.block.first.index)).expect("an index inside the block")
        };
        Some(Self { block: Arc::clone(&self.block), start: offset(first), end: offset(last) + 1 })
    }

    /// The longest beginning of the window with at most `bytes_max` bytes, one entry at least.
    pub(crate) fn prefix(&self, entries_max: u64, bytes_max: u64) -> Self {
        let count = u64::from(self.end - self.start).min(entries_max.max(1));
        let mut end = self.start + u32::try_from(count).expect("at most the window's own length");
        if let BlockBody::Commands(chunk) = &self.block.body {
            let room = bytes_max.saturating_sub(BLOCK_BYTES);
            let cost = |end: u32| {
                chunk.data(self.start..end).len() as u64 + u64::from(end - self.start) * END_BYTES as u64
            };
            if cost(end) > room {
                // The greatest end whose cost still fits; costs grow with the end.
                let (mut fits, mut too_many) = (self.start, end);
                while too_many - fits > 1 {
                    let middle = fits + (too_many - fits) / 2;
                    if cost(middle) <= room {
                        fits = middle;
                    } else {
                        too_many = middle;
                    }
                }
                end = fits.max(self.start + 1);
            }
        }
        Self { block: Arc::clone(&self.block), start: self.start, end }
    }

    fn entry(&self, at: u32) -> EntryRef<'_> {
        let id = LogId::new(self.term(), self.block.first.index.plus(u64::from(at)));
        match &self.block.body {
            BlockBody::Noop => EntryRef::Noop(id),
            BlockBody::Commands(chunk) => EntryRef::Command(id, chunk.command(at)),
            BlockBody::Membership(membership) => EntryRef::Membership(id, membership),
        }
    }
}

#[derive(Clone, Default)]
enum Repr {
    #[default]
    Empty,
    One(Window),
    Many(Arc<[Window]>),
}

/// Consecutive log entries (§5.3). 24 bytes; a clone is one reference count.
#[derive(Clone, Default)]
pub struct Entries(Repr);

const _: () = assert!(size_of::<Entries>() == 24);

/// One entry, borrowed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum EntryRef<'a> {
    /// Appended by a new leader so that it can commit what earlier leaders left (§8).
    Noop(LogId),
    /// A client's command.
    Command(LogId, CommandRef<'a>),
    /// A cluster configuration (§6).
    Membership(LogId, &'a Arc<Membership>),
}

impl EntryRef<'_> {
    /// The entry's place and term.
    #[must_use]
    pub fn id(&self) -> LogId {
        match self {
            Self::Noop(id) | Self::Command(id, _) | Self::Membership(id, _) => *id,
        }
    }
}

/// Entries that do not follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("entry {after} cannot be followed by {next}")]
pub struct NotConsecutive {
    /// The last entry that fitted.
    pub after: LogId,
    /// The one that did not.
    pub next: LogId,
}

impl Entries {
    /// No entries.
    #[must_use]
    pub const fn empty() -> Self {
        Self(Repr::Empty)
    }

    /// A no-op (§8).
    ///
    /// # Panics
    /// If the index is zero.
    #[must_use]
    pub fn noop(id: LogId) -> Self {
        Self(Repr::One(Window::new(id, BlockBody::Noop)))
    }

    /// A configuration (§6).
    ///
    /// # Panics
    /// If the index is zero.
    #[must_use]
    pub fn membership(id: LogId, membership: Arc<Membership>) -> Self {
        Self(Repr::One(Window::new(id, BlockBody::Membership(membership))))
    }

    /// Commands of one term, the first of them at `first`.
    ///
    /// # Panics
    /// If the index is zero.
    #[must_use]
    pub fn commands(first: LogId, commands: &Commands) -> Self {
        let mut next = first;
        let windows = commands.chunks().iter().map(|chunk| {
            let window = Window::new(next, BlockBody::Commands(chunk.clone()));
            next.index = next.index.plus(u64::from(chunk.count()));
            window
        });
        Self::from_windows(windows.collect())
    }

    /// Puts consecutive parts together.
    ///
    /// # Errors
    /// If a part does not begin right after the one before it, or its term is lower.
    pub fn join(parts: impl IntoIterator<Item = Self>) -> Result<Self, NotConsecutive> {
        let mut windows: Vec<Window> = Vec::new();
        for part in parts {
            for window in part.windows() {
                if let Some(after) = windows.last().map(Window::last) {
                    let next = window.first();
                    if next.index != after.index.next() || next.term < after.term {
                        return Err(NotConsecutive { after, next });
                    }
                }
                windows.push(window.clone());
            }
        }
        Ok(Self::from_windows(windows))
    }

    /// The caller vouches that the windows are consecutive.
    pub(crate) fn from_windows(mut windows: Vec<Window>) -> Self {
        debug_assert!(windows.windows(2).all(|pair| pair[0].last_index().next() == pair[1].first_index()));
        match windows.len() {
            0 => Self(Repr::Empty),
            1 => Self(windows.pop().map_or(Repr::Empty, Repr::One)),
            _ => Self(Repr::Many(windows.into())),
        }
    }

    pub(crate) fn from_window(window: Window) -> Self {
        Self(Repr::One(window))
    }

    pub(crate) fn windows(&self) -> &[Window] {
        match &self.0 {
            Repr::Empty => &[],
            Repr::One(window) => core::slice::from_ref(window),
            Repr::Many(windows) => windows,
        }
    }

    /// How many entries there are.
    #[must_use]
    pub fn len(&self) -> u64 {
        match (self.first(), self.last()) {
            (Some(first), Some(last)) => last.index.since(first.index) + 1,
            _ => 0,
        }
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.windows().is_empty()
    }

    /// The first entry's identity.
    #[must_use]
    pub fn first(&self) -> Option<LogId> {
        self.windows().first().map(Window::first)
    }

    /// The last entry's identity.
    #[must_use]
    pub fn last(&self) -> Option<LogId> {
        self.windows().last().map(Window::last)
    }

    /// What they count against limits in bytes: payloads and their bookkeeping.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.windows().iter().map(Window::size_bytes).sum()
    }

    /// The runs of equal terms, as (term, first index).
    pub fn terms(&self) -> impl Iterator<Item = (Term, LogIndex)> + '_ {
        let mut before = None;
        self.windows().iter().filter_map(move |window| {
            let fresh = before != Some(window.term());
            before = Some(window.term());
            fresh.then(|| (window.term(), window.first_index()))
        })
    }

    /// Each entry in turn.
    pub fn iter(&self) -> impl Iterator<Item = EntryRef<'_>> {
        self.windows().iter().flat_map(|window| window.range().map(|at| window.entry(at)))
    }

    /// The part in `[from, through]`; empty if they have nothing in common.
    #[must_use]
    pub fn slice(&self, from: LogIndex, through: LogIndex) -> Self {
        match &self.0 {
            Repr::Many(windows) => {
                let skip = windows.partition_point(|window| window.last_index() < from);
                let end = windows.partition_point(|window| window.first_index() <= through);
                let kept = windows.get(skip..end).unwrap_or(&[]);
                Self::from_windows(kept.iter().filter_map(|window| window.narrow(from, through)).collect())
            }
            Repr::One(window) => Self(window.narrow(from, through).map_or(Repr::Empty, Repr::One)),
            Repr::Empty => Self::empty(),
        }
    }

    /// The longest beginning with at most `bytes_max` bytes, one entry at least if there is any.
    #[must_use]
    pub fn prefix(&self, bytes_max: u64) -> Self {
        let mut room = bytes_max;
        let mut kept: Vec<Window> = Vec::new();
        for window in self.windows() {
            if !kept.is_empty() && room <= BLOCK_BYTES {
                break;
            }
            let size = window.size_bytes();
            if size <= room {
                room -= size;
                kept.push(window.clone());
                continue;
            }
            let part = window.prefix(u64::MAX, room);
            if kept.is_empty() || part.size_bytes() <= room {
                kept.push(part);
            }
            break;
        }
        Self::from_windows(kept)
    }
}

/// Equal entries are equal, however they are cut into blocks.
impl PartialEq for Entries {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.iter().eq(other.iter())
    }
}

/// Identities only, as in protocol traces: `[5@2 6@2]`, `[5@2 ..1028@2]`.
impl fmt::Debug for Entries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.first(), self.last()) {
            (Some(first), Some(last)) if first == last => write!(f, "[{first}]"),
            (Some(first), Some(last)) if self.len() == 2 => write!(f, "[{first} {last}]"),
            (Some(first), Some(last)) => write!(f, "[{first} ..{last}]"),
            _ => write!(f, "[]"),
        }
    }
}

#[cfg(feature = "serde")]
mod serde_impl {
    //! Commands as a list of byte strings; entries as a list of blocks, checked when read.

    use super::*;
    use serde::de::Error as _;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    impl Serialize for Commands {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.collect_seq(self.iter().map(|command| command.to_bytes()))
        }
    }

    impl<'de> Deserialize<'de> for Commands {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            let mut packer = CommandPacker::default();
            for command in Vec::<Bytes>::deserialize(deserializer)? {
                packer.push_bytes(command);
            }
            Ok(packer.finish())
        }
    }

    #[derive(Serialize, Deserialize)]
    enum Part {
        Noop(LogId),
        Commands(LogId, Vec<Bytes>),
        Membership(LogId, Arc<Membership>),
    }

    impl From<&Window> for Part {
        fn from(window: &Window) -> Self {
            match window.body() {
                BlockBody::Noop => Self::Noop(window.first()),
                BlockBody::Membership(membership) => Self::Membership(window.first(), Arc::clone(membership)),
                BlockBody::Commands(chunk) => Self::Commands(
                    window.first(),
                    window.range().map(|at| chunk.command(at).to_bytes()).collect(),
                ),
            }
        }
    }

    impl Serialize for Entries {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.collect_seq(self.windows().iter().map(Part::from))
        }
    }

    impl<'de> Deserialize<'de> for Entries {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            let mut entries = Vec::new();
            for part in Vec::<Part>::deserialize(deserializer)? {
                let (Part::Noop(first) | Part::Commands(first, _) | Part::Membership(first, _)) = &part;
                if first.index == LogIndex::ZERO || first.index >= LogIndex::LIMIT {
                    return Err(D::Error::custom("an entry's index is out of range"));
                }
                entries.push(match part {
                    Part::Noop(id) => Self::noop(id),
                    Part::Membership(id, membership) => Self::membership(id, membership),
                    Part::Commands(first, commands) => {
                        let mut packer = CommandPacker::default();
                        commands.into_iter().for_each(|command| packer.push_bytes(command));
                        Self::commands(first, &packer.finish())
                    }
                });
            }
            Self::join(entries).map_err(D::Error::custom)
        }
    }
}
