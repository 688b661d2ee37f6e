//! What a node tells its driver. Deliberately exhaustive: a driver that forgets one does not compile.
//!
//! **If you can see it, you may do it**: an action is handed out only when performing it at once is safe.
//! Order exists only within a lane: [`Action::Log`] for the log store, [`Action::Machine`] for the state
//! machine, each a FIFO. Everything else has none.

use alloc::sync::Arc;

use crate::entry::Entries;
use crate::ids::{LogId, LogIndex, NodeId, ReadId, Term, Ticket, Tickets, WriteId};
use crate::membership::Membership;
use crate::message::Message;

/// Something to do.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Action {
    /// For the log store, in order.
    Log(LogTask),
    /// For the state machine, in order.
    Machine(MachineTask),
    /// Send it, or lose it. Whatever durability it speaks of has been reported.
    Send(Message),
    /// Answer clients.
    Respond(Response),
    /// Read entries `[from, through]` from the log store, about `bytes_max` bytes of them but one entry at
    /// least, and report [`Event::LogRead`](crate::Event::LogRead). They are durable.
    ReadLog {
        /// To be echoed.
        read: ReadId,
        /// The first entry wanted.
        from: LogIndex,
        /// The last entry wanted, inclusive.
        through: LogIndex,
        /// Where to stop.
        bytes_max: u64,
    },
    /// Whom to connect to. Comes at the start, and before the first message to a new peer.
    Peers(Arc<Membership>),
    /// For metrics and logs; may be ignored.
    Notify(Notice),
}

/// The log lane.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum LogTask {
    /// Make this durable, then report [`Event::Persisted`](crate::Event::Persisted).
    Write(Write),
}

/// Do in order: save the hard state; drop every entry from the entries' first index on; append the entries.
///
/// A crash may keep any prefix of the writes not yet reported, the last one cut within its parts, in that
/// order. One fsync may cover several writes; report the last one's id.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[must_use]
pub struct Write {
    /// To be reported when durable.
    pub id: WriteId,
    /// Replaces the stored one.
    pub hard_state: Option<HardState>,
    /// Replace the log from their first index onward. If empty, the log stays as it is.
    pub entries: Entries,
}

/// What must survive a crash beside the log (Figure 2, persistent state). Always written as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct HardState {
    /// Latest term the server has seen.
    pub term: Term,
    /// The candidate that got this server's vote in that term, if any.
    pub voted_for: Option<NodeId>,
}

/// The state-machine lane.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum MachineTask {
    /// Apply committed entries, then report [`Event::Applied`](crate::Event::Applied).
    Apply(Entries),
    /// Answer these reads from the state machine: all that they must see has been applied before this point.
    Serve(Tickets),
}

/// The one outcome of a request.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Response {
    /// Of proposals. Ranges may be split or merged.
    Write {
        /// Which.
        tickets: Tickets,
        /// What became of them.
        outcome: WriteOutcome,
    },
    /// Of reads that were not served.
    Read {
        /// Which.
        tickets: Tickets,
        /// What became of them.
        outcome: ReadOutcome,
    },
    /// Of an administrative request.
    Admin {
        /// Which.
        ticket: Ticket,
        /// What became of it.
        outcome: AdminOutcome,
    },
}

/// What became of proposals.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum WriteOutcome {
    /// Committed: the first at `first`, the others behind it. Comes before the `Apply` that covers them.
    Committed {
        /// Where the range's first command stands in the log.
        first: LogId,
        /// Whether this node's state machine will apply them, so that there will be a response.
        applied_here: bool,
    },
    /// Another leader's entry was committed in their place: they never happened and never will.
    Superseded,
    /// Not proposed: this node does not lead.
    NotLeader {
        /// Who does, if known.
        leader: Option<NodeId>,
    },
    /// Not proposed: limits are reached. Try again later.
    Busy,
    /// They may or may not be committed later.
    Unknown,
    /// Not proposed, and never will be.
    Refused(WriteRefusal),
}

/// Why a proposal can never be accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum WriteRefusal {
    /// A command is longer than the configuration allows.
    #[error("the command has {bytes} bytes, more than the {bytes_max} allowed")]
    TooLarge {
        /// Its length.
        bytes: u64,
        /// The configured limit.
        bytes_max: u64,
    },
    /// The log has no index left.
    #[error("the log is full")]
    LogFull,
}

/// What became of reads that were not served.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum ReadOutcome {
    /// This node does not lead, or lost its leadership before it could prove it.
    NotLeader {
        /// Who leads, if known.
        leader: Option<NodeId>,
    },
    /// Too many reads are pending. Try again later.
    Busy,
    /// The caller stopped waiting.
    Unknown,
}

/// What became of an administrative request.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum AdminOutcome {
    /// Done, durably.
    Done,
    /// Not done.
    Refused(AdminRefusal),
}

/// Why an administrative request was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum AdminRefusal {
    /// The node already belongs to a cluster that was bootstrapped with another set.
    #[error("the node was already bootstrapped with another set of members")]
    NotPristine,
    /// The set of members does not contain this node.
    #[error("the set of members does not contain this node")]
    NotAMember,
    /// Only a voter campaigns.
    #[error("the node is not a voter")]
    NotAVoter,
    /// It leads already.
    #[error("the node is the leader already")]
    AlreadyLeader,
    /// An earlier vote or term is not durable yet. Try again.
    #[error("the node's hard state is still being written")]
    NotDurable,
    /// The last term has been reached.
    #[error("no term is left")]
    NoTermLeft,
}

/// What operators may want to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Notice {
    /// The node's role or term changed.
    Role {
        /// The role it has now.
        role: RoleKind,
        /// Its term.
        term: Term,
    },
    /// The leader it knows changed.
    Leader {
        /// The leader, if known.
        leader: Option<NodeId>,
        /// In this term.
        term: Term,
    },
    /// A configuration came into force, or an earlier one did again.
    Membership {
        /// Where it stands in the log.
        index: LogIndex,
    },
    /// A peer's message would prove that Raft's safety is broken: it was refused. Operators must see this: a
    /// peer lost its disk, shares its id with another, or is not what it claims to be.
    Violation {
        /// The sender.
        peer: NodeId,
        /// What it would prove.
        kind: Violation,
    },
}

/// What a refused message would have proved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Violation {
    /// A second leader in one term (Election Safety, §5.2).
    SecondLeader(Term),
    /// A committed entry replaced by another (Leader Completeness, §5.4).
    CommittedEntryChanged(LogIndex),
    /// A peer no longer holds what it acknowledged as durable: its disk was replaced, emptied or rolled back. Stop
    /// that node.
    AcknowledgedEntryLost(LogIndex),
}

/// The roles of Figure 4, and the pre-candidate of thesis §9.6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum RoleKind {
    /// Issues no requests, answers leaders and candidates.
    Follower,
    /// Asks whether it would be elected.
    PreCandidate,
    /// Asks for votes.
    Candidate,
    /// Handles all client requests.
    Leader,
}
