//! What a driver tells a node. Deliberately exhaustive: a driver that forgets one does not compile.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use bytes::Bytes;

use crate::entry::{Commands, Entries};
use crate::ids::{LogIndex, NodeId, ReadId, Ticket, Tickets, WriteId};
use crate::membership::MembershipChange;
use crate::message::Message;
use crate::snapshot::{SnapshotError, SnapshotId, SnapshotMeta};

/// Something that happened outside the node.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Event {
    /// The deadline may have passed; spurious is fine. Only this fires timers.
    Wake,
    /// A message arrived from the node that it names as its sender.
    Receive(Message),
    /// This write and all before it are durable: after fsync. Cumulative.
    Persisted(WriteId),
    /// The state machine holds every entry through this index. Cumulative; after a
    /// [`MachineTask::Restore`](crate::MachineTask::Restore), the snapshot's last index.
    Applied(LogIndex),
    /// The outcome of [`Action::ReadLog`](crate::Action::ReadLog).
    LogRead {
        /// The id that the action carried.
        read: ReadId,
        /// A non-empty beginning of what was asked for, or why there is none.
        result: Result<Entries, LogReadError>,
    },
    /// Clients propose commands. Command `i` has ticket `first + i`; contiguous in the log, not atomic.
    ///
    /// Each ticket gets exactly one [`Response::Write`](crate::Response::Write).
    Propose {
        /// The first command's ticket.
        first: Ticket,
        /// The commands.
        commands: Commands,
    },
    /// Clients want to read the state machine. Ends in [`MachineTask::Serve`](crate::MachineTask::Serve) or
    /// in a [`Response::Read`](crate::Response::Read), once for each ticket.
    Read {
        /// The reads.
        tickets: Tickets,
        /// What they must see.
        consistency: ReadConsistency,
    },
    /// Changes who takes part (§6). The outcome comes when the last configuration of the change is committed.
    ChangeMembership {
        /// Echoed in the outcome.
        ticket: Ticket,
        /// What to change.
        change: Box<MembershipChange>,
    },
    /// Hands the leadership to another voter (thesis §3.10). Proposals are `Busy` until the target has the whole log: it is
    /// given up when that gets no further for `election_timeout_max`, or takes
    /// [`Config::handover_max`](crate::Config::handover_max).
    TransferLeadership {
        /// Echoed in the outcome.
        ticket: Ticket,
        /// To whom; `None` for the voter whose log is longest.
        to: Option<NodeId>,
    },
    /// This server is about to stop: if it leads, it hands over first and then follows, so that nobody waits for an
    /// election timeout, unless the transfer has to be given up.
    StepDown {
        /// Echoed in the outcome. `Done`, `Transferred` and `TimedOut` say that it does not lead.
        ticket: Ticket,
    },
    /// An operator wants a snapshot of the state machine now (§7).
    TakeSnapshot {
        /// Echoed in the outcome, once the snapshot is durable.
        ticket: Ticket,
    },
    /// The outcome of [`MachineTask::TakeSnapshot`](crate::MachineTask::TakeSnapshot): complete and durable, with its
    /// size and digest filled in; or why there is none.
    SnapshotTaken(Result<Arc<SnapshotMeta>, SnapshotError>),
    /// The outcome of [`SnapshotTask::Read`](crate::SnapshotTask::Read).
    SnapshotChunkRead {
        /// Of which snapshot.
        id: SnapshotId,
        /// From where.
        offset: u64,
        /// Its bytes from there on, at least one unless the snapshot ends there.
        result: Result<Bytes, SnapshotError>,
    },
    /// The outcome of [`SnapshotTask::Write`](crate::SnapshotTask::Write). For the last chunk it also means: complete,
    /// its size and digest as announced, and durable.
    SnapshotChunkWritten {
        /// Of which snapshot.
        id: SnapshotId,
        /// From where.
        offset: u64,
        /// Why it was not kept.
        result: Result<(), SnapshotError>,
    },
    /// Gives a pristine cluster its first configuration. Safe on all of its nodes at once, with the same set.
    Bootstrap {
        /// Echoed in the outcome.
        ticket: Ticket,
        /// Every voter with its address, this node among them.
        members: BTreeMap<NodeId, Bytes>,
    },
    /// An operator wants an election now.
    Campaign {
        /// Echoed in the outcome.
        ticket: Ticket,
    },
    /// The caller stopped waiting for these proposals or reads: their outcome is `Unknown`, now.
    Forget {
        /// Which; those already answered are ignored.
        tickets: Tickets,
    },
    /// The transport lost its connection to this peer: what was in flight may be gone.
    Unreachable(NodeId),
}

/// What a read must see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum ReadConsistency {
    /// Every write that was answered before the read began, proved by a round of messages (thesis §6.4, ReadIndex).
    /// Also at followers and learners, who ask their leader.
    Linearizable,
    /// The same, proved by the leader's lease instead where there is one (thesis §6.4.1): no message, but it relies on
    /// the clocks as far as [`Config::lease`](crate::Config::lease) says. Without a lease, as `Linearizable`.
    Lease,
}

/// Why a log store did not return what was asked for. A store that fails must not say this: then the driver
/// drops the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum LogReadError {
    /// The first entry asked for is not in the store: truncated or compacted since the question was asked.
    #[error("the entries are no longer in the log")]
    Gone,
}
