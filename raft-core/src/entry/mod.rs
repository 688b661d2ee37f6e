//! Log entries as windows on shared, immutable blocks.
//!
//! A *block* holds consecutive entries of one term and one kind: a no-op, a membership, or many commands
//! packed into one buffer. [`Entries`] is a window on one block, or a list of windows; cloning, slicing and
//! sending it moves reference counts, never payloads. Nothing here allocates per entry.
//!
//! * The entries of an [`Entries`] are consecutive and their terms never fall (§5.3).

mod block;
mod commands;
#[cfg(feature = "serde")]
mod serde_impl;

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::ops::RangeInclusive;

use crate::ids::{LogId, LogIndex, Term};
use crate::membership::Membership;

use block::EntriesIter;
pub(crate) use block::{BlockBody, Window};
pub(crate) use commands::Chunk;
pub use commands::{CommandPacker, CommandRef, Commands};

/// What a block costs beside its payload, in memory and on the wire; counted against every limit, so that
/// empty commands are not free.
pub(crate) const BLOCK_BYTES: u64 = 64;

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

const _: () = assert!(size_of::<Entries>() <= 24);

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
    /// If the index is zero, or the last one would overflow.
    #[must_use]
    pub fn noop(id: LogId) -> Self {
        Self(Repr::One(Window::new(id, BlockBody::Noop)))
    }

    /// A configuration (§6).
    ///
    /// # Panics
    /// If the index is zero, or the last one would overflow.
    #[must_use]
    pub fn membership(id: LogId, membership: Arc<Membership>) -> Self {
        Self(Repr::One(Window::new(id, BlockBody::Membership(membership))))
    }

    /// Commands of one term, the first of them at `first`.
    ///
    /// # Panics
    /// If the index is zero, or the last one would overflow.
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

    /// Their indexes, if there are any.
    #[inline]
    pub(crate) fn range(&self) -> Option<RangeInclusive<LogIndex>> {
        match self.windows() {
            [] => None,
            [window] => Some(window.first_index()..=window.last_index()),
            [first, .., last] => Some(first.first_index()..=last.last_index()),
        }
    }

    /// How many entries there are.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.range().map_or(0, |range| range.end().since(*range.start()) + 1)
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        matches!(self.0, Repr::Empty)
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
    #[inline]
    pub fn size_bytes(&self) -> u64 {
        match &self.0 {
            Repr::One(window) => window.size_bytes(),
            _ => self.windows().iter().map(Window::size_bytes).sum(),
        }
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
        EntriesIter::over(self.windows())
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
