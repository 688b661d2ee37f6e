//! What a driver tells a node. Deliberately exhaustive: a driver that forgets one does not compile.

use alloc::collections::BTreeMap;
use bytes::Bytes;

use crate::entry::{Commands, Entries};
use crate::ids::{LogIndex, NodeId, ReadId, Ticket, Tickets, WriteId};
use crate::message::Message;

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
    /// The state machine holds every entry through this index. Cumulative.
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
    /// Every write that was answered before the read began (thesis §6.4, ReadIndex).
    Linearizable,
}

/// Why a log store did not return what was asked for. A store that fails must not say this: then the driver
/// drops the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum LogReadError {
    /// The first entry asked for is not in the store: truncated since the question was asked.
    #[error("the entries are no longer in the log")]
    Gone,
}
