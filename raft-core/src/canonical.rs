//! Walks over a node's or a message's parts and writes them down so that equal states are equal forms, whenever and by
//! whatever detour they were reached: for those who explore a state space, which otherwise would never close.
//!
//! * Every part is written down as it is, except for those that [`rule`] names. A part that is added later is so too,
//!   until it gets a rule: then states that are equal are told apart, but never two different ones taken for one.
//! * A time becomes its distance from now, and ages beyond every timeout are the same age.
//! * Rounds, and the ids that the core mints, only matter by which is the same and which is later. They are put aside
//!   as [`Name`]s, and become their place among all there are in the cluster.
//! * Left out is what nothing depends on: counters for operators, the source of new ids, the configuration, which an
//!   explorer does not vary, and the source of jitter. Where jitter can matter, this is an abstraction: let
//!   `election_timeout_max` be a nanosecond above the minimum.

mod walk;

use alloc::vec::Vec;

use serde::Serialize;

use crate::ids::NodeId;

pub(crate) use walk::{Walk, put};

/// A number of which only the order among its like counts. The derived order puts the like together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Name {
    /// A generation of a leader's messages.
    Round {
        /// The leader's term.
        term: u64,
        /// Counts up from 1.
        round: u64,
    },
    /// Which of a server's snapshots.
    Snapshot {
        /// As in [`SnapshotId::seq`](crate::SnapshotId::seq).
        seq: u64,
    },
    /// A question to the leader.
    Question {
        /// Of the server that asks.
        incarnation: u64,
        /// Counts up in that life.
        seq: u64,
    },
    /// A write to a server's log store. A report of one stands for all before it.
    Write {
        /// The server.
        node: u64,
        /// Counts up in a life.
        id: u64,
    },
    /// A read from a server's log store.
    Read {
        /// The server.
        node: u64,
        /// Counts up in a life.
        id: u64,
    },
}

impl Name {
    /// The least of its like.
    const fn least(self) -> Self {
        match self {
            Self::Round { term, .. } => Self::Round { term, round: 0 },
            Self::Snapshot { .. } => Self::Snapshot { seq: 0 },
            Self::Question { .. } => Self::Question { incarnation: 0, seq: 0 },
            Self::Write { node, .. } => Self::Write { node, id: 0 },
            Self::Read { node, .. } => Self::Read { node, id: 0 },
        }
    }

    /// The place of this name among its like in `all`, which rise; from 1 on.
    pub(crate) fn place(self, all: &[Self]) -> u64 {
        let before = all.partition_point(|name| *name < self.least());
        let through = all.partition_point(|name| *name <= self);
        match self {
            // Only an answer to a read that is waited for means anything; a write of the past is no write.
            Self::Read { .. } if !all[before..through].ends_with(&[self]) => 0,
            _ => (through - before) as u64,
        }
    }
}

/// Some parts of a cluster as bytes, except for the names in them, which are set apart. Equal parts have equal bytes; and
/// they are the same state if their names compare alike.
///
/// An explorer that keeps the forms of what does not change need not walk over it again: [`Frame`](crate::Frame) is the
/// simple way, which does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Form {
    /// Everything but the names. Times are relative to the node's own.
    pub bytes: Vec<u8>,
    /// The names, in the order of their places in the bytes.
    pub names: Vec<Name>,
    /// What servers 1, 2, … are called instead, as far as this goes: for explorers to whom servers that nothing tells
    /// apart are the same. Sets and peers stay in order.
    pub called: Vec<NodeId>,
    /// From what a node will mint the names that other servers get to see. Two nodes with the same form and source say
    /// the same of what happens to them, names included.
    pub source: Vec<u64>,
}

impl Form {
    /// Forgets everything but what servers are called.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.names.clear();
        self.source.clear();
    }

    /// Adds a message, an event, a write, or whatever else is of the core's vocabulary. `of` is the server in whose driver it is: the ids
    /// of its writes and reads are its own.
    pub fn add(&mut self, of: NodeId, part: &impl Serialize) {
        Walk::over(part, Place { node: of.get(), ..Place::default() }, self);
    }
}

/// What a number means.
#[derive(Clone, Copy)]
enum Kind {
    /// Itself.
    Plain,
    /// Nothing that depends on it.
    Omitted,
    /// Where new names come from.
    Source,
    /// Nanoseconds since an epoch.
    Time,
    /// The same, and all the past is one.
    Due,
    /// A round of the term that was met last.
    Round,
    /// A term to which the rounds that follow in this struct belong.
    RoundsOfTerm,
    Write,
    Read,
    SnapshotSeq,
    Incarnation,
    QuestionSeq,
    /// The name of a server.
    Server,
    /// Each element begins with the name of a server, and they are in the order of these.
    ByServer,
    /// Bytes counted from an arbitrary start: rising, then the start itself.
    Running,
    RunningStart,
    /// Each element of a tuple its own.
    Each(&'static [Self]),
}

/// What the field of a struct, or of a variant, means.
fn rule(of: &str, field: &str) -> Kind {
    match (of, field) {
        // Ids of writes and reads never leave a server.
        ("Shared", "config" | "now" | "rng" | "counters") | ("Durability" | "LogReads", "next_id") => {
            Kind::Omitted
        }
        ("Snapshots", "incarnation" | "taken") | ("Questions", "incarnation" | "next_seq") => Kind::Source,
        (
            "Leader" | "Follower" | "Progress" | "Waiting" | "Asked" | "Farewell" | "Receiving" | "InFlight"
            | "Body",
            "round",
        )
        | ("Progress", "added" | "match_round")
        | ("Lost", "found")
        | ("Handover", "sent")
        | ("Sending", "answered") => Kind::Round,
        ("Message" | "Handover" | "Receiving", "term") => Kind::RoundsOfTerm,
        ("Questions", "again")
        | ("Pace", "rest_until")
        | ("InFlight", "lost_at")
        | ("Lacking", "until")
        | ("Sending", "begins_by")
        | ("Snapshots", "wanted") => Kind::Due,
        ("Follower", "replied") | ("RoundTimes", "rounds") => Kind::Each(&[Kind::Round, Kind::Plain]),
        ("SnapshotId", "seq") => Kind::SnapshotSeq,
        ("QuestionId", "incarnation") => Kind::Incarnation,
        ("QuestionId", "seq") => Kind::QuestionSeq,
        ("Leader", "peers") => Kind::ByServer,
        ("Backlog", "ends") => Kind::Each(&[Kind::Plain, Kind::Running]),
        ("Backlog", "start_bytes") => Kind::RunningStart,
        _ => Kind::Plain,
    }
}

/// Where a walk begins.
#[derive(Clone, Copy, Default)]
pub(crate) struct Place {
    /// Whose writes and reads it meets.
    pub(crate) node: u64,
    /// Whose rounds.
    pub(crate) term: u64,
    pub(crate) now: u64,
    /// No timeout is longer.
    pub(crate) timeout_max: u64,
}
