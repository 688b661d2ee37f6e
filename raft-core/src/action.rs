//! What a node tells its driver. Deliberately exhaustive: a driver that forgets one does not compile.
//!
//! **If you can see it, you may do it**: an action is handed out only when performing it at once is safe.
//! Order exists only within a lane: [`Action::Log`] for the log store, [`Action::Machine`] for the state
//! machine, each a FIFO. Everything else has none.

use alloc::sync::Arc;
use bytes::Bytes;

use crate::entry::Entries;
use crate::ids::{LogId, LogIndex, NodeId, ReadId, Term, Ticket, Tickets, WriteId};
use crate::membership::Membership;
use crate::message::Message;
use crate::snapshot::{SnapshotError, SnapshotId, SnapshotMeta};

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
    /// For the snapshot store. Writes and forgets in order, one write at a time; reads have no order.
    Snapshot(SnapshotTask),
    /// Whom to connect to. Comes at the start, before the first message to a new peer, and once a peer that left the
    /// cluster need not be reached any more. `nodes` names them all; who is leaving is in it, and in no set.
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
    /// Entries through this one may be dropped; the log then begins behind it. Not reported, and may be forgotten by a
    /// crash: then it comes again. The state machine and a snapshot hold all of it durably.
    Compact {
        /// The last entry to drop, and its term, which the store must be able to tell at recovery.
        through: LogId,
    },
}

/// Do in order: save the hard state; drop the whole log and let it begin anew behind `reset_to`; drop every entry from
/// the entries' first index on; append the entries.
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
    /// Drop every entry, whatever its index: the next one has the index after this one's. A snapshot that is durable
    /// already holds everything up to here (§7).
    pub reset_to: Option<LogId>,
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
    /// Replace the state by this snapshot's, which is complete in the snapshot store, then report
    /// [`Event::Applied`](crate::Event::Applied) with its last index (§7).
    Restore(Arc<SnapshotMeta>),
    /// Take a snapshot of the state at this point of the lane (§7). Whatever takes long may happen beside later tasks.
    /// Report [`Event::SnapshotTaken`](crate::Event::SnapshotTaken) once it is durable, with `size_bytes` and `digest`,
    /// which come as zero, filled in.
    TakeSnapshot(Arc<SnapshotMeta>),
    /// Answer these reads from the state machine: all that they must see has been applied before this point.
    Serve(Tickets),
}

/// What happens to snapshots in their store.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum SnapshotTask {
    /// Read a part of a complete snapshot, and report
    /// [`Event::SnapshotChunkRead`](crate::Event::SnapshotChunkRead), whatever came of it: the peer for which it is read gets
    /// no snapshot before.
    Read {
        /// Of which.
        id: SnapshotId,
        /// From where.
        offset: u64,
        /// How much: all of it, except at the snapshot's end.
        bytes_max: u64,
    },
    /// Keep a part of an incoming snapshot, and report
    /// [`Event::SnapshotChunkWritten`](crate::Event::SnapshotChunkWritten). At offset 0 it begins anew. The last one
    /// is reported only when the snapshot is complete, its size and digest are right, and it is durable.
    Write {
        /// Of which.
        meta: Arc<SnapshotMeta>,
        /// Where; always the end of what was written before.
        offset: u64,
        /// What.
        data: Bytes,
        /// Whether the snapshot ends with it.
        done: bool,
    },
    /// This snapshot, complete or not, is of no use any more.
    Forget(SnapshotId),
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
    /// The leadership went to this node, which was seen to lead.
    Transferred {
        /// The new leader.
        to: NodeId,
    },
    /// The leadership ended before the outcome was known: it may happen yet.
    Unknown,
    /// Not done.
    Refused(AdminRefusal),
}

/// Why an administrative request was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum AdminRefusal {
    /// The node already belongs to a cluster that was bootstrapped with another set. Once a snapshot holds a later
    /// configuration that is not known any more: then every set that names the node is answered with `Done`.
    #[error("the node was already bootstrapped with another set of members")]
    NotPristine,
    /// The set of members does not contain this node.
    #[error("the set of members does not contain this node")]
    NotAMember,
    /// Only the leader can do it.
    #[error("the node does not lead")]
    NotLeader {
        /// Who does, if known.
        leader: Option<NodeId>,
    },
    /// Another change of the membership is in progress: it must end or be cancelled first (§6).
    #[error("another membership change is in progress")]
    ChangeInProgress,
    /// A leader changes the membership only once an entry of its own term is committed (TRAP 44). Try again.
    #[error("no entry of the leader's term is committed yet")]
    NoEntryCommitted,
    /// Everything is as asked for already.
    #[error("the membership is already as asked for")]
    NoChange,
    /// Nobody would vote.
    #[error("the membership would have no voters")]
    NoVoters,
    /// The node is not a member, or not one of whom this can be asked.
    #[error("node {0} is unknown")]
    UnknownNode(NodeId),
    /// A new member needs an address.
    #[error("node {0} has no address")]
    NoAddress(NodeId),
    /// A node is asked to be two things at once.
    #[error("node {0} is named twice")]
    NamedTwice(NodeId),
    /// There is no change in progress that could be cancelled.
    #[error("no membership change is in progress")]
    NothingToCancel,
    /// The change can no longer be undone: it will be completed.
    #[error("the membership change can no longer be cancelled")]
    TooLate,
    /// It was cancelled.
    #[error("the membership change was cancelled")]
    Cancelled,
    /// It was given up after its time-out, or replaced when it could not be taken back any more. A transfer is not known to
    /// have happened.
    #[error("timed out")]
    TimedOut,
    /// Another transfer of the leadership is in progress, or took its place: the node is to stop.
    #[error("a transfer of the leadership is in progress")]
    TransferInProgress,
    /// Another node than the one that was asked for leads now.
    #[error("node {0} leads instead")]
    OtherLeader(NodeId),
    /// There is nobody to whom the leadership could go.
    #[error("there is no other voter")]
    NoOtherVoter,
    /// Clocks are relied on, and a leader was heard from a moment ago. Try again.
    #[error("a leader is alive")]
    LeaderAlive,
    /// Nothing was applied since the last snapshot, or one is being taken.
    #[error("there is nothing to take a snapshot of, or one is being taken")]
    NoSnapshotNeeded,
    /// The snapshot could not be taken.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// Too many requests are pending. Try again later.
    #[error("too many administrative requests are pending")]
    Busy,
    /// Only a voter campaigns, or who was asked for a vote that its newer log forbids (thesis §4.2.2).
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
#[derive(Clone, Debug, PartialEq, Eq)]
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
    /// A snapshot was taken here or installed from the leader (§7).
    Snapshot {
        /// The last entry that it replaces.
        last: LogId,
        /// The server that took it.
        taken_by: NodeId,
    },
    /// A snapshot could not be taken, read or written.
    SnapshotFailed(SnapshotError),
    /// A leader steps down, or a change of the membership is undone, because it hears no majority.
    MajorityMissing {
        /// Who was not heard from.
        silent: Arc<[NodeId]>,
    },
    /// A change of the membership is given up because new voters did not catch up in time.
    ChangeTimedOut {
        /// Who did not. Nobody, if they did and a majority of those who are to vote was not heard from.
        behind: Arc<[NodeId]>,
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
