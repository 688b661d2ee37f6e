//! Why a write, a read or an administrative request has no result.

use std::fmt;

use bytes::Bytes;
use raft_core::host::{Rejection, Unacceptable};
use raft_core::{AdminOutcome, AdminRefusal, LogId, Membership, NodeId, WriteRefusal};

use super::{Advice, Certainty};

/// Why a write has no result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// Did not happen: this node does not lead. Ask the leader.
    #[error("this node does not lead; the leader is {}", Leader(*leader))]
    NotLeader {
        /// Who leads, if known.
        leader: Option<NodeId>,
        /// The leader's address as the membership has it.
        address: Option<Bytes>,
        /// The command, to be tried elsewhere.
        command: Bytes,
    },
    /// Did not happen: limits are reached. Try again later.
    #[error("too much is pending; try again later")]
    Busy {
        /// The command, to be tried again.
        command: Bytes,
    },
    /// Did not happen: another leader's entry was committed in its place. Trying again is safe.
    #[error("another leader's entry was committed in its place")]
    Superseded {
        /// The command, to be tried again.
        command: Bytes,
    },
    /// Did not happen, and never can.
    #[error("refused: {refusal}")]
    Refused {
        /// Why.
        refusal: WriteRefusal,
        /// The command.
        command: Bytes,
    },
    /// Did not happen, and never can: the state machine could only fail on it, on every node.
    #[error("no command of this state machine: {why}")]
    Invalid {
        /// What is wrong with it: see [`StateMachine::check`](raft_core::host::StateMachine::check).
        why: Unacceptable,
        /// The command.
        command: Bytes,
    },
    /// Did not happen: the node has stopped; [`Raft::stop_reason`](crate::Raft::stop_reason) says why.
    #[error("the node has stopped")]
    Stopped {
        /// The command, to be tried elsewhere.
        command: Bytes,
    },
    /// It may happen or not: the limit passed, the node stopped, or an answer was lost.
    #[error("it is unknown whether the command is or will be committed")]
    Unknown,
    /// It is committed, and every machine will apply it, but this node has no response for it.
    #[error("committed at {id}, but the response is lost")]
    ResponseLost {
        /// Where it stands in the log.
        id: LogId,
    },
}

impl WriteError {
    /// What a caller is told whose `command` has this `rejection`.
    #[must_use]
    pub fn new(rejection: Rejection, command: Bytes) -> Self {
        match rejection {
            Rejection::NotLeader { leader, address } => Self::NotLeader { leader, address, command },
            Rejection::Busy => Self::Busy { command },
            Rejection::Superseded => Self::Superseded { command },
            Rejection::Refused(refusal) => Self::Refused { refusal, command },
            Rejection::Invalid(why) => Self::Invalid { why, command },
            Rejection::Stopped => Self::Stopped { command },
            Rejection::Unknown => Self::Unknown,
            Rejection::ResponseLost(id) => Self::ResponseLost { id },
        }
    }

