//! Names of things: nodes, terms, log positions, and the numbers that tie an outcome to its request.
//!
//! Every number that the protocol counts is a newtype, so that a term cannot be passed for an index.

use core::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        #[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
        pub struct $name(u64);

        impl $name {
            /// Wraps a plain number.
            #[must_use]
            pub const fn new(value: u64) -> Self {
                Self(value)
            }

            /// The plain number.
            #[must_use]
            pub const fn get(self) -> u64 {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number! {
    /// The name of a server, unique in its cluster for ever: an id is never given to another disk (§2).
    NodeId
}

number! {
    /// A term: Raft's logical clock (§5.1). Zero is before the first term.
    Term
}

number! {
    /// A position in the log. The first entry is at index 1 (§5.3); zero is before the log.
    LogIndex
}

number! {
    /// Names a proposal, a read or an administrative request. Chosen by the caller, echoed in the outcome.
    ///
    /// The caller must not have two pending requests with the same ticket, whatever their kinds.
    Ticket
}

impl Term {
    /// Before the first term.
    pub const ZERO: Self = Self(0);
    /// The term in which a cluster is bootstrapped. Nobody is elected in it.
    pub const BOOTSTRAP: Self = Self(1);
    /// Terms from here on are refused when a peer or a disk brings them, and no node campaigns for one, so
    /// that no counter can overflow.
    pub const LIMIT: Self = Self(1 << 62);
    /// A message of a term further ahead than this is refused: no cluster holds so many elections while a node
    /// is away, and one stray message must not use up the terms of all.
    pub const JUMP_MAX: u64 = 1 << 32;

    /// The following term. `None` at [`Term::LIMIT`].
    #[must_use]
    pub fn next(self) -> Option<Self> {
        let next = Self(self.0.saturating_add(1));
        (next < Self::LIMIT).then_some(next)
    }
}

impl LogIndex {
    /// Before the first entry.
    pub const ZERO: Self = Self(0);
    /// The first entry of a log.
    pub const FIRST: Self = Self(1);
    /// Indexes from here on are refused when a peer or a disk brings them.
    pub const LIMIT: Self = Self(1 << 62);

    /// The following index.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// The index before this one; zero stays zero.
    #[must_use]
    pub const fn prev(self) -> Self {
        Self(self.0.saturating_sub(1))
    }

    /// The index `count` further on.
    #[must_use]
    pub const fn plus(self, count: u64) -> Self {
        Self(self.0.saturating_add(count))
    }

    /// As [`plus`](Self::plus), where the caller knows that it does not overflow.
    #[inline]
    pub(crate) const fn ahead(self, count: u64) -> Self {
        Self(self.0 + count)
    }

    /// How many indexes lie in `(earlier, self]`; zero if `earlier` is not earlier.
    #[must_use]
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// The identity of an entry. The derived order, term first, is the "up-to-date" relation of §5.4.1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct LogId {
    /// The term of the leader that created the entry.
    pub term: Term,
    /// The entry's position.
    pub index: LogIndex,
}

impl LogId {
    /// Before the first entry.
    pub const ZERO: Self = Self { term: Term::ZERO, index: LogIndex::ZERO };

    /// An entry's identity from its parts.
    #[must_use]
    pub const fn new(term: Term, index: LogIndex) -> Self {
        Self { term, index }
    }
}

/// Written `index@term`, as in protocol traces.
impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.index, self.term)
    }
}

impl fmt::Debug for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

macro_rules! minted {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
        pub struct $name(u64);

        impl $name {
            pub(crate) const fn mint(value: u64) -> Self {
                Self(value)
            }

            /// The plain number, for logs and for tables keyed by it.
            #[must_use]
            pub const fn get(self) -> u64 {
                self.0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

minted! {
    /// Names a write to the log store. Minted by the node, in increasing order; starts anew at each start.
    WriteId
}

minted! {
    /// Names a read from the log store. Minted by the node, in increasing order; starts anew at each start.
    ReadId
}

/// Consecutive tickets: `first`, `first + 1`, … (`count` of them).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Tickets {
    /// The first of them.
    pub first: Ticket,
    /// How many.
    pub count: u32,
}

impl Tickets {
    /// A range from its first ticket and length.
    #[must_use]
    pub const fn new(first: Ticket, count: u32) -> Self {
        Self { first, count }
    }

    /// A single ticket.
    #[must_use]
    pub const fn one(ticket: Ticket) -> Self {
        Self { first: ticket, count: 1 }
    }

    /// Ticket numbers as a half-open range of plain numbers.
    #[must_use]
    pub const fn range(self) -> core::ops::Range<u64> {
        self.first.0..self.first.0.saturating_add(self.count as u64)
    }

    /// What lies before `other`, what they have in common, and what lies behind.
    pub(crate) fn cut(self, other: Self) -> (Option<Self>, Option<Self>, Option<Self>) {
        let (own, other) = (self.range(), other.range());
        let part = |from: u64, to: u64| {
            let count = u32::try_from(to.saturating_sub(from)).ok().filter(|count| *count > 0)?;
            Some(Self::new(Ticket(from), count))
        };
        let start = other.start.clamp(own.start, own.end);
        let end = other.end.clamp(start, own.end);
        (part(own.start, start), part(start, end), part(end, own.end))
    }

    /// Each ticket in turn.
    pub fn iter(self) -> impl Iterator<Item = Ticket> {
        self.range().map(Ticket)
    }
}