    /// What is known about the command.
    #[must_use]
    pub const fn certainty(&self) -> Certainty {
        match self {
            Self::NotLeader { .. }
            | Self::Busy { .. }
            | Self::Superseded { .. }
            | Self::Refused { .. }
            | Self::Invalid { .. }
            | Self::Stopped { .. } => Certainty::DidNotHappen,
            Self::Unknown => Certainty::Unknown,
            Self::ResponseLost { .. } => Certainty::Happened,
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn advice(&self) -> Advice {
        match self {
            Self::NotLeader { leader, address, .. } => Advice::ask(*leader, address.as_ref()),
            Self::Busy { .. } | Self::Superseded { .. } => Advice::RetryLater,
            Self::Refused { .. } | Self::Invalid { .. } | Self::Stopped { .. } => Advice::GiveUp,
            Self::Unknown => Advice::OutcomeUnknown,
            Self::ResponseLost { .. } => Advice::Done,
        }
    }

    /// The command, if it certainly did not happen.
    #[must_use]
    pub fn into_command(self) -> Option<Bytes> {
        match self {
            Self::NotLeader { command, .. }
            | Self::Busy { command }
            | Self::Superseded { command }
            | Self::Refused { command, .. }
            | Self::Invalid { command, .. }
            | Self::Stopped { command } => Some(command),
            Self::Unknown | Self::ResponseLost { .. } => None,
        }
    }
}

/// Why a read was not served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// There is no leader that could answer for it, or it changed meanwhile. Ask again, or ask the leader.
    #[error("no leader answered for the read; the leader is {}", Leader(*leader))]
    NotLeader {
        /// Who leads, if known.
        leader: Option<NodeId>,
        /// The leader's address as the membership has it.
        address: Option<Bytes>,
    },
    /// Too many reads are pending. Try again later.
    #[error("too many reads are pending; try again later")]
    Busy,
    /// The closure panicked. The node goes on: a reader cannot change the state machine.
    #[error("the read closure panicked")]
    Panicked,
    /// The limit of [`Raft::within`](crate::Raft::within) passed.
    #[error("the read was not served in time")]
    TimedOut,
    /// The node has stopped; [`Raft::stop_reason`](crate::Raft::stop_reason) says why.
    #[error("the node has stopped")]
    Stopped,
}

impl ReadError {
    /// What to do about it. A read can be tried again as often as one likes.
    #[must_use]
    pub fn advice(&self) -> Advice {
        match self {
            Self::NotLeader { leader, address } => Advice::ask(*leader, address.as_ref()),
            Self::Busy | Self::TimedOut => Advice::RetryLater,
            Self::Panicked | Self::Stopped => Advice::GiveUp,
        }
    }
}

impl From<Rejection> for ReadError {
    fn from(rejection: Rejection) -> Self {
        match rejection {
            Rejection::NotLeader { leader, address } => Self::NotLeader { leader, address },
            Rejection::Busy => Self::Busy,
            // No read is refused for the other reasons; all that is known is that there is no answer.
            Rejection::Superseded
            | Rejection::Refused(_)
            | Rejection::Invalid(_)
            | Rejection::Stopped
            | Rejection::Unknown
            | Rejection::ResponseLost(_) => Self::Stopped,
        }
    }
}

/// Why an administrative request was not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AdminError {
    /// Not done: only the leader can do it.
    #[error("this node does not lead; the leader is {}", Leader(*leader))]
    NotLeader {
        /// Who leads, if known.
        leader: Option<NodeId>,
        /// The leader's address as the membership has it.
        address: Option<Bytes>,
    },
    /// Not done.
    #[error(transparent)]
    Refused(#[from] AdminRefusal),
    /// The leadership ended, or the limit passed, before the outcome was known: it may happen yet.
    #[error("it is unknown whether it was or will be done")]
    Unknown,
    /// The node stopped before it answered: done or not, nobody knows.
    #[error("the node has stopped")]
    Stopped,
}

impl AdminError {
    /// What to do about it.
    #[must_use]
    pub fn advice(&self) -> Advice {
        use AdminRefusal as R;
        match self {
            Self::NotLeader { leader, address } => Advice::ask(*leader, address.as_ref()),
            Self::Refused(refusal) => match refusal {
                R::NotLeader { leader } => Advice::ask(*leader, None),
                R::ChangeInProgress
                | R::NoEntryCommitted
                | R::TimedOut
                | R::TransferInProgress
                | R::LeaderAlive
                | R::Busy
                | R::NotDurable => Advice::RetryLater,
                R::NotPristine
                | R::NotAMember
                | R::NoChange
                | R::NoVoters
                | R::UnknownNode(_)
                | R::NoAddress(_)
                | R::NamedTwice(_)
                | R::NothingToCancel
                | R::TooLate
                | R::Cancelled
                | R::OtherLeader(_)
                | R::NoOtherVoter
                | R::NoSnapshotNeeded
                | R::Snapshot(_)
                | R::NotAVoter
                | R::AlreadyLeader
                | R::NoTermLeft => Advice::GiveUp,
            },
            Self::Unknown | Self::Stopped => Advice::OutcomeUnknown,
        }
    }

    /// What a caller is told of an outcome: who leads now, if the leadership was transferred. `membership` is the node's,
    /// for the leader's address.
    ///
    /// # Errors
    /// If it was not done, or nobody knows.
    pub fn of(outcome: AdminOutcome, membership: &Membership) -> Result<Option<NodeId>, Self> {
        match outcome {
            AdminOutcome::Done => Ok(None),
            AdminOutcome::Transferred { to } => Ok(Some(to)),
            AdminOutcome::Unknown => Err(Self::Unknown),
            AdminOutcome::Refused(AdminRefusal::NotLeader { leader }) => {
                let address = leader.and_then(|leader| membership.nodes.get(&leader).cloned());
                Err(Self::NotLeader { leader, address })
            }
            AdminOutcome::Refused(refusal) => Err(refusal.into()),
        }
    }
}

struct Leader(Option<NodeId>);

impl fmt::Display for Leader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(leader) => write!(f, "node {leader}"),
            None => f.write_str("unknown"),
        }
    }
}
